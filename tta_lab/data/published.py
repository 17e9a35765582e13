"""The published benchmarks, read from the files their authors give out: CIFAR, ImageNet and the
sets derived from them.

Each kind is a function ``(path, *, options) -> set`` under its name in ``KINDS``;
``tta_lab.load("kind:path?options")`` calls it. To add one, write such a function and put
``@kind("its_name")`` above it.
"""
from __future__ import annotations

import os
import pickle
import re
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..core import places
from .contents import digests, hashed, note
from .embedded import EMBEDDED
from .folders import folder as any_folder
from .image_files import (
    CACHE_BYTES,
    HEADERS,
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
from .image_set import BaseSet, ImageSet
from .kinds import KINDS, kind, opened
from .shift import CLEAN
from .shipped import DataError, refuse_html

__all__ = [
    "KINDS", "cifar10", "cifar100", "cifar10_c", "cifar100_c", "imagenet", "imagenet_a",
    "imagenet_c", "imagenet_r", "imagenet_sketch", "imagenet_v2", "tiny_imagenet_c", "wnid_order"
]

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship",
                   "truck")
CIFAR100_NAMES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus "
    "butterfly camel can castle caterpillar "
    "cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin "
    "elephant flatfish forest fox girl hamster "
    "house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree "
    "motorcycle mountain mouse mushroom oak_tree "
    "orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum "
    "rabbit raccoon ray road rocket rose "
    "sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower "
    "sweet_pepper table tank telephone television "
    "tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm")
CIFAR100_CLASSES = tuple(CIFAR100_NAMES.split())


# --- CIFAR-10 and CIFAR-100 ---------------------------------------------------------------------

class _Array:
    """Stands in for a numpy array while unpickling: takes down shape, type and bytes, runs
    nothing."""

    def __setstate__(self, state):
        _, self.shape, self.dtype, self.fortran, self.raw = state

    def array(self) -> np.ndarray:
        if self.dtype.text not in ("u1", "|u1", "uint8") or not isinstance(self.raw, bytes):
            raise DataError(f"holds an array of type {self.dtype.text!r}, expected bytes (u1)")
        return np.frombuffer(self.raw, np.uint8).reshape(self.shape,
                                                         order="F" if self.fortran else "C")


class _Dtype:
    def __init__(self, text, *_):
        self.text = text.decode("latin1") if isinstance(text, bytes) else str(text)

    def __setstate__(self, state):
        pass


class _Restricted(pickle.Unpickler):
    """Lists, dicts, numbers, text, bytes, and the four names by which numpy writes an array;
    nothing else is looked up, and none of the four reaches numpy."""

    def find_class(self, module, name):
        known = {
            "numpy.ndarray": _Array,
            "numpy.dtype": _Dtype,
            "numpy.core.multiarray._reconstruct": lambda *_: _Array(),
            "numpy._core.multiarray._reconstruct": lambda *_: _Array(),
            # made anew, so that no file can change them
            "_codecs.encode": lambda text, encoding: text.encode("latin1")
        }
        if f"{module}.{name}" not in known:
            raise DataError(f"asks for {module}.{name}, which no CIFAR file needs; the file is "
                            f"not the published one")
        return known[f"{module}.{name}"]


def read_pickled(file, name: str) -> dict:
    """The dictionary of a "python version" CIFAR file, its keys as text, arrays as uint8; runs
    nothing that the file names.

    Raises DataError for a file that is damaged or asks for more than arrays, lists and text.
    """
    try:
        found = _Restricted(file, encoding="bytes").load()
        if not isinstance(found, dict):
            raise DataError(f"holds {type(found).__name__}, not a dictionary")
        return {
            key.decode("latin1") if isinstance(key, bytes) else str(key): value.array()
            if isinstance(value, _Array) else value for key, value in found.items()
        }
    except DataError as why:
        raise DataError(f"{name} {why}") from why
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError,
            KeyError, OverflowError, MemoryError, ImportError, OSError, zlib.error,
            tarfile.TarError) as why:
        raise DataError(f"{name} is damaged or not a CIFAR file ({type(why).__name__}: {why}); "
                        f"fetch it again") from why


class _Store:
    """The files of a folder or of a tar archive by their last name."""

    def __init__(self, path: Path, subfolders: Sequence[str]):
        self.path, self.tar = path, None
        if path.is_file():
            with path.open("rb") as file:
                refuse_html(file.read(64), path)
            try:
                self.tar = tarfile.open(path)  # noqa: SIM115 (closed by __exit__)
                self.names = {
                    member.name.rpartition("/")[2]: member for member in self.tar
                    if member.isfile()
                }
            except (tarfile.TarError, EOFError, OSError, zlib.error) as why:
                raise DataError(
                    f"{path} is damaged or not a tar archive ({why}); fetch it again") from why
        else:
            root = existing_folder(path, "CIFAR")
            places = [root, *(root / name for name in subfolders)]
            self.names = {
                p.name: p for place in reversed(places) if place.is_dir() for p in place.iterdir()
                if p.is_file()
            }

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.tar:
            self.tar.close()

    def open(self, name):
        if not self.tar:
            note(self.names[name])
        return self.tar.extractfile(self.names[name]) if self.tar else self.names[name].open("rb")

    def content(self, name) -> bytes:
        try:
            with self.open(name) as file:
                content = file.read()
        except (tarfile.TarError, EOFError, OSError, zlib.error) as why:
            raise DataError(f"{self.path}: {name} is damaged ({why}); fetch it again") from why
        refuse_html(content[:64], f"{self.path}: {name}")
        return content


def _cifar(path: Path, split: str, classes: tuple[str, ...], parts: dict[str, tuple[str, ...]],
           kept: str, cache_bytes) -> BaseSet:
    """Binary version, python version, or folders of pictures, whichever is there."""
    if split not in parts:
        raise ValueError(f"split must be {' or '.join(parts)}, got {split!r}")
    inside = tuple(f"cifar-{len(classes)}-{rest}"
                   for rest in ("batches-bin", "batches-py", "binary", "python"))
    with _Store(path, inside) as store:
        for names, read in ((tuple(f"{part}.bin"
                                   for part in parts[split]), _binary), (parts[split], _pickled)):
            there = [name for name in names if name in store.names]
            if there:
                lacking = [name for name in names if name not in store.names]
                if lacking:
                    raise DataError(f"{path} has {', '.join(there)}, but {', '.join(lacking)} is "
                                    f"missing")
                pixels, labels = zip(*(read(store, name, classes, kept) for name in names),
                                     strict=True)
                x = torch.from_numpy(np.concatenate(pixels).reshape(-1, 3, 32, 32))
                return ImageSet("", x, torch.from_numpy(np.concatenate(labels)), classes)
        if store.tar is None:
            place = path / split if (path / split).is_dir() else path
            if any((place / name).is_dir() for name in classes):
                return any_folder(place, classes=classes, cache_bytes=cache_bytes)
    raise DataError(f"{path} holds neither the binary nor the python version of "
                    f"CIFAR-{len(classes)} nor folders of pictures; expected "
                    f"{parts[split][0]}.bin, {parts[split][0]} or {split}/{classes[0]}/*.png")


def _checked(labels: np.ndarray, classes, name) -> np.ndarray:
    if labels.size and not 0 <= labels.min() <= labels.max() < len(classes):
        raise DataError(f"{name}: labels run from {labels.min()} to {labels.max()}, but there are "
                        f"{len(classes)} classes")
    return labels.astype(np.int64)


def _binary(store: _Store, name: str, classes, kept):
    """Rows of one label byte (CIFAR-10) or a coarse and a fine one (CIFAR-100) and 3072 bytes of
    red, green and blue."""
    content = store.content(name)
    front = 1 if len(classes) == 10 else 2
    if not content or len(content) % (front + 3072):
        raise DataError(f"{store.path}: {name} has {len(content)} bytes, no multiple of "
                        f"{front + 3072}: it is cut short or of another "
                        "format; fetch it again")
    rows = np.frombuffer(content, np.uint8).reshape(-1, front + 3072)
    return rows[:, front:], _checked(rows[:, front - 1], classes, f"{store.path}: {name}")


def _pickled(store: _Store, name: str, classes, kept):
    where = f"{store.path}: {name}"
    with store.open(name) as file:
        refuse_html(file.read(64), where)
        file.seek(0)
        found = read_pickled(file, where)
    pixels, labels = found.get("data"), found.get(kept)
    if not isinstance(pixels, np.ndarray) or not isinstance(
            labels, list) or pixels.shape != (len(labels), 3072):
        raise DataError(f"{where} has the entries {', '.join(sorted(found))}, expected 'data' of "
                        f"(N, 3072) bytes and {kept!r} of N labels")
    if not all(isinstance(label, int) for label in labels):
        raise DataError(f"{where}: the entry {kept!r} holds something else than class indices")
    return pixels, _checked(np.array(labels), classes, where)


@kind("cifar10")
def cifar10(path, *, split="test", cache_bytes=CACHE_BYTES) -> BaseSet:
    """CIFAR-10 from the binary version (``test_batch.bin``), the python version (``test_batch``),
    an archive of either (.tar.gz), or pictures in ``test/<class>/``. ``split`` "test" or "train".

    The python version is read by an unpickler that knows arrays, lists and text only. Pictures in
    folders come class by class, the two published versions in their own mixed order. Raises
    DataError for damaged files and labels out of range.
    """
    parts = {"test": ("test_batch",), "train": tuple(f"data_batch_{k}" for k in range(1, 6))}
    return _cifar(path, split, CIFAR10_CLASSES, parts, "labels", cache_bytes)


@kind("cifar100")
def cifar100(path, *, split="test", cache_bytes=CACHE_BYTES) -> BaseSet:
    """CIFAR-100 with its 100 fine labels, from the same forms of files as ``cifar10``:
    ``test.bin``, ``test``, an archive, or pictures in ``test/<class>/``."""
    return _cifar(path, split, CIFAR100_CLASSES, {"test": ("test",), "train": ("train",)},
                  "fine_labels", cache_bytes)


# --- "-C" sets as arrays ------------------------------------------------------------------------

def mapped_array(path: Path) -> np.ndarray:
    """A ``.npy`` file mapped into memory, nothing unpickled; DataError when damaged, cut short or
    not an array."""
    note(path)
    try:
        with path.open("rb") as file:
            refuse_html(file.read(64), path)
    except OSError as why:
        raise DataError(f"{path} is missing or cannot be read ({why}); fetch it again") from why
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        wrong = None if isinstance(array, np.memmap) else "it is no single array"
    except (ValueError, EOFError, OSError, TypeError, SyntaxError) as why:
        objects = "pickle" in str(why) or "Python objects" in str(why)
        array = None
        wrong = ("it is none, or holds Python objects, which could run code and are not read"
                 if objects else why)
    if wrong is None and array.offset + array.nbytes != path.stat().st_size:
        wrong = (f"its header promises {array.nbytes} bytes of values, it has "
                 f"{path.stat().st_size - array.offset}")
    if wrong:
        raise DataError(f"{path} is damaged, cut short or not an .npy file of plain numbers "
                        f"({wrong}); fetch it again")
    return array


def whole(name: str, severity: float, known: Sequence[int]) -> int:
    """The severity as a whole number; ValueError where the files have no such one."""
    if float(severity) not in known:
        raise ValueError(f"{name} has files for severity {', '.join(map(str, known))} only, not "
                         f"{severity:g}; choose one of these, or make "
                         "the shift from clean images with corruptions.corrupt")
    return int(severity)


class Arrays:
    """Five blocks of N rows in each ``.npy`` file, one a severity. A file is mapped for the moment
    of reading only."""

    def __init__(self, root: Path, n: int, clean: BaseSet | None):
        self.root = root
        self.n = n
        self.clean = clean

    def check_domain(self, domain, severity):
        if domain in CLEAN:
            if self.clean is None:
                raise ValueError(f"{self.root}: files of corrupted images hold no clean ones; "
                                 f"name the clean test set with clean=")
        else:
            whole(f"{self.root / domain}.npy", severity, (1, 2, 3, 4, 5))

    def read(self, rows, domain="none", severity=5.0):
        if domain in CLEAN:
            return (self.clean.images(rows) * 255).round().to(torch.uint8).numpy()
        array = mapped_array(self.root / f"{domain}.npy")
        return np.ascontiguousarray(array[np.asarray(rows) +
                                          (int(severity) - 1) * self.n].transpose(0, 3, 1, 2))

    def facts(self, rows):
        names = sorted(path.name for path in self.root.glob("*.npy"))
        try:
            content = digests(self.root, names)
        except OSError as why:
            raise DataError(f"a file of {self.root} is missing or cannot be read ({why}); restore "
                            f"it or open the set again") from why
        return hashed(*names, *content, repr(rows),
                      self.clean.fingerprint() if self.clean else "").encode()

    def sizes(self, rows):
        files = [(path.name, path.stat().st_size) for path in sorted(self.root.glob("*.npy"))]
        old = self.clean and getattr(self.clean, "old_fingerprint", self.clean.fingerprint)()
        return repr([files, rows, old]).encode()

    def check(self, rows):
        files = [path for path in sorted(self.root.glob("*.npy")) if path.stem != "labels"]
        for path in files:
            mapped_array(path)
        return len(files) * 5 * len(rows) + (self.clean.check() if self.clean else 0)


def _cifar_c(path: Path, name: str, classes: tuple[str, ...], clean) -> FileSet:
    root = existing_folder(path, name)
    if not (root / "labels.npy").is_file():
        raise DataError(f"{root / 'labels.npy'} is missing; {name} is a folder of labels.npy and "
                        f"one .npy file a corruption")
    labels = mapped_array(root / "labels.npy")
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels) or len(labels) % 5:
        raise DataError(f"{root / 'labels.npy'} has the shape {labels.shape} and type "
                        f"{labels.dtype}; expected whole numbers, five times the "
                        "labels of the test set")
    labels = _checked(np.array(labels), classes, root / "labels.npy").reshape(5, -1)
    if (labels != labels[0]).any():
        raise DataError(f"{root / 'labels.npy'}: the five blocks, one a severity, differ; "
                        f"expected the same labels five times")
    n = labels.shape[1]
    domains = tuple(sorted(p.stem for p in root.glob("*.npy") if p.stem != "labels"))
    if not domains:
        raise DataError(f"{root} holds no corruptions, only labels.npy")
    for domain in domains:
        array = mapped_array(root / f"{domain}.npy")
        if array.dtype != np.uint8 or array.shape != (5 * n, 32, 32, 3):
            raise DataError(f"{root / domain}.npy has the shape {array.shape} and type "
                            f"{array.dtype}; expected {(5 * n, 32, 32, 3)} of uint8, "
                            "as many as labels.npy has")
    y = torch.from_numpy(labels[0].copy())
    if clean is not None:
        if not isinstance(clean, BaseSet):
            text = str(clean)
            if not places.there(clean) and text.partition(":")[0] in KINDS:
                clean = opened(text)
            elif not places.there(clean) and text in EMBEDDED:
                clean = EMBEDDED[text](None)
            else:
                clean = KINDS[name.removesuffix("_c")](clean)
        if clean.shape != (3, 32, 32) or not torch.equal(clean.y, y):
            raise DataError(f"the clean set {clean.name} ({len(clean)} images) is not the one of "
                            f"{root} ({n}), or in another order: labels or "
                            "sizes differ; give the published test file, folders of pictures come "
                            "class by class")
    return FileSet("", y, classes, (3, 32, 32), Arrays(root, n, clean), torch.arange(n), domains)


@kind("cifar10_c")
def cifar10_c(path, *, clean=None) -> FileSet:
    """CIFAR-10-C (Hendrycks & Dietterich, arXiv 1903.12261): a folder of ``labels.npy`` and one
    ``.npy`` file a corruption, uint8 (5N, 32, 32, 3), the N test images at severity 1, then 2, ...
    5.

    The files are mapped, not loaded. ``domains`` are the files found; only whole severities exist.
    ``clean``, a folder or name of the CIFAR-10 test set, gives the domain "none". Raises DataError
    for files that are missing, cut short or of another shape, for labels out of range and for a
    clean set in another order.
    """
    return _cifar_c(path, "cifar10_c", CIFAR10_CLASSES, clean)


@kind("cifar100_c")
def cifar100_c(path, *, clean=None) -> FileSet:
    """CIFAR-100-C: as ``cifar10_c``, with 100 classes."""
    return _cifar_c(path, "cifar100_c", CIFAR100_CLASSES, clean)


# --- ImageNet and its relatives -----------------------------------------------------------------

WNID = re.compile(r"n[0-9]{8}")


def wnid_order(synsets=None) -> list[str]:
    """The wnids of the full list of classes, sorted, which is the order of the outputs of
    ImageNet-1k models.

    ``synsets``: a text file with a wnid as first word of each line, or a folder with one folder a
    wnid (a full validation set); None: the list that timm brings, where it is installed. Raises
    DataError where there is no list.
    """
    if synsets is None:
        try:
            from importlib.util import find_spec

            place = (Path(find_spec("timm").origin).parent / "data" / "_info" /
                     "imagenet_synsets.txt")
            words = place.read_text().split()
        except (AttributeError, ImportError, OSError) as why:
            raise DataError("this set has a part of ImageNet's classes, and which outputs of a "
                            "model they are follows from the full list; "
                            "give synsets= a text file of the 1000 wnids or the folder of the "
                            "full validation set, or install timm, "
                            "which has the list") from why
        return sorted(words)
    place = places.home(synsets)
    note(place)
    if place.is_dir():
        words = [
            entry.name for entry in place.iterdir() if entry.is_dir() and WNID.fullmatch(entry.name)
        ]
    elif place.is_file():
        words = [
            word for word in (line.split()[0] for line in text_in(place).splitlines()
                              if line.strip()) if WNID.fullmatch(word)
        ]
    else:
        raise DataError(f"synsets: {place} is not there; give a text file of wnids or the folder "
                        f"of the full validation set")
    if not words or len(set(words)) < len(words):
        raise DataError(f"synsets: {place} holds no list of different wnids such as n01440764")
    return sorted(words)


def _wnids(root: Path, what: str) -> list[str]:
    """The class folders, sorted; DataError for others and for empty ones."""
    folders = sorted(entry.name for entry in os.scandir(root)
                     if entry.is_dir() and not entry.name.startswith("."))
    wrong = [name for name in folders if not WNID.fullmatch(name)]
    if wrong or not folders:
        inner = next(
            (entry for entry in folders if any(map(WNID.fullmatch, os.listdir(root / entry)))),
            None)
        hint = f"; did you mean {root / inner}?" if inner else ""
        found = f"holds the folders {', '.join(wrong[:5])}" if wrong else "holds no class folders"
        raise DataError(f"{what}: {root} {found}; expected one folder a class, named by its wnid "
                        f"such as n01440764{hint}")
    return folders


def _outputs(wnids: list[str], synsets, where) -> Tensor:
    """The place of each wnid in the full list, int64 (K,)."""
    if synsets is None and len(wnids) == 1000:
        return torch.arange(1000)
    place = {wnid: k for k, wnid in enumerate(wnid_order(synsets))}
    wrong = [wnid for wnid in wnids if wnid not in place]
    if wrong:
        raise DataError(f"{where}: {', '.join(wrong[:10])} are not in the list of {len(place)} "
                        f"wnids")
    return torch.tensor([place[wnid] for wnid in wnids])


def _by_wnid(path: Path, what: str, decoder: Decoder, cache_bytes, synsets=None,
             outputs: bool = True) -> FileSet:
    root = existing_folder(path, what)
    wnids = _wnids(root, what)
    names = sorted(image_names(root), key=natural)
    number = {wnid: k for k, wnid in enumerate(wnids)}
    loose = next((name for name in names if "/" not in name), None)
    if loose:
        raise DataError(f"{what}: {root / loose} lies outside the class folders; move it into the "
                        f"folder of its class")
    y = [number[name.split("/")[0]] for name in names]
    if len(set(y)) < len(wnids):
        raise DataError(f"{what}: {root / next(w for w in wnids if number[w] not in set(y))} "
                        f"holds no images")
    return file_set(Files(root, names, decoder, Cache(cache_bytes)), y, tuple(wnids),
                    model_classes=_outputs(wnids, synsets, root) if outputs else None)


def _imagenet_like(name: str, doc: str):
    def build(path, *, size=224, resize=256, mode="colour", interpolation="bilinear", synsets=None,
              cache_bytes=CACHE_BYTES) -> FileSet:
        return _by_wnid(path, name, Decoder(size, resize, mode, interpolation), cache_bytes,
                        synsets)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = doc
    return kind(name)(build)


imagenet = _imagenet_like(
    "imagenet",
    """ImageNet-1k or a part of it: one folder a class, named by its wnid; sorted, these are the
    classes.

    Shorter side to ``resize`` 256 pixels, ``size`` 224 cut from the centre, ``interpolation``
    "bilinear" or "bicubic"; what a model was tested with is on its page. ``model_classes`` is the
    place of each wnid in the full list (``wnid_order``), so that a model with 1000 outputs is
    scored on these classes: ``image_set.class_logits``. Raises DataError for other folders, empty
    classes, wnids not in the list, and where the list is needed and not at hand.
    """)
imagenet_r = _imagenet_like("imagenet_r", "ImageNet-R, renditions of 200 classes (arXiv "
                                          "2006.16241); files and options as for ``imagenet``.")
imagenet_a = _imagenet_like("imagenet_a", "ImageNet-A, natural adversarial examples of 200 "
                                          "classes (arXiv 1907.07174); as ``imagenet``.")
imagenet_sketch = _imagenet_like("imagenet_sketch", "ImageNet-Sketch, 50 sketches of each class "
                                                    "(arXiv 1905.13549); as ``imagenet``.")


@kind("imagenet_v2")
def imagenet_v2(path, *, size=224, resize=256, mode="colour", interpolation="bilinear",
                cache_bytes=CACHE_BYTES) -> FileSet:
    """ImageNet-V2 (arXiv 1902.10811): folders named 0 to 999 by class index, taken as numbers, so
    that 2 comes before 10."""
    root = existing_folder(path, "imagenet_v2")
    folders = [
        entry.name for entry in os.scandir(root)
        if entry.is_dir() and not entry.name.startswith(".")
    ]
    wrong = [name for name in folders if not re.fullmatch("[0-9]{1,3}", name)]
    if wrong or not folders:
        raise DataError(
            f"imagenet_v2: {root} holds "
            f"{'the folders ' + ', '.join(sorted(wrong)[:5]) if wrong else 'no folders'}; "
            f"expected one "
            "folder a class, named 0 to 999")
    classes = tuple(sorted(folders, key=int))
    if len({int(name) for name in classes}) < len(classes):
        raise DataError(f"imagenet_v2: {root} holds a class number twice, with and without "
                        f"leading zeros")
    data = any_folder(root, size=size, resize=resize, mode=mode, interpolation=interpolation,
                      classes=classes, cache_bytes=cache_bytes)
    return replace(data, model_classes=torch.tensor([int(name) for name in classes]))


class CorruptedFolders:
    """``places[domain][severity]`` is a folder with the same relative paths in each; the clean
    images may be there too."""

    def __init__(self, places: dict[str, dict[int, Path]], names: list[str], decoder: Decoder,
                 cache: Cache, clean: Files | None):
        self.places = places
        self.names = names
        self.decoder = decoder
        self.cache = cache
        self.clean = clean

    def files(self, domain, severity) -> Files:
        return (self.clean if domain in CLEAN else Files(self.places[domain][int(severity)],
                                                         self.names, self.decoder, self.cache))

    def check_domain(self, domain, severity):
        if domain not in CLEAN:
            whole(domain, severity, sorted(self.places[domain]))
        elif self.clean is None:
            raise ValueError("folders of corrupted images hold no clean ones; name the folder of "
                             "the clean images with clean=")

    def read(self, rows, domain="none", severity=5.0):
        return self.files(domain, severity).read(rows)

    def everything(self) -> list[Files]:
        return ([
            self.files(domain, severity) for domain in self.places
            for severity in self.places[domain]
        ] + [self.clean] * bool(self.clean))

    def facts(self, rows):
        # of equal length each
        return self._named() + b"".join(files.facts(rows) for files in self.everything())

    def sizes(self, rows):
        return self._named() + b"".join(files.sizes(rows) for files in self.everything())

    def _named(self):
        return repr([(domain, sorted(found)) for domain, found in self.places.items()]).encode()

    def check(self, rows):
        return sum(files.check(rows) for files in self.everything())


def _severity_folders(root: Path, what: str) -> dict[str, dict[int, Path]]:
    """corruption -> severity -> folder, from root/corruption/severity or
    root/group/corruption/severity."""
    places: dict[str, dict[int, Path]] = {}

    def look(place, deeper):
        note(place)
        for entry in sorted(p for p in place.iterdir()
                            if p.is_dir() and not p.name.startswith(".")):
            note(entry)
            found = {
                int(p.name): p for p in entry.iterdir() if p.is_dir() and p.name in set("12345")
            }
            if found and entry.name in places:
                raise DataError(f"{what}: {entry.name} is there twice, in {entry} and "
                                f"{next(iter(places[entry.name].values())).parent}")
            if found:
                places[entry.name] = dict(sorted(found.items()))
            elif deeper:
                look(entry, False)

    look(root, True)
    if not places:
        raise DataError(f"{what}: {root} holds no folders corruption/severity/wnid, such as "
                        f"gaussian_noise/5/n01440764")
    return dict(sorted(places.items()))


def _same_files(places, what) -> list[str]:
    """The relative paths all folders share; DataError naming two that differ."""
    reference = None
    for found in places.values():
        for place in found.values():
            names = image_names(place)
            if reference is None:
                reference, first = names, place
            elif len(names) != len(reference):
                raise DataError(f"{what}: {first} has {len(reference)} images, {place} has "
                                f"{len(names)}; every corruption and severity needs the "
                                "same ones, or leave severities out with severities=")
            elif names != reference:
                odd = next(a for a, b in zip(names, reference, strict=True) if a != b)
                raise DataError(f"{what}: {place} has other images than {first}, {odd} for one")
    return reference


def _corrupted(path: Path, what: str, decoder: Decoder, clean_decoder: Decoder, severities, clean,
               cache_bytes, outputs) -> FileSet:
    root = existing_folder(path, what)
    places = _severity_folders(root, what)
    if severities is not None:
        parts = (re.split("[,x]", severities)
                 if isinstance(severities, str) else np.atleast_1d(severities).tolist())
        wrong = next((part for part in parts if str(part).strip() not in set("12345")), None)
        if wrong is not None:
            raise ValueError(f"severities must be whole numbers from 1 to 5, as in '3,5', got "
                             f"{severities!r}")
        wanted = {int(part) for part in parts}
        lacking = next((f"{domain}/{s}" for domain in places
                        for s in sorted(wanted) if s not in places[domain]), None)
        if lacking:
            raise DataError(f"{what}: {root} has no folder {lacking}, but severities={severities} "
                            f"asks for it")
        places = {
            domain: {s: place for s, place in found.items() if s in wanted}
            for domain, found in places.items()
        }
    names = sorted(_same_files(places, what), key=natural)
    first = next(iter(next(iter(places.values())).values()))
    wnids = _wnids(first, what)
    number = {wnid: k for k, wnid in enumerate(wnids)}
    y = [number[name.split("/")[0]] for name in names]
    cache = Cache(cache_bytes)
    plain = None
    if clean is not None:
        plain = Files(existing_folder(clean, f"{what}, clean="), names, clean_decoder, cache)
        gone = next((name for name in names if not (plain.root / name).is_file()), None)
        if gone:
            raise DataError(f"{what}: the clean folder {plain.root} has no {gone}; it must hold "
                            f"the same files as the corrupted folders")
    source = CorruptedFolders(places, names, decoder, cache, plain)
    shapes = {
        files.shape(1 + HEADERS // len(source.everything())): files.root
        for files in source.everything()
    }
    if len(shapes) > 1:
        sizes = " but ".join(f"{place} gives {h} x {w}" for (_, h, w), place in shapes.items())
        raise DataError(f"{what}: {sizes}; give one size=")
    return FileSet("", torch.tensor(y), tuple(wnids), next(iter(shapes)), source,
                   torch.arange(len(y)), tuple(places), model_classes=outputs(wnids))


@kind("imagenet_c")
def imagenet_c(path, *, size=224, resize=None, mode="colour", interpolation="bilinear",
               severities=None, clean=None, synsets=None, cache_bytes=CACHE_BYTES) -> FileSet:
    """ImageNet-C (arXiv 1903.12261): corruption/severity/wnid/*.JPEG, also inside the group
    folders (noise/, blur/, ...) of the published archives. The files are 224 x 224 already, so
    they are cut to ``size`` without resizing.

    ``domains`` are the corruptions found; ``severities`` "5" or "3,5" leaves the others unopened,
    which is quicker: opening lists every file once. ``clean`` is the ImageNet validation folder
    with the same relative paths and gives the domain "none", resized to 256 and cut to ``size``.
    ``model_classes`` and ``synsets`` as in ``imagenet``. Raises DataError where corruptions or
    severities hold different files.
    """
    decoder = Decoder(size, resize, mode, interpolation)
    plain = replace(decoder, resize=max(256, *decoder.size) if decoder.size else None)
    return _corrupted(path, "imagenet_c", decoder, plain, severities, clean, cache_bytes,
                      lambda wnids: _outputs(wnids, synsets, path))


@kind("tiny_imagenet_c")
def tiny_imagenet_c(path, *, mode="colour", severities=None, clean=None,
                    cache_bytes=CACHE_BYTES) -> FileSet:
    """Tiny-ImageNet-C: corruption/severity/wnid/*.JPEG of 64 x 64 pixels, 200 classes in the order
    of their sorted wnids. ``severities`` and ``clean`` as in ``imagenet_c``."""
    decoder = Decoder(64, None, mode)
    return _corrupted(path, "tiny_imagenet_c", decoder, decoder, severities, clean, cache_bytes,
                      lambda wnids: None)
