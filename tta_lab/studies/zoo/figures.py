"""Figures of the method zoo: the table as a heat map, the filter's gain against the share of
unknown images, one run in four pictures."""
from __future__ import annotations

import io

import numpy as np

from ...plots import FONT, TITLE, Panel, Series, draw, engine, new_figure, shown_as
from ...plots.fitting import wrapped
from ...plots.plotly_backend import PIXELS

HOW_TO_READ = {"zoo": "Each row is a method, each column a kind of stream; blue cells err less "
                      "than BN-1 there, orange cells more, grey hatched cells hold no number for a "
                      "reason.",
               "unknown_shares": "Below the line at 0 the filter lowers Tent's error, above it "
                                 "raises it; where the band holds the line nothing is settled.",
               "run_errors": "A line that climbs away from the source's means that adapting hurts; "
                             "the other picture says what was learned from.",
               "run_predictions": "Entropies near 0 are sure predictions; bars unlike those of the "
                                  "true classes show classes that the method forgets or floods."}
BETTER_TO_WORSE = ((0.0, "#0072B2"), (0.25, "#7FB8D8"), (0.5, "#FFFFFF"), (0.75, "#EAAE7F"),
                   (1.0, "#D55E00"))  # of Okabe and Ito
MORE = ((0.0, "#FFFFFF"), (1.0, "#7A5195"))
NOTHING = "#D9D9D9"
GAP = "#8C8C8C"


def plot_zoo(numbers: dict, backend: str = "matplotlib", ax=None):
    """Heat map of ``zoo.table.heat_map``: methods down, streams across, a number in each cell,
    hatched grey where there is none.

    Colours say how far a cell is from BN-1 on the same stream (for costs: how many times the
    source's). In plotly the reason for an empty cell is shown on hover. Raises ValueError for
    another backend, or ``ax`` with plotly.
    """
    engine(backend, ax)
    if not numbers["rows"] or not numbers["columns"] or not np.isfinite(numbers["value"]).any():
        return draw([Panel(numbers["title"], "", f"{numbers['name']}")], backend, ax)
    return _matplotlib(numbers, ax) if backend == "matplotlib" else _plotly(numbers)


def small_png(figure, dpi: int = 90) -> bytes:
    """A matplotlib figure as PNG of at most 256 colours: a table with numbers takes a third of the
    room."""
    from PIL import Image

    full = io.BytesIO()
    small = io.BytesIO()
    figure.savefig(full, format="png", dpi=dpi)
    Image.open(full).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
        small, format="png", optimize=True)
    return small.getvalue()


def _borders(families: list[str]) -> list[int]:
    """First row of each family, in a list grouped by family."""
    return [i for i, name in enumerate(families) if i == 0 or name != families[i - 1]]


def _range(numbers) -> tuple[float, float]:
    return (-1.0, 1.0) if numbers["diverging"] else (0.0, 1.0)


def _matplotlib(numbers, ax):
    from matplotlib.colors import LinearSegmentedColormap

    rows = numbers["rows"]
    columns = numbers["columns"]
    shades = np.asarray(numbers["shade"], np.float64)
    if ax is None:
        figure = new_figure((1.1 * len(columns) + 4.6, max(0.27 * len(rows), 2.6) + 1.7),
                            layout="constrained")
        ax = figure.subplots()
        shown_as(figure, lambda: small_png(figure))
    colors = LinearSegmentedColormap.from_list(
        "zoo", BETTER_TO_WORSE if numbers["diverging"] else MORE, 49)  # few levels: a small file
    low, high = _range(numbers)

    def dark(place):
        return place < -0.7 if numbers["diverging"] else place > 0.7

    picture = ax.imshow(np.ma.masked_invalid(shades), cmap=colors, vmin=low, vmax=high,
                        aspect="auto", interpolation="nearest")
    for i, j in np.ndindex(len(rows), len(columns)):
        if numbers["reason"][i][j]:
            ax.fill((j - .5, j + .5, j + .5, j - .5), (i - .5, i - .5, i + .5, i + .5),
                    facecolor=NOTHING, edgecolor=GAP, hatch="///", linewidth=0)
        else:
            ax.text(j, i, numbers["text"][i][j], ha="center", va="center", fontsize=FONT - 2,
                    color="white" if dark(shades[i, j]) else "black")
    ax.set_xticks(range(len(columns)), [name.replace(" ", "\n", 1) for name in columns],
                  fontsize=FONT - 1)
    names = rows
    if numbers["grouped"]:
        starts = _borders(numbers["families"])
        names = [f"{name}" for name in rows]
        for i in starts:
            ax.annotate(numbers["families"][i], (0, i), xycoords=("axes fraction", "data"),
                        xytext=(-140, 0), textcoords="offset points", ha="right", va="center",
                        fontsize=FONT - 1, color="#555555", style="italic")
            if i:
                ax.axhline(i - 0.5, color="#555555", linewidth=1)
    ax.set_yticks(range(len(rows)), names, fontsize=FONT - 1)
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    ax.spines[:].set_visible(False)
    ax.set_title(wrapped(numbers["title"], 1.1 * len(columns) + 1.2, TITLE), fontsize=TITLE)
    places, labels, name = numbers["ticks"]
    bar = ax.figure.colorbar(picture, ax=ax, ticks=places, shrink=0.6 if len(rows) > 15 else 1.0,
                             aspect=30)
    bar.ax.set_yticklabels(labels, fontsize=FONT - 2)
    bar.set_label(name, fontsize=FONT - 1)
    return ax.figure


def _plotly(numbers):
    import plotly.graph_objects as go

    rows = numbers["rows"]
    columns = [name.replace(" ", "<br>", 1) for name in numbers["columns"]]
    shades = np.asarray(numbers["shade"], np.float64)
    gaps = np.array([[bool(why) for why in line] for line in numbers["reason"]])
    (low, high) = _range(numbers)
    (places, labels, name) = numbers["ticks"]
    colors = BETTER_TO_WORSE if numbers["diverging"] else MORE
    y = np.arange(len(rows))
    x = np.arange(len(columns))
    # not NaN: it is no JSON, and a widget would stay empty
    nothing = [[0.0 if gap else None for gap in line] for line in gaps]
    places_of = [[None if gap else float(v) for v, gap in zip(*pair, strict=True)]
                 for pair in zip(shades, gaps, strict=True)]
    common = {"x": x, "y": y, "customdata": numbers["hover"],
              "hovertemplate": "%{customdata}<extra></extra>", "hoverongaps": False, "xgap": 1,
              "ygap": 1}
    figure = go.Figure(
        [go.Heatmap(z=nothing, colorscale=[[0, NOTHING], [1, NOTHING]], showscale=False, **common),
         go.Heatmap(z=places_of, text=numbers["text"], texttemplate="%{text}",
                    colorscale=[list(c) for c in colors], zmin=low, zmax=high,
                    textfont={"size": FONT - 1},
                    colorbar={"tickvals": places, "ticktext": labels,
                              "title": {"text": name, "side": "right"}, "thickness": 14}, **common),
         go.Scatter(x=np.nonzero(gaps)[1], y=np.nonzero(gaps)[0], mode="text",
                    text=["╱╱╱"] * int(gaps.sum()), hoverinfo="skip", showlegend=False,
                    textfont={"size": FONT - 1, "color": GAP})])
    title = wrapped(numbers["title"], 0.94 * PIXELS / (FONT + 1), 72).replace("\n", "<br>")
    more = 20 * title.count("<br>")
    figure.update_layout(
        template="plotly_white", font_size=FONT - 1, height=max(17 * len(rows), 130) + 96 + more,
        margin={"l": 250 if numbers["grouped"] else 150, "r": 10, "t": 76 + more, "b": 8},
        hovermode="closest", title={"text": title, "font_size": FONT + 1, "x": 0.02, "y": 1,
                                    "yanchor": "top", "pad": {"t": 6}})
    figure.update_xaxes(tickvals=x, ticktext=columns, side="top", showgrid=False, zeroline=False,
                        range=[-0.5, len(columns) - 0.5], fixedrange=True)
    figure.update_yaxes(tickvals=y, ticktext=rows, showgrid=False, zeroline=False,
                        range=[len(rows) - 0.5, -0.5], fixedrange=True)
    if numbers["grouped"]:
        for i in _borders(numbers["families"]):
            figure.add_annotation(text=f"<i>{numbers['families'][i]}</i>", x=0, xref="paper",
                                  xshift=-145, xanchor="right", y=i, showarrow=False,
                                  font={"size": FONT - 1, "color": "#555555"})
            if i:
                figure.add_shape(type="line", x0=0, x1=1, xref="paper", y0=i - 0.5, y1=i - 0.5,
                                 line={"color": "#555555", "width": 1})
    return figure


def plot_unknown_shares(numbers: dict, backend: str = "matplotlib", ax=None):
    """One panel for each kind of unknown images from ``zoo.table.gains``: the change of error
    against Tent at each share, the mean over sources and seeds with one standard deviation; single
    runs where there is no spread. Points below 0 are a gain."""
    arms = {"tent + filter": ("filter alone", 0),
            "wisdom_of_crowds": ("filter and diversity term", 1)}
    panels = []
    for kind, found in numbers.items():
        n = {int(k) for arm in found.values() for k in np.asarray(arm["n"])}
        runs = (f"{min(n)} run{'s' * (min(n) != 1)} a point" if len(n) == 1
                else f"{min(n, default=0)} to {max(n, default=0)} runs a point")
        series = tuple(Series(100 * arm["share"], arm["mean"], arms[name][0], arms[name][1],
                              spread=arm["sd"] if np.isfinite(arm["sd"]).any() else None)
                       for name, arm in found.items() if len(arm["share"]))
        panels.append(Panel(f"{kind.capitalize()} unknown images, {runs}",
                            "share of unknown images (%)", "error minus Tent's (points)", series,
                            line=(0.0, "Tent")))
    return draw(panels or [Panel("The filter's gain", "share of unknown images (%)",
                                 "error minus Tent's (points)")], backend, ax)


def plot_run_errors(numbers: dict, backend: str = "matplotlib", ax=None):
    """Two panels of ``zoo.study.numbers_of``: error over the stream beside source and BN-1, and the
    share of images learned from."""
    if numbers is None:
        return draw([Panel(title, "", title.lower())
                     for title in ("Error over the stream", "Learned from")], backend, ax)
    time = numbers["time"]
    x = time["position"]
    lines = [Series(time["position"], time["error"], numbers["name"], 0)]
    lines += [Series(other["time"]["position"], other["time"]["error"], name, i)
              for i, (name, other) in enumerate(numbers["beside"].items(), 1)]
    kept = [Series(x, time["kept"], "learned from, known", 3),
            Series(x, time["kept_unknown"], "learned from, unknown", 4)]
    kept = tuple(s for s in kept if np.isfinite(s.y).any())
    return draw([Panel("Error over the stream", "position in the stream (images)",
                       "error, known (%)", tuple(lines)),
                 Panel("Learned from", "position in the stream (images)", "share learned from",
                       kept, percent=True, top=1.0)], backend, ax)


def plot_run_predictions(numbers: dict, backend: str = "matplotlib", ax=None):
    """Two panels of ``zoo.study.numbers_of``: entropy of the predictions, and how often each class
    is predicted and true."""
    if numbers is None:
        return draw([Panel(title, "", title.lower())
                     for title in ("How sure it is", "Predicted classes")], backend, ax)
    entropy = []
    bars = []
    for i, (name, run) in enumerate({numbers["name"]: numbers, **numbers["beside"]}.items()):
        entropy.append(Series(run["entropy"]["edges"], run["entropy"]["share"], name, i, "stairs"))
        bars.append(Series(numbers["classes"], run["shares"]["predicted"], name, i, "bar"))
    bars.append(Series(numbers["classes"], numbers["shares"]["true"], "true class", 3, "bar"))
    return draw([Panel("How sure it is", "entropy of a prediction (nats)", "share of images",
                       tuple(entropy), percent=True),
                 Panel("Predicted classes", "", "share of predictions", tuple(bars), percent=True)],
                backend, ax)
