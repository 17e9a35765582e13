"""A method put together from slots: an objective, a teacher, an answer, what happens after a step, beside the parts that every method has.

Where a slot's content is that of a published method, the part borrows the method itself (``of``): its code runs, so that composing a
method's own parts gives that method's bits (tested).
"""
from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from ..components import teachers
from ..components.augment import ColorAffine
from ..components.norms.batch_norm import BatchStatistics, SourceStatistics
from ..components.objectives import cross_entropy
from ..components.updates import restore_
from ..core import scores
from ..core.knobs import knob
from ..core.parts import LossMethod, Method, NoParameters, NormAffine, Part, Step


@lru_cache(maxsize=512)
def _lender(part: _Borrowed) -> Method:
    from . import METHODS  # which imports this module, so that from_json knows its parts
    return METHODS[part.of](**{f.name: getattr(part, f.name) for f in fields(part)})


@dataclass(frozen=True)
class _Borrowed(Part):
    """A part that does what the method called ``of`` does, with the same knobs."""

    of: ClassVar[str] = ""
    asks_teacher: ClassVar[bool] = False

    @property
    def lender(self) -> Method | None:
        """The method that it is borrowed from, or None."""
        return _lender(self) if self.of else None

    @property
    def needs(self):
        """What the borrowed code needs."""
        return self.lender.needs if self.of else frozenset()

    def takes(self):
        return self.lender.takes() if self.of else ()

    def init(self, model, source):
        return self.lender.init(model, source) if self.of else {}


# --- objectives: what is learned ----------------------------------------------------------------

@dataclass(frozen=True)
class _Objective(_Borrowed):
    def losses(self, ctx, state: dict, target: Tensor | None) -> Tensor:
        """Loss per sample, (B, *S); ``target`` are the teacher's logits where there is one."""
        return self.lender.losses(ctx, state)


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
    """Be sure, also where the entropy is flat: the soft likelihood ratio -sum_k p_ik ln(p_ik / (1 - p_ik)). SLR (2106.14999)."""

    of = "slr"


@dataclass(frozen=True)
class HardLabels(_Objective):
    """Learn the class that the model predicts: -ln p_i[argmax p_i]. Pseudo-Label (Lee 2013)."""

    of = "pseudo_label"


@dataclass(frozen=True)
class ForgivingLabels(_Objective):
    """Learn the predicted class, forgiving wrong ones: (1 - p_i[y_i]^q) / q. RPL (2104.12928)."""

    of = "rpl"
    q: float = knob(0.8, (1e-3, 1.0), "0: cross-entropy, 1: one minus the probability", paper="2104.12928: 0.8")


@dataclass(frozen=True)
class ConjugateLabels(_Objective):
    """The conjugate of the loss that the source model was trained with (PolyLoss); for cross-entropy it is the entropy. 2207.09640."""

    of = "conjugate"
    eps: float = knob(0.0, (0.0, 100.0), "of the PolyLoss that the source model was trained with", paper="2207.09640: 6 (CIFAR)")
    temperature: float = knob(1.0, (1e-2, 100.0, "log"), "divides the logits in the loss")


@dataclass(frozen=True)
class TemperedEntropy(_Objective):
    """An entropy whose temperature follows the spread of each image's logits. GEM of DomainAdaptor (2308.10297)."""

    of = "gem"
    target: str = knob("itself", choices=("itself", "prediction", "views"), why="what the tempered prediction learns: GEM-T, GEM-SKD, GEM-Aug")
    scale: str = knob("batch", choices=("batch", "image"), why="T^2 is averaged over the batch, as in the authors' code, or each image's own")
    augment: Part = ColorAffine()
    views: int = knob(3, (1, 256), "augmentations, for target 'views'", paper="authors' code: 3")


@dataclass(frozen=True)
class RegionEntropy(_Objective):
    """The entropy of a region around each image's features, and how unstable the prediction is in it. ReCAP (2505.20704)."""

    of = "recap"
    tau: float = knob(1.2, (0.0, 100.0), "spread of the region", paper="authors' code: 1.2 (ImageNet)")
    size: float = knob(0.1, (1e-3, 10.0, "log"), "s", paper="authors' code: 0.1")
    instability: float = knob(0.5, (0.0, 100.0), "lambda", paper="authors' code: 0.5")


@dataclass(frozen=True)
class Agreement(_Objective):
    """Agree with the teacher z': the cross-entropy CE(softmax z', z), half of it and half of CE(softmax z, z'), or that with the teacher's class.

    The first is that of CoTTA (2203.13591), the second that of RMT (2211.13081) without its other terms. The gradient of the first is zero where
    both predict the same, so it never leaves a start at which they do.
    """

    asks_teacher = True
    loss: str = knob("symmetric", choices=("symmetric", "cross_entropy", "classes"), why="which cross-entropy to the teacher")

    def losses(self, ctx, state, target):
        if self.loss == "classes":
            return F.cross_entropy(ctx.logits, target.argmax(1), reduction="none")
        return cross_entropy(ctx.logits, target) if self.loss == "cross_entropy" else scores.symmetric_cross_entropy(ctx.logits, target)


# --- teachers: whom to ask ----------------------------------------------------------------------

@dataclass(frozen=True)
class NoTeacher(_Borrowed):
    """Nobody: the model learns from itself."""


@dataclass(frozen=True)
class MeanTeacher(_Borrowed):
    """A second set of tuned weights that follows slowly after each step: theta' <- m theta' + (1 - m) theta.

    It uses the statistics of the model's own normalisation layers. Mean teacher (1703.01780).
    """

    follow: float = knob(0.999, (0.0, 1.0), "momentum of the teacher", paper="CoTTA, RMT: 0.999")

    def init(self, model, source):
        return {"teacher": {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}}

    def logits(self, ctx, state: dict) -> Tensor:
        """The teacher's logits of the batch, no gradient."""
        return ctx.forward(tensors=state["teacher"])

    def follow_(self, ctx, state: dict) -> None:
        """One step of the teacher towards the model."""
        teachers.follow_(state["teacher"], ctx, self.follow)


@dataclass(frozen=True)
class AugmentedTeacher(MeanTeacher):
    """A mean teacher that is asked about many augmentations of each image where the frozen source is unsure of the batch. CoTTA (2203.13591).

    As there, it keeps the statistics that its normalisation layers had at the start.
    """

    of = "cotta"
    augment: Part = ColorAffine()
    views: int = knob(32, (1, 256), "augmentations", paper="CoTTA: 32")
    sure: float = knob(0.92, (0.0, 1.1), "mean source confidence from which the plain teacher is asked", paper="CoTTA: 0.92, 0.72, 0.1")

    def init(self, model, source):
        return self.lender.init(model, source)

    def logits(self, ctx, state):
        return self.lender.output(ctx, state)


@dataclass(frozen=True)
class FrozenTeacher(_Borrowed):
    """The source model, which never moves."""

    needs = frozenset({"source_logits"})
    statistics: str = knob("batch", choices=("batch", "running"), why="statistics in the batch-norm layers of the frozen copy")

    def logits(self, ctx, state):
        return ctx.source_logits(self.statistics)

    def follow_(self, ctx, state):
        """It stays."""


# --- answers: what is returned ------------------------------------------------------------------

@dataclass(frozen=True)
class _Answer(_Borrowed):
    def logits(self, ctx, state: dict, target: Tensor | None) -> Tensor:
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
    """The mean of the model's and the teacher's logits; RMT and PSMT return their sum, which names the same classes."""

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
    affinity: str = knob("rbf", choices=("knn", "rbf", "linear"), why="how alike two images are", paper="2201.05718: chosen of three")
    k: int = knob(5, (1, 1000), "neighbours", paper="2201.05718: 1, 3 or 5")
    strength: float = knob(1.0, (0.0, 100.0), "lambda, the pull of the neighbours", paper="2201.05718: 1")
    symmetric: bool = knob(False, why="use (W + W^T) / 2")
    drop: str = knob("self", choices=("self", "nearest"), why="who is no neighbour: the image itself, or the nearest, which may be a twin")
    steps: int = knob(100, (1, 10000), "most iterations", paper="authors' code: 100")


@dataclass(frozen=True)
class PrototypeAnswer(_Answer):
    """The class whose most certain features seen so far are nearest, in the place of the classifier. T3A (NeurIPS 2021)."""

    of = "t3a"
    keep: int = knob(20, (-1, 10**6), "supports kept of each class", paper="T3A: chosen of 1, 5, 20, 50, 100, all", unit="features")


@dataclass(frozen=True)
class VotedAnswer(_Answer):
    """A vote among the nearest features of labelled source images and of the stream. AdaNPC (2304.12566)."""

    of = "adanpc"
    k: int = knob(100, (1, 100_000), "neighbours that vote", paper="AdaNPC: chosen of 1 to 200", unit="features")
    temperature: float = knob(0.1, (1e-4, 100.0, "log"), "T, of the vote", paper="AdaNPC: chosen of 0.01 to 0.5")
    sure: float = knob(0.1, (0.0, 1.1), "confidence from which an image joins; above 1 none does", paper="AdaNPC: chosen of 0, 0.25, 0.75, 1.1")
    confidence: str = knob("softmax", choices=("softmax", "vote"), why="how sure an answer is")


# --- after a step -------------------------------------------------------------------------------

@dataclass(frozen=True)
class AsStepped(Part):
    """The weights stay where the step has put them."""

    def blend_(self, ctx) -> None:
        """Nothing happens."""


@dataclass(frozen=True)
class Restored(Part):
    """After a step each weight returns to the source with a small probability. CoTTA (2203.13591)."""

    share: float = knob(0.01, (0.0, 1.0), "share of weights put back in each step", paper="CoTTA: 0.01 (CIFAR), 0.001 (ImageNet)")

    def blend_(self, ctx) -> None:
        """Put a random share of the tuned parameters back."""
        restore_(ctx, self.share)


# --- the method ---------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class Composed(LossMethod):
    """A method of your own: every slot chosen by itself.

    L = mean over the images that ``select`` keeps of the ``objective`` (which may ask the ``teacher``), plus ``penalties``; one ``update``
    of the parameters that ``train`` names; then the teacher follows and ``settle`` may move weights back. ``reply`` says what is returned. Slots that
    cannot go together raise ValueError here, with the remedy; what the model lacks is said by `Adapter`. Not in the catalogue: it is no published
    method unless `compose.recognise` says so.
    """

    norm: Part = BatchStatistics()
    train: Part = NormAffine()
    objective: Part = EntropyLoss()
    update: Part = Step(rule="adam", lr=1e-3)
    teacher: Part = NoTeacher()
    reply: Part = OwnAnswer()
    settle: Part = AsStepped()
    family, verified = "composed", "by identity: the parts of a published method give its bits"

    def __post_init__(self):
        super().__post_init__()
        for name, has in (("objective", "losses"), ("teacher", "init"), ("reply", "logits"), ("settle", "blend_")):
            if not isinstance(getattr(self, name), Part) or not hasattr(getattr(self, name), has):
                raise TypeError(f"Composed.{name} takes a part of tta_lab.methods.composed, got {getattr(self, name)!r}")
        if self.conflicts():
            raise ValueError(". ".join(self.conflicts()))

    def conflicts(self) -> list[str]:
        """Why these slots cannot go together, one sentence each, naming culprit and remedy."""
        objective, teacher, reply, settle, train = (type(getattr(self, n)).__name__ for n in ("objective", "teacher", "reply", "settle", "train"))
        some, found = not isinstance(self.teacher, NoTeacher), []
        teach, learn = "choose teacher=MeanTeacher() or FrozenTeacher()", "choose an objective"
        if not self.learns:
            if not isinstance(self.train, NoParameters):
                found.append(f"the objective is Nothing, so {train} names parameters that nothing would move: {learn}, or train=NoParameters()")
            for name, parts in (("selector", self.select), ("penalty", self.penalties), ("controller", self.controllers)):
                found += [f"the objective is Nothing, so the {name} {type(p).__name__} has nothing to do: {learn}, or leave it out" for p in parts]
            if isinstance(self.teacher, MeanTeacher):
                found.append(f"the objective is Nothing, so {teacher} follows a model that never moves: {learn}, or teacher=FrozenTeacher()")
            if not isinstance(self.settle, AsStepped):
                found.append(f"the objective is Nothing, so there is no step after which {settle} could act: {learn}, or settle=AsStepped()")
        elif isinstance(self.train, NoParameters):
            found.append(f"{objective} has nothing to move, because train=NoParameters() tunes nothing: choose train=NormAffine(), or "
                         "objective=Nothing()")
        if self.objective.asks_teacher and not some:
            found.append(f"{objective} learns from a teacher, but there is none: {teach}, or another objective")
        if self.reply.asks_teacher and not some:
            found.append(f"{reply} returns what a teacher says, but there is none: {teach}, or reply=OwnAnswer()")
        if some and not (self.objective.asks_teacher or self.reply.asks_teacher):
            found.append(f"{teacher} is asked by nobody: choose objective=Agreement(), reply=TeacherAnswer() or teacher=NoTeacher()")
        if self.learns and getattr(self.objective, "loss", "") == "cross_entropy" and not self.penalties and self._begins_alike():
            found.append(f"{teacher} begins with the model's own predictions, where the gradient of Agreement with loss='cross_entropy' is zero, so "
                         "nothing would ever move: choose loss='symmetric' or 'classes', teacher=AugmentedTeacher(), or a penalty")
        return found

    def _begins_alike(self) -> bool:
        """Whether teacher and model predict the same at the start of a stream."""
        own = {BatchStatistics: "batch", SourceStatistics: "running"}.get(type(self.norm))
        return type(self.teacher) is MeanTeacher or isinstance(self.teacher, FrozenTeacher) and self.teacher.statistics == own

    @property
    def learns(self):
        """Whether there is an objective."""
        return not isinstance(self.objective, Nothing)

    @property
    def needs(self):
        """What objective, teacher and answer need; and batch norm, where its statistics are all that changes."""
        only = not self.learns and isinstance(self.reply, OwnAnswer) and type(self.norm) is not SourceStatistics
        return frozenset().union(self.objective.needs, self.teacher.needs, self.reply.needs, {"batch_norm"} if only else ())

    def takes(self):
        return tuple(dict.fromkeys((*self.objective.takes(), *self.teacher.takes(), *self.reply.takes())))

    @property
    def tasks(self):
        """What every borrowed part can do."""
        lenders = [p.lender for p in (self.objective, self.teacher, self.reply) if p.of]
        return tuple(task for task in Method.tasks if all(task in lender.tasks for lender in lenders))

    @property
    def kind(self):
        """Logits, or log-probabilities where the answer is made of them."""
        return self.reply.lender.kind if self.reply.of else "logits"

    def init(self, model, source):
        return {name: getattr(self, name).init(model, source) for name in ("objective", "teacher", "reply")}

    def _target(self, ctx, state) -> Tensor | None:
        """The teacher's logits, once for each batch."""
        if isinstance(self.teacher, NoTeacher):
            return None
        ctx.logits  # noqa: B018  first, with gradient: what the teacher says is asked without, and after the statistics have moved
        return ctx.once(state["teacher"], lambda: self.teacher.logits(ctx, state["teacher"]))

    def losses(self, ctx, state):
        return self.objective.losses(ctx, state["objective"], self._target(ctx, state) if self.objective.asks_teacher else None)

    def output(self, ctx, state):
        ctx.logits  # noqa: B018  first, with gradient: answers are made without
        return self.reply.logits(ctx, state["reply"], self._target(ctx, state) if self.reply.asks_teacher else None)

    def after(self, ctx, loss_output, state):
        if loss_output.move:
            if not isinstance(self.teacher, NoTeacher):
                self.teacher.follow_(ctx, state["teacher"])
            self.settle.blend_(ctx)
