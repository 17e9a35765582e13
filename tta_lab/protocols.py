"""The evaluation protocols of the literature, each a function that returns a ``Stream``.

Each takes the known set first and passes further ``settings`` on to ``Stream``; so protocols combine: a mixed, correlated,
open-set stream is ``mixed_correlated(unknown="digits", unknown_mode="shuffled")``. "Episodic" means two different things in papers;
here the reset rule is always an argument. By default every shift shows 300 images; ``per_shift=None`` takes all, as published
protocols do. ``PROTOCOLS`` lists them by name.
"""
from __future__ import annotations

from .corruptions import CLEAN, STANDARD_15
from .orders import ClassImbalance, Dirichlet, LabelShift, Recorded, SortedByClass
from .streams import Stream

# CoTTA-style visiting order of RoTTA's CIFAR experiments (arXiv 2303.13899)
ROTTA_ORDER = ("motion_blur", "snow", "fog", "shot_noise", "defocus_blur", "contrast", "zoom_blur", "brightness", "frost",
               "elastic_transform", "glass_blur", "gaussian_noise", "pixelate", "jpeg_compression", "impulse_noise")
GROUPS = {"noise": STANDARD_15[:3], "blur": STANDARD_15[3:7], "weather": STANDARD_15[7:11], "digital": STANDARD_15[11:]}
RAMP = (1, 2, 3, 4, 5, 4, 3, 2, 1)


def reset_each_shift(known="fashion_mnist", shifts=STANDARD_15, **settings) -> Stream:
    """One shift after another, back to the source at each border, which the method is told ("episodic by domain"; the protocol
    of Tent, arXiv 2006.10726)."""
    return Stream(known, shifts, **{"reset": "domain", **settings})


def batch_episodic(known="fashion_mnist", shifts=STANDARD_15, **settings) -> Stream:
    """Back to the source before every batch (MEMO, arXiv 2110.09506; the first protocol of TTAB, 2306.03536, which calls it
    episodic)."""
    return Stream(known, shifts, **{"reset": "batch", "batch": 64, **settings})


def continual(known="fashion_mnist", shifts=STANDARD_15, **settings) -> Stream:
    """One shift after another, never reset (CoTTA, arXiv 2203.13591)."""
    return Stream(known, shifts, **settings)


def gradual(known="fashion_mnist", shifts=STANDARD_15, form: str = "rmt", **settings) -> Stream:
    """Each shift grows from severity 1 to 5 and falls again, never reset; all steps show ``per_shift`` images.

    ``form="rmt"``: 1 2 3 4 5 4 3 2 1 for every type, 135 segments for 15 types (arXiv 2211.13081). ``form="cotta"``: the first
    type starts at 5, which imitates a sudden gap, 131 segments (arXiv 2203.13591).
    """
    if form not in ("rmt", "cotta"):
        raise ValueError(f"form must be 'rmt' or 'cotta', not {form!r}")
    ramps = [[name] if name in CLEAN else [f"{name}:{s}" for s in RAMP] for name in shifts]
    if form == "cotta":
        ramps[0] = ramps[0][len(ramps[0]) // 2:]
    return Stream(known, [step for ramp in ramps for step in ramp], **settings)


def mixed_domains(known="fashion_mnist", shifts=STANDARD_15, **settings) -> Stream:
    """All shifts pooled and shuffled: every batch holds images of many domains (arXiv 2306.00650)."""
    return Stream(known, shifts, **{"mixed": True, **settings})


def correlated(known="fashion_mnist", shifts=STANDARD_15, delta: float = 0.1, rule: str = "note", **settings) -> Stream:
    """Neighbouring images are of the same class, never reset; small ``delta`` is strongly correlated, 0 is sorted by class
    (NOTE, arXiv 2208.05117; RoTTA, 2303.13899: rule="rotta", batches of 64 that may straddle borders)."""
    order = SortedByClass() if delta == 0 else Dirichlet(delta, rule)
    return Stream(known, shifts, **{"order": order, "batch": 64, "straddle": rule == "rotta", **settings})


def mixed_correlated(known="fashion_mnist", shifts=STANDARD_15, delta: float = 0.1, **settings) -> Stream:
    """All shifts pooled, neighbouring images of the same class (arXiv 2306.00650; delta 0.01 on ImageNet-C, 0.1 on ImageNet-D109)."""
    return Stream(known, shifts, **{"order": Dirichlet(delta), "mixed": True, "batch": 64, **settings})


def label_shift(known="fashion_mnist", shifts=STANDARD_15, ratio: float = 1000.0, **settings) -> Stream:
    """SAR's online imbalanced label shift (arXiv 2302.12400): the class distribution moves from peak to peak while time runs; back to
    the source for each type; images are drawn with replacement."""
    return Stream(known, shifts, **{"order": LabelShift(ratio), "reset": "domain", "batch": 64, **settings})


def class_imbalance(known="fashion_mnist", shifts=("none",), exponent: float = 2.0, grouped: bool = False, **settings) -> Stream:
    """LAME's scenarios (arXiv 2201.05718): class counts from a Zipf law, in random order or one class after another."""
    return Stream(known, shifts, **{"order": ClassImbalance(exponent, grouped), "batch": 64, **settings})


def batch_of_one(known="fashion_mnist", shifts=STANDARD_15, **settings) -> Stream:
    """One image at a time, back to the source for each type (the "wild" setting of SAR, arXiv 2302.12400)."""
    return Stream(known, shifts, **{"batch": 1, "reset": "domain", **settings})


def recurring(known="fashion_mnist", shifts=STANDARD_15, visits: int = 20, delta: float = 0.1, **settings) -> Stream:
    """All domains again and again, correlated by class (PeTTA, arXiv 2311.18193: 20 visits, Dirichlet 0.1, batches of 64)."""
    return Stream(known, shifts, **{"order": Dirichlet(delta, "rotta"), "rounds": visits, "batch": 64, "straddle": True, **settings})


def cyclic(known="fashion_mnist", groups=tuple(GROUPS), repeats: int = 3, cycles: int = 2, **settings) -> Stream:
    """Groups of related shifts are revisited: each group ``repeats`` times in a row, all groups ``cycles`` times, never reset.

    ``groups``: names of ``GROUPS`` (noise, blur, weather, digital) or tuples of shifts; day and night is groups=(("none",), ("fog",)).
    """
    shifts = [name for group in groups for _ in range(repeats) for name in (GROUPS[group] if isinstance(group, str) else group)]
    return Stream(known, shifts, **{"rounds": cycles, **settings})


def alternating(known="fashion_mnist", shifts=STANDARD_15, **settings) -> Stream:
    """Clean images after each corruption: the clean segments show what is forgotten on the way (30 segments for 15 types)."""
    return Stream(known, [s for name in shifts for s in (name, "none")], **settings)


def long_term(known="fashion_mnist", rounds: int = 50, **settings) -> Stream:
    """The same shifts and images again for many rounds, never reset (arXiv 2308.06879: 50 rounds of 15 shifts); with
    ``unknown=`` the open-set form."""
    return Stream(known, **{"rounds": rounds, **settings})


def closed_set(known="fashion_mnist", **settings) -> Stream:
    """Known classes only, one shift after another without reset ("Towards Open-Set Test-Time Adaptation Utilizing the
    Wisdom of Crowds in Entropy Minimization", arXiv 2308.06879)."""
    return Stream(known, **settings)


def open_set(known="fashion_mnist", unknown="digits", unknown_ratio: float = 1.0, **settings) -> Stream:
    """Every batch is known images followed by ``unknown_ratio`` times as many unknown ones under the same corruption
    (arXiv 2308.06879, which takes 100 + 100); error is counted on the known only.

    Far unknowns: known "fashion_mnist", unknown "digits". Near unknowns: "fashion_mnist_8" and "fashion_mnist_held_out".
    ``unknown_mode="shuffled"`` mixes them in anywhere (arXiv 2308.09942, 2407.15773), "burst" puts them in one stretch.
    """
    return Stream(known, unknown=unknown, unknown_ratio=unknown_ratio, **settings)


def natural(known, shifts=None, **settings) -> Stream:
    """The domains that a set itself holds (DomainNet-126, published -C files, ...), all images of each, one after another."""
    from .streams import _image_set
    known = _image_set(known, "known")
    if not getattr(known, "domains", ()):
        raise ValueError(f"{known.name} holds no domains of its own; name corruptions in Stream(known, shifts=[...])")
    return Stream(known, known.domains if shifts is None else shifts, **{"per_shift": None, **settings})


def recorded(known, shifts=("none",), **settings) -> Stream:
    """Images in the order of their files, nothing shuffled, labels or not: camera frames as they were taken."""
    return Stream(known, shifts, **{"order": Recorded(), "per_shift": None, "batch": 16, **settings})


def orders_of_shifts(shifts=STANDARD_15, count: int = 10, seed: int = 0) -> list[tuple[str, ...]]:
    """``count`` random orders of the shifts for averages over orders (CoTTA and others average over 10)."""
    from .streams import shuffled
    return [tuple(shifts[i] for i in shuffled(len(shifts), seed, "order of shifts", k).tolist()) for k in range(count)]


PROTOCOLS = {f.__name__: f for f in (reset_each_shift, batch_episodic, continual, gradual, mixed_domains, correlated, mixed_correlated,
                                     label_shift, class_imbalance, batch_of_one, recurring, cyclic, alternating, long_term, closed_set,
                                     open_set, natural, recorded)}

