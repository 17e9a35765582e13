"""Networks of torchvision and timm, with the weights that the user names."""
from __future__ import annotations

import difflib
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from ..core.arguments import WrongKind, flag, path_of, shown, whole
from ..core.copying import unwrapped
from ..core.source_model import InputCard, SourceModel, side_of
from ..data.shipped import DataError
from .checkpoint_files import fill, listed, read_state_dict
from .wrapping import Cut, last_linear, names_of

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def _card_size(size, own: tuple[int, int] | None) -> tuple[int, int] | None:
    if isinstance(size, str) and size == "weights":
        return own
    if isinstance(size, str):
        raise WrongKind(f"size must be 'weights' (that of the weights), one side in pixels, "
                        f"(height, width) or None for any, not {size!r}")
    return side_of(size)


def _cut(net: nn.Module, path: str | None) -> nn.Module:
    return net if path is None else Cut(net, path)


def _skeleton(name: str) -> nn.Module:
    """A torchvision classifier of which only names and shapes are wanted."""
    from torchvision import models as zoo

    try:
        with torch.device("meta"):
            return zoo.get_model(name)
    # RegNets compute their widths with tensors, which must have values
    except NotImplementedError:
        return zoo.get_model(name)


def _near(name: str, known, shown: int = 6) -> str:
    """The names most like this one, for a message."""
    known = list(known)
    close = difflib.get_close_matches(name.lower(), known, shown, 0.5)
    return f"did you mean {listed(close, shown)}?" if close else f"there are: {listed(known, 20)}"


def from_torchvision(model: str | nn.Module, weights: str | Path | None = None, size="weights",
                     classes: tuple[str, ...] | None = None,
                     num_classes: int | None = None) -> SourceModel:
    """A torchvision classifier with the input card of its weights: mean, standard deviation, crop
    size.

    model    a name that torchvision knows ("resnet50", "vit_b_16", "swin_t", ...), or a network
             built with it
    weights  None: as built (a name alone gives random weights); "DEFAULT" or a name such as
             "IMAGENET1K_V1": torchvision's own,
             from its cache, else downloaded; a path: your state dict, with as many classes as its
             last layer has
    size     "weights": the size these weights are meant for; (H, W) or a side; None: any size, as
             convolutional networks take
    classes  names of the outputs; torchvision's own weights bring theirs
    num_classes   the number of outputs: of a network that is built here with random weights; else
                  it is compared with the network's

    ``info`` says architecture, weights, classes and, for torchvision's own weights, their accuracy
    on ImageNet in per cent. Raises ValueError for unknown names and other numbers of classes;
    DataError for files that are missing or do not fit, and for a download that failed.
    """
    from torchvision import models as zoo

    if isinstance(model, type) or not isinstance(model, str | nn.Module):
        hint = ("; the path of your weights is weights=PATH"
                if isinstance(model, os.PathLike) else "")
        raise WrongKind(f"model must be a name such as 'resnet18' or a network, not "
                        f"{shown(model)}{hint}")
    if isinstance(model, SourceModel):
        raise ValueError("model has an input card already; give the network inside, model.net")
    _card_size(size, None)
    names = names_of(classes)
    count = None if num_classes is None else whole("num_classes", num_classes, 1)
    model = model if isinstance(model, str) else unwrapped(model)
    name = model if isinstance(model, str) else type(model).__name__
    entries = ()
    if isinstance(model, str):
        known = zoo.list_models(module=zoo)
        if model not in known:
            raise ValueError(f"torchvision has no classifier {model!r}; {_near(model, known)}")
        entries = tuple(zoo.get_model_weights(model))
    own = ({w.name: w for w in entries} |
           ({"DEFAULT": zoo.get_model_weights(model).DEFAULT} if entries else {}))
    entry = (weights if weights in entries and not isinstance(weights, str) else
             own.get(weights) if isinstance(weights, str) else None)
    file = None
    if weights is not None and entry is None:
        if isinstance(weights, zoo.WeightsEnum):
            raise ValueError(f"weights {weights} are not those of {name}, which has "
                             f"{', '.join(own) or 'none of its own'}")
        file = path_of("weights", weights)
        if not file.is_file():
            choice = f"one of {', '.join(own)}, or " if own else ""
            raise DataError(f"weights {str(weights)!r} for {name}: there is no such file; give "
                            f"{choice}the path of a state dict")
    card_from = (entry or next(
        (w for w in entries if file and Path(w.url).stem == file.stem), own.get("DEFAULT")))
    state = _downloaded(entry) if entry else read_state_dict(file) if file else None
    net = model
    if isinstance(model, str):
        # as their weights were made
        settings = ({"transform_input": True}
                    if state and model in ("googlenet", "inception_v3") else {})
        with torch.random.fork_rng(devices=[]):
            if file:
                head = last_linear(_skeleton(model))
                settings |= {"num_classes": len(state[f"{head}.weight"])
                             } if f"{head}.weight" in state else {}
            elif not entry and (count or names):
                settings |= {"num_classes": count or len(names)}
            net = zoo.get_model(model, **settings)
    if state is not None:
        fill(net, state, entry.url.rsplit("/", 1)[-1] if entry else file, name,
             "Choose the model that these weights were trained as; for weights with other layers "
             "build the network yourself and pass it")
    info = {"architecture": name, "weights": entry.name if entry else str(file) if file else None}
    if entry:
        info |= {
            "classes": list(entry.meta["categories"]),
            "test_accuracy": entry.meta["_metrics"]["ImageNet-1K"]["acc@1"]
        }
    head = last_linear(net)
    outputs = net.get_submodule(head).out_features if head else None
    for what, wanted in (("num_classes", count), ("classes", names and len(names))):
        if wanted is not None and outputs is not None and wanted != outputs:
            raise ValueError(f"{what} says {wanted} classes, but {name}, "
                             f"{'with these weights' if weights is not None else 'as it is'}, "
                             f"answers "
                             f"in {outputs}; models.with_classes(model, ...) keeps some of them")
    if names is not None:
        info["classes"] = names
    transform = card_from.transforms() if card_from else None
    crop = (transform.crop_size[0],) * 2 if transform else None
    card = InputCard(
        3, _card_size(size, crop),
        *((tuple(transform.mean), tuple(transform.std)) if transform else
          (IMAGENET_MEAN, IMAGENET_STD)))
    return SourceModel(_cut(net, head), card, info=info).eval()


def _downloaded(entry) -> dict[str, Tensor]:
    """The state dict of torchvision's own weights, from its cache or the network."""
    try:
        return entry.get_state_dict(progress=False, check_hash=True, weights_only=True,
                                    map_location="cpu")
    except Exception as why:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise DataError(f"the weights {entry} are not (or damaged) in {folder} and could not be "
                        f"downloaded ({why}); fetch {entry.url} on a "
                        f"machine with network, then put the file there or give its path as "
                        f"weights=") from why


def from_timm(name: str, checkpoint: str | Path | None = None, pretrained: bool = False,
              size="weights", num_classes: int | None = None) -> SourceModel:
    """A timm classifier with the input card of its pretrained configuration: mean, standard
    deviation, input size, channels.

    checkpoint   a state dict of yours (timm, or the same layers from elsewhere), with as many
                 classes as its last layer has
    pretrained   let timm fetch its own weights (cache, else network)
    size, num_classes   as in `from_torchvision` With neither, the weights are random. Raises
    ImportError where timm is not installed, ValueError for an unknown name, DataError for files
    that are missing or do not fit, and for a download that failed.
    """
    try:
        import timm
        from timm.data import resolve_model_data_config
    except ImportError as why:
        raise ImportError("from_timm needs the package timm: pip install timm; from_torchvision "
                          "works without it") from why
    if not isinstance(name, str):
        hint = "; with_input_card gives a network a card" if isinstance(name, nn.Module) else ""
        raise WrongKind(f"name must be the name of a timm model, such as 'resnet18', not "
                        f"{shown(name)}{hint}")
    if checkpoint is not None and flag("pretrained", pretrained):
        raise ValueError("give either checkpoint= or pretrained=True, not both")
    flag("pretrained", pretrained)
    _card_size(size, None)
    wanted = None if num_classes is None else whole("num_classes", num_classes, 1)
    if not timm.is_model(name.split(".")[0]):
        raise ValueError(f"timm has no model {name!r}; "
                         f"{_near(name.split('.')[0], timm.list_models(), 12)}")
    state = None
    count = {} if wanted is None else {"num_classes": wanted}
    if checkpoint is not None:
        state = read_state_dict(checkpoint)
        config = timm.get_pretrained_cfg(name)
        path = config.classifier if config else None
        if isinstance(path, str) and f"{path}.weight" in state:
            count = {"num_classes": len(state[f"{path}.weight"])}
            if wanted not in (None, count["num_classes"]):
                raise ValueError(f"num_classes says {wanted} classes, but {checkpoint} was "
                                 f"trained for {count['num_classes']}")
    elif pretrained and wanted is not None:
        own = timm.get_pretrained_cfg(name)
        if own and own.num_classes != wanted:
            raise ValueError(f"num_classes says {wanted} classes, but timm's weights for {name} "
                             f"answer in {own.num_classes}; "
                             "models.with_classes(model, ...) keeps some of them")
    try:
        with torch.random.fork_rng(devices=[]):
            net = timm.create_model(name, pretrained=pretrained, **count)
    except Exception as why:
        if not pretrained:
            raise
        raise DataError(
            f"timm's weights for {name} could not be fetched "
            f"({str(why).splitlines()[0] if str(why) else type(why).__name__}); "
            "fetch them on a machine with network and give the file as checkpoint=") from why
    if state is not None:
        fill(net, state, checkpoint, name, "Choose the timm model that these weights were trained "
                                           "as")
    config = resolve_model_data_config(net)
    channels, *own = config["input_size"]
    card = InputCard(channels, _card_size(size, tuple(own)), tuple(config["mean"]),
                     tuple(config["std"]))
    head = net.get_classifier()
    path = (next((p for p, m in net.named_modules()
                  if m is head), None) if isinstance(head, nn.Linear) else None)
    info = {
        "architecture": name,
        "weights": "timm" if pretrained else None if checkpoint is None else str(checkpoint)
    }
    return SourceModel(_cut(net, path), card, info=info).eval()
