"""Source models: small networks with separable ``features`` and ``head``, and the input card they carry.

Users feed images in [0, 1]; the normalisation belongs to the model. A model of any other origin works too:
an ``nn.Module`` from images to logits (B, C, *S) is all that the adapter asks for, and ``with_input_card``
gives it a card. ``from_torchvision`` and ``from_timm`` read the card from the weights, ``cifar_networks.load_cifar``
opens the checkpoints of the CIFAR benchmarks, ``with_classes`` keeps some of a model's classes.
"""
from __future__ import annotations

import copy
import difflib
import hashlib
import io
import json
import math
import os
import pickletools
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.arguments import WrongKind, _plain, _say, choice, flag, model_of, number, path_of, whole
from ..core.copying import unwrapped
from ..core.files import write_text, written
from ..data.image_set import DataError, checked_bytes, class_logits, data_root, refuse_html


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


def _side(size, name: str = "size") -> tuple[int, int] | None:
    """(height, width) from a pair or from one side; None stays None."""
    size = _plain(size)
    if size is None:
        return None
    if isinstance(size, (str, bytes)) or not isinstance(size, Iterable):
        if isinstance(size, (str, bytes)):
            raise WrongKind(f"{name} must be one side in pixels, (height, width), or None for any size, not the text {size!r}")
        side = whole(name, size, 1)
        return side, side
    pair = tuple(size)
    if len(pair) != 2:
        raise ValueError(f"{name} must be one side in pixels, (height, width), or None for any size, not {pair!r}")
    return whole(f"{name}[0]", pair[0], 1), whole(f"{name}[1]", pair[1], 1)


def _per_channel(name: str, value) -> tuple[float, ...]:
    """One number, or one for each channel, as a tuple."""
    value = _plain(value)
    if isinstance(value, (str, bytes, Mapping)) or value is None or isinstance(value, bool):
        raise WrongKind(f"{name} must be a number, or one for each channel, not {value!r}")
    if not isinstance(value, Iterable):
        return (number(name, value),)
    return tuple(number(f"{name}[{i}]", v) for i, v in enumerate(value))


def _numbers(values) -> str:
    return ", ".join(f"{v:.4g}" for v in values)


@dataclass(frozen=True)
class InputCard:
    """What a model expects to be fed: ``channels``, ``size`` (height, width) or None for any, and how it
    normalises: (x - mean) / std per channel, x in [0, 1]. One side stands for a square, one number for all channels.
    Raises ValueError for values that cannot be meant."""

    channels: int = 3
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        object.__setattr__(self, "channels", whole("InputCard.channels", self.channels, 1))
        object.__setattr__(self, "size", _side(self.size, "InputCard.size"))
        for name in ("mean", "std"):
            value = _per_channel(f"InputCard.{name}", getattr(self, name))
            if len(value) not in (1, self.channels):
                raise ValueError(f"InputCard.{name} needs {' or '.join(map(str, dict.fromkeys((1, self.channels))))} "
                                 f"value{'s' * (self.channels > 1)}, got {len(value)}")
            object.__setattr__(self, name, value)
        if min(self.std) <= 0:
            raise ValueError(f"InputCard.std must be positive, got {self.std}")

    def __str__(self) -> str:
        size = "of any size" if self.size is None else " x ".join(map(str, self.size))
        kind = {1: "grey", 3: "colour"}.get(self.channels, f"{self.channels} channels")
        return f"{kind}, {size}, mean {_numbers(self.mean)}, std {_numbers(self.std)}"

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


def _check_normalisation(value) -> str:
    if not isinstance(value, str) or value not in ("in_model", "in_data"):
        raise ValueError(f"normalisation must be 'in_model' or 'in_data', not {value!r}")
    return value


class SourceModel(nn.Module):
    """A classifier with its input card: images in [0, 1] -> normalise -> ``net.features`` -> ``net.head`` -> logits.

    ``normalisation="in_data"`` says that the loader has normalised already: the model then feeds images on as
    they are. ``card`` is the InputCard, ``info`` the JSON card of the checkpoint (architecture, accuracy, ...).
    """

    def __init__(self, net: nn.Module, card: InputCard, normalisation: str = "in_model", info: dict | None = None):
        super().__init__()
        if isinstance(net, type) or not isinstance(net, nn.Module):
            raise WrongKind(f"net must be a network (nn.Module), not {_say(net)}")
        if not isinstance(card, InputCard):
            raise WrongKind(f"card must be an InputCard, such as InputCard(channels=3, size=(32, 32)), not {_say(card)}")
        if not isinstance(info, Mapping | None):
            raise WrongKind(f"info must be a dict of what is known of the model, not {_say(info)}")
        _check_normalisation(normalisation)
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
        self._has("features")
        return self.net.features(self._prepare(x))

    @property
    def head(self) -> nn.Module:
        """The last layer, features (B, D) -> logits (B, K)."""
        self._has("head")
        return self.net.head

    def __getattr__(self, name: str):
        if name == "head":  # the property found none
            self._has(name)
        return super().__getattr__(name)

    def _has(self, name: str) -> None:
        if not hasattr(self.net, name):
            raise AttributeError(f"{type(self.net).__name__} has no {name!r}: methods that need features and head do not work with this model. "
                                 "with_input_card, from_torchvision and from_timm find both where the last linear layer makes the logits of "
                                 "its input; elsewhere give the network 'features' and 'head' with logits = head(features(x))")

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self._prepare(x))

    def __repr__(self) -> str:
        info, classes = self.info, self.info.get("classes")
        count, net = classes_of(self), self.net
        while isinstance(net, Cut | PickedNet):
            net = net.body if isinstance(net, Cut) else net.net
        every = sum(p.numel() for p in self.parameters())
        trained = sum(p.numel() for p in self.parameters() if p.requires_grad)
        named = f": {', '.join(map(str, classes[:4]))}{', ...' if len(classes) > 4 else ''}" if classes else ""
        origin = [info[k] for k in ("from", "name") if info.get(k)] or ([f"weights {info['weights']}"] if info.get("weights") else [])
        lines = {"architecture": info.get("architecture") or type(net).__name__,
                 "images": f"{self.card}; " + ("the data come normalised" if self.normalisation == "in_data" else "fed in [0, 1]"),
                 "classes": f"{'not known before it is asked' if count is None else count}{named}",
                 "from": origin[0] if origin else "a network of yours" if "weights" not in info else "drawn at random or as you built it",
                 "parameters": f"{every:,}, of which {trained:,} trainable; {'train' if self.training else 'eval'} mode"}
        if info.get("test_accuracy") is not None:
            lines["accuracy"] = f"{info['test_accuracy']} % on its own test set, as its card says"
        width = max(map(len, lines))
        return "\n".join(["SourceModel", *(f"  {k:<{width}}  {v}" for k, v in lines.items()), "  (the layers: print(model.net))"])


def classes_of(model: SourceModel) -> int | None:
    """The number of classes that a source model is known to answer in without being asked; None where it is not known."""
    if isinstance(model.net, PickedNet):
        return len(model.net.pick.members)
    if model.info.get("classes"):
        return len(model.info["classes"])
    head = getattr(model.net, "head", None)
    return model.info.get("num_classes", head.out_features if isinstance(head, nn.Linear) else None)


def with_input_card(net: nn.Module, *, channels: int = 3, size=None, mean=0.0, std=1.0, normalisation: str = "in_model",
                    num_classes: int | None = None, classes: Iterable[str] | None = None) -> SourceModel:
    """Give any classifier an input card, so that it takes images in [0, 1] and refuses everything else.

    net           a network from images to logits (B, K), compiled and parallel ones without their wrapping. One without ``features`` and
                  ``head`` (with logits = head(features(x))) is cut in front of its classifier, the last linear layer of K outputs, as
                  `from_torchvision` does, where that changes no answer, bit for bit
    channels, size, mean, std   of the `InputCard`; size: one side, (height, width) or None for any
    num_classes   K, checked against the network's; ``classes``: the names of the K outputs

    Raises ValueError, or TypeError for something of another kind, for arguments that cannot be meant and for another number of classes.
    """
    if isinstance(net, str | os.PathLike):
        raise WrongKind(f"net must be a network (nn.Module), not {net!r}; model_texts.open_model opens models by text, with mean=, std= and size= "
                        "in it")
    card = InputCard(channels, size, mean, std)
    names, count = _names(classes), None if num_classes is None else whole("num_classes", num_classes, 1)
    _check_normalisation(normalisation)
    if isinstance(net, SourceModel):
        raise ValueError("net has an input card already; give the network inside, model.net, where you want another one")
    net, _, found = split(unwrapped(SourceModel(net, card).net), card)
    for name, wanted in (("num_classes", count), ("classes", names and len(names))):
        if wanted is not None and found is not None and wanted != found:
            raise ValueError(f"{name} says {wanted} classes, but the network answers in {found}; models.with_classes(model, ...) keeps some of them")
    if count is not None and names is not None and count != len(names):
        raise ValueError(f"num_classes is {count}, but there are {len(names)} names in classes")
    known = found or count
    info = {"architecture": type(net.body if isinstance(net, Cut) else net).__name__}
    info |= ({"classes": names} if names else {}) | ({"num_classes": known} if known else {})
    return SourceModel(net, card, normalisation, info).eval()


def _names(classes) -> list[str] | None:
    """Names of classes as a list of texts."""
    if classes is None:
        return None
    if isinstance(classes, str | bytes) or not isinstance(classes, Iterable):
        raise WrongKind(f"classes must list the names of the outputs, such as ('cat', 'dog'), not {_say(classes)}")
    names = list(classes)
    wrong = next((n for n in names if not isinstance(n, str)), None)
    if wrong is not None or not names:
        raise WrongKind(f"classes must list the names of the outputs as texts, not {_say(wrong if names else names)}")
    return names


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


@torch.no_grad()
def split(net: nn.Module, card: InputCard) -> tuple[nn.Module, str, int | None]:
    """A network with ``features`` and ``head``, the path of the layer it was cut at ("": it was not), and the number of its classes, or None.

    A network whose own ``head(features(x))`` are its logits stays as it is; else it is cut in front of the last linear layer (of as many outputs as
    there are classes) where the logits stay the same, bit for bit, on two random images of the card (of 64, 32 and 224 pixels where any size
    will do); else it stays as it is.
    """
    from ..core.step_context import as_logits

    net.eval()
    first = next((p for p in (*net.parameters(), *net.buffers()) if p.is_floating_point()), torch.zeros(()))
    for size in [card.size] if card.size else [(64, 64), (32, 32), (224, 224)]:
        x = torch.rand(2, card.channels, *size, generator=torch.Generator().manual_seed(0)).to(first)
        try:
            logits = as_logits(net(x), net)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, NotImplementedError):
            continue
        if logits.ndim != 2:
            return net, "", None
        paths = [p for p, m in net.named_modules() if p and isinstance(m, nn.Linear) and m.out_features == logits.shape[1]]
        for way in ("", *reversed(paths)):
            cut = Cut(net, way) if way else net
            try:
                features = cut.features(x)
                if features.ndim == 2 and isinstance(cut.head, nn.Module) and torch.equal(as_logits(cut.head(features), cut), logits):
                    cut.eval()
                    return cut, way, logits.shape[1]
            except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, NotImplementedError):
                continue
        return net, "", logits.shape[1]
    return net, "", None


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


_HARMLESS = ("torch._utils._rebuild_", "torch.storage.", "torch.FloatStorage", "torch.Size", "torch.device", "torch._tensor._rebuild_from_type_v2",
             "collections.OrderedDict", "_codecs.encode", "numpy.dtype")


def _names_in(stream, found: dict) -> bool:
    """Enter the names "module.name" of one pickle, and say whether more may follow. What has neither a pickle's start nor its end is none."""
    start, texts, names = stream.tell(), [], []
    marked, ended = stream.read(1) == b"\x80", False
    stream.seek(start)
    try:
        for code, argument, _ in pickletools.genops(stream):
            if code.name == "GLOBAL":
                names.append(".".join(argument.split(" ", 1)))
            elif code.name == "STACK_GLOBAL" and len(texts) > 1:
                names.append(".".join(texts[-2:]))
            elif isinstance(argument, str):
                texts.append(argument)
            ended = code.name == "STOP"
    finally:
        if marked or ended:
            found |= dict.fromkeys(names)
    return stream.tell() < len(stream.getbuffer())


def _objects_in(path: Path) -> list[str]:
    """What a pickle would import or call when it is loaded, tensors' own functions left out: ["posix.system"]; read without running any of it."""
    import _compat_pickle

    found: dict[str, None] = {}
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any("/code/" in n for n in archive.namelist()):
                    return ["a TorchScript program"]
                streams = [io.BytesIO(archive.read(n)) for n in archive.namelist() if n.endswith(".pkl")]
        else:
            streams = [io.BytesIO(path.read_bytes())]
        for stream in streams:
            while _names_in(stream, found):  # older files are several pickles, one behind the other
                pass
    except (ValueError, OSError, zipfile.BadZipFile, UnicodeError, IndexError, NotImplementedError, RuntimeError):
        pass  # the numbers behind the pickles, or a damaged file: what was found up to there counts
    names = []
    for text in found:
        module, _, name = text.rpartition(".")
        module = _compat_pickle.IMPORT_MAPPING.get(module, module)
        names.append(f"{module}.{name}")
    return [n for n in names if not n.startswith(_HARMLESS) and not (n.startswith("torch.") and n.endswith("Storage"))]


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file by name, on the CPU: .safetensors, or what torch.save wrote (.pt, .pth, .th, .tar).

    Weights nested under "state_dict", "model_state_dict", "model" or "net" are taken out, and the prefixes "module.",
    "_orig_mod.", "net." and "model." that all names share are dropped. Nothing in the file is run (``weights_only=True``).
    Raises DataError, naming the file and the remedy: not there, empty, a web page, truncated, not only tensors.
    """
    path = path_of("path", path)
    if not path.is_file():
        raise DataError(f"there is no checkpoint file {path}; check the path" + (": this is a folder" if path.is_dir() else ""))
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
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's own advice
                content = _unpickle(path)
    except Exception as why:
        called = _objects_in(path)
        if called:
            raise DataError(f"the checkpoint {path} holds code or Python objects besides tensors ({_some(called, 4)}); loading them could run "
                            "foreign code, so nothing of it was loaded. Where it was made, save the weights alone: "
                            "torch.save(model.state_dict(), path)") from None  # torch's message recommends to load it all the same
        text = str(why).split("WeightsUnpickler error:")[-1].strip()
        reason = text.splitlines()[0] if text else type(why).__name__
        if "weights_only" in reason or "torch.load" in reason:
            reason = type(why).__name__
        raise DataError(f"the checkpoint {path} cannot be read ({path.stat().st_size} bytes; {reason[:200]}): it is truncated, damaged or "
                        "no checkpoint; download it again and compare its size") from None
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
    if isinstance(size, str) and size == "weights":
        return own
    if isinstance(size, str):
        raise WrongKind(f"size must be 'weights' (that of the weights), one side in pixels, (height, width) or None for any, not {size!r}")
    return _side(size)


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


def _near(name: str, known, shown: int = 6) -> str:
    """The names most like this one, for a message."""
    known = list(known)
    close = difflib.get_close_matches(name.lower(), known, shown, 0.5)
    return f"did you mean {_some(close, shown)}?" if close else f"there are: {_some(known, 20)}"


def from_torchvision(model: str | nn.Module, weights: str | Path | None = None, size="weights", classes: tuple[str, ...] | None = None,
                     num_classes: int | None = None) -> SourceModel:
    """A torchvision classifier with the input card of its weights: mean, standard deviation, crop size.

    model    a name that torchvision knows ("resnet50", "vit_b_16", "swin_t", ...), or a network built with it
    weights  None: as built (a name alone gives random weights); "DEFAULT" or a name such as "IMAGENET1K_V1": torchvision's own,
             from its cache, else downloaded; a path: your state dict, with as many classes as its last layer has
    size     "weights": the size these weights are meant for; (H, W) or a side; None: any size, as convolutional networks take
    classes  names of the outputs; torchvision's own weights bring theirs
    num_classes   the number of outputs: of a network that is built here with random weights; else it is compared with the network's

    ``info`` says architecture, weights, classes and, for torchvision's own weights, their accuracy on ImageNet in per cent.
    Raises ValueError for unknown names and other numbers of classes; DataError for files that are missing or do not fit, and for a
    download that failed.
    """
    from torchvision import models as zoo

    if isinstance(model, type) or not isinstance(model, str | nn.Module):
        hint = "; the path of your weights is weights=PATH" if isinstance(model, os.PathLike) else ""
        raise WrongKind(f"model must be a name such as 'resnet18' or a network, not {_say(model)}{hint}")
    if isinstance(model, SourceModel):
        raise ValueError("model has an input card already; give the network inside, model.net")
    _card_size(size, None)
    names, count = _names(classes), None if num_classes is None else whole("num_classes", num_classes, 1)
    model = model if isinstance(model, str) else unwrapped(model)
    name = model if isinstance(model, str) else type(model).__name__
    entries = ()
    if isinstance(model, str):
        known = zoo.list_models(module=zoo)
        if model not in known:
            raise ValueError(f"torchvision has no classifier {model!r}; {_near(model, known)}")
        entries = tuple(zoo.get_model_weights(model))
    own = {w.name: w for w in entries} | ({"DEFAULT": zoo.get_model_weights(model).DEFAULT} if entries else {})
    entry = weights if weights in entries and not isinstance(weights, str) else own.get(weights) if isinstance(weights, str) else None
    file = None
    if weights is not None and entry is None:
        if isinstance(weights, zoo.WeightsEnum):
            raise ValueError(f"weights {weights} are not those of {name}, which has {', '.join(own) or 'none of its own'}")
        file = path_of("weights", weights)
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
            elif not entry and (count or names):
                settings |= {"num_classes": count or len(names)}
            net = zoo.get_model(model, **settings)
    if state is not None:
        fill(net, state, entry.url.rsplit("/", 1)[-1] if entry else file, name,
             "Choose the model that these weights were trained as; for weights with other layers build the network yourself and pass it")
    info = {"architecture": name, "weights": entry.name if entry else str(file) if file else None}
    if entry:
        info |= {"classes": list(entry.meta["categories"]), "test_accuracy": entry.meta["_metrics"]["ImageNet-1K"]["acc@1"]}
    head = _last_linear(net)
    outputs = net.get_submodule(head).out_features if head else None
    for what, wanted in (("num_classes", count), ("classes", names and len(names))):
        if wanted is not None and outputs is not None and wanted != outputs:
            raise ValueError(f"{what} says {wanted} classes, but {name}, {'with these weights' if weights is not None else 'as it is'}, answers "
                             f"in {outputs}; models.with_classes(model, ...) keeps some of them")
    if names is not None:
        info["classes"] = names
    transform = card_from.transforms() if card_from else None
    crop = (transform.crop_size[0],) * 2 if transform else None
    card = InputCard(3, _card_size(size, crop), *((tuple(transform.mean), tuple(transform.std)) if transform else (IMAGENET_MEAN, IMAGENET_STD)))
    return SourceModel(_cut(net, head), card, info=info).eval()


def _downloaded(entry) -> dict[str, Tensor]:
    """The state dict of torchvision's own weights, from its cache or the network."""
    try:
        return entry.get_state_dict(progress=False, check_hash=True, weights_only=True, map_location="cpu")
    except Exception as why:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise DataError(f"the weights {entry} are not (or damaged) in {folder} and could not be downloaded ({why}); fetch {entry.url} on a "
                        f"machine with network, then put the file there or give its path as weights=") from why


def from_timm(name: str, checkpoint: str | Path | None = None, pretrained: bool = False, size="weights",
              num_classes: int | None = None) -> SourceModel:
    """A timm classifier with the input card of its pretrained configuration: mean, standard deviation, input size, channels.

    checkpoint   a state dict of yours (timm, or the same layers from elsewhere), with as many classes as its last layer has
    pretrained   let timm fetch its own weights (cache, else network)
    size, num_classes   as in `from_torchvision`
    With neither, the weights are random. Raises ImportError where timm is not installed, ValueError for an unknown name,
    DataError for files that are missing or do not fit, and for a download that failed.
    """
    try:
        import timm
        from timm.data import resolve_model_data_config
    except ImportError as why:
        raise ImportError("from_timm needs the package timm: pip install timm; from_torchvision works without it") from why
    if not isinstance(name, str):
        hint = "; with_input_card gives a network a card" if isinstance(name, nn.Module) else ""
        raise WrongKind(f"name must be the name of a timm model, such as 'resnet18', not {_say(name)}{hint}")
    if checkpoint is not None and flag("pretrained", pretrained):
        raise ValueError("give either checkpoint= or pretrained=True, not both")
    flag("pretrained", pretrained)
    _card_size(size, None)
    wanted = None if num_classes is None else whole("num_classes", num_classes, 1)
    if not timm.is_model(name.split(".")[0]):
        raise ValueError(f"timm has no model {name!r}; {_near(name.split('.')[0], timm.list_models(), 12)}")
    state, count = None, {} if wanted is None else {"num_classes": wanted}
    if checkpoint is not None:
        state = read_state_dict(checkpoint)
        config = timm.get_pretrained_cfg(name)
        path = config.classifier if config else None
        if isinstance(path, str) and f"{path}.weight" in state:
            count = {"num_classes": len(state[f"{path}.weight"])}
            if wanted not in (None, count["num_classes"]):
                raise ValueError(f"num_classes says {wanted} classes, but {checkpoint} was trained for {count['num_classes']}")
    elif pretrained and wanted is not None:
        own = timm.get_pretrained_cfg(name)
        if own and own.num_classes != wanted:
            raise ValueError(f"num_classes says {wanted} classes, but timm's weights for {name} answer in {own.num_classes}; "
                             "models.with_classes(model, ...) keeps some of them")
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
    known = classes_of(model)
    if known is not None:
        return known
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
    model = model_of(model)
    if not isinstance(model, SourceModel):
        raise WrongKind(f"with_classes needs a model with an input card, not a bare {type(model).__name__}; make one with with_input_card(net, ...)")
    kind = None if kind is None else choice("kind", kind, ("outputs", "groups"))
    outputs = None if outputs is None else whole("outputs", outputs, 1)
    names = _names(names)
    try:
        chosen = torch.as_tensor(classes)
    except (TypeError, ValueError, RuntimeError) as why:
        raise WrongKind(f"classes must be numbers of outputs, such as [3, 0, 7], not {_say(classes)}") from why
    if chosen.is_floating_point() or chosen.dtype == torch.bool or chosen.ndim not in (1, 2) or not chosen.numel():
        raise ValueError(f"classes must be int64 (K,), (K, M) or (L,), got {chosen.dtype} {tuple(chosen.shape)}")
    chosen, total = chosen.long(), outputs or _outputs(model)
    if kind is None:
        kind = "groups" if chosen.ndim == 1 and len(chosen) == total else "outputs"
        if kind == "groups" and chosen.unique().numel() == total and int(chosen.min()) >= 0:
            raise ValueError(f"{total} different numbers for {total} outputs can be read in two ways; say kind='outputs' (the output of each "
                             "class) or kind='groups' (the class of each output)")
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
    """The embedded checkpoints: name -> JSON card. Raises DataError naming a card that is damaged."""
    folder = data_root(root) / "checkpoints"
    return {p.stem: _card(p) for p in sorted(folder.glob("*.json"))}


def _card(path: Path) -> dict:
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(card, dict) or not {"architecture", "arguments", "input"} <= card.keys():
            raise ValueError("it lacks architecture, arguments or input")
    except ValueError as why:
        raise DataError(f"the card {path} is damaged ({why}); restore the file, or train the model again: "
                        f"python -m tta_lab train {path.stem}") from why
    return card


def load_model(name: str = "fashion_resnet_bn", normalisation: str = "in_model", root: str | Path | None = None) -> SourceModel:
    """An embedded source model in eval mode, e.g. ``fashion_resnet_bn``, ``fashion_resnet_gn``, ``fashion_vit_ln``
    or ``fashion8_resnet_bn`` (trained without the classes Coat and Sneaker)."""
    from safetensors.torch import load as load_tensors

    if not isinstance(name, str):
        what = "; a file of weights is opened with model_texts.open_model('checkpoint:PATH')" if isinstance(name, os.PathLike) else ""
        raise WrongKind(f"name must be the name of an embedded model, such as 'fashion_resnet_bn', not {_say(name)}{what}")
    _check_normalisation(normalisation)
    known = checkpoints(root if root is None else path_of("root", root))
    if name not in known:
        near = difflib.get_close_matches(name.lower(), known, 1, 0.5)
        other = "; other models are opened with model_texts.open_model" if ":" in name else ""
        raise DataError(f"there is no checkpoint {name!r} in {data_root(root) / 'checkpoints'}{f'; did you mean {near[0]}?' if near else ''} "
                        f"There are: {', '.join(known) or 'none'}{other}")
    info = known[name]
    weights = load_tensors(checked_bytes(f"checkpoints/{name}.safetensors", root))
    place = data_root(root) / "checkpoints" / f"{name}.json"
    try:
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced at once; the global generator stays where it is
            net = ARCHITECTURES[info["architecture"]](**info["arguments"])
        card = InputCard(**{k: tuple(v) if isinstance(v, list) else v for k, v in info["input"].items()})
    except (KeyError, TypeError, ValueError, AttributeError) as why:
        raise DataError(f"the card {place} is damaged ({type(why).__name__}: {why}); restore the file, or train the model again: "
                        f"python -m tta_lab train {name}") from why
    fill(net, weights, place.with_suffix(".safetensors"), name, f"Restore the file, or train the model again: python -m tta_lab train {name}")
    return SourceModel(net, card, normalisation, info).eval()


def save_model(model: SourceModel, name: str, info: dict, root: str | Path) -> Path:
    """Write ``<name>.safetensors`` (convolution and linear weights in float16, the rest in float32) and its card."""
    from safetensors.torch import save

    if not isinstance(model, SourceModel):
        raise WrongKind(f"model must be a SourceModel, not {_say(model)}")
    folder = path_of("root", root) / "checkpoints"
    tensors = {k: (v.half() if v.ndim > 1 else v).contiguous() for k, v in model.net.state_dict().items()}
    content = save(tensors)
    card = {**info, "input": asdict(model.card), "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    with written(folder / f"{name}.safetensors") as part:
        part.write_bytes(content)
    write_text(folder / f"{name}.json", json.dumps(card, indent=1) + "\n")
    return folder / f"{name}.safetensors"
