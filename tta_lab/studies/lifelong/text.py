"""The study of lifelong adaptation in sentences that follow its numbers."""
from __future__ import annotations

import math

import numpy as np

from ...analysis.metrics import paired_interval
from ...models.embedded import checkpoints
from ..collapse.study import ranks_agree
from ..report import aligned, decimal, errors, interval, joined, nothing, signed
from ..report import points as points_of
from .study import (
    ANCHORS,
    ARMS,
    CYCLIC,
    MODEL,
    STREAMS,
    Study,
    change,
    forgetting_table,
    second_visits,
)


def say_rounds(result: Study) -> list[str]:
    """Where each arm starts and ends, and who ends above BN-1."""
    lines = ["Error in the first and in the last round: " + "; ".join(
                 f"{ARMS[a]} {result.mean(a, 'first'):.1f} and {result.mean(a, 'last'):.1f} %"
                 for a in result.arms) + "."]
    better = []
    worse = []
    for a in result.learners:
        points, error = result.against(a)
        if abs(points) > 2 * error:
            (better if points < 0 else worse).append(f"{ARMS[a]} ({signed(points)})")
    lines.append("In the last round, against BN-1 on the same images and beyond two standard "
                 f"errors over these images, better are {joined(better, 'none')}; worse "
                 f"{joined(worse, 'none')}.")
    climb = result.mean("tent_large", "last") - result.mean("tent_large", "first")
    flat = result.mean("batch_norm", "last") - result.mean("batch_norm", "first")
    points, error = result.against("tent_large")
    seen = climb > flat and points > 2 * error
    settled = result.plan.seeds < 2 or paired_interval(
        result.values("tent_large", "last"), result.values("batch_norm", "last"))["low"] > 0
    verdict = ("it gets worse as it goes on, as the papers on long streams report" if seen else
               "the decay that the papers on long streams report is not clearly seen here")
    lines.append(f"Tent at the large rate changes by {points_of(climb)} from the first round to "
                 f"the last, BN-1, which cannot learn, by {points_of(flat)}: {verdict}"
                 + ("" if settled or not seen else "; how much so differs from seed to seed, and "
                                                   "the interval over seeds holds 0") + ".")
    return lines


def say_forgetting(result: Study) -> list[str]:
    """What is forgotten of the clean images, and whether the anchors keep it."""
    t = forgetting_table(result)
    if not t["n"]:
        return ["There are no clean images, so nothing can be said of what is forgotten of them."]
    noise = 200 * math.sqrt(2 * t["before"] / 100 * (1 - t["before"] / 100)
                            / (t["n"] * result.plan.seeds))
    whole = (f" ({100 - checkpoints()[MODEL]['test_accuracy']:.1f} % on the whole test set)"
             if result.plan.embedded else "")
    after = dict(zip(t["keys"], t["after"], strict=True))
    lines = [f"On {t['n']} clean images that the streams did not show the source errs on "
             f"{t['before']:.1f} %{whole}. Afterwards: "
             f"{', '.join(f'{ARMS[a]} {v:.1f}' for a, v in after.items())} %."]
    lines.append("BN-1 has learned nothing, so its change "
                 f"({points_of(after['batch_norm'] - t['before'])}) is what batch statistics do to "
                 "clean images, not forgetting; the others are counted from there.")
    lost = [f"{ARMS[a]} ({signed(v - after['batch_norm'])})" for a, v in after.items()
            if v - after["batch_norm"] > noise]
    lines.append(f"More than {noise:.1f} points (two standard errors) are forgotten by "
                 f"{joined(lost, 'nobody')}.")
    if {"eta_large", "eata_large"} <= after.keys():
        gain = after["eta_large"] - after["eata_large"]
        kept = result.mean("eta_large", "last") - result.mean("eata_large", "last")
        verdict = ("keeps what ETA forgets, as the paper says" if gain > noise
                   else "forgets more than ETA here" if gain < -noise
                   else "makes no difference to forgetting that these images could show")
        lines.append(f"EATA differs from ETA only by the Fisher anchor: it {verdict} "
                     f"({after['eata_large']:.1f} against {after['eta_large']:.1f} %), and its "
                     f"error in the last round is {result.mean('eata_large', 'last'):.1f} against "
                     f"{result.mean('eta_large', 'last'):.1f} % ({points_of(-kept)}).")
    return lines


def say_distance(result: Study) -> list[str]:
    """How far the weights have gone, and whether the distance goes with forgetting."""
    lines = ["Distance of the tuned weights from the source's, at the end and at most, as a share "
             "of their length: " + "; ".join(f"{ARMS[a]} {100 * result.mean(a, 'distance'):.1f} % "
                                             f"({100 * result.mean(a, 'most'):.1f} %)"
                                             for a in result.learners) + "."]
    affine = [a for a in result.learners if a not in ("cotta", "rmt")]
    if len(affine) > 2 and result.plan.clean:
        r = ranks_agree([result.mean(a, "distance") for a in affine],
                        [result.mean(a, "clean") for a in affine])
        verdict = ("who goes further forgets more here" if r > 0.5
                   else "distance alone does not tell who forgets")
        lines.append(f"Among the {len(affine)} that tune the same weights (scale and shift of "
                     "batch norm), the ranks of distance and of the error on clean images "
                     f"correlate with {signed(r, 2)}: {verdict}.")
    return lines


def say_visits(result: Study) -> list[str]:
    """Is the second visit better than the first, beyond what BN-1 shows without learning?"""
    lines = []
    seen = {}
    for name, found in second_visits(result).items():
        chance = float(np.mean([change(result.visits[name, "batch_norm", k])[0]
                                for k in result.plan.all_seeds]))
        parts = []
        for a, points, error in zip(found["arms"], found["points"], found["error"], strict=True):
            settled = abs(points) > 2 * error
            seen[name, a] = (points, settled)
            parts.append(f"{ARMS[a]} {signed(points)} +- {error:.1f}" + (
                             " (better)" if settled and points < 0 else " (worse)" if settled
                             else ""))
        lines.append(f"Second visit minus first, {STREAMS[name]}: BN-1, which cannot learn, "
                     f"changes by {points_of(chance)}. Beyond that: {'; '.join(parts)}.")
    settled = [(n, a, p) for (n, a), (p, s) in seen.items() if s]

    def who(better):
        arms = {n: [ARMS[a] for m, a, p in settled if m == n and (p < 0) == better]
                for n in STREAMS}
        return "; ".join(f"{joined(found)} ({STREAMS[n]})" for n, found in arms.items()
                         if found) or "nobody"

    end = (f"; of {len(seen)} comparisons about {len(seen) / 20:.1f} would look so by chance"
           if settled else ": on so few images a second visit is neither clearly better nor worse")
    lines.append("Beyond two standard errors over images the second visit is better for "
                 f"{who(True)}, and worse for {who(False)}{end}.")
    return lines


def say_cyclic(result: Study) -> list[str]:
    """The two visits of each group, and the second pass within a visit."""
    lines = []
    if not result.cyclic:
        return ["The cyclic stream was left out, because one of its groups of shifts cannot be "
                "shown."]
    for arm in [a for a in CYCLIC if (a, result.plan.first_seed) in result.cyclic]:
        e = np.mean([result.cyclic[arm, k] for k in result.plan.all_seeds], axis=0)
        half = len(e) // 2
        lines.append(f"{ARMS[arm]}: first visit {np.nanmean(e[:half]):.1f} %, second "
                     f"{np.nanmean(e[half:]):.1f} %; within a visit {np.nanmean(e[0::2]):.1f} % at "
                     f"first and {np.nanmean(e[1::2]):.1f} % when the group comes again at once.")
    lines.append("All stretches show other images, so differences of a few points between them are "
                 "chance; compare with BN-1 in the same stretches.")
    return lines


def say_guard(result: Study) -> list[str]:
    """What guard and resets make of the large rate."""
    lines = []
    for a in ("tent_large", "guard_large", "rdumb_large"):
        if a not in result.arms:
            continue
        alarms = [result.runs[a, k]["alarm"] for k in result.plan.all_seeds]
        first = [x for x in alarms if x >= 0]
        clean = f", clean {result.mean(a, 'clean'):.1f} %" if result.plan.clean else ""
        text = (f"{ARMS[a]}: error {result.mean(a, 'mean'):.1f} %, last round "
                f"{result.mean(a, 'last'):.1f} %{clean}; ")
        text += f"alarm in {len(first)} of {len(alarms)} runs" + (
            f", first in step {int(np.median(first))}" if first else "")
        if a == "guard_large":
            text += (f"; the guard acted {result.mean(a, 'acted'):.1f} times and the run costs "
                     f"{result.mean(a, 'forwards'):.1f} forwards an image")
        if a == "rdumb_large":
            text += f"; {result.mean(a, 'resets'):.0f} resets, whether needed or not"
        lines.append(text + ".")
    if "guard_large" in result.arms:
        saved = result.mean("tent_large", "last") - result.mean("guard_large", "last")
        over = result.mean("guard_large", "last") - min(result.mean("batch_norm", "last"),
                                                        result.mean("source", "last"))
        text = ("changes nothing at the large rate" if nothing(saved)
                else f"saves {saved:.1f} points of the large rate" if saved > 0
                else f"costs {-saved:.1f} points against the large rate without it")
        where = ("level with" if nothing(over)
                 else f"{abs(over):.1f} points {'above' if over > 0 else 'below'}")
        lines.append(f"In the last round the guard {text} and ends {where} the better of source "
                     "and BN-1.")
    return lines


def say_seeds(result: Study) -> list[str]:
    """The last round against BN-1, paired over seeds, where there are several."""
    if result.plan.seeds < 2:
        return ["One seed: no interval over seeds. Full mode has three."]
    lines = []
    for a in result.learners:
        d = paired_interval(result.values(a, "last"), result.values("batch_norm", "last"))
        lines.append(f"{ARMS[a]} - BN-1 in the last round: {points_of(d['difference'])}, "
                     f"{interval(d)} ({d['n']} seeds).")
    return lines


def table(result: Study) -> str:
    """Errors in per cent and distances as shares of the weights' length, means over seeds."""
    lines = [("", "first round", "last round", "all", "clean", "distance", "resets", "forwards")]
    for a in result.arms:
        first, last, mean, clean, away, resets, forwards = (result.mean(a, what) for what in (
            "first", "last", "mean", "clean", "distance", "resets", "forwards"))
        lines.append((ARMS[a], f"{first:.1f}", f"{last:.1f}", f"{mean:.1f}",
                      decimal(clean, none="-"), f"{100 * away:.1f}%", f"{resets:.0f}",
                      f"{forwards:.1f}"))
    return aligned(lines, (-22, 12, 12, 8, 8, 10, 8, 10))


def say_live(numbers: dict, rate: float, anchor: str) -> str:
    """The panel's last line."""
    found = numbers["error"]
    clean = (f"; clean images {numbers['clean'][0]:.1f} %, {numbers['clean'][1]:.1f} % before"
             if numbers["clean"] else "")
    back = f"; went back {len(numbers['marks'])} times" if numbers["marks"] else ""
    return (f"Tent at {rate:g} times its rate, held by {ANCHORS[anchor]}: error "
            f"{found['this run']:.1f} % ({errors(found, 'this run')}){clean}; weights "
            f"{100 * numbers['distance']['distance'][-1]:.0f} % of their length from the "
            f"source's{back}.")
