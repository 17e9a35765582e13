"""The checks of arguments that every public entry shares: a sentence that names the argument, what
came and what is meant.

``flag``, ``whole``, ``number``, ``choice``, ``path_of`` and ``seeds_of`` check plain values and
return them as Python's own; ``recipe_of`` and ``model_of`` in ``core.named``, ``images_of`` in
``data.load`` also take the text that names the thing. All raise ValueError, or TypeError for
something of another kind, which is a ValueError too (`WrongKind`).
"""
from __future__ import annotations

import difflib
import math
import numbers
import os
import pkgutil
from collections.abc import Iterable
from pathlib import Path

from .places import home


class WrongKind(TypeError, ValueError):
    """An argument of another kind than the one that is meant."""


def plain(value):
    """A number of another library (numpy scalar, tensor or array of one value) as Python's own;
    anything else as it is."""
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        return value.item()
    return value


def flag(name: str, value) -> bool:
    """True or False, also numpy's."""
    value = plain(value)
    if not isinstance(value, bool):
        raise WrongKind(f"{name} must be True or False, not {value!r}")
    return value


def whole(name: str, value, low: int | None = None, high: int | None = None) -> int:
    """A whole number within bounds (both allowed); a truth value is none, 3.0 is one."""
    value = plain(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise WrongKind(f"{name} must be a whole number{_bounds(low, high)}, not {value!r}")
    return int(_within(name, value, low, high, "a whole number"))


def number(name: str, value, low: float | None = None, high: float | None = None) -> float:
    """A finite number within bounds (both allowed); a truth value is none."""
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise WrongKind(f"{name} must be a number{_bounds(low, high)}, not {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value!r}")
    return _within(name, float(value), low, high, "a number")


def _bounds(low, high) -> str:
    if low is None and high is None:
        return ""
    return (f" from {low} to {high}" if None not in (low, high) else
            f" of at least {low}" if high is None else f" of at most {high}")


def _within(name, value, low, high, kind):
    if low is not None and value < low or high is not None and value > high:
        raise ValueError(f"{name} must be {kind}{_bounds(low, high)}, not {value!r}")
    return value


def choice(name: str, value, allowed: Iterable):
    """One of the allowed values."""
    allowed = tuple(allowed)
    if not any(type(value) is type(a) and value == a for a in allowed):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}")
    return value


def nearest(value, names: Iterable[str]) -> str:
    """``"; did you mean 'fog'?"`` where one of the names is much like the value, else an empty
    text; the end of a message."""
    found = difflib.get_close_matches(value, list(names), 1) if isinstance(value, str) else ()
    return f"; did you mean {found[0]!r}?" if found else ""


def path_of(name: str, value) -> Path:
    """A path, written as a text or a Path; ``~`` is the home folder, unless something of that very
    name is there."""
    if not isinstance(value, (str, os.PathLike)):
        raise WrongKind(f"{name} must be a path, as a text or a Path, not {value!r}")
    if not os.fspath(value):
        raise ValueError(f"{name} must be a path, not an empty text")
    return home(os.fspath(value))


def seeds_of(value, name: str = "seeds") -> tuple[int, ...]:
    """Seeds, each once: ``(0, 1, 2)``, a range or an array of whole numbers; a single number is
    refused, since 3 may mean one or three."""
    value = plain(value)
    if isinstance(value, numbers.Number):
        raise WrongKind(f"{name} must list the seeds, such as range({value}) for {value} seeds or "
                        f"({value},) for this one, not the number {value!r}")
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise WrongKind(f"{name} must list whole numbers, such as (0, 1, 2), not {value!r}")
    found = tuple(whole(f"{name}[{i}]", s) for i, s in enumerate(value))
    if not found:
        raise ValueError(f"{name} lists no seed; give at least one, such as (0,)")
    again = sorted({s for s in found if found.count(s) > 1})
    if again:
        raise ValueError(f"{name} lists {', '.join(map(str, again))} more than once; a run "
                         f"repeated with one seed is the same run")
    return found


NAMED = {  # who opens what is named by a text; late, since they stand above this package
    "recipe": "tta_lab.methods:make",
    "model": "tta_lab.models.names:open_model",
}


def named(kind: str, text: str):
    """The recipe or model that a text names."""
    return pkgutil.resolve_name(NAMED[kind])(text)


def shown(value) -> str:
    """A value in a message: short ones whole, long ones (tensors, loaders) by their kind."""
    text = repr(value)
    return text if len(text) <= 60 and "\n" not in text else f"a {type(value).__name__}"
