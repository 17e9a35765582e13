from __future__ import annotations

from dataclasses import dataclass

from ..components.norms.batch_norm import BatchStatistics
from ..components.penalties import Diversity
from ..components.unknowns import LikelyKnown, UnknownEntropy
from ..core import scores
from ..core.knobs import knob
from ..core.parts import LossMethod, Norm, NormAffine, Step, Train, Update

PRESETS = {
    "cifar10_c": {"rule": "adam", "lr": 1e-3}, "cifar100_c": {"rule": "adam", "lr": 1e-3},
    "tiny_imagenet_c": {"rule": "adam", "lr": 1e-3}, "imagenet_c": {"rule": "sgd", "lr": 1e-3}
}


@dataclass(frozen=True, kw_only=True)
class Unient(LossMethod):
    """UniEnt: minimise the entropy of the images that look known, maximise that of the others,
    keep predictions diverse.

    L = mean of H_i over known - a mean of H_i over unknown - b H(pbar), pbar over all. The split
    is that of a mixture of two Gaussians, fitted in every batch to the cosine between the frozen
    source's features and the head's rows (``probability_known``), from the best split in two,
    where the authors' code starts from a random k-means. An empty part counts 0. The authors
    choose a and b per benchmark from {1, 0.5, 0.2, 0.1}, by the result on the stream itself; the
    defaults here are ours. ``form="inlier_only"`` is a = 0; ``.where(ConfidenceRise())`` their
    combination with the wisdom of crowds. Paper: Unified Entropy Optimization for Open-Set
    Test-Time Adaptation (2404.06065); from the authors' code.
    """

    norm: Norm = BatchStatistics()
    train: Train = NormAffine()
    select: tuple = (LikelyKnown(),)
    penalties: tuple = (Diversity(weight=0.5), UnknownEntropy(weight=0.2))
    update: Update = Step(rule="adam", lr=1e-3)
    when_empty: str = knob("step", choices=("skip", "step"), why="nothing kept: skip the step, or "
                                                                 "step on the penalties alone")
    tasks, needs = ("classification",), frozenset({"features"})
    family = "open set"
    verified = "golden, where the mixture starts as in the stored runs"
    paper = "Unified Entropy Optimization for Open-Set Test-Time Adaptation (2404.06065)"
    forms = {"inlier_only": {"penalties": (Diversity(weight=0.5),)}}
    presets = PRESETS

    def losses(self, ctx, state):
        return scores.entropy(ctx.logits)


@dataclass(frozen=True, kw_only=True)
class UnientPlus(Unient):
    """UniEnt+: UniEnt with weights in the place of the split.

    L = mean_i p_i H_i - a mean_i (1 - p_i) H_i - b H(pbar),  p_i the posterior probability that
    image i is known. Paper: Unified Entropy Optimization for Open-Set Test-Time Adaptation
    (2404.06065); from the authors' code.
    """

    select: tuple = (LikelyKnown(soft=True),)
    penalties: tuple = (Diversity(weight=0.5), UnknownEntropy(weight=0.2, soft=True))
    forms = {}
