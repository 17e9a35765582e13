from __future__ import annotations

from dataclasses import dataclass

import torch

from ..components.norms.batch_norm import BatchStatistics
from ..components.selectors.confidence_threshold import ConfidenceThreshold
from ..core.knobs import knob
from ..core.parts import LossMethod, Norm, NormAffine, Step, Train, Update


@dataclass(frozen=True, kw_only=True)
class Conjugate(LossMethod):
    """Conjugate pseudo-labels: the loss without labels that is the convex conjugate of the loss
    the model was trained with.

    For PolyLoss, CE + eps (1 - p_y):  l_i = logsumexp z - sum_k y_k (z_k - eps (1 - p_k)),  y = (I
    + eps diag p - eps p p^T)^-1 p, which is y_k = (p_k / (1 + eps p_k)) / sum_j p_j / (1 + eps
    p_j); z are the logits over the temperature, the gradient flows through y too. For a model
    trained with cross-entropy eps = 0, and l_i is the entropy. The answer is a second prediction,
    after the step, as in the authors' code. Paper: Test-Time Adaptation via Conjugate
    Pseudo-labels (2207.09640).
    """

    norm: Norm = BatchStatistics()
    train: Train = NormAffine()
    update: Update = Step(rule="sgd", lr=1e-3, nesterov=True)
    answer: str = knob("after", choices=("before", "after"), why="returned logits are from before "
                                                                 "or after the update")
    eps: float = knob(0.0, (0.0, 100.0), "of the PolyLoss that the source model was trained with",
                      paper="2207.09640: 6 (CIFAR)")
    temperature: float = knob(1.0, (1e-2, 100.0, "log"), "divides the logits in the loss")
    family, verified = "entropy", "golden"
    paper = "Test-Time Adaptation via Conjugate Pseudo-labels (2207.09640)"
    presets = {"cifar_polyloss": {"eps": 6.0}, "imagenet_polyloss": {"eps": 8.0}}

    def losses(self, ctx, state):
        z = ctx.logits / self.temperature
        p = z.softmax(1)
        y = p / (1 + self.eps * p)
        y = y / y.sum(1, keepdim=True)
        return z.logsumexp(1) - (y * (z - self.eps * (1 - p))).sum(1)


@dataclass(frozen=True, kw_only=True)
class PseudoLabel(LossMethod):
    """Hard pseudo-labels: learn the predicted class of the confident samples with the
    cross-entropy.

    l_i = -ln p_i[y_i], y_i = argmax_k p_ik, mean over S = {max_k p_ik > 0.75}; the answer is a
    second prediction, after the step. Form of the baseline in the public code of 2207.09640.
    Paper: Pseudo-Label (Lee 2013, ICML workshop).
    """

    norm: Norm = BatchStatistics()
    train: Train = NormAffine()
    select: tuple = (ConfidenceThreshold(0.75),)
    update: Update = Step(rule="sgd", lr=1e-3, nesterov=True)
    answer: str = knob("after", choices=("before", "after"), why="returned logits are from before "
                                                                 "or after the update")
    family, verified = "pseudo-labels", "golden (re-implementation)"
    paper = ("Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep "
             "Neural Networks (Lee 2013)")

    def losses(self, ctx, state):
        return -torch.log_softmax(ctx.logits, 1).amax(1)
