"""The stream panel: what the controls say is a stream, refusals keep the last one, runs stop,
errors are shown and kept."""
import inspect
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from panel_parts import all_in

from tta_lab import load
from tta_lab.panels import stream_panel as P
from tta_lab.streams import protocols
from tta_lab.streams.stream import Stream
from tta_lab.studies.streams import study as P_study
from tta_lab.studies.streams import study as S

W = pytest.importorskip("ipywidgets")
go = pytest.importorskip("plotly.graph_objects")
pytest.importorskip("anywidget")
pytest.importorskip("pandas")
SMALL = {"per_shift": 10, "batch": 10, "shifts": ("fog", "contrast")}


@pytest.fixture(scope="module")
def headless():
    return P.stream_panel(interactive=False, device="cpu", **SMALL)


@pytest.fixture(scope="module")
def built():
    """One interactive panel for tests that only turn controls."""
    return P.stream_panel(device="cpu", **SMALL)


@pytest.fixture
def panel(built):
    before = {name: widget.value for name, widget in built.controls.items()}
    yield built
    for name, value in before.items():
        built.controls[name].value = value
    assert built.error is None


# --- without a browser

def test_headless_panel_has_run_once_and_holds_the_numbers(headless):
    assert headless.error is None and not headless.running and headless.incompatibility == ""
    assert list(headless.table["method"]) == ["source", "BN-1", "Tent"
                                              ] and headless.table["complete"].all()
    stream = protocols.continual(shifts=SMALL["shifts"], per_shift=10, batch=10)
    assert stream.hash == headless.stream.hash
    for method, error in zip(S.METHODS, headless.table["error_weighted"], strict=True):
        direct = S.one_run(stream, method, device="cpu")
        assert error == pytest.approx(100 * (1 - np.mean(direct["correct"])))
    assert headless.message == "Done, continual. Mean error over the domains: " + ", ".join(
        f"{m} {e:.1f} %"
        for m, e in zip(headless.table["method"], headless.table["error"], strict=True)) + "."


def test_headless_figures_are_plain_and_show_the_numbers(headless, capsys, monkeypatch):
    assert type(headless.stream_figure) is type(headless.error_figure) is go.Figure
    bars = headless.error_figure.data
    assert [bar.name for bar in bars] == ["source", "BN-1", "Tent"] and list(
        bars[0].x) == ["fog", "contrast"]
    np.testing.assert_allclose([bars[2].y[0], bars[2].y[1]],
                               headless.table.iloc[2][["error:fog",
                                                       "error:contrast"]].astype(float))
    # not told apart by colour alone
    assert len({bar.marker.pattern.shape for bar in bars}) == 3
    domains, classes = headless.stream_figure.data
    assert domains.z.shape[0] == 2 and classes.z.shape[0] == 10
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    headless._ipython_display_()
    assert shown == [headless.stream_figure, headless.error_figure]
    assert headless.message in " ".join(capsys.readouterr().out.split())


def test_every_control_is_labelled_and_explained(headless):
    for widget in [*headless.controls.values(), headless.run_button, headless.stop_button]:
        assert widget.description and widget.tooltip
    c = headless.controls
    assert [name for _, name in c["protocol"].options] == list(protocols.PROTOCOLS)
    assert (c["delta"].min, c["delta"].max) == (-2, 2) and "NOTE 2208.05117" in c["delta"].tooltip
    assert all(c[name].continuous_update is False
               for name in ("severity", "per_shift", "batch", "rounds", "delta", "ratio",
                            "unknown_ratio", "lr"))
    assert "<th" in headless.numbers.value and "<details><summary>" in headless.code.value


# --- what the controls say

@pytest.mark.parametrize("name", protocols.PROTOCOLS)
def test_each_protocol_is_said_drawn_and_rebuilt_by_code(panel, name):
    panel.controls["protocol"].value = name
    assert panel.error is None
    if name == "natural":
        assert "fashion_mnist holds no domains of its own" in panel.incompatibility
        assert "make no stream" in panel.description.value
        return
    assert panel.incompatibility == "" and f'px">{name}: ' in panel.description.value
    assert S.say_statistics(panel.stream.statistics()) in panel.description.value
    scope: dict = {}
    exec(panel.to_code(), scope)
    assert scope["stream"].hash == panel.stream.hash
    assert len(panel.stream_figure.data) == 2 + (name in ("gradual", "alternating"))
    offered = {
        control for control in ("delta", "ratio", "exponent")
        if panel.controls[control].layout.display is None
    }
    assert offered == {"delta", "ratio", "exponent"} & set(
        inspect.signature(protocols.PROTOCOLS[name]).parameters)


def test_controls_reach_the_stream(panel):
    c = panel.controls
    c["protocol"].value, c["delta"].value = "correlated", 0.031622776
    assert panel.stream.order.delta == 0.0316 and "delta=0.0316" in panel.to_code()
    c["protocol"].value = "label_shift"
    c["ratio"].value = 50.0
    c["batch"].value = 5
    assert panel.stream.order.ratio == 50 and panel.stream.batch == 5
    assert panel.stream.reset == "domain"
    c["protocol"].value = "open_set"
    # what the protocol is about
    assert c["unknown_ratio"].value == 1 and panel.stream.statistics()["unknown"] == 0.5
    c["unknown_mode"].value, c["unknown_ratio"].value = "burst", 0.5
    assert panel.stream.unknown_mode == "burst" and panel.stream.ratio == 0.5
    assert "33 % unknown" in panel.description.value
    c["protocol"].value = "closed_set"
    assert panel.stream.unknown is None and c["unknown_ratio"].layout.display == "none"
    c["protocol"].value = "batch_of_one"
    assert panel.stream.batch == 1 and c["batch"].layout.display == "none"
    c["protocol"].value = "continual"
    c["severity"].value = 2.5
    c["straddle"].value = True
    assert panel.stream.severity == 2.5 and panel.stream.straddle
    c["protocol"].value, c["straddle"].value = "cyclic", False
    assert panel.stream.shifts == ("fog",) * 3 + ("contrast",) * 3 and panel.stream.rounds == 1
    c["protocol"].value = "recurring"
    assert panel.stream.rounds == 3


def test_refused_settings_say_why_and_lose_nothing(panel):
    c = panel.controls
    accepted = panel.stream
    drawn = panel.stream_figure.data[0].z.copy()
    c["protocol"].value, c["straddle"].value = "mixed_domains", True
    assert panel.incompatibility == "mixed=True pools all shifts, so there is no border to straddle; leave straddle out"
    assert "These settings make no stream:</b> mixed=True pools" in panel.description.value
    assert "last stream that could be made" in panel.description.value
    mixed = panel.stream
    assert mixed.mixed and mixed is not accepted and panel.stream_figure.data[0].z.shape[0] == len(
        drawn)
    panel.run_button.click()
    assert not panel.running and panel.message.startswith("Nothing was run, because these "
                                                          "settings make no stream: mixed=True")
    c["straddle"].value = False
    assert panel.incompatibility == "" and panel.stream is mixed
    c["shifts"].value = ()
    assert panel.incompatibility.startswith("Stream.shifts is empty") and panel.stream is mixed
    c["shifts"].value = ("fog",)
    assert panel.incompatibility == "" and panel.stream.shifts == ("fog",)


def test_figure_shows_the_new_stream(panel):
    panel.controls["shifts"].value = ("fog", "snow", "frost")
    assert panel.stream_figure.widget and panel.stream_figure.data[0].z.shape[0] == 3
    # severities differ: a third picture
    panel.controls["protocol"].value = "gradual"
    assert len(panel.stream_figure.data) == 3
    panel.controls["protocol"].value = "continual"
    assert len(panel.stream_figure.data) == 2


def test_unknown_first_value_is_refused():
    with pytest.raises(ValueError, match="the panel has no control 'speed'; it has: protocol, "
                                         "severity"):
        P.StreamPanel("fashion_mnist", False, "cpu", 0, {"speed": 3})


# --- runs

def test_second_run_is_ignored_and_stop_ends_within_one_batch(monkeypatch):
    panel = P.stream_panel(device="cpu", **SMALL)
    gate = threading.Event()
    calls = []
    after = panel._after_batch

    def slow(method, trace, done, stream):
        after(method, trace, done, stream)
        calls.append((method, len(trace)))
        assert gate.wait(30)

    monkeypatch.setattr(panel, "_after_batch", slow)
    panel.run_button.click()
    thread = panel._thread
    wait_for(lambda: calls)
    assert panel.running and panel.run_button.disabled and not panel.stop_button.disabled
    assert panel.progress.value == 10
    panel.run_button.click()
    assert panel._thread is thread and "this press of Run was ignored" in panel.message
    # looking at another stream does not disturb the run
    panel.controls["batch"].value = 5
    panel.stop_button.click()
    assert panel.message == "Stopping after the batch in work."
    gate.set()
    assert panel.wait(30) and panel.error is None
    assert calls == [("source", 10)] and list(
        panel.table["images"]) == [10] and not panel.table["complete"].any()
    assert panel.message.startswith("Stopped on continual, source after 10 of 20 images. Mean "
                                    "error over the domains seen: source ")
    assert not panel.run_button.disabled and panel.stop_button.disabled

    # the next run starts fresh, on the stream that is drawn now
    monkeypatch.setattr(panel, "_after_batch", after)
    panel.run_button.click()
    assert panel.wait(60) and panel.error is None and panel.message.startswith(
        "Done, continual.") and list(panel.table["batches"]) == [4, 4, 4]
    assert panel.error_figure.widget and len(panel.error_figure.data[2].y) == 2


def test_stop_before_the_first_batch_is_not_an_error(monkeypatch, panel):
    real = P_study.one_run

    def stopped(*args, stop, **more):
        panel._stop.set()
        return real(*args, stop=stop, **more)

    monkeypatch.setattr(P, "one_run", stopped)
    panel.run_button.click()
    assert panel.wait(30) and panel.error is None and not len(panel.table)
    assert panel.message == "Stopped before the first batch: there is nothing to show."


def test_an_error_is_shown_kept_and_overcome(monkeypatch):
    def broken(*args, **kwargs):
        raise ValueError("the <disk> is full.")

    real = P_study.one_run
    monkeypatch.setattr(P, "one_run", broken)
    panel = P.stream_panel(interactive=False, device="cpu", **SMALL)
    assert isinstance(panel.error, ValueError) and panel.message.startswith("Failed with "
                                                                            "ValueError: the "
                                                                            "<disk> is full. ")
    assert "&lt;disk&gt;" in panel.status.value and not panel.running
    assert not panel.run_button.disabled
    monkeypatch.setattr(P, "one_run", real)
    panel.run_button.click()
    assert panel.error is None and panel.message.startswith("Done, continual.")


def test_an_error_in_a_callback_of_a_control_is_kept_too(monkeypatch):
    panel = P.stream_panel(device="cpu", **SMALL)
    monkeypatch.setattr(panel, "call", lambda: 1 / 0)
    panel.controls["rounds"].value = 2
    assert isinstance(panel.error, ZeroDivisionError) and "ZeroDivisionError" in panel.message


def test_unlabelled_images_are_run_and_not_scored():
    known = load("fashion_mnist")
    bare = replace(known, y=torch.full_like(known.y, -1))
    panel = P.StreamPanel(
        "fashion_mnist", False, "cpu", 0,
        {"protocol": "recorded", "shifts": ("fog",), "per_shift": 10, "batch": 5})
    panel.stream = Stream(bare, ("fog",), per_shift=10, batch=5)
    panel.run_button.click()
    assert panel.error is None and panel.message == ("Done, recorded. Mean error over the "
                                                     "domains: source without a labelled image, "
                                                     "BN-1 without a labelled image, Tent without "
                                                     "a labelled image.")


def wait_for(condition, seconds=30):
    end = threading.Event()
    for _ in range(seconds * 50):
        if condition():
            return
        end.wait(0.02)
    raise AssertionError("waited in vain")


def test_display_is_one_box(monkeypatch, panel):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    panel._ipython_display_()
    box, = shown
    assert isinstance(box, W.VBox)
    assert all_in(box).issuperset({*panel.controls.values(), panel.stream_figure.widget,
                                   panel.status, panel.run_button, panel.numbers})
