"""Confidence intervals of paired differences, for images that depend on one another."""
from __future__ import annotations

import math

import numpy as np

WINDOW = 500


def effective(prediction) -> float:
    """Effective number of predicted classes, exp of the entropy of their shares, 1..C.
    (N,) -> number"""
    n = np.unique(np.asarray(prediction), return_counts=True)[1]
    p = n / n.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def normal_quantile(level: float) -> float:
    """The z with P(|Z| <= z) = level for a standard normal Z: 1.960 for 0.95.  Found by
    bisection."""
    low = 0.0
    high = 40.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if math.erf(middle / math.sqrt(2)) < level else (low, middle)
    return low


def tango(worse: float, better: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Score interval of the difference of two paired shares, (worse - better) / n, each end in
    -1..1.

    ``worse`` images changed from right to wrong, ``better`` from wrong to right, of n. All d with
    |worse - better - n d| <= z sqrt(n (2 q + d (1 - d))), q the maximum-likelihood share of
    ``better`` given d (Tango, Statistics in Medicine 1998). Unlike an interval from the normal
    approximation it keeps its coverage with few flips, and has a width where there is none; exact
    tests (McNemar) are in agreement but conservative. Counts may be fractions. Raises ValueError
    unless 0 <= worse + better <= n and n > 0.
    """
    if not (n > 0 and worse >= 0 and better >= 0 and worse + better <= n + 1e-9):
        raise ValueError(f"expected counts of flips that fit into n images, got {worse} + {better} "
                         f"of {n}")
    z = normal_quantile(level)

    def distance(d: float) -> float:
        b = -worse - better + (2 * n - worse + better) * d
        q = (math.sqrt(max(b * b + 8 * n * better * d * (1 - d), 0.0)) - b) / (4 * n)
        spread = n * (2 * max(q, 0.0) + d * (1 - d))
        gap = worse - better - n * d
        return (gap / math.sqrt(spread) if spread > 1e-15 else math.copysign(math.inf, gap) if gap
                else 0.0)

    middle = (worse - better) / n

    def end(inside: float, outside: float) -> float:
        if abs(distance(outside)) <= z:
            return outside
        for _ in range(60):
            half = (inside + outside) / 2
            inside, outside = (half, outside) if abs(distance(half)) <= z else (inside, half)
        return inside

    return end(middle, -1.0), end(middle, 1.0)


def design_effect(values, strata=None, blocks: int = 20) -> float:
    """How many times larger the variance of the mean is than for independent images, at least 1.
    (N,) in order of arrival -> number

    Variance of the mean from about ``blocks`` successive stretches over that from single images.
    Neighbours that go wrong together, as in a film, carry less information than their number; the
    interval is taken at N / design effect images (Rao & Scott 1992). ``strata`` (N,) numbers the
    planned segments of a stream: differences between them are no chance and do not count.
    """
    values = np.asarray(values, np.float64)
    if len(values) < 2 * blocks or not values.std():
        return 1.0
    groups = ([values] if strata is None
              else [values[np.asarray(strata) == k] for k in np.unique(strata)])
    variance = 0.0
    for group in groups:
        parts = max(2, round(blocks * len(group) / len(values)))
        sums = np.array([piece.sum() for piece in np.array_split(group - group.mean(), parts)])
        variance += parts / (parts - 1) * float((sums ** 2).sum())
    return max(1.0, variance / float(((values - values.mean()) ** 2).sum()))


def paired_difference(harm, level: float = 0.95, strata=None) -> dict[str, float]:
    """Change in error from the frozen to the adapting model with its interval, in points.

    ``harm`` (N,) in order of arrival: 1 right to wrong, -1 wrong to right, 0 else. difference = 100
    mean(harm); ``low`` and ``high`` are Tango's score interval at counts divided by the
    `design_effect`. Tested by simulation from 200 images on.
    """
    harm = np.asarray(harm)
    if not len(harm):
        return {"difference": math.nan, "low": math.nan, "high": math.nan,
                "design_effect": math.nan}
    effect = design_effect(harm, strata)
    low, high = tango(float((harm > 0).sum()) / effect, float((harm < 0).sum()) / effect,
                      len(harm) / effect, level)
    return {"difference": 100 * float(harm.mean()), "low": 100 * low, "high": 100 * high,
            "design_effect": effect}


def worst_window(harm, size: int = WINDOW, block: int = 64, permutations: int = 400,
                 seed: int = 0) -> dict[str, float]:
    """The stretch of ``size`` labelled images where adapting did most harm, and how much of that
    chance explains, in points.

    The worst of many windows is bad by chance alone. What chance does is learned from the scatter
    around local means (of stretches as long as a window): these residuals are put in random order
    in whole blocks of ``block`` neighbours, again and again, and the worst window of each order, on
    top of the mean harm, is what even harm would show. ``worst``, ``start``; ``expected`` and
    ``by_chance``, median and 95 % quantile of the orders; ``p`` = (1 + orders as bad) / (1 +
    orders); ``corrected`` = worst - (expected - mean harm), not below the mean: an estimate of the
    true harm there. With fewer than 2 x 500 images the window is a quarter of them; {} with fewer
    than 200, or fewer than 4 blocks.
    """
    harm = np.asarray(harm, np.float64)
    n = len(harm)
    size = size if n >= 2 * size else n // 4
    block = min(block, max(size // 2, 1))
    if n < 200 or n // block < 4:
        return {}

    def worst(values):
        sums = np.concatenate([np.zeros((*values.shape[:-1], 1)), values.cumsum(-1)], -1)
        windows = sums[..., size:] - sums[..., :-size]
        return windows.argmax(-1), 100 * windows.max(-1) / size

    start, found = worst(harm)
    generator = np.random.default_rng(seed)
    rest = np.concatenate([piece - piece.mean() for piece in np.array_split(harm, n // size)])
    # the local mean took up a part of the scatter
    rest = rest[:n // block * block].reshape(-1, block) * math.sqrt(size / (size - block))
    noise = np.array([worst(rest[generator.permutation(len(rest))].ravel())[1]
                      for _ in range(permutations)])
    expected = float(np.median(noise))
    mean = 100 * float(harm.mean())
    return {"size": size, "worst": float(found), "start": int(start), "expected": mean + expected,
            "by_chance": mean + float(np.quantile(noise, 0.95)),
            "p": (1 + int((mean + noise >= found - 1e-9).sum())) / (1 + permutations),
            "corrected": max(mean, float(found) - expected)}
