"""The study of normalisation in sentences that follow its numbers."""
from __future__ import annotations

import math
from functools import partial

import numpy as np

from ..report import aligned, decimal, errors, joined, listed, points, share, signed
from .study import (
    ARMS,
    HARM,
    KINDS,
    LEARN,
    METHODS,
    SETTINGS,
    SOURCES,
    Plan,
    Study,
    differences,
    harmed,
    kind_of,
    of_gradients,
    parts_sources,
)


def words_of(kind: str, plan: Plan | None = None) -> str:
    """A kind of normalisation in words; what networks have it only where they are the embedded
    ones."""
    return KINDS[kind] if plan is None or set(plan.sources) <= set(SOURCES) else KINDS[kind].split(
        " (")[0]


def _by_setting(values: dict, show) -> str:
    return ", ".join(f"{show(v)} ({SETTINGS[s]})" for s, v in values.items())


def _gains(result: Study) -> dict[str, float]:
    """Error of BN-1 minus that of the source in each setting, in points."""
    return {s: result.mean("BN", s, "batch_norm") - result.mean("BN", s, "source")
            for s in SETTINGS}


def say_sources(result: Study) -> list[str]:
    """What the settings do to the sources as they are, and to batch statistics."""
    lines = []
    for kind in result.plan.kinds:
        own = {s: result.mean(kind, s, "source") for s in SETTINGS}
        lines.append(f"{words_of(kind, result.plan)}: the source errs on "
                     f"{_by_setting(own, lambda v: decimal(v) + ' %')}.")
    if result.plan.of_kind("BN"):
        bn = _gains(result)
        helped, hurt, same = ([SETTINGS[s] for s, v in bn.items() if test(v)] for test in (
            lambda v: v < -1, lambda v: v > 1, lambda v: abs(v) <= 1))
        lines.append("Batch statistics (BN-1) change the error of their own source by "
                     f"{_by_setting(bn, points)}.")
        lines.append(f"So they help under {joined(helped, 'none of the settings')} and harm under "
                     f"{joined(hurt, 'none of them')}"
                     + (f"; under {joined(same)} they make less than a point of difference."
                        if same else "."))
    return lines


def say_methods(result: Study) -> list[str]:
    """Who ends below and who above its own source, settled over images for each source of its
    kind."""
    found = differences(result)
    rows = list(zip(found["rows"], found["values"], found["settled"], strict=True))
    lines = []
    for i, name in enumerate(found["columns"]):
        better, worse = ([f"{r} ({signed(v[i])})" for r, v, s in rows if s[i] and v[i] * sign > 0]
                         for sign in (-1, 1))
        lines.append(f"{name.capitalize()}: better than the own source, beyond two standard "
                     f"errors: {joined(better, 'nobody')}; worse: {joined(worse, 'nobody')}.")
    size = found["values"].size
    lines.append(f"Of these {size} comparisons about {size / 20:.0f} would look settled by chance.")
    if result.plan.of_kind("BN"):
        found = differences(result, "batch_norm")
        rows = zip(found["rows"], found["values"], found["settled"], strict=True)
        moved = [f"{r} under {name} ({signed(v[i])})" for r, v, s in rows
                 if r in {f"BN: {METHODS[m]}" for m in LEARN}
                 for i, name in enumerate(found["columns"]) if s[i]]
        lines.append("Against BN-1, from which Tent, SAR and DeYO start, learning itself makes a "
                     f"settled difference for: {joined(moved, 'none of them')}.")
    return lines


def say_seeds(result: Study) -> list[str]:
    """How much the three batch-norm sources, trained alike from other seeds, differ from each
    other."""
    names = result.plan.of_kind("BN")
    if not set(result.plan.sources) <= set(SOURCES):
        return []
    if len(names) < 2:
        return ["Fast mode has one batch-norm source; full mode adds two that were trained from "
                "other seeds."]
    spread = {s: [result.values(n, s, "batch_norm").mean() - result.values(n, s, "source").mean()
                  for n in names] for s in SETTINGS}
    return ["BN-1 minus own source, for each of the batch-norm sources: " + "; ".join(
                f"{SETTINGS[s]} {', '.join(f'{signed(v)}' for v in values)}"
                for s, values in spread.items()) + " points."]


def say_statistics(numbers: dict, result: Study) -> list[str]:
    """Which statistics are nearer to the right ones, and whether the error follows."""
    away = {s: float(np.mean(v)) for s, v in numbers["settings"].items()}
    stored = float(np.mean(numbers["source"]))
    near, far = ([SETTINGS[s] for s, v in away.items() if (v < stored) == nearer]
                 for nearer in (True, False))
    lines = [f"Distance from the right statistics, mean over layers: {stored:.2f} nats for those "
             "stored in the source; for those of a batch "
             f"{_by_setting(away, lambda v: decimal(v, 2))}.",
             "Statistics of a batch are nearer than the stored ones under "
             f"{joined(near, 'no setting')}"
             + (f", and further away under {joined(far)}." if far else ".")]
    most = {s: int(numbers["layers"][np.argmax(v)]) for s, v in numbers["settings"].items()}
    lines.append("They are furthest off at layer "
                 f"{int(numbers['layers'][np.argmax(numbers['source'])])} of "
                 f"{len(numbers['layers'])} (stored), "
                 f"{_by_setting(most, str)}.")
    gain = _gains(result)
    last = {s: float(v[-1]) for s, v in numbers["settings"].items()}
    for where, found, limit in (("over all layers", away, stored),
                                ("at the last layer alone", last, numbers["source"][-1])):
        others = [SETTINGS[s] for s in SETTINGS if (found[s] < limit) != (gain[s] < 0)]
        lines.append("Nearer statistics should mean that BN-1 errs less than the source. By the "
                     f"distance {where} this is so in {len(SETTINGS) - len(others)} of "
                     f"{len(SETTINGS)} settings"
                     + (f", not under {joined(others)}." if others else "."))
    return lines


def say_in_use(numbers: dict) -> list[str]:
    """How restless the statistics in use are, and the error that goes with them."""
    lines = []
    for method, line in numbers["lines"].items():
        late = line[np.isfinite(line)]
        jump = float(np.median(np.abs(np.diff(late)))) if len(late) > 1 else math.nan
        lines.append(f"{METHODS[method]}: {decimal(float(np.mean(late)), 2)} nats from the "
                     f"source's statistics on average, {decimal(jump, 2)} from one batch to the "
                     f"next (median); error {numbers['error'][method]:.1f} %.")
    least = min(numbers["error"], key=numbers["error"].get)
    return [*lines, f"Least error of these under {SETTINGS[numbers['setting']]}: {METHODS[least]}."]


def say_gradients(found: dict, plan: Plan | None = None) -> list[str]:
    """SAR's finding in the numbers of each source; ``plan`` says how many classes there are
    (10)."""
    lines = []
    classes = 10 if plan is None else plan.classes
    for kind, one in found.items():
        n = of_gradients(one, classes)
        filtered = ((f"the {share(n['unsure'])} of images that the filter drops hold "
                     f"{share(n['unsure_pull'])} of the summed norms, and "
                     f"{share(n['wrong_unsure'])} of them are wrong ({share(n['wrong_sure'])} of "
                     "the others)") if n["unsure"]
                    else "the filter would drop none of these images, although "
                         f"{share(n['wrong_sure'])} of them are wrong")
        lines.append(f"{words_of(kind, plan)}: rank correlation of entropy and gradient norm "
                     f"{signed(n['correlation'], 2)}; {filtered}. Of the tenth with the longest "
                     f"gradients {share(n['longest_wrong'])} are wrong; the filter lets "
                     f"{share(n['longest_sure'])} of that tenth through.")
    seen = [kind for kind, one in found.items() if of_gradients(one, classes)["correlation"] > 0.3]
    lines.append("Unsure images have the longer gradients (rank correlation above 0.3), as SAR "
                 "reports, with " + joined(seen, "none of the sources") + (
                     f"; not clearly so with {joined(k for k in found if k not in seen)}."
                     if len(seen) < len(found) and seen else "."))
    return lines


def say_parts(result: Study) -> list[str]:
    """What each part of SAR changes where Tent goes wrong."""
    lines = []
    for source in parts_sources(result.plan):
        start = result.part_start(source)
        for lr in result.plan.rates:
            e = {arm: result.part(source, lr, arm).mean() for arm in ARMS}
            resets = result.part(source, lr, "sar", "resets").mean()
            gains = {arm: e[arm] - e["tent"] for arm in ("filter", "sharpness", "both")}
            text = f"{kind_of(source)}, rate {lr:g}: start {start:.1f} %, Tent {e['tent']:.1f} %"
            if e["tent"] - start <= HARM:
                lines.append(f"{text}: at most {HARM:g} points of harm to prevent; SAR "
                             f"{e['sar']:.1f} %.")
                continue
            lines.append(f"{text}; with the filter {e['filter']:.1f} ({signed(gains['filter'])}), "
                         f"with sharpness {e['sharpness']:.1f} ({signed(gains['sharpness'])}), "
                         f"with both {e['both']:.1f} ({signed(gains['both'])}); SAR, which also "
                         f"resets itself ({resets:.0f} times), {e['sar']:.1f} "
                         f"({signed(e['sar'] - e['both'])} more).")
    return lines


def say_over_time(numbers: dict, name: str) -> str:
    """Gradient, classes and alarm of a run in a sentence."""
    g = numbers["gradient"][np.isfinite(numbers["gradient"])]
    third = max(len(g) // 3, 1)
    alarm = np.flatnonzero(numbers["alarm"])
    grown = (f"the median gradient norm goes from {np.median(g[:third]):.2g} in the first third to "
             f"{np.median(g[-third:]):.2g} in the last" if len(g) else "no gradient is recorded")
    return (f"{name}: {grown}, with {numbers['predicted'][-1]:.1f} classes predicted among the "
            f"last images ({numbers['true'][-1]:.1f} true); " + (
                f"first alarm in step {numbers['step'][alarm[0]]} of {len(numbers['step'])}"
                if len(alarm) else "no alarm")
            + (f"; it reset itself {len(numbers['marks'])} times." if numbers["marks"] else "."))


def say_alarms(result: Study) -> list[str]:
    """How the detector's alarms lie to harm by labels, over all runs that learned."""
    found = harmed(result)
    bad, good = ([f for f in found if f["harmed"] == is_bad] for is_bad in (True, False))
    missed = dict.fromkeys(f["where"] for f in bad if not f["alarm"])
    false = [f["where"] for f in good if f["alarm"]]
    lines = [f"{len(found)} runs learned by gradients. {len(bad)} of them end more than {HARM:g} "
             "points above their own start, beyond two standard errors; the detector raised an "
             f"alarm in {sum(f['alarm'] for f in bad)} of these, and in {len(false)} of the other "
             f"{len(good)}."]
    some = partial(listed, most=4, sep="; ", last="; and {} more")
    if missed:
        lines.append(f"Harmed without an alarm: {some(missed)}.")
    if false:
        lines.append(f"Alarm without that much harm: {some(dict.fromkeys(false))}.")
    if result.plan.of_kind("BN"):
        worst = max(SETTINGS, key=lambda s: result.mean("BN", s, "batch_norm"))
        lines.append("What the alarm is not for: BN-1 errs on "
                     f"{result.mean('BN', worst, 'batch_norm'):.0f} % under {SETTINGS[worst]} "
                     "without learning anything, so there is no collapse to warn of. Compare with "
                     "the source before you adapt.")
    return lines


def table(result: Study) -> str:
    """Errors in per cent, mean over the sources of a kind and over seeds."""
    lines = [["error (%)", *SETTINGS.values()]]
    for kind in result.plan.kinds:
        for method, name in METHODS.items():
            values = [result.mean(kind, setting, method) for setting in SETTINGS]
            if np.isfinite(values).all():
                lines.append([f"{kind}: {name}", *(f"{v:.1f}" for v in values)])
    return aligned(lines, (-14, *[21] * len(SETTINGS)))


def say_live(numbers: dict, source: str, setting: str, method: str) -> str:
    """The panel's last line."""
    over = numbers["over"]
    found = numbers["error"]
    alarm = (f"first alarm in step {over['step'][np.flatnonzero(over['alarm'])[0]]}"
             if over["alarm"].any() else "no alarm")
    return (f"{METHODS[method]} on {source} under {SETTINGS[setting]}: error "
            f"{found['this run']:.1f} % ({errors(found, 'this run')}); {over['predicted'][-1]:.1f} "
            f"classes predicted among the last images, {over['true'][-1]:.1f} true; {alarm}.")
