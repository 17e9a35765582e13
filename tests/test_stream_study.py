"""The study of streams: same images in another order, differences with their errors, sentences that
follow the numbers."""
import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from tta_lab.experiments.published_numbers import published
from tta_lab.streams import protocols
from tta_lab.streams.images import UNKNOWN_ID
from tta_lab.streams.orders import SortedByClass
from tta_lab.studies.streams import study as S

pytest.importorskip("pandas")
TINY = S.Plan(per_shift=4, batch=8, lr=1e-2, seeds=2, alone=1)


@pytest.fixture(scope="module")
def result():
    return S.study(TINY, device="cpu")


# --- the plan

def test_same_images_in_another_order():
    streams = TINY.streams(3)
    shown = {name: sorted((int(i), int(s)) for a in streams[name].plan()
                          for i, s in zip(a.ids, a.segment, strict=True) if i < UNKNOWN_ID)
             for name in S.SAME_IMAGES}
    assert (all(pairs == shown["continual"] for pairs in shown.values())
            and len(shown["continual"]) == 15 * 4)
    assert (isinstance(streams["sorted"].order, SortedByClass)
            and streams["reset_each_shift"].reset == "domain")
    assert streams["batch_of_one"].batch == 1 and streams["batch_of_one"].n_images == 15
    assert streams["gradual"].n_images == 15 * 9 and streams["gradual"].straddle
    assert set(streams) | {"label_shift, group norm"} == set(S.LABELS)


def test_plan_of_a_mode_and_its_words():
    assert S.Plan.of(True) == S.FAST and S.Plan.of(False, per_shift=0) == S.FULL
    assert S.Plan.of(True, batch=7, first_seed=4) == replace(S.FAST, batch=7, first_seed=4)
    with pytest.raises(ValueError, match="a plan has no setting 'rounds'; it has: per_shift, "):
        S.Plan.of(True, rounds=3)
    with pytest.raises(ValueError, match="at least 1 seed, got 0"):
        S.Plan(seeds=0)
    assert ("must not be compared" in " ".join(S.FAST.describe().split())
            and "must not be compared" not in S.FULL.describe())
    assert "seeds 0, 1" in TINY.describe()


# --- the runs

def test_what_must_hold_for_any_numbers(result):
    for seed in (0, 1):
        for name in S.SAME_IMAGES:
            assert result.at(name, "source", seed) == result.at("continual", "source", seed)
        assert result.at("reset_each_shift", "batch_norm", seed) == result.at("continual",
                                                                              "batch_norm", seed)
        assert result.at("label_shift, group norm", "source", seed) != result.at("label_shift",
                                                                                 "source", seed)
    assert len(result.table) == 2 * (3 * 10 + 2) and result.protocols == list(S.LABELS)
    table = result.table.set_index(["stream", "recipe", "seed"])["error_weighted"]
    for key, wrong in result.wrong.items():   # counted image by image, it is the table's error
        assert 100 * wrong.mean() == pytest.approx(table[key])
    assert (len(result.values("continual", "tent")) == 2
            and result.error("continual", "tent") == result.values("continual", "tent").mean())


def test_one_run_is_a_run_of_the_study(result):
    trace = S.one_run(TINY.streams(0)["continual"], "tent", TINY.lr, device="cpu")
    wrong = ~np.asarray(trace["correct"], bool)
    np.testing.assert_array_equal(wrong, result.wrong["continual", "tent", 0])
    with pytest.raises(ValueError,
                       match="method must be one of source, batch_norm, tent, not 'lame'"):
        S.one_run(TINY.streams(0)["continual"], "lame")


# --- differences and sentences

def made_up(**wrong):
    """A study of one protocol "a" and one "b" with these mistakes."""
    found = S.Study(TINY)
    found.wrong = {(key[0], {"s": "source", "b": "batch_norm"}[key[1]], int(key[2])): np.array(
                       values, bool) for key, values in wrong.items()}
    return found


def test_difference_is_paired_within_a_stream_and_unpaired_between_streams():
    study = made_up(as0=[1, 1, 1, 0], ab0=[1, 1, 0, 0], bs0=[1, 0, 0, 0])
    points, error = S.difference(study, ((1, "a", "source"), (-1, "a", "batch_norm")))
    # differences 0 0 1 0: variance 1/4
    assert (points, error) == (25.0, pytest.approx(100 * math.sqrt(0.25 / 4)))
    points, error = S.difference(study, ((1, "a", "source"), (-1, "b", "source")))
    # each has variance 1/4
    assert (points, error) == (50.0, pytest.approx(100 * math.sqrt(2 * 0.25 / 4)))
    two = made_up(as0=[1, 1, 1, 0], ab0=[1, 1, 0, 0], as1=[1, 0, 0, 0], ab1=[1, 1, 1, 0])
    points, error = S.difference(two, ((1, "a", "source"), (-1, "a", "batch_norm")))
    # second: 0 -1 -1 0, variance 1/3
    assert (points, error) == (-12.5, pytest.approx(100 * math.sqrt(0.25 / 4 + 1 / 12) / 2))


@pytest.mark.parametrize("right, seen, word",
                         [((0.9, 0.5), "yes", "SEEN: T. Here by +40.0 points"),
                          ((0.5, 0.9), "reversed", "THE REVERSE IS SEEN: T. Here by -40.0 points"),
                          ((0.52, 0.5), "unsettled", "NOT SEEN: T. Here by +2.0 points")])
def test_verdict_follows_the_numbers(right, seen, word, monkeypatch):
    rng = np.random.default_rng(0)
    study = S.Study(TINY, statistics={"a": {"classes_per_batch": 2.0}})
    for method, share in zip(("source", "batch_norm"), right, strict=True):
        study.wrong["a", method, 0] = rng.permutation(100) < 100 * share
    monkeypatch.setattr(S, "ORDERINGS",
                        (S.Ordering("T", ((1, "a", "source"), (-1, "a", "batch_norm")), note="N"),))
    row, = S.orderings(study)
    assert row["seen"] == seen
    said = " ".join(S.say_orderings(study).split())
    assert said.startswith(word) and "; N; here a batch holds 2.0 of 10 classes." in said
    assert (f"Of 1 orderings {int(seen == 'yes')} are seen, {int(seen == 'unsettled')} are not, "
            f"and of {int(seen == 'reversed')} the rev" in said)


def test_orderings_stand_on_published_rows_of_one_direction():
    for ordering in S.ORDERINGS:
        theirs = S._theirs(ordering)
        assert bool(theirs) != bool(ordering.note) and all(name in S.LABELS and method in S.METHODS
                                                           for _, name, method in ordering.terms)
        assert not theirs or theirs["values"][0] > theirs["values"][1], ordering.text
    theirs = S._theirs(S.ORDERINGS[0])
    row, = published("cifar10_c", "Standard", method="BN-1", table="benchmark_continual")
    assert theirs["values"] == [43.5, row["value"]] and theirs["unit"] == "%"
    bad = S.Ordering("T", (), ({"data": "cifar10_c"}, {"data": "cifar10_c"}))
    with pytest.raises(ValueError, match="published numbers fit"):
        S._theirs(bad)


def test_sentences_and_table_say_the_numbers(result):
    text = " ".join(S.say_errors(result).split())
    error = partial(result.error, method="source")
    assert ("source: over the 6 protocols that show the same images under the same shifts the "
            f"error stays at {error('sorted'):.1f} %" in text)
    errors = {name: result.error(name, "batch_norm") for name in S.SAME_IMAGES}
    assert (f"from {min(errors.values()):.1f} %" in text
            and f"to {max(errors.values()):.1f} %" in text and "batch of one" in text)
    table = S.table(result).splitlines()
    line = next(line for line in table if line.startswith("mixed domains"))
    spread = result.values("mixed_domains", "source").std(ddof=1)
    assert line.split()[2:5] == [f"{error('mixed_domains'):.1f}", "+-", f"{spread:.1f}"]
    assert next(line for line in table if line.startswith("label shift, group")).split()[7] == "-"
    said = S.say_statistics(result.statistics["open_set"])
    assert (said == "120 images in 15 batches; "
                    f"{result.statistics['open_set']['classes_per_batch']:.1f} of 10 classes and "
                    "1.0 domain in a batch; runs of one class "
                    f"{result.statistics['open_set']['run_length']:.1f} images long; 50 % unknown")


def test_saved_numbers_are_those_of_the_study(result, tmp_path):
    S.save(result, tmp_path / "n.json")
    found = json.loads((tmp_path / "n.json").read_text())
    assert len(found["runs"]) == len(result.table) and found["plan"]["per_shift"] == 4 and found[
        "made"]["device"] == ["cpu"]
    assert (found["runs"][0]["error"] == result.table["error"][0]
            and found["runs"][0]["auroc"] is None)  # no NaN in JSON
    assert [row["seen"] for row in found["orderings"]] == [row["seen"]
                                                           for row in S.orderings(result)]


# --- pictures and words

def test_sheet_shows_what_a_stream_shows():
    numbers = S.sheet(row=5, names=("gaussian_noise", "fog"), severities=(1, 4), seed=2)
    stream = protocols.continual(shifts=("gaussian_noise:4",), per_shift=None, seed=2)
    np.testing.assert_array_equal(numbers["x"][0, 2],
                                  stream.images(torch.tensor([5]), "gaussian_noise:4")[0].numpy())
    np.testing.assert_array_equal(numbers["x"][1, 0],
                                  stream.known_set.images(torch.tensor([5]))[0].numpy())
    assert numbers["columns"] == ["clean", "1", "4"] and numbers["rows"] == ["gaussian noise",
                                                                             "fog"]
    change = 255 * np.abs(numbers["x"][:, 2].astype(float) - numbers["x"][:, 0]).mean((1, 2, 3))
    assert (f"most {'fog' if change[1] > change[0] else 'gaussian noise'} ({change.max():.0f})"
            in S.say_sheet(numbers))


def test_figures_show_the_numbers(result):
    pytest.importorskip("matplotlib")
    axis, = S.plot_protocols(result).axes
    bars = [c for c in axis.containers if hasattr(c, "patches")]
    heights = [bar.get_height() for bar in bars[1]]
    np.testing.assert_allclose(heights, [result.error(name, "batch_norm")
                                         for name in result.protocols if "," not in name])
    assert ([t.get_text() for t in axis.get_xticklabels()][0] == "reset at each shift"
            and axis.get_ylabel() == "error on known images (%)")
    axis, = S.plot_domains(result, "mixed_domains").axes
    bars = [c for c in axis.containers if hasattr(c, "patches")]
    np.testing.assert_allclose([bar.get_height() for bar in bars[2]],
                               result.domains["mixed_domains", "tent"]["error"])
    sheet = S.plot_sheet(S.sheet(severities=(5,)))
    assert [len(ax.get_yticks()) for ax in sheet.axes] == [10, 9] and all(
        ax.get_xlabel() == "severity" for ax in sheet.axes)


def test_first_sentences_are_whole():
    def f():
        """Short, e.g. this one (arXiv 1.2), with ``code``. And more."""
    assert S.first_sentence(f) == "Short, e.g. this one (arXiv 1.2), with code."
    assert S.first_sentence(lambda: 0) == ""
    lines = S.catalogue()
    for name, function in protocols.PROTOCOLS.items():
        sentence = S.first_sentence(function)
        assert len(sentence) > 20 and sentence.endswith((".", ")")) and sentence.count("(") == sentence.count(
            ")"), name
        assert f"{name}: {sentence[:20]}" in lines
