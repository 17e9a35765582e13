"""Known or unknown: how likely each image of a batch belongs to a class of the model, and what may
be learned from the others."""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import scores
from ..core.knobs import knob
from ..core.parts import NeedsError, Penalty, Selector
from .objectives import head_rows


def best_split(ordered: Tensor) -> int:
    """How many of the ordered numbers (N,) make the lower part in the split in two of least
    squares."""
    below = ordered.cumsum(0)[:-1]
    count = torch.arange(1, len(ordered), dtype=ordered.dtype)
    return (int(
        (below**2 / count + (ordered.sum() - below)**2 / (len(ordered) - count)).argmax()) + 1)


def two_gaussians(values: Tensor, steps: int = 100, tolerance: float = 1e-3) -> Tensor:
    """Posterior of the lower of two Gaussians fitted to numbers (N,), float64 on the CPU; 1 where
    all are alike.

    Expectation maximisation from the best split in two, variances at least 1e-6, until the mean
    log-likelihood changes by less than ``tolerance``.
    """
    x = values.detach().double().cpu()
    if x.max() == x.min():
        return torch.ones_like(x)
    ordered = x.sort().values
    cut = ordered[best_split(ordered) - 1]
    p = torch.stack([x <= cut, x > cut]).to(x.dtype)
    before = -torch.inf
    settled = False
    for _ in range(steps + 1):
        size = p.sum(1) + 1e-15
        mean = p @ x / size
        var = (p * (x - mean[:, None]) ** 2).sum(1) / size + 1e-6
        joint = ((size / len(x)).log()[:, None] - 0.5 * ((x - mean[:, None])**2 / var[:, None] +
                                                         (2 * torch.pi * var).log()[:, None]))
        now, p = joint.logsumexp(0).mean().item(), joint.softmax(0)
        if settled:
            break
        settled, before = abs(now - before) < tolerance, now
    return p[mean.argmin()]


def probability_known(ctx) -> Tensor:
    """Of every image (B,), no gradient: the lower of two Gaussians fitted to o = 1 - m, m the
    largest cosine between the features of the frozen source on batch statistics and a row of the
    adapted network's head, rescaled to 0 .. 1 within the batch. UniEnt (2404.06065)."""
    def make():
        rows = F.normalize(head_rows(ctx.model, "the split into known and unknown"), dim=1)
        alike = (F.normalize(ctx.source_features("batch"), dim=1) @ rows.T).amax(1)
        low, high = alike.min(), alike.max()
        return two_gaussians(1 - (alike - low) / (high - low).clamp_min(1e-12)).to(alike)
    return ctx.once("known or unknown", make)


@dataclass(frozen=True)
class LikelyKnown(Selector):
    """Keep the images that are more likely known than unknown, or weigh all by how likely they are
    known (``soft``).

    See ``probability_known``. Paper: UniEnt (2404.06065).
    """

    needs = frozenset({"features"})

    soft: bool = knob(False, why="weights instead of a split", paper="2404.06065: UniEnt+")

    def weights(self, ctx, losses, keep, state):
        p = probability_known(ctx)
        return (p if self.soft else (p > 0.5)).to(losses.dtype)


@dataclass(frozen=True)
class UnknownEntropy(Penalty):
    """Maximise the entropy of the images that are likely unknown: -w mean of H_i over those, or -w
    mean_i (1 - p_i) H_i (``soft``).

    Paper: UniEnt (2404.06065).
    """

    needs = frozenset({"features"})

    weight: float = knob(0.2, (0.0, 10.0), "weight of the term", paper="2404.06065: one of 1, "
                                                                       "0.5, 0.2, 0.1")
    soft: bool = knob(False, why="weights instead of a split", paper="2404.06065: UniEnt+",
                      follows="LikelyKnown.soft")

    def __call__(self, ctx, losses, weights, state):
        p = probability_known(ctx)
        entropy = scores.entropy(ctx.logits)
        if self.soft:
            return -self.weight * ((1 - p) * entropy).mean()
        unknown = (p <= 0.5).to(entropy.dtype)
        return -self.weight * (unknown * entropy).sum() / unknown.sum().clamp_min(1)


def _doubts(ctx):
    if not hasattr(ctx, "doubts"):
        raise NeedsError("TwoFilters and BothFail are parts of paf_kip, which asks two models; "
                         "with another method use EntropyThreshold")
    return ctx.doubts


@dataclass(frozen=True)
class TwoFilters(Selector):
    """Keep the samples of which the adapted network is certain, H < E0 = fraction ln C, and weigh
    by the teacher: w_i = exp(E0 - H'_i).

    The exponent lies between -10 and 10. For ``paf_kip`` alone, as ``BothFail``. Paper: PAF-KIP
    (2508.18751).
    """

    fraction: float = knob(0.4, (0.0, 1.0), "of ln C, the entropy of a uniform prediction",
                           paper="public copy: 0.4")
    both: bool = knob(False, why="the teacher must be certain too, as the authors' description "
                                 "has it")

    def weights(self, ctx, losses, keep, state):
        (own, teacher), limit = _doubts(ctx), self.fraction * math.log(ctx.classes)
        certain = (own < limit) & (teacher < limit) if self.both else own < limit
        return torch.where(certain, (limit - teacher).clamp(-10, 10).exp(), 0.0)


@dataclass(frozen=True)
class BothFail(Penalty):
    """Maximise the entropy of the samples of which neither model is certain: -weight mean of H_i
    over those. Paper: PAF-KIP (2508.18751)."""

    weight: float = knob(2.0, (0.0, 100.0), "of the term", paper="public copy: 2 (CIFAR), 0.7 "
                                                                 "(ImageNet)")
    fraction: float = knob(0.4, (0.0, 1.0), "of ln C, the entropy of a uniform prediction",
                           paper="public copy: 0.4", follows="TwoFilters.fraction")

    def __call__(self, ctx, losses, weights, state):
        unknown = (torch.stack(_doubts(ctx)) >= self.fraction * math.log(ctx.classes)).all(0)
        return -self.weight * torch.where(unknown, losses, 0.0).sum() / unknown.sum().clamp_min(1)
