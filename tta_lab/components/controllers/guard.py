"""The guard: a controller that is to keep a run from ending worse than doing nothing, with any
method that learns.

Two things, each can be switched off. On an alarm of a collapse detector it *acts* on the model:
rolls back, resets, takes smaller steps, or stops. And it *chooses* who answers: the method, or one
of two models that never learn, the source as it is and BN-1 (source weights, the batch's
statistics); no label is asked for. The choice is needed because batch statistics harm from the
first batch on where a batch holds few classes or few images, and the source harms where images are
corrupted; no roll back helps there. How far it succeeds, and where it does not, is measured in
``benchmarks/README.md``.

    recipe = guarded(make("tent"))                       # or make("tent", controllers=(Guard(),))
    trace = run(Adapter(model, recipe), stream)
    trace.step("action"), trace.step("answered_by")      # indices into ACTIONS and ANSWERS
"""
from __future__ import annotations

import difflib
import math
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ...core import scores
from ...core.arguments import WrongKind
from ...core.knobs import knob
from ...core.named import recipe_of
from ...core.norm_layers import BATCH_NORM
from ...core.parts import SCOPES, Controller, LossMethod, Method, Part
from .collapse_detector import CollapseDetector

# the step column "action"
ACTIONS = ("", "stopped", "rolled back", "reset", "smaller step", "smaller step from the source")
# the step column "answered_by"
ANSWERS = ("method", "source", "batch norm")
REFERENCES = ("running", "batch")  # statistics of the two models that never learn: the source, BN-1


@dataclass(frozen=True)
class Guard(Controller):
    """Act on alarms, and choose who answers.

    **Acting.** Every ``every`` steps without a sign of trouble the state is remembered, at most
    ``snapshots`` of them. At an alarm "roll back" puts back the oldest (the newest may already be
    ill); "smaller step" does the same and multiplies the step size by ``factor``; where nothing
    healthy was remembered since the last such action, both go back to the source. "reset" always
    does. "stop" leaves the weights as they are. Then nothing is learned for ``pause`` steps (with
    "stop" at least for ``stop`` steps) and no further action is taken for ``rest`` steps.

    **Choosing.** Both references, s (source) and b (BN-1), are asked about every batch: two
    forwards per image, less what the method asks for itself. Each is judged by the information in
    nats that its predictions carry about the images,

        I_r = H(mean of p_r) - c_r (mean of H(p_r)),   c_s = ``caution``, c_b = 1,

    the first mean over about ``per_class`` images of each class, with ``prior`` uniform ones
    added; the second over the last ``window`` images. The source's entropy counts more because a
    model that keeps its statistics is too sure of shifted images. Two more terms say what
    confidence hides,

        I_s loses ``charge`` (1 - g) u,   I_b loses ``clumped`` g,   g = (rho - 0.2) / 0.3 kept
        within 0 and 1.

    u is the share of images on which the two disagree, beyond the errors that both admit to (1 -
    mean confidence): two models with errors e_s and e_b differ on at most e_s + e_b of the answers
    (triangle inequality), and the source stays sure of images it does not know. rho is `clumping`,
    how far the images of a batch are of one class: there the batch's statistics mislead, however
    sure BN-1 is. The source is the better one at first; this changes when the I differ by more
    than ``margin``. The method answers as long as, on the last ``window`` images,

    - it and the better reference are the two of the three that agree most often, and
    - it disagrees with the better reference on a share of at most ``doubt`` (1 - mean confidence
      of that reference): the harm of a method is at
      most this disagreement. Two models with errors of at most e differ on no more than 2e of the
      answers, so ``doubt`` = 2 would let each method answer that is not worse; a smaller one shuts
      out some that are better, and fewer that are worse, and
    - the detector's probability of collapse is below ``unsure``, and the guard has not stopped it
      or acted
      in the last ``rest`` steps;

    else the better reference answers, while the method goes on learning. Where the source has no
    batch norm there is one reference, and the first rule falls away.
    """

    detector: Part = CollapseDetector()
    action: str = knob("smaller step",
                       choices=("smaller step", "roll back", "reset", "stop", "none"),
                       why="what is done at an alarm")
    choose: bool = knob(True, why="let a model that never learns answer where it seems better; "
                                  "with batches known to be mixed False errs less")
    factor: float = knob(0.03, (0.0, 1.0), "multiplies the step size at each action 'smaller step'")
    pause: int = knob(0, (0, 10**9), "nothing is learned for so long after an action",
                      unit="batches")
    stop: int = knob(10**9, (1, 10**9), "the same for the action 'stop'; the default is for good",
                     unit="batches")
    rest: int = knob(10, (0, 10**9), "for so long after an action there is no further one, and "
                                     "the method does not answer", unit="batches")
    snapshots: int = knob(2, (1, 16), "states kept to go back to")
    every: int = knob(5, (1, 10**6), "steps between two states that are kept", unit="batches")
    calm: float = knob(0.2, (0.0, 1.0), "a state is kept only below this probability of collapse")
    unsure: float = knob(0.5, (0.0, 1.0), "the method does not answer at or above this "
                                          "probability of collapse")
    window: int = knob(60, (1, 10**9), "images over which entropy and agreement are averaged, "
                                       "exponentially", unit="images")
    per_class: float = knob(50.0, (1.0, 1e6), "the same for the mean prediction, times the number "
                                              "of classes", unit="images per class")
    prior: float = knob(25.0, (0.0, 1e6), "uniform predictions that are added to the mean "
                                          "prediction", unit="images per class")
    caution: float = knob(1.2, (0.0, 10.0), "weight of the source's entropy")
    charge: float = knob(1.5, (0.0, 100.0), "loss of the source's information per share of "
                                            "disagreement that neither admits to", unit="nats")
    clumped: float = knob(0.5, (0.0, 100.0), "loss of BN-1's information where each batch holds "
                                             "one class", unit="nats")
    margin: float = knob(0.05, (0.0, 10.0), "difference of information below which the better "
                                            "reference stays the better one", unit="nats")
    doubt: float = knob(1.0, (0.0, 1e9), "times the expected error of the better reference that "
                                         "the method may differ from it")
    slack: float = knob(0.0, (0.0, 1.0), "by how much another pair must agree more often before a "
                                         "reference answers")

    watches: ClassVar[bool] = True

    @property
    def needs(self):
        """What the detector needs."""
        return self.detector.needs

    def init(self, model, source):
        return {
            "steps": 0, "pause": 0, "rest": 0, "stopped": False, "fresh": False, "memories": [],
            "best": 0, "evidence": {}, "detector": self.detector.init(model, source),
            "batch_norm": any(isinstance(m, BATCH_NORM) for m in source.modules())
        }

    def pauses(self, state):
        return state["pause"] > 0

    # --- acting

    def watch(self, adapter, samples, step, state):
        alarm, probability = self.detector.look(samples, step, state["detector"])
        step.update(alarm=int(alarm), alarm_probability=float(probability), action=0)
        state["steps"] += 1
        paused = state["pause"] > 0
        state["pause"], state["rest"] = max(state["pause"] - 1, 0), max(state["rest"] - 1, 0)
        state["stopped"] = state["stopped"] and state["pause"] > 0
        if self.action == "none":
            return
        if alarm:
            if not state["rest"] and not paused:
                step["action"] = ACTIONS.index(self._act(adapter, state))
        elif probability < self.calm and not paused and self.action in (
                "smaller step", "roll back") and state["steps"] % self.every == 0:
            memory = {"learned": adapter.remember(), "detector": deepcopy(state["detector"])}
            state["memories"] = [*state["memories"], memory][-self.snapshots:]
            state["fresh"] = True

    def _act(self, adapter, state: dict) -> str:
        """Carry out the action; its name in ACTIONS."""
        # counted down at the start of the next looks
        state["rest"], state["pause"] = self.rest + 1, self.pause
        if self.action == "stop":
            state["pause"] = max(self.pause, self.stop)
            state["stopped"] = True
            return "stopped"
        scale = adapter.rate_scale * (self.factor if self.action == "smaller step" else 1.0)
        back = self.action != "reset" and bool(state["memories"]) and state["fresh"]
        if back:
            memory = state["memories"][0]
            adapter.recall(memory["learned"])
            state.update(memories=[memory], fresh=False, detector=deepcopy(memory["detector"]))
        else:
            adapter.rewind(SCOPES, controllers=False)
            # the trace says so in the next step, and the detector sees it there
            adapter.state.was_reset = True
            state.update(memories=[], fresh=False)
        if self.action == "smaller step":
            adapter.scale_rate(scale / adapter.rate_scale if adapter.rate_scale else 1.0)
            return "smaller step" if back else "smaller step from the source"
        return "rolled back" if back else "reset"

    # --- choosing

    def answer(self, ctx, logits, rows, step, state):
        if not self.choose:
            step["answered_by"] = 0
            return logits
        references = _references(ctx, rows, state["batch_norm"])
        evidence, both = state["evidence"], len(references) > 1
        gather_(evidence, [references[0], references[-1], logits], self.window,
                self.per_class * logits.shape[1])
        state["best"] = best = self._better(state) if both else 0
        sure = (step["alarm_probability"] < self.unsure and not state["stopped"]
                and not state["rest"])
        trusted = sure and close(evidence, best, self.slack if both else math.inf, self.doubt)
        step["answered_by"] = 0 if trusted else 1 + best
        return logits if trusted else references[best]

    def _better(self, state: dict) -> int:
        """Index of the reference whose predictions carry more information."""
        source, batch = information(state["evidence"], self.prior, (self.caution, 1.0))
        clumps = min(max((clumping(state["evidence"], self.prior) - 0.2) / 0.3, 0.0), 1.0)
        source = source - self.charge * (1 - clumps) * unexplained(state["evidence"])
        batch = batch - self.clumped * clumps
        return state["best"] if abs(batch - source) <= self.margin else int(batch > source)


def guarded(recipe: Method | str, **settings) -> LossMethod:
    """The same method (or the one of this name) with a `Guard` beside its controllers;
    ``settings`` are those of the guard.

    Raises TypeError for a method without a loss, which learns nothing that could collapse, and
    ValueError where there is a guard already, and for settings that a guard does not have.
    """
    recipe = recipe_of(recipe)
    known = [f.name for f in fields(Guard)]
    for name in settings.keys() - set(known):
        near = difflib.get_close_matches(name, known, 1)
        raise ValueError(f"a guard has no setting "
                         f"{name!r}{f'; did you mean {near[0]}?' if near else ''}; it has: "
                         f"{', '.join(known)}")
    if not isinstance(settings.get("detector", CollapseDetector()), Part):
        raise WrongKind(f"detector must be a CollapseDetector(), not {settings['detector']!r}")
    if not isinstance(recipe, LossMethod):
        raise TypeError(f"{type(recipe).__name__} has no loss and so takes no controllers: there "
                        f"is no learning to hold back; "
                        "guard a method that learns, such as make('tent'), or compare with "
                        "make('source') and make('batch_norm')")
    if any(isinstance(c, Guard) for c in recipe.controllers):
        raise ValueError(f"{type(recipe).__name__} has a guard already; change its knobs, e.g. "
                         f"with_knobs(recipe, action='reset')")
    return replace(recipe, controllers=(*recipe.controllers, Guard(**settings)))


def _references(ctx, rows, batch_norm: bool) -> list[Tensor]:
    """Logits of the source and, where it has batch norm and the batch has more than one value per
    channel, of BN-1."""
    found = [(ctx if rows is None else ctx.part(rows)).source_logits("running")]
    if batch_norm:
        try:
            logits = ctx.source_logits("batch")
        except ValueError:  # one value per channel has no variance
            return found
        found.append(logits if rows is None else logits[rows])
    return found


def gather_(evidence: dict, logits: list[Tensor], window: float, window_classes: float) -> None:
    """Exponential sums over images, in place. ``logits``: of the source, BN-1 and the method, (B,
    C, *S) each.

    ``entropy`` and ``confidence`` (2,) and the mean prediction ``classes`` (2, C) of the two
    references; ``agree`` (3,), how often the pairs (source, BN-1), (source, method), (BN-1,
    method) predict the same class; ``said`` (C,), the source's predicted classes, and ``pairs``,
    the share of pairs within a batch that it gives one class (1 where there is no pair); ``n``,
    ``n_classes`` and ``n_pairs`` are the weights that the sums hold. After n more images what was
    there counts exp(-n / window), for ``classes`` and ``said`` exp(-n / window_classes), and for
    ``pairs``, which lags behind ``said`` on purpose, exp(-n / (2 window_classes)): a shift that
    makes the source say few classes is not to look like clumps.
    """
    n = len(logits[0])
    fade = float(np.exp(-n / window))
    fade_classes = float(np.exp(-n / window_classes))
    said, references = [z.argmax(1) for z in logits], logits[:2]
    counts = torch.bincount(said[0].flatten(), minlength=logits[0].shape[1]).float()
    total = said[0].numel()
    fresh = {
        "entropy": torch.stack([scores.entropy(z).mean() for z in references]),
        "confidence": torch.stack([scores.confidence(z).mean() for z in references]),
        "classes": torch.stack([scores.mean_prediction(z) for z in references]),
        "said": counts / total, "pairs": (counts * (counts - 1)).sum() /
        (total * (total - 1)) if total > 1 else torch.ones_like(counts[0]), "agree": torch.stack([
            (said[i] == said[j]).float().mean() for i, j in ((0, 1), (0, 2), (1, 2))
        ])
    }
    fades = {"classes": fade_classes, "said": fade_classes, "pairs": float(np.sqrt(fade_classes))}
    for name, value in fresh.items():
        keep = fades.get(name, fade)
        evidence[name] = n * value + (keep * evidence[name] if name in evidence else 0.0)
    evidence["n"] = n + fade * evidence.get("n", 0.0)
    evidence["n_classes"] = n + fade_classes * evidence.get("n_classes", 0.0)
    evidence["n_pairs"] = n + fades["pairs"] * evidence.get("n_pairs", 0.0)


def information(evidence: dict, prior: float, weights: tuple) -> list[float]:
    """H(mean prediction) - weight * (mean entropy) of the references, in nats; ``prior`` uniform
    images per class are added to the first."""
    classes = evidence["classes"] + prior
    mean = classes / classes.sum(1, keepdim=True)
    entropy = evidence["entropy"] / evidence["n"]
    return (-torch.special.xlogy(mean, mean).sum(1) -
            entropy.new_tensor(weights) * entropy).tolist()


def unexplained(evidence: dict) -> float:
    """The share of images on which the two references disagree, less the errors that they admit to
    (1 - mean confidence); at least 0."""
    disagreement = 1 - float(evidence["agree"][0]) / evidence["n"]
    admitted = 2 - float(evidence["confidence"][:2].sum()) / evidence["n"]
    return max(disagreement - admitted, 0.0)


def clumping(evidence: dict, prior: float) -> float:
    """How much more often two images of a batch get one class from the source than two images at
    all: (A - S) / (1 - S), at least 0.

    A is the share of such pairs within a batch, S = sum_c q_c^2 with the shares q of the classes,
    to which ``prior`` images per class are added. 0 for batches drawn at random, 1 where each
    batch holds one class and all classes come.
    """
    shares = evidence["said"] + prior
    by_chance = float((shares / shares.sum()).square().sum())
    return max(
        (float(evidence["pairs"]) / evidence["n_pairs"] - by_chance) / max(1 - by_chance, 1e-6),
        0.0)


def close(evidence: dict, best: int, slack: float, doubt: float) -> bool:
    """Whether the method keeps close to the better reference: no other pair of the three agrees
    more often (by ``slack``), and it disagrees with it on no more than ``doubt`` times its
    expected error."""
    both, *method = (evidence["agree"] / evidence["n"]).tolist()
    expected = 1 - float(evidence["confidence"][best] / evidence["n"])
    return (method[best] >= max(both, method[1 - best]) - slack
            and 1 - method[best] <= doubt * expected + 1e-6)


def snapshot_bytes(state: dict) -> int:
    """Bytes of the states that a guard keeps, from its state
    (``adapter.states["controllers"][i]``)."""
    def count(value) -> int:
        if isinstance(value, Tensor):
            return value.numel() * value.element_size()
        values = (value.values()
                  if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ())
        return sum(map(count, values))
    return count(state["memories"])


# --- what a guard did, from the trace of the run ------------------------------------------------

def actions(trace) -> list[tuple[int, str]]:
    """(step, action) of every action in a run: marks for any figure over steps; none for a run
    without a guard."""
    steps = trace.columns("steps")
    did = (zip(steps["step"], np.nan_to_num(steps["action"]), strict=True) if "action" in steps else
           ())
    return [(int(t), ACTIONS[int(a)]) for t, a in did if a > 0]


def guarding(trace, windows: int = 60, recent: int = 300) -> dict:
    """What the guard of a run saw and did.

    ``step``, ``probability`` (of collapse), ``alarm`` (bool), (T,); ``actions``, `actions` of the
    trace; ``edges`` (W + 1,) steps and ``answered`` (W, 3), the share of batches in each of at
    most ``windows`` stretches that each of ANSWERS answered; with labels ``error`` (T,), in per
    cent, of the last ``recent`` scored images, else NaN. Raises ValueError for a run without a
    guard.
    """
    steps = trace.columns("steps")
    if "answered_by" not in steps:
        raise ValueError("no guard was at work in this run; run the stream with Adapter(model, "
                         "guarded(recipe))")
    step = np.asarray(steps["step"], np.int64)
    by = np.nan_to_num(steps["answered_by"]).astype(int)
    starts = np.unique(
        np.arange(min(windows, len(step))) * len(step) // max(min(windows, len(step)), 1))
    sizes = np.diff(np.append(starts, len(step)))
    answered = (np.stack([np.add.reduceat(by == i, starts) / sizes
                          for i in range(len(ANSWERS))], 1) if len(step) else np.zeros(
                              (0, len(ANSWERS))))
    error = np.full(len(step), np.nan)
    columns = trace.columns()
    if {"correct", "known", "label"} <= columns.keys():
        scored = columns["known"].astype(bool) & (columns["label"] >= 0)
        total = np.append(0, np.cumsum(~columns["correct"][scored]))
        ends = np.searchsorted(columns["step"][scored], step, side="right")
        first = np.maximum(ends - recent, 0)
        error = np.where(ends > first,
                         100 * (total[ends] - total[first]) / np.maximum(ends - first, 1), np.nan)
    return {
        "step": step, "probability": np.asarray(steps["alarm_probability"],
                                                np.float64), "alarm": np.nan_to_num(steps["alarm"])
        > 0, "actions": actions(trace), "edges": np.append(step[starts], step[-1:] + 1),
        "answered": answered, "error": error, "recent": recent
    }
