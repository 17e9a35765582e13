from __future__ import annotations

from dataclasses import dataclass

import torch

from ..components import teachers
from ..components.augment import Unchanged
from ..components.norms.batch_norm import BatchStatistics
from ..components.penalties import FisherAnchor
from ..components.source.prepare import fisher
from ..components.updates import least_informative, restore_where_
from ..core import scores
from ..core.knobs import knob
from ..core.parts import AllParameters, LossMethod, Norm, Part, Step, Train, Update


@dataclass(frozen=True, kw_only=True)
class Psmt(LossMethod):
    """PSMT: a mean teacher in which Fisher information says which weights stay: of the source in
    the student, of the batch in both.

    L = mean_i [ SCE(z_i, z'_i) / 2 + SCE(z(A x_i), z'_i) / 2 ] + w sum_j F_j (theta_j -
    theta_j^source)^2, F from source images and the classes predicted for them. After the step
    theta' <- m theta' + (1 - m) theta; the share ``restore`` of the student's weights, those of
    smallest squared gradient of L, goes back to the source; then theta' is set to theta there and
    follows once more elsewhere. The answer is z + z', from before the step (twice the scale of one
    prediction). A changes nothing by default: the authors' code overwrites augmented views by the
    plain image, the teacher's as well; what the paper does is not verified. Weights and biases of
    layers alone are tuned, as in that code; ``free=True`` takes class tokens and the like too.
    Paper: Parameter-Selective Continual Test-Time Adaptation (2407.02253); from the authors' code.
    """

    norm: Norm = BatchStatistics()
    train: Train = AllParameters(free=False)
    update: Update = Step(rule="adam", lr=1e-3)
    penalties: tuple = (FisherAnchor(500.0),)
    augment: Part = Unchanged()
    follow: float = knob(0.999, (0.0, 1.0), "momentum of the teacher, applied twice a step",
                         paper="2407.02253, authors' code: 0.999")
    restore: float = knob(0.03, (0.0, 1.0), "share of the student's weights put back in each step",
                          paper="2407.02253, authors' code: 0.03")
    tasks = ("classification",)
    family = "teacher"
    source_info = (fisher,)
    reads_gradients = True
    verified = "golden; augmented views by invariants only"
    paper = "Parameter-Selective Continual Test-Time Adaptation (2407.02253)"
    presets = {
        "cifar10_c": {"rule": "adam", "lr": 1e-3},
        "cifar100_c": {"rule": "adam", "lr": 1e-3},
    }

    def init(self, model, source):
        return {"teacher": teachers.start(model)}

    def teacher(self, ctx, state):
        """The teacher's logits, once for each batch."""
        return ctx.once(state, lambda: ctx.forward(tensors=state["teacher"]))

    def output(self, ctx, state):
        return ctx.logits + self.teacher(ctx, state)

    def losses(self, ctx, state):
        target = self.teacher(ctx, state)
        plain = scores.symmetric_cross_entropy(ctx.logits, target)
        if isinstance(self.augment, Unchanged):
            return plain
        other = ctx.forward(x=ctx.draw(state, lambda rng: self.augment(ctx.x, rng)))
        return 0.5 * plain + 0.5 * scores.symmetric_cross_entropy(other, target)

    def after(self, ctx, loss_output, state):
        if not loss_output.move:
            return
        teacher = state["teacher"]
        teachers.follow_(teacher, ctx, self.follow)
        masks = least_informative(loss_output.grads, self.restore)
        restore_where_(ctx, masks)
        teachers.follow_(teacher, ctx, self.follow)
        with torch.no_grad():
            for name, mask in masks.items():
                teacher[name].copy_(torch.where(mask, ctx.tuned[name], teacher[name]))
