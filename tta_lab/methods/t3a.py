from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..components.norms.batch_norm import SourceStatistics
from ..core import scores
from ..core.knobs import knob
from ..core.parts import Method, NeedsError, Norm


@dataclass(frozen=True, kw_only=True)
class T3a(Method):
    """T3A: replace the classifier's rows by the mean of the most certain features seen of each
    class.

    The support set starts with the rows of the head, each of the class the head gives it; every
    batch joins with its predicted classes and entropies; of each class the ``keep`` lowest
    entropies stay, for good; z_k = phi . c_k / ||c_k||, c_k the sum of unit supports of class k.
    An image counts in its own prediction; the head's bias does not. Logits are on another scale
    than the head's. ``keep=0`` keeps all, -1 all but the least certain of each class in every
    batch (what "-1" does in the authors' code). Paper: Test-Time Classifier Adjustment Module for
    Model-Agnostic Domain Generalization (NeurIPS 2021; no arXiv number known to us).
    """

    norm: Norm = SourceStatistics()
    keep: int = knob(20, (-1, 10**6), "supports kept of each class", paper="T3A: chosen of 1, 5, "
                     "20, 50, 100, all", unit="features")
    needs, tasks = frozenset({"features"}), ("classification",)
    family, verified = "output", "golden"
    paper = ("Test-Time Classifier Adjustment Module for Model-Agnostic Domain Generalization "
             "(NeurIPS 2021)")
    presets = {"cifar10_c": {"keep": 100}, "cifar100_c": {"keep": 20}, "imagenet_c": {"keep": 20}}

    def init(self, model, source):
        if not isinstance(source.head, nn.Linear):
            raise NeedsError(f"T3a starts from the rows of a linear head, but this model's head "
                             f"is {type(source.head).__name__}")
        with torch.no_grad():
            rows = scores.upcast(source.head.weight.detach()).clone()
            logits = scores.upcast(source.head(source.head.weight))
        return {"supports": rows, "classes": logits.argmax(1), "entropies": scores.entropy(logits)}

    def _kept(self, classes: Tensor, entropies: Tensor, n: int) -> Tensor:
        """Rows that stay: the most certain of each class."""
        order = entropies.argsort(stable=True)
        order = order[classes[order].argsort(stable=True)]
        size = classes.bincount(minlength=n)
        place = (torch.arange(len(order), device=order.device) -
                 (size.cumsum(0) - size)[classes[order]])
        return order[place < (self.keep if self.keep > 0 else size[classes[order]] + self.keep)]

    def output(self, ctx, state):
        with torch.no_grad():
            features = ctx.features.detach()
            logits = ctx.logits.detach()
            new = {
                "supports": features, "classes": logits.argmax(1),
                "entropies": scores.entropy(logits)
            }
            joined = {k: torch.cat([state[k], v]) for k, v in new.items()}
            rows = self._kept(joined["classes"], joined["entropies"], logits.shape[1])
            state.update({k: v[rows] for k, v in joined.items()})
            unit = nn.functional.normalize(state["supports"], dim=1)
            centre = nn.functional.one_hot(state["classes"], logits.shape[1]).to(unit).T @ unit
            return features @ nn.functional.normalize(centre, dim=1).T
