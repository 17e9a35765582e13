"""``python -m tta_lab app``: a notebook as a page without code, through voila; by default the explorer alone.

``--slides`` shows the cells tagged ``slide`` and ``with`` one screen at a time; arrow keys turn.

Nothing is asked of other machines: the page's template leaves out the icon fonts that voila would fetch.
"""
from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

EXPLORER = """from tta_lab.panels.explorer import explorer, settings_of

panel = explorer(**settings_of(True))
panel"""


def explorer_page(folder: str | Path) -> Path:
    """Write a notebook that holds nothing but the explorer; its path."""
    import nbformat

    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# TTA Lab: explorer"), nbformat.v4.new_code_cell(EXPLORER)],
                                    metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}})
    path = Path(folder) / "explorer.ipynb"
    nbformat.write(page, path)
    return path


def environment() -> dict:
    """Environment variables in which voila finds our template and this environment's kernel."""
    share = str(Path(__file__).parent / "share")
    return dict(os.environ, JUPYTER_PREFER_ENV_PATH="1", JUPYTER_PATH=os.pathsep.join(filter(None, [share, os.environ.get("JUPYTER_PATH")])))


def command(notebook: str | Path, rest=(), slides: bool = False) -> list[str]:
    """The command line that serves a notebook to browsers on this machine; ``rest`` are further arguments of voila."""
    return [sys.executable, "-m", "voila", str(notebook), f"--template={'slides' if slides else 'offline'}", *rest]


def serve(name: str | None, rest=(), slides: bool = False) -> None:
    """Serve a notebook by name or path, without a name the explorer; does not come back. Raises `NotebookError` where there is no such notebook."""
    from . import bootstrap, headless

    notebook = headless.find(name) if name else explorer_page(tempfile.mkdtemp(prefix="tta-lab-"))
    bootstrap.hand_over(command(notebook, rest, slides), environment())
