"""Numbers of a run over time: curves of the error, what is forgotten, which answers flip, signs of
collapse, cost."""
from __future__ import annotations

import math

import numpy as np

from ...core.arguments import whole
from .inputs import broken, labelled, mean, reals, rows_of_logits, same_length, whole_log_softmax


def _batch_numbers(batch) -> np.ndarray:
    return np.unique(batch, return_inverse=True)[1]


def error_curve(prediction, label, batch, window: int = 10, where=None) -> dict[str, np.ndarray]:
    """Error in per cent per window of ``window`` consecutive batches, and cumulative up to its end.

    All arrays (N,) in stream order; ``where`` (N,) bool says which images count (the known ones,
    say).  Returns batch (number of batches seen at the end of each window), n, error and
    cumulative, (W,); the last window may be shorter, and one without counted images holds NaN.
    Raises ValueError for images without a label.
    """
    prediction, label, batch = same_length(prediction=prediction, label=label, batch=batch)
    window = whole("window", window)
    if window < 1:
        raise ValueError(f"window must be at least 1 batch, got {window}")
    number = _batch_numbers(batch)
    batches = int(number[-1]) + 1 if len(number) else 0
    label, prediction, number = labelled(where, label, prediction, number)
    windows = math.ceil(batches / window)
    n = np.bincount(number // window, minlength=windows)
    wrong = np.bincount(number // window, weights=prediction != label, minlength=windows)
    return {
        "batch": np.minimum(np.arange(1, windows + 1) * window,
                            batches), "n": n, "error": 100 * wrong / np.where(n, n, math.nan),
        "cumulative": 100 * wrong.cumsum() / np.where(n.cumsum(), n.cumsum(), math.nan)
    }


def source_retention(source_prediction, adapted_prediction, label, where=None) -> float:
    """Clean accuracy of the source model minus that of the adapted one on the same images, in
    points; 0 = nothing forgotten.

    100 (mean [source right] - mean [adapted right]); negative when adapting helped (reported by
    EATA, arXiv 2204.02610).
    """
    source, adapted, label = same_length(source_prediction=source_prediction,
                                         adapted_prediction=adapted_prediction, label=label)
    label, source, adapted = labelled(where, label, source, adapted)
    return 100 * (mean(source == label) - mean(adapted == label))


def flip_rates(source_prediction, adapted_prediction, label, where=None) -> dict[str, float]:
    """Share of images, in per cent, that turn from right to wrong (``negative``) and from wrong to
    right (``positive``).

    Right or wrong under the source model against the adapted one; source error - adapted error =
    positive - negative.
    """
    source, adapted, label = same_length(source_prediction=source_prediction,
                                         adapted_prediction=adapted_prediction, label=label)
    label, source, adapted = labelled(where, label, source, adapted)
    before, after = source == label, adapted == label
    return {"negative": 100 * mean(before & ~after), "positive": 100 * mean(~before & after)}


def alternating(errors, clean) -> dict[str, float | np.ndarray]:
    """The clean segments of a stream corruption, clean, corruption, clean, ...: is the source
    forgotten along the way?

    ``errors`` (S,) per segment in per cent, ``clean`` (S,) bool.  Returns clean and shifted (the
    errors of each kind in order), clean_mean, shifted_mean, and drift = last minus first clean
    error in points.
    """
    errors, clean = same_length(errors=errors, clean=clean)
    at_rest = errors[clean]
    return {
        "clean": at_rest, "shifted": errors[~clean], "clean_mean": mean(at_rest),
        "shifted_mean": mean(errors[~clean]),
        "drift": float(at_rest[-1] - at_rest[0]) if len(at_rest) else math.nan
    }


def backward_forgetting(accuracy) -> float:
    """F = mean over d < D of (a_dd - a_Dd), with a_td the accuracy on domain d after stage t;
    above 0 = forgotten.

    ``accuracy`` (D, D): row t is measured after stage t with learning switched off.  In the unit
    of ``accuracy``; what stands above the diagonal is not used.  Raises ValueError for another
    shape.
    """
    accuracy = reals("accuracy", accuracy)
    if accuracy.ndim != 2 or accuracy.shape[0] != accuracy.shape[1]:
        raise ValueError(f"expected accuracies (D, D), stages by domains, got {accuracy.shape}")
    return mean((np.diagonal(accuracy) - accuracy[-1])[:-1]) if len(accuracy) else math.nan


def top_class_share(prediction) -> float:
    """Share of images that get the most frequent predicted class, 1/C..1; broken rows (-1) count
    as images, not as a class."""
    prediction, = same_length(prediction=prediction)
    counts = np.unique(prediction[prediction >= 0], return_counts=True)[1]
    return float(counts.max(initial=0) / len(prediction)) if len(prediction) else math.nan


def classes_seen(prediction, batch, last: int = 10) -> int:
    """Number of classes predicted in the last ``last`` batches."""
    prediction, batch = same_length(prediction=prediction, batch=batch)
    last = whole("last", last, 1)
    if not len(prediction):
        return 0
    number = _batch_numbers(batch)
    recent = prediction[number > number[-1] - last]
    return len(np.unique(recent[recent >= 0]))


def collapse_curve(prediction, batch, last: int = 10) -> dict[str, np.ndarray]:
    """`top_class_share` and `classes_seen` after each batch, over the last ``last`` batches up to
    it.  {batch, top_share, classes}, (T,)"""
    prediction, batch = same_length(prediction=prediction, batch=batch)
    number, last = _batch_numbers(batch), whole("last", last, 1)
    steps = int(number[-1]) + 1 if len(number) else 0
    starts = np.searchsorted(number, np.arange(steps + 1))
    spans = [prediction[starts[max(0, t + 1 - last)]:starts[t + 1]] for t in range(steps)]
    return {
        "batch": np.arange(1,
                           steps + 1), "top_share": np.array([top_class_share(s) for s in spans]),
        "classes": np.array([len(np.unique(s[s >= 0])) for s in spans], np.int64)
    }


def mean_prediction_entropy(logits) -> float:
    """Entropy of the mean prediction, -sum_k m_k log m_k with m = mean_i p_i, in nats, 0..log C;
    broken rows are left out."""
    logits = rows_of_logits(logits)
    bad = broken(logits)
    if bad.all():
        return math.nan
    m = np.exp(whole_log_softmax(logits, bad))[~bad].mean(axis=0)
    return float(-(m[m > 0] * np.log(m[m > 0])).sum())


def effective_rank(features) -> float:
    """exp(entropy of the normalised singular values) of a feature matrix (N, D), 1..min(N, D); 0
    for a matrix of zeros.

    s_j / sum s as a distribution, the matrix not centred (Roy & Vetterli 2007).  NaN for features
    that are not finite.
    """
    features = reals("features", features)
    if features.ndim != 2:
        raise ValueError(f"expected features (N, D), got {features.shape}")
    if not features.size or not np.isfinite(features).all():
        return math.nan
    s = np.linalg.svd(features, compute_uv=False)
    if s.sum() == 0:
        return 0.0
    p = s[s > 0] / s.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def cost(trace, warmup: int = 3) -> dict[str, float]:
    """What a run cost: passes per image, milliseconds per image, and what the trace's meta knows
    of parameters and memory.

    forwards, backwards: images through a network and back, per image of the stream; learned_from:
    images learned from, per image of the stream (the count that EATA prints as its backward
    passes).  ms_per_image: median over the steps after the first ``warmup`` of 1000 seconds / n
    (NaN when there are no more steps); batch: the median batch size, without which a time says
    little.  trainable_parameters and peak_memory_bytes are NaN unless ``trace.meta`` holds them.
    """
    warmup = whole("warmup", warmup, 0)
    n, seconds = (np.asarray(trace.step(name), np.float64) for name in ("n", "seconds"))
    total = n.sum()
    timed = (1000 * seconds / n)[warmup:]
    timed = timed[np.isfinite(timed)]
    result = {
        name: float(np.nansum(np.asarray(trace.step(name), np.float64)) /
                    total) if total else math.nan for name in ("forwards", "backwards", "n_kept")
    }
    result["learned_from"] = result.pop("n_kept")
    result |= {
        "ms_per_image": float(np.median(timed)) if timed.size else math.nan,
        "batch": float(np.median(n)) if n.size else math.nan, "images": int(total), "steps": len(n)
    }
    return (result | {
        name: float(trace.meta.get(name, math.nan))
        for name in ("trainable_parameters", "peak_memory_bytes")
    })
