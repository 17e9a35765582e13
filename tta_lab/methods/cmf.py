from __future__ import annotations

from dataclasses import dataclass

import torch

from ..core.knobs import knob
from .roid import Roid


@dataclass(frozen=True, kw_only=True)
class Cmf(Roid):
    """CMF: ROID whose weights follow a hidden model, estimated from source and adapted weights by
    a scalar Kalman filter.

    After each step, theta' the hidden weights and v their variance, q the noise of the process and
    r = 1 - q that of the observation: theta' <- a theta' + (1 - a) theta_source, v <- a^2 v + q;
    b = r / (v + r), at least 0.89, 1 above 0.9999;  v <- b v, theta' <- b theta' + (1 - b) theta;
    theta <- g theta + (1 - g) theta', g = ``anchor.momentum``. q = noise n / 38400 with n tuned
    numbers, at most 1, where public code lets r become negative. Loss, weights and the correction
    of the answer are those of ROID. Form and settings are those of public code. Paper: Continual
    Momentum Filtering on Parameter Space for Online Test-time Adaptation (ICLR 2024).
    """

    alpha: float = knob(0.99, (0.0, 1.0), "a, how much of the hidden model stays",
                        paper="ICLR 2024: 0.99")
    noise: float = knob(0.005, (0.0, 1e4), "of the process, for 38400 tuned numbers",
                        paper="ICLR 2024: 0.005")
    verified = "golden (re-implementation); drawn augmentations by statistics"
    paper = ("Continual Momentum Filtering on Parameter Space for Online Test-time Adaptation "
             "(ICLR 2024)")

    def init(self, model, source):
        return {
            "hidden": {
                name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad
            }, "variance": 0.0
        }

    def after(self, ctx, loss_output, state):
        if not loss_output.move:
            return
        q = min(self.noise * sum(p.numel() for p in ctx.tuned.values()) / 38400, 1.0)
        v, r = self.alpha ** 2 * state["variance"] + q, 1 - q
        b = max(r / (v + r), 0.89)
        b = 1.0 if b > 0.9999 else b
        state["variance"] = b * v
        with torch.no_grad():
            for name, p in ctx.tuned.items():
                hidden = state["hidden"][name]
                hidden.lerp_(ctx.origin[name], 1 - self.alpha).lerp_(p, 1 - b)
                p.lerp_(hidden, 1 - self.anchor.momentum)
