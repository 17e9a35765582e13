"""The method zoo: every method on every kind of stream, the runs behind its table, and what the table says.

``benchmarks/quality.py`` makes the runs, one row each; `cells` turns rows into cells, which are kept with the package, and everything after
is a pure function of cells. `one_run` is the run behind each row, so a cell can be repeated wherever the package is.
"""
from __future__ import annotations

import csv
import math
import time
from dataclasses import dataclass, field, replace
from functools import cache as remember
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from ...components.selectors import ConfidenceRise
from ...components.source.prepare import prepare
from ...core.adapter import Adapter
from ...core.files import written
from ...core.knobs import knobs
from ...core.source_info import source_info_of
from ...core.trace import Trace
from ...data.corruptions import STANDARD_15, STANDARD_SIX
from ...data.load import load
from ...data.shipped import data_root
from ...experiments.runner import row, run
from ...methods import METHODS, make
from ...streams import protocols
from .. import own
from ..report import nothing, points, write_numbers

SOURCES = ("fashion_resnet_bn", "fashion_resnet_bn_1", "fashion_resnet_bn_2")  # trained independently of each other
SOURCE_IMAGES = "fashion_mnist_train_slice"
RATES = (0.1, 0.3, 1.0, 3.0, 10.0)
LABELS = {"reset_each_shift": "reset at each shift", "continual": "continual", "mixed_domains": "mixed domains", "correlated": "correlated",
          "open_set": "open set", "long_term": "long term", "batch_of_one": "batch of one"}
ONLY = {"memo": ("batch_of_one",)}  # streams of a method that is too slow for the others
SLOW = ("cotta", "petal", "stamp")      # one seed
TUNED_ON = ("continual", "correlated")  # streams with other rates than the default
SHARES = (0.0, 0.05, 0.1, 0.25, 0.5)
KINDS = {"far": ("fashion_mnist", "digits", SOURCES), "near": ("fashion_mnist_8", "fashion_mnist_held_out", ("fashion8_resnet_bn",))}
TUNINGS = {"default": "each method's own rate", "slice": "rate chosen on corrupted training images",
           "oracle": "best rate on the test stream itself (no method)"}
METRICS = {"error": "error (%)", "difference": "error minus that of BN-1 (points)", "ece": "calibration error, ECE (%)",
           "auroc": "AUROC, known against unknown (%)", "cost": "time of an image, source = 1"}
MEAN = "mean"               # of the sources
AGREES = 1.0                # points by which a repeated run may differ on another processor or version of torch and still count as the same
FORMS_DIFFER = 0.5          # points from which a form of the public code is listed beside that of the paper
FAST = ("source", "batch_norm", "lame", "tent", "eata", "sar", "santa", "wisdom_of_crowds")  # repeated in the notebook: 0.3 to 1 ms an image
COLUMNS = ("source", "stream", "method", "tuning", "rate", "seeds", "errors", "ece", "auroc", "forwards", "backwards", "ms", "stream_hash",
           "weights", "torch", "refused")
TABLE, UNKNOWNS = "quality/cells.csv", "quality/unknowns.csv"  # in the data folder


# --- the runs

def streams(known="fashion_mnist", unknown="digits", slice_of=SOURCE_IMAGES, seed=0, per_shift=200, only=None, shifts=STANDARD_15) -> dict:
    """name -> function that makes the stream: the seven of the table, and the slice that rates are chosen on; or those in ``only``.

    At most 3000 images, the long-term one 10 rounds of 600, batch size 1 has 300.
    """
    usual = {"shifts": shifts, "per_shift": per_shift, "seed": seed}
    full, few, six = usual | {"batch": 100}, usual | {"per_shift": min(100, per_shift)}, [s for s in STANDARD_SIX if s in shifts] or shifts
    made = {"reset_each_shift": lambda: protocols.reset_each_shift(known, **full), "continual": lambda: protocols.continual(known, **full),
            "mixed_domains": lambda: protocols.mixed_domains(known, **full), "correlated": lambda: protocols.correlated(known, **usual),
            "open_set": lambda: protocols.open_set(known, unknown, **few, batch=50),
            "long_term": lambda: protocols.long_term(known, rounds=10, **few | {"shifts": six}, batch=100),
            "batch_of_one": lambda: protocols.batch_of_one(known, **usual | {"per_shift": min(20, per_shift)}),
            "slice": lambda: protocols.continual(slice_of, **full)}
    return {name: make for name, make in made.items() if (unknown is not None or name != "open_set") and (only is None or name in only)}


@dataclass(frozen=True)
class Ground:
    """A model and images of your own (texts), on which the table is made anew, since nothing is stored of them: ``names`` are the streams that these
    images can make, ``notes`` what was decided, in sentences."""

    model: str
    images: str
    shifts: tuple = STANDARD_15
    per_shift: int = 200
    names: tuple = tuple(LABELS)
    notes: tuple = ()

    @classmethod
    def of(cls, model: str = "", images: str = "", trust: bool = False, per_shift: int = 200) -> Ground | None:
        """That of these texts; None for the sources of the table. Raises ValueError as `own.pair_of` does."""
        if not images and model in ("", *SOURCES):
            return None
        pair = own.pair_of(model, images, trust)
        shifts, lost = own.shifts_of(pair.data, STANDARD_15)
        per_shift, fewer = own.per_shift_of(pair.data, shifts, per_shift)
        ground = cls(pair.model, pair.images, shifts, per_shift)
        why = {name: own.refusal(ground.makers(0)[name]) for name in LABELS}
        said = [f"The stream '{LABELS[name]}' is left out: {text}." for name, text in why.items() if text]
        return replace(ground, names=tuple(name for name, text in why.items() if not text), notes=(*pair.notes, *lost, *fewer, *said))

    def makers(self, seed: int) -> dict:
        """name -> function that makes the stream."""
        return streams(self.images, seed=seed, per_shift=self.per_shift, shifts=self.shifts)


def unknown_stream(known: str, unknown: str, share: float, seed: int = 0):
    """Ten rounds of six shifts with this share of unknown images in every batch, 0 to below 1."""
    more = {"unknown": unknown, "unknown_ratio": share / (1 - share)} if share else {}
    return protocols.long_term(known, rounds=10, per_shift=100, batch=100, seed=seed, **more)


def unknown_arms() -> dict:
    """What is compared at each share of unknown images: label -> recipe."""
    tent = make("tent")
    return {"batch_norm": make("batch_norm"), "tent": tent, "tent + filter": tent.where(ConfidenceRise()),
            "wisdom_of_crowds": make("wisdom_of_crowds")}


def recipe_of(name: str, form: str = "paper", factor: float = 1.0):
    """The method with its step size multiplied, or None where it has none."""
    recipe = make(name, form=form)
    rates = [k for k in knobs(recipe) if k.name == "update.lr" or k.name.endswith(".update.lr")]
    if factor == 1.0:
        return recipe
    return make(name, form=form, **{rates[0].name: min(rates[0].value * factor, rates[0].high)}) if rates else None


def split(label: str) -> tuple[str, str]:
    """The method and the form that a label of the table stands for: "sar [reference]" -> ("sar", "reference")."""
    name, _, form = label.partition(" [")
    return name, form.rstrip("]") or "paper"


class Kept:
    """A stream that makes its images once, for many runs."""

    def __init__(self, stream):
        self._stream, self._batches = stream, None

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def __len__(self) -> int:
        return len(self._stream)

    def batches(self, device="cpu"):
        if self._batches is None:
            self._batches = list(self._stream.batches(device))
        return iter(self._batches)


def one_run(model, recipe, stream, seed: int = 0, source_images=SOURCE_IMAGES, *, device="cpu", cache=None, shared: dict | None = None,
            stop=None, each=None) -> Trace:
    """The run behind a row: the frozen source is recorded too, and what the recipe needs of the source domain is made or read first.

    ``shared`` hands the source's outputs from run to run on the same stream; ``stop()`` is asked before each batch and ends the run,
    ``each(trace)`` is called after each.
    """
    images = load(source_images) if isinstance(source_images, str) else source_images
    given = None if images is None else prepare(model, recipe, images, device=device, cache=cache)
    adapter = Adapter(model, recipe, seed=seed, device=device, record="source", channels_last=True, source_info=given)
    if shared is not None:
        adapter.shared_source = shared
    return run(adapter, stream, stop=stop, each=each)


@lru_cache(3)
def zoo_stream(name: str, seed: int, ground: Ground | None = None):
    """A stream of the table, or one of your images, with its images, and the place for the source's outputs on it, by source."""
    return Kept((streams(seed=seed) if ground is None else ground.makers(seed))[name]()), {}


def live(source: str, stream: str, label: str, rate: float = 1.0, seed: int = 0, stop=None, each=None, device="cpu",
         ground: Ground | None = None) -> Trace:
    """Repeat one cell of the table, with one of the embedded sources; or make one on model and images of a ``ground``.

    Raises ValueError for a source that is not embedded, and for a method without a step size at another rate than its default.
    """
    if source not in SOURCES and ground is None:
        raise ValueError(f"{source} is not among the embedded sources ({', '.join(SOURCES)}); its runs are repeated by benchmarks/quality.py with "
                         "the images and the checkpoint at hand")
    name, form = split(label)
    recipe = own.batch_statistics(source) if label == "batch_norm" and ground else recipe_of(name, form, rate)
    if recipe is None:
        raise ValueError(f"{name} has no step size, so it cannot be run at {rate:g} times its default")
    made, shared = zoo_stream(stream, seed, ground)
    return one_run(own.network(source), recipe, made, seed, SOURCE_IMAGES if ground is None else own.source_images_of(source), device=device,
                   shared=shared.setdefault((source, device), {}), stop=stop, each=each)


def make_zoo(ground: Ground, names, labels, seed: int = 0, device="cpu") -> Zoo:
    """A table of these methods on these streams, made now on a model and images of your own; a method that refuses says why in its cell."""
    rows, lines = [], []
    for stream in names:
        for label in labels:
            key, start, numbers, why = {"source": ground.model, "stream": stream, "method": label, "rate": 1.0, "seed": seed}, time.perf_counter(), {}, ""
            try:
                if own.source_images_of(ground.model) is None and source_info_of(recipe_of(*split(label))):
                    raise ValueError("it must be prepared on source images, and those of this model are not known")
                numbers = row(live(ground.model, stream, label, 1.0, seed, device=device, ground=ground))
            except (ValueError, RuntimeError) as refused:
                why = str(refused)
            rows.append({"error": "", "stream_hash": "", "weights": "", "torch": "", **numbers, **key, "refused": why})
            lines.append({**key, "tuning": "default", "error": numbers.get("error", math.nan), "stored": math.nan, "difference": math.nan,
                          "same": None, "seconds": time.perf_counter() - start, "words": f"refuses: {why}" if why else "run now"})
    zoo = Zoo.of([cell for cell in cells(rows) if cell["tuning"] == "default"])
    zoo.ground, zoo.lines = ground, lines
    return zoo


def usual(zoo: Zoo, fast: bool) -> tuple:
    """Methods and streams that the notebook repeats."""
    return (FAST, ("correlated", "open_set")) if fast and zoo.ground is None else (zoo.methods(), zoo.streams())


def table_of(ground: Ground | None, folder: str = "", methods: str = "", streams: str = "", fast: bool = True, seed: int = 0, device="cpu") -> Zoo:
    """The stored table (`load_zoo`), or one that is made now of the methods and streams in these texts. Raises ValueError for unknown names."""
    if ground is None:
        return load_zoo(folder or None)
    some = [name for name in ("correlated", "open_set", "continual") if name in ground.names][:2] if fast else ground.names
    labels = names_of(methods, [name for name in METHODS if name not in ONLY or not fast], FAST if fast else METHODS)
    return make_zoo(ground, names_of(streams, ground.names, some), labels, seed, device)


def first_cell(zoo: Zoo, source: str, method: str, stream: str) -> dict:
    """The cell that the panel begins with: as it is named, or for a table of your own the first that it has."""
    if zoo.ground is None:
        return {"source": source, "method": method, "stream": stream}
    names, labels = zoo.streams(), zoo.methods()
    return {"source": zoo.sources[0], "method": method if method in labels else labels[0], "stream": stream if stream in names else names[0]}


# --- from rows to cells

def chosen_rate(rows, method, source=None) -> float:
    """The factor with the least error on the slice; 1 for a method without a rate. ``rows`` of one source, or of the one named."""
    tried = [r for r in rows if r["stream"] == "slice" and r["method"] == method and r["error"] and source in (None, r["source"])]
    return float(min(tried, key=lambda r: float(r["error"]))["rate"]) if tried else 1.0


@remember
def has_rate(label: str) -> bool:
    """Whether a method has a step size, so that it can be tuned at all."""
    name, form = split(label)
    return name in METHODS and recipe_of(name, form, RATES[0]) is not None


def _value(text) -> float:
    return float(text) if text not in ("", None) else math.nan


def _mean(values) -> float:
    values = [v for v in values if not math.isnan(v)]
    return float(np.mean(values)) if values else math.nan


def _sorted(labels) -> list[str]:
    """In the order of the catalogue, forms behind their method."""
    order = {name: i for i, name in enumerate(METHODS)}
    return sorted(labels, key=lambda label: (order.get(split(label)[0], len(order)), label))


def cells(rows) -> list[dict]:
    """One cell for each source, stream, method and tuning, from the rows of ``benchmarks/quality.py`` (dicts of texts); other tunings than the
    default have the streams of `TUNED_ON`.

    ``errors`` belong to ``seeds``; *default* and *slice* have all seeds that were run at their rate, *oracle* the first, on which all rates
    were tried. ``ece`` (%), ``auroc`` (%) and ``ms`` are means over seeds, forwards and backwards of an image too. A cell without numbers says
    why in ``refused``. Forms of public code were run at their default rate only.
    """
    found: dict = {}
    for r in rows:
        found.setdefault((r["source"], r["stream"], r["method"], float(r["rate"])), {})[int(r["seed"])] = r
    made = []
    for source in dict.fromkeys(key[0] for key in found):
        own = [name for name in LABELS if any(key[:2] == (source, name) for key in found)]
        for label in _sorted({key[2] for key in found if key[0] == source and key[1] in LABELS}):
            tunings = TUNINGS if split(label)[1] == "paper" else ("default",)
            for tuning in tunings:
                for stream in own if tuning == "default" else [name for name in own if name in TUNED_ON]:
                    key = {"source": source, "stream": stream, "method": label, "tuning": tuning}
                    made.append(key | _cell(found, *key.values()))
    return made


def _cell(found, source, stream, label, tuning) -> dict:
    name, blank = split(label)[0], dict.fromkeys(COLUMNS[4:], "") | {"seeds": (), "errors": ()}
    if stream in ONLY.get(name, ()) or name not in ONLY:
        rate, why = _rate(found, source, stream, label, tuning)
    else:
        rate, why = 1.0, "too slow for a stream of this length"
    if why:
        return blank | {"rate": math.nan, "refused": why, **_nothing()}
    rows = found.get((source, stream, label, rate), {})
    if not rows:
        return blank | {"rate": rate, "refused": "not run" if rate == 1 else f"not run at {rate:g} times its rate", **_nothing()}
    refused = next((r["refused"] for r in rows.values() if r.get("refused")), "")
    seeds = sorted(s for s, r in rows.items() if not r.get("refused"))[:1 if tuning == "oracle" else None]
    first = rows[min(rows)]
    if not seeds:
        return blank | {"rate": rate, "refused": refused, **_nothing()}
    numbers = {k: _mean([_value(rows[s].get(k)) for s in seeds]) for k in ("ece", "auroc", "forwards", "backwards", "ms_per_image")}
    return {"rate": rate, "seeds": tuple(seeds), "errors": tuple(_value(rows[s]["error"]) for s in seeds), "ece": 100 * numbers["ece"],
            "auroc": 100 * numbers["auroc"], "forwards": numbers["forwards"], "backwards": numbers["backwards"], "ms": numbers["ms_per_image"],
            "stream_hash": first["stream_hash"], "weights": first["weights"], "torch": first["torch"], "refused": ""}


def _nothing() -> dict:
    return dict.fromkeys(("ece", "auroc", "forwards", "backwards", "ms"), math.nan)


def _rate(found, source, stream, label, tuning) -> tuple[float, str]:
    """The rate of a tuning, or why there is none. A rate that ended in an error counts as tried."""
    if tuning == "default" or not has_rate(label):
        return 1.0, ""
    name, where = split(label)[0], "slice" if tuning == "slice" else stream
    if name in (*ONLY, *SLOW) or where not in ("slice", *TUNED_ON):
        return math.nan, "other rates were not tried here"
    tried = {rate: found.get((source, where, label, rate), {}).get(0) for rate in RATES}
    if any(r is None for r in tried.values()):
        return math.nan, f"{sum(r is not None for r in tried.values())} of {len(RATES)} rates were run on the " + ("slice" if tuning == "slice"
                                                                                                                   else "stream")
    errors = {rate: _value(r["error"]) for rate, r in tried.items() if not math.isnan(_value(r["error"]))}
    return (min(errors, key=errors.get), "") if errors else (math.nan, "every rate ended in an error")


def read_rows(folder) -> tuple[list[dict], list[dict]]:
    """All rows of ``quality_<source>.csv`` in a folder, and those of ``quality_unknowns.csv``, each a dict of texts."""
    rows, unknowns = [], []
    for path in sorted(Path(folder).glob("quality_*.csv"), key=lambda path: (path.stem.startswith("quality_cifar"), path.stem)):
        with open(path, newline="", encoding="utf-8") as f:
            reader = csv.DictReader(f)
            if {"source", "stream", "method", "rate", "seed", "error"} <= set(reader.fieldnames or ()):
                (unknowns if path.stem == "quality_unknowns" else rows).extend(reader)
    return rows, unknowns


def save_cells(made: list[dict], path) -> None:
    """Write cells as CSV, numbers with five digits."""
    def text(value):
        if isinstance(value, tuple):
            return " ".join(map(text, value))
        return "" if isinstance(value, float) and math.isnan(value) else f"{value:.5g}" if isinstance(value, float) else str(value)

    with written(path) as part, open(part, "w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: text(v) for k, v in cell.items()} for cell in made)


def load_cells(path) -> list[dict]:
    """The cells that `save_cells` wrote."""
    with open(path, newline="", encoding="utf-8") as f:
        return [{**r, "seeds": tuple(map(int, r["seeds"].split())), "errors": tuple(map(float, r["errors"].split())),
                 **{k: _value(r[k]) for k in ("rate", "ece", "auroc", "forwards", "backwards", "ms")}} for r in csv.DictReader(f)]


# --- the table

@dataclass
class Zoo:
    """The cells by what identifies them, and ``unknowns``: rows of the study of unknown shares."""

    found: dict[tuple[str, str, str, str], dict]
    unknowns: list[dict] = field(default_factory=list)
    ground: Ground | None = None                       # of a table made on a model and images of your own
    lines: list[dict] = field(default_factory=list)    # its runs, as `repeat` has them

    @classmethod
    def of(cls, made: list[dict], unknowns=()) -> Zoo:
        """From a list of cells. Raises ValueError when there is none."""
        if not made:
            raise ValueError("there are no cells: run benchmarks/quality.py first")
        return cls({(c["source"], c["stream"], c["method"], c["tuning"]): c for c in made}, list(unknowns))

    @cached_property
    def sources(self) -> list[str]:
        """Names of the source models."""
        return list(dict.fromkeys(key[0] for key in self.found))

    def members(self, source: str) -> list[str]:
        """The sources that a choice stands for: itself, or for `MEAN` those trained on the same images."""
        if source != MEAN:
            return [source]
        return [name for name in self.sources if name in SOURCES] if self.ground is None else self.sources

    def streams(self, source: str = MEAN, tuning: str = "default") -> list[str]:
        """Names of the streams that a source was run on; rates were chosen for those of `TUNED_ON` only."""
        members = self.members(source)
        return [name for name in LABELS if any((m, name, "source", tuning) in self.found for m in members)]

    def methods(self, forms: bool = False) -> list[str]:
        """Labels of the methods, in the order of the catalogue; ``forms``: those of public code too."""
        return _sorted({key[2] for key in self.found if forms or split(key[2])[1] == "paper"})

    def cell(self, source: str, stream: str, label: str, tuning: str = "default") -> dict:
        """One cell of one source; {} where there is none."""
        return self.found.get((source, stream, label, tuning), {})

    def value(self, source: str, stream: str, label: str, tuning: str = "default", what: str = "error", seeds=None) -> float:
        """A number of one source: ``error`` is the mean over seeds (of those in ``seeds``), ``cost`` the ratio of times to the source's."""
        cell = self.cell(source, stream, label, tuning)
        if not cell or not cell["seeds"]:
            return math.nan
        if what == "error":
            return _mean([e for s, e in zip(cell["seeds"], cell["errors"], strict=True) if seeds is None or s in seeds])
        if what == "difference":
            return self.value(source, stream, label, tuning) - self.value(source, stream, "batch_norm", "default", seeds=cell["seeds"])
        if what == "cost":
            return cell["ms"] / self.value(source, stream, "source", "default", "ms")
        return cell[what]

    def values(self, stream: str, label: str, tuning: str = "default", what: str = "error", source: str = MEAN) -> np.ndarray:
        """One number for each source that the choice stands for, NaN where a source has none."""
        return np.array([self.value(m, stream, label, tuning, what) for m in self.members(source)])

    def mean(self, stream: str, label: str, tuning: str = "default", what: str = "error", source: str = MEAN) -> float:
        """The mean over sources; NaN unless every one has the number, since sources differ among each other."""
        values = self.values(stream, label, tuning, what, source)
        return float(values.mean()) if len(values) else math.nan

    def reason(self, stream: str, label: str, tuning: str = "default", source: str = MEAN) -> str:
        """Why a cell has no number, or ""."""
        missing = {}
        for member in self.members(source):
            cell = self.cell(member, stream, label, tuning)
            if not cell:
                other = tuning != "default" and (member, stream, label, "default") in self.found
                missing[member] = "only run at its default rate" if other else "not run"
            elif not cell["seeds"]:
                missing[member] = cell["refused"]
        if not missing:
            return ""
        if len(set(missing.values())) == 1 and len(missing) == len(self.members(source)):
            return next(iter(missing.values()))
        return "; ".join(f"{name}: {why}" for name, why in missing.items())


def load_zoo(folder=None) -> Zoo:
    """The table that comes with the package, or that of a folder. Raises ValueError when the folder holds none."""
    root = data_root() if folder is None else Path(folder)
    if not (root / TABLE).is_file():
        raise ValueError(f"there is no {root / TABLE}; it is written by: python benchmarks/quality.py table")
    unknowns = []
    if (root / UNKNOWNS).is_file():
        with open(root / UNKNOWNS, newline="", encoding="utf-8") as f:
            unknowns = list(csv.DictReader(f))
    return Zoo.of(load_cells(root / TABLE), unknowns)


# --- the heat map as numbers

def shade(difference) -> np.ndarray:
    """Points above BN-1 as a colour's place in -1 .. 1: the signed root, 1 from 36 points on, so that half a point can still be seen."""
    difference = np.asarray(difference, np.float64)
    return np.clip(np.sign(difference) * np.sqrt(np.abs(difference)) / 6, -1, 1)


def heat_map(zoo: Zoo, source: str = MEAN, tuning: str = "default", metric: str = "error", order: str = "family", forms: bool = False) -> dict:
    """Methods x streams as `plots.zoo.plot_zoo` draws them: ``value``, ``shade``, ``text``, ``reason`` and ``hover``, each (M, S), with the
    names ``rows``, ``families``, ``columns``, ``streams``.

    ``order``: "family", or "error" (mean over the streams where the method has a number; of the streams that most methods have).
    Raises ValueError for an unknown source, tuning, metric or order.
    """
    for name, given, known in (("source", source, (MEAN, *zoo.sources)), ("tuning", tuning, TUNINGS), ("metric", metric, METRICS),
                               ("order", order, ("family", "error"))):
        if given not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, not {given!r}")
    names, labels = zoo.streams(source, tuning), zoo.methods(forms)
    if metric == "auroc":
        names = [n for n in names if not math.isnan(zoo.mean(n, "source", "default", "auroc", source))] or names[-1:]
    errors = np.array([[zoo.mean(n, label, tuning, "error", source) for n in names] for label in labels]).reshape(len(labels), len(names))
    if order == "family":
        place = sorted(range(len(labels)), key=lambda i: (family(labels[i]) != "baseline", family(labels[i]), i))
    else:
        gaps = np.isnan(errors)
        mean = np.where(gaps.any(1), math.inf, np.where(gaps, 0, errors).mean(1)) if len(names) else np.zeros(len(labels))
        place = sorted(range(len(labels)), key=lambda i: (mean[i], i))
    labels = [labels[i] for i in place]
    value = np.array([[zoo.mean(n, label, tuning, metric, source) for n in names] for label in labels]).reshape(len(labels), len(names))
    reason = [[zoo.reason(n, label, tuning, source) or ("" if np.isfinite(v) else "no such number on this stream")
               for n, v in zip(names, line, strict=True)] for label, line in zip(labels, value, strict=True)]
    bn = np.array([zoo.mean(n, "batch_norm", "default", metric, source) for n in names])
    difference = value if metric == "difference" else value - bn
    shades = np.log2(np.maximum(value, 1)) / 7 if metric == "cost" else shade(-difference if metric == "auroc" else difference)
    show = {"difference": "{:+.1f}", "cost": "{:.1f}"}.get(metric, "{:.1f}")
    text = [["" if math.isnan(v) else show.format(v) for v in line] for line in value]
    hover = [[_hover(zoo, source, n, label, tuning, why) for n, why in zip(names, line, strict=True)]
             for label, line in zip(labels, reason, strict=True)]
    return {"rows": labels, "families": [family(label) for label in labels], "streams": names, "columns": [LABELS[n] for n in names],
            "value": value, "shade": shades, "text": text, "reason": reason, "hover": hover, "grouped": order == "family",
            "diverging": metric != "cost", "name": METRICS[metric], "title": f"{METRICS[metric].capitalize()}, {say_source(zoo, source)}",
            "ticks": _ticks(metric)}


def _ticks(metric: str) -> tuple[list[float], list[str], str]:
    """Places on the colour bar, their names, and the name of the bar."""
    if metric == "cost":
        return [math.log2(v) / 7 for v in (1, 2, 5, 20, 100)], ["1", "2", "5", "20", "100"], "times the source's"
    points = [-36, -16, -4, -1, 0, 1, 4, 16, 36]
    sign = -1 if metric == "auroc" else 1
    return shade(points).tolist(), [f"{sign * p:+d}" if p else "BN-1" for p in points], "points from BN-1"


def family(label: str) -> str:
    """The family of a method or form."""
    kind = METHODS.get(split(label)[0])
    return kind.family if kind is not None else "other"


def _hover(zoo: Zoo, source: str, stream: str, label: str, tuning: str, why: str) -> str:
    lines = [f"<b>{label}</b> on {LABELS[stream]}"]
    if why:
        return "<br>".join([*lines, why])
    for member in zoo.members(source):
        cell = zoo.cell(member, stream, label, tuning)
        errors = " ".join(f"{e:.1f}" for e in cell["errors"])
        lines.append(f"{member}: error {errors} %" + (f", rate x {cell['rate']:g}" if has_rate(label) else ""))
    some = zoo.cell(zoo.members(source)[0], stream, label, tuning)
    lines.append(f"forwards {some['forwards']:.2f}, backwards {some['backwards']:.2f} an image")
    return "<br>".join(lines)


def say_source(zoo: Zoo, source: str) -> str:
    """A choice of source in words."""
    return f"mean of {len(zoo.members(source))} sources" if source == MEAN and zoo.ground is None else zoo.members(source)[0]


# --- what can be said

def verdict(zoo: Zoo, stream: str, one: str, other: str, tuning: str = "default", source: str = MEAN) -> tuple[int, np.ndarray]:
    """-1 where ``one`` errs less than ``other`` on every source (mean over the seeds that both have), 1 where it errs more, else 0; and
    the differences, one for each source, NaN where one is missing. Both are tuned in the same way.

    Without the full number of independent sources (`SOURCES`) nothing is settled. Three equal signs arise by chance in one case of four.
    """
    differences = []
    for member in zoo.members(source):
        a, b = zoo.cell(member, stream, one, tuning), zoo.cell(member, stream, other, tuning)
        seeds = set(a.get("seeds", ())) & set(b.get("seeds", ()))
        differences.append(zoo.value(member, stream, one, tuning, seeds=seeds) - zoo.value(member, stream, other, tuning, seeds=seeds)
                           if seeds else math.nan)
    differences = np.array(differences)
    full = len(differences) >= len(SOURCES)
    return int((differences > 0).all()) - int((differences < 0).all()) if full else 0, differences


WORDS = {-1: "better", 1: "worse", 0: "not settled"}


def ranking(zoo: Zoo, stream: str, tuning: str = "default") -> list[dict]:
    """The methods that every source has, least error first: ``method``, ``error`` (mean), and -1, 0 or 1 ``against`` "batch_norm", "source"
    and "next" (the following line), as `verdict` says."""
    labels = [label for label in zoo.methods() if not math.isnan(zoo.mean(stream, label, tuning))]
    labels.sort(key=lambda label: zoo.mean(stream, label, tuning))
    lines = []
    for i, label in enumerate(labels):
        against = {name: None if name == label or name not in labels else verdict(zoo, stream, label, name, tuning)[0]
                   for name in ("batch_norm", "source")}
        against["next"] = verdict(zoo, stream, label, labels[i + 1], tuning)[0] if i + 1 < len(labels) else None
        lines.append({"method": label, "error": zoo.mean(stream, label, tuning), "against": against})
    return lines


def settled(zoo: Zoo, tuning: str = "default") -> dict:
    """stream -> {"better": methods that beat BN-1 on every source, "worse": ..., "open": ..., "neighbours": (settled, all)}."""
    result = {}
    for stream in zoo.streams(MEAN, tuning):
        lines = ranking(zoo, stream, tuning)
        kinds = {word: [x["method"] for x in lines if x["against"]["batch_norm"] == sign]
                 for word, sign in (("better", -1), ("worse", 1), ("open", 0))}
        neighbours = [x["against"]["next"] for x in lines if x["against"]["next"] is not None]
        result[stream] = kinds | {"neighbours": (sum(n != 0 for n in neighbours), len(neighbours))}
    return result


def oracle_is_least(zoo: Zoo) -> bool:
    """Whether the error of the oracle on its seed is nowhere above that of the other tunings, as it must be by its definition."""
    pairs = [(c["errors"][0], zoo.value(source, stream, label, tuning, seeds=c["seeds"])) for (source, stream, label, t), c in zoo.found.items()
             if t == "oracle" and c["seeds"] for tuning in ("default", "slice")]
    return all(least <= other for least, other in pairs if not math.isnan(other))


def forms(zoo: Zoo, least: float = FORMS_DIFFER) -> list[dict]:
    """Forms of public code whose error (first seed, mean over the sources that have both) is more than ``least`` points from the paper's."""
    found = []
    for label in [m for m in zoo.methods(forms=True) if split(m)[1] != "paper"]:
        for stream in zoo.streams():
            pairs = np.array([[zoo.value(m, stream, name, seeds={0}) for name in (split(label)[0], label)] for m in zoo.members(MEAN)])
            pairs = pairs[np.isfinite(pairs).all(1)]
            if len(pairs) and abs(np.diff(pairs.mean(0))[0]) > least:
                found.append({"method": split(label)[0], "form": split(label)[1], "stream": stream, "paper": float(pairs[:, 0].mean()),
                              "other": float(pairs[:, 1].mean()), "sources": len(pairs)})
    return found


def costs(zoo: Zoo) -> list[dict]:
    """Per method: ``forwards`` and ``backwards`` of an image (least, most) over streams and sources, and ``time``, the median ratio to the
    source on the same stream and source model, with (least, most)."""
    lines = []
    for label in zoo.methods():
        here = [c for (s, _, m, t), c in zoo.found.items() if m == label and t == "default" and c["seeds"] and s in zoo.members(MEAN)]
        ratios = [zoo.value(c["source"], c["stream"], label, "default", "cost") for c in here]
        ratios = [r for r in ratios if math.isfinite(r)]
        if here:
            span = {k: (min(c[k] for c in here), max(c[k] for c in here)) for k in ("forwards", "backwards")}
            lines.append({"method": label, **span, "time": float(np.median(ratios)) if ratios else math.nan,
                          "range": (min(ratios), max(ratios)) if ratios else (math.nan, math.nan)})
    return lines


def gains(rows, what: str = "error") -> dict:
    """What the filter changes against the share of unknown images: kind -> arm -> numbers, each (shares,).

    ``mean``, ``sd`` (ddof 1), ``low``, ``high`` and ``n`` of the paired differences to Tent over sources and seeds, in points; the filter alone
    ("tent + filter") and with its diversity term ("wisdom_of_crowds"). ``what``: "error" (below 0 is better) or "auroc" (above 0 is better).
    """
    scale = 100 if what == "auroc" else 1
    found = {(*r["stream"].split(" "), r["method"], r["source"], r["seed"]): scale * _value(r.get(what)) for r in rows}
    result: dict = {}
    for kind in dict.fromkeys(key[0] for key in found):
        shares = sorted({key[1] for key in found if key[0] == kind}, key=float)
        result[kind] = {}
        for arm in ("tent + filter", "wisdom_of_crowds"):
            pairs = [[v - found[kind, share, "tent", *key[3:]] for key, v in found.items() if key[:3] == (kind, share, arm)
                      and (kind, share, "tent", *key[3:]) in found] for share in shares]
            pairs = [[d for d in p if not math.isnan(d)] for p in pairs]
            result[kind][arm] = {"share": np.array([float(s) for s in shares]), "mean": np.array([_mean(p) for p in pairs]),
                                 "sd": np.array([np.std(p, ddof=1) if len(p) > 1 else math.nan for p in pairs]),
                                 "low": np.array([min(p, default=math.nan) for p in pairs]),
                                 "high": np.array([max(p, default=math.nan) for p in pairs]), "n": np.array([len(p) for p in pairs])}
    return result


# --- one run in numbers

def over_time(trace: Trace, windows: int = 30) -> dict:
    """Stretches of equal length of a run: ``position`` (middle, images), ``error`` (% of known images), ``kept`` and
    ``kept_unknown`` (share learned from of known and of unknown images), each (W,). ``kept`` is NaN for a method that learned from nothing."""
    n = len(trace)
    windows = max(1, min(windows, n))
    place = np.arange(n) * windows // max(n, 1)
    known = np.asarray(trace["known"], bool)
    scored = known & (np.asarray(trace["label"]) >= 0)
    kept = np.nan_to_num(np.asarray(trace["kept"], np.float64))

    def share(flags, among):
        whole = np.bincount(place[among], minlength=windows).astype(np.float64)
        return np.divide(np.bincount(place[among], np.asarray(flags, np.float64)[among], windows), whole, out=np.full(windows, math.nan),
                         where=whole > 0)

    learned = kept.any()
    return {"position": (np.arange(windows) + 0.5) * n / windows, "error": 100 * share(~np.asarray(trace["correct"], bool), scored),
            "kept": share(kept, known) if learned else np.full(windows, math.nan),
            "kept_unknown": share(kept, ~known) if learned and not known.all() else np.full(windows, math.nan)}


def entropies(trace: Trace, bins: int = 25) -> dict:
    """Histogram of the predictions' entropy over a whole run: ``edges`` (bins + 1,) from 0 to ln K nats, ``share`` (bins,), ``broken`` (NaN)."""
    values, top = np.asarray(trace["entropy"], np.float64), math.log(max(int(trace.meta["classes"]), 2))
    good = values[~np.isnan(values)]
    edges = np.linspace(0, top, bins + 1)
    counts = np.histogram(np.clip(good, 0, top), edges)[0]
    return {"edges": edges, "share": counts / max(len(good), 1), "broken": int(len(values) - len(good))}


def class_shares(trace: Trace) -> dict:
    """How often each class was predicted and, among known images with a label, how often it was true: ``predicted`` and ``true``, (K,) shares."""
    k, label = int(trace.meta["classes"]), np.asarray(trace["label"], np.int64)
    scored = np.asarray(trace["known"], bool) & (label >= 0)
    predicted = np.asarray(trace["prediction"], np.int64)
    return {"predicted": np.bincount(predicted, minlength=k) / max(len(predicted), 1),
            "true": np.bincount(label[scored], minlength=k) / max(int(scored.sum()), 1)}


def numbers_of(trace: Trace, beside: dict[str, Trace] | None = None, name: str = "", classes=()) -> dict:
    """What `plots.zoo.plot_run_errors` and `plot_run_predictions` draw of a run, with other runs on the same stream by name (``beside``)."""
    def numbers(t):
        return {"time": over_time(t), "entropy": entropies(t), "shares": class_shares(t)}

    return {"name": name, "classes": list(classes) or [str(k) for k in range(int(trace.meta["classes"]))], **numbers(trace),
            "beside": {other: numbers(t) for other, t in (beside or {}).items() if len(t)}}


# --- repeating cells

def compared(zoo: Zoo, source: str, stream: str, label: str, tuning: str, seed: int, trace: Trace, seconds: float = math.nan) -> dict:
    """A finished run beside the stored number: ``error``, ``stored`` (NaN: none), ``difference``, ``same`` (None, or whether it is within `AGREES`),
    ``words``."""
    cell, found = zoo.cell(source, stream, label, tuning), row(trace)
    stored = dict(zip(cell.get("seeds", ()), cell.get("errors", ()), strict=True)).get(seed, math.nan)
    error = float(f"{found['error']:.5g}")
    difference = error - stored
    result = {"source": source, "stream": stream, "method": label, "tuning": tuning, "rate": cell.get("rate", 1.0), "seed": seed, "error": error,
              "stored": stored, "difference": difference, "same": None, "seconds": seconds}
    if not found["complete"]:
        return result | {"words": f"stopped after {found['images']} images, so there is nothing to compare"}
    if zoo.ground is not None:
        return result | {"stored": math.nan, "difference": math.nan, "words": "nothing is stored of this model and these images"}
    if math.isnan(stored):
        return result | {"words": f"no number is stored for seed {seed}" + (f": {cell['refused']}" if cell.get("refused") else "")}
    other = [f"{what} {found[key]} instead of {cell[key]}" for key, what in (("stream_hash", "stream"), ("weights", "weights"), ("torch", "torch"))
             if cell.get(key) and str(found[key]) != cell[key] and (key != "stream_hash" or seed == cell["seeds"][0])]
    same = abs(difference) <= AGREES
    words = (f"reproduced: {stored:.2f} % is stored" + ("" if difference else ", to the last digit") if same
             else f"NOT reproduced: {stored:.2f} % is stored")
    words += f", {points(difference, 2)} away" if difference and nothing(difference, 2) else f", {points(difference, 2)}" if difference else ""
    return result | {"same": same, "words": words + (f" ({'; '.join(other)})" if other and difference else "")}


def repeat(zoo: Zoo, source: str, names, labels, tuning: str = "default", seed: int = 0, device="cpu", say=None) -> list[dict]:
    """Run cells again and put each beside the stored number, see `compared`. A method that refuses is a line with ``words``."""
    lines = []
    for stream in names:
        for label in labels:
            cell = zoo.cell(source, stream, label, tuning)
            rate, start = cell.get("rate", 1.0), time.perf_counter()
            try:
                trace = live(source, stream, label, 1.0 if math.isnan(rate) else rate, seed, device=device)
            except (ValueError, RuntimeError) as why:
                refused = bool(cell.get("refused"))
                lines.append({"source": source, "stream": stream, "method": label, "tuning": tuning, "rate": rate, "seed": seed, "error": math.nan,
                              "stored": math.nan, "difference": math.nan, "same": refused, "seconds": time.perf_counter() - start,
                              "words": f"refuses{' as stored' if refused else ''}: {why}"})
            else:
                lines.append(compared(zoo, source, stream, label, tuning, seed, trace, time.perf_counter() - start))
            if say is not None:
                say(f"{LABELS[stream]}, {label}: {lines[-1]['words']}")
    return lines


def names_of(text: str, known, usual) -> list[str]:
    """Names out of "a, b"; "" stands for the usual ones. Raises ValueError, listing what there is."""
    names = [name.strip() for name in text.split(",") if name.strip()] or list(usual)
    for name in names:
        if name not in known:
            raise ValueError(f"there is no {name!r}; there are: {', '.join(known)}")
    return names


def save(lines: list[dict], path, **more) -> None:
    """Write repeated cells as JSON (no number: null), with the date and the versions they were made with."""
    write_numbers(path, {"cells": [{k: v for k, v in line.items() if k != "seconds"} for line in lines], **more})
