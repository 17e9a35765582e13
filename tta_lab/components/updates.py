"""Update rules beyond one plain step, and what may happen to the weights after it."""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.knobs import knob
from ..core.parts import Part, Step


@dataclass(frozen=True)
class Sam(Step):
    """Sharpness-aware minimisation: the gradient is taken where the loss is highest nearby.

    e = rho g / ||g||_2 over all tuned parameters, then the base rule steps from theta with the
    gradient at theta + e. The selectors are asked again there, among those kept at theta. Papers:
    SAM (2010.01412); SAR (2302.12400).
    """

    rule: str = knob("sgd", choices=("adam", "sgd"), why="optimiser")
    rho: float = knob(0.05, (0.0, 10.0), "radius of the neighbourhood", paper="SAR 2302.12400: "
                                                                              "0.05")

    def __call__(self, optimizer, closure):
        first = closure()
        if not first.move:
            return first
        params = [
            p for group in optimizer.param_groups for p in group["params"] if p.grad is not None
        ]
        before = [p.detach().clone() for p in params]
        with torch.no_grad():
            grads = [p.grad for p in params]
            norm = torch.stack(torch._foreach_norm(grads)).norm()
            torch._foreach_add_(params, torch._foreach_mul(grads, self.rho / (norm + 1e-12)))
        try:
            second = closure(first.kept.to(first.weights.dtype))
        finally:
            with torch.no_grad():
                for p, value in zip(params, before, strict=True):
                    p.copy_(value)
        if second.move:
            optimizer.step()
        return second


@dataclass(frozen=True)
class CosineSam(Sam):
    """Sharpness-aware minimisation whose step size falls to zero along half a cosine, then rises
    again, and so on.

    Step t is taken with lr (1 + cos(pi t / period)) / 2, t = 0, 1, ...; steps that are skipped do
    not count. STAMP (2407.15773).
    """

    period: int = knob(150, (1, 10**9), "steps until the step size is zero", paper="STAMP: 150 "
                       "(CIFAR), 750 "
                       "(ImageNet)", unit="steps")

    def build(self, params):
        optimizer = super().build(params)
        for group in optimizer.param_groups:
            group["steps"] = 0
        return optimizer

    def __call__(self, optimizer, closure):
        loss_output = super().__call__(optimizer, closure)
        if loss_output.move:
            for group in optimizer.param_groups:
                group["steps"] += 1
                group["lr"] = (group.get("scale", 1.0) * self.lr *
                               (1 + math.cos(math.pi * group["steps"] / self.period)) / 2)
        return loss_output


@dataclass(frozen=True)
class WeightEnsembling(Part):
    """Weight ensembling: after a step, theta <- m theta + (1 - m) theta_source. Source: ROID
    (2306.00650)."""

    momentum: float = knob(0.99, (0.0, 1.0), "share of the adapted weights that stays",
                           paper="ROID 2306.00650: 0.99")

    def blend_(self, ctx) -> None:
        """Move the tuned parameters towards the source."""
        with torch.no_grad():
            for name, p in ctx.tuned.items():
                p.lerp_(ctx.origin[name], 1 - self.momentum)


def uniform(shape, rng: torch.Generator) -> Tensor:
    """Uniform numbers in [0, 1) from this generator."""
    return torch.rand(shape, generator=rng, device=rng.device)


def restore_(ctx, share: float, to: dict | None = None) -> None:
    """Stochastic restore: each entry of the tuned parameters goes back to its source value (or to
    that in ``to``) with probability ``share``, independently; the optimiser's moments stay. CoTTA
    (2203.13591)."""
    if share:
        with torch.no_grad():
            for name, p in ctx.tuned.items():
                p.copy_(
                    torch.where(uniform(p.shape, ctx.rng) < share, (to or ctx.origin)[name], p))


def least_informative(grads: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Name -> mask of the entries whose squared gradient lies strictly below the
    ``share``-quantile of all (linear between neighbours).

    PETAL (2212.09713). All entries are sorted, in memory of the size of the network.
    """
    with torch.no_grad():
        squares = {name: g.float() ** 2 for name, g in grads.items()}
        ordered = torch.cat([s.flatten() for s in squares.values()]).sort().values
        place = share * (len(ordered) - 1)
        low = min(math.floor(place), len(ordered) - 1)
        limit = torch.lerp(ordered[low], ordered[min(low + 1, len(ordered) - 1)], place - low)
        return {name: s < limit for name, s in squares.items()}


def restore_where_(ctx, masks: dict[str, Tensor], to: dict | None = None) -> None:
    """The masked entries of the tuned parameters go back to their source values (or to those in
    ``to``)."""
    with torch.no_grad():
        for name, mask in masks.items():
            ctx.tuned[name].copy_(torch.where(mask, (to or ctx.origin)[name], ctx.tuned[name]))
