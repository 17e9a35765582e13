"""Models as texts, as image sets are in `tta_lab.load`: "torchvision:resnet50",
"checkpoint:/path/weights.pt?architecture=my_net.py:build".

A text can be typed into a panel, given to papermill and written into code, and `open_model` makes
the same network of it each time. Weights are read as tensors only (nothing in a checkpoint file is
run). A Python file is run where a text names one, so name only files you trust.
"""
from __future__ import annotations

import copy
import importlib.util
import sys
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, unquote

import torch
from torch import Tensor, nn

from ..core import places
from ..core.arguments import WrongKind
from ..core.run_keys import source_digest
from ..core.source_model import InputCard, SourceModel
from ..core.step_context import as_logits
from ..data.contents import signature
from ..data.image_files import as_size
from ..data.label_tables import as_classes
from ..data.shipped import DataError, data_root
from .checkpoint_files import fill, read_state_dict
from .embedded import checkpoints, load_model
from .example import NETWORK
from .libraries import from_timm, from_torchvision
from .small_networks import ARCHITECTURES
from .wrapping import split, with_classes

KINDS = {
    "embedded": "one of the small networks that come with the package",
    "torchvision": "a classifier of torchvision, with its own weights (weights=DEFAULT), yours "
                   "(weights=PATH) or none (weights=none, to try out)",
    "timm": "a classifier of timm, with the same choice of weights",
    "checkpoint": "a file of weights; architecture= says the network, or it is read from names "
                  "and shapes",
    "python": "a function, FILE.py:NAME, that returns a network with its weights",
}
CARD = ("mean", "std", "size", "channels", "normalisation", "classes", "outputs")
OPTIONS = {
    "embedded": CARD, "torchvision": ("weights", *CARD), "timm": ("weights", *CARD),
    "checkpoint": ("architecture", *CARD), "python": CARD
}
PATHS = ("weights", "architecture", "classes")  # options that may name a file
KEPT = 2  # models that stay opened
_OPENED: OrderedDict = OrderedDict()


def parse(text: str) -> tuple[str, str, dict[str, str]]:
    """Kind, name (or path) and options of a text. Raises ValueError for an unknown kind or option,
    saying what there is.

    A path that is there as it stands is taken so, whatever it holds; else %XX stands for one byte
    of it (`places.split`).
    """
    if not isinstance(text, str):
        raise WrongKind(f"a model is named by a text, not {text!r:.80}; write {_examples()}")
    text = text.strip()
    if text in checkpoints():
        return "embedded", text, {}
    if not text:
        raise ValueError(f"no model is named; write {_examples()}")
    kind, colon, rest = text.partition(":")
    if not colon or kind not in KINDS:
        path = places.home(text)
        if _is_file(text):
            return "checkpoint", text, {}
        seems = "; there is no such file" if path.suffix or "/" in text else ""
        raise ValueError(f"{text!r} names no model{seems}; write {_examples()}")
    name, query, _ = places.split(rest,
                                  _is_file if kind in ("checkpoint", "python") else lambda _: False,
                                  brackets=False)
    options = {}
    for key, value in places.options(query, OPTIONS[kind]).items():
        if key not in OPTIONS[kind]:
            raise ValueError(f"{text!r}: {kind} has no option {key!r}; it has: "
                             f"{', '.join(OPTIONS[kind])}")
        options[key] = (value if key in PATHS and _is_file(value) else unquote(
            value, errors="surrogateescape"))
    if not name:
        raise ValueError(f"{text!r}: a name or a path is missing after {kind}:")
    return kind, name, options


def _examples() -> str:
    return (f"one of {', '.join(list(checkpoints())[:3])}, ..., or torchvision:resnet18, "
            f"timm:NAME, checkpoint:/path/weights.pt, "
            "python:/path/net.py:build")


def model_text(kind: str, name: str, **options) -> str:
    """The text that `open_model` understands; options that are None or "" are left out. Raises
    ValueError as `parse` does."""
    plain = {
        key: _plain(value) for key, value in options.items() if value is not None and value != ""
    }
    query = "&".join(f"{key}={_quoted(value)}" for key, value in plain.items())
    text = f"{kind}:{_quoted(str(name))}{query and '?'}{query}"
    # another path, there as it stands, would be read out of it
    if parse(text) != (kind, str(name), plain) and _is_file(str(name)):
        text = f"{kind}:{places.FILE}{_quoted(places.absolute(str(name)))}{query and '?'}{query}"
    return text


def _quoted(text: str) -> str:
    quoted = quote(text, safe="/:,~+ ()", errors="surrogateescape")
    return quoted[:-1] + "%20" if quoted.endswith(" ") else quoted


def _plain(value) -> str:
    if isinstance(value, tuple | list):
        return ",".join(f"{v:g}" if isinstance(v, float) else str(v) for v in value)
    return str(value)


def open_model(text: str) -> SourceModel:
    """The source model that a text names, in eval mode on the CPU, each time as a network of its
    own; of the last two a copy is kept, so that asking again is quick. A file that has changed is
    read again.

    ``fashion_resnet_bn`` or another embedded one. ``torchvision:resnet50``: with torchvision's own
    weights, from its cache or a download; ``?weights=none`` draws them at random (the same each
    time), ``?weights=/path/weights.pt`` takes yours. ``timm:NAME`` likewise. ``checkpoint:PATH``:
    a file of weights (.safetensors, or what torch.save wrote), whose network is read from names
    and shapes where it is an embedded one, a CIFAR one or one of torchvision, or said by
    ``?architecture=`` "embedded:resnet_bn", "cifar:wrn_40_2", "torchvision:resnet18", "timm:NAME"
    or "/path/net.py:build", a function without arguments. ``python:/path/net.py:build``: what that
    function returns.

    For all: ``mean=0.5``, ``std=0.5`` (one number or one a channel, images in [0, 1]),
    ``size=224`` or ``180x240`` or ``any``, ``channels=1``, ``normalisation=in_data``,
    ``classes=cat,dog`` or a text file with one name a line, ``outputs=3,0,7`` (keep these outputs,
    in this order). A network without ``features`` and ``head`` is cut in front of its last linear
    layer where that changes no answer. ``info["from"]`` is the text, ``info["read"]`` what was
    done to make things fit. Raises ValueError for what the text says wrongly, DataError for files
    that are missing, damaged or do not fit, ImportError without timm.
    """
    kind, name, options = parse(text)
    key = text, _facts(kind, name, options)
    if key in _OPENED:
        _OPENED.move_to_end(key)
        return copy.deepcopy(_OPENED[key])
    model = _with_card(_opened(kind, name, options), options).eval()
    model.info["from"] = text
    try:
        _OPENED[key] = copy.deepcopy(model)
    # what cannot be copied is made anew each time
    except (RuntimeError, TypeError, AttributeError):
        return model
    while len(_OPENED) > KEPT:
        _OPENED.popitem(last=False)
    return model


def facts_of(text: str) -> tuple:
    """Sizes and times of the files that a text names: they change when a file does. Raises
    ValueError as `parse` does."""
    return _facts(*parse(text))


def code_of(text: str) -> str:
    """The Python file that `open_model` would run for this text, or "". Raises ValueError as
    `parse` does."""
    kind, name, options = parse(text)
    named = (name if kind == "python" else
             options.get("architecture", "") if kind == "checkpoint" else "")
    return named.rpartition(":")[0] or named if kind == "python" or ".py:" in named else ""


def _example(file: str) -> bool:
    path = _file_of(file)
    return path is not None and path.is_file() and path.read_bytes() == NETWORK.encode()


def refuse_code(model, trust: bool, how: str = "pass trust=True") -> None:
    """Raise ValueError where opening a model's text would run a Python file that nobody has said
    to trust; anything but a text passes, and so does the file of the bring-your-own notebook's
    example, as this package writes it."""
    file = code_of(model) if isinstance(model, str) and model.strip() and not trust else ""
    if file and not _example(file):
        raise ValueError(f"the model is made by the Python file {file}, which would be run with "
                         f"all your rights: look into it, and if you trust it, "
                         f"{how}")


def _facts(kind: str, name: str, options: dict) -> tuple:
    """Sizes and times of the files in use (`contents.signature`): a file that was changed is read
    again."""
    paths = [
        _file_of(p)
        for p in (name if kind in ("checkpoint", "python") else "", options.get("weights", ""),
                  options.get("architecture", ""), options.get("classes", ""))
    ]
    if kind == "embedded":
        paths.append(data_root() / "checkpoints" / f"{name}.safetensors")
    return tuple(signature(p) if p is not None and p.is_file() else None for p in paths)


def _file_of(text: str) -> Path | None:
    if not text:
        return None
    return places.home(text.rpartition(":")[0] if ".py:" in text else text)


def _is_file(text: str) -> bool:
    try:
        named = ".py:" not in text or text.rpartition(":")[2].isidentifier()
        return bool(text) and named and _file_of(text).is_file()
    except (OSError, ValueError):  # too long for a path, zero bytes
        return False


def _opened(kind: str, name: str, options: dict) -> SourceModel:
    if kind == "embedded":
        return load_model(name)
    if kind in ("torchvision", "timm"):
        return _of_library(kind, name, options.get("weights", "DEFAULT"))
    if kind == "python":
        net = built(name)
        return (net if isinstance(net, SourceModel) else _wrapped(
            net, {"architecture": type(net).__name__, "weights": f"those of {name}"}))
    return _from_checkpoint(name, options.get("architecture", ""))


def _of_library(kind: str, name: str, weights: str) -> SourceModel:
    """A network of torchvision or timm with its own weights, those of a file, or random ones,
    which are the same each time."""
    own = None if weights.lower() in ("none", "random") else weights
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        if own is None or own != "DEFAULT" and _is_file(own):
            path = None if own is None else places.home(own)
            try:
                return (from_torchvision(name, path) if kind == "torchvision" else from_timm(
                    name, path))
            except DataError as why:
                found = ("" if path is None or "does not fit" not in str(why) else
                         guess_architecture(read_state_dict(path)))
                raise DataError(f"{why}. Names and shapes in the file are those of {found}: "
                                f"choose that" if found else str(why)) from why
        try:
            return (from_torchvision(name, own) if kind == "torchvision" else from_timm(
                name, None if own == "DEFAULT" else own, own == "DEFAULT"))
        except DataError as why:
            what = "could not be" in str(why)
            raise DataError(f"{why}. Here that is the option weights=PATH; weights=none gives "
                            f"random weights, to try things out"
                            if what else str(why)) from why


def _wrapped(net: nn.Module, info: dict) -> SourceModel:
    return SourceModel(net, InputCard(_channels(net)), info=info)


def _channels(net: nn.Module) -> int:
    """Of the images that a network takes: those of its first convolution."""
    first = next((m for m in net.modules() if isinstance(m, nn.Conv2d)), None)
    return 3 if first is None else first.in_channels


# --- weights in a file --------------------------------------------------------------------------

def _from_checkpoint(path: str, architecture: str) -> SourceModel:
    from .cifar_networks import load_cifar

    file = places.home(path)
    state = read_state_dict(file)
    if not architecture:
        architecture = guess_architecture(state)
        if not architecture:
            raise DataError(f"the checkpoint {path} fits no network that is known here: its "
                            f"{len(state)} entries start with "
                            f"{', '.join(list(state)[:4])}; name the network, as "
                            f"architecture=torchvision:NAME, timm:NAME or /path/net.py:function")
        said = f"Names and shapes in the file are those of {architecture}."
    else:
        said = ""
    kind, _, name = architecture.partition(":")
    if kind == "cifar":
        model = load_cifar(file, name or None)
    elif kind in ("torchvision", "timm"):
        model = _of_library(kind, name, str(file))
    elif kind == "embedded":
        model = _wrapped(_embedded(name, state, path), {"architecture": name})
    elif ".py:" in architecture:
        net = built(architecture)
        if isinstance(net, SourceModel):
            raise DataError(f"{architecture} returns a model with an input card; return the bare "
                            f"network, so that the weights can be loaded into it")
        state, more = matched(state, net)
        fill(net, state, path, f"{type(net).__name__} of {architecture}", _remedy(state, net))
        model = _wrapped(net, {"architecture": type(net).__name__})
        said = " ".join(filter(None, (said, more)))
    else:
        raise ValueError(f"architecture={architecture!r} is no network; write embedded:NAME, "
                         f"cifar:NAME, torchvision:NAME, timm:NAME or "
                         "/path/net.py:function")
    model.info["weights"] = str(path)
    if said:
        model.info["read"] = said
    return model


def _embedded(name: str, state: dict[str, Tensor], path) -> nn.Module:
    if name not in ARCHITECTURES:
        raise ValueError(f"there is no embedded architecture {name!r}; there are: "
                         f"{', '.join(ARCHITECTURES)}")
    settings = {"classes": len(state["head.weight"])} if "head.weight" in state else {}
    stem = next((v for v in state.values() if v.ndim == 4), None)
    settings |= {} if stem is None else {"channels": stem.shape[1]}
    with torch.random.fork_rng(devices=[]):
        net = ARCHITECTURES[name](**settings)
    return fill(net, state, path, name, _remedy(state, net))


def matched(state: dict[str, Tensor], net: nn.Module) -> tuple[dict[str, Tensor], str]:
    """The state dict with its names as the network has them, where a prefix is all that differs,
    and what was done in a sentence ("": nothing).

    A prefix that all names of the network have and those of the file lack is added; one that the
    file's have is dropped, and with it entries that do not have it (the loss of a training script,
    for instance). Where no prefix helps, the state dict is handed back as it is.
    """
    wanted = {k for k in net.state_dict() if not k.endswith("num_batches_tracked")}
    if not wanted or wanted <= state.keys():
        return state, ""
    first = min(wanted)
    for prefix in [k[:-len(first)] for k in state if k.endswith(first) and len(k) > len(first)]:
        inner = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if wanted <= inner.keys():
            left = [k for k in state if not k.startswith(prefix)]
            return inner, f"The prefix {prefix!r} of the names was dropped" + (
                f"; left out: "
                f"{', '.join(left[:4])}." if left else ".")
    roots = {".".join(first.split(".")[:i]) + "." for i in range(1, first.count(".") + 1)}
    for prefix in roots:
        outer = {prefix + k: v for k, v in state.items()}
        if wanted <= outer.keys():
            return outer, f"The prefix {prefix!r} was put before the names."
    return state, ""


def _remedy(state: dict[str, Tensor], net: nn.Module) -> str:
    """What to do about weights that do not fit: the number of classes where that is all, else the
    network they seem to be of."""
    wanted = net.state_dict()
    wrong = [
        k for k, v in wanted.items() if k not in state and not k.endswith("num_batches_tracked")
        or k in state and state[k].shape != v.shape
    ]
    heads = [k for k in wrong if k in state and k.endswith(".weight") and state[k].ndim == 2]
    if heads and all(k.rpartition(".")[0] == heads[0].rpartition(".")[0] for k in wrong):
        return (f"Only the last layer differs: the file was trained for {len(state[heads[0]])} "
                f"classes, the network is built for "
                f"{len(wanted[heads[0]])}. Build it with {len(state[heads[0]])} classes, or take "
                f"the file that belongs to it")
    found = guess_architecture(state)
    known = (f"Names and shapes in the file are those of {found}: choose that"
             if found else "Choose the network that these weights were trained as")
    return (f"{known}. The file's names start with {', '.join(list(state)[:3])}, the network's "
            f"with {', '.join(list(wanted)[:3])}")


# the first name of a torchvision state dict -> what the names of such networks begin with
FAMILIES = {
    "conv1.weight": ("resnet", "resnext", "wide_resnet"), "conv1.0.weight": ("shufflenet",),
    "features.conv0.weight": ("densenet",), "features.0.weight": ("alexnet", "squeezenet", "vgg"),
    "features.0.0.weight": ("mobilenet", "efficientnet", "convnext", "swin"),
    "layers.0.weight": ("mnasnet",), "class_token": ("vit",), "stem.0.0.weight": ("maxvit",)
}


def guess_architecture(state: dict[str, Tensor]) -> str:
    """The network whose names and shapes a state dict has, but for the number of classes:
    "embedded:NAME", "cifar:NAME", "torchvision:NAME" or ""."""
    from torchvision import models as zoo

    from .cifar_networks import guess

    def same(net):
        wanted = {
            k: v.shape for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")
        }
        found = {k: v.shape for k, v in state.items() if not k.endswith("num_batches_tracked")}
        return (wanted.keys() == found.keys()
                and all(a[1:] == found[k][1:] for k, a in wanted.items() if a and found[k]))

    channels = next((v.shape[1] for v in state.values() if v.ndim == 4), 3)
    with torch.device("meta"):
        if "head.weight" in state:
            for name, build in ARCHITECTURES.items():
                if same(build(channels=channels)):
                    return f"embedded:{name}"
        starts = FAMILIES.get(next(iter(state), ""), ())
        for name in [n for n in zoo.list_models(module=zoo)
                     if n.startswith(starts)] if starts else ():
            if same(zoo.get_model(name)):
                return f"torchvision:{name}"
    found = guess(state)
    return f"cifar:{found[0]}" if found else ""


# --- a network in a Python file -----------------------------------------------------------------

def built(text: str) -> nn.Module:
    """What the function (or class) of "FILE.py:NAME" returns, called without arguments. The file
    is run, as an import would.

    Raises DataError naming the file and the remedy: not there, an error in it, no such function,
    arguments needed, no network returned.
    """
    path, _, name = text.rpartition(":")
    file = places.home(path)
    if not path.endswith(".py") or not name:
        raise DataError(f"{text!r} does not name a function; write /path/net.py:build, where "
                        f"build() returns the network")
    if not file.is_file():
        raise DataError(f"there is no Python file {file}; check the path")
    source = file.read_bytes()
    # names of caches hold this name: it goes by what the file says, not by where it lies
    spec = importlib.util.spec_from_file_location(f"_tta_lab_user_{source_digest(source)[:12]}",
                                                  file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and the like look their module up
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            # as it now is: compiled files go by whole seconds
            exec(compile(source, str(file), "exec"), module.__dict__)
            made = getattr(module, name, None)
            if not callable(made):
                there = [
                    n for n, v in vars(module).items()
                    if callable(v) and getattr(v, "__module__", "") == spec.name
                ]
                raise DataError(f"{file} has no function or class {name!r}; it has: "
                                f"{', '.join(there) or 'none'}")
            net = made()
    except DataError:
        raise
    except Exception as why:
        hint = ("; give it defaults, or write a function without arguments"
                if isinstance(why, TypeError) and "argument" in str(why) else "")
        raise DataError(f"{file}: {name}() failed with {type(why).__name__}: {why}{hint}") from why
    finally:
        sys.modules.pop(spec.name, None)
    if not isinstance(net, nn.Module):
        raise DataError(f"{file}: {name}() returned {type(net).__name__}, not a network "
                        f"(torch.nn.Module)")
    return net


# --- the input card -----------------------------------------------------------------------------

def numbers(text: str, what: str) -> tuple[float, ...]:
    """Numbers from "0.5" or "0.485, 0.456, 0.406". Raises ValueError naming what they are for."""
    try:
        found = tuple(float(part) for part in text.replace(";", ",").split(","))
    except ValueError as why:
        raise ValueError(f"{what} must be one number, or one for each channel as in "
                         f"0.485,0.456,0.406; got {text!r}") from why
    return found


def _with_card(model: SourceModel, options: dict) -> SourceModel:
    """The model with what the options say of its input and its classes."""
    card, info = model.card, dict(model.info)
    changes: dict = {}
    if "channels" in options:
        if options["channels"] not in ("1", "3"):
            raise ValueError(f"channels must be 1 (grey) or 3 (colour), got "
                             f"{options['channels']!r}")
        changes["channels"] = int(options["channels"])
    for name in ("mean", "std"):
        if name in options:
            changes[name] = numbers(options[name], name)
            channels = changes.get("channels", card.channels)
            if len(changes[name]) not in (1, channels):
                raise ValueError(f"{name} has {len(changes[name])} numbers, the model takes "
                                 f"images of {channels} channel{'s' * (channels > 1)}")
    if "size" in options:
        changes["size"] = None if options["size"] == "any" else as_size(options["size"])
    net, info = _with_head(model.net, replace(card, **changes), info)
    model = SourceModel(net, replace(card, **changes),
                        options.get("normalisation", model.normalisation), info)
    if "outputs" in options:
        try:
            chosen = [int(part) for part in options["outputs"].split(",")]
        except ValueError as why:
            raise ValueError(f"outputs must be numbers of outputs, as in 3,0,7; got "
                             f"{options['outputs']!r}") from why
        model = with_classes(model, chosen, "outputs")
    if "classes" in options:
        names = as_classes(options["classes"], Path.cwd())
        count = outputs_of(model)
        if count is not None and len(names) != count:
            raise ValueError(f"{len(names)} class names ({', '.join(names[:4])}, ...) for a model "
                             f"with {count} outputs; name all of them, or keep "
                             "only the outputs that have names, as in outputs=3,0,7")
        model.info["classes"] = list(names)
    return model


def _with_head(net: nn.Module, card: InputCard, info: dict) -> tuple[nn.Module, dict]:
    """A network with ``features`` and ``head`` where it can have both (`models.split`), and what
    was done for it among the facts."""
    net, path, _ = split(net, card)
    return net, info | {
        "read": " ".join(
            filter(None, (info.get("read", ""), f"Its last layer, "
                          f"{path}, is taken "
                          f"as the head.")))
    } if path else info


def outputs_of(model: SourceModel, shape: tuple[int, int, int] | None = None) -> int | None:
    """How many classes a model answers in, by asking it for one black image (of ``shape``, else of
    the card's size, else 64 x 64); None where the network refuses that image."""
    c, h, w = shape or (model.card.channels, *(model.card.size or (64, 64)))
    training = model.training
    try:
        with torch.no_grad():
            return int(as_logits(model.eval().net(torch.zeros(1, c, h, w)), model.net).shape[1])
    except (RuntimeError, ValueError, TypeError, IndexError):
        return None
    finally:
        model.train(training)
