"""What a recipe takes from the source domain before a stream: declared by the part that uses it.

A declaration is a maker with its name, a sentence, a batch size and a limit, and stands beside the
part that needs it; `tta_lab.prepare` calls it::

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
from dataclasses import dataclass, fields, replace
from typing import Any

from .parts import Method, NeedsError, Part, parts_of

AGAIN = "source_info = tta_lab.prepare(model, recipe, images, labels)"


@dataclass(frozen=True)
class SourceInfo:
    """Tensors that are made of source images before a stream.

    name      under which it is handed over, ``ctx.source_info[name]``
    what      a phrase for messages: "X needs <what> from the source domain"
    make      ``make(probe, images, **knobs)`` -> name -> tensor. ``probe`` is an adapter with the
              recipe's normalisation and tuned parameters, at the source's weights; ``images`` gives
              batches of images and labels (or None), ``images.labelled(what)`` those with labels
    batch     images at a time
    limit     how many images are taken, the first ones; None: all
    knobs     (name, value) of the knobs of the part that ``make`` sees
    """

    name: str
    what: str
    make: Callable[..., dict]
    batch: int = 64
    limit: int | None = 2000
    knobs: tuple[tuple[str, Any], ...] = ()

    def of(self, part: Part) -> SourceInfo:
        """The same with the knobs of this part. Raises TypeError where it has no such knob or
        field, and for a maker that cannot be called so."""
        names = _keywords(self.make)
        try:
            inspect.signature(self.make).bind(None, None, **dict.fromkeys(names))
        except TypeError as why:
            raise TypeError(
                f"the maker of {self.name!r} is called as make(probe, images, *, knobs): {why}; "
                "write its knobs behind a *"
            ) from None
        known = {f.name for f in fields(part)}
        missing = [name for name in names if name not in known]
        if missing:
            raise TypeError(
                f"the maker of {self.name!r} asks for the knob {missing[0]!r}, which "
                f"{type(part).__name__} does not have; its keyword arguments are knobs of the part "
                "that declares it"
            )
        return replace(self, knobs=tuple((name, getattr(part, name)) for name in names))

    def check(self, found: dict, model: str, who: str) -> None:
        """Raise NeedsError where what was found was made for other weights or with other knobs.

        ``model`` is the fingerprint of the weights. A plain dict says neither and is taken.
        """
        if not isinstance(found, Made):
            return
        if found.model != model:
            raise NeedsError(
                f"{who} was given {self.name!r} that was made for other weights ({found.model}) "
                f"than this model's ({model}); make it with this model: {AGAIN}"
            )
        if found.knobs != self.knobs:
            raise NeedsError(
                f"{who} was given {self.name!r} that was made for other knobs "
                f"({_say(found.knobs)}) than this recipe's ({_say(self.knobs)}); make it with this "
                f"recipe: {AGAIN}"
            )


class Made(dict):
    """Name -> tensor, as `tta_lab.prepare` made it, and for which weights and knobs."""

    def __init__(self, tensors: dict, model: str, knobs: tuple):
        super().__init__(tensors)
        self.model = model
        self.knobs = knobs

    def __reduce__(self):
        return Made, (dict(self), self.model, self.knobs)


def source_info(
    what: str, *, batch: int = 64, limit: int | None = 2000
) -> Callable[[Callable[..., dict]], SourceInfo]:
    """Declare a function as the maker of a `SourceInfo` of its name."""
    return lambda make: SourceInfo(make.__name__, what, make, batch, limit)


def source_info_of(recipe: Method) -> dict[str, SourceInfo]:
    """Name -> what the parts of a recipe take from the source domain, with their knobs, by name.

    Raises NeedsError where two parts want the same with different knobs.
    """
    found: dict[str, SourceInfo] = {}
    for part in parts_of(recipe):
        for info in part.takes():
            other = found.setdefault(info.name, info)
            if other != info:
                raise NeedsError(
                    f"{type(recipe).__name__}: two parts take {info.name!r} from the source, "
                    f"with the knobs ({_say(other.knobs)}) and ({_say(info.knobs)}); make them "
                    "equal"
                )
    return dict(sorted(found.items()))


def check_given(recipe: Method, source_info: dict, model: str) -> None:
    """Raise NeedsError where what a recipe takes from the source domain is missing, or was made for
    other weights than those of this fingerprint, or for other knobs."""
    who = type(recipe).__name__
    for name, info in source_info_of(recipe).items():
        if name not in source_info:
            raise NeedsError(
                f"{who} needs {info.what} from the source domain; make it once with {AGAIN} and "
                "hand it over: Adapter(..., source_info=source_info)"
            )
        info.check(source_info[name], model, who)


def _keywords(make: Callable) -> list[str]:
    parameters = inspect.signature(make).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def _say(knobs: tuple) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in knobs) or "none"
