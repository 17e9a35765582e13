from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ...core import scores
from ...core.knobs import knob
from ...core.parts import Part, Selector
from ..augment import ShufflePatches


@dataclass(frozen=True)
class PLPDFilter(Selector):
    """Keep the samples whose class loses probability when the object is destroyed, weighed by that
    loss and by certainty.

    d_i = p_i[c_i] - p'_i[c_i], c_i = argmax p_i, p' the prediction on the transformed image
    (PLPD);  keep_i = [d_i > threshold]; w_i = exp(fraction ln C - H_i) + exp(d_i), each summand
    with a switch. Only those still in are transformed and looked at, together: their batch-norm
    statistics are those of that smaller batch. One more forward. Paper: DeYO (2403.07366).
    """

    name = "plpd_filter"
    transform: Part = ShufflePatches(4)
    threshold: float = knob(0.2, (-1.0, 1.0), "smallest loss of probability", paper="DeYO: 0.2, "
                            "ImageNet-C "
                            "mild 0.3", unit="probability")
    fraction: float = knob(0.4, (0.0, 1.0), "of ln C: entropy at which the first summand is 1",
                           paper="DeYO, Ent0")
    by_certainty: bool = knob(True, why="first summand of the weight")
    by_fall: bool = knob(True, why="second summand of the weight")

    def weights(self, ctx, losses, keep, state):
        logits = ctx.logits.detach()
        classes = logits.argmax(1)
        fall = torch.full_like(losses, -2.0)
        inside = keep.flatten(1).any(1) if keep.ndim > 1 else keep
        if inside.any():
            with torch.no_grad():
                destroyed = ctx.forward(
                    x=ctx.draw(state, lambda rng: self.transform(ctx.x, rng))[inside])
            before, after = (scores.probability_of(z, classes[inside])
                             for z in (logits[inside], destroyed))
            fall[inside] = (before - after).to(fall.dtype)
        certain = (self.fraction * math.log(logits.shape[1]) - scores.entropy(logits)).exp()
        weight = self.by_certainty * certain + self.by_fall * fall.exp()
        weight = weight if self.by_certainty or self.by_fall else torch.ones_like(losses)
        return torch.where(fall > self.threshold, weight, 0.0).to(losses.dtype)
