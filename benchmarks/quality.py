"""What each method does on each kind of stream: error, AUROC, calibration, cost, on the embedded data.

    python benchmarks/quality.py default --budget 3600      # published default rates
    python benchmarks/quality.py slice   --budget 3600      # the same with the rate that was best on the corrupted training slice
    python benchmarks/quality.py oracle  --budget 7200      # the best of five rates on the test stream itself: an upper bound, no method
    python benchmarks/quality.py unknowns                   # what the filter gains against the share of unknown images
    python benchmarks/quality.py table                      # the tables of what has been run so far

Every finished run is a row of ``results/quality_<stage>.csv`` at once; a run that is there is not made again, and a stage ends at its budget in
seconds. Rates are multiples (0.1 0.3 1 3 10) of each method's own default. Methods that cannot run on a stream have a row that says why.
Streams: at most 3000 images, the long-term one 10 rounds of 600, batch size 1 has 300. MEMO (32 views an image) runs on the last only.
"""
from __future__ import annotations

import argparse
import csv
import datetime
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from tta_lab import load_model, make, protocols
from tta_lab.corruptions import STANDARD_15
from tta_lab.knobs import knobs
from tta_lab.methods import METHODS
from tta_lab.runner import row, runs
from tta_lab.selectors import ConfidenceRise

SOURCES = ("fashion_resnet_bn", "fashion_resnet_bn_1", "fashion_resnet_bn_2")
RATES = (0.1, 0.3, 1.0, 3.0, 10.0)
SLOW = {"memo": ("batch_of_one",)}
KEPT = ("error", "ece", "nll", "auroc", "fpr95", "oscr", "h_auc", "forwards", "backwards", "learned_from", "ms_per_image", "images", "scored",
        "stream_hash", "weights", "torch", "tta_lab", "settings")
FIELDS = ("source", "stream", "method", "rate", "seed", *KEPT, "refused", "date")
SHARES = (0.0, 0.05, 0.1, 0.25, 0.5)


def streams(known="fashion_mnist", seed=0):
    """The seven streams of the table."""
    usual = {"per_shift": 200, "batch": 100, "seed": seed}
    return {"reset_each_shift": protocols.reset_each_shift(known, **usual), "continual": protocols.continual(known, **usual),
            "mixed_domains": protocols.mixed_domains(known, **usual), "correlated": protocols.correlated(known, per_shift=200, seed=seed),
            "open_set": protocols.open_set(known, "digits", shifts=STANDARD_15, per_shift=100, batch=50, seed=seed),
            "long_term": protocols.long_term(known, rounds=10, per_shift=100, batch=100, seed=seed),
            "batch_of_one": protocols.batch_of_one(known, per_shift=20, seed=seed)}


def recipe_of(name, factor=1.0):
    """The method with its step size multiplied, or None where it has none."""
    recipe = make(name)
    rates = [k for k in knobs(recipe) if k.name == "update.lr" or k.name.endswith(".update.lr")]
    if factor == 1.0:
        return recipe
    return make(name, **{rates[0].name: min(rates[0].value * factor, rates[0].high)}) if rates else None


class Results:
    """Rows on disk, by what identifies a run."""

    def __init__(self, path):
        self.path, self.rows = path, []
        if path.is_file():
            with open(path, newline="") as f:
                self.rows = list(csv.DictReader(f))
        self.done = {self.key(r) for r in self.rows}

    @staticmethod
    def key(r):
        return r["source"], r["stream"], r["method"], str(r["rate"]), str(r["seed"])

    def add(self, r):
        r = {**r, "date": datetime.date.today().isoformat()}
        r = {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in r.items()}
        fresh = not self.path.is_file()
        with open(self.path, "a", newline="") as f:
            writer = csv.DictWriter(f, FIELDS)
            if fresh:
                writer.writeheader()
            writer.writerow(r)
        self.rows.append({k: str(v) for k, v in r.items()})
        self.done.add(self.key(r))


def one(results, source, stream_name, stream, name, recipe, rate, seed, label=None):
    """One run, unless its row is there."""
    found = {"source": source, "stream": stream_name, "method": label or name, "rate": rate, "seed": seed}
    if recipe is None or Results.key(found) in results.done:
        return
    try:
        (_, trace), = runs({name: recipe}, {stream_name: lambda s: stream}, load_model(source), (seed,), device="cpu", channels_last=True,
                           source_images="fashion_mnist_train_slice")
        numbers = row(trace)
        results.add({**found, **{k: numbers[k] for k in KEPT if k in numbers}})
    except (ValueError, RuntimeError) as why:
        results.add({**found, "refused": f"{type(why).__name__}: {why}"[:200]})


def best_on_the_slice(results, source, name, seed):
    """The factor with the least error on the continual stream of corrupted training images."""
    for factor in RATES:
        one(results, source, "slice", protocols.continual("fashion_mnist_train_slice", per_shift=100, batch=100, seed=seed), name,
            recipe_of(name, factor), factor, seed)
    tried = [r for r in results.rows if (r["source"], r["stream"], r["method"], r["seed"]) == (source, "slice", name, str(seed)) and r.get("error")]
    return float(min(tried, key=lambda r: float(r["error"]))["rate"]) if tried else 1.0


def measure(stage, options):
    results = Results(options.out / f"quality_{stage}.csv")
    until = time.monotonic() + options.budget
    for seed in range(options.seeds):
        for source in options.sources:
            for stream_name, stream in streams(seed=seed).items():
                for name in options.methods:
                    if time.monotonic() > until:
                        print(f"the budget of {options.budget:g} s is spent; the same command goes on ({len(results.rows)} rows so far)")
                        return
                    if stream_name not in SLOW.get(name, (stream_name,)):
                        continue
                    factors = {"default": (1.0,), "oracle": RATES}.get(stage) or (best_on_the_slice(results, source, name, seed),)
                    for factor in factors:
                        one(results, source, stream_name, stream, name, recipe_of(name, factor), factor, seed)
    print(f"complete: {len(results.rows)} rows in {results.path}")


def unknowns(options):
    """Tent with and without the filter, beside BN-1, at several shares of unknown images, far and near."""
    results = Results(options.out / "quality_unknowns.csv")
    tent = make("tent")
    arms = {"batch_norm": make("batch_norm"), "tent": tent, "tent + filter": tent.where(ConfidenceRise()),
            "wisdom_of_crowds": make("wisdom_of_crowds")}
    near = ("fashion_mnist_8", "fashion_mnist_held_out", ("fashion8_resnet_bn",))
    for seed in range(options.seeds):
        for kind, (known, unknown, sources) in {"far": ("fashion_mnist", "digits", options.sources), "near": near}.items():
            for source in sources:
                for share in SHARES:
                    stream = protocols.long_term(known, rounds=10, per_shift=100, batch=100, seed=seed,
                                                 **({"unknown": unknown, "unknown_ratio": share / (1 - share)} if share else {}))
                    for name, recipe in arms.items():
                        one(results, source, f"{kind} {share:g}", stream, "run", recipe, 1.0, seed, label=name)
    print(f"complete: {len(results.rows)} rows in {results.path}")


def table(options):
    import pandas
    for path in sorted(options.out.glob("quality_*.csv")):
        found = pandas.read_csv(path)
        found = found[found.error.notna() & (found.stream != "slice")]
        if "oracle" in path.name:
            found = found.loc[found.groupby(["source", "stream", "method", "seed"]).error.idxmin()]
        print(f"\n{path.name}: error in %, mean over {found.source.nunique()} sources and {found.seed.nunique()} seeds")
        print(found.pivot_table(index="method", columns="stream", values="error", sort=False).round(1).to_string(na_rep="-"))


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("stage", choices=("default", "slice", "oracle", "unknowns", "table"))
    options.add_argument("--budget", type=float, default=3600, help="seconds")
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--sources", nargs="+", default=SOURCES)
    options.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = options.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.stage == "table":
        table(options)
    elif options.stage == "unknowns":
        unknowns(options)
    else:
        measure(options.stage, options)


if __name__ == "__main__":
    main()
