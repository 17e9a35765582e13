from __future__ import annotations

from dataclasses import dataclass

from ..components.norms.stream import InstanceAware
from ..core.parts import Method, Norm


@dataclass(frozen=True, kw_only=True)
class Iabn(Method):
    """IABN: source statistics, corrected towards each image's own where these differ by more than
    chance; no parameter is tuned.

    mu = mu_s + S(mu_i - mu_s; k sqrt(v / n)),  var = max(0, var_s + S(var_i - var_s; k v sqrt(2 /
    (n - 1)))), S soft shrinkage, v = var_s + eps. An image's answer does not depend on its batch.
    NOTE trains the source model with these layers; put into a model trained with ordinary batch
    norm, as here, they may harm. The memory and the learning of NOTE are not part of it. The rule
    is that of the authors' code. Paper: NOTE: Robust Continual Test-time Adaptation Against
    Temporal Correlation (2208.05117).
    """

    norm: Norm = InstanceAware(k=4.0)
    family = "normalisation"
    needs = frozenset({"batch_norm"})
    verified = "golden"
    paper = "NOTE: Robust Continual Test-time Adaptation Against Temporal Correlation (2208.05117)"
