"""Figures of the notebook on normalisation: sources under the wild streams, statistics of batches,
gradients, the parts of SAR, runs over time."""
from __future__ import annotations

import numpy as np

from ...plots import HeatMap, Panel, Series, draw
from ..drawings import STEP, curves, gradients, known, live, risk

HOW_TO_READ = {
    "sources": "Bars of one colour are one source as it is, or with the statistics of each batch; "
               "compare along a colour, not across, since the sources are trained differently "
               "well.",
    "differences": "Each number is an error minus that of the same source on the same images, in "
                   "points (empty: 0.0): red is worse than doing nothing, blue is better; on the "
                   "right the same against BN-1, from which the methods that learn start.",
    "statistics": "A curve below the black one means that the statistics of such a batch are "
                  "nearer to the right ones than those stored in the source (logarithmic scale).",
    "in_use": "A restless line normalises every batch otherwise, a flat one near 0 holds on to the "
              "source; upright lines are borders between shifts.",
    "gradients": "Each point is one image at the source's weights: if the cloud climbs to the "
                 "right, unsure images pull hardest; right of the upright line SAR's filter drops "
                 "them.",
    "parts": "Bars above the dotted line are worse than not learning at all; the bars differ in "
             "one part only, the step and its rate are the same.",
    "over_time": "Top: spikes of the gradient; middle: a line that falls below the dots has lost "
                 "classes that are there; bottom: the detector, which sees no label, with its "
                 "alarms and, dotted, its threshold.",
    "live": "Left: a line that climbs above the others is worse than doing nothing; right: where "
            "the line leaves the dots, the model has lost classes that are there."}


def plot_sources(numbers, backend: str = "matplotlib", ax=None):
    """Bars of ``norms.study.source_errors``."""
    series = tuple(Series(numbers["settings"], v, name, i, "bar", known(numbers["spread"][name]))
                   for i, (name, v) in enumerate(numbers["lines"].items()))
    return draw([Panel("Without learning", "", "error (%)", series)], backend, ax, size=(9, 4.8))


def plot_differences(numbers, against_start, backend: str = "matplotlib", ax=None):
    """Two maps of ``norms.study.differences``: against the own source, and (``against_start``)
    against BN-1."""
    panels = []
    top = 20.0
    for found, title in ((numbers, "against the own source"),
                         (against_start, "against the own BN-1")):
        panels.append(HeatMap(title, "", "source: method",
                              values=np.asarray(found["values"], np.float64).T, name="points",
                              rows=tuple(found["rows"]), columns=tuple(found["columns"]),
                              scale="diverging", top=top, cells="{:+.1f}",
                              note="No source with batch norm was run."))
    return draw(panels, backend, ax, size=(12, 7))


def plot_statistics(numbers, backend: str = "matplotlib", ax=None):
    """Lines over the layers of ``norms.study.statistics``."""
    from .study import SETTINGS

    series = [Series(numbers["layers"], numbers["source"], "stored in the source", 3)]
    series += [Series(numbers["layers"], v, f"of a batch: {SETTINGS[s]}", i if i < 3 else 4)
               for i, (s, v) in enumerate(numbers["settings"].items())]
    return draw([Panel("Statistics against the right ones",
                       "position of the batch-norm layer (1 = input)", "KL (nats)", tuple(series),
                       log=True)], backend, ax, size=(9, 5.2))


def plot_in_use(numbers, backend: str = "matplotlib", ax=None):
    """Lines over time of ``norms.study.in_use``."""
    from .study import METHODS, SETTINGS

    series = tuple(Series(numbers["step"], line, METHODS[method], i)
                   for i, (method, line) in enumerate(numbers["lines"].items()))
    return draw([Panel(f"Statistics in use, {SETTINGS[numbers['setting']]}", STEP,
                       "KL from the source's (nats)", series, marks=numbers["marks"])], backend, ax,
                size=(9, 4.8))


def plot_gradients(found, backend: str = "matplotlib", ax=None, classes: int = 10):
    """A panel for each source of ``norms.study.gradients``: entropy and gradient norm of single
    images, on common axes."""
    from .study import KINDS

    clouds = {}
    for kind, f in found.items():
        group, entropy, norm = (np.asarray(f[k]) for k in ("group", "entropy", "norm"))
        clouds[KINDS[kind].split(" (")[0]] = {
            g: (entropy[group == g], norm[group == g]) for g in ("correct", "wrong")}
    top = float(np.log(classes))
    return draw(gradients(clouds, across=(0.0, top), marks=(0.4 * top,))
                or [Panel("No source", "", "gradient")], backend, ax)


def plot_parts(numbers, backend: str = "matplotlib", ax=None):
    """A panel for each kind of ``norms.study.parts``: bars of the arms at each rate, and the error
    without learning as a line."""
    from .study import KINDS

    panels = []
    for kind, found in numbers["kinds"].items():
        series = tuple(Series(numbers["arms"], v, f"rate {lr:g}", i, "bar",
                              known(found["spread"][lr]))
                       for i, (lr, v) in enumerate(found["error"].items()))
        panels.append(Panel(KINDS[kind].split(" (")[0], "", "error (%)", series, top=100.0,
                            line=(found["start"], "no learning")))
    return draw(panels or [Panel("No source", "", "error (%)")], backend, ax)


def plot_over_time(runs: dict, backend: str = "matplotlib", ax=None):
    """Runs under each other, a panel for each quantity, from {name: ``norms.study.over_time``}:
    gradient, classes, probability of collapse."""
    one = next(iter(runs.values()), None)
    if one is None:
        return draw([Panel("No run", "", "classes")], backend, ax)
    classes = (Series(one["step"], one["true"], "true classes", 3, "points"),
               *curves(runs, "predicted"))
    chance = curves(runs, "probability")
    alarms = [np.stack([n["step"], n["probability"]])[:, n["alarm"]] for n in runs.values()]
    step, probability = np.concatenate(alarms, axis=1)
    if len(step):
        chance += (Series(step, probability, "alarm", 5, "points"),)
    return draw([Panel("Gradient of the step", "", "L2 norm", curves(runs, "gradient"), log=True,
                       height=2.6),
                 Panel("Classes among the last 100 images", "", "effective classes", classes,
                       top=float(one["classes"]), height=2.6),
                 risk(chance, one["threshold"], height=2.8)], backend, ax, stacked=True)


def plot_live(numbers, backend: str = "matplotlib", ax=None):
    """What the panel shows, from ``norms.study.live_numbers``, or None before the first run: error
    so far; classes predicted and true."""
    def classes(numbers):
        over = numbers["over"]
        return Panel("Classes among the last 100 images", STEP, "effective classes",
                     (Series(over["step"], over["true"], "true classes", 2, "path"),
                      Series(over["step"], over["predicted"], "this run", 0, "path")),
                     top=float(over["classes"]))

    return live(numbers, {"this run": 0, "source": 3, "BN-1": 1}, 4, "Classes", classes, backend,
                ax)
