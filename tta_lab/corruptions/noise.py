"""Noise: independent values per pixel and channel."""
from __future__ import annotations

import math

import torch
from torch import Tensor

from .draws import Draws


def _normal(x: Tensor, draws: Draws) -> Tensor:
    n = x[0].numel()
    return (draws.normal(n) if x.dtype == torch.float64 else draws.normal32(n).to(x.dtype)).view_as(x)


def gaussian_noise(x: Tensor, sigma: float, draws: Draws) -> Tensor:
    """x + sigma N(0, 1), independent per pixel and channel."""
    return _normal(x, draws).mul_(sigma).add_(x)


def speckle_noise(x: Tensor, sigma: float, draws: Draws) -> Tensor:
    """x + sigma x N(0, 1), independent per pixel and channel."""
    return _normal(x, draws).mul_(sigma).add_(1).mul_(x)


def poisson(rate: Tensor, u: Tensor) -> Tensor:
    """The Poisson quantile: the smallest k with P(K <= k) >= u, for u uniform in (0, 1).

    Below a rate of 4 by summing the probabilities. From there on floor(r + sqrt(r) w + (2 + w^2) / 6 + ...) with w the normal
    quantile of u, an expansion up to 1 / r (Giles, "Algorithm 955", ACM TOMS 42, 2016, eq. for the normal asymptotic
    approximation), wrong by one for fewer than one u in a thousand.
    """
    few = ((rate < 4) & (rate > 0)).flatten().nonzero()[:, 0]
    w = (2 * u - 1).erfinv_().mul_(math.sqrt(2))
    w2, r = w * w, rate.clamp(min=4)
    counts = (w2 / 270 + 7 / 810).mul_(w2).sub_(8 / 405).div_(r)
    root = r.sqrt()
    counts += (w2.add_(2)).div_(6)                                        # (2 + w^2) / 6
    counts -= w2.mul_(6 / 72).mul_(w).div_(root)                          # (2 w + w^3) / (72 sqrt r)
    counts = counts.add_(root.mul_(w)).add_(r).floor_().clamp_(min=0)
    counts = torch.where(rate > 0, counts, 0)
    if len(few):
        r, left = rate.flatten()[few], u.flatten()[few]
        p = (-r).exp()
        k = torch.zeros_like(r)
        for i in range(1, 40):
            left = left - p
            more = left > 0
            if i % 4 == 0 and not more.any():
                break
            k += more
            p = p * r / i
        counts.view(-1)[few] = k
    return counts


def shot_noise(x: Tensor, photons: float, draws: Draws) -> Tensor:
    """Poisson(x c) / c with c ``photons`` at full brightness."""
    if math.isinf(photons):
        return x
    u = draws.uniform32(x[0].numel()).to(x.dtype).view_as(x)
    return poisson(x * photons, u).div_(photons)


def impulse_noise(x: Tensor, share: float, draws: Draws) -> Tensor:
    """A share of the values, chosen per pixel and channel, is replaced: half of them by 1, half by 0."""
    word = draws.words(x[0].numel()).view_as(x)                            # uniform in -2^31 .. 2^31 - 1
    salt, both = (min(round(s * 2**32) - 2**31, 2**31 - 1) for s in (share / 2, share))
    return torch.where(word < both, (word < salt).to(x.dtype), x)
