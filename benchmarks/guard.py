"""What a guard changes: runs with and without it, beside the source and BN-1 on the same stream.

    python benchmarks/guard.py runs --part development --budget 600        # the networks and
    streams that the guard's knobs were chosen on python benchmarks/guard.py runs --part held_out
    --images CIFAR_FOLDER --checkpoint FILE    # other networks; nothing was tuned on them python
    benchmarks/guard.py actions --images ... --checkpoint ...       # stop, roll back, reset,
    smaller steps, and other ways to recover python benchmarks/guard.py actions --part development
    # the same where the default action was chosen python benchmarks/guard.py table
    # numbers and figures of what has been run so far

Every finished run is a row of ``results/guard_<part>.csv`` or ``guard_actions_<part>.csv`` at
once; a run that is there is not made again, and a command ends at its budget in seconds. Each
stream meets Tent at its default rate and at 30 times of it, and two more recipes drawn from the
names alone. "whole" is the error over all scored images, "last" that of the last 500; both are
compared with the better of source and BN-1 on the same images, "last, one reference" with the one
of the two that is better on the whole stream. "worst_window" is the most that any `LAST` images in
a row err more than the source does. How the knobs were chosen: ``guard_knobs.py``.
"""
from __future__ import annotations

import argparse
import json
import os
import time
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from collapse_corpus import Models, recipe_of
from quality import Kept
from rows import Rows

from tta_lab import Adapter, make
from tta_lab.components.controllers.guard import ACTIONS, Guard
from tta_lab.components.controllers.resets import CollapseRecovery, ResetEvery
from tta_lab.components.source.prepare import prepare
from tta_lab.data import load as datasets_load
from tta_lab.data.corruptions import STANDARD_SIX
from tta_lab.experiments.runner import run
from tta_lab.streams import protocols
from tta_lab.streams.stream import Stream

DEVELOPMENT = ("fashion_resnet_bn", "fashion_resnet_bn_1", "fashion_resnet_gn")
HELD_OUT = ("fashion_resnet_bn_2", "fashion_vit_ln", "fashion8_resnet_bn", "cifar10_resnet20")
SIX = {"shifts": STANDARD_SIX}
STREAMS = {
    "continual": lambda k, u, s: protocols.continual(k, per_shift=150, batch=50, seed=s),
    "sorted": lambda k, u, s: protocols.correlated(k, delta=0, per_shift=400, batch=32, seed=s, **
                                                   SIX),
    "small_batches": lambda k, u, s: protocols.continual(k, per_shift=200, batch=4, seed=s, **SIX),
    "clean": lambda k, u, s: Stream(k, ("none",), per_shift=2000, batch=32, seed=s),
    "mixed": lambda k, u, s: protocols.mixed_domains(k, per_shift=150, batch=50, seed=s),
    "clean_sorted": lambda k, u, s: protocols.correlated(k, ("none",), delta=0, per_shift=1600,
                                                         batch=32, seed=s),
    "long_term": lambda k, u, s: protocols.long_term(k, rounds=4, per_shift=100, batch=25, seed=s,
                                                     **SIX),
    "correlated": lambda k, u, s: protocols.correlated(k, per_shift=400, batch=32, seed=s, **SIX),
    "open_set": lambda k, u, s: protocols.open_set(k, u, per_shift=200, batch=20, seed=s, **SIX),
    "batch_of_one": lambda k, u, s: protocols.batch_of_one(k, per_shift=100, seed=s, **SIX),
    "label_shift": lambda k, u, s: protocols.label_shift(k, ratio=100, per_shift=400, batch=32, seed
                                                         =s, **SIX),
    "gradual": lambda k, u, s: protocols.gradual(k, STANDARD_SIX[:4], per_shift=60, batch=30, seed=s
                                                 ),
    "noise": lambda k, u, s: Stream(k, ("gaussian_noise",), per_shift=2000, batch=32, seed=s),
}
POOL = ("eta x 10", "eata", "sar x 10", "rotta", "tent@source", "tent@source x 30", "roid",
        "pseudo_label x 10", "rpl x 10", "deyo", "shot_im x 10", "slr", "cmf")
NO_BATCH_NORM = ("eta x 10", "sar x 10", "roid", "pseudo_label x 10", "rpl x 10", "deyo",
                 "shot_im x 10", "slr", "eata", "cmf")
WAYS = {  # for `actions`: controllers beside those of the method
    "plain": (), "guard": (Guard(),), "choice alone": (Guard(action="none"),),
    "smaller step alone": (Guard(choose=False),),
    "roll back alone": (Guard(action="roll back", choose=False),),
    "reset alone": (Guard(action="reset", choose=False),),
    "stop": (Guard(action="stop"),), "roll back": (Guard(action="roll back"),),
    "reset": (Guard(action="reset"),),
    "ResetEvery(10)": (ResetEvery(10),), "ResetEvery(50)": (ResetEvery(50),),
    "CollapseRecovery": (CollapseRecovery(),),
}
ACTION_STREAMS = ("continual", "small_batches", "noise", "open_set")
ACTION_RECIPES = ("tent x 30", "pseudo_label x 30", "tent", "eta x 100")
FIELDS = ("source", "stream", "recipe", "arm", "seed", "images", "whole", "last", "source_whole",
          "source_last", "bn_whole", "bn_last", "worst_window", "alarms", "acted", "by_source",
          "by_bn", "forwards", "seconds", "refused", "settings")
LAST = 500


class Runs(Rows):
    def __init__(self, path: Path):
        super().__init__(path, FIELDS)

    @staticmethod
    def key(row):
        return tuple(str(row[k]) for k in ("source", "stream", "recipe", "arm", "seed"))

    def has(self, *key) -> bool:
        return tuple(map(str, key)) in self.done


def recipes_on(source: str, stream: str, seed: int) -> list[str]:
    """The recipes that meet this stream: Tent at two rates and two drawn from the names alone."""
    rng = np.random.default_rng(zlib.crc32(f"guard {source} {stream} {seed}".encode()))
    pool = POOL if has_batch_norm(source) else NO_BATCH_NORM
    return ["tent", "tent x 30", *map(str, rng.choice(pool, 2, replace=False))]


def has_batch_norm(source: str) -> bool:
    return "_bn" in source or source == "cifar10_resnet20"


def wrong_in(trace) -> np.ndarray:
    """100 where the prediction is wrong, else 0, for each scored image."""
    scored = trace["known"].astype(bool) & (trace["label"] >= 0)
    return 100.0 * (trace["prediction"] != trace["label"])[scored]


def errors(wrong) -> tuple[float, float]:
    """Error in per cent over all scored images and over the last `LAST`."""
    return float(wrong.mean()), float(wrong[-LAST:].mean())


def worst_window(wrong, source) -> float:
    """The most points by which any `LAST` scored images in a row (all, where there are fewer) err
    more than the source does."""
    total = np.append(0, np.cumsum(wrong - source))
    size = min(LAST, len(wrong))
    return float((total[size:] - total[:-size]).max() / size)


def guards(recipe, controllers):
    return replace(recipe, controllers=(*recipe.controllers, *controllers))


def make_rows(rows: Runs, models: Models, until: float, source: str, stream: str, seed: int,
              wanted: dict) -> bool:
    """``wanted``: (recipe, arm) -> controllers. False when the time is up."""
    todo = {key: value for key, value in wanted.items() if not rows.has(source, stream, *key, seed)}
    if not todo:
        return True
    model, known, unknown, images = models[source]
    if stream == "open_set" and unknown is None:
        return True
    made = Kept(STREAMS[stream](known, unknown,
                                5000 + 100 * seed + zlib.crc32(source.encode()) % 97))
    shared = {}

    def trace_of(recipe, label):
        given = {}
        if label == "eata":
            source = datasets_load.load(images) if isinstance(images, str) else images
            given = prepare(model, recipe, source, device="cpu", cache=models.cache)
        adapter = Adapter(model, recipe, seed=seed, device="cpu", channels_last=True,
                          source_info=given)
        adapter.shared_source = shared
        return run(adapter, made)

    by_source = wrong_in(trace_of(make("source"), "source"))
    references = {"source": errors(by_source), "batch_norm": (float("nan"),) * 2}
    if has_batch_norm(source):
        references["batch_norm"] = errors(wrong_in(trace_of(make("batch_norm"), "batch_norm")))
    for (label, arm), controllers in todo.items():
        if time.monotonic() > until:
            return False
        began = time.process_time()
        row = {"source": source, "stream": stream, "recipe": label, "arm": arm, "seed": seed,
               "source_whole": references["source"][0], "source_last": references["source"][1],
               "bn_whole": references["batch_norm"][0], "bn_last": references["batch_norm"][1]}
        try:
            trace = trace_of(guards(recipe_of(label), controllers), label.partition(" ")[0])
        except (RuntimeError, ValueError) as why:
            rows.add({**row, "refused": f"{type(why).__name__}: {why}"[:150]})
            continue
        wrong = wrong_in(trace)
        row["whole"], row["last"], row["worst_window"], row["images"] = *errors(
            wrong), worst_window(wrong, by_source), len(wrong)
        row["forwards"], row["seconds"] = float(
            trace.step("forwards").sum() / trace.step("n").sum()), time.process_time() - began
        if "action" in trace.columns("steps"):
            by = trace.step("answered_by")
            (did, times) = np.unique(trace.step("action").astype(int), return_counts=True)
            row |= {
                "alarms": int((trace.step("alarm") > 0).sum()), "by_source": float(
                    (by == 1).mean()), "by_bn": float((by == 2).mean()),
                "acted": " ".join(f"{ACTIONS[a].replace(' ', '_')}:{n}"
                                  for a, n in zip(did, times, strict=True)
                                  if a), "settings": repr(controllers)
            }
        rows.add(row)
    return True


# --- tables -------------------------------------------------------------------------------------

def excess(row: dict, part: str) -> float:
    """Points above the better of source and BN-1 on the same images ("whole" or "last")."""
    references = [float(row[f"{name}_{part}"]) for name in ("source", "bn")]
    return float(row[part]) - float(np.nanmin(references))


def named_excess(row: dict) -> float:
    """Points on the last images above the reference that is the better one on the whole stream."""
    better = "bn" if float(row["bn_whole"]) < float(row["source_whole"]) else "source"
    return float(row["last"]) - float(row[f"{better}_last"])


def summary(rows: list[dict], arm: str = "guard", tolerance: float = 1.0,
            loss: float = 0.2) -> dict:
    """How many runs end more than ``tolerance`` points above the better reference with and without
    the guard, what healthy runs lose."""
    pairs: dict = {}
    for r in rows:
        if r["whole"]:
            pairs.setdefault(tuple(r[k] for k in ("source", "stream", "recipe", "seed")),
                             {})[r["arm"]] = r
    pairs = {key: (p["plain"], p[arm]) for key, p in pairs.items() if {"plain", arm} <= p.keys()}
    found = {"runs": len(pairs), "arm": arm}
    for name, measure in (("whole", lambda r: excess(r, "whole")),
                          ("last", lambda r: excess(r, "last")), ("last, one reference",
                                                                  named_excess)):
        for who, values in (("plain", [measure(p) for p, _ in pairs.values()]),
                            (arm, [measure(g) for _, g in pairs.values()])):
            values = np.array(values)
            found[f"{name}, {who}"] = {
                "over": int((values > tolerance).sum()), "median": float(
                    np.median(values)), "mean": float(values.mean()), "p90": float(
                        np.quantile(values, 0.9)), "max": float(values.max())
            } if len(values) else {}
    healthy = {
        key: float(g["whole"]) - float(p["whole"]) for key, (p, g) in pairs.items()
        if excess(p, "whole") <= tolerance
    }
    found["healthy"] = {
        "runs": len(healthy), "mean change": float(np.mean(list(healthy.values()) or [np.nan])),
        f"lose more than {loss}": sum(v > loss for v in healthy.values())
    }
    clean = [key for key in pairs if key[1].startswith("clean")]
    found["safety"] = {
        "windows over 3": {
            "plain": sum(float(p["worst_window"]) > 3 for p, _ in pairs.values()),
            arm: sum(float(g["worst_window"]) > 3 for _, g in pairs.values())
        }, "worst window": {
            "plain": max((float(p["worst_window"]) for p, _ in pairs.values()), default=np.nan),
            arm: max((float(g["worst_window"]) for _, g in pairs.values()), default=np.nan)
        }, "windows over 3, by stream": dict(
            Counter(k[1] for k, (_, g) in pairs.items() if float(g["worst_window"]) > 3)),
        "clean runs": len(clean), "clean, over 0.5": {
            who: sum(
                float(pairs[k][i]["whole"]) - float(pairs[k][i]["source_whole"]) > 0.5
                for k in clean) for i, who in enumerate(("plain", arm))
        }
    }
    found["healthy losses"] = {
        " / ".join(k): round(v, 2) for k, v in sorted(healthy.items(), key=lambda i: -i[1])
        if v > loss
    }
    found["exceptions"] = {
        " / ".join(k): {
            "whole": round(excess(g, "whole"), 2), "last": round(excess(g, "last"), 2),
            "last, one reference": round(named_excess(g), 2), "plain": round(excess(p, "whole"), 2)
        } for k, (p, g) in pairs.items() if max(excess(g, "whole"), excess(g, "last")) > tolerance
    }
    return found


def table(out: Path):
    """Write guard_summary.json and the figures, print the numbers."""
    from tta_lab import plots
    found = {}
    for part in ("development", "held_out", "actions_development", "actions_held_out"):
        path = out / f"guard_{part}.csv"
        if not path.is_file():
            continue
        # two processes that begin at once may both write a head
        rows = [r for r in Runs(path).rows if r["source"] != "source"]
        arms = sorted({r["arm"] for r in rows} - {"plain"})
        found[part] = {arm: summary(rows, arm) for arm in arms}
        if part.startswith("actions"):
            for arm in arms:
                found[part][arm] = {
                    k: v for k, v in found[part][arm].items()
                    if k not in ("exceptions", "healthy losses")
                }
            continue
        pairs = {(r["source"], r["stream"], r["recipe"], r["seed"], r["arm"]): r for r in rows
                 if r["whole"]}
        numbers = {}
        for name in ("whole", "last"):
            numbers[name] = {}
            for source in dict.fromkeys(r["source"] for r in rows):
                keys = [
                    k[:4] for k in pairs
                    if k[0] == source and k[4] == "plain" and (*k[:4], "guard") in pairs
                ]
                numbers[name][source] = tuple(
                    np.array([excess(pairs[*k, arm], name) for k in keys])
                    for arm in ("plain", "guard"))
        (out / f"guard_{part}.png").write_bytes(plots.png(plots.plot_guard_runs(numbers)))
    (out / "guard_summary.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("stage", choices=("runs", "actions", "table"))
    options.add_argument("--part", choices=("development", "held_out"), default="held_out")
    options.add_argument("--sources", nargs="+")
    options.add_argument("--streams", nargs="+", default=list(STREAMS), choices=list(STREAMS))
    options.add_argument("--seeds", nargs="+", type=int, default=[0])
    options.add_argument("--budget", type=float, default=2400, help="seconds")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--images", type=Path, help="folder with CIFAR-10 pictures, test/CLASS/* "
                                                     "and train/CLASS/*")
    options.add_argument("--checkpoint", type=Path, help="of the CIFAR ResNet-20")
    options.add_argument("--cache", type=Path, help="folder for what is taken from the source "
                                                    "domain")
    options.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = options.parse_args()
    torch.set_num_threads(options.threads)
    if options.stage == "table":
        return table(options.out)
    models = Models(options.images, options.checkpoint)
    until = time.monotonic() + options.budget
    models.cache = options.cache
    sources = options.sources or {"development": DEVELOPMENT, "held_out": HELD_OUT}[options.part]
    sources = [s for s in sources if options.images or s != "cifar10_resnet20"]
    rows = Runs(options.out /
                f"guard_{'actions_' * (options.stage == 'actions')}{options.part}.csv")
    for seed in options.seeds:
        for stream in options.streams if options.stage == "runs" else ACTION_STREAMS:
            for source in sources:
                if options.stage == "actions":
                    wanted = {(recipe, way): controllers for recipe in ACTION_RECIPES
                              for way, controllers in WAYS.items()}
                else:
                    wanted = {(recipe, arm): c for recipe in recipes_on(source, stream, seed)
                              for arm, c in (("plain", ()), ("guard", (Guard(),)))}
                if not make_rows(rows, models, until, source, stream, seed, wanted):
                    print(f"the budget of {options.budget:g} s is spent; the same command goes on")
                    return
    print("complete")


if __name__ == "__main__":
    main()
