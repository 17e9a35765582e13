"""Runs of the authors' public code that are kept by method: ``expected/<method>/`` with an ``index.csv`` of its own."""
import csv
import json
from dataclasses import dataclass

import numpy as np
import torch
from tiny import GOLDEN, stream, tiny

from tta_lab.adapter import Adapter
from tta_lab.augment import Augmentation
from tta_lab.parts import Step


@dataclass(frozen=True)
class Roll(Augmentation):
    """The augmentation of the ``fixaug`` runs: the image turned round by one pixel along its width."""

    def __call__(self, x, rng):
        return x.roll(1, dims=3)


class Runs:
    """The stored runs of one method: rows of the index, settings, and what to compare."""

    def __init__(self, name):
        self.folder = GOLDEN / "expected" / name
        self.index = {row["run"]: row for row in csv.DictReader((self.folder / "index.csv").read_text().splitlines())}
        assert {p.stem for p in self.folder.glob("*.npz")} == set(self.index)
        self.random = sorted(run for run, row in self.index.items() if row["kind"] == "stochastic-error")
        self.fixed = sorted(set(self.index) - set(self.random))

    def stored(self, run):
        with np.load(self.folder / f"{run}.npz") as f:
            return {k: f[k] for k in f.files if k != "hparams"}

    def settings(self, run):
        with np.load(self.folder / f"{run}.npz") as f:
            return json.loads(str(f["hparams"]))

    def play(self, run, recipe, seed=0, given=None, prepare=None, watch=None, batches=None):
        """Outputs (batches, batch, 10), the adapter, and what ``watch(adapter)`` said after every batch; all of them or the first few."""
        adapter = Adapter(tiny(self.index[run]["model"]), recipe, device="cpu", seed=seed, given=given)
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

    def deviations(self, run, outputs, adapter, teacher=None):
        """What differs by more than the run's tolerance: outputs; of whole runs also the error and the size of every parameter's
        change (and of the teacher's)."""
        row, expected, wrong = self.index[run], self.stored(run), []
        outputs = np.exp(outputs) if adapter.recipe.kind == "log_probabilities" else outputs
        difference = np.abs(outputs - expected["outputs"][:len(outputs)])
        for what, value, allowed in (("first batch", difference[0].max(), row["tol_first"]), ("maximum", difference.max(), row["tol_max"]),
                                     ("99th percentile", np.quantile(difference, 0.99), row["tol_p99"])):
            if value > float(allowed):
                wrong.append(f"{what} {value:.1e} > {allowed}")
        if len(outputs) < len(expected["outputs"]):
            return wrong
        if abs(self.error(run, outputs) - float(row["mean_error"])) > 6e-5:
            wrong.append(f"error {self.error(run, outputs)} instead of {row['mean_error']}")
        now = dict(adapter.tuned) | {f"ema:{k}": v for k, v in (teacher or {}).items()}
        norms = dict(zip((name.replace("source_mean", "running_mean").replace("source_var", "running_var")
                          for name in expected["param_names"].tolist()), expected["param_change_norms"].tolist(), strict=True))
        own = {k for k in norms if not k.startswith("ema:")}
        if own != {k for k in adapter.tuned if not k.startswith("extra.")}:
            wrong.append(f"tuned parameters differ: {own ^ set(adapter.tuned)}")
        for name, size in norms.items():
            if name in now and size >= 1e-3 * max(norms.values()):
                found = (now[name].detach() - adapter._start[name.removeprefix("ema:")]).norm().item()
                if abs(found / size - 1) > float(row["rtol_param"]):
                    wrong.append(f"change of {name} is {found:.6f}, not {size:.6f}")
        return wrong

    def spread(self, run, play, seeds=5):
        """(error, its distance allowed, size of the weights' change) of ours and theirs over seeds; ``play(seed)`` as above."""
        theirs = self.stored(run)
        errors, sizes = zip(*((self.error(run, outputs), distance(adapter)) for outputs, adapter, _ in map(play, range(seeds))), strict=True)
        per_seed = theirs["error_per_seed"].mean(1)
        allowed = max(0.01, 3 * np.sqrt(np.var(errors, ddof=1) / seeds + np.var(per_seed, ddof=1) / len(per_seed)))
        return np.mean(errors), per_seed.mean(), allowed, np.mean(sizes), theirs["param_change_total"].mean()


def distance(adapter):
    """How far the network's tuned parameters are from the source, those of extra modules left out."""
    return sum(((p.detach() - adapter.origin[k]) ** 2).sum().item() for k, p in adapter.tuned.items() if not k.startswith("extra.")) ** 0.5


def adam(h):
    """The update rule of a run's settings."""
    name = h.get("OPTIM.METHOD", h.get("optimizer", "Adam")).lower()
    return Step(rule=name, lr=h.get("OPTIM.LR", h.get("lr")))


def extra(runs, run, part):
    """Name -> tensor of what is stored under extra/<part>/."""
    prefix = f"extra/{part}/"
    return {k.removeprefix(prefix): torch.from_numpy(v) for k, v in runs.stored(run).items() if k.startswith(prefix)}
