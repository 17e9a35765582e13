"""What the instructor needs around the workshop: student notebooks from the solutions, a check of
a laptop, wheels for a room without network, slides.

python -m tta_lab workshop students          # write the students' notebooks from the solutions
python -m tta_lab workshop check             # the day before, and on every laptop: about a minute
python -m tta_lab workshop wheels FOLDER     # where there is network; prints the command for a
                                             # laptop without
python -m tta_lab workshop slides MODULE     # one page for the projector; needs no network
"""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ..cli.bootstrap import Problem
from ..core.files import write_text

REGION = re.compile(r"^(?P<indent>[ \t]*)# solution(?::(?P<text>[^\n]*))?\n.*?^[ \t]*# end of "
                    r"solution[ \t]*$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"^[ \t]*# (solution\b|end of solution)", re.MULTILINE)
SOLVED = " - with solutions"
MEMORY = 4.0  # GiB that should be free for a notebook and a browser


# --- student notebooks --------------------------------------------------------------------------


def folder() -> Path:
    """``notebooks/workshop`` of the checkout or of the installed package."""
    from ..cli.headless import notebook_folder

    return notebook_folder() / "workshop"


def solutions() -> list[Path]:
    """The notebooks with solutions, by name. Raises Problem when there are none."""
    found = sorted((folder() / "solutions").glob("module_*.ipynb"))
    if not found:
        raise Problem(f"there are no notebooks in {folder() / 'solutions'}; they are part of the "
                      f"repository: git checkout -- notebooks/workshop")
    return found


def stub(code: str) -> str:
    """Code with each region from ``# solution`` to ``# end of solution`` replaced by ``...``; what
    follows the colon becomes its comment.

    Raises ValueError for a region that is not closed, or one within another.
    """
    made = REGION.sub(lambda m: f"{m['indent']}...  # {(m['text'] or 'your code here').strip()}",
                      code)
    left = MARK.search(made)
    if left:
        raise ValueError(f"a region is not closed, or closed twice, near: {left.group().strip()}")
    return made


def student_version(notebook):
    """A notebook node without solutions and outputs: regions become stubs, cells tagged
    ``solution`` go. Raises ValueError as `stub`."""
    made = copy.deepcopy(notebook)
    made.cells = [cell for cell in made.cells if "solution" not in cell.metadata.get("tags", [])]
    for cell in made.cells:
        if cell.cell_type == "code":
            cell.source = stub(cell.source)
            cell.outputs = []
            cell.execution_count = None
    made.cells[0].source = made.cells[0].source.replace(SOLVED, "", 1)
    return made


def write_students(to: str | Path | None = None, say: Callable = print) -> list[Path]:
    """Write the student version of every solution, by default beside the folder ``solutions``; the
    paths written."""
    import nbformat

    target = Path(to) if to else folder()
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for path in solutions():
        made = student_version(nbformat.read(path, as_version=4))
        text = nbformat.writes(made) + "\n"
        place = target / path.name
        changed = not place.is_file() or place.read_text(encoding="utf-8") != text
        if changed:
            write_text(place, text)
        say(f"{place.name:<28} {'written' if changed else 'up to date'}")
        written.append(place)
    return written


# --- the day before -----------------------------------------------------------------------------


def check(trial_seconds: float = 20.0, say: Callable = print) -> int:
    """Versions, data, memory, a kernel, a trial run with no network: one line each, with a remedy
    where something is wrong. 1 if so, else 0."""
    failed = 0
    for name, what in (
        ("versions", _versions),
        ("data", _data),
        ("memory", _memory),
        ("notebooks", _notebooks),
        ("kernel", _kernel),
        ("offline run", lambda: _trial(trial_seconds)),
    ):
        started = time.perf_counter()
        try:
            text, mark = what(), "ok "
        except Exception as why:  # a check that breaks is a finding too: the others must still run
            text = f"{type(why).__name__}: {why}" if not isinstance(why, Problem) else str(why)
            mark = "NO "
            failed = failed + 1
        say(f"{mark} {name:<12} {text}  ({time.perf_counter() - started:.1f} s)", flush=True)
    say(
        "Ready for the workshop." if not failed else f"{failed} of 6 checks failed; put them "
        f"right, then run this command again.", flush=True)
    return int(failed > 0)


def _versions() -> str:
    from ..cli import bootstrap

    wanted = bootstrap.requirements(bootstrap.requirement_groups(bootstrap.checkout()), "notebooks")
    lacks = bootstrap.lacking(wanted)
    if lacks:
        raise Problem(f"missing or too old: {', '.join(lacks)}; install with: {sys.executable} -m "
                      f"pip install -e .[notebooks]")
    import torch

    return (f"Python {sys.version.split()[0]}, torch {torch.__version__}, {len(wanted)} packages "
            f"are there")


def _data() -> str:
    import json

    from ..data import shipped as datasets_shipped

    place = datasets_shipped.data_root()
    names = json.loads((place / "index.json").read_text())
    for name in names:
        datasets_shipped.checked_bytes(name)
    return f"{len(names)} files are as recorded"


def free_memory() -> float | None:
    """Memory that a new program can get, in GiB; None where the system does not say (it does on
    Linux)."""
    try:
        with open("/proc/meminfo") as f:
            found = re.search(r"MemAvailable:\s+(\d+) kB", f.read())
    except OSError:
        found = None
    if found:
        return int(found.group(1)) / 2**20
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (ValueError, OSError, AttributeError):
        return None


def _memory() -> str:
    free = free_memory()
    if free is None:
        return f"not known on this system; {MEMORY:g} GiB should be free"
    if free < MEMORY:
        raise Problem(f"{free:.1f} GiB are free, {MEMORY:g} GiB are comfortable for a notebook "
                      f"and a browser; close other programs")
    return f"{free:.1f} GiB are free"


def _notebooks() -> str:
    names = [p.name for p in solutions()]
    lacking = [n for n in names if not (folder() / n).is_file()]
    if lacking:
        raise Problem(f"{', '.join(lacking)} missing; write them with: python -m tta_lab workshop "
                      f"students")
    return f"{len(names)} modules"


def _kernel() -> str:
    """Start the kernel that JupyterLab would start, ask it for a sum, stop it."""
    import asyncio

    from ..cli.headless import kernel_manager

    async def ask():
        manager = kernel_manager()()
        await manager.start_kernel()
        client = manager.client()
        client.start_channels()
        try:
            await client.wait_for_ready(timeout=90)
            reply = await client.execute_interactive("assert 6 * 7 == 42", silent=True, timeout=30)
            return reply["content"]["status"]
        finally:
            client.stop_channels()
            await manager.shutdown_kernel(now=True)

    if asyncio.run(ask()) != "ok":
        raise Problem("a Jupyter kernel started but did not answer rightly; install ipykernel anew")
    return "starts and answers"


TRIAL = """
import socket, time, sys
def refuse(*args, **kwargs):
    raise OSError("this run must not need a network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import torch
torch.set_num_threads(min(2, torch.get_num_threads()))
from tta_lab import Adapter, Stream, load_model, make, run
start, limit = time.perf_counter(), float(sys.argv[1])
stream = Stream(per_shift=200, batch=50)
trace = run(Adapter(load_model("fashion_resnet_bn"), make("tent"), device="cpu"), stream,
            stop=lambda: time.perf_counter() - start > limit)
seconds = time.perf_counter() - start
error = 100 * (1 - trace["correct"].mean())
print(f"{len(trace['correct'])} images in {seconds:.1f} s, error {error:.1f} %")
"""


def _trial(seconds: float) -> str:
    """Tent on a short stream, in a process of its own that is refused every connection; ends after
    ``seconds`` at the latest."""
    from ..cli.bootstrap import checkout, child_environment

    done = subprocess.run([sys.executable, "-c", TRIAL, str(seconds)],
                          env=child_environment(checkout()), capture_output=True, text=True,
                          timeout=seconds + 120)
    if done.returncode:
        raise Problem("the trial run failed: " +
                      (done.stderr.strip().splitlines() or ["no message"])[-1])
    text = done.stdout.strip()
    images = int(text.split()[0])
    took = float(re.search(r"in ([\d.]+) s", text).group(1))
    if images / max(took, 1e-9) < 50:
        raise Problem(f"{text}: that is slow; a notebook's cells will take minutes. Close other "
                      f"programs, plug in the power supply")
    return text + ", without network"


# --- wheels -------------------------------------------------------------------------------------


def wheel_commands(to: str | Path, root: str | None) -> tuple[list[str], list[str], list[str]]:
    """The commands that collect wheels into a folder: (download, build the lab's own wheel,
    install offline). Raises Problem without a checkout."""
    from ..cli.bootstrap import requirement_groups, requirements

    if root is None:
        raise Problem("wheels are collected from a checkout of the repository; the installed "
                      "package does not hold what is needed to build it")
    wanted = requirements(requirement_groups(root), "notebooks")
    to = str(to)
    return (
        [sys.executable, "-m", "pip", "download", "--only-binary", ":all:", "--dest", to, *wanted],
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", to, root],
        ["python", "-m", "pip", "install", "--no-index", "--find-links", to, "tta-lab[notebooks]"],
    )


def wheels(to: str | Path, say: Callable = print, call: Callable = subprocess.call) -> int:
    """Collect everything that a laptop without network needs into ``to`` and print the install
    command; the exit code of pip where it fails."""
    from ..cli.bootstrap import checkout

    download, build, install = wheel_commands(to, checkout())
    Path(to).mkdir(parents=True, exist_ok=True)
    say(
        f"Collecting wheels for {sys.platform}, Python "
        f"{sys.version_info[0]}.{sys.version_info[1]} into {to}; this needs a network.\n"
        "Mind the size: on Linux, torch with its CUDA libraries is 2 to 4 GB; a CPU build of "
        "torch alone is about 200 MB. Where pip is set up "
        "with a source of CPU builds, those are taken. Wheels fit one system and one Python "
        "version: run this once for each kind of laptop."
    )
    for command, what in ((download, "download"), (build, "build")):
        code = call(command)
        if code:
            say(f"The {what} failed (pip ended with {code}). Is there a network here? What has "
                f"arrived stays in {to}; the same command goes on.")
            return code
    files = [p for p in Path(to).iterdir() if p.is_file()]
    say(
        f"{len(files)} files, {sum(p.stat().st_size for p in files) / 2**30:.2f} GiB. On the "
        f"laptop, in a fresh environment with the same Python:\n  "
        + " ".join(f'"{part}"' if "[" in part or " " in part else part for part in install)
    )
    return 0


# --- the projector ------------------------------------------------------------------------------

# turns an exported page into slides by the tags of its cells
DECK = Path(__file__).parents[1] / "share" / "deck.html"


def slides_of(notebook):
    """What is shown of a notebook on the projector: cells tagged ``slide`` (a new slide) and
    ``with`` (on the same one), in order."""
    shown = copy.deepcopy(notebook)
    shown.cells = [c for c in shown.cells if {"slide", "with"} & set(c.metadata.get("tags", []))]
    return shown


def deck(notebook, title: str) -> str:
    """The slides of an executed notebook as one HTML page: text and figures, no code, nothing from
    a network; arrow keys turn."""
    from ..cli.headless import to_offline_html

    shown = slides_of(notebook)
    # without the timetable and what follows it
    shown.cells[0].source = shown.cells[0].source.replace(SOLVED, "", 1).split("\n| ")[0]
    for cell in shown.cells:
        cell.source = ("" if cell.cell_type == "code" else re.sub(r"<details>.*?</details>\n?", "",
                                                                  cell.source, flags=re.DOTALL))
    return to_offline_html(shown, title).replace("</body>",
                                                 DECK.read_text(encoding="utf-8") + "</body>")


def slides(module: str, out: str | Path = "runs", say: Callable = print) -> Path:
    """Run a module's solutions and write its slides (`deck`) beside the results; the path of the
    page.

    ``module``: a name, or the beginning of one ("module_2", "2"). Raises Problem for an unknown
    one.
    """
    import nbformat

    from ..cli import headless

    named = [p for p in solutions() if p.stem.startswith((module, f"module_{module}"))]
    if len(named) != 1:
        raise Problem(f"there is no module {module!r}; there are: "
                      f"{', '.join(p.stem for p in solutions())}")
    result = headless.execute(named[0], out=out, say=say)
    page = result.html.with_name(f"{named[0].stem}.slides.html")
    write_text(page, deck(nbformat.read(result.notebook, as_version=4), named[0].stem))
    say(f"\nSlides: {page}")
    return page


# --- the command --------------------------------------------------------------------------------


def add_arguments(parser) -> None:
    """The arguments of ``python -m tta_lab workshop``."""
    parser.add_argument(
        "what",
        choices=("students", "check", "wheels", "slides"),
        help="students: write the student notebooks; check: is this laptop ready; wheels: collect "
             "what an offline laptop installs; "
        "slides: a page for the projector",
    )
    parser.add_argument("where", nargs="?", help="wheels: the folder (needed); slides: the "
                                                 "module, 1 to 3; students: another folder to "
                                                 "write to")


def main(options) -> int:
    """What ``python -m tta_lab workshop`` does. Raises Problem."""
    if options.what == "students":
        write_students(options.where)
        return 0
    if options.what == "check":
        return check()
    if not options.where:
        raise Problem(
            "wheels needs a folder: python -m tta_lab workshop wheels FOLDER"
            if options.what == "wheels"
            else "slides needs a module: python -m tta_lab workshop slides 1"
        )
    if options.what == "wheels":
        return wheels(options.where)
    from ..cli.headless import NotebookError, NotebookFailed

    try:
        slides(options.where)
    except (NotebookError, NotebookFailed) as why:
        raise Problem(str(why)) from why
    return 0
