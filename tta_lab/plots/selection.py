"""Figure of what choosing without labels costs."""
from __future__ import annotations

import numpy as np

from .drawing import draw
from .panel import Panel, Series

HOW_TO_READ = {
    "regret": "Each bar is what a rule costs against the best candidate, which only labels can "
              "name: short bars are good; a score longer than "
              "the bar of the published defaults is of no use.",
}


def plot_regret(numbers, backend: str = "matplotlib", ax=None):
    """Mean regret of each rule as bars, sorted: {title: {rule: points}}, one panel for each title
    (at most three).

    Raises ValueError for more than three titles.
    """
    if not 0 < len(numbers) <= 3:
        raise ValueError(f"plot_regret draws one to three panels, got {len(numbers)}")
    panels = []
    for title, values in numbers.items():
        shown = sorted((v, name) for name, v in values.items() if np.isfinite(v))
        bars = ((Series([name.replace("_", " ") for _, name in shown],
                        np.array([v for v, _ in shown]), "", 0, "bar"),) if shown else ())
        panels.append(Panel(f"Choosing: {title}", "", "mean regret (points of error)", bars))
    return draw(panels, backend, ax,
                size=(5.6 * len(panels) + 1, 6) if backend == "matplotlib" else None)
