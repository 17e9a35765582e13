from __future__ import annotations

from dataclasses import dataclass

from ..components.norms.batch_norm import SourceStatistics
from ..core.parts import Method, Norm


@dataclass(frozen=True, kw_only=True)
class Source(Method):
    """The source model as it is, no adaptation (BN-0): the statistics of its batch-norm layers are
    those of the training."""

    norm: Norm = SourceStatistics()
    family, verified = "baseline", "golden"
