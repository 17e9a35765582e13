"""What each method does on each kind of stream: error, AUROC, calibration, cost, on the embedded
data.

    python benchmarks/quality.py default --seeds 3 --budget 3600   # published default rates; both
    forms where paper and public code differ python benchmarks/quality.py rates --budget 7200
    # four more rates, on the streams and on the corrupted training slice python
    benchmarks/quality.py unknowns --seeds 3                # what the filter gains against the
    share of unknown images python benchmarks/quality.py table                             # all
    tables and figures of what has been run so far python benchmarks/quality.py default --images
    CIFAR_FOLDER --checkpoint FILE   # the same for ResNet-20 on CIFAR-10 (also rates, table)

Every finished run is a row of ``results/quality_<source>.csv`` at once; a run that is there is not
made again, and a stage ends at its budget in seconds. One process per source (``--sources``) may
run at a time. Rates are multiples (0.1 0.3 1 3 10) of each method's own default. Three tunings are
read from the rows: *default*; *slice*, the rate with the least error on corrupted training images
(as many, in the same order as the continual stream); *oracle*, the best of the five on the test
stream itself: an upper bound, no method. Methods that cannot run on a stream have a row that says
why. Streams: at most 3000 images, the long-term one 10 rounds of 600, batch size 1 has 300. MEMO
(32 views an image) runs on the last only; CoTTA, PETAL and STAMP (up to 35 forwards an image) run
with one seed, all at their default rates. Other rates of the others are tried on two streams:
continual and correlated.
"""
from __future__ import annotations

import argparse
import datetime
import os
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from rows import Rows

from tta_lab import load_model
from tta_lab.data.load import load
from tta_lab.experiments.runner import row
from tta_lab.methods import METHODS
from tta_lab.streams.cached import CachedStream
from tta_lab.studies.zoo.cells import (
    ONLY,
    RATES,
    SLOW,
    SOURCES,
    TUNED_ON,
    chosen_rate,
    recipe_of,
)
from tta_lab.studies.zoo.study import (
    KINDS,
    SHARES,
    SOURCE_IMAGES,
    one_run,
    streams,
    unknown_arms,
    unknown_stream,
)

KEPT = ("error", "ece", "nll", "auroc", "fpr95", "oscr", "h_auc", "forwards", "backwards",
        "learned_from", "ms_per_image", "images", "scored", "stream_hash", "weights", "torch",
        "tta_lab", "settings")
FIELDS = ("source", "stream", "method", "rate", "seed", *KEPT, "refused", "date")


class Results(Rows):
    def __init__(self, path):
        super().__init__(path, FIELDS)

    @staticmethod
    def key(r):
        return r["source"], r["stream"], r["method"], f"{float(r['rate']):g}", str(r["seed"])

    def add(self, r):
        super().add({**r, "date": datetime.date.today().isoformat()})


class Bench:
    """Runs of one source model, each a row, until the time is up."""

    def __init__(self, options, source, model, source_images, name=None):
        self.source = source
        self.model = model
        self.images = source_images
        self.cache = options.cache
        self.results = Results(options.out / f"quality_{name or source}.csv")
        self.until = options.until

    def on(self, stream_name, make_stream, wanted, seed):
        """``wanted``: (label, recipe, rate) triples. False when the time is up."""
        key = {"source": self.source, "stream": stream_name, "seed": seed}
        wanted = [(label, recipe, rate) for label, recipe, rate in wanted if recipe is not None
                  and Results.key({**key, "method": label, "rate": rate}) not in self.results.done]
        if not wanted:
            return True
        stream, shared = CachedStream(make_stream()), {}
        for label, recipe, rate in wanted:
            if time.monotonic() > self.until:
                return False
            found = {**key, "method": label, "rate": rate}
            try:
                numbers = row(
                    one_run(self.model, recipe, stream, seed, self.images, cache=self.cache,
                            shared=shared))
                self.results.add({**found, **{k: numbers[k] for k in KEPT if k in numbers}})
            except (ValueError, RuntimeError) as why:
                self.results.add({**found, "refused": f"{type(why).__name__}: {why}"[:200]})
        return True


def default(bench, options, data):
    """Every method, and its reference form where it has one, at its default rate."""
    for seed in range(options.seeds):
        for stream_name, make_stream in streams(**data, seed=seed).items():
            names = [
                n for n in options.methods if not (seed and n in SLOW)
                and stream_name in ONLY.get(n, (stream_name,)) and stream_name != "slice"
            ]
            wanted = [(n, recipe_of(n), 1.0) for n in names]
            wanted += [(f"{n} [reference]", recipe_of(n, "reference"), 1.0) for n in names
                       if "reference" in METHODS[n].forms and not seed]
            if not bench.on(stream_name, make_stream, wanted, seed):
                return False
    return True


def rates(bench, options, data):
    """Four more rates of every method that has one, one seed."""
    for stream_name, make_stream in streams(**data).items():
        names = [
            n for n in options.methods
            if n not in (*ONLY, *SLOW) and stream_name in ("slice", *TUNED_ON)
        ]
        wanted = [(n, recipe_of(n, factor=f), f) for n in names for f in RATES
                  if f != 1 or stream_name == "slice"]
        if not bench.on(stream_name, make_stream, wanted, 0):
            return False
    return True


def chosen(bench, options, data):
    """The rate chosen on the slice, for the other seeds."""
    for seed in range(1, options.seeds):
        for stream_name, make_stream in streams(**data, seed=seed).items():
            names = [
                n for n in options.methods if n not in (*ONLY, *SLOW) and stream_name in TUNED_ON
            ]
            picks = [(n, chosen_rate(bench.results.rows, n)) for n in names]
            if not bench.on(stream_name, make_stream, [(n, recipe_of(n, factor=f), f)
                                                       for n, f in picks], seed):
                return False
    return True


def unknowns(options):
    """Tent with and without the filter, beside BN-1, at several shares of unknown images, far and
    near."""
    arms = unknown_arms()
    for seed in range(options.seeds):
        for kind, (known, unknown, sources) in KINDS.items():
            for source in (name for name in sources
                           if sources != SOURCES or name in options.sources):
                bench = Bench(options, source, load_model(source), None, "unknowns")
                for share in SHARES:
                    make_stream = partial(unknown_stream, known, unknown, share, seed)
                    if not bench.on(f"{kind} {share:g}", make_stream,
                                    [(name, recipe, 1.0) for name, recipe in arms.items()], seed):
                        return False
    return True


def cifar(options):
    """ResNet-20 and CIFAR-10 from picture folders: the model, the streams' settings and the images
    of the source domain."""
    from tta_lab.models.cifar_networks import load_cifar
    model = load_cifar(options.checkpoint)
    test, train = (load(f"folder:{options.images / part}") for part in ("test", "train"))
    return model, {"known": test, "unknown": None, "slice_of": train, "per_shift": 100,
                   "only": ("reset_each_shift", "continual", "mixed_domains", "correlated")}, train


def main():
    stages = {"default": default, "rates": rates, "chosen": chosen}
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("stage", choices=(*stages, "unknowns", "table"))
    options.add_argument("--budget", type=float, default=3600, help="seconds")
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--sources", nargs="+", default=SOURCES)
    options.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--images", type=Path, help="folder with CIFAR-10 pictures, test/CLASS/* "
                                                     "and train/CLASS/*")
    options.add_argument("--checkpoint", type=Path, help="of the CIFAR ResNet-20")
    options.add_argument("--cache", type=Path, help="folder for what is taken from the source "
                                                    "domain")
    options.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = options.parse_args()
    options.until = time.monotonic() + options.budget
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.stage == "table":
        from quality_table import table
        return table(options.out)
    if options.stage == "unknowns":
        done = unknowns(options)
    elif options.images:
        model, data, train = cifar(options)
        done = stages[options.stage](Bench(options, "cifar10_resnet20", model, train), options,
                                     data)
    else:
        done = all(stages[options.stage](Bench(options, source, load_model(source), SOURCE_IMAGES),
                                         options, {}) for source in options.sources)
    print("complete" if done else f"the budget of {options.budget:g} s is spent; the same command "
                                  f"goes on")


if __name__ == "__main__":
    main()
