from __future__ import annotations

from dataclasses import dataclass

from ..components import teachers
from ..components.augment import ColorAffine
from ..components.norms.batch_norm import BatchStatistics
from ..components.updates import restore_
from ..core.knobs import knob
from ..core.parts import AllParameters, LossMethod, Norm, Part, Step, Train, Update


@dataclass(frozen=True, kw_only=True)
class Cotta(LossMethod):
    """CoTTA: learn all weights from a slowly following teacher, averaged over augmentations, and
    let some weights fall back.

    l_i = -sum_k q_ik ln p_ik, q = softmax of the teacher's logits; where the frozen source is
    unsure of the batch (mean confidence below ``sure``) these are the mean logits over ``views``
    augmentations. After the step theta' <- m theta' + (1 - m) theta, then each weight of the
    student returns to the source with probability ``restore``. The answer is the teacher's, from
    before the step. ``loss="symmetric"`` is 1/2 CE(q, p) + 1/2 CE(p, q) (the authors' ImageNet
    code). ``form="reference"`` tunes weights and biases of layers alone. Paper: Continual
    Test-Time Domain Adaptation (2203.13591).
    """

    norm: Norm = BatchStatistics()
    train: Train = AllParameters()
    update: Update = Step(rule="adam", lr=1e-3)
    augment: Part = ColorAffine()
    views: int = knob(32, (1, 256), "augmentations", paper="CoTTA: 32")
    sure: float = knob(0.92, (0.0, 1.1), "mean source confidence from which the plain teacher is "
                                         "asked", paper="CoTTA: 0.92, 0.72, 0.1")
    follow: float = knob(0.999, (0.0, 1.0), "momentum of the teacher", paper="CoTTA: 0.999")
    restore: float = knob(0.01, (0.0, 1.0), "share of weights put back in each step",
                          paper="CoTTA: 0.01 (CIFAR), 0.001 (ImageNet)")
    loss: str = knob("cross_entropy", choices=("cross_entropy", "symmetric"),
                     why="which cross-entropy to the teacher")
    needs, tasks = frozenset({"source_logits"}), ("classification",)
    family = "teacher"
    verified = "golden where no class token is tuned; drawn augmentations by statistics"
    verified_forms = {"reference": "golden; drawn augmentations by statistics"}
    paper = "Continual Test-Time Domain Adaptation (2203.13591)"
    forms = {"reference": {"free": False}}
    presets = {
        "cifar10_c": {"sure": 0.92}, "cifar100_c": {"sure": 0.72}, "imagenet_c": {
            "rule": "sgd", "lr": 0.01, "sure": 0.1, "restore": 0.001, "loss": "symmetric"
        }, "cifar10_c_retuned": {"sure": 0.95, "restore": 0.02},
        "cifar100_c_retuned": {"sure": 0.9, "restore": 0.005}
    }

    def init(self, model, source):
        return {"teacher": teachers.start(model), "anchor_confidence": 0.0}

    def anchor(self, ctx):
        """Logits of the network whose confidence is asked."""
        return ctx.source_logits("batch")

    def output(self, ctx, state):
        def ask():
            plain = ctx.forward(tensors=state["teacher"])
            state["anchor_confidence"] = self.anchor(ctx).softmax(1).amax(1).mean().item()
            if state["anchor_confidence"] >= self.sure:
                return plain
            return (sum(
                ctx.forward(x=self.augment(ctx.x, ctx.rng), tensors=state["teacher"])
                for _ in range(self.views)) / self.views)
        return ctx.once(state, ask)

    def losses(self, ctx, state):
        p, q = ctx.logits, self.output(ctx, state)
        loss = -(q.softmax(1) * p.log_softmax(1)).sum(1)
        return (loss if self.loss == "cross_entropy" else
                (loss - (p.softmax(1) * q.log_softmax(1)).sum(1)) / 2)

    def after(self, ctx, loss_output, state):
        if loss_output.move:
            teachers.follow_(state["teacher"], ctx, self.follow)
            restore_(ctx, self.restore)
