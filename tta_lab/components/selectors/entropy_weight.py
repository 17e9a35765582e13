from __future__ import annotations

import math
from dataclasses import dataclass

from ...core import scores
from ...core.knobs import knob
from ...core.parts import Selector


@dataclass(frozen=True)
class EntropyWeight(Selector):
    """Weigh samples by certainty: w_i = exp(fraction ln C - H_i), above 1 below that entropy;
    nobody is dropped.

    Paper: EATA (2204.02610).
    """

    fraction: float = knob(0.4, (0.0, 1.0), "of ln C, the entropy of a uniform prediction: weight "
                                            "1", paper="EATA 2204.02610, E0",
                           follows="EntropyThreshold.fraction")

    def weights(self, ctx, losses, keep, state):
        logits = ctx.logits.detach()
        return (self.fraction * math.log(logits.shape[1]) - scores.entropy(logits)).exp().to(
            losses.dtype)
