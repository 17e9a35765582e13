"""``python -m tta_lab app``: a notebook as a page without code, through voila; by default the
explorer alone.

``--slides`` shows the cells tagged ``slide`` and ``with`` one screen at a time; arrow keys turn. A
page runs code on this machine, so its address holds a token, new at each start, without which
neither page nor kernel answers; ``--no-token`` leaves it out.

Nothing is asked of other machines: the page's template leaves out the icon fonts that voila would
fetch.
"""
from __future__ import annotations

import os
import sys
import tempfile
import threading
import webbrowser
from html import escape
from pathlib import Path
from urllib.parse import quote

EXPLORER = """from tta_lab.panels.explorer import explorer, settings_of

panel = explorer(**settings_of(True))
panel"""


def explorer_page(folder: str | Path) -> Path:
    """Write a notebook that holds nothing but the explorer; its path."""
    import nbformat

    page = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("# TTA Lab: explorer"),
            nbformat.v4.new_code_cell(EXPLORER)
        ], metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        })
    path = Path(folder) / "explorer.ipynb"
    nbformat.write(page, path)
    return path


def environment() -> dict:
    """Environment variables in which voila finds our template and this environment's kernel."""
    share = str(Path(__file__).parents[1] / "share")
    return dict(os.environ, JUPYTER_PREFER_ENV_PATH="1",
                JUPYTER_PATH=os.pathsep.join(filter(None,
                                                    [share, os.environ.get("JUPYTER_PATH")])))


def command(notebook: str | Path, rest=(), slides: bool = False, token: bool = True) -> list[str]:
    """The command line that serves a notebook to browsers on this machine; ``rest`` are further
    arguments of voila, ``--token=...`` among them."""
    own = any(
        text.split("=")[0] in ("--token", "--Voila.token", "--Voila.auto_token") for text in rest)
    # files are served without asking
    guard = (["--Voila.auto_token=True"] * (token and not own) +
             ["--VoilaConfiguration.file_denylist=.*"] * token)
    return [
        sys.executable, "-m", "tta_lab.cli.app",
        str(notebook), f"--template={'slides' if slides else 'offline'}", *guard, *rest
    ]


def serve(name: str | None, rest=(), slides: bool = False, token: bool = True) -> None:
    """Serve a notebook by name or path, without a name the explorer; does not come back. Raises
    `NotebookError` where there is no such notebook."""
    from . import bootstrap, headless

    notebook = headless.find(name) if name else explorer_page(tempfile.mkdtemp(prefix="tta-lab-"))
    if not token:
        print("No token: whoever reaches this port can use the page, and through it this machine.",
              file=sys.stderr)
    bootstrap.hand_over(command(notebook, rest, slides, token), environment())


def main() -> None:
    """voila, which opens the browser at the address with the token."""
    from voila.app import Voila

    if not hasattr(Voila, "auto_token"):
        raise SystemExit("tta_lab: the installed voila and jupyter_server know no token; bring "
                         "them up to date: pip install -U voila jupyter_server")

    class Page(Voila):
        def launch_browser(self):
            token = self.identity_provider.token
            address = escape(self.connection_url + (f"?token={quote(token)}" if token else ""),
                             quote=True)
            # for the owner alone: on a command line everybody could read the token
            handle, path = tempfile.mkstemp(suffix=".html")
            with open(handle, "w", encoding="utf-8") as file:
                file.write(f'<!DOCTYPE html><meta http-equiv="refresh" '
                           f'content="0;url={address}"><a href="{address}">TTA Lab</a>')
            try:
                browser = webbrowser.get(self.browser or None)
            except webbrowser.Error:
                return  # the address stands in the terminal
            threading.Thread(target=browser.open, args=(Path(path).as_uri(),), daemon=True).start()

    Page.launch_instance()


if __name__ == "__main__":
    main()
