"""A stream that keeps its images."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from .base import StreamWrapper


@dataclass(frozen=True)
class CachedStream(StreamWrapper):
    """A stream that makes each batch once on a device and keeps it in memory, for many runs; its
    record and hash are those of the stream within."""

    same_images: ClassVar[bool] = True
    _made: dict = field(default_factory=dict, init=False, repr=False, compare=False)

    def batches(self, device="cpu", start=0, stop=None):
        """The batches in order; those not asked for before are made."""
        made = self._made.setdefault(torch.device(device), {})
        stop = len(self) if stop is None else min(stop, len(self))
        fresh = None
        for i in range(start, stop):
            if i in made:
                fresh = None
            else:
                fresh = fresh or self.stream.batches(device, i, stop)
                made[i] = next(fresh)
            yield made[i]
