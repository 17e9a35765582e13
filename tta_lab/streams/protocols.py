"""The evaluation protocols of the literature, each a function that returns a ``Stream``.

Each takes the known set first and passes further ``settings`` on to ``Stream``; so protocols
combine: a mixed, correlated, open-set stream is ``mixed_correlated(unknown="digits",
unknown_mode="shuffled")``. "Episodic" means two different things in papers; here the reset rule is
always an argument. By default every shift shows 300 images; ``per_shift=None`` takes all, as
published protocols do. ``PROTOCOLS`` lists them by name.
"""
from __future__ import annotations

import math
import os
from dataclasses import replace

from ..core.arguments import WrongKind, choice, flag, nearest, number, shown, whole
from ..data.corruptions import STANDARD_15
from ..data.image_set import BaseSet
from ..data.shift import CLEAN, Shift
from .images import image_set_of
from .orders import ClassImbalance, Dirichlet, LabelShift, Recorded, SortedByClass
from .sampling import shuffled
from .shifts import as_shifts
from .stream import AbstractStream, Stream

# CoTTA-style visiting order of RoTTA's CIFAR experiments (arXiv 2303.13899)
ROTTA_ORDER = ("motion_blur", "snow", "fog", "shot_noise", "defocus_blur", "contrast", "zoom_blur",
               "brightness", "frost", "elastic_transform", "glass_blur", "gaussian_noise",
               "pixelate", "jpeg_compression", "impulse_noise")
GROUPS = {
    "noise": STANDARD_15[:3], "blur": STANDARD_15[3:7], "weather": STANDARD_15[7:11],
    "digital": STANDARD_15[11:]
}
RAMP = (1, 2, 3, 4, 5, 4, 3, 2, 1)


def reset_each_shift(known="fashion_mnist", shifts=STANDARD_15, **settings) -> Stream:
    """One shift after another, back to the source at each border, which the method is told
    ("episodic by domain"; the protocol of Tent, arXiv 2006.10726)."""
    return Stream(known, shifts, **{"reset": "domain", **settings})


def batch_episodic(known="fashion_mnist", shifts=STANDARD_15, **settings) -> Stream:
    """Back to the source before every batch (MEMO, arXiv 2110.09506; the first protocol of TTAB,
    2306.03536, which calls it episodic)."""
    return Stream(known, shifts, **{"reset": "batch", "batch": 64, **settings})


def continual(known="fashion_mnist", shifts=STANDARD_15, **settings) -> Stream:
    """One shift after another, never reset (CoTTA, arXiv 2203.13591)."""
    return Stream(known, shifts, **settings)


def gradual(known="fashion_mnist", shifts=STANDARD_15, form: str = "rmt", **settings) -> Stream:
    """Each shift grows from severity 1 to 5 and falls again, never reset; all steps show
    ``per_shift`` images.

    ``form="rmt"``: 1 2 3 4 5 4 3 2 1 for every type, 135 segments for 15 types (arXiv 2211.13081).
    ``form="cotta"``: the first type starts at 5, which imitates a sudden gap, 131 segments (arXiv
    2203.13591). The shifts are named without a severity.
    """
    if form not in ("rmt", "cotta"):
        raise ValueError(f"form must be 'rmt' or 'cotta', not {form!r}")
    shifts = as_shifts(shifts)
    for name in shifts:
        (_, severity), *more = Shift.parse(name).parts
        if severity is not None or more:
            raise ValueError(f"gradual sets the severities itself, so a shift is one name without "
                             f"any, such as 'fog', not {name!r}")
    ramps = [[name] if name in CLEAN else [Shift(((name, s),)).text for s in RAMP]
             for name in shifts]
    if form == "cotta" and ramps:
        ramps[0] = ramps[0][len(ramps[0]) // 2:]
    return Stream(known, [step for ramp in ramps for step in ramp], **settings)


def mixed_domains(known="fashion_mnist", shifts=STANDARD_15, **settings) -> Stream:
    """All shifts pooled and shuffled: every batch holds images of many domains (arXiv
    2306.00650)."""
    return Stream(known, shifts, **{"mixed": True, **settings})


def correlated(known="fashion_mnist", shifts=STANDARD_15, delta: float = 0.1, rule: str = "note",
               classes_per_batch: float | None = None, **settings) -> Stream:
    """Neighbouring images are of the same class, never reset; small ``delta`` is strongly
    correlated, 0 is sorted by class (NOTE, arXiv 2208.05117; RoTTA, 2303.13899: rule="rotta",
    batches of 64 that may straddle borders).

    One ``delta`` means other clumping at another length: 0.1 gives 9 of 10 classes in a batch of
    64 at ``per_shift=100``, 4 at 600, 1.3 at 10 000. ``classes_per_batch``, in place of it, is the
    mean number of distinct classes wanted in a batch (`with_classes_per_batch`).
    """
    delta = number("delta", delta, 0)
    rule = choice("rule", rule, ("note", "rotta"))
    order = SortedByClass() if delta == 0 else Dirichlet(delta, rule)
    settings = {"batch": 64, "straddle": rule == "rotta", **settings}
    return _clumped(known, shifts, delta, order, classes_per_batch, settings)


def mixed_correlated(known="fashion_mnist", shifts=STANDARD_15, delta: float = 0.1,
                     classes_per_batch: float | None = None, **settings) -> Stream:
    """All shifts pooled, neighbouring images of the same class (arXiv 2306.00650; delta 0.01 on
    ImageNet-C, 0.1 on ImageNet-D109); ``classes_per_batch`` in place of ``delta`` as for
    `correlated`."""
    order = Dirichlet(number("delta", delta))
    return _clumped(known, shifts, delta, order, classes_per_batch,
                    {"mixed": True, "batch": 64, **settings})


def label_shift(known="fashion_mnist", shifts=STANDARD_15, ratio: float = 1000.0,
                **settings) -> Stream:
    """SAR's online imbalanced label shift (arXiv 2302.12400): the class distribution moves from
    peak to peak while time runs; back to the source for each type; images are drawn with
    replacement."""
    return Stream(known, shifts,
                  **{"order": LabelShift(ratio), "reset": "domain", "batch": 64, **settings})


def class_imbalance(known="fashion_mnist", shifts=("none",), exponent: float = 2.0,
                    grouped: bool = False, **settings) -> Stream:
    """LAME's scenarios (arXiv 2201.05718): class counts from a Zipf law, in random order or one
    class after another."""
    return Stream(
        known, shifts,
        **{"order": ClassImbalance(exponent, flag("grouped", grouped)), "batch": 64, **settings})


def batch_of_one(known="fashion_mnist", shifts=STANDARD_15, **settings) -> Stream:
    """One image at a time, back to the source for each type (the "wild" setting of SAR, arXiv
    2302.12400)."""
    return Stream(known, shifts, **{"batch": 1, "reset": "domain", **settings})


def recurring(known="fashion_mnist", shifts=STANDARD_15, visits: int = 20, delta: float = 0.1,
              classes_per_batch: float | None = None, **settings) -> Stream:
    """All domains again and again, correlated by class (PeTTA, arXiv 2311.18193: 20 visits,
    Dirichlet 0.1, batches of 64); ``classes_per_batch`` in place of ``delta`` as for
    `correlated`."""
    visits = whole("visits", visits, 1)
    order = Dirichlet(number("delta", delta), "rotta")
    settings = {"rounds": visits, "batch": 64, "straddle": True, **settings}
    return _clumped(known, shifts, delta, order, classes_per_batch, settings)


def cyclic(known="fashion_mnist", groups=tuple(GROUPS), repeats: int = 3, cycles: int = 2,
           **settings) -> Stream:
    """Groups of related shifts are revisited: each group ``repeats`` times in a row, all groups
    ``cycles`` times, never reset.

    ``groups``: names of ``GROUPS`` (noise, blur, weather, digital) or tuples of shifts; day and
    night is groups=(("none",), ("fog",)).
    """
    if isinstance(groups, str):
        raise WrongKind(f"groups must be a list of groups; write groups=[{groups!r}]")
    groups = tuple(groups)
    repeats = whole("repeats", repeats, 1)
    cycles = whole("cycles", cycles, 1)
    for group in groups:
        if isinstance(group, str) and group not in GROUPS:
            raise ValueError(f"there is no group {group!r}; there are: {', '.join(GROUPS)}, or "
                             f"give the shifts of a group themselves: "
                             f"({group!r},)" + nearest(group, GROUPS))
    shifts = [name for group in groups for _ in range(repeats)
              for name in (GROUPS[group] if isinstance(group, str) else as_shifts(group))]
    return Stream(known, shifts, **{"rounds": cycles, **settings})


def alternating(known="fashion_mnist", shifts=STANDARD_15, **settings) -> Stream:
    """Clean images after each corruption: the clean segments show what is forgotten on the way (30
    segments for 15 types)."""
    return Stream(known, [s for name in as_shifts(shifts) for s in (name, "none")], **settings)


def long_term(known="fashion_mnist", rounds: int = 50, **settings) -> Stream:
    """The same shifts and images again for many rounds, never reset (arXiv 2308.06879: 50 rounds
    of 15 shifts); with ``unknown=`` the open-set form."""
    return Stream(known, **{"rounds": rounds, **settings})


def closed_set(known="fashion_mnist", **settings) -> Stream:
    """Known classes only, one shift after another without reset ("Towards Open-Set Test-Time
    Adaptation Utilizing the Wisdom of Crowds in Entropy Minimization", arXiv 2308.06879)."""
    return Stream(known, **settings)


def open_set(known="fashion_mnist", unknown="digits", unknown_ratio: float = 1.0,
             **settings) -> Stream:
    """Every batch is known images followed by ``unknown_ratio`` times as many unknown ones under
    the same corruption (arXiv 2308.06879, which takes 100 + 100); error is counted on the known
    only.

    Far unknowns: known "fashion_mnist", unknown "digits". Near unknowns: "fashion_mnist_8" and
    "fashion_mnist_held_out". ``unknown_mode="shuffled"`` mixes them in anywhere (arXiv 2308.09942,
    2407.15773), "burst" puts them in one stretch.
    """
    return Stream(known, unknown=unknown, unknown_ratio=unknown_ratio, **settings)


def natural(known, shifts=None, **settings) -> Stream:
    """The domains that a set itself holds (DomainNet-126, published -C files, ...), all images of
    each, one after another."""
    known = image_set_of(known, "known")
    if not getattr(known, "domains", ()):
        raise ValueError(f"{known.name} holds no domains of its own; name corruptions in "
                         f"Stream(known, shifts=[...])")
    return Stream(known, known.domains if shifts is None else shifts,
                  **{"per_shift": None, **settings})


def recorded(known, shifts=("none",), **settings) -> Stream:
    """Images in the order of their files, nothing shuffled, labels or not: camera frames as they
    were taken."""
    return Stream(known, shifts,
                  **{"order": Recorded(), "per_shift": None, "batch": 16, **settings})


def orders_of_shifts(shifts=STANDARD_15, count: int = 10, seed: int = 0) -> list[tuple[str, ...]]:
    """``count`` random orders of the shifts for averages over orders (CoTTA and others average
    over 10)."""
    shifts = as_shifts(shifts)
    count = whole("count", count, 1)
    seed = whole("seed", seed)
    return [
        tuple(shifts[i] for i in shuffled(len(shifts), seed, "order of shifts", k).tolist())
        for k in range(count)
    ]


def _clumped(known, shifts, delta, order, classes_per_batch, settings: dict) -> Stream:
    """A stream in this order, or with the delta that gives the wanted number of classes in a
    batch."""
    if classes_per_batch is None:
        return Stream(known, shifts, **{"order": order, **settings})
    if "order" in settings:
        raise ValueError("order and classes_per_batch both say how classes are clumped; leave one "
                         "out")
    if delta != 0.1:
        raise ValueError(f"delta={delta} and classes_per_batch={classes_per_batch!r} both say how "
                         f"classes are clumped; leave delta out")
    return with_classes_per_batch(Stream(known, shifts, order=order, **settings), classes_per_batch)


def with_classes_per_batch(stream: Stream, classes_per_batch: float) -> Stream:
    """The stream with the ``delta`` of its `Dirichlet` order at which a batch holds this many
    distinct classes in the mean, to within 3 %.

    Found by bisection on the stream's own order, with its seed, length and batches: it is what
    ``statistics()["classes_per_batch"]`` measures. Slots are about one batch long where the rule's
    would be longer (shorter still where nearly all classes are wanted), so that the number can be
    reached at every length; NOTE's least filling is left out. ``order`` then holds plain numbers:
    the stream is saved and rebuilt like any other, and with another seed ``delta`` stays. Raises
    ValueError when the number is out of reach.
    """
    if not isinstance(stream, Stream) or not isinstance(stream.order, Dirichlet):
        what = f"one in the order {stream.order!r}" if isinstance(stream, Stream) else repr(stream)
        raise WrongKind(f"classes_per_batch needs a stream in Dirichlet order, such as "
                        f"correlated(...), not {what}")
    classes = len(stream.classes)
    wanted = number("classes_per_batch", classes_per_batch, 1, classes)
    longest = sum(stream.counts) if stream.mixed else max(stream.counts)
    full = replace(stream, known=stream.known_set, unknown=stream.unknown_set, rounds=1)
    some = next((i for i in range(1, len(stream.shifts)) if sum(stream.counts[:i]) >= 4500),
                len(stream.shifts))
    # enough to find the neighbourhood
    part = full if stream.mixed else replace(full, shifts=stream.shifts[:some])

    def search(probe: Stream, slots: int, low: float, high: float) -> tuple[float, float]:
        """log10 of the delta whose number of classes is nearest among those tried between these
        bounds, and this number."""
        seen = {x: _classes(probe, x, slots) for x in (low, high)}
        while min(abs(n - wanted) for n in seen.values()
                  ) > 0.01 * wanted and high - low > 0.02 and seen[low] < wanted < seen[high]:
            middle = (low + high) / 2
            seen[middle] = _classes(probe, middle, slots)
            low, high = (middle, high) if seen[middle] < wanted else (low, middle)
        return min(seen.items(), key=lambda item: abs(item[1] - wanted))

    for per_batch in (1, 4):
        slots = math.ceil(per_batch * longest / stream.batch)
        slots = slots if slots > classes else 0
        log_delta, found = search(part, slots, -3.0, 3.0)
        if found >= 0.97 * wanted:
            break
    if part.shifts != full.shifts:
        log_delta, found = search(full, slots, max(log_delta - 0.4, -3.0),
                                  min(log_delta + 0.4, 3.0))
    if abs(found - wanted) > 0.03 * wanted:
        remedy = "a smaller batch or more images a shift" if found > wanted else "a larger batch"
        raise ValueError(f"batches of {stream.batch} from {longest} images of {classes} classes "
                         f"cannot hold {wanted:g} classes in the "
                         f"mean, {found:.1f} is as near as they come; take {remedy}")
    return replace(stream, order=_with_delta(stream, log_delta, slots))


def _with_delta(stream: Stream, log_delta: float, slots: int) -> Dirichlet:
    return replace(stream.order, delta=float(f"{10 ** log_delta:.3g}"), least=0, slots=slots)


def _classes(stream: Stream, log_delta: float, slots: int) -> float:
    return replace(stream, order=_with_delta(stream, log_delta,
                                             slots)).statistics()["classes_per_batch"]


PROTOCOLS = {
    f.__name__: f
    for f in (reset_each_shift, batch_episodic, continual, gradual, mixed_domains, correlated,
              mixed_correlated, label_shift, class_imbalance, batch_of_one, recurring, cyclic,
              alternating, long_term, closed_set, open_set, natural, recorded)
}


def stream_of(value, name: str = "stream") -> AbstractStream:
    """A stream; an image set, or the text that names one, is shown in the order of its files
    (`protocols.recorded`)."""
    if isinstance(value, str | BaseSet):
        return recorded(value)
    names = ("batches", "shifts", "domains", "known_set", "n_images")
    if isinstance(value, AbstractStream) or not isinstance(value, type) and all(
            hasattr(value, n) for n in names):
        return value
    hint = ""
    if hasattr(value, "dataset") and hasattr(value, "batch_size"):
        hint = "; wrap its data set: recorded(wrap(loader.dataset))"
    elif isinstance(value, os.PathLike):
        hint = "; a path is written as a text, 'folder:PATH'"
    elif hasattr(value, "__getitem__") or hasattr(value, "__iter__"):
        hint = ("; wrap a data set of images and labels: recorded(wrap(dataset)), tensors as "
                "wrap(TensorDataset(images, labels))")
    raise WrongKind(f"{name} must be a stream such as continual('fashion_mnist'), or an image set "
                    f"or its name, which is shown in the "
                    f"order of its files, not {shown(value)}{hint}")
