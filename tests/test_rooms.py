"""The house: imports go one way, and the page shows what is there."""
import ast
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_imports_go_one_way():
    """The contracts in pyproject.toml: layers of packages, and no circle of files."""
    code = "from importlinter.cli import lint_imports_command as lint; lint()"
    done = subprocess.run([sys.executable, "-c", code, "--no-cache"], cwd=ROOT, text=True,
                          capture_output=True, env=dict(os.environ, PYTHONPATH=str(ROOT)))
    assert done.returncode == 0 and "0 broken" in done.stdout, done.stdout + done.stderr


def test_the_linter_sees_an_import_upwards(tmp_path):
    """The contracts are not empty: one import upwards breaks both."""
    house = tmp_path / "tta_lab"
    for name in ["__main__", "panels", "workshop", "studies", "safety", "cli", "plots", "experiments", "analysis", "streams", "methods", "models", "components", "data", "core"]:
        place = house / f"{name}.py" if name == "__main__" else house / name / "__init__.py"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    (house / "__init__.py").touch()
    (house / "data" / "sets").mkdir()
    (house / "data" / "sets" / "__init__.py").touch()
    (house / "data" / "sets" / "one.py").touch()
    (house / "core" / "__init__.py").write_text("def late():\n    from ..data import x\n")
    (house / "data" / "__init__.py").write_text("from .. import core\nx = 1\n")
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    code = "from importlinter.cli import lint_imports_command as lint; lint()"
    done = subprocess.run([sys.executable, "-c", code, "--no-cache"], cwd=tmp_path, text=True,
                          capture_output=True, env=dict(os.environ, PYTHONPATH=str(tmp_path)))
    assert done.returncode == 1 and "2 broken" in done.stdout, done.stdout
    assert "tta_lab.core is not allowed to import tta_lab.data" in done.stdout


def test_the_picture_of_the_packages_is_that_of_the_imports():
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import packages
    finally:
        sys.path.pop(0)
    assert packages.picture() in packages.PAGE.read_text(encoding="utf-8"), (
        "write it anew with: python docs/packages.py")
    lower = {name: i for i, floor in enumerate(packages.floors()) for name in floor}
    assert all(lower[a] < lower[b] for a, b in packages.imports())


def private_uses(trees):
    """(module, line, name) where a module takes a private name of another: imports it, or asks an
    object other than itself for a private attribute that only other modules of these define."""
    def private(name):
        return name.startswith("_") and not name.startswith("__")

    def defined(node):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            return node.name
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            return node.attr
        return node.id if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else ""

    own = {path: {defined(node) for node in ast.walk(tree)} for path, tree in trees.items()}
    ours = {name for names in own.values() for name in names if private(name)}
    found = []
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.level or "tta_lab" in str(node.module)):
                found += [(path, node.lineno, a.name) for a in node.names if private(a.name)]
            elif (isinstance(node, ast.Attribute) and node.attr in ours - own[path]
                  and ast.unparse(node.value) not in ("self", "cls", "super()")):
                found.append((path, node.lineno, node.attr))
    return found


def test_private_names_stay_in_their_module():
    trees = {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8"))
             for path in (ROOT / "tta_lab").rglob("*.py")}
    assert private_uses(trees) == []
    one = ast.parse("class A:\n    def _b(self):\n        self._c = 1\n\ndef _d():\n    pass\n")
    two = ast.parse("from .one import A, _d\nfrom torch import _e\nA()._b()\nA()._f()\nx._c\n")
    assert sorted(private_uses({"one": one, "two": two})) == [
        ("two", 1, "_d"), ("two", 3, "_b"), ("two", 5, "_c")]


def gone_names(trees):
    """(module, name) where a docstring has ``a.b`` in backticks that is nowhere: no attribute of a
    module whose path ends so, and ``a`` no object of the code."""
    def bound(node):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            return [node.name]
        if isinstance(node, ast.Import | ast.ImportFrom):
            return [alias.asname or alias.name for alias in node.names]
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        return [n.id for t in targets if t for n in ast.walk(t) if isinstance(n, ast.Name)]

    held = {path.replace("/", ".").removesuffix(".py").removesuffix(".__init__"):
            {name for node in tree.body for name in bound(node)} for path, tree in trees.items()}
    ends = {}
    for path, names in held.items():
        parts = path.split(".")
        for i in range(len(parts)):
            ends.setdefault(".".join(parts[i:]), set()).update(names)
        ends.setdefault(".".join(parts[:-1]), set()).add(parts[-1])
    nodes = [node for tree in trees.values() for node in ast.walk(tree)]
    objects = {*sys.stdlib_module_names, "torch", "torchvision", "numpy", "np", "matplotlib",
               "plotly"}
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            objects.add(node.name)
        elif isinstance(node, ast.arg | ast.keyword):
            objects.add(node.arg)
        elif isinstance(node, ast.Attribute) or isinstance(getattr(node, "ctx", None), ast.Store):
            objects.add(getattr(node, "attr", getattr(node, "id", "")))

    def there(name):
        parts = name.split(".")
        heads = [i for i in range(len(parts), 0, -1) if ".".join(parts[:i]) in ends]
        return parts[0] in objects or any(
            i == len(parts) or parts[i] in ends[".".join(parts[:i])] for i in heads)

    found = []
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                named = re.findall(r"`([a-z_]\w*(?:\.\w+)+)[`(]", ast.get_docstring(node) or "")
                found += [(path, n) for n in named
                          if not re.search(r"\.(py|csv|json|html|npz?|txt|bin|md|safetensors)$", n)
                          and not there(n)]
    return found


def test_names_in_docstrings_are_there():
    trees = {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8"))
             for path in (ROOT / "tta_lab").rglob("*.py")}
    assert gone_names(trees) == []
    one = ast.parse('"""`one.f`, `a.one.f(1)`, `x.y`, ``one.g``, `old.f`."""\ndef f(x):\n    pass\n')
    assert gone_names({"a/one.py": one}) == [("a/one.py", "one.g"), ("a/one.py", "old.f")]
