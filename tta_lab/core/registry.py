"""Finding parts: a method or selector is one file in its folder; nothing else has to be edited."""
from __future__ import annotations

import importlib
import pkgutil
import re
from dataclasses import MISSING, fields
from typing import Any

from . import parts


def snake(name: str) -> str:
    """ConfidenceRise -> confidence_rise"""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def listed_name(kind: type) -> str:
    """The name under which lists have a part."""
    return getattr(kind, "name", snake(kind.__name__))


def without_default(kind: type) -> list[str]:
    """Names of the fields of a dataclass that have no default."""
    return [f.name for f in fields(kind)
            if f.default is MISSING and f.default_factory is MISSING]


def defined_in(module, base: type) -> list[type]:
    """The classes that a module defines itself, that derive from ``base`` and whose name does not
    begin with _."""
    return [value for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, base)
            and value.__module__ == module.__name__ and not value.__name__.startswith("_")]


def find_parts(package: str, path, interface: str, but: tuple[str, ...] = ()) -> dict[str, Any]:
    """Name -> class of every part of this interface defined in the modules of a package, ``but``
    some modules. Raises TypeError for one that cannot be made without arguments."""
    base, found = getattr(parts, interface), {}
    for info in pkgutil.iter_modules(path):
        if info.name in but:
            continue
        module = importlib.import_module(f"{package}.{info.name}")
        for value in defined_in(module, base):
            bare = without_default(value)
            if bare:
                raise TypeError(f"{value.__name__} in {module.__file__} is listed, and so must "
                                f"be made without arguments, but these fields have no default: "
                                f"{', '.join(bare)}; give them one, or, if others only derive "
                                f"from it, begin its name with _")
            found[listed_name(value)] = value
    return dict(sorted(found.items()))
