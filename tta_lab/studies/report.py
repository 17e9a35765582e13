"""What all notebooks need to tell their results: sentences as paragraphs, numbers as a JSON file."""
from __future__ import annotations

import json
import math
import os
import platform
import textwrap
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from .. import __version__


def paragraphs(lines) -> str:
    """Lines no wider than a notebook beside JupyterLab's file list; what goes on is indented."""
    return "\n".join(textwrap.fill(line, 88, subsequent_indent="    ") for line in lines)


def plain(value):
    """Dicts, lists, numbers and texts as JSON holds them: no tuple, no numpy or torch number, and None for what is not finite."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_numbers(path: str | Path, numbers: dict, **made) -> Path:
    """Write numbers as JSON (no number: null) with the date and the versions they were made with, and ``made`` beside them.

    The file is there whole or not at all. Raises OSError where it cannot be written.
    """
    made = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "tta_lab": __version__, "python": platform.python_version(),
            "torch": str(torch.__version__), "numpy": np.__version__} | made
    path = Path(path)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(plain({"made": made, **numbers}), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(part, path)
    return path
