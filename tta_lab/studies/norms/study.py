"""The study of normalisation: sources with batch, group and layer norm under the wild streams of SAR, each compared with its own start.

One plan, one function, plain numbers; notebook 07 and its panel call nothing else. Sources are trained differently well, so an error is never
compared with that of another source but with what the same source does without learning: as it is, and with batch statistics (BN-1).
Paper: Towards Stable Test-Time Adaptation in Dynamic Wild World (SAR, 2302.12400).
"""
from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache

import numpy as np
import torch

from ...analysis import diagnose
from ...analysis.collapse import watch
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
from .. import own
from ..collapse.study import effective_classes, ranks_agree
from ..report import paragraphs, points, signed, write_numbers
from ..streams.study import difference
from ..zoo.study import Kept

SOURCES = {"fashion_resnet_bn": "BN", "fashion_resnet_bn_1": "BN", "fashion_resnet_bn_2": "BN", "fashion_resnet_gn": "GN", "fashion_vit_ln": "LN"}
KINDS = {"BN": "batch norm (ResNet)", "GN": "group norm (ResNet)", "LN": "layer norm (transformer)"}
SETTINGS = {"mild": "one shift at a time", "mixed": "mixed shifts", "labels": "online label shift", "single": "batch of one"}
METHODS = {"source": "source", "batch_norm": "BN-1", "tent": "Tent", "sar": "SAR", "deyo": "DeYO", "bn_ema": "BN-EMA", "iabn": "IABN",
           "rotta": "RoTTA"}
ONLY_BN = ("batch_norm", "bn_ema", "iabn", "rotta")
LEARN = ("tent", "sar", "deyo")
ARMS = {"tent": "Tent", "filter": "Tent + filter", "sharpness": "Tent + sharpness", "both": "both", "sar": "SAR: both + recovery"}
NO_BATCH_NORM = "The model has no batch norm: what looks at statistics of batches is left out, BN-1, BN-EMA, IABN and RoTTA among it."
HARM = 2.0          # points above its own start from which a run counts as harmed
SINGLE_RATE = 32    # SAR's code divides the rate of batches of 64 by this for single images


@dataclass(frozen=True)
class Plan:
    """What is run. Zero means "as the mode says" when a plan comes from ``Plan.of``."""

    per_shift: int = 480
    alone: int = 30             # images of each shift where they come one at a time, which costs most
    batch: int = 32
    lr: float = 1e-2            # of Tent, SAR and DeYO, all by SGD as in SAR's comparison
    rates: tuple = (1e-2, 1e-1, 3e-1)         # of the parts of SAR, one by one
    long: int = 300             # images of each shift of the stream on which these are compared
    small: int = 16             # its batches
    looked_at: int = 200        # images whose gradients are taken
    shifts: tuple = STANDARD_SIX
    methods: tuple = tuple(METHODS)
    sources: tuple = tuple(SOURCES)
    seeds: int = 3
    first_seed: int = 0
    images: str = own.IMAGES
    notes: tuple = ()           # what was decided for model and images, in sentences

    def __post_init__(self):
        if self.seeds < 1 or self.per_shift < 2 or self.alone < 1:
            raise ValueError(f"the study needs a seed, 2 images a shift and 1 alone at least, got {self.seeds}, {self.per_shift} and {self.alone}")
        strange = [name for name in self.sources if name not in SOURCES and (name in checkpoints() or own.refusal(lambda n=name: parse(n)))]
        if strange or not self.sources:
            raise ValueError(f"sources must be some of {', '.join(SOURCES)}, got {strange or self.sources}")
        if not {"source", "batch_norm"} <= set(self.methods) <= set(METHODS):
            raise ValueError(f"methods must be source, batch_norm and some of {', '.join(METHODS)}, got {self.methods}")

    @classmethod
    def of(cls, fast: bool, *, model: str = "", images: str = "", trust: bool = False, **given) -> Plan:
        """The full plan, or the fast one, with those settings replaced that are not zero; ``model`` and ``images`` are texts, "" the embedded ones:
        with images alone all sources are run on them. Raises ValueError for an unknown setting, and as `own.pair_of` does.
        """
        unknown = [name for name in given if name not in {f.name for f in fields(cls)}]
        if unknown:
            raise ValueError(f"a plan has no setting {unknown[0]!r}; it has: {', '.join(f.name for f in fields(cls))}")
        plan = replace(FAST if fast else FULL, **{k: v for k, v in given.items() if v or k == "first_seed"})
        return plan.on(own.pair_of(model, images, trust), plan.sources if not model.strip() else ()) if model or images else plan

    def on(self, pair: own.Pair, sources: tuple = ()) -> Plan:
        """The same plan on a model (or on these sources) and images, with the shifts and numbers of images that these allow."""
        shifts, lost = own.shifts_of(pair.data, self.shifts)
        per_shift, fewer = own.per_shift_of(pair.data, shifts, self.per_shift)
        plan = replace(self, sources=sources or (pair.model,), images=pair.images, shifts=shifts, per_shift=per_shift,
                       alone=min(self.alone, per_shift))
        said = [*(note for note in pair.notes if note != own.NO_BATCH_NORM), *lost, *fewer]
        said += [] if sources else [f"One source, with {KINDS[kind_of(pair.model)].split(' (')[0]}: what compares kinds of normalisation is left out."]
        said += [] if plan.of_kind("BN") else [NO_BATCH_NORM]
        return replace(plan, notes=tuple(said))

    def shorter(self) -> Plan:
        """The same plan at the size of the fast one: what a panel runs while somebody waits."""
        return replace(self, per_shift=min(self.per_shift, FAST.per_shift), alone=min(self.alone, FAST.alone), shifts=self.shifts[:3], seeds=1)

    def settings(self) -> str:
        """What differs from the full plan, as arguments of ``Plan``."""
        changed = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "notes" and getattr(self, f.name) != f.default}
        return ", ".join(f"{name}={value!r}" for name, value in changed.items())

    @property
    def embedded(self) -> bool:
        """Whether sources and images are those of the study's own numbers."""
        return self.images == own.IMAGES and set(self.sources) <= set(SOURCES)

    @property
    def classes(self) -> int:
        """How many classes the images have."""
        return len(own.images_of(self.images).classes)

    @property
    def watched(self) -> str:
        """The source whose runs are shown step by step: one with group norm, where there is one."""
        return (*self.of_kind("GN"), *_parts_sources(self))[0]

    @property
    def all_seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.seeds)

    def of_kind(self, kind: str) -> list[str]:
        """The sources of a kind of normalisation."""
        return [name for name in self.sources if kind_of(name) == kind]

    @property
    def kinds(self) -> list[str]:
        return [kind for kind in KINDS if self.of_kind(kind)]

    def stream(self, setting: str, seed: int, batch: int = 0):
        """A setting as a stream over the shifts; all but the mixed one go back to the source at each shift, as SAR's protocol does."""
        if setting not in SETTINGS:
            raise ValueError(f"setting must be one of {', '.join(SETTINGS)}, not {setting!r}")
        usual = {"shifts": self.shifts, "per_shift": self.per_shift, "batch": batch or self.batch, "seed": seed}
        usual |= {"known": self.images}
        make_one = {"mild": protocols.reset_each_shift, "mixed": protocols.mixed_domains, "labels": protocols.label_shift}
        return protocols.batch_of_one(**usual | {"per_shift": self.alone, "batch": 1}) if setting == "single" else make_one[setting](**usual)

    def long_stream(self, seed: int):
        """Online label shift in small batches, never reset: here learning has the time to go wrong."""
        return protocols.label_shift(self.images, shifts=self.shifts, per_shift=self.long, batch=self.small, seed=seed, reset="never")

    def recipes(self, source: str, setting: str) -> dict:
        """The methods that this source can carry out."""
        return {name: recipe_of(name, self.lr / (SINGLE_RATE if setting == "single" else 1)) for name in self.methods
                if kind_of(source) == "BN" or name not in ONLY_BN}

    def describe(self) -> str:
        """The plan in words."""
        seeds = ", ".join(map(str, self.all_seeds))
        return "\n".join([
            f"Sources:   {', '.join(self.sources)}",
            f"Images:    {'Fashion-MNIST' if self.images == own.IMAGES else self.images}, {self.per_shift} of each shift at severity 5; {self.alone} of each where they come one by one",
            f"Shifts:    {', '.join(self.shifts).replace('_', ' ')}",
            f"Batches:   {self.batch} images; 1 in '{SETTINGS['single']}'",
            f"Resets:    to the source at each shift, as SAR's protocol does; never in '{SETTINGS['mixed']}'",
            f"Methods:   {', '.join(METHODS[m] for m in self.methods if self.of_kind('BN') or m not in ONLY_BN)}",
            f"Step:      Tent, SAR and DeYO by SGD at rate {self.lr:g}, divided by {SINGLE_RATE} for single images; RoTTA as published",
            f"Seed{'s' if self.seeds > 1 else ''}:     {seeds}", "",
            paragraphs([f"The rate is larger than SAR's 0.00025, because a shift shows {math.ceil(self.per_shift / self.batch)} batches here and 782 "
                        "there. So nothing below says which rate is right.", *self.notes])])


FULL = Plan()
FAST = Plan(per_shift=160, alone=16, batch=16, lr=3e-2, rates=(3e-1,), long=160, small=16, looked_at=48, seeds=1,
            shifts=("gaussian_noise", "contrast", "jpeg_compression"), methods=("source", "batch_norm", "tent", "sar", "deyo", "iabn"),
            sources=("fashion_resnet_bn", "fashion_resnet_gn", "fashion_vit_ln"))


def recipe_of(method: str, lr: float):
    """A method of the study; what learns the whole stream long does so by SGD at ``lr``. Raises ValueError for a method that is not in it."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    if method not in LEARN:
        return make(method)
    return make("sar", lr=lr) if method == "sar" else make(method, rule="sgd", lr=lr)


def arms(lr: float) -> dict:
    """Tent, what SAR adds to it one by one, and SAR; all by SGD at the same rate."""
    tent, sharp = make("tent", rule="sgd", lr=lr), Sam(rule="sgd", lr=lr, rho=0.05)
    filtered = tent.where(EntropyThreshold(0.4))
    both = replace(filtered, update=sharp)
    return {"tent": tent, "filter": filtered, "sharpness": replace(tent, update=sharp), "both": both,
            "sar": replace(both, controllers=(CollapseRecovery(threshold=0.2),))}


def kind_of(source: str) -> str:
    """The kind of normalisation of a source: a name of KINDS. Raises ValueError for a model with none of them."""
    if source in SOURCES:
        return SOURCES[source]
    layers = {"BN": BATCH_NORM, "GN": torch.nn.GroupNorm, "LN": torch.nn.LayerNorm}
    found = [kind for kind, layer in layers.items() if any(isinstance(m, layer) for m in own.network(source).modules())]
    if not found:
        raise ValueError(f"{source} has neither batch, group nor layer norm, and this study is about these; choose another model")
    return found[0]


# --- running

@dataclass
class Study:
    """``runs``: (source, setting, method, seed) -> `summary`; ``wrong``: ("source, setting", method, seed) -> True where an image was called by a
    wrong name; ``parts``: (source, rate, arm, seed) -> `summary` on the long stream, ``parts_start`` (source, seed) -> error there without learning;
    ``traces``: traces of the parts, first seed, highest rate."""

    plan: Plan
    runs: dict = field(default_factory=dict)
    wrong: dict = field(default_factory=dict)
    parts: dict = field(default_factory=dict)
    parts_start: dict = field(default_factory=dict)
    traces: dict = field(default_factory=dict)

    def values(self, source: str, setting: str, method: str, what: str = "error") -> np.ndarray:
        """One number for each seed."""
        return np.array([self.runs[source, setting, method, seed][what] for seed in self.plan.all_seeds], np.float64)

    def mean(self, kind: str, setting: str, method: str, what: str = "error") -> float:
        """Mean over the sources of a kind and seeds; NaN where the kind cannot carry the method out."""
        found = [self.values(source, setting, method, what).mean() for source in self.plan.of_kind(kind)
                 if (source, setting, method, self.plan.first_seed) in self.runs]
        return float(np.mean(found)) if found else math.nan

    def against(self, source: str, setting: str, method: str, other: str = "source") -> tuple[float, float]:
        """Error minus that of ``other`` on the same source and images, in points, and its standard error over images."""
        if (source, setting, other, self.plan.first_seed) not in self.runs or (source, setting, method, self.plan.first_seed) not in self.runs:
            return math.nan, math.nan
        name = f"{source}, {setting}"
        return difference(self, ((1, name, method), (-1, name, other)))

    def to_dict(self) -> dict:
        """Everything a regression test or a later reader needs, as plain values."""
        return {"plan": {f.name: getattr(self.plan, f.name) for f in fields(self.plan)},
                "runs": [{"source": s, "setting": t, "method": m, "seed": k, **v} for (s, t, m, k), v in self.runs.items()],
                "parts": [{"source": s, "rate": lr, "arm": a, "seed": k, **v} for (s, lr, a, k), v in self.parts.items()]}


def start_of(source: str) -> str:
    """What a method that learns starts from: BN-1 where there is batch norm (they all take batch statistics), else the source."""
    return "batch_norm" if kind_of(source) == "BN" else "source"


def study(plan: Plan, cache=None, progress: bool = False, device="cpu") -> Study:
    """Every source under every setting with every method, and the parts of SAR on the long stream. With ``cache`` an interrupted study goes on."""
    result, seeds = Study(plan), plan.all_seeds
    streams = {(setting, seed): Kept(plan.stream(setting, seed)) for setting in SETTINGS for seed in seeds}
    settings = {"cache": cache, "progress": progress, "device": device}
    for source in plan.sources:
        for setting in SETTINGS:
            made = runs(plan.recipes(source, setting), {setting: lambda seed, s=setting: streams[s, seed]}, own.network(source), seeds, **settings)
            for (_, method, seed), trace in made:
                result.runs[source, setting, method, seed] = summary(trace)
                result.wrong[f"{source}, {setting}", method, seed] = diagnose.groups(trace)["wrong"]
    long = {seed: Kept(plan.long_stream(seed)) for seed in seeds}
    for source in _parts_sources(plan):
        recipes = {("start", 0.0): make(start_of(source))} | {(arm, lr): recipe for lr in plan.rates for arm, recipe in arms(lr).items()}
        named = {f"{arm} {lr:g}": recipe for (arm, lr), recipe in recipes.items()}
        for ((arm, lr), _), ((_, _, seed), trace) in zip([pair for _ in seeds for pair in recipes.items()],
                                                         runs(named, {"long": long.get}, own.network(source), seeds, **settings), strict=True):
            result.wrong[f"{source}, long", f"{arm} {lr:g}", seed] = diagnose.groups(trace)["wrong"]
            if arm == "start":
                result.parts_start[source, seed] = row(trace)["error"]
                continue
            result.parts[source, lr, arm, seed] = summary(trace)
            if seed == plan.first_seed and lr == max(plan.rates):
                result.traces[source, arm] = trace
    return result


def _parts_sources(plan: Plan) -> list[str]:
    """One source of each kind; in a plan of one seed only of those without batch norm, which SAR advises."""
    kinds = [kind for kind in plan.kinds if kind != "BN" or plan.seeds > 1] or plan.kinds
    return [plan.of_kind(kind)[0] for kind in kinds]


def summary(trace: Trace) -> dict:
    """The numbers of one run: ``error`` (%, mean over shifts); ``resets`` beyond those of the stream; ``kept``, share learned from; ``alarm``, step
    of the detector's first (-1: none); ``predicted`` and ``true``, effective numbers of classes among the last 100 images, mean over the second
    half of the steps; ``gradient``, median and ``spike``, maximum of its norm over the steps (NaN without learning)."""
    numbers, steps, samples = row(trace), np.asarray(trace.step("step")), trace.columns()
    norm = np.asarray(trace.step("grad_norm"), np.float64)
    norm, late = norm[np.isfinite(norm) & (norm > 0)], steps[len(steps) // 2:]
    planned = len(trace.meta["segments"]) - 1 if trace.meta["reset"] == "domain" else 0
    used = {name: float(np.nanmean(effective_classes(samples[column], samples["step"], late, 100)))
            for name, column in (("predicted", "prediction"), ("true", "label"))}
    return {"error": float(numbers["error"]), "resets": int(numbers["resets"]) - planned, "alarm": watch(trace)["first_alarm"] if len(norm) else -1,
            "kept": float(trace.step("n_kept").sum() / trace.step("n").sum()), **used, "batches": len(steps),
            "gradient": float(np.median(norm)) if len(norm) else math.nan, "spike": float(norm.max()) if len(norm) else math.nan}


# --- what batch norm normalises with

def batch_norm_moments(network, x) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Mean and variance + eps per channel of the input of every test-time norm in one forward of ``x``.  M x ((C,), (C,))"""
    found, layers = [], [m for m in network.modules() if isinstance(m, TestTimeNorm)]

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
    """How far the statistics that BN-1 takes are from the right ones: symmetric KL of Gaussians, mean over channels, in nats, layer by layer.

    The right ones of an image are those of all images of its shift together, in a network that normalises every layer so. ``layers`` (M,) from 1;
    ``source`` (M,): the stored statistics of the source, mean over shifts; ``settings`` {setting: (M,)}: those of single batches, mean over
    ``batches`` of them; in mixed batches each image has its own right ones; ``images`` of a shift that the right ones rest on, ``batch``.
    Raises ValueError for a source without batch norm.
    """
    from copy import deepcopy

    from ...analysis.layer_probes import symmetric_kl

    source = source or (*plan.of_kind("BN"), *plan.sources)[0]
    if kind_of(source) != "BN":
        raise ValueError(f"{source} has no batch norm, so it has no statistics of batches; take one of {', '.join(plan.of_kind('BN'))}")
    model = own.network(source)
    network = deepcopy(model)
    BatchStatistics().apply_(network)
    network.eval()
    stored = [(m.running_mean.double(), m.running_var.double() + m.eps) for m in network.modules() if isinstance(m, TestTimeNorm)]

    def apart(found, right) -> np.ndarray:
        return np.array([float(symmetric_kl(*a, *b).mean()) for a, b in zip(found, right, strict=True)])

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
                moments, segments = batch_norm_moments(network, batch.x), batch.segment.tolist()
                rows.append(sum(segments.count(s) / len(segments) * apart(moments, right[s]) for s in set(segments)))
        found[setting] = np.mean(rows, axis=0)
    return {"layers": np.arange(1, len(stored) + 1), "source": np.mean([apart(stored, r) for r in right.values()], axis=0), "settings": found,
            "images": sum(len(x) for x in pools[0]), "batch": plan.batch}


def in_use(plan: Plan, source: str = "", setting: str = "labels", methods=("batch_norm", "bn_ema", "iabn", "rotta"),
           device="cpu") -> dict:
    """What the layers of each method normalise with while a stream runs: ``lines`` {method: (T,)}, KL from the source's statistics, mean over
    layers, in nats (`layer_probes.norm_drift`); ``step`` (T,), ``error`` {method: %}, ``marks``: first steps of the shifts after the first."""
    from ... import Adapter
    from ...analysis.layer_probes import LayerWatch, norm_drift

    source = source or (*plan.of_kind("BN"), *plan.sources)[0]
    stream, lines, errors, step, starts = Kept(plan.stream(setting, plan.first_seed)), {}, {}, np.zeros(0), ()
    for method in methods:
        adapter = Adapter(own.network(source), recipe_of(method, plan.lr), seed=plan.first_seed, device=device)
        with LayerWatch(adapter) as layers:
            trace = run(adapter, stream, each=layers)
        drift = norm_drift(layers)
        step, lines[method], errors[method] = drift["step"], np.nanmean(drift["in_use"], axis=1), row(trace)["error"]
        segment = np.asarray(trace["segment"])
        starts = tuple(int(s) for s in np.asarray(trace["step"])[1:][np.diff(segment) > 0]) if setting != "mixed" else ()
    return {"step": step, "lines": lines, "error": errors, "marks": starts, "setting": setting}


# --- SAR's finding: who makes the gradient

def gradients(plan: Plan, setting: str = "mixed", device="cpu") -> dict:
    """Entropy and gradient norm of single images at the weights of each source: {kind: `layer_probes.sample_gradients`}."""
    from ... import Adapter
    from ...analysis.layer_probes import sample_gradients

    found = {}
    for kind in plan.kinds:
        adapter = Adapter(own.network(plan.of_kind(kind)[0]), recipe_of("tent", plan.lr), seed=plan.first_seed, device=device)
        stream = plan.stream(setting, plan.first_seed)
        some = stream.cut(0, min(len(stream), math.ceil(plan.looked_at / plan.batch)))
        found[kind] = sample_gradients(adapter, some.batches("cpu"), limit=plan.looked_at)
    return found


def of_gradients(found: dict, classes: int = 10, fraction: float = 0.4) -> dict:
    """Numbers of one entry of `gradients`: ``correlation`` of the ranks of entropy and norm; ``unsure``, share of images that SAR's filter drops
    (entropy at least ``fraction`` ln K); ``unsure_pull``, their share of the summed norms; ``wrong_unsure`` and ``wrong_sure``, shares of wrong
    answers among them and among the others; ``longest_wrong``, the same of the tenth with the longest gradients; ``longest_sure``, how many of
    those the filter leaves in."""
    entropy, norm, wrong = np.asarray(found["entropy"], np.float64), np.asarray(found["norm"], np.float64), np.asarray(found["group"]) == "wrong"
    unsure = entropy >= fraction * math.log(classes)
    longest = np.argsort(-norm, kind="stable")[:max(1, len(norm) // 10)]

    def share(flags):
        return float(flags.mean()) if len(flags) else math.nan

    return {"correlation": ranks_agree(entropy, norm), "unsure": share(unsure), "unsure_pull": float(norm[unsure].sum() / norm.sum()),
            "wrong_unsure": share(wrong[unsure]), "wrong_sure": share(wrong[~unsure]), "longest_wrong": share(wrong[longest]),
            "longest_sure": share(~unsure[longest]), "n": len(norm)}


def over_time(trace: Trace, recent: int = 100) -> dict:
    """A run step by step.

    ``step``, ``gradient`` (norm; NaN where nothing was learned), ``predicted`` and ``true`` (effective numbers of classes among the last ``recent``
    images), ``probability`` of collapse, ``alarm`` (bool), (T,); ``threshold``; ``marks``: steps before which the model was put back.
    """
    steps, samples, seen = np.asarray(trace.step("step")), trace.columns(), watch(trace)
    norm = np.asarray(trace.step("grad_norm"), np.float64)
    reset = np.nan_to_num(np.asarray(trace.step("reset"), np.float64)) > 0
    return {"step": steps, "gradient": np.where(norm > 0, norm, np.nan), "probability": seen["probability"], "alarm": seen["alarm"] > 0,
            "threshold": float(seen["threshold"]), "marks": tuple(int(s) for s in steps[reset][1:]),
            "classes": int(trace.meta["classes"]),
            **{name: effective_classes(samples[column], samples["step"], steps, recent)
               for name, column in (("predicted", "prediction"), ("true", "label"))}}


# --- tables for figures

def differences(result: Study, other: str = "source") -> dict:
    """Error minus that of ``other`` of the same source, mean over the sources of a kind: ``rows`` ("BN: Tent"), ``columns`` (settings), ``values``
    (R, 4) in points, ``settled`` (R, 4): above two standard errors over images in the same direction for every source of the kind."""
    rows, values, settled = [], [], []
    for kind in result.plan.kinds:
        for method in METHODS:
            found = np.array([[result.against(source, setting, method, other) for setting in SETTINGS] for source in result.plan.of_kind(kind)])
            if method in ("source", other) or not np.isfinite(found).all():
                continue
            points, error = found[..., 0], found[..., 1]
            beyond = np.where(np.abs(points) > 2 * error, np.sign(points), 0)
            rows.append(f"{kind}: {METHODS[method]}")
            values.append(points.mean(0))
            settled.append((beyond != 0).all(0) & (beyond == beyond[0]).all(0))
    shape = (0, len(SETTINGS))
    return {"rows": rows, "columns": list(SETTINGS.values()), "values": np.array(values).reshape(-1, shape[1]),
            "settled": np.array(settled, bool).reshape(-1, shape[1]), "other": other}


def source_errors(result: Study) -> dict:
    """Errors without learning, mean over the sources of a kind: ``settings``, ``lines`` {"BN: source": (4,) in per cent}, ``spread``: the same
    names, standard deviation over sources and seeds (NaN for a single run)."""
    lines, spread = {}, {}
    for kind in result.plan.kinds:
        for method in ("source", "batch_norm") if kind == "BN" else ("source",):
            values = [np.concatenate([result.values(source, setting, method) for source in result.plan.of_kind(kind)]) for setting in SETTINGS]
            lines[f"{kind}: {METHODS[method]}"] = np.array([v.mean() for v in values])
            spread[f"{kind}: {METHODS[method]}"] = np.array([v.std(ddof=1) if len(v) > 1 else math.nan for v in values])
    return {"settings": list(SETTINGS.values()), "lines": lines, "spread": spread}


def parts(result: Study) -> dict:
    """Tent and the parts of SAR on the long stream: ``arms``, ``kinds`` {kind: {"start": %, "error": {rate: (A,)}, "spread": {rate: (A,)}}}, means
    and standard deviations over seeds (NaN for one seed)."""
    seeds, found = result.plan.all_seeds, {}
    for source in _parts_sources(result.plan):
        values = {lr: np.array([[result.parts[source, lr, arm, k]["error"] for k in seeds] for arm in ARMS]) for lr in result.plan.rates}
        found[kind_of(source)] = {"start": float(np.mean([result.parts_start[source, k] for k in seeds])),
                                  "error": {lr: v.mean(1) for lr, v in values.items()},
                                  "spread": {lr: v.std(1, ddof=1) if v.shape[1] > 1 else np.full(len(v), math.nan) for lr, v in values.items()}}
    return {"arms": list(ARMS.values()), "kinds": found}


def harmed(result: Study) -> list[dict]:
    """Every run that learned by gradients, with ``points`` above its own start (BN-1 or source), ``harmed`` (more than HARM and than two standard
    errors over the images) and ``alarm`` (bool)."""
    found = []

    def add(where, wrong, start, alarm):
        apart = 100 * (wrong.astype(np.float64) - start)
        points, error = float(apart.mean()), float(apart.std(ddof=1)) / math.sqrt(len(apart))
        found.append({"where": where, "points": points, "alarm": alarm >= 0, "harmed": points > max(HARM, 2 * error)})

    for (source, setting, method, seed), v in result.runs.items():
        if method in LEARN:
            add(f"{METHODS[method]}, {kind_of(source)}, {SETTINGS[setting]}", result.wrong[f"{source}, {setting}", method, seed],
                result.wrong[f"{source}, {setting}", start_of(source), seed], v["alarm"])
    for (source, lr, arm, seed), v in result.parts.items():
        add(f"{ARMS[arm]} at {lr:g}, {kind_of(source)}, long label shift", result.wrong[f"{source}, long", f"{arm} {lr:g}", seed],
            result.wrong[f"{source}, long", "start 0", seed], v["alarm"])
    return found


# --- words that follow the numbers

def _p(value, digits: int = 1) -> str:
    return f"{value:.{digits}f}" if np.isfinite(value) else "not defined"


def words_of(kind: str, plan: Plan | None = None) -> str:
    """A kind of normalisation in words; what networks have it only where they are the embedded ones."""
    return KINDS[kind] if plan is None or set(plan.sources) <= set(SOURCES) else KINDS[kind].split(" (")[0]


def _share(value) -> str:
    return f"{100 * value:.0f} %" if np.isfinite(value) else "none"


def say_sources(result: Study) -> list[str]:
    """What the settings do to the sources as they are, and to batch statistics."""
    lines = []
    for kind in result.plan.kinds:
        own = {s: result.mean(kind, s, "source") for s in SETTINGS}
        lines.append(f"{words_of(kind, result.plan)}: the source errs on " + ", ".join(f"{_p(v)} % ({SETTINGS[s]})" for s, v in own.items()) + ".")
    if result.plan.of_kind("BN"):
        bn = {s: result.mean("BN", s, "batch_norm") - result.mean("BN", s, "source") for s in SETTINGS}
        helped = [SETTINGS[s] for s, v in bn.items() if v < -1]
        hurt = [SETTINGS[s] for s, v in bn.items() if v > 1]
        lines.append("Batch statistics (BN-1) change the error of their own source by " + ", ".join(f"{points(v)} ({SETTINGS[s]})"
                                                                                                    for s, v in bn.items()) + ".")
        lines.append(f"So they help under {_and(helped) or 'none of the settings'} and harm under {_and(hurt) or 'none of them'}"
                     + (f"; under {_and([SETTINGS[s] for s, v in bn.items() if abs(v) <= 1])} they make less than a point of difference."
                        if any(abs(v) <= 1 for v in bn.values()) else "."))
    return lines


def _and(names) -> str:
    names = list(names)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def say_methods(result: Study) -> list[str]:
    """Who ends below and who above its own source, settled over images for each source of its kind."""
    table, lines = differences(result), []
    for setting, name in enumerate(table["columns"]):
        better = [f"{r} ({signed(v[setting])})" for r, v, s in zip(table["rows"], table["values"], table["settled"], strict=True)
                  if s[setting] and v[setting] < 0]
        worse = [f"{r} ({signed(v[setting])})" for r, v, s in zip(table["rows"], table["values"], table["settled"], strict=True)
                 if s[setting] and v[setting] > 0]
        lines.append(f"{name.capitalize()}: better than the own source, beyond two standard errors: {_and(better) or 'nobody'}; worse: "
                     f"{_and(worse) or 'nobody'}.")
    lines.append(f"Of these {table['values'].size} comparisons about {table['values'].size / 20:.0f} would look settled by chance.")
    if result.plan.of_kind("BN"):
        table = differences(result, "batch_norm")
        learned = [(r, v, s) for r, v, s in zip(table["rows"], table["values"], table["settled"], strict=True)
                   if r in {f"BN: {METHODS[m]}" for m in LEARN}]
        moved = [f"{r} under {table['columns'][i]} ({signed(v[i])})" for r, v, s in learned for i in range(len(table["columns"])) if s[i]]
        lines.append("Against BN-1, from which Tent, SAR and DeYO start, learning itself makes a settled difference for: "
                     f"{_and(moved) or 'none of them'}.")
    return lines


def say_seeds(result: Study) -> list[str]:
    """How much the three batch-norm sources, trained alike from other seeds, differ from each other."""
    names = result.plan.of_kind("BN")
    if not set(result.plan.sources) <= set(SOURCES):
        return []
    if len(names) < 2:
        return ["Fast mode has one batch-norm source; full mode adds two that were trained from other seeds."]
    spread = {s: [result.values(n, s, "batch_norm").mean() - result.values(n, s, "source").mean() for n in names] for s in SETTINGS}
    return ["BN-1 minus own source, for each of the batch-norm sources: " + "; ".join(
        f"{SETTINGS[s]} {', '.join(f'{signed(v)}' for v in values)}" for s, values in spread.items()) + " points."]


def say_statistics(numbers: dict, result: Study) -> list[str]:
    """Which statistics are nearer to the right ones, and whether the error follows."""
    away = {s: float(np.mean(v)) for s, v in numbers["settings"].items()}
    stored = float(np.mean(numbers["source"]))
    near, far = ([SETTINGS[s] for s, v in away.items() if (v < stored) == nearer] for nearer in (True, False))
    lines = [f"Distance from the right statistics, mean over layers: {stored:.2f} nats for those stored in the source; for those of a batch "
             + ", ".join(f"{v:.2f} ({SETTINGS[s]})" for s, v in away.items()) + ".",
             f"Statistics of a batch are nearer than the stored ones under {_and(near) or 'no setting'}"
             + (f", and further away under {_and(far)}." if far else ".")]
    most = {s: int(numbers["layers"][np.argmax(v)]) for s, v in numbers["settings"].items()}
    lines.append(f"They are furthest off at layer {int(numbers['layers'][np.argmax(numbers['source'])])} of {len(numbers['layers'])} (stored), "
                 + ", ".join(f"{layer} ({SETTINGS[s]})" for s, layer in most.items()) + ".")
    gain = {s: result.mean("BN", s, "batch_norm") - result.mean("BN", s, "source") for s in SETTINGS}
    last = {s: float(v[-1]) for s, v in numbers["settings"].items()}
    for where, found, limit in (("over all layers", away, stored), ("at the last layer alone", last, numbers["source"][-1])):
        others = [SETTINGS[s] for s in SETTINGS if (found[s] < limit) != (gain[s] < 0)]
        lines.append(f"Nearer statistics should mean that BN-1 errs less than the source. By the distance {where} this is so in "
                     f"{len(SETTINGS) - len(others)} of {len(SETTINGS)} settings" + (f", not under {_and(others)}." if others else "."))
    return lines


def say_in_use(numbers: dict) -> list[str]:
    """How restless the statistics in use are, and the error that goes with them."""
    lines = []
    for method, line in numbers["lines"].items():
        late = line[np.isfinite(line)]
        jump = float(np.median(np.abs(np.diff(late)))) if len(late) > 1 else math.nan
        lines.append(f"{METHODS[method]}: {_p(float(np.mean(late)), 2)} nats from the source's statistics on average, {_p(jump, 2)} from one batch "
                     f"to the next (median); error {numbers['error'][method]:.1f} %.")
    least = min(numbers["error"], key=numbers["error"].get)
    return [*lines, f"Least error of these under {SETTINGS[numbers['setting']]}: {METHODS[least]}."]


def say_gradients(found: dict, plan: Plan | None = None) -> list[str]:
    """SAR's finding in the numbers of each source; ``plan`` says how many classes there are (10)."""
    lines, classes = [], 10 if plan is None else plan.classes
    for kind, one in found.items():
        n = of_gradients(one, classes)
        filtered = (f"the {_share(n['unsure'])} of images that the filter drops hold {_share(n['unsure_pull'])} of the summed norms, and "
                    f"{_share(n['wrong_unsure'])} of them are wrong ({_share(n['wrong_sure'])} of the others)") if n["unsure"] else \
            f"the filter would drop none of these images, although {_share(n['wrong_sure'])} of them are wrong"
        lines.append(f"{words_of(kind, plan)}: rank correlation of entropy and gradient norm {signed(n['correlation'], 2)}; {filtered}. Of the tenth with the "
                     f"longest gradients {_share(n['longest_wrong'])} are wrong; the filter lets {_share(n['longest_sure'])} of that tenth through.")
    seen = [kind for kind, one in found.items() if of_gradients(one, classes)["correlation"] > 0.3]
    lines.append("Unsure images have the longer gradients (rank correlation above 0.3), as SAR reports, with " + (_and(seen) or "none of the sources")
                 + (f"; not clearly so with {_and(k for k in found if k not in seen)}." if len(seen) < len(found) and seen else "."))
    return lines


def say_parts(result: Study) -> list[str]:
    """What each part of SAR changes where Tent goes wrong."""
    lines, seeds = [], result.plan.all_seeds
    for source in _parts_sources(result.plan):
        start = np.mean([result.parts_start[source, k] for k in seeds])
        for lr in result.plan.rates:
            e = {arm: float(np.mean([result.parts[source, lr, arm, k]["error"] for k in seeds])) for arm in ARMS}
            resets = float(np.mean([result.parts[source, lr, "sar", k]["resets"] for k in seeds]))
            gains = {arm: e[arm] - e["tent"] for arm in ("filter", "sharpness", "both")}
            text = f"{kind_of(source)}, rate {lr:g}: start {start:.1f} %, Tent {e['tent']:.1f} %"
            if e["tent"] - start <= HARM:
                lines.append(f"{text}: at most {HARM:g} points of harm to prevent; SAR {e['sar']:.1f} %.")
                continue
            lines.append(f"{text}; with the filter {e['filter']:.1f} ({signed(gains['filter'])}), with sharpness {e['sharpness']:.1f} "
                         f"({signed(gains['sharpness'])}), with both {e['both']:.1f} ({signed(gains['both'])}); SAR, which also resets itself "
                         f"({resets:.0f} times), {e['sar']:.1f} ({signed(e['sar'] - e['both'])} more).")
    return lines


def say_over_time(numbers: dict, name: str) -> str:
    """Gradient, classes and alarm of a run in a sentence."""
    g = numbers["gradient"][np.isfinite(numbers["gradient"])]
    third = max(len(g) // 3, 1)
    alarm = np.flatnonzero(numbers["alarm"])
    grown = f"the median gradient norm goes from {np.median(g[:third]):.2g} in the first third to {np.median(g[-third:]):.2g} in the last" \
        if len(g) else "no gradient is recorded"
    return (f"{name}: {grown}, with {numbers['predicted'][-1]:.1f} classes predicted among the last images ({numbers['true'][-1]:.1f} true); "
            + (f"first alarm in step {numbers['step'][alarm[0]]} of {len(numbers['step'])}" if len(alarm) else "no alarm")
            + (f"; it reset itself {len(numbers['marks'])} times." if numbers["marks"] else "."))


def say_alarms(result: Study) -> list[str]:
    """How the detector's alarms lie to harm by labels, over all runs that learned."""
    found = harmed(result)
    bad, good = ([f for f in found if f["harmed"] == is_bad] for is_bad in (True, False))
    missed = [f["where"] for f in bad if not f["alarm"]]
    false = [f["where"] for f in good if f["alarm"]]
    lines = [f"{len(found)} runs learned by gradients. {len(bad)} of them end more than {HARM:g} points above their own start, beyond two standard "
             f"errors; the detector raised an alarm in {sum(f['alarm'] for f in bad)} of these, and in {len(false)} of the other {len(good)}."]
    if missed:
        lines.append(f"Harmed without an alarm: {_some(missed)}.")
    if false:
        lines.append(f"Alarm without that much harm: {_some(false)}.")
    if result.plan.of_kind("BN"):
        worst = max(SETTINGS, key=lambda s: result.mean("BN", s, "batch_norm"))
        lines.append(f"What the alarm is not for: BN-1 errs on {result.mean('BN', worst, 'batch_norm'):.0f} % under {SETTINGS[worst]} without "
                     "learning anything, so there is no collapse to warn of. Compare with the source before you adapt.")
    return lines


def _some(names, most: int = 4) -> str:
    names = list(dict.fromkeys(names))
    return "; ".join(names[:most]) + (f"; and {len(names) - most} more" if len(names) > most else "")


def table(result: Study) -> str:
    """Errors in per cent, mean over the sources of a kind and over seeds."""
    head = f"{'error (%)':<14}" + "".join(f"{name:>21}" for name in SETTINGS.values())
    lines = [head]
    for kind in result.plan.kinds:
        for method, name in METHODS.items():
            values = [result.mean(kind, setting, method) for setting in SETTINGS]
            if np.isfinite(values).all():
                lines.append(f"{kind + ': ' + name:<14}" + "".join(f"{v:>21.1f}" for v in values))
    return "\n".join(lines)


def save(result: Study, path, **more) -> None:
    """Write the numbers of a study as JSON (no number: null), with the date and the versions they were made with."""
    write_numbers(path, {**result.to_dict(), **more})


# --- single runs, for the panel and for you

@lru_cache(6)
def _stream(plan: Plan, setting: str, batch: int, seed: int):
    return Kept(plan.stream(setting, seed, batch)), {}


def one_run(source: str = "fashion_resnet_bn", setting: str = "labels", method: str = "tent", batch: int = 20, lr: float = 1e-2, seed: int = 0,
            stop=None, each=None, device="cpu", plan: Plan | None = None) -> Trace:
    """One method on one source under one setting, of the size of the fast plan, or of another: what the panel calls, and you may too.

    ``stop()`` is asked before each batch and ends the run, ``each(trace)`` is called after each; single images divide ``lr`` as SAR's code does.
    Raises ValueError for a name that does not exist and for a method that the source cannot carry out.
    """
    from ... import Adapter

    plan = replace(plan or FAST, first_seed=seed)
    if source not in (*SOURCES, *plan.sources):
        raise ValueError(f"source must be one of {', '.join(SOURCES if plan.embedded else plan.sources)}, not {source!r}")
    if method in ONLY_BN and kind_of(source) != "BN":
        raise ValueError(f"{METHODS[method]} sets the statistics of batch-norm layers, and {source} has none; choose another method or source")
    stream, shared = _stream(plan, setting, 1 if setting == "single" else batch, seed)
    adapter = Adapter(own.network(source), recipe_of(method, lr / (SINGLE_RATE if setting == "single" else 1)), seed=seed, device=device, record="source")
    adapter.shared_source = shared.setdefault((source, device), {})
    return run(adapter, stream, stop=stop, each=each)


def beside_run(source: str, setting: str, batch: int, seed: int = 0, stop=None, device="cpu", plan: Plan | None = None) -> dict[str, Trace]:
    """Source and, where there is batch norm, BN-1 on the same stream; only runs that came to their end."""
    names = ["source"] + ["batch_norm"] * (kind_of(source) == "BN")
    found = {METHODS[name]: one_run(source, setting, name, batch, seed=seed, stop=stop, device=device, plan=plan) for name in names}
    return {name: trace for name, trace in found.items() if trace.meta["complete"]}


def live_numbers(trace: Trace, beside: dict[str, Trace], recent: int = 100) -> dict:
    """What the panel draws: ``so_far`` (`explorer_numbers.so_far`) of this run and those beside it, ``over`` (`over_time`), ``error`` {name: %}."""
    from ..explorer.study import so_far

    numbers = so_far({"this run": trace} | beside, len(trace))
    return {"so_far": numbers, "over": over_time(trace, recent), "error": {name: float(v) for name, v in numbers["last"].items()}}


def say_live(numbers: dict, source: str, setting: str, method: str) -> str:
    """The panel's last line."""
    errors, over = numbers["error"], numbers["over"]
    others = ", ".join(f"{name} {value:.1f} %" for name, value in errors.items() if name != "this run")
    alarm = f"first alarm in step {over['step'][np.flatnonzero(over['alarm'])[0]]}" if over["alarm"].any() else "no alarm"
    return (f"{METHODS[method]} on {source} under {SETTINGS[setting]}: error {errors['this run']:.1f} % ({others}); "
            f"{over['predicted'][-1]:.1f} classes predicted among the last images, {over['true'][-1]:.1f} true; {alarm}.")


