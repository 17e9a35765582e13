"""The data folder that travels with the package; every file is checked against its recorded sum."""
from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from .contents import note


class DataError(RuntimeError):
    """A data file is missing, damaged or of the wrong form; the message names the file and the
    remedy."""


def data_root(root: str | Path | None = None) -> Path:
    """The folder ``data/``: the argument, else $TTA_LAB_DATA, else beside the package."""
    if root is not None:
        return Path(root)
    if os.environ.get("TTA_LAB_DATA"):
        return Path(os.environ["TTA_LAB_DATA"])
    here = Path(__file__).resolve().parents[1]
    for place in (here.parent / "data", here / "_data"):
        if (place / "index.json").is_file():
            return place
    raise DataError("the folder 'data' with its index.json was not found beside the package; "
                    "set the environment variable TTA_LAB_DATA to the data folder of a checkout")


def checked_bytes(relative: str, root: str | Path | None = None) -> bytes:
    """The bytes of one embedded file, after comparing its sha256 with ``data/index.json``.

    Raises DataError when the file is missing, unknown or damaged, and says how to get it back.
    """
    folder = data_root(root)
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        if not isinstance(index, dict) or not all({"sha256", "rebuild"} <= facts.keys()
                                                  for facts in index.values()):
            raise ValueError("it is no list of files with their sums")
    except (OSError, ValueError, AttributeError) as why:
        raise DataError(f"{folder / 'index.json'} cannot be read ({why}); restore it with: "
                        "git checkout -- data/index.json") from why
    if relative not in index:
        raise DataError(f"data/index.json has no entry for {relative!r}; it knows: "
                        f"{', '.join(sorted(index))}")
    remedy = (f"restore it with: git checkout -- data/{relative}   or rebuild it with: "
              f"{index[relative]['rebuild']}")
    note(folder / "index.json", folder / relative)
    try:
        content = (folder / relative).read_bytes()
    except OSError as why:
        raise DataError(f"the data file {folder / relative} is missing; {remedy}") from why
    found = hashlib.sha256(content).hexdigest()
    if found != index[relative]["sha256"]:
        raise DataError(f"the data file {folder / relative} is damaged ({len(content)} bytes, "
                        f"sha256 {found[:12]}..., "
                        f"expected {index[relative]['sha256'][:12]}...); {remedy}")
    return content


def refuse_html(head: bytes, name: str | Path) -> None:
    """Raise DataError when a file starts like a web page, which is what a failed download leaves
    behind."""
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        raise DataError(f"{name} is a web page (HTML), not data: the download gave an error or a "
                        f"login page; download it again")
