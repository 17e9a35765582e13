"""Figures of the fourth notebook: a watched run as it goes on, runs beside each other, gradients before and after, rates with and without guard."""
from __future__ import annotations

import io

import numpy as np

from ...components.controllers.guard import ACTIONS
from ...plots import GROUP_LABELS, GROUP_LOOKS, Panel, Series, draw, png

HOW_TO_READ = {
    "signals": "Left: the error of the last images beside source and BN-1; right: the probability of collapse, with the alarm's threshold (dotted) "
               "and alarms; actions of the guard stand as upright lines in both.",
    "predictions": "Left: bars far above those of the true classes are classes that the model falls into; right: entropies that have slid to the "
                   "left edge mean ever surer predictions.",
    "three": "A column is a run. Top: its error; middle: what the detector, which sees no label, makes of it; bottom: how sure the predictions are "
             "and how many classes they use.",
    "inside": "Each point is an image of one and the same batch: before the run unsure images (to the right) have the long gradients; afterwards "
              "look where the wrong ones lie.",
    "falling": "Left: of the right and of the wrong answers, how many lost probability against the frozen source; right: how many wrong ones a "
               "filter would learn from that keeps what rose.",
    "few_classes": "The points are the classes that a batch truly holds: where the line follows them, few predicted classes are right; where it "
                   "falls away from them, the model has lost the others.",
    "sweep": "Bars side by side are the same rate without and with the guard; the dotted line is the better of the two models that never learn.",
}
STEP = "step (batches)"
LOW = 0.03    # height at which actions stand, apart from the points of alarms
ACTION_LOOKS = {name: (3, 2, 4, 5, 6, 2)[i] for i, name in enumerate(ACTIONS)}


def compact(figure, colors: int = 128):
    """Let a matplotlib figure show itself as a picture of so few colours, a third of the size in a stored notebook; returns it."""
    def small() -> bytes:
        from PIL import Image
        target = io.BytesIO()
        Image.open(io.BytesIO(png(figure))).convert("RGB").quantize(colors).save(target, "png", optimize=True)
        return target.getvalue()

    figure._repr_png_ = small
    return figure


def plot_signals(numbers, backend: str = "matplotlib", ax=None):
    """Two panels of ``collapse_study.numbers_of``: error over the stream beside the others; probability of collapse with alarms and actions."""
    if numbers is None:
        return draw([Panel("Error over the stream", "", "error"), Panel("Probability of collapse", "", "probability")], backend, ax)
    step, alarm = numbers["step"], numbers["alarm"]
    marks = tuple(t for t, _ in numbers["actions"])
    lines = [Series(step, numbers["error"], "this run", 0, "path")]
    lines += [Series(step[:len(e)], e, name, i, "path") for i, (name, e) in enumerate(numbers["errors"].items(), 1)]
    chance = [Series(step, numbers["probability"], "probability", 0, "path")]
    if (alarm > 0).any():
        chance.append(Series(step[alarm > 0], numbers["probability"][alarm > 0], "alarm", 1, "points"))
    for name in dict.fromkeys(what for _, what in numbers["actions"]):
        at = np.array([t for t, what in numbers["actions"] if what == name])
        chance.append(Series(at, np.full(len(at), LOW), name, ACTION_LOOKS[name], "points"))
    return draw([Panel("Error over the stream", STEP, f"error, last {numbers['recent']} images (%)", tuple(lines), marks=marks),
                 Panel("Probability of collapse", STEP, "probability", tuple(chance), percent=True, top=1.0, whole=True,
                       line=(numbers["threshold"], "threshold"), marks=marks, note="Nobody watched this run.")], backend, ax)


def plot_predictions(numbers, backend: str = "matplotlib", ax=None):
    """Two panels of ``collapse_study.numbers_of``: shares of the classes among the last images; entropies of the first and the last images."""
    if numbers is None:
        return draw([Panel("Predicted classes", "", "share of images"), Panel("How sure it is", "", "share of images")], backend, ax)
    bars = [Series(numbers["classes"], numbers["shares"]["predicted"], "predicted, last", 1, "bar")]
    if numbers["scored"]:
        bars.append(Series(numbers["classes"], numbers["shares"]["true"], "true", 3, "bar"))
    size = min(numbers["recent"], numbers["n"])
    return draw([Panel(f"Classes of the last {size} images", "", "share of images", tuple(bars), percent=True),
                 Panel("How sure it is", "entropy of a prediction (nats)", "share of images",
                       (Series(numbers["edges"], numbers["early"], f"first {size} images", 0, "stairs"),
                        Series(numbers["edges"], numbers["late"], f"last {size} images", 1, "stairs")), percent=True)], backend, ax)


def plot_three(runs: dict, backend: str = "matplotlib", ax=None):
    """Runs as small multiples, a column each, from {name: ``collapse_study.numbers_of``}: error, probability of collapse, entropy and classes."""
    panels = []
    for name, n in runs.items():
        marks = tuple(t for t, _ in n["actions"])
        lines = [Series(n["step"], n["error"] / 100, "error of the run", 0, "path")]
        lines += [Series(n["step"][:len(e)], e / 100, f"error of {other}", i, "path") for i, (other, e) in enumerate(n["errors"].items(), 1)]
        panels.append(Panel(name, STEP, "error", tuple(lines), percent=True, top=1.0, marks=marks))
    for n in runs.values():
        marks, alarm = tuple(t for t, _ in n["actions"]), n["alarm"]
        chance = [Series(n["step"], n["probability"], "probability of collapse", 3, "path")]
        if (alarm > 0).any():
            first = int(np.flatnonzero(alarm > 0)[0])
            chance.append(Series(n["step"][[first]], n["probability"][[first]], "first alarm", 1, "points"))
        if n["actions"]:
            chance.append(Series(np.array(marks), np.full(len(marks), LOW), "action of the guard", 2, "points"))
        panels.append(Panel("", STEP, "probability", tuple(chance), percent=True, top=1.0, whole=True, line=(n["threshold"], "threshold"),
                            marks=marks))
    for n in runs.values():
        lines = (Series(n["step"], n["entropy"], "entropy / ln K", 4, "path"), Series(n["step"], n["predicted"], "classes in use / K", 5, "path"))
        panels.append(Panel("", STEP, "share", lines, percent=True, top=1.0, marks=tuple(t for t, _ in n["actions"])))
    if not panels:
        return draw([Panel("No run", "", "error")], backend, ax)
    return draw(panels, backend, ax, columns=len(runs), size=(13, 9))


def plot_inside(found, backend: str = "matplotlib", ax=None):
    """Two panels of ``collapse_study.look_inside``: entropy and gradient norm of each image, before and after the run, on common axes."""
    norms = np.concatenate([f["norm"] for f in found.values()]) if found else np.zeros(0)
    losses = np.concatenate([f["loss"] for f in found.values()]) if found else np.zeros(0)
    positive = norms[np.isfinite(norms) & (norms > 0)]
    floor = max(float(positive.min()), 1e-6 * float(positive.max())) / 2 if len(positive) else None
    across = (0.0, 1.05 * float(np.nanmax(losses))) if len(losses) else None
    panels = []
    for when in ("before", "after"):
        f = found.get(when)
        series = () if f is None else tuple(Series(f["loss"][m], f["norm"][m], GROUP_LABELS[g], GROUP_LOOKS[g], "points")
                                            for g, m in f["groups"].items() if m.any())
        panels.append(Panel(f"{when.capitalize()} the run", "entropy of the image (nats)", "L2 norm of its gradient", series, log=True, bottom=floor,
                            top=float(positive.max()) if len(positive) else None, across=across))
    return draw(panels, backend, ax)


def plot_falling(numbers, backend: str = "matplotlib", ax=None):
    """Two panels of ``collapse_study.falling``."""
    x = numbers["step"]
    return draw([Panel("Answers that have fallen (d < 0)", STEP, "share of the group",
                       (Series(x, numbers["correct"], GROUP_LABELS["correct"], GROUP_LOOKS["correct"]),
                        Series(x, numbers["wrong"], GROUP_LABELS["wrong"], GROUP_LOOKS["wrong"])), percent=True, top=1.0),
                 Panel("Wrong answers", STEP, "share that is wrong",
                       (Series(x, numbers["wrong_fallen"], "among the fallen", 4), Series(x, numbers["wrong_risen"], "among the risen", 5)),
                       percent=True, top=1.0)], backend, ax)


def plot_few_classes(runs: dict, backend: str = "matplotlib", ax=None):
    """One panel for each run of {name: ``collapse_study.batch_classes``}: classes of each batch, predicted and true."""
    panels = [Panel(name, STEP, "effective classes in a batch", (Series(n["step"], n["true"], "true", 3, "points"),
                                                                Series(n["step"], n["predicted"], "predicted", 0, "path"),
                                                                Series(n["step"], n["marginal"], "exp of the marginal entropy", 1, "path")),
                    top=float(n["classes"])) for name, n in runs.items()]
    return draw(panels or [Panel("No run", "", "classes")], backend, ax)


def plot_sweep(numbers, backend: str = "matplotlib", ax=None):
    """Bars of ``collapse_study.sweep``: error at each rate, without and with each guard."""
    names = [f"x {factor:g}" for factor in numbers["factor"]]
    series = []
    for i, (guard, values) in enumerate(numbers["error"].items()):
        spread = values.std(1, ddof=1) if values.shape[1] > 1 else None
        series.append(Series(names, values.mean(1), f"guard: {guard}" if guard else "no guard", (1, 0, 2, 4, 5)[i % 5], "bar", spread))
    better = min(numbers["beside"], key=lambda n: numbers["beside"][n].mean()) if numbers["beside"] else ""
    line = (float(numbers["beside"][better].mean()), better) if better else None
    return draw([Panel("Error at each rate", "multiple of the default rate", "error (%)", tuple(series), line=line)], backend, ax)
