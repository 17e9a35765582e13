"""Penalties: one scalar a step, added to the averaged losses."""
from __future__ import annotations

from dataclasses import dataclass

from ..core import scores
from ..core.knobs import knob
from ..core.parts import NeedsError, Part, Penalty
from .augment import ColorAffine
from .source.prepare import fisher, posterior


@dataclass(frozen=True)
class Diversity(Penalty):
    """Keep the predictions spread over the classes: maximise the entropy of the mean prediction.

    L = -w H(pbar),  pbar = mean over *all* samples of the batch, kept or not (and all pixels); a
    class of probability 0 counts 0. The weight is that of the public re-implementation of
    2308.06879; the paper's is unverified.
    """

    weight: float = knob(0.5, (0.0, 10.0), "weight of the term",
                         paper="lambda_max; grid 1.0, 0.5, 0.2, 0.1")

    def __call__(self, ctx, losses, weights, state):
        return -self.weight * scores.marginal_entropy(ctx.logits)


@dataclass(frozen=True)
class FisherAnchor(Penalty):
    """Hold important weights near the source: w sum_j F_j (theta_j - theta_j^source)^2, summed over
    all tuned parameters of the model.

    F is the diagonal Fisher information on source images (``source.fisher``, the squared gradient
    of a batch mean, so the weight depends on the batch size). Paper: EATA (2204.02610).
    """

    source_info = (fisher,)

    weight: float = knob(2000.0, (0.0, 1e6, "log"), "weight of the term",
                         paper="EATA: 2000 (ImageNet-C), 1 (CIFAR, later ports)")

    def __call__(self, ctx, losses, weights, state):
        fisher, tuned = (
            ctx.source_info["fisher"],
            {name: p for name, p in ctx.tuned.items() if not name.startswith("extra.")},
        )
        strange = [
            name for name, p in tuned.items() if name not in fisher or fisher[name].shape != p.shape
        ]
        if strange:
            raise NeedsError(f"the Fisher information does not fit {strange[0]}: it was made for "
                             f"other tuned parameters; make it with this recipe "
                             "and model: source_info = tta_lab.prepare(model, recipe, images)")
        return self.weight * sum(
            (fisher[name] * (p - ctx.origin[name]) ** 2).sum() for name, p in tuned.items()
        )


@dataclass(frozen=True)
class PosteriorAnchor(Penalty):
    """Stay where a Gaussian around the source finds the weights likely: w / 2 sum_j (theta_j -
    mean_j)^2 / (variance_j + 1e-6).

    Summed over all tuned parameters; mean and variance come from ``source.posterior``. Paper: PETAL
    (2212.09713).
    """

    source_info = (posterior,)

    weight: float = knob(1e-9, (0.0, 1e3), "weight of the term",
                         paper="PETAL: 1e-9 (CIFAR), 1e-11 (ImageNet)")

    def __call__(self, ctx, losses, weights, state):
        found = ctx.source_info["posterior"]
        return (
            self.weight
            / 2
            * sum(
                ((p - found[f"mean/{name}"]) ** 2 / (found[f"variance/{name}"] + 1e-6)).sum()
                for name, p in ctx.tuned.items()
                if f"mean/{name}" in found
            )
        )


@dataclass(frozen=True)
class AugmentedAgreement(Penalty):
    """Predict alike on an augmented image: sum_i w_i SCE(f(A(x_i)), z_i) / B over the images kept,
    weighted like them.

    SCE(a, b) is half the cross-entropy of softmax b against a and half that of softmax a against b;
    gradients flow through both. The images kept go through the network alone: their batch-norm
    statistics are those of the smaller batch. ROID (2306.00650).
    """

    augment: Part = ColorAffine(blur_and_noise=False, padding="reflect")
    weight: float = knob(1.0, (0.0, 100.0), "weight of the term", paper="ROID: 1")

    def __call__(self, ctx, losses, weights, state):
        kept = weights > 0
        if not self.weight or not kept.any():
            return losses.new_zeros(())
        other = ctx.forward(x=ctx.draw(state, lambda rng: self.augment(ctx.x, rng))[kept])
        return (
            self.weight
            * (weights[kept] * scores.symmetric_cross_entropy(other, ctx.logits[kept])).sum()
            / len(losses)
        )
