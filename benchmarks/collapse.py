"""The collapse detector: its runs, its fit, and how good it is as a detector on models and images it was not fitted on.

    python benchmarks/collapse.py runs --runs FOLDER --part development
    python benchmarks/collapse.py runs --runs FOLDER --part held_out --images CIFAR_FOLDER --checkpoint FILE
    python benchmarks/collapse.py fit --runs FOLDER            # writes data/collapse/detector.json, from the development runs alone
    python benchmarks/collapse.py evaluate --runs FOLDER       # writes results/collapse_*: the held-out part, beside simple rules
    python benchmarks/collapse.py cost                         # what recording and detecting add to a step of Tent

``runs`` goes on where it stopped (``--budget`` seconds). What is fitted: the weights (logistic regression; a signal whose weight comes out negative
is left out), its strength of regularisation, the threshold and the patience, each by leaving one development model out. The rules that
the detector is compared with get their threshold and patience from the same development runs, but for the published one.
"""
from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from collapse_corpus import DEVELOPMENT, HELD_OUT, STREAMS, Models, make_runs, tuned_parameters

from tta_lab import collapse as detection
from tta_lab.collapse import SIGNALS, SOURCE_SIGNALS
from tta_lab.trace import Trace

NAMES = tuple(SIGNALS)
LIGHT = tuple(n for n in NAMES if n not in SOURCE_SIGNALS)
TARGET = 1.0                    # false alarms per 1000 healthy batches, on the development runs
PATIENCES = (1, 2, 3, 5, 8)
STRENGTHS = (0.01, 0.1, 1.0)    # C of the logistic regression
BEFORE = (10, 20, 30)           # batches before the established collapse from which on a run counts as collapsing
SKIPPED = 2                     # first batches that are not learned from
BOOTSTRAPS = 2000


@dataclass
class Run:
    """A finished run as the benchmark needs it."""

    source: str
    stream: str
    label: str
    truth: dict         # of tta_lab.collapse.collapse
    signals: np.ndarray  # (T, S)
    columns: dict       # entropy, marginal, disagreement, each (T,)
    classes: int
    failed: str

    @property
    def collapsed(self):
        return self.truth["outcome"] == "collapse"

    @property
    def healthy(self):
        return self.truth["outcome"] == "healthy"

    @property
    def established(self):
        return int(np.searchsorted(self.truth["step"], self.truth["established"]))


def load_runs(folder: Path, sources, models) -> list[Run]:
    found = []
    for source in sources:
        files: dict = {}
        for path in sorted((folder / source).glob("*.npz")):
            stream, seed, label = path.stem.split(" ", 2)
            files.setdefault((stream, seed), {})[label] = path
        for (stream, _), paths in files.items():
            if "source" not in paths or "batch_norm" not in paths and any(label in ("bn_ema", "batch_norm", "iabn") for label in paths):
                continue    # not finished yet
            references = [Trace.load(paths[name]) if name in paths else None for name in ("source", "batch_norm")]
            for label, path in paths.items():
                trace = Trace.load(path)
                trace.meta["trainable_parameters"] = tuned_parameters(source, label, models)
                seen = detection.watch(trace)
                n = np.bincount(trace["step"])
                columns = {"entropy": np.bincount(trace["step"], trace["entropy"]) / n, "marginal": trace.step("marginal_entropy"),
                           "disagreement": np.bincount(trace["step"], trace["prediction"] != trace["source_prediction"]) / n}
                found.append(Run(source, stream, label, detection.collapse(trace, *references), np.stack(list(seen["signals"].values()), 1), columns,
                                 trace.meta["classes"], trace.meta["failed"]))
    return found


# --- the fit ----------------------------------------------------------------------------------------------------------

def negative(run: Run) -> bool:
    """Runs without collapse that the weights are fitted on: healthy ones, and those that harm from the start but get no worse."""
    return run.healthy or run.truth["outcome"] == "from_start" and run.truth["whole_start"] < 1


def rows_of(runs, names, before):
    """Signals of batches (N, J), whether they belong to a collapse, and weights: each run counts alike, both kinds count alike."""
    x, y, w = [], [], []
    where = [NAMES.index(n) for n in names]
    for run in runs:
        if run.collapsed:
            x.append(run.signals[max(run.established - before, SKIPPED):, where])
        elif negative(run):
            x.append(run.signals[SKIPPED:, where])
        else:
            continue
        y += [run.collapsed] * len(x[-1])
        w += [1 / len(x[-1])] * len(x[-1])
    y, w = np.array(y), np.array(w)
    for kind in (False, True):
        w[y == kind] /= w[y == kind].sum()
    return np.concatenate(x), y, w * len(y) / 2


def fit_weights(runs, names, strength, before) -> dict:
    """Logistic regression on standardised signals; the one with the most negative weight is left out until there is none."""
    from sklearn.linear_model import LogisticRegression
    names = list(names)
    while True:
        x, y, w = rows_of(runs, names, before)
        there = np.isfinite(x)
        total = (w[:, None] * there).sum(0)
        center = (w[:, None] * np.where(there, x, 0)).sum(0) / total
        scale = np.sqrt((w[:, None] * np.where(there, x - center, 0) ** 2).sum(0) / total) + 1e-6
        z = np.nan_to_num(((x - center) / scale).clip(-detection.CLIP, detection.CLIP))
        model = LogisticRegression(C=strength, max_iter=1000).fit(z, y, sample_weight=w)
        weight = model.coef_[0]
        if (weight >= 0).all():
            return {"signals": names, "center": center.round(5).tolist(), "scale": scale.round(5).tolist(), "weight": weight.round(5).tolist(),
                    "bias": round(float(model.intercept_[0]), 5)}
        names.pop(int(weight.argmin()))


def probability(run: Run, fit: dict) -> np.ndarray:
    arrays = {**{k: np.array(fit[k]) for k in ("center", "scale", "weight")}, "rows": [NAMES.index(n) for n in fit["signals"]]}
    return 1 / (1 + np.exp(-(fit["bias"] + detection.evidence_of(run.signals, arrays).sum(1))))


def fit(folder: Path, models, out: Path) -> None:
    runs = load_runs(folder, DEVELOPMENT, models)
    print(outcomes(runs))
    found, log = {}, []
    for variant, names in (("light", LIGHT), ("source", NAMES)):
        best = None
        for before in BEFORE:
            for strength in STRENGTHS:
                scores = left_out(runs, names, strength, before)
                for patience in PATIENCES:
                    threshold, numbers = tune(runs, scores, patience, descending(1e-5, 0.5))
                    log.append({"variant": variant, "before": before, "strength": strength, "patience": patience, "threshold": threshold, **numbers})
                    value = numbers["recall"] + numbers["recall_in_time"] + 0.5 * numbers["recall_10"]
                    if best is None or value > best[0]:
                        best = value, before, strength, patience, threshold
        _, before, strength, patience, threshold = best
        found[variant] = {**fit_weights(runs, names, strength, before), "threshold": round(float(threshold), 6), "patience": patience,
                          "before": before, "strength": strength}
        print(variant, json.dumps(found[variant]))
        print({k: round(v, 3) for k, v in max((row for row in log if row["variant"] == variant and row["patience"] == patience
               and row["before"] == before and row["strength"] == strength), key=lambda row: row["recall"]).items() if isinstance(v, float)})
    found["fitted_on"] = {"models": list(DEVELOPMENT), "runs": len(runs), **{k: int(v) for k, v in outcomes(runs).items()}}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n")


def left_out(runs, names, strength, before):
    """Probabilities of each run by a detector fitted without its model."""
    fits = {source: fit_weights([r for r in runs if r.source != source], names, strength, before) for source in {r.source for r in runs}}
    return [probability(r, fits[r.source]) for r in runs]


def descending(low, high):
    return 1 - np.geomspace(low, high, 150)[::-1] if low < 1 else np.array([])


def tune(runs, scores, patience, thresholds):
    """The lowest threshold, in the given order of growing caution, with at most TARGET false alarms per 1000 healthy batches."""
    for threshold in thresholds:
        numbers = measure(runs, [first_alarms(s, threshold, patience) for s in scores])
        if numbers["false_alarms"] <= TARGET:
            break
    return threshold, numbers


# --- measuring a detector ----------------------------------------------------------------------------------------------

def first_alarms(score, threshold, patience) -> np.ndarray:
    """bool (T,): the score was above the threshold in the last ``patience`` steps."""
    above = np.nan_to_num(score, nan=np.inf) > threshold
    count = np.arange(1, len(above) + 1)
    since = count - np.maximum.accumulate(np.where(above, 0, count))
    return since >= patience


def facts_of(run: Run, alarm) -> dict:
    """What one run adds to the numbers of a detector."""
    first = int(alarm.argmax()) if alarm.any() else -1
    return {"collapsed": run.collapsed, "healthy": run.healthy, "batches": len(alarm), "alarmed": int(alarm.sum()), "any": first >= 0,
            "episodes": int((np.diff(alarm.astype(int), prepend=0) == 1).sum()), "first": first,
            "lead": run.established - first if run.collapsed and first >= 0 else np.nan}


def measure(runs, alarms) -> dict:
    return numbers_of([facts_of(r, a) for r, a in zip(runs, alarms, strict=True)])


def numbers_of(facts) -> dict:
    bad, good = [f for f in facts if f["collapsed"]], [f for f in facts if f["healthy"]]
    lead = np.array([f["lead"] for f in bad])
    caught, batches = np.isfinite(lead), max(sum(f["batches"] for f in good), 1)
    false = sum(f["any"] for f in good)
    quartiles = np.percentile(lead[caught], [25, 50, 75]) if caught.any() else [np.nan] * 3
    late = np.where(caught, lead, -1e9)
    return {"collapsing_runs": len(bad), "healthy_runs": len(good), "healthy_batches": batches, "recall": caught.mean() if len(bad) else np.nan,
            "recall_in_time": (late >= 0).mean() if len(bad) else np.nan, "recall_10": (late >= 10).mean() if len(bad) else np.nan,
            "precision": caught.sum() / max(caught.sum() + false, 1), "false_alarms": 1000 * sum(f["episodes"] for f in good) / batches,
            "batches_in_false_alarm": 1000 * sum(f["alarmed"] for f in good) / batches, "healthy_runs_alarmed": false / max(len(good), 1),
            "lead_q1": quartiles[0], "lead_median": quartiles[1], "lead_q3": quartiles[2]}


def outcomes(runs) -> dict:
    kinds = [r.truth["outcome"] for r in runs]
    return {k: kinds.count(k) for k in ("collapse", "healthy", "from_start", "recovered", "borderline")}


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("stage", choices=("runs", "fit", "evaluate", "cost"))
    options.add_argument("--runs", type=Path, help="folder of the finished runs")
    options.add_argument("--part", choices=("development", "held_out"), default="development")
    options.add_argument("--sources", nargs="+")
    options.add_argument("--streams", nargs="+", default=tuple(STREAMS))
    options.add_argument("--seeds", nargs="+", type=int, default=[0])
    options.add_argument("--budget", type=float, default=3600, help="seconds")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--images", type=Path, help="folder with CIFAR-10 pictures, test/CLASS/* and train/CLASS/*")
    options.add_argument("--checkpoint", type=Path, help="of the CIFAR ResNet-20")
    options.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = options.parse_args()
    torch.set_num_threads(options.threads)
    models = Models(options.images, options.checkpoint)
    if options.stage == "runs":
        sources = options.sources or {"development": DEVELOPMENT, "held_out": HELD_OUT}[options.part]
        done = make_runs(options.runs, sources, options.seeds, models, time.monotonic() + options.budget, options.streams)
        print("complete" if done else "the budget is spent; the same command goes on")
    elif options.stage == "fit":
        fit(options.runs, models, Path(__file__).parents[1] / "data" / "collapse" / "detector.json")


if __name__ == "__main__":
    main()
