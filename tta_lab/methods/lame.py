from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..components.norms.batch_norm import SourceStatistics
from ..core.knobs import knob
from ..core.parts import Method, Norm


@dataclass(frozen=True, kw_only=True)
class Lame(Method):
    """LAME: leave the model alone and let alike images of a batch agree on their labels.

    Y minimises sum_i KL(y_i || p_i) - (lambda / 2) sum_ij W_ij y_i . y_j by  Y <- softmax(ln(p +
    1e-10) + lambda W Y), from Y = p, until the energy changes by less than 1e-8 of itself, at most
    ``steps`` times. W compares unit features: "knn" 1 for the k nearest others, "rbf" exp(-d^2 / 2
    s^2) with s the mean distance to the k-th nearest counting the image itself, "linear" their dot
    product. ``form="reference"`` takes the nearest of all for the image itself, so that a twin
    image may be dropped in its place. Answers with log-probabilities. Nothing is kept between
    batches. It helps where neighbours in the stream share a class, and harms elsewhere. Paper:
    Parameter-free Online Test-time Adaptation (2201.05718).
    """

    norm: Norm = SourceStatistics()
    affinity: str = knob("rbf", choices=("knn", "rbf", "linear"), why="how alike two images are",
                         paper="2201.05718: chosen of three")
    k: int = knob(5, (1, 1000), "neighbours", paper="2201.05718: 1, 3 or 5")
    strength: float = knob(1.0, (0.0, 100.0), "lambda, the pull of the neighbours",
                           paper="2201.05718: 1")
    symmetric: bool = knob(False, why="use (W + W^T) / 2")
    drop: str = knob("self", choices=("self", "nearest"), why="who is no neighbour: the image "
                                                              "itself, or the nearest, which may "
                                                              "be a twin")
    steps: int = knob(100, (1, 10000), "most iterations", paper="authors' code: 100")
    kind = "log_probabilities"
    needs = frozenset({"features"})
    tasks = ("classification",)
    family = "output"
    verified = "golden where no image has a twin in its batch, else invariants only"
    verified_forms = {"reference": "golden"}
    paper = "Parameter-free Online Test-time Adaptation (2201.05718)"
    forms = {"reference": {"drop": "nearest"}}
    presets = {"correlated": {"affinity": "knn", "k": 1}}

    def weights(self, features: Tensor) -> Tensor:
        """W (N, N) between features (N, D)."""
        unit = torch.nn.functional.normalize(features, dim=1)
        if self.affinity == "linear":
            w = unit @ unit.T
        else:
            d = torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist")
            if self.affinity == "rbf":
                scale = d.topk(min(self.k, len(d)),
                               largest=False).values[:, -1].mean().clamp_min(1e-12)
                w = (-d ** 2 / (2 * scale ** 2)).exp()
            else:
                d = d.fill_diagonal_(torch.inf) if self.drop == "self" else d
                near = d.topk(min(self.k + 1, len(d)), largest=False).indices
                near = near[:, 1:] if self.drop == "nearest" else near[:, :min(self.k, len(d) - 1)]
                w = torch.zeros_like(d).scatter_(1, near, 1.0)
        return (w + w.T) / 2 if self.symmetric else w

    def output(self, ctx, state):
        with torch.no_grad():
            w = self.weights(ctx.features)
            log_p = (ctx.logits.softmax(1) + 1e-10).log()
            log_y, before = log_p.log_softmax(1), None
            for i in range(self.steps):
                pull = self.strength * (w @ log_y.exp())
                log_y = (log_p + pull).log_softmax(1)
                y = log_y.exp()
                energy = (-log_p * y - self.strength * pull * y +
                          y * y.clamp_min(1e-20).log()).double().sum().item()
                if i > 1 and abs(energy - before) <= 1e-8 * abs(before):
                    break
                before = energy
            return log_y
