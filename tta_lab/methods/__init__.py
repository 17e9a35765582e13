"""Methods: one file each, found by themselves. ``make`` builds a recipe by name, ``catalogue`` lists what there is."""
from __future__ import annotations

import json
import re
import sys
from dataclasses import fields, is_dataclass
from difflib import get_close_matches

from ..components import augment, penalties, selectors, updates
from ..components.controllers import guard
from ..components.controllers import resets as controllers
from ..components.norms import batch_norm as norms
from ..core import parts
from ..core.arguments import WrongKind
from ..core.knobs import knobs, with_knobs
from ..core.parts import Method, Part, needs_of
from ..core.registry import find_parts
from . import composed

METHODS = find_parts(__name__, __path__, "Method", but=("composed",))
PARTS: dict[str, type] = {  # of the modules for parts, and whatever else a method's file uses
    value.__name__: value
    for place in (parts, norms, penalties, selectors, updates, controllers, guard, augment, composed,
                  *(sys.modules[m.__module__] for m in METHODS.values()))
    for value in vars(place).values()
    if isinstance(value, type) and issubclass(value, Part) and is_dataclass(value) and not value.__name__.startswith("_")
} | {value.__name__: value for value in METHODS.values()}


def make(name: str, *, form: str = "paper", preset: str | None = None, **settings) -> Method:
    """A recipe by the method's name, with knobs or parts changed: ``make("tent", lr=1e-3, train=AllParameters())``.

    Settings are knobs, by dotted name (``**{"update.lr": 1e-3}``) or by their unique short name (``lr=1e-3``), or fields of the
    method. ``form="reference"`` is what the authors' public code does where that differs from the paper; ``preset`` names a benchmark
    whose published settings are taken. Raises ValueError for an unknown name, form, preset or knob or a value out of range, and
    lists what exists.
    """
    if not isinstance(name, str):
        raise WrongKind(f"make takes the name of a method, such as 'tent', not {name!r}")
    if name not in METHODS:
        near = get_close_matches(name.lower().replace("-", "_"), METHODS, 1)
        raise ValueError(f"there is no method {name!r}; there are: {', '.join(METHODS)}{f'; did you mean {near[0]!r}?' if near else ''}")
    kind = METHODS[name]
    if form not in ("paper", "reference", *kind.forms):
        raise ValueError(f"{name} has no form {form!r}; it has: {', '.join(dict.fromkeys(('paper', 'reference', *kind.forms)))}")
    if preset is not None and preset not in list(kind.presets):
        raise ValueError(f"{name} has no preset {preset!r}; it has: {', '.join(kind.presets) or '(none)'}")
    published = {**(kind.presets[preset] if preset else {}), **kind.forms.get(form, {})}
    own = {f.name for f in fields(kind) if not f.metadata.get("knob")}
    recipe = kind(**{k: v for k, v in (published | settings).items() if k in own})
    for values in (published, settings):
        recipe = with_knobs(recipe, **{k: v for k, v in values.items() if k not in own})
    return recipe


def catalogue(cost: bool = False) -> list[dict]:
    """One row per method: name, sentence, family, needs, tasks, answer, how each form was verified, forms, presets, knobs, paper, arXiv id.

    ``cost`` adds forwards and backwards per image, (least, most), measured on tiny networks in some seconds. docs/methods.md is made of these rows.
    """
    if cost:
        from ..experiments.catalogue import cost_of
    rows = []
    for name, kind in METHODS.items():
        recipe, found = kind(), re.search(r"\d{4}\.\d{5}", kind.paper)
        rows.append({"name": name, "class": kind.__name__, "sentence": (kind.__doc__ or "").strip().split("\n")[0], "family": kind.family,
                     "needs": sorted(needs_of(recipe)), "tasks": list(kind.tasks), "answer": recipe.answer, "kind": kind.kind,
                     "verified": {form: kind.verified_forms.get(form, kind.verified) for form in ("paper", *kind.forms)},
                     "forms": list(kind.forms), "presets": list(kind.presets), "knobs": [k.name for k in knobs(kind)], "paper": kind.paper,
                     "arxiv": found.group() if found else "", **(cost_of(recipe) if cost else {})})
    return rows


def to_json(recipe: Part) -> str:
    """A recipe as JSON; ``from_json`` rebuilds an equal one."""
    return json.dumps(_pack(recipe))


def from_json(text: str) -> Part:
    """The recipe written by ``to_json``. Raises ValueError for a part that does not exist here, and for what is no JSON of a recipe."""
    try:
        found = json.loads(text)
    except (ValueError, TypeError) as why:
        raise ValueError(f"this is not the JSON of a recipe ({why}); write it with to_json(recipe)") from why
    if not isinstance(found, dict):
        raise ValueError(f"the JSON of a recipe has an entry 'part' and its settings, this one is {type(found).__name__}; write it with "
                         "to_json(recipe)")
    return _unpack(found)


def _pack(value):
    if isinstance(value, Part):
        return {"part": type(value).__name__, **{f.name: _pack(getattr(value, f.name)) for f in fields(value)}}
    return [_pack(v) for v in value] if isinstance(value, tuple) else value


def _unpack(value):
    if isinstance(value, dict):
        settings = dict(value)
        name = settings.pop("part", None)
        if name not in PARTS:
            raise ValueError(f"there is no part {name!r}; there are: {', '.join(PARTS)}")
        return PARTS[name](**{k: _unpack(v) for k, v in settings.items()})
    return tuple(_unpack(v) for v in value) if isinstance(value, list) else value
