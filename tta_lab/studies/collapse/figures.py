"""Figures of the fourth notebook: a watched run as it goes on, runs beside each other, gradients
before and after, rates with and without guard."""
from __future__ import annotations

import io

import numpy as np

from ...components.controllers.guard import ACTIONS
from ...plots import GROUP_LABELS, GROUP_LOOKS, Panel, Series, draw, png, shown_as
from ..drawings import STEP, errors_beside, gradients, risk, seeds_of

HOW_TO_READ = {
    "signals": "Left: the error of the last images beside source and BN-1; right: the probability "
               "of collapse, with the alarm's threshold (dotted) and alarms; actions of the guard "
               "stand as upright lines in both.",
    "predictions": "Left: bars far above those of the true classes are classes that the model "
                   "falls into; right: entropies that have slid to the left edge mean ever surer "
                   "predictions.",
    "three": "A column is a run. Top: its error; middle: what the detector, which sees no label, "
             "makes of it; bottom: how sure the predictions are and how many classes they use.",
    "inside": "Each point is an image of one and the same batch: before the run unsure images (to "
              "the right) have the long gradients; afterwards look where the wrong ones lie.",
    "falling": "Left: of the right and of the wrong answers, how many lost probability against the "
               "frozen source; right: how many wrong ones a filter would learn from that keeps "
               "what rose.",
    "few_classes": "The points are the classes that a batch truly holds: where the line follows "
                   "them, few predicted classes are right; where it falls away from them, the "
                   "model has lost the others.",
    "sweep": "Bars side by side are the same rate without and with the guard; the dotted line is "
             "the better of the two models that never learn."}
LOW = 0.03    # height at which actions stand, apart from the points of alarms
ACTION_LOOKS = {name: (3, 2, 4, 5, 6, 2)[i] for i, name in enumerate(ACTIONS)}


def compact(figure, colors: int = 128):
    """Let a matplotlib figure show itself as a picture of so few colours, a third of the size in a
    stored notebook; returns it."""
    def small() -> bytes:
        from PIL import Image
        target = io.BytesIO()
        Image.open(io.BytesIO(png(figure))).convert("RGB").quantize(colors).save(target, "png",
                                                                                 optimize=True)
        return target.getvalue()

    return shown_as(figure, small)


def plot_signals(numbers, backend: str = "matplotlib", ax=None):
    """Two panels of ``collapse.study.numbers_of``: error over the stream beside the others;
    probability of collapse with alarms and actions."""
    if numbers is None:
        return draw([Panel("Error over the stream", "", "error"),
                     Panel("Probability of collapse", "", "probability")], backend, ax)
    step = numbers["step"]
    alarm = numbers["alarm"] > 0
    marks = tuple(t for t, _ in numbers["actions"])
    chance = [Series(step, numbers["probability"], "probability", 0, "path")]
    if alarm.any():
        chance.append(Series(step[alarm], numbers["probability"][alarm], "alarm", 1, "points"))
    for name in dict.fromkeys(what for _, what in numbers["actions"]):
        at = np.array([t for t, what in numbers["actions"] if what == name])
        chance.append(Series(at, np.full(len(at), LOW), name, ACTION_LOOKS[name], "points"))
    return draw([Panel("Error over the stream", STEP, f"error, last {numbers['recent']} images (%)",
                       (Series(step, numbers["error"], "this run", 0, "path"),
                        *errors_beside(numbers, 1)), marks=marks),
                 risk(chance, numbers["threshold"], marks=marks, note="Nobody watched this run.")],
                backend, ax)


def plot_predictions(numbers, backend: str = "matplotlib", ax=None):
    """Two panels of ``collapse.study.numbers_of``: shares of the classes among the last images;
    entropies of the first and the last images."""
    if numbers is None:
        return draw([Panel("Predicted classes", "", "share of images"),
                     Panel("How sure it is", "", "share of images")], backend, ax)
    bars = [Series(numbers["classes"], numbers["shares"]["predicted"], "predicted, last", 1, "bar")]
    if numbers["scored"]:
        bars.append(Series(numbers["classes"], numbers["shares"]["true"], "true", 3, "bar"))
    size = min(numbers["recent"], numbers["n"])
    stairs = tuple(Series(numbers["edges"], numbers[when], f"{name} {size} images", i, "stairs")
                   for i, (when, name) in enumerate((("early", "first"), ("late", "last"))))
    return draw([Panel(f"Classes of the last {size} images", "", "share of images", tuple(bars),
                       percent=True),
                 Panel("How sure it is", "entropy of a prediction (nats)", "share of images",
                       stairs, percent=True)], backend, ax)


def plot_three(runs: dict, backend: str = "matplotlib", ax=None):
    """Runs as small multiples, a column each, from {name: ``collapse.study.numbers_of``}: error,
    probability of collapse, entropy and classes."""
    rows = [], [], []
    for name, n in runs.items():
        step = n["step"]
        marks = tuple(t for t, _ in n["actions"])
        error = (Series(step, n["error"] / 100, "error of the run", 0, "path"),
                 *errors_beside(n, 1, "error of {}", 100))
        chance = [Series(step, n["probability"], "probability of collapse", 3, "path")]
        if (n["alarm"] > 0).any():
            first = np.flatnonzero(n["alarm"] > 0)[:1]
            chance.append(Series(step[first], n["probability"][first], "first alarm", 1, "points"))
        if marks:
            chance.append(Series(np.array(marks), np.full(len(marks), LOW), "action of the guard",
                                 2, "points"))
        use = (Series(step, n["entropy"], "entropy / ln K", 4, "path"),
               Series(step, n["predicted"], "classes in use / K", 5, "path"))
        rows[0].append(Panel(name, STEP, "error", error, percent=True, top=1.0, marks=marks))
        rows[1].append(risk(chance, n["threshold"], "", marks=marks))
        rows[2].append(Panel("", STEP, "share", use, percent=True, top=1.0, marks=marks))
    if not runs:
        return draw([Panel("No run", "", "error")], backend, ax)
    return draw([panel for row in rows for panel in row], backend, ax, columns=len(runs),
                size=(13, 9))


def plot_inside(found, backend: str = "matplotlib", ax=None):
    """Two panels of ``collapse.study.look_inside``: entropy and gradient norm of each image, before
    and after the run, on common axes."""
    clouds = {f"{when.capitalize()} the run": {
        g: (found[when]["loss"][m], found[when]["norm"][m])
        for g, m in found[when]["groups"].items()} if when in found else {}
        for when in ("before", "after")}
    losses = [f["loss"] for f in found.values()]
    across = (0.0, 1.05 * float(np.nanmax(np.concatenate(losses)))) if losses else None
    return draw(gradients(clouds, "L2 norm of its gradient", "entropy of the image (nats)",
                          across=across), backend, ax)


def plot_falling(numbers, backend: str = "matplotlib", ax=None):
    """Two panels of ``collapse.study.falling``."""
    x = numbers["step"]
    groups = tuple(Series(x, numbers[g], GROUP_LABELS[g], GROUP_LOOKS[g])
                   for g in ("correct", "wrong"))
    moved = (Series(x, numbers["wrong_fallen"], "among the fallen", 4),
             Series(x, numbers["wrong_risen"], "among the risen", 5))
    return draw([Panel("Answers that have fallen (d < 0)", STEP, "share of the group", groups,
                       percent=True, top=1.0),
                 Panel("Wrong answers", STEP, "share that is wrong", moved, percent=True, top=1.0)],
                backend, ax)


def plot_few_classes(runs: dict, backend: str = "matplotlib", ax=None):
    """One panel for each run of {name: ``collapse.study.batch_classes``}: classes of each batch,
    predicted and true."""
    panels = [Panel(name, STEP, "effective classes in a batch",
                    (Series(n["step"], n["true"], "true", 3, "points"),
                     Series(n["step"], n["predicted"], "predicted", 0, "path"),
                     Series(n["step"], n["marginal"], "exp of the marginal entropy", 1, "path")),
                    top=float(n["classes"])) for name, n in runs.items()]
    return draw(panels or [Panel("No run", "", "classes")], backend, ax)


def plot_sweep(numbers, backend: str = "matplotlib", ax=None):
    """Bars of ``collapse.study.sweep``: error at each rate, without and with each guard."""
    names = [f"x {factor:g}" for factor in numbers["factor"]]
    series = [seeds_of(names, values.T, f"guard: {guard}" if guard else "no guard",
                       (1, 0, 2, 4, 5)[i % 5])
              for i, (guard, values) in enumerate(numbers["error"].items())]
    better = (min(numbers["beside"], key=lambda n: numbers["beside"][n].mean()) if numbers["beside"]
              else "")
    line = (float(numbers["beside"][better].mean()), better) if better else None
    return draw([Panel("Error at each rate", "multiple of the default rate", "error (%)",
                       tuple(series), line=line)], backend, ax)
