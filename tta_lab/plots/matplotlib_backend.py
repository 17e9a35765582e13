"""Panels and pictures in matplotlib: one function for each kind of panel (`PANELS`) and of series
(`SERIES`)."""
from __future__ import annotations

import io
import math

import numpy as np

from .fitting import (
    bar_names,
    decimals,
    inches,
    legend_columns,
    legend_lines,
    log_ticks,
    number,
    powers,
    wrapped,
)
from .looks import FONT, GREY, NOTHING, TITLE, look_of
from .panel import HeatMap, Panel, as_bytes, labels, missing, named_rows
from .theme import NEEDS_LIGHT, NEUTRAL


def new_figure(size: tuple, photographs: bool = False, **more):
    """A figure that pyplot does not know and that shows itself in a notebook; ``size`` in inches.
    One of ``photographs`` has no ground, any other is a chart, which follows the page's theme."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, **({"facecolor": "none"} if photographs else {}), **more)
    return shown_as(figure, lambda: png(figure), photographs)


def shown_as(figure, picture, photographs: bool = False):
    """Let a figure show itself in a notebook as the bytes that ``picture()`` makes of it."""
    figure._repr_png_ = picture
    facts = {} if photographs else {"image/png": NEEDS_LIGHT}
    figure._repr_mimebundle_ = lambda **_: ({"image/png": figure._repr_png_()}, facts)
    return figure


def png(figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def captioned(figure, text: str):
    """Write ``text`` above a matplotlib figure of this module and return it."""
    wide = figure.get_figwidth() - 0.3
    # bold letters are wider
    figure.suptitle(wrapped(text, wide / 1.12, TITLE + 1), fontsize=TITLE + 1, fontweight="bold")
    return figure


# --- figures


def draw(panels: list, ax=None, stacked: bool = False, columns: int = 0, size: tuple | None = None):
    from matplotlib.lines import Line2D

    n = len(panels)
    across = 1 if stacked else columns or min(n, 3)
    if ax is None:
        figure, axes = _own_axes(panels, stacked, columns, across, size)
    else:
        figure, axes = _given_axes(ax, n)
    handles: dict = {}
    for panel, axis in zip(panels, axes, strict=True):
        if ax is None:
            scaled = isinstance(panel, HeatMap) and panel.values.size
            wide = figure.get_figwidth() / across - (1.8 if scaled else 1.0)
        else:
            wide = axis.get_window_extent().width / figure.dpi
        new = {label: handle for label, handle in _panel(axis, panel, wide).items()
               if label not in handles}
        handles |= new
        if ax is not None and new:
            _, names = legend_columns(list(new), wide - 0.2, FONT - 1)
            axis.legend(new.values(), names, fontsize=FONT - 1, framealpha=0.7)
    if ax is None:
        if columns:
            _name_common(axes, columns)
        nothing = {name: Line2D([], [], linestyle="none") for name in missing(panels)}
        figure._named = handles | nothing
        return fit(figure)
    for axis in axes:
        wide = max(1.0, axis.get_window_extent().width / figure.dpi)
        axis.set_title(wrapped(axis.get_title(), wide, TITLE), fontsize=TITLE)
    return figure


def frames(panels: list, names: list[str], ax, title: str, what: str):
    """Small multiples."""
    columns = min(len(panels), 5 if len(panels) > 8 else 4)
    rows = math.ceil(len(panels) / columns)
    size = (2.7 * columns + 0.6, 2.1 * rows + 1.5) if len(panels) > 1 else None
    figure = draw(panels, ax, columns=columns, size=size)
    return captioned(figure, title) if ax is None and title else figure


def pictures(shown, ax=None):
    unit = shown.unit
    width, height = shown.size
    if ax is None:
        across = shown.extent[0] * unit
        names = 0.13 * max(max(map(len, name.split("\n"))) for name, _ in shown.places) + 0.2
        figure = new_figure((across + names, shown.extent[1] * unit + 0.1), photographs=True)
        ax = figure.add_axes((names / (across + names), 0, across / (across + names), 1),
                             facecolor="none")
    for _, row in shown.places:
        for left, top, image, caption in row:
            ax.imshow(as_bytes(image), interpolation="nearest",
                      extent=(left, left + width, top + height, top))
            ax.text(left + width / 2, top + height + 0.06 / unit, caption, ha="center", va="top",
                    fontsize=FONT - 1, color=NEUTRAL)
    ax.set(xlim=(0, shown.extent[0]), ylim=(shown.extent[1], -0.1 / unit), xticks=[])
    ax.set_yticks([row[0][1] + height / 2 for _, row in shown.places if row],
                  [name for name, row in shown.places if row], fontsize=FONT, color=NEUTRAL)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax.figure


def sheet(image, across, columns, upwards, rows, ax=None):
    if ax is None:
        size = 1.15 * len(columns) + 1.8, 1.05 * len(rows) + 0.8
        ax = new_figure(size, photographs=True, layout="constrained").subplots()
    ax.imshow(image, interpolation="nearest")
    ax.set_xticks(across, columns, fontsize=FONT - 1, color=NEUTRAL)
    ax.set_yticks(upwards, rows, fontsize=FONT, color=NEUTRAL)
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    ax.spines[:].set_visible(False)
    return ax.figure


def fit(figure, width: float | None = None, height: float | None = None):
    """Set the size in inches; break titles and names of axes where they would be too wide, and lay
    the legend in as many columns as fit."""
    if width or height:
        figure.set_size_inches(width or figure.get_figwidth(), height or figure.get_figheight())
    width, height = figure.get_size_inches()
    handles = getattr(figure, "_named", {})
    for legend in list(figure.legends):
        legend.remove()
    below = 0
    if handles:
        columns, names = legend_columns(list(handles), width - 0.4, FONT)
        below = 0.25 * legend_lines(columns, names)
        figure.legend(handles.values(), names, loc="outside lower center", ncols=columns,
                      fontsize=FONT, frameon=False, handlelength=3)
    if figure.get_suptitle():
        captioned(figure, figure.get_suptitle().replace("\n", " "))
    for axis in figure.axes:
        spec = axis.get_subplotspec()
        if spec is None:
            continue
        grid = spec.get_gridspec()
        shares = grid.get_height_ratios()
        down = (height - below) * shares[spec.rowspan.start] / sum(shares)
        _fit_axis(axis, width / grid.ncols, down)
    return figure


def _fit_axis(axis, across: float, down: float) -> None:
    """Break the texts of an axis that has this much room, in inches."""
    bars = getattr(axis, "_bars", None)
    names = [t.get_text() for t in axis.get_xticklabels()] if bars else []
    tall = 0.65 * max((inches(name, FONT - 1) for name in names), default=0)
    room = down - (0.55 + tall + (0.35 if axis.get_xlabel() else 0))
    y = axis.get_ylabel().replace("\n", " ")
    lines = wrapped(y, max(1.0, room), FONT).count("\n")
    scaled = axis.collections and getattr(axis.collections[0], "colorbar", None)
    wide = across - (2.6 if scaled else 1.15) - 0.22 * lines
    title = wrapped(axis.get_title().replace("\n", " "), max(1.0, wide), TITLE)
    axis.set_title(title, fontsize=TITLE)
    axis.set_ylabel(wrapped(y, max(1.0, room - 0.28 * title.count("\n")), FONT), fontsize=FONT)
    axis.set_xlabel(wrapped(axis.get_xlabel().replace("\n", " "), max(1.0, across - 0.9), FONT),
                    fontsize=FONT)
    if bars:
        _name_bars(axis, bars, across - 1.0)


def _own_axes(panels: list, stacked: bool, columns: int, across: int, size: tuple | None):
    """A figure and its axes, ``across`` in a row, as large as the panels need or of this size."""
    n = len(panels)
    down = math.ceil(n / across)
    usual = 11 if stacked else 3.2 * columns if columns else {1: 8, 2: 10.5, 3: 12.5}[across]
    width = size[0] if size else usual
    below = legend_lines(*legend_columns(labels(panels), width - 0.4, FONT))
    if size:
        height = size[1] + 0.25 * max(0, below - 2)
    elif stacked:
        height = sum(panel.height for panel in panels) + 0.25 * max(0, below - 1)
    elif columns:
        height = 2.6 * down + 0.6 + 0.25 * max(0, below - 2)
    else:
        height = 4.6 * down + 0.25 * max(1, below)
    figure = new_figure((width, height), layout="constrained")
    if stacked:
        axes = figure.subplots(n, 1, sharex=True, squeeze=False,
                               height_ratios=[p.height for p in panels])
        figure.align_ylabels(list(axes.flat))
    else:
        axes = figure.subplots(down, across, squeeze=False, sharex=bool(columns),
                               sharey=bool(columns))
    axes = list(axes.flat)
    for spare in axes[n:]:
        spare.remove()
    return figure, axes[:n]


def _given_axes(ax, n: int):
    axes = list(ax) if isinstance(ax, list | tuple | np.ndarray) else [ax]
    if len(axes) != n:
        raise ValueError(f"this plot has {n} panels but ax holds {len(axes)} axes; pass "
                         f"ax=None or {n} axes")
    return axes[0].figure, axes


def _name_common(axes: list, columns: int) -> None:
    """Name axes that are common once, at the left and at the bottom."""
    for i, axis in enumerate(axes):
        lowest = i + columns >= len(axes)
        axis.set_xlabel(axis.get_xlabel() if lowest else "", fontsize=FONT)
        axis.set_ylabel("" if i % columns else axis.get_ylabel(), fontsize=FONT)
        if lowest:
            axis.tick_params(labelbottom=True)


# --- panels: each function draws one kind and returns the handles of the legend by label


def _panel(axis, panel, wide: float) -> dict:
    axis.tta_panel = panel
    axis.set_title(panel.title, fontsize=TITLE)
    axis.set_xlabel(panel.x, fontsize=FONT)
    axis.set_ylabel(panel.y, fontsize=FONT)
    axis.tick_params(labelsize=FONT - 1)
    if panel.empty:
        axis.set(xticks=[], yticks=[])
        axis.text(0.5, 0.5, panel.sentence(max(16, int(9 * wide))), transform=axis.transAxes,
                  ha="center", va="center", fontsize=FONT)
        return {}
    return PANELS[type(panel)](axis, panel, wide)


def _over_x(axis, panel: Panel, wide: float) -> dict:
    """Series over x."""
    from matplotlib.ticker import MultipleLocator

    handles = _series(axis, panel)
    bars = panel.bars
    if bars:
        axis._bars = list(map(str, bars[0].x))
        _name_bars(axis, axis._bars, wide)
    handles |= _lines(axis, panel)
    low, high = panel.limits()
    if panel.across:
        axis.set_xlim(*panel.across)
    if panel.log:
        axis.set_yscale("log")
        axis.set_yticks(*log_ticks(low, high, panel.percent))
        axis.minorticks_off()
    elif panel.percent:
        _percent(axis.yaxis, decimals(100 * low, 100 * high))
    else:
        _plain(axis.yaxis, low, high)
    axis.set_ylim(low, high)
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)
    if panel.upright is not None:
        axis.set_xlim(*panel.around())
        if axis.get_xlim()[1] - axis.get_xlim()[0] <= 2:
            axis.xaxis.set_major_locator(MultipleLocator(0.5))
    _whole_numbers(axis, panel)
    if not bars:
        _plain(axis.xaxis, *axis.get_xlim())
    return handles


def _heat_map(axis, panel: HeatMap, wide: float) -> dict:
    """Cells, the scale of their shades beside them, and series over them."""
    from matplotlib.colors import PowerNorm
    from matplotlib.ticker import PercentFormatter

    low, high = panel.reach
    if panel.diverging:
        axis.set_facecolor(NOTHING)
    shades = {"norm": PowerNorm(0.5, low, high)} if panel.widened else {"vmin": low, "vmax": high}
    mesh = axis.pcolormesh(*panel.edges, panel.values.T,
                           cmap="RdBu_r" if panel.diverging else "Blues", **shades)
    shares = panel.percent or not panel.scale
    bar = axis.figure.colorbar(
        mesh, ax=axis, ticks=[0, 0.1, 0.5, 1] if panel.rows and not panel.scale else None,
        format=PercentFormatter(1.0, decimals=0) if shares else None)
    bar.set_label(panel.name, fontsize=FONT)
    bar.ax.tick_params(labelsize=FONT - 1)
    for x, y, text, dark in panel.written():
        axis.text(x, y, text, ha="center", va="center", fontsize=FONT - 2,
                  color="white" if dark else "black")
    handles = _series(axis, panel) | _lines(axis, panel)
    if panel.rows:
        axis.set_yticks(*named_rows(panel.rows))
        axis.set_ylim(len(panel.rows) - 0.5, -0.5)
    elif panel.percent:
        _percent(axis.yaxis, 0)
    if panel.columns:
        axis.set_xticks(*named_rows(panel.columns),
                        rotation=90 if max(map(len, panel.columns)) > 2 else 0)
        if not panel.y:
            axis.set_yticklabels([])
    _whole_numbers(axis, panel)
    return handles


PANELS = {Panel: _over_x, HeatMap: _heat_map}


def _lines(axis, panel) -> dict:
    """The reference lines."""
    handles = {}
    if panel.line:
        height, label = panel.line
        handles[label] = axis.axhline(height, color=GREY, linestyle=(0, (1, 1)), linewidth=2)
    upright = () if getattr(panel, "upright", None) is None else (panel.upright,)
    for x in (*upright, *panel.marks):
        axis.axvline(x, color=GREY, linewidth=1)
    return handles


def _name_bars(axis, names, wide: float) -> None:
    places, shown, tilted = bar_names(names, wide, FONT - 1)
    axis.set_xticks(places, shown, rotation=40 if tilted else 0, ha="right" if tilted else "center",
                    rotation_mode="anchor" if tilted else "default")
    axis.set_xlim(-0.6, len(names) - 0.4)


def _percent(axis, digits: int) -> None:
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0, decimals=digits))


def _whole_numbers(axis, panel) -> None:
    """Rounds, steps and images are counted."""
    from matplotlib.ticker import MaxNLocator

    if panel.x.startswith(("round", "step", "position")):
        axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))


def _plain(axis, low: float, high: float) -> None:
    """Ticks without a common factor or summand apart from them."""
    from matplotlib.ticker import FuncFormatter, ScalarFormatter

    if powers(low, high):
        axis.set_major_formatter(FuncFormatter(lambda value, _: number(value, low, high)))
        return
    axis.set_major_formatter(ScalarFormatter(useOffset=False))
    axis.get_major_formatter().set_scientific(False)


# --- series: each function draws one kind and returns its handle of the legend


def _series(axis, panel) -> dict:
    drawn = [(s.label, SERIES[s.kind](axis, panel, s, look_of(s.look))) for s in panel.shown]
    return {label: handle for label, handle in drawn if label}


def _line(axis, panel, s, look):
    low, high = panel.band(s)
    x = np.asarray(s.x)
    every = s.alone
    if s.marked:
        every = sorted({*range(0, len(s.y), max(1, len(s.y) // 20)), *every})
    handle, = axis.plot(x, s.values, color=look.color, linestyle=look.dash[0], linewidth=2.2,
                        label=s.label, marker=look.marker[0] if every else "", markersize=7,
                        markevery=every or None)
    if s.spread is not None:
        axis.fill_between(x, low, high, color=look.color, alpha=0.2, linewidth=0,
                          where=np.isfinite(np.asarray(s.spread, np.float64)))
    return handle


def _bars(axis, panel, s, look):
    bars = panel.bars
    low, high = panel.band(s)
    y = s.values
    width = 0.8 / len(bars)
    places = np.arange(len(y)) + (bars.index(s) - (len(bars) - 1) / 2) * width
    spread = None if s.spread is None else np.nan_to_num([y - low, high - y])
    return axis.bar(places, y, width, yerr=spread, color=look.color, hatch=look.hatch[0],
                    edgecolor="white", capsize=3, label=s.label)


def _outline(axis, panel, s, look):
    ends = {"baseline": None} if s.kind == "stairs" else {}
    return axis.stairs(s.values, s.x, color=look.color, linestyle=look.dash[0], linewidth=2.2,
                       label=s.label, **ends)


def _points(axis, panel, s, look):
    low, high = panel.band(s)
    x = np.asarray(s.x)
    y = s.values
    if s.spread is not None:
        axis.errorbar(x, y, [y - low, high - y], color=look.color, linestyle="none", capsize=3,
                      marker="")
    handle, = axis.plot(x, y, color=look.color, linestyle="none", label=s.label,
                        marker=look.marker[0], markersize=9 if panel.few else 6,
                        alpha=1 if panel.few else 0.55)
    return handle


SERIES = {"line": _line, "path": _line, "bar": _bars, "steps": _outline, "stairs": _outline,
          "points": _points}
