"""What the explorer and the composer are given: models by name, text or as they are, methods by
family, names of streams. Nothing here needs a widget.
"""
from __future__ import annotations

from ..core.arguments import WrongKind, nearest
from ..core.named import model_of
from ..data.embedded import EMBEDDED
from ..data.load import images_of
from ..experiments.experiment import SOURCE_IMAGES
from ..methods import METHODS
from ..models.embedded import checkpoints
from ..models.names import parse, refuse_code
from ..streams.stream import AbstractStream

AS_GIVEN = "given"  # the option that stands for what was passed in
IMAGES = {  # known, unknown and source images of a model
    "fashion8_resnet_bn": ("fashion_mnist_8", "fashion_mnist_held_out",
                           "fashion_mnist_train_slice_8")}
USUAL_IMAGES = ("fashion_mnist", "digits", SOURCE_IMAGES)


def check_model(model, trust: bool) -> None:
    """A model that was handed over: a text that names one, or a network. Raises ValueError, and
    TypeError for an object of another kind."""
    if model is None:
        return
    if not isinstance(model, str):
        model_of(model)
        return
    try:
        parse(model)
    except ValueError as error:
        raise ValueError(f"there is no embedded model {model!r}{nearest(model, checkpoints())}; "
                         f"there are: {', '.join(checkpoints())}; a network of your own is passed "
                         f"as it is, or as a text: {error}") from error
    refuse_code(model, trust)


def check_images(name: str, images) -> None:
    """Images that were handed over: a text that names a set, or a set."""
    try:
        images_of(images, name)
    except ValueError as error:
        text = isinstance(images, str) and ":" not in images
        near = nearest(images, EMBEDDED) if text else ""
        raise type(error)(f"{name}: {error}{near}") from error


def check_stream(stream) -> None:
    """A stream that was handed over."""
    if stream is None or isinstance(stream, AbstractStream):
        return
    found = (f"a text; choose a protocol by its name, protocol={stream!r}"
             if isinstance(stream, str) else f"a {type(stream).__name__}")
    raise WrongKind("stream must be a stream, such as protocols.continual(images), not " + found)


def own_model(model) -> bool:
    """Whether a model is none of the embedded ones."""
    return model is not None and model not in checkpoints()


def model_options(own: bool) -> list[tuple[str, str]]:
    """(label, value) of the list of models."""
    return [("your model", AS_GIVEN)] * own + [(name, name) for name in checkpoints()]


def method_options() -> list[tuple[str, str]]:
    """(label, value) of the list of methods, by family."""
    families = dict.fromkeys(kind.family for kind in METHODS.values())
    return [(f"{name}  ({family or 'your own'})", name) for family in families
            for name, kind in METHODS.items() if kind.family == family]


class StreamNames:
    """What streams are called: two streams never share a name."""

    def __init__(self):
        self._names: dict = {}  # hash -> name

    def add(self, stream, label: str) -> str:
        """The name of a stream, which becomes ``label`` where no other has it."""
        if stream.hash not in self._names:
            taken = label in self._names.values()
            self._names[stream.hash] = f"{label} ({stream.hash[:6]})" if taken else label
        return self._names[stream.hash]

    def of(self, stream) -> str:
        return self._names.get(stream.hash, "your stream")
