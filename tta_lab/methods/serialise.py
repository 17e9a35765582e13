"""Recipes as JSON."""
from __future__ import annotations

import json
import sys
from dataclasses import fields, is_dataclass

from ..components import augment, penalties, updates
from ..components.controllers import guard
from ..components.controllers import resets as controllers
from ..components.norms import batch_norm as norms
from ..components.selectors import SELECTORS
from ..core import parts
from ..core.own_parts import Listing
from ..core.parts import Part
from . import METHODS, composed

FORMERLY = {  # name in JSON of before -> name now
    "Anchored": "WeightEnsembling",
    "CertainWeight": "EntropyWeight",
    "ColourAffine": "ColorAffine",
    "Confident": "ConfidenceThreshold",
    "DestroyedObject": "PLPDFilter",
    "LowEntropy": "EntropyThreshold",
}
PARTS = Listing({  # of the modules for parts, what the files found by name use, and yours
    value.__name__: value
    for place in (parts, norms, penalties, updates, controllers, guard, augment, composed,
                  *(sys.modules[m.__module__]
                    for m in (*SELECTORS.builtin.values(), *METHODS.builtin.values())))
    for value in vars(place).values() if isinstance(value, type) and issubclass(value, Part)
    and is_dataclass(value) and not value.__name__.startswith("_")
} | {value.__name__: value for value in METHODS.builtin.values()}, by_class=True)


def to_json(recipe: Part) -> str:
    """A recipe as JSON; ``from_json`` rebuilds an equal one."""
    return json.dumps(_pack(recipe))


def from_json(text: str) -> Part:
    """The recipe written by ``to_json``. Raises ValueError for a part that does not exist here,
    and for what is no JSON of a recipe."""
    try:
        found = json.loads(text)
    except (ValueError, TypeError) as why:
        raise ValueError(
            f"this is not the JSON of a recipe ({why}); write it with to_json(recipe)") from why
    if not isinstance(found, dict):
        raise ValueError(f"the JSON of a recipe has an entry 'part' and its settings, this one is "
                         f"{type(found).__name__}; write it with "
                         "to_json(recipe)")
    return _unpack(found)


def _pack(value):
    if isinstance(value, Part):
        return {
            "part": type(value).__name__,
            **{f.name: _pack(getattr(value, f.name)) for f in fields(value)}
        }
    return [_pack(v) for v in value] if isinstance(value, tuple) else value


def _unpack(value):
    if isinstance(value, dict):
        settings = dict(value)
        name = settings.pop("part", None)
        name = FORMERLY.get(name, name)
        if name not in PARTS:
            raise ValueError(f"there is no part {name!r}; there are: {', '.join(PARTS)}; "
                             f"one of your own must be defined first, with @tta_lab.part above it, "
                             f"or its file named: tta_lab.use('my_method.py')")
        return PARTS[name](**{k: _unpack(v) for k, v in settings.items()})
    return tuple(_unpack(v) for v in value) if isinstance(value, list) else value
