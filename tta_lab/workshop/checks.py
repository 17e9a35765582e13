"""The workshop: self-checks that say what is wrong with a student's function, and student
notebooks made from the solutions.

A check runs the function on small fixed tensors and models and compares what comes back with the
right result and with the results of known mistakes (`judging`); so it names the mistake whatever
the code looks like, and only one that is proven. In a notebook::

    check_entropy(entropy)            # prints "well done", or stops the notebook with a sentence

`judge` is the same as a pure function: (name of the exercise, function) -> `Verdict`. The global
random generators are put back after each check. The exercises follow Tent (arXiv 2006.10726) and
Towards Open-Set Test-Time Adaptation Utilizing the Wisdom of Crowds in Entropy Minimization (arXiv
2308.06879).
"""

from __future__ import annotations

import dis
import textwrap
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch

from . import entropy_check, filter_check, lists_check, resets_check, steps_check, words
from .judging import Wrong, kind

TRIES: dict[str, int] = {}  # failed tries of each exercise since the last success, in this kernel


@dataclass(frozen=True)
class Verdict:
    """Whether a function is right; if not, the name of the ``mistake`` (several are joined by +),
    a first ``message`` and a stronger ``hint``."""

    ok: bool
    mistake: str = ""
    message: str = ""
    hint: str = ""


class NotYet(Exception):  # noqa: N818 - it is no error: it says what to do next
    """Stops "Run all" at an exercise that is not solved yet; Jupyter shows the sentences without a
    traceback."""

    def __init__(self, text: str, verdict: Verdict):
        super().__init__(text)
        self.verdict = verdict

    def _render_traceback_(self):
        return str(self).splitlines()


# --- judging ------------------------------------------------------------------------------------


def judge(exercise: str, fn: Callable) -> Verdict:
    """Run the check of an exercise (a name in `EXERCISES`) and say what was found. Raises KeyError
    for an unknown exercise."""
    check, table = EXERCISES[exercise]
    table = {**words.EVERYWHERE, **table}
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        try:
            _look_at(fn)
            check(fn)
        except Wrong as found:
            pairs = [table[m] for m in found.mistakes]
            values = defaultdict(str, found.values)
            message, hint = (" And: ".join(
                dict.fromkeys(p[i].format_map(values).strip() for p in pairs)) for i in (0, 1))
            return Verdict(False, "+".join(found.mistakes), message, hint)
        # what came back is too odd to be compared
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as why:
            message, hint = words.EVERYWHERE["other"]
            return Verdict(
                False, "other",
                message.format(compare=f"What it returns could not be "
                               f"compared at all ({why})."), hint)
    return Verdict(True)


def check(exercise: str, fn: Callable) -> Verdict:
    """`judge`, in words: prints that the exercise is solved, or raises `NotYet`; from the second
    failed try on with the stronger hint."""
    verdict = judge(exercise, fn)
    if verdict.ok:
        TRIES.pop(exercise, None)
        print(f"{exercise.replace('_', ' ')}: well done, this is right.")
        return verdict
    text = f"{exercise.replace('_', ' ')}: not yet.\n{verdict.message}"
    if verdict.mistake == "stub":
        text = f"Your turn: {exercise.replace('_', ' ')}.\n{verdict.message}"
    else:
        TRIES[exercise] = TRIES.get(exercise, 0) + 1
        text += (
            f"\nHint: {verdict.hint}"
            if TRIES[exercise] > 1
            else "\n(Change your function and run both cells again. A second try brings a "
                 "stronger hint.)"
        )
    raise NotYet("\n".join(textwrap.fill(line, 100) for line in text.splitlines()),
                 verdict) from None


def is_stub(fn: Callable) -> bool:
    """Whether a function does nothing: its body is a docstring and ``...`` (or pass)."""
    code = getattr(fn, "__code__", None)
    if code is None or code.co_names or code.co_freevars or not set(
            code.co_consts) <= {None, fn.__doc__, ...}:
        return False
    return not any(
        step.opname.startswith(("LOAD_FAST", "STORE", "CALL"))
        for step in dis.get_instructions(code))


def _look_at(fn) -> None:
    if not callable(fn):
        raise Wrong("not_a_function", got=kind(fn))
    if is_stub(fn):
        raise Wrong("stub")


# --- names --------------------------------------------------------------------------------------

EXERCISES: dict[str, tuple[Callable, dict]] = {
    "entropy": (entropy_check.check, words.ENTROPY),
    "tent_step": (steps_check.check_step, words.STEP),
    "crowd_filter": (filter_check.check, words.FILTER),
    "filtered_step": (steps_check.check_filtered_step, words.FILTERED),
    "effective_classes": (lists_check.check_effective_classes, words.EFFECTIVE),
    "answer_with_resets": (resets_check.check, words.RESETS),
    "vote": (lists_check.check_vote, words.VOTE),
}
MODULES = {
    "module_1_tent": ("entropy", "tent_step"),
    "module_2_filter": ("crowd_filter", "filtered_step"),
    "module_3_collapse": ("effective_classes", "answer_with_resets", "vote"),
}


def check_entropy(entropy: Callable) -> Verdict:
    """``entropy(logits)`` -> H of the softmax of each image, nats.  (B, C) -> (B,)"""
    return check("entropy", entropy)


def check_step(tent_step: Callable) -> Verdict:
    """``tent_step(model, images, optimizer)`` -> logits of before one step on the mean entropy,
    detached.  (B, C)"""
    return check("tent_step", tent_step)


def check_filter(crowd_filter: Callable) -> Verdict:
    """``crowd_filter(adapted_logits, source_logits)`` -> which images are kept.  (B, C), (B, C) ->
    (B,)"""
    return check("crowd_filter", crowd_filter)


def check_filtered_step(filtered_step: Callable) -> Verdict:
    """``filtered_step(model, source, images, optimizer)`` -> logits of before one step on the mean
    entropy of the kept images.  (B, C)"""
    return check("filtered_step", filtered_step)


def check_effective_classes(effective_classes: Callable) -> Verdict:
    """``effective_classes(predictions, n_classes)`` -> exp of the entropy of the classes' shares.
    (N,) -> number"""
    return check("effective_classes", effective_classes)


def check_resets(answer_with_resets: Callable) -> Verdict:
    """``answer_with_resets(model, batches, least, window)`` -> classes of all images; resets on
    the way.  (N,)"""
    return check("answer_with_resets", answer_with_resets)


def check_vote(vote: Callable) -> Verdict:
    """``vote(predictions)`` -> share of images on which each method says what most say.  {name:
    (N,)} -> {name: share}"""
    return check("vote", vote)
