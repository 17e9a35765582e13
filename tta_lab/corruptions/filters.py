"""What several corruptions share: borders, smoothing, zooming, shifting and sampling of batches of images."""
from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

GREY = (0.299, 0.587, 0.114)   # weights of red, green and blue in the luma


def need_colours(name: str, x: Tensor) -> None:
    """Raise ValueError unless the images are grey (1 channel) or colour (3)."""
    if x.shape[1] not in (1, 3):
        raise ValueError(f"{name} needs grey (1) or colour (3) channels, got {x.shape[1]}")


def luma(x: Tensor) -> Tensor:
    """Grey value (B, 1, H, W) of a colour image by the weights of ITU-R BT.601; a grey image itself."""
    if x.shape[1] == 1:
        return x
    r, g, b = x.split(1, 1)
    return (r * GREY[0]).add_(g, alpha=GREY[1]).add_(b, alpha=GREY[2])


def fold(index: Tensor, n: int, border: str) -> Tensor:
    """Indices outside 0 .. n-1 brought inside: "repeat" a|ab|b, "mirror" b|ab|a without the edge, "reflect" ba|ab with it."""
    if border == "repeat" or n == 1:
        return index.clamp(0, n - 1)
    period = 2 * n - 2 if border == "mirror" else 2 * n
    index = index % period
    return torch.minimum(index, period - index - (border == "reflect"))


@lru_cache(maxsize=64)
def gaussian_matrix(n: int, sigma: float, cut: float, border: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Smoothing along n pixels by a Gaussian cut at ``cut`` sigma, as an (n, n) matrix; the border is folded into it."""
    reach = int(cut * sigma + 0.5)
    steps = torch.arange(-reach, reach + 1)
    weights = torch.exp(-0.5 * (steps.double() / sigma) ** 2) if reach else torch.ones(1, dtype=torch.float64)
    target = fold(torch.arange(n)[:, None] + steps, n, border)
    matrix = torch.zeros(n, n, dtype=torch.float64).scatter_add_(1, target, (weights / weights.sum()).expand(n, -1).contiguous())
    return matrix.to(device, dtype)


def product(rows: Tensor, x: Tensor, columns: Tensor) -> Tensor:
    """rows x columns^T for every plane of x (B, C, H, W): in float64 on a GPU, where float32 products may be shortened to TF32.

    Every plane is a product of its own, so that its digits do not depend on how many there are.
    """
    b, c, h, w = x.shape
    planes = x.reshape(b * c, h, w)
    kept = planes.dtype
    if planes.device.type == "cuda":
        rows, planes, columns = rows.double(), planes.double(), columns.double()
    planes = torch.bmm(planes, columns.T.expand(b * c, w, len(columns)))
    planes = torch.bmm(rows.expand(b * c, len(rows), h), planes)
    return planes.view(b, c, len(rows), len(columns)).to(kept)


def smooth(x: Tensor, sigma: float, cut: float = 4.0, border: str = "repeat") -> Tensor:
    """Gaussian smoothing of each channel; without effect where the cut leaves one point."""
    if int(cut * sigma + 0.5) == 0:
        return x
    rows, columns = (gaussian_matrix(n, float(sigma), cut, border, x.dtype, x.device) for n in x.shape[2:])
    return product(rows, x, columns)


def centre_zoom(x: Tensor, zoom: float) -> Tensor:
    """The centre of ceil(side / zoom) pixels enlarged by ``zoom`` with a linear spline, and trimmed to the old size."""
    size = x.shape[2:]
    small = [math.ceil(n / zoom) for n in size]
    large = [max(n, round(s * zoom)) for n, s in zip(size, small, strict=True)]
    top, left = ((n - s) // 2 for n, s in zip(size, small, strict=True))
    centre = x[:, :, top:top + small[0], left:left + small[1]].contiguous()
    big = F.interpolate(centre, large, mode="bilinear", align_corners=True)
    top, left = ((b - n) // 2 for n, b in zip(size, large, strict=True))
    return big[:, :, top:top + size[0], left:left + size[1]]


def motion(x: Tensor, radius: float, sigma: float, angle: Tensor) -> Tensor:
    """sum_i w_i x(shifted by i steps along an angle of each image), w_i ~ exp(-i^2 / (2 sigma^2)), i = 0 .. 2 radius.

    angle (B,) float64 in radians. Shifts are whole pixels, dy = -ceil(i sin a - 1/2), dx = -ceil(i cos a - 1/2), edges are repeated.
    Weights below 1e-7 are left out.
    """
    steps = torch.arange(math.floor(2 * radius + 1e-6) + 1, dtype=torch.float64)
    weights = torch.exp(-steps**2 / (2 * max(sigma, 1e-6) ** 2))
    weights = (weights / weights.sum())[weights > 1e-7 * weights.sum()]
    b, c, h, w = x.shape
    reach, steps = len(weights) - 1, steps[:len(weights)].to(angle)
    if not reach:
        return x
    x = F.pad(x, [reach] * 4, mode="replicate")
    plane, row = x.stride(1), x.stride(2)
    down, right = (torch.ceil(steps * f(angle)[:, None] - 0.5).long() + reach for f in (torch.sin, torch.cos))    # (B, steps)
    start = down * row + right
    # every window of the padded image is one start in memory: picking (image, start) copies whole rows
    windows = x.as_strided((b, 1 + 2 * reach * (row + 1), c, h, w), (x.stride(0), 1, plane, row, 1))
    image, out = torch.arange(b, device=x.device), None
    for i, weight in enumerate(weights.tolist()):
        shifted = windows[image, start[:, i]]
        out = shifted.mul_(weight) if out is None else out.add_(shifted, alpha=weight)
    return out


def sample(x: Tensor, columns: Tensor, rows: Tensor, border: str) -> Tensor:
    """x at the positions (columns, rows) in pixels, both (B, H, W), linear between pixels; border "mirror" or "reflect"."""
    h, w = x.shape[2:]
    inner = border == "mirror"
    grid = torch.empty(*columns.shape, 2, dtype=columns.dtype, device=x.device)
    for i, (position, n) in enumerate(((columns, w), (rows, h))):
        a, b = (2 / max(n - 1, 1), -1) if inner else (2 / n, 1 / n - 1)
        torch.mul(position, a, out=grid[..., i]).add_(b)
    return F.grid_sample(x, grid.to(x.dtype), mode="bilinear", padding_mode="reflection", align_corners=inner)
