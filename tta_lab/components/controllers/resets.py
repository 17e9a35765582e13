"""Controllers: when to go back to the source."""
from __future__ import annotations

from dataclasses import dataclass

from ...core.knobs import knob
from ...core.parts import Controller


@dataclass(frozen=True)
class ResetEvery(Controller):
    """Reset after every n-th step. RDumb (2306.05401): n = 1000; n = 1 makes every batch an
    episode of its own.

    ``scope="model"`` leaves memories and random draws as they are.
    """

    steps: int = knob(1000, (1, 10**9), "steps between two resets", paper="RDumb 2306.05401: 1000",
                      unit="batches")
    scope: str = knob("everything", choices=("everything", "model"), why="what is put back: all, "
                                                                         "or weights, statistics "
                                                                         "and optimiser")

    def init(self, model, source):
        return {"steps": 0}

    def decide(self, loss_outputs, state):
        state["steps"] += 1
        if state["steps"] % self.steps:
            return None
        return "reset" if self.scope == "everything" else ("weights", "statistics", "optimizer")


@dataclass(frozen=True)
class CollapseRecovery(Controller):
    """Reset when the running mean of the loss falls so low that the model must have collapsed.

    e <- L at first, then momentum e + (1 - momentum) L, for every batch of which something was
    kept; reset when e < threshold. ``scope="weights"`` puts back the weights alone: e stays low and
    the optimiser keeps its momentum, so that several batches in a row may be reset (what SAR's
    public code does); "weights and mean" also clears e (what a later port does). SAR (2302.12400):
    threshold 0.2 for 1000 classes.
    """

    threshold: float = knob(0.2, (-1e9, 1e9), "reset below this running mean",
                            paper="SAR 2302.12400: 0.2", unit="nats")
    momentum: float = knob(0.9, (0.0, 1.0), "of the running mean", paper="SAR 2302.12400: 0.9")
    scope: str = knob("everything", choices=("everything", "weights and mean", "weights"),
                      why="what is put back")

    def init(self, model, source):
        return {"mean": None}

    def decide(self, loss_outputs, state):
        for loss_output in loss_outputs:
            if loss_output.n_kept:
                loss = loss_output.loss.item()
                state["mean"] = (loss if state["mean"] is None else self.momentum * state["mean"] +
                                 (1 - self.momentum) * loss)
        if state["mean"] is None or state["mean"] >= self.threshold:
            return None
        if self.scope == "everything":
            return "reset"
        if self.scope == "weights and mean":
            state["mean"] = None
        return ("weights", "statistics")
