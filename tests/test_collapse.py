"""The collapse detector and the definition by labels: numbers worked by hand, identities, one real
run."""
import io
import json
import math

import numpy as np
import pytest
import torch

from tta_lab import Adapter, load_model, make
from tta_lab import plots as P
from tta_lab.analysis.collapse import collapse, detect
from tta_lab.components.controllers.collapse_detector import (
    ALARMS,
    FIRST,
    LONG,
    SHORT,
    SIGNALS,
    SLOW,
    TAU,
    CollapseDetector,
    fitted,
)
from tta_lab.core.trace import Trace
from tta_lab.data.shipped import DataError
from tta_lab.experiments.runner import run
from tta_lab.streams.stream import Stream

DETECTOR = CollapseDetector()


# --- the definition by labels -------------------------------------------------------------------

def trace_of(wrong, batch=50, known=None, moved=True):
    """A trace whose answers are wrong where asked: the label is 0, a wrong answer is 1."""
    wrong = np.asarray(wrong, int)
    step = np.arange(len(wrong)) // batch
    known = np.ones(len(wrong), bool) if known is None else known
    steps = np.arange(step[-1] + 1)
    return Trace.from_columns(
        {"step": step, "label": np.zeros(len(wrong), int), "known": known, "prediction": wrong},
        {"step": steps, "distance": steps * float(moved)})


def errors(n, every):
    """n answers of which each ``every``-th is wrong (0: none)."""
    return (np.arange(n) % every == 0) if every else np.zeros(n, bool)


def test_collapse_is_established_where_the_excess_leaves_the_noise():
    source = trace_of(np.zeros(3000))
    bad = np.zeros(3000, int)
    # from image 1000 on each fifth answer is wrong: 10 of each batch of 50
    bad[1000:] = errors(2000, 5)
    found = collapse(trace_of(bad), source)
    # step 20 + k ends with 10 (k + 1) wrong of 500: e = 2 (k + 1) points, 3 SE = 300 sqrt(10
    # (k + 1)) / 500;
    # 2: 1.9; 4: 2.7 -> the second batch is the first whose excess is above both 2 points and
    # the noise
    assert found["outcome"] == "collapse" and found["established"] == 21 and found["onset"] == 20
    assert found["excess"][[19, 20, 21, 59]] == pytest.approx([0, 2, 4, 20])
    assert found["noise"][21] == pytest.approx(300 * math.sqrt(20) / 500)
    assert found["whole"] == pytest.approx(
        100 * 400 / 3000) and found["error"][-1] == pytest.approx(20)


def test_harm_that_goes_away_recovers_and_small_harm_is_borderline():
    source, bad = trace_of(np.zeros(3000)), np.zeros(3000, int)
    bad[1000:1500] = errors(500, 5)
    assert collapse(trace_of(bad), source)["outcome"] == "recovered"
    # as many errors on both sides, on other images: 300 sqrt(200) / 500 = 8.5 points of noise
    noisy = errors(3000, 5).astype(int)
    shifted = np.roll(noisy, 1)
    assert collapse(trace_of(noisy), trace_of(shifted))["outcome"] == "healthy"
    few = shifted.copy()
    few[5::25] = 1                          # 4 points more: above margin, below noise, to the end
    found = collapse(trace_of(few), trace_of(noisy))
    assert found["outcome"] == "borderline" and found["established"] == -1 and found["excess"][
        -1] < found["noise"][-1]


def test_harm_too_late_to_tell_is_borderline():
    bad = np.zeros(3000, int)
    bad[2600:] = 1
    # 400 images after the onset, a window has 500
    assert collapse(trace_of(bad), trace_of(np.zeros(3000)))["outcome"] == "borderline"
    bad[2400:] = 1
    assert collapse(trace_of(bad), trace_of(np.zeros(3000)))["outcome"] == "collapse"


def test_harm_that_was_not_learned_is_from_start():
    right, half = np.zeros(3000, int), errors(3000, 2).astype(int)
    # a method that answers like BN-1, which is worse than the source from the first image on
    assert collapse(trace_of(half), trace_of(right), trace_of(half))["outcome"] == "from_start"
    # worse than both from the first step on; and the same later, in a run that moves no weight
    assert collapse(trace_of(half), trace_of(right))["outcome"] == "from_start"
    late = np.where(np.arange(3000) < 1000, 0, half)
    assert collapse(trace_of(late, moved=False), trace_of(right))["outcome"] == "from_start"
    assert collapse(trace_of(late), trace_of(right))["outcome"] == "collapse"
    # like BN-1 at first, and then worse than it too: a collapse beyond what came with the
    # statistics
    worse = np.where(np.arange(3000) < 1500, half, 1)
    found = collapse(trace_of(worse), trace_of(right), trace_of(half))
    assert found["outcome"] == "collapse" and found["start"] == "batch_norm" and found[
        "better"] == "source" and found["established"] >= 30


def test_unknown_and_unlabelled_images_do_not_count():
    source, bad = np.zeros(3000, int), np.zeros(3000, int)
    bad[1000:] = errors(2000, 5)
    known = np.arange(3000) % 2 == 0
    spoiled = np.where(known, bad, 1)
    found, plain = (collapse(trace_of(b, known=known), trace_of(source, known=known))
                    for b in (spoiled, bad))
    assert np.array_equal(found["excess"], plain["excess"]) and found["outcome"] == plain["outcome"]
    with pytest.raises(ValueError, match="no scored image"):
        collapse(trace_of(bad, known=np.zeros(3000, bool)), trace_of(source))


def test_another_stream_is_refused_and_a_run_that_broke_off_is_compared_as_far_as_it_came():
    source = trace_of(np.zeros(3000))
    bad = np.append(np.zeros(500, int), np.ones(700, int))
    assert collapse(trace_of(bad), source)["outcome"] == "collapse"
    other = Trace.from_columns({**source.columns(), "label": np.ones(3000, int)},
                               source.columns("steps"))
    with pytest.raises(ValueError, match="same stream"):
        collapse(trace_of(bad), other)


# --- one step -----------------------------------------------------------------------------------

def samples_of(n=64, entropy=1.0, confidence=0.5, prediction=None, source=None):
    found = {"entropy": torch.full((n,), entropy), "confidence": torch.full((n,), confidence),
             "prediction": torch.arange(n) % 8 if prediction is None else prediction}
    if source is not None:
        found |= {
            "source_prediction": source, "source_confidence": torch.full((n,), 0.4),
            "rise_source": torch.full((n,), -0.1)
        }
    return found


def step_of(gradient=1.0, distance=0.0, **more):
    return {"grad_norm": torch.tensor(gradient), "distance": torch.tensor(distance), **more}


def signal(state, name):
    return float(state["signals"][list(SIGNALS).index(name)])


def test_signals_by_hand():
    state = DETECTOR.init() | {"length": 10.0}
    for entropy in (0.5, 1.5):      # the first images: their mean is what the run is compared with
        DETECTOR.look(samples_of(entropy=entropy), step_of(), state)
    assert FIRST == 128
    assert all(
        signal(state, name) == 0
        for name in ("entropy_down", "entropy_falling", "confidence", "classes", "gradient_down"))
    DETECTOR.look(samples_of(entropy=0.5, confidence=0.75), step_of(gradient=0.25, distance=2.0),
                  state)
    share = 1 - math.exp(-64 / TAU)
    assert signal(state, "entropy_down") == pytest.approx(-math.log(1 - share / 2))
    assert signal(state, "confidence") == pytest.approx(share / 4)
    slow = 1 - math.exp(-64 / SLOW)
    assert signal(state,
                  "entropy_falling") == pytest.approx(math.log((1 - slow / 2) / (1 - share / 2)))
    assert signal(state, "gradient_down") == pytest.approx(-math.log(1 - share * 3 / 4))
    assert signal(state, "distance") == pytest.approx(math.log(2 / 10)) and math.isnan(
        signal(state, "distance_test"))
    assert signal(state, "pace") == pytest.approx(math.log(2 / 10) - math.log(FIRST + 64) / 2)
    assert signal(state, "classes") == pytest.approx(0, abs=1e-12)


def test_classes_are_counted_over_a_window_longer_than_a_batch():
    state, one = DETECTOR.init(), torch.zeros(64, dtype=torch.long)
    for _ in range(SHORT // 64):
        DETECTOR.look(samples_of(), step_of(), state)
    assert signal(state, "classes") == pytest.approx(0, abs=1e-12) and signal(
        state, "stuck") == pytest.approx(1 / 8)
    for _ in range(SHORT // 128):
        DETECTOR.look(samples_of(prediction=one), step_of(), state)
    p = np.array([1 / 2 + 1 / 16] + [1 / 16] * 7)          # half of the window is of class 0
    assert signal(state, "classes") == pytest.approx(math.log(8) + (p * np.log(p)).sum())
    for _ in range(SHORT // 64 + 8):
        DETECTOR.look(samples_of(prediction=one), step_of(), state)
    assert signal(state, "classes") == pytest.approx(math.log(8)) and signal(state, "stuck") == 1
    assert 0 < signal(state, "classes_long") < math.log(8)


def test_fewer_classes_than_the_source_and_disagreement():
    state = DETECTOR.init()
    for _ in range(FIRST // 64):
        DETECTOR.look(samples_of(source=torch.arange(64) % 8), step_of(), state)
    for _ in range(40):
        DETECTOR.look(
            samples_of(prediction=torch.zeros(64, dtype=torch.long), source=torch.arange(64) % 8),
            step_of(), state)
    assert signal(state, "fewer_than_source") == pytest.approx(math.log(8))
    assert signal(state, "disagreement") == pytest.approx(7 / 8, abs=1e-3)
    assert signal(state, "surer_than_source") == pytest.approx(0.1)


def test_probability_is_the_formula_with_the_numbers_of_the_file():
    state = DETECTOR.init() | {"length": 10.0}
    for k in range(30):
        _, probability = DETECTOR.look(samples_of(entropy=1 / (k + 1)), step_of(distance=0.1 * k),
                                       state)
    fit = fitted("light")
    odds = fit["bias"]
    for name, curve in fit["signals"].items():
        value = signal(state, name)
        at = curve["at"]
        adds = curve["adds"]
        if math.isnan(value):
            continue
        k = max(i for i, x in enumerate(at) if x <= value or i == 0)
        share = min(max((value - at[k]) / (at[k + 1] - at[k]), 0), 1) if k + 1 < len(at) else 0
        odds += adds[k] + share * (adds[min(k + 1, len(at) - 1)] - adds[k])
    assert probability == pytest.approx(1 / (1 + math.exp(-odds)))
    assert sum(DETECTOR.contributions(state).values()) + fit["bias"] == pytest.approx(odds)
    for curve in fit["signals"].values():      # more of a sign of collapse never speaks against it
        assert (np.diff(curve["adds"]) >= 0).all() and (np.diff(curve["at"]) > 0).all()


def test_the_alarm_waits_for_patience_and_ends_with_the_evidence():
    calm = CollapseDetector(threshold=1.0, patience=1)
    wild = CollapseDetector(threshold=1e-12, patience=3)
    states = calm.init(), wild.init()
    said = [(calm.look(samples_of(), step_of(), states[0])[0]
             > 0, wild.look(samples_of(), step_of(), states[1])[0] > 0) for _ in range(5)]
    assert said == [(False, k >= 2) for k in range(5)]
    assert wild.evidence(states[1]).startswith(f"Alarm {ALARMS[states[1]['alarm']]}: probability "
                                               f"of collapse")
    assert calm.evidence(states[0]).startswith("No alarm")


def test_broken_outputs_raise_the_alarm_at_once():
    state = DETECTOR.init()
    DETECTOR.look(samples_of(), step_of(), state)
    assert DETECTOR.look(samples_of(entropy=math.nan), step_of(),
                         state) == (ALARMS.index("broken_outputs"), 1.0)
    assert "not a finite number" in DETECTOR.evidence(state)
    assert DETECTOR.look(samples_of(), step_of(), state)[1] < 1


def test_a_reset_forgets_the_recent_past_but_not_the_beginning():
    state = DETECTOR.init() | {"length": 10.0}
    for _ in range(4):
        DETECTOR.look(samples_of(), step_of(), state)
    for _ in range(20):
        DETECTOR.look(
            samples_of(entropy=0.01, confidence=0.99, prediction=torch.zeros(64, dtype=torch.long)),
            step_of(distance=9.0), state)
    before = state["probability"]
    _, probability = DETECTOR.look(samples_of(), step_of(reset=True), state)
    assert probability < before and signal(state, "entropy_down") == 0 and signal(
        state, "confidence") == 0 and state["steps"] == 25
    assert state["count"] == 64


def test_missing_columns_single_images_and_segmentation_are_no_error():
    state = DETECTOR.init()
    # per-pixel answers: no single prediction; a method that does not learn: no gradient
    for _ in range(3):
        alarm, probability = DETECTOR.look(
            {"entropy": torch.ones(4), "confidence": torch.ones(4) / 2},
            {"grad_norm": torch.tensor(math.nan)}, state)
    assert 0 <= probability <= 1 and alarm == 0
    state = DETECTOR.init()
    for k in range(SHORT + 64):
        alarm, probability = DETECTOR.look(samples_of(1, prediction=torch.tensor([k % 8])),
                                           step_of(distance=1e-3), state)
    assert 0 <= probability <= 1 and signal(state, "classes") == pytest.approx(0, abs=0.02)


def test_the_state_keeps_its_size_and_a_batch_larger_than_the_window_is_taken():
    def size(state):
        file = io.BytesIO()
        torch.save(state, file)
        return len(file.getvalue())

    state = DETECTOR.init()
    DETECTOR.look(samples_of(), step_of(), state)
    small = size(state)
    for _ in range(40):
        DETECTOR.look(samples_of(LONG + 10), step_of(), state)
    assert abs(size(state) - small) <= 64 and state["count"] == LONG
    assert np.array_equal(state["predictions"][0].numpy(), (np.arange(LONG + 10) % 8)[10:])


def test_missing_files_and_variants_are_named(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        fitted("light", str(tmp_path / "none.json"))
    (tmp_path / "some.json").write_text(json.dumps({"light": {}}))
    with pytest.raises(DataError, match="no detector 'dark'; it has: light"):
        fitted("dark", str(tmp_path / "some.json"))
    with pytest.raises(ValueError, match="variant"):
        CollapseDetector("dark")
    with pytest.raises(ValueError, match="record='source'"):
        detect(trace_of(np.zeros(100)), CollapseDetector("source"))
    with pytest.raises(ValueError, match="empty"):
        detect(Trace())


# --- a real run ---------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def traces():
    model = load_model("fashion_resnet_bn")
    stream = Stream("fashion_mnist", ("gaussian_noise",), per_shift=800, batch=32)
    return {name: run(Adapter(model, recipe, device="cpu", record="source"), stream)
            for name, recipe in (("wild", make("tent", lr=0.1)), ("calm", make("tent", lr=1e-4)))}


def test_wild_steps_raise_an_alarm_and_calm_ones_do_not(traces):
    for variant in ("light", "source"):
        wild, calm = (detect(traces[name], CollapseDetector(variant)) for name in ("wild", "calm"))
        assert wild["first_alarm"] >= 0 and wild["probability"][-1] > 0.9 and ALARMS[wild["alarm"]
                                                                                     [-1]] != "none"
        assert not calm["alarm"].any() and calm["probability"][-1] < 0.5


def test_step_by_step_with_a_saved_state_is_the_same_as_watching_the_trace(traces, tmp_path):
    trace = Trace.load(traces["wild"].save(tmp_path / "run.npz"))
    detector = CollapseDetector("source")
    whole = detect(trace, detector)
    adapter = Adapter(load_model("fashion_resnet_bn"), make("tent"), device="cpu")
    state = detector.init(adapter.model, adapter.source)
    assert state["length"] == pytest.approx(trace.meta["tuned_length"]) and state["test_statistics"]
    samples = trace.columns()
    steps = trace.columns("steps")
    for t in range(len(steps["step"])):
        rows = samples["step"] == t
        seen = {
            c: torch.from_numpy(samples[c][rows])
            for c in ("entropy", "confidence", "prediction", "source_prediction", "rise_source",
                      "source_confidence")
        }
        said = detector.look(seen,
                             {c: torch.tensor(steps[c][t])
                              for c in ("grad_norm", "distance")} | {"reset": False}, state)
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
        assert said[0] == whole["alarm"][t] and said[1] == pytest.approx(
            whole["probability"][t], abs=1e-4)
    assert "probability of collapse" in detector.evidence(state) and set(
        whole["signals"]) == set(SIGNALS)


# --- figures ------------------------------------------------------------------------------------

@pytest.mark.parametrize("backend", ["matplotlib", "plotly"])
def test_figures_show_the_numbers(traces, backend):
    numbers = detect(traces["wild"])
    figure = P.plot_collapse(numbers | {"truth": collapse(traces["wild"], traces["calm"])},
                             backend=backend)
    curve = figure.axes[0].lines[0].get_ydata() if backend == "matplotlib" else figure.data[0].y
    assert np.array_equal(np.asarray(curve), numbers["probability"])
    P.plot_collapse(numbers, backend=backend)
    P.plot_collapse(detect(traces["calm"]), backend=backend)
    detector = {
        "curves": {"a": {"false_alarms": [0.0, 1.0, 5.0],
                         "recall": [0.5, 0.8, 1.0]}}, "chosen": {"a": [1.0, 0.8], "b": [2.0, 0.1]},
        "leads": {"a": [10, 20, None], "b": [None, None, None]}
    }
    figure = P.plot_collapse_detector(detector, backend=backend)
    drawn = ([s.get_ydata() for s in figure.axes[1].lines]
             if backend == "matplotlib" else [s.y for s in figure.data])
    heights = next(np.asarray(y) for y in drawn if len(y) == 101)
    # 0 and 15 batches ahead
    assert heights[40] == pytest.approx(2 / 3) and heights[55] == pytest.approx(1 / 3)
    empty = P.plot_collapse_detector({"curves": {}, "chosen": {}, "leads": {}}, backend=backend)
    assert empty is not None


# --- where it cannot judge

LIVE = {"shifts": ("gaussian_noise", "fog", "contrast", "pixelate"), "batch": 25}


@pytest.mark.parametrize(("method", "said"), [("lame", "no weight of the network has moved"),
                                              ("t3a", "no weight"), ("source", "no weight"),
                                              ("batch_norm", "no weight"), ("tent", ""),
                                              ("sar", "")])
def test_what_moves_no_weight_cannot_be_judged(method, said):
    from tta_lab import Adapter, load_model, run
    from tta_lab.components.controllers.collapse_detector import cannot_judge
    from tta_lab.streams.protocols import continual

    trace = run(
        Adapter(load_model("fashion_resnet_bn"), make(method), record="source", device="cpu"),
        continual(per_shift=75, **LIVE))
    why = cannot_judge(trace)
    assert (said in why and why) if said else why == ""
    for variant in ("light", "source"):
        seen = detect(trace, CollapseDetector(variant))
        assert seen["cannot_judge"] == why and seen["judged"][-1] == (
            not why) and not seen["judged"][:10].any()


@pytest.mark.parametrize(("batch", "images", "reset", "said"),
                         [(1, 400, (), "single images"), (4, 400, (), "batches of 4.0 images"),
                          (25, 250, (), "250 images are too short a history"), (25, 300, (), ""),
                          (25, 400, (13,), "75 images since the last reset"), (25, 400, (5,), ""),
                          (25, 400, range(16), "25 images since")])
def test_small_batches_and_short_histories_cannot_be_judged(batch, images, reset, said):
    from tta_lab.components.controllers.collapse_detector import cannot_judge

    n = images // batch
    samples = {
        "step": np.repeat(np.arange(n),
                          batch), "id": np.arange(images), "entropy": np.full(images, 0.5),
        "confidence": np.full(images, 0.8), "prediction": np.arange(images) % 10
    }
    steps = {
        "step": np.arange(n), "distance": np.linspace(0, 1, n),
        "reset": np.isin(np.arange(n), list(reset))
    }
    trace = Trace.from_columns(samples, steps, {"classes": 10})
    why, seen = cannot_judge(trace), detect(trace)
    assert (said in why and why) if said else why == ""
    assert seen["cannot_judge"] == why and (seen["first_alarm"] >= 0
                                            or seen["judged"][-1] == (not why))
    # nobody says whether anything moved: only the rest is judged
    del steps["distance"]
    assert cannot_judge(Trace.from_columns(samples, steps, {"classes": 10})) == why


def test_a_state_of_an_older_version_is_judged_and_goes_on():
    from tta_lab.components.controllers.collapse_detector import obstacle

    state = DETECTOR.init()
    for name in ("images", "since", "moved"):
        del state[name]
    state["steps"] = 40
    assert obstacle(state) == ""
    DETECTOR.look({"entropy": np.full(20, 0.5), "confidence": np.full(20, 0.8)},
                  {"distance": 0.1, "reset": False}, state)
    assert obstacle(state) == "" and obstacle(DETECTOR.init()) == "nothing has run yet"
    assert DETECTOR.evidence(
        DETECTOR.init()) == "No alarm, but the detector cannot judge: nothing has run yet."
