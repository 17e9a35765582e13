"""Probes: what a figure needs and no trace holds. Gradients of single samples, steps that are not
taken, pixels.

A probe looks at an adapter in the middle of a stream and at one batch, as the adapter would meet it
next. Whatever that changes is put back: weights, statistics, optimiser, generator, states, trace,
cost and counters are the same bits afterwards. Labels are given to the probe for grouping the
numbers; they never reach the adapter.

Batch norm with batch statistics couples the samples of a batch: every loss depends on every image.
"The gradient of sample i" is here

    g_i = d loss_i / d theta,  the whole batch in the forward pass, the loss of sample i alone,
    unweighted and before selection,

so that the mean of all g_i is the gradient of the mean loss, exactly. Paper: Towards Open-Set
Test-Time Adaptation Utilizing the Wisdom of Crowds in Entropy Minimization (2308.06879).
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor

from ..core.adapter import Adapter
from ..core.parts import SCOPES, EveryBatch, LossMethod, Part
from ..core.step_context import LossOutput, StepContext

COSINES = {"crowd": "mean gradient of the batch", "others": "mean gradient of the others",
           "peers": "mean of the others predicted alike", "step": "gradient of the step"}

GRADIENTS = 64_000_000  # numbers in the gradients that a vote holds at a time


# --- the crowd


@torch.inference_mode(False)
@torch.enable_grad()
def gradient_crowd(
    adapter: Adapter,
    x: Tensor,
    labels: Tensor | None = None,
    known: Tensor | None = None,
    ids: Tensor | None = None,
    rows: Iterable[int] | None = None,
) -> dict:
    """How far the gradient of each sample agrees with those of the others, over all tuned
    parameters.

    With g_i as above and N images: ``crowd`` = cos(g_i, mean_j g_j), ``others`` = cos(g_i, mean
    over j != i), ``peers`` = the same over the others of i's predicted class (NaN when there is
    none), ``step`` = cos(g_i, gradient of the method's own step: selected, weighted, with
    penalties; NaN when it makes none), ``norm`` = ||g_i||, and ``vote`` = g_i . sum_j g_j / ||sum_j
    g_j||^2, the sample's share of the mean gradient, which adds up to 1 over the whole batch.
    ``crowd`` holds the sample itself: a long gradient agrees with a mean that it makes.

    ``x`` (N, C, H, W) and ``ids`` (N,) as for the adapter; ``rows``: only these images (the crowd
    is always the whole batch); ``labels`` (N,), K and above unknown, -1 none, and ``known`` (N,)
    bool make the groups. Returns arrays (n,): the above, ``rows``, ``prediction``, ``kept`` (by the
    selectors), ``loss``; ``groups`` name -> mask (n,); ``mean_norm`` = ||mean_j g_j||,
    ``coherence`` = ||mean_j g_j|| / mean_i ||g_i|| over ``rows``. Costs a backward for each row and
    for each predicted class: about 4 s for 100 images of 28 x 28 and a ResNet-20 on one core.
    Raises ValueError for methods that do not learn from the batch itself.
    """
    x, ids, rows = _asked(adapter, x, ids, rows)
    with adapter.isolated():
        ctx, loss_output = _first_look(adapter, x, ids)
        losses = loss_output.losses
        prediction = ctx.logits.detach().argmax(1)
        classes = prediction.unique()
        of_class = torch.stack(
            [_flat(_gradient(adapter, losses[prediction == c].sum())) for c in classes]
        )
        size = torch.stack([(prediction == c).sum() for c in classes]).double()
        total = of_class.sum(0)
        step = (
            _flat(_gradient(adapter, loss_output.loss))
            if loss_output.move
            else torch.full_like(total, math.nan)
        )
        found: dict[str, list] = {name: [] for name in (*COSINES, "norm", "vote")}
        for i in rows:
            g = _flat(_gradient(adapter, losses[i]))
            at = int((classes == prediction[i]).nonzero())
            peers = of_class[at] - g if size[at] > 1 else torch.full_like(g, math.nan)
            for name, other in (
                ("crowd", total),
                ("others", total - g),
                ("peers", peers),
                ("step", step),
            ):
                found[name].append(_cosine(g, other))
            found["norm"].append(g.norm())
            found["vote"].append(g @ total / (total @ total))
        values = {name: torch.stack(column).cpu().numpy() for name, column in found.items()}
        at = torch.tensor(rows, device=prediction.device)
        values |= {
            "rows": np.array(rows),
            "prediction": _numpy(prediction[at]),
            "kept": _numpy(loss_output.kept[at]),
            "loss": _numpy(losses.detach()[at]),
        }
    mean = float(total.norm()) / len(x)
    return {
        **values,
        "mean_norm": mean,
        "coherence": mean / max(float(values["norm"].mean()), 1e-300),
        "groups": _groups(values["prediction"], rows, labels, known, ctx.logits.shape[1]),
    }


@torch.inference_mode(False)
@torch.enable_grad()
def counterfactual_vote(
    adapter: Adapter,
    x: Tensor,
    labels: Tensor | None = None,
    known: Tensor | None = None,
    ids: Tensor | None = None,
    rows: Iterable[int] | None = None,
    moments: str = "empty",
    update: Part | None = None,
) -> dict:
    """One step with each sample alone, and one with the whole batch, from the same weights: what
    becomes of its confidence?

    The confidence is p[c_i], c_i the class of the frozen source. *Alone* the loss of sample i is
    the only one, without selectors and penalties, the forward pass that of the whole batch;
    *together* it is the method's own step. Both use the method's update rule, or ``update``;
    ``moments``: "empty" starts its optimiser afresh (Adam then moves every weight by the sign of
    its gradient), "kept" takes the adapter's, whose momentum is the crowd of earlier batches. What
    a method does after a step (restores, averages) is left out.

    Arguments as in `gradient_crowd`. Returns arrays (n,): ``rows``, ``source_class``,
    ``prediction``, ``before``, ``alone`` and ``together`` (probability of c_i), ``self_change`` =
    alone - before, ``batch_change`` = together - before, ``rise`` = before - source's probability
    (d); ``groups`` name -> mask (n,); ``moved``: whether the method made a step. Costs a backward
    and a forward of the batch for each row: about 7 s for 100 images of 28 x 28 and a ResNet-20 on
    one core. Raises ValueError for methods that do not learn from the batch itself, and for
    ``moments="kept"`` with another ``update``.
    """
    if moments not in ("empty", "kept") or (moments == "kept" and update is not None):
        raise ValueError(f"moments must be 'empty' or 'kept', and 'empty' with another update "
                         f"rule, which has none; got {moments!r}")
    x, ids, rows = _asked(adapter, x, ids, rows)
    recipe = adapter.recipe
    params = list(adapter.tuned.values())
    rule = recipe.update if update is None else update
    with adapter.isolated() as before:
        ctx, loss_output = _first_look(adapter, x, ids)
        start = [p.detach().clone() for p in params]
        source = ctx.source_logits(adapter.source_statistics).detach()
        source_class = source.argmax(1)
        now = _probability(ctx, source_class)
        together_gradient = (
            _gradient(adapter, loss_output.loss, flat=False) if loss_output.move else None
        )

        def after(first: LossOutput, gradient, again: Callable) -> Tensor:
            """p[c] of all images after one step of the rule whose first look gives ``first`` with
            ``gradient``; the weights are put back."""
            optimizer = rule.build(params)
            if update is None:      # as the adapter's stands now, with or without its moments
                settings = deepcopy(before["optimizer"])
                optimizer.load_state_dict(
                    settings if moments == "kept" else settings | {"state": {}}
                )
            looks = [(first, gradient)]

            def closure(keep=None):
                loss_output, gradient = looks.pop() if looks else again(ctx.next_evaluation(), keep)
                for p, g in zip(params, gradient, strict=True):
                    p.grad = None if g is None else g.clone()
                return loss_output

            rule(optimizer, closure)
            with torch.no_grad():
                changed = _probability(ctx.again(), source_class)
                torch._foreach_copy_(params, start)
            return changed

        def whole(v, keep):
            loss_output = adapter.loss_of(v, keep)
            return loss_output, _gradient(adapter, loss_output.loss, flat=False)

        def single(v, losses, i):
            one = torch.zeros_like(losses.detach())
            one[i] = 1
            return LossOutput(v, losses, one, one > 0, losses[i], 1, True), _gradient(
                adapter, losses[i], flat=False
            )

        alone = []
        for some in batched(rows, max(1, GRADIENTS // sum(p.numel() for p in params))):
            # moving the weights makes a graph useless: the gradients of some rows come first, then
            # their steps
            v = ctx.next_evaluation()
            losses = recipe.losses(v, adapter.states["method"])
            first = [single(v, losses, i) for i in some]
            del v, losses
            for i, look in zip(some, first, strict=True):
                alone.append(
                    after(
                        *look,
                        lambda v, keep, i=i: single(
                            v, recipe.losses(v, adapter.states["method"]), i
                        ),
                    )[i]
                )
        together = after(loss_output, together_gradient, whole) if loss_output.move else now
        at = torch.tensor(rows, device=source.device)
        values = {
            "rows": np.array(rows),
            "source_class": _numpy(source_class[at]),
            "prediction": _numpy(ctx.logits.argmax(1)[at]),
            "before": _numpy(now[at]),
            "alone": _numpy(torch.stack(alone)),
            "together": _numpy(together[at]),
            "rise": _numpy((now - source.double().softmax(1).amax(1))[at]),
        }
    return {
        **values,
        "self_change": values["alone"] - values["before"],
        "batch_change": values["together"] - values["before"],
        "moved": loss_output.move,
        "groups": _groups(values["prediction"], rows, labels, known, source.shape[1]),
    }


def summary(numbers: dict) -> dict[str, dict]:
    """What a probe says of each group: ``n``, and

    of `gradient_crowd` the medians of the cosines and of ``norm``, the share ``against`` (cosine
    with the others below 0), and the shares that the group has of the ``images`` and of the
    ``vote`` of the rows probed; of `counterfactual_vote` the shares that rise by a step alone and
    together (``rises_alone``, ``rises_together``), that rise alone and fall together
    (``outvoted``), and the mean changes.
    """
    found: dict[str, dict] = {}
    for name, mask in numbers["groups"].items():
        n = int(mask.sum())
        row: dict = {"n": n}
        if "others" in numbers:
            row |= {key: _median(numbers[key][mask]) for key in (*COSINES, "norm")}
            row |= {
                "against": _share(numbers["others"][mask] < 0),
                "images": n / max(len(numbers["rows"]), 1),
                "vote": float(numbers["vote"][mask].sum() / numbers["vote"].sum())
                if n
                else math.nan,
            }
        if "self_change" in numbers:
            alone, together = numbers["self_change"][mask], numbers["batch_change"][mask]
            row |= {
                "rises_alone": _share(alone > 0),
                "rises_together": _share(together > 0),
                "outvoted": _share((alone > 0) & (together < 0)),
                "self_change": float(alone.mean()) if n else math.nan,
                "batch_change": float(together.mean()) if n else math.nan,
            }
        found[name] = row
    return found


def pool(probes: Iterable[dict]) -> dict:
    """The numbers of several batches as one: arrays one after another, groups of the same name
    together, scalars as their mean.

    A share of the vote is then that of the mean batch: the shares of each batch are divided by the
    number of batches.
    """
    probes = list(probes)
    if not probes:
        raise ValueError("there are no probes to put together; let a Probe run over the steps "
                         "first")
    groups = list(dict.fromkeys(name for numbers in probes for name in numbers["groups"]))
    size = [len(numbers["rows"]) for numbers in probes]
    pooled = {
        key: np.concatenate([numbers[key] for numbers in probes])
        if isinstance(value, np.ndarray)
        else float(np.mean([numbers[key] for numbers in probes]))
        for key, value in probes[0].items()
        if key != "groups"
    }
    if "vote" in pooled:
        pooled["vote"] = pooled["vote"] / len(probes)
    return {
        **pooled,
        "groups": {
            g: np.concatenate(
                [
                    numbers["groups"].get(g, np.zeros(n, bool))
                    for numbers, n in zip(probes, size, strict=True)
                ]
            )
            for g in groups
        },
    }


class Probe:
    """Probes chosen steps of a run: ``run(adapter, stream, each=Probe(adapter, stream, steps))``.

    The adapter is looked at before it meets the batch of that step, so at the weights that the
    batches before it left; what the run itself does and records stays the same. ``steps`` count the
    batches of the stream from 0 (`steps_of` finds those of a round), ``what`` are functions called
    as ``f(adapter, x, labels=..., known=..., ids=...)``; give options with ``functools.partial``.
    ``results`` has one dict per step: ``step``, ``round``, ``domain`` and the numbers under the
    function's name. Raises ValueError for steps that the stream does not have.
    """

    def __init__(
        self,
        adapter: Adapter,
        stream,
        steps: Iterable[int],
        what: Iterable[Callable] = (gradient_crowd, counterfactual_vote),
    ):
        self.adapter, self.stream, self.what = adapter, stream, tuple(what)
        self.steps = frozenset(int(step) for step in steps)
        outside = sorted(step for step in self.steps if not 0 <= step < len(stream))
        if outside:
            raise ValueError(f"the stream has the steps 0 to {len(stream) - 1}, not {outside[:5]}")
        self.next, self.results = 0, []
        self._look("never")

    def __call__(self, trace) -> None:
        """Called after each batch; probes the one to come."""
        self.next += 1
        self._look(trace.meta.get("reset", "never"))

    def numbers(self, name: str = "gradient_crowd", round: int | None = None) -> dict:
        """The numbers of one function, of all steps or of those in one round, put together with
        `pool`."""
        return pool(
            found[name] for found in self.results if round is None or found["round"] == round
        )

    def _look(self, reset: str) -> None:
        if self.next not in self.steps:
            return
        batch = next(self.stream.batches(self.adapter.device, self.next, self.next + 1))
        domains = [self.stream.domains[i] for i in batch.domain.unique().tolist()]
        found = {
            "step": self.next,
            "round": batch.round,
            "domain": domains[0] if len(domains) == 1 else "several",
        }
        with self.adapter.isolated():
            if reset == "batch" or reset == "domain" and batch.new_domain:
                self.adapter.rewind(SCOPES)      # as the run will, before it sends this batch
            for function in self.what:
                name = getattr(function, "func", function).__name__
                found[name] = function(
                    self.adapter, batch.x, labels=batch.label, known=batch.known, ids=batch.ids
                )
        self.results.append(found)


def steps_of(stream, round: int) -> list[int]:
    """The first batch of each shift (segment) in one round of a stream, counted from 0; ``round``
    -1 is the last."""
    first: dict[tuple[int, int], int] = {}
    for step, arrival in enumerate(stream.plan()):
        first.setdefault((arrival.round, int(arrival.segment[0])), step)
    rounds = sorted({number for number, _ in first})
    if not -len(rounds) <= round < len(rounds):
        raise ValueError(f"the stream has the rounds 0 to {len(rounds) - 1}, not {round}")
    return [step for (number, _), step in first.items() if number == rounds[round]]


# --- pixels


def open_set_picture(images, label, logits: dict, unknown=(), ignore=(255, -1)) -> dict:
    """Where segmentation goes wrong and where it meets classes it does not know, for the maps of
    one or several models.

    ``images`` (n, C, H, W) in [0, 1], ``label`` (n, H, W), ``logits`` name -> (n, K, H, W) or
    predictions (n, H, W). Pixels whose label is in ``unknown`` are of unknown classes whatever is
    predicted there, those in ``ignore`` are left out; the rest is right or wrong. Returns
    ``images``, ``label`` and per name ``prediction`` (n, H, W), ``wrong`` (n, H, W) bool and
    ``error`` (n,) = wrong / known pixels in per cent; ``unknown`` and ``ignored`` (n, H, W) bool,
    ``unknown_share`` (n,) of the pixels not left out. Raises ValueError for shapes that differ.
    """
    images, label = _numpy(images), _numpy(label)
    if images.ndim != 4 or label.shape != (len(images), *images.shape[2:]):
        raise ValueError(f"images (n, C, H, W) and label (n, H, W) are needed, got {images.shape} "
                         f"and {label.shape}")
    strange, left_out = np.isin(label, tuple(unknown)), np.isin(label, tuple(ignore))
    strange &= ~left_out
    known = ~strange & ~left_out
    result: dict = {
        "images": images,
        "label": label,
        "unknown": strange,
        "ignored": left_out,
        "prediction": {},
        "wrong": {},
        "error": {},
        "unknown_share": _ratio(strange, ~left_out),
    }
    for name, values in logits.items():
        values = _numpy(values)
        prediction = values.argmax(1) if values.ndim == 4 else values
        if prediction.shape != label.shape:
            raise ValueError(f"the prediction {name!r} has shape {prediction.shape}, the labels "
                             f"{label.shape}; "
                             "scale it to their size first")
        result["prediction"][name] = prediction
        result["wrong"][name] = known & (prediction != label)
        result["error"][name] = 100 * _ratio(result["wrong"][name], known)
    return result


# --- helpers


def batched(rows: list[int], size: int) -> list[list[int]]:
    """The rows in stretches of this size."""
    return [rows[at:at + size] for at in range(0, len(rows), size)]


def _asked(
    adapter: Adapter, x: Tensor, ids: Tensor | None, rows
) -> tuple[Tensor, Tensor, list[int]]:
    recipe, name = adapter.recipe, type(adapter.recipe).__name__
    if not recipe.learns or not adapter.tuned:
        raise ValueError(f"{name} learns nothing by gradients, so there is no crowd to look at; "
                         f"probe a method with a loss, such as tent")
    if not recipe.has_sample_losses:
        raise ValueError(f"{name} has a loss of the whole batch alone, so single images have no "
                         f"gradient; probe a method with a loss per image, "
                         "such as tent")
    if (
        type(recipe).learning_batches is not LossMethod.learning_batches
        or type(recipe.cadence) is not EveryBatch
    ):
        raise ValueError(f"{name} as set here does not learn from each batch as a whole but from a "
                         f"memory, a window or image by image; "
                         "probes are for methods whose learning batch is the batch itself")
    x, ids = adapter.batch(x, ids)
    rows = list(range(len(x))) if rows is None else [int(i) for i in rows]
    outside = [i for i in rows if not 0 <= i < len(x)]
    if outside or not rows:
        raise ValueError(f"rows must be some of 0 to {len(x) - 1}, got {outside or rows}")
    return x, ids, rows


def _first_look(adapter: Adapter, x: Tensor, ids: Tensor) -> tuple[StepContext, LossOutput]:
    """The view of the step and what it teaches, as the adapter makes them."""
    recipe, ctx = adapter.recipe, StepContext(adapter, x, ids, commit=True)
    if recipe.answer == "before":
        recipe.output(ctx, adapter.states["method"])
    if ctx.logits.ndim != 2:
        raise ValueError(f"this probe is for classifiers, one prediction an image; the model gives "
                         f"{tuple(ctx.logits.shape)}")
    return ctx, adapter.loss_of(ctx, None)


def _gradient(adapter: Adapter, loss: Tensor, flat: bool = True) -> list[Tensor | None]:
    """d loss / d tuned parameters; None (``flat``: zeros) where the loss does not depend on one."""
    params = list(adapter.tuned.values())
    found = [None] * len(params)
    if loss.requires_grad:
        found = torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True)
    if not flat:
        return list(found)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, params, strict=True)]


def _flat(gradient: list[Tensor]) -> Tensor:
    return torch.cat([g.detach().flatten() for g in gradient]).double()


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """NaN where one of them is zero: no direction."""
    return a @ b / (a.norm() * b.norm())


def _probability(ctx: StepContext, classes: Tensor) -> Tensor:
    return ctx.logits.detach().double().softmax(1).gather(1, classes[:, None])[:, 0]


def _groups(
    prediction: np.ndarray, rows: list[int], labels, known, classes: int
) -> dict[str, np.ndarray]:
    """correct, wrong, unknown as `diagnose.groups` has them, without those that are empty; "all"
    where no labels are given."""
    if labels is None:
        return {"all": np.ones(len(rows), bool)}
    labels = _numpy(labels)[rows]
    known = labels < classes if known is None else _numpy(known)[rows].astype(bool)
    scored = known & (labels >= 0)
    groups = {
        "correct": scored & (prediction == labels),
        "wrong": scored & (prediction != labels),
        "unknown": ~known,
    }
    return {name: mask for name, mask in groups.items() if mask.any()}


def _numpy(values) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    part, whole = (mask.reshape(len(mask), -1).sum(1).astype(np.float64) for mask in (part, whole))
    return np.divide(part, whole, out=np.full(len(part), math.nan), where=whole > 0)


def _median(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else math.nan


def _share(mask: np.ndarray) -> float:
    return float(mask.mean()) if len(mask) else math.nan
