"""Figures of the numbers of `tta_lab.analysis.timelines` and `tta_lab.analysis.layer_probes`: a
run over time, early against late, layers, features, images."""
from __future__ import annotations

import math

import numpy as np

from ..analysis.timelines import GROUPS, KINDS
from ..data.shift import Shift
from .drawing import draw, draw_frames, draw_pictures
from .looks import GROUP_LABELS, GROUP_LOOKS
from .panel import COLUMNS, ROWS, HeatMap, Panel, Series, common

HOW_TO_READ = {
    "entropy_frames": "Move the slider from left to right (in print: read the panels in order): "
                      "mass that slides to the left means ever surer "
                      "predictions, and wrong ones that grow at the left end mean collapse; each "
                      "line down is ten times fewer images.",
    "calibration": "On the diagonal a confidence of 80 % is right 80 % of the time; below it the "
                   "model is too sure of itself; ECE is the mean "
                   "distance from the diagonal, the band one standard deviation (wide where a bin "
                   "holds few images), and the source is shown on "
                   "the same images because early and late ones may be of other shifts.",
    "class_shares": "Dark cells in few rows of the upper map where the lower one is even mean "
                    "that the model answers with few classes; the curve is "
                    "half the sum of the differences, 0 for the right shares and near 1 for a "
                    "single class.",
    "confusion_over_time": "A dark column means that many classes are taken for this one; on the "
                           "right red cells have grown and blue ones shrunk, so "
                           "blue on the diagonal is accuracy lost (with one round, partly because "
                           "late images are of other shifts).",
    "layer_distance": "Each row is a layer, the input at the top; the darker, the further its "
                      "tuned parameters are from the source's, as a share of "
                      "their own norm; a single dark row is a layer that takes the whole change.",
    "norm_drift": "Each row is a batch-norm layer, the input at the top; dark cells of the upper "
                  "map mean that it normalises with other statistics "
                  "than the source's, the lower map shows how far the images themselves have "
                  "moved there.",
    "layer_alignment": "Red: the step moves the layer on in the direction it has gone so far; "
                       "white: at a right angle; blue: back; grey: the layer "
                       "did not move (the first step is always straight on).",
    "gradient_norm": "Spikes of the gradient are steps on unsure or odd batches; a norm near 0 "
                     "together with a distance that stays large is a model "
                     "that has settled, perhaps in collapse.",
    "sample_gradients": "Each point is one image: if the cloud climbs to the right, unsure images "
                        "pull hardest at the weights, and those are mostly "
                        "wrong or unknown; the line is the median of the norm in each stretch of "
                        "entropy.",
    "selection_anatomy": "Left: of what the run learns from, how much is right; middle: how much "
                         "of each group gets through, where correct should "
                         "lie far above the others; right: a selection is worth having when its "
                         "precision lies above the accuracy without it.",
    "feature_space": "Both panels share axes, the two directions in which the source's features "
                     "vary most: classes that lie apart on the left and "
                     "flow together on the right have been lost by adapting.",
    "cost_against_error": "Down and to the left is better; runs on the front are those that no "
                          "other beats in both cost and error.",
    "changed_images": "Each picture with the source's answer and its confidence, the adapted "
                      "answer and its own, the true class and d, the change "
                      "of the probability at the source's class.",
}
STEP = "step (batches)"
PARTIAL = {"adapted": 1, "source": 0}


def step_edges(numbers) -> tuple[np.ndarray, np.ndarray]:
    """Edges (W + 1,) and middles (W,) of the stretches, in steps."""
    first = np.asarray(numbers["first_step"], np.float64)
    last = np.asarray(numbers["last_step"], np.float64)
    return np.concatenate([first, last[-1:] + 1]), (first + last + 1) / 2


def groups_in(shares) -> list[str]:
    return [g for g in GROUPS if g in shares]


def plot_entropy_frames(numbers, backend: str = "matplotlib", ax=None):
    """``timelines.entropy_frames`` with a slider over time in plotly, as small multiples in
    matplotlib (``ax``: as many axes as stretches)."""
    first, last = (np.asarray(numbers[k]).astype(int) for k in ("first_step", "last_step"))
    names = [
        f"steps {a} to {b}" if b > a else f"step {a}" for a, b in zip(first, last, strict=True)
    ]
    high = (max((float(np.nanmax(v, initial=0)) for v in numbers["share"].values()), default=0)
            or None)
    edges = np.asarray(numbers["edges"])
    panels = [
        Panel(
            name, "entropy (nats)", "share of images",
            tuple(
                Series(edges, numbers["share"][g][i], GROUP_LABELS[g], GROUP_LOOKS[g], "steps")
                for g in groups_in(numbers["share"])), percent=True, top=high, log=True,
            bottom=0.5 / max(float(np.max(numbers["n"])), 1.0), note=numbers["why"],
            across=(edges[0], edges[-1])) for i, name in enumerate(names)
    ]
    if not panels or all(panel.empty for panel in panels):
        return draw([
            Panel("Entropy of the predictions", "entropy (nats)", "share of images",
                  note=numbers["why"])
        ], backend, ax)
    return draw_frames(panels, names, backend, ax, "Entropy of the predictions over time")


def plot_calibration(numbers, backend: str = "matplotlib", ax=None):
    """Two panels of ``timelines.calibration``, early and late: accuracy against confidence of the
    adapted model and the source."""
    panels = []
    labels = {
        "adapted": "adapted", "source": "source" +
        (", batch statistics" if numbers["source_statistics"] == "batch" else "")
    }
    for part in ("early", "late"):
        here = numbers[part]
        found = {who: here[who] for who in PARTIAL if np.isfinite(here[who]["ece"])}
        curves = tuple(
            Series(t["confidence"], t["accuracy"], labels[who], PARTIAL[who],
                   spread=t["accuracy_sd"]) for who, t in found.items())
        ideal = ((Series(np.array([0.0, 1.0]), np.array([0.0, 1.0]), "as sure as right", 3,
                         "path"),) if curves else ())
        ece = ", ".join(f"{who} {100 * t['ece']:.1f} %" for who, t in found.items())
        title = f"{here['name'].capitalize()}" + (f": ECE {ece}" if ece else "")
        panels.append(
            Panel(title, "confidence", "accuracy", curves + ideal, percent=True, top=1.0,
                  note=numbers["why"], across=(0.0, 1.0)))
    return draw(panels, backend, ax, size=(13, 5.2))


def plot_class_shares(numbers, backend: str = "matplotlib", ax=None):
    """``timelines.class_shares``: maps of predicted and true shares under each other, and the
    distance between them."""
    edges, middle = step_edges(numbers)
    names = tuple(numbers["classes"])
    height = 0.9 + 0.26 * max(3, min(len(names), ROWS))
    panels = []
    for key, title in (("predicted", "Predicted classes"), ("true", "True classes")):
        values = np.asarray(numbers[key], np.float64)
        bare = len(middle) and not np.isfinite(values).any()
        panels.append(
            HeatMap(title, "", "class", values=values, name="share", rows=names, x_edges=edges,
                    percent=True, height=1.6 if bare else height,
                    note=numbers["why"] if key == "true" else ""))
    panels.append(
        Panel("Distance between the two", STEP, "total variation",
              (Series(middle, np.asarray(numbers["gap"]), "", 0),), percent=True, top=1.0,
              note=numbers["why"], height=2.2))
    return draw(panels, backend, ax, stacked=True)


def plot_confusion_over_time(numbers, backend: str = "matplotlib", ax=None):
    """Three maps of ``timelines.confusion_over_time``: early, late, late minus early; numbers in
    the cells are per cent."""
    rows, columns = tuple(numbers["rows"]), tuple(numbers["classes"])
    cells = "{:.0f}" if len(columns) <= 12 else ""
    change = np.abs(np.asarray(numbers["difference"], np.float64))
    high = {
        "plain": 1.0, "diverging": max(0.5, float(np.max(change[np.isfinite(change)], initial=0)))
    }
    early, late = numbers["parts"]
    shown = "" if len(columns) == numbers["of"] else f" ({len(columns)} of {numbers['of']} classes)"
    panels = []
    for key, title, scale in (("early", f"Early: {early}{shown}", "plain"),
                              ("late", f"Late: {late}", "plain"), ("difference", "Late minus early",
                                                                   "diverging")):
        values = np.asarray(numbers[key], np.float64).T
        name = "change (points)" if scale == "diverging" else "share of the true class"
        panels.append(
            HeatMap(title, "predicted class", "true class" if key == "early" else "",
                    values=values, name=name, rows=rows, columns=columns, scale=scale,
                    top=high[scale], percent=True, cells=cells, note=numbers["why"]))
    return draw(panels, backend, ax, size=(19, 6.2))


def plot_selection_anatomy(numbers, backend: str = "matplotlib", ax=None):
    """Three panels of ``timelines.selection_anatomy``: who is kept, how much of each group, kept
    share and precision."""
    _, x = step_edges(numbers)

    def lines(key):
        return tuple(
            Series(x, numbers[key][g], GROUP_LABELS[g], GROUP_LOOKS[g])
            for g in groups_in(numbers[key]))

    whole = (Series(x, numbers["kept_share"], "kept", 3),)
    precision = ((Series(x, numbers["precision"], "precision", 4),)
                 if np.isfinite(numbers["precision"]).any() else ())
    some = bool(np.nan_to_num(numbers["kept_share"]).any())
    return draw([
        Panel("Who is kept", STEP, "share of the kept",
              lines("among_kept") if some else (), percent=True, top=1.0, note=numbers["why"]),
        Panel("How much of each group is kept", STEP, "share of the group",
              lines("kept_of") if some else (), percent=True, top=1.0, note=numbers["why"]),
        Panel("Kept, and right among the kept" if precision else "Kept", STEP, "share",
              whole + precision if some else (), percent=True, top=1.0, note=numbers["why"])
    ], backend, ax, size=(14.5, 5.2))


def plot_gradient_norm(numbers, backend: str = "matplotlib", ax=None):
    """Two panels of ``timelines.gradient_norm`` under each other: the gradient's norm (logarithmic)
    and the distance from the source."""
    step = numbers["step"]
    skipped = int(np.sum(numbers["skipped"]))
    title = ("Gradient of the tuned parameters" +
             (f" ({skipped} steps without an update)" if skipped else ""))
    return draw([
        Panel(title, "", "L2 norm", (Series(step, numbers["grad_norm"], "", 0),), log=True,
              note=numbers["why"], height=3.0),
        Panel("Distance from the source", STEP, "L2 norm",
              (Series(step, numbers["distance"], "", 1),), height=2.6)
    ], backend, ax, stacked=True)


# --- layers

def _by_layer(numbers, key: str):
    """(x edges, values (W, L)) of a map over steps and layers; neighbouring steps are averaged
    where there are more than COLUMNS."""
    step = np.asarray(numbers["step"], np.float64)
    values = np.asarray(numbers[key], np.float64)
    pieces = np.array_split(np.arange(len(step)), min(len(step), COLUMNS)) if len(step) else []
    there = np.isfinite(values)
    sums = [(np.where(there, values, 0)[p].sum(axis=0), there[p].sum(axis=0)) for p in pieces]
    means = np.array([
        np.divide(total, n, out=np.full(len(total), math.nan), where=n > 0) for total, n in sums
    ]).reshape(len(pieces), values.shape[1])
    between = float(np.median(np.diff(step))) if len(step) > 1 else 1.0
    edges = np.append([step[p[0]] for p in pieces], step[-1] + between if len(step) else 0.0)
    return edges, means


def _layer_panel(numbers, key: str, title: str, name: str, x: str = STEP, **more) -> HeatMap:
    edges, values = _by_layer(numbers, key)
    layers = tuple(numbers["layers"])
    empty = not np.isfinite(values).any()
    return HeatMap(title, x, "layer", values=values, name=name, rows=layers, x_edges=edges,
                   note=numbers["why"],
                   height=1.6 if empty else 1.5 + 0.26 * max(3, min(len(layers), ROWS)), **more)


def plot_layer_distance(numbers, backend: str = "matplotlib", ax=None):
    """Map of ``layer_probes.layer_distance``: layers down, steps across."""
    return draw([_layer_panel(numbers, "relative", "Distance of the tuned parameters from the "
                                                   "source", "share of their norm", scale="plain",
                              percent=True)], backend, ax, stacked=True)


def plot_norm_drift(numbers, backend: str = "matplotlib", ax=None):
    """Two maps of ``layer_probes.norm_drift`` on one scale: statistics in use, statistics of the
    batches."""
    both = [np.asarray(numbers[key], np.float64) for key in ("in_use", "batch")]
    high = max(float(np.max(v[np.isfinite(v)], initial=0)) for v in both) or None
    return draw([
        _layer_panel(numbers, "in_use", "Statistics in use", "KL (nats)", "", scale="root",
                     top=high),
        _layer_panel(numbers, "batch", "Statistics of the batches", "KL (nats)", scale="root",
                     top=high)
    ], backend, ax, stacked=True)


def plot_layer_alignment(numbers, backend: str = "matplotlib", ax=None):
    """Map of ``layer_probes.layer_alignment``: layers down, steps across, from -1 (back) to 1
    (on)."""
    return draw([
        _layer_panel(numbers, "alignment", "Direction of each step against the way so far",
                     "cosine", scale="diverging", top=1.0)
    ], backend, ax, stacked=True)


# --- images

def plot_sample_gradients(numbers, backend: str = "matplotlib", ax=None):
    """Points of ``layer_probes.sample_gradients``: entropy across, norm of the gradient upwards
    (logarithmic), and the median in ten stretches."""
    entropy, norm, group = (np.asarray(numbers[k]) for k in ("entropy", "norm", "group"))
    series = [
        Series(entropy[group == g], norm[group == g], GROUP_LABELS[g], GROUP_LOOKS[g], "points")
        for g in GROUPS if (group == g).any()
    ]
    fine = np.isfinite(entropy) & np.isfinite(norm)
    if fine.sum() >= 20:
        pieces = np.array_split(np.flatnonzero(fine)[np.argsort(entropy[fine], kind="stable")], 10)
        series.append(
            Series(np.array([np.median(entropy[p]) for p in pieces]),
                   np.array([np.median(norm[p]) for p in pieces]), "median", 3))
    what = "of the entropy" if numbers["loss"] == "entropy" else "of the method's loss"
    return draw([
        Panel(f"Gradient of single images, {what}", "entropy (nats)", "L2 norm of the "
              "gradient", tuple(series), log=True, note=numbers["why"])
    ], backend, ax)


def plot_feature_space(numbers, backend: str = "matplotlib", ax=None, by: str = "group",
                       names=None):
    """Two panels of ``layer_probes.feature_space`` on common axes, coloured ``by`` "group" (of
    each model's own answers) or "class" (true).

    Of more than ten classes the ten most frequent are drawn. Raises ValueError for another ``by``.
    """
    if by not in ("group", "class"):
        raise ValueError(f"by must be 'group' or 'class', not {by!r}")
    label = np.asarray(numbers["label"])
    known = np.asarray(numbers["known"], bool)
    everything = np.concatenate([np.asarray(numbers[k], np.float64) for k in ("source", "adapted")])
    fine = everything[np.isfinite(everything).all(axis=1)]
    room = 0.05 * np.ptp(fine, axis=0) if len(fine) else np.zeros(2)
    across = (fine[:, 0].min() - room[0], fine[:, 0].max() + room[0]) if len(fine) else None
    panels = []
    for who, group in (("source", "source_group"), ("adapted", "group")):
        points = np.asarray(numbers[who], np.float64)
        share = numbers["explained"][who]
        if by == "group":
            masks = {
                GROUP_LABELS[g]: (np.asarray(numbers[group]) == g, GROUP_LOOKS[g]) for g in GROUPS
            }
        else:
            there, counts = np.unique(label[known & (label >= 0)], return_counts=True)
            top = np.sort(there[np.argsort(-counts, kind="stable")[:10]])
            # below the classes
            masks = {"unknown": (~known, len(top)), "no label": (known & (label < 0), len(top) + 1)}
            masks |= {
                str(names[k] if names is not None else f"class {k}"): (known & (label == k), i)
                for i, k in enumerate(top)
            }
        series = [
            Series(points[mask, 0], points[mask, 1], name, look, "points")
            for name, (mask, look) in masks.items() if mask.any()
        ]
        panels.append(
            Panel(f"{who.capitalize()} features", f"component 1 ({_percent(share[0])} "
                  f"of the variance)", f"component 2 ({_percent(share[1])})", tuple(series),
                  free=True, across=across, note=numbers["why"]))
    return draw(common(panels), backend, ax, size=(12.5, 6))


def _percent(share) -> str:
    return f"{100 * float(share):.0f} %" if np.isfinite(share) else "no share"


def plot_cost_against_error(numbers, backend: str = "matplotlib", ax=None):
    """Two panels of ``timelines.cost_against_error``: error against passes and against milliseconds
    per image, with the front."""
    panels = []
    errors = np.asarray(numbers["error"], np.float64)
    spread = np.asarray(numbers["error_sd"], np.float64)
    for measure, x in (("passes", "forwards + backwards (per image)"), ("ms_per_image", "time (ms "
                                                                        "per image)")):
        costs = np.asarray(numbers[measure], np.float64)
        series = [
            Series(costs[[i]], errors[[i]], name, i, "points",
                   spread[[i]] if np.isfinite(spread[i]) else None)
            for i, name in enumerate(numbers["name"])
        ]
        rows = np.flatnonzero(numbers["front"][measure])
        rows = rows[np.lexsort((errors[rows], costs[rows]))]
        if len(rows):
            series.insert(0, Series(costs[rows], errors[rows], "front", 3 + 7 * 5, "path"))
        high = float(np.max(costs[np.isfinite(costs)], initial=0)) or 1.0
        panels.append(
            Panel("", x, "error on known images (%)", tuple(series), note=numbers["why"],
                  across=(0.0, 1.08 * high)))
    return draw(panels, backend, ax, size=(12.5, 5.6))


def plot_changed_images(numbers, backend: str = "matplotlib", ax=None):
    """The pictures of ``timelines.changed_images``, a row for each kind."""
    rows = []
    columns = ("source", "source_confidence", "adapted", "confidence", "true", "d", "shift")
    for kind, found in numbers["kinds"].items():
        captions = [
            f"{s} {_two(a)}\n→ {t} {_two(b)}\n" + (f"true: {y}\n" if y else "") +
            f"d {_two(d, '+')}, {Shift.parse(shift).domain.replace('_', ' ')}"
            for s, a, t, b, y, d, shift in zip(*(found[k] for k in columns), strict=True)
        ]
        if captions:
            rows.append((KINDS[kind], list(zip(np.asarray(found["x"]), captions, strict=True))))
    return draw_pictures(rows, backend, ax, numbers["why"])


def _two(value: float, sign: str = "") -> str:
    return f"{value:{sign}.2f}"
