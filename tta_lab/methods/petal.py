from __future__ import annotations

from dataclasses import dataclass

import torch

from ..components import teachers
from ..components.penalties import PosteriorAnchor
from ..components.source.prepare import posterior
from ..components.updates import least_informative, restore_, restore_where_
from ..core.knobs import knob
from ..core.parts import NeedsError
from .cotta import Cotta


@dataclass(frozen=True, kw_only=True)
class Petal(Cotta):
    """PETAL: CoTTA held by a posterior of the source weights, where the weights of least gradient
    fall back.

    L = mean_i CE(q_i, p_i) + w / 2 sum_j (theta_j - m_j)^2 / (v_j + 1e-6), q the teacher's answer
    as in CoTTA, m and v mean and variance of the weights under a Gaussian found by training a
    little further on labelled source images (``source.posterior``). Student, teacher and the
    network whose confidence is asked begin at m. After the step the teacher follows, then the share
    ``restore`` of the student's weights, those of smallest squared gradient of L, goes back to m;
    ``chosen="random"`` draws them as CoTTA does (PETAL-SRes). The answer is the teacher's, from
    before the step. ``form="reference"`` tunes weights and biases of layers alone. Paper: A
    Probabilistic Framework for Lifelong Test-Time Adaptation (2212.09713); from the authors' code.
    """

    penalties: tuple = (PosteriorAnchor(1e-9),)
    restore: float = knob(0.03, (0.0, 1.0), "share of weights put back in each step",
                          paper="2212.09713: 0.03, 0.003; random 0.01, 0.001")
    chosen: str = knob("gradient", choices=("gradient", "random"),
                       why="weights put back: those of smallest squared gradient, or drawn")
    needs, source_info, reads_gradients = frozenset(), (posterior,), True
    verified = ("golden with a given posterior where no class token is tuned; its making and drawn "
                "augmentations by invariants only")
    verified_forms = {"reference": "golden with a given posterior; its making and drawn "
                                   "augmentations by invariants only"}
    paper = "A Probabilistic Framework for Lifelong Test-Time Adaptation (2212.09713)"
    presets = {
        "cifar10_c": {"sure": 0.92},
        "cifar100_c": {"sure": 0.72},
        "imagenet_c": {
            "rule": "sgd",
            "lr": 0.01,
            "nesterov": True,
            "sure": 0.1,
            "restore": 0.003,
            "weight": 1e-11,
        },
        "cifar10_c_random": {"sure": 0.92, "chosen": "random", "restore": 0.01},
        "cifar100_c_random": {"sure": 0.72, "chosen": "random", "restore": 0.01},
        "imagenet_c_random": {
            "rule": "sgd",
            "lr": 0.01,
            "nesterov": True,
            "sure": 0.1,
            "chosen": "random",
            "restore": 0.001,
            "weight": 1e-11,
        },
    }

    def start(self, where) -> dict:
        """Name -> mean of the posterior, of what is tuned."""
        found = where.source_info["posterior"]
        missing = [name for name in where.tuned if f"mean/{name}" not in found]
        if missing:
            raise NeedsError(f"the posterior lacks {missing[0]}: it was made for other tuned "
                             f"parameters; make it with this recipe")
        return {name: found[f"mean/{name}"] for name in where.tuned}

    def begin(self, adapter, what):
        with torch.no_grad():
            for name, mean in self.start(adapter).items():
                if "weights" in what:
                    adapter.tuned[name].copy_(mean)
                if "states" in what:
                    adapter.states["method"]["teacher"][name].copy_(mean)

    def anchor(self, ctx):
        return ctx.forward(tensors=self.start(ctx))

    def after(self, ctx, loss_output, state):
        if loss_output.move:
            teachers.follow_(state["teacher"], ctx, self.follow)
            if self.chosen == "random":
                restore_(ctx, self.restore, self.start(ctx))
            else:
                restore_where_(
                    ctx, least_informative(loss_output.grads, self.restore), self.start(ctx)
                )
