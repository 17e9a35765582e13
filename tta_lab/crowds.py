"""The wisdom-of-crowds study: does the confidence filter stop the decay of Tent, and does it do so by *which* samples it drops?

One plan, one function, plain numbers; the notebook and its widgets call nothing else.
Paper: Towards Open-Set Test-Time Adaptation Utilizing the Wisdom of Crowds in Entropy Minimization (2308.06879).
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import partial

import numpy as np

from . import diagnose, metrics
from .methods import make
from .models import load_model
from .parts import Method
from .penalties import Diversity
from .runner import compare
from .selectors import ConfidenceRise, RandomKeep
from .streams import Stream
from .trace import Trace

UNKNOWNS = {"digits": ("fashion_mnist", "digits", "fashion_resnet_bn"),
            "held_out": ("fashion_mnist_8", "fashion_mnist_held_out", "fashion8_resnet_bn")}
LABELS = {"source": "source", "batch_norm": "BN-1", "tent": "Tent", "filter": "Tent + filter", "random": "Tent + random",
          "diversity": "Tent + diversity", "wisdom_of_crowds": "Tent + filter + diversity (the method)",
          "random_diversity": "Tent + random + diversity"}


@dataclass(frozen=True)
class Plan:
    """What is run. Zero, or an empty text, means "as the mode says" when a plan comes from ``Plan.of``."""

    rounds: int = 50
    per_shift: int = 300
    batch: int = 100
    lr: float = 1e-3
    seeds: int = 3
    unknown: str = "digits"
    unknown_ratio: float = 1.0
    severity: float = 5.0
    first_seed: int = 0

    def __post_init__(self):
        if self.unknown not in UNKNOWNS:
            raise ValueError(f"unknown must be one of {', '.join(UNKNOWNS)}, not {self.unknown!r}")
        if self.rounds < 2 or self.seeds < 1:
            raise ValueError(f"the study needs at least 2 rounds and 1 seed, got {self.rounds} and {self.seeds}")
        if not self.unknown_ratio > 0:
            raise ValueError(f"unknown_ratio must be above 0, got {self.unknown_ratio}: the closed set is always run beside the open one")

    @classmethod
    def of(cls, fast: bool, **given) -> Plan:
        """The full plan is the paper's long-term protocol at this project's size; the fast one shows the effect within a minute.
        Settings that are not zero or empty replace the mode's."""
        mode = FAST if fast else FULL
        unknown = [k for k in given if k not in {f.name for f in fields(cls)}]
        if unknown:
            raise ValueError(f"a plan has no setting {unknown[0]!r}; it has: {', '.join(f.name for f in fields(cls))}")
        return replace(mode, **{k: v for k, v in given.items() if v or k == "first_seed"})

    @property
    def known(self) -> str:
        return UNKNOWNS[self.unknown][0]

    @property
    def model_name(self) -> str:
        return UNKNOWNS[self.unknown][2]

    def closed(self, seed: int) -> Stream:
        """Known classes only."""
        return Stream(self.known, per_shift=self.per_shift, batch=self.batch, rounds=self.rounds, severity=self.severity, seed=seed)

    def open(self, seed: int) -> Stream:
        """The same known images, each batch followed by unknown ones."""
        return replace(self.closed(seed), unknown=UNKNOWNS[self.unknown][1], unknown_ratio=self.unknown_ratio)

    def arms(self) -> dict[str, Method | Callable]:
        """The methods compared. The two random ones keep, in each step, exactly as many samples as the filter did on that stream."""
        tent = make("tent", lr=self.lr)
        varied = make("tent", lr=self.lr, when_empty="step").plus(Diversity())
        return {
            "source": make("source"), "batch_norm": make("batch_norm"), "tent": tent,
            "filter": tent.where(ConfidenceRise()), "random": lambda done: tent.where(RandomKeep.like(done["filter"])),
            "diversity": varied, "wisdom_of_crowds": make("wisdom_of_crowds", lr=self.lr),
            "random_diversity": lambda done: varied.where(RandomKeep.like(done["wisdom_of_crowds"])),
        }


FULL = Plan()
FAST = Plan(rounds=8, per_shift=100, lr=5e-3, seeds=1)


@dataclass
class Study:
    """Numbers of every run, (setting, arm, seed) -> dict, and the traces of the first seed for figures."""

    plan: Plan
    runs: dict[tuple[str, str, int], dict] = field(default_factory=dict)
    traces: dict[tuple[str, str], Trace] = field(default_factory=dict)

    @property
    def seeds(self) -> list[int]:
        return sorted({seed for _, _, seed in self.runs})

    def values(self, setting: str, arm: str, what: str = "last") -> np.ndarray:
        """One number per seed."""
        return np.array([self.runs[setting, arm, seed][what] for seed in self.seeds])

    def curves(self, setting: str, arms=tuple(LABELS)) -> dict[str, list[dict]]:
        """Error per round and seed, as ``plots.plot_error_per_round`` takes it."""
        return {LABELS[arm]: [self.runs[setting, arm, seed]["per_round"] for seed in self.seeds] for arm in arms}

    def contrast(self, setting: str, one: str, other: str, what: str = "last") -> dict:
        """Paired over seeds: error of ``one`` minus error of ``other`` in points, with a 95 % t interval (needs 2 seeds)."""
        a, b = self.values(setting, one, what), self.values(setting, other, what)
        return metrics.paired_interval(a, b) if len(a) > 1 else {"mean": float((a - b)[0]), "low": np.nan, "high": np.nan, "df": 0}

    def rows(self) -> list[dict]:
        """The table: per setting and arm, error in the first and last round and over all rounds (mean and sd over seeds), share
        kept, and AUROC of known against unknown by energy."""
        out = []
        for setting in ("closed", "open"):
            for arm, label in LABELS.items():
                row = {"setting": setting, "method": label}
                for what in ("first", "last", "mean", "kept", "auroc"):
                    values = self.values(setting, arm, what)
                    row[what] = float(values.mean())
                    row[what + "_sd"] = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
                out.append(row)
        return out

    def to_dict(self) -> dict:
        """Everything a regression test or a later reader needs, as plain values."""
        contrasts = {f"{setting}: {LABELS[a]} - {LABELS[b]}": self.contrast(setting, a, b)
                     for setting in ("closed", "open") for a, b in CONTRASTS}
        runs = [{"setting": s, "arm": a, "seed": k, **{x: v for x, v in r.items() if x != "per_round"},
                 "error_per_round": [round(float(e), 3) for e in r["per_round"]["error"]]} for (s, a, k), r in self.runs.items()]
        return {"plan": {f.name: getattr(self.plan, f.name) for f in fields(self.plan)}, "table": self.rows(), "contrasts": contrasts, "runs": runs}


CONTRASTS = (("tent", "batch_norm"), ("wisdom_of_crowds", "batch_norm"), ("wisdom_of_crowds", "tent"), ("filter", "tent"),
             ("filter", "random"), ("wisdom_of_crowds", "diversity"), ("wisdom_of_crowds", "random_diversity"))


def summary(trace: Trace) -> dict:
    """The numbers of one run: error in the first and last round and over all (per cent, known images), share kept, AUROC of known
    against unknown by energy, and what the falling samples are."""
    per_round = diagnose.error_per_round(trace)
    known = np.asarray(trace["known"], bool)
    error, fall = per_round["error"], diagnose.rise_and_fall(trace)
    n = trace.step("n")
    return {"first": float(error[0]), "last": float(error[-1]), "mean": float(error.mean()),
            "kept": float(trace.step("n_kept").sum() / n.sum()), "per_round": per_round,
            "auroc": float("nan") if known.all() else float(metrics.auroc(trace["energy"], known)),
            "falling_last": float(fall["falling_share"][-1]), "bad_among_falling_last": float(1 - fall["among_falling"]["correct"][-1]),
            "distance": float(trace.step("distance")[-1]), "seconds": float(trace.step("seconds").sum())}


def study(plan: Plan, cache=None, progress: bool = False, device="auto") -> Study:
    """Run all arms on the closed and the open stream with every seed. With ``cache`` an interrupted study goes on where it stopped."""
    result = Study(plan)

    def each(key, trace):
        result.runs[key] = summary(trace)
        if key[2] == plan.first_seed:
            result.traces[key[:2]] = trace

    seeds = range(plan.first_seed, plan.first_seed + plan.seeds)
    compare(plan.arms(), {"closed": plan.closed, "open": plan.open}, load_model(plan.model_name), seeds, cache=cache,
            progress=progress, device=device, each=each, keep=False)
    return result


def sentence(contrast: dict, what: str) -> str:
    """What a paired difference says, in words that follow the number."""
    mean, low, high = contrast["mean"], contrast["low"], contrast["high"]
    direction = "lowers" if mean < 0 else "raises"
    text = f"{what} {direction} the error in the last round by {abs(mean):.1f} points"
    if not np.isfinite(low):
        return text + " (one seed: no interval)."
    settled = low > 0 or high < 0
    return text + (f" (95 % interval {low:+.1f} to {high:+.1f}, {contrast['df'] + 1} seeds"
                   + ("" if settled else "; the interval holds 0, so the sign is not settled") + ").")


def table(result: Study) -> str:
    """The table as text, and the sentences that follow from it."""
    lines = []
    for setting in ("closed", "open"):
        lines.append(f"{setting} set{'':<34}first round   last round        all rounds   kept" + ("   AUROC unknown" if setting == "open" else ""))
        for row in (r for r in result.rows() if r["setting"] == setting):
            spread = f" +- {row['last_sd']:.1f}" if np.isfinite(row["last_sd"]) else ""
            kept = f"{100 * row['kept']:4.0f} %" if row["kept"] else "     -"
            lines.append(f"  {row['method']:<40}{row['first']:8.1f} %{row['last']:11.1f}{spread:<7} %{row['mean']:11.1f} %{kept}"
                         + (f"{100 * row['auroc']:10.1f} %" if setting == "open" else ""))
        say = partial(result.contrast, setting)
        lines += ["", "  " + sentence(say("tent", "batch_norm"), "Tent, against BN-1,"),
                  "  " + sentence(say("wisdom_of_crowds", "batch_norm"), "The method, against BN-1,"),
                  "  " + sentence(say("filter", "random"), "The filter, against dropping as many at random,"),
                  "  " + sentence(say("wisdom_of_crowds", "diversity"), "The filter, added to the diversity term,"), ""]
    return "\n".join(lines)


def one_run(lr: float, filtered: bool, diverse: bool, unknown_ratio: float, rounds: int, plan: Plan = FAST, seed: int = 0,
            progress=False, stop=None) -> Trace:
    """One Tent run with or without the filter and the diversity term: what the widgets call, and you may too."""
    from .adapter import Adapter
    from .runner import run

    recipe = make("tent", lr=lr)
    recipe = recipe.where(ConfidenceRise()) if filtered else recipe
    recipe = replace(recipe.plus(Diversity()), when_empty="step") if diverse else recipe
    plan = replace(plan, rounds=max(2, rounds), unknown_ratio=unknown_ratio or 1.0)
    stream = plan.open(seed) if unknown_ratio else plan.closed(seed)
    adapter = Adapter(load_model(plan.model_name), recipe, seed=seed, record="source")
    return run(adapter, stream, progress=progress, stop=stop)
