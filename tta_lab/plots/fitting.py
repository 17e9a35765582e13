"""What fits: widths of texts, lines of titles and legends, ticks and their digits. Both backends
take these from here."""

from __future__ import annotations

import math

import numpy as np

WIDTHS = (
    (0.3, " ,.IJijl'"),
    (0.38, "-/:;\\f|!()[]rt"),
    (0.52, '"*_`szLc?'),
    (0.6, "FPTYaekovxy"),
    (0.75, "DGHNUABCRVXZ"),
    (0.8, "&OQw"),
    (0.85, "#+<=>M^~"),
    (1.0, "@W%m"),
)  # in ems, of matplotlib's usual font; others are 0.65
EMS = {letter: width for width, letters in WIDTHS for letter in letters} | {"\u00a0": 0.3}


def inches(text: str, points: float) -> float:
    """Width of the longest line of a text at this size; wide scripts count as 1 em a letter."""
    return (max(
        sum(EMS.get(c, 0.65 if ord(c) < 0x1100 else 1.0) for c in line)
        for line in text.split("\n")) * points / 72)


def wrapped(text: str, width: float, points: float) -> str:
    """``text`` on lines no wider than ``width`` inches: broken at spaces, within a word only where
    the word alone is too wide."""
    lines: list[str] = []
    for part in text.replace(" %", "\u00a0%").split("\n"):  # a number keeps its unit
        line = ""
        for word in (piece for whole in part.split(" ") for piece in _pieces(whole, width, points)):
            if line and inches(f"{line} {word}", points) > width:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}" if line else word
        lines.append(line)
    return "\n".join(lines).replace("\u00a0%", " %")


def _pieces(word: str, width: float, points: float):
    """A word in pieces that fit, cut behind a sign where there is one."""
    while inches(word, points) > width and len(word) > 4:
        most = max((i for i in range(1, len(word)) if inches(word[:i], points) <= width), default=4)
        cut = max((word.rfind(sign, 1, most) + 1 for sign in "_-+,:/.()"), default=0) or most
        yield word[:cut]
        word = word[cut:]
    yield word


def shortened(name: str, letters: int = 28) -> str:
    """A name of at most so many letters, without its middle: names often differ at their ends."""
    if len(name) <= letters:
        return name
    return name[: letters // 2] + "..." + name[len(name) - (letters - letters // 2 - 3) :]


def legend_columns(labels: list[str], width: float, points: float,
                   handle: float = 5.5) -> tuple[int, list[str]]:
    """The most columns that fit into ``width`` inches, filled from the top down, and the labels,
    wrapped where one alone is too wide.

    ``handle``: ems that an entry needs beside its text.
    """
    beside = handle * points / 72
    labels = [wrapped(label, width - beside, points) for label in labels]
    widths = [inches(label, points) + beside for label in labels]
    n = len(labels)
    for columns in range(n, 0, -1):
        sizes = [n // columns + (i < n % columns) for i in range(columns)]
        starts = np.cumsum([0, *sizes])
        if sum(max(widths[a:b])
               for a, b in zip(starts, starts[1:], strict=False)) <= width or columns == 1:
            return columns, labels
    return 1, labels


def legend_lines(columns: int, labels: list[str]) -> int:
    """Lines of text that the columns take below each other."""
    if not labels:
        return 0
    n = len(labels)
    sizes = [n // columns + (i < n % columns) for i in range(columns)]
    starts = np.cumsum([0, *sizes])
    return max(
        sum(label.count("\n") + 1 for label in labels[a:b])
        for a, b in zip(starts, starts[1:], strict=False))


def named(names, most: int, letters: int = 28) -> tuple[list[int], list[str]]:
    """Places and names of the rows or bars that get a name: all, or evenly spaced ones and the
    last; long names without their middle."""
    every, last = math.ceil(len(names) / max(1, most)), len(names) - 1
    places = [i for i in range(0, last, every) if last - i >= every] + [last]
    return places, [shortened(str(names[i]), letters) for i in places]


def bar_names(names, width: float, points: float) -> tuple[list[int], list[str], bool]:
    """Places, texts and whether they are tilted, of the names under bars in a panel ``width``
    inches wide."""
    names = [str(name) for name in names]
    room = width / max(1, len(names))
    if all(inches(name, points) < 0.94 * room for name in names):
        return list(range(len(names))), names, False
    lines = max(name.count("\n") + 1 for name in names)
    places, shown = named(names, int(width / (1.75 * lines * points / 72)))
    return places, shown, True


def finite(values) -> np.ndarray:
    values = np.asarray(values, np.float64).ravel()
    return values[np.isfinite(values)]


def decimals(low: float, high: float) -> int:
    """Digits after the point that tell the ticks between two values apart, about five of them."""
    step = abs(high - low) / 6
    return max(0, -math.floor(math.log10(step))) if step > 0 and math.isfinite(step) else 0


def powers(low: float, high: float) -> bool:
    """Whether ticks between two values are written with powers of ten, being long otherwise."""
    largest = max(abs(low), abs(high))
    return largest > 0 and not 1e-3 <= largest < 1e5


def number(value: float, low: float, high: float) -> str:
    """A tick of an axis with `powers`."""
    largest = max(abs(low), abs(high))
    if abs(value) < 1e-9 * largest:
        return "0"
    digits, power = f"{value:.{2 if high - low > 0.1 * largest else 4}e}".split("e")
    return f"{float(digits):g}e{int(power)}"


def log_ticks(low: float, high: float, percent: bool) -> tuple[list[float], list[str]]:
    """Ticks of a logarithmic axis and their texts: powers of ten, over less than two decades also
    2 and 5 times those."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if math.log10(high / low) < 2 else (1,)
    ticks = [step * 10.0 ** power for power in exponents for step in steps]
    ticks = [tick for tick in ticks if low <= tick <= high]
    ticks = ticks[::max(1, len(ticks) // 8)]
    return ticks, [f"{100 * tick:g}%" if percent else f"{tick:g}" for tick in ticks]
