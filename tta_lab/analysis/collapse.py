"""Collapse in a finished trace: what the detector says, and what labels say."""
from __future__ import annotations

import numpy as np

from ..components.controllers.collapse_detector import (
    SIGNALS,
    CollapseDetector,
    evidence_of,
    fitted,
    obstacle,
    trace_of,
)
from ..core import arguments


def detect(trace, detector: CollapseDetector | None = None) -> dict:
    """What the detector would have said after each step of a trace: ``step``, ``alarm`` (index
    into `ALARMS`), ``probability`` and under ``signals`` each signal, under ``evidence`` what each
    fitted signal adds to the log odds, (T,); ``first_alarm`` (step, -1: none) and ``threshold``;
    ``judged`` (T,) bool, whether it could judge there, and ``cannot_judge``, why not after the
    last step ("": it can).

    Raises ValueError for a trace without steps, and for ``variant="source"`` without the columns
    of the source.
    """
    if detector is not None and not isinstance(detector, CollapseDetector):
        raise arguments.WrongKind(f"detector must be a CollapseDetector(), such as "
                                  f"CollapseDetector(variant='source'), not {detector!r}")
    detector = detector or CollapseDetector()
    if not len(trace_of("trace", trace)):
        raise ValueError("the trace is empty: there is nothing to watch")
    columns = trace.columns()
    steps = trace.columns("steps")
    if detector.variant == "source" and "source_prediction" not in columns:
        raise ValueError("this detector needs what the frozen source says: record it with "
                         "Adapter(..., record='source'), or use variant='light'")
    wanted = ("entropy", "confidence", "prediction", "source_prediction", "rise_source",
              "source_confidence")
    samples = {c: columns[c] for c in wanted if c in columns}
    numbers = {c: steps[c] for c in ("grad_norm", "distance", "reset") if c in steps}
    bounds = np.searchsorted(columns["step"], np.append(steps["step"], steps["step"][-1] + 1))
    state = detector.init()
    rows = []
    judged = []
    state |= {
        "length": float(trace.meta.get("tuned_length", 0.0)),
        "test_statistics": bool(trace.meta.get("test_statistics", False))
    }
    for t, (lo, hi) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        alarm, probability = detector.look({c: v[lo:hi] for c, v in samples.items()},
                                           {c: v[t] for c, v in numbers.items()}, state)
        rows.append((alarm, probability, *state["signals"].tolist()))
        judged.append(not obstacle(state))
    table, fit = np.array(rows), fitted(detector.variant)
    alarms = table[:, 0].astype(np.int64)
    return {
        "step": np.asarray(steps["step"], np.int64), "alarm": alarms, "probability": table[:, 1],
        "first_alarm": int(steps["step"][alarms.argmax() if alarms.any() else 0])
        if alarms.any() else -1, "threshold": detector.threshold
        or fitted(detector.variant)["threshold"], "judged": np.array(judged),
        "cannot_judge": obstacle(state), "signals": dict(zip(SIGNALS, table[:, 2:].T, strict=True)),
        "evidence": dict(zip(fit["signals"],
                             evidence_of(table[:, 2:], fit).T, strict=True))
    }


def collapse(trace, source_trace, bn_trace=None, window: int = 500, margin: float = 2.0,
             deviations: float = 3.0, first: int = 150) -> dict:
    """Whether, and from which step on, a run collapsed: measured with labels against the frozen
    source and BN-1 on the same stream.

    Two references: the *better* of the two (fewer errors on the whole stream), and the run's own
    *start*, the one with which its first ``first`` predictions agree more. For each step, the last
    ``window`` scored images (known, with a label; all so far while there are fewer) give the
    excess e = 100 (mean of [wrong adapted] - [wrong reference]) in points, the smaller of the two
    references', and its paired standard error SE = 100 sqrt(b + c) / n, with the b + c images on
    which exactly one of the two is wrong (McNemar). A window is *harmed* when e > max(margin,
    deviations SE), *recovered* when e <= margin / 2. Collapse is *established* at the first harmed
    step after which no step is recovered, if the last window has e > margin and at least
    ``window`` images follow its *onset*, the step after the last recovered one.

    ``outcome``: "collapse"; "from_start", harm that learning did not do: the onset is the first
    step, or the run never moved a weight, or there is no collapse by e but more than ``margin`` on
    the whole stream against the better reference alone, which came with the choice of statistics;
    "recovered", harmed by e but not to the end; "borderline", harm that began too late to tell, or
    never beyond noise but e > margin in the last window, or more than margin / 2 worse than both
    on the whole stream; "healthy", the rest. Also ``established`` and ``onset`` (steps, -1: none),
    ``better`` and ``start`` (names), ``whole`` (points over the better reference on the whole
    stream) and ``whole_start`` (over the worse of the two references), and for each step ``step``,
    ``excess``, ``noise`` (deviations SE), ``error``, ``reference_error`` (of the better), (T,), in
    points or per cent. Raises ValueError when the traces are not of the same images in the same
    order, or hold no label.
    """
    window = arguments.whole("window", window, 1)
    first = arguments.whole("first", first, 1)
    margin = arguments.number("margin", margin, 0)
    deviations = arguments.number("deviations", deviations, 0)
    trace_of("trace", trace), trace_of("source_trace",
                                   source_trace), bn_trace is None or trace_of("bn_trace", bn_trace)
    columns = [t.columns() for t in (trace, source_trace, bn_trace) if t is not None]
    # a run that broke off is compared as far as it came
    n, label = len(columns[0]["label"]), columns[0]["label"]
    if any(len(c["label"]) < n or not np.array_equal(c["label"][:n], label) for c in columns[1:]):
        raise ValueError("the traces must be of the same stream: their labels differ")
    scored = columns[0]["known"].astype(bool) & (label >= 0)
    if not scored.any():
        raise ValueError("the trace has no scored image (known, with a label), so nothing can be "
                         "called a collapse")
    said = [c["prediction"][:n][scored] for c in columns]
    wrong = [p != label[scored] for p in said]
    better = 1 + int(np.argmin([w.sum() for w in wrong[1:]]))
    start = 1 + int(np.argmax([(said[0][:first] == p[:first]).sum() for p in said[1:]]))
    steps = np.unique(columns[0]["step"])
    ends = np.searchsorted(columns[0]["step"][scored], steps, side="right")
    over = {k: _excess(wrong[0], wrong[k], ends, window) for k in {better, start}}
    smaller = over[better][0] <= over[start][0]
    excess, noise = (np.where(smaller, a, b)
                     for a, b in zip(over[better], over[start], strict=True))
    established, onset, harmed = _established(excess, deviations * noise, margin)
    whole = 100 * (wrong[0].mean() - wrong[better].mean())
    least = 100 * min(wrong[0].mean() - wrong[k].mean() for k in over)
    distance = trace.columns("steps").get("distance")
    still = distance is not None and not np.nan_to_num(distance).any()
    if established >= 0 and ends[-1] - ends[onset] < window:
        outcome = "borderline"
        established = -1
        onset = -1
    elif established >= 0:
        outcome = "from_start" if onset == 0 or still else "collapse"
    elif harmed.any():
        outcome = "recovered"
    elif excess[-1] > margin or least > margin / 2:
        outcome = "borderline"
    else:
        outcome = "from_start" if whole > margin else "healthy"
    names = ("", "source", "batch_norm")
    return {
        "outcome": outcome, "established": int(steps[established]) if established >= 0 else -1,
        "onset": int(steps[onset]) if onset >= 0 else -1, "better": names[better],
        "start": names[start], "whole": float(whole), "whole_start": float(least), "step": steps,
        "excess": excess, "noise": deviations * noise,
        "error": _window_mean(wrong[0], ends,
                              window), "reference_error": _window_mean(wrong[better], ends, window)
    }


def _window_mean(values, ends, window: int):
    """Mean over the last ``window`` values before each end, in per cent."""
    starts = np.maximum(ends - window, 0)
    total = np.append(0, np.cumsum(values))
    return 100 * (total[ends] - total[starts]) / np.maximum(ends - starts, 1)


def _excess(wrong, reference, ends, window: int):
    """Excess error in points and its paired standard error, for each window."""
    size = np.maximum(np.minimum(ends, window), 1)
    return _window_mean(
        wrong.astype(np.int64) - reference, ends,
        window), 10 * np.sqrt(_window_mean(wrong != reference, ends, window) / size)


def _established(excess, noise, margin: float):
    """Where collapse is established and where it sets on (positions, -1: nowhere), and which
    windows are harmed."""
    harmed = excess > np.maximum(margin, noise)
    recovered = np.flatnonzero(excess <= margin / 2)
    last = recovered[-1] + 1 if len(recovered) else 0
    since = np.flatnonzero(harmed[last:])
    if not len(since) or excess[-1] <= margin:
        return -1, -1, harmed
    return last + since[0], last, harmed
