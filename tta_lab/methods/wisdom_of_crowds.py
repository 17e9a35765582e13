from __future__ import annotations

from dataclasses import dataclass

from ..components.norms.batch_norm import BatchStatistics
from ..components.penalties import Diversity
from ..components.selectors.confidence_rise import ConfidenceRise
from ..core import scores
from ..core.knobs import knob
from ..core.parts import LossMethod, Norm, NormAffine, Step, Train, Update

ADAM = {"rule": "adam", "lr": 1e-3, "weight": 0.5}


@dataclass(frozen=True, kw_only=True)
class WisdomOfCrowds(LossMethod):
    """Wisdom of crowds: Tent on the samples whose confidence has not fallen, plus a term that
    keeps predictions diverse.

    L = mean over kept i of H_i  -  w H(pbar),   keep_i = [p^_i[c_i] >= p~_i[c_i]],  pbar the mean
    over all samples No public code of the authors was found: the rule is the paper's, diversity
    term, its weight 0.5, the division by the number kept and going on with the diversity term
    alone when nothing is kept are those of a public re-implementation. Paper: Towards Open-Set
    Test-Time Adaptation Utilizing the Wisdom of Crowds in Entropy Minimization (2308.06879).
    """

    norm: Norm = BatchStatistics()
    train: Train = NormAffine()
    select: tuple = (ConfidenceRise(),)
    penalties: tuple = (Diversity(weight=0.5),)
    update: Update = Step(rule="adam", lr=1e-3)
    when_empty: str = knob("step", choices=("skip", "step"), why="nothing kept: skip the step, or "
                                                                 "step on the penalties alone")
    family = "selection"
    verified = "golden (re-implementation)"
    needs = frozenset({"source_logits"})
    paper = ("Towards Open-Set Test-Time Adaptation Utilizing the Wisdom of Crowds in Entropy "
             "Minimization (2308.06879)")
    presets = {
        "cifar10_c": ADAM, "cifar100_c": ADAM, "tiny_imagenet_c": ADAM,
        "imagenet_c": {"rule": "sgd", "lr": 1e-3, "weight": 0.5}
    }

    def losses(self, ctx, state):
        return scores.entropy(ctx.logits)
