"""What several corruptions share: borders, smoothing, zooming, shifting and sampling of batches of
images."""
from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

GREY = (0.299, 0.587, 0.114)   # weights of red, green and blue in the luma


def need_colors(name: str, x: Tensor) -> None:
    """Raise ValueError unless the images are grey (1 channel) or colour (3)."""
    if x.shape[1] not in (1, 3):
        raise ValueError(f"{name} needs grey (1) or colour (3) channels, got {x.shape[1]}")


def luma(x: Tensor) -> Tensor:
    """Grey value (B, 1, H, W) of a colour image by the weights of ITU-R BT.601; a grey image
    itself."""
    if x.shape[1] == 1:
        return x
    r, g, b = x.split(1, 1)
    return (r * GREY[0]).add_(g, alpha=GREY[1]).add_(b, alpha=GREY[2])


def fold(index: Tensor, n: int, border: str) -> Tensor:
    """Indices outside 0 .. n-1 brought inside: "repeat" a|ab|b, "mirror" b|ab|a without the edge,
    "reflect" ba|ab with it."""
    if border == "repeat" or n == 1:
        return index.clamp(0, n - 1)
    period = 2 * n - 2 if border == "mirror" else 2 * n
    index = index % period
    return torch.minimum(index, period - index - int(border == "reflect"))


def padded(x: Tensor, reach: int, border: str) -> Tensor:
    """``reach`` pixels more on every side, filled as ``fold`` says."""
    if border == "repeat" or border == "mirror" and reach < min(x.shape[2:]):
        return F.pad(x, [reach] * 4, mode="replicate" if border == "repeat" else "reflect")
    for dim in (3, 2):
        n = x.shape[dim]
        x = x.index_select(dim, fold(torch.arange(-reach, n + reach, device=x.device), n, border))
    return x


@lru_cache(maxsize=64)
def gaussian_weights(sigma: float, cut: float) -> Tensor:
    """A Gaussian at whole pixels up to int(cut sigma + 1/2), of sum 1, float64."""
    reach = int(cut * sigma + 0.5)
    steps = torch.arange(-reach, reach + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (steps / max(sigma, 1e-6)) ** 2)
    return weights / weights.sum()


@lru_cache(maxsize=64)
def gaussian_matrix(n: int, sigma: float, cut: float, border: str, dtype: torch.dtype,
                    device: torch.device) -> Tensor:
    """Smoothing along n pixels as an (n, n) matrix; the border is folded into it."""
    weights = gaussian_weights(sigma, cut)
    reach = len(weights) // 2
    target = fold(torch.arange(n)[:, None] + torch.arange(-reach, reach + 1), n, border)
    matrix = torch.zeros(n, n, dtype=torch.float64).scatter_add_(1, target,
                                                                 weights.expand(n, -1).contiguous())
    return matrix.to(device, dtype)


def along(x: Tensor, dim: int, weights: list[float]) -> Tensor:
    """sum_i weights_i x shifted by i along a dimension, which gets shorter by their number less
    1."""
    n = x.shape[dim] - len(weights) + 1
    out = x.narrow(dim, 0, n) * weights[0]
    for i, weight in enumerate(weights[1:], 1):
        out.add_(x.narrow(dim, i, n), alpha=weight)
    return out


def product(rows: Tensor, x: Tensor, columns: Tensor) -> Tensor:
    """rows x columns^T for every plane of x (B, C, H, W): in float64 on a GPU, where float32
    products may be shortened to TF32.

    Every plane is a product of its own, so that its digits do not depend on how many there are.
    """
    b, c, h, w = x.shape
    planes = x.reshape(b * c, h, w)
    kept = planes.dtype
    if planes.device.type == "cuda":
        rows = rows.double()
        planes = planes.double()
        columns = columns.double()
    planes = torch.bmm(planes, columns.T.expand(b * c, w, len(columns)))
    planes = torch.bmm(rows.expand(b * c, len(rows), h), planes)
    return planes.view(b, c, len(rows), len(columns)).to(kept)


def smooth(x: Tensor, sigma: float, cut: float = 4.0, border: str = "repeat") -> Tensor:
    """Gaussian smoothing of each channel; without effect where the cut leaves one point.

    A short Gaussian is a sum of shifted images, a long one (more than an eighth of the side) a
    product with matrices.
    """
    reach = int(cut * sigma + 0.5)
    if reach == 0:
        return x
    if 8 * (2 * reach + 1) <= min(x.shape[2:]):
        weights = gaussian_weights(float(sigma), cut).tolist()
        return along(along(padded(x, reach, border), 3, weights), 2, weights)
    rows, columns = (gaussian_matrix(n, float(sigma), cut, border, x.dtype, x.device)
                     for n in x.shape[2:])
    return product(rows, x, columns)


@lru_cache(maxsize=256)
def _zoom_taps(n: int, zoom: float, dtype: torch.dtype,
               device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For every new pixel of ``centre_zoom`` along a side of n: the two old ones around it, and
    the share of the second."""
    small = math.ceil(n / zoom)
    large = max(n, round(small * zoom))
    place = ((torch.arange(n, dtype=torch.float64) + (large - n) // 2) *
             ((small - 1) / max(large - 1, 1)))
    low = place.floor().clamp(max=max(small - 2, 0))
    first = low.long() + (n - small) // 2
    return first.to(device), (first + 1).clamp(max=n - 1).to(device), (place - low)[:, None].to(
        device, dtype)


def zoomed_transpose(x: Tensor, zoom: float) -> Tensor:
    """``centre_zoom`` with rows and columns exchanged, which saves an exchange where many are
    summed."""
    for dim in (0, 1):
        low, high, share = _zoom_taps(x.shape[2], zoom, x.dtype, x.device)
        x = x.index_select(2, low).lerp_(x.index_select(2, high), share)
        x = x.transpose(2, 3).contiguous() if dim == 0 else x
    return x


def centre_zoom(x: Tensor, zoom: float) -> Tensor:
    """The centre of ceil(side / zoom) pixels enlarged by ``zoom`` with a linear spline, and
    trimmed to the old size."""
    return x if zoom == 1 else zoomed_transpose(x, zoom).transpose(2, 3)


def motion(x: Tensor, radius: float, sigma: float, angle: Tensor) -> Tensor:
    """sum_i w_i x(shifted by i steps along an angle of each image), w_i ~ exp(-i^2 / (2 sigma^2)),
    i = 0 .. 2 radius.

    angle (B,) float64 in radians. Shifts are whole pixels, dy = -ceil(i sin a - 1/2), dx = -ceil(i
    cos a - 1/2), edges are repeated. Weights below 1e-7 are left out.
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
    # (B, steps)
    down, right = (torch.ceil(steps * f(angle)[:, None] - 0.5).long() + reach
                   for f in (torch.sin, torch.cos))
    start = down * row + right
    # every window of the padded image is one start in memory: picking (image, start) copies
    # whole rows
    windows = x.as_strided((b, 1 + 2 * reach * (row + 1), c, h, w), (x.stride(0), 1, plane, row, 1))
    image = torch.arange(b, device=x.device)
    single = start[0].tolist() if b == 1 else None
    out = torch.zeros(b, c, h, w, dtype=x.dtype, device=x.device)
    for i, weight in enumerate(weights.tolist()):
        out.add_(windows[:, single[i]] if single else windows[image, start[:, i]], alpha=weight)
    return out


def sample(x: Tensor, columns: Tensor, rows: Tensor, border: str) -> Tensor:
    """x at the positions (columns, rows) in pixels, both (B, H, W), linear between pixels; border
    "mirror" or "reflect"."""
    h, w = x.shape[2:]
    inner = border == "mirror"
    grid = torch.empty(*columns.shape, 2, dtype=columns.dtype, device=x.device)
    for i, (position, n) in enumerate(((columns, w), (rows, h))):
        a, b = (2 / max(n - 1, 1), -1) if inner else (2 / n, 1 / n - 1)
        torch.mul(position, a, out=grid[..., i]).add_(b)
    return F.grid_sample(x, grid.to(x.dtype), mode="bilinear", padding_mode="reflection",
                         align_corners=inner)
