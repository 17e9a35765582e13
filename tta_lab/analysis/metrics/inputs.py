"""What the metrics ask of their arrays: each what its name says, one length, labels in range.

One rule for broken rows and missing labels.
"""
from __future__ import annotations

import math

import numpy as np


def mean(values) -> float:
    """Mean in float64; NaN for no values."""
    values = np.asarray(values, dtype=np.float64)
    return float(values.mean()) if values.size else math.nan


def array(name: str, values) -> np.ndarray:
    """Values, tensors on any device too, as a numpy array; ValueError for what is none."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = (values.float() if str(values.dtype) == "torch.bfloat16" else values).numpy()
    values = np.asarray(values)
    if values.dtype.kind not in "biufUS":
        raise ValueError(f"{name} must hold numbers or names, got {values.dtype}: "
                         f"{str(values)[:60]}")
    return values


def reals(name: str, values) -> np.ndarray:
    """Numbers in float64, NaN and Inf among them; ValueError for texts and truth values."""
    values = array(name, values)
    if values.dtype.kind not in "iuf":
        raise ValueError(f"{name} must hold numbers, got {values.dtype}")
    return values.astype(np.float64)


def shares(name: str, values) -> np.ndarray:
    """Numbers from 0 to 1 or NaN; ValueError for logits and per cent."""
    values = reals(name, values)
    wrong = values[(values < 0) | (values > 1 + 1e-6)]
    if wrong.size:
        hint = ("pass probabilities, per cent divided by 100"
                if wrong.min() > 1 and wrong.max() <= 100 else "pass probabilities")
        plural = {"confidence": "confidences", "probability": "probabilities"}.get(name, name)
        raise ValueError(f"{plural} must lie in [0, 1], got {_range(values)}; {hint}")
    return values


def percents(name: str, values) -> np.ndarray:
    """Errors in per cent, 0 to 100, or NaN."""
    values = reals(name, values)
    if (values < 0).any() or (values > 100 + 1e-6).any():
        raise ValueError(f"{name} must be errors in per cent, 0 to 100, got {_range(values)}")
    return values


def _range(values) -> str:
    return f"{np.nanmin(values):.6g} to {np.nanmax(values):.6g}"


def truths(name: str, values) -> np.ndarray:
    """Truth values, also written 0 and 1; ValueError for anything else, of which numpy would make
    True."""
    values = array(name, values)
    if values.dtype != bool and values.size and (values.dtype.kind not in "iuf"
                                                 or not np.isin(values, (0, 1)).all()):
        raise ValueError(f"{name} must hold True and False (or 1 and 0), got {values.dtype} with "
                         f"{str(values.ravel()[:5])[:60]}; compare first, as in prediction == "
                         f"label or score > threshold")
    return values.astype(bool)


def class_indices(name: str, values) -> np.ndarray:
    """Class indices (whole numbers, -1 for none) as int64, or names; ValueError for scores,
    probabilities and NaN."""
    values = array(name, values)
    if values.dtype.kind in "US":
        return values
    odd = values[~(np.isfinite(values) & (values == np.round(values)))]
    if odd.size:
        raise ValueError(f"{name} must hold class indices, whole numbers, got "
                         f"{odd.ravel()[0]:.6g}; "
                         "of logits or probabilities take argmax(1)")
    return values.astype(np.int64)


def batch_numbers(name: str, values) -> np.ndarray:
    """Numbers of the batches in the order of the stream: finite, not falling."""
    values = reals(name, values)
    if not np.isfinite(values).all() or values.ndim == 1 and (np.diff(values) < 0).any():
        raise ValueError(f"{name} numbers fall somewhere or are not finite; "
                         "pass the images in the order of the stream")
    return values


KINDS = {
    **dict.fromkeys(
        ("prediction", "label", "source_prediction", "adapted_prediction"), class_indices
    ),
    **dict.fromkeys(("correct", "known", "positive", "clean", "outcome"), truths),
    **dict.fromkeys(("confidence", "probability"), shares),
    **dict.fromkeys(("score", "severities", "a", "b"), reals),
    "batch": batch_numbers,
    "errors": percents,
}


def same_length(**arrays) -> list[np.ndarray]:
    """The arrays as numpy arrays, each checked for what its name says (`KINDS`).

    Raises ValueError naming the shapes unless all are of one shape (N,), and where class indices
    meet names of classes.
    """
    arrays = {name: KINDS.get(name, array)(name, values) for name, values in arrays.items()}
    if len({values.shape
            for values in arrays.values()}) > 1 or next(iter(arrays.values())).ndim != 1:
        shapes = ", ".join(f"{name} {values.shape}" for name, values in arrays.items())
        raise ValueError(f"expected arrays of one shape (N,), got {shapes}; pass one value per "
                         f"image")
    classes = {name: values.dtype.kind in "US" for name, values in arrays.items()
               if KINDS.get(name) is class_indices and values.size}
    if len(set(classes.values())) > 1:
        names = [
            ", ".join(name for name in classes if classes[name] == kind) for kind in (True, False)
        ]
        raise ValueError(f"{names[0]} holds names of classes, {names[1]} class indices, which are "
                         f"never equal; "
                         "give both alike")
    return list(arrays.values())


def labelled(where, label: np.ndarray, *arrays: np.ndarray) -> list[np.ndarray]:
    """The rows of ``label`` and ``arrays`` in the boolean mask ``where`` (None: all rows).

    Raises ValueError when a row that remains has no label (-1): an image without a label can be
    neither right nor wrong. Counting it as wrong and leaving it out unasked would both change the
    number, so the caller has to say.
    """
    if where is not None:
        where = array("where", where)
        if where.dtype != bool or where.shape != label.shape:
            raise ValueError(f"where must be a boolean mask of shape {label.shape}, got "
                             f"{where.dtype} {where.shape}")
        label = label[where]
        arrays = [values[where] for values in arrays]
    missing = int((label < 0).sum()) if label.dtype.kind in "if" else 0
    if missing:
        raise ValueError(f"{missing} of {len(label)} images have no label (-1), so they can be "
                         f"neither right nor wrong; "
                         "score the others with where=(label >= 0) and say how many were left out")
    return [label, *arrays]


def finite_scores(score) -> np.ndarray:
    """Scores in float64, NaN as -inf."""
    score = reals("score", score)
    return np.where(np.isnan(score), -np.inf, score)


def broken(logits: np.ndarray) -> np.ndarray:
    """Rows of logits (N, C) that are no distribution: max carries NaN and +inf through; a single
    -inf is a probability of 0."""
    return ~np.isfinite(logits.max(axis=1, initial=-np.inf))


def rows_of_logits(logits, name: str = "logits") -> np.ndarray:
    """Logits as float64 (N, C); raises ValueError for another shape, and for probabilities, whose
    softmax is something else."""
    half = "16" in str(getattr(logits, "dtype", ""))  # the sum of rounded probabilities
    logits = reals(name, logits)
    if logits.ndim != 2 or not logits.shape[1]:
        raise ValueError(f"expected logits (N, C), got {logits.shape}" +
                         (f" as {name}" if name != "logits" else ""))
    whole = logits[~broken(logits)]
    sums = (len(whole) and whole.shape[1] > 1 and whole.min() >= 0
            and np.allclose(whole.sum(1), 1, atol=5e-3 if half else 1e-4))
    if sums and ((whole > 0) & (whole < 1)).any():
        raise ValueError(f"{name} must be logits, but every row lies in [0, 1] and sums to 1: "
                         f"these are probabilities; "
                         "pass np.log(p), which has them as its softmax")
    return logits


def logits_and_labels(logits, label, where=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits (N, C), labels (N,) and the broken rows; raises ValueError for shapes that differ or
    labels outside 0..C-1."""
    logits = rows_of_logits(logits)
    label = class_indices("label", label)
    if label.shape != logits.shape[:1]:
        raise ValueError(f"expected logits (N, C) and labels (N,), got {logits.shape} and "
                         f"{label.shape}")
    if label.dtype.kind in "US":
        raise ValueError("label must hold class indices, the columns of the logits, not names of "
                         "classes")
    label, logits = labelled(where, label, logits)
    if label.size and label.max() >= logits.shape[1]:
        raise ValueError(f"labels run from {label.min()} to {label.max()}, the logits have "
                         f"{logits.shape[1]} classes; "
                         "leave unknown images out with a boolean mask, where=known")
    return logits, label, broken(logits)


def predictions(logits) -> np.ndarray:
    """The most probable class of each row of logits (N, C), and -1 (never right) for a broken row.
    (N,) int64"""
    logits = reals("logits", logits)
    if logits.ndim != 2:
        raise ValueError(f"expected logits (N, C), got {logits.shape}")
    return (np.where(broken(logits), -1, logits.argmax(
        axis=1)) if len(logits) else np.zeros(0, np.int64))


def log_softmax(logits) -> np.ndarray:
    """log p_k = l_k - log sum_j exp(l_j), with the largest logit subtracted first.  (N, C) -> (N,
    C), nats"""
    logits = reals("logits", logits)
    if logits.ndim != 2:
        raise ValueError(f"expected logits (N, C), got {logits.shape}")
    shifted = logits - logits.max(axis=1, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def whole_log_softmax(logits: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """`log_softmax` with broken rows as if uniform, for callers that overwrite those rows."""
    return log_softmax(np.where(bad[:, None], 0.0, logits))
