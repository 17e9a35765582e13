from __future__ import annotations

from dataclasses import dataclass

from .. import scores
from ..norms import BatchStatistics
from ..parts import LossMethod, NormAffine, Part, Step


@dataclass(frozen=True, kw_only=True)
class Tent(LossMethod):
    """Tent: minimise the entropy of the predictions with the scale and shift of the normalisation layers.

    H_i = -sum_k p_ik ln p_ik,  loss = mean of H_i over the batch; batch-norm layers use the batch's statistics;
    the answer is the prediction made before the update. ``train=AllParameters()`` tunes the whole network.
    Paper: Tent: Fully Test-Time Adaptation by Entropy Minimization (2006.10726).
    """

    norm: Part = BatchStatistics()
    train: Part = NormAffine()
    update: Part = Step(rule="adam", lr=1e-3)
    family, verified = "entropy", "golden"
    paper = "Tent: Fully Test-Time Adaptation by Entropy Minimization (2006.10726)"

    def losses(self, view, state):
        return scores.entropy(view.logits)
