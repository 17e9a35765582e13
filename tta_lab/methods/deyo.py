from __future__ import annotations

from dataclasses import dataclass

from ..components.norms.batch_norm import BatchStatistics
from ..components.selectors.entropy_threshold import EntropyThreshold
from ..components.selectors.plpd_filter import PLPDFilter
from ..core import scores
from ..core.parts import LossMethod, Norm, NormAffine, Step, Train, Update


@dataclass(frozen=True, kw_only=True)
class Deyo(LossMethod):
    """DeYO: Tent on the certain samples whose class rests on the object's shape, not on what
    survives its destruction.

    L = 1/|S| sum over i in S of w_i H_i,  S = {H_i < 0.5 ln C and d_i > 0.2},  d_i the fall of the
    probability of the predicted class
    on shuffled patches,  w_i = exp(0.4 ln C - H_i) + exp(d_i). Nothing kept skips the step. The
    top of the network stays as it is. The paper's text was not at hand: rule and settings are
    those of the authors' code. Paper: Entropy is not Enough for Test-Time Adaptation: From the
    Perspective of Disentangled Factors (2403.07366).
    """

    norm: Norm = BatchStatistics()
    train: Train = NormAffine(drop_top=True)
    select: tuple = (EntropyThreshold(0.5), PLPDFilter())
    update: Update = Step(rule="adam", lr=1e-3)
    tasks = ("classification",)
    family = "selection"
    verified = "golden with occlusion, statistics with shuffled patches and pixels"
    paper = ("Entropy is not Enough for Test-Time Adaptation: From the Perspective of "
             "Disentangled Factors (2403.07366)")
    presets = {
        "imagenet_c": {"rule": "sgd", "lr": 2.5e-4,
                       "threshold": 0.3}, "imagenet_c_wild": {"rule": "sgd", "lr": 2.5e-4},
        "imagenet_c_wild_vit": {"rule": "sgd", "lr": 1e-3},
        "imagenet_c_wild_batch1": {"rule": "sgd", "lr": 4 * 2.5e-4 / 64},
        "imagenet_c_wild_vit_batch1": {"rule": "sgd", "lr": 2 * 1e-3 / 64},
        "cifar10_c": {"rule": "adam", "lr": 1e-3}, "cifar100_c": {"rule": "adam", "lr": 1e-3}
    }

    def losses(self, ctx, state):
        return scores.entropy(ctx.logits)
