"""Memories of the images of a stream: which are kept to be learned from later. Their contents live
in the state of the method."""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.knobs import knob
from ..core.parts import Part


@dataclass(frozen=True)
class BalancedMemory(Part):
    """CSTU: at most ``capacity`` images, balanced over predicted classes, young and certain ones
    before old and uncertain ones.

    Badness of an item of age a and uncertainty u (nats), M images, K classes:  lambda_t / (1 +
    exp(-a / M)) + lambda_u u / ln K. A new image whose class holds fewer than M / K is added while
    there is room, else it replaces the worst of the largest classes; one whose class is full
    replaces the worst of its class; in both cases only if that is worse than the new one. Of
    equals the one stored last goes. Every image offered ages all by 1. Paper: RoTTA (2303.13899).
    """

    capacity: int = knob(64, (1, 100_000), "images kept", paper="RoTTA: 64", unit="images")
    timeliness: float = knob(1.0, (0.0, 100.0), "lambda_t", paper="RoTTA: 1")
    uncertainty: float = knob(1.0, (0.0, 100.0), "lambda_u", paper="RoTTA: 1")

    def init(self, model, source):
        return {"images": [], "ids": [], "classes": [], "doubts": [], "ages": []}

    def badness(self, age: int, doubt: float, classes: int) -> float:
        """What an item must have less of than others to stay."""
        return (self.timeliness / (1 + math.exp(-age / self.capacity)) +
                self.uncertainty * doubt / math.log(classes))

    def offer_(self, state: dict, image: Tensor, ident: Tensor, label: int, doubt: float,
               classes: int) -> None:
        """Take an image in, in place of another or not at all; everything ages."""
        place = self._place(state, label, doubt, classes)
        if place is not None:
            if place < len(state["ages"]):
                for values in state.values():
                    del values[place]
            for name, value in (("images", image.clone()), ("ids", ident.clone()),
                                ("classes", label), ("doubts", doubt), ("ages", 0)):
                state[name].append(value)
        state["ages"] = [age + 1 for age in state["ages"]]

    def _place(self, state, label, doubt, classes):
        """The item to be replaced, the number of items where there is room, None where the new one
        is not taken."""
        held = state["classes"]
        among = {label}
        if held.count(label) < self.capacity / classes:
            if len(held) < self.capacity:
                return len(held)
            most = max(held.count(c) for c in set(held))
            among = {c for c in set(held) if held.count(c) == most}
        scored = [(self.badness(state["ages"][i], state["doubts"][i], classes), c, i)
                  for i, c in enumerate(held) if c in among]
        worst = max(scored, default=(-math.inf, 0, None))
        return worst[2] if worst[0] > self.badness(0, doubt, classes) else None

    def content(self, state: dict) -> tuple[Tensor, Tensor]:
        """Images (n, C, H, W) and ids (n,) held now."""
        return torch.stack(state["images"]), torch.stack(state["ids"])


@dataclass(frozen=True)
class ClassMemory(Part):
    """The latest images of every class: when full, the largest class gives its oldest image for a
    new one of any class.

    Largest is meant of a count per class that is smoothed, n_c <- 0.9 n_c + 0.1 held_c, each time
    the memory is read (``read_``); of equals one is drawn. What is held never ages. Source: STAMP
    (2407.15773), from the authors' code.
    """

    capacity: int = knob(64, (1, 100_000), "images kept", paper="STAMP: 64", unit="images")
    momentum: float = knob(0.9, (0.0, 1.0), "of the count per class", paper="STAMP, authors' "
                                                                            "code: 0.9")

    def init(self, model, source):
        return {"images": [], "ids": [], "classes": [], "counts": []}

    def draw(self, n: int, rng: torch.Generator) -> int:
        """One of n equals."""
        return int(torch.randint(n, (), generator=rng, device=rng.device))

    def offer_(self, state: dict, image: Tensor, ident: Tensor, label: int, classes: int,
               rng: torch.Generator) -> None:
        """Take an image in, where there is no room in place of another."""
        counts, held = state["counts"], state["classes"]
        counts += [0.0] * (classes - len(counts))
        if len(held) == self.capacity:
            most = max(counts[c] for c in held)
            equals = sorted({c for c in held if counts[c] == most})
            oldest = held.index(equals[self.draw(len(equals), rng) if len(equals) > 1 else 0])
            for name in ("images", "ids", "classes"):
                del state[name][oldest]
        for name, value in (("images", image.clone()), ("ids", ident.clone()), ("classes", label)):
            state[name].append(value)

    def read_(self, state: dict) -> tuple[Tensor, Tensor]:
        """Images (n, C, H, W) and ids (n,) held now; the counts follow."""
        held = [state["classes"].count(c) for c in range(len(state["counts"]))]
        state["counts"] = [
            self.momentum * n + (1 - self.momentum) * now
            for n, now in zip(state["counts"], held, strict=True)
        ]
        return torch.stack(state["images"]), torch.stack(state["ids"])
