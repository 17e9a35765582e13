"""What all notebooks need to tell their results: sentences as paragraphs, numbers as a JSON
file."""
from __future__ import annotations

import json
import math
import platform
import textwrap
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from .. import __version__
from ..core.files import write_text
from ..core.own_parts import used_files


def paragraphs(lines) -> str:
    """Lines no wider than a notebook beside JupyterLab's file list; what goes on is indented."""
    return "\n".join(textwrap.fill(line, 88, subsequent_indent="    ") for line in lines)


def signed(value: float, digits: int = 1) -> str:
    """A difference with its sign, "+1.2"; one that rounds to nothing has none: "0.0", never "+0.0"
    or "-0.0"."""
    text = f"{value:+.{digits}f}"
    return text if not math.isfinite(value) or float(text) else text[1:]


def points(value: float, digits: int = 1, sign: bool = True) -> str:
    """A difference in points for "changes by ...": "+1.2 points", or "less than 0.05 points" where
    the digits would show none; with ``sign`` False its size alone."""
    if nothing(value, digits):
        return f"less than {0.5 * 10**-digits:.{digits + 1}f} points"
    return f"{signed(value, digits) if sign else f'{abs(value):.{digits}f}'} points"


def nothing(value: float, digits: int = 1) -> bool:
    """Whether a difference is nothing once it is written with so many digits, so that no sentence
    may call it a gain or a loss."""
    return math.isfinite(value) and not float(f"{value:.{digits}f}")


def joined(names, none: str = "") -> str:
    """Names in a sentence: "a, b and c", or ``none``."""
    *first, last = list(names) or [none]
    return f"{', '.join(first)} and {last}" if first else last


def listed(names, most: int = 6, sep: str = ", ", last: str = " and {} more") -> str:
    """The first few of many names, and how many more there are; "none" without any."""
    names = list(names)
    more = last.format(len(names) - most) if len(names) > most else ""
    return sep.join(names[:most]) + more if names else "none"


def errors(found: dict[str, float], *without: str) -> str:
    """Errors in per cent by name: "source 20.1 %, BN-1 18.0 %"; leaves out those in ``without``."""
    return ", ".join(f"{name} {value:.1f} %" for name, value in found.items()
                     if name not in without)


def several(n: int, one: str, many: str = "") -> str:
    """A number and its word: "1 run", "2 runs"."""
    return f"{n} {one if n == 1 else many or one + 's'}"


def share(value: float, none: str = "none") -> str:
    """A share in per cent: "12 %", or ``none`` where it is no number."""
    return f"{100 * value:.0f} %" if math.isfinite(value) else none


def decimal(value: float, digits: int = 1, unit: str = "", none: str = "not defined") -> str:
    """A number with so many digits and its unit, or ``none`` where it is no number."""
    return f"{value:.{digits}f}{unit}" if math.isfinite(value) else none


def with_spread(mean: float, sd: float) -> str:
    """A mean and its standard deviation, where there is one: "12.3 +- 0.4"."""
    return f"{mean:.1f}" + (f" +- {sd:.1f}" if math.isfinite(sd) else "")


def interval(found: dict) -> str:
    """The interval of a difference in points: "95 % interval +0.2 to +1.4"."""
    level = 100 * found.get("level", 0.95)
    return f"{level:.0f} % interval {signed(found['low'])} to {signed(found['high'])}"


def aligned(lines, widths) -> str:
    """Cells as text in columns, to the left where a width is below 0, else to the right."""
    return "\n".join("".join(f"{cell:{'<' if width < 0 else '>'}{abs(width)}}"
                             for cell, width in zip(line, widths, strict=True)).rstrip()
                     for line in lines)


def plain(value):
    """Dicts, lists, numbers and texts as JSON holds them: no tuple, no numpy or torch number, and
    None for what is not finite."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_numbers(path: str | Path, numbers: dict, **made) -> Path:
    """Write numbers as JSON (no number: null) with the date and the versions they were made with,
    the files of parts of your own that were used, and ``made`` beside them.

    The file is there whole or not at all. Raises OSError where it cannot be written.
    """
    made = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "tta_lab": __version__,
            "python": platform.python_version(), "torch": str(torch.__version__),
            "numpy": np.__version__} | made
    if files := used_files():
        made["with"] = list(files)
    return write_text(path, json.dumps(plain({"made": made, **numbers}), indent=1, allow_nan=False)
                      + "\n")


def write_named(path: str | Path, **numbers) -> None:
    """`write_numbers` of what is named."""
    write_numbers(path, numbers)
