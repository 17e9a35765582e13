"""A trace on disk: a folder of numbered Parquet chunks that grows while a stream runs.

``meta.json``, ``samples/00000000.parquet``, ``steps/00000000.parquet``, ... A file gets its name
when it is complete, that of the steps last: a chunk counts when both are there, and all before it.
So a killed run loses the rows that were in memory and nothing else.
"""
from __future__ import annotations

import json
import os
import shutil
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from .files import write_text, written

TABLES = ("samples", "steps")


class Chunks:
    """The chunks of one folder: columns by name, rows appended in order. ``count`` looks at the
    first few only."""

    def __init__(self, folder: str | Path, count: int | None = None):
        self.folder = Path(folder)
        # for each chunk and table: rows, names
        self.known: list[dict[str, tuple[int, list[str]]]] = []
        while (count is None or len(self.known) < count) and all(
                self.path(t, len(self.known)).is_file() for t in TABLES):
            found = {}
            for table in TABLES:
                with _opened(self.path(table, len(self.known))) as f:
                    found[table] = f.metadata.num_rows, f.schema_arrow.names
            self.known.append(found)
        _parquet()  # said at once where it is missing
        later = [
            p for t in TABLES for p in (self.folder / t).glob("[0-9]*.parquet")
            if p.stem.isdigit() and int(p.stem) > len(self.known)
        ]
        if count is None and later:
            missing = [
                self.path(t, len(self.known)) for t in TABLES
                if not self.path(t, len(self.known)).is_file()
            ]
            raise ValueError(f"{' and '.join(map(str, missing))} is missing, though later chunks "
                             f"of the trace are there ({min(later)}): put "
                             "it back, or delete the later ones to read what comes before")
        if count is not None and len(self.known) < count:
            raise ValueError(f"{self.folder} holds {len(self.known)} chunks of a trace, {count} "
                             f"are needed; put the folder back where it was")

    def path(self, table: str, number: int) -> Path:
        return self.folder / table / f"{number:08d}.parquet"

    def rows(self, table: str) -> int:
        return sum(chunk[table][0] for chunk in self.known)

    def names(self, table: str) -> list[str]:
        return list(dict.fromkeys(name for chunk in self.known for name in chunk[table][1]))

    def column(self, table: str, name: str) -> list[np.ndarray]:
        """One array for each chunk, NaN where a chunk lacks the column; nothing else is read."""
        found = []
        for number, chunk in enumerate(self.known):
            rows, names = chunk[table]
            if name in names:
                with _opened(self.path(table, number)) as f:
                    column = f.read(columns=[name]).column(0)
                values = column.to_numpy()
                found.append(np.array(values.tolist(), str) if values.dtype == object else values)
            else:
                found.append(np.full(rows, np.nan))
        return found

    def append(self, tables: dict[str, dict[str, np.ndarray]], meta: dict) -> None:
        """Write one chunk; on an error nothing has been added."""
        import pyarrow
        parquet = _parquet()
        number = len(self.known)
        known = {}
        with ExitStack() as stack:
            # the last to be named: steps
            parts = {
                table: stack.enter_context(written(self.path(table, number)))
                for table in reversed(TABLES)
            }
            for table, part in parts.items():
                columns = {
                    k: pyarrow.array(v.tolist() if v.dtype.kind == "U" else v)
                    for k, v in tables[table].items()
                }
                known[table] = max(map(len, columns.values()), default=0), list(columns)
                parquet.write_table(pyarrow.table(columns), part, compression="zstd")
        self.known.append(known)
        self.write_meta(meta)

    def write_meta(self, meta: dict) -> None:
        write_text(self.folder / "meta.json", json.dumps(meta))

    def read_meta(self) -> dict:
        path = self.folder / "meta.json"
        try:
            return of_json(path.read_text(encoding="utf-8"))
        except ValueError as why:
            raise ValueError(f"{path} is damaged ({why}); the chunks beside it are whole: write "
                             f"{{}} into it to read them without the names of "
                             "domains and settings, or delete the folder") from None

    def copy_to(self, folder: str | Path) -> Chunks:
        """The same chunks in another folder, as second names of the same files where the disk
        allows it."""
        other = Chunks(folder, 0)
        for number, chunk in enumerate(self.known):
            for table in TABLES:
                target = other.path(table, number)
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(self.path(table, number), target)
                except OSError:
                    with written(target) as part:
                        shutil.copyfile(self.path(table, number), part)
            other.known.append(chunk)
        return other


def of_json(text: str) -> dict:
    """What stands in ``meta``; ValueError for what is none."""
    try:
        values = json.loads(text)
    except ValueError as why:
        raise ValueError(f"its meta is no JSON: {why}") from why
    if not isinstance(values, dict):
        raise ValueError(f"its meta is a {type(values).__name__}, not a dict")
    return values


@contextmanager
def _opened(path: Path):
    """A chunk; ValueError, which names the file, for one that is damaged."""
    parquet = _parquet()
    try:
        with parquet.ParquetFile(path) as f:
            yield f
    except (ValueError, OSError) as why:  # pyarrow's own errors are of these kinds
        raise ValueError(f"{path} is damaged ({why}); put a whole copy in its place, or delete it "
                         f"and the chunks after it to read those "
                         "before") from why


def _parquet():
    try:
        import pyarrow.parquet
    except ImportError as why:
        raise ImportError("a trace in chunks on disk needs pyarrow: pip install "
                          "'tta-lab[notebooks]'; "
                          "Trace.save writes one .npz file without it") from why
    return pyarrow.parquet
