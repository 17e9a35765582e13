"""Every notebook runs without a browser: tiny through papermill, with numbers compared, and with its own defaults through nbval."""
import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from figure_check import faults_of, hooked, records

from tta_lab.cli import headless
from tta_lab.core.told import TOLD, told
from tta_lab.experiments.experiment import Experiment
from tta_lab.methods.serialise import from_json
from tta_lab.studies.crowds import study as crowds
from tta_lab.studies.streams import study as stream_study

pytest.importorskip("papermill")
ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
GOLDEN = ROOT / "tests" / "golden" / "notebooks"


@pytest.fixture(scope="module", autouse=True)
def figures(tmp_path_factory):
    """The folder in which the kernels started here keep what their notebooks draw."""
    folder = tmp_path_factory.mktemp("figures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", hooked(folder))
        yield folder


@pytest.fixture(autouse=True)
def quiet_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")


def said(cell):
    """What a cell printed or told."""
    return "".join(map(told, cell.outputs))


def numbers_that_differ(found, stored, tolerance, where=""):
    """Places where a number is further from the stored one than its tolerance allows, or a text differs."""
    if isinstance(stored, dict):
        if set(found) != set(stored):
            return [f"{where}: {sorted(found)} instead of {sorted(stored)}"]
        return [d for k in stored for d in numbers_that_differ(found[k], stored[k], tolerance.get(k), f"{where}/{k}")]
    if isinstance(stored, int | float) and isinstance(found, int | float):
        return [] if abs(found - stored) <= (tolerance or 0) else [f"{where}: {found} instead of {stored} +- {tolerance or 0}"]
    return [] if found == stored else [f"{where}: {found!r} instead of {stored!r}"]


def test_comparison_sees_what_it_should():
    stored, tolerance = {"a": {"error": 10.0, "name": "x"}}, {"a": {"error": 1.0}}
    assert numbers_that_differ({"a": {"error": 10.9, "name": "x"}}, stored, tolerance) == []
    assert numbers_that_differ({"a": {"error": 11.1, "name": "y"}}, stored, tolerance) == ["/a/error: 11.1 instead of 10.0 +- 1.0",
                                                                                           "/a/name: 'y' instead of 'x'"]
    assert numbers_that_differ({"a": {"error": None, "name": "x"}}, stored, tolerance) == ["/a/error: None instead of 10.0"]
    assert numbers_that_differ({}, stored, tolerance) == [": [] instead of ['a']"]


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    stored = json.loads((GOLDEN / "01_wisdom_of_crowds.json").read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        result = headless.execute(ROOT / "notebooks" / "01_wisdom_of_crowds.ipynb", stored["parameters"], out=tmp_path_factory.mktemp("runs"),
                                  timeout=300, say=lambda *a, **k: None)
    return stored, result


def test_tiny_run_gives_the_stored_numbers(tiny_run):
    stored, result = tiny_run
    found = json.loads(result.json.read_text())
    table = {f"{row['setting']}, {row['method']}": {k: row[k] for k in ("first", "last", "kept", "auroc")} for row in found["table"]}
    assert numbers_that_differ(table, stored["table"], {name: stored["tolerance"] for name in table}) == []
    assert found["plan"] | stored["parameters"] == found["plan"] and found["plan"]["lr"] == crowds.FAST.lr
    assert len(found["runs"]) == 2 * len(crowds.LABELS) and {"date", "torch", "tta_lab", "device"} <= set(found["made"])
    assert "open set" in result.printed and all(label in result.printed for label in crowds.LABELS.values())


def test_tiny_run_leaves_figures_for_a_page_without_network(tiny_run):
    _, result = tiny_run
    outputs = [o for c in nbformat.read(result.notebook, as_version=4).cells if c.cell_type == "code" for o in c.outputs]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    drawn = [o for o in outputs if headless.PLOTLY in o.get("data", {})]
    assert len(pictures) == 12 and len(drawn) == 3                         # the panel shows plain plotly figures
    assert not [o for o in outputs if o.output_type == "error"]
    assert not [o for o in outputs if "application/vnd.jupyter.widget-view+json" in o.get("data", {})]
    page = result.html.read_text(encoding="utf-8")
    assert all(o.data["image/png"].replace("\n", "") in page.replace("\n", "") for o in pictures)
    assert all(f'id="figure-{i}"' in page for i in (1, 2, 3))


@pytest.fixture(scope="module")
def streams_run(tmp_path_factory):
    stored = json.loads((GOLDEN / "02_streams_and_shifts.json").read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        result = headless.execute(ROOT / "notebooks" / "02_streams_and_shifts.ipynb", stored["parameters"], out=tmp_path_factory.mktemp("runs"),
                                  timeout=300, say=lambda *a, **k: None)
    return stored, result


def test_tiny_run_of_streams_gives_the_stored_numbers(streams_run):
    stored, result = streams_run
    found = json.loads(result.json.read_text())
    table = {f"{run['stream']}, {run['recipe']}": {"error": run["error"]} for run in found["runs"]}
    assert numbers_that_differ(table, stored["table"], {name: stored["tolerance"] for name in table}) == []
    order = {name: {k: round(v, 4) for k, v in s.items()} for name, s in found["statistics"].items()}
    assert order == stored["statistics"]                                   # the order is not a matter of the processor
    assert "mixed domains" in result.printed and {"date", "torch", "tta_lab", "device"} <= set(found["made"])
    assert [row["seen"] in ("yes", "reversed", "unsettled") for row in found["orderings"]] == [True] * len(stream_study.ORDERINGS)


def test_tiny_run_of_streams_leaves_figures_and_sentences(streams_run):
    _, result = streams_run
    cells = {c["id"]: c for c in nbformat.read(result.notebook, as_version=4).cells if c.cell_type == "code"}
    outputs = [o for c in cells.values() for o in c.outputs]
    assert [sum(kind in o.get("data", {}) for o in outputs) for kind in ("image/png", headless.PLOTLY)] == [6, 2]
    assert not [o for o in outputs if o.output_type == "error" or "application/vnd.jupyter.widget-view+json" in o.get("data", {})]
    words = {name: said(cells[name]) for name in ("orderings", "doctor", "wrong", "panel", "beside")}
    assert all(ordering.text[:30] in words["orderings"] for ordering in stream_study.ORDERINGS)
    assert "all well" in words["doctor"] and "[error] normalisation" in words["wrong"] and "Done, continual. Mean error" in words["panel"]
    assert "not tried" in str(cells["beside"].outputs[0]["data"])


@pytest.fixture(scope="module")
def zoo_run(tmp_path_factory):
    stored = json.loads((GOLDEN / "03_method_zoo.json").read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        result = headless.execute(ROOT / "notebooks" / "03_method_zoo.ipynb", stored["parameters"], out=tmp_path_factory.mktemp("runs"),
                                  timeout=300, say=lambda *a, **k: None)
    return stored, result


def test_tiny_run_of_the_zoo_gives_the_stored_numbers(zoo_run):
    stored, result = zoo_run
    found = json.loads(result.json.read_text())
    table = {f"{cell['stream']}, {cell['method']}": {"error": cell["error"]} for cell in found["cells"]}
    assert numbers_that_differ(table, stored["table"], {name: stored["tolerance"] for name in table}) == []
    assert all(cell["same"] for cell in found["cells"]) and found["panel"]["same"] and found["panel"]["method"] == "lame"
    assert "4 of 4 cells that have a stored number are reproduced" in result.printed and {"date", "torch", "tta_lab"} <= set(found["made"])


def test_tiny_run_of_the_zoo_leaves_figures_and_sentences(zoo_run):
    _, result = zoo_run
    assert result.notebook.stat().st_size < 1_000_000
    cells = {c["id"]: c for c in nbformat.read(result.notebook, as_version=4).cells if c.cell_type == "code"}
    outputs = [o for c in cells.values() for o in c.outputs]
    assert [sum(kind in o.get("data", {}) for o in outputs) for kind in ("image/png", headless.PLOTLY, "text/markdown")] == [2, 3, 4]
    assert not [o for o in outputs if o.output_type == "error" or "application/vnd.jupyter.widget-view+json" in o.get("data", {})]
    words = {name: said(cells[name]) for name in ("seen", "panel", "settled", "unknown")}
    assert "errs least" in words["seen"] and "Done, lame on batch of one" in words["panel"] and "not settled" in words["settled"]
    assert "error minus Tent's" in words["unknown"]


@pytest.fixture(scope="module")
def collapse_run(tmp_path_factory):
    stored = json.loads((GOLDEN / "04_collapse.json").read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        result = headless.execute(ROOT / "notebooks" / "04_collapse.ipynb", stored["parameters"], out=tmp_path_factory.mktemp("runs"),
                                  timeout=300, say=lambda *a, **k: None)
    return stored, result


def test_tiny_run_of_collapse_gives_the_stored_numbers(collapse_run):
    stored, result = collapse_run
    found = json.loads(result.json.read_text())
    errors = {"source": found["beside"]["source"], "BN-1": found["beside"]["BN-1"], "gentle": found["errors"]["gentle"]}
    assert numbers_that_differ({k: {"error": v} for k, v in errors.items()}, stored["table"], {k: stored["tolerance"] for k in errors}) == []
    assert found["errors"]["wild"] > errors["BN-1"] + 10 and found["errors"]["wild, guarded"] < found["errors"]["wild"] - 5
    assert found["alarmed"]["wild"] and not found["alarmed"]["gentle"] and found["quiet"] and {"date", "torch", "tta_lab"} <= set(found["made"])
    assert found["inside"]["after"]["entropy"] < found["inside"]["before"]["entropy"]


def test_tiny_run_of_collapse_leaves_figures_and_sentences(collapse_run):
    _, result = collapse_run
    assert result.notebook.stat().st_size < 1_000_000
    cells = {c["id"]: c for c in nbformat.read(result.notebook, as_version=4).cells if c.cell_type == "code"}
    outputs = [o for c in cells.values() for o in c.outputs]
    assert [sum(kind in o.get("data", {}) for o in outputs) for kind in ("image/png", headless.PLOTLY, "text/markdown")] == [9, 2, 1]
    assert not [o for o in outputs if o.output_type == "error" or "application/vnd.jupyter.widget-view+json" in o.get("data", {})]
    words = {name: said(cells[name]) for name in ("panel", "three-words", "shift", "evaluation-words", "sweep")}
    assert "Done, tent at x" in words["panel"] and "ALARM" in words["panel"] and "the guard acted" in words["three-words"]
    assert "Shift of the labels: a batch holds" in words["shift"] and "no proof of health" in words["evaluation-words"]
    assert "it saves most at" in words["sweep"]


@pytest.fixture(scope="module")
def explorer_run(tmp_path_factory):
    stored = json.loads((GOLDEN / "00_explorer.json").read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        result = headless.execute(ROOT / "notebooks" / "00_explorer.ipynb", stored["parameters"], out=tmp_path_factory.mktemp("runs"),
                                  timeout=300, say=lambda *a, **k: None)
    return stored, result


def test_tiny_run_of_the_explorer_gives_the_stored_numbers_and_can_be_repeated(explorer_run):
    stored, result = explorer_run
    found = json.loads(result.json.read_text())
    run = {k: found["runs"][0][k] for k in stored["run"]}
    assert numbers_that_differ(run, stored["run"], stored["tolerance"]) == []
    assert found["runs"][0]["method"] == "tent + confidence rise lr 0.01" and {"date", "torch", "tta_lab"} <= set(found["made"])
    assert Experiment.from_json(json.dumps(found["state"])).recipe.update.lr == 0.01 and "Done, tent + confidence rise lr 0.01" in result.printed


def test_tiny_run_of_the_explorer_leaves_figures_and_sentences(explorer_run):
    _, result = explorer_run
    assert result.notebook.stat().st_size < 1_000_000
    cells = {c["id"]: c for c in nbformat.read(result.notebook, as_version=4).cells if c.cell_type == "code"}
    outputs = [o for c in cells.values() for o in c.outputs]
    assert sum(headless.PLOTLY in o.get("data", {}) for o in outputs) == 3
    assert not [o for o in outputs if o.output_type == "error" or "application/vnd.jupyter.widget-view+json" in o.get("data", {})]
    words = {name: said(cells[name]) for name in ("panel", "code", "yaml")}
    assert "Wisdom of crowds" in words["panel"] and "make('tent'" in words["code"] and words["yaml"].startswith("choice: ")


@pytest.fixture(scope="module")
def your_model_run(tmp_path_factory):
    stored = json.loads((GOLDEN / "06_your_model.json").read_text())
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        result = headless.execute(ROOT / "notebooks" / "06_your_model.ipynb", stored["parameters"] | {"folder": str(folder / "case")}, out=folder,
                                  timeout=300, say=lambda *a, **k: None)
    return stored, result


def test_tiny_run_of_your_model_gives_the_stored_numbers(your_model_run):
    stored, result = your_model_run
    found = json.loads(result.json.read_text())
    run = {k: found["runs"][0][k] for k in stored["run"]}
    assert numbers_that_differ(run, stored["run"], stored["tolerance"]) == []
    assert found["caught"] == stored["caught"] and all(found["caught"].values()) and found["verdict"] == stored["verdict"]
    assert found["same"] == "All 9 label-free numbers are the same with labels and without." and {"date", "torch", "tta_lab"} <= set(found["made"])
    assert Experiment.from_json(found["runs"][0]["choice"]).model.startswith("checkpoint:") and "Verdict: do not use" in result.printed


def test_tiny_run_of_your_model_leaves_figures_and_sentences(your_model_run):
    _, result = your_model_run
    assert result.notebook.stat().st_size < 1_000_000 and (result.notebook.parents[1] / "case" / "safety.html").is_file()
    cells = {c["id"]: c for c in nbformat.read(result.notebook, as_version=4).cells if c.cell_type == "code"}
    outputs = [o for c in cells.values() for o in c.outputs]
    assert [sum(kind in o.get("data", {}) and TOLD not in str(o.data) for o in outputs)
            for kind in ("image/png", headless.PLOTLY, "text/html")] == [1, 6, 1]
    assert not [o for o in outputs if o.output_type == "error" or "application/vnd.jupyter.widget-view+json" in o.get("data", {})]
    words = {name: said(cells[name]) for name in ("model", "doctor", "faults", "plain", "free",
                                                                                       "unlabelled-safety")}
    assert "7 BatchNorm layers" in words["model"] and "nothing wrong" in words["doctor"] and words["faults"].count("■ error") == 3
    assert "NOT noticed" not in words["faults"] and " cannot: " in words["plain"] and "no labels: it answers like the source" in words["free"]
    assert "errors cannot be counted" in " ".join(words["free"].split()) and "nan" not in words["free"]
    assert "Errors not known" in words["unlabelled-safety"]


@pytest.fixture(scope="module")
def composer_run(tmp_path_factory):
    stored = json.loads((GOLDEN / "05_compose_your_own.json").read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        result = headless.execute(ROOT / "notebooks" / "05_compose_your_own.ipynb", stored["parameters"], out=tmp_path_factory.mktemp("runs"),
                                  timeout=300, say=lambda *a, **k: None)
    return stored, result


def test_tiny_run_of_the_composer_gives_the_stored_numbers(composer_run):
    stored, result = composer_run
    found = json.loads(result.json.read_text())
    table = {f"{number}, {row['run']}": {"error": row["error"]} for number, g in enumerate([*found["guided"], {"rows": found["runs"]}], 1)
             for row in g["rows"]}
    assert numbers_that_differ(table, stored["table"], {name: stored["tolerance"] for name in table}) == []
    assert from_json(found["recipe"]) and {"date", "torch", "tta_lab"} <= set(found["made"])
    assert [why.startswith("It runs.") for _, why in found["refused"]] == [False] * 6 + [True]


def test_tiny_run_of_the_composer_leaves_figures_and_sentences(composer_run):
    _, result = composer_run
    assert result.notebook.stat().st_size < 1_000_000
    cells = {c["id"]: c for c in nbformat.read(result.notebook, as_version=4).cells if c.cell_type == "code"}
    outputs = [o for c in cells.values() for o in c.outputs]
    assert [sum(kind in o.get("data", {}) for o in outputs) for kind in ("image/png", headless.PLOTLY)] == [3, 1]
    assert not [o for o in outputs if o.output_type == "error" or "application/vnd.jupyter.widget-view+json" in o.get("data", {})]
    words = {name: said(cells[name]) for name in ("slots", "filter-words", "impossible", "panel", "code")}
    assert "cannot: their objective" in words["slots"] and "It differs from wisdom_of_crowds in: objective" in words["filter-words"]
    assert "is asked by nobody" in words["impossible"] and "This is eta" in words["panel"] and "make('eta')" in words["code"]


@pytest.fixture(scope="module", params=["07_normalisation_matters", "08_lifelong"])
def curriculum_run(request, tmp_path_factory):
    stored = json.loads((GOLDEN / f"{request.param}.json").read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        result = headless.execute(ROOT / "notebooks" / f"{request.param}.ipynb", stored["parameters"], out=tmp_path_factory.mktemp("runs"),
                                  timeout=300, say=lambda *a, **k: None)
    return request.param, stored, result


def test_tiny_run_of_normalisation_and_lifelong_gives_the_stored_numbers(curriculum_run):
    name, stored, result = curriculum_run
    found = json.loads(result.json.read_text())
    if name.startswith("07"):
        table = {f"{run['source']}, {run['setting']}, {run['method']}": {"error": run["error"]} for run in found["runs"]}
        tolerance = {key: stored["tolerance_single" if ", single, " in key else "tolerance"] for key in table}
        tent = next(part for part in found["parts"] if (part["source"], part["arm"]) == ("fashion_resnet_gn", "tent"))
        assert tent["predicted"] < tent["true"] and tent["alarm"] >= 0 and min(g["correlation"] for g in found["gradients"].values()) > 0.3
    else:
        table = {run["arm"]: {what: run[what] for what in stored["tolerance"]} for run in found["runs"]}
        tolerance, away = {key: stored["tolerance"] for key in table}, {run["arm"]: run["distance"] for run in found["runs"]}
        assert away["batch_norm"] == 0 and away["tent_large"] > 5 * away["tent"] and away["rdumb_large"] < away["eta_large"]
    assert numbers_that_differ({key: table[key] for key in stored["table"]}, stored["table"], tolerance) == []
    assert {"date", "torch", "tta_lab"} <= set(found["made"])


def test_tiny_run_of_normalisation_and_lifelong_leaves_figures_and_sentences(curriculum_run):
    name, _, result = curriculum_run
    assert result.notebook.stat().st_size < 1_000_000
    cells = {c["id"]: c for c in nbformat.read(result.notebook, as_version=4).cells if c.cell_type == "code"}
    outputs = [o for c in cells.values() for o in c.outputs]
    assert sum("image/png" in o.get("data", {}) for o in outputs) == (8 if name.startswith("07") else 7)
    assert not [o for o in outputs if o.output_type == "error" or "application/vnd.jupyter.widget-view+json" in o.get("data", {})]
    words = {key: " ".join(said(cell).split()) for key, cell in cells.items()}
    assert "Done: " in words["panel"] and "one_run" in words["panel-code"] and " nan" not in " ".join(words.values()).lower()
    if name.startswith("07"):
        assert "Batch statistics (BN-1) change the error" in words["sources"] and "resets itself" in words["parts"] + words["last"]
    else:
        assert "EATA differs from ETA only by the Fisher anchor" in words["forgetting"] and "Second visit minus first" in words["visits"]


def hidden(cell):
    return headless.HIDDEN in cell.metadata.get("tags", [])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_cells_are_short_and_every_one_that_is_seen_is_introduced(path):
    cells = nbformat.read(path, as_version=4).cells
    parameters = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    code = [c for c in cells if c.cell_type == "code" and c not in parameters]
    assert all(len(c.source.splitlines()) < 10 for c in code)
    seen = [c for c in cells if not hidden(c) and c not in parameters]
    assert all(before.cell_type == "markdown" for before, c in zip(seen, seen[1:], strict=False) if c.cell_type == "code")
    assert cells[0].source.startswith("# ") and cells[1] in parameters


def only_holds(source, *kinds):
    return all(isinstance(node, kinds) for node in ast.parse(source).body)


@pytest.mark.parametrize("path", [*NOTEBOOKS, *sorted((ROOT / "notebooks" / "workshop").glob("*.ipynb"))], ids=lambda p: p.stem)
def test_code_that_only_imports_or_asserts_is_hidden(path):
    for cell in nbformat.read(path, as_version=4).cells:
        folded = cell.metadata.get("jupyter", {}).get("source_hidden", False)
        if cell.cell_type != "code":
            assert not folded
            continue
        if only_holds(cell.source, ast.Import, ast.ImportFrom, ast.Assert) or cell.id in ("imports", "last", "cell-02", "cell-30"):
            assert hidden(cell), cell.source
        assert folded == (hidden(cell) or "parameters" in cell.metadata.get("tags", [])), cell.id


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_panel_comes_before_the_findings(path):
    """After the title, parameters, imports and at most one cell that makes what the panel needs."""
    cells = nbformat.read(path, as_version=4).cells
    code = [c for c in cells if c.cell_type == "code"]
    first = next(i for i, c in enumerate(code) if c.source.rstrip().endswith("\npanel"))
    assert first <= (4 if path.stem.startswith("09") else 3)                # there a class and its check come first
    if path.stem.startswith("00"):                                         # in the first screen
        assert cells.index(code[first]) == 3 and hidden(code[first]) and len(cells[0].source) < 120


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_default_parameters_run_under_nbval(path, request):
    """As a user runs it: fast mode, widgets made. Takes about a minute; skipped where nbval collects the notebooks itself."""
    if request.config.getoption("nbval_lax", default=False):
        pytest.skip("this pytest run has --nbval-lax and collects the notebooks itself")
    pytest.importorskip("nbval")
    env = dict(os.environ, PYTHONPATH=str(ROOT), JUPYTER_PREFER_ENV_PATH="1")
    del env["IPYTHONDIR"]      # these figures are those of the tiny runs with other numbers; to check them too would double the time
    done = subprocess.run([sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout", "300", "-q",
                           "-p", "no:cacheprovider", "-o", "addopts=", str(path)],
                          env=env, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert " passed" in done.stdout and "failed" not in done.stdout


def test_every_figure_of_every_notebook_shows_all_of_itself(figures, tiny_run, streams_run, zoo_run, collapse_run, explorer_run, your_model_run,
                                                            composer_run, curriculum_run):
    """In matplotlib and in plotly, with the numbers of the runs above: see `figure_check`. Checked once, when the last notebook has run."""
    kept = records(figures)
    assert kept
    if not curriculum_run[0].startswith("08"):
        return
    named = {name for path in NOTEBOOKS for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"
             for name in re.findall(r"\bplot_\w+", cell.source)}
    seen = {name for who, kind, _ in kept for name in (*who.split(" of "), kind)} | {"plot_images", "plot_sheet"}    # of pictures alone
    assert named <= seen
    pictures = [record for record in kept if record[1] == "picture"]
    assert len(pictures) > 30
    assert [fault for record in kept for fault in faults_of(record)] == []
