from __future__ import annotations

from dataclasses import dataclass

from ..components.norms.batch_norm import BatchStatistics
from ..components.penalties import FisherAnchor
from ..components.selectors.entropy_threshold import EntropyThreshold
from ..components.selectors.entropy_weight import EntropyWeight
from ..components.selectors.non_redundant import NonRedundant
from ..core import scores
from ..core.parts import LossMethod, Norm, NormAffine, Step, Train, Update

CIFAR = {"rule": "adam", "lr": 1e-3, "margin": 0.4}
IMAGENET = {"rule": "sgd", "lr": 2.5e-4, "margin": 0.05}


@dataclass(frozen=True, kw_only=True)
class Eta(LossMethod):
    """ETA: Tent on the samples that are certain and not alike, certain ones weighing more.

    L = 1/|S| sum over i in S of exp(E0 - H_i) H_i,  S = {H_i < E0 and |cos(m, p_i)| < margin},  E0
    = 0.4 ln C, m a running mean of p over S; an empty S skips the step. The margin's default is
    that of 10 classes; the paper's is 0.05 for 1000. Paper: Efficient Test-Time Model Adaptation
    without Forgetting (2204.02610).
    """

    norm: Norm = BatchStatistics()
    train: Train = NormAffine()
    select: tuple = (EntropyThreshold(0.4), NonRedundant(0.4), EntropyWeight(0.4))
    update: Update = Step(rule="adam", lr=1e-3)
    family, verified = "selection", "golden"
    paper = "Efficient Test-Time Model Adaptation without Forgetting (2204.02610)"
    presets = {"cifar10_c": CIFAR, "cifar100_c": {**CIFAR, "margin": 0.1}, "imagenet_c": IMAGENET}

    def losses(self, ctx, state):
        return scores.entropy(ctx.logits)


@dataclass(frozen=True, kw_only=True)
class Eata(Eta):
    """EATA: ETA held near the source weights, more firmly where the Fisher information is large.

    L = L_ETA + w sum_j F_j (theta_j - theta_j^source)^2; F from 2000 unlabelled source-like
    images, before the stream. Paper: Efficient Test-Time Model Adaptation without Forgetting
    (2204.02610).
    """

    penalties: tuple = (FisherAnchor(weight=1.0),)
    presets = {
        "cifar10_c": {**CIFAR, "weight": 1.0},
        "cifar100_c": {**CIFAR, "margin": 0.1,
                       "weight": 1.0}, "imagenet_c": {**IMAGENET, "weight": 2000.0},
        "imagenet_c_retuned": {**IMAGENET, "weight": 10.0}
    }
