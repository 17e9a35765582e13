"""Shifts as texts, ``corruption``, ``corruption:severity`` or a domain of the set itself."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from torch import Tensor

from ..core.arguments import WrongKind, shown


def as_shifts(shifts, name: str = "shifts") -> tuple[str, ...]:
    """Shifts as a tuple of texts; raises ValueError for one text alone, something without an
    order, and what is no text."""
    if isinstance(shifts, str):
        raise WrongKind(f"{name} must be a list of names; write {name.split('.')[-1]}=[{shifts!r}]")
    if not isinstance(shifts, Iterable) or isinstance(shifts, Set | Mapping):
        raise WrongKind(f"{name} must list the shifts in order, such as ('fog', 'snow:3'), not "
                        f"{shown(shifts)}")
    shifts = tuple(shifts)
    for shift in shifts:
        if not isinstance(shift, str):
            raise WrongKind(f"{name} must list texts such as 'fog', 'snow:3' or 'none', not "
                            f"{shift!r}")
    return tuple(map(str, shifts))


def tidy(shift: str, own=()) -> str:
    """The shift without spaces around its names and numbers; ``own`` are the domains that an image
    set holds itself."""
    name, colon, rest = shift.partition(":")
    name = name if name in own else name.strip()
    if name in own and "+" not in rest:
        return name + colon + rest.strip()
    return "+".join(":".join(piece.strip() for piece in part.split(":"))
                    for part in shift.split("+"))


def own_domain(images, shift: str) -> str | None:
    """The domain that the set itself holds for this shift; None where it is made here, as every
    composition is."""
    name, _, rest = shift.partition(":")
    return name if name in getattr(images, "domains", ()) and "+" not in rest else None


def own_rows(images, shift: str) -> Tensor | None:
    """Rows of the set that belong to a shift which the set itself holds; None for "all"."""
    name = own_domain(images, shift)
    return None if name is None else images.rows(name)


def domain_of(shift: str) -> str:
    """The name of a shift without its severities: "fog:3" is of the domain "fog",
    "gaussian_noise:2+fog:1" of "gaussian_noise+fog"."""
    return "+".join(part.split(":")[0] for part in shift.split("+"))


def severity_of(shift: str, default: float) -> float:
    """The severity of a shift; the largest of a composition, 0 for clean images."""
    if shift in ("none", "clean"):
        return 0.0
    parts = [part.partition(":")[2] for part in shift.split("+")]
    return max(float(part) if part else default for part in parts)
