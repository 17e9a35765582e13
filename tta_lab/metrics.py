"""Numbers that judge a run: pure functions of arrays, accumulated in float64.

One rule for broken outputs: a row with NaN logits (or +inf, or nothing but -inf) is never dropped.  It counts as
wrong, its score is -inf, and where a probability is needed it counts as a wrong answer given with full confidence
(NLL inf, Brier 2).
The collecting functions `classification` and `open_set` report how many such rows there were as ``bad_rows``.
An average over nothing is NaN, silently.
"""
from __future__ import annotations

import math

import numpy as np


def _mean(values) -> float:
    values = np.asarray(values, dtype=np.float64)
    return float(values.mean()) if values.size else math.nan


def _same_length(**arrays) -> list[np.ndarray]:
    arrays = {name: np.asarray(values) for name, values in arrays.items()}
    if len({values.shape for values in arrays.values()}) > 1 or next(iter(arrays.values())).ndim != 1:
        shapes = ", ".join(f"{name} {values.shape}" for name, values in arrays.items())
        raise ValueError(f"expected arrays of one shape (N,), got {shapes}; pass one value per image")
    return list(arrays.values())


def _scores(score) -> np.ndarray:
    score = np.asarray(score, dtype=np.float64)
    return np.where(np.isnan(score), -np.inf, score)


def _bad(logits: np.ndarray) -> np.ndarray:
    return ~np.isfinite(logits.max(axis=1, initial=-np.inf))  # max carries NaN and +inf through; a single -inf is a probability of 0


def _logits(logits, label) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    logits, label = np.asarray(logits, dtype=np.float64), np.asarray(label)
    if logits.ndim != 2 or label.shape != logits.shape[:1]:
        raise ValueError(f"expected logits (N, C) and labels (N,), got {logits.shape} and {label.shape}")
    if label.size and not (label.min() >= 0 and label.max() < logits.shape[1]):
        raise ValueError(f"labels run from {label.min()} to {label.max()}, the logits have {logits.shape[1]} classes; "
                         "leave unknown images out with a boolean mask")
    return logits, label.astype(np.int64), _bad(logits)


def predictions(logits) -> np.ndarray:
    """The most probable class of each row of logits (N, C), and -1 (never right) for a broken row.  (N,) int64"""
    logits = np.asarray(logits, dtype=np.float64)
    return np.where(_bad(logits), -1, logits.argmax(axis=1)) if len(logits) else np.zeros(0, np.int64)


def log_softmax(logits) -> np.ndarray:
    """log p_k = l_k - log sum_j exp(l_j), with the largest logit subtracted first.  (N, C) -> (N, C), nats"""
    logits = np.asarray(logits, dtype=np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def error(prediction, label) -> float:
    """Share of wrong predictions, in per cent: 100 / N sum [prediction_i != label_i].  (N,), (N,) -> number"""
    prediction, label = _same_length(prediction=prediction, label=label)
    return 100 * _mean(prediction != label)


def error_per_group(prediction, label, group) -> dict:
    """The error in per cent of each value of ``group`` (a domain, a round, a class), in sorted order."""
    prediction, label, group = _same_length(prediction=prediction, label=label, group=group)
    return {value.item(): error(prediction[group == value], label[group == value]) for value in np.unique(group)}


def mean_error(per_group: dict) -> float:
    """Arithmetic mean of group errors in per cent, each group counting the same: the field's headline number."""
    return _mean(list(per_group.values()))


def roc(score, positive) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of the ROC curve, one per distinct score from the highest down, after the start (0, 0).

    FPR(t) = share of negatives with score >= t, TPR(t) = the same of positives; equal scores enter together.
    Returns (fpr, tpr, threshold), the first threshold being inf; NaN rates where a side is empty.
    """
    score, positive = _same_length(score=_scores(score), positive=np.asarray(positive, dtype=bool))
    threshold, where = np.unique(score, return_inverse=True)
    hits, falls = (np.bincount(where[side], minlength=len(threshold))[::-1].cumsum() for side in (positive, ~positive))
    rates = [np.concatenate(([0.0], count)) / (count[-1] if len(count) and count[-1] else math.nan) for count in (falls, hits)]
    return rates[0], rates[1], np.concatenate(([np.inf], threshold[::-1]))


def auroc(score, positive) -> float:
    """Probability that a positive (known) image scores above a negative (unknown) one; a tie counts one half.

    NaN when one side is empty.  Unchanged by any increasing transform of the score.
    """
    fpr, tpr, _ = roc(score, positive)
    return float(np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2)) if len(fpr) > 1 else math.nan


def fpr_at_tpr(score, positive, tpr: float = 0.95) -> float:
    """Share of negatives accepted when at least ``tpr`` of the positives (known images) are accepted; low is good.

    The value at the first ROC point with TPR >= tpr, without interpolation (the convention of pytorch-ood; other
    code interpolates linearly and gets slightly smaller numbers).  NaN when one side is empty.
    """
    if not 0 < tpr <= 1:
        raise ValueError(f"tpr must lie in (0, 1], got {tpr}")
    fpr, reached, _ = roc(score, positive)
    if len(fpr) < 2 or np.isnan(fpr[-1]) or np.isnan(reached[-1]):
        return math.nan
    return float(fpr[np.argmax(reached >= tpr - 1e-12)])


def oscr(score, known, correct) -> float:
    """Area under the correct-classification rate over the false-positive rate, all thresholds taken.

    CCR(t) = share of known with score > t and right class, FPR(t) = share of unknown with score >= t; the curve is
    closed at (1, closed accuracy).  Letting t also run between the scores makes the curve a staircase, and the area
    is exactly the mean over the unknown u of CCR(score_u): never above closed accuracy, and equal to it when every
    known image scores above every unknown one.  (The curve of Dhamija et al., arXiv 1811.04110.)
    """
    score, known, correct = _same_length(score=_scores(score), known=np.asarray(known, bool), correct=np.asarray(correct, bool))
    if not known.any() or known.all():
        return math.nan
    right = np.sort(score[known & correct])
    above = len(right) - np.searchsorted(right, score[~known], side="right")  # right known images strictly above each unknown
    return _mean(above) / int(known.sum())


def harmonic_mean(a: float, b: float) -> float:
    """2ab / (a + b), and 0 when either is 0."""
    return 0.0 if a == 0 or b == 0 else 2 * a * b / (a + b)


def h_auc(accuracy: float, area: float) -> float:
    """Harmonic mean of closed accuracy and AUROC, both as shares 0..1 (STAMP's H-score, arXiv 2407.15773)."""
    return harmonic_mean(accuracy, area)


def reliability(confidence, correct, bins: int = 15) -> dict[str, np.ndarray]:
    """Counts, accuracy and mean confidence in equal-width confidence bins, left-closed; confidence 1 is in the last.

    Returns edges (bins + 1,), n, accuracy, confidence (bins,); empty bins hold NaN.  A NaN confidence counts as a
    wrong answer of confidence 1.  Raises ValueError for confidences outside [0, 1].
    """
    confidence, correct = _same_length(confidence=np.asarray(confidence, np.float64), correct=np.asarray(correct, bool))
    correct, confidence = correct & ~np.isnan(confidence), np.where(np.isnan(confidence), 1.0, confidence)
    if confidence.size and not (confidence.min() >= 0 and confidence.max() <= 1 + 1e-6):
        raise ValueError(f"confidences must lie in [0, 1], got {confidence.min()} to {confidence.max()}; pass probabilities")
    edges = np.arange(bins + 1) / bins
    where = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, bins - 1)
    n = np.bincount(where, minlength=bins)
    some = np.where(n, n, math.nan)
    return {"edges": edges, "n": n, "accuracy": np.bincount(where, weights=correct, minlength=bins) / some,
            "confidence": np.bincount(where, weights=confidence, minlength=bins) / some}


def ece(confidence, correct, bins: int = 15) -> float:
    """Expected calibration error, 0..1: sum_b n_b / N |accuracy_b - confidence_b| over the bins of `reliability`."""
    table = reliability(confidence, correct, bins)
    gaps = np.where(table["n"] > 0, np.abs(table["accuracy"] - table["confidence"]), 0.0)
    return float((table["n"] * gaps).sum() / table["n"].sum()) if table["n"].any() else math.nan


def nll(logits, label) -> float:
    """Mean negative log-likelihood -1/N sum log p_{i, y_i} in nats, from log-softmax; a NaN row makes it inf."""
    logits, label, bad = _logits(logits, label)
    chosen = log_softmax(np.where(bad[:, None], 0.0, logits))[np.arange(len(label)), label]
    return _mean(np.where(bad, np.inf, -chosen))


def brier(logits, label) -> float:
    """Brier score 1/N sum_i sum_k (p_ik - [k = y_i])^2, in 0..2 (the sum over classes is not divided by C)."""
    logits, label, bad = _logits(logits, label)
    p = np.exp(log_softmax(np.where(bad[:, None], 0.0, logits)))
    p[np.arange(len(label)), label] -= 1
    return _mean(np.where(bad, 2.0, (p ** 2).sum(axis=1)))


def classification(logits, label, bins: int = 15) -> dict[str, float]:
    """Error (%), NLL (nats), Brier (0..2), ECE (0..1), n and bad_rows (broken rows: a sign of collapse)."""
    logits, label, bad = _logits(logits, label)
    guess = predictions(logits)
    confidence = np.where(bad, math.nan, np.exp(log_softmax(np.where(bad[:, None], 0.0, logits)).max(axis=1, initial=-np.inf)))
    return {"error": error(guess, label), "nll": nll(logits, label), "brier": brier(logits, label),
            "ece": ece(confidence, guess == label, bins), "n": len(label), "bad_rows": int(bad.sum())}


def open_set(score, known, correct) -> dict[str, float]:
    """AUROC, FPR95, OSCR, closed accuracy (all 0..1), h_auc, and bad_rows (NaN scores: a sign of collapse)."""
    score, known, correct = _same_length(score=score, known=np.asarray(known, bool), correct=np.asarray(correct, bool))
    area, accuracy = auroc(score, known), _mean(correct[known])
    return {"auroc": area, "fpr95": fpr_at_tpr(score, known), "oscr": oscr(score, known, correct), "accuracy": accuracy,
            "h_auc": h_auc(accuracy, area), "bad_rows": int(np.isnan(np.asarray(score, np.float64)).sum())}


def mean_std(values, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (ddof = 1) over seeds along ``axis``; one seed has deviation NaN, none both NaN."""
    values = np.asarray(values, dtype=np.float64)
    n = values.shape[axis]
    if n == 0:
        return (np.full(values.sum(axis=axis).shape, math.nan),) * 2
    mean = values.mean(axis=axis)
    spread = ((values - np.expand_dims(mean, axis)) ** 2).sum(axis=axis)
    return mean, np.sqrt(spread / (n - 1)) if n > 1 else np.full(np.shape(mean), math.nan)


def t_probability(angle: float, df: int) -> float:
    """P(|T| <= t) of Student's t with a whole number ``df`` of degrees of freedom, t = sqrt(df) tan(angle).

    The exact finite sums of Abramowitz & Stegun 26.7.3 (odd df) and 26.7.4 (even df), angle in 0 .. pi/2.
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
    """The t with P(|T| <= t) = level for Student's t: 12.706 for level 0.95 and df 1.  Found by bisection.

    Raises ValueError unless 0 < level < 1 and df is a whole number >= 1.
    """
    if not 0 < level < 1 or df < 1 or int(df) != df:
        raise ValueError(f"expected a level in (0, 1) and a whole number of degrees of freedom >= 1, got {level} and {df}")
    low, high = 0.0, math.pi / 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_probability(middle, int(df)) < level else (low, middle)
    return math.sqrt(df) * math.tan((low + high) / 2)


def paired_interval(a, b, level: float = 0.95) -> dict[str, float]:
    """Mean of the paired differences a_i - b_i (same seed i) with its two-sided t interval.

    mean +- t(level, df) std / sqrt(n), df = n - 1.  Returns difference, low, high, std, df, n, level.  With fewer
    than two pairs the ends are NaN: one pair says nothing about the spread.
    """
    a, b = _same_length(a=np.asarray(a, np.float64), b=np.asarray(b, np.float64))
    n, (mean, std) = len(a), mean_std(a - b)
    half = t_quantile(level, n - 1) * float(std) / math.sqrt(n) if n > 1 else math.nan
    return {"difference": float(mean), "low": float(mean) - half, "high": float(mean) + half, "std": float(std),
            "df": max(n - 1, 0), "n": n, "level": level}
