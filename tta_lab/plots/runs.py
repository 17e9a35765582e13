"""Figures of the numbers of `diagnose`: the run by rounds and shifts, rise and fall, selection,
detection, the stream, images."""
from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ..analysis import metrics
from ..analysis.diagnose import GROUPS, RULES
from .drawing import draw, draw_sheet
from .looks import GROUP_LABELS, GROUP_LOOKS
from .panel import COLUMNS, MANY, ROWS, HeatMap, Panel, Series

HOW_TO_READ = {
    "images": "Every column is one image, clean at the top and under each shift below; right of "
              "the gap are classes the model never saw.",
    "error_per_round": "A line that climbs means that the model gets worse the longer it adapts; "
                       "the band is one standard deviation over seeds.",
    "error_per_domain": "Each bar is the error under one kind of shift, over all rounds; the "
                        "legend gives the mean over the shifts.",
    "rise_and_fall": "An image falls when adapting lowered its probability at the source's class; "
                     "if the fallen are mostly "
                     "wrong or unknown, falling is a sign not to learn from an image.",
    "flips": "Right: how many images of each kind of change of class the filter drops; a high "
             "line for wrong to right is what the filter "
             "costs, because it looks at the source's class.",
    "rise_histogram": "Right of 0 adapting made the model surer of the source's class, left of 0 "
                      "less sure; "
                      "the further the groups lie apart, the better d tells them apart.",
    "entropy_histogram": "Each column is a stretch of the stream; dark cells slipping to the "
                         "bottom mean ever surer predictions, "
                         "which is collapse when the error climbs meanwhile.",
    "selection_quality": "Precision: how much of what is selected is right; recall: how much of "
                         "what is right is selected; "
                         "a good rule stays high in both.",
    "marginal_entropy": "The number of classes the model still uses in a batch; "
                        "a line falling below the alarm line is a first sign of collapse.",
    "stream": "Time runs from left to right; a dark cell means that most images of that stretch "
              "are of that row, "
              "a pale column over many rows that they are mixed.",
    "detection": "AUROC: 100 % separates perfectly, 50 % is chance; FPR at 95 % TPR: the share of "
                 "bad images let through, low is good.",
}

def plot_error_per_round(numbers, backend: str = "matplotlib", ax=None):
    """Error per round of one run (the dict of ``diagnose.error_per_round``) or of several.

    Several: {name: dict} or {name: [dict, one per seed]}; with a list the line is the mean and the
    band one standard deviation (ddof 1) over seeds.  Raises ValueError when the seeds of a run
    cover different rounds.
    """
    series = [
        Series(x, y, name, i, spread=spread)
        for i, (name, x, y, spread) in enumerate(_runs(numbers, "round"))
    ]
    return draw(
        [Panel("Error per round", "round (0 = first)", "error on known images (%)", tuple(series))],
        backend, ax)


def plot_error_per_domain(numbers, backend: str = "matplotlib", ax=None):
    """Error per domain as bars, of one run (``diagnose.error_per_domain``) or several, as in
    `plot_error_per_round`."""
    series = []
    for i, (name, x, y, spread) in enumerate(_runs(numbers, "domain")):
        seen = y[np.isfinite(y)]
        mean = f"mean {seen.mean():.1f} %" if len(seen) else "no known images"
        x = [str(domain).replace("_", " ") for domain in x]
        series.append(Series(x, y, f"{name} ({mean})" if name else mean, i, "bar", spread))
    return draw([Panel("Error per domain", "", "error on known images (%)", tuple(series))],
                backend, ax)


def plot_rise_and_fall(numbers, backend: str = "matplotlib", ax=None):
    """Three panels of ``diagnose.rise_and_fall``: how many fall, who they are, how much of each
    group falls."""
    x, name = numbers["round"], "round (0 = first)"

    def lines(key):
        return tuple(Series(x, numbers[key][g], GROUP_LABELS[g], GROUP_LOOKS[g]) for g in GROUPS)

    return draw([
        Panel(
            "How many fall (d < 0)", name, "falling (images)",
            (Series(x, np.asarray(numbers["falling"]), "all falling images", 3), *lines("counts"))),
        Panel("Who the falling are", name, "share of the falling", lines("among_falling"),
              percent=True, top=1.0),
        Panel("How much of each group falls", name, "share of the group", lines("within_group"),
              percent=True, top=1.0),
    ], backend, ax)


def plot_flips(numbers, backend: str = "matplotlib", ax=None):
    """Two panels of ``diagnose.flips``: how many images change class, and how much of each kind
    the filter drops."""
    x = numbers["round"]
    name = "round (0 = first)"
    labels = numbers["labels"]
    looks = {"right": 2, "harmful": 1, "other": 4, "unknown": 0, "none": 3}

    def lines(key, kinds):
        return tuple(
            Series(x, np.asarray(numbers[key][kind], np.float64), labels[kind], looks[kind])
            for kind in kinds)

    return draw([
        Panel("Class differs from the source's", name, "changed (images)",
              lines("count", [kind for kind in labels if kind != "none"])),
        Panel("Dropped by the filter (d < 0)", name, "share of the kind", lines("dropped", labels),
              percent=True, top=1.0)
    ], backend, ax)


def plot_rise_histogram(numbers, backend: str = "matplotlib", ax=None):
    """Two panels of ``diagnose.rise_histogram``, early and late: share of each group per bin of
    d."""
    panels = []
    high = max((float(np.nanmax(s, initial=0)) for part in ("early", "late")
                for s in numbers[part]["share"].values()), default=0)
    for part in ("early", "late"):
        here = numbers[part]
        series = tuple(
            Series(numbers["edges"], here["share"][g], GROUP_LABELS[g], GROUP_LOOKS[g], "steps")
            for g in GROUPS)
        panels.append(
            Panel(f"{part.capitalize()}: {_spell(here['rounds'])}", "d = adapted - "
                  "source probability", "share of the group", series, percent=True, top=high
                  or None, upright=0.0))
    return draw(panels, backend, ax)


def plot_entropy_histogram(numbers, backend: str = "matplotlib", ax=None):
    """Heat map of ``diagnose.entropy_histogram``: stretches of the stream across, entropy upwards,
    with the median."""
    first = np.asarray(numbers["first_step"])
    last = np.asarray(numbers["last_step"])
    across = np.concatenate([first, last[-1:] + 1]).astype(np.float64)
    middle = (across[1:] + across[:-1]) / 2
    series = (Series(middle, np.asarray(numbers["median"]), "median", 1),) if len(middle) else ()
    cells = HeatMap("Entropy of the predictions", "step (batches)", "entropy (nats)", series,
                    values=np.asarray(numbers["share"]), name="share of images", x_edges=across,
                    y_edges=numbers["edges"])
    return draw([cells], backend, ax)


def plot_selection_quality(numbers, backend: str = "matplotlib", ax=None):
    """Two panels of ``diagnose.selection_quality`` or ``selection_by_run``: precision and recall
    of each rule, or run, per round."""
    panels = []
    for part, meaning in (("precision", "right among the selected"), ("recall", "selected among "
                                                                                "the right")):
        series = tuple(
            Series(numbers["round"], numbers[part][rule], label,
                   RULES.index(rule) if rule in RULES else i)
            for i, (rule, label) in enumerate(numbers["labels"].items()))
        panels.append(
            Panel(f"{part.capitalize()}: {meaning}", "round (0 = first)", part, series,
                  percent=True, top=1.0))
    return draw(panels, backend, ax)


def plot_marginal_entropy(numbers, backend: str = "matplotlib", ax=None):
    """Effective number of classes exp(H) per step from ``diagnose.marginal_entropy``, with the
    alarm line."""
    series = (Series(numbers["step"], np.asarray(numbers["effective_classes"]), "effective number "
                                                                                "of classes", 0),)
    alarm = (float(numbers["threshold"]), f"alarm below {numbers['threshold']:g}")
    at = numbers["alarm_step"]
    title = "Classes in use" + (f" (first below the line at step {at})" if at >= 0 else "")
    panel = Panel(title, "step (batches)", "exp(marginal entropy) (classes)", series,
                  top=float(numbers["classes"]), line=alarm)
    return draw([panel], backend, ax)


def plot_detection(numbers, backend: str = "matplotlib", ax=None):
    """Two panels of bars from ``diagnose.detection``: AUROC and FPR at 95 % TPR of each score, for
    both questions."""
    questions = {
        "known_vs_unknown": "known against unknown", "correct_vs_wrong": "correct against wrong"
    }
    panels = []
    for part, title in (("auroc", "AUROC (high is good)"), ("fpr95", "FPR at 95 % TPR (low is "
                                                                     "good)")):
        series = tuple(
            Series(list(numbers["labels"]), numbers[q][part], label, i, "bar")
            for i, (q, label) in enumerate(questions.items()))
        panels.append(Panel(title, "", part.upper(), series, percent=True, top=1.0,
                            line=(0.5, "chance") if part == "auroc" else None))
    return draw(panels, backend, ax)


def plot_stream(numbers, backend: str = "matplotlib", ax=None):
    """What a stream shows over time, panels on top of each other: domains, classes, and severities
    where they vary.

    ``numbers`` is ``stream.picture()``: position, batch, label (K and above unknown, -1 none),
    domain, severity, round and known, (n,) each in the order of arrival, the names ``domains`` and
    ``classes``, and ``window``, the images of one column of cells; no column reaches over a border
    of domain, severity or round where these are few.  A cell is the share of its column's images
    that are of its row; thin lines part rounds; the severity is the mean of a column.  The titles
    give what was realised: domains and classes per batch and the length of runs of one class (of
    known images with a label). Raises ValueError for columns of different length, positions that
    fall, or indices without a name.
    """
    columns = {
        name: np.asarray(numbers[name])
        for name in ("position", "batch", "label", "domain", "severity", "round", "known")
    }
    lengths = {name: values.shape for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the columns of a stream's picture differ in length: {lengths}")
    position, batch, label, domain, severity, turn, known = columns.values()
    if (np.diff(position) <= 0).any():
        raise ValueError("positions must rise from image to image; give the columns in the order "
                         "of arrival")
    domains = [str(d).replace("_", " ") for d in numbers["domains"]]
    classes = list(map(str, numbers["classes"]))
    if len(label) and (domain.min() < 0 or domain.max() >= len(domains)
                       or label[known.astype(bool)].max(initial=-1) >= len(classes)):
        raise ValueError(f"domains run to {domain.max()} and labels of known images to "
                         f"{label[known.astype(bool)].max(initial=-1)}, but there are "
                         f"{len(domains)} domain and {len(classes)} class names")
    titles = ("Domains", "Classes")
    if not len(position):
        return draw([Panel(title, "", "images of this stream") for title in titles], backend, ax,
                    stacked=True)
    starts, segments = _windows(len(position), max(int(numbers["window"]), 1),
                                np.stack([domain, severity, turn]))
    window = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(position))))
    edges = np.append(position[starts], position[-1] + 1).astype(np.float64)
    marks = tuple(position[1:][np.diff(turn) != 0].tolist())
    marks = marks if len(marks) < MANY else ()

    def panel(title, y, row, names):
        counts = np.bincount(window * len(names) + row,
                             minlength=len(starts) * len(names)).reshape(-1, len(names))
        share = counts / counts.sum(axis=1, keepdims=True)
        return HeatMap(title, "", y, values=share, name="share", rows=tuple(names), x_edges=edges,
                       marks=marks, percent=True,
                       height=0.9 + 0.26 * max(3, min(len(names), ROWS)))

    unknown = ~known.astype(bool)
    unlabelled = known.astype(bool) & (label < 0)
    extra = [
        name for name, there in (("unknown", unknown), ("no label", unlabelled)) if there.any()
    ]
    row = np.where(unknown, len(classes), np.where(unlabelled,
                                                   len(classes) + len(extra) - 1,
                                                   label)).astype(np.int64)
    scored = ~unknown & ~unlabelled
    title = (f"Domains: {_number(_per_batch(batch, domain))} in each batch" +
             (f", {segments} "
              f"segments" if segments > 1 else ""))
    panels = [
        panel(title + (", lines part rounds" if marks else ""), "domain", domain, domains),
        panel("Classes" + _mixing(batch[scored], label[scored]), "class", row, classes + extra)
    ]
    if np.unique(severity[np.isfinite(severity)]).size > 1:
        mean = np.bincount(window, weights=severity) / np.bincount(window)
        panels.append(
            Panel("Severity", "", "severity", (Series(edges, mean, "", 0, "stairs"),), top=5.0,
                  marks=marks, height=1.7))
    panels[-1] = replace(panels[-1], x="position in the stream (images)",
                         height=panels[-1].height + 0.35)
    return draw(panels, backend, ax, stacked=True)


def plot_images(numbers, backend: str = "matplotlib", ax=None):
    """The same images in several versions, one version a row; images of unknown classes stand
    right of a gap.

    ``x`` (R, n, C, H, W) in [0, 1] with 1 or 3 channels, ``rows`` (R names), ``columns`` (n
    names), ``known`` (n,) bool, known first.
    """
    x = np.asarray(numbers["x"], np.float64)
    known = np.asarray(numbers["known"], bool)
    if x.ndim != 5 or x.shape[2] not in (1, 3) or x.shape[:2] != (len(
            numbers["rows"]), len(numbers["columns"])):
        raise ValueError(f"x must be (rows, columns, 1 or 3 channels, height, width) = "
                         f"({len(numbers['rows'])}, {len(numbers['columns'])}, "
                         f"...), got {x.shape}")
    (n_rows, n, _, height, width), gap = x.shape, 2
    left = np.arange(n) * (width + gap) + np.where(known, 0, width // 2)
    top = np.arange(n_rows) * (height + gap)
    sheet = np.ones((top[-1] + height, left[-1] + width, 3))
    for i, j in np.ndindex(n_rows, n):
        sheet[top[i]:top[i] + height, left[j]:left[j] + width] = x[i, j].transpose(1, 2, 0)
    sheet = (sheet.clip(0, 1) * 255).round().astype(np.uint8)
    names = [
        name if here else f"unknown:\n{name}"
        for name, here in zip(numbers["columns"], known, strict=True)
    ]
    columns = left + (width - 1) / 2, names
    rows = top + (height - 1) / 2, list(numbers["rows"])
    return draw_sheet(sheet, columns, rows, backend, ax)


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _windows(n: int, width: int, facts) -> tuple[np.ndarray, int]:
    """First image of each window of about ``width`` images, and the number of segments of constant
    ``facts`` (F, n).

    Windows end where segments end, unless there are more segments than `COLUMNS`; then they are of
    one size, and the number is 0.
    """
    width *= math.ceil(n / (width * COLUMNS))
    segments = np.append(0, 1 + np.flatnonzero((np.diff(facts) != 0).any(axis=0)))
    if len(segments) > COLUMNS:
        return np.arange(0, n, width), 0
    ends = np.append(segments[1:], n)
    starts = [
        a + (b - a) * np.arange(k) // k for a, b in zip(segments, ends, strict=True)
        for k in [max(1, round((b - a) / width))]
    ]
    return np.concatenate(starts), len(segments)


def _per_batch(batch, value) -> float:
    """Mean number of distinct values in a batch."""
    return np.unique(np.stack([batch, value]), axis=1).shape[1] / np.unique(batch).size


def _mixing(batch, label) -> str:
    """How mixed labels arrive: distinct classes per batch and mean length of a run of one class."""
    if not len(label):
        return ""
    runs = 1 + np.count_nonzero(np.diff(label))
    return (f": {_number(_per_batch(batch, label))} in each batch, runs of "
            f"{_number(len(label) / runs)} images")


def _spell(rounds) -> str:
    rounds = list(rounds)
    if len(rounds) > 2 and rounds == list(range(rounds[0], rounds[-1] + 1)):
        return f"rounds {rounds[0]} to {rounds[-1]}"
    return (("round " if len(rounds) == 1 else "rounds ") +
            ", ".join(map(str, rounds)) if rounds else "no rounds")


def _runs(numbers, axis: str):
    """(name, x, mean, spread) of each run; a run is a dict of numbers or a list of them, one per
    seed."""
    single = isinstance(numbers, list | tuple) or {axis, "error"} <= set(numbers)
    runs = {"": numbers} if single else numbers
    for name, seeds in runs.items():
        seeds = list(seeds) if isinstance(seeds, list | tuple) else [seeds]
        if not seeds:
            raise ValueError(f"the run {name!r} has no numbers; give a dict or a list with one "
                             f"dict per seed")
        x = list(seeds[0][axis])
        if any(list(seed[axis]) != x for seed in seeds):
            raise ValueError(f"the seeds of run {name!r} cover different {axis}s; draw them as "
                             f"separate runs")
        mean, std = metrics.mean_std([seed["error"] for seed in seeds])
        yield str(name), x, mean, std if len(seeds) > 1 else None
