"""Where things lie in a drawn picture: what a frame needs to say the value under the pointer, and
to tell which panel and which place of it was clicked."""
from __future__ import annotations

import numpy as np

from .panel import HeatMap

POINTS = 300  # of one series; of longer ones every k-th can be pointed at


def places(figure) -> list[dict]:
    """One dict for each panel of a matplotlib figure that has been drawn (`png`), in the order of
    drawing; panels with nothing in them too.

    ``box`` (left, top, width, height) in shares of the picture; ``x`` and ``y`` (low, high) of the
    axes, ``log`` whether heights are logarithmic, ``percent``; ``name`` of the x axis; ``series``
    [{name, x, y}], or of a heat map ``edges`` (x, y), ``rows``, ``columns`` and ``values`` (H, W).
    Bars stand at 0, 1, ... and have ``columns``.
    """
    return [_place(axis) for axis in figure.axes if hasattr(axis, "tta_panel")]


def _place(axis) -> dict:
    panel = axis.tta_panel
    box = axis.get_position()
    low, high = axis.get_ylim()
    found = {
        "box": [_short(v) for v in (box.x0, 1 - box.y1, box.width, box.height)],
        "x": [float(v) for v in axis.get_xlim()], "y": [float(low), float(high)],
        "log": axis.get_yscale() == "log", "percent": panel.percent or _shares(panel),
        "title": panel.title, "name": panel.x.split(" (")[0], "series": []}
    if panel.empty:
        return found | {"empty": True}
    if isinstance(panel, HeatMap):
        x, y = panel.edges
        found |= {"edges": [_numbers(x), _numbers(y)], "rows": list(panel.rows),
                  "columns": list(panel.columns), "what": panel.name,
                  "values": [_numbers(row) for row in np.asarray(panel.values, np.float64).T]}
    bars = getattr(panel, "bars", ())
    if bars:
        found["columns"] = [str(x).replace("\n", " ") for x in bars[0].x]
    for s in panel.shown:
        x = np.arange(len(s.y)) if s.kind == "bar" else np.asarray(s.x, np.float64)
        if s.kind in ("steps", "stairs"):
            x = (x[:-1] + x[1:]) / 2
        step = max(1, -(-len(s.y) // POINTS))
        found["series"].append({"name": s.label, "x": _numbers(x[::step]),
                                "y": _numbers(s.values[::step])})
    return found


def _shares(panel) -> bool:
    return isinstance(panel, HeatMap) and not panel.scale


def _short(value: float):
    """Four digits; None for what is no number, since JSON has no NaN."""
    return float(f"{value:.4g}") if np.isfinite(value) else None


def _numbers(values) -> list:
    values = np.asarray(values, np.float64)
    whole = np.isfinite(values).all() and np.all(values == np.round(values))
    return [int(v) if whole else _short(v) for v in values]
