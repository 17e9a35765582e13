"""Parts of your own: classes of a notebook (`part`), of files (`use`) and of installed packages
(entry points), in the lists beside those of this package.

Files and packages are read late: when a list is gone through, or a name is not found. A file is
code, and is run only because you named it.
"""
from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from .parts import Part
from .registry import defined_in, listed_name, without_default

WITH = "TTA_LAB_WITH"  # files of parts for this process and those that it starts
GROUP = "tta_lab.parts"  # of entry points: modules, or classes


class PartError(ValueError):
    """A part of your own that cannot be listed, or a file of parts that cannot be used."""


@dataclass
class _Own:
    kinds: dict[str, type] = field(default_factory=dict)  # name of the class -> class
    files: dict[Path, tuple[str, str]] = field(default_factory=dict)  # -> module, digest
    changes: int = 0  # counted
    complete: bool = False
    told: list[Callable] = field(default_factory=list)


_own = _Own()


class Listing(Mapping):
    """Name -> class of the parts of an interface: ``builtin``, those of this package, then yours.
    ``by_class``: the names are those of the classes."""

    def __init__(self, builtin: Mapping[str, Any], interface: type = Part, by_class: bool = False):
        self.builtin = dict(builtin)
        self.interface, self.by_class = interface, by_class

    def name_of(self, kind: type) -> str:
        """What this list calls a class."""
        return kind.__name__ if self.by_class else listed_name(kind)

    def own(self) -> dict[str, Any]:
        """Yours alone."""
        complete()
        return {self.name_of(kind): kind for kind in _own.kinds.values()
                if issubclass(kind, self.interface)}

    def __getitem__(self, name):
        return self.builtin[name] if name in self.builtin else self.own()[name]

    def __contains__(self, name) -> bool:
        return name in self.builtin or name in self.own()

    def __iter__(self) -> Iterator[str]:
        return iter((*self.builtin, *self.own()))

    def __len__(self) -> int:
        return len(self.builtin) + len(self.own())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({dict(self)!r})"


def part(kind: type) -> type:
    """Class decorator: puts a part of your own into all lists of this session, under its name in
    snake case. ::

        @part
        @dataclass(frozen=True, kw_only=True)
        class Mine(LossMethod): ...

    A class that is defined again takes the place of the one before. Raises PartError for a class
    that is no part, is no frozen dataclass, cannot be made without arguments, or has a name that is
    taken; nothing is listed then.
    """
    complete()
    check_listable(kind)
    before = dict(_own.kinds)
    _add(kind)
    if _own.kinds != before:
        _tell()
    return kind


def use(file: str | os.PathLike) -> tuple[str, ...]:
    """Run a Python file and put its parts into all lists, also those of processes started from
    here: the names under which they are listed.

    A file is code: it can do all that you can. Its parts are the classes that it defines whose name
    does not begin with _; they need no decorator. Used again, a file that has changed is read
    anew. Raises PartError, naming file and line, for a file that is missing, fails or holds no
    part; nothing is listed then.
    """
    complete()
    names = _use(file)
    os.environ[WITH] = os.pathsep.join(map(str, _own.files))
    return names


@contextmanager
def kept() -> Iterator[None]:
    """Lists, files and TTA_LAB_WITH at the end as they were at the start."""
    before = dict(_own.kinds), dict(_own.files), _own.complete, os.environ.get(WITH)
    try:
        yield
    finally:
        changed = before[0] != _own.kinds
        _own.kinds, _own.files, _own.complete = before[:3]
        if before[3] is None:
            os.environ.pop(WITH, None)
        else:
            os.environ[WITH] = before[3]
        if changed:
            _tell()


def used_files() -> tuple[str, ...]:
    """Paths of the files of parts that are used here."""
    complete()
    return tuple(map(str, _own.files))


def changes() -> int:
    """How often parts of your own have changed: what is kept of lists belongs to this number."""
    complete()
    return _own.changes


def tell(function: Callable[[tuple[type, ...]], None]) -> None:
    """Call a function with all parts of your own, now and whenever they change."""
    _own.told.append(function)
    function(tuple(_own.kinds.values()))


def origin(kind: type) -> str:
    """The file of `use` that a class came from, or ""."""
    return next((str(path) for path, (module, _) in _own.files.items()
                 if module == kind.__module__), "")


def is_listed(kind: type) -> bool:
    """Whether a class of your own is the one that lists have under its name."""
    complete()
    return _own.kinds.get(kind.__name__) is kind


def complete() -> None:
    """Read the files that TTA_LAB_WITH names and the packages that declare parts, once. Raises
    PartError for a file; a package that fails is named in a warning."""
    if _own.complete:
        return
    _own.complete = True  # also while they are read, which may go through lists
    try:
        for file in filter(None, os.environ.get(WITH, "").split(os.pathsep)):
            try:
                _use(file)
            except PartError as why:
                raise PartError(f"{why} (the environment variable {WITH} names it)") from why
    except PartError:
        _own.complete = False
        raise
    for entry in sorted(entry_points(group=GROUP), key=lambda e: (e.name, e.value)):
        before = dict(_own.kinds)
        try:
            found = entry.load()
            kinds = [found] if isinstance(found, type) else defined_in(found, Part)
            if not kinds:
                raise PartError(f"{entry.value} holds no part")
            for kind in kinds:
                check_listable(kind)
                _add(kind)
        except Exception as why:  # code of others
            _own.kinds = before
            package = entry.dist.name if entry.dist else "an installed package"
            warnings.warn(f"the parts {entry.name!r} of {package} ({entry.value}) are left out: "
                          f"{type(why).__name__}: {why}", stacklevel=3)
            continue
        _tell()


# --- one class ----------------------------------------------------------------------------------

def check_listable(kind: type) -> None:
    """Raises PartError, with the remedy, for a class that cannot be listed."""
    if not isinstance(kind, type) or not issubclass(kind, Part):
        what = f"the class {kind.__name__}" if isinstance(kind, type) else repr(kind)
        raise PartError(f"{what} is no part; derive it from LossMethod, Method, Selector, Penalty, "
                        f"Controller, Norm, Train or Update of tta_lab.core.parts")
    name = kind.__name__
    if name.startswith("_"):
        raise PartError(f"{name} begins with _, which keeps a class out of lists; give it another "
                        f"name, or leave @part out")
    if "__dataclass_fields__" not in vars(kind):
        raise PartError(f"{name} is no dataclass; write @dataclass(frozen=True, kw_only=True) "
                        f"directly above the class, below @part")
    bare = without_default(kind)
    if bare:
        raise PartError(f"{name} must be made without arguments, but these fields have no default: "
                        f"{', '.join(bare)}; give them one, such as "
                        f"{bare[0]}: {'Norm = BatchStatistics()' if bare[0] == 'norm' else '...'}"
                        f"{'' if bare[0] == 'norm' else ' = knob(1.0, (0.0, 10.0), what it does)'}")
    try:
        kind()
    except Exception as why:
        raise PartError(f"{name}() cannot be made: {type(why).__name__}: {why}") from why
    shown = listed_name(kind)
    if not isinstance(shown, str) or not shown.isidentifier():
        raise PartError(f"{name} would be listed as {shown!r}, which is no plain name; let name be "
                        f"letters, digits and _, or leave it out")


def _listings() -> list[Listing]:
    """All lists; of higher floors, so found by name and late."""
    serialise = importlib.import_module("tta_lab.methods.serialise")
    return [serialise.PARTS, serialise.METHODS, serialise.SELECTORS]


def _add(kind: type) -> None:
    if _own.kinds.get(kind.__name__) is kind:
        return
    for listing in _listings():
        name = listing.name_of(kind)
        if issubclass(kind, listing.interface) and name in listing.builtin:
            raise PartError(f"the name {name!r} is that of a part of TTA Lab, "
                            f"{listing.builtin[name].__module__}; give your class {kind.__name__} "
                            f"another name")
    for other in list(_own.kinds.values()):
        same = other.__name__ == kind.__name__ or listed_name(other) == listed_name(kind)
        if same and "__main__" != kind.__module__ != other.__module__ != "__main__":
            raise PartError(f"there are two parts {listed_name(kind)!r}, {other.__qualname__} of "
                            f"{other.__module__} and {kind.__qualname__} of {kind.__module__}; "
                            f"rename one of them")
        if same:
            del _own.kinds[other.__name__]
    _own.kinds[kind.__name__] = kind


def _tell() -> None:
    _own.changes += 1
    for function in _own.told:
        function(tuple(_own.kinds.values()))


# --- one file -----------------------------------------------------------------------------------

def _use(file: str | os.PathLike) -> tuple[str, ...]:
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise PartError(f"there is no file {path}; name a Python file with a class of your own, "
                        f"such as my_method.py")
    name = path.stem
    if path.suffix != ".py" or not name.isidentifier():
        raise PartError(f"{path} cannot be used: its name must be letters, digits and _ before "
                        f".py, as my_method.py")
    there = _module_file(name)
    if there not in (None, path):
        raise PartError(f"{path} cannot be used: there is another module {name!r}, {there}; give "
                        f"your file another name")
    try:
        source = path.read_bytes()
    except OSError as why:
        raise PartError(f"{path} cannot be read ({why})") from why
    digest = hashlib.sha256(source).hexdigest()
    kinds, old, modules = dict(_own.kinds), sys.modules.get(name), dict(_own.files)
    known = _own.files.get(path)
    try:
        if old is None or known is not None and known[1] != digest:
            module = _run(path, name)
        else:
            module = old
        found = defined_in(module, Part)
        if not found:
            raise PartError(f"{path} holds no part: no class in it derives from LossMethod, "
                            f"Selector or another class of tta_lab.core.parts (a name that begins "
                            f"with _ does not count)")
        _own.kinds = {n: k for n, k in _own.kinds.items()  # those that it no longer has
                      if k.__module__ != name or k in found}
        for kind in found:
            try:
                check_listable(kind)
                _add(kind)
            except PartError as why:
                raise PartError(f"{path}, line {_line(source, kind)}: {why}") from why
    except BaseException:
        _own.kinds, _own.files = kinds, modules
        if old is None:
            sys.modules.pop(name, None)
        else:
            sys.modules[name] = old
        raise
    _own.files[path] = (name, digest)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # what unpickles a part imports its module
    if _own.kinds != kinds:
        _tell()
    return tuple(map(listed_name, found))


def _module_file(name: str) -> Path | None | str:
    """The file of a module of this name, loaded or not; a text for one without file."""
    if name in sys.modules:
        file = getattr(sys.modules[name], "__file__", None)
    else:
        spec = importlib.util.find_spec(name)
        if spec is None:
            return None
        file = spec.origin if spec.has_location else None
    return Path(file).resolve() if file else "of Python itself"


def _run(path: Path, name: str):
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        code = compile(path.read_bytes(), str(path), "exec")
        exec(code, vars(module))
    except SyntaxError as why:
        where = f"{why.filename or path}, line {why.lineno}"
        raise PartError(f"{where}: SyntaxError: {why.msg}") from why
    except Exception as why:
        lines = [f.lineno for f in traceback.extract_tb(why.__traceback__)
                 if f.filename == str(path)]
        where = f"{path}, line {lines[-1]}" if lines else str(path)
        raise PartError(f"{where}: {type(why).__name__}: {why}") from why
    return module


def _line(source: bytes, kind: type) -> int:
    """The line in which a class is defined."""
    return next((node.lineno for node in ast.walk(ast.parse(source))
                 if isinstance(node, ast.ClassDef) and node.name == kind.__name__), 1)
