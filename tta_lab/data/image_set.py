"""Image sets: what every set answers, sets in memory, the embedded ones checked against their recorded sums.

Everything here is *images with labels*, nothing else; how they are ordered, shifted and mixed is the
business of ``streams``. Sets of files on disk are in ``image_files``, the published benchmarks in ``published_sets``.
"""
from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import os
import zlib
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..core import places
from ..core.arguments import WrongKind, whole
from .contents import note, noting, unchanged

FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)
DIGIT_CLASSES = tuple(f"digit {k}" for k in range(10))
NEAR_UNKNOWN = (4, 7)  # Coat and Sneaker: each has look-alikes among the other eight classes
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
CLEAN = ("none", "clean")


class DataError(RuntimeError):
    """A data file is missing, damaged or of the wrong form; the message names the file and the remedy."""


class BaseSet:
    """What every set of images answers, in memory or on disk.

    name           text from which ``load`` rebuilds the set, where that is possible
    classes        names of the classes, K of them
    y              int64 (N,), 0 .. K-1, or -1 where the label is not known
    shape          (C, H, W) of one image
    domains        domains whose images the set holds itself (corruptions of a "-C" set, sub-domains); () for plain sets
    model_classes  outputs of a larger model that stand for the classes, see ``class_logits``; None where the model has just
                   these classes
    """

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        shape, more = "x".join(map(str, self.shape)), f", domains {', '.join(self.domains)}" if self.domains else ""
        return f"{type(self).__name__}({self.name!r}, {len(self)} images of {shape}, {len(self.classes)} classes{more})"

    def rows(self, domain: str = "none") -> Tensor | None:
        """Rows that belong to a domain, int64; None stands for all of them."""
        return None

    def only(self, classes, relabel: bool = True):
        """Only the images of these class indices; with ``relabel`` they are renumbered 0 .. len(classes)-1 and the
        classes appear in the name, as in ``fashion_mnist[0,2]``, which ``load`` understands."""
        if isinstance(classes, str | bytes) or not isinstance(classes, Iterable):
            raise WrongKind(f"{self.name}: classes must list class indices, such as [0, 2], not {classes!r}")
        classes = tuple(whole(f"{self.name}: a class index", c) for c in classes)
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
        return replace(kept, name=places.with_subset(self.name, ",".join(map(str, classes))), y=lookup[kept.y],
                       classes=tuple(self.classes[c] for c in classes),
                       model_classes=None if self.model_classes is None else self.model_classes[list(classes)])


def check_labels(name: str, y: Tensor, classes: tuple[str, ...]) -> None:
    """Raise DataError unless every label is a class index or -1, in int64."""
    if not isinstance(y, Tensor) or y.dtype != torch.int64 or y.ndim != 1:
        found = f"{y.dtype} {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        raise DataError(f"{name}: labels must be a tensor of int64 (N,), got {found}; make one with torch.as_tensor(labels, dtype=torch.int64)")
    if len(y) and (int(y.min()) < -1 or int(y.max()) >= len(classes)):
        raise DataError(f"{name}: labels run from {int(y.min())} to {int(y.max())}, but there are {len(classes)} classes "
                        "(-1 stands for 'not known')")


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet(BaseSet):
    """Images held in memory with their labels.

    ``x`` is uint8 (N, C, H, W), ``y`` int64 (N,) with values 0 .. K-1 for the K names in ``classes``, or -1 where the
    label is not known.
    """

    name: str
    x: Tensor
    y: Tensor
    classes: tuple[str, ...]
    model_classes: Tensor | None = None

    domains = ()        # a plain set: every shift is made, none is read

    def __post_init__(self):
        if not isinstance(self.x, Tensor):
            raise DataError(f"{self.name}: images must be a tensor, got {type(self.x).__name__}; make one with torch.from_numpy(images)")
        if self.x.dtype != torch.uint8 or self.x.ndim != 4:
            raise DataError(f"{self.name}: images must be uint8 (N, C, H, W), got {self.x.dtype} {tuple(self.x.shape)}")
        if getattr(self.y, "shape", None) != self.x.shape[:1]:
            raise DataError(f"{self.name}: {len(self.x)} images but labels of shape {tuple(getattr(self.y, 'shape', ()))}")
        check_labels(self.name, self.y, self.classes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return tuple(self.x.shape[1:])

    def check_domain(self, domain: str = "none", severity: float = 5.0) -> None:
        """Raise ValueError where ``images`` could not give this domain: only "none", the images as they are."""
        if domain not in CLEAN:
            raise ValueError(f"{self.name} holds no images of {domain!r}, only clean ones; make the shift with corruptions.corrupt")

    def images(self, index=slice(None), device="cpu", domain: str = "none", severity: float = 5.0) -> Tensor:
        """The chosen images as float32 in [0, 1], shape (n, C, H, W); ``domain`` can only be "none"."""
        self.check_domain(domain, severity)
        return self.x[index].to(device).float() / 255

    def take(self, index) -> ImageSet:
        """The same set with only the chosen rows."""
        return replace(self, x=self.x[index], y=self.y[index])

    def fingerprint(self) -> str:
        """sha256 over shape, class names, pixels and labels as they now are, as hex text."""
        digest = hashlib.sha256(repr((tuple(self.x.shape), self.classes)).encode())
        for part in (self.x, self.y):
            digest.update(part.cpu().contiguous().numpy())
        return digest.hexdigest()

    def check(self) -> int:
        """The number of images; in memory there is nothing left to decode."""
        return len(self)


def class_logits(logits: Tensor, model_classes: Tensor | None) -> Tensor:
    """Logits of a set's own K classes from those of a model with L outputs, (B, L, *S) -> (B, K, *S).

    ``model_classes`` int64 (K,): one output a class. int64 (K, M), padded with -1: several outputs a class, and the class
    takes the largest of their logits, so that it wins exactly where one of its members does. None: unchanged.
    Raises ValueError when the model has too few outputs.
    """
    if model_classes is None:
        return logits
    if int(model_classes.max()) >= logits.shape[1]:
        raise ValueError(f"the image set names model output {int(model_classes.max())}, the model has {logits.shape[1]}; "
                         "choose a model trained on the full list of classes")
    chosen = model_classes.to(logits.device)
    if chosen.ndim == 1:
        return logits[:, chosen]
    members = logits[:, chosen.clamp(min=0)]                                   # (B, K, M, *S)
    absent = (chosen < 0).view(1, *chosen.shape, *[1] * (logits.ndim - 2))
    return members.masked_fill(absent, -torch.inf).amax(2)


def data_root(root: str | Path | None = None) -> Path:
    """The folder ``data/``: the argument, else $TTA_LAB_DATA, else beside the package."""
    if root is not None:
        return Path(root)
    if os.environ.get("TTA_LAB_DATA"):
        return Path(os.environ["TTA_LAB_DATA"])
    here = Path(__file__).resolve().parents[1]
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
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        if not isinstance(index, dict) or not all({"sha256", "rebuild"} <= facts.keys() for facts in index.values()):
            raise ValueError("it is no list of files with their sums")
    except (OSError, ValueError, AttributeError) as why:
        raise DataError(f"{folder / 'index.json'} cannot be read ({why}); restore it with: "
                        "git checkout -- data/index.json") from why
    if relative not in index:
        raise DataError(f"data/index.json has no entry for {relative!r}; it knows: {', '.join(sorted(index))}")
    remedy = f"restore it with: git checkout -- data/{relative}   or rebuild it with: {index[relative]['rebuild']}"
    note(folder / "index.json", folder / relative)
    try:
        content = (folder / relative).read_bytes()
    except OSError as why:
        raise DataError(f"the data file {folder / relative} is missing; {remedy}") from why
    found = hashlib.sha256(content).hexdigest()
    if found != index[relative]["sha256"]:
        raise DataError(f"the data file {folder / relative} is damaged ({len(content)} bytes, sha256 {found[:12]}..., "
                        f"expected {index[relative]['sha256'][:12]}...); {remedy}")
    return content


def refuse_html(head: bytes, name: str | Path) -> None:
    """Raise DataError when a file starts like a web page, which is what a failed download leaves behind."""
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        raise DataError(f"{name} is a web page (HTML), not data: the download gave an error or a login page; download it again")


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


def load(name: str, root: str | Path | None = None) -> BaseSet:
    """An image set by name: an embedded one, or ``kind:path`` for files of your own.

    Embedded: ``fashion_mnist`` (10 000 test images), ``fashion_mnist_train_slice`` (5 000 labelled training images, 500 a
    class), ``digits`` (1 797, the far unknowns); ``fashion_mnist_8`` and ``fashion_mnist_train_slice_8`` without the
    classes Coat and Sneaker, ``fashion_mnist_held_out`` and ``fashion_mnist_train_slice_held_out`` with these two only
    (the near unknowns); ``root`` is the data folder they lie in.

    On disk: ``cifar10_c:/data/CIFAR-10-C``, ``folder:photos?size=64&order=time``; the kinds are the functions in
    ``published_sets.KINDS``, options follow as a query and are the function's arguments. Relative paths start at the
    working directory; the name of the set that comes back holds the absolute one. Class indices in brackets take a subset,
    relabelled: ``fashion_mnist[0,1,5]``. A path that is there as it stands is taken so, whatever it holds (``[1]``, ``?``, ``%``);
    else %XX stands for one byte of it, and after ``file://`` always does.

    Raises ValueError for an unknown name, kind or option, DataError for missing or damaged files.
    """
    if not isinstance(name, str):
        raise WrongKind(f"load takes the name of an image set as a text, such as 'fashion_mnist' or 'folder:PATH', not {name!r:.80}"
                        + (f": write 'folder:{name}'" if isinstance(name, os.PathLike) else ""))
    kind, colon, rest = name.partition(":")
    from .folders import KINDS

    if colon and kind in KINDS:
        path, query, subsets = places.split(rest)
        known = KINDS[kind].options
        given = {key: places.value(text, path if key in PATH_OPTIONS else None) for key, text in places.options(query, known).items()}
        data = KINDS[kind](path, **given)
        for chosen in subsets:
            data = data.only([int(c) for c in chosen.split(",")])
        return data
    subset = places.SUBSET.fullmatch(name)
    if subset:
        return load(subset[1], root).only([int(c) for c in subset[2].split(",")])
    if name in EMBEDDED:
        return EMBEDDED[name](root)
    if not colon:
        hint = f"; the folder of that name is 'folder:{name}'" if name and os.path.isdir(places.home(name)) else ""
        raise ValueError(f"there is no embedded image set {name!r}; there are: {', '.join(EMBEDDED)}; or name files of your own as "
                         f"kind:path with one of the kinds {', '.join(KINDS)}{hint}")
    raise ValueError(f"{name!r}: there is no kind of image set {kind!r}; there are: {', '.join(KINDS)}")


PATH_OPTIONS = ("labels", "classes", "map", "images", "synsets", "clean")  # options of kinds that may name a file or a folder


def canonical(name: str) -> str:
    """The same text with the absolute path in it, so that it means the same from every working directory; embedded names as they are.

    The set is not opened; a path that is not there stays as it is.
    """
    kind, colon, rest = name.partition(":")
    from .folders import KINDS

    if not colon or kind not in KINDS:
        return name
    path, query, subsets = places.split(rest)
    if not places.there(path):
        return name
    text = f"{kind}:{places.joined(places.absolute(path), query)}"
    for chosen in subsets:
        text = places.with_subset(text, chosen)
    return text


_KEPT: OrderedDict = OrderedDict()  # (name, data folder, working directory) -> (set, what it was made from)


def load_kept(name: str, root: str | Path | None = None) -> BaseSet:
    """``load``, with the last eight sets kept as long as nothing on disk that they were made from has changed.

    Images in memory are handed out as copies, so that nobody writes into another's. Images of files are read, and noticed to have changed,
    when they are asked for.
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
    fresh = {part: getattr(data, part).clone() for part in ("x", "y", "index", "member", "model_classes")
             if isinstance(getattr(data, part, None), Tensor)}
    return replace(data, **fresh)


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
