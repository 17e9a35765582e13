"""Rebuild the embedded image files:  python data/build.py [--fashion FOLDER]

FOLDER holds the four original Fashion-MNIST files (Debian's package dataset-fashion-mnist puts them
under /usr/share/datasets/fashion-mnist). The digits need scikit-learn. Each file's sum goes into
data/index.json.
"""
import argparse
import io
import lzma
import shutil
from pathlib import Path

import numpy as np

from tta_lab.data.embedded import DEBIAN_FASHION, fashion_training_set
from tta_lab.models.training import register

ROOT = Path(__file__).resolve().parent


def write(relative, **arrays):
    """One uncompressed npz inside xz: reproducible byte for byte."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    path = ROOT / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress(buffer.getvalue(), preset=9))
    return path


def slice_of_training(folder, per_class=500, seed=0):
    """A class-balanced slice: per class the first `per_class` of a seeded permutation, in order of
    index."""
    data = fashion_training_set(folder)
    rng = np.random.default_rng(seed)
    labels = data.y.numpy()
    index = np.sort(
        np.concatenate(
            [rng.permutation(np.flatnonzero(labels == c))[:per_class] for c in range(10)]))
    return dict(images=data.x[:, 0].numpy()[index], labels=labels[index].astype(np.uint8),
                index=index.astype(np.int32))


def enlarge(images, side=28):
    """Bilinear interpolation with half-pixel centres, edges repeated: (N, h, h) to
    (N, side, side)."""
    h = images.shape[1]
    where = np.clip((np.arange(side) + 0.5) * h / side - 0.5, 0, h - 1)
    low = np.floor(where).astype(int)
    high, share = np.minimum(low + 1, h - 1), where - low
    rows = images[:, low] * (1 - share)[:, None] + images[:, high] * share[:, None]
    return rows[:, :, low] * (1 - share) + rows[:, :, high] * share


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fashion", type=Path, default=DEBIAN_FASHION)
    folder = parser.parse_args().fashion
    command = "python data/build.py"
    for part in ("images-idx3-ubyte", "labels-idx1-ubyte"):
        target = ROOT / "fashion-mnist" / f"t10k-{part}.gz"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / target.name, target)
        register(target, ROOT, command, licence="MIT",
                 origin="Fashion-MNIST test set, as in the Debian package dataset-fashion-mnist")
    register(write("fashion-mnist/train-slice.npz.xz", **slice_of_training(folder)), ROOT, command,
             licence="MIT", origin="Fashion-MNIST training set, 500 images a class")

    from sklearn.datasets import load_digits
    digits = load_digits()
    images = np.ascontiguousarray(
        np.floor(enlarge(digits.images / 16) * 255 + 0.5).astype(np.uint8))
    labels = digits.target.astype(np.uint8)
    register(write("digits/digits-28x28.npz.xz", images=images, labels=labels), ROOT, command,
             licence="CC BY 4.0", origin="UCI Optical Recognition of Handwritten Digits "
                                         "(scikit-learn load_digits), enlarged from 8 x 8")


if __name__ == "__main__":
    main()
