"""Figures of the safety report: change in error in each situation, error over time, and the page
for print."""
from __future__ import annotations

import textwrap

import numpy as np

from ..plots import Panel, Series, draw, new_figure

SHORT = {
    "stream": "your stream", "shuffled": "shuffled", "recorded": "recorded",
    "single": "one at a time", "unfamiliar": "unfamiliar", "corrupted": "disturbed"
}
HOW_TO_READ = {
    "safety": "Left: a bar above 0 means that adapting makes more errors in that situation, and "
              "if its line crosses 0 the change may be chance; "
              "right: the error along the stream, in the situation with the largest change.",
    "safety_page": "The verdict stands at the top, its evidence below, and the rule it follows in "
                   "the last lines.",
}


def plot_safety(numbers, backend: str = "matplotlib", ax=None):
    """Two panels of ``SafetyReport.to_dict()``: change in error with its interval, and the error
    of both models over time.

    The line of a bar is as long as its interval. Situations without labels have no bar.
    """
    found = [s for s in numbers["situations"] if s["difference"] is not None]
    names = [SHORT.get(s["name"], s["name"]) for s in found]
    change = np.array([s["difference"] for s in found], np.float64)
    spread = np.array([(s["high"] - s["low"]) / 2 for s in found], np.float64)
    bars = (Series(names, change, "", 1, "bar", spread),) if found else ()
    most = max((s for s in found if s["curve"]), key=lambda s: abs(s["difference"]), default=None)
    lines = ()
    if most is not None:
        x = np.asarray(most["curve"]["images"])
        lines = (Series(x, np.asarray(most["curve"]["source"]), "frozen",
                        3), Series(x, np.asarray(most["curve"]["adapted"]), "adapting", 1))
    where = f": {SHORT.get(most['name'], most['name'])}" if most is not None else ""
    return draw([
        Panel("Change in error by adapting", "", "change (points)", bars),
        Panel(f"Error over time{where}", "labelled images so far", "error (%)", lines)
    ], backend, ax)


def plot_safety_page(report):
    """The report on one A4 page in matplotlib: verdict, reasons, what to do, table, figures, cost
    and rule."""
    from .wording import COLORS, PALE, SUMMARY, advice, cost, limits, rows, without_labels

    figure = new_figure((8.27, 11.69))
    left, y = 0.06, 0.968

    def write(text, size=8.0, gap=0.004, width=128, **style):
        nonlocal y
        lines = textwrap.wrap(text, int(width * (8 / size) ** 0.9)) or [""]
        figure.text(left, y, "\n".join(lines), fontsize=size, va="top", linespacing=1.25, **style)
        y -= len(lines) * size * 1.25 / 72 / 11.69 + gap

    f, v = report.facts, report.verdict
    write("May this model adapt itself while it works?", 15, 0.006, fontweight="bold")
    write(
        f"Safety report of {f['made']}. Model: {f['model']}. Way of adapting: {f['method']}. "
        f"Images: {f['data']}; {f['labelled']} of {f['images']} "
        f"have a label, up to {f['limit'] or f['images']} were shown in each situation.", 8, 0.012)
    top = y
    write(v.upper(), 15, 0.003, color=COLORS[v], fontweight="bold")
    write(SUMMARY[v].split(": ", 1)[1].capitalize(), 9.5, 0.003)
    for reason in (*report.why[:5], *([report.without] if report.without else ())):
        write(f"\u2022 {reason}", 8.5, 0.002)
    figure.patches.append(_box(figure, left - 0.015, y - 0.003, 0.91, top - y + 0.012, PALE[v]))
    y -= 0.008
    write("What to do next", 10, fontweight="bold")
    for text in advice(report):
        write(f"\u2022 {text}", 8, 0.001)
    y -= 0.006
    write("The evidence", 10, 0.003, fontweight="bold")
    write("Both models saw the same images. Points are percentage points of error, above 0 is "
          "worse. The worst of many stretches is bad by chance "
          "alone, so the value that chance explains is given with it.", 7, 0.006, color="#4d4d4d")
    y = _table(figure, rows(report), y, left)
    heights = 0.165
    axes = [
        figure.add_axes((left + 0.06, y - heights, 0.37, heights - 0.03)),
        figure.add_axes((left + 0.53, y - heights, 0.35, heights - 0.03))
    ]
    plot_safety(report.to_dict(), ax=axes)  # small, for print
    for axis in axes:
        for item in (axis.title, axis.xaxis.label, axis.yaxis.label, *axis.get_xticklabels(),
                     *axis.get_yticklabels()):
            item.set_fontsize(min(item.get_fontsize(), 9 if item is axis.title else 7.5))
        if axis.get_legend():
            for text in axis.get_legend().get_texts():
                text.set_fontsize(7.5)
    y -= heights + 0.058
    write("What can be said without labels", 10, fontweight="bold")
    for text in without_labels(report):
        write(f"\u2022 {text}", 8, 0.001)
    y -= 0.004
    write("Cost", 10, fontweight="bold")
    write(cost(report), 8, 0.008)
    write("What this page does not say", 10, fontweight="bold")
    write(limits(report), 7, 0.004)
    write(f"Rule. {report.rule.text()}", 7, 0.002, color="#4d4d4d")
    write(f"Settings. {f['recipe']}; batch {f['batch']}, seed {f['seed']}.", 7, color="#4d4d4d")
    return figure


def _box(figure, x, y, width, height, color):
    from matplotlib.patches import Rectangle
    return Rectangle((x, y), width, height, transform=figure.transFigure, facecolor=color,
                     edgecolor="none", zorder=-1)


def _table(figure, table, y, left) -> float:
    places = dict(zip(table[0], (0.0, 0.165, 0.265, 0.385, 0.535, 0.665, 0.83), strict=True))
    heads = {
        "Errors": "Errors, frozen \u2192\nadapting", "Change": "Change in points\n[interval]",
        "Flips": "Right\u2192wrong /\nwrong\u2192right", "Worst stretch": "Worst stretch,\npoints"
    }
    widths = {"Images": 15, "Worst stretch": 24}
    for name, x in places.items():
        figure.text(left + x, y, heads.get(name, name), fontsize=7.5, va="top", fontweight="bold",
                    linespacing=1.1)
    y -= 0.024
    for row in table:
        cells = {
            name: textwrap.wrap(value, widths.get(name, 30)) or [""] for name, value in row.items()
        }
        for name, lines in cells.items():
            figure.text(left + places[name], y, "\n".join(lines), fontsize=7.5, va="top",
                        linespacing=1.15)
        y -= 0.0115 * max(map(len, cells.values())) + 0.003
    return y - 0.004
