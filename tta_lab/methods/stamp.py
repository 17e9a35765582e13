from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..components.augment import ColorAffine, CropFlip
from ..components.memories import ClassMemory
from ..components.norms.batch_norm import BatchStatistics
from ..components.updates import CosineSam
from ..core import scores
from ..core.knobs import knob
from ..core.parts import LossMethod, Norm, NormAffine, Part, Train, Update


@dataclass(frozen=True, kw_only=True)
class Stamp(LossMethod):
    """STAMP: learn from a memory of images that look known, flatly, and answer with the mean over
    augmented views.

    p_i = mean of the softmax over the image and ``views`` augmentations of it, H_i = -sum_k p_ik
    ln(p_ik + 1e-5). An image enters the memory, under the class k that the adapted model gives it,
    if H_i < ``share`` ln C and the frozen source on batch statistics says k too. Then one step on
    the memory, L = mean_j w_j E_j,  w_j = M exp(-E_j) / sum_l exp(-E_l),  E the entropy, M the
    memory's capacity however full it is, by sharpness-aware minimisation with a falling step size.
    ``through_weights`` lets the gradient into w. The answer is ln p, from before the step; its
    entropy tells outliers (higher: less known). One draw of an augmentation serves the whole
    batch; the authors draw for each image. The rule is that of the authors' code; the paper's text
    was not at hand. Paper: STAMP: Outlier-Aware Test-Time Adaptation with Stable Memory Replay
    (2407.15773).
    """

    norm: Norm = BatchStatistics()
    train: Train = NormAffine(drop_top=True)
    update: Update = CosineSam(rule="sgd", lr=0.1, momentum=0.0, rho=0.05, period=150)
    memory: Part = ClassMemory()
    augment: Part = ColorAffine()
    views: int = knob(15, (0, 256), "augmentations beside the image itself", paper="2407.15773: 15")
    share: float = knob(0.25, (0.0, 1.1), "entropy below which an image enters, as a share of ln C",
                        paper="STAMP: 0.25, 0.9, 0.8")
    agree: bool = knob(True, why="the frozen source must give the same class; not for 1000 "
                                 "classes in the authors' code")
    through_weights: bool = knob(True, why="the gradient flows through the weights of the "
                                           "memory's images too")
    tasks = ("classification",)
    family = "selection"
    needs = frozenset({"source_logits"})
    kind = "log_probabilities"
    verified = "golden with fixed views; drawn ties by statistics, drawn views by invariants only"
    paper = "STAMP: Outlier-Aware Test-Time Adaptation with Stable Memory Replay (2407.15773)"
    presets = {
        "cifar10_c": {"lr": 0.1, "share": 0.25},
        "cifar100_c": {"lr": 0.05, "share": 0.9, "augment": CropFlip()}, "imagenet_c": {
            "lr": 0.01, "share": 0.8, "period": 750, "agree": False, "augment": CropFlip()
        }, "cifar10_split": {"lr": 0.1, "share": 0.25},
        "cifar100_split": {"lr": 0.1, "share": 0.6, "augment": CropFlip()}
    }

    def init(self, model, source):
        return {"memory": self.memory.init(model, source)}

    def output(self, ctx, state):
        def ask():
            others = [ctx.forward(x=self.augment(ctx.x, ctx.rng)) for _ in range(self.views)]
            logits = torch.stack([ctx.logits, *others])
            return logits.log_softmax(2).logsumexp(0) - math.log(len(logits))
        return ctx.once(state, ask)

    def learning_batches(self, ctx, state):
        p = self.output(ctx, state).exp()
        with torch.no_grad():
            classes = ctx.logits.argmax(1)
            enters = -(p * (p + 1e-5).log()).sum(1) < self.share * math.log(p.shape[1])
            if self.agree:
                enters &= classes == ctx.source_logits("batch").argmax(1)
        for i, (label, taken) in enumerate(torch.stack([classes, enters.long()], 1).tolist()):
            if taken:
                self.memory.offer_(state["memory"], ctx.x[i], ctx.ids[i], label, p.shape[1],
                                   ctx.rng)
        if state["memory"]["ids"]:
            yield ctx.other(*self.memory.read_(state["memory"]))

    def losses(self, ctx, state):
        entropy = scores.entropy(ctx.logits)
        weights = self.memory.capacity * (-entropy).softmax(0)
        return (weights if self.through_weights else weights.detach()) * entropy
