"""Controls come from the knobs; a panel runs, stops, refuses a second run, and never hides an
error."""
import json
import math
import threading
from dataclasses import dataclass

import numpy as np
import pytest
from panel_parts import all_in

from tta_lab.core.knob_text import hint, parameter_table
from tta_lab.core.knobs import knob, knobs, with_knobs
from tta_lab.core.parts import Part
from tta_lab.experiments import runner as crowds_runner
from tta_lab.methods import make
from tta_lab.models import embedded as crowds_wrapping_embedded
from tta_lab.panels.controls import control, controls, find, narrow, values
from tta_lab.panels.crowd_panel import crowd_panel
from tta_lab.studies.crowds import study as crowds

W = pytest.importorskip("ipywidgets")
go = pytest.importorskip("plotly.graph_objects")
pytest.importorskip("anywidget")
TINY = crowds.Plan(rounds=2, per_shift=20, batch=10, lr=5e-3, seeds=1)


@dataclass(frozen=True)
class Sample(Part):
    """One knob of each kind."""

    lr: float = knob(1e-3, (0.0, 10.0, "log"), "step size", paper="eq. 3")
    tau: float = knob(2.0, (1e-2, 1e2, "log"), "softness")
    share: float = knob(0.4, (0.0, 1.0), "share kept", unit="images / images")
    window: int = knob(16, (2, 1024), "images in the window", unit="images")
    rule: str = knob("adam", choices=("adam", "sgd"), why="optimiser")
    nesterov: bool = knob(False, why="look ahead")


# --- controls

def test_each_kind_of_knob_has_its_widget_with_its_range():
    c = controls(Sample())
    kinds = {name: type(widget) for name, widget in c.items()}
    assert kinds == {
        "lr": W.FloatLogSlider, "tau": W.FloatLogSlider, "share": W.FloatSlider,
        "window": W.IntSlider, "rule": W.Dropdown, "nesterov": W.Checkbox
    }
    assert (c["tau"].base, c["tau"].min, c["tau"].max) == (10, -2, 2)
    # a log slider never reaches 0
    assert c["lr"].min == pytest.approx(math.log10(1e-3) - 4) and c["lr"].max == 1
    assert (c["share"].min, c["share"].max, c["share"].step) == (0, 1, 0.01)
    assert (c["window"].min, c["window"].max) == (2, 1024) and [o[1] for o in c["rule"].options
                                                                ] == ["adam", "sgd"]
    assert all(c[name].continuous_update is False for name in ("lr", "tau", "share", "window"))
    assert values(c) == {k.name: k.default for k in knobs(Sample())}
    assert all(widget.description == name for name, widget in c.items())


def test_tooltip_says_sentence_range_unit_and_place_in_the_paper():
    c = controls(Sample())
    assert c["lr"].tooltip == "step size; 0 to 10, log scale; paper: eq. 3"
    assert c["window"].tooltip == "images in the window; 2 to 1024; unit: images"
    assert c["rule"].tooltip == "optimiser; one of adam, sgd" and c[
        "nesterov"].tooltip == "look ahead; yes or no"


@pytest.mark.parametrize(
    "recipe",
    [make("wisdom_of_crowds", lr=3e-4),
     make("tent").where(*make("wisdom_of_crowds").select)], ids=str)
def test_what_the_controls_say_is_a_recipe(recipe):
    c = controls(recipe)
    assert set(c) == {k.name for k in knobs(recipe)} and with_knobs(recipe, **values(c)) == recipe
    c["update.lr"].value = 1e-2
    assert with_knobs(recipe, **values(c)) == with_knobs(recipe, lr=1e-2)


def test_values_that_cannot_be_shown_are_refused():
    with pytest.raises(ValueError, match="lr = 0.0 has no place on a log slider; give a positive "
                                         "value"):
        controls(Sample(lr=0.0))
    lr = find(make("tent"), "lr")
    assert lr.name == "update.lr" and (narrow(lr, 1e-2, 1e-1).value, narrow(
        lr, 1e-2).high) == (1e-2, 10.0)
    with pytest.raises(ValueError, match="update.lr goes from 0 to 10; 0.1 to 100 is not a part "
                                         "of that"):
        narrow(lr, 0.1, 100)
    with pytest.raises(ValueError, match="no knob 'lrr'; its knobs are: .*update.lr"):
        find(make("tent"), "lrr")


def test_parameter_table_has_a_row_for_every_knob():
    rows = {row["name"]: row for row in parameter_table(Sample(window=8))}
    assert rows["window"] == {
        "name": "window", "value": 8, "default": 16, "range": "2 to 1024",
        "sentence": "images in the window", "unit": "images", "paper": ""
    }
    assert rows["lr"]["range"] == "0 to 10, log scale" and rows["rule"][
        "range"] == "one of adam, sgd"
    recipe = make("wisdom_of_crowds")
    assert [row["name"] for row in parameter_table(recipe)] == [k.name for k in knobs(recipe)]
    assert all(row["sentence"] and row["sentence"] in hint(k)
               for row, k in zip(parameter_table(recipe), knobs(recipe), strict=True))


# --- the function under the panel

def test_reference_is_the_bn_run_on_the_same_images():
    trace = crowds.one_run(5e-3, True, True, 1.0, 2, TINY)
    alone = dict(
        crowds_runner.runs({"bn": make("batch_norm")}, {"open": TINY.open},
                           crowds_wrapping_embedded.load_model(TINY.model_name)))["open", "bn", 0]
    np.testing.assert_array_equal(
        crowds.reference(trace)["error"],
        crowds.diagnose.error_per_round(alone)["error"])
    np.testing.assert_array_equal(alone["prediction"], trace["source_prediction"])
    trace.meta["source_statistics"] = "running"
    with pytest.raises(ValueError, match="not recorded with batch statistics"):
        crowds.reference(trace)


def test_callback_sees_every_batch_and_stop_ends_the_run():
    seen = []
    trace = crowds.one_run(5e-3, False, False, 0.0, 2, TINY, each=lambda t: seen.append(len(t)),
                           stop=lambda: len(seen) == 3)
    assert seen == [10, 20, 30] and len(trace) == 30 and trace["known"].all()


# --- the panel

@pytest.fixture(scope="module")
def headless():
    return crowd_panel(TINY, interactive=False, device="cpu")


def test_headless_panel_has_run_once_and_holds_the_numbers(headless):
    assert headless.error is None and not headless.running
    assert headless.settings == {
        "lr": 5e-3, "unknown_ratio": 1.0, "rounds": 2, "filtered": True, "diverse": True
    }
    direct = crowds.one_run(**headless.settings, plan=TINY, device="cpu")
    np.testing.assert_array_equal(headless.trace["prediction"], direct["prediction"])
    expected = crowds.summary(direct)
    assert all(headless.result[k] == pytest.approx(expected[k])
               for k in ("first", "last", "mean", "kept", "auroc"))
    assert headless.result["images"] == 2 * 6 * 40 and headless.result[
        "rounds"] == 2 and headless.result["stopped"] is False
    assert f"in the last {expected['last']:.1f} %" in headless.message and headless.message.startswith(
        "Done, 2 rounds.")
    assert headless.message in headless.status.value


def test_headless_figures_are_plain_and_show_the_numbers(headless):
    figures = [headless.error_figure, headless.fall_figure, headless.rise_figure]
    assert all(type(figure) is go.Figure for figure in figures)
    base, previous, run = headless.error_figure.data
    np.testing.assert_allclose(run.y, [headless.result["first"], headless.result["last"]])
    np.testing.assert_allclose(base.y, [headless.result["bn_first"], headless.result["bn_last"]])
    assert [line.name for line in (base, previous, run)] == ["BN-1", "previous run", "this run"
                                                             ] and len(previous.y) == 0
    # shares of the falling
    np.testing.assert_allclose(np.sum([line.y for line in headless.fall_figure.data], axis=0), 1)
    # shares of each group
    np.testing.assert_allclose([np.sum(line.y[:-1]) for line in headless.rise_figure.data], 1)
    for figure in figures:
        looks = {(line.line.color, line.line.dash) for line in figure.data}
        assert len({dash for _, dash in looks
                    }) == 3 and figure.layout.height and figure.layout.margin.t <= 40


def test_every_control_is_labelled_and_explained(headless):
    for widget in [*headless.controls.values(), headless.run_button, headless.stop_button]:
        assert widget.description and widget.tooltip
    lr = headless.controls["lr"]
    assert (lr.min, lr.max) == (-4, -1) and "Tent 2006.10726" in lr.tooltip
    assert (headless.controls["unknown_ratio"].min, headless.controls["unknown_ratio"].max) == (0,
                                                                                                2)


def test_settings_are_told_in_words():
    panel = crowd_panel(TINY)
    assert "Tent with the filter and the diversity term, learning rate 0.005, 1 unknown per known image, 2 rounds" in panel.description.value
    for name, value in {
            "lr": 1e-3, "filtered": False, "diverse": False, "unknown_ratio": 0.0, "rounds": 5
    }.items():
        panel.controls[name].value = value
    assert "Settings: Tent alone, learning rate 0.001, no unknown images (closed set), 5 rounds." in panel.description.value
    assert panel.settings == {} and panel.trace is None
    assert panel.message == "Nothing has run yet: press Run."


def test_second_run_is_ignored_and_stop_ends_within_one_batch(monkeypatch):
    panel = crowd_panel(TINY, device="cpu")
    gate = threading.Event()
    calls = []
    after = panel._after_batch

    def slow(trace):
        after(trace)
        calls.append(len(trace))
        assert gate.wait(30)

    monkeypatch.setattr(panel, "_after_batch", slow)
    panel.run_button.click()
    thread = panel._thread
    wait_for(lambda: calls)
    assert panel.running and panel.run_button.disabled and not panel.stop_button.disabled
    assert panel.progress.value == 20
    panel.run_button.click()
    assert panel._thread is thread and "this press of Run was ignored" in panel.message
    panel.stop_button.click()
    assert panel.message == "Stopping after the batch in work."
    gate.set()
    assert panel.wait(30) and panel.error is None
    assert calls == [20] and len(panel.trace) == 20 and panel.result["stopped"] is True
    assert panel.message.startswith("Stopped in round 1. Error in the first round")
    assert not panel.run_button.disabled and panel.stop_button.disabled

    # the next run starts fresh and keeps the earlier one as reference
    monkeypatch.setattr(panel, "_after_batch", after)
    panel.run_button.click()
    assert panel.wait(60) and panel.result["stopped"] is False and len(panel.trace) == 480
    assert panel.error_figure.widget and list(panel.error_figure.data[1].x) == [0]
    np.testing.assert_allclose(panel.error_figure.data[2].y,
                               crowds.diagnose.error_per_round(panel.trace)["error"])


def test_stop_before_the_first_batch_is_not_an_error(monkeypatch):
    panel = crowd_panel(TINY, device="cpu")
    real = crowds.one_run
    monkeypatch.setattr(crowds, "one_run", lambda *a, stop, **k: real(*a, stop=lambda: True, **k))
    panel.run_button.click()
    assert panel.wait(30) and panel.error is None and panel.result == {}
    assert panel.message == "Stopped before the first batch: there is nothing to show."


@pytest.mark.parametrize("interactive", [True, False])
def test_an_error_is_shown_kept_and_overcome(monkeypatch, interactive):
    def broken(*args, **kwargs):
        raise ValueError("the <disk> is full.")

    real = crowds.one_run
    monkeypatch.setattr(crowds, "one_run", broken)
    panel = crowd_panel(TINY, interactive=interactive, device="cpu")
    if interactive:
        panel.run_button.click()
        assert panel.wait(30)
    assert isinstance(panel.error, ValueError) and panel.message.startswith("Failed with "
                                                                            "ValueError: the "
                                                                            "<disk> is full. ")
    assert "&lt;disk&gt;" in panel.status.value and not panel.running
    assert not panel.run_button.disabled
    monkeypatch.setattr(crowds, "one_run", real)
    panel.run_button.click()
    assert panel.wait(60) and panel.error is None and panel.message.startswith("Done, 2 rounds.")


def test_an_error_in_a_callback_of_a_control_is_kept_too(monkeypatch):
    panel = crowd_panel(TINY)
    monkeypatch.setattr(panel, "describe", lambda: 1 / 0)
    panel.controls["rounds"].value = 7
    assert isinstance(panel.error, ZeroDivisionError) and "ZeroDivisionError" in panel.message


def wait_for(condition, seconds=30):
    end = threading.Event()
    for _ in range(seconds * 50):
        if condition():
            return
        end.wait(0.02)
    raise AssertionError("waited in vain")


def test_display_is_one_box_with_controls_or_plain_figures(headless, capsys, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    headless._ipython_display_()
    assert shown == [headless.error_figure, headless.fall_figure, headless.rise_figure]
    assert " ".join(
        capsys.readouterr().out.split()) == f"Settings: {headless.describe()}. {headless.message}"
    shown.clear()
    panel = crowd_panel(TINY)
    panel._ipython_display_()
    assert isinstance(shown[0], W.VBox) and all_in(shown[0]).issuperset(
        figure.widget for figure in (panel.error_figure, panel.fall_figure, panel.rise_figure))
    assert all_in(shown[0]).issuperset({*panel.controls.values(), panel.run_button, panel.status})


def test_control_label_replaces_the_name():
    assert control(knobs(Sample())[0], "learning rate").description == "learning rate"


def test_a_live_figure_takes_the_width_of_its_place_and_the_theme_of_the_page():
    panel = crowd_panel(TINY)
    view = panel.error_figure.widget
    layout = json.loads(view.spec)["layout"]
    assert layout["autosize"] is True and "width" not in layout and layout["height"] < 250
    assert view.label == "Error per round" and "tta-figure" in view._esm and "Plots.resize" in view._esm


def test_chips_say_in_a_few_words_what_will_run():
    panel = crowd_panel(TINY)
    panel.controls["diverse"].value = False
    assert panel.words() == ["learning rate 0.005", "unknown per known 1", "rounds 2", "filter: learn where d >= 0"]
    panel.controls["rounds"].value = 3
    said = panel.description.value
    assert "<span role=\"listitem\">rounds 3</span>" in said
    assert said.index("rounds 3</span>") < said.index("<details>") < said.index("Settings: Tent with the filter")
