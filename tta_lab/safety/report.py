"""safety_report: is it safe to let this model adapt on these images? One page for the person who
has to decide.

The adapting model is compared with the frozen one, image by image, in the situations a deployed
model meets: images as they are, in recorded order, one at a time, with unfamiliar ones among them,
corrupted. Statistics are at the bottom, pure functions of arrays; the verdict is a stated rule
(`Rule`, `judge`) over numbers, so it can be questioned.
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
from ..components.source.prepare import prepare
from ..core.adapter import AdaptationError, Adapter
from ..core.arguments import WrongKind, flag, path_of, shown, whole
from ..core.copying import device_of
from ..core.files import write_text, written
from ..core.named import model_of, recipe_of
from ..core.parts import NeedsError
from ..core.source_info import source_info_of
from ..core.trace import Trace
from ..data.corruptions import CLEAN, parse_shift
from ..data.image_set import BaseSet, ImageSet
from ..data.load import images_of, load
from ..experiments.progress import Progress
from ..experiments.runner import run
from ..methods import make
from ..models.doctor import wilson
from ..streams.orders import Recorded, Shuffled
from ..streams.stream import AbstractStream, Stream
from .intervals import WINDOW, effective, paired_difference, worst_window
from .judging import FEWEST, Rule, judge, labels_needed, rule_of

SITUATIONS = {  # name -> (title, what it stands for)
    "stream": ("Your stream", "the stream that was handed in, as it is"),
    "shuffled": ("Your images, shuffled", "neighbouring images have nothing to do with each other"),
    "recorded": ("Recorded order", "images in the order of the files, as a camera delivers them"),
    "single": ("One image at a time", "batches of one image: no other images to compare with"),
    "unfamiliar": ("Unfamiliar images", "one image in three shows something the "
                   "model has no class for"),
    "corrupted": ("Disturbed images", "your images with noise, blur, fog and low contrast, "
                  "one after another"),
}
SHIFTS = ("gaussian_noise:3", "defocus_blur:3", "fog:3", "contrast:3")


def safety_report(model, recipe, images, *, unknown=None, limit: int | None = 2000, batch: int = 64,
                  singles: int = 300, situations=None, shifts=SHIFTS, rule: Rule | None = None,
                  source_info: dict | None = None, source_images=None, seed: int = 0, device="auto",
                  progress: bool = True) -> SafetyReport:
    """Compare the adapting model with the frozen one on your images, and say "use", "do not use" or
    "cannot tell", and why.

    model       any classifier an ``Adapter`` takes, or the text that names one
                (`names.open_model`); it is not changed
    recipe      a Method (or the name of one), e.g. ``make("tent", lr=1e-3)``
    images      an image set, a text for ``load`` ("folder:PATH"), a torch Dataset, (x, y)
                tensors, or a stream, which then is the first situation. Labels may be missing (-1)
                for some or all images; those that are labelled must be a fair sample
    unknown     images of things the model has no class for, of the same shape; None: embedded
                digits for grey 28 x 28 images, else copies of your images with scrambled phases,
                which hold no object (`scrambled`)
    limit       images of each situation, labelled ones first; None takes all. Intervals shrink
                with the square root
    batch       images that arrive together; ``singles`` images are shown one at a time
    situations  names from ``SITUATIONS``; by default all that apply. Leave out what cannot happen:
                every one named can stop the use
    shifts      corruptions for "corrupted"
    source_info, source_images   what the recipe needs of the source domain, or images to take it
                from
    progress    True: first an estimate of the seconds, then a line with the time left, on stderr

    Images come in fixed situations of limited length: what happens after more images than were
    shown is not known. Raises ValueError for models that are no classifiers, unknown situations,
    images that do not fit the model, and, before anything runs, for every other argument that
    cannot be meant.
    """
    recipe = recipe_of(recipe)
    rule = rule_of(rule)
    limit = None if limit is None else whole("limit", limit, 1)
    batch = whole("batch", batch, 1)
    singles = whole("singles", singles, 1)
    seed = whole("seed", seed)
    shifts = _shifts(shifts)
    progress = flag("progress", progress)
    if source_info is not None and not isinstance(source_info, dict):
        raise WrongKind("source_info must be what tta_lab.prepare(model, recipe, images) hands "
                        f"back, a dict, not {shown(source_info)}; images go to source_images=")
    _wanted(situations, isinstance(images, AbstractStream), batch)
    model = model_of(model)
    device = "auto" if isinstance(device, str) and device == "auto" else device_of(model, device)
    if source_images is not None and not all(hasattr(source_images, name)
                                             for name in ("images", "y")):
        source_images = images_of(source_images, "source_images")
    frozen = Adapter(model, make("source"), device=device)
    stream = images if isinstance(images, AbstractStream) else None
    data = stream.known_set if stream is not None else _with_all_classes(_as_set(images), frozen)
    other, made_up = _unknown(unknown, data, seed, limit)
    wanted = _wanted(situations, stream is not None, batch)
    lacking = [info for name, info in source_info_of(recipe).items()
               if name not in (source_info or {})]
    if lacking and source_images is None:
        raise NeedsError(f"{type(recipe).__name__} needs {lacking[0].what}, made of images that "
                         "must be given here: source_images=, an image set of the source domain "
                         "such as 'fashion_mnist_train_slice'")
    if source_info is None and source_images is not None and source_info_of(recipe):
        source_info = prepare(model, recipe, source_images, device=device)
    streams = {name: _stream(name, stream, data, other, limit, batch, singles, shifts, seed)
               for name in wanted}
    adapters = [frozen, Adapter(model, recipe, seed=seed, device=device, source_info=source_info)]
    seconds = _estimate(adapters, streams)
    total = 2 * sum(s.n_images for s in streams.values())
    if progress:
        print(f"safety report: {len(streams)} situations, {total} images, about {_spell(seconds)}",
              file=sys.stderr, flush=True)
    bar = Progress(total, progress)
    started = time.perf_counter()
    done = []
    for name in wanted:
        title, note = SITUATIONS[name]
        if name == "unfamiliar":
            note = f"{note}: {made_up}"
        if name == "corrupted":
            note = ", ".join(s.replace("_", " ").replace(":", " strength ")
                             for s in shifts) + ", one after another"
        done.append({"name": name, "title": title, "note": note,
                     **_situation(adapters, streams[name], rule, len(wanted), bar, seed)})
    info = getattr(model, "info", {})
    facts = {"model": info.get("name") or info.get("architecture") or type(model).__name__,
             "data": data.name, "recipe": repr(recipe), "method": type(recipe).__name__,
             "images": len(data), "labelled": int((data.y >= 0).sum()), "limit": limit,
             "batch": batch, "seed": seed, "made": datetime.date.today().isoformat(),
             "unknown": made_up if "unfamiliar" in wanted else "",
             "device": str(adapters[1].device), "expected_seconds": seconds,
             "seconds": time.perf_counter() - started}
    return SafetyReport(facts, tuple(done), rule, **judge(done, rule))


def _shifts(shifts) -> tuple[str, ...]:
    if isinstance(shifts, str) or not isinstance(shifts, Iterable):
        raise WrongKind(f"shifts must list texts, such as ('fog:3', 'contrast'), not {shifts!r}")
    shifts = tuple(shifts)
    wrong = [s for s in shifts if not isinstance(s, str)]
    if wrong or not shifts:
        raise WrongKind("shifts must list texts, such as ('fog:3', 'contrast'), not "
                        f"{wrong[0] if wrong else shifts!r}")
    for shift in shifts:
        parse_shift(shift, 5)
    return shifts


def _as_set(images, name: str = "images") -> BaseSet:
    if isinstance(images, str):
        return load(images)
    if isinstance(images, BaseSet):
        return images
    if isinstance(images, tuple) and len(images) == 2 and isinstance(images[0], Tensor):
        from ..data.wrapped import wrap
        x, y = images
        y = torch.full((len(x),), -1) if y is None else y
        return wrap(torch.utils.data.TensorDataset(x, y), labels=y, classes=_class_names(y),
                    name="your tensors")
    if hasattr(images, "__getitem__") and hasattr(images, "__len__") and not isinstance(images,
                                                                                        Tensor):
        from ..data.wrapped import wrap
        return wrap(images)
    hint = ("; a folder is written as a text, 'folder:PATH'" if isinstance(images, os.PathLike)
            else "; give the data set inside, loader.dataset"
            if isinstance(images, torch.utils.data.DataLoader)
            else "; without labels that is (x, None)" if isinstance(images, Tensor) else "")
    raise WrongKind(f"{name} must be an image set, a text for tta_lab.load, a torch Dataset, (x, "
                    f"y) tensors or a stream, not {shown(images)}{hint}")


def _class_names(y):
    return [str(k) for k in range(max(int(y.max()) + 1, 1))] if len(y) else ["0"]


def _with_all_classes(data: BaseSet, frozen: Adapter) -> BaseSet:
    """The set with as many class names as the model has outputs, where its own are mere numbers or
    no image has a label."""
    if not len(data):
        raise ValueError(f"{data.name} has no images")
    outputs = frozen.predict_source(data.images(torch.arange(1)).to(frozen.device)).shape[1]
    numbered = tuple(data.classes) == tuple(map(str, range(len(data.classes))))
    if len(data.classes) < outputs and (numbered or not (data.y >= 0).any()):
        return replace(data, classes=tuple(map(str, range(outputs))))
    return data


def _wanted(situations, has_stream: bool, batch: int) -> list[str]:
    possible = [n for n in SITUATIONS
                if (n != "stream" or has_stream) and (n != "single" or batch > 1)]
    if situations is None:
        return possible
    if isinstance(situations, str) or not isinstance(situations, Iterable):
        raise WrongKind("situations must list names, such as ['shuffled', 'single'], not "
                        f"{situations!r}")
    situations = tuple(situations)
    wrong = [n for n in situations if not isinstance(n, str) or n not in SITUATIONS]
    if wrong or not situations:
        near = difflib.get_close_matches(str(wrong[0]).lower(), SITUATIONS, 1) if wrong else []
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is no situation {', '.join(map(repr, wrong)) or 'named'}{hint}; "
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
    return scrambled(data, min(len(data), 300 if limit is None else max(limit // 2, 1), 1000),
                     seed), ("made from your images by scrambling them until no object is left, as "
                             "you gave none")


def scrambled(data, n: int, seed: int = 0) -> ImageSet:
    """Copies of n images with random Fourier phases: the same spectrum, mean and brightness range,
    but no object.

    The phases are those of one white-noise image for each copy, so the result is real; all channels
    turn by the same phases. Values outside [0, 1] are cut off.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.linspace(0, len(data) - 1, n).long()
    x = data.images(rows).cpu()
    noise = torch.fft.rfft2(torch.randn(n, 1, *x.shape[-2:], generator=generator))
    turn = noise / noise.abs().clamp_min(1e-12)
    turn[..., 0, 0] = 1                                                        # the mean stays
    y = torch.fft.irfft2(torch.fft.rfft2(x) * turn, s=x.shape[-2:]).clamp(0, 1)
    return ImageSet("scrambled images", (255 * y).round().to(torch.uint8),
                    torch.zeros(n, dtype=torch.int64), ("scrambled",))


def _stream(name, stream, data, other, limit, batch, singles, shifts, seed) -> AbstractStream:
    if name == "stream":
        return _first(stream, limit)
    if name == "recorded":
        return Stream(_stretch(data, limit), CLEAN[:1], order=Recorded(), per_shift=None,
                      batch=batch, seed=seed)
    some = _sample(data, singles if name == "single" else limit, seed)
    usual = {"order": Shuffled(), "per_shift": None, "batch": 1 if name == "single" else batch,
             "seed": seed}
    if name == "unfamiliar":
        usual |= {"unknown": other, "unknown_ratio": 0.5, "unknown_mode": "shuffled"}
    if name == "corrupted":
        usual["per_shift"] = max(len(some) // len(shifts), 1)
    return Stream(some, shifts if name == "corrupted" else CLEAN[:1], **usual)


def _first(stream: AbstractStream, limit):
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
    """Seconds of the whole report, from two steps of each model on the first batch of each batch
    size; the adapters are put back."""
    total = 0.0
    spent = {}
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
            return {"failed": str(why), "images": stream.n_images, "after": len(adapter.trace),
                    **_empty()}
    return paired_numbers(*traces, rule, family, seed)


def _empty() -> dict:
    nothing = dict.fromkeys(("source_error", "adapted_error", "difference", "low", "high",
                             "low_sure", "design_effect", "right_to_wrong", "wrong_to_right",
                             "changed", "needed", "source_entropy", "adapted_entropy",
                             "classes_kept", "source_auroc", "adapted_auroc", "ms", "source_ms",
                             "forwards", "backwards", "memory"), math.nan)
    return {**nothing, "unfamiliar": 0, "labelled": 0, "basis": "none", "batch": 0, "window": {},
            "curve": {}, "alarm": "", "alarm_after": -1}


def paired_numbers(source, adapted, rule: Rule | None = None, family: int = 1,
                   seed: int = 0) -> dict:
    """Everything the report says of two traces over the same stream, of the frozen and of the
    adapting model.

    Errors and changes in per cent and points, over known images with a label; ``low`` .. ``high``
    is the interval of adapted - source error at ``rule.level``, ``low_sure`` its lower end
    corrected for ``family`` situations. With fewer than 30 labels ``basis`` is "answers": the
    errors cannot differ by more than the share of answers that differ. Raises ValueError for traces
    of different images, or no classifier.
    """
    rule = rule_of(rule)
    family = whole("family", family, 1)
    seed = whole("seed", seed)
    for name, trace in (("source", source), ("adapted", adapted)):
        if not isinstance(trace, Trace):
            raise WrongKind(f"{name} must be the Trace of a run, as runner.run hands it back, not "
                            f"{shown(trace)}")
        if "prediction" not in trace:
            raise ValueError("the safety report is for classifiers: this trace has one row an "
                             "image but no single prediction for it")
    if not np.array_equal(source["id"], adapted["id"]):
        raise ValueError("the two traces are of different images; run both models over the same "
                         "stream")
    out = _empty()
    known = source["known"].astype(bool)
    label = source["label"]
    scored = known & (label >= 0)
    before = source["prediction"] == label
    after = adapted["prediction"] == label
    sure = 1 - (1 - rule.level) / family
    differs = (source["prediction"] != adapted["prediction"])[known]
    out |= {"failed": "", "images": len(known), "unfamiliar": int((~known).sum()),
            "labelled": int(scored.sum()),
            "changed": 100 * float(differs.mean()) if len(differs) else math.nan,
            "batch": int(np.median(source.step("n")))}
    if scored.sum() >= FEWEST:
        before = before[scored]
        after = after[scored]
        harm = before.astype(int) - after.astype(int)  # 1: right to wrong, -1: wrong to right
        strata = source["segment"][scored] if "segment" in source else None
        found = paired_difference(harm, rule.level, strata)
        flips = metrics.flip_rates(source["prediction"], adapted["prediction"], label, scored)
        out |= {"basis": "labels", **found,
                "low_sure": paired_difference(harm, sure, strata)["low"],
                "source_error": 100 * float((~before).mean()),
                "adapted_error": 100 * float((~after).mean()), "right_to_wrong": flips["negative"],
                "wrong_to_right": flips["positive"], "needed": labels_needed(harm, rule, strata),
                "window": worst_window(harm, block=max(20, out["batch"]), seed=seed),
                "curve": _curve(~before, ~after, int(scored.sum()))}
    elif len(differs):
        most = 100 * wilson(int(differs.sum()), len(differs))[1]
        out |= {"basis": "answers", "low": -most, "high": most, "low_sure": -most}
    out |= _without_labels(source, adapted)
    if (~known).any() and known.any():
        out |= {f"{name}_auroc": metrics.auroc(trace["energy"], known)
                for name, trace in (("source", source), ("adapted", adapted))}
    for name, trace in (("source_", source), ("", adapted)):
        out[f"{name}ms"] = metrics.cost(trace)["ms_per_image"]
    spent = metrics.cost(adapted)
    return out | {"forwards": spent["forwards"], "backwards": spent["backwards"],
                  "memory": spent["peak_memory_bytes"]}


def _without_labels(source, adapted) -> dict:
    out = {f"{name}_entropy": float(np.mean(np.nan_to_num(trace["entropy"], nan=0.0)))
           for name, trace in (("source", source), ("adapted", adapted))}
    n = len(source["prediction"])
    size = min(WINDOW, n)
    if n >= 100:
        starts = range(0, n - size + 1, max(size // 5, 1))
        out["classes_kept"] = min(effective(adapted["prediction"][a:a + size])
                                  / effective(source["prediction"][a:a + size]) for a in starts)
    return out | _alarms(adapted)


def _alarms(trace) -> dict:
    """What the collapse detector says of the run, where it is there and can be asked."""
    try:
        from ..analysis.collapse import detect
        from ..components.controllers.collapse_detector import ALARMS
    except ImportError:
        return {"alarm": "", "alarm_after": -1}
    try:
        seen = detect(trace)
    # too short a run, or its fitted numbers are missing: the report has other evidence
    except Exception as why:
        return {"alarm": f"not asked ({type(why).__name__})", "alarm_after": -1}
    first = seen["first_alarm"]
    if first < 0:
        return {"alarm": "none" if seen["judged"].any()
                else f"cannot judge: {seen['cannot_judge']}", "alarm_after": -1}
    at = int(np.searchsorted(trace.step("step"), first))
    return {"alarm": ALARMS[int(seen["alarm"][at])].replace("_", " "),
            "alarm_after": int(np.sum(trace.step("n")[:at + 1]))}


def _curve(wrong_before, wrong_after, n: int) -> dict:
    """Error of both models in up to 20 stretches of the labelled images, for a figure."""
    pieces = np.array_split(np.arange(n), min(20, max(n // 50, 1)))
    return {"images": [int(p[-1]) + 1 for p in pieces],
            "source": [100 * float(wrong_before[p].mean()) for p in pieces],
            "adapted": [100 * float(wrong_after[p].mean()) for p in pieces]}


@dataclass(frozen=True)
class SafetyReport:
    """What was found: ``verdict`` ("use", "do not use", "cannot tell"), ``why``, and the numbers of
    each situation.

    It shows itself as a page in a notebook; ``print`` gives it as text, ``save`` writes it,
    ``to_dict`` gives plain numbers.
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
        lines = [f"{self.verdict.upper()}: {f['method']} on {f['model']}, {f['data']}"] + [
            f"  {w}" for w in self.why]
        lines += [f"  {self.without}"] if self.without else []
        for row in self.rows():
            lines.append("  " + "; ".join(f"{k} {v}" if i else v
                                          for i, (k, v) in enumerate(row.items()) if v))
        return "\n".join(lines)

    def rows(self) -> list[dict[str, str]]:
        """The table of the page: one dict of texts a situation."""
        from .wording import rows
        return rows(self)

    def to_dict(self) -> dict:
        """Plain values for JSON; what is not known is None."""
        found = [{**s, "finding": self.findings[s["name"]][0],
                  "reason": self.findings[s["name"]][1]} for s in self.situations]
        return _plain({"verdict": self.verdict, "why": list(self.why), "without": self.without,
                       "rule": vars(self.rule), "rule_text": self.rule.text(), "facts": self.facts,
                       "situations": found})

    def html(self) -> str:
        """One page that needs nothing beside itself; the figures need matplotlib and are left out
        without it."""
        from .page import html
        return html(self)

    def _repr_html_(self) -> str:
        from .page import framed
        return framed(self)

    def save(self, path: str | Path) -> Path:
        """Write the page: .html, .json (numbers), .png or .pdf (through matplotlib). Raises
        ValueError for another ending."""
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
            raise ValueError(f"cannot write {path.name}: choose the ending .html, .json, .png or "
                             ".pdf")
        return write_text(path, content)

    def with_rule(self, rule: Rule) -> SafetyReport:
        """The same numbers judged by another rule. Raises ValueError when its level differs, as the
        intervals would."""
        if rule_of(rule).level != self.rule.level:
            raise ValueError(f"the intervals were made at level {self.rule.level}; make a new "
                             f"report for level {rule.level}")
        return replace(self, rule=rule, **judge(self.situations, rule))


def _plain(value):
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (np.floating, float)):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
