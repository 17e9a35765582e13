"""The table of runs: what it lists, what a tick and a key do; and the chart of what is ticked."""
import numpy as np
import pytest

from tta_lab.core.trace import Trace
from tta_lab.experiments.kept_runs import KeptRun, KeptRuns
from tta_lab.panels.runs_table import RunsTable
from tta_lab.studies.explorer.kept import curves, paired_of


def a_run(name, wrong, stream="a", labelled=True, n=40, **facts):
    """A run over n images, the first ``wrong`` of them wrong."""
    label = np.zeros(n, np.int64) if labelled else np.full(n, -1)
    source = np.zeros(n, np.int64)
    source[::2] = 1
    meta = {"stream": {"hash": stream}, "classes": 3}

    def trace(prediction):
        return Trace.from_columns({"id": np.arange(n), "step": np.arange(n) // 10, "prediction": prediction, "label": label,
                                   "known": np.ones(n, bool), "domain": np.zeros(n, np.int64)}, {"step": np.arange(n // 10)}, meta)

    error = {"error": 100 * wrong / n, "error of source": 50.0} if labelled else {"like source": 50.0}
    return KeptRun(name, None, trace(np.where(np.arange(n) < wrong, 2, 0)), {"source": trace(source)}, {},
                   {"model": "own_net", "method": name, "seed": 0, "alarm": "none", "labelled": labelled, **error, **facts})


@pytest.fixture
def table():
    runs = KeptRuns()
    for run in (a_run("Tent", 20, ms_per_image=1.234), a_run("EATA", 4), a_run("bare", 8, labelled=False), a_run("far", 8, "b")):
        runs.add(run)
    calls = []
    found = RunsTable(runs, lambda: calls.append("changed"))
    found.calls = calls
    return found


def listed(table):
    return [r["number"] for r in table.state()["rows"]]


def test_it_lists_sorts_and_filters(table):
    state = table.state()
    assert [c["name"] for c in state["columns"]] == ["name", "model", "method", "seed", "error", "error of source", "like source", "alarm", "ms_per_image"]
    assert state["rows"][0]["cells"] == ["Tent", "own net", "Tent", "0", "50.0", "50.0", "-", "none", "1.23"]
    assert state["rows"][2]["cells"][4] == "no labels"
    table.sort_by("error")
    assert listed(table) == [2, 4, 1, 3]  # without a number last, both ways
    table.sort_by("error")
    assert listed(table) == [1, 4, 2, 3] and table.state()["sort"] == ["error", True]
    table.filter("TEN")
    assert listed(table) == [1]
    table.do({"does": "all", "on": True})
    assert table.ticked == [1] and table.calls == ["changed"]
    table.filter("nowhere")
    assert listed(table) == [] and "nowhere" in table.state()["empty"]
    with pytest.raises(ValueError, match="no column 'x'"):
        table.sort_by("x")


def test_ticks_names_and_deletion(table):
    opened = []
    table.on_open(opened.append)
    for event in ({"does": "tick", "number": 2, "on": True}, {"does": "tick", "number": 1, "on": True}, {"does": "open", "number": 2}):
        table.do(event)
    assert table.ticked == [1, 2] and table.current == 2 and opened == [2]
    table.do({"does": "rename", "number": 2, "name": "Tent"})
    assert table.wrong and "called 'Tent' already" in table.message and table.runs[2].name == "EATA"
    table.do({"does": "rename", "number": 2, "name": "<b>mine"})
    assert not table.wrong and table.state()["rows"][1]["cells"][0] == "<b>mine"
    table.refresh(looks={1: 5})
    assert table.state()["looks"]["1"].keys() == {"color", "dash", "marker"}
    table.do({"does": "delete"})
    assert list(table.runs) == [3, 4] and table.ticked == [] and table.current is None and "2 runs deleted" in table.message
    table.ticked = [3]
    with pytest.raises(ValueError, match="no run 1; there are: 3, 4"):
        table.tick(1)


def test_it_saves_loads_and_writes_csv(table, tmp_path):
    table.ticked = [1, 4]
    table.do({"does": "save", "place": str(tmp_path / "kept")})
    assert "2 runs saved to" in table.message and len(list((tmp_path / "kept").glob("*.run.json"))) == 2
    table.do({"does": "csv", "place": ""})  # the place that was used last
    assert (tmp_path / "kept" / "runs.csv").read_text().count("\n") == 3
    other = RunsTable(KeptRuns())
    other.do({"does": "load", "place": str(tmp_path / "kept")})
    assert sorted(r.name for r in other.runs.values()) == ["Tent", "far"] and other.ticked == [1, 2]
    (tmp_path / "kept" / "far.run.json").write_text("{")
    third = RunsTable(KeptRuns())
    third.do({"does": "load", "place": str(tmp_path / "kept")})
    assert third.wrong and "far.run.json" in third.message and third.ticked == [1]
    third.do({"does": "load", "place": str(tmp_path / "none")})
    assert third.wrong and "no folder" in third.message


def test_a_run_that_goes_on_stays_and_names_of_references_are_taken(table):
    table.running = 2
    table.ticked = [1, 2]
    table.do({"does": "delete"})
    assert table.wrong and "still running" in table.message and list(table.runs) == [1, 2, 3, 4]
    table.current = 2
    table.do({"does": "open", "number": 1})
    assert table.wrong and "press Stop first" in table.message and table.current == 2
    table.running = None
    for name in ("source", "BN-1", "this run"):
        table.do({"does": "rename", "number": 1, "name": name})
        assert table.wrong and "choose another one" in table.message and table.runs[1].name == "Tent"
    table.ticked = []
    assert "no run to report" in table.report()


def test_ticked_runs_share_one_chart(table):
    found = curves(table.runs, [1, 2, 4])
    assert list(found["lines"]) == ["Tent", "source", "EATA"] and found["left_out"] == [4] and "far" in found["why"]
    assert found["last"] == pytest.approx({"Tent": 50, "source": 50, "EATA": 10})
    other = table.runs.add(a_run("other", 4, model="other_net"))  # its source is not the one that is drawn
    assert curves(table.runs, [1, other])["left_out"] == [other] and list(curves(table.runs, [1, other])["lines"]) == ["Tent", "source"]
    bare = curves(table.runs, [3])
    assert bare["what"].startswith("same answer") and bare["last"]["like source"] == pytest.approx(100 * 16 / 40)
    assert curves(KeptRuns(), [])["lines"] == {}
    pair = paired_of(table.runs, 1, 2)
    assert pair["difference"] == pytest.approx(-40) and "Tent" in pair["words"] and "EATA" in pair["words"]
    assert "were not shown the same images" in paired_of(table.runs, 1, 4)["words"]
    with pytest.raises(ValueError, match="no run 9"):
        paired_of(table.runs, 1, 9)
