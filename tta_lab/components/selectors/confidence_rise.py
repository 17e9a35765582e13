from __future__ import annotations

from dataclasses import dataclass

from ...core import scores
from ...core.knobs import knob
from ...core.parts import Selector


@dataclass(frozen=True)
class ConfidenceRise(Selector):
    """Wisdom of crowds: keep the samples whose confidence has not fallen below the original
    model's.

    c_i = argmax_k p~_i[k],   keep_i = [ p^_i[c_i] >= p~_i[c_i] - tolerance ] with p~ the frozen
    source and p^ the adapted model before its update; the class is the *source's*. (B, *S) in {0,
    1}. By default the frozen copy uses batch statistics like the adapted one, so that the first
    batch is kept whole; the paper could not be read on this point, the public re-implementation
    does so. Paper: Towards Open-Set Test-Time Adaptation Utilizing the Wisdom of Crowds in Entropy
    Minimization (2308.06879).
    """

    tolerance: float = knob(0.0, (0.0, 1.0), "a fall of at most this much still counts as kept",
                            unit="probability")
    statistics: str = knob("batch", choices=("batch", "running"), why="statistics in the "
                                                                      "batch-norm layers of the "
                                                                      "frozen copy")

    def weights(self, ctx, losses, keep, state):
        source = ctx.source_logits(self.statistics)
        before, classes = source.softmax(1).max(1)
        return (scores.probability_of(ctx.logits.detach(), classes)
                >= before - self.tolerance).to(losses.dtype)
