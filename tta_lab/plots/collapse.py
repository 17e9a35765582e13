"""Figures of the collapse detector: one run over time, and how good the detector is."""
from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..components.controllers.collapse_detector import ALARMS, SIGNALS
from .drawing import draw
from .panel import Panel, Series

HOW_TO_READ = {
    "collapse": "Above the dotted line the detector takes a collapse for likely and after a few "
                "batches in a row raises an alarm (points); the "
                "upright line is where labels show that the run had collapsed, so points left of "
                "it are in time.",
    "collapse_detector": "Left: a curve high up near the left edge finds most collapses with few "
                         "false alarms, the point is the setting in use; "
                         "right: the share of the collapsing runs that had an alarm at least so "
                         "many batches before the collapse was established.",
}
ALARM_NAMES = {
    "few_classes": "few classes", "stuck_classes": "classes stuck",
    "overconfident": "overconfident", "drifting_weights": "weights drift", "gradients": "gradients",
    "unlike_source": "unlike source"
}


def plot_collapse(numbers, backend: str = "matplotlib", ax=None):
    """The detector over a run, panels on top of each other: probability and alarms, the evidence
    by kind of alarm, and with labels the excess error.

    ``numbers`` is ``collapse.detect(trace)``; with ``numbers["truth"] = collapse.collapse(...)``
    the excess error is drawn and collapse marked.
    """
    step = np.asarray(numbers["step"])
    alarm = np.asarray(numbers["alarm"])
    truth = numbers.get("truth")
    probability = np.asarray(numbers["probability"], np.float64)
    marks = (truth["established"],) if truth and truth["established"] >= 0 else ()
    first = numbers["first_alarm"]
    title = (f"First alarm in step {first}: {ALARMS[alarm[alarm > 0][0]].replace('_', ' ')}"
             if first >= 0 else "No alarm")
    title += ("; collapse established in step "
              f"{marks[0]}") if marks else "; no collapse" if truth else ""
    points = ((Series(step[alarm > 0], probability[alarm > 0], "alarm", 1, "points"),) if
              (alarm > 0).any() else ())
    panels = [
        Panel(title, "", "probability",
              (Series(step, probability, "probability", 0, "path"), *points), percent=True, top=1.0,
              whole=True, line=(float(numbers["threshold"]), "threshold"), marks=marks, height=2.6)
    ]
    kinds: dict = {}
    for name, values in numbers["evidence"].items():
        kinds[SIGNALS[name][0]] = kinds.get(SIGNALS[name][0], 0) + np.asarray(values, np.float64)
    lines = tuple(
        Series(step, values, ALARM_NAMES[kind], ALARMS.index(kind), "path")
        for kind, values in kinds.items())
    panels.append(
        Panel("Evidence", "", "added to the log odds", lines, marks=marks, free=True, height=2.6))
    if truth:
        lines = (Series(truth["step"], np.asarray(truth["excess"]), "excess error", 3, "path"),
                 Series(truth["step"], np.maximum(np.asarray(truth["noise"]), 2.0), "3 standard "
                        "errors", 4, "path"))
        title = f"By labels: {truth['outcome'].replace('_', ' ')}"
        panels.append(
            Panel(title, "", "excess error (points)", lines, marks=marks, free=True, height=2.6))
    panels[-1] = replace(panels[-1], x="step (batches)", height=2.95)
    return draw(panels, backend, ax, stacked=True)


def plot_collapse_detector(numbers, backend: str = "matplotlib", ax=None):
    """Two panels: recall against false alarms when the threshold moves, and the lead time, for
    each detector.

    ``numbers``: ``curves`` {name: {"false_alarms" (per 1000 healthy batches), "recall"}},
    ``chosen`` {name: (false alarms, recall)} of the settings in use, ``leads`` {name: batches
    between alarm and established collapse, of each collapsing run, NaN or None where there was no
    alarm}.
    """
    names = list(numbers["leads"])
    curves = []
    points = []
    times = []
    most = max([10.0, *(1.05 * at[0] for at in numbers["chosen"].values() if np.isfinite(at[0]))])
    for i, name in enumerate(names):
        if name in numbers["curves"]:
            x, y = (np.asarray(numbers["curves"][name][k], np.float64)
                    for k in ("false_alarms", "recall"))
            order = np.lexsort((y, x))
            x = x[order]
            y = np.maximum.accumulate(y[order]) if len(y) else y
            here = x <= most
            ends = ([most], np.interp([most], x, y)) if here.any() and not here.all() else ([], [])
            curves.append(
                Series(np.append(x[here], ends[0]), np.append(y[here], ends[1]), name, i, "path"))
        at = numbers["chosen"][name]
        points.append(
            Series([at[0]], np.array([at[1]], np.float64),
                   name if name not in numbers["curves"] else "", i, "points"))
        lead = np.array([np.nan if v is None else v for v in numbers["leads"][name]], np.float64)
        if len(lead):
            ahead = np.arange(-40, 61)
            times.append(
                Series(ahead, (np.nan_to_num(lead, nan=-np.inf)[:, None] >= ahead).mean(0), name, i,
                       "path"))
    return draw([
        Panel("Collapses found", "false alarms per 1000 healthy batches", "recall",
              (*curves, *points), percent=True, top=1.0, across=(0, most)),
        Panel("Lead time", "batches before the collapse is established", "collapsing "
              "runs with an "
              "alarm by then", tuple(times), percent=True, top=1.0, marks=(0,))
    ], backend, ax, size=(13, 6.2))
