"""Losses per sample that several methods share, of logits (B, C, *S), and the replay of source
images. Gradients flow into both arguments; a teacher's logits carry none."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.knobs import knob
from ..core.parts import NeedsError, Penalty
from ..core.scores import upcast
from .source.prepare import replay


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of the prediction against a soft target, both as logits: -sum_k
    softmax(target)_k log softmax(logits)_k."""
    return -(target.softmax(1) * logits.log_softmax(1)).sum(1)


def of_this_model(given: Tensor, features: Tensor, what: str) -> Tensor:
    """``given`` (n, D), if it was made of features like these (B, D). Raises NeedsError where the
    widths differ."""
    if given.shape[1] != features.shape[1]:
        raise NeedsError(f"the {what} were made of features of {given.shape[1]} numbers, but this "
                         f"model's have {features.shape[1]}; make them with "
                         "this model: source_info = tta_lab.prepare(model, recipe, images, labels)")
    return given


def nearest_prototype(features: Tensor, prototypes: Tensor) -> Tensor:
    """The prototype (K, D) of largest cosine with each feature (B, D); no gradient."""
    with torch.no_grad():
        prototypes = of_this_model(prototypes, features, "class prototypes")
        alike = F.normalize(features.detach(), dim=1) @ F.normalize(prototypes, dim=1).T
        return prototypes[alike.argmax(1)]


def contrast(views: Tensor, temperature: float) -> Tensor:
    """InfoNCE over all views (B, V, D) of all samples: the other views of a sample are its
    positives, everything else its negatives.

    l_b = -mean over its views v and their positives w of  [ s_vw - log sum over all others u of exp
    s_vu ],  s = cosine / temperature. (B,)
    """
    n, v, _ = views.shape
    flat = F.normalize(views.flatten(0, 1), dim=1)
    s = (flat @ flat.T / temperature).masked_fill(
        torch.eye(n * v, dtype=torch.bool, device=flat.device), -torch.inf
    )
    log_p = s - s.logsumexp(1, keepdim=True)
    own = torch.arange(n, device=flat.device).repeat_interleave(v)
    positive = (own[:, None] == own[None]) & torch.isfinite(s)
    return -(torch.where(positive, log_p, 0.0).sum(1) / (v - 1)).view(n, v).mean(1)


def head_rows(model: nn.Module, who: str) -> Tensor:
    """The rows (K, D) of the model's linear head, float32. Raises NeedsError where the head is
    another."""
    head = getattr(model, "head", None)
    if not isinstance(head, nn.Linear):
        raise NeedsError(f"{who} needs the rows of a linear head, but this model's head is "
                         f"{type(head).__name__}")
    return upcast(head.weight)


def projector(model: nn.Module, size: int) -> nn.Module:
    """Two layers on the features, D -> size -> size, with a ReLU between."""
    head = getattr(model, "head", None)
    layers = head.modules() if isinstance(head, nn.Module) else ()
    size_in: Any = next((m.in_features for m in layers if hasattr(m, "in_features")), None)
    if size_in is None:
        raise NeedsError(f"a projector needs a model with 'features' and 'head', a linear layer; "
                         f"{type(model).__name__} has not: wrap it so that "
                         "logits = head(features(x))")
    return nn.Sequential(nn.Linear(size_in, size), nn.ReLU(), nn.Linear(size, size))


@dataclass(frozen=True)
class SourceReplay(Penalty):
    """Cross-entropy on as many labelled source images as the batch has, with the adapted network: w
    mean_j CE(y_j, z(x_j)). RMT (2211.13081)."""

    source_info = (replay,)

    weight: float = knob(1.0, (0.0, 100.0), "weight of the term", paper="RMT 2211.13081: 1")
    order: str = knob("random", choices=("random", "stored"),
                      why="images drawn anew for each batch, or one after the other")

    def init(self, model, source):
        return {"next": 0}

    def __call__(self, ctx, losses, weights, state):
        images, labels, n = (
            ctx.source_info["replay"]["images"],
            ctx.source_info["replay"]["labels"],
            len(ctx.x),
        )

        def draw(rng):
            if self.order == "random":
                return torch.randint(len(images), (n,), generator=rng, device=rng.device)
            at, state["next"] = state["next"], (state["next"] + n) % len(images)
            return (torch.arange(n, device=images.device) + at) % len(images)

        rows = ctx.draw(state, draw)
        return self.weight * F.cross_entropy(ctx.forward(x=images[rows]), labels[rows])
