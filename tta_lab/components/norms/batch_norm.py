"""What batch-normalisation layers do at test time. Group and layer normalisation have no such
choice.

A norm part gives the batch-norm layers of the adapter's own copy another rule for their
statistics, and leaves them the layers they are: class, forward (activation, dropout, scaling),
hooks and names stay, in all places where a layer is used. Statistics that move do so only in a
forward with ``commit`` set, which the adapter does once per batch: probing and recording never
change a result. Source: Schneider et al. 2020 (2006.16971), Nado et al. 2020 (2006.10963).
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ...core.knobs import knob
from ...core.norm_layers import (
    BATCH_NORM,
    BatchRule,
    TestTimeNorm,
    batch_norms,
    become_,
    lone,
    moments,
)
from ...core.parts import NeedsError, Norm


class _Mixed(TestTimeNorm):
    alpha, prior = 0.1, 0.0

    def normalise(self, x, affine):
        alpha = len(x) / (len(x) + self.prior) if self.prior else self.alpha
        if alpha == 0:
            return self.with_statistics(x, self.running_mean, self.running_var, affine)
        if lone(x):
            return self.of_one(x, affine)
        mean, var = moments(x)
        return self.with_statistics(x, torch.lerp(self.running_mean, mean, alpha),
                                    torch.lerp(self.running_var, var, alpha), affine)


class _Running(TestTimeNorm):
    one_pass, absorbing = False, False

    def normalise(self, x, affine):
        if self.commit:
            self.absorb_(x, self.momentum)
            if not self.one_pass:
                return self.batch(x, affine)  # the first of two passes: its result is thrown away
        return self.with_statistics(x, self.running_mean, self.running_var, affine)


@dataclass(frozen=True)
class SourceStatistics(Norm):
    """BN-0: normalise with the running statistics of the source model; the model stays as it is."""

    def apply_(self, model: nn.Module) -> None:
        """Change the batch-norm layers of the adapter's copy."""


@dataclass(frozen=True)
class RuledStatistics(SourceStatistics):
    def make(self, layer: BATCH_NORM) -> TestTimeNorm:
        """Give one layer its rule, in place (`become_`)."""
        raise NotImplementedError

    def apply_(self, model):
        for layer in batch_norms(model):
            self.make(layer)


def ruled_with_source(layer: BATCH_NORM, rule: type) -> TestTimeNorm:
    if layer.running_mean is None:
        raise NeedsError("this normalisation mixes in the source model's running statistics, but "
                         "a batch-norm layer "
                         "of the model stores none; use norm=BatchStatistics()")
    return become_(layer, rule)


@dataclass(frozen=True)
class BatchStatistics(RuledStatistics):
    """BN-1: normalise with mean and biased variance of the current batch, in any mode.

    ``track`` also moves the stored running statistics, which are never read (what the reference
    code of Tent's ``norm`` baseline does as a side effect).
    """

    track: bool = knob(False, why="move the stored statistics too, although they are never read")

    def make(self, layer):
        made = become_(layer, BatchRule)
        made.track = self.track
        return made


@dataclass(frozen=True)
class MixedStatistics(RuledStatistics):
    """BN-alpha: mean and variance are (1 - a) source + a test batch, the batch variance unbiased.

    With ``prior`` N > 0 the Bayesian form is used, a = n / (N + n) for a batch of n images
    (2006.16971).
    """

    alpha: float = knob(0.1, (0.0, 1.0), "weight of the test batch", paper="2006.16971")
    prior: float = knob(0.0, (0.0, 1e5), "pseudo-count of source images; 0: use alpha",
                        paper="2006.16971, N", unit="images")

    def make(self, layer):
        made = ruled_with_source(layer, _Mixed)
        made.alpha, made.prior = self.alpha, self.prior
        return made


@dataclass(frozen=True)
class RunningStatistics(RuledStatistics):
    """BN-EMA: running <- (1 - m) running + m batch, then normalise with the updated running
    statistics.

    ``absorb="two_pass"``: the whole network absorbs the batch first (normalising with batch
    statistics), then answers; ``"one_pass"``: each layer updates and normalises at once, so that
    deeper layers see other inputs.
    """

    momentum: float = knob(0.1, (0.0, 1.0), "weight of the new batch")
    absorb: str = knob("two_pass", choices=("two_pass", "one_pass"), why="absorb in a pass of its "
                                                                         "own, or layer by layer")

    @property
    def passes(self):
        return 2 if self.absorb == "two_pass" else 1

    def make(self, layer):
        made = ruled_with_source(layer, _Running)
        made.momentum = self.momentum
        made.one_pass = self.absorb == "one_pass"
        return made
