"""The embedded source models and their training."""
import hashlib
import json
import sys
import warnings

import pytest
import torch
import torchvision

from tta_lab.core.adapter import Adapter
from tta_lab.core.source_model import InputCard, InputError, SourceModel
from tta_lab.data.load import load
from tta_lab.data.shipped import DataError, data_root
from tta_lab.methods import make
from tta_lab.models import training
from tta_lab.models.checkpoint_files import read_state_dict
from tta_lab.models.embedded import checkpoints, load_model
from tta_lab.models.libraries import from_timm, from_torchvision
from tta_lab.models.small_networks import ARCHITECTURES
from tta_lab.models.wrapping import Cut, with_classes, with_input_card

LEAST = {
    **dict.fromkeys(("fashion_resnet_bn", "fashion_resnet_bn_1", "fashion_resnet_bn_2", "fashion_resnet_gn", "fashion8_resnet_bn"), 92.5), "fashion_vit_ln": 90.0
}


@pytest.mark.parametrize("name", LEAST)
def test_checkpoint_is_what_its_card_says(name):
    model, info = load_model(name), checkpoints()[name]
    test = load("fashion_mnist" if len(info["classes"]) == 10 else "fashion_mnist_8")
    assert list(test.classes) == info["classes"]
    accuracy = training.accuracy(model, test)
    assert accuracy >= LEAST[name] and accuracy == pytest.approx(info["test_accuracy"], abs=0.05)
    assert abs(info["test_accuracy"] -
               info["test_accuracy_float32"]) <= 0.05, "storing in float16 moved the accuracy"
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == info["parameters"] < 250_000
    file = data_root() / "checkpoints" / f"{name}.safetensors"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == info["sha256"]
    x = test.images(slice(0, 4))
    with torch.no_grad():
        torch.testing.assert_close(model.head(model.features(x)), model(x))
    norms = {type(m).__name__ for m in model.modules() if "Norm" in type(m).__name__}
    assert norms == {{"resnet_bn": "BatchNorm2d", "resnet_gn": "GroupNorm",
                      "vit_ln": "LayerNorm"}[info["architecture"]]}
    assert info["command"] == f"python -m tta_lab train {name} --seed {info['seed']}"


def test_every_checkpoint_adapts():
    x = load("fashion_mnist").images(slice(0, 20))
    for name in checkpoints():
        adapter = Adapter(load_model(name), make("wisdom_of_crowds"), device="cpu")
        first = adapter(x)
        assert not torch.equal(adapter(x),
                               first) and first.shape == (20, len(checkpoints()[name]["classes"]))


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
    # 3 +- 2, and 4 +- 2 when flipped
    assert set(rows.tolist()) == {0, 1, 2, 3, 4} and set(cols.tolist()) == set(range(1, 7))
    assert torch.equal(out, training.augment(x, torch.Generator().manual_seed(0)))


def test_training_is_seeded_and_leaves_the_global_generator(tmp_path, monkeypatch):
    small = load("fashion_mnist_train_slice").take(torch.arange(0, 5000, 5))
    test = load("fashion_mnist").take(torch.arange(0, 10000, 20))
    monkeypatch.setattr(training, "fashion_training_set", lambda folder: small)
    monkeypatch.setattr(training, "load", lambda name: test)
    state, cards = torch.get_rng_state(), []
    for run in ("a", "b", "c"):
        cards.append(
            training.train("fashion_resnet_bn", out=tmp_path / run, epochs=2, seed=int(run == "c"),
                           progress=False))
    assert torch.equal(torch.get_rng_state(), state)
    assert cards[0]["sha256"] == cards[1]["sha256"] != cards[2]["sha256"]
    assert cards[0]["command"] == "python -m tta_lab train fashion_resnet_bn --seed 0 --epochs 2"
    index = json.loads((tmp_path / "a" / "index.json").read_text())
    assert index["checkpoints/fashion_resnet_bn.safetensors"]["sha256"] == cards[0]["sha256"]
    again = load_model("fashion_resnet_bn", root=tmp_path / "a")
    assert isinstance(again, SourceModel) and training.accuracy(again, test) == pytest.approx(
        cards[0]["test_accuracy"], abs=0.01)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_take_colour_and_other_class_counts(name):
    settings = {"channels": 3, "classes": 7} | ({"size": 32} if name == "vit_ln" else {})
    net = ARCHITECTURES[name](**settings).eval()
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, 7)


# --- torchvision and timm -----------------------------------------------------------------------

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def small_vit():
    return torchvision.models.VisionTransformer(image_size=32, patch_size=8, num_layers=2,
                                                num_heads=4, hidden_dim=64, mlp_dim=128)


@pytest.mark.parametrize("name, width, size", [("resnet18", 512, 32), ("resnet50", 2048, 32),
                                               ("vit", 64, 32), ("convnext_tiny", 768, 32),
                                               ("swin_t", 768, 32),
                                               ("mobilenet_v3_small", 1024, 32)])
def test_torchvision_models_split_where_their_classifier_begins(name, width, size):
    net = small_vit() if name == "vit" else torchvision.models.get_model(name)
    model = from_torchvision(net, size=size, classes=tuple(map(str, range(1000))))
    assert (model.card.mean,
            model.card.std) == IMAGENET and model.card.size == (size, size) and not model.training
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    normalised = ((x - torch.tensor(IMAGENET[0]).view(3, 1, 1)) /
                  torch.tensor(IMAGENET[1]).view(3, 1, 1))
    with torch.no_grad():
        features, logits = model.features(x), model(x)
        assert features.shape == (2, width)
        torch.testing.assert_close(model.head(features), logits, atol=1e-5, rtol=1e-5)
        # the network itself is still whole
        torch.testing.assert_close(net(normalised), logits, atol=1e-5, rtol=1e-5)
    assert len(model.info["classes"]) == 1000 and isinstance(model.head, torch.nn.Linear)


def test_torchvision_cards_come_from_the_weights():
    for name in ("resnet18", "efficientnet_b1"):
        card = from_torchvision(name).card
        transform = torchvision.models.get_model_weights(name).DEFAULT.transforms()
        assert card.size == (transform.crop_size[0],) * 2 and card.mean == tuple(
            transform.mean) and card.std == tuple(transform.std)
    state = torch.get_rng_state()
    from_torchvision("resnet18", size=None)
    assert torch.equal(torch.get_rng_state(), state)


def test_torchvision_files_bring_their_number_of_classes_and_their_card(tmp_path):
    net = torchvision.models.resnet18(num_classes=7).eval()
    path = tmp_path / "resnet18-f37072fd.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, path)
    model = from_torchvision("resnet18", path, size=None)
    x = torch.rand(2, 3, 40, 40)
    assert "test_accuracy" not in model.info and model.info["weights"] == str(path)
    with torch.no_grad():
        torch.testing.assert_close(model(x), net(model.normalise(x)))
        assert model(x).shape == (2, 7)
    with pytest.raises(DataError, match=r"does not fit resnet34: \d+ missing: "
                                        r"layer1.2.conv1.weight"):
        from_torchvision("resnet34", path)
    with pytest.raises(DataError, match="IMAGENET1K_V9.*no such file.*IMAGENET1K_V1.*path of a "
                                        "state dict"):
        from_torchvision("resnet18", "IMAGENET1K_V9")
    with pytest.raises(ValueError, match="no classifier 'resnet19'.*resnet18"):
        from_torchvision("resnet19")


def test_regnets_too_are_built_for_the_classes_of_a_file(tmp_path):
    torch.save(torchvision.models.regnet_x_400mf(num_classes=3).state_dict(), tmp_path / "net.pth")
    with torch.no_grad():
        assert from_torchvision("regnet_x_400mf",
                                tmp_path / "net.pth")(torch.rand(1, 3, 224, 224)).shape == (1, 3)


def test_torchvision_weights_that_cannot_be_fetched_are_an_error_and_cached_ones_are_used(
        tmp_path, monkeypatch):
    def offline(url, *args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(DataError, match=r"could not be downloaded \(no "
                                        r"network\).*https://.*resnet18-.*weights="):
        from_torchvision("resnet18", "DEFAULT")
    net = torchvision.models.resnet18().eval()
    torch.save(net.state_dict(), tmp_path / "checkpoints" / "resnet18-f37072fd.pth")
    model = from_torchvision("resnet18", "DEFAULT", size=None)
    assert model.info["test_accuracy"] == 69.758 and model.info["classes"][
        0] == "tench" and model.info["weights"] == "IMAGENET1K_V1"
    assert torch.equal(model.net.body.conv1.weight, net.conv1.weight)


@pytest.mark.parametrize("name, size", [("resnet18", 64), ("vit_tiny_patch16_224", 224),
                                        ("convnext_atto", 64)])
def test_timm_models_split_where_timm_says(name, size, tmp_path):
    timm = pytest.importorskip("timm")
    net = timm.create_model(name, num_classes=9).eval()
    path = tmp_path / "weights.safetensors"
    from safetensors.torch import save_file

    save_file(net.state_dict(), path)
    model = from_timm(name, path, size=size)
    x = torch.rand(2, 3, size, size)
    card = net.pretrained_cfg
    assert model.card.mean == tuple(card["mean"]) and model.card.std == tuple(card["std"])
    with torch.no_grad():
        z = model.normalise(x)
        features = net.forward_head(net.forward_features(z), pre_logits=True)
        torch.testing.assert_close(model.features(x), features, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model(x), net(z), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model.head(model.features(x)),
                                   net.get_classifier()(features), atol=1e-5, rtol=1e-5)
    assert from_timm(name).card.size == tuple(card["input_size"][1:])
    with pytest.raises(DataError, match="does not fit resnet10t"):
        from_timm("resnet10t", path)
    with pytest.raises(ValueError, match="no model 'resnet_of_mine'"):
        from_timm("resnet_of_mine")
    with pytest.raises(ValueError, match="either checkpoint"):
        from_timm(name, path, pretrained=True)


def test_timm_missing_or_offline_is_said(monkeypatch):
    with monkeypatch.context() as m:
        m.setitem(sys.modules, "timm", None)
        with pytest.raises(ImportError, match="pip install timm"):
            from_timm("resnet18")
    timm = pytest.importorskip("timm")

    def offline(name, pretrained=False, **settings):
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(DataError, match=r"timm's weights for resnet18 could not be fetched \(no "
                                        r"network\).*checkpoint="):
        from_timm("resnet18", pretrained=True)


def test_a_cut_model_adapts_and_leaves_the_network_as_it_was():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torchvision.models.resnet18(num_classes=5)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    adapter = Adapter(from_torchvision(net, size=None), make("tent", lr=0.01), device="cpu")
    x = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    first = adapter(x)
    assert not torch.equal(adapter(x), first)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    adapter.reset()
    torch.testing.assert_close(adapter(x), first, atol=0, rtol=0)
    assert isinstance(adapter.model.net, Cut)


# --- some of the classes ------------------------------------------------------------------------

def test_chosen_and_grouped_classes_by_hand():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 4, bias=False))
    net[1].weight.data = torch.tensor([[1.0, 0, 0], [0, 2, 0], [0, 0, 3], [1, 1, 1]])
    model = with_input_card(Cut(net, "1"), size=(1, 1))
    model.info["classes"] = ["a", "b", "c", "d"]
    # logits 0.5, 0.5, 0.375, 0.875
    x = torch.tensor([[0.5, 0.25, 0.125]]).view(1, 3, 1, 1)
    cases = {  # classes, kind -> logits by hand, names
        ((3, 0), None): ([0.875, 0.5], ["d", "a"]),
        ((1, -1, 1, 0), None): ([0.875, 0.5], ["d", "a / c"]),
        ((1, 0, 3, 2), "outputs"): ([0.5, 0.5, 0.875, 0.375], ["b", "a", "d", "c"]),
        ((2, 0, 1, 3), "groups"): ([0.5, 0.375, 0.5, 0.875], ["b", "c", "a", "d"]),
        (((2, -1), (0, 3)), None): ([0.375, 0.875], ["c", "a / d"]),
    }
    for (classes, kind), (logits, names) in cases.items():
        picked = with_classes(model, torch.tensor(classes), kind)
        torch.testing.assert_close(picked(x), torch.tensor([logits]))
        torch.testing.assert_close(picked.head(picked.features(x)), picked(x))
        assert picked.info["classes"] == names and picked.card == model.card
        assert sum(p.numel() for p in picked.parameters()) == 12
    for classes, message in (((1, 0, 3, 2), "read in two ways"), ((0, 4), "0 to 3"),
                             ((0, 0), "more than one class.*0"), ((0, -2), "0 to 3"),
                             ((0, -1), r"no output: \[1\]"), ((0.0, 1.0), "int64"),
                             ((2, 2, 0, -1), r"no output: \[1\]")):
        with pytest.raises(ValueError, match=message):
            with_classes(model, torch.tensor(classes))
    with pytest.raises(ValueError, match="1 names for 2 classes"):
        with_classes(model, torch.tensor([0, 1]), names=["x"])


def test_picked_classes_keep_the_ranking_among_themselves_and_adapt():
    # sandal, sneaker, ankle boot
    model, data = load_model(), load("fashion_mnist").only([5, 7, 9]).take(slice(0, 200))
    picked = with_classes(model, torch.tensor([5, 7, 9]))
    x = data.images()
    with torch.no_grad():
        assert torch.equal(picked(x), model(x)[:, [5, 7, 9]])
        groups = with_classes(model, torch.tensor([-1, -1, -1, -1, -1, 0, -1, 1, -1, 2]))
        assert torch.equal(groups(x), picked(x))
    assert training.accuracy(picked, data) > 90
    adapter = Adapter(picked, make("tent"), device="cpu")
    assert adapter(x[:20]).shape == (20, 3)


# --- with_input_card, print, refusals -----------------------------------------------------------

@pytest.mark.parametrize("name", ["resnet18", "swin_t", "efficientnet_b0", "vgg11", "densenet121"])
def test_a_card_finds_features_and_head_as_from_torchvision_does(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torchvision.models.get_model(name, num_classes=6)
    model = with_input_card(net, size=64, mean=IMAGENET[0], std=IMAGENET[1], num_classes=6)
    other = from_torchvision(net, size=64, num_classes=6)
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model.head(model.features(x)), model(x)) and torch.equal(
            model(x),
            net.eval()(model.normalise(x)))
        assert torch.equal(model.features(x), other.features(x)) and model.head is other.head


def test_a_network_with_its_own_features_and_head_is_not_cut_and_one_without_says_who_finds_them():
    own = load_model().net
    assert with_input_card(own, channels=1, size=28).net is own
    # a cut would change its answers
    softmaxed = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3), torch.nn.Softmax(1))
    model = with_input_card(softmaxed, size=2)
    assert model.net is softmaxed
    for ask in (lambda: model.features(torch.rand(2, 3, 2, 2)), lambda: model.head):
        with pytest.raises(AttributeError, match="with_input_card, from_torchvision and from_timm "
                                                 "find both"):
            ask()
    double = with_input_card(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)).double(), size=2)
    assert isinstance(double.net, Cut)


def test_a_source_model_prints_what_it_is():
    model = load_model()
    lines = {
        key: value.strip() for key, _, value in (line.strip().partition("  ")
                                                 for line in repr(model).splitlines()[1:-1])
    }
    count = f"{sum(p.numel() for p in model.parameters()):,}"
    assert lines == {
        "architecture": "resnet_bn", "images": "grey, 28 x 28, mean 0.286, std "
        "0.353; fed in [0, 1]", "classes": "10: T-shirt/top, Trouser, Pullover, Dress, ...",
        "from": "fashion_resnet_bn",
        "parameters": f"{count}, of which {count} trainable; eval mode",
        "accuracy": "92.62 % on its own test set, as its card says"
    }
    assert "Conv2d" not in str(model) and "Conv2d" in repr(model.net) and str(
        torch.nn.Sequential(model)).count("resnet_bn") == 2
    few = with_classes(from_torchvision("resnet18", num_classes=7), [1, 2],
                       "outputs").requires_grad_(False).train()
    assert "classes       2\n" in repr(few) and "of which 0 trainable; train mode" in repr(
        few) and "architecture  resnet18" in repr(few)
    bare = SourceModel(torch.nn.Flatten(), InputCard(), normalisation="in_data")
    assert "not known before it is asked" in repr(bare) and "the data come normalised" in repr(
        bare) and "of any size" in repr(bare)


def test_num_classes_is_built_or_compared(tmp_path):
    assert from_torchvision("resnet18", num_classes=7).head.out_features == 7
    assert from_torchvision("resnet18", classes=("a", "b")).head.out_features == 2
    torch.save(torchvision.models.resnet18(num_classes=4).state_dict(), tmp_path / "four.pt")
    assert from_torchvision("resnet18", tmp_path / "four.pt", num_classes=4).head.out_features == 4
    with pytest.raises(ValueError, match="num_classes says 5 classes, but resnet18, with these "
                                         "weights, answers in 4"):
        from_torchvision("resnet18", tmp_path / "four.pt", num_classes=5)
    timm = pytest.importorskip("timm")
    assert from_timm("resnet18", num_classes=3).head.out_features == 3
    torch.save(timm.create_model("resnet18", num_classes=4).state_dict(), tmp_path / "timm.pt")
    with pytest.raises(ValueError, match="num_classes says 3 classes, but .*timm.pt was trained "
                                         "for 4"):
        from_timm("resnet18", tmp_path / "timm.pt", num_classes=3)


class _Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("what", [
    "posix.system", "builtins.eval", "builtins.exec", "subprocess.Popen", "argparse.Namespace",
    "torch.nn.modules.linear.Linear"
])
def test_a_checkpoint_with_code_is_refused_without_the_advice_to_load_it_all_the_same(
        what, how, tmp_path):
    import argparse
    import os
    import pickle
    import subprocess
    import traceback

    mark = tmp_path / "was_run"
    bad = {
        "posix.system": _Call(os.system, f"touch {mark}"),
        "builtins.eval": _Call(eval, f"open({str(mark)!r}, 'w')"),
        "builtins.exec": _Call(exec, f"open({str(mark)!r}, 'w')"),
        "subprocess.Popen": _Call(subprocess.Popen, ["touch", str(mark)]),
        "argparse.Namespace": argparse.Namespace(lr=1),
        "torch.nn.modules.linear.Linear": torch.nn.Linear(2, 2)
    }[what]
    content = {"state_dict": {"w": torch.ones(2)}, "more": bad}
    path = tmp_path / "weights.pt"
    if how == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(DataError, match=rf"weights.pt holds code or Python objects besides "
                                        rf"tensors \({what}.*nothing of it was loaded") as why:
        read_state_dict(path)
    told = "".join(traceback.format_exception(why.value))
    assert not mark.exists() and not any(word in told.split("DataError:")[-1]
                                         for word in ("weights_only", "safe_globals", "trust"))
    assert why.value.__suppress_context__ and "add_safe_globals" not in told and "will likely succeed" not in told


def test_a_torchscript_program_and_damaged_files_are_told_apart(tmp_path):
    path = tmp_path / "weights.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    with pytest.raises(DataError, match="a TorchScript program"):
        read_state_dict(path)
    torch.save({"w": torch.ones(1000)}, path)
    whole = path.read_bytes()
    for content in (whole[:700], whole[:-30], b"cat\ndog\n", b"class,label\na,b\n",
                    b"\x80\x04nothing", b"\0" * 64):
        path.write_bytes(content)
        with pytest.raises(DataError,
                           match="cannot be read .*truncated, damaged or no checkpoint") as why:
            read_state_dict(path)
        assert "holds code" not in str(why.value) and "weights_only" not in str(why.value)


@pytest.mark.parametrize("content", [
    "", "{", "[]", '{"architecture": "resnet_bn"}',
    '{"architecture": "resnet_xx", "arguments": {}, "input": {}}',
    '{"architecture": "resnet_bn", "arguments": {"clases": 3}, '
    '"input": {}}', '{"architecture": "resnet_bn", "arguments": {"classes": 10}, '
    '"input": {"channels": 1, "meen": 0}}'
])
def test_damaged_cards_name_the_file(content, tmp_path):
    import shutil

    shutil.copytree(data_root() / "checkpoints", tmp_path / "checkpoints")
    shutil.copy(data_root() / "index.json", tmp_path)
    (tmp_path / "checkpoints" / "fashion_resnet_bn.json").write_text(content)
    with pytest.raises(DataError, match="the card .*fashion_resnet_bn.json is damaged.*python -m "
                                        "tta_lab train fashion_resnet_bn"):
        load_model("fashion_resnet_bn", root=tmp_path)
