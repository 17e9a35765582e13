"""Corruptions against the public generator's images, a real codec, numbers worked by hand, and their laws."""
import colorsys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.io import decode_jpeg, encode_jpeg

from tta_lab import corruptions
from tta_lab.corruptions import CORRUPTIONS, STANDARD_SIX, Draws, box_matrix, corrupt, disk_kernel, parameters, quantisation
from tta_lab.datasets import load

GOLDEN = Path(__file__).parent / "golden" / "corruptions" / "corruptions_32.npz"
pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding")  # torchvision announces a successor of its codec
SEVERITIES = (1, 2, 3, 4, 5)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as f:
        return {name: torch.from_numpy(f[name]) for name in f.files}


@pytest.fixture(scope="module")
def photographs(golden):
    return golden["clean"].permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module")
def fashion():
    return load("fashion_mnist").images(slice(0, 100))


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name, mean, largest", [
    ("defocus_blur", 0.1, 1), ("contrast", 0.01, 1), ("brightness", 0.05, 1), ("pixelate", 0, 0), ("jpeg_compression", 0.4, 16)])
def test_equals_the_public_generator(golden, photographs, name, severity, mean, largest):
    """Differences in steps of 1/255; those of 1 come from values that lie exactly on a step before truncation."""
    expected = golden[name][severity - 1].permute(0, 3, 1, 2).float()
    difference = (corrupt(photographs, name, severity) * 255 - expected).abs()
    assert difference.mean() <= mean
    assert difference.max() <= largest + 1e-3
    assert (expected - photographs * 255).abs().mean() > 5 * difference.mean()  # the corruption itself is far larger


@pytest.mark.parametrize("severity", SEVERITIES)
def test_noise_has_the_statistics_of_the_public_generator(golden, photographs, severity):
    expected = golden["gaussian_noise_statistics"][severity - 1]
    repeats = 40
    clean = photographs.repeat(repeats, 1, 1, 1)
    noisy = corrupt(clean, "gaussian_noise", severity, ids=torch.arange(len(clean)))
    difference = (noisy - clean).double()
    assert difference.abs().mean() == pytest.approx(expected[4].item(), rel=0.01)
    assert difference.square().mean().sqrt() == pytest.approx(expected[5].item(), rel=0.01)
    assert difference.mean() == pytest.approx(expected[3].item(), abs=3e-4)
    assert noisy.double().mean((0, 2, 3)).numpy() == pytest.approx(expected[6:9].numpy(), abs=1e-3)
    assert noisy.double().std((0, 2, 3)).numpy() == pytest.approx(expected[9:12].numpy(), abs=1e-3)


def test_draws_follow_the_normal_law():
    normal = Draws(torch.arange(1500), 3, "law").normal(783)
    n = normal.numel()
    assert abs(normal.mean()) < 3 / n**0.5
    assert abs(normal.var() - 1) < 3 * (2 / n) ** 0.5
    assert abs((normal**3).mean()) < 3 * (15 / n) ** 0.5
    assert abs((normal**4).mean() - 3) < 3 * (96 / n) ** 0.5
    half = 392
    for a, b in ((normal[1:], normal[:-1]), (normal[:, 1:], normal[:, :-1]), (normal[:, half:], normal[:, :783 - half])):
        assert abs((a * b).mean()) < 4 / a.numel() ** 0.5      # neighbours in id, in pixel, and Box-Muller partners
    bits = Draws(torch.arange(1500), 3, "law").bits(783)
    assert bits.min() >= 0 and bits.max() < 2**32
    each = torch.stack([(bits >> k & 1).double().mean() for k in range(32)])
    assert (each - 0.5).abs().max() < 4.5 * 0.5 / n**0.5


def test_draws_depend_on_seed_name_id_and_salt_only():
    ids = torch.tensor([0, 1, 5, 2**31, 2**32 + 5, -1])
    one = Draws(ids, 0, "a").bits(64)
    assert len(one.flatten().unique()) == one.numel()           # also ids that share their low 32 bits
    assert torch.equal(Draws(ids[[4, 2]], 0, "a").bits(10), one[[4, 2], :10])
    for other in (Draws(ids, 1, "a").bits(64), Draws(ids, 2**32, "a").bits(64), Draws(ids, 0, "b").bits(64),
                  Draws(ids, 0, "a").bits(64, salt=1)):
        assert (other == one).sum() <= 1


def test_draws_are_these_numbers():
    """Worked in plain Python integers: a change of the generator changes every stream, and must be noticed."""
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


def test_noise_of_an_image_does_not_depend_on_its_batch(fashion):
    ids = torch.arange(100) + 1000
    whole = corrupt(fashion, "gaussian_noise", 5, ids, seed=4)
    order = torch.tensor([7, 99, 3])
    assert torch.equal(corrupt(fashion[order], "gaussian_noise", 5, ids[order], seed=4), whole[order])
    assert torch.equal(corrupt(fashion[7:8], "gaussian_noise", 5, ids[7:8], seed=4), whole[7:8])
    assert not torch.equal(corrupt(fashion, "gaussian_noise", 5, ids, seed=5), whole)
    assert torch.equal(corrupt(fashion, "gaussian_noise"), corrupt(fashion, "gaussian_noise", ids=torch.arange(100)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", STANDARD_SIX)
def test_devices_agree(photographs, name):
    here, there = corrupt(photographs, name), corrupt(photographs.cuda(), name).cpu()
    assert ((here - there).abs() > 1e-6).float().mean() < 1e-3      # isolated pixels may lie on a step
    assert (here - there).abs().max() < 1.01 / 255 or name == "jpeg_compression"


def test_global_generators_are_left_alone(fashion):
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    corrupt(fashion[:4], "gaussian_noise")
    assert torch.equal(torch.get_rng_state(), before) and (np.random.get_state()[1] == before_numpy).all()


@pytest.mark.parametrize("quality", (10, 40, 65, 95))
def test_jpeg_is_close_to_a_real_codec(golden, quality):
    photographs = golden["clean"].permute(0, 3, 1, 2).contiguous()
    fashion = load("fashion_mnist").x[:50]
    for images, least in ((photographs, 47), (photographs[:, 1:2], 47), (fashion, 47), (photographs[:, :, :28, :27], 38),
                          (photographs[:, :, 3:20, 5:30], 38), (photographs[:, :1, :19, :13], 42)):
        real = torch.stack([decode_jpeg(encode_jpeg(x.contiguous(), quality)) for x in images]).double()
        ours = corruptions.jpeg_compression(images.double() / 255, quality, None) * 255
        psnr = 10 * torch.log10(255**2 / (ours - real).square().mean())
        assert psnr >= least, (quality, tuple(images.shape), psnr)      # 35 is asked for; this is what integers allow


def test_quantisation_tables_by_hand():
    assert quantisation(50)[0].tolist() == [16, 11, 10, 16, 24, 40, 51, 61]          # 100 per cent: the standard itself
    assert quantisation(80)[0, 0] == 6 and quantisation(80, chroma=True)[0, 0] == 7  # (16 40 + 50) // 100, (17 40 + 50) // 100
    assert quantisation(40)[7, 7] == 124                                             # (99 125 + 50) // 100 = 124
    assert quantisation(10)[7, 7] == 255 and quantisation(100).max() == 1


def test_a_flat_picture_survives_jpeg_up_to_its_rounding():
    """A flat grey of 100: DC = 8 (100 - 128) = -224, steps of 16 at quality 50: -14 steps exactly, nothing is lost."""
    flat = torch.full((1, 1, 28, 28), 100 / 255)
    assert torch.equal(corruptions.jpeg_compression(flat.double(), 50, None) * 255, torch.full((1, 1, 28, 28), 100.0).double())
    # 103: DC = -200 = -12.5 steps -> -13 (away from zero) -> -208 / 8 + 128 = 102
    assert torch.equal((corruptions.jpeg_compression(flat.double() * 1.03, 50, None) * 255).unique(), torch.tensor([102.0]).double())


def test_contrast_by_hand():
    """Mean 0.5: (0.2 - 0.5) 0.5 + 0.5 = 0.35 and 0.65; truncated 89.25 -> 89 and 165.75 -> 165."""
    x = torch.full((1, 1, 28, 28), 0.2)
    x[..., 14:] = 0.8
    assert (corrupt(x, "contrast", 2) * 255).unique().tolist() == pytest.approx([89, 165])
    assert corrupt(x, "contrast", 2, quantise=False).unique().tolist() == pytest.approx([0.35, 0.65])


def test_brightness_by_hand():
    grey = torch.tensor([0.0, 0.25, 0.9]).view(1, 1, 1, 3).expand(1, 1, 28, 3)
    assert corrupt(grey, "brightness", 5, quantise=False)[0, 0, 0].tolist() == pytest.approx([0.3, 0.55, 1])
    colours = torch.rand(3, 50, generator=torch.Generator().manual_seed(0))
    bright = corrupt(colours.view(1, 3, 50, 1), "brightness", 3, quantise=False)[0, :, :, 0]
    for before, after in zip(colours.T.tolist(), bright.T.tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        assert after == pytest.approx(colorsys.hsv_to_rgb(hue, saturation, min(value + 0.15, 1)), abs=1e-6)


def test_defocus_kernel_by_hand():
    """Radius 1, nearly no smoothing: five points of 1/5; radius below 1: one point, so only the 3 x 3 Gaussian."""
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
    assert torch.equal(box_matrix(4, 2), torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]).double())
    assert torch.equal(box_matrix(2, 4), torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]]).double())
    assert box_matrix(28, 18).sum(1) == pytest.approx(torch.ones(18).double())


def test_pixelate_uses_the_real_side():
    """28 px at severity 5: int(28 0.65) = 18 rows and columns remain."""
    x = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    for severity, side in zip(SEVERITIES, (26, 25, 23, 21, 18), strict=True):
        y = corrupt(x, "pixelate", severity)[0, 0]
        assert y.unique(dim=0).shape[0] == side and y.unique(dim=1).shape[1] == side


@pytest.mark.parametrize("name", STANDARD_SIX)
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
    assert strength == sorted(strength)      # each severity is stronger than the one before
    assert strength[-1] > 1e-4


def test_truncation_keeps_every_step():
    steps = (torch.arange(256).float() / 255).view(1, 1, 16, 16)
    corruptions.CORRUPTIONS["identity"] = lambda x, p, draws: x
    corruptions.TABLES[32]["identity"] = (0, 0, 0, 0, 0)
    try:
        assert torch.equal(corrupt(steps, "identity"), steps)
        lower = (steps - 0.3 / 255).clamp(0, 1)
        assert torch.equal((corrupt(lower, "identity") * 255).round().flatten(), torch.arange(-1.0, 255).clamp(0))
    finally:
        del corruptions.CORRUPTIONS["identity"], corruptions.TABLES[32]["identity"]


def test_clean_hands_the_images_back(fashion):
    assert torch.equal(corrupt(fashion, "none"), fashion) and torch.equal(corrupt(fashion, "clean", 0), fashion)


def test_severity_between_whole_numbers():
    assert parameters("gaussian_noise", 1.5) == pytest.approx(0.05)
    assert parameters("defocus_blur", 4.5) == pytest.approx((1.25, 0.15))
    assert parameters("jpeg_compression", 1.2) == pytest.approx(77)
    assert [parameters("brightness", s) for s in SEVERITIES] == [0.05, 0.1, 0.15, 0.2, 0.3]
    assert set(corruptions.TABLES[32]) == set(CORRUPTIONS) == set(STANDARD_SIX)


@pytest.mark.parametrize("call, words", [
    (lambda x: corrupt(x, "fogg"), "no corruption 'fogg'.*gaussian_noise.*none"),
    (lambda x: corrupt(x, "contrast", 6), "1 to 5, got 6"),
    (lambda x: corrupt(x, "contrast", 0), "clean images are the corruption 'none'"),
    (lambda x: corrupt(x, "contrast", True), "got True"),
    (lambda x: corrupt(x, "contrast", float("nan")), "got nan"),
    (lambda x: corrupt((x * 255).byte(), "contrast"), "uint8.*/ 255"),
    (lambda x: corrupt(x[0], "contrast"), r"shape \(1, 28, 28\).*x\[None\]"),
    (lambda x: corrupt(x * 255, "contrast"), "divide bytes by 255"),
    (lambda x: corrupt(x - 0.5, "none"), r"\[-0.5"),
    (lambda x: corrupt(x / 0, "contrast"), "NaN"),
    (lambda x: corrupt(x, "gaussian_noise", ids=torch.arange(3)), "one id for each of the 4 images"),
    (lambda x: corrupt(x, "gaussian_noise", ids=torch.rand(4)), "int64"),
    (lambda x: corrupt(x, "gaussian_noise", seed=0.5), "seed must be an integer"),
    (lambda x: corrupt(x.expand(4, 2, 28, 28), "jpeg_compression"), "got 2"),
    (lambda x: corrupt(torch.zeros(1, 3, 224, 224), "contrast"), r"side 224.*TABLES\[224\]"),
])
def test_wrong_arguments_are_refused_with_the_remedy(fashion, call, words):
    with pytest.raises(ValueError, match=words):
        call(fashion[:4])


def test_an_empty_batch_stays_empty():
    for name in STANDARD_SIX:
        assert corrupt(torch.zeros(0, 1, 28, 28), name).shape == (0, 1, 28, 28)
