"""Known against unknown images: scores of logits (higher = more known) and the numbers that judge
a score.

Known images are the positive class everywhere. Arrays are (N,), one value per image; a broken row
scores -inf.
"""
from __future__ import annotations

import math

import numpy as np

from ...core.arguments import whole
from .inputs import (
    broken,
    finite_scores,
    mean,
    reals,
    rows_of_logits,
    same_length,
    shares,
    whole_log_softmax,
)


def _score(logits, function) -> np.ndarray:
    logits = rows_of_logits(logits)
    bad = broken(logits)
    return np.where(bad, -np.inf,
                    function(np.where(bad[:, None], 0.0, logits), whole_log_softmax(logits, bad)))


def msp(logits) -> np.ndarray:
    """Maximum softmax probability max_k p_k, 1/C..1.  (N, C) -> (N,)  (Hendrycks & Gimpel, arXiv
    1610.02136)"""
    return _score(logits, lambda z, logp: np.exp(logp.max(axis=1)))


def max_logit(logits) -> np.ndarray:
    """Largest logit max_k l_k; changed by adding a constant to a row.  (N, C) -> (N,)  (Hendrycks
    et al., arXiv 1911.11132)"""
    return _score(logits, lambda z, logp: z.max(axis=1))


def energy(logits) -> np.ndarray:
    """Negative free energy log sum_k exp(l_k), temperature 1.  (N, C) -> (N,)  (Liu et al., arXiv
                                                                2010.03759)"""
    # l_k - log p_k is the same for all k
    return _score(logits, lambda z, logp: z.max(axis=1) - logp.max(axis=1))


def negative_entropy(logits) -> np.ndarray:
    """-H(p) = sum_k p_k log p_k in nats, -log C..0.  (N, C) -> (N,)"""
    def minus_entropy(z, logp):
        return (np.exp(logp) * np.where(np.isinf(logp), 0.0, logp)).sum(axis=1)

    return _score(logits, minus_entropy)


def confidence_difference(adapted, source) -> np.ndarray:
    """p_adapted[c] - p_source[c] with c the class that the source model predicts, -1..1.  (N, C),
    (N, C) -> (N,)

    The signal of the wisdom of crowds (Lee et al., arXiv 2308.06879).  Raises ValueError when the
                                                                        shapes differ.
    """
    adapted = rows_of_logits(adapted, "adapted")
    source = rows_of_logits(source, "source")
    if adapted.shape != source.shape:
        raise ValueError(f"adapted and source logits differ in shape: {adapted.shape} and "
                         f"{source.shape}; pass the same images in the same order")
    bad = broken(adapted) | broken(source)
    rows = np.arange(len(source))
    before = whole_log_softmax(source, bad)
    c = before.argmax(axis=1)
    return np.where(bad, -np.inf,
                    np.exp(whole_log_softmax(adapted, bad)[rows, c]) - np.exp(before[rows, c]))


def max_cosine(features, prototypes) -> np.ndarray:
    """Largest cosine of features (N, D) to class prototypes (K, D), -1..1: 1 minus OWTTT's
    distance (arXiv 2308.09942).  (N,)"""
    features = reals("features", features)
    prototypes = reals("prototypes", prototypes)
    if features.ndim != 2 or prototypes.ndim != 2 or features.shape[1] != prototypes.shape[
            1] or not len(prototypes):
        raise ValueError(f"expected features (N, D) and prototypes (K, D), got {features.shape} "
                         f"and {prototypes.shape}")
    if not np.isfinite(prototypes).all():
        raise ValueError("prototypes must be finite; a class without images has none and is left "
                         "out")
    bad = ~np.isfinite(features).all(axis=1)
    features = np.where(bad[:, None], 0.0, features)
    lengths = np.linalg.norm(features, axis=1,
                             keepdims=True), np.linalg.norm(prototypes, axis=1, keepdims=True)
    cosines = ((features / np.where(lengths[0], lengths[0], 1))
               @ (prototypes / np.where(lengths[1], lengths[1], 1)).T)
    return np.where(bad, -np.inf, cosines.max(axis=1, initial=-1.0))


def roc(score, positive) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of the ROC curve, one per distinct score from the highest down, after the start (0,
    0).

    FPR(t) = share of negatives with score >= t, TPR(t) = the same of positives; equal scores enter
    together. Returns (fpr, tpr, threshold), the first threshold being inf; NaN rates where a side
    is empty.
    """
    score, positive = same_length(score=finite_scores(score), positive=positive)
    threshold, where = np.unique(score, return_inverse=True)
    hits, falls = (np.bincount(where[side], minlength=len(threshold))[::-1].cumsum()
                   for side in (positive, ~positive))
    rates = [
        np.concatenate(([0.0], count)) / (count[-1] if len(count) and count[-1] else math.nan)
        for count in (falls, hits)
    ]
    return rates[0], rates[1], np.concatenate(([np.inf], threshold[::-1]))


def auroc(score, positive) -> float:
    """Probability that a positive (known) image scores above a negative (unknown) one; a tie
    counts one half.

    NaN when one side is empty.  Unchanged by any increasing transform of the score.
    """
    fpr, tpr, _ = roc(score, positive)
    return float(np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2)) if len(fpr) > 1 else math.nan


def fpr_at_tpr(score, positive, tpr: float = 0.95, interpolate: bool = False) -> float:
    """Share of negatives accepted when at least ``tpr`` of the positives (known images) are
    accepted; low is good.

    The value at the first ROC point with TPR >= tpr (the convention of pytorch-ood).
    ``interpolate=True`` takes the straight line from the point before it at TPR = tpr (the
    convention of UniEnt), which is never larger.  NaN when one side is empty.  Raises ValueError
    unless 0 < tpr <= 1.
    """
    if not 0 < tpr <= 1:
        raise ValueError(f"tpr must lie in (0, 1], got {tpr}")
    fpr, reached, _ = roc(score, positive)
    if len(fpr) < 2 or np.isnan(fpr[-1]) or np.isnan(reached[-1]):
        return math.nan
    at = int(np.argmax(reached >= tpr - 1e-12))
    if not interpolate:
        return float(fpr[at])
    part = min((tpr - reached[at - 1]) / (reached[at] - reached[at - 1]), 1.0)
    return float(fpr[at - 1] + part * (fpr[at] - fpr[at - 1]))


def oscr(score, known, correct) -> float:
    """Area under the correct-classification rate over the false-positive rate, all thresholds
    taken.

    CCR(t) = share of known with score > t and right class, FPR(t) = share of unknown with score >=
    t; the curve is closed at (1, closed accuracy).  Letting t also run between the scores makes
    the curve a staircase, and the area is exactly the mean over the unknown u of CCR(score_u):
    never above closed accuracy, and equal to it when every known image scores above every unknown
    one.  (The curve of Dhamija et al., arXiv 1811.04110.)
    """
    score, known, correct = same_length(score=finite_scores(score), known=known, correct=correct)
    if not known.any() or known.all():
        return math.nan
    right = np.sort(score[known & correct])
    # right known images strictly above each unknown
    above = len(right) - np.searchsorted(right, score[~known], side="right")
    return mean(above) / int(known.sum())


def harmonic_mean(a: float, b: float) -> float:
    """2ab / (a + b), and 0 when either is 0.  Raises ValueError below 0."""
    if a < 0 or b < 0:
        raise ValueError(f"a harmonic mean is of numbers from 0, got {a} and {b}")
    return 0.0 if a == 0 or b == 0 else 2 * a * b / (a + b)


def h_auc(accuracy: float, area: float) -> float:
    """Harmonic mean of closed accuracy and AUROC, both as shares 0..1 (STAMP's H-score, arXiv
    2407.15773).

    Over several domains STAMP averages the H of each domain; it is not the H of the averages.
    Raises ValueError for per cent.
    """
    return harmonic_mean(float(shares("accuracy", accuracy)), float(shares("area", area)))


def split_threshold(strangeness) -> float:
    """The t in 0, 0.01 .. 0.99 that splits values (n,) into {< t} and {>= t} with the least
    weighted within-group variance.

    n_0/n var_0 + n_1/n var_1; a t that leaves one group empty does not count, the lowest of equal
    t wins, and values that no t splits give 0 (as in OWTTT's code, arXiv 2308.09942).
    """
    values = np.sort(reals("strangeness", strangeness).ravel())
    if np.isnan(values).any():
        raise ValueError("strangeness must not hold NaN; leave broken scores out")
    n, grid = len(values), np.arange(100) / 100
    below = np.searchsorted(values, grid, side="left")
    sums, squares = (np.concatenate(([0.0], np.cumsum(v))) for v in (values, values ** 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = (squares[-1] - sums[below]**2 / below - (sums[-1] - sums[below])**2 / (n - below))
    spread[(below == 0) | (below == n)] = np.inf
    return float(grid[np.argmin(spread)])


def h_acc(score, known, correct, batch, queue: int = 512) -> dict[str, float | np.ndarray]:
    """ACC_S, ACC_N and their harmonic mean ACC_H with a threshold that follows the stream (OWTTT,
    arXiv 2308.09942).

    ``score`` is higher = more known, in -1..1 (a probability or a cosine); ``batch`` (N,) numbers
    the batches, not falling. At each batch the strangeness 1 - score of the last ``queue`` images,
    this batch included, is split by `split_threshold`, and an image stranger than the threshold is
    rejected.  acc_s = share of known that are accepted and right, acc_n = share of unknown that
    are rejected, acc_h their harmonic mean, all 0..1 and NaN where a side is empty; ``threshold``
    has one strangeness per batch.  Broken scores are rejected and stay out of the queue.  Raises
    ValueError for scores outside -1..1.
    """
    score, known, correct, batch = same_length(score=finite_scores(score), known=known,
                                               correct=correct, batch=batch)
    seen = score[np.isfinite(score)]
    if np.isposinf(score).any() or seen.size and (seen.min() < -1 - 1e-6 or seen.max() > 1 + 1e-6):
        raise ValueError(f"the threshold is looked for between 0 and 1, but scores run from "
                         f"{score.min():.4g} to {score.max():.4g}; "
                         "pass a probability (msp) or a cosine (max_cosine)")
    queue = whole("queue", queue, 2)
    accepted, thresholds = np.zeros(len(score), bool), []
    for rows in np.split(np.arange(len(score)),
                         np.flatnonzero(np.diff(batch)) + 1) if len(score) else []:
        recent = score[:rows[-1] + 1]
        recent = recent[np.isfinite(recent)][-queue:]
        thresholds.append(split_threshold(1 - recent) if len(recent) else 0.0)
        accepted[rows] = 1 - score[rows] <= thresholds[-1]
    acc_s = mean((accepted & correct)[known])
    acc_n = mean(~accepted[~known])
    return {
        "acc_s": acc_s, "acc_n": acc_n, "acc_h": harmonic_mean(acc_s, acc_n),
        "threshold": np.array(thresholds, np.float64)
    }


def open_set(score, known, correct) -> dict[str, float]:
    """AUROC, FPR95, OSCR, closed accuracy (all 0..1), h_auc, and bad_rows (NaN scores: a sign of
    collapse)."""
    score, known, correct = same_length(score=score, known=known, correct=correct)
    area, accuracy = auroc(score, known), mean(correct[known])
    return {
        "auroc": area, "fpr95": fpr_at_tpr(score, known), "oscr": oscr(score, known, correct),
        "accuracy": accuracy, "h_auc": h_auc(accuracy, area),
        "bad_rows": int(np.isnan(np.asarray(score, np.float64)).sum())
    }
