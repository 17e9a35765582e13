"""Penalties: one scalar a step, added to the averaged losses."""
from __future__ import annotations

from dataclasses import dataclass

from . import scores
from .knobs import knob
from .parts import Penalty


@dataclass(frozen=True)
class Diversity(Penalty):
    """Keep the predictions spread over the classes: maximise the entropy of the mean prediction.

    L = -w H(pbar),  pbar = mean over *all* samples of the batch, kept or not (and all pixels); a class of
    probability 0 counts 0. The weight is that of the public re-implementation of 2308.06879; the paper's is unverified.
    """

    weight: float = knob(0.5, (0.0, 10.0), "weight of the term", paper="lambda_max; grid 1.0, 0.5, 0.2, 0.1")

    def __call__(self, view, losses, weights, state):
        return -self.weight * scores.marginal_entropy(view.logits)
