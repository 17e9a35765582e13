"""Views of a run: numbers worked by hand, what adds up, and a sentence where something is
missing."""
import math

import numpy as np
import pytest
import torch

from tta_lab import Adapter, Trace, load_model, make, run
from tta_lab.analysis import timelines as V
from tta_lab.streams import protocols

# eight images in four steps of two; classes 0 and 1, label 2 is unknown, -1 none
ROWS = {
    "step": [0, 0, 1, 1, 2, 2, 3, 3], "id": np.arange(8), "label": [0, 1, 0, 2, 1, 1, -1, 0],
    "known": [1, 1, 1, 0, 1, 1, 1, 1], "prediction": [0, 0, 0, 1, 1, 0, 1, 0],
    "entropy": [0, .1, .6, .69, .2, math.nan, .3, .65], "kept": [1, 1, 0, 1, 0, 1, 1, 0],
    "confidence": [1, .95, .6, .55, .9, .8, .85,
                   .6], "round": [0] * 8, "domain": [0] * 8, "segment": [0] * 8,
    "source_prediction": [0, 1, 1, 1, 1, 1, 0,
                          1], "source_confidence": [.9, .8, .7, .6, .5, .9, .8, .7],
    "source_class_confidence": [1, .05, .4, .55, .9, .2, .15,
                                .4], "rise_source": [.1, -.75, -.3, -.05, .4, -.7, -.65, -.3]
}
STEPS = {
    "step": [0, 1, 2, 3], "n": [2] * 4, "n_kept": [2, 1, 1, 1], "grad_norm": [.5, 2, math.nan, 1],
    "distance": [0, 1, 1, 2], "skipped": [0, 0, 1, 0], "forwards": [4, 2, 2, 2],
    "backwards": [2, 2, 0, 2], "seconds": [1] * 4, "reset": [1, 0, 0, 0]
}
META = {"classes": 2, "domains": ["fog"]}


def trace(without=(), steps=STEPS, meta=META, **columns):
    rows = {k: np.asarray(v) for k, v in {**ROWS, **columns}.items() if k not in without}
    return Trace.from_columns({k: v.astype(bool) if k == "known" else v for k, v in rows.items()},
                              steps, meta)


def unlabelled(**columns):
    return trace(label=[-1] * 8, known=[1] * 8, **columns)


def test_groups_are_disjoint_cover_everyone_and_are_one_without_labels():
    masks = V.split(trace())
    assert {g: m.nonzero()[0].tolist() for g, m in masks.items()
            } == {"correct": [0, 2, 4, 7], "wrong": [1, 5], "unknown": [3], "unlabelled": [6]}
    for bare in (unlabelled(), trace(without=("label", "known"))):
        assert list(V.split(bare)) == ["all"] and V.split(bare)["all"].all()


def test_stretches_are_of_whole_steps():
    number, first, last = V.stretches(trace(), 3)
    assert number.tolist() == [0] * 4 + [1, 1, 2, 2] and first.tolist() == [
        0, 2, 3
    ] and last.tolist() == [1, 2, 3]
    assert V.stretches(trace(), 99)[1].tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="windows must be at least 1, got 0"):
        V.stretches(trace(), 0)


def test_parts_are_rounds_where_there_are_several():
    chosen = V.parts(trace())
    assert chosen["early"][0] == "first 25 %" and chosen["early"][1].nonzero()[0].tolist() == [0, 1]
    assert chosen["late"][1].nonzero()[0].tolist() == [6, 7]
    chosen = V.parts(trace(round=[0, 0, 0, 1, 1, 2, 2, 2]))
    assert [name for name, _ in chosen.values()] == ["round 0", "round 2"
                                                     ] and chosen["late"][1].sum() == 3
    with pytest.raises(ValueError, match="share must lie in"):
        V.parts(trace(), 0.6)


def test_entropy_frames_by_hand():
    # ln 2 = 0.693: bins 0 .. 0.347 .. 0.693
    numbers = V.entropy_frames(trace(), windows=2, bins=2)
    assert numbers["n"].tolist() == [4, 3] and numbers["broken"].tolist() == [0, 1]
    assert numbers["share"]["correct"].tolist() == [[.25, .25], [1 / 3, 1 / 3]]
    assert numbers["share"]["wrong"].tolist() == [[.25, 0], [0, 0]]
    assert numbers["share"]["unknown"].tolist() == [[0, .25], [
        0, 0
    ]] and numbers["share"]["unlabelled"].tolist() == [[0, 0], [1 / 3, 0]]
    np.testing.assert_allclose(sum(numbers["share"].values()).sum(axis=1), 1)
    np.testing.assert_allclose(numbers["median"], [.35, .3])
    whole = V.entropy_frames(unlabelled(), windows=2, bins=2)["share"]
    assert list(whole) == ["all"] and whole["all"].tolist() == [[.5, .5], [2 / 3, 1 / 3]]


def test_class_shares_by_hand():
    numbers = V.class_shares(trace(), windows=2, names=["bag", "coat"])
    # labelled known rows 0 1 2 | 4 5 7: predicted 0 0 0 | 1 0 0, true 0 1 0 | 1 1 0
    np.testing.assert_allclose(numbers["predicted"], [[1, 0], [2 / 3, 1 / 3]])
    np.testing.assert_allclose(numbers["true"], [[2 / 3, 1 / 3], [1 / 3, 2 / 3]])
    np.testing.assert_allclose(numbers["gap"], [1 / 3, 1 / 3])
    assert numbers["classes"] == ["bag", "coat"] and not numbers["why"]
    bare = V.class_shares(unlabelled(), windows=2)
    np.testing.assert_allclose(bare["predicted"], [[.75, .25], [.5, .5]])
    assert np.isnan(
        bare["true"]).all() and "no labels" in bare["why"] and bare["classes"] == ["0", "1"]
    with pytest.raises(ValueError, match="2 classes, but 1 names"):
        V.class_shares(trace(), names=["bag"])


def test_confusion_by_hand():
    numbers = V.confusion_over_time(trace(), share=0.5)
    assert numbers["rows"] == ["0", "1", "unknown"
                               ] and numbers["parts"] == ["first 50 %", "last 50 %"]
    assert numbers["counts"]["early"].tolist() == [[2, 0], [1, 0], [
        0, 1
    ]] and numbers["counts"]["late"].tolist() == [[1, 0], [1, 1], [0, 0]]
    np.testing.assert_allclose(numbers["early"], [[1, 0], [1, 0], [0, 1]])
    np.testing.assert_allclose(numbers["late"], [[1, 0], [.5, .5], [math.nan] * 2])
    np.testing.assert_allclose(numbers["difference"], [[0, 0], [-.5, .5], [math.nan] * 2])
    assert "no labels" in V.confusion_over_time(unlabelled())["why"]


def test_of_many_classes_those_that_change_most_are_shown():
    label = np.concatenate([np.arange(40), np.arange(40)])
    prediction = label.copy()
    prediction[40 + 7] = 9                                      # late, class 7 is taken for 9
    rows = {
        "step": np.arange(80), "label": label, "known": np.ones(80, bool), "prediction": prediction,
        "round": np.zeros(80)
    }
    numbers = V.confusion_over_time(Trace.from_columns(rows, meta={"classes": 40}), share=0.5,
                                    most=2)
    assert numbers["classes"] == numbers["rows"] == ["7", "9"] and numbers["of"] == 40
    np.testing.assert_allclose(numbers["difference"], [[-1, 1], [0, 0]])


def test_calibration_by_hand():
    numbers = V.calibration(trace(), share=0.5, bins=2)
    # rows 0 1 2: confidence 1 .95 .6, right yes no yes
    early = numbers["early"]["adapted"]
    assert early["n"].tolist() == [0, 3] and early["accuracy"][1] == pytest.approx(
        2 / 3) and early["confidence"][1] == pytest.approx(.85)
    assert early["ece"] == pytest.approx(.85 -
                                         2 / 3) and early["mean_confidence"] == pytest.approx(.85)
    # Beta(3, 2)
    assert early["accuracy_sd"][1] == pytest.approx(math.sqrt(.6 * .4 / 6)) and np.isnan(
        early["accuracy_sd"][0])
    # rows 4 5 7: .5 .9 .7, right yes yes no
    source = numbers["late"]["source"]
    assert source["ece"] == pytest.approx(abs(2 / 3 - .7))
    bare = V.calibration(trace(without=("source_confidence", "source_prediction")))
    assert np.isnan(
        bare["early"]["source"]
        ["ece"]) and 'record="source"' in bare["why"] and bare["early"]["adapted"]["n"].sum() == 2
    assert "no labels" in V.calibration(unlabelled())["why"]


def test_selection_by_hand():
    numbers = V.selection_anatomy(trace(), windows=2)           # kept: 0 1 3 | 5 6
    assert numbers["kept_share"].tolist() == [.75, .5]
    # row 6 has no label and does not count
    np.testing.assert_allclose(numbers["precision"], [1 / 3, 0])
    np.testing.assert_allclose([v[0] for v in numbers["among_kept"].values()],
                               [1 / 3, 1 / 3, 1 / 3, 0])
    np.testing.assert_allclose(numbers["kept_of"]["correct"], [.5, 0])
    np.testing.assert_allclose(sum(numbers["among_kept"].values()), 1)
    assert "No image of this run was learned from" in V.selection_anatomy(trace(kept=[0] *
                                                                                8))["why"]
    assert np.isnan(V.selection_anatomy(
        unlabelled())["precision"]).all() and not V.selection_anatomy(unlabelled())["why"]


def test_gradient_norm_keeps_the_columns_and_names_what_is_missing():
    numbers = V.gradient_norm(trace())
    np.testing.assert_array_equal(numbers["grad_norm"], STEPS["grad_norm"])
    assert numbers["skipped"].tolist() == [False, False, True, False] and not numbers["why"]
    nothing = V.gradient_norm(trace(steps={**STEPS, "grad_norm": [math.nan] * 4}))
    assert "no gradient" in nothing["why"]
    assert np.isnan(V.gradient_norm(trace(steps={"step": [0, 1, 2, 3]}))["distance"]).all()


@pytest.mark.parametrize("cost, error, on", [([1, 2, 3, 2], [9, 5, 5, 6], [1, 1, 0, 0]),
                                             ([1, 1], [3, 3], [1, 1]),
                                             ([1, math.nan, 2], [3, 1, math.nan], [1, 0, 0]),
                                             ([], [], [])])
def test_front(cost, error, on):
    assert V.front(cost, error).tolist() == [bool(x) for x in on]


def test_front_is_what_no_pair_beats():
    rng = np.random.default_rng(0)
    cost, error = rng.integers(0, 6, (2, 40)).astype(float)
    beaten = [
        any(c <= cost[i] and e <= error[i] and (c, e) != (cost[i], error[i])
            for c, e in zip(cost, error, strict=True)) for i in range(40)
    ]
    assert V.front(cost, error).tolist() == [not b for b in beaten]


def test_cost_against_error_by_hand():
    wrong = trace(prediction=[1, 0, 1, 1, 0, 0, 1, 1])          # all six labelled known ones wrong
    numbers = V.cost_against_error({"one": trace(), "two": [trace(), wrong]})
    assert numbers["name"] == ["one", "two"] and numbers["error"].tolist() == pytest.approx(
        [100 / 3, 200 / 3])
    assert numbers["error_sd"][1] == pytest.approx(np.std([100 / 3, 100], ddof=1)) and np.isnan(
        numbers["error_sd"][0])
    # (10 + 6) / 8 passes, 1 s for 2 images
    assert numbers["passes"].tolist() == [2, 2] and numbers["ms_per_image"][0] == 500
    assert numbers["front"]["passes"].tolist() == [True, False]
    assert "no labels" in V.cost_against_error(
        {"x": unlabelled()})["why"] and "no runs" in V.cost_against_error({})["why"]
    with pytest.raises(ValueError, match="'two' has no trace"):
        V.cost_against_error({"two": []})


NO_IMAGES = {k: np.zeros(0) for k in ROWS}


@pytest.mark.parametrize("timeline", [
    V.entropy_frames, V.class_shares, V.selection_anatomy, V.gradient_norm, V.calibration,
    V.confusion_over_time, V.changed_images
])
def test_a_trace_without_images_says_so(timeline):
    numbers = timeline(Trace.from_columns(NO_IMAGES, {k: [] for k in STEPS}, META))
    assert numbers["why"].endswith(".")


# --- real runs

STREAM = protocols.continual(shifts=("fog", "contrast:3"), per_shift=100, batch=50)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    a = run(Adapter(load_model(), make("tent", lr=0.03), record="source", device="cpu"), STREAM)
    return a, Trace.load(a.save(tmp_path_factory.mktemp("trace") / "run.npz"))


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f")


@pytest.mark.parametrize("timeline", [
    V.entropy_frames, V.class_shares, V.selection_anatomy, V.gradient_norm, V.calibration,
    V.confusion_over_time, lambda t: V.cost_against_error({"tent": t}),
    lambda t: V.changed_images(t, STREAM)
])
def test_a_trace_from_disk_gives_the_same_numbers(timeline, real):
    assert same(timeline(real[0]), timeline(real[1]))


def test_changed_images_are_those_the_network_saw(real):
    # the stream is rebuilt from the trace
    numbers = V.changed_images(real[1], n=3)
    seen = {(int(i), int(s)): x for b in STREAM.batches()
            for i, s, x in zip(b.ids, b.segment, b.x.numpy(), strict=True)}
    t = real[0]
    for kind, found in numbers["kinds"].items():
        assert 0 < len(found["row"]) <= 3, kind
        for row, x in zip(found["row"], found["x"], strict=True):
            np.testing.assert_array_equal(x, seen[int(t["id"][row]), int(t["segment"][row])])
        np.testing.assert_array_equal(found["d"], t["rise_source"][found["row"]])
    harm = numbers["kinds"]["right_to_wrong"]["row"]
    assert (t["source_prediction"][harm] == t["label"][harm]).all() and (t["prediction"][harm]
                                                                         != t["label"][harm]).all()
    flips = (t["source_prediction"] == t["label"]) & (t["prediction"] != t["label"])
    assert abs(t["rise_source"][harm[0]]) == np.abs(t["rise_source"][flips]).max()
    assert numbers["kinds"]["fall"]["d"][0] == t["rise_source"].min(
    ) and numbers["kinds"]["rise"]["d"][0] == t["rise_source"].max()
    assert numbers["kinds"]["fall"]["shift"][0] in STREAM.shifts


def test_pictures_of_cut_and_joined_streams():
    other = protocols.continual(shifts=("snow",), per_shift=60, batch=50)
    joined = STREAM + other
    ids = next(other.batches()).ids[:2].numpy()
    np.testing.assert_array_equal(V.pictures(joined.cut(1), ids, [2, 2]),
                                  other.images(torch.from_numpy(ids), "snow").numpy())
    first = next(STREAM.batches())
    np.testing.assert_array_equal(V.pictures(joined, first.ids[:1], [0])[0], first.x[0].numpy())


def test_changed_images_say_what_is_missing(real):
    assert 'record="source"' in V.changed_images(trace(without=("rise_source",)))["why"]
    with pytest.raises(ValueError, match="does not say which stream"):
        V.changed_images(trace())
    with pytest.raises(ValueError, match=r"cannot be rebuilt .* hand it over"):
        V.changed_images(trace(meta={**META, "stream": {"kind": "stream"}}))
    repeated = V.changed_images(
        Trace.from_columns({k: np.repeat(real[0][k], 2) for k in ROWS}, meta=real[0].meta), STREAM,
        n=4)
    assert all(
        len(set(found["id"].tolist())) == len(found["row"]) for found in repeated["kinds"].values())
