"""What is in a file, and whether it has changed: digests of content, kept as long as size, times
and inode stay."""
from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path

from ..core.files import write_text

WORKERS = min(8, os.cpu_count() or 1)
# nanoseconds: a file changed so shortly before may change again without a new time
FRESH = 2 * 10**9
LARGE = 64 * 2**20          # bytes read at one time from which the manifest is written down
_KNOWN: dict[str, dict[str, list]] = {}     # folder -> file -> [signature, digest]
_LOCK = threading.Lock()
_NOTED: ContextVar[dict | None] = ContextVar("noted", default=None)


def signature(path: str | Path) -> tuple[int, int, int, int] | None:
    """Size, times of change of the content and of the entry (ns) and inode; None where nothing is
    there.

    The time of the entry (ctime) cannot be set by a program, so content that is changed in place
    is noticed even where its time is put back.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def digests(root: str | Path, names: Sequence[str]) -> list[str]:
    """sha256 of the content of each ``root / name``, as hex text; read again only where
    `signature` differs from the manifest.

    The manifest of a folder lies in memory and, where more than 64 MiB were read, in the cache
    folder of the user ($XDG_CACHE_HOME or ~/.cache, tta-lab); a damaged or unwritable one is made
    anew. Raises OSError for a file that cannot be read.
    """
    root = os.path.abspath(root)
    with _LOCK:
        known = _KNOWN.setdefault(root, {})
        if not known:
            known.update(_stored(root))
    changed = [
        name for name in names
        if name not in known or known[name][0] != _as_list(signature(os.path.join(root, name)))
    ]
    if not changed:
        return [known[name][1] for name in names]
    with ThreadPoolExecutor(WORKERS) as pool:
        found = dict(
            zip(changed, pool.map(lambda name: _read(os.path.join(root, name)), changed),
                strict=True))
    now = time.time_ns()
    settled = {
        name: [list(facts), digest] for name, (facts, digest) in found.items()
        if abs(now - facts[2]) > FRESH
    }
    with _LOCK:
        known.update(settled)
        if sum(facts[0] for facts, _ in settled.values()) > LARGE:
            with contextlib.suppress(OSError):
                write_text(_manifest(root), json.dumps({"folder": root, "files": known}))
    return [found[name][1] if name in found else known[name][1] for name in names]


def _as_list(facts):
    return None if facts is None else list(facts)


def _read(path: str) -> tuple[tuple, str]:
    with open(path, "rb") as file:
        before = os.fstat(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return (before.st_size, before.st_mtime_ns, before.st_ctime_ns, before.st_ino), digest


def _manifest(root: str) -> Path:
    place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (place / "tta-lab" / "manifests" /
            f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:24]}.json")


def _stored(root: str) -> dict:
    try:
        found = json.loads(_manifest(root).read_text(encoding="utf-8"))
        files = found["files"].values()
        good = (found["folder"] == root
                and all(len(facts) == 4 and isinstance(digest, str) for facts, digest in files))
        return found["files"] if good else {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError):
        return {}


# --- what a thing was made from -----------------------------------------------------------------

def note(*paths: str | Path) -> None:
    """Files and folders that what is being made depends on; heard by ``noting``."""
    found = _NOTED.get()
    if found is not None:
        found.update((str(path), signature(path)) for path in paths)


@contextlib.contextmanager
def noting():
    """A dict that holds path -> signature of everything noted within the block."""
    outer, found = _NOTED.get(), {}
    token = _NOTED.set(found)
    try:
        yield found
    finally:
        _NOTED.reset(token)
        if outer is not None:
            outer.update(found)


def unchanged(noted: dict) -> bool:
    """Whether all that was noted is as it was."""
    return all(signature(path) == facts for path, facts in noted.items())


def hashed(*parts: Iterable) -> str:
    """sha256 over texts and bytes, each with its length, as hex text."""
    digest = hashlib.sha256()
    for part in parts:
        part = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()
