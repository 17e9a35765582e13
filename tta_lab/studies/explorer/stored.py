"""The stored run of the explorer's first choice: what is shown before anything has run.

It is a kept run like any other; ``benchmarks/stored_runs.py`` makes it. A run is shown only for
exactly the choice that made it.
"""
from __future__ import annotations

import functools
import warnings
from pathlib import Path

from ...experiments.experiment import Experiment, signature
from ...experiments.kept_runs import KeptRun, KeptRuns

FOLDER = Path(__file__).with_name("stored_runs")


def stored_run(choice: Experiment | None) -> KeptRun | None:
    """The stored run of this choice, or None where there is none."""
    if choice is None or not isinstance(choice.model, str):
        return None
    wanted = signature(choice)
    return next((run for run in _stored() if signature(run.choice) == wanted), None)


@functools.cache
def _stored() -> tuple[KeptRun, ...]:
    runs = KeptRuns()
    if FOLDER.is_dir():
        try:
            runs.load(FOLDER)
        except ValueError as why:
            warnings.warn(f"no stored run is shown: {why}", stacklevel=3)
    return tuple(run for run in runs.values() if run.choice is not None)
