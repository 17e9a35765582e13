"""Image sets: the embedded ones, checked against their recorded sums, and the original Fashion-MNIST files.

Everything here is *images with labels*, nothing else; how they are ordered, shifted and mixed is the
business of ``streams``.
"""
from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import os
import re
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)
DIGIT_CLASSES = tuple(f"digit {k}" for k in range(10))
NEAR_UNKNOWN = (4, 7)  # Coat and Sneaker: each has look-alikes among the other eight classes
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")


class DataError(RuntimeError):
    """A data file is missing, damaged or of the wrong form; the message names the file and the remedy."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images held in memory with their labels.

    ``x`` is uint8 (N, C, H, W), ``y`` int64 (N,) with values 0 .. K-1 for the K names in ``classes``, or -1 where the
    label is not known.
    """

    name: str
    x: Tensor
    y: Tensor
    classes: tuple[str, ...]

    domains = ()        # a plain set: every shift is made, none is read
    model_classes = None

    def __post_init__(self):
        if self.x.dtype != torch.uint8 or self.x.ndim != 4:
            raise DataError(f"{self.name}: images must be uint8 (N, C, H, W), got {self.x.dtype} {tuple(self.x.shape)}")
        if self.y.shape != self.x.shape[:1]:
            raise DataError(f"{self.name}: {len(self.x)} images but labels of shape {tuple(self.y.shape)}")
        if len(self.y) and (int(self.y.min()) < -1 or int(self.y.max()) >= len(self.classes)):
            raise DataError(f"{self.name}: labels run from {int(self.y.min())} to {int(self.y.max())}, "
                            f"but there are {len(self.classes)} classes (-1 stands for 'not known')")

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.x.shape[1:]))
        return f"ImageSet({self.name!r}, {len(self)} images of {shape}, {len(self.classes)} classes)"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return tuple(self.x.shape[1:])

    def rows(self, domain: str = "none") -> None:
        """Rows that belong to a domain; None, which stands for all of them."""
        return None

    def images(self, index=slice(None), device="cpu", domain: str = "none", severity: float = 5.0) -> Tensor:
        """The chosen images as float32 in [0, 1], shape (n, C, H, W). The set holds no shifted images of its own, so
        ``domain`` can only be "none"; raises ValueError otherwise."""
        if domain not in ("none", "clean"):
            raise ValueError(f"{self.name} holds no images of {domain!r}, only clean ones; make the shift with corruptions.corrupt")
        return self.x[index].to(device).float() / 255

    def fingerprint(self) -> str:
        """sha256 over shape, class names, pixels and labels, as hex text; worked out once and kept."""
        if "_fingerprint" not in self.__dict__:
            digest = hashlib.sha256(repr((tuple(self.x.shape), self.classes)).encode())
            for part in (self.x, self.y):
                digest.update(part.cpu().contiguous().numpy())
            self.__dict__["_fingerprint"] = digest.hexdigest()
        return self.__dict__["_fingerprint"]

    def take(self, index) -> ImageSet:
        """The same set with only the chosen rows."""
        return replace(self, x=self.x[index], y=self.y[index])

    def only(self, classes, relabel: bool = True) -> ImageSet:
        """Only the images of these class indices; with ``relabel`` they are renumbered 0 .. len(classes)-1 and the
        classes appear in the name, as in ``fashion_mnist[0,2]``, which ``load`` understands."""
        classes = tuple(int(c) for c in classes)
        wrong = [c for c in classes if not 0 <= c < len(self.classes)]
        if wrong:
            raise ValueError(f"{self.name} has classes 0 to {len(self.classes) - 1}, not {wrong}")
        if len(set(classes)) < len(classes) or not classes:
            raise ValueError(f"{self.name}: choose at least one class, each once, got {list(classes)}")
        kept = self.take(torch.isin(self.y, torch.tensor(classes)))
        if not relabel:
            return kept
        lookup = torch.full((len(self.classes),), -1)
        lookup[torch.tensor(classes)] = torch.arange(len(classes))
        return replace(kept, name=f"{self.name}[{','.join(map(str, classes))}]", y=lookup[kept.y],
                       classes=tuple(self.classes[c] for c in classes))


def data_root(root: str | Path | None = None) -> Path:
    """The folder ``data/``: the argument, else $TTA_LAB_DATA, else beside the package."""
    if root is not None:
        return Path(root)
    if os.environ.get("TTA_LAB_DATA"):
        return Path(os.environ["TTA_LAB_DATA"])
    here = Path(__file__).resolve().parent
    for place in (here.parent / "data", here / "_data"):
        if (place / "index.json").is_file():
            return place
    raise DataError("the folder 'data' with its index.json was not found beside the package; "
                    "set the environment variable TTA_LAB_DATA to the data folder of a checkout")


def checked_bytes(relative: str, root: str | Path | None = None) -> bytes:
    """The bytes of one embedded file, after comparing its sha256 with ``data/index.json``.

    Raises DataError when the file is missing, unknown or damaged, and says how to get it back.
    """
    folder = data_root(root)
    try:
        index = json.loads((folder / "index.json").read_text())
    except (OSError, ValueError) as why:
        raise DataError(f"{folder / 'index.json'} cannot be read ({why}); restore it with: "
                        "git checkout -- data/index.json") from why
    if relative not in index:
        raise DataError(f"data/index.json has no entry for {relative!r}; it knows: {', '.join(sorted(index))}")
    remedy = f"restore it with: git checkout -- data/{relative}   or rebuild it with: {index[relative]['rebuild']}"
    try:
        content = (folder / relative).read_bytes()
    except OSError as why:
        raise DataError(f"the data file {folder / relative} is missing; {remedy}") from why
    found = hashlib.sha256(content).hexdigest()
    if found != index[relative]["sha256"]:
        raise DataError(f"the data file {folder / relative} is damaged ({len(content)} bytes, sha256 {found[:12]}..., "
                        f"expected {index[relative]['sha256'][:12]}...); {remedy}")
    return content


def read_idx(content: bytes, name: str = "file") -> np.ndarray:
    """Decode the (gzipped) IDX format of the MNIST family; uint8 only."""
    try:
        raw = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError, zlib.error) as why:
        raise DataError(f"{name} is not a complete gzip file ({why})") from why
    if raw[:3] != b"\x00\x00\x08" or len(raw) < 8:
        raise DataError(f"{name} is not an IDX file of bytes (it starts with {raw[:16]!r})")
    ndim = raw[3]
    if len(raw) < 4 + 4 * ndim:
        raise DataError(f"{name} is truncated: it ends within its header of {ndim} sizes")
    shape = np.frombuffer(raw, ">u4", ndim, 4).astype(int)
    body = np.frombuffer(raw, np.uint8, offset=4 + 4 * ndim)
    if body.size != shape.prod():
        raise DataError(f"{name} is truncated: {body.size} values for the shape {tuple(shape)}")
    return body.reshape(shape)


def _packed(relative, root, name, classes) -> ImageSet:
    with np.load(io.BytesIO(lzma.decompress(checked_bytes(relative, root))), allow_pickle=False) as f:
        return ImageSet(name, torch.from_numpy(f["images"])[:, None], torch.from_numpy(f["labels"]).long(), classes)


def _test(root):
    images, labels = (torch.from_numpy(read_idx(checked_bytes(f"fashion-mnist/t10k-{part}.gz", root), part).copy())
                      for part in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    return ImageSet("fashion_mnist", images[:, None], labels.long(), FASHION_CLASSES)


def _slice(root):
    return _packed("fashion-mnist/train-slice.npz.xz", root, "fashion_mnist_train_slice", FASHION_CLASSES)


def _digits(root):
    return _packed("digits/digits-28x28.npz.xz", root, "digits", DIGIT_CLASSES)


FASHION_8 = tuple(c for c in range(10) if c not in NEAR_UNKNOWN)


def _named(read, classes, name):
    return lambda root: replace(read(root).only(classes), name=name)


EMBEDDED = {
    "fashion_mnist": _test, "fashion_mnist_train_slice": _slice, "digits": _digits,
    "fashion_mnist_8": _named(_test, FASHION_8, "fashion_mnist_8"),
    "fashion_mnist_held_out": _named(_test, NEAR_UNKNOWN, "fashion_mnist_held_out"),
    "fashion_mnist_train_slice_8": _named(_slice, FASHION_8, "fashion_mnist_train_slice_8"),
    "fashion_mnist_train_slice_held_out": _named(_slice, NEAR_UNKNOWN, "fashion_mnist_train_slice_held_out"),
}


def load(name: str, root: str | Path | None = None) -> ImageSet:
    """An embedded image set by name.

    ``fashion_mnist`` (10 000 test images), ``fashion_mnist_train_slice`` (5 000 labelled training images, 500 a
    class), ``digits`` (1 797, the far unknowns); ``fashion_mnist_8`` and ``fashion_mnist_train_slice_8`` without the
    classes Coat and Sneaker, ``fashion_mnist_held_out`` and ``fashion_mnist_train_slice_held_out`` with these two only
    (the near unknowns). Class indices in brackets take a subset, relabelled: ``fashion_mnist[0,1,5]``.
    """
    subset = re.fullmatch(r"(.+)\[(\d+(?:,\d+)*)\]", name)
    if subset:
        return load(subset[1], root).only([int(c) for c in subset[2].split(",")])
    if name not in EMBEDDED:
        raise ValueError(f"there is no embedded image set {name!r}; there are: {', '.join(EMBEDDED)}")
    return EMBEDDED[name](root)


def fashion_training_set(folder: str | Path = DEBIAN_FASHION) -> ImageSet:
    """All 60 000 training images from the four original files (needed for training source models only)."""
    folder = Path(folder)
    parts = []
    for part in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        path = next((p for p in (folder / f"{part}.gz", folder / part) if p.is_file()), None)
        if path is None:
            raise DataError(f"{folder / part}.gz is missing. Training needs the original Fashion-MNIST files: on Debian "
                            "or Ubuntu 'apt-get install dataset-fashion-mnist' puts them there; elsewhere download the "
                            "four files from the Fashion-MNIST project page and name their folder with --data")
        parts.append(torch.from_numpy(read_idx(path.read_bytes(), str(path)).copy()))
    return ImageSet("fashion_mnist_train", parts[0][:, None], parts[1].long(), FASHION_CLASSES)
