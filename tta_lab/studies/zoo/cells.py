"""The cells of the method zoo: from the rows of runs to the table that is kept with the package."""
from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from functools import cache as remember
from functools import cached_property
from pathlib import Path

import numpy as np

from ...core.files import written
from ...core.knobs import knobs
from ...data.shipped import data_root
from ...methods import METHODS, make

# trained independently of each other
SOURCES = ("fashion_resnet_bn", "fashion_resnet_bn_1", "fashion_resnet_bn_2")
RATES = (0.1, 0.3, 1.0, 3.0, 10.0)
LABELS = {"reset_each_shift": "reset at each shift", "continual": "continual",
          "mixed_domains": "mixed domains", "correlated": "correlated", "open_set": "open set",
          "long_term": "long term", "batch_of_one": "batch of one"}
ONLY = {"memo": ("batch_of_one",)}  # streams of a method that is too slow for the others
SLOW = ("cotta", "petal", "stamp")      # one seed
TUNED_ON = ("continual", "correlated")  # streams with other rates than the default
TUNINGS = {"default": "each method's own rate", "slice": "rate chosen on corrupted training images",
           "oracle": "best rate on the test stream itself (no method)"}
METRICS = {"error": "error (%)", "difference": "error minus that of BN-1 (points)",
           "ece": "calibration error, ECE (%)", "auroc": "AUROC, known against unknown (%)",
           "cost": "time of an image, source = 1"}
MEAN = "mean"               # of the sources
# points by which a repeated run may differ on another processor or version of torch and still count
# as the same
AGREES = 1.0
FORMS_DIFFER = 0.5  # points from which a form of the public code is listed beside that of the paper
COLUMNS = ("source", "stream", "method", "tuning", "rate", "seeds", "errors", "ece", "auroc",
           "forwards", "backwards", "ms", "stream_hash", "weights", "torch", "refused")
NUMBERS = ("ece", "auroc", "forwards", "backwards", "ms")
TABLE = "quality/cells.csv"  # in the data folder
UNKNOWNS = "quality/unknowns.csv"


def recipe_of(name: str, form: str = "paper", factor: float = 1.0):
    """The method with its step size multiplied, or None where it has none."""
    recipe = make(name, form=form)
    rates = [k for k in knobs(recipe) if k.name == "update.lr" or k.name.endswith(".update.lr")]
    if factor == 1.0:
        return recipe
    return make(name, form=form,
                **{rates[0].name: min(rates[0].value * factor, rates[0].high)}) if rates else None


def split(label: str) -> tuple[str, str]:
    """The method and the form that a label of the table stands for: "sar [reference]" -> ("sar",
    "reference")."""
    name, _, form = label.partition(" [")
    return name, form.rstrip("]") or "paper"


def chosen_rate(rows, method, source=None) -> float:
    """The factor with the least error on the slice; 1 for a method without a rate. ``rows`` of one
    source, or of the one named."""
    tried = [r for r in rows if r["stream"] == "slice" and r["method"] == method and r["error"]
             and source in (None, r["source"])]
    return float(min(tried, key=lambda r: float(r["error"]))["rate"]) if tried else 1.0


@remember
def has_rate(label: str) -> bool:
    """Whether a method has a step size, so that it can be tuned at all."""
    name, form = split(label)
    return name in METHODS and recipe_of(name, form, RATES[0]) is not None


def number_in(text) -> float:
    return float(text) if text not in ("", None) else math.nan


def mean_of(values) -> float:
    values = [v for v in values if not math.isnan(v)]
    return float(np.mean(values)) if values else math.nan


def _sorted(labels) -> list[str]:
    """In the order of the catalogue, forms behind their method."""
    order = {name: i for i, name in enumerate(METHODS)}
    return sorted(labels, key=lambda label: (order.get(split(label)[0], len(order)), label))


def cells(rows) -> list[dict]:
    """One cell for each source, stream, method and tuning, from the rows of
    ``benchmarks/quality.py`` (dicts of texts); other tunings than the default have the streams of
    `TUNED_ON`.

    ``errors`` belong to ``seeds``; *default* and *slice* have all seeds that were run at their
    rate, *oracle* the first, on which all rates were tried. ``ece`` (%), ``auroc`` (%) and ``ms``
    are means over seeds, forwards and backwards of an image too. A cell without numbers says why in
    ``refused``. Forms of public code were run at their default rate only.
    """
    found: dict = {}
    for r in rows:
        found.setdefault((r["source"], r["stream"], r["method"], float(r["rate"])), {})[
            int(r["seed"])] = r
    made = []
    for source in dict.fromkeys(key[0] for key in found):
        own = [name for name in LABELS if any(key[:2] == (source, name) for key in found)]
        for label in _sorted({key[2] for key in found if key[0] == source and key[1] in LABELS}):
            tunings = TUNINGS if split(label)[1] == "paper" else ("default",)
            for tuning in tunings:
                for stream in own if tuning == "default" else [name for name in own
                                                               if name in TUNED_ON]:
                    key = {"source": source, "stream": stream, "method": label, "tuning": tuning}
                    made.append(key | _cell(found, *key.values()))
    return made


def _cell(found, source, stream, label, tuning) -> dict:
    name = split(label)[0]
    rate = 1.0
    why = "too slow for a stream of this length"
    if stream in ONLY.get(name, ()) or name not in ONLY:
        rate, why = _rate(found, source, stream, label, tuning)
    rows = {} if why else found.get((source, stream, label, rate), {})
    seeds = sorted(s for s, r in rows.items() if not r.get("refused"))
    seeds = seeds[:1] if tuning == "oracle" else seeds
    if not seeds:
        if not rows:
            lacking = "not run" if rate == 1 else f"not run at {rate:g} times its rate"
        else:
            lacking = next(r["refused"] for r in rows.values() if r.get("refused"))
        return dict.fromkeys(COLUMNS[4:], "") | dict.fromkeys(NUMBERS, math.nan) | {
            "rate": math.nan if why else rate, "seeds": (), "errors": (), "refused": why or lacking}
    numbers = {name: mean_of([number_in(rows[s].get(column)) for s in seeds])
               for name, column in zip(NUMBERS, (*NUMBERS[:-1], "ms_per_image"), strict=True)}
    return {"rate": rate, "seeds": tuple(seeds),
            "errors": tuple(number_in(rows[s]["error"]) for s in seeds), **numbers,
            "ece": 100 * numbers["ece"], "auroc": 100 * numbers["auroc"],
            **{name: rows[min(rows)][name] for name in ("stream_hash", "weights", "torch")},
            "refused": ""}


def _rate(found, source, stream, label, tuning) -> tuple[float, str]:
    """The rate of a tuning, or why there is none. A rate that ended in an error counts as tried."""
    if tuning == "default" or not has_rate(label):
        return 1.0, ""
    name = split(label)[0]
    where = "slice" if tuning == "slice" else stream
    if name in (*ONLY, *SLOW) or where not in ("slice", *TUNED_ON):
        return math.nan, "other rates were not tried here"
    tried = {rate: found.get((source, where, label, rate), {}).get(0) for rate in RATES}
    if any(r is None for r in tried.values()):
        return (math.nan, f"{sum(r is not None for r in tried.values())} of {len(RATES)} rates "
                          "were run on the " + ("slice" if tuning == "slice" else "stream"))
    errors = {rate: error for rate, r in tried.items()
              if not math.isnan(error := number_in(r["error"]))}
    if not errors:
        return math.nan, "every rate ended in an error"
    return min(errors, key=errors.get), ""


def read_rows(folder) -> tuple[list[dict], list[dict]]:
    """All rows of ``quality_<source>.csv`` in a folder, and those of ``quality_unknowns.csv``, each
    a dict of texts."""
    rows = []
    unknowns = []
    for path in sorted(Path(folder).glob("quality_*.csv"),
                       key=lambda path: (path.stem.startswith("quality_cifar"), path.stem)):
        with open(path, newline="", encoding="utf-8") as f:
            reader = csv.DictReader(f)
            if {"source", "stream", "method", "rate", "seed", "error"} <= set(reader.fieldnames
                                                                              or ()):
                (unknowns if path.stem == "quality_unknowns" else rows).extend(reader)
    return rows, unknowns


def save_cells(made: list[dict], path) -> None:
    """Write cells as CSV, numbers with five digits."""
    def text(value):
        if isinstance(value, tuple):
            return " ".join(map(text, value))
        if not isinstance(value, float):
            return str(value)
        return "" if math.isnan(value) else f"{value:.5g}"

    with written(path) as part, open(part, "w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: text(v) for k, v in cell.items()} for cell in made)


def load_cells(path) -> list[dict]:
    """The cells that `save_cells` wrote."""
    with open(path, newline="", encoding="utf-8") as f:
        return [{**r, "seeds": tuple(map(int, r["seeds"].split())),
                 "errors": tuple(map(float, r["errors"].split())),
                 **{k: number_in(r[k]) for k in ("rate", *NUMBERS)}} for r in csv.DictReader(f)]


@dataclass
class Zoo:
    """The cells by what identifies them, and ``unknowns``: rows of the study of unknown shares."""

    found: dict[tuple[str, str, str, str], dict]
    unknowns: list[dict] = field(default_factory=list)
    ground: object | None = None  # `study.Ground` of a table made on a model and images of your own
    lines: list[dict] = field(default_factory=list)    # its runs, as `repeat` has them

    @classmethod
    def of(cls, made: list[dict], unknowns=()) -> Zoo:
        """From a list of cells. Raises ValueError when there is none."""
        if not made:
            raise ValueError("there are no cells: run benchmarks/quality.py first")
        return cls({(c["source"], c["stream"], c["method"], c["tuning"]): c for c in made},
                   list(unknowns))

    @cached_property
    def sources(self) -> list[str]:
        """Names of the source models."""
        return list(dict.fromkeys(key[0] for key in self.found))

    def members(self, source: str) -> list[str]:
        """The sources that a choice stands for: itself, or for `MEAN` those trained on the same
        images."""
        if source != MEAN:
            return [source]
        return [name for name in self.sources if self.ground is not None or name in SOURCES]

    def streams(self, source: str = MEAN, tuning: str = "default") -> list[str]:
        """Names of the streams that a source was run on; rates were chosen for those of `TUNED_ON`
        only."""
        members = self.members(source)
        return [name for name in LABELS
                if any((m, name, "source", tuning) in self.found for m in members)]

    def methods(self, forms: bool = False) -> list[str]:
        """Labels of the methods, in the order of the catalogue; ``forms``: those of public code
        too."""
        return _sorted({key[2] for key in self.found if forms or split(key[2])[1] == "paper"})

    def cell(self, source: str, stream: str, label: str, tuning: str = "default") -> dict:
        """One cell of one source; {} where there is none."""
        return self.found.get((source, stream, label, tuning), {})

    def value(self, source: str, stream: str, label: str, tuning: str = "default",
              what: str = "error", seeds=None) -> float:
        """A number of one source: ``error`` is the mean over seeds (of those in ``seeds``),
        ``cost`` the ratio of times to the source's."""
        cell = self.cell(source, stream, label, tuning)
        if not cell or not cell["seeds"]:
            return math.nan
        if what == "error":
            return mean_of([e for s, e in zip(cell["seeds"], cell["errors"], strict=True)
                          if seeds is None or s in seeds])
        if what == "difference":
            return self.value(source, stream, label, tuning) - self.value(
                source, stream, "batch_norm", "default", seeds=cell["seeds"])
        if what == "cost":
            return cell["ms"] / self.value(source, stream, "source", "default", "ms")
        return cell[what]

    def values(self, stream: str, label: str, tuning: str = "default", what: str = "error",
               source: str = MEAN) -> np.ndarray:
        """One number for each source that the choice stands for, NaN where a source has none."""
        return np.array([self.value(m, stream, label, tuning, what) for m in self.members(source)])

    def mean(self, stream: str, label: str, tuning: str = "default", what: str = "error",
             source: str = MEAN) -> float:
        """The mean over sources; NaN unless every one has the number, since sources differ among
        each other."""
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
    """The table that comes with the package, or that of a folder. Raises ValueError when the folder
    holds none."""
    root = data_root() if folder is None else Path(folder)
    if not (root / TABLE).is_file():
        raise ValueError(f"there is no {root / TABLE}; it is written by: python "
                         "benchmarks/quality.py table")
    unknowns = []
    if (root / UNKNOWNS).is_file():
        with open(root / UNKNOWNS, newline="", encoding="utf-8") as f:
            unknowns = list(csv.DictReader(f))
    return Zoo.of(load_cells(root / TABLE), unknowns)
