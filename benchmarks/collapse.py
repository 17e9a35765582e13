"""The collapse detector: its runs, its fit, and how good it is as a detector on models and images
it was not fitted on.

    python benchmarks/collapse.py runs --runs FOLDER --part development python
    benchmarks/collapse.py runs --runs FOLDER --part held_out --images CIFAR_FOLDER --checkpoint
    FILE python benchmarks/collapse.py fit --runs FOLDER            # writes
    data/collapse/detector.json, from the development runs alone python benchmarks/collapse.py
    evaluate --runs FOLDER       # writes results/collapse_*: the held-out part, beside simple
    rules python benchmarks/collapse.py cost                         # what recording and detecting
    add to a step of Tent

``runs`` goes on where it stopped (``--budget`` seconds). What is fitted: the weights (logistic
regression; a signal whose weight comes out negative is left out), its strength of regularisation,
the threshold and the patience, each by leaving one development model out. The rules that the
detector is compared with get their threshold and patience from the same development runs, but for
the published one.
"""
from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from collapse_corpus import DEVELOPMENT, HELD_OUT, STREAMS, Models, make_runs, start_of

from tta_lab.analysis import collapse as detection_collapse
from tta_lab.components.controllers import collapse_detector as detection
from tta_lab.components.controllers.collapse_detector import SIGNALS, SOURCE_SIGNALS
from tta_lab.core.parts import Controller
from tta_lab.core.trace import Trace

NAMES = tuple(SIGNALS)
LIGHT = tuple(n for n in NAMES if n not in SOURCE_SIGNALS)
TARGET = 1.0                    # false alarms per 1000 healthy batches, on the development runs
PATIENCES = (1, 2, 3, 5)
PENALTIES = (3e-4, 1e-3, 3e-3)  # of the squared weights
BENDS = (0.02, 0.25, 0.5, 0.7, 0.85, 0.95, 0.99)    # quantiles where curves bend
# batches before the established collapse from which on a run counts as collapsing
BEFORE = (10, 20, 30)
SKIPPED = 2                     # first batches that are not learned from
BOOTSTRAPS = 2000


@dataclass
class Run:
    """A finished run as the benchmark needs it."""

    source: str
    stream: str
    label: str
    truth: dict         # of tta_lab.analysis.collapse.collapse
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
            if "source" not in paths or "batch_norm" not in paths and any(
                    label in ("bn_ema", "batch_norm", "iabn") for label in paths):
                continue    # not finished yet
            references = [
                Trace.load(paths[name]) if name in paths else None
                for name in ("source", "batch_norm")
            ]
            for label, path in paths.items():
                trace = Trace.load(path)
                trace.meta |= start_of(source, label, models)
                seen = detection_collapse.detect(trace)
                n = np.bincount(trace["step"])
                columns = {
    "entropy": np.bincount(trace["step"], trace["entropy"]) / n,
    "marginal": trace.step("marginal_entropy"), "disagreement": np.bincount(
                        trace["step"], trace["prediction"] != trace["source_prediction"]) / n
                }
                found.append(
                    Run(source, stream, label, detection_collapse.collapse(trace, *references),
                        np.stack(list(seen["signals"].values()), 1), columns, trace.meta["classes"],
                        trace.meta["failed"]))
    return found


# --- the fit ------------------------------------------------------------------------------------

def negative(run: Run) -> bool:
    """Runs without collapse that the weights are fitted on: healthy ones, and those that harm from
    the start but get no worse."""
    return run.healthy or run.truth["outcome"] == "from_start" and run.truth["whole_start"] < 1


def rows_of(runs, names, before):
    """Signals of batches (N, J), whether they belong to a collapse, and weights: each run counts
    alike, both kinds count alike."""
    x = []
    y = []
    w = []
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


def curves_at(x, w) -> list[np.ndarray]:
    """Where the curve of each signal may bend: weighted quantiles."""
    found = []
    for column in x.T:
        there = np.isfinite(column)
        order = np.argsort(column[there])
        share = np.cumsum(w[there][order])
        at = np.interp(np.array(BENDS) * share[-1], share, column[there][order])
        found.append(at[np.append(True, np.diff(at) > 1e-6)])
    return found


def ramps(x, bends) -> np.ndarray:
    """From 0 to 1 between two neighbouring bends of a signal, (N, sum of stretches); 0 without
    data."""
    columns = [
        np.interp(column, (lo, hi), (0, 1)) for column, at in zip(x.T, bends, strict=True)
        for lo, hi in zip(at[:-1], at[1:], strict=True)
    ]
    return np.nan_to_num(np.stack(columns, 1))


def fit_weights(runs, names, strength, before) -> dict:
    """Additive logistic regression with rising curves: a weight of 0 or more for each ramp, with
    an L2 penalty (scipy, L-BFGS-B).

    The start of a stretch without data is the usual value of healthy runs, so ramps are counted
    from there: a signal without data adds 0.
    """
    from scipy.optimize import minimize
    x, y, w = rows_of(runs, names, before)
    usual = np.array([np.nanmedian(column[~y]) for column in x.T])
    bends = curves_at(x, w)
    home = ramps(usual[None], bends)
    r = np.where(np.repeat(np.isfinite(x), [len(b) - 1 for b in bends], axis=1),
                 ramps(x, bends) - home, 0.0)
    sign, w = np.where(y, 1.0, -1.0), w / w.sum()

    def loss(theta):
        z = sign * (r @ theta[:-1] + theta[-1])
        slope = -w * sign / (1 + np.exp(z.clip(-500, 500)))
        return (w * np.logaddexp(0, -z)).sum() + penalty * (theta[:-1]**2).sum(), np.append(
            r.T @ slope + 2 * penalty * theta[:-1], slope.sum())

    penalty = strength
    theta = minimize(loss, np.zeros(r.shape[1] + 1), jac=True, method="L-BFGS-B",
                     bounds=[(0, None)] * r.shape[1] + [(None, None)]).x
    signals, done = {}, 0
    for name, at, middle in zip(names, bends, usual, strict=True):
        weights = theta[done:done + len(at) - 1]
        done += len(at) - 1
        if weights.sum() > 0.05:      # else it says nothing
            adds = np.append(0, np.cumsum(weights))
            signals[name] = {
                "at": at.round(5).tolist(),
                "adds": (adds - np.interp(middle, at, adds)).round(4).tolist()
            }
    return {"signals": signals, "bias": round(float(theta[-1]), 4)}


def probability(run: Run, fit: dict) -> np.ndarray:
    return 1 / (1 + np.exp(-(fit["bias"] + detection.evidence_of(run.signals, fit).sum(1))))


def fit(folder: Path, models, out: Path) -> None:
    runs = load_runs(folder, DEVELOPMENT, models)
    print(outcomes(runs))
    found, log = {}, []
    for variant, names in (("light", LIGHT), ("source", NAMES)):
        best = None
        for before in BEFORE:
            for strength in PENALTIES:
                scores = left_out(runs, names, strength, before)
                for patience in PATIENCES:
                    threshold, numbers = tune(runs, scores, patience, descending(1e-5, 0.5))
                    log.append({
    "variant": variant, "before": before, "strength": strength,
    "patience": patience, "threshold": threshold, **numbers
                    })
                    value = (numbers["recall"] + numbers["recall_in_time"] +
                             0.5 * numbers["recall_10"])
                    if best is None or value > best[0]:
                        best = value, before, strength, patience, threshold
        _, before, strength, patience, threshold = best
        found[variant] = {
            **fit_weights(runs, names, strength, before), "threshold": round(float(threshold), 6),
            "patience": patience, "before": before, "strength": strength
        }
        print(variant, json.dumps(found[variant]))
        print({
            k: round(v, 3)
            for k, v in max((row for row in log
                             if row["variant"] == variant and row["patience"] == patience
                             and row["before"] == before and row["strength"] == strength
                             ), key=lambda row: row["recall"]).items() if isinstance(v, float)
        })
    found["fitted_on"] = {
        "models": list(DEVELOPMENT), "runs": len(runs),
        **{k: int(v) for k, v in outcomes(runs).items()}
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n")


def left_out(runs, names, strength, before):
    """Probabilities of each run by a detector fitted without its model."""
    fits = {
        source: fit_weights([r for r in runs if r.source != source], names, strength, before)
        for source in {r.source for r in runs}
    }
    return [probability(r, fits[r.source]) for r in runs]


def descending(low, high):
    return 1 - np.geomspace(low, high, 150)[::-1] if low < 1 else np.array([])


def tune(runs, scores, patience, thresholds):
    """The lowest threshold, in the given order of growing caution, with at most TARGET false
    alarms per 1000 healthy batches."""
    for threshold in thresholds:
        numbers = measure(runs, [first_alarms(s, threshold, patience) for s in scores])
        if numbers["false_alarms"] <= TARGET:
            break
    return threshold, numbers


# --- measuring a detector -----------------------------------------------------------------------

def first_alarms(score, threshold, patience) -> np.ndarray:
    """bool (T,): the score was above the threshold in the last ``patience`` steps."""
    above = np.nan_to_num(score, nan=np.inf) > threshold
    count = np.arange(1, len(above) + 1)
    since = count - np.maximum.accumulate(np.where(above, 0, count))
    return since >= patience


def facts_of(run: Run, alarm) -> dict:
    """What one run adds to the numbers of a detector."""
    first = int(alarm.argmax()) if alarm.any() else -1
    return {
        "collapsed": run.collapsed, "healthy": run.healthy, "batches": len(alarm),
        "alarmed": int(alarm.sum()), "any": first >= 0, "episodes": int(
            (np.diff(alarm.astype(int), prepend=0) == 1).sum()), "first": first,
        "lead": run.established - first if run.collapsed and first >= 0 else np.nan
    }


def measure(runs, alarms) -> dict:
    return numbers_of([facts_of(r, a) for r, a in zip(runs, alarms, strict=True)])


def numbers_of(facts) -> dict:
    bad = [f for f in facts if f["collapsed"]]
    good = [f for f in facts if f["healthy"]]
    lead = np.array([f["lead"] for f in bad])
    caught = np.isfinite(lead)
    batches = max(sum(f["batches"] for f in good), 1)
    false = sum(f["any"] for f in good)
    quartiles = np.percentile(lead[caught], [25, 50, 75]) if caught.any() else [np.nan] * 3
    late = np.where(caught, lead, -1e9)
    return {
        "collapsing_runs": len(bad), "healthy_runs": len(good), "healthy_batches": batches,
        "recall": caught.mean() if len(bad) else np.nan,
        "recall_in_time": (late >= 0).mean() if len(bad) else np.nan,
        "recall_10": (late >= 10).mean() if len(bad) else np.nan,
        "precision": caught.sum() / max(caught.sum() + false, 1),
        "false_alarms": 1000 * sum(f["episodes"] for f in good) / batches,
        "batches_in_false_alarm": 1000 * sum(f["alarmed"] for f in good) / batches,
        "healthy_runs_alarmed": false / max(len(good), 1), "lead_q1": quartiles[0],
        "lead_median": quartiles[1], "lead_q3": quartiles[2]
    }


def outcomes(runs) -> dict:
    kinds = [r.truth["outcome"] for r in runs]
    return {
        k: kinds.count(k) for k in ("collapse", "healthy", "from_start", "recovered", "borderline")
    }


# --- the evaluation -----------------------------------------------------------------------------

def mean_of_recent(values, momentum=0.9) -> np.ndarray:
    """e <- momentum e + (1 - momentum) v from the first value on."""
    found, e = [], values[0]
    for v in values:
        e = momentum * e + (1 - momentum) * v
        found.append(e)
    return np.array(found)


RULES = {  # what it is compared with: name -> score of a run (T,), large where it collapses
    "entropy mean (SAR), tuned":
        lambda r: -mean_of_recent(r.columns["entropy"]) / np.log(r.classes),
    "marginal entropy, tuned": lambda r: -r.columns["marginal"] / np.log(r.classes),
    "source disagreement, tuned": lambda r: mean_of_recent(r.columns["disagreement"]),
    "weight distance, tuned": lambda r: np.fmax(r.signals[:, NAMES.index("distance")], r.signals[:,
        NAMES.index("distance_test")]),
}
# 0.2 nats for 1000 classes, a share of ln 1000 that is kept for other numbers
PUBLISHED = "entropy mean (SAR), published"
OURS = {"light": "detector", "source": "detector + source"}


def detectors(development) -> dict:
    """name -> (score of a run, threshold, patience, all thresholds of its curve); the rules are
    tuned on the development runs as the detector is."""
    made = {}
    for variant, name in OURS.items():
        fit = detection.fitted(variant)
        made[name] = (
            lambda r, fit=fit: probability(r, fit)), fit["threshold"], fit["patience"], descending(
                1e-6, 0.9)
    for name, score in RULES.items():
        scores, best = [score(r) for r in development], None
        every = np.quantile(np.concatenate(scores), np.linspace(0.2, 1, 400))
        for patience in PATIENCES:
            threshold, numbers = tune(development, scores, patience, every)
            value = numbers["recall"] + numbers["recall_in_time"] + 0.5 * numbers["recall_10"]
            if numbers["false_alarms"] <= TARGET and (best is None or value > best[0]):
                best = value, threshold, patience
        made[name] = score, best[1], best[2], every
    made[PUBLISHED] = RULES["entropy mean (SAR), tuned"], -0.2 / np.log(1000), 1, np.array([])
    return made


def arrays_of(facts) -> dict:
    """The facts of runs as arrays, for sums with weights."""
    lead = np.array([f["lead"] for f in facts])
    bad, good = (np.array([f[k] for f in facts], float) for k in ("collapsed", "healthy"))
    caught = np.isfinite(lead) * bad
    return {
        "bad": bad, "good": good, "caught": caught,
        "in_time": caught * (np.nan_to_num(lead, nan=-1e9) >= 0),
        "ten": caught * (np.nan_to_num(lead, nan=-1e9) >= 10), "lead": lead,
        "any": np.array([f["any"] for f in facts], float) * good,
        "batches": np.array([f["batches"] for f in facts]) * good,
        "episodes": np.array([f["episodes"] for f in facts]) * good
    }


def intervals(facts, clusters, rng) -> dict:
    """95 % intervals of the numbers when whole clusters of runs are drawn again."""
    a = arrays_of(facts)
    names = sorted(set(clusters))
    member = np.array([names.index(c) for c in clusters])
    weight = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), BOOTSTRAPS)[:, member]
    total = {k: weight @ v for k, v in a.items() if k != "lead"}
    with np.errstate(all="ignore"):
        found = {
            "recall": total["caught"] / total["bad"],
            "recall_in_time": total["in_time"] / total["bad"],
            "recall_10": total["ten"] / total["bad"],
            "precision": total["caught"] / (total["caught"] + total["any"]),
            "false_alarms": 1000 * total["episodes"] / total["batches"]
        }
    seen = np.flatnonzero(a["caught"])
    order = seen[np.argsort(a["lead"][seen])]
    if len(order):
        half = np.cumsum(weight[:, order], axis=1)
        at = (half >= half[:, -1:] / 2).argmax(1)
        found["lead_median"] = a["lead"][order][at]
    return {
        k: np.nanpercentile(v, [2.5, 97.5]) if np.isfinite(v).any() else (np.nan, np.nan)
        for k, v in found.items()
    }


def groups_of(runs) -> dict:
    """name -> mask: all, each model, and the collapsing runs by how bad they ended (with all
    healthy ones)."""
    last = np.array([r.truth["excess"][-1] for r in runs])
    bad = np.array([r.collapsed for r in runs])
    masks = ({"all": np.ones(len(runs), bool)} | {
        s: np.array([r.source == s for r in runs]) for s in dict.fromkeys(r.source for r in runs)
    })
    for name, low, high in (("ends 2 to 5 points worse", 2, 5),
                            ("ends 5 to 15 points worse", 5, 15), ("ends 15 or more points worse",
                                                                   15, 1e9)):
        masks[name] = ~bad | (last > low) & (last <= high)
    shifted = {"sorted", "correlated", "label_shift", "recurring", "zipf", "zipf_grouped"}
    late = np.array([r.established >= 20 for r in runs])
    masks["collapse after 20 batches"] = ~bad | late
    masks["streams with label shift"] = np.array([r.stream in shifted for r in runs])
    masks["other streams"] = ~masks["streams with label shift"]
    return masks


def evaluate(folder: Path, models, out: Path) -> None:
    parts = {
        "development": load_runs(folder, DEVELOPMENT, models),
        "held_out": load_runs(folder, HELD_OUT, models)
    }
    made = detectors(parts["development"])
    rng = np.random.default_rng(0)
    table = []
    listed = []
    curves = {}
    leads = {}
    chosen = {}
    for part, runs in parts.items():
        print(part, len(runs), outcomes(runs), flush=True)
        rows = [{
            "part": part, "model": r.source, "stream": r.stream, "recipe": r.label,
            "outcome": r.truth["outcome"], "batches": len(r.truth["step"]),
            "established": r.truth["established"], "onset": r.truth["onset"],
            "excess_last": round(float(r.truth["excess"][-1]),
                                 2), "excess_whole": round(r.truth["whole"],
                                                           2), "broke_off": r.failed
        } for r in runs]
        for name, (score, threshold, patience, every) in made.items():
            scores = [score(r) for r in runs]
            facts = [
                facts_of(r, first_alarms(s, threshold, patience))
                for r, s in zip(runs, scores, strict=True)
            ]
            for row, f in zip(rows, facts, strict=True):
                row |= {
                    f"first_alarm: {name}": f["first"],
                    f"false_alarms: {name}": f["episodes"] if f["healthy"] else ""
                }
            for group, mask in groups_of(runs).items():
                inside = [f for f, m in zip(facts, mask, strict=True) if m]
                numbers = {
    "part": part, "detector": name, "group": group, "threshold": threshold,
    "patience": patience, **numbers_of(inside)
                }
                streams = [f"{r.source} {r.stream}" for r, m in zip(runs, mask, strict=True) if m]
                for kind, clusters in (("runs", range(len(inside))), ("streams", streams)):
                    for k, (low, high) in intervals(inside, list(clusters), rng).items():
                        numbers |= {f"{k}_low_{kind}": low, f"{k}_high_{kind}": high}
                table.append(numbers)
            others = {
                kind: [f for f, r in zip(facts, runs, strict=True) if r.truth["outcome"] == kind]
                for kind in ("from_start", "recovered", "borderline")
            }
            table[-len(groups_of(runs))] |= {
                f"alarmed_{kind}": np.mean([f["any"] for f in fs]) if fs else np.nan
                for kind, fs in others.items()
            }
            if part == "held_out":
                leads[name] = np.array([f["lead"] for f in facts if f["collapsed"]])
                here = table[-len(groups_of(runs))]
                chosen[name] = [here["false_alarms"], here["recall"]]
                points = [
                    measure(runs, [first_alarms(s, t, patience) for s in scores])
                    for t in every[::3]
                ]
                curves[name] = ({
                    k: [p[k] for p in points] for k in ("false_alarms", "recall", "recall_in_time")
                } | {"threshold": every[::3].tolist()})
        listed += rows
    out.mkdir(parents=True, exist_ok=True)
    write_csv(out / "collapse_detector.csv", table)
    write_csv(out / "collapse_runs.csv", listed)
    numbers = {
        "curves": {k: v for k, v in curves.items() if v["recall"]}, "chosen": chosen,
        "leads": {k: v.tolist() for k, v in leads.items()},
        "outcomes": {part: outcomes(runs) for part, runs in parts.items()},
        "exchanged": exchanged(folder, models)
    }
    (out / "collapse_curves.json").write_text(json.dumps(rounded(numbers)) + "\n")
    figures(out)
    for row in table:
        if row["part"] == "held_out" and row["group"] in ("all", *HELD_OUT):
            print(
                f"{row['group']:<22}{row['detector']:<42}", {
                    k: round(float(row[k]), 3)
                    for k in ("collapsing_runs", "healthy_batches", "recall", "recall_in_time",
                              "precision", "false_alarms", "lead_q1", "lead_median", "lead_q3")
                })


def exchanged(folder: Path, models, draws: int = 3) -> dict:
    """How often chance alone is called a collapse: runs in which, image by image, a coin decides
    whether the run's or the better reference's answer counts as the run's, so that neither is
    better; share of such runs with the outcome "collapse", and with outcomes that are not
    healthy."""
    rng, kinds = np.random.default_rng(0), []
    for source in DEVELOPMENT:
        for path in sorted((folder / source).glob("* 0 *.npz")):
            stream, _, label = path.stem.split(" ", 2)
            names = [n for n in ("source", "batch_norm") if (folder / source / f"{stream} 0 "
                                                                               f"{n}.npz").exists()]
            if label in names or "source" not in names:
                continue
            trace = Trace.load(path)
            references = [Trace.load(folder / source / f"{stream} 0 {n}.npz") for n in names]
            mine = trace["prediction"]
            theirs = [r["prediction"][:len(trace)] for r in references]
            other = min(theirs, key=lambda p: (p != trace["label"]).mean())
            for _ in range(draws):
                coin = rng.random(len(trace)) < 0.5
                columns = trace.columns()
                ours, reference = (columns | {"prediction": np.where(c, mine, other)}
                                   for c in (coin, ~coin))
                steps = (trace.columns("steps")
                         | {"distance": np.ones(len(np.unique(trace["step"])))})
                kinds.append(
                    detection_collapse.collapse(Trace.from_columns(ours, steps),
                                                Trace.from_columns(reference, steps))["outcome"])
    return {
        "runs": len(kinds), "collapse": kinds.count("collapse") / len(kinds),
        "harmed": 1 - kinds.count("healthy") / len(kinds)
    }


# --- what it costs ------------------------------------------------------------------------------

@dataclass(frozen=True)
class Watching(Controller):
    """A controller that lets the detector look, and does nothing."""

    watches = True

    def init(self, model, source):
        return detection.CollapseDetector().init(model, source)

    def watch(self, adapter, samples, step, state):
        step["alarm"], step["alarm_probability"] = detection.CollapseDetector().look(
            samples, step, state)


def cost(out: Path, repeats: int, threads: int) -> None:
    """CPU time of a Tent step of ResNet-20 on 32 x 32 images: bare, recorded, with the detector;
    taken in turn, round by round."""
    from speed import resnet20

    from tta_lab import Adapter, make
    torch.manual_seed(0)
    model, rows = resnet20().eval(), []
    variants = {"not recorded": (make("tent"), "off"), "recorded": (make("tent"), "light"),
                "detector": (make("tent", controllers=(Watching(),)), "off"),
                "recorded and detector": (make("tent", controllers=(Watching(),)), "light")}
    for batch in (64, 200):
        x = torch.rand(batch, 3, 32, 32)
        seconds = {name: [] for name in variants}
        adapters = {
            name: Adapter(model, recipe, record=record, device="cpu")
            for name, (recipe, record) in variants.items()
        }
        for turn in range(repeats + 3):
            for name, adapter in adapters.items():
                began = time.process_time()
                adapter(x)
                if turn >= 3:
                    seconds[name].append(time.process_time() - began)
        for name, values in seconds.items():
            shares = np.array(values) / np.array(seconds["not recorded"]) - 1
            low, middle, high = np.percentile(shares, [10, 50, 90])
            rows.append({
                "batch": batch, "tent": name, "ms_median": 1e3 * float(np.median(values)),
                "added_share_median": float(middle), "added_share_low": float(low),
                "added_share_high": float(high), "rounds": repeats, "threads": threads,
                "added_share_of_medians": float(
                    np.median(values) / np.median(seconds["not recorded"]) - 1),
                "load": os.getloadavg()[0], "torch": str(torch.__version__),
                "python": platform.python_version(), "date": datetime.date.today().isoformat()
            })
            print(rows[-1])
    write_csv(out / "collapse_cost.csv", rows)


def rounded(value):
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return round(float(value), 5) if np.isfinite(value) else None
    return value


def write_csv(path: Path, rows: list[dict]) -> None:
    fields = list(dict.fromkeys(k for row in rows for k in row))
    with open(path, "w", newline="") as f:
        writer = csv.DictWriter(f, fields)
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.5g}" if isinstance(v, (float, np.floating)) else v for k, v in row.items()}
            for row in rows)
    print(f"written to {path}")


def figures(out: Path) -> None:
    from tta_lab.plots import plot_collapse_detector
    numbers = json.loads((out / "collapse_curves.json").read_text())
    # a still lower threshold would merge alarms into one long one, and their number fall
    for curve in numbers["curves"].values():
        peak = int(np.argmax(curve["false_alarms"]))
        curve |= {k: v[peak:] for k, v in curve.items()}
    plot_collapse_detector(numbers).savefig(out / "collapse_detector.png", dpi=110)


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("stage", choices=("runs", "fit", "evaluate", "figures", "cost"))
    options.add_argument("--runs", type=Path, help="folder of the finished runs")
    options.add_argument("--part", choices=("development", "held_out"), default="development")
    options.add_argument("--sources", nargs="+")
    options.add_argument("--streams", nargs="+", default=tuple(STREAMS))
    options.add_argument("--seeds", nargs="+", type=int, default=[0])
    options.add_argument("--budget", type=float, default=3600, help="seconds")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--images", type=Path, help="folder with CIFAR-10 pictures, test/CLASS/* "
                                                     "and train/CLASS/*")
    options.add_argument("--checkpoint", type=Path, help="of the CIFAR ResNet-20")
    options.add_argument("--repeats", type=int, default=30, help="rounds of the cost")
    options.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = options.parse_args()
    torch.set_num_threads(options.threads)
    models = Models(options.images, options.checkpoint)
    if options.stage == "runs":
        sources = (options.sources
                   or {"development": DEVELOPMENT, "held_out": HELD_OUT}[options.part])
        done = make_runs(options.runs, sources, options.seeds, models,
                         time.monotonic() + options.budget, options.streams)
        print("complete" if done else "the budget is spent; the same command goes on")
    elif options.stage == "figures":
        figures(options.out)
    elif options.stage == "cost":
        cost(options.out, options.repeats, options.threads)
    elif options.stage == "evaluate":
        evaluate(options.runs, models, options.out)
    elif options.stage == "fit":
        fit(options.runs, models, Path(__file__).parents[1] / "data" / "collapse" / "detector.json")


if __name__ == "__main__":
    main()
