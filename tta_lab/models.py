"""Source models: small networks with separable ``features`` and ``head``, and the input card they carry.

Users feed images in [0, 1]; the normalisation belongs to the model. A model of any other origin works too:
an ``nn.Module`` from images to logits (B, C, *S) is all that the adapter asks for, and ``with_input_card``
gives it a card. ``from_torchvision`` and ``from_timm`` read the card from the weights, ``cifar_networks.load_cifar``
opens the checkpoints of the CIFAR benchmarks, ``with_classes`` keeps some of a model's classes.
"""
from __future__ import annotations

import copy
import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .datasets import DataError, checked_bytes, class_logits, data_root, refuse_html


class InputError(ValueError):
    """Images that a model cannot mean: wrong range, shape or type, NaN or Inf. Raised before any state is touched."""


def check_finite(x: Tensor, ids=None) -> None:
    """Raise InputError when images (B, ...) hold NaN or Inf, naming the rows (their ids where given)."""
    bad = ~torch.isfinite(x.flatten(1)).all(1)
    if bad.any():
        rows = bad.nonzero().flatten().tolist()
        names = rows if ids is None else [int(ids[r]) for r in rows]
        what = "positions" if ids is None else "ids"
        raise InputError(f"{len(rows)} of {len(x)} images hold NaN or Inf ({what} {names[:10]}"
                         f"{', ...' if len(names) > 10 else ''}); remove or repair them before adapting")


@dataclass(frozen=True)
class InputCard:
    """What a model expects to be fed: ``channels``, ``size`` (height, width) or None for any, and how it
    normalises: (x - mean) / std per channel, x in [0, 1]."""

    channels: int = 3
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        for name in ("mean", "std"):
            value = tuple(float(v) for v in getattr(self, name))
            if len(value) not in (1, self.channels):
                raise ValueError(f"InputCard.{name} needs 1 or {self.channels} values, got {len(value)}")
            object.__setattr__(self, name, value)
        if self.size is not None:
            object.__setattr__(self, "size", tuple(int(s) for s in self.size))
        if min(self.std) <= 0:
            raise ValueError(f"InputCard.std must be positive, got {self.std}")

    def check(self, x: Tensor, normalised: bool = False) -> None:
        """Raise InputError unless x is float (B, channels, height, width) and, where the model normalises
        itself, within [0, 1]."""
        size = "any size" if self.size is None else f"{self.size[0]} x {self.size[1]}"
        expected = f"this model expects float images (batch, {self.channels}, {size}) in [0, 1]"
        if not x.is_floating_point():
            raise InputError(f"got {x.dtype} images; {expected}: convert with x.float() / 255")
        if x.ndim != 4 or x.shape[1] != self.channels or (self.size and tuple(x.shape[2:]) != self.size):
            raise InputError(f"got images of shape {tuple(x.shape)}; {expected}")
        if normalised or not x.numel():
            return
        low, high = (float(v) for v in x.detach().aminmax())
        if low < 0 or high > 1:
            guess = ("they look like 0..255: divide by 255" if high > 2 and low >= 0 else
                     "they look normalised already: undo it, or say normalisation='in_data' when loading the model")
            raise InputError(f"got images in [{low:.4g}, {high:.4g}]; {expected}; {guess}")


class SourceModel(nn.Module):
    """A classifier with its input card: images in [0, 1] -> normalise -> ``net.features`` -> ``net.head`` -> logits.

    ``normalisation="in_data"`` says that the loader has normalised already: the model then feeds images on as
    they are. ``card`` is the InputCard, ``info`` the JSON card of the checkpoint (architecture, accuracy, ...).
    """

    def __init__(self, net: nn.Module, card: InputCard, normalisation: str = "in_model", info: dict | None = None):
        super().__init__()
        if normalisation not in ("in_model", "in_data"):
            raise ValueError(f"normalisation must be 'in_model' or 'in_data', not {normalisation!r}")
        self.net, self.card, self.normalisation, self.info = net, card, normalisation, dict(info or {})
        self.check_input = True
        for name in ("mean", "std"):
            value = torch.tensor(getattr(card, name)).view(1, -1, 1, 1)
            self.register_buffer(f"input_{name}", value, persistent=False)

    def check(self, x: Tensor, ids=None) -> None:
        """Raise InputError when the batch is not what the card asks for (the adapter calls this first)."""
        if x.is_floating_point() and x.ndim > 1:
            check_finite(x, ids)  # before the range, in which an infinite image would look like one of 0 .. 255
        self.card.check(x, normalised=self.normalisation == "in_data")

    def normalise(self, x: Tensor) -> Tensor:
        """(x - mean) / std, or x itself when the data come normalised."""
        return x if self.normalisation == "in_data" else (x - self.input_mean) / self.input_std

    def _prepare(self, x: Tensor) -> Tensor:
        if self.check_input:
            self.check(x)
        return self.normalise(x)

    def features(self, x: Tensor) -> Tensor:
        """The input of the head, (B, D)."""
        if not hasattr(self.net, "features"):
            raise AttributeError(f"{type(self.net).__name__} has no 'features'; methods that need features "
                                 "do not work with this model")
        return self.net.features(self._prepare(x))

    @property
    def head(self) -> nn.Module:
        """The last layer, features (B, D) -> logits (B, K)."""
        return self.net.head

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self._prepare(x))


def with_input_card(net: nn.Module, *, channels: int = 3, size=None, mean=(0.0,), std=(1.0,),
                    normalisation: str = "in_model") -> SourceModel:
    """Give any classifier an input card, so that it takes images in [0, 1] and refuses everything else."""
    return SourceModel(net, InputCard(channels, size, tuple(mean), tuple(std)), normalisation).eval()


# --- models of other libraries --------------------------------------------------------------------------------

class Cut(nn.Module):
    """A classifier cut in front of its last layer: ``features`` gives that layer's input (B, D), ``head`` is the layer.

    head(features(x)) is net(x), bit for bit. ``net`` is left whole; the parameters are shared with it.
    """

    def __init__(self, net: nn.Module, path: str):
        super().__init__()
        self.body = body = copy.copy(net)
        *way, last = path.split(".")
        body._modules = dict(body._modules)      # only the modules on the way to the head are copied, and only shallowly
        for name in way:
            body._modules[name] = copy.copy(body._modules[name])
            body = body._modules[name]
            body._modules = dict(body._modules)
        self.head, body._modules[last] = body._modules[last], nn.Identity()

    def features(self, x: Tensor) -> Tensor:
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def _last_linear(net: nn.Module) -> str | None:
    """The path of the last linear layer, which is the classifier in all of torchvision's classification networks that have one."""
    paths = [path for path, module in net.named_modules() if isinstance(module, nn.Linear)]
    return paths[-1] if paths else None


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_WRAPS = ("state_dict", "model_state_dict", "model", "net")   # where training scripts put the weights in a larger file
_PREFIXES = ("module.", "_orig_mod.", "net.", "model.")        # left by DataParallel, torch.compile and wrappers
_NORMALISERS = ("normalize.mean", "normalize.std", "mu", "sigma")


def _unpickle(path: Path):
    """torch.load with weights_only; NumPy numbers (an accuracy stored beside the weights) are let through too, they run no code."""
    import _codecs

    import numpy as np

    def number(core):   # NumPy 2 moved the function; files name either place
        def scalar(*arguments):
            return np.float64(0).__reduce__()[0](*arguments)

        scalar.__module__, scalar.__qualname__ = f"numpy.{core}.multiarray", "scalar"
        return scalar

    harmless = [number("core"), number("_core"), _codecs.encode, np.dtype, *(type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4", "?"))]
    with torch.serialization.safe_globals(harmless):
        return torch.load(path, map_location="cpu", weights_only=True)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file by name, on the CPU: .safetensors, or what torch.save wrote (.pt, .pth, .th, .tar).

    Weights nested under "state_dict", "model_state_dict", "model" or "net" are taken out, and the prefixes "module.",
    "_orig_mod.", "net." and "model." that all names share are dropped. Nothing in the file is run (``weights_only=True``).
    Raises DataError, naming the file and the remedy: not there, empty, a web page, truncated, not only tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no checkpoint file {path}; check the path")
    with path.open("rb") as file:
        head = file.read(512)
    refuse_html(head, path)
    if not head or head.startswith(b"version https://git-lfs"):
        what = "is empty" if not head else "is a Git LFS pointer, not the file itself"
        raise DataError(f"the checkpoint {path} {what}; download it again")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(path)
        else:
            content = _unpickle(path)
    except Exception as why:
        text = str(why).split("WeightsUnpickler error:")[-1].strip()
        reason = text.splitlines()[0] if text else type(why).__name__
        if "Unsupported global" in text or "Unsupported class" in text:
            raise DataError(f"the checkpoint {path} holds Python objects besides tensors ({reason[:200]}); loading them could run foreign code. "
                            "Where it was made, save the weights alone: torch.save(model.state_dict(), path)") from why
        raise DataError(f"the checkpoint {path} cannot be read ({path.stat().st_size} bytes; {reason[:200]}): it is truncated, damaged or "
                        "no checkpoint; download it again and compare its size") from why
    for _ in range(3):
        inside = next((k for k in _WRAPS if isinstance(content, dict) and isinstance(content.get(k), dict)), None)
        if inside is None:
            break
        content = content[inside]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        found = type(content).__name__ if not isinstance(content, dict) else f"a dict with {', '.join(map(str, list(content)[:8])) or 'nothing'}"
        raise DataError(f"the checkpoint {path} holds {found}, not a state dict of named tensors; save model.state_dict()")
    return _strip(content)


def _strip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    while True:
        names = [k for k in state if k not in _NORMALISERS]
        prefix = next((p for p in _PREFIXES if names and all(k.startswith(p) for k in names)), None)
        if prefix is None:
            return dict(state)
        state = {k if k in _NORMALISERS else k.removeprefix(prefix): v for k, v in state.items()}


def _some(names, many: int = 6) -> str:
    names = list(names)
    return ", ".join(names[:many]) + (f" and {len(names) - many} more" if len(names) > many else "")


def fill(net: nn.Module, state: dict[str, Tensor], path: str | Path, name: str, remedy: str) -> nn.Module:
    """Load a state dict into a network in float32, strictly except for batch-norm's batch counters.

    Raises DataError naming the file, the keys that are missing, unexpected or of another shape, and the remedy.
    """
    wanted = net.state_dict()
    counters = {k for k in wanted if k.endswith("num_batches_tracked")}
    missing = [k for k in wanted if k not in state and k not in counters]
    unexpected = [k for k in state if k not in wanted]
    shapes = [f"{k} {tuple(state[k].shape)} instead of {tuple(v.shape)}" for k, v in wanted.items()
              if k in state and state[k].shape != v.shape]
    wrong = [f"{len(keys)} {what}: {_some(keys)}" for what, keys in
             (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)) if keys]
    if wrong:
        raise DataError(f"the checkpoint {path} does not fit {name}: {'; '.join(wrong)}. {remedy}")
    given = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    broken = [k for k, v in given.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if broken:
        raise DataError(f"the checkpoint {path} holds NaN or Inf in {_some(broken)}; take an earlier one of the same training")
    net.load_state_dict({k: given[k] if k in given else torch.zeros_like(v) for k, v in wanted.items()})
    return net


def _card_size(size, own: tuple[int, int] | None) -> tuple[int, int] | None:
    if size == "weights":
        return own
    return None if size is None else (size, size) if isinstance(size, int) else tuple(size)


def _cut(net: nn.Module, path: str | None) -> nn.Module:
    return net if path is None else Cut(net, path)


def _skeleton(name: str) -> nn.Module:
    """A torchvision classifier of which only names and shapes are wanted."""
    from torchvision import models as zoo

    try:
        with torch.device("meta"):
            return zoo.get_model(name)
    except NotImplementedError:    # RegNets compute their widths with tensors, which must have values
        return zoo.get_model(name)


def from_torchvision(model: str | nn.Module, weights: str | Path | None = None, size="weights",
                     classes: tuple[str, ...] | None = None) -> SourceModel:
    """A torchvision classifier with the input card of its weights: mean, standard deviation, crop size.

    model    a name that torchvision knows ("resnet50", "vit_b_16", "swin_t", ...), or a network built with it
    weights  None: as built (a name alone gives random weights); "DEFAULT" or a name such as "IMAGENET1K_V1": torchvision's own,
             from its cache, else downloaded; a path: your state dict, with as many classes as its last layer has
    size     "weights": the size these weights are meant for; (H, W) or a side; None: any size, as convolutional networks take
    classes  names of the outputs; torchvision's own weights bring theirs

    ``info`` says architecture, weights, classes and, for torchvision's own weights, their accuracy on ImageNet in per cent.
    Raises ValueError for unknown names; DataError for files that are missing or do not fit, and for a download that failed.
    """
    from torchvision import models as zoo

    name = model if isinstance(model, str) else type(model).__name__
    entries = ()
    if isinstance(model, str):
        known = zoo.list_models(module=zoo)
        if model not in known:
            close = [k for k in known if k[:4] == model[:4]] or known
            raise ValueError(f"torchvision has no classifier {model!r}; there are: {_some(close, 20)}")
        entries = tuple(zoo.get_model_weights(model))
    own = {w.name: w for w in entries} | ({"DEFAULT": zoo.get_model_weights(model).DEFAULT} if entries else {})
    entry = own.get(weights) if isinstance(weights, str) else None
    file = None
    if weights is not None and entry is None:
        file = Path(weights)
        if not file.is_file():
            choice = f"one of {', '.join(own)}, or " if own else ""
            raise DataError(f"weights {str(weights)!r} for {name}: there is no such file; give {choice}the path of a state dict")
    card_from = entry or next((w for w in entries if file and Path(w.url).stem == file.stem), own.get("DEFAULT"))
    state = _downloaded(entry) if entry else read_state_dict(file) if file else None
    net = model
    if isinstance(model, str):
        settings = {"transform_input": True} if state and model in ("googlenet", "inception_v3") else {}   # as their weights were made
        with torch.random.fork_rng(devices=[]):
            if file:
                head = _last_linear(_skeleton(model))
                settings |= {"num_classes": len(state[f"{head}.weight"])} if f"{head}.weight" in state else {}
            net = zoo.get_model(model, **settings)
    if state is not None:
        fill(net, state, entry.url.rsplit("/", 1)[-1] if entry else file, name,
             "Choose the model that these weights were trained as; for weights with other layers build the network yourself and pass it")
    info = {"architecture": name, "weights": entry.name if entry else str(file) if file else None}
    if entry:
        info |= {"classes": list(entry.meta["categories"]), "test_accuracy": entry.meta["_metrics"]["ImageNet-1K"]["acc@1"]}
    if classes is not None:
        info["classes"] = list(classes)
    transform = card_from.transforms() if card_from else None
    crop = (transform.crop_size[0],) * 2 if transform else None
    card = InputCard(3, _card_size(size, crop), *((tuple(transform.mean), tuple(transform.std)) if transform else (IMAGENET_MEAN, IMAGENET_STD)))
    return SourceModel(_cut(net, _last_linear(net)), card, info=info).eval()


def _downloaded(entry) -> dict[str, Tensor]:
    """The state dict of torchvision's own weights, from its cache or the network."""
    try:
        return entry.get_state_dict(progress=False, check_hash=True, weights_only=True, map_location="cpu")
    except Exception as why:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise DataError(f"the weights {entry} are not (or damaged) in {folder} and could not be downloaded ({why}); fetch {entry.url} on a "
                        f"machine with network, then put the file there or give its path as weights=") from why


def from_timm(name: str, checkpoint: str | Path | None = None, pretrained: bool = False, size="weights") -> SourceModel:
    """A timm classifier with the input card of its pretrained configuration: mean, standard deviation, input size, channels.

    checkpoint   a state dict of yours (timm, or the same layers from elsewhere), with as many classes as its last layer has
    pretrained   let timm fetch its own weights (cache, else network)
    size         as in `from_torchvision`
    With neither, the weights are random. Raises ImportError where timm is not installed, ValueError for an unknown name,
    DataError for files that are missing or do not fit, and for a download that failed.
    """
    try:
        import timm
        from timm.data import resolve_model_data_config
    except ImportError as why:
        raise ImportError("from_timm needs the package timm: pip install timm; from_torchvision works without it") from why
    if checkpoint is not None and pretrained:
        raise ValueError("give either checkpoint= or pretrained=True, not both")
    if not timm.is_model(name.split(".")[0]):
        close = timm.list_models(f"*{name.split('_')[0]}*") or timm.list_models()
        raise ValueError(f"timm has no model {name!r}; there are: {_some(close, 12)}")
    state, count = None, {}
    if checkpoint is not None:
        state = read_state_dict(checkpoint)
        config = timm.get_pretrained_cfg(name)
        path = config.classifier if config else None
        if isinstance(path, str) and f"{path}.weight" in state:
            count = {"num_classes": len(state[f"{path}.weight"])}
    try:
        with torch.random.fork_rng(devices=[]):
            net = timm.create_model(name, pretrained=pretrained, **count)
    except Exception as why:
        if not pretrained:
            raise
        raise DataError(f"timm's weights for {name} could not be fetched ({str(why).splitlines()[0] if str(why) else type(why).__name__}); "
                        "fetch them on a machine with network and give the file as checkpoint=") from why
    if state is not None:
        fill(net, state, checkpoint, name, "Choose the timm model that these weights were trained as")
    config = resolve_model_data_config(net)
    channels, *own = config["input_size"]
    card = InputCard(channels, _card_size(size, tuple(own)), tuple(config["mean"]), tuple(config["std"]))
    head = net.get_classifier()
    path = next((p for p, m in net.named_modules() if m is head), None) if isinstance(head, nn.Linear) else None
    info = {"architecture": name, "weights": "timm" if pretrained else None if checkpoint is None else str(checkpoint)}
    return SourceModel(_cut(net, path), card, info=info).eval()


# --- some of a model's classes --------------------------------------------------------------------------------

class ClassPick(nn.Module):
    """Logits of K classes from those of L outputs, see `datasets.class_logits`."""

    def __init__(self, members: Tensor):
        super().__init__()
        self.register_buffer("members", members)

    def forward(self, logits: Tensor) -> Tensor:
        return class_logits(logits, self.members)


class PickedNet(nn.Module):
    """A network whose logits are those of chosen or grouped classes; its features are unchanged."""

    def __init__(self, net: nn.Module, members: Tensor):
        super().__init__()
        self.net, self.pick = net, ClassPick(members)

    def features(self, x: Tensor) -> Tensor:
        return self.net.features(x)

    @property
    def head(self) -> nn.Module:
        return nn.Sequential(self.net.head, self.pick)

    def forward(self, x: Tensor) -> Tensor:
        return self.pick(self.net(x))


def _outputs(model: SourceModel) -> int:
    layers = [m for m in getattr(model.net, "head", model.net).modules() if isinstance(m, nn.Linear)]
    if not layers:
        raise ValueError(f"the number of outputs of {type(model.net).__name__} is not known; say outputs=")
    return layers[-1].out_features


def with_classes(model: SourceModel, classes, kind: str | None = None, outputs: int | None = None, names=None) -> SourceModel:
    """The same model with logits of K chosen or grouped classes instead of its L outputs (ImageNet-A and -R keep 200 of 1000).

    classes  "outputs", int64 (K,) or (K, M) padded with -1: the output, or several, that stand for each class;
             "groups", int64 (L,): the class of each output, -1 for an output that is not used. Where several outputs
             stand for one class, it takes the largest of their logits, so that it wins exactly where one of them does
    kind     "outputs" or "groups"; None: "groups" where ``classes`` has L entries that are not just L different outputs
    outputs  L, where the last layer does not tell
    names    names of the K classes

    Raises ValueError for indices out of range, outputs named twice, classes without an output, an unclear ``kind``.
    """
    chosen = torch.as_tensor(classes)
    if chosen.is_floating_point() or chosen.dtype == torch.bool or chosen.ndim not in (1, 2) or not chosen.numel():
        raise ValueError(f"classes must be int64 (K,), (K, M) or (L,), got {chosen.dtype} {tuple(chosen.shape)}")
    chosen, total = chosen.long(), outputs or _outputs(model)
    if kind is None:
        kind = "groups" if chosen.ndim == 1 and len(chosen) == total else "outputs"
        if kind == "groups" and chosen.unique().numel() == total and int(chosen.min()) >= 0:
            raise ValueError(f"{total} different numbers for {total} outputs can be read in two ways; say kind='outputs' (the output of each "
                             "class) or kind='groups' (the class of each output)")
    if kind not in ("outputs", "groups"):
        raise ValueError(f"kind must be 'outputs' or 'groups', not {kind!r}")
    if kind == "groups":
        if chosen.shape != (total,):
            raise ValueError(f"kind='groups' needs one class for each of the {total} outputs, got {tuple(chosen.shape)}")
        members = [(chosen == k).nonzero()[:, 0] for k in range(int(chosen.max()) + 1)]
        chosen = nn.utils.rnn.pad_sequence(members, batch_first=True, padding_value=-1)
    table = chosen.view(len(chosen), -1)
    used = table[table >= 0]
    if int(chosen.min()) < -1 or int(chosen.max()) >= total:
        raise ValueError(f"outputs run from 0 to {total - 1}, got {int(chosen.min())} to {int(chosen.max())}")
    empty = (table < 0).all(1).nonzero()[:, 0].tolist()
    if empty:
        raise ValueError(f"these classes have no output: {empty[:10]}")
    if used.unique().numel() < used.numel():
        twice = used[used.bincount()[used] > 1].unique().tolist()
        raise ValueError(f"these outputs stand for more than one class: {twice[:10]}")
    if names is not None and len(names) != len(chosen):
        raise ValueError(f"{len(names)} names for {len(chosen)} classes")
    known = model.info.get("classes")
    if names is None and known and len(known) == total:
        names = [" / ".join(known[i] for i in row if i >= 0) for row in table.tolist()]
    info = {k: v for k, v in model.info.items() if k not in ("classes", "test_accuracy")} | ({"classes": list(names)} if names else {})
    picked = SourceModel(PickedNet(model.net, chosen[:, 0] if chosen.ndim == 2 and chosen.shape[1] == 1 else chosen), model.card,
                         model.normalisation, info)
    return picked.to(model.input_mean.device).train(model.training)


# --- the embedded architectures ------------------------------------------------------------------------------

def _norm(kind: str, width: int) -> nn.Module:
    return nn.BatchNorm2d(width) if kind == "bn" else nn.GroupNorm(8, width)


class Residual(nn.Module):
    """Two 3x3 convolutions with normalisation, added to a (projected) shortcut."""

    def __init__(self, before: int, width: int, stride: int, norm: str):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(before, width, 3, stride, 1, bias=False), _norm(norm, width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), _norm(norm, width)
        self.shortcut = nn.Identity() if before == width and stride == 1 else nn.Conv2d(before, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class SmallResNet(nn.Module):
    """A residual network of three stages for small grey or colour images, (B, channels, H, W) -> (B, classes)."""

    def __init__(self, norm: str = "bn", classes: int = 10, channels: int = 1, widths=(24, 48, 96)):
        super().__init__()
        if norm not in ("bn", "gn"):
            raise ValueError(f"norm must be 'bn' or 'gn', not {norm!r}")
        stem = [nn.Conv2d(channels, widths[0], 3, 2, 1, bias=False), _norm(norm, widths[0]), nn.ReLU()]
        stages = [Residual(before, width, 1 if i == 0 else 2, norm)
                  for i, (before, width) in enumerate(zip((widths[0], *widths), widths, strict=False))]
        self.features = nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Attention(nn.Module):
    """Multi-head self-attention, (B, T, D) -> (B, T, D)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, d))


class TransformerBlock(nn.Module):
    """Pre-norm transformer block: attention, then a two-layer perceptron."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SmallViT(nn.Module):
    """A small vision transformer (LayerNorm); three strided convolutions make one token of 8 x 8 pixels.

    (B, channels, size, size) -> (B, classes). The convolutional stem trains better than a linear one on small data (2106.14881).
    """

    def __init__(self, classes: int = 10, channels: int = 1, size: int = 28, width: int = 64, depth: int = 4, heads: int = 4):
        super().__init__()
        self.patches = nn.Sequential(nn.Conv2d(channels, width // 2, 3, 2, 1), nn.GELU(), nn.Conv2d(width // 2, width, 3, 2, 1), nn.GELU(),
                                     nn.Conv2d(width, width, 3, 2, 1))
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, math.ceil(size / 8) ** 2 + 1, width) * 0.02)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads, 2 * width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def features(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)                      # (B, T, D)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        return self.norm(self.blocks(x))[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


ARCHITECTURES = {
    "resnet_bn": lambda **k: SmallResNet("bn", **k),
    "resnet_gn": lambda **k: SmallResNet("gn", **k),
    "vit_ln": lambda **k: SmallViT(**k),
}


# --- checkpoints ---------------------------------------------------------------------------------------------

def checkpoints(root: str | Path | None = None) -> dict[str, dict]:
    """The embedded checkpoints: name -> JSON card."""
    folder = data_root(root) / "checkpoints"
    return {p.stem: json.loads(p.read_text()) for p in sorted(folder.glob("*.json"))}


def load_model(name: str = "fashion_resnet_bn", normalisation: str = "in_model", root: str | Path | None = None) -> SourceModel:
    """An embedded source model in eval mode, e.g. ``fashion_resnet_bn``, ``fashion_resnet_gn``, ``fashion_vit_ln``
    or ``fashion8_resnet_bn`` (trained without the classes Coat and Sneaker)."""
    from safetensors.torch import load as load_tensors

    known = checkpoints(root)
    if name not in known:
        raise DataError(f"there is no checkpoint {name!r} in {data_root(root) / 'checkpoints'}; there are: {', '.join(known)}")
    info = known[name]
    weights = load_tensors(checked_bytes(f"checkpoints/{name}.safetensors", root))
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced at once; the global generator stays where it is
        net = ARCHITECTURES[info["architecture"]](**info["arguments"])
    net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
    card = InputCard(**{k: tuple(v) if isinstance(v, list) else v for k, v in info["input"].items()})
    return SourceModel(net, card, normalisation, info).eval()


def save_model(model: SourceModel, name: str, info: dict, root: str | Path) -> Path:
    """Write ``<name>.safetensors`` (convolution and linear weights in float16, the rest in float32) and its card."""
    from safetensors.torch import save

    folder = Path(root) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: (v.half() if v.ndim > 1 else v).contiguous() for k, v in model.net.state_dict().items()}
    content = save(tensors)
    card = {**info, "input": asdict(model.card), "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / f"{name}.safetensors").write_bytes(content)
    (folder / f"{name}.json").write_text(json.dumps(card, indent=1) + "\n")
    return folder / f"{name}.safetensors"
