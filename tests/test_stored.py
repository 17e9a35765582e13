"""Panels open with stored numbers of their default choice, marked as stored, and of nothing else."""
import json
from dataclasses import replace

import numpy as np
import pytest

from tta_lab.studies import stored
from tta_lab.studies.collapse.study import Setting

pytest.importorskip("ipywidgets")
pytest.importorskip("anywidget")
from tta_lab.panels.collapse_panel import collapse_panel  # noqa: E402
from tta_lab.panels.lifelong_panel import lifelong_panel  # noqa: E402
from tta_lab.panels.norm_panel import norm_panel  # noqa: E402

TINY = Setting(per_shift=40, batch=20)


def test_a_panel_opens_with_the_stored_numbers_of_exactly_its_choice(monkeypatch):
    """Marked as stored, gone when something else is chosen, back when it is chosen again."""
    panel = collapse_panel(at_once=False)
    assert panel.message.startswith("Stored, made with TTA Lab ") and "press Run to make it anew. Done, tent at x 1" in panel.message
    assert panel.result is None and panel.state == "calm" and any(len(t.y) for t in panel.signals.data)
    panel.controls["factor"].value = 3.0
    assert panel.message == "Nothing has run yet: press Run." and panel.state == "none"
    assert not any(len(t.y) for t in panel.signals.data if t.y is not None)
    panel.controls["factor"].value = 1.0
    assert panel.message.startswith("Stored, ") and panel.state == "calm"
    assert collapse_panel(replace(TINY)).message.startswith("Nothing has run yet")


def test_what_is_stored_comes_back_as_it_was_and_is_small():
    numbers = {"a": np.array([1.234567, np.nan]), 2: [("x", np.int64(3)), (np.array([True]), float("nan"))], "t": np.array([[1, 2]])}
    back = stored.unpacked(json.loads(json.dumps(stored.packed(numbers), allow_nan=False)))
    assert np.allclose(back["a"], [1.2346, np.nan], equal_nan=True) and back[2][0] == ("x", 3) and back["t"].tolist() == [[1, 2]]
    assert back[2][1][0].dtype == bool and np.isnan(back[2][1][1])
    assert stored.PLACE.stat().st_size < 300_000


def test_stored_numbers_are_those_of_a_fresh_run():
    panel = collapse_panel(interactive=False)
    numbers, said, _ = stored.stored(panel.to_code())
    for name, value in panel.result["whole"].items():
        assert abs(numbers["whole"][name] - value) < 1.0                   # another processor may change a few predictions
    assert said.startswith("Done, tent at x 1: error") and numbers["step"].tolist() == panel.result["step"].tolist()


def test_the_panels_with_pictures_open_with_them_too():
    for panel, other in ((norm_panel(), {"batch": 64}), (lifelong_panel(), {"rate": 80.0})):
        assert panel.message.startswith("Stored, ") and panel.frame.label.startswith("Error so far: this run")
        for name, value in other.items():
            panel.controls[name].value = value
        assert panel.message.startswith("Nothing has run yet") and panel.frame.label == "Nothing has run yet."
