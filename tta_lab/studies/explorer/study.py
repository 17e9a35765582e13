"""What the explorer shows: traces in, dicts of numbers out, and sentences that follow the numbers.
No widget is needed for any of it.

Runs without labels have no error; what is said of them (`label_free`: agreement with source and
BN-1, entropy, rise and fall, predicted classes) is said of labelled runs too, with the same
numbers. Each function says in ``what`` or ``why`` which of the two it shows.
"""
from __future__ import annotations

import math

import numpy as np

from ...analysis import metrics
from ...analysis import timelines as views
from ...analysis.columns import column, ratio
from ...components.controllers.collapse_detector import ALARMS, CollapseDetector, fitted, obstacle
from ...experiments.experiment import NO_LABELS
from ..base import effective_number
from ..report import interval, points

RECENT = 500      # images that "now" means
STRETCHES = 20    # of the stream, over which paired differences are taken
SCORES = {"confidence": "confidence", "energy": "energy", "max_logit": "largest logit",
          "negative_entropy": "minus entropy", "rise": "rise d"}
KINDS = {"wrong": "most\nconfident\nwrong", "rise": "most\nrisen", "fall": "most\nfallen",
         "accepted": "unknown,\naccepted", "confident": "most\nconfident"}
LIGHTS = {"wait": ("◌", "no run yet"), "unsure": ("?", "cannot judge"), "calm": ("●", "calm"),
          "watch": ("▲", "watch"), "alarm": ("■", "ALARM")}  # shape and word


def scored(trace, n: int | None = None) -> np.ndarray:
    """Known images with a label among the first ``n``, (n,) bool; all False for a run without
    labels."""
    mask = views.is_scored(trace) if len(trace) else np.zeros(0, bool)
    return mask if n is None else mask[:n]


def so_far(traces: dict, n: int | None = None) -> dict:
    """Running mean over the stream of each run in ``traces`` (name -> Trace): error so far in per
    cent, over the first ``n`` images.

    Without labels: how often the answers of the first run, and of others, are those of the
    references "source" and "BN-1" on the same images (`agreement`), in per cent. ``what`` says
    which of the two; ``lines`` name -> (images (T,), value (T,)), one point at the end of each
    step; ``last`` name -> last value; ``why`` when there is nothing.
    """
    some = {name: t for name, t in traces.items() if len(t)}
    labelled = bool(some) and bool(scored(next(iter(some.values()))).any())
    lines = {}
    what = "error so far, known (%)"
    why = "" if some else "Nothing has run yet."
    if some and not labelled:
        what = "same answer so far (%)"
        pairs = agreement(some, n)
        for name, same in pairs.items():
            step = next(iter(some.values()))["step"][:len(same)]
            ends = np.flatnonzero(np.diff(step, append=-1))
            lines[name] = ends + 1, 100 * (np.cumsum(same) / np.arange(1, len(same) + 1))[ends]
        why = ("" if pairs else "Without labels this run can only be compared with source and "
                                "BN-1, and neither was run.")
    for name, trace in some.items() if labelled else ():
        size = len(trace) if n is None else min(n, len(trace))
        here = scored(trace, size)
        bad = np.cumsum(here & (trace["prediction"][:size] != trace["label"][:size]))
        ends = np.flatnonzero(np.diff(trace["step"][:size], append=-1))
        lines[name] = ends + 1, 100 * ratio(bad, np.cumsum(here))[ends]
    return {"what": what, "labelled": labelled, "lines": lines,
            "last": {k: float(y[-1]) for k, (_, y) in lines.items() if len(y)}, "why": why}


def agreement(traces: dict, n: int | None = None) -> dict[str, np.ndarray]:
    """Whether two runs gave the same answer, (n,) bool, image by image: the first run of ``traces``
    like each of its references "source" and "BN-1", then, for scale, BN-1 like the source, and A
    like the source. Runs that were shown other images are left out."""
    some = {name: t for name, t in traces.items() if len(t)}
    if not some:
        return {}
    first = next(iter(some))
    pairs = {"like source": (first, "source"), "like BN-1": (first, "BN-1"),
             "BN-1 like source": ("BN-1", "source"), "A like source": ("A", "source")}
    found = {}
    for name, (a, b) in pairs.items():
        if a == b or a not in some or b not in some:
            continue
        size = min(len(some[a]), len(some[b]), len(some[first]),
                   len(some[first]) if n is None else n)
        if np.array_equal(some[a]["id"][:size], some[b]["id"][:size]):
            found[name] = some[a]["prediction"][:size] == some[b]["prediction"][:size]
    return found


def label_free(trace, references: dict) -> dict[str, float]:
    """What can be said of a run without any label, over the images that it was shown;
    ``references`` name -> Trace ("source", "BN-1").

    ``like source`` and ``like BN-1``: answers in common, in per cent (absent where that reference
    was not run). ``entropy first`` and ``entropy last``: mean entropy of the first and the last
    quarter of the images, nats. ``falling`` and ``rising``: images whose probability at the
    source's class has gone down or up, in per cent; ``mean rise`` of that probability, -1..1.
    ``classes in use``: exp of the entropy of the predicted classes; ``largest class``: how often
    the most frequent answer is given, in per cent. Numbers that a run does not have are absent.
    """
    if not len(trace):
        return {}
    found = {name: 100 * float(same.mean())
             for name, same in agreement({"run": trace, **references}).items()
             if name in ("like source", "like BN-1")}
    entropy = column(trace, "entropy")
    d = column(trace, "rise_source")
    prediction = trace["prediction"]
    quarter = max(len(trace) // 4, 1)
    found |= {"entropy first": _finite_mean(entropy[:quarter]),
              "entropy last": _finite_mean(entropy[-quarter:])}
    there = d[np.isfinite(d)]
    if len(there):
        found |= {"falling": 100 * float((there < 0).mean()),
                  "rising": 100 * float((there > 0).mean()), "mean rise": float(there.mean())}
    there = prediction[prediction >= 0].astype(np.int64)
    if len(there):
        largest = np.bincount(there).max() / len(there)
        found |= {"classes in use": effective_number(there), "largest class": 100 * float(largest)}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _finite_mean(values) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else math.nan


def say_label_free(found: dict) -> str:
    """`label_free` in sentences."""
    if not found:
        return ""
    text = [say_agreement(found), f"mean entropy {found['entropy first']:.2f} nats in the first "
                                  f"quarter, {found['entropy last']:.2f} in the last"
            if "entropy last" in found else "", f"{found['falling']:.0f} % of the images have "
                                                f"fallen, {found['rising']:.0f} % have risen"
            if "falling" in found else "",
            f"the answers are spread as over {found['classes in use']:.1f} classes, the most "
            f"frequent takes {found['largest class']:.0f} %" if "classes in use" in found else ""]
    return "; ".join(filter(None, text)) + "."


def say_agreement(found: dict) -> str:
    """How often a run of `label_free` answers as its references do."""
    same = [f"{words} for {found[name]:.1f} %"
            for name, words in (("like source", "the source"), ("like BN-1", "BN-1"))
            if name in found]
    return (f"it answers like {' and like '.join(same)} of the images" if same
            else "neither source nor BN-1 was run beside it")


def say_missing(trace) -> str:
    """Which numbers a run lacks for want of labels, or ""."""
    if not len(trace):
        return ""
    n = int(scored(trace).sum())
    groups = views.split(trace)
    if not n:
        return NO_LABELS
    few = int(groups["unlabelled"].sum()) if "unlabelled" in groups else 0
    return (f"Errors are counted on the {n} images that have a label; {few} have none." if few
            else "")


def entropy_now(trace, recent: int = RECENT, bins: int = 24) -> dict:
    """Histogram of the entropy (nats) of the last images by group, and of the first as many (half
    of the run, at most ``recent``): ``edges`` (bins + 1,), ``share[g]`` (bins,) of all images of
    that stretch, so that the groups add up to 1, ``first`` (bins,), ``n``, ``why``."""
    n = min(recent, (len(trace) + 1) // 2)
    entropy = column(trace, "entropy")
    fine = np.isfinite(entropy)
    top = math.log(max(int(trace.meta.get("classes", 2)), 2))
    edges = np.linspace(0, top, bins + 1)
    late = (np.arange(len(trace)) >= len(trace) - n) & fine
    early = (np.arange(len(trace)) < n) & fine

    def share(mask, of):
        return ratio(np.histogram(np.clip(entropy[mask], 0, top), edges)[0], of.sum())

    groups = views.split(trace) if len(trace) else {}
    return {"edges": edges, "share": {g: share(late & mask, late) for g, mask in groups.items()},
            "first": share(early, early), "n": int(late.sum()),
            "why": "" if late.any() else "Nothing has run yet."}


def fall_over_time(trace, windows: int = 12) -> dict:
    """Share of each group whose probability at the source's class has fallen (d < 0), in successive
    stretches of about 30 images or more.

    ``image`` (W,) middles, ``share[g]`` (W,), ``all`` (W,) and ``rise`` (W,), the share of all that
    has risen (d > 0); groups as in `timelines.split`; ``why``.
    """
    d = column(trace, "rise_source")
    if not np.isfinite(d).any():
        why = views.SOURCE if len(trace) else "Nothing has run yet."
        return {"image": np.zeros(0), "share": {}, "all": np.zeros(0), "rise": np.zeros(0),
                "why": why}
    stretch, _, _ = views.stretches(trace, max(1, min(windows, len(trace) // 30)))
    size = int(stretch.max()) + 1
    there = np.isfinite(d)
    middle = np.bincount(stretch, weights=np.arange(len(trace))) / np.bincount(stretch)
    groups = views.split(trace)

    def share(mask, moved=d < 0):
        return ratio(np.bincount(stretch[mask & there & moved], minlength=size),
                            np.bincount(stretch[mask & there], minlength=size))

    everyone = np.ones(len(d), bool)
    return {"image": middle, "share": {g: share(mask) for g, mask in groups.items()},
            "all": share(everyone), "rise": share(everyone, d > 0), "why": ""}


class Light:
    """The alarm light of one run: `CollapseDetector` shown each new step of a growing trace once.

    ``see(trace)`` returns a key of `LIGHTS`; ``words`` says the evidence, ``first`` is the first
    step with an alarm (-1: none), ``probability`` lists what was said at each step, ``alarm`` is an
    index into `ALARMS`. A watch is a probability above a half of the threshold; "unsure" means that
    there is no alarm and the detector cannot judge, ``why`` says why (`collapse.cannot_judge`).
    """

    def __init__(self, detector: CollapseDetector | None = None):
        self.detector = detector or CollapseDetector(variant="source")
        self.state = None
        self.first = -1
        self.probability = []
        self.alarm = 0
        self.words = ""
        self.why = ""

    def see(self, trace) -> str:
        if not len(trace):
            return "wait"
        columns = trace.columns()
        steps = trace.columns("steps")
        if self.state is None:
            self.state = self.detector.init()
            self.state |= {"length": float(trace.meta.get("tuned_length", 0.0)),
                           "test_statistics": bool(trace.meta.get("test_statistics", False))}
        wanted = ("entropy", "confidence", "prediction", "source_prediction", "rise_source",
                  "source_confidence")
        for t in range(len(self.probability), len(steps["step"])):
            lo, hi = np.searchsorted(columns["step"], (steps["step"][t], steps["step"][t] + 1))
            self.alarm, probability = self.detector.look(
                {c: columns[c][lo:hi] for c in wanted if c in columns},
                {c: steps[c][t] for c in ("grad_norm", "distance", "reset") if c in steps},
                self.state)
            self.probability.append(probability)
            if self.alarm and self.first < 0:
                self.first = int(steps["step"][t])
        self.words = self.detector.evidence(self.state)
        self.why = obstacle(self.state)
        threshold = self.detector.threshold or fitted(self.detector.variant)["threshold"]
        return ("alarm" if self.alarm else "unsure" if self.why else "watch"
                if self.probability[-1] > threshold / 2 else "calm")

    @property
    def name(self) -> str:
        """The alarm of the last step in words, or ""."""
        return ALARMS[self.alarm].replace("_", " ") if self.alarm else ""


def say_beside(errors: dict, what: str = "error so far") -> str:
    """The errors of a run and its references (name -> per cent, the run first), for a place beside
    the light; "" without labels."""
    found = [(name, value) for name, value in errors.items() if math.isfinite(value)]
    if not found or found[0][0] != next(iter(errors)):
        return ""
    others = ", ".join(f"{name} {value:.1f} %" for name, value in found[1:])
    return f"With labels: {what} {found[0][1]:.1f} %" + (f" beside {others}." if others else ".")


# --- A and B

def paired(a, b, stretches: int = STRETCHES, level: float = 0.95) -> dict:
    """Error of run b minus that of run a on the images that both have seen, in points, with a t
    interval over stretches of the stream.

    ``difference`` over all common scored images; ``low`` and ``high``: `metrics.paired_interval` of
    the mean differences in ``k`` stretches of nearly equal length, since neighbouring images are
    not independent (NaN below two stretches of ten images); ``n``; ``a`` and ``b``, errors in per
    cent; ``agreement``: how often the two predict the same class, in per cent of the common
    ``images``, which needs no labels. Without labels there is only that, with ``n`` 0 and ``why``.
    Raises ValueError when the two were not shown the same images in the same order.
    """
    n = min(len(a), len(b))
    same = n > 0 and all(t.meta["stream"]["hash"] == a.meta["stream"]["hash"]
                         for t in (a, b)) and np.array_equal(a["id"][:n], b["id"][:n])
    if not same:
        raise ValueError("A and this run were not shown the same images in the same order, so they "
                         "cannot be paired; keep a run on this stream as A")
    rows = scored(a, n)
    wrong = [(t["prediction"][:n] != t["label"][:n])[rows].astype(np.float64) for t in (a, b)]
    m = int(rows.sum())
    alike = {"n": m, "images": n,
             "agreement": 100 * float((a["prediction"][:n] == b["prediction"][:n]).mean())}
    if not m:
        return alike | {"why": NO_LABELS}
    found = alike | {"a": 100 * metrics.mean(wrong[0]), "b": 100 * metrics.mean(wrong[1]),
                     "difference": 100 * metrics.mean(wrong[1] - wrong[0]), "low": math.nan,
                     "high": math.nan, "k": 0, "level": level}
    k = min(stretches, m // 10)
    if k >= 2:
        interval = metrics.paired_interval(*([100 * piece.mean() for piece in np.array_split(w, k)]
                                             for w in wrong[::-1]), level=level)
        found |= {"low": interval["low"], "high": interval["high"], "k": k}
    return found


def say_paired(found: dict, a: str, b: str) -> str:
    """The comparison in a sentence."""
    if not found["n"]:
        return (f"{a} and {b} predict the same class for {found['agreement']:.1f} % "
                f"of {found['images']} images; without labels neither can be called better.")
    text = (f"{a}: error {found['a']:.1f} %. {b}: {found['b']:.1f} %, "
            f"{points(found['difference'])} on the same {found['n']} images")
    if not found["k"]:
        return text + "; too few for an interval."
    settled = ("it does not hold 0" if found["low"] > 0 or found["high"] < 0
               else "it holds 0, so this run does not tell them apart")
    return (f"{text}, {interval(found)} over {found['k']} stretches of the stream; {settled}. "
            "Other streams and seeds may differ by more.")


# --- unknown images

def score_of(trace, score: str) -> np.ndarray:
    """A score for known against unknown, higher means more known, (N,); broken ones are the lowest.
    Raises ValueError for another name."""
    if score not in SCORES:
        raise ValueError(f"there is no score {score!r}; there are: {', '.join(SCORES)}")
    value = column(trace, {"rise": "rise_source", "negative_entropy": "entropy"}.get(score, score))
    value = -value if score == "negative_entropy" else value
    return np.where(np.isnan(value), -np.inf, value)


def threshold_at(trace, score: str = "confidence", rejected: float = 0.5, bins: int = 30) -> dict:
    """What a threshold on a score does that rejects the share ``rejected`` of all images, those
    with the lowest scores.

    ``threshold`` (an image is accepted from there on), ``accepted`` (N,) bool, ``tpr`` and ``fpr``
    (known and unknown images accepted), ``acc_s`` (known accepted and right), ``acc_n`` (unknown
    rejected), ``h`` their harmonic mean; of the score at any threshold ``auroc``, ``fpr95`` and
    ``h_auc``; all 0..1. ``edges`` and ``share[g]`` (bins,): its histogram by group. ``why`` where
    the run has no unknown images; then only threshold, accepted, edges and share are given. Raises
    ValueError for a share outside 0..1 or an unknown score.
    """
    if not 0 <= rejected <= 1:
        raise ValueError(f"rejected must be a share from 0 to 1, got {rejected}")
    value = score_of(trace, score)
    groups = views.split(trace) if len(trace) else {}
    cut = int(round(rejected * len(value)))
    order = np.sort(value)
    threshold = (math.inf if len(value) and cut >= len(value) else float(order[cut]) if len(value)
                 else math.nan)
    accepted = value >= threshold
    fine = value[np.isfinite(value)]
    edges = np.linspace(*((fine.min(), fine.max()) if len(fine) and np.ptp(fine) > 0
                          else (0.0, 1.0)), bins + 1)
    share = {g: ratio(np.histogram(np.clip(value[m], edges[0], edges[-1]), edges)[0],
                             m.sum()) for g, m in groups.items()}
    found = {"score": score, "threshold": threshold, "accepted": accepted, "edges": edges,
             "share": share, "why": ""}
    unknown = groups.get("unknown", np.zeros(len(value), bool))
    known = scored(trace)
    if not unknown.any() or not known.any():
        passed = f" This one rejects {cut} of {len(value)} images." if len(value) else ""
        return found | {"why": ("No known image of this run has a label, so no threshold can be "
                                "judged." + passed) if unknown.any()
                        else "This run has no unknown images, so no threshold can be judged. "
                             "Choose the protocol open_set, or raise unknown / known."
                        + (passed if groups and not known.any() else "")}
    some = unknown | known
    correct = groups.get("correct", np.zeros(len(value), bool))
    judged = metrics.open_set(value[some], known[some], correct[some])
    s = float((accepted & correct).sum() / known.sum())
    reject = float((~accepted)[unknown].mean())
    return found | {"tpr": float(accepted[known].mean()), "fpr": 1 - reject, "acc_s": s,
                    "acc_n": reject, "h": metrics.harmonic_mean(s, reject),
                    "auroc": judged["auroc"], "fpr95": judged["fpr95"], "h_auc": judged["h_auc"]}


def say_threshold(found: dict) -> str:
    """The threshold in a sentence."""
    if found["why"]:
        return found["why"]
    say = {name: f"{100 * found[name]:.1f} %"
           for name in ("fpr", "tpr", "h", "acc_s", "acc_n", "auroc", "fpr95")}
    return (f"Accept from {SCORES[found['score']]} {found['threshold']:.3g} on: {say['fpr']} of "
            f"the unknown images are taken for known (FPR) and {say['tpr']} of the known ones pass "
            f"(TPR); H-score {say['h']}, of {say['acc_s']} known accepted and right and "
            f"{say['acc_n']} unknown rejected. At any threshold: AUROC {say['auroc']}, FPR at 95 % "
            f"TPR {say['fpr95']}.")


# --- images

def picked(trace, n: int = 6, accepted=None) -> dict[str, np.ndarray]:
    """Rows of the trace worth looking at, kind -> (at most n,): ``wrong`` (labelled, wrong, most
    confident), ``rise`` and ``fall`` (largest and lowest d), ``accepted`` (unknown images for which
    ``accepted`` (N,) is true, most confident; without it, all). Without labels ``confident`` takes
    the place of ``wrong``. No picture comes twice in a kind; kinds without images are left out."""
    if not len(trace):
        return {}
    confidence = column(trace, "confidence")
    d = column(trace, "rise_source")
    groups = views.split(trace)
    ids = column(trace, "id")
    segment = np.nan_to_num(column(trace, "segment"))
    everyone = np.ones(len(trace), bool)
    chosen = {"rise": (d > 0, -d), "fall": (d < 0, d)}
    chosen = ({"wrong": (groups.get("wrong", ~everyone), -confidence)} if scored(trace).any()
              else {"confident": (everyone, -confidence)}) | chosen
    if "unknown" in groups:
        chosen["accepted"] = groups["unknown"] & (everyone if accepted is None
                                                  else accepted), -confidence
    found = {}
    for kind, (mask, key) in chosen.items():
        rows = np.flatnonzero(mask & np.isfinite(key))
        rows = rows[np.argsort(key[rows], kind="stable")]
        first = np.unique(np.stack([ids[rows], segment[rows]]), axis=1, return_index=True)[1]
        found[kind] = rows[np.sort(first)][:n]
    return {kind: rows for kind, rows in found.items() if len(rows)}


def say_picked(trace) -> str:
    """Which images are chosen, and which cannot be for want of labels."""
    if not len(trace):
        return ""
    if not scored(trace).any():
        return ("Which images are confidently wrong cannot be said: that needs labels. The most "
                "confident ones are shown in their place, and those that have risen and fallen "
                "most.")
    return "The most confident wrong answers, and the images that have risen and fallen most."


def image_summary(trace, row: int, classes) -> dict:
    """What a trace says of one image: classes by name, probabilities, d, entropy, energy, shift;
    ``true`` is "unknown", or "" without a label."""
    def at(name):
        return float(column(trace, name)[row])

    def named(value):
        return classes[int(value)] if np.isfinite(value) and 0 <= int(value) < len(classes) else ""

    known = at("known")
    label = at("label")
    segment = at("segment")
    shifts = trace.meta.get("segments", [])
    return {"row": int(row), "id": int(at("id")), "prediction": named(at("prediction")),
            "confidence": at("confidence"), "source": named(at("source_prediction")),
            "source_confidence": at("source_confidence"), "d": at("rise_source"),
            "entropy": at("entropy"), "energy": at("energy"), "max_logit": at("max_logit"),
            "true": "unknown" if known == 0 else named(label) if label >= 0 else "",
            "shift": shifts[int(segment)] if np.isfinite(segment) and int(segment) < len(shifts)
            else "", "kept": at("kept") > 0}


def pictures(trace, stream, rows, classes) -> dict:
    """``rows`` of `picked` with their pictures: kind -> list of (image (C, H, W),
    `image_summary`)."""
    ids = column(trace, "id")
    segment = np.nan_to_num(column(trace, "segment"))
    return {kind: list(zip(views.pictures(stream, ids[chosen], segment[chosen]),
                           [image_summary(trace, row, classes) for row in chosen], strict=True))
            for kind, chosen in rows.items()}


def probabilities_of(answers: dict, row: int, classes, most: int = 10) -> dict:
    """Probabilities of one image by run: ``classes`` (those with the largest, in their own order),
    ``values`` name -> (k,)."""
    rows = {name: p[row] for name, p in answers.items() if len(p) > row}
    if not rows:
        return {"classes": [], "values": {}, "why": "The probabilities of this run were not kept."}
    top = np.sort(np.argsort(-np.max(list(rows.values()), axis=0), kind="stable")[:most])
    return {"classes": [classes[int(k)] for k in top],
            "values": {name: p[top] for name, p in rows.items()}, "why": ""}
