"""A trace on disk: a folder of numbered Parquet chunks that grows while a stream runs.

``meta.json``, ``samples/00000000.parquet``, ``steps/00000000.parquet``, ... A file gets its name when it is complete, that of the steps last:
a chunk counts when both are there, and all before it. So a killed run loses the rows that were in memory and nothing else.
"""
from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np

TABLES = ("samples", "steps")


class Chunks:
    """The chunks of one folder: columns by name, rows appended in order. ``count`` looks at the first few only."""

    def __init__(self, folder: str | Path, count: int | None = None):
        self.folder = Path(folder)
        self.known: list[dict[str, tuple[int, list[str]]]] = []  # for each chunk and table: rows, names
        parquet = _parquet()
        while (count is None or len(self.known) < count) and all(self.path(t, len(self.known)).is_file() for t in TABLES):
            found = {}
            for table in TABLES:
                with parquet.ParquetFile(self.path(table, len(self.known))) as f:
                    found[table] = f.metadata.num_rows, f.schema_arrow.names
            self.known.append(found)
        if count is not None and len(self.known) < count:
            raise ValueError(f"{self.folder} holds {len(self.known)} chunks of a trace, {count} are needed; put the folder back where it was")

    def path(self, table: str, number: int) -> Path:
        return self.folder / table / f"{number:08d}.parquet"

    def rows(self, table: str) -> int:
        return sum(chunk[table][0] for chunk in self.known)

    def names(self, table: str) -> list[str]:
        return list(dict.fromkeys(name for chunk in self.known for name in chunk[table][1]))

    def column(self, table: str, name: str) -> list[np.ndarray]:
        """One array for each chunk, NaN where a chunk lacks the column; nothing else is read."""
        parquet, found = _parquet(), []
        for number, chunk in enumerate(self.known):
            rows, names = chunk[table]
            if name in names:
                with parquet.ParquetFile(self.path(table, number)) as f:
                    column = f.read(columns=[name]).column(0)
                values = column.to_numpy()
                found.append(np.array(values.tolist(), str) if values.dtype == object else values)
            else:
                found.append(np.full(rows, np.nan))
        return found

    def append(self, tables: dict[str, dict[str, np.ndarray]], meta: dict) -> None:
        """Write one chunk; on an error nothing has been added."""
        import pyarrow
        parquet, number, known, parts = _parquet(), len(self.known), {}, []
        for table in TABLES:
            columns = {k: pyarrow.array(v.tolist() if v.dtype.kind == "U" else v) for k, v in tables[table].items()}
            known[table] = max(map(len, columns.values()), default=0), list(columns)
            place = self.path(table, number)
            place.parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(pyarrow.table(columns), place.with_suffix(".part"), compression="zstd")
            parts.append(place)
        for place in parts:
            os.replace(place.with_suffix(".part"), place)
        self.known.append(known)
        self.write_meta(meta)

    def write_meta(self, meta: dict) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / "meta.json.part"
        part.write_text(json.dumps(meta))
        os.replace(part, self.folder / "meta.json")

    def read_meta(self) -> dict:
        return json.loads((self.folder / "meta.json").read_text())

    def copy_to(self, folder: str | Path) -> Chunks:
        """The same chunks in another folder, as second names of the same files where the disk allows it."""
        other = Chunks(folder, 0)
        for number, chunk in enumerate(self.known):
            for table in TABLES:
                target = other.path(table, number)
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(self.path(table, number), target)
                except OSError:
                    shutil.copyfile(self.path(table, number), target)
            other.known.append(chunk)
        return other


def _parquet():
    try:
        import pyarrow.parquet
    except ImportError as why:
        raise ImportError("a trace in chunks on disk needs pyarrow: pip install 'tta-lab[notebooks]'; "
                          "Trace.save writes one .npz file without it") from why
    return pyarrow.parquet
