from __future__ import annotations

from dataclasses import dataclass

import torch

from ..components.norms.batch_norm import BatchStatistics
from ..components.penalties import AugmentedAgreement
from ..components.selectors.diverse_certain import DiverseCertain
from ..components.updates import WeightEnsembling
from ..core.knobs import knob
from ..core.parts import LossMethod, Norm, NormAffine, Part, Step, Train, Update


@dataclass(frozen=True, kw_only=True)
class Roid(LossMethod):
    """ROID: self-training with a soft likelihood ratio, weighted by certainty and diversity,
    averaged with the source weights.

    l_i = -sum_k p_ik ln(p_ik / (1 - p_ik) + 1e-5), p clamped at 0.99;  L = 1/B sum_i w_i (l_i +
    SCE(f(A(x_i)), z_i)), see DiverseCertain; after the step theta <- 0.99 theta + 0.01
    theta_source. ``prior_correction`` multiplies the returned logits by the smoothed mean
    prediction (pbar + s) / (1 + C s), s = max(1/B, 1/C) / max pbar; negative logits are moved the
    other way, as in the authors' code. Paper: Universal Test-time Adaptation through Weight
    Ensembling, Diversity Weighting, and Prior Correction (2306.00650).
    """

    norm: Norm = BatchStatistics()
    train: Train = NormAffine()
    select: tuple = (DiverseCertain(),)
    penalties: tuple = (AugmentedAgreement(),)
    update: Update = Step(rule="adam", lr=1e-3)
    average: str = knob("all", choices=("kept", "all"), why="losses are divided by the number "
                                                            "kept, or by all")
    anchor: Part = WeightEnsembling(momentum=0.99)
    prior_correction: bool = knob(True, why="correct the answer by the mean prediction of the "
                                            "batch", paper="ROID")
    tasks = ("classification",)
    family = "pseudo-labels"
    verified = "golden; drawn augmentations by statistics"
    paper = ("Universal Test-time Adaptation through Weight Ensembling, Diversity Weighting, and "
             "Prior Correction (2306.00650)")
    presets = {
        "cifar10_c": {"rule": "adam", "lr": 1e-3}, "cifar100_c": {"rule": "adam", "lr": 1e-3},
        "imagenet_c": {"rule": "sgd", "lr": 2.5e-4}
    }

    def losses(self, ctx, state):
        p = ctx.logits.softmax(1).clamp_max(0.99)
        return -(p * (p / (1 - p) + 1e-5).log()).sum(1)

    def output(self, ctx, state):
        if not self.prior_correction:
            return ctx.logits
        prior = ctx.logits.detach().softmax(1).mean(0)
        n = ctx.logits.shape[1]
        smooth = max(1 / len(ctx.x), 1 / n) / prior.max()
        return ctx.logits * torch.div(prior + smooth, 1 + smooth * n)

    def after(self, ctx, loss_output, state):
        if loss_output.move:
            self.anchor.blend_(ctx)
