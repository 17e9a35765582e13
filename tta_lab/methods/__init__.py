"""Methods: one file each, found by themselves. ``make`` builds a recipe by name."""
from __future__ import annotations

from dataclasses import fields
from difflib import get_close_matches

from ..core.arguments import WrongKind
from ..core.knobs import with_knobs
from ..core.own_parts import Listing
from ..core.parts import Method
from ..core.registry import find_parts

METHODS = Listing(  # those of this package, and yours
    find_parts(__name__, __path__, "Method", but=("composed", "serialise")), Method)


def make(name: str, *, form: str = "paper", preset: str | None = None, **settings) -> Method:
    """A recipe by the method's name, with knobs or parts changed: ``make("tent", lr=1e-3,
    train=AllParameters())``.

    Settings are knobs, by dotted name (``**{"update.lr": 1e-3}``) or by their unique short name
    (``lr=1e-3``), or fields of the method. ``form="reference"`` is what the authors' public code
    does where that differs from the paper; ``preset`` names a benchmark whose published settings
    are taken. Raises ValueError for an unknown name, form, preset or knob or a value out of range,
    and lists what exists.
    """
    if not isinstance(name, str):
        raise WrongKind(f"make takes the name of a method, such as 'tent', not {name!r}")
    if name not in METHODS:
        near = get_close_matches(name.lower().replace("-", "_"), METHODS, 1)
        raise ValueError(f"there is no method {name!r}; there are: "
                         f"{', '.join(METHODS)}{f'; did you mean {near[0]!r}?' if near else ''}; "
                         f"a class of your own is listed with @tta_lab.part above it, a file of "
                         f"yours with tta_lab.use('my_method.py')")
    kind = METHODS[name]
    if form not in ("paper", "reference", *kind.forms):
        raise ValueError(f"{name} has no form {form!r}; it has: "
                         f"{', '.join(dict.fromkeys(('paper', 'reference', *kind.forms)))}")
    if preset is not None and preset not in list(kind.presets):
        raise ValueError(f"{name} has no preset {preset!r}; it has: "
                         f"{', '.join(kind.presets) or '(none)'}")
    published = {**(kind.presets[preset] if preset else {}), **kind.forms.get(form, {})}
    own = {f.name for f in fields(kind) if not f.metadata.get("knob")}
    recipe = kind(**{k: v for k, v in (published | settings).items() if k in own})
    for values in (published, settings):
        recipe = with_knobs(recipe, **{k: v for k, v in values.items() if k not in own})
    return recipe
