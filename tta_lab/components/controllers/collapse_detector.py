"""Collapse of an adapting model: a detector that needs no labels, and the definition by labels
that it is measured against.

`CollapseDetector` looks at the trace columns of one step at a time and says how probable it is
that the run collapses, with an alarm named after the evidence that weighs most. It is an additive
model on a few signals, most of them relative to the run's own first batches; its coefficients are
fitted on runs of known outcome (``benchmarks/collapse.py``) and lie in
``data/collapse/detector.json``. `watch` is the same code over a finished trace. No alarm means
little where the detector has nothing to look at: `cannot_judge` says where that is, and why.
`collapse` says with labels whether, and from which batch on, a run did collapse: for evaluation
only.
"""
from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ...core import arguments
from ...core.knobs import knob
from ...core.norm_layers import TestTimeNorm
from ...core.parts import Part
from ...data.shipped import DataError, data_root

ALARMS = ("none", "broken_outputs", "few_classes", "stuck_classes", "overconfident",
          "drifting_weights", "gradients", "unlike_source")
# name -> (alarm that it raises, what it says, with the value in it); 0 is no change, larger is
# more like collapse
SIGNALS = {
    "classes": ("few_classes", "the last {short} predictions use {value:.2f} times fewer classes "
                               "(effective number) than at their widest"),
    "classes_long": ("few_classes", "the last {long} predictions use {value:.2f} times fewer "
                                    "classes (effective number) than at their widest"),
    "stuck": ("stuck_classes", "one class has kept {value:.0%} of the predictions through three "
                               "windows in a row"),
    "entropy_down": ("overconfident", "the entropy of the predictions is {value:.2f} times below "
                                      "that of the first batches"),
    "entropy_falling": ("overconfident", "the entropy of the predictions is {value:.2f} times "
                                         "below its slow mean"),
    "confidence": ("overconfident", "the mean confidence lies {value:.2f} above that of the first "
                                    "batches"),
    "distance": ("drifting_weights", "the tuned weights have moved by {value:.2%} of their length"),
    "pace": ("drifting_weights", "the tuned weights have moved by {value:.3%} of their length, "
                                 "divided by the root of the number of images"),
    "distance_test": ("drifting_weights", "the tuned weights, beside statistics of the test "
                                          "images, have moved by {value:.2%} of their length"),
    "pace_test": ("drifting_weights", "the tuned weights, beside statistics of the test images, "
                                      "have moved by {value:.3%} of their length, divided "
                  "by the root of the number of images"),
    "gradient_down": ("gradients", "the gradient is {value:.2f} times smaller than in the first "
                                   "batches"),
    "disagreement": ("unlike_source", "{value:.0%} of the predictions differ from the source's, "
                                      "over those of the first batches"),
    "fewer_than_source": ("unlike_source", "the last {short} predictions use {value:.2f} times "
                                           "fewer classes (effective number) than the source's"),
    "falling": ("unlike_source", "{value:.0%} of the images lost probability at the source's "
                                 "class, over those of the first batches"),
    "surer_than_source": ("unlike_source", "the mean confidence lies {value:.2f} above the "
                                           "source's"),
}
RATIOS = ("classes", "classes_long", "entropy_down", "entropy_falling", "distance", "pace",
          "distance_test", "pace_test", "gradient_down", "fewer_than_source")  # kept as logarithms
ORDER = {name: i for i, name in enumerate(SIGNALS)}
SOURCE_SIGNALS = ("disagreement", "fewer_than_source", "falling", "surer_than_source")
SHORT, LONG = 512, 2048       # images whose predicted classes are counted
TAU = 128.0                   # images over which means of the recent past forget
FIRST = 128                   # images that the run is compared with: its first
SLOW = 512.0
_MEANS = ("entropy", "confidence", "grad_norm", "disagreement", "falling", "source_confidence")
_ALSO = ("widest_short", "widest_long", "learned_from")
STILL = math.log(1e-4)        # weights that have moved by less of their length have not moved
# images of a batch, on average, below which nothing is judged: the runs of the fit had 16 or more
FEWEST = 8
# images before which nothing is judged: the first ones, and as many to compare with them
HISTORY = 2 * FIRST


@lru_cache(maxsize=4)
def fitted(variant: str = "light", path: str | None = None) -> dict:
    """The fitted detector: ``signals``, name -> {"at": values of the signal, rising, "adds": what
    it adds there to the log odds}, ``bias``, ``threshold``, ``patience``.

    Raises DataError when the file is missing or has no such variant.
    """
    place = data_root() / "collapse" / "detector.json" if path is None else path
    try:
        with open(place) as f:
            found = json.load(f)
    except OSError as why:
        raise DataError(f"{place} cannot be read ({why}); restore it with: git checkout -- "
                        f"data/collapse/detector.json, or fit it anew with "
                        "benchmarks/collapse.py") from why
    except ValueError as why:
        raise DataError(f"{place} is damaged ({why}); restore it with: git checkout -- "
                        f"data/collapse/detector.json, or fit it anew with "
                        "benchmarks/collapse.py") from why
    if not isinstance(found, dict):
        raise DataError(f"{place} holds no fitted detectors but a {type(found).__name__}; fit "
                        f"them anew with benchmarks/collapse.py")
    if variant not in found:
        raise DataError(f"{place} has no detector {variant!r}; it has: "
                        f"{', '.join(k for k in found if isinstance(found[k], dict))}")
    return found[variant]


@dataclass(frozen=True)
class CollapseDetector(Part):
    """Says after every step how probable a collapse is, from what the trace records, without
    labels.

    P = 1 / (1 + exp(-(b + sum_j f_j(s_j)))) with the signals s_j of `SIGNALS`, of which each adds
    to the log odds by its own curve f_j: rising, linear between the points of `fitted`, 0 at what
    is usual in healthy runs and without data. An alarm is P above the threshold in ``patience``
    steps in a row, and is named after the signal that adds most. Outputs that are not finite raise
    the alarm "broken_outputs" at once. ``variant="source"`` needs the columns of the frozen source
    (``Adapter(..., record="source")``). The state has a constant size and can be read with
    ``torch.load(weights_only=True)``.
    """

    variant: str = knob("light", choices=("light", "source"), why="which fitted detector: without "
                                                                  "or with the columns of the "
                                                                  "frozen source")
    threshold: float = knob(0.0, (0.0, 1.0), "alarm above this probability; 0 takes the fitted one")
    patience: int = knob(0, (0, 1000), "steps in a row above the threshold before the alarm; 0 "
                                       "takes the fitted number", unit="batches")

    def init(self, model=None, source=None) -> dict:
        """The state at the start of a stream: counters, means of the first and of the recent
        images, the last predictions. ``model`` is the adapted one, in which the tuned parameters
        ask for gradients: without their length, distances cannot be judged and say nothing. Models
        whose batch-norm layers use statistics of the test images bear longer ways, so their
        distances are signals of their own."""
        tuned = [] if model is None else [p.detach() for p in model.parameters() if p.requires_grad]
        return {
            "length": float(torch.stack(torch._foreach_norm(tuned)).norm()) if tuned else 0.0,
            "test_statistics": model is not None
            and any(isinstance(m, TestTimeNorm) for m in model.modules()), "steps": 0, "first": 0,
            "above": 0, "alarm": 0, "probability": 0.0, "count": 0, "broken": False,
            **_FACTS, "means": torch.full((3, len(_MEANS)), torch.nan, dtype=torch.float64),
            "also": torch.zeros(len(_ALSO), dtype=torch.float64), "predictions": torch.full(
                (2, LONG), -1, dtype=torch.int32), "signals": torch.full(
                    (len(SIGNALS),), torch.nan, dtype=torch.float64)
        }

    def restart(self, state: dict) -> None:
        """Forget the recent past, in place, but not what the run was like in its first batches:
        for use after a reset."""
        for name, value in self.init().items():
            if name == "means":
                state["means"][1:] = state["means"][0]
            elif name == "also":
                state["also"][2] = 0.0
            elif name not in ("length", "test_statistics", "steps", "first", "images",
                              "moved") and name in state:
                state[name] = value

    def look(self, samples: dict, step: dict, state: dict) -> tuple[int, float]:
        """Index into `ALARMS` (0: none) and probability of collapse after one step, from the
        step's rows of the trace; moves ``state``."""
        if bool(step.get("reset", False)) and state["steps"]:
            self.restart(state)
        for name in ("means", "also", "predictions", "signals"):
            # a state that came back from a checkpoint lies where the adapter is
            if state[name].device.type != "cpu":
                state[name] = state[name].cpu()
        numbers, predictions, ours = _read(samples, step)
        if "images" not in state:    # a state written before this was counted
            state |= {"images": max(HISTORY, FEWEST * state["steps"]), "since": FIRST, "moved": -1}
        state["images"] = state["images"] + numbers["n"]
        state["since"] = state["since"] + numbers["n"]
        if math.isfinite(numbers.get("distance", math.nan)):
            state["moved"] = max(state["moved"], int(numbers["distance"] > 0))
        state["broken"] = not (math.isfinite(numbers["entropy"])
                               and math.isfinite(numbers["confidence"]))
        if state["broken"]:
            state.update(steps=state["steps"] + 1, above=state["above"] + 1, alarm=1,
                         probability=1.0)
            return 1, 1.0
        signals = _signals(numbers, predictions, ours, state)
        state["signals"].numpy()[:] = signals
        fit = fitted(self.variant)
        parts = evidence_of(signals[None], fit)[0]
        odds = fit["bias"] + float(parts.sum())
        probability = 1 / (1 + math.exp(-min(max(odds, -50.0), 50.0)))
        above = state["above"] + 1 if probability > (self.threshold or fit["threshold"]) else 0
        alarm = (ALARMS.index(SIGNALS[list(fit["signals"])[int(parts.argmax())]][0])
                 if above >= (self.patience or fit["patience"]) else 0)
        state.update(steps=state["steps"] + 1, above=above, alarm=alarm, probability=probability)
        return alarm, probability

    def contributions(self, state: dict) -> dict[str, float]:
        """What each signal added to the log odds of collapse in the last step."""
        fit = fitted(self.variant)
        parts = evidence_of(state["signals"].cpu().numpy()[None], fit)[0]
        return dict(zip(fit["signals"], parts.tolist(), strict=True))

    def evidence(self, state: dict) -> str:
        """The alarm of the last step (or that there is none) with its evidence, in words and
        numbers."""
        if state["broken"]:
            return ("Alarm broken_outputs: entropy or confidence of the answer is not a finite "
                    "number.")
        why = "" if state["alarm"] else obstacle(state)
        if why:
            return f"No alarm, but the detector cannot judge: {why}."
        head = f"Alarm {ALARMS[state['alarm']]}" if state["alarm"] else "No alarm"
        parts = sorted(self.contributions(state).items(), key=lambda item: -item[1])
        said = [
            f"{_say(name, state)} ({weight:+.1f} to the log odds)" for name, weight in parts[:3]
            if weight > 0
        ]
        fit = fitted(self.variant)
        rule = (f"alarm above {self.threshold or fit['threshold']:.0%} in "
                f"{self.patience or fit['patience']} steps in a row")
        return (f"{head}: probability of collapse {state['probability']:.0%} after "
                f"{state['steps']} steps ({rule})"
                + ("; " + "; ".join(said) if said else "; no signal speaks for it") + ".")


# seen, seen since the last reset; whether a weight has moved (-1: not recorded)
_FACTS = {"images": 0, "since": 0, "moved": -1}


def obstacle(state: dict) -> str:
    """Why the detector cannot judge the run that its ``state`` comes from, up to its last step; ""
    where it can.

    It judges learning that goes wrong. So it cannot judge a run in which no weight has moved
    (nothing is learned, or it is put back after every answer), one of batches below `FEWEST`
    images on average, one of less than `HISTORY` images, and one whose last reset was less than
    `FIRST` images ago. An alarm stands all the same.
    """
    steps = state["steps"]
    images = state.get("images", max(HISTORY, FEWEST * steps))
    since = state.get("since", FIRST)
    if not steps:
        return "nothing has run yet"
    if state.get("moved", -1) == 0:
        return ("no weight of the network has moved, so there is no learning that could go wrong; "
                "whether these answers are better or worse than the "
                "source's is not what the detector sees")
    if images < FEWEST * steps:
        size = "single images" if images == steps else f"batches of {images / steps:.1f} images"
        return f"it was made for batches of {FEWEST} images or more, not for {size}"
    if images < HISTORY:
        return (f"{images} images are too short a history: it compares with the first {FIRST}, "
                f"and needs {HISTORY}")
    if since < FIRST:
        return f"{since} images since the last reset are too short a history: it needs {FIRST}"
    return ""


def cannot_judge(trace) -> str:
    """Why the detector cannot judge a run, up to its last step, in words; "" where it can. A
    function of the trace alone; see `obstacle`."""
    if not len(trace):
        return obstacle({"steps": 0})
    steps = trace.columns("steps")
    n = np.diff(np.searchsorted(trace["step"], np.append(steps["step"], steps["step"][-1] + 1)))
    resets = np.flatnonzero(np.nan_to_num(steps.get("reset", np.zeros(len(n))))[1:] > 0) + 1
    distance = np.asarray(steps.get("distance", [np.nan]), np.float64)
    return obstacle({
        "steps": len(n), "images": int(n.sum()),
        "since": int(n[resets[-1] if len(resets) else 0:].sum()),
        "moved": -1 if np.isnan(distance).all() else int(np.nanmax(distance) > 0)
    })


def _say(name: str, state: dict) -> str:
    value = float(state["signals"][ORDER[name]])
    value = math.exp(value) if name in RATIOS else value
    return SIGNALS[name][1].format(value=value, short=min(SHORT, state["count"]),
                                   long=min(LONG, state["count"]))


def evidence_of(signals: np.ndarray, fit: dict) -> np.ndarray:
    """What each signal of a fitted detector adds to the log odds, (T, J), from all signals (T,
    S)."""
    found = [
        np.interp(signals[:, ORDER[name]], curve["at"], curve["adds"])
        for name, curve in fit["signals"].items()
    ]
    return np.nan_to_num(np.stack(found, 1))    # no data: no evidence


def _read(samples: dict, step: dict) -> tuple[dict, np.ndarray | None, np.ndarray | None]:
    """The numbers of a step and the predicted classes (adapted, source), on the host with one
    transfer."""
    if isinstance(samples["entropy"], Tensor):
        return _read_tensors(samples, step)
    numbers = {"entropy": samples["entropy"].mean(), "confidence": samples["confidence"].mean()}
    numbers |= {
        name: step[name] for name in ("grad_norm", "distance") if step.get(name) is not None
    }
    prediction = samples.get("prediction")
    source = samples.get("source_prediction")
    if source is not None and prediction is not None:
        numbers |= {
            "disagreement": (source != prediction).mean(), "falling": (samples["rise_source"]
                                                                       < 0).mean(),
            "source_confidence": samples["source_confidence"].mean()
        }
    return {name: float(value)
            for name, value in numbers.items()} | {"n": len(samples["entropy"])}, prediction, source


def _read_tensors(samples: dict, step: dict):
    means = {"entropy": samples["entropy"].float(), "confidence": samples["confidence"].float()}
    prediction = samples.get("prediction")
    source = samples.get("source_prediction")
    if source is not None and prediction is not None:
        means |= {
            "disagreement": (source != prediction).float(), "falling": (samples["rise_source"]
                                                                        < 0).float(),
            "source_confidence": samples["source_confidence"].float()
        }
    single = {
        name: step[name] for name in ("grad_norm", "distance")
        if isinstance(step.get(name), Tensor)
    }
    # class numbers are exact in float32
    columns = [c.float() for c in (prediction, source) if c is not None]
    gathered = torch.cat([
        torch.stack(list(means.values())).mean(1),
        *(v.detach().float().reshape(1) for v in single.values()), *columns
    ])
    host = gathered.cpu().numpy()
    k, n = len(means) + len(single), len(samples["entropy"])
    numbers = dict(zip((*means, *single), host[:k].tolist(), strict=True)) | {"n": n}
    numbers |= {
        name: float(step[name]) for name in ("grad_norm", "distance")
        if name not in single and step.get(name) is not None
    }
    classes = host[k:].astype(np.int32)
    return numbers, classes[:n] if columns else None, classes[n:] if len(columns) > 1 else None


def _signals(numbers: dict, predictions, ours, state: dict) -> np.ndarray:
    """All signals after this step, in the order of `SIGNALS`, NaN without data. Moves the means
    and windows in ``state``."""
    n, also = numbers["n"], state["also"].numpy()
    first, recent, slow = state["means"].numpy()
    now = np.array([numbers.get(name, math.nan) for name in _MEANS])
    there = np.isfinite(now)
    new = there & ~np.isfinite(first)      # a column that begins now
    first[new] = recent[new] = slow[new] = now[new]
    move = np.where(there, now, 0.0)
    if state["first"] < FIRST:
        first += np.where(there, n / (state["first"] + n) * (move - first), 0.0)
        recent[:] = slow[:] = first
        state["first"] += n
    else:
        recent += np.where(there, (1 - math.exp(-n / TAU)) * (move - recent), 0.0)
        slow += np.where(there, (1 - math.exp(-n / SLOW)) * (move - slow), 0.0)
    found = dict.fromkeys(SIGNALS, math.nan)
    change = dict(zip(_MEANS, recent - first, strict=True))
    found.update(entropy_down=max(_log(first[0]) - _log(recent[0]),
                                  0.0), entropy_falling=max(_log(slow[0]) - _log(recent[0]), 0.0),
                 confidence=change["confidence"], disagreement=change["disagreement"],
                 falling=change["falling"], surer_than_source=recent[1] - recent[5])
    if np.isfinite(first[2]):
        found["gradient_down"] = max(_log(first[2], 1e-9) - _log(recent[2], 1e-9), 0.0)
    distance = numbers.get("distance", math.nan)
    if distance == 0 or distance > 0 and state["length"]:
        also[2] += n
        far = max(math.log(distance / state["length"]) if distance else STILL, STILL)
        kind = "_test" if state["test_statistics"] else ""
        found["distance" + kind], found["pace" + kind] = far, far - 0.5 * math.log(also[2])
    if predictions is not None and n:
        _count(found, predictions, ours, state, also)
    return np.fromiter(found.values(), np.float64, len(found))


def _log(value: float, floor: float = 1e-3) -> float:
    return math.log(max(value, floor))


def _count(found: dict, predictions, ours, state: dict, also) -> None:
    """The signals of the last predicted classes: the newest stand at the end of the window."""
    window = state["predictions"].numpy()
    new = np.asarray(predictions)[-LONG:]
    window[0, :-len(new)] = window[0, len(new):]
    window[0, -len(new):] = new
    state["count"] = count = min(state["count"] + len(new), LONG)
    size = int(new.max()) + 1 if count == len(new) else int(window[0].max()) + 1
    shares = [
        _shares(window[0, -count:][lo:hi], size)
        for lo, hi in ((-SHORT // 2, None), (-SHORT, -SHORT // 2), (-2 * SHORT, -SHORT))
    ]
    short = _classes(_shares(window[0, -min(count, SHORT):], size))
    long = _classes(_shares(window[0, -count:], size))
    also[0], also[1] = max(also[0], short), max(also[1], long)
    found["classes"] = also[0] - short
    found["classes_long"] = also[1] - long
    if count >= 2 * SHORT:
        found["stuck"] = float(np.minimum(np.minimum(shares[0], shares[1]), shares[2]).max())
    elif count >= SHORT:
        found["stuck"] = float(np.minimum(shares[0], shares[1]).max())
    if ours is not None:
        source = np.asarray(ours)[-LONG:]
        window[1, :-len(source)] = window[1, len(source):]
        window[1, -len(source):] = source
        past = window[1, -min(count, SHORT):]
        found["fewer_than_source"] = _classes(_shares(past[past >= 0], int(past.max()) + 1)) - short


def _shares(classes, size: int):
    return np.bincount(classes, minlength=size) / max(len(classes), 1)


def _classes(shares) -> float:
    """ln of the effective number of classes: the entropy of the shares, nats."""
    p = shares[shares > 0]
    return float(-(p * np.log(p)).sum())


def trace_of(name: str, value):
    from ...core.trace import Trace

    if not isinstance(value, Trace):
        raise arguments.WrongKind(f"{name} must be the Trace of a run, as run(adapter, stream) "
                                  f"hands it back, not {arguments.shown(value)}")
    return value
