from __future__ import annotations

from dataclasses import dataclass

from ..components.controllers.resets import ResetEvery
from .eata import CIFAR, IMAGENET, Eta


@dataclass(frozen=True, kw_only=True)
class Rdumb(Eta):
    """RDumb: ETA that forgets everything after every 1000 batches.

    Weights, optimiser and running mean prediction go back to the start after batch 1000, 2000,
    ...; the loss is that of ETA. Paper: RDumb: A simple approach that questions our progress in
    continual test-time adaptation (2306.05401).
    """

    controllers: tuple = (ResetEvery(1000),)
    family = "reset"
    paper = ("RDumb: A simple approach that questions our progress in continual test-time "
             "adaptation (2306.05401)")
    presets = {"cifar10_c": CIFAR, "cifar100_c": CIFAR, "imagenet_c": IMAGENET}
