"""A model and images of the user's own go through every notebook; what they lack is said in one sentence."""
import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch

from tta_lab.cli import headless
from tta_lab.data.shipped import DataError
from tta_lab.models.names import built
from tta_lab.studies import own
from tta_lab.studies.collapse import study as collapse_study
from tta_lab.studies.compose import study as compose_study
from tta_lab.studies.crowds import study as crowds
from tta_lab.studies.lifelong import study as lifelong_study
from tta_lab.studies.norms import study as norm_study
from tta_lab.studies.streams import study as stream_study
from tta_lab.studies.your_model import study as your_model_study
from tta_lab.studies.zoo import study as zoo_study

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("nbformat")
NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
NETWORK = """
from torch import nn

def net(norm, classes):
    body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), norm(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), norm(16), nn.ReLU())
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes))

def four(): return net(nn.BatchNorm2d, 4)
def four_groups(): return net(lambda n: nn.GroupNorm(4, n), 4)
def ten(): return net(nn.BatchNorm2d, 10)
def bare(): return net(lambda n: nn.Identity(), 4)
"""
SMALL = {  # notebook -> parameters that keep it short
    "00_explorer": {"per_shift": 10, "batch": 10}, "01_wisdom_of_crowds": {"rounds": 2, "per_shift": 6},
    "02_streams_and_shifts": {"per_shift": 2, "batch": 8}, "03_method_zoo": {"per_shift": 2, "methods": "source, batch_norm, tent, eata"},
    "04_collapse": {"per_shift": 8, "batch": 8, "looked_at": 4}, "05_compose_your_own": {"per_shift": 20, "batch": 10},
    "06_your_model": {"per_shift": 10, "batch": 10, "limit": 20}, "07_normalisation_matters": {"per_shift": 8, "alone": 2},
    "08_lifelong": {"rounds": 2, "per_shift": 4}}


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """Texts: a folder of 60 colour pictures of four classes, 16 x 16, and networks for it; files like CIFAR-10-C, two corruptions, none clean."""
    root, rng = tmp_path_factory.mktemp("mine"), np.random.default_rng(0)
    (root / "net.py").write_text(NETWORK)
    for i in range(60):
        folder = root / "photos" / "abcd"[i % 4]
        folder.mkdir(parents=True, exist_ok=True)
        picture = rng.integers(0, 256, (16, 16, 3)) // 2 + 30 * (i % 4)
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{i:02d}.png")
    (root / "corrupted").mkdir()
    for name in ("gaussian_noise", "fog"):
        np.save(root / "corrupted" / f"{name}.npy", rng.integers(0, 256, (5 * 40, 32, 32, 3), np.uint8))
    np.save(root / "corrupted" / "labels.npy", np.tile(np.arange(40) % 10, 5))
    texts = {name: f"python:{root}/net.py:{name}" for name in ("four", "four_groups", "ten", "bare")}
    torch.save(built(f"{root}/net.py:four").state_dict(), root / "four.pt")
    texts["weights"] = f"checkpoint:{root}/four.pt?architecture={root}/net.py:four"
    return texts | {"folder": f"folder:{root}/photos", "corrupted": f"cifar10_c:{root}/corrupted"}


def run_cells(name, **parameters):
    """The code cells of a notebook with these parameters, run in this process; what they printed and the names they made."""
    import nbformat

    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    known = headless.parameters_of(notebook)
    values = headless.settled(known, parameters, False)
    scope, said = {"__name__": "cells"}, StringIO()
    with redirect_stdout(said):
        for cell in headless.with_values(notebook, values).cells:
            if cell.cell_type == "code":
                exec(compile(cell.source, f"{name}: {cell.get('id')}", "exec"), scope)
    return " ".join(said.getvalue().split()), scope


@pytest.mark.parametrize("name", SMALL)
def test_every_notebook_takes_a_network_and_a_folder(name, mine, tmp_path):
    model = mine["weights" if name.startswith("06") else "four"]
    parameters = SMALL[name] | {"model": model, "images": mine["folder"], "trust": True, "out_json": str(tmp_path / "n.json")}
    said, scope = run_cells(name, **parameters, **({"folder": str(tmp_path)} if name.startswith("06") else {}))
    numbers = json.loads((tmp_path / "n.json").read_text())
    assert model in json.dumps(numbers) or name[:2] in ("04", "05")
    assert "fashion_mnist" not in json.dumps(numbers) and " nan" not in said.lower()
    assert "fashion" not in said.lower() or name.startswith("05")        # impossible compositions are shown on embedded models
    panel = scope["panel"]
    assert panel.error is None and "Done" in panel.message + said
