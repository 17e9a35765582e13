"""What the checks of all exercises share: calling a student's function, comparing results, naming
a proven mistake.

A known mistake is a *mutant*: a function that makes it. A mistake is named only if the student's
results equal those of the mutant on every probe (and differ from the right ones), or if the check
has seen it happen (a shape, an order of calls). Otherwise what was seen and what was expected is
said.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations, product

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CLOSE = 1e-4  # largest difference of two results that count as the same


class Wrong(Exception):  # noqa: N818
    """The ``mistakes`` of a student's function (names in `words`), with ``values`` for the gaps in
    the sentences."""

    def __init__(self, *mistakes: str, **values):
        super().__init__(*mistakes)
        self.mistakes, self.values = mistakes, values


class Instead(TorchFunctionMode):
    """Another function in place of those with one of the ``names``: whether a result hangs on one
    of them."""

    def __init__(self, names: tuple[str, ...], other: Callable):
        super().__init__()
        self.names, self.other = names, other

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return (self.other if func.__name__ in self.names else func)(*args, **(kwargs or {}))


def kind(value) -> str:
    """A value in words: "a tensor of shape (5, 3)", "a list"."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    name = type(value).__name__
    return "nothing (None)" if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def call(fn: Callable, *inputs, known: Iterable[tuple[str, str]] = (), where: str = ""):
    """fn(*inputs), exceptions in words; ``known``: (pattern in an exception's text, mistake);
    ``where``: when it was."""
    try:
        result = fn(*inputs)
    except Wrong:
        raise
    except Exception as why:
        for pattern, mistake in known:
            if re.search(pattern, str(why)):
                raise Wrong(mistake) from why
        name = getattr(getattr(fn, "__code__", None), "co_filename", None)
        lines = [
            f.line for f in traceback.extract_tb(why.__traceback__) if f.filename == name and f.line
        ]
        line = f" (in the line: {lines[-1]})" if lines else ""
        text = (str(why).strip().split("\n")[0]
                or "it gives no reason")[:300].replace("{", "(").replace("}", ")")
        text += "" if text.endswith((".", "!", "?")) else "."
        raise Wrong("error", kind=type(why).__name__, text=text, line=line, where=where) from why
    if result is None or result is ...:
        raise Wrong("no_return", where=where)
    return result


def same(a, b, tolerance: float = CLOSE) -> bool:
    """Whether two tensors have the same shape and numbers, NaN in the same places."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a.shape != b.shape:
        return False
    return bool(
        torch.allclose(a.detach().double().cpu(),
                       b.detach().double().cpu(), rtol=tolerance, atol=tolerance, equal_nan=True))


def two(a: float, b: float) -> tuple[str, str]:
    """Two numbers with as many digits as are needed to see that they differ."""
    for digits in range(4, 18):
        shown = f"{float(a):.{digits}g}", f"{float(b):.{digits}g}"
        if shown[0] != shown[1]:
            break
    return shown


def first_difference(found: Tensor, right: Tensor) -> tuple[int, ...]:
    """Index of the largest difference of two tensors of one shape; a NaN counts as the largest."""
    gap = (found.detach().double() -
           right.detach().double()).abs().nan_to_num(nan=torch.inf).flatten()
    return tuple(int(i) for i in torch.unravel_index(gap.argmax(), found.shape))


def numbers(count: int, *shape: int, seed: int = 0, scale: float = 2.0) -> list[Tensor]:
    """Normally distributed tensors, always the same."""
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(*shape, generator=generator) for _ in range(count)]


def variants(factors: dict[str, list[tuple[str, object]]],
             most: int = 2) -> Iterator[tuple[tuple[str, ...], dict]]:
    """Ways to do it wrong in up to ``most`` places, the simplest first: (names, what is chosen in
    each place).

    ``factors``: place -> [(name of the mistake, choice)], of which the first is right.
    """
    right = {place: choices[0][1] for place, choices in factors.items()}
    for count in range(1, most + 1):
        for places in combinations(factors, count):
            for chosen in product(*(factors[place][1:] for place in places)):
                names = tuple(dict.fromkeys(name for name, _ in chosen))
                yield names, right | {
                    place: choice for place, (_, choice) in zip(places, chosen, strict=True)
                }


def name(
    found: list[Tensor],
    probes: list[tuple],
    mutants: Iterable[tuple[tuple[str, ...], Callable]],
    tolerance=CLOSE,
    **values,
) -> None:
    """Raise the mistakes of the first mutant that gives what was ``found`` on every probe."""
    for names, mutant in mutants:
        if all(
                same(f, _result(mutant, probe), tolerance)
                for f, probe in zip(found, probes, strict=True)):
            raise Wrong(*names, **values)


def _result(mutant: Callable, probe: tuple):
    try:
        return torch.as_tensor(mutant(*probe))
    except (RuntimeError, ValueError, IndexError, TypeError, ArithmeticError):
        return None
