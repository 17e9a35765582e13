"""How the guard's knobs were chosen: runs on the development networks alone, recorded once and
answered again with other knobs.

    python benchmarks/guard_knobs.py record --runs FOLDER --budget 1200    # goes on where it
    stopped python benchmarks/guard_knobs.py replay --runs FOLDER                  # writes
    results/guard_knobs.csv

Who answers does not feed back on what is learned and done at an alarm. So a run is recorded with
the logits of source, BN-1 and method, by a guard that acts and never chooses; `replay` then lets
`Guard.answer` itself choose from them, with any knobs. Each action is a recording of its own;
where nothing alarmed, the run without action stands for all. ``replay`` varies one knob at a time
around the defaults, and the action; and it multiplies all logits by 2 and by 3, which leaves every
error as it is and makes the networks too sure of themselves.
"""
from __future__ import annotations

import argparse
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from collapse import write_csv
from collapse_corpus import Models, recipe_of
from guard import DEVELOPMENT, SIX, STREAMS, errors, guards, recipes_on, worst_window
from quality import Kept

from tta_lab import Adapter
from tta_lab.components.controllers.guard import Guard, _references
from tta_lab.components.source.prepare import prepare
from tta_lab.data import load as datasets_load
from tta_lab.data.corruptions import STANDARD_SIX
from tta_lab.experiments.runner import run
from tta_lab.streams import protocols
from tta_lab.streams.stream import Stream

# more streams of small batches, where the choice is hardest; recorded with seed 0 and three
# recipes
SMALL = {
    "tiny2": lambda k, u, s: protocols.continual(k, STANDARD_SIX, per_shift=100, batch=2, seed=s),
    "small8": lambda k, u, s: protocols.continual(k, STANDARD_SIX, per_shift=250, batch=8, seed=s),
    "clean4": lambda k, u, s: Stream(k, ("none",), per_shift=1200, batch=4, seed=s),
    "noise4": lambda k, u, s: Stream(k, ("gaussian_noise",), per_shift=1200, batch=4, seed=s),
    "cont4": lambda k, u, s: protocols.continual(k, per_shift=80, batch=4, seed=s),
    "sorted4": lambda k, u, s: protocols.correlated(k, delta=0, per_shift=200, batch=4, seed=s, **
                                                    SIX),
    "mixed4": lambda k, u, s: protocols.mixed_domains(k, per_shift=80, batch=4, seed=s),
}
ACTING = {  # name -> knobs of the guard that acts
    "none": {"action": "none"}, "guard": {},
    "smaller step, factor 0.1": {"factor": 0.1}, "roll back": {"action": "roll back"},
    "reset": {"action": "reset"}, "stop": {"action": "stop"},
}
# what a guard asks for -> what was recorded
KINDS = {"running": "source", "batch": "batch_norm", "method": "method"}
VARIED = {
    "window": (40, 100, 200), "per_class": (30.0, 100.0), "prior": (10.0, 50.0),
    "caution": (1.1, 1.3), "charge": (0.0, 1.0, 2.0), "clumped": (0.0, 0.25, 0.75),
    "margin": (0.02, 0.1), "doubt": (0.8, 1.5, 2.0), "unsure": (0.4, 0.6), "slack": (0.02,)
}
# the rule by information alone
BEFORE = {
    "window": 200, "caution": 1.1, "charge": 0.0, "clumped": 0.0, "margin": 0.02, "doubt": 2.0,
    "unsure": 0.4
}

ALWAYS = {"choose": False}


@dataclass(frozen=True)
class Recorder(Guard):
    """A guard that acts, keeps what its choice would see, and never chooses."""

    def answer(self, ctx, logits, rows, step, state):
        references = _references(ctx, rows, state["batch_norm"])
        seen = {"source": references[0], "batch_norm": references[-1], "method": logits.detach()}
        state.setdefault("seen", []).append({name: z.half().numpy() for name, z in seen.items()} | {
            "n": len(logits), "probability": step["alarm_probability"], "alarm": step["alarm"],
            "stopped": state["stopped"], "rest": state["rest"]
        })
        step["answered_by"] = 0
        return logits


def record(folder: Path, models: Models, acting, seeds, until: float) -> bool:
    """Make what is missing, one file a run; False when the time is up."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = [(seed, s) for seed in seeds for s in (*STREAMS, *(SMALL if seed == 0 else ()))]
    for seed, name in plan:
        for source in DEVELOPMENT:
            model, known, unknown, images = models[source]
            number = 5000 + 100 * seed + zlib.crc32(source.encode()) % 97
            stream = Kept((STREAMS | SMALL)[name](known, unknown, number))
            shared = {}
            for label in recipes_on(source, name, seed)[:3 if name in SMALL else 4]:
                for arm in acting:
                    path = file_of(folder, source, name, seed, label, arm)
                    if path.exists() or arm != "none" and not np.load(
                            file_of(folder, source, name, seed, label, "none"))["alarm"].any():
                        continue
                    if time.monotonic() > until:
                        return False
                    recipe = guards(recipe_of(label), (Recorder(**ACTING[arm]),))
                    given = (prepare(model, recipe, datasets_load.load(images), device="cpu",
                                     cache=models.cache) if label.startswith("eata") else {})
                    adapter = Adapter(model, recipe, seed=seed, device="cpu", channels_last=True,
                                      source_info=given)
                    adapter.shared_source = shared
                    trace = run(adapter, stream)
                    rows = adapter.states["controllers"][-1]["seen"]
                    joined = {
                        k: np.concatenate([r[k] for r in rows])
                        if np.ndim(rows[0][k]) else np.array([r[k] for r in rows]) for k in rows[0]
                    }
                    np.savez(path, **joined, label=trace["label"],
                             scored=trace["known"].astype(bool) & (trace["label"] >= 0),
                             both=adapter.states["controllers"][-1]["batch_norm"])
    return True


def file_of(folder: Path, source, stream, seed, label, arm) -> Path:
    return folder / f"{source}~{stream}~{seed}~{label}~{arm}.npz"


class Seen:
    """What `Guard.answer` asks a view for."""

    def __init__(self, logits: dict):
        self.logits = logits

    def part(self, rows):
        return self

    def source_logits(self, statistics: str):
        return self.logits[statistics]


def answered(found: dict, guard: Guard, sharper: float = 1.0) -> np.ndarray:
    """Index into `tta_lab.components.controllers.guard.ANSWERS` for each image, (N,): who would
    have answered; all logits are multiplied by ``sharper``."""
    state = {"evidence": {}, "best": 0, "batch_norm": bool(found["both"])}
    ends, by = np.cumsum(found["n"]), []
    for t, end in enumerate(ends):
        rows = slice(end - found["n"][t], end)
        z = {
            kind: sharper * torch.from_numpy(found[name][rows]).float()
            for kind, name in KINDS.items()
        }
        step = {"alarm_probability": found["probability"][t]}
        state.update(stopped=bool(found["stopped"][t]), rest=int(found["rest"][t]))
        guard.answer(Seen(z), z["method"], None, step, state)
        by.append(step["answered_by"])
    return np.repeat(by, found["n"])


def outcome(found: dict, plain: dict, guard: Guard, sharper: float) -> dict:
    """Points of one run: above the better reference with the guard ("whole", "last") and without
    ("plain"), worst window above the source."""
    wrong = {
        name: 100.0 * (found[name].argmax(1) != found["label"])[found["scored"]]
        for name in KINDS.values()
    }
    by = answered(found, guard, sharper)[found["scored"]]
    ours = np.choose(by, [wrong["method"], wrong["source"], wrong["batch_norm"]])
    alone = 100.0 * (plain["method"].argmax(1) != plain["label"])[plain["scored"]]
    references = np.array([
        errors(wrong[name]) for name in ("source", *(("batch_norm",) if found["both"] else ()))
    ]).min(0)
    whole, last = errors(ours) - references
    return {
        "whole": whole, "last": last, "plain": errors(alone)[0] - references[0],
        "change": ours.mean() - alone.mean(), "worst_window": worst_window(ours, wrong["source"]),
        "over_source": ours.mean() - wrong["source"].mean()
    }


def replay(folder: Path, arm: str, guard: Guard, recorded: dict, sharper: float = 1.0,
           every: tuple = ()) -> dict:
    """The numbers of all recorded runs with these knobs; of those that are recorded with all
    actions of ``every``."""
    rows = []
    for path in sorted(folder.glob("*~none.npz")):
        other = path.with_name(path.name.replace("~none.npz", f"~{arm}.npz"))
        for p in (path, other):
            if p not in recorded and p.exists():
                recorded[p] = dict(np.load(p))
        needed = [
            path.with_name(path.name.replace("~none.npz", f"~{a}.npz")) for a in (arm, *every)
        ]
        if recorded[path]["alarm"].any() and not all(p.exists() for p in needed):
            continue    # not recorded yet
        rows.append(
            outcome(recorded.get(other, recorded[path]), recorded[path], guard, sharper)
            | {"stream": path.name.split("~")[1]})
    column = {name: np.array([r[name] for r in rows]) for name in rows[0]}
    healthy = column["plain"] <= 1
    clean = np.char.startswith(column["stream"], "clean")
    return {
        "runs": len(rows), "whole over 1, plain": int((~healthy).sum()), "whole over 1": int(
            (column["whole"] > 1).sum()), "last over 1": int((column["last"] > 1).sum()),
        "mean": column["whole"].mean(), "max": column["whole"].max(), "healthy": int(healthy.sum()),
        "healthy lose over 0.2": int((column["change"][healthy] > 0.2).sum()),
        "healthy change": column["change"][healthy].mean(), "window over 3": int(
            (column["worst_window"] > 3).sum()), "clean": int(clean.sum()), "clean over 0.5": int(
                (column["over_source"][clean] > 0.5).sum())
    }


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("stage", choices=("record", "replay"))
    options.add_argument("--runs", type=Path, required=True, help="folder of the recorded runs")
    options.add_argument("--acting", nargs="+", default=list(ACTING), choices=list(ACTING))
    options.add_argument("--seeds", nargs="+", type=int, default=[0])
    options.add_argument("--budget", type=float, default=2400, help="seconds")
    options.add_argument("--cache", type=Path, help="folder for what is taken from the source "
                                                    "domain")
    options.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = options.parse_args()
    torch.set_num_threads(1)
    if options.stage == "record":
        models = Models(None, None)
        models.cache = options.cache
        done = record(options.runs, models, ["none", *(a for a in options.acting if a != "none")],
                      options.seeds,
                      time.monotonic() + options.budget)
        return print("complete" if done else "the budget is spent; the same command goes on")
    recorded: dict = {}
    settings = [("as it is", {}, 1), ("method always answers", ALWAYS, 1),
                ("information alone", BEFORE, 1)]
    settings += [(f"{name}, logits x {k}", knobs, k) for k in (2, 3)
                 for name, knobs in (("as it is", {}), ("information alone", BEFORE))]
    settings += [(f"{name} = {value:g}", {name: value}, 1) for name, values in VARIED.items()
                 for value in values]
    plan = [(name, "guard", knobs, k, ()) for name, knobs, k in settings]
    plan[7:7] = [(f"action: {arm}{name}", arm, knobs, 1, tuple(ACTING)) for arm in ACTING
                 for name, knobs in (("", {}), (", method always answers", ALWAYS))]
    rows = []
    for name, arm, knobs, sharper, every in plan:
        rows.append({
            "setting": name, **replay(options.runs, arm, Guard(**knobs), recorded, sharper, every)
        })
        write_csv(options.out / "guard_knobs.csv", rows)


if __name__ == "__main__":
    main()
