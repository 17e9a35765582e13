"""Numbers that judge a run: pure functions of arrays, accumulated in float64; every metric of the
package is found here.

Errors and shares of flips are in per cent; probabilities, areas and IoU in 0..1. `definitions`
lists them all.

One rule for broken outputs: a row with NaN logits (or +inf, or nothing but -inf) is never dropped.
It counts as wrong, its score is -inf, and where a probability is needed it counts as a wrong
answer given with full confidence (NLL inf, Brier 2). The collecting functions `classification` and
`open_set` report how many such rows there were as ``bad_rows``. One rule for images without a
label (-1): functions of labels refuse them, and ``where`` (N,) bool says which images count. An
average over nothing is NaN, silently.
"""
from __future__ import annotations

import math

import numpy as np

from ...core.arguments import number, whole
from .inputs import (
    labelled,
    log_softmax,
    logits_and_labels,
    mean,
    percents,
    predictions,
    reals,
    same_length,
    whole_log_softmax,
)
from .segmentation import confusion, iou, miou, pixel_accuracy
from .streams import (
    alternating,
    backward_forgetting,
    classes_seen,
    collapse_curve,
    cost,
    effective_rank,
    error_curve,
    flip_rates,
    mean_prediction_entropy,
    source_retention,
    top_class_share,
)
from .table import definitions
from .unknown_classes import (
    auroc,
    confidence_difference,
    energy,
    fpr_at_tpr,
    h_acc,
    h_auc,
    harmonic_mean,
    max_cosine,
    max_logit,
    msp,
    negative_entropy,
    open_set,
    oscr,
    roc,
    split_threshold,
)

__all__ = [
    "ALEXNET_ERRORS",
    "adaptive_ece",
    "alternating",
    "auroc",
    "backward_forgetting",
    "binary_brier",
    "brier",
    "classes_seen",
    "classification",
    "classwise_ece",
    "collapse_curve",
    "confidence_difference",
    "confusion",
    "cost",
    "definitions",
    "ece",
    "effective_rank",
    "energy",
    "error",
    "error_curve",
    "error_per_group",
    "flip_rates",
    "fpr_at_tpr",
    "h_acc",
    "h_auc",
    "harmonic_mean",
    "iou",
    "log_softmax",
    "macro_f1",
    "max_cosine",
    "max_logit",
    "mce",
    "mean_error",
    "mean_error_at",
    "mean_prediction_entropy",
    "mean_std",
    "miou",
    "msp",
    "negative_entropy",
    "nll",
    "open_set",
    "oscr",
    "paired_interval",
    "pixel_accuracy",
    "predictions",
    "reliability",
    "roc",
    "source_retention",
    "split_threshold",
    "t_probability",
    "t_quantile",
    "top_class_share",
    "unnormalised_mce",
    "weighted_mean_error",
    "worst_group_accuracy",
]
# error of AlexNet on each type of ImageNet-C at 224 pixels, mean over severities 1 to 5, as a
# share (arXiv 1903.12261)
ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}


# --- errors and their averages

def error(prediction, label, where=None) -> float:
    """Share of wrong predictions, in per cent: 100 / N sum [prediction_i != label_i].  (N,), (N,)
    -> number

    Raises ValueError for images without a label (-1) unless ``where`` leaves them out.
    """
    prediction, label = same_length(prediction=prediction, label=label)
    label, prediction = labelled(where, label, prediction)
    return 100 * mean(prediction != label)


def error_per_group(prediction, label, group, where=None) -> dict:
    """The error in per cent of each value of ``group`` (a domain, a round, a class), in sorted
    order.

    Raises ValueError for images whose group is NaN.
    """
    prediction, label, group = same_length(prediction=prediction, label=label, group=group)
    label, prediction, group = labelled(where, label, prediction, group)
    if group.dtype.kind == "f" and np.isnan(group).any():
        raise ValueError(f"{int(np.isnan(group).sum())} of {len(group)} images have NaN as their "
                         f"group, so they belong to none; leave them out "
                         "with where=~np.isnan(group)")
    return {
        value.item(): error(prediction[group == value], label[group == value])
        for value in np.unique(group)
    }


def mean_error(per_group: dict) -> float:
    """Arithmetic mean of group errors in per cent, each group counting the same: the field's
    headline number."""
    return mean(_errors(per_group))


def _errors(per_group: dict) -> np.ndarray:
    if not hasattr(per_group, "values"):
        raise ValueError(f"expected the error of each group, {{group: per cent}}, as "
                         f"error_per_group gives it, got {type(per_group).__name__}")
    return percents("errors of groups", list(per_group.values()))


def weighted_mean_error(per_group: dict, sizes: dict) -> float:
    """Mean of group errors weighted by their numbers of images, sum_g n_g E_g / sum_g n_g: the
    error over all images.

    Stands beside `mean_error` where groups differ in size.  Raises ValueError unless both name the
                                                             same groups.
    """
    if set(per_group) != set(sizes):
        raise ValueError(f"errors and sizes name different groups: "
                         f"{sorted(set(per_group) ^ set(sizes), key=str)} are in only one of them")
    n = reals("sizes", [sizes[g] for g in per_group])
    errors = _errors(per_group)
    if not (n >= 0).all():
        raise ValueError(f"sizes must be numbers of images, got {n.min():.6g}")
    return float((n * errors)[n > 0].sum() / n.sum()) if n.sum() else math.nan


def mean_error_at(errors, severities, severity: float = 5) -> float:
    """Mean error over the segments of one severity; of a gradual stream it stands beside the mean
    over all segments.

    ``errors`` and ``severities`` (S,), one value per segment.
    """
    errors, severities = same_length(errors=errors, severities=severities)
    return mean(errors[severities == severity])


def worst_group_accuracy(prediction, label, group, where=None) -> float:
    """Smallest accuracy of any group, in per cent: min_g (100 - error_g) (WILDS, arXiv
    2012.07421)."""
    errors = error_per_group(prediction, label, group, where)
    return 100 - max(errors.values()) if errors else math.nan


def macro_f1(prediction, label, where=None) -> float:
    """F1 = 2 TP / (2 TP + FP + FN) of each class, averaged over the classes that have a labelled
    image, 0..1 (WILDS)."""
    prediction, label = same_length(prediction=prediction, label=label)
    label, prediction = labelled(where, label, prediction)
    there = np.unique(label)
    hits = np.array([((prediction == k) & (label == k)).sum() for k in there], np.float64)
    said_and_true = np.array([(prediction == k).sum() + (label == k).sum() for k in there],
                             np.float64)
    return mean(2 * hits / said_and_true)


def _five_severities(errors: dict) -> dict[str, np.ndarray]:
    errors = {name: reals(f"errors of {name}", values) for name, values in errors.items()}
    wrong = [name for name, values in errors.items() if values.shape != (5,)]
    if wrong or not errors:
        raise ValueError(f"expected five errors per type, severities 1 to 5, but "
                         f"{wrong or 'no type'} "
                         "has others: run all five severities of each type")
    wrong = [
        name for name, values in errors.items() if not (np.isfinite(values) & (values >= 0)).all()
    ]
    if wrong:
        raise ValueError(f"errors must be finite and not below 0, those of {wrong} are not")
    return errors


def unnormalised_mce(errors: dict) -> float:
    """Mean over types of the error averaged over severities 1 to 5, in per cent; ``errors``:
    {type: five errors in per cent}."""
    return mean([values.mean() for values in _five_severities(errors).values()])


def mce(errors: dict, data: str = "imagenet_c", size: int | tuple[int, int] = 224) -> float:
    """Mean corruption error: mean over the 15 types of sum_s E_sc / sum_s E_sc of AlexNet, times
    100; AlexNet has 100.

    ``errors``: {type: five errors in per cent, severities 1 to 5}.  Not the field's "mean error",
    which is `mean_error`. Raises ValueError for other data than ImageNet-C at 224 pixels, where no
    errors of AlexNet exist, for shares in place of per cent, and unless all 15 types are there.
    (Hendrycks & Dietterich, arXiv 1903.12261)
    """
    if str(data).split(":")[0] != "imagenet_c" or tuple(np.broadcast_to(size, 2)) != (224, 224):
        raise ValueError(f"mCE divides by AlexNet's errors on ImageNet-C at 224 pixels, and there "
                         f"are none for {data} at {size}; "
                         "use unnormalised_mce or mean_error")
    errors = _five_severities(errors)
    if set(errors) != set(ALEXNET_ERRORS):
        raise ValueError(f"mCE needs exactly the 15 types of ImageNet-C; missing: "
                         f"{sorted(set(ALEXNET_ERRORS) - set(errors))}, "
                         f"too many: {sorted(set(errors) - set(ALEXNET_ERRORS))}")
    if max(values.max() for values in errors.values()) <= 1 and any(values.any()
                                                                    for values in errors.values()):
        raise ValueError("all errors lie below 1 per cent, so they look like shares; give per "
                         "cent, 0 to 100")
    return mean([values.mean() / ALEXNET_ERRORS[name] for name, values in errors.items()])


# --- calibration

def reliability(confidence, correct, bins: int = 15) -> dict[str, np.ndarray]:
    """Counts, accuracy and mean confidence in equal-width confidence bins, left-closed; confidence
    1 is in the last.

    Returns edges (bins + 1,), n, accuracy, confidence (bins,); empty bins hold NaN.  A NaN
    confidence counts as a wrong answer of confidence 1.  Raises ValueError for confidences outside
    [0, 1].
    """
    confidence, correct = same_length(confidence=confidence, correct=correct)
    bins = whole("bins", bins, 1)
    correct = correct & ~np.isnan(confidence)
    confidence = np.where(np.isnan(confidence), 1.0, confidence)
    edges = np.arange(bins + 1) / bins
    where = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, bins - 1)
    n = np.bincount(where, minlength=bins)
    some = np.where(n, n, math.nan)
    return {
        "edges": edges, "n": n,
        "accuracy": np.bincount(where, weights=correct, minlength=bins) / some,
        "confidence": np.bincount(where, weights=confidence, minlength=bins) / some
    }


def ece(confidence, correct, bins: int = 15) -> float:
    """Expected calibration error, 0..1: sum_b n_b / N |accuracy_b - confidence_b| over the bins of
    `reliability`."""
    table = reliability(confidence, correct, bins)
    gaps = np.where(table["n"] > 0, np.abs(table["accuracy"] - table["confidence"]), 0.0)
    return float((table["n"] * gaps).sum() / table["n"].sum()) if table["n"].any() else math.nan


def adaptive_ece(confidence, correct, bins: int = 15) -> float:
    """`ece` with bins of equal mass: edges at the quantiles i / bins of the confidences, so
    crowded regions get narrow bins.

    Equal confidences share a bin, so the order of the images does not matter; bins may then be
    empty and count 0.
    """
    confidence, correct = same_length(confidence=confidence, correct=correct)
    bins = whole("bins", bins, 1)
    correct = correct & ~np.isnan(confidence)
    confidence = np.where(np.isnan(confidence), 1.0, confidence)
    if not confidence.size:
        return math.nan
    inner = np.sort(confidence)[(np.arange(1, bins) * len(confidence)) // bins]
    where = np.searchsorted(inner, confidence, side="right")
    # n_b (accuracy_b - confidence_b)
    gap = np.bincount(where, weights=correct - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def classwise_ece(logits, label, bins: int = 15, where=None) -> float:
    """ECE of every class's probability, averaged over classes, 0..1.  (N, C), (N,) -> number

    1/C sum_k sum_b n_kb / N |share of class k in the bin - mean p_k in the bin|, equal-width bins
    as in `reliability`. A broken row counts as full confidence in a wrong class.  (Kull et al.,
    arXiv 1910.12656)
    """
    logits, label, bad = logits_and_labels(logits, label, where)
    if not len(label):
        return math.nan
    p = np.exp(whole_log_softmax(logits, bad))
    p[bad] = np.eye(p.shape[1])[(label[bad] + 1) % p.shape[1]]
    return mean([ece(p[:, k].clip(0, 1), label == k, bins) for k in range(p.shape[1])])


def nll(logits, label, where=None) -> float:
    """Mean negative log-likelihood -1/N sum log p_{i, y_i} in nats, from log-softmax; a NaN row
    makes it inf."""
    logits, label, bad = logits_and_labels(logits, label, where)
    chosen = whole_log_softmax(logits, bad)[np.arange(len(label)), label]
    return mean(np.where(bad, np.inf, -chosen))


def brier(logits, label, where=None) -> float:
    """Brier score 1/N sum_i sum_k (p_ik - [k = y_i])^2, in 0..2 (the sum over classes is not
    divided by C)."""
    logits, label, bad = logits_and_labels(logits, label, where)
    p = np.exp(whole_log_softmax(logits, bad))
    p[np.arange(len(label)), label] -= 1
    return mean(np.where(bad, 2.0, (p ** 2).sum(axis=1)))


def binary_brier(probability, outcome) -> float:
    """Brier score of yes-or-no forecasts, 1/N sum (probability_i - outcome_i)^2, in 0..1: not the
    score of `brier`.

    Of confidences and whether they were right, say.  For two classes `brier` is twice this.  A NaN
                                                      probability counts 1.
    """
    probability, outcome = same_length(probability=probability, outcome=outcome)
    return mean(np.where(np.isnan(probability), 1.0, (probability - outcome) ** 2))


def classification(logits, label, bins: int = 15, where=None) -> dict[str, float]:
    """Error (%), NLL (nats), Brier (0..2), ECE (0..1), n and bad_rows (broken rows: a sign of
    collapse)."""
    logits, label, bad = logits_and_labels(logits, label, where)
    guess = predictions(logits)
    confidence = np.where(bad, math.nan,
                          np.exp(whole_log_softmax(logits, bad).max(axis=1, initial=-np.inf)))
    return {
        "error": error(guess, label), "nll": nll(logits, label), "brier": brier(logits, label),
        "ece": ece(confidence, guess == label, bins), "n": len(label), "bad_rows": int(bad.sum())
    }


# --- seeds

def mean_std(values, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (ddof = 1) over seeds along ``axis``; one seed has deviation
    NaN, none both NaN."""
    values = reals("values", values)
    n = values.shape[axis]
    if n == 0:
        return (np.full(values.sum(axis=axis).shape, math.nan),) * 2
    mean = values.mean(axis=axis)
    spread = ((values - np.expand_dims(mean, axis)) ** 2).sum(axis=axis)
    return mean, np.sqrt(spread / (n - 1)) if n > 1 else np.full(np.shape(mean), math.nan)


def t_probability(angle: float, df: int) -> float:
    """P(|T| <= t) of Student's t with a whole number ``df`` of degrees of freedom, t = sqrt(df)
    tan(angle).

    The exact finite sums of Abramowitz & Stegun 26.7.3 (odd df) and 26.7.4 (even df), angle in 0
    .. pi/2.
    """
    sine, cosine = math.sin(angle), math.cos(angle)
    term = total = cosine if df % 2 else 1.0
    for k in range(3 if df % 2 else 2, df - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    if df % 2 == 0:
        return sine * total
    return 2 / math.pi * (angle + (sine * total if df > 1 else 0.0))


def t_quantile(level: float, df: int) -> float:
    """The t with P(|T| <= t) = level for Student's t: 12.706 for level 0.95 and df 1.  Found by
    bisection.

    Raises ValueError unless 0 < level < 1 and df is a whole number >= 1.
    """
    if not 0 < level < 1 or df < 1 or int(df) != df:
        raise ValueError(f"expected a level in (0, 1) and a whole number of degrees of freedom >= "
                         f"1, got {level} and {df}")
    low, high = 0.0, math.pi / 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_probability(middle, int(df)) < level else (low, middle)
    return math.sqrt(df) * math.tan((low + high) / 2)


def paired_interval(a, b, level: float = 0.95) -> dict[str, float]:
    """Mean of the paired differences a_i - b_i (same seed i) with its two-sided t interval.

    mean +- t(level, df) std / sqrt(n), df = n - 1.  Returns difference, low, high, std, df, n,
    level.  With fewer than two pairs the ends are NaN: one pair says nothing about the spread.
    """
    a, b = same_length(a=a, b=b)
    if not 0 < number("level", level) < 1:
        raise ValueError(f"level must lie between 0 and 1, as in 0.95, got {level}")
    n, (mean, std) = len(a), mean_std(a - b)
    half = t_quantile(level, n - 1) * float(std) / math.sqrt(n) if n > 1 else math.nan
    return {
        "difference": float(mean), "low": float(mean) - half, "high": float(mean) + half,
        "std": float(std), "df": max(n - 1, 0), "n": n, "level": level
    }
