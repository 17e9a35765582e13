"""Orders: in which order the images of a shift arrive. A stream takes one; each is a frozen value
with its knobs.

``arrange(labels, n, generator)`` gives n positions in a pool of images with these labels. Most
orders are permutations (n is the size of the pool); those with ``replacement`` draw from the whole
set. Random draws come from a counter-based generator: the same seed gives the same order on every
machine and version.

To add an order, derive from ``Order`` with knobs and ``arrange``, here or in a module of your own;
streams and JSON find it once that is imported.
"""
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.arguments import WrongKind, nearest
from ..core.knobs import knob, own_knobs
from ..core.parts import Part
from ..data.corruptions import Draws


@dataclass(frozen=True)
class KeyedGenerator:
    """Random numbers named by (seed, purpose): nothing is stored, the order of asking does not
    matter."""

    seed: int
    purpose: str

    def at(self, *position) -> KeyedGenerator:
        """Other generator for a place below this one."""
        return KeyedGenerator(self.seed, "/".join([self.purpose, *map(str, position)]))

    def _draws(self) -> Draws:
        return Draws(torch.zeros(1, dtype=torch.int64), self.seed, self.purpose)

    def permutation(self, n: int) -> Tensor:
        """0 .. n-1 in random order, int64 (n,)."""
        return self._draws().bits(n)[0].argsort(stable=True)

    def uniform(self, n: int) -> Tensor:
        """Uniform in (0, 1), float64 (n,)."""
        return self._draws().uniform(n)[0]

    def dirichlet(self, delta: float, n: int, slots: int, tries: int = 24) -> Tensor:
        """n draws of Dirichlet(delta, ..., delta) over the slots, float64 (n, slots), rows sum to
        1.

        Normalised gamma variates (Marsaglia & Tsang 2000, with the boost U^(1/delta)), in
        logarithms, so that small delta does not underflow.
        """
        shape, count = (n, slots), n * slots
        d = delta + 1 - 1 / 3
        x = self.at("normal")._draws().normal(tries * count).view(tries, count)
        u = self.at("accept").uniform(tries * count).view(tries, count)
        v = (1 + x / math.sqrt(9 * d)) ** 3
        log_v = v.clamp(min=1e-300).log()
        fits = (v > 0) & (u.log() < 0.5 * x * x + d - d * v + d * log_v)
        # the first that fits
        first = fits.double().argmax(0)
        log_gamma = log_v.gather(0, first[None])[0] + self.at("boost").uniform(count).log() / delta
        return log_gamma.view(shape).softmax(1)


@dataclass(frozen=True)
class Order(Part):
    """How the images of a pool arrive."""

    # True: images are drawn from the whole set, some repeat and some never come
    replacement: ClassVar[bool] = False
    recorded: ClassVar[bool] = False     # True: no shuffling anywhere
    needs_labels: ClassVar[bool] = True

    def arrange(self, labels: Tensor, n: int, generator: KeyedGenerator) -> Tensor:
        """Positions in the pool in order of arrival, int64 (n,); ``labels`` is int64 (size of the
        pool,)."""
        raise NotImplementedError

    def to_dict(self) -> dict:
        """The name and the knobs, as plain values."""
        return {"kind": type(self).__name__, **{k.name: k.value for k in own_knobs(self)}}


@dataclass(frozen=True)
class Shuffled(Order):
    """In random order (iid)."""

    needs_labels: ClassVar[bool] = False

    def arrange(self, labels, n, generator):
        return generator.permutation(n)


@dataclass(frozen=True)
class Recorded(Order):
    """In the order of the files or rows of the set, nothing shuffled: an engineer's camera
    frames."""

    recorded: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = False

    def arrange(self, labels, n, generator):
        return torch.arange(n)


@dataclass(frozen=True)
class SortedByClass(Order):
    """All images of a class before the next class begins, shuffled within the class: the limit
    delta -> 0 of `Dirichlet`."""

    shuffle_classes: bool = knob(False, why="classes in random order instead of ascending")

    def arrange(self, labels, n, generator):
        names = labels.unique()
        rank = (generator.at("classes").permutation(len(names))
                if self.shuffle_classes else torch.arange(len(names)))
        within = generator.permutation(n)
        return within[rank[torch.searchsorted(names, labels[within])].argsort(stable=True)]


@dataclass(frozen=True)
class Dirichlet(Order):
    """Classes arrive in clumps: each class is cut into slots by shares q ~ Dirichlet(delta, ...,
    delta).

    Small delta gives strong correlation; large delta gives every slot the same mixture, in which
    classes still follow one another (for iid take `Shuffled`). How many classes a batch then holds
    depends on the length too: with few images a slot is shorter than a batch, which spans several;
    ``delta=0.1`` gives 4 of 10 classes in a batch of 64 at 600 images a shift, but 9 at 100. To
    state that number, take ``protocols.with_classes_per_batch``, which finds ``delta`` and
    ``slots``.

    ``rule="note"`` (arXiv 2208.05117): as many slots as classes; slots that hold their part
    already get nothing more of a class; drawn again until each slot holds ``least`` images, in
    small pools a fifth of its even share (at most ``tries`` times, then the last draw is taken);
    within a slot one class after another. ``rule="rotta"`` (arXiv 2303.13899): one draw per class,
    at most 100 slots, no balancing.
    """

    delta: float = knob(0.1, (1e-4, 1e4, "log"), "concentration: small is strongly correlated",
                        paper="NOTE 2208.05117 and RoTTA 2303.13899: 0.1")
    rule: str = knob("note", choices=("note", "rotta"), why="how shares become slots")
    least: int = knob(10, (0, 1000), "images that each slot must hold (rule 'note')", unit="images")
    tries: int = knob(100, (1, 10000), "draws until every slot holds its least")
    slots: int = knob(0, (0, 1_000_000), "slots that each class is cut into; 0: as many as the "
                                         "rule says", unit="slots")

    def to_dict(self):
        values = super().to_dict()
        if not self.slots:  # as it was written before there was this knob
            del values["slots"]
        return values

    def arrange(self, labels, n, generator):
        members = [(labels == c).nonzero().flatten() for c in labels.unique()]
        slots = self.slots or (len(members) if self.rule == "note" else min(len(members), 100))
        # a small pool cannot fill its slots
        least = min(self.least, n // (5 * slots))
        for attempt in range(self.tries if self.rule == "note" else 1):
            here = generator.at(attempt)
            sizes = self._sizes([len(rows) for rows in members], slots, here)
            if sizes.sum(0).min() >= least:
                break
        chunks = [
            rows[here.at("class", k).permutation(len(rows))].split(sizes[k].tolist())
            for k, rows in enumerate(members)
        ]
        order = []
        for s in range(slots):
            order += [
                chunks[c][s] for c in generator.at("classes of slot", s).permutation(len(chunks))
            ]
        return torch.cat(order)

    def _sizes(self, counts: list[int], slots: int, generator: KeyedGenerator) -> Tensor:
        """How many images of each class fall into each slot, int64 (classes, slots)."""
        shares = generator.dirichlet(self.delta, len(counts), slots)
        filled = torch.zeros(slots)
        sizes = []
        n = sum(counts)
        for q, count in zip(shares, counts, strict=True):
            if self.rule == "note":
                # some slot always has room: not all are placed yet
                room = (filled < n / slots).double()
                q = q * room if (q * room).sum() > 0 else room
                q = q / q.sum()
            ends = (q.cumsum(0)[:-1] * count + 1e-9).floor().long().clamp(max=count)
            sizes.append(
                torch.diff(ends, prepend=ends.new_zeros(1), append=ends.new_tensor([count])))
            filled = filled + sizes[-1]
        return torch.stack(sizes)


@dataclass(frozen=True)
class LabelShift(Order):
    """Online imbalanced label shift (SAR, arXiv 2302.12400): time has one segment for each class,
    in which this class has probability r / (r + C - 1) and each other 1 / (r + C - 1). Images are
    drawn with replacement within the class."""

    ratio: float = knob(1000.0, (1.0, 1e9, "log"), "r: 1 is balanced; 500 000 is one class per "
                                                   "segment",
                        paper="SAR 2302.12400: 1000, 2000, 3000, 4000, 5000, 500000")

    replacement: ClassVar[bool] = True

    def arrange(self, labels, n, generator):
        names = labels.unique()
        count = len(names)
        # class that dominates at each time
        peak = generator.at("classes").permutation(count)[torch.arange(n) * count // n]
        other = (generator.at("other").uniform(n) * max(count - 1, 1)).long()
        # any class but the peak
        other = other + (other >= peak).long() if count > 1 else peak
        chosen = torch.where(
            generator.at("peak").uniform(n) < self.ratio / (self.ratio + count - 1), peak, other)
        return _within(labels, names[chosen], generator)


@dataclass(frozen=True)
class ClassImbalance(Order):
    """LAME's imbalanced scenario (arXiv 2201.05718): class shares p_k = z_k / sum_j z_j with z_k ~
    Zipf(exponent), images drawn with replacement within the class; in random order, or one class
    after another."""

    exponent: float = knob(2.0, (1.05, 10.0), "of the Zipf law from which class counts are drawn",
                           paper="LAME 2201.05718: 2")
    grouped: bool = knob(False, why="one class after another (the non-iid scenario)")

    replacement: ClassVar[bool] = True

    def arrange(self, labels, n, generator):
        names = labels.unique()
        ranks = torch.arange(1, 100_001, dtype=torch.float64)
        law = (ranks ** -self.exponent).cumsum(0)
        # not nearly all in a tenth of the classes
        for attempt in range(1000):
            counts = (
                1.0 +
                torch.searchsorted(law / law[-1],
                                   generator.at("zipf", attempt).uniform(len(names))).double())
            shares = counts / counts.sum()
            if shares.topk(max(1, len(names) // 10)).values.sum() < 0.9:
                break
        ends = (shares.cumsum(0) * n).round().long()
        chosen = torch.searchsorted(ends, torch.arange(n), right=True).clamp(max=len(names) - 1)
        chosen = names[generator.at("classes").permutation(len(names))][chosen]
        if not self.grouped:
            chosen = chosen[generator.at("order").permutation(n)]
        return _within(labels, chosen, generator)


def _within(labels: Tensor, wanted: Tensor, generator: KeyedGenerator) -> Tensor:
    """For each wanted label a random position that has it, with replacement, int64 (n,)."""
    by_class = labels.argsort(stable=True)
    names, counts = labels.unique(return_counts=True)
    starts = counts.cumsum(0) - counts
    k = torch.searchsorted(names, wanted)
    return by_class[starts[k] + (generator.at("within").uniform(len(wanted)) *
                                 counts[k]).long().clamp(max=counts[k] - 1)]


def known_orders() -> dict[str, type[Order]]:
    """Name -> order: those of this file, and those that loaded modules derive from ``Order``."""
    found: dict[str, type[Order]] = {}
    waiting = Order.__subclasses__()
    while waiting:
        kind = waiting.pop(0)
        waiting += kind.__subclasses__()
        if kind.__module__ == __name__ or getattr(found.get(kind.__name__), "__module__",
                                                  "") != __name__:
            found[kind.__name__] = kind
    return found


def from_dict(values) -> Order:
    """The order that ``to_dict`` described, its name, or an order itself; raises ValueError for an
    unknown kind or knob."""
    if isinstance(values, Order):
        return values
    if isinstance(values, type) and issubclass(values, Order):
        raise WrongKind(f"order must be an order such as {values.__name__}(), not the class itself")
    if not isinstance(values, str | Mapping):
        raise WrongKind(f"order must be an order such as Shuffled() or Dirichlet(0.1), or its "
                        f"name, not {values!r}")
    values = {"kind": values} if isinstance(values, str) else dict(values)
    kind = values.pop("kind", None)
    found = known_orders()
    if not isinstance(kind, str) or kind not in found:
        raise ValueError(f"there is no order {kind!r}; there are: {', '.join(found)}"
                         f"{nearest(kind, found)}; import the module of an order of your own first")
    known = [k.name for k in own_knobs(found[kind])]
    for name in values:
        if name not in known:
            raise ValueError(f"{kind} has no knob {name!r}; it has: {', '.join(known) or '(none)'}"
                             + nearest(name, known))
    return found[kind](**values)
