from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ..components.augment import CropFlip, Unchanged
from ..components.norms.batch_norm import SourceStatistics
from ..components.source.prepare import seen
from ..core.knobs import knob
from ..core.layer_outputs import layer_names, weighted_moments
from ..core.parts import (
    NORM_LAYERS,
    AllParameters,
    LossMethod,
    NeedsError,
    Norm,
    Part,
    Step,
    Train,
    Update,
)
from ..core.source_info import source_info

MAPS = ("mean", "variance")


def chosen(model: nn.Module, layers: tuple) -> tuple[str, ...]:
    """The layers that are matched: those named, or all normalisation layers."""
    norms = tuple(name for name, m in model.named_modules() if isinstance(m, NORM_LAYERS))
    if not layers and not norms:
        raise NeedsError("Actmad matches norm layers, but the model has none; set layers=")
    return layers or norms


@source_info("mean and variance maps of its layers, from unlabelled source images", batch=128)
def layer_maps(probe, images, *, layers, pooled, augment):
    """Mean and unbiased variance, "mean/<layer>" and "variance/<layer>", each (C, H, W).

    Plain averages of those of batches; ``pooled``: of all images as one. The authors take all.
    """
    rng = torch.Generator(probe.device).manual_seed(probe.seed)
    count = 0
    found = {}
    for x, _ in images:
        n = len(x)
        if n < 2:
            continue  # of one image there is no variance
        with torch.no_grad():
            ctx = seen(probe, augment(x.to(probe.device), rng))
            outputs = ctx.outputs(chosen(probe.model, layers))
        for name, out in outputs.items():
            variance, mean = torch.var_mean(out.double(), 0)
            if pooled:
                mean, variance = n * mean, (n - 1) * variance + n * mean**2
            found[f"mean/{name}"] = found.get(f"mean/{name}", 0) + mean
            found[f"variance/{name}"] = found.get(f"variance/{name}", 0) + variance
        count += n if pooled else 1
    if not count:
        raise ValueError("layer maps need batches of two or more source images")
    found = {name: total / count for name, total in found.items()}
    for name in outputs if pooled else ():
        spread = found[f"variance/{name}"] - found[f"mean/{name}"] ** 2
        found[f"variance/{name}"] = spread.clamp_min(0) * count / (count - 1)
    return {name: value.float() for name, value in found.items()}


@dataclass(frozen=True, kw_only=True)
class Actmad(LossMethod):
    """ActMAD: bring mean and variance of the layers' outputs, at every place, back to the source's.

    L = scale sum_l ( mean |m_l - mu_l| + mean |s_l - v_l| ),  m_l and s_l mean and unbiased
    variance of layer l's output over the images kept, per channel and place (C, H, W), mu_l and v_l
    those of source images of the same size (`layer_maps`). All parameters move, batch norm keeps
    the source's statistics. ``layers`` () are all normalisation layers. Of a single image the mean
    alone pulls. ``form="reference"`` is the authors' script for CIFAR: half the loss, source images
    and batches cropped and mirrored; it reports the best of many evaluations, this answers each
    batch once, after the step. ``form="torch_ttt"`` is that library's: pooled variances, Adam.
    Paper: ActMAD: Activation Matching to Align Distributions for Test-Time Training (2211.12870).
    """

    norm: Norm = SourceStatistics()
    train: Train = AllParameters()
    update: Update = Step(rule="sgd", lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4)
    answer: str = knob("after", choices=("before", "after"), why="from before or after the update")
    layers: tuple = ()
    scale: float = knob(1.0, (0.0, 100.0), "factor of the loss", paper="authors' code: 0.5 (CIFAR)")
    pooled: bool = knob(False, why="source variance of all images at once, not a mean over batches")
    augment: Part = Unchanged()
    family = "alignment"
    source_info = (layer_maps,)
    verified = "golden; variances averaged over batches by hand"
    verified_forms = {"reference": "invariants only", "torch_ttt": "golden"}
    paper = "ActMAD: Activation Matching to Align Distributions for Test-Time Training (2211.12870)"
    forms = {
        "reference": {"scale": 0.5, "augment": CropFlip(pad=4)},
        "torch_ttt": {"pooled": True, "update": Step(rule="adam", lr=1e-3, repeats=2)},
    }
    presets = {"cifar10_c": {"lr": 1e-2}, "cifar100_c": {"lr": 1e-3}, "imagenet_c": {"lr": 2.5e-4}}

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "layers", layer_names(self.layers, "Actmad.layers", "layers="))

    def observed_layers(self, model):
        return chosen(model, self.layers)

    def learning_batches(self, ctx, state):
        plain = isinstance(self.augment, Unchanged)
        yield ctx if plain else ctx.again(self.augment(ctx.x, ctx.rng), ctx.ids)

    def batch_loss(self, ctx, weights, state):
        loss = 0.0
        for name, out in ctx.outputs(self.observed_layers(ctx.model)).items():
            for what, ours in zip(MAPS, weighted_moments(out, weights), strict=True):
                theirs = ctx.source_info["layer_maps"].get(f"{what}/{name}")
                if theirs is None or theirs.shape != ours.shape:
                    raise NeedsError(
                        f"the source's {what} of {name} was made for other layers or images of "
                        "another size; make it with this recipe, this model and this size"
                    )
                loss = loss + (ours - theirs).abs().mean()
        return self.scale * loss
