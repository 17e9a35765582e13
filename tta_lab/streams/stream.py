"""Streams: which images arrive in which order, under which shift, with which unknowns among them.

A ``Stream`` is a frozen, seeded value: printing it says what will be shown, its JSON rebuilds it,
and iterating it twice gives the same batches. Streams can be joined (``a + b``), cut (``a.cut(10,
20)``), drawn (``plots.plot_stream(a.picture())``) and measured (``a.statistics()``). Labels and
domains in a batch are for scoring only. Memory does not grow with the length of a stream. The
protocols of the literature are functions in ``protocols``.
"""
from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..core.arguments import WrongKind, flag, nearest, number, shown, whole
from ..data.corruptions import (
    CLEAN,
    CORRUPTIONS,
    STANDARD_SIX,
    check_severity,
    parameters,
    parse_shift,
)
from ..data.image_set import BaseSet
from . import orders
from .base import AbstractStream, Joined, Slice, hash_of
from .images import UNKNOWN_ID, Batch, BatchPlan, image_set_of, make_images
from .orders import KeyedGenerator, Order, Shuffled
from .sampling import Sampler, shuffled
from .shifts import as_shifts, own_rows, shift_of

CACHE_BYTES = 512 * 2**20   # corrupted images that one iteration may hold, as bytes per pixel value
RESETS = ("never", "domain", "batch")
MIXING = ("batch", "shuffled", "burst")



@dataclass(frozen=True)
class Stream(AbstractStream):
    """Known images under one shift after another, for one or more rounds, with or without unknown
    images.

    known          set of the known classes: an image set, or a text for ``tta_lab.load``
    shifts         texts in order: a domain that the set itself holds, or a corruption; "fog",
                   "fog:2.5" (its own severity),
                   "gaussian_noise:2+fog:1" (one on the other), "none" is clean. A name may come
                   more than once; spaces around names and numbers mean nothing
    severity       0 to 5, of the shifts that do not name their own
    per_shift      known images of each shift; None takes all that the set has for it
    batch          known images of each batch (all images of it with unknown_mode "shuffled" or
                   "burst"); the last batch of a
                   shift may be shorter and is kept
    rounds         how often the list of shifts is gone through
    order          how the images of a shift arrive: an ``Order``, e.g. Shuffled(),
                   SortedByClass(), Dirichlet(0.1), Recorded()
    mixed          all shifts of a round pooled; the order then is that of the pool
    straddle       batches may reach over the border of two shifts
    same_order     one permutation for all shifts, as benchmark code does that seeds each loader
                   alike
    unknown        set of the unknown images, or None
    unknown_ratio  rho = unknown / known. None means 1 with unknown images and 0 without
    unknown_mode   "batch": round(rho n) unknown after the n known of every batch, under the same
                   corruption; "shuffled": all
                   unknown of a shift anywhere among its known; "burst": all of them in one stretch
    reset          what the runner does: "never", at each "domain" start, or before each "batch"
    redraw         False: every round shows the same images again, in another order (the published
                   long-term protocol).
                   True: every round has new images, as long as the set lasts
    seed           of the choice, the order and the noise

    Which images: a class-balanced permutation is spread over the shifts one after another, so they
    share no image while the set lasts; when it is used up, a new one is drawn. No shift shows
    a known image twice, but for orders that draw with replacement; unknown images repeat within a
    shift only where more are wanted than there are. With ``redraw`` this goes on from round
    to round. Within a shift the order is made anew each round. ``Recorded`` order takes rows as
    they lie.
    """

    known: str | BaseSet = "fashion_mnist"
    shifts: tuple[str, ...] = STANDARD_SIX
    severity: float = 5
    per_shift: int | None = 300
    batch: int = 100
    rounds: int = 1
    order: Order = Shuffled()
    mixed: bool = False
    straddle: bool = False
    same_order: bool = False
    unknown: str | BaseSet | None = None
    unknown_ratio: float | None = None
    unknown_mode: str = "batch"
    reset: str = "never"
    redraw: bool = False
    seed: int = 0

    def __post_init__(self):
        shifts = as_shifts(self.shifts, "Stream.shifts")
        known = self.known_set
        own = tuple(getattr(known, "domains", ()))
        object.__setattr__(self, "shifts", tuple(shift_of(known, text).text for text in shifts))
        if not self.shifts:
            raise ValueError(f"Stream.shifts is empty; name at least one of "
                             f"{', '.join(own or STANDARD_SIX)} or 'none'")
        check_severity(self.severity)
        object.__setattr__(self, "severity", float(self.severity))
        for name in ("batch", "rounds"):
            object.__setattr__(self, name, whole(f"Stream.{name}", getattr(self, name), 1))
        if self.per_shift is not None:
            object.__setattr__(self, "per_shift", whole("Stream.per_shift", self.per_shift, 1))
        object.__setattr__(self, "order", orders.from_dict(self.order))
        object.__setattr__(self, "seed", whole("Stream.seed", self.seed, -2**63, 2**63 - 1))
        for name, allowed in (("reset", RESETS), ("unknown_mode", MIXING)):
            if not isinstance(getattr(self, name), str) or getattr(self, name) not in allowed:
                raise ValueError(f"Stream.{name} must be one of {', '.join(allowed)}, got "
                                 f"{getattr(self, name)!r}")
        for name in ("redraw", "mixed", "straddle", "same_order"):
            object.__setattr__(self, name, flag(f"Stream.{name}", getattr(self, name)))
        if not len(known):
            raise ValueError(f"the known set {known.name} is empty")
        if len(known) > UNKNOWN_ID:
            raise ValueError(f"{known.name} has more than {UNKNOWN_ID} images; take a part of it")
        self._check_shifts(known, own)
        self._check_combination(known)
        self._check_unknown(known)

    def _check_shifts(self, known, own):
        for shift in self.shifts:
            parsed = shift_of(known, shift)
            if parsed.held:  # "fog" of a set that holds fog; a composition is always made here
                severity = parsed.severity(self.severity)
                check_severity(severity)
                known.check_domain(parsed.domain, severity)
            else:
                self._check_names(known, own, parsed)
                for name, severity in parse_shift(shift, self.severity):
                    if severity:
                        parameters(name, severity, min(known.shape[1:]))
            available = self._available(shift)
            wanted = 0 if self.per_shift is None or self.order.replacement else self.per_shift
            if wanted > available:
                where = (known.name if available == len(known) else f"{known.name} in the domain "
                                                                    f"{shift}")
                raise ValueError(f"Stream.per_shift is {self.per_shift}, but {where} has "
                                 f"{available} images and a shift shows "
                                 f"each at most once; choose per_shift <= {available} or more "
                                 f"rounds")

    @staticmethod
    def _check_names(known, own, shift):
        """Of a set that holds domains itself: an unknown name may be meant for one of those."""
        for name in shift.names if own else ():
            if name not in CORRUPTIONS and name not in CLEAN:
                others = f"{', '.join(own[:20])}{', ...' if len(own) > 20 else ''}"
                holds = (f"holds {name!r} itself, but a composition is made here"
                         if name in own else f"holds no domain {name!r}, only {others}")
                raise ValueError(f"{known.name} {holds}, and there is no corruption {name!r} "
                                 f"either; there are: {', '.join(CORRUPTIONS)}, and "
                                 "'none' for clean images" +
                                 ("" if name in own else nearest(name, (*own, *CORRUPTIONS))))

    def _check_combination(self, known):
        if self.order.needs_labels and (known.y < 0).any():
            raise ValueError(f"order={type(self.order).__name__} arranges images by their class, "
                             f"but {int((known.y < 0).sum())} of the "
                             f"{len(known)} images of {known.name} have no label; take "
                             f"order=Shuffled() or order=Recorded()")
        if self.reset == "domain" and (self.mixed or self.straddle):
            which = "mixed" if self.mixed else "straddle"
            raise ValueError(f"reset='domain' needs borders between domains, but {which}=True has "
                             f"none; choose reset='never' or 'batch'")
        if self.mixed and self.straddle:
            raise ValueError("mixed=True pools all shifts, so there is no border to straddle; "
                             "leave straddle out")
        if self.order.recorded and (self.mixed or self.same_order or self.redraw):
            raise ValueError("order=Recorded() keeps the order of the files; it goes with neither "
                             "mixed, same_order nor redraw")
        if self.same_order and self.per_shift is not None and self.per_shift < len(
                known) and own_rows(known, self.shifts[0]) is None:
            raise ValueError("same_order=True shows the same permutation of the same images under "
                             "each shift: take per_shift=None")

    def _check_unknown(self, known):
        ratio = self.unknown_ratio
        if ratio is not None:
            ratio = number("Stream.unknown_ratio", ratio, 0)
            object.__setattr__(self, "unknown_ratio", ratio)
        if self.unknown is None:
            if ratio:
                raise ValueError(f"Stream.unknown_ratio is {ratio}, but there are no unknown "
                                 f"images; give unknown='digits' or "
                                 "another set, or leave the ratio out")
            return
        unknown = self.unknown_set
        if unknown is known or unknown.fingerprint() == known.fingerprint():
            raise ValueError(f"known and unknown are the same set ({known.name}); for near "
                             f"unknowns take known='fashion_mnist_8' "
                             "and unknown='fashion_mnist_held_out'")
        if tuple(unknown.shape) != tuple(known.shape):
            raise ValueError(f"known images ({known.name}) are {tuple(known.shape)}, unknown ones "
                             f"({unknown.name}) are "
                             f"{tuple(unknown.shape)}; resize one of the sets, batches need one "
                             f"shape")
        if not len(unknown):
            raise ValueError(f"the unknown set {unknown.name} is empty; give another one or "
                             f"unknown=None")

    # --- sizes ----------------------------------------------------------------------------------

    @cached_property
    def known_set(self):
        return image_set_of(self.known, "known")

    @cached_property
    def unknown_set(self):
        return None if self.unknown is None else image_set_of(self.unknown, "unknown")

    @property
    def ratio(self) -> float:
        """Unknown / known images, with the default filled in."""
        return (float(
            self.unknown is not None) if self.unknown_ratio is None else float(self.unknown_ratio))

    def _available(self, shift: str) -> int:
        rows = own_rows(self.known_set, shift)
        return len(self.known_set) if rows is None else len(rows)

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Known images of each shift."""
        return tuple(
            self._available(shift) if self.per_shift is None else self.per_shift
            for shift in self.shifts)

    @property
    def _pools(self) -> list[list[int]]:
        """Segments that are cut into batches together."""
        every = list(range(len(self.shifts)))
        return [every] if self.mixed or self.straddle else [[i] for i in every]

    def _sizes(self, known: int) -> list[tuple[int, int]]:
        """(known, unknown) images of each batch of a pool of so many known images; only the sum
        counts where they are shuffled."""
        if self.unknown_mode == "batch":
            parts = [min(self.batch, known - start) for start in range(0, known, self.batch)]
            return [(n, math.floor(self.ratio * n + 0.5)) for n in parts]
        unknown = math.floor(self.ratio * known + 0.5)
        return [(known, unknown)]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(known, unknown) images of each batch of the first shift."""
        return self._sizes(self.counts[0])

    def _pool_sizes(self) -> list[list[tuple[int, int]]]:
        return [self._sizes(sum(self.counts[i] for i in pool)) for pool in self._pools]

    def __len__(self) -> int:
        if self.unknown_mode == "batch":
            return self.rounds * sum(map(len, self._pool_sizes()))
        return (self.rounds *
                sum(math.ceil(sum(sizes[0]) / self.batch) for sizes in self._pool_sizes()))

    @property
    def n_images(self) -> int:
        """All images of all rounds, known and unknown."""
        return self.rounds * sum(sum(map(sum, sizes)) for sizes in self._pool_sizes())

    # --- who is shown when ----------------------------------------------------------------------

    def _segments(self) -> Iterator[tuple[int, int, Tensor, Tensor]]:
        """(round, segment, known ids, unknown ids) of each segment in turn, one at a time."""
        wanted = {}
        for pool, sizes in zip(self._pools, self._pool_sizes(), strict=True):
            extra = sum(unknown for _, unknown in sizes)
            share = np.diff(
                np.round(
                    np.cumsum([0, *(self.counts[i] for i in pool)]) * extra /
                    max(sum(self.counts[i] for i in pool), 1)))
            wanted.update(zip(pool, share.astype(int).tolist(), strict=True))
        for round_ in range(self.rounds):
            if round_ == 0 or not self.redraw:
                known = Sampler(self.known_set, self.seed, "known", self.order.recorded)
                unknown = Sampler(self.unknown_set, self.seed, "unknown", self.order.recorded)
            for i, shift in enumerate(self.shifts):
                if self.order.replacement:
                    rows = own_rows(self.known_set, shift)
                    ids = torch.arange(len(self.known_set)) if rows is None else rows
                else:
                    ids = known.sample(shift, self.counts[i])
                if self.same_order:
                    ids = ids.sort().values
                extra = unknown.sample(shift, wanted[i]) + UNKNOWN_ID if wanted[i] else ids[:0]
                yield round_, i, ids, extra

    @cached_property
    def segment_ids(self) -> list[list[Tensor]]:
        """Ids of the images of each shift of each round, the known ones first:
        ``segment_ids[round][shift]``, int64. Held in memory all at once: for looking; ``plan`` goes
        through them one by one."""
        rounds: list[list[Tensor]] = [[] for _ in range(self.rounds)]
        for round_, _, known, unknown in self._segments():
            rounds[round_].append(torch.cat([known, unknown]))
        return rounds

    def plan(self) -> Iterator[BatchPlan]:
        """The batches in order, without their images."""
        segments = self._segments()
        for round_ in range(self.rounds):
            last = None
            for pool in self._pools:
                segment_ids = {
                    i: (known, unknown)
                    for _, i, known, unknown in itertools.islice(segments, len(pool))
                }
                known, unknown = self._arranged(round_, pool, segment_ids)
                fresh = None if self.mixed else self.segment_domains[pool[0]]
                first = fresh != last or last is None
                last = fresh
                for segment, place in self._batches(known, unknown, round_, pool):
                    ids = torch.empty_like(place)
                    for i in segment.unique().tolist():
                        rows = segment == i
                        ids[rows] = torch.cat(segment_ids[i])[place[rows]]
                    yield BatchPlan(ids, segment, place, round_, first, segment_ids)
                    first = False

    def _arranged(self, round_: int, pool: list[int],
                  segment_ids: dict) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """(segment, place) of the known and of the unknown images of a pool in order of arrival."""
        generator = KeyedGenerator(self.seed, "order")
        segment = torch.cat([torch.full((len(segment_ids[i][0]),), i) for i in pool])
        place = torch.cat([torch.arange(len(segment_ids[i][0])) for i in pool])
        labels = torch.cat([self.known_set.y[segment_ids[i][0]] for i in pool])
        if self.mixed:
            rows = self.order.arrange(labels, sum(self.counts), generator.at(round_, "mixed"))
        else:
            rows = []
            for i in pool:
                here = (segment == i).nonzero().flatten()
                keyed = generator.at(round_) if self.same_order else generator.at(round_, i)
                rows.append(here[self.order.arrange(labels[here], self.counts[i], keyed)])
            rows = torch.cat(rows)
        other_segment = torch.cat([torch.full((len(segment_ids[i][1]),), i) for i in pool])
        other_place = torch.cat([
            torch.arange(len(unknown)) + len(known) for known, unknown in map(segment_ids.get, pool)
        ])
        others = []
        for i in pool:
            here = (other_segment == i).nonzero().flatten()
            others.append(here if self.order.recorded else here[shuffled(
                len(here), self.seed, "order of unknown", round_, i)])
        others = torch.cat(others)
        if self.mixed:
            others = others[shuffled(len(others), self.seed, "order of unknown", round_, "mixed")]
        return (segment[rows], place[rows]), (other_segment[others], other_place[others])

    def _batches(self, known, unknown, round_: int,
                 pool: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """(segment, place) of each batch of a pool."""
        if self.unknown_mode == "batch":
            for n, u in self._sizes(len(known[0])):
                yield tuple(torch.cat([a[:n], b[:u]]) for a, b in zip(known, unknown, strict=True))
                known = tuple(a[n:] for a in known)
                unknown = tuple(b[u:] for b in unknown)
            return
        n, u = len(known[0]), len(unknown[0])
        generator = KeyedGenerator(self.seed, "place of unknown").at(round_, pool[0])
        anywhere = self.unknown_mode == "shuffled"
        places = (generator.permutation(n +
                                        u)[:u] if anywhere else int(generator.uniform(1) *
                                                                    (n + 1)) + torch.arange(u))
        is_unknown = torch.zeros(n + u, dtype=torch.bool)
        is_unknown[places] = True
        merged = []
        for a, b in zip(known, unknown, strict=True):
            both = torch.empty(n + u, dtype=a.dtype)
            both[~is_unknown], both[is_unknown] = a, b
            merged.append(both)
        yield from zip(*(m.split(self.batch) for m in merged), strict=True)

    # --- images ---------------------------------------------------------------------------------

    def images(self, ids: Tensor, shift: str = "none", device="cpu") -> Tensor:
        """The images with these ids under a shift, float32 (B, C, H, W); the same as in the
        batches."""
        return make_images(self.known_set, self.unknown_set, ids, shift, self.severity, self.seed,
                           device)

    def images_of(self, ids, segment, device="cpu"):
        return self.images(ids, self.shifts[segment], device)

    def batches(self, device="cpu", start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """The batches in order (from number ``start`` to before ``stop``), corrupted on the device.

        Where rounds repeat the same images, each is corrupted once and kept as bytes on the
        device, up to CACHE_BYTES (512 MiB); shifts beyond that are corrupted again each round,
        with the same result.
        """
        repeats = self.rounds > 1 and not self.redraw and not self.order.replacement
        kept, room = {}, CACHE_BYTES if repeats else 0
        for planned in itertools.islice(self.plan(), start, stop):
            parts = []
            for i in planned.segment.unique().tolist():
                rows = (planned.segment == i).nonzero().flatten()
                if i not in kept and room:
                    ids = torch.cat(planned.segment_ids[i])
                    cost = len(ids) * math.prod(self.known_set.shape)
                    if cost <= room:
                        made = [
                            self.images(part, self.shifts[i], device) for part in ids.split(500)
                        ]
                        kept[i] = torch.cat([(part * 255).round().to(torch.uint8) for part in made])
                        room -= cost
                made = kept[i][planned.place[rows].to(device)].float() / 255 if i in kept else None
                parts.append((rows, self.images(planned.ids[rows], self.shifts[i], device)
                              if made is None else made))
            x = parts[0][1]
            if len(parts) > 1:
                x = torch.empty(len(planned), *x.shape[1:], device=device)
                for rows, part in parts:
                    x[rows.to(device)] = part
            yield Batch(x, **self.facts(planned))

    # --- records --------------------------------------------------------------------------------

    def settings(self) -> dict:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {
            "known": self.known_set.name,
            "unknown": None if self.unknown is None else self.unknown_set.name
        }
        return {
            "kind": "stream", **values, "shifts": list(self.shifts), "order": self.order.to_dict()
        }

    @property
    def hash(self) -> str:
        """Twelve hex digits that change with any setting and with any pixel, label or class name
        of the sets, also when these change in place."""
        return self._hash("fingerprint")

    @property
    def old_hash(self) -> str:
        """The hash as earlier versions wrote it, where files counted by their sizes."""
        return self._hash("old_fingerprint")

    def _hash(self, which: str, **spelt) -> str:
        known, unknown = (None if s is None else getattr(s, which, s.fingerprint)()
                          for s in (self.known_set, self.unknown_set))
        return hash_of({
            **self.settings(), "known": known, "unknown_ratio": self.ratio, "unknown": unknown,
            **spelt
        })

    def check_rebuildable(self):
        for role in ("known", "unknown"):
            given = getattr(self, role)
            if given is not None and not isinstance(given, str):
                try:
                    same = image_set_of(given.name, role).fingerprint() == given.fingerprint()
                except (ValueError, RuntimeError):
                    same = False
                if not same:
                    raise ValueError(f"the {role} set {given.name!r} is not one that "
                                     f"tta_lab.load finds by this name, so this stream cannot "
                                     "be rebuilt from text; use a name of tta_lab.load "
                                     "('fashion_mnist[0,1]', 'folder:PATH'), or keep "
                                     "the set and the constructor call in your own script")

    @staticmethod
    def from_json(text: str) -> AbstractStream:
        """Rebuild a stream from ``to_json``; raises ValueError when the text is damaged or the
        images have changed."""
        if not isinstance(text, str | bytes):
            raise WrongKind(f"the JSON of a stream is a text, as Stream.to_json() writes it, not "
                            f"{shown(text)}")
        try:
            values = json.loads(text)
        except ValueError as why:
            raise ValueError(f"this is not the JSON of a stream ({why}); write it with "
                             f"Stream.to_json()") from why
        return _rebuilt(values)


def _rebuilt(values) -> AbstractStream:
    kinds = {"stream": Stream, "joined": Joined, "cut": Slice}
    if not isinstance(values, dict) or values.get("kind") not in kinds:
        found = sorted(values) if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"the JSON of a stream has an entry 'kind' ({', '.join(kinds)}) and its "
                         f"settings, this one has {found}; "
                         "write it again with Stream.to_json()")
    kind = kinds[values["kind"]]
    names = {f.name for f in fields(kind)} | {"hash", "kind"}
    if set(values) != names:
        raise ValueError(f"the JSON of a {values['kind']} has the entries {sorted(names)}, this "
                         f"one has {sorted(values)}; "
                         "write it again with Stream.to_json()")
    given = {k: v for k, v in values.items() if k not in ("hash", "kind")}
    if kind is Joined:
        if not isinstance(given["parts"], list) or not given["parts"]:
            raise ValueError("the JSON of a joined stream lists its 'parts'; write it again with "
                             "Stream.to_json()")
        given["parts"] = tuple(_rebuilt(part) for part in given["parts"])
    if kind is Slice:
        given["stream"] = _rebuilt(given["stream"])
    stream = kind(**given)
    as_written = (_hash_as_written(stream, values, which)
                  for which in ("fingerprint", "old_fingerprint"))
    if values["hash"] not in (stream.hash, stream.old_hash, *as_written):
        raise ValueError(f"the stream rebuilt from JSON has hash {stream.hash}, the text says "
                         f"{values['hash']}: settings were edited or "
                         "the image files differ; build the stream anew with Stream(...)")
    return stream


def _hash_as_written(stream, values: dict, which: str) -> str:
    """The hash of the settings as the text spells them: spaces within its shifts, which mean
    nothing, once counted."""
    if isinstance(stream, Joined):
        return hash_of([part["hash"] for part in values["parts"]])
    if isinstance(stream, Slice):
        return hash_of([values["stream"]["hash"], stream.start, stream.stop])
    return stream._hash(which, shifts=list(values["shifts"]))
