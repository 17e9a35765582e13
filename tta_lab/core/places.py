"""Paths within texts such as ``folder:photos?size=64[0,1]``: a path means what it says, and what
is written is read back.

A path that is there as it stands is taken as it stands, whatever it holds (``[ ] ? % & =``); else
it is read percent-decoded. After ``file://`` it is always read percent-decoded, as file managers
write it.
"""
from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, unquote, unquote_plus, unquote_to_bytes

FILE = "file://"
SPECIAL = re.compile(r"[%?#\[\]\x00-\x1f\x7f\ud800-\udfff]|\s\Z")
SUBSET = re.compile(r"(.*)\[(\d+(?:,\d+)*)\]", re.DOTALL)


def home(path: str | Path) -> Path:
    """The path, with ``~`` as the home folder unless something of that very name is there."""
    if os.path.lexists(path):
        return Path(path)
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such user
        return Path(path)


def there(path: str | Path) -> bool:
    """Whether a file or a folder is there; False also for what cannot be a path."""
    return bool(str(path)) and os.path.exists(home(path))


def absolute(path: str | Path) -> str:
    """The same place whatever the working directory is; links stay."""
    return os.path.abspath(home(path))


def quoted(path: str | Path) -> str:
    """The path with ``% ? # [ ]``, line ends and bytes that are no text as %XX; everything else
    stays readable."""
    return SPECIAL.sub(lambda found: "".join(f"%{byte:02X}" for byte in os.fsencode(found[0])),
                       os.fspath(path))


def unquoted(text: str) -> str:
    """The path that ``quoted`` or a file manager's ``file://`` wrote."""
    if text.startswith(FILE):
        text = text.removeprefix(FILE).removeprefix("localhost")
    return os.fsdecode(unquote_to_bytes(os.fsencode(text)))


def split(text: str, exists: Callable[[str], bool] = there,
          brackets: bool = True) -> tuple[str, str, list[str]]:
    """(path, options, subsets) of what stands behind ``kind:``; the longest path that is there
    wins over ``?`` and ``[``."""
    subsets: list[str]
    subset_in = SUBSET.fullmatch if brackets else lambda text: None
    for read in () if text.startswith(FILE) else (str, unquoted):
        rest, subsets = text, []
        while not exists(read(rest)):
            found = subset_in(rest)
            if found is None:
                break
            rest, subsets = found[1], [found[2], *subsets]
        else:
            return read(rest), "", subsets
        for at in reversed([found.start() for found in re.finditer(r"\?", rest)]):
            if exists(read(rest[:at])):
                return read(rest[:at]), rest[at + 1:], subsets
    rest, subsets = text, []
    while found := subset_in(rest):
        rest, subsets = found[1], [found[2], *subsets]
    path, _, options = rest.partition("?")
    return unquoted(path), options, subsets


def joined(path: str | Path, options: str = "", exists: Callable[[str], bool] = there) -> str:
    """The text that ``split`` takes apart into exactly this path and these options."""
    text = quoted(path) + (f"?{options}" if options else "")
    return (text if split(text, exists) == (str(path), options, []) or not os.path.isabs(path) else
            FILE + text)


def with_subset(text: str, subset: str) -> str:
    """``text[subset]`` for ``kind:path?options``, still read as a subset where a path of that very
    name is there."""
    kind, colon, rest = text.partition(":")
    if colon and not rest.startswith(FILE) and os.path.isabs(rest) and there(f"{rest}[{subset}]"):
        return f"{kind}:{FILE}{rest}[{subset}]"
    return f"{text}[{subset}]"


def options(text: str, known=()) -> dict[str, str]:
    """The options of ``a=1&b=2``, not yet decoded; a piece without ``=`` that is no option belongs
    to the value before it."""
    pieces: list[str] = []
    for piece in text.split("&"):
        if "=" not in piece and pieces and piece not in known:
            pieces[-1] += f"&{piece}"
        elif piece:
            pieces.append(piece)
    return dict((key, value) for key, _, value in (piece.partition("=") for piece in pieces))


def value(text: str, folder: str | Path | None = None) -> str:
    """An option as it stands where a file of that name is there (below ``folder`` or from here),
    else decoded (+ is a space)."""
    readings = text, unquote(text,
                             errors="surrogateescape"), unquote_plus(text, errors="surrogateescape")
    found = (one for one in readings
             if folder is not None and one and (there(Path(folder) / one) or there(one)))
    return next(found, readings[-1])


def query(given: dict[str, str]) -> str:
    """Options as text, so that ``options`` and ``value`` give them back."""
    return "&".join(f"{key}={quote(text, safe='/:,~', errors='surrogateescape')}"
                    for key, text in given.items())
