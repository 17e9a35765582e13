"""The checks of arguments that every public entry shares: a sentence that names the argument, what came and what is meant.

``flag``, ``whole``, ``number``, ``choice``, ``path_of`` and ``seeds_of`` check plain values and return them as Python's own;
``recipe_of``, ``model_of`` and ``images_of`` also take the text that names the thing. All raise ValueError, or TypeError for
something of another kind, which is a ValueError too (`WrongKind`).
"""
from __future__ import annotations

import difflib
import math
import numbers
import os
from collections.abc import Iterable
from pathlib import Path

from .places import home


class WrongKind(TypeError, ValueError):
    """An argument of another kind than the one that is meant."""


def _plain(value):
    """A number of another library (numpy scalar, tensor or array of one value) as Python's own; anything else as it is."""
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        return value.item()
    return value


def flag(name: str, value) -> bool:
    """True or False, also numpy's."""
    value = _plain(value)
    if not isinstance(value, bool):
        raise WrongKind(f"{name} must be True or False, not {value!r}")
    return value


def whole(name: str, value, low: int | None = None, high: int | None = None) -> int:
    """A whole number within bounds (both allowed); a truth value is none, 3.0 is one."""
    value = _plain(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise WrongKind(f"{name} must be a whole number{_bounds(low, high)}, not {value!r}")
    return int(_within(name, value, low, high, "a whole number"))


def number(name: str, value, low: float | None = None, high: float | None = None) -> float:
    """A finite number within bounds (both allowed); a truth value is none."""
    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise WrongKind(f"{name} must be a number{_bounds(low, high)}, not {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value!r}")
    return _within(name, float(value), low, high, "a number")


def _bounds(low, high) -> str:
    if low is None and high is None:
        return ""
    return f" from {low} to {high}" if None not in (low, high) else f" of at least {low}" if high is None else f" of at most {high}"


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
    """``"; did you mean 'fog'?"`` where one of the names is much like the value, else an empty text; the end of a message."""
    found = difflib.get_close_matches(value, list(names), 1) if isinstance(value, str) else ()
    return f"; did you mean {found[0]!r}?" if found else ""


def path_of(name: str, value) -> Path:
    """A path, written as a text or a Path; ``~`` is the home folder, unless something of that very name is there."""
    if not isinstance(value, (str, os.PathLike)):
        raise WrongKind(f"{name} must be a path, as a text or a Path, not {value!r}")
    if not os.fspath(value):
        raise ValueError(f"{name} must be a path, not an empty text")
    return home(value)


def seeds_of(value, name: str = "seeds") -> tuple[int, ...]:
    """Seeds, each once: ``(0, 1, 2)``, a range or an array of whole numbers; a single number is refused, since 3 may mean one or three."""
    value = _plain(value)
    if isinstance(value, numbers.Number):
        raise WrongKind(f"{name} must list the seeds, such as range({value}) for {value} seeds or ({value},) for this one, not the number {value!r}")
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise WrongKind(f"{name} must list whole numbers, such as (0, 1, 2), not {value!r}")
    found = tuple(whole(f"{name}[{i}]", s) for i, s in enumerate(value))
    if not found:
        raise ValueError(f"{name} lists no seed; give at least one, such as (0,)")
    again = sorted({s for s in found if found.count(s) > 1})
    if again:
        raise ValueError(f"{name} lists {', '.join(map(str, again))} more than once; a run repeated with one seed is the same run")
    return found


def recipe_of(value, name: str = "recipe"):
    """A method, or the name of one (`make`)."""
    from ..methods import make
    from .parts import Method, Part

    if isinstance(value, str):
        return make(value)
    if isinstance(value, type) and issubclass(value, Method):
        raise WrongKind(f"{name} must be a method such as make('tent') or {value.__name__}(), not the class {value.__name__} itself")
    if not isinstance(value, Method):
        what = f"the part {value!r}, which is only a piece of one" if isinstance(value, Part) else _say(value)
        raise WrongKind(f"{name} must be a method such as make('tent'), or its name, not {what}")
    return value


def model_of(value, name: str = "model"):
    """A network (any ``nn.Module``), or the text that names one (`model_texts.open_model`)."""
    from torch import nn

    from ..models.names import open_model

    if isinstance(value, str):
        return open_model(value)
    if isinstance(value, type):
        raise WrongKind(f"{name} must be a network, not its class {value.__name__}: make one, {value.__name__}(...)")
    if not isinstance(value, nn.Module):
        hint = ": a path is written as a text, 'checkpoint:PATH'" if isinstance(value, os.PathLike) else ""
        raise WrongKind(f"{name} must be a network (nn.Module), or a text such as 'fashion_resnet_bn' or 'torchvision:resnet18', "
                        f"not {_say(value)}{hint}")
    return value


def images_of(value, name: str = "images"):
    """An image set, or the text that names one (`load`)."""
    from ..data.image_set import BaseSet, load

    if isinstance(value, str):
        return load(value)
    if not isinstance(value, BaseSet):
        hint = (": a folder is written as a text, 'folder:PATH'" if isinstance(value, os.PathLike) else
                ": take its images, stream.known_set" if hasattr(value, "known_set") else
                ": wrap its data set, tta_lab.wrap(loader.dataset)" if hasattr(value, "dataset") and hasattr(value, "batch_size") else
                ": make one of it with tta_lab.wrap(...)" if hasattr(value, "__getitem__") else
                ": collect its items in a list and make one of that with tta_lab.wrap(...)" if hasattr(value, "__iter__") else "")
        raise WrongKind(f"{name} must be an image set, or a text such as 'fashion_mnist' or 'folder:photos', not {_say(value)}{hint}")
    return value


def _say(value) -> str:
    """A value in a message: short ones whole, long ones (tensors, loaders) by their kind."""
    text = repr(value)
    return text if len(text) <= 60 and "\n" not in text else f"a {type(value).__name__}"
