"""What every stream answers and can do, and the streams made of others: joined (``a + b``), or a
part of one (``a.cut(10, 20)``)."""
from __future__ import annotations

import hashlib
import itertools
import json
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..core import run_keys
from ..core.arguments import whole
from ..data.image_set import BaseSet
from .images import UNKNOWN_ID, Batch, BatchPlan
from .shifts import shift_of


class AbstractStream(ABC):
    """What all streams answer and can do. A new kind of stream has the abstract members; all else
    follows from them."""

    goes_on: ClassVar[bool] = False  # True: `run` adds its rows to the stream that was shown before

    @property
    @abstractmethod
    def known_set(self) -> BaseSet:
        """The images of the known classes."""

    @property
    @abstractmethod
    def unknown_set(self) -> BaseSet | None:
        """The images of unknown classes."""

    @property
    @abstractmethod
    def shifts(self) -> tuple[str, ...]:
        """The shift of each segment, as text."""

    @property
    @abstractmethod
    def severity(self) -> float:
        """Severity of the shifts that do not name their own; the largest of joined streams."""

    @property
    @abstractmethod
    def ratio(self) -> float:
        """Unknown / known images; the largest of joined streams."""

    @property
    @abstractmethod
    def reset(self) -> str:
        """What the runner does: "never", at each "domain" start, or before each "batch"."""

    @property
    @abstractmethod
    def seed(self) -> int:
        """Of the choice, the order and the noise; of joined streams that of the first."""

    @property
    @abstractmethod
    def n_images(self) -> int:
        """All images, known and unknown."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of batches."""

    @abstractmethod
    def plan(self) -> Iterator[BatchPlan]:
        """The batches in order, without their images."""

    @abstractmethod
    def batches(self, device="cpu", start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """The batches in order, from number ``start`` to before ``stop``, made on the device."""

    @abstractmethod
    def images_of(self, ids: Tensor, segment: int, device="cpu") -> Tensor:
        """The images with these ids as they come in a segment, float32 (B, C, H, W)."""

    @abstractmethod
    def settings(self) -> dict:
        """All settings as plain values, without the hash."""

    @property
    @abstractmethod
    def hash(self) -> str:
        """Twelve hex digits that change with any setting and with any pixel, label or class name
        of the sets, also when these change in place."""

    @property
    @abstractmethod
    def old_hash(self) -> str:
        """The hash as earlier versions wrote it, where files counted by their sizes."""

    @abstractmethod
    def check_rebuildable(self) -> None:
        """Raise ValueError when a set is not one that ``tta_lab.load`` finds by its name."""

    @property
    def whole(self) -> AbstractStream:
        """The stream that this is a part of, else itself."""
        return self

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains in order of first appearance; a batch's ``domain`` is an index into
        them."""
        return tuple(dict.fromkeys(self.segment_domains))

    @cached_property
    def segment_domains(self) -> tuple[str, ...]:
        """The name of the domain of each segment."""
        return tuple(shift_of(self.known_set, text).domain for text in self.shifts)

    @cached_property
    def segment_severities(self) -> tuple[float, ...]:
        """The severity of each segment; the largest of a composition, 0 for clean images."""
        return tuple(
            shift_of(self.known_set, text).severity(self.severity) for text in self.shifts)

    @cached_property
    def last_domain(self) -> str:
        """The domain of the last image."""
        last, = deque(self.plan(), maxlen=1)
        return self.segment_domains[int(last.segment[-1])]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the known classes; their number K is the label of an unknown image."""
        return self.known_set.classes

    def labels(self, ids: Tensor) -> Tensor:
        """Labels of these ids, int64 (B,); K for the unknown, -1 where the set has none."""
        known = ids < UNKNOWN_ID
        return torch.where(known, self.known_set.y[torch.where(known, ids, 0)], len(self.classes))

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def __add__(self, other: AbstractStream) -> Joined:
        if not isinstance(other, AbstractStream):
            return NotImplemented
        parts = [s.parts if isinstance(s, Joined) else (s,) for s in (self, other)]
        return Joined((*parts[0], *parts[1]))

    def cut(self, start: int, stop: int | None = None) -> Slice:
        """The batches ``start`` (inclusive) to ``stop`` (exclusive) as a stream of its own."""
        return Slice(self, whole("start", start),
                     len(self) if stop is None else whole("stop", stop))

    def facts(self, planned: BatchPlan) -> dict:
        """What a batch says beside its images."""
        domain = torch.tensor([self.domains.index(name) for name in self.segment_domains])
        severity = torch.tensor(self.segment_severities, dtype=torch.float64)
        return {
            "ids": planned.ids, "label": self.labels(planned.ids),
            "known": planned.ids < UNKNOWN_ID, "domain": domain[planned.segment],
            "severity": severity[planned.segment], "segment": planned.segment,
            "round": planned.round, "new_domain": planned.new_domain
        }

    def statistics(self) -> dict[str, float]:
        """What the order is really like: ``classes_per_batch`` (mean number of distinct known
        classes), ``run_length`` (mean length of runs of one class), ``domains_per_batch``,
        ``unknown`` (share), ``unlabelled`` (share), ``images``, ``batches``."""
        classes = 0
        domains = 0
        runs = 0
        unknown = 0
        unlabelled = 0
        n = 0
        batches = 0
        last = None
        for planned in self.plan():
            facts = self.facts(planned)
            label = facts["label"][facts["known"]]
            classes += len(label.unique())
            domains += len(facts["domain"].unique())
            if len(label):
                runs += int((label[1:] != label[:-1]).sum())
                runs += last is None or last != int(label[0])
                last = int(label[-1])
            unknown += int((~facts["known"]).sum())
            unlabelled += int((facts["label"] < 0).sum())
            n += len(planned)
            batches += 1
        return {
            "classes_per_batch": classes / batches, "run_length": (n - unknown) / max(runs, 1),
            "domains_per_batch": domains / batches, "unknown": unknown / n,
            "unlabelled": unlabelled / n, "images": n, "batches": batches
        }

    def picture(self, limit: int = 50_000) -> dict:
        """Order, domains and classes over time as arrays, for ``plots.plot_stream``; the first
        ``limit`` images."""
        columns: dict[str, list] = {
            name: [] for name in ("label", "known", "domain", "severity", "round", "batch")
        }
        n = 0
        for i, planned in enumerate(self.plan()):
            facts = {**self.facts(planned), "batch": i}
            for name, values in columns.items():
                value = facts[name]
                values.append(
                    value.numpy() if isinstance(value, Tensor) else np.full(len(planned), value))
            n += len(planned)
            if n >= limit:
                break
        arrays = {name: np.concatenate(values) for name, values in columns.items()}
        return {
            **arrays, "position": np.arange(n), "domains": list(self.domains),
            "classes": list(self.classes), "images": self.n_images, "window": max(1, n // 100)
        }

    def to_dict(self) -> dict:
        """All settings as plain values, the sets by name, and the hash; for records. ``to_json``
        also promises that the stream can be rebuilt."""
        return {**self.settings(), "hash": self.hash}

    def to_json(self) -> str:
        """A text from which ``Stream.from_json`` rebuilds exactly this stream; needs sets that
        ``tta_lab.load`` finds by name."""
        self.check_rebuildable()
        return json.dumps(self.to_dict(), indent=1)


def hash_of(values) -> str:
    """Twelve hex digits of plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Joined(AbstractStream):
    """Streams one after another, over the same image sets and with one reset rule: ``a + b``."""

    parts: tuple[AbstractStream, ...]

    def __post_init__(self):
        first = self.parts[0]
        for other in self.parts[1:]:
            known = [s.known_set.fingerprint() for s in (first, other)]
            unknown = [s.unknown_set and s.unknown_set.fingerprint() for s in (first, other)]
            differs = ("known images" if known[0] != known[1] else "unknown images"
                       if unknown[0] != unknown[1] and None not in unknown else "reset"
                       if first.reset != other.reset else "")
            if differs:
                names = ", ".join(
                    str(s.reset if differs == "reset" else s.known_set) for s in (first, other))
                raise ValueError(f"streams with different {differs} cannot be joined ({names}); "
                                 f"give both the same")

    @property
    def known_set(self):
        return self.parts[0].known_set

    @cached_property
    def unknown_set(self):
        return next((p.unknown_set for p in self.parts if p.unknown_set is not None), None)

    @cached_property
    def shifts(self):
        return tuple(shift for part in self.parts for shift in part.shifts)

    @cached_property
    def segment_domains(self):
        return tuple(name for part in self.parts for name in part.segment_domains)

    @cached_property
    def segment_severities(self):
        return tuple(value for part in self.parts for value in part.segment_severities)

    @property
    def severity(self):
        return max(p.severity for p in self.parts)

    @property
    def ratio(self):
        return max(p.ratio for p in self.parts)

    @property
    def reset(self):
        return self.parts[0].reset

    @property
    def seed(self):
        return self.parts[0].seed

    @property
    def n_images(self):
        return sum(p.n_images for p in self.parts)

    def __len__(self):
        return sum(map(len, self.parts))

    def _places(self) -> Iterator[tuple[AbstractStream, int, int]]:
        """(part, its first batch, its first segment)."""
        batch = 0
        segment = 0
        for part in self.parts:
            yield part, batch, segment
            batch += len(part)
            segment += len(part.shifts)

    def plan(self):
        for part, _, first in self._places():
            for a in part.plan():
                yield replace(a, segment=a.segment + first)

    def batches(self, device="cpu", start=0, stop=None):
        """The batches of one part after another."""
        stop = len(self) if stop is None else stop
        border = None  # the domain of the image before
        for i, (part, before, first) in enumerate(self._places()):
            low = max(start - before, 0)
            high = min(stop - before, len(part))
            if low >= high:
                continue
            if i and start == before:
                border = self.domains.index(self.parts[i - 1].last_domain)
            where = torch.tensor([self.domains.index(name) for name in part.domains])
            for batch in part.batches(device, low, high):
                domain = where[batch.domain]
                fresh = batch.new_domain and int(domain[0]) != border
                border = int(domain[-1])
                yield replace(batch, domain=domain, segment=batch.segment + first, new_domain=fresh)

    def images_of(self, ids, segment, device="cpu"):
        part, _, first = [place for place in self._places() if place[2] <= segment][-1]
        return part.images_of(ids, segment - first, device)

    def settings(self):
        return {"kind": "joined", "parts": [p.to_dict() for p in self.parts]}

    @property
    def hash(self):
        return hash_of([p.hash for p in self.parts])

    @property
    def old_hash(self):
        return hash_of([p.old_hash for p in self.parts])

    def check_rebuildable(self):
        for part in self.parts:
            part.check_rebuildable()


def _within(name: str) -> property:
    return property(lambda self: getattr(self.stream, name))


@dataclass(frozen=True)
class StreamWrapper(AbstractStream):
    """A stream that answers all as the one within; derive from it and change what differs.

    Its record and hash also hold the code of its class and its fields. A class that changes no
    image says ``same_images = True`` itself; then they are those of the stream within.
    """

    stream: AbstractStream
    same_images: ClassVar[bool] = False

    known_set = _within("known_set")
    unknown_set = _within("unknown_set")
    shifts = _within("shifts")
    segment_domains = _within("segment_domains")
    segment_severities = _within("segment_severities")
    severity = _within("severity")
    ratio = _within("ratio")
    reset = _within("reset")
    seed = _within("seed")
    n_images = _within("n_images")

    @property
    def _own(self) -> dict:
        """What it adds to the record; nothing where its class changes no image."""
        if vars(type(self)).get("same_images"):
            return {}
        kind = type(self)
        values = {f.name: run_keys.plain(getattr(self, f.name)) for f in fields(self)
                  if f.compare and f.name != "stream"}
        return {"kind": kind.__qualname__, "code": run_keys.code_of(kind), "fields": values}

    @property
    def hash(self):
        own = self._own
        return hash_of([self.stream.hash, own]) if own else self.stream.hash

    @property
    def old_hash(self):
        own = self._own
        return hash_of([self.stream.old_hash, own]) if own else self.stream.old_hash

    @property
    def whole(self):
        return self if self._own else self.stream.whole

    def __len__(self):
        return len(self.stream)

    def plan(self):
        return self.stream.plan()

    def batches(self, device="cpu", start=0, stop=None):
        return self.stream.batches(device, start, stop)

    def images_of(self, ids, segment, device="cpu"):
        return self.stream.images_of(ids, segment, device)

    def settings(self):
        own = self._own
        return {**own, "stream": self.stream.to_dict()} if own else self.stream.settings()

    def check_rebuildable(self):
        if self._own:
            raise ValueError(f"{type(self).__name__} is a class of yours that changes a stream, so "
                             f"this stream cannot be rebuilt from text; keep the class and the "
                             f"constructor call in your own script")
        self.stream.check_rebuildable()


@dataclass(frozen=True)
class Slice(StreamWrapper):
    """Some batches of a stream: ``stream.cut(start, stop)``."""

    start: int
    stop: int
    same_images: ClassVar[bool] = True

    def __post_init__(self):
        if not 0 <= self.start < self.stop <= len(self.stream):
            raise ValueError(f"the stream has {len(self.stream)} batches; cut({self.start}, "
                             f"{self.stop}) must be a range within 0 and "
                             f"{len(self.stream)} that is not empty")

    def __len__(self):
        return self.stop - self.start

    @cached_property
    def n_images(self):
        return sum(map(len, self.plan()))

    def plan(self):
        return itertools.islice(self.stream.plan(), self.start, self.stop)

    def batches(self, device="cpu", start=0, stop=None):
        """The batches of this part; those before it are skipped without making their images."""
        stop = len(self) if stop is None else min(stop, len(self))
        return self.stream.batches(device, self.start + start, self.start + stop)

    def settings(self):
        return {
            "kind": "cut", "stream": self.stream.to_dict(), "start": self.start, "stop": self.stop
        }

    @property
    def hash(self):
        return hash_of([self.stream.hash, self.start, self.stop])

    @property
    def old_hash(self):
        return hash_of([self.stream.old_hash, self.start, self.stop])
