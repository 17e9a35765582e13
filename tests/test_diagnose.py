"""diagnose: a trace of twelve rows whose every number is worked by hand, missing columns, empty
groups, broken values."""
import math
import warnings

import numpy as np
import pytest

from tta_lab.analysis import diagnose as D
from tta_lab.core.trace import Trace

NAN = math.nan
# row:                   0     1     2     3     4     5     6     7     8     9    10    11
ROWS = {
    "step":             [0,    0,    0,    1,    1,    1,    2,    2,    2,    3,    3,    3],
    "round":            [0,    0,    0,    0,    0,    0,    1,    1,    1,    1,    1,    1],
    "domain":           [0,    0,    0,    1,    1,    1,    0,    0,    0,    1,    1,    1],
    "label":            [0,    1,    4,    2,    3,    4,    0,    1,    4,    2,    3,    4],
    "known":            [True, True, False] * 4,
    "prediction":       [0,    2,    1,    2,    3,    0,    0,    0,    0,    0,    0,    0],
    "confidence":       [.95,  .60,  .92,  .80,  .50,  .40,  .99,  .97,  .91,  .70,  .93,  .85],
    "entropy":          [.20,  .90,  .30,  .50,  1.2,  1.3,  .05,  .10,  .35,  .80,  .25,  .45],
    "rise_source":      [.0,   .0,   .1,   .2,   -.1,  -.3,  .3,   -.4,  -.5,  -.2,  .1,   -.1],
    "energy":           [9.,   4.,   3.,   5.,   6.,   2.,   8.,   4.,   1.,   7.,   3.,   4.],
    "max_logit":        [8.,   3.,   2.,   4.,   5.,   1.,   7.,   3.,   0.,   9.,   2.,   3.],
    "source_prediction": [0,   2,    1,    1,    3,    1,    0,    1,    0,    2,    3,    1],
    "kept":             [1,    0,    1,    1,    0,    0,    1,    1,    0,    0,    1,    0],
}
# correct: rows 0 3 4 | 6   wrong: rows 1 | 7 9 10   unknown: rows 2 5 | 8 11   (round 0 | round 1)
STEPS = {"step": [0, 1, 2, 3], "marginal_entropy": [math.log(4), math.log(3), math.log(2.5), 0.0]}


def trace(rows=None, without=(), steps=STEPS, **changes):
    rows = {k: np.array(v) for k, v in ROWS.items() if k not in without} if rows is None else rows
    return Trace.from_columns(rows | {k: np.array(v) for k, v in changes.items()}, steps,
                              {"classes": 4, "domains": ["fog", "snow"]})


def part(chosen):
    """Only some rows of the trace."""
    return trace({k: np.array(v)[np.array(chosen, dtype=int)] for k, v in ROWS.items()})


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def same(values, expected):
    np.testing.assert_allclose(values, expected, rtol=1e-12, equal_nan=True)


def test_groups_share_out_the_images():
    masks = D.groups(trace())
    rows = {g: np.flatnonzero(mask).tolist() for g, mask in masks.items()}
    assert rows == {"correct": [0, 3, 4, 6], "wrong": [1, 7, 9, 10], "unknown": [2, 5, 8, 11]}


def test_errors_count_known_images_only():
    rounds = D.error_per_round(trace())
    same(rounds["error"], [25, 75])
    assert rounds["round"].tolist() == [0, 1] and rounds["n"].tolist() == [4, 4]
    domains = D.error_per_domain(trace())
    same(domains["by_round"], [[50, 0], [50, 100]])
    same(domains["error"], [50, 50])
    assert domains["domain"] == ["fog", "snow"
                                 ] and domains["n"].tolist() == [4, 4] and domains["mean"] == 50


def test_mean_over_domains_is_not_weighted_by_their_size():
    # fog: rows 0 1 6 7, half wrong; snow: row 3 alone, right. 25, not the 40 of all five together
    assert D.error_per_domain(part([0, 1, 6, 7, 3]))["mean"] == 25


def test_rise_and_fall():
    # falling: rows 4 (correct), 5 (unknown) | 7 w, 8 u, 9 w, 11 u
    out = D.rise_and_fall(trace())
    assert out["falling"].tolist() == [2, 4] and out["n"].tolist() == [6, 6]
    same(out["falling_share"], [2 / 6, 4 / 6])
    same([out["among_falling"][g] for g in D.GROUPS], [[1 / 2, 0], [0, 1 / 2], [1 / 2, 1 / 2]])
    same([out["within_group"][g] for g in D.GROUPS], [[1 / 3, 0], [0, 2 / 3], [1 / 2, 1]])
    assert [out["counts"][g].tolist() for g in D.GROUPS] == [[1, 0], [0, 2], [1, 2]]


def test_flips():
    # class changes in rows 3 (1 -> 2, right, rises), 5 (unknown, falls) | 7 (1 -> 0, harmful,
    # falls), 9 (2 -> 0, harmful, falls),
    # 10 (3 -> 0, harmful, rises), 11 (unknown, falls); the rest keeps its class, of which
    # rows 4 and 8 fall
    out = D.flips(trace())
    assert [out["count"][kind].tolist() for kind in D.FLIPS] == [[1, 0], [0, 3], [0, 0], [1, 1],
                                                                 [4, 2]]
    same([out["dropped"][kind] for kind in D.FLIPS],
         [[0, NAN], [NAN, 2 / 3], [NAN, NAN], [1, 1], [1 / 4, 1 / 2]])
    same(out["lost"], [0, 0])
    # row 3 falls: its right change is dropped, one of the three right images of round 0; row
    # 1 goes from one wrong class to another
    rise = ROWS["rise_source"][:3] + [-.05] + ROWS["rise_source"][4:]
    turned = D.flips(
        trace(rise_source=rise, source_prediction=[0, 3] + ROWS["source_prediction"][2:]))
    same([turned["dropped"][kind] for kind in ("right", "other")], [[1, NAN], [0, NAN]])
    same(turned["lost"], [1 / 3, 0])
    same(D.flips(trace(rise_source=rise), tolerance=0.05)["dropped"]["right"], [0, NAN])



def test_rise_histogram():
    out = D.rise_histogram(trace(), bins=4)
    assert out["edges"].tolist() == [-1, -0.5, 0, 0.5, 1]
    assert [out["early"]["counts"][g].tolist() for g in D.GROUPS] == [[0, 1, 2, 0], [0, 0, 1, 0],
                                                                      [0, 1, 1, 0]]
    assert [out["late"]["counts"][g].tolist() for g in D.GROUPS] == [[0, 0, 1, 0], [0, 2, 1, 0],
                                                                     [0, 2, 0, 0]]
    same(out["late"]["share"]["wrong"], [0, 2 / 3, 1 / 3, 0])
    assert out["early"]["rounds"] == [0] and out["late"]["rounds"] == [1] and out["late"]["n"] == {
        "correct": 1, "wrong": 3, "unknown": 2
    }
    both = D.rise_histogram(trace(), early=[0, 1], late=0, bins=4)
    assert both["early"]["counts"]["wrong"].tolist() == [0, 2, 2, 0
                                                         ] and both["late"]["rounds"] == [0]
    assert D.rise_histogram(trace())["edges"][20] == 0
    with pytest.raises(ValueError,
                       match=r"late asks for rounds \[7\], the trace has rounds 0 to 1"):
        D.rise_histogram(trace(), late=7)


def test_entropy_histogram():
    # edges 0, ln 2, ln 4. Steps 0-1: .2 .9 .3 .5 1.2 1.3; steps 2-3: .05 .1 .35 .8 .25 .45
    out = D.entropy_histogram(trace(), windows=2, bins=2)
    same(out["edges"], [0, math.log(2), math.log(4)])
    assert out["counts"].tolist() == [[3, 3], [5, 1]] and out["first_step"].tolist() == [
        0, 2
    ] and out["last_step"].tolist() == [1, 3]
    same(out["share"], [[1 / 2, 1 / 2], [5 / 6, 1 / 6]])
    same(out["median"], [0.7, 0.3])
    assert D.entropy_histogram(trace(), windows=2, bins=2,
                               group="wrong")["counts"].tolist() == [[0, 1], [2, 1]]
    # no more stretches than steps
    assert len(D.entropy_histogram(trace(), windows=50)["median"]) == 4
    broken = D.entropy_histogram(trace(entropy=[NAN] * 6 + ROWS["entropy"][6:]), windows=2, bins=2)
    assert broken["broken"].tolist() == [6, 0] and broken["counts"].tolist() == [[0, 0], [5, 1]]
    same(broken["median"], [NAN, 0.3])
    with pytest.raises(ValueError, match="group must be one of correct, wrong, unknown"):
        D.entropy_histogram(trace(), group="known")


def test_selection_quality():
    # right: rows 0 3 4 | 6.  d >= 0: 0 1 2 3 | 6 10.  confidence > .9: 0 2 | 6 7 8 10.
    # entropy < .4 ln 4 = .5545: 0 2 3 | 6 7 8 10 11.
    # kept: 0 2 3 | 6 7 10.
    out = D.selection_quality(trace())
    same([out["precision"][rule] for rule in D.RULES],
         [[3 / 6, 1 / 6], [2 / 4, 1 / 2], [1 / 2, 1 / 4], [2 / 3, 1 / 5], [2 / 3, 1 / 3]])
    same([out["recall"][rule] for rule in D.RULES],
         [[1, 1], [2 / 3, 1], [1 / 3, 1], [2 / 3, 1], [2 / 3, 1]])
    assert [out["selected"][rule].tolist() for rule in D.RULES] == [[6, 6], [4, 2], [2, 4], [3, 5],
                                                                    [3, 3]]
    assert out["labels"]["rise"] == "d >= 0" and out["labels"]["entropy"] == "entropy < 0.4 ln K"


def test_selection_thresholds_are_options():
    out = D.selection_quality(trace(), tolerance=0.1, confidence=0.6, entropy=0.9,
                              rules=("rise", "confidence", "entropy"))
    # d >= -.1 adds row 4 | 11; confidence > .6 (strict, not row 1): 0 2 3 | all; entropy <
    # 1.2477: all but 5 | all
    assert [out["selected"][rule].tolist() for rule in out["labels"]] == [[5, 3], [3, 6], [5, 6]]
    assert out["labels"]["rise"] == "d >= -0.1"
    with pytest.raises(ValueError, match="no rule 'margin'; choose from none, rise"):
        D.selection_quality(trace(), rules=("margin",))


def test_selection_by_run():
    # each run by what it kept itself: 0 2 3 | 6 7 10 as above, and everything
    out = D.selection_by_run({"filter": trace(), "all": trace(kept=[1] * 12)})
    assert out["labels"] == {"filter": "filter", "all": "all"
                             } and out["selected"]["all"].tolist() == [6, 6]
    same([out["precision"][name] for name in ("filter", "all")], [[2 / 3, 1 / 3], [3 / 6, 1 / 6]])
    same([out["recall"][name] for name in ("filter", "all")], [[2 / 3, 1], [1, 1]])
    with pytest.raises(ValueError, match="cover different rounds: 'short' has 1, 'long' 2"):
        D.selection_by_run({"long": trace(), "short": part([0, 1, 2])})
    with pytest.raises(ValueError, match="no runs"):
        D.selection_by_run({})


def test_marginal_entropy_and_its_signal():
    out = D.marginal_entropy(trace())
    same(out["effective_classes"], [4, 3, 2.5, 1])
    assert out["threshold"] == 2 and out["alarm_step"] == 3 and out["below"].tolist() == [
        False, False, False, True
    ]
    assert D.marginal_entropy(trace(), share=0.7)["alarm_step"] == 2
    assert D.marginal_entropy(trace(), share=0.2)["alarm_step"] == -1
    broken = D.marginal_entropy(trace(steps={"step": [0, 1], "marginal_entropy": [1.3, NAN]}))
    assert broken["alarm_step"] == 1


def test_detection():
    # d, known 0 0 .2 -.1 .3 -.4 -.2 .1 against unknown .1 -.3 -.5 -.1: won 2.5 + 7 + 8 + 5.5
    # = 23 of 32;
    # all eight known pass at -.4, and with them three of four unknown.
    # d, right 0 .2 -.1 .3 against wrong 0 -.4 -.2 .1: 2.5 + 4 + 4 + 2 = 12.5 of 16; at -.1
    # two of four wrong pass.
    # confidence, right .95 .8 .5 .99 against wrong .6 .97 .7 .93: 3 + 1 + 3 + 2 = 9 of 16; at
    # .5 all wrong pass.
    out = D.detection(trace())
    assert out["scores"] == ["rise", "confidence", "max_logit", "energy", "negative_entropy"
                             ] and out["n"] == {"correct": 4, "wrong": 4, "unknown": 4}
    assert out["known_vs_unknown"]["auroc"][0] == pytest.approx(
        23 / 32) and out["known_vs_unknown"]["fpr95"][0] == 3 / 4
    same(out["correct_vs_wrong"]["auroc"][:2], [12.5 / 16, 9 / 16])
    same(out["correct_vs_wrong"]["fpr95"][:2], [2 / 4, 1])
    # energy, known 9 4 5 6 8 4 7 3 against unknown 3 2 1 4: 7.5 + 8 + 8 + (5 + 1) = 29.5 of 32
    assert out["known_vs_unknown"]["auroc"][3] == pytest.approx(29.5 / 32)
    # max logit, known 8 3 4 5 7 3 9 2 against unknown 2 1 0 3: 4 + 3.5 + 4 + 4 + 4 + 3.5 + 4
    # + 2.5 = 29.5 of 32; right 8 4 5 7 against
    # wrong 3 3 9 2: 3 each = 12 of 16
    assert out["known_vs_unknown"]["auroc"][2] == pytest.approx(
        29.5 / 32) and out["correct_vs_wrong"]["auroc"][2] == pytest.approx(12 / 16)
    # negative entropy, right -.2 -.5 -1.2 -.05 against wrong -.9 -.1 -.8 -.25: 3 + 1 + 3 + 2
    # = 9 of 16
    assert out["correct_vs_wrong"]["auroc"][4] == pytest.approx(9 / 16)


def test_detection_in_chosen_rounds():
    # round 1: known .3 -.4 -.2 .1 against unknown -.5 -.1: 4 + 2 = 6 of 8
    out = D.detection(trace(), scores=("rise",), rounds=1)
    same(out["known_vs_unknown"]["auroc"], [6 / 8])
    with pytest.raises(ValueError, match="no score 'margin'"):
        D.detection(trace(), scores=("margin",))


@pytest.mark.parametrize("diagnostic, column, remedy", [
    (D.groups, "correct", "run(adapter, stream)"),
    (D.error_per_round, "round", "run(adapter, stream)"),
    (D.error_per_domain, "domain", "run(adapter, stream)"),
    (D.rise_and_fall, "rise_source", 'Adapter(record="source")'),
    (D.rise_histogram, "rise_source", 'Adapter(record="source")'),
    (D.detection, "rise_source", 'Adapter(record="source")'),
    (D.selection_quality, "rise_source", 'Adapter(record="source")'),
    (D.selection_quality, "kept", 'Adapter(record="light")'),
    (D.entropy_histogram, "entropy", 'Adapter(record="light")'),
    (D.detection, "energy", 'Adapter(record="light")'),
    (D.detection, "max_logit", 'Adapter(record="light")'),
    (D.flips, "source_prediction", 'Adapter(record="source")'),
])
def test_a_missing_column_is_named_with_its_remedy(diagnostic, column, remedy):
    with pytest.raises(ValueError) as caught:
        diagnostic(trace(without=(column, "prediction") if column == "correct" else (column,)))
    assert repr(column) in str(caught.value) and remedy in str(caught.value)


def test_missing_steps_meta_and_half_filled_columns_are_named():
    with pytest.raises(ValueError, match="step column 'marginal_entropy'"):
        D.marginal_entropy(trace(steps={"step": [0]}))
    bare = Trace.from_columns({k: np.array(v) for k, v in ROWS.items()}, STEPS)
    for diagnostic, name in ((D.error_per_domain, "domains"), (D.entropy_histogram, "classes"),
                             (D.marginal_entropy, "classes")):
        with pytest.raises(ValueError, match=rf"trace.meta\['{name}'\]"):
            diagnostic(bare)
    with pytest.raises(ValueError, match="'round' is empty .NaN. in 2 of 12 rows"):
        D.error_per_round(trace(round=[NAN, NAN] + [0.0] * 10))
    with pytest.raises(ValueError, match="names 2"):
        D.error_per_domain(trace(domain=[5] * 12))


def test_what_needs_no_source_works_without_it():
    out = D.selection_quality(trace(without=("rise_source",)), rules=("none", "kept"))
    same(out["precision"]["kept"], [2 / 3, 1 / 3])
    assert len(D.detection(trace(without=("rise_source",)), scores=("confidence",))["labels"]) == 1


def test_empty_groups_give_nan():
    unknown = part([2, 5, 8, 11])
    same(D.error_per_round(unknown)["error"], [NAN, NAN])
    assert math.isnan(D.error_per_domain(unknown)["mean"])
    same(D.rise_and_fall(unknown)["within_group"]["wrong"], [NAN, NAN])
    same(D.selection_quality(unknown)["recall"]["none"], [NAN, NAN])
    known = part([0, 3, 6])
    same(D.detection(known)["known_vs_unknown"]["auroc"], [NAN] * 5)
    same(D.detection(known)["correct_vs_wrong"]["fpr95"], [NAN] * 5)
    same(D.rise_and_fall(known)["among_falling"]["correct"], [NAN, NAN])     # nothing falls
    same(D.rise_histogram(known, bins=2)["early"]["share"]["unknown"], [NAN, NAN])
    # round 0 without a single image still has its place
    same(D.error_per_round(part([6, 7]))["error"], [NAN, 50])


def test_an_empty_trace_gives_empty_numbers():
    empty = trace({k: np.array(v)[:0] for k, v in ROWS.items()},
                  steps={"step": [], "marginal_entropy": []})
    assert D.error_per_round(empty)["error"].shape == (
        0,) and D.error_per_domain(empty)["by_round"].shape == (0, 2)
    assert D.rise_and_fall(empty)["falling"].shape == (
        0,) and D.selection_quality(empty)["precision"]["rise"].shape == (0,)
    assert D.flips(empty)["lost"].shape == (0,)
    assert D.rise_histogram(empty)["early"]["n"] == {"correct": 0, "wrong": 0, "unknown": 0}
    assert D.entropy_histogram(empty)["counts"].shape == (
        0, 30) and D.marginal_entropy(empty)["alarm_step"] == -1
    same(D.detection(empty)["known_vs_unknown"]["auroc"], [NAN] * 5)


def test_a_nan_rise_is_a_fall_unless_the_source_was_not_recorded():
    rise = [NAN, NAN] + ROWS["rise_source"][2:]
    recorded = trace(rise_source=rise, source_confidence=[.5] * 12)
    assert D.rise_and_fall(recorded)["falling"].tolist() == [
        4, 4
    ] and D.rise_and_fall(recorded)["n"].tolist() == [6, 6]
    assert D.rise_histogram(recorded, bins=4)["early"]["counts"]["wrong"].tolist() == [1, 0, 0, 0]
    partly = trace(rise_source=rise, source_confidence=[.5, NAN] + [.5] * 10)
    assert D.rise_and_fall(partly)["falling"].tolist() == [
        3, 4
    ] and D.rise_and_fall(partly)["n"].tolist() == [5, 6]
    same(D.rise_and_fall(partly)["within_group"]["wrong"], [NAN, 2 / 3])
    assert D.selection_quality(partly, rules=("rise",))["selected"]["rise"].tolist() == [2, 2]


def test_a_score_that_is_nan_throughout_is_undefined_not_chance():
    out = D.detection(trace(energy=[NAN] * 12), scores=("energy", "confidence"))
    assert math.isnan(
        out["known_vs_unknown"]["auroc"][0]) and not math.isnan(out["known_vs_unknown"]["auroc"][1])


def test_images_without_a_label():
    """Three of nine images lose their label: errors are those of the rest; with none left, what
    needs labels says so and the rest works."""
    half = {k: np.array(v) for k, v in ROWS.items()}
    known = np.array(half["known"], bool)
    some = np.flatnonzero(known)[:2]
    half["label"] = half["label"].astype(float)
    half["label"][some] = -1
    partly = trace(half)
    kept = trace({k: np.delete(v, some) for k, v in half.items()})
    same(D.error_per_round(partly)["error"], D.error_per_round(kept)["error"])
    assert D.groups(partly)["wrong"].sum() + D.groups(partly)["correct"].sum() == known.sum() - 2
    half["label"][known] = -1
    bare = trace(half)
    for question in (D.error_per_round, D.error_per_domain, D.selection_quality, D.detection,
                     D.flips):
        with pytest.raises(ValueError, match="none of the .* known images of this run has a label"):
            question(bare)
    same(D.rise_and_fall(bare)["falling"], D.rise_and_fall(trace(ROWS))["falling"])
    assert D.entropy_histogram(bare)["counts"].sum() > 0
