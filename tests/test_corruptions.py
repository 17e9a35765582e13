"""Corruptions against the public generator's images, a real codec, numbers worked by hand; shifts
as texts; what is refused.

The laws of the random ones, and plain references given the same draws, are in
test_corruption_laws.py."""
import colorsys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.io import decode_jpeg, encode_jpeg

from tta_lab.data import corruptions
from tta_lab.data.corruptions import (
    CORRUPTIONS,
    EXTRA_4,
    STANDARD_15,
    STANDARD_SIX,
    Draws,
    box_matrix,
    corrupt,
    disk_kernel,
    parameters,
    parse_shift,
    quantisation,
)
from tta_lab.data.load import load

GOLDEN = Path(__file__).parent / "golden" / "corruptions"
# torchvision announces a successor of its codec
pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding")
SEVERITIES = (1, 2, 3, 4, 5)


@pytest.fixture(scope="module")
def golden():
    found = {}
    for name in ("corruptions_32", "corruptions_32_more"):
        with np.load(GOLDEN / f"{name}.npz") as f:
            found |= {key: torch.from_numpy(f[key]) for key in f.files}
    return found


@pytest.fixture(scope="module")
def photographs(golden):
    return golden["clean"].permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module")
def fashion():
    return load("fashion_mnist").images(slice(0, 100))


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name, mean, largest", [("defocus_blur", 0.1, 1), ("contrast", 0.01, 1),
                                                 ("brightness", 0.05, 1), ("pixelate", 0, 0),
                                                 ("jpeg_compression", 0.25, 11),
                                                 ("zoom_blur", 0.01, 1), ("gaussian_blur", 0.02, 1),
                                                 ("saturate", 0.1, 1)])
def test_equals_the_public_generator(golden, photographs, name, severity, mean, largest):
    """Differences in steps of 1/255; those of 1 come from values that lie exactly on a step before
    truncation."""
    expected = golden[name][severity - 1].permute(0, 3, 1, 2).float()
    difference = (corrupt(photographs, name, severity) * 255 - expected).abs()
    assert difference.mean() <= mean
    assert difference.max() <= largest + 1e-3
    # the corruption itself is far larger
    assert (expected - photographs * 255).abs().mean() > 5 * difference.mean()


@pytest.mark.parametrize("name, close", [("gaussian_noise", 0.01), ("shot_noise", 0.01),
                                         ("impulse_noise", 0.01), ("speckle_noise", 0.01),
                                         ("glass_blur", 0.02), ("motion_blur", 0.02),
                                         ("snow", 0.02), ("fog", 0.02), ("elastic_transform", 0.03),
                                         ("spatter", 0.03), ("frost", 0.05)])
def test_random_ones_have_the_statistics_of_the_public_generator(golden, photographs, name, close):
    """Mean absolute and root mean square difference within ``close``, means and spreads of the
    channels within 2 % (frost 4 %)."""
    clean = photographs.repeat(60, 1, 1, 1)
    for severity in SEVERITIES:
        expected = golden[f"{name}_statistics"][severity - 1]
        changed = corrupt(clean, name, severity, ids=torch.arange(len(clean)))
        difference = (changed - clean).double()
        assert difference.abs().mean() == pytest.approx(expected[4].item(), rel=close)
        assert difference.square().mean().sqrt() == pytest.approx(expected[5].item(), rel=close)
        rest = 0.04 if name == "frost" else 0.02
        assert changed.double().mean(
            (0, 2, 3)).numpy() == pytest.approx(expected[6:9].numpy(), rel=rest)
        assert changed.double().std(
            (0, 2, 3)).numpy() == pytest.approx(expected[9:12].numpy(), rel=rest)


@pytest.mark.parametrize("name", STANDARD_SIX)
def test_the_first_six_give_what_they_always_gave(golden, fashion, photographs, name):
    with np.load(GOLDEN / "first_six_28.npz") as f:
        for kind, x in (("grey", fashion[:4]), ("colour", photographs[:4, :, 2:30, 2:30])):
            for severity, expected in zip((1, 2.5, 5), f[f"{kind}_{name}"], strict=True):
                assert np.array_equal(
                    (corrupt(x, name, severity, seed=3) * 255).round().byte().numpy(), expected)


def test_draws_are_the_numbers_they_always_were():
    with np.load(GOLDEN / "first_six_28.npz") as f:
        draws = Draws(torch.from_numpy(f["draws_ids"]), 2**40 + 7, "law")
        for kind in ("bits", "uniform", "normal"):
            assert np.array_equal(getattr(draws, kind)(9, 3).numpy(), f[f"draws_{kind}"])


def test_draws_follow_the_normal_law():
    normal = Draws(torch.arange(1500), 3, "law").normal(783)
    n = normal.numel()
    assert abs(normal.mean()) < 3 / n**0.5
    assert abs(normal.var() - 1) < 3 * (2 / n) ** 0.5
    assert abs((normal**3).mean()) < 3 * (15 / n) ** 0.5
    assert abs((normal**4).mean() - 3) < 3 * (96 / n) ** 0.5
    half = 392
    for a, b in ((normal[1:], normal[:-1]), (normal[:, 1:], normal[:, :-1]),
                 (normal[:, half:], normal[:, :783 - half])):
        # neighbours in id, in pixel, and Box-Muller partners
        assert abs((a * b).mean()) < 4 / a.numel() ** 0.5
    bits = Draws(torch.arange(1500), 3, "law").bits(783)
    assert bits.min() >= 0 and bits.max() < 2**32
    each = torch.stack([(bits >> k & 1).double().mean() for k in range(32)])
    assert (each - 0.5).abs().max() < 4.5 * 0.5 / n**0.5


def test_draws_depend_on_seed_name_id_and_salt_only():
    ids = torch.tensor([0, 1, 5, 2**31, 2**32 + 5, -1])
    one = Draws(ids, 0, "a").bits(64)
    # also ids that share their low 32 bits
    assert len(one.flatten().unique()) == one.numel()
    assert torch.equal(Draws(ids[[4, 2]], 0, "a").bits(10), one[[4, 2], :10])
    for other in (Draws(ids, 1, "a").bits(64), Draws(ids, 2**32, "a").bits(64), Draws(ids, 0,
                                                                                      "b").bits(64),
                  Draws(ids, 0, "a").bits(64, salt=1)):
        assert (other == one).sum() <= 1


def test_draws_are_these_numbers():
    """Worked in plain Python integers: a change of the generator changes every stream, and must be
    noticed."""
    def mix(h):
        h = ((h ^ (h >> 16)) * 0x21F0AAAD) % 2**32
        h = ((h ^ (h >> 15)) * 0x735A2D97) % 2**32
        return h ^ (h >> 15)

    keys = []
    for key in (0, 1):
        for word in (7, 0, zlib.crc32(b"gaussian_noise"), 0, 42, 0):
            key = mix((key + word + 0x9E3779B9) % 2**32)
        keys.append(key)
    expected = [mix(mix((i + keys[0]) % 2**32) ^ keys[1]) for i in range(5)]
    assert Draws(torch.tensor([42]), 7, "gaussian_noise").bits(5).tolist() == [expected]


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 30, 41)])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_does_not_depend_on_its_batch(fashion, photographs, monkeypatch, name, shape):
    """Order, batch size and the chunks that are worked on at a time change nothing; the seed does,
    if there are draws."""
    x = (fashion[:16] if shape[0] == 1 else torch.nn.functional.interpolate(
        photographs, shape[1:], mode="bilinear"))
    ids = torch.arange(16) + 1000
    order = torch.tensor([7, 15, 3, 0, 11])
    for severity in (2.6, 5):
        whole = corrupt(x, name, severity, ids, seed=4)
        assert whole.shape == x.shape and torch.equal(
            corrupt(x[order], name, severity, ids[order], seed=4), whole[order])
        assert torch.equal(corrupt(x[7:8], name, severity, ids[7:8], seed=4), whole[7:8])
        monkeypatch.setattr(corruptions, "CHUNK", 3 * x[0].numel())
        assert torch.equal(corrupt(x, name, severity, ids, seed=4), whole)
        monkeypatch.undo()
        still = (name in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate",
                          "jpeg_compression", "gaussian_blur", "saturate"))
        assert torch.equal(corrupt(x, name, severity, ids, seed=5), whole) == still
    assert torch.equal(corrupt(x, name), corrupt(x, name, ids=torch.arange(16)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_devices_agree(photographs, name):
    here = corrupt(photographs, name)
    there = corrupt(photographs.cuda(), name).cpu()
    # isolated pixels may lie on a step
    assert ((here - there).abs() > 1e-6).float().mean() < 1e-3
    assert (here - there).abs().max() < 1.01 / 255 or name in ("jpeg_compression", "shot_noise",
                                                               "spatter", "glass_blur")


def test_global_generators_are_left_alone(fashion):
    before = torch.get_rng_state()
    before_numpy = np.random.get_state()[1].copy()
    corrupt(fashion[:4], "gaussian_noise")
    assert torch.equal(torch.get_rng_state(), before) and (np.random.get_state()[1]
                                                           == before_numpy).all()


@pytest.mark.parametrize("quality", (10, 40, 65, 95))
def test_jpeg_is_close_to_a_real_codec(golden, quality):
    photographs = golden["clean"].permute(0, 3, 1, 2).contiguous()
    fashion = load("fashion_mnist").x[:50]
    for images, least in ((photographs, 47), (photographs[:, 1:2],
                                              47), (fashion, 47), (photographs[:, :, :28, :27], 38),
                          (photographs[:, :, 3:20, 5:30], 38), (photographs[:, :1, :19, :13], 42)):
        real = torch.stack([decode_jpeg(encode_jpeg(x.contiguous(), quality))
                            for x in images]).double()
        ours = corruptions.jpeg_compression(images.double() / 255, quality, None) * 255
        psnr = 10 * torch.log10(255**2 / (ours - real).square().mean())
        # 35 is asked for; this is what integers allow
        assert psnr >= least, (quality, tuple(images.shape), psnr)


def test_quantisation_tables_by_hand():
    # 100 per cent: the standard itself
    assert quantisation(50)[0].tolist() == [16, 11, 10, 16, 24, 40, 51, 61]
    # (16 40 + 50) // 100, (17 40 + 50) // 100
    assert quantisation(80)[0, 0] == 6 and quantisation(80, chroma=True)[0, 0] == 7
    # (99 125 + 50) // 100 = 124
    assert quantisation(40)[7, 7] == 124
    assert quantisation(10)[7, 7] == 255 and quantisation(100).max() == 1


def test_a_flat_picture_survives_jpeg_up_to_its_rounding():
    """A flat grey of 100: DC = 8 (100 - 128) = -224, steps of 16 at quality 50: -14 steps exactly,
    nothing is lost."""
    flat = torch.full((1, 1, 28, 28), 100 / 255)
    assert torch.equal(
        corruptions.jpeg_compression(flat.double(), 50, None) * 255,
        torch.full((1, 1, 28, 28), 100.0).double())
    # 103: DC = -200 = -12.5 steps -> -13 (away from zero) -> -208 / 8 + 128 = 102
    assert torch.equal(
        (corruptions.jpeg_compression(flat.double() * 1.03, 50, None) * 255).unique(),
        torch.tensor([102.0]).double())


def test_contrast_by_hand():
    """Mean 0.5: (0.2 - 0.5) 0.5 + 0.5 = 0.35 and 0.65; truncated 89.25 -> 89 and 165.75 -> 165."""
    x = torch.full((1, 1, 28, 28), 0.2)
    x[..., 14:] = 0.8
    assert (corrupt(x, "contrast", 2) * 255).unique().tolist() == pytest.approx([89, 165])
    assert corrupt(x, "contrast", 2,
                   quantise=False).unique().tolist() == pytest.approx([0.35, 0.65])


def test_brightness_by_hand():
    grey = torch.tensor([0.0, 0.25, 0.9]).view(1, 1, 1, 3).expand(1, 1, 28, 3)
    assert corrupt(grey, "brightness", 5,
                   quantise=False)[0, 0, 0].tolist() == pytest.approx([0.3, 0.55, 1])
    colours = torch.rand(3, 50, generator=torch.Generator().manual_seed(0))
    bright = corrupt(colours.view(1, 3, 50, 1), "brightness", 3, quantise=False)[0, :, :, 0]
    for before, after in zip(colours.T.tolist(), bright.T.tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        assert after == pytest.approx(colorsys.hsv_to_rgb(hue, saturation, min(value + 0.15, 1)),
                                      abs=1e-6)


def test_defocus_kernel_by_hand():
    """Radius 1, nearly no smoothing: five points of 1/5; radius below 1: one point, so only the 3
    x 3 Gaussian."""
    plus = torch.zeros(5, 5).double()
    plus[2, 1:4] = plus[1:4, 2] = 0.2
    assert disk_kernel(1.0, 0.1) == pytest.approx(plus, abs=1e-6)
    side = np.exp(-1 / (2 * 0.5**2))
    bell = np.array([side, 1, side]) / (1 + 2 * side)
    assert disk_kernel(0.4, 0.5).numpy() == pytest.approx(np.outer(bell, bell))
    for p in corruptions.TABLES[32]["defocus_blur"]:
        assert disk_kernel(*p).sum() == pytest.approx(1)
    assert (disk_kernel(1.5, 0.1) > 1e-6).sum() == 9


def test_box_matrix_by_hand():
    assert torch.equal(box_matrix(4, 2),
                       torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]).double())
    assert torch.equal(box_matrix(2, 4), torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]]).double())
    assert box_matrix(28, 18).sum(1) == pytest.approx(torch.ones(18).double())


def test_pixelate_uses_the_real_side():
    """28 px at severity 5: int(28 0.65) = 18 rows and columns remain."""
    x = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    for severity, side in zip(SEVERITIES, (26, 25, 23, 21, 18), strict=True):
        y = corrupt(x, "pixelate", severity)[0, 0]
        assert y.unique(dim=0).shape[0] == side and y.unique(dim=1).shape[1] == side


# the published tables do not
RISING = ({*CORRUPTIONS} -
          {"glass_blur", "motion_blur", "elastic_transform", "frost", "saturate", "spatter"})


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("channels", (1, 3))
def test_form_of_the_result(photographs, name, channels):
    x = photographs[:4, :channels, :28, :28]
    strength = []
    for severity in SEVERITIES:
        y = corrupt(x, name, severity)
        assert y.shape == x.shape and y.dtype == torch.float32 and y.min() >= 0 and y.max() <= 1
        steps = y.double() * 255
        assert (steps - steps.round()).abs().max() < 1e-4
        free = corrupt(x, name, severity, quantise=False)
        assert ((free - y) * 255).min() > -2e-3 and ((free - y) * 255).max() < 1
        assert torch.equal(corrupt(y, "none"), y)
        strength.append((free - x).square().mean())
    if name in RISING:
        assert strength == sorted(strength)      # each severity is stronger than the one before
    assert strength[-1] > 1e-4


def test_truncation_keeps_every_step():
    steps = (torch.arange(256).float() / 255).view(1, 1, 16, 16)
    corruptions.CORRUPTIONS["identity"] = lambda x, p, draws: x
    corruptions.TABLES[32]["identity"] = (0, 0, 0, 0, 0)
    try:
        assert torch.equal(corrupt(steps, "identity"), steps)
        lower = (steps - 0.3 / 255).clamp(0, 1)
        assert torch.equal((corrupt(lower, "identity") * 255).round().flatten(),
                           torch.arange(-1.0, 255).clamp(0))
    finally:
        del corruptions.CORRUPTIONS["identity"], corruptions.TABLES[32]["identity"]


def test_clean_hands_the_images_back(fashion):
    for shift, severity in (("none", 5), ("clean", 0), ("fog", 0), ("fog:0+snow:0", 5)):
        assert torch.equal(corrupt(fashion, shift, severity), fashion)


def test_severity_between_whole_numbers():
    assert parameters("gaussian_noise", 1.5) == pytest.approx(0.05)
    assert parameters("defocus_blur", 4.5) == pytest.approx((1.25, 0.15))
    assert parameters("jpeg_compression", 1.2) == pytest.approx(77)
    assert [parameters("brightness", s) for s in SEVERITIES] == [0.05, 0.1, 0.15, 0.2, 0.3]
    # 1 / c from 0 to 1 / 500
    assert parameters("shot_noise", 0.5) == pytest.approx(1000)
    assert parameters("shot_noise", 3.5, 224) == pytest.approx(1 / ((1 / 12 + 1 / 5) / 2))
    assert parameters("snow", 0.5, 224) == pytest.approx((0.1, 0.3, 3, 0.75, 10, 4, 0.9))
    assert parameters("fog", 0.5, 224) == pytest.approx(
        (0.75, 2)) and parameters("zoom_blur", 0.5) == pytest.approx((1.03, 0.01))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severity_starts_from_no_change_and_moves_gradually(photographs, name):
    """CCC starts JPEG from quality 85. Whole pixels, passes, zooms and mud come in jumps; nothing
    else does."""
    def at(severity):
        return corrupt(photographs[:4], name, severity, quantise=False)

    if name != "jpeg_compression":
        assert (at(0.01) - photographs[:4]).abs().mean() < 6e-3
    jumps = {
        "defocus_blur": 1.0, "glass_blur": 1.0, "pixelate": 1.0, "jpeg_compression": 1.0,
        "spatter": 1.0
    }
    for severity in (0.5, 1, 1.7, 2.49, 3.3, 4, 4.9):
        assert (at(severity + 0.01) - at(severity)).abs().mean() < jumps.get(name, 6e-3)


def test_every_corruption_has_three_tables():
    """Spot checks of the published numbers, and of which side uses which."""
    assert len(STANDARD_15) == 15 and set(STANDARD_SIX) <= set(STANDARD_15) and tuple(
        CORRUPTIONS) == STANDARD_15 + EXTRA_4
    for table in corruptions.TABLES.values():
        assert set(table) == set(CORRUPTIONS) and all(len(row) == 5 for row in table.values())
    assert [parameters("contrast", 1, side)
            for side in (8, 28, 48, 49, 111, 112, 224, 500)] == [0.75] * 3 + [0.4] * 5
    assert [parameters("gaussian_noise", 5, side)
            for side in (48, 49, 111, 112)] == [0.1, 0.18, 0.18, 0.38]
    assert parameters("motion_blur", 5, 224) == (20, 15) and parameters("glass_blur", 4,
                                                                        64) == (0.7, 2, 1)
    assert parameters("frost", 5, 224) == (0.6, 0.75) and parameters(
        "spatter", 5, 224) == (0.67, 0.4, 1, 0.65, 1.5, 1)
    alpha, sigma, affine = (244 * value for value in parameters("elastic_transform", 1, 224))
    assert (alpha, sigma, affine) == pytest.approx((488, 170.8, 24.4))
    lists = [(parameters("zoom_blur", s, side)) for side in (32, 224) for s in SEVERITIES]
    assert [round((last - 1) / step + 1e-6) + 1
            for last, step in lists] == [7, 12, 16, 21, 26, 12, 16, 11, 13, 11]


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(3, 64, 72), (1, 118, 112)])
def test_larger_sides(photographs, name, shape):
    x = torch.nn.functional.interpolate(photographs[:2, :shape[0]], shape[1:], mode="bilinear")
    whole = corrupt(x, name, 5)
    assert torch.equal(corrupt(x[1:], name, 5, torch.tensor([1])),
                       whole[1:]) and whole.isfinite().all()
    assert 0.002 < (whole - x).abs().mean() < 0.5


def test_shifts_as_texts(photographs):
    assert parse_shift("none") == parse_shift("clean", 3) == ()
    assert parse_shift("fog") == (("fog", 5.0),) and parse_shift("fog", 2) == (("fog", 2.0),)
    assert parse_shift("gaussian_noise:2.5 + fog", 1) == (("gaussian_noise", 2.5), ("fog", 1.0))
    x, ids = photographs[:4], torch.arange(4) + 9
    # in bytes, whatever is asked for in the end
    first = corrupt(x, "gaussian_noise", 2.5, ids, seed=1)
    assert torch.equal(corrupt(x, "gaussian_noise:2.5", 5, ids, 1), first)
    assert torch.equal(corrupt(x, "gaussian_noise:2.5+fog", 1, ids, 1, quantise=False),
                       corrupt(first, "fog", 1, ids, 1, quantise=False))
    assert torch.equal(corrupt(x, "fog:0+gaussian_noise", 2.5, ids, 1), first)
    twice = (corrupt(x, "gaussian_noise:1+gaussian_noise:1", 5, ids, quantise=False) -
             corrupt(x, "gaussian_noise:1", 5, ids))
    once = corrupt(x, "gaussian_noise:1", 5, ids, quantise=False) - x
    # a second round has draws of its own
    assert abs(np.corrcoef(twice.flatten(), once.flatten())[0, 1]) < 0.1


@pytest.mark.parametrize("call, words", [
    (lambda: parse_shift("fog:"), "severity of 'fog' must be a number.*got ''"),
    (lambda: parse_shift("fog:x+snow"), "'fog'.*got 'x' in 'fog:x.snow'"),
    (lambda: parse_shift("fog:7"), "from 0 .unchanged. to 5, got 7"),
    (lambda: parse_shift("fog+none"), "'none' stands alone"),
    (lambda: parse_shift("none:3"), "'none' stands alone"),
    (lambda: parse_shift("snow+fogg:2"), "no corruption 'fogg'"),
    (lambda: parse_shift(3), "a shift is a text such as"),
    (lambda: parameters("none"), "clean images"),
])
def test_wrong_shifts_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("name", ("brightness", "saturate", "snow", "frost", "fog", "spatter"))
def test_grey_is_the_luma_of_the_grey_colour(name):
    """A grey image gives what the luma of its colour version gives, where nothing is clipped."""
    grey = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(2)) * 0.05
    for severity in (1, 3, 5):
        colour = corrupt(grey.expand(3, 3, 28, 28), name, severity, quantise=False)
        luma = (colour * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
        assert torch.allclose(luma, corrupt(grey, name, severity, quantise=False),
                              atol=1e-5) or colour.max() >= 1
    with pytest.raises(ValueError, match="grey .1. or colour .3. channels, got 2"):
        corrupt(torch.zeros(1, 2, 28, 28), "snow")


@pytest.mark.parametrize("call, words", [
    (lambda x: corrupt(x, "fogg"), "no corruption 'fogg'.*gaussian_noise.*none"),
    (lambda x: corrupt(x, "contrast", 6), "from 0 .unchanged. to 5, got 6"),
    (lambda x: corrupt(x, "contrast", -1), "got -1"),
    (lambda x: corrupt(x, "contrast", True), "got True"),
    (lambda x: corrupt(x, "contrast", float("nan")), "got nan"),
    (lambda x: corrupt((x * 255).byte(), "contrast"), "uint8.*/ 255"),
    (lambda x: corrupt(x[0], "contrast"), r"shape \(1, 28, 28\).*x\[None\]"),
    (lambda x: corrupt(x * 255, "contrast"), "divide bytes by 255"),
    (lambda x: corrupt(x - 0.5, "none"), r"\[-0.5"),
    (lambda x: corrupt(x / 0, "contrast"), "NaN"),
    (lambda x: corrupt(x, "gaussian_noise", ids=torch.arange(3)),
     "one id for each of the 4 images"),
    (lambda x: corrupt(x, "gaussian_noise", ids=torch.rand(4)), "int64"),
    (lambda x: corrupt(x, "gaussian_noise", seed=0.5), "seed must be an integer"),
    (lambda x: corrupt(x.expand(4, 2, 28, 28), "jpeg_compression"), "got 2"),
])
def test_wrong_arguments_are_refused_with_the_remedy(fashion, call, words):
    with pytest.raises(ValueError, match=words):
        call(fashion[:4])


def test_an_empty_batch_stays_empty():
    for name in CORRUPTIONS:
        assert corrupt(torch.zeros(0, 1, 28, 28), name).shape == (0, 1, 28, 28)
