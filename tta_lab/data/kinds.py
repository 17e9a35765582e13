"""The kinds of image sets on disk: functions that ``load("kind:path?options")`` calls."""
from __future__ import annotations

import functools
import inspect
import numbers
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..core import places
from ..core.arguments import path_of
from .contents import note, noting
from .image_set import BaseSet

KINDS: dict[str, Callable[..., BaseSet]] = {}
NOT_CONTENT = ("cache_bytes",)
BELOW = ("labels", "classes", "map")  # files that are looked for below the set's folder first
# options of kinds that may name a file or a folder
PATH_OPTIONS = ("labels", "classes", "map", "images", "synsets", "clean")


def canonical(name: str) -> str:
    """The same text with the absolute path in it, so that it means the same from every working
    directory; embedded names as they are.

    The set is not opened; a path that is not there stays as it is.
    """
    kind, colon, rest = name.partition(":")
    if not colon or kind not in KINDS:
        return name
    path, query, subsets = places.split(rest)
    if not places.there(path):
        return name
    text = f"{kind}:{places.joined(places.absolute(path), query)}"
    for chosen in subsets:
        text = places.with_subset(text, chosen)
    return text


def opened(name: str) -> BaseSet:
    """The set of a text ``kind:path?options[classes]``. Raises ValueError for an unknown option."""
    kind, _, rest = name.partition(":")
    path, query, subsets = places.split(rest)
    known = KINDS[kind].options
    given = {
        key: places.value(text, path if key in PATH_OPTIONS else None)
        for key, text in places.options(query, known).items()
    }
    data = KINDS[kind](path, **given)
    for chosen in subsets:
        data = data.only([int(c) for c in chosen.split(",")])
    return data


def _anchored(key: str, value, root: str):
    """An option that names a file outside the set's folder, with its absolute path, so that it
    means the same from everywhere."""
    if key not in PATH_OPTIONS or not isinstance(value, str | os.PathLike) or not str(value):
        return value
    if key in BELOW and (os.path.isfile(os.path.join(root, value))
                         or key == "classes" and not str(value).endswith(".txt")):
        return value
    return (places.absolute(value)
            if places.there(value) else canonical(str(value)) if key == "clean" else value)


def _text(value) -> str:
    if isinstance(value, BaseSet):
        return value.name
    if isinstance(value, tuple | list):
        if any("," in str(part) for part in value):
            raise ValueError(f"a name with a comma cannot be part of an option, got {value!r}; "
                             f"put the names into a text file")
        sizes = all(isinstance(part, numbers.Integral) for part in value)
        return ("x" if sizes and len(value) == 2 else ",").join(map(str, value))
    return "none" if value is None else str(int(value)) if isinstance(value, bool) else str(value)


def kind(name: str):
    """Register a function ``(path, *, options) -> set`` under ``name``; the set it gives is named
    ``name:path?options`` with its absolute path and the options that differ from their defaults,
    so that ``tta_lab.load`` rebuilds it from everywhere. Unknown options raise ValueError."""
    def register(build):
        known = {
            p.name: p.default for p in inspect.signature(build).parameters.values()
            if p.kind is p.KEYWORD_ONLY
        }

        @functools.wraps(build)
        def named(path, **options):
            wrong = [option for option in options if option not in known]
            if wrong:
                raise ValueError(f"{name} has no option {', '.join(map(repr, wrong))}; it has: "
                                 f"{', '.join(known) or 'none'}")
            if not str(path):
                raise ValueError(f"{name}: a path is missing; write {name}:/path/to/the/files")
            root = places.absolute(path_of(f"{name}: path", path))
            options = {key: _anchored(key, value, root) for key, value in options.items()}
            given = {
                key: _text(value) for key, value in options.items()
                if key not in NOT_CONTENT and _text(value) != _text(known[key])
            }
            with noting() as noted:
                note(root)
                data = build(Path(root), **options)
            data = replace(data, name=f"{name}:{places.joined(root, places.query(given))}")
            data.__dict__["_noted"] = noted
            return data

        named.options = tuple(known)
        KINDS[name] = named
        return named
    return register
