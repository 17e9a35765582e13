"""safety_report: is it safe to let this model adapt on these images? One page for the person who has to decide.

The adapting model is compared with the frozen one, image by image, in the situations a deployed model meets: images as they are, in
recorded order, one at a time, with unfamiliar ones among them, corrupted. Statistics are at the bottom, pure functions of arrays; the
verdict is a stated rule (`Rule`, `judge`) over numbers, so it can be questioned.
"""
from __future__ import annotations

import datetime
import difflib
import json
import math
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..analysis import metrics
from ..components.source.prepare import GIVEN, prepare
from ..core.adapter import AdaptationError, Adapter
from ..core.arguments import WrongKind, _say, flag, images_of, model_of, number, path_of, recipe_of, whole
from ..core.files import write_text, written
from ..core.parts import NeedsError, needs_of
from ..core.trace import Trace
from ..data.corruptions import CLEAN, parse_shift
from ..data.image_set import BaseSet, ImageSet, load
from ..experiments.progress import Progress
from ..experiments.runner import run
from ..methods import make
from ..models.doctor import _device, wilson
from ..streams.orders import Recorded, Shuffled
from ..streams.stream import Arrivals, Stream

SITUATIONS = {  # name -> (title, what it stands for)
    "stream": ("Your stream", "the stream that was handed in, as it is"),
    "shuffled": ("Your images, shuffled", "neighbouring images have nothing to do with each other"),
    "recorded": ("Recorded order", "images in the order of the files, as a camera delivers them"),
    "single": ("One image at a time", "batches of one image: no other images to compare with"),
    "unfamiliar": ("Unfamiliar images", "one image in three shows something the model has no class for"),
    "corrupted": ("Disturbed images", "your images with noise, blur, fog and low contrast, one after another"),
}
SHORT = {"stream": "your stream", "shuffled": "shuffled", "recorded": "recorded", "single": "one at a time", "unfamiliar": "unfamiliar",
         "corrupted": "disturbed"}
SHIFTS = ("gaussian_noise:3", "defocus_blur:3", "fog:3", "contrast:3")
WINDOW = 500
FEWEST = 30       # labelled images below which a situation is treated as unlabelled
VERDICTS = ("use", "do not use", "cannot tell")


@dataclass(frozen=True)
class Rule:
    """When adapting counts as safe. Points are percentage points of error.

    harm      tolerated harm: the whole 95 % interval of (adapted error - frozen error) has to lie below
    window    tolerated harm in the worst stretch of images
    collapse  least share of the frozen model's effective classes that the adapted model must still use
    level     of the intervals; the proof of harm is corrected for the number of situations (Bonferroni)
    """

    harm: float = 0.5
    window: float = 3.0
    collapse: float = 0.5
    level: float = 0.95

    def __post_init__(self):
        for name in ("harm", "window", "collapse", "level"):
            object.__setattr__(self, name, number(f"Rule.{name}", getattr(self, name)))
        if not (self.harm >= 0 and self.window > 0 and 0 < self.collapse < 1 and 0.5 < self.level < 1):
            raise ValueError(f"expected harm >= 0, window > 0, collapse in (0, 1) and level in (0.5, 1), got {self}")

    def text(self) -> str:
        """The rule in words."""
        return (f"Do not use: in some situation the adapting model stops with an error, or uses less than {self.collapse:.0%} of the classes the "
                f"frozen one uses, or makes more errors beyond chance (and by more than {self.harm:g} points at best estimate), or has a stretch "
                f"more than {self.window:g} points worse, beyond chance; also where no gain is possible. Use: in every situation the whole "
                f"{self.level:.0%} interval of the change lies below +{self.harm:g} points and no stretch of {WINDOW} images is more than "
                f"{self.window:g} points worse, and in at least one situation errors fall beyond chance. Otherwise: cannot tell.")


# --- making the report --------------------------------------------------------------------------------------------

def safety_report(model, recipe, images, *, unknown=None, limit: int | None = 2000, batch: int = 64, singles: int = 300,
                  situations=None, shifts=SHIFTS, rule: Rule | None = None, given: dict | None = None, source_images=None, seed: int = 0,
                  device="auto", progress: bool = True) -> SafetyReport:
    """Compare the adapting model with the frozen one on your images, and say "use", "do not use" or "cannot tell", and why.

    model       any classifier an ``Adapter`` takes, or the text that names one (`model_texts.open_model`); it is not changed
    recipe      a Method (or the name of one), e.g. ``make("tent", lr=1e-3)``
    images      an image set, a text for ``datasets.load`` ("folder:PATH"), a torch Dataset, (x, y) tensors, or a stream, which then is
                the first situation. Labels may be missing (-1) for some or all images; those that are labelled must be a fair sample
    unknown     images of things the model has no class for, of the same shape; None: embedded digits for grey 28 x 28 images, else copies
                of your images with scrambled phases, which hold no object (`scrambled`)
    limit       images of each situation, labelled ones first; None takes all. Intervals shrink with the square root
    batch       images that arrive together; ``singles`` images are shown one at a time
    situations  names from ``SITUATIONS``; by default all that apply. Leave out what cannot happen: every one named can stop the use
    shifts      corruptions for "corrupted"
    given, source_images   what the recipe needs of the source domain, or images to take it from
    progress    True: first an estimate of the seconds, then a line with the time left, on stderr

    Images come in fixed situations of limited length: what happens after more images than were shown is not known. Raises ValueError for
    models that are no classifiers, unknown situations, images that do not fit the model, and, before anything runs, for every other argument
    that cannot be meant.
    """
    recipe, rule = recipe_of(recipe), _rule(rule)
    limit = None if limit is None else whole("limit", limit, 1)
    batch, singles, seed = whole("batch", batch, 1), whole("singles", singles, 1), whole("seed", seed)
    shifts, progress = _shifts(shifts), flag("progress", progress)
    if given is not None and not isinstance(given, dict):
        raise WrongKind(f"given must be what source.prepare(model, recipe, images) hands back, a dict, not {_say(given)}; images go "
                        "to source_images=")
    _wanted(situations, isinstance(images, Arrivals), batch)
    model = model_of(model)
    device = "auto" if isinstance(device, str) and device == "auto" else _device(model, device)
    if source_images is not None and not all(hasattr(source_images, name) for name in ("images", "y")):
        source_images = images_of(source_images, "source_images")
    frozen = Adapter(model, make("source"), device=device)
    stream = images if isinstance(images, Arrivals) else None
    data = stream.known_set if stream is not None else _with_all_classes(_as_set(images), frozen)
    other, made_up = _unknown(unknown, data, seed, limit)
    wanted = _wanted(situations, stream is not None, batch)
    lacking = sorted(needs_of(recipe) & GIVEN.keys() - (given or {}).keys())
    if lacking and source_images is None:
        raise NeedsError(f"{type(recipe).__name__} needs {GIVEN[lacking[0]]}, made of images that must be given here: source_images=, an image "
                         "set of the source domain such as 'fashion_mnist_train_slice'")
    if given is None and source_images is not None and needs_of(recipe) & GIVEN.keys():
        given = prepare(model, recipe, source_images, device=device)
    streams = {name: _stream(name, stream, data, other, limit, batch, singles, shifts, seed) for name in wanted}
    adapters = [frozen, Adapter(model, recipe, seed=seed, device=device, given=given)]
    seconds = _estimate(adapters, streams)
    total = 2 * sum(s.n_images for s in streams.values())
    if progress:
        print(f"safety report: {len(streams)} situations, {total} images, about {_spell(seconds)}", file=sys.stderr, flush=True)
    bar, started = Progress(total, progress), time.perf_counter()
    done = []
    for name in wanted:
        title, note = SITUATIONS[name]
        if name == "unfamiliar":
            note = f"{note}: {made_up}"
        if name == "corrupted":
            note = ", ".join(s.replace("_", " ").replace(":", " strength ") for s in shifts) + ", one after another"
        done.append({"name": name, "title": title, "note": note, **_situation(adapters, streams[name], rule, len(wanted), bar, seed)})
    info = getattr(model, "info", {})
    facts = {"model": info.get("name") or info.get("architecture") or type(model).__name__, "data": data.name, "recipe": repr(recipe),
             "method": type(recipe).__name__, "images": len(data), "labelled": int((data.y >= 0).sum()), "limit": limit, "batch": batch, "seed": seed,
             "made": datetime.date.today().isoformat(), "unknown": made_up if "unfamiliar" in wanted else "", "device": str(adapters[1].device),
             "expected_seconds": seconds, "seconds": time.perf_counter() - started}
    return SafetyReport(facts, tuple(done), rule, **judge(done, rule))


def _rule(rule) -> Rule:
    if rule is not None and not isinstance(rule, Rule):
        raise WrongKind(f"rule must be a Rule, such as safety.Rule(harm=1.0), not {rule!r}")
    return rule or Rule()


def _shifts(shifts) -> tuple[str, ...]:
    if isinstance(shifts, str) or not isinstance(shifts, Iterable):
        raise WrongKind(f"shifts must list texts, such as ('fog:3', 'contrast'), not {shifts!r}")
    shifts = tuple(shifts)
    wrong = [s for s in shifts if not isinstance(s, str)]
    if wrong or not shifts:
        raise WrongKind(f"shifts must list texts, such as ('fog:3', 'contrast'), not {wrong[0] if wrong else shifts!r}")
    for shift in shifts:
        parse_shift(shift, 5)
    return shifts


def _as_set(images, name: str = "images") -> BaseSet:
    if isinstance(images, str):
        return load(images)
    if isinstance(images, BaseSet):
        return images
    if isinstance(images, tuple) and len(images) == 2 and isinstance(images[0], Tensor):
        from ..data.folders import wrap
        x, y = images
        y = torch.full((len(x),), -1) if y is None else y
        return wrap(torch.utils.data.TensorDataset(x, y), labels=y, classes=_class_names(y), name="your tensors")
    if hasattr(images, "__getitem__") and hasattr(images, "__len__") and not isinstance(images, Tensor):
        from ..data.folders import wrap
        return wrap(images)
    hint = ("; a folder is written as a text, 'folder:PATH'" if isinstance(images, os.PathLike) else
            "; give the data set inside, loader.dataset" if isinstance(images, torch.utils.data.DataLoader) else
            "; without labels that is (x, None)" if isinstance(images, Tensor) else "")
    raise WrongKind(f"{name} must be an image set, a text for datasets.load, a torch Dataset, (x, y) tensors or a stream, "
                    f"not {_say(images)}{hint}")


def _class_names(y):
    return [str(k) for k in range(max(int(y.max()) + 1, 1))] if len(y) else ["0"]


def _with_all_classes(data: BaseSet, frozen: Adapter) -> BaseSet:
    """The set with as many class names as the model has outputs, where its own are mere numbers or no image has a label."""
    if not len(data):
        raise ValueError(f"{data.name} has no images")
    outputs = frozen.predict_source(data.images(torch.arange(1)).to(frozen.device)).shape[1]
    numbered = tuple(data.classes) == tuple(map(str, range(len(data.classes))))
    if len(data.classes) < outputs and (numbered or not (data.y >= 0).any()):
        return replace(data, classes=tuple(map(str, range(outputs))))
    return data


def _wanted(situations, has_stream: bool, batch: int) -> list[str]:
    possible = [n for n in SITUATIONS if (n != "stream" or has_stream) and (n != "single" or batch > 1)]
    if situations is None:
        return possible
    if isinstance(situations, str) or not isinstance(situations, Iterable):
        raise WrongKind(f"situations must list names, such as ['shuffled', 'single'], not {situations!r}")
    situations = tuple(situations)
    wrong = [n for n in situations if not isinstance(n, str) or n not in SITUATIONS]
    if wrong or not situations:
        near = difflib.get_close_matches(str(wrong[0]).lower(), SITUATIONS, 1) if wrong else []
        raise ValueError(f"there is no situation {', '.join(map(repr, wrong)) or 'named'}{f'; did you mean {near[0]!r}?' if near else ''}; "
                         f"choose from {', '.join(SITUATIONS)}")
    if "stream" in situations and not has_stream:
        raise ValueError("the situation 'stream' needs a stream in place of images")
    return list(dict.fromkeys(situations))


def _unknown(unknown, data, seed, limit):
    """The unfamiliar images, and in words where they are from."""
    if unknown is not None:
        found = _as_set(unknown, "unknown")
        return found, f"yours ({found.name}, {len(found)} images)"
    if tuple(data.shape) == (1, 28, 28):
        return load("digits"), "handwritten digits that come with this package, as you gave none"
    return scrambled(data, min(len(data), 300 if limit is None else max(limit // 2, 1), 1000), seed), (
        "made from your images by scrambling them until no object is left, as you gave none")


def scrambled(data, n: int, seed: int = 0) -> ImageSet:
    """Copies of n images with random Fourier phases: the same spectrum, mean and brightness range, but no object.

    The phases are those of one white-noise image for each copy, so the result is real; all channels turn by the same phases. Values
    outside [0, 1] are cut off.
    """
    dice = torch.Generator().manual_seed(seed)
    rows = torch.linspace(0, len(data) - 1, n).long()
    x = data.images(rows).cpu()
    noise = torch.fft.rfft2(torch.randn(n, 1, *x.shape[-2:], generator=dice))
    turn = noise / noise.abs().clamp_min(1e-12)
    turn[..., 0, 0] = 1                                                        # the mean stays
    y = torch.fft.irfft2(torch.fft.rfft2(x) * turn, s=x.shape[-2:]).clamp(0, 1)
    return ImageSet("scrambled images", (255 * y).round().to(torch.uint8), torch.zeros(n, dtype=torch.int64), ("scrambled",))


def _stream(name, stream, data, other, limit, batch, singles, shifts, seed) -> Arrivals:
    if name == "stream":
        return _first(stream, limit)
    if name == "recorded":
        return Stream(_stretch(data, limit), CLEAN[:1], order=Recorded(), per_shift=None, batch=batch, seed=seed)
    some = _sample(data, singles if name == "single" else limit, seed)
    usual = {"order": Shuffled(), "per_shift": None, "batch": 1 if name == "single" else batch, "seed": seed}
    if name == "unfamiliar":
        usual |= {"unknown": other, "unknown_ratio": 0.5, "unknown_mode": "shuffled"}
    if name == "corrupted":
        usual["per_shift"] = max(len(some) // len(shifts), 1)
    return Stream(some, shifts if name == "corrupted" else CLEAN[:1], **usual)


def _first(stream: Arrivals, limit):
    """The first batches of a stream, up to the limit."""
    if limit is None or stream.n_images <= limit:
        return stream
    seen = np.cumsum([len(arrival) for arrival in stream.plan()])
    return stream.cut(0, int(np.searchsorted(seen, limit)) + 1)


def _sample(data, limit, seed):
    """Up to ``limit`` random images in the order of the set, the labelled ones first in choice."""
    if limit is None or len(data) <= limit:
        return data
    shuffle = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    first = shuffle[(data.y[shuffle] < 0).long().argsort(stable=True)]
    return data.take(first[:limit].sort().values)


def _stretch(data, limit):
    """The ``limit`` consecutive images with the most labels."""
    if limit is None or len(data) <= limit:
        return data
    sums = torch.cat([torch.zeros(1, dtype=torch.int64), (data.y >= 0).long().cumsum(0)])
    start = int((sums[limit:] - sums[:-limit]).argmax())
    return data.take(torch.arange(start, start + limit))


def _estimate(adapters, streams) -> float:
    """Seconds of the whole report, from two steps of each model on the first batch of each batch size; the adapters are put back."""
    total, spent = 0.0, {}
    for name, stream in streams.items():
        kind = "single" if name == "single" else "many"
        if kind not in spent:
            started = time.perf_counter()
            batch = next(iter(stream.batches(adapters[0].device)))
            made, spent[kind] = time.perf_counter() - started, 0.0
            for adapter in adapters:
                try:
                    adapter(batch.x, batch.ids)
                    started = time.perf_counter()
                    adapter(batch.x, batch.ids)
                    spent[kind] += (time.perf_counter() - started + made) / len(batch)
                except AdaptationError:
                    pass
                adapter.reset()
        total += spent[kind] * stream.n_images
    return total


def _spell(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _situation(adapters, stream, rule: Rule, family: int, bar, seed: int) -> dict:
    """The numbers of one situation: both models over the same stream."""
    traces = []
    for adapter in adapters:
        adapter.reset()
        try:
            traces.append(run(adapter, stream, progress=bar))
        except AdaptationError as why:
            bar.skip(stream.n_images - len(adapter.trace))
            return {"failed": str(why), "images": stream.n_images, "after": len(adapter.trace), **_empty()}
    return compare(*traces, rule, family, seed)


def _empty() -> dict:
    nothing = dict.fromkeys(("source_error", "adapted_error", "difference", "low", "high", "low_sure", "design_effect", "right_to_wrong",
                             "wrong_to_right", "changed", "needed", "source_entropy", "adapted_entropy", "classes_kept", "source_auroc",
                             "adapted_auroc", "ms", "source_ms", "forwards", "backwards", "memory"), math.nan)
    return {**nothing, "unfamiliar": 0, "labelled": 0, "basis": "none", "batch": 0, "window": {}, "curve": {}, "alarm": "", "alarm_after": -1}


def compare(source, adapted, rule: Rule | None = None, family: int = 1, seed: int = 0) -> dict:
    """Everything the report says of two traces over the same stream, of the frozen and of the adapting model.

    Errors and changes in per cent and points, over known images with a label; ``low`` .. ``high`` is the interval of adapted - source error
    at ``rule.level``, ``low_sure`` its lower end corrected for ``family`` situations. With fewer than 30 labels ``basis`` is "answers": the
    errors cannot differ by more than the share of answers that differ. Raises ValueError for traces of different images, or no classifier.
    """
    rule, family, seed = _rule(rule), whole("family", family, 1), whole("seed", seed)
    for name, trace in (("source", source), ("adapted", adapted)):
        if not isinstance(trace, Trace):
            raise WrongKind(f"{name} must be the Trace of a run, as runner.run hands it back, not {_say(trace)}")
        if "prediction" not in trace:
            raise ValueError("the safety report is for classifiers: this trace has one row an image but no single prediction for it")
    if not np.array_equal(source["id"], adapted["id"]):
        raise ValueError("the two traces are of different images; run both models over the same stream")
    out = _empty()
    known, label = source["known"].astype(bool), source["label"]
    scored = known & (label >= 0)
    before, after = source["prediction"] == label, adapted["prediction"] == label
    sure = 1 - (1 - rule.level) / family
    differs = (source["prediction"] != adapted["prediction"])[known]
    out |= {"failed": "", "images": len(known), "unfamiliar": int((~known).sum()), "labelled": int(scored.sum()),
            "changed": 100 * float(differs.mean()) if len(differs) else math.nan,
            "batch": int(np.median(source.step("n")))}
    if scored.sum() >= FEWEST:
        before, after = before[scored], after[scored]
        harm = before.astype(int) - after.astype(int)                          # 1: right to wrong, -1: wrong to right
        strata = source["segment"][scored] if "segment" in source else None
        found = paired_difference(harm, rule.level, strata)
        flips = metrics.flip_rates(source["prediction"], adapted["prediction"], label, scored)
        out |= {"basis": "labels", **found, "low_sure": paired_difference(harm, sure, strata)["low"], "source_error": 100 * float((~before).mean()),
                "adapted_error": 100 * float((~after).mean()), "right_to_wrong": flips["negative"], "wrong_to_right": flips["positive"],
                "needed": labels_needed(harm, rule, strata), "window": worst_window(harm, block=max(20, out["batch"]), seed=seed),
                "curve": _curve(~before, ~after, int(scored.sum()))}
    elif len(differs):
        most = 100 * wilson(int(differs.sum()), len(differs))[1]
        out |= {"basis": "answers", "low": -most, "high": most, "low_sure": -most}
    out |= _without_labels(source, adapted)
    if (~known).any() and known.any():
        out |= {f"{name}_auroc": metrics.auroc(trace["energy"], known) for name, trace in (("source", source), ("adapted", adapted))}
    for name, trace in (("source_", source), ("", adapted)):
        out[f"{name}ms"] = metrics.cost(trace)["ms_per_image"]
    spent = metrics.cost(adapted)
    return out | {"forwards": spent["forwards"], "backwards": spent["backwards"], "memory": spent["peak_memory_bytes"]}


def _without_labels(source, adapted) -> dict:
    out = {f"{name}_entropy": float(np.mean(np.nan_to_num(trace["entropy"], nan=0.0))) for name, trace in (("source", source), ("adapted", adapted))}
    n = len(source["prediction"])
    size = min(WINDOW, n)
    if n >= 100:
        starts = range(0, n - size + 1, max(size // 5, 1))
        out["classes_kept"] = min(effective(adapted["prediction"][a:a + size]) / effective(source["prediction"][a:a + size]) for a in starts)
    return out | _alarms(adapted)


def _alarms(trace) -> dict:
    """What the collapse detector says of the run, where it is there and can be asked."""
    try:
        from ..components.controllers.collapse_detector import ALARMS, watch
    except ImportError:
        return {"alarm": "", "alarm_after": -1}
    try:
        seen = watch(trace)
    except Exception as why:                       # too short a run, or its fitted numbers are missing: the report has other evidence
        return {"alarm": f"not asked ({type(why).__name__})", "alarm_after": -1}
    first = seen["first_alarm"]
    if first < 0:
        return {"alarm": "none" if seen["judged"].any() else f"cannot judge: {seen['cannot_judge']}", "alarm_after": -1}
    at = int(np.searchsorted(trace.step("step"), first))
    return {"alarm": ALARMS[int(seen["alarm"][at])].replace("_", " "), "alarm_after": int(np.sum(trace.step("n")[:at + 1]))}


def _curve(wrong_before, wrong_after, n: int) -> dict:
    """Error of both models in up to 20 stretches of the labelled images, for a figure."""
    pieces = np.array_split(np.arange(n), min(20, max(n // 50, 1)))
    return {"images": [int(p[-1]) + 1 for p in pieces], "source": [100 * float(wrong_before[p].mean()) for p in pieces],
            "adapted": [100 * float(wrong_after[p].mean()) for p in pieces]}


# --- statistics -----------------------------------------------------------------------------------------------------

def effective(prediction) -> float:
    """Effective number of predicted classes, exp of the entropy of their shares, 1..C.  (N,) -> number"""
    n = np.unique(np.asarray(prediction), return_counts=True)[1]
    p = n / n.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def normal_quantile(level: float) -> float:
    """The z with P(|Z| <= z) = level for a standard normal Z: 1.960 for 0.95.  Found by bisection."""
    low, high = 0.0, 40.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if math.erf(middle / math.sqrt(2)) < level else (low, middle)
    return low


def tango(worse: float, better: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Score interval of the difference of two paired shares, (worse - better) / n, each end in -1..1.

    ``worse`` images changed from right to wrong, ``better`` from wrong to right, of n. All d with |worse - better - n d| <= z sqrt(n (2 q + d (1 -
    d))), q the maximum-likelihood share of ``better`` given d (Tango, Statistics in Medicine 1998). Unlike an interval from the normal
    approximation it keeps its coverage with few flips, and has a width where there is none; exact tests (McNemar) are in
    agreement but conservative. Counts may be fractions. Raises ValueError unless 0 <= worse + better <= n and n > 0.
    """
    if not (n > 0 and worse >= 0 and better >= 0 and worse + better <= n + 1e-9):
        raise ValueError(f"expected counts of flips that fit into n images, got {worse} + {better} of {n}")
    z = normal_quantile(level)

    def distance(d: float) -> float:
        b = -worse - better + (2 * n - worse + better) * d
        q = (math.sqrt(max(b * b + 8 * n * better * d * (1 - d), 0.0)) - b) / (4 * n)
        spread = n * (2 * max(q, 0.0) + d * (1 - d))
        gap = worse - better - n * d
        return gap / math.sqrt(spread) if spread > 1e-15 else math.copysign(math.inf, gap) if gap else 0.0

    middle = (worse - better) / n

    def end(inside: float, outside: float) -> float:
        if abs(distance(outside)) <= z:
            return outside
        for _ in range(60):
            half = (inside + outside) / 2
            inside, outside = (half, outside) if abs(distance(half)) <= z else (inside, half)
        return inside

    return end(middle, -1.0), end(middle, 1.0)


def design_effect(values, strata=None, blocks: int = 20) -> float:
    """How many times larger the variance of the mean is than for independent images, at least 1.  (N,) in order of arrival -> number

    Variance of the mean from about ``blocks`` successive stretches over that from single images. Neighbours that go wrong together, as in
    a film, carry less information than their number; the interval is taken at N / design effect images (Rao & Scott 1992). ``strata``
    (N,) numbers the planned segments of a stream: differences between them are no chance and do not count.
    """
    values = np.asarray(values, np.float64)
    if len(values) < 2 * blocks or not values.std():
        return 1.0
    groups = [values] if strata is None else [values[np.asarray(strata) == k] for k in np.unique(strata)]
    variance = 0.0
    for group in groups:
        parts = max(2, round(blocks * len(group) / len(values)))
        sums = np.array([piece.sum() for piece in np.array_split(group - group.mean(), parts)])
        variance += parts / (parts - 1) * float((sums ** 2).sum())
    return max(1.0, variance / float(((values - values.mean()) ** 2).sum()))


def paired_difference(harm, level: float = 0.95, strata=None) -> dict[str, float]:
    """Change in error from the frozen to the adapting model with its interval, in points.

    ``harm`` (N,) in order of arrival: 1 right to wrong, -1 wrong to right, 0 else. difference = 100 mean(harm); ``low`` and ``high`` are
    Tango's score interval at counts divided by the `design_effect`. Tested by simulation from 200 images on.
    """
    harm = np.asarray(harm)
    if not len(harm):
        return {"difference": math.nan, "low": math.nan, "high": math.nan, "design_effect": math.nan}
    effect = design_effect(harm, strata)
    low, high = tango(float((harm > 0).sum()) / effect, float((harm < 0).sum()) / effect, len(harm) / effect, level)
    return {"difference": 100 * float(harm.mean()), "low": 100 * low, "high": 100 * high, "design_effect": effect}


def labels_needed(harm, rule: Rule, strata=None) -> float:
    """How many labelled images would settle whether the harm is tolerable, if everything goes on like this; rounded up to two digits.

    Half an interval, z sqrt(design effect (share of flips - d^2) / n), must fit between the difference d and ``rule.harm`` (below it), or
    between d and 0 (above it). inf where d lies on the border.
    """
    harm = np.asarray(harm, np.float64)
    d, z = harm.mean(), normal_quantile(rule.level)
    gap = rule.harm / 100 - d if d < rule.harm / 100 else d
    spread = max(float((harm != 0).mean()), 1 / len(harm)) - d * d
    if gap <= 0:
        return math.inf
    n = max(z * z * design_effect(harm, strata) * spread / gap ** 2, z * z * (1 - min(gap, 0.99)) / gap, FEWEST)
    return float(math.ceil(n / (step := 10 ** max(math.floor(math.log10(n)) - 1, 0))) * step)


def worst_window(harm, size: int = WINDOW, block: int = 64, permutations: int = 400, seed: int = 0) -> dict[str, float]:
    """The stretch of ``size`` labelled images where adapting did most harm, and how much of that chance explains, in points.

    The worst of many windows is bad by chance alone. What chance does is learned from the scatter around local means (of stretches as long as a
    window): these residuals are put in random order in whole blocks of ``block`` neighbours, again and again, and the worst window of each order,
    on top of the mean harm, is what even harm would show. ``worst``, ``start``; ``expected`` and ``by_chance``, median and 95 % quantile of
    the orders; ``p`` = (1 + orders as bad) / (1 + orders); ``corrected`` = worst - (expected - mean harm), not below the mean: an estimate
    of the true harm there. With fewer than 2 x 500 images the window is a quarter of them; {} with fewer than 200, or fewer than 4 blocks.
    """
    harm = np.asarray(harm, np.float64)
    n = len(harm)
    size = size if n >= 2 * size else n // 4
    block = min(block, max(size // 2, 1))
    if n < 200 or n // block < 4:
        return {}

    def worst(values):
        sums = np.concatenate([np.zeros((*values.shape[:-1], 1)), values.cumsum(-1)], -1)
        windows = sums[..., size:] - sums[..., :-size]
        return windows.argmax(-1), 100 * windows.max(-1) / size

    start, found = worst(harm)
    dice = np.random.default_rng(seed)
    rest = np.concatenate([piece - piece.mean() for piece in np.array_split(harm, n // size)])
    rest = rest[:n // block * block].reshape(-1, block) * math.sqrt(size / (size - block))     # the local mean took up a part of the scatter
    noise = np.array([worst(rest[dice.permutation(len(rest))].ravel())[1] for _ in range(permutations)])
    expected, mean = float(np.median(noise)), 100 * float(harm.mean())
    return {"size": size, "worst": float(found), "start": int(start), "expected": mean + expected,
            "by_chance": mean + float(np.quantile(noise, 0.95)),
            "p": (1 + int((mean + noise >= found - 1e-9).sum())) / (1 + permutations), "corrected": max(mean, float(found) - expected)}


# --- the verdict ------------------------------------------------------------------------------------------------------

def finding(s: dict, rule: Rule, family: int) -> tuple[str, str]:
    """("harm", "safe", "gain" or "open", the reason in a sentence) for one situation; "gain" is safe and better beyond chance."""
    if s["failed"]:
        return "harm", f"the adapting model stopped with an error after {s['after']} images"
    if s["basis"] == "labels" and s["low_sure"] > 0 and s["difference"] > rule.harm:
        return "harm", f"errors rise by {s['difference']:.1f} points ({s['source_error']:.1f} to {s['adapted_error']:.1f} %), beyond chance"
    if s["classes_kept"] < rule.collapse:
        return "harm", f"the adapting model collapsed: in some stretch it used only {s['classes_kept']:.0%} of the classes that the frozen model used"
    w = s["window"]
    if w and w["p"] < (1 - rule.level) / family and w["corrected"] > rule.window:
        return "harm", f"in one stretch of {w['size']} images errors rise by {w['worst']:.1f} points, more than chance explains"
    if not s["high"] <= rule.harm:
        if s["basis"] == "none":
            return "open", "nothing could be compared"
        if s["basis"] == "answers":
            alarm = f"; the collapse detector raised an alarm after {s['alarm_after']} images" if s["alarm_after"] >= 0 else ""
            few = f"only {s['labelled']} labels" if s["labelled"] else "no labels"
            return "open", f"there are {few}, and {s['changed']:.1f} % of the answers change: whether for better or worse is not known{alarm}"
        return "open", (f"the change in error is {s['difference']:+.1f} points, but anything from {s['low']:+.1f} to {s['high']:+.1f} is possible; "
                        f"{_about(s['needed'])}")
    if s["basis"] == "labels" and not w:
        return "open", f"{s['labelled']} labelled images are too few to look at stretches"
    if w and w["worst"] > rule.window and (w["size"] < WINDOW or w["corrected"] > rule.window):
        return "open", (f"one stretch of {w['size']} images is {w['worst']:.1f} points worse, which may be chance; more labelled images are needed "
                        f"({2 * WINDOW} at least)")
    if s["basis"] == "labels" and s["high"] < 0:
        return "gain", f"errors fall by {-s['difference']:.1f} points ({s['source_error']:.1f} to {s['adapted_error']:.1f} %), beyond chance"
    if s["basis"] == "answers":
        return "safe", f"at most {s['high']:.1f} % of the answers change, so errors cannot rise by more"
    return "safe", f"errors change by {s['difference']:+.1f} points; a rise above {s['high']:.1f} can be excluded"


def _about(n: float) -> str:
    if n > 1e5:
        return "it lies so near to what is tolerated that more labels will hardly settle it"
    return f"about {int(n):,} labelled images would settle it".replace(",", " ")


def judge(situations, rule: Rule | None = None) -> dict:
    """The verdict over all situations: ``verdict``, ``why`` (sentences), ``findings`` (name -> (finding, reason)), ``without`` (what it would be
    if the situations that do harm never happened, where they are the smaller part, else "")."""
    rule = _rule(rule)
    found = {s["name"]: finding(s, rule, len(situations)) for s in situations}
    title = {s["name"]: s["title"] for s in situations}
    verdict, why = _verdict(situations, found, title, rule)
    harmful = [n for n, (what, _) in found.items() if what == "harm"]
    rest = [s for s in situations if s["name"] not in harmful]
    without = ""
    if harmful and len(harmful) < len(rest) + (len(situations) == 2):
        second, reasons = _verdict(rest, {s["name"]: found[s["name"]] for s in rest}, title, rule)
        names = " and ".join(f'"{title[n]}"' for n in harmful)
        without = f"If {names} can never happen in your use, the verdict would be: {second}. {reasons[0]}"
    return {"verdict": verdict, "why": tuple(why), "findings": found, "without": without}


def _verdict(situations, found, title, rule: Rule) -> tuple[str, list[str]]:
    kinds = [what for what, _ in found.values()]

    def said(*which):
        return [f"{title[n]}: {reason}." for n, (what, reason) in found.items() if what in which]

    if "harm" in kinds:
        return "do not use", said("harm")
    if "open" in kinds:
        return "cannot tell", said("open")
    if "gain" in kinds:
        return "use", said("gain") + ["No situation that was tried shows harm above what the rule tolerates."]
    if all(s["low"] >= -rule.harm for s in situations):
        return "do not use", [f"Adapting changes errors by less than {rule.harm:g} points everywhere, so nothing is gained for its cost."]
    return "cannot tell", ["Adapting does no harm, but in no situation that was tried does it lower the errors beyond chance."] + said("safe")


# --- the report -------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class SafetyReport:
    """What was found: ``verdict`` ("use", "do not use", "cannot tell"), ``why``, and the numbers of each situation.

    It shows itself as a page in a notebook; ``print`` gives it as text, ``save`` writes it, ``to_dict`` gives plain numbers.
    """

    facts: dict
    situations: tuple[dict, ...]
    rule: Rule
    verdict: str
    why: tuple[str, ...]
    findings: dict = field(default_factory=dict)
    without: str = ""

    def __str__(self) -> str:
        f = self.facts
        lines = [f"{self.verdict.upper()}: {f['method']} on {f['model']}, {f['data']}"] + [f"  {w}" for w in self.why]
        lines += [f"  {self.without}"] if self.without else []
        for row in self.rows():
            lines.append("  " + "; ".join(f"{k} {v}" if i else v for i, (k, v) in enumerate(row.items()) if v))
        return "\n".join(lines)

    def rows(self) -> list[dict[str, str]]:
        """The table of the page: one dict of texts a situation."""
        from .page import rows
        return rows(self)

    def to_dict(self) -> dict:
        """Plain values for JSON; what is not known is None."""
        found = [{**s, "finding": self.findings[s["name"]][0], "reason": self.findings[s["name"]][1]} for s in self.situations]
        return _plain({"verdict": self.verdict, "why": list(self.why), "without": self.without, "rule": vars(self.rule),
                       "rule_text": self.rule.text(), "facts": self.facts, "situations": found})

    def html(self) -> str:
        """One page that needs nothing beside itself; the figures need matplotlib and are left out without it."""
        from .page import html
        return html(self)

    def _repr_html_(self) -> str:
        from .page import framed
        return framed(self)

    def save(self, path: str | Path) -> Path:
        """Write the page: .html, .json (numbers), .png or .pdf (through matplotlib). Raises ValueError for another ending."""
        path = path_of("path", path)
        kind = path.suffix.lower()
        if kind == ".json":
            content = json.dumps(self.to_dict(), indent=1)
        elif kind in (".html", ".htm"):
            content = self.html()
        elif kind in (".png", ".pdf"):
            from .figures import plot_safety_page
            with written(path) as part:
                plot_safety_page(self).savefig(part, dpi=150)
            return path
        else:
            raise ValueError(f"cannot write {path.name}: choose the ending .html, .json, .png or .pdf")
        return write_text(path, content)

    def with_rule(self, rule: Rule) -> SafetyReport:
        """The same numbers judged by another rule. Raises ValueError when its level differs, as the intervals would."""
        if _rule(rule).level != self.rule.level:
            raise ValueError(f"the intervals were made at level {self.rule.level}; make a new report for level {rule.level}")
        return replace(self, rule=rule, **judge(self.situations, rule))


def _plain(value):
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (np.floating, float)):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
