"""Diagnostics: a trace in, plain numbers out (dicts of numpy arrays), which `plots` draws.

Errors are in per cent; shares, precision, recall, AUROC and FPR lie in 0..1; entropies are in
nats.  Rounds count from 0.  A share of nothing is NaN.  A missing column raises ValueError with
the way to record it.

d is the confidence difference ``rise_source``: adapted minus source probability at the *source's*
class (wisdom of crowds, arXiv 2308.06879).  A NaN score comes from NaN logits and counts as the
lowest possible, so a NaN d is a fall; rows whose source was never recorded (``source_confidence``
NaN too) are left out of statements on d.
"""
from __future__ import annotations

import math

import numpy as np

from . import metrics
from .columns import ratio

GROUPS = ("correct", "wrong", "unknown")
RULES = ("none", "rise", "confidence", "entropy", "kept")
SCORES = {
    "rise": "confidence difference d", "confidence": "MSP (confidence)", "max_logit": "max logit",
    "energy": "energy", "negative_entropy": "negative entropy"
}
FLIPS = {
    "right": "wrong to right", "harmful": "right to wrong", "other": "wrong to wrong",
    "unknown": "unknown image", "none": "same class"
}
_SOURCE = {"source_prediction", "source_confidence", "source_class_confidence", "rise_source"}
_SCORED = {"label", "known", "domain", "segment", "severity", "round", "correct"}


def _remedy(name: str) -> str:
    if name in _SOURCE:
        return 'run the stream with Adapter(record="source")'
    if name in _SCORED:
        return "let run(adapter, stream) make the trace, which adds labels, domains and rounds"
    return 'run the stream with Adapter(record="light") or give the column to Trace.from_columns'


def _need(trace, *names: str) -> list[np.ndarray]:
    for name in names:
        if name not in trace:
            raise ValueError(f"this diagnostic needs the column {name!r}, which the trace lacks; "
                             f"{_remedy(name)}")
        empty = np.isnan(np.asarray(trace[name], np.float64)).sum() if name in _SCORED else 0
        if empty:
            raise ValueError(f"the column {name!r} is empty (NaN) in {empty} of {len(trace)} "
                             f"rows; {_remedy(name)}")
    return [np.asarray(trace[name]) for name in names]


def _need_step(trace, name: str) -> np.ndarray:
    try:
        return np.asarray(trace.step(name), dtype=np.float64)
    except KeyError as why:
        raise ValueError(f"this diagnostic needs the step column {name!r}, which the trace lacks; "
                         f"{_remedy(name)}") from why


def _meta(trace, name: str):
    if name not in trace.meta:
        raise ValueError(f"this diagnostic needs trace.meta[{name!r}], which the trace lacks; let "
                         f"run(adapter, stream) make the "
                         f"trace, or set trace.meta[{name!r}]")
    return trace.meta[name]


def _flags(column) -> np.ndarray:
    return np.nan_to_num(np.asarray(column, np.float64)) > 0


def _whole(column) -> np.ndarray:
    return np.asarray(column).astype(np.int64)


def _count(index: np.ndarray, mask: np.ndarray, size: int) -> np.ndarray:
    return np.bincount(index[mask], minlength=size)


def _rounds(trace) -> tuple[np.ndarray, np.ndarray]:
    rounds = _whole(_need(trace, "round")[0])
    return rounds, np.arange(rounds.max(initial=-1) + 1)


def _rise(trace) -> tuple[np.ndarray, np.ndarray]:
    """d with NaN as -inf, and the rows where the source was recorded."""
    d = np.asarray(_need(trace, "rise_source")[0], np.float64)
    recorded = (~np.isnan(np.asarray(trace["source_confidence"], np.float64))
                if "source_confidence" in trace else np.ones(len(d), bool))
    return np.where(np.isnan(d), -np.inf, d), recorded | ~np.isnan(d)


def _score(trace, score: str) -> tuple[np.ndarray, np.ndarray]:
    """Values of a detection score, higher = more known, and the rows where it was recorded."""
    if score == "rise":
        return _rise(trace)
    value = np.asarray(
        _need(trace, "entropy" if score == "negative_entropy" else score)[0], np.float64)
    return (-value if score == "negative_entropy" else value), np.ones(len(value), bool)


def groups(trace) -> dict[str, np.ndarray]:
    """Boolean masks (N,) of the three groups: ``correct`` and ``wrong`` (known images with a
    label), ``unknown``. A known image without a label (-1) is in none of them."""
    known, correct = (_flags(column) for column in _need(trace, "known", "correct"))
    labelled = known & (_whole(trace["label"]) >= 0) if "label" in trace else known
    return {"correct": labelled & correct, "wrong": labelled & ~correct, "unknown": ~known}


def _scored(trace) -> dict[str, np.ndarray]:
    """The groups; raises ValueError when no known image has a label."""
    masks = groups(trace)
    known = ~masks["unknown"]
    if known.any() and not (masks["correct"] | masks["wrong"]).any():
        raise ValueError(f"none of the {int(known.sum())} known images of this run has a label, "
                         f"so nothing can be called right or wrong; "
                         "entropy, confidence, rise and fall, marginal entropy and agreement with "
                         "the source need no labels")
    return masks


def error_per_round(trace) -> dict[str, np.ndarray]:
    """Error in per cent over the known images of each round: ``round``, ``error``, ``n`` (known
    images with a label), all (R,)."""
    rounds, names = _rounds(trace)
    masks = _scored(trace)
    n = _count(rounds, masks["correct"] | masks["wrong"], len(names))
    return {
        "round": names, "error": 100 * ratio(_count(rounds, masks["wrong"], len(names)), n), "n": n
    }


def error_per_domain(trace) -> dict:
    """Error in per cent over the known images of each domain.

    ``domain`` (D names), ``error`` (D,) over all rounds, ``n`` (D,) known images, ``by_round`` (R,
    D), ``mean``: the arithmetic mean of the domain errors (each domain counts the same).
    """
    rounds, names = _rounds(trace)
    domain = _whole(_need(trace, "domain")[0])
    labels = [str(name) for name in _meta(trace, "domains")]
    if len(domain) and domain.max() >= len(labels):
        raise ValueError(f"the trace has domain {domain.max()}, but trace.meta['domains'] names "
                         f"{len(labels)}; give every domain a name")
    masks, shape = _scored(trace), (len(names), len(labels))
    cell = rounds * len(labels) + domain
    wrong, n = (_count(cell, mask, shape[0] * shape[1]).reshape(shape)
                for mask in (masks["wrong"], masks["correct"] | masks["wrong"]))
    error = 100 * ratio(wrong.sum(axis=0), n.sum(axis=0))
    seen = error[~np.isnan(error)]
    return {
        "domain": labels, "error": error, "n": n.sum(axis=0), "by_round": 100 * ratio(wrong, n),
        "mean": float(seen.mean()) if len(seen) else math.nan
    }


def rise_and_fall(trace) -> dict:
    """Per round: how many images fall (d < 0), who they are, and how much of each group falls.

    ``round``, ``n`` (images with a recorded source), ``falling`` (count), ``falling_share`` =
    falling / n; ``counts[g]`` falling in group g, ``among_falling[g]`` = falling in g / falling
    (adds up to 1), ``within_group[g]`` = falling in g / size of g; g in correct, wrong, unknown.
    Figure "rise and fall" of arXiv 2308.06879.
    """
    rounds, names = _rounds(trace)
    d, recorded = _rise(trace)
    falls, size = recorded & (d < 0), len(names)
    n = _count(rounds, recorded, size)
    falling = _count(rounds, falls, size)
    masks = groups(trace)
    fallen = {g: _count(rounds, falls & mask, size) for g, mask in masks.items()}
    return {
        "round": names, "n": n, "falling": falling, "falling_share": ratio(falling,
                                                                            n), "counts": fallen,
        "among_falling": {g: ratio(fallen[g], falling) for g in GROUPS}, "within_group": {
            g: ratio(fallen[g], _count(rounds, recorded & masks[g], size)) for g in GROUPS
        }
    }


def flips(trace, tolerance: float = 0.0) -> dict:
    """Per round: images whose predicted class is not the source's, and how many of them the rule d
    >= -tolerance drops.

    d uses the source's class, so an image that changes class usually falls and is dropped, also
    when the change is right. Kinds: "right" (source wrong, prediction right), "harmful" (right to
    wrong), "other" (wrong to another wrong class), "unknown" (an unknown image changes class),
    "none" (any image that keeps its class).  Returns ``round``, ``labels[kind]``, ``count[kind]``,
    ``dropped[kind]`` = dropped / count, and ``lost``: right flips dropped / images predicted
    correctly, all (R,). Known images without a label are left out of the first three.
    ``prediction`` is the answer and d is of the prediction before the update, so for
    answer="after" the two may differ.
    """
    rounds, names = _rounds(trace)
    d, recorded = _rise(trace)
    prediction, source = _need(trace, "prediction", "source_prediction")
    masks, size = _scored(trace), len(names)
    changed = recorded & (prediction != source)
    source_right = (masks["correct"] | masks["wrong"]) & (source == _need(trace, "label")[0])
    kinds = {
        "right": changed & masks["correct"], "harmful": changed & source_right,
        "other": changed & masks["wrong"] & ~source_right, "unknown": changed & masks["unknown"],
        "none": recorded & ~changed
    }
    count = {kind: _count(rounds, mask, size) for kind, mask in kinds.items()}
    dropped = {kind: _count(rounds, mask & (d < -tolerance), size) for kind, mask in kinds.items()}
    return {
        "round": names, "labels": dict(FLIPS), "count": count,
        "dropped": {kind: ratio(dropped[kind], count[kind]) for kind in FLIPS},
        "lost": ratio(dropped["right"], _count(rounds, recorded & masks["correct"], size))
    }


def rise_histogram(trace, early=None, late=None, bins: int = 40) -> dict:
    """Histogram of d over -1..1 in each group, for early and for late rounds.

    ``early`` and ``late`` are a round or a list of rounds (default: the first and the last).  An
    even number of ``bins`` has an edge exactly at 0, so falls and rises never share a bin.
    Returns ``edges`` (bins + 1,) and, under "early" and "late", ``counts[g]``, ``share[g]`` =
    counts / group size (bins,), ``rounds``, ``n[g]``.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    rounds, names = _rounds(trace)
    d, recorded = _rise(trace)
    edges = np.linspace(-1, 1, bins + 1)
    result: dict = {"edges": edges}
    for part, chosen, default in (("early", early, names[:1]), ("late", late, names[-1:])):
        chosen = np.atleast_1d(default if chosen is None else np.asarray(chosen, dtype=np.int64))
        outside = np.setdiff1d(chosen, names)
        if len(outside):
            raise ValueError(f"{part} asks for rounds {outside.tolist()}, the trace has rounds 0 "
                             f"to {len(names) - 1}")
        here = recorded & np.isin(rounds, chosen)
        counts = {
            g: np.histogram(np.clip(d[here & mask], -1, 1), edges)[0]
            for g, mask in groups(trace).items()
        }
        n = {g: int(counts[g].sum()) for g in GROUPS}
        result[part] = {
            "counts": counts, "share": {g: ratio(counts[g], n[g]) for g in GROUPS},
            "rounds": chosen.tolist(), "n": n
        }
    return result


def entropy_histogram(trace, windows: int = 10, bins: int = 30, group: str | None = None) -> dict:
    """Histogram of the prediction entropy (nats, 0 to ln K) in ``windows`` successive stretches of
    the stream.

    The steps are cut into stretches of nearly equal length (fewer when there are fewer steps).
    ``group`` restricts to "correct", "wrong" or "unknown".  Returns ``edges`` (bins + 1,),
    ``first_step`` and ``last_step`` (W,), ``counts`` and ``share`` (W, bins), ``median`` (W,),
    ``broken`` (W,): images with NaN entropy, in no bin.
    """
    if windows < 1 or bins < 1:
        raise ValueError(f"windows and bins must be at least 1, got {windows} and {bins}")
    if group not in (None, *GROUPS):
        raise ValueError(f"group must be one of {', '.join(GROUPS)} or None, got {group!r}")
    step, entropy = _need(trace, "step", "entropy")
    inside = np.ones(len(step), bool) if group is None else groups(trace)[group]
    entropy = np.asarray(entropy, np.float64)
    steps = np.unique(step)
    top = math.log(max(int(_meta(trace, "classes")), 2))
    edges = np.linspace(0, top, bins + 1)
    pieces = [
        piece for piece in np.array_split(steps, min(windows, max(len(steps), 1))) if len(piece)
    ]
    values = [entropy[inside & (step >= piece[0]) & (step <= piece[-1])] for piece in pieces]
    good = [v[~np.isnan(v)] for v in values]
    counts = np.array([np.histogram(np.clip(v, 0, top), edges)[0] for v in good],
                      dtype=np.int64).reshape(-1, bins)
    return {
        "edges": edges, "first_step": np.array([p[0] for p in pieces], np.int64),
        "last_step": np.array([p[-1] for p in pieces], np.int64), "counts": counts,
        "share": ratio(counts, counts.sum(axis=1, keepdims=True)),
        "median": np.array([np.median(v) if len(v) else math.nan for v in good]),
        "broken": np.array([len(v) - len(g) for v, g in zip(values, good, strict=True)], np.int64)
    }


def selection_quality(trace, tolerance: float = 0.0, confidence: float = 0.9, entropy: float = 0.4,
                      rules=RULES) -> dict:
    """Precision and recall of sample selection per round, a positive being an image predicted
    correctly.

    precision = correct and selected / selected, recall = correct and selected / correct; unknown
    images are never correct.  Rules: "none" keeps all, "rise" d >= -tolerance, "confidence" above
    the threshold, "entropy" below ``entropy`` ln K, and "kept", what the run learned from.  All
    rules but the last are asked of the recorded predictions of this one run.  Returns ``round``,
    ``labels[rule]``, ``precision[rule]``, ``recall[rule]``, ``selected[rule]``, each (R,).
    Selection figure of arXiv 2308.06879.
    """
    unknown = [rule for rule in rules if rule not in RULES]
    if unknown:
        raise ValueError(f"there is no rule {unknown[0]!r}; choose from {', '.join(RULES)}")
    rounds, names = _rounds(trace)
    correct = _scored(trace)["correct"]
    d = f"d >= {-tolerance:g}" if tolerance else "d >= 0"
    labels = {
        "none": "no filter", "rise": d, "confidence": f"confidence > {confidence:g}",
        "entropy": f"entropy < {entropy:g} ln K", "kept": "kept by the run"
    }
    choose = {
        "none": lambda: np.ones(len(rounds), bool),
        "rise": lambda: (lambda d, recorded: recorded & (d >= -tolerance))(*_rise(trace)),
        "confidence": lambda: _need(trace, "confidence")[0] > confidence,
        "entropy": lambda: _need(trace, "entropy")[0] < entropy * math.log(
            int(_meta(trace, "classes"))),
        "kept": lambda: _flags(_need(trace, "kept")[0]),
    }
    result: dict = {
        "round": names, "labels": {rule: labels[rule] for rule in rules}, "precision": {},
        "recall": {}, "selected": {}
    }
    n_correct = _count(rounds, correct, len(names))
    for rule in rules:
        selected = choose[rule]()
        n = _count(rounds, selected, len(names))
        hits = _count(rounds, selected & correct, len(names))
        result["selected"][rule], result["precision"][rule], result["recall"][rule] = n, ratio(
            hits, n), ratio(hits, n_correct)
    return result


def selection_by_run(traces: dict) -> dict:
    """`selection_quality` of what each run learned from, {name: trace} of runs on one stream: each
    rule on the run it steers.

    Returns the same dict, with the names of the runs as rules.  Raises ValueError when the runs
                                                                 cover different rounds.
    """
    found = {name: selection_quality(trace, rules=("kept",)) for name, trace in traces.items()}
    if not found:
        raise ValueError("there are no runs to compare; give {name: trace}")
    names = next(iter(found.values()))["round"]
    for name, numbers in found.items():
        if not np.array_equal(numbers["round"], names):
            raise ValueError(f"the runs cover different rounds: {name!r} has "
                             f"{len(numbers['round'])}, {next(iter(found))!r} {len(names)}")
    return {
        "round": names, "labels": {name: name for name in found}, **{
            part: {
                name: numbers[part]["kept"] for name, numbers in found.items()
            } for part in ("precision", "recall", "selected")
        }
    }


def marginal_entropy(trace, share: float = 0.5) -> dict:
    """Entropy H of the mean prediction at each step, the effective number of classes exp(H), and a
    first collapse signal.

    The signal "effective classes below share x K" is a plain threshold, not a calibrated detector:
    a batch in which few classes occur, or of few images, sets it off as well, and collapse onto
    more than share x K classes does not. NaN counts as below.  Returns ``step``, ``entropy``
    (nats), ``effective_classes``, ``below`` (bool), each (T,); ``threshold`` (classes),
    ``classes``, ``alarm_step`` (the first step below, -1 for none).
    """
    if not 0 < share < 1:
        raise ValueError(f"share must lie between 0 and 1, got {share}")
    entropy = _need_step(trace, "marginal_entropy")
    classes = int(_meta(trace, "classes"))
    step = _whole(_need_step(trace, "step"))
    effective, threshold = np.exp(entropy), share * classes
    below = ~(effective >= threshold)
    return {
        "step": step, "entropy": entropy, "effective_classes": effective, "below": below,
        "threshold": threshold, "classes": classes,
        "alarm_step": int(step[below.argmax()]) if below.any() else -1
    }


def detection(trace, scores=tuple(SCORES), rounds=None) -> dict:
    """AUROC and FPR at 95 % TPR (first ROC point) of scores, for two questions.

    ``known_vs_unknown``: all images, known = positive.  ``correct_vs_wrong``: known images only,
    correct = positive. Scores: "rise" (d), "confidence" (MSP), "max_logit", "energy",
    "negative_entropy"; higher means more known.  ``rounds`` restricts to a round or a list of
    rounds.  Returns ``scores``, ``labels``, per question ``auroc`` and ``fpr95`` (S,), and ``n``
    (images per group).  A score recorded nowhere but as NaN gives NaN.
    """
    wrong_name = [score for score in scores if score not in SCORES]
    if wrong_name:
        raise ValueError(f"there is no score {wrong_name[0]!r}; choose from {', '.join(SCORES)}")
    masks = _scored(trace)
    known = ~masks["unknown"]
    labelled = masks["correct"] | masks["wrong"]
    inside = (np.ones(len(known), bool) if rounds is None else np.isin(
        _rounds(trace)[0], np.atleast_1d(rounds)))
    result: dict = {"scores": list(scores), "labels": [SCORES[score] for score in scores],
                    "n": {g: int((inside & masks[g]).sum()) for g in GROUPS}}
    values = [_score(trace, score) for score in scores]
    for question, rows, positive in (("known_vs_unknown", inside, known),
                                     ("correct_vs_wrong", inside & labelled, masks["correct"])):
        pairs = [(value[rows & here], positive[rows & here]) for value, here in values]
        some = [not np.isnan(value).all() for value, _ in pairs]
        result[question] = {
            "auroc": np.array([
                metrics.auroc(*pair) if ok else math.nan
                for pair, ok in zip(pairs, some, strict=True)
            ], np.float64),
            "fpr95": np.array([
                metrics.fpr_at_tpr(*pair) if ok else math.nan
                for pair, ok in zip(pairs, some, strict=True)
            ], np.float64),
        }
    return result
