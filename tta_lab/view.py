"""View: what one step may look at. Costly things are lazy and computed at most once."""
from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn

from .norms import set_commit_
from .parts import NeedsError


def as_logits(output, model: nn.Module) -> Tensor:
    """The logits in what a model returned: a tensor, a dict with "out" or "logits", or an object with ``.logits``."""
    if isinstance(output, dict):
        output = output.get("out", output.get("logits"))
    output = getattr(output, "logits", output)
    if not isinstance(output, Tensor) or output.ndim < 2:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise NeedsError(f"{type(model).__name__} returned {found}; logits of shape (batch, classes, ...) are needed: "
                         "wrap the model so that it returns them")
    return output.float()


class View:
    """One batch as a method sees it.

    ``x`` images (B, C, H, W), ``ids`` (B,), ``model`` the adapted network, ``rng`` the adapter's generator.
    ``logits`` are those of the adapted network, float32 (B, K, *S); they are computed when first asked for.
    """

    def __init__(self, adapter, x: Tensor, ids: Tensor, commit: bool = False, draws: dict | None = None):
        self.adapter, self.x, self.ids, self.commit = adapter, x, ids, commit
        self.model, self.rng = adapter.model, adapter.rng
        self._draws = {} if draws is None else draws
        self._source: dict[str, Tensor] = {}

    def forward(self, net: nn.Module, x: Tensor | None = None, commit: bool = False) -> Tensor:
        """Logits of ``net``, counted as cost; statistics of its normalisation layers move only with ``commit``."""
        x = self.x if x is None else x
        adapter = self.adapter
        set_commit_(net, commit)
        try:
            with torch.autocast(x.device.type, dtype=adapter.amp, enabled=adapter.amp is not None):
                logits = as_logits(net(x), net)
        finally:
            set_commit_(net, False)
        adapter.cost["forwards"] += len(x)
        return logits

    @cached_property
    def logits(self) -> Tensor:
        if self.commit and self.adapter.recipe.norm.passes == 2:  # the first pass only moves the statistics
            with torch.no_grad():
                self.forward(self.model, commit=True)
            return self.forward(self.model)
        return self.forward(self.model, commit=self.commit)

    def source_logits(self, statistics: str = "batch") -> Tensor:
        """Logits of the frozen source, no gradient. ``statistics="batch"``: its batch-norm layers use this batch
        (the BN-1 model with source weights); ``"running"``: the statistics stored in the source model."""
        if statistics not in self._source:
            shared, key = self.adapter.shared_source, (statistics, self.adapter.steps)
            if shared is not None and key in shared and torch.equal(shared[key][0], self.ids):
                self._source[statistics] = shared[key][1]
                self.adapter.cost["forwards"] += len(self.x)  # the method needs it, whoever computed it
            else:
                with torch.no_grad():
                    self._source[statistics] = self.forward(self.adapter.source_network(statistics))
                if shared is not None:
                    shared[key] = self.ids, self._source[statistics]
        return self._source[statistics]

    def draw(self, state: dict, make) -> Tensor:
        """A random draw that stays the same however often this step asks; ``state`` says whose it is."""
        if id(state) not in self._draws:
            self._draws[id(state)] = make(self.rng)
        return self._draws[id(state)]

    def again(self, x: Tensor | None = None, ids: Tensor | None = None) -> View:
        """A fresh look: at the same images after the weights have moved, or at other images."""
        if x is None:
            return View(self.adapter, self.x, self.ids, draws=self._draws)
        return View(self.adapter, x, ids, commit=self.commit)
