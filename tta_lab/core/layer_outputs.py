"""Outputs of named layers, kept in passing while a network answers, and their moments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .arguments import WrongKind
from .parts import NeedsError
from .scores import upcast


def layer_names(value: object, who: str, write: str = "") -> tuple[str, ...]:
    """The names of layers in a tuple or list. Raises WrongKind, which says what to write, for
    anything else, a single text too."""
    names = tuple(value) if isinstance(value, tuple | list) else (value,)
    if not isinstance(value, tuple | list) or not all(isinstance(name, str) for name in names):
        example = (value,) if isinstance(value, str) else ("net.head",)
        raise WrongKind(f"{who} takes names of layers, not {value!r}; write {write}{example!r}")
    return names


def layers_named(net: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """Name -> layer. Raises NeedsError for a name that the network does not have."""
    known = dict(net.named_modules(remove_duplicate=False))
    known.pop("")
    unknown = [name for name in names if name not in known]
    if unknown:
        last = unknown[0].split(".")[-1]
        near = [name for name in known if name.split(".")[-1] == last] or list(known)
        raise NeedsError(
            f"{type(net).__name__} has no layer {unknown[0]!r}; it has {len(known)}, such as "
            f"{', '.join(near[:5])}: see dict(model.named_modules())"
        )
    return {name: known[name] for name in names}


@contextmanager
def kept_outputs(net: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """The outputs of these layers in the one forward that runs inside, complete when it ends.

    Name -> a copy in at least float32, with its graph: a layer behind that writes into its input,
    ReLU(inplace=True), leaves it as it was. Raises NeedsError for unknown names, and for a layer
    that does not run, runs more than once or answers with no tensor.
    """
    layers = layers_named(net, names)
    calls = dict.fromkeys(layers, 0)
    found: dict[str, Tensor] = {}

    def keeper(name: str) -> Callable:
        def keep(layer, args, output):
            calls[name] += 1
            found[name] = upcast(output).clone() if isinstance(output, Tensor) else output

        return keep

    handles = [layer.register_forward_hook(keeper(name)) for name, layer in layers.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
    for name, n in calls.items():
        where = f"layer {name!r} of {type(net).__name__}"
        if n != 1:
            how = f"runs {n} times" if n else "does not run"
            raise NeedsError(f"{where} {how} in a forward, so it has no one output; name others")
        if not isinstance(found[name], Tensor):
            kind = type(found[name]).__name__
            raise NeedsError(f"{where} answers with {kind}, not a tensor; name a layer within it")


def weighted_moments(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance over the samples of x (B, *F), each (*F).

    m = sum_i w_i x_i / W,  v = sum_i w_i (x_i - m)^2 / (W - sum_i w_i^2 / W),  W = sum_i w_i, with
    weights (B, *S) >= 0, of several places in an image their mean. Weights 0 and 1 give the usual
    moments of those of weight 1; of one sample v is 0 without gradient, of none m and v are.
    Raises NeedsError where x has other rows than the weights.
    """
    if len(x) != len(weights):
        raise NeedsError(
            f"a layer gives {len(x)} rows for {len(weights)} images: its first axis is not that of "
            "the images; name another layer"
        )
    w = weights.to(x.dtype)
    w = w.flatten(1).mean(1) if w.ndim > 1 else w
    total = w.sum().clamp_min(torch.finfo(x.dtype).tiny)
    degrees = total - w.square().sum() / total
    w = w.view(-1, *[1] * (x.ndim - 1))
    mean = (w * x).sum(0) / total
    squares = (w * (x - mean).square()).sum(0)
    least = 1e-6 * total
    return mean, torch.where(degrees > least, squares / degrees.clamp_min(least), 0.0)
