"""The zoo panel: the map follows its controls, a chosen cell is run and compared, runs follow each
other and stop, errors are kept."""
import json

import pytest
from panel_parts import all_in

from tta_lab.experiments.runner import row
from tta_lab.panels import zoo_panel as P
from tta_lab.studies.zoo import cells as zoo_cells
from tta_lab.studies.zoo import study as S
from tta_lab.studies.zoo import table as zoo_table

W = pytest.importorskip("ipywidgets")
go = pytest.importorskip("plotly.graph_objects")
pytest.importorskip("anywidget")
QUICK = {"stream": "batch_of_one", "method": "lame", "source": zoo_cells.SOURCES[0]}


@pytest.fixture(scope="module")
def zoo():
    return zoo_cells.load_zoo()


@pytest.fixture(scope="module")
def headless(zoo):
    return P.zoo_panel(zoo, interactive=False, **QUICK)


def test_headless_panel_has_run_its_cell_and_agrees_with_the_table(headless, zoo):
    assert headless.error is None and headless.result["same"] is True
    assert headless.result["error"] == float(
        f"{row(S.live(zoo_cells.SOURCES[0], 'batch_of_one', 'lame'))['error']:.5g}")
    assert ("Done, lame on batch of one" in headless.message and "reproduced" in headless.message
            and list(headless.beside) == ["BN-1", "source"])
    stored = zoo.cell(zoo_cells.SOURCES[0], "batch_of_one", "source")["errors"][0]
    # with its own statistics, not those of a batch
    assert f"source {stored:.2f} %" in headless.message
    assert type(headless.map) is go.Figure and len(headless.errors.data) == 3


def test_its_code_gives_the_same_number(headless):
    scope = {}
    exec(headless.to_code(), scope)
    assert float(f"{row(scope['trace'])['error']:.5g}") == headless.result["error"]


def test_map_follows_the_controls_and_frames_the_cell(zoo):
    panel = P.zoo_panel(zoo, **QUICK)
    assert panel.map.widget in all_in(panel.widget) and panel.map.data[1].text[0][
        0] == panel.numbers["text"][0][0]
    for name, value in (("tuning", "oracle"), ("metric", "difference"), ("order", "error"),
                        ("source", zoo_cells.MEAN), ("forms", True)):
        panel.controls[name].value = value
    expected = zoo_table.heat_map(zoo, zoo_cells.MEAN, "oracle", "difference", "error", True)
    assert panel.numbers["rows"] == expected["rows"] and [
        list(line) for line in panel.map.data[1].text
    ] == expected["text"]
    for figure in (panel.map, panel.errors, panel.predictions):
        json.dumps(figure.to_plotly_json(), allow_nan=False, default=lambda a: a.tolist())
    panel.controls["tuning"].value = "default"
    frame = next(s for s in panel.map.layout.shapes if s.type == "rect")
    assert panel.numbers["rows"][round((frame.y0 + frame.y1) / 2)] == "lame"
    assert panel.numbers["streams"][round((frame.x0 + frame.x1) / 2)] == "batch_of_one"
    # choosing what the map shows runs nothing
    assert panel.error is None and panel.result is None


def test_a_click_runs_the_cell_under_it(zoo):
    panel = P.zoo_panel(zoo, **QUICK)
    numbers = panel.numbers
    curve = [t.type for t in panel.map.data].index("heatmap")
    point = [curve, numbers["streams"].index("batch_of_one"), numbers["rows"].index("batch_norm")]
    panel.map.widget._handle_custom_msg({"points": [point]}, [])   # what the browser sends
    assert panel.wait(120) and panel.error is None
    assert panel.result["method"] == "batch_norm" and panel.controls[
        "method"].value == "batch_norm" and panel.result["same"] is True
    # 35 forwards an image: waits for Run
    panel.choose("cotta", "long_term")
    assert not panel.running and "press Run" in panel.message and panel.result[
        "method"] == "batch_norm"
    panel.controls["at_once"].value = False
    panel.choose("tent", "batch_of_one")
    assert not panel.running and panel.result["method"] == "batch_norm"


def test_another_cell_ends_the_run_in_work(zoo, monkeypatch):
    panel = P.zoo_panel(zoo, **QUICK)
    monkeypatch.setattr(panel, "seconds", lambda: 0.0)
    panel.choose("memo", "batch_of_one")
    panel.choose("batch_norm", "batch_of_one")
    assert panel.wait(120) and panel.error is None and panel.result["method"] == "batch_norm"


def test_failures_are_said_and_kept(zoo, monkeypatch):
    panel = P.zoo_panel(zoo, interactive=False, **QUICK)
    monkeypatch.setattr(P, "live", lambda *a, **k: 1 / 0)
    panel.run_button.click()
    assert isinstance(panel.error, ZeroDivisionError) and "ZeroDivisionError" in panel.message


def test_what_does_not_exist_is_named(zoo):
    with pytest.raises(ValueError, match="no control 'x'"):
        P.zoo_panel(zoo, x=1)
    with pytest.raises(ValueError, match="method must be one of"):
        P.zoo_panel(zoo, method="x")


def test_a_source_without_images_here_is_shown_and_not_run(zoo):
    other = [
        c | {"source": "cifar10_resnet20"} for c in zoo.found.values()
        if c["source"] == zoo_cells.SOURCES[0] and c["stream"] != "open_set"
    ]
    panel = P.zoo_panel(zoo_cells.Zoo.of([*zoo.found.values(), *other]), source="cifar10_resnet20")
    assert "open_set" not in panel.numbers["streams"]
    panel.run_button.click()
    assert "cannot be run here" in panel.message and panel.result is None and panel.error is None
