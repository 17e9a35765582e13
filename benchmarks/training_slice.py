"""What was chosen, and what was looked into, on the corrupted *training* slice - never on the test
stream.

    python benchmarks/training_slice.py rates       # about 3 minutes: which step shows Tent's
    decay within the fast notebook python benchmarks/training_slice.py variants    # about 6
    minutes: what the confidence filter does, and which part of it

Both write a dated CSV to benchmarks/results/ and keep finished runs in runs/cache, so that an
interrupted one goes on.
"""
from __future__ import annotations

import argparse
import csv
import datetime
import os
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

from tta_lab import ConfidenceRise, EntropyThreshold, RandomKeep, Stream, load_model, make
from tta_lab.analysis import diagnose
from tta_lab.components.penalties import Diversity
from tta_lab.experiments.runner import runs

SLICE = Stream("fashion_mnist_train_slice")


def settings(**fields):
    return {
        "closed": lambda seed: replace(SLICE, seed=seed, **fields),
        "open": lambda seed: replace(SLICE, seed=seed, unknown="digits", **fields)
    }


def rates():
    """Tent and BN-1 over 48 steps (8 rounds of six shifts x 100 images), for steps of Adam from
    5e-4 to 2e-2."""
    recipes = {
        "BN-1": make("batch_norm"),
        **{f"Tent, lr {lr:g}": make("tent", lr=lr) for lr in (5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2)}
    }
    return recipes, settings(rounds=8, per_shift=100), 1


def variants():
    """The filter and its pieces at Adam 5e-3, 8 rounds of six shifts x 200 images."""
    tent = make("tent", lr=5e-3)
    varied = replace(tent.plus(Diversity()), when_empty="step")
    recipes = {
        "BN-1": make("batch_norm"), "Tent": tent, "Tent + filter": tent.where(ConfidenceRise()),
        "Tent + random, as many": lambda done: tent.where(RandomKeep.like(done["Tent + filter"])),
        "Tent + filter, tolerance 0.05": tent.where(ConfidenceRise(tolerance=0.05)),
        "Tent + filter, running statistics": tent.where(ConfidenceRise(statistics="running")),
        "Tent + entropy below 0.4 ln K": tent.where(EntropyThreshold()), "Tent + diversity": varied,
        "Tent + filter + diversity": make("wisdom_of_crowds", lr=5e-3),
        "Tent + entropy below 0.4 ln K + diversity": varied.where(EntropyThreshold())
    }
    return recipes, settings(rounds=8, per_shift=200), 1


def numbers(trace):
    error = diagnose.error_per_round(trace)["error"]
    groups = diagnose.groups(trace)
    loss = trace["entropy"]
    fall = trace["rise_source"] < 0
    bad = ~groups["correct"]
    late = trace["round"] == trace["round"].max()
    return {
        "error_first": error[0], "error_last": error[-1], "error_mean": error.mean(),
        "kept": trace.step("n_kept").sum() / trace.step("n").sum(),
        "falling_last": fall[late].mean(), "bad_among_falling_last": bad[late & fall].mean() if
        (late & fall).any() else np.nan, "bad_last": bad[late].mean(),
        "entropy_share_of_bad_last": loss[late & bad].sum() / loss[late].sum()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("rates", "variants"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", default="runs/cache")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipes, streams, seeds = {"rates": rates, "variants": variants}[options.what]()
    rows = []
    stamp = {
        "date": datetime.date.today().isoformat(), "torch": str(torch.__version__), "device": "cpu"
    }

    for key, trace in runs(recipes, streams, load_model(), range(seeds), cache=options.cache,
                           progress=True, device="cpu", channels_last=True):
        rows.append({
            "setting": key[0], "method": key[1], "seed": key[2],
            **{k: round(float(v), 4) for k, v in numbers(trace).items()}, **stamp
        })
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"training_slice_{options.what}_{stamp['date']}.csv"
    with open(path, "w", newline="") as f:
        writer = csv.DictWriter(f, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(f"{row['setting']:<7}{row['method']:<45}{row['error_first']:6.1f} -> "
              f"{row['error_last']:5.1f} %   kept {100 * row['kept']:4.0f} %   "
              f"bad: {100 * row['bad_last']:4.1f} % of all, "
              f"{100 * row['bad_among_falling_last']:5.1f} % of the falling, "
              f"{100 * row['entropy_share_of_bad_last']:5.1f} % of the entropy")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
