"""Runs that are kept: under a name and a number in a session, and in a folder beyond it.

In a folder a run is one file ``NAME.run.json`` (choice, numbers of the table, versions) that names
files of ``arrays/``: its traces and its probabilities as float16, packed so that a short run takes
two thirds of what `Trace.save` needs. Those are named by what they hold, so that runs share them,
damage is seen, and what a crash leaves behind belongs to no run. Nothing is pickled.
"""
from __future__ import annotations

import csv
import datetime
import hashlib
import io
import json
import platform
import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from ..core.arguments import path_of, shown
from ..core.files import write_text, written
from ..core.trace import Trace
from ..core.trace_chunks import TABLES
from .experiment import Experiment

FORMAT = "tta-lab run"
VERSION = 1          # of the files; a newer one is refused
ENDING = ".run.json"
ARRAYS = "arrays"
RESERVED = ("source", "bn-1", "this run")  # names of curves beside those of runs
LONGEST = 80         # letters of a name
OWN = "this run"     # its name among the probabilities
KINDS = {"name": str, "made": str, "versions": dict, "facts": dict, "trace": str,
         "references": dict, "probabilities": dict}


@dataclass
class KeptRun:
    """One run: ``name``, ``choice`` (None where it was read from a file and its model or images
    have no name; ``missing`` says why), ``trace``, ``references`` ("source", "BN-1": as long as the
    run, or longer), ``probabilities`` ("this run", "source", "BN-1" -> (N, K); {} where not kept),
    ``facts``, the plain values of its row in the table, and ``stored``: where it was read from,
    with which versions and when it was made, in words; "" for a run of this session."""

    name: str
    choice: Experiment | None
    trace: Trace
    references: dict[str, Trace] = field(default_factory=dict)
    probabilities: dict[str, np.ndarray] = field(default_factory=dict)
    facts: dict = field(default_factory=dict)
    stored: str = ""
    missing: str = ""
    choice_text: str = ""  # as read from a file, where it cannot be made here
    made: str = ""         # when, UTC; `KeptRuns.add` sets it

    @property
    def why_no_images(self) -> str:
        """Why the images of this run cannot be shown, or ""."""
        return "" if self.choice is not None else (
            f"The images of the run {self.name!r} cannot be shown: {self.missing or 'unknown'}")


class NotAllLoaded(ValueError):
    """Some runs of a folder are damaged: the message names them, ``loaded`` holds the numbers of
    those that are not."""

    def __init__(self, message: str, loaded: list[int]):
        super().__init__(message)
        self.loaded = loaded


class KeptRuns(Mapping):
    """Number -> `KeptRun`, in the order in which they came; numbers are never used again."""

    def __init__(self):
        self._runs: dict[int, KeptRun] = {}
        self._next = 1
        self._files: dict[int, str] = {}  # of runs that were read or saved: what identifies them

    def __getitem__(self, number) -> KeptRun:
        if number not in self._runs:
            raise KeyError(f"there is no run {number}; there are: "
                           f"{', '.join(map(str, self._runs)) or 'none'}")
        return self._runs[number]

    def __iter__(self) -> Iterator[int]:
        return iter(self._runs)

    def __len__(self) -> int:
        return len(self._runs)

    def add(self, run: KeptRun) -> int:
        """Keep a run and return its number; a name that another run has gets a suffix.
        Raises ValueError for what is no run."""
        if not isinstance(run, KeptRun):
            raise ValueError(f"only a KeptRun can be kept, not {shown(run)}")
        run.name = self._free(checked_name(run.name))
        run.made = run.made or f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC"
        number, self._next = self._next, self._next + 1
        self._runs[number] = run
        return number

    def _free(self, name: str) -> str:
        taken = {run.name for run in self._runs.values()}
        found, i = name, 1
        while found in taken:
            i += 1
            found = f"{name} ({i})"
        return found

    def rename(self, number: int, name: str) -> None:
        """Call a run otherwise. Raises ValueError for a name that is empty, too long or taken, and
        for a number that no run has."""
        run = self[self._numbers([number])[0]]
        name = checked_name(name)
        other = [n for n, r in self._runs.items() if r.name == name and n != number]
        if other:
            raise ValueError(f"run {other[0]} is called {name!r} already; choose another name")
        run.name = name

    def delete(self, numbers: Iterable[int]) -> None:
        """Forget runs; files that they were saved to stay. Raises ValueError for a number that no
        run has, and then none is forgotten."""
        for number in self._numbers(numbers):
            del self._runs[number]
            self._files.pop(number, None)

    def _numbers(self, numbers: Iterable[int] | None) -> list[int]:
        found = list(self._runs if numbers is None else dict.fromkeys(numbers))
        wrong = [n for n in found if n not in self._runs]
        if wrong:
            raise ValueError(f"there is no run {shown(wrong[0])}; there are: "
                             f"{', '.join(map(str, self._runs)) or 'none'}")
        return found

    def hand_over(self, number: int, choice: Experiment) -> None:
        """Give a run that was read from a file the choice that it could not hold, so that its
        images can be shown. Raises ValueError where its stream is another one."""
        run = self[self._numbers([number])[0]]
        there, own = choice.stream.hash, run.trace.meta.get("stream", {}).get("hash")
        if there != own:
            raise ValueError(f"this choice has another stream ({there}) than the run {run.name!r} "
                             f"({own}); hand over the images and settings that it was made with")
        run.choice, run.missing = choice, ""

    def rows(self) -> list[dict]:
        """One dict for each run: ``run`` (its number), ``name`` and its facts."""
        return [{"run": number, "name": run.name, **run.facts}
                for number, run in self._runs.items()]

    def frame(self):
        """The rows as a pandas frame, indexed by ``run``."""
        import pandas

        return pandas.DataFrame(self.rows(), columns=["run", "name", *self._columns()]
                                ).set_index("run")

    def _columns(self) -> list[str]:
        return list(dict.fromkeys(k for run in self._runs.values() for k in run.facts))

    def write_csv(self, path: str | Path, numbers: Iterable[int] | None = None) -> Path:
        """Write the rows (of ``numbers``, by default all) to a CSV file and return its path."""
        path, numbers = path_of("path", path), self._numbers(numbers)
        if path.is_dir():
            raise ValueError(f"{path} is a folder; name a file, such as {path / 'runs.csv'}")
        with written(path) as part, open(part, "w", newline="", encoding="utf-8") as f:
            writer = csv.DictWriter(f, ["run", "name", *self._columns()])
            writer.writeheader()
            writer.writerows(line for line in self.rows() if line["run"] in numbers)
        return path

    # --- files

    def save(self, folder: str | Path, numbers: Iterable[int] | None = None) -> list[Path]:
        """Write runs (``numbers``, by default all) to a folder, beside those that it holds; returns
        a path for each. What stands there already is not written again, and a name that another
        run there has gets a suffix in the file's name. Raises ValueError for a path that is a file,
        OSError as the system does."""
        folder = path_of("folder", folder)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file; name a folder for the runs")
        paths = []
        for number in self._numbers(numbers):
            content = _described(self._runs[number], folder / ARRAYS)
            paths.append(_put(folder, content))
            self._files[number] = _identity(content)
        return paths

    def load(self, folder: str | Path) -> list[int]:
        """Read all runs of a folder (or of the folder ``kept`` in it), or one ``.run.json`` file,
        and return their numbers; a run that was saved or read before keeps the number it has.

        Raises ValueError where there is none, and `NotAllLoaded`, which names the files and the
        remedy, when some are damaged or written by a newer version; the others are loaded then.
        """
        numbers, damaged = [], []
        for path in run_files(folder):
            try:
                run, identity = _read(path)
            except (ValueError, OSError) as why:
                damaged.append(f"{path}: {why}")
                continue
            known = [n for n, found in self._files.items() if found == identity]
            number = known[0] if known else self.add(run)
            self._files[number] = identity
            numbers.append(number)
        if damaged:
            raise NotAllLoaded(
                f"{len(damaged)} of {len(damaged) + len(numbers)} runs could not be loaded. "
                + " ".join(damaged), numbers)
        return numbers


def checked_name(name) -> str:
    """A name for a run, on one line. Raises ValueError for one that is empty or too long."""
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"a run needs a name, got {shown(name)}")
    name = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    if not 0 < len(name) <= LONGEST:
        raise ValueError(f"a name has 1 to {LONGEST} letters, not {len(name)}; choose a shorter "
                         "one")
    if name.casefold() in RESERVED:
        raise ValueError(f"no run may be called {name!r}: that is the name of other curves; choose "
                         "another one")
    return name


def run_files(place: str | Path) -> list[Path]:
    """The files of the runs in a folder, or in the folder ``kept`` in it, sorted by name; a file is
    its own. Raises ValueError where there is none."""
    place = path_of("folder", place)
    if place.is_file():
        if not place.name.endswith(ENDING):
            raise ValueError(f"{place} is no saved run: those end in {ENDING}")
        return [place]
    for folder in (place, place / "kept"):
        # suffixes are numbers: -2 comes before -10
        found = sorted(folder.glob(f"*{ENDING}"), key=lambda p: (len(p.name), p.name))
        if found:
            return found
    raise ValueError(f"there is no saved run in {place}" if place.is_dir() else
                     f"there is no folder {place}; name one that runs were saved to")


def _described(run: KeptRun, arrays: Path) -> dict:
    """What the file of a run says; its arrays are written."""
    choice, missing = json.loads(run.choice_text or "null"), run.missing
    if run.choice is not None:
        try:
            choice = json.loads(run.choice.to_json())
        except ValueError:
            missing = ("its model or images have no name that a file could hold; make the same "
                       "choice in code and hand it over, run.choice = Experiment(model, stream, "
                       "...)")
    probabilities = {name: _keep(arrays, probabilities=_by_bytes(np.asarray(p).astype("<f2")))
                     for name, p in run.probabilities.items()}
    meta = run.trace.meta
    versions = {name: str(meta.get(name, "")) for name in ("tta_lab", "torch")}
    if not run.stored:
        versions |= {"numpy": np.__version__, "python": platform.python_version()}
    return {"format": FORMAT, "version": VERSION, "name": run.name,
            "made": run.made, "versions": versions,
            "facts": {str(k): _plain(k, v) for k, v in run.facts.items()}, "choice": choice,
            "missing": missing, "trace": _trace(run.trace, arrays),
            "references": {name: _trace(t, arrays) for name, t in run.references.items()},
            "probabilities": probabilities}


def _plain(name, value):
    value = value.item() if isinstance(value, np.generic | torch.Tensor) else value
    if value is not None and not isinstance(value, str | int | float | bool):
        raise ValueError(f"the fact {name!r} must be a text or a number, not {shown(value)}")
    return value


def _trace(trace: Trace, arrays: Path) -> str:
    found: dict = {}
    for table in TABLES:
        for name, column in trace.columns(table).items():
            if name != "correct":  # made from others
                found.setdefault((table, column.dtype.str), {})[name] = column
    names = {f"{table}/{kind}": list(columns) for (table, kind), columns in found.items()}
    return _keep(arrays, about=np.array(json.dumps({"names": names, "meta": trace.meta})),
                 **{f"{table}/{kind}": _by_bytes(np.stack(list(columns.values())))
                    for (table, kind), columns in found.items()})


def _by_bytes(values: np.ndarray) -> np.ndarray:
    """(..., n) of b bytes each -> (b, ..., n) bytes: the first bytes of all, then the second, and
    so on, which packs far better."""
    values = np.ascontiguousarray(values)
    return np.moveaxis(values[..., None].view(np.uint8), -1, 0)


def _of_bytes(values: np.ndarray, kind: str) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(values, 0, -1)).view(kind)[..., 0]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:24]


def _keep(place: Path, **arrays) -> str:
    """Write a file of arrays under the name of what it holds, unless it is there."""
    with tempfile.TemporaryFile() as f:
        np.savez_compressed(f, **arrays)
        f.seek(0)
        data = f.read()
    name = _digest(data)
    path = place / f"{name}.npz"
    if not path.is_file() or _digest(path.read_bytes()) != name:
        with written(path) as part:
            part.write_bytes(data)
    return name


def _identity(content: dict) -> str:
    kept = {k: v for k, v in content.items() if k not in ("missing", "versions")}
    return json.dumps(kept, sort_keys=True)


def _put(folder: Path, content: dict) -> Path:
    """Write the file of a run, or find it there."""
    stem = re.sub(r"[^A-Za-z0-9.+-]+", "_", content["name"]).strip("._")[:60] or "run"
    path, i = folder / f"{stem}{ENDING}", 1
    while path.exists():
        try:
            same = _identity(json.loads(path.read_text(encoding="utf-8"))) == _identity(content)
        except (ValueError, AttributeError):
            same = False
        if same:
            return path
        i += 1
        path = folder / f"{stem}-{i}{ENDING}"
    return write_text(path, json.dumps(content, indent=1) + "\n")


def _read(path: Path) -> tuple[KeptRun, str]:
    """A saved run and what identifies it; ValueError says what is wrong and what helps."""
    remedy = "delete this file, or take it from where it was written"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as why:
        raise ValueError(f"it is damaged ({why}); {remedy}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"it is no saved run; {remedy}")
    version = content.get("version")
    if version != VERSION:
        raise ValueError(f"it has version {shown(version)} of the format, and this TTA Lab reads "
                         f"{VERSION}; update TTA Lab, or save the run anew there")
    for name, kind in KINDS.items():
        if not isinstance(content.get(name), kind):
            raise ValueError(f"it is damaged ({name!r} is missing or no {kind.__name__}); {remedy}")
    facts = content["facts"]
    for name, value in facts.items():
        _plain(name, value)
    arrays = path.parent / ARRAYS
    trace = _read_trace(arrays, content["trace"])
    references = {name: _read_trace(arrays, file) for name, file in content["references"].items()}
    probabilities = {name: _read_array(arrays, file)
                     for name, file in content["probabilities"].items()}
    for what, rows in (*references.items(), *probabilities.items()):
        if len(rows) < len(trace):
            raise ValueError(f"it is damaged ({what!r} has {len(rows)} images, the run "
                             f"{len(trace)}); {remedy}")
    choice, missing, text = None, str(content.get("missing") or ""), ""
    if content.get("choice") is not None:
        text = json.dumps(content["choice"])
        try:
            choice, text = Experiment.from_json(text), ""
        except (ValueError, RuntimeError, OSError, ImportError) as why:
            missing = f"its choice cannot be made here: {why}"
    versions = content["versions"]
    said = ", ".join(f"{title} {versions[name]}" for name, title in
                     (("tta_lab", "TTA Lab"), ("torch", "torch")) if versions.get(name))
    stored = (f"stored run, read from {path.name}; made {content['made'] or 'at an unknown time'}"
              f"{' with ' if said else ''}{said}")
    run = KeptRun(checked_name(content["name"]), choice, trace, references, probabilities, facts,
                  stored, missing, text, content["made"])
    return run, _identity(content)


def _arrays(arrays: Path, name) -> dict[str, np.ndarray]:
    path = arrays / f"{name}.npz"
    if not re.fullmatch(r"[0-9a-f]{24}", str(name)):
        raise ValueError(f"it is damaged ({name!r} names no file of {arrays}); delete this file")
    if not path.is_file():
        raise ValueError(f"{path} is missing; copy the folder {ARRAYS} along with the runs")
    data = path.read_bytes()
    if _digest(data) != name:
        raise ValueError(f"{path} is damaged; delete it, or take it from where it was written")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except (ValueError, AttributeError, zipfile.BadZipFile, EOFError) as why:
        raise ValueError(f"{path} holds no arrays ({why}); delete it") from None


def _read_trace(arrays: Path, name) -> Trace:
    found = _arrays(arrays, name)
    try:
        about = json.loads(str(found["about"]))
        columns = {table: {column: values for key, names in about["names"].items()
                           if key.startswith(f"{table}/")
                           for column, values in zip(names, _of_bytes(
                               found[key], key.partition("/")[2]), strict=True)}
                   for table in TABLES}
        trace = Trace.from_columns(columns["samples"], columns["steps"], dict(about["meta"]))
    except (KeyError, TypeError, ValueError, AttributeError) as why:
        raise ValueError(f"{arrays / name}.npz is no trace of a run ({why}); delete it") from None
    lacking = [c for c in ("id", "prediction", "step") if c not in trace]
    if lacking and len(trace):
        raise ValueError(f"{arrays / name}.npz is no trace of a run: it lacks {lacking[0]!r}")
    return trace


def _read_array(arrays: Path, name) -> np.ndarray:
    values = _arrays(arrays, name).get("probabilities", np.zeros(0))
    if values.ndim != 3 or values.dtype != np.uint8 or len(values) != 2:
        raise ValueError(f"{arrays / name}.npz holds no probabilities of images and classes")
    return _of_bytes(values, "<f2").astype(np.float32)
