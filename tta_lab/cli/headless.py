"""Running a notebook without a browser: the executed notebook, a page that needs no network, and
the numbers as JSON.

Only finished results get their final name; a failing run leaves those of an earlier one as they
are, and two runs never write to one folder at once. Relative paths mean the folder where the run
was asked for; the folder of the notebook is on Python's path.
"""
from __future__ import annotations

import ast
import contextlib
import copy
import difflib
import io
import json
import keyword
import logging
import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.arguments import flag, number, path_of, plain
from ..core.files import write_text
from ..core.told import told

HIDDEN = "hide-input"  # tag of cells that import, assert or write: their code is not shown
PLOTLY = "application/vnd.plotly.v1+json"
# former names of parameters, which are understood
RENAMED = {"model_from": "model", "images_from": "images"}


class NotebookError(ValueError):
    """A notebook or a parameter that does not exist, or a value of the wrong type; nothing was
    run."""


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
        """``given`` (a value, or its text from a command line) as a value of this parameter, in
        Python's own types. Raises NotebookError.

        A text for a parameter that is one stays as it is, but for "None" where None is allowed. A
        Path is a text; numbers of NumPy and PyTorch are numbers; a list, tuple, range or array is a
        list where the notebook has a list.
        """
        value = _own(given)
        if isinstance(value, str) and ("str" not in self.kinds or
                                       value == "None" and "None" in self.kinds):
            value = _read(value)
        kind = "None" if value is None else type(value).__name__
        if kind in self.kinds:
            return value
        if kind == "int" and "float" in self.kinds:
            return float(value)
        if kind == "float" and "int" in self.kinds and value.is_integer():
            return int(value)
        for other, make in (("list", list), ("tuple", tuple)):
            if kind in ("list", "tuple") and other in self.kinds:
                return make(value)
        raise NotebookError(
            f"the parameter {self.name} must be {' or '.join(self.kinds)}, not {given!r}; the "
            f"notebook says: {self.line}"
        )


def _own(value):
    """A value as Python's own types have it: numbers and arrays of other libraries, paths, ranges,
    and what lists and dicts hold."""
    value = plain(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # an array, a tensor
        return _own(value.tolist())
    if isinstance(value, (list, tuple, range)):
        return (tuple if isinstance(value, tuple) else list)(map(_own, value))
    if isinstance(value, dict):
        return {_own(k): _own(v) for k, v in value.items()}
    for kind in (bool, int, float, str):  # numpy.str_, an IntEnum
        if isinstance(value, kind):
            return kind(value) if kind is not str else str.__str__(value)
    return value


def _read(text: str):
    """The value that a text on the command line stands for; the text itself where it stands for
    none."""
    word = text.strip()
    try:
        return ast.literal_eval({"true": "True", "false": "False",
                                 "none": "None"}.get(word.lower(), word))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    for kind in (int, float):  # "01", "inf"
        with contextlib.suppress(ValueError):
            return kind(word)
    return text


def _code(value) -> str:
    """A value as code that makes an equal one, on one line."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    if isinstance(value, list):
        return f"[{', '.join(map(_code, value))}]"
    if isinstance(value, tuple):
        return f"({''.join(f'{_code(v)}, ' for v in value).rstrip()})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_code(k)}: {_code(v)}' for k, v in value.items())}}}"
    return repr(value)


@dataclass(frozen=True)
class Result:
    """Where the results of a run lie (``json`` is None for a notebook without ``out_json``), and
    what its last cell printed."""

    notebook: Path
    html: Path
    json: Path | None
    printed: str


def notebook_folder() -> Path:
    """``notebooks/`` of the checkout, or the copy inside the installed package."""
    here = Path(__file__).resolve().parents[1]
    return next((p for p in (here.parent / "notebooks", here / "_notebooks") if p.is_dir()),
                here.parent / "notebooks")


def find(name: str | Path) -> Path:
    """A notebook by path, or by name with or without ``.ipynb``. Raises NotebookError and lists
    what there is."""
    place = _argument(path_of, "notebook", name)
    for path in (place, notebook_folder() / place, notebook_folder() / f"{place}.ipynb"):
        if path.is_file():
            return path.resolve()
    there = sorted(
        p.relative_to(notebook_folder()).with_suffix("").as_posix()
        for p in notebook_folder().rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
    near = difflib.get_close_matches(place.stem, there, 1)
    raise NotebookError(
        f"there is no notebook {str(name)!r}, neither here nor in {notebook_folder()}"
        f"{f'; did you mean {near[0]}?' if near else '.'} There are: {', '.join(there) or 'none'}")


def _argument(check: Callable, name: str, value, *bounds):
    """A value checked as `arguments` does; a notebook's run has one kind of error."""
    try:
        return check(name, value, *bounds)
    except ValueError as why:
        raise NotebookError(str(why)) from why


def split_settings(pairs: Iterable[str]) -> dict[str, str]:
    """``["a=1", "b=x=y"]`` -> ``{"a": "1", "b": "x=y"}``. Raises NotebookError for anything else,
    and for a name that comes twice."""
    settings: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier() or keyword.iskeyword(name):
            raise NotebookError(f"--set expects NAME=VALUE, for example --set seed=1, not {pair!r}")
        if name in settings:
            raise NotebookError(
                f"--set names {name} twice, as {settings[name]!r} and as {value!r}; leave one of "
                "them out"
            )
        settings[name] = value
    return settings


def opened(path: Path):
    """The notebook in a file, in the present format. Raises NotebookError, naming the file, where
    there is none in it."""
    import nbformat

    try:
        text = path.read_text(encoding="utf-8")
        content = nbformat.read(io.StringIO(text), as_version=4)
        content = nbformat.from_dict(content)  # those of old formats are of another class
        nbformat.validate(content)
    except UnicodeDecodeError as why:
        raise NotebookError(f"{path} is no notebook: it is not text in UTF-8 ({why})") from why
    except Exception as why:  # nbformat has many errors for this
        what = "the file is empty" if not text.strip() else (str(why).splitlines() or
                                                             [type(why).__name__])[0][:200]
        raise NotebookError(
            f"{path} is no notebook, or a damaged one ({what}); open it in JupyterLab and save it "
            "again, or restore it"
        ) from why
    return content


def parameters_of(notebook) -> dict[str, Parameter]:
    """The parameters declared in the cell tagged ``parameters``: literals, one a line. Raises
    NotebookError for other code."""
    cell = next((c for c in notebook.cells
                 if c.cell_type == "code" and "parameters" in c.metadata.get("tags", [])), None)
    found, lines = {}, cell.source.splitlines() if cell else []
    try:
        nodes = ast.parse(cell.source).body if cell else []
    except SyntaxError as why:
        raise NotebookError(
            f"the parameters cell is not Python: {why.msg} in line {why.lineno}: "
            f"{(why.text or '').strip()}"
        ) from why
    for node in nodes:
        line = lines[node.lineno - 1].strip()
        target = node.target if isinstance(
            node, ast.AnnAssign) else node.targets[0] if isinstance(node, ast.Assign) else None
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # a docstring
        if not isinstance(target, ast.Name) or node.value is None:
            raise NotebookError(
                f"the parameters cell may hold only lines 'name: type = value', not: {line}")
        try:
            default = ast.literal_eval(node.value)
        except ValueError as why:
            raise NotebookError(
                f"the default of the parameter {target.id} must be a literal: {line}") from why
        if isinstance(node, ast.AnnAssign):
            kinds = tuple(
                kind.split("[")[0].strip() for kind in ast.unparse(node.annotation).split("|"))
        else:
            kinds = ("None" if default is None else type(default).__name__,)
        found[target.id] = Parameter(target.id, kinds, default, line)
    return found


def settled(known: dict[str, Parameter], given: dict[str, Any], full: bool) -> dict[str, Any]:
    """The values to inject: what was asked for, checked, and what a headless run sets where the
    notebook has it."""
    given = _with_new_names(known, given)
    unknown = [name for name in given if name not in known]
    if full and "fast" not in known:
        unknown.append("fast (which --full sets)")
    if unknown:
        listing = "".join(f"\n  {p.line}" for p in known.values()) or " none"
        raise NotebookError(
            f"this notebook has no parameter {', '.join(unknown)}; it has:{listing}")
    values = {name: known[name].value(value) for name, value in given.items()}
    if full and values.get("fast") is True:
        raise NotebookError("--full and fast=True contradict each other; leave one of them out")
    usual = {"interactive": False, **({"fast": False} if full else {})}
    return {**{name: value for name, value in usual.items() if name in known}, **values}


def _with_new_names(known: dict[str, Parameter], given: dict[str, Any]) -> dict[str, Any]:
    """The values by the present names of their parameters, where a notebook has these only. Raises
    NotebookError for a value under both names."""
    moved = {
        old: new for old, new in RENAMED.items()
        if old in given and old not in known and new in known
    }
    if "looked_at" in known and str(given.get("images", "")).strip().isdigit():
        moved["images"] = "looked_at"  # once the number of images that notebook 04 looks into
    for old, new in moved.items():
        if new in given:
            raise NotebookError(
                f"{old} is the former name of the parameter {new}, and both are given; leave "
                f"{old} out"
            )
    return {moved.get(name, name): value for name, value in given.items()}


def kernel_manager(beside: Path | None = None):
    """A kernel manager whose only kernel is this very interpreter, whatever kernels are registered
    on the machine.

    Modules in the folder ``beside`` can be imported, as those beside a notebook can in JupyterLab.
    On Unix it speaks over sockets in a private folder: TCP ports clash when many kernels start at
    once.
    """
    from ipykernel.kernelspec import make_ipkernel_cmd
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    from .bootstrap import checkout, child_environment

    # other renderers store 5 MB of script a figure
    env = {"OMP_WAIT_POLICY": "PASSIVE", "PLOTLY_RENDERER": "plotly_mimetype"}
    env = {name: os.environ.get(name, value) for name, value in env.items()}
    paths = [child_environment(checkout()).get("PYTHONPATH"), "" if beside is None else str(beside)]
    env["PYTHONPATH"] = os.pathsep.join(filter(None, paths))

    class ThisInterpreter(AsyncKernelManager):
        def __init__(self, *args, **settings):
            folder = tempfile.TemporaryDirectory(prefix="tta-lab-") if os.name == "posix" else None
            # a socket's path has room for about 100 characters
            if folder is not None and len(folder.name) < 80:
                settings |= {
                    "transport": "ipc", "connection_file": os.path.join(folder.name, "kernel.json")
                }
            super().__init__(*args, **settings)
            self._folder = folder

        @property
        def kernel_spec(self):
            return KernelSpec(argv=make_ipkernel_cmd(), language="python", display_name="Python 3",
                              env=env)

    return ThisInterpreter


class _Progress:
    """One line a code cell: position, first line of code, seconds."""

    def __init__(self, cells: int, say: Callable):
        self.cells = cells
        self.say = say
        self.done = 0
        self.started = 0.0

    def start(self, cell, cell_index):
        self.done, self.started = self.done + 1, time.perf_counter()
        lines = (line.strip() for line in cell.source.splitlines())
        first = next((line for line in lines if line and not line.startswith("#")), "")
        self.say(f"[{self.done:2d}/{self.cells}] {first[:80]:<80}", end="", flush=True)

    def end(self, cell, cell_index, execute_reply):
        self.say(f"{time.perf_counter() - self.started:7.1f} s", flush=True)


@contextlib.contextmanager
def alone(folder: Path):
    """Hold a folder of results for this run alone. Raises NotebookError while another run holds it,
    in this process or any other.

    The lock is the system's, on a file beside the folder, and ends with the process however that
    ends.
    """
    path = folder.with_name(f".{folder.name}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as why:
        raise NotebookError(
            f"no folder for results can be made at {folder} ({why}); name another with --out (in "
            "Python out=...)"
        ) from why
    while True:
        file = path.open("a+")
        try:
            _lock(file)
        except BlockingIOError:
            file.close()
            raise NotebookError(
                f"another run is writing to {folder} at this moment, and one would overwrite the "
                "other; give this one a folder "
                "of its own (--out OTHER; in Python out=...), or wait for the other") from None
        with contextlib.suppress(OSError):
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                break  # else the holder before took the file away between the two lines above
        file.close()
    try:
        yield
    finally:
        if os.name == "posix":
            path.unlink(missing_ok=True)
        file.close()
        if os.name != "posix":  # an open file cannot be taken away there
            with contextlib.suppress(OSError):
                path.unlink()


def _lock(file) -> None:
    """Lock an open file, or raise BlockingIOError where another holds it. A file system without
    locks is used without."""
    try:
        import fcntl
    except ImportError:
        import msvcrt

        try:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as why:
            raise BlockingIOError from why
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        logging.getLogger(__name__).warning(
            "%s: this file system has no locks; see to it that no other run writes there",
            file.name)


def execute(notebook: str | Path, parameters: dict[str, Any] | None = None, full: bool = False,
            out: str | Path = "runs", timeout: float | None = None,
            say: Callable = print) -> Result:
    """Run a notebook with these parameters and write ``<out>/<name>-<fast|full>/<name>.ipynb``,
    ``.html`` and ``.json``.

    ``notebook`` is a path or a name (`find`). ``full`` sets the notebook's ``fast`` to False;
    ``interactive`` becomes False and ``out_json`` a path, where the notebook has them. ``timeout``:
    seconds for one cell. Relative paths, in parameters too, mean the present folder. Raises
    NotebookError before anything runs, also while another run writes to this folder, and
    NotebookFailed when a cell fails; the partly executed notebook is then ``<name>.failed.ipynb``,
    and results of an earlier run stay.
    """
    full = _argument(flag, "full", full)
    if timeout is not None and _argument(number, "timeout", timeout, 0) == 0:
        raise NotebookError("timeout must be more than 0 seconds for a cell, or None for no limit")
    if not isinstance(parameters, dict | None):
        raise NotebookError(f"parameters must be a dict, name -> value, not {parameters!r}")
    source, place = find(notebook), _argument(path_of, "out", out).resolve()
    content = opened(source)
    try:
        known = parameters_of(content)
        values = settled(known, parameters or {}, full)
    except NotebookError as why:
        raise NotebookError(f"{source}: {why}") from why
    fast = values.get("fast", known["fast"].default if "fast" in known else True)
    folder = place / f"{source.stem}-{'fast' if fast else 'full'}"
    with alone(folder):
        return _executed(source, content, known, values, folder, timeout, say)


def _executed(source: Path, content, known: dict, values: dict, folder: Path, timeout,
              say: Callable) -> Result:
    import papermill

    final = {kind: folder / f"{source.stem}.{kind}" for kind in ("ipynb", "html", "json")}
    part = {kind: folder / f"{source.stem}.part.{kind}" for kind in final}
    failed = folder / f"{source.stem}.failed.ipynb"
    if "out_json" in known:
        values.setdefault("out_json", str(part["json"]))
    folder.mkdir(parents=True, exist_ok=True)
    for path in part.values():
        path.unlink(missing_ok=True)
    progress = _Progress(
        sum(c.cell_type == "code" and bool(c.source.strip()) for c in content.cells) + bool(values),
        say)
    mode = folder.name.removeprefix(f"{source.stem}-")
    given = ", ".join(f"{k}={v!r}" for k, v in values.items() if k != "out_json")
    _used(content)
    say(f"{source.name}, {mode}: {given or 'no parameters'}", flush=True)
    try:
        executed = papermill.execute_notebook(
            with_values(content, values), _literal(part["ipynb"]), kernel_name="python3",
            language="python", progress_bar=False, store_widget_state=False,
            execution_timeout=timeout, kernel_manager_class=kernel_manager(source.parent),
            on_cell_execute=progress.start, on_cell_executed=progress.end)
        has_json = values.get("out_json") == str(part["json"])
        if has_json:
            _check_json(part["json"])
        write_text(part["html"], to_offline_html(executed, source.stem))
    except Exception as why:
        part["json"].unlink(missing_ok=True)
        part["html"].unlink(missing_ok=True)
        where = ""
        if part["ipynb"].is_file():
            os.replace(part["ipynb"], failed)
            where = f"\nThe notebook up to there: {failed}"
        raise NotebookFailed(f"{source.name} failed{_reason(why, progress)}{where}") from why
    failed.unlink(missing_ok=True)
    if not has_json:
        final["json"].unlink(missing_ok=True)  # the numbers of an earlier run
    for kind, path in part.items():
        if path.is_file():
            os.replace(path, final[kind])
    return Result(final["ipynb"], final["html"], final["json"] if has_json else None,
                  printed(executed))


def _used(content) -> None:
    """Write into a notebook which files of parts its kernel uses: in its metadata, and as a line
    above its first cell."""
    import nbformat

    files = [f for f in os.environ.get("TTA_LAB_WITH", "").split(os.pathsep) if f]
    content.metadata.setdefault("tta_lab", {}).pop("with", None)
    if files:
        content.metadata["tta_lab"]["with"] = files
        names = ", ".join(f"`{file}`" for file in files)
        content.cells.insert(0, nbformat.v4.new_markdown_cell(f"With parts of your own: {names}"))
    elif not content.metadata["tta_lab"]:
        del content.metadata["tta_lab"]


def with_values(notebook, values: dict[str, Any]):
    """A copy of a notebook with a cell ``injected-parameters`` behind the cell ``parameters``;
    every value stands there as code that makes it."""
    import nbformat

    made = copy.deepcopy(notebook)
    if values:
        cells = made.cells
        cell = nbformat.v4.new_code_cell(
            "# Parameters\n" + "\n".join(f"{name} = {_code(value)}"
                                         for name, value in values.items()),
            metadata={"tags": ["injected-parameters"]})
        at = next(
            (i + 1 for i, c in enumerate(cells) if "parameters" in c.metadata.get("tags", [])), 0)
        made.cells = [
            *cells[:at], cell,
            *(c for c in cells[at:] if "injected-parameters" not in c.metadata.get("tags", []))
        ]
    return made


def _literal(path: Path) -> str:
    """A path in which papermill, which formats its paths, replaces nothing."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _check_json(path: Path) -> None:
    if not path.is_file():
        raise RuntimeError(
            "the notebook has a parameter out_json but wrote nothing there; its last cell should")
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError as why:
        raise RuntimeError(f"what the notebook wrote to out_json is no JSON ({why})") from why


def _reason(why: Exception, progress: _Progress) -> str:
    from papermill.exceptions import PapermillExecutionError

    text = f" after {progress.done} of {progress.cells} code cells: {type(why).__name__}: {why}"
    if isinstance(why, PapermillExecutionError):
        text = (f" in code cell {progress.done} of {progress.cells}: {why.ename}: "
                f"{why.evalue}\n\n") + "\n".join(
            why.traceback)
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def printed(notebook) -> str:
    """What the last code cell printed to standard output or told."""
    cells = [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]
    return "".join(map(told, cells[-1].outputs)) if cells else ""


def _folded(cell):
    """A cell of parameters as text that opens when its title is clicked; another as it is."""
    import nbformat

    tags = cell.metadata.get("tags", [])
    titles = {"parameters": "Parameters", "injected-parameters": "Parameters of this run"}
    for tag, title in titles.items():
        if tag in tags:
            return nbformat.v4.new_markdown_cell(
                f"<details><summary>{title}</summary>\n\n```python\n{cell.source}\n```\n\n"
                "</details>", id=cell.get("id", tag))
    return cell


def _folds(page) -> dict[str, str]:
    """Put a word in place of each line that opens or closes a fold, which the exporter would close
    at once; gives what to put back."""
    found: dict[str, str] = {}

    def word(match) -> str:
        name = f"fold{len(found)}of{id(found)}"
        found[f"<p>{name}</p>"] = match[0]
        return f"\n{name}\n"

    for cell in (c for c in page.cells if c.cell_type == "markdown"):
        cell.source = re.sub(r"(?m)^(<details><summary>.*</summary>|</details>)$", word,
                             cell.source)
    return found


def to_offline_html(notebook, title: str) -> str:
    """A notebook as one HTML page that asks nothing of the network.

    Plotly figures are drawn by the one copy of plotly.js (5 MB) that the first of them carries;
    stored widget state is left out, since it is only drawn with scripts from elsewhere. Formulas
    stay in their TeX form for the same reason. Parameters are folded; of a cell with the tag
    ``hide-input`` only what it shows is left.
    """
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    page = copy.deepcopy(notebook)
    page.metadata.pop("widgets", None)
    page.cells = [_folded(cell) for cell in page.cells
                  if HIDDEN not in cell.metadata.get("tags", []) or cell.get("outputs")]
    folds = _folds(page)
    figures = 0
    for output in (o for c in page.cells if c.cell_type == "code" for o in c.outputs):
        figure = output.get("data", {}).get(PLOTLY)
        if figure is None:
            continue
        import plotly.io

        picture = {part: figure[part] for part in ("data", "layout", "frames") if part in figure}
        output.data = {
            "text/html": plotly.io.to_html(picture, config=figure.get("config"), full_html=False,
                                           include_mathjax=False, include_plotlyjs=figures == 0,
                                           validate=False, div_id=f"figure-{figures + 1}")
        }
        figures += 1
    hide = Config({"TagRemovePreprocessor": {"enabled": True, "remove_input_tags": {HIDDEN}}})
    exporter = HTMLExporter(config=hide, mathjax_url="", require_js_url="", mermaid_js_url="",
                            embed_images=True)
    html = exporter.from_notebook_node(page, resources={"metadata": {"name": title}})[0]
    for word, line in folds.items():
        html = html.replace(word, line)
    return re.sub(r'<script src="">\s*</script>', "", html)  # what the empty addresses leave behind
