"""The embedded image sets: Fashion-MNIST and digits."""
from __future__ import annotations

import gzip
import io
import lzma
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from .image_set import ImageSet
from .shipped import DataError, checked_bytes, refuse_html

FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DIGIT_CLASSES = tuple(f"digit {k}" for k in range(10))
NEAR_UNKNOWN = (4, 7)  # Coat and Sneaker: each has look-alikes among the other eight classes
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")


def read_idx(content: bytes, name: str = "file") -> np.ndarray:
    """Decode the (gzipped) IDX format of the MNIST family; uint8 only."""
    refuse_html(content[:64], name)
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
    with np.load(io.BytesIO(lzma.decompress(checked_bytes(relative, root))),
                 allow_pickle=False) as f:
        return ImageSet(name,
                        torch.from_numpy(f["images"])[:, None],
                        torch.from_numpy(f["labels"]).long(), classes)


def _test(root):
    images, labels = (torch.from_numpy(
        read_idx(checked_bytes(f"fashion-mnist/t10k-{part}.gz", root), part).copy())
                      for part in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    return ImageSet("fashion_mnist", images[:, None], labels.long(), FASHION_CLASSES)


def _slice(root):
    return _packed("fashion-mnist/train-slice.npz.xz", root, "fashion_mnist_train_slice",
                   FASHION_CLASSES)


def _digits(root):
    return _packed("digits/digits-28x28.npz.xz", root, "digits", DIGIT_CLASSES)


FASHION_8 = tuple(c for c in range(10) if c not in NEAR_UNKNOWN)


def _named(read, classes, name):
    return lambda root: replace(read(root).only(classes), name=name)


EMBEDDED = {
    "fashion_mnist": _test,
    "fashion_mnist_train_slice": _slice,
    "digits": _digits,
    "fashion_mnist_8": _named(_test, FASHION_8, "fashion_mnist_8"),
    "fashion_mnist_held_out": _named(_test, NEAR_UNKNOWN, "fashion_mnist_held_out"),
    "fashion_mnist_train_slice_8": _named(_slice, FASHION_8, "fashion_mnist_train_slice_8"),
    "fashion_mnist_train_slice_held_out": _named(_slice, NEAR_UNKNOWN,
                                                 "fashion_mnist_train_slice_held_out"),
}


def fashion_training_set(folder: str | Path = DEBIAN_FASHION) -> ImageSet:
    """All 60 000 training images from the four original files (needed for training source models
    only)."""
    folder = Path(folder)
    parts = []
    for part in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        path = next((p for p in (folder / f"{part}.gz", folder / part) if p.is_file()), None)
        if path is None:
            raise DataError(f"{folder / part}.gz is missing. Training needs the original "
                            f"Fashion-MNIST files: on Debian "
                            "or Ubuntu 'apt-get install dataset-fashion-mnist' puts them there; "
                            "elsewhere download the "
                            "four files from the Fashion-MNIST project page and name their folder "
                            "with --data")
        parts.append(torch.from_numpy(read_idx(path.read_bytes(), str(path)).copy()))
    return ImageSet("fashion_mnist_train", parts[0][:, None], parts[1].long(), FASHION_CLASSES)
