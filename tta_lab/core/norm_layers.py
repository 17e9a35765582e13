"""Batch-norm layers with another rule for their statistics: the rule is mixed into the layer's own
class, in place.

Statistics that move do so only in a forward with ``commit`` set, which the adapter does once per
batch: probing and recording never change a result.
"""
from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .parts import NeedsError
from .scores import upcast

BATCH_NORM = nn.modules.batchnorm._BatchNorm
BATCH_NORM_CALLS = {  # function of torch -> its arguments in order
    F.batch_norm: ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum",
                   "eps"),
    torch.batch_norm: ("input", "weight", "bias", "running_mean", "running_var", "training",
                       "momentum", "eps", "cudnn_enabled"),
}


class Affine(NamedTuple):
    """What a batch-norm call brings beside its statistics: scale and shift (C,) or None, and the
    number added to the variance."""

    weight: Tensor | None
    bias: Tensor | None
    eps: float


class TestTimeNorm:
    """A rule for the statistics of a batch-norm layer, mixed into the layer's own class
    (`become_`); ``normalise`` is the rule."""

    # what it finds in the layer
    running_mean: Tensor
    running_var: Tensor
    weight: Tensor
    bias: Tensor
    eps: float
    momentum: float
    register_buffer: Callable
    _check_input_dim: Callable

    __test__ = False  # not a test class, whatever pytest thinks of its name
    layer_class: type = BATCH_NORM      # what the layer is without the rule
    own_forward: Callable | None = None  # a forward that somebody put on this one layer
    commit = False
    asked = False  # whether the layer was ever called

    def normalise(self, x: Tensor, affine: Affine) -> Tensor:
        """x (B, C, *S) normalised, scaled and shifted."""
        raise NotImplementedError

    def __reduce_ex__(self, protocol):
        # a joined class has no name in a module, by which pickle could find it
        rule, layer_class = type(self).__bases__
        return _anew, (rule, layer_class), vars(self)

    def forward(self, *args, **kwargs):
        """The layer's own forward, in which the rule stands for torch's batch_norm."""
        self.asked = True
        if self.own_forward is None and self.layer_class.forward in (BATCH_NORM.forward,
                                                                     nn.SyncBatchNorm.forward):
            x = first_input(args, kwargs)
            self._check_input_dim(x)
            return self.normalise(x, Affine(self.weight, self.bias, self.eps))
        with _Redirected(self) as calls:
            y = (self.own_forward(*args, **kwargs) if self.own_forward is not None else
                 self.layer_class.forward(self, *args, **kwargs))
        if not calls.redirected:
            raise NeedsError(f"{self.layer_class.__name__} is a batch-norm layer that normalises "
                             f"by itself, without torch's batch_norm and the "
                             "statistics it stores, so they cannot be changed at test time; take "
                             "norm=SourceStatistics() (methods that set no "
                             "statistics), or a network with ordinary batch-norm layers")
        return y

    def batch(self, x: Tensor, affine: Affine) -> Tensor:
        """Normalise with mean and biased variance of this batch."""
        if lone(x):
            return self.of_one(x, affine)
        return F.batch_norm(x, None, None, affine.weight, affine.bias, True, 0.0, affine.eps)

    def of_one(self, x: Tensor, affine: Affine) -> Tensor:
        """One value per channel has no variance: normalise with the stored statistics and say so,
        or raise ValueError where none are stored."""
        if self.running_mean is None:
            raise ValueError(f"batch statistics need more than one value per channel, but this "
                             f"batch of {len(x)} gives a batch-norm layer an "
                             f"input of shape {tuple(x.shape)}, and the layer stores no "
                             f"statistics of the source; use batches of two or more "
                             "images, the last one too")
        warnings.warn("a batch-norm layer got one value per channel (a single image behind "
                      "pooling), of which there is no variance: it normalised "
                      "with the statistics stored in the source model", stacklevel=2)
        return self.with_statistics(x, self.running_mean, self.running_var, affine)

    def with_statistics(self, x: Tensor, mean: Tensor, var: Tensor, affine: Affine) -> Tensor:
        """Normalise with the given statistics."""
        return F.batch_norm(x, mean, var, affine.weight, affine.bias, False, 0.0, affine.eps)

    def absorb_(self, x: Tensor, momentum: float) -> None:
        """running <- (1 - momentum) running + momentum batch, variance unbiased (the framework's
        convention)."""
        if lone(x):
            return  # no variance to absorb
        with torch.no_grad():
            mean, var = moments(x)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_(var.to(self.running_var.dtype), momentum)


class _Redirected(TorchFunctionMode):
    """While a layer's own forward runs: torch's batch_norm on the layer's own statistics becomes
    the layer's rule."""

    def __init__(self, layer: TestTimeNorm):
        super().__init__()
        self.layer, self.redirected = layer, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in BATCH_NORM_CALLS:
            given = {
                "weight": None, "bias": None, "eps": 1e-5,
                **dict(zip(BATCH_NORM_CALLS[func], args, strict=False)), **kwargs
            }
            # not that of another layer inside this one
            if given["running_mean"] is self.layer.running_mean:
                self.redirected += 1
                return self.layer.normalise(given["input"],
                                            Affine(given["weight"], given["bias"], given["eps"]))
        return func(*args, **kwargs)


@cache
def _joined(rule: type, layer_class: type) -> type:
    return type(layer_class.__name__, (rule, layer_class),
                {"layer_class": layer_class, "__module__": layer_class.__module__})


def _anew(rule: type, layer_class: type) -> TestTimeNorm:
    joined: Any = _joined(rule, layer_class)
    return joined.__new__(joined)


def become_(layer: Any, rule: type) -> TestTimeNorm:
    """Give a batch-norm layer a rule for its statistics, in place; the layer keeps its class (as a
    base), forward, tensors and hooks."""
    layer.__class__ = _joined(rule,
                              layer.layer_class if isinstance(layer, TestTimeNorm) else type(layer))
    if "forward" in vars(layer):
        layer.own_forward = vars(layer).pop("forward")
    layer.num_batches_tracked = None  # counts training batches
    if layer.momentum is None:
        layer.momentum = 0.1  # torch: a plain average, which has no meaning for a stream
    return layer


def check_asked(model: nn.Module) -> None:
    """Raise NeedsError after a forward in which no layer with a rule was called: the statistics
    are then set nowhere."""
    layers = [m for m in model.modules() if isinstance(m, TestTimeNorm)]
    if layers and not any(m.asked for m in layers):
        raise NeedsError(f"{type(model).__name__} answered without calling one of its "
                         f"{len(layers)} batch-norm layers, so their statistics cannot be "
                         "set: its forward uses their tensors directly, or layers of the network "
                         "that it was copied from (a function put on "
                         "the object in place of a method); call the layers themselves, as "
                         "self.bn(x)")


def first_input(args: tuple, kwargs: dict):
    """What a layer of one input was called with, layer(x) or layer(input=x)."""
    return args[0] if args else next(iter(kwargs.values()))


def lone(x: Tensor) -> bool:
    """Whether (B, C, *S) holds a single value per channel."""
    return x.numel() // x.shape[1] < 2


def moments(x: Tensor, correction: int = 1) -> tuple[Tensor, Tensor]:
    """Mean and variance (unbiased by default) per channel of (B, C, *S), each (C,), in at least
    float32, no gradient."""
    dims = [d for d in range(x.ndim) if d != 1]
    var, mean = torch.var_mean(upcast(x.detach()), dims, correction=correction)
    return mean, var


class BatchRule(TestTimeNorm):
    track = False

    def normalise(self, x, affine):
        y = self.batch(x, affine)
        if self.track and self.commit and self.running_mean is not None:
            self.absorb_(x, self.momentum)
        return y


def batch_norms(model: nn.Module) -> list[BATCH_NORM]:
    """The batch-norm layers of a network, each once, however often it is used; those nearer to the
    top first."""
    layers = [model, *(child for parent in model.modules() for child in parent.children())]
    return list(dict.fromkeys(m for m in layers if isinstance(m, BATCH_NORM)))


def set_commit_(model: nn.Module, commit: bool) -> None:
    """Let the statistics of all test-time norms move in the next forwards, or not."""
    for m in model.modules():
        if isinstance(m, TestTimeNorm):
            m.commit = commit


def use_batch_statistics_(model: nn.Module) -> None:
    """Let all batch-norm layers normalise with the mean and biased variance of the current batch,
    in any mode."""
    for layer in batch_norms(model):
        become_(layer, BatchRule)
