from __future__ import annotations

from dataclasses import dataclass

import torch

from ..components.augment import ColorAffine
from ..components.memories import BalancedMemory
from ..components.norms.stream import RobustStatistics
from ..components.teachers import follow_, start
from ..core.knobs import knob
from ..core.parts import LossMethod, Norm, NormAffine, Part, Step, Train, Update


@dataclass(frozen=True, kw_only=True)
class Rotta(LossMethod):
    """RoTTA: learn from a balanced memory of the stream, with robust statistics and a slow teacher
    that answers.

    Every image is offered to the memory under the teacher's class and uncertainty; after every 64
    offers one step on L = mean over the memory of E(a_i) CE(softmax z'(x_i), z(A(x_i))),  E(a) =
    exp(-a) / (1 + exp(-a)), a = age / capacity, then theta' <- (1 - nu) theta' + nu theta. Student
    and teacher have batch-norm statistics of their own (``RobustStatistics``), which move in these
    steps alone. The answer is the teacher's, before any step. u = -sum p ln(p + 1e-6); batches of
    one image are welcome. The rule is that of the authors' code; the paper's text was not at hand.
    Paper: Robust Test-Time Adaptation in Dynamic Scenarios (2303.13899).
    """

    norm: Norm = RobustStatistics(0.05)
    train: Train = NormAffine()
    update: Update = Step(rule="adam", lr=1e-3)
    memory: Part = BalancedMemory()
    augment: Part = ColorAffine()
    frequency: int = knob(64, (1, 100_000), "offers between two steps", paper="2303.13899: 64",
                          unit="images")
    nu: float = knob(1e-3, (0.0, 1.0), "the teacher's step towards the student",
                     paper="2303.13899: 0.001")
    tasks = ("classification",)
    family = "teacher"
    needs = frozenset({"batch_norm"})
    verified = "golden; drawn augmentations by statistics"
    paper = "Robust Test-Time Adaptation in Dynamic Scenarios (2303.13899)"
    presets = {
        "cifar10_c": {"rule": "adam", "lr": 1e-3}, "cifar100_c": {"rule": "adam", "lr": 1e-3},
        "imagenet_c": {"rule": "adam", "lr": 1e-3}
    }

    def init(self, model, source):
        return {"teacher": start(model), "memory": self.memory.init(model, source), "offers": 0}

    def output(self, ctx, state):
        return ctx.once(state, lambda: ctx.forward(tensors=state["teacher"]))

    def learning_batches(self, ctx, state):
        p = self.output(ctx, state).softmax(1)
        doubts = -(p * (p + 1e-6).log()).sum(1)
        for i, (label, doubt) in enumerate(zip(p.argmax(1).tolist(), doubts.tolist(), strict=True)):
            self.memory.offer_(state["memory"], ctx.x[i], ctx.ids[i], label, doubt, p.shape[1])
            state["offers"] += 1
            if state["offers"] % self.frequency == 0:
                yield ctx.other(*self.memory.content(state["memory"]))

    def losses(self, ctx, state):
        if ctx.rows is not None:
            raise ValueError("Rotta learns from its memory alone: its losses are those of a "
                             "context that learning_batches yields, not of a batch of the stream")
        target = ctx.once(state,
                           lambda: ctx.forward(tensors=state["teacher"], commit=True).softmax(1))
        logits = ctx.forward(x=ctx.draw(state, lambda rng: self.augment(ctx.x, rng)),
                              commit=True)
        ages = torch.tensor(state["memory"]["ages"], device=logits.device) / self.memory.capacity
        return torch.sigmoid(-ages) * -(target * logits.log_softmax(1)).sum(1)

    def after(self, ctx, loss_output, state):
        if loss_output.move:
            follow_(state["teacher"], ctx, 1 - self.nu)
