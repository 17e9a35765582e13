"""The checks of ``tent_step`` and ``filtered_step``: a tiny network with batch statistics, an
optimiser that takes notes.

What is compared is local: before each call the network is copied, and the gradient that reaches
the optimiser is compared with those of the right loss and of known wrong ones *at that state*, as
is the answer. So one mistake does not hide behind the drift that it causes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.scores import entropy
from .filter_check import right_filter
from .judging import Wrong, call, first_difference, kind, numbers, same, two

KNOWN = [(r"does not require grad|does not have a grad_fn", "no_history"),
         ("only for scalar "
          "outputs", "not_scalar")]
RATE = 0.3


class Events(list):
    """What a network was asked. Its copy is asked in silence, but the first learns that there was
    one."""

    def __init__(self, first: Events | None = None):
        super().__init__()
        self.first = first

    def __deepcopy__(self, memo):
        return Events(self)

    def append(self, event: str) -> None:
        super().append(event)
        if self.first is not None and event.startswith("forward"):
            self.first.append("copy asked")


class Tiny(nn.Module):
    """4 numbers to 3 classes; a normalisation with the statistics of the batch, whose scale and
    shift alone are tuned."""

    def __init__(self, seed: int = 1):
        super().__init__()
        first, last, scale, shift = numbers(4, 5, 5, seed=seed, scale=0.8)
        self.first, self.last = (nn.Parameter(w, requires_grad=False)
                                 for w in (first[:, :4].clone(), last[:3].clone()))
        self.scale, self.shift = nn.Parameter(1 + 0.5 * scale[0]), nn.Parameter(0.5 * shift[0])
        self.events: list[str] = Events()

    def forward(self, x):
        self.events.append(f"forward {'train' if self.training else 'eval'} {len(x)}")
        h = x @ self.first.T
        h = (h - h.mean(0)) / (h.var(0, unbiased=False) + 1e-5).sqrt()
        out = (h * self.scale + self.shift) @ self.last.T
        self.events.append("recorded" if out.requires_grad else "not recorded")
        return out

    def tuned(self) -> list[nn.Parameter]:
        return [self.scale, self.shift]

    def numbers(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.parameters()]).clone()

    def copy(self) -> Tiny:
        """The same network with nobody watching."""
        made = deepcopy(self)
        made.events = Events()
        for p in made.parameters():
            p.grad = None
        return made


def spying(kind: type, events: list, seen: list):
    """An optimiser class that writes down what it is asked, and the gradient that it has when it
    steps."""

    class Spy(kind):
        def step(self, closure=None):
            if closure is not None:
                with torch.enable_grad():
                    value = closure()
            self.written(events, seen)
            super().step()
            events.append("stepped")
            return value if closure is not None else None

        def written(self, events, seen):
            ps = [p for group in self.param_groups for p in group["params"]]
            events.append("step")
            seen.append(None if all(p.grad is None
                                    for p in ps) else torch.cat([_grad(p) for p in ps]))

        def zero_grad(self, set_to_none: bool = True):
            events.append("zero")
            super().zero_grad(set_to_none)

    Spy.__name__ = kind.__name__
    return Spy


def _grad(p: Tensor) -> Tensor:
    return (torch.zeros_like(p) if p.grad is None else p.grad).detach().flatten().clone()


@dataclass
class Call:
    """One call of the student's step, and what was there before it."""

    x: Tensor
    model: Tiny  # a copy from before
    source: Tiny | None
    events: list[str] = field(default_factory=list)
    # at each step of the optimiser; None: there was none
    gradients: list = field(default_factory=list)
    losses: list[float] = field(default_factory=list)  # of which backward was asked
    answer: object = None
    after: Tiny | None = None

    def logits(self, who: str = "model", x: Tensor | None = None) -> Tensor:
        with torch.no_grad():
            return getattr(self, who)(self.x if x is None else x)

    def gradient(self, loss: Callable) -> Tensor:
        """Of ``loss(logits, source's logits, network, images)`` at the state of before, for the
        tuned parameters."""
        with torch.enable_grad():
            value = loss(self.model(self.x), None if self.source is None else self.logits("source"),
                         self.model, self.x)
            made = (
                torch.autograd.grad(value, self.model.tuned(), allow_unused=True)
                if value.requires_grad
                else (None, None)
            )
        return torch.cat(
            [
                torch.zeros_like(p).flatten() if g is None else g.flatten()
                for g, p in zip(made, self.model.tuned(), strict=True)
            ]
        )

    @property
    def moved(self) -> bool:
        return not torch.equal(self.model.numbers(), self.after.numbers())


@contextmanager
def _listening(events: list[str], losses: list[float]) -> Iterator[None]:
    """Write down calls of backward, whoever makes them."""
    kept = torch.autograd.backward, torch.autograd.grad

    def listens(fn):
        def called(what, *args, **settings):
            events.append("backward")
            losses.extend(
                float(v.detach().sum()) for v in ([what] if isinstance(what, Tensor) else what))
            return fn(what, *args, **settings)

        return called

    torch.autograd.backward, torch.autograd.grad = map(listens, kept)
    try:
        yield
    finally:
        torch.autograd.backward, torch.autograd.grad = kept


def watch(
    fn: Callable,
    optimizer: type,
    training: bool,
    batches: list[Tensor],
    sources: list[Tiny] | None = None,
    where="",
    moved=0.4,
) -> list[Call]:
    """Call a student's step on each batch; raise what is a mistake whatever the numbers are."""
    model = Tiny()
    if sources:
        with torch.no_grad():
            model.scale += moved * numbers(1, 5, seed=13)[0]
            model.shift += moved * numbers(1, 5, seed=14)[0]
    for net in (model, *(sources or ())):
        net.train(training)
    seen: list = []
    optimizer = spying(optimizer, model.events, seen)(model.tuned(), lr=RATE)
    settings = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    for p in model.tuned():
        p.register_hook(lambda g: model.events.append("gradient" if bool(g.any()) else "zeros"))
    calls = []
    for i, x in enumerate(batches):
        source = sources[i] if sources else None
        made = Call(x, model.copy(), source.copy() if source else None)
        model.events.clear(), seen.clear()
        given = x.clone()
        inputs = (model, source, given, optimizer) if source else (model, given, optimizer)
        with _listening(model.events, made.losses):
            made.answer = call(fn, *inputs, known=KNOWN,
                               where=where if i == len(batches) - 1 else "")
        made.events = list(model.events)
        made.gradients = list(seen)
        made.after = model.copy()
        if not torch.equal(given, x):
            raise Wrong("changes_input")
        _check_modes(made, training, model, source)
        if source is not None:
            _check_source(made, source)
        if [p.requires_grad
                for p in model.parameters()] != [p.requires_grad for p in made.model.parameters()]:
            raise Wrong("flags")
        if [{k: v for k, v in g.items() if k != "params"}
                for g in optimizer.param_groups] != settings:
            raise Wrong("optimizer_settings")
        calls.append(made)
    return calls


def _check_modes(made: Call, training: bool, model: Tiny, source: Tiny | None) -> None:
    was = "train" if training else "eval"
    for net, events, who in ((model, made.events, "model"),
                             (source, source.events if source else [], "source")):
        if net is None:
            continue
        during = [e.split()[1] for e in events if e.startswith("forward")]
        now = "train" if net.training else "eval"
        if now != was or any(m != was for m in during):
            raise Wrong("mode", who=who, was=was, now=next((m for m in during if m != was), now))


def _check_source(made: Call, source: Tiny) -> None:
    if not torch.equal(source.numbers(), made.source.numbers()):
        raise Wrong("source_moves")
    if any(p.grad is not None and bool(p.grad.any()) for p in source.parameters()):
        raise Wrong("source_learns")


# --- the way to the step ------------------------------------------------------------------------


def check_way(made: Call) -> None:
    """Mistakes in the order of backward and step, seen in a call in which something should be
    learned."""
    events, steps = made.events, made.events.count("step")
    sizes = [int(e.split()[2]) for e in events if e.startswith("forward")]
    if not sizes:
        raise Wrong("copy_asked" if "copy asked" in events else "never_asked")
    if not bool(torch.isfinite(made.after.numbers()).all()):
        raise Wrong("nan")
    if steps == 0 and made.moved:
        raise Wrong("own_optimizer")
    if steps > 1:
        raise Wrong("many_steps", steps=steps)
    if len(made.x) > 1 and set(sizes) == {1}:
        raise Wrong("batch_of_one")
    if "backward" not in events:
        raise Wrong("no_backward" if steps else "nothing_learned")
    if "gradient" not in events:
        raise Wrong("zero_gradient" if "zeros" in events else _why_no_gradient(made))
    if steps == 0:
        raise Wrong("no_step")
    if made.gradients[0] is None or not bool(made.gradients[0].any()):
        raise Wrong("step_before_backward" if events.index("step") <
                    events.index("gradient") else "zeroed_before_step")
    if events.index("step") < events.index("gradient"):
        raise Wrong("step_before_backward")


def _why_no_gradient(made: Call) -> str:
    """Where the history was lost, if the loss has the right value: it was made of the logits,
    then."""
    H = entropy(made.logits())
    keep = (torch.ones(len(H)) if made.source is None else right_filter(
        made.logits(), made.logits("source")))
    values = float(H.mean()), float((H * keep).sum() / keep.sum())
    if not any(math.isclose(loss, v, rel_tol=1e-4) for loss in made.losses for v in values):
        return "no_gradient"
    return "cut_off" if "recorded" in made.events else "not_recorded"


# --- the gradient -------------------------------------------------------------------------------


def name_gradients(calls: list[Call], losses: dict[str, list[Callable]],
                   scales: dict[str, Callable]) -> None:
    """Raise what is wrong with the gradients; ``losses[""][0]`` is right, ``scales``: name ->
    factor of a call."""
    found = [c.gradients[0] for c in calls]
    # if nobody cleared
    fresh = [found[0], *(b - a for a, b in zip(found, found[1:], strict=False))]
    right = [c.gradient(losses[""][0]) for c in calls]
    if all(same(f, r, 1e-3) for f, r in zip(found, right, strict=True)):
        return
    if all(float(f.norm()) < 1e-4 * float(r.norm()) for f, r in zip(found, right, strict=True)):
        raise Wrong("zero_gradient")
    for gradients, names in ((found, ()), (fresh, ("no_zero_grad",))):
        for exact in (True, False):  # first the known factors of every loss, then any factor
            for mistake, candidates in losses.items():
                for candidate in candidates:
                    factors = _factors(gradients, [c.gradient(candidate) for c in calls])
                    if not factors:
                        continue
                    scale, factor = (_scale(factors, calls, scales) if exact else _unknown_scale(
                        factors, calls, scales))
                    if scale is not None:
                        raise Wrong(*(n for n in (*names, mistake, *scale) if n),
                                    factor=f"{factor:.4g}")
    at = next(i for i, (f, r) in enumerate(zip(found, right, strict=True)) if not same(f, r, 1e-3))
    i = first_difference(found[at], right[at])
    seen, wanted = two(found[at][i], right[at][i])
    what = "scale" if i[0] < 5 else "shift"
    raise Wrong("other_gradient", step=("first", "second", "third")[at], seen=seen, wanted=wanted,
                what=f"{what} {i[0] % 5}")


def _factors(found: list[Tensor], candidate: list[Tensor]) -> list[float] | None:
    """k of each call with found = k candidate, or None."""
    ks = []
    for f, c in zip(found, candidate, strict=True):
        if not bool(c.any()) or not bool(torch.isfinite(c).all()) or float(c.norm()) < 1e-6:
            return None
        k = float(f @ c / (c @ c))
        if not float((f - k * c).norm()) <= 1e-3 * float(f.norm()) + 1e-7 or abs(k) < 1e-6:
            return None
        ks.append(k)
    return ks


def _scale(
    factors: list[float], calls: list[Call], scales: dict[str, Callable]
) -> tuple[tuple[str, ...] | None, float]:
    """Names of the known scale, with its sign; None when it is none of them."""
    for name, factor in scales.items():
        wanted = [factor(c) for c in calls]
        for sign, names in ((1, ()), (-1, ("ascent",))):
            if all(
                    math.isclose(k, sign * w, rel_tol=2e-3)
                    for k, w in zip(factors, wanted, strict=True)):
                return ((*names, name) if name else names), sign
    return None, 1.0


def _backwards(made: Call) -> float:
    return float(made.events.count("backward"))


def _unknown_scale(
    factors: list[float], calls: list[Call], scales: dict[str, Callable]
) -> tuple[tuple[str, ...], float]:
    """A known scale times a constant, or that the factor changes from step to step."""
    for name, factor in scales.items():
        ratio = [k / factor(c) for k, c in zip(factors, calls, strict=True)]
        if all(math.isclose(r, ratio[0], rel_tol=2e-3) for r in ratio):
            signs = ("ascent",) if ratio[0] < 0 else ()
            return (*signs, *((name, "scaled_too") if name else ("scaled",))), abs(ratio[0])
    return (("ascent",) if all(k < 0 for k in factors) else ()) + ("other_length",), abs(factors[0])


def _log(p: Tensor) -> Tensor:
    return p.clamp_min(1e-12).log()


def _of_mean(z: Tensor) -> Tensor:
    p = z.softmax(1).mean(0)
    return -(p * _log(p)).sum()


def _margin(z: Tensor) -> Tensor:
    best = z.softmax(1).topk(2, dim=1).values
    return best[:, 0] - best[:, 1]


def _pairs(z: Tensor) -> Tensor:
    return (z.softmax(0) * z.log_softmax(0)).sum()


PER_IMAGE: dict[str, list[Callable]] = {  # logits -> one value per image, in place of the entropy
    "pseudo_label": [lambda z: -z.log_softmax(1).amax(1)],
    "softmax_twice": [
        lambda z: entropy(z.softmax(1)),
        lambda z: -(z.softmax(1) * z.softmax(1).log_softmax(1)).sum(1),
        lambda z: F.cross_entropy(z.softmax(1), z.argmax(1), reduction="none"),
    ],
    "largest_probability": [lambda z: z.softmax(1).amax(1)],
    "largest_logit": [lambda z: z.amax(1)],
    "no_logarithm": [lambda z: z.softmax(1).square().sum(1), lambda z: (z.softmax(1) * z).sum(1)],
    "no_weights": [lambda z: z.log_softmax(1).sum(1)],
    "partly_detached": [
        lambda z: (z.softmax(1).detach() * z.log_softmax(1)).sum(1),
        lambda z: (z.softmax(1) * z.log_softmax(1).detach()).sum(1),
    ],
    "margin": [_margin],
    "squared": [
        lambda z: entropy(z).square(),
        lambda z: entropy(z).exp(),
        lambda z: entropy(z).sqrt(),
        lambda z: entropy(z).log(),
        lambda z: (-entropy(z)).exp(),
    ],
    "temperature": [lambda z, t=t: entropy(z / t) for t in (0.1, 0.2, 0.5, 1.5, 2, 3, 4, 5, 10)],
    "logsumexp": [lambda z: z.logsumexp(1)],
    "logits_mean": [lambda z: z.mean(1)],
    "logits_squared": [lambda z: z.square().sum(1)],
    "sigmoid": [
        lambda z: (z.sigmoid() * F.logsigmoid(z)).sum(1),
        lambda z: (z.sigmoid() * F.logsigmoid(z) + (-z).sigmoid() * F.logsigmoid(-z)).sum(1),
    ],
    "weighted": [
        lambda z: entropy(z) * (0.4 * math.log(3) - entropy(z).detach()).exp(),
        lambda z: entropy(z) * z.softmax(1).amax(1).detach(),
        lambda z: entropy(z) * z.softmax(1).amax(1),
        lambda z: entropy(z) * (-entropy(z).detach()).exp(),
    ],
    "spread": [lambda z: z.softmax(1).var(1), lambda z: z.var(1), lambda z: z.std(1),
        lambda z: z.softmax(1).std(1)],
}
OF_BATCH: dict[str, list[Callable]] = {
    "entropy_of_mean": [_of_mean, lambda z: entropy(z.mean(0, keepdim=True)).sum()],
    "with_diversity": [
        lambda z: entropy(z).mean() - _of_mean(z), lambda z: entropy(z).mean() + _of_mean(z)
    ],
    "axis": [_pairs, lambda z: entropy(z.T).mean()],
    "one_image": [lambda z, i=i: entropy(z)[i] for i in (0, -1)],
    "extreme": [
        lambda z: entropy(z).max(), lambda z: entropy(z).min(), lambda z: entropy(z).median()
    ],
    "norm": [
        lambda z: entropy(z).norm(),
        lambda z: entropy(z).var(),
        lambda z: entropy(z).std(),
        lambda z: entropy(z).mean().square(),
        lambda z: entropy(z).mean().exp(),
        lambda z: entropy(z).mean().log(),
    ],
    "uncertain_left_out": [
        lambda z, f=f: (entropy(z) * (entropy(z).detach() < f * math.log(3))).sum()
        for f in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    ],
    "half_of_them": [
        lambda z: entropy(z[:len(z) // 2]).sum(),
        lambda z: entropy(z[1:]).sum(),
        lambda z: entropy(z[:-1]).sum(),
        lambda z: entropy(z[::2]).sum(),
    ],
}


# --- the answer ---------------------------------------------------------------------------------


def check_answers(calls: list[Call], where: str = "") -> None:
    """The logits of before the step are wanted, cut off from their history."""
    answers = [c.answer for c in calls]
    for a in answers:
        if not isinstance(a, Tensor):
            raise Wrong("returns_number" if isinstance(a, int | float) else "not_a_tensor",
                        got=kind(a))
    right = [c.logits() for c in calls]
    if all(a.shape == r.shape and same(a, r) for a, r in zip(answers, right, strict=True)):
        if any(a.requires_grad for a in answers):
            raise Wrong("attached", where=where)
        return
    for mistake, makers in ANSWERS.items():
        for maker in makers:
            if all(same(a.float(), _made(maker, c)) for a, c in zip(answers, calls, strict=True)):
                raise Wrong(mistake, where=where, images=len(calls[0].x))
    for a, r in zip(answers, right, strict=True):
        if a.numel() == 1:
            raise Wrong("returns_number", got="a tensor with one number")
        if a.shape != r.shape:
            raise Wrong("shape", shape=tuple(a.shape), wanted=f"logits, (images, classes) = "
                                                              f"{tuple(r.shape)},")
        if not same(a, r):
            i = first_difference(a, r)
            seen, wanted = two(a[i], r[i])
            raise Wrong("other_answer", image=i[0], label=i[1], seen=seen, wanted=wanted,
                        where=where)


def _made(maker: Callable, made: Call) -> Tensor | None:
    before, after = made.logits(), made.logits("after")
    source = made.logits("source") if made.source else None
    try:
        return maker(before, after, source, made).float()
    except (TypeError, AttributeError, IndexError, RuntimeError):
        return None


def _kept(b, s):
    return right_filter(b, s)


ANSWERS: dict[str, list[Callable]] = {
    "after": [lambda b, a, s, c: a],
    "returns_source": [lambda b, a, s, c: s],
    "returns_loss": [
        lambda b, a, s, c: entropy(b),
        lambda b, a, s, c: entropy(b).mean(),
        lambda b, a, s, c: entropy(b).sum(),
        lambda b, a, s, c: entropy(b)[_kept(b, s)].mean(),
        lambda b, a, s, c: entropy(b)[_kept(b, s)],
        lambda b, a, s, c: entropy(a),
        lambda b, a, s, c: entropy(a).mean(),
    ],
    "returns_mask": [lambda b, a, s, c: _kept(b, s)],
    "returns_kept": [
        lambda b, a, s, c: b[_kept(b, s)],
        lambda b, a, s, c: c.logits("model", c.x[_kept(b, s)]),
        lambda b, a, s, c: a[_kept(b, s)],
        lambda b, a, s, c: c.logits("after", c.x[_kept(b, s)]),
    ],
    "returns_zeros": [
        lambda b, a, s, c: b * _kept(b, s)[:, None],
        lambda b, a, s, c: torch.where(_kept(b, s)[:, None], b, torch.nan),
    ],
    "mixes_source": [
        lambda b, a, s, c: torch.where(_kept(b, s)[:, None], b, s),
        lambda b, a, s, c: torch.where(_kept(b, s)[:, None], s, b),
        lambda b, a, s, c: (b + s) / 2,
        lambda b, a, s, c: b.softmax(1) + s.softmax(1),
        lambda b, a, s, c: b + s,
    ],
    "returns_probabilities": [lambda b, a, s, c: b.softmax(1)],
    "returns_probabilities_after": [lambda b, a, s, c: a.softmax(1)],
    "returns_log_probabilities": [
        lambda b, a, s, c: b.log_softmax(1), lambda b, a, s, c: a.log_softmax(1)
    ],
    "returns_classes": [
        lambda b, a, s, c: b.argmax(1),
        lambda b, a, s, c: a.argmax(1),
        lambda b, a, s, c: b.argmax(1, keepdim=True),
    ],
    "returns_confidence": [lambda b, a, s, c: b.softmax(1).amax(1), lambda b, a, s, c: b.amax(1)],
    "averages": [
        lambda b, a, s, c: (a + b) / 2,
        lambda b, a, s, c: b.mean(0),
        lambda b, a, s, c: b.mean(0, keepdim=True),
    ],
    "axis_of_softmax": [lambda b, a, s, c: b.softmax(0), lambda b, a, s, c: a.softmax(0)],
    "returns_images": [lambda b, a, s, c: c.x],
}


# --- tent_step ----------------------------------------------------------------------------------


def check_step(fn: Callable) -> None:
    """Plain SGD and Adam, in train mode and in eval mode, batches of different sizes."""
    small = [x[:n] for x, n in zip(numbers(3, 8, 4, seed=3, scale=1.0), (6, 8, 5), strict=True)]
    losses = {"": [lambda z, s, m, x: entropy(z).mean()]}
    losses |= {n: [lambda z, s, m, x, f=f: f(z).mean() for f in fs] for n, fs in PER_IMAGE.items()}
    losses |= {n: [lambda z, s, m, x, f=f: f(z) for f in fs] for n, fs in OF_BATCH.items()}
    losses["batch_of_one"] = [
        lambda z, s, m, x: torch.stack([entropy(m(x[i:i + 1])).sum()
                                        for i in range(len(x))]).mean()
    ]
    losses["half_of_them"] += [lambda z, s, m, x: entropy(m(x[: len(x) // 2])).mean()]
    scales = {
        "": lambda c: 1.0,
        "sum": lambda c: len(c.x),
        "mean_over_classes": lambda c: 1 / 3,
        "divided_twice": lambda c: 1 / len(c.x),
    }
    scales |= {
        "backward_twice": _backwards,
        "sum_of_classes": lambda c: len(c.x) / 3,
        "base_2": lambda c: 1 / math.log(2),
        "divided_by_ln_classes": lambda c: 1 / math.log(3),
    }
    for optimizer, training in ((torch.optim.SGD, False), (torch.optim.Adam, True)):
        calls = watch(fn, optimizer, training, small)
        for made in calls:
            check_way(made)
        name_gradients(calls, losses, scales)
        _check_moves(calls, optimizer)
        check_answers(calls)


def _check_moves(calls: list[Call], optimizer: type) -> None:
    """The weights move as the optimiser moves them, and not otherwise."""
    twin = calls[0].model.copy()
    steps = optimizer(twin.tuned(), lr=RATE)
    for made in calls:
        if not made.gradients:
            continue
        steps.zero_grad()
        for p, g in zip(twin.tuned(), made.gradients[0].split(5), strict=True):
            p.grad = g.clone()
        steps.step()
        if not same(twin.numbers(), made.after.numbers(), 1e-3):
            raise Wrong("moved_otherwise")


# --- filtered_step ------------------------------------------------------------------------------


def check_filtered_step(fn: Callable) -> None:
    """The network has moved a little already, so that the filter drops something in the first
    batch."""
    batches = [
        x[:n] for x, n in zip(numbers(3, 12, 4, seed=34, scale=1.0), (10, 12, 9), strict=True)
    ]
    scales = {
        "": lambda c: 1.0, "divides_by_all": lambda c: _share(c),
        "not_divided": lambda c: _share(c) * len(c.x)
    }
    scales |= {
        "mean_over_classes": lambda c: 1 / 3, "divided_twice": lambda c: 1 / (_share(c) * len(c.x))
    }
    scales["backward_twice"] = _backwards
    for optimizer, training in ((torch.optim.SGD, False), (torch.optim.Adam, True)):
        source = Tiny()
        calls = watch(fn, optimizer, training, batches, [source] * 3)
        try:
            for made in calls:
                check_way(made)
        except Wrong as found:
            if found.mistakes == ("nothing_learned",):
                _check_demands(fn)
            raise
        asked = any(e.startswith(("forward", "copy")) for e in source.events)
        try:
            _name_filtered(calls, scales)
        except Wrong as found:
            if asked:
                raise
            others = [m for m in found.mistakes if m != "other_gradient"]
            raise Wrong("source_never_asked", *others, **found.values) from found
        if not asked:
            raise Wrong("source_never_asked")
        _check_moves(calls, optimizer)
        check_answers(calls)
        if "recorded" in source.events:
            raise Wrong("grad_for_source")
    _check_few_and_all(fn)
    _check_nobody(fn)


def _check_few_and_all(fn: Callable) -> None:
    """Batches of which one image is kept, and all: in the first step both networks are the same."""
    for x, start, kept in ((_batch(1), 0.4, "one image"), (numbers(1, 7, 4,
                                                                   seed=2)[0], 0.0, "every image")):
        made = watch(fn, torch.optim.SGD, False, [x], [Tiny()], f" on a batch of which {kept} is "
                                                                f"kept", start)[0]
        right = made.gradient(_mean_over(right_filter))
        found = made.gradients[0] if made.gradients else None
        if found is None or len(made.gradients) > 1 or not bool(found.any()):
            raise Wrong("kept_but_idle", kept=kept)
        if not same(found, right, 1e-3):
            i = first_difference(found, right)
            seen, wanted = two(found[i], right[i])
            raise Wrong("kept_but_other", kept=kept, seen=seen, wanted=wanted)
        check_answers([made], f" on a batch of which {kept} is kept")


@cache
def _batch(kept: int, images: int = 6) -> Tensor:
    """Images of which so many are kept by a network that has moved a little."""
    made = watch(lambda m, s, x, o: m(x).detach(), torch.optim.SGD, False, numbers(1, 6, 4),
                 [Tiny()])[0]
    drawn = (numbers(1, images, 4, seed=seed, scale=1.0)[0] for seed in range(10_000))
    return next(x for x in drawn if int(right_filter(made.model(x), made.source(x)).sum()) == kept)


def _check_demands(fn: Callable) -> None:
    """How many of 6 images must be kept so that something is learned: one is enough."""
    tried = [[
        watch(fn, torch.optim.SGD, False, [x], [Tiny()])[0].moved
        for x in (_batch(k), _batch(k).flip(0))
    ] for k in range(1, 7)]
    least = tried.index([True, True]) + 1 if [True, True] in tried else 0
    if least and tried == [[False, False]] * (least - 1) + [[True, True]] * (7 - least):
        raise Wrong("all_in_place_of_any" if least == 6 else "asks_for_many", few=least - 1,
                    least=least)


def _share(made: Call) -> float:
    return float(right_filter(made.logits(), made.logits("source")).float().mean())


def _mean_over(mask: Callable) -> Callable:
    def loss(z, s, m, x):
        keep = mask(z.detach(), s)
        return (entropy(z) * keep).sum() / keep.sum().clamp(min=1)

    return loss


def _at_class(p: Tensor, c: Tensor) -> Tensor:
    return p.gather(1, c[:, None])[:, 0]


def _again(z, s, m, x):
    keep = right_filter(z.detach(), s)
    return entropy(m(x[keep])).mean()


def _right_rows(z, s):
    return right_filter(z.detach(), s)


def _name_filtered(calls: list[Call], scales: dict[str, Callable]) -> None:
    probability = lambda z: z.softmax(1)  # noqa: E731
    losses: dict[str, list[Callable]] = {
        "": [_mean_over(right_filter)],
        "keeps_all": [lambda z, s, m, x: entropy(z).mean()],
        "second_forward": [_again],
        "reversed": [_mean_over(lambda z, s: ~right_filter(z, s))],
        "swapped": [
            _mean_over(lambda z, s: right_filter(s, z)),
            _mean_over(lambda z, s: ~right_filter(s, z))
        ],
        "class_of_adapted": [
            _mean_over(lambda z, s: _at_class(probability(z), z.argmax(1)) >= _at_class(
                probability(s), z.argmax(1)))
        ],
        "own_maximum": [_mean_over(lambda z, s: probability(z).amax(1) >= probability(s).amax(1))],
        "mask_of_logits": [
            _mean_over(lambda z, s: _at_class(z, s.argmax(1)) >= s.amax(1)),
            _mean_over(lambda z, s: z.amax(1) >= s.amax(1)),
        ],
        "mask_of_entropies": [
            _mean_over(lambda z, s: entropy(z) <= entropy(s)),
            _mean_over(lambda z, s: entropy(z) >= entropy(s)),
            *(_mean_over(lambda z, s, f=f: entropy(z) < f * math.log(3)) for f in (0.3, 0.4, 0.5)),
        ],
        "same_class": [_mean_over(lambda z, s: z.argmax(1) == s.argmax(1))],
        "mask_of_probabilities": [
            _mean_over(lambda z, s: right_filter(z.softmax(1), s.softmax(1))),
            _mean_over(lambda z, s: right_filter(z.softmax(1), s)),
            _mean_over(lambda z, s: right_filter(z, s.softmax(1))),
        ],
        "entropy_of_source": [lambda z, s, m, x: entropy(s) @ _right_rows(z, s).float()],
        "entropy_of_mean": [
            lambda z, s, m, x: _of_mean(z[_right_rows(z, s)]),
            lambda z, s, m, x: entropy(z[_right_rows(z, s)].mean(0)[None]).sum(),
        ],
        "one_image": [
            lambda z, s, m, x: entropy(z[_right_rows(z, s)])[0],
            lambda z, s, m, x: entropy(z[_right_rows(z, s)])[-1],
        ],
        "first_images": [lambda z, s, m, x: entropy(z[:int(_right_rows(z, s).sum())]).mean()],
        "indices_of_mask": [lambda z, s, m, x: entropy(z)[_right_rows(z, s).long()].mean()],
        "weighted": [
            lambda z, s, m, x:
            (entropy(z) *
             (_at_class(probability(z), s.argmax(1)) - probability(s).amax(1)).detach()).mean(),
            lambda z, s, m, x: (entropy(z) * (_at_class(probability(z), s.argmax(1)) - probability(
                s).amax(1)).clamp(min=0).detach()).mean(),
        ],
        "difference_of_means": [
            lambda z, s, m, x: entropy(z)[_right_rows(z, s)].mean() - entropy(z)[~_right_rows(z, s)]
            .mean()
        ],
    }
    for n, fs in PER_IMAGE.items():
        losses[n] = (losses.get(n, []) +
                     [lambda z, s, m, x, f=f: f(z[_right_rows(z, s)]).mean() for f in fs])
    masked = {"masks_logits": [lambda z, s, m, x: entropy(z * _right_rows(z, s)[:, None]).mean()]}
    masked["masks_images"] = [lambda z, s, m, x: entropy(m(x * _right_rows(z, s)[:, None])).mean()]
    masked["masks_images"] += [
        lambda z, s, m, x: entropy(m(x * _right_rows(z, s)[:, None]))[_right_rows(z, s)].mean()
    ]
    masked["all_minus"] = [
        lambda z, s, m, x: entropy(z).mean() - (entropy(z) * _right_rows(z, s)).mean()
    ]
    values = [
        float(masked["masks_logits"][0](c.model(c.x).detach(), c.logits("source"), None, None))
        for c in calls
    ]
    gradients = [c.gradient(masked["masks_logits"][0]) for c in calls]
    if all(
            len(c.losses) == 1 and math.isclose(c.losses[0], v, rel_tol=1e-4)
            and same(c.gradients[0], g, 1e-3)
            for c, v, g in zip(calls, values, gradients, strict=True)):
        raise Wrong("masks_logits")
    name_gradients(calls, losses | masked, scales)


EMPTY = " on a batch in which nobody is kept"


def _check_nobody(fn: Callable) -> None:
    """A batch of which nobody is kept: as the first one, and after others, when Adam's moments are
    not 0."""
    batches = [
        x[:n] for x, n in zip(numbers(3, 12, 4, seed=34, scale=1.0), (10, 12, 9), strict=True)
    ]
    source = Tiny()
    sharp = source.copy()
    with torch.no_grad():
        sharp.last *= -60  # quite sure of what the adapted model finds least probable
    for optimizer, sources in ((torch.optim.SGD, [sharp]), (torch.optim.Adam,
                                                            [source, source, sharp])):
        *before, made = watch(fn, optimizer, False, batches[: len(sources)], sources, EMPTY)
        if not bool(torch.isfinite(made.after.numbers()).all()):
            raise Wrong("empty_nan")
        if any(not math.isfinite(value) for value in made.losses):
            raise Wrong("empty_nan_loss")
        if made.moved:
            gradient = made.gradients[0] if made.gradients else None
            if before and gradient is not None and same(gradient, before[-1].gradients[0], 1e-6):
                raise Wrong("empty_stale")
            raise Wrong("empty_momentum"
                        if gradient is None or not bool(gradient.any()) else "empty_learns")
        check_answers([made], EMPTY)
