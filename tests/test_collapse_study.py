"""The notebook on collapse: numbers by hand, what must hold between runs, the panel's controls,
light and failures, the stored evaluation."""
import json
from dataclasses import replace

import numpy as np
import pytest

from tta_lab.components.controllers.guard import ANSWERS
from tta_lab.core.trace import Trace
from tta_lab.data.shipped import DataError
from tta_lab.experiments.runner import row
from tta_lab.plots import plot_collapse
from tta_lab.studies.collapse import evaluation as V
from tta_lab.studies.collapse import figures as pictures
from tta_lab.studies.collapse import study as S
from tta_lab.studies.collapse import text as sentences

TINY = S.Setting(per_shift=40, batch=20)


@pytest.fixture(scope="module")
def bench():
    return S.Bench()


def hand_made():
    """Six images in three batches, of two classes; the last two are unknown and unlabelled."""
    samples = {"step": [0, 0, 1, 1, 2, 2], "prediction": [0, 1, 1, 1, 1, 1],
               "label": [0, 0, 1, 0, 1, -1], "known": [1, 1, 1, 1, 0, 1],
               "correct": [1, 0, 1, 0, 0, 0], "entropy": [0.6, 0.4, 0.2, 0.0, 0.1, 0.1],
               "rise_source": [0.1, -0.1, 0.2, -0.2, 0.0, 0.1], "round": [0] * 6}
    steps = {"step": [0, 1, 2], "alarm": [0, 0, 5], "alarm_probability": [0.1, 0.6, 0.9],
             "action": [0, 0, 1], "answered_by": [0, 0, 1]}
    columns = [{k: np.array(v) for k, v in table.items()} for table in (samples, steps)]
    columns[0] |= {k: columns[0][k].astype(bool) for k in ("known", "correct")}
    return Trace.from_columns(*columns, meta={"classes": 2})


def test_numbers_of_a_run_by_hand():
    n = S.numbers_of(hand_made(), {"other": hand_made()}, ("a", "b"), recent=2)
    assert (n["error"].tolist() == [50.0, 50.0, 50.0]
            and n["errors"]["other"].tolist() == n["error"].tolist())
    assert n["whole"] == {"": 50.0, "other": 50.0}                     # of the four scored images
    assert np.allclose(n["entropy"], np.array([0.5, 0.1, 0.1]) / np.log(2))
    assert np.allclose(n["predicted"], [1.0, 0.5, 0.5])  # two, one and one of two classes
    assert np.allclose(n["true"], [0.5, 1.0, np.nan], equal_nan=True)
    assert n["shares"]["predicted"].tolist() == [0.0, 1.0] and n["shares"]["true"].tolist() == [0.0,
                                                                                                0.0]
    assert n["actions"] == [(2, "stopped")] and n["answered"] == dict(
        zip(ANSWERS, (2 / 3, 1 / 3, 0.0), strict=True))
    assert S.recent_error(hand_made(), 3).tolist() == [50.0, pytest.approx(200 / 3),
                                                       pytest.approx(200 / 3)]
    told = sentences.say_run(n, "It")
    assert ("first alarm in step 2 of 3 (weights drift)" in told
            and "acted once: stopped in step 2" in told and "source 33 %" in told)


def test_effective_classes_by_hand():
    found = S.effective_classes([0, 1, 2, 2, 2, -1], [0, 0, 1, 1, 2, 2], [0, 1, 2], 4)
    assert np.allclose(found, [2.0, np.exp(-(0.25 * np.log(0.25) * 2 + 0.5 * np.log(0.5))), 1.0])


def test_the_light_says_what_is_seen():
    n = S.numbers_of(hand_made(), recent=2)
    assert sentences.light(n)[0] == "alarm" and sentences.light(n)[1].startswith(
        "weights drift; probability of collapse 90 %")
    quiet = {**n, "alarm": np.zeros(3, int), "probability": np.array([0.1, 0.1, 0.2])}
    assert sentences.light(quiet)[0] == "unsure" and "batches of 2.0 images" in sentences.light(
        quiet)[1]  # six images are nothing to judge by
    assert "with labels: error of the last 2 50.0 %" in sentences.light(quiet)[1]
    quiet["cannot_judge"] = ""
    assert (sentences.light(quiet)[0] == "calm"
            and sentences.light({**quiet, "probability": np.array([0.6])})[0] == "doubtful")
    assert sentences.light({**quiet, "alarm": np.array([0, 3, 0])}) [0] == "doubtful"
    assert sentences.light({**quiet, "probability": np.array([np.nan])})[0] == "none"
    shapes = [shape for shape, _, _ in sentences.LIGHTS.values()]
    assert len(set(shapes)) == len(shapes)                             # never by colour alone


def test_falling_by_hand():
    f = S.falling(hand_made(), windows=3)
    assert np.allclose(f["correct"], [0, 0, np.nan], equal_nan=True) and np.allclose(
        f["wrong"], [1, 1, np.nan], equal_nan=True)
    assert np.allclose(f["wrong_fallen"], [1, 1, np.nan], equal_nan=True) and np.allclose(
        f["wrong_risen"], [0, 0, np.nan], equal_nan=True)


def test_truth_in_words():
    def say(first=3, **truth):
        return sentences.say_truth({"first_alarm": first,
                                    "truth": {"established": 5, "onset": 2, "outcome": "collapse",
                                              **truth}})

    assert ("2 batches before that" in say() and "1 batch after that" in say(6)
            and "in the same batch" in say(5) and "no alarm" in say(-1))
    assert "recovered" in say(established=-1, outcome="recovered") and "did not collapse" in say(
        established=-1, outcome="healthy")


def test_settings_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match="stream must be one of 'continual'"):
        S.Setting(stream="x")
    with pytest.raises(ValueError, match="must be positive"):
        S.Setting(factor=0)
    assert S.Setting(factor=3).rate == pytest.approx(3 * S.Setting().rate)
    for method in S.METHODS:  # each has a rate that can be multiplied
        assert replace(TINY, method=method, factor=0.1).rate > 0


def test_a_witness_and_a_bench_change_nothing(bench):
    from tta_lab import Adapter, load_model, run

    trace = bench.run(TINY)
    bare = run(Adapter(load_model(TINY.model), TINY.plain), TINY.arrivals())
    assert np.array_equal(trace["prediction"], bare["prediction"]) and np.array_equal(
        trace["entropy"], bare["entropy"])
    assert bench.run(TINY) is trace and bench.known(TINY)              # nothing is run twice
    assert trace.meta["evidence"]["now"].startswith(("No alarm", "Alarm"))
    assert set(bench.beside(TINY)) == {"source", "BN-1"}


def test_the_witness_says_what_the_detector_says_of_the_finished_trace(bench):
    from tta_lab.analysis.collapse import detect

    trace = bench.run(replace(TINY, factor=100.0))
    again = detect(trace)
    assert np.allclose(again["probability"], trace.step("alarm_probability"), atol=1e-4)
    assert np.array_equal(again["alarm"], trace.step("alarm"))
    first = int(np.flatnonzero(again["alarm"] > 0)[0]) if again["first_alarm"] >= 0 else -1
    said = trace.meta["evidence"]
    assert said["now"].count(f"after {len(again['step'])} steps") == 1
    assert (f"after {first + 1} steps" in said["first"] and said["first"].startswith("Alarm ")
            if first >= 0 else said["first"] == "")


def test_code_of_a_setting_makes_the_same_run(bench):
    setting = replace(TINY, factor=30.0, guard="reset", choose=False)
    scope = {}
    exec(setting.to_code(), scope)
    assert row(scope["trace"])["error"] == row(bench.run(setting))["error"]


@pytest.mark.slow
def test_a_wild_rate_alarms_a_gentle_one_does_not_and_a_guard_saves_it(bench):
    gentle = S.Setting()
    wild = S.Setting(factor=100.0)
    errors = {name: row(bench.run(s))["error"]
              for name, s in (("gentle", gentle), ("wild", wild),
                              ("guarded", replace(wild, guard="smaller step")))}
    assert ((bench.run(wild).step("alarm") > 0).any()
            and bench.run(wild).meta["evidence"]["first"].startswith("Alarm "))
    assert not (bench.run(gentle).step("alarm") > 0).any() and bench.run(gentle).meta["evidence"][
        "first"] == ""
    assert errors["wild"] > 2 * errors["gentle"] and errors["guarded"] < errors["wild"] - 10
    found = S.inside(S.look_inside(bench, wild, 30))
    assert found["after"]["error"] > found["before"]["error"] and found["after"]["entropy"] < found[
        "before"]["entropy"]


@pytest.mark.slow
def test_a_shift_of_the_labels_has_few_classes_and_no_alarm(bench):
    shift = bench.run(S.Setting(stream="sorted_clean", statistics="source", factor=0.1))
    collapsed = bench.run(S.Setting(factor=300.0))
    few = S.batch_classes(shift)
    lost = S.batch_classes(collapsed)
    assert (np.median(few["marginal"]) < np.median(lost["marginal"])
            and np.median(few["true"]) < 3 < 8 < np.median(lost["true"]))
    assert not (shift.step("alarm") > 0).any() and (collapsed.step("alarm") > 0).any()
    told = sentences.say_few_classes(shift, collapsed)
    assert "cannot tell the two apart" in told and "the detector tells the two apart" in told
    assert "could tell the two apart" in sentences.say_few_classes(collapsed, shift)


def test_sweep_counts_every_run_once(bench):
    found = S.sweep(bench, TINY, (1.0, 100.0), seeds=(0,))
    assert found["error"][""].shape == (2, 1) and found["error"][""][0, 0] == row(bench.run(TINY))[
        "error"]
    assert found["cost"]["smaller step"].mean() > found["cost"][""].mean() == 1.0
    made = {**found,
            "error": {"": np.array([[20.0], [70.0]]), "smaller step": np.array([[21.0], [30.0]])}}
    saves, costs = sentences.say_sweep(made)[1].split("; ")
    assert "at 100 times the rate, 40.0 points" in saves and costs.startswith("it costs most at 1 "
                                                                              "times, 1.0 points")


# --- the evaluation

def test_stored_evaluation_is_whole_and_said_in_words():
    found = V.load_evaluation()
    assert sum(found["outcomes"]["held_out"].values()) > 100 and {r["group"]
                                                                  for r in found["table"]} > {"all"}
    assert all(0 <= r["recall_in_time"] <= r["recall"] <= 1 for r in V.rows_of(found))
    at = next(r for r in V.rows_of(found) if r["detector"] == "detector")
    assert found["chosen"]["detector"] == [pytest.approx(at["false_alarms"], abs=1e-3),
                                           pytest.approx(at["recall"], abs=1e-3)]
    lead = [v for v in found["leads"]["detector"] if v is not None]
    assert (len(found["leads"]["detector"]) == at["collapsing_runs"]
            and np.median(lead) == pytest.approx(at["lead_median"], abs=1e-3))
    told = " ".join(V.say_evaluation(found))
    assert (f"{100 * at['recall']:.0f} % of the collapses" in told
            and "no alarm is no proof of health" in told)
    assert V.table_of(found).count("\n") == 1 + len(found["chosen"])


def test_an_evaluation_is_joined_from_the_benchmarks_files(tmp_path):
    (tmp_path / "collapse_curves.json").write_text(
        json.dumps({"curves": {}, "chosen": {"detector": [1, 0.5]}, "leads": {"detector": [None]},
                    "outcomes": {"held_out": {"collapse": 1, "healthy": 1}}}))
    (tmp_path / "collapse_detector.csv").write_text(
        "part,detector,group,recall,lead_median\ndevelopment,detector,all,1,2\n"
        "held_out,detector,all,0.5,nan\n")
    stored = V.load_evaluation(V.save_evaluation(tmp_path, tmp_path / "e.json"))
    assert stored["table"] == [{"part": "held_out", "detector": "detector", "group": "all",
                                "recall": 0.5, "lead_median": None}]
    with pytest.raises(DataError, match="save_evaluation"):
        V.load_evaluation(tmp_path / "nothing.json")


# --- figures

def test_figures_hold_the_numbers_in_both_backends(bench):
    pytest.importorskip("plotly")
    setting = replace(TINY, factor=100.0, guard="reset")
    beside = bench.beside(setting)
    trace = bench.run(setting)
    n = S.numbers_of(trace, beside, bench.classes(setting))
    shown = pictures.plot_signals(n, "plotly")
    assert np.allclose(shown.data[0].y, n["error"]) and [d.name for d in shown.data[:4]] == [
        "this run", "source", "BN-1", "probability"]
    assert np.allclose(pictures.plot_signals(n).axes[0].lines[0].get_ydata(), n["error"])
    runs = {"a": n, "b": n}
    assert len(pictures.plot_three(runs).axes) == 6 and np.allclose(
        pictures.plot_three(runs, "plotly").data[0].y, n["error"] / 100)
    found = S.look_inside(bench, replace(TINY, factor=100.0), 20)
    assert sum(len(d.x) for d in pictures.plot_inside(found, "plotly").data) == 40
    few = {"a": S.batch_classes(trace)}
    assert np.allclose(pictures.plot_few_classes(few, "plotly").data[0].y, few["a"]["true"])
    assert "truth" in S.with_truth(trace, beside) and plot_collapse(S.with_truth(trace, beside),
                                                                    "plotly").data
    for plot in (pictures.plot_signals, pictures.plot_predictions):
        assert "Nothing to draw" in str(plot(None, "plotly").layout.annotations)
    assert "Nothing to draw" in str(pictures.plot_inside({}, "plotly").layout.annotations)
    assert set(pictures.HOW_TO_READ) == {name.removeprefix("plot_") for name in dir(pictures)
                                         if name.startswith("plot_")}


# --- the panel

W = pytest.importorskip("ipywidgets")
go = pytest.importorskip("plotly.graph_objects")
pytest.importorskip("anywidget")
from tta_lab.panels import collapse_panel as P  # noqa: E402


def test_headless_panel_has_run_and_shows_plain_figures(bench):
    panel = P.collapse_panel(replace(TINY, factor=100.0), interactive=False, bench=bench)
    assert (panel.error is None and "Done, tent at x 100: error" in panel.message
            and panel.trace is bench.run(panel.setting))
    assert type(panel.signals) is go.Figure and np.allclose(panel.signals.data[0].y,
                                                            panel.result["error"])
    assert (panel.state == sentences.light(panel.result)[0]
            and sentences.LIGHTS[panel.state][0] in panel.alarm_box.value)
    assert panel.evidence() and panel.to_code() == panel.setting.to_code()


def test_a_control_starts_a_run_and_the_next_one_follows_it(bench):
    panel = P.collapse_panel(TINY, bench=bench)
    assert panel.result is None and "Nothing has run yet" in panel.message
    panel.controls["factor"].value = 30.0
    panel.controls["factor"].value = 300.0                              # while the first is in work
    assert panel.wait(120) and panel.error is None and panel.setting.factor == 300.0
    assert not bench.known(replace(TINY, factor=30.0))  # it was ended, not waited for
    assert "Done, tent at x 300" in panel.message and panel.trace is bench.run(
        replace(TINY, factor=300.0))
    panel.controls["at_once"].value = False
    panel.controls["guard"].value = "stop"
    assert (not panel.running and panel.trace is bench.run(replace(TINY, factor=300.0))
            and "stop learning" in panel.description.value)
    for figure in (panel.signals, panel.predictions):
        json.dumps(figure.to_plotly_json(), default=lambda a: np.asarray(a).tolist())


def test_failures_are_said_and_kept(bench, monkeypatch):
    panel = P.collapse_panel(TINY, interactive=False, bench=bench)
    monkeypatch.setattr(P, "numbers_of", lambda *a, **k: 1 / 0)
    panel.run_button.click()
    assert isinstance(panel.error, ZeroDivisionError) and "ZeroDivisionError" in panel.message


def test_a_compact_figure_is_smaller_and_looks_the_same():
    import io

    from PIL import Image

    from tta_lab.plots import plot_collapse_detector, png

    figure = plot_collapse_detector(V.load_evaluation())
    whole = png(figure)
    small = pictures.compact(figure)._repr_png_()
    assert len(small) < 0.6 * len(whole)
    one, other = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float)
                  for data in (whole, small))
    assert one.shape == other.shape and np.abs(one - other).mean() < 2
