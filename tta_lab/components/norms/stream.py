"""Batch-norm layers for streams whose neighbours are alike: robust running statistics,
instance-aware statistics, un-mixed components.

As in ``batch_norm.py`` statistics move only in a forward with ``commit`` set.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.knobs import knob
from ...core.norm_layers import Affine, TestTimeNorm, batch_norms
from ...core.scores import upcast
from .batch_norm import RuledStatistics, ruled_with_source


def per_channel(values: Tensor, x: Tensor) -> Tensor:
    """(C,) or (B, C) in the shape in which it meets x (B, C, *S)."""
    return values.reshape(*(values.shape if values.ndim == 2 else (1, -1)), *(1,) * (x.ndim - 2))


class Differentiable(TestTimeNorm):
    def with_live_statistics(self, x: Tensor, mean: Tensor, var: Tensor, affine: Affine) -> Tensor:
        """Like ``with_statistics``, for statistics (C,) or (B, C) that carry a gradient; computed
        in at least float32."""
        y = (upcast(x) - per_channel(mean, x)) * per_channel((var + affine.eps).rsqrt(), x)
        if affine.weight is not None:
            y = y * per_channel(affine.weight, x)
        if affine.bias is not None:
            y = y + per_channel(affine.bias, x)
        return y.to(x.dtype)


class _Robust(Differentiable):
    alpha = 0.05

    def normalise(self, x, affine):
        if not self.commit:
            return self.with_statistics(x, self.running_mean, self.running_var, affine)
        var, mean = torch.var_mean(upcast(x), [d for d in range(x.ndim) if d != 1], correction=0)
        mean = (1 - self.alpha) * self.running_mean + self.alpha * mean
        var = (1 - self.alpha) * self.running_var + self.alpha * var
        y = self.with_live_statistics(x, mean, var, affine)
        self.running_mean.copy_(mean.detach())
        self.running_var.copy_(var.detach())
        return y


class _InstanceAware(Differentiable):
    k = 4.0

    def normalise(self, x, affine):
        n = x[0, 0].numel()
        if n <= 1:
            return self.with_statistics(x, self.running_mean, self.running_var, affine)
        var, mean = torch.var_mean(upcast(x).flatten(2), 2, correction=1)
        spread = self.running_var + affine.eps
        mean = self.running_mean + _shrink(mean - self.running_mean, self.k * (spread / n).sqrt())
        var = (self.running_var + _shrink(var - self.running_var,
                                          self.k * spread * (2 / (n - 1))**0.5))
        return self.with_live_statistics(x, mean, var.relu(), affine)


def _shrink(difference: Tensor, width: Tensor) -> Tensor:
    """Soft shrinkage: what a difference has beyond +-width."""
    return difference.sign() * (difference.abs() - width).relu()


class _Unmixed(Differentiable):
    temperature = 0.07
    momentum_at = 64
    cross_term = False

    def draw_(self, components: int, rng: torch.Generator, exact: bool = False) -> None:
        """K components around the source statistics; their mixture has mean and variance of the
        source, on average or exactly."""
        mean = self.running_mean
        var = self.running_var
        k = components
        noise = (torch.randn(k, len(mean), generator=rng).to(mean) if k > 1 else torch.zeros(
            1, len(mean)).to(mean))
        if exact and k > 1:
            noise = noise - noise.mean(0)
            noise = noise * ((k - 1) / k) ** 0.5 / noise.square().mean(0).sqrt()
        self.register_buffer("means", mean + (0.5 * k / max(k - 1, 1)) ** 0.5 * var.sqrt() * noise)
        self.register_buffer("vars", (0.5 if k > 1 else 1.0) * var.expand(k, -1).clone())

    def normalise(self, x, affine):
        if x.ndim == 2:
            return self.with_statistics(x, self.running_mean, self.running_var, affine)
        var, mean = torch.var_mean(upcast(x).flatten(2), 2, correction=0)               # (B, C)
        with torch.no_grad():
            alike = torch.cosine_similarity(mean[:, None], self.means[None], dim=2)     # (B, K)
            p = (alike / self.temperature).softmax(1)[..., None]
        means = (1 - p) * self.means + p * mean[:, None]                                # (B, K, C)
        variances = (1 - p) * self.vars + p * var[:, None]
        if self.cross_term:
            variances = variances + p * (1 - p) * (mean[:, None] - self.means) ** 2
        mixed = means.mean(1)
        y = self.with_live_statistics(x, mixed,
                                      variances.mean(1) + (means**2).mean(1) - mixed**2, affine)
        if self.commit:
            momentum = 1 - (1 - self.momentum) ** (len(x) / self.momentum_at)
            with torch.no_grad():
                self.means += momentum * (p * (mean[:, None] - self.means)).mean(0)
                self.vars += momentum * (p * (var[:, None] - self.vars)).mean(0)
        return y


@dataclass(frozen=True)
class RobustStatistics(RuledStatistics):
    """RBN: in a pass that learns m <- (1 - a) m + a m_batch, likewise the biased variance, and
    normalise with the result; else with m.

    The gradient flows through the batch's share. Paper: RoTTA (2303.13899).
    """

    alpha: float = knob(0.05, (0.0, 1.0), "weight of the batch", paper="RoTTA 2303.13899: 0.05")

    def make(self, layer):
        made = ruled_with_source(layer, _Robust)
        made.alpha = self.alpha
        return made


@dataclass(frozen=True)
class InstanceAware(RuledStatistics):
    """IABN: source statistics, corrected towards those of the image where they differ by more than
    chance.

    mu = mu_s + S(mu_i - mu_s; k sqrt(v / n)),  var = max(0, var_s + S(var_i - var_s; k v sqrt(2 /
    (n - 1)))),  v = var_s + eps, with S the soft shrinkage, n the places, var_i unbiased; a layer
    with one place uses the source's. Paper: NOTE (2208.05117).
    """

    k: float = knob(4.0, (0.0, 1e3), "width of chance, in standard errors; 0: instance norm, "
                                     "large: source", paper="NOTE 2208.05117: 4")

    def make(self, layer):
        made = ruled_with_source(layer, _InstanceAware)
        made.k = self.k
        return made


@dataclass(frozen=True)
class UnmixedStatistics(RuledStatistics):
    """UnMix-TNS: every layer keeps K components of statistics; each image is normalised with
    those, mixed with its own.

    p_bk = softmax_k of cos(m_b, mu_k) / 0.07;  mu_bk = (1 - p_bk) mu_k + p_bk m_b, likewise var_bk
    (biased);  mean_b = mean_k mu_bk, Var_b = mean_k var_bk + mean_k mu_bk^2 - mean_b^2; then mu_k
    += M mean_b p_bk (m_b - mu_k), likewise var_k, with M = 1 - (1 - m)^(B / 64), m the momentum of
    the source layer. Start: mu_k = mu_s + sqrt(K / (2 K - 2)) sd_s noise, var_k = var_s / 2; mu_s,
    var_s for K = 1. The noise is drawn once. A layer without places uses the source's. The mean of
    K drawn components misses mu_s by sd_s / sqrt(2 K - 2), 0.18 sd_s for K = 16, until the stream
    has moved them, which takes about K / M batches; ``exact`` removes this error and is not in the
    paper. Paper: 2401.08328; from the authors' code.
    """

    components: int = knob(16, (1, 1024), "K", paper="2401.08328: 16, 128 where domains are mixed")
    batch: int = knob(64, (1, 4096), "batch for which the source layer's momentum is meant",
                      paper="CIFAR: 64, ImageNet: 16", unit="images")
    cross_term: bool = knob(False, why="add p (1 - p) (m_b - mu_k)^2, the exact variance of a "
                                       "mixture of two")
    exact: bool = knob(False, why="centre and scale the noise: the mixture starts at exactly the "
                                  "source's statistics")
    seed: int = knob(0, (0, 2**31), "of the noise of the start")

    def apply_(self, model):
        rng = torch.Generator().manual_seed(self.seed)

        for layer in batch_norms(model):
            made = ruled_with_source(layer, _Unmixed)
            made.momentum_at = self.batch
            made.cross_term = self.cross_term
            made.draw_(self.components, rng, self.exact)
