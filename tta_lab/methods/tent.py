from __future__ import annotations

from dataclasses import dataclass

from ..components.norms.batch_norm import BatchStatistics
from ..core import scores
from ..core.parts import LossMethod, Norm, NormAffine, Step, Train, Update


@dataclass(frozen=True, kw_only=True)
class Tent(LossMethod):
    """Tent: minimise the entropy of the predictions with the scale and shift of the normalisation
    layers.

    H_i = -sum_k p_ik ln p_ik,  loss = mean of H_i over the batch; batch-norm layers use the
    batch's statistics; the answer is the prediction made before the update.
    ``train=AllParameters()`` tunes the whole network. Paper: Tent: Fully Test-Time Adaptation by
    Entropy Minimization (2006.10726).
    """

    norm: Norm = BatchStatistics()
    train: Train = NormAffine()
    update: Update = Step(rule="adam", lr=1e-3)
    family, verified = "entropy", "golden"
    paper = "Tent: Fully Test-Time Adaptation by Entropy Minimization (2006.10726)"
    presets = {
        "cifar10_c": {"rule": "adam", "lr": 1e-3}, "cifar100_c": {"rule": "adam", "lr": 1e-3},
        "imagenet_c": {"rule": "sgd", "lr": 2.5e-4}, "imagenet_c_vit": {"rule": "sgd", "lr": 1e-3},
        "imagenet_c_batch1": {"rule": "sgd", "lr": 2 * 2.5e-4 / 64},
        "imagenet_c_vit_batch1": {"rule": "sgd", "lr": 1e-3 / 64},
        "cifar10_c_retuned": {"rule": "adam",
                              "lr": 2e-3}, "cifar100_c_retuned": {"rule": "adam", "lr": 5e-4},
        "imagenet_c_retuned": {"rule": "sgd", "lr": 5e-4}
    }

    def losses(self, ctx, state):
        return scores.entropy(ctx.logits)
