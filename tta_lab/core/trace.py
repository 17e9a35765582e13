"""Trace: what happened to every image and in every step, as columns. All diagnostics are functions
of a trace.

Two tables. *samples*: one row per image in stream order. *steps*: one row per call of the adapter.
Columns stay on the device while the stream runs and move to the host together; with ``spill`` they
move on to disk, and memory does not grow with the stream.
"""
from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .arguments import WrongKind, choice, path_of, whole
from .files import written
from .trace_chunks import TABLES, Chunks, of_json

SAMPLES = {  # column -> meaning
    "step": "index of the call",
    "id": "image id",
    "prediction": "class of the returned logits",
    "entropy": "of the returned logits, nats",
    "confidence": "largest probability",
    "max_logit": "largest logit",
    "energy": "ln sum exp of the logits",
    "loss": "loss in the step (NaN: not part of one)",
    "weight": "weight in the step",
    "kept": "learned from",
    "source_prediction": "class of the frozen source",
    "source_confidence": "its probability there",
    "source_class_confidence": "adapted probability at the source's class",
    "rise_source": "adapted minus source probability at the source's class",
    "label": "true class (scoring only); -1: not known",
    "known": "of a known class",
    "domain": "index into meta['domains']",
    "segment": "position in the list of shifts",
    "severity": "of the shift",
    "round": "round of the stream",
    "correct": "prediction is right (False for unknown images and for those without a label)",
}
STEPS = {
    "step": "index of the call",
    "n": "images",
    "lessons": "learning batches, each with a loss and a backward",
    "n_kept": "samples learned from (pixels in segmentation)",
    "skipped": "no update was made",
    "loss": "averaged losses plus penalties",
    "grad_norm": "L2 norm of the gradient of the tuned parameters",
    "distance": "L2 distance of the tuned parameters from the source",
    "marginal_entropy": "entropy of the mean prediction, nats",
    "forwards": "images through a network",
    "backwards": "images back through it",
    "seconds": "wall time of the call",
    "reset": "reset to the source before this step",
    "alarm": "index into collapse.ALARMS, 0: none",
    "alarm_probability": "of collapse",
    "action": "what the guard did after this step, index into guard.ACTIONS, 0: nothing",
    "answered_by": "whose logits were returned, index into guard.ANSWERS, 0: the method's",
    "failed": "answered by the source after an error",
    "round": "round of the stream",
    "domain": "index into meta['domains']; -1: several",
    "segment": "position in the list of shifts; -1: several",
}
MOVE_EVERY = 256


class Trace:
    """Columns of a run. ``trace["entropy"]`` is a numpy array with one value per image,
    ``trace.step("loss")`` one per step; ``trace.samples`` and ``trace.steps`` are pandas
    frames."""

    def __init__(self, meta: dict | None = None):
        self.meta = dict(meta or {})
        self._rows: dict[str, list[dict]] = {"samples": [], "steps": []}
        self._done: dict[str, dict[str, list[np.ndarray]]] = {"samples": {}, "steps": {}}
        self._chunks: Chunks | None = None  # older rows, on disk
        # rows that make a chunk (None: nothing is written), rows since the last move
        self._every: int | None = None
        self._pending = 0
        self._read: dict[tuple[str, str], np.ndarray] = {}

    @classmethod
    def from_columns(cls, samples: dict, steps: dict | None = None,
                     meta: dict | None = None) -> Trace:
        """A trace from arrays, for tests and for runs made elsewhere."""
        trace = cls(meta)
        for table, columns in (("samples", samples), ("steps", steps or {})):
            if not isinstance(columns, Mapping):
                raise WrongKind(f"the {table} must be name -> array, not {type(columns).__name__}")
            arrays = {k: np.asarray(v) for k, v in columns.items()}
            for name, array in arrays.items():
                if array.ndim != 1:
                    raise ValueError(f"the {table} column {name!r} must have one value a row, not "
                                     f"the shape {array.shape}")
            lengths = {k: len(v) for k, v in arrays.items()}
            if len(set(lengths.values())) > 1:
                raise ValueError(f"the {table} columns differ in length: {lengths}")
            if arrays:
                trace._done[table] = {k: [v] for k, v in arrays.items()}
        return trace

    def add(self, samples: dict, step: dict) -> None:
        """Append the rows of one step; values are tensors (on any device), arrays or numbers."""
        self._read.clear()
        if self._every is not None and self._in_memory("samples") + self._pending >= self._every:
            self._write()
        elif len(self._rows["steps"]) >= MOVE_EVERY:
            self._move()
        self._pending += len(samples["id"])
        self._rows["samples"].append(samples)
        self._rows["steps"].append(step)

    def annotate(self, **columns) -> None:
        """Add what only the runner knows to the rows of the step just made: label, known, domain,
        round."""
        if not self._rows["steps"]:
            raise ValueError("there is no fresh step to annotate: call annotate right after the "
                             "adapter, before reading the trace")
        rows = self._rows["samples"][-1]
        n = len(rows["id"])
        for name, value in columns.items():
            rows[name] = np.broadcast_to(np.asarray(value), (n,))
        for name in ("round", "domain", "segment"):
            if name in columns:
                values = np.unique(np.asarray(columns[name]))
                self._rows["steps"][-1][name] = values[0] if len(values) == 1 else -1

    def _move(self) -> None:
        """Move pending rows to the host, one transfer per column."""
        for table, rows in self._rows.items():
            if not rows:
                continue
            names = list(dict.fromkeys(k for r in rows for k in r))
            sizes = [1 if table == "steps" else len(r["id"]) for r in rows]
            before = self._in_memory(table)
            for name in names:
                column = _column([r.get(name) for r in rows], sizes)
                chunks = self._done[table].setdefault(name,
                                                      [np.full(before, np.nan)] if before else [])
                chunks.append(column)
            for name, chunks in self._done[table].items():
                if name not in names:
                    chunks.append(np.full(sum(sizes), np.nan))
            rows.clear()
        self._pending = 0

    def _in_memory(self, table: str) -> int:
        return sum(map(len, next(iter(self._done[table].values()), [])))

    def _length(self, table: str) -> int:
        self._move()
        return self._in_memory(table) + (self._chunks.rows(table) if self._chunks else 0)

    def names(self, table: str = "samples") -> list[str]:
        """Names of the columns of a table, "samples" or "steps". Raises ValueError for others."""
        choice("table", table, TABLES)
        self._move()
        names = dict.fromkeys(
            [*(self._chunks.names(table) if self._chunks else ()), *self._done[table]])
        if table == "samples" and {"label", "known", "prediction"} <= names.keys():
            names["correct"] = None
        return list(names)

    def _whole(self, table: str, name: str) -> np.ndarray:
        """One column in full; from disk it is read on first use, and again after new rows."""
        self._move()
        if table == "samples" and name == "correct" and {"label", "known", "prediction"} <= set(
                self.names(table)):
            return (self["prediction"] == self["label"]) & self["known"].astype(bool)
        if (table, name) not in self._read:
            parts = self._chunks.column(table, name) if self._chunks else []
            rows = self._in_memory(table)
            if rows or not parts:
                parts += self._done[table].get(name, [np.full(rows, np.nan)])
            whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
            if self._chunks:
                self._read[table, name] = whole
            else:
                self._done[table][name] = [whole]
            return whole
        return self._read[table, name]

    def columns(self, table: str = "samples") -> dict[str, np.ndarray]:
        """Name -> whole column of a table, "samples" or "steps". Raises ValueError for others."""
        return {name: self._whole(table, name) for name in self.names(table)}

    def head(self, n: int) -> Trace:
        """The trace of the first ``n`` images, with the steps that they came in; the trace itself
        where it has no more. Its meta says that it is not complete. Raises ValueError for a number
        that is not whole or negative."""
        n = whole("n", n, 0)
        if len(self) <= n:
            return self
        samples = {k: v[:n] for k, v in self.columns().items()}
        steps = self.columns("steps")
        begun = steps["step"] <= samples["step"][-1] if n else slice(0)
        return Trace.from_columns(samples, {k: v[begun] for k, v in steps.items()},
                                  {**self.meta, "complete": False})

    # --- older rows on disk ---

    def spill(self, folder: str | Path, every: int | None = None) -> Trace:
        """Write older rows to ``folder`` as Parquet chunks of about ``every`` images (100,000
        unless told before) while the stream runs; at most that many and one batch stay in memory.
        Reading a column puts it together from disk and memory.

        ``flush`` writes the rest; ``Trace.load(folder)`` reads what is there at any time, also
        after a crash. Rows that were written elsewhere before (a loaded trace or state) are taken
        along. Returns the trace itself. Raises ValueError for a folder that holds another trace or
        chunks that this one has not, ImportError without pyarrow.
        """
        every = whole("every", every, 1) if every is not None else self._every or 100_000
        folder = path_of("folder", folder)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file; name a folder for the chunks of a trace")
        if self._chunks and self._chunks.folder.resolve() == Path(folder).resolve():
            later = self._chunks.path("samples", len(self._chunks.known)), self._chunks.path(
                "steps", len(self._chunks.known))
            if all(p.is_file() for p in later):
                raise ValueError(f"{folder} holds chunks that were written after this trace was "
                                 f"taken: choose another folder (what this trace "
                                 f"knows is taken along), or delete the chunks from number "
                                 f"{len(self._chunks.known)} on")
        else:
            if (Path(folder) / "meta.json").exists() or Chunks(folder).known:
                raise ValueError(f"{folder} holds a trace already: choose an empty folder, or "
                                 f"delete it")
            self._chunks = self._chunks.copy_to(folder) if self._chunks else Chunks(folder)
        self._every = every
        self._chunks.write_meta(self.meta)
        return self

    def flush(self) -> None:
        """Write all rows and what is now in ``meta`` to the folder of ``spill``; without one,
        nothing happens."""
        if self._chunks and self._every is not None:
            self._write()
            self._chunks.write_meta(self.meta)

    def _write(self) -> None:
        self._move()
        if self._chunks and any(self._in_memory(t) for t in TABLES):
            self._chunks.append(
                {t: {k: np.concatenate(v) for k, v in self._done[t].items()} for t in TABLES},
                self.meta)
            self._done = {t: {} for t in TABLES}

    def __len__(self) -> int:
        return self._length("samples")

    def __contains__(self, name: str) -> bool:
        return name in self.names("samples")

    def __getitem__(self, name: str) -> np.ndarray:
        names = self.names("samples")
        if name not in names:
            raise KeyError(_missing(name, names))
        return self._whole("samples", name)

    def step(self, name: str) -> np.ndarray:
        """One column of the steps table."""
        names = self.names("steps")
        if name not in names:
            raise KeyError(f"no step column {name!r}; there are: {', '.join(names)}")
        return self._whole("steps", name)

    @property
    def samples(self):
        """The samples table as a pandas frame."""
        return self._frame("samples")

    @property
    def steps(self):
        """The steps table as a pandas frame."""
        return self._frame("steps")

    def _frame(self, table):
        try:
            import pandas
        except ImportError as why:
            raise ImportError("frames need pandas: pip install 'tta-lab[notebooks]'; "
                              "trace['entropy'] works without") from why
        return pandas.DataFrame(self.columns(table))

    def __repr__(self) -> str:
        return (f"Trace({len(self)} images, {self._length('steps')} steps, columns: "
                f"{', '.join(self.names('samples'))})")

    def state_dict(self) -> dict:
        """Columns as tensors, for the adapter's state dict. Of rows on disk it holds the folder
        and the number of chunks alone: its size stays bounded too, and the folder must be there
        when it is loaded."""
        self._move()
        state: dict = {
            t: {k: torch.from_numpy(np.concatenate(v)) for k, v in self._done[t].items()}
            for t in TABLES
        }
        if self._chunks:
            state["chunks"] = {
                "folder": str(self._chunks.folder.resolve()), "count": len(self._chunks.known)
            }
        return state

    def load_state_dict(self, state: dict) -> None:
        """Take over the rows of ``state_dict``. New rows stay in memory until ``spill`` is called;
        chunks are only read."""
        self._rows = {t: [] for t in TABLES}
        self._pending = 0
        self._every = None
        self._done = {t: {k: [v.cpu().numpy()] for k, v in state[t].items()} for t in TABLES}
        self._chunks = Chunks(**state["chunks"]) if "chunks" in state else None
        self._read.clear()

    def save(self, path: str | Path) -> Path:
        """Write the trace to one ``.npz`` file; an interrupted write leaves no half file."""
        path = path_of("path", path)
        arrays: dict[str, Any] = {
            f"{t}/{k}": v for t in TABLES for k, v in self.columns(t).items() if k != "correct"
        }
        if path.is_dir():
            raise ValueError(f"{path} is a folder; name a file, such as {path / 'trace.npz'}")
        with written(path) as part, open(part, "wb") as f:
            np.savez_compressed(f, meta=np.array(json.dumps(self.meta)), **arrays)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read a trace written by ``save``, or the folder of a ``spill``, finished or not; columns
        of a folder are read when they are used.

        Raises FileNotFoundError where nothing is, and ValueError, which names the file, for one
        that is damaged, no trace, or holds code: nothing in it is run.
        """
        path = path_of("path", path)
        if path.is_dir():
            if not (path / "meta.json").is_file():
                raise ValueError(f"{path} is not the folder of a trace: it has no meta.json")
            trace = cls()
            trace._chunks = Chunks(path)
            trace.meta = trace._chunks.read_meta()
            return trace
        if not path.exists():
            raise FileNotFoundError(f"there is no trace {path}")
        arrays = _read_arrays(path)
        if "meta" not in arrays:
            raise ValueError(f"{path} is not a trace file (it holds: {', '.join(arrays)})")
        samples, steps = ({
            k.split("/", 1)[1]: v for k, v in arrays.items() if k.startswith(f"{t}/")
        } for t in TABLES)
        try:
            return cls.from_columns(samples, steps, of_json(str(arrays["meta"])))
        except ValueError as why:
            raise ValueError(f"{path} is damaged: {why}; delete it, or take it from where it was "
                             f"written") from None


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file; ValueError, which names it, for anything else. Numpy's own
    words are not passed on where they advise to load code."""
    why = ""
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return {"(one array)": found}
        with found:
            return {name: found[name] for name in found.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error,
            NotImplementedError, RuntimeError, MemoryError) as error:
        why = str(error)
    if "pickle" in why.lower() or "object array" in why.lower():
        raise ValueError(f"{path} holds Python objects (a pickle), which is code that runs when "
                         f"it is read, or is no .npz file at all; it was not "
                         "read. A trace holds numbers and texts alone: delete the file, or ask "
                         "for one that Trace.save wrote")
    raise ValueError(f"{path} is damaged or not a trace ({why or 'it is empty'}); delete it, or "
                     f"take it from where it was written")


def _column(values: list, sizes: list[int]) -> np.ndarray:
    """One column from per-step values, missing ones NaN; tensors of one kind move in one
    transfer."""
    if all(isinstance(v, torch.Tensor) for v in values):
        return torch.cat([v.detach().reshape(-1) for v in values]).cpu().numpy()
    out = []
    for v, n in zip(values, sizes, strict=True):
        v = (np.full(n, np.nan) if v is None else
             v.detach().cpu().numpy() if isinstance(v, torch.Tensor) else np.asarray(v))
        out.append(np.broadcast_to(v.reshape(-1), (n,)))
    return np.concatenate(out)


def _missing(name: str, columns) -> str:
    if name in ("source_prediction", "source_confidence", "source_class_confidence", "rise_source"):
        return (f"the trace has no column {name!r}: record the frozen source with Adapter(..., "
                f"record='source')")
    if name in ("label", "known", "domain", "segment", "severity", "round", "correct"):
        return (f"the trace has no column {name!r}: it is written by run(adapter, stream), labels "
                f"never reach the adapter")
    return f"the trace has no column {name!r}; it has: {', '.join(columns)}"
