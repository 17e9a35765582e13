"""The house: imports go one way, and the page shows what is there."""
import ast
import os
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
