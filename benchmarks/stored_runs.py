"""Makes the numbers that panels show before anything has run: ``python benchmarks/stored_runs.py``.

The default choices of the panels on collapse, normalisation and lifelong adaptation are run, each
in a few seconds to half a minute, and written to ``tta_lab/studies/stored.json``; that of the
explorer is kept whole in ``tta_lab/studies/explorer/stored_runs``.
"""
from __future__ import annotations

import shutil

from tta_lab.panels.collapse_panel import collapse_panel
from tta_lab.panels.explorer import explorer, settings_of
from tta_lab.panels.lifelong_panel import lifelong_panel
from tta_lab.panels.norm_panel import norm_panel
from tta_lab.studies import stored
from tta_lab.studies.collapse.study import Setting
from tta_lab.studies.explorer.stored import FOLDER

# as in the panel alone, and as in the notebook
COLLAPSE = (Setting(), Setting(factor=100.0, per_shift=300, batch=50))


def panels():
    """The panels, each with its default choice, which has run."""
    yield from (collapse_panel(setting, interactive=False) for setting in COLLAPSE)
    yield norm_panel(interactive=False)
    yield lifelong_panel(interactive=False)


def main() -> None:
    found = {}
    for panel in panels():
        if panel.error is not None:
            raise panel.error
        found[panel.to_code()] = stored.entry(panel.result, panel.message)
        print(panel.message)
    path = stored.write(found)
    print(f"{path}: {path.stat().st_size // 1000} kB")
    shutil.rmtree(FOLDER, ignore_errors=True)
    panel = explorer(interactive=False, **settings_of(True))
    if panel.error is not None:
        raise panel.error
    number, = panel.ticked
    panel.kept.save(FOLDER, [number])
    size = sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file())
    print(f"{panel.message}\n{FOLDER}: {size // 1000} kB")


if __name__ == "__main__":
    main()
