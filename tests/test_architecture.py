"""The page that explains the house: what it shows how to add works, what it names exists."""
import os
import re
import sys
import types
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^### \.\.\. an? (.+?)$.*?^```python\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.fixture(scope="module")
def space():
    """One namespace for all blocks, known as a module: later blocks use what earlier ones made."""
    module = types.ModuleType("architecture_page")
    sys.modules[module.__name__] = module
    yield vars(module)
    del sys.modules[module.__name__]


def test_it_shows_how_to_add_each_kind_of_thing():
    assert [name for name, _ in BLOCKS] == [
        "method", "source statistic", "selector", "stream", "figure", "notebook"
    ]


@pytest.mark.parametrize("i", range(len(BLOCKS)), ids=[name for name, _ in BLOCKS])
def test_what_it_shows_works(i, space, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    for name, text in BLOCKS[space.get("_done", 0):i + 1]:
        torch.manual_seed(0)
        exec(compile(text, f"architecture.md, {name}", "exec"), space)
    space["_done"] = max(space.get("_done", 0), i + 1)


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
