"""A shift as text and as value: "fog", "fog:3" (with its severity), "gaussian_noise:2.5+fog:1" (one
on the other, from left to right), "none" or "clean" (nothing), or a domain of an image set."""
from __future__ import annotations

from dataclasses import dataclass, field

from ..core.arguments import WrongKind

CLEAN = ("none", "clean")


@dataclass(frozen=True)
class Shift:
    """What is done to the images of a segment; ``Shift.parse(text)`` reads it, ``str`` prints it.

    parts  (name, severity) of each step in order; None where the text names no severity
    held   an image set holds this domain itself, nothing is made
    text   as it was written, without spaces around names and numbers
    """

    parts: tuple[tuple[str, float | None], ...]
    held: bool = False
    text: str = field(default="", compare=False)

    def __post_init__(self):
        if not self.text:
            pieces = (name if value is None else f"{name}:{value:g}" for name, value in self.parts)
            object.__setattr__(self, "text", "+".join(pieces))

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, text: str, held=()) -> Shift:
        """The shift that a text names; ``held`` are the domains that the image set holds itself,
        which are no corruptions and never part of a composition.

        Raises ValueError for what is no text and for a severity that is no number. Whether there
        is such a corruption is the business of ``corruptions.parse_shift``.
        """
        if not isinstance(text, str):
            raise WrongKind(f"a shift is a text such as 'fog:3' or 'gaussian_noise:2+fog:1', got "
                            f"{text!r}")
        name, _, rest = text.partition(":")
        name = name if name in held else name.strip()
        own = name in held and "+" not in rest
        parts = []
        pieces = []
        for piece in [text] if own else text.split("+"):
            before, colon, number = piece.partition(":")
            before = name if own else before.strip()
            number = number.strip()
            try:
                value = float(number) if colon else None
            except ValueError:
                raise ValueError(f"the severity of {before!r} must be a number from 0 to 5, got "
                                 f"{number!r} in {text!r}") from None
            parts.append((before, value))
            pieces.append(before + colon + number)
        return cls(tuple(parts), own, "+".join(pieces))

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each step."""
        return tuple(name for name, _ in self.parts)

    @property
    def domain(self) -> str:
        """The names without severities: "fog:3" is of the domain "fog", "gaussian_noise:2+fog:1"
        of "gaussian_noise+fog"."""
        return "+".join(self.names)

    @property
    def clean(self) -> bool:
        """Whether the images stay as they are: "none", "clean"."""
        return self.text in CLEAN

    def severity(self, default: float) -> float:
        """The largest severity of the steps, 0 for clean images; ``default`` where a step names
        none."""
        return 0.0 if self.clean else max(value for _, value in self.steps(default))

    def steps(self, default: float) -> tuple[tuple[str, float], ...]:
        """(name, severity) of each step, with the default filled in; () for clean images."""
        return () if self.clean else tuple(
            (name, float(default if value is None else value)) for name, value in self.parts)
