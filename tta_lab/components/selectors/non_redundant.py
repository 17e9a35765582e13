from __future__ import annotations

from dataclasses import dataclass

import torch

from ...core.knobs import knob
from ...core.parts import Selector


@dataclass(frozen=True)
class NonRedundant(Selector):
    """Keep the samples whose prediction differs from the running mean prediction of the samples
    learned from.

    keep_i = [ |cos(m, p_i)| < margin ];  m <- mean of p over those finally kept, first as it is,
    then momentum m + (1 - momentum) mean. Everything is kept before the first m; a step that keeps
    nobody leaves m. Paper: EATA (2204.02610).
    """

    margin: float = knob(0.05, (0.0, 10.0), "largest cosine that still counts as different",
                         paper="EATA: 0.05 (1000 classes), 0.4 (10 classes)")
    momentum: float = knob(0.9, (0.0, 1.0), "of the running mean prediction", paper="EATA: 0.9")

    def init(self, model, source):
        return {"mean": None}

    def weights(self, ctx, losses, keep, state):
        p = ctx.logits.detach().softmax(1)
        if state["mean"] is None:
            return torch.ones_like(losses)
        mean = state["mean"].view(1, -1, *[1] * (p.ndim - 2))
        return (torch.cosine_similarity(mean, p, dim=1).abs() < self.margin).to(losses.dtype)

    def after(self, ctx, loss_output, state):
        if loss_output.n_kept:
            p = loss_output.ctx.logits.detach().softmax(1).movedim(1, -1)
            mean = (torch.where(loss_output.kept.unsqueeze(-1), p, 0.0).flatten(0, -2).sum(0) /
                    loss_output.n_kept)
            state["mean"] = (mean if state["mean"] is None else self.momentum * state["mean"] +
                             (1 - self.momentum) * mean)
