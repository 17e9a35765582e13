"""Parts: frozen settings from which a recipe is composed. What changes between batches is state,
kept elsewhere.

A part's ``init`` makes its state (a dict of tensors, numbers and strings), which is handed back at
every call; so resetting, copying and saving need no code in the part.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from .knobs import check, knob

if TYPE_CHECKING:
    from .adapter import Adapter
    from .step_context import LossOutput, StepContext

NORM_LAYERS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm,
               nn.modules.instancenorm._InstanceNorm)
# what a reset may put back
SCOPES = ("weights", "statistics", "optimizer", "states", "generator")


class NeedsError(ValueError):
    """A recipe asks for something that the model does not have; the message says what and what to
    do."""


@dataclass(frozen=True)
class Part:
    """Settings only: a value that can be compared, hashed, printed and pasted back."""

    # of the model: "batch_norm", "features", "source_logits"
    needs: ClassVar[frozenset[str]] = frozenset()
    # what is taken from the source domain: makers declared with `source_info.source_info`
    source_info: ClassVar[tuple] = ()

    def __post_init__(self) -> None:
        check(self)

    def init(self, model: nn.Module, source: nn.Module) -> dict:
        """The state at the start of a stream, and after a reset."""
        return {}

    def after(self, ctx: StepContext, loss_output: LossOutput, state: dict) -> None:
        """Called once for every batch that was learned from, when its update is done: running
        means, restores, counters. Never for controllers (`Controller.decide`) and the cadence."""

    def takes(self) -> tuple:
        """What this part takes from the source domain, with the knobs that its makers see
        (`source_info.SourceInfo`). Raises TypeError for a declaration that is none."""
        makers = self.source_info
        if not isinstance(makers, tuple) or not all(hasattr(info, "of") for info in makers):
            raise TypeError(f"{type(self).__name__}.source_info must be a tuple of functions that "
                            f"are declared with @source_info(...), such as (maker,), not "
                            f"{makers!r}")
        return tuple(info.of(self) for info in self.source_info)

    def observed_layers(self, model: nn.Module) -> tuple[str, ...]:
        """Names of the layers whose outputs are kept of every forward that gives ``ctx.logits``,
        for ``ctx.outputs``."""
        return ()


@dataclass(frozen=True)
class Selector(Part):
    """Which samples are learned from and how heavily; selectors form a chain.

    >>> @dataclass(frozen=True)
    ... class Certain(Selector):
    ...     least: float = knob(0.9, (0.0, 1.0), "probability of the predicted class")
    ...
    ...     def weights(self, ctx, losses, keep, state):
    ...         return (ctx.logits.softmax(1).amax(1) >= self.least).to(losses.dtype)
    >>> import tta_lab as tta
    >>> recipe = tta.make("tent").where(Certain(least=0.5))
    >>> recipe.select
    (Certain(least=0.5),)
    >>> model = nn.Sequential(nn.Flatten(), nn.LayerNorm(4), nn.Linear(4, 3))
    >>> adapter = tta.Adapter(model, recipe, device="cpu")
    >>> adapter(torch.zeros(2, 1, 2, 2)).shape
    torch.Size([2, 3])
    """

    @property
    def statistics(self) -> str | None:
        """What the batch-norm layers of the frozen source use where it asks for its logits,
        "batch" or "running"; the trace then records those. None: it does not ask."""
        return None

    def weights(self, ctx: StepContext, losses: Tensor, keep: Tensor, state: dict) -> Tensor:
        """Weights (B, *S) >= 0; ``keep`` (bool) says who is still in. Pure: it may be asked twice
        in one step."""
        raise NotImplementedError


@dataclass(frozen=True)
class Penalty(Part):
    """One scalar a step, added to the averaged losses."""

    def __call__(self, ctx: StepContext, losses: Tensor, weights: Tensor, state: dict) -> Tensor:
        """The scalar; ``losses`` and ``weights`` (B, *S) are those of the samples."""
        raise NotImplementedError


@dataclass(frozen=True)
class Controller(Part):
    """Looks at what happened in a step and asks for an action; the adapter carries it out, after
    the step was recorded.

    One that ``watches`` also sees what the trace says of the step, may act on the adapter, hold
    learning back and answer in the method's place (`guard.Guard`).

    >>> @dataclass(frozen=True)
    ... class ResetWhenSure(Controller):
    ...     limit: float = knob(0.1, (0.0, 10.0), "of the loss", unit="nats")
    ...
    ...     def decide(self, loss_outputs, state):
    ...         return "reset" if any(out.loss < self.limit for out in loss_outputs) else None
    >>> import tta_lab as tta
    >>> recipe = tta.make("tent", controllers=(ResetWhenSure(limit=10.0),))
    >>> model = nn.Sequential(nn.Flatten(), nn.LayerNorm(4), nn.Linear(4, 3))
    >>> adapter = tta.Adapter(model, recipe, device="cpu")
    >>> _ = adapter(torch.rand(2, 1, 2, 2)), adapter(torch.rand(2, 1, 2, 2))
    >>> adapter.trace.step("reset").tolist(), adapter.trace.step("distance").tolist()[0] > 0
    ([True, True], True)
    """

    watches: ClassVar[bool] = False

    def decide(self, loss_outputs: list[LossOutput], state: dict) -> str | tuple | None:
        """None, "reset" (everything goes back to the start) or a tuple of SCOPES; asked once a
        step, after the answer was given and recorded. ``loss_outputs`` are those of the step: none
        where nothing was learned from."""
        return None

    def pauses(self, state: dict) -> bool:
        """Whether nothing is to be learned from the next batch; asked by the adapter when
        ``watches``, before each step."""
        return False

    def watch(self, adapter: Adapter, samples: dict, step: dict, state: dict) -> None:
        """Called when ``watches``, after a step has learned and before its answer is given.

        ``samples`` and ``step`` are the trace's columns of the method's own answer, as tensors and
        numbers (those of the frozen source only where the method asks for it itself); what is
        written into ``step`` (recorder.WATCHED: alarm, alarm_probability, action, answered_by) is
        recorded. Acts through the adapter's ``remember``, ``recall``, ``rewind`` and
        ``scale_rate``; must keep to ``rewind(..., controllers=False)``, or its own state is
        gone."""

    def answer(self, ctx: StepContext, logits: Tensor, rows: slice | None, step: dict,
               state: dict) -> Tensor:
        """The logits to return instead of the method's, (B, K, *S); asked when ``watches``, after
        ``watch``. ``ctx`` is what was looked at; ``rows`` are those of it that are answered (None:
        all), ``step`` as for ``watch``."""
        return logits


# --- how the network normalises ------------------------------------------------------------------

@dataclass(frozen=True)
class Norm(Part):
    """What the normalisation layers of the adapter's copy do at test time."""

    @property
    def passes(self) -> int:
        """Forwards that give ``ctx.logits`` where statistics move: 2 where the first only moves
        them."""
        return 1

    def apply_(self, model: nn.Module) -> None:
        """Change the normalisation layers of the adapter's copy."""
        raise NotImplementedError


# --- which parameters are tuned ------------------------------------------------------------------

@dataclass(frozen=True)
class Train(Part):
    """Which parameters are tuned."""

    def __call__(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Name -> parameter. Raises NeedsError where the model has none of the kind."""
        raise NotImplementedError


@dataclass(frozen=True)
class NormAffine(Train):
    """Tune the scale and shift of every normalisation layer (batch, group, layer and instance
    norm).

    ``drop_top`` leaves out the top of the network: ``layer4`` of a ResNet, the last quarter of a
    transformer's blocks (9, 10 and 11 of 12) and its final norm. Networks built otherwise are
    tuned whole. Rule of SAR (2302.12400).
    """

    drop_top: bool = knob(False, why="leave the top of the network as it is",
                          paper="SAR 2302.12400; DeYO 2403.07366")

    def __call__(self, model: nn.Module) -> dict[str, nn.Parameter]:
        found = {f"{path}.{name}".lstrip("."): p for path, m in model.named_modules()
                 if isinstance(m, NORM_LAYERS)
                 for name, p in m.named_parameters(recurse=False) if name in ("weight", "bias")}
        if self.drop_top:
            found = {name: p for name, p in found.items() if not _is_top(name.split("."), model)}
        if not found:
            raise NeedsError("this recipe tunes the scale and shift of normalisation layers, but "
                             "the model has none with affine parameters; choose "
                             "train=AllParameters() or another model")
        return found


def _is_top(path: list[str], model: nn.Module) -> bool:
    """Whether a parameter belongs to the last stage of a ResNet, the last quarter of a transformer
    or its final norm."""
    for at, name in enumerate(path[:-1]):
        if name == "layer4":
            return True
        if name in ("blocks", "layers"):
            siblings = list(dict(model.get_submodule(".".join(path[:at + 1])).named_children()))
            return siblings.index(path[at + 1]) >= len(siblings) - len(siblings) // 4
    return path[-2] in ("norm", "ln") if len(path) > 1 else False


@dataclass(frozen=True)
class AllParameters(Train):
    """Tune every parameter of the model, or all but those of its classifier ``head``.

    ``free=False`` takes only parameters called weight or bias, and leaves class tokens, position
    embeddings and the like (what the code of several papers does by its choice of names).
    """

    head: bool = knob(True, why="tune the classifier too")
    free: bool = knob(True, why="tune parameters that are no layer's weight or bias too")

    def __call__(self, model: nn.Module) -> dict[str, nn.Parameter]:
        found = {name: p for name, p in model.named_parameters()
                 if self.free or name.split(".")[-1] in ("weight", "bias")}
        if not self.head:
            head = getattr(model, "head", None)
            if not isinstance(head, nn.Module):
                raise NeedsError(f"AllParameters(head=False) leaves out the model's 'head', but "
                                 f"{type(model).__name__} has none; wrap it so that logits = "
                                 f"head(features(x))")
            kept = {id(p) for p in head.parameters()}
            found = {name: p for name, p in found.items() if id(p) not in kept}
        if not found:
            raise NeedsError("this recipe tunes all parameters"
                             + ("" if self.head else " but those of the head")
                             + ", but the model has none; choose another model, or another train=")
        return found


@dataclass(frozen=True)
class NoParameters(Train):
    """Tune nothing."""

    def __call__(self, model: nn.Module) -> dict[str, nn.Parameter]:
        return {}


# --- update rules --------------------------------------------------------------------------------

@dataclass(frozen=True)
class Update(Part):
    """How the tuned parameters move."""

    @property
    def repeats(self) -> int:
        """How often each batch is learned from; the answer is that of the last time."""
        return 1

    def build(self, params: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser on these parameters."""
        raise NotImplementedError

    def __call__(self, optimizer: torch.optim.Optimizer,
                 closure: Callable[..., LossOutput]) -> LossOutput:
        """Move the parameters, and return what they were moved by.

        ``closure(keep=None)`` evaluates the loss at the weights as they are and, where its
        ``move`` says so, the gradients, as that of ``torch.optim`` does; ``keep`` (B, *S) are the
        weights of the samples to choose among."""
        raise NotImplementedError


@dataclass(frozen=True)
class Step(Update):
    """One step of an ordinary optimiser on the batch, ``repeats`` times."""

    rule: str = knob("adam", choices=("adam", "sgd"), why="optimiser")
    lr: float = knob(1e-3, (0.0, 10.0, "log"), "step size",
                     paper="Tent 2006.10726: Adam 1e-3 on CIFAR-10-C")
    momentum: float = knob(0.9, (0.0, 1.0), "momentum of SGD, beta1 of Adam")
    nesterov: bool = knob(False, why="Nesterov momentum (SGD only)")
    weight_decay: float = knob(0.0, (0.0, 1.0), "L2 weight decay")
    repeats: int = knob(1, (1, 100), "steps on each batch; the answer is that of the last "
                        "evaluation")

    def build(self, params: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser on these parameters. Raises ValueError for settings that it cannot
        have."""
        if self.nesterov and (self.rule != "sgd" or not self.momentum):
            raise ValueError("Step.nesterov = True needs " + (
                "rule='sgd'" if self.rule != "sgd" else "a momentum above 0"))
        if self.rule == "adam":
            if self.momentum == 1:
                raise ValueError("Step.momentum = 1 is too large for Adam, whose running mean of "
                                 "gradients would never move; stay below 1")
            return torch.optim.Adam(params, lr=self.lr, betas=(self.momentum, 0.999),
                                    weight_decay=self.weight_decay, foreach=True)
        return torch.optim.SGD(params, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov,
                               weight_decay=self.weight_decay, foreach=True)

    def __call__(self, optimizer: torch.optim.Optimizer,
                 closure: Callable[..., LossOutput]) -> LossOutput:
        """Evaluate once, then move if the loss says so."""
        loss_output = closure()
        if loss_output.move:
            optimizer.step()
        return loss_output


# --- which images a step sees --------------------------------------------------------------------

@dataclass(frozen=True)
class EveryBatch(Part):
    """Predict and learn from each batch as it comes."""

    def window(self, ctx: StepContext,
               state: dict) -> tuple[StepContext, slice | None, bool]:
        """-> (what to predict and learn from, rows of it that are answered (None: all), whether to
        learn)."""
        return ctx, None, True


@dataclass(frozen=True)
class SlidingWindow(EveryBatch):
    """For single images: predict within a window of the last images, learn when the window has
    turned over once.

    Each image takes the place of the oldest; the whole window goes through the network (so that
    batch statistics exist), only the newest row is answered. The rule of the online-TTA benchmark
    by M. Doebler et al. for batch size 1.
    """

    length: int = knob(16, (2, 1024), "images in the window", unit="images")

    def init(self, model: nn.Module, source: nn.Module) -> dict:
        return {"images": None, "ids": None, "pointer": 0}

    def window(self, ctx: StepContext,
               state: dict) -> tuple[StepContext, slice | None, bool]:
        if len(ctx.x) != 1:
            raise ValueError(f"SlidingWindow takes one image at a time, got a batch of "
                             f"{len(ctx.x)}; use batch size 1 or cadence=EveryBatch()")
        at = state["pointer"]
        if state["images"] is None:
            state.update(images=ctx.x.clone(), ids=ctx.ids.clone())
        elif len(state["images"]) < self.length:
            state.update(images=torch.cat([state["images"], ctx.x]),
                         ids=torch.cat([state["ids"], ctx.ids]))
        else:
            state["images"][at], state["ids"][at] = ctx.x[0], ctx.ids[0]
        state["pointer"] = (at + 1) % self.length
        # clones: what a step saw must not change when the window moves on
        window = ctx.again(state["images"].clone(), state["ids"].clone())
        return window, slice(at, at + 1), at == self.length - 1


# --- what fits where -----------------------------------------------------------------------------

SEATS = {  # field of a method -> (what a part there can do, an example)
    "norm": ("apply_", "norm=BatchStatistics()"),
    "train": ("__call__", "train=NormAffine()"),
    "update": ("build", "update=Step(), or its knobs: rule='sgd', lr=1e-3"),
    "cadence": ("window", "cadence=EveryBatch()"),
}
CHAINS: dict[str, tuple[type[Part], str]] = {
    "select": (Selector, "select=(ConfidenceRise(),)"),
    "penalties": (Penalty, "penalties=(MarginalEntropy(),)"),
    "controllers": (Controller, "controllers=(ResetEvery(1000),)"),
}


def _check_seat(method: Part, name: str, value: Any, default: Any) -> None:
    """Raise TypeError when a field of a method holds something that cannot do what is asked there;
    a list becomes a tuple."""
    where = f"{type(method).__name__}.{name}"
    if name in CHAINS:
        kind, example = CHAINS[name]
        if isinstance(value, list):
            value = tuple(value)
            object.__setattr__(method, name, value)
        if not isinstance(value, tuple):
            raise TypeError(f"{where} takes a tuple of {kind.__name__} parts, such as {example}, "
                            f"not {value!r}")
        wrong = [p for p in value if not isinstance(p, kind)]
        if wrong:
            raise TypeError(f"{where} takes {kind.__name__} parts, got {_named(wrong[0])}; write "
                            f"for example {example}")
    elif name in SEATS or isinstance(default, Part):
        does, example = SEATS.get(name, ("", f"{name}={default!r}"))
        # such as Augmentation
        kinds = [c for c in type(default).__mro__[1:] if issubclass(c, Part) and c is not Part]
        if (not isinstance(value, Part) or does and not callable(getattr(value, does, None))
                or not does and kinds and not isinstance(value, kinds[-1])):
            raise TypeError(f"{where} takes a part, such as {example}, not {_named(value)}")


def _named(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__} (write {value.__name__}(...))"
    return repr(value)


# --- the method ----------------------------------------------------------------------------------

_TUNES_NOTHING: Train = NoParameters()
_NEVER_MOVES: Update = Update()
_NONE: tuple = ()


@dataclass(frozen=True, kw_only=True)
class Method(Part):
    """A test-time adaptation method: a composition of parts. This base has no loss: only
    normalisation and output.

    A subclass states its difference: part defaults, its own knobs, and ``output`` where the answer
    is not the prediction. It never moves data, never logs, never asks for the name of a data set.
    """

    norm: Norm
    cadence: EveryBatch = EveryBatch()

    def __post_init__(self) -> None:
        super().__post_init__()
        for f in fields(self):
            _check_seat(self, f.name, getattr(self, f.name), f.default)

    learns: ClassVar[bool] = False
    # ``after`` finds the gradients of the step, name -> tensor, in loss_output.grads
    reads_gradients: ClassVar[bool] = False
    kind: ClassVar[str] = "logits"  # or "log_probabilities"
    tasks: ClassVar[tuple] = ("classification", "segmentation")
    paper: ClassVar[str] = ""
    family: ClassVar[str] = ""
    # how its numbers were checked: "golden", "statistics" or "invariants only", and details
    verified: ClassVar[str] = ""
    verified_forms: ClassVar[dict] = {}  # form -> the same, where it differs
    # form of make() -> settings, where the authors' code differs from the paper
    forms: ClassVar[dict] = {}
    presets: ClassVar[dict] = {}  # benchmark -> published settings
    # what the loop asks of every method; a method with a loss has these as fields
    train = _TUNES_NOTHING
    update = _NEVER_MOVES
    select = _NONE
    penalties = _NONE
    controllers = _NONE
    average = "kept"
    when_empty = "skip"
    answer = "before"

    def where(self, *selectors: Selector) -> Method:
        """The same method learning only from the samples that these selectors keep too. Raises
        TypeError for a method without a loss."""
        raise TypeError(f"{type(self).__name__} has no loss, so there is nothing to select samples "
                        f"for")

    def plus(self, *penalties: Penalty) -> Method:
        """The same method with more penalties. Raises TypeError for a method without a loss."""
        raise TypeError(f"{type(self).__name__} has no loss, so a penalty cannot be added to it")

    def extra(self, model: nn.Module) -> nn.Module | None:
        """A module that is tuned along with the model (a projector), drawn with the global
        generator, which the adapter seeds."""
        return None

    def begin(self, adapter: Adapter, what: tuple) -> None:
        """Called when these SCOPES are at their start, before the stream and after every reset:
        for a start that is not the source itself."""

    def output(self, ctx: StepContext, state: dict) -> Tensor:
        """The logits to return, (B, K, *S)."""
        return ctx.logits


@dataclass(frozen=True, kw_only=True)
class LossMethod(Method):
    """A method that learns: it states ``losses``, one number per sample, never reduced, and never
    calls backward.

    >>> from tta_lab.components.norms.batch_norm import BatchStatistics
    >>> @dataclass(frozen=True, kw_only=True)
    ... class Sharpen(LossMethod):
    ...     norm: Norm = BatchStatistics()
    ...
    ...     def losses(self, ctx, state):
    ...         return 1 - ctx.logits.softmax(1).square().sum(1)
    >>> import tta_lab as tta
    >>> model = nn.Sequential(nn.Flatten(), nn.LayerNorm(4), nn.Linear(4, 3))
    >>> adapter = tta.Adapter(model, Sharpen(update=Step(lr=0.01)), device="cpu")
    >>> first, second = (adapter(torch.eye(4).view(4, 1, 2, 2)) for _ in range(2))
    >>> losses = adapter.trace.step("loss")
    >>> bool(losses[1] < losses[0]) and not torch.equal(first, second)
    True
    """

    train: Train = NormAffine()
    select: tuple = ()
    penalties: tuple = ()
    update: Update = Step()
    controllers: tuple = ()
    average: str = knob("kept", choices=("kept", "all"),
                        why="losses are divided by the number kept, or by all")
    when_empty: str = knob("skip", choices=("skip", "step"),
                           why="nothing kept: skip the step, or step on the penalties alone")
    answer: str = knob("before", choices=("before", "after"),
                       why="returned logits are from before or after the update")

    learns: ClassVar[bool] = True

    def where(self, *selectors: Selector) -> LossMethod:
        """The same method learning only from the samples that these selectors keep too."""
        return replace(self, select=(*self.select, *selectors))

    def plus(self, *penalties: Penalty) -> LossMethod:
        """The same method with more penalties."""
        return replace(self, penalties=(*self.penalties, *penalties))

    def learning_batches(self, ctx: StepContext, state: dict) -> Iterator[StepContext]:
        """The batches to learn from: the one that came unless a method keeps a memory
        (``ctx.other``) or takes one image at a time (``ctx.part``). What stands after a ``yield``
        runs when that batch has been learned from."""
        yield ctx

    def losses(self, ctx: StepContext, state: dict) -> Tensor:
        """Loss per sample, (B, *S), averaged over those that the selectors keep; zeros where there
        is a ``batch_loss`` alone. Raises NotImplementedError where a method states neither."""
        if not self.has_batch_loss:
            raise NotImplementedError(f"{type(self).__name__} does not say what its loss is")
        return torch.zeros_like(ctx.logits.detach()[:, 0])

    def batch_loss(self, ctx: StepContext, weights: Tensor, state: dict) -> Tensor:
        """Loss of the batch as a whole, a scalar that is added to the averaged losses: of
        statistics, which single samples do not have.

        ``weights`` (B, *S) >= 0 are those of the selectors, 1 for all without any: the statistics
        are those of the samples that are kept, each with its weight (`weighted_moments`). It is
        not divided by anything, and counts 0 where nothing is kept; it must be finite then.
        """
        raise NotImplementedError

    @property
    def has_batch_loss(self) -> bool:
        """Whether the method has a loss of the whole batch."""
        return type(self).batch_loss is not LossMethod.batch_loss

    @property
    def has_sample_losses(self) -> bool:
        """Whether single samples have losses, so that gradients of one of them mean something."""
        return type(self).losses is not LossMethod.losses


def parts_of(recipe: Method) -> list[Part]:
    """The method itself and the parts in its seats and chains."""
    parts = [recipe, recipe.norm, recipe.train, recipe.update, recipe.cadence, *recipe.select,
             *recipe.penalties, *recipe.controllers]
    return [part for part in parts if isinstance(part, Part)]


def needs_of(recipe: Method) -> frozenset[str]:
    """What a recipe needs, the method itself and all its parts: of the model, and names of what is
    taken from the source domain."""
    parts = parts_of(recipe)
    return frozenset().union(*(part.needs for part in parts),
                             (info.name for part in parts for info in part.takes()))
