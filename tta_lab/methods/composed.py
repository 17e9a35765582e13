"""A method put together from slots: an objective, a teacher, an answer, what happens after a step,
beside the parts that every method has.

Where a slot's content is that of a published method, the part borrows the method itself (``of``):
its code runs, so that composing a method's own parts gives that method's bits (tested), and its
knobs are the method's (`lent`).
"""
from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, ClassVar, cast

import torch.nn.functional as F
from torch import Tensor, nn

from ..components import teachers
from ..components.norms.batch_norm import BatchStatistics, SourceStatistics
from ..components.objectives import cross_entropy
from ..components.updates import restore_
from ..core import scores
from ..core.knobs import knob
from ..core.parts import (
    LossMethod,
    Method,
    NoParameters,
    Norm,
    NormAffine,
    Part,
    Step,
    Train,
    Update,
)
from ..core.step_context import StepContext
from . import METHODS
from .adanpc import Adanpc
from .conjugate import Conjugate
from .cotta import Cotta
from .domain_adaptor import Gem
from .lame import Lame
from .recap import Recap
from .rpl import Rpl
from .t3a import T3a


def lent(method: type[Method], name: str) -> Any:
    """The field of this name of a method, for a part that borrows it: one declaration."""
    found = next(f for f in fields(method) if f.name == name)
    return field(default=found.default, metadata=found.metadata)


@lru_cache(maxsize=512)
def _lender(part: _Borrowed) -> Method:
    return METHODS[part.of](**{f.name: getattr(part, f.name) for f in fields(part)})


@dataclass(frozen=True)
class _Borrowed(Part):
    """A part that does what the method called ``of`` does, with the same knobs."""

    of: ClassVar[str] = ""
    asks_teacher: ClassVar[bool] = False

    @property
    def lender(self) -> Method:
        """The method that it is borrowed from; only where ``of`` names one."""
        return _lender(self)

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]  # of the settings, not the class
        """What the borrowed code needs."""
        return self.lender.needs if self.of else frozenset()

    def takes(self) -> tuple:
        return self.lender.takes() if self.of else ()

    def init(self, model: nn.Module, source: nn.Module) -> dict:
        return self.lender.init(model, source) if self.of else {}


# --- objectives: what is learned -----------------------------------------------------------------

@dataclass(frozen=True)
class _Objective(_Borrowed):
    def losses(self, ctx: StepContext, state: dict, target: Tensor | None) -> Tensor:
        """Loss per sample, (B, *S); ``target`` are the teacher's logits where there is one."""
        return cast(LossMethod, self.lender).losses(ctx, state)


@dataclass(frozen=True)
class Nothing(_Objective):
    """Learn nothing: normalisation and answer do all the work."""

    def losses(self, ctx, state, target):
        raise ValueError("Nothing is learned, so there is no loss")


@dataclass(frozen=True)
class EntropyLoss(_Objective):
    """Be sure: the entropy of the prediction, H_i = -sum_k p_ik ln p_ik. Tent (2006.10726)."""

    of = "tent"


@dataclass(frozen=True)
class LikelihoodRatio(_Objective):
    """Be sure, also where the entropy is flat: the soft likelihood ratio -sum_k p_ik ln(p_ik / (1 -
    p_ik)). SLR (2106.14999)."""

    of = "slr"


@dataclass(frozen=True)
class HardLabels(_Objective):
    """Learn the class that the model predicts: -ln p_i[argmax p_i]. Pseudo-Label (Lee 2013)."""

    of = "pseudo_label"


@dataclass(frozen=True)
class ForgivingLabels(_Objective):
    """Learn the predicted class, forgiving wrong ones: (1 - p_i[y_i]^q) / q. RPL (2104.12928)."""

    of = "rpl"
    q: float = lent(Rpl, "q")


@dataclass(frozen=True)
class ConjugateLabels(_Objective):
    """The conjugate of the loss that the source model was trained with (PolyLoss); for
    cross-entropy it is the entropy. 2207.09640."""

    of = "conjugate"
    eps: float = lent(Conjugate, "eps")
    temperature: float = lent(Conjugate, "temperature")


@dataclass(frozen=True)
class TemperedEntropy(_Objective):
    """An entropy whose temperature follows the spread of each image's logits. GEM of DomainAdaptor
    (2308.10297)."""

    of = "gem"
    target: str = lent(Gem, "target")
    scale: str = lent(Gem, "scale")
    augment: Part = lent(Gem, "augment")
    views: int = lent(Gem, "views")


@dataclass(frozen=True)
class RegionEntropy(_Objective):
    """The entropy of a region around each image's features, and how unstable the prediction is in
    it. ReCAP (2505.20704)."""

    of = "recap"
    tau: float = lent(Recap, "tau")
    size: float = lent(Recap, "size")
    instability: float = lent(Recap, "instability")


@dataclass(frozen=True)
class Agreement(_Objective):
    """Agree with the teacher z': the cross-entropy CE(softmax z', z), half of it and half of
    CE(softmax z, z'), or that with the teacher's class.

    The first is that of CoTTA (2203.13591), the second that of RMT (2211.13081) without its other
    terms. The gradient of the first is zero where both predict the same, so it never leaves a start
    at which they do.
    """

    asks_teacher = True
    loss: str = knob("symmetric", choices=("symmetric", "cross_entropy", "classes"),
                     why="which cross-entropy to the teacher")

    def losses(self, ctx, state, target):
        if self.loss == "classes":
            return F.cross_entropy(ctx.logits, target.argmax(1), reduction="none")
        if self.loss == "cross_entropy":
            return cross_entropy(ctx.logits, target)
        return scores.symmetric_cross_entropy(ctx.logits, target)


# --- teachers: whom to ask -----------------------------------------------------------------------

@dataclass(frozen=True)
class _Teacher(_Borrowed):
    def logits(self, ctx: StepContext, state: dict) -> Tensor:
        """The teacher's logits of the batch, (B, K, *S), no gradient."""
        raise NotImplementedError

    def follow_(self, ctx: StepContext, state: dict) -> None:
        """One step of the teacher towards the model; it stays unless it says otherwise."""


@dataclass(frozen=True)
class NoTeacher(_Teacher):
    """Nobody: the model learns from itself."""


@dataclass(frozen=True)
class MeanTeacher(_Teacher):
    """A second set of tuned weights that follows slowly after each step: theta' <- m theta' +
    (1 - m) theta.

    It uses the statistics of the model's own normalisation layers. Mean teacher (1703.01780).
    """

    follow: float = knob(0.999, (0.0, 1.0), "momentum of the teacher", paper="CoTTA, RMT: 0.999")

    def init(self, model, source):
        return {"teacher": {name: p.detach().clone() for name, p in model.named_parameters()
                            if p.requires_grad}}

    def logits(self, ctx, state):
        return ctx.forward(tensors=state["teacher"])

    def follow_(self, ctx, state):
        teachers.follow_(state["teacher"], ctx, self.follow)


@dataclass(frozen=True)
class AugmentedTeacher(MeanTeacher):
    """A mean teacher that is asked about many augmentations of each image where the frozen source
    is unsure of the batch. CoTTA (2203.13591).

    As there, it keeps the statistics that its normalisation layers had at the start.
    """

    of = "cotta"
    augment: Part = lent(Cotta, "augment")
    views: int = lent(Cotta, "views")
    sure: float = lent(Cotta, "sure")

    def init(self, model, source):
        return self.lender.init(model, source)

    def logits(self, ctx, state):
        return self.lender.output(ctx, state)


@dataclass(frozen=True)
class FrozenTeacher(_Teacher):
    """The source model, which never moves."""

    needs = frozenset({"source_logits"})
    statistics: str = knob("batch", choices=("batch", "running"),
                           why="statistics in the batch-norm layers of the frozen copy")

    def logits(self, ctx, state):
        return ctx.source_logits(self.statistics)


# --- answers: what is returned -------------------------------------------------------------------

@dataclass(frozen=True)
class _Answer(_Borrowed):
    def logits(self, ctx: StepContext, state: dict, target: Tensor | None) -> Tensor:
        """The logits to return, (B, C, *S)."""
        return self.lender.output(ctx, state)


@dataclass(frozen=True)
class OwnAnswer(_Answer):
    """The model's own prediction."""

    def logits(self, ctx, state, target):
        return ctx.logits


@dataclass(frozen=True)
class TeacherAnswer(_Answer):
    """The teacher's prediction, as in CoTTA and RoTTA."""

    asks_teacher = True

    def logits(self, ctx, state, target):
        return target


@dataclass(frozen=True)
class MeanAnswer(_Answer):
    """The mean of the model's and the teacher's logits; RMT and PSMT return their sum, which names
    the same classes."""

    asks_teacher = True

    def logits(self, ctx, state, target):
        return (ctx.logits + target) / 2


@dataclass(frozen=True)
class PriorCorrected(_Answer):
    """The model's prediction, corrected by the mean prediction of the batch. ROID (2306.00650)."""

    of = "roid"


@dataclass(frozen=True)
class NeighbourAnswer(_Answer):
    """Alike images of a batch agree on their labels. LAME (2201.05718)."""

    of = "lame"
    affinity: str = lent(Lame, "affinity")
    k: int = lent(Lame, "k")
    strength: float = lent(Lame, "strength")
    symmetric: bool = lent(Lame, "symmetric")
    drop: str = lent(Lame, "drop")
    steps: int = lent(Lame, "steps")


@dataclass(frozen=True)
class PrototypeAnswer(_Answer):
    """The class whose most certain features seen so far are nearest, in the place of the
    classifier. T3A (NeurIPS 2021)."""

    of = "t3a"
    keep: int = lent(T3a, "keep")


@dataclass(frozen=True)
class VotedAnswer(_Answer):
    """A vote among the nearest features of labelled source images and of the stream. AdaNPC
    (2304.12566)."""

    of = "adanpc"
    k: int = lent(Adanpc, "k")
    temperature: float = lent(Adanpc, "temperature")
    sure: float = lent(Adanpc, "sure")
    confidence: str = lent(Adanpc, "confidence")


# --- after a step --------------------------------------------------------------------------------

@dataclass(frozen=True)
class AsStepped(Part):
    """The weights stay where the step has put them."""

    def blend_(self, ctx: StepContext) -> None:
        """Nothing happens."""


@dataclass(frozen=True)
class Restored(Part):
    """After a step each weight returns to the source with a small probability. CoTTA
    (2203.13591)."""

    share: float = knob(0.01, (0.0, 1.0), "share of weights put back in each step",
                        paper="CoTTA: 0.01 (CIFAR), 0.001 (ImageNet)")

    def blend_(self, ctx: StepContext) -> None:
        """Put a random share of the tuned parameters back."""
        restore_(ctx, self.share)


# --- the method ----------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class Composed(LossMethod):
    """A method of your own: every slot chosen by itself.

    L = mean over the images that ``select`` keeps of the ``objective`` (which may ask the
    ``teacher``), plus ``penalties``; one ``update`` of the parameters that ``train`` names; then
    the teacher follows and ``settle`` may move weights back. ``reply`` says what is returned. Slots
    that cannot go together raise ValueError here, with the remedy; what the model lacks is said by
    `Adapter`. Not in the catalogue: it is no published method unless `compose.recognise` says so.
    """

    norm: Norm = BatchStatistics()
    train: Train = NormAffine()
    objective: _Objective = EntropyLoss()
    update: Update = Step(rule="adam", lr=1e-3)
    teacher: _Teacher = NoTeacher()
    reply: _Answer = OwnAnswer()
    settle: Any = AsStepped()  # or whatever can ``blend_``, as WeightEnsembling
    family, verified = "composed", "by identity: the parts of a published method give its bits"

    def __post_init__(self):
        super().__post_init__()
        for name, has in (("objective", "losses"), ("teacher", "init"), ("reply", "logits"),
                          ("settle", "blend_")):
            value = getattr(self, name)
            if not isinstance(value, Part) or not hasattr(value, has):
                raise TypeError(f"Composed.{name} takes a part of tta_lab.methods.composed, got "
                                f"{value!r}")
        if self.conflicts():
            raise ValueError(". ".join(self.conflicts()))

    def conflicts(self) -> list[str]:
        """Why these slots cannot go together, one sentence each, naming culprit and remedy."""
        objective, teacher, reply, settle, train = (
            type(getattr(self, slot)).__name__
            for slot in ("objective", "teacher", "reply", "settle", "train"))
        some = not isinstance(self.teacher, NoTeacher)
        teach = "choose teacher=MeanTeacher() or FrozenTeacher()"
        found = []
        if not self.learns:
            nothing, learn = "the objective is Nothing, so", "choose an objective"
            if not isinstance(self.train, NoParameters):
                found.append(f"{nothing} {train} names parameters that nothing would move: "
                             f"{learn}, or train=NoParameters()")
            for name, parts in (("selector", self.select), ("penalty", self.penalties),
                                ("controller", self.controllers)):
                found += [f"{nothing} the {name} {type(p).__name__} has nothing to do: {learn}, or "
                          f"leave it out" for p in parts]
            if isinstance(self.teacher, MeanTeacher):
                found.append(f"{nothing} {teacher} follows a model that never moves: {learn}, or "
                             f"teacher=FrozenTeacher()")
            if not isinstance(self.settle, AsStepped):
                found.append(f"{nothing} there is no step after which {settle} could act: {learn}, "
                             f"or settle=AsStepped()")
        elif isinstance(self.train, NoParameters):
            found.append(f"{objective} has nothing to move, because train=NoParameters() tunes "
                         f"nothing: choose train=NormAffine(), or objective=Nothing()")
        if self.objective.asks_teacher and not some:
            found.append(f"{objective} learns from a teacher, but there is none: {teach}, or "
                         f"another objective")
        if self.reply.asks_teacher and not some:
            found.append(f"{reply} returns what a teacher says, but there is none: {teach}, or "
                         f"reply=OwnAnswer()")
        if some and not (self.objective.asks_teacher or self.reply.asks_teacher):
            found.append(f"{teacher} is asked by nobody: choose objective=Agreement(), "
                         f"reply=TeacherAnswer() or teacher=NoTeacher()")
        if (self.learns and getattr(self.objective, "loss", "") == "cross_entropy"
                and not self.penalties and self._begins_alike()):
            found.append(f"{teacher} begins with the model's own predictions, where the gradient "
                         f"of Agreement with loss='cross_entropy' is zero, so nothing would ever "
                         f"move: choose loss='symmetric' or 'classes', teacher=AugmentedTeacher(), "
                         f"or a penalty")
        return found

    def _begins_alike(self) -> bool:
        """Whether teacher and model predict the same at the start of a stream."""
        kinds: dict[type[Norm], str] = {BatchStatistics: "batch", SourceStatistics: "running"}
        if isinstance(self.teacher, FrozenTeacher):
            return self.teacher.statistics == kinds.get(type(self.norm))
        return type(self.teacher) is MeanTeacher

    @property
    def learns(self):
        """Whether there is an objective."""
        return not isinstance(self.objective, Nothing)

    @property
    def needs(self):
        """What objective, teacher and answer need; and batch norm, where its statistics are all
        that changes."""
        only = (not self.learns and isinstance(self.reply, OwnAnswer)
                and type(self.norm) is not SourceStatistics)
        return frozenset().union(self.objective.needs, self.teacher.needs, self.reply.needs,
                                 {"batch_norm"} if only else ())

    def takes(self):
        return tuple(dict.fromkeys((*self.objective.takes(), *self.teacher.takes(),
                                    *self.reply.takes())))

    @property
    def tasks(self):
        """What every borrowed part can do."""
        lenders = [p.lender for p in (self.objective, self.teacher, self.reply) if p.of]
        return tuple(task for task in Method.tasks
                     if all(task in lender.tasks for lender in lenders))

    @property
    def kind(self):
        """Logits, or log-probabilities where the answer is made of them."""
        return self.reply.lender.kind if self.reply.of else "logits"

    def init(self, model, source):
        return {name: getattr(self, name).init(model, source)
                for name in ("objective", "teacher", "reply")}

    def _target(self, ctx, state) -> Tensor | None:
        """The teacher's logits, once for each batch."""
        if isinstance(self.teacher, NoTeacher):
            return None
        # first, with gradient: what the teacher says is asked without, and after the statistics
        # have moved
        ctx.logits  # noqa: B018
        return ctx.once(state["teacher"], lambda: self.teacher.logits(ctx, state["teacher"]))

    def losses(self, ctx, state):
        target = self._target(ctx, state) if self.objective.asks_teacher else None
        return self.objective.losses(ctx, state["objective"], target)

    def output(self, ctx, state):
        ctx.logits  # noqa: B018  first, with gradient: answers are made without
        target = self._target(ctx, state) if self.reply.asks_teacher else None
        return self.reply.logits(ctx, state["reply"], target)

    def after(self, ctx, loss_output, state):
        if loss_output.move:
            self.teacher.follow_(ctx, state["teacher"])
            self.settle.blend_(ctx)
