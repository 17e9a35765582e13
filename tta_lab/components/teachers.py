"""Teachers: a second set of weights and statistics for the adapted network, kept as plain tensors
in a part's state.

``ctx.forward(tensors=teacher)`` runs the network with them in place of its own; frozen parameters
are shared.
"""
from __future__ import annotations

import torch
from torch import Tensor, nn


def start(model: nn.Module) -> dict[str, Tensor]:
    """Tuned parameters and buffers of the network as it is now."""
    return {**{name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad},
            **{name: b.detach().clone() for name, b in model.named_buffers()}}


def follow_(teacher: dict[str, Tensor], ctx, momentum: float) -> None:
    """teacher <- momentum teacher + (1 - momentum) student; parameters only, statistics are the
    teacher's own."""
    with torch.no_grad():
        for name, p in ctx.tuned.items():
            if name in teacher:
                teacher[name].lerp_(p.to(teacher[name].dtype), 1 - momentum)
