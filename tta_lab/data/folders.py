"""Image sets on disk: decoded when asked for, so that memory stays constant however large the set
is.

A ``FileSet`` is labels and row numbers; its ``source`` turns rows into pixels. Sources here: image
files (``Files``) and torch data sets (``wrap``); those of the published benchmarks are in
`data.published`. Pictures are decoded by Pillow in a few threads, resized and cropped like
torchvision's ``Resize`` and ``CenterCrop``, and kept in a cache of limited size.
"""
from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch

from ..core.arguments import flag
from .contents import note
from .image_files import (
    CACHE_BYTES,
    Cache,
    Decoder,
    Files,
    FileSet,
    existing_folder,
    file_set,
    image_names,
    natural,
    text_in,
)
from .kinds import kind
from .label_tables import as_classes, class_index, labels_from_csv, read_map
from .shipped import DataError


@kind("folder")
def folder(path, *, size=None, resize="cover", mode="colour", interpolation="bilinear",
           order="name", labels=None, classes=None, flat=False, cache_bytes=CACHE_BYTES) -> FileSet:
    """Any folder of images; the rows are in recorded order.

    Subfolders are classes, in text order as in torchvision's ``ImageFolder``; a folder without
    subfolders, or ``flat``, has no labels (-1). ``labels`` names a table instead, a CSV file of
    lines ``file,label`` (or with ; or a tab between) with or without that heading. Its labels are
    names, or class indices however they are written (``3``, ``03``, ``3.0``); -1, nothing and no
    line at all mean that the label is not known. ``classes`` gives names (or their order): a
    sequence, "cat,dog", or a text file with one a line. ``order``: "name", natural order of the
    relative path, frame_2 before frame_10; "file", the same of the file name alone; "time", time
    of the file's last change, then name. ``size``, ``resize``, ``mode`` and ``interpolation`` as
    in ``Decoder``; ``size`` is needed where the files differ in size.

    Raises DataError for a missing or empty folder, files of types that cannot be read, sizes that
    differ, damaged files, a table that mixes names and numbers, labels that fit no file or no
    class, and subfolders that are parts of a data set (train, val, test) unless ``classes`` or
    ``flat`` says what they are.
    """
    root = existing_folder(path, "folder")
    decoder = Decoder(size, resize, mode, interpolation)
    names = _ordered(image_names(root), root, order)
    classes = as_classes(classes, root)
    if labels is not None:
        y, classes = labels_from_csv(root, labels, names, classes)
    elif _is_flat(flat) or not any("/" in name for name in names):
        y, classes = [-1] * len(names), classes or ()
    else:
        loose = next((name for name in names if "/" not in name), None)
        if loose:
            raise DataError(f"{root} holds class folders and also images of its own ({loose}); "
                            f"move these into a class folder, or "
                            "use flat=1 for a set without labels, or labels= for a table")
        found = sorted({name.split("/")[0] for name in names})
        if classes is None:
            refuse_parts(root, found, names)
        bare = sorted(p.name for p in root.iterdir()
                      if p.is_dir() and not p.name.startswith(".") and p.name not in found)
        if bare:
            raise DataError(f"{root} holds the class folders {', '.join(bare[:10])} without any "
                            f"image; fill or remove them")
        classes = classes or tuple(found)
        unknown = [name for name in found if name not in classes]
        if unknown:
            raise DataError(f"{root} holds the folders {', '.join(unknown[:10])}, which are none "
                            f"of the classes {', '.join(classes[:20])}")
        number = {name: k for k, name in enumerate(classes)}
        y = [number[name.split("/")[0]] for name in names]
    return file_set(Files(root, names, decoder, Cache(cache_bytes)), y, classes)


def _is_flat(flat) -> bool:
    if isinstance(flat, str):
        known = {"": True, "1": True, "true": True, "0": False, "false": False}
        if flat.lower() not in known:
            raise ValueError(f"flat must be 1 or 0, got {flat!r}")
        return known[flat.lower()]
    return flag("flat", bool(flat) if flat in (0, 1) else flat)


PARTS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test")
}
# as in train2017, test_set, split_val
AROUND = re.compile(r"(split|fold|set|data|dataset|images|imgs|[0-9]{1,4})")


def part_of(folder: str) -> str | None:
    """"train", "val" or "test" for the name of a folder that says so, else None."""
    words = [
        word for word in re.split(r"[\s_.-]+|(?<=[a-z])(?=[A-Z0-9])", folder)
        if word and not AROUND.fullmatch(word.lower())
    ]
    return PARTS.get(words[0].lower()) if len(words) == 1 else None


def refuse_parts(root: Path, folders: Sequence[str], names: Sequence[str]) -> None:
    """Raise DataError where subfolders are the parts of a data set (two of train, val and test; or
    one, alone, with class folders in it)."""
    parts = [name for name in folders if part_of(name)]
    alone = len(folders) == 1 and all(name.count("/") > 1 for name in names)
    if len({part_of(name) for name in parts}) > 1 or parts and alone:
        raise DataError(f"{root} holds the folder{'s' * (len(parts) > 1)} {', '.join(parts)}, "
                        f"which {'are parts' if len(parts) > 1 else 'is a part'} "
                        f"of a data set and not classes: name one part, as in "
                        f"folder:{root / parts[-1]}, or say that these are the classes with "
                        f"classes={','.join(folders)}, or leave labels out with flat=1")


def _ordered(names: list[str], root: Path, order: str) -> list[str]:
    keys = {"name": natural, "file": lambda name: (natural(name.rpartition("/")[2]), natural(name)),
            "time": lambda name: ((root / name).stat().st_mtime_ns, natural(name))}
    if order not in keys:
        raise ValueError(f"order must be one of {', '.join(keys)}, got {order!r}")
    if order == "time":
        note(*(root / name for name in names))
    return sorted(names, key=keys[order])


@kind("lists")
def lists(path, *, files=None, images=None, classes=None, map=None, size=224, resize=256,
          mode="colour", interpolation="bilinear", cache_bytes=CACHE_BYTES) -> FileSet:
    """Text files of lines ``path label``, one file a domain, as DomainNet-126 and ImageNet-D109
    come.

    ``files`` "real_list.txt,sketch_list.txt", default: every ``*_list.txt`` in the folder, or
    where there is none every ``.txt`` file. The domain is the file's name without ``_list``. Paths
    are relative to ``images``, default: the folder. ``classes`` as in ``folder``; default: the
    numbers 0 to the largest label. ``map`` names a text file of lines ``class output output ...``
    from classes (index or name) to the outputs of a larger model: see ``image_set.class_logits``. A
    label of -1 is not known.

    Raises DataError for missing lists or images, lines that do not fit, labels out of range.
    """
    root = existing_folder(path, "lists")
    place = existing_folder(images, "lists") if images else root
    chosen = files.split(",") if isinstance(files, str) else list(files or ())
    if not chosen:
        texts = sorted(p.name for p in root.glob("*.txt") if p.name not in (str(classes), str(map)))
        chosen = [name for name in texts if name.endswith("_list.txt")] or texts
    if not chosen:
        raise DataError(f"{root} holds no lists; expected one text file a domain, such as "
                        f"real_list.txt, of lines 'path label'")
    names = []
    y = []
    member = []
    for domain, name in enumerate(chosen):
        for file, label in _lines_of(root / name):
            names.append(file)
            y.append(label)
            member.append(domain)
    note(place)
    classes = as_classes(classes, root) or tuple(str(k) for k in range(max(y) + 1))
    if max(y) >= len(classes):
        row = y.index(max(y))
        raise DataError(f"{root / chosen[member[row]]}: {names[row]} has the label {y[row]}, but "
                        f"there are {len(classes)} classes")
    gone = [name for name in names if not (place / name).is_file()]
    if gone:
        raise DataError(f"{len(gone)} of {len(names)} listed images are not below {place}, the "
                        f"first: {gone[0]}; "
                        "name the folder they are relative to with images=")
    domains = tuple(Path(name).stem.removesuffix("_list") for name in chosen)
    if len(set(domains)) < len(domains):
        raise DataError(f"the lists {', '.join(chosen)} name a domain twice")
    source = Files(place, names, Decoder(size, resize, mode, interpolation), Cache(cache_bytes))
    return file_set(source, y, classes, domains=domains, member=torch.tensor(member),
                    model_classes=None if map is None else read_map(root, map, classes))


def _lines_of(path: Path) -> list[tuple[str, int]]:
    if not path.is_file():
        raise DataError(f"the list {path} is missing")
    rows = []
    for number, line in enumerate(text_in(path).split("\n"), 1):
        if not line.strip():
            continue
        file, *label = line.strip().rsplit(maxsplit=1)
        try:
            index = class_index(label[0]) if label else None
        except ValueError as why:
            raise DataError(f"{path}: line {number}: {why}") from why
        if index is None:
            raise DataError(f"{path}: line {number} is not 'path label' with a class index: "
                            f"{line[:80]!r}")
        rows.append((file.strip(), index))
    if not rows:
        raise DataError(f"the list {path} is empty")
    return rows
