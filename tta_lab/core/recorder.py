"""StepRecord: what the trace says of one step. Nothing here changes a result, draws a number or
asks the host."""
from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import scores

if TYPE_CHECKING:
    from .adapter import Adapter
    from .step_context import LossOutput, StepContext

# step columns that a watching controller writes
WATCHED = ("alarm", "alarm_probability", "action", "answered_by")


class StepRecord:
    """Begun before a step, asked for its columns when the answer is known."""

    def __init__(self, adapter: Adapter):
        self.adapter = adapter
        self.started = time.perf_counter()
        self.cost = dict(adapter.cost)
        self.was_reset = adapter.was_reset

    def columns(self, ctx: StepContext, rows: slice | None, ids: Tensor, logits: Tensor,
                loss_outputs: list[LossOutput], with_source: bool) -> tuple[dict, dict]:
        """Columns per image, (B,) tensors, and those of the step, scalars.

        ``rows`` of ``ctx`` were answered (None: all) with ``logits`` (B, K, *S). ``with_source``:
        also what the frozen source says, for the record alone. A watching controller gets it only
        where the method asked for it itself, so that it acts alike whatever is recorded.
        """
        adapter, device = self.adapter, logits.device
        samples = {"step": torch.full((len(ids),), adapter.steps, device=device), "id": ids,
                   **_of_logits(logits)}
        cost = {name: adapter.cost[name] - before for name, before in self.cost.items()}
        if with_source or ctx.has_source_logits(adapter.source_statistics):
            samples |= self._source(ctx, rows, ids, logits)
        samples |= _of_losses(len(ids), device, loss_outputs if rows is None else ())
        last = loss_outputs[-1] if loss_outputs else None
        nan = torch.full((), torch.nan, device=device)
        return samples, {
            "step": adapter.steps,
            "n": len(ids),
            "lessons": len(loss_outputs),
            "n_kept": sum(each.n_kept for each in loss_outputs),
            "skipped": not any(each.move for each in loss_outputs),
            "loss": nan if last is None else last.loss,
            "grad_norm": nan if last is None or last.grad_norm is None else last.grad_norm,
            "distance": _distance(adapter.tuned, adapter.origin, device),
            "marginal_entropy": scores.marginal_entropy(logits),
            **cost,
            "seconds": time.perf_counter() - self.started,
            "reset": self.was_reset,
            "failed": False,
        }

    def _source(self, ctx: StepContext, rows: slice | None, ids: Tensor, logits: Tensor) -> dict:
        """What the frozen source says; none of a segmentation, which has no single prediction."""
        adapter = self.adapter
        before = dict(adapter.cost)
        source = ctx.source_logits(adapter.source_statistics, check=False)
        adapter.state.cost = before  # looking for the record is not a cost of the method
        source = source if rows is None else source[rows]
        # of the record alone: a method that asks for the source is stopped when it does
        broken = adapter.broken(source, ids, "the source model")
        if broken:
            adapter.errors.append(f"{broken}; its columns are NaN there")
        if logits.ndim != 2:
            return {}
        # the paper compares the prediction made before the update; a method that never made one
        # is taken at its answer
        adapted = vars(ctx).get("logits")
        adapted = (logits if adapted is None else
                   adapted.detach() if rows is None else adapted.detach()[rows])
        top, where = source.softmax(1).max(1)
        here = scores.probability_of(adapted, where)
        return {"source_prediction": where, "source_confidence": top,
                "source_class_confidence": here, "rise_source": here - top}


def of_failure(adapter: Adapter, ids: Tensor, logits: Tensor) -> tuple[dict, dict]:
    """The columns of a step that failed and was answered by the source model."""
    n = len(logits)
    samples = {"step": torch.full((n,), adapter.steps), "id": ids, **_of_logits(logits),
               "loss": torch.full((n,), torch.nan), "weight": torch.zeros(n),
               "kept": torch.zeros(n, dtype=torch.bool)}
    return samples, {"step": adapter.steps, "n": n, "n_kept": 0, "skipped": True, "failed": True,
                     "reset": adapter.was_reset}


def _of_logits(logits: Tensor) -> dict[str, Tensor]:
    """Per-image columns of the returned logits; in segmentation means over the pixels, and no
    single prediction."""
    columns = {"entropy": _per_image(scores.entropy(logits)),
               "confidence": _per_image(scores.confidence(logits)),
               "max_logit": _per_image(logits.float().amax(1)),
               "energy": _per_image(scores.energy(logits))}
    return {"prediction": logits.argmax(1), **columns} if logits.ndim == 2 else columns


def _of_losses(
    n: int, device: torch.device, loss_outputs: Iterable[LossOutput]
) -> dict[str, Tensor]:
    """Per-image columns of what was learned: NaN and 0 for images that no loss was taken of."""
    columns = {"loss": torch.full((n,), torch.nan, device=device),
               "weight": torch.zeros(n, device=device),
               "kept": torch.zeros(n, dtype=torch.bool, device=device)}
    for each in loss_outputs:
        at = each.ctx.rows
        if at is not None:  # batches from a memory are of other images
            columns["loss"][at] = _per_image(each.losses)
            columns["weight"][at] = _per_image(each.weights)
            columns["kept"][at] = _per_image(each.kept.float()) > 0
    return columns


def _distance(tuned: Mapping[str, Tensor], origin: Mapping[str, Tensor],
              device: torch.device) -> Tensor:
    """L2 distance of the tuned parameters from the source."""
    if not tuned:
        return torch.zeros((), device=device)
    moved = torch._foreach_sub(list(tuned.values()), list(origin.values()))
    return torch.stack(torch._foreach_norm(moved)).norm()


def _per_image(values: Tensor) -> Tensor:
    return values if values.ndim == 1 else values.flatten(1).mean(1)
