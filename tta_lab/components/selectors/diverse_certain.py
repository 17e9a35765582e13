from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core import scores
from ...core.knobs import knob
from ...core.parts import Selector


def rescale(values: Tensor) -> Tensor:
    """To 0 .. 1 within the batch; values that are all alike become 1."""
    low, high = values.min(), values.max()
    return torch.where(high > low, (values - low) / (high - low).clamp_min(1e-12),
                       torch.ones_like(values))


@dataclass(frozen=True)
class DiverseCertain(Selector):
    """Weigh samples by diversity times certainty, and drop those less diverse than the mean.

    d_i = 1 - cos(pbar, p_i), c_i = -H_i, both rescaled to 0 .. 1 in the batch;  w_i = exp(d_i c_i
    / temperature), 0 where d_i < mean d; pbar <- momentum pbar + (1 - momentum) mean p over the
    whole batch, from the uniform distribution on. Scores that are all alike (a batch of one) count
    as 1. Source: ROID (2306.00650).
    """

    temperature: float = knob(1 / 3, (1e-3, 100.0), "of the weights", paper="ROID: 1/3")
    momentum: float = knob(0.9, (0.0, 1.0), "of the running mean prediction", paper="ROID: 0.9")

    def init(self, model, source):
        return {"mean": None}

    def weights(self, ctx, losses, keep, state):
        logits = ctx.logits.detach()
        p = logits.softmax(1)
        mean = (torch.full_like(p[:1], 1 / p.shape[1])
                if state["mean"] is None else state["mean"].view(1, -1, *[1] * (p.ndim - 2)))
        diverse = rescale(1 - torch.cosine_similarity(mean, p, dim=1))
        weight = (diverse * rescale(-scores.entropy(logits)) / self.temperature).exp()
        return torch.where(diverse < diverse.mean(), 0.0, weight).to(losses.dtype)

    def after(self, ctx, loss_output, state):
        now = scores.mean_prediction(loss_output.ctx.logits.detach())
        before = torch.full_like(now, 1 / len(now)) if state["mean"] is None else state["mean"]
        state["mean"] = self.momentum * before + (1 - self.momentum) * now
