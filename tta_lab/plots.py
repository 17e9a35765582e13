"""Figures of the numbers of `diagnose`, in matplotlib or plotly: ``plot_x(numbers, backend="matplotlib", ax=None)``.

Each function turns its numbers into `Panel` values once, and one of two small renderers draws them, so both backends
carry the same data.  ``matplotlib`` returns a ``matplotlib.figure.Figure`` that pyplot does not know (it shows itself
in a notebook); ``ax`` draws into given axes instead: one for a single panel, a sequence for several.  ``plotly``
returns a ``plotly.graph_objects.Figure``.  Colours are those of Okabe and Ito, distinguishable with any colour vision,
and each series also differs in line, marker or hatching.  Numbers with nothing finite in them give an empty figure
holding a sentence.
"""
from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace

import numpy as np

from . import metrics
from .diagnose import GROUPS, RULES

HOW_TO_READ = {
    "images": "Every column is one image, clean at the top and under each shift below; right of the gap are classes the model never saw.",
    "error_per_round": "A line that climbs means that the model gets worse the longer it adapts; "
                       "the band is one standard deviation over seeds.",
    "error_per_domain": "Each bar is the error under one kind of shift, over all rounds; the legend gives the mean over the shifts.",
    "rise_and_fall": "An image falls when adapting lowered its probability at the source's class; if the fallen are mostly "
                     "wrong or unknown, falling is a sign not to learn from an image.",
    "rise_histogram": "Right of 0 adapting made the model surer of the source's class, left of 0 less sure; "
                      "the further the groups lie apart, the better d tells them apart.",
    "entropy_histogram": "Each column is a stretch of the stream; dark cells slipping to the bottom mean ever surer predictions, "
                         "which is collapse when the error climbs meanwhile.",
    "selection_quality": "Precision: how much of what is selected is right; recall: how much of what is right is selected; "
                         "a good rule stays high in both.",
    "marginal_entropy": "The number of classes the model still uses in a batch; "
                        "a line falling below the alarm line is a first sign of collapse.",
    "stream": "Time runs from left to right; a dark cell means that most images of that stretch are of that row, "
              "a pale column over many rows that they are mixed.",
    "detection": "AUROC: 100 % separates perfectly, 50 % is chance; FPR at 95 % TPR: the share of bad images let through, low is good.",
}
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
    """One line, set of bars, or outline (``steps``, and ``stairs`` without the drop to 0 at the ends: x are bin edges, one more
    than y); ``spread`` is a half-width of y."""

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


def plot_error_per_round(numbers, backend: str = "matplotlib", ax=None):
    """Error per round of one run (the dict of ``diagnose.error_per_round``) or of several.

    Several: {name: dict} or {name: [dict, one per seed]}; with a list the line is the mean and the band one standard
    deviation (ddof 1) over seeds.  Raises ValueError when the seeds of a run cover different rounds.
    """
    series = [Series(x, y, name, i, spread=spread) for i, (name, x, y, spread) in enumerate(_runs(numbers, "round"))]
    return _draw([Panel("Error per round", "round (0 = first)", "error on known images (%)", tuple(series))], backend, ax)


def plot_error_per_domain(numbers, backend: str = "matplotlib", ax=None):
    """Error per domain as bars, of one run (``diagnose.error_per_domain``) or several, as in `plot_error_per_round`."""
    series = []
    for i, (name, x, y, spread) in enumerate(_runs(numbers, "domain")):
        seen = y[np.isfinite(y)]
        mean = f"mean {seen.mean():.1f} %" if len(seen) else "no known images"
        x = [str(domain).replace("_", " ") for domain in x]
        series.append(Series(x, y, f"{name} ({mean})" if name else mean, i, "bar", spread))
    return _draw([Panel("Error per domain", "", "error on known images (%)", tuple(series))], backend, ax)


def plot_rise_and_fall(numbers, backend: str = "matplotlib", ax=None):
    """Three panels of ``diagnose.rise_and_fall``: how many fall, who they are, how much of each group falls."""
    x, name = numbers["round"], "round (0 = first)"

    def lines(key):
        return tuple(Series(x, numbers[key][g], GROUP_LABELS[g], GROUP_LOOKS[g]) for g in GROUPS)

    return _draw([
        Panel("How many fall (d < 0)", name, "falling (images)", (Series(x, np.asarray(numbers["falling"]), "all falling images", 3),)),
        Panel("Who the falling are", name, "share of the falling", lines("among_falling"), percent=True, top=1.0),
        Panel("How much of each group falls", name, "share of the group", lines("within_group"), percent=True, top=1.0),
    ], backend, ax)


def plot_rise_histogram(numbers, backend: str = "matplotlib", ax=None):
    """Two panels of ``diagnose.rise_histogram``, early and late: share of each group per bin of d."""
    panels = []
    high = max((float(np.nanmax(s, initial=0)) for part in ("early", "late") for s in numbers[part]["share"].values()), default=0)
    for part in ("early", "late"):
        here = numbers[part]
        series = tuple(Series(numbers["edges"], here["share"][g], GROUP_LABELS[g], GROUP_LOOKS[g], "steps") for g in GROUPS)
        panels.append(Panel(f"{part.capitalize()}: {_spell(here['rounds'])}", "d = adapted - source probability", "share of the group",
                            series, percent=True, top=high or None, upright=0.0))
    return _draw(panels, backend, ax)


def plot_entropy_histogram(numbers, backend: str = "matplotlib", ax=None):
    """Heat map of ``diagnose.entropy_histogram``: stretches of the stream across, entropy upwards, with the median."""
    first, last = np.asarray(numbers["first_step"]), np.asarray(numbers["last_step"])
    across = np.concatenate([first, last[-1:] + 1]).astype(np.float64)
    middle = (across[1:] + across[:-1]) / 2
    series = (Series(middle, np.asarray(numbers["median"]), "median", 1),) if len(middle) else ()
    heat = (across, np.asarray(numbers["edges"]), np.asarray(numbers["share"]), "share of images") if len(middle) else None
    top = float(numbers["edges"][-1])
    return _draw([Panel("Entropy of the predictions", "step (batches)", "entropy (nats)", series, top=top, heat=heat)], backend, ax)


def plot_selection_quality(numbers, backend: str = "matplotlib", ax=None):
    """Two panels of ``diagnose.selection_quality``: precision and recall of each selection rule per round."""
    panels = []
    for part, meaning in (("precision", "right among the selected"), ("recall", "selected among the right")):
        series = tuple(Series(numbers["round"], numbers[part][rule], label, RULES.index(rule))
                       for rule, label in numbers["labels"].items())
        panels.append(Panel(f"{part.capitalize()}: {meaning}", "round (0 = first)", part, series, percent=True, top=1.0))
    return _draw(panels, backend, ax)


def plot_marginal_entropy(numbers, backend: str = "matplotlib", ax=None):
    """Effective number of classes exp(H) per step from ``diagnose.marginal_entropy``, with the alarm line."""
    series = (Series(numbers["step"], np.asarray(numbers["effective_classes"]), "effective number of classes", 0),)
    alarm = (float(numbers["threshold"]), f"alarm below {numbers['threshold']:g}")
    at = numbers["alarm_step"]
    title = "Classes in use" + (f" (first below the line at step {at})" if at >= 0 else "")
    panel = Panel(title, "step (batches)", "exp(marginal entropy) (classes)", series, top=float(numbers["classes"]), line=alarm)
    return _draw([panel], backend, ax)


def plot_detection(numbers, backend: str = "matplotlib", ax=None):
    """Two panels of bars from ``diagnose.detection``: AUROC and FPR at 95 % TPR of each score, for both questions."""
    questions = {"known_vs_unknown": "known against unknown", "correct_vs_wrong": "correct against wrong"}
    panels = []
    for part, title in (("auroc", "AUROC (high is good)"), ("fpr95", "FPR at 95 % TPR (low is good)")):
        series = tuple(Series(list(numbers["labels"]), numbers[q][part], label, i, "bar") for i, (q, label) in enumerate(questions.items()))
        panels.append(Panel(title, "", part.upper(), series, percent=True, top=1.0,
                            line=(0.5, "chance") if part == "auroc" else None))
    return _draw(panels, backend, ax)


def plot_stream(numbers, backend: str = "matplotlib", ax=None):
    """What a stream shows over time, panels on top of each other: domains, classes, and severities where they vary.

    ``numbers`` is ``stream.picture()``: position, batch, label (K and above unknown, -1 none), domain, severity, round and known,
    (n,) each in the order of arrival, the names ``domains`` and ``classes``, and ``window``, the images of one column of cells; no
    column reaches over a border of domain, severity or round where these are few.  A cell is the share of its column's images that
    are of its row; thin lines part rounds; the severity is the mean of a column.  The titles give what was realised: domains and
    classes per batch and the length of runs of one class (of known images with a label).
    Raises ValueError for columns of different length, positions that fall, or indices without a name.
    """
    columns = {name: np.asarray(numbers[name]) for name in ("position", "batch", "label", "domain", "severity", "round", "known")}
    lengths = {name: values.shape for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the columns of a stream's picture differ in length: {lengths}")
    position, batch, label, domain, severity, turn, known = columns.values()
    if (np.diff(position) <= 0).any():
        raise ValueError("positions must rise from image to image; give the columns in the order of arrival")
    domains, classes = [str(d).replace("_", " ") for d in numbers["domains"]], list(map(str, numbers["classes"]))
    if len(label) and (domain.min() < 0 or domain.max() >= len(domains) or label[known.astype(bool)].max(initial=-1) >= len(classes)):
        raise ValueError(f"domains run to {domain.max()} and labels of known images to {label[known.astype(bool)].max(initial=-1)}, but there are "
                         f"{len(domains)} domain and {len(classes)} class names")
    titles = ("Domains", "Classes")
    if not len(position):
        return _draw([Panel(title, "", "images of this stream") for title in titles], backend, ax, stacked=True)
    starts, segments = _windows(len(position), max(int(numbers["window"]), 1), np.stack([domain, severity, turn]))
    window = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(position))))
    edges = np.append(position[starts], position[-1] + 1).astype(np.float64)
    marks = tuple(position[1:][np.diff(turn) != 0].tolist())
    marks = marks if len(marks) < MANY else ()

    def panel(title, y, row, names):
        counts = np.bincount(window * len(names) + row, minlength=len(starts) * len(names)).reshape(-1, len(names))
        share = counts / counts.sum(axis=1, keepdims=True)
        heat = (edges, np.arange(len(names) + 1) - 0.5, share, "share")
        return Panel(title, "", y, heat=heat, rows=tuple(names), marks=marks, percent=True, height=0.9 + 0.26 * max(3, min(len(names), ROWS)))

    unknown, unlabelled = ~known.astype(bool), known.astype(bool) & (label < 0)
    extra = [name for name, there in (("unknown", unknown), ("no label", unlabelled)) if there.any()]
    row = np.where(unknown, len(classes), np.where(unlabelled, len(classes) + len(extra) - 1, label)).astype(np.int64)
    scored = ~unknown & ~unlabelled
    title = f"Domains: {_number(_per_batch(batch, domain))} in each batch" + (f", {segments} segments" if segments > 1 else "")
    panels = [panel(title + (", lines part rounds" if marks else ""), "domain", domain, domains),
              panel("Classes" + _mixing(batch[scored], label[scored]), "class", row, classes + extra)]
    if np.unique(severity[np.isfinite(severity)]).size > 1:
        mean = np.bincount(window, weights=severity) / np.bincount(window)
        panels.append(Panel("Severity", "", "severity", (Series(edges, mean, "", 0, "stairs"),), top=5.0, marks=marks, height=1.7))
    panels[-1] = replace(panels[-1], x="position in the stream (images)", height=panels[-1].height + 0.35)
    return _draw(panels, backend, ax, stacked=True)


def plot_images(numbers, backend: str = "matplotlib", ax=None):
    """The same images in several versions, one version a row; images of unknown classes stand right of a gap.

    ``x`` (R, n, C, H, W) in [0, 1] with 1 or 3 channels, ``rows`` (R names), ``columns`` (n names), ``known`` (n,) bool, known first.
    """
    x, known = np.asarray(numbers["x"], np.float64), np.asarray(numbers["known"], bool)
    if x.ndim != 5 or x.shape[2] not in (1, 3) or x.shape[:2] != (len(numbers["rows"]), len(numbers["columns"])):
        raise ValueError(f"x must be (rows, columns, 1 or 3 channels, height, width) = ({len(numbers['rows'])}, {len(numbers['columns'])}, "
                         f"...), got {x.shape}")
    (n_rows, n, _, height, width), gap = x.shape, 2
    left = np.arange(n) * (width + gap) + np.where(known, 0, width // 2)
    top = np.arange(n_rows) * (height + gap)
    sheet = np.ones((top[-1] + height, left[-1] + width, 3))
    for i, j in np.ndindex(n_rows, n):
        sheet[top[i]:top[i] + height, left[j]:left[j] + width] = x[i, j].transpose(1, 2, 0)
    sheet = (sheet.clip(0, 1) * 255).round().astype(np.uint8)
    names = [name if here else f"unknown:\n{name}" for name, here in zip(numbers["columns"], known, strict=True)]
    middles = left + (width - 1) / 2, top + (height - 1) / 2
    if backend == "matplotlib":
        return _matplotlib_images(sheet, *middles, names, list(numbers["rows"]), ax)
    if backend != "plotly":
        raise ValueError(f"backend must be 'matplotlib' or 'plotly', not {backend!r}")
    import plotly.graph_objects as go

    figure = go.Figure(go.Image(z=sheet, hoverinfo="skip"))
    figure.update_xaxes(tickvals=middles[0], ticktext=[name.replace("\n", "<br>") for name in names], side="top", ticks="")
    figure.update_yaxes(tickvals=middles[1], ticktext=list(numbers["rows"]), ticks="")
    figure.update_layout(template="plotly_white", height=120 + 75 * n_rows, font_size=FONT, margin={"l": 110, "r": 20, "t": 70, "b": 20})
    return figure


def captioned(figure, text: str):
    """Write ``text`` above a matplotlib figure of this module and return it."""
    figure.suptitle(text, fontsize=TITLE + 1, fontweight="bold")
    return figure


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _windows(n: int, width: int, facts) -> tuple[np.ndarray, int]:
    """First image of each window of about ``width`` images, and the number of segments of constant ``facts`` (F, n).

    Windows end where segments end, unless there are more segments than `COLUMNS`; then they are of one size, and the number is 0.
    """
    width *= math.ceil(n / (width * COLUMNS))
    segments = np.append(0, 1 + np.flatnonzero((np.diff(facts) != 0).any(axis=0)))
    if len(segments) > COLUMNS:
        return np.arange(0, n, width), 0
    ends = np.append(segments[1:], n)
    starts = [a + (b - a) * np.arange(k) // k for a, b in zip(segments, ends, strict=True) for k in [max(1, round((b - a) / width))]]
    return np.concatenate(starts), len(segments)


def _per_batch(batch, value) -> float:
    """Mean number of distinct values in a batch."""
    return np.unique(np.stack([batch, value]), axis=1).shape[1] / np.unique(batch).size


def _mixing(batch, label) -> str:
    """How mixed labels arrive: distinct classes per batch and mean length of a run of one class."""
    if not len(label):
        return ""
    runs = 1 + np.count_nonzero(np.diff(label))
    return f": {_number(_per_batch(batch, label))} in each batch, runs of {_number(len(label) / runs)} images"


def _spell(rounds) -> str:
    rounds = list(rounds)
    if len(rounds) > 2 and rounds == list(range(rounds[0], rounds[-1] + 1)):
        return f"rounds {rounds[0]} to {rounds[-1]}"
    return ("round " if len(rounds) == 1 else "rounds ") + ", ".join(map(str, rounds)) if rounds else "no rounds"


def _runs(numbers, axis: str):
    """(name, x, mean, spread) of each run; a run is a dict of numbers or a list of them, one per seed."""
    single = isinstance(numbers, list | tuple) or {axis, "error"} <= set(numbers)
    runs = {"": numbers} if single else numbers
    for name, seeds in runs.items():
        seeds = list(seeds) if isinstance(seeds, list | tuple) else [seeds]
        if not seeds:
            raise ValueError(f"the run {name!r} has no numbers; give a dict or a list with one dict per seed")
        x = list(seeds[0][axis])
        if any(list(seed[axis]) != x for seed in seeds):
            raise ValueError(f"the seeds of run {name!r} cover different {axis}s; draw them as separate runs")
        mean, std = metrics.mean_std([seed["error"] for seed in seeds])
        yield str(name), x, mean, std if len(seeds) > 1 else None


def _draw(panels: list[Panel], backend: str, ax, stacked: bool = False):
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
        figure._repr_png_ = lambda: _png(figure)
    elif ax is None:
        labels = _labels(panels)
        rows = _legend_rows(labels, len(panels))
        figure = Figure(figsize=({1: 8, 2: 10.5, 3: 12.5}[len(panels)], 4.6 + 0.25 * rows), layout="constrained")
        axes = list(figure.subplots(1, len(panels), squeeze=False)[0])
        figure._repr_png_ = lambda: _png(figure)  # shows in a notebook without pyplot
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


def _matplotlib_images(sheet, across, upwards, columns, rows, ax):
    from matplotlib.figure import Figure

    if ax is None:
        figure = Figure(figsize=(1.15 * len(columns) + 1.8, 1.05 * len(rows) + 0.8), layout="constrained")
        ax = figure.subplots()
        figure._repr_png_ = lambda: _png(figure)
    ax.imshow(sheet, interpolation="nearest")
    ax.set_xticks(across, columns, fontsize=FONT - 1)
    ax.set_yticks(upwards, rows, fontsize=FONT)
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    ax.spines[:].set_visible(False)
    return ax.figure


def _legend_rows(labels: list[str], panels: int) -> int:
    width = sum(len(label) + 7 for label in labels)
    return max(1, min(len(labels), math.ceil(width / {1: 68, 2: 92, 3: 112}[panels])))


def _png(figure) -> bytes:
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
    mode = "lines" if len(x) > MANY else "lines+markers"
    traces = [go.Scatter(x=x, y=y, mode=mode, line=line, marker={"symbol": marker[1], "size": 8}, **common)]
    if s.spread is not None:
        there = np.isfinite(y) & np.isfinite(s.spread)
        outline = np.concatenate([(y + s.spread)[there], (y - s.spread)[there][::-1]])
        there_and_back = np.concatenate([x[there], x[there][::-1]])
        traces.append(go.Scatter(x=there_and_back, y=outline, fill="toself", mode="lines", fillcolor=colour, opacity=0.2,
                                 line={"width": 0}, hoverinfo="skip", legendgroup=s.label, showlegend=False))
    return traces
