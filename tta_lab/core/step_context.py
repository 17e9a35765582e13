"""StepContext: what one step may look at. Costly things are lazy and computed at most once."""
from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .layer_outputs import kept_outputs, layer_names, layers_named
from .norm_layers import first_input, set_commit_
from .parts import NeedsError
from .scores import upcast

if TYPE_CHECKING:
    from .adapter import Adapter

NUMBER_TYPES = re.compile(
    r"\bdtype\b|scalar type|must have the same type|should be the same", re.I)


def undisturbed(call: Callable) -> Callable:
    """The function, run as if its caller had set no mode: neither inference mode nor autocast, and
    with gradients. Tensors made in inference mode could never be trained, and autocast would
    change losses, steps and augmentations."""
    @wraps(call)
    def alone(*args: Any, **kwargs: Any) -> Any:
        with (torch.inference_mode(False), torch.enable_grad(),
              torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False)):
            return call(*args, **kwargs)
    return alone


def everywhere(net: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names of all places that hold one: a shared weight has several, a
    layer in two places one for each of its tensors.

    ``functional_call`` ties names by itself, but swaps the tensor of such a layer twice and puts
    back the wrong one."""
    first = {id(t): name for name, t in (*net.named_parameters(), *net.named_buffers())}
    places = {f"{path}.{name}".lstrip("."): first[id(t)] for path, module in net.named_modules()
              for name, t in (*module._parameters.items(), *module._buffers.items())
              if t is not None}
    return {place: tensors[name] for place, name in places.items() if name in tensors}


def as_logits(output: Any, model: nn.Module) -> Tensor:
    """The logits in what a model returned: a tensor, a dict with "logits" or "out", or an object
    with ``.logits``. Raises NeedsError for anything else."""
    found: object = type(output).__name__
    if isinstance(output, dict):
        found = f"a dict of {', '.join(map(str, output)) or 'nothing'}"
        output = output.get("logits", output.get("out"))
    output = getattr(output, "logits", output)
    if not isinstance(output, Tensor) or output.ndim < 2:
        found = tuple(output.shape) if isinstance(output, Tensor) else found
        raise NeedsError(f"{type(model).__name__} returned {found}; logits of shape (batch, "
                         f"classes, ...) are needed: wrap the model so that it returns them")
    return upcast(output)


class StepContext:
    """One batch, or a part of it, or images from a memory, as a method sees it.

    ``x`` images (B, C, H, W), ``ids`` (B,), ``model`` the adapted network, ``rng`` the adapter's
    generator, ``source_info`` what was taken from the source domain, ``extra`` the method's own
    module, ``tuned`` and ``origin`` name -> current and source value. ``logits`` are those of the
    adapted network, float32 (B, K, *S), ``features`` the input of its head, (B, D); both are
    computed when first asked for. ``commit``: the forward that gives ``logits`` moves statistics,
    true of the batch that came (and of what the cadence makes of it); a method that learns from
    other images says so itself, by ``forward(..., commit=True)``, as RoTTA does. ``rows`` says
    which rows of the incoming batch these are (None: none of them), ``evaluation`` how often the
    loss of this batch was evaluated before in this update (an update rule may do so twice).
    """

    def __init__(self, adapter: Adapter, x: Tensor, ids: Tensor, commit: bool = False,
                 draws: dict[Hashable, Any] | None = None, rows: slice | None = slice(None)):
        self.adapter = adapter
        self.x = x
        self.ids = ids
        self.commit = commit
        self.rows = rows
        self.model = adapter.model
        self.rng: torch.Generator = adapter.rng
        self.source_info: dict = adapter.source_info
        self.extra = adapter.extra
        self.tuned = adapter.tuned
        self.origin = adapter.origin
        self.evaluation = 0
        self._draws: dict[Hashable, Any] = {} if draws is None else draws
        self._once: dict[Hashable, Any] = {}
        self._source: dict[str, Tensor] = {}
        self._source_features: dict[str, Tensor] = {}
        self._checked: set[str] = set()
        self._wanted: tuple[str, ...] = ()
        self._outputs: dict[str, Tensor] = {}

    def forward(self, net: nn.Module | None = None, x: Tensor | None = None, commit: bool = False,
                tensors: dict[str, Tensor] | None = None) -> Tensor:
        """Logits (B, K, *S) of ``net`` (the adapted network), with ``tensors`` in place of its own
        parameters and buffers (a teacher's); counted as cost; statistics of its normalisation
        layers move only with ``commit``. Raises NeedsError for a network that the method cannot
        take."""
        net = self.model if net is None else net
        x = self.x if x is None else x
        adapter, method = self.adapter, type(self.adapter.recipe).__name__
        set_commit_(net, commit)
        try:
            # no cache: within another autocast it would keep weights from before a step
            with torch.autocast(x.device.type, dtype=adapter.amp, enabled=adapter.amp is not None,
                                cache_enabled=False):
                answer = net(x) if tensors is None else functional_call(
                    net, everywhere(net, tensors), (x,), tie_weights=False)
            logits = as_logits(answer, net)
        except RuntimeError as why:
            if NUMBER_TYPES.search(str(why)):
                raise NeedsError(
                    f"{type(net).__name__} mixes number types in its forward "
                    f"({str(why).splitlines()[0]}); an adapter keeps its weights in "
                    f"{adapter.precision} and feeds images of that type: let the forward take the "
                    f"type from its input or weights, and ask for lower precision with "
                    f"amp=torch.bfloat16") from why
            raise
        finally:
            set_commit_(net, False)
        adapter.cost["forwards"] += len(x)
        if logits.ndim > 2 and "segmentation" not in adapter.recipe.tasks:
            raise NeedsError(f"{method} takes classifiers, but {type(net).__name__} returned "
                             f"{tuple(logits.shape)}")
        if logits.shape[1] < 2:
            raise NeedsError(f"{method} needs at least 2 classes, but {type(net).__name__} "
                             f"returned {tuple(logits.shape)}: of one class the probability is "
                             f"always 1; let a model with one score z answer with two, (0, z)")
        return logits

    def forward_features(self, net: nn.Module | None = None, x: Tensor | None = None,
                         commit: bool = False, tensors: dict[str, Tensor] | None = None
                         ) -> tuple[Tensor, Tensor]:
        """Features (B, D), the input of the network's head, and logits, of one forward. Raises
        NeedsError where the head is called otherwise."""
        net = self.model if net is None else net
        found: list[Tensor] = []
        handle = net.get_submodule("head").register_forward_pre_hook(
            lambda module, args, kwargs: found.append(first_input(args, kwargs)), with_kwargs=True)
        try:
            logits = self.forward(net, x, commit, tensors)
        finally:
            handle.remove()
        if len(found) != 1 or found[0].ndim != 2:
            calls = (f"was called with {tuple(found[0].shape)}" if len(found) == 1 else
                     f"was called {len(found)} times")
            raise NeedsError(f"{type(self.adapter.recipe).__name__} needs features (batch, D), the "
                             f"input of the model's head, but the head of {type(net).__name__} "
                             f"{calls}; wrap the model so that logits = head(features(x))")
        return upcast(found[0]), logits

    @cached_property
    def logits(self) -> Tensor:
        """Logits of the adapted network, float32 (B, K, *S)."""
        # the first of two passes only moves the statistics
        if self.commit and self.adapter.recipe.norm.passes == 2:
            with torch.no_grad():
                self.forward(self.model, commit=True)
            return self._answer(False)
        return self._answer(self.commit)

    def _answer(self, commit: bool) -> Tensor:
        names = (*self.adapter.observed_layers, *self._wanted)
        self._wanted = ()  # a forward that fails leaves no wish behind
        with kept_outputs(self.model, names) as found:
            if "features" in self.adapter.needs:
                self._features, logits = self.forward_features(self.model, commit=commit)
            else:
                logits = self.forward(self.model, commit=commit)
        self._outputs = found
        return logits

    def outputs(self, layers: tuple[str, ...] | list[str]) -> dict[str, Tensor]:
        """Name -> output of these layers of the adapted network, (B, ...) in at least float32,
        from the same forward as ``logits``.

        A part names its layers in ``observed_layers``; these may be asked for at any time. Others
        only before ``logits`` is first asked for, as a maker of source statistics can; ``losses``
        asks first, so that ``batch_loss``, selectors and penalties come too late. Raises NeedsError
        for names that the network does not have, layers that do not run or run more than once, and
        for what was asked for too late, WrongKind for anything but names.
        """
        layers = layer_names(layers, "ctx.outputs")
        if "logits" not in vars(self):
            self._wanted = layers
            self.logits  # noqa: B018
        late = [name for name in layers if name not in self._outputs]
        if late:
            layers_named(self.model, late)
            raise NeedsError(f"the output of layer {late[0]!r} was asked for after the logits; let "
                             f"observed_layers(model) of {type(self.adapter.recipe).__name__} "
                             f"return its name, so that it is kept")
        return {name: self._outputs[name] for name in layers}

    @property
    def features(self) -> Tensor:
        """The input of the adapted network's head, (B, D), from the same forward as ``logits``;
        for methods that need "features"."""
        self.logits  # noqa: B018
        return self._features

    def source_logits(self, statistics: str = "batch", check: bool = True) -> Tensor:
        """Logits of the frozen source, no gradient.

        ``statistics="batch"``: its batch-norm layers use this batch (the BN-1 model with source
        weights); ``"running"``: the statistics stored in the source model. ``check`` raises
        AdaptationError where they are not finite."""
        if statistics not in self._source:
            shared = self.adapter.shared_source if self.rows == slice(None) else None
            key = statistics, self.adapter.steps
            if shared is not None and key in shared and torch.equal(shared[key][0], self.ids):
                self._source[statistics] = shared[key][1]
                # the method needs it, whoever computed it
                self.adapter.cost["forwards"] += len(self.x)
            else:
                with torch.no_grad():
                    self._source[statistics] = self.forward(
                        self.adapter.source_network(statistics))
                if shared is not None:
                    shared[key] = self.ids, self._source[statistics]
        if check and statistics not in self._checked:
            self.adapter.finite(self._source[statistics], self.ids, "the source model")
            self._checked.add(statistics)
        return self._source[statistics]

    def has_source_logits(self, statistics: str) -> bool:
        """Whether ``source_logits`` of these statistics have been asked for."""
        return statistics in self._source

    def source_features(self, statistics: str = "batch") -> Tensor:
        """The input of the frozen source's head, (B, D), no gradient; ``source_logits`` are those
        of the same forward."""
        if statistics not in self._source_features:
            with torch.no_grad():
                found = self.forward_features(self.adapter.source_network(statistics))
            self._source_features[statistics], self._source[statistics] = found
        return self._source_features[statistics]

    def draw(self, whose: dict | str, make: Callable[[torch.Generator], Any]) -> Any:
        """``make(rng)``: a random draw that stays the same however often this step asks.
        ``whose``: the state of the part that asks, or a name that several parts share."""
        key = self.adapter.state.seat_of(whose)
        if key not in self._draws:
            self._draws[key] = make(self.rng)
        return self._draws[key]

    def once(self, whose: dict | str, make: Callable[[], Any]) -> Any:
        """``make()``, without gradient, fixed for this batch, however often an update rule
        evaluates its loss: a teacher's answer. ``whose`` as for `draw`."""
        key = self.adapter.state.seat_of(whose)
        if key not in self._once:
            with torch.no_grad():
                self._once[key] = make()
        return self._once[key]

    def again(self, x: Tensor | None = None, ids: Tensor | None = None) -> StepContext:
        """A fresh context: of the same images after the weights have moved, or of other images in
        their place (a window)."""
        if x is not None and ids is not None:
            return StepContext(self.adapter, x, ids, commit=self.commit)
        ctx = StepContext(self.adapter, self.x, self.ids, draws=self._draws, rows=self.rows)
        # frozen: the same at any weights
        ctx._source = self._source
        ctx._source_features = self._source_features
        ctx._checked = self._checked
        return ctx

    def next_evaluation(self) -> StepContext:
        """The same batch within one update, at other weights."""
        ctx = self.again()
        ctx._once = self._once
        ctx.evaluation = self.evaluation + 1
        return ctx

    def part(self, rows: slice) -> StepContext:
        """Some rows of this batch, to be learned from by themselves."""
        return StepContext(self.adapter, self.x[rows], self.ids[rows], rows=rows)

    def other(self, x: Tensor, ids: Tensor) -> StepContext:
        """Images that are not of this batch, from a memory; statistics move only where the method
        says so."""
        return StepContext(self.adapter, x, ids, rows=None)

    def restart(self, *what: str) -> None:
        """Put these SCOPES back in the middle of a step, for methods that treat every image as an
        episode of its own."""
        self.adapter.rewind(what)


@dataclass
class LossOutput:
    """The loss of a batch to learn from: losses, weights, kept (B, *S); ``loss`` their average
    with penalties, a scalar; ``n_kept`` and ``move`` on the host."""

    ctx: StepContext
    losses: Tensor
    weights: Tensor
    kept: Tensor
    loss: Tensor
    n_kept: int
    move: bool
    grad_norm: Tensor | None = None
    grads: dict[str, Tensor] | None = None
