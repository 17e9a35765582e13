"""Runs of the authors' public code that are kept by method: ``expected/<method>/`` with an
``index.csv`` of its own."""
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from golden_runs import first, lame, step  # noqa: F401
from stored import changes, differences, load, rows, unused
from tiny import GOLDEN, stream, tiny

from tta_lab.components.augment import Augmentation
from tta_lab.core.adapter import Adapter


@dataclass(frozen=True)
class Roll(Augmentation):
    """The augmentation of the ``fixaug`` runs: the image turned round by one pixel along its
    width."""

    def __call__(self, x, rng):
        return x.roll(1, dims=3)


class Runs:
    """The stored runs of one method: rows of the index, settings, and what to compare."""

    def __init__(self, name):
        self.folder = GOLDEN / "expected" / name
        self.index = rows(self.folder / "index.csv")
        assert {p.stem for p in self.folder.glob("*.npz")} == set(self.index)
        self.random = sorted(run for run, row in self.index.items()
                             if row["kind"] == "stochastic-error")
        self.fixed = sorted(set(self.index) - set(self.random))
        self.stored = cache(lambda run: load(self.folder / f"{run}.npz"))

    def settings(self, run):
        return self.stored(run)["hparams"]

    def unused(self, run, *spared):
        """What no test took from a run: numbers of its settings but those ``spared``, and what it
        was given."""
        return unused(self.stored(run), spared)

    def play(self, run, recipe, seed=0, given=None, prepare=None, watch=None, batches=None):
        """Outputs (batches, batch, 10), the adapter, and what ``watch(adapter)`` said after every
        batch; all of them or the first few."""
        adapter = Adapter(tiny(self.index[run]["model"]), recipe, device="cpu", seed=seed,
                          source_info=given)
        if prepare:
            prepare(adapter)
        outputs, seen = [], []
        for x in stream(self.index[run]["stream"])[0][:batches]:
            outputs.append(adapter(x).numpy())
            seen.append(watch(adapter) if watch else None)
        return np.stack(outputs), adapter, seen

    def error(self, run, outputs):
        y = stream(self.index[run]["stream"])[1].numpy()
        return (outputs.argmax(2) != y)[y >= 0].mean()

    def deviations(self, run, outputs, adapter, teacher=None, seen=()):
        """What differs by more than the run's tolerance: outputs, errors and what was ``seen``
        (stored key -> one value a batch); of whole runs also the values and changes of the
        parameters (and of the teacher's)."""
        row, expected = self.index[run], self.stored(run)
        wrong = differences(row, expected, outputs, stream(row["stream"])[1].numpy(), dict(seen))
        now = (dict(adapter.model.named_parameters()) | adapter.state.tensors
               | {f"ema:{k}": v for k, v in (teacher or {}).items()})
        start = dict(adapter.source.named_parameters()) | adapter.state.start
        return (wrong + (changes(row, expected, now, start, adapter.tuned)
                         if len(outputs) == len(expected["outputs"]) else []))

    def outside(self, run, play, far=None):
        """What differs from a random run by more than three standard errors of both sides over
        five seeds: the mean error (at least 0.01 is allowed), and how ``far(adapter)`` the weights
        moved (at least 1 %); ``play(seed)`` as above."""
        theirs = self.stored(run)
        n = 5
        wrong = []
        assert set(theirs) == {"hparams", "kind", "error_per_seed", "param_change_total"
                               } and theirs["kind"] == self.index[run]["kind"]
        played = [(self.error(run, outputs), (far or distance)(adapter))
                  for outputs, adapter, _ in map(play, range(n))]
        errors, sizes = zip(*played, strict=True)
        theirs = theirs["error_per_seed"].mean(1), theirs["param_change_total"]
        for what, ours, other, least in (("error", errors, theirs[0], 0.01),
                                         ("change", sizes, theirs[1], 0.01 * theirs[1].mean())):
            allowed = max(
                least, 3 * np.sqrt(np.var(ours, ddof=1) / n + np.var(other, ddof=1) / len(other)))
            if abs(np.mean(ours) - np.mean(other)) > allowed:
                wrong.append(f"{what} {np.mean(ours):.4f} instead of {np.mean(other):.4f}, more "
                             f"than {allowed:.4f} away")
        return wrong


def distance(adapter):
    """How far a run moved the network's tuned parameters, those of extra modules left out: from
    where the stream began, which with a warm-up is its end."""
    begin = ({k: adapter.source_info["warm_up"][f"student/{k}"]
              for k in adapter.tuned} if "warm_up" in adapter.source_info else adapter.origin)
    return (sum(((p.detach() - begin[k])**2).sum().item() for k, p in adapter.tuned.items()
                if not k.startswith("extra."))**0.5)


def by_key(seen):
    """Key -> one value a batch, of a dict a batch."""
    return {key: [batch[key] for batch in seen] for key in seen[0]}


def extra(runs, run, part):
    """Name -> tensor of what is stored under extra/<part>/."""
    prefix, found = f"extra/{part}/", runs.stored(run)
    return {
        k.removeprefix(prefix): torch.from_numpy(found[k]) for k in found if k.startswith(prefix)
    }
