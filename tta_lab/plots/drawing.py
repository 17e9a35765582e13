"""The drawing of figures: `Panel` values, each a pair of axes, in matplotlib or plotly, with the same data and one style.

Colours are those of Okabe and Ito, distinguishable with any colour vision, and each series also differs in line, marker or hatching. Panels
with nothing finite in them are drawn empty, with a sentence.
"""
from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#000000", "#CC79A7", "#E69F00", "#56B4E9")  # without the yellow, too pale on white
DASHES = (("-", "solid"), ("--", "dash"), (":", "dot"), ("-.", "dashdot"), ((0, (7, 2, 1, 2, 1, 2)), "longdashdot"))
MARKERS = (("o", "circle"), ("s", "square"), ("^", "triangle-up"), ("D", "diamond"), ("v", "triangle-down"), ("X", "x"), ("P", "cross"))
HATCHES = (("", ""), ("//", "/"), ("..", "."), ("xx", "x"), ("\\\\", "\\"), ("--", "-"), ("++", "+"))
GROUP_LABELS = {"correct": "known, correct", "wrong": "known, wrong", "unknown": "unknown"}
GROUP_LOOKS = {"correct": 2, "wrong": 1, "unknown": 0}
FONT, TITLE = 13, 15
MANY = 60  # points; longer lines are drawn without a marker at each
COLUMNS = 300  # of a heat map of rows; longer streams are drawn in wider windows
ROWS = 24  # of a heat map that get their own height and name; of more rows some are named


@dataclass(frozen=True, eq=False)
class Series:
    """One line, set of bars, cloud of ``points``, or outline (``steps``, and ``stairs`` without the drop to 0 at the ends: x are bin
    edges, one more than y); ``spread`` is a half-width of y."""

    x: object
    y: np.ndarray
    label: str
    look: int
    kind: str = "line"
    spread: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Panel:
    """What one pair of axes shows; ``percent`` writes shares 0..1 as per cent, ``heat`` is (x edges, y edges, values, name)."""

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

    @property
    def empty(self) -> bool:
        values = [s.y for s in self.series] + ([self.heat[2]] if self.heat else [])
        return not any(np.isfinite(np.asarray(v, np.float64)).any() for v in values)


def captioned(figure, text: str):
    """Write ``text`` above a matplotlib figure of this module and return it."""
    figure.suptitle(text, fontsize=TITLE + 1, fontweight="bold")
    return figure


def draw(panels: list[Panel], backend: str, ax, stacked: bool = False):
    if backend == "matplotlib":
        return _matplotlib(panels, ax, stacked)
    if backend != "plotly":
        raise ValueError(f"backend must be 'matplotlib' or 'plotly', not {backend!r}")
    if ax is not None:
        raise ValueError("ax is for backend='matplotlib'; plotly makes its own figure")
    return _plotly(panels, stacked)


def _sentence(panel: Panel) -> str:
    return f"Nothing to draw: {panel.y.split(' (')[0]}\nholds no finite numbers here."


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

def _matplotlib(panels: list[Panel], ax, stacked: bool = False):
    from matplotlib.figure import Figure

    if ax is None and stacked:
        heights = [panel.height for panel in panels]
        figure = Figure(figsize=(11, sum(heights)), layout="constrained")
        axes = list(figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0])
        figure.align_ylabels(axes)
        figure._repr_png_ = lambda: png(figure)
    elif ax is None:
        labels = _labels(panels)
        rows = _legend_rows(labels, len(panels))
        figure = Figure(figsize=({1: 8, 2: 10.5, 3: 12.5}[len(panels)], 4.6 + 0.25 * rows), layout="constrained")
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
    if ax is None and handles:
        columns = math.ceil(len(handles) / rows)
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, fontsize=FONT, frameon=False,
                      handlelength=3)
    return figure


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
    return max(1, min(len(labels), math.ceil(width / {1: 68, 2: 92, 3: 112}[panels])))


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
        axis.text(0.5, 0.5, _sentence(panel), transform=axis.transAxes, ha="center", va="center", fontsize=FONT)
        return {}
    handles = {}
    if panel.heat:
        across, upwards, values, name = panel.heat
        scale = {"norm": PowerNorm(0.5, 0, 1)} if panel.rows else {"vmin": 0}     # rows: shares of a few per cent shall be seen beside whole ones
        mesh = axis.pcolormesh(across, upwards, values.T, cmap="Blues", **scale)
        bar = axis.figure.colorbar(mesh, ax=axis, format=PercentFormatter(1.0, decimals=0), ticks=[0, 0.1, 0.5, 1] if panel.rows else None)
        bar.set_label(name, fontsize=FONT)
        bar.ax.tick_params(labelsize=FONT - 1)
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
            handle, = axis.plot(np.asarray(s.x), y, color=colour, linestyle="none", label=s.label, marker=marker[0], markersize=5, alpha=0.55)
        else:
            x = np.asarray(s.x)
            handle, = axis.plot(x, y, color=colour, linestyle=dash[0], linewidth=2.2, label=s.label,
                                marker=marker[0], markersize=7, markevery=max(1, len(x) // 20))
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
    if not panel.heat:
        low, high = _limits(panel)
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


def _limits(panel: Panel) -> tuple[float, float]:
    """Heights from 0 to a little above the highest thing drawn (or the natural maximum)."""
    tops = [np.asarray(s.y, np.float64) + (0 if s.spread is None else np.nan_to_num(s.spread)) for s in panel.series]
    high = max([float(np.max(t[np.isfinite(t)], initial=0)) for t in tops] + [panel.top or 0, panel.line[0] if panel.line else 0])
    return 0.0, (high or 1.0) * 1.05


# --- plotly

def _plotly(panels: list[Panel], stacked: bool = False):
    import plotly.graph_objects as go
    from plotly.colors import sample_colorscale
    from plotly.subplots import make_subplots

    titles = [p.title for p in panels]
    if stacked:
        total = sum(p.height for p in panels)
        figure = make_subplots(rows=len(panels), cols=1, subplot_titles=titles, shared_xaxes=True, vertical_spacing=0.5 / total,
                               row_heights=[p.height for p in panels])
    else:
        figure = make_subplots(rows=1, cols=len(panels), subplot_titles=titles, horizontal_spacing=0.12)
    seen: set = set()
    for place, panel in enumerate(panels, start=1):
        where = {"row": place, "col": 1} if stacked else {"row": 1, "col": place}
        figure.update_xaxes(title_text=panel.x, **where)
        figure.update_yaxes(title_text=panel.y, **where)
        if panel.empty:
            figure.update_xaxes(visible=False, range=[0, 1], **where)
            figure.update_yaxes(visible=False, range=[0, 1], **where)
            figure.add_annotation(text=_sentence(panel).replace("\n", "<br>"), x=0.5, y=0.5, showarrow=False, font_size=FONT, **where)
            continue
        if panel.heat:
            across, upwards, values, name = panel.heat
            colours, bar = {"colorscale": "Blues", "zmin": 0}, {"title": {"text": name, "side": "right"}, "tickformat": ".0%"}
            hover = "%{z:.1%}<extra></extra>"
            if panel.rows:
                low, high = figure.get_subplot(**where).yaxis.domain
                shades = sample_colorscale("Blues", 11)
                colours = {"colorscale": [[(i / 10) ** 2, shade] for i, shade in enumerate(shades)], "zmin": 0, "zmax": 1}
                bar |= {"y": (low + high) / 2, "len": high - low, "tickvals": [0, 0.1, 0.5, 1]}
                upwards, hover = np.arange(len(panel.rows)), "image %{x}, %{customdata}: %{z:.1%}<extra></extra>"
                colours["customdata"] = np.repeat(np.array(panel.rows)[:, None], len(values), axis=1)
            figure.add_trace(go.Heatmap(x=across, y=upwards, z=values.T, hovertemplate=hover, colorbar=bar, **colours), **where)
        for s in panel.series:
            for trace in _plotly_traces(go, s, panel, s.label and s.label not in seen):
                figure.add_trace(trace, **where)
            seen.add(s.label)
        if panel.line:
            figure.add_hline(y=panel.line[0], line={"color": "#555555", "dash": "dot", "width": 2}, name=panel.line[1],
                             showlegend=True, **where)
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
        if not panel.heat:
            figure.update_yaxes(range=list(_limits(panel)), **where)
    figure.update_layout(
        template="plotly_white", font_size=FONT, barmode="group",
        height=round(80 * total + 60) if stacked else 446 + 24 * _legend_rows(_labels(panels), len(panels)),
        margin={"l": 60, "r": 20, "t": 50, "b": 40},
        showlegend=bool(_labels(panels)),
        legend={"orientation": "h", "yref": "container", "y": 0.0, "yanchor": "bottom", "x": 0.5, "xanchor": "center"},
    )
    figure.update_annotations(font_size=TITLE, selector=lambda a: a.text in {p.title for p in panels})
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
        return [go.Scatter(x=x, y=y, mode="markers", opacity=0.55, marker={"color": colour, "symbol": marker[1], "size": 6}, **common)]
    mode = "lines" if len(x) > MANY else "lines+markers"
    traces = [go.Scatter(x=x, y=y, mode=mode, line=line, marker={"symbol": marker[1], "size": 8}, **common)]
    if s.spread is not None:
        there = np.isfinite(y) & np.isfinite(s.spread)
        outline = np.concatenate([(y + s.spread)[there], (y - s.spread)[there][::-1]])
        there_and_back = np.concatenate([x[there], x[there][::-1]])
        traces.append(go.Scatter(x=there_and_back, y=outline, fill="toself", mode="lines", fillcolor=colour, opacity=0.2,
                                 line={"width": 0}, hoverinfo="skip", legendgroup=s.label, showlegend=False))
    return traces
