"""Data sets of PyTorch as image sets."""
from __future__ import annotations

import hashlib
import os

import numpy as np
import torch
from torch import Tensor

from .contents import digests, hashed, signature
from .image_files import FileSet, evenly_spaced
from .shipped import DataError


class Wrapped:
    """Reads one item after another: a foreign data set need not be safe between threads."""

    def __init__(self, dataset, name: str):
        self.dataset = dataset
        self.name = name
        self.shape = None
        self._kept = {}

    def check_domain(self, domain, severity):
        pass

    def item(self, row: int):
        """(image, label) of a row; label -1 where there is none."""
        item = self.dataset[row]
        image, label = ((item[0],
                         item[1] if len(item) > 1 else -1) if isinstance(item, tuple | list) else
                        (item, -1))
        return self.pixels(image, row), _as_label(label, f"{self.name}: the label of item {row}")

    def pixels(self, image, row: int) -> np.ndarray:
        """uint8 or float32 (C, H, W) from a PIL image, a tensor (C, H, W) or an array (H, W, C)."""
        if hasattr(image, "convert"):
            image = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
        if isinstance(image, Tensor):
            image = image.detach().cpu().numpy()
        elif isinstance(image, np.ndarray) and image.ndim == 3:
            image = image.transpose(2, 0, 1)
        if not isinstance(image, np.ndarray) or image.ndim not in (2, 3):
            raise DataError(f"{self.name}: item {row} is no image but {type(image).__name__} "
                            f"{getattr(image, 'shape', '')}; expected (image, "
                            "label) or image, with a PIL image, a tensor (C, H, W) or an array "
                            "(H, W, C)")
        image = image[None] if image.ndim == 2 else image
        if image.dtype != np.uint8:
            if image.dtype.kind != "f":
                raise DataError(f"{self.name}: item {row} has pixels of type {image.dtype}; give "
                                f"bytes 0 to 255 or floats in [0, 1]")
            image = image.astype(np.float32)
            if not (image.min() >= 0 and image.max() <= 1):
                raise DataError(f"{self.name}: item {row} has values from {image.min():.3g} to "
                                f"{image.max():.3g}, not in [0, 1]; leave the "
                                "normalisation out of the data set's transform, it belongs into "
                                "the model (with_input_card)")
        if self.shape not in (None, image.shape):
            raise DataError(f"{self.name}: item {row} has the shape {image.shape}, item 0 "
                            f"{self.shape}; resize in the data set's transform")
        return np.ascontiguousarray(image)

    def read(self, rows, domain="none", severity=5.0):
        return np.stack([self.item(row)[0] for row in rows])

    def facts(self, rows):
        """What the data set makes its images from (`_stored_content`) and 64 images; where that is
        not known, all images, read again when one of the 64 has changed, or an array or a file
        that it holds (`_held`)."""
        few = [rows[k] for k in evenly_spaced(len(rows), 64)]
        seen = hashed(repr(rows),
                      _stored_content(self.dataset) or "",
                      *(self.item(row)[0].tobytes() for row in few)).encode()
        if _stored_content(self.dataset) is not None or len(few) == len(rows):
            return seen
        key = seen, _held(self.dataset)
        if key not in self._kept:
            digest = hashlib.sha256(seen)
            for row in rows:
                digest.update(self.item(row)[0])
            self._kept = {key: digest.digest()}
        return self._kept[key]

    def check(self, rows):
        for row in rows:
            self.item(row)
        return len(rows)


def _as_label(label, where: str) -> int:
    """A class index, or -1 for None. Raises DataError for what is no whole number, which ``int``
    would cut or misread."""
    try:
        index = -1 if label is None else int(label)
        right = (label is None or not isinstance(label, str | bytes) and bool(index == label)
                 and abs(index) < 2**62)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        right = False
    if not right:
        raise DataError(f"{where} is {label!r:.80}, not a class index; give labels= to wrap")
    return index


def _stored_content(dataset) -> str | None:
    """A digest of the tensors, arrays or files that a data set of a usual form makes its images
    from; None for other forms."""
    if isinstance(dataset, torch.utils.data.Subset):
        inner = _stored_content(dataset.dataset)
        return None if inner is None else hashed(inner, repr(list(dataset.indices)))
    if isinstance(dataset, torch.utils.data.ConcatDataset):
        inner = [_stored_content(one) for one in dataset.datasets]
        return None if None in inner else hashed(*inner)
    if isinstance(dataset, torch.utils.data.TensorDataset):
        return hashed(*(_bytes(tensor) for tensor in dataset.tensors))
    data = getattr(dataset, "data", None)
    samples = getattr(dataset, "samples", None)
    if isinstance(data, Tensor | np.ndarray) and len(data) == len(dataset):
        return hashed(_bytes(data))
    if isinstance(samples, list) and len(samples) == len(dataset) and all(
            isinstance(s, tuple) and isinstance(s[0], str) for s in samples):
        names = [os.path.abspath(path) for path, *_ in samples]
        try:
            return hashed(*digests("/", names))
        except OSError as why:
            raise DataError(f"a file of the data set is missing or cannot be read ({why}); "
                            f"restore it or open the data set again") from why
    return None


def _held(value, depth: int = 4) -> str:
    """A digest of the arrays and tensors in what an object holds, and of size and times of the
    files that it names, as they now are."""
    if isinstance(value, Tensor) or isinstance(value, np.ndarray) and value.dtype.kind not in "OUS":
        return hashed(_bytes(value))
    if isinstance(value, str | os.PathLike):
        return repr(signature(value))
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, torch.utils.data.Dataset):
        value = vars(value)
    if isinstance(value, dict):
        value = list(value.values())
    return (hashed(*(_held(one, depth - 1)
                     for one in value)) if depth and isinstance(value, list | tuple) else "")


def _bytes(values) -> bytes:
    array = np.ascontiguousarray(
        values.detach().cpu().numpy() if isinstance(values, Tensor) else values)
    return repr((array.shape, str(array.dtype))).encode() + array.tobytes()


def _stored_labels(dataset):
    """The labels a torchvision data set keeps, without decoding; None where they are not kept or
    are transformed."""
    if isinstance(dataset, torch.utils.data.Subset):
        labels = _stored_labels(dataset.dataset)
        return None if labels is None else [labels[k] for k in dataset.indices]
    if getattr(dataset, "target_transform", None) is not None:
        return None
    for name in ("targets", "labels"):
        labels = getattr(dataset, name, None)
        if isinstance(labels, list | tuple | np.ndarray | Tensor) and len(labels) == len(dataset):
            try:
                return [_as_label(label, "the label") for label in labels]
            except DataError:
                return None
    return None


def wrap(dataset, *, labels=None, classes=None, name: str | None = None) -> FileSet:
    """Any map-style torch data set of (image, label) or image as an image set, read lazily.

    Images: PIL, uint8, or float in [0, 1]; tensors (C, H, W), arrays (H, W, C); all of one shape
    and the same each time. Labels: ``labels`` (N,), else the data set's own ``targets`` where they
    agree with its first, middle and last item, else every item is read once. Class names:
    ``classes``, else the data set's, else the numbers up to the largest label. The fingerprint
    covers the labels and all images. For data sets of tensors, of an array ``data`` or of files in
    ``samples`` it is made from that content and 64 items; of others every item is read, once for
    this set as long as 64 items spread over it stay, and the arrays and files that the data set's
    attributes hold or name. A stream over it cannot be rebuilt from text.

    Raises DataError for values outside [0, 1] (normalisation belongs into the model), shapes that
    differ, items that change from one reading to the next, labels out of range.
    """
    name = name or f"wrapped {type(dataset).__name__}"
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise ValueError(f"{name}: wrap needs a map-style data set, with len() and [index]; "
                         f"collect the items of an iterable one first")
    n = len(dataset)
    if not n:
        raise DataError(f"{name} is empty")
    source = Wrapped(dataset, name)
    first = source.item(0)
    source.shape = first[0].shape
    if not np.array_equal(first[0], source.item(0)[0]):
        raise DataError(f"{name} gives another image each time item 0 is read; leave random "
                        f"augmentation out of its transform")
    if labels is None:
        labels = _stored_labels(dataset)
        if labels is not None and any(source.item(k)[1] != labels[k] for k in {0, n // 2, n - 1}):
            labels = None
        labels = [source.item(k)[1] for k in range(n)] if labels is None else labels
    shape = np.shape(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
    if shape != (n,):
        raise DataError(f"{name} has {n} images, but labels of shape {tuple(shape)}")
    y = torch.tensor([_as_label(label, f"{name}: labels[{k}]") for k, label in enumerate(labels)],
                     dtype=torch.int64)
    inner = dataset
    while isinstance(inner, torch.utils.data.Subset):
        inner = inner.dataset
    classes = (classes or getattr(inner, "classes", None)
               or [str(k) for k in range(int(y.max()) + 1)])
    return FileSet(name, y, tuple(map(str, classes)), tuple(source.shape), source, torch.arange(n))
