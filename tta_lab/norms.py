"""What batch-normalisation layers do at test time. Group and layer normalisation have no such choice.

A norm part replaces the batch-norm layers of the adapter's own copy. Statistics that move do so only in a forward
with ``commit`` set, which the adapter does once per batch: probing and recording never change a result.
Source: Schneider et al. 2020 (2006.16971), Nado et al. 2020 (2006.10963).
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .knobs import knob
from .parts import NeedsError, Part

BATCH_NORM = nn.modules.batchnorm._BatchNorm


class TestTimeNorm(nn.Module):
    """A batch-norm layer with its source statistics, its affine parameters and a rule for the statistics to use."""

    __test__ = False  # not a test class, whatever pytest thinks of its name

    def __init__(self, layer: BATCH_NORM):
        super().__init__()
        self.weight, self.bias, self.eps = layer.weight, layer.bias, layer.eps
        self.momentum = 0.1 if layer.momentum is None else layer.momentum
        self.commit = False
        for name in ("running_mean", "running_var"):
            value = getattr(layer, name)
            self.register_buffer(name, None if value is None else value.clone())

    def batch(self, x: Tensor) -> Tensor:
        """Normalise with mean and biased variance of this batch."""
        if x.numel() // x.shape[1] < 2:
            raise ValueError("batch statistics need more than one value per channel, but this batch of "
                             f"{len(x)} gives a batch-norm layer an input of shape {tuple(x.shape)}; use larger batches, "
                             "cadence=SlidingWindow(), or norm=SourceStatistics() or MixedStatistics()")
        return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)

    def with_statistics(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """Normalise with the given statistics."""
        return F.batch_norm(x, mean, var, self.weight, self.bias, False, 0.0, self.eps)

    def absorb_(self, x: Tensor, momentum: float) -> None:
        """running <- (1 - momentum) running + momentum batch, variance unbiased (the framework's convention)."""
        with torch.no_grad():
            mean, var = moments(x)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_(var.to(self.running_var.dtype), momentum)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance per channel of (B, C, *S), each (C,), in float32, no gradient."""
    dims = [d for d in range(x.ndim) if d != 1]
    var, mean = torch.var_mean(x.detach().float(), dims, correction=1)
    return mean, var


class _Batch(TestTimeNorm):
    track = False

    def forward(self, x):
        y = self.batch(x)
        if self.track and self.commit and self.running_mean is not None:
            self.absorb_(x, self.momentum)
        return y


class _Mixed(TestTimeNorm):
    alpha, prior = 0.1, 0.0

    def forward(self, x):
        alpha = len(x) / (len(x) + self.prior) if self.prior else self.alpha
        if alpha == 0:
            return self.with_statistics(x, self.running_mean, self.running_var)
        if x.numel() // x.shape[1] < 2:
            return self.batch(x)  # raises: the unbiased variance of one value does not exist
        mean, var = moments(x)
        return self.with_statistics(x, torch.lerp(self.running_mean, mean, alpha), torch.lerp(self.running_var, var, alpha))


class _Running(TestTimeNorm):
    one_pass, absorbing = False, False

    def forward(self, x):
        if self.commit:
            if x.numel() // x.shape[1] < 2:
                return self.batch(x)  # raises
            self.absorb_(x, self.momentum)
            if not self.one_pass:
                return self.batch(x)  # the first of two passes: its result is thrown away
        return self.with_statistics(x, self.running_mean, self.running_var)


@dataclass(frozen=True)
class SourceStatistics(Part):
    """BN-0: normalise with the running statistics of the source model; the model stays as it is."""

    passes = 1

    def apply_(self, model: nn.Module) -> None:
        """Change the batch-norm layers of the adapter's copy."""


@dataclass(frozen=True)
class _Replacing(SourceStatistics):
    def make(self, layer: BATCH_NORM) -> TestTimeNorm:
        raise NotImplementedError

    def apply_(self, model):
        replace_batch_norm_(model, self.make)


def replace_batch_norm_(model: nn.Module, make) -> None:
    """Replace every batch-norm layer below ``model`` by ``make(layer)``; parameters stay the same objects."""
    made = {}
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, BATCH_NORM):
                if child not in made:  # a layer used in two places stays one layer
                    made[child] = make(child).train(child.training)
                setattr(parent, name, made[child])


def _with_source(layer: BATCH_NORM, kind: type) -> TestTimeNorm:
    if layer.running_mean is None:
        raise NeedsError("this normalisation mixes in the source model's running statistics, but a batch-norm layer "
                         "of the model stores none; use norm=BatchStatistics()")
    return kind(layer)


@dataclass(frozen=True)
class BatchStatistics(_Replacing):
    """BN-1: normalise with mean and biased variance of the current batch, in any mode.

    ``track`` also moves the stored running statistics, which are never read (what the reference code of Tent's
    ``norm`` baseline does as a side effect).
    """

    track: bool = knob(False, why="move the stored statistics too, although they are never read")

    def make(self, layer):
        made = _Batch(layer)
        made.track = self.track
        return made


@dataclass(frozen=True)
class MixedStatistics(_Replacing):
    """BN-alpha: mean and variance are (1 - a) source + a test batch, the batch variance unbiased.

    With ``prior`` N > 0 the Bayesian form is used, a = n / (N + n) for a batch of n images (2006.16971).
    """

    alpha: float = knob(0.1, (0.0, 1.0), "weight of the test batch", paper="2006.16971")
    prior: float = knob(0.0, (0.0, 1e5), "pseudo-count of source images; 0: use alpha", paper="2006.16971, N", unit="images")

    def make(self, layer):
        made = _with_source(layer, _Mixed)
        made.alpha, made.prior = self.alpha, self.prior
        return made


@dataclass(frozen=True)
class RunningStatistics(_Replacing):
    """BN-EMA: running <- (1 - m) running + m batch, then normalise with the updated running statistics.

    ``absorb="two_pass"``: the whole network absorbs the batch first (normalising with batch statistics), then answers;
    ``"one_pass"``: each layer updates and normalises at once, so that deeper layers see other inputs.
    """

    momentum: float = knob(0.1, (0.0, 1.0), "weight of the new batch")
    absorb: str = knob("two_pass", choices=("two_pass", "one_pass"), why="absorb in a pass of its own, or layer by layer")

    @property
    def passes(self):
        return 2 if self.absorb == "two_pass" else 1

    def make(self, layer):
        made = _with_source(layer, _Running)
        made.momentum, made.one_pass = self.momentum, self.absorb == "one_pass"
        return made


def set_commit_(model: nn.Module, commit: bool) -> None:
    """Let the statistics of all test-time norms move in the next forwards, or not."""
    for m in model.modules():
        if isinstance(m, TestTimeNorm):
            m.commit = commit
