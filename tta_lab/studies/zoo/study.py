"""The method zoo: every method on every kind of stream, the runs behind its table, and what the
table says.

``benchmarks/quality.py`` makes the runs, one row each; `cells` turns rows into cells, which are
kept with the package, and everything after is a pure function of cells. `one_run` is the run behind
each row, so a cell can be repeated wherever the package is.
"""
from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from ...components.selectors import ConfidenceRise
from ...core.source_info import source_info_of
from ...core.trace import Trace
from ...data.corruptions import STANDARD_15, STANDARD_SIX
from ...experiments.runner import row, run
from ...methods import METHODS, make
from ...streams import protocols
from ...streams.cached import CachedStream
from .. import base, own
from ..report import nothing, points, write_numbers
from .cells import (
    AGREES,
    LABELS,
    ONLY,
    SOURCES,
    Zoo,
    cells,
    load_zoo,
    recipe_of,
    split,
)

SOURCE_IMAGES = "fashion_mnist_train_slice"
SHARES = (0.0, 0.05, 0.1, 0.25, 0.5)
KINDS = {"far": ("fashion_mnist", "digits", SOURCES),
         "near": ("fashion_mnist_8", "fashion_mnist_held_out", ("fashion8_resnet_bn",))}
# repeated in the notebook: 0.3 to 1 ms an image
NO_SOURCE = ("The source was added to the methods: cost and time of the others are read beside its "
             "own.")
FAST = ("source", "batch_norm", "lame", "tent", "eata", "sar", "santa", "wisdom_of_crowds")


# --- the runs

def streams(known="fashion_mnist", unknown="digits", slice_of=SOURCE_IMAGES, seed=0, per_shift=200,
            only=None, shifts=STANDARD_15) -> dict:
    """name -> function that makes the stream: the seven of the table, and the slice that rates are
    chosen on; or those in ``only``.

    At most 3000 images, the long-term one 10 rounds of 600, batch size 1 has 300.
    """
    usual = {"shifts": shifts, "per_shift": per_shift, "seed": seed}
    full = usual | {"batch": 100}
    few = usual | {"per_shift": min(100, per_shift)}
    six = [s for s in STANDARD_SIX if s in shifts] or shifts
    made = {"reset_each_shift": lambda: protocols.reset_each_shift(known, **full),
            "continual": lambda: protocols.continual(known, **full),
            "mixed_domains": lambda: protocols.mixed_domains(known, **full),
            "correlated": lambda: protocols.correlated(known, **usual),
            "open_set": lambda: protocols.open_set(known, unknown, **few, batch=50),
            "long_term": lambda: protocols.long_term(known, rounds=10, **few | {"shifts": six},
                                                     batch=100),
            "batch_of_one": lambda: protocols.batch_of_one(known, **usual
                                                           | {"per_shift": min(20, per_shift)}),
            "slice": lambda: protocols.continual(slice_of, **full)}
    return {name: make for name, make in made.items()
            if (unknown is not None or name != "open_set") and (only is None or name in only)}


@dataclass(frozen=True)
class Ground:
    """A model and images of your own (texts), on which the table is made anew, since nothing is
    stored of them: ``names`` are the streams that these images can make, ``notes`` what was
    decided, in sentences."""

    model: str
    images: str
    shifts: tuple = STANDARD_15
    per_shift: int = 200
    names: tuple = tuple(LABELS)
    notes: tuple = ()

    @classmethod
    def of(cls, model: str = "", images: str = "", trust: bool = False,
           per_shift: int = 200) -> Ground | None:
        """That of these texts; None for the sources of the table. Raises ValueError as
        `own.pair_of` does."""
        if not images and model in ("", *SOURCES):
            return None
        pair = own.pair_of(model, images, trust)
        shifts, per_shift, notes = own.allowed(pair, STANDARD_15, per_shift)
        ground = cls(pair.model, pair.images, shifts, per_shift)
        why = own.refusals({name: ground.makers(0)[name] for name in LABELS})
        notes += [f"The stream '{LABELS[name]}' is left out: {text}." for name, text in why.items()]
        return replace(ground, names=tuple(name for name in LABELS if name not in why),
                       notes=tuple(notes))

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
    return {"batch_norm": make("batch_norm"), "tent": tent,
            "tent + filter": tent.where(ConfidenceRise()),
            "wisdom_of_crowds": make("wisdom_of_crowds")}


def one_run(model, recipe, stream, seed: int = 0, source_images=SOURCE_IMAGES, *, device="cpu",
            cache=None, shared: dict | None = None, stop=None, each=None) -> Trace:
    """The run behind a row: the frozen source is recorded too, and what the recipe needs of the
    source domain is made or read first.

    ``shared`` hands the source's outputs from run to run on the same stream; ``stop()`` is asked
    before each batch and ends the run, ``each(trace)`` is called after each.
    """
    adapter = base.adapter_for(model, recipe, seed=seed, device=device, shared=shared,
                               source_images=source_images, cache=cache, channels_last=True)
    return run(adapter, stream, stop=stop, each=each)


@lru_cache(3)
def zoo_stream(name: str, seed: int, ground: Ground | None = None):
    """A stream of the table, or one of your images, with its images, and the place for the source's
    outputs on it, by source."""
    return CachedStream((streams(seed=seed) if ground is None else ground.makers(seed))[name]()), {}


def live(source: str, stream: str, label: str, rate: float = 1.0, seed: int = 0, stop=None,
         each=None, device="cpu", ground: Ground | None = None) -> Trace:
    """Repeat one cell of the table, with one of the embedded sources; or make one on model and
    images of a ``ground``.

    Raises ValueError for a source that is not embedded, and for a method without a step size at
    another rate than its default.
    """
    if source not in SOURCES and ground is None:
        raise ValueError(f"{source} is not among the embedded sources ({', '.join(SOURCES)}); its "
                         "runs are repeated by benchmarks/quality.py with the images and the "
                         "checkpoint at hand")
    name, form = split(label)
    recipe = own.batch_statistics(source) if label == "batch_norm" and ground else recipe_of(
        name, form, rate)
    if recipe is None:
        raise ValueError(f"{name} has no step size, so it cannot be run at {rate:g} times its "
                         "default")
    made, shared = zoo_stream(stream, seed, ground)
    return one_run(own.network(source), recipe, made, seed,
                   SOURCE_IMAGES if ground is None else own.source_images_of(source), device=device,
                   shared=shared.setdefault((source, device), {}), stop=stop, each=each)


def make_zoo(ground: Ground, names, labels, seed: int = 0, device="cpu") -> Zoo:
    """A table of these methods on these streams, made now on a model and images of your own; a
    method that refuses says why in its cell."""
    rows = []
    lines = []
    unknown = own.source_images_of(ground.model) is None
    for stream in names:
        for label in labels:
            key = {"source": ground.model, "stream": stream, "method": label, "rate": 1.0,
                   "seed": seed}
            start = time.perf_counter()
            why = (own.NO_SOURCE_IMAGES if unknown and source_info_of(recipe_of(*split(label)))
                   else "")
            trace, why = (None, why) if why else _tried(ground.model, stream, label, 1.0, seed,
                                                        device=device, ground=ground)
            numbers = row(trace) if trace else {}
            rows.append({"error": "", "stream_hash": "", "weights": "", "torch": "", **numbers,
                         **key, "refused": why})
            lines.append(_line(key, "default", time.perf_counter() - start,
                               f"refuses: {why}" if why else "run now",
                               error=numbers.get("error", math.nan)))
    zoo = Zoo.of([cell for cell in cells(rows) if cell["tuning"] == "default"])
    zoo.ground = ground
    zoo.lines = lines
    return zoo


def _tried(*arguments, **named) -> tuple[Trace | None, str]:
    """`live`, or why it refuses."""
    try:
        return live(*arguments, **named), ""
    except (ValueError, RuntimeError) as why:
        return None, str(why)


def _line(key: dict, tuning: str, seconds: float, words: str, *, error: float = math.nan,
          stored: float = math.nan, same: bool | None = None) -> dict:
    """A repeated cell, see `compared`."""
    return {**key, "tuning": tuning, "error": error, "stored": stored, "difference": error - stored,
            "same": same, "seconds": seconds, "words": words}


def usual(zoo: Zoo, fast: bool) -> tuple:
    """Methods and streams that the notebook repeats."""
    if fast and zoo.ground is None:
        return FAST, ("correlated", "open_set")
    return zoo.methods(), zoo.streams()


def table_of(ground: Ground | None, folder: str = "", methods: str = "", streams: str = "",
             fast: bool = True, seed: int = 0, device="cpu") -> Zoo:
    """The stored table (`load_zoo`), or one that is made now of the methods and streams in these
    texts; the source is added where the methods leave it out, and ``ground.notes`` say so. Raises
    ValueError for unknown names."""
    if ground is None:
        return load_zoo(folder or None)
    some = ([name for name in ("correlated", "open_set", "continual") if name in ground.names][:2]
            if fast else ground.names)
    labels = names_of(methods, [name for name in METHODS if name not in ONLY or not fast],
                      FAST if fast else METHODS)
    if "source" not in labels:
        labels = ["source", *labels]
        ground = replace(ground, notes=(*ground.notes, NO_SOURCE))
    return make_zoo(ground, names_of(streams, ground.names, some), labels, seed, device)


def first_cell(zoo: Zoo, source: str, method: str, stream: str) -> dict:
    """The cell that the panel begins with: as it is named, or for a table of your own the first
    that it has."""
    if zoo.ground is None:
        return {"source": source, "method": method, "stream": stream}
    names = zoo.streams()
    labels = zoo.methods()
    return {"source": zoo.sources[0], "method": method if method in labels else labels[0],
            "stream": stream if stream in names else names[0]}


# --- the heat map as numbers


# --- one run in numbers

def over_time(trace: Trace, windows: int = 30) -> dict:
    """Stretches of equal length of a run: ``position`` (middle, images), ``error`` (% of known
    images), ``kept`` and ``kept_unknown`` (share learned from of known and of unknown images), each
    (W,). ``kept`` is NaN for a method that learned from nothing."""
    n = len(trace)
    windows = max(1, min(windows, n))
    place = np.arange(n) * windows // max(n, 1)
    known = np.asarray(trace["known"], bool)
    scored = known & (np.asarray(trace["label"]) >= 0)
    kept = np.nan_to_num(np.asarray(trace["kept"], np.float64))

    def share(flags, among):
        whole = np.bincount(place[among], minlength=windows).astype(np.float64)
        return np.divide(np.bincount(place[among], np.asarray(flags, np.float64)[among], windows),
                         whole, out=np.full(windows, math.nan), where=whole > 0)

    learned = kept.any()
    return {"position": (np.arange(windows) + 0.5) * n / windows,
            "error": 100 * share(~np.asarray(trace["correct"], bool), scored),
            "kept": share(kept, known) if learned else np.full(windows, math.nan),
            "kept_unknown": share(kept, ~known) if learned and not known.all()
            else np.full(windows, math.nan)}


def entropies(trace: Trace, bins: int = 25) -> dict:
    """Histogram of the predictions' entropy over a whole run: ``edges`` (bins + 1,) from 0 to ln K
    nats, ``share`` (bins,), ``broken`` (NaN)."""
    values = np.asarray(trace["entropy"], np.float64)
    edges, share = base.entropy_shares(values, int(trace.meta["classes"]), bins)
    return {"edges": edges, "share": share, "broken": int(np.isnan(values).sum())}


def class_shares(trace: Trace) -> dict:
    """How often each class was predicted and, among known images with a label, how often it was
    true: ``predicted`` and ``true``, (K,) shares."""
    k = int(trace.meta["classes"])
    label = np.where(np.asarray(trace["known"], bool), trace["label"], -1)
    return {"predicted": base.class_shares(trace["prediction"], k),
            "true": base.class_shares(label, k)}


def numbers_of(trace: Trace, beside: dict[str, Trace] | None = None, name: str = "",
               classes=()) -> dict:
    """What `plots.zoo.plot_run_errors` and `plot_run_predictions` draw of a run, with other runs on
    the same stream by name (``beside``)."""
    def numbers(t):
        return {"time": over_time(t), "entropy": entropies(t), "shares": class_shares(t)}

    return {"name": name,
            "classes": list(classes) or [str(k) for k in range(int(trace.meta["classes"]))],
            **numbers(trace),
            "beside": {other: numbers(t) for other, t in (beside or {}).items() if len(t)}}


# --- repeating cells

def compared(zoo: Zoo, source: str, stream: str, label: str, tuning: str, seed: int, trace: Trace,
             seconds: float = math.nan) -> dict:
    """A finished run beside the stored number: ``error``, ``stored`` (NaN: none), ``difference``,
    ``same`` (None, or whether it is within `AGREES`), ``words``."""
    cell = zoo.cell(source, stream, label, tuning)
    found = row(trace)
    error = float(f"{found['error']:.5g}")
    stored = dict(zip(cell.get("seeds", ()), cell.get("errors", ()), strict=True)).get(seed,
                                                                                       math.nan)
    stored = math.nan if zoo.ground is not None else stored
    difference = error - stored
    same = None if math.isnan(stored) or not found["complete"] else abs(difference) <= AGREES
    if not found["complete"]:
        words = f"stopped after {found['images']} images, so there is nothing to compare"
    elif zoo.ground is not None:
        words = "nothing is stored of this model and these images"
    elif same is None:
        words = f"no number is stored for seed {seed}" + (
            f": {cell['refused']}" if cell.get("refused") else "")
    else:
        words = f"{'' if same else 'NOT '}reproduced: {stored:.2f} % is stored"
        other = [f"{what} {found[key]} instead of {cell[key]}" for key, what in (
                     ("stream_hash", "stream"), ("weights", "weights"), ("torch", "torch"))
                 if cell.get(key) and str(found[key]) != cell[key]
                 and (key != "stream_hash" or seed == cell["seeds"][0])]
        if difference:
            words += f", {points(difference, 2)}" + " away" * nothing(difference, 2)
            words += f" ({'; '.join(other)})" if other else ""
        else:
            words += ", to the last digit"
    key = {"source": source, "stream": stream, "method": label, "rate": cell.get("rate", 1.0),
           "seed": seed}
    return _line(key, tuning, seconds, words, error=error, stored=stored, same=same)


def repeat(zoo: Zoo, source: str, names, labels, tuning: str = "default", seed: int = 0,
           device="cpu", say=None) -> list[dict]:
    """Run cells again and put each beside the stored number, see `compared`. A method that refuses
    is a line with ``words``."""
    lines = []
    for stream in names:
        for label in labels:
            cell = zoo.cell(source, stream, label, tuning)
            rate = cell.get("rate", 1.0)
            start = time.perf_counter()
            trace, why = _tried(source, stream, label, 1.0 if math.isnan(rate) else rate, seed,
                                device=device)
            seconds = time.perf_counter() - start
            if trace is not None:
                line = compared(zoo, source, stream, label, tuning, seed, trace, seconds)
            else:
                stored = bool(cell.get("refused"))
                key = {"source": source, "stream": stream, "method": label, "rate": rate,
                       "seed": seed}
                line = _line(key, tuning, seconds, f"refuses{' as stored' * stored}: {why}",
                             same=stored)
            lines.append(line)
            if say is not None:
                say(f"{LABELS[stream]}, {label}: {line['words']}")
    return lines


def names_of(text: str, known, usual) -> list[str]:
    """Names out of "a, b"; "" stands for the usual ones. Raises ValueError, listing what there
    is."""
    names = [name.strip() for name in text.split(",") if name.strip()] or list(usual)
    for name in names:
        if name not in known:
            raise ValueError(f"there is no {name!r}; there are: {', '.join(known)}")
    return names


def save(lines: list[dict], path, **more) -> None:
    """Write repeated cells as JSON (no number: null), with the date and the versions they were made
    with."""
    write_numbers(path, {"cells": [{k: v for k, v in line.items() if k != "seconds"}
                                   for line in lines], **more})
