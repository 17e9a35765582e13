"""The common corruptions as batched tensor functions, grey or colour, on any device.

Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations" (arXiv 1903.12261); operations and tables follow the public generators of
CIFAR-10-C, Tiny-ImageNet-C and ImageNet-C (hendrycks/robustness at 8190fe3, Apache-2.0). Every
image has draws of its own, so a picture made here is not a file of the published sets. A shift is
a text: "fog", "fog:3", "gaussian_noise:2.5+fog:1" (from left to right), or "none".

Sides (the smaller one of an image): up to 48 pixels the 32 x 32 table, up to 111 the 64 x 64
table, from 112 on the 224 x 224 table. There is no official table for 28 x 28, nor for any other
side: what the tables give as shares (elastic, pixelate) follows the real side, as do the scan of
glass_blur, the map of fog and the crop of frost; radii stay in pixels.

To add a corruption, write ``f(x, p, draws) -> y`` with x and y (B, C, H, W), p its entry of the
table (y may leave [0, 1], ``corrupt`` clips; x must not be written to), put it into
``CORRUPTIONS`` and its rows into ``tables.TABLES``.
"""
from __future__ import annotations

import math
import numbers
from concurrent.futures import ThreadPoolExecutor

import numpy
import torch
from torch import Tensor

from ...core.arguments import WrongKind, flag, nearest, whole
from ..shift import CLEAN, Shift
from .blurs import (
    defocus_blur,
    disk_kernel,
    gaussian_blur,
    glass_blur,
    glass_sources,
    motion_blur,
    zoom_blur,
)
from .digital import box_matrix, brightness, contrast, elastic_transform, pixelate, saturate
from .draws import Draws, precise
from .jpeg import jpeg_compression, quantisation
from .noise import gaussian_noise, impulse_noise, shot_noise, speckle_noise
from .tables import (
    ANCHORS,
    EXTRA_4,
    STANDARD_15,
    STANDARD_SIX,
    TABLES,
    at_severity,
    check_severity,
    table_side,
)
from .weather import fog, frost, snow, spatter

__all__ = [
    "ANCHORS", "CLEAN", "CORRUPTIONS", "EXTRA_4", "NOTES", "STANDARD_15", "STANDARD_SIX", "TABLES",
    "Draws", "box_matrix", "brightness", "check_name", "check_severity", "contrast", "corrupt",
    "defocus_blur", "disk_kernel", "elastic_transform", "fog", "frost", "gaussian_blur",
    "gaussian_noise", "glass_blur", "glass_sources", "impulse_noise", "jpeg_compression",
    "motion_blur", "parameters", "parse_shift", "pixelate", "precise", "quantisation", "saturate",
    "shot_noise", "snow", "spatter", "speckle_noise", "table_side", "zoom_blur"
]

CORRUPTIONS = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "snow": snow,
    "frost": frost,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic_transform": elastic_transform,
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
    "speckle_noise": speckle_noise,
    "gaussian_blur": gaussian_blur,
    "spatter": spatter,
    "saturate": saturate,
}
# what a reader of a table or a plot must be told
NOTES = {"frost": "frost (procedural): drawn pictures of frost in place of the five photographs "
                  "of the published sets"}

CHUNK = 2**17                   # values worked on at a time: temporaries stay in the cache
# Freeing one untouched block of this size tells glibc's allocator to keep blocks up to it for
# reuse: without that, every temporary of a
# 224 x 224 image is handed back to the system and fetched again page by page, which costs more
# than the arithmetic.
KEPT = 24 * 2**20
CHUNK_ELSEWHERE = 2**24         # or are small against the memory of an accelerator


def check_name(name: str) -> None:
    """Raise ValueError for a name that is neither a corruption nor "none"."""
    if not isinstance(name, str):
        raise WrongKind(f"a corruption is named by a text such as 'fog', not {name!r}")
    if name not in CORRUPTIONS and name not in CLEAN:
        raise ValueError(f"there is no corruption {name!r}; there are: {', '.join(CORRUPTIONS)}, "
                         f"and 'none' for clean images"
                         + nearest(name, CORRUPTIONS))


def parameters(name: str, severity: float = 5, side: int = 32):
    """The parameters of one corruption for images whose smaller side is ``side``: a number or a
    tuple of numbers.

    Published are the severities 1 to 5. Between two of them every parameter is interpolated
    linearly, except the rate c of shot_noise, of which 1/c is; below 1 from an anchor that changes
    nothing (``ANCHORS``), but jpeg_compression from quality 85, as CCC does (arXiv 2306.05401).
    Qualities, pixel counts, passes of glass_blur and steps of motion_blur are rounded where they
    are used.
    """
    check_name(name)
    check_severity(severity)
    side = whole("side", side, 1)
    if name in CLEAN:
        raise ValueError(f"{name!r} has no parameters: it stands for clean images")
    return at_severity(name, severity, side)


def parse_shift(text: str, severity: float = 5.0) -> tuple[tuple[str, float], ...]:
    """The steps of a shift as (name, severity): "fog" -> (("fog", severity),); "fog:3+contrast" ->
    (("fog", 3.0), ("contrast", severity)).

    A severity in the text wins over the argument; spaces around names and numbers mean nothing.
    "none" and "clean" give (). Raises ValueError for an unknown name, a severity that is not a
    number from 0 to 5, and "none" within a composition.
    """
    steps = Shift.parse(text).steps(severity)
    for name, value in steps:
        check_name(name)
        if name in CLEAN:
            raise ValueError(f"{name!r} stands alone, without a severity and not within a "
                             f"composition, got {text!r}")
        check_severity(value)
    return steps


def _working(name: str, x: Tensor) -> torch.dtype:
    """float64 for the first six on small images, as results already quoted were made; else
    float32, within 1e-3/255 of it (measured at 224 x 224)."""
    return (precise(x.device)
            if name in STANDARD_SIX and table_side(min(x.shape[2:])) != 224 else torch.float32)


def _empty(x: Tensor) -> Tensor:
    """Room for float32 results; on the CPU from numpy, which asks the system for huge pages: they
    arrive five times as fast."""
    if x.device.type == "cpu":
        return torch.from_numpy(numpy.empty(x.shape, numpy.float32))
    return torch.empty(x.shape, dtype=torch.float32, device=x.device)


def _apply(x: Tensor, name: str, p, draws: Draws, quantise: bool, out: Tensor) -> None:
    """One corruption, chunk by chunk, into ``out``. On the CPU each of torch's threads takes whole
    chunks.

    Threads that share every small operation would wait for each other thousands of times, and for
    very long on a busy machine.
    """
    f = CORRUPTIONS[name]
    dtype = _working(name, x)
    on_cpu = x.device.type == "cpu"
    # beyond 8, Python's lock is what they wait for
    threads = min(torch.get_num_threads(), 8) if on_cpu else 1
    chunks = math.ceil(x.numel() / (CHUNK if on_cpu else CHUNK_ELSEWHERE))
    if x.numel() > threads * CHUNK // 4:
        chunks = math.ceil(chunks / threads) * threads
    size = math.ceil(len(x) / chunks)

    @torch.no_grad()
    def work(start: int) -> None:
        rows = slice(start, start + size)
        y = f(x[rows].to(dtype).contiguous(), p, Draws(draws.ids[rows], draws.seed,
                                                       draws.name)).clamp(0, 1)
        # a thousandth of a step: a value that lies on a step must not fall below it by
        # rounding errors
        out[rows] = y.mul_(255).add_(1e-3).floor_().div_(255) if quantise else y

    starts = range(0, len(x), size)
    if not on_cpu:
        for start in starts:
            work(start)
        return
    torch.empty(KEPT, dtype=torch.uint8)
    before = torch.get_num_threads()
    # threads that start from here on inherit it
    torch.set_num_threads(1)
    try:
        if threads == 1 or len(starts) == 1:
            for start in starts:
                work(start)
        else:
            with ThreadPoolExecutor(threads) as pool:
                for _ in pool.map(work, starts):
                    pass
    finally:
        torch.set_num_threads(before)


def corrupt(x: Tensor, shift: str, severity: float = 5, ids: Tensor | None = None, seed: int = 0,
            quantise: bool = True) -> Tensor:
    """The images under a shift: float (B, C, H, W) in [0, 1] -> float32 of the same shape in [0,
    1].

    ``shift`` is the name of one of ``CORRUPTIONS``, a composition (see ``parse_shift``), or "none"
    / "clean", which hands the images back, as severity 0 does. ``severity`` is 0 to 5, also
    between whole numbers; one written in the text wins. ``ids`` int64 (B,) name the images: random
    draws depend on (seed, name, id, pixel) and on nothing else; without ids the position in the
    batch is taken. The same id has the same draws at all severities. ``quantise`` cuts down to
    steps of 1/255 by truncation, as the published sets do (about -0.5/255 in the mean against
    rounding); pixelate and jpeg_compression work in 8 bits inside with or without it, and all but
    the last of a composition are cut down in any case. Raises ValueError for an unknown name, a
    severity out of range, and images that are not float in [0, 1].
    """
    check_severity(severity)
    steps = parse_shift(shift, severity)
    quantise = flag("quantise", quantise)
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim != 4:
        got = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"corrupt expects float images (batch, channels, height, width) in [0, "
                         f"1], got {got}; "
                         "convert bytes with x.float() / 255, and a single image with x[None]")
    if isinstance(seed,
                  bool) or not isinstance(seed, numbers.Integral) or not -2**63 <= seed < 2**64:
        raise ValueError(f"seed must be an integer of up to 64 bits, got {seed!r}")
    if ids is None:
        ids = torch.arange(len(x))
    if not isinstance(ids, Tensor) or ids.dtype != torch.int64 or ids.shape != x.shape[:1]:
        got = (f"{ids.dtype} of shape {tuple(ids.shape)}"
               if isinstance(ids, Tensor) else type(ids).__name__)
        raise ValueError(f"ids must be an int64 tensor with one id for each of the {len(x)} "
                         f"images, got {got}")
    if x.numel():
        low, high = (float(v) for v in x.detach().aminmax())
        if not (low >= 0 and high <= 1):  # written so that NaN is refused too
            raise ValueError(f"corrupt expects images in [0, 1], got values in [{low:.4g}, "
                             f"{high:.4g}]; divide bytes by 255, "
                             "undo a normalisation, remove NaN")
    steps = [(name, value) for name, value in steps if value]
    if not steps or not x.numel():
        return x.float()
    side = min(x.shape[2:])
    ids = ids.to(x.device)
    seen = []
    with torch.no_grad():
        for i, (name, value) in enumerate(steps):
            out = _empty(x)
            # a corruption that comes again in a composition has draws of its own
            draws = Draws(ids, int(seed),
                          name if name not in seen else f"{name} {seen.count(name) + 1}")
            _apply(x, name, parameters(name, value, side), draws, quantise or i + 1 < len(steps),
                   out)
            x, seen = out, [*seen, name]
    return x
