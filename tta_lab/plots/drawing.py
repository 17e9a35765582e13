"""The drawing of figures: `Panel` values, each a pair of axes, in matplotlib or plotly, with the same data and one style.

Colours are those of Okabe and Ito, distinguishable with any colour vision, and each series also differs in line, marker or hatching. Panels
with nothing finite in them are drawn empty, with a sentence.
"""
from __future__ import annotations

import io
import math
import textwrap
from dataclasses import dataclass, replace

import numpy as np

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#000000", "#CC79A7", "#E69F00", "#56B4E9")  # without the yellow, too pale on white
DASHES = (("-", "solid"), ("--", "dash"), (":", "dot"), ("-.", "dashdot"), ((0, (7, 2, 1, 2, 1, 2)), "longdashdot"))
MARKERS = (("o", "circle"), ("s", "square"), ("^", "triangle-up"), ("D", "diamond"), ("v", "triangle-down"), ("X", "x"), ("P", "cross"))
HATCHES = (("", ""), ("//", "/"), ("..", "."), ("xx", "x"), ("\\\\", "\\"), ("--", "-"), ("++", "+"))
GROUP_LABELS = {"correct": "known, correct", "wrong": "known, wrong", "unknown": "unknown", "unlabelled": "no label", "all": "all images"}
GROUP_LOOKS = {"correct": 2, "wrong": 1, "unknown": 0, "unlabelled": 4, "all": 3}
FONT, TITLE = 13, 15
MANY = 60  # points; longer lines are drawn without a marker at each
COLUMNS = 300  # of a heat map of rows; longer streams are drawn in wider windows
ROWS = 24  # of a heat map that get their own height and name; of more rows some are named
NOTHING = "#d9d9d9"  # cells of a heat map around 0 that hold no number; white is 0 there


@dataclass(frozen=True, eq=False)
class Series:
    """One line, ``path`` (a line without markers), set of bars, cloud of ``points``, or outline (``steps``, and ``stairs`` without the drop
    to 0 at the ends: x are bin edges, one more than y); ``spread`` is a half-width of y."""

    x: object
    y: np.ndarray
    label: str
    look: int
    kind: str = "line"
    spread: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Panel:
    """What one pair of axes shows; ``percent`` writes shares 0..1 as per cent, ``heat`` is (x edges, y edges, values, name).

    ``scale`` of the heat: "" for shares (with ``rows``: the low end widened), "plain" from 0 upwards, "root" the same with the low end widened,
    "diverging" around 0; ``top`` is its upper end, by default the largest value.
    """

    title: str
    x: str
    y: str
    series: tuple = ()
    percent: bool = False
    top: float | None = None
    line: tuple | None = None       # (height, label): a reference line across
    upright: float | None = None    # a reference line at this x
    heat: tuple | None = None
    rows: tuple = ()                # names of the rows of ``heat``, from the top down
    marks: tuple = ()               # thin reference lines at these x
    height: float = 1.0             # among panels stacked on each other, in inches
    note: str = ""                  # sentence shown when there is nothing to draw, in place of the usual one
    columns: tuple = ()             # names of the columns of ``heat``
    scale: str = ""                 # of ``heat``
    cells: str = ""                 # format of the number written into each cell of ``heat``; per cent with ``percent``
    log: bool = False               # heights on a logarithmic scale
    bottom: float | None = None     # of a logarithmic scale, by default below the lowest thing drawn
    free: bool = False              # heights from the lowest thing drawn, not from 0
    across: tuple | None = None     # (first, last) x shown

    @property
    def empty(self) -> bool:
        values = [s.y for s in self.series] + ([self.heat[2]] if self.heat else [])
        if self.log:
            values = [np.where(np.asarray(v, np.float64) > 0, v, np.nan) for v in values]
        return not any(np.isfinite(np.asarray(v, np.float64)).any() for v in values)


def captioned(figure, text: str):
    """Write ``text`` above a matplotlib figure of this module and return it."""
    figure.suptitle(text, fontsize=TITLE + 1, fontweight="bold")
    return figure


def draw(panels: list[Panel], backend: str, ax, stacked: bool = False, columns: int = 0, size: tuple | None = None):
    """The figure of these panels: side by side, ``stacked`` with a common x, or in a grid of ``columns`` with common axes.

    ``size`` (inches) replaces the usual size; plotly takes its height, at 96 pixels to the inch.
    """
    if backend == "matplotlib":
        return _matplotlib(panels, ax, stacked, columns, size)
    _only_plotly(backend, ax)
    return _plotly(panels, stacked, columns, size)


def draw_frames(panels: list[Panel], names: list[str], backend: str, ax, title: str, what: str = ""):
    """One panel that changes: a slider over its states ``names`` in plotly, small multiples in matplotlib.

    All panels hold the same series, in the same order, over the same axes.
    """
    if backend == "matplotlib":
        columns = min(len(panels), 5 if len(panels) > 8 else 4)
        rows = math.ceil(len(panels) / columns)
        figure = _matplotlib(panels, ax, False, columns, (2.7 * columns + 0.6, 2.1 * rows + 1.5) if len(panels) > 1 else None)
        return captioned(figure, title) if ax is None and title else figure
    _only_plotly(backend, ax)
    return _plotly_frames(panels, names, title, what)


def draw_pictures(rows: list[tuple[str, list[tuple[np.ndarray, str]]]], backend: str, ax, note: str):
    """Rows of images with a caption below each: (name of the row, [(image (C, H, W) in [0, 1], caption)]); ``note`` when there is none.

    matplotlib draws into the one axes ``ax`` or its own figure.  A row may be shorter than the others.
    """
    shapes = {image.shape for _, pictures in rows for image, _ in pictures}
    if not shapes:
        return draw([Panel("", "", "images", note=note or "Nothing to draw: there are no images.")], backend, ax)
    if len(shapes) > 1 or (shape := next(iter(shapes)))[0] not in (1, 3):
        raise ValueError(f"all pictures must have one shape (1 or 3 channels, height, width), got {sorted(shapes)}")
    _, height, width = shape
    lines = max(caption.count("\n") + 1 for _, pictures in rows for _, caption in pictures)
    n = max(len(pictures) for _, pictures in rows)
    wide, high = 1.4, 1.25                     # inches of a column and of an image in it
    unit = high / height                       # inches of a pixel
    longest = max(len(line) for _, pictures in rows for _, caption in pictures for line in caption.split("\n"))
    wide = max(wide, 0.098 * longest + 0.1, width * unit + 0.15)
    left = (np.arange(n) * wide + (wide - width * unit) / 2) / unit
    row_height = high + 0.24 * lines + 0.2
    top = np.arange(len(rows)) * row_height / unit
    places = [(name, [(left[j], top[i], image, caption) for j, (image, caption) in enumerate(pictures)])
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
    """Colour, dashes, marker and hatching of the series number ``look``: no two of the first 35 agree in all of them."""
    turned = look + look // len(COLOURS)
    return (COLOURS[look % len(COLOURS)], DASHES[look % len(DASHES)], MARKERS[turned % len(MARKERS)], HATCHES[turned % len(HATCHES)])


def look(number: int) -> dict:
    """Line and marker of a plotly line that looks like the series with this number."""
    colour, dash, marker, _ = _looks(number)
    return {"line": {"color": colour, "dash": dash[1], "width": 2.5}, "marker": {"symbol": marker[1], "size": 8}}


def _labels(panels: list[Panel]) -> list[str]:
    return list(dict.fromkeys(s.label for p in panels if not p.empty for s in p.series if s.label))


# --- matplotlib

def _matplotlib(panels: list[Panel], ax, stacked: bool = False, columns: int = 0, size: tuple | None = None):
    from matplotlib.figure import Figure

    labels = _labels(panels)
    rows = _legend_rows(labels, min(len(panels), 3))
    if ax is None and columns:
        lines = math.ceil(len(panels) / columns)
        figure = Figure(figsize=size or (3.2 * columns, 2.6 * lines + 0.6), layout="constrained")
        axes = list(figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat)
        for spare in axes[len(panels):]:
            spare.remove()
        axes = axes[:len(panels)]
        figure._repr_png_ = lambda: png(figure)
    elif ax is None and stacked:
        heights = [panel.height for panel in panels]
        figure = Figure(figsize=(11, sum(heights)), layout="constrained")
        axes = list(figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0])
        figure.align_ylabels(axes)
        figure._repr_png_ = lambda: png(figure)
    elif ax is None:
        figure = Figure(figsize=size or ({1: 8, 2: 10.5, 3: 12.5}[len(panels)], 4.6 + 0.25 * rows), layout="constrained")
        axes = list(figure.subplots(1, len(panels), squeeze=False)[0])
        figure._repr_png_ = lambda: png(figure)  # shows in a notebook without pyplot
    else:
        axes = list(ax) if isinstance(ax, list | tuple | np.ndarray) else [ax]
        if len(axes) != len(panels):
            raise ValueError(f"this plot has {len(panels)} panels but ax holds {len(axes)} axes; pass ax=None or {len(panels)} axes")
        figure = axes[0].figure
    handles: dict = {}
    for panel, axis in zip(panels, axes, strict=True):
        new = {label: handle for label, handle in _matplotlib_panel(panel, axis).items() if label not in handles}
        handles |= new
        if ax is not None and new:
            axis.legend(new.values(), new.keys(), fontsize=FONT - 1, framealpha=0.7)
    if columns and ax is None:      # common axes are named once
        for i, axis in enumerate(axes):
            axis.set_xlabel("" if i + columns < len(axes) else axis.get_xlabel(), fontsize=FONT)
            axis.set_ylabel(axis.get_ylabel() if i % columns == 0 else "", fontsize=FONT)
            if i + columns >= len(axes):
                axis.tick_params(labelbottom=True)
    if ax is None and handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=math.ceil(len(handles) / rows), fontsize=FONT,
                      frameon=False, handlelength=3)
    return figure


def _matplotlib_pictures(places, extent, size, unit, ax):
    from matplotlib.figure import Figure

    if ax is None:
        names = 0.13 * max(max(map(len, name.split("\n"))) for name, _ in places) + 0.2
        figure = Figure(figsize=(extent[0] * unit + names, extent[1] * unit + 0.1))
        ax = figure.add_axes((names / (extent[0] * unit + names), 0, extent[0] * unit / (extent[0] * unit + names), 1))
        figure._repr_png_ = lambda: png(figure)
    for _, pictures in places:
        for left, top, image, caption in pictures:
            ax.imshow(_bytes(image), interpolation="nearest", extent=(left, left + size[0], top + size[1], top))
            ax.text(left + size[0] / 2, top + size[1] + 0.06 / unit, caption, ha="center", va="top", fontsize=FONT - 1)
    ax.set(xlim=(0, extent[0]), ylim=(extent[1], -0.1 / unit), xticks=[])
    ax.set_yticks([pictures[0][1] + size[1] / 2 for _, pictures in places if pictures],
                  [name for name, pictures in places if pictures], fontsize=FONT)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax.figure


def matplotlib_images(sheet, across, upwards, columns, rows, ax):
    from matplotlib.figure import Figure

    if ax is None:
        figure = Figure(figsize=(1.15 * len(columns) + 1.8, 1.05 * len(rows) + 0.8), layout="constrained")
        ax = figure.subplots()
        figure._repr_png_ = lambda: png(figure)
    ax.imshow(sheet, interpolation="nearest")
    ax.set_xticks(across, columns, fontsize=FONT - 1)
    ax.set_yticks(upwards, rows, fontsize=FONT)
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    ax.spines[:].set_visible(False)
    return ax.figure


def _legend_rows(labels: list[str], panels: int) -> int:
    width = sum(len(label) + 7 for label in labels)
    return max(1, min(len(labels), math.ceil(width / {1: 62, 2: 92, 3: 112}[panels])))


def png(figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _matplotlib_panel(panel: Panel, axis) -> dict:
    """Draw one panel; returns the legend handles by label."""
    from matplotlib.colors import PowerNorm
    from matplotlib.ticker import MaxNLocator, MultipleLocator, PercentFormatter

    axis.set_title(panel.title, fontsize=TITLE)
    axis.set_xlabel(panel.x, fontsize=FONT)
    axis.set_ylabel(panel.y, fontsize=FONT)
    axis.tick_params(labelsize=FONT - 1)
    if panel.empty:
        axis.set(xticks=[], yticks=[])
        width = axis.get_window_extent().width / axis.figure.dpi
        axis.text(0.5, 0.5, _sentence(panel, max(16, int(10 * width))), transform=axis.transAxes, ha="center", va="center", fontsize=FONT)
        return {}
    handles = {}
    if panel.heat:
        across, upwards, values, name = panel.heat
        scale = {"norm": PowerNorm(0.5, 0, 1)} if panel.rows else {"vmin": 0}     # rows: shares of a few per cent shall be seen beside whole ones
        labels = {"format": PercentFormatter(1.0, decimals=0), "ticks": [0, 0.1, 0.5, 1] if panel.rows else None}
        if panel.scale:
            scale = dict(zip(("vmin", "vmax"), _heat_range(panel), strict=True))
            scale = {"norm": PowerNorm(0.5, *_heat_range(panel))} if panel.scale == "root" else scale
            labels = {"format": PercentFormatter(1.0, decimals=0)} if panel.percent else {}
            if panel.scale == "diverging":
                axis.set_facecolor(NOTHING)
        mesh = axis.pcolormesh(across, upwards, values.T, cmap="RdBu_r" if panel.scale == "diverging" else "Blues", **scale)
        bar = axis.figure.colorbar(mesh, ax=axis, **labels)
        bar.set_label(name, fontsize=FONT)
        bar.ax.tick_params(labelsize=FONT - 1)
        for x, y, text, dark in _written(panel):
            axis.text(x, y, text, ha="center", va="center", fontsize=FONT - 2, color="white" if dark else "black")
    bars = [s for s in panel.series if s.kind == "bar"]
    for i, s in enumerate(panel.series):
        colour, dash, marker, hatch = _looks(s.look)
        y = np.asarray(s.y, np.float64)
        if s.kind == "bar":
            width = 0.8 / len(bars)
            places = np.arange(len(y)) + (i - (len(bars) - 1) / 2) * width
            handle = axis.bar(places, y, width, yerr=s.spread, color=colour, hatch=hatch[0], edgecolor="white", capsize=3, label=s.label)
        elif s.kind in ("steps", "stairs"):
            ends = {} if s.kind == "steps" else {"baseline": None}
            handle = axis.stairs(y, s.x, color=colour, linestyle=dash[0], linewidth=2.2, label=s.label, **ends)
        elif s.kind == "points":
            few = _few(panel)
            if s.spread is not None:
                axis.errorbar(np.asarray(s.x), y, s.spread, color=colour, linestyle="none", capsize=3, marker="")
            handle, = axis.plot(np.asarray(s.x), y, color=colour, linestyle="none", label=s.label, marker=marker[0],
                                markersize=9 if few else 6, alpha=1 if few else 0.55)
        else:
            x = np.asarray(s.x)
            handle, = axis.plot(x, y, color=colour, linestyle=dash[0], linewidth=2.2, label=s.label,
                                marker="" if s.kind == "path" else marker[0], markersize=7, markevery=max(1, len(x) // 20))
            if s.spread is not None:
                axis.fill_between(x, y - s.spread, y + s.spread, color=colour, alpha=0.2, linewidth=0)
        if s.label:
            handles[s.label] = handle
    if bars:
        long = _tilted(bars[0].x)
        axis.set_xticks(range(len(bars[0].x)), bars[0].x, rotation=40 if long else 0, ha="right" if long else "center",
                        rotation_mode="anchor" if long else "default")
        axis.set_xlim(-0.6, len(bars[0].x) - 0.4)
    if panel.line:
        handles[panel.line[1]] = axis.axhline(panel.line[0], color="#555555", linestyle=(0, (1, 1)), linewidth=2)
    if panel.upright is not None:
        axis.axvline(panel.upright, color="#555555", linewidth=1)
    for x in panel.marks:
        axis.axvline(x, color="#555555", linewidth=1)
    if panel.rows:
        axis.set_yticks(*_named_rows(panel.rows))
        axis.set_ylim(len(panel.rows) - 0.5, -0.5)
    elif panel.percent:
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    if panel.columns:
        axis.set_xticks(*_named_rows(panel.columns), rotation=90 if max(map(len, panel.columns)) > 2 else 0)
        if not panel.y:
            axis.set_yticklabels([])
    if panel.across:
        axis.set_xlim(*panel.across)
    if not panel.heat:
        low, high = _limits(panel)
        if panel.log:
            axis.set_yscale("log")
            axis.set_yticks(*_log_ticks(low, high, panel.percent))
            axis.minorticks_off()
        axis.set_ylim(low, high)
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
    if panel.upright is not None:
        axis.set_xlim(panel.series[0].x[0], panel.series[0].x[-1])
        axis.xaxis.set_major_locator(MultipleLocator(0.5))
    if panel.x.startswith(("round", "step", "position")):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return handles


def _named_rows(names) -> tuple[list[int], list[str]]:
    """Places and names of the rows that get a name: all, or evenly spaced ones and the last."""
    every = math.ceil(len(names) / ROWS)
    last = len(names) - 1
    places = [i for i in range(0, last, every) if last - i >= every] + [last]
    return places, [names[i] if len(names[i]) <= 28 else names[i][:25] + " ..." for i in places]


def _tilted(names) -> bool:
    return sum(map(len, names)) > 24  # written level, longer names would touch


def _written(panel: Panel) -> list[tuple[float, float, str, bool]]:
    """Place, text and whether the ground is dark, of each number written into a heat map; nothing for 0 and for NaN."""
    if not panel.cells:
        return []
    across, upwards, values, _ = panel.heat
    low, high = _heat_range(panel)
    dark = (0.6 if panel.scale == "diverging" else 0.55) * high
    texts = [(i, j, panel.cells.format(100 * value if panel.percent else value)) for (i, j), value in np.ndenumerate(values) if np.isfinite(value)]
    x, y = ((edges[1:] + edges[:-1]) / 2 for edges in (np.asarray(across, np.float64), np.asarray(upwards, np.float64)))
    return [(x[i], y[j], text, abs(values[i, j]) > dark) for i, j, text in texts if text.strip("-+0.%")]


def _few(panel: Panel) -> bool:
    """Whether the panel's points are so few that each is drawn large."""
    return sum(len(s.y) for s in panel.series if s.kind == "points") <= MANY


def _log_ticks(low: float, high: float, percent: bool) -> tuple[list[float], list[str]]:
    """Ticks of a logarithmic axis and their texts: powers of ten, over less than two decades also 2 and 5 times those."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if math.log10(high / low) < 2 else (1,)
    ticks = [step * 10.0 ** power for power in powers for step in steps]
    ticks = [tick for tick in ticks if low <= tick <= high]
    return ticks[::max(1, len(ticks) // 8)], [f"{100 * t:g}%" if percent else f"{t:g}" for t in ticks[::max(1, len(ticks) // 8)]]


def _limits(panel: Panel) -> tuple[float, float]:
    """Heights from 0 (or the lowest thing drawn) to a little above the highest thing drawn (or the natural maximum)."""
    tops = [np.asarray(s.y, np.float64) + (0 if s.spread is None else np.nan_to_num(s.spread)) for s in panel.series]
    if panel.log or panel.free:
        values = np.concatenate([np.asarray(s.y, np.float64).ravel() for s in panel.series])
        values = values[np.isfinite(values) & (values > 0)] if panel.log else values[np.isfinite(values)]
        low, high = float(values.min()), max(float(values.max()), panel.top or -math.inf)
        if panel.log:
            return panel.bottom or low / 1.5, high * 1.5
        room = 0.05 * (high - low) or 0.5
        return low - room, high + room
    high = max([float(np.max(t[np.isfinite(t)], initial=0)) for t in tops] + [panel.top or 0, panel.line[0] if panel.line else 0])
    if panel.percent and panel.top == 1:    # a band may reach further than any share can
        high = min(high, 1.0)
    heights = [np.asarray(s.y, np.float64) - (np.nan_to_num(s.spread) if s.kind == "bar" and s.spread is not None else 0) for s in panel.series]
    low = min((float(np.min(y[np.isfinite(y)], initial=0)) for y in heights), default=0.0)
    return 1.05 * low, (high or (1.0 if low == 0 else 0.0)) * 1.05


# --- plotly

def _plotly(panels: list[Panel], stacked: bool = False, columns: int = 0, size: tuple | None = None):
    import plotly.graph_objects as go
    from plotly.colors import sample_colorscale
    from plotly.subplots import make_subplots

    titles = [p.title for p in panels]
    if columns:
        lines = math.ceil(len(panels) / columns)
        figure = make_subplots(rows=lines, cols=columns, subplot_titles=titles, shared_xaxes="all", shared_yaxes="all",
                               horizontal_spacing=0.03, vertical_spacing=0.35 / lines / 2)
    elif stacked:
        total = sum(p.height for p in panels)
        figure = make_subplots(rows=len(panels), cols=1, subplot_titles=titles, shared_xaxes=True, vertical_spacing=0.5 / total,
                               row_heights=[p.height for p in panels])
    else:
        figure = make_subplots(rows=1, cols=len(panels), subplot_titles=titles, horizontal_spacing=0.12)
    seen: set = set()
    for place, panel in enumerate(panels, start=1):
        where = {"row": place, "col": 1} if stacked else {"row": 1, "col": place}
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
            text = _sentence(panel, max(16, 90 // (columns or (1 if stacked else len(panels)))))
            figure.add_annotation(text=text.replace("\n", "<br>"), x=0.5, y=0.5, showarrow=False, font_size=FONT, **where)
            continue
        if panel.heat:
            across, upwards, values, name = panel.heat
            colours, bar = {"colorscale": "Blues", "zmin": 0}, {"title": {"text": name, "side": "right"}, "tickformat": ".0%"}
            hover = "%{z:.1%}<extra></extra>"
            low, high = figure.get_subplot(**where).yaxis.domain
            if panel.scale:
                reach = _heat_range(panel)
                colours = {"colorscale": "RdBu_r" if panel.scale == "diverging" else "Blues", "zmin": reach[0], "zmax": reach[1]}
                if panel.scale == "root":
                    colours["colorscale"] = [[(i / 10) ** 2, shade] for i, shade in enumerate(sample_colorscale("Blues", 11))]
                bar = {"title": {"text": name, "side": "right"}, "tickformat": ".0%" if panel.percent else "", "y": (low + high) / 2,
                       "len": high - low, "thickness": 16, "x": figure.get_subplot(**where).xaxis.domain[1] + 0.005, "xanchor": "left"}
                upwards = np.arange(len(panel.rows)) if panel.rows else upwards
                across = np.arange(len(panel.columns)) if panel.columns else across
                rows = panel.rows or [""] * values.shape[1]
                hover = "%{customdata}: " + ("%{z:.1%}" if panel.percent else "%{z:.3g}") + "<extra></extra>"
                colours["customdata"] = np.array([[f"{panel.y} {row}, {panel.x.split(' (')[0]} {column}" for column in
                                                   panel.columns or np.asarray(across)[:len(values)].tolist()] for row in rows])
            elif panel.rows:
                shades = sample_colorscale("Blues", 11)
                colours = {"colorscale": [[(i / 10) ** 2, shade] for i, shade in enumerate(shades)], "zmin": 0, "zmax": 1}
                bar |= {"y": (low + high) / 2, "len": high - low, "tickvals": [0, 0.1, 0.5, 1]}
                upwards, hover = np.arange(len(panel.rows)), "image %{x}, %{customdata}: %{z:.1%}<extra></extra>"
                colours["customdata"] = np.repeat(np.array(panel.rows)[:, None], len(values), axis=1)
            figure.add_trace(go.Heatmap(x=across, y=upwards, z=values.T, hovertemplate=hover, colorbar=bar, **colours), **where)
        for x, y, text, dark in _written(panel):
            figure.add_annotation(text=text, x=x, y=y, showarrow=False, font={"size": FONT - 2, "color": "white" if dark else "black"}, **where)
        for s in panel.series:
            for trace in _plotly_traces(go, s, panel, s.label and s.label not in seen):
                figure.add_trace(trace, **where)
            seen.add(s.label)
        if panel.line:
            figure.add_hline(y=panel.line[0], line={"color": "#555555", "dash": "dot", "width": 2}, name=panel.line[1],
                             showlegend=panel.line[1] not in seen, **where)
            seen.add(panel.line[1])
        if panel.upright is not None:
            figure.add_vline(x=panel.upright, line={"color": "#555555", "width": 1}, **where)
        for x in panel.marks:
            figure.add_vline(x=x, line={"color": "#555555", "width": 1}, **where)
        if panel.rows:
            places, names = _named_rows(panel.rows)
            figure.update_yaxes(tickvals=places, ticktext=names, range=[len(panel.rows) - 0.5, -0.5], **where)
        elif panel.percent:
            figure.update_yaxes(tickformat=".0%", **where)
        if panel.x.startswith("round") and len(panel.series[0].x) <= 5:
            figure.update_xaxes(dtick=1, **where)
        if any(s.kind == "bar" and _tilted(s.x) for s in panel.series):
            figure.update_xaxes(tickangle=-40, **where)
        if panel.columns:
            places, names = _named_rows(panel.columns)
            figure.update_xaxes(tickvals=places, ticktext=names, tickangle=-90 if max(map(len, names)) > 2 else 0, **where)
            figure.update_yaxes(showticklabels=bool(panel.y), **where)
        if panel.across:
            figure.update_xaxes(range=list(panel.across), **where)
        if panel.heat and panel.scale == "diverging":
            figure.update_layout(plot_bgcolor=NOTHING)
        if not panel.heat:
            _plotly_heights(figure, panel, where)
    figure.update_layout(
        template="plotly_white", font_size=FONT, barmode="group",
        height=_plotly_height(panels, stacked, columns, size),
        margin={"l": 60, "r": 20, "t": 50, "b": 40},
        showlegend=bool(_labels(panels)),
        legend={"orientation": "h", "yref": "container", "y": 0.0, "yanchor": "bottom", "x": 0.5, "xanchor": "center"},
    )
    figure.update_annotations(font_size=TITLE, selector=lambda a: a.text in {p.title for p in panels})
    return figure


def _plotly_height(panels: list[Panel], stacked: bool, columns: int, size: tuple | None) -> int:
    if size:
        return round(96 * size[1])
    if columns:
        return 230 * math.ceil(len(panels) / columns) + 120
    if stacked:
        return round(80 * sum(p.height for p in panels) + 60)
    return 446 + 24 * _legend_rows(_labels(panels), min(len(panels), 3))


def _plotly_heights(figure, panel: Panel, where: dict) -> None:
    low, high = _limits(panel)
    if panel.log:
        ticks, names = _log_ticks(low, high, panel.percent)
        figure.update_yaxes(type="log", range=[math.log10(low), math.log10(high)], tickvals=ticks, ticktext=names, **where)
    else:
        figure.update_yaxes(range=[low, high], **where)


def _plotly_frames(panels: list[Panel], names: list[str], title: str, what: str):
    import plotly.graph_objects as go

    if not panels or all(p.empty for p in panels):
        return _plotly([replace(panels[0], title=title)] if panels else [Panel(title, "", "images")])
    first = panels[0]
    figure = go.Figure([t for s in first.series for t in _plotly_traces(go, s, first, s.label)])
    figure.frames = [go.Frame(name=name, data=[t for s in panel.series for t in _plotly_traces(go, s, panel, s.label)])
                     for panel, name in zip(panels, names, strict=True)]
    figure.update_xaxes(title_text=first.x)
    figure.update_yaxes(title_text=first.y, tickformat=".0%" if first.percent else "")
    _plotly_heights(figure, replace(first, top=max(_limits(panel)[1] for panel in panels) / (1.5 if first.log else 1.05)), {})
    if first.across:
        figure.update_xaxes(range=list(first.across))
    now = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    play = {**now, "frame": {"duration": 600, "redraw": True}, "fromcurrent": True}
    figure.update_layout(
        template="plotly_white", font_size=FONT, height=560, margin={"l": 60, "r": 20, "t": 90, "b": 40}, title={"text": title, "font_size": TITLE},
        showlegend=bool(_labels(panels)), legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
        sliders=[{"currentvalue": {"prefix": what + " " if what else "", "font": {"size": FONT}}, "pad": {"t": 55, "b": 0}, "x": 0.12, "len": 0.88,
                  "steps": [{"label": name, "method": "animate", "args": [[name], now]} for name in names]}],
        updatemenus=[{"type": "buttons", "direction": "left", "x": 0.0, "xanchor": "left", "y": 0, "yanchor": "top", "pad": {"t": 78},
                      "showactive": False, "buttons": [{"label": "Play", "method": "animate", "args": [None, play]},
                                                       {"label": "Stop", "method": "animate", "args": [[None], now]}]}])
    return figure


def _plotly_pictures(places, extent, size, unit):
    import plotly.graph_objects as go

    figure = go.Figure()
    names = max(max(map(len, name.split("\n"))) for name, _ in places)
    for _, pictures in places:
        for left, top, image, caption in pictures:
            figure.add_trace(go.Image(z=_bytes(image), x0=left + 0.5, y0=top + 0.5, dx=1, dy=1, hoverinfo="skip"))
            figure.add_annotation(text=caption.replace("\n", "<br>"), x=left + size[0] / 2, y=top + size[1] + 0.04 / unit, showarrow=False,
                                  yanchor="top", font_size=FONT - 1, borderpad=0)
    figure.update_xaxes(range=[0, extent[0]], visible=False, constrain="domain", scaleanchor=None)
    figure.update_yaxes(range=[extent[1], -0.1 / unit], tickvals=[p[0][1] + size[1] / 2 for _, p in places if p],
                        ticktext=[name.replace("\n", "<br>") for name, p in places if p], showgrid=False, zeroline=False, ticks="",
                        scaleanchor="x", constrain="domain")
    scale = min(78, 1050 / (extent[0] * unit))   # pixels to the inch; wider figures would need scrolling
    figure.update_layout(template="plotly_white", font_size=FONT, height=round(scale * (extent[1] * unit + 0.1)) + 20,
                         width=round(scale * extent[0] * unit + 9 * names + 30), margin={"l": 9 * names + 20, "r": 10, "t": 10, "b": 10})
    return figure


def _plotly_traces(go, s: Series, panel: Panel, legend) -> list:
    colour, dash, marker, hatch = _looks(s.look)
    y = np.asarray(s.y, np.float64)
    common = {"name": s.label, "legendgroup": s.label, "showlegend": bool(legend)}
    line = {"color": colour, "dash": dash[1], "width": 2.5}
    if s.kind == "bar":
        error = None if s.spread is None else {"type": "data", "array": s.spread}
        pattern = {"shape": hatch[1], "fgcolor": "white", "fillmode": "overlay"}
        return [go.Bar(x=s.x, y=y, error_y=error, marker={"color": colour, "pattern": pattern}, **common)]
    if s.kind in ("steps", "stairs"):
        return [go.Scatter(x=np.asarray(s.x), y=np.append(y, y[-1]), mode="lines", line={**line, "shape": "hv"}, **common)]
    x = np.asarray(s.x)
    if s.kind == "points":
        few = _few(panel)
        error = None if s.spread is None else {"type": "data", "array": s.spread}
        return [go.Scatter(x=x, y=y, mode="markers", opacity=1 if few else 0.55, error_y=error,
                           marker={"color": colour, "symbol": marker[1], "size": 11 if few else 6}, **common)]
    mode = "lines" if len(x) > MANY or s.kind == "path" else "lines+markers"
    traces = [go.Scatter(x=x, y=y, mode=mode, line=line, marker={"symbol": marker[1], "size": 8}, **common)]
    if s.spread is not None:
        there = np.flatnonzero(np.isfinite(y) & np.isfinite(s.spread))
        pieces = np.split(there, np.flatnonzero(np.diff(there) > 1) + 1)      # a gap in the line is one in the band
        outline, there_and_back = (np.concatenate([v for piece in pieces for v in (gap, upper[piece], lower[piece][::-1])][1:])
                                   for gap, upper, lower in (([np.nan], y + s.spread, y - s.spread), ([None], x, x)))
        traces.append(go.Scatter(x=there_and_back, y=outline, fill="toself", mode="lines", fillcolor=colour, opacity=0.2,
                                 line={"width": 0}, hoverinfo="skip", legendgroup=s.label, showlegend=False))
    return traces
