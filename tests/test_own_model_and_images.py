"""A model and images of the user's own go through every notebook; what they lack is said in one
sentence."""
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
from tta_lab.studies.collapse import evaluation as collapse_evaluation
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
    "08_lifelong": {"rounds": 2, "per_shift": 4},
    "09_add_your_own_method": {"per_shift": 10, "batch": 10}}


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """Texts: a folder of 60 colour pictures of four classes, 16 x 16, and networks for it; files
    like CIFAR-10-C, two corruptions, none clean."""
    root = tmp_path_factory.mktemp("mine")
    rng = np.random.default_rng(0)
    (root / "net.py").write_text(NETWORK)
    for i in range(60):
        folder = root / "photos" / "abcd"[i % 4]
        folder.mkdir(parents=True, exist_ok=True)
        picture = rng.integers(0, 256, (16, 16, 3)) // 2 + 30 * (i % 4)
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{i:02d}.png")
    (root / "corrupted").mkdir()
    for name in ("gaussian_noise", "fog"):
        np.save(root / "corrupted" / f"{name}.npy",
                rng.integers(0, 256, (5 * 40, 32, 32, 3), np.uint8))
    np.save(root / "corrupted" / "labels.npy", np.tile(np.arange(40) % 10, 5))
    texts = {name: f"python:{root}/net.py:{name}"
             for name in ("four", "four_groups", "ten", "bare")}
    torch.save(built(f"{root}/net.py:four").state_dict(), root / "four.pt")
    texts["weights"] = f"checkpoint:{root}/four.pt?architecture={root}/net.py:four"
    return texts | {"folder": f"folder:{root}/photos", "corrupted": f"cifar10_c:{root}/corrupted"}


def run_cells(name, **parameters):
    """The code cells of a notebook with these parameters, run in this process; what they printed
    and the names they made."""
    import nbformat

    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    known = headless.parameters_of(notebook)
    values = headless.settled(known, parameters, False)
    scope = {"__name__": "cells"}
    said = StringIO()
    with redirect_stdout(said):
        for cell in headless.with_values(notebook, values).cells:
            if cell.cell_type == "code":
                exec(compile(cell.source, f"{name}: {cell.get('id')}", "exec"), scope)
    return " ".join(said.getvalue().split()), scope


@pytest.mark.parametrize("name, model",
                         [*((name, "four") for name in SMALL), ("06_your_model", "weights")])
def test_every_notebook_takes_a_network_and_a_folder(name, model, mine, tmp_path):
    model = mine[model]
    parameters = SMALL[name] | {"model": model, "images": mine["folder"], "trust": True,
                                "out_json": str(tmp_path / "n.json")}
    said, scope = run_cells(name, **parameters,
                            **({"folder": str(tmp_path)} if name.startswith("06") else {}))
    numbers = json.loads((tmp_path / "n.json").read_text())
    assert model in json.dumps(numbers) or name[:2] in ("04", "05")
    assert "fashion_mnist" not in json.dumps(numbers) and " nan" not in said.lower()
    # impossible compositions are shown on embedded models
    assert "fashion" not in said.lower() or name.startswith("05")
    panel = scope["panel"]
    assert panel.error is None and "Done" in panel.message + said


def test_the_zoo_of_one_method_has_the_source_beside_it(mine):
    said, scope = run_cells("03_method_zoo", model=mine["four"], images=mine["folder"], trust=True,
                            per_shift=2, methods="tent", streams="continual")
    assert set(scope["zoo"].methods()) == {"source", "tent"} and zoo_study.NO_SOURCE in said
    assert scope["panel"].error is None


# --- what cannot be is said in a sentence

@pytest.mark.parametrize(
    "model, images, trust, words",
    [("four", "folder", False,
      "which would be run with all your rights: look into it, and if you trust it, set trust=True"),
     ("bare", "folder", True, "do not go together in these studies"),
     ("ten", "folder", True, "has 4 class folders"),
     ("four", "corrupted", True, "the model has 4 outputs, the images of .* have 10 classes"),
     ("", "corrupted", True, "got images of shape"),
     ("four", "40", True, "images names an image set, as in .*, not a number of them"),
     ("four", "folder:/nowhere/at/all", True, "is not there"),
     ("nobody", "", True, "names no model")])
def test_what_does_not_go_together_is_said_before_anything_runs(model, images, trust, words, mine):
    texts = mine.get(model, model), mine.get(images, images)
    for plan_of in (crowds.Plan.of, stream_study.Plan.of, norm_study.Plan.of,
                    lifelong_study.Plan.of, compose_study.Ground.of):
        with pytest.raises((ValueError, DataError), match=words):
            plan_of(True, model=texts[0], images=texts[1], trust=trust)
    for plan_of in (zoo_study.Ground.of, lambda *a: collapse_study.setting_of("tent", *a)):
        with pytest.raises((ValueError, DataError), match=words):
            plan_of(*texts, trust)


def test_images_without_labels_are_refused_where_errors_are_counted(mine, tmp_path):
    for i in range(3):
        Image.fromarray(np.full((16, 16, 3), 80 * i, np.uint8)).save(tmp_path / f"{i}.png")
    with pytest.raises(ValueError, match="3 of the 3 images of .* have no label, and this study "
                                         "counts errors; the explorer"):
        own.pair_of(mine["four"], f"folder:{tmp_path}", trust=True)


def test_what_corrupted_images_lack_is_left_out_with_a_sentence(mine):
    texts = {"model": mine["ten"], "images": mine["corrupted"], "trust": True}
    crowd, streams, lifelong = (study.Plan.of(True, **texts)
                                for study in (crowds, stream_study, lifelong_study))
    assert (crowd.shifts == ("gaussian_noise",) and crowd.settings == ("closed",)
            and crowd.per_shift == 40)
    assert "The open set is left out: known images" in crowd.describe().replace("\n    ", " ")
    assert ({"open_set", "ccc"} == set(streams.without) and stream_study.check(streams) is None
            and "clean=" in stream_study.say_report(None))
    assert streams.shifts == ("gaussian_noise", "fog") and not streams.norms and list(
        streams.streams(0))[0] == "reset_each_shift"
    assert (lifelong.clean == 0 and lifelong.groups == (("gaussian_noise",), ("fog",))
            and "eata_large" not in lifelong.arms)
    told = " ".join(lifelong.notes)
    assert ("Left out: EATA (large), which must be prepared on source images" in told
            and "no clean ones, so what is forgotten" in told)
    assert ("defocus blur" in told
            and "Other images at the second visit: only as far as 40 images last" in told)
    setting, notes = collapse_study.setting_of("tent", *texts.values())
    assert setting.clean == "gaussian_noise" and "those under gaussian noise are shown" in " ".join(
        notes)
    assert {batch.severity.unique().item() for batch in collapse_study.STREAMS["clean"][1](
                setting.images, shifts=(setting.clean,), per_shift=8, batch=8)} == {5.0}
    with pytest.raises(ValueError,
                       match="doctor and safety report look at clean images, and these are none"):
        your_model_study.open_case(mine["ten"], mine["corrupted"], trust=True)


def test_models_without_batch_norm_have_the_source_for_bn_1(mine):
    plan = crowds.Plan.of(True, model=mine["four_groups"], images=mine["folder"], trust=True)
    assert type(plan.arms()["batch_norm"]).__name__ == "Source" and own.NO_BATCH_NORM in plan.notes
    norms = norm_study.Plan.of(True, model=mine["four_groups"], images=mine["folder"], trust=True)
    assert (norms.kinds == ["GN"] and norms.watched == mine["four_groups"]
            and norm_study.NO_BATCH_NORM in norms.notes)
    assert set(norms.recipes(norms.sources[0], "mild")) == {"source", "tent", "sar", "deyo"}


def test_no_stored_number_is_shown_for_others(mine):
    setting, _ = collapse_study.setting_of("tent", mine["four"], mine["folder"], True)
    assert (collapse_evaluation.evaluation_for(setting) is None
            and collapse_evaluation.evaluation_for(collapse_study.Setting()))
    ground = zoo_study.Ground.of(mine["four"], mine["folder"], True, 2)
    zoo = zoo_study.table_of(ground, methods="source, eata", streams="continual")
    assert (zoo.sources == [mine["four"]] == zoo.members("mean") and zoo.streams() == ["continual"]
            and not zoo.unknowns)
    assert ([line["stored"] == line["stored"] for line in zoo.lines] == [False, False]
            and "source images" in zoo.lines[1]["words"])
    assert zoo.ground == ground
    assert zoo_study.Ground.of() is None and zoo_study.Ground.of("fashion_resnet_bn_1") is None


def test_the_embedded_case_is_what_it_was():
    assert crowds.Plan.of(True, model="", images="") == crowds.FAST and lifelong_study.Plan.of(
        False) == lifelong_study.FULL
    assert (own.Pair().network is own.network(own.MODEL) and own.source_images_of(own.MODEL)
            and own.has_batch_norm(own.MODEL))
    assert (collapse_study.setting_of() == (collapse_study.Setting(), ())
            and compose_study.Ground.of(True).panel() == {})
    small = norm_study.FULL.shorter()
    assert small.small == 16 and eval(f"norm_study.Plan({small.arguments()})") == small


def test_former_names_of_parameters_are_understood():
    import nbformat

    known = {n: headless.parameters_of(nbformat.read(NOTEBOOKS / f"{n}.ipynb", as_version=4))
             for n in ("04_collapse", "06_your_model")}
    found = headless.settled(known["06_your_model"],
                             {"model_from": "torchvision:resnet18", "images_from": "photos"}, False)
    assert (found["model"], found["images"]) == ("torchvision:resnet18",
                                                 "photos") and "model_from" not in found
    assert headless.settled(known["04_collapse"], {"images": "20"}, False)["looked_at"] == 20
    assert (headless.settled(known["04_collapse"], {"images": "folder:photos"}, False)["images"]
            == "folder:photos")
    with pytest.raises(headless.NotebookError, match="model_from is the former name of the "
                                                     "parameter model, and both are given"):
        headless.settled(known["06_your_model"], {"model_from": "a", "model": "b"}, False)
