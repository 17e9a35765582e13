"""Compositions: a method taken apart into slots, put together otherwise, checked, recognised, and
set beside its relatives.

`decompose` gives the slots of a recipe, `assemble` makes a recipe of slots. What cannot go together
is found by doing it (`incompatibility`): the parts, the adapter on the chosen model and a rehearsal
on two images all have their say. Methods named in `WHOLE` cannot be taken apart: their objective,
teacher, answer and what happens after a step stay together, and everything else can be
exchanged.
"""
from __future__ import annotations

import re
from collections import Counter
from dataclasses import MISSING, fields, replace
from functools import lru_cache

import torch

from ..components import unknowns
from ..components.controllers.guard import Guard
from ..components.controllers.resets import CollapseRecovery, ResetEvery
from ..components.norms.adaptive import AdaptiveMixture
from ..components.norms.batch_norm import (
    BatchStatistics,
    MixedStatistics,
    RunningStatistics,
    SourceStatistics,
)
from ..components.norms.stream import InstanceAware, RobustStatistics, UnmixedStatistics
from ..components.objectives import SourceReplay
from ..components.penalties import AugmentedAgreement, Diversity, FisherAnchor, PosteriorAnchor
from ..components.selectors import SELECTORS
from ..components.source.prepare import prepare
from ..components.updates import CosineSam, Sam, WeightEnsembling
from ..core import own_parts
from ..core.adapter import AdaptationError, Adapter
from ..core.knobs import Knob, followers, knobs, own_knobs, with_knobs
from ..core.named import recipe_of
from ..core.norm_layers import BATCH_NORM
from ..core.parts import (
    AllParameters,
    EveryBatch,
    LossMethod,
    Method,
    NeedsError,
    NoParameters,
    NormAffine,
    Part,
    SlidingWindow,
    Step,
)
from ..core.registry import listed_name
from ..core.source_info import source_info_of
from ..data.load import load
from ..methods import METHODS, make
from ..methods.composed import (
    Agreement,
    AsStepped,
    AugmentedTeacher,
    Composed,
    ConjugateLabels,
    EntropyLoss,
    ForgivingLabels,
    FrozenTeacher,
    HardLabels,
    LikelihoodRatio,
    MeanAnswer,
    MeanTeacher,
    NeighbourAnswer,
    NoTeacher,
    Nothing,
    OwnAnswer,
    PriorCorrected,
    PrototypeAnswer,
    RegionEntropy,
    Restored,
    TeacherAnswer,
    TemperedEntropy,
    VotedAnswer,
)
from ..methods.recap import StableRegion
from .experiment import (
    Experiment,
    experiment_of,
    incompatibilities,
    model_key,
    own_code,
    references_of,
    stream_code,
)

LOSS_OF = {  # whose loss is which objective
    **dict.fromkeys(("tent", "eta", "eata", "sar", "deyo", "rdumb", "wisdom_of_crowds", "shot_im",
                     "unient", "unient_plus"), EntropyLoss),
    "slr": LikelihoodRatio, "roid": LikelihoodRatio, "pseudo_label": HardLabels,
    "rpl": ForgivingLabels,
    "conjugate": ConjugateLabels, "gem": TemperedEntropy, "domain_adaptor": TemperedEntropy,
    "recap": RegionEntropy, "cotta": Agreement
}
ANSWER_OF = {"lame": NeighbourAnswer, "t3a": PrototypeAnswer, "adanpc": VotedAnswer}
WHOLE = {  # methods that cannot be taken apart, and why
    "cmf": "its weights follow a hidden model that a Kalman filter estimates from the steps",
    "memo": "it treats every image as an episode of its own, with a learning batch and a reset for "
            "each",
    "paf_kip": "its loss, its filters and its answer share the crops that model and teacher are "
               "shown",
    "petal": "it begins at a posterior of the source weights, and its teacher and its restore "
             "stay with that posterior",
    "psmt": "its teacher is moved twice, around a restore that reads the gradients of the step",
    "rmt": "its loss contrasts features through a projector that is tuned along with the model",
    "rotta": "it learns from a memory, with learning batches and statistics that only its own "
             "teacher shares",
    "santa": "its loss contrasts features through a projector that is tuned along with the model",
    "stamp": "it learns from a memory that its own answer, a mean over augmented views, fills"
}
WHOLE |= {  # and those whose loss is no objective here
    name: "its loss is that of a whole batch, which no other objective is" if kind.batch_loss
          is not LossMethod.batch_loss else "its loss is none of the objectives here"
    for name, kind in METHODS.builtin.items()
    if issubclass(kind, LossMethod) and name not in (*LOSS_OF, *WHOLE)
}
TOGETHER = ("settle", "teacher", "reply")  # with the objective, what a method of WHOLE keeps
PLUMBING = ("average", "when_empty", "answer")
SLOTS = {  # slot -> name on the screen
    "norm": "normalisation", "train": "parameters", "objective": "objective",
    "select": "learn from", "penalties": "extra terms", "update": "update rule",
    "settle": "after a step", "teacher": "teacher", "reply": "output", "controllers": "resets",
    "cadence": "looks at", "average": "average over", "when_empty": "where nothing is kept",
    "answer": "output from"
}
# norms whose statistics follow the stream
MOVING = (RunningStatistics, RobustStatistics, UnmixedStatistics)
# of the slots that hold several parts, or none
SEATS = {"select": 3, "penalties": 2, "controllers": 1}
WEIGHTS = {"objective": 2.0}  # of a slot in the distance; the others 1, a knob KNOB
KNOB = 0.1
SOURCE_SAMPLE = 100  # images, for a rehearsal
OPTIONS: dict[str, dict[Part, str]] = {  # slot -> part -> name on the screen
    "norm": {
        SourceStatistics(): "source statistics",
        BatchStatistics(): "batch statistics",
        MixedStatistics(): "mixture of source and batch",
        RunningStatistics(): "running statistics",
        AdaptiveMixture(): "mixture found in each layer",
        RobustStatistics(): "robust running (RoTTA)",
        InstanceAware(): "instance-aware (NOTE)",
        UnmixedStatistics(): "un-mixed components"
    }, "train": {
        NormAffine(): "scale and shift of norm layers",
        AllParameters(): "all parameters",
        NoParameters(): "nothing"
    }, "objective": {
        Nothing(): "nothing is learned",
        EntropyLoss(): "entropy",
        LikelihoodRatio(): "likelihood ratio",
        HardLabels(): "hard pseudo-labels",
        ForgivingLabels(): "forgiving pseudo-labels",
        ConjugateLabels(): "conjugate labels",
        TemperedEntropy(): "tempered entropy",
        RegionEntropy(): "entropy of a region",
        Agreement(): "agreement with the teacher"
    }, "select": {
        **{kind(): name.replace("_", " ") for name, kind in SELECTORS.builtin.items()},
        unknowns.LikelyKnown(): "likely known",
        StableRegion(): "stable region",
        unknowns.TwoFilters(): "two filters"
    }, "penalties": {
        Diversity(): "diverse predictions",
        AugmentedAgreement(): "agreement on augmentations",
        FisherAnchor(): "Fisher anchor",
        PosteriorAnchor(): "posterior anchor",
        SourceReplay(): "replay of source images",
        unknowns.UnknownEntropy(): "unsure of unknowns",
        unknowns.BothFail(): "unsure where both fail"
    }, "update": {
        Step(): "plain step",
        Sam(): "sharpness-aware",
        CosineSam(): "sharpness-aware, cosine"
    }, "settle": {
        AsStepped(): "weights stay",
        WeightEnsembling(): "blend with source weights",
        Restored(): "restore some at random"
    }, "teacher": {
        NoTeacher(): "none",
        MeanTeacher(): "mean teacher",
        AugmentedTeacher(): "mean teacher on augmentations",
        FrozenTeacher(): "frozen source"
    }, "reply": {
        OwnAnswer(): "own prediction",
        TeacherAnswer(): "teacher's prediction",
        MeanAnswer(): "mean of both",
        PriorCorrected(): "prior-corrected (ROID)",
        NeighbourAnswer(): "neighbours agree (LAME)",
        PrototypeAnswer(): "prototypes (T3A)",
        VotedAnswer(): "nearest features vote (AdaNPC)"
    }, "controllers": {
        CollapseRecovery(): "reset on collapse (SAR)",
        ResetEvery(): "reset at intervals"
    }, "cadence": {EveryBatch(): "each batch as it comes",
                   SlidingWindow(): "sliding window"}
}
KINDS = {slot: {type(part).__name__: part for part in options} for slot, options in OPTIONS.items()}
_LABELS = {
    type(part).__name__: text for options in OPTIONS.values() for part, text in options.items()
}
_KIND = re.compile("")  # set below
_yours: dict[str, str | None] = {}  # your own: name of the class -> its slot


def slot_of(kind: type) -> str | None:
    """The slot that a kind of part is chosen in, or None: the one whose parts it shares a base
    class with."""
    shared = {slot: set.intersection(*(set(type(part).__mro__) for part in options))
              for slot, options in OPTIONS.items()}
    for slot, bases in shared.items():
        only = bases.difference(*(other for name, other in shared.items() if name != slot))
        if only.intersection(kind.__mro__):
            return slot
    return next((slot for slot, options in OPTIONS.items()
                 if set(map(type, options)).intersection(kind.__mro__)), None)


def _list_yours(kinds: tuple[type, ...]) -> None:
    """Put parts of your own into the lists; those that were there before leave."""
    global _KIND
    for name, slot in _yours.items():
        WHOLE.pop(name, None)
        if slot is not None:
            OPTIONS[slot].pop(KINDS[slot].pop(name))
            del _LABELS[name]
    _yours.clear()
    for kind in kinds:
        name = listed_name(kind)
        if issubclass(kind, Method):
            _yours[name] = None
            WHOLE[name] = "it is a class of your own"
        elif (slot := slot_of(kind)) is not None:
            _yours[kind.__name__] = slot
            KINDS[slot][kind.__name__] = part = kind()
            OPTIONS[slot][part] = _LABELS[kind.__name__] = name.replace("_", " ")
    _KIND = re.compile(rf"(?:\b(?P<slot>\w+)=)?\b(?P<kind>{'|'.join(_LABELS)})\b(?:\(\))?")


own_parts.tell(_list_yours)


# --- apart and together -------------------------------------------------------------------------

def name_of(recipe: Method) -> str:
    """The method's name in the catalogue, or "" for a composition."""
    return next((name for name, kind in METHODS.items() if kind is type(recipe)), "")


def _take(kind: type, recipe: Method) -> Part:
    return kind(**{f.name: getattr(recipe, f.name) for f in fields(kind)})


def decompose(recipe: Method) -> dict:
    """The slots of a recipe: slot -> part, tuple of parts, or (of `PLUMBING`) text.

    Of a method of `WHOLE` the objective is the recipe itself and the slots in TOGETHER are None.
    Raises TypeError for a method that is neither in the catalogue nor composed.
    """
    recipe = recipe_of(recipe)
    name = name_of(recipe)
    slots = {slot: getattr(recipe, slot) for slot in SLOTS if slot not in ("objective", *TOGETHER)}
    if isinstance(recipe, Composed):
        return slots | {slot: getattr(recipe, slot) for slot in ("objective", *TOGETHER)}
    if not name:
        raise TypeError(
            f"{type(recipe).__name__} is neither in the catalogue nor composed, so its slots are "
            "not known"
        )
    if name in WHOLE:
        return slots | {"objective": recipe, **dict.fromkeys(TOGETHER)}
    own = {
        "objective": Nothing(), "settle": AsStepped(), "teacher": NoTeacher(),
        "reply": _take(ANSWER_OF.get(name, OwnAnswer), recipe)
    }
    if not recipe.learns:
        return slots | own | {"update": Step()}
    own["objective"] = _take(LOSS_OF[name], recipe)
    if name == "roid":
        own |= {
            "settle": recipe.anchor,
            "reply": PriorCorrected() if recipe.prior_correction else OwnAnswer()
        }
    if name == "cotta":
        own |= {
            "settle": Restored(recipe.restore), "teacher": _take(AugmentedTeacher, recipe),
            "reply": TeacherAnswer()
        }
    return slots | own


def assemble(slots: dict) -> LossMethod:
    """A recipe of these slots: `Composed`, or a method of `WHOLE` with other parts.

    Raises ValueError or TypeError, with culprit and remedy, where they cannot go together.
    """
    objective, common = slots["objective"], {
        slot: value for slot, value in slots.items() if slot not in ("objective", *TOGETHER)
    }
    if isinstance(objective, Method):
        name = name_of(objective)
        for slot in TOGETHER:
            if slots[slot] is not None:
                raise ValueError(
                    f"{name} cannot be taken apart ({WHOLE[name]}), so {SLOTS[slot]} cannot be "
                    f"{label(slots[slot])}: choose \"its own\" "
                    "there, or another objective")
        if isinstance(common["train"], NoParameters):
            raise ValueError(
                f"{name} has nothing to move, because train=NoParameters() tunes nothing: choose "
                "NormAffine(), or objective Nothing()"
            )
        return replace(objective, **common)
    for slot in TOGETHER:
        if slots[slot] is None:
            raise ValueError(
                f'"its own" is for methods that are taken whole, and {label(objective)} is none: '
                f'choose another {SLOTS[slot]}'
            )
    return Composed(objective=objective, **{slot: slots[slot] for slot in TOGETHER}, **common)


def label(part) -> str:
    """A part in two or three words."""
    if part is None:
        return "its own"
    if isinstance(part, Method):
        return f"{name_of(part)}, whole"
    return _LABELS.get(type(part).__name__, type(part).__name__)


def swapped(slots: dict, slot: str, key: str, seat: int = 0) -> dict:
    """These slots with another choice in one of them: ``key`` is the name of a kind in `KINDS`, of
    a method of `WHOLE` (as objective), or "".

    A part of the same kind keeps its knobs. With a whole objective the slots in TOGETHER become its
    own; when it goes, they are empty again.
    """
    new = dict(slots)
    if slot in SEATS:
        held = [*slots[slot], *[None] * SEATS[slot]][:max(SEATS[slot], len(slots[slot]))]
        held[seat] = KINDS[slot][key] if key else None
        new[slot] = tuple(p for p in held if p is not None)
        return new
    if slot != "objective":
        new[slot] = KINDS[slot][key] if key else None
        return new
    if key in WHOLE:
        return new | {"objective": make(key), **dict.fromkeys(TOGETHER)}
    if isinstance(slots["objective"], Method):
        new |= {"settle": AsStepped(), "teacher": NoTeacher(), "reply": OwnAnswer()}
    return new | {"objective": KINDS["objective"][key]}


def slot_knobs(slots: dict) -> dict[str, Knob]:
    """The knobs of everything in the slots, by dotted name (``update.lr``, ``select.0.fraction``,
    ``average``; of a whole method's own by theirs)."""
    plumbing = {
        k.name: replace(k, value=slots[k.name]) for k in own_knobs(Composed) if k.name in PLUMBING
    }
    found = []
    for slot in SLOTS:
        value = slots[slot]
        if slot in PLUMBING:
            found.append(plumbing[slot])
        elif slot in SEATS:
            found += [
                replace(k, name=f"{slot}.{i}.{k.name}") for i, part in enumerate(value)
                for k in knobs(part)
            ]
        elif isinstance(value, Method):
            found += [k for k in knobs(value) if k.name.split(".")[0] not in SLOTS]
        elif value is not None:
            found += [replace(k, name=f"{slot}.{k.name}") for k in knobs(value)]
    return {k.name: k for k in found}


def set_knob(slots: dict, name: str, value) -> dict:
    """These slots with one of `slot_knobs` changed, and those that follow it. Raises ValueError for
    a value outside the knob's range."""
    for each in (name, *followers(list(slot_knobs(slots).values()), name)):
        slots = _set_knob(slots, each, value)
    return slots


def _set_knob(slots: dict, name: str, value) -> dict:
    slot, _, rest = name.partition(".")
    if slot in PLUMBING:
        return slots | {slot: value}
    if slot in SEATS:
        i, _, rest = rest.partition(".")
        return slots | {
            slot: tuple(
                with_knobs(p, **{rest: value}) if j == int(i) else p
                for j, p in enumerate(slots[slot]))
        }
    if slot in SLOTS:
        return slots | {slot: with_knobs(slots[slot], **{rest: value})}
    return slots | {"objective": with_knobs(slots["objective"], **{name: value})}


# --- what cannot be -----------------------------------------------------------------------------


def incompatibility(slots: dict, choice: Experiment, images: torch.Tensor | None = None,
                    made: dict | None = None) -> str:
    """Why these slots cannot run on the model and stream of ``choice``, in sentences with culprit
    and remedy; "" when they can.

    Asked are the parts themselves, `explore.incompatibilities`, and with ``images`` a rehearsal of
    one step on them; what that needs of the source domain is made of SOURCE_SAMPLE images, and kept
    in ``made`` between calls.
    """
    try:
        recipe = assemble(slots)
    except (ValueError, TypeError) as why:
        return str(why)
    found = " ".join(incompatibilities(replace(
        choice, recipe=recipe))) if images is None or source_info_of(recipe) else ""
    if found or images is None:
        return found
    try:
        source_info = _source_info(recipe, choice, {} if made is None else made)
    except ValueError as why:
        # of a class that the sample lacks there may be one
        return "" if "no source image of class" in str(why) else str(why)
    try:
        Adapter(choice.network, recipe, seed=choice.seed, device="cpu", record="off",
                source_info=source_info)(images)
    except NeedsError as why:
        return str(why)
    except (ValueError, AdaptationError) as why:
        return f"in a rehearsal on {len(images)} image{'s' * (len(images) > 1)}: {why}"
    except RuntimeError as why:  # of the network itself, such as sizes that do not fit
        return (f"in a rehearsal on {len(images)} image{'s' * (len(images) > 1)} the network "
                f"failed: {why}")
    # it may learn nothing yet from so few images: selectors and terms are tried on them
    if type(recipe).learning_batches is not LossMethod.learning_batches:
        return incompatibility(swapped(slots, "objective", "EntropyLoss"), choice, images, made)
    return ""


def _source_info(recipe: Method, choice: Experiment, made: dict) -> dict | None:
    """A small sample of what a recipe needs of the source domain, good for a rehearsal only."""
    wanted = source_info_of(recipe)
    if not wanted:
        return None
    key = (frozenset(wanted.values()), recipe.norm, recipe.train, model_key(choice))
    if key not in made:
        images = load(choice.source_images) if isinstance(choice.source_images,
                                                          str) else choice.source_images
        made[key] = prepare(choice.network, recipe, images, limit=SOURCE_SAMPLE,
                                   device="cpu")
    return made[key]


def rehearsal(choice: Experiment) -> torch.Tensor:
    """The first images of the stream, two of them, or one where they come one at a time."""
    return next(iter(choice.stream.batches())).x[:2]


def notes(recipe: Method, choice: Experiment) -> list[str]:
    """What runs, but without effect or otherwise than it seems, on the model of ``choice``:
    sentences with a remedy."""
    found = []
    if type(recipe.norm) is not SourceStatistics and not any(
            isinstance(m, BATCH_NORM) for m in choice.network.modules()):
        found.append(
            f"Normalisation \"{label(recipe.norm)}\" has no effect here: the model has no "
            "batch-norm layer. Choose a model that has."
        )
    if isinstance(recipe, Composed) and isinstance(recipe.teacher, AugmentedTeacher) and type(
            recipe.norm) in MOVING:
        found.append(
            f"The statistics of \"{label(recipe.norm)}\" move, but those of "
            f"\"{label(recipe.teacher)}\" stay where they began, as in "
            "CoTTA. A plain mean teacher shares the model's.")
    return found


def marks(slots: dict, choice: Experiment, images=None, known: dict | None = None,
          stop=None) -> dict:
    """What cannot be chosen next: slot (of several seats: "slot seat") -> key -> reason, for every
    option that is impossible beside the others.

    ``known`` keeps answers between calls, for one model and stream; ``stop()`` ends the search
    early.
    """
    found, known = {}, {} if known is None else known
    for place, slot, seat, keys in places():
        found[place] = {}
        for key in keys:
            if stop is not None and stop():
                return found
            try:
                other = swapped(slots, slot, key, seat)
                text = repr(assemble(other))
            except (ValueError, TypeError) as why:
                found[place][key] = str(why)
                continue
            if text not in known:
                known[text] = incompatibility(other, choice, images, known.setdefault("made", {}))
            if known[text]:
                found[place][key] = known[text]
    return found


def places() -> list[tuple[str, str, int, list[str]]]:
    """(place, slot, seat, keys) of everything that can be chosen: "" stands for nothing, or for a
    whole method's own part."""
    rows = []
    for slot in KINDS:
        keys = list(KINDS[slot])
        if slot in SEATS:
            rows += [(f"{slot} {seat + 1}" if SEATS[slot] > 1 else slot, slot, seat, ["", *keys])
                     for seat in range(SEATS[slot])]
        else:
            rows.append((slot, slot, 0,
                         keys + list(WHOLE) * (slot == "objective") + [""] * (slot in TOGETHER)))
    return rows


# --- relatives ----------------------------------------------------------------------------------

def _names(value) -> Counter:
    parts = value if isinstance(value, tuple) else (value,)
    return Counter(label(p) if isinstance(p, Part | None) else str(p) for p in parts)


@lru_cache(maxsize=512)
def _apart(recipe: Method) -> dict:
    """Slots as they are compared: without the guard, and without what has no effect where nothing
    is learned."""
    slots = decompose(recipe)
    slots |= {"controllers": tuple(c for c in slots["controllers"] if not isinstance(c, Guard))}
    idle = ("update", *PLUMBING) if isinstance(slots["objective"], Nothing) else ()
    return {slot: value for slot, value in slots.items() if slot not in idle}


def _settings(part) -> dict:
    if not isinstance(part, Part):
        return {}
    # the parts of a whole method stand in slots of their own
    held = SLOTS if isinstance(part, Method) else ()
    return {k.name: k.value for k in knobs(part) if k.name.split(".")[0] not in held}


def differences(a: Method, b: Method) -> list[dict]:
    """In what two recipes differ: rows of ``slot``, ``what`` ("parts", "order" or "knobs"),
    ``words`` (what a has in place of what b has), ``cost``.

    A slot with another part costs 1, the objective 2; a selector, extra term or reset that one of
    them lacks 1 each; another order of the same ones, or each knob with another value, 0.1. A guard
    does not count.
    """
    return [dict(row) for row in _differences(recipe_of(a, "a"), recipe_of(b, "b"))]


@lru_cache(maxsize=4096)
def _differences(a: Method, b: Method) -> tuple:
    one, two = _apart(a), _apart(b)
    rows = []

    def add(slot, what, words, cost):
        rows.append(
            {"slot": slot, "what": what, "words": f"{SLOTS[slot]} ({words})", "cost": float(cost)})

    for slot in (slot for slot in SLOTS if slot in one and slot in two):
        here, there = one[slot], two[slot]
        if here == there:
            continue
        x, y = _names(here), _names(there)
        if slot in PLUMBING and here != there:
            add(slot, "knobs", f"{here}, not {there}", KNOB)
        elif slot in SEATS and x != y:
            words = [f"with {n}"
                     for n in (x - y).elements()] + [f"without {n}" for n in (y - x).elements()]
            add(slot, "parts", ", ".join(words), len(words))
        elif x != y:
            add(slot, "parts", f"{next(iter(x))}, not {next(iter(y))}", WEIGHTS.get(slot, 1.0))
        elif slot in SEATS and [type(p) for p in here] != [type(q) for q in there]:
            add(slot, "order", "in another order", KNOB)
        for p, q in zip(here, there, strict=False) if slot in SEATS else [(here, there)]:
            old, new = _settings(q), _settings(p) if type(p) is type(q) else {}
            changed = [
                f"{n.replace('_', ' ')} {_short(v)}, not {_short(old[n])}" for n, v in new.items()
                if n in old and old[n] != v
            ]
            if changed:
                add(slot, "knobs", "; ".join(changed), KNOB * len(changed))
    return tuple(rows)


def _short(value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def distance(a: Method, b: Method) -> float:
    """The sum of the costs of their `differences`."""
    return sum(row["cost"] for row in differences(a, b))


@lru_cache(maxsize=1)
def _published(changes: int) -> tuple:
    """(name, recipe) of every form of every method; that of the paper by the method's name
    alone."""
    return tuple((name if form == "paper" else f"{name} [{form}]", make(name, form=form))
                 for name, kind in METHODS.items() for form in ("paper", *kind.forms))


def recognise(recipe: Method) -> tuple[str, list[dict]] | None:
    """The published method (or a form of it, "sar [reference]") with exactly these parts, and the
    differences in knobs that are left; or None.

    No difference left: it is that method. Of several the one with the smallest distance. A guard is
    not looked at.
    """
    recipe = recipe_of(recipe)
    found = [(name, rows) for name, other in _published(own_parts.changes())
             for rows in [differences(recipe, other)]
             if all(row["what"] == "knobs" for row in rows)]
    return min(found, key=lambda pair: sum(row["cost"] for row in pair[1]), default=None)


def relatives(recipe: Method, n: int = 2, choice: Experiment | None = None,
              images=None) -> list[tuple[str, list[dict]]]:
    """The ``n`` nearest published methods, nearest first, each with its `differences`; not source
    and BN-1, which every run is beside, nor the method that it is. With ``choice`` only those for
    which `incompatibility` has nothing to say."""
    recipe = recipe_of(recipe)
    rows = [(name, differences(recipe, other)) for name, other in _published(own_parts.changes())
            if "[" not in name and name not in ("source", "batch_norm")]
    rows = sorted((r for r in rows if r[1]), key=lambda r: sum(row["cost"] for row in r[1]))
    if choice is None:
        return rows[:n]
    found = []
    for name, why in rows:
        if len(found) == n:
            break
        if not incompatibility(decompose(make(name)), choice, images):
            found.append((name, why))
    return found


# --- words and code -----------------------------------------------------------------------------

def say_recipe(recipe: Method) -> str:
    """The slots of a recipe in a sentence; what is empty is left out."""
    slots, words = decompose(recipe), []
    empty = (NoTeacher, AsStepped, EveryBatch)
    for slot, name in SLOTS.items():
        value = slots[slot]
        if slot in PLUMBING or value is None or isinstance(
                value, empty) or slot == "update" and isinstance(slots["objective"], Nothing):
            continue
        held = value if isinstance(value, tuple) else (value,)
        if held:
            words.append(f"{name}: " + ", ".join("guard" if isinstance(p, Guard) else label(p)
                                                 for p in held))
    return "; ".join(words).capitalize() + "."


def say_known(recipe: Method) -> str:
    """Whether it is a published method, in a sentence."""
    found = recognise(recipe)
    if found is None:
        return "This composition is no method of the catalogue."
    name, rows = found
    guard = ", with a guard" if any(isinstance(c, Guard) for c in recipe.controllers) else ""
    if not rows:
        return f"This is {name}{guard}: every slot holds what it holds there."
    return f"This is {name}{guard} with other settings: " + "; ".join(row["words"]
                                                                      for row in rows) + "."


def say_relatives(found: list) -> str:
    """What the nearest published methods differ in, in a sentence for each."""
    return " ".join(f"It differs from {name} in: " + "; ".join(row["words"] for row in rows) + "."
                    for name, rows in found)


def on_screen(text: str) -> str:
    """A sentence about parts with their names in the lists: ``teacher=MeanTeacher()`` becomes
    teacher "mean teacher"."""
    def spoken(found):
        slot, kind = found["slot"], found["kind"]
        here = f'"{_LABELS[kind]}"'
        return f"{SLOTS.get(slot, slot)} {here}" if slot else here
    return _KIND.sub(spoken, text).replace("Composed ", "This composition ")


def expression(part) -> str:
    """Code that makes this part: the constructor with what differs from its defaults."""
    if isinstance(part, tuple):
        return "(" + "".join(f"{expression(p)}, " for p in part).rstrip(" ") + ")" if part else "()"
    if not isinstance(part, Part):
        return repr(part)
    changed = [
        f for f in fields(part) if f.default is MISSING or getattr(part, f.name) != f.default
    ]
    arguments = ", ".join(f"{f.name}={expression(getattr(part, f.name))}" for f in changed)
    return f"{type(part).__name__}({arguments})"


def _kinds(part) -> set:
    """The classes that `expression` names."""
    if isinstance(part, tuple):
        return set().union(*map(_kinds, part))
    if not isinstance(part, Part):
        return set()
    changed = (getattr(part, f.name) for f in fields(part)
               if f.default is MISSING or getattr(part, f.name) != f.default)
    return {type(part)}.union(*map(_kinds, changed))


def to_code(choice: Experiment, beside=("source", "batch_norm")) -> str:
    """A cell that makes the run of this choice beside the named methods, without a panel, and
    prints every error."""
    recipe = experiment_of(choice).recipe
    known = recognise(choice.recipe)
    beside = references_of(beside)
    guard = any(isinstance(c, Guard) for c in recipe.controllers)
    if known is not None and not known[1] and "[" not in known[0] and not guard:
        imports, text = ["from tta_lab.methods import make"], f"make({known[0]!r})"
    else:
        places: dict[str, list] = {}
        for kind in _kinds(recipe):
            places.setdefault(kind.__module__, []).append(kind.__name__)
        imports = [
            f"from {place} import {', '.join(sorted(names))}"
            for place, names in sorted(places.items()) if place != "__main__"
        ]
        text = expression(recipe)
    named = isinstance(choice.model, str)
    found, stream = stream_code(choice.stream)
    images = ", source_images=source_images"
    if choice.source_images == Experiment.source_images:
        images = ""
    elif choice.source_images is None or isinstance(choice.source_images, str):
        images = f", source_images={choice.source_images!r}"
    return "\n".join([
        *own_code(recipe),
        "from tta_lab.experiments.experiment import Experiment, explore", *found, *imports, "",
        *([] if named else ["# model: your own network"]), stream, f"recipe = {text}",
        f"choice = Experiment({repr(choice.model) if named else 'model'}, stream, recipe, "
        f"seed={choice.seed}{images})",
        f"found = explore(choice, references={list(beside)!r})", "for row in found.rows:",
        """    print(f"{row['run']}: error {row['error']:.2f} %")"""
    ])
