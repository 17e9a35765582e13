"""A model and images of the user's own in the studies of the notebooks.

They are named by texts, as in `names.open_model` and `tta_lab.load`. `pair_of` opens both and sees
that they go together before anything runs; what a study wants and they lack is left out, with a
sentence among the plan's ``notes``.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from ..core.adapter import Adapter
from ..core.norm_layers import BATCH_NORM
from ..core.parts import Method
from ..core.source_info import source_info_of
from ..core.source_model import SourceModel
from ..data.image_set import BaseSet
from ..data.load import load_kept
from ..data.shipped import data_root
from ..experiments.experiment import one_image
from ..experiments.runner import check_outputs
from ..methods import make
from ..models.embedded import checkpoints, load_model
from ..models.names import facts_of, open_model, refuse_code
from ..streams.shifts import own_rows
from ..streams.stream import Stream
from .folders import images_text
from .report import joined

MODEL = "fashion_resnet_bn"
IMAGES = "fashion_mnist"
# of embedded models that were trained on others
OTHER_IMAGES = {"fashion8_resnet_bn": "fashion_mnist_8"}
SOURCE_IMAGES = "fashion_mnist_train_slice"                 # of the embedded models
NO_SOURCE_IMAGES = ("it must be prepared on source images, and those of this model are not known")
NO_BATCH_NORM = ("The model has no batch norm, so BN-1, which takes statistics of batches, is the "
                 "source itself here.")


@dataclass(frozen=True)
class Pair:
    """A model and images as texts, and ``notes``: what was decided about them, in sentences."""

    model: str = MODEL
    images: str = IMAGES
    notes: tuple[str, ...] = ()
    named: bool = True  # whether the model is one that somebody named

    @property
    def network(self) -> SourceModel:
        """The model, opened once."""
        return network(self.model)

    @property
    def data(self) -> BaseSet:
        """The images, opened."""
        return images_of(self.images)


def network(text: str) -> SourceModel:
    """The model of a text; the same object as long as its files have not changed."""
    return _network(text, facts_of(text))


@lru_cache(8)
def _network(text: str, facts) -> SourceModel:
    return load_model(text) if text in checkpoints() else open_model(text)


def images_of(text: str) -> BaseSet:
    """The image set of a text."""
    return load_kept(text, data_root())


def pair_of(model: str = "", images: str = "", trust: bool = False, default: str = MODEL) -> Pair:
    """The model and the images of these texts, opened and tried on one image; what is "" is the
    embedded one (``default``, and its images).

    A folder is read in the size, the colours and the classes of the model
    (`folders.images_text`). Raises ValueError or DataError in a sentence: for a text that
    names nothing, for a Python file that nobody said to trust, for images without labels, and where
    the two do not fit.
    """
    named = bool(model.strip())
    model = model.strip() or default
    images = images.strip()
    if images.isdigit():
        raise ValueError(f"images={images}: images names an image set, as in "
                         "'cifar10_c:/path/CIFAR-10-C' or 'folder:/path', not a number of them")
    refuse_code(model, trust, "set trust=True")
    opened = network(model)
    images, notes = images_text(images, opened) if images else (OTHER_IMAGES.get(model, IMAGES), [])
    data = images_of(images)
    missing = int((data.y < 0).sum())
    if missing:
        raise ValueError(f"{missing} of the {len(data)} images of {data.name} have no label, and "
                         "this study counts errors; the explorer (notebook 00) and notebook 06 say "
                         "what can be said without labels")
    try:
        check_outputs(Adapter(opened, make("tent"), device="cpu", record="off"), data,
                      one_image(data))
    except (ValueError, RuntimeError) as why:  # Adapter: of a network without normalisation layers
        raise ValueError(f"the model {model} and the images {images} do not go together in these "
                         f"studies: {why}") from None
    if not has_batch_norm(model):
        notes = [*notes, NO_BATCH_NORM]
    return Pair(model, images, tuple(notes), named)


def images_for(model: str, images: str, trust: bool = False) -> str | None:
    """The text of images, completed for the model of a text as in `pair_of`; None for "", which
    stands for the embedded ones."""
    if not images.strip():
        return None
    refuse_code(model, trust, "set trust=True")
    return images_text(images, network(model))[0]


def has_batch_norm(model: str) -> bool:
    """Whether the model of a text has layers of batch norm."""
    return any(isinstance(m, BATCH_NORM) for m in network(model).modules())


def batch_statistics(model: str, images: str = "") -> Method:
    """BN-1 for this model: where there is no batch norm, the source itself."""
    return make("batch_norm" if has_batch_norm(model) else "source")


def source_images_of(model: str) -> str | None:
    """Images of the source domain: known for the embedded models only."""
    return SOURCE_IMAGES if model in checkpoints() else None


def without_source_images(recipes: dict, model: str, names: dict) -> tuple[list[str], list[str]]:
    """The recipes that can do without source images, or all where these are known; and a sentence
    on the others."""
    lacking = [name for name, recipe in recipes.items()
               if source_info_of(recipe)] if source_images_of(model) is None else []
    notes = [f"Left out: {joined(names[n] for n in lacking)}, which must be prepared on source "
             "images; those of this model are not known."]
    return [name for name in recipes if name not in lacking], notes if lacking else []


def shifts_of(data: BaseSet, wanted, severity: float = 5.0) -> tuple[tuple[str, ...], list[str]]:
    """The wanted shifts that the images hold or that can be made of them; where there is none, the
    first domains that they hold. And a sentence on those that are missing. Raises ValueError where
    nothing is left."""
    why = {shift: refusal(lambda s=shift: _shown(data, s, severity)) for shift in wanted}
    found = [s for s in wanted if not why[s]]
    missing = [s for s in wanted if why[s]]
    if not missing:
        return tuple(found), []
    own = [] if found else [d for d in data.domains
                            if not refusal(lambda s=d: _shown(data, s, severity))][
        :len(tuple(wanted))]
    if not found and not own:
        raise ValueError(f"{data.name} can show none of the shifts {', '.join(wanted)}: "
                         f"{why[missing[0]]}")
    note = (f"Left out: {joined(m.replace('_', ' ') for m in missing)}, which these images do not "
            "hold, and no clean ones to make it from.")
    return tuple(found or own), [note if found else "These images hold none of the usual shifts; "
                                                    f"shown are {joined(own)}."]


def _shown(data: BaseSet, shift: str, severity: float) -> None:
    """Raise ValueError where a set could not show a shift."""
    stream = Stream(data, (shift,), severity=severity, per_shift=1, batch=1)
    if shift.partition(":")[0] not in data.domains:
        data.check_domain("none", stream.severity)


def refusal(make_it: Callable) -> str:
    """Why something cannot be made: the message of its ValueError, or ""."""
    try:
        make_it()
    except ValueError as why:
        return str(why)
    return ""


def refusals(makers: dict[str, Callable]) -> dict[str, str]:
    """Of those that cannot be made, why: name -> message."""
    return {name: why for name, make_it in makers.items() if (why := refusal(make_it))}


def has_clean(data: BaseSet) -> bool:
    """Whether a set holds clean images; files of corrupted ones alone do not."""
    return not refusal(lambda: data.check_domain("none"))


def per_shift_of(data: BaseSet, shifts, wanted: int, share: int = 1, least: int = 2) -> tuple[
    int, list[str]]:
    """How many images of each shift can be shown: ``wanted``, or fewer where there are fewer, each
    for ``share`` shifts; and a sentence on that. Raises ValueError where these are less than
    ``least``."""
    there = min(len(data) if own_rows(data, s) is None else len(own_rows(data, s))
                for s in shifts) // share
    if there < least:
        raise ValueError(f"{data.name} has {len(data)} images; this study needs {share * least} at "
                         "least")
    return min(wanted, there), [f"There are {len(data)} images, so {there} of each shift are "
                                f"shown, not {wanted}."] if there < wanted else []


def allowed(pair: Pair, wanted, per_shift: int, severity: float = 5.0,
            share: Callable = lambda shifts: 1) -> tuple[tuple[str, ...], int, list[str]]:
    """`shifts_of` and `per_shift_of` on a pair, each image for ``share(shifts)`` of them: the
    shifts, how many images of each, and the sentences on the pair and on what it lacks."""
    shifts, lost = shifts_of(pair.data, wanted, severity)
    n, fewer = per_shift_of(pair.data, shifts, per_shift, share(shifts))
    return shifts, n, [*pair.notes, *lost, *fewer]
