"""What all notebooks need to tell their results: sentences as paragraphs, numbers as a JSON
file."""
from __future__ import annotations

import html
import json
import math
import platform
import re
import textwrap
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from .. import __version__
from ..core.files import write_text
from ..core.own_parts import used_files
from ..core.told import TOLD


def paragraphs(lines) -> str:
    """Lines no wider than a notebook beside JupyterLab's file list; what goes on is indented."""
    return "\n".join(textwrap.fill(line, 88, subsequent_indent="    ") for line in lines)


def tell(*said: str | Iterable[str]) -> None:
    """Show texts, or sentences each of which is a paragraph: as HTML of the page's width, tables as
    tables, where a notebook is looked at in a browser; as plain text everywhere else."""
    texts = [text if isinstance(text, str) else list(text) for text in said]
    plain = "\n".join(text if isinstance(text, str) else paragraphs(text) for text in texts)
    try:
        from IPython import get_ipython
    except ImportError:
        get_ipython = None
    if get_ipython is None or get_ipython() is None:
        print(plain)
        return
    from IPython.display import display

    display({"text/plain": plain, "text/html": told_html(*texts)}, raw=True)


def told_html(*texts: str | list[str]) -> str:
    """Plain texts, with tables by `aligned`, or lists of sentences, as HTML.

    Blank lines part blocks; a line that is indented by four more than the one before goes on with
    it; lines with columns two or more blanks apart are a table, the first line its head (not one
    that begins with "name:").
    """
    parts = []
    for text in texts:
        if isinstance(text, str):
            for block in re.split(r"\n\s*\n", text.strip("\n")):
                parts.append(_block_html(block.split("\n")))
        else:
            parts.append("".join(map(_paragraph, text)))
    return f'<div class="{TOLD}" style="line-height: 1.4">{"".join(parts)}</div>'


def _paragraph(line: str) -> str:
    return f'<p style="margin: 0.15em 0 0.4em">{html.escape(line.strip())}</p>' if line else ""


def _block_html(lines: list[str]) -> str:
    cells = _cells(lines)
    if cells:
        head, *rows = cells if not cells[0][0].endswith(":") else [[], *cells]
        body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
        top = "".join(f'<th scope="col" style="text-align: {"left" if i == 0 else "right"}; '
                      f'padding: 1px 8px">{html.escape(text)}</th>'
                      for i, text in enumerate(head))
        return (f'<div style="overflow-x: auto"><table style="line-height: 1.3"><thead><tr>{top}'
                f"</tr></thead><tbody>{body}</tbody></table></div>")
    joined_lines: list[str] = []
    deep = 0
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if joined_lines and indent >= deep + 4:
            joined_lines[-1] += " " + line.strip()
        else:
            joined_lines.append(line)
            deep = indent
    return "".join(map(_paragraph, joined_lines))


def _cell(text: str) -> str:
    side = "right" if re.match(r"[-+]?\d|-$|$", text) else "left"
    return f'<td style="text-align: {side}; padding: 1px 8px">{html.escape(text)}</td>'


def _cells(lines: list[str]) -> list[list[str]]:
    """The cells of lines in columns, or [] where they are none."""
    wide = max(map(len, lines))
    blank = "".join(" " if all(line[i:i + 1] in ("", " ") for line in lines) else "x"
                    for i in range(wide))
    spans = [match.span() for match in re.finditer(r"x+( x+)*", blank)]
    if len(lines) < 2 or len(spans) < 2:
        return []
    cells = [[line[a:b].strip() for a, b in spans] for line in lines]
    full = sum(bool(row[0]) and any(row[1:]) for row in cells)
    return cells if full > len(lines) / 2 else []


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
    """Cells as text in columns two blanks apart or more, to the left where a width is below 0, else
    to the right."""
    lines = [[str(cell) for cell in line] for line in lines]
    longest = [max(map(len, column)) for column in zip(*lines, strict=True)]
    wide = [max(abs(width), long + 2) for width, long in zip(widths, longest, strict=True)]
    return "\n".join("".join(f"{cell:{'<' if width < 0 else '>'}{room}}" for cell, width, room
                             in zip(line, widths, wide, strict=True)).rstrip() for line in lines)


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
