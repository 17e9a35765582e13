from __future__ import annotations

from dataclasses import dataclass

from ..components.norms.batch_norm import BatchStatistics
from ..core.parts import LossMethod, Norm, NormAffine, Step, Train, Update
from .roid import Roid


@dataclass(frozen=True, kw_only=True)
class Slr(LossMethod):
    """SLR: Tent with the soft likelihood ratio, which still pulls where the entropy is flat
    because the prediction is certain.

    l_i = -sum_k p_ik ln(p_ik / (1 - p_ik) + 1e-5), p clamped at 0.99, mean over the batch. The
    paper adds a diversity term on a running mean prediction and a learned input transformation;
    ``.plus(Diversity())`` is close to the former, the latter is not here. The loss is the one
    compared in ROID's runs; the paper's text was not at hand. Paper: Test-Time Adaptation to
    Distribution Shift by Confidence Maximization and Input Transformation (2106.14999).
    """

    norm: Norm = BatchStatistics()
    train: Train = NormAffine()
    update: Update = Step(rule="adam", lr=1e-3)
    family, verified = "entropy", "invariants only"
    paper = ("Test-Time Adaptation to Distribution Shift by Confidence Maximization and Input "
             "Transformation (2106.14999)")
    losses = Roid.losses
