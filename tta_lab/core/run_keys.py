"""What the numbers of a run depend on beside its settings, as short digests for the names of a
cache: the build of a network, the code of classes."""
from __future__ import annotations

import hashlib
import json
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from .hashing import digest

_INSTALLED = Path(sysconfig.get_paths()["purelib"]).resolve()
# what every module has: tensors and inner modules are named elsewhere, of hooks the functions count
_OWN = vars(nn.Module())


def precision() -> list:
    """Version of torch and its switches that change how numbers are computed."""
    return [
        str(torch.__version__),
        torch.get_float32_matmul_precision(),
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.are_deterministic_algorithms_enabled(),
        str(torch.get_default_dtype()),
    ]


def described(model) -> str:
    """First 12 hex digits of the sha256 of all that a network's answers depend on: weights and
    buffers, also those that are not saved, the plain settings of its layers, its input card, hooks,
    and the code of layers that are not torch's own."""
    found = [
        digest(dict(model.named_parameters())),
        digest(dict(model.named_buffers())),
        architecture(model),
    ]
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:12]


def architecture(network: nn.Module) -> str:
    """Digest of what a network is beside its weights: modules and their settings, kinds of tensors,
    and the code of their classes."""
    facts: list = []
    kinds: dict[type, None] = {}
    for name, module in network.named_modules():
        kinds[type(module)] = None
        settings = {
            k: _plain(list(v.values()) if k in _OWN and isinstance(v, Mapping) else v)
            for k, v in sorted(vars(module).items())
            if k not in ("_parameters", "_buffers", "_modules", "training", "check_input")
        }
        facts.append([name, type(module).__qualname__, settings])
    for name, tensor in (
        *network.named_parameters(remove_duplicate=False),
        *network.named_buffers(remove_duplicate=False),
    ):
        facts.append([name, str(tensor.dtype), list(tensor.shape)])
    return _sha([facts, sorted(code_of(kind) for kind in kinds)])


def code_of(kind: type) -> str:
    """Digest of the code of a class, of those that it derives from and of the functions and plain
    values that it uses. Of torch and of this package the names alone: their versions are part of a
    key."""
    seen: set = set()
    return _sha(
        [
            [
                f"{base.__module__}.{base.__qualname__}",
                *([] if _known(base.__module__) else [_class(base, seen)]),
            ]
            for base in kind.__mro__[:-1]
        ]
    )


def maker_code(function) -> str:
    """Digest of the code of a function and of the functions that it calls by name, of this package
    too (of torch the names alone)."""
    waiting, found = [function], {}
    while waiting:
        function = waiting.pop()
        name = f"{function.__module__}.{function.__qualname__}"
        if name not in found:
            found[name] = _function(function, set())
            used = (function.__globals__.get(n) for n in _names(function.__code__))
            waiting += [
                f
                for f in used
                if hasattr(f, "__code__") and (f.__module__ or "").startswith("tta_lab.")
            ]
    return _sha(sorted(found.items()))


def foreign(recipe) -> list[str]:
    """Code of the classes of a recipe and its parts that are not of this package."""
    inner = []
    for f in fields(recipe):
        value = getattr(recipe, f.name)
        inner += [
            v
            for v in (value if isinstance(value, tuple) else (value,))
            if is_dataclass(v) and not isinstance(v, type)
        ]
    own = [] if _known(type(recipe).__module__) else [code_of(type(recipe))]
    return own + [code for part in inner for code in foreign(part)]


def foreign_orders(stream) -> list[str]:
    """Code of the classes of a stream's orders that are not of this package."""
    if hasattr(stream, "parts"):
        return [code for part in stream.parts for code in foreign_orders(part)]
    if hasattr(stream, "order"):
        return [] if _known(type(stream.order).__module__) else [code_of(type(stream.order))]
    return foreign_orders(stream.stream) if hasattr(stream, "stream") else []


def _known(module: str) -> bool:
    return module.split(".")[0] in ("torch", "tta_lab")


def of_user(module: str) -> bool:
    """Whether a module is the user's: of no installed package, not of Python, torch or this one."""
    if _known(module) or module.split(".")[0] in sys.stdlib_module_names - {"__main__"}:
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is None or not Path(file).resolve().is_relative_to(_INSTALLED)


def _module(module: ModuleType, seen: set) -> list:
    """Name and source of a module of the user, and of those of the user that it uses, wherever they
    lie; of others the name."""
    name = module.__name__
    if id(module) in seen or not of_user(name):
        return [name]
    seen.add(id(module))
    file = getattr(module, "__file__", None)
    source = Path(file).read_bytes() if file and Path(file).is_file() else b""
    inner = []
    for _, value in sorted(vars(module).items()):
        other = value if isinstance(value, ModuleType) else sys.modules.get(
            getattr(value, "__module__", None) or "")
        if other is not None and other is not module and of_user(other.__name__):
            inner.append(_module(other, seen))
    return [name, hashlib.sha256(source).hexdigest(), inner]


def _class(kind: type, seen: set) -> list:
    found = []
    for name, value in sorted(vars(kind).items()):
        value = getattr(value, "__func__", getattr(value, "fget", value))
        if hasattr(value, "__code__"):
            found += [name, _function(value, seen)]
        elif not name.startswith("__"):
            found += [name, _plain(value, seen)]
    return found


def _function(function, seen: set) -> list:
    """The compiled code, defaults, what it closes over, and what it uses of its module: functions
    and plain values."""
    if id(function) in seen:
        return []
    seen.add(id(function))
    code, cells = function.__code__, []
    for cell in function.__closure__ or ():
        try:
            cells.append(_plain(cell.cell_contents, seen))
        except ValueError:  # not filled yet
            cells.append("")
    used = [
        [name, _plain(function.__globals__[name], seen)]
        for name in _names(code)
        if name in function.__globals__
    ]
    return [
        _code(code),
        _plain(function.__defaults__, seen),
        _plain(function.__kwdefaults__, seen),
        cells,
        used,
    ]


def _names(code) -> list[str]:
    return sorted(
        {
            *code.co_names,
            *(name for c in code.co_consts if hasattr(c, "co_code") for name in _names(c)),
        }
    )


def _code(code) -> list:
    """What a compiled function does, without where it stands."""
    consts = [
        _code(c)
        if hasattr(c, "co_code")
        else sorted(map(repr, c))
        if isinstance(c, frozenset)
        else repr(c)
        for c in code.co_consts
    ]
    return [
        code.co_code.hex(),
        consts,
        list(code.co_names),
        list(code.co_varnames),
        list(code.co_freevars),
        list(sys.version_info[:2]),
    ]


def _plain(value, seen: set | None = None):
    """A value as text that is the same in every process; of what has no such text, its kind."""
    seen = set() if seen is None else seen
    if isinstance(
        value,
        str | int | float | complex | bytes | type(None) | torch.dtype | torch.Size | torch.device,
    ):
        return repr(value)
    if isinstance(value, Tensor):
        return digest({"": value})
    if isinstance(value, ModuleType):
        return _module(value, seen)
    if isinstance(value, type):
        name = f"{value.__module__}.{value.__qualname__}"
        if id(value) in seen or not of_user(value.__module__):
            return name
        seen.add(id(value))
        return [name, [_class(base, seen) for base in value.__mro__ if of_user(base.__module__)]]
    if hasattr(value, "__code__"):
        return (
            f"{value.__module__}.{value.__qualname__}"
            if _known(value.__module__ or "")
            else _function(value, seen)
        )
    if id(value) in seen:
        return ""
    if isinstance(value, Mapping):
        seen = seen | {id(value)}
        return [[str(k), _plain(v, seen)] for k, v in value.items()]
    if isinstance(value, list | tuple):
        seen = seen | {id(value)}
        return [_plain(v, seen) for v in value]
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if is_dataclass(value):
        seen = seen | {id(value)}
        return [
            type(value).__qualname__,
            *([f.name, _plain(getattr(value, f.name, None), seen)] for f in fields(value)),
        ]
    return type(value).__qualname__


def _sha(values) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
