"""Streams: which images arrive in which order, under which shift, with which unknowns among them.

A ``Stream`` is a frozen, seeded value: printing it says what will be shown, its JSON rebuilds it, and iterating
it twice gives the same batches. Labels and domains in a batch are for scoring only.
"""
from __future__ import annotations

import hashlib
import json
import math
import numbers
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from .corruptions import STANDARD_SIX, Draws, check_name, check_severity, corrupt, parameters
from .datasets import EMBEDDED, ImageSet, data_root, load

UNKNOWN_ID = 1_000_000_000  # ids of unknown images start here; a known set is always smaller
CACHE_BYTES = 512 * 2**20   # corrupted images that one iteration may hold, as bytes per pixel value
RESETS = ("never", "domain", "batch")


@dataclass(frozen=True, eq=False)
class Batch:
    """Some images that arrive together. ``x`` is on the asked device, all other tensors are on the CPU."""

    x: Tensor          # float32 (B, C, H, W) in [0, 1]
    ids: Tensor        # int64 (B,): index in the known set, or UNKNOWN_ID + index in the unknown set
    label: Tensor      # int64 (B,): unknown images have label K, the number of known classes
    known: Tensor      # bool (B,)
    domain: str        # name of the shift
    domain_index: int  # its position in the list of shifts
    round: int         # from 0
    new_domain: bool   # first batch of a shift

    def __len__(self) -> int:
        return len(self.x)


def shuffled(n: int, seed: int, purpose: str, *position: int) -> Tensor:
    """A permutation of 0 .. n-1 that depends on (seed, purpose, position) only, int64 (n,)."""
    name = "/".join([purpose, *map(str, position)])
    return Draws(torch.zeros(1, dtype=torch.int64), seed, name).bits(n)[0].argsort(stable=True)


def deck(labels: Tensor, seed: int, purpose: str, number: int, last: Tensor | None = None) -> Tensor:
    """All rows in a class-balanced random order: one row of each class in turn, as long as they last; the rows in ``last``
    come at the end, in the same manner.

    Any stretch holds equally many of each class, to within one, while no class has run out.
    """
    order = shuffled(len(labels), seed, purpose, number)
    late = torch.isin(order, order[:0] if last is None else last)
    classes = shuffled(int(labels.max()) + 1, seed, purpose + "/classes")[labels[order]]
    turn = torch.empty_like(order)
    for c in classes.unique():
        for part in (late, ~late):
            rows = part & (classes == c)
            turn[rows] = torch.arange(int(rows.sum()))
    turn += late * len(order)
    return order[torch.argsort(turn * (int(labels.max()) + 1) + classes)]


def deal(labels: Tensor, needs: list[int], seed: int, purpose: str) -> list[Tensor]:
    """Deal hands of the wanted sizes from one deck after another.

    Hands share no row until the set is used up; then a new deck is shuffled, and rows already in the unfinished
    hand go to its end, so that a hand repeats a row only when it is larger than the set.
    """
    hands, left, number = [], labels.new_empty(0), 0
    for need in needs:
        hand = left[:need]
        left = left[need:]
        while len(hand) < need:
            left, number = deck(labels, seed, purpose, number, last=hand), number + 1
            missing = need - len(hand)
            hand, left = torch.cat([hand, left[:missing]]), left[missing:]
        hands.append(hand)
    return hands


@lru_cache(maxsize=8)
def _embedded(name: str, root: str) -> ImageSet:
    return load(name, root)


def _image_set(value, role: str) -> ImageSet:
    if isinstance(value, ImageSet):
        return value
    if isinstance(value, str):
        return _embedded(value, str(data_root()))
    raise ValueError(f"Stream.{role} must be an ImageSet or the name of an embedded one ({', '.join(EMBEDDED)}), got {value!r}")


@lru_cache(maxsize=8)
def _fingerprint(images: ImageSet) -> str:
    digest = hashlib.sha256(repr((tuple(images.x.shape), images.classes)).encode())
    for part in (images.x, images.y):
        digest.update(part.cpu().contiguous().numpy())
    return digest.hexdigest()


@dataclass(frozen=True)
class Stream:
    """Known images under one shift after another, for one or more rounds, with or without unknown images.

    known          set of the known classes: an ImageSet, or the name of an embedded one (``datasets.load``)
    shifts         names of corruptions in order; "none" is the clean domain
    severity       1 to 5, for all shifts
    per_shift      known images of each shift
    batch          known images of each batch; the last batch of a shift may be shorter and is kept
    rounds         how often the list of shifts is gone through
    unknown        set of the unknown images, or None
    unknown_ratio  rho = unknown / known in every batch: round(rho n) unknowns come after the n known ones, under the
                   same corruption. None means 1 with unknown images and 0 without
    reset          what the runner does: "never", at each "domain" start, or before each "batch"
    redraw         False: every round shows the same images again, in another order (the published long-term protocol).
                   True: every round is dealt new images, as long as the set lasts
    seed           of the choice, the order and the noise

    Which images: a shuffled, class-balanced deck is dealt to the shifts one after another, so they share no image
    while the set lasts; when it is used up, a new deck is shuffled. No shift shows a known image twice; unknown
    images repeat within a shift only where more are wanted than there are. With ``redraw`` the dealing goes on from
    round to round. Within a shift the order is shuffled anew each round.
    """

    known: str | ImageSet = "fashion_mnist"
    shifts: tuple[str, ...] = STANDARD_SIX
    severity: float = 5
    per_shift: int = 300
    batch: int = 100
    rounds: int = 1
    unknown: str | ImageSet | None = None
    unknown_ratio: float | None = None
    reset: str = "never"
    redraw: bool = False
    seed: int = 0

    def __post_init__(self):
        if isinstance(self.shifts, str):
            raise ValueError(f"Stream.shifts must be a list of names; write shifts=[{self.shifts!r}]")
        object.__setattr__(self, "shifts", tuple(self.shifts))
        if not self.shifts:
            raise ValueError(f"Stream.shifts is empty; name at least one of {', '.join(STANDARD_SIX)} or 'none'")
        for name in self.shifts:
            check_name(name)
        check_severity(self.severity)
        object.__setattr__(self, "severity", float(self.severity))
        for name in ("per_shift", "batch", "rounds"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
                raise ValueError(f"Stream.{name} must be a whole number of at least 1, got {value!r}")
            object.__setattr__(self, name, int(value))
        if isinstance(self.seed, bool) or not isinstance(self.seed, numbers.Integral) or not -2**63 <= self.seed < 2**63:
            raise ValueError(f"Stream.seed must be a whole number of up to 64 bits, got {self.seed!r}")
        object.__setattr__(self, "seed", int(self.seed))
        if self.reset not in RESETS:
            raise ValueError(f"Stream.reset must be one of {', '.join(RESETS)}, got {self.reset!r}")
        if not isinstance(self.redraw, bool):
            raise ValueError(f"Stream.redraw must be True or False, got {self.redraw!r}")
        known, ratio = self.known_set, self.unknown_ratio
        if self.per_shift > len(known):
            raise ValueError(f"Stream.per_shift is {self.per_shift}, but {known.name} has {len(known)} images and a shift shows "
                             f"each at most once; choose per_shift <= {len(known)} or more rounds")
        if len(known) > UNKNOWN_ID:
            raise ValueError(f"{known.name} has more than {UNKNOWN_ID} images; take a part of it")
        if ratio is not None and (isinstance(ratio, bool) or not isinstance(ratio, numbers.Real) or not 0 <= ratio < math.inf):
            raise ValueError(f"Stream.unknown_ratio must be a number of at least 0 (unknown / known), got {ratio!r}")
        if ratio is not None:
            object.__setattr__(self, "unknown_ratio", float(ratio))
        if self.unknown is None:
            if ratio:
                raise ValueError(f"Stream.unknown_ratio is {ratio}, but there are no unknown images; give unknown='digits' or "
                                 "another set, or leave the ratio out")
        else:
            unknown = self.unknown_set
            if unknown is known or _fingerprint(unknown) == _fingerprint(known):
                raise ValueError(f"known and unknown are the same set ({known.name}); for near unknowns take known='fashion_mnist_8' "
                                 "and unknown='fashion_mnist_held_out'")
            if unknown.x.shape[1:] != known.x.shape[1:]:
                raise ValueError(f"known images ({known.name}) are {tuple(known.x.shape[1:])}, unknown ones ({unknown.name}) are "
                                 f"{tuple(unknown.x.shape[1:])}; resize one of the sets, batches need one shape")
            if not len(unknown):
                raise ValueError(f"the unknown set {unknown.name} is empty; give another one or unknown=None")
        for name in self.shifts:
            if name not in ("none", "clean"):
                parameters(name, self.severity, min(known.x.shape[2:]))

    @cached_property
    def known_set(self) -> ImageSet:
        return _image_set(self.known, "known")

    @cached_property
    def unknown_set(self) -> ImageSet | None:
        return None if self.unknown is None else _image_set(self.unknown, "unknown")

    @property
    def ratio(self) -> float:
        """Unknown / known images of a batch, with the default filled in."""
        return float(self.unknown is not None) if self.unknown_ratio is None else float(self.unknown_ratio)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the known classes; their number K is the label of an unknown image."""
        return self.known_set.classes

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(known, unknown) images of each batch of one shift."""
        known = [min(self.batch, self.per_shift - start) for start in range(0, self.per_shift, self.batch)]
        return [(n, math.floor(self.ratio * n + 0.5)) for n in known]

    def __len__(self) -> int:
        return self.rounds * len(self.shifts) * len(self.sizes)

    @property
    def n_images(self) -> int:
        """All images of all rounds, known and unknown."""
        return self.rounds * len(self.shifts) * sum(map(sum, self.sizes))

    @cached_property
    def hands(self) -> list[list[Tensor]]:
        """Ids of the images of each shift of each round, the known ones first: ``hands[round][shift]``, int64."""
        dealt = (self.rounds if self.redraw else 1) * len(self.shifts)
        ids = deal(self.known_set.y, [self.per_shift] * dealt, self.seed, "known")
        extra = sum(unknown for _, unknown in self.sizes)
        if extra:
            more = deal(self.unknown_set.y, [extra] * dealt, self.seed, "unknown")
            ids = [torch.cat([known, unknown + UNKNOWN_ID]) for known, unknown in zip(ids, more, strict=True)]
        rounds = [ids[i:i + len(self.shifts)] for i in range(0, dealt, len(self.shifts))]
        return rounds if self.redraw else rounds * self.rounds

    def images(self, ids: Tensor, domain: str = "none", device="cpu") -> Tensor:
        """The images with these ids under a shift, float32 (B, C, H, W); the same as in the batches."""
        known = ids < UNKNOWN_ID
        x = torch.empty(len(ids), *self.known_set.x.shape[1:], device=device)
        x[known.to(device)] = self.known_set.images(ids[known], device)
        if not known.all():
            x[~known.to(device)] = self.unknown_set.images(ids[~known] - UNKNOWN_ID, device)
        return corrupt(x, domain, self.severity, ids, self.seed)

    def labels(self, ids: Tensor) -> Tensor:
        """Labels of these ids, int64 (B,); K for the unknown."""
        known = ids < UNKNOWN_ID
        return torch.where(known, self.known_set.y[torch.where(known, ids, 0)], len(self.classes))

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def batches(self, device="cpu") -> Iterator[Batch]:
        """The batches in order, corrupted on the device.

        Where rounds repeat the same images, each is corrupted once and kept as bytes on the device, up to
        CACHE_BYTES (512 MiB); shifts beyond that are corrupted again each round, with the same result.
        """
        kept, room = {}, CACHE_BYTES if self.rounds > 1 and not self.redraw else 0
        for round_ in range(self.rounds):
            for index, domain in enumerate(self.shifts):
                ids = self.hands[round_][index]
                cost = len(ids) * self.known_set.x[0].numel()
                if index not in kept and cost <= room:
                    parts = [self.images(part, domain, device) for part in ids.split(500)]
                    kept[index] = torch.cat([(part * 255).round().to(torch.uint8) for part in parts])
                    room -= cost
                known = shuffled(self.per_shift, self.seed, "order", round_, index)
                unknown = shuffled(len(ids) - self.per_shift, self.seed, "order of unknown", round_, index) + self.per_shift
                first = True
                for n, u in self.sizes:
                    rows, known, unknown = torch.cat([known[:n], unknown[:u]]), known[n:], unknown[u:]
                    chosen = ids[rows]
                    x = kept[index][rows.to(device)].float() / 255 if index in kept else self.images(chosen, domain, device)
                    yield Batch(x, chosen, self.labels(chosen), chosen < UNKNOWN_ID, domain, index, round_, first)
                    first = False

    def to_dict(self) -> dict:
        """All settings as plain values, the sets by name, and the hash; for records. ``to_json`` also promises that the
        stream can be rebuilt."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for role in ("known", "unknown"):
            if isinstance(values[role], ImageSet):
                values[role] = values[role].name
        return {**values, "shifts": list(self.shifts), "hash": self.hash}

    @cached_property
    def hash(self) -> str:
        """Twelve hex digits that change with any setting and with any pixel, label or class name of the sets."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {"known": _fingerprint(self.known_set), "unknown_ratio": self.ratio,
                   "unknown": None if self.unknown is None else _fingerprint(self.unknown_set)}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]

    def to_json(self) -> str:
        """A text from which ``from_json`` rebuilds exactly this stream; needs sets that ``datasets.load`` finds by name."""
        for role in ("known", "unknown"):
            given = getattr(self, role)
            if isinstance(given, ImageSet):
                try:
                    same = _fingerprint(_image_set(given.name, role)) == _fingerprint(given)
                except ValueError:
                    same = False
                if not same:
                    raise ValueError(f"the {role} set {given.name!r} is not an embedded one, so this stream cannot be rebuilt from "
                                     "text; use a name of datasets.load (class subsets as in 'fashion_mnist[0,1]'), or keep the "
                                     "set and the constructor call in your own script")
        return json.dumps(self.to_dict(), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Stream:
        """Rebuild a stream from ``to_json``; raises ValueError when the text is damaged or the images have changed."""
        try:
            values = json.loads(text)
        except ValueError as why:
            raise ValueError(f"this is not the JSON of a stream ({why}); write it with Stream.to_json()") from why
        names = {f.name for f in fields(cls)} | {"hash"}
        if not isinstance(values, dict) or set(values) != names:
            found = sorted(values) if isinstance(values, dict) else type(values).__name__
            raise ValueError(f"the JSON of a stream has the entries {sorted(names)}, this one has {found}; "
                             "write it again with Stream.to_json()")
        expected = values.pop("hash")
        stream = cls(**values)
        if stream.hash != expected:
            raise ValueError(f"the stream rebuilt from JSON has hash {stream.hash}, the text says {expected}: settings were edited or "
                             "the image files differ; build the stream anew with Stream(...)")
        return stream


def closed_set(known: str | ImageSet = "fashion_mnist", **settings) -> Stream:
    """Known classes only, one shift after another without reset ("Towards Open-Set Test-Time Adaptation Utilizing the
    Wisdom of Crowds in Entropy Minimization", arXiv 2308.06879). ``settings`` are fields of ``Stream``."""
    return Stream(known, **settings)


def open_set(known: str | ImageSet = "fashion_mnist", unknown: str | ImageSet = "digits", unknown_ratio: float = 1.0,
             **settings) -> Stream:
    """Every batch is known images followed by ``unknown_ratio`` times as many unknown ones under the same corruption
    (arXiv 2308.06879, which takes 100 + 100); error is counted on the known only.

    Far unknowns: known "fashion_mnist", unknown "digits". Near unknowns: "fashion_mnist_8" and "fashion_mnist_held_out".
    """
    return Stream(known, unknown=unknown, unknown_ratio=unknown_ratio, **settings)


def long_term(known: str | ImageSet = "fashion_mnist", rounds: int = 50, **settings) -> Stream:
    """The same shifts and images again for many rounds, never reset (arXiv 2308.06879: 50 rounds of 15 shifts); with
    ``unknown=`` the open-set form."""
    return Stream(known, rounds=rounds, **settings)
