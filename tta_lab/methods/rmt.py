from __future__ import annotations

from dataclasses import dataclass

import torch

from ..components.augment import ColorAffine
from ..components.norms.batch_norm import BatchStatistics
from ..components.objectives import SourceReplay, contrast, nearest_prototype, projector
from ..components.source import warm_up
from ..components.source.prepare import prototypes
from ..components.teachers import follow_, start
from ..core import scores
from ..core.knobs import knob
from ..core.parts import AllParameters, LossMethod, Norm, Part, Step, Train, Update


@dataclass(frozen=True, kw_only=True)
class Rmt(LossMethod):
    """RMT: agree with a slow teacher, symmetrically, and keep the features near the source's
    classes.

    L = mean_i [ SCE(z_i, z'_i) / 2 + SCE(z(A x_i), z'_i) / 2 + w con_i ] + CE on replayed source
    images;  con_i contrasts three projected views of a sample - its features, those of A x_i, and
    the nearest class prototype of the source - with all others, at temperature 0.1. All parameters
    move; theta' <- 0.999 theta' + 0.001 theta after the step. The answer is z + z', from before it
    (twice the scale of one prediction). ``penalties=()`` leaves the replay out. The authors first
    warm student and teacher up on source images; here this is done where asked for, ``given |
    {"warm_up": warm_up(model, recipe, images)}`` with ``tta_lab.components.source.warm_up``, else
    the stream begins at the source. ``form="reference"`` tunes weights and biases alone. Paper:
    Robust Mean Teacher for Continual and Gradual Test-Time Adaptation (2211.13081); from the
    authors' code.
    """

    norm: Norm = BatchStatistics()
    train: Train = AllParameters()
    update: Update = Step(rule="adam", lr=1e-3)
    penalties: tuple = (SourceReplay(1.0),)
    augment: Part = ColorAffine()
    momentum: float = knob(0.999, (0.0, 1.0), "share of the teacher that stays",
                           paper="2211.13081: 0.999")
    contrast_weight: float = knob(1.0, (0.0, 100.0), "w, of the contrastive term",
                                  paper="2211.13081: 1")
    temperature: float = knob(0.1, (1e-3, 100.0, "log"), "of the contrastive term",
                              paper="2211.13081: 0.1")
    projection: int = knob(128, (1, 4096), "size of the projection", paper="2211.13081: 128")
    tasks, family, needs, source_info = (
        ("classification",),
        "teacher",
        frozenset({"features"}),
        (prototypes,),
    )
    verified = (
        "golden where no class token is tuned; drawn augmentations and the warm-up by statistics"
    )
    verified_forms = {"reference": "golden; drawn augmentations and the warm-up by statistics"}
    paper = "Robust Mean Teacher for Continual and Gradual Test-Time Adaptation (2211.13081)"
    forms = {"reference": {"free": False}}
    presets = {
        "cifar10_c": {"rule": "adam", "lr": 1e-3},
        "cifar100_c": {"rule": "adam", "lr": 1e-3},
        "imagenet_c": {"update": Step(rule="sgd", lr=0.01, nesterov=True)},
    }

    def extra(self, model):
        return projector(model, self.projection)

    def init(self, model, source):
        return {"teacher": start(model)}

    def begin(self, adapter, what):
        if "warm_up" in adapter.source_info:
            warm_up.begin_(adapter, what)

    def teacher(self, ctx, state):
        """The teacher's logits, once for each batch."""
        return ctx.once(state, lambda: ctx.forward(tensors=state["teacher"]))

    def output(self, ctx, state):
        return ctx.logits + self.teacher(ctx, state)

    def losses(self, ctx, state):
        features, target = ctx.features, self.teacher(ctx, state)
        augmented = ctx.draw(state, lambda rng: self.augment(ctx.x, rng))
        features_a, logits_a = ctx.forward_features(x=augmented)
        views = torch.stack(
            [
                nearest_prototype(features, ctx.source_info["prototypes"]["mean"]),
                features,
                features_a,
            ],
            1,
        )
        agree = 0.5 * scores.symmetric_cross_entropy(
            ctx.logits, target
        ) + 0.5 * scores.symmetric_cross_entropy(logits_a, target)
        return agree + self.contrast_weight * contrast(ctx.extra(views), self.temperature)

    def after(self, ctx, loss_output, state):
        if loss_output.move:
            follow_(state["teacher"], ctx, self.momentum)
