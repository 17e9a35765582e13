"""Baseline JPEG without its lossless part, as batched tensor operations."""
from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .digital import nearest
from .draws import Draws
from .filters import need_colors

# ITU-T T.81, Annex K: the tables that every codec scales by its quality
LUMA = ((16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55),
        (14, 13, 16, 24, 40, 57, 69, 56), (14, 17, 22, 29, 51, 87, 80, 62),
        (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
        (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99))
# 99 in the rest of the 8 x 8
CHROMA = ((17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99))


def quantisation(quality: float, chroma: bool = False) -> Tensor:
    """The 8 x 8 table of steps at a quality of 1 to 100 (rounded): scale = 5000 / q below 50, else
    200 - 2 q per cent."""
    base = torch.full((8, 8), 99)
    if chroma:
        base[:4, :4] = torch.tensor(CHROMA)
    else:
        base = torch.tensor(LUMA)
    quality = min(max(round(quality), 1), 100)
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((base * scale + 50) // 100).clamp(1, 255)


def _blockwise(x: Tensor, matrix: Tensor) -> Tensor:
    """matrix block matrix^T for every 8 x 8 block of x (..., 8m, 8n); the layout of the image
    stays."""
    *rest, h, w = x.shape
    x = torch.bmm(matrix.expand(math.prod(rest) * h // 8, 8, 8), x.reshape(-1, 8, w))
    return (x.view(-1, 8) @ matrix.T).view(*rest, h, w)


def _coded(planes: Tensor, steps: Tensor) -> Tensor:
    """Planes (B, C, 8m, 8n) of 0 .. 255 through DCT, quantiser and back: what a decoder sees,
    integers 0 .. 255."""
    n = torch.arange(8, dtype=torch.float64)
    dct = torch.cos((2 * n + 1) * n[:, None] * math.pi / 16) / 2
    # rows are orthonormal
    dct[0] /= math.sqrt(2)
    if planes.device.type == "cuda":
        planes = planes.double()
    dct = dct.to(planes)
    steps = steps.to(planes).repeat(planes.shape[2] // 8, planes.shape[3] // 8)
    # the usual integer DCT keeps eighths
    levels = nearest(_blockwise(planes - 128, dct) * 8)
    sign = levels.sign()
    # halves away from zero
    levels = levels.abs_().add_(4 * steps).div_(8 * steps).floor_().mul_(sign)
    return nearest(_blockwise(levels.mul_(steps), dct.T.contiguous()) + 128).clamp_(0, 255)


def jpeg_compression(x: Tensor, quality: float, draws: Draws) -> Tensor:
    """Baseline JPEG at a quality: YCbCr, chroma halved both ways (4:2:0), quantised 8 x 8 DCT,
    decoded again.

    Grey pictures are luma only. Sides are filled up to whole blocks by repeating the edge; the
    decoder interpolates chroma linearly (weights 3/4, 1/4). Entropy coding is lossless and left
    out.
    """
    need_colors("jpeg_compression", x)
    _, c, h, w = x.shape
    block, kept = 8 if c == 1 else 16, x.dtype
    planes = F.pad(nearest(x * 255), (0, -w % block, 0, -h % block), mode="replicate")
    if c == 1:
        return (_coded(planes, quantisation(quality))[..., :h, :w] / 255).to(kept)
    r, g, b = planes.unbind(1)
    y = nearest(0.299 * r + 0.587 * g + 0.114 * b)
    cb = nearest(-0.168735892 * r - 0.331264108 * g + 0.5 * b + 128).clamp_(0, 255)
    cr = nearest(0.5 * r - 0.418687589 * g - 0.081312411 * b + 128).clamp_(0, 255)
    y = _coded(y[:, None], quantisation(quality))[:, 0, :h, :w]
    halved = F.avg_pool2d(torch.stack([cb, cr], 1), 2)
    # codecs alternate, so as not to drift
    ties = torch.arange(halved.shape[3], device=x.device) % 2 / 4 + 0.25
    small = _coded(halved.add_(ties).floor_(),
                   quantisation(quality, chroma=True))[..., :(h + 1) // 2, :(w + 1) // 2]
    full = F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)[..., :h, :w]
    cb, cr = nearest(full).sub_(128).unbind(1)
    shifts = torch.stack([1.402 * cr, -0.344136286 * cb - 0.714136286 * cr, 1.772 * cb], 1)
    return ((y[:, None] + nearest(shifts)).clamp_(0, 255) / 255).to(kept)
