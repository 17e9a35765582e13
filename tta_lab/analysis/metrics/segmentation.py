"""Numbers of segmentation: one confusion matrix over all pixels of a domain, and what follows from
it."""
from __future__ import annotations

import math

import numpy as np

from ...core.arguments import whole
from .inputs import class_indices, reals


def confusion(prediction, label, classes: int, ignore: tuple[int, ...] = (255, -1)) -> np.ndarray:
    """Counts of (true class, predicted class) over all pixels, (C, C + 1) int64; the last column
    counts broken predictions (-1).

    ``prediction`` and ``label`` share any shape; pixels whose label is in ``ignore`` are dropped.
    Matrices of several batches add up.  Raises ValueError for shapes that differ and for classes
    outside 0..C-1.
    """
    prediction = class_indices("prediction", prediction)
    label = class_indices("label", label)
    classes = whole("classes", classes, 1)
    if prediction.shape != label.shape:
        raise ValueError(f"prediction {prediction.shape} and label {label.shape} differ in shape; "
                         f"scale the prediction to the label's size first")
    used = ~np.isin(label, ignore)
    prediction, label = prediction[used], label[used]
    for name, values, low in (("label", label, 0), ("prediction", prediction, -1)):
        if values.size and (values.min() < low or values.max() >= classes):
            raise ValueError(f"{name} values run from {values.min()} to {values.max()}, expected "
                             f"0 to {classes - 1}; "
                             "name the values to leave out with ignore=(...)")
    column = np.where(prediction < 0, classes, prediction)
    return np.bincount(label * (classes + 1) + column,
                       minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def _counts(matrix) -> np.ndarray:
    matrix = reals("matrix", matrix)
    if matrix.ndim != 2 or matrix.shape[1] - matrix.shape[0] not in (0, 1):
        raise ValueError(f"expected a confusion matrix (C, C) or (C, C + 1), got {matrix.shape}")
    if not (np.isfinite(matrix) & (matrix >= 0) & (matrix == np.round(matrix))).all():
        raise ValueError("expected counts of pixels, as confusion gives them; rows that are "
                         "normalised lose how large the classes are")
    return matrix


def iou(matrix) -> np.ndarray:
    """Intersection over union of each class, M_kk / (row_k + column_k - M_kk), 0..1.  (C, C) or
    (C, C + 1) -> (C,)

    NaN for a class that no labelled pixel has, even where it is predicted: its false alarms count
    against the others.
    """
    matrix = _counts(matrix)
    hits, truth = np.diagonal(matrix), matrix.sum(axis=1)
    union = truth + matrix[:, :len(matrix)].sum(axis=0) - hits
    return np.where(truth > 0, hits / np.where(union > 0, union, 1), math.nan)


def miou(matrix) -> float:
    """Mean of `iou` over the classes present in the ground truth, 0..1; from one matrix per
    domain, not a mean over images."""
    values = iou(matrix)
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else math.nan


def pixel_accuracy(matrix) -> float:
    """Share of labelled pixels that are right, trace(M) / sum(M), 0..1."""
    matrix = _counts(matrix)
    return float(np.trace(matrix) / matrix.sum()) if matrix.sum() else math.nan
