from __future__ import annotations

from dataclasses import dataclass

import torch

from ..components.augment import ColorAffine
from ..components.controllers.resets import ResetEvery
from ..components.norms.adaptive import AdaptiveMixture
from ..components.norms.batch_norm import BatchStatistics
from ..components.objectives import cross_entropy
from ..core.knobs import knob
from ..core.parts import LossMethod, Method, Norm, NormAffine, Part, Step, Train, Update


@dataclass(frozen=True, kw_only=True)
class AdaMixBn(Method):
    """AdaMixBN: normalise with source and batch statistics, mixed in every layer by how far these
    and the images are apart; nothing is tuned.

    mean = a mu_source + (1 - a) mu_batch, the variance likewise, see AdaptiveMixture. The paper's
    text was not at hand. Paper: DomainAdaptor: A Novel Approach to Test-time Adaptation
    (2308.10297); from the authors' code.
    """

    norm: Norm = AdaptiveMixture()
    family = "normalisation"
    needs = frozenset({"batch_norm"})
    verified = "golden"
    paper = "DomainAdaptor: A Novel Approach to Test-time Adaptation (2308.10297)"


@dataclass(frozen=True, kw_only=True)
class Gem(LossMethod):
    """GEM: minimise an entropy whose temperature follows the spread of each image's logits, on the
    batch's statistics.

    l_i = -s sum_k q_ik ln softmax(z_i / T_i)_k,  T_i = 2 sd_k(z_ik) and s = mean of T^2 over the
    batch, both without gradient. q is the tempered prediction itself (GEM-T), or fixed: the plain
    one ("prediction", GEM-SKD), or that of the mean logits of ``views`` augmentations ("views",
    GEM-Aug). The answer is a second prediction, after the step. The paper's text was not at hand;
    ``scale="image"`` takes s_i = T_i^2. Paper: DomainAdaptor: A Novel Approach to Test-time
    Adaptation (2308.10297); from the authors' code.
    """

    norm: Norm = BatchStatistics()
    train: Train = NormAffine()
    update: Update = Step(rule="sgd", lr=1e-3)
    answer: str = knob("after", choices=("before", "after"), why="returned logits are from before "
                                                                 "or after the update")
    target: str = knob("itself", choices=("itself", "prediction", "views"), why="what the "
                                                                                "tempered "
                                                                                "prediction "
                                                                                "learns: GEM-T, "
                                                                                "GEM-SKD, GEM-Aug")
    scale: str = knob("batch", choices=("batch", "image"), why="T^2 is averaged over the batch, "
                                                               "as in the authors' code, or each "
                                                               "image's own")
    augment: Part = ColorAffine()
    views: int = knob(3, (1, 256), "augmentations, for target 'views'", paper="authors' code: 3")
    tasks = ("classification",)
    family = "entropy"
    verified = "golden; target 'prediction' and, with fixed views, 'views' below domain_adaptor"
    paper = "DomainAdaptor: A Novel Approach to Test-time Adaptation (2308.10297)"

    def losses(self, ctx, state):
        if self.target == "views":  # all in one pass, the first that a layer sees
            n = self.views
            other = ctx.once(
                state, lambda: ctx.forward(
                    x=torch.cat([self.augment(ctx.x, ctx.rng) for _ in range(n)]), commit=ctx.
                    commit).unflatten(0, (n, -1)).mean(0))
        z = ctx.logits
        t = 2 * z.detach().std(1, keepdim=True).clamp_min(1e-6)
        target = (z / t if self.target == "itself" else
                  z.detach() if self.target == "prediction" else other)
        scale = t[:, 0] ** 2 if self.scale == "image" else t.square().mean()
        return scale * cross_entropy(z / t, target)


@dataclass(frozen=True, kw_only=True)
class DomainAdaptor(Gem):
    """DomainAdaptor: GEM on AdaMixBN, from the source weights anew for every batch.

    The mixture of statistics is moved into scale and shift when a batch is first looked at - for
    target "views" by the views - so that the step can tune it; one plain step, a second
    prediction, then weights, statistics and optimiser go back (``controllers=()`` goes on instead,
    and mixes for the first batch alone). Paper: DomainAdaptor: A Novel Approach to Test-time
    Adaptation (2308.10297); from the authors' code.
    """

    norm: Norm = AdaptiveMixture()
    update: Update = Step(rule="sgd", lr=1e-3, momentum=0.0)
    controllers: tuple = (ResetEvery(1, scope="model"),)
    needs = frozenset({"batch_norm"})
    verified = "golden (views fixed); scale 'image' invariants only"
