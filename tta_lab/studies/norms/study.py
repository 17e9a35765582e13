"""The study of normalisation: sources with batch, group and layer norm under the wild streams of
SAR, each compared with its own start.

One plan, one function, plain numbers; notebook 07 and its panel call nothing else. Sources are
trained differently well, so an error is never compared with that of another source but with what
the same source does without learning: as it is, and with batch statistics (BN-1). Paper: Towards
Stable Test-Time Adaptation in Dynamic Wild World (SAR, 2302.12400).
"""
from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch

from ...analysis import diagnose
from ...analysis.collapse import detect
from ...components.controllers.resets import CollapseRecovery
from ...components.norms.batch_norm import BatchStatistics
from ...components.selectors.entropy_threshold import EntropyThreshold
from ...components.updates import Sam
from ...core.norm_layers import BATCH_NORM, TestTimeNorm
from ...core.trace import Trace
from ...data.corruptions import STANDARD_SIX
from ...experiments.runner import row, run, runs
from ...methods import make
from ...models.embedded import checkpoints
from ...models.names import parse
from ...streams import protocols
from ...streams.cached import CachedStream
from .. import base, own
from ..collapse.study import classes_in_use, ranks_agree
from ..streams.study import difference

SOURCES = {"fashion_resnet_bn": "BN", "fashion_resnet_bn_1": "BN", "fashion_resnet_bn_2": "BN",
           "fashion_resnet_gn": "GN", "fashion_vit_ln": "LN"}
KINDS = {"BN": "batch norm (ResNet)", "GN": "group norm (ResNet)", "LN": "layer norm (transformer)"}
SETTINGS = {"mild": "one shift at a time", "mixed": "mixed shifts", "labels": "online label shift",
            "single": "batch of one"}
METHODS = {"source": "source", "batch_norm": "BN-1", "tent": "Tent", "sar": "SAR", "deyo": "DeYO",
           "bn_ema": "BN-EMA", "iabn": "IABN", "rotta": "RoTTA"}
ONLY_BN = ("batch_norm", "bn_ema", "iabn", "rotta")
LEARN = ("tent", "sar", "deyo")
ARMS = {"tent": "Tent", "filter": "Tent + filter", "sharpness": "Tent + sharpness", "both": "both",
        "sar": "SAR: both + recovery"}
NO_BATCH_NORM = ("The model has no batch norm: what looks at statistics of batches is left out, "
                 "BN-1, BN-EMA, IABN and RoTTA among it.")
HARM = 2.0          # points above its own start from which a run counts as harmed
SINGLE_RATE = 32    # SAR's code divides the rate of batches of 64 by this for single images


@dataclass(frozen=True)
class Plan(base.Plan):
    """Sources, settings, methods and their rates; with images alone all sources are run on them."""

    per_shift: int = 480
    alone: int = 30             # images of each shift where they come one at a time: costs most
    batch: int = 32
    lr: float = 1e-2            # of Tent, SAR and DeYO, all by SGD as in SAR's comparison
    rates: tuple = (1e-2, 1e-1, 3e-1)         # of the parts of SAR, one by one
    long: int = 300             # images of each shift of the stream on which these are compared
    small: int = 16             # its batches
    looked_at: int = 200        # images whose gradients are taken
    shifts: tuple = STANDARD_SIX
    methods: tuple = tuple(METHODS)
    sources: tuple = tuple(SOURCES)

    fast = {"per_shift": 160, "alone": 16, "batch": 16, "lr": 3e-2, "rates": (3e-1,), "long": 160,
            "looked_at": 48, "seeds": 1,
            "shifts": ("gaussian_noise", "contrast", "jpeg_compression"),
            "methods": ("source", "batch_norm", "tent", "sar", "deyo", "iabn"),
            "sources": ("fashion_resnet_bn", "fashion_resnet_gn", "fashion_vit_ln")}

    def __post_init__(self):
        if self.seeds < 1 or self.per_shift < 2 or self.alone < 1:
            raise ValueError("the study needs a seed, 2 images a shift and 1 alone at least, got "
                             f"{self.seeds}, {self.per_shift} and {self.alone}")
        unknown = [name for name in self.sources if name not in SOURCES
                   and (name in checkpoints() or own.refusal(lambda n=name: parse(n)))]
        if unknown or not self.sources:
            raise ValueError(f"sources must be some of {', '.join(SOURCES)}, got "
                             f"{unknown or self.sources}")
        if not {"source", "batch_norm"} <= set(self.methods) <= set(METHODS):
            raise ValueError("methods must be source, batch_norm and some of "
                             f"{', '.join(METHODS)}, got {self.methods}")

    def on(self, pair: own.Pair) -> Plan:
        """The same plan with the shifts and numbers of images that a pair allows."""
        shifts, per_shift, notes = own.allowed(pair, self.shifts, self.per_shift)
        plan = replace(self, sources=(pair.model,) if pair.named else self.sources, shifts=shifts,
                       per_shift=per_shift, alone=min(self.alone, per_shift))
        notes = [note for note in notes if note != own.NO_BATCH_NORM]
        if pair.named:
            notes.append(f"One source, with {KINDS[kind_of(pair.model)].split(' (')[0]}: what "
                         "compares kinds of normalisation is left out.")
        if not plan.of_kind("BN"):
            notes.append(NO_BATCH_NORM)
        return replace(plan, notes=tuple(notes))

    def shorter(self) -> Plan:
        """The same plan at the size of the fast one."""
        return base.smaller(self, "per_shift", "alone", shifts=self.shifts[:3])

    @property
    def embedded(self) -> bool:
        """Whether sources and images are those of the study's own numbers."""
        return self.images == own.IMAGES and set(self.sources) <= set(SOURCES)

    @property
    def watched(self) -> str:
        """The source whose runs are shown step by step: one with group norm, where there is one."""
        return (*self.of_kind("GN"), *parts_sources(self))[0]

    def of_kind(self, kind: str) -> list[str]:
        """The sources of a kind of normalisation."""
        return [name for name in self.sources if kind_of(name) == kind]

    @property
    def kinds(self) -> list[str]:
        return [kind for kind in KINDS if self.of_kind(kind)]

    def stream(self, setting: str, seed: int, batch: int = 0):
        """A setting as a stream over the shifts; all but the mixed one go back to the source at
        each shift, as SAR's protocol does."""
        if setting not in SETTINGS:
            raise ValueError(f"setting must be one of {', '.join(SETTINGS)}, not {setting!r}")
        common = {"known": self.images, "shifts": self.shifts, "per_shift": self.per_shift,
                 "batch": batch or self.batch, "seed": seed}
        if setting == "single":
            return protocols.batch_of_one(**common | {"per_shift": self.alone, "batch": 1})
        return {"mild": protocols.reset_each_shift, "mixed": protocols.mixed_domains,
                "labels": protocols.label_shift}[setting](**common)

    def long_stream(self, seed: int):
        """Online label shift in small batches, never reset: here learning has the time to go
        wrong."""
        return protocols.label_shift(self.images, shifts=self.shifts, per_shift=self.long,
                                     batch=self.small, seed=seed, reset="never")

    def recipes(self, source: str, setting: str) -> dict:
        """The methods that this source can carry out."""
        return {name: recipe_of(name, self.lr, setting) for name in self.methods
                if kind_of(source) == "BN" or name not in ONLY_BN}

    def describe(self) -> str:
        """The plan in words."""
        images = "Fashion-MNIST" if self.images == own.IMAGES else self.images
        methods = [m for m in self.methods if self.of_kind("BN") or m not in ONLY_BN]
        rate = (f"The rate is larger than SAR's 0.00025, because a shift shows "
                f"{math.ceil(self.per_shift / self.batch)} batches here and 782 there. So nothing "
                "below says which rate is right.")
        return self.described({
            "Sources": ", ".join(self.sources),
            "Images": f"{images}, {self.per_shift} of each shift at severity 5; {self.alone} of "
                      "each where they come one by one",
            "Shifts": ", ".join(self.shifts).replace("_", " "),
            "Batches": f"{self.batch} images; 1 in '{SETTINGS['single']}'",
            "Resets": "to the source at each shift, as SAR's protocol does; never in "
                      f"'{SETTINGS['mixed']}'",
            "Methods": ", ".join(METHODS[m] for m in methods),
            "Step": f"Tent, SAR and DeYO by SGD at rate {self.lr:g}, divided by {SINGLE_RATE} for "
                    "single images; RoTTA as published", **self.seed_row}, 11, [rate])


FULL = Plan()
FAST = Plan(**Plan.fast)


def recipe_of(method: str, lr: float, setting: str = ""):
    """A method of the study; what learns the whole stream long does so by SGD at ``lr``, divided as
    in SAR's code for single images. Raises ValueError for a method that is not in it."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    lr = lr / SINGLE_RATE if setting == "single" else lr
    if method not in LEARN:
        return make(method)
    return make("sar", lr=lr) if method == "sar" else make(method, rule="sgd", lr=lr)


def arms(lr: float) -> dict:
    """Tent, what SAR adds to it one by one, and SAR; all by SGD at the same rate."""
    tent = make("tent", rule="sgd", lr=lr)
    sharp = Sam(rule="sgd", lr=lr, rho=0.05)
    filtered = tent.where(EntropyThreshold(0.4))
    both = replace(filtered, update=sharp)
    return {"tent": tent, "filter": filtered, "sharpness": replace(tent, update=sharp),
            "both": both, "sar": replace(both, controllers=(CollapseRecovery(threshold=0.2),))}


def kind_of(source: str) -> str:
    """The kind of normalisation of a source: a name of KINDS. Raises ValueError for a model with
    none of them."""
    if source in SOURCES:
        return SOURCES[source]
    layers = {"BN": BATCH_NORM, "GN": torch.nn.GroupNorm, "LN": torch.nn.LayerNorm}
    found = [kind for kind, layer in layers.items()
             if any(isinstance(m, layer) for m in own.network(source).modules())]
    if not found:
        raise ValueError(f"{source} has neither batch, group nor layer norm, and this study is "
                         "about these; choose another model")
    return found[0]


# --- running

@dataclass
class Study(base.Study):
    """``runs``: (source, setting, method, seed) -> `summary`; ``wrong``: ("source, setting",
    method, seed) -> True where an image was called by a wrong name; ``parts``: (source, rate, arm,
    seed) -> `summary` on the long stream, ``parts_start`` (source, seed) -> error there without
    learning; ``traces``: traces of the parts, first seed, highest rate."""

    runs: dict = field(default_factory=dict)
    wrong: dict = field(default_factory=dict)
    parts: dict = field(default_factory=dict)
    parts_start: dict = field(default_factory=dict)
    traces: dict = field(default_factory=dict)

    def values(self, source: str, setting: str, method: str, what: str = "error") -> np.ndarray:
        """One number for each seed."""
        return np.array([self.runs[source, setting, method, seed][what]
                         for seed in self.plan.all_seeds], np.float64)

    def mean(self, kind: str, setting: str, method: str, what: str = "error") -> float:
        """Mean over the sources of a kind and seeds; NaN where the kind cannot carry the method
        out."""
        found = [self.values(source, setting, method, what).mean()
                 for source in self.plan.of_kind(kind)
                 if (source, setting, method, self.plan.first_seed) in self.runs]
        return float(np.mean(found)) if found else math.nan

    def against(self, source: str, setting: str, method: str,
                other: str = "source") -> tuple[float, float]:
        """Error minus that of ``other`` on the same source and images, in points, and its standard
        error over images."""
        if (source, setting, other, self.plan.first_seed) not in self.runs or (
            source, setting, method, self.plan.first_seed) not in self.runs:
            return math.nan, math.nan
        name = f"{source}, {setting}"
        return difference(self, ((1, name, method), (-1, name, other)))

    def part(self, source: str, lr: float, arm: str, what: str = "error") -> np.ndarray:
        """One number of a part of SAR for each seed."""
        return np.array([self.parts[source, lr, arm, k][what] for k in self.plan.all_seeds])

    def part_start(self, source: str) -> float:
        """The error without learning on the long stream, mean over seeds."""
        return float(np.mean([self.parts_start[source, k] for k in self.plan.all_seeds]))

    def to_dict(self) -> dict:
        """Everything a regression test or a later reader needs, as plain values."""
        return {**super().to_dict(), "runs": base.rows_of(self.runs, "source", "setting", "method"),
                "parts": base.rows_of(self.parts, "source", "rate", "arm")}


def start_of(source: str) -> str:
    """What a method that learns starts from: BN-1 where there is batch norm (they all take batch
    statistics), else the source."""
    return "batch_norm" if kind_of(source) == "BN" else "source"


def study(plan: Plan, cache=None, progress: bool = False, device="cpu") -> Study:
    """Every source under every setting with every method, and the parts of SAR on the long stream.
    With ``cache`` an interrupted study goes on."""
    result = Study(plan)
    seeds = plan.all_seeds
    settings = {"cache": cache, "progress": progress, "device": device}
    streams = {setting: base.cached(seeds, plan.stream, setting) for setting in SETTINGS}
    for source in plan.sources:
        for setting in SETTINGS:
            for (_, method, seed), trace in runs(plan.recipes(source, setting),
                                                 {setting: streams[setting]}, own.network(source),
                                                 seeds, **settings):
                result.runs[source, setting, method, seed] = summary(trace)
                result.wrong[f"{source}, {setting}", method, seed] = diagnose.groups(trace)["wrong"]
    long = base.cached(seeds, plan.long_stream)
    for source in parts_sources(plan):
        recipes = {"start 0": ("start", 0.0, make(start_of(source)))}
        recipes |= {f"{arm} {lr:g}": (arm, lr, recipe) for lr in plan.rates
                    for arm, recipe in arms(lr).items()}
        for (_, name, seed), trace in runs({name: recipe
                                            for name, (_, _, recipe) in recipes.items()},
                                           {"long": long}, own.network(source), seeds, **settings):
            arm, lr, _ = recipes[name]
            result.wrong[f"{source}, long", name, seed] = diagnose.groups(trace)["wrong"]
            if arm == "start":
                result.parts_start[source, seed] = row(trace)["error"]
                continue
            result.parts[source, lr, arm, seed] = summary(trace)
            if seed == plan.first_seed and lr == max(plan.rates):
                result.traces[source, arm] = trace
    return result


def parts_sources(plan: Plan) -> list[str]:
    """One source of each kind; in a plan of one seed only of those without batch norm, which SAR
    advises."""
    kinds = [kind for kind in plan.kinds if kind != "BN" or plan.seeds > 1] or plan.kinds
    return [plan.of_kind(kind)[0] for kind in kinds]


def summary(trace: Trace) -> dict:
    """The numbers of one run: ``error`` (%, mean over shifts); ``resets`` beyond those of the
    stream; ``kept``, share learned from; ``alarm``, step of the detector's first (-1: none);
    ``predicted`` and ``true``, effective numbers of classes among the last 100 images, mean over
    the second half of the steps; ``gradient``, median and ``spike``, maximum of its norm over the
    steps (NaN without learning)."""
    numbers = row(trace)
    steps = np.asarray(trace.step("step"))
    norm = np.asarray(trace.step("grad_norm"), np.float64)
    norm = norm[np.isfinite(norm) & (norm > 0)]
    planned = len(trace.meta["segments"]) - 1 if trace.meta["reset"] == "domain" else 0
    used = classes_in_use(trace, steps[len(steps) // 2:], 100)
    return {"error": float(numbers["error"]), "resets": int(numbers["resets"]) - planned,
            "alarm": detect(trace)["first_alarm"] if len(norm) else -1,
            "kept": base.kept_share(trace),
            **{name: float(np.nanmean(values)) for name, values in used.items()},
            "batches": len(steps), "gradient": float(np.median(norm)) if len(norm) else math.nan,
            "spike": float(norm.max()) if len(norm) else math.nan}


# --- what batch norm normalises with

def batch_norm_moments(network, x) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Mean and variance + eps per channel of the input of every test-time norm in one forward of
    ``x``.  M x ((C,), (C,))"""
    found = []
    layers = [m for m in network.modules() if isinstance(m, TestTimeNorm)]

    def look(layer, args):
        z = args[0].double()
        dims = [d for d in range(z.ndim) if d != 1]
        found.append((z.mean(dims), z.var(dims, correction=0) + layer.eps))

    handles = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        with torch.no_grad():
            network(x)
    finally:
        for handle in handles:
            handle.remove()
    return found


def statistics(plan: Plan, source: str = "", batches: int = 60) -> dict:
    """How far the statistics that BN-1 takes are from the right ones: symmetric KL of Gaussians,
    mean over channels, in nats, layer by layer.

    The right ones of an image are those of all images of its shift together, in a network that
    normalises every layer so. ``layers`` (M,) from 1; ``source`` (M,): the stored statistics of the
    source, mean over shifts; ``settings`` {setting: (M,)}: those of single batches, mean over
    ``batches`` of them; in mixed batches each image has its own right ones; ``images`` of a shift
    that the right ones rest on, ``batch``. Raises ValueError for a source without batch norm.
    """
    from copy import deepcopy

    from ...analysis.layer_probes import symmetric_kl

    source = source or (*plan.of_kind("BN"), *plan.sources)[0]
    if kind_of(source) != "BN":
        raise ValueError(f"{source} has no batch norm, so it has no statistics of batches; take "
                         f"one of {', '.join(plan.of_kind('BN'))}")
    model = own.network(source)
    network = deepcopy(model)
    BatchStatistics().apply_(network)
    network.eval()
    stored = [(m.running_mean.double(), m.running_var.double() + m.eps) for m in network.modules()
              if isinstance(m, TestTimeNorm)]

    def apart(found, right) -> np.ndarray:
        return np.array([float(symmetric_kl(*a, *b).mean())
                         for a, b in zip(found, right, strict=True)])

    pools: dict[int, list] = {}
    for batch in plan.stream("mild", plan.first_seed).batches("cpu"):
        pools.setdefault(int(batch.segment[0]), []).append(batch.x)
    right = {segment: batch_norm_moments(network, torch.cat(x)) for segment, x in pools.items()}
    found = {}
    for setting in SETTINGS:
        stream = plan.stream(setting, plan.first_seed)
        taken = set(np.linspace(0, len(stream) - 1, min(batches, len(stream))).astype(int).tolist())
        rows = []
        for i, batch in enumerate(stream.batches("cpu")):
            if i in taken:
                moments = batch_norm_moments(network, batch.x)
                segments = batch.segment.tolist()
                rows.append(sum(segments.count(s) / len(segments) * apart(moments, right[s])
                                for s in set(segments)))
        found[setting] = np.mean(rows, axis=0)
    return {"layers": np.arange(1, len(stored) + 1),
            "source": np.mean([apart(stored, r) for r in right.values()], axis=0),
            "settings": found, "images": sum(len(x) for x in pools[0]), "batch": plan.batch}


def in_use(plan: Plan, source: str = "", setting: str = "labels",
           methods=("batch_norm", "bn_ema", "iabn", "rotta"), device="cpu") -> dict:
    """What the layers of each method normalise with while a stream runs: ``lines`` {method: (T,)},
    KL from the source's statistics, mean over layers, in nats (`layer_probes.norm_drift`); ``step``
    (T,), ``error`` {method: %}, ``marks``: first steps of the shifts after the first."""
    from ... import Adapter
    from ...analysis.layer_probes import LayerWatch, norm_drift

    source = source or (*plan.of_kind("BN"), *plan.sources)[0]
    stream = CachedStream(plan.stream(setting, plan.first_seed))
    found = {"step": np.zeros(0), "lines": {}, "error": {}, "marks": (), "setting": setting}
    for method in methods:
        adapter = Adapter(own.network(source), recipe_of(method, plan.lr), seed=plan.first_seed,
                          device=device)
        with LayerWatch(adapter) as layers:
            trace = run(adapter, stream, each=layers)
        drift = norm_drift(layers)
        found["step"] = drift["step"]
        found["lines"][method] = np.nanmean(drift["in_use"], axis=1)
        found["error"][method] = row(trace)["error"]
        if setting != "mixed":
            steps = np.asarray(trace["step"])[1:]
            found["marks"] = tuple(steps[np.diff(np.asarray(trace["segment"])) > 0].tolist())
    return found


# --- SAR's finding: who makes the gradient

def gradients(plan: Plan, setting: str = "mixed", device="cpu") -> dict:
    """Entropy and gradient norm of single images at the weights of each source: {kind:
    `layer_probes.sample_gradients`}."""
    from ... import Adapter
    from ...analysis.layer_probes import sample_gradients

    found = {}
    for kind in plan.kinds:
        adapter = Adapter(own.network(plan.of_kind(kind)[0]), recipe_of("tent", plan.lr),
                          seed=plan.first_seed, device=device)
        stream = plan.stream(setting, plan.first_seed)
        some = stream.cut(0, min(len(stream), math.ceil(plan.looked_at / plan.batch)))
        found[kind] = sample_gradients(adapter, some.batches("cpu"), limit=plan.looked_at)
    return found


def of_gradients(found: dict, classes: int = 10, fraction: float = 0.4) -> dict:
    """Numbers of one entry of `gradients`: ``correlation`` of the ranks of entropy and norm;
    ``unsure``, share of images that SAR's filter drops (entropy at least ``fraction`` ln K);
    ``unsure_pull``, their share of the summed norms; ``wrong_unsure`` and ``wrong_sure``, shares of
    wrong answers among them and among the others; ``longest_wrong``, the same of the tenth with the
    longest gradients; ``longest_sure``, how many of those the filter leaves in."""
    entropy = np.asarray(found["entropy"], np.float64)
    norm = np.asarray(found["norm"], np.float64)
    wrong = np.asarray(found["group"]) == "wrong"
    unsure = entropy >= fraction * math.log(classes)
    longest = np.argsort(-norm, kind="stable")[:max(1, len(norm) // 10)]

    return {"correlation": ranks_agree(entropy, norm), "unsure": base.share_of(unsure),
            "unsure_pull": float(norm[unsure].sum() / norm.sum()),
            "wrong_unsure": base.share_of(wrong[unsure]),
            "wrong_sure": base.share_of(wrong[~unsure]),
            "longest_wrong": base.share_of(wrong[longest]),
            "longest_sure": base.share_of(~unsure[longest]), "n": len(norm)}


def over_time(trace: Trace, recent: int = 100) -> dict:
    """A run step by step.

    ``step``, ``gradient`` (norm; NaN where nothing was learned), ``predicted`` and ``true``
    (effective numbers of classes among the last ``recent`` images), ``probability`` of collapse,
    ``alarm`` (bool), (T,); ``threshold``; ``marks``: steps before which the model was put back.
    """
    steps = np.asarray(trace.step("step"))
    seen = detect(trace)
    norm = np.asarray(trace.step("grad_norm"), np.float64)
    reset = np.nan_to_num(np.asarray(trace.step("reset"), np.float64)) > 0
    return {"step": steps, "gradient": np.where(norm > 0, norm, np.nan),
            "probability": seen["probability"], "alarm": seen["alarm"] > 0,
            "threshold": float(seen["threshold"]), "marks": tuple(int(s) for s in steps[reset][1:]),
            "classes": int(trace.meta["classes"]), **classes_in_use(trace, steps, recent)}


# --- tables for figures

def differences(result: Study, other: str = "source") -> dict:
    """Error minus that of ``other`` of the same source, mean over the sources of a kind: ``rows``
    ("BN: Tent"), ``columns`` (settings), ``values`` (R, 4) in points, ``settled`` (R, 4): above two
    standard errors over images in the same direction for every source of the kind."""
    rows = []
    values = np.zeros((0, len(SETTINGS)))
    settled = np.zeros((0, len(SETTINGS)), bool)
    for kind in result.plan.kinds:
        for method in METHODS:
            found = np.array([[result.against(source, setting, method, other)
                               for setting in SETTINGS] for source in result.plan.of_kind(kind)])
            if method in ("source", other) or not np.isfinite(found).all():
                continue
            points, error = np.moveaxis(found, -1, 0)
            beyond = np.where(np.abs(points) > 2 * error, np.sign(points), 0)
            rows.append(f"{kind}: {METHODS[method]}")
            values = np.vstack([values, points.mean(0)])
            settled = np.vstack([settled, (beyond != 0).all(0) & (beyond == beyond[0]).all(0)])
    return {"rows": rows, "columns": list(SETTINGS.values()), "values": values, "settled": settled,
            "other": other}


def source_errors(result: Study) -> dict:
    """Errors without learning, mean over the sources of a kind: ``settings``, ``lines`` {"BN:
    source": (4,) in per cent}, ``spread``: the same names, standard deviation over sources and
    seeds (NaN for a single run)."""
    found = {}
    for kind in result.plan.kinds:
        for method in ("source", "batch_norm") if kind == "BN" else ("source",):
            found[f"{kind}: {METHODS[method]}"] = np.stack([
                np.concatenate([result.values(source, setting, method)
                                for source in result.plan.of_kind(kind)]) for setting in SETTINGS])
    return {"settings": list(SETTINGS.values()),
            "lines": {name: v.mean(1) for name, v in found.items()},
            "spread": {name: base.deviation(v, 1) for name, v in found.items()}}


def parts(result: Study) -> dict:
    """Tent and the parts of SAR on the long stream: ``arms``, ``kinds`` {kind: {"start": %,
    "error": {rate: (A,)}, "spread": {rate: (A,)}}}, means and standard deviations over seeds (NaN
    for one seed)."""
    found = {}
    for source in parts_sources(result.plan):
        values = {lr: np.array([result.part(source, lr, arm) for arm in ARMS])
                  for lr in result.plan.rates}
        found[kind_of(source)] = {"start": result.part_start(source),
                                  "error": {lr: v.mean(1) for lr, v in values.items()},
                                  "spread": {lr: base.deviation(v, 1) for lr, v in values.items()}}
    return {"arms": list(ARMS.values()), "kinds": found}


def harmed(result: Study) -> list[dict]:
    """Every run that learned by gradients, with ``points`` above its own start (BN-1 or source),
    ``harmed`` (more than HARM and than two standard errors over the images) and ``alarm``
    (bool)."""
    found = []

    def add(where, wrong, start, alarm):
        points, error = base.points_of(wrong.astype(np.float64) - start)
        found.append({"where": where, "points": points, "alarm": alarm >= 0,
                      "harmed": points > max(HARM, 2 * error)})

    for (source, setting, method, seed), v in result.runs.items():
        if method in LEARN:
            add(f"{METHODS[method]}, {kind_of(source)}, {SETTINGS[setting]}",
                result.wrong[f"{source}, {setting}", method, seed],
                result.wrong[f"{source}, {setting}", start_of(source), seed], v["alarm"])
    for (source, lr, arm, seed), v in result.parts.items():
        add(f"{ARMS[arm]} at {lr:g}, {kind_of(source)}, long label shift",
            result.wrong[f"{source}, long", f"{arm} {lr:g}", seed],
            result.wrong[f"{source}, long", "start 0", seed], v["alarm"])
    return found


# --- words that follow the numbers


save = base.save


# --- single runs, for the panel and for you

@lru_cache(6)
def _stream(plan: Plan, setting: str, batch: int, seed: int):
    return CachedStream(plan.stream(setting, seed, batch)), {}


def one_run(source: str = "fashion_resnet_bn", setting: str = "labels", method: str = "tent",
            batch: int = 20, lr: float = 1e-2, seed: int = 0, stop=None, each=None, device="cpu",
            plan: Plan | None = None) -> Trace:
    """One method on one source under one setting, of the size of the fast plan, or of another: what
    the panel calls, and you may too.

    ``stop()`` is asked before each batch and ends the run, ``each(trace)`` is called after each;
    single images divide ``lr`` as SAR's code does. Raises ValueError for a name that does not exist
    and for a method that the source cannot carry out.
    """
    plan = replace(plan or FAST, first_seed=seed)
    if source not in (*SOURCES, *plan.sources):
        raise ValueError("source must be one of "
                         f"{', '.join(SOURCES if plan.embedded else plan.sources)}, not {source!r}")
    if method in ONLY_BN and kind_of(source) != "BN":
        raise ValueError(f"{METHODS[method]} sets the statistics of batch-norm layers, and "
                         f"{source} has none; choose another method or source")
    stream, shared = _stream(plan, setting, 1 if setting == "single" else batch, seed)
    adapter = base.adapter_for(own.network(source), recipe_of(method, lr, setting), seed=seed,
                          device=device, shared=shared.setdefault((source, device), {}))
    return run(adapter, stream, stop=stop, each=each)


def beside_run(source: str, setting: str, batch: int, seed: int = 0, stop=None, device="cpu",
               plan: Plan | None = None) -> dict[str, Trace]:
    """Source and, where there is batch norm, BN-1 on the same stream; only runs that came to their
    end."""
    names = ["source"] + ["batch_norm"] * (kind_of(source) == "BN")
    return base.finished({METHODS[name]: one_run(source, setting, name, batch, seed=seed, stop=stop,
                                            device=device, plan=plan) for name in names})


def live_numbers(trace: Trace, beside: dict[str, Trace], recent: int = 100) -> dict:
    """What the panel draws: ``so_far`` (`explorer.study.so_far`) of this run and those beside it,
    ``over`` (`over_time`), ``error`` {name: %}."""
    from ..explorer.study import so_far

    numbers = so_far({"this run": trace} | beside, len(trace))
    return {"so_far": numbers, "over": over_time(trace, recent),
            "error": {name: float(v) for name, v in numbers["last"].items()}}


