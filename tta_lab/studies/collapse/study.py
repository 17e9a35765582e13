"""What the fourth notebook computes: runs that are watched by the collapse detector, with and
without a guard, and sentences about them.

A `Setting` is one run as a value; a `Bench` makes runs and keeps them, so that none is made twice.
Whatever is drawn or said is a function of traces. ``load_evaluation`` reads how good the detector
is on models and images that it was not fitted on.
"""
from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ...analysis.collapse import collapse, detect
from ...analysis.timelines import split, stretches
from ...components.controllers.collapse_detector import CollapseDetector, cannot_judge, fitted
from ...components.controllers.guard import ANSWERS, Guard, actions
from ...components.norms.batch_norm import SourceStatistics
from ...core.knobs import knobs
from ...core.parts import Controller
from ...core.trace import Trace
from ...data.corruptions import STANDARD_SIX
from ...experiments.runner import row, run
from ...methods import make
from ...models.embedded import checkpoints
from ...streams import protocols
from ...streams.cached import CachedStream
from ...streams.stream import Stream
from .. import base, own
from ..report import write_named

# they learn, and need nothing of the source domain
METHODS = ("tent", "eta", "sar", "rpl", "pseudo_label", "slr", "shot_im", "wisdom_of_crowds")
BESIDE = ("source", "BN-1")
FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
STATISTICS = {"batch": "of the batch", "source": "of the source"}
GUARDS = {"": "no guard", "smaller step": "roll back, then a smaller step",
          "roll back": "roll back", "reset": "reset to the source", "stop": "stop learning"}
# name -> what it is called, protocol and its settings; six shifts, or as many images of one
STREAMS = {"continual": ("one shift after another", protocols.continual, {}),
           "mixed": ("all shifts mixed", protocols.mixed_domains, {}),
           "noise": ("noise only", protocols.continual, {"shifts": "noise"}),
           "clean": ("clean images", protocols.continual, {"shifts": "clean"}),
           "correlated": ("clumps of one class", protocols.correlated, {}),
           "sorted": ("class after class in each shift", protocols.correlated, {"delta": 0}),
           "sorted_clean": ("class after class, clean", protocols.correlated,
                            {"delta": 0, "shifts": "clean"})}
RECENT = 300         # images over which errors and classes are counted


# --- runs

@dataclass(frozen=True)
class Witness(Controller):
    """Lets a `CollapseDetector` look at every step and remembers in words what it saw; it does
    nothing else.

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
    """One run: a method at ``factor`` times its default rate on a stream, with a guard (a name of
    GUARDS) or none.

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
        for name, known in (("method", METHODS), ("stream", STREAMS), ("statistics", STATISTICS),
                            ("guard", GUARDS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, not "
                                 f"{getattr(self, name)!r}")
        if not self.factor > 0:
            raise ValueError(f"factor multiplies the rate and must be positive, not {self.factor}")

    @property
    def rate(self) -> float:
        """The learning rate: ``factor`` times the method's default, at most what its knob
        allows."""
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
        return (self.model, self.stream, self.per_shift, self.batch, self.seed, self.images,
                self.shifts, self.clean)

    @property
    def embedded(self) -> bool:
        """Whether model and images come with the package."""
        return self.model in checkpoints() and self.images == own.IMAGES

    def arrivals(self) -> Stream:
        """The stream."""
        _, protocol, more = STREAMS[self.stream]
        common = {"shifts": self.shifts, "per_shift": self.per_shift, "batch": self.batch,
                 "seed": self.seed}
        one = {"noise": self.shifts[0], "clean": self.clean}.get(more.get("shifts"))
        alone = {} if one is None else {"shifts": (one,),
                                        "per_shift": len(self.shifts) * self.per_shift}
        return protocol(self.images, **common | more | alone)

    @property
    def shown(self) -> str:
        """The stream in words."""
        words = STREAMS[self.stream][0]
        return words if self.clean == "none" else words.replace(
            "clean", f"under {self.clean.replace('_', ' ')}")

    def describe(self) -> str:
        """The run in words."""
        norm = (f", batch-norm statistics {STATISTICS[self.statistics]}"
                if self.statistics != "batch" else "")
        guard = (f", guard: {GUARDS[self.guard]}{', may answer' if self.choose else ''}"
                 if self.guard else ", no guard")
        return (f"{self.method} at {self.factor:g} times its rate ({self.rate:.3g}) on "
                f"{self.shown}{norm}{guard}")

    def to_code(self) -> str:
        """Lines that make the run without the panel."""
        changed = [f"{name}={getattr(self, name)!r}" for name in self.__dataclass_fields__
                   if getattr(self, name) != getattr(Setting(), name)]
        return ("from tta_lab.studies.collapse.study import Bench, Setting\nfrom "
                "tta_lab.experiments.runner import row\n\ntrace = "
                f"Bench().run(Setting({', '.join(changed)}))\nrow(trace)[\"error\"]")


def setting_of(method: str = "tent", model: str = "", images: str = "", trust: bool = False, *,
               per_shift: int = 300, **more) -> tuple[Setting, tuple[str, ...]]:
    """The first setting of a study on a model and images (texts; "": the embedded ones), and
    sentences on what was decided for them.

    Raises ValueError or DataError as `own.pair_of` does.
    """
    if not images and model in ("", *checkpoints()):
        return Setting(method, per_shift=per_shift, model=model or own.MODEL, **more), ()
    pair = own.pair_of(model, images, trust)
    shifts, per_shift, notes = own.allowed(pair, STANDARD_SIX, per_shift, share=len)
    clean = "none" if own.has_clean(pair.data) else shifts[0]
    if clean != "none":
        notes.append(f"These images hold no clean ones; those under {clean.replace('_', ' ')} are "
                     "shown where clean ones are wanted.")
    return Setting(method, per_shift=per_shift, model=pair.model, images=pair.images, shifts=shifts,
                   clean=clean, **more), tuple(notes)


def _rate_knob(method: str):
    return next(k for k in knobs(make(method))
                if k.name == "update.lr" or k.name.endswith(".update.lr"))


class Bench:
    """Makes runs and keeps those that came to their end: ``run(setting)``, ``beside(setting)``."""

    def __init__(self, device: str = "cpu"):
        self.device = device
        self._streams = {}
        self._runs = {}
        self._adapters = {}

    def _stream(self, setting: Setting):
        if setting.place[1:] not in self._streams:
            self._streams[setting.place[1:]] = CachedStream(setting.arrivals()), {}
        return self._streams[setting.place[1:]]

    def n_images(self, setting: Setting) -> int:
        """Images of the stream."""
        return self._stream(setting)[0].n_images

    def classes(self, setting: Setting) -> tuple:
        """Names of the classes."""
        return tuple(self._stream(setting)[0].classes)

    def adapter(self, setting: Setting, recipe=None):
        """A new adapter for a setting, or for another recipe on its model and stream; it records
        the frozen source too."""
        shared = self._stream(setting)[1].setdefault((setting.model, self.device), {})
        return base.adapter_for(own.network(setting.model),
                                setting.recipe if recipe is None else recipe, seed=setting.seed,
                                device=self.device, shared=shared)

    def run(self, setting: Setting, stop=None, each=None) -> Trace:
        """The run of a setting. ``trace.meta["evidence"]`` is what the detector said at its first
        alarm (``first``, "": none) and last (``now``)."""
        return self._made(setting, setting, setting.recipe, stop, each)

    def beside(self, setting: Setting, stop=None, each=None) -> dict[str, Trace]:
        """Source and BN-1 on the same stream; fewer where ``stop`` said so."""
        found = {}
        for name, recipe in {"source": make("source"),
                             "BN-1": own.batch_statistics(setting.model)}.items():
            trace = self._made((setting.place, name), setting, recipe, stop, each)
            if not trace.meta["complete"]:
                break
            found[name] = trace
        return found

    def _made(self, key, setting, recipe, stop, each) -> Trace:
        if key in self._runs:
            return self._runs[key]
        adapter = self.adapter(setting, recipe)

        def with_evidence(trace):
            trace.meta["evidence"] = evidence_of(adapter)
            if each is not None:
                each(trace)

        trace = run(adapter, self._stream(setting)[0], stop=stop, each=with_evidence)
        if trace.meta["complete"]:
            self._runs[key] = trace
            self._adapters[key] = adapter
        return trace

    def known(self, setting: Setting) -> bool:
        """Whether this run has been made."""
        return setting in self._runs

    def after(self, setting: Setting):
        """The adapter that has gone through the whole stream of a setting."""
        self.run(setting)
        return self._adapters[setting]


def evidence_of(adapter) -> dict[str, str]:
    """What the witness of an adapter remembers: ``first`` alarm and ``now``; after an action of a
    guard, now is what the guard's detector says."""
    pairs = list(zip(adapter.recipe.controllers, adapter.states["controllers"],
                     strict=True)) if hasattr(adapter.recipe, "controllers") else []
    found = {"first": "", "now": ""}
    for controller, state in pairs:
        if isinstance(controller, Witness):
            found = {"first": state["first"], "now": state["now"]}
        elif isinstance(controller, Guard):
            found["now"] = controller.detector.evidence(state["detector"])
    return found


# --- one run in numbers

def recent_error(trace: Trace, recent: int = RECENT) -> np.ndarray:
    """Error in per cent of the last ``recent`` scored images (known, with a label), after each
    step; NaN before the first.  (T,)"""
    columns = trace.columns()
    steps = np.asarray(trace.step("step"))
    scored = columns["known"].astype(bool) & (columns["label"] >= 0)
    total = np.append(0, np.cumsum(~columns["correct"][scored].astype(bool)))
    ends = np.searchsorted(columns["step"][scored], steps, side="right")
    first = np.maximum(ends - recent, 0)
    return np.where(ends > first, 100 * (total[ends] - total[first]) / np.maximum(ends - first, 1),
                    np.nan)


def effective_classes(classes, step, steps, recent: int) -> np.ndarray:
    """`base.effective_number` of the last ``recent`` images after each step.
    (N,), (N,), (T,) -> (T,)"""
    ends = np.searchsorted(np.asarray(step), steps, side="right")
    return np.array([base.effective_number(classes[max(end - recent, 0):end]) for end in ends])


def classes_in_use(trace: Trace, steps, recent: int) -> dict[str, np.ndarray]:
    """`effective_classes` of a run after each of these steps: ``predicted`` and ``true``, of known
    images, (T,)."""
    samples = trace.columns()
    label = np.where(samples["known"].astype(bool), samples["label"], -1)
    return {name: effective_classes(classes, samples["step"], steps, recent)
            for name, classes in (("predicted", samples["prediction"]), ("true", label))}


def numbers_of(trace: Trace, beside: dict[str, Trace] | None = None, classes=(),
               recent: int = RECENT, bins: int = 25) -> dict:
    """What the figures of a run need, from its trace and those of ``beside`` on the same stream.

    ``step``, ``error`` (%), ``probability`` (of collapse; NaN for a run that nobody watched),
    ``alarm`` (index into ALARMS), ``entropy`` and ``predicted`` and ``true`` (mean entropy of the
    last images and effective numbers of classes, as shares of ln K and K), each (T,); ``errors``
    {name: (T,)} of the others as far as this run has come; ``threshold``; ``actions``; ``shares``
    of the classes among the last ``recent`` images, predicted and true (K,); ``edges`` and
    ``early`` and ``late``, histograms of the entropy of the first and last images; ``whole``, error
    of all images (%) by name; ``cannot_judge``: why the detector cannot judge the run ("": it can).
    """
    steps = trace.columns("steps")
    samples = trace.columns()
    step = np.asarray(steps["step"], np.int64)
    k = max(int(trace.meta.get("classes", 2)), 2)
    nothing = np.full(len(step), np.nan)
    entropy = np.asarray(samples["entropy"], np.float64)
    n = len(trace)
    label = np.where(samples["known"].astype(bool), samples["label"], -1).astype(np.int64)
    ends = np.searchsorted(samples["step"], step, side="right")
    total = np.append(0, np.cumsum(np.nan_to_num(entropy)))
    starts = np.maximum(ends - recent, 0)
    edges, early = base.entropy_shares(entropy[:recent], k, bins)
    last = slice(max(n - recent, 0), n)
    others = {name: recent_error(other, recent)[:len(step)]
              for name, other in (beside or {}).items() if len(other)}
    whole = {name: _error(other, n) for name, other in {"": trace, **(beside or {})}.items()
             if len(other)}
    return {"step": step, "error": recent_error(trace, recent), "errors": others, "whole": whole,
            "recent": recent, "n": n, "k": k,
            "probability": np.asarray(steps.get("alarm_probability", nothing), np.float64),
            "alarm": np.nan_to_num(steps.get("alarm", nothing)).astype(np.int64),
            "threshold": float(fitted("light")["threshold"]), "actions": actions(trace),
            "entropy": (total[ends] - total[starts]) / np.maximum(ends - starts, 1) / math.log(k),
            **{name: used / k for name, used in classes_in_use(trace, step, recent).items()},
            "classes": [str(c) for c in (classes or range(k))],
            "shares": {"predicted": base.class_shares(samples["prediction"][last], k),
                       "true": base.class_shares(label[last], k)},
            "edges": edges, "early": early, "late": base.entropy_shares(entropy[last], k, bins)[1],
            "scored": bool((label >= 0).any()),
            "answered": _answered(steps),
            "evidence": trace.meta.get("evidence", {"first": "", "now": ""}),
            "cannot_judge": cannot_judge(trace)}


def _error(trace: Trace, n: int) -> float:
    """Error (%) of the scored ones among the first n images."""
    columns = {name: np.asarray(trace[name])[:n] for name in ("known", "label", "correct")}
    scored = columns["known"].astype(bool) & (columns["label"] >= 0)
    return (float(100 * (1 - columns["correct"][scored].astype(bool).mean())) if scored.any()
            else math.nan)


def _answered(steps) -> dict:
    """Share of the batches that each of ANSWERS answered; empty without a guard."""
    if "answered_by" not in steps or not np.isfinite(np.asarray(steps["answered_by"],
                                                                np.float64)).any():
        return {}
    by = np.nan_to_num(steps["answered_by"]).astype(int)
    return {name: float((by == i).mean()) for i, name in enumerate(ANSWERS)}


# --- why: gradients, entropies, the crowd

def probe_batch(setting: Setting, n: int = 60):
    """``n`` images of the first shift, drawn with another seed than the run: the batch that
    gradients are compared on."""
    n = min(n, own.per_shift_of(own.images_of(setting.images), setting.shifts[:1], n)[0])
    return next(iter(Stream(setting.images, setting.shifts[:1], per_shift=n, batch=n,
                            seed=setting.seed + 1).batches("cpu")))


def look_inside(bench: Bench, setting: Setting, n: int = 60) -> dict:
    """Gradients of single images before a run and after it, on one batch: ``before`` and ``after``,
    each `probes.gradient_crowd`'s numbers."""
    from ...analysis.probes import gradient_crowd

    batch = probe_batch(setting, n)
    adapters = {"before": bench.adapter(replace(setting, guard="")),
                "after": bench.after(replace(setting, guard=""))}
    return {when: gradient_crowd(adapter, batch.x.to(adapter.device), batch.label, batch.known,
                                 batch.ids) for when, adapter in adapters.items()}


def inside(found: dict) -> dict:
    """Numbers of `look_inside`, for each time: ``error`` (%), median ``entropy`` (nats) and
    gradient ``norm``, rank ``correlation`` of the two, median cosine with the gradients of the
    other images of right and wrong ones (``others_right``, ``others_wrong``), ``coherence``,
    ``wrong_sure`` and ``wrong_unsure``, share of wrong answers in the half of low and of high
    entropy."""
    numbers = {}
    for when, f in found.items():
        right, wrong = (f["groups"].get(g, np.zeros(len(f["loss"]), bool))
                        for g in ("correct", "wrong"))
        unsure = f["loss"] > np.median(f["loss"])
        numbers[when] = {
            "error": 100 * float(wrong.sum() / max((right | wrong).sum(), 1)),
            "entropy": float(np.median(f["loss"])), "norm": float(np.median(f["norm"])),
            "correlation": ranks_agree(f["loss"], f["norm"]),
            "wrong_sure": base.share_of(wrong[~unsure & (right | wrong)]),
            "wrong_unsure": base.share_of(wrong[unsure & (right | wrong)]),
            "others_right": _middle(f["others"][right]),
            "others_wrong": _middle(f["others"][wrong]), "coherence": float(f["coherence"])}
    return numbers


def _middle(values) -> float:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else math.nan


def ranks_agree(a, b) -> float:
    """Spearman's rank correlation; NaN where one does not vary."""
    a, b = (np.argsort(np.argsort(v, kind="stable"), kind="stable").astype(np.float64)
            for v in (np.asarray(a), np.asarray(b)))
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > 2 else math.nan


def falling(trace: Trace, windows: int = 12) -> dict:
    """Who falls (d < 0, d: adapted minus source probability at the source's class) in successive
    stretches: ``step``, ``correct`` and ``wrong``, share of the right and of the wrong answers that
    fell, ``wrong_fallen`` and ``wrong_risen``, share of wrong answers among those, (W,) each."""
    stretch, first, last = stretches(trace, windows)
    d = np.asarray(trace["rise_source"], np.float64)
    masks = split(trace)
    size = len(first)
    nobody = np.zeros(len(d), bool)
    right = masks.get("correct", nobody)
    wrong = masks.get("wrong", nobody)
    fell = d < 0

    def ratio(part, whole):
        n = np.bincount(stretch[whole], minlength=size)
        return np.divide(np.bincount(stretch[part & whole], minlength=size), n,
                         out=np.full(size, math.nan), where=n > 0)

    known = right | wrong
    return {"step": (first + last) / 2, "correct": ratio(fell, right), "wrong": ratio(fell, wrong),
            "wrong_fallen": ratio(wrong, fell & known), "wrong_risen": ratio(wrong, ~fell & known)}


# --- with labels

def with_truth(trace: Trace, beside: dict[str, Trace]) -> dict:
    """`collapse.detect` of a trace with the definition by labels against source and BN-1 beside it
    (``truth``), for `plots.plot_collapse`."""
    return {**detect(trace), "truth": collapse(trace, beside["source"], beside.get("BN-1"))}


# --- few classes: a shift of the labels, and collapse

def batch_classes(trace: Trace) -> dict:
    """Effective number of classes of every batch, predicted and true, and ``marginal``, exp of the
    entropy of its mean prediction: (T,) each."""
    samples = trace.columns()
    step = np.asarray(trace.step("step"), np.int64)
    def count(classes):    # each batch by itself
        return np.array([base.effective_number(classes[samples["step"] == t]) for t in step])

    return {"step": step, "predicted": count(samples["prediction"]),
            "true": count(samples["label"]),
            "marginal": np.exp(np.asarray(trace.step("marginal_entropy"), np.float64)),
            "classes": int(trace.meta["classes"])}


# --- rates, guards

def sweep(bench: Bench, setting: Setting, factors=FACTORS, guards=("", "smaller step"),
          seeds=(0,)) -> dict:
    """Error at several rates with and without a guard: ``factor`` (F,), ``error`` {guard: (F, S)},
    ``last`` the same of the last images, ``alarmed`` {guard: (F, S) bool}, ``actions`` {guard: (F,
    S)}, and ``beside`` {name: (S,)}."""
    found = {what: {g: np.full((len(factors), len(seeds)), np.nan) for g in guards}
             for what in ("error", "last", "alarmed", "actions", "cost")}
    for j, seed in enumerate(seeds):
        for i, factor in enumerate(factors):
            for g in guards:
                trace = bench.run(replace(setting, factor=factor, guard=g, seed=seed))
                numbers = row(trace)
                values = (numbers["error"], recent_error(trace)[-1],
                          (np.nan_to_num(trace.step("alarm")) > 0).any(), len(actions(trace)),
                          numbers["forwards"])
                for what, value in zip(found, values, strict=True):
                    found[what][g][i, j] = value
    beside = [bench.beside(replace(setting, seed=seed)) for seed in seeds]
    return {"factor": list(map(float, factors)), **found,
            "beside": {name: np.array([row(b[name])["error"] for b in beside]) for name in BESIDE}}


save = write_named
