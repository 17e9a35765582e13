"""Labels and class names in files beside the images."""
from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
from pathlib import Path

import torch
from torch import Tensor

from .image_files import side_file, text_in
from .shipped import DataError

NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")
MOST_CLASSES = 1_000_000


def class_index(label: str) -> int | None:
    """The class index that a text means, however it is written (``3``, ``03``, ``3.0``, ``+3``);
    -1 is "not known"; None for no number.

    Raises ValueError for numbers that cannot be a class index: not whole, below -1 or above a
    million.
    """
    label = label.strip()
    if not NUMBER.fullmatch(label):
        return None
    number = float(label)
    if not number.is_integer() or not -1 <= number < MOST_CLASSES:
        raise ValueError(f"{label} is no class index: a whole number from 0, or -1 for 'not known'")
    return int(number)


def as_classes(classes, folder: Path) -> tuple[str, ...] | None:
    """Class names from a sequence, "cat,dog", or the name of a text file with one a line (below
    ``folder`` or anywhere)."""
    if classes is None:
        return None
    if isinstance(classes, str | Path):
        text = str(classes)
        if text.endswith(".txt"):
            lines = text_in(side_file(text, folder, "the file of class names")).splitlines()
            classes = [line.strip() for line in lines if line.strip()]
        else:
            classes = text.split(",")
    classes = tuple(str(name) for name in classes)
    if len(set(classes)) < len(classes) or not classes or "" in classes:
        raise DataError(f"class names must be there and differ, got {', '.join(classes) or 'none'}")
    return classes


HEADINGS = {"file", "files", "filename", "file_name", "path", "image", "name", "id"}


def _table(path: Path, places_: dict[str, str], root: Path) -> dict[str, tuple[int, str]]:
    """file -> (line, label) of a table of labels, empty labels too; the separator is the one that
    makes two entries a line."""
    text, found = text_in(path), []
    for separator in (",", ";", "\t"):
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator,
                            skipinitialspace=True, strict=True)
        rows = []
        why = None
        try:
            for row in reader:
                if any(part.strip() for part in row):
                    rows.append((reader.line_num, row))
        except csv.Error as error:
            why = f"{error} in row {reader.line_num}"
        found.append((sum(len(row) == 2
                          for _, row in rows) + (why is not None and separator in text), rows, why))
    _, rows, why = max(found, key=lambda one: one[0])
    if why is not None:
        raise DataError(f"{path} is not a CSV file: {why}")
    given: dict[str, tuple[int, str]] = {}
    for at, (number, row) in enumerate(rows):
        if len(row) != 2:
            raise DataError(f"{path}: row {number} has {len(row)} entries, not the two of "
                            f"'file,label': {','.join(row)[:80]}")
        file = _the_file(row[0], places_, root)
        if file is None and not at and row[0].strip().lower() in HEADINGS:
            continue
        if file is None:
            raise DataError(f"{path}: row {number} names {row[0].strip()!r}, which is no image "
                            f"below {root}")
        if file in given:
            raise DataError(f"{path}: row {number} names {file!r} a second time, after row "
                            f"{given[file][0]}")
        given[file] = number, _composed(row[1].strip())
    if not given:
        raise DataError(f"{path} holds no labels")
    return given


def _the_file(text: str, places_: dict[str, str], root: Path) -> str | None:
    """The image that a table means: its path below the folder, also with ./ before it, whole, with
    backslashes or composed letters."""
    whole = text.strip()
    for one in (text, whole,
                os.path.normpath(
                    os.path.relpath(whole, root) if os.path.isabs(whole) else whole or "."),
                whole.replace("\\", "/")):
        if _composed(one) in places_:
            return places_[one] if one in places_ else places_[_composed(one)]
    return None


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def labels_from_csv(root, labels, names, classes):
    path = side_file(labels, root, "the table of labels")
    classes = classes and tuple(map(_composed, classes))
    given = _table(path, {_composed(name): name for name in names} | {name: name for name in names},
                   root)
    lines = {
        file: (number, label, _index_in(path, number, label, classes))
        for file, (number, label) in given.items()
    }
    known = {file: found for file, found in lines.items() if found[1] and found[2] != -1}
    y = _counted(path, known, classes)
    if classes is None:
        classes = _names_in(known)
    return [y.get(name, -1) for name in names], classes


def _index_in(path, number, label, classes) -> int | None:
    """The class index that stands in a row, None for a name; a number that is none of the two is
    refused."""
    if label in (classes or ()):
        return (class_index(label)
                if NUMBER.fullmatch(label) and float(label) in range(MOST_CLASSES) else None)
    try:
        return class_index(label)
    except ValueError as why:
        raise DataError(f"{path}: row {number}: {why}") from why


def _names_in(known) -> tuple[str, ...]:
    if any(index is None for _, _, index in known.values()):
        return tuple(sorted({label for _, label, _ in known.values()}))
    return tuple(map(str, range(max((index for _, _, index in known.values()), default=-1) + 1)))


def _counted(path: Path, known: dict, classes) -> dict[str, int]:
    """file -> class index. Labels are names of the classes, or numbers: those that the classes are
    called by, else indices."""
    rows = list(known.items())
    names = {name: k for k, name in enumerate(classes or ())}
    if classes and all(label in names for _, (_, label, _) in rows):
        return {file: names[label] for file, (_, label, _) in rows}
    first, odd = next(((a, b) for (_, a), (_, b) in zip(rows, rows[1:], strict=False)
                       if (a[2] is None) != (b[2] is None)), (None, None))
    if odd is not None:
        kinds = ["a name" if index is None else "a number" for _, _, index in (first, odd)]
        raise DataError(f"{path}: row {first[0]} has {kinds[0]}, {first[1]!r}, and row {odd[0]} "
                        f"{kinds[1]}, {odd[1]!r}; use class indices "
                        "throughout or names throughout (-1 or nothing where the label is not "
                        "known)")
    numeric = bool(rows) and rows[0][1][2] is not None
    if numeric and classes and all(NUMBER.fullmatch(name) for name in classes):
        called = {float(name): k for name, k in names.items()}
        if len(called) == len(names) and all(index in called for _, (_, _, index) in rows):
            return {file: called[index] for file, (_, _, index) in rows}
    names = names or {name: k for k, name in enumerate(_names_in(known))}
    y = {file: index if numeric else names.get(label, -1) for file, (_, label, index) in rows}
    wrong = next((found for file, found in rows if not 0 <= y[file] < len(names)), None)
    if wrong is not None:
        every = dict.fromkeys(label for file, (_, label, _) in rows
                              if not 0 <= y[file] < len(names))
        raise DataError(f"{path}: the labels {', '.join(list(every)[:10])} are none of the "
                        f"{len(names)} classes {', '.join(list(names)[:20])} "
                        f"(row {wrong[0]} has {wrong[1]!r})")
    return y


def read_map(root: Path, name: str | Path, classes: tuple[str, ...]) -> Tensor:
    """``model_classes`` from a text file of lines ``class output output ...``: int64 (K,), or (K,
    M) padded with -1 where a class has several outputs. Raises DataError for a class without a
    line, twice, or unknown, and for an output used twice."""
    path = side_file(name, root, "the map of classes")
    found, used = {}, set()
    number = {
        **{str(k): k for k in range(len(classes))}, **{name: k for k, name in enumerate(classes)}
    }
    for line, text in enumerate(text_in(path).splitlines(), 1):
        first, *outputs = text.replace(",", " ").split() or [""]
        if not first:
            continue
        if first not in number or not outputs or not all(output.isdecimal() for output in outputs):
            raise DataError(f"{path}: line {line} is not 'class output output ...' with one of "
                            f"the {len(classes)} classes: {text[:80]!r}")
        again = used.intersection(outputs) or ({first} if number[first] in found else set())
        if again or len(set(outputs)) < len(outputs):
            raise DataError(f"{path}: line {line} names {', '.join(sorted(again)) or 'an output'} "
                            f"a second time")
        used.update(outputs)
        found[number[first]] = [int(output) for output in outputs]
    lacking = [classes[k] for k in range(len(classes)) if k not in found]
    if lacking:
        raise DataError(f"{path} has no line for {', '.join(lacking[:10])}")
    most = max(len(outputs) for outputs in found.values())
    table = torch.tensor([found[k] + [-1] * (most - len(found[k])) for k in range(len(classes))])
    return table[:, 0] if most == 1 else table
