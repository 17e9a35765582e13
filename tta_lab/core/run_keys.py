"""What the numbers of a run depend on beside its settings, as short digests for the names of a
cache: the build of a network, the code of classes."""
from __future__ import annotations

import ast
import dis
import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache, cached_property, partial
from importlib.machinery import PathFinder
from pathlib import Path
from types import MethodType, ModuleType, SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from .hashing import digest

ROOT = Path(__file__).resolve().parents[1]
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


def described(model, seen: set | None = None) -> str:
    """First 12 hex digits of the sha256 of all that a network's answers depend on: weights and
    buffers, also those that are not saved, the plain settings of its layers, its input card, hooks,
    and the code of layers that are not torch's own."""
    found = [
        digest(dict(model.named_parameters())),
        digest(dict(model.named_buffers())),
        architecture(model, seen),
    ]
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:12]


def architecture(network: nn.Module, seen: set | None = None) -> str:
    """Digest of what a network is beside its weights: modules and their settings, kinds of tensors,
    and the code of their classes."""
    seen = (seen or set()) | {id(module) for module in network.modules()}
    facts: list = []
    kinds: dict[type, None] = {}
    for name, module in network.named_modules():
        kinds[type(module)] = None
        settings = {
            k: plain(list(v.values()) if k in _OWN and isinstance(v, Mapping) else v, set(seen))
            for k, v in sorted(vars(module).items())
            if k not in ("_parameters", "_buffers", "_modules", "training", "check_input")
            and (k != "info" or not _known(type(module).__module__))  # where it came from
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
    """Digest of the code of a function and of all of the user that it uses (of torch and of this
    package the names alone)."""
    return _sha(_function(function, set()))


def nested(part) -> list:
    """A recipe or part and all the parts within it."""
    values = [getattr(part, f.name) for f in fields(part)]
    inner = [v for value in values for v in (value if isinstance(value, tuple) else (value,))]
    return [part, *(
        found for v in inner if is_dataclass(v) and not isinstance(v, type) for found in nested(v))]


def foreign(recipe) -> list[str]:
    """Code of the classes of a recipe and its parts that are not of this package."""
    return [code_of(type(p)) for p in nested(recipe) if not _known(type(p).__module__)]


def foreign_orders(stream) -> list[str]:
    """Code of the classes of a stream, of those within it and of their orders that are not of this
    package."""
    inner = [stream.stream] if hasattr(stream, "stream") else getattr(stream, "parts", ())
    kinds = [type(stream), *([type(stream.order)] if hasattr(stream, "order") else ())]
    return [code_of(kind) for kind in kinds if not _known(kind.__module__)
            ] + [code for part in inner for code in foreign_orders(part)]


def own(first: Iterable[str], skip: Iterable[str] = (), root: Path = ROOT) -> dict[str, str]:
    """Name in this package -> digest of the code, of modules and all that they import of it,
    directly or not, but those to skip; ``root`` is the folder of the package."""
    found: dict[str, str] = {}
    waiting = [f"tta_lab.{name}" for name in first]
    while waiting:
        full = waiting.pop()
        name = full.partition(".")[2]
        path = root.joinpath(*name.split("."))
        is_package = path.is_dir()
        path = path / "__init__.py" if is_package else path.with_suffix(".py")
        if not full.startswith("tta_lab.") or name in found or not path.is_file() or any(
                f"{name}.".startswith(f"{s}.") for s in skip):
            continue
        source = path.read_bytes()
        found[name], imported = _read(source, full, is_package)
        waiting += imported
        if is_package and b"find_parts" in source:  # it finds its files by itself
            waiting += [f"{full}.{p.stem}" for p in path.parent.glob("*.py") if p != path]
    return found


def source_digest(source: bytes) -> str:
    """Digest of Python source: comments, docstrings and layout do not count. Of what cannot be
    parsed, all counts."""
    return _read(source, "", False)[0]


@cache
def _read(source: bytes, name: str, is_package: bool) -> tuple[str, tuple[str, ...]]:
    """Digest of a module's source, and the full names of what it imports, at its top and inside
    functions, with the packages that hold it."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # a compiled one
        return hashlib.sha256(source).hexdigest(), ()
    parents = name.split(".") if is_package else name.split(".")[:-1]
    imported: dict[str, None] = {}
    for node in ast.walk(tree):
        base: list[str] = []
        if isinstance(node, ast.ImportFrom):
            base = [*(parents[:len(parents) - node.level + 1] if node.level else ()),
                    *(node.module.split(".") if node.module else ())]
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                parts = [*base, *alias.name.split(".")]
                imported |= dict.fromkeys(".".join(parts[:k + 1]) for k in range(len(parts)))
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(
                body[0].value, ast.Constant):
            del body[0]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tuple(imported)


def _known(module: str) -> bool:
    return module.split(".")[0] in ("torch", "tta_lab")


def of_user(module: str) -> bool:
    """Whether a module is the user's: of no installed package, not of Python, torch or this one."""
    if _known(module) or module.split(".")[0] in sys.stdlib_module_names - {"__main__"}:
        return False
    file = _file(module)
    return file is None or not {"site-packages", "dist-packages"}.intersection(file.parts)


def _file(module: str) -> Path | None:
    """The file of a module, loaded or not; nothing is imported."""
    if module in sys.modules:
        file = getattr(sys.modules[module], "__file__", None)
    else:
        spec = _spec(module)
        file = spec.origin if spec is not None and spec.has_location else None
    return Path(file).resolve() if file and Path(file).is_file() else None


def _spec(module: str):
    parent, _, _ = module.rpartition(".")
    try:
        if not parent:
            return importlib.util.find_spec(module)
        places = (getattr(sys.modules[parent], "__path__", None) if parent in sys.modules else
                  getattr(_spec(parent), "submodule_search_locations", None))
        return PathFinder.find_spec(module, places) if places else None
    except (ImportError, ValueError):
        return None


def _modules(name: str, seen: set) -> list:
    """(name, code) of a module of the user and of all of the user that it imports, wherever they
    lie. Of a script that runs the imports alone: its classes count one by one."""
    found: list = []
    waiting = [name]
    while waiting:
        name = waiting.pop()
        if name in seen or not of_user(name):
            continue
        seen.add(name)
        file = _file(name)
        if file is not None:
            code, imported = _read(file.read_bytes(), name, file.stem == "__init__")
            found.append([name, "" if name == "__main__" else code])
            waiting += imported
    return sorted(found)


def _class(kind: type, seen: set) -> list:
    found: list = [_modules(kind.__module__, seen)]
    for name, value in sorted(vars(kind).items()):
        if not name.startswith("__") or hasattr(getattr(value, "__func__", value), "__code__"):
            found += [name, plain(value, seen)]
    return found


def _function(function, seen: set) -> list:
    """The compiled code, defaults, what it closes over, and what it uses of its module and imports:
    functions, plain values, modules."""
    if id(function) in seen:
        return []
    seen.add(id(function))
    code, cells = function.__code__, []
    for cell in function.__closure__ or ():
        try:
            cells.append(plain(cell.cell_contents, seen))
        except ValueError:  # not filled yet
            cells.append("")
    used = [
        [name, plain(function.__globals__[name], seen)]
        for name in _names(code)
        if name in function.__globals__
    ]
    return [
        _code(code),
        plain(function.__defaults__, seen),
        plain(function.__kwdefaults__, seen),
        cells,
        used,
        [_modules(name, seen) for name in (function.__module__ or "", *_imports(code))],
    ]


def _imports(code) -> list[str]:
    """Full names of the modules that compiled code imports."""
    found = [i.argval for i in dis.get_instructions(code) if i.opname == "IMPORT_NAME"]
    return found + [
        name for c in code.co_consts if hasattr(c, "co_code") for name in _imports(c)]


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


def plain(value, seen: set | None = None):
    """A value as text and lists of text that are the same in every process, with the code of the
    user's functions and classes in it; of what has no such text, its kind."""
    seen = set() if seen is None else seen
    if isinstance(
        value,
        str | int | float | complex | bytes | type(None) | torch.dtype | torch.Size | torch.device,
    ):
        return repr(value)
    if isinstance(value, Tensor):
        return digest({"": value})
    if isinstance(value, np.ndarray | np.generic):
        content = plain(value.tolist(), seen) if value.dtype.hasobject else hashlib.sha256(
            value.tobytes()).hexdigest()
        return [str(value.dtype), list(value.shape), content]
    if isinstance(value, ModuleType):
        return [value.__name__, _modules(value.__name__, seen)]
    if isinstance(value, type):
        name = f"{value.__module__}.{value.__qualname__}"
        if id(value) in seen or not of_user(value.__module__):
            return name
        seen.add(id(value))
        return [name, [_class(base, seen) for base in value.__mro__ if of_user(base.__module__)]]
    if isinstance(value, MethodType):
        return [plain(value.__func__, seen), plain(value.__self__, seen)]
    if hasattr(value, "__code__"):
        return (
            f"{value.__module__}.{value.__qualname__}"
            if _known(value.__module__ or "")
            else _function(value, seen)
        )
    if id(value) in seen:
        return ""
    if isinstance(value, nn.Module):
        return described(value, seen)
    for holder, held in _HOLDERS.items():
        if isinstance(value, holder):
            return [holder.__name__, *(plain(getattr(value, name), seen) for name in held)]
    if isinstance(value, Mapping):
        seen = seen | {id(value)}
        return [[str(k), plain(v, seen)] for k, v in value.items()]
    if isinstance(value, list | tuple):
        seen = seen | {id(value)}
        return [plain(v, seen) for v in value]
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    kind = type(value)
    if is_dataclass(value):
        names = [f.name for f in fields(value)]
    elif kind is SimpleNamespace or of_user(kind.__module__):
        slots = [vars(base).get("__slots__", ()) for base in kind.__mro__]
        names = [*getattr(value, "__dict__", ()),
                 *(name for s in slots for name in ((s,) if isinstance(s, str) else s))]
    elif hasattr(value, "__wrapped__"):
        return plain(value.__wrapped__, seen)
    else:
        text = repr(value)
        return kind.__qualname__ if " at 0x" in text else text
    seen.add(id(value))
    return [plain(kind, seen), *([name, plain(getattr(value, name, None), seen)]
                                 for name in sorted(names))]


_HOLDERS: dict[type, tuple[str, ...]] = {  # kind of what wraps functions -> what it holds
    partial: ("func", "args", "keywords"),
    property: ("fget", "fset"),
    cached_property: ("func",),
    staticmethod: ("__func__",),
    classmethod: ("__func__",),
}


def _sha(values) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
