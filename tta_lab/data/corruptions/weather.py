"""Weather: snow, frost, fog, and spatter on the lens."""
from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .draws import Draws
from .filters import GREY, centre_zoom, fold, luma, motion, need_colors, smooth
from .tables import table_side


def snow(x: Tensor, p: tuple[float, ...], draws: Draws) -> Tensor:
    """Flakes blurred along their fall, over a picture turned pale. p = (mean, std, zoom,
    threshold, radius, sigma, mix).

    The layer is an N(mean, std^2) field, centre-zoomed, zero below the threshold, in bytes,
    motion-blurred at an angle uniform in [-135, -45] degrees. Result: mix x + (1 - mix) max(x, 1.5
    luma + 0.5), plus the layer, plus the layer turned by 180 degrees.
    """
    mean, std, zoom, threshold, radius, sigma, mix = p
    need_colors("snow", x)
    h, w = x.shape[2:]
    layer = draws.normal32(h * w).to(x.dtype).view(-1, 1, h, w).mul_(std).add_(mean)
    layer = centre_zoom(layer, zoom)
    layer = torch.where(layer < threshold, 0, layer).clamp_(0, 1).mul_(255).floor_().div_(255)
    angle = -(draws.uniform(1, salt=1)[:, 0] + 0.5) * (math.pi / 2)
    layer = motion(layer, radius, sigma, angle)
    pale = torch.maximum(x, luma(x).mul(1.5).add_(0.5))
    return pale.mul_(1 - mix).add_(x, alpha=mix).add_(layer + layer.flip(2, 3))


# --- frost --------------------------------------------------------------------------------------

FROST_PICTURES = 5
FROST_SIDE = 512
FROST_SCALE = {32: 0.2, 64: 0.3, 224: 1.0}


def _speck(draws: Draws, n: int, salt: int) -> Tensor:
    return draws.uniform(n, salt)[0]


def _plasma(side: int, draws: Draws, decay: float) -> Tensor:
    return diamond_square(side, decay, draws)[0].double()


def _ferns(side: int, draws: Draws) -> Tensor:
    """Ice crystals: bent stems that carry needles, which carry needles, drawn as points on a
    torus; (side, side) in [0, 1]."""
    canvas = torch.zeros(side * side, dtype=torch.float64)

    def draw(x, y, weight):
        index = (y.floor().long() % side) * side + x.floor().long() % side
        canvas.index_add_(0, index.flatten(), weight.expand_as(x).flatten())

    def steps(n):
        return torch.linspace(0, 1, n, dtype=torch.float64)

    stems, along = 150, 120
    x, y, heading, length, bend = (_speck(draws, stems, salt)[:, None] for salt in range(5))
    t = steps(along)
    reach = side * (0.06 + 0.5 * length**3)
    # (stems, along)
    heading = 2 * math.pi * heading + (bend - 0.5) * 2.5 * t
    x = x * side + (heading.cos() * reach / along).cumsum(1)
    y = y * side + (heading.sin() * reach / along).cumsum(1)
    draw(x, y, 0.8 * (1 - 0.7 * t))
    chance = _speck(draws, stems * along * 4, 5).view(stems, along, 4)
    for turn in (0, 1):
        out = heading + (1 - 2 * turn) * (math.pi / 3 + 0.5 * (chance[..., turn] - 0.5))
        # needles of very different length
        size = reach * 0.3 * (1 - t) * chance[..., 2 + turn] ** 2 * (chance[..., turn] > 0.6)
        s = steps(40)
        nx, ny = (p[..., None] + f(out)[..., None] * size[..., None] * s
                  for p, f in ((x, torch.cos), (y, torch.sin)))
        draw(nx, ny, 0.3 * (1 - 0.9 * s))
        # needles on the needles
        for again in (0, 1):
            angle = (out + (1 - 2 * again) * math.pi / 3)[..., None, None]
            tip = (size * 0.3)[..., None, None] * (1 - s[4::7, None]) * steps(8)
            draw(nx[..., 4::7, None] + angle.cos() * tip, ny[..., 4::7, None] + angle.sin() * tip,
                 torch.full((1,), 0.12, dtype=torch.float64))
    return 1 - torch.exp(-canvas.view(side, side))


@lru_cache
def frost_pictures(scale: float) -> Tensor:
    """Five procedural pictures of frost, periodic, float64 (5, 3, n, n) in [0, 1], n = 512 scale;
    made once, from fixed draws.

    Ice ferns over clouds, with the mean colour and the spread that the generator's photographs
    show in its results.
    """
    if scale != 1:
        n = round(FROST_SIDE * scale)
        return F.interpolate(frost_pictures(1.0), (n, n), mode="area")
    pictures = []
    for k in range(FROST_PICTURES):
        draws = Draws(torch.tensor([k]), 0, "frost pictures")
        clouds, cover, veins = (_plasma(FROST_SIDE, Draws(draws.ids, 0, f"frost {part}"), decay)
                                for part, decay in (("clouds", 1.7), ("cover", 2.6), ("veins",
                                                                                      1.6)))
        ice = _ferns(FROST_SIDE, draws)
        ice = 0.5 * ice + 0.5 * smooth(ice[None, None], 1.5)[0, 0]
        # bright where the noise crosses its middle
        veins = (1 - (2 * veins - 1).abs()) ** 4
        grey = sum(weight * (part - part.mean()) / part.std()
                   for weight, part in ((0.7, clouds), (0.8, ice), (0.45, veins), (0.4, cover)))
        grey = (grey - grey.mean()) / grey.std()
        color = [
            mean + spread * grey + tint * (cover - cover.mean())
            for mean, spread, tint in FROST_COLOUR
        ]
        pictures.append(torch.stack(color).clamp(0, 1))
    return torch.stack(pictures)


# mean, spread and tint of red, green, blue
FROST_COLOUR = ((0.57, 0.215, -0.10), (0.65, 0.195, 0.0), (0.70, 0.175, 0.08))


@lru_cache(maxsize=8)
def _frost_tiles(scale: float, h: int, w: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The pictures repeated until a crop of (h, w) fits at every start."""
    pictures = frost_pictures(scale)
    n = pictures.shape[2]
    return pictures[:, :, torch.arange(n + h - 1) % n][...,
                                                       torch.arange(n + w - 1) % n].contiguous().to(
                                                           device, dtype)


def frost(x: Tensor, p: tuple[float, float], draws: Draws) -> Tensor:
    """frost (procedural): a x + b f with f a random crop of a picture of frost. p = (a, b).

    The published sets use five photographs, which are not ours to give: f comes from
    ``frost_pictures``, drawn by rule and fitted to the photographs in mean colour and spread. The
    pictures are scaled by 0.2 for the 32 x 32 table, by 0.3 for 64 x 64. Grey images get the luma
    of the frost.
    """
    a, b = p
    need_colors("frost", x)
    h, w = x.shape[2:]
    tiles = _frost_tiles(FROST_SCALE[table_side(min(h, w))], h, w, x.dtype, x.device)
    n = tiles.shape[2] - h + 1
    which, top, left = (draws.uniform(3) *
                        draws.ids.new_tensor([FROST_PICTURES, n, n])).long().unbind(1)
    windows = tiles.as_strided((len(tiles), n, n, 3, h, w),
                               (tiles.stride(0), tiles.stride(2), 1, *tiles.stride()[1:]))
    return luma_like(x, windows[which, top, left]).mul(b).add_(x, alpha=a)


def luma_like(x: Tensor, color: Tensor) -> Tensor:
    """The colours themselves, or their luma where the images are grey."""
    return luma(color) if x.shape[1] == 1 else color


# --- fog ----------------------------------------------------------------------------------------

def diamond_square(side: int, decay: float, draws: Draws) -> Tensor:
    """Random heights by the diamond-square rule on a torus, scaled to [0, 1]; side a power of two;
    float32 (B, side, side).

    From corners of 0, each level adds the midpoints of squares, then of edges: the mean of four
    neighbours plus w^2 U(-1, 1), with w = 100 at first, divided by ``decay`` after each level.
    """
    b = len(draws.ids)
    u = draws.uniform32(side * side).mul_(2).sub_(1)
    grid = torch.zeros(b, 1, 1, dtype=u.dtype, device=u.device)
    used = 0
    wibble = 100.0
    n = 1
    while n < side:
        noise = u[:, used:used + 3 * n * n].view(b, 3, n, n)
        used += 3 * n * n
        finer = torch.empty(b, n, 2, n, 2, dtype=u.dtype, device=u.device)
        down = grid + grid.roll(-1, 1)
        middle = (down + down.roll(-1, 2)).div_(4).add_(noise[:, 0], alpha=wibble**2)
        finer[:, :, 0, :, 0], finer[:, :, 1, :, 1] = grid, middle
        finer[:, :, 0, :,
              1] = (middle + middle.roll(1, 1)).add_(grid).add_(grid.roll(-1, 2)).div_(4).add_(
                  noise[:, 1], alpha=wibble**2)
        finer[:, :, 1, :, 0] = (middle + middle.roll(1, 2)).add_(down).div_(4).add_(
            noise[:, 2], alpha=wibble**2)
        n, wibble = 2 * n, wibble / decay
        grid = finer.view(b, n, n)
    low = grid.amin((1, 2), keepdim=True)
    high = grid.amax((1, 2), keepdim=True)
    return (grid - low).div_((high - low).clamp_(min=1e-12))


def fog(x: Tensor, p: tuple[float, float], draws: Draws) -> Tensor:
    """(x + c F) m / (m + c) with m the brightest value of the picture. p = (c, decay).

    F is a diamond-square map whose side is the next power of two, cropped: a black picture stays
    black.
    """
    strength, decay = p
    h, w = x.shape[2:]
    field = diamond_square(1 << (max(h, w) - 1).bit_length(), decay,
                           draws)[:, None, :h, :w].to(x.dtype)
    brightest = x.amax((1, 2, 3), keepdim=True)
    return (x + field * strength).mul_(brightest / (brightest + max(strength, 1e-12)))


# --- spatter ------------------------------------------------------------------------------------

WATER, MUD = (175, 238, 238), (63, 42, 20)


def _filter3(x: Tensor, kernel: tuple[tuple[float, ...], ...]) -> Tensor:
    """3 x 3 correlation of planes (B, H, W), borders mirrored without the edge."""
    h, w = x.shape[1:]
    rows, columns = (fold(torch.arange(-1, n + 1, device=x.device), n, "mirror") for n in (h, w))
    x = x[:, rows][:, :, columns]
    out = 0
    for i, line in enumerate(kernel):
        for j, weight in enumerate(line):
            if weight:
                out = out + weight * x[:, i:i + h, j:j + w]
    return out


BOX = ((1 / 9,) * 3,) * 3
EMBOSS = ((-2, -1, 0), (-1, 1, 1), (0, 1, 2))
SOBEL = ((-1, 0, 1), (-2, 0, 2), (-1, 0, 1))


def canny(x: Tensor, low: float, high: float) -> Tensor:
    """Edges of byte images (B, H, W) by Canny's method, as bool: Sobel gradients with repeated
    borders, |gx| + |gy|, ridges across the gradient in four directions, those above ``high`` and
    those above ``low`` that hang together with them."""
    h, w = x.shape[1:]
    wide = F.pad(x[:, None], [1] * 4, mode="replicate")[:, 0]
    gx = _filter3(wide, SOBEL)[:, 1:-1, 1:-1]
    gy = _filter3(wide, tuple(zip(*SOBEL, strict=True)))[:, 1:-1, 1:-1]
    size = gx.abs() + gy.abs()
    around = F.pad(size, [1] * 4)

    def at(dy, dx):
        return around[:, 1 + dy:1 + dy + h, 1 + dx:1 + dx + w]

    slope = gy.abs() / gx.abs().clamp(min=1e-12)
    flat = slope < math.tan(math.pi / 8)
    steep = slope > math.tan(3 * math.pi / 8)
    same = (gx < 0) == (gy < 0)
    ridge = torch.where(
        flat, (size > at(0, -1)) & (size >= at(0, 1)),
        torch.where(
            steep, (size > at(-1, 0)) & (size >= at(1, 0)),
            torch.where(same, (size > at(-1, -1)) & (size > at(1, 1)),
                        (size > at(-1, 1)) & (size > at(1, -1)))))
    weak, edges = ridge & (size > low), ridge & (size > high)
    while True:
        grown = F.max_pool2d(edges[:, None].float(), 3, 1, 1)[:, 0].bool() & weak
        if torch.equal(grown, edges):
            return edges
        edges = grown


# facets of the distance by steps of 1, 1.4 and 2.1969
CHAMFER = ((1, 0.1969), (0.7969, 0.6031), (0.6031, 0.7969), (0.1969, 1))


def distance_to(edges: Tensor, cut: int = 20) -> Tensor:
    """Distance of each pixel to the nearest True of its picture (B, H, W), cut at ``cut`` pixels.

    It is the 5 x 5 chamfer distance, the shortest way by straight (1), diagonal (1.4) and knight's
    steps (2.1969), as libraries use it: for a difference of (k, g) the largest of four linear
    forms. Along the columns first (g), then the smallest over row steps k.
    """
    far = float(cut)
    column = torch.where(edges, 0.0, far)
    for k in (1, 2, 4, 8, 16):
        if k < edges.shape[1]:
            column = torch.minimum(
                column,
                torch.minimum(F.pad(column[:, k:], (0, 0, 0, k), value=far),
                              F.pad(column[:, :-k], (0, 0, k, 0), value=far)) + k)
    best = column
    for k in range(1, min(cut, edges.shape[2])):
        way = column + CHAMFER[3][0] * k
        for a, b in CHAMFER[:3]:
            way = torch.maximum(way, (column * b).add_(a * k))
        best = torch.minimum(
            best,
            torch.minimum(F.pad(way[..., k:], (0, k), value=far),
                          F.pad(way[..., :-k], (k, 0), value=far)))
    return best.clamp(max=far)


def equalise(x: Tensor) -> Tensor:
    """Histogram equalisation of byte images (B, H, W): cumulative counts without the first
    occupied level, scaled to 0 .. 255."""
    b, n = len(x), x[0].numel()
    levels = x.long().view(b, n)
    counts = torch.zeros(b, 256, dtype=torch.int64,
                         device=x.device).scatter_add_(1, levels, torch.ones_like(levels))
    total = counts.cumsum(1)
    first = total.gather(1, (counts > 0).int().argmax(1, keepdim=True))
    table = ((total - first).clamp(min=0) * 255 / (n - first).clamp(min=1)).round().to(x.dtype)
    # one level only: unchanged
    table = torch.where(first == n, torch.arange(256, device=x.device, dtype=x.dtype), table)
    return table.gather(1, levels).view_as(x)


def spatter(x: Tensor, p: tuple[float, ...], draws: Draws) -> Tensor:
    """Drops of water (added, pale turquoise) or mud (covering, brown) where a smoothed noise field
    is high.

    p = (mean, std, blur, threshold, strength, mud): the field is N(mean, std^2), smoothed by
    ``blur``. Mud: the field above the threshold, smoothed by ``strength``, kept from 0.8 on,
    covers the picture. Water: the field times relief, divided by its maximum, times ``strength``;
    relief from the distance to the drops' edges, equalised and embossed in bytes. Between the
    published severities the drops turn to mud at half way. Grey images get the luma of the
    colours.
    """
    mean, std, blur, threshold, strength, mud = p
    need_colors("spatter", x)
    h, w = x.shape[2:]
    field = draws.normal32(h * w).to(x.dtype).view(-1, 1, h, w).mul_(std).add_(mean)
    field = smooth(field, blur)
    colors = MUD if mud >= 0.5 else WATER
    weights = [1.0] if x.shape[1] == 3 else GREY
    color = x.new_tensor(
        colors if len(weights) == 1 else [sum(
            a * b for a, b in zip(colors, GREY, strict=True))]).div(255).view(1, -1, 1, 1)
    if mud >= 0.5:
        mask = smooth((field > threshold).to(x.dtype), strength)
        mask = torch.where(mask < 0.8, 0, mask)
        return x * (1 - mask) + color * mask
    layer = torch.where(field < threshold, 0, field).clamp_(0, 1).mul_(255).floor_()[:, 0]
    relief = distance_to(canny(layer, 50, 150))
    relief = equalise(_filter3(relief, BOX).add_(1e-4).floor())
    relief = _filter3(relief, EMBOSS).round().clamp(0, 255)
    relief = _filter3(relief, BOX).round()
    mask = layer * relief
    mask = (mask / mask.amax((1, 2), keepdim=True).clamp(min=1e-12))[:, None]
    return x + color * (mask * strength)
