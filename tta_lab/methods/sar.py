from __future__ import annotations

from dataclasses import dataclass

from ..components.controllers.resets import CollapseRecovery
from ..components.norms.batch_norm import BatchStatistics
from ..components.selectors.entropy_threshold import EntropyThreshold
from ..components.updates import Sam
from ..core import scores
from ..core.parts import LossMethod, Norm, NormAffine, Train, Update


@dataclass(frozen=True, kw_only=True)
class Sar(LossMethod):
    """SAR: minimise the entropy of certain samples and its sharpness; start again when the model
    has collapsed.

    L(theta) = mean of H_i over S(theta) = {H_i < E0}, E0 = 0.4 ln C; the step is taken with the
    gradient at theta + rho g / ||g||, where S is chosen again among those of S(theta). e, the
    running mean of that second loss, falling below 0.2 resets the model. The top of the network
    stays as it is; group or layer normalisation is advised. ``form="reference"`` is the authors'
    code: the reset leaves the running mean and the momentum, and an empty S makes a step of the
    momentum alone; ``form="port"`` also clears the mean. Paper: Towards Stable Test-Time
    Adaptation in Dynamic Wild World (2302.12400).
    """

    norm: Norm = BatchStatistics()
    train: Train = NormAffine(drop_top=True)
    select: tuple = (EntropyThreshold(0.4),)
    update: Update = Sam(rule="sgd", lr=2.5e-4, rho=0.05)
    controllers: tuple = (CollapseRecovery(threshold=0.2),)
    family = "selection"
    verified = "golden where no step is empty and nothing resets, else invariants only"
    verified_forms = {"reference": "golden", "port": "golden (re-implementation)"}
    paper = "Towards Stable Test-Time Adaptation in Dynamic Wild World (2302.12400)"
    forms = {
        "reference": {"scope": "weights", "when_empty": "step"},
        "port": {"scope": "weights and mean", "when_empty": "step"}
    }
    presets = {
        "imagenet_c": {"lr": 2.5e-4}, "imagenet_c_vit": {"lr": 1e-3}, "cifar10_c": {"lr": 1e-3},
        "cifar100_c": {"lr": 1e-3}, "imagenet_c_batch1": {"lr": 4 * 2.5e-4 / 64},
        "imagenet_c_vit_batch1": {"lr": 2 * 1e-3 / 64},
        "cifar10_c_retuned": {"lr": 1e-2, "threshold": 0.05},
        "cifar100_c_retuned": {"lr": 2e-3, "threshold": 0.05},
        "imagenet_c_retuned": {"lr": 1e-3, "threshold": 0.5}
    }

    def losses(self, ctx, state):
        return scores.entropy(ctx.logits)
