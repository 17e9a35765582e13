"""The shifts of a stream: a list of texts, and what an image set makes of one."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from torch import Tensor

from ..core.arguments import WrongKind, shown
from ..data.shift import Shift


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


def shift_of(images, text: str) -> Shift:
    """The shift that a text names for an image set, which may hold it itself."""
    return Shift.parse(text, getattr(images, "domains", ()))


def own_rows(images, text: str) -> Tensor | None:
    """Rows of the set that belong to a shift which the set itself holds; None for "all"."""
    shift = shift_of(images, text)
    return images.rows(shift.domain) if shift.held else None
