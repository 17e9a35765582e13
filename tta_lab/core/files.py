"""Writing files whole or not at all."""
from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written(path: str | Path) -> Iterator[Path]:
    """A path to write to; what stands there when the block ends takes the place of ``path`` at
    once, and after an error nothing does.

    The file is written beside its place (same folder, other name), so two processes may write the
    same file: the last one is seen whole. Folders are made. Raises OSError as the system does (no
    space, no right).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:80]}.",
                                    suffix=".part" + path.suffix)
    os.close(handle)
    try:
        yield Path(part)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(part, 0o666 & ~mask)  # mkstemp's files are for the owner alone
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str) -> Path:
    """Write a text (UTF-8) whole or not at all, and return its path."""
    with written(path) as part:
        part.write_text(text, encoding="utf-8")
    return Path(path)
