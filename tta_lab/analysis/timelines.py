"""Views of a run: a trace in, a dict of numbers out, which ``plots.plot_<name>`` draws.

Where `diagnose` asks for every column it needs, a view shows what there is: what cannot be said of
a run (no labels, no recorded source, nothing learned) is NaN or empty, and ``why`` says it in a
sentence, which the figure then shows. Shares lie in 0..1, errors are in per cent.

Groups: ``correct`` and ``wrong`` (known images with a label), ``unknown``, ``unlabelled``; a run
without any label has one group, ``all``. The early and the late part of a run are its first and
its last round where it has several (the same shifts, so they compare), else the first and the last
share of its images, which may be of other shifts.
"""
from __future__ import annotations

import json
import math

import numpy as np

from . import diagnose, metrics
from .columns import column, ratio, step_column

GROUPS = (*diagnose.GROUPS, "unlabelled", "all")
LABELS = "This run has no labels, and {} needs them."
SOURCE = 'The frozen source was not recorded; run the stream with Adapter(record="source").'


# --- what the views share

def split(trace) -> dict[str, np.ndarray]:
    """Masks (N,) of the groups that occur: correct, wrong, unknown, unlabelled; or ``all`` when no
    image is labelled or unknown."""
    everyone = {"all": np.ones(len(trace), bool)}
    if not {"known", "correct"} <= {name
                                    for name in ("known", "correct") if name in trace} or np.isnan(
                                        column(trace, "known")).any():
        return everyone
    masks = diagnose.groups(trace)
    masks["unlabelled"] = ~(masks["correct"] | masks["wrong"] | masks["unknown"])
    some = {group: mask for group, mask in masks.items() if mask.any()}
    return some if set(some) - {"unlabelled"} else everyone


def stretches(trace, windows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The steps cut into successive stretches of nearly equal length: stretch of each image (N,),
    first and last step of each (W,).

    Raises ValueError for less than one window.
    """
    if windows < 1:
        raise ValueError(f"windows must be at least 1, got {windows}")
    step = column(trace, "step")
    steps, number = np.unique(step, return_inverse=True)
    pieces = [
        p for p in np.array_split(np.arange(len(steps)), min(windows, max(len(steps), 1))) if len(p)
    ]
    stretch = np.repeat(np.arange(len(pieces)), [len(p) for p in pieces])
    return stretch[number] if len(steps) else np.zeros(0, np.int64), steps[[
        p[0] for p in pieces
    ]], steps[[p[-1] for p in pieces]]


def parts(trace, share: float = 0.25) -> dict[str, tuple[str, np.ndarray]]:
    """``early`` and ``late``: (name, mask (N,)); rounds where there are several, else the first
    and the last ``share`` of the images.

    Raises ValueError unless 0 < share <= 0.5.
    """
    if not 0 < share <= 0.5:
        raise ValueError(f"share must lie in (0, 0.5], got {share}")
    turn, n = column(trace, "round"), len(trace)
    seen = np.unique(turn[np.isfinite(turn)])
    if len(seen) > 1:
        return {
            "early": (f"round {seen[0]:.0f}", turn == seen[0]),
            "late": (f"round {seen[-1]:.0f}", turn == seen[-1])
        }
    rows, size = np.arange(n), math.ceil(share * n)
    return {
        "early": (f"first {100 * share:g} %", rows < size), "late": (f"last {100 * share:g} %", rows
                                                                     >= n - size)
    }


def is_scored(trace) -> np.ndarray:
    """Known images with a label, (N,)."""
    masks = split(trace)
    nobody = np.zeros(len(trace), bool)
    return masks.get("correct", nobody) | masks.get("wrong", nobody)


# --- over time

def entropy_frames(trace, windows: int = 12, bins: int = 30) -> dict:
    """Histogram of the prediction entropy in successive stretches, by group.

    ``edges`` (bins + 1,) in nats from 0 to ln K, ``first_step`` and ``last_step`` (W,),
    ``share[g]`` (W, bins): images of group g in the bin / all images of the stretch, so that the
    groups add up to 1; ``n`` (W,), ``median`` (W,), ``broken`` (W,): images with NaN entropy, in
    no bin.
    """
    stretch, first, last = stretches(trace, windows)
    entropy, masks = column(trace, "entropy"), split(trace)
    fine = np.isfinite(entropy)
    top = (math.log(max(int(trace.meta.get("classes", 0)), 2)) if "classes" in trace.meta else max(
        float(np.max(entropy[fine], initial=0)), 1e-9))
    edges, size = np.linspace(0, top, bins + 1), len(first)
    n = np.bincount(stretch[fine], minlength=size)
    where = np.clip(
        np.searchsorted(edges, np.clip(entropy[fine], 0, top), side="right") - 1, 0, bins - 1)
    cell = stretch[fine] * bins + where
    share = {
        g: ratio(
            np.bincount(cell[mask[fine]], minlength=size * bins).reshape(size, bins), n[:, None])
        for g, mask in masks.items()
    }
    medians = [
        np.median(v) if len(v) else math.nan
        for v in (entropy[fine & (stretch == w)] for w in range(size))
    ]
    return {
        "edges": edges, "first_step": first, "last_step": last, "share": share, "n": n,
        "median": np.array(medians,
                           np.float64), "broken": np.bincount(stretch[~fine], minlength=size),
        "why": "" if fine.any() else "The entropy column holds no finite number."
    }


def class_shares(trace, windows: int = 30, names=None) -> dict:
    """How often each class is predicted and how often it is true, in successive stretches.

    ``predicted`` and ``true`` (W, K) shares, over the known images with a label where there are
    any (so that the two compare), else predicted over all images and ``true`` NaN; ``gap`` (W,) =
    1/2 sum_k |predicted_k - true_k|, the total variation distance; ``first_step``, ``last_step``,
    ``classes`` (K names, those given or the numbers), ``why``.
    """
    stretch, first, last = stretches(trace, windows)
    prediction, scored = column(trace, "prediction"), is_scored(trace)
    counted = (scored if scored.any() else np.ones(len(trace), bool)) & (prediction >= 0)
    classes = _classes(trace, names)
    size = len(first), len(classes)

    def shares(classes_of, rows):
        counts = np.bincount(stretch[rows] * size[1] + classes_of[rows].astype(np.int64),
                             minlength=size[0] * size[1]).reshape(size)
        return ratio(counts, counts.sum(axis=1, keepdims=True))

    predicted = shares(prediction, counted)
    true = shares(column(trace, "label"), scored) if scored.any() else np.full(size, math.nan)
    return {
        "predicted": predicted, "true": true, "gap": 0.5 * np.abs(predicted - true).sum(axis=1),
        "first_step": first, "last_step": last, "classes": classes,
        "why": "" if scored.any() else LABELS.format("the true share of a "
                                                     "class")
    }


def _classes(trace, names) -> list[str]:
    most = max([column(trace, "prediction")[column(trace, "prediction") >= 0].max(initial=-1)] +
               ([column(trace, "label")[is_scored(trace)].max(
                   initial=-1)] if "label" in trace else []))
    k = max(int(trace.meta.get("classes", 0)), int(most) + 1)
    if names is not None and len(names) < k:
        raise ValueError(f"the run has {k} classes, but {len(names)} names were given; give one "
                         f"for each")
    return [str(name) for name in (range(k) if names is None else names)]


def selection_anatomy(trace, windows: int = 20) -> dict:
    """Who is learned from, in successive stretches.

    ``among_kept[g]`` = kept in group g / kept; ``kept_of[g]`` = kept in g / size of g;
    ``kept_share`` = kept / images; ``precision`` = kept and correct / kept known with a label or
    unknown, all (W,); ``first_step``, ``last_step``, ``why``.
    """
    stretch, first, last = stretches(trace, windows)
    size = len(first)
    masks = split(trace)
    kept = np.nan_to_num(column(trace, "kept")) > 0

    def count(mask):
        return np.bincount(stretch[mask], minlength=size)

    nobody = np.zeros(len(trace), bool)
    judged = (masks.get("correct", nobody) | masks.get("wrong", nobody)
              | masks.get("unknown", nobody))
    precision = (ratio(count(kept & masks.get("correct", nobody)), count(kept & judged))
                 if judged.any() else np.full(size, math.nan))
    why = ("" if kept.any() else "No image of this run was learned from, or the cadence (a "
                                 "sliding window) does not record it for each image.")
    return {
        "among_kept": {g: ratio(count(kept & m), count(kept)) for g, m in masks.items()},
        "kept_of": {g: ratio(count(kept & m), count(m)) for g, m in masks.items()},
        "kept_share": ratio(count(kept), count(~nobody)), "precision": precision,
        "first_step": first, "last_step": last, "why": why
    }


def gradient_norm(trace) -> dict:
    """L2 norm of the gradient of the tuned parameters, and their L2 distance from the source, at
    every step.

    ``step``, ``grad_norm``, ``distance``, each (T,); ``skipped`` (T,) bool: steps without an
    update; ``why``.
    """
    norm = step_column(trace, "grad_norm")
    skipped = step_column(trace, "skipped")
    why = ("" if np.isfinite(norm).any() else "This run made no gradient: its method does not "
                                              "learn, or every step was skipped.")
    return {
        "step": step_column(trace, "step"), "grad_norm": norm,
        "distance": step_column(trace,
                                 "distance"), "skipped": np.nan_to_num(skipped) > 0, "why": why
    }


# --- early against late

def calibration(trace, share: float = 0.25, bins: int = 15) -> dict:
    """Reliability and ECE of the adapted model and of the frozen source, early and late in the run.

    Under "early" and "late": ``name`` of the part and, for "adapted" and "source", the table of
    `metrics.reliability` (edges, n, accuracy, confidence), ``accuracy_sd`` (of an accuracy in the
    bin, k of n right: that of the Beta(k + 1, n - k + 1) distribution), ``ece`` (0..1) and
    ``mean_confidence``. Known images with a label count. ``source_statistics`` says what the
    recorded source normalised with ("batch" unless a selector asked for "running"). ``why`` says
    what is missing.
    """
    scored, adapted = is_scored(trace), column(trace, "prediction")
    label = column(trace, "label")
    result = {"bins": bins, "why": "", "source_statistics": trace.meta.get("source_statistics", "")}
    recorded = np.isfinite(column(trace, "source_confidence"))
    for part, (name, mask) in parts(trace, share).items():
        rows = mask & scored
        result[part] = {"name": name}
        for who, prediction, confidence, here in (("adapted", adapted, "confidence", rows),
                                                  ("source", column(trace, "source_prediction"),
                                                   "source_confidence", rows & recorded)):
            value = np.clip(column(trace, confidence)[here], 0, 1)
            right = prediction[here] == label[here]
            table = metrics.reliability(value, right, bins)
            p = (np.nan_to_num(table["n"] * table["accuracy"]) + 1) / (table["n"] + 2)
            result[part][who] = {
                **table, "accuracy_sd": np.where(table["n"],
                                                 np.sqrt(p * (1 - p) / (table["n"] + 3)), math.nan),
                "ece": metrics.ece(value, right, bins), "mean_confidence": float(np.nanmean(value))
                if np.isfinite(value).any() else math.nan
            }
    if not scored.any():
        result["why"] = LABELS.format("calibration")
    elif not recorded.any():
        result["why"] = SOURCE
    return result


def confusion_over_time(trace, share: float = 0.25, names=None, most: int = 30) -> dict:
    """Confusion matrices early and late, rows scaled to 1, and late minus early.

    ``early``, ``late`` and ``difference`` (R, K): share of the images of true class r that are
    predicted as k; the last row is that of the unknown images where there are any, unlabelled
    known images count nowhere; ``counts`` of each part (R, K); ``rows`` and ``classes`` are names,
    ``parts`` the names of the two parts. With more than ``most`` classes those are shown whose
    rows and columns change most.
    """
    scored = is_scored(trace)
    prediction = column(trace, "prediction")
    masks = split(trace)
    classes = _classes(trace, names)
    k = len(classes)
    unknown = masks.get("unknown", np.zeros(len(trace), bool))
    row = np.where(unknown, k, column(trace, "label"))
    chosen, counts = parts(trace, share), {}
    for part, (_, mask) in chosen.items():
        here = mask & (scored | unknown) & (prediction >= 0)
        counts[part] = np.bincount((row[here] * k + prediction[here]).astype(np.int64),
                                   minlength=(k + 1) * k).reshape(k + 1, k)
    rows = [*classes, *(["unknown"] if unknown.any() else [])]
    counts = {part: c[:len(rows)] for part, c in counts.items()}
    shares = {part: ratio(c, c.sum(axis=1, keepdims=True)) for part, c in counts.items()}
    shares["difference"] = shares["late"] - shares["early"]
    if k > most:
        change = np.abs(np.nan_to_num(shares["difference"]))
        top = np.sort(
            np.argsort(-(change[:k].sum(axis=1) + change.sum(axis=0)), kind="stable")[:most])
        lines = np.append(top, k) if unknown.any() else top
        shares, counts = ({part: values[np.ix_(lines, top)] for part, values in table.items()}
                          for table in (shares, counts))
        rows = [rows[i] for i in lines]
        classes = [classes[i] for i in top]
    return {
        **shares, "counts": counts, "rows": rows, "classes": classes, "of": k,
        "parts": [chosen["early"][0], chosen["late"][0]],
        "why": "" if scored.any() or unknown.any() else LABELS.format("a confusion matrix")
    }


# --- several runs

def cost_against_error(runs: dict) -> dict:
    """What each run costs and how often it errs; ``runs`` is {name: Trace} or {name: [Trace, one
    per seed]}.

    ``name`` (R), ``error`` (R,) in per cent, mean over domains and then over seeds, ``error_sd``
    (ddof 1, NaN for one seed), ``passes`` = forwards + backwards per image, ``ms_per_image``
    (median over steps); ``front`` {measure: (R,) bool}: no other run is at least as good in both
    error and cost and better in one. Runs without labels have a NaN error and are on no front.
    """
    lists = {
        str(name): list(given) if isinstance(given, list | tuple) else [given]
        for name, given in runs.items()
    }
    empty = [name for name, traces in lists.items() if not traces]
    if empty:
        raise ValueError(f"the run {empty[0]!r} has no trace; give a trace or a list with one for "
                         f"each seed")
    errors = [[
        diagnose.error_per_domain(t)["mean"] if is_scored(t).any() else math.nan for t in traces
    ] for traces in lists.values()]
    costs = [[metrics.cost(t) for t in traces] for traces in lists.values()]
    error = np.array([np.mean(e) for e in errors], np.float64)
    numbers = {
        "name": list(lists), "error": error,
        "error_sd": np.array([np.std(e, ddof=1) if len(e) > 1 else math.nan for e in errors],
                             np.float64),
        "passes": np.array(
            [np.mean([c["forwards"] + c["backwards"] for c in several]) for several in costs],
            np.float64), "ms_per_image": np.array(
                [np.mean([c["ms_per_image"] for c in several]) for several in costs], np.float64)
    }
    why = ("" if np.isfinite(error).any() else
           LABELS.format("the error") if lists else "There are no runs to compare.")
    return {
        **numbers, "front": {m: front(numbers[m], error) for m in ("passes", "ms_per_image")},
        "why": why
    }


def front(cost, error) -> np.ndarray:
    """Which pairs nothing beats: no other has cost and error at most as high and one of them
    lower; NaN never is.  (R,), (R,) -> (R,) bool"""
    cost = np.asarray(cost, np.float64)
    error = np.asarray(error, np.float64)
    there = np.isfinite(cost) & np.isfinite(error)
    beaten = ((cost[None] <= cost[:, None]) & (error[None] <= error[:, None]) &
              ((cost[None] < cost[:, None]) | (error[None] < error[:, None]))
              & there[None]).any(axis=1)
    return there & ~beaten


# --- images

KINDS = {
    "right_to_wrong": "right\nto wrong", "wrong_to_right": "wrong\nto right",
    "rise": "largest\nrise", "fall": "largest\nfall"
}


def changed_images(trace, stream=None, n: int = 6, names=None) -> dict:
    """The images whose answer changed most against the frozen source as it was recorded, with
    their pictures.

    ``kinds``: name -> the ``n`` images (fewer where there are not as many; the same picture never
    twice in a kind): right_to_wrong and wrong_to_right (the largest |d| among the flips), rise and
    fall (the largest and the lowest d). Each holds ``row`` in the trace, ``id``, ``x`` (n, C, H,
    W), ``source`` and ``adapted`` (names of the predicted classes), ``source_confidence``,
    ``confidence``, ``d``, ``true`` (name, "unknown", "" without label), ``shift``. ``stream``
    makes the pictures again by id; None rebuilds it from ``trace.meta["stream"]``, which works for
    sets that are found by name (else ValueError).
    """
    d = column(trace, "rise_source")
    source = column(trace, "source_prediction")
    adapted = column(trace, "prediction")
    if not np.isfinite(d).any():
        return {"kinds": {}, "why": SOURCE}
    stream = rebuilt(trace) if stream is None else stream
    classes = list(map(str, stream.classes if names is None else names))
    scored, label = is_scored(trace), column(trace, "label")
    was, now = source == label, adapted == label
    size, there = np.nan_to_num(np.abs(d), nan=-1.0), np.isfinite(d)
    chosen = {
        "right_to_wrong": (scored & there & was & ~now, -size),
        "wrong_to_right": (scored & there & ~was & now, -size), "rise": (there & (d > 0), -d),
        "fall": (there & (d < 0), d)
    }
    confidence = column(trace, "confidence")
    before = column(trace, "source_confidence")
    ids = column(trace, "id").astype(np.int64)
    segment = np.nan_to_num(column(trace, "segment")).astype(np.int64)
    known = np.nan_to_num(column(trace, "known"), nan=1.0) > 0
    kinds = {}
    for kind, (mask, key) in chosen.items():
        candidates = np.flatnonzero(mask)
        candidates = candidates[np.argsort(key[candidates], kind="stable")]
        rows = candidates[np.sort(
            np.unique(np.stack([ids[candidates], segment[candidates]]), axis=1,
                      return_index=True)[1])][:n]
        kinds[kind] = {
            "row": rows, "id": ids[rows], "x": pictures(stream, ids[rows], segment[rows]),
            "d": d[rows], "confidence": confidence[rows], "source_confidence": before[rows],
            "source": [classes[int(k)] for k in source[rows]],
            "adapted": [classes[int(k)] for k in adapted[rows]],
            "shift": [stream.shifts[i] for i in segment[rows]],
            "true": [("" if not s else classes[int(k)]) if here else "unknown"
                     for s, k, here in zip(scored[rows], label[rows], known[rows], strict=True)]
        }
    return {
        "kinds": kinds, "why": "" if any(
            len(v["row"])
            for v in kinds.values()) else "No image of this run changed against the source."
    }


def rebuilt(trace):
    """The stream that a trace was made on, from ``trace.meta["stream"]``; ValueError when it
    cannot be rebuilt by name."""
    from ..streams.stream import Stream

    if "stream" not in trace.meta:
        raise ValueError("the trace does not say which stream it was made on; hand the stream "
                         "over: changed_images(trace, stream)")
    try:
        return Stream.from_json(json.dumps(trace.meta["stream"]))
    except (ValueError, RuntimeError) as why:
        raise ValueError(f"the stream of this trace cannot be rebuilt from its record ({why}); "
                         f"hand it over: changed_images(trace, stream)") from why


def pictures(stream, ids, segment) -> np.ndarray:
    """The images with these ids (B,) as they came in these segments (B,) of the stream, (B, C, H,
    W) float32 in [0, 1]."""
    import torch

    found = {}
    ids = np.asarray(ids, np.int64)
    segment = np.asarray(segment, np.int64)
    for i in np.unique(segment):
        rows = np.flatnonzero(segment == i)
        found |= dict(
            zip(rows.tolist(),
                stream.images_of(torch.from_numpy(ids[rows]), int(i)).cpu().numpy(),
                strict=True))
    return (np.stack([found[i] for i in range(len(ids))]) if len(ids) else np.zeros(
        (0, 1, 1, 1), np.float32))
