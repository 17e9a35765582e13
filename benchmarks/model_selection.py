"""Choosing learning rates and methods without labels: what it costs against the oracle, on the
embedded data.

    python benchmarks/model_selection.py run --budget 1500    # candidates on seven streams of
    three sources; the same command goes on python benchmarks/model_selection.py corpus --runs
    FOLDER  # the runs of ``collapse.py``: seven models, up to 16 streams, no further run python
    benchmarks/model_selection.py table                # regret of every score in both studies, and
    the figure

Candidates: eight methods at 0.1 0.3 1 3 10 times their default rate, BN-1 and the source, over the
streams of ``quality.py``; source k sees the streams of seed k. Every finished run is a row of
``results/model_selection.csv``: its error and its label-free scores
(``tta_lab.analysis.model_selection``). Runs that stop because the loss is not finite are no
candidates: that is seen without labels.

Which score would have been chosen? Two answers are fixed before the numbers are looked at:
``AHEAD`` below, written before the first run, and the score with the least mean regret on the
first source. Both are reported on the other two sources, whose runs they have not seen. ``corpus``
asks the same of the runs that the collapse detector was made with
(``results/model_selection_corpus.csv``): on each stream the candidates are the source, BN-1, one
or two methods that move no weight and those that learn, at rates drawn at random from 0.1 to 100
times their default. The score is chosen on the three development models and reported on the four
held-out ones. Logits were not kept there.
"""
from __future__ import annotations

import argparse
import csv
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from quality import RATES, SOURCES, recipe_of, streams
from rows import Rows

from tta_lab import Adapter, load_model, make
from tta_lab.analysis import model_selection
from tta_lab.analysis.model_selection import GOOD, NAMES
from tta_lab.components.source.prepare import prepare
from tta_lab.data.load import load
from tta_lab.experiments.runner import row, run
from tta_lab.streams.cached import CachedStream

METHODS = ("tent", "eata", "sar", "shot_im", "slr", "deyo", "rpl", "wisdom_of_crowds")
ORDER = ("continual", "correlated", "batch_of_one", "open_set", "mixed_domains", "long_term",
         "reset_each_shift")
# a collapsed run is outvoted as long as most candidates are not collapsed in the same way
AHEAD = "vote"
FIELDS = ("source", "stream", "seed", "method", "rate", "error", *NAMES, "refused")
KNOWN_HERE = tuple(n for n in NAMES if n != "vote")


class Listening(Adapter):
    """An adapter that keeps the logits it gave."""

    def __call__(self, x, ids=None):
        logits = super().__call__(x, ids)
        self.said = [*getattr(self, "said", ()), logits.cpu()]
        return logits


def candidates():
    """(method, rate, recipe) of all candidates, the references first."""
    yield "source", 1.0, make("source")
    yield "batch_norm", 1.0, make("batch_norm")
    for name in METHODS:
        for rate in RATES:
            yield name, rate, recipe_of(name, factor=rate)


def label(r) -> str:
    return f"{r['method']} {float(r['rate']):g}"


class Table(Rows):
    def __init__(self, path: Path):
        super().__init__(path, FIELDS, digits=6)

    @staticmethod
    def key(r):
        return r["source"], r["stream"], r["method"], f"{float(r['rate']):g}"

    def write(self) -> None:
        part = self.path.with_suffix(".part")
        with open(part, "w", newline="") as f:
            writer = csv.DictWriter(f, FIELDS)
            writer.writeheader()
            writer.writerows(self.rows)
        os.replace(part, self.path)


def group(options, table: Table, source: str, stream_name: str, model, reference,
          seed: int) -> bool:
    """All candidates on one stream of one source. False when the time is up."""
    key = {"source": source, "stream": stream_name, "seed": seed}
    missing = [
        c for c in candidates()
        if Table.key({**key, "method": c[0], "rate": c[1]}) not in table.done
    ]
    votes = options.cache / f"{source}-{stream_name}.npz"
    said = dict(np.load(votes)) if votes.is_file() else {}
    if missing:
        stream = CachedStream(streams(seed=seed)[stream_name]())
        shared = {}
        frozen = None
    for name, rate, recipe in missing:
        if time.process_time() > options.budget:
            return False
        found = {**key, "method": name, "rate": rate}

        def made(recipe, stream=stream, shared=shared):
            given = prepare(model, recipe, load("fashion_mnist_train_slice"), device="cpu",
                            cache=options.cache)
            adapter = Listening(model, recipe, seed=seed, device="cpu", record="source",
                                channels_last=True, given=given)
            adapter.shared_source = shared
            return run(adapter, stream), torch.cat(adapter.said)

        try:
            frozen = frozen or made(make("source"))[0]
            trace, logits = made(recipe)
        except (ValueError, RuntimeError) as why:
            table.add({**found, "refused": f"{type(why).__name__}: {why}"[:200]})
            continue
        values = model_selection.scores(trace, reference, logits, frozen)
        said[label(found)] = trace["prediction"].astype(np.int16)
        np.savez_compressed(votes, **said)
        table.add(
            {**found, "error": float(row(trace)["error"]), **{n: values[n] for n in KNOWN_HERE}})
    voted = model_selection.votes(said)
    for r in table.rows:
        if (r["source"], r["stream"]) == (source, stream_name) and not r["refused"]:
            r["vote"] = f"{voted[label(r)]:.6g}"
    table.write()
    return True


def corpus(options) -> None:
    """Scores of the traces that ``collapse.py runs`` left in a folder; two or more candidates make
    a pool."""
    from collapse_corpus import Models

    from tta_lab.core.trace import Trace
    models, rows = Models(options.images, options.checkpoint), []
    for folder in sorted(p for p in options.runs.iterdir() if p.is_dir() and p.name != "given"):
        files: dict = {}
        for path in sorted(folder.glob("*.npz")):
            stream_name, seed, name = path.stem.split(" ", 2)
            files.setdefault((stream_name, seed), {})[name] = path
        model, _, _, slice_of = models[folder.name]
        anchor = model_selection.reference(
            model,
            load(slice_of) if isinstance(slice_of, str) else slice_of, limit=1000)
        for (stream_name, seed), paths in files.items():
            traces = {name: Trace.load(path) for name, path in paths.items()}
            traces = {name: t for name, t in traces.items() if not t.meta["failed"]}
            if "source" not in traces or len(traces) < 2:
                continue
            for t in traces.values():
                # not kept; all candidates of a stream saw the same images
                t._done["samples"]["id"] = [np.arange(len(t))]
            voted = model_selection.votes({name: t["prediction"] for name, t in traces.items()})
            for name, t in traces.items():
                known = t["known"].astype(bool) & (t["label"] >= 0)
                wrong = (t["prediction"] != t["label"])[known]
                values = model_selection.scores(t, anchor, source=traces["source"])
                found = {
                    "source": folder.name, "stream": stream_name, "seed": seed,
                    "method": name.partition(" x ")[0],
                    "rate": float(name.partition(" x ")[2] or 1),
                    "error": 100 * float(wrong.mean()), **values, "vote": voted[name]
                }
                rows.append(
                    {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in found.items()})
    out = Table(options.out / "model_selection_corpus.csv")
    out.rows = rows
    out.write()


# --- what the choice costs

def pools(rows):
    """(source, stream) -> {candidate: row}, refused runs left out."""
    out = {}
    for r in rows:
        if not r["refused"]:
            out.setdefault((r["source"], r["stream"]), {})[label(r)] = r
    return out


def chosen_by(pool: dict, score: str) -> str:
    return model_selection.ordered({name: float(r[score] or "nan") for name, r in pool.items()},
                                   GOOD[score])[0][0]


def regrets(pool: dict) -> dict[str, float]:
    """Regret in points of each score and of each rule that needs no run, for one pool of
    candidates."""
    errors = {name: float(r["error"]) for name, r in pool.items()}
    out = {
        score: model_selection.regret(errors, chosen_by(pool, score))["regret"] for score in NAMES
        if any(r[score] not in ("", "nan") for r in pool.values())
    }
    best = min(errors.values())
    defaults = [
        error - best for name, error in errors.items()
        if name.endswith(" 1") and name.split()[0] in METHODS
    ]
    out |= {"random": float(np.mean(list(errors.values())) - best)
            } | ({"published defaults": float(np.mean(defaults))} if defaults else {})
    return (out | {
        "source": errors["source 1"] -
        best, "BN-1": errors.get("batch_norm 1", errors["source 1"]) - best
    } if "source 1" in errors else out)


def averages(rows, sources, within: bool = False) -> dict[str, float]:
    """Mean regret over streams and sources of each rule that has one in every pool; ``within``:
    rates of one method are the candidates, averaged over the methods. Where a model has no
    batch-norm layer, BN-1 is the source."""
    found, count = {}, 0
    for (source, _), pool in pools(rows).items():
        if source not in sources:
            continue
        parts = ([{n: r for n, r in pool.items() if n.split()[0] == m}
                  for m in METHODS] if within else [pool])
        for part in parts:
            count += 1
            for name, value in regrets(part).items():
                found.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in found.items() if len(values) == count}


def learned(tuned: dict) -> str:
    """The score with the least mean regret on the runs for choosing."""
    return min((n for n in NAMES if n in tuned), key=tuned.get)


def show(title: str, tuned: dict, held_out: dict, first: str, others: str) -> None:
    best = learned(tuned)
    print(f"\n{title}: mean regret in points. * chosen on {first}: {best}; + chosen ahead: {AHEAD}")
    print(f"{'':24}{first:>22}{others:>22}")
    for name in sorted(held_out, key=held_out.get):
        mark = (" *" if name == best else "") + (" +" if name == AHEAD else "")
        print(f"{name + mark:24}{tuned.get(name, float('nan')):22.2f}{held_out[name]:22.2f}")


def table(out: Path) -> None:
    rows, study = Table(out / "model_selection.csv").rows, {}
    complete = {
        k for k, pool in pools(rows).items()
        if len([r for r in rows
                if (r["source"], r["stream"]) == k]) == 2 + len(METHODS) * len(RATES)
    }
    rows = [r for r in rows if (r["source"], r["stream"]) in complete]
    print("complete pools:",
          ", ".join(f"{source} {stream_name}" for source, stream_name in sorted(complete)))
    if any(r["source"] != SOURCES[0] for r in rows):
        for within, title in ((True, "rate of a method"), (False, "method and rate")):
            study[title] = averages(rows, SOURCES[1:], within)
            show(title, averages(rows, SOURCES[:1], within), study[title], SOURCES[0], "other two "
                                                                                       "sources")
    if (out / "model_selection_corpus.csv").is_file():
        from collapse_corpus import DEVELOPMENT, HELD_OUT
        rows = Table(out / "model_selection_corpus.csv").rows
        tuned = averages(rows, DEVELOPMENT)
        held_out = averages(rows, HELD_OUT)
        show("corpus", tuned, held_out, "development models", "held-out models")
        study["run (held-out models)"] = held_out
        print("\ncorpus, held-out models, regret in the worst pool:")
        found = [regrets(pool) for (source, _), pool in pools(rows).items() if source in HELD_OUT]
        names = dict.fromkeys(
            (AHEAD, learned(tuned), "entropy", "information", "source", "BN-1", "random"))
        print("  " + ", ".join(f"{n} {max(r[n] for r in found):.1f}" for n in names),
              f"({len(found)} pools)")
    from tta_lab.plots import plot_regret
    plot_regret({
        k: {n: v for n, v in values.items() if n != "random"} for k, values in study.items()
    }).savefig(out / "model_selection.png", dpi=80)


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("stage", choices=("run", "corpus", "table"))
    options.add_argument("--budget", type=float, default=1500, help="processor seconds")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options.add_argument("--cache", type=Path, required=False, help="folder for predictions and "
                                                                    "for what is taken from the "
                                                                    "source domain")
    options.add_argument("--runs", type=Path, help="folder of ``collapse.py runs``")
    options.add_argument("--images", type=Path, help="folder with CIFAR-10 pictures, test/CLASS/* "
                                                     "and train/CLASS/*, for corpus")
    options.add_argument("--checkpoint", type=Path, help="of the CIFAR ResNet-20, for corpus")
    options = options.parse_args()
    if options.stage == "table":
        return table(options.out)
    if options.stage == "corpus":
        torch.set_num_threads(options.threads)
        return corpus(options)
    options.cache = options.cache or options.out / "cache"
    torch.set_num_threads(options.threads)
    for folder in (options.out, options.cache):
        folder.mkdir(parents=True, exist_ok=True)
    rows = Table(options.out / "model_selection.csv")
    models = {source: load_model(source) for source in SOURCES}
    anchors = {
        s: model_selection.reference(m, load("fashion_mnist_train_slice"))
        for s, m in models.items()
    }
    # two sources first
    plan = [(stream_name, seed) for seeds in ((0, 1), (2,)) for stream_name in ORDER
            for seed in seeds]
    done = all(
        group(options, rows, SOURCES[seed], stream_name, models[SOURCES[seed]], anchors[
            SOURCES[seed]], seed) for stream_name, seed in plan)
    print("complete" if done else f"the budget of {options.budget:g} processor seconds is spent; "
                                  f"the same command goes on")


if __name__ == "__main__":
    main()
