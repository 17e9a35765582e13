"""Columns of a trace as every view reads them: numbers, NaN where there is nothing."""
from __future__ import annotations

import math

import numpy as np

from ..core.trace import Trace


def column(trace: Trace, name: str) -> np.ndarray:
    """A samples column as float64, (N,); NaN where the trace lacks it."""
    return np.asarray(trace[name], np.float64) if name in trace else np.full(len(trace), math.nan)


def step_column(trace: Trace, name: str) -> np.ndarray:
    """A steps column as float64, (T,); NaN where the trace lacks it."""
    try:
        return np.asarray(trace.step(name), np.float64)
    except KeyError:
        return np.full(len(trace.step("step")) if len(trace) else 0, math.nan)


def ratio(part, whole) -> np.ndarray:
    """part / whole, float64, of shapes that broadcast; NaN where the whole is not above 0."""
    part = np.asarray(part, np.float64)
    whole = np.asarray(whole, np.float64)
    shape = np.broadcast_shapes(part.shape, whole.shape)
    return np.divide(part, whole, out=np.full(shape, math.nan), where=whole > 0)
