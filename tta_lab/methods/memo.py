from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..components.augment import AugMix
from ..components.norms.batch_norm import MixedStatistics
from ..core.knobs import knob
from ..core.parts import AllParameters, LossMethod, Norm, Part, Step, Train, Update


@dataclass(frozen=True, kw_only=True)
class Memo(LossMethod):
    """MEMO: for every single image, one step that makes the model sure and agreed over its
    augmented views, then forget.

    l_i = H(pbar_i),  pbar_i = mean of p over ``views`` augmentations of image i; one step on all
                      parameters; the answer is the prediction on the image itself after the step;
                      then weights and optimiser go back to the source. Images of a batch are
                      treated one by one. Batch-norm layers mix in a little of the statistics of
                      the views (image), BN-alpha. ``form="reference"`` leaves class tokens and
                      position embeddings as they are, as the re-implementation does. Paper: MEMO:
                      Test Time Robustness via Adaptation and Augmentation (2110.09506).
    """

    norm: Norm = MixedStatistics(alpha=0.1)
    train: Train = AllParameters()
    update: Update = Step(rule="sgd", lr=5e-3, momentum=0.0)
    answer: str = knob("after", choices=("before", "after"), why="returned logits are from before "
                                                                 "or after the update")
    augment: Part = AugMix()
    views: int = knob(32, (1, 1024), "augmentations of each image", paper="MEMO: 32 (CIFAR-10), "
                                                                          "64 (ImageNet)")
    tasks = ("classification",)
    family = "single image"
    verified = "golden (re-implementation, fixed views) where no class token is tuned"
    verified_forms = {"reference": "golden (re-implementation, fixed views)"}
    paper = "MEMO: Test Time Robustness via Adaptation and Augmentation (2110.09506)"
    forms = {"reference": {"free": False}}
    presets = {
        "cifar10_c": {"lr": 5e-3, "views": 32}, "cifar100_c": {"lr": 5e-3, "views": 32},
        "imagenet_c": {"lr": 2.5e-4, "views": 64}
    }

    def learning_batches(self, ctx, state):
        answers = []
        for i in range(len(ctx.x)):
            image = ctx.part(slice(i, i + 1))
            yield image
            with torch.no_grad():
                answers.append(image.again().logits)
            ctx.restart("weights", "optimizer")
        state["answers"] = torch.cat(answers)

    def losses(self, ctx, state):
        x = ctx.draw(state, lambda rng: self.augment(ctx.x.repeat(self.views, 1, 1, 1), rng))
        log_p = ctx.forward(x=x).log_softmax(1).logsumexp(0, keepdim=True) - math.log(len(x))
        return -(log_p.exp() * log_p).sum(1)

    def output(self, ctx, state):
        if "answers" in state:
            return state.pop("answers")
        return torch.cat([ctx.part(slice(i, i + 1)).logits for i in range(len(ctx.x))])
