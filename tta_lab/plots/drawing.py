"""The drawing of figures: panels and pictures in matplotlib or plotly, with the same data and one
style.

Panels with nothing finite in them are drawn empty, with a sentence.
"""
from __future__ import annotations

import numpy as np

from . import matplotlib_backend, plotly_backend
from .looks import distinct
from .panel import Panel, Pictures, common


def engine(backend: str, ax=None):
    """The module that draws for ``backend``.

    Raises ValueError for another name, and for ``ax`` with plotly, which has no axes to draw into.
    """
    if backend == "matplotlib":
        return matplotlib_backend
    if backend != "plotly":
        raise ValueError(f"backend must be 'matplotlib' or 'plotly', not {backend!r}")
    if ax is not None:
        raise ValueError("ax is for backend='matplotlib'; plotly makes its own figure")
    return plotly_backend


def draw(panels: list, backend: str, ax, stacked: bool = False, columns: int = 0,
         size: tuple | None = None):
    """The figure of these panels: side by side, ``stacked`` with a common x, or in a grid of
    ``columns`` with common axes.

    ``size`` (inches) replaces the usual size; plotly takes its height, at 96 pixels to the inch.
    """
    panels = distinct(common(panels) if columns else panels)
    return engine(backend, ax).draw(panels, ax, stacked, columns, size)


def draw_frames(panels: list, names: list[str], backend: str, ax, title: str, what: str = ""):
    """One panel that changes: a slider over its states ``names`` in plotly, small multiples in
    matplotlib.

    All panels hold the same series, in the same order, over the same axes.
    """
    return engine(backend, ax).frames(distinct(common(panels)), names, ax, title, what)


def draw_pictures(rows: list[tuple[str, list[tuple[np.ndarray, str]]]], backend: str, ax,
                  note: str):
    """Rows of images with a caption below each: (name of the row, [(image (C, H, W) in [0, 1],
    caption)]); ``note`` when there is none.

    matplotlib draws into the one axes ``ax`` or its own figure.  A row may be shorter than the
    others. Raises ValueError for images of different shapes.
    """
    if not any(pictures for _, pictures in rows):
        note = note or "Nothing to draw: there are no images."
        return draw([Panel("", "", "images", note=note)], backend, ax)
    return engine(backend, ax).pictures(Pictures.of(rows), ax)


def draw_sheet(image: np.ndarray, columns: tuple, rows: tuple, backend: str, ax):
    """One picture (H, W, 3) of many images, with names above its columns and beside its rows:
    ``columns`` and ``rows`` are (places in pixels, names)."""
    return engine(backend, ax).sheet(image, *columns, *rows, ax)


def fit(figure, width: float | None = None, height: float | None = None):
    """Give a figure of this module another size (matplotlib: inches, plotly: pixels) and fit
    titles, names and legend to it; returns it."""
    backend = "plotly" if hasattr(figure, "update_layout") else "matplotlib"
    return engine(backend).fit(figure, width, height)
