"""The runs that the collapse detector is fitted and measured on: which models, streams, methods
and rates, and how they are kept.

Development: three networks on Fashion-MNIST. Held out, never looked at while fitting: a
transformer, another seed of the batch-norm network, one trained on eight classes, and ResNet-20 on
CIFAR-10. Which methods and rates meet which stream is drawn once, from the names alone.
"""
from __future__ import annotations

import time
import zlib
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from tta_lab import Adapter, load_model, make
from tta_lab.components.norms.batch_norm import SourceStatistics
from tta_lab.components.source.prepare import prepare
from tta_lab.core.knobs import knobs, with_knobs
from tta_lab.core.norm_layers import TestTimeNorm
from tta_lab.core.trace import Trace
from tta_lab.data import load as datasets_load
from tta_lab.data.corruptions import STANDARD_SIX
from tta_lab.experiments.runner import run
from tta_lab.streams import protocols
from tta_lab.streams.cached import CachedStream
from tta_lab.streams.stream import Stream

DEVELOPMENT = ("fashion_resnet_bn", "fashion_resnet_bn_1", "fashion_resnet_gn")
HELD_OUT = ("fashion_vit_ln", "fashion_resnet_bn_2", "fashion8_resnet_bn", "cifar10_resnet20")
# collapse is measured against the better of the two
REFERENCES = ("source", "batch_norm")
STILL = ("bn_ema", "bn_alpha", "lame", "t3a", "unmix_tns", "iabn", "ada_mix_bn")    # move no weight
LEARN = ("tent", "tent", "tent", "eta", "eata", "rpl", "pseudo_label", "shot_im", "conjugate",
         "slr", "deyo", "wisdom_of_crowds", "cmf", "roid", "sar", "rotta", "rmt", "tent@source",
         "tent@source", "eta@source", "pseudo_label@source", "rpl@source", "slr@source")
# multiple of a method's default rate -> chance
RATES = {0.1: 0.05, 0.3: 0.1, 1.0: 0.15, 3.0: 0.15, 10.0: 0.2, 30.0: 0.2, 100.0: 0.15}
# chance to be taken when drawn: they cost several times as much
SLOW = {"rotta": 0.2, "sar": 0.3, "rmt": 0.1, "roid": 0.5, "cmf": 0.5}
# of those that move no weight, of those that learn
PICKS = {"development": (2, 5), "held_out": (1, 8)}
SIX = {"shifts": STANDARD_SIX}
STREAMS = {  # name -> stream of (known, unknown, seed, images in a batch); about 90 batches
    "continual": lambda k, u, s, b: protocols.continual(k, per_shift=270, batch=45, seed=s),
    "long_term": lambda k, u, s, b: protocols.long_term(k, rounds=4, per_shift=4 * b, batch=b,
        seed=s, **SIX),
    "sorted": lambda k, u, s, b: protocols.correlated(k, delta=0, per_shift=15 * b, batch=b,
        seed=s, **SIX),
    "small_batches": lambda k, u, s, b: protocols.continual(k, per_shift=320, batch=16,
        seed=s, **SIX),
    "correlated": lambda k, u, s, b: protocols.correlated(k, per_shift=15 * b, batch=b,
        seed=s, **SIX),
    "label_shift": lambda k, u, s, b: protocols.label_shift(k, ratio=100, per_shift=15 * b,
        batch=b, reset="never", seed=s, **SIX),
    "open_set": lambda k, u, s, b: protocols.open_set(k, u, shifts=STANDARD_SIX, per_shift=320,
        batch=20, seed=s),
    "clean": lambda k, u, s, b: Stream(k, ("none",), per_shift=100 * b, batch=b, seed=s),
    "mixed": lambda k, u, s, b: protocols.mixed_domains(k, per_shift=6 * b, batch=b, seed=s),
    "gradual": lambda k, u, s, b: protocols.gradual(k, per_shift=2 * b, batch=b, seed=s, **SIX),
    "zipf_grouped": lambda k, u, s, b: protocols.class_imbalance(k, ("fog", "pixelate"),
        grouped=True, per_shift=50 * b, batch=b, seed=s),
    "noise": lambda k, u, s, b: Stream(k, ("gaussian_noise",), per_shift=100 * b, batch=b, seed=s),
    "recurring": lambda k, u, s, b: protocols.recurring(k, STANDARD_SIX, visits=3,
        per_shift=5 * b, batch=b, seed=s),
    "reset_each_shift": lambda k, u, s, b: protocols.reset_each_shift(k, per_shift=15 * b,
        batch=b, seed=s, **SIX),
    "zipf": lambda k, u, s, b: protocols.class_imbalance(k, ("snow", "jpeg_compression"),
        per_shift=50 * b, batch=b, seed=s),
    "large_batches": lambda k, u, s, b: protocols.continual(k, per_shift=10 * 64, batch=64,
        seed=s, **SIX),
}
# batch statistics fail here from the start
ONE_CLASS_AT_A_TIME = ("sorted", "correlated", "label_shift", "recurring", "zipf_grouped")
KEPT = {
    "samples": ("step", "prediction", "entropy", "confidence", "label", "known",
                "source_prediction", "source_confidence", "rise_source"),
    "steps": ("step", "n", "n_kept", "skipped", "loss", "grad_norm", "distance", "marginal_entropy",
              "reset", "segment")
}


def recipe_of(label: str):
    """``method``, ``method@source`` (source statistics in the batch-norm layers), ``x 30`` behind
    it for 30 times the default rate."""
    name, _, factor = label.partition(" x ")
    name, _, norm = name.partition("@")
    recipe = make(name)
    if norm:
        recipe = replace(recipe, norm=SourceStatistics())
    rates = [k for k in knobs(recipe) if k.name == "update.lr" or k.name.endswith(".update.lr")]
    return (with_knobs(recipe, **
                       {rates[0].name: min(rates[0].value *
                                           float(factor), rates[0].high)}) if factor else recipe)


@cache
def start_of(source: str, label: str, models: Models) -> dict:
    """What `runner.run` writes of the start of a run: length of the tuned parameters, and whether
    statistics of test images are used."""
    recipe = recipe_of(label)
    model = deepcopy(models[source][0])
    recipe.norm.apply_(model)
    return {
        "tuned_length": float(
            np.sqrt(sum(float(p.detach().square().sum()) for p in recipe.train(model).values()))),
        "test_statistics": any(isinstance(m, TestTimeNorm) for m in model.modules())
    }


def batch_of(source: str, stream: str) -> int:
    if source in DEVELOPMENT and stream in ("long_term", "sorted", "correlated"):
        return 30 if stream == "long_term" else 32
    # a network that costs several times as much
    return 16 if source == "cifar10_resnet20" else 24


def drawn(source: str, stream: str, seed: int, batch_norm: bool) -> list[str]:
    """The recipes that meet this stream, by label; drawn from the names alone."""
    rng = np.random.default_rng(zlib.crc32(f"{source} {stream} {seed}".encode()))
    still, learning = PICKS["development" if source in DEVELOPMENT else "held_out"]
    labels = ["source"] + ["batch_norm"] * batch_norm
    labels += list(rng.choice(STILL if batch_norm else ("lame", "t3a"), still, replace=False))
    learning += len(labels)
    while len(labels) < learning:
        name = str(rng.choice(LEARN))
        factor = float(rng.choice(list(RATES), p=list(RATES.values())))
        slow = rng.random() > SLOW.get(name, 1)
        if slow or not batch_norm and (name in ("rotta", "rmt") or "@" in name):
            continue
        falls = batch_norm and "@" not in name and name != "rotta"
        if falls and stream in ONE_CLASS_AT_A_TIME and rng.random() < 0.7:
            continue
        label = f"{name} x {factor:g}"
        if label not in labels:
            labels.append(label)
    return labels


class Models:
    """Source models by name with what a stream needs: known and unknown images, images of the
    source domain."""

    def __init__(self, cifar: Path | None, checkpoint: Path | None):
        self.cifar = cifar
        self.checkpoint = checkpoint
        self.made = {}

    def __getitem__(self, name):
        if name not in self.made:
            if name == "cifar10_resnet20":
                from tta_lab.models.cifar_networks import load_cifar
                test, train = (datasets_load.load(f"folder:{self.cifar / part}")
                               for part in ("test", "train"))
                self.made[name] = load_cifar(self.checkpoint), test, None, train
            elif name == "fashion8_resnet_bn":
                self.made[name] = load_model(
                    name
                ), "fashion_mnist_8", "fashion_mnist_held_out", "fashion_mnist_train_slice_8"
            else:
                self.made[name] = load_model(
                    name), "fashion_mnist", "digits", "fashion_mnist_train_slice"
        return self.made[name]


def file_of(folder: Path, source: str, stream: str, seed: int, label: str) -> Path:
    return folder / source / f"{stream} {seed} {label}.npz"


def make_runs(folder: Path, sources, seeds, models: Models, until: float,
              streams=tuple(STREAMS)) -> bool:
    """Make what is missing, one file a finished run; False when the time is up."""
    for seed in seeds:
        for stream_name in streams:
            for source in sources:
                if not runs_on(folder, source, stream_name, seed, models, until):
                    return False
    return True


def runs_on(folder, source, stream_name, seed, models, until) -> bool:
    model, known, unknown, images = models[source]
    if stream_name == "open_set" and unknown is None:
        return True
    batch_norm = "_bn" in source or source == "cifar10_resnet20"
    wanted = [
        label for label in drawn(source, stream_name, seed, batch_norm)
        if not file_of(folder, source, stream_name, seed, label).exists()
    ]
    if not wanted:
        return True
    # no two models see the same stream
    number = 1000 * seed + zlib.crc32(source.encode()) % 997
    stream = CachedStream(STREAMS[stream_name](known, unknown, number,
                                               batch_of(source, stream_name)))
    shared = {}
    for label in wanted:
        if time.monotonic() > until:
            return False
        recipe = recipe_of(label)
        began = time.process_time()
        given = prepare(model, recipe,
                        datasets_load.load(images) if isinstance(images, str) else images,
                        device="cpu", cache=folder / "given")
        adapter = Adapter(model, recipe, seed=seed, device="cpu", record="source",
                          channels_last=True, source_info=given)
        adapter.shared_source = shared
        why = ""
        try:
            trace = run(adapter, stream)
        # the loss is not finite any more: what was seen until then counts
        except (RuntimeError, ValueError) as error:
            trace = adapter.trace
            why = f"{type(error).__name__}: {error}"[:200]
            if not len(trace):
                raise
        keep(
            trace, {
                "source": source, "stream": stream_name, "seed": seed, "label": label,
                "recipe": repr(recipe), "failed": why, "number": number, "seconds": round(
                    time.process_time() - began, 2), "classes": len(
                        stream.classes), "stream_hash": stream.hash, "weights": adapter.fingerprint
            }, file_of(folder, source, stream_name, seed, label))
    return True


def keep(trace: Trace, meta: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    short = {
        "samples": lambda v: v.astype(np.float32) if v.dtype.kind == "f" else v.astype(np.int32)
        if v.dtype.kind == "i" else v, "steps": lambda v: v.astype(np.float64)
        if v.dtype.kind == "f" else v
    }
    tables = {
        table: {
            c: short[table](values) for c, values in trace.columns(table).items()
            if c in KEPT[table]
        } for table in KEPT
    }
    Trace.from_columns(tables["samples"], tables["steps"], meta).save(path)
