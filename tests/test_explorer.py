"""The explorer: controls make a choice and say why not, runs are held, stepped, stopped and
compared, everything can be read back."""
import base64
import contextlib
import io
import json
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from tta_lab import load, load_model, make
from tta_lab.analysis.collapse import detect
from tta_lab.components.controllers.collapse_detector import CollapseDetector
from tta_lab.components.controllers.guard import guarded
from tta_lab.components.selectors import ConfidenceRise, EntropyThreshold
from tta_lab.core import knobs as P_knobs
from tta_lab.core.trace import Trace
from tta_lab.experiments.experiment import Experiment, Session, explore
from tta_lab.panels import explorer as P
from tta_lab.panels import explorer_words as words
from tta_lab.panels.inputs import AS_GIVEN
from tta_lab.streams.protocols import continual
from tta_lab.studies.explorer import figures as plots_figures
from tta_lab.studies.explorer import study as N

W = pytest.importorskip("ipywidgets")
go = pytest.importorskip("plotly.graph_objects")
pytest.importorskip("anywidget")
pd = pytest.importorskip("pandas")
SMALL = {"per_shift": 20, "batch": 10, "shifts": ("fog", "contrast"), "device": "cpu"}


def trace_of(label, prediction, source, d, known=None, step=None, **more):
    n = len(label)
    label = np.asarray(label)
    columns = {
        "step": np.repeat(np.arange(n // 2), 2) if step is None else step, "id": np.arange(n),
        "prediction": np.asarray(prediction), "source_prediction": np.asarray(source),
        "rise_source": np.asarray(d, float), "label": label, "known": np.ones(n, bool)
        if known is None else np.asarray(known), "segment": np.zeros(n, int), "domain": np.zeros(
            n, int), "round": np.zeros(n, int), "confidence": np.linspace(0.1, 0.9, n),
        "entropy": np.linspace(0.0, 1.0, n), "source_confidence": np.full(n, 0.5)
    } | more
    return Trace.from_columns(
        columns, {"step": np.unique(columns["step"])},
        {"classes": 4, "domains": ["fog"], "segments": ["fog"], "stream": {"hash": "h"}})


# --- numbers, worked by hand

def test_error_so_far_is_a_running_mean_at_the_end_of_each_step():
    a = trace_of([0, 1, 2, 3], [0, 0, 2, 0], [0, 1, 2, 3], [0] * 4)
    b = trace_of([0, 1, 2, 3], [1, 0, 2, 3], [0, 1, 2, 3], [0] * 4)
    found = N.so_far({"this run": a, "BN-1": b})
    assert found["labelled"] and "error" in found["what"]
    np.testing.assert_allclose(found["lines"]["this run"][0], [2, 4])
    np.testing.assert_allclose(found["lines"]["this run"][1], [50, 50])
    np.testing.assert_allclose(found["lines"]["BN-1"][1], [100, 50])
    assert N.so_far({"this run": a, "BN-1": b}, n=2)["last"] == {"this run": 50.0, "BN-1": 100.0}
    assert N.so_far({})["why"] and N.so_far({})["lines"] == {}


def test_without_labels_agreement_with_the_source_takes_the_place_of_the_error():
    a, source, bn = (trace_of([-1] * 4, answers, [0, 1, 2, 3], [0] * 4)
                     for answers in ([0, 0, 2, 0], [0, 1, 2, 3], [0, 0, 2, 3]))
    found = N.so_far({"this run": a, "source": source, "BN-1": bn})
    assert not found["labelled"] and found["what"] == "same answer so far (%)"
    assert set(found["lines"]) == {"like source", "like BN-1", "BN-1 like source"}
    np.testing.assert_allclose(found["lines"]["like source"][1], [50, 50])
    np.testing.assert_allclose(found["lines"]["like BN-1"][1], [100, 75])
    np.testing.assert_allclose(found["lines"]["BN-1 like source"][1], [50, 75])
    assert N.so_far(
        {"this run": a, "source": source, "BN-1": bn},
        n=2)["last"] == {"like source": 50.0, "like BN-1": 100.0, "BN-1 like source": 50.0}
    assert "neither was run" in N.so_far({"this run": a})["why"]
    assert set(N.picked(a)) == {"confident"} and N.picked(
        a, n=2)["confident"].tolist() == [3, 2] and "needs labels" in N.say_picked(a)


def test_numbers_without_labels_by_hand_and_equal_with_labels():
    answers, d = [0, 0, 2, 0], [-0.5, 0.25, 0.5, 0.0]
    free, known = (trace_of(label, answers, [0, 1, 2, 3], d) for label in ([-1] * 4, [0, 1, 2, 0]))
    references = {
        "source": trace_of([-1] * 4, [0, 1, 2, 3], [0, 1, 2, 3], d),
        "BN-1": trace_of([-1] * 4, [0, 0, 2, 3], [0, 1, 2, 3], d)
    }
    found = N.label_free(free, references)
    assert (found["like source"], found["like BN-1"], found["falling"], found["rising"],
            found["largest class"]) == (50.0, 75.0, 25.0, 50.0, 75.0)
    assert found["mean rise"] == 0.0625 and (found["entropy first"], found["entropy last"]) == (0.0,
                                                                                                1.0)
    assert found["classes in use"] == pytest.approx(
        np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))))
    assert N.label_free(
        known, references
    ) == found and "like the source for 50.0 % and like BN-1 for 75.0 %" in N.say_label_free(found)
    alone = N.label_free(free, {})
    assert "like source" not in alone and "neither" in N.say_label_free(alone) and N.label_free(
        Trace(), {}) == {}
    other = trace_of([-1] * 4, answers, [0, 1, 2, 3], d, id=np.arange(4) + 1)
    assert "like source" not in N.label_free(free, {"source": other})          # shown other images
    fall = N.fall_over_time(free)
    assert list(fall["share"]) == ["all"]
    np.testing.assert_allclose([fall["all"][0], fall["rise"][0]], [0.25, 0.5])


def test_what_is_missing_without_labels_is_said_and_not_a_number():
    free, known, some = (trace_of(label, [0, 0, 2, 0], [0, 1, 2, 3], [0.1] * 4)
                         for label in ([-1] * 4, [0, 1, 2, 0], [0, -1, -1, 1]))
    assert "no labels" in N.say_missing(free) and N.say_missing(
        known) == "" and "2 images that have a label; 2 have none" in N.say_missing(some)
    pair = N.paired(free, free)
    assert pair.keys() == {"n", "images", "agreement", "why"
                           } and "no labels" in pair["why"] and "without labels" in N.say_paired(
                               pair, "a", "b")
    unknown = trace_of([-1, -1, 4, 4], [0, 0, 1, 1], [0] * 4, [0.1] * 4,
                       known=[True, True, False, False])
    assert "No known image of this run has a label" in N.threshold_at(
        unknown)["why"] and N.threshold_at(unknown)["accepted"].any()


def test_entropy_now_adds_up_and_fall_counts_each_group():
    t = trace_of([0, 0, 1, 1], [0, 0, 1, 0], [0] * 4, [-0.1, 0.2, 0.3, -0.4],
                 entropy=np.array([0.0, 0.1, 1.0, 1.3]))
    found = N.entropy_now(t, recent=2, bins=2)
    # the last two lie in the upper half, ln 4 = 1.39
    np.testing.assert_allclose(sum(found["share"].values()), [0, 1])
    np.testing.assert_allclose(found["first"], [1, 0])
    assert found["n"] == 2
    fall = N.fall_over_time(t)
    np.testing.assert_allclose(
        [fall["share"]["correct"][0], fall["share"]["wrong"][0], fall["all"][0]], [1 / 3, 1, 1 / 2])


def test_the_light_says_what_watch_says_in_pieces_and_at_once():
    trace = explore(
        Experiment(stream=continual(shifts=("fog", "contrast"), per_shift=40, batch=10),
               recipe=make("tent", lr=0.3)), (), device="cpu").trace
    whole = detect(trace, CollapseDetector(variant="source"))
    light = N.Light()
    for n in (10, 30, len(trace)):
        lamp = light.see(trace.head(n))
    np.testing.assert_allclose(light.probability, whole["probability"])
    assert light.first == whole["first_alarm"] and lamp == ("alarm" if whole["alarm"][-1] else
                                                            lamp) and light.words
    assert N.Light().see(Trace()) == "wait"


def test_a_paired_difference_by_hand_and_its_interval():
    n = 40
    label = np.zeros(n, int)
    a, b = (trace_of(label, np.arange(n) < wrong, label, np.zeros(n)) for wrong in (20, 10))
    found = N.paired(a, b)
    assert (found["a"], found["b"], found["difference"], found["n"], found["k"]) == (50.0, 25.0,
                                                                                     -25.0, 40, 4)
    # t quantile, 3 degrees of freedom
    spread = np.std([0, -100, 0, 0], ddof=1) / 2 * 3.18244630528371
    np.testing.assert_allclose([found["low"], found["high"]], [-25 - spread, -25 + spread])
    assert "holds 0" in N.say_paired(found, "x", "y") and found["agreement"] == 75.0
    same = N.paired(a, a)
    assert same["difference"] == same["low"] == same["high"] == 0.0
    short = N.paired(a.head(12), b)
    assert short["images"] == 12 and short["k"] == 0 and np.isnan(
        short["low"]) and "too few" in N.say_paired(short, "x", "y")
    other = trace_of(label, label, label, np.zeros(n))
    other.meta["stream"] = {"hash": "else"}
    with pytest.raises(ValueError, match="not shown the same images"):
        N.paired(a, other)


def test_threshold_by_hand():
    t = trace_of([0, 1, 4, 4], [0, 0, 1, 1], [0] * 4, [0.1, 0.2, -0.1, -0.2],
                 known=[True, True, False, False], confidence=np.array([0.9, 0.6, 0.7, 0.2]))
    found = N.threshold_at(t, "confidence", 0.25)                         # rejects 0.2 alone
    assert found["threshold"] == 0.6 and found["accepted"].tolist() == [True, True, True, False]
    assert (found["tpr"], found["fpr"], found["acc_s"], found["acc_n"],
            found["h"]) == (1.0, 0.5, 0.5, 0.5, 0.5)
    assert found["auroc"] == 0.75 and "AUROC 75.0 %" in N.say_threshold(found)
    assert N.threshold_at(t, "rise", 0.5)["h"] == pytest.approx(2 / 3) and N.threshold_at(
        t, "rise", 0.5)["fpr"] == 0
    everything = N.threshold_at(t, "confidence", 0.0)
    nothing = N.threshold_at(t, "confidence", 1.0)
    assert everything["accepted"].all() and not nothing["accepted"].any() and nothing["h"] == 0.0
    assert N.picked(t, accepted=found["accepted"])["accepted"].tolist() == [
        2
    ] and N.picked(t)["accepted"].tolist() == [2, 3]
    assert "no unknown" in N.say_threshold(N.threshold_at(trace_of([0, 1], [0, 0], [0, 0], [0, 0])))
    with pytest.raises(ValueError, match="share from 0 to 1"):
        N.threshold_at(t, rejected=1.5)
    with pytest.raises(ValueError, match="no score 'x'"):
        N.threshold_at(t, "x")


@pytest.mark.parametrize("backend", ["matplotlib", "plotly"])
def test_figures_draw_the_numbers_and_a_sentence_where_there_are_none(backend):
    t = trace_of([0, 1, 4, 4], [0, 0, 1, 1], [0] * 4, [0.1, 0.2, -0.1, -0.2],
                 known=[True, True, False, False])
    numbers = {
        "errors": {
            "so_far": N.so_far({"this run": t, "source": t}), "fall": N.fall_over_time(t),
            "marks": [2]
        }, "predictions": {"entropy": N.entropy_now(t), "classes": N.views.class_shares(t)},
        "threshold": N.threshold_at(t), "probabilities": N.probabilities_of({"source": np.eye(4)},
                                                                            2, list("abcd")),
        "images": {"wrong": [(np.zeros((1, 8, 8)), N.image_summary(t, 1, list("abcd")))]}
    }
    nothing = {
        "errors": {"so_far": N.so_far({}), "fall": N.fall_over_time(Trace())},
        "predictions": {"entropy": N.entropy_now(Trace()), "classes": None},
        "threshold": N.threshold_at(Trace()), "probabilities": N.probabilities_of({}, 0,
                                                                                  []), "images": {}
    }
    for name in numbers:
        plot = plots_figures.FIGURES[name]
        drawn = plot(numbers[name], backend)
        empty = plot(nothing[name], backend)
        assert f"explorer_{name}" in plots_figures.HOW_TO_READ
        if backend == "plotly":
            assert len(drawn.data) and not len(empty.data) and any(
                a.text for a in empty.layout.annotations)
    if backend == "plotly":
        lines = plots_figures.plot_explorer_errors(numbers["errors"], "plotly").data
        np.testing.assert_allclose(lines[0].y, [50, 50])


# --- the panel without a browser

@pytest.fixture(scope="module")
def headless():
    return P.explorer(interactive=False, lr=1e-2, selectors=("confidence_rise",), guard=True,
                      **SMALL)


def test_headless_panel_has_stepped_and_run_and_agrees_with_explore(headless):
    assert headless.error is None and not headless.running and headless.session.finished
    recipe = guarded(make("tent", lr=1e-2).where(ConfidenceRise()))
    direct = explore(
        Experiment(stream=continual(shifts=SMALL["shifts"], per_shift=20, batch=10), recipe=recipe),
        device="cpu")
    assert headless.ran.recipe == recipe and headless.ran.stream.hash == direct.choice.stream.hash
    np.testing.assert_array_equal(headless.trace["entropy"], direct.trace["entropy"])
    assert len(headless.results) == 1 and headless.results["error"][0] == direct.rows[0]["error"]
    assert headless.results["error of source"][0] == direct.rows[1]["error"]
    assert f"error {direct.rows[0]['error']:.1f} %" in headless.message
    assert "tent + confidence rise + guard lr 0.01" in headless.message
    assert {type(f) for f in headless.figures.values()
            } == {go.Figure} and set(headless.figures) == {*headless.view.frames, "images"}
    assert headless.figures["errors"].data[0].y[-1] == pytest.approx(
        100 * (1 - np.mean(headless.trace["correct"])))


def test_code_parameters_and_state_make_the_same_run(headless):
    printed, space = io.StringIO(), {}
    with contextlib.redirect_stdout(printed):
        exec(headless.to_code(), space)
    assert printed.getvalue() == f"error {headless.results['error'][0]:.2f} %\n"
    lines = dict(line.split(": ", 1) for line in headless.to_parameters().splitlines())
    assert json.loads(lines["seed"]) == 0 and Experiment.from_json(json.loads(
        lines["choice"])).recipe == headless.ran.recipe
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(headless.to_parameters())["choice"] == headless.ran.to_json()
    assert Experiment.from_json(json.dumps(headless.state)).stream.hash == headless.ran.stream.hash


def test_a_choice_as_text_sets_every_control(headless):
    panel = P.explorer(headless.ran.to_json(), device="cpu")
    assert panel.choice.recipe == headless.ran.recipe
    assert panel.choice.stream.hash == headless.ran.stream.hash
    c = panel.controls
    assert (c["method"].value, c["first"].value, c["guard"].value,
            c["protocol"].value) == ("tent", "confidence_rise", True, AS_GIVEN)
    assert panel.knobs["update.lr"].value == 1e-2


@pytest.mark.parametrize("recipe", [
    make("eata", lr=3e-3).where(EntropyThreshold(0.2)),
    guarded(make("rotta")),
    make("lame", k=7),
    make("cotta", form="reference")
], ids=lambda r: type(r).__name__)
def test_recipes_are_taken_apart_and_put_together(recipe):
    found = words.split_recipe(recipe)
    assert P_knobs.with_knobs(words.join_recipe(found), **found["values"]) == recipe
    # the panel has room for two
    assert words.split_recipe(make("tent").where(*[EntropyThreshold()] * 3)) is None


@pytest.fixture
def panel():
    made = P.explorer(**SMALL)
    yield made
    assert made.error is None


def press(panel, button):
    (panel.run_button if button == "run" else panel.view.buttons[button]).click()
    assert panel.wait(120)


def test_sliders_follow_the_method_and_paper_defaults_come_back(panel):
    assert set(panel.knobs) == {k.name for k in P_knobs.knobs(make("tent"))} and len(
        panel.view.knobs.simple.children) == 1
    assert isinstance(panel.knobs["update.lr"],
                      W.FloatLogSlider) and "paper" in panel.knobs["update.lr"].tooltip
    panel.knobs["update.lr"].value = 0.0123456
    assert panel.choice.recipe == make("tent",
                                       lr=0.0123) and panel.chosen.changed() == {"update.lr": 0.0123}
    panel.controls["first"].value = "entropy_threshold"
    assert panel.choice.recipe == make("tent", lr=0.0123).where(
        EntropyThreshold()) and "select.0.fraction" in panel.knobs
    panel.controls["method"].value = "lame"
    assert "no loss" in panel.incompatibility or "selectors" in panel.incompatibility
    panel.controls["first"].value = ""
    assert panel.choice.recipe == make("lame") and panel.incompatibility == ""
    panel.controls["method"].value = "tent"
    assert panel.choice.recipe == make("tent", lr=0.0123)
    panel.view.buttons["paper"].click()
    assert panel.choice.recipe == make("tent") and panel.chosen.changed() == {}


def test_an_impossible_choice_says_why_and_run_refuses_with_that_sentence(panel):
    panel.controls["model"].value = "fashion_resnet_gn"
    panel.controls["method"].value = "rotta"
    assert "batch-norm" in panel.incompatibility and "batch-norm" in panel.description.value
    press(panel, "run")
    assert panel.incompatibility in panel.message and panel.trace is None and len(panel.results) == 0
    panel.controls["model"].value = "fashion_resnet_bn"
    panel.controls["protocol"].value = "natural"
    press(panel, "step")
    assert "holds no domains" in panel.message and panel.choice is None and panel.state == {}
    panel.controls["protocol"].value = "continual"
    panel.controls["method"].value = "eata"
    assert panel.incompatibility == "" and "Fisher" in panel.description.value


def test_step_hold_go_on_and_reset(panel):
    press(panel, "step")
    assert len(
        panel.trace
    ) == 10 and "Held" in panel.message and panel.run_button.description == "Go on" and len(
        panel.results) == 1
    press(panel, "step")
    held = panel.session
    assert len(panel.trace) == 20
    error = panel.results["error"][0]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(panel.to_code(), {})
    # a run that was held is taken away as far as it went
    assert printed.getvalue() == f"error {error:.2f} %\n"
    press(panel, "run")
    assert panel.session is held and held.finished and len(panel.trace) == 40 and len(
        panel.results) == 1
    press(panel, "step")
    assert panel.session is not held and len(
        panel.trace) == 10 and panel.results["run"].tolist() == [1, 2]
    panel.knobs["update.lr"].value = 0.01
    assert panel.run_button.description == "Run anew"
    panel.view.buttons["reset"].click()
    assert panel.trace is None and panel.session is None and "no run yet" in panel.view.alarm_box.value and len(
        panel.results) == 2
    press(panel, "run")
    assert panel.results["complete"].tolist() == [True, False, True]


def test_stop_is_heard_after_one_batch(panel, monkeypatch):
    begun = threading.Event()
    go_on = threading.Event()
    advance = Session.advance

    def slowly(session):
        found = advance(session)
        begun.set()
        assert go_on.wait(60)
        return found

    monkeypatch.setattr(Session, "advance", slowly)
    panel.run_button.click()
    assert begun.wait(60)
    panel.run_button.click()
    assert "ignored" in panel.message
    panel.view.buttons["reset"].click()
    assert "press Stop first" in panel.message
    panel.stop_button.click()
    go_on.set()
    assert panel.wait(60) and panel.session.done == 1 and "Held" in panel.message


def test_ticked_runs_of_one_stream_share_a_chart_and_two_are_compared(panel, tmp_path):
    press(panel, "report")
    assert "no run to report" in panel.message
    press(panel, "run")
    a = panel.trace
    panel.knobs["update.lr"].value = 0.1
    press(panel, "run")
    assert panel.comparison == N.paired(a, panel.trace) and "tent" in panel.compared_words
    assert set(panel.drawn["errors"]["so_far"]["lines"]) == {"tent", "tent lr 0.1", "source", "BN-1"}
    # said to those who cannot see the picture
    assert f"tent {100 * (1 - np.mean(a['correct'])):.1f}" in panel.view.frames["errors"].label
    places = json.loads(panel.view.frames["errors"].spots)
    drawn = {s["name"]: s["y"][-1] for s in places[0]["series"]}
    assert drawn["tent"] == pytest.approx(100 * (1 - np.mean(a["correct"])), abs=0.01)
    (tmp_path / "file").write_text("")
    panel.view.table.folder = str(tmp_path / "file" / "deeper")
    press(panel, "report")
    assert "was not written to" in panel.message and "Name another folder" in panel.message
    panel.view.table.folder = str(tmp_path)
    press(panel, "report")
    page, = tmp_path.glob("*.html")
    assert page.name in panel.message and "tent lr 0.1" in page.read_text()
    panel.view.table.tick(2, False)
    assert panel.ticked == [1] and panel.comparison == {}
    panel.view.table.open(1)
    assert panel.trace is a and "lr=0.1" not in panel.to_code()
    panel.view.table.save_to(tmp_path / "kept")
    other = P.explorer(**SMALL)
    other.view.table.load_from(tmp_path / "kept")
    assert other.error is None and other.trace["prediction"].tolist() == a["prediction"].tolist()
    panel.view.table.tick(1)
    panel.view.table.delete_ticked()
    assert list(panel.kept) == [2] and panel.error is None


def test_five_rates_are_run_and_ranked_without_labels(panel):
    panel.controls["per_shift"].value = 10
    panel.view.buttons["rates"].click()
    assert panel.wait(240) and panel.error is None
    assert len(panel.ticked) == 5 and panel.folds["choose"].value
    rates = [panel.kept[n].choice.recipe.update.lr for n in panel.ticked]
    assert len(set(rates)) == 5 and 1e-3 in rates
    for number in panel.ticked:
        assert panel.kept[number].name in panel.view.ranking.value


def test_the_images_behind_a_number(panel):
    panel.controls["protocol"].value = "open_set"
    panel.folds["preview"].value = True
    press(panel, "run")
    panel._on_point("errors", 0, 15.0, 50.0)              # a place in the second batch
    assert panel.folds["images"].value and panel.error is None
    step = panel.trace["step"][panel.selected]
    assert len(panel.selected) and set(step.tolist()) == {0}
    for fold in panel.folds.values():
        fold.value = True
    before = panel.view.judged.value
    panel.view.rejected.value = 0.9
    assert panel.view.judged.value != before and "AUROC" in panel.view.judged.value
    assert panel.drawn["threshold"]["threshold"] == N.threshold_at(panel.trace, "confidence",
                                                                   0.9)["threshold"]
    for frame in panel.view.frames.values():
        content = base64.b64decode(frame.src.partition("base64,")[2])
        assert content.startswith(b"\x89PNG") and len(content) < 300_000 and frame.label


def test_a_model_and_images_of_ones_own_without_labels():
    some = load("fashion_mnist").take(torch.arange(60))
    images = replace(some, name="mine", y=torch.full((60,), -1))
    panel = P.explorer(model=load_model("fashion_resnet_bn"),
                       stream=continual(images, shifts=("none",), per_shift=60,
                                        batch=20), device="cpu")
    press(panel, "run")
    assert panel.error is None and "no labels" in panel.message
    assert "like the source for" in panel.message
    assert panel.drawn["errors"]["so_far"][
        "what"] == "same answer so far (%)" and "error" not in panel.results
    assert panel.results["like source"][0] == panel.label_free()["like source"]
    shown, = panel.view.table.listed()
    assert "no labels" in panel.view.sentence.value and shown["labelled"] is False
    assert "like source" in panel.view.frames["errors"].label
    panel.folds["images"].value = True
    assert len(panel.selected) == 60
    assert panel.to_parameters().startswith(
        "# ") and panel.state["model"] is None and "your own" in panel.to_code()
    panel.controls["method"].value = "eata"
    # no source images were given with the model
    assert "Fisher" in panel.incompatibility
    assert panel.error is None


def test_failures_are_said_and_kept_and_settings_that_do_not_exist_are_named(monkeypatch):
    panel = P.explorer(**SMALL)
    monkeypatch.setattr(Session, "advance", lambda self: 1 / 0)
    press(panel, "run")
    assert isinstance(panel.error, ZeroDivisionError) and "ZeroDivisionError" in panel.message
    for wrong, said in (({"x": 1}, "no setting 'x'"), ({"method": "x"}, "method must be one of"),
                        ({"model": "x"}, "no embedded model"), ({"selectors": ("x",)},
                                                                "up to two")):
        with pytest.raises(ValueError, match=said):
            P.explorer(**wrong)


def test_saved_numbers_are_json(headless, tmp_path):
    P.save(headless, tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["runs"][0]["error"] == headless.results["error"][0] and found[
        "state"] == headless.state
