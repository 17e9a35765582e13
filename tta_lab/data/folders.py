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
import io
import numbers
import os
import re
import threading
import unicodedata
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..core import places
from ..core.arguments import flag, path_of, whole
from .contents import WORKERS, digests, hashed, note, noting, signature
from .image_set import CLEAN, PATH_OPTIONS, BaseSet, DataError, canonical, check_labels, refuse_html

READABLE = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
BESIDE = (".txt", ".csv", ".tsv", ".json", ".md", ".xml", ".yaml", ".yml", ".db", ".ini", ".pdf")  # may lie beside the images
CACHE_BYTES = 256 * 2**20
LARGE_FILE = 8192
HEADERS = 1000  # files looked into when a set is opened, where not all have to be


@dataclass(frozen=True, eq=False, repr=False)
class FileSet(BaseSet):
    """Images that ``source`` reads when they are asked for; the rows of ``index`` belong to this set.

    ``source`` answers ``read(rows, domain, severity)`` -> uint8 or float array (n, C, H, W), ``check_domain(domain, severity)``,
    ``facts(rows)`` -> bytes for the fingerprint, which follow the content, and ``check(rows)``; it holds no open file, so a set
    can be pickled.
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
        """sha256 over shape, class names, labels, and the source's facts: relative paths, content of the files and how the images
        are cropped. Neither the place of the folder nor times of change enter. Files that changed since they were last read for
        it are read again (`contents.digests`)."""
        return self._digest(self.source.facts(self.index.tolist()))

    def old_fingerprint(self) -> str:
        """The fingerprint as earlier versions wrote it, in which files counted by name and size: for what was stored then."""
        sizes = getattr(self.source, "sizes", self.source.facts)
        return self._digest(sizes(self.index.tolist()))

    def _digest(self, facts: bytes) -> str:
        digest = hashlib.sha256(repr((tuple(self.shape), self.classes, self.domains)).encode("utf-8", "surrogateescape"))
        for part in (self.y, self.index.new_empty(0) if self.member is None else self.member):
            digest.update(part.contiguous().numpy())
        digest.update(facts)
        return digest.hexdigest()

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
        one = isinstance(size, str | numbers.Number)
        parts = [whole("size", int(p) if isinstance(p, str) else p) for p in (str(size).lower().split("x") if one else size)]
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
        limit = int(limit) if isinstance(limit, str) and limit.isdecimal() else limit
        self.limit, self.bytes, self.kept, self.lock = whole("cache_bytes", limit, 0), 0, OrderedDict(), threading.Lock()

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
        return self.cache.get((str(path), signature(path), self.decoder), lambda: self.decoder(path))

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
        note(*(self.root / path for path in self.paths))
        odd = next((k for k, size in enumerate(sizes) if size != sizes[0]), None)
        if odd is not None:
            self._differ(rows[0], sizes[0], rows[odd], sizes[odd])
        return (self.decoder.channels, *sizes[0])

    def facts(self, rows: Sequence[int]) -> bytes:
        names = [self.paths[row] for row in rows]
        try:
            content = digests(self.root, names)
        except OSError as why:
            raise DataError(f"a file of the image set is missing or cannot be read ({why}); restore it or open the set again") from why
        return hashed(repr(self.decoder), *names, *content).encode()

    def sizes(self, rows: Sequence[int]) -> bytes:
        digest = hashlib.sha256(repr(self.decoder).encode())
        for row in rows:
            digest.update(repr((self.paths[row], (signature(self.root / self.paths[row]) or (None,))[0])).encode("utf-8", "surrogateescape"))
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
    folder = places.home(path)
    if not os.path.isdir(folder):
        raise DataError(f"{what}: {folder} is {'a file, not a folder' if os.path.exists(folder) else 'not there'}; "
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
        note(place)
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = os.path.join(os.path.realpath(place), "")
        for link in (os.path.join(place, name) for name in folders if os.path.islink(os.path.join(place, name))):
            if inside.startswith(os.path.join(os.path.realpath(link), "")):
                raise DataError(f"{link} is a link to a folder that it lies in, so there is no end of images; remove it")
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


def side_file(name: str | Path, folder: Path, what: str) -> Path:
    """The path of a file below ``folder`` or, where that has none of the name, as it is written; DataError where there is none."""
    path = next((p for p in (folder / name, places.home(name)) if os.path.isfile(p)), None)
    if path is None:
        raise DataError(f"{what} {name} is neither in {folder} nor in the working directory")
    return path


def text_in(path: Path) -> str:
    """The text of a file in UTF-8; DataError naming it where it is a web page, damaged or in another encoding."""
    note(path)
    try:
        content = path.read_bytes()
    except OSError as why:
        raise DataError(f"{path} cannot be read ({why})") from why
    refuse_html(content[:64], path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as why:
        raise DataError(f"{path} is no text in UTF-8 ({why}); save it as UTF-8") from why
    if "\0" in text:
        raise DataError(f"{path} is no text: it holds zero bytes; save it as UTF-8")
    return text


NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")
MOST_CLASSES = 1_000_000


def class_index(label: str) -> int | None:
    """The class index that a text means, however it is written (``3``, ``03``, ``3.0``, ``+3``); -1 is "not known"; None for no number.

    Raises ValueError for numbers that cannot be a class index: not whole, below -1 or above a million.
    """
    label = label.strip()
    if not NUMBER.fullmatch(label):
        return None
    number = float(label)
    if not number.is_integer() or not -1 <= number < MOST_CLASSES:
        raise ValueError(f"{label} is no class index: a whole number from 0, or -1 for 'not known'")
    return int(number)


def as_classes(classes, folder: Path) -> tuple[str, ...] | None:
    """Class names from a sequence, "cat,dog", or the name of a text file with one a line (below ``folder`` or anywhere)."""
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


# --- kinds: functions that ``datasets.load`` finds by name ----------------------------------------------------

KINDS: dict[str, Callable[..., BaseSet]] = {}
NOT_CONTENT = ("cache_bytes",)
BELOW = ("labels", "classes", "map")  # files that are looked for below the set's folder first


def _anchored(key: str, value, root: str):
    """An option that names a file outside the set's folder, with its absolute path, so that it means the same from everywhere."""
    if key not in PATH_OPTIONS or not isinstance(value, str | os.PathLike) or not str(value):
        return value
    if key in BELOW and (os.path.isfile(os.path.join(root, value)) or key == "classes" and not str(value).endswith(".txt")):
        return value
    return places.absolute(value) if places.there(value) else canonical(str(value)) if key == "clean" else value


def _text(value) -> str:
    if isinstance(value, BaseSet):
        return value.name
    if isinstance(value, tuple | list):
        if any("," in str(part) for part in value):
            raise ValueError(f"a name with a comma cannot be part of an option, got {value!r}; put the names into a text file")
        sizes = all(isinstance(part, numbers.Integral) for part in value)
        return ("x" if sizes and len(value) == 2 else ",").join(map(str, value))
    return "none" if value is None else str(int(value)) if isinstance(value, bool) else str(value)


def kind(name: str):
    """Register a function ``(path, *, options) -> set`` under ``name``; the set it gives is named ``name:path?options`` with its
    absolute path and the options that differ from their defaults, so that ``datasets.load`` rebuilds it from everywhere. Unknown
    options raise ValueError."""
    def register(build):
        known = {p.name: p.default for p in inspect.signature(build).parameters.values() if p.kind is p.KEYWORD_ONLY}

        @functools.wraps(build)
        def named(path, **options):
            wrong = [option for option in options if option not in known]
            if wrong:
                raise ValueError(f"{name} has no option {', '.join(map(repr, wrong))}; it has: {', '.join(known) or 'none'}")
            if not str(path):
                raise ValueError(f"{name}: a path is missing; write {name}:/path/to/the/files")
            root = places.absolute(path_of(f"{name}: path", path))
            options = {key: _anchored(key, value, root) for key, value in options.items()}
            given = {key: _text(value) for key, value in options.items() if key not in NOT_CONTENT and _text(value) != _text(known[key])}
            with noting() as noted:
                note(root)
                data = build(Path(root), **options)
            data = replace(data, name=f"{name}:{places.joined(root, places.query(given))}")
            data.__dict__["_noted"] = noted
            return data

        named.options = tuple(known)
        KINDS[name] = named
        return named
    return register


@kind("folder")
def folder(path, *, size=None, resize="cover", mode="colour", interpolation="bilinear", order="name", labels=None, classes=None,
           flat=False, cache_bytes=CACHE_BYTES) -> FileSet:
    """Any folder of images; the rows are in recorded order.

    Subfolders are classes, in text order as in torchvision's ``ImageFolder``; a folder without subfolders, or ``flat``, has no
    labels (-1). ``labels`` names a table instead, a CSV file of lines ``file,label`` (or with ; or a tab between) with or without
    that heading. Its labels are names, or class indices however they are written (``3``, ``03``, ``3.0``); -1, nothing and no line
    at all mean that the label is not known. ``classes`` gives names (or their order): a sequence, "cat,dog", or a text file with
    one a line.
    ``order``: "name", natural order of the relative path, frame_2 before frame_10; "file", the same of the file name alone;
    "time", time of the file's last change, then name. ``size``, ``resize``, ``mode`` and ``interpolation`` as in ``Decoder``;
    ``size`` is needed where the files differ in size.

    Raises DataError for a missing or empty folder, files of types that cannot be read, sizes that differ, damaged files, a table
    that mixes names and numbers, labels that fit no file or no class, and subfolders that are parts of a data set (train, val,
    test) unless ``classes`` or ``flat`` says what they are.
    """
    root = existing_folder(path, "folder")
    decoder = Decoder(size, resize, mode, interpolation)
    names = _ordered(image_names(root), root, order)
    classes = as_classes(classes, root)
    if labels is not None:
        y, classes = _labels_from_csv(root, labels, names, classes)
    elif _is_flat(flat) or not any("/" in name for name in names):
        y, classes = [-1] * len(names), classes or ()
    else:
        loose = next((name for name in names if "/" not in name), None)
        if loose:
            raise DataError(f"{root} holds class folders and also images of its own ({loose}); move these into a class folder, or "
                            "use flat=1 for a set without labels, or labels= for a table")
        found = sorted({name.split("/")[0] for name in names})
        if classes is None:
            refuse_parts(root, found, names)
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


def _is_flat(flat) -> bool:
    if isinstance(flat, str):
        known = {"": True, "1": True, "true": True, "0": False, "false": False}
        if flat.lower() not in known:
            raise ValueError(f"flat must be 1 or 0, got {flat!r}")
        return known[flat.lower()]
    return flag("flat", bool(flat) if flat in (0, 1) else flat)


PARTS = {**dict.fromkeys(("train", "training", "trn"), "train"), **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
         **dict.fromkeys(("test", "testing", "tst"), "test")}
AROUND = re.compile(r"(split|fold|set|data|dataset|images|imgs|[0-9]{1,4})")  # as in train2017, test_set, split_val


def part_of(folder: str) -> str | None:
    """"train", "val" or "test" for the name of a folder that says so, else None."""
    words = [word for word in re.split(r"[\s_.-]+|(?<=[a-z])(?=[A-Z0-9])", folder) if word and not AROUND.fullmatch(word.lower())]
    return PARTS.get(words[0].lower()) if len(words) == 1 else None


def refuse_parts(root: Path, folders: Sequence[str], names: Sequence[str]) -> None:
    """Raise DataError where subfolders are the parts of a data set (two of train, val and test; or one, alone, with class folders in it)."""
    parts = [name for name in folders if part_of(name)]
    alone = len(folders) == 1 and all(name.count("/") > 1 for name in names)
    if len({part_of(name) for name in parts}) > 1 or parts and alone:
        raise DataError(f"{root} holds the folder{'s' * (len(parts) > 1)} {', '.join(parts)}, which {'are parts' if len(parts) > 1 else 'is a part'} "
                        f"of a data set and not classes: name one part, as in folder:{root / parts[-1]}, or say that these are the classes with "
                        f"classes={','.join(folders)}, or leave labels out with flat=1")


def file_set(source: Files, y: list[int], classes: tuple[str, ...], **more) -> FileSet:
    """A FileSet of all rows of ``source``."""
    return FileSet("", torch.tensor(y, dtype=torch.int64), tuple(classes), source.shape(), source, torch.arange(len(y)), **more)


def _ordered(names: list[str], root: Path, order: str) -> list[str]:
    keys = {"name": natural, "file": lambda name: (natural(name.rpartition("/")[2]), natural(name)),
            "time": lambda name: ((root / name).stat().st_mtime_ns, natural(name))}
    if order not in keys:
        raise ValueError(f"order must be one of {', '.join(keys)}, got {order!r}")
    if order == "time":
        note(*(root / name for name in names))
    return sorted(names, key=keys[order])


HEADINGS = {"file", "files", "filename", "file_name", "path", "image", "name", "id"}


def _table(path: Path, places_: dict[str, str], root: Path) -> dict[str, tuple[int, str]]:
    """file -> (line, label) of a table of labels, empty labels too; the separator is the one that makes two entries a line."""
    text, found = text_in(path), []
    for separator in (",", ";", "\t"):
        reader, rows, why = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True), [], None
        try:
            for row in reader:
                if any(part.strip() for part in row):
                    rows.append((reader.line_num, row))
        except csv.Error as error:
            why = f"{error} in row {reader.line_num}"
        found.append((sum(len(row) == 2 for _, row in rows) + (why is not None and separator in text), rows, why))
    _, rows, why = max(found, key=lambda one: one[0])
    if why is not None:
        raise DataError(f"{path} is not a CSV file: {why}")
    given: dict[str, tuple[int, str]] = {}
    for at, (number, row) in enumerate(rows):
        if len(row) != 2:
            raise DataError(f"{path}: row {number} has {len(row)} entries, not the two of 'file,label': {','.join(row)[:80]}")
        file = _the_file(row[0], places_, root)
        if file is None and not at and row[0].strip().lower() in HEADINGS:
            continue
        if file is None:
            raise DataError(f"{path}: row {number} names {row[0].strip()!r}, which is no image below {root}")
        if file in given:
            raise DataError(f"{path}: row {number} names {file!r} a second time, after row {given[file][0]}")
        given[file] = number, _composed(row[1].strip())
    if not given:
        raise DataError(f"{path} holds no labels")
    return given


def _the_file(text: str, places_: dict[str, str], root: Path) -> str | None:
    """The image that a table means: its path below the folder, also with ./ before it, whole, with backslashes or composed letters."""
    whole = text.strip()
    for one in (text, whole, os.path.normpath(os.path.relpath(whole, root) if os.path.isabs(whole) else whole or "."), whole.replace("\\", "/")):
        if _composed(one) in places_:
            return places_[one] if one in places_ else places_[_composed(one)]
    return None


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _labels_from_csv(root, labels, names, classes):
    path = side_file(labels, root, "the table of labels")
    classes = classes and tuple(map(_composed, classes))
    given = _table(path, {_composed(name): name for name in names} | {name: name for name in names}, root)
    lines = {file: (number, label, _index_in(path, number, label, classes)) for file, (number, label) in given.items()}
    known = {file: found for file, found in lines.items() if found[1] and found[2] != -1}
    y = _counted(path, known, classes)
    if classes is None:
        classes = _names_in(known)
    return [y.get(name, -1) for name in names], classes


def _index_in(path, number, label, classes) -> int | None:
    """The class index that stands in a row, None for a name; a number that is none of the two is refused."""
    if label in (classes or ()):
        return class_index(label) if NUMBER.fullmatch(label) and float(label) in range(MOST_CLASSES) else None
    try:
        return class_index(label)
    except ValueError as why:
        raise DataError(f"{path}: row {number}: {why}") from why


def _names_in(known) -> tuple[str, ...]:
    if any(index is None for _, _, index in known.values()):
        return tuple(sorted({label for _, label, _ in known.values()}))
    return tuple(map(str, range(max((index for _, _, index in known.values()), default=-1) + 1)))


def _counted(path: Path, known: dict, classes) -> dict[str, int]:
    """file -> class index. Labels are names of the classes, or numbers: those that the classes are called by, else indices."""
    rows = list(known.items())
    names = {name: k for k, name in enumerate(classes or ())}
    if classes and all(label in names for _, (_, label, _) in rows):
        return {file: names[label] for file, (_, label, _) in rows}
    first, odd = next(((a, b) for (_, a), (_, b) in zip(rows, rows[1:], strict=False) if (a[2] is None) != (b[2] is None)), (None, None))
    if odd is not None:
        kinds = ["a name" if index is None else "a number" for _, _, index in (first, odd)]
        raise DataError(f"{path}: row {first[0]} has {kinds[0]}, {first[1]!r}, and row {odd[0]} {kinds[1]}, {odd[1]!r}; use class indices "
                        "throughout or names throughout (-1 or nothing where the label is not known)")
    numeric = bool(rows) and rows[0][1][2] is not None
    if numeric and classes and all(NUMBER.fullmatch(name) for name in classes):
        called = {float(name): k for name, k in names.items()}
        if len(called) == len(names) and all(index in called for _, (_, _, index) in rows):
            return {file: called[index] for file, (_, _, index) in rows}
    names = names or {name: k for k, name in enumerate(_names_in(known))}
    y = {file: index if numeric else names.get(label, -1) for file, (_, label, index) in rows}
    wrong = next((found for file, found in rows if not 0 <= y[file] < len(names)), None)
    if wrong is not None:
        every = dict.fromkeys(label for file, (_, label, _) in rows if not 0 <= y[file] < len(names))
        raise DataError(f"{path}: the labels {', '.join(list(every)[:10])} are none of the {len(names)} classes {', '.join(list(names)[:20])} "
                        f"(row {wrong[0]} has {wrong[1]!r})")
    return y


@kind("lists")
def lists(path, *, files=None, images=None, classes=None, map=None, size=224, resize=256, mode="colour",
          interpolation="bilinear", cache_bytes=CACHE_BYTES) -> FileSet:
    """Text files of lines ``path label``, one file a domain, as DomainNet-126 and ImageNet-D109 come.

    ``files`` "real_list.txt,sketch_list.txt", default: every ``*_list.txt`` in the folder, or where there is none every
    ``.txt`` file. The domain is the file's name without ``_list``. Paths are relative to ``images``, default: the folder.
    ``classes`` as in ``folder``; default: the numbers 0 to the largest label. ``map`` names a text file of lines
    ``class output output ...`` from classes (index or name) to the outputs of a larger model: see ``datasets.class_logits``.
    A label of -1 is not known.

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
    note(place)
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
            raise DataError(f"{path}: line {number} is not 'path label' with a class index: {line[:80]!r}")
        rows.append((file.strip(), index))
    if not rows:
        raise DataError(f"the list {path} is empty")
    return rows


def read_map(root: Path, name: str | Path, classes: tuple[str, ...]) -> Tensor:
    """``model_classes`` from a text file of lines ``class output output ...``: int64 (K,), or (K, M) padded with -1 where a
    class has several outputs. Raises DataError for a class without a line, twice, or unknown, and for an output used twice."""
    path = side_file(name, root, "the map of classes")
    found, used = {}, set()
    number = {**{str(k): k for k in range(len(classes))}, **{name: k for k, name in enumerate(classes)}}
    for line, text in enumerate(text_in(path).splitlines(), 1):
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
        self.dataset, self.name, self.shape, self._kept = dataset, name, None, {}

    def check_domain(self, domain, severity):
        pass

    def item(self, row: int):
        """(image, label) of a row; label -1 where there is none."""
        item = self.dataset[row]
        image, label = (item[0], item[1] if len(item) > 1 else -1) if isinstance(item, tuple | list) else (item, -1)
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
        """What the data set makes its images from (`_stored_content`) and 64 images; where that is not known, all images, read again
        when one of the 64 has changed, or an array or a file that it holds (`_held`)."""
        few = [rows[k] for k in spread(len(rows), 64)]
        seen = hashed(repr(rows), _stored_content(self.dataset) or "", *(self.item(row)[0].tobytes() for row in few)).encode()
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
    """A class index, or -1 for None. Raises DataError for what is no whole number, which ``int`` would cut or misread."""
    try:
        index = -1 if label is None else int(label)
        right = label is None or not isinstance(label, str | bytes) and bool(index == label) and abs(index) < 2**62
    except (TypeError, ValueError, OverflowError, RuntimeError):
        right = False
    if not right:
        raise DataError(f"{where} is {label!r:.80}, not a class index; give labels= to wrap")
    return index


def _stored_content(dataset) -> str | None:
    """A digest of the tensors, arrays or files that a data set of a usual form makes its images from; None for other forms."""
    if isinstance(dataset, torch.utils.data.Subset):
        inner = _stored_content(dataset.dataset)
        return None if inner is None else hashed(inner, repr(list(dataset.indices)))
    if isinstance(dataset, torch.utils.data.ConcatDataset):
        inner = [_stored_content(one) for one in dataset.datasets]
        return None if None in inner else hashed(*inner)
    if isinstance(dataset, torch.utils.data.TensorDataset):
        return hashed(*(_bytes(tensor) for tensor in dataset.tensors))
    data, samples = getattr(dataset, "data", None), getattr(dataset, "samples", None)
    if isinstance(data, Tensor | np.ndarray) and len(data) == len(dataset):
        return hashed(_bytes(data))
    if isinstance(samples, list) and len(samples) == len(dataset) and all(isinstance(s, tuple) and isinstance(s[0], str) for s in samples):
        names = [os.path.abspath(path) for path, *_ in samples]
        try:
            return hashed(*digests("/", names))
        except OSError as why:
            raise DataError(f"a file of the data set is missing or cannot be read ({why}); restore it or open the data set again") from why
    return None


def _held(value, depth: int = 4) -> str:
    """A digest of the arrays and tensors in what an object holds, and of size and times of the files that it names, as they now are."""
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
    return hashed(*(_held(one, depth - 1) for one in value)) if depth and isinstance(value, list | tuple) else ""


def _bytes(values) -> bytes:
    array = np.ascontiguousarray(values.detach().cpu().numpy() if isinstance(values, Tensor) else values)
    return repr((array.shape, str(array.dtype))).encode() + array.tobytes()


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
                return [_as_label(label, "the label") for label in labels]
            except DataError:
                return None
    return None


def wrap(dataset, *, labels=None, classes=None, name: str | None = None) -> FileSet:
    """Any map-style torch data set of (image, label) or image as an image set, read lazily.

    Images: PIL, uint8, or float in [0, 1]; tensors (C, H, W), arrays (H, W, C); all of one shape and the same each time.
    Labels: ``labels`` (N,), else the data set's own ``targets`` where they agree with its first, middle and last item,
    else every item is read once. Class names: ``classes``, else the data set's, else the numbers up to the largest label.
    The fingerprint covers the labels and all images. For data sets of tensors, of an array ``data`` or of files in ``samples`` it is
    made from that content and 64 items; of others every item is read, once for this set as long as 64 items spread over it stay, and
    the arrays and files that the data set's attributes hold or name. A stream over it cannot be rebuilt from text.

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
    shape = np.shape(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
    if shape != (n,):
        raise DataError(f"{name} has {n} images, but labels of shape {tuple(shape)}")
    y = torch.tensor([_as_label(label, f"{name}: labels[{k}]") for k, label in enumerate(labels)], dtype=torch.int64)
    inner = dataset
    while isinstance(inner, torch.utils.data.Subset):
        inner = inner.dataset
    classes = classes or getattr(inner, "classes", None) or [str(k) for k in range(int(y.max()) + 1)]
    return FileSet(name, y, tuple(map(str, classes)), tuple(source.shape), source, torch.arange(n))
