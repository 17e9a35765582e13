"""A hyper-parameter is declared once: default, range, sentence, place in the paper.

Validation, sliders, papermill parameters and the rows of the documentation are all read from it.
"""
from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from .arguments import WrongKind, named


def knob(default, within=None, why: str = "", paper: str = "", unit: str = "", choices=None,
         follows: str = ""):
    """Declare a hyper-parameter of a frozen dataclass.

    ``within`` is (low, high) or (low, high, "log"), both ends allowed; ``choices`` lists the
    allowed values; ``why`` says in one sentence what it does, ``paper`` where the paper has it,
    ``unit`` what it is measured in. ``follows`` names the knob of another part of the recipe
    ("EntropyThreshold.fraction") that is the same quantity of the paper: it moves along with that
    one as long as both have the same value, unless it is set too (`with_knobs`).
    """
    if (within is None) == (choices is None) and not isinstance(default, bool):
        raise TypeError("a knob needs either a range or choices (or a bool default)")
    return field(
        default=default,
        metadata=dict(knob=True, within=within, why=why, paper=paper, unit=unit,
                      choices=tuple(choices) if choices else None, follows=follows))


@dataclass(frozen=True)
class Knob:
    """One hyper-parameter of a recipe as sliders, tables and validation see it."""

    name: str
    value: Any
    default: Any
    low: float | None
    high: float | None
    log: bool
    choices: tuple | None
    why: str
    paper: str
    unit: str
    owner: str = ""     # class of the part that declares it
    follows: str = ""   # OWNER.NAME of the knob that is the same quantity


def own_knobs(part) -> list[Knob]:
    """The knobs that this part itself declares (instance or class), not those of the parts inside
    it."""
    rows = []
    for f in fields(part):
        if not f.metadata.get("knob"):
            continue
        low, high, *scale = f.metadata["within"] or (None, None)
        default = (type(part).__dataclass_fields__[f.name].default
                   if not isinstance(part, type) else f.default)
        rows.append(
            Knob(f.name, getattr(part, f.name, f.default), default, low, high, bool(scale),
                 f.metadata["choices"], f.metadata["why"], f.metadata["paper"], f.metadata["unit"],
                 part.__name__ if isinstance(part, type) else type(part).__name__,
                 f.metadata["follows"]))
    return rows


def _inner(part):
    """(path, part) of the parts held in a part's fields; members of a tuple are numbered."""
    for f in fields(part):
        value = getattr(part, f.name, None)
        if is_dataclass(value) and not isinstance(value, type):
            yield f.name, value
        elif isinstance(value, tuple):
            for i, item in enumerate(value):
                if is_dataclass(item):
                    yield f"{f.name}.{i}", item


def knobs(part) -> list[Knob]:
    """All knobs of a recipe, or of the method of this name; those of inner parts have dotted names
    (``update.lr``, ``select.0.tolerance``)."""
    if isinstance(part, str):
        part = named("recipe", part)
    if not is_dataclass(part):
        raise WrongKind(f"knobs are those of a recipe, a part or a method's name, not of {part!r}")
    part = part() if isinstance(part, type) else part
    rows = own_knobs(part)
    for path, inner in _inner(part):
        rows += [replace(k, name=f"{path}.{k.name}") for k in knobs(inner)]
    return rows


def resolve(part, name: str) -> str:
    """The full dotted name for ``name``: itself, or the one knob that ends in it (one that others
    follow counts for all of them).

    Raises ValueError, listing what exists, when there is none or more than one.
    """
    rows = knobs(part)
    names = [k.name for k in rows]
    if name in names:
        return name
    found = [n for n in names if n.endswith("." + name)]
    led = {follower for n in found for follower in followers(rows, n, whatever=True)}
    if len(found) - len(led) == 1:
        return next(n for n in found if n not in led)
    kind = type(part).__name__
    if found:
        raise ValueError(f"{kind} has several knobs called {name!r}: {', '.join(found)}; write "
                         f"the dotted name")
    raise ValueError(f"{kind} has no knob {name!r}; its knobs are: {', '.join(names) or '(none)'}")


def with_knobs(part, **values):
    """The same part with some knobs changed, by dotted name (``**{"update.lr": 1e-4}``) or unique
    short name.

    A knob that is the same quantity as a changed one changes with it, unless it had another value
    or is itself among those given; a short name means the quantity, and sets all of them.
    """
    given, short = {}, set()
    for name, value in values.items():
        full = resolve(part, name)
        if full in given:
            raise ValueError(f"{type(part).__name__}: {name!r} and another name given both mean "
                             f"the knob {full!r}; give it once")
        given[full] = value
        short |= {full} - {name}
    rows = knobs(part)
    for name, value in given.items():
        for each in (name, *(n for n in followers(rows, name, name in short) if n not in given)):
            part = _set(part, each.split("."), value)
    return part


def followers(rows: list[Knob], name: str, whatever: bool = False) -> list[str]:
    """Names of the knobs among these that are the same quantity as the named one and have its
    value, or ``whatever`` value."""
    leader = next(k for k in rows if k.name == name)
    quantity = f"{leader.owner}.{name.rpartition('.')[2]}"
    return [k.name for k in rows if k.follows == quantity and (whatever or k.value == leader.value)]


def _set(part, path, value):
    head, *rest = path
    if not rest:
        return replace(part, **{head: value})
    inside = getattr(part, head)
    if isinstance(inside, tuple):
        i = int(rest[0])
        return replace(part,
                       **{head: (*inside[:i], _set(inside[i], rest[1:], value), *inside[i + 1:])})
    return replace(part, **{head: _set(inside, rest, value)})


def check(part) -> None:
    """Raise ValueError when a knob of this part is of the wrong kind or outside its range.

    Numbers of other libraries (a numpy scalar, a tensor of one value) become Python numbers, so
    that a recipe prints plainly.
    """
    for k in own_knobs(part):
        if hasattr(k.value, "item") and getattr(k.value, "ndim", 1) == 0:
            object.__setattr__(part, k.name, k.value.item())
            k = replace(k, value=k.value.item())
        where = f"{type(part).__name__}.{k.name} = {k.value!r}"
        if k.choices is not None:
            if not any(isinstance(k.value, type(c)) and k.value == c for c in k.choices):
                raise ValueError(f"{where} is not one of {', '.join(map(repr, k.choices))} "
                                 f"({k.why})")
        elif isinstance(k.default, bool):
            if not isinstance(k.value, bool):
                raise ValueError(f"{where} must be True or False ({k.why})")
        else:
            number = (isinstance(k.value, (int, float)) and not isinstance(k.value, bool)
                      and not math.isnan(k.value))
            if isinstance(k.default, int) and not isinstance(k.value, int):
                number = False
            if not number or not k.low <= k.value <= k.high:
                kind = "a whole number" if isinstance(k.default, int) else "a number"
                raise ValueError(f"{where} must be {kind} from {k.low} to {k.high} ({k.why})")
