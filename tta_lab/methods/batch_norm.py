from __future__ import annotations

from dataclasses import dataclass

from ..components.norms.batch_norm import BatchStatistics, MixedStatistics, RunningStatistics
from ..core.parts import Method, Norm


@dataclass(frozen=True, kw_only=True)
class BatchNorm(Method):
    """BN-1: normalise with the statistics of the test batch.

    mu = mean of the batch, var = its biased variance, per channel over batch and places; no
    parameter is tuned. Papers: Nado et al. 2020 (2006.10963); Schneider et al. 2020 (2006.16971).
    """

    norm: Norm = BatchStatistics()
    family = "normalisation"
    needs = frozenset({"batch_norm"})
    verified = "golden"
    paper = "Evaluating Prediction-Time Batch Normalization (2006.10963)"


@dataclass(frozen=True, kw_only=True)
class BnAlpha(Method):
    """BN-alpha: mu = (1 - a) mu_source + a mu_batch, and the variance likewise (batch variance
    unbiased).

    With ``prior`` N the weight is a = n / (N + n) for n images. Paper: Schneider et al. 2020
    (2006.16971).
    """

    norm: Norm = MixedStatistics()
    family = "normalisation"
    needs = frozenset({"batch_norm"})
    verified = "golden"
    paper = ("Improving robustness against common corruptions by covariate shift adaptation "
             "(2006.16971)")
    presets = {
        "batch1": {"alpha": 0.1}, "cifar10_c_batch1_retuned": {"alpha": 0.3},
        "cifar100_c_batch1_retuned": {"alpha": 0.2}, "imagenet_c_batch1_retuned": {"alpha": 0.1}
    }


@dataclass(frozen=True, kw_only=True)
class BnEma(Method):
    """BN-EMA: running statistics follow the stream, running <- (1 - m) running + m batch, and are
    then used.

    Paper: Schneider et al. 2020 (2006.16971) and the online-TTA benchmark's two-pass form.
    """

    norm: Norm = RunningStatistics()
    family = "normalisation"
    needs = frozenset({"batch_norm"})
    verified = "golden"
    paper = ("Improving robustness against common corruptions by covariate shift adaptation "
             "(2006.16971)")
