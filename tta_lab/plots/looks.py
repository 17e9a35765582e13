"""The style of all figures: sizes of texts, and what tells series apart.

Colours are those of Okabe and Ito, distinguishable with any colour vision, and each series also
differs in line, marker or hatching.
"""
from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

# without the yellow, too pale on white
COLORS = ("#0072B2", "#D55E00", "#009E73", "#000000", "#CC79A7", "#E69F00", "#56B4E9")
# of matplotlib and of plotly
DASHES = (("-", "solid"), ("--", "dash"), (":", "dot"), ("-.", "dashdot"),
          ((0, (7, 2, 1, 2, 1, 2)), "longdashdot"))
MARKERS = (("o", "circle"), ("s", "square"), ("^", "triangle-up"), ("D", "diamond"),
           ("v", "triangle-down"), ("X", "x"), ("P", "cross"))
HATCHES = (("", ""), ("//", "/"), ("..", "."), ("xx", "x"), ("\\\\", "\\"), ("--", "-"), ("++",
                                                                                          "+"))
PLAIN = len(COLORS) * len(DASHES)  # looks that differ without a marker
GREY = "#555555"     # of reference lines
NOTHING = "#d9d9d9"  # cells of a heat map around 0 that hold no number; white is 0 there
GROUP_LABELS = {
    "correct": "known, correct", "wrong": "known, wrong", "unknown": "unknown",
    "unlabelled": "no label", "all": "all images"
}
GROUP_LOOKS = {"correct": 2, "wrong": 1, "unknown": 0, "unlabelled": 4, "all": 3}
FONT, TITLE = 13, 15


class Look(NamedTuple):
    """Colour, and dashes, marker and hatching of a series, each for matplotlib and for plotly."""

    color: str
    dash: tuple
    marker: tuple
    hatch: tuple


def look_of(number: int) -> Look:
    """The look of the series with this number: no two of the first 35 agree in colour and dashes,
    no two of the first 245 in colour, dashes and marker, and no two of the first 42 in colour and
    hatching."""
    turned = number + number // len(COLORS)
    return Look(COLORS[number % len(COLORS)], DASHES[number % len(DASHES)],
                MARKERS[turned % len(MARKERS)], HATCHES[turned % len(HATCHES)])


def look(number: int) -> dict:
    """Line and marker of a plotly line that looks like the series with this number."""
    own = look_of(number)
    return {
        "line": {"color": own.color, "dash": own.dash[1], "width": 2.5},
        "marker": {"symbol": own.marker[1], "size": 8}
    }


def distinct(panels: list) -> list:
    """The panels with a look for each name: a second name with the look of a first gets one that
    is free, a name keeps the look it had first."""
    groups = set(GROUP_LABELS.values())
    wanted = {s.label: s.look for p in reversed(panels) for s in reversed(p.series) if s.label}
    looks = {label: number for label, number in wanted.items() if label in groups}
    for panel in panels:
        for s in panel.series:
            if s.label and s.label not in looks:
                taken = s.look in looks.values()
                looks[s.label] = _free(looks, wanted) if taken else s.look

    def own(panel, s):
        if s.label:
            return replace(s, look=looks[s.label])
        # unnamed things belong to the named one of their look
        named = {t.look: t.label for t in reversed(panel.series) if t.label}
        return replace(s, look=looks[named[s.look]]) if s.look in named else s

    return [replace(p, series=tuple(own(p, s) for s in p.series)) for p in panels]


def _free(looks: dict, wanted: dict) -> int:
    """The first look that no name has or wants, in a colour that none has where there is one."""
    taken = {*looks.values(), *wanted.values()}
    free = [number for number in range(len(looks) + len(wanted) + 1) if number not in taken]
    colors = {number % len(COLORS) for number in taken}
    return next((number for number in free if number % len(COLORS) not in colors), free[0])
