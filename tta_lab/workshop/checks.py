"""The workshop: self-checks that say what is wrong with a student's function, and student notebooks made from the solutions.

A check runs the function on small fixed tensors and models and compares what comes back with the right result and with the results of
known mistakes; so it names the mistake whatever the code looks like. In a notebook::

    check_entropy(entropy)            # prints "well done", or stops the notebook with a sentence

`judge` is the same as a pure function: (name of the exercise, function) -> `Verdict`. The global random generators are put back after each check.
The exercises follow Tent (arXiv 2006.10726) and Towards Open-Set Test-Time Adaptation Utilizing the Wisdom of Crowds in Entropy Minimization
(arXiv 2308.06879).
"""

from __future__ import annotations

import dis
import math
import re
import textwrap
import traceback
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..scores import entropy as right_entropy
from . import words as words

CLOSE = 1e-4  # largest difference of two results that count as the same
TRIES: dict[str, int] = {}  # failed tries of each exercise since the last success, in this kernel


@dataclass(frozen=True)
class Verdict:
    """Whether a function is right; if not, the name of the ``mistake``, a first ``message`` and a stronger ``hint``."""

    ok: bool
    mistake: str = ""
    message: str = ""
    hint: str = ""


class NotYet(Exception):  # noqa: N818 - it is no error: it says what to do next
    """Stops "Run all" at an exercise that is not solved yet; Jupyter shows the sentences without a traceback."""

    def __init__(self, text: str, verdict: Verdict):
        super().__init__(text)
        self.verdict = verdict

    def _render_traceback_(self):
        return str(self).splitlines()


class _Wrong(Exception):  # noqa: N818
    def __init__(self, mistake: str, **values):
        super().__init__(mistake)
        self.mistake, self.values = mistake, values


# --- judging --------------------------------------------------------------------------------------------------------


def judge(exercise: str, fn: Callable) -> Verdict:
    """Run the check of an exercise (a name in `EXERCISES`) and say what was found. Raises KeyError for an unknown exercise."""
    check, table = EXERCISES[exercise]
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        try:
            _look_at(fn)
            check(fn)
        except _Wrong as found:
            message, hint = {**words.EVERYWHERE, **table}[found.mistake]
            return Verdict(False, found.mistake, message.format(**found.values), hint.format(**found.values))
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as why:  # what came back is too odd to be compared
            message, hint = words.EVERYWHERE["other"]
            return Verdict(False, "other", message.format(compare=f"What it returns could not be compared at all ({why})."), hint)
    return Verdict(True)


def check(exercise: str, fn: Callable) -> Verdict:
    """`judge`, in words: prints that the exercise is solved, or raises `NotYet`; from the second failed try on with the stronger hint."""
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
            else "\n(Change your function and run both cells again. A second try brings a stronger hint.)"
        )
    raise NotYet("\n".join(textwrap.fill(line, 100) for line in text.splitlines()), verdict) from None


def is_stub(fn: Callable) -> bool:
    """Whether a function does nothing: its body is a docstring and ``...`` (or pass)."""
    code = getattr(fn, "__code__", None)
    if code is None or code.co_names or code.co_freevars or not set(code.co_consts) <= {None, fn.__doc__, ...}:
        return False
    return not any(step.opname.startswith(("LOAD_FAST", "STORE", "CALL")) for step in dis.get_instructions(code))


def _look_at(fn) -> None:
    if not callable(fn):
        raise _Wrong("not_a_function", got=_kind(fn))
    if is_stub(fn):
        raise _Wrong("stub")


def _kind(value) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    name = type(value).__name__
    return "nothing (None)" if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _call(fn, *inputs, known=()):
    """fn(*inputs) with exceptions in words; ``known``: (pattern in the exception's text, mistake)."""
    try:
        result = fn(*inputs)
    except _Wrong:
        raise
    except Exception as why:
        for pattern, mistake in known:
            if re.search(pattern, str(why)):
                raise _Wrong(mistake) from why
        name = getattr(getattr(fn, "__code__", None), "co_filename", None)
        lines = [f.line for f in traceback.extract_tb(why.__traceback__) if f.filename == name and f.line]
        line = f" (in the line: {lines[-1]})" if lines else ""
        text = str(why).strip().split("\n")[0]
        raise _Wrong("error", kind=type(why).__name__, text=text[:300] + ("" if text.endswith(".") else "."), line=line) from why
    if result is None or result is ...:
        raise _Wrong("no_return")
    return result


def _same(a, b, tolerance: float = CLOSE) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a.shape != b.shape:
        return False
    return bool(torch.allclose(a.detach().double(), b.detach().double(), rtol=tolerance, atol=tolerance))


def _recognise(result, wrong: dict) -> None:
    """Raise the first mistake whose result this is; values may be one result or a list of them."""
    for mistake, candidates in wrong.items():
        if any(_same(result, c) for c in (candidates if isinstance(candidates, list) else [candidates])):
            raise _Wrong(mistake, uniform="something else")


def _numbers(count: int, *shape: int, seed: int = 0, scale: float = 2.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(*shape, generator=generator) for _ in range(count)]


# --- module 1: the entropy of each image ----------------------------------------------------------------------------


def _entropy(fn) -> None:
    z = _numbers(1, 5, 3)[0]
    given = z.clone()
    result = _call(fn, given)
    if not isinstance(result, Tensor):
        raise _Wrong("one_number" if isinstance(result, int | float) else "not_a_tensor", got=_kind(result))
    if not torch.equal(given, z):
        raise _Wrong("changes_input")
    right = right_entropy(z)
    if not _same(_call(fn, z.clone()), result, 1e-7) and not bool(torch.isnan(result).any()):
        raise _Wrong("random")
    if not _same(result, right):
        uniform = _call(fn, torch.zeros(5, 3))
        value = uniform.flatten()[0].item() if isinstance(uniform, Tensor) and uniform.numel() else math.nan
        _name_entropy(result, z, right, value)
    sure = torch.tensor([[200.0, 0.0, -200.0], [0.0, 0.0, 0.0], [1.0, 0.5, -0.5]])
    if not bool(torch.isfinite(_call(fn, sure.clone())).all()):
        raise _Wrong("nan")
    if not _same(_call(fn, sure.clone()), right_entropy(sure)):
        raise _Wrong("other", compare="It happens for images of which the model is very sure.")
    for x in (z, sure):
        leaf = x.clone().requires_grad_()
        result = _call(fn, leaf)
        if not result.requires_grad:
            raise _Wrong("detached")
        gradient = torch.autograd.grad(result.sum(), leaf)[0]
        if not bool(torch.isfinite(gradient).all()):
            raise _Wrong("nan_gradient")
        reference = x.clone().requires_grad_()
        if not _same(gradient, torch.autograd.grad(right_entropy(reference).sum(), reference)[0], 1e-3):
            raise _Wrong("partly_detached")


def _name_entropy(result: Tensor, z: Tensor, right: Tensor, uniform: float) -> None:
    """Find the mistake behind a wrong entropy of the logits ``z`` (5, 3)."""
    logp, across = z.log_softmax(1), z.log_softmax(0)
    p, q, twice = logp.exp(), across.exp(), z.softmax(1).log_softmax(1)
    tables = {  # name -> (images, classes), before the sum
        "sign": p * logp,
        "axis": -q * across,
        "no_logarithm": [-p * p, p * p, -p * z, p * z, p, p * (1 - p), -p],
        "no_weights": [-logp, logp, p.log() / 3],
        "logits_as_probabilities": [-z.exp() * z, z.exp() * z, -z * logp, z * logp, -z * z.abs().log(), -z * z.log(), -z * p.log()],
        "base_2": -p * p.log2(),
        "base_10": -p * p.log10(),
        "softmax_twice": -twice.exp() * twice,
        "right": -p * logp,
    }
    sums = {name: [t.sum(1) for t in (v if isinstance(v, list) else [v])] for name, v in tables.items()}
    sums["no_weights"] += [-logp.mean(1), logp.mean(1)]
    wrong = {"divided_by_ln_classes": right / math.log(3), "mean_over_classes": right / 3, "pseudo_label": -logp.amax(1)}
    wrong |= {name: found for name, found in sums.items() if name != "right"}
    wrong["axis"] = wrong["axis"] + [-(q * across).sum(0), (q * across).sum(1), -(q * across).mean(1)]
    if result.shape != right.shape:
        if result.shape == (3,):
            _recognise(result, {"axis": wrong["axis"]})
            raise _Wrong("summed_over_images")
        if result.numel() == 1:
            raise _Wrong("one_number")
        if result.shape == z.shape:
            raise _Wrong("per_class")
        raise _Wrong("shape", shape=tuple(result.shape), wanted="one number per image, (5,) for 5 images,")
    for mistake in wrong:
        try:
            _recognise(result, {mistake: wrong[mistake]})
        except _Wrong as found:
            raise _Wrong(mistake, uniform=f"{uniform:.4f}") from found
    if bool(torch.isnan(result).any()):
        raise _Wrong("logits_as_probabilities" if not bool(torch.isfinite(result).any()) or bool((z < 0).any()) else "nan")
    gap = float((result - right).abs().max())
    if gap < 0.2 and abs(uniform - math.log(3)) < 0.05:
        raise _Wrong("large_epsilon", gap=gap)
    raise _Wrong("other", compare=f"For the logits (0, 0, 0) it gives {uniform:.4f}, expected is ln 3 = 1.0986.")


# --- steps: what both step exercises share --------------------------------------------------------------------------


class _Spy(torch.optim.SGD):
    """Plain SGD that writes down what is asked of it."""

    def __init__(self, parameters, events: list):
        self.events = events
        super().__init__(parameters, lr=0.5)

    def step(self, closure=None):
        self.events.append("step")
        return super().step(closure)

    def zero_grad(self, set_to_none: bool = True):
        self.events.append("zero")
        super().zero_grad(set_to_none)


class _Tiny(nn.Module):
    """A linear classifier, 4 numbers to 3 classes, that counts its forwards."""

    def __init__(self, seed: int):
        super().__init__()
        first, second = _numbers(2, 3, 4, seed=seed, scale=0.7)
        self.weight, self.bias = nn.Parameter(first), nn.Parameter(second[:, 0].clone())
        self.forwards, self.recorded, self.events = 0, False, []

    def forward(self, x):
        self.forwards += 1
        out = x @ self.weight.T + self.bias
        self.recorded |= out.requires_grad
        self.events.append("forward")
        return out

    def numbers(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.parameters()]).clone()


def _gradient(model: _Tiny, x: Tensor, loss: Callable) -> list[Tensor]:
    return list(torch.autograd.grad(loss(x @ model.weight.T + model.bias), list(model.parameters())))


def _moved(model: _Tiny, batches, loss: Callable, add_up: bool = False, scale: float = 1.0) -> Tensor:
    """Weights after one step on each batch by plain SGD: the reference, and with another loss or rule a known mistake."""
    model, kept = deepcopy(model), None
    for x in batches:
        found = _gradient(model, x, loss)
        kept = [a + b for a, b in zip(kept, found, strict=True)] if add_up and kept else found
        with torch.no_grad():
            for p, g in zip(model.parameters(), kept, strict=True):
                p -= 0.5 * scale * g
    return model.numbers()


def _mean_entropy(z: Tensor) -> Tensor:
    return right_entropy(z).mean()


NO_GRADIENT = r"does not require grad|does not have a grad_fn"


def _check_answer(answer, before: Tensor, after: Tensor) -> None:
    """The logits of before the step are wanted, cut off from their history."""
    if not isinstance(answer, Tensor):
        raise _Wrong("returns_loss" if isinstance(answer, int | float) else "not_a_tensor", got=_kind(answer))
    if answer.numel() == 1:
        raise _Wrong("returns_loss")
    if answer.shape == before.shape[:1]:
        raise _Wrong("returns_loss" if _same(answer, right_entropy(before)) else "returns_classes")
    if _same(answer, before.softmax(1)) or _same(answer, after.softmax(1)):
        raise _Wrong("returns_probabilities")
    if answer.shape == before.shape and not _same(answer, before) and _same(answer, after):
        raise _Wrong("after")
    if answer.shape != before.shape:
        raise _Wrong("shape", shape=tuple(answer.shape), wanted=f"logits, (images, classes) = {tuple(before.shape)},")
    if not _same(answer, before):
        raise _Wrong("other", compare="The weights move as they should; it is the returned logits that differ.")
    if answer.requires_grad:
        raise _Wrong("attached")


def _check_order(events: list, moved: bool, hooks: int, mode: bool) -> None:
    """Mistakes in the order of clear, backward and step, read from what the optimiser was asked in the first call."""
    steps = events.count("step")
    if not moved and not hooks:
        raise _Wrong("no_backward")
    if not moved and not steps:
        raise _Wrong("no_step")
    if not moved and "backward" in events:
        at = events.index("backward")
        if "step" in events[:at] and "step" not in events[at:]:
            raise _Wrong("step_before_backward")
        if "zero" in events[at:]:
            raise _Wrong("zeroed_before_step")
    if moved and not steps:
        raise _Wrong("own_optimizer")
    if steps > 1:
        raise _Wrong("many_steps", steps=steps)
    if mode:
        raise _Wrong("mode")


def _watch_steps(call: Callable, model: _Tiny, batches):
    """Call the student's step on each batch; weights after each, answers, events of the first call, backwards."""
    events = model.events
    events.clear()
    count = [0]

    def backward(gradient):
        count[0] += 1
        if not events or events[-1] != "backward":
            events.append("backward")

    model.weight.register_hook(backward)
    weights, answers, first = [], [], []
    for x in batches:
        given = x.clone()
        answers.append(call(given))
        if not torch.equal(given, x):
            raise _Wrong("changes_input")
        first = first or list(events)
        weights.append(model.numbers())
    return weights, answers, first, count[0]


def _step(fn) -> None:
    batches = _numbers(2, 6, 4, seed=3, scale=1.0)
    start = _Tiny(1)
    model = deepcopy(start)
    model.train()
    optimizer = _Spy(model.parameters(), model.events)
    weights, answers, events, backwards = _watch_steps(lambda x: _call(fn, model, x, optimizer, known=[(NO_GRADIENT, "detached")]), model, batches)
    if not bool(torch.isfinite(weights[-1]).all()):
        raise _Wrong("nan")
    _check_order(events, not torch.equal(weights[0], start.numbers()), backwards, not model.training)
    one, two = _moved(start, batches[:1], _mean_entropy), _moved(start, batches, _mean_entropy)
    if not (_same(weights[0], one) and _same(weights[1], two)):
        losses = {
            "sum": [lambda z: right_entropy(z).sum()],
            "ascent": [lambda z: -_mean_entropy(z), lambda z: -right_entropy(z).sum()],
            "entropy_of_mean": [lambda z: _entropy_of(z.softmax(1).mean(0)), lambda z: right_entropy(z.mean(0, keepdim=True)).sum()],
            "pseudo_label": [lambda z: -z.log_softmax(1).amax(1).mean()],
            "softmax_twice": [lambda z: _mean_entropy(z.softmax(1))],
        }
        for mistake, found in losses.items():
            _recognise(weights[0], {mistake: [_moved(start, batches[:1], loss) for loss in found]})
        if _same(weights[0], one):
            raise _Wrong("no_zero_grad")
        raise _Wrong("other", compare="The weights after the first step differ; the loss is the mean of the entropies.")
    with torch.no_grad():
        before = batches[0] @ start.weight.T + start.bias
        after = batches[0] @ one[:12].view(3, 4).T + one[12:]
    _check_answer(answers[0], before, after)


def _entropy_of(p: Tensor) -> Tensor:
    return -(p * p.clamp_min(1e-12).log()).sum()


# --- module 2: the filter -------------------------------------------------------------------------------------------


def right_filter(adapted: Tensor, source: Tensor) -> Tensor:
    """keep_i = [p^_i[c_i] >= p~_i[c_i]], c_i the class of the original model.  (B, C), (B, C) -> bool (B,); arXiv 2308.06879."""
    before, classes = source.softmax(1).max(1)
    return adapted.softmax(1).gather(1, classes[:, None])[:, 0] >= before


def _filter_tensors() -> tuple[Tensor, Tensor]:
    source, change = _numbers(2, 48, 5, seed=5, scale=1.5)
    adapted = source + 0.7 * change + 0.2 * (source - source.mean(1, keepdim=True))
    adapted[::8] = source[::8]  # as in the first step: no image has moved
    return adapted, source


def _filter(fn) -> None:
    adapted, source = _filter_tensors()
    given = adapted.clone(), source.clone()
    result = _call(fn, *given)
    if not (torch.equal(given[0], adapted) and torch.equal(given[1], source)):
        raise _Wrong("changes_input")
    right = right_filter(adapted, source)
    if isinstance(result, bool):
        raise _Wrong("one_decision")
    if not isinstance(result, Tensor):
        raise _Wrong("not_a_tensor", got=_kind(result))
    if result.numel() == 1:
        raise _Wrong("one_decision")
    if result.shape == (48, 48):
        raise _Wrong("wrong_lookup")
    if result.ndim == 2 and result.shape[1] == 5:
        raise _Wrong("rows")
    if result.dtype == torch.int64 and (result.shape != right.shape or int(result.max()) > 1):
        raise _Wrong("indices")
    if result.shape != right.shape:
        raise _Wrong("shape", shape=tuple(result.shape), wanted="one decision per image, (48,) for 48 images,")
    if result.is_floating_point() and not bool(((result == 0) | (result == 1)).all()):
        raise _Wrong("not_a_decision")
    if not torch.equal(result.bool(), right):
        _name_filter(result.bool(), adapted, source)
        wrong = (result.bool() != right).nonzero().flatten()
        raise _Wrong("other", compare=f"{len(wrong)} of 48 images are decided differently.")


def _name_filter(result: Tensor, adapted: Tensor, source: Tensor) -> None:
    pa, ps, c, k = adapted.softmax(1), source.softmax(1), source.argmax(1), adapted.argmax(1)

    def at(p, classes):
        return p.gather(1, classes[:, None])[:, 0]

    d = at(pa, c) - at(ps, c)
    qa, qs = adapted.softmax(0), source.softmax(0)
    ha, hs = right_entropy(adapted), right_entropy(source)
    wrong = {
        "all": torch.ones_like(d),
        "none": torch.zeros_like(d),
        "strict": d > 0,
        "reversed": [d <= 0, d < 0],
        "class_of_adapted": [at(pa, k) >= at(ps, k), at(pa, k) > at(ps, k)],
        "swapped": [at(ps, k) >= at(pa, k), at(ps, k) > at(pa, k)],
        "own_maximum": [pa.amax(1) >= ps.amax(1), pa.amax(1) > ps.amax(1)],
        "logits": [at(adapted, c) >= at(source, c), at(adapted, c) > at(source, c), adapted.amax(1) >= source.amax(1)],
        "entropies": [ha <= hs, ha < hs, ha >= hs, ha < 0.4 * math.log(5)],
        "same_class": c == k,
        "axis": [at(qa, c) >= at(qs, c), at(qa, qs.argmax(1)) >= at(qs, qs.argmax(1))],
        "relative": [d >= d.mean(), d > d.mean(), d >= d.median()],
        "fixed_threshold": [p >= t for p in (pa.amax(1), at(pa, c), at(ps, c)) for t in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)],
        "margin": [d >= t for t in (-0.2, -0.1, -0.05, -0.01, 0.01, 0.05, 0.1, 0.2, 0.5)],
    }
    _recognise(result.float(), {name: [v.float() for v in (found if isinstance(found, list) else [found])] for name, found in wrong.items()})


def _kept_mean(z: Tensor, keep: Tensor) -> Tensor:
    return (right_entropy(z) * keep).sum() / keep.sum().clamp(min=1)


def _filtered_step(fn) -> None:
    """The model has moved a little already, so that the filter drops something in the first batch."""
    batches = _numbers(2, 10, 4, seed=8, scale=1.0)
    source, start = _Tiny(1), _Tiny(1)
    with torch.no_grad():
        start.weight += 0.25 * _numbers(1, 3, 4, seed=11)[0]
    model, origin = deepcopy(start), source.numbers()
    optimizer = _Spy(model.parameters(), model.events)
    known = [(NO_GRADIENT, "no_gradient")]
    weights, answers, events, backwards = _watch_steps(lambda x: _call(fn, model, source, x, optimizer, known=known), model, batches)
    if not torch.equal(source.numbers(), origin) or any(p.grad is not None and bool(p.grad.any()) for p in source.parameters()):
        raise _Wrong("source_learns")
    _check_order(events, not torch.equal(weights[0], start.numbers()), backwards, not model.training)
    _name_filtered(weights, start, source, batches)
    with torch.no_grad():
        before, original = batches[0] @ start.weight.T + start.bias, batches[0] @ source.weight.T + source.bias
        one = weights[0]
        after = batches[0] @ one[:12].view(3, 4).T + one[12:]
    if isinstance(answers[0], Tensor) and answers[0].ndim == 2 and answers[0].shape == (int(right_filter(before, original).sum()), 3):
        raise _Wrong("returns_kept")
    if _same(answers[0], original):
        raise _Wrong("returns_source")
    _check_answer(answers[0], before, after)
    if source.recorded:
        raise _Wrong("grad_for_source")
    _check_empty(fn, source, batches[0])


def _check_empty(fn, source: _Tiny, x: Tensor) -> None:
    """A batch of which nothing is kept: the adapted model is far less sure everywhere."""
    dull = deepcopy(source)
    dull.events = []
    with torch.no_grad():
        for p in dull.parameters():
            p *= 0.3
    old = dull.numbers()
    _call(fn, dull, source, x.clone(), _Spy(dull.parameters(), dull.events))
    if not bool(torch.isfinite(dull.numbers()).all()):
        raise _Wrong("empty_nan")
    if not _same(dull.numbers(), old, 1e-7):
        raise _Wrong("moves_when_empty")


def _name_filtered(weights: list[Tensor], start: _Tiny, source: _Tiny, batches) -> None:
    """Compare the weights after each step with the right ones and with those of known mistakes."""

    def moved(rule: Callable, count: int = 2, **how) -> Tensor:
        """``rule(z, keep)`` is the loss; the mask is that of the model before the step."""
        model = deepcopy(start)
        found = model.numbers()
        for x in batches[:count]:
            z, s = (x @ m.weight.T + m.bias for m in (model, source))
            found = _moved(model, [x], lambda z, s=s: rule(z, right_filter(z.detach(), s.detach()), s.detach()), **how)
            with torch.no_grad():
                model.weight.copy_(found[:12].view(3, 4))
                model.bias.copy_(found[12:])
        return found

    def right(z, keep, s):
        return _kept_mean(z, keep)

    one, two = moved(right, 1), moved(right)
    if _same(weights[0], one) and _same(weights[1], two):
        return
    rules = {
        "keeps_all": lambda z, k, s: _mean_entropy(z),
        "divides_by_all": lambda z, k, s: (right_entropy(z) * k).mean(),
        "not_divided": lambda z, k, s: (right_entropy(z) * k).sum(),
        "reversed": lambda z, k, s: _kept_mean(z, ~k),
        "swapped": lambda z, k, s: _kept_mean(z, right_filter(s, z.detach())),
        "ascent": lambda z, k, s: -_kept_mean(z, k),
    }
    others = {"reversed": [lambda z, k, s: (right_entropy(z) * ~k).mean()], "keeps_all": [lambda z, k, s: right_entropy(z).sum()]}
    for mistake, rule in rules.items():
        _recognise(weights[0], {mistake: [moved(r, 1) for r in (rule, *others.get(mistake, ()))]})
    if _same(weights[0], one):
        raise _Wrong("no_zero_grad")
    raise _Wrong("other", compare="The weights after the first step differ; the loss is the mean of the entropies of the kept images.")


# --- module 3: collapse and choice ----------------------------------------------------------------------------------


def right_effective_classes(predictions: Tensor, n_classes: int) -> float:
    """exp(-sum_k s_k ln s_k), s the shares of the predicted classes: 1 to C.  (N,) class numbers -> number."""
    share = torch.bincount(predictions, minlength=n_classes).double() / len(predictions)
    return math.exp(-float(torch.special.xlogy(share, share).sum()))


def _effective_classes(fn) -> None:
    cases = [(torch.tensor([1] * 9 + [2] * 5 + [3] * 3 + [0] * 2 + [4]), 5), (torch.tensor([0] * 6 + [2] * 5 + [4] * 2 + [5] * 3), 7)]
    for predictions, classes in cases:
        given = predictions.clone()
        result = _call(fn, given, classes)
        if not torch.equal(given, predictions):
            raise _Wrong("changes_input")
        value = _one_number(result, predictions, classes)
        if abs(value - right_effective_classes(predictions, classes)) < CLOSE:
            continue
        if math.isnan(value):
            raise _Wrong("nan")
        _name_effective(value, predictions, classes)
        raise _Wrong("other", compare=f"For four classes that are predicted equally often it gives {_try_four(fn)}, expected is 4.")


def _try_four(fn) -> str:
    try:
        return f"{float(fn(torch.tensor([0, 1, 2, 3]), 4)):.3f}"
    except Exception:
        return "no number"


def _one_number(result, predictions, classes) -> float:
    try:
        if getattr(result, "shape", ()) and len(result) in (classes, int(predictions.unique().numel())) and classes > 1:
            raise _Wrong("not_summed")
        return float(result)
    except (TypeError, ValueError, RuntimeError) as why:
        raise _Wrong("other", compare=f"One number is expected, got {_kind(result)}.") from why


def _name_effective(value: float, predictions: Tensor, classes: int) -> None:
    count = torch.bincount(predictions, minlength=classes).double()
    seen = count[count > 0]
    s = seen / seen.sum()
    h = float(-(s * s.log()).sum())
    soft, n = count.softmax(0), len(predictions)
    h_soft, h_seen = (float(-(t * t.log()).sum()) for t in (soft, seen.softmax(0)))
    by_classes, zero = seen / classes, seen[1:] if count[0] else seen
    tail = zero / n
    numbers = predictions.double()
    wrong = {
        "no_exponential": [h, h / math.log(2)],
        "sign": [math.exp(-h), -h, 2 ** (-h / math.log(2))],
        "mixed_bases": [math.exp(h / math.log(2)), 2**h, 10**h],
        "different_classes": [float(len(seen))],
        "inverse_simpson": [float(1 / s.square().sum())],
        "largest_share": [float(1 / s.max()), float(s.max())],
        "softmax": [math.exp(h_soft), h_soft, math.exp(h_seen)],
        "normalised": [h / math.log(classes), math.exp(h) / classes],
        "counts": [_exp(float(-(seen * seen.log()).sum())), float(-(seen * seen.log()).sum())],
        "divided_by_classes": [_exp(float(-(by_classes * by_classes.log()).sum()))],
        "class_numbers": [
            _exp(float(right_entropy(numbers[None]))),
            float(numbers.mean()),
            float(right_entropy(numbers[None])),
            float(numbers.std()),
        ],
        "drops_a_class": [math.exp(float(-(t * t.log()).sum())) for t in (tail, zero / zero.sum(), s[:-1], s[:-1] / s[:-1].sum())],
    }
    for mistake, found in wrong.items():
        if any(value == v or math.isclose(value, v, rel_tol=CLOSE, abs_tol=1e-9) for v in found):
            raise _Wrong(mistake)


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


class _Falling:
    """A stand-in for an adapter: varied predictions at first, one class later, varied again after each reset. Writes down what is asked."""

    def __init__(self, healthy: int, shy: bool = False, size: int = 4):
        self.healthy, self.shy, self.size, self.log, self.age = healthy, shy, size, [], 0  # shy: two classes in the first batch

    def __call__(self, batch: Tensor) -> Tensor:
        self.log.append(int(batch[0]))
        kinds = torch.arange(self.size) if self.age < self.healthy else torch.tensor([2] * self.size)
        if self.age == self.healthy:
            kinds = torch.tensor([0, 1, 2, 2])
        if self.shy and not self.age:
            kinds = torch.tensor([0, 1, 1, 0])
        self.age += 1
        return nn.functional.one_hot(kinds % 4, 4).float() * 3

    def reset(self) -> None:
        self.log.append("reset")
        self.age = 0


def right_answers(model, batches, least: float, window: int, how: str = "") -> Tensor:
    """Predictions of all batches, (N,); the model is reset whenever the last ``window`` predictions hold fewer than ``least`` effective classes.
    ``how`` names a known mistake to make on purpose."""
    recent, answers = torch.zeros(0, dtype=torch.long), []
    for x in batches:
        logits = model(x)
        said = logits.argmax(1)
        answers.append(said)
        looked = recent if how == "one_late" else torch.cat([recent, said])
        recent = torch.cat([recent, said])
        part = {"whole_past": looked, "last_batch": said}.get(how, looked[-window:])
        enough = len(looked) >= window or how in ("too_early", "last_batch")
        number = right_effective_classes(part, logits.shape[1]) if len(part) else math.inf
        low = {"reversed": number >= least, "at_most": number <= least + 1e-9}.get(how, number < least - 1e-9)
        if how != "never" and (how == "always" or enough and low):
            model.reset()
            if how != "keeps_old":
                recent = recent[:0]
            if how == "asks_again":
                answers[-1] = model(x).argmax(1)
    return torch.cat(answers)


STREAMS = ((4, 2.0, 8, False), (9, 2.5, 12, False), (3, 4.0, 8, False), (5, 2.5, 12, True))  # healthy batches, least, window, shy
MISRESETS = ("never", "too_early", "always", "keeps_old", "one_late", "at_most", "reversed", "last_batch", "whole_past", "asks_again")


def _logs(answer: Callable) -> tuple[list, list]:
    """What a model is asked on each of `STREAMS`, and the answers."""
    logs, results = [], []
    for healthy, least, window, shy in STREAMS:
        model = _Falling(healthy, shy)
        results.append(answer(model, [torch.full((4, 1), float(i)) for i in range(24)], least, window))
        logs.append(model.log)
    return logs, results


def _resets(fn) -> None:
    ours, right = _logs(right_answers)
    logs, results = _logs(lambda *given: _call(fn, *given))
    if logs != ours:
        for how in MISRESETS:
            if _logs(lambda *given, how=how: right_answers(*given, how))[0] == logs:
                raise _Wrong("reset_without_brackets" if how == "never" and "reset" in getattr(fn, "__code__", fn).co_names else how)
        asked = [e for log in logs for e in log if e != "reset"]
        if len(asked) > 24 * len(STREAMS):
            raise _Wrong("asks_again")
        at = next(i for i, log in enumerate(logs) if log != ours[i])
        raise _Wrong(
            "other",
            compare=f"With {STREAMS[at][1]:g} classes at least and a window of {STREAMS[at][2]}, in a small case resets came after the "
            f"batches {_after(logs[at])}, expected after {_after(ours[at])}.",
        )
    for result, expected in zip(results, right, strict=True):
        if isinstance(result, list | tuple):
            raise _Wrong("not_joined")
        if not isinstance(result, Tensor):
            raise _Wrong("not_a_tensor", got=_kind(result))
        if result.ndim == 2:
            raise _Wrong("returns_logits" if result.is_floating_point() else "not_joined")
        if result.shape != expected.shape:
            raise _Wrong("lost_answers")
        if not torch.equal(result.long(), expected):
            raise _Wrong("other", compare="The resets come when they should; the returned classes differ.")


def _after(log: list) -> list[int]:
    return [log[i - 1] for i, event in enumerate(log) if event == "reset" and i]


def right_vote(predictions: dict[str, Tensor]) -> dict[str, float]:
    """Share of images on which each method says what most say; {name: (N,)} -> {name: 0..1}."""
    table = torch.stack(list(predictions.values()))
    winner = table.mode(0).values
    return {name: float((p == winner).float().mean()) for name, p in predictions.items()}


def _vote_table() -> dict[str, Tensor]:
    """Four methods, thirty images, no ties: on each image at least two agree and no other two do."""
    generator = torch.Generator().manual_seed(1)
    winner = torch.randint(0, 5, (30,), generator=generator)
    table = winner.repeat(4, 1)
    for i in range(30):  # one or two of the methods stray to a class of their own
        who = torch.randperm(4, generator=generator)[: int(torch.randint(0, 3, (1,), generator=generator))]
        for n, row in enumerate(sorted(who.tolist(), key=lambda r: (r + i) % 4)):
            table[row, i] = (winner[i] + 1 + n) % 5
    table[3, :14] = (winner[:14] + 3) % 5  # the last one is bad for a while
    table[:3, :14] = torch.where((table[:3, :14] == winner[:14]).sum(0) >= 2, table[:3, :14], winner[:14])
    table[0, :6] = (winner[:6] + 1) % 5  # and the first, with which one might compare all
    table[1:3, :6] = winner[:6]
    return dict(zip(("source", "tent", "filter", "fast"), table, strict=True))


def _vote(fn) -> None:
    predictions = _vote_table()
    given = {name: p.clone() for name, p in predictions.items()}
    result = _call(fn, given)
    if list(given) != list(predictions) or any(not torch.equal(given[n], p) for n, p in predictions.items()):
        raise _Wrong("changes_input")
    if isinstance(result, str):
        raise _Wrong("only_best")
    if not isinstance(result, dict):
        raise _Wrong("not_a_dict", got=_kind(result))
    if set(result) != set(predictions):
        raise _Wrong("names")
    if any(getattr(v, "ndim", 0) for v in result.values()):
        raise _Wrong("not_averaged")
    found = torch.tensor([float(result[n]) for n in predictions])
    right = torch.tensor(list(right_vote(predictions).values()))
    if not _same(found, right):
        _name_vote(found, right, predictions)
        raise _Wrong("other", compare=f"The largest share you found is {float(found.max()):.3f}, expected is {float(right.max()):.3f}.")


def _name_vote(found: Tensor, right: Tensor, predictions: dict) -> None:
    table = torch.stack(list(predictions.values()))
    m, n = table.shape
    pairs = (table[:, None] == table[None]).float().mean(2)
    without = torch.stack([(row == table[torch.arange(m) != i].mode(0).values).float().mean() for i, row in enumerate(table)])
    mean = table.float().mean(0)
    wrong = {
        "percent": 100 * right,
        "counts": n * right,
        "disagreement": [1 - right, 100 * (1 - right), n * (1 - right)],
        "pairs": [pairs.mean(1), (pairs.sum(1) - 1) / (m - 1), pairs.sum(1), pairs.sum(1) - 1],
        "first_candidate": [*pairs, *(100 * pairs)],
        "without_self": without,
        "wrong_axis": (table == table.mode(1).values[:, None]).float().mean(1),
        "mean_class": [(table == c).float().mean(1) for c in (mean.round().long(), mean.long(), table.median(0).values)],
        "commonest_overall": (table == table.flatten().mode().values).float().mean(1),
        "unanimous": (table == table[0]).all(0).float().mean().expand(m),
    }
    _recognise(found, wrong)


# --- names ----------------------------------------------------------------------------------------------------------

EXERCISES: dict[str, tuple[Callable, dict]] = {
    "entropy": (_entropy, words.ENTROPY),
    "tent_step": (_step, words.STEP),
    "crowd_filter": (_filter, words.FILTER),
    "filtered_step": (_filtered_step, words.FILTERED),
    "effective_classes": (_effective_classes, words.EFFECTIVE),
    "answer_with_resets": (_resets, words.RESETS),
    "vote": (_vote, words.VOTE),
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
    """``tent_step(model, images, optimizer)`` -> logits of before one step on the mean entropy, detached.  (B, C)"""
    return check("tent_step", tent_step)


def check_filter(crowd_filter: Callable) -> Verdict:
    """``crowd_filter(adapted_logits, source_logits)`` -> which images are kept.  (B, C), (B, C) -> (B,)"""
    return check("crowd_filter", crowd_filter)


def check_filtered_step(filtered_step: Callable) -> Verdict:
    """``filtered_step(model, source, images, optimizer)`` -> logits of before one step on the mean entropy of the kept images.  (B, C)"""
    return check("filtered_step", filtered_step)


def check_effective_classes(effective_classes: Callable) -> Verdict:
    """``effective_classes(predictions, n_classes)`` -> exp of the entropy of the classes' shares.  (N,) -> number"""
    return check("effective_classes", effective_classes)


def check_resets(answer_with_resets: Callable) -> Verdict:
    """``answer_with_resets(model, batches, least, window)`` -> classes of all images; resets on the way.  (N,)"""
    return check("answer_with_resets", answer_with_resets)


def check_vote(vote: Callable) -> Verdict:
    """``vote(predictions)`` -> share of images on which each method says what most say.  {name: (N,)} -> {name: share}"""
    return check("vote", vote)
