from __future__ import annotations

from dataclasses import dataclass

import torch

from ..components import teachers
from ..components.augment import CropFlip
from ..components.norms.batch_norm import BatchStatistics
from ..components.unknowns import BothFail, TwoFilters
from ..core import scores
from ..core.knobs import knob
from ..core.parts import LossMethod, Norm, NormAffine, Part, Step, Train, Update


@dataclass(frozen=True, kw_only=True)
class PafKip(LossMethod):
    """PAF-KIP: learn what the network is certain of, as far as its teacher is, unlearn what both
    doubt, and answer with three models.

    L = mean over known of exp(E0 - H'_i) H_i - a mean over unknown of H_i,  E0 = 0.4 ln C; H of
    the prediction z on a crop, the filters ask the network and its teacher on crops of their own.
    Known: the network passes; unknown: both fail. theta' <- 0.999 theta' + 0.001 theta. The
    answer, from before the step, is sum_m (1/3 + 0.1 (c_m - mean c)) z_m over network, teacher and
    frozen source, c the confidences. The authors score unknowns by the energy of z alone, here a
    score is of the answer. ``form="readme"`` asks both filters for a known image. Rule and
    settings are those of a public copy; the authors have published a description alone. Paper:
    PAF-KIP (BMVC 2025, 2508.18751).
    """

    norm: Norm = BatchStatistics()
    train: Train = NormAffine()
    select: tuple = (TwoFilters(),)
    penalties: tuple = (BothFail(),)
    update: Update = Step(rule="adam", lr=1e-3)
    when_empty: str = knob("step", choices=("skip", "step"), why="nothing kept: skip the step, or "
                                                                 "step on the penalties alone")
    augment: Part = CropFlip(shared=True)
    follow: float = knob(0.999, (0.0, 1.0), "momentum of the teacher", paper="public copy: 0.999")
    sharpness: float = knob(0.1, (0.0, 0.5), "how far a model's share follows its confidence",
                            paper="public copy: 0.1")
    tasks, needs = ("classification",), frozenset({"source_logits"})
    family, verified = "open set", "invariants only"
    paper = "PAF-KIP (BMVC 2025, 2508.18751)"
    forms = {"readme": {"select": (TwoFilters(both=True),)}}
    presets = {
        "cifar10_c": {"rule": "adam", "lr": 1e-3,
                      "weight": 2.0}, "cifar100_c": {"rule": "adam", "lr": 1e-3, "weight": 2.0},
        "imagenet_c": {"rule": "sgd", "lr": 2.5e-4, "weight": 0.7}
    }

    def init(self, model, source):
        return {"teacher": teachers.start(model)}

    def _ask(self, ctx, state):
        """z with gradient, and without the network's and the teacher's answers on crops of their
        own."""
        one, two, three = ctx.draw(state,
                                    lambda rng: [self.augment(ctx.x, rng) for _ in range(3)])
        if not hasattr(ctx, "first"):
            ctx.first = ctx.forward(x=one)
        return ctx.first, *ctx.once(
            state, lambda: (ctx.forward(x=two), ctx.forward(x=three, tensors=state["teacher"])))

    def losses(self, ctx, state):
        z, own, teacher = self._ask(ctx, state)
        ctx.doubts = (scores.entropy(own), scores.entropy(teacher))
        ctx.classes = z.shape[1]
        return scores.entropy(z)

    def output(self, ctx, state):
        z, _, teacher = self._ask(ctx, state)
        voices = torch.stack([z, teacher, ctx.source_logits("batch")])
        sure = voices.softmax(2).amax(2, keepdim=True)
        return ((1 / 3 + self.sharpness * (sure - sure.mean(0))) * voices).sum(0)

    def after(self, ctx, loss_output, state):
        if loss_output.move:
            teachers.follow_(state["teacher"], ctx, self.follow)
