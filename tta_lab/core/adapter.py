"""Adapter: the one loop. Predict, look, select, average, differentiate, step, control, record."""
from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from . import scores
from .arguments import choice, flag, whole
from .copying import own_copy, precision_of
from .hashing import digest
from .layer_outputs import layers_named
from .named import model_of, recipe_of
from .needs import check_needs
from .norm_layers import check_asked, use_batch_statistics_
from .parts import SCOPES, Method, NeedsError, needs_of, parts_of
from .source_info import check_given
from .source_model import InputError, SourceModel, check_finite
from .step_context import StepContext, as_logits, undisturbed
from .trace import Trace

STATE = {"tensors", "optimizer", "states", "rng", "seen", "steps", "was_reset", "cost", "errors", "trace", "meta"}  # beside what names its owner
WATCHED = ("alarm", "alarm_probability", "action", "answered_by")  # step columns that a watching controller writes


BEFORE = "; no weight was moved. Usual causes: weights that earlier steps spoiled (reset(), a smaller lr), or values too large for the precision"
AFTER = "; its step spoiled the weights: go back with reset(), and try a smaller lr, or on_error='source', which takes back such a step"
AMP = {None: None, torch.bfloat16: torch.bfloat16, "bfloat16": torch.bfloat16, "bf16": torch.bfloat16}


class AdaptationError(RuntimeError):
    """A step cannot be made: the loss or the answer is NaN or infinite. For a loss, and an answer from before the step, no weight has moved."""


@dataclass
class LossOutput:
    """What one look taught: losses, weights, kept (B, *S); ``n_kept`` and ``move`` on the host."""

    ctx: StepContext
    losses: Tensor
    weights: Tensor
    kept: Tensor
    loss: Tensor
    n_kept: int
    move: bool
    grad_norm: Tensor | None = None
    grads: dict | None = None


def linked_copy(model: nn.Module) -> nn.Module:
    """A copy with its own modules and buffers that shares the parameter tensors."""
    return deepcopy(model, {id(p): p for p in model.parameters()})


def _own_parameters_(model: nn.Module, chosen: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Replace the chosen parameters of a linked copy by trainable clones, wherever they appear."""
    first: dict[int, str] = {}  # a parameter under two names is one, by its first name
    for name, p in chosen.items():
        first.setdefault(id(p), name)
    chosen = {name: chosen[name] for name in first.values()}
    clones = {id(p): nn.Parameter(p.detach().clone()) for p in chosen.values()}
    for module in model.modules():
        for name, p in module._parameters.items():
            if id(p) in clones:
                module._parameters[name] = clones[id(p)]
    return {name: clones[id(p)] for name, p in chosen.items()}


class Adapter:
    """A model that adapts while it predicts: ``adapter(x) -> logits``.

    model      any ``nn.Module`` from images (B, C, H, W) to logits (B, K, *S), or a text as in `open_model`; it is copied and never changed:
               half precision becomes float32, compiled and parallel networks are taken out of their wrapping (`copying.own_copy`)
    recipe     a Method, e.g. ``make("tent", lr=1e-3)``, or the name of one
    seed       of the adapter's own generator; the global generators are not touched
    device     "auto" (the model's accelerator, else CUDA if there is one, else CPU) or a device
    amp        None for the model's own precision, or ``torch.bfloat16`` ("bfloat16"): forwards run under autocast, losses stay float32
    record     "light", "source" (also what the frozen source says, one more forward) or "off"; never changes a result
    on_error   "raise", or "source": when a step fails or its answer is not finite, answer with the source model, count it, leave the state
               untouched
    validate   "now" checks each batch before anything happens, "off" trusts the caller
    channels_last   memory format of the network, often faster for convolutions
    given      what was taken from the source domain beforehand, for recipes that need it: ``source.prepare(model, recipe, images)``

    Images in another floating type are brought to the model's. Raises NeedsError when the model lacks what the recipe needs or cannot be
    copied, InputError for images the model cannot mean, AdaptationError when a loss or an answer is not finite.
    """

    @undisturbed
    def __init__(self, model: nn.Module, recipe: Method, seed: int = 0, device="auto", *, amp: torch.dtype | None = None,
                 record: str = "light", on_error: str = "raise", validate: str = "now", channels_last: bool = False,
                 source_info: dict | None = None):
        recipe, model = recipe_of(recipe), model_of(model)
        if not (amp is None or isinstance(amp, str | torch.dtype)) or amp not in AMP:
            scaled = "; float16 needs its losses scaled, which an adapter does not do" if amp in (torch.float16, "float16", "fp16") else ""
            raise ValueError(f"amp must be None or torch.bfloat16, not {amp!r}{scaled}")
        self.recipe, self.seed, self.amp = recipe, whole("seed", seed, 0, 2**63 - 1), AMP[amp]
        self.record = choice("record", record, ("light", "source", "off"))
        self.on_error = choice("on_error", on_error, ("raise", "source"))
        self.validate = choice("validate", validate, ("now", "off"))
        if not (source_info is None or isinstance(source_info, dict)):
            raise TypeError(f"source_info must be what tta_lab.prepare(model, recipe, images) returned, not {type(source_info).__name__}")
        channels_last = flag("channels_last", channels_last)
        self.device = _device(model, device)
        self.source = own_copy(model).to(self.device)
        self.precision = precision_of(self.source)
        if channels_last:
            self.source = self.source.to(memory_format=torch.channels_last)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        for m in self.source.modules():
            if isinstance(m, SourceModel):
                m.check_input = False  # the adapter checks once, before any state is touched
        self.needs = needs_of(recipe)
        check_needs(recipe, self.source)
        check_given(recipe, source_info or {}, self.fingerprint)
        self.source_info = _to_device(dict(source_info or {}), self.device, self.precision)
        self._watching = any(controller.watches for controller in recipe.controllers)
        self._networks: dict[str, nn.Module] = {"running": self.source}
        self.model = linked_copy(self.source)
        recipe.norm.apply_(self.model)
        self.observed_layers = tuple(dict.fromkeys(name for part in parts_of(recipe) for name in part.observed_layers(self.model)))
        layers_named(self.model, self.observed_layers)
        self.tuned = _own_parameters_(self.model, recipe.train(self.model))
        self.extra = None
        if type(recipe).extra is not Method.extra:  # else nothing is drawn, and other threads never see the generator borrowed
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(self.seed)  # of the CPU alone: those of accelerators stay as they are
                self.extra = recipe.extra(self.model)
        extra = nn.ModuleDict() if self.extra is None else nn.ModuleDict({"extra": self.extra.to(self.device, self.precision)})
        self.tuned |= dict(extra.named_parameters())
        self._params = list(self.tuned.values())
        self._owned = {**self.tuned, **dict(self.model.named_buffers()), **dict(extra.named_buffers())}
        self._start = {k: v.detach().clone() for k, v in self._owned.items()}
        self._origin = [self._start[k] for k in self.tuned]
        self.origin = dict(zip(self.tuned, self._origin, strict=True))
        self.optimizer = recipe.update.build(self._params) if self._params else None
        for group in self.optimizer.param_groups if self._params else ():
            group["scale"] = 1.0  # see scale_rate; rules that set the step size themselves multiply by it
        self._groups = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups] if self._params else []
        self.source_statistics = next((s.statistics for s in recipe.select if hasattr(s, "statistics")), "batch")
        self.rng = torch.Generator(self.device)
        self.cost = {"forwards": 0, "backwards": 0}
        self.errors: list[str] = []
        self.shared_source: dict | None = None  # (statistics, step) -> logits, filled by adapters on the same stream
        self.trace = Trace()
        self.reset()

    # --- using it --------------------------------------------------------------------------------

    @undisturbed
    def __call__(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        """Logits (B, K, *S), float32, on the device of ``x``; adapts on the way."""
        ids = self._ids(x, ids)
        where = x.device if isinstance(x, Tensor) else self.device
        try:
            self._check(x, ids)
        except InputError as why:
            return self._answer_with_source(x, ids, why).to(where)
        x = self._own(x)
        if x.ndim == 4:
            x = x.contiguous(memory_format=self.memory_format)
        ids = torch.arange(self.seen, self.seen + len(x), device=self.device) if ids is None else ids.to(self.device)
        if self.on_error == "raise":
            return self._step(x, ids).to(where)
        before = self._snapshot()
        try:
            return self._step(x, ids).to(where)
        except Exception as why:  # a deployed model must answer; the event is counted and its text kept
            self._restore(before)
            return self._answer_with_source(x, ids, why).to(where)

    @undisturbed
    def reset(self, keep_trace: bool = False, what: tuple = SCOPES) -> None:
        """Weights, statistics, optimiser, states and generator go back to the start, values in place; or those in ``what``."""
        self.rewind(what)
        self.was_reset = True
        if not keep_trace:
            self.seen = self.steps = 0
            self.cost = {"forwards": 0, "backwards": 0}
            self.errors = []
            self.trace = Trace({"recipe": repr(self.recipe), "seed": self.seed, "answer": self.recipe.answer, "kind": self.recipe.kind,
                                "torch": str(torch.__version__), "device": str(self.device), "source_statistics": self.source_statistics,
                                "amp": str(self.amp), "precision": str(self.precision), "weights": self.fingerprint})

    def rewind(self, what: tuple, controllers: bool = True) -> None:
        """Put these SCOPES back to the start, without a word in the trace; the states of the controllers with the others, or not."""
        if not set(what) <= set(SCOPES):
            raise ValueError(f"an adapter can put back {', '.join(SCOPES)}, not {', '.join(set(what) - set(SCOPES))}")
        with torch.no_grad():
            for name, tensor in self._owned.items():
                if ("weights" if name in self.tuned else "statistics") in what:
                    tensor.copy_(self._start[name])
        if self.optimizer is not None and "optimizer" in what:
            self.optimizer.state.clear()
            self.optimizer.zero_grad(set_to_none=True)
            for group, start in zip(self.optimizer.param_groups, self._groups, strict=True):
                group.update(start)  # step sizes that follow a schedule
        if "states" in what:
            parts = {name: getattr(self.recipe, name) for name in ("norm", "train", "update", "cadence")}
            chains = {name: getattr(self.recipe, name) for name in ("select", "penalties", "controllers") if controllers or name != "controllers"}
            self.states = {**({} if controllers else {"controllers": self.states["controllers"]}),
                           "method": self.recipe.init(self.model, self.source),
                           **{name: part.init(self.model, self.source) for name, part in parts.items()},
                           **{name: [p.init(self.model, self.source) for p in chain] for name, chain in chains.items()}}
        if "generator" in what:
            self.rng.manual_seed(self.seed)
        self.recipe.begin(self, what)

    @undisturbed
    def predict(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        """The logits that the adapter would answer now, without learning from these images: whatever they change is put back."""
        ids = self._ids(x, ids)
        self._check(x, ids)
        x = self._own(x)
        ids = torch.arange(len(x), device=self.device) if ids is None else ids.to(self.device)
        before = self._snapshot()
        try:
            with torch.no_grad():
                return self.finite(self.recipe.output(StepContext(self, x, ids), self.states["method"]).detach(), ids, "the adapted network")
        finally:
            self._restore(before)

    @undisturbed
    @torch.no_grad()
    def predict_source(self, x: Tensor) -> Tensor:
        """The logits of the frozen source with its stored statistics."""
        self._check(x, None)
        return self.finite(as_logits(self.source(self._own(x)), self.source), None, "the source model")

    def _own(self, x: Tensor) -> Tensor:
        """Images on the adapter's device, in the number type of its weights, outside of any graph."""
        x = x.detach().clone() if x.is_inference() else x.detach()
        return x.to(self.device, self.precision)

    def finite(self, logits: Tensor, ids: Tensor | None, who: str, then: str = "") -> Tensor:
        """The logits themselves; raises AdaptationError where an image has NaN, an infinite best logit, or nothing but -infinity.
        -infinity for some classes is a probability of 0."""
        broken = ~torch.isfinite(logits.detach().amax(1).flatten(1).sum(1) if logits.ndim > 2 else logits.detach().amax(1))
        if broken.any():
            rows = broken.nonzero().flatten().tolist()
            which = f"positions {rows[:5]}" if ids is None else f"ids {[int(ids[r]) for r in rows[:5]]}"
            raise AdaptationError(f"{who} answers with NaN or infinity for {len(rows)} of {len(logits)} images ({which}) in step {self.steps}"
                                  + (f" of {type(self.recipe).__name__}{then}"))
        return logits

    @property
    def fingerprint(self) -> str:
        """First 12 hex digits of the sha256 of the source model's weights and buffers."""
        if not hasattr(self, "_fingerprint"):
            self._fingerprint = digest({k: v for k, v in self.source.state_dict().items() if isinstance(v, Tensor)})
        return self._fingerprint

    def source_network(self, statistics: str) -> nn.Module:
        """The frozen source with running or batch statistics in its batch-norm layers; made when first asked for."""
        if statistics not in ("running", "batch"):
            raise ValueError(f"statistics must be 'batch' or 'running', not {statistics!r}")
        if statistics not in self._networks:
            network = linked_copy(self.source)
            use_batch_statistics_(network)
            self._networks[statistics] = network
        return self._networks[statistics]

    def __repr__(self) -> str:
        return f"Adapter({type(self.source).__name__}(...), {self.recipe!r}, seed={self.seed}, device={str(self.device)!r})"

    # --- saving ----------------------------------------------------------------------------------

    def state_dict(self) -> dict:
        """Everything that a stream needs to go on bit-identically, as tensors, numbers, strings, lists and dicts
        (``torch.save`` it; ``torch.load(weights_only=True)`` reads it)."""
        return {"format": 1, "recipe": repr(self.recipe), "source": self.fingerprint, "seed": self.seed,
                "given": digest(self.source_info) if self.source_info else "", **self._snapshot(),
                "errors": list(self.errors), "trace": self.trace.state_dict(), "meta": deepcopy(self.trace.meta)}

    @undisturbed
    def load_state_dict(self, state: dict) -> None:
        """Go on where ``state_dict`` was taken. Raises ValueError when it belongs to another recipe or source model."""
        if not isinstance(state, dict):
            raise ValueError(f"expected what state_dict() returned, got {type(state).__name__}")
        for key, mine in (("format", 1), ("recipe", repr(self.recipe)), ("source", self.fingerprint), ("seed", self.seed),
                          ("given", digest(self.source_info) if self.source_info else "")):
            if state.get(key) != mine:
                raise ValueError(f"this state belongs to another {key}: it has {state.get(key)!r}, this adapter has {mine!r}")
        missing = STATE.difference(state)
        if missing:
            raise ValueError(f"this state lacks {', '.join(sorted(missing))}: it is damaged, or was not written by state_dict()")
        before = self._snapshot()
        try:
            for name, kind in (("seen", int), ("steps", int), ("was_reset", bool), ("cost", dict), ("errors", list), ("meta", dict)):
                if not isinstance(state[name], kind):
                    raise ValueError(f"{name} must be of the type {kind.__name__}, not {type(state[name]).__name__}")
            if state["cost"].keys() != self.cost.keys():
                raise ValueError(f"it counts {sorted(state['cost'])}, not {sorted(self.cost)}")
            trace = Trace(deepcopy(state["meta"]))
            trace.load_state_dict(state["trace"])
            self._check_optimizer(state["optimizer"])
            for key in ("seen", "steps"):
                whole(key, state[key], 0)
            _check_alike("cost", self.cost, state["cost"])
            self.rewind(SCOPES)
            _check_alike("states", self.states, state["states"], self._owned)
            self._restore(state)
        except Exception as why:
            self._restore(before)
            raise ValueError(f"this state is damaged, and the adapter was left as it was: {why}") from why
        self.errors, self.trace = list(state["errors"]), trace

    def _check_optimizer(self, state: dict) -> None:
        """Raise ValueError where running averages have other shapes than the parameters they belong to."""
        for i, averages in state.get("state", {}).items():
            for name, value in averages.items():
                if isinstance(value, Tensor) and value.ndim and (i >= len(self._params) or value.shape != self._params[i].shape):
                    raise ValueError(f"the optimiser's {name!r} of parameter {i} has shape {tuple(value.shape)}, which no parameter here has")

    def _snapshot(self) -> dict:
        return {"tensors": {k: v.detach().clone() for k, v in self._owned.items()},
                "optimizer": deepcopy(self.optimizer.state_dict()) if self.optimizer else {},
                "states": deepcopy(self.states), "rng": self.rng.get_state(), "seen": self.seen, "steps": self.steps,
                "was_reset": self.was_reset, "cost": dict(self.cost)}

    def _restore(self, state: dict) -> None:
        tensors = {k: v for k, v in state["tensors"].items() if k in self._owned or not k.endswith("num_batches_tracked")}
        if tensors.keys() != self._owned.keys():
            raise ValueError(f"the state holds other tensors than this adapter: {sorted(tensors.keys() ^ self._owned.keys())[:5]}")
        for name, tensor in self._owned.items():
            if tensors[name].shape != tensor.shape:
                raise ValueError(f"the state holds {name!r} of shape {tuple(tensors[name].shape)}, this adapter {tuple(tensor.shape)}")
        with torch.no_grad():
            for name, tensor in self._owned.items():
                tensor.copy_(tensors[name])
        if self.optimizer is not None:
            self.optimizer.load_state_dict(deepcopy(state["optimizer"]))
        self.states = _to_device(deepcopy(state["states"]), self.device)
        self.rng.set_state(state["rng"].cpu())
        self.seen, self.steps, self.was_reset, self.cost = state["seen"], state["steps"], state["was_reset"], dict(state["cost"])

    def remember(self) -> dict:
        """What has been learned: weights, statistics, optimiser and the states of all parts but the controllers and the cadence (which holds
        what came, not what was learned). ``recall`` puts it back."""
        return {"tensors": {k: v.detach().clone() for k, v in self._owned.items()},
                "optimizer": deepcopy(self.optimizer.state_dict()) if self.optimizer else {},
                "states": deepcopy({name: state for name, state in self.states.items() if name not in ("controllers", "cadence")})}

    def recall(self, memory: dict) -> None:
        """Put back what ``remember`` kept, values in place; the generator and the counters go on."""
        with torch.no_grad():
            for name, tensor in self._owned.items():
                tensor.copy_(memory["tensors"][name])
        if self.optimizer is not None:
            self.optimizer.load_state_dict(deepcopy(memory["optimizer"]))
        self.states |= _to_device(deepcopy(memory["states"]), self.device)

    @property
    def rate_scale(self) -> float:
        """By what the step size has been multiplied since the start (`scale_rate`); 1 where nothing is tuned."""
        return self.optimizer.param_groups[0]["scale"] if self.optimizer is not None else 1.0

    def scale_rate(self, factor: float) -> None:
        """Multiply the step size of the optimiser, until a reset or ``recall`` puts it back; a schedule goes on, scaled."""
        for group in self.optimizer.param_groups if self.optimizer is not None else ():
            group["lr"] *= factor
            group["scale"] *= factor

    # --- one step --------------------------------------------------------------------------------

    @staticmethod
    def _ids(x, ids) -> Tensor | None:
        """Ids as whole numbers (B,), whatever list or array they came in; a mistake in them is raised under any ``on_error``."""
        if ids is None or not isinstance(x, Tensor) or not x.ndim:
            return None
        try:
            found = torch.as_tensor(ids)
        except Exception as why:
            raise InputError(f"ids must be {len(x)} whole numbers, one an image, not {ids!r}") from why
        if found.ndim != 1 or len(found) != len(x):
            raise InputError(f"{len(x)} images but ids of shape {tuple(found.shape)}; give one whole number an image")
        if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
            raise InputError(f"ids must be whole numbers, not {found.dtype}")
        return found

    def _check(self, x: Tensor, ids: Tensor | None) -> None:
        if not isinstance(x, Tensor) or x.ndim < 2 or not len(x):
            found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise InputError(f"expected a non-empty batch of images (B, C, H, W), got {found}")
        if self.validate == "off":
            return
        if isinstance(self.source, SourceModel):
            self.source.check(x, ids)
        elif not x.is_floating_point():
            raise InputError(f"got {x.dtype} images; convert them to float as the model expects (for example x.float() / 255)")
        else:
            check_finite(x, ids)

    def _step(self, x: Tensor, ids: Tensor) -> Tensor:
        started, cost, recipe = time.perf_counter(), dict(self.cost), self.recipe
        loss_outputs: list[LossOutput] = []
        paused = self._watching and any(c.pauses(state) for c, state in self._controllers())
        ctx = StepContext(self, x, ids, commit=not paused)
        ctx, rows, learn = recipe.cadence.window(ctx, self.states["cadence"])
        learn = learn and recipe.learns and not paused
        repeats = getattr(recipe.update, "repeats", 1) if learn else 1
        with torch.set_grad_enabled(learn):
            for turn in range(repeats):
                ctx = ctx.again() if turn else ctx
                if recipe.answer == "before" and turn == repeats - 1:
                    logits = self.finite(recipe.output(ctx, self.states["method"]), ctx.ids, "the network", AFTER if loss_outputs else BEFORE)
                if learn:
                    loss_outputs += [self._learn(v) for v in recipe.learning_batches(ctx, self.states["method"])]
        with torch.no_grad():
            if recipe.answer == "after":
                logits = recipe.output(ctx.again() if loss_outputs else ctx, self.states["method"])
                self.finite(logits, ctx.ids, "the network", AFTER if loss_outputs else BEFORE)
            logits = logits.detach() if rows is None else logits.detach()[rows]
            if not self.steps:
                check_asked(self.model)
            was_reset, self.was_reset, said = self.was_reset, False, {}
            if self._watching:
                samples, said = self._facts(ctx, rows, ids, logits, loss_outputs, cost, started, was_reset, False)
                for controller, state in self._controllers():
                    if controller.watches:
                        controller.watch(self, samples, said, state)
                        logits = controller.answer(ctx, logits, rows, said, state).detach()
            if self.record != "off":
                samples, step = self._facts(ctx, rows, ids, logits, loss_outputs, cost, started, was_reset, self.record == "source")
                self.trace.add(samples, step | {name: said[name] for name in WATCHED if name in said})
            self._control(loss_outputs)
        self.seen, self.steps = self.seen + len(x), self.steps + 1
        return logits

    def _learn(self, ctx: StepContext) -> LossOutput:
        looks = [ctx]

        def look(keep: Tensor | None = None) -> LossOutput:
            v = looks.pop() if looks else ctx.look_again()
            loss_output = self._lesson(v, keep)
            if loss_output.move:
                self.optimizer.zero_grad(set_to_none=True)
                self._backward(loss_output)
            return loss_output

        loss_output = self.recipe.update(self.optimizer, look)
        with torch.no_grad():
            self.recipe.after(ctx, loss_output, self.states["method"])
            for name in ("norm", "train", "update"):
                getattr(self.recipe, name).after(ctx, loss_output, self.states[name])
            for name in ("select", "penalties"):
                for part, state in zip(getattr(self.recipe, name), self.states[name], strict=True):
                    part.after(ctx, loss_output, state)
        if self.optimizer is not None:
            self.optimizer.zero_grad(set_to_none=True)
        loss_output.loss, loss_output.losses, loss_output.grads = loss_output.loss.detach(), loss_output.losses.detach(), None
        return loss_output

    def _lesson(self, ctx: StepContext, keep: Tensor | None) -> LossOutput:
        """Losses, the selection chain, the average and the penalties; asks the host once: was anything kept?"""
        recipe = self.recipe
        losses = recipe.losses(ctx, self.states["method"])
        with torch.no_grad():
            kept = torch.ones_like(losses, dtype=torch.bool) if keep is None else keep > 0
            weights = torch.ones_like(losses) if keep is None else keep
            for selector, state in zip(recipe.select, self.states["select"], strict=True):
                w = selector.weights(ctx, losses.detach(), kept, state)
                kept = kept & (w > 0)
                weights = torch.where(kept, weights * w, 0.0)
            n = kept.sum().clamp(min=1) if recipe.average == "kept" else kept.numel()
        loss = torch.where(kept, weights * losses, 0.0).sum() / n
        if recipe.has_batch_loss:
            loss = loss + torch.where(kept.any(), recipe.batch_loss(ctx, weights, self.states["method"]), 0.0)
        for penalty, state in zip(recipe.penalties, self.states["penalties"], strict=True):
            loss = loss + penalty(ctx, losses, weights, state)
        n_kept, finite = torch.stack([kept.sum(), torch.isfinite(loss.detach()).long()]).tolist()
        if not finite:
            raise AdaptationError(f"the loss became {loss.item()} in step {self.steps} of {type(recipe).__name__}; no weight was moved. "
                                  "Usual causes: a step size that is too large, or a model already at NaN; try a smaller lr or reset()")
        return LossOutput(ctx, losses, weights, kept, loss, n_kept, bool(n_kept) or recipe.when_empty == "step")

    def _backward(self, loss_output: LossOutput) -> None:
        if not loss_output.loss.requires_grad:
            raise NeedsError(f"the loss of {type(self.recipe).__name__} does not depend on what it tunes ({', '.join(list(self.tuned)[:3])}, ...): "
                             "the network's forward detaches, runs under no_grad, or uses other layers than its own")
        loss_output.loss.backward(inputs=self._params)
        self.cost["backwards"] += len(loss_output.ctx.x)
        if self._watching or self.record != "off":  # before the update rule, which may write into the gradients
            grads = [p.grad for p in self._params if p.grad is not None]
            loss_output.grad_norm = torch.stack(torch._foreach_norm(grads)).norm() if grads else None
        if self.recipe.reads_gradients:  # copies: update rules may write into the gradients
            loss_output.grads = {name: p.grad.clone() for name, p in self.tuned.items() if p.grad is not None}

    def _controllers(self):
        return zip(self.recipe.controllers, self.states["controllers"], strict=True)

    def _control(self, loss_outputs: list[LossOutput]) -> None:
        for controller, state in self._controllers():
            action = controller.decide(loss_outputs, state)
            if action is not None and action != "reset" and not (isinstance(action, tuple) and set(action) <= set(SCOPES)):
                raise ValueError(f"{type(controller).__name__} asked for {action!r}; an adapter can do: 'reset', or a tuple of {SCOPES}")
            if action is not None:
                self.reset(keep_trace=True, what=SCOPES if action == "reset" else action)
                return

    # --- when things go wrong, and the record of it all ------------------------------------------

    def _answer_with_source(self, x: Tensor, ids: Tensor | None, why: Exception) -> Tensor:
        """With on_error="source": the source's prediction; shapes that it cannot take raise all the same."""
        if self.on_error == "raise" or not isinstance(x, Tensor) or not x.is_floating_point():
            raise why
        try:
            with torch.no_grad():
                logits = StepContext(self, self._own(x), ids).forward(self.source)
        except Exception:
            raise why from None
        if not isinstance(why, InputError):
            self.finite(logits, ids, "the step failed, and the source model")
        self.errors.append(f"step {self.steps}: {type(why).__name__}: {why}")
        if self.record != "off":
            ids = torch.arange(self.seen, self.seen + len(x)) if ids is None else ids
            nothing = {"loss": torch.full((len(x),), torch.nan), "weight": torch.zeros(len(x)), "kept": torch.zeros(len(x), dtype=torch.bool)}
            self.trace.add({"step": torch.full((len(x),), self.steps), "id": ids, **_columns(logits), **nothing},
                           {"step": self.steps, "n": len(x), "n_kept": 0, "skipped": True, "failed": True, "reset": self.was_reset})
        self.seen, self.steps = self.seen + len(x), self.steps + 1
        return logits

    def _facts(self, ctx, rows, ids, logits, loss_outputs, cost, started, was_reset, with_source: bool) -> tuple[dict, dict]:
        """What the trace says of this step, per image and in all; nothing here changes a result, draws a number or asks the host.

        ``with_source``: also what the frozen source says, for the record alone. A watching controller gets it only where the method asked for it
        itself, so that it acts alike whatever is recorded."""
        n, device = len(ids), logits.device
        samples = {"step": torch.full((n,), self.steps, device=device), "id": ids, **_columns(logits)}
        step_cost = {k: self.cost[k] - cost[k] for k in cost}
        if with_source or self.source_statistics in ctx._source:
            before = dict(self.cost)
            source = ctx.source_logits(self.source_statistics, check=False)
            self.cost = before  # looking for the record is not a cost of the method
            source = source if rows is None else source[rows]
            try:
                self.finite(source, ids, "the source model")
            except AdaptationError as why:  # of the record alone: a method that asks for it is stopped when it does
                self.errors.append(f"{why}; its columns are NaN there")
            if logits.ndim == 2:
                # the paper compares the prediction made before the update; a method that never made one is taken at its answer
                adapted = vars(ctx).get("logits")
                adapted = logits if adapted is None else adapted.detach() if rows is None else adapted.detach()[rows]
                top, where = source.softmax(1).max(1)
                here = scores.probability_of(adapted, where)
                samples |= {"source_prediction": where, "source_confidence": top, "source_class_confidence": here, "rise_source": here - top}
        loss_output = loss_outputs[-1] if loss_outputs else None
        columns = {"loss": torch.full((n,), torch.nan, device=device), "weight": torch.zeros(n, device=device),
                   "kept": torch.zeros(n, dtype=torch.bool, device=device)}
        for each in loss_outputs if rows is None else ():
            at = each.ctx.rows
            if at is not None:  # lessons from a memory are of other images
                columns["loss"][at], columns["weight"][at] = _per_image(each.losses), _per_image(each.weights)
                columns["kept"][at] = _per_image(each.kept.float()) > 0
        samples |= columns
        nan = torch.full((), torch.nan, device=device)
        moved = torch._foreach_sub(self._params, self._origin) if self._params else []
        return samples, {
            "step": self.steps, "n": n, "lessons": len(loss_outputs), "n_kept": sum(x.n_kept for x in loss_outputs),
            "skipped": not any(x.move for x in loss_outputs),
            "loss": nan if loss_output is None else loss_output.loss,
            "grad_norm": nan if loss_output is None or loss_output.grad_norm is None else loss_output.grad_norm,
            "distance": torch.stack(torch._foreach_norm(moved)).norm() if moved else torch.zeros((), device=device),
            "marginal_entropy": scores.marginal_entropy(logits), **step_cost, "seconds": time.perf_counter() - started,
            "reset": was_reset, "failed": False}


def _columns(logits: Tensor) -> dict[str, Tensor]:
    """Per-image columns of the returned logits; in segmentation means over the pixels, and no single prediction."""
    columns = {"entropy": _per_image(scores.entropy(logits)), "confidence": _per_image(scores.confidence(logits)),
               "max_logit": _per_image(logits.float().amax(1)), "energy": _per_image(scores.energy(logits))}
    return {"prediction": logits.argmax(1), **columns} if logits.ndim == 2 else columns


def _per_image(values: Tensor) -> Tensor:
    return values if values.ndim == 1 else values.flatten(1).mean(1)


def _to_device(value, device, precision=None):
    """Tensors in dicts and lists on a device, those of floating numbers in a precision (None: their own)."""
    if isinstance(value, Tensor):
        return value.to(device, precision if value.is_floating_point() else None)
    if isinstance(value, dict):
        return {k: _to_device(v, device, precision) for k, v in value.items()}
    return [_to_device(v, device, precision) for v in value] if isinstance(value, list) else value


def _check_alike(where: str, start, found, fixed=(), name=None) -> None:
    """Raise ValueError where a state is not one that can have come of this start: another kind, keys or shape. What starts as None, as an empty dict
    or in a list may become anything, and rows may be added to tensors, but not to those called as in ``fixed``."""
    if start is None or start == {}:
        return
    if isinstance(start, dict):
        if not isinstance(found, dict) or start.keys() - found.keys():
            raise ValueError(f"its {where} should hold {', '.join(map(str, start))}")
        for key, value in start.items():
            _check_alike(f"{where} {key}", value, found[key], fixed, key)
    elif isinstance(start, Tensor):
        grown = (isinstance(found, Tensor) and start.ndim == found.ndim > 0 and start.shape[1:] == found.shape[1:]
                 and len(found) >= len(start) and name not in fixed)
        if not isinstance(found, Tensor) or start.shape != found.shape and not grown:
            raise ValueError(f"its {where} should be of shape {tuple(start.shape)}, not "
                             f"{tuple(found.shape) if isinstance(found, Tensor) else repr(found)}")
    elif isinstance(start, list):
        if not isinstance(found, list) or len(start) > len(found):
            raise ValueError(f"its {where} should be a list of at least {len(start)}, not {found!r}")
        for i, value in enumerate(start):
            _check_alike(f"{where} {i}", value, found[i], fixed)
    elif isinstance(start, str) != isinstance(found, str) or not isinstance(found, str | int | float | Tensor):
        raise ValueError(f"its {where} should be like {start!r}, not {found!r}")


def _device(model: nn.Module, device) -> torch.device:
    if device == "auto":
        own = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
        return own if own.type not in ("cpu", "meta") else torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(0, device=device).device
    except Exception as why:
        raise ValueError(f"device must be 'auto' or a device of this machine, such as 'cpu' or 'cuda', not {device!r}"
                         f"{' (torch sees no CUDA device)' if 'cuda' in str(device) and not torch.cuda.is_available() else ''}") from why
