"""Figures of the notebook on normalisation: sources under the wild streams, statistics of batches, gradients, the parts of SAR, runs over time."""
from __future__ import annotations

import numpy as np

from ...plots import GROUP_LABELS, GROUP_LOOKS, HeatMap, Panel, Series, draw

HOW_TO_READ = {
    "sources": "Bars of one colour are one source as it is, or with the statistics of each batch; compare along a colour, not across, since the "
               "sources are trained differently well.",
    "differences": "Each number is an error minus that of the same source on the same images, in points (empty: 0.0): red is worse than doing "
                   "nothing, blue is better; on the right the same against BN-1, from which the methods that learn start.",
    "statistics": "A curve below the black one means that the statistics of such a batch are nearer to the right ones than those stored in the "
                  "source (logarithmic scale).",
    "in_use": "A restless line normalises every batch otherwise, a flat one near 0 holds on to the source; upright lines are borders between shifts.",
    "gradients": "Each point is one image at the source's weights: if the cloud climbs to the right, unsure images pull hardest; right of the "
                 "upright line SAR's filter drops them.",
    "parts": "Bars above the dotted line are worse than not learning at all; the bars differ in one part only, the step and its rate are the same.",
    "over_time": "Top: spikes of the gradient; middle: a line that falls below the dots has lost classes that are there; bottom: the detector, "
                 "which sees no label, with its alarms and, dotted, its threshold.",
    "live": "Left: a line that climbs above the others is worse than doing nothing; right: where the line leaves the dots, the model has lost "
            "classes that are there.",
}
STEP = "step (batches)"


def plot_sources(numbers, backend: str = "matplotlib", ax=None):
    """Bars of ``norm_study.source_errors``."""
    series = tuple(Series(numbers["settings"], v, name, i, "bar", None if np.isnan(numbers["spread"][name]).any() else numbers["spread"][name])
                   for i, (name, v) in enumerate(numbers["lines"].items()))
    return draw([Panel("Without learning", "", "error (%)", series)], backend, ax, size=(9, 4.8))


def plot_differences(numbers, against_start, backend: str = "matplotlib", ax=None):
    """Two maps of ``norm_study.differences``: against the own source, and (``against_start``) against BN-1."""
    panels, top = [], 20.0
    for found, title in ((numbers, "against the own source"), (against_start, "against the own BN-1")):
        panels.append(
            HeatMap(title, "", "source: method", values=np.asarray(found["values"], np.float64).T, name="points",
                    rows=tuple(found["rows"]), columns=tuple(found["columns"]), scale="diverging", top=top,
                    cells="{:+.1f}", note="No source with batch norm was run."))
    return draw(panels, backend, ax, size=(12, 7))


def plot_statistics(numbers, backend: str = "matplotlib", ax=None):
    """Lines over the layers of ``norm_study.statistics``."""
    from .study import SETTINGS

    series = [Series(numbers["layers"], numbers["source"], "stored in the source", 3)]
    series += [Series(numbers["layers"], v, f"of a batch: {SETTINGS[s]}", i if i < 3 else 4) for i, (s, v) in enumerate(numbers["settings"].items())]
    return draw([Panel("Statistics against the right ones", "position of the batch-norm layer (1 = input)", "KL (nats)", tuple(series), log=True)],
                backend, ax, size=(9, 5.2))


def plot_in_use(numbers, backend: str = "matplotlib", ax=None):
    """Lines over time of ``norm_study.in_use``."""
    from .study import METHODS, SETTINGS

    series = tuple(Series(numbers["step"], line, METHODS[method], i) for i, (method, line) in enumerate(numbers["lines"].items()))
    return draw([Panel(f"Statistics in use, {SETTINGS[numbers['setting']]}", STEP, "KL from the source's (nats)", series, marks=numbers["marks"])],
                backend, ax, size=(9, 4.8))


def plot_gradients(found, backend: str = "matplotlib", ax=None, classes: int = 10):
    """A panel for each source of ``norm_study.gradients``: entropy and gradient norm of single images, on common axes."""
    from .study import KINDS

    norms = np.concatenate([np.asarray(f["norm"], np.float64) for f in found.values()]) if found else np.zeros(0)
    positive = norms[np.isfinite(norms) & (norms > 0)]
    high = float(positive.max()) if len(positive) else None
    panels = []
    for kind, f in found.items():
        group, entropy, norm = (np.asarray(f[k]) for k in ("group", "entropy", "norm"))
        series = tuple(Series(entropy[group == g], norm[group == g], GROUP_LABELS[g], GROUP_LOOKS[g], "points") for g in ("correct", "wrong")
                       if (group == g).any())
        panels.append(Panel(KINDS[kind].split(" (")[0], "entropy (nats)", "L2 norm of the gradient", series, log=True, top=high,
                            bottom=max(float(positive.min()), 1e-6 * high) / 2 if high else None, across=(0.0, float(np.log(classes))),
                            marks=(0.4 * float(np.log(classes)),)))
    return draw(panels or [Panel("No source", "", "gradient")], backend, ax)


def plot_parts(numbers, backend: str = "matplotlib", ax=None):
    """A panel for each kind of ``norm_study.parts``: bars of the arms at each rate, and the error without learning as a line."""
    from .study import KINDS

    panels = []
    for kind, found in numbers["kinds"].items():
        series = tuple(Series(numbers["arms"], v, f"rate {lr:g}", i, "bar", None if np.isnan(found["spread"][lr]).any() else found["spread"][lr])
                       for i, (lr, v) in enumerate(found["error"].items()))
        panels.append(Panel(KINDS[kind].split(" (")[0], "", "error (%)", series, top=100.0, line=(found["start"], "no learning")))
    return draw(panels or [Panel("No source", "", "error (%)")], backend, ax)


def plot_over_time(runs: dict, backend: str = "matplotlib", ax=None):
    """Runs under each other, a panel for each quantity, from {name: ``norm_study.over_time``}: gradient, classes, probability of collapse."""
    one = next(iter(runs.values()), None)
    if one is None:
        return draw([Panel("No run", "", "classes")], backend, ax)
    gradients = tuple(Series(n["step"], n["gradient"], name, i) for i, (name, n) in enumerate(runs.items()))
    classes = (Series(one["step"], one["true"], "true classes", 3, "points"),)
    classes += tuple(Series(n["step"], n["predicted"], name, i) for i, (name, n) in enumerate(runs.items()))
    chance = tuple(Series(n["step"], n["probability"], name, i) for i, (name, n) in enumerate(runs.items()))
    alarms = [(n["step"][n["alarm"]], n["probability"][n["alarm"]]) for n in runs.values() if n["alarm"].any()]
    if alarms:
        chance += (Series(np.concatenate([a for a, _ in alarms]), np.concatenate([p for _, p in alarms]), "alarm", 5, "points"),)
    return draw([Panel("Gradient of the step", "", "L2 norm", gradients, log=True, height=2.6),
                 Panel("Classes among the last 100 images", "", "effective classes", classes, top=float(one["classes"]), height=2.6),
                 Panel("Probability of collapse", STEP, "probability", chance, percent=True, top=1.0, whole=True,
                       line=(one["threshold"], "threshold"), height=2.8)], backend, ax, stacked=True)


def plot_live(numbers, backend: str = "matplotlib", ax=None):
    """What the panel shows, from ``norm_study.live_numbers``, or None before the first run: error so far; classes predicted and true."""
    if numbers is None:
        return draw([Panel("Error so far", "", "error", note="Nothing has run yet."), Panel("Classes", "", "classes", note="Nothing has run yet.")],
                    backend, ax)
    looks = {"this run": 0, "source": 3, "BN-1": 1}
    lines = tuple(Series(x, y, name, looks.get(name, 4), "path") for name, (x, y) in numbers["so_far"]["lines"].items())
    over = numbers["over"]
    return draw([Panel("Error so far", "position in the stream (images)", "error so far (%)", lines),
                 Panel("Classes among the last 100 images", STEP, "effective classes",
                       (Series(over["step"], over["true"], "true classes", 2, "path"),
                        Series(over["step"], over["predicted"], "this run", 0, "path")), top=float(over["classes"]))], backend, ax)
