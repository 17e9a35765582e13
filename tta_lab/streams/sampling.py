"""Which images come next: shuffles and decks, drawn from a seed and a purpose."""
from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from .orders import Dice
from .shifts import own_rows, shift_of


def shuffled(n: int, seed: int, purpose: str, *position: int) -> Tensor:
    """A permutation of 0 .. n-1 that depends on (seed, purpose, position) only, int64 (n,)."""
    return (Dice(seed, purpose).at(
        *position).permutation(n) if position else Dice(seed, purpose).permutation(n))


def deck(labels: Tensor, seed: int, purpose: str, number: int,
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


def deal(labels: Tensor, needs: Iterable[int], seed: int, purpose: str) -> Iterator[Tensor]:
    """Deal hands of the wanted sizes from one deck after another, each when it is asked for.

    Hands share no row until the set is used up; then a new deck is shuffled, and rows already in
    the unfinished hand go to its end, so that a hand repeats a row only when it is larger than the
    set.
    """
    left, number = labels.new_empty(0), 0
    for need in needs:
        hand = left[:need]
        left = left[need:]
        while len(hand) < need:
            left = deck(labels, seed, purpose, number, last=hand)
            number = number + 1
            missing = need - len(hand)
            hand = torch.cat([hand, left[:missing]])
            left = left[missing:]
        yield hand


class _Dealer:
    """Hands of one image set, shift after shift; a domain that has rows of its own has a deck of
    its own."""

    def __init__(self, images, seed: int, purpose: str, recorded: bool = False):
        self.images = images
        self.seed = seed
        self.purpose = purpose
        self.recorded = recorded
        self.decks: dict = {}

    def hand(self, shift: str, need: int) -> Tensor:
        rows = own_rows(self.images, shift)
        place = None if rows is None else shift_of(self.images, shift).domain
        if place not in self.decks:
            labels = self.images.y if rows is None else self.images.y[rows]
            asked: list[int] = []  # filled below, one number for each hand
            name = self.purpose if rows is None else f"{self.purpose}/{place}"
            dealt = (_in_order(len(labels), asked) if self.recorded else deal(
                labels, _given(asked), self.seed, name))
            self.decks[place] = asked, dealt
        asked, dealt = self.decks[place]
        asked.append(need)
        hand = next(dealt)
        return hand if rows is None else rows[hand]


def _given(asked: list[int]) -> Iterator[int]:
    while True:
        yield asked.pop()


def _in_order(n: int, asked: list[int]) -> Iterator[Tensor]:
    """Rows in ascending order, from the start again when they are used up."""
    at = 0
    for need in _given(asked):
        yield torch.arange(at, at + need) % n
        at = (at + need) % n
