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


def find_parts(package: str, path, interface: str, but: tuple[str, ...] = ()) -> dict[str, Any]:
    """Name -> class of every part of this interface defined in the modules of a package, ``but``
    some modules. Raises TypeError for one that cannot be made without arguments."""
    base, found = getattr(parts, interface), {}
    for info in pkgutil.iter_modules(path):
        if info.name in but:
            continue
        module = importlib.import_module(f"{package}.{info.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(
                    value, base
            ) and value.__module__ == module.__name__ and not value.__name__.startswith("_"):
                bare = [f.name for f in fields(value)
                        if f.default is MISSING and f.default_factory is MISSING]
                if bare:
                    raise TypeError(f"{value.__name__} in {module.__file__} is listed, and so must "
                                    f"be made without arguments, but these fields have no default: "
                                    f"{', '.join(bare)}; give them one, or, if others only derive "
                                    f"from it, begin its name with _")
                found[getattr(value, "name", snake(value.__name__))] = value
    return dict(sorted(found.items()))
