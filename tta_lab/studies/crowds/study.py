"""The wisdom-of-crowds study: does the confidence filter stop the decay of Tent, and does it do so
by *which* samples it drops?

One plan, one function, plain numbers; the notebook and its widgets call nothing else. Paper:
Towards Open-Set Test-Time Adaptation Utilizing the Wisdom of Crowds in Entropy Minimization
(2308.06879).
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from ...analysis import diagnose, metrics
from ...components.penalties import Diversity
from ...components.selectors import ConfidenceRise, RandomKeep
from ...core.parts import Method
from ...core.trace import Trace
from ...data.corruptions import STANDARD_SIX
from ...experiments.runner import run, runs
from ...methods import make
from ...models.embedded import checkpoints
from ...streams.images import UNKNOWN_ID
from ...streams.stream import Stream
from .. import base, own
from ..report import (
    aligned,
    decimal,
    interval,
    nothing,
    paragraphs,
    points,
    several,
    share,
    with_spread,
)

SETTINGS = ("closed", "open")
UNKNOWNS = {"digits": ("fashion_mnist", "digits", "fashion_resnet_bn"),
            "held_out": ("fashion_mnist_8", "fashion_mnist_held_out", "fashion8_resnet_bn")}
LABELS = {"source": "source", "batch_norm": "BN-1", "tent": "Tent", "filter": "Tent + filter",
          "random": "Tent + random", "diversity": "Tent + diversity",
          "wisdom_of_crowds": "Tent + filter + diversity (the method)"}


@dataclass(frozen=True)
class Plan(base.Plan):
    """The full plan is the paper's long-term protocol at this project's size; the fast one shows
    the effect within a minute. Beside a model or images of your own ``unknown`` may be any image
    set of the same shape."""

    rounds: int = 50
    per_shift: int = 300
    batch: int = 100
    lr: float = 1e-3
    unknown: str = "digits"
    unknown_ratio: float = 1.0
    severity: float = 5.0
    tolerance: float = 0.0
    model: str = ""         # "": as ``unknown`` says
    images: str = ""
    shifts: tuple = STANDARD_SIX
    settings: tuple = SETTINGS

    fast = {"rounds": 4, "per_shift": 100, "lr": 2e-2, "seeds": 1}

    def __post_init__(self):
        if self.unknown not in UNKNOWNS and self.embedded:
            raise ValueError(f"unknown must be one of {', '.join(UNKNOWNS)}, not {self.unknown!r}")
        if self.rounds < 2 or self.seeds < 1:
            raise ValueError(f"the study needs at least 2 rounds and 1 seed, got {self.rounds} and "
                             f"{self.seeds}")
        if not self.unknown_ratio > 0:
            raise ValueError(f"unknown_ratio must be above 0, got {self.unknown_ratio}: the closed "
                             "set is always run beside the open one")

    def on(self, pair: own.Pair) -> Plan:
        """The same plan with the shifts, the number of images and the sets that a pair allows."""
        shifts, per_shift, notes = own.allowed(pair, STANDARD_SIX, self.per_shift, self.severity)
        plan = replace(self, shifts=shifts, per_shift=per_shift)
        why = own.refusal(lambda: plan.open(self.first_seed))
        if why:
            notes.append(f"The open set is left out: {why}. unknown= names other unknown images.")
        return replace(plan, settings=SETTINGS[:1] if why else SETTINGS, notes=tuple(notes))

    @property
    def embedded(self) -> bool:
        """Whether model and images are the embedded ones."""
        return not self.model and not self.images

    @property
    def known(self) -> str:
        return self.images or UNKNOWNS[self.unknown][0]

    @property
    def unknown_images(self) -> str:
        """The set of the unknown images."""
        return UNKNOWNS[self.unknown][1] if self.unknown in UNKNOWNS else self.unknown

    @property
    def model_name(self) -> str:
        return self.model or UNKNOWNS[self.unknown][2]

    def closed(self, seed: int) -> Stream:
        """Known classes only."""
        return Stream(self.known, self.shifts, per_shift=self.per_shift, batch=self.batch,
                      rounds=self.rounds, severity=self.severity, seed=seed)

    def open(self, seed: int) -> Stream:
        """The same known images, each batch followed by unknown ones."""
        return replace(self.closed(seed), unknown=self.unknown_images,
                       unknown_ratio=self.unknown_ratio)

    def small(self) -> Plan:
        """The same plan with three rounds at most."""
        return base.smaller(self, "per_shift", rounds=min(self.rounds, 3))

    def describe(self) -> str:
        """The plan in words."""
        last = getattr(self, self.settings[-1])(self.first_seed)
        known, unknown = last.sizes[0]
        is_open = "open" in self.settings
        larger = [f"The learning rate is larger than the {FULL.lr:g} of the full protocol, in "
                  "order to show within a minute what that one shows in "
                  f"{FULL.rounds} rounds. Numbers made with different learning rates must not be "
                  "compared."]
        return self.described({
            "Known images": f"{self.known} ({len(last.classes)} classes), {self.per_shift} of each "
                            f"of {len(last.shifts)} shifts",
            "Unknown images": f"{self.unknown_images}, {self.unknown_ratio:g} for each known one, "
                              "in the open set only" if is_open else "",
            "Shifts": ", ".join(last.shifts).replace("_", " "), "Severity": f"{self.severity:g}",
            "Order": f"{self.rounds} rounds over all shifts, never reset",
            "Batches": f"{known} (closed set)"
                       + (f", {known} + {unknown} (open set)" if is_open else ""),
            "Filter": f"keeps d >= {0 - self.tolerance:g}",
            "Model and step": f"{self.model_name}, Adam, learning rate {self.lr:g}",
            "Runs": f"{len(self.settings) * len(LABELS) * self.seeds}: "
                    f"{several(len(self.settings), 'set')}, {len(LABELS)} arms, {self.seed_words}"},
            16, larger if self.lr > FULL.lr else ())

    def arms(self) -> dict[str, Method | Callable]:
        """The methods compared. The random one keeps, in each step, exactly as many samples as the
        filter did on that stream."""
        tent = make("tent", lr=self.lr)
        varied = make("tent", lr=self.lr, when_empty="step").plus(Diversity())
        return {"source": make("source"), "batch_norm": own.batch_statistics(self.model_name),
                "tent": tent, "filter": tent.where(ConfidenceRise(tolerance=self.tolerance)),
                "random": lambda done: tent.where(RandomKeep.like(done["filter"])),
                "diversity": varied,
                "wisdom_of_crowds": make("wisdom_of_crowds", lr=self.lr, tolerance=self.tolerance),}


FULL = Plan()
FAST = Plan(**Plan.fast)


@dataclass
class Study(base.Study):
    """Numbers of every run, (setting, arm, seed) -> dict, and the traces of the first seed for
    figures."""

    runs: dict[tuple[str, str, int], dict] = field(default_factory=dict)
    traces: dict[tuple[str, str], Trace] = field(default_factory=dict)

    @property
    def seeds(self) -> list[int]:
        return sorted({seed for _, _, seed in self.runs})

    def values(self, setting: str, arm: str, what: str = "last") -> np.ndarray:
        """One number per seed."""
        return np.array([self.runs[setting, arm, seed][what] for seed in self.seeds])

    def curves(self, setting: str, arms=tuple(LABELS)[1:]) -> dict[str, list[dict]]:
        """Error per round and seed, as ``plots.plot_error_per_round`` takes it; without the source,
        which is flat and far above the rest."""
        return {LABELS[arm]: [self.runs[setting, arm, seed]["per_round"] for seed in self.seeds]
                for arm in arms}

    def contrast(self, setting: str, one: str, other: str, what: str = "last") -> dict:
        """Paired over seeds: error of ``one`` minus error of ``other`` in points, with a 95 % t
        interval (needs 2 seeds)."""
        return metrics.paired_interval(self.values(setting, one, what),
                                       self.values(setting, other, what))

    def rows(self) -> list[dict]:
        """The table: per setting and arm, error in the first and last round and over all rounds
        (mean and sd over seeds), share kept, and AUROC of known against unknown by energy."""
        found = []
        for setting in self.plan.settings:
            for arm, label in LABELS.items():
                row = {"setting": setting, "method": label}
                for what in ("first", "last", "mean", "kept", "auroc"):
                    values = self.values(setting, arm, what)
                    row |= {what: float(values.mean()), f"{what}_sd": float(base.deviation(values))}
                found.append(row)
        return found

    def made(self) -> dict:
        """The devices that runs were made on."""
        return {"device": sorted({str(trace.meta.get("device")) for trace in self.traces.values()})}

    def to_dict(self) -> dict:
        """Everything a regression test or a later reader needs, as plain values."""
        contrasts = {f"{setting}: {LABELS[a]} - {LABELS[b]}": self.contrast(setting, a, b)
                     for setting in self.plan.settings for a, b in CONTRASTS}
        return {**super().to_dict(), "table": self.rows(), "contrasts": contrasts,
                "runs": base.rows_of(base.with_rounds(self.runs), "setting", "arm")}


CONTRASTS = (("tent", "batch_norm"), ("wisdom_of_crowds", "batch_norm"),
             ("wisdom_of_crowds", "tent"), ("filter", "tent"), ("filter", "random"),
             ("wisdom_of_crowds", "diversity"))


def summary(trace: Trace) -> dict:
    """The numbers of one run: error in the first and last round and over all (per cent, known
    images), share kept, AUROC of known against unknown by energy, what the falling samples are, and
    the share of wrong or unknown ("bad") images in the last round."""
    per_round = diagnose.error_per_round(trace)
    known = np.asarray(trace["known"], bool)
    error = per_round["error"]
    fall = diagnose.rise_and_fall(trace)
    n = trace.step("n")
    return {"first": float(error[0]), "last": float(error[-1]), "mean": float(error.mean()),
            "kept": float(trace.step("n_kept").sum() / n.sum()), "per_round": per_round,
            "auroc": float("nan") if known.all() else float(metrics.auroc(trace["energy"], known)),
            "falling_last": float(fall["falling_share"][-1]),
            "bad_among_falling_last": float(1 - fall["among_falling"]["correct"][-1]),
            "bad_last": float(
                1 - np.asarray(trace["correct"], bool)[trace["round"]
                                                       == trace["round"].max()].mean()),
            "distance": float(trace.step("distance")[-1]),
            "seconds": float(trace.step("seconds").sum())}


def study(plan: Plan, cache=None, progress: bool = False, device="auto") -> Study:
    """Run all arms on the closed and the open stream with every seed. With ``cache`` an interrupted
    study goes on where it stopped."""
    result = Study(plan)
    for key, trace in runs(plan.arms(), {name: getattr(plan, name) for name in plan.settings},
                           own.network(plan.model_name), plan.all_seeds, cache=cache,
                           progress=progress, device=device, channels_last=True):
        result.runs[key] = summary(trace)
        if key[2] == plan.first_seed:
            result.traces[key[:2]] = trace
    return result


def sentence(contrast: dict, what: str) -> str:
    """What a paired difference says, in words that follow the number."""
    mean = contrast["difference"]
    low = contrast["low"]
    change = (f"changes the error in the last round by {points(mean)}" if nothing(mean)
              else f"{'lowers' if mean < 0 else 'raises'} the error in the last round by "
                   f"{points(mean, sign=False)}")
    if not np.isfinite(low):
        return f"{what} {change} (one seed: no interval)."
    settled = low > 0 or contrast["high"] < 0
    open_ = "" if settled else "; the interval holds 0, so the sign is not settled"
    return f"{what} {change} ({interval(contrast)}, {contrast['n']} seeds{open_})."


def table(result: Study) -> str:
    """The table as text, and the sentences that follow from it. Errors in per cent, +- one standard
    deviation over seeds."""
    lines = []
    for setting in result.plan.settings:
        detected = setting == "open"
        cells = [(f"{setting} set", "first round", "last round", "all rounds", "kept",
                  "AUROC" if detected else "")]
        for row in (r for r in result.rows() if r["setting"] == setting):
            cells.append((f"  {row['method']}", f"{row['first']:.1f}",
                          with_spread(row["last"], row["last_sd"]), f"{row['mean']:.1f}",
                          share(row["kept"]) if row["kept"] else "-",
                          f"{100 * row['auroc']:.1f} %" if detected else ""))
        lines += [aligned(cells, (-41, 11, 14, 11, 6, 7)), "", paragraphs(
            sentence(result.contrast(setting, one, other), what) for one, other, what in (
                ("tent", "batch_norm", "Tent, against BN-1,"),
                ("wisdom_of_crowds", "batch_norm", "The method, against BN-1,"),
                ("filter", "random", "The filter, against dropping as many at random,"),
                ("wisdom_of_crowds", "diversity", "The filter, added to the diversity term,"))), ""]
    return "\n".join(lines)


save = base.save


# --- what the numbers say, in words that follow them


_share = partial(share, none="not defined")
_error = partial(decimal, unit=" %")


def _moves(first: float, last: float, show=_share) -> str:
    """The change between two numbers; the word fits the rounded ones."""
    one = show(first)
    two = show(last)
    word = "rises" if last > first else "falls" if last < first else "goes"
    return f"stays at {one}" if one == two else f"{word} from {one} to {two}"


def say_source(result: Study) -> str:
    """How far the shifts throw the source back, and what the statistics of each batch repair."""
    lines = []
    if result.plan.embedded:
        lines.append("On clean images the source model errs on "
                     f"{100 - checkpoints()[result.plan.model_name]['test_accuracy']:.1f} %.")
    for setting in result.plan.settings:
        source, batch = (result.values(setting, arm, "mean").mean()
                         for arm in ("source", "batch_norm"))
        lines.append(f"Under the shifts, {setting} set: {source:.1f} %; with the statistics of "
                     f"each batch instead (BN-1): {batch:.1f} %.")
    return paragraphs(lines)


def say_errors(result: Study) -> str:
    """What happens to the error between the first and the last round, per setting."""
    lines = []
    for setting in result.plan.settings:
        last = {arm: result.values(setting, arm).mean() for arm in LABELS}
        first = {arm: result.values(setting, arm, "first").mean() for arm in LABELS}
        best = min(last, key=last.get)
        worst = max(last, key=last.get)
        lines += [f"{setting} set, first to last round: " + "; ".join(
                      f"{LABELS[arm]} {_moves(first[arm], last[arm], _error)}"
                      for arm in ("batch_norm", "tent", "wisdom_of_crowds")) + ".",
                  f"  Last round: lowest {LABELS[best]} ({last[best]:.1f} %), highest "
                  f"{LABELS[worst]} ({last[worst]:.1f} %)."]
    return paragraphs(lines)


def say_falling(result: Study, arm: str = "tent") -> str:
    """How many images fall, and whether the fallen are worse than the rest."""
    lines = []
    for setting in result.plan.settings:
        trace = result.traces[setting, arm]
        share = diagnose.rise_and_fall(trace)["falling_share"]
        last = trace["round"] == trace["round"].max()
        falls = last & (trace["rise_source"] < 0)
        masks = diagnose.groups(trace)
        if not falls.any():
            lines.append(f"{LABELS[arm]}, {setting} set: nothing falls in the last round.")
            continue
        bad = ["wrong"] + ["unknown"] * bool(masks["unknown"].any())
        found = [f"{_share(masks[g][falls].mean())} of the falling are {g}, "
                 f"{_share(masks[g][last].mean())} of all images are" for g in bad]
        lines.append(f"{LABELS[arm]}, {setting} set: the share of falling images "
                     f"{_moves(share[0], share[-1])}. In the last round {'; '.join(found)}.")
    return paragraphs(lines)


def say_crowd(result: Study) -> str:
    """Who the crowd is: the share of each group in the entropy that Tent lowers, beside its share
    in the images; and whether the filter changes who falls, compared with dropping as many at
    random."""
    lines = []
    for setting in result.plan.settings:
        trace = result.traces[setting, "tent"]
        masks = diagnose.groups(trace)
        entropy = trace["entropy"].astype(np.float64)
        parts = [f"{name} {_share(mask.mean())} of the images and "
                 f"{_share(entropy[mask].sum() / entropy.sum())} of the entropy"
                 for name, mask in masks.items() if mask.any()]
        lines.append(f"{setting} set, all rounds of Tent: " + "; ".join(parts) + ".")
        falls = {}
        for arm in ("filter", "random"):
            within = diagnose.rise_and_fall(result.traces[setting, arm])["within_group"]
            falls[arm] = {group: float(np.nanmean(values)) for group, values in within.items()
                          if np.isfinite(values).any()}
        lines.append("  Share that falls, mean over rounds: " + "; ".join(
                         f"{group} {_share(falls['filter'][group])} with the filter, "
                         f"{_share(falls['random'][group])} with as many dropped at random"
                         for group in falls["filter"]) + ".")
    return paragraphs(lines)


def say_rise(trace: Trace) -> str:
    """How much of each group falls, early and late."""
    within = diagnose.rise_and_fall(trace)["within_group"]
    return paragraphs(["The share with d < 0, first to last round: " + "; ".join(
                           f"{name} {_moves(within[group][0], within[group][-1])}"
                           for group, name in (("correct", "known and correct"),
                                               ("wrong", "known and wrong"), ("unknown", "unknown"))
                           if np.isfinite(within[group]).any()) + "."])


def say_entropy(traces: dict[str, Trace]) -> str:
    """Does the prediction entropy sink, and does the error follow?"""
    lines = []
    for name, trace in traces.items():
        median = diagnose.entropy_histogram(trace)["median"]
        error = diagnose.error_per_round(trace)["error"]
        sinks = _moves(median[0], median[-1], lambda v: f"{v:.3f} nats")
        lines.append(f"{name}: the median entropy {sinks} between the first and the last stretch, "
                     f"while the error of the rounds {_moves(error[0], error[-1], _error)}.")
    return paragraphs(lines)


def say_selection(numbers: dict) -> str:
    """Precision and recall of each selection rule in the first and the last round."""
    lines = [f"{name}: precision "
             f"{_moves(numbers['precision'][rule][0], numbers['precision'][rule][-1])}, recall "
             f"{_moves(numbers['recall'][rule][0], numbers['recall'][rule][-1])}"
             for rule, name in numbers["labels"].items()]
    return paragraphs([f"{line}, from the first to the last round." for line in lines])


def say_classes(traces: dict[str, Trace]) -> str:
    """How many classes are in use, and when the alarm goes off."""
    lines = []
    for name, trace in traces.items():
        numbers = diagnose.marginal_entropy(trace)
        used = numbers["effective_classes"]
        at = numbers["alarm_step"]
        alarm = (f"it is first below {numbers['threshold']:g} at step {at}" if at >= 0
                 else f"it is never below {numbers['threshold']:g}")
        moves = _moves(used[0], used[-1], lambda v: f"{v:.1f}")
        lines.append(f"{name}: the effective number of classes {moves} between the first and the "
                     f"last batch; {alarm}.")
    return paragraphs(lines)


def say_detection(trace: Trace) -> str:
    """Which score tells unknown from known, and wrong from correct, best in the last round."""
    numbers = diagnose.detection(trace, rounds=int(trace["round"].max()))
    lines = []
    for question, name in (("known_vs_unknown", "known from unknown"),
                           ("correct_vs_wrong", "correct from wrong")):
        auroc = numbers[question]["auroc"]
        if not np.isfinite(auroc).any():
            lines.append(f"There is nothing to tell {name}.")
            continue
        best = int(np.nanargmax(auroc))
        lines.append(f"Telling {name} in the last round: best is {numbers['labels'][best]} (AUROC "
                     f"{_share(auroc[best])}); the confidence difference d reaches "
                     f"{_share(auroc[numbers['scores'].index('rise')])} (chance: 50 %).")
    return paragraphs(lines)


# --- single runs, for panels and for you


def examples(plan: Plan, known: int = 5, unknown: int = 4) -> dict:
    """The same images clean and under every shift, as ``plots.plot_images`` takes them."""
    import torch

    stream = getattr(plan, plan.settings[-1])(plan.first_seed)
    clean = ["none"] if own.has_clean(own.images_of(plan.known)) else []
    ids = stream.segment_ids[0][0]
    ids = torch.cat([ids[:known], ids[stream.per_shift:stream.per_shift + unknown]])
    rows = (*clean, *stream.shifts)
    first = ids < UNKNOWN_ID
    names = [stream.known_set.classes[int(stream.known_set.y[i])] for i in ids[first]]
    names += [stream.unknown_set.classes[int(stream.unknown_set.y[i])]
              for i in ids[~first] % UNKNOWN_ID]
    return {"x": np.stack([stream.images(ids, shift).cpu().numpy() for shift in rows]),
            "columns": names, "rows": [*(["clean"] if clean else []),
                                       *(shift.replace("_", " ") for shift in stream.shifts)],
            "known": first.numpy()}


def stream_of(plan: Plan, unknown_ratio: float, rounds: int, seed: int) -> Stream:
    """The stream of a single run: the plan's, with another share of unknowns (0: closed set) and
    another number of rounds."""
    plan = replace(plan, rounds=max(2, rounds), unknown_ratio=unknown_ratio or 1.0)
    return plan.open(seed) if unknown_ratio else plan.closed(seed)


def one_run(lr: float, filtered: bool, diverse: bool, unknown_ratio: float, rounds: int,
            plan: Plan = FAST, seed: int = 0, progress=False, stop=None, each=None,
            device="auto") -> Trace:
    """One Tent run with or without the filter and the diversity term: what the widgets call, and
    you may too.

    ``stop()`` is asked before each batch and ends the run, ``each(trace)`` is called after each;
    ``unknown_ratio`` 0 is the closed set.
    """
    recipe = make("tent", lr=lr)
    recipe = recipe.where(ConfidenceRise()) if filtered else recipe
    recipe = replace(recipe.plus(Diversity()), when_empty="step") if diverse else recipe
    adapter = base.adapter_for(own.network(plan.model_name), recipe, seed=seed, device=device)
    return run(adapter, stream_of(plan, unknown_ratio, rounds, seed), progress=progress, stop=stop,
               each=each)


def reference(trace: Trace) -> dict:
    """Error per round of BN-1 on the very images of a run: the frozen source with batch statistics,
    which every run here records."""
    if trace.meta.get("source_statistics") != "batch":
        raise ValueError("the frozen source was not recorded with batch statistics; use "
                         "record='source' and ConfidenceRise(statistics='batch')")
    known = np.asarray(trace["known"], bool)
    return diagnose.error_per_round(Trace.from_columns(
                                        {"round": trace["round"], "known": known, "correct": known
                                         & (trace["source_prediction"] == trace["label"])}))
