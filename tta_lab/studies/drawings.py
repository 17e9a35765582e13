"""What the figures of several studies draw: runs side by side, the detector's word, the panels of
a run while it goes on, gradients beside entropies."""
from __future__ import annotations

import numpy as np

from ..plots import GROUP_LABELS, GROUP_LOOKS, Panel, Series, draw
from .base import deviation

STEP = "step (batches)"
IMAGES = "position in the stream (images)"
WAITING = "Nothing has run yet."


def curves(runs: dict, y: str, kind: str = "line", first: int = 0) -> tuple[Series, ...]:
    """A line over the steps for each run: {name: {"step": (T,), y: (T,)}}."""
    return tuple(Series(n["step"], n[y], name, i, kind)
                 for i, (name, n) in enumerate(runs.items(), first))


def errors_beside(numbers: dict, first: int, name: str = "{}",
                  scale: float = 1.0) -> tuple[Series, ...]:
    """The errors of the other runs of ``collapse.study.numbers_of`` as far as they have come."""
    return tuple(Series(numbers["step"][:len(e)], e / scale, name.format(other), i, "path")
                 for i, (other, e) in enumerate(numbers["errors"].items(), first))


def risk(series, threshold: float, title: str = "Probability of collapse", **more) -> Panel:
    """What the detector of collapse gives runs, with its threshold as a line."""
    return Panel(title, STEP, "probability", tuple(series), percent=True, top=1.0, whole=True,
                 line=(threshold, "threshold"), **more)


def known(spread) -> np.ndarray | None:
    """A spread for a figure: None where a number of it is none."""
    return spread if np.isfinite(spread).all() else None


def seeds_of(x, values, name: str, look: int, kind: str = "bar") -> Series:
    """Mean over seeds, (seeds, N), with its standard deviation where there are several."""
    values = np.asarray(values, np.float64)
    return Series(x, values.mean(0), name, look, kind, known(deviation(values)))


def live(numbers, looks: dict, other: int, waiting: str, panel, backend, ax, **more):
    """Error so far of a run and those beside it, and ``panel(numbers)``; before the first run two
    empty panels."""
    if numbers is None:
        return draw([Panel("Error so far", "", "error", note=WAITING),
                     Panel(waiting, "", waiting.lower(), note=WAITING)], backend, ax)
    lines = tuple(Series(x, y, name, looks.get(name, other), "path")
                  for name, (x, y) in numbers["so_far"]["lines"].items())
    return draw([Panel("Error so far", IMAGES, "error so far (%)", lines, **more), panel(numbers)],
                backend, ax)


def gradients(clouds: dict, y: str = "L2 norm of the gradient", x: str = "entropy (nats)",
              **more) -> list[Panel]:
    """A panel for each cloud {title: {group: (entropy (N,), norm (N,))}}, on a common logarithmic
    axis."""
    norms = [norm for groups in clouds.values() for _, norm in groups.values()]
    norms = np.concatenate(norms) if norms else np.zeros(0)
    positive = norms[np.isfinite(norms) & (norms > 0)]
    high = float(positive.max()) if len(positive) else None
    low = max(float(positive.min()), 1e-6 * high) / 2 if high else None
    return [Panel(title, x, y, tuple(
                Series(entropy, norm, GROUP_LABELS[g], GROUP_LOOKS[g], "points")
                for g, (entropy, norm) in groups.items() if len(norm)), log=True, top=high,
                bottom=low, **more) for title, groups in clouds.items()]
