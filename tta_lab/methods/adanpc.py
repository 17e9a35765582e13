from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..components.norms.batch_norm import SourceStatistics
from ..components.objectives import of_this_model
from ..components.source.prepare import neighbours
from ..core.knobs import knob
from ..core.parts import Method, NeedsError, Norm


@dataclass(frozen=True, kw_only=True)
class Adanpc(Method):
    """AdaNPC: replace the classifier by a vote among the nearest features seen, of labelled source
    images first, then of the stream.

    P_ic = min(1, 1e-5 + sum of w_ij over the ``k`` nearest j of class c),  w_i =
    softmax_j(cos(phi_i, phi_j) / T) over these k. The batch is answered before it joins; then the
    images of confidence at least ``sure`` join under the class of their answer, for good.
    ``confidence="softmax"`` is the largest entry of softmax(P), as in the authors' code: at most e
    / (e + C - 1), 0.23 for 10 classes, so that ``sure`` depends on C; "vote" is the largest of P.
    The answer is ln P; P sums to 1 + 1e-5 C. The memory grows without bound and a step costs images
    times memory. The head serves no purpose. The variant that tunes a batch norm on the features is
    not built. Paper: AdaNPC: Exploring Non-Parametric Classifier for Test-Time Adaptation
    (2304.12566); from the authors' code.
    """

    norm: Norm = SourceStatistics()
    k: int = knob(100, (1, 100_000), "neighbours that vote", paper="AdaNPC: chosen of 1 to 200",
                  unit="features")
    temperature: float = knob(0.1, (1e-4, 100.0, "log"), "T, of the vote",
                              paper="AdaNPC: chosen of 0.01 to 0.5")
    sure: float = knob(0.1, (0.0, 1.1), "confidence from which an image joins; above 1 none does",
                       paper="AdaNPC: chosen of 0, 0.25, 0.75, 1.1")
    confidence: str = knob("softmax", choices=("softmax", "vote"), why="how sure an answer is")
    kind, needs, tasks = "log_probabilities", frozenset({"features"}), ("classification",)
    source_info = (neighbours,)
    family, verified = "output", "golden; plain votes as confidence by invariants only"
    paper = "AdaNPC: Exploring Non-Parametric Classifier for Test-Time Adaptation (2304.12566)"

    def init(self, model, source):
        return {"features": None, "labels": None}

    def output(self, ctx, state):
        with torch.no_grad():
            phi, classes, source = (
                F.normalize(ctx.features, dim=1),
                ctx.logits.shape[1],
                ctx.source_info["neighbours"],
            )
            if state["features"] is None:
                if source["labels"].max() >= classes:
                    raise NeedsError(f"a source image has label {int(source['labels'].max())}, but "
                                     f"the model answers in {classes} classes")
                state.update(features=phi[:0], labels=source["labels"][:0])
            memory = torch.cat(
                [
                    F.normalize(of_this_model(source["features"], phi, "neighbours"), dim=1),
                    state["features"],
                ]
            )
            labels = torch.cat([source["labels"], state["labels"]])
            alike, nearest = (phi @ memory.T).topk(min(self.k, len(memory)), dim=1)
            weights = (alike / self.temperature).softmax(1)
            votes = (weights[:, :, None] * F.one_hot(labels[nearest], classes)).sum(1)
            votes = (votes + 1e-5).clamp_max(1)
            joins = (votes.softmax(1) if self.confidence == "softmax" else votes).amax(
                1
            ) >= self.sure
            state["features"] = torch.cat([state["features"], phi[joins]])
            state["labels"] = torch.cat([state["labels"], votes.argmax(1)[joins]])
            return votes.log()
