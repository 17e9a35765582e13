"""Stored numbers of runs: what a panel shows at once, before anything has run.

Each entry is named by the code that makes its run without a panel, so that numbers are shown for
exactly the settings that made them. ``benchmarks/stored_runs.py`` makes the file.
"""
from __future__ import annotations

import functools
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from .. import __version__
from ..core.files import write_text

PLACE = Path(__file__).with_name("stored.json")


def entry(numbers: dict, said: str) -> dict:
    """What is stored of a run: its numbers, the sentence on them, version and date."""
    return {"numbers": packed(numbers), "said": said, "tta_lab": __version__,
            "date": datetime.now(UTC).date().isoformat()}


def write(entries: dict[str, dict], path: str | Path = PLACE) -> Path:
    """Write entries by code as JSON. Raises OSError where the file cannot be written."""
    text = json.dumps(entries, allow_nan=False, separators=(",", ":"))
    return write_text(Path(path), text.replace('},"from ', '},\n"from ') + "\n")


def stored(code: str) -> tuple[dict, str, str] | None:
    """Numbers, sentence, and version with date of the run that this code makes; None where nothing
    is stored of it."""
    found = _entries().get(code)
    if found is None:
        return None
    return (unpacked(found["numbers"]), found["said"],
            f"TTA Lab {found['tta_lab']}, {found['date']}")


@functools.cache
def _entries() -> dict[str, dict]:
    return json.loads(PLACE.read_text(encoding="utf-8")) if PLACE.is_file() else {}


def packed(value):
    """Dicts with names, lists, tuples, arrays (five digits), texts and numbers as JSON holds
    them."""
    if isinstance(value, dict):
        return {"dict": [[packed(key), packed(v)] for key, v in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [packed(v) for v in value]}
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        flat = [_number(v) for v in value.ravel().tolist()]
        return {"array": flat, "shape": list(value.shape), "kind": value.dtype.kind}
    if isinstance(value, np.ndarray):
        return {"texts": value.tolist()}
    value = value.item() if isinstance(value, np.generic) else value
    return {"float": None} if isinstance(value, float) and not np.isfinite(value) else value


def unpacked(value):
    """What `packed` made, back."""
    if not isinstance(value, dict):
        return value
    if "dict" in value:
        return {unpacked(key): unpacked(v) for key, v in value["dict"]}
    if "array" in value:
        kind = {"f": np.float64, "i": np.int64, "u": np.int64, "b": bool}[value["kind"]]
        return np.array([np.nan if v is None else v for v in value["array"]], kind).reshape(
            value["shape"])
    if "texts" in value:
        return np.array(value["texts"])
    if "float" in value:
        return float("nan")
    return [unpacked(v) for v in value["list"]] if "list" in value else tuple(
        unpacked(v) for v in value["tuple"])


def _number(value):
    if not isinstance(value, float):
        return value
    return float(f"{value:.5g}") if np.isfinite(value) else None
