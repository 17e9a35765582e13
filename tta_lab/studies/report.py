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
    and ``made`` beside them.

    The file is there whole or not at all. Raises OSError where it cannot be written.
    """
    made = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "tta_lab": __version__,
            "python": platform.python_version(), "torch": str(torch.__version__),
            "numpy": np.__version__} | made
    return write_text(path, json.dumps(plain({"made": made, **numbers}), indent=1, allow_nan=False)
                      + "\n")
