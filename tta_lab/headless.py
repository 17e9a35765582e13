"""Running a notebook without a browser: the executed notebook, a page that needs no network, and the numbers as JSON.

Only finished results get their final name; a failing run leaves those of an earlier one as they are.
"""
from __future__ import annotations

import ast
import copy
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PLOTLY = "application/vnd.plotly.v1+json"


class NotebookError(ValueError):
    """A notebook or a parameter that does not exist, or a value of the wrong type; nothing was run."""


class NotebookFailed(RuntimeError):
    """A cell failed; the message holds its error and the place of the partly executed notebook."""


@dataclass(frozen=True)
class Parameter:
    """One line of a notebook's ``parameters`` cell: ``name: annotation = default  # comment``."""

    name: str
    kinds: tuple[str, ...]
    default: Any
    line: str

    def value(self, given: Any) -> Any:
        """``given`` (a value, or its text from a command line) as a value of this parameter. Raises NotebookError."""
        value = given
        if isinstance(given, str) and ("str" not in self.kinds or given == "None" and "None" in self.kinds):
            try:
                value = ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(given.lower(), given))
            except (ValueError, SyntaxError):
                value = given
        kind = "None" if value is None else type(value).__name__
        if kind in self.kinds:
            return value
        if kind == "int" and "float" in self.kinds:
            return float(value)
        raise NotebookError(f"the parameter {self.name} must be {' or '.join(self.kinds)}, not {given!r}; the notebook says: {self.line}")


@dataclass(frozen=True)
class Result:
    """Where the results of a run lie (``json`` is None for a notebook without ``out_json``), and what its last cell printed."""

    notebook: Path
    html: Path
    json: Path | None
    printed: str


def notebook_folder() -> Path:
    """``notebooks/`` of the checkout, or the copy inside the installed package."""
    here = Path(__file__).resolve().parent
    return next((p for p in (here.parent / "notebooks", here / "_notebooks") if p.is_dir()), here.parent / "notebooks")


def find(name: str) -> Path:
    """A notebook by path, or by name with or without ``.ipynb``. Raises NotebookError and lists what there is."""
    for path in (Path(name), notebook_folder() / name, notebook_folder() / f"{name}.ipynb"):
        if path.is_file():
            return path.resolve()
    there = sorted(p.relative_to(notebook_folder()).with_suffix("").as_posix() for p in notebook_folder().rglob("*.ipynb")
                   if ".ipynb_checkpoints" not in p.parts)
    raise NotebookError(f"there is no notebook {name!r} in {notebook_folder()}; there are: {', '.join(there) or 'none'}")


def split_settings(pairs: Iterable[str]) -> dict[str, str]:
    """``["a=1", "b=x"]`` -> ``{"a": "1", "b": "x"}``. Raises NotebookError for anything else."""
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise NotebookError(f"--set expects NAME=VALUE, for example --set seed=1, not {pair!r}")
        settings[name] = value
    return settings


def parameters_of(notebook) -> dict[str, Parameter]:
    """The parameters declared in the cell tagged ``parameters``: literals, one a line. Raises NotebookError for other code."""
    cell = next((c for c in notebook.cells if c.cell_type == "code" and "parameters" in c.metadata.get("tags", [])), None)
    found, lines = {}, cell.source.splitlines() if cell else []
    for node in ast.parse(cell.source).body if cell else []:
        line = lines[node.lineno - 1].strip()
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0] if isinstance(node, ast.Assign) else None
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # a docstring
        if not isinstance(target, ast.Name) or node.value is None:
            raise NotebookError(f"the parameters cell may hold only lines 'name: type = value', not: {line}")
        try:
            default = ast.literal_eval(node.value)
        except ValueError as why:
            raise NotebookError(f"the default of the parameter {target.id} must be a literal: {line}") from why
        if isinstance(node, ast.AnnAssign):
            kinds = tuple(kind.split("[")[0].strip() for kind in ast.unparse(node.annotation).split("|"))
        else:
            kinds = ("None" if default is None else type(default).__name__,)
        found[target.id] = Parameter(target.id, kinds, default, line)
    return found


def settled(known: dict[str, Parameter], given: dict[str, Any], full: bool) -> dict[str, Any]:
    """The values to inject: what was asked for, checked, and what a headless run sets where the notebook has it."""
    unknown = [name for name in given if name not in known]
    if full and "fast" not in known:
        unknown.append("fast (which --full sets)")
    if unknown:
        listing = "".join(f"\n  {p.line}" for p in known.values()) or " none"
        raise NotebookError(f"this notebook has no parameter {', '.join(unknown)}; it has:{listing}")
    values = {name: known[name].value(value) for name, value in given.items()}
    if full and values.get("fast") is True:
        raise NotebookError("--full and fast=True contradict each other; leave one of them out")
    usual = {"interactive": False, **({"fast": False} if full else {})}
    return {**{name: value for name, value in usual.items() if name in known}, **values}


def kernel_manager():
    """A kernel manager whose only kernel is this very interpreter, whatever kernels are registered on the machine.

    On Unix it speaks over sockets in a private folder: TCP ports clash when many kernels start at once.
    """
    from ipykernel.kernelspec import make_ipkernel_cmd
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    from .bootstrap import checkout, child_environment

    env = {"OMP_WAIT_POLICY": "PASSIVE", "PLOTLY_RENDERER": "plotly_mimetype"}  # other renderers store 5 MB of script a figure
    env = {name: os.environ.get(name, value) for name, value in env.items()}
    env["PYTHONPATH"] = child_environment(checkout()).get("PYTHONPATH", "")

    class ThisInterpreter(AsyncKernelManager):
        def __init__(self, *args, **settings):
            folder = tempfile.TemporaryDirectory(prefix="tta-lab-") if os.name == "posix" else None
            if folder is not None and len(folder.name) < 80:  # a socket's path has room for about 100 characters
                settings |= {"transport": "ipc", "connection_file": os.path.join(folder.name, "kernel.json")}
            super().__init__(*args, **settings)
            self._folder = folder

        @property
        def kernel_spec(self):
            return KernelSpec(argv=make_ipkernel_cmd(), language="python", display_name="Python 3", env=env)

    return ThisInterpreter


class _Progress:
    """One line a code cell: position, first line of code, seconds."""

    def __init__(self, cells: int, say: Callable):
        self.cells, self.say, self.done, self.started = cells, say, 0, 0.0

    def start(self, cell, cell_index):
        self.done, self.started = self.done + 1, time.perf_counter()
        lines = (line.strip() for line in cell.source.splitlines())
        first = next((line for line in lines if line and not line.startswith("#")), "")
        self.say(f"[{self.done:2d}/{self.cells}] {first[:80]:<80}", end="", flush=True)

    def end(self, cell, cell_index, execute_reply):
        self.say(f"{time.perf_counter() - self.started:7.1f} s", flush=True)


def execute(notebook: str | Path, parameters: dict[str, Any] | None = None, full: bool = False, out: str | Path = "runs",
            timeout: float | None = None, say: Callable = print) -> Result:
    """Run a notebook with these parameters and write ``<out>/<name>-<fast|full>/<name>.ipynb``, ``.html`` and ``.json``.

    ``full`` sets the notebook's ``fast`` to False; ``interactive`` becomes False and ``out_json`` a path, where the notebook
    has them. ``timeout``: seconds for one cell. Raises NotebookError before anything runs, NotebookFailed when a cell fails;
    the partly executed notebook is then ``<name>.failed.ipynb``, and results of an earlier run stay.
    """
    import nbformat
    import papermill

    source = Path(notebook).resolve()
    content = nbformat.read(source, as_version=4)
    known = parameters_of(content)
    values = settled(known, parameters or {}, full)
    fast = values.get("fast", known["fast"].default if "fast" in known else True)
    mode = "fast" if fast else "full"
    folder = Path(out).resolve() / f"{source.stem}-{mode}"
    final = {kind: folder / f"{source.stem}.{kind}" for kind in ("ipynb", "html", "json")}
    part = {kind: folder / f"{source.stem}.part.{kind}" for kind in final}
    failed = folder / f"{source.stem}.failed.ipynb"
    if "out_json" in known:
        values.setdefault("out_json", str(part["json"]))
    folder.mkdir(parents=True, exist_ok=True)
    for path in part.values():
        path.unlink(missing_ok=True)
    logging.getLogger("papermill").setLevel(logging.ERROR)  # its own reading of the parameters cell warns about lines that are fine
    progress = _Progress(sum(c.cell_type == "code" and bool(c.source.strip()) for c in content.cells) + bool(values), say)
    say(f"{source.name}, {mode}: {', '.join(f'{k}={v!r}' for k, v in values.items() if k != 'out_json') or 'no parameters'}", flush=True)
    try:
        executed = papermill.execute_notebook(
            _literal(source), _literal(part["ipynb"]), values, kernel_name="python3", language="python", cwd=str(source.parent),
            progress_bar=False, store_widget_state=False, execution_timeout=timeout, kernel_manager_class=kernel_manager(),
            on_cell_execute=progress.start, on_cell_executed=progress.end)
        has_json = values.get("out_json") == str(part["json"])
        if has_json:
            _check_json(part["json"])
        part["html"].write_text(to_offline_html(executed, source.stem), encoding="utf-8")
    except Exception as why:
        part["json"].unlink(missing_ok=True)
        part["html"].unlink(missing_ok=True)
        where = ""
        if part["ipynb"].is_file():
            os.replace(part["ipynb"], failed)
            where = f"\nThe notebook up to there: {failed}"
        raise NotebookFailed(f"{source.name} failed{_reason(why, progress)}{where}") from why
    failed.unlink(missing_ok=True)
    for kind, path in part.items():
        if path.is_file():
            os.replace(path, final[kind])
    return Result(final["ipynb"], final["html"], final["json"] if has_json else None, printed(executed))


def _literal(path: Path) -> str:
    """A path in which papermill, which formats its paths, replaces nothing."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _check_json(path: Path) -> None:
    if not path.is_file():
        raise RuntimeError("the notebook has a parameter out_json but wrote nothing there; its last cell should")
    json.loads(path.read_text(encoding="utf-8"))


def _reason(why: Exception, progress: _Progress) -> str:
    from papermill.exceptions import PapermillExecutionError

    text = f" after {progress.done} of {progress.cells} code cells: {type(why).__name__}: {why}"
    if isinstance(why, PapermillExecutionError):
        text = f" in code cell {progress.done} of {progress.cells}: {why.ename}: {why.evalue}\n\n" + "\n".join(why.traceback)
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def printed(notebook) -> str:
    """What the last code cell printed to standard output."""
    cells = [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]
    return "".join(o.text for o in cells[-1].outputs if o.output_type == "stream" and o.name == "stdout") if cells else ""


def to_offline_html(notebook, title: str) -> str:
    """A notebook as one HTML page that asks nothing of the network.

    Plotly figures are drawn by the one copy of plotly.js (5 MB) that the first of them carries; stored widget state is
    left out, since it is only drawn with scripts from elsewhere. Formulas stay in their TeX form for the same reason.
    """
    from nbconvert import HTMLExporter

    page = copy.deepcopy(notebook)
    page.metadata.pop("widgets", None)
    figures = 0
    for output in (o for c in page.cells if c.cell_type == "code" for o in c.outputs):
        figure = output.get("data", {}).get(PLOTLY)
        if figure is None:
            continue
        import plotly.io

        picture = {part: figure[part] for part in ("data", "layout", "frames") if part in figure}
        output.data = {"text/html": plotly.io.to_html(
            picture, config=figure.get("config"), full_html=False, include_mathjax=False, include_plotlyjs=figures == 0,
            validate=False, div_id=f"figure-{figures + 1}")}
        figures += 1
    exporter = HTMLExporter(mathjax_url="", require_js_url="", mermaid_js_url="", embed_images=True)
    html = exporter.from_notebook_node(page, resources={"metadata": {"name": title}})[0]
    return re.sub(r'<script src="">\s*</script>', "", html)  # what the empty addresses leave behind
