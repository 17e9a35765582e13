"""The study of lifelong adaptation: rounds over the same shifts, what is learned, what is
forgotten, and whether a second visit goes better.

One plan, one function, plain numbers; notebook 08 and its panel call nothing else. Papers: CoTTA
(2203.13591), EATA (2204.02610), RMT (2211.13081), RDumb (2306.05401), ROID (2306.00650), PeTTA
(2311.18193, whose protocol of recurring domains is used; the method is not in the catalogue).
"""
from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from ...analysis import diagnose
from ...analysis.collapse import detect
from ...components.controllers.guard import actions, guarded
from ...components.controllers.resets import ResetEvery
from ...core.knobs import with_knobs
from ...core.trace import Trace
from ...data.corruptions import STANDARD_SIX
from ...experiments.runner import forgetting, row, run, runs
from ...methods import make
from ...streams import protocols
from ...streams.cached import CachedStream
from ...streams.orders import Dirichlet
from ...streams.stream import Stream
from .. import base, own
from ..collapse.study import RECENT, numbers_of

MODEL = own.MODEL
ARMS = {"source": "source", "batch_norm": "BN-1", "tent": "Tent", "roid": "ROID", "cotta": "CoTTA",
        "rmt": "RMT", "tent_large": "Tent (large)", "eta_large": "ETA (large)",
        "eata_large": "EATA (large)", "rdumb_large": "RDumb (large)",
        "guard_large": "guarded Tent (large)"}
USUAL = ("source", "batch_norm", "tent", "roid", "cotta", "rmt")
LARGE = ("tent_large", "eta_large", "eata_large", "rdumb_large", "guard_large")
STREAMS = {"same": "the same images again", "new": "other images each visit",
           "correlated": "other images, classes in clumps"}
VISITORS = ("batch_norm", "tent", "tent_large", "roid")       # arms that make all three streams
GROUPS = (("gaussian_noise", "impulse_noise"), ("fog", "contrast"))   # of the cyclic stream
CYCLIC = ("batch_norm", "tent", "tent_large", "rdumb_large")
NO_CLEAN = {"error": math.nan, "source_error": math.nan, "forgotten": math.nan, "n": 0}
ABOUT = {"tent": "no anchor at all", "roid": "weights averaged with the source's in each step",
         "cotta": "slow teacher, weights put back at random",
         "rmt": "slow teacher, warm-up and replay of source images",
         "tent_large": "no anchor at all", "eta_large": "chooses its images",
         "eata_large": "chooses its images; Fisher anchor",
         "rdumb_large": "chooses its images; everything put back now and then",
         "guard_large": "goes back at an alarm; source or BN-1 may answer"}


@dataclass(frozen=True)
class Plan(base.Plan):
    """Rounds over the shifts, the arms and their rates."""

    rounds: int = 8
    per_shift: int = 150
    batch: int = 25
    large: float = 20.0         # multiple of the default rates
    anchor: float = 2000.0      # weight of EATA's Fisher penalty; the paper's for ImageNet
    views: int = 32             # augmentations of CoTTA
    # batches between two resets of RDumb; 0: four fifths of a round, so that resets fall anywhere
    reset_every: int = 0
    clean: int = 4              # clean images, in multiples of per_shift
    arms: tuple = tuple(ARMS)
    shifts: tuple = STANDARD_SIX
    groups: tuple = GROUPS      # of the cyclic stream; (): none

    fast = {"rounds": 3, "per_shift": 80, "batch": 20, "large": 40.0, "views": 4, "clean": 5,
            "seeds": 1, "arms": tuple(a for a in ARMS if a != "rmt")}

    def __post_init__(self):
        if self.rounds < 2 or self.seeds < 1 or self.per_shift < 2:
            raise ValueError("the study needs 2 rounds, 1 seed and 2 images a shift at least, got "
                             f"{self.rounds}, {self.seeds} and {self.per_shift}")
        if not {"source", "batch_norm", "tent", "tent_large"} <= set(self.arms) <= set(ARMS):
            raise ValueError("arms must be source, batch_norm, tent, tent_large and some of "
                             f"{', '.join(ARMS)}, got {self.arms}")

    def on(self, pair: own.Pair) -> Plan:
        """The same plan with the arms, shifts, groups and numbers of images that a pair allows."""
        data = pair.data
        clean = self.clean if own.has_clean(data) else 0
        shifts, per_shift, notes = own.allowed(pair, STANDARD_SIX, self.per_shift,
                                               share=lambda shifts: len(shifts) + clean)
        arms, without = own.without_source_images(self.recipes(), pair.model, ARMS)
        there = own.shifts_of(data, GROUPS[0] + GROUPS[1])[0]
        groups = tuple(tuple(g for g in group if g in there) for group in GROUPS)
        notes += without
        if not clean:
            notes.append("These images hold no clean ones, so what is forgotten of them is left "
                         "out.")
        if not all(groups):
            notes.append("The cyclic stream is left out: one of its groups of shifts cannot be "
                         "shown.")
        if 2 * len(shifts) * per_shift > len(data):
            notes.append(f"Other images at the second visit: only as far as {len(data)} images "
                         "last.")
        return replace(self, shifts=shifts, clean=clean, per_shift=per_shift, arms=tuple(arms),
                       groups=groups if all(groups) else (), notes=tuple(notes))

    def shorter(self) -> Plan:
        """The same plan at the size of the fast one."""
        return base.smaller(self, "per_shift", "clean", batch=FAST.batch, large=FAST.large,
                       views=FAST.views)

    @property
    def every(self) -> int:
        """Batches between two resets of RDumb."""
        return self.reset_every or max(1, round(0.8 * len(self.shifts)
                                                * math.ceil(self.per_shift / self.batch)))

    def stream(self, name: str, seed: int) -> Stream:
        """Rounds over the shifts, never reset: a name of STREAMS."""
        if name not in STREAMS:
            raise ValueError(f"stream must be one of {', '.join(STREAMS)}, not {name!r}")
        common = {"shifts": self.shifts, "per_shift": self.per_shift, "batch": self.batch,
                 "seed": seed}
        if name == "correlated":
            return protocols.recurring(self.images, visits=min(self.rounds, 2),
                                       order=Dirichlet(0.1, "rotta", least=1), redraw=True,
                                       **common)
        return protocols.long_term(self.images, rounds=self.rounds if name == "same" else 2,
                                   redraw=name == "new", **common)

    def cyclic(self, seed: int) -> Stream:
        """Two groups of related shifts, each twice in a row, two times over."""
        return protocols.cyclic(self.images, groups=self.groups, repeats=2, cycles=2,
                                per_shift=self.per_shift, batch=self.batch, redraw=True, seed=seed)

    def unshifted(self, seed: int):
        """Clean images that the stream "same" never shows: images are drawn for its shifts
        first, and then for these."""
        stream = replace(self.stream("same", seed), shifts=(*self.shifts, *("none",) * self.clean),
                         rounds=1)
        return stream.cut(len(self.shifts) * math.ceil(self.per_shift / self.batch))

    def recipes(self) -> dict:
        """The arms as recipes."""
        made = {name: recipe_of(name, self) for name in ARMS if name in self.arms}
        return made | {"batch_norm": own.batch_statistics(self.model)}

    def describe(self) -> str:
        """The plan in words."""
        visitors = ", ".join(ARMS[a] for a in VISITORS if a in self.arms)
        paper = " (32 in the paper)" if self.views != 32 else ""
        return self.described({
            "Source": self.model + ("" if self.embedded else f"; images: {self.images}"),
            "Stream": f"{'six' if self.embedded else len(self.shifts)} shifts, {self.per_shift} "
                      f"images each at severity 5, batches of {self.batch}, {self.rounds} rounds, "
                      "never reset",
            "Visits": f"two rounds also with other images, in any order and in clumps: {visitors}",
            "Clean": f"{self.clean * self.per_shift} clean images that the stream does not show, "
                     "before and after" if self.clean else "",
            "Arms": ", ".join(ARMS[a] for a in self.arms),
            "Rates": f"as published; 'large' is {self.large:g} times that; EATA's anchor weighs "
                     f"{self.anchor:g}",
            "Teacher": f"CoTTA with {self.views} augmented views{paper}" if "cotta" in self.arms
                       else "",
            "Resets": f"RDumb every {self.every} batches (1000 in the paper, whose streams are "
                      "longer)", **self.seed_row}, 10)


FULL = Plan()
FAST = Plan(**Plan.fast)


def recipe_of(arm: str, plan: Plan = FULL):
    """An arm of the study. Raises ValueError for one that is not in it."""
    if arm not in ARMS:
        raise ValueError(f"the arm must be one of {', '.join(ARMS)}, not {arm!r}")
    large = 1e-3 * plan.large
    if arm == "cotta":
        return make("cotta", views=plan.views)
    made = {"tent_large": lambda: make("tent", lr=large),
            "eta_large": lambda: make("eta", lr=large),
            "eata_large": lambda: make("eata", lr=large, weight=plan.anchor),
            "rdumb_large": lambda: with_knobs(make("rdumb", lr=large), steps=plan.every),
            "guard_large": lambda: guarded(make("tent", lr=large))}
    return made[arm]() if arm in made else make(arm)


def anchored(rate: float, kind: str, plan: Plan = FULL):
    """Tent at ``rate`` times its default with "nothing", "reset" (as RDumb), "guard" or "Fisher"
    (as EATA) beside it: what the panel offers."""
    tent = make("tent", lr=1e-3 * rate)
    if kind == "Fisher":
        from ...components.penalties import FisherAnchor
        return replace(tent, penalties=(FisherAnchor(weight=plan.anchor),))
    kinds = {"nothing": tent, "reset": replace(tent, controllers=(ResetEvery(plan.every),)),
             "guard": guarded(tent)}
    if kind not in kinds:
        raise ValueError(f"kind must be one of {', '.join(kinds)}, Fisher, not {kind!r}")
    return kinds[kind]


NO_SOURCE_IMAGES = ("The Fisher anchor is made of source images, and those of this model are not "
                    "known; choose another anchor.")
ANCHORS = {"nothing": "nothing", "reset": "reset now and then (RDumb)",
           "Fisher": "Fisher anchor (EATA)", "guard": "guard"}


# --- running

@dataclass
class Study(base.Study):
    """``runs``: (arm, seed) -> `summary` on the stream "same"; ``traces``: (arm) of the first seed;
    ``visits``: (stream, arm, seed) -> `visits`; ``wrong``: (arm, seed) -> (round, wrong) of each
    image in order of arrival; ``cyclic``: (arm, seed) -> error of each stretch, ``stretches`` their
    names."""

    runs: dict = field(default_factory=dict)
    traces: dict = field(default_factory=dict)
    visits: dict = field(default_factory=dict)
    wrong: dict = field(default_factory=dict)
    cyclic: dict = field(default_factory=dict)
    stretches: list = field(default_factory=list)

    @property
    def arms(self) -> list[str]:
        return [a for a in ARMS if (a, self.plan.first_seed) in self.runs]

    @property
    def learners(self) -> list[str]:
        """The arms that learn or change their weights: all but source and BN-1."""
        return [a for a in self.arms if a not in ("source", "batch_norm")]

    def values(self, arm: str, what: str) -> np.ndarray:
        """One number for each seed."""
        return np.array([self.runs[arm, seed][what] for seed in self.plan.all_seeds], np.float64)

    def mean(self, arm: str, what: str) -> float:
        return float(self.values(arm, what).mean())

    def against(self, arm: str, other: str = "batch_norm") -> tuple[float, float]:
        """Error in the last round minus that of another arm on the same images, in points, mean
        over seeds, and its standard error over images."""
        apart = []
        for seed in self.plan.all_seeds:
            rounds, wrong = self.wrong[arm, seed]
            difference = wrong.astype(np.float64) - self.wrong[other, seed][1]
            apart.append(difference[rounds == rounds.max()])
        points, error = base.points_of(*apart)
        return points / len(apart), error / len(apart)

    def to_dict(self) -> dict:
        """Everything a regression test or a later reader needs, as plain values."""
        visits = {key: {name: float(100 * v[name].mean()) for name in ("first", "second")}
                  for key, v in self.visits.items()}
        return {**super().to_dict(), "runs": base.rows_of(base.with_rounds(self.runs), "arm"),
                "visits": base.rows_of(visits, "stream", "arm"), "cyclic": base.rows_of(
                    {key: {"error": v.tolist()} for key, v in self.cyclic.items()}, "arm")}


def study(plan: Plan, cache=None, progress: bool = False, device="cpu") -> Study:
    """All arms on the long stream, some on the other two and on the cyclic one. With ``cache`` an
    interrupted study goes on where it stopped."""
    result = Study(plan)
    seeds = plan.all_seeds
    recipes = plan.recipes()
    model = own.network(plan.model)
    settings = {"cache": cache, "progress": progress, "device": device,
                "source_images": own.source_images_of(plan.model)}
    streams = {name: base.cached(seeds, plan.stream, name) for name in STREAMS}
    clean = base.cached(seeds, plan.unshifted) if plan.clean else None
    for (_, arm, seed), trace in runs(recipes, {"same": streams.pop("same")}, model, seeds,
                                      clean=clean, **settings):
        result.runs[arm, seed] = summary(trace)
        result.visits["same", arm, seed] = visits(trace)
        result.wrong[arm, seed] = (np.asarray(trace["round"]).astype(int),
                                   diagnose.groups(trace)["wrong"])
        if seed == plan.first_seed:
            result.traces[arm] = trace
    some = {a: r for a, r in recipes.items() if a in VISITORS}
    for (name, arm, seed), trace in runs(some, streams, model, seeds, **settings):
        result.visits[name, arm, seed] = visits(trace)
    some = {a: r for a, r in recipes.items() if a in CYCLIC}
    cyclic = {"cyclic": base.cached(seeds, plan.cyclic)} if plan.groups else {}
    for (_, arm, seed), trace in runs(some, cyclic, model, seeds, **settings) if cyclic else ():
        result.stretches, result.cyclic[arm, seed] = by_group(trace, plan.groups)
    return result


def summary(trace: Trace) -> dict:
    """The numbers of one run.

    Error ``per_round``, in the ``first`` and ``last`` round and over all (``mean``), in per cent;
    ``clean`` and ``clean_source``, error on clean images after and before (%), ``forgotten``
    (points); ``distance`` of the tuned weights from the source's at the end and ``most``, the
    largest, as shares of their length; ``resets``, ``alarm`` (step of the detector's first, -1:
    none), ``acted`` (actions of a guard), ``kept``, ``forwards`` of an image.
    """
    per_round = diagnose.error_per_round(trace)
    numbers = row(trace)
    away = distance(trace)["distance"]
    error = per_round["error"]
    clean = trace.meta.get("clean", NO_CLEAN)
    learns = bool((np.nan_to_num(np.asarray(trace.step("n_kept"), np.float64)) > 0).any())
    return {"per_round": per_round, "first": float(error[0]), "last": float(error[-1]),
            "mean": float(error.mean()), "clean": float(clean["error"]),
            "clean_source": float(clean["source_error"]), "forgotten": float(clean["forgotten"]),
            "n_clean": int(clean["n"]), "distance": float(away[-1]), "most": float(np.nanmax(away)),
            "resets": int(numbers["resets"]), "alarm": _first_alarm(trace) if learns else -1,
            "acted": len(actions(trace)),
            "kept": base.kept_share(trace), "forwards": float(numbers["forwards"])}


def _first_alarm(trace: Trace) -> int:
    """Step of the first alarm: as a guard recorded it, or what the detector says of the finished
    trace."""
    steps = trace.columns("steps")
    if "alarm" in steps and np.isfinite(np.asarray(steps["alarm"], np.float64)).any():
        raised = np.flatnonzero(np.nan_to_num(steps["alarm"]) > 0)
        return int(steps["step"][raised[0]]) if len(raised) else -1
    return int(detect(trace)["first_alarm"])


def distance(trace: Trace) -> dict:
    """How far the tuned weights are from the source's after each step, as a share of their length:
    ``step``, ``distance`` (T,); 0 without any."""
    length = float(trace.meta.get("tuned_length", 0.0))
    away = np.nan_to_num(np.asarray(trace.step("distance"), np.float64))
    return {"step": np.asarray(trace.step("step"), np.int64),
            "distance": away / length if length else np.zeros(len(away))}


def visits(trace: Trace) -> dict:
    """Which images were called by a wrong name at the first and at the second visit of their shift.

    ``first`` and ``second`` (N,) bool in the order of (shift, id), so that the same image is in the
    same row where the stream shows it again; ``shift`` and ``shift_second`` (N,) and ``names``;
    ``paired``: whether the images are the same. Raises ValueError for less than two rounds.
    """
    scored = diagnose.groups(trace)
    wrong = {}
    rounds, domain, ids = (np.asarray(trace[name]).astype(np.int64)
                           for name in ("round", "domain", "id"))
    if rounds.max(initial=0) < 1:
        raise ValueError("a second visit needs a stream of at least two rounds")
    known = scored["correct"] | scored["wrong"]
    places = {}
    for r, name in ((0, "first"), (1, "second")):
        here = np.flatnonzero(known & (rounds == r))
        here = here[np.lexsort((ids[here], domain[here]))]
        wrong[name] = scored["wrong"][here]
        places[name] = np.stack([domain[here], ids[here]])
    same = places["first"].shape == places["second"].shape and bool((places["first"]
                                                                     == places["second"]).all())
    return {**wrong, "shift": places["first"][0], "shift_second": places["second"][0],
            "names": list(trace.meta["domains"]), "paired": same}


def change(found: dict) -> tuple[float, float]:
    """Error of the second visit minus that of the first in points, and its standard error over
    images (paired where they are the same)."""
    return _moved(found, found["first"].astype(np.float64), found["second"].astype(np.float64))


def _moved(found: dict, first, second) -> tuple[float, float]:
    return base.points_of(second - first) if found["paired"] else base.points_of(second, -first)


def change_against(found: dict, reference: dict) -> tuple[float, float]:
    """`change` minus that of a reference on the same stream, image by image: what the second visit
    gains beyond chance and the order of batches."""
    return _moved(found, *(found[name].astype(np.float64) - reference[name]
                           for name in ("first", "second")))


def second_visits(result: Study) -> dict:
    """Change from the first visit to the second minus that of BN-1: {stream: {"arms": [...],
    "points": (A,), "error": (A,)}}, in points, mean over seeds, with its standard error over
    images."""
    found = {}
    for name in STREAMS:
        arms = [a for a in result.learners if (name, a, result.plan.first_seed) in result.visits]
        values = np.array([[change_against(result.visits[name, a, k],
                                           result.visits[name, "batch_norm", k])
                            for k in result.plan.all_seeds] for a in arms]).reshape(
                                len(arms), result.plan.seeds, 2)
        found[name] = {"arms": arms, "points": values[..., 0].mean(1),
                       "error": np.sqrt((values[..., 1] ** 2).sum(1)) / result.plan.seeds}
    return found


def by_group(trace: Trace, groups=GROUPS) -> tuple[list[str], np.ndarray]:
    """The cyclic stream in stretches: names ("noise, again", "visit 1") and error of each in per
    cent. A visit goes through its group twice."""
    rounds, segment = (np.asarray(trace[name]).astype(np.int64) for name in ("round", "segment"))
    wrong = diagnose.groups(trace)["wrong"]
    size = [len(g) for g in groups for _ in range(2)]
    place = np.repeat(np.arange(len(size)), size)[segment]
    called = [("noise", "haze")[i // 2] + (", again" if i % 2 else "") for i in range(len(size))]
    names = []
    errors = []
    for r in range(int(rounds.max(initial=0)) + 1):
        for i, name in enumerate(called):
            here = (rounds == r) & (place == i)
            names.append(f"{name}\nvisit {r + 1}")
            errors.append(100 * float(wrong[here].mean()) if here.any() else math.nan)
    return names, np.array(errors)


def forgetting_table(result: Study) -> dict:
    """Error on clean images: ``arms`` (names); ``after`` and ``sd`` (A,) in % (sd NaN for one
    seed); ``before``: the source's; ``n`` images."""
    arms = [a for a in result.arms if a != "source"]
    values = np.array([result.values(a, "clean") for a in arms])
    return {"arms": [ARMS[a] for a in arms], "keys": arms, "after": values.mean(1),
            "before": result.mean("source", "clean_source"),
            "sd": base.deviation(values, 1),
            "n": int(result.runs[arms[0], result.plan.first_seed]["n_clean"])}


def guards_of(result: Study) -> dict:
    """The large rate without and with a guard and with resets, first seed: {name:
    `collapse.study.numbers_of`}, watched by the same detector."""
    beside = {"BN-1": result.traces["batch_norm"]}
    found = {}
    for arm, name in (("tent_large", "Tent alone"), ("guard_large", "with guard"),
                      ("rdumb_large", "RDumb")):
        if arm in result.traces:
            trace = result.traces[arm]
            found[name] = numbers_of(trace, beside, recent=min(RECENT, 4 * result.plan.per_shift))
            if arm != "guard_large":  # nobody watched: what the detector says of the finished trace
                found[name]["probability"] = detect(trace)["probability"]
    return found


# --- words that follow the numbers


save = base.save


# --- single runs, for the panel and for you

@lru_cache(4)
def _stream(plan: Plan, name: str, seed: int):
    return (CachedStream(plan.stream(name, seed)),
            CachedStream(plan.unshifted(seed)) if plan.clean else None, {})


def one_run(rate: float = 20.0, anchor: str = "nothing", stream: str = "same", rounds: int = 3,
            seed: int = 0, method=None, stop=None, each=None, device="cpu",
            plan: Plan | None = None) -> Trace:
    """Tent at ``rate`` times its default with one of ANCHORS on a stream of the fast plan, or of
    another: what the panel calls, and you may too.

    ``method`` takes a recipe in its place. A run that came to its end has the error on clean images
    in ``trace.meta["clean"]``. ``stop()`` is asked before each batch and ends the run,
    ``each(trace)`` is called after each. Raises ValueError for a Fisher anchor where no source
    images are known.
    """
    plan = replace(plan or FAST, rounds=rounds, first_seed=seed)
    recipe = anchored(rate, anchor, plan) if method is None else method
    arrivals, clean, shared = _stream(plan, stream, seed)
    source_images = None
    if anchor == "Fisher" and method is None:
        source_images = own.source_images_of(plan.model)
        if source_images is None:
            raise ValueError(NO_SOURCE_IMAGES)
    adapter = base.adapter_for(own.network(plan.model), recipe, seed=seed, device=device,
                          shared=shared.setdefault(device, {}), source_images=source_images)
    trace = run(adapter, arrivals, stop=stop, each=each)
    if trace.meta["complete"] and clean is not None:
        trace.meta["clean"] = forgetting(adapter, clean)
    return trace


def beside_run(stream: str = "same", rounds: int = 3, seed: int = 0, stop=None, device="cpu",
               plan: Plan | None = None) -> dict[str, Trace]:
    """Source and BN-1 on the same stream; only runs that came to their end."""
    methods = {"source": make("source"), "BN-1": own.batch_statistics((plan or FAST).model)}
    return base.finished({name: one_run(stream=stream, rounds=rounds, seed=seed, method=method,
                                   stop=stop, device=device, plan=plan)
                     for name, method in methods.items()})


def live_numbers(trace: Trace, beside: dict[str, Trace]) -> dict:
    """What the panel draws: ``so_far`` (`explorer.study.so_far`), ``distance``, ``marks``: steps
    after which a controller went back or acted, ``borders``: images at which a round begins,
    ``error`` {name: %}, ``clean`` (after, before) or ()."""
    from ..explorer.study import so_far

    numbers = so_far({"this run": trace} | beside, len(trace))
    steps = np.asarray(trace.step("step"))
    back = np.nan_to_num(np.asarray(trace.step("reset"), np.float64)) > 0
    marks = sorted({int(s) for s in steps[back][1:]} | {t for t, _ in actions(trace)})
    clean = trace.meta.get("clean")
    return {"so_far": numbers, "distance": distance(trace), "marks": tuple(marks), "borders": tuple(
                int(i) for i in np.flatnonzero(np.diff(np.asarray(trace["round"]))) + 1),
            "error": {name: float(v) for name, v in numbers["last"].items()},
            "clean": (clean["error"], clean["source_error"]) if clean else ()}
