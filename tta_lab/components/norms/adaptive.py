"""Batch-norm layers that find out by themselves how much of the source statistics to use."""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.knobs import knob
from ...core.norm_layers import Affine, lone
from ...core.parts import NeedsError
from ...core.scores import upcast
from .batch_norm import RuledStatistics, ruled_with_source
from .stream import Differentiable


class _Adaptive(Differentiable):
    folded: Tensor
    adaptive = True
    source_weight = 0.5
    fold = True

    def _weight(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """Weight of the source statistics, a scalar."""
        if not self.adaptive:
            return torch.full_like(mean[0], self.source_weight)
        places = upcast(x).flatten(2) if x.ndim > 2 else upcast(x)[..., None]
        several = places.shape[2] > 1  # one place has no spread: means alone are compared then
        own = places.mean(2), places.std(2) if several else None
        source = (self.running_mean, self.running_var.sqrt())
        batch = (mean, var.sqrt())

        def distance(a, b):
            return ((a[0] - b[0]).square().mean(-1) +
                    ((a[1] - b[1]).square().mean(-1) if several else 0.0))

        between = distance(source, batch)
        total = distance(source, batch) + distance(own, source) + distance(own, batch)
        return (1 - between / total.clamp_min(torch.finfo(total.dtype).tiny)).clamp(0, 1).mean()

    def normalise(self, x, affine):
        if lone(x):
            return self.of_one(x, affine)
        var, mean = torch.var_mean(upcast(x), [d for d in range(x.ndim) if d != 1], correction=1)
        share = torch.where(self.folded, 0.0, self._weight(x, mean, var))
        if self.fold and self.commit and self.weight is not None and self.weight.requires_grad:
            self._fold_(mean.detach(), var.detach(), share.detach(), affine)
            return self.with_live_statistics(x, mean, var, affine)
        return self.with_live_statistics(x, torch.lerp(mean, self.running_mean, share),
                                         torch.lerp(var, self.running_var, share), affine)

    def _fold_(self, mean: Tensor, var: Tensor, share: Tensor, affine: Affine) -> None:
        """Move the mixture into scale and shift."""
        if affine.weight is not self.weight or affine.bias is not self.bias:
            raise NeedsError(f"{self.layer_class.__name__} scales and shifts with other tensors "
                             f"than its weight and bias, so a mixture of "
                             "statistics cannot be folded into these; take "
                             "norm=AdaptiveMixture(fold=False)")
        with torch.no_grad():
            self.weight *= ((var + self.eps) /
                            (torch.lerp(var, self.running_var, share) + self.eps)).sqrt()
            self.bias += share * (mean - self.running_mean) / (var + self.eps).sqrt() * self.weight
            self.folded.fill_(True)


@dataclass(frozen=True)
class AdaptiveMixture(RuledStatistics):
    """AdaMixBN: mean = a mu_source + (1 - a) mu_batch, likewise the variance (unbiased), a found
    for every layer and batch.

    a = mean over images b of 1 - d(s, t) / (d(s, t) + d(b, s) + d(b, t)), with s the source, t the
    batch, d the mean over channels of (difference of means)^2 + (difference of standard
    deviations)^2; means alone where a map has one place. With ``fold`` the mixture moves into
    tuned scale and shift in the first pass that learns, g <- g sqrt((var_t + e) / (var + e)),  b
    <- b + a g (mu_t - mu_s) / sqrt(var_t + e), and the layer normalises with the batch's
    statistics from then on, until a reset. Paper: DomainAdaptor (2308.10297); from the authors'
    code.
    """

    adaptive: bool = knob(True, why="find the weight of the source statistics from their distances")
    source_weight: float = knob(0.5, (0.0, 1.0), "a, where it is not adaptive")
    fold: bool = knob(True, why="move the mixture into scale and shift when these are tuned")

    def make(self, layer):
        made = ruled_with_source(layer, _Adaptive)
        made.adaptive = self.adaptive
        made.source_weight = self.source_weight
        made.fold = self.fold
        made.register_buffer("folded",
                             torch.zeros((), dtype=torch.bool, device=layer.running_mean.device))
        return made
