"""Which images come next: permutations and samples, drawn from a seed and a purpose."""
from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from .orders import KeyedGenerator
from .shifts import own_rows, shift_of


def shuffled(n: int, seed: int, purpose: str, *position: int) -> Tensor:
    """A permutation of 0 .. n-1 that depends on (seed, purpose, position) only, int64 (n,)."""
    generator = KeyedGenerator(seed, purpose)
    return (generator.at(*position) if position else generator).permutation(n)


def balanced_permutation(labels: Tensor, seed: int, purpose: str, number: int,
         last: Tensor | None = None) -> Tensor:
    """All rows in a class-balanced random order: one row of each class in turn, as long as they
    last; the rows in ``last`` come at the end, in the same manner. Images without a label count as
    one class.

    Any stretch holds equally many of each class, to within one, while no class has run out.
    """
    labels = labels - min(int(labels.min()), 0)
    order = shuffled(len(labels), seed, purpose, number)
    late = torch.isin(order, order[:0] if last is None else last)
    classes = shuffled(int(labels.max()) + 1, seed, purpose + "/classes")[labels[order]]
    turn = torch.empty_like(order)
    for c in classes.unique():
        for part in (late, ~late):
            rows = part & (classes == c)
            turn[rows] = torch.arange(int(rows.sum()))
    turn += late * len(order)
    return order[torch.argsort(turn * (int(labels.max()) + 1) + classes)]


def sample_without_replacement(labels: Tensor, sizes: Iterable[int], seed: int,
                               purpose: str) -> Iterator[Tensor]:
    """One sample of each wanted size, drawn when it is asked for.

    Samples share no row until the set is used up; then a new balanced permutation is drawn, and
    rows already in the unfinished sample go to its end, so that a sample repeats a row only when
    it is larger than the set.
    """
    left = labels.new_empty(0)
    number = 0
    for size in sizes:
        sample = left[:size]
        left = left[size:]
        while len(sample) < size:
            left = balanced_permutation(labels, seed, purpose, number, last=sample)
            number = number + 1
            missing = size - len(sample)
            sample = torch.cat([sample, left[:missing]])
            left = left[missing:]
        yield sample


class Sampler:
    """Samples of one image set, shift after shift; a domain that has rows of its own has
    permutations of its own."""

    def __init__(self, images, seed: int, purpose: str, recorded: bool = False):
        self.images = images
        self.seed = seed
        self.purpose = purpose
        self.recorded = recorded
        self.domains: dict = {}  # name -> (sizes asked for, samples)

    def sample(self, shift: str, size: int) -> Tensor:
        rows = own_rows(self.images, shift)
        domain = None if rows is None else shift_of(self.images, shift).domain
        if domain not in self.domains:
            labels = self.images.y if rows is None else self.images.y[rows]
            asked: list[int] = []
            purpose = self.purpose if rows is None else f"{self.purpose}/{domain}"
            self.domains[domain] = asked, (
                _in_order(len(labels), asked) if self.recorded else sample_without_replacement(
                    labels, _sizes(asked), self.seed, purpose))
        asked, samples = self.domains[domain]
        asked.append(size)
        ids = next(samples)
        return ids if rows is None else rows[ids]


def _sizes(asked: list[int]) -> Iterator[int]:
    while True:
        yield asked.pop()


def _in_order(n: int, asked: list[int]) -> Iterator[Tensor]:
    """Rows in ascending order, from the start again when they are used up."""
    at = 0
    for size in _sizes(asked):
        yield torch.arange(at, at + size) % n
        at = (at + size) % n
