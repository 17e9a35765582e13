from __future__ import annotations

import math
from dataclasses import dataclass

from ...core import scores
from ...core.knobs import knob
from ...core.parts import Selector


@dataclass(frozen=True)
class EntropyThreshold(Selector):
    """Keep the samples whose prediction has an entropy below a fixed share of the largest possible
    one.

    keep_i = [ H_i < fraction * ln C ]   (strict; nats), (B, *S) in {0, 1}. Paper: EATA
    (2204.02610), E0 = 0.4 ln C.
    """

    fraction: float = knob(0.4, (0.0, 1.0), "of ln C, the entropy of a uniform prediction",
                           paper="EATA 2204.02610, E0")

    def weights(self, ctx, losses, keep, state):
        logits = ctx.logits.detach()
        return (scores.entropy(logits) < self.fraction * math.log(logits.shape[1])).to(losses.dtype)
