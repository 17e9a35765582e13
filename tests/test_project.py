"""What must hold for the repository as a whole: dependency lists in step, clean notebooks, light imports."""
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

import tta_lab

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(p for p in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts and "runs" not in p.parts)
MACHINE_PATH = re.compile(r"(?<![\w.~/])/(?:home|root|Users|tmp|mnt|scratch|var)/\w|\b[A-Z]:\\\\?\w")


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_pyproject_and_environment_name_the_same_packages(project):
    wanted = set(project["dependencies"])
    for group in project["optional-dependencies"].values():
        wanted |= {r for r in group if not r.startswith("tta-lab[")}
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    conda = {line.replace("pytorch>", "torch>") for line in environment if isinstance(line, str)}
    assert conda - {"pip"} == wanted | {"python" + project["requires-python"]}
    assert environment[-1] == {"pip": ["-e ."]}


def test_one_version_number(project):
    assert project["version"] == tta_lab.__version__


def test_licence(project):
    text = (ROOT / "LICENSE").read_text()
    assert project["license"] == "MIT" and text.startswith("MIT License") and "The TTA Lab authors" in text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_committed_clean(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert not [i for i, c in enumerate(code) if c.outputs or c.execution_count is not None], "clear all outputs before committing"
    assert "widgets" not in notebook.metadata and "papermill" not in notebook.metadata
    tagged = [i for i, c in enumerate(code) if "parameters" in c.metadata.get("tags", [])]
    assert tagged == [0], "the first code cell, and only that, is tagged 'parameters'"
    from tta_lab.cli.headless import parameters_of

    defaults = {p.name: p.default for p in parameters_of(notebook).values()}
    assert {"seed", "fast", "device", "interactive", "out_json"} <= set(defaults)
    assert defaults["fast"] is True and defaults["interactive"] is True and defaults["out_json"] == ""
    found = [m.group() for c in notebook.cells for m in MACHINE_PATH.finditer(c.source)]
    assert not found, f"paths of one machine: {found}"


@pytest.mark.parametrize("text, found", [("/home/ada/x", True), ("C:\\Users\\x", True), ("see /tmp/a", True), ("runs/tmp/a", False),
                                         ("https://a.org/home/b", False), ("a / b", False), ("and/or", False)])
def test_what_counts_as_a_path_of_one_machine(text, found):
    assert bool(MACHINE_PATH.search(text)) is found


def in_fresh_python(code):
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_the_package_imports_nothing_else():
    loaded = in_fresh_python("import sys, tta_lab; print(*sys.modules)")
    assert not {"torch", "numpy"} & set(loaded)


def test_public_names_are_light_and_never_modules():
    code = ("import sys, types, tta_lab.core.knobs, tta_lab\n"  # a submodule imported first must not hide the function of its name
            "values = [getattr(tta_lab, n) for n in tta_lab.__all__]\n"
            "print(*sys.modules, *['MODULE' for v in values if isinstance(v, types.ModuleType)])")
    loaded = in_fresh_python(code)
    assert "torch" in loaded and "MODULE" not in loaded
    assert not {"pandas", "matplotlib", "plotly", "ipywidgets", "papermill", "IPython", "dask", "sklearn"} & set(loaded)


def test_the_first_adapter_loads_no_torchvision():
    """It takes seconds; augmentations load it when they are first used."""
    code = ("import sys, torch\nfrom tta_lab import Adapter, load_model, make\n"
            "for name in ('tent', 'wisdom_of_crowds', 'cotta'):\n"
            "    Adapter(load_model('fashion_resnet_bn'), make(name), device='cpu')\n"
            "before = 'torchvision' in sys.modules\n"
            "Adapter(load_model('fashion_resnet_bn'), 'tent', device='cpu')(torch.rand(2, 1, 28, 28))\n"
            "print(before, 'torchvision' in sys.modules)\n"
            "from tta_lab.components.augment import ColorAffine\n"
            "ColorAffine()(torch.rand(2, 3, 8, 8), torch.Generator())\nprint('torchvision' in sys.modules)")
    assert in_fresh_python(code) == ["False", "False", "True"]


def test_unknown_public_name_lists_what_exists():
    with pytest.raises(AttributeError, match="no attribute 'adaptor'; it has: Adapter, "):
        tta_lab.adaptor  # noqa: B018


@pytest.mark.parametrize("place", ["file", "test"])
def test_a_skip_for_a_missing_package_is_a_failure_where_all_are_required(tmp_path, place):
    """In .ci/run; elsewhere it is a skip."""
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    missing = "pytest.importorskip('no_such_package')"
    (tmp_path / "test_it.py").write_text(f"import pytest\n{missing}\ndef test_it(): pass\n" if place == "file" else
                                         f"import pytest\ndef test_it():\n    {missing}\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")

    def run(**more):
        env = {k: v for k, v in os.environ.items() if k not in ("TTA_LAB_PACKAGES", "PYTEST_ADDOPTS")} | more
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(tmp_path)]
        return subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)

    assert "1 skipped" in run().stdout
    required = run(TTA_LAB_PACKAGES="required")
    assert required.returncode and "could not import 'no_such_package'" in required.stdout and "1 skipped" not in required.stdout
    assert "TTA_LAB_PACKAGES=required" in (ROOT / ".ci" / "run").read_text()
