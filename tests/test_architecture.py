"""The page that explains the house: what it shows how to add works, what it names exists."""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^### \.\.\. an? (.+?)$.*?^```python\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the package with the files of the page, and beside it page.py, the rest."""
    root = tmp_path_factory.mktemp("house")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "tta_lab", root / "tta_lab", ignore=ignore)
    (root / "data").symlink_to(ROOT / "data")
    rest = ["import torch"]
    for name, text in BLOCKS:
        files = re.split(r"^# ((?:tta_lab|tests|notebooks)/[\w./]+).*\n", text, flags=re.M)
        assert not files[0].strip(), f"{name}: lines that are in no file"
        for place, body in zip(files[1::2], files[2::2], strict=True):
            if place.startswith("tta_lab/"):
                with open(root / place, "a", encoding="utf-8") as file:
                    file.write(f"\n\n{body}")
            else:
                rest += [f"torch.manual_seed(0)  # {place}", body]
    (root / "page.py").write_text("\n".join(rest), encoding="utf-8")
    return root


def ran(house, *command):
    found = subprocess.run([sys.executable, *command], cwd=house, capture_output=True, text=True,
                           env={**os.environ, "PYTHONPATH": str(house)})
    assert not found.returncode, found.stderr[-3000:]


def test_it_shows_how_to_add_each_kind_of_thing():
    assert [name for name, _ in BLOCKS] == [
        "method", "part of your own, outside the package", "source statistic", "selector", "stream", "figure", "notebook"
    ]


def test_what_it_shows_works(house):
    ran(house, "page.py")


FOUND = """
import pathlib
import tta_lab
assert pathlib.Path(tta_lab.__file__).parents[1] == pathlib.Path.cwd()
from tta_lab import Stream, make
from tta_lab.components.selectors import SELECTORS
from tta_lab.experiments.experiment import Experiment
from tta_lab.methods.serialise import from_json, to_json
recipe = make("collision", temperature=2.0).where(SELECTORS["clear_winner"](margin=0.4))
assert from_json(to_json(recipe)) == recipe and make("own_level").quantile == 0.5
stream = Stream(shifts=("fog",), per_shift=20, batch=10, order="RareFirst")
assert Stream.from_json(stream.to_json()) == stream
experiment = Experiment(model="fashion_resnet_bn", stream=stream, recipe=recipe)
assert Experiment.from_json(experiment.to_json()) == experiment
space = {}
exec(experiment.to_code(), space)
assert space["recipe"] == recipe and space["stream"] == stream
"""


def test_what_it_adds_is_found_by_name_in_json_and_in_code(house):
    ran(house, "-c", FOUND)


def test_every_file_it_names_is_there():
    """Paths in the text, from the root or from the package; in the table, from the row's package."""
    text = re.sub(r"^```.*?^```$", "", PAGE, flags=re.M | re.S)
    missing = []
    for line in text.splitlines():
        row = re.match(r"\| `(\w+/)`", line)
        for name in re.findall(r"`([\w/.]+(?:\.py|\.md|/))`", line):
            places = [ROOT / name, ROOT / "tta_lab" / name]
            places += [ROOT / "tta_lab" / row[1] / name] if row else []
            missing += [] if any(place.exists() for place in places) else [name]
    assert missing == []
