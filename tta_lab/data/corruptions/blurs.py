"""Blurs: defocus, glass, motion, zoom, Gaussian."""
from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .draws import Draws, precise
from .filters import along, motion, padded, smooth, zoomed_transpose


def gaussian_blur(x: Tensor, sigma: float, draws: Draws) -> Tensor:
    """Gaussian smoothing cut at 4 sigma, edges repeated."""
    return smooth(x, sigma)


def _bell(sigma: float, reach: int) -> Tensor:
    steps = torch.arange(-reach, reach + 1, dtype=torch.float64)
    bell = torch.exp(-steps**2 / (2 * max(sigma, 1e-3) ** 2))
    return bell / bell.sum()


def _disk(radius: float) -> Tensor:
    """The grid points within ``radius``: bool, side 2 max(8, floor(radius)) + 1."""
    side = torch.arange(-max(8, math.floor(radius)),
                        max(8, math.floor(radius)) + 1, dtype=torch.float64)
    return side[:, None] ** 2 + side**2 <= radius**2


@lru_cache
def disk_kernel(radius: float, sigma: float) -> Tensor:
    """The grid points within ``radius``, sum 1, smoothed by a Gaussian of ``sigma``; trimmed to
    (2r+3, 2r+3), r = floor(radius).

    The Gaussian has 3 x 3 points up to radius 8, and 5 x 5 beyond. The generator's grid ends at 8,
    or at the radius where that is larger, with mirrored borders: from radius 8 on the smoothing
    therefore stays within (2r+1, 2r+1).
    """
    disk = _disk(radius).double()
    bell = _bell(sigma, 1 if radius <= 8 else 2)
    pad = len(bell) // 2
    blurred = F.conv2d(F.pad(disk[None, None] / disk.sum(), [pad] * 4, mode="reflect"),
                       torch.outer(bell, bell)[None, None])[0, 0]
    excess = len(disk) // 2 - (math.floor(radius) + 1)
    return blurred[excess:-excess, excess:-excess] if excess > 0 else blurred


def _weighted(x: Tensor, kernel: Tensor, height: int, width: int) -> Tensor:
    """Correlation as a sum of shifted images, over the entries of the kernel that are not
    negligible; x is padded already."""
    out = torch.zeros(*x.shape[:2], height, width, dtype=x.dtype, device=x.device)
    for i, j in (kernel.abs() > 1e-12).nonzero().tolist():
        out.add_(x[:, :, i:i + height, j:j + width], alpha=kernel[i, j].item())
    return out


def defocus_blur(x: Tensor, p: tuple[float, float], draws: Draws) -> Tensor:
    """Correlation with a smoothed disk, borders mirrored without repeating the edge. p = (radius,
    sigma).

    At severities 1 to 3 of the 32 x 32 table the disk is one point: a 3 x 3 Gaussian blur is what
    remains. From radius 2.5 on, each row of the disk is a difference of two running sums, in
    float64, and the smoothing of the disk is applied to the image instead.
    """
    radius, sigma = map(float, p)
    kernel = disk_kernel(radius, sigma)
    h, w = x.shape[2:]
    if radius < 2.5:
        return _weighted(padded(x, len(kernel) // 2, "mirror"), kernel, h, w)
    disk = _disk(radius)
    size, bell = len(disk) // 2, _bell(sigma, 1 if radius <= 8 else 2)
    few = len(bell) // 2                                                   # reach of the smoothing
    reach = math.floor(radius) + few
    wide_x = padded(x, reach, "mirror")
    high, wide = h + 2 * few, w + 2 * few
    # sum of the first i pixels of each row
    sums = F.pad(wide_x.to(precise(x.device)).cumsum(3), (1, 0))
    out = torch.zeros(*x.shape[:2], high, wide, dtype=sums.dtype, device=x.device)
    for dy in range(-math.floor(radius), math.floor(radius) + 1):
        half = int(disk[size + dy].sum()) // 2
        top = dy + math.floor(radius)
        left = math.floor(radius) - half
        rows = sums[:, :, top:top + high]
        out += rows[..., left + 2 * half + 1:left + 2 * half + 1 + wide]
        out -= rows[..., left:left + wide]
    out = out.div_(int(disk.sum())).to(x.dtype)
    out = along(along(out, 3, bell.tolist()), 2, bell.tolist())
    for i, j, weight in _correction(radius, sigma):
        out.add_(wide_x[:, :, i:i + h, j:j + w], alpha=weight)
    return out


@lru_cache
def _correction(radius: float, sigma: float) -> list[tuple[int, int, float]]:
    """The kernel less the plain smoothing of the disk, as (row, column, weight): what the border
    of the generator's grid changes, from radius 8 on. Weights below 1e-6 are left out, together
    less than a twentieth of a step of 1/255."""
    bell = _bell(sigma, 1 if radius <= 8 else 2)
    few, r = len(bell) // 2, math.floor(radius)
    disk, kernel = _disk(radius).double(), disk_kernel(radius, sigma)
    plain = F.conv2d(
        F.pad(disk / disk.sum(), [2 * few] * 4)[None, None],
        torch.outer(bell, bell)[None, None])[0, 0]
    excess = len(plain) // 2 - r - few
    # (2 (r + few) + 1) on a side
    plain = plain[excess:len(plain) - excess, excess:len(plain) - excess]
    excess = (len(kernel) - len(plain)) // 2
    change = F.pad(kernel, [-excess] * 4) - plain
    return [(i, j, change[i, j].item()) for i, j in (change.abs() > 1e-6).nonzero().tolist()]


def motion_blur(x: Tensor, p: tuple[float, float], draws: Draws) -> Tensor:
    """One-sided Gaussian weights along a line at an angle uniform in [-45, 45] degrees. p =
    (radius, sigma); see ``filters.motion``."""
    return motion(x, *p, (draws.uniform(1)[:, 0] - 0.5) * (math.pi / 2))


def zoom_blur(x: Tensor, p: tuple[float, float], draws: Draws) -> Tensor:
    """(x + sum_z zoom_z(x)) / (n + 1) over n zooms 1, 1 + step, ..., up to the last. p = (last,
    step); the list contains 1, so that the image itself counts twice. Between the published
    severities the end of the list moves, and the count steps with it."""
    last, step = p
    # as a range of floats has it; 26 x 1.25 pixels are rounded up for that
    spacing = (1 + step) - 1
    zooms = [1 + i * spacing for i in range(math.floor((last - 1) / step + 1e-6) + 1)]
    out = x.transpose(2, 3).contiguous() * 2
    for zoom in zooms[1:]:
        out += zoomed_transpose(x, zoom)
    return out.div_(len(zooms) + 1).transpose(2, 3)


def glass_sources(h: int, w: int, reach: int, passes: int, draws: Draws) -> Tensor:
    """Which pixel each pixel shows after the scans of ``glass_blur``: flat indices, int64 (B, h w).

    A scan visits rows h - reach down to reach + 1, in each the columns w - reach down to reach +
    1, and copies to the pixel the one at (dy, dx), each uniform in -reach .. reach - 1, as it is
    by then. Where that pixel was visited before, what it shows is its own source in the same scan:
    chains of copies, followed to their ends by doubling, all images at once. This is exact.
    """
    b, device = len(draws.ids), draws.ids.device
    n = h * w
    here = torch.arange(n, device=device)
    row, column = here // w, here % w
    visited = ((row > reach) & (row <= h - reach) & (column > reach) &
               (column <= w - reach)).expand(b, n)
    total = None
    for scan in range(passes):
        words = draws.words(n, scan)
        step = ((words >> 16 & 0xFFFF).mul_(2 * reach) >> 16).sub_(reach).mul_(w)      # dy w
        step += ((words & 0xFFFF).mul_(2 * reach) >> 16).sub_(reach)                   # + dx
        step *= visited
        source = here + step
        if reach > 1:
            # a scan goes backwards: the pixel read was visited before exactly if its
            # index is larger; its chain goes on
            onward = (step > 0) & visited.gather(1, source)
            # indices from n on are ends
            links = torch.cat([source + n - n * onward.long(), (here + n).expand(b, n)], 1)
            while True:
                further = links.gather(1, links[:, :n])
                if torch.equal(further, links[:, :n]):
                    break
                links[:, :n] = further
            source = links[:, :n] - n
        total = source if total is None else total.gather(1, source)
    return total


def glass_blur(x: Tensor, p: tuple[float, float, float], draws: Draws) -> Tensor:
    """Gaussian blur, cut down to bytes, pixels copied from near ones in a sequential scan,
    Gaussian blur again. p = (sigma, reach, passes).

    The scan copies, it does not swap: the generator exchanges two views of one array, and both end
    up with the far pixel's value. Between the published severities the reach is rounded down and
    the passes to the nearest; below a reach of 1 nothing moves.
    """
    sigma, reach, passes = p
    reach, passes = math.floor(reach + 1e-6), math.floor(passes + 0.5)
    b, c, h, w = x.shape
    x = smooth(x, sigma).mul(255).add_(1e-3).floor_().div_(255)
    if reach >= 1 and passes:
        sources = glass_sources(h, w, reach, passes, draws)
        x = x.view(b, c, h * w).gather(2, sources[:, None].expand(b, c, h * w)).view(b, c, h, w)
    return smooth(x, sigma)
