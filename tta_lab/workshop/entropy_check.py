"""The check of ``entropy``: values, very sure images, gradient."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..core.scores import entropy as right_entropy
from .judging import (
    Instead,
    Wrong,
    call,
    first_difference,
    kind,
    name,
    numbers,
    same,
    two,
    variants,
)

SURE = torch.tensor(
    [[200.0, 0.0, -200.0], [0.0, 0.0, -200.0], [0.0, 0.0, 0.0], [1.0, 0.5, -0.5]]
)  # p = 0 in the first two
LARGE = torch.tensor([[200.0, 199.5, 199.0]])  # no p is 0, but exp(200) is infinite
EPSILONS = [m * 10.0**-e for e in range(1, 8) for m in (1, 2, 5)]

FACTORS = {
    "table": [  # logits -> (p, ln p)
        ("", lambda z: (z.softmax(1), z.log_softmax(1))),
        ("axis", lambda z: (z.softmax(0), z.log_softmax(0))),
        ("over_all", lambda z:
         (z.flatten().softmax(0).view_as(z), z.flatten().log_softmax(0).view_as(z))),
        ("mixed_axes", lambda z: (z.softmax(1), z.log_softmax(0))),
        ("mixed_axes", lambda z: (z.softmax(0), z.log_softmax(1))),
        ("softmax_twice", lambda z: (z.softmax(1).softmax(1), z.softmax(1).log_softmax(1))),
        ("softmax_twice", lambda z: (z.softmax(1), z.softmax(1).log_softmax(1))),
        ("softmax_twice", lambda z: (z.softmax(1).softmax(1), z.log_softmax(1))),
        ("sigmoid_first", lambda z: (z.sigmoid().softmax(1), z.sigmoid().log_softmax(1))),
        ("sigmoid", lambda z: (z.sigmoid(), torch.nn.functional.logsigmoid(z))),
        ("negative_logits", lambda z: ((-z).softmax(1), (-z).log_softmax(1))),
        ("logits_as_probabilities", lambda z: (z, z.log())),
        ("logits_as_probabilities", lambda z: (z, z.abs().log())),
        ("logits_as_probabilities", lambda z: (z, z.log_softmax(1))),
        ("logits_as_probabilities", lambda z: (z, z.softmax(1).log_softmax(1))),
        ("logits_as_probabilities", lambda z: (z.softmax(1), z.log())),
        ("logits_as_probabilities", lambda z: (z.softmax(1), z.abs().log())),
        ("not_normalised", lambda z: (z.exp(), z)),
        ("not_normalised", lambda z: (z.exp(), z.log_softmax(1))),
        ("divided_logits", lambda z: (z / z.sum(1, keepdim=True),
                                      (z / z.sum(1, keepdim=True)).log())),
        (
            "divided_logits",
            lambda z: (z.abs() / z.abs().sum(1, keepdim=True),
                       (z.abs() / z.abs().sum(1, keepdim=True)).log()),
        ),
        ("log_of_log", lambda z: (z.log_softmax(1), z.log_softmax(1))),
        ("log_of_log", lambda z: (z.log_softmax(1), z.log_softmax(1).abs().log())),
        ("log_of_log", lambda z: (z.log_softmax(1), z.log_softmax(1).log())),
        *(("temperature", lambda z, t=t: ((z / t).softmax(1), (z / t).log_softmax(1)))
          for t in (0.1, 0.2, 0.5, 1.5, 2, 3, 4, 5, 10)),
        ("temperature", lambda z: ((z / z.shape[1]**0.5).softmax(1),
                                   (z / z.shape[1]**0.5).log_softmax(1))),
        ("normalised_logits", lambda z: _table(z / z.norm(dim=1, keepdim=True))),
        ("normalised_logits", lambda z: _table(
            (z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True))),
        ("normalised_logits", lambda z: _table(z / z.amax(1, keepdim=True))),
        ("leaves_out_a_class", lambda z: _table(z[:, :-1])),
        ("leaves_out_a_class", lambda z: _table(z[:, 1:])),
        ("leaves_out_a_class", lambda z: _table(z[:, :2])),
        ("leaves_out_a_class", lambda z: (z.softmax(1)[:, :-1], z.log_softmax(1)[:, :-1])),
        ("leaves_out_a_class", lambda z: (z.softmax(1)[:, 1:], z.log_softmax(1)[:, 1:])),
    ],
    "term": [  # (p, ln p, logits) -> what is summed
        ("", lambda p, lp, z: p * lp),
        ("no_logarithm", lambda p, lp, z: p * p),
        ("logits_for_logarithm", lambda p, lp, z: p * z),
        ("no_logarithm", lambda p, lp, z: p),
        ("no_logarithm", lambda p, lp, z: p * (1 - p)),
        ("no_logarithm", lambda p, lp, z: -p * (1 - p)),
        ("no_weights", lambda p, lp, z: lp),
        ("squared_weights", lambda p, lp, z: p * p * lp),
        ("squared_weights", lambda p, lp, z: p * lp * lp),
        ("added", lambda p, lp, z: p + lp),
        ("log_of_sum", lambda p, lp, z: p * (1 + p).log()),
        ("each_against_rest", lambda p, lp, z: p * lp + (1 - p) * (1 - p).log()),
        ("rest", lambda p, lp, z: (1 - p) * (1 - p).log()),
        ("rest", lambda p, lp, z: p * (1 - p).log()),
        ("rest", lambda p, lp, z: (1 - p) * lp),
    ],
    "unit": [
        ("", lambda n: 1.0),
        ("base_2", lambda n: 1 / math.log(2)),
        ("base_10", lambda n: 1 / math.log(10)),
        ("divided_by_ln_classes", lambda n: 1 / math.log(n)),
    ],
    "sign": [("", -1.0), ("sign", 1.0)],
    "reduce": [
        ("", lambda t: t.sum(1)),
        ("mean_over_classes", lambda t: t.mean(1)),
        ("summed_over_images", lambda t: t.sum(0)),
        ("summed_over_images", lambda t: t.mean(0)),
        ("one_number", lambda t: t.sum()),
        ("one_number", lambda t: t.mean()),
        ("one_number", lambda t: t.sum(1).mean()),
        ("per_class", lambda t: t),
        ("only_largest", lambda t: t.amin(1)),
        ("only_largest", lambda t: t.amax(1)),
        ("only_first", lambda t: t[:, 0]),
        ("keepdim", lambda t: t.sum(1, keepdim=True)),
        ("keepdim", lambda t: t.sum(1)[None]),
        ("cumulative", lambda t: t.cumsum(1)),
    ],
}


def _table(z: Tensor) -> tuple[Tensor, Tensor]:
    return z.softmax(1), z.log_softmax(1)


def _margin(z: Tensor) -> Tensor:
    best = z.softmax(1).topk(2, dim=1).values
    return best[:, 0] - best[:, 1]


SPECIAL = {  # scores that are no entropy
    "pseudo_label": [
        lambda z: -z.log_softmax(1).amax(1),
        lambda z: z.log_softmax(1).amax(1),
        lambda z: -z.log_softmax(1).amax(1).mean(),
    ],
    "no_logarithm": [lambda z: 1 - z.softmax(1).square().sum(1)],
    "largest_probability": [
        lambda z: z.softmax(1).amax(1),
        lambda z: 1 - z.softmax(1).amax(1),
        lambda z: -z.softmax(1).amax(1),
    ],
    "largest_term": [lambda z: _picked(z), lambda z: -_picked(z)],
    "margin": [_margin, lambda z: 1 - _margin(z), lambda z: -_margin(z)],
    "distance_from_uniform": [
        lambda z: math.log(z.shape[1]) - right_entropy(z),
        lambda z: right_entropy(z) - math.log(z.shape[1]),
    ],
    "one_minus": [lambda z: 1 - right_entropy(z),
        lambda z: 1 - right_entropy(z) / math.log(z.shape[1])],
    "exponential": [lambda z: right_entropy(z).exp(), lambda z: (-right_entropy(z)).exp()],
    "squared": [lambda z: right_entropy(z).square(), lambda z: right_entropy(z).sqrt()],
    "logsumexp": [lambda z: z.logsumexp(1), lambda z: -z.logsumexp(1)],
    "spread": [lambda z: z.softmax(1).var(1), lambda z: z.softmax(1).std(1), lambda z: z.var(1),
        lambda z: z.std(1)],
    "divided_by_sum": [lambda z: right_entropy(z).softmax(0),
        lambda z: right_entropy(z) / right_entropy(z).sum()],
    "divided_by_images": [lambda z: right_entropy(z) / len(z)],
    "log_of_batch": [lambda z: right_entropy(z).log(), lambda z: -right_entropy(z).log()],
    "mean_first": [
        lambda z: right_entropy(z.mean(0, keepdim=True)),
        lambda z: right_entropy(z.mean(0, keepdim=True))[0],
        lambda z: right_entropy(z.softmax(1).mean(0, keepdim=True).log()),
        lambda z: right_entropy(z.softmax(1).mean(0).log()[None])[0],
    ],
    "same_for_all": [
        lambda z: right_entropy(z).mean().expand(len(z)),
        lambda z: right_entropy(z).sum().expand(len(z)),
        lambda z: right_entropy(z)[0].expand(len(z)),
    ],
    "one_image": [lambda z: right_entropy(z)[0], lambda z: right_entropy(z)[:1],
        lambda z: right_entropy(z)[-1]],
    "one_number": [lambda z: right_entropy(z).amax(), lambda z: right_entropy(z).median()],
    "order": [
        lambda z: right_entropy(z).flip(0),
        lambda z: right_entropy(z).sort().values,
        lambda z: right_entropy(z).sort(descending=True).values,
    ],
}


def _picked(z: Tensor) -> Tensor:
    p, best = z.softmax(1).max(1)
    return -p * p.log()


def mutants():
    """(names, function) of known mistakes, the simplest first."""

    def build(how):
        def mutant(z):
            p, lp = how["table"](z)
            return (
                how["sign"]
                * how["unit"](z.shape[1])
                * how["reduce"](how["term"](p, lp, z if p.shape == z.shape else p))
            )

        return mutant

    for count in (1, 2):
        for names, how in variants(FACTORS, count):
            if sum(how[place] is not choices[0][1] for place, choices in FACTORS.items()) == count:
                yield names, build(how)
        if count == 1:
            yield from (((found,), fn) for found, fns in SPECIAL.items() for fn in fns)


def with_epsilon(e: float) -> list[Callable]:
    """Entropies with a constant against ln 0."""

    def softmax(z):
        return z.softmax(1)

    return [
        lambda z: -(softmax(z) * (softmax(z) + e).log()).sum(1),
        lambda z: -((softmax(z) + e) * (softmax(z) + e).log()).sum(1),
        lambda z: -(softmax(z) * softmax(z).clamp(min=e).log()).sum(1),
        lambda z: -(softmax(z).clamp(min=e) * softmax(z).clamp(min=e).log()).sum(1),
        lambda z: -(softmax(z).clamp(e, 1 - e) * softmax(z).clamp(e, 1 - e).log()).sum(1),
        lambda z: -(softmax(z) * softmax(z).clamp(e, 1 - e).log()).sum(1),
        lambda z: torch.where(softmax(z) > e, -softmax(z) * z.log_softmax(1), 0.0).sum(1),
        lambda z: _renormalised(softmax(z) + e),
        lambda z: _renormalised(softmax(z).clamp(min=e)),
    ]


def _renormalised(p: Tensor) -> Tensor:
    p = p / p.sum(1, keepdim=True)
    return -(p * p.log()).sum(1)


PROBES = [
    (z,)
    for z in (
        *numbers(1, 5, 3),
        *numbers(1, 4, 7, seed=1, scale=1.5),
        *numbers(1, 6, 4, seed=2),
        *numbers(1, 2, 2, seed=3),
    )
]


def check(fn: Callable) -> None:
    found = []
    for (z,) in PROBES:
        given = z.clone()
        result = call(fn, given)
        if not isinstance(result, Tensor):
            raise Wrong("one_number" if isinstance(result, int | float) else "not_a_tensor",
                        got=kind(result))
        if not torch.equal(given, z):
            raise Wrong("changes_input")
        found.append(result)
    if not same(call(fn, PROBES[0][0].clone()), found[0], 1e-6) and bool(
            torch.isfinite(found[0]).all()):
        raise Wrong("random")
    rights = [right_entropy(z) for (z,) in PROBES]
    if not all(map(same, found, rights)):
        _name_values(fn, found, rights)
    _check_sure(fn)
    for z in (PROBES[0][0], SURE):
        _check_gradient(fn, z)


def _name_values(fn: Callable, found: list[Tensor], rights: list[Tensor]) -> None:
    values = torch.cat([f.double().flatten() for f in found])
    if (
        bool(torch.isfinite(values).all()) and float(values.max() - values.min()) < 1e-3
    ):  # equals too many things to be named, but for a sum that doubles with the probabilities
        with Instead(("softmax",), lambda z, *axis, **how: 2 * z.softmax(*axis, **how)):
            doubled = call(fn, PROBES[0][0].clone())
        ones = abs(abs(float(values.mean())) - 1) < 1e-4 and same(doubled, 2 * found[0])
        raise Wrong("sum_of_probabilities" if ones else "constant", value=f"{values.mean():.4g}")
    name(
        found,
        PROBES,
        ((("large_epsilon",), f) for e in EPSILONS for f in with_epsilon(e)),
        compare=_compare(found, rights, shapes=False),
    )
    name(found, PROBES, mutants())
    for (z,), result in zip(PROBES, found, strict=True):
        if result.numel() == 1:
            raise Wrong("one_number")
        if result.shape == z.shape and result.shape != (len(z),):
            raise Wrong("per_image_and_class")
        if result.shape != (len(z),):
            raise Wrong(
                "shape",
                shape=tuple(result.shape),
                wanted=f"one number per image, ({len(z)},) for logits of shape {tuple(z.shape)},",
            )
    if not all(bool(torch.isfinite(f).all()) for f in found):
        raise Wrong("not_finite")
    ratio = torch.cat([f.double() / r for f, r in zip(found, rights, strict=True)])
    if same(ratio, ratio.mean().expand_as(ratio)):
        raise Wrong("scaled", factor=f"{ratio.mean():.4g}")
    shift = torch.cat([f.double() - r for f, r in zip(found, rights, strict=True)])
    if same(shift, shift.mean().expand_as(shift)):
        raise Wrong("shifted", shift=f"{shift.mean():+.4g}")
    raise Wrong("other", compare=_compare(found, rights))


def _compare(found, rights, shapes=True) -> str:
    for (z,), f, r in zip(PROBES, found, rights, strict=True):
        if f.shape == r.shape and not same(f, r):
            i = first_difference(f, r)
            seen, wanted = two(f[i], r[i])
            return (f"For an image with the logits {_row(z[i])} it gives {seen}, expected is "
                    f"{wanted}.")
    return ""


def _row(z: Tensor) -> str:
    return "(" + ", ".join(f"{v:.4f}" for v in z.tolist()) + ")"


def _check_sure(fn: Callable) -> None:
    result, large = call(fn, SURE.clone()), call(fn, LARGE.clone())
    if not isinstance(result, Tensor) or result.shape != (len(SURE),):
        raise Wrong("other", compare=f"For {len(SURE)} images of which the model is very sure it "
                                     f"gives {kind(result)}.")
    if not bool(torch.isfinite(large).all()):
        raise Wrong("overflow")
    if not bool(torch.isfinite(result).all()):
        raise Wrong("nan")
    right = right_entropy(SURE)
    if same(result, right) and same(large, right_entropy(LARGE)):
        return
    z, found, right = ((SURE, result, right) if not same(result, right) else
                       (LARGE, large, right_entropy(LARGE)))
    seen, wanted = two(found[i := first_difference(found, right)], right[i])
    compare = f"For an image with the logits {_row(z[i])} it gives {seen}, expected is {wanted}."
    name(
        [result, large],
        [(SURE,), (LARGE,)],
        ((("large_epsilon",), f) for e in EPSILONS for f in with_epsilon(e)),
        compare=compare,
    )
    raise Wrong(
        "other", compare="For most images it is right, but not for one of which the model is very "
                         "sure. " + compare
    )


def _gradient(fn: Callable, z: Tensor) -> Tensor:
    leaf = z.clone().requires_grad_()
    return torch.autograd.grad(fn(leaf).sum(), leaf)[0]


def _check_gradient(fn: Callable, z: Tensor) -> None:
    leaf = z.clone().requires_grad_()
    result = call(fn, leaf, where=" when the logits carry a gradient")
    if not isinstance(result, Tensor) or not result.requires_grad:
        raise Wrong("detached")
    gradient = torch.autograd.grad(result.sum(), leaf, allow_unused=True)[0]
    if gradient is None:
        raise Wrong("detached")
    right = _gradient(right_entropy, z)
    if not bool(torch.isfinite(gradient).all()):
        raise Wrong("nan_gradient")
    if same(gradient, right, 1e-3):
        return
    partly = (
        lambda z: -(z.softmax(1).detach() * z.log_softmax(1)).sum(1),
        lambda z: -(z.softmax(1) * z.log_softmax(1).detach()).sum(1),
    )
    if any(same(gradient, _gradient(f, z), 1e-3) for f in partly):
        raise Wrong("partly_detached")
    i = first_difference(gradient, right)
    seen, wanted = two(gradient[i], right[i])
    raise Wrong(
        "wrong_gradient",
        compare=f"For the logits {_row(z[i[0]])} the derivative by logit {i[1]} is {seen}, "
                f"expected is {wanted}.",
    )
