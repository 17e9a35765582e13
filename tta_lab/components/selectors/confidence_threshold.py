from __future__ import annotations

from dataclasses import dataclass

from ...core import scores
from ...core.knobs import knob
from ...core.parts import Selector


@dataclass(frozen=True)
class ConfidenceThreshold(Selector):
    """Keep the samples whose largest probability is above a threshold: keep_i = [ max_k p_ik >
    threshold ], (B, *S) in {0, 1}."""

    threshold: float = knob(0.75, (0.0, 1.0), "confidence that must be exceeded",
                            unit="probability", paper="code of 2207.09640: 0.75")

    def weights(self, ctx, losses, keep, state):
        return (scores.confidence(ctx.logits.detach()) > self.threshold).to(losses.dtype)
