"""Panels and pictures in plotly: one function for each kind of panel (`PANELS`) and of series
(`SERIES`)."""
from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from .fitting import (
    bar_names,
    decimals,
    finite,
    inches,
    legend_columns,
    legend_lines,
    log_ticks,
    wrapped,
)
from .looks import FONT, GREY, NOTHING, TITLE, look_of
from .panel import MANY, HeatMap, Panel, as_bytes, labels, missing, named_rows

# width of a figure that has none of its own: beside JupyterLab's file list on a screen of
# 1280 x 720
PIXELS = 820


# --- figures


def draw(panels: list, ax=None, stacked: bool = False, columns: int = 0, size: tuple | None = None):
    import plotly.graph_objects as go

    across = 1 if stacked else columns or min(len(panels), 3)
    figure = _grid(panels, stacked, columns, across)
    seen: set = set()
    for i, panel in enumerate(panels):
        where = {"row": i // across + 1, "col": i % across + 1}
        lowest = not columns or i + columns >= len(panels)
        figure.update_xaxes(title_text=panel.x if lowest else "", **where)
        figure.update_yaxes(title_text="" if columns and where["col"] > 1 else panel.y, **where)
        if columns and lowest:
            figure.update_xaxes(showticklabels=True, **where)
        if panel.empty:
            _nothing(figure, panel.sentence(max(16, 84 // across)), where)
        else:
            PANELS[type(panel)](figure, panel, where, seen)
    for name in missing(panels):
        figure.add_trace(
            go.Scatter(x=[None], y=[None], mode="lines", line_color="rgba(0,0,0,0)",
                       name=_legend_name(name), hoverinfo="skip"))
    figure.update_layout(
        template="plotly_white", font_size=FONT, barmode="group",
        height=_height(panels, stacked, columns, size), showlegend=bool(labels(panels)))
    # so that names keep apart from those of the other axis
    figure.update_xaxes(ticks="outside", tickcolor="rgba(0,0,0,0)")
    return fit(figure)


def frames(panels: list, names: list[str], ax, title: str, what: str):
    """One panel, and a slider over its states."""
    import plotly.graph_objects as go

    if not panels or all(p.empty for p in panels):
        return draw([replace(panels[0], title=title)] if panels else [Panel(title, "", "images")])

    def traces(panel):
        return [trace for s in panel.series for trace in _traces(panel, s, s.label)]

    first = panels[0]
    figure = go.Figure(traces(first))
    figure.frames = [go.Frame(name=name, data=traces(panel))
                     for panel, name in zip(panels, names, strict=True)]
    figure.update_xaxes(title_text=first.x)
    figure.update_yaxes(title_text=first.y, tickformat=".0%" if first.percent else "")
    _heights(figure, first, {})
    if first.across:
        figure.update_xaxes(range=list(first.across))
    now = {
        "mode": "immediate", "frame": {"duration": 0, "redraw": True},
        "transition": {"duration": 0}
    }
    play = {**now, "frame": {"duration": 600, "redraw": True}, "fromcurrent": True}
    steps = [{"label": name, "method": "animate", "args": [[name], now]} for name in names]
    slider = {
        "currentvalue": {"prefix": what + " " if what else "", "font": {"size": FONT}},
        "pad": {"t": 55, "b": 0}, "x": 0.12, "len": 0.88, "steps": steps
    }
    buttons = {
        "type": "buttons", "direction": "left", "x": 0.0, "xanchor": "left", "y": 0,
        "yanchor": "top", "pad": {"t": 78}, "showactive": False,
        "buttons": [{"label": "Play", "method": "animate", "args": [None, play]},
                    {"label": "Stop", "method": "animate", "args": [[None], now]}]
    }
    figure.update_layout(
        template="plotly_white", font_size=FONT, height=560,
        margin={"l": 60, "r": 20, "t": 90, "b": 40}, title={"text": title, "font_size": TITLE},
        showlegend=bool(labels(panels)),
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0}, sliders=[slider],
        updatemenus=[buttons])
    return figure


def pictures(shown, ax=None):
    import plotly.graph_objects as go

    figure = go.Figure()
    unit = shown.unit
    width, height = shown.size
    names = max(max(map(len, name.split("\n"))) for name, _ in shown.places)
    for _, row in shown.places:
        for left, top, image, caption in row:
            figure.add_trace(
                go.Image(z=as_bytes(image), x0=left + 0.5, y0=top + 0.5, dx=1, dy=1,
                         hoverinfo="skip"))
            figure.add_annotation(text=_broken(caption), x=left + width / 2,
                                  y=top + height + 0.04 / unit, showarrow=False, yanchor="top",
                                  font_size=FONT - 1, borderpad=0)
    figure.update_xaxes(range=[0, shown.extent[0]], visible=False, constrain="domain",
                        scaleanchor=None)
    figure.update_yaxes(range=[shown.extent[1], -0.1 / unit],
                        tickvals=[row[0][1] + height / 2 for _, row in shown.places if row],
                        ticktext=[_broken(name) for name, row in shown.places if row],
                        showgrid=False, zeroline=False, ticks="", scaleanchor="x",
                        constrain="domain")
    # pixels to the inch; wider figures would need scrolling
    scale = min(78, 1050 / (shown.extent[0] * unit))
    figure.update_layout(template="plotly_white", font_size=FONT,
                         height=round(scale * (shown.extent[1] * unit + 0.1)) + 20,
                         width=round(scale * shown.extent[0] * unit + 9 * names + 30),
                         margin={"l": 9 * names + 20, "r": 10, "t": 10, "b": 10})
    return figure


def sheet(image, across, columns, upwards, rows, ax=None):
    import plotly.graph_objects as go

    figure = go.Figure(go.Image(z=image, hoverinfo="skip"))
    figure.update_xaxes(tickvals=across, ticktext=list(map(_broken, columns)), side="top", ticks="")
    figure.update_yaxes(tickvals=upwards, ticktext=rows, ticks="")
    figure.update_layout(template="plotly_white", height=120 + 75 * len(rows), font_size=FONT,
                         margin={"l": 110, "r": 20, "t": 70, "b": 20})
    return figure


def fit(figure, width: float | None = None, height: float | None = None):
    """Set the size in pixels; break titles and names of axes where they would be too wide, and
    leave room for all texts."""
    layout = figure.layout
    layout.width = width or layout.width
    layout.height = height or layout.height
    size = layout.font.size or FONT
    below = _legend_height(figure, size)
    axes = [axis.ticktext for axis in figure.select_yaxes() if axis.ticktext]
    left = max((18 + size * max(map(_em, texts)) for texts in axes), default=42) + 26
    scaled = any(t.type == "heatmap" and t.showscale is not False for t in figure.data)
    plain = (layout.width or PIXELS) - left - (110 if scaled else 20)
    top = 16 + _fit_titles(figure, plain)
    under = _fit_x(figure, plain, size)
    layout.margin = {
        "l": 60 if left < 69 else round(left), "r": 20, "t": round(top),
        "b": round(below + under + 8)
    }
    for y in figure.select_yaxes():
        high = _share(y) * (layout.height - top - below - under)
        y.title.text = _refit(y.title.text, high + 10, size) or None
    layout.legend = {
        "orientation": "h", "yref": "container", "y": 0.0, "yanchor": "bottom", "x": 0.5,
        "xanchor": "center"
    }
    return figure


def _legend_height(figure, size: float) -> int:
    """Pixels that the legend takes below the axes."""
    if not figure.layout.showlegend:
        return 0
    names = list(dict.fromkeys(t.name for t in (*figure.data, *figure.layout.shapes)
                               if t.name and t.showlegend is not False))
    if not names:
        return 0
    room = (figure.layout.width or PIXELS) - 90
    widths = [40 + _em(name) * size for name in names]
    rows = 1
    if sum(widths) > room:
        rows = math.ceil(len(names) / max(1, int(room / max(widths))))
    lines = max(name.count("<br>") + 1 for name in names)
    return rows * lines * round(1.46 * size)


def _fit_titles(figure, plain: float) -> float:
    """Break the titles, and the pixels that the highest takes."""
    tallest = 0
    for a in figure.layout.annotations:
        if a.name != "title":
            continue
        share = min((_share(x) for x in figure.select_xaxes()
                     if x.domain and abs(sum(x.domain) / 2 - a.x) < 1e-6), default=1)
        a.text = _refit(a.text, share * plain + 30, a.font.size)
        if a.text:
            tallest = max(tallest, 1.3 * a.font.size * (a.text.count("<br>") + 1))
    return tallest


def _fit_x(figure, plain: float, size: float) -> float:
    """Break what stands under the axes, and the pixels that it takes."""
    under = 0.0
    for x in figure.select_xaxes():
        wide = _share(x) * plain
        bars = next((t for t in figure.data if t.type == "bar"
                     and (t.xaxis or "x").replace("x", "xaxis") == x.plotly_name), None)
        tall = 1.6 * size
        if bars is not None and len(bars.x) and isinstance(bars.x[0], str):
            tall = size * _name_bars(x, bars.x, wide / size)
        elif x.ticktext and x.tickangle:
            tall = size * (max(map(_em, x.ticktext)) + 1)
        x.title.text = _refit(x.title.text, wide + 40, size) or None
        x.title.standoff = 6
        if x.title.text:
            tall += 1.4 * size * (x.title.text.count("<br>") + 1) + 4
        if x.visible is not False and _lowest(figure, x):
            under = max(under, tall)
    return under


def _name_bars(x, bars, wide: float) -> float:
    """Name the bars of an axis ``wide`` ems wide, and the ems that the names take."""
    places, shown, tilted = bar_names([name.replace("<br>", "\n") for name in bars], wide, 72)
    x.tickmode = "array"
    x.tickvals = [bars[i] for i in places]
    x.ticktext = list(map(_broken, shown))
    x.tickangle = -40 if tilted else 0
    if tilted:
        return 0.64 * max(map(_em, x.ticktext)) + 1.6
    return 1.4 * (1 + max(text.count("<br>") for text in x.ticktext))


def _grid(panels: list, stacked: bool, columns: int, across: int):
    """A figure with axes for each panel, ``across`` in a row."""
    from plotly.subplots import make_subplots

    down = math.ceil(len(panels) / across)
    more: dict = {}
    if columns:
        more = {"shared_xaxes": "all", "shared_yaxes": "all", "horizontal_spacing": 0.03,
                "vertical_spacing": 0.35 / down / 2}
    elif stacked:
        heights = [p.height for p in panels]
        more = {"shared_xaxes": True, "vertical_spacing": 0.5 / sum(heights),
                "row_heights": heights}
    else:
        apart = 0.12
        # the scale of one map and the names of the next one's rows
        if any(isinstance(p, HeatMap) and p.scale and p.values.size for p in panels[:-1]):
            rows = getattr(panels[-1], "rows", ()) or ("",)
            apart = 0.16 + max(map(_em, named_rows(rows)[1])) * FONT / PIXELS
        more = {"horizontal_spacing": min(apart, 0.9 / across), "vertical_spacing": 0.27 / down}
    figure = make_subplots(rows=down, cols=across, subplot_titles=[p.title for p in panels], **more)
    figure.update_annotations(font_size=TITLE, name="title")
    return figure


def _height(panels: list, stacked: bool, columns: int, size: tuple | None) -> int:
    if size:
        return round(96 * size[1])
    if columns:
        return 230 * math.ceil(len(panels) / columns) + 120
    if stacked:
        return round(80 * sum(p.height for p in panels) + 60)
    lines = legend_lines(*legend_columns(labels(panels), PIXELS / 96, FONT * 0.75))
    return 380 * math.ceil(len(panels) / 3) + 66 + 24 * lines


def _lowest(figure, x) -> bool:
    """Whether no other axes stand below those of this x axis."""
    domains = [y.domain for y in figure.select_yaxes() if y.domain]
    own = figure.layout[("y" + (x.anchor or "y")[1:]).replace("y", "yaxis", 1)].domain
    return not own or own[0] <= min(d[0] for d in domains) + 1e-6


def _share(axis) -> float:
    """Of the figure, that an axis takes."""
    return axis.domain[1] - axis.domain[0] if axis.domain else 1


def _em(text: str) -> float:
    """Width of a text in units of its font size."""
    return inches(text.replace("<br>", "\n"), 72)


def _broken(text: str) -> str:
    return text.replace("\n", "<br>")


def _refit(text: str | None, pixels: float, size: float) -> str:
    """A text, perhaps broken before, on lines of so many pixels."""
    plain = (text or "").replace("<br>", " ")
    return _broken(wrapped(plain, max(60.0, pixels) / size, 72))


def _legend_name(label: str) -> str:
    return _broken(wrapped(label, 45 * FONT * 0.6 / 96, FONT * 72 / 96))


# --- panels: each function draws one kind; ``seen`` holds the names that the legend has


def _nothing(figure, sentence: str, where: dict) -> None:
    figure.update_xaxes(visible=False, range=[0, 1], **where)
    figure.update_yaxes(visible=False, range=[0, 1], **where)
    figure.add_annotation(text=_broken(sentence), x=0.5, y=0.5, showarrow=False, font_size=FONT,
                          **where)


def _over_x(figure, panel: Panel, where: dict, seen: set) -> None:
    """Series over x."""
    _series(figure, panel, where, seen)
    _lines(figure, panel, where, seen)
    if panel.percent:
        digits = decimals(*(100 * end for end in panel.limits()))
        figure.update_yaxes(tickformat=f".{digits}%", **where)
    if panel.x.startswith("round") and len(panel.series[0].x) <= 5:
        figure.update_xaxes(dtick=1, **where)
    # lines alone move no axis
    across = panel.across or (_reach(panel) if panel.series else None)
    if across:
        figure.update_xaxes(range=list(across), **where)
    _heights(figure, panel, where)


def _heat_map(figure, panel: HeatMap, where: dict, seen: set) -> None:
    """Cells, the scale of their shades beside them, and series over them."""
    import plotly.graph_objects as go

    across, upwards = panel.edges
    across = np.arange(len(panel.columns)) if panel.columns else across
    upwards = np.arange(len(panel.rows)) if panel.rows else upwards
    low, high = panel.reach
    hover, data = _hover(panel, across)
    figure.add_trace(
        go.Heatmap(x=across, y=upwards, z=panel.values.T, zmin=low, zmax=high,
                   colorscale=_shades(panel), customdata=data, hovertemplate=hover,
                   colorbar=_color_bar(figure, panel, where)), **where)
    for x, y, text, dark in panel.written():
        font = {"size": FONT - 2, "color": "white" if dark else "black"}
        figure.add_annotation(text=text, x=x, y=y, showarrow=False, font=font, **where)
    _series(figure, panel, where, seen)
    _lines(figure, panel, where, seen)
    if panel.rows:
        places, names = named_rows(panel.rows)
        figure.update_yaxes(tickvals=places, ticktext=names, range=[len(panel.rows) - 0.5, -0.5],
                            **where)
    elif panel.percent:
        figure.update_yaxes(tickformat=".0%", **where)
    if panel.columns:
        places, names = named_rows(panel.columns)
        figure.update_xaxes(tickvals=places, ticktext=names,
                            tickangle=-90 if max(map(len, names)) > 2 else 0, **where)
        figure.update_yaxes(showticklabels=bool(panel.y), **where)
    if panel.diverging:
        figure.update_layout(plot_bgcolor=NOTHING)


PANELS = {Panel: _over_x, HeatMap: _heat_map}


def _shades(panel: HeatMap):
    from plotly.colors import sample_colorscale

    if panel.diverging:
        return "RdBu_r"
    if not panel.widened:
        return "Blues"
    return [[(i / 10)**2, shade] for i, shade in enumerate(sample_colorscale("Blues", 11))]


def _color_bar(figure, panel: HeatMap, where: dict) -> dict:
    """The scale of the shades: beside its own panel where the map has a scale or rows."""
    shares = panel.percent or not panel.scale
    bar = {"title": {"text": panel.name, "side": "right"}, "tickformat": ".0%" if shares else ""}
    subplot = figure.get_subplot(**where)
    low, high = subplot.yaxis.domain
    if panel.scale or panel.rows:
        bar |= {"y": (low + high) / 2, "len": high - low}
    if panel.scale:
        bar |= {"thickness": 16, "x": subplot.xaxis.domain[1] + 0.005, "xanchor": "left"}
    elif panel.rows:
        bar |= {"tickvals": [0, 0.1, 0.5, 1]}
    return bar


def _hover(panel: HeatMap, across) -> tuple[str, np.ndarray | None]:
    """What is shown of the cell under the pointer: template, and texts (H, W) for its gap."""
    n = len(panel.values)
    if panel.scale:
        rows = panel.rows or [""] * panel.values.shape[1]
        columns = panel.columns or np.asarray(across)[:n].tolist()
        what = panel.x.split(" (")[0]
        texts = [[f"{panel.y} {row}, {what} {column}" for column in columns] for row in rows]
        value = "%{z:.1%}" if panel.percent else "%{z:.3g}"
        return "%{customdata}: " + value + "<extra></extra>", np.array(texts)
    if panel.rows:
        names = np.repeat(np.array(panel.rows)[:, None], n, axis=1)
        return "image %{x}, %{customdata}: %{z:.1%}<extra></extra>", names
    return "%{z:.1%}<extra></extra>", None


def _lines(figure, panel, where: dict, seen: set) -> None:
    """The reference lines."""
    if panel.line:
        height, label = panel.line
        figure.add_hline(y=height, line={"color": GREY, "dash": "dot", "width": 2},
                         name=_legend_name(label), showlegend=label not in seen, **where)
        seen.add(label)
    upright = () if getattr(panel, "upright", None) is None else (panel.upright,)
    for x in (*upright, *panel.marks):
        figure.add_vline(x=x, line={"color": GREY, "width": 1}, **where)


def _reach(panel: Panel) -> tuple[float, float] | None:
    """What is shown across where lines stand at some x: the series and the lines."""
    if panel.upright is not None:
        return panel.around()
    if not panel.marks:
        return None
    ends = [np.asarray(s.x, np.float64) for s in panel.shown]
    ends = finite(np.concatenate([*ends, np.asarray(panel.marks, np.float64)]))
    room = 0.03 * float(np.ptp(ends)) or 0.5
    return float(ends.min()) - room, float(ends.max()) + room


def _heights(figure, panel: Panel, where: dict) -> None:
    low, high = panel.limits()
    if panel.log:
        ticks, names = log_ticks(low, high, panel.percent)
        figure.update_yaxes(type="log", range=[math.log10(low), math.log10(high)], tickvals=ticks,
                            ticktext=names, **where)
    else:
        figure.update_yaxes(range=[low, high], **where)


# --- series: each function gives the traces of one kind


def _series(figure, panel, where: dict, seen: set) -> None:
    for s in panel.shown:
        for trace in _traces(panel, s, s.label and s.label not in seen):
            figure.add_trace(trace, **where)
        seen.add(s.label)


def _traces(panel, s, legend) -> list:
    common = {"name": _legend_name(s.label), "legendgroup": s.label, "showlegend": bool(legend)}
    return SERIES[s.kind](panel, s, look_of(s.look), common)


def _line(panel, s, look, common) -> list:
    import plotly.graph_objects as go

    x = np.asarray(s.x)
    y = s.values
    sizes = 8
    if len(x) > MANY or not s.marked:
        sizes = np.isin(np.arange(len(y)), s.alone) * 8
    traces = [
        go.Scatter(x=x, y=y, mode="lines+markers" if np.any(sizes) else "lines", line=_stroke(look),
                   marker={"symbol": look.marker[1], "size": sizes}, **common)
    ]
    if s.spread is None:
        return traces
    low, high = panel.band(s)
    there = np.flatnonzero(np.isfinite(y) & np.isfinite(s.spread))
    # a gap in the line is one in the band
    pieces = np.split(there, np.flatnonzero(np.diff(there) > 1) + 1)

    def around(gap, upper, lower):
        return np.concatenate([v for p in pieces for v in (gap, upper[p], lower[p][::-1])][1:])

    traces.append(
        go.Scatter(x=around([None], x, x), y=around([np.nan], high, low), fill="toself",
                   mode="lines", fillcolor=look.color, opacity=0.2, line={"width": 0},
                   hoverinfo="skip", legendgroup=s.label, showlegend=False))
    return traces


def _bars(panel, s, look, common) -> list:
    import plotly.graph_objects as go

    pattern = {"shape": look.hatch[1], "fgcolor": "white", "fillmode": "overlay"}
    return [
        go.Bar(x=s.x, y=s.values, error_y=_error(panel, s),
               marker={"color": look.color, "pattern": pattern}, **common)
    ]


def _outline(panel, s, look, common) -> list:
    import plotly.graph_objects as go

    y = s.values
    return [
        go.Scatter(x=np.asarray(s.x), y=np.append(y, y[-1]), mode="lines",
                   line={**_stroke(look), "shape": "hv"}, **common)
    ]


def _points(panel, s, look, common) -> list:
    import plotly.graph_objects as go

    marker = {"color": look.color, "symbol": look.marker[1], "size": 11 if panel.few else 6}
    return [
        go.Scatter(x=np.asarray(s.x), y=s.values, mode="markers", marker=marker,
                   opacity=1 if panel.few else 0.55, error_y=_error(panel, s), **common)
    ]


SERIES = {"line": _line, "path": _line, "bar": _bars, "steps": _outline, "stairs": _outline,
          "points": _points}


def _stroke(look) -> dict:
    return {"color": look.color, "dash": look.dash[1], "width": 2.5}


def _error(panel, s) -> dict | None:
    if s.spread is None:
        return None
    low, high = panel.band(s)
    y = s.values
    return {"type": "data", "symmetric": False, "array": high - y, "arrayminus": y - low}
