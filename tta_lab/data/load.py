"""``load``: an image set by name, an embedded one or files of one's own."""
from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from ..core import places
from ..core.arguments import WrongKind, shown
from . import folders, published  # noqa: F401  (they register their kinds)
from .contents import noting, unchanged
from .embedded import EMBEDDED
from .image_set import BaseSet
from .kinds import KINDS, opened


def load(name: str, root: str | Path | None = None) -> BaseSet:
    """An image set by name: an embedded one, or ``kind:path`` for files of your own.

    Embedded: ``fashion_mnist`` (10 000 test images), ``fashion_mnist_train_slice`` (5 000 labelled
    training images, 500 a class), ``digits`` (1 797, the far unknowns); ``fashion_mnist_8`` and
    ``fashion_mnist_train_slice_8`` without the classes Coat and Sneaker,
    ``fashion_mnist_held_out`` and ``fashion_mnist_train_slice_held_out`` with these two only (the
    near unknowns); ``root`` is the data folder they lie in.

    On disk: ``cifar10_c:/data/CIFAR-10-C``, ``folder:photos?size=64&order=time``; the kinds are
    the functions in ``kinds.KINDS``, options follow as a query and are the function's
    arguments. Relative paths start at the working directory; the name of the set that comes back
    holds the absolute one. Class indices in brackets take a subset, relabelled:
    ``fashion_mnist[0,1,5]``. A path that is there as it stands is taken so, whatever it holds
    (``[1]``, ``?``, ``%``); else %XX stands for one byte of it, and after ``file://`` always does.

    Raises ValueError for an unknown name, kind or option, DataError for missing or damaged files.
    """
    if not isinstance(name, str):
        raise WrongKind(f"load takes the name of an image set as a text, such as 'fashion_mnist' "
                        f"or 'folder:PATH', not {name!r:.80}"
                        + (f": write 'folder:{name}'" if isinstance(name, os.PathLike) else ""))
    kind, colon, rest = name.partition(":")
    if colon and kind in KINDS:
        return opened(name)
    subset = places.SUBSET.fullmatch(name)
    if subset:
        return load(subset[1], root).only([int(c) for c in subset[2].split(",")])
    if name in EMBEDDED:
        return EMBEDDED[name](root)
    if not colon:
        hint = (f"; the folder of that name is 'folder:{name}'"
                if name and os.path.isdir(places.home(name)) else "")
        raise ValueError(f"there is no embedded image set {name!r}; there are: "
                         f"{', '.join(EMBEDDED)}; or name files of your own as "
                         f"kind:path with one of the kinds {', '.join(KINDS)}{hint}")
    raise ValueError(f"{name!r}: there is no kind of image set {kind!r}; there are: "
                     f"{', '.join(KINDS)}")


# (name, data folder, working directory) -> (set, what it was made from)
_KEPT: OrderedDict = OrderedDict()


def load_kept(name: str, root: str | Path | None = None) -> BaseSet:
    """``load``, with the last eight sets kept as long as nothing on disk that they were made from
    has changed.

    Images in memory are handed out as copies, so that nobody writes into another's. Images of
    files are read, and noticed to have changed, when they are asked for.
    """
    key = name, str(root), os.getcwd()
    found = _KEPT.pop(key, None)
    if found is None or not unchanged(found[1]):
        with noting() as noted:
            found = load(name, root), noted
    _KEPT[key] = found
    while len(_KEPT) > 8:
        _KEPT.popitem(last=False)
    data = found[0]
    fresh = {
        part: getattr(data, part).clone() for part in ("x", "y", "index", "member", "model_classes")
        if isinstance(getattr(data, part, None), Tensor)
    }
    return replace(data, **fresh)


def images_of(value, name: str = "images"):
    """An image set, or the text that names one (`load`)."""
    if isinstance(value, str):
        return load(value)
    if not isinstance(value, BaseSet):
        hint = (": a folder is written as a text, 'folder:PATH'" if isinstance(
            value, os.PathLike) else ": take its images, stream.known_set" if hasattr(
                value, "known_set") else ": wrap its data set, tta_lab.wrap(loader.dataset)"
                if hasattr(value, "dataset") and hasattr(value, "batch_size") else
                ": make one of it with tta_lab.wrap(...)" if hasattr(value, "__getitem__") else
                ": collect its items in a list and make one of that with tta_lab.wrap(...)"
                if hasattr(value, "__iter__") else "")
        raise WrongKind(f"{name} must be an image set, or a text such as 'fashion_mnist' or "
                        f"'folder:photos', not {shown(value)}{hint}")
    return value
