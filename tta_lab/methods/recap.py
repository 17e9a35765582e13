from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..components.controllers.resets import CollapseRecovery
from ..components.norms.batch_norm import BatchStatistics
from ..components.objectives import head_rows, of_this_model
from ..components.selectors.plpd_filter import PLPDFilter
from ..components.source.prepare import moments
from ..core.knobs import knob
from ..core.parts import LossMethod, NeedsError, Norm, NormAffine, Selector, Step, Train, Update


def regional(logits: Tensor, log_a: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Entropy and instability (B,) of the regions around features with these logits (B, K);
    ``log_a`` (K, K), ``shift`` (K,). See Recap."""
    q = logits.softmax(1)
    # of every row, so that nothing overflows; in float64 nothing of weight underflows
    top = log_a.amax(1)
    r = q.double() @ (log_a - top[:, None]).double().exp().T
    log_r = (r.clamp_min(torch.finfo(r.dtype).tiny).log() + top).to(q.dtype)
    entropy = ((logits + shift).softmax(1) * (log_r - logits.log_softmax(1))).sum(1)
    return entropy, (q * log_r).sum(1)


@dataclass(frozen=True)
class StableRegion(Selector):
    """Keep the samples of small regional entropy R_i and weigh them: keep_i = [R_i < fraction ln
    K], w_i = min(exp(unit ln K - R_i), cap).

    For ``recap`` alone. Paper: ReCAP (2505.20704); from a public copy of the authors' code.
    """

    fraction: float = knob(0.8, (0.0, 10.0), "of ln K", paper="authors' code: 0.8")
    unit: float = knob(0.8, (0.0, 10.0), "of ln K, the regional entropy of weight 1",
                       paper="authors' code: 0.8")
    cap: float = knob(3.0, (0.0, 1e3), "largest weight", paper="authors' code: 3")

    def weights(self, ctx, losses, keep, state):
        if not hasattr(ctx, "region_entropy"):
            raise NeedsError("StableRegion selects by the regional entropy of recap; with another "
                             "method use EntropyThreshold")
        entropy, full = ctx.region_entropy, math.log(ctx.logits.shape[1])
        return torch.where(
            entropy < self.fraction * full,
            (self.unit * full - entropy).exp().clamp_max(self.cap),
            0.0,
        )


@dataclass(frozen=True, kw_only=True)
class Recap(LossMethod):
    """ReCAP: minimise the entropy of a whole region around each image's features, and how unstable
    the prediction is within it.

    A_ij = exp(tau / (2 s) sum_m (W_j - W_i)_m^2 v_m),  r_i = sum_j q_j A_ij,  q~ = softmax(z + 0.05
    s^2 ||W||^2), W the head's rows, v the variances of source features:  l = sum_i q~_i (-ln q_i +
    ln r_i) + lambda sum_i q_i ln r_i. When the running mean of the loss falls below 0.4 the model
    starts again. The default learns from all samples; ``form="deyo"`` selects and weighs by the
    first term, and by the fall of confidence on shuffled patches. The settings are for ImageNet:
    where ten classes lie far apart (ln A of the embedded ResNet: 29 on average) regions are vast
    and that form keeps nobody, unless tau is made smaller. The paper's text was not at hand: both
    are those of public copies of the authors' code, the rate is that of SAR. Paper: Beyond Entropy:
    Region Confidence Proxy for Wild Test-Time Adaptation (2505.20704).
    """

    norm: Norm = BatchStatistics()
    train: Train = NormAffine(drop_top=True)
    update: Update = Step(rule="sgd", lr=2.5e-4)
    controllers: tuple = (CollapseRecovery(threshold=0.4),)
    tau: float = knob(1.2, (0.0, 100.0), "spread of the region",
                      paper="authors' code: 1.2 (ImageNet)")
    size: float = knob(0.1, (1e-3, 10.0, "log"), "s", paper="authors' code: 0.1")
    instability: float = knob(0.5, (0.0, 100.0), "lambda", paper="authors' code: 0.5")
    tasks, needs, source_info = ("classification",), frozenset({"features"}), (moments,)
    family, verified = "entropy", "invariants only"
    paper = "Beyond Entropy: Region Confidence Proxy for Wild Test-Time Adaptation (2505.20704)"
    forms = {
        "deyo": {
            "select": (StableRegion(), PLPDFilter(threshold=0.2, by_certainty=False, by_fall=False))
        }
    }

    def losses(self, ctx, state):
        if not state:  # the head is not tuned: once for a stream
            w = head_rows(ctx.model, "recap").detach().double()
            v = (
                of_this_model(ctx.source_info["moments"]["covariance"], w, "moments")
                .diagonal()
                .double()
            )
            g = (w * v) @ w.T
            apart = (g.diagonal()[:, None] + g.diagonal() - 2 * g).clamp_min(0).fill_diagonal_(0)
            state.update(
                log_a=(self.tau / (2 * self.size) * apart).float(),
                shift=(0.05 * self.size**2 * w.square().sum(1)).float(),
            )
        entropy, instability = regional(ctx.logits, state["log_a"], state["shift"])
        ctx.region_entropy = entropy.detach()
        return entropy + self.instability * instability
