"""Adapter: the one loop. Predict, look, select, average, differentiate, step, record, control."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from .adapter_state import LEARNED, LEARNING_PARTS, PARTS, AdapterState, to_device
from .arguments import choice, flag, shown, whole
from .copying import device_of, linked_copy, own_copy, own_parameters_, precision_of
from .hashing import digest
from .inputs import check_images, whole_ids
from .layer_outputs import layer_names, layers_named
from .named import model_of, recipe_of
from .needs import check_needs
from .norm_layers import check_asked, use_batch_statistics_
from .parts import (
    SCOPES,
    Controller,
    LossMethod,
    Method,
    NeedsError,
    needs_of,
    parts_of,
)
from .recorder import WATCHED, StepRecord, of_failure
from .source_info import check_given
from .source_model import InputError, SourceModel
from .step_context import LossOutput, StepContext, as_logits, undisturbed
from .trace import Trace

STATE = {"tensors", "optimizer", "states", "rng", "seen", "steps", "was_reset", "cost", "errors",
         "trace", "meta"}  # beside what names its owner

BEFORE = ("; no weight was moved. Usual causes: weights that earlier steps spoiled (reset(), a "
          "smaller lr), or values too large for the precision")
AFTER = ("; its step spoiled the weights: go back with reset(), and try a smaller lr, or "
         "on_error='source', which takes back such a step")
AMP = {None: None, torch.bfloat16: torch.bfloat16, "bfloat16": torch.bfloat16,
       "bf16": torch.bfloat16}


class AdaptationError(RuntimeError):
    """A step cannot be made: the loss or the answer is NaN or infinite. For a loss, and an answer
    from before the step, no weight has moved."""


def _samples(ctx: StepContext, losses: Any) -> tuple[int, ...]:
    """(B, *S); where the logits were not asked for, S is that of the losses."""
    if "logits" in vars(ctx):
        return (*ctx.logits.shape[:1], *ctx.logits.shape[2:])
    places = "segmentation" in ctx.adapter.recipe.tasks and isinstance(losses, Tensor)
    return (len(ctx.x), *(losses.shape[1:] if places else ()))


def _check_returned(value: Any, shape: tuple[int, ...], who: str, rule: str) -> None:
    """Raise ValueError unless this is a tensor of that shape."""
    if not isinstance(value, Tensor) or value.shape != shape:
        found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else shown(value)
        expected = f" = {tuple(shape)}" if shape else ""
        raise ValueError(f"{who} must return {rule}{expected}, not {found}; no weight was moved")


class Observer:
    """Is told what an adapter does (`Adapter.observer`), for tests and figures; a method that is
    not overridden does nothing. Nothing that it sees may be changed."""

    def selected(self, ctx: StepContext, selector: Any, kept: Tensor) -> None:
        """After each selector: ``kept`` (B, *S) bool, who is still in."""

    def rewinding(self, adapter: Adapter, what: tuple) -> None:
        """Before these SCOPES go back to the start."""


def _of_state(name: str) -> Any:
    return property(lambda self: getattr(self.state, name), doc=f"``state.{name}``.")


class Adapter:
    """A model that adapts while it predicts: ``adapter(x) -> logits``.

    model      any ``nn.Module`` from images (B, C, H, W) to logits (B, K, *S), or a text as in
               `open_model`; it is copied and never changed: half precision becomes float32,
               compiled and parallel networks are taken out of their wrapping (`copying.own_copy`)
    recipe     a Method, e.g. ``make("tent", lr=1e-3)``, or the name of one
    seed       of the adapter's own generator; the global generators are not touched
    device     "auto" (the model's accelerator, else CUDA if there is one, else CPU) or a device
    amp        None for the model's own precision, or ``torch.bfloat16`` ("bfloat16"): forwards run
               under autocast, losses stay float32
    record     "light", "source" (also what the frozen source says, one more forward) or "off";
               never changes a result
    on_error   "raise", or "source": when a step fails or its answer is not finite, answer with the
               source model, count it, leave the state untouched
    validate   "now" checks each batch before anything happens, "off" trusts the caller
    channels_last   memory format of the network, often faster for convolutions
    source_info     what was taken from the source domain beforehand, for recipes that need it:
                    ``tta_lab.prepare(model, recipe, images)``

    All that changes is in ``state`` (`AdapterState`). Images in another floating type are brought
    to the model's. Raises NeedsError when the model lacks what the recipe needs or cannot be
    copied, InputError for images the model cannot mean, AdaptationError when a loss or an answer
    is not finite.
    """

    seen = _of_state("seen")
    steps = _of_state("steps")
    was_reset = _of_state("was_reset")
    cost = _of_state("cost")
    states = _of_state("parts")
    optimizer = _of_state("optimizer")
    rng = _of_state("rng")

    @undisturbed
    def __init__(self, model: nn.Module | str, recipe: Method | str, seed: int = 0,
                 device: torch.device | str = "auto", *, amp: torch.dtype | str | None = None,
                 record: str = "light", on_error: str = "raise", validate: str = "now",
                 channels_last: bool = False, source_info: dict | None = None):
        recipe = recipe_of(recipe)
        model = model_of(model)
        if not (amp is None or isinstance(amp, str | torch.dtype)) or amp not in AMP:
            scaled = ("; float16 needs its losses scaled, which an adapter does not do"
                      if amp in (torch.float16, "float16", "fp16") else "")
            raise ValueError(f"amp must be None or torch.bfloat16, not {amp!r}{scaled}")
        self.recipe = recipe
        self.seed = whole("seed", seed, 0, 2**63 - 1)
        self.amp = AMP[amp]
        self.record = choice("record", record, ("light", "source", "off"))
        self.on_error = choice("on_error", on_error, ("raise", "source"))
        self.validate = choice("validate", validate, ("now", "off"))
        if not (source_info is None or isinstance(source_info, dict)):
            raise TypeError(f"source_info must be what tta_lab.prepare(model, recipe, images) "
                            f"returned, not {type(source_info).__name__}")
        channels_last = flag("channels_last", channels_last)
        self.device = device_of(model, device)
        self.source = own_copy(model).to(self.device)
        self.precision = precision_of(self.source)
        self.memory_format = torch.contiguous_format
        if channels_last:
            self.memory_format = torch.channels_last
            self.source = self.source.to(memory_format=torch.channels_last)
        for m in self.source.modules():
            if isinstance(m, SourceModel):
                m.check_input = False  # the adapter checks once, before any state is touched
        self.needs = needs_of(recipe)
        check_needs(recipe, self.source)
        check_given(recipe, source_info or {}, self.fingerprint)
        self.source_info = to_device(dict(source_info or {}), self.device, self.precision)
        self._watching = any(controller.watches for controller in recipe.controllers)
        self._networks: dict[str, nn.Module] = {"running": self.source}
        self.model = linked_copy(self.source)
        recipe.norm.apply_(self.model)
        self.observed_layers = tuple(dict.fromkeys(
            name for part in parts_of(recipe) for name in layer_names(
                part.observed_layers(self.model), f"{type(part).__name__}.observed_layers",
                "return ")))
        layers_named(self.model, self.observed_layers)
        self.tuned = own_parameters_(self.model, recipe.train(self.model))
        self.extra = None
        # else nothing is drawn, and other threads never see the generator borrowed
        if type(recipe).extra is not Method.extra:
            with torch.random.fork_rng(devices=[]):
                # of the CPU alone: those of accelerators stay as they are
                torch.default_generator.manual_seed(self.seed)
                self.extra = recipe.extra(self.model)
        extra = nn.ModuleDict()
        if self.extra is not None:
            extra["extra"] = self.extra.to(self.device, self.precision)
        self.tuned |= dict(extra.named_parameters())
        buffers = {**dict(self.model.named_buffers()), **dict(extra.named_buffers())}
        self.state = AdapterState(recipe, self.model, self.source, self.tuned, buffers,
                                  torch.Generator(self.device), self.seed)
        self.origin = {name: self.state.start[name] for name in self.tuned}
        self.source_statistics: str = next(
            (s.statistics for s in recipe.select if s.statistics), "batch")
        self.errors: list[str] = []
        # (statistics, step) -> logits, filled by adapters on the same stream
        self.shared_source: dict | None = None
        self.observer: Observer | None = None
        self.trace = Trace()
        self.reset()

    # --- using it -------------------------------------------------------------------------------

    @undisturbed
    def __call__(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        """Logits (B, K, *S), float32, on the device of ``x``; adapts on the way."""
        ids = whole_ids(x, ids)
        where = x.device if isinstance(x, Tensor) else self.device
        try:
            check_images(x, ids, self.source, self.validate == "now")
        except InputError as why:
            return self._answer_with_source(x, ids, why).to(where)
        x, ids = self._own(x, ids, self.seen)
        if self.on_error == "raise":
            return self._step(x, ids).to(where)
        before = self.state.take()
        try:
            return self._step(x, ids).to(where)
        except Exception as why:  # a deployed model must answer; counted, and its text kept
            self.state.put(before)
            return self._answer_with_source(x, ids, why).to(where)

    @undisturbed
    def reset(self, keep_trace: bool = False, what: tuple = SCOPES) -> None:
        """Weights, statistics, optimiser, states and generator go back to the start, values in
        place; or those in ``what``."""
        self.rewind(what)
        self.state.was_reset = True
        if not keep_trace:
            self.state.count_from_zero()
            self.errors = []
            self.trace = Trace({
                "recipe": repr(self.recipe), "seed": self.seed, "answer": self.recipe.answer,
                "kind": self.recipe.kind, "torch": str(torch.__version__),
                "device": str(self.device), "source_statistics": self.source_statistics,
                "amp": str(self.amp), "precision": str(self.precision),
                "weights": self.fingerprint,
            })

    def rewind(self, what: tuple, controllers: bool = True) -> None:
        """Put these SCOPES back to the start, without a word in the trace; the states of the
        controllers with the others, or not. Raises ValueError for other scopes."""
        if not set(what) <= set(SCOPES):
            raise ValueError(f"an adapter can put back {', '.join(SCOPES)}, not "
                             f"{', '.join(set(what) - set(SCOPES))}")
        if self.observer is not None:
            self.observer.rewinding(self, what)
        self.state.rewind(what, PARTS if controllers else PARTS[:-1])
        self.recipe.begin(self, what)

    @undisturbed
    def predict(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        """The logits that the adapter would answer now, without learning from these images:
        whatever they change is put back."""
        x, ids = self.batch(x, ids)
        with self.isolated(), torch.no_grad():
            logits = self.recipe.output(StepContext(self, x, ids), self.states["method"])
            return self.finite(logits.detach(), ids, "the adapted network")

    @undisturbed
    @torch.no_grad()
    def predict_source(self, x: Tensor) -> Tensor:
        """The logits of the frozen source with its stored statistics."""
        x, _ = self.batch(x)
        return self.finite(as_logits(self.source(x), self.source), None, "the source model")

    def batch(self, x: Tensor, ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Images and ids (0, 1, ... unless given) as a step sees them: checked, on the adapter's
        device, in the number type of its weights, outside of any graph.

        Raises InputError for images that the model cannot mean, and for ids that do not fit."""
        ids = whole_ids(x, ids)
        check_images(x, ids, self.source, self.validate == "now")
        return self._own(x, ids, 0)

    @contextmanager
    def isolated(self) -> Iterator[dict]:
        """Whatever happens to the adapter inside leaves no mark: weights, statistics, optimiser,
        states, generator, counters, cost, errors and trace are as before at the end. Gives what
        ``state.take()`` holds. Source outputs shared between runs are neither read nor written."""
        before, shared = self.state.take(), self.shared_source
        errors, trace = list(self.errors), self.trace
        self.shared_source, self.trace = None, Trace(trace.meta)
        try:
            yield before
        finally:
            self.state.put(before)
            self.shared_source, self.errors, self.trace = shared, errors, trace
            for p in self.tuned.values():
                p.grad = None

    def loss_of(self, ctx: StepContext, keep: Tensor | None = None) -> LossOutput:
        """The loss as a step takes it: losses, the selection chain, the average, the penalties.

        ``ctx`` is one that the method's ``learning_batches`` yields (its ``next_evaluation``); the
        images of any batch do where these are the batch itself, not where they are a memory
        (RoTTA). ``keep`` (B, *S): weights of those to choose among (None: all, with weight 1). Asks
        the host once: was anything kept? Raises AdaptationError where the loss is not finite,
        ValueError for a method without a loss, and where losses, weights, batch loss or a penalty
        are not of the shape (B, *S) or one number, or weights negative or NaN."""
        recipe, state = self._learning(), self.states["method"]
        losses = recipe.losses(ctx, state)
        method = type(recipe).__name__
        _check_returned(losses, _samples(ctx, losses), f"{method}.losses",
                        "one loss per sample, of shape (B, *S)")
        within = []
        with torch.no_grad():
            kept = torch.ones_like(losses, dtype=torch.bool) if keep is None else keep > 0
            weights = torch.ones_like(losses) if keep is None else keep
            for selector, its in zip(recipe.select, self.states["select"], strict=True):
                w = selector.weights(ctx, losses.detach(), kept, its)
                _check_returned(w, losses.shape, f"{type(selector).__name__}.weights",
                                "one weight >= 0 per sample, of shape (B, *S)")
                within.append((w >= 0).logical_or_(~kept | losses.isnan()).all())
                kept = kept & (w > 0)
                weights = torch.where(kept, weights * w, 0.0)
                if self.observer is not None:
                    self.observer.selected(ctx, selector, kept)
            n = kept.sum().clamp(min=1) if recipe.average == "kept" else kept.numel()
        loss = torch.where(kept, weights * losses, 0.0).sum() / n
        if recipe.has_batch_loss:
            whole_batch = recipe.batch_loss(ctx, weights, state)
            _check_returned(whole_batch, (), f"{method}.batch_loss", "one number, a tensor ()")
            loss = loss + torch.where(kept.any(), whole_batch, 0.0)
        for penalty, its in zip(recipe.penalties, self.states["penalties"], strict=True):
            term = penalty(ctx, losses, weights, its)
            _check_returned(term, (), f"{type(penalty).__name__}.__call__",
                            "one number, a tensor ()")
            loss = loss + term
        n_kept, finite, *fits = torch.stack(
            [kept.sum(), torch.isfinite(loss.detach()), *within]).tolist()
        if not all(fits):
            selector = recipe.select[fits.index(0)]
            raise ValueError(f"{type(selector).__name__}.weights must return weights >= 0, but "
                             f"some are negative or NaN in step {self.steps} of {method}; no "
                             f"weight of the network was moved")
        if not finite:
            raise AdaptationError(f"the loss became {loss.item()} in step {self.steps} of "
                                  f"{type(recipe).__name__}; no weight was moved. Usual causes: a "
                                  f"step size that is too large, or a model already at NaN; try a "
                                  f"smaller lr or reset()")
        move = bool(n_kept) or recipe.when_empty == "step"
        return LossOutput(ctx, losses, weights, kept, loss, n_kept, move)

    def _learning(self) -> LossMethod:
        if not isinstance(self.recipe, LossMethod):
            raise ValueError(f"{type(self.recipe).__name__} has no loss")
        return self.recipe

    def finite(self, logits: Tensor, ids: Tensor | None, who: str, then: str = "") -> Tensor:
        """The logits themselves; raises AdaptationError where an image has NaN, an infinite best
        logit, or nothing but -infinity. -infinity for some classes is a probability of 0."""
        broken = self.broken(logits, ids, who)
        if broken:
            raise AdaptationError(broken + then)
        return logits

    def broken(self, logits: Tensor, ids: Tensor | None, who: str) -> str:
        """What `finite` says of these logits of ``who``, "" where they are."""
        best = logits.detach().amax(1)
        broken = ~torch.isfinite(best.flatten(1).sum(1) if best.ndim > 1 else best)
        if not broken.any():
            return ""
        rows = broken.nonzero().flatten().tolist()
        which = (f"positions {rows[:5]}" if ids is None else
                 f"ids {[int(ids[r]) for r in rows[:5]]}")
        return (f"{who} answers with NaN or infinity for {len(rows)} of {len(logits)} images "
                f"({which}) in step {self.steps} of {type(self.recipe).__name__}")

    @cached_property
    def fingerprint(self) -> str:
        """First 12 hex digits of the sha256 of the source model's weights and buffers."""
        return digest({k: v for k, v in self.source.state_dict().items() if isinstance(v, Tensor)})

    def source_network(self, statistics: str) -> nn.Module:
        """The frozen source with running or batch statistics in its batch-norm layers; made when
        first asked for. Raises ValueError for other statistics."""
        if statistics not in ("running", "batch"):
            raise ValueError(f"statistics must be 'batch' or 'running', not {statistics!r}")
        if statistics not in self._networks:
            network = linked_copy(self.source)
            use_batch_statistics_(network)
            self._networks[statistics] = network
        return self._networks[statistics]

    def __repr__(self) -> str:
        return (f"Adapter({type(self.source).__name__}(...), {self.recipe!r}, seed={self.seed}, "
                f"device={str(self.device)!r})")

    # --- its state ------------------------------------------------------------------------------

    def _owner(self) -> dict:
        """What a saved state must have been taken of."""
        return {"format": 1, "recipe": repr(self.recipe), "source": self.fingerprint,
                "seed": self.seed, "given": digest(self.source_info) if self.source_info else ""}

    def state_dict(self) -> dict:
        """Everything that a stream needs to go on bit-identically, as tensors, numbers, strings,
        lists and dicts (``torch.save`` it; ``torch.load(weights_only=True)`` reads it)."""
        return {**self._owner(), **self.state.take(), "errors": list(self.errors),
                "trace": self.trace.state_dict(), "meta": deepcopy(self.trace.meta)}

    @undisturbed
    def load_state_dict(self, state: dict) -> None:
        """Go on where ``state_dict`` was taken. Raises ValueError when it belongs to another
        recipe or source model, or is damaged; the adapter is then as it was."""
        if not isinstance(state, dict):
            raise ValueError(f"expected what state_dict() returned, got {type(state).__name__}")
        for key, mine in self._owner().items():
            if state.get(key) != mine:
                raise ValueError(f"this state belongs to another {key}: it has "
                                 f"{state.get(key)!r}, this adapter has {mine!r}")
        missing = STATE.difference(state)
        if missing:
            raise ValueError(f"this state lacks {', '.join(sorted(missing))}: it is damaged, or "
                             f"was not written by state_dict()")
        before = self.state.take()
        try:
            for name, kind in (("errors", list), ("meta", dict)):
                if not isinstance(state[name], kind):
                    raise ValueError(f"{name} must be of the type {kind.__name__}, not "
                                     f"{type(state[name]).__name__}")
            trace = Trace(deepcopy(state["meta"]))
            trace.load_state_dict(state["trace"])
            self.rewind(SCOPES)
            self.state.check(state)
            self.state.put(state)
        except Exception as why:
            self.state.put(before)
            raise ValueError(f"this state is damaged, and the adapter was left as it was: "
                             f"{why}") from why
        self.errors = list(state["errors"])
        self.trace = trace

    def remember(self) -> dict:
        """What has been learned: weights, statistics, optimiser and the states of all parts but
        the controllers and the cadence. ``recall`` puts it back."""
        return self.state.take(LEARNED, LEARNING_PARTS)

    def recall(self, memory: dict) -> None:
        """Put back what ``remember`` kept; the generator and the counters go on."""
        self.state.put(memory, LEARNED)

    @property
    def rate_scale(self) -> float:
        """By what the step size has been multiplied since the start (`scale_rate`); 1 where
        nothing is tuned."""
        return self.optimizer.param_groups[0]["scale"] if self.optimizer is not None else 1.0

    def scale_rate(self, factor: float) -> None:
        """Multiply the step size of the optimiser, until a reset or ``recall`` puts it back; a
        schedule goes on, scaled."""
        for group in self.optimizer.param_groups if self.optimizer is not None else ():
            group["lr"] *= factor
            group["scale"] *= factor

    # --- one step -------------------------------------------------------------------------------

    def _own(self, x: Tensor, ids: Tensor | None, first: int) -> tuple[Tensor, Tensor]:
        x = x.detach().clone() if x.is_inference() else x.detach()
        x = x.to(self.device, self.precision)
        if x.ndim == 4:
            x = x.contiguous(memory_format=self.memory_format)
        if ids is None:
            return x, torch.arange(first, first + len(x), device=self.device)
        return x, ids.to(self.device)

    def _step(self, x: Tensor, ids: Tensor) -> Tensor:
        recipe, record = self.recipe, StepRecord(self)
        loss_outputs: list[LossOutput] = []
        paused = self._watching and any(c.pauses(state) for c, state in self._controllers())
        ctx = StepContext(self, x, ids, commit=not paused)
        ctx, rows, learn = recipe.cadence.window(ctx, self.states["cadence"])
        learn = learn and recipe.learns and not paused
        repeats = recipe.update.repeats if learn else 1
        with torch.set_grad_enabled(learn):
            for turn in range(repeats):
                ctx = ctx.again() if turn else ctx
                if recipe.answer == "before" and turn == repeats - 1:
                    logits = self._output(ctx, loss_outputs)
                if learn:
                    loss_outputs += [
                        self._learn(batch)
                        for batch in self._learning().learning_batches(ctx, self.states["method"])
                    ]
        with torch.no_grad():
            if recipe.answer == "after":
                logits = self._output(ctx.again() if loss_outputs else ctx, loss_outputs)
            logits = logits.detach() if rows is None else logits.detach()[rows]
            if not self.steps:
                check_asked(self.model)
            self.state.was_reset = False
            logits = self._record(record, ctx, rows, ids, logits, loss_outputs)
            self._control(loss_outputs)
        self.state.seen += len(x)
        self.state.steps += 1
        return logits

    def _output(self, ctx: StepContext, loss_outputs: list[LossOutput]) -> Tensor:
        logits = self.recipe.output(ctx, self.states["method"])
        return self.finite(logits, ctx.ids, "the network", AFTER if loss_outputs else BEFORE)

    def _learn(self, ctx: StepContext) -> LossOutput:
        fresh = [ctx]

        def closure(keep: Tensor | None = None) -> LossOutput:
            loss_output = self.loss_of(fresh.pop() if fresh else ctx.next_evaluation(), keep)
            if loss_output.move:
                self.optimizer.zero_grad(set_to_none=True)
                self._backward(loss_output)
            return loss_output

        loss_output = self.recipe.update(self.optimizer, closure)
        with torch.no_grad():
            for name in LEARNING_PARTS:
                here = self.recipe if name == "method" else getattr(self.recipe, name)
                state = self.states[name]
                for part, its in (zip(here, state, strict=True) if isinstance(here, tuple) else
                                  ((here, state),)):
                    part.after(ctx, loss_output, its)
        if self.optimizer is not None:
            self.optimizer.zero_grad(set_to_none=True)
        loss_output.loss = loss_output.loss.detach()
        loss_output.losses = loss_output.losses.detach()
        loss_output.grads = None
        return loss_output

    def _backward(self, loss_output: LossOutput) -> None:
        params = list(self.tuned.values())
        if not loss_output.loss.requires_grad:
            raise NeedsError(f"the loss of {type(self.recipe).__name__} does not depend on what it "
                             f"tunes ({', '.join(list(self.tuned)[:3])}, ...): the network's "
                             f"forward detaches, runs under no_grad, or uses other layers than its "
                             f"own")
        loss_output.loss.backward(inputs=params)
        self.cost["backwards"] += len(loss_output.ctx.x)
        # before the update rule, which may write into the gradients
        if self._watching or self.record != "off":
            grads = [p.grad for p in params if p.grad is not None]
            if grads:
                loss_output.grad_norm = torch.stack(torch._foreach_norm(grads)).norm()
        if self.recipe.reads_gradients:
            loss_output.grads = {name: p.grad.clone() for name, p in self.tuned.items()
                                 if p.grad is not None}

    def _controllers(self) -> Iterator[tuple[Controller, dict]]:
        return zip(self.recipe.controllers, self.states["controllers"], strict=True)

    def _record(self, record: StepRecord, ctx: StepContext, rows: slice | None, ids: Tensor,
                logits: Tensor, loss_outputs: list[LossOutput]) -> Tensor:
        """Let watching controllers see and answer, and write the trace; the logits to return."""
        said: dict = {}
        if self._watching:
            samples, said = record.columns(ctx, rows, ids, logits, loss_outputs, False)
            for controller, state in self._controllers():
                if controller.watches:
                    controller.watch(self, samples, said, state)
                    logits = controller.answer(ctx, logits, rows, said, state).detach()
        if self.record != "off":
            samples, step = record.columns(ctx, rows, ids, logits, loss_outputs,
                                           self.record == "source")
            self.trace.add(samples, step | {name: said[name] for name in WATCHED if name in said})
        return logits

    def _control(self, loss_outputs: list[LossOutput]) -> None:
        for controller, state in self._controllers():
            action = controller.decide(loss_outputs, state)
            if action is None:
                continue
            if action != "reset" and not (isinstance(action, tuple)
                                          and set(action) <= set(SCOPES)):
                raise ValueError(f"{type(controller).__name__} asked for {action!r}; an adapter "
                                 f"can do: 'reset', or a tuple of {SCOPES}")
            self.reset(keep_trace=True, what=SCOPES if action == "reset" else action)
            return

    def _answer_with_source(self, x: Tensor, ids: Tensor | None, why: Exception) -> Tensor:
        """With on_error="source": the source's prediction; shapes that it cannot take raise all
        the same."""
        if self.on_error == "raise" or not isinstance(x, Tensor) or not x.is_floating_point():
            raise why
        try:
            with torch.no_grad():
                logits = StepContext(self, *self._own(x, ids, self.seen)).forward(self.source)
        except Exception:
            raise why from None
        if not isinstance(why, InputError):
            self.finite(logits, ids, "the step failed, and the source model")
        self.errors.append(f"step {self.steps}: {type(why).__name__}: {why}")
        if self.record != "off":
            ids = torch.arange(self.seen, self.seen + len(x)) if ids is None else ids
            self.trace.add(*of_failure(self, ids, logits))
        self.state.seen += len(x)
        self.state.steps += 1
        return logits
