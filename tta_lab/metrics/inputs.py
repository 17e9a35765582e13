"""What the metrics ask of their arrays: one length, labels in range, and one rule for broken rows and missing labels."""
from __future__ import annotations

import math

import numpy as np


def mean(values) -> float:
    """Mean in float64; NaN for no values."""
    values = np.asarray(values, dtype=np.float64)
    return float(values.mean()) if values.size else math.nan


def same_length(**arrays) -> list[np.ndarray]:
    """The arrays as numpy arrays; raises ValueError naming the shapes unless all are of one shape (N,)."""
    arrays = {name: np.asarray(values) for name, values in arrays.items()}
    if len({values.shape for values in arrays.values()}) > 1 or next(iter(arrays.values())).ndim != 1:
        shapes = ", ".join(f"{name} {values.shape}" for name, values in arrays.items())
        raise ValueError(f"expected arrays of one shape (N,), got {shapes}; pass one value per image")
    return list(arrays.values())


def labelled(where, label: np.ndarray, *arrays: np.ndarray) -> list[np.ndarray]:
    """The rows of ``label`` and ``arrays`` in the boolean mask ``where`` (None: all rows).

    Raises ValueError when a row that remains has no label (-1): an image without a label can be neither right nor
    wrong. Counting it as wrong and leaving it out unasked would both change the number, so the caller has to say.
    """
    if where is not None:
        where = np.asarray(where)
        if where.dtype != bool or where.shape != label.shape:
            raise ValueError(f"where must be a boolean mask of shape {label.shape}, got {where.dtype} {where.shape}")
        label, arrays = label[where], [values[where] for values in arrays]
    missing = int((label < 0).sum()) if label.dtype.kind in "if" else 0
    if missing:
        raise ValueError(f"{missing} of {len(label)} images have no label (-1), so they can be neither right nor wrong; "
                         "score the others with where=(label >= 0) and say how many were left out")
    return [label, *arrays]


def finite_scores(score) -> np.ndarray:
    """Scores in float64, NaN as -inf."""
    score = np.asarray(score, dtype=np.float64)
    return np.where(np.isnan(score), -np.inf, score)


def broken(logits: np.ndarray) -> np.ndarray:
    """Rows of logits (N, C) that are no distribution: max carries NaN and +inf through; a single -inf is a probability of 0."""
    return ~np.isfinite(logits.max(axis=1, initial=-np.inf))


def rows_of_logits(logits) -> np.ndarray:
    """Logits as float64 (N, C); raises ValueError for another shape."""
    logits = np.asarray(logits, dtype=np.float64)
    if logits.ndim != 2:
        raise ValueError(f"expected logits (N, C), got {logits.shape}")
    return logits


def logits_and_labels(logits, label, where=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits (N, C), labels (N,) and the broken rows; raises ValueError for shapes that differ or labels outside 0..C-1."""
    logits, label = np.asarray(logits, dtype=np.float64), np.asarray(label)
    if logits.ndim != 2 or label.shape != logits.shape[:1]:
        raise ValueError(f"expected logits (N, C) and labels (N,), got {logits.shape} and {label.shape}")
    label, logits = labelled(where, label, logits)
    if label.size and label.max() >= logits.shape[1]:
        raise ValueError(f"labels run from {label.min()} to {label.max()}, the logits have {logits.shape[1]} classes; "
                         "leave unknown images out with a boolean mask, where=known")
    return logits, label.astype(np.int64), broken(logits)


def predictions(logits) -> np.ndarray:
    """The most probable class of each row of logits (N, C), and -1 (never right) for a broken row.  (N,) int64"""
    logits = np.asarray(logits, dtype=np.float64)
    return np.where(broken(logits), -1, logits.argmax(axis=1)) if len(logits) else np.zeros(0, np.int64)


def log_softmax(logits) -> np.ndarray:
    """log p_k = l_k - log sum_j exp(l_j), with the largest logit subtracted first.  (N, C) -> (N, C), nats"""
    logits = np.asarray(logits, dtype=np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def whole_log_softmax(logits: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """`log_softmax` with broken rows as if uniform, for callers that overwrite those rows."""
    return log_softmax(np.where(bad[:, None], 0.0, logits))
