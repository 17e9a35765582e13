"""Warming a mean teacher up on source images before a stream, without labels; what comes out is
handed to an adapter in its ``source_info``."""
from __future__ import annotations

import torch
from torch import Tensor

from ...core import scores
from ...core.arguments import whole
from ...core.named import model_of, recipe_of
from ...core.source_info import source_info_of
from ...core.step_context import StepContext, undisturbed
from ...data.load import images_of
from ..teachers import follow_
from .prepare import Images


@undisturbed
def warm_up(
    model, recipe, images, *, n: int = 50_000, batch: int = 200, seed: int = 0, device="auto"
) -> dict[str, Tensor]:
    """Student, teacher and optimiser after n // batch steps of mean SCE(z, z') on source images,
    for ``given | {"warm_up": ...}``.

    The step size rises linearly to that of the recipe, the teacher follows as in the stream; images
    (N, C, H, W) or an image set are drawn in random order, again and again where n > N. The recipe
    keeps a teacher that follows by ``momentum`` (rmt). An adapter begins there, and goes back there
    on reset; the distance that its trace records stays that from the source. RMT (2211.13081): n =
    50 000.
    """
    from ...core.adapter import Adapter

    model, recipe = model_of(model), recipe_of(recipe)
    n, batch = whole("n", n, 1), whole("batch", batch, 1)
    if not hasattr(recipe, "momentum") or n < batch:
        raise ValueError(f"n = {n} is less than one batch of {batch}" if n < batch else
                         f"{type(recipe).__name__} keeps no teacher that follows by momentum; only "
                         f"rmt is warmed up")
    images = images if isinstance(images, Tensor) else images_of(images)
    adapter = Adapter(
        model,
        recipe,
        seed=seed,
        device=device,
        source_info={name: {} for name in source_info_of(recipe)},
    )
    if not isinstance(images, Tensor):
        data = Images(images, None, batch, len(images))
        images = torch.cat([x for x, _ in data])
    rng, steps = torch.Generator().manual_seed(seed), n // batch
    order = torch.cat(
        [torch.randperm(len(images), generator=rng) for _ in range(-(-n // len(images)))]
    )
    teacher = adapter.states["method"]["teacher"]
    for i in range(steps):
        ctx = StepContext(
            adapter,
            images[order[i * batch : (i + 1) * batch]].to(adapter.device, adapter.precision),
            torch.arange(batch),
        )
        for group in adapter.optimizer.param_groups:
            group["lr"] = recipe.update.lr * (i + 1) / steps
        with torch.no_grad():
            target = ctx.forward(tensors=teacher)
        adapter.optimizer.zero_grad(set_to_none=True)
        scores.symmetric_cross_entropy(ctx.forward(), target).mean().backward()
        adapter.optimizer.step()
        follow_(teacher, ctx, recipe.momentum)
    kept = {f"student/{name}": p for name, p in adapter.tuned.items()} | {
        f"teacher/{name}": p for name, p in teacher.items()
    }
    for name, p in adapter.tuned.items():
        kept |= {
            f"{key}/{name}": torch.as_tensor(value)
            for key, value in adapter.optimizer.state.get(p, {}).items()
            if value is not None
        }
    return {name: value.detach().cpu().clone() for name, value in kept.items()}


def begin_(adapter, what: tuple) -> None:
    """Put an adapter that was given a warm-up at its end, those SCOPES that were put back."""
    kept = adapter.source_info["warm_up"]
    with torch.no_grad():
        for name, p in adapter.tuned.items():
            if "weights" in what:
                p.copy_(kept[f"student/{name}"])
            if "optimizer" in what:
                found = {
                    path.split("/")[0]: v for path, v in kept.items() if path.split("/")[1] == name
                }
                adapter.optimizer.state[p] |= {
                    k: v.cpu().clone() if k == "step" else v.clone()
                    for k, v in found.items()
                    if k not in ("student", "teacher")
                }
        if "states" in what:
            for name, value in adapter.states["method"]["teacher"].items():
                value.copy_(kept[f"teacher/{name}"])
