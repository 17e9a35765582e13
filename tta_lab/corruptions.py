"""The common corruptions as batched tensor functions, grey or colour, on any device.

Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations"
(arXiv 1903.12261); operations and the 32 x 32 table follow the public CIFAR-10-C generator
(hendrycks/robustness at 8190fe3, Apache-2.0). There is no official table for 28 x 28: the 32 x 32 row is used,
with every "32" replaced by the real side (pixelate). A picture made here is therefore not a file of CIFAR-10-C.

To add a corruption, write ``f(x, p, draws) -> y`` with x, y float64 (B, C, H, W), p its entry of the table (y may
leave [0, 1], ``corrupt`` clips), put it into ``CORRUPTIONS`` and its row into ``TABLES``. To add a size, add a table under its side.
"""
from __future__ import annotations

import math
import numbers
import zlib
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

STANDARD_SIX = ("gaussian_noise", "defocus_blur", "contrast", "brightness", "pixelate", "jpeg_compression")
CLEAN = ("none", "clean")
LARGEST_SMALL_SIDE = 48  # up to here the 32 x 32 table is used; other tables mean other physical strengths

# side of the square images -> name -> parameters at severity 1, 2, 3, 4, 5
TABLES = {
    32: {
        "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),                              # sigma
        "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)),  # radius, sigma of the smoothing
        "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),                                       # factor
        "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),                                     # added to V
        "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),                                     # factor of the side
        "jpeg_compression": (80, 65, 58, 50, 40),                                      # quality
    },
    64: {
        "gaussian_noise": (0.04, 0.08, 0.12, 0.15, 0.18),
        "defocus_blur": ((0.5, 0.6), (1.0, 0.1), (1.5, 0.1), (2.5, 0.01), (3.0, 0.1)),
        "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
        "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
        "pixelate": (0.9, 0.8, 0.7, 0.6, 0.5),
        "jpeg_compression": (65, 58, 50, 40, 25),
    },
}


def precise(device: torch.device) -> torch.dtype:
    """float64, so that devices agree and TF32 settings do not matter; float32 on Apple's mps, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


# --- random draws that depend on nothing but their names ------------------------------------------------------

def _mix(h: Tensor) -> Tensor:
    """A bijective 32-bit hash (xorshift-multiply). Both factors are below 2^31, so int64 products never overflow."""
    h = ((h ^ (h >> 16)) * 0x21F0AAAD) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 0x735A2D97) & 0xFFFFFFFF
    return h ^ (h >> 15)


def _words(value: int) -> tuple[int, int]:
    """The low and high 32 bits of an integer of up to 64 bits, as non-negative numbers."""
    return value & 0xFFFFFFFF, (value >> 32) & 0xFFFFFFFF


@dataclass(frozen=True, eq=False)
class Draws:
    """Random numbers of a counter-based generator: a hash of (seed, name, id, element), never of the batch.

    ``ids`` is int64 (B,). The same id with the same seed and name gives the same numbers whatever the batch
    size, the order or the device. Nothing is stored and no global generator is touched.
    """

    ids: Tensor
    seed: int = 0
    name: str = ""

    def bits(self, n: int, salt: int = 0) -> Tensor:
        """Integers in 0 .. 2^32 - 1, int64 (B, n); another ``salt`` gives independent ones."""
        keys = []
        for half in (0, 1):  # two keys: 64 bits of identity for each image
            key = torch.full_like(self.ids, half)
            for word in (*_words(self.seed), zlib.crc32(self.name.encode()), salt):
                key = _mix((key + word + 0x9E3779B9) & 0xFFFFFFFF)
            for word in (self.ids & 0xFFFFFFFF, (self.ids >> 32) & 0xFFFFFFFF):
                key = _mix((key + word + 0x9E3779B9) & 0xFFFFFFFF)
            keys.append(key[:, None])
        counter = torch.arange(n, device=self.ids.device)
        return _mix(_mix((counter + keys[0]) & 0xFFFFFFFF) ^ keys[1])

    def uniform(self, n: int, salt: int = 0) -> Tensor:
        """Uniform in the open interval (0, 1), float64 (B, n)."""
        return (self.bits(n, salt).to(precise(self.ids.device)) + 0.5) / 2**32

    def normal(self, n: int, salt: int = 0) -> Tensor:
        """Standard normal by Box-Muller: sqrt(-2 ln u) (cos, sin)(2 pi v), float64 (B, n)."""
        half = (n + 1) // 2
        u, v = self.uniform(2 * half, salt).split(half, dim=1)
        radius, angle = (-2 * u.log()).sqrt(), 2 * math.pi * v
        return torch.cat([radius * angle.cos(), radius * angle.sin()], 1)[:, :n]


# --- the corruptions ------------------------------------------------------------------------------------------

def gaussian_noise(x: Tensor, sigma: float, draws: Draws) -> Tensor:
    """x + sigma N(0, 1), independent per pixel and channel."""
    return x + sigma * draws.normal(x[0].numel()).view_as(x)


@lru_cache
def disk_kernel(radius: float, sigma: float) -> Tensor:
    """The grid points within ``radius``, sum 1, smoothed by a 3 x 3 Gaussian of ``sigma``; (2r+3, 2r+3), r = floor(radius)."""
    side = torch.arange(-math.floor(radius) - 1, math.floor(radius) + 2, dtype=torch.float64)
    disk = (side[:, None] ** 2 + side**2 <= radius**2).double()
    bell = torch.exp(-torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64) / (2 * sigma**2))
    bell = torch.outer(bell, bell) / bell.sum() ** 2
    return F.conv2d(disk[None, None] / disk.sum(), bell[None, None], padding=1)[0, 0]


def defocus_blur(x: Tensor, p: tuple[float, float], draws: Draws) -> Tensor:
    """Correlation with a smoothed disk, borders mirrored without repeating the edge. p = (radius, sigma).

    At severities 1 to 3 of the 32 x 32 table the disk is one point: a 3 x 3 Gaussian blur is what remains.
    """
    kernel = disk_kernel(*map(float, p)).to(x)
    b, c, h, w = x.shape
    padded = F.pad(x, [len(kernel) // 2] * 4, mode="reflect")
    return F.conv2d(padded.reshape(b * c, 1, *padded.shape[2:]), kernel[None, None]).view(b, c, h, w)


def contrast(x: Tensor, factor: float, draws: Draws) -> Tensor:
    """(x - m) factor + m, with m the mean of each channel of each picture."""
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * factor + mean


def brightness(x: Tensor, shift: float, draws: Draws) -> Tensor:
    """V + shift in hue-saturation-value space; V is the largest channel, for grey the value itself.

    Hue and saturation stay, so the colour is scaled by V'/V, with V' = min(V + shift, 1); black becomes grey.
    """
    value = x.amax(1, keepdim=True)
    brighter = (value + shift).clamp(0, 1)
    return torch.where(value > 0, x * (brighter / value.clamp(min=1e-12)), brighter)


@lru_cache
def box_matrix(before: int, after: int) -> Tensor:
    """The box filter of image libraries as a matrix (after, before): each new pixel is the plain mean of the old
    ones whose centres lie within half a new pixel of its own centre."""
    scale = before / after
    support = 0.5 * max(scale, 1.0)
    centre = (torch.arange(after, dtype=torch.float64) + 0.5) * scale
    distance = torch.arange(before) + 0.5 - centre[:, None]                           # (after, before)
    inside = ((distance > -support) & (distance <= support)).double()
    return inside / inside.sum(1, keepdim=True)


def _round(x: Tensor) -> Tensor:
    """To the nearest integer, halves upwards, as codecs do (torch.round takes halves to even)."""
    return (x + 0.5).floor()


def _resize(x: Tensor, height: int, width: int) -> Tensor:
    """Box filter along the rows, then along the columns, each pass rounded to 8 bits; values 0 .. 255."""
    x = _round(x @ box_matrix(x.shape[3], width).to(x).T)
    return _round(box_matrix(x.shape[2], height).to(x) @ x)


def pixelate(x: Tensor, factor: float, draws: Draws) -> Tensor:
    """Box-filter down to int(factor side) pixels and up again, in 8-bit steps as image libraries do."""
    height, width = x.shape[2:]
    small = _resize(_round(x * 255), max(1, int(height * factor)), max(1, int(width * factor)))
    return _resize(small, height, width) / 255


# ITU-T T.81, Annex K: the tables that every codec scales by its quality
LUMA = ((16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
        (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
        (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99))
CHROMA = ((17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99))  # 99 in the rest of the 8 x 8


def quantisation(quality: float, chroma: bool = False) -> Tensor:
    """The 8 x 8 table of steps at a quality of 1 to 100 (rounded): scale = 5000 / q below 50, else 200 - 2 q per cent."""
    base = torch.full((8, 8), 99)
    if chroma:
        base[:4, :4] = torch.tensor(CHROMA)
    else:
        base = torch.tensor(LUMA)
    quality = min(max(round(quality), 1), 100)
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((base * scale + 50) // 100).clamp(1, 255)


def _coded(planes: Tensor, steps: Tensor) -> Tensor:
    """Planes (B, C, 8m, 8n) of 0 .. 255 through DCT, quantiser and back: what a decoder sees, integers 0 .. 255."""
    n = torch.arange(8, dtype=torch.float64)
    dct = torch.cos((2 * n + 1) * n[:, None] * math.pi / 16) / 2
    dct[0] /= math.sqrt(2)                                                            # rows are orthonormal
    dct, steps = dct.to(planes), steps.to(planes)
    b, c, h, w = planes.shape
    blocks = (planes - 128).view(b, c, h // 8, 8, w // 8, 8).transpose(3, 4)          # (B, C, m, n, 8, 8)
    eighths = _round(8 * dct @ blocks @ dct.T)                                        # the usual integer DCT keeps this much
    levels = eighths.sign() * ((eighths.abs() + 4 * steps) / (8 * steps)).floor()     # halves away from zero
    blocks = dct.T @ (levels * steps) @ dct
    return _round(blocks.transpose(3, 4).reshape(b, c, h, w) + 128).clamp(0, 255)


def jpeg_compression(x: Tensor, quality: float, draws: Draws) -> Tensor:
    """Baseline JPEG at a quality: YCbCr, chroma halved both ways (4:2:0), quantised 8 x 8 DCT, decoded again.

    Grey pictures are luma only. Sides are filled up to whole blocks by repeating the edge; the decoder
    interpolates chroma linearly (weights 3/4, 1/4). Entropy coding is lossless and left out.
    """
    _, c, h, w = x.shape
    if c not in (1, 3):
        raise ValueError(f"jpeg_compression needs grey (1) or colour (3) channels, got {c}")
    block = 8 if c == 1 else 16
    planes = F.pad(_round(x * 255), (0, -w % block, 0, -h % block), mode="replicate")
    if c == 1:
        return _coded(planes, quantisation(quality))[..., :h, :w] / 255
    r, g, b = planes.unbind(1)
    y = _round(0.299 * r + 0.587 * g + 0.114 * b)
    cb = _round(-0.168735892 * r - 0.331264108 * g + 0.5 * b + 128).clamp(0, 255)
    cr = _round(0.5 * r - 0.418687589 * g - 0.081312411 * b + 128).clamp(0, 255)
    y = _coded(y[:, None], quantisation(quality))[:, 0, :h, :w]
    halved = F.avg_pool2d(torch.stack([cb, cr], 1), 2)
    ties = torch.arange(halved.shape[3], device=x.device) % 2 / 4 + 0.25              # codecs alternate, so as not to drift
    small = _coded((halved + ties).floor(), quantisation(quality, chroma=True))[..., :(h + 1) // 2, :(w + 1) // 2]
    full = F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)[..., :h, :w]
    cb, cr = (_round(full) - 128).unbind(1)
    shifts = torch.stack([1.402 * cr, -0.344136286 * cb - 0.714136286 * cr, 1.772 * cb], 1)
    return (y[:, None] + _round(shifts)).clamp(0, 255) / 255


CORRUPTIONS = {
    "gaussian_noise": gaussian_noise, "defocus_blur": defocus_blur, "contrast": contrast, "brightness": brightness,
    "pixelate": pixelate, "jpeg_compression": jpeg_compression,
}


# --- choosing and applying --------------------------------------------------------------------------------------

def check_name(name: str) -> None:
    """Raise ValueError for a name that is neither a corruption nor "none"."""
    if name not in CORRUPTIONS and name not in CLEAN:
        raise ValueError(f"there is no corruption {name!r}; there are: {', '.join(CORRUPTIONS)}, and 'none' for clean images")


def check_severity(severity: float) -> None:
    """Raise ValueError unless severity is a number from 1 to 5."""
    if isinstance(severity, bool) or not isinstance(severity, numbers.Real) or not 1 <= severity <= 5:
        raise ValueError(f"severity must be a number from 1 to 5, got {severity!r}; clean images are the corruption 'none'")


def parameters(name: str, severity: float = 5, side: int = 32):
    """The parameters of one corruption: a number or a tuple of numbers, from the table of ``side``.

    A severity between two whole numbers is interpolated linearly in every parameter (arXiv 2306.05401 does so);
    qualities and pixel counts are rounded where they are used. Sides up to 48 use the 32 x 32 table; a larger side
    needs its own table, because the published strengths differ from size to size.
    """
    check_name(name)
    check_severity(severity)
    table = TABLES.get(side, TABLES[32] if side <= LARGEST_SMALL_SIDE else None)
    if table is None or name not in table:
        raise ValueError(f"there are no parameters of {name!r} for images of side {side}; tables exist for the sides "
                         f"{sorted(TABLES)} (32 serves up to {LARGEST_SMALL_SIDE}): add corruptions.TABLES[{side}][{name!r}] "
                         "with five severities, or resize the images")
    row, low = table[name], math.floor(severity)
    share = severity - low
    if not share:
        return row[low - 1]
    if isinstance(row[0], tuple):
        return tuple(a + share * (b - a) for a, b in zip(row[low - 1], row[low], strict=True))
    return row[low - 1] + share * (row[low] - row[low - 1])


def corrupt(x: Tensor, name: str, severity: float = 5, ids: Tensor | None = None, seed: int = 0, quantise: bool = True) -> Tensor:
    """The images under one corruption: float (B, C, H, W) in [0, 1] -> float32 of the same shape in [0, 1].

    ``name`` is one of ``CORRUPTIONS``, or "none" / "clean" (severity 0), which hands the images back. ``severity`` is 1 to 5,
    also between. ``ids`` int64 (B,) name the images: random draws depend on (seed, name, id, pixel) and on nothing
    else; without ids the position in the batch is taken. The same id has the same draws at all severities.
    ``quantise`` cuts down to steps of 1/255 by truncation, as the published sets do (about -0.5/255 in the mean
    against rounding); pixelate and jpeg_compression work in 8 bits inside with or without it.
    Raises ValueError for an unknown name, a severity out of range, and images that are not float in [0, 1].
    """
    check_name(name)
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim != 4:
        got = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"corrupt expects float images (batch, channels, height, width) in [0, 1], got {got}; "
                         "convert bytes with x.float() / 255, and a single image with x[None]")
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or not -2**63 <= seed < 2**64:
        raise ValueError(f"seed must be an integer of up to 64 bits, got {seed!r}")
    if ids is None:
        ids = torch.arange(len(x))
    if not isinstance(ids, Tensor) or ids.dtype != torch.int64 or ids.shape != x.shape[:1]:
        got = f"{ids.dtype} of shape {tuple(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
        raise ValueError(f"ids must be an int64 tensor with one id for each of the {len(x)} images, got {got}")
    if x.numel():
        low, high = (float(v) for v in x.detach().aminmax())
        if not (low >= 0 and high <= 1):  # written so that NaN is refused too
            raise ValueError(f"corrupt expects images in [0, 1], got values in [{low:.4g}, {high:.4g}]; divide bytes by 255, "
                             "undo a normalisation, remove NaN")
    if name in CLEAN:
        return x.float()
    p = parameters(name, severity, min(x.shape[2:]))
    if not x.numel():
        return x.float()
    with torch.no_grad():
        y = CORRUPTIONS[name](x.to(precise(x.device)), p, Draws(ids.to(x.device), int(seed), name)).clamp(0, 1)
        # a thousandth of a step: a value that lies on a step must not fall below it by rounding errors
        return ((y * 255 + 1e-3).floor() / 255 if quantise else y).float()
