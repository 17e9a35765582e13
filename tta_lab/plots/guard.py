"""Figures of the guard: what it did in a run, and what it changed over many runs."""
from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..components.controllers.guard import ACTIONS, ANSWERS
from .drawing import draw
from .panel import HeatMap, Panel, Series

HOW_TO_READ = {
    "guarding": "Points on the curve are actions of the guard, with a thin line through all "
                "panels; the dark row of the map is who answered: not the "
                "method where a model that never learns seemed better; the error below should "
                "fall, or stay low, after an action.",
    "guard_runs": "Each point is a run: left to right how much worse than the better of source "
                  "and BN-1 it ends without the guard, upwards the same "
                  "with it; points under the diagonal were helped, and points above the dotted "
                  "line are runs that the guard did not save.",
}


def plot_guarding(numbers, backend: str = "matplotlib", ax=None):
    """``guard.guarding`` of a run, panels on top of each other: probability of collapse with
    actions, who answered, and with labels the error."""
    step = np.asarray(numbers["step"])
    probability = np.asarray(numbers["probability"], np.float64)
    did = numbers["actions"]
    edges = np.asarray(numbers["edges"], np.float64)
    marks = tuple(t for t, _ in did)
    points = []
    for name in dict.fromkeys(action for _, action in did):
        at = np.array([t for t, action in did if action == name])
        points.append(
            Series(at, probability[np.searchsorted(step, at)], name, ACTIONS.index(name), "points"))
    counts = [
        f"{n} {what if n == 1 else what + 's'}"
        for n, what in ((len(did), "action"), (int(np.sum(numbers["alarm"])), "alarm"))
    ]
    title = ", ".join(counts)
    panels = [
        Panel(title, "", "probability of collapse",
              (Series(step, probability, "probability", 0, "path"), *points), percent=True, top=1.0,
              whole=True, marks=marks, height=2.6)
    ]
    panels.append(
        HeatMap("Who answered", "", "", values=np.asarray(numbers["answered"], np.float64),
                name="share", rows=ANSWERS, x_edges=edges, percent=True, marks=marks, height=1.9,
                note="The run has no steps."))
    if np.isfinite(numbers["error"]).any():
        line = (Series(step, np.asarray(numbers["error"]), "error", 3, "path"),)
        panels.append(
            Panel(f"Error over the last {numbers['recent']} images", "", "error (%)", line,
                  marks=marks, height=2.6))
    panels[-1] = replace(panels[-1], x="step (batches)", height=panels[-1].height + 0.35)
    return draw(panels, backend, ax, stacked=True)


def plot_guard_runs(numbers, backend: str = "matplotlib", ax=None):
    """Two panels: excess error over the better of source and BN-1 without and with the guard, on
    the whole stream and at its end.

    ``numbers``: ``whole`` and ``last``, each name -> (excess without (N,), excess with (N,)), in
    points.
    """
    panels = []
    for part, title in (("whole", "Whole stream"), ("last", "Last images of the stream")):
        groups = {
            name: [np.asarray(v, np.float64) for v in pair] for name, pair in numbers[part].items()
        }
        ends = [
            float(f(v[np.isfinite(v)])) for pair in groups.values() for v in pair
            for f in (np.min, np.max) if np.isfinite(v).any()
        ]
        diagonal = ((Series(np.array([min(ends), max(ends)]), np.array(
            [min(ends), max(ends)]), "no difference", 3, "path"),) if ends else ())
        points = tuple(
            Series(x, y, name, i, "points") for i, (name, (x, y)) in enumerate(groups.items()))
        panels.append(
            Panel(title, "excess error without guard (points)", "excess error with "
                  "guard (points)", (*points, *diagonal), free=True, line=(1.0, "1 point")))
    return draw(panels, backend, ax)
