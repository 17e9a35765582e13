"""Augmentations of image batches (B, C, H, W) in [0, 1]: parts called with a batch and the
adapter's generator.

One draw serves the whole batch unless said otherwise; the global generators are not touched.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.knobs import knob
from ..core.parts import Part


@dataclass(frozen=True)
class Augmentation(Part):
    """A function of a batch and a generator, with settings."""

    def __call__(self, x: Tensor, rng: torch.Generator) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class Unchanged(Augmentation):
    """No augmentation."""

    def __call__(self, x, rng):
        return x


def between(rng: torch.Generator, *ranges: tuple[float, float]) -> list[float]:
    """One uniform number from each range, with one question to the device."""
    u = torch.rand(len(ranges), generator=rng, device=rng.device).tolist()
    return [low + (high - low) * v for (low, high), v in zip(ranges, u, strict=True)]


@dataclass(frozen=True)
class ColorAffine(Augmentation):
    """The augmentation of CoTTA: colour jitter in random order, a small affine map, blur, flip,
    noise; result in [0, 1].

    Brightness 0.6-1.4, contrast 0.7-1.3, saturation 0.5-1.5, hue +-0.06 and gamma 0.7-1.3 in random
    order; the image padded by half its side, turned by up to 15 degrees, moved by up to 1/16 of the
    padded side, scaled 0.9-1.1, blurred (5 x 5, sigma up to 0.5), cut back; mirrored every other
    time; Gaussian noise of sd 0.005, the only draw per pixel. Source: CoTTA (2203.13591,
    supplement), public code.
    """

    blur_and_noise: bool = knob(True, why="blur and noise too; ROID does without them")
    padding: str = knob("edge", choices=("edge", "reflect"),
                        why="how the image is padded before it is turned; ROID: reflect")

    def __call__(self, x, rng):
        # here and below: loading it takes seconds
        from torchvision.transforms.v2 import functional as T

        if x.shape[1] not in (1, 3):
            raise ValueError(f"ColorAffine needs images of 1 or 3 channels, got {x.shape[1]}; "
                             f"choose another augment=")
        h, w = x.shape[-2:]
        values = between(
            rng,
            (0.6, 1.4),
            (0.7, 1.3),
            (0.5, 1.5),
            (-0.06, 0.06),
            (0.7, 1.3),
            (-15, 15),
            (-w / 8, w / 8),
            (-h / 8, h / 8),
            (0.9, 1.1),
            (0.001, 0.5),
            (0, 1),
        )
        brightness, contrast, saturation, hue, gamma, angle, right, down, scale, sigma, mirror = (
            values
        )
        x = x.clamp(0, 1)
        jitter = [
            lambda v: T.adjust_brightness(v, brightness),
            lambda v: T.adjust_contrast(v, contrast),
            lambda v: T.adjust_saturation(v, saturation),
            lambda v: T.adjust_hue(v, hue) if v.shape[1] == 3 else v,
            lambda v: v.clamp(1e-8, 1).pow(gamma),
        ]
        for i in torch.randperm(5, generator=rng, device=rng.device).tolist():
            x = jitter[i](x)
        pad = [min(w // 2, w - 1), min(h // 2, h - 1)]
        x = T.pad(x, pad, padding_mode=self.padding)
        x = T.affine(
            x,
            angle,
            [round(right), round(down)],
            scale,
            [0.0, 0.0],
            interpolation=T.InterpolationMode.BILINEAR,
        )
        if self.blur_and_noise:
            x = T.gaussian_blur(x, [5, 5], [sigma, sigma])
        x = T.center_crop(x, [h, w])
        x = x.flip(-1) if mirror < 0.5 else x
        if self.blur_and_noise:
            x = x + 0.005 * torch.randn(x.shape, generator=rng, device=x.device, dtype=x.dtype)
        return x.clamp(0, 1)


@dataclass(frozen=True)
class CropFlip(Augmentation):
    """Each image padded with black, cut back at a random place and mirrored every other time.

    ``shared``: one place and one mirror for the whole batch, instead of one for each image.
    """

    pad: int = knob(4, (0, 64), "width of the border", paper="STAMP: 4", unit="pixels")
    shared: bool = knob(False, why="draw once for the whole batch")

    def __call__(self, x, rng):
        n, _, h, w = x.shape
        padded = F.pad(x, [self.pad] * 4)
        if self.shared:
            down, right, mirror = between(rng, (0, 2 * self.pad + 1), (0, 2 * self.pad + 1), (0, 1))
            x = padded[..., int(down):int(down) + h, int(right):int(right) + w]
            return x.flip(-1) if mirror < 0.5 else x
        corner = torch.randint(2 * self.pad + 1, (2, n, 1), generator=rng, device=x.device)
        mirror = torch.rand(n, 1, generator=rng, device=x.device) < 0.5
        rows, columns = (
            torch.arange(h, device=x.device) + corner[0],
            torch.arange(w, device=x.device),
        )
        columns = torch.where(mirror, columns.flip(0), columns) + corner[1]
        image = torch.arange(n, device=x.device)[:, None, None]
        return padded[image, :, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


# --- destroying the object, keeping everything else (DeYO, 2403.07366) ---

@dataclass(frozen=True)
class ShufflePatches(Augmentation):
    """Cut each image into ``grid`` x ``grid`` patches and shuffle them, every image in its own
    order.

    Where the side is no multiple of the grid the image is resized to the largest multiple below,
    and back.
    """

    grid: int = knob(4, (1, 64), "patches along each side", paper="DeYO: 4")

    def __call__(self, x, rng):
        n, c, h, w = x.shape
        g = self.grid
        if min(h, w) < g:
            raise ValueError(f"images of {h} x {w} cannot be cut into {g} x {g} patches")
        ph, pw = h // g, w // g
        small = (
            x if (ph * g, pw * g) == (h, w) else F.interpolate(x, (ph * g, pw * g), mode="bilinear")
        )
        patches = (
            small.view(n, c, g, ph, g, pw).permute(0, 2, 4, 1, 3, 5).reshape(n, g * g, c, ph, pw)
        )
        order = torch.rand(n, g * g, generator=rng, device=x.device).argsort(1)
        patches = patches[torch.arange(n, device=x.device)[:, None], order]
        out = (
            patches.view(n, g, g, c, ph, pw).permute(0, 3, 1, 4, 2, 5).reshape(n, c, ph * g, pw * g)
        )
        return out if out.shape == x.shape else F.interpolate(out, (h, w), mode="bilinear")


@dataclass(frozen=True)
class ShufflePixels(Augmentation):
    """Shuffle all pixels; one order for all images and channels."""

    def __call__(self, x, rng):
        order = torch.randperm(x.shape[-2] * x.shape[-1], generator=rng, device=x.device)
        return x.flatten(2)[..., order].view_as(x)


@dataclass(frozen=True)
class Occlude(Augmentation):
    """Overwrite the central window by the image's own mean colour; window and margin are shares of
    the side."""

    share: float = knob(0.5, (0.0, 1.0), "side of the window",
                        paper="DeYO: 112 of 224, at (56, 56)")

    def __call__(self, x, rng):
        h, w = x.shape[-2:]
        top, left = round(h * (1 - self.share) / 2), round(w * (1 - self.share) / 2)
        out = x.clone()
        out[..., top:h - top, left:w - left] = x.mean((-2, -1), keepdim=True)
        return out


# --- one image, many views (MEMO, 2110.09506) ---

@dataclass(frozen=True)
class AugMix(Augmentation):
    """AugMix after a random crop and flip, drawn anew for every image of the batch.

    Three chains of one to three operations at level 1, mixed with Dirichlet(1) weights and blended
    with the image by a Beta(1, 1) weight. Source: AugMix (1912.02781) as used by MEMO (2110.09506).
    """

    chains: int = knob(3, (1, 10), "chains that are mixed", paper="AugMix: 3")

    def __call__(self, x, rng):
        return torch.cat([self._one(image, rng) for image in x.clamp(0, 1).split(1)])

    def _one(self, x, rng):
        x = CropFlip(max(1, x.shape[-1] // 8), shared=True)(x, rng)
        exponential = (
            -torch.rand(self.chains, generator=rng, device=x.device).clamp_min(1e-12).log()
        )
        mixed = torch.zeros_like(x)
        for weight in exponential / exponential.sum():
            chain = x
            for _ in range(1 + int(between(rng, (0, 3))[0])):
                chain = self._operation(chain, rng)
            mixed = mixed + weight * chain
        blend = between(rng, (0, 1))[0]
        return ((1 - blend) * x + blend * mixed).clamp(0, 1)

    @staticmethod
    def _operation(x, rng):
        from torchvision.transforms.v2 import functional as T

        kind, level, sign = between(rng, (0, 9), (0.1, 1.0), (-1, 1))
        size, sign = x.shape[-1], 1 if sign > 0 else -1
        affine = {
            "angle": 0.0,
            "translate": [0, 0],
            "scale": 1.0,
            "shear": [0.0, 0.0],
            "interpolation": T.InterpolationMode.BILINEAR,
        }
        shear, shift = sign * level * 0.03 * 57.2958, sign * round(level * size / 30)
        changes = (
            {"angle": sign * level * 3.0},
            {"shear": [shear, 0.0]},
            {"shear": [0.0, shear]},
            {"translate": [shift, 0]},
            {"translate": [0, shift]},
        )
        if kind < 5:
            return T.affine(x, **{**affine, **changes[int(kind)]})
        if kind < 6:
            return T.autocontrast(x)
        if kind < 7:
            return T.solarize(x, 1 - level * 0.1)
        as_bytes = (x * 255).round().to(torch.uint8)
        return (
            T.equalize(as_bytes)
            if kind < 8
            else T.posterize(as_bytes, max(1, round(4 - 0.4 * level)))
        ).to(x.dtype) / 255
