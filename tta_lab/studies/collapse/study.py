"""What the fourth notebook computes: runs that are watched by the collapse detector, with and without a guard, and sentences about them.

A `Setting` is one run as a value; a `Bench` makes runs and keeps them, so that none is made twice. Whatever is drawn or said is a function of
traces. ``load_evaluation`` reads how good the detector is on models and images that it was not fitted on.
"""
from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...analysis.collapse import collapse, watch
from ...analysis.timelines import split, stretches
from ...components.controllers.collapse_detector import (
    ALARMS,
    CollapseDetector,
    cannot_judge,
    fitted,
)
from ...components.controllers.guard import ANSWERS, Guard, actions
from ...components.norms.batch_norm import SourceStatistics
from ...core.files import write_text
from ...core.knobs import knobs
from ...core.parts import Controller
from ...core.trace import Trace
from ...data.corruptions import STANDARD_SIX
from ...data.shipped import DataError, data_root
from ...experiments.runner import row
from ...methods import make
from ...models.embedded import checkpoints
from ...streams import protocols
from ...streams.stream import Stream
from .. import own
from ..explorer.study import say_beside
from ..report import nothing, points, signed, write_numbers

METHODS = ("tent", "eta", "sar", "rpl", "pseudo_label", "slr", "shot_im", "wisdom_of_crowds")    # they learn, and need nothing of the source domain
BESIDE = ("source", "BN-1")
FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
STATISTICS = {"batch": "of the batch", "source": "of the source"}
GUARDS = {"": "no guard", "smaller step": "roll back, then a smaller step", "roll back": "roll back", "reset": "reset to the source",
          "stop": "stop learning"}
STREAMS = {  # name -> what it is called, protocol and its settings; six shifts, or as many images of one
    "continual": ("one shift after another", protocols.continual, {}),
    "mixed": ("all shifts mixed", protocols.mixed_domains, {}),
    "noise": ("noise only", protocols.continual, {"shifts": "noise"}),
    "clean": ("clean images", protocols.continual, {"shifts": "clean"}),
    "correlated": ("clumps of one class", protocols.correlated, {}),
    "sorted": ("class after class in each shift", protocols.correlated, {"delta": 0}),
    "sorted_clean": ("class after class, clean", protocols.correlated, {"delta": 0, "shifts": "clean"}),
}
NOT_MEASURED = ("The evaluation that comes with the package was made on embedded models and images, and says nothing about yours, so it is left out; "
                "evaluation=FILE shows one of your own.")
RECENT = 300         # images over which errors and classes are counted
EVALUATION = "collapse/evaluation.json"   # in the data folder
SAID = {"broken_outputs": "broken outputs", "few_classes": "few classes", "stuck_classes": "classes stuck", "overconfident": "overconfident",
        "drifting_weights": "weights drift", "gradients": "gradients", "unlike_source": "unlike the source"}


# --- runs

@dataclass(frozen=True)
class Witness(Controller):
    """Lets a `CollapseDetector` look at every step and remembers in words what it saw; it does nothing else.

    The detector is fed with the method's own answers, also where a guard answers in its place.
    """

    watches = True

    def init(self, model, source):
        return {"detector": CollapseDetector().init(model, source), "now": "", "first": ""}

    def watch(self, adapter, samples, step, state):
        detector = CollapseDetector()
        alarm, probability = detector.look(samples, step, state["detector"])
        step.update(alarm=int(alarm), alarm_probability=float(probability))
        state["now"] = detector.evidence(state["detector"])
        if alarm and not state["first"]:
            state["first"] = state["now"]


@dataclass(frozen=True)
class Setting:
    """One run: a method at ``factor`` times its default rate on a stream, with a guard (a name of GUARDS) or none.

    Raises ValueError for a name that does not exist, and for a factor that is not positive.
    """

    method: str = "tent"
    factor: float = 1.0
    stream: str = "continual"
    statistics: str = "batch"
    guard: str = ""
    choose: bool = True
    per_shift: int = 300
    batch: int = 50
    model: str = own.MODEL
    seed: int = 0
    images: str = own.IMAGES
    shifts: tuple = STANDARD_SIX
    clean: str = "none"    # the shift that stands for clean images

    def __post_init__(self):
        for name, known in (("method", METHODS), ("stream", STREAMS), ("statistics", STATISTICS), ("guard", GUARDS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, not {getattr(self, name)!r}")
        if not self.factor > 0:
            raise ValueError(f"factor multiplies the rate and must be positive, not {self.factor}")

    @property
    def rate(self) -> float:
        """The learning rate: ``factor`` times the method's default, at most what its knob allows."""
        knob = _rate_knob(self.method)
        return min(knob.value * self.factor, knob.high)

    @property
    def plain(self):
        """The recipe without witness and guard."""
        recipe = make(self.method, **{_rate_knob(self.method).name: self.rate})
        return replace(recipe, norm=SourceStatistics()) if self.statistics == "source" else recipe

    @property
    def recipe(self):
        """The recipe with a `Witness` and, where one is asked for, a `Guard`."""
        recipe = self.plain
        guards = (Guard(action=self.guard, choose=self.choose),) if self.guard else ()
        return replace(recipe, controllers=(*recipe.controllers, Witness(), *guards))

    @property
    def place(self) -> tuple:
        """What the references depend on."""
        return self.model, self.stream, self.per_shift, self.batch, self.seed, self.images, self.shifts, self.clean

    @property
    def embedded(self) -> bool:
        """Whether model and images come with the package."""
        return self.model in checkpoints() and self.images == own.IMAGES

    def arrivals(self) -> Stream:
        """The stream."""
        _, protocol, more = STREAMS[self.stream]
        usual = {"shifts": self.shifts, "per_shift": self.per_shift, "batch": self.batch, "seed": self.seed}
        one = {"noise": self.shifts[0], "clean": self.clean}.get(more.get("shifts"))
        alone = {} if one is None else {"shifts": (one,), "per_shift": len(self.shifts) * self.per_shift}
        return protocol(self.images, **usual | more | alone)

    @property
    def shown(self) -> str:
        """The stream in words."""
        words = STREAMS[self.stream][0]
        return words if self.clean == "none" else words.replace("clean", f"under {self.clean.replace('_', ' ')}")

    def describe(self) -> str:
        """The run in words."""
        norm = f", batch-norm statistics {STATISTICS[self.statistics]}" if self.statistics != "batch" else ""
        guard = f", guard: {GUARDS[self.guard]}{', may answer' if self.choose else ''}" if self.guard else ", no guard"
        return f"{self.method} at {self.factor:g} times its rate ({self.rate:.3g}) on {self.shown}{norm}{guard}"

    def to_code(self) -> str:
        """Lines that make the run without the panel."""
        changed = [f"{name}={getattr(self, name)!r}" for name in self.__dataclass_fields__ if getattr(self, name) != getattr(Setting(), name)]
        return ("from tta_lab.studies.collapse.study import Bench, Setting\nfrom tta_lab.experiments.runner import row\n\n"
                f"trace = Bench().run(Setting({', '.join(changed)}))\nrow(trace)[\"error\"]")


def setting_of(method: str = "tent", model: str = "", images: str = "", trust: bool = False, *, per_shift: int = 300,
               **more) -> tuple[Setting, tuple[str, ...]]:
    """The first setting of a study on a model and images (texts; "": the embedded ones), and sentences on what was decided for them.

    Raises ValueError or DataError as `own.pair_of` does.
    """
    if not images and model in ("", *checkpoints()):
        return Setting(method, per_shift=per_shift, model=model or own.MODEL, **more), ()
    pair = own.pair_of(model, images, trust)
    shifts, left_out = own.shifts_of(pair.data, STANDARD_SIX)
    per_shift, fewer = own.per_shift_of(pair.data, shifts, per_shift, share=len(shifts))
    clean = "none" if own.has_clean(pair.data) else shifts[0]
    instead = [f"These images hold no clean ones; those under {clean.replace('_', ' ')} are shown where clean ones are wanted."]
    setting = Setting(method, per_shift=per_shift, model=pair.model, images=pair.images, shifts=shifts, clean=clean, **more)
    return setting, (*pair.notes, *left_out, *fewer, *(instead if clean != "none" else []))


def _rate_knob(method: str):
    return next(k for k in knobs(make(method)) if k.name == "update.lr" or k.name.endswith(".update.lr"))


class Bench:
    """Makes runs and keeps those that came to their end: ``run(setting)``, ``beside(setting)``."""

    def __init__(self, device: str = "cpu"):
        self.device, self._streams, self._runs, self._adapters = device, {}, {}, {}

    def _stream(self, setting: Setting):
        from ..zoo.study import Kept

        if setting.place[1:] not in self._streams:
            self._streams[setting.place[1:]] = Kept(setting.arrivals()), {}
        return self._streams[setting.place[1:]]

    def n_images(self, setting: Setting) -> int:
        """Images of the stream."""
        return self._stream(setting)[0].n_images

    def classes(self, setting: Setting) -> tuple:
        """Names of the classes."""
        return tuple(self._stream(setting)[0].classes)

    def adapter(self, setting: Setting, recipe=None):
        """A new adapter for a setting, or for another recipe on its model and stream; it records the frozen source too."""
        from ... import Adapter

        adapter = Adapter(own.network(setting.model), setting.recipe if recipe is None else recipe, seed=setting.seed, device=self.device,
                          record="source")
        adapter.shared_source = self._stream(setting)[1].setdefault((setting.model, self.device), {})
        return adapter

    def run(self, setting: Setting, stop=None, each=None) -> Trace:
        """The run of a setting. ``trace.meta["evidence"]`` is what the detector said at its first alarm (``first``, "": none) and last (``now``)."""
        return self._made(setting, setting, setting.recipe, stop, each)

    def beside(self, setting: Setting, stop=None, each=None) -> dict[str, Trace]:
        """Source and BN-1 on the same stream; fewer where ``stop`` said so."""
        found = {}
        for name, recipe in {"source": make("source"), "BN-1": own.batch_statistics(setting.model)}.items():
            trace = self._made((setting.place, name), setting, recipe, stop, each)
            if not trace.meta["complete"]:
                break
            found[name] = trace
        return found

    def _made(self, key, setting, recipe, stop, each) -> Trace:
        from ...experiments.runner import run

        if key in self._runs:
            return self._runs[key]
        adapter = self.adapter(setting, recipe)

        def with_evidence(trace):
            trace.meta["evidence"] = evidence_of(adapter)
            if each is not None:
                each(trace)

        trace = run(adapter, self._stream(setting)[0], stop=stop, each=with_evidence)
        if trace.meta["complete"]:
            self._runs[key], self._adapters[key] = trace, adapter
        return trace

    def known(self, setting: Setting) -> bool:
        """Whether this run has been made."""
        return setting in self._runs

    def after(self, setting: Setting):
        """The adapter that has gone through the whole stream of a setting."""
        self.run(setting)
        return self._adapters[setting]


def evidence_of(adapter) -> dict[str, str]:
    """What the witness of an adapter remembers: ``first`` alarm and ``now``; after an action of a guard, now is what the guard's detector says."""
    pairs = list(zip(adapter.recipe.controllers, adapter.states["controllers"], strict=True)) if hasattr(adapter.recipe, "controllers") else []
    found = {"first": "", "now": ""}
    for controller, state in pairs:
        if isinstance(controller, Witness):
            found = {"first": state["first"], "now": state["now"]}
        elif isinstance(controller, Guard):
            found["now"] = controller.detector.evidence(state["detector"])
    return found


# --- one run in numbers

def recent_error(trace: Trace, recent: int = RECENT) -> np.ndarray:
    """Error in per cent of the last ``recent`` scored images (known, with a label), after each step; NaN before the first.  (T,)"""
    columns, steps = trace.columns(), np.asarray(trace.step("step"))
    scored = columns["known"].astype(bool) & (columns["label"] >= 0)
    total = np.append(0, np.cumsum(~columns["correct"][scored].astype(bool)))
    ends = np.searchsorted(columns["step"][scored], steps, side="right")
    first = np.maximum(ends - recent, 0)
    return np.where(ends > first, 100 * (total[ends] - total[first]) / np.maximum(ends - first, 1), np.nan)


def effective_classes(classes, step, steps, recent: int) -> np.ndarray:
    """exp(H) of the shares of the classes among the last ``recent`` images after each step, without negative classes.  (N,), (N,), (T,) -> (T,)"""
    classes, step = np.asarray(classes, np.int64), np.asarray(step)
    ends, found = np.searchsorted(step, steps, side="right"), []
    for end in ends:
        seen = classes[max(end - recent, 0):end]
        seen = seen[seen >= 0]
        p = np.bincount(seen)[np.bincount(seen) > 0] / max(len(seen), 1) if len(seen) else np.zeros(0)
        found.append(math.exp(-(p * np.log(p)).sum()) if len(p) else math.nan)
    return np.array(found, np.float64)


def numbers_of(trace: Trace, beside: dict[str, Trace] | None = None, classes=(), recent: int = RECENT, bins: int = 25) -> dict:
    """What the figures of a run need, from its trace and those of ``beside`` on the same stream.

    ``step``, ``error`` (%), ``probability`` (of collapse; NaN for a run that nobody watched), ``alarm`` (index into ALARMS), ``entropy`` and
    ``predicted`` and ``true`` (mean entropy of the last images and effective numbers of classes, as shares of ln K and K), each (T,);
    ``errors`` {name: (T,)} of the others as far as this run has come; ``threshold``; ``actions``; ``shares`` of the classes among the last
    ``recent`` images, predicted and true (K,); ``edges`` and ``early`` and ``late``, histograms of the entropy of the first and last images;
    ``whole``, error of all images (%) by name; ``cannot_judge``: why the detector cannot judge the run ("": it can).
    """
    steps, samples = trace.columns("steps"), trace.columns()
    step, k = np.asarray(steps["step"], np.int64), max(int(trace.meta.get("classes", 2)), 2)
    nothing = np.full(len(step), np.nan)
    entropy, prediction, n = np.asarray(samples["entropy"], np.float64), np.asarray(samples["prediction"], np.int64), len(trace)
    label = np.where(samples["known"].astype(bool), samples["label"], -1).astype(np.int64)
    ends = np.searchsorted(samples["step"], step, side="right")
    total = np.append(0, np.cumsum(np.nan_to_num(entropy)))
    starts = np.maximum(ends - recent, 0)
    edges = np.linspace(0, math.log(k), bins + 1)
    last, scored = slice(max(n - recent, 0), n), label >= 0

    def histogram(values):
        good = np.clip(values[np.isfinite(values)], 0, math.log(k))
        return np.histogram(good, edges)[0] / max(len(good), 1)

    def share(values):
        return np.bincount(values[values >= 0], minlength=k)[:k] / max(int((values >= 0).sum()), 1)

    others = {name: recent_error(other, recent)[:len(step)] for name, other in (beside or {}).items() if len(other)}
    whole = {name: _error(other, n) for name, other in {"": trace, **(beside or {})}.items() if len(other)}
    return {"step": step, "error": recent_error(trace, recent), "errors": others, "whole": whole, "recent": recent, "n": n, "k": k,
            "probability": np.asarray(steps.get("alarm_probability", nothing), np.float64),
            "alarm": np.nan_to_num(steps.get("alarm", nothing)).astype(np.int64), "threshold": float(fitted("light")["threshold"]),
            "actions": actions(trace), "entropy": (total[ends] - total[starts]) / np.maximum(ends - starts, 1) / math.log(k),
            "predicted": effective_classes(prediction, samples["step"], step, recent) / k,
            "true": effective_classes(label, samples["step"], step, recent) / k,
            "classes": [str(c) for c in (classes or range(k))], "shares": {"predicted": share(prediction[last]), "true": share(label[last])},
            "edges": edges, "early": histogram(entropy[:min(recent, n)]), "late": histogram(entropy[last]),
            "scored": bool(scored.any()), "answered": _answered(steps), "evidence": trace.meta.get("evidence", {"first": "", "now": ""}),
            "cannot_judge": cannot_judge(trace)}


def _error(trace: Trace, n: int) -> float:
    """Error (%) of the scored ones among the first n images."""
    columns = {name: np.asarray(trace[name])[:n] for name in ("known", "label", "correct")}
    scored = columns["known"].astype(bool) & (columns["label"] >= 0)
    return float(100 * (1 - columns["correct"][scored].astype(bool).mean())) if scored.any() else math.nan


def _answered(steps) -> dict:
    """Share of the batches that each of ANSWERS answered; empty without a guard."""
    if "answered_by" not in steps or not np.isfinite(np.asarray(steps["answered_by"], np.float64)).any():
        return {}
    by = np.nan_to_num(steps["answered_by"]).astype(int)
    return {name: float((by == i).mean()) for i, name in enumerate(ANSWERS)}


LIGHTS = {"none": ("○", "not watched", "#555555"), "unsure": ("?", "cannot judge", "#555555"), "calm": ("●", "calm", "#0072B2"),
          "doubtful": ("▲", "doubtful", "#B35900"), "alarm": ("■", "ALARM", "#C00000")}


def light(numbers: dict) -> tuple[str, str]:
    """A name of LIGHTS and what it means, for the last step: alarm; doubtful (probability above 50 %, or an alarm earlier); unsure (no alarm, and the
    detector cannot judge); calm; none. With labels the error of the last images stands beside that of the references."""
    if not len(numbers["step"]) or not np.isfinite(numbers["probability"][-1]):
        return "none", "nobody watches this run"
    p, alarm = float(numbers["probability"][-1]), int(numbers["alarm"][-1])
    chance = f"probability of collapse {100 * p:.0f} %, alarm above {100 * numbers['threshold']:.0f} %"
    earlier = np.flatnonzero(numbers["alarm"] > 0)
    state, said = "calm", f"no alarm; {chance}"
    if alarm:
        state, said = "alarm", f"{SAID[ALARMS[alarm]]}; {chance}"
    elif len(earlier):
        state, said = "doubtful", f"first alarm in step {numbers['step'][earlier[0]]}, none now; {chance}"
    elif numbers.get("cannot_judge"):
        state, said = "unsure", numbers["cannot_judge"]
    elif p > 0.5:
        state, said = "doubtful", f"no alarm yet; {chance}"
    errors = {"this run": numbers["error"][-1], **{name: e[-1] for name, e in numbers["errors"].items() if len(e)}}
    beside = say_beside({name: float(e) for name, e in errors.items()}, f"error of the last {numbers['recent']}").rstrip(".")
    return state, said + (f"; {beside[0].lower()}{beside[1:]}" if beside else "")


def say_run(numbers: dict, name: str = "This run") -> str:
    """A run in a sentence."""
    whole, alarms = numbers["whole"], np.flatnonzero(numbers["alarm"] > 0)
    others = ", ".join(f"{other} {value:.1f} %" for other, value in whole.items() if other)
    text = f"{name}: error {whole['']:.1f} %" + (f" ({others})" if others else "") + f", {numbers['error'][-1]:.1f} % at the end"
    text += (f"; first alarm in step {numbers['step'][alarms[0]]} of {len(numbers['step'])} ({SAID[ALARMS[numbers['alarm'][alarms[0]]]]})"
             if len(alarms) else "; no alarm")
    if not len(alarms) and numbers.get("cannot_judge"):
        text += f", but the detector cannot judge: {numbers['cannot_judge']}"
    if numbers["actions"]:
        listed = ", ".join(f"{what} in step {step}" for step, what in numbers["actions"][:4])
        text += f"; the guard acted {_times(len(numbers['actions']))}: {listed}{', ...' if len(numbers['actions']) > 4 else ''}"
    if numbers["answered"]:
        text += "; batches answered by " + ", ".join(f"{who} {100 * share:.0f} %" for who, share in numbers["answered"].items())
    return text + "."


def _times(n: int) -> str:
    return {1: "once", 2: "twice"}.get(n, f"{n} times")


# --- why: gradients, entropies, the crowd

def probe_batch(setting: Setting, n: int = 60):
    """``n`` images of the first shift, drawn with another seed than the run: the batch that gradients are compared on."""
    n = min(n, own.per_shift_of(own.images_of(setting.images), setting.shifts[:1], n)[0])
    return next(iter(Stream(setting.images, setting.shifts[:1], per_shift=n, batch=n, seed=setting.seed + 1).batches("cpu")))


def look_inside(bench: Bench, setting: Setting, n: int = 60) -> dict:
    """Gradients of single images before a run and after it, on one batch: ``before`` and ``after``, each `probes.gradient_crowd`'s numbers."""
    from ...analysis.probes import gradient_crowd

    batch = probe_batch(setting, n)
    adapters = {"before": bench.adapter(replace(setting, guard="")), "after": bench.after(replace(setting, guard=""))}
    return {when: gradient_crowd(adapter, batch.x.to(adapter.device), batch.label, batch.known, batch.ids) for when, adapter in adapters.items()}


def inside(found: dict) -> dict:
    """Numbers of `look_inside`, for each time: ``error`` (%), median ``entropy`` (nats) and gradient ``norm``, rank ``correlation`` of the two,
    median cosine with the gradients of the other images of right and wrong ones (``others_right``, ``others_wrong``), ``coherence``,
    ``wrong_sure`` and ``wrong_unsure``, share of wrong answers in the half of low and of high entropy."""
    numbers = {}
    for when, f in found.items():
        right, wrong = (f["groups"].get(g, np.zeros(len(f["loss"]), bool)) for g in ("correct", "wrong"))
        unsure = f["loss"] > np.median(f["loss"])
        numbers[when] = {"error": 100 * float(wrong.sum() / max((right | wrong).sum(), 1)), "entropy": float(np.median(f["loss"])),
                         "norm": float(np.median(f["norm"])), "correlation": ranks_agree(f["loss"], f["norm"]),
                         "wrong_sure": _share(wrong, ~unsure & (right | wrong)), "wrong_unsure": _share(wrong, unsure & (right | wrong)),
                         "others_right": _middle(f["others"][right]), "others_wrong": _middle(f["others"][wrong]), "coherence": float(f["coherence"])}
    return numbers


def _share(flags, among) -> float:
    return float(flags[among].mean()) if among.any() else math.nan


def _middle(values) -> float:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else math.nan


def ranks_agree(a, b) -> float:
    """Spearman's rank correlation; NaN where one does not vary."""
    a, b = (np.argsort(np.argsort(v, kind="stable"), kind="stable").astype(np.float64) for v in (np.asarray(a), np.asarray(b)))
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > 2 else math.nan


def say_inside(found: dict) -> list[str]:
    """`inside` in sentences."""
    n = inside(found)
    lines = [f"{when.capitalize()} the run: error {v['error']:.0f} % on these {len(found[when]['loss'])} images; median entropy {v['entropy']:.2g} "
             f"nats, median gradient {v['norm']:.2g}; rank correlation of the two {_signed(v['correlation'])}; cosine of an image's gradient with "
             f"that of the others: {_signed(v['others_right'])} where the answer is right, {_signed(v['others_wrong'])} where it is wrong (medians)."
             for when, v in n.items()]
    a, b = n["before"], n["after"]
    if a["correlation"] > 0.3:
        lines.append(f"Before the run unsure images pull hardest, as SAR observed; of the surer half {_percent(a['wrong_sure'])} are wrong, of the "
                     f"other half {_percent(a['wrong_unsure'])}.")
    if b["error"] > a["error"] + 10 and b["entropy"] < a["entropy"]:
        lines.append(f"Afterwards the model is wrong more often and yet surer: of the surer half {_percent(b['wrong_sure'])} are wrong, of the other "
                     f"half {_percent(b['wrong_unsure'])}. A rule that learns only from sure images would learn these.")
    return lines


def _signed(value: float) -> str:
    return signed(value, 2) if np.isfinite(value) else "not defined"


def falling(trace: Trace, windows: int = 12) -> dict:
    """Who falls (d < 0, d: adapted minus source probability at the source's class) in successive stretches: ``step``, ``correct`` and ``wrong``,
    share of the right and of the wrong answers that fell, ``wrong_fallen`` and ``wrong_risen``, share of wrong answers among those, (W,) each."""
    stretch, first, last = stretches(trace, windows)
    d, masks, size = np.asarray(trace["rise_source"], np.float64), split(trace), len(first)
    nobody = np.zeros(len(d), bool)
    right, wrong, fell = masks.get("correct", nobody), masks.get("wrong", nobody), d < 0

    def ratio(part, whole):
        n = np.bincount(stretch[whole], minlength=size)
        return np.divide(np.bincount(stretch[part & whole], minlength=size), n, out=np.full(size, math.nan), where=n > 0)

    known = right | wrong
    return {"step": (first + last) / 2, "correct": ratio(fell, right), "wrong": ratio(fell, wrong), "wrong_fallen": ratio(wrong, fell & known),
            "wrong_risen": ratio(wrong, ~fell & known)}


def say_falling(numbers: dict, name: str) -> str:
    """`falling` in a sentence."""
    first, last = ({k: _percent(numbers[k][at]) for k in ("correct", "wrong", "wrong_risen")} for at in (0, -1))
    return (f"{name}: of the wrong answers {first['wrong']} have fallen in the first stretch and {last['wrong']} in the last, of the right ones "
            f"{first['correct']} and {last['correct']}; among the images that rose, {first['wrong_risen']} and then {last['wrong_risen']} are wrong.")


def _percent(value) -> str:
    return f"{100 * value:.0f} %" if np.isfinite(value) else "none"


# --- with labels

def with_truth(trace: Trace, beside: dict[str, Trace]) -> dict:
    """`collapse.watch` of a trace with the definition by labels against source and BN-1 beside it (``truth``), for `plots.plot_collapse`."""
    return {**watch(trace), "truth": collapse(trace, beside["source"], beside.get("BN-1"))}


def say_truth(watched: dict) -> str:
    """Whether, by labels, the run collapsed, and how the first alarm lies to that."""
    truth, first = watched["truth"], watched["first_alarm"]
    if truth["established"] < 0:
        outcome = {"from_start": "it was bad from the start, by no learning", "recovered": "it was harmed and recovered"}.get(
            truth["outcome"], f"it is {truth['outcome']}")
        return f"By labels this run did not collapse: {outcome}. " + (f"The first alarm is in step {first}." if first >= 0 else "There is no alarm.")
    lead = truth["established"] - first
    when = "there is no alarm" if first < 0 else (f"the first alarm is in step {first}, " + (
        "in the same batch" if lead == 0 else f"{abs(lead)} batch{'es' if abs(lead) > 1 else ''} {'before' if lead > 0 else 'after'} that"))
    return f"By labels the harm sets in at step {truth['onset']} and collapse is established in step {truth['established']}; {when}."


# --- few classes: a shift of the labels, and collapse

def batch_classes(trace: Trace) -> dict:
    """Effective number of classes of every batch, predicted and true, and ``marginal``, exp of the entropy of its mean prediction: (T,) each."""
    samples, step = trace.columns(), np.asarray(trace.step("step"), np.int64)
    size = int(np.bincount(samples["step"].astype(np.int64)).max())

    def count(classes):    # each batch by itself
        return np.array([effective_classes(classes[samples["step"] == t], np.zeros(int((samples["step"] == t).sum())), [0], size)[0] for t in step])

    return {"step": step, "predicted": count(np.asarray(samples["prediction"])), "true": count(np.asarray(samples["label"])),
            "marginal": np.exp(np.asarray(trace.step("marginal_entropy"), np.float64)), "classes": int(trace.meta["classes"])}


def say_few_classes(shift: Trace, collapsed: Trace, part: float = 0.5) -> str:
    """What both runs have in common, and what tells them apart, over the last ``part`` of each."""
    lines, facts = [], []
    for name, trace in (("Shift of the labels", shift), ("Collapse", collapsed)):
        b, late = batch_classes(trace), slice(int(len(trace.step("step")) * (1 - part)), None)
        alarms = int((np.nan_to_num(trace.step("alarm")) > 0).sum())
        facts.append((float(np.median(b["marginal"][late])), alarms))
        said = f"alarm in {alarms} of {len(b['step'])} steps" if alarms else "no alarm"
        lines.append(f"{name}: a batch holds {np.median(b['true'][late]):.1f} true classes and {np.median(b['predicted'][late]):.1f} predicted ones, "
                     f"exp of the entropy of its mean prediction {facts[-1][0]:.1f} (medians over the last {100 * part:.0f} %); error "
                     f"{row(trace)['error']:.1f} %; {said}.")
    (a, quiet), (b, loud) = facts
    lines.append(f"An alarm on the marginal entropy of batches {'cannot' if a <= b else 'could'} tell the two apart here"
                 + (": where it finds the collapse it also calls the shift of the labels one" if a <= b else "") + "; the detector "
                 + ("tells the two apart: it looks at more than one batch, and at what the weights do." if loud and not quiet else
                    "does not tell them apart here."))
    return "\n".join(lines)


# --- rates, guards

def sweep(bench: Bench, setting: Setting, factors=FACTORS, guards=("", "smaller step"), seeds=(0,)) -> dict:
    """Error at several rates with and without a guard: ``factor`` (F,), ``error`` {guard: (F, S)}, ``last`` the same of the last images, ``alarmed``
    {guard: (F, S) bool}, ``actions`` {guard: (F, S)}, and ``beside`` {name: (S,)}."""
    found = {what: {g: np.full((len(factors), len(seeds)), np.nan) for g in guards} for what in ("error", "last", "alarmed", "actions", "cost")}
    for j, seed in enumerate(seeds):
        for i, factor in enumerate(factors):
            for g in guards:
                trace = bench.run(replace(setting, factor=factor, guard=g, seed=seed))
                values = (row(trace)["error"], recent_error(trace)[-1], (np.nan_to_num(trace.step("alarm")) > 0).any(), len(actions(trace)),
                          row(trace)["forwards"])
                for what, value in zip(found, values, strict=True):
                    found[what][g][i, j] = value
    beside = [bench.beside(replace(setting, seed=seed)) for seed in seeds]
    return {"factor": list(map(float, factors)), **found, "beside": {name: np.array([row(b[name])["error"] for b in beside]) for name in BESIDE}}


def say_sweep(numbers: dict) -> list[str]:
    """`sweep` in sentences: what the guard saves, what it costs."""
    mean = {what: {g: v.mean(1) for g, v in numbers[what].items()} for what in ("error", "last", "cost", "actions")}
    bare, others = mean["error"][""], [g for g in numbers["error"] if g]
    best = int(bare.argmin())
    better = min(float(v.mean()) for v in numbers["beside"].values())
    lines = [f"Without a guard: the least error is {bare[best]:.1f} % at {numbers['factor'][best]:g} times the rate; at {numbers['factor'][-1]:g} "
             f"times it is {bare[-1]:.1f} %. The better of source and BN-1 has {better:.1f} %."]
    for g in others:
        gain = bare - mean["error"][g]
        most, least = int(gain.argmax()), int(gain.argmin())
        saves = "it saves nothing at any rate" if gain[most] < 0 or nothing(gain[most]) else \
            f"it saves most at {numbers['factor'][most]:g} times the rate, {gain[most]:.1f} points"
        lines.append(f"Guard ({GUARDS[g]}): {saves}; " +
                     ("it costs nothing in error anywhere here. " if gain[least] > 0 or nothing(gain[least]) else
                      f"it costs most at {numbers['factor'][least]:g} times, {-gain[least]:.1f} points. ") +
                     f"The worst error with it is {mean['error'][g].max():.1f} %, without it {bare.max():.1f} %. It asks for "
                     f"{mean['cost'][g].mean():.1f} forwards an image instead of {mean['cost'][''].mean():.1f}.")
    return lines


# --- how good the detector is

def evaluation_of(results: str | Path) -> dict:
    """The files that ``benchmarks/collapse.py evaluate`` writes, as one value: curves, points in use, lead times, outcomes, and the ``table``."""
    results = Path(results)
    found = json.loads((results / "collapse_curves.json").read_text(encoding="utf-8"))
    with open(results / "collapse_detector.csv", newline="", encoding="utf-8") as f:
        rows = [{k: _value(v) for k, v in line.items()} for line in csv.DictReader(f)]
    return {**found, "table": [r for r in rows if r["part"] == "held_out"]}


def _value(text: str):
    try:
        number = float(text)
    except (TypeError, ValueError):
        return text or None
    return number if math.isfinite(number) else None


def save_evaluation(results: str | Path, path: str | Path | None = None) -> Path:
    """Write `evaluation_of` into the data folder, where the notebook finds it."""
    path = data_root() / EVALUATION if path is None else Path(path)
    return write_text(path, json.dumps(evaluation_of(results), allow_nan=False) + "\n")


def load_evaluation(path: str | Path | None = None) -> dict:
    """The evaluation of the detector that comes with the package. Raises DataError when it is missing or damaged."""
    path = data_root() / EVALUATION if path is None else Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {name: found[name] for name in ("curves", "chosen", "leads", "outcomes", "table")} | {"exchanged": found.get("exchanged", {})}
    except (OSError, ValueError, KeyError) as why:
        raise DataError(f"the evaluation of the collapse detector cannot be read ({type(why).__name__}: {why}); restore it with: git checkout -- "
                        f"data/{EVALUATION}, or make it with benchmarks/collapse.py evaluate and collapse_study.save_evaluation") from why


def evaluation_for(setting: Setting, path: str = "") -> dict | None:
    """The evaluation in a file; "": that of the package, which speaks of embedded models and images, so None for others."""
    return load_evaluation(path or None) if path or setting.embedded else None


def rows_of(evaluation: dict, group: str = "all") -> list[dict]:
    """The lines of the table on one group of runs, one for each detector, best recall in time first."""
    rows = [r for r in evaluation["table"] if r["group"] == group]
    return sorted(rows, key=lambda r: -(r["recall_in_time"] or 0))


def table_of(evaluation: dict, group: str = "all") -> str:
    """The table as Markdown: what each detector finds among the held-out runs, with 95 % intervals from drawing streams again."""
    lines = ["| detector | collapses found | found in time | false alarms in 1000 healthy batches | healthy runs with one | median lead (batches) |",
             "|---|---|---|---|---|---|"]
    for r in rows_of(evaluation, group):
        cells = (r["detector"], _interval(r, "recall", 100), _interval(r, "recall_in_time", 100), _interval(r, "false_alarms", 1, 2),
                 _number(r["healthy_runs_alarmed"], 100), _interval(r, "lead_median", 1))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value, scale: float = 1, digits: int = 0) -> str:
    return "-" if value is None else f"{scale * value:.{digits}f}" + (" %" if scale == 100 else "")


def _interval(r: dict, name: str, scale: float, digits: int = 0) -> str:
    low, high = r.get(f"{name}_low_streams"), r.get(f"{name}_high_streams")
    between = f" ({_number(low, scale, digits).replace(' %', '')} to {_number(high, scale, digits)})" if low is not None and high is not None else ""
    return _number(r[name], scale, digits) + between


def say_evaluation(evaluation: dict) -> list[str]:
    """The evaluation in sentences, with what the detector does not do."""
    rows = {r["detector"]: r for r in rows_of(evaluation)}
    ours = rows["detector"]
    counts = evaluation["outcomes"]["held_out"]
    lead = f" Where it finds a collapse, half the alarms come {_batches(ours['lead_median'])}." if ours["lead_median"] is not None else ""
    lines = [f"{sum(counts.values())} runs on models (one of them with other images) that the detector never saw: {counts['collapse']} collapse, "
             f"{counts['healthy']} stay healthy; the others were bad from the start, recovered, or are not clear, and count in neither.",
             f"The detector finds {_number(ours['recall'], 100)} of the collapses, {_number(ours['recall_in_time'], 100)} no later than labels would "
             f"show them, with {ours['false_alarms']:.2f} false alarms per 1000 healthy batches; {_number(ours['healthy_runs_alarmed'], 100)} of the "
             f"healthy runs have one.{lead}"]
    rules = [r for name, r in rows.items() if not name.startswith("detector")]
    if rules:
        best = max(rules, key=lambda r: r["recall_in_time"] or 0)
        gap = 100 * (ours["recall_in_time"] - best["recall_in_time"])
        lines.append(f"The best simple rule by the same count is: {best['detector']}, {_number(best['recall_in_time'], 100)} in time with "
                     f"{best['false_alarms']:.2f} false alarms; the detector is "
                     + ("level with it" if nothing(gap, 0) else f"{abs(gap):.0f} points {'ahead of' if gap > 0 else 'behind'} it")
                     + (", but the intervals overlap" if _overlap(ours, best, "recall_in_time") else "")
                     + f", and {points(100 * (ours['recall'] - best['recall']), 0)} in all collapses found.")
    source = next((r for name, r in rows.items() if name.startswith("detector ")), None)
    if source:
        lines.append(f"With a second forward pass, of the frozen source, it is {_number(source['recall_in_time'], 100)} in time and "
                     f"{source['false_alarms']:.2f} false alarms.")
    groups = {r["group"]: r for r in evaluation["table"] if r["detector"] == "detector"}
    models = {n: r for n, r in groups.items() if n != "all" and r["collapsing_runs"] and not n.startswith(("ends", "collapse", "streams", "other"))}
    if models:
        low, high = (f(models, key=lambda n: models[n]["recall_in_time"] or 0) for f in (min, max))
        loud = max(models, key=lambda n: models[n]["false_alarms"] or 0)
        lines.append(f"It depends on the model: {_number(models[low]['recall_in_time'], 100)} in time on {low}, "
                     f"{_number(models[high]['recall_in_time'], 100)} on {high}; most false alarms on {loud}, {models[loud]['false_alarms']:.1f} per "
                     "1000 batches.")
    mild = groups.get("ends 2 to 5 points worse")
    if mild and mild["collapsing_runs"]:
        lines.append(f"Mild collapses, which end 2 to 5 points worse than the better reference, are found in {_number(mild['recall'], 100)} of "
                     f"{mild['collapsing_runs']:.0f} runs.")
    missed = 1 - (ours["recall_in_time"] or 0)
    lines.append(f"So no alarm is no proof of health: {_number(missed, 100)} of the collapses were there before the alarm, or never had one.")
    return lines


def _overlap(a: dict, b: dict, name: str) -> bool:
    low, high = (f"{name}_{end}_streams" for end in ("low", "high"))
    return None not in (a[low], b[low], a[high], b[high]) and a[low] <= b[high] and b[low] <= a[high]


def _batches(lead: float) -> str:
    return (f"{lead:.0f} batches or more before labels would show it" if lead > 0 else "no earlier than labels would show it" if lead == 0 else
            f"{-lead:.0f} batches or more after labels would show it")


def save(path, **numbers) -> None:
    """Write numbers as JSON (no number: null), with the date and the versions they were made with."""
    write_numbers(path, numbers)
