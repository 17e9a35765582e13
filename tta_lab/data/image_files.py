"""Image files on disk as a set: found in a stable order, decoded on demand, kept in a cache of
bounded size."""
from __future__ import annotations

import contextlib
import hashlib
import numbers
import os
import re
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..core import places
from ..core.arguments import whole
from .contents import WORKERS, digests, hashed, note, signature
from .image_set import BaseSet, check_labels
from .shift import CLEAN
from .shipped import DataError, refuse_html

READABLE = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
# may lie beside the images
BESIDE = (".txt", ".csv", ".tsv", ".json", ".md", ".xml", ".yaml", ".yml", ".db", ".ini", ".pdf")
CACHE_BYTES = 256 * 2**20
LARGE_FILE = 8192
HEADERS = 1000  # files looked into when a set is opened, where not all have to be


@dataclass(frozen=True, eq=False, repr=False)
class FileSet(BaseSet):
    """Images that ``source`` reads when they are asked for; the rows of ``index`` belong to this
    set.

    ``source`` answers ``read(rows, domain, severity)`` -> uint8 or float array (n, C, H, W),
    ``check_domain(domain, severity)``, ``facts(rows)`` -> bytes for the fingerprint, which follow
    the content, and ``check(rows)``; it holds no open file, so a set can be pickled. ``member``
    int64 (N,), where the domains are parts of the set: which one each row belongs to.
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
        """Rows that belong to a domain, int64, ascending; None, for all, where domains show every
        image ("-C" sets)."""
        self._check_name(domain)
        if self.member is None or domain in CLEAN:
            return None
        return (self.member == self.domains.index(domain)).nonzero()[:, 0]

    def _check_name(self, domain):
        if domain not in CLEAN and domain not in self.domains:
            held = (f"only {', '.join(self.domains)}" if self.domains else "only clean ones; make "
                                                                           "the shift with "
                                                                           "corruptions.corrupt")
            raise ValueError(f"{self.name} holds no images of {domain!r}, {held}")

    def check_domain(self, domain: str = "none", severity: float = 5.0) -> None:
        """Raise ValueError where ``images`` could not give this domain at this severity."""
        self._check_name(domain)
        self.source.check_domain(domain, severity)

    def images(self, index=slice(None), device="cpu", domain: str = "none",
               severity: float = 5.0) -> Tensor:
        """The chosen images as float32 in [0, 1], shape (n, C, H, W), read from the files of
        ``domain`` ("none": as stored, or the clean files of a "-C" set). Raises ValueError for
        what the set does not hold, DataError for a damaged file."""
        self.check_domain(domain, severity)
        rows = self.index[index.cpu() if isinstance(index, Tensor) else index].reshape(-1)
        if self.member is not None and domain not in CLEAN:
            chosen = self.member[index.cpu() if isinstance(index, Tensor) else index]
            if (chosen != self.domains.index(domain)).any():
                raise ValueError(f"{self.name}: some of these rows do not belong to {domain!r}; "
                                 f"take them from rows({domain!r})")
        if not len(rows):
            return torch.empty(0, *self.shape, device=device)
        pixels = torch.from_numpy(self.source.read(rows.tolist(), domain, severity)).to(device)
        return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels

    def take(self, index) -> FileSet:
        """The same set with only the chosen rows."""
        return replace(self, y=self.y[index], index=self.index[index],
                       member=None if self.member is None else self.member[index])

    def fingerprint(self) -> str:
        """sha256 over shape, class names, labels, and the source's facts: relative paths, content
        of the files and how the images are cropped. Neither the place of the folder nor times of
        change enter. Files that changed since they were last read for it are read again
        (`contents.digests`)."""
        return self._digest(self.source.facts(self.index.tolist()))

    def old_fingerprint(self) -> str:
        """The fingerprint as earlier versions wrote it, in which files counted by name and size:
        for what was stored then."""
        sizes = getattr(self.source, "sizes", self.source.facts)
        return self._digest(sizes(self.index.tolist()))

    def _digest(self, facts: bytes) -> str:
        digest = hashlib.sha256(
            repr(
                (tuple(self.shape), self.classes, self.domains)).encode("utf-8", "surrogateescape"))
        for part in (self.y, self.index.new_empty(0) if self.member is None else self.member):
            digest.update(part.contiguous().numpy())
        digest.update(facts)
        return digest.hexdigest()

    def check(self) -> int:
        """Decode everything, all domains and severities, and return how many images that were.

        Raises DataError naming up to ten of the files that cannot be decoded.
        """
        return self.source.check(self.index.tolist())


def as_size(size) -> tuple[int, int] | None:
    """(height, width) from 64, "64", "180x240", a pair, or None and "none" for 'as stored'."""
    if size is None or size == "none":
        return None
    try:
        one = isinstance(size, str | numbers.Number)
        parts = [
            whole("size",
                  int(p) if isinstance(p, str) else p)
            for p in (str(size).lower().split("x") if one else size)
        ]
    except (TypeError, ValueError):
        parts = []
    if len(parts) not in (1, 2) or min(parts) < 1:
        raise ValueError(f"size must be a side in pixels, height x width as in '180x240', or "
                         f"none, got {size!r}")
    return parts[0], parts[-1]


@dataclass(frozen=True)
class Decoder:
    """How a file becomes an image.

    size           (H, W) cut from the centre, None: as stored
    resize         before that: "cover", the smallest size that covers ``size``; a number, that
                   many pixels for the shorter
                   side; None, no change
    mode           "colour" (3 channels) or "grey" (1 channel, ITU-R 601 luma)
    interpolation  "bilinear" or "bicubic", both antialiased

    The rotation in a camera's EXIF entry is ignored, alpha is dropped, as in torchvision's usual
    pipeline.
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
                raise ValueError(f"resize must be a number of pixels, 'cover' or none, got "
                                 f"{resize!r}")
            resize = int(resize)
            if self.size is None:
                raise ValueError("resize sets the shorter side only; give size= too, the part "
                                 "that is cut from the centre")
            if resize < max(self.size):
                raise ValueError(f"resize={resize} is smaller than "
                                 f"size={'x'.join(map(str, self.size))}, there is nothing to cut "
                                 f"from")
        object.__setattr__(self, "resize", resize)
        for name, known in (("mode", ("colour", "grey")), ("interpolation", ("bilinear",
                                                                             "bicubic"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be {' or '.join(known)}, got "
                                 f"{getattr(self, name)!r}")

    @property
    def channels(self) -> int:
        return 1 if self.mode == "grey" else 3

    def open(self, path: Path):
        """The file as a Pillow image of which only the header was read; DataError where that
        fails."""
        from PIL import Image, UnidentifiedImageError

        try:
            image = Image.open(path)
        except FileNotFoundError as why:
            raise DataError(f"the image file {path} is missing") from why
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError,
                Image.DecompressionBombError) as why:
            with contextlib.suppress(OSError), path.open("rb") as file:
                head = file.read(64)
                refuse_html(head, path)
                if not head:
                    raise DataError(f"the image file {path} is empty; fetch it again") from why
            raise DataError(f"{path} cannot be read as an image ({why}); fetch it again or remove "
                            f"it") from why
        if image.mode.startswith(("I", "F")):
            image.close()
            raise DataError(f"{path} has more than 8 bits a channel ({image.mode}); store it with "
                            f"8 bits")
        return image

    def too_small(self, path, height, width) -> None:
        if self.size and self.resize is None and (height < self.size[0] or width < self.size[1]):
            raise DataError(f"{path} has {height} x {width} pixels, fewer than the {self.size[0]} "
                            f"x {self.size[1]} to be cut out; "
                            "give a smaller size= or a resize=")

    def __call__(self, path: Path) -> np.ndarray:
        """uint8 (C, H, W)."""
        from PIL import Image

        with self.open(path) as image:
            self.too_small(path, image.height, image.width)
            try:
                image = image.convert("L" if self.mode == "grey" else "RGB")
            except (OSError, SyntaxError, ValueError, EOFError, IndexError,
                    Image.DecompressionBombError) as why:
                raise DataError(f"{path} is damaged or cut short ({why}); fetch it again or "
                                f"remove it") from why
            if self.size:
                image = self._cut(image)
            pixels = np.asarray(image)
        return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))

    def _cut(self, image):
        from PIL import Image

        (h, w) = self.size
        (height, width) = (image.height, image.width)
        if self.resize is not None:
            short = min(height, width) if self.resize != "cover" else 0
            if short:
                new = tuple(self.resize if side == short else int(self.resize * side / short)
                            for side in (width, height))
            else:
                factor = max(h / height, w / width)
                new = (max(w, round(width * factor)), max(h, round(height * factor)))
            if new != (width, height):
                image = image.resize(new, getattr(Image.Resampling, self.interpolation.upper()))
        left = round((image.width - w) / 2)
        top = round((image.height - h) / 2)
        return image if image.size == (w, h) else image.crop((left, top, left + w, top + h))


class Cache:
    """The arrays used last, up to ``limit`` bytes; safe between threads, left empty in a pickled
    copy."""

    def __init__(self, limit: int):
        limit = int(limit) if isinstance(limit, str) and limit.isdecimal() else limit
        self.limit, self.bytes, self.kept, self.lock = whole("cache_bytes", limit,
                                                             0), 0, OrderedDict(), threading.Lock()

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


def evenly_spaced(n: int, most: int) -> Sequence[int]:
    """Up to ``most`` of the numbers 0 .. n-1, evenly spaced, the first and the last among them."""
    return range(n) if n <= most else sorted(set(np.linspace(0, n - 1, most).astype(int).tolist()))


class Files:
    """Image files: row k is ``root / paths[k]``. A plain source holds no domains; the rows of
    sub-domains are as stored."""

    def __init__(self, root: Path, paths: list[str], decoder: Decoder, cache: Cache):
        self.root = Path(root)
        self.paths = paths
        self.decoder = decoder
        self.cache = cache

    def check_domain(self, domain, severity):
        pass

    def one(self, row: int) -> np.ndarray:
        path = self.root / self.paths[row]
        return self.cache.get((str(path), signature(path), self.decoder),
                              lambda: self.decoder(path))

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
            parts = pool.map(lambda k: [work(row) for row in rows[k:k + share]],
                             range(0, len(rows), share))
            return [one for part in parts for one in part]

    def _large(self, row) -> bool:
        """Whether decoding takes longer than handing Python's lock between threads; small files
        are quicker in one thread."""
        try:
            return os.stat(self.root / self.paths[row]).st_size >= LARGE_FILE
        except OSError:
            return False

    def _differ(self, row, shape, other, other_shape):
        sizes = " but ".join(f"{self.root / self.paths[k]} has {h} x {w} pixels"
                             for k, (h, w) in ((row, shape), (other, other_shape)))
        raise DataError(f"{sizes}; give one size for all, as in size=64 or size=180x240")

    def shape(self, most: int = HEADERS) -> tuple[int, int, int]:
        """(C, H, W) of the images. The headers of up to ``most`` files are read; of all where the
        size follows from them."""
        def header(row):
            with self.decoder.open(self.root / self.paths[row]) as image:
                self.decoder.too_small(self.root / self.paths[row], image.height, image.width)
                return image.height, image.width

        rows = evenly_spaced(len(self.paths), most if self.decoder.size else len(self.paths))
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
            raise DataError(f"a file of the image set is missing or cannot be read ({why}); "
                            f"restore it or open the set again") from why
        return hashed(repr(self.decoder), *names, *content).encode()

    def sizes(self, rows: Sequence[int]) -> bytes:
        digest = hashlib.sha256(repr(self.decoder).encode())
        for row in rows:
            digest.update(
                repr((self.paths[row], (signature(self.root / self.paths[row])
                                        or (None,))[0])).encode("utf-8", "surrogateescape"))
        return digest.digest()

    def check(self, rows: Sequence[int]) -> int:
        def attempt(row):
            try:
                return self.decoder(self.root / self.paths[row]).shape
            except DataError as why:
                return str(why)

        found = [
            one for start in range(0, len(rows), 1000)
            for one in self._each(attempt, rows[start:start + 1000])
        ]
        shape = next((one for one in found if not isinstance(one, str)), None)
        bad = [one if isinstance(one, str) else f"{self.root / self.paths[row]} has {one[1]} x "
                                                f"{one[2]} pixels, not {shape[1]} x {shape[2]}"
               for row, one in zip(rows, found, strict=True) if one != shape]
        if bad:
            more = f"\nand {len(bad) - 10} more" if len(bad) > 10 else ""
            raise DataError(f"{len(bad)} of {len(rows)} images cannot be used:\n" +
                            "\n".join(bad[:10]) + more)
        return len(rows)


def existing_folder(path: str | Path, what: str) -> Path:
    """The folder; DataError where there is none."""
    folder = places.home(path)
    if not os.path.isdir(folder):
        raise DataError(f"{what}: {folder} is "
                        f"{'a file, not a folder' if os.path.exists(folder) else 'not there'}; "
                        "give the path of the folder that holds the images")
    return folder


def natural(text: str) -> tuple:
    """Sorting key in which numbers count as numbers: frame_2 before frame_10."""
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part)
                 for part in re.split(r"([0-9]+)", text) if part), text


def image_names(folder: Path) -> list[str]:
    """Paths of all image files below ``folder``, relative to it, with "/" between the parts, in
    text order.

    Hidden files and files that usually lie beside images (.txt, .csv, ...) are passed over. Raises
    DataError for a folder without images and for files of other types, which are listed.
    """
    names, others = [], Counter()
    for place, folders, files in os.walk(folder, followlinks=True):
        note(place)
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = os.path.join(os.path.realpath(place), "")
        for link in (os.path.join(place, name) for name in folders
                     if os.path.islink(os.path.join(place, name))):
            if inside.startswith(os.path.join(os.path.realpath(link), "")):
                raise DataError(f"{link} is a link to a folder that it lies in, so there is no "
                                f"end of images; remove it")
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
        raise DataError(f"{folder} holds files that cannot be read as images: {listed}. Readable: "
                        f"{' '.join(READABLE)}; "
                        "convert the others or move them elsewhere")
    if not names:
        raise DataError(f"{folder} holds no images; readable are {' '.join(READABLE)}")
    return sorted(names)


def side_file(name: str | Path, folder: Path, what: str) -> Path:
    """The path of a file below ``folder`` or, where that has none of the name, as it is written;
    DataError where there is none."""
    path = next((p for p in (folder / name, places.home(name)) if os.path.isfile(p)), None)
    if path is None:
        raise DataError(f"{what} {name} is neither in {folder} nor in the working directory")
    return path


def text_in(path: Path) -> str:
    """The text of a file in UTF-8; DataError naming it where it is a web page, damaged or in
    another encoding."""
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


def file_set(source: Files, y: list[int], classes: tuple[str, ...], **more) -> FileSet:
    """A FileSet of all rows of ``source``."""
    return FileSet("", torch.tensor(y, dtype=torch.int64), tuple(classes), source.shape(), source,
                   torch.arange(len(y)), **more)
