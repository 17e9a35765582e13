"""What every study is made of: a plan, which is a frozen value, single runs, results that are
saved, and means over seeds and images."""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from ..components.source.prepare import prepare
from ..core.adapter import Adapter
from ..core.trace import Trace
from ..data.load import images_of
from ..streams.cached import CachedStream
from . import own
from .report import paragraphs, write_numbers


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is run: the defaults are the full plan, ``fast`` says what the fast one has instead.
    Zero means "as the mode says" when a plan comes from `of`."""

    seeds: int = 3
    first_seed: int = 0
    model: str = own.MODEL
    images: str = own.IMAGES
    notes: tuple = ()  # what was decided for model and images, in sentences

    fast: ClassVar[dict] = {}

    @classmethod
    def of(cls, fast: bool, *, model: str = "", images: str = "", trust: bool = False,
           **given) -> Self:
        """The full plan, or the fast one, with those settings replaced that are not zero; ``model``
        and ``images`` are texts, "" the embedded ones. Raises ValueError for an unknown setting,
        and as `own.pair_of` does."""
        names = list(cls.defaults())
        unknown = [name for name in given if name not in names]
        if unknown:
            raise ValueError(f"a plan has no setting {unknown[0]!r}; it has: {', '.join(names)}")
        size = cls.fast if fast else {}
        size = size | {k: v for k, v in given.items() if v or k == "first_seed"}
        if not model and not images:
            return cls(**size)
        pair = own.pair_of(model, images, trust)
        return cls(**size | {"model": pair.model, "images": pair.images}).on(pair)

    @classmethod
    def defaults(cls) -> dict:
        """The settings of the full plan, the study's own first."""
        everywhere = {f.name for f in fields(Plan)}
        return {f.name: f.default
                for f in sorted(fields(cls), key=lambda f: f.name in everywhere)}

    def on(self, pair: own.Pair) -> Self:
        """The same plan with what a model and images allow, and ``notes`` on it."""
        raise NotImplementedError

    def arguments(self) -> str:
        """What differs from the full plan, as arguments of ``Plan``."""
        return ", ".join(f"{name}={getattr(self, name)!r}"
                         for name, default in self.defaults().items()
                         if name != "notes" and getattr(self, name) != default)

    @property
    def embedded(self) -> bool:
        """Whether model and images are those of the study's own numbers."""
        return (self.model, self.images) == (own.MODEL, own.IMAGES)

    @property
    def classes(self) -> int:
        """How many classes the images have."""
        return len(own.images_of(self.images).classes)

    @property
    def all_seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def seed_row(self) -> dict[str, str]:
        """The seeds for `described`."""
        return {f"Seed{'s' * (self.seeds > 1)}": ", ".join(map(str, self.all_seeds))}

    @property
    def seed_words(self) -> str:
        """The seeds in a sentence: "seed 3", "seeds 0, 1"."""
        return " ".join(f"{name.lower()} {text}" for name, text in self.seed_row.items())

    def described(self, rows: dict[str, str], width: int, *notes) -> str:
        """The plan in lines: a label and its text each ("": left out); below them ``notes``, lists
        of sentences, and those of the plan."""
        lines = [f"{f'{label}:':<{width}}{text}" for label, text in rows.items() if text]
        return "\n\n".join(["\n".join(lines),
                            *(paragraphs(some) for some in (*notes, self.notes) if some)])


@dataclass
class Study:
    """The results of a plan."""

    plan: Plan

    def made(self) -> dict:
        """What is written beside the date and the versions."""
        return {}

    def to_dict(self) -> dict:
        """Everything a regression test or a later reader needs, as plain values."""
        return {"plan": vars(self.plan)}


def save(result: Study, path: str | Path, **more) -> None:
    """Write the numbers of a study as JSON (no number: null), with the date and the versions they
    were made with."""
    write_numbers(path, {**result.to_dict(), **more}, **result.made())


def adapter_for(model, recipe, *, seed: int = 0, device="cpu", shared: dict | None = None,
                source_images=None, cache=None, record: str = "source", **more) -> Adapter:
    """An adapter that records the frozen source too. ``shared`` hands the source's outputs from run
    to run on the same stream; what the recipe needs of the source domain is made of
    ``source_images`` (or read from the folder ``cache``)."""
    info = None
    if source_images is not None:
        info = prepare(model, recipe, images_of(source_images), device=device, cache=cache)
    adapter = Adapter(model, recipe, seed=seed, device=device, record=record, source_info=info,
                      **more)
    if shared is not None:
        adapter.shared_source = shared
    return adapter


def finished(traces: dict[str, Trace]) -> dict[str, Trace]:
    """The runs that came to their end."""
    return {name: trace for name, trace in traces.items() if trace.meta["complete"]}


def deviation(values, axis: int = 0) -> np.ndarray:
    """Standard deviation over seeds (ddof 1), NaN for one seed."""
    values = np.asarray(values, np.float64)
    if values.shape[axis] > 1:
        return values.std(axis, ddof=1)
    return np.full_like(values.mean(axis), math.nan)


def points_of(*parts) -> tuple[float, float]:
    """The sum of the means of independent samples, one number an image each, in points, and its
    standard error over images."""
    parts = [np.asarray(part, np.float64) for part in parts]
    error = math.sqrt(sum(part.var(ddof=1) / len(part) for part in parts))
    return 100 * float(sum(part.mean() for part in parts)), 100 * error


def smaller(plan: Plan, *names: str, **changed) -> Plan:
    """The same plan with one seed, and these settings at most as large as in the fast plan: what a
    panel runs while somebody waits."""
    most = {name: min(getattr(plan, name), plan.fast[name]) for name in names}
    return replace(plan, **most, seeds=1, **changed)


def cached(seeds, stream, *arguments) -> Callable:
    """``stream(*arguments, seed)`` of each seed, its images made once: a function of the seed."""
    made = {seed: CachedStream(stream(*arguments, seed)) for seed in seeds}
    return made.__getitem__


def kept_share(trace: Trace) -> float:
    """Share of the images that were learned from."""
    return float(trace.step("n_kept").sum() / trace.step("n").sum())


def rows_of(runs: dict, *names: str) -> list[dict]:
    """Runs by key, the seed last, as one dict each, with the parts of the key under ``names``."""
    return [dict(zip((*names, "seed"), key, strict=True)) | numbers
            for key, numbers in runs.items()]


def share_of(flags) -> float:
    """Share of those that are true; NaN where there are none."""
    return float(np.mean(flags)) if len(flags) else math.nan


def with_rounds(runs: dict) -> dict:
    """Runs whose numbers say the error of each round, rounded, in place of `error_per_round`."""
    return {key: {name: value for name, value in numbers.items() if name != "per_round"}
            | {"error_per_round": [round(float(e), 3) for e in numbers["per_round"]["error"]]}
            for key, numbers in runs.items()}


def entropy_shares(values, classes: int, bins: int = 25) -> tuple[np.ndarray, np.ndarray]:
    """Histogram of entropies without NaN: edges (bins + 1,) from 0 to ln K nats, shares (bins,)."""
    edges = np.linspace(0, math.log(max(classes, 2)), bins + 1)
    good = np.asarray(values, np.float64)
    good = np.clip(good[~np.isnan(good)], 0, edges[-1])
    return edges, np.histogram(good, edges)[0] / max(len(good), 1)


def class_shares(classes, k: int) -> np.ndarray:
    """How often each of K classes occurs among those that are not negative, (K,)."""
    classes = np.asarray(classes, np.int64)
    classes = classes[classes >= 0]
    return np.bincount(classes, minlength=k)[:k] / max(len(classes), 1)


def effective_number(classes) -> float:
    """exp of the entropy of the shares of the classes that are not negative; NaN without any."""
    classes = np.asarray(classes, np.int64)
    share = np.bincount(classes[classes >= 0])
    share = share[share > 0] / share.sum()
    return math.exp(-(share * np.log(share)).sum()) if len(share) else math.nan
