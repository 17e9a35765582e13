"""What the workshop's notebooks compute beside the students' functions: a model ready to adapt,
errors, tables and one figure."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn

from ..components.norms.batch_norm import BatchStatistics
from ..core.parts import NormAffine
from ..studies.report import signed, write_numbers


def ready_to_adapt(network: nn.Module, device="cpu") -> tuple[nn.Module, list[nn.Parameter]]:
    """A copy of a network as Tent wants it, and the parameters that it tunes.

    Batch-norm layers normalise with the statistics of the batch (BN-1), and only the scale and
    shift of the normalisation layers ask for gradients (Tent, arXiv 2006.10726). Raises NeedsError
    for a network without such layers.
    """
    model = deepcopy(network).to(device).eval().requires_grad_(False)
    BatchStatistics().apply_(model)
    parameters = list(NormAffine()(model).values())
    for p in parameters:
        p.requires_grad_()
    return model, parameters


def error(predictions: Tensor, batches) -> float:
    """Share of the known images, in per cent, that got a wrong class; ``predictions`` (N,) in the
    order of the batches."""
    label, known = (torch.cat([getattr(b, name).cpu() for b in batches])
                    for name in ("label", "known"))
    scored = known & (label >= 0)
    return 100 * float((predictions.cpu()[scored] != label[scored]).float().mean())


def trace_error(trace) -> float:
    """The same of a trace."""
    scored = trace["known"].astype(bool) & (trace["label"] >= 0)
    return 100 * float((~trace["correct"][scored]).mean())


def say_errors(errors: Mapping[str, float], against: str = "") -> str:
    """One line a run, aligned: name, error in per cent, and the difference to the run named
    ``against``."""
    width = max(map(len, errors))
    base = errors.get(against)
    beside = {name: "" if base is None or name == against else f"  ({signed(value - base)} points "
                                                               f"against {against})"
              for name, value in errors.items()}
    return "\n".join(f"{name:<{width}}  {value:5.1f} %{beside[name]}"
                     for name, value in errors.items())


def say_rank(table: list[tuple[str, float]], errors: Mapping[str, float], unit: str = "") -> str:
    """A ranking without labels, the best first, beside the errors that only labels can tell."""
    width = max(len(name) for name, _ in table)
    return "\n".join(f"{i}. {name:<{width}}  {value:7.3f}{unit}   error {errors[name]:5.1f} %"
                     for i, (name, value) in enumerate(table, 1))


def groups(trace, values: Tensor) -> dict[str, float]:
    """Mean of one value per image among correct, wrong and unknown images; NaN for a group without
    images."""
    from ..analysis import diagnose

    values = np.asarray(values)
    return {
        name: float(values[mask].mean()) if mask.any() else float("nan")
        for name, mask in diagnose.groups(trace).items()
    }


def paired(trace, other) -> dict[str, float]:
    """Answers to known images that are right in one of two runs of a stream only, and how far
    chance alone takes the difference.

    With s_i = (right answers to image i in ``trace``) - (those in ``other``), summed over the
    rounds, the difference is sum s_i, and under the null hypothesis that the signs are drawn by
    lot its standard deviation is sqrt(sum s_i^2): McNemar's test with repeated images as clusters.
    Returns ``won`` and ``lost`` answers, ``difference``, ``chance`` (two standard deviations),
    ``answers`` and ``images``. Raises ValueError for runs of different streams.
    """
    if not np.array_equal(trace["id"], other["id"]) or not np.array_equal(
            trace["known"], other["known"]):
        raise ValueError("the two runs did not see the same images in the same order; run both on "
                         "one stream")
    known = trace["known"].astype(bool) & (trace["label"] >= 0)
    a, b = (t["correct"][known].astype(int) for t in (trace, other))
    _, image = np.unique(trace["id"][known], return_inverse=True)
    sums = np.bincount(image, weights=a - b)
    return {
        "won": int((a > b).sum()), "lost": int((a < b).sum()), "difference": int(
            (a - b).sum()), "chance": float(2 * np.sqrt((sums**2).sum())),
        "answers": int(known.sum()), "images": len(sums)
    }


def say_paired(name: str, other: str, numbers: Mapping[str, float]) -> str:
    """`paired` as a sentence, with the verdict that follows from the numbers."""
    difference, chance = numbers["difference"], numbers["chance"]
    verdict = "within chance, nothing can be told apart"
    if abs(difference) > chance:
        verdict = f"beyond chance, {name} is {'better' if difference > 0 else 'worse'}"
    return (f"{name} against {other}: {numbers['won']} answers right alone, {numbers['lost']} "
            f"wrong alone\n"
            f"  {difference:+d} of {numbers['answers']} answers to {numbers['images']} images; "
            f"chance gives +-{chance:.0f}: {verdict}")


def classes_over_time(runs: Mapping[str, Tensor], effective_classes: Callable, n_classes: int,
                      window: int = 300, every: int = 50) -> dict:
    """``effective_classes`` of the last ``window`` predictions, every so many images: {name:
    {"image" (T,), "classes" (T,)}}."""
    made = {}
    for name, said in runs.items():
        said = torch.as_tensor(said)
        ends = range(window, len(said) + 1, every)
        made[name] = {
            "image": list(ends),
            "classes": [float(effective_classes(said[e - window:e], n_classes)) for e in ends]
        }
    return made


def plot_classes(numbers, backend: str = "matplotlib", ax=None):
    """`classes_over_time` as lines: how many classes the predictions still use. A line that falls
    is a collapse under way."""
    from ..plots import Panel, Series, draw

    lines = tuple(
        Series(np.asarray(v["image"]), np.asarray(v["classes"], np.float64), name, i, "path")
        for i, (name, v) in enumerate(numbers.items()))
    return draw([
        Panel("Classes in use, without labels", "images seen", "effective number of "
              "classes", lines)
    ], backend, ax)


def save(numbers: Mapping, out_json: str) -> None:
    """Write numbers as JSON, if a file is named."""
    if out_json:
        write_numbers(out_json, dict(numbers))
