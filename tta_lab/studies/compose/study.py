"""What the composer computes and says: a composition run beside its relatives, its table, its
verdict. No widget is needed for any of it."""
from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ...analysis import metrics
from ...components.controllers.collapse_detector import ALARMS, CollapseDetector, fitted
from ...components.norms.batch_norm import SourceStatistics
from ...components.updates import WeightEnsembling
from ...core.parts import Method
from ...experiments.compose import (
    OPTIONS,
    SLOTS,
    WHOLE,
    assemble,
    decompose,
    incompatibility,
    notes,
    on_screen,
    rehearsal,
    relatives,
    say_known,
    say_relatives,
    swapped,
)
from ...experiments.experiment import REFERENCES, Experiment, Session, explore
from ...experiments.runner import row
from ...methods import METHODS, make
from ...methods.composed import LikelihoodRatio
from ...streams import protocols
from .. import own
from ..explorer import study as E
from ..report import interval, points

SHIFTS = ("gaussian_noise", "fog", "contrast", "pixelate")
# name on the screen -> protocol and its settings
STREAMS = {
    "one shift after another": ("continual", {}),
    "all shifts mixed": ("mixed_domains", {}),
    "neighbours of the same class": ("correlated", {}),
    "half of the images unknown": ("open_set", {}),
    "one image at a time": ("batch_of_one", {})}
UNKNOWN = "half of the images unknown"
FAST = {"per_shift": 100, "batch": 25}
FULL = {"per_shift": 300, "batch": 50}


def stream_of(name: str, per_shift: int, batch: int, seed: int, shifts=SHIFTS,
              known="fashion_mnist", unknown="digits"):
    """One of STREAMS. Raises ValueError for another name."""
    if name not in STREAMS:
        raise ValueError(f"there is no stream {name!r}; there are: {', '.join(STREAMS)}")
    protocol, settings = STREAMS[name]
    more = {"unknown": unknown} if protocol == "open_set" else {}
    size = {} if protocol == "batch_of_one" else {"batch": batch}
    return protocols.PROTOCOLS[protocol](known, shifts=shifts, per_shift=per_shift, seed=seed,
                                         **size, **more, **settings)


@dataclass(frozen=True)
class Ground:
    """What compositions are tried on: a model and images as texts, shifts, and the size of the
    streams; ``unknown`` "": no unknown images of this shape; ``notes``: what was decided, in
    sentences."""

    model: str = own.MODEL
    images: str = own.IMAGES
    unknown: str = "digits"
    shifts: tuple = SHIFTS
    per_shift: int = FAST["per_shift"]
    batch: int = FAST["batch"]
    notes: tuple = ()

    @classmethod
    def of(cls, fast: bool, model: str = "", images: str = "", trust: bool = False) -> Ground:
        """That of the fast or of the full mode on a model and images (texts; "": the embedded
        ones). Raises ValueError as `own.pair_of` does."""
        size = FAST if fast else FULL
        if not model and not images:
            return cls(**size)
        pair = own.pair_of(model, images, trust)
        shifts, lost = own.shifts_of(pair.data, SHIFTS)
        per_shift, fewer = own.per_shift_of(pair.data, shifts, size["per_shift"])
        ground = cls(pair.model, pair.images, shifts=shifts, per_shift=per_shift,
                     batch=size["batch"])
        why = own.refusal(lambda: ground.stream(UNKNOWN, 0))
        instead = ["Without unknown images, streams with half of the images unknown give way to "
                   f"'{next(iter(STREAMS))}': {why}."] if why else []
        return replace(ground, unknown="" if why else ground.unknown,
                       notes=(*pair.notes, *lost, *fewer, *instead))

    def stream(self, name: str, seed: int):
        """One of STREAMS on these images; without unknown ones the first of them in place of
        that."""
        name = next(iter(STREAMS)) if name == UNKNOWN and not self.unknown else name
        return stream_of(name, self.per_shift, self.batch, seed, self.shifts, self.images,
                         self.unknown)

    def choice(self, name: str, recipe: Method, seed: int) -> Experiment:
        """A recipe on one of STREAMS."""
        return Experiment(self.model, self.stream(name, seed), recipe, seed,
                          own.source_images_of(self.model))

    def panel(self) -> dict:
        """What the composer is told of it; nothing of the embedded model and images."""
        embedded = (self.model, self.images) == (own.MODEL, own.IMAGES)
        return {} if embedded else {"model": self.model, "images": self.images,
                                    "shifts": self.shifts}


def beside(choice: Experiment, n: int) -> list[str]:
    """The names of what a composition is run beside: source, BN-1, and its ``n`` nearest relatives,
    those that can run on this model and stream."""
    images = rehearsal(choice)
    some = [name for name in REFERENCES
            if not incompatibility(decompose(make(name)), choice, images)]
    return [*some, *(name for name, _ in relatives(choice.recipe, n, choice, images))]


def run_beside(choice: Experiment, n: int = 2, *, device="auto", stop=None, each=None,
               known: dict | None = None) -> Session:
    """Run a composition beside source, BN-1 and its ``n`` nearest relatives, all of them batch by
    batch.

    ``stop()`` is asked before each batch, ``each(session)`` called after it; ``known`` keeps
    references between calls.
    """
    session = Session(choice, beside(choice, n), device=device, known=known)
    while not (stop is not None and stop()) and session.advance():
        if each is not None:
            each(session)
    return session


def named(traces: dict) -> dict:
    """The traces of a session by the names they are shown with; the composition first, then its
    relatives."""
    order = sorted(traces, key=lambda name: (name != "choice", name in REFERENCES))
    return {"composition" if name == "choice" else REFERENCES.get(name, name): traces[name]
            for name in order}


class Lights:
    """The alarm light of every run that learns, each new step looked at once; ``see(traces)`` with
    the names of `named`."""

    def __init__(self):
        self.lights: dict[str, E.Light] = {}

    def see(self, traces: dict) -> None:
        """Look at what is new; of runs without a loss there is nothing to look at."""
        for name, trace in traces.items():
            if len(trace) and np.isfinite(trace.step("loss")).any():
                self.lights.setdefault(name, E.Light(CollapseDetector(variant="source"))).see(trace)


def collapse_of(traces: dict, lights: Lights) -> dict:
    """``lines`` name -> (images (T,), probability of collapse (T,)) for runs that learn,
    ``threshold`` of the alarm, ``why`` when there is none."""
    lines = {}
    for name, light in lights.lights.items():
        ends = np.flatnonzero(np.diff(traces[name]["step"], append=-1)) + 1
        probability = np.asarray(light.probability, np.float64)[:len(ends)]
        lines[name] = ends[:len(probability)], probability
    return {"lines": lines, "threshold": float(fitted("source")["threshold"]),
            "why": "" if lines else "No run that learns yet."}


def last_third(trace) -> float:
    """Error in the last third of the images (at least one), known ones with a label, in per cent;
    NaN without labels."""
    late = E.scored(trace) & (np.arange(len(trace)) >= len(trace) - max(1, round(len(trace) / 3)))
    return (100 * metrics.mean((trace["prediction"] != trace["label"])[late].astype(np.float64))
            if late.any() else math.nan)


def table(traces: dict, lights: Lights, n: int | None = None) -> list[dict]:
    """A row for each run of `named`: ``run``, ``error`` (all images), ``last third``, ``minus
    BN-1`` (points), ``alarm`` (first batch with one, from 1; 0: none), ``now`` (alarm of the last
    batch, or "cannot judge"), ``learned from`` (%), ``forwards`` and ``backwards`` per image,
    ``ms`` per image, ``images``, and ``scored``, how many of them are known and have a label."""
    rows = []
    base = None
    if "BN-1" in traces and len(traces["BN-1"]):
        base = _error(traces["BN-1"])
    for name, trace in traces.items():
        if not len(trace):
            continue
        cost = metrics.cost(trace)
        light = lights.lights.get(name)
        error = _error(trace)
        now = "" if light is None else "cannot judge" if light.why and not light.alarm else ALARMS[
            light.alarm].replace("_", " ")
        rows.append({"run": name, "error": error, "last third": last_third(trace),
                     "minus BN-1": math.nan if base is None else error - base,
                     "alarm": 0 if light is None else light.first + 1, "now": now,
                     "learned from": 100 * cost["learned_from"] if light is not None else math.nan,
                     "forwards": cost["forwards"], "backwards": cost["backwards"],
                     "ms": cost["ms_per_image"], "images": len(trace),
                     "scored": int(E.scored(trace).sum())})
    return rows


def _error(trace) -> float:
    return row(trace)["error_weighted"]


# --- words

def verdict(traces: dict) -> list[str]:
    """The composition against each relative and BN-1 on the same images, with an interval: a
    sentence each."""
    ours = traces["composition"]
    return [_against(name, E.paired(other, ours)) for name, other in traces.items()
            if name not in ("composition", "source") and len(other) and len(ours)]


def _against(name: str, pair: dict) -> str:
    if not pair["n"]:
        return (f"Beside {name}: the same class for {pair['agreement']:.1f} % of {pair['images']} "
                "images; without labels neither is better.")
    text = f"Against {name} ({round(pair['a'], 6):.1f} %)"  # 28.75 alike however it was added up
    if pair["agreement"] == 100:
        return f"{text}: the same class for every image."
    text += f": {points(round(pair['difference'], 6))}"
    if not pair["k"]:
        return f"{text}."
    if pair["low"] == pair["high"] == 0:
        return f"{text}, as many errors in every one of {pair['k']} stretches."
    settled = ("it is worse on this stream" if pair["low"] > 0
               else "it is better on this stream" if pair["high"] < 0
               else "this stream does not tell them apart")
    return f"{text}, {interval(pair)}, so {settled}."


def say_rows(rows: list[dict]) -> str:
    """What the composition did, in a sentence or two."""
    if not rows:
        return "Stopped before the first batch: there is nothing to show."
    ours = rows[0]
    if not math.isfinite(ours["error"]):
        return f"The composition answered {ours['images']} images, which have no labels."
    which = (f"{ours['images']} images" if ours["scored"] == ours["images"]
             else f"the {ours['scored']} known of {ours['images']} images")
    text = (f"The composition errs on {ours['error']:.1f} % of {which} ({ours['last third']:.1f} % "
            "in the last third)")
    others = [f"{r['run']} {r['error']:.1f} %" for r in rows[1:]]
    text += (": " + ", ".join(others) if others else "") + "."
    alarmed = [f"{r['run']} (batch {r['alarm']})" for r in rows if r["alarm"]]
    unjudged = [r["run"] for r in rows if r["now"] == "cannot judge"]
    quiet = [r["run"] for r in rows if r["now"] and r["now"] != "cannot judge" and not r["alarm"]]
    seen = ([f"alarms for {', '.join(alarmed)}"] * bool(alarmed)
            + [f"cannot judge {', '.join(unjudged)}"] * bool(unjudged))
    seen += ["sees no run that learns"] * (not seen and not quiet)
    return (f"{text} The detector of collapse {' and '.join(seen)}." if seen
            else f"{text} The detector of collapse is silent.")


def impossible(choice: Experiment, start: str, *changes: tuple) -> str:
    """Why a method with some slots changed cannot run: ``impossible(choice, "tent", ("objective",
    "Agreement"))``; "" when it can."""
    slots = decompose(make(start))
    for slot, key, *seat in changes:
        slots = swapped(slots, slot, key, *seat)
    return on_screen(incompatibility(slots, choice, rehearsal(choice)))


# --- the notebook

# name -> (stream, what it is)
GUIDED = {"filter": ("half of the images unknown", "The filter of the wisdom of crowds, on the "
                                                   "likelihood ratio instead of the entropy"),
          "statistics": ("one shift after another", "Tent without the statistics of the batch"),
          "held": ("half of the images unknown",
                   "Tent with a step thirty times too large, and weights blended with the source's "
                   "after each step")}
# (what, model, stream, start, changes): compositions that cannot be
REFUSED = (("A teacher that nobody asks", "fashion_resnet_bn", "one shift after another", "tent",
            (("teacher", "MeanTeacher"),)),
           ("Tent that tunes nothing", "fashion_resnet_bn", "one shift after another", "tent",
            (("train", "NoParameters"),)),
           ("PAF-KIP's filter on Tent", "fashion_resnet_bn", "one shift after another", "tent",
            (("select", "TwoFilters"),)),
           ("RoTTA with another answer", "fashion_resnet_bn", "one shift after another", "rotta",
            (("reply", "NeighbourAnswer"),)),
           ("A window over batches of 25", "fashion_resnet_bn", "one shift after another", "tent",
            (("cadence", "SlidingWindow"),)),
           ("IABN in a transformer, which has no batch norm", "fashion_vit_ln",
            "one shift after another", "iabn", ()),
           ("Tent on IABN in the same transformer", "fashion_vit_ln", "one shift after another",
            "tent", (("norm", "InstanceAware"),)))


FAST_STEP = 0.03


def guided(name: str) -> Method:
    """One of the compositions of GUIDED. Raises ValueError for another name."""
    if name == "filter":
        return assemble(decompose(make("wisdom_of_crowds")) | {"objective": LikelihoodRatio()})
    if name == "statistics":
        return assemble(decompose(make("tent")) | {"norm": SourceStatistics()})
    if name == "held":
        return assemble(decompose(make("tent", lr=FAST_STEP)) | {"settle": WeightEnsembling(0.9)})
    raise ValueError(f"there is no guided composition {name!r}; there are: {', '.join(GUIDED)}")


def run_guided(name: str, size: dict | Ground, seed: int = 0, device="auto") -> dict:
    """Run a composition of GUIDED beside its two nearest relatives, source and BN-1, on a `Ground`
    or on the embedded one in this size.

    ``recipe``, ``traces``, ``rows`` (of `table`), ``verdict``, ``numbers`` (of the figure),
    ``words`` (what it is, and what sets it off from its relatives).
    """
    recipe = guided(name)
    lights = Lights()
    ground = size if isinstance(size, Ground) else Ground(**size)
    choice = ground.choice(GUIDED[name][0], recipe, seed)
    traces = named(run_beside(choice, device=device).traces)
    if name == "held":  # the same without what holds it
        loose = explore(replace(choice, recipe=make("tent", lr=FAST_STEP)), (), device=device).trace
        traces = {"composition": traces.pop("composition"), f"tent, lr {FAST_STEP}": loose,
                  **traces}
    lights.see(traces)
    words = [f"{GUIDED[name][1]}. {say_known(recipe)}", say_relatives(relatives(recipe, 2))]
    return {"recipe": recipe, "traces": traces, "rows": table(traces, lights),
            "verdict": verdict(traces), "words": words,
            "numbers": {"so_far": E.so_far(traces), "collapse": collapse_of(traces, lights)}}


def refused(seed: int = 0) -> list[tuple[str, str]]:
    """(what, why) of each composition of REFUSED; of one that runs all the same, the
    `compose.notes` on it."""
    rows = []
    for what, model, stream, start, changes in REFUSED:
        choice = Experiment(model, stream_of(stream, seed=seed, **FAST), seed=seed)
        why = impossible(choice, start, *changes)
        slots = decompose(make(start))
        for change in () if why else changes:
            slots = swapped(slots, *change)
        rows.append((what, why or " ".join(["It runs.", *notes(assemble(slots), choice)])))
    return rows


def say_slots() -> list[str]:
    """What can be exchanged: a sentence for each slot; then which methods cannot be taken apart,
    and why."""
    apart = [name for name in METHODS if name not in WHOLE]
    lines = [f"{SLOTS[slot]}: {', '.join(options.values())}." for slot, options in OPTIONS.items()]
    return [*lines, f"{len(apart)} of {len(METHODS)} methods can be taken apart into these slots "
                    f"and put together again, with the same answers, bit for bit. {len(WHOLE)} "
                    "cannot: their objective, teacher and output stay together, the rest can be "
                    "exchanged.", *(f"{name}: {why}." for name, why in WHOLE.items())]


def say_refused(rows: list[tuple[str, str]]) -> list[str]:
    """A sentence for each composition of `refused`."""
    return [f"{what}: {why.rstrip('.')}." for what, why in rows]
