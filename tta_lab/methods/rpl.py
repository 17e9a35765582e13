from __future__ import annotations

from dataclasses import dataclass

from ..components.norms.batch_norm import BatchStatistics
from ..core import scores
from ..core.knobs import knob
from ..core.parts import LossMethod, Norm, NormAffine, Step, Train, Update


@dataclass(frozen=True, kw_only=True)
class Rpl(LossMethod):
    """RPL: learn the predicted classes with the generalised cross-entropy, which forgives wrong
    ones.

    l_i = (1 - p_i[y_i]^q) / q,  y_i = argmax_k p_ik;  q -> 0 is the cross-entropy, q = 1 the
    bounded 1 - p. Mean over the batch. Online form of the public re-implementations; the paper
    trains for several epochs. Also the "GCE" baseline of 2308.06879. Paper: If your data
    distribution shifts, use self-learning (2104.12928).
    """

    norm: Norm = BatchStatistics()
    train: Train = NormAffine()
    update: Update = Step(rule="adam", lr=1e-3)
    q: float = knob(0.8, (1e-3, 1.0), "0: cross-entropy, 1: one minus the probability",
                    paper="2104.12928: 0.8")
    family, verified = "pseudo-labels", "golden (re-implementation)"
    paper = "If your data distribution shifts, use self-learning (2104.12928)"
    presets = {
        "cifar10_c": {"rule": "adam", "lr": 1e-3}, "cifar100_c": {"rule": "adam", "lr": 1e-3},
        "imagenet_c": {"rule": "sgd", "lr": 5e-4}
    }

    def losses(self, ctx, state):
        logits = ctx.logits
        return (1 - scores.probability_of(logits, logits.detach().argmax(1)) ** self.q) / self.q
