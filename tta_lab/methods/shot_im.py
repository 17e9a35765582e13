from __future__ import annotations

from dataclasses import dataclass

from ..components.norms.batch_norm import BatchStatistics
from ..components.penalties import Diversity
from ..core import scores
from ..core.parts import AllParameters, LossMethod, Norm, Step, Train, Update


@dataclass(frozen=True, kw_only=True)
class ShotIm(LossMethod):
    """SHOT-IM: maximise the mutual information of image and prediction with everything but the
    classifier.

    L = mean of H_i over the batch - H(mean over the batch of p_i). Online form of one pass: the
    pseudo-labels of SHOT, made from the whole data set in every epoch, are not part of it, and
    batch-norm layers use the batch's statistics. Rate and rule are those of the backbone in the
    authors' code, which trains 15 epochs; for a stream they are a choice of ours. Paper: Do We
    Really Need to Access the Source Data? Source Hypothesis Transfer for Unsupervised Domain
    Adaptation (2002.08546).
    """

    norm: Norm = BatchStatistics()
    train: Train = AllParameters(head=False)
    penalties: tuple = (Diversity(weight=1.0),)
    update: Update = Step(rule="sgd", lr=1e-3, nesterov=True, weight_decay=1e-3)
    tasks, needs = ("classification",), frozenset({"features"})
    family, verified = "entropy", "invariants only"
    paper = ("Do We Really Need to Access the Source Data? Source Hypothesis Transfer for "
             "Unsupervised Domain Adaptation (2002.08546)")

    def losses(self, ctx, state):
        return scores.entropy(ctx.logits)
