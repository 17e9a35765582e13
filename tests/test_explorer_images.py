"""From a number to its images: which rows a place of a figure stands for, what is said of them, and
what a shift does before anything runs."""
import numpy as np
import pytest

from tta_lab import load
from tta_lab.analysis.timelines import split
from tta_lab.core.trace import Trace
from tta_lab.panels.explorer_runs import RunState
from tta_lab.panels.explorer_state import FAST, ExplorerState
from tta_lab.studies.explorer import images as I
from tta_lab.studies.explorer.stored import stored_run


@pytest.fixture(scope="module")
def runs():
    s = ExplorerState({}, 0, dict(FAST))
    found = RunState(s)
    found.add(stored_run(s.choice))
    return found


def test_kinds_are_those_of_the_trace(runs):
    t = runs.trace
    wrong = I.rows_where(t, I.Where(kind="wrong"), "confidence")
    assert set(wrong) == set(np.flatnonzero(split(t)["wrong"]))
    assert (np.diff(t["confidence"][wrong]) <= 0).all()
    fallen = I.rows_where(t, I.Where(kind="fallen"), "d")
    assert set(fallen) == set(np.flatnonzero(t["rise_source"] < 0))
    assert (np.diff(t["rise_source"][fallen]) >= 0).all()
    some = I.rows_where(t, I.Where(first=25, stop=75, predicted=3, true=2))
    assert set(some) == {i for i in range(25, 75) if t["prediction"][i] == 3 and t["label"][i] == 2}
    fog = I.rows_where(t, I.Where(shift="fog"))
    assert set(t["segment"][fog]) == {t.meta["segments"].index("fog")} and len(fog) == 100
    assert I.say_where(I.Where(0, 25, "wrong"), 3, t, runs.classes) == (
        "3 of 400 images: images 1 to 25, wrong.")


def test_what_does_not_exist_is_named(runs):
    for where, said in ((I.Where(kind="wrnog"), "did you mean 'wrong'"),
                        (I.Where(shift="rain"), "no shift 'rain'")):
        with pytest.raises(ValueError, match=said):
            I.rows_where(runs.trace, where)
    bare = Trace.from_columns({**runs.trace.columns(), "label": np.full(400, -1)},
                              runs.trace.columns("steps"), runs.trace.meta)
    with pytest.raises(ValueError, match="needs labels"):
        I.rows_where(bare, I.Where(kind="wrong"))
    assert len(I.rows_where(Trace(), I.Where(kind="fallen"))) == 0


def test_a_place_of_a_figure_stands_for_its_images(runs):
    t = runs.trace
    errors, predictions = runs.look()
    assert I.where_of_click("errors", 0, 50.0, 10.0, errors, t) == I.Where(25, 50)   # the end of a batch
    assert I.where_of_click("errors", 0, 50.5, 10.0, errors, t) == I.Where(50, 75)
    assert I.where_of_click("errors", 0, 1e9, 0.0, errors, t) == I.Where(375, 400)
    fall = I.where_of_click("errors", 1, errors["fall"]["image"][2], 0.4, errors, t)
    rows = I.rows_where(t, fall)
    share = len(rows) / (fall.stop - fall.first)
    told = {g: s[2] for g, s in errors["fall"]["share"].items()}
    assert min(told.values()) <= share <= max(told.values())
    edges = predictions["entropy"]["edges"]
    late = I.where_of_click("predictions", 0, edges[0] + 1e-3, 0.1, predictions, t)
    drawn = sum(s[0] for s in predictions["entropy"]["share"].values()) * predictions["entropy"]["n"]
    assert len(I.rows_where(t, late)) == round(drawn)
    cell = I.where_of_click("predictions", 1, 3.4, 2.2, predictions, t)
    assert cell == I.Where(75, 100, predicted=2)
    share = predictions["classes"]["predicted"][3, 2]
    assert len(I.rows_where(t, cell)) == round(share * 25)


def test_cards_and_what_was_said_of_an_image(runs):
    t = runs.trace
    stream = runs.ran.stream
    cards = I.cards(t, stream, [0, 7], runs.classes)
    assert [c["key"] for c in cards] == [0, 7] and all(c["src"].startswith("data:image/png") for c in cards)
    assert cards[0]["badge"] in ("✓ right", "✗ wrong")
    assert I.cards(t, None, [0], runs.classes)[0]["src"] == ""
    found = I.told(t, stream, 7, runs.classes, runs.references, runs.probabilities())
    assert [a["who"] for a in found["answers"]] == ["source", "BN-1", "this run"]
    own = found["answers"][-1]
    assert own["confidence"] == pytest.approx(t["confidence"][7])
    assert own["top"][0][0] == own["class"] and own["top"][0][1] == pytest.approx(own["confidence"], abs=1e-3)


def test_a_preview_shows_what_can_be_shown():
    found = I.preview(load("fashion_mnist"), ("fog", "contrast"), 3.0)
    assert [name for name, _ in found["rows"]] == ["clean", "fog", "contrast"] and found["why"] == ""
    clean, fog, _ = (np.stack(x) for _, x in found["rows"])
    assert clean.shape == (6, 1, 28, 28) and np.abs(clean - fog).mean() > 0.02
    nothing = I.preview(load("fashion_mnist"), ("fog",), 0.0)["rows"]
    assert np.allclose(nothing[0][1][0], nothing[1][1][0], atol=1 / 255)
    assert "no_such" in I.preview(load("fashion_mnist"), ("no_such",), 3.0)["why"]


def test_the_view_hands_back_what_it_shows(runs):
    pytest.importorskip("anywidget")
    from tta_lab.panels.images_view import ImagesView

    view = ImagesView()
    view.show(runs.trace, runs.ran.stream, runs.classes, runs.references, runs.probabilities())
    assert view.where == I.Where(kind="wrong") and len(view.rows) == (~runs.trace["correct"]).sum()
    view.controls["predicted"].value = 3
    assert set(runs.trace["prediction"][view.rows]) == {3}
    view.all.click()
    assert len(view.rows) == 400 and view.controls["predicted"].value == -1
    view.set(I.Where(300, 400, "fallen"))
    assert view.controls["kind"].value == "fallen" and len(view.rows) and view.rows.min() >= 300
