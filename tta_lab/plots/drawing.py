"""The drawing of figures: `Panel` values, each a pair of axes, in matplotlib or plotly, with the
same data and one style.

Colours are those of Okabe and Ito, distinguishable with any colour vision, and each series also
differs in line, marker or hatching. Panels with nothing finite in them are drawn empty, with a
sentence.
"""
from __future__ import annotations

import io
import math
import textwrap
from dataclasses import dataclass, replace

import numpy as np

from . import fitting
from .fitting import band, bar_names, finite, inches, legend_columns, legend_lines, limits, named, wrapped

# without the yellow, too pale on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#000000", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = (("-", "solid"), ("--", "dash"), (":", "dot"), ("-.", "dashdot"), ((0, (7, 2, 1, 2, 1, 2)),
                                                                            "longdashdot"))
MARKERS = (("o", "circle"), ("s", "square"), ("^", "triangle-up"), ("D", "diamond"),
           ("v", "triangle-down"), ("X", "x"), ("P", "cross"))
HATCHES = (("", ""), ("//", "/"), ("..", "."), ("xx", "x"), ("\\\\", "\\"), ("--", "-"), ("++",
                                                                                          "+"))
GROUP_LABELS = {
    "correct": "known, correct", "wrong": "known, wrong", "unknown": "unknown",
    "unlabelled": "no label", "all": "all images"
}
GROUP_LOOKS = {"correct": 2, "wrong": 1, "unknown": 0, "unlabelled": 4, "all": 3}
FONT, TITLE = 13, 15
# width of a plotly figure that has none of its own: beside JupyterLab's file list on a screen of
# 1280 x 720
PIXELS = 820
MANY = 60  # points; longer lines are drawn without a marker at each
COLUMNS = 300  # of a heat map of rows; longer streams are drawn in wider windows
ROWS = 24  # of a heat map that get their own height and name; of more rows some are named
NOTHING = "#d9d9d9"  # cells of a heat map around 0 that hold no number; white is 0 there


@dataclass(frozen=True, eq=False)
class Series:
    """One line, ``path`` (a line without markers), set of bars, cloud of ``points``, or outline
    (``steps``, and ``stairs`` without the drop to 0 at the ends: x are bin edges, one more than
    y); ``spread`` is a half-width of y."""

    x: object
    y: np.ndarray
    label: str
    look: int
    kind: str = "line"
    spread: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Panel:
    """What one pair of axes shows; ``percent`` writes shares 0..1 as per cent, ``heat`` is (x
    edges, y edges, values, name).

    ``scale`` of the heat: "" for shares (with ``rows``: the low end widened), "plain" from 0
    upwards, "root" the same with the low end widened, "diverging" around 0; ``top`` is its upper
    end, by default the largest value.
    """

    title: str
    x: str
    y: str
    series: tuple = ()
    percent: bool = False
    top: float | None = None        # the natural maximum of the heights
    line: tuple | None = None       # (height, label): a reference line across
    upright: float | None = None    # a reference line at this x
    heat: tuple | None = None
    rows: tuple = ()                # names of the rows of ``heat``, from the top down
    marks: tuple = ()               # thin reference lines at these x
    height: float = 1.0             # among panels stacked on each other, in inches
    # sentence shown when there is nothing to draw, in place of the usual one
    note: str = ""
    columns: tuple = ()             # names of the columns of ``heat``
    scale: str = ""                 # of ``heat``
    # format of the number written into each cell of ``heat``; per cent with ``percent``
    cells: str = ""
    log: bool = False               # heights on a logarithmic scale
    # of a logarithmic scale, by default below the lowest thing drawn
    bottom: float | None = None
    free: bool = False              # heights from the lowest thing drawn, not from 0
    whole: bool = False             # heights from 0 to ``top`` however little of that is used
    heights: tuple | None = None    # (lowest, highest) height shown, in place of what fits
    across: tuple | None = None     # (first, last) x shown

    @property
    def empty(self) -> bool:
        values = [s.y for s in self.series] + ([self.heat[2]] if self.heat else [])
        if self.log:
            values = [np.where(np.asarray(v, np.float64) > 0, v, np.nan) for v in values]
        return not any(np.isfinite(np.asarray(v, np.float64)).any() for v in values)


def captioned(figure, text: str):
    """Write ``text`` above a matplotlib figure of this module and return it."""
    wide = figure.get_figwidth() - 0.3
    # bold letters are wider
    figure.suptitle(wrapped(text, wide / 1.12, TITLE + 1), fontsize=TITLE + 1, fontweight="bold")
    return figure


def fit(figure, width: float | None = None, height: float | None = None):
    """Give a figure of this module another size (matplotlib: inches, plotly: pixels) and fit
    titles, names and legend to it; returns it."""
    if hasattr(figure, "update_layout"):
        return _fit_plotly(figure, width, height)
    if width or height:
        figure.set_size_inches(width or figure.get_figwidth(), height or figure.get_figheight())
    _fit_matplotlib(figure)
    return figure


def draw(panels: list[Panel], backend: str, ax, stacked: bool = False, columns: int = 0,
         size: tuple | None = None):
    """The figure of these panels: side by side, ``stacked`` with a common x, or in a grid of
    ``columns`` with common axes.

    ``size`` (inches) replaces the usual size; plotly takes its height, at 96 pixels to the inch.
    """
    panels = _distinct(fitting.common(panels) if columns else panels)
    if backend == "matplotlib":
        return _matplotlib(panels, ax, stacked, columns, size)
    _only_plotly(backend, ax)
    return _plotly(panels, stacked, columns, size)


def draw_frames(panels: list[Panel], names: list[str], backend: str, ax, title: str,
                what: str = ""):
    """One panel that changes: a slider over its states ``names`` in plotly, small multiples in
    matplotlib.

    All panels hold the same series, in the same order, over the same axes.
    """
    panels = _distinct(fitting.common(panels))
    if backend == "matplotlib":
        columns = min(len(panels), 5 if len(panels) > 8 else 4)
        rows = math.ceil(len(panels) / columns)
        figure = _matplotlib(panels, ax, False, columns,
                             (2.7 * columns + 0.6, 2.1 * rows + 1.5) if len(panels) > 1 else None)
        return captioned(figure, title) if ax is None and title else figure
    _only_plotly(backend, ax)
    return _plotly_frames(panels, names, title, what)


def draw_pictures(rows: list[tuple[str, list[tuple[np.ndarray, str]]]], backend: str, ax,
                  note: str):
    """Rows of images with a caption below each: (name of the row, [(image (C, H, W) in [0, 1],
    caption)]); ``note`` when there is none.

    matplotlib draws into the one axes ``ax`` or its own figure.  A row may be shorter than the
                                                                  others.
    """
    shapes = {image.shape for _, pictures in rows for image, _ in pictures}
    if not shapes:
        return draw([Panel("", "", "images", note=note or "Nothing to draw: there are no images.")],
                    backend, ax)
    if len(shapes) > 1 or (shape := next(iter(shapes)))[0] not in (1, 3):
        raise ValueError(f"all pictures must have one shape (1 or 3 channels, height, width), got "
                         f"{sorted(shapes)}")
    _, height, width = shape
    lines = max(caption.count("\n") + 1 for _, pictures in rows for _, caption in pictures)
    n = max(len(pictures) for _, pictures in rows)
    wide, high = 1.4, 1.25                     # inches of a column and of an image in it
    unit = high / height                       # inches of a pixel
    longest = max(
        len(line) for _, pictures in rows for _, caption in pictures
        for line in caption.split("\n"))
    wide = max(wide, 0.098 * longest + 0.1, width * unit + 0.15)
    left = (np.arange(n) * wide + (wide - width * unit) / 2) / unit
    row_height = high + 0.24 * lines + 0.2
    top = np.arange(len(rows)) * row_height / unit
    places = [(name, [(left[j], top[i], image, caption)
                      for j, (image, caption) in enumerate(pictures)])
              for i, (name, pictures) in enumerate(rows)]
    extent = n * wide / unit, len(rows) * row_height / unit
    if backend == "matplotlib":
        return _matplotlib_pictures(places, extent, (width, height), unit, ax)
    _only_plotly(backend, ax)
    return _plotly_pictures(places, extent, (width, height), unit)


def _only_plotly(backend: str, ax) -> None:
    if backend != "plotly":
        raise ValueError(f"backend must be 'matplotlib' or 'plotly', not {backend!r}")
    if ax is not None:
        raise ValueError("ax is for backend='matplotlib'; plotly makes its own figure")


def _sentence(panel: Panel, width: int = 44) -> str:
    if not panel.note:
        return f"Nothing to draw: {panel.y.split(' (')[0]}\nholds no finite numbers here."
    return "\n".join(textwrap.wrap(panel.note, width))


def _heat_range(panel: Panel) -> tuple[float, float]:
    """Lowest and highest value of the colours of a panel's heat map with a ``scale``."""
    values = np.asarray(panel.heat[2], np.float64)
    high = panel.top or float(np.max(np.abs(values[np.isfinite(values)]), initial=0)) or 1.0
    return (-high if panel.scale == "diverging" else 0.0), high


def _bytes(image) -> np.ndarray:
    """(C, H, W) in [0, 1] as (H, W, 3) bytes."""
    image = np.broadcast_to(np.asarray(image, np.float64), (3, *image.shape[1:]))
    return (image.transpose(1, 2, 0).clip(0, 1) * 255).round().astype(np.uint8)


def _looks(look: int) -> tuple:
    """Colour, dashes, marker and hatching of the series number ``look``: no two of the first 35
    agree in colour and dashes, no two of the first 245 in colour, dashes and marker, and no two of
    the first 42 in colour and hatching."""
    turned = look + look // len(COLOURS)
    return (COLOURS[look % len(COLOURS)], DASHES[look % len(DASHES)],
            MARKERS[turned % len(MARKERS)], HATCHES[turned % len(HATCHES)])


def _distinct(panels: list[Panel]) -> list[Panel]:
    """The panels with a look for each name: a second name with the look of a first gets one that
    is free, a name keeps the look it had first."""
    groups = set(GROUP_LABELS.values())
    wanted = {s.label: s.look for p in reversed(panels) for s in reversed(p.series) if s.label}
    looks = {label: number for label, number in wanted.items() if label in groups}
    for panel in panels:
        for s in panel.series:
            if not s.label or s.label in looks:
                continue
            new = s.look
            if new in looks.values():
                free = [
                    i for i in range(len(looks) + len(wanted) + 1)
                    if i not in looks.values() and i not in wanted.values()
                ]
                taken = {i % len(COLOURS) for i in (*looks.values(), *wanted.values())}
                new = next((i for i in free if i % len(COLOURS) not in taken), free[0])
            looks[s.label] = new

    def own(panel, s):
        if s.label:
            return replace(s, look=looks[s.label])
        # unnamed things belong to the named one of their look
        named = {t.look: t.label for t in reversed(panel.series) if t.label}
        return replace(s, look=looks[named[s.look]]) if s.look in named else s

    return [replace(p, series=tuple(own(p, s) for s in p.series)) for p in panels]


def _shown(panel: Panel) -> tuple:
    """The series that hold a number."""
    return tuple(s for s in panel.series if len(finite(s.y)))


def _missing(panels: list[Panel]) -> list[str]:
    """What the legend says of series that hold none in any panel."""
    there = {s.label for p in panels for s in _shown(p)}
    return list(
        dict.fromkeys(f"{s.label}: no numbers" for p in panels if not p.empty for s in p.series
                      if s.label and s.label not in there))


def _alone(y) -> list[int]:
    """Places of points with no finite neighbour: a line without markers would not show them."""
    there = np.concatenate([[False], np.isfinite(np.asarray(y, np.float64)), [False]])
    return np.flatnonzero(there[1:-1] & ~there[:-2] & ~there[2:]).tolist()


def look(number: int) -> dict:
    """Line and marker of a plotly line that looks like the series with this number."""
    colour, dash, marker, _ = _looks(number)
    return {
        "line": {"color": colour, "dash": dash[1], "width": 2.5},
        "marker": {"symbol": marker[1], "size": 8}
    }


def _labels(panels: list[Panel]) -> list[str]:
    found = [
        name for p in panels if not p.empty
        for name in (*(s.label for s in _shown(p)), *([p.line[1]] if p.line else []))
    ]
    return list(dict.fromkeys(name for name in (*found, *_missing(panels)) if name))


# --- matplotlib


def _matplotlib(panels: list[Panel], ax, stacked: bool = False, columns: int = 0,
                size: tuple | None = None):
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    labels, n = _labels(panels), len(panels)
    across = 1 if stacked else columns or min(n, 3)
    down = math.ceil(n / across)
    if ax is None:
        width = (size[0] if size else 11 if stacked else 3.2 *
                 columns if columns else {1: 8, 2: 10.5, 3: 12.5}[across])
        below = legend_lines(*legend_columns(labels, width - 0.4, FONT))
        if size:
            height = size[1] + 0.25 * max(0, below - 2)
        elif stacked:
            height = sum(panel.height for panel in panels) + 0.25 * max(0, below - 1)
        elif columns:
            height = 2.6 * down + 0.6 + 0.25 * max(0, below - 2)
        else:
            height = 4.6 * down + 0.25 * max(1, below)
        figure = Figure(figsize=(width, height), layout="constrained")
        if stacked:
            axes = list(
                figure.subplots(n, 1, sharex=True, squeeze=False,
                                height_ratios=[p.height for p in panels])[:, 0])
            figure.align_ylabels(axes)
        else:
            axes = list(
                figure.subplots(down, across, squeeze=False, sharex=bool(columns),
                                sharey=bool(columns)).flat)
            for spare in axes[n:]:
                spare.remove()
            axes = axes[:n]
        figure._repr_png_ = lambda: png(figure)  # shows in a notebook without pyplot
    else:
        axes = list(ax) if isinstance(ax, list | tuple | np.ndarray) else [ax]
        if len(axes) != n:
            raise ValueError(f"this plot has {n} panels but ax holds {len(axes)} axes; pass "
                             f"ax=None or {n} axes")
        figure = axes[0].figure
    handles: dict = {}
    for panel, axis in zip(panels, axes, strict=True):
        wide = (axis.get_window_extent().width / figure.dpi if ax is not None else width / across -
                (1.8 if panel.heat else 1.0))
        new = {
            label: handle for label, handle in _matplotlib_panel(panel, axis, wide).items()
            if label not in handles
        }
        handles |= new
        if ax is not None and new:
            _, names = legend_columns(list(new), wide - 0.2, FONT - 1)
            axis.legend(new.values(), names, fontsize=FONT - 1, framealpha=0.7)
    if columns and ax is None:      # common axes are named once
        for i, axis in enumerate(axes):
            axis.set_xlabel("" if i + columns < len(axes) else axis.get_xlabel(), fontsize=FONT)
            axis.set_ylabel(axis.get_ylabel() if i % columns == 0 else "", fontsize=FONT)
            if i + columns >= len(axes):
                axis.tick_params(labelbottom=True)
    if ax is None:
        figure._named = (handles
                         | {name: Line2D([], [], linestyle="none") for name in _missing(panels)})
        _fit_matplotlib(figure)
    else:
        for axis in axes:
            axis.set_title(
                wrapped(axis.get_title(), max(1.0,
                                              axis.get_window_extent().width / figure.dpi), TITLE),
                fontsize=TITLE)
    return figure


def _fit_matplotlib(figure) -> None:
    """Break titles and names of axes where they would be too wide, and lay the legend in as many
    columns as fit."""
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
        across = width / grid.ncols
        down = (height - below) * shares[spec.rowspan.start] / sum(shares)
        names = ([t.get_text()
                  for t in axis.get_xticklabels()] if getattr(axis, "_bars", None) else [])
        tall = 0.65 * max((inches(name, FONT - 1) for name in names), default=0)
        used = 0.55 + tall + (0.35 if axis.get_xlabel() else 0)
        label = wrapped(axis.get_ylabel().replace("\n", " "), max(1.0, down - used), FONT)
        wide = (
            across -
            (2.6 if axis.collections and getattr(axis.collections[0], "colorbar", None) else 1.15) -
            0.22 * label.count("\n"))
        title = wrapped(axis.get_title().replace("\n", " "), max(1.0, wide), TITLE)
        label = wrapped(axis.get_ylabel().replace("\n", " "),
                        max(1.0, down - used - 0.28 * title.count("\n")), FONT)
        axis.set_title(title, fontsize=TITLE)
        axis.set_ylabel(label, fontsize=FONT)
        axis.set_xlabel(wrapped(axis.get_xlabel().replace("\n", " "), max(1.0, across - 0.9), FONT),
                        fontsize=FONT)
        if getattr(axis, "_bars", None):
            _name_bars(axis, axis._bars, across - 1.0)


def _name_bars(axis, names, wide: float) -> None:
    places, shown, tilted = bar_names(names, wide, FONT - 1)
    axis.set_xticks(places, shown, rotation=40 if tilted else 0, ha="right" if tilted else "center",
                    rotation_mode="anchor" if tilted else "default")
    axis.set_xlim(-0.6, len(names) - 0.4)


def _matplotlib_pictures(places, extent, size, unit, ax):
    from matplotlib.figure import Figure

    if ax is None:
        names = 0.13 * max(max(map(len, name.split("\n"))) for name, _ in places) + 0.2
        figure = Figure(figsize=(extent[0] * unit + names, extent[1] * unit + 0.1))
        ax = figure.add_axes((names / (extent[0] * unit + names), 0,
                              extent[0] * unit / (extent[0] * unit + names), 1))
        figure._repr_png_ = lambda: png(figure)
    for _, pictures in places:
        for left, top, image, caption in pictures:
            ax.imshow(_bytes(image), interpolation="nearest",
                      extent=(left, left + size[0], top + size[1], top))
            ax.text(left + size[0] / 2, top + size[1] + 0.06 / unit, caption, ha="center", va="top",
                    fontsize=FONT - 1)
    ax.set(xlim=(0, extent[0]), ylim=(extent[1], -0.1 / unit), xticks=[])
    ax.set_yticks([pictures[0][1] + size[1] / 2 for _, pictures in places if pictures],
                  [name for name, pictures in places if pictures], fontsize=FONT)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax.figure


def matplotlib_images(sheet, across, upwards, columns, rows, ax):
    from matplotlib.figure import Figure

    if ax is None:
        figure = Figure(figsize=(1.15 * len(columns) + 1.8, 1.05 * len(rows) + 0.8),
                        layout="constrained")
        ax = figure.subplots()
        figure._repr_png_ = lambda: png(figure)
    ax.imshow(sheet, interpolation="nearest")
    ax.set_xticks(across, columns, fontsize=FONT - 1)
    ax.set_yticks(upwards, rows, fontsize=FONT)
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    ax.spines[:].set_visible(False)
    return ax.figure


def png(figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _matplotlib_panel(panel: Panel, axis, wide: float) -> dict:
    """Draw one panel; returns the legend handles by label."""
    from matplotlib.colors import PowerNorm
    from matplotlib.ticker import MaxNLocator, MultipleLocator, PercentFormatter

    axis.set_title(panel.title, fontsize=TITLE)
    axis.set_xlabel(panel.x, fontsize=FONT)
    axis.set_ylabel(panel.y, fontsize=FONT)
    axis.tick_params(labelsize=FONT - 1)
    if panel.empty:
        axis.set(xticks=[], yticks=[])
        axis.text(0.5, 0.5, _sentence(panel, max(16, int(9 * wide))), transform=axis.transAxes,
                  ha="center", va="center", fontsize=FONT)
        return {}
    handles = {}
    if panel.heat:
        across, upwards, values, name = panel.heat
        # rows: shares of a few per cent shall be seen beside whole ones
        scale = {"norm": PowerNorm(0.5, 0, 1)} if panel.rows else {"vmin": 0}
        labels = {
            "format": PercentFormatter(1.0, decimals=0),
            "ticks": [0, 0.1, 0.5, 1] if panel.rows else None
        }
        if panel.scale:
            scale = dict(zip(("vmin", "vmax"), _heat_range(panel), strict=True))
            scale = ({"norm": PowerNorm(0.5, *_heat_range(panel))}
                     if panel.scale == "root" else scale)
            labels = {"format": PercentFormatter(1.0, decimals=0)} if panel.percent else {}
            if panel.scale == "diverging":
                axis.set_facecolor(NOTHING)
        mesh = axis.pcolormesh(across, upwards, values.T,
                               cmap="RdBu_r" if panel.scale == "diverging" else "Blues", **scale)
        bar = axis.figure.colorbar(mesh, ax=axis, **labels)
        bar.set_label(name, fontsize=FONT)
        bar.ax.tick_params(labelsize=FONT - 1)
        for x, y, text, dark in _written(panel):
            axis.text(x, y, text, ha="center", va="center", fontsize=FONT - 2,
                      color="white" if dark else "black")
    bars = [s for s in _shown(panel) if s.kind == "bar"]
    for s in _shown(panel):
        colour, dash, marker, hatch = _looks(s.look)
        y = np.asarray(s.y, np.float64)
        low, high = band(s, panel)
        if s.kind == "bar":
            width = 0.8 / len(bars)
            places = np.arange(len(y)) + (bars.index(s) - (len(bars) - 1) / 2) * width
            spread = None if s.spread is None else np.nan_to_num([y - low, high - y])
            handle = axis.bar(places, y, width, yerr=spread, color=colour, hatch=hatch[0],
                              edgecolor="white", capsize=3, label=s.label)
        elif s.kind in ("steps", "stairs"):
            ends = {} if s.kind == "steps" else {"baseline": None}
            handle = axis.stairs(y, s.x, color=colour, linestyle=dash[0], linewidth=2.2,
                                 label=s.label, **ends)
        elif s.kind == "points":
            few = _few(panel)
            if s.spread is not None:
                axis.errorbar(np.asarray(s.x), y, [y - low, high - y], color=colour,
                              linestyle="none", capsize=3, marker="")
            handle, = axis.plot(np.asarray(s.x), y, color=colour, linestyle="none", label=s.label,
                                marker=marker[0], markersize=9 if few else 6,
                                alpha=1 if few else 0.55)
        else:
            x, alone = np.asarray(s.x), _alone(y)
            marked = s.kind != "path" or s.look >= len(COLOURS) * len(DASHES)
            every = sorted({*range(0, len(y), max(1, len(y) // 20)), *alone}) if marked else alone
            handle, = axis.plot(x, y, color=colour, linestyle=dash[0], linewidth=2.2, label=s.label,
                                marker=marker[0] if every else "", markersize=7, markevery=every
                                or None)
            if s.spread is not None:
                axis.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0,
                                  where=np.isfinite(np.asarray(s.spread, np.float64)))
        if s.label:
            handles[s.label] = handle
    if bars:
        axis._bars = list(map(str, bars[0].x))
        _name_bars(axis, axis._bars, wide)
    if panel.line:
        handles[panel.line[1]] = axis.axhline(panel.line[0], color="#555555", linestyle=(0, (1, 1)),
                                              linewidth=2)
    if panel.upright is not None:
        axis.axvline(panel.upright, color="#555555", linewidth=1)
    for x in panel.marks:
        axis.axvline(x, color="#555555", linewidth=1)
    if panel.rows:
        axis.set_yticks(*_named_rows(panel.rows))
        axis.set_ylim(len(panel.rows) - 0.5, -0.5)
    elif panel.percent:
        axis.yaxis.set_major_formatter(
            PercentFormatter(
                1.0, decimals=0 if panel.heat else fitting.decimals(*(100 * end
                                                                      for end in limits(panel)))))
    if panel.columns:
        axis.set_xticks(*_named_rows(panel.columns),
                        rotation=90 if max(map(len, panel.columns)) > 2 else 0)
        if not panel.y:
            axis.set_yticklabels([])
    if panel.across:
        axis.set_xlim(*panel.across)
    if not panel.heat:
        low, high = limits(panel)
        if panel.log:
            axis.set_yscale("log")
            axis.set_yticks(*_log_ticks(low, high, panel.percent))
            axis.minorticks_off()
        elif not panel.percent:
            _plain(axis.yaxis, low, high)
        axis.set_ylim(low, high)
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
    if panel.upright is not None:
        axis.set_xlim(*_around(panel))
        if axis.get_xlim()[1] - axis.get_xlim()[0] <= 2:
            axis.xaxis.set_major_locator(MultipleLocator(0.5))
    if panel.x.startswith(("round", "step", "position")):
        axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    if not bars and not panel.heat:
        _plain(axis.xaxis, *axis.get_xlim())
    return handles


def _plain(axis, low: float, high: float) -> None:
    """Ticks without a common factor or summand apart from them."""
    from matplotlib.ticker import FuncFormatter, ScalarFormatter

    if fitting.powers(low, high):
        axis.set_major_formatter(FuncFormatter(lambda value, _: fitting.number(value, low, high)))
        return
    axis.set_major_formatter(ScalarFormatter(useOffset=False))
    axis.get_major_formatter().set_scientific(False)


def _around(panel: Panel) -> tuple[float, float]:
    """What is shown across when an upright line has to be seen: the series and the line."""
    ends = finite(
        np.concatenate([np.asarray(s.x, np.float64)[[0, -1]]
                        for s in panel.series] + [[panel.upright]]))
    return float(ends.min()), float(ends.max())


def _named_rows(names) -> tuple[list[int], list[str]]:
    """Places and names of the rows that get a name: all, or evenly spaced ones and the last."""
    return named(names, ROWS)


def _written(panel: Panel) -> list[tuple[float, float, str, bool]]:
    """Place, text and whether the ground is dark, of each number written into a heat map; nothing
    for 0 and for NaN."""
    if not panel.cells:
        return []
    across, upwards, values, _ = panel.heat
    low, high = _heat_range(panel)
    dark = (0.6 if panel.scale == "diverging" else 0.55) * high
    texts = [(i, j, panel.cells.format(100 * value if panel.percent else value))
             for (i, j), value in np.ndenumerate(values) if np.isfinite(value)]
    x, y = ((edges[1:] + edges[:-1]) / 2
            for edges in (np.asarray(across, np.float64), np.asarray(upwards, np.float64)))
    return [(x[i], y[j], text, abs(values[i, j]) > dark) for i, j, text in texts
            if text.strip("-+0.%")]


def _few(panel: Panel) -> bool:
    """Whether the panel's points are so few that each is drawn large."""
    return sum(len(s.y) for s in panel.series if s.kind == "points") <= MANY


def _log_ticks(low: float, high: float, percent: bool) -> tuple[list[float], list[str]]:
    """Ticks of a logarithmic axis and their texts: powers of ten, over less than two decades also
    2 and 5 times those."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if math.log10(high / low) < 2 else (1,)
    ticks = [step * 10.0 ** power for power in powers for step in steps]
    ticks = [tick for tick in ticks if low <= tick <= high]
    return ticks[::max(1,
                       len(ticks) // 8)], [
                           f"{100 * t:g}%" if percent else f"{t:g}"
                           for t in ticks[::max(1,
                                                len(ticks) // 8)]
                       ]


# --- plotly


def _plotly(panels: list[Panel], stacked: bool = False, columns: int = 0,
            size: tuple | None = None):
    import plotly.graph_objects as go
    from plotly.colors import sample_colorscale
    from plotly.subplots import make_subplots

    titles, beside = [p.title for p in panels], min(len(panels), 3)
    if columns:
        lines = math.ceil(len(panels) / columns)
        figure = make_subplots(rows=lines, cols=columns, subplot_titles=titles, shared_xaxes="all",
                               shared_yaxes="all", horizontal_spacing=0.03,
                               vertical_spacing=0.35 / lines / 2)
    elif stacked:
        total = sum(p.height for p in panels)
        figure = make_subplots(rows=len(panels), cols=1, subplot_titles=titles, shared_xaxes=True,
                               vertical_spacing=0.5 / total, row_heights=[p.height for p in panels])
    else:
        lines = math.ceil(len(panels) / beside)
        apart = 0.12
        # the scale of one map and the names of the next one's rows
        if any(p.heat and p.scale for p in panels[:-1]):
            apart = 0.16 + max(map(_em, _named_rows(panels[-1].rows or ("",))[1])) * FONT / PIXELS
        figure = make_subplots(rows=lines, cols=beside, subplot_titles=titles,
                               horizontal_spacing=min(apart,
                                                      0.9 / beside), vertical_spacing=0.27 / lines)
    figure.update_annotations(font_size=TITLE, name="title")
    seen: set = set()
    for place, panel in enumerate(panels, start=1):
        where = ({"row": place, "col": 1} if stacked else
                 {"row": (place - 1) // beside + 1, "col": (place - 1) % beside + 1})
        if columns:
            where = {"row": (place - 1) // columns + 1, "col": (place - 1) % columns + 1}
        last = not columns or place + columns > len(panels)
        figure.update_xaxes(title_text=panel.x if last else "", **where)
        figure.update_yaxes(title_text=panel.y if not columns or where["col"] == 1 else "", **where)
        if columns and last:
            figure.update_xaxes(showticklabels=True, **where)
        if panel.empty:
            figure.update_xaxes(visible=False, range=[0, 1], **where)
            figure.update_yaxes(visible=False, range=[0, 1], **where)
            text = _sentence(panel, max(16, 84 // (columns or (1 if stacked else beside))))
            figure.add_annotation(text=text.replace("\n", "<br>"), x=0.5, y=0.5, showarrow=False,
                                  font_size=FONT, **where)
            continue
        if panel.heat:
            across, upwards, values, name = panel.heat
            colours = {"colorscale": "Blues", "zmin": 0}
            bar = {"title": {"text": name, "side": "right"}, "tickformat": ".0%"}
            hover = "%{z:.1%}<extra></extra>"
            low, high = figure.get_subplot(**where).yaxis.domain
            if panel.scale:
                reach = _heat_range(panel)
                colours = {
                    "colorscale": "RdBu_r" if panel.scale == "diverging" else "Blues",
                    "zmin": reach[0], "zmax": reach[1]
                }
                if panel.scale == "root":
                    colours["colorscale"] = [[
                        (i / 10)**2, shade
                    ] for i, shade in enumerate(sample_colorscale("Blues", 11))]
                bar = {
                    "title": {"text": name,
                              "side": "right"}, "tickformat": ".0%" if panel.percent else "",
                    "y": (low + high) / 2, "len": high - low, "thickness": 16,
                    "x": figure.get_subplot(**where).xaxis.domain[1] + 0.005, "xanchor": "left"
                }
                upwards = np.arange(len(panel.rows)) if panel.rows else upwards
                across = np.arange(len(panel.columns)) if panel.columns else across
                rows = panel.rows or [""] * values.shape[1]
                hover = ("%{customdata}: " + ("%{z:.1%}" if panel.percent else "%{z:.3g}") +
                         "<extra></extra>")
                colours["customdata"] = np.array([[
                    f"{panel.y} {row}, {panel.x.split(' (')[0]} "
                    f"{column}"
                    for column in panel.columns or np.asarray(across)[:len(values)].tolist()
                ] for row in rows])
            elif panel.rows:
                shades = sample_colorscale("Blues", 11)
                colours = {
                    "colorscale": [[(i / 10)**2, shade] for i, shade in enumerate(shades)],
                    "zmin": 0, "zmax": 1
                }
                bar |= {"y": (low + high) / 2, "len": high - low, "tickvals": [0, 0.1, 0.5, 1]}
                upwards = np.arange(len(panel.rows))
                hover = "image %{x}, %{customdata}: %{z:.1%}<extra></extra>"
                colours["customdata"] = np.repeat(
                    np.array(panel.rows)[:, None], len(values), axis=1)
            figure.add_trace(
                go.Heatmap(x=across, y=upwards, z=values.T, hovertemplate=hover, colorbar=bar,
                           **colours), **where)
        for x, y, text, dark in _written(panel):
            figure.add_annotation(text=text, x=x, y=y, showarrow=False,
                                  font={"size": FONT - 2,
                                        "color": "white" if dark else "black"}, **where)
        for s in _shown(panel):
            for trace in _plotly_traces(go, s, panel, s.label and s.label not in seen):
                figure.add_trace(trace, **where)
            seen.add(s.label)
        if panel.line:
            figure.add_hline(y=panel.line[0], line={"color": "#555555", "dash": "dot",
                                                    "width": 2}, name=_legend_name(panel.line[1]),
                             showlegend=panel.line[1] not in seen, **where)
            seen.add(panel.line[1])
        if panel.upright is not None:
            figure.add_vline(x=panel.upright, line={"color": "#555555", "width": 1}, **where)
        for x in panel.marks:
            figure.add_vline(x=x, line={"color": "#555555", "width": 1}, **where)
        if panel.rows:
            places, names = _named_rows(panel.rows)
            figure.update_yaxes(tickvals=places, ticktext=names,
                                range=[len(panel.rows) - 0.5, -0.5], **where)
        elif panel.percent:
            digits = 0 if panel.heat else fitting.decimals(*(100 * end for end in limits(panel)))
            figure.update_yaxes(tickformat=f".{digits}%", **where)
        if panel.x.startswith("round") and len(panel.series[0].x) <= 5:
            figure.update_xaxes(dtick=1, **where)
        # lines alone move no axis
        if not panel.heat and panel.series and not panel.across and (panel.marks
                                                                     or panel.upright is not None):
            figure.update_xaxes(range=_reach(panel), **where)
        if panel.columns:
            places, names = _named_rows(panel.columns)
            figure.update_xaxes(tickvals=places, ticktext=names,
                                tickangle=-90 if max(map(len, names)) > 2 else 0, **where)
            figure.update_yaxes(showticklabels=bool(panel.y), **where)
        if panel.across:
            figure.update_xaxes(range=list(panel.across), **where)
        if panel.heat and panel.scale == "diverging":
            figure.update_layout(plot_bgcolor=NOTHING)
        if not panel.heat:
            _plotly_heights(figure, panel, where)
    for name in _missing(panels):
        figure.add_trace(
            go.Scatter(x=[None], y=[None], mode="lines", line_color="rgba(0,0,0,0)",
                       name=_legend_name(name), hoverinfo="skip"))
    figure.update_layout(
        template="plotly_white", font_size=FONT, barmode="group",
        height=_plotly_height(panels, stacked, columns, size), showlegend=bool(_labels(panels)))
    # so that names keep apart from those of the other axis
    figure.update_xaxes(ticks="outside", tickcolor="rgba(0,0,0,0)")
    return _fit_plotly(figure)


def _reach(panel: Panel) -> list[float]:
    """What is shown across: the series, and the lines at some x."""
    if panel.upright is not None:
        return list(_around(panel))
    ends = finite(
        np.concatenate([np.asarray(s.x, np.float64)
                        for s in _shown(panel)] + [np.asarray(panel.marks, np.float64)]))
    room = 0.03 * float(np.ptp(ends)) or 0.5
    return [float(ends.min()) - room, float(ends.max()) + room]


def _legend_name(label: str) -> str:
    return wrapped(label, 45 * FONT * 0.6 / 96, FONT * 72 / 96).replace("\n", "<br>")


def _em(text: str) -> float:
    """Width of a text of a plotly figure in units of its font size."""
    return inches(text.replace("<br>", "\n"), 72)


def _fit_plotly(figure, width: float | None = None, height: float | None = None):
    """Set the size in pixels; break titles and names of axes where they would be too wide, and
    leave room for all texts."""
    def broken(text, pixels, size):
        return wrapped((text or "").replace("<br>", " "),
                       max(60.0, pixels) / size, 72).replace("\n", "<br>")

    layout = figure.layout
    layout.width = width or layout.width
    layout.height = height or layout.height
    wide = layout.width or PIXELS
    high = layout.height
    size = layout.font.size or FONT
    names = list(
        dict.fromkeys(t.name for t in (*figure.data, *layout.shapes)
                      if t.name and t.showlegend is not False))
    names = names if layout.showlegend else []
    widths = [40 + _em(name) * size for name in names]
    lines = max([name.count("<br>") + 1 for name in names], default=0)
    rows = (bool(names) if sum(widths) <= wide -
            90 else math.ceil(len(names) / max(1, int((wide - 90) / max(widths)))))
    below = rows * lines * round(1.46 * size)
    titles = [a for a in layout.annotations if a.name == "title"]
    left = (max([
        18 + size * max(map(_em, axis.ticktext)) for axis in figure.select_yaxes() if axis.ticktext
    ], default=42) + 26)
    right = (110 if any(t.type == "heatmap" and t.showscale is not False
                        for t in figure.data) else 20)
    plain = wide - left - right
    for a in titles:
        share = min(
            (x.domain[1] - x.domain[0]
             for x in figure.select_xaxes() if x.domain and abs(sum(x.domain) / 2 - a.x) < 1e-6),
            default=1)
        a.text = broken(a.text, share * plain + 30, a.font.size)
    top = (16 + max([1.3 * a.font.size * (a.text.count("<br>") + 1) * bool(a.text)
                     for a in titles], default=0))
    under = 0.0
    for x in figure.select_xaxes():
        share = (x.domain[1] - x.domain[0]) if x.domain else 1
        bars = next(
            (t for t in figure.data
             if t.type == "bar" and (t.xaxis or "x").replace("x", "xaxis") == x.plotly_name), None)
        tall = 1.6 * size
        if bars is not None and len(bars.x) and isinstance(bars.x[0], str):
            places, shown, tilted = bar_names([name.replace("<br>", "\n") for name in bars.x],
                                              share * plain / size, 72)
            x.tickmode, x.tickvals, x.ticktext = "array", [bars.x[i] for i in places], [
                name.replace("\n", "<br>") for name in shown
            ]
            x.tickangle = -40 if tilted else 0
            tall = (size * ((0.64 * max(map(_em, x.ticktext)) + 1.6) if tilted else 1.4 *
                            (1 + max(t.count("<br>") for t in x.ticktext))))
        elif x.ticktext and x.tickangle:
            tall = size * (max(map(_em, x.ticktext)) + 1)
        x.title.text = broken(x.title.text, share * plain + 40, size) or None
        x.title.standoff = 6
        if x.visible is not False and _lowest(figure, x):
            under = max(
                under,
                tall + (1.4 * size * (x.title.text.count("<br>") + 1) + 4 if x.title.text else 0))
    layout.margin = {
        "l": 60 if left < 69 else round(left), "r": 20, "t": round(top),
        "b": round(below + under + 8)
    }
    for y in figure.select_yaxes():
        share = (y.domain[1] - y.domain[0]) if y.domain else 1
        y.title.text = broken(y.title.text, share * (high - top - below - under) + 10, size) or None
    layout.legend = {
        "orientation": "h", "yref": "container", "y": 0.0, "yanchor": "bottom", "x": 0.5,
        "xanchor": "center"
    }
    return figure


def _lowest(figure, x) -> bool:
    """Whether no other axes stand below those of this x axis."""
    domains = [y.domain for y in figure.select_yaxes() if y.domain]
    own = figure.layout[("y" + (x.anchor or "y")[1:]).replace("y", "yaxis", 1)].domain
    return not own or own[0] <= min(d[0] for d in domains) + 1e-6


def _plotly_height(panels: list[Panel], stacked: bool, columns: int, size: tuple | None) -> int:
    if size:
        return round(96 * size[1])
    if columns:
        return 230 * math.ceil(len(panels) / columns) + 120
    if stacked:
        return round(80 * sum(p.height for p in panels) + 60)
    lines = math.ceil(len(panels) / 3)
    return (380 * lines + 66 +
            24 * legend_lines(*legend_columns(_labels(panels), PIXELS / 96, FONT * 0.75)))


def _plotly_heights(figure, panel: Panel, where: dict) -> None:
    low, high = limits(panel)
    if panel.log:
        ticks, names = _log_ticks(low, high, panel.percent)
        figure.update_yaxes(type="log", range=[math.log10(low), math.log10(high)], tickvals=ticks,
                            ticktext=names, **where)
    else:
        figure.update_yaxes(range=[low, high], **where)


def _plotly_frames(panels: list[Panel], names: list[str], title: str, what: str):
    import plotly.graph_objects as go

    if not panels or all(p.empty for p in panels):
        return _plotly(
            [replace(panels[0], title=title)] if panels else [Panel(title, "", "images")])
    first = panels[0]
    figure = go.Figure([t for s in first.series for t in _plotly_traces(go, s, first, s.label)])
    figure.frames = [
        go.Frame(name=name,
                 data=[t for s in panel.series for t in _plotly_traces(go, s, panel, s.label)])
        for panel, name in zip(panels, names, strict=True)
    ]
    figure.update_xaxes(title_text=first.x)
    figure.update_yaxes(title_text=first.y, tickformat=".0%" if first.percent else "")
    _plotly_heights(figure, first, {})
    if first.across:
        figure.update_xaxes(range=list(first.across))
    now = {
        "mode": "immediate", "frame": {"duration": 0, "redraw": True},
        "transition": {"duration": 0}
    }
    play = {**now, "frame": {"duration": 600, "redraw": True}, "fromcurrent": True}
    figure.update_layout(
        template="plotly_white", font_size=FONT, height=560,
        margin={"l": 60, "r": 20, "t": 90, "b": 40}, title={"text": title, "font_size": TITLE},
        showlegend=bool(_labels(panels)),
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0}, sliders=[{
            "currentvalue": {"prefix": what + " " if what else "", "font": {"size": FONT}},
            "pad": {"t": 55, "b": 0}, "x": 0.12, "len": 0.88,
            "steps": [{"label": name, "method": "animate", "args": [[name], now]} for name in names]
        }], updatemenus=[{
            "type": "buttons", "direction": "left", "x": 0.0, "xanchor": "left", "y": 0,
            "yanchor": "top", "pad": {"t": 78}, "showactive": False,
            "buttons": [{"label": "Play", "method": "animate", "args": [None, play]},
                        {"label": "Stop", "method": "animate", "args": [[None], now]}]
        }])
    return figure


def _plotly_pictures(places, extent, size, unit):
    import plotly.graph_objects as go

    figure = go.Figure()
    names = max(max(map(len, name.split("\n"))) for name, _ in places)
    for _, pictures in places:
        for left, top, image, caption in pictures:
            figure.add_trace(
                go.Image(z=_bytes(image), x0=left + 0.5, y0=top + 0.5, dx=1, dy=1,
                         hoverinfo="skip"))
            figure.add_annotation(text=caption.replace("\n", "<br>"), x=left + size[0] / 2,
                                  y=top + size[1] + 0.04 / unit, showarrow=False, yanchor="top",
                                  font_size=FONT - 1, borderpad=0)
    figure.update_xaxes(range=[0, extent[0]], visible=False, constrain="domain", scaleanchor=None)
    figure.update_yaxes(range=[extent[1], -0.1 / unit],
                        tickvals=[p[0][1] + size[1] / 2 for _, p in places if p],
                        ticktext=[name.replace("\n", "<br>") for name, p in places if p],
                        showgrid=False, zeroline=False, ticks="", scaleanchor="x",
                        constrain="domain")
    # pixels to the inch; wider figures would need scrolling
    scale = min(78, 1050 / (extent[0] * unit))
    figure.update_layout(template="plotly_white", font_size=FONT,
                         height=round(scale * (extent[1] * unit + 0.1)) + 20,
                         width=round(scale * extent[0] * unit + 9 * names + 30),
                         margin={"l": 9 * names + 20, "r": 10, "t": 10, "b": 10})
    return figure


def _plotly_traces(go, s: Series, panel: Panel, legend) -> list:
    colour, dash, marker, hatch = _looks(s.look)
    y = np.asarray(s.y, np.float64)
    common = {"name": _legend_name(s.label), "legendgroup": s.label, "showlegend": bool(legend)}
    low, high = band(s, panel)
    error = (None if s.spread is None else
             {"type": "data", "symmetric": False, "array": high - y, "arrayminus": y - low})
    line = {"color": colour, "dash": dash[1], "width": 2.5}
    if s.kind == "bar":
        pattern = {"shape": hatch[1], "fgcolor": "white", "fillmode": "overlay"}
        return [
            go.Bar(x=s.x, y=y, error_y=error, marker={"color": colour, "pattern": pattern},
                   **common)
        ]
    if s.kind in ("steps", "stairs"):
        return [
            go.Scatter(x=np.asarray(s.x), y=np.append(y, y[-1]), mode="lines",
                       line={**line, "shape": "hv"}, **common)
        ]
    x = np.asarray(s.x)
    if s.kind == "points":
        few = _few(panel)
        return [
            go.Scatter(x=x, y=y, mode="markers", opacity=1 if few else 0.55, error_y=error,
                       marker={"color": colour, "symbol": marker[1],
                               "size": 11 if few else 6}, **common)
        ]
    alone, sizes = _alone(y), 8
    if len(x) > MANY or s.kind == "path" and s.look < len(COLOURS) * len(DASHES):
        sizes = np.isin(np.arange(len(y)), alone) * 8
    mode = "lines+markers" if np.any(sizes) else "lines"
    traces = [
        go.Scatter(x=x, y=y, mode=mode, line=line, marker={"symbol": marker[1], "size": sizes},
                   **common)
    ]
    if s.spread is not None:
        there = np.flatnonzero(np.isfinite(y) & np.isfinite(s.spread))
        # a gap in the line is one in the band
        pieces = np.split(there, np.flatnonzero(np.diff(there) > 1) + 1)
        outline, there_and_back = (np.concatenate(
            [v for piece in pieces for v in (gap, upper[piece], lower[piece][::-1])][1:])
                                   for gap, upper, lower in (([np.nan], high, low), ([None], x, x)))
        traces.append(
            go.Scatter(x=there_and_back, y=outline, fill="toself", mode="lines", fillcolor=colour,
                       opacity=0.2, line={"width": 0}, hoverinfo="skip", legendgroup=s.label,
                       showlegend=False))
    return traces
