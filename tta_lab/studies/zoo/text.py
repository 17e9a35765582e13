"""What the method zoo says, as text: tables in Markdown, sentences that follow the numbers."""
from __future__ import annotations

import math

import numpy as np

from ..report import paragraphs, points, signed
from .study import (
    AGREES,
    FORMS_DIFFER,
    LABELS,
    MEAN,
    METRICS,
    SOURCES,
    TUNINGS,
    WORDS,
    Zoo,
    costs,
    forms,
    gains,
    ranking,
    say_source,
    settled,
    split,
)

CHANCE = ("A sign counts only where it is the same on all three sources, which are trained independently and adapted on the same images; where "
          "nothing differs, three signs agree by chance in one case of four.")
ARMS = {"tent + filter": "filter alone (Tent + filter)", "wisdom_of_crowds": "filter and diversity term (wisdom_of_crowds)"}


def markdown(head, lines) -> str:
    """A Markdown table."""
    return "\n".join(["| " + " | ".join(map(str, line)) + " |" for line in (head, ["---"] * len(head), *lines)])


def number(value, show: str = "{:.1f}") -> str:
    """A number as text, "-" where there is none."""
    if value is None or math.isnan(value):
        return "-"
    text = show.format(value)
    return text.strip("+-") if not float(text) else text  # a difference of nothing has no sign


def say_tables(zoo: Zoo, source: str = MEAN, metric: str = "error") -> str:
    """A Markdown table of each tuning: methods down, streams across."""
    parts = []
    for tuning, meaning in TUNINGS.items():
        names = zoo.streams(source, tuning)
        lines = [[label, *(number(zoo.mean(n, label, tuning, metric, source)) for n in names)] for label in zoo.methods()]
        parts.append(f"**{METRICS[metric].capitalize()}, {say_source(zoo, source)}, tuning *{tuning}*: {meaning}**\n\n"
                     + markdown(["method", *(LABELS[n] for n in names)], lines))
    return "\n\n".join(parts)


def say_detection(zoo: Zoo) -> str:
    """AUROC of known against unknown images, under each tuning, where a stream has unknown ones."""
    names = [n for n in zoo.streams() if any(c["seeds"] and math.isfinite(c["auroc"]) for (_, s, _, _), c in zoo.found.items() if s == n)]
    places = [(n, tuning) for n in names for tuning in TUNINGS if n in zoo.streams(MEAN, tuning)]
    lines = [[label, *(number(zoo.mean(n, label, tuning, "auroc")) for n, tuning in places)] for label in zoo.methods()]
    return markdown(["AUROC (%)", *(f"{LABELS[n]}, {tuning}" for n, tuning in places)], lines) if places else "No stream has unknown images."


def say_ranking(zoo: Zoo, stream: str, tuning: str = "default") -> str:
    """The methods on one stream, least error first, and what holds on all sources, in Markdown."""
    def word(sign):
        return "" if sign is None else WORDS[sign]

    lines = [[i + 1, line["method"], number(line["error"]), *(word(line["against"][k]) for k in ("batch_norm", "source", "next"))]
             for i, line in enumerate(ranking(zoo, stream, tuning))]
    head = ["", "method", "error (%)", "than BN-1", "than the source", "than the next line"]
    return f"**{LABELS[stream]}, tuning *{tuning}***\n\n" + markdown(head, lines)


def say_costs(zoo: Zoo) -> str:
    """Forwards and backwards of an image, and the time as a multiple of the source's, in Markdown."""
    def span(pair):
        low, high = (number(value) for value in pair)
        return low if low == high else f"{low} to {high}"

    lines = [[c["method"], span(c["forwards"]), span(c["backwards"]), number(c["time"]), span(c["range"])] for c in costs(zoo)]
    return markdown(["method", "forwards", "backwards", "time / source's (median)", "over streams and sources"], lines)


def say_forms(zoo: Zoo) -> str:
    """Forms of public code that differ from the paper's, in Markdown, or a sentence that none does."""
    found, tried = forms(zoo), [m for m in zoo.methods(forms=True) if split(m)[1] != "paper"]
    if not tried:
        return "No form of public code was run."
    if not found:
        return (f"None of the {len(tried)} forms of public code ({', '.join(tried)}) differs from the form of its paper by more than "
                f"{FORMS_DIFFER:g} points on any stream.")
    lines = [[f["method"], LABELS[f["stream"]], number(f["paper"]), f"{f['form']} {f['other']:.1f}", signed(f["other"] - f["paper"]),
              f["sources"]] for f in found]
    same = sorted(set(tried) - {f"{f['method']} [{f['form']}]" for f in found})
    return (markdown(["method", "stream", "form of the paper (%)", "form of the public code (%)", "points", "sources"], lines)
            + (f"\n\nWithin {FORMS_DIFFER:g} points on every stream: {', '.join(same)}." if same else ""))


def say_refused(zoo: Zoo) -> str:
    """Cells without a number, and why, in Markdown; methods that lack the same cells for the same reason share a line."""
    found: dict = {}
    for (source, stream, label, tuning), cell in zoo.found.items():
        if not cell["seeds"]:
            found.setdefault((label, cell["refused"]), []).append((tuning, stream, source))
    groups: dict = {}
    for (label, why), places in found.items():
        parts = tuple(tuple(dict.fromkeys(p[i] for p in sorted(places))) for i in range(3))
        groups.setdefault((why, *parts), []).append(label)
    lines = [[", ".join(labels), ", ".join(tunings), ", ".join(LABELS[s] for s in names), ", ".join(sources), why]
             for (why, tunings, names, sources), labels in groups.items()]
    return markdown(["methods", "tuning", "streams", "sources", "reason"], lines) if lines else "Every cell has a number."


def say_gains(zoo: Zoo, what: str = "error") -> str:
    """The filter's change against Tent at each share of unknown images, with the spread, in Markdown."""
    lines = []
    for kind, arms in gains(zoo.unknowns, what).items():
        for arm, g in arms.items():
            for i, share in enumerate(g["share"]):
                lines.append([kind, ARMS[arm], f"{100 * share:g} %", number(g["mean"][i], "{:+.2f}"), number(g["sd"][i], "{:.2f}"),
                              f"{number(g['low'][i], '{:+.2f}')} to {number(g['high'][i], '{:+.2f}')}", g["n"][i]])
    name = "error minus Tent's (points)" if what == "error" else "AUROC minus Tent's (points)"
    return markdown(["unknown", "arm", "share", name, "sd", "least to most", "runs"], lines) if lines else "The study of unknown shares was not run."


# --- sentences

def listed(names, most: int = 6) -> str:
    """Names with commas, the first few of many."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") if names else "none"


def several(n: int, one: str, many: str) -> str:
    """A number and its word."""
    return f"{n} {one if n == 1 else many}"


def lines_of(sentences) -> str:
    """Sentences no wider than a notebook; a number stays with its per cent sign."""
    return paragraphs([sentence.replace(" %", "\u00a0%") for sentence in sentences])


def say_zoo(zoo: Zoo, tuning: str = "default") -> str:
    """What holds on all sources, one line for each stream."""
    if zoo.ground is not None:
        return lines_of([f"This table has one source, {zoo.sources[0]}, and a sign counts only where it is the same on three: nothing is settled."])
    lines = []
    for stream, s in settled(zoo, tuning).items():
        n = sum(len(s[k]) for k in ("better", "worse", "open"))
        if not n:
            lines.append(f"{LABELS[stream]}: not every source has its runs yet.")
            continue
        bn, missing = zoo.mean(stream, "batch_norm", tuning), len(zoo.methods()) - 1 - n
        lines.append(f"{LABELS[stream]}: of {several(n, 'method', 'methods')} {several(len(s['better']), 'errs', 'err')} less than BN-1 "
                     f"({number(bn)} %) on all {len(SOURCES)} sources" + (f" (least first: {listed(s['better'])})" if s["better"] else "")
                     + f", {several(len(s['worse']), 'errs', 'err')} more, {several(len(s['open']), 'is', 'are')} not settled. Of "
                     + f"{several(s['neighbours'][1], 'pair', 'pairs')} of neighbours in the ranking "
                     + f"{several(s['neighbours'][0], 'is', 'are')} settled."
                     + (f" {several(missing, 'method has', 'methods have')} no number on every source." if missing else ""))
    return lines_of([*lines, CHANCE])


def say_streams(zoo: Zoo, tuning: str = "default") -> str:
    """Whether one method is good everywhere: the best of each stream and its place on the others."""
    orders = {s: [line["method"] for line in ranking(zoo, s, tuning)] for s in zoo.streams()}
    orders = {s: order for s, order in orders.items() if order}
    lines = []
    for stream, order in orders.items():
        best = order[0]
        places = [f"{LABELS[s]} {o.index(best) + 1}" for s, o in orders.items() if s != stream and best in o]
        lines.append(f"{LABELS[stream]}: {best} errs least ({zoo.mean(stream, best, tuning):.1f} %); its place elsewhere: "
                     f"{', '.join(places) or 'there is no other stream'}.")
    better = [set(s["better"]) for s in settled(zoo, tuning).values()]
    everywhere = sorted(set.intersection(*better)) if better else []
    lines.append("Better than BN-1 on every stream and all sources: " + (listed(everywhere, 40) if everywhere else "no method") + ".")
    return lines_of(lines)


def say_tunings(zoo: Zoo) -> str:
    """What choosing the rate brings, over the methods that have one, on each stream: first seed, mean over sources and methods."""
    lines = []
    for stream in zoo.streams(MEAN, "oracle"):
        rows = []
        for label in zoo.methods():
            errors = [np.mean([zoo.value(m, stream, label, tuning, seeds={0}) for m in zoo.members(MEAN)]) for tuning in TUNINGS]
            rates = [zoo.cell(m, stream, label, "default").get("rate") != zoo.cell(m, stream, label, t).get("rate") for t in ("slice", "oracle")
                     for m in zoo.members(MEAN)]
            if np.isfinite(errors).all() and any(rates):
                rows.append(errors)
        if rows:
            d, s, o = np.mean(rows, 0)
            lines.append(f"{LABELS[stream]}: {len(rows)} methods for which another rate was chosen somewhere; default {d:.1f} %, slice {s:.1f} %, "
                         f"oracle {o:.1f} %.")
    return lines_of(lines or ["Other rates have not been run on all sources yet."])


def say_curves(zoo: Zoo) -> str:
    """Gain and price of the filter in sentences: at no unknown image, and at the largest share."""
    lines = []
    for kind, arms in gains(zoo.unknowns).items():
        for arm, g in arms.items():
            if not len(g["share"]):
                continue
            at = {share: i for i, share in enumerate(g["share"])}
            parts = []
            for share, i in at.items():
                if share not in (min(at), max(at)):
                    continue
                settled_ = (g["low"][i] > 0 or g["high"][i] < 0) and g["n"][i] >= 3
                runs = several(int(g["n"][i]), "run", "runs")
                span = f"{signed(g['low'][i], 2)} to {signed(g['high'][i], 2)} in {runs}" if g["n"][i] > 1 else runs
                parts.append(f"{points(g['mean'][i], 2)} at {100 * share:g} % unknown images ({span}; "
                             + ("the same sign in all)" if settled_ else "not settled)"))
            lines.append(f"{kind}, {ARMS[arm]}: error minus Tent's {', '.join(parts)}.")
    return lines_of(lines or ["The study of unknown shares was not run."])


def say_repeat(lines: list[dict]) -> str:
    """Repeated runs beside the stored numbers, as a table and a sentence."""
    out = [f"{'stream':<21}{'method':<20}{'rate':>6}{'now':>8}{'stored':>8}{'points':>8}{'s':>6}  "]
    for line in lines:
        out.append(f"{LABELS[line['stream']]:<21}{line['method']:<20}{line['rate']:>6g}{number(line['error'], '{:.2f}'):>8}"
                   f"{number(line['stored'], '{:.2f}'):>8}{number(line['difference'], '{:+.2f}'):>8}{line['seconds']:>6.1f}  "
                   + ("" if line["same"] else line["words"] if line["same"] is None else "NOT reproduced"))
    compared = [line for line in lines if line["same"] is not None]
    equal = [line for line in compared if not line["difference"]]
    far = [line for line in compared if not line["same"]]
    words = (f"{len(compared) - len(far)} of {len(compared)} cells that have a stored number are reproduced within {AGREES:g} points, {len(equal)} "
             "of them to the last digit that is stored.")
    words = words if compared else "These runs were made now; nothing is stored to compare them with."
    return "\n".join([*out, "", lines_of([words])])
