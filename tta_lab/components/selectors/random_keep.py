from __future__ import annotations

from dataclasses import dataclass

import torch

from ...core.knobs import knob
from ...core.parts import Selector


@dataclass(frozen=True)
class RandomKeep(Selector):
    """Keep samples at random: the control for every filter, which must beat keeping *as many*
    without looking.

    Of the samples still in, round(share * n) are kept, or in step t exactly ``counts[t]`` (as many
    as there are, if fewer). ``RandomKeep.like(trace)`` takes the counts from a run of the filter
    to be compared with. Draws come from the adapter's generator. Ours; no paper.
    """

    share: float = knob(0.5, (0.0, 1.0), "share of the samples that is kept")
    counts: tuple = ()

    @classmethod
    def like(cls, trace) -> RandomKeep:
        """Keep as many in each step as were kept in the traced run."""
        return cls(counts=tuple(int(n) for n in trace.step("n_kept")))

    def weights(self, ctx, losses, keep, state):
        # of the stream: a reset in its middle does not start the counts again
        step = ctx.adapter.steps
        if self.counts and step >= len(self.counts):
            raise ValueError(f"RandomKeep has counts for {len(self.counts)} steps, but this is "
                             f"step {step + 1}; "
                             "use the trace of a stream at least as long, or a share")
        draws = ctx.draw(state,
                          lambda rng: torch.rand(losses.shape, generator=rng, device=losses.device))
        order = torch.where(keep, draws, -1.0).flatten().argsort(descending=True)
        rank = torch.empty_like(order).scatter_(0, order,
                                                torch.arange(len(order), device=order.device))
        wanted = self.counts[step] if self.counts else torch.round(self.share * keep.sum())
        return ((rank < wanted).view_as(keep) & keep).to(losses.dtype)
