"""Random corruptions: their laws, and plain references that are given the same draws."""
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tta_lab.data import corruptions
from tta_lab.data.corruptions import NOTES, Draws, corrupt, disk_kernel, glass_sources, parameters
from tta_lab.data.corruptions.blurs import defocus_blur
from tta_lab.data.corruptions.digital import affine_rows, elastic_transform
from tta_lab.data.corruptions.filters import centre_zoom, motion, smooth
from tta_lab.data.corruptions.noise import poisson
from tta_lab.data.corruptions.weather import (
    FROST_SCALE,
    canny,
    diamond_square,
    distance_to,
    equalise,
    fog,
    frost,
    frost_pictures,
    snow,
    spatter,
)

GOLDEN = Path(__file__).parent / "golden" / "corruptions"
IDS = torch.tensor([3, 2**40 + 1])


def images(*shape):
    """Smooth but not symmetric: float32 (2, *shape)."""
    return F.interpolate(torch.rand(2, shape[0], 7, 9, generator=torch.Generator().manual_seed(5)),
                         shape[1:], mode="bicubic").clamp(0, 1)


# --- noise --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, law", [("gaussian_noise", lambda p, x: p),
                                       ("shot_noise", lambda p, x: (x / p)**0.5),
                                       ("speckle_noise", lambda p, x: p * x)])
@pytest.mark.parametrize("severity, side", [(1, 32), (5, 32), (2, 224), (5, 224)])
def test_noise_has_its_mean_and_variance(name, law, severity, side):
    """Over 10^6 values before the clip, at a brightness of 0.6, within 3 standard errors (shot:
    the expansion may add 0.3 %)."""
    level = 0.6
    draws = Draws(torch.arange(7), 1, name)
    p = parameters(name, severity, side)
    for dtype in (torch.float32, torch.float64):
        x = torch.full((7, 3, 220, 220), level, dtype=dtype)
        noise = (corruptions.CORRUPTIONS[name](x, p, draws) - x).double().flatten()
        sigma = law(p, level)
        n = noise.numel()
        kurtosis = 3 + (1 / (level * p) if name == "shot_noise" else 0)
        assert abs(noise.mean()) < 3 * sigma / n**0.5
        assert abs(noise.var() / sigma**2 -
                   1) < 3 * ((kurtosis - 1) / n)**0.5 + (0.003 if name == "shot_noise" else 0)


@pytest.mark.parametrize("rate", (0.0, 0.3, 1, 3.9, 4.1, 7, 30, 400))
def test_poisson_counts_are_the_quantiles(rate):
    """Plain sums of the probabilities in float64; the expansion from a rate of 4 on may miss by
    one for 2 in a thousand."""
    u = (torch.arange(20000) + 0.5) / 20000
    k = 0
    p = math.exp(-rate)
    total = math.exp(-rate)
    expected = np.zeros(20000)
    for i, level in enumerate(u.double().tolist()):
        while total < level:
            k += 1
            p *= rate / k
            total += p
        expected[i] = k
    # alone, and mixed with others
    for scale in (torch.full_like(u, rate),
                  torch.cat([torch.full_like(u[1:], rate),
                             torch.tensor([0.0])])):
        counts = poisson(scale, u)[:-1].numpy()
        assert np.abs(counts - expected[:-1]).max() <= 1 and (counts != expected[:-1]).mean() <= (
            0.002 if rate >= 4 else 2e-4)


@pytest.mark.parametrize("severity", (1, 5))
def test_impulses_are_half_salt_and_independent_between_channels(severity):
    share = parameters("impulse_noise", severity)
    y = corrupt(torch.full((700, 3, 24, 24), 0.5), "impulse_noise", severity, quantise=False)
    hit = (y != 0.5).double()
    error = (share * (1 - share) / hit.numel()) ** 0.5
    assert hit.mean() == pytest.approx(share, abs=3 * error)
    assert (y == 1).double().mean() / hit.mean() == pytest.approx(
        0.5, abs=3 * 0.5 / hit.sum().sqrt().item())
    correlation = np.corrcoef(hit.transpose(0, 1).reshape(3, -1).numpy())
    assert np.abs(correlation[np.triu_indices(3, 1)]).max() < 4 / (hit.numel() / 3) ** 0.5


# --- blurs --------------------------------------------------------------------------------------

def test_large_disks_by_hand_and_by_plain_convolution():
    """224 x 224: 29, 49, 113, 197, 317 points; running sums give what the whole kernel gives."""
    x = images(1, 40, 37).double()
    for severity, points in zip((1, 2, 3, 4, 5), (29, 49, 113, 197, 317), strict=True):
        radius, sigma = parameters("defocus_blur", severity, 224)
        kernel = disk_kernel(radius, sigma)
        assert int((torch.cartesian_prod(*[torch.arange(-radius, radius + 1)] * 2).square().sum(1)
                    <= radius**2).sum()) == points
        # mirrored within the grid, as the generator does
        assert kernel.sum() == pytest.approx(1) or radius >= 8
        plain = F.conv2d(F.pad(x, [len(kernel) // 2] * 4, mode="reflect"), kernel[None, None])
        for dtype in (torch.float32, torch.float64):
            assert (defocus_blur(x.to(dtype), (radius, sigma), None) - plain).abs().max() < 1e-4


@pytest.mark.parametrize("sigma, cut, border, mode", [(0.6, 4, "repeat", "nearest"),
                                                      (2, 4, "repeat", "nearest"),
                                                      (5.3, 3, "reflect", "reflect"),
                                                      (40, 3, "reflect", "reflect"),
                                                      (1.2, 3, "reflect", "reflect"),
                                                      (1.5, 2, "mirror", "mirror")])
def test_smoothing_equals_scipy(sigma, cut, border, mode):
    ndimage = pytest.importorskip("scipy.ndimage")
    for shape in ((1, 20, 29), (1, 130, 160)):
        x = images(*shape).double()
        expected = ndimage.gaussian_filter(x.numpy(), (0, 0, sigma, sigma), mode=mode, truncate=cut)
        assert np.abs(smooth(x, sigma, cut, border).numpy() - expected).max() < 1e-9
        assert np.abs(smooth(x.float(), sigma, cut, border).numpy() - expected).max() < 1e-5


@pytest.mark.parametrize("zoom", (1.01, 1.13, 1.25, 2.25, 4.5))
def test_zoom_equals_scipy(zoom):
    ndimage = pytest.importorskip("scipy.ndimage")
    x = images(1, 32, 41).double()
    rows, columns = (math.ceil(n / zoom) for n in (32, 41))
    top, left = (32 - rows) // 2, (41 - columns) // 2
    big = ndimage.zoom(x[:, 0, top:top + rows, left:left + columns].numpy(), (1, zoom, zoom),
                       order=1)
    top, left = (big.shape[1] - 32) // 2, (big.shape[2] - 41) // 2
    assert np.abs(centre_zoom(x, zoom)[:, 0].numpy() -
                  big[:, top:top + 32, left:left + 41]).max() < 1e-9


def plain_motion(x, radius, sigma, angle):
    """One image (H, W), loops over pixels and steps."""
    weights = [math.exp(-i * i / (2 * sigma**2)) for i in range(2 * radius + 1)]
    out = np.zeros_like(x)
    for i, weight in enumerate(weights):
        dy = -math.ceil(i * math.sin(angle) - 0.5)
        dx = -math.ceil(i * math.cos(angle) - 0.5)
        for r in range(x.shape[0]):
            for c in range(x.shape[1]):
                out[r, c] += weight / sum(weights) * x[min(max(r - dy, 0), x.shape[0] - 1),
                                                       min(max(c - dx, 0), x.shape[1] - 1)]
    return out


@pytest.mark.parametrize("degrees", ((-45.0, 12.0), (44.0, -130.0), (-90.0, -47.0)))
def test_motion_equals_plain_loops(degrees):
    x = images(2, 15, 19)
    angle = torch.tensor(degrees, dtype=torch.float64) * math.pi / 180
    for pick in ([0, 1], [1]):
        y = motion(x[pick], 6, 2.0, angle[pick])
        for i, k in enumerate(pick):
            for channel in (0, 1):
                assert np.abs(y[i, channel].numpy() -
                              plain_motion(x[k, channel].double().numpy(), 6, 2.0, angle[k].item())
                              ).max() < 1e-5


def test_angles_are_uniform():
    angles = (Draws(torch.arange(4000), 0, "motion_blur").uniform(1)[:, 0] - 0.5) * 90
    assert -45 < angles.min() < -44.9 and 44.9 < angles.max() < 45 and abs(
        angles.mean()) < 3 * 90 / 12**0.5 / 4000**0.5
    x = torch.zeros(300, 1, 31, 31)
    x[..., 15, 15] = 1
    y = corrupt(x, "motion_blur", 5, quantise=False)
    # smeared to one side, up and down
    assert (y[:, :, :, 16:] == 0).all() and y[:, :, :8].sum() > 0 and y[:, :, 23:].sum() > 0


@pytest.mark.parametrize("h, w, reach, passes", [(12, 17, 1, 2), (16, 16, 2, 1), (20, 14, 3, 2),
                                                 (22, 22, 4, 3), (5, 5, 3, 1)])
def test_glass_scans_equal_plain_loops(h, w, reach, passes):
    """The scan goes backwards, reads what is there by then, and copies: the pixel read keeps its
    value."""
    draws = Draws(IDS, 1, "glass_blur")
    sources = glass_sources(h, w, reach, passes, draws)
    for i in (0, 1):
        grid = [list(range(r * w, r * w + w)) for r in range(h)]
        for scan in range(passes):
            words = draws.words(h * w, scan)[i].tolist()
            for r in range(h - reach, reach, -1):
                for c in range(w - reach, reach, -1):
                    word = words[r * w + c]
                    dx, dy = ((half * 2 * reach >> 16) - reach
                              for half in (word & 0xFFFF, word >> 16 & 0xFFFF))
                    assert -reach <= dx < reach and -reach <= dy < reach
                    grid[r][c] = grid[r + dy][c + dx]
        assert sum(grid, []) == sources[i].tolist()
    if h > 5:
        # copies, so that some pixels are lost
        assert len(sources[0].unique()) < h * w


# --- elastic ------------------------------------------------------------------------------------

def test_control_points_go_home():
    moves = torch.randn(4, 3, 2, dtype=torch.float64)
    points = torch.tensor([20, 15.0]) + torch.tensor([[10, 10], [10, -10], [-10, -10.0]])
    maps = affine_rows(31, 40, moves)
    assert torch.allclose((points + moves) @ maps[:, :, :2].mT + maps[:, None, :, 2],
                          points.double().expand(4, 3, 2))


@pytest.mark.parametrize("p", [(0, 0, 0.08), (0.05, 0.2, 0.07), (0.1, 0.03, 0.03)])
@pytest.mark.parametrize("shape", [(1, 32, 32), (2, 28, 37)])
def test_elastic_equals_scipy(p, shape):
    ndimage = pytest.importorskip("scipy.ndimage")
    x, draws = images(*shape), Draws(IDS, 0, "elastic_transform")
    _, h, w = shape
    side = min(h, w)
    y = elastic_transform(x, p, draws)
    maps = affine_rows(h, w, ((draws.uniform(6) * 2 - 1) * p[2] * side).view(-1, 3, 2)).numpy()
    fields = (draws.uniform32(2 * h * w, 1) * 2 - 1).double().view(2, 2, h, w).numpy()
    row, column = np.mgrid[:h, :w]
    for i in (0, 1):
        sx, sy = (maps[i, k, 0] * column + maps[i, k, 1] * row + maps[i, k, 2] for k in (0, 1))
        dx, dy = (p[0] * side * ndimage.gaussian_filter(f, p[1] * side, mode="reflect", truncate=3)
                  if p[0] else 0 * f for f in fields[i])
        for c in range(shape[0]):
            expected = ndimage.map_coordinates(x[i, c].double().numpy(), (sy, sx), order=1,
                                               mode="mirror")
            expected = ndimage.map_coordinates(expected, (row + dy, column + dx), order=1,
                                               mode="reflect")
            assert np.abs(y[i, c].numpy() - expected).max() < 2e-4


# --- weather ------------------------------------------------------------------------------------

def test_snow_equals_a_plain_reference():
    ndimage = pytest.importorskip("scipy.ndimage")
    x, draws = images(3, 26, 26), Draws(IDS, 0, "snow")
    for severity in (1, 4):
        mean, std, zoom, threshold, radius, sigma, mix = p = parameters("snow", severity)
        y = snow(x, p, draws).numpy()
        fields = draws.normal32(26 * 26).view(2, 26, 26).numpy() * std + mean
        angles = -(draws.uniform(1, 1)[:, 0] + 0.5) * math.pi / 2
        for i in (0, 1):
            small = math.ceil(26 / zoom)
            top = (26 - small) // 2
            layer = ndimage.zoom(fields[i][top:top + small, top:top + small].astype(float), zoom,
                                 order=1)
            top = (len(layer) - 26) // 2
            layer = layer[top:top + 26, top:top + 26]
            layer = np.floor(np.clip(np.where(layer < threshold, 0, layer), 0, 1) * 255) / 255
            layer = plain_motion(layer, radius, sigma, angles[i].item())
            image = x[i].numpy()
            grey = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
            expected = (mix * image + (1 - mix) * np.maximum(image, 1.5 * grey + 0.5) + layer +
                        layer[::-1, ::-1])
            assert np.abs(y[i] - expected).max() < 1 / 255


def test_fog_map_equals_plain_loops():
    """The diamond-square rule written with loops, on the same numbers; brightness m / (m + c);
    black stays black."""
    draws = Draws(IDS, 0, "fog")
    side = 16
    decay = 1.75
    field = diamond_square(side, decay, draws)
    assert field.amin((1, 2)).tolist() == [0, 0] and field.amax((1, 2)).tolist() == [1, 1]
    u = iter((draws.uniform32(side * side)[1].double() * 2 - 1).tolist())
    grid = np.zeros((side, side))
    step = side
    wibble = 100.0
    while step > 1:
        half = step // 2
        places = range(0, side, step)

        def put(r, c, offsets, grid=grid, wibble=wibble):
            grid[r, c] = (sum(grid[(r + a) % side, (c + b) % side]
                              for a, b in offsets) / 4 + wibble**2 * next(u))

        cross = [(-half, 0), (half, 0), (0, -half), (0, half)]
        for dr, dc, offsets in ((half, half, [(-half, -half), (-half, half), (half, -half),
                                              (half, half)]), (0, half, cross), (half, 0, cross)):
            for r in places:
                for c in places:
                    put(r + dr, c + dc, offsets)
        step, wibble = half, wibble / decay
    assert np.abs((grid - grid.min()) / (grid.max() - grid.min()) - field[1].numpy()).max() < 1e-5
    x = images(3, 16, 13)
    m = x.amax((1, 2, 3), keepdim=True)
    assert torch.allclose(fog(x, (1.5, decay), draws),
                          (x + 1.5 * field[:, None, :, :13]) * m / (m + 1.5), atol=1e-6)
    assert corrupt(torch.zeros(1, 3, 28, 28), "fog").max() == 0


def test_fog_is_finer_the_slower_it_decays():
    """Share of the power in the upper half of the frequencies, on average over 60 maps."""
    fine = []
    for decay in (3, 2, 1.75, 1.4):
        power = torch.fft.fft2(diamond_square(32, decay, Draws(torch.arange(60), 0, "fog")) -
                               0.5).abs().square()
        frequency = torch.fft.fftfreq(32).abs()
        high = torch.maximum(frequency[:, None], frequency) > 0.25
        power[:, 0, 0] = 0
        fine.append((power[:, high].sum(1) / power.sum((1, 2))).mean().item())
    assert fine == sorted(fine) and fine[-1] > 3 * fine[0]


def test_frost_is_a_crop_of_a_procedural_picture():
    assert "frost (procedural)" in NOTES["frost"] and "frost (procedural)" in frost.__doc__
    draws = Draws(torch.arange(30), 0, "frost")
    for h, w, side in ((28, 35, 32), (64, 64, 64)):
        pictures = frost_pictures(FROST_SCALE[side])
        n = pictures.shape[2]
        assert n == round(512 * FROST_SCALE[side]) and pictures.min() >= 0 and pictures.max() <= 1
        which, top, left = (draws.uniform(3) * torch.tensor([5, n, n])).long().unbind(1)
        assert set(which.tolist()) == {0, 1, 2, 3, 4}
        y = frost(torch.zeros(30, 3, h, w), (0.8, 0.5), draws)
        for i in (0, 13, 29):
            rows = (top[i] + torch.arange(h)) % n
            columns = (left[i] + torch.arange(w)) % n
            assert torch.allclose(y[i].double(), 0.5 * pictures[which[i]][:, rows][:, :, columns],
                                  atol=1e-6)


def test_distance_and_equalisation_by_hand():
    edges = torch.zeros(1, 9, 30, dtype=torch.bool)
    edges[0, 4, 2] = True
    distance = distance_to(edges)[0]
    assert [distance[4, 2 + k].item()
            for k in (0, 1, 5, 20, 25)] == pytest.approx([0, 1, 5, 20, 20])
    assert distance[5,
                    3].item() == pytest.approx(1.4) and distance[6,
                                                                 3].item() == pytest.approx(2.1969)
    # (3, 4): one knight's step, two diagonal
    assert distance[7, 6].item() == pytest.approx(2.1969 + 2 * 1.4)
    assert (distance_to(torch.zeros(1, 5, 5, dtype=torch.bool)) == 20).all()
    # 3, 2, 2, 1 pixels: (0, 2, 4, 5) / 5 of 255
    levels = torch.tensor([[[10.0, 10, 10, 20], [20, 30, 30, 40]]])
    assert equalise(levels)[0].tolist() == [[0, 0, 0, 102], [102, 204, 204, 255]]
    assert equalise(torch.full((1, 3, 3), 7.0)).unique().tolist() == [7]


def test_canny_finds_the_outline_of_a_square():
    x = torch.zeros(1, 12, 12)
    x[0, 4:8, 4:8] = 200
    edges = canny(x, 50, 150)[0]
    assert 10 <= edges.sum() <= 16 and not edges[5:7,
                                                 5:7].any() and not edges[:3].any() and torch.equal(
                                                     edges, edges.T)


@pytest.mark.parametrize("severity", (1, 2, 3))
def test_water_equals_opencv(severity):
    with np.load(GOLDEN / "spatter_water.npz") as f:
        expected = torch.from_numpy(f[f"mask_{severity}"])[:, None]
    p = parameters("spatter", severity)
    y = spatter(torch.zeros(6, 3, 32, 32), p, Draws(torch.arange(6), 0, "spatter"))
    assert torch.allclose(y, expected * p[4] * torch.tensor([175, 238, 238]).view(3, 1, 1) / 255,
                          atol=1 / 255)


def test_mud_by_hand():
    ndimage = pytest.importorskip("scipy.ndimage")
    mean, std, blur, threshold, strength, mud = p = parameters("spatter", 5)
    x, draws = images(3, 32, 32), Draws(IDS, 0, "spatter")
    field = draws.normal32(1024).double().view(2, 32, 32).numpy() * std + mean
    field = ndimage.gaussian_filter(field, (0, blur, blur), mode="nearest", truncate=4)
    mask = ndimage.gaussian_filter((field > threshold).astype(float), (0, strength, strength),
                                   mode="nearest", truncate=4)
    mask[mask < 0.8] = 0
    mask = torch.from_numpy(mask)[:, None]
    assert 0 < mask.mean() < 0.2
    assert torch.allclose(
        spatter(x, p, draws).double(),
        x * (1 - mask) + torch.tensor([63, 42, 20]).view(3, 1, 1) / 255 * mask, atol=1e-5)


# --- colour -------------------------------------------------------------------------------------

@pytest.mark.parametrize("p", [(0.3, 0.0), (2.0, 0.1)])
def test_saturation_by_hand(p):
    import colorsys
    colours = torch.rand(3, 50, generator=torch.Generator().manual_seed(0))
    # black, and grey: hue 0 is red
    colours[:, :2] = torch.tensor([0.0, 0.4])
    changed = corruptions.saturate(colours.view(1, 3, 50, 1), p, None)[0, :, :, 0]
    for before, after in zip(colours.T.tolist(), changed.T.tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        assert after == pytest.approx(
            colorsys.hsv_to_rgb(hue, min(saturation * p[0] + p[1], 1), value), abs=1e-6)
