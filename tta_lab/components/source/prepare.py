"""What is taken from the source domain before a stream: ``prepare`` makes what a recipe declares,
and the makers that several methods share stand here - Fisher information, class prototypes, feature
moments, images to replay, neighbours, a posterior. Others stand beside their method.

Labels and source images never reach an adapter by themselves: the caller makes what a recipe
declares to need with ``prepare`` and hands it over, ``Adapter(model, recipe,
source_info=prepare(model, recipe, images, labels))``. It depends on model, images, maker and knobs
alone and can be kept on disk under the hash of all.
"""
from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...core.adapter import Adapter
from ...core.arguments import path_of, shown, whole
from ...core.files import written
from ...core.hashing import digest
from ...core.named import model_of, recipe_of
from ...core.needs import check_needs
from ...core.parts import LossMethod, Norm, Part
from ...core.run_keys import described, foreign, maker_code, nested, own, precision
from ...core.source_info import Made, SourceInfo, source_info, source_info_of
from ...core.step_context import StepContext, as_logits, undisturbed
from ...data.load import images_of
from ...data.shipped import DataError


@dataclass
class Images:
    """Source images in memory (N, C, H, W) or as an image set, labels (N,) or None, at most
    ``limit`` of them (None: all), in stored order."""

    images: Any  # a tensor, or an image set
    labels: Tensor | None
    batch: int
    limit: int | None

    def __post_init__(self):
        if self.labels is None and not isinstance(self.images, Tensor):
            self.labels = self.images.y
        self.n = len(self.images) if self.limit is None else min(len(self.images), self.limit)
        if not self.n:
            raise ValueError("there are no source images")
        if self.labels is not None:
            self.labels = torch.as_tensor(self.labels)
            if self.labels.ndim and len(self.labels) != len(self.images):
                raise ValueError(f"{len(self.images)} source images but {len(self.labels)} labels")
            if self.labels.ndim != 1 or self.labels.is_floating_point():
                raise ValueError(f"labels must be {len(self.images)} whole numbers, one a source "
                                 f"image, not {self.labels.dtype} of shape "
                                 f"{tuple(self.labels.shape)}")
        if isinstance(self.images, Tensor) and not self.images.is_floating_point():
            raise ValueError(f"source images must be float in [0, 1], got {self.images.dtype}: "
                             f"convert with x.float() / 255")

    def __iter__(self):
        yield from self.in_order(torch.arange(self.n))

    def in_order(self, order: Tensor):
        """Batches of images and labels in the order of these rows."""
        for rows in order.split(self.batch):
            x = self.images[rows] if isinstance(self.images, Tensor) else self.images.images(rows)
            yield x, None if self.labels is None else self.labels[rows]

    def labelled(self, what: str):
        """Raise ValueError when an image has no label."""
        if self.labels is None or (self.labels[:self.n] < 0).any():
            raise ValueError(f"{what} need a label for every source image; pass labels (N,) of 0 "
                             f".. K - 1")
        return self

    def key(self) -> str:
        content = (
            digest({"images": self.images})
            if isinstance(self.images, Tensor)
            else self.images.fingerprint()
        )
        labels = "" if self.labels is None else digest({"labels": self.labels})
        return f"{content} {labels} {self.batch} {self.n}"


@dataclass(frozen=True, kw_only=True)
class _Probe(LossMethod):
    """The network as a recipe starts with it: its norm, its tuned parameters, no step."""

    norm: Norm

    def losses(self, ctx, state):
        return ctx.logits[:, 0] * 0


@undisturbed
def prepare(
    model,
    recipe,
    images,
    labels: Tensor | None = None,
    *,
    batch: int | None = None,
    limit: int | None = None,
    cache: str | Path | None = None,
    device="auto",
) -> dict:
    """Everything that ``recipe`` declares to need from the source domain, for ``Adapter(...,
    source_info=...)``.

    ``images`` (N, C, H, W) in [0, 1], or an image set (or its name), whose own labels are then
    used; the first ``limit`` are taken, in batches of ``batch`` (which the Fisher information
    depends on); None: as many as each maker says (`core.source_info`). ``cache`` names a folder
    that keeps results under a hash of model, maker, its code and knobs, normalisation, tuned
    parameters, images, batch and limit; two processes may share it. Raises ValueError when labels
    are needed and missing, NeedsError when the model lacks a layer that the recipe works with,
    TypeError for a maker that does not return a dict of tensors.
    """
    model, recipe = model_of(model), recipe_of(recipe)
    images = images if isinstance(images, Tensor) else images_of(images)
    batch = None if batch is None else whole("batch", batch, 1)
    limit = None if limit is None else whole("limit", limit, 1)
    cache = None if cache is None else path_of("cache", cache)
    check_needs(recipe, model)
    probe = Adapter(model, _Probe(norm=recipe.norm, train=recipe.train), device=device)
    given = {}
    for name, info in source_info_of(recipe).items():
        data = Images(images, labels, batch or info.batch, limit or info.limit)
        path = (
            None
            if cache is None
            else Path(cache) / f"{name}-{_key(info, model, recipe, data)}.safetensors"
        )
        if path is not None and path.exists():
            found = _kept(path)
        else:
            found = info.make(probe, data, **dict(info.knobs))
            if not isinstance(found, dict) or not all(
                isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items()
            ):
                raise TypeError(
                    f"the maker of {name!r} must return a dict, name -> tensor, not {shown(found)}"
                )
            found = {k: v.detach().cpu().contiguous() for k, v in found.items()}
            if path is not None:
                with written(path) as part:
                    save_file(found, part)
        given[name] = Made(found, probe.fingerprint, info.knobs)
    return given


def _key(info: SourceInfo, model, recipe, data: Images) -> str:
    """A name for what is made, which changes with anything that its numbers depend on."""
    parts = [
        recipe.norm,
        recipe.train,
        *(value for _, value in info.knobs if isinstance(value, Part)),
    ]
    # what of this package makes it: the maker, this file, parts and layers, with what they import
    places = {
        info.make.__module__,
        __name__,
        *(type(inner).__module__ for part in parts for inner in nested(part)),
        *(type(module).__module__ for module in model.modules()),
    }
    code = own(p.removeprefix("tta_lab.") for p in places if p.startswith("tta_lab."))
    facts = [
        info.name,
        maker_code(info.make),
        sorted(code.items()),
        precision(),
        info.knobs,
        described(model),
        recipe.norm,
        recipe.train,
        [foreign(part) for part in parts],
        data.key(),
    ]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _kept(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as why:  # safetensors raises an error of its own
        raise DataError(f"{path}, kept from an earlier run, is damaged ({why}); delete it, and it "
                        f"is made anew") from why


@source_info("the Fisher information of its tuned parameters on unlabelled source images")
def fisher(probe, data: Images) -> dict[str, Tensor]:
    """Diagonal Fisher information of the tuned parameters: the squared gradient of the batch-mean
    cross-entropy against the model's own classes, averaged over batches. It scales with the batch
    size. EATA (2204.02610)."""
    total = {name: torch.zeros_like(p) for name, p in probe.tuned.items()}
    batches = 0
    for x, _ in data:
        logits = as_logits(probe.model(x.to(probe.device, probe.precision)), probe.model)
        loss = F.cross_entropy(logits, logits.detach().argmax(1))
        for name, g in zip(
            total,
            torch.autograd.grad(loss, list(probe.tuned.values()), allow_unused=True),
            strict=True,
        ):
            if g is not None:
                total[name] += g ** 2
        batches += 1
    return {name: value / batches for name, value in total.items()}


def seen(probe, x: Tensor) -> StepContext:
    """Source images as a step sees them, with ``logits`` and ``outputs`` of the probe's network."""
    return StepContext(probe, x.to(probe.device, probe.precision), torch.arange(len(x)))


def _features(probe, data):
    with torch.no_grad():
        for x, y in data:
            yield seen(probe, x).forward_features()[0], y


@source_info("the mean source features of every class, from labelled source images")
def prototypes(probe, data: Images) -> dict[str, Tensor]:
    """Mean feature per class (K, D), with the recipe's normalisation. RMT (2211.13081), SANTA.
    Every class needs an image."""
    features, y = (
        torch.cat(v) for v in zip(*_features(probe, data.labelled("class prototypes")), strict=True)
    )
    y = y.to(features.device)
    # not index_add_: its order of summation varies on accelerators
    total = F.one_hot(y).to(features.dtype).T @ features
    count = y.bincount()
    if (count == 0).any():
        raise ValueError(f"no source image of class {count.argmin().item()} among the {len(y)} "
                         f"given: its prototype does not exist")
    return {"mean": total / count[:, None]}


@source_info("mean and covariance of source features, from unlabelled source images")
def moments(probe, data: Images) -> dict[str, Tensor]:
    """Mean (D,) and unbiased covariance (D, D) of the features over all source images."""
    features = torch.cat([f for f, _ in _features(probe, data)])
    return {"mean": features.mean(0), "covariance": features.T.cov()}


@source_info("labelled source images to replay")
def replay(probe, data: Images) -> dict[str, Tensor]:
    """The labelled images themselves, in stored order."""
    x, y = zip(*data.labelled("images to replay"), strict=True)
    return {"images": torch.cat(x), "labels": torch.cat(y)}


@source_info("the features of labelled source images")
def neighbours(probe, data: Images) -> dict[str, Tensor]:
    """Features (n, D) and labels (n,) of the images, in stored order, with the recipe's
    normalisation. AdaNPC (2304.12566): all training images."""
    features, labels = (
        torch.cat(v)
        for v in zip(
            *_features(probe, data.labelled("neighbours of the stream's images")), strict=True
        )
    )
    return {"features": features, "labels": labels}


@source_info("mean and variance of its tuned parameters, from training on labelled source images")
def posterior(probe, data: Images) -> dict[str, Tensor]:
    """Mean and variance, "mean/<name>" and "variance/<name>", of every tuned parameter over four
    places of further training (SWAG, diagonal).

    Five epochs of cross-entropy by SGD, momentum 0.9, weight decay 5e-4, in drawn order; the step
    size is 8e-4 in the first two, then rises linearly to 0.01 in the fifth; a place is taken after
    each epoch but the first; the variance is the biased one. PETAL (2212.09713), from the authors'
    code: batches of 200, all training images.
    """
    data.labelled("the posterior of a network's weights")
    params, rng, places = list(probe.tuned.values()), torch.Generator().manual_seed(probe.seed), []
    optimizer = torch.optim.SGD(params, lr=8e-4, momentum=0.9, weight_decay=5e-4)
    for epoch in range(5):
        optimizer.param_groups[0]["lr"] = 8e-4 + (0.01 - 8e-4) * max(epoch - 1, 0) / 3
        for x, y in data.in_order(torch.randperm(data.n, generator=rng)):
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(
                as_logits(probe.model(x.to(probe.device, probe.precision)), probe.model),
                y.to(probe.device),
            ).backward(inputs=params)
            optimizer.step()
        if epoch:
            places.append([p.detach().clone() for p in params])
    probe.reset()  # others use it too
    found: dict[str, Tensor] = {}
    for name, *each in zip(probe.tuned, *places, strict=True):
        values = torch.stack(each)
        found |= {f"mean/{name}": values.mean(0), f"variance/{name}": values.var(0, correction=0)}
    return found
