"""The text of a folder of pictures, completed for a model: its size, grey or colour, and the
classes."""
from __future__ import annotations

from pathlib import Path

from ..core import places
from ..core.arguments import nearest
from ..core.source_model import SourceModel
from ..data.embedded import EMBEDDED
from ..data.folders import refuse_parts
from ..data.image_files import READABLE, existing_folder
from ..data.kinds import KINDS, PATH_OPTIONS
from ..data.shipped import DataError
from ..models.names import outputs_of


def brings_labels(images: str) -> bool:
    """Whether a text names a set with labels of its own, not a folder of pictures."""
    kind, colon, _ = images.strip().partition(":")
    embedded = images.strip() in EMBEDDED or not colon and kind.partition("[")[0] in EMBEDDED
    return embedded or bool(colon) and kind in KINDS and kind != "folder"


def images_text(images: str, network: SourceModel, labelled: bool = True) -> tuple[str, list[str]]:
    """A text for `tta_lab.load` from the path of a folder, or from such a text, completed for this
    model: its size, grey or colour, and the classes; and what was decided, in sentences.

    Classes of a folder: where its sub-folders have names of the model's classes, the model's order
    is taken; else, where there are as many as the model has outputs, text order, as in
    torchvision's ImageFolder. Raises DataError where neither holds; with ``labelled`` False the
    classes are the model's. Sets that are not folders are left as they are. Raises ValueError where
    their labels should be left out.
    """
    images = images.strip()
    kind, colon, rest = images.partition(":")
    if brings_labels(images):
        if not labelled:
            raise ValueError(f"{images} brings its labels; only those of a folder can be left out "
                             "here. Write the images into a folder")
        return images, []
    if not images:
        raise ValueError("no images are named; give the path of a folder of pictures")
    is_kind = colon and len(kind) > 1 and kind.isidentifier()
    if is_kind and kind not in KINDS and not places.home(images).exists():
        raise ValueError(f"{images!r}: there is no kind of image set {kind!r}; there are: "
                         f"{', '.join(KINDS)}, or give the path of a folder" + nearest(kind, KINDS))
    path, query, subsets = places.split(rest if colon and kind == "folder" else images)
    root = existing_folder(path, "images")
    card = network.card
    if subsets:
        raise ValueError(f"{images}: the classes of a folder are matched with the model's here, so "
                         "a subset cannot be taken; use outputs= of the model")
    found = places.options(query, KINDS["folder"].options)
    options = {key: places.value(text, root if key in PATH_OPTIONS else None)
               for key, text in found.items()}
    if card.size is not None:
        options.setdefault("size", "x".join(map(str, card.size)))
    if card.channels == 1:
        options.setdefault("mode", "grey")
    notes = _classes_for(root, network, options, labelled)
    if not labelled:
        options["flat"] = "1"
        options.pop("labels", None)
    return f"folder:{places.joined(places.absolute(root), places.query(options))}", notes


def _classes_for(root: Path, network: SourceModel, options: dict, labelled: bool) -> list[str]:
    """Put ``classes`` into the options where the folder alone would not say them rightly; what was
    decided, in sentences."""
    folders = class_folders(root) if options.get("flat") not in ("1", "true", "") else []
    if folders and labelled and not {"classes", "labels"} & options.keys():
        refuse_parts(root, folders, [p.relative_to(root).as_posix() for p in _pictures(root)])
    names = network.info.get("classes")
    first = next(_pictures(root), None)
    shape = None if first is None else (network.card.channels, *_size_of(root, first, options))
    count = outputs_of(network, shape) or (len(names) if names else None)
    own = names and not any("," in name for name in names)
    if "classes" in options or "labels" in options and labelled:
        return []
    if not labelled or not folders:
        options["classes"] = ",".join(names if own else map(str, range(count or 1)))
        return []
    if own and set(folders) <= set(names):
        options["classes"] = ",".join(names)
        absent = [name for name in names if name not in folders]
        return ["The sub-folders have the names of the model's classes; the model's order is "
                f"taken{', and ' if absent else ''}" + (f"{len(absent)} classes have no folder "
                                                        f"({', '.join(absent[:4])})" if absent
                                                        else "") + "."]
    if count is not None and len(folders) != count:
        known = f" ({', '.join(names[:4])}, ...)" if names else ""
        raise DataError(f"{root} has {len(folders)} class folders ({', '.join(folders[:4])}, ...), "
                        f"but the model answers in {count} classes{known}. Name the folders as the "
                        "model's classes (classes= in the text of the model), keep only some "
                        "outputs of the model (outputs=3,0,7), or leave the labels out")
    return ["The sub-folders are taken as classes 0, 1, 2, ... in text order, as torchvision's "
            "ImageFolder does; the doctor looks whether that is the model's order."]


def _pictures(root: Path):
    return (p for p in root.rglob("*")
            if p.suffix.lower() in READABLE and not p.name.startswith("."))


def _size_of(root: Path, first: Path, options: dict) -> tuple[int, int]:
    from PIL import Image

    from ..data.image_files import as_size

    if as_size(options.get("size")):
        return as_size(options["size"])
    try:
        with Image.open(first) as image:
            return image.height, image.width
    except OSError:
        return 64, 64   # the folder set says what is wrong with the file


def class_folders(root) -> list[str]:
    """Names of the sub-folders that hold images, in text order."""
    return sorted(p.name for p in Path(root).iterdir()
                  if p.is_dir() and not p.name.startswith(".") and next(_pictures(p), None))
