"""The check of ``crowd_filter``: the decisions on three small batches, and that they are
decisions."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..core.scores import entropy as right_entropy
from .judging import Instead, Wrong, call, kind, name, numbers, two, variants


def right_filter(adapted: Tensor, source: Tensor) -> Tensor:
    """keep_i = [p^_i[c_i] >= p~_i[c_i]], c_i the original model's class.  (B, C), (B, C) -> bool
    (B,); arXiv 2308.06879."""
    before, classes = source.softmax(1).max(1)
    return adapted.softmax(1).gather(1, classes[:, None])[:, 0] >= before


def _probe(images: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    source, change = numbers(2, images, classes, seed=seed, scale=1.5)
    adapted = source + 0.7 * change + 0.2 * (source - source.mean(1, keepdim=True))
    adapted += 0.8 * change[:, :1]  # moves all logits of an image alike, which no probability sees
    adapted[::8] = source[::8]  # as in the first step: these have not moved
    for row, small in zip(range(1, images, 4),
                          (2e-4, -2e-4, -2e-3, 2e-3, -0.02, 0.02, -0.06, 0.06, -0.2), strict=False):
        adapted[row] = source[row]  # and these a little, up or down
        adapted[row, int(source[row].argmax())] += small
    return adapted, source


PROBES = [_probe(48, 5, 5), _probe(37, 10, 6), _probe(64, 3, 7)]


def _at(table: Tensor, classes: Tensor) -> Tensor:
    return table.gather(1, classes[:, None])[:, 0]


# (table of adapted, table of source, their logits) -> the two numbers of each image that are
# compared
LOOK = {
    "": lambda a, s, za, zs: (_at(a, zs.argmax(1)), _at(s, zs.argmax(1))),
    "class_of_adapted": lambda a, s, za, zs: (_at(a, za.argmax(1)), _at(s, za.argmax(1))),
    "own_maximum": lambda a, s, za, zs: (_at(a, za.argmax(1)), _at(s, zs.argmax(1))),
    "crossed_classes": lambda a, s, za, zs: (_at(a, zs.argmax(1)), _at(s, za.argmax(1))),
    "least_class": lambda a, s, za, zs: (_at(a, zs.argmin(1)), _at(s, zs.argmin(1))),
    "class_along_images": lambda a, s, za, zs:
    (_at(a,
         zs.softmax(0).argmax(1)), _at(s,
                                       zs.softmax(0).argmax(1))),
    "mean_over_classes": lambda a, s, za, zs: (a.mean(1), s.mean(1)),
    "first_class": lambda a, s, za, zs: (a[:, 0], s[:, 0]),
}
TABLES = [
    ("", lambda z: z.softmax(1)),
    ("logits", lambda z: z),
    ("axis", lambda z: z.softmax(0)),
    ("sigmoid", lambda z: z.sigmoid()),
    ("softmax_twice", lambda z: z.softmax(1).softmax(1)),
    ("over_all", lambda z: z.flatten().softmax(0).view_as(z)),
]
MARGINS = (1e-4, 1e-3, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
COMPARE = [
    ("", lambda x, y: x >= y),
    ("strict", lambda x, y: x > y),
    ("reversed", lambda x, y: x <= y),
    ("reversed", lambda x, y: x < y),
    ("equal_only", lambda x, y: x == y),
    ("unequal", lambda x, y: x != y),
    *(("margin", lambda x, y, m=m: x - y >= m) for m in (*MARGINS, *(-m for m in MARGINS))),
    *(("margin", lambda x, y, m=m: x - y > m) for m in (*MARGINS, *(-m for m in MARGINS))),
    *(("ratio", lambda x, y, r=r: x >= r * y)
      for r in (0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.01, 1.05, 1.1, 1.2, 1.5, 2)),
    *(("distance", lambda x, y, m=m: (x - y).abs() <= m) for m in MARGINS),
    *(("distance", lambda x, y, m=m: (x - y).abs() >= m) for m in MARGINS),
    *(("distance", lambda x, y, m=m: (x - y).abs() > m) for m in (0, *MARGINS)),
    ("relative", lambda x, y: x - y >= (x - y).mean()),
    ("relative", lambda x, y: x - y > (x - y).mean()),
    ("relative", lambda x, y: x - y >= (x - y).median()),
    ("relative", lambda x, y: x - y > (x - y).median()),
    ("relative", lambda x, y: x >= y.mean()),
    ("relative", lambda x, y: x.mean() >= y),
    *(("fixed_threshold", lambda x, y, t=t: x >= t)
      for t in (0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95, 0.99)),
    *(("fixed_threshold", lambda x, y, t=t: x > t)
      for t in (0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95, 0.99)),
    *(("fixed_threshold", lambda x, y, t=t: y >= t)
      for t in (0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95, 0.99)),
]
FACTORS = {
    "look": list(LOOK.items()),
    "table": TABLES,
    "compare": COMPARE,
    "order": [("", False), ("swapped", True)],
    "scope": [
        ("", lambda k: k),
        ("one_decision", lambda k: k.all()),
        ("one_decision", lambda k: k.any()),
        ("one_decision", lambda k: k.float().mean() >= 0.5),
        ("one_for_all", lambda k: k.all().expand(len(k))),
        ("one_for_all", lambda k: k.any().expand(len(k))),
    ],
}


def _special(a: Tensor, s: Tensor) -> dict[str, list]:
    pa = a.softmax(1)
    ps = s.softmax(1)
    ha = right_entropy(a)
    hs = right_entropy(s)
    c = s.argmax(1)
    most = math.log(a.shape[1])
    d = _at(pa, c) - _at(ps, c)
    every = torch.ones(len(a), dtype=torch.bool)
    same = a.argmax(1) == c
    return {
        "all": [every],
        "none": [~every],
        "entropies": [
            ha <= hs,
            ha < hs,
            ha >= hs,
            ha > hs,
            *(ha < f * most for f in (0.3, 0.4, 0.5)),
            *(ha <= f * most for f in (0.4, 0.5)),
        ],
        "same_class": [same],
        "other_class": [~same],
        "same_class_too": [same & (d >= 0), same & (d > 0), same & (pa.amax(1) >= ps.amax(1))],
        "or_same_class": [same | (d >= 0)],
        "entropies_too": [
            (d >= 0) & (ha <= hs),
            (d >= 0) & (ha < hs),
            *((d >= 0) & (ha < f * most) for f in (0.3, 0.4, 0.5)),
            (d >= 0) | (ha <= hs),
        ],
        "confident_too": [(d >= 0) & (pa.amax(1) >= t) for t in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)],
        "every_class": [(pa >= ps).all(1), (a >= s).all(1)],
        "any_class": [(pa >= ps).any(1), (pa > ps).any(1)],
        "rows": [pa >= ps, pa > ps, pa - ps >= 0],
        "one_for_all": [(d.mean() >= 0).expand(len(a)), (d.sum() >= 0).expand(len(a)),
                        (d.mean() > 0).expand(len(a))],
        "one_decision": [d.mean() >= 0, d.sum() >= 0, d.mean() > 0],
    }


def mutants():
    """(names, function) of known mistakes, the simplest first."""

    def build(how):
        def mutant(a, s):
            za, zs = (s, a) if how["order"] else (a, s)
            x, y = how["look"](how["table"](za), how["table"](zs), za, zs)
            return how["scope"](how["compare"](x, y)).float()

        return mutant

    special = [(n, i) for n, made in _special(*PROBES[0]).items() for i in range(len(made))]
    for count in (1, 2):
        if count == 1:
            yield from (((n,), lambda a, s, n=n, i=i: _special(a, s)[n][i].float())
                        for n, i in special)
        for names, how in variants(FACTORS, count):
            if sum(how[place] is not choices[0][1] for place, choices in FACTORS.items()) == count:
                yield names, build(how)


def check(fn: Callable) -> None:
    found = []
    for adapted, source in PROBES:
        given = adapted.clone(), source.clone()
        result = call(fn, *given)
        if not (torch.equal(given[0], adapted) and torch.equal(given[1], source)):
            raise Wrong("changes_input")
        if isinstance(result, bool):
            raise Wrong("one_decision")
        if not isinstance(result, Tensor):
            raise Wrong("not_a_tensor", got=kind(result))
        found.append(result)
    rights = [right_filter(*probe) for probe in PROBES]
    if all(f.shape == r.shape and f.dtype == r.dtype and torch.equal(f, r)
           for f, r in zip(found, rights, strict=True)):
        return
    _check_form(found, rights)
    if all(bool(f.all()) for f in found):
        _check_all(fn, rights)
    decided = [f.float() for f in found]
    if all(torch.equal(f, r.float()) for f, r in zip(decided, rights, strict=True)):
        raise Wrong("not_bool", dtype=str(found[0].dtype).removeprefix("torch."))
    name(decided, PROBES, mutants())
    raise Wrong("other", compare=_compare(decided, rights))


def _check_all(fn: Callable, rights: list[Tensor]) -> None:
    """Why every image is kept: a cause is named if without it the decisions are others."""
    if _decides(fn, Instead(("abs", "__abs__", "absolute"), lambda x: x), rights):
        raise Wrong("absolute")
    every = [(a.softmax(1) >= s.softmax(1)).all(1) for a, s in PROBES]
    if _decides(fn, Instead(("any",), torch.all), every):
        raise Wrong("any_class")


def _decides(fn: Callable, instead: Instead, wanted: list[Tensor]) -> bool:
    """Whether a function decides as ``wanted`` with another function in place of one that it
    calls."""
    try:
        with instead:
            made = [fn(*(t.clone() for t in probe)).float() for probe in PROBES]
    except Exception:  # what does not run with the other function is not explained by it
        return False
    return all(torch.equal(m, w.float()) for m, w in zip(made, wanted, strict=True))


def _check_form(found: list[Tensor], rights: list[Tensor]) -> None:
    """Results that are no decisions, or not one for each image."""
    differences = [
        _at(a.softmax(1), s.argmax(1)) - _at(s.softmax(1), s.argmax(1)) for a, s in PROBES
    ]
    if all(
        f.shape == d.shape and torch.allclose(f.double(), d.double(), atol=1e-5)
        for f, d in zip(found, differences, strict=True)
    ):
        raise Wrong("not_a_decision")
    positions = [r.nonzero()[:, 0] for r in rights]
    if all(f.numel() == p.numel() and not f.dtype.is_floating_point
           and torch.equal(f.flatten().long(), p) for f, p in zip(found, positions, strict=True)):
        raise Wrong("indices")
    kept = [[t[r] for t in (a, s, a.softmax(1), s.softmax(1))]
            for (a, s), r in zip(PROBES, rights, strict=True)]
    if all(
        any(f.shape == k.shape and torch.allclose(f.double(), k.double()) for k in kinds)
        for f, kinds in zip(found, kept, strict=True)
    ):
        raise Wrong("kept_rows")
    if all(f.shape == (len(r), 1) and torch.equal(f[:, 0].float(), r.float())
           for f, r in zip(found, rights, strict=True)):
        raise Wrong("keepdim")
    if all(f.shape == a[0].shape for f, (a, _) in zip(found, PROBES, strict=True)):
        raise Wrong("one_per_class")
    for f, r, (a, _) in zip(found, rights, PROBES, strict=True):
        n = len(r)
        if f.numel() == 1:
            raise Wrong("one_decision")
        if f.shape == (n, n):
            raise Wrong("square", shape=(n, n), images=n)
        if f.shape == a.shape:
            raise Wrong("per_class")
        if f.shape != r.shape:
            raise Wrong("shape", shape=tuple(f.shape), wanted=f"one decision per image, ({n},) "
                                                              f"for {n} images,")
        if not bool(((f == 0) | (f == 1)).all()):
            raise Wrong("numbers", dtype=str(f.dtype).removeprefix("torch."))


def _compare(found: list[Tensor], rights: list[Tensor]) -> str:
    for (a, s), f, r in zip(PROBES, found, rights, strict=True):
        wrong = (f != r).nonzero().flatten()
        if len(wrong):
            i = int(wrong[-1])
            c = int(s[i].argmax())
            before, now = s[i].softmax(0)[c], a[i].softmax(0)[c]
            words = two(now, before) if now != before else (f"{now:.6f}", "also that")
            return (
                f"{len(wrong)} of {len(r)} images are decided differently. For one of them the "
                f"original model says class {c}, "
                f"to which the adapted one gives {words[0]} and the original {words[1]}: expected "
                f"is {bool(r[i])}, yours is {bool(f[i])}."
            )
    return ""
