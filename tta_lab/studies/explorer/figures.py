"""Figures of the explorer: a run while it goes on, from the numbers of
`tta_lab.studies.explorer.study`."""
from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...plots import (
    COLORS,
    GROUP_LABELS,
    GROUP_LOOKS,
    HeatMap,
    Panel,
    Series,
    draw,
    draw_pictures,
)
from ...plots.looks import DASHES
from ...plots.timelines import groups_in, step_edges
from .study import KINDS, SCORES

HOW_TO_READ = {
    "explorer_errors": "Left: the mean over all images up to there, so the end of each line is the "
                       "result; below BN-1 and source is better, and a line that climbs while "
                       "theirs stay level is a run that goes wrong; right: the share of images "
                       "that lose probability at the source's class; wrong and unknown ones should "
                       "fall far more often than correct ones; without labels, left: how often the "
                       "run answers like the source and like BN-1 (and BN-1 like the source, for "
                       "scale), where a line that sinks is a run that goes its own way, for better "
                       "or worse; right: how many images fall and how many rise.",
    "explorer_predictions": "Left: mass at the left end is sure, at the right end a guess; wrong "
                            "images at the left end are trouble, and the outline of all first "
                            "images is how the run began; right: a single dark row means that all "
                            "images are called by one name.",
    "explorer_threshold": "Everything right of the upright line is accepted as known; the further "
                          "apart the outlines, the less it matters where the line stands.",
    "explorer_probabilities": "The same image by each model, one bar for each class: where source "
                              "and adapted model put their highest bar differs, the adaptation "
                              "changed the answer.",
    "explorer_images": "Under each picture: the source's answer and its confidence, the adapted "
                       "answer and its own, the true class and d."}
OWN = 5       # of the run; the looks of the groups stay theirs
POSITION = "position in the stream (images)"
RUNS = (5, 11, 9, 15, 7)  # the first looks of runs
LOOKS = {"source": 3, "BN-1": 6, "A": 8, "like source": OWN, "like BN-1": 6, "BN-1 like source": 3,
         "A like source": 8}


def run_look(number: int) -> int:
    """The look of the run with this number (1, 2, ...), apart from those of groups and references:
    no two of the first five agree in colour, and of the later ones those in colour differ in dash.
    """
    turn, place = divmod(number - 1, len(RUNS))
    return RUNS[place] + len(COLORS) * (turn % (len(DASHES) - 1))


def so_far_panel(so_far: dict, looks: dict, marks=()) -> Panel:
    """The panel of ``explorer.study.so_far``; ``looks`` name of a run -> its look, ``marks`` images
    at which something happened."""
    looks = looks | LOOKS
    lines = tuple(Series(x, y, name, looks.get(name, OWN))
                  for name, (x, y) in so_far["lines"].items())
    title = "Error so far" if so_far["labelled"] or not lines else "Agreement (no labels)"
    return Panel(title, POSITION, so_far["what"], lines, marks=tuple(marks) if lines else (),
                 note=so_far["why"])


def plot_explorer_errors(numbers, backend: str = "matplotlib", ax=None):
    """Two panels: ``numbers["so_far"]`` of ``explorer.study.so_far`` and ``numbers["fall"]`` of
    ``fall_over_time``; ``numbers["marks"]`` images at which something happened, upright lines;
    ``numbers["looks"]`` name of a run -> its look."""
    fall = numbers["fall"]
    shares = tuple(Series(fall["image"], fall["share"][g], GROUP_LABELS[g], GROUP_LOOKS[g])
                   for g in groups_in(fall["share"]))
    who = "Who falls (d < 0)"
    if list(fall["share"]) == ["all"]:  # without labels: who falls and who rises, of all
        who = "Fall (d < 0) and rise (d > 0)"
        shares = (Series(fall["image"], fall["all"], "fallen", 0),
                  Series(fall["image"], fall["rise"], "risen", 2))
    errors = so_far_panel(numbers["so_far"], numbers.get("looks", {}), numbers.get("marks", ()))
    return draw([errors,
                 Panel(who, POSITION, "share of the group" if "all" not in fall["share"]
                       else "share of the images", shares, percent=True, top=1.0,
                       note=fall["why"])], backend, ax)


def plot_explorer_predictions(numbers, backend: str = "matplotlib", ax=None):
    """Two panels: ``numbers["entropy"]`` of ``explorer.study.entropy_now`` and
    ``numbers["classes"]`` of ``timelines.class_shares``."""
    entropy = numbers["entropy"]
    classes = numbers["classes"]
    edges = np.asarray(entropy["edges"])
    outlines = [Series(edges, entropy["share"][g], GROUP_LABELS[g],
                       0 if g == "all" else GROUP_LOOKS[g], "steps")
                for g in groups_in(entropy["share"])]
    if outlines:
        outlines.append(Series(edges, entropy["first"], f"first {entropy['n']}, all", 3, "steps"))
    names = tuple(map(str, classes["classes"])) if classes else ()
    where, predicted = (step_edges(classes)[0], classes["predicted"]) if classes else (None, ())
    title = f"Entropy, last {entropy['n']} images" if outlines else "Entropy"
    return draw([Panel(title, "entropy (nats)", "share of images", tuple(outlines), percent=True,
                       log=True, bottom=0.5 / max(entropy["n"], 1), note=entropy["why"]),
                 HeatMap("Predicted classes", "step (batches)", "",
                         values=np.asarray(predicted, np.float64), name="share", rows=names,
                         x_edges=where, percent=True, note="Nothing has run yet.")], backend, ax)


def plot_explorer_threshold(numbers, backend: str = "matplotlib", ax=None):
    """``explorer.study.threshold_at``: the score by group, with an upright line at the
    threshold."""
    edges = np.asarray(numbers["edges"])
    at = float(numbers["threshold"])
    outlines = tuple(Series(edges, numbers["share"][g], GROUP_LABELS[g], GROUP_LOOKS[g], "steps")
                     for g in groups_in(numbers["share"]))
    panel = Panel("Accepted: right of the line", SCORES[numbers["score"]], "share of the group",
                  outlines, percent=True, note=numbers["why"],
                  upright=at if np.isfinite(at) and outlines else None)
    return draw([panel if outlines and not numbers["why"]
                 else replace(panel, series=(), upright=None)], backend, ax)


def plot_explorer_probabilities(numbers, backend: str = "matplotlib", ax=None):
    """``explorer.study.probabilities_of``: bars of the classes, for each run."""
    bars = tuple(Series(numbers["classes"], values, name, LOOKS.get(name, OWN), "bar")
                 for name, values in numbers["values"].items())
    return draw([Panel("Probabilities", "", "probability", bars, percent=True, top=1.0,
                       note=numbers["why"])], backend, ax)


def plot_explorer_images(numbers, backend: str = "matplotlib", ax=None):
    """``explorer.study.pictures``: a row for each kind, a caption below each picture."""
    rows = [(KINDS[kind], [(image, _caption(t)) for image, t in found])
            for kind, found in numbers.items()]
    return draw_pictures(rows, backend, ax, "There are no images to show yet.")


def _caption(t: dict) -> str:
    lines = [f"{t['source']} {t['source_confidence']:.2f}"] if t["source"] else []
    lines += [f"→ {t['prediction']} {t['confidence']:.2f}",
              *([f"true: {t['true']}"] if t["true"] else []), f"d {t['d']:+.2f}"]
    return "\n".join(lines)


FIGURES = {"errors": plot_explorer_errors, "images": plot_explorer_images,
           "predictions": plot_explorer_predictions, "probabilities": plot_explorer_probabilities,
           "threshold": plot_explorer_threshold}
