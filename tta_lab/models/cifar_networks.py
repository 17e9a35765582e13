"""The networks of the CIFAR benchmarks, with the parameter names of their published checkpoints.

WideResNets (WRN-28-10, WRN-40-2) and ResNeXt-29 as RobustBench publishes them, the ResNet-26 of
test-time training in its two layouts, and the ResNet-20 of the residual-network paper.
``load_cifar`` opens a checkpoint file: it reads the architecture from names and shapes, so that
depth, width and the number of classes need not be said.

All take images (B, 3, 32, 32) that are normalised already; `SourceModel` normalises. ``features``
is the input (B, D) of the last linear layer and ``head`` that layer, under the name which the
checkpoint gives it.
"""
from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.arguments import WrongKind
from ..core.source_model import InputCard, SourceModel, per_channel
from ..data.shipped import DataError
from .checkpoint_files import fill, read_state_dict
from .libraries import IMAGENET_MEAN, IMAGENET_STD
from .wrapping import names_of

HALF = (0.5, 0.5, 0.5)
NONE_MEAN, NONE_STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2023, 0.1994, 0.2010)


def _conv(before: int, width: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, width, kernel, stride, kernel // 2, groups=groups, bias=False)


def _norms(kind: str) -> Callable[[int], nn.Module]:
    return nn.BatchNorm2d if kind == "bn" else lambda width: nn.GroupNorm(8, width)


class _Network(nn.Module):
    """Features averaged over all places, then one linear layer."""

    head_name = "fc"

    @property
    def head(self) -> nn.Linear:
        return getattr(self, self.head_name)

    def features(self, x: Tensor) -> Tensor:
        return self.maps(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


# --- wide residual networks (1605.07146) --------------------------------------------------------

class WideBlock(nn.Module):
    """Two 3x3 convolutions, each after normalisation and ReLU; where the shape changes, the
    projected shortcut starts from the normalised input."""

    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(before), _conv(before, width, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), _conv(width, width)
        self.convShortcut = None if before == width else _conv(before, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x))
        if self.convShortcut is not None:
            x = self.convShortcut(y)
        return x + self.conv2(F.relu(self.bn2(self.conv1(y))))


class WideStage(nn.Module):
    """Blocks of one resolution, under the name ``layer``."""

    def __init__(self, blocks: int, before: int, width: int, stride: int):
        super().__init__()
        self.layer = nn.Sequential(*(WideBlock(width if i else before, width, 1 if i else stride)
                                     for i in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class WideResNet(_Network):
    """WRN-depth-widen: a 3x3 convolution, three stages of (depth - 4) / 6 blocks with 16, 32, 64
    times ``widen`` channels."""

    def __init__(self, depth: int = 28, widen: int = 10, classes: int = 10):
        super().__init__()
        blocks = (depth - 4) // 6
        widths = [16 * widen, 32 * widen, 64 * widen]
        self.conv1 = _conv(3, 16)
        self.block1 = WideStage(blocks, 16, widths[0], 1)
        self.block2 = WideStage(blocks, widths[0], widths[1], 2)
        self.block3 = WideStage(blocks, widths[1], widths[2], 2)
        self.bn1, self.fc = nn.BatchNorm2d(widths[2]), nn.Linear(widths[2], classes)

    def maps(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(self.block3(self.block2(self.block1(self.conv1(x))))))


# --- ResNeXt for CIFAR (1611.05431) -------------------------------------------------------------

class NextBlock(nn.Module):
    """1x1, grouped 3x3 and 1x1 convolution with batch normalisation, four times as many channels
    out as ``planes``."""

    def __init__(self, before: int, planes: int, stride: int, cardinality: int, base: int):
        super().__init__()
        inner = planes * base // 64 * cardinality
        self.conv_reduce, self.bn_reduce = _conv(before, inner, 1), nn.BatchNorm2d(inner)
        self.conv_conv, self.bn = _conv(inner, inner, 3, stride, cardinality), nn.BatchNorm2d(inner)
        self.conv_expand, self.bn_expand = _conv(inner, 4 * planes, 1), nn.BatchNorm2d(4 * planes)
        same = stride == 1 and before == 4 * planes
        self.downsample = (None if same else nn.Sequential(_conv(before, 4 * planes, 1, stride),
                                                           nn.BatchNorm2d(4 * planes)))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn_reduce(self.conv_reduce(x)))
        y = self.bn_expand(self.conv_expand(F.relu(self.bn(self.conv_conv(y)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNeXt(_Network):
    """ResNeXt of 9 n + 2 layers. The AugMix paper calls its network 32x4d; the checkpoints have 4
    groups of 32 channels."""

    head_name = "classifier"

    def __init__(self, depth: int = 29, cardinality: int = 4, base: int = 32, classes: int = 10):
        super().__init__()
        blocks = (depth - 2) // 9
        self.conv_1_3x3, self.bn_1 = _conv(3, 64), nn.BatchNorm2d(64)
        before = 64
        for stage, planes in enumerate((64, 128, 256), 1):
            layers = [
                NextBlock(4 * planes if i else before, planes, 2 if stage > 1 and i == 0 else 1,
                          cardinality, base) for i in range(blocks)
            ]
            setattr(self, f"stage_{stage}", nn.Sequential(*layers))
            before = 4 * planes
        self.classifier = nn.Linear(before, classes)

    def maps(self, x: Tensor) -> Tensor:
        return self.stage_3(self.stage_2(self.stage_1(F.relu(self.bn_1(self.conv_1_3x3(x))))))


# --- residual networks of 6 n + 2 layers (1512.03385) -------------------------------------------

class PlainBlock(nn.Module):
    """Two 3x3 convolutions, normalisation after each. The shortcut is the input ("pad": every
    second pixel, new channels zero, half of them in front) or a projection with normalisation
    ("project")."""

    def __init__(self, before: int, width: int, stride: int, norm: Callable[[int], nn.Module],
                 shortcut: str):
        super().__init__()
        self.conv1, self.bn1 = _conv(before, width, 3, stride), norm(width)
        self.conv2, self.bn2 = _conv(width, width), norm(width)
        self.stride = stride
        self.extra = (width - before) // 2
        self.downsample = None
        if shortcut == "project" and (stride > 1 or before != width):
            self.downsample = nn.Sequential()
            self.downsample.add_module("conv", _conv(before, width, 1, stride))
            self.downsample.add_module("bn", norm(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.downsample is not None:
            x = self.downsample(x)
        elif self.extra:
            x = F.pad(x[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, self.extra, self.extra))
        return F.relu(x + y)


class PreBlock(nn.Module):
    """Two 3x3 convolutions, each after normalisation and ReLU; the shortcut averages 2x2 pixels
    and sets new channels to zero."""

    def __init__(self, before: int, width: int, stride: int, norm: Callable[[int], nn.Module]):
        super().__init__()
        self.bn1, self.conv1 = norm(before), _conv(before, width, 3, stride)
        self.bn2, self.conv2 = norm(width), _conv(width, width)
        self.stride, self.extra = stride, width - before

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride)
        return y + (F.pad(x, (0, 0, 0, 0, 0, self.extra)) if self.extra else x)


class _ThreeStages(_Network):
    """A convolution to 16 channels, then stages of n blocks with 16, 32, 64 times ``widen``
    channels."""

    def __init__(self, block, depth: int, widen: int = 1, stem_norm: nn.Module | None = None):
        super().__init__()
        self.conv1, before = _conv(3, 16), 16
        if stem_norm is not None:
            self.bn1 = stem_norm
        for stage, width in enumerate((16 * widen, 32 * widen, 64 * widen), 1):
            layers = [
                block(width if i else before, width, 2 if stage > 1 and i == 0 else 1)
                for i in range((depth - 2) // 6)
            ]
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
            before = width
        self.width = before

    def stages(self, x: Tensor) -> Tensor:
        return self.layer3(self.layer2(self.layer1(x)))


class PlainResNet(_ThreeStages):
    """The CIFAR residual network: normalisation after each convolution.

    ``shortcut="pad"`` and a layer ``linear``: the ResNet-20 to -110 of the paper ("option A").
    ``shortcut="project"`` and a layer ``classifier`` without bias: the ResNet-26 of the TTAB
    benchmark (2306.03536), with norm "bn" or "gn" (8 groups).
    """

    def __init__(self, depth: int = 20, norm: str = "bn", shortcut: str = "pad", classes: int = 10):
        make = _norms(norm)
        super().__init__(
            lambda before, width, stride: PlainBlock(before, width, stride, make, shortcut), depth,
            stem_norm=make(16))
        self.head_name = "linear" if shortcut == "pad" else "classifier"
        setattr(self, self.head_name, nn.Linear(self.width, classes, bias=shortcut == "pad"))

    def maps(self, x: Tensor) -> Tensor:
        return self.stages(F.relu(self.bn1(self.conv1(x))))


class PreResNet(_ThreeStages):
    """The residual network of test-time training (1909.13231) and MEMO (2110.09506): normalisation
    before each convolution, ``norm`` "bn" or "gn" (8 groups)."""

    def __init__(self, depth: int = 26, widen: int = 1, norm: str = "gn", classes: int = 10):
        make = _norms(norm)
        super().__init__(lambda before, width, stride: PreBlock(before, width, stride, make), depth,
                         widen)
        self.bn, self.fc = make(self.width), nn.Linear(self.width, classes)

    def maps(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.stages(self.conv1(x))))


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "wrn_28_10": lambda classes=10: WideResNet(28, 10, classes),
    "wrn_40_2": lambda classes=10: WideResNet(40, 2, classes),
    "resnext_29": lambda classes=10: ResNeXt(29, 4, 32, classes),
    "resnet_20": lambda classes=10: PlainResNet(20, "bn", "pad", classes),
    "resnet_26_gn": lambda classes=10: PreResNet(26, 1, "gn", classes),
    "resnet_26_bn": lambda classes=10: PreResNet(26, 1, "bn", classes),
    "ttab_resnet_26_gn": lambda classes=10: PlainResNet(26, "gn", "project", classes),
    "ttab_resnet_26_bn": lambda classes=10: PlainResNet(26, "bn", "project", classes),
}


# --- published checkpoints ----------------------------------------------------------------------

@dataclass(frozen=True)
class Preset:
    """A published checkpoint: architecture, number of classes, the normalisation it was trained
    with, and its clean accuracy in per cent as published (None where no figure was found)."""

    architecture: str
    classes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    accuracy: float | None
    source: str


PRESETS = {
    "cifar10/Standard": Preset("wrn_28_10", 10, NONE_MEAN, NONE_STD, 94.78, "RobustBench"),
    "cifar10/Hendrycks2020AugMix_WRN": Preset("wrn_40_2", 10, HALF, HALF, 95.08, "RobustBench"),
    "cifar10/Hendrycks2020AugMix_ResNeXt": Preset("resnext_29", 10, HALF, HALF, 95.83,
                                                  "RobustBench"),
    "cifar100/Hendrycks2020AugMix_WRN": Preset("wrn_40_2", 100, HALF, HALF, 76.28, "RobustBench"),
    "cifar100/Hendrycks2020AugMix_ResNeXt": Preset("resnext_29", 100, HALF, HALF, 78.90,
                                                   "RobustBench"),
    "cifar10/akamaster_resnet20": Preset("resnet_20", 10, IMAGENET_MEAN, IMAGENET_STD, 91.73,
                                         "akamaster/pytorch_resnet_cifar10"),
    "cifar10/TTT_resnet26_gn": Preset("resnet_26_gn", 10, HALF, HALF, None,
                                      "yueatsprograms/ttt_cifar_release"),
    "cifar10/TTAB_resnet26_gn": Preset("ttab_resnet_26_gn", 10, CIFAR10_MEAN, CIFAR10_STD, None,
                                       "LINs-lab/ttab"),
    "cifar10/TTAB_resnet26_bn": Preset("ttab_resnet_26_bn", 10, CIFAR10_MEAN, CIFAR10_STD, None,
                                       "LINs-lab/ttab"),
}

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship",
                   "truck")


def _blocks(state: dict[str, Tensor], pattern: str) -> int:
    """One more than the largest number that a pattern finds in the names."""
    found = [int(m[1]) for m in map(re.compile(pattern).match, state) if m]
    return 1 + max(found, default=-1)


def guess(state: dict[str, Tensor]) -> tuple[str, nn.Module] | None:
    """Name and (uninitialised, on no device) network that a state dict's names and shapes speak
    of; None when they speak of none here.

    Only the layers that tell depth, width and classes are looked at; `fill` compares all of them.
    """
    def size(name: str, axis: int = 0) -> int:
        return state[name].shape[axis] if name in state and state[name].ndim > axis else 0

    def norm(name: str) -> str:
        return "bn" if f"{name}.running_mean" in state else "gn"

    with torch.device("meta"):
        if "block1.layer.0.conv1.weight" in state and "fc.weight" in state:
            depth = 6 * _blocks(state, r"block1\.layer\.(\d+)\.") + 4
            widen = max(1, size("block1.layer.0.conv1.weight") // 16)
            return f"wrn_{depth}_{widen}", WideResNet(depth, widen, size("fc.weight"))
        if "stage_1.0.conv_conv.weight" in state and "classifier.weight" in state:
            inner = size("stage_1.0.conv_conv.weight")
            base = max(1, size("stage_1.0.conv_conv.weight", 1))
            depth = 9 * _blocks(state, r"stage_1\.(\d+)\.") + 2
            return f"resnext_{depth}", ResNeXt(depth, max(1, inner // base), base,
                                               size("classifier.weight"))
        if "layer3.0.conv1.weight" not in state or "layer4.0.conv1.weight" in state:
            return None
        depth = 6 * _blocks(state, r"layer1\.(\d+)\.") + 2
        if "linear.weight" in state:
            return f"resnet_{depth}", PlainResNet(depth, "bn", "pad", size("linear.weight"))
        if "classifier.weight" in state:
            kind = norm("bn1")
            return f"ttab_resnet_{depth}_{kind}", PlainResNet(depth, kind, "project",
                                                              size("classifier.weight"))
        if "bn.weight" in state and "fc.weight" in state:
            kind = norm("bn")
            widen = max(1, size("layer1.0.conv1.weight") // 16)
            return f"resnet_{depth}_{kind}", PreResNet(depth, widen, kind, size("fc.weight"))
    return None


def _preset(name: str, classes: int) -> str | None:
    """The full name of a preset given in full, or by its last part together with the number of
    classes."""
    if name in PRESETS:
        return name
    return next((k for k, p in PRESETS.items() if k.split("/")[1] == name and p.classes == classes),
                None)


def _normaliser(state: dict[str, Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation stored among the weights, taken out of the state dict."""
    for mean, std in (("mu", "sigma"), ("normalize.mean", "normalize.std")):
        if mean in state and std in state:
            return tuple(tuple(state.pop(k).double().flatten().tolist()) for k in (mean, std))
    return None


def load_cifar(path: str | Path, architecture: str | None = None, mean=None, std=None,
               classes: tuple[str, ...] | None = None) -> SourceModel:
    """A checkpoint of a CIFAR network as a source model in eval mode, from .safetensors or what
    torch.save wrote.

    Only where ``architecture`` names a preset does ``info`` carry the published accuracy: weights
    of your own may look the same.

    architecture  None: read from names and shapes; a name in NETWORKS; a name in PRESETS
                  ("cifar10/Standard"), of which the
                  last part is enough ("Hendrycks2020AugMix_ResNeXt")
    mean, std     how the network wants (x - mean) / std, x in [0, 1]; None: what the file itself
                  holds (``mu`` and ``sigma``), else
                  that of the preset with this architecture and number of classes, else none.
                  ``info["normalisation"]`` says which; whether it is right, `doctor` can tell
    classes       names of the outputs; None: CIFAR-10's for a network with ten outputs

    Raises DataError, naming file, keys and remedy: see `read_state_dict`, or when the weights do
    not fit the architecture; ValueError for an unknown architecture.
    """
    names = names_of(classes)
    mean, std = (None if v is None else per_channel(k, v)
                 for k, v in (("mean", mean), ("std", std)))
    if not isinstance(architecture, str | None):
        raise WrongKind(f"architecture must be a name such as 'wrn_28_10' or 'cifar10/Standard', "
                        f"not {architecture!r}")
    state = read_state_dict(path)
    stored = _normaliser(state)
    if (mean is None) != (std is None):
        raise ValueError("give both mean and std, or neither")
    guessed = guess(state)
    count = next((len(state[f"{k}.weight"]) for k in ("fc", "classifier", "linear")
                  if f"{k}.weight" in state and state[f"{k}.weight"].ndim), 10)
    if architecture is None:
        if guessed is None:
            raise DataError(f"the checkpoint {path} is none of the CIFAR networks "
                            f"{', '.join(NETWORKS)}: its {len(state)} entries start with "
                            f"{', '.join(list(state)[:5])}; for ImageNet networks use "
                            f"from_torchvision or from_timm, or build the network "
                            "yourself and wrap it with with_input_card")
        name = guessed[0]
        remedy = ("The file looks like this network but is not: it may be cut off, or have "
                  "changed layers")
        named, net = None, guessed[1]
    else:
        named = _preset(architecture, count)
        if named is None and architecture not in NETWORKS:
            near = difflib.get_close_matches(architecture, [*NETWORKS, *PRESETS], 1)
            raise ValueError(f"there is no CIFAR network "
                             f"{architecture!r}{f'; did you mean {near[0]}?' if near else ''}; "
                             f"there are: "
                             f"{', '.join(NETWORKS)}; and the presets {', '.join(PRESETS)}")
        name = PRESETS[named].architecture if named else architecture
        remedy = (f"Its names and shapes are those of {guessed[0]}: leave "
                  "architecture out") if guessed and guessed[0] != name else \
            "Leave architecture out to have it read from the file"
        with torch.device("meta"):
            net = NETWORKS[name](classes=PRESETS[named].classes if named else count)
    net = fill(net.to_empty(device="cpu"), state, path, name, remedy)
    likely = (named or next(
        (k for k, p in PRESETS.items() if (p.architecture, p.classes) == (name, count)), None))
    if mean is not None:
        said, chosen = "as given", (mean, std)
    elif stored is not None:
        said, chosen = "stored in the file", stored
    elif likely is not None:
        said = f"that of {likely}" + ("" if named else ", by its architecture")
        chosen = (PRESETS[likely].mean, PRESETS[likely].std)
    else:
        said = "none, for want of a preset"
        chosen = (NONE_MEAN, NONE_STD)
    names = names or (CIFAR10_CLASSES if net.head.out_features == 10 else None)
    if names is not None and len(names) != net.head.out_features:
        raise ValueError(f"{len(names)} class names for {net.head.out_features} outputs")
    info = {"architecture": name, "weights": str(path), "normalisation": said}
    info |= {"preset": named} if named else {}
    info |= {"test_accuracy": PRESETS[named].accuracy
             } if named and PRESETS[named].accuracy is not None else {}
    info |= {"classes": list(names)} if names else {}
    return SourceModel(net, InputCard(3, (32, 32), *chosen), info=info).eval()
