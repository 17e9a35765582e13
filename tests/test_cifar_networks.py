"""The networks of the CIFAR benchmarks: logits and names of the public code, and what a checkpoint
file can do wrong.

``golden/cifar_networks`` holds names, shapes and logits of the public networks for weights that a
rule makes from the names, so that no weights need to be stored.
"""
import importlib.util
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from tta_lab.data.shipped import DataError
from tta_lab.models.cifar_networks import (
    NETWORKS,
    PRESETS,
    PlainResNet,
    PreResNet,
    ResNeXt,
    WideResNet,
    guess,
    load_cifar,
)

GOLDEN = json.loads(
    (Path(__file__).parent / "golden" / "cifar_networks" / "networks.json").read_text())


def uniform(name, count):
    """``count`` numbers in [0, 1) that depend on a name and the position alone (splitmix64 of a
    counter)."""
    with np.errstate(over="ignore"):
        z = ((np.arange(count, dtype=np.uint64) +
              np.uint64(zlib.crc32(name.encode())) * np.uint64(1 << 32)) *
             np.uint64(0x9E3779B97F4A7C15))
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) / 2**53


def weights(shapes):
    """A state dict by rule: convolutions uniform with the variance 1 / fan-in, scales and
    variances in [0.5, 1.5), the rest in [-0.1, 0.1)."""
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.zeros((), dtype=torch.long)
            continue
        u = uniform(name, int(np.prod(shape)))
        if len(shape) > 1:
            u = (u - 0.5) * (12 / np.prod(shape[1:])) ** 0.5
        elif name.endswith("running_var") or name.endswith("weight"):
            u = u + 0.5
        else:
            u = (u - 0.5) / 5
        state[name] = torch.from_numpy(u.astype(np.float32)).reshape(shape)
    return state


def image(count=1):
    return torch.from_numpy(uniform("image", count * 3 * 32 * 32).astype(np.float32)).reshape(
        count, 3, 32, 32)


@pytest.mark.parametrize("name", NETWORKS)
def test_names_shapes_and_logits_are_those_of_the_public_code(name):
    golden = GOLDEN[name]
    with torch.device("meta"):
        net = NETWORKS[name]()
    shapes = {k: list(v.shape) for k, v in net.state_dict().items()}
    assert shapes == golden["shapes"] and list(shapes) == list(golden["shapes"])
    state = weights(golden["shapes"])
    found, same = guess(state)
    assert found == name and {k: list(v.shape) for k, v in same.state_dict().items()} == shapes
    net = net.to_empty(device="cpu").eval()
    net.load_state_dict(state)
    with torch.no_grad():
        x = image() * 2 - 1
        features = net.features(x)
        torch.testing.assert_close(net(x), torch.tensor(golden["logits"]), atol=1e-5, rtol=1e-5)
    assert features.shape == (1, net.head.in_features)
    torch.testing.assert_close(net.head(features), torch.tensor(golden["logits"]), atol=1e-5,
                               rtol=1e-5)


@pytest.mark.slow  # with robustbench, which belongs to no group: pip install --no-deps robustbench
@pytest.mark.parametrize("file, name, build", [
    ("wide_resnet", "wrn_40_2", lambda m: m.WideResNet(40, 100, 2)),
    ("resnext", "resnext_29", lambda m: m.CifarResNeXt(m.ResNeXtBottleneck, 29, 4, 32, 100)),
])
def test_robustbench_agrees(file, name, build):
    # its architecture files need torch alone, the package as a whole much more
    found = importlib.util.find_spec("robustbench")
    if found is None:
        pytest.skip("robustbench is not installed")
    path = Path(found.submodule_search_locations[0]) / "model_zoo" / "architectures" / f"{file}.py"
    spec = importlib.util.spec_from_file_location(f"peer_{file}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    peer = build(module).eval()
    net = NETWORKS[name](classes=100).eval()
    state = weights({k: list(v.shape) for k, v in peer.state_dict().items()})
    peer.load_state_dict(state)
    net.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(net(image(2)), peer(image(2)), atol=1e-5, rtol=1e-5)


SMALL = {  # other depths and widths than the published ones, to keep the files small
    "wrn_10_1": WideResNet(10, 1, 10), "resnext_11": ResNeXt(11, 4, 8, 10), "resnet_8": PlainResNet(8, "bn", "pad", 10),
    "resnet_8_gn": PreResNet(8, 1, "gn", 10), "ttab_resnet_8_bn": PlainResNet(8, "bn", "project", 7),
}


def ruled(net):
    return weights({k: list(v.shape) for k, v in net.state_dict().items()})


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("form", ["plain", "safetensors", "nested"])
def test_files_of_any_size_and_wrapping_load(name, form, tmp_path):
    state = ruled(SMALL[name])
    path = tmp_path / ("x.safetensors" if form == "safetensors" else "x.pth.tar")
    if form == "safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    elif form == "plain":
        torch.save(state, path)
    else:  # as the authors' training scripts write it: wrapped, prefixed, a NumPy number beside it
        torch.save(
            {
                "epoch": 3, "best_acc": np.float64(0.5), "err": np.float32(1),
                "state_dict": {f"module.{k}": v
                               for k, v in state.items()}, "optimizer": {"lr": 0.1}
            }, path)
    model = load_cifar(path, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    assert model.info["architecture"] == name and not model.training and model.card.size == (32, 32)
    SMALL[name].load_state_dict(state)
    x = image(2)
    with torch.no_grad():
        expected = SMALL[name].eval()((x - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) /
                                      torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1))
        torch.testing.assert_close(model(x), expected)
        torch.testing.assert_close(model.head(model.features(x)), expected)
    assert set(model.net.state_dict()) == set(state)


def test_normalisation_comes_from_the_argument_then_the_file_then_the_preset(tmp_path):
    shapes = {
        k: v for k, v in GOLDEN["resnet_20"]["shapes"].items()
        if not k.endswith("num_batches_tracked")
    }
    state, path = weights(shapes), tmp_path / "resnet20.th"
    torch.save({"state_dict": state, "best_prec1": 91.73}, path)
    model = load_cifar(path)
    assert model.card.mean == (
        0.485, 0.456,
        0.406) and "akamaster" in model.info["normalisation"] and "test_accuracy" not in model.info
    named = load_cifar(path, "akamaster_resnet20")
    assert named.info["test_accuracy"] == 91.73 and named.info["classes"][
        3] == "cat" and named.info["preset"] == "cifar10/akamaster_resnet20"
    torch.save(
        state | {"mu": torch.full((1, 3, 1, 1), 0.25), "sigma": torch.full((1, 3, 1, 1), 0.5)},
        path)
    held = load_cifar(path)
    assert held.card.mean == (0.25,) * 3 and held.card.std == (
        0.5,) * 3 and held.info["normalisation"] == "stored in the file"
    wrapped = {
        "normalize.mean": torch.full((1, 3, 1, 1), 0.25), "normalize.std": torch.ones(1, 3, 1, 1)
    }
    torch.save(wrapped | {f"model.{k}": v for k, v in state.items()}, path)
    assert load_cifar(path).card.mean == (0.25,) * 3
    assert load_cifar(path, mean=(0.0,) * 3, std=(1.0,) * 3).info["normalisation"] == "as given"
    with torch.no_grad():
        torch.testing.assert_close(held(image()), held.net((image() - 0.25) / 0.5))


def test_presets_name_networks_and_plausible_figures():
    for name, preset in PRESETS.items():
        assert preset.architecture in NETWORKS and preset.classes == int(
            name.split("/")[0].removeprefix("cifar"))
        assert preset.accuracy is None or 70 < preset.accuracy < 100
    assert {k for k in PRESETS if PRESETS[k].mean == (0.5,) * 3} == {
        "cifar10/Hendrycks2020AugMix_WRN", "cifar10/Hendrycks2020AugMix_ResNeXt",
        "cifar100/Hendrycks2020AugMix_WRN", "cifar100/Hendrycks2020AugMix_ResNeXt",
        "cifar10/TTT_resnet26_gn"
    }
    assert PRESETS["cifar10/Standard"].std == (1.0,) * 3


def _write(state):
    def write(path):
        torch.save(state, path)
    return write


def _cut_off(path):
    torch.save(ruled(SMALL["resnet_8"]), path)
    path.write_bytes(path.read_bytes()[:5000])


class Foreign:
    """Something that a state dict should not hold."""


RESNET8 = ruled(SMALL["resnet_8"])
BAD_FILES = {
    "html": (lambda p: p.write_bytes(b"  <!DOCTYPE html><html>"), "web page"),
    "empty": (lambda p: p.write_bytes(b""), "is empty; download"),
    "pointer": (lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
                "Git LFS pointer"),
    "truncated": (_cut_off, r"cannot be read \(5000 bytes.*truncated"),
    "noise": (lambda p: p.write_bytes(bytes(range(256)) * 4), "cannot be read"),
    "code": (_write({"state_dict": RESNET8, "args": Foreign()}), "Python objects.*Foreign.*save "
             "the weights alone"),
    "list": (_write([torch.zeros(1)]), "holds list, not a state dict"),
    "numbers": (_write({"epoch": 3, "loss": 0.1}), "a dict with epoch, loss"),
    "missing": (_write({k: v for k, v in RESNET8.items()
                        if k != "layer2.0.conv2.weight"}), r"1 missing: layer2.0.conv2.weight"),
    "unexpected": (_write(RESNET8 | {"rotation.weight": torch.zeros(4, 64)}), r"1 unexpected: "
                   r"rotation.weight"),
    "shape": (_write(RESNET8 | {"bn1.weight": torch.ones(17)}), r"1 of another shape: bn1.weight "
              r"\(17,\) instead of \(16,\)"),
    "broken": (_write(RESNET8 | {"bn1.weight": torch.full((16,), torch.nan)}), "NaN or Inf in "
               "bn1.weight"),
    "imagenet": (_write({
        "conv1.weight": torch.zeros(64, 3, 7, 7),
        "layer4.0.conv1.weight": torch.zeros(512, 256, 3, 3)
    }), "none of the CIFAR networks.*start with conv1.weight.*from_torchvision"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_named_with_a_remedy(case, tmp_path):
    write, message = BAD_FILES[case]
    path = tmp_path / f"{case}.pt"
    write(path)
    with pytest.raises(DataError, match=message) as error:
        load_cifar(path)
    assert str(path) in str(error.value)


def test_wrong_architecture_and_arguments_are_named(tmp_path):
    path = tmp_path / "x.pt"
    torch.save(RESNET8, path)
    with pytest.raises(DataError, match=r"does not fit wrn_40_2: \d+ missing: "
                                        r"block1.*unexpected.*those of resnet_8: leave "
                                        r"architecture out"):
        load_cifar(path, "wrn_40_2")
    with pytest.raises(ValueError, match="no CIFAR network 'wrn'.*wrn_28_10.*cifar10/Standard"):
        load_cifar(path, "wrn")
    with pytest.raises(ValueError, match="both mean and std"):
        load_cifar(path, mean=(0.5,) * 3)
    with pytest.raises(ValueError, match="2 class names for 10 outputs"):
        load_cifar(path, classes=("a", "b"))
    with pytest.raises(DataError, match="no checkpoint file"):
        load_cifar(tmp_path / "none.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x08\x01\0\0\0\0\0\0{}")
    with pytest.raises(DataError, match="cut.safetensors cannot be read"):
        load_cifar(tmp_path / "cut.safetensors")
