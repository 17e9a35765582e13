from __future__ import annotations

from dataclasses import dataclass

import torch

from ..components.augment import ColorAffine
from ..components.norms.batch_norm import BatchStatistics
from ..components.objectives import contrast, cross_entropy, nearest_prototype, projector
from ..components.source.prepare import prototypes
from ..core.knobs import knob
from ..core.parts import LossMethod, Norm, NormAffine, Part, Step, Train, Update


@dataclass(frozen=True, kw_only=True)
class Santa(LossMethod):
    """SANTA: agree with the frozen source and keep the features near its classes.

    L = mean_i [ -sum_k p_ik ln p0_ik / 2 - sum_k p^A_ik ln p0_ik / 2 + w con_i ],  p0 the source
    with batch statistics, p^A the prediction on A x_i (reverse cross-entropy: the prediction stands
    in front). con_i contrasts three projected views of a sample - its features, those of A x_i, and
    the nearest class prototype of the source - with all others, at temperature 0.1. Form and
    settings are those of a public re-implementation; the paper's text was not at hand. Paper:
    SANTA: Source Anchoring Network and Target Alignment for Continual Test Time Adaptation (TMLR
    2023).
    """

    norm: Norm = BatchStatistics()
    train: Train = NormAffine()
    update: Update = Step(rule="adam", lr=1e-3)
    augment: Part = ColorAffine()
    contrast_weight: float = knob(1.0, (0.0, 100.0), "w, of the contrastive term")
    temperature: float = knob(0.1, (1e-3, 100.0, "log"), "of the contrastive term")
    projection: int = knob(128, (1, 4096), "size of the projection")
    tasks, family, needs, source_info = (
        ("classification",),
        "teacher",
        frozenset({"features"}),
        (prototypes,),
    )
    verified = "golden (re-implementation); drawn augmentations by statistics"
    paper = ("SANTA: Source Anchoring Network and Target Alignment for Continual Test Time "
             "Adaptation (TMLR 2023)")
    presets = {
        "cifar10_c": {"rule": "adam", "lr": 1e-3},
        "cifar100_c": {"rule": "adam", "lr": 1e-3},
        "imagenet_c": {"update": Step(rule="sgd", lr=0.01, nesterov=True)},
    }

    def extra(self, model):
        return projector(model, self.projection)

    def losses(self, ctx, state):
        features, anchor = ctx.features, ctx.source_logits("batch")
        features_a, logits_a = ctx.forward_features(
            x=ctx.draw(state, lambda rng: self.augment(ctx.x, rng))
        )
        views = torch.stack(
            [
                nearest_prototype(features, ctx.source_info["prototypes"]["mean"]),
                features,
                features_a,
            ],
            1,
        )
        agree = 0.5 * cross_entropy(anchor, ctx.logits) + 0.5 * cross_entropy(anchor, logits_a)
        return agree + self.contrast_weight * contrast(ctx.extra(views), self.temperature)
