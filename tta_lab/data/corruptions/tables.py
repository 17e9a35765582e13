"""Names, published strengths for three sizes, and severities between the published ones."""
from __future__ import annotations

import math
import numbers

STANDARD_15 = ("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur",
               "motion_blur", "zoom_blur", "snow", "frost", "fog", "brightness", "contrast",
               "elastic_transform", "pixelate", "jpeg_compression")
EXTRA_4 = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
STANDARD_SIX = ("gaussian_noise", "defocus_blur", "contrast", "brightness", "pixelate",
                "jpeg_compression")
LARGEST_SMALL_SIDE, SMALLEST_LARGE_SIDE = 48, 112

# side of the published images -> name -> parameters at severity 1, 2, 3, 4, 5
TABLES = {
    32: {
        "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),  # sigma
        # photons at full brightness
        "shot_noise": (500, 250, 100, 75, 50),
        # share of the values
        "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
        # radius, sigma of the smoothing
        "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)),
        # sigma, reach, passes
        "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        # radius, sigma
        "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        # last zoom, step
        "zoom_blur": ((1.06, 0.01), (1.11, 0.01), (1.15, 0.01), (1.20, 0.01), (1.25, 0.01)),
        "snow": (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            # mean, std, zoom, threshold, radius, sigma, mix
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8)),
        # weights of image and frost
        "frost": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        # strength, decay
        "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),  # added to V
        "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),  # factor
        "elastic_transform": ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06),
                              (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        # factor of the side
        "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
        "jpeg_compression": (80, 65, 58, 50, 40),  # quality
        "speckle_noise": (0.06, 0.10, 0.12, 0.16, 0.20),  # sigma
        "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1.0),  # sigma
        "spatter": (
            (0.62, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.1, 0.8, 0.7, 0.5, 0),
            (0.65, 0.3, 1, 0.69, 0.5, 0),
            # mean, std, blur, threshold, strength, mud
            (0.65, 0.1, 0.7, 0.69, 0.6, 1),
            (0.65, 0.1, 0.5, 0.68, 0.6, 1)),
        # gain, offset
        "saturate": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    },
    64: {
        "gaussian_noise": (0.04, 0.08, 0.12, 0.15, 0.18),
        "shot_noise": (250, 100, 50, 30, 15),
        "impulse_noise": (0.01, 0.02, 0.05, 0.08, 0.14),
        "defocus_blur": ((0.5, 0.6), (1.0, 0.1), (1.5, 0.1), (2.5, 0.01), (3.0, 0.1)),
        "glass_blur": ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
        "motion_blur": ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
        "zoom_blur": ((1.06, 0.01), (1.11, 0.01), (1.15, 0.01), (1.20, 0.01), (1.25, 0.01)),
        "snow": ((0.1, 0.2, 1, 0.6, 8, 3, 0.8), (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
                 (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7), (0.25, 0.3, 2.25, 0.6, 12, 6,
                                                       0.65), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6)),
        "frost": ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
        "fog": ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
        "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
        "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
        "elastic_transform": ((0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03),
                              (0.16, 0.03, 0.02)),
        "pixelate": (0.9, 0.8, 0.7, 0.6, 0.5),
        "jpeg_compression": (65, 58, 50, 40, 25),
        "speckle_noise": (0.15, 0.2, 0.25, 0.3, 0.35),
        "gaussian_blur": (0.5, 0.75, 1, 1.25, 1.5),
        "spatter": ((0.62, 0.1, 0.7, 0.7, 0.6, 0), (0.65, 0.1, 0.8, 0.7, 0.6, 0),
                    (0.65, 0.3, 1, 0.69, 0.6, 0), (0.65, 0.1, 0.7, 0.68, 0.6, 1), (0.65, 0.1, 0.5,
                                                                                   0.67, 0.6, 1)),
        "saturate": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
    },
    224: {
        "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
        "shot_noise": (60, 25, 12, 5, 3),
        "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
        "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        "glass_blur": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        "zoom_blur": ((1.11, 0.01), (1.15, 0.01), (1.20, 0.02), (1.24, 0.02), (1.30, 0.03)),
        "snow": ((0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
                 (0.55, 0.3, 4, 0.9, 12, 8, 0.7), (0.55, 0.3, 4.5, 0.85, 12, 8,
                                                   0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55)),
        "frost": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
        "fog": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
        "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
        "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
        # the generator computes these with a side of 244 where 224 was meant: 488 = 2 x
        # 244 pixels, and so on
        "elastic_transform": ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02),
                              (0.12, 0.01, 0.02)),
        "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
        "jpeg_compression": (25, 18, 15, 10, 7),
        "speckle_noise": (0.15, 0.2, 0.35, 0.45, 0.6),
        "gaussian_blur": (1, 2, 3, 4, 6),
        "spatter": ((0.65, 0.3, 4, 0.69, 0.6, 0), (0.65, 0.3, 3, 0.68, 0.6, 0),
                    (0.65, 0.3, 2, 0.68, 0.5, 0), (0.65, 0.3, 1, 0.65, 1.5, 1), (0.67, 0.4, 1, 0.65,
                                                                                 1.5, 1)),
        "saturate": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    },
}

# Severity 0, towards which severities below 1 are interpolated. None stands for the value at
# severity 1: it does nothing once the rest is off.
ANCHORS = {
    "gaussian_noise": 0,
    "shot_noise": math.inf,
    "impulse_noise": 0,
    "defocus_blur": (0, 0),
    "glass_blur": (0, 0, 0),
    "motion_blur": (0, 0),
    "zoom_blur": (1, None),
    "snow": (None, None, None, 1, None, None, 1),
    "frost": (1, 0),
    "fog": (0, None),
    "brightness": 0,
    "contrast": 1,
    "elastic_transform": (0, None, 0),
    "pixelate": 1,
    "jpeg_compression": 85,
    "speckle_noise": 0,
    "gaussian_blur": 0,
    "spatter": (None, None, None, None, 0, None),
    "saturate": (1, 0),
}


def table_side(side: int) -> int:
    """Which table serves images of a (smaller) side: 32 up to 48 pixels, 64 up to 111, 224 from
    112 on."""
    return 32 if side <= LARGEST_SMALL_SIDE else 64 if side < SMALLEST_LARGE_SIDE else 224


def check_severity(severity: float) -> None:
    """Raise ValueError unless severity is a number from 0 to 5."""
    if isinstance(severity,
                  bool) or not isinstance(severity, numbers.Real) or not 0 <= severity <= 5:
        raise ValueError(f"severity must be a number from 0 (unchanged) to 5, got {severity!r}")


def _between(low, high, share: float):
    if isinstance(low, tuple):
        return tuple(_between(a, b, share) for a, b in zip(low, high, strict=True))
    return high if low is None else low + share * (high - low)


def at_severity(name: str, severity: float, side: int):
    """The entry of a table at a severity from 0 to 5; see ``parameters``."""
    row, low = TABLES[table_side(side)][name], math.floor(severity)
    share = severity - low
    if low and not share:
        return row[low - 1]
    if name == "shot_noise":  # the variance, 1 / c, is what grows linearly
        rate = _between(1 / row[low - 1] if low else 0, 1 / row[low], share)
        return 1 / rate if rate else math.inf
    return _between(row[low - 1] if low else ANCHORS.get(name), row[low], share)
