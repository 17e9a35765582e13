"""Continually changing corruptions: two corruptions at a time, walked so that the source model's
accuracy stays the same.

Press et al., "RDumb: A simple approach that questions our progress in continual test-time
adaptation" (arXiv 2306.05401). First ``calibrate`` measures the source's accuracy A[s1, s2] for
every ordered pair of corruption types and severities; ``path`` walks from one type to the next at
a target accuracy; ``continually_changing`` makes a ``Stream`` of it, which can be saved and
rebuilt like any other, without the calibration. Left out against the published set: random crops
and flips, and the last JPEG compression, both of which belong to 224 x 224 photographs.
"""
from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..core.arguments import WrongKind, number, whole
from ..core.files import write_text
from ..core.hashing import digest
from ..core.named import model_of
from ..data.corruptions import check_name
from ..data.shift import Shift
from ..data.shipped import checked_bytes
from .images import image_set_of, make_images
from .orders import KeyedGenerator
from .shifts import as_shifts
from .stream import Stream


@dataclass(frozen=True, eq=False)
class Calibration:
    """Accuracy of a source model under pairs of corruptions.

    ``severities`` (S,) from 0 to 5; ``accuracy[first, second]`` is (S, S), rows the severity of
    the first corruption, columns that of the second; shares 0..1 over ``per_cell`` images.
    """

    names: tuple[str, ...]
    severities: tuple[float, ...]
    accuracy: dict[tuple[str, str], np.ndarray]
    known: str
    weights: str
    per_cell: int
    seed: int

    def to_json(self) -> str:
        table = {f"{a}+{b}": np.round(m, 4).tolist() for (a, b), m in self.accuracy.items()}
        return json.dumps({
            "names": self.names, "severities": self.severities, "known": self.known,
            "weights": self.weights, "per_cell": self.per_cell, "seed": self.seed, "accuracy": table
        })

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Read what ``to_json`` wrote; raises ValueError for anything else."""
        if not isinstance(text, str | bytes):
            raise WrongKind(f"the JSON of a calibration is a text, as Calibration.to_json() "
                            f"writes it, not {type(text).__name__}")
        try:
            values = json.loads(text)
            table = {
                Shift.parse(k).names: np.array(v, np.float64)
                for k, v in values.pop("accuracy").items()
            }
            made = cls(tuple(values.pop("names")), tuple(values.pop("severities")), table, **values)
        except (ValueError, KeyError, TypeError, AttributeError) as why:
            raise ValueError(f"this is not a calibration of continually changing corruptions "
                             f"({why}); make one with ccc.calibrate") from why
        side = len(made.severities)
        for pair in itertools.permutations(made.names, 2):
            if pair not in table or table[pair].shape != (side, side):
                raise ValueError(f"the calibration lacks a {side} x {side} table for {pair[0]} "
                                 f"followed by {pair[1]}; make it again with "
                                 "ccc.calibrate")
        return made


def calibrate(model, known="fashion_mnist_train_slice",
              names: Sequence[str] = ("gaussian_noise", "motion_blur", "fog", "pixelate"),
              step: float = 0.5, per_cell: int = 500, seed: int = 0, device="cpu",
              progress=None) -> Calibration:
    """Measure A[s1, s2] of a model, with its stored statistics, for every ordered pair of types at
    severities 0, step, ..., 5.

    ``known`` must be images that the stream will not show: a training or validation part.
    ``progress(done, cells)`` is called after each cell. Raises ValueError for fewer than two names
    or a step that does not divide 5.
    """
    images = image_set_of(known, "known")
    model = model_of(model)
    names = as_shifts(names, "names")
    step = number("step", step, 0.01, 5)
    per_cell = whole("per_cell", per_cell, 1)
    seed = whole("seed", seed)
    if progress is not None and not callable(progress):
        raise WrongKind(f"progress must be a function (done, cells), not {progress!r}")
    for name in names:
        check_name(name)
    if len(set(names)) < 2 or len(set(names)) != len(names):
        raise ValueError(f"a walk needs at least two different corruptions, got {list(names)}")
    severities = tuple(float(s) for s in np.arange(0, 5 + 1e-9, step))
    if severities[-1] != 5:
        raise ValueError(f"step must divide 5 evenly (0.25, 0.5, 1), got {step}")
    rows = KeyedGenerator(seed, "calibration").permutation(len(images))[:per_cell]
    table, done = {}, 0
    cells = len(names) * (len(names) - 1) * len(severities) ** 2
    for pair in itertools.permutations(names, 2):
        table[pair] = np.zeros((len(severities), len(severities)))
        for (i, first), (j, second) in itertools.product(enumerate(severities), repeat=2):
            shift = Shift(((pair[0], first), (pair[1], second)))
            x = make_images(images, None, rows, shift.text, 5, seed, device)
            with torch.no_grad():
                hits = sum(
                    int((model(part).argmax(1).cpu() == images.y[at]).sum())
                    for part, at in zip(x.split(250), rows.split(250), strict=True))
            table[pair][i, j] = hits / len(rows)
            done += 1
            if progress is not None:
                progress(done, cells)
    return Calibration(tuple(names), severities, table, images.name, digest(model.state_dict()),
                       len(rows), seed)


def load_calibration(name: str = "fashion_resnet_bn",
                     root: str | Path | None = None) -> Calibration:
    """The calibration that comes with an embedded source model."""
    return Calibration.from_json(checked_bytes(f"ccc/{name}.json", root).decode())


def path(accuracy: np.ndarray, target: float) -> list[tuple[int, int]]:
    """Cells (i, j) from (start, 0) to (0, end): each step lowers the first severity or raises the
    second by one notch.

    At each cell the successor is taken whose mean accuracy along its path is nearest to the
    target, from the end backwards; then the start with the nearest mean. Greedy as in the paper,
    not the exact optimum.
    """
    side = len(accuracy)
    total = np.zeros((side, side))
    length = np.ones((side, side))
    after = {}
    for i in range(side):
        for j in reversed(range(side)):
            total[i, j] = accuracy[i, j]
            nexts = [] if i == 0 else [(i - 1, j), *([(i, j + 1)] if j + 1 < side else [])]
            if nexts:
                after[i, j] = min(nexts, key=lambda c: abs(total[c] / length[c] - target))
                total[i, j] += total[after[i, j]]
                length[i, j] += length[after[i, j]]
    cell = min(((i, 0) for i in range(1, side)), key=lambda c: abs(total[c] / length[c] - target))
    cells = [cell]
    while cell in after:
        cell = after[cell]
        cells.append(cell)
    return cells


def walk(calibration: Calibration, target: float, points: int, seed: int = 0) -> tuple[str, ...]:
    """``points`` shifts, path after path: the second corruption of a path is the first of the
    next, the new one is drawn."""
    shifts: list[str] = []
    first = calibration.names[int(
        KeyedGenerator(seed, "ccc/first").permutation(len(calibration.names))[0])]
    for turn in itertools.count():
        others = [name for name in calibration.names if name != first]
        second = others[int(KeyedGenerator(seed, "ccc").at(turn).permutation(len(others))[0])]
        for i, j in path(calibration.accuracy[first, second], target):
            shift = Shift(((first, calibration.severities[i]), (second, calibration.severities[j])))
            shifts.append(shift.text)
            if len(shifts) == points:
                return tuple(shifts)
        first = second


def continually_changing(known="fashion_mnist", calibration: Calibration | None = None,
                         target: float = 0.6, images: int = 20_000, speed: int = 200, seed: int = 0,
                         **settings) -> Stream:
    """A stream of ``images`` images along the walk at the target accuracy of the source, ``speed``
    images at each point, never reset.

    The embedded calibration is that of ``fashion_resnet_bn``; make your own with ``calibrate`` for
    another model. The paper's levels are target 0.4, 0.2 and 0 on ImageNet at speeds 1000, 2000
    and 5000. The target must lie between the lowest and the highest accuracy of the calibration,
    else ValueError.
    """
    calibration = load_calibration() if calibration is None else calibration
    if not isinstance(calibration, Calibration):
        raise WrongKind(f"calibration must be one that ccc.calibrate makes, or "
                        f"ccc.load_calibration(name) reads, not {calibration!r}")
    target = number("target", target, 0, 1)
    images = whole("images", images, 1)
    speed = whole("speed", speed, 1)
    seed = whole("seed", seed)
    low = min(m.min() for m in calibration.accuracy.values())
    high = max(m.max() for m in calibration.accuracy.values())
    if not low <= target <= high:
        raise ValueError(f"target accuracy {target} cannot be reached: the calibrated pairs lie "
                         f"between {low:.2f} and {high:.2f}")
    points = max(1, round(images / speed))
    return Stream(known, walk(calibration, target, points, seed), per_shift=speed, seed=seed,
                  **settings)


def embed(name: str = "fashion_resnet_bn",
          names: Sequence[str] = ("impulse_noise", "motion_blur", "snow", "fog"),
          root=None) -> Path:
    """Measure the calibration of an embedded model on the training slice and enter it into the
    data folder (about two minutes)."""
    from ..data.shipped import data_root
    from ..models.embedded import load_model
    from ..models.training import register
    folder = data_root(root)
    place = folder / "ccc" / f"{name}.json"
    write_text(place, calibrate(load_model(name, root=root), names=names).to_json() + "\n")
    register(place, folder, f"python -m tta_lab.streams.ccc {name}")
    return place


if __name__ == "__main__":
    import sys
    print(embed(*sys.argv[1:2]))
