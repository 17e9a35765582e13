"""Image sets on disk: decoded when asked for, so that memory stays constant however large the set is.

A ``FileSet`` is labels and row numbers; its ``source`` turns rows into pixels. Sources here: image files (``Files``) and torch
data sets (``wrap``); those of the published benchmarks are in ``published_sets``. Pictures are decoded by Pillow in a few
threads, resized and cropped like torchvision's ``Resize`` and ``CenterCrop``, and kept in a cache of limited size.
"""
from __future__ import annotations

import contextlib
import csv
import functools
import hashlib
import inspect
import os
import re
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import torch
from torch import Tensor

from .datasets import CLEAN, BaseSet, DataError, check_labels, refuse_html

READABLE = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
BESIDE = (".txt", ".csv", ".tsv", ".json", ".md", ".xml", ".yaml", ".yml", ".db", ".ini", ".pdf")  # may lie beside the images
CACHE_BYTES = 256 * 2**20
WORKERS = min(8, os.cpu_count() or 1)
LARGE_FILE = 8192
HEADERS = 1000  # files looked into when a set is opened, where not all have to be


@dataclass(frozen=True, eq=False, repr=False)
class FileSet(BaseSet):
    """Images that ``source`` reads when they are asked for; the rows of ``index`` belong to this set.

    ``source`` answers ``read(rows, domain, severity)`` -> uint8 or float array (n, C, H, W), ``check_domain(domain, severity)``,
    ``facts(rows)`` -> bytes for the fingerprint and ``check(rows)``; it holds no open file, so a set can be pickled.
    ``member`` int64 (N,), where the domains are parts of the set: which one each row belongs to.
    """

    name: str
    y: Tensor
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    source: object
    index: Tensor
    domains: tuple[str, ...] = ()
    member: Tensor | None = None
    model_classes: Tensor | None = None

    def __post_init__(self):
        check_labels(self.name, self.y, self.classes)

    def rows(self, domain: str = "none") -> Tensor | None:
        """Rows that belong to a domain, int64, ascending; None, for all, where domains show every image ("-C" sets)."""
        self._check_name(domain)
        if self.member is None or domain in CLEAN:
            return None
        return (self.member == self.domains.index(domain)).nonzero()[:, 0]

    def _check_name(self, domain):
        if domain not in CLEAN and domain not in self.domains:
            held = f"only {', '.join(self.domains)}" if self.domains else "only clean ones; make the shift with corruptions.corrupt"
            raise ValueError(f"{self.name} holds no images of {domain!r}, {held}")

    def check_domain(self, domain: str = "none", severity: float = 5.0) -> None:
        """Raise ValueError where ``images`` could not give this domain at this severity."""
        self._check_name(domain)
        self.source.check_domain(domain, severity)

    def images(self, index=slice(None), device="cpu", domain: str = "none", severity: float = 5.0) -> Tensor:
        """The chosen images as float32 in [0, 1], shape (n, C, H, W), read from the files of ``domain`` ("none": as stored,
        or the clean files of a "-C" set). Raises ValueError for what the set does not hold, DataError for a damaged file."""
        self.check_domain(domain, severity)
        rows = self.index[index.cpu() if isinstance(index, Tensor) else index].reshape(-1)
        if self.member is not None and domain not in CLEAN:
            chosen = self.member[index.cpu() if isinstance(index, Tensor) else index]
            if (chosen != self.domains.index(domain)).any():
                raise ValueError(f"{self.name}: some of these rows do not belong to {domain!r}; take them from rows({domain!r})")
        if not len(rows):
            return torch.empty(0, *self.shape, device=device)
        pixels = torch.from_numpy(self.source.read(rows.tolist(), domain, severity)).to(device)
        return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels

    def take(self, index) -> FileSet:
        """The same set with only the chosen rows."""
        return replace(self, y=self.y[index], index=self.index[index], member=None if self.member is None else self.member[index])

    def fingerprint(self) -> str:
        """sha256 over shape, class names, labels, and the source's facts: relative paths, sizes in bytes and how the images
        are cropped. Neither the place of the folder nor times of change enter. Worked out once and kept."""
        if "_fingerprint" not in self.__dict__:
            digest = hashlib.sha256(repr((tuple(self.shape), self.classes, self.domains)).encode())
            for part in (self.y, self.index.new_empty(0) if self.member is None else self.member):
                digest.update(part.contiguous().numpy())
            digest.update(self.source.facts(self.index.tolist()))
            self.__dict__["_fingerprint"] = digest.hexdigest()
        return self.__dict__["_fingerprint"]

    def check(self) -> int:
        """Decode everything, all domains and severities, and return how many images that were.

        Raises DataError naming up to ten of the files that cannot be decoded.
        """
        return self.source.check(self.index.tolist())


# --- one picture ----------------------------------------------------------------------------------------------

def as_size(size) -> tuple[int, int] | None:
    """(height, width) from 64, "64", "180x240", a pair, or None and "none" for 'as stored'."""
    if size is None or size == "none":
        return None
    try:
        parts = [int(part) for part in (str(size).lower().split("x") if isinstance(size, str | int) else size)]
    except (TypeError, ValueError):
        parts = []
    if len(parts) not in (1, 2) or min(parts) < 1:
        raise ValueError(f"size must be a side in pixels, height x width as in '180x240', or none, got {size!r}")
    return parts[0], parts[-1]


@dataclass(frozen=True)
class Decoder:
    """How a file becomes an image.

    size           (H, W) cut from the centre, None: as stored
    resize         before that: "cover", the smallest size that covers ``size``; a number, that many pixels for the shorter
                   side; None, no change
    mode           "colour" (3 channels) or "grey" (1 channel, ITU-R 601 luma)
    interpolation  "bilinear" or "bicubic", both antialiased

    The rotation in a camera's EXIF entry is ignored, alpha is dropped, as in torchvision's usual pipeline.
    """

    size: tuple[int, int] | None = None
    resize: int | str | None = "cover"
    mode: str = "colour"
    interpolation: str = "bilinear"

    def __post_init__(self):
        object.__setattr__(self, "size", as_size(self.size))
        resize = None if self.resize == "none" else self.resize
        if resize not in (None, "cover"):
            if not str(resize).isdecimal() or int(resize) < 1:
                raise ValueError(f"resize must be a number of pixels, 'cover' or none, got {resize!r}")
            resize = int(resize)
            if self.size is None:
                raise ValueError("resize sets the shorter side only; give size= too, the part that is cut from the centre")
            if resize < max(self.size):
                raise ValueError(f"resize={resize} is smaller than size={'x'.join(map(str, self.size))}, there is nothing to cut from")
        object.__setattr__(self, "resize", resize)
        for name, known in (("mode", ("colour", "grey")), ("interpolation", ("bilinear", "bicubic"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be {' or '.join(known)}, got {getattr(self, name)!r}")

    @property
    def channels(self) -> int:
        return 1 if self.mode == "grey" else 3

    def open(self, path: Path):
        """The file as a Pillow image of which only the header was read; DataError where that fails."""
        from PIL import Image, UnidentifiedImageError

        try:
            image = Image.open(path)
        except FileNotFoundError as why:
            raise DataError(f"the image file {path} is missing") from why
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as why:
            with contextlib.suppress(OSError), path.open("rb") as file:
                head = file.read(64)
                refuse_html(head, path)
                if not head:
                    raise DataError(f"the image file {path} is empty; fetch it again") from why
            raise DataError(f"{path} cannot be read as an image ({why}); fetch it again or remove it") from why
        if image.mode.startswith(("I", "F")):
            image.close()
            raise DataError(f"{path} has more than 8 bits a channel ({image.mode}); store it with 8 bits")
        return image

    def too_small(self, path, height, width) -> None:
        if self.size and self.resize is None and (height < self.size[0] or width < self.size[1]):
            raise DataError(f"{path} has {height} x {width} pixels, fewer than the {self.size[0]} x {self.size[1]} to be cut out; "
                            "give a smaller size= or a resize=")

    def __call__(self, path: Path) -> np.ndarray:
        """uint8 (C, H, W)."""
        from PIL import Image

        with self.open(path) as image:
            self.too_small(path, image.height, image.width)
            try:
                image = image.convert("L" if self.mode == "grey" else "RGB")
            except (OSError, SyntaxError, ValueError, EOFError, IndexError, Image.DecompressionBombError) as why:
                raise DataError(f"{path} is damaged or cut short ({why}); fetch it again or remove it") from why
            if self.size:
                image = self._cut(image)
            pixels = np.asarray(image)
        return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))

    def _cut(self, image):
        from PIL import Image

        (h, w), (height, width) = self.size, (image.height, image.width)
        if self.resize is not None:
            short = min(height, width) if self.resize != "cover" else 0
            if short:
                new = tuple(self.resize if side == short else int(self.resize * side / short) for side in (width, height))
            else:
                factor = max(h / height, w / width)
                new = (max(w, round(width * factor)), max(h, round(height * factor)))
            if new != (width, height):
                image = image.resize(new, getattr(Image.Resampling, self.interpolation.upper()))
        left, top = round((image.width - w) / 2), round((image.height - h) / 2)
        return image if image.size == (w, h) else image.crop((left, top, left + w, top + h))


class Cache:
    """The arrays used last, up to ``limit`` bytes; safe between threads, left empty in a pickled copy."""

    def __init__(self, limit: int):
        self.limit, self.bytes, self.kept, self.lock = int(limit), 0, OrderedDict(), threading.Lock()

    def __reduce__(self):
        return Cache, (self.limit,)

    def get(self, key, make: Callable[[], np.ndarray]) -> np.ndarray:
        with self.lock:
            if key in self.kept:
                self.kept.move_to_end(key)
                return self.kept[key]
        value = make()
        if value.nbytes <= self.limit:
            with self.lock:
                if key not in self.kept:
                    self.kept[key] = value
                    self.bytes += value.nbytes
                while self.bytes > self.limit:
                    self.bytes -= self.kept.popitem(last=False)[1].nbytes
        return value


def spread(n: int, most: int) -> Sequence[int]:
    """Up to ``most`` of the numbers 0 .. n-1, evenly spaced, the first and the last among them."""
    return range(n) if n <= most else sorted(set(np.linspace(0, n - 1, most).astype(int).tolist()))


class Files:
    """Image files: row k is ``root / paths[k]``. A plain source holds no domains; the rows of sub-domains are as stored."""

    def __init__(self, root: Path, paths: list[str], decoder: Decoder, cache: Cache):
        self.root, self.paths, self.decoder, self.cache = Path(root), paths, decoder, cache

    def check_domain(self, domain, severity):
        pass

    def one(self, row: int) -> np.ndarray:
        path = self.root / self.paths[row]
        return self.cache.get((str(path), self.decoder), lambda: self.decoder(path))

    def read(self, rows: Sequence[int], domain="none", severity=5.0) -> np.ndarray:
        pixels = self._each(self.one, rows)
        odd = next((k for k, one in enumerate(pixels) if one.shape != pixels[0].shape), None)
        if odd is not None:
            self._differ(rows[0], pixels[0].shape[1:], rows[odd], pixels[odd].shape[1:])
        return np.stack(pixels)

    def _each(self, work, rows):
        if WORKERS == 1 or len(rows) < 2 * WORKERS or not self._large(rows[0]):
            return [work(row) for row in rows]
        share = -(-len(rows) // WORKERS)
        with ThreadPoolExecutor(WORKERS) as pool:
            parts = pool.map(lambda k: [work(row) for row in rows[k:k + share]], range(0, len(rows), share))
            return [one for part in parts for one in part]

    def _large(self, row) -> bool:
        """Whether decoding takes longer than handing Python's lock between threads; small files are quicker in one thread."""
        try:
            return os.stat(self.root / self.paths[row]).st_size >= LARGE_FILE
        except OSError:
            return False

    def _differ(self, row, shape, other, other_shape):
        sizes = " but ".join(f"{self.root / self.paths[k]} has {h} x {w} pixels" for k, (h, w) in ((row, shape), (other, other_shape)))
        raise DataError(f"{sizes}; give one size for all, as in size=64 or size=180x240")

    def shape(self, most: int = HEADERS) -> tuple[int, int, int]:
        """(C, H, W) of the images. The headers of up to ``most`` files are read; of all where the size follows from them."""
        def header(row):
            with self.decoder.open(self.root / self.paths[row]) as image:
                self.decoder.too_small(self.root / self.paths[row], image.height, image.width)
                return image.height, image.width

        rows = spread(len(self.paths), most if self.decoder.size else len(self.paths))
        sizes = self._each(header, rows)
        if self.decoder.size:
            return (self.decoder.channels, *self.decoder.size)
        odd = next((k for k, size in enumerate(sizes) if size != sizes[0]), None)
        if odd is not None:
            self._differ(rows[0], sizes[0], rows[odd], sizes[odd])
        return (self.decoder.channels, *sizes[0])

    def facts(self, rows: Sequence[int]) -> bytes:
        digest = hashlib.sha256(repr(self.decoder).encode())
        try:
            for row in rows:
                digest.update(repr((self.paths[row], os.stat(self.root / self.paths[row]).st_size)).encode())
        except OSError as why:
            raise DataError(f"a file of the image set is missing ({why}); restore it or open the set again") from why
        return digest.digest()

    def check(self, rows: Sequence[int]) -> int:
        def attempt(row):
            try:
                return self.decoder(self.root / self.paths[row]).shape
            except DataError as why:
                return str(why)

        found = [one for start in range(0, len(rows), 1000) for one in self._each(attempt, rows[start:start + 1000])]
        shape = next((one for one in found if not isinstance(one, str)), None)
        bad = [one if isinstance(one, str) else f"{self.root / self.paths[row]} has {one[1]} x {one[2]} pixels, not {shape[1]} x {shape[2]}"
               for row, one in zip(rows, found, strict=True) if one != shape]
        if bad:
            more = f"\nand {len(bad) - 10} more" if len(bad) > 10 else ""
            raise DataError(f"{len(bad)} of {len(rows)} images cannot be used:\n" + "\n".join(bad[:10]) + more)
        return len(rows)


# --- finding files --------------------------------------------------------------------------------------------

def existing_folder(path: str | Path, what: str) -> Path:
    """The folder; DataError where there is none."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise DataError(f"{what}: {folder} is {'a file, not a folder' if folder.exists() else 'not there'}; "
                        "give the path of the folder that holds the images")
    return folder


def natural(text: str) -> tuple:
    """Sorting key in which numbers count as numbers: frame_2 before frame_10."""
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"([0-9]+)", text) if part), text


def image_names(folder: Path) -> list[str]:
    """Paths of all image files below ``folder``, relative to it, with "/" between the parts, in text order.

    Hidden files and files that usually lie beside images (.txt, .csv, ...) are passed over. Raises DataError for a folder
    without images and for files of other types, which are listed.
    """
    names, others = [], Counter()
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = os.path.relpath(place, folder).replace(os.sep, "/")
        for name in files:
            ending = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if ending in READABLE:
                names.append(name if below == "." else f"{below}/{name}")
            elif ending not in BESIDE:
                others[ending or "without ending"] += 1
    listed = ", ".join(f"{n} {ending}" for ending, n in sorted(others.items()))
    if others:
        raise DataError(f"{folder} holds files that cannot be read as images: {listed}. Readable: {' '.join(READABLE)}; "
                        "convert the others or move them elsewhere")
    if not names:
        raise DataError(f"{folder} holds no images; readable are {' '.join(READABLE)}")
    return sorted(names)


def as_classes(classes, folder: Path) -> tuple[str, ...] | None:
    """Class names from a sequence, "cat,dog", or the name of a text file with one a line (below ``folder`` or anywhere)."""
    if classes is None:
        return None
    if isinstance(classes, str | Path):
        text = str(classes)
        if text.endswith(".txt"):
            path = next((p for p in (folder / text, Path(text).expanduser()) if p.is_file()), None)
            if path is None:
                raise DataError(f"the file of class names {text} is neither in {folder} nor in the working directory")
            content = path.read_bytes()
            refuse_html(content[:64], path)
            classes = [line.strip() for line in content.decode("utf-8-sig").splitlines() if line.strip()]
        else:
            classes = text.split(",")
    classes = tuple(str(name) for name in classes)
    if len(set(classes)) < len(classes) or not classes:
        raise DataError(f"class names must be there and differ, got {', '.join(classes) or 'none'}")
    return classes


# --- kinds: functions that ``datasets.load`` finds by name ----------------------------------------------------

KINDS: dict[str, Callable[..., BaseSet]] = {}
NOT_CONTENT = ("cache_bytes",)


def _text(value) -> str:
    if isinstance(value, BaseSet):
        return value.name
    if isinstance(value, tuple | list):
        if any("," in str(part) for part in value):
            raise ValueError(f"a name with a comma cannot be part of an option, got {value!r}; put the names into a text file")
        sizes = all(isinstance(part, int) for part in value)
        return ("x" if sizes and len(value) == 2 else ",").join(map(str, value))
    return "none" if value is None else str(int(value)) if isinstance(value, bool) else str(value)


def kind(name: str):
    """Register a function ``(path, *, options) -> set`` under ``name``; the set it gives is named ``name:path?options`` with
    the options that differ from their defaults, so that ``datasets.load`` rebuilds it. Unknown options raise ValueError."""
    def register(build):
        known = {p.name: p.default for p in inspect.signature(build).parameters.values() if p.kind is p.KEYWORD_ONLY}

        @functools.wraps(build)
        def named(path, **options):
            wrong = [option for option in options if option not in known]
            if wrong:
                raise ValueError(f"{name} has no option {', '.join(map(repr, wrong))}; it has: {', '.join(known) or 'none'}")
            if not str(path):
                raise ValueError(f"{name}: a path is missing; write {name}:/path/to/the/files")
            given = {key: _text(value) for key, value in options.items() if key not in NOT_CONTENT and _text(value) != _text(known[key])}
            query = "?" + urlencode(given, safe="/:,~") if given else ""
            return replace(build(Path(path).expanduser(), **options), name=f"{name}:{path}{query}")

        KINDS[name] = named
        return named
    return register


@kind("folder")
def folder(path, *, size=None, resize="cover", mode="colour", interpolation="bilinear", order="name", labels=None, classes=None,
           flat=False, cache_bytes=CACHE_BYTES) -> FileSet:
    """Any folder of images; the rows are in recorded order.

    Subfolders are classes, in text order as in torchvision's ``ImageFolder``; a folder without subfolders, or ``flat``, has no
    labels (-1). ``labels`` names a CSV file of lines ``file,label`` instead, for all files or for some; labels are names or
    class indices. ``classes`` gives names (or their order): a sequence, "cat,dog", or a text file with one a line.
    ``order``: "name", natural order of the relative path, frame_2 before frame_10; "file", the same of the file name alone;
    "time", time of the file's last change, then name. ``size``, ``resize``, ``mode`` and ``interpolation`` as in ``Decoder``;
    ``size`` is needed where the files differ in size.

    Raises DataError for a missing or empty folder, files of types that cannot be read, sizes that differ, damaged files,
    and labels that fit no file or no class.
    """
    root = existing_folder(path, "folder")
    decoder = Decoder(size, resize, mode, interpolation)
    names = _ordered(image_names(root), root, order)
    classes = as_classes(classes, root)
    if labels is not None:
        y, classes = _labels_from_csv(root, labels, names, classes)
    elif flat in (True, "1", "true") or not any("/" in name for name in names):
        y, classes = [-1] * len(names), classes or ()
    else:
        loose = next((name for name in names if "/" not in name), None)
        if loose:
            raise DataError(f"{root} holds class folders and also images of its own ({loose}); move these into a class folder, or "
                            "use flat=1 for a set without labels, or labels= for a table")
        found = sorted({name.split("/")[0] for name in names})
        bare = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".") and p.name not in found)
        if bare:
            raise DataError(f"{root} holds the class folders {', '.join(bare[:10])} without any image; fill or remove them")
        classes = classes or tuple(found)
        unknown = [name for name in found if name not in classes]
        if unknown:
            raise DataError(f"{root} holds the folders {', '.join(unknown[:10])}, which are none of the classes {', '.join(classes[:20])}")
        number = {name: k for k, name in enumerate(classes)}
        y = [number[name.split("/")[0]] for name in names]
    return file_set(Files(root, names, decoder, Cache(cache_bytes)), y, classes)


def file_set(source: Files, y: list[int], classes: tuple[str, ...], **more) -> FileSet:
    """A FileSet of all rows of ``source``."""
    return FileSet("", torch.tensor(y, dtype=torch.int64), tuple(classes), source.shape(), source, torch.arange(len(y)), **more)


def _ordered(names: list[str], root: Path, order: str) -> list[str]:
    keys = {"name": natural, "file": lambda name: (natural(name.rpartition("/")[2]), natural(name)),
            "time": lambda name: ((root / name).stat().st_mtime_ns, natural(name))}
    if order not in keys:
        raise ValueError(f"order must be one of {', '.join(keys)}, got {order!r}")
    return sorted(names, key=keys[order])


def _labels_from_csv(root, labels, names, classes):
    path = next((p for p in (root / str(labels), Path(labels).expanduser()) if p.is_file()), None)
    if path is None:
        raise DataError(f"the table of labels {labels} is neither in {root} nor in the working directory")
    content = path.read_bytes()
    refuse_html(content[:64], path)
    try:
        table = [row for row in csv.reader(content.decode("utf-8-sig").splitlines()) if row]
    except (UnicodeDecodeError, csv.Error) as why:
        raise DataError(f"{path} is not a CSV file in UTF-8 ({why})") from why
    given, places = {}, set(names)
    for number, row in enumerate(table, 1):
        if len(row) != 2:
            raise DataError(f"{path}: row {number} has {len(row)} entries, not the two of 'file,label': {','.join(row)[:80]}")
        file, label = (part.strip() for part in row)
        if number == 1 and file not in places and (file.lower(), label.lower()) == ("file", "label"):
            continue
        if file not in places:
            raise DataError(f"{path}: row {number} names {file!r}, which is no image below {root}")
        if file in given:
            raise DataError(f"{path}: row {number} names {file!r} a second time")
        given[file] = label
    present = sorted({label for label in given.values() if label})
    if not present:
        raise DataError(f"{path} holds no labels")
    numeric = all(label.isdecimal() for label in present)
    if classes is None:
        classes = tuple(map(str, range(max(map(int, present)) + 1))) if numeric else tuple(present)
    number = {name: k for k, name in enumerate(classes)}
    if numeric and not set(present) <= set(classes):
        number = {str(k): k for k in range(len(classes))}
    wrong = [label for label in present if label not in number]
    if wrong:
        raise DataError(f"{path}: the labels {', '.join(wrong[:10])} are none of the {len(classes)} classes {', '.join(classes[:20])}")
    return [number.get(given.get(name), -1) for name in names], classes


@kind("lists")
def lists(path, *, files=None, images=None, classes=None, map=None, size=224, resize=256, mode="colour",
          interpolation="bilinear", cache_bytes=CACHE_BYTES) -> FileSet:
    """Text files of lines ``path label``, one file a domain, as DomainNet-126 and ImageNet-D109 come.

    ``files`` "real_list.txt,sketch_list.txt", default: every ``*_list.txt`` in the folder, or where there is none every
    ``.txt`` file. The domain is the file's name without ``_list``. Paths are relative to ``images``, default: the folder.
    ``classes`` as in ``folder``; default: the numbers 0 to the largest label. ``map`` names a text file of lines
    ``class output output ...`` from classes (index or name) to the outputs of a larger model: see ``datasets.class_logits``.

    Raises DataError for missing lists or images, lines that do not fit, labels out of range.
    """
    root = existing_folder(path, "lists")
    place = existing_folder(images, "lists") if images else root
    chosen = files.split(",") if isinstance(files, str) else list(files or ())
    if not chosen:
        texts = sorted(p.name for p in root.glob("*.txt") if p.name not in (str(classes), str(map)))
        chosen = [name for name in texts if name.endswith("_list.txt")] or texts
    if not chosen:
        raise DataError(f"{root} holds no lists; expected one text file a domain, such as real_list.txt, of lines 'path label'")
    names, y, member = [], [], []
    for domain, name in enumerate(chosen):
        for file, label in _lines_of(root / name):
            names.append(file)
            y.append(label)
            member.append(domain)
    classes = as_classes(classes, root) or tuple(str(k) for k in range(max(y) + 1))
    if max(y) >= len(classes):
        row = y.index(max(y))
        raise DataError(f"{root / chosen[member[row]]}: {names[row]} has the label {y[row]}, but there are {len(classes)} classes")
    gone = [name for name in names if not (place / name).is_file()]
    if gone:
        raise DataError(f"{len(gone)} of {len(names)} listed images are not below {place}, the first: {gone[0]}; "
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
    content = path.read_bytes()
    refuse_html(content[:64], path)
    rows = []
    for number, line in enumerate(content.decode("utf-8-sig", "replace").splitlines(), 1):
        if not line.strip():
            continue
        file, _, label = line.strip().rpartition(" ")
        if not file or not label.isdecimal():
            raise DataError(f"{path}: line {number} is not 'path label' with a class index: {line[:80]!r}")
        rows.append((file.strip(), int(label)))
    if not rows:
        raise DataError(f"the list {path} is empty")
    return rows


def read_map(root: Path, name: str | Path, classes: tuple[str, ...]) -> Tensor:
    """``model_classes`` from a text file of lines ``class output output ...``: int64 (K,), or (K, M) padded with -1 where a
    class has several outputs. Raises DataError for a class without a line, twice, or unknown, and for an output used twice."""
    path = next((p for p in (root / str(name), Path(name).expanduser()) if p.is_file()), None)
    if path is None:
        raise DataError(f"the map of classes {name} is neither in {root} nor in the working directory")
    content, found, used = path.read_bytes(), {}, set()
    refuse_html(content[:64], path)
    number = {**{str(k): k for k in range(len(classes))}, **{name: k for k, name in enumerate(classes)}}
    for line, text in enumerate(content.decode("utf-8-sig", "replace").splitlines(), 1):
        first, *outputs = text.replace(",", " ").split() or [""]
        if not first:
            continue
        if first not in number or not outputs or not all(output.isdecimal() for output in outputs):
            raise DataError(f"{path}: line {line} is not 'class output output ...' with one of the {len(classes)} classes: {text[:80]!r}")
        again = used.intersection(outputs) or ({first} if number[first] in found else set())
        if again or len(set(outputs)) < len(outputs):
            raise DataError(f"{path}: line {line} names {', '.join(sorted(again)) or 'an output'} a second time")
        used.update(outputs)
        found[number[first]] = [int(output) for output in outputs]
    lacking = [classes[k] for k in range(len(classes)) if k not in found]
    if lacking:
        raise DataError(f"{path} has no line for {', '.join(lacking[:10])}")
    most = max(len(outputs) for outputs in found.values())
    table = torch.tensor([found[k] + [-1] * (most - len(found[k])) for k in range(len(classes))])
    return table[:, 0] if most == 1 else table


# --- any torch data set ---------------------------------------------------------------------------------------

class Wrapped:
    """Reads one item after another: a foreign data set need not be safe between threads."""

    def __init__(self, dataset, name: str):
        self.dataset, self.name, self.shape = dataset, name, None

    def check_domain(self, domain, severity):
        pass

    def item(self, row: int):
        """(image, label) of a row; label -1 where there is none."""
        item = self.dataset[row]
        image, label = (item[0], item[1] if len(item) > 1 else -1) if isinstance(item, tuple | list) else (item, -1)
        try:
            label = -1 if label is None else int(label)
        except (TypeError, ValueError) as why:
            raise DataError(f"{self.name}: the label of item {row} is {label!r}, not a class index; give labels= to wrap") from why
        return self.pixels(image, row), label

    def pixels(self, image, row: int) -> np.ndarray:
        """uint8 or float32 (C, H, W) from a PIL image, a tensor (C, H, W) or an array (H, W, C)."""
        if hasattr(image, "convert"):
            image = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
        if isinstance(image, Tensor):
            image = image.detach().cpu().numpy()
        elif isinstance(image, np.ndarray) and image.ndim == 3:
            image = image.transpose(2, 0, 1)
        if not isinstance(image, np.ndarray) or image.ndim not in (2, 3):
            raise DataError(f"{self.name}: item {row} is no image but {type(image).__name__} {getattr(image, 'shape', '')}; expected (image, "
                            "label) or image, with a PIL image, a tensor (C, H, W) or an array (H, W, C)")
        image = image[None] if image.ndim == 2 else image
        if image.dtype != np.uint8:
            if image.dtype.kind != "f":
                raise DataError(f"{self.name}: item {row} has pixels of type {image.dtype}; give bytes 0 to 255 or floats in [0, 1]")
            image = image.astype(np.float32)
            if not (image.min() >= 0 and image.max() <= 1):
                raise DataError(f"{self.name}: item {row} has values from {image.min():.3g} to {image.max():.3g}, not in [0, 1]; leave the "
                                "normalisation out of the data set's transform, it belongs into the model (with_input_card)")
        if self.shape not in (None, image.shape):
            raise DataError(f"{self.name}: item {row} has the shape {image.shape}, item 0 {self.shape}; resize in the data set's transform")
        return np.ascontiguousarray(image)

    def read(self, rows, domain="none", severity=5.0):
        return np.stack([self.item(row)[0] for row in rows])

    def facts(self, rows):
        digest = hashlib.sha256(repr(rows).encode())
        for k in spread(len(rows), 64):
            digest.update(self.item(rows[k])[0])
        return digest.digest()

    def check(self, rows):
        for row in rows:
            self.item(row)
        return len(rows)


def _stored_labels(dataset):
    """The labels a torchvision data set keeps, without decoding; None where they are not kept or are transformed."""
    if isinstance(dataset, torch.utils.data.Subset):
        labels = _stored_labels(dataset.dataset)
        return None if labels is None else [labels[k] for k in dataset.indices]
    if getattr(dataset, "target_transform", None) is not None:
        return None
    for name in ("targets", "labels"):
        labels = getattr(dataset, name, None)
        if isinstance(labels, list | tuple | np.ndarray | Tensor) and len(labels) == len(dataset):
            try:
                return [int(label) for label in labels]
            except (TypeError, ValueError):
                return None
    return None


def wrap(dataset, *, labels=None, classes=None, name: str | None = None) -> FileSet:
    """Any map-style torch data set of (image, label) or image as an image set, read lazily.

    Images: PIL, uint8, or float in [0, 1]; tensors (C, H, W), arrays (H, W, C); all of one shape and the same each time.
    Labels: ``labels`` (N,), else the data set's own ``targets`` where they agree with its first, middle and last item,
    else every item is read once. Class names: ``classes``, else the data set's, else the numbers up to the largest label.
    The fingerprint covers the labels and the pixels of 64 images spread over the set. A stream over it cannot be rebuilt
    from text.

    Raises DataError for values outside [0, 1] (normalisation belongs into the model), shapes that differ, items that
    change from one reading to the next, labels out of range.
    """
    name = name or f"wrapped {type(dataset).__name__}"
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise ValueError(f"{name}: wrap needs a map-style data set, with len() and [index]; collect the items of an iterable one first")
    n = len(dataset)
    if not n:
        raise DataError(f"{name} is empty")
    source = Wrapped(dataset, name)
    first = source.item(0)
    source.shape = first[0].shape
    if not np.array_equal(first[0], source.item(0)[0]):
        raise DataError(f"{name} gives another image each time item 0 is read; leave random augmentation out of its transform")
    if labels is None:
        labels = _stored_labels(dataset)
        if labels is not None and any(source.item(k)[1] != labels[k] for k in {0, n // 2, n - 1}):
            labels = None
        labels = [source.item(k)[1] for k in range(n)] if labels is None else labels
    y = torch.as_tensor(labels).long().clone()
    if y.shape != (n,):
        raise DataError(f"{name} has {n} images, but labels of shape {tuple(y.shape)}")
    inner = dataset
    while isinstance(inner, torch.utils.data.Subset):
        inner = inner.dataset
    classes = classes or getattr(inner, "classes", None) or [str(k) for k in range(int(y.max()) + 1)]
    return FileSet(name, y, tuple(map(str, classes)), tuple(source.shape), source, torch.arange(n))
