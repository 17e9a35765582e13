"""Brightness, contrast, saturation, elastic deformation, pixelation."""
from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from .draws import Draws, precise
from .filters import need_colors, sample, smooth


def contrast(x: Tensor, factor: float, draws: Draws) -> Tensor:
    """(x - m) factor + m, with m the mean of each channel of each picture."""
    mean = x.mean((2, 3), keepdim=True, dtype=precise(x.device)).to(x.dtype)
    return (x - mean).mul_(factor).add_(mean)


def brightness(x: Tensor, shift: float, draws: Draws) -> Tensor:
    """V + shift in hue-saturation-value space; V is the largest channel, for grey the value itself.

    Hue and saturation stay, so the colour is scaled by V'/V, with V' = min(V + shift, 1); black
    becomes grey.
    """
    value = x.amax(1, keepdim=True)
    brighter = (value + shift).clamp_(0, 1)
    return torch.where(value > 0, x * (brighter / value.clamp(min=1e-12)), brighter)


def saturate(x: Tensor, p: tuple[float, float], draws: Draws) -> Tensor:
    """S' = clip(gain S + offset) in hue-saturation-value space. p = (gain, offset).

    Each channel is V - (V - x) S'/S. Grey pixels have no hue, which counts as red: (V, V (1 - S'),
    V (1 - S')). A grey image is taken as the colour (V, V, V), and the luma of the result is kept:
    gains change nothing there, offsets darken.
    """
    gain, offset = p
    need_colors("saturate", x)
    if x.shape[1] == 1:
        return x * (1 - min(max(offset, 0), 1) * (0.587 + 0.114))
    value = x.amax(1, keepdim=True)
    below = value - x
    chroma = below.amax(1, keepdim=True)
    saturation = torch.where(value > 0, chroma / value.clamp(min=1e-12), 0)
    new = (saturation * gain).add_(offset).clamp_(0, 1).mul_(value)       # V S'
    below *= new / chroma.clamp(min=1e-12)
    if offset > 0:
        below[:, 1:] = torch.where(chroma > 0, below[:, 1:], new)
    return value - below


def affine_rows(h: int, w: int, moves: Tensor) -> Tensor:
    """The map from target to source pixels that takes three control points, moved by ``moves``,
    back to their places.

    The points lie at centre + s (1, 1), s (1, -1), s (-1, -1) in (column, row), with s a third of
    the smaller side and moves (B, 3, 2) in pixels. Returns A (B, 2, 3): source (column, row) = A
    (column, row, 1).
    """
    s, centre = min(h, w) // 3, moves.new_tensor([w // 2, h // 2])
    old = centre + moves.new_tensor([[s, s], [s, -s], [-s, -s]])
    new = old + moves
    # linear part L: new0 - new1 = L (0, 2s), new1 - new2 = L (2s, 0)
    linear = torch.stack([new[:, 1] - new[:, 2], new[:, 0] - new[:, 1]], 2) / (2 * max(s, 1))
    (a, b), (c, d) = (row.unbind(1) for row in linear.unbind(1))
    inverse = torch.stack([d, -b, -c, a], 1).view(-1, 2, 2) / (a * d - b * c)[:, None, None]
    return torch.cat([inverse, old[0][:, None] - inverse @ new[:, 0, :, None]], 2)


def elastic_transform(x: Tensor, p: tuple[float, float, float], draws: Draws) -> Tensor:
    """A random affine map, then displacements alpha G(U(-1, 1)), both with linear interpolation. p
    = (alpha, sigma, affine) in sides.

    The three control points of the affine map move by U(-affine, affine); its border is mirrored
    without the edge. G is a Gaussian of ``sigma`` cut at 3 sigma; its border and that of the
    displaced image repeat the edge when mirrored. The unit is the smaller side; for the 224 x 224
    table it is 244/224 of it, as the generator has 244 where 224 was meant.
    """
    h, w = x.shape[2:]
    unit = min(h, w) * (244 / 224 if min(h, w) >= 112 else 1)
    alpha, sigma, affine = (unit * value for value in p)
    moves = (draws.uniform(6) * 2 - 1).mul_(affine).view(-1, 3, 2)
    maps = affine_rows(h, w, moves).to(x.dtype)
    column = torch.arange(w, device=x.device, dtype=x.dtype)
    row = torch.arange(h, device=x.device, dtype=x.dtype)[:, None]
    if affine:
        place = [
            maps[:, i, :1, None] * column + (maps[:, i, 1:2, None] * row + maps[:, i, 2:, None])
            for i in (0, 1)
        ]
        x = sample(x, *place, border="mirror")
    if alpha:
        fields = draws.uniform32(2 * h * w, salt=1).to(x.dtype).mul_(2).sub_(1).view(-1, 2, h, w)
        fields = smooth(fields, sigma, cut=3.0, border="reflect").mul_(alpha)
        x = sample(x, column + fields[:, 0], row + fields[:, 1], border="reflect")
    return x


@lru_cache
def box_matrix(before: int, after: int) -> Tensor:
    """The box filter of image libraries as a matrix (after, before): each new pixel is the plain
    mean of the old ones whose centres lie within half a new pixel of its own centre."""
    scale = before / after
    support = 0.5 * max(scale, 1.0)
    centre = (torch.arange(after, dtype=torch.float64) + 0.5) * scale
    # (after, before)
    distance = torch.arange(before) + 0.5 - centre[:, None]
    inside = ((distance > -support) & (distance <= support)).double()
    return inside / inside.sum(1, keepdim=True)


def nearest(x: Tensor) -> Tensor:
    """To the nearest integer, halves upwards, as codecs do (torch.round takes halves to even)."""
    return (x + 0.5).floor_()


def _resize(x: Tensor, height: int, width: int) -> Tensor:
    """Box filter along the rows, then along the columns, each pass rounded to 8 bits; values 0 ..
    255."""
    for dim, size in ((3, width), (2, height)):
        before = x.shape[dim]
        matrix = box_matrix(before, size)
        if size >= before:  # every new pixel is one of the old
            x = x.index_select(dim, matrix.argmax(1).to(x.device))
            continue
        taps = math.ceil(before / size) + 1
        first = (matrix > 0).double().argmax(1).clamp(max=before - 1)
        out = None
        for i in range(taps):
            index = (first + i).clamp(max=before - 1)
            weight = torch.where(first + i < before, matrix[torch.arange(size), index], 0).to(x)
            part = (x.index_select(dim, index.to(x.device)) *
                    (weight if dim == 3 else weight[:, None]))
            out = part if out is None else out.add_(part)
        x = out.add_(0.5).floor_()
    return x


def pixelate(x: Tensor, factor: float, draws: Draws) -> Tensor:
    """Box-filter down to int(factor side) pixels and up again, in 8-bit steps as image libraries
    do."""
    height, width = x.shape[2:]
    small = _resize(nearest(x * 255), max(1, int(height * factor)), max(1, int(width * factor)))
    return _resize(small, height, width).div_(255)
