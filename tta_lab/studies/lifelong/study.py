"""The study of lifelong adaptation: rounds over the same shifts, what is learned, what is forgotten, and whether a second visit goes better.

One plan, one function, plain numbers; notebook 08 and its panel call nothing else. Papers: CoTTA (2203.13591), EATA (2204.02610), RMT (2211.13081),
RDumb (2306.05401), ROID (2306.00650), PeTTA (2311.18193, whose protocol of recurring domains is used; the method is not in the catalogue).
"""
from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache

import numpy as np

from ...analysis import diagnose
from ...analysis.collapse import watch
from ...analysis.metrics import paired_interval
from ...components.controllers.guard import actions, guarded
from ...components.controllers.resets import ResetEvery
from ...core.knobs import with_knobs
from ...core.trace import Trace
from ...data.corruptions import STANDARD_SIX
from ...experiments.runner import row, run, runs
from ...methods import make
from ...models.embedded import checkpoints
from ...streams import protocols
from ...streams.orders import Dirichlet
from ...streams.stream import Stream
from .. import own
from ..collapse.study import RECENT, numbers_of, ranks_agree
from ..report import nothing, paragraphs, signed, write_numbers
from ..report import points as points_of
from ..zoo.study import Kept

MODEL = own.MODEL
ARMS = {"source": "source", "batch_norm": "BN-1", "tent": "Tent", "roid": "ROID", "cotta": "CoTTA", "rmt": "RMT", "tent_large": "Tent (large)",
        "eta_large": "ETA (large)", "eata_large": "EATA (large)", "rdumb_large": "RDumb (large)", "guard_large": "guarded Tent (large)"}
USUAL = ("source", "batch_norm", "tent", "roid", "cotta", "rmt")
LARGE = ("tent_large", "eta_large", "eata_large", "rdumb_large", "guard_large")
STREAMS = {"same": "the same images again", "new": "other images each visit", "correlated": "other images, classes in clumps"}
VISITORS = ("batch_norm", "tent", "tent_large", "roid")       # arms that make all three streams
GROUPS = (("gaussian_noise", "impulse_noise"), ("fog", "contrast"))   # of the cyclic stream
CYCLIC = ("batch_norm", "tent", "tent_large", "rdumb_large")
NO_CLEAN = {"error": math.nan, "source_error": math.nan, "forgotten": math.nan, "n": 0}
ABOUT = {"tent": "no anchor at all", "roid": "weights averaged with the source's in each step", "cotta": "slow teacher, weights put back at random",
         "rmt": "slow teacher, warm-up and replay of source images", "tent_large": "no anchor at all", "eta_large": "chooses its images",
         "eata_large": "chooses its images; Fisher anchor", "rdumb_large": "chooses its images; everything put back now and then",
         "guard_large": "goes back at an alarm; source or BN-1 may answer"}


@dataclass(frozen=True)
class Plan:
    """What is run. Zero means "as the mode says" when a plan comes from ``Plan.of``."""

    rounds: int = 8
    per_shift: int = 150
    batch: int = 25
    large: float = 20.0         # multiple of the default rates
    anchor: float = 2000.0      # weight of EATA's Fisher penalty; the paper's for ImageNet, 1 for CIFAR
    views: int = 32             # augmentations of CoTTA
    reset_every: int = 0        # batches between two resets of RDumb; 0: four fifths of a round, so that resets fall anywhere
    clean: int = 4              # clean images, in multiples of per_shift
    arms: tuple = tuple(ARMS)
    seeds: int = 3
    first_seed: int = 0
    model: str = MODEL
    images: str = own.IMAGES
    shifts: tuple = STANDARD_SIX
    groups: tuple = GROUPS      # of the cyclic stream; (): none
    notes: tuple = ()           # what was decided for model and images, in sentences

    def __post_init__(self):
        if self.rounds < 2 or self.seeds < 1 or self.per_shift < 2:
            raise ValueError(f"the study needs 2 rounds, 1 seed and 2 images a shift at least, got {self.rounds}, {self.seeds} and {self.per_shift}")
        if not {"source", "batch_norm", "tent", "tent_large"} <= set(self.arms) <= set(ARMS):
            raise ValueError(f"arms must be source, batch_norm, tent, tent_large and some of {', '.join(ARMS)}, got {self.arms}")

    @classmethod
    def of(cls, fast: bool, *, model: str = "", images: str = "", trust: bool = False, **given) -> Plan:
        """The full plan, or the fast one, with those settings replaced that are not zero; ``model`` and ``images`` are texts, "" the embedded ones.

        Raises ValueError for an unknown setting, and as `own.pair_of` does.
        """
        unknown = [name for name in given if name not in {f.name for f in fields(cls)}]
        if unknown:
            raise ValueError(f"a plan has no setting {unknown[0]!r}; it has: {', '.join(f.name for f in fields(cls))}")
        plan = replace(FAST if fast else FULL, **{k: v for k, v in given.items() if v or k == "first_seed"})
        return plan.on(own.pair_of(model, images, trust)) if model or images else plan

    def on(self, pair: own.Pair) -> Plan:
        """The same plan on a model and images: with the arms, shifts, groups and numbers of images that these allow."""
        data = pair.data
        shifts, lost = own.shifts_of(data, STANDARD_SIX)
        clean = self.clean if own.has_clean(data) else 0
        per_shift, fewer = own.per_shift_of(data, shifts, self.per_shift, share=len(shifts) + clean)
        arms, without = own.without_source_images(self.recipes(), pair.model, ARMS)
        groups = tuple(tuple(g for g in group if g in own.shifts_of(data, GROUPS[0] + GROUPS[1])[0]) for group in GROUPS)
        said = [*pair.notes, *lost, *fewer, *without]
        said += ["These images hold no clean ones, so what is forgotten of them is left out."] if not clean else []
        said += ["The cyclic stream is left out: one of its groups of shifts cannot be shown."] if not all(groups) else []
        said += [f"Other images at the second visit: only as far as {len(data)} images last."] if 2 * len(shifts) * per_shift > len(data) else []
        return replace(self, model=pair.model, images=pair.images, shifts=shifts, clean=clean, per_shift=per_shift, arms=tuple(arms),
                       groups=groups if all(groups) else (), notes=tuple(said))

    def shorter(self) -> Plan:
        """The same plan at the size of the fast one: what a panel runs while somebody waits."""
        return replace(self, per_shift=min(self.per_shift, FAST.per_shift), batch=FAST.batch, clean=min(self.clean, FAST.clean), large=FAST.large,
                       views=FAST.views, seeds=1)

    def settings(self) -> str:
        """What differs from the full plan, as arguments of ``Plan``."""
        changed = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "notes" and getattr(self, f.name) != f.default}
        return ", ".join(f"{name}={value!r}" for name, value in changed.items())

    @property
    def embedded(self) -> bool:
        """Whether model and images are those of the study's own numbers."""
        return (self.model, self.images) == (MODEL, own.IMAGES)

    @property
    def all_seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def every(self) -> int:
        """Batches between two resets of RDumb."""
        return self.reset_every or max(1, round(0.8 * len(self.shifts) * math.ceil(self.per_shift / self.batch)))

    def stream(self, name: str, seed: int) -> Stream:
        """Rounds over the shifts, never reset: a name of STREAMS."""
        if name not in STREAMS:
            raise ValueError(f"stream must be one of {', '.join(STREAMS)}, not {name!r}")
        usual = {"shifts": self.shifts, "per_shift": self.per_shift, "batch": self.batch, "seed": seed}
        if name == "correlated":
            return protocols.recurring(self.images, visits=min(self.rounds, 2), order=Dirichlet(0.1, "rotta", least=1), redraw=True, **usual)
        return protocols.long_term(self.images, rounds=self.rounds if name == "same" else 2, redraw=name == "new", **usual)

    def cyclic(self, seed: int) -> Stream:
        """Two groups of related shifts, each twice in a row, two times over."""
        return protocols.cyclic(self.images, groups=self.groups, repeats=2, cycles=2, per_shift=self.per_shift, batch=self.batch, redraw=True, seed=seed)

    def unshifted(self, seed: int):
        """Clean images that the stream "same" never shows: the deck is dealt to its shifts first, and then to these."""
        stream = replace(self.stream("same", seed), shifts=(*self.shifts, *("none",) * self.clean), rounds=1)
        return stream.cut(len(self.shifts) * math.ceil(self.per_shift / self.batch))

    def recipes(self) -> dict:
        """The arms as recipes."""
        made = {name: recipe_of(name, self) for name in ARMS if name in self.arms}
        return made | {"batch_norm": own.batch_statistics(self.model)}

    def describe(self) -> str:
        """The plan in words."""
        teachers = [f"CoTTA with {self.views} augmented views" + (" (32 in the paper)" if self.views != 32 else "")] if "cotta" in self.arms else []
        return "\n".join([
            f"Source:   {self.model}" + ("" if self.embedded else f"; images: {self.images}"),
            f"Stream:   {'six' if self.embedded else len(self.shifts)} shifts, {self.per_shift} images each at severity 5, batches of {self.batch}, {self.rounds} rounds, never reset",
            f"Visits:   two rounds also with other images, in any order and in clumps: {', '.join(ARMS[a] for a in VISITORS if a in self.arms)}",
            *[f"Clean:    {self.clean * self.per_shift} clean images that the stream does not show, before and after"][:self.clean],
            f"Arms:     {', '.join(ARMS[a] for a in self.arms)}",
            f"Rates:    as published; 'large' is {self.large:g} times that; EATA's anchor weighs {self.anchor:g}",
            *[f"Teacher:  {t}" for t in teachers],
            f"Resets:   RDumb every {self.every} batches (1000 in the paper, whose streams are longer)",
            f"Seed{'s' if self.seeds > 1 else ''}:    {', '.join(map(str, self.all_seeds))}", *([""] * bool(self.notes)), *([paragraphs(self.notes)] if self.notes else [])])


FULL = Plan()
FAST = Plan(rounds=3, per_shift=80, batch=20, large=40.0, views=4, clean=5, seeds=1, arms=tuple(a for a in ARMS if a != "rmt"))


def recipe_of(arm: str, plan: Plan = FULL):
    """An arm of the study. Raises ValueError for one that is not in it."""
    if arm not in ARMS:
        raise ValueError(f"the arm must be one of {', '.join(ARMS)}, not {arm!r}")
    large = 1e-3 * plan.large
    if arm == "cotta":
        return make("cotta", views=plan.views)
    made = {"tent_large": lambda: make("tent", lr=large), "eta_large": lambda: make("eta", lr=large),
            "eata_large": lambda: make("eata", lr=large, weight=plan.anchor),
            "rdumb_large": lambda: with_knobs(make("rdumb", lr=large), steps=plan.every),
            "guard_large": lambda: guarded(make("tent", lr=large))}
    return made[arm]() if arm in made else make(arm)


def anchored(rate: float, kind: str, plan: Plan = FULL):
    """Tent at ``rate`` times its default with "nothing", "reset" (as RDumb), "guard" or "Fisher" (as EATA) beside it: what the panel offers."""
    tent = make("tent", lr=1e-3 * rate)
    if kind == "Fisher":
        from ...components.penalties import FisherAnchor
        return replace(tent, penalties=(FisherAnchor(weight=plan.anchor),))
    kinds = {"nothing": tent, "reset": replace(tent, controllers=(ResetEvery(plan.every),)), "guard": guarded(tent)}
    if kind not in kinds:
        raise ValueError(f"kind must be one of {', '.join(kinds)}, Fisher, not {kind!r}")
    return kinds[kind]


NO_SOURCE_IMAGES = "The Fisher anchor is made of source images, and those of this model are not known; choose another anchor."
ANCHORS = {"nothing": "nothing", "reset": "reset now and then (RDumb)", "Fisher": "Fisher anchor (EATA)", "guard": "guard"}


# --- running

@dataclass
class Study:
    """``runs``: (arm, seed) -> `summary` on the stream "same"; ``traces``: (arm) of the first seed; ``visits``: (stream, arm, seed) -> `visits`;
    ``wrong``: (arm, seed) -> (round, wrong) of each image in order of arrival; ``cyclic``: (arm, seed) -> error of each stretch, ``stretches`` their
    names."""

    plan: Plan
    runs: dict = field(default_factory=dict)
    traces: dict = field(default_factory=dict)
    visits: dict = field(default_factory=dict)
    wrong: dict = field(default_factory=dict)
    cyclic: dict = field(default_factory=dict)
    stretches: list = field(default_factory=list)

    @property
    def arms(self) -> list[str]:
        return [a for a in ARMS if (a, self.plan.first_seed) in self.runs]

    def values(self, arm: str, what: str) -> np.ndarray:
        """One number for each seed."""
        return np.array([self.runs[arm, seed][what] for seed in self.plan.all_seeds], np.float64)

    def mean(self, arm: str, what: str) -> float:
        return float(self.values(arm, what).mean())

    def against(self, arm: str, other: str = "batch_norm") -> tuple[float, float]:
        """Error in the last round minus that of another arm on the same images, in points, mean over seeds, and its standard error over images."""
        apart = []
        for seed in self.plan.all_seeds:
            rounds, wrong = self.wrong[arm, seed]
            apart.append((wrong.astype(np.float64) - self.wrong[other, seed][1])[rounds == rounds.max()])
        variance = sum(d.var(ddof=1) / len(d) for d in apart)
        return 100 * float(np.mean([d.mean() for d in apart])), 100 * math.sqrt(variance) / len(apart)

    def to_dict(self) -> dict:
        """Everything a regression test or a later reader needs, as plain values."""
        return {"plan": {f.name: getattr(self.plan, f.name) for f in fields(self.plan)},
                "runs": [{"arm": a, "seed": k, **{n: v for n, v in r.items() if n != "per_round"},
                          "error_per_round": [round(float(e), 3) for e in r["per_round"]["error"]]} for (a, k), r in self.runs.items()],
                "visits": [{"stream": s, "arm": a, "seed": k, "first": float(100 * v["first"].mean()), "second": float(100 * v["second"].mean())}
                           for (s, a, k), v in self.visits.items()],
                "cyclic": [{"arm": a, "seed": k, "error": [float(e) for e in v]} for (a, k), v in self.cyclic.items()]}


def study(plan: Plan, cache=None, progress: bool = False, device="cpu") -> Study:
    """All arms on the long stream, some on the other two and on the cyclic one. With ``cache`` an interrupted study goes on where it stopped."""
    result, seeds, recipes = Study(plan), plan.all_seeds, plan.recipes()
    settings = {"cache": cache, "progress": progress, "device": device, "source_images": own.source_images_of(plan.model)}
    streams = {(name, seed): Kept(plan.stream(name, seed)) for name in STREAMS for seed in seeds}
    clean = {seed: Kept(plan.unshifted(seed)) for seed in seeds if plan.clean}
    for (_, arm, seed), trace in runs(recipes, {"same": lambda seed: streams["same", seed]}, own.network(plan.model), seeds,
                                      clean=clean.get if clean else None, **settings):
        result.runs[arm, seed] = summary(trace)
        result.visits["same", arm, seed] = visits(trace)
        result.wrong[arm, seed] = np.asarray(trace["round"]).astype(int), diagnose.groups(trace)["wrong"]
        if seed == plan.first_seed:
            result.traces[arm] = trace
    some = {a: r for a, r in recipes.items() if a in VISITORS}
    others = {name: lambda seed, n=name: streams[n, seed] for name in STREAMS if name != "same"}
    for (name, arm, seed), trace in runs(some, others, own.network(plan.model), seeds, **settings):
        result.visits[name, arm, seed] = visits(trace)
    cycles, going = {seed: Kept(plan.cyclic(seed)) for seed in seeds if plan.groups}, {a: r for a, r in recipes.items() if a in CYCLIC}
    for (_, arm, seed), trace in runs(going, {"cyclic": cycles.get}, own.network(plan.model), seeds, **settings) if cycles else ():
        result.stretches, result.cyclic[arm, seed] = by_group(trace, plan.groups)
    return result


def summary(trace: Trace) -> dict:
    """The numbers of one run.

    Error ``per_round``, in the ``first`` and ``last`` round and over all (``mean``), in per cent; ``clean`` and ``clean_source``, error on clean
    images after and before (%), ``forgotten`` (points); ``distance`` of the tuned weights from the source's at the end and ``most``, the largest,
    as shares of their length; ``resets``, ``alarm`` (step of the detector's first, -1: none), ``acted`` (actions of a guard), ``kept``,
    ``forwards`` of an image.
    """
    per_round, numbers, away = diagnose.error_per_round(trace), row(trace), distance(trace)["distance"]
    error, clean = per_round["error"], trace.meta.get("clean", NO_CLEAN)
    learns = bool((np.nan_to_num(np.asarray(trace.step("n_kept"), np.float64)) > 0).any())
    return {"per_round": per_round, "first": float(error[0]), "last": float(error[-1]), "mean": float(error.mean()),
            "clean": float(clean["error"]), "clean_source": float(clean["source_error"]), "forgotten": float(clean["forgotten"]),
            "n_clean": int(clean["n"]), "distance": float(away[-1]), "most": float(np.nanmax(away)), "resets": int(numbers["resets"]),
            "alarm": _first_alarm(trace) if learns else -1, "acted": len(actions(trace)),
            "kept": float(trace.step("n_kept").sum() / trace.step("n").sum()), "forwards": float(numbers["forwards"])}


def _first_alarm(trace: Trace) -> int:
    """Step of the first alarm: as a guard recorded it, or what the detector says of the finished trace."""
    steps = trace.columns("steps")
    if "alarm" in steps and np.isfinite(np.asarray(steps["alarm"], np.float64)).any():
        raised = np.flatnonzero(np.nan_to_num(steps["alarm"]) > 0)
        return int(steps["step"][raised[0]]) if len(raised) else -1
    return int(watch(trace)["first_alarm"])


def distance(trace: Trace) -> dict:
    """How far the tuned weights are from the source's after each step, as a share of their length: ``step``, ``distance`` (T,); 0 without any."""
    length = float(trace.meta.get("tuned_length", 0.0))
    away = np.nan_to_num(np.asarray(trace.step("distance"), np.float64))
    return {"step": np.asarray(trace.step("step"), np.int64), "distance": away / length if length else np.zeros(len(away))}


def visits(trace: Trace) -> dict:
    """Which images were called by a wrong name at the first and at the second visit of their shift.

    ``first`` and ``second`` (N,) bool in the order of (shift, id), so that the same image is in the same row where the stream shows it again;
    ``shift`` and ``shift_second`` (N,) and ``names``; ``paired``: whether the images are the same. Raises ValueError for less than two rounds.
    """
    scored, wrong = diagnose.groups(trace), {}
    rounds, domain, ids = (np.asarray(trace[name]).astype(np.int64) for name in ("round", "domain", "id"))
    if rounds.max(initial=0) < 1:
        raise ValueError("a second visit needs a stream of at least two rounds")
    known, places = scored["correct"] | scored["wrong"], {}
    for r, name in ((0, "first"), (1, "second")):
        here = np.flatnonzero(known & (rounds == r))
        here = here[np.lexsort((ids[here], domain[here]))]
        wrong[name], places[name] = scored["wrong"][here], np.stack([domain[here], ids[here]])
    same = places["first"].shape == places["second"].shape and bool((places["first"] == places["second"]).all())
    return {**wrong, "shift": places["first"][0], "shift_second": places["second"][0], "names": list(trace.meta["domains"]), "paired": same}


def change(found: dict) -> tuple[float, float]:
    """Error of the second visit minus that of the first in points, and its standard error over images (paired where they are the same)."""
    first, second = found["first"].astype(np.float64), found["second"].astype(np.float64)
    points = 100 * (second.mean() - first.mean())
    if found["paired"]:
        return float(points), float(100 * (second - first).std(ddof=1) / math.sqrt(len(first)))
    return float(points), float(100 * math.sqrt(first.var(ddof=1) / len(first) + second.var(ddof=1) / len(second)))


def change_against(found: dict, reference: dict) -> tuple[float, float]:
    """`change` minus that of a reference on the same stream, image by image: what the second visit gains beyond chance and the order of batches."""
    first = found["first"].astype(np.float64) - reference["first"]
    second = found["second"].astype(np.float64) - reference["second"]
    points = 100 * (second.mean() - first.mean())
    if found["paired"]:
        return float(points), float(100 * (second - first).std(ddof=1) / math.sqrt(len(first)))
    return float(points), float(100 * math.sqrt(first.var(ddof=1) / len(first) + second.var(ddof=1) / len(second)))


def second_visits(result: Study) -> dict:
    """Change from the first visit to the second minus that of BN-1: {stream: {"arms": [...], "points": (A,), "error": (A,)}}, in points, mean over
    seeds, with its standard error over images."""
    found = {}
    for name in STREAMS:
        arms = [a for a in result.arms if a not in ("source", "batch_norm") and (name, a, result.plan.first_seed) in result.visits]
        values = np.array([change_against(result.visits[name, a, k], result.visits[name, "batch_norm", k])
                           for a in arms for k in result.plan.all_seeds])
        values = values.reshape(len(arms), result.plan.seeds, 2)
        found[name] = {"arms": arms, "points": values[..., 0].mean(1), "error": np.sqrt((values[..., 1] ** 2).sum(1)) / result.plan.seeds}
    return found


def by_group(trace: Trace, groups=GROUPS) -> tuple[list[str], np.ndarray]:
    """The cyclic stream in stretches: names ("noise, again", "visit 1") and error of each in per cent. A visit goes through its group twice."""
    rounds, segment = (np.asarray(trace[name]).astype(np.int64) for name in ("round", "segment"))
    wrong, size = diagnose.groups(trace)["wrong"], [len(g) for g in groups for _ in range(2)]
    place = np.repeat(np.arange(len(size)), size)[segment]
    called = [("noise", "haze")[i // 2] + (", again" if i % 2 else "") for i in range(len(size))]
    names, errors = [], []
    for r in range(int(rounds.max(initial=0)) + 1):
        for i, name in enumerate(called):
            here = (rounds == r) & (place == i)
            names.append(f"{name}\nvisit {r + 1}")
            errors.append(100 * float(wrong[here].mean()) if here.any() else math.nan)
    return names, np.array(errors)


def forgetting_table(result: Study) -> dict:
    """Error on clean images: ``arms`` (names); ``after`` and ``sd`` (A,) in % (sd NaN for one seed); ``before``: the source's; ``n`` images."""
    arms = [a for a in result.arms if a != "source"]
    values = np.array([result.values(a, "clean") for a in arms])
    return {"arms": [ARMS[a] for a in arms], "keys": arms, "after": values.mean(1), "before": result.mean("source", "clean_source"),
            "sd": values.std(1, ddof=1) if values.shape[1] > 1 else np.full(len(arms), math.nan),
            "n": int(result.runs[arms[0], result.plan.first_seed]["n_clean"])}


def guards_of(result: Study) -> dict:
    """The large rate without and with a guard and with resets, first seed: {name: `collapse_study.numbers_of`}, watched by the same detector."""
    beside, found = {"BN-1": result.traces["batch_norm"]}, {}
    for arm, name in (("tent_large", "Tent alone"), ("guard_large", "with guard"), ("rdumb_large", "RDumb")):
        if arm in result.traces:
            trace = result.traces[arm]
            found[name] = numbers_of(trace, beside, recent=min(RECENT, 4 * result.plan.per_shift))
            if arm != "guard_large":      # nobody watched: what the detector says of the finished trace
                found[name]["probability"] = watch(trace)["probability"]
    return found


# --- words that follow the numbers

def _and(names) -> str:
    names = list(names)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def say_rounds(result: Study) -> list[str]:
    """Where each arm starts and ends, and who ends above BN-1."""
    lines = ["Error in the first and in the last round: " + "; ".join(
        f"{ARMS[a]} {result.mean(a, 'first'):.1f} and {result.mean(a, 'last'):.1f} %" for a in result.arms) + "."]
    better, worse = [], []
    for a in (a for a in result.arms if a not in ("source", "batch_norm")):
        points, error = result.against(a)
        if abs(points) > 2 * error:
            (better if points < 0 else worse).append(f"{ARMS[a]} ({signed(points)})")
    lines.append(f"In the last round, against BN-1 on the same images and beyond two standard errors over these images, better are "
                 f"{_and(better) or 'none'}; worse {_and(worse) or 'none'}.")
    climb = result.mean("tent_large", "last") - result.mean("tent_large", "first")
    flat = result.mean("batch_norm", "last") - result.mean("batch_norm", "first")
    points, error = result.against("tent_large")
    seen = climb > flat and points > 2 * error
    several = result.plan.seeds > 1
    settled = not several or paired_interval(result.values("tent_large", "last"), result.values("batch_norm", "last"))["low"] > 0
    verdict = ("it gets worse as it goes on, as the papers on long streams report" if seen else
               "the decay that the papers on long streams report is not clearly seen here")
    lines.append(f"Tent at the large rate changes by {points_of(climb)} from the first round to the last, BN-1, which cannot learn, by "
                 f"{points_of(flat)}: {verdict}"
                 + ("" if settled or not seen else "; how much so differs from seed to seed, and the interval over seeds holds 0") + ".")
    return lines


def say_forgetting(result: Study) -> list[str]:
    """What is forgotten of the clean images, and whether the anchors keep it."""
    t = forgetting_table(result)
    if not t["n"]:
        return ["There are no clean images, so nothing can be said of what is forgotten of them."]
    noise = 200 * math.sqrt(2 * t["before"] / 100 * (1 - t["before"] / 100) / (t["n"] * result.plan.seeds))
    whole = f" ({100 - checkpoints()[MODEL]['test_accuracy']:.1f} % on the whole test set)" if result.plan.embedded else ""
    after = dict(zip(t["keys"], t["after"], strict=True))
    lines = [f"On {t['n']} clean images that the streams did not show the source errs on {t['before']:.1f} %{whole}. "
             f"Afterwards: {', '.join(f'{ARMS[a]} {v:.1f}' for a, v in after.items())} %."]
    lines.append(f"BN-1 has learned nothing, so its change ({points_of(after['batch_norm'] - t['before'])}) is what batch statistics do to clean "
                 "images, not forgetting; the others are counted from there.")
    lost = [f"{ARMS[a]} ({signed(v - after['batch_norm'])})" for a, v in after.items() if v - after["batch_norm"] > noise]
    lines.append(f"More than {noise:.1f} points (two standard errors) are forgotten by {_and(lost) or 'nobody'}.")
    if {"eta_large", "eata_large"} <= after.keys():
        gain = after["eta_large"] - after["eata_large"]
        kept = result.mean("eta_large", "last") - result.mean("eata_large", "last")
        verdict = ("keeps what ETA forgets, as the paper says" if gain > noise else "forgets more than ETA here" if gain < -noise else
                   "makes no difference to forgetting that these images could show")
        lines.append(f"EATA differs from ETA only by the Fisher anchor: it {verdict} ({after['eata_large']:.1f} against {after['eta_large']:.1f} %), "
                     f"and its error in the last round is {result.mean('eata_large', 'last'):.1f} against {result.mean('eta_large', 'last'):.1f} % "
                     f"({points_of(-kept)}).")
    return lines


def say_distance(result: Study) -> list[str]:
    """How far the weights have gone, and whether the distance goes with forgetting."""
    learn = [a for a in result.arms if a not in ("source", "batch_norm")]
    lines = ["Distance of the tuned weights from the source's, at the end and at most, as a share of their length: " + "; ".join(
        f"{ARMS[a]} {100 * result.mean(a, 'distance'):.1f} % ({100 * result.mean(a, 'most'):.1f} %)" for a in learn) + "."]
    affine = [a for a in learn if a not in ("cotta", "rmt")]
    if len(affine) > 2 and result.plan.clean:
        r = ranks_agree([result.mean(a, "distance") for a in affine], [result.mean(a, "clean") for a in affine])
        verdict = "who goes further forgets more here" if r > 0.5 else "distance alone does not tell who forgets"
        lines.append(f"Among the {len(affine)} that tune the same weights (scale and shift of batch norm), the ranks of distance and of the error on "
                     f"clean images correlate with {signed(r, 2)}: {verdict}.")
    return lines


def say_visits(result: Study) -> list[str]:
    """Is the second visit better than the first, beyond what BN-1 shows without learning?"""
    lines, seen = [], {}
    for name, found in second_visits(result).items():
        chance = float(np.mean([change(result.visits[name, "batch_norm", k])[0] for k in result.plan.all_seeds]))
        parts = []
        for a, points, error in zip(found["arms"], found["points"], found["error"], strict=True):
            settled = abs(points) > 2 * error
            seen[name, a] = (points, settled)
            parts.append(f"{ARMS[a]} {signed(points)} +- {error:.1f}" + (" (better)" if settled and points < 0 else " (worse)" if settled else ""))
        lines.append(f"Second visit minus first, {STREAMS[name]}: BN-1, which cannot learn, changes by {points_of(chance)}. Beyond that: "
                     f"{'; '.join(parts)}.")
    settled = [(n, a, p) for (n, a), (p, s) in seen.items() if s]

    def who(better):
        arms = {n: [ARMS[a] for m, a, p in settled if m == n and (p < 0) == better] for n in STREAMS}
        return "; ".join(f"{_and(found)} ({STREAMS[n]})" for n, found in arms.items() if found) or "nobody"

    end = (f"; of {len(seen)} comparisons about {len(seen) / 20:.1f} would look so by chance" if settled else
           ": on so few images a second visit is neither clearly better nor worse")
    lines.append(f"Beyond two standard errors over images the second visit is better for {who(True)}, and worse for {who(False)}{end}.")
    return lines


def say_cyclic(result: Study) -> list[str]:
    """The two visits of each group, and the second pass within a visit."""
    lines = []
    if not result.cyclic:
        return ["The cyclic stream was left out, because one of its groups of shifts cannot be shown."]
    for arm in [a for a in CYCLIC if (a, result.plan.first_seed) in result.cyclic]:
        e = np.mean([result.cyclic[arm, k] for k in result.plan.all_seeds], axis=0)
        half = len(e) // 2
        lines.append(f"{ARMS[arm]}: first visit {np.nanmean(e[:half]):.1f} %, second {np.nanmean(e[half:]):.1f} %; within a visit "
                     f"{np.nanmean(e[0::2]):.1f} % at first and {np.nanmean(e[1::2]):.1f} % when the group comes again at once.")
    lines.append("All stretches show other images, so differences of a few points between them are chance; compare with BN-1 in the same stretches.")
    return lines


def say_guard(result: Study) -> list[str]:
    """What guard and resets make of the large rate."""
    lines = []
    for a in ("tent_large", "guard_large", "rdumb_large"):
        if a not in result.arms:
            continue
        alarms = [result.runs[a, k]["alarm"] for k in result.plan.all_seeds]
        first = [x for x in alarms if x >= 0]
        clean = f", clean {result.mean(a, 'clean'):.1f} %" if result.plan.clean else ""
        text = f"{ARMS[a]}: error {result.mean(a, 'mean'):.1f} %, last round {result.mean(a, 'last'):.1f} %{clean}; "
        text += f"alarm in {len(first)} of {len(alarms)} runs" + (f", first in step {int(np.median(first))}" if first else "")
        if a == "guard_large":
            text += f"; the guard acted {result.mean(a, 'acted'):.1f} times and the run costs {result.mean(a, 'forwards'):.1f} forwards an image"
        if a == "rdumb_large":
            text += f"; {result.mean(a, 'resets'):.0f} resets, whether needed or not"
        lines.append(text + ".")
    if "guard_large" in result.arms:
        saved = result.mean("tent_large", "last") - result.mean("guard_large", "last")
        over = result.mean("guard_large", "last") - min(result.mean("batch_norm", "last"), result.mean("source", "last"))
        lines.append("In the last round the guard changes nothing at the large rate" if nothing(saved) else
                     f"In the last round the guard saves {saved:.1f} points of the large rate" if saved > 0 else
                     f"In the last round the guard costs {-saved:.1f} points against the large rate without it")
        where = "level with" if nothing(over) else f"{abs(over):.1f} points {'above' if over > 0 else 'below'}"
        lines[-1] += f" and ends {where} the better of source and BN-1."
    return lines


def say_seeds(result: Study) -> list[str]:
    """The last round against BN-1, paired over seeds, where there are several."""
    if result.plan.seeds < 2:
        return ["One seed: no interval over seeds. Full mode has three."]
    lines = []
    for a in result.arms:
        if a not in ("source", "batch_norm"):
            d = paired_interval(result.values(a, "last"), result.values("batch_norm", "last"))
            lines.append(f"{ARMS[a]} - BN-1 in the last round: {points_of(d['difference'])}, 95 % interval {signed(d['low'])} to {signed(d['high'])} "
                         f"({d['n']} seeds).")
    return lines


def table(result: Study) -> str:
    """Errors in per cent and distances as shares of the weights' length, means over seeds."""
    lines = [f"{'':<22}{'first round':>12}{'last round':>12}{'all':>8}{'clean':>8}{'distance':>10}{'resets':>8}{'forwards':>10}"]
    for a in result.arms:
        m = {what: result.mean(a, what) for what in ("first", "last", "mean", "clean", "distance", "resets", "forwards")}
        clean = f"{m['clean']:.1f}" if math.isfinite(m["clean"]) else "-"
        lines.append(f"{ARMS[a]:<22}{m['first']:>12.1f}{m['last']:>12.1f}{m['mean']:>8.1f}{clean:>8}{100 * m['distance']:>9.1f}%"
                     f"{m['resets']:>8.0f}{m['forwards']:>10.1f}")
    return "\n".join(lines)


def save(result: Study, path, **more) -> None:
    """Write the numbers of a study as JSON (no number: null), with the date and the versions they were made with."""
    write_numbers(path, {**result.to_dict(), **more})


# --- single runs, for the panel and for you

@lru_cache(4)
def _stream(plan: Plan, name: str, seed: int):
    return Kept(plan.stream(name, seed)), Kept(plan.unshifted(seed)) if plan.clean else None, {}


def one_run(rate: float = 20.0, anchor: str = "nothing", stream: str = "same", rounds: int = 3, seed: int = 0, method=None, stop=None, each=None,
            device="cpu", plan: Plan | None = None) -> Trace:
    """Tent at ``rate`` times its default with one of ANCHORS on a stream of the fast plan, or of another: what the panel calls, and you may too.

    ``method`` takes a recipe in its place. A run that came to its end has the error on clean images in ``trace.meta["clean"]``. ``stop()`` is asked
    before each batch and ends the run, ``each(trace)`` is called after each. Raises ValueError for a Fisher anchor where no source images are known.
    """
    from ... import Adapter
    from ...components.source.prepare import prepare
    from ...data.load import load
    from ...experiments.runner import forgetting

    plan = replace(plan or FAST, rounds=rounds, first_seed=seed)
    recipe = anchored(rate, anchor, plan) if method is None else method
    arrivals, clean, shared = _stream(plan, stream, seed)
    model, given = own.network(plan.model), None
    if anchor == "Fisher" and method is None:
        if own.source_images_of(plan.model) is None:
            raise ValueError(NO_SOURCE_IMAGES)
        given = prepare(model, recipe, load(own.source_images_of(plan.model)), device=device)
    adapter = Adapter(model, recipe, seed=seed, device=device, record="source", source_info=given)
    adapter.shared_source = shared.setdefault(device, {})
    trace = run(adapter, arrivals, stop=stop, each=each)
    if trace.meta["complete"] and clean is not None:
        trace.meta["clean"] = forgetting(adapter, clean)
    return trace


def beside_run(stream: str = "same", rounds: int = 3, seed: int = 0, stop=None, device="cpu", plan: Plan | None = None) -> dict[str, Trace]:
    """Source and BN-1 on the same stream; only runs that came to their end."""
    methods = {"source": make("source"), "BN-1": own.batch_statistics((plan or FAST).model)}
    found = {name: one_run(stream=stream, rounds=rounds, seed=seed, method=method, stop=stop, device=device, plan=plan)
             for name, method in methods.items()}
    return {name: trace for name, trace in found.items() if trace.meta["complete"]}


def live_numbers(trace: Trace, beside: dict[str, Trace]) -> dict:
    """What the panel draws: ``so_far`` (`explorer_numbers.so_far`), ``distance``, ``marks``: steps after which a controller went back or acted,
    ``borders``: images at which a round begins, ``error`` {name: %}, ``clean`` (after, before) or ()."""
    from ..explorer.study import so_far

    numbers = so_far({"this run": trace} | beside, len(trace))
    steps = np.asarray(trace.step("step"))
    back = np.nan_to_num(np.asarray(trace.step("reset"), np.float64)) > 0
    marks = sorted({int(s) for s in steps[back][1:]} | {t for t, _ in actions(trace)})
    clean = trace.meta.get("clean")
    return {"so_far": numbers, "distance": distance(trace), "marks": tuple(marks),
            "borders": tuple(int(i) for i in np.flatnonzero(np.diff(np.asarray(trace["round"]))) + 1),
            "error": {name: float(v) for name, v in numbers["last"].items()}, "clean": (clean["error"], clean["source_error"]) if clean else ()}


def say_live(numbers: dict, rate: float, anchor: str) -> str:
    """The panel's last line."""
    others = ", ".join(f"{name} {value:.1f} %" for name, value in numbers["error"].items() if name != "this run")
    clean = f"; clean images {numbers['clean'][0]:.1f} %, {numbers['clean'][1]:.1f} % before" if numbers["clean"] else ""
    back = f"; went back {len(numbers['marks'])} times" if numbers["marks"] else ""
    return (f"Tent at {rate:g} times its rate, held by {ANCHORS[anchor]}: error {numbers['error']['this run']:.1f} % ({others}){clean}; weights "
            f"{100 * numbers['distance']['distance'][-1]:.0f} % of their length from the source's{back}.")
