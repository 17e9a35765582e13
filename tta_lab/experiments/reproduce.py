"""Run a published number with your own copies of the data and the model, and put the two side by
side."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ..core.source_model import SourceModel
from ..data.load import load
from ..data.shipped import DataError
from ..methods import make
from ..models.libraries import from_torchvision
from ..models.wrapping import with_classes
from ..streams.protocols import PROTOCOLS
from .published_numbers import beside, cell, mismatch, models, published
from .runner import row, runs

TORCHVISION = {
    "resnet50_v1": "resnet50", "swin_b": "swin_b", "vit_b_16": "vit_b_16", "alexnet": "alexnet"
}


def load_published(model: str, folder: str | Path) -> SourceModel:
    """A source model of the published tables, from ``folder/models``; raises ValueError for one
    whose file we cannot read."""
    file = models()[model]["file"] if model in models() else None
    if file is None or not (model in TORCHVISION or file.startswith("cifar")):
        names = [
            name for name, facts in models().items()
            if name in TORCHVISION or (facts["file"] or "").startswith("cifar")
        ]
        raise ValueError(
            f"there is no loader for the model {model!r}; there are: {', '.join(names)}")
    place = Path(folder) / "models" / file
    if model in TORCHVISION:
        return from_torchvision(TORCHVISION[model], place)
    from ..models.cifar_networks import load_cifar
    return load_cifar(place)


def reproduce(data: str, model: str, protocol: str, method: str, folder: str | Path, *,
              table: str | None = None, batch: int | None = None, seeds: Sequence[int] = (0,),
              cache: str | Path | None = None, progress: bool = True, device="auto",
              network=None) -> list[dict]:
    """Run one published cell and return `published.beside`'s rows for it: theirs, ours, difference
    and the verdict.

    ``folder`` holds ``data`` and ``models`` as `published.cell` lists them; a missing file is
    named before anything runs. ``network`` is a model that you have loaded yourself. Raises
    ValueError for a method that is not built here, a cell without preset, or data that are not
    what the paper used (another number of images). With ``cache`` an interrupted run goes on where
    it stopped.
    """
    preset = cell(data, model, protocol, method, table=table, batch=batch, folder=folder)
    recipe = make(preset["method"], **preset["settings"])
    settings = dict(preset["stream"])
    images = load(settings.pop("known"))
    if preset["image_list"]:
        images = listed(images, preset["image_list"])
    name = settings.pop("protocol")
    network = load_published(model, folder) if network is None else network
    if getattr(images, "model_classes", None) is not None:
        network = with_classes(network, images.model_classes)
    stream = PROTOCOLS[name](images, **settings)
    ours = [
        row(trace)["error"]
        for _, trace in runs({preset["method"]: recipe}, {name: stream}, network, seeds,
                             cache=cache, progress=progress, device=device)
    ]
    batch = settings["batch"]
    facts = {"data": data, "model": model, "protocol": protocol, "samples": stream.counts[0]}
    stated = next(r["stream"]
                  for r in published(data, model, protocol, method, table=preset["table"])
                  if r["batch"] == batch)
    found = [
        r for r in beside({preset["method"]: ours}, **facts, batch=batch, stream=stated)
        if r["cell"] != "not tried"
    ]
    if not found:
        raise ValueError(mismatch(**facts, batch=batch, stream=stated))
    return [{**r, "stream_hash": stream.hash, "settings": repr(recipe)} for r in found
            if r["table"] == preset["table"]]


def listed(images, path: str | Path):
    """Only the images that a text file names, one relative path (or its end) on each line, in the
    order of the set."""
    names = images.source.names
    ends = {Path(line.strip()).name for line in Path(path).read_text().splitlines() if line.strip()}
    rows = torch.tensor([i for i, name in enumerate(names) if Path(name).name in ends],
                        dtype=torch.int64)
    if len(rows) != len(ends):
        raise DataError(f"{path} names {len(ends)} images, {len(rows)} of them are in "
                        f"{images.name}; is it the list of this data set?")
    return images.take(rows)
