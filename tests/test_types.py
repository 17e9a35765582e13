"""The contract that authors of methods read: typed, and its examples run."""
import doctest
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tta_lab.core import parts

ROOT = Path(__file__).resolve().parents[1]


def checked(*options, **more):
    return subprocess.run([sys.executable, "-m", "mypy", *options], cwd=ROOT, text=True,
                          capture_output=True, env=dict(os.environ, **more))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("mypy"))


def test_the_types_agree(cache):
    """The settings of pyproject.toml: no error in core, components and methods."""
    done = checked("--cache-dir", cache)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_wrong_selector_is_an_error(cache, tmp_path):
    """The check is not empty: it sees a selector of another signature and an update that is no
    Update."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from torch import Tensor\n"
                     "from tta_lab.core.parts import NormAffine, Selector, Update\n"
                     "class Bad(Selector):\n"
                     "    def weights(self, ctx: int, losses: Tensor, keep: Tensor,\n"
                     "                state: dict) -> Tensor:\n"
                     "        return losses\n"
                     "update: Update = NormAffine()\n")
    done = checked("--cache-dir", cache, str(wrong), MYPYPATH=str(ROOT))
    assert done.returncode == 1 and "[override]" in done.stdout, done.stdout + done.stderr
    assert "[assignment]" in done.stdout and "Found 2 errors in 1 file" in done.stdout


@pytest.mark.parametrize("kind", [parts.Selector, parts.Controller, parts.LossMethod])
def test_the_example_runs(kind):
    """A selector, a controller and a method of one line of loss, as their docstrings show them."""
    example, = doctest.DocTestFinder(recurse=False).find(kind, kind.__name__, globs=vars(parts))
    said = []
    result = doctest.DocTestRunner().run(example, out=said.append)
    assert result.attempted > 3 and not result.failed, "".join(said)
