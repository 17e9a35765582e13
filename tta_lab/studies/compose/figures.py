"""Figures of the composer: the composition beside its relatives while they run, from the numbers of
`tta_lab.studies.compose.study`."""
from __future__ import annotations

from ...plots import Panel, Series, draw

HOW_TO_READ = {"composer_runs": "Left: the mean over all images up to there, so the end of each "
                                "line is the result: does the composition end below its relatives "
                                "and below BN-1? Right: what the detector of collapse, which sees "
                                "no labels, gives each run that learns; a line above the dashed "
                                "threshold is an alarm when it stays there."}
LOOKS = {"composition": 0, "BN-1": 1, "source": 2}


def plot_composer_runs(numbers, backend: str = "matplotlib", ax=None):
    """Two panels: ``numbers["so_far"]`` (``explorer.study.so_far``) and ``numbers["collapse"]``
    (``compose.study.collapse_of``)."""
    so_far = numbers["so_far"]
    collapse = numbers["collapse"]
    looks = dict(LOOKS)
    for name in (*so_far["lines"], *collapse["lines"]):
        looks.setdefault(name, len(looks))
    lines = tuple(Series(x, y, name, looks[name], "path")
                  for name, (x, y) in so_far["lines"].items())
    risks = tuple(Series(x, y, name, looks[name], "path")
                  for name, (x, y) in collapse["lines"].items())
    title = "Error so far" if so_far["labelled"] or not so_far["lines"] else "Unlike the source"
    return draw([Panel(title, "position in the stream (images)", so_far["what"], lines,
                       note=so_far["why"], free=True),
                 Panel("Collapse, without labels", "position in the stream (images)",
                       "probability of collapse", risks, percent=True, top=1.0, whole=True,
                       line=(collapse["threshold"], "threshold") if risks else None,
                       note=collapse["why"])], backend, ax)
