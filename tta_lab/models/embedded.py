"""The embedded checkpoints by name."""
from __future__ import annotations

import difflib
import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

import torch

from ..core.arguments import WrongKind, path_of, shown
from ..core.files import write_text, written
from ..core.source_model import InputCard, SourceModel, check_normalisation
from ..data.shipped import DataError, checked_bytes, data_root
from .checkpoint_files import fill
from .small_networks import ARCHITECTURES


def checkpoints(root: str | Path | None = None) -> dict[str, dict]:
    """The embedded checkpoints: name -> JSON card. Raises DataError naming a card that is
    damaged."""
    folder = data_root(root) / "checkpoints"
    return {p.stem: _card(p) for p in sorted(folder.glob("*.json"))}


def _card(path: Path) -> dict:
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(card, dict) or not {"architecture", "arguments", "input"} <= card.keys():
            raise ValueError("it lacks architecture, arguments or input")
    except ValueError as why:
        raise DataError(f"the card {path} is damaged ({why}); restore the file, or train the "
                        f"model again: "
                        f"python -m tta_lab train {path.stem}") from why
    return card


def load_model(name: str = "fashion_resnet_bn", normalisation: str = "in_model",
               root: str | Path | None = None) -> SourceModel:
    """An embedded source model in eval mode, e.g. ``fashion_resnet_bn``, ``fashion_resnet_gn``,
    ``fashion_vit_ln`` or ``fashion8_resnet_bn`` (trained without the classes Coat and Sneaker)."""
    from safetensors.torch import load as load_tensors

    if not isinstance(name, str):
        what = (
            "; a file of weights is opened with tta_lab.models.names.open_model('checkpoint:PATH')"
            if isinstance(name, os.PathLike) else "")
        raise WrongKind(f"name must be the name of an embedded model, such as "
                        f"'fashion_resnet_bn', not {shown(name)}{what}")
    check_normalisation(normalisation)
    known = checkpoints(root if root is None else path_of("root", root))
    if name not in known:
        near = difflib.get_close_matches(name.lower(), known, 1, 0.5)
        other = ("; other models are opened with "
                 "tta_lab.models.names.open_model") if ":" in name else ""
        raise DataError(
            f"there is no checkpoint {name!r} in "
            f"{data_root(root) / 'checkpoints'}{f'; did you mean {near[0]}?' if near else ''} "
            f"There are: {', '.join(known) or 'none'}{other}")
    info = known[name]
    weights = load_tensors(checked_bytes(f"checkpoints/{name}.safetensors", root))
    place = data_root(root) / "checkpoints" / f"{name}.json"
    try:
        # the weights drawn here are replaced at once; the global generator stays where it
        # is
        with torch.random.fork_rng(devices=[]):
            net = ARCHITECTURES[info["architecture"]](**info["arguments"])
        card = InputCard(
            **{k: tuple(v) if isinstance(v, list) else v for k, v in info["input"].items()})
    except (KeyError, TypeError, ValueError, AttributeError) as why:
        raise DataError(f"the card {place} is damaged ({type(why).__name__}: {why}); restore the "
                        f"file, or train the model again: "
                        f"python -m tta_lab train {name}") from why
    fill(net, weights, place.with_suffix(".safetensors"), name, f"Restore the file, or train the "
                                                                f"model again: python -m tta_lab "
                                                                f"train {name}")
    return SourceModel(net, card, normalisation, info).eval()


def save_model(model: SourceModel, name: str, info: dict, root: str | Path) -> Path:
    """Write ``<name>.safetensors`` (convolution and linear weights in float16, the rest in
    float32) and its card."""
    from safetensors.torch import save

    if not isinstance(model, SourceModel):
        raise WrongKind(f"model must be a SourceModel, not {shown(model)}")
    folder = path_of("root", root) / "checkpoints"
    tensors = {
        k: (v.half() if v.ndim > 1 else v).contiguous() for k, v in model.net.state_dict().items()
    }
    content = save(tensors)
    card = {
        **info, "input": asdict(model.card), "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content)
    }
    with written(folder / f"{name}.safetensors") as part:
        part.write_bytes(content)
    write_text(folder / f"{name}.json", json.dumps(card, indent=1) + "\n")
    return folder / f"{name}.safetensors"
