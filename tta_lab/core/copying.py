"""The adapter's own copy of a network: made whole, in a precision in which it can learn, or
refused with the remedy."""
from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from .parts import NeedsError

FULL = (torch.float32, torch.float64)


def own_copy(model: nn.Module) -> nn.Module:
    """A copy of a network that can be adapted: in eval mode, frozen, not compiled, without
    wrappers for several devices.

    Half precision (float16, bfloat16, float8) becomes float32, since a step of 1e-3 is lost in it
    and the squares of an optimiser are 0 or infinite; float32 and float64 stay. Raises NeedsError
    for what cannot be copied or traced (TorchScript, quantised layers, layers without shapes,
    tensors on the meta device) and for weights that are not finite.
    """
    model = unwrapped(model)
    for name, p in (*model.named_parameters(), *model.named_buffers()):
        _check_tensor(name, p)
    copy = whole_copy(model)
    if any(t.is_floating_point() and t.dtype not in FULL
           for t in (*copy.parameters(), *copy.buffers())):
        copy = copy.float()
    with torch.no_grad():
        for module in copy.modules():
            for hook in module._forward_pre_hooks.values():
                if isinstance(hook, WeightNorm | SpectralNorm):
                    # else their weight is that of before the last
                    # load_state_dict until a forward
                    hook(module, ())
    return copy.requires_grad_(False)


def whole_copy(model: nn.Module) -> nn.Module:
    """A copy of a network in eval mode, not compiled, without wrappers. Raises NeedsError for what
    cannot be copied or traced."""
    model = unwrapped(model)
    for path, module in model.named_modules():
        _check_kind(path, module)
    # a tensor that was computed from others (the weight under weight norm or spectral norm)
    # cannot be copied with its history, and need not
    computed = {
        id(t): t.detach().clone() for m in model.modules() for t in _tensors(vars(m))
        if t.grad_fn is not None
    }
    try:
        copy = deepcopy(model, computed)
    except Exception as why:
        raise NeedsError(f"{type(model).__name__} cannot be copied ({type(why).__name__}: {why}), "
                         f"and an adapter works on a copy of its own; "
                         "remove what holds open files, locks, processes or hooks to them, or "
                         "build the network anew and load its weights") from why
    for parent in list(copy.modules()):
        for name, child in list(parent.named_children()):
            if unwrapped(child) is not child:
                setattr(parent, name, unwrapped(child))
    try:
        copy.eval()  # what it returns is not asked: a train() of one's own easily forgets it
    except NotImplementedError as why:  # torch.export
        raise NeedsError(f"{type(model).__name__} has no eval mode ({why}); an exported program "
                         f"is fixed: adapt the network that it was made "
                         "from") from why
    return copy


def precision_of(model: nn.Module) -> torch.dtype:
    """The number type of a network's weights (of its buffers where it has none): that of the
    images it is fed."""
    return next((t.dtype for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()),
                torch.float32)


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside torch.compile, DataParallel or DistributedDataParallel."""
    while True:
        inside = getattr(model, "_orig_mod", None)
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inside, nn.Module):
            model = inside
        else:
            return model


def _check_kind(path: str, module: nn.Module) -> None:
    """Raise NeedsError for a layer whose inside torch does not show."""
    where = f"{type(module).__name__}{f' at {path!r}' if path else ''}"
    if isinstance(module, torch.jit.ScriptModule):
        raise NeedsError(f"{where} is TorchScript, whose layers cannot be changed or copied "
                         f"apart; build the network in Python and load its "
                         "weights (loaded.state_dict() has them)")
    if ".quantized" in type(module).__module__:
        raise NeedsError(f"{where} is quantised, which has no gradients and fixed statistics; "
                         f"adapt the float network that it was made from, "
                         "and quantise the adapted one")


def _check_tensor(name: str, t: Tensor) -> None:
    if is_lazy(t):
        raise NeedsError(f"the layer of {name!r} has no shape yet (a lazy layer); send one batch "
                         f"through the network first")
    if t.is_meta:
        raise NeedsError(f"{name!r} is on the meta device and has no values; load the weights "
                         f"first")
    if t.is_quantized:
        raise NeedsError(f"{name!r} is quantised, which has no gradients; adapt the float network "
                         f"that it was made from")
    if t.is_floating_point() and (~torch.isfinite(t.detach().float())).any() and (isinstance(
            t, nn.Parameter) or torch.isnan(t.float()).any()):
        raise NeedsError(f"{name!r} of the model holds NaN or infinite numbers, so it can answer "
                         f"nothing; load another checkpoint" +
                         (", or the weights in float32: half precision ends at 65 504" if t.dtype ==
                          torch.float16 else ""))


def _tensors(value) -> Iterator[Tensor]:
    """The tensors in a module's attributes, in lists, tuples and dicts too; not those of its
    children."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for v in value.values():
            yield from _tensors(v)
    elif isinstance(value, list | tuple):
        for v in value:
            yield from _tensors(v)


def linked_copy(model: nn.Module) -> nn.Module:
    """A copy with its own modules and buffers that shares the parameter tensors."""
    return deepcopy(model, {id(p): p for p in model.parameters()})


def own_parameters_(model: nn.Module,
                    chosen: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Replace the chosen parameters of a linked copy by trainable clones, wherever they appear."""
    first: dict[int, str] = {}  # a parameter under two names is one, by its first name
    for name, p in chosen.items():
        first.setdefault(id(p), name)
    chosen = {name: chosen[name] for name in first.values()}
    clones = {id(p): nn.Parameter(p.detach().clone()) for p in chosen.values()}
    for module in model.modules():
        for name, own in module._parameters.items():
            if own is not None and id(own) in clones:
                module._parameters[name] = clones[id(own)]
    return {name: clones[id(p)] for name, p in chosen.items()}


def device_of(model: nn.Module, device: torch.device | str) -> torch.device:
    """The device asked for; "auto" is the model's accelerator, else CUDA if there is one, else the
    CPU. Raises ValueError for one that this machine does not have."""
    if device == "auto":
        own = next((t.device for t in (*model.parameters(), *model.buffers())),
                   torch.device("cpu"))
        if own.type not in ("cpu", "meta"):
            return own
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(0, device=device).device
    except Exception as why:
        unseen = "cuda" in str(device) and not torch.cuda.is_available()
        raise ValueError(f"device must be 'auto' or a device of this machine, such as 'cpu' or "
                         f"'cuda', not {device!r}"
                         f"{' (torch sees no CUDA device)' if unseen else ''}") from why
