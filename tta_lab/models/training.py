"""Training of the embedded source models: one seeded command, ``python -m tta_lab train NAME``."""
from __future__ import annotations

import difflib
import hashlib
import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from ..core.arguments import flag, path_of, whole
from ..core.files import write_text
from ..core.named import model_of
from ..core.source_model import InputCard, SourceModel
from ..data.embedded import DEBIAN_FASHION, FASHION_CLASSES, NEAR_UNKNOWN, fashion_training_set
from ..data.load import images_of, load
from ..data.shipped import DataError, data_root
from .embedded import load_model, save_model
from .small_networks import ARCHITECTURES

SOURCES = {  # name -> architecture, epochs, learning rate, classes, seed where it is not 0
    "fashion_resnet_bn": dict(architecture="resnet_bn", epochs=14, lr=4e-3, without=()),
    # the same, trained independently:
    "fashion_resnet_bn_1": dict(architecture="resnet_bn", epochs=14, lr=4e-3, without=(), seed=1),
    # what holds for one may not for all
    "fashion_resnet_bn_2": dict(architecture="resnet_bn", epochs=14, lr=4e-3, without=(), seed=2),
    "fashion_resnet_gn": dict(architecture="resnet_gn", epochs=20, lr=4e-3, without=()),
    "fashion_vit_ln": dict(architecture="vit_ln", epochs=18, lr=3e-3, without=()),
    "fashion8_resnet_bn": dict(architecture="resnet_bn", epochs=12, lr=4e-3, without=NEAR_UNKNOWN),
}


def augment(x, generator):
    """Random horizontal flip and a shift of up to two pixels, one draw per image."""
    n, _, h, w = x.shape
    flip = torch.rand(n, generator=generator) < 0.5
    x = torch.where(flip.view(-1, 1, 1, 1), x.flip(3), x)
    x = F.pad(x, (2, 2, 2, 2))
    dy, dx = torch.randint(0, 5, (2, n), generator=generator)
    rows = (dy.view(-1, 1) + torch.arange(h)).view(n, 1, h, 1)
    cols = (dx.view(-1, 1) + torch.arange(w)).view(n, 1, 1, w)
    return x[torch.arange(n).view(-1, 1, 1, 1),
             torch.arange(x.shape[1]).view(1, -1, 1, 1), rows, cols]


def accuracy(model, data, batch: int = 500) -> float:
    """Share of right predictions in per cent, in eval mode; model and data may be texts that name
    them."""
    model, batch = model_of(model), whole("batch", batch, 1)
    data = images_of(data, "data") if isinstance(data, str) or not hasattr(data, "images") else data
    with torch.no_grad():
        right = sum(
            (model(data.images(slice(i, i + batch))).argmax(1) == data.y[i:i + batch]).sum().item()
            for i in range(0, len(data), batch))
    return 100 * right / len(data)


def train(name: str, data_folder=DEBIAN_FASHION, out: str | Path | None = None,
          seed: int | None = None, epochs: int | None = None, batch: int = 128,
          progress: bool = True) -> dict:
    """Train one source model on the full training set, write checkpoint and card, and return the
    card.

    AdamW, one-cycle cosine rate, cross-entropy, flips and shifts. The test set is looked at once,
    at the end.
    """
    if not isinstance(name, str) or name not in SOURCES:
        near = difflib.get_close_matches(str(name), SOURCES, 1)
        raise ValueError(f"unknown source model "
                         f"{name!r}{f'; did you mean {near[0]}?' if near else ''}; there are: "
                         f"{', '.join(SOURCES)}")
    plan = SOURCES[name]
    batch = whole("batch", batch, 1)
    progress = flag("progress", progress)
    epochs = plan["epochs"] if epochs is None else whole("epochs", epochs, 1)
    seed = plan.get("seed", 0) if seed is None else whole("seed", seed)
    data_folder = path_of("data_folder", data_folder)
    out = None if out is None else path_of("out", out)
    kept = [c for c in range(10) if c not in plan["without"]]
    training = fashion_training_set(data_folder).only(kept)
    test = load("fashion_mnist").only(kept)
    pixels = training.x.float() / 255
    card = InputCard(1, (28, 28), (round(pixels.mean().item(), 4),),
                     (round(pixels.std().item(), 4),))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = ARCHITECTURES[plan["architecture"]](classes=len(kept))
    model = SourceModel(net, card)
    model.check_input = False
    generator = torch.Generator().manual_seed(seed)
    decay = [p for p in net.parameters() if p.ndim > 1]
    rest = [p for p in net.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}],
        lr=plan["lr"])
    steps = epochs * (len(training) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan["lr"], total_steps=steps,
                                                   pct_start=0.2)
    started, done = time.time(), 0
    for epoch in range(epochs):
        net.train()
        total = 0.0
        order = torch.randperm(len(training), generator=generator)
        for start in range(0, len(order) - batch + 1, batch):
            rows = order[start:start + batch]
            loss = F.cross_entropy(model(augment(pixels[rows], generator)), training.y[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total, done = total + loss.item(), done + 1
            if not math.isfinite(total):
                raise RuntimeError(f"training of {name} diverged in epoch {epoch + 1}; try a "
                                   f"smaller rate")
            if progress and done % 50 == 0:
                spent = time.time() - started
                bar = "#" * (30 * done // steps)
                print(
                    f"\r{name} [{bar:<30}] epoch {epoch + 1}/{epochs}  loss "
                    f"{total / (start // batch + 1):.3f}  "
                    f"{spent:.0f} s, {spent * (steps - done) / done:.0f} s left ", end="",
                    flush=True)
    net.eval()
    command = (f"python -m tta_lab train {name} --seed {seed}" +
               (f" --epochs {epochs}" if epochs != plan["epochs"] else ""))
    info = {
        "name": name, "architecture": plan["architecture"], "arguments": {"classes": len(kept)},
        "classes": list(training.classes), "parameters": sum(p.numel() for p in net.parameters()),
        "trained_on": "Fashion-MNIST, training set, " +
        ("all classes" if not plan["without"] else "without " +
         " and ".join(FASHION_CLASSES[c] for c in plan["without"])), "command": command,
        "seed": seed, "epochs": epochs, "torch": str(torch.__version__),
        "test_accuracy_float32": round(accuracy(model, test), 2)
    }
    root = data_root() if out is None else Path(out)
    path = save_model(model, name, info, root)
    register(path, root, rebuild=command)
    stored = load_model(name, root=root)
    info = {
        **json.loads(path.with_suffix(".json").read_text()), "test_accuracy": round(
            accuracy(stored, test), 2), "seconds": round(time.time() - started)
    }
    write_text(path.with_suffix(".json"), json.dumps(info, indent=1) + "\n")
    if progress:
        print(f"\n{name}: {info['test_accuracy']} % on the test set, {info['parameters']} "
              f"parameters, {path}")
    return info


def register(path: Path, root: Path, rebuild: str, **facts) -> None:
    """Enter a file's sum, size and rebuild command into ``index.json`` of a data folder."""
    index_file = Path(root) / "index.json"
    try:
        index = json.loads(index_file.read_text(encoding="utf-8")) if index_file.is_file() else {}
    except ValueError as why:
        raise DataError(f"{index_file} is damaged ({why}); restore it, or remove it where this "
                        f"folder is your own") from why
    content = path.read_bytes()
    index[path.relative_to(root).as_posix()] = {
        "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), "rebuild": rebuild,
        **facts
    }
    write_text(index_file, json.dumps(dict(sorted(index.items())), indent=1) + "\n")
