"""Outputs of named layers, kept in passing while a network answers."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .parts import NeedsError
from .scores import upcast


def layers_named(net: nn.Module, names) -> dict[str, nn.Module]:
    """Name -> layer. Raises NeedsError for a name that the network does not have."""
    known = dict(net.named_modules(remove_duplicate=False))
    strange = [name for name in names if name not in known or not name]
    if strange:
        near = [name for name in known if name.split(".")[-1] == strange[0].split(".")[-1] and name] or [name for name in known if name]
        raise NeedsError(f"{type(net).__name__} has no layer {strange[0]!r}; it has {len(known) - 1}, such as {', '.join(near[:5])}: see "
                         "dict(model.named_modules())")
    return {name: known[name] for name in names}


@contextmanager
def kept_outputs(net: nn.Module, names) -> Iterator[dict[str, Tensor]]:
    """The outputs of these layers in the one forward that runs inside, name -> tensor, complete when it ends.

    They are copies in at least float32, with their graph: a layer behind that writes into its input (ReLU(inplace=True)) leaves them as they
    were. Raises NeedsError for unknown names, and for a layer that does not run, runs more than once or answers with no tensor.
    """
    layers, calls, found = layers_named(net, names), dict.fromkeys(names, 0), {}

    def keep(name):
        def hook(layer, args, output):
            calls[name] += 1
            found[name] = upcast(output).clone() if isinstance(output, Tensor) else output
        return hook

    handles = [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
    for name, n in calls.items():
        if n != 1:
            how = "does not run" if not n else f"runs {n} times"
            raise NeedsError(f"layer {name!r} of {type(net).__name__} {how} in a forward, so it has no one output; name other layers")
        if not isinstance(found[name], Tensor):
            raise NeedsError(f"layer {name!r} of {type(net).__name__} answers with {type(found[name]).__name__}, not a tensor; name a layer within it")


def weighted_moments(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance over the samples of x (B, *F), each (*F), with weights (B, *S) >= 0; of several places an image has their mean.

    m = sum_i w_i x_i / W,  v = sum_i w_i (x_i - m)^2 / (W - sum_i w_i^2 / W),  W = sum_i w_i: with weights 0 and 1 the usual ones of those of
    weight 1. Of one sample v is 0 without gradient, of none both are. Raises NeedsError where x has other rows than the weights.
    """
    if len(x) != len(weights):
        raise NeedsError(f"a layer gives {len(x)} rows for {len(weights)} images: its first axis is not that of the images; name another layer")
    w = weights.to(x.dtype).flatten(1).mean(1) if weights.ndim > 1 else weights.to(x.dtype)
    total = w.sum().clamp_min(torch.finfo(x.dtype).tiny)
    degrees, w = total - w.square().sum() / total, w.view(-1, *[1] * (x.ndim - 1))
    mean = (w * x).sum(0) / total
    squares = (w * (x - mean).square()).sum(0)
    return mean, torch.where(degrees > 1e-6 * total, squares / degrees.clamp_min(1e-6 * total), 0.0)
