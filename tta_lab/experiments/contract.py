"""What every part must hold, tried on a tiny network: `check_part`."""
from __future__ import annotations

import copy
import io
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..components.selectors import SELECTORS
from ..components.source.prepare import prepare
from ..core.adapter import Adapter
from ..core.knobs import knobs
from ..core.own_parts import check_listable
from ..core.parts import LossMethod, Method, Part, Selector
from ..core.source_model import InputError
from ..methods import make
from ..methods.serialise import PARTS, from_json, to_json
from . import compose
from .catalogue import TinyNetwork, soft_images

ROWS, BATCHES, CLASSES = 12, 4, 10


class Broken(Exception):
    """What is said of a part that does not hold something."""


@dataclass(frozen=True)
class Holds:
    """One thing that was tried: ``what`` must hold, whether it does (None: it was not tried), and
    what was found."""

    what: str
    holds: bool | None
    found: str = ""

    def __str__(self) -> str:
        sign = {True: "holds      ", False: "DOES NOT   ", None: "not tried  "}[self.holds]
        return f"{sign}{self.what}{f': {self.found}' if self.found else ''}"


@dataclass(frozen=True)
class PartCheck:
    """What `check_part` found, printed as one line each; ``holds``: nothing is broken."""

    name: str
    rows: tuple[Holds, ...]

    @property
    def holds(self) -> bool:
        return all(row.holds is not False for row in self.rows)

    def __str__(self) -> str:
        broken = sum(row.holds is False for row in self.rows)
        end = (f"{broken} of {len(self.rows)} do not hold." if broken else
               "All that was tried holds.")
        return "\n".join([f"{self.name}:", *map(str, self.rows), end])

    __repr__ = __str__


@dataclass(frozen=True)
class _Nobody(Selector):
    def weights(self, ctx, losses, keep, state):
        return losses * 0


def check_part(part: type[Part] | Part) -> PartCheck:
    """Try a method, selector or other part (a class, or one with its knobs set) on a tiny network
    with batch normalisation, 10 classes, images (12, 3, 16, 16), and say in words what holds.

    What is tried is what every part of this package must hold: it can be listed and written as
    JSON, its knobs guard their ranges, the caller's model and random numbers are left alone, only
    declared parameters move, and a run can be repeated, reset, interrupted and resumed bit for bit.
    A part that is no method is tried within Tent. Takes about a second. Nothing is raised for a
    part that fails; TypeError for what is no part at all.
    """
    kind = part if isinstance(part, type) else type(part)
    if not issubclass(kind, Part):
        raise TypeError(f"check_part takes a class of your own, such as check_part(Mine), not "
                        f"{part!r}")
    rows: list[Holds] = []

    def tried(what: str, function: Callable[[], str | None]) -> bool:
        try:
            found = function()
        except Exception as why:  # whatever the part does
            text = str(why) if isinstance(why, Broken) else f"{type(why).__name__}: {why}"
            rows.append(Holds(what, False, " ".join(text.split())))
            return False
        rows.append(Holds(what, None if found else True, found or ""))
        return True

    if tried("it can be listed and made without arguments", lambda: check_listable(kind)):
        trial = _Trial(kind() if isinstance(part, type) else part)
        tried("it is in the lists, prints, compares and goes through JSON", trial.written)
        tried("every knob has a sentence and refuses what is out of range", trial.knobs)
        if tried("it runs: answers (B, 10), float32, finite, without gradient", trial.runs):
            for what, function in trial.further():
                tried(what, function)
    return PartCheck(kind.__name__, tuple(rows))


def _must(fact: bool, sentence: str) -> None:
    if not fact:
        raise Broken(sentence)


class _Trial:
    """A part in a recipe, and what is tried of it."""

    def __init__(self, part: Part):
        self.part = part
        self.net = TinyNetwork(1.0, soft_images(64, 1).double()).float()
        self.batches = soft_images(ROWS * BATCHES, 2).split(ROWS)
        self.source_info: dict | None = None

    def recipe(self) -> Method:
        """The part itself, or Tent with it."""
        if isinstance(self.part, Method):
            return self.part
        slot = compose.slot_of(type(self.part))
        if slot is None:
            raise Broken("no slot of a method takes a part of this kind; derive it from a class of "
                         "tta_lab.core.parts, or from a part of its slot")
        value = (self.part,) if slot in compose.SEATS else self.part
        return compose.assemble(compose.decompose(make("tent")) | {slot: value})

    def adapter(self, recipe: Method | None = None, record: str = "source") -> Adapter:
        recipe = self.recipe() if recipe is None else recipe
        taken = prepare(self.net, recipe, soft_images(64, 1), torch.arange(64) % CLASSES,
                        device="cpu")
        return Adapter(self.net, recipe, seed=1, device="cpu", source_info=taken, record=record)

    def played(self, adapter: Adapter, batches=None) -> list[Tensor]:
        return [adapter(x) for x in (self.batches if batches is None else batches)]

    def written(self) -> None:
        kind = type(self.part)
        _must(PARTS.get(kind.__name__) is kind,
              "it is in no list: write @tta_lab.part above it and run its cell again")
        _must(from_json(to_json(self.part)) == self.part,
              "from_json(to_json(part)) is not equal to it; fields must be numbers, texts, parts "
              "or tuples of these")
        _must(hash(self.part) == hash(replace(self.part)), "two equal ones differ in their hash")
        if "<locals>" not in kind.__qualname__:  # of those repr names the function too
            _must(eval(repr(self.part), dict(PARTS)) == self.part,
                  "its repr does not make an equal one")

    def knobs(self) -> None:
        kind = type(self.part)
        for k in knobs(self.part):
            _must(bool(k.why), f"the knob {k.name} has no sentence; knob(..., why=...)")
            if "." in k.name or isinstance(k.default, bool):
                continue
            outside = "no such value" if k.choices else k.high * 2 + 1
            try:
                kind(**{k.name: outside})
            except ValueError:
                continue
            raise Broken(f"{k.name}={outside!r} is out of its range and was taken; call "
                         f"super().__post_init__() where you have your own")

    def runs(self) -> None:
        self.first_adapter = self.adapter()
        self.first = self.played(self.first_adapter)
        for z in self.first:
            _must(tuple(z.shape) == (ROWS, CLASSES), f"an answer has the shape {tuple(z.shape)} "
                                                     f"for {ROWS} images and {CLASSES} classes")
            _must(z.dtype == torch.float32, f"an answer is {z.dtype}, not float32")
            _must(bool(torch.isfinite(z).all()), "an answer is not finite")
            _must(not z.requires_grad, "an answer carries a gradient")

    def further(self):
        """(what must hold, a function that tries it)"""
        learns = isinstance(self.recipe(), LossMethod)
        yield "model, gradients and random numbers of the caller are left alone", self.alone
        yield ("only declared parameters move, and they do" if learns else "no parameter moves",
               self.moves)
        yield "a reset, a run without record and inference mode give the same bits", self.repeated
        yield "a run that is interrupted and resumed gives the same bits", self.resumed
        yield "predict() leaves no mark", self.predicts
        yield "constant images, two images, single images are taken", self.edges
        yield "a damaged image is named and touches nothing", self.damaged
        if learns:
            yield f"it goes together with all {len(SELECTORS)} selectors", self.selectors
            yield "where nothing is kept, nothing moves", self.nothing_kept

    def alone(self) -> None:
        before, drawn = copy.deepcopy(self.net.state_dict()), torch.get_rng_state()
        self.played(self.adapter(), self.batches[:2])
        changed = [k for k, v in self.net.state_dict().items() if not torch.equal(v, before[k])]
        _must(not changed, f"it has changed {', '.join(changed)} of the model that was handed over")
        _must(all(p.grad is None for p in self.net.parameters()),
              "it has left gradients in the model that was handed over")
        _must(torch.equal(torch.get_rng_state(), drawn),
              "it draws from torch's global generator; draw with ctx.draw")

    def moves(self) -> None:
        adapter = self.first_adapter
        frozen = dict(adapter.source.named_parameters())
        own = {k: p for k, p in adapter.model.named_parameters() if p is not frozen.get(k)}
        astray = [k for k, p in own.items() if k not in adapter.tuned
                  and not torch.equal(p, frozen[k])]
        _must(not astray, f"{', '.join(astray)} moved, and train does not declare it")
        steps = adapter.trace
        moved = bool((steps.step("distance") > 0).any())
        wanted = bool(adapter.recipe.learns and not steps.step("skipped").all())
        _must(moved or not wanted, "no parameter has moved; does the loss depend on ctx.logits, "
                                   "with its gradient?")
        _must(wanted or not moved, "parameters have moved, though there is no step")

    def same(self, answers: list[Tensor], how: str) -> None:
        _must(all(torch.equal(a, b) for a, b in zip(answers, self.first, strict=True)),
              f"the answers differ {how}; keep what changes in the state that init makes, and draw "
              f"with ctx.draw")

    def repeated(self) -> None:
        self.first_adapter.reset()
        self.same(self.played(self.first_adapter), "after reset()")
        with torch.inference_mode():
            self.same(self.played(self.adapter(record="off")), "without a record")

    def resumed(self) -> None:
        stopped, file = self.adapter(), io.BytesIO()
        answers = self.played(stopped, self.batches[:2])
        torch.save(stopped.state_dict(), file)
        file.seek(0)
        resumed = self.adapter()
        resumed.load_state_dict(torch.load(file, weights_only=True))
        self.same(answers + self.played(resumed, self.batches[2:]), "after going on elsewhere")

    def predicts(self) -> None:
        adapter = self.adapter()
        adapter(self.batches[0])
        adapter.predict(self.batches[1])
        self.same([self.first[0], adapter(self.batches[1]), *self.first[2:]], "after predict()")

    def edges(self) -> None:
        x = self.batches[0]
        for name, images in (("constant images", torch.full_like(x, 0.5)), ("two images", x[:2]),
                             ("a single image", x[:1])):
            try:
                answers = self.played(self.adapter(), [images] * 2)
            except Exception as why:
                raise Broken(f"{name}: {type(why).__name__}: {why}") from why
            _must(all(bool(torch.isfinite(z).all()) for z in answers),
                  f"{name}: an answer is not finite")

    def damaged(self) -> None:
        adapter = self.adapter()
        adapter(self.batches[0])
        bad = self.batches[1].clone()
        bad[2, 0, 0, 0] = torch.nan
        try:
            adapter(bad, torch.arange(900, 900 + ROWS))
        except InputError as why:
            _must("902" in str(why), f"the error does not name the image: {why}")
        else:
            raise Broken("an image with NaN was taken")
        self.same([self.first[0], adapter(self.batches[1]), *self.first[2:]], "afterwards")

    def selectors(self) -> None:
        chains = [(name, (kind(),)) for name, kind in SELECTORS.items()]
        for name, chain in chains:
            try:
                answers = self.played(self.adapter(self.recipe().where(*chain)), self.batches[:2])
            except Exception as why:
                raise Broken(f"{name}: {type(why).__name__}: {why}") from why
            _must(all(bool(torch.isfinite(z).all()) for z in answers),
                  f"with {name} an answer is not finite")

    def nothing_kept(self) -> None:
        recipe = replace(self.recipe(), penalties=(), when_empty="skip").where(_Nobody())
        adapter = self.adapter(recipe)
        self.played(adapter, self.batches[:2])
        _must(all(torch.equal(p, adapter.origin[k]) for k, p in adapter.tuned.items()),
              "parameters move although every sample is left out; is there a loss beside losses?")
