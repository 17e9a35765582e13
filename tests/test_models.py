"""The embedded source models and their training."""
import hashlib
import json

import pytest
import torch

from tta_lab import training
from tta_lab.adapter import Adapter
from tta_lab.datasets import DataError, data_root, load
from tta_lab.methods import make
from tta_lab.models import ARCHITECTURES, InputCard, InputError, SourceModel, checkpoints, load_model

LEAST = {"fashion_resnet_bn": 92.5, "fashion_resnet_gn": 92.5, "fashion_vit_ln": 90.0, "fashion8_resnet_bn": 92.5}


@pytest.mark.parametrize("name", LEAST)
def test_checkpoint_is_what_its_card_says(name):
    model, info = load_model(name), checkpoints()[name]
    test = load("fashion_mnist" if len(info["classes"]) == 10 else "fashion_mnist_8")
    assert list(test.classes) == info["classes"]
    accuracy = training.accuracy(model, test)
    assert accuracy >= LEAST[name] and accuracy == pytest.approx(info["test_accuracy"], abs=0.05)
    assert abs(info["test_accuracy"] - info["test_accuracy_float32"]) <= 0.05, "storing in float16 moved the accuracy"
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == info["parameters"] < 250_000
    file = data_root() / "checkpoints" / f"{name}.safetensors"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == info["sha256"]
    x = test.images(slice(0, 4))
    with torch.no_grad():
        torch.testing.assert_close(model.head(model.features(x)), model(x))
    norms = {type(m).__name__ for m in model.modules() if "Norm" in type(m).__name__}
    assert norms == {{"resnet_bn": "BatchNorm2d", "resnet_gn": "GroupNorm", "vit_ln": "LayerNorm"}[info["architecture"]]}
    assert info["command"] == f"python -m tta_lab train {name} --seed {info['seed']}"


def test_every_checkpoint_adapts():
    x = load("fashion_mnist").images(slice(0, 20))
    for name in checkpoints():
        adapter = Adapter(load_model(name), make("wisdom_of_crowds"), device="cpu")
        first = adapter(x)
        assert not torch.equal(adapter(x), first) and first.shape == (20, len(checkpoints()[name]["classes"]))


def test_unknown_names_and_arguments_are_named():
    with pytest.raises(DataError, match="no checkpoint 'resnet'.*fashion_resnet_bn"):
        load_model("resnet")
    with pytest.raises(ValueError, match="'in_model' or 'in_data'"):
        load_model(normalisation="both")
    with pytest.raises(ValueError, match="InputCard.mean needs 1 or 3 values, got 2"):
        InputCard(3, mean=(0.5, 0.5))
    with pytest.raises(ValueError, match="unknown source model"):
        training.train("fashion_resnet_ln")


def test_grey_model_refuses_bytes_and_colour():
    model, x = load_model(), load("fashion_mnist").images(slice(0, 2))
    with pytest.raises(InputError, match="divide by 255"):
        model(x * 255)
    with pytest.raises(InputError, match=r"\(2, 3, 28, 28\).*\(batch, 1, 28 x 28\)"):
        model(x.expand(-1, 3, -1, -1))


def test_augmentation_flips_and_shifts_whole_images():
    x = torch.zeros(200, 1, 8, 8)
    x[:, 0, 2, 3] = 1.0
    out = training.augment(x, torch.Generator().manual_seed(0))
    places = out.flatten(1).argmax(1)
    rows, cols = places // 8, places % 8
    assert (out.sum((1, 2, 3)) == 1).all(), "a shift of two pixels keeps this pixel inside"
    assert set(rows.tolist()) == {0, 1, 2, 3, 4} and set(cols.tolist()) == set(range(1, 7))  # 3 +- 2, and 4 +- 2 when flipped
    assert torch.equal(out, training.augment(x, torch.Generator().manual_seed(0)))


def test_training_is_seeded_and_leaves_the_global_generator(tmp_path, monkeypatch):
    small = load("fashion_mnist_train_slice").take(torch.arange(0, 5000, 5))
    test = load("fashion_mnist").take(torch.arange(0, 10000, 20))
    monkeypatch.setattr(training, "fashion_training_set", lambda folder: small)
    monkeypatch.setattr(training, "load", lambda name: test)
    state, cards = torch.get_rng_state(), []
    for run in ("a", "b", "c"):
        cards.append(training.train("fashion_resnet_bn", out=tmp_path / run, epochs=2, seed=int(run == "c"), progress=False))
    assert torch.equal(torch.get_rng_state(), state)
    assert cards[0]["sha256"] == cards[1]["sha256"] != cards[2]["sha256"]
    assert cards[0]["command"] == "python -m tta_lab train fashion_resnet_bn --seed 0 --epochs 2"
    index = json.loads((tmp_path / "a" / "index.json").read_text())
    assert index["checkpoints/fashion_resnet_bn.safetensors"]["sha256"] == cards[0]["sha256"]
    again = load_model("fashion_resnet_bn", root=tmp_path / "a")
    assert isinstance(again, SourceModel) and training.accuracy(again, test) == pytest.approx(cards[0]["test_accuracy"], abs=0.01)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_take_colour_and_other_class_counts(name):
    settings = {"channels": 3, "classes": 7} | ({"size": 32} if name == "vit_ln" else {})
    net = ARCHITECTURES[name](**settings).eval()
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, 7)
