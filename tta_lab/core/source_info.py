"""What a recipe takes from the source domain before a stream: declared by the part that uses it, made by `tta_lab.prepare`.

A declaration is a maker with its name, a sentence, a batch size and a limit, and stands beside the part that needs it::

    @source_info("the mean image, from unlabelled source images", batch=64, limit=2000)
    def mean_image(probe, images, *, crop):
        return {"mean": torch.cat([x[..., crop:-crop, crop:-crop] for x, _ in images]).mean(0)}

    class Brightness(LossMethod):
        crop: int = knob(2, (1, 8), "pixels cut off at each side")
        source_info = (mean_image,)

Keyword arguments of the maker are knobs of that part, and the only ones that it sees.
"""
from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from .parts import NeedsError, Part, parts_of

AGAIN = "given = tta_lab.prepare(model, recipe, images, labels)"


@dataclass(frozen=True)
class SourceInfo:
    """Tensors that are made of source images before a stream.

    name      under which it is handed over, ``view.given[name]``
    what      a sentence for messages: "X needs <what> from the source domain"
    make      ``make(probe, images, **knobs)`` -> name -> tensor. ``probe`` is an adapter with the recipe's normalisation and tuned parameters,
              at the source's weights; ``images`` gives batches of images and labels (or None), and ``images.labelled(what)`` those with labels
    batch     images at a time
    limit     how many images are taken, the first ones; None: all
    knobs     (name, value) of the knobs of the part that ``make`` sees
    """

    name: str
    what: str
    make: Callable
    batch: int = 64
    limit: int | None = 2000
    knobs: tuple[tuple[str, Any], ...] = ()

    def of(self, part: Part) -> SourceInfo:
        """The same with the knobs of this part. Raises TypeError where the part has no such knob."""
        missing = [name for name in _keywords(self.make) if not hasattr(part, name)]
        if missing:
            raise TypeError(f"the maker of {self.name!r} asks for the knob {missing[0]!r}, which {type(part).__name__} does not have; its keyword "
                            "arguments are knobs of the part that declares it")
        return replace(self, knobs=tuple((name, getattr(part, name)) for name in _keywords(self.make)))

    def check(self, found: dict, model: str, who: str) -> None:
        """Raise NeedsError where what was found was made for another model (fingerprint of its weights) or with other knobs.

        A plain dict, which says neither, is taken as it is.
        """
        if not isinstance(found, Made):
            return
        if found.model != model:
            raise NeedsError(f"{who} was given {self.name!r} that was made for other weights ({found.model}) than this model's ({model}); make it "
                             f"with this model: {AGAIN}")
        if found.knobs != self.knobs:
            theirs, ours = (", ".join(f"{name}={value!r}" for name, value in knobs) for knobs in (found.knobs, self.knobs))
            raise NeedsError(f"{who} was given {self.name!r} that was made for other knobs ({theirs or 'none'}) than this recipe's "
                             f"({ours or 'none'}); make it with this recipe: {AGAIN}")


class Made(dict):
    """Name -> tensor, as `prepare` made it, with the fingerprint of the model and the knobs that it was made for."""

    def __init__(self, tensors: dict, model: str, knobs: tuple):
        super().__init__(tensors)
        self.model, self.knobs = model, knobs

    def __reduce__(self):
        return Made, (dict(self), self.model, self.knobs)


def source_info(what: str, *, batch: int = 64, limit: int | None = 2000) -> Callable[[Callable], SourceInfo]:
    """Declare a function as the maker of a `SourceInfo` of its name."""
    return lambda make: SourceInfo(make.__name__, what, make, batch, limit)


def source_info_of(recipe: Part) -> dict[str, SourceInfo]:
    """Name -> what the parts of a recipe take from the source domain, with their knobs; sorted by name.

    Raises NeedsError where two parts want the same with different knobs.
    """
    found: dict[str, SourceInfo] = {}
    for part in parts_of(recipe):
        for info in part.takes():
            if found.setdefault(info.name, info) != info:
                raise NeedsError(f"{type(recipe).__name__}: two parts take {info.name!r} from the source domain, with the knobs {found[info.name].knobs} "
                                 f"and {info.knobs}; give them the same")
    return dict(sorted(found.items()))


def check_given(recipe: Part, given: dict, model: str) -> None:
    """Raise NeedsError where what a recipe takes from the source domain is missing, or was made for another model or other knobs."""
    who = type(recipe).__name__
    for name, info in source_info_of(recipe).items():
        if name not in given:
            raise NeedsError(f"{who} needs {info.what} from the source domain; make it once with {AGAIN} and hand it over: "
                             "Adapter(..., given=given)")
        info.check(given[name], model, who)


def _keywords(make: Callable) -> list[str]:
    return [p.name for p in inspect.signature(make).parameters.values() if p.kind is p.KEYWORD_ONLY]
