"""What the table of the method zoo holds: the heat map as numbers, what is settled, costs, and the
filter's gain."""
from __future__ import annotations

import math

import numpy as np

from ...methods import METHODS
from .cells import (
    FORMS_DIFFER,
    LABELS,
    MEAN,
    METRICS,
    SOURCES,
    TUNINGS,
    Zoo,
    has_rate,
    mean_of,
    number_in,
    split,
)


def shade(difference) -> np.ndarray:
    """Points above BN-1 as a colour's place in -1 .. 1: the signed root, 1 from 36 points on, so
    that half a point can still be seen."""
    difference = np.asarray(difference, np.float64)
    return np.clip(np.sign(difference) * np.sqrt(np.abs(difference)) / 6, -1, 1)


def heat_map(zoo: Zoo, source: str = MEAN, tuning: str = "default", metric: str = "error",
             order: str = "family", forms: bool = False) -> dict:
    """Methods x streams as `plots.zoo.plot_zoo` draws them: ``value``, ``shade``, ``text``,
    ``reason`` and ``hover``, each (M, S), with the names ``rows``, ``families``, ``columns``,
    ``streams``.

    ``order``: "family", or "error" (mean over the streams where the method has a number; of the
    streams that most methods have). Raises ValueError for an unknown source, tuning, metric or
    order.
    """
    for name, given, known in (("source", source, (MEAN, *zoo.sources)),
                               ("tuning", tuning, TUNINGS), ("metric", metric, METRICS),
                               ("order", order, ("family", "error"))):
        if given not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, not {given!r}")
    names = zoo.streams(source, tuning)
    labels = zoo.methods(forms)
    if metric == "auroc":
        names = [n for n in names
                 if not math.isnan(zoo.mean(n, "source", "default", "auroc", source))] or names[-1:]
    errors = np.array([[zoo.mean(n, label, tuning, "error", source) for n in names]
                       for label in labels]).reshape(len(labels), len(names))
    if order == "family":
        key = [(family(label) != "baseline", family(label)) for label in labels]
    else:
        gaps = np.isnan(errors)
        key = (np.where(gaps.any(1), math.inf, np.where(gaps, 0, errors).mean(1)).tolist()
               if names else [0.0] * len(labels))
    labels = [labels[i] for i in sorted(range(len(labels)), key=lambda i: (key[i], i))]
    value = np.array([[zoo.mean(n, label, tuning, metric, source) for n in names]
                      for label in labels]).reshape(len(labels), len(names))
    reason = [[zoo.reason(n, label, tuning, source)
               or ("" if np.isfinite(v) else "no such number on this stream")
               for n, v in zip(names, line, strict=True)]
              for label, line in zip(labels, value, strict=True)]
    bn = np.array([zoo.mean(n, "batch_norm", "default", metric, source) for n in names])
    difference = value if metric == "difference" else value - bn
    shades = (np.log2(np.maximum(value, 1)) / 7 if metric == "cost"
              else shade(-difference if metric == "auroc" else difference))
    show = "+.1f" if metric == "difference" else ".1f"
    text = [["" if math.isnan(v) else f"{v:{show}}" for v in line] for line in value]
    hover = [[_hover(zoo, source, n, label, tuning, why)
              for n, why in zip(names, line, strict=True)]
             for label, line in zip(labels, reason, strict=True)]
    return {"rows": labels, "families": [family(label) for label in labels], "streams": names,
            "columns": [LABELS[n] for n in names], "value": value, "shade": shades, "text": text,
            "reason": reason, "hover": hover, "grouped": order == "family",
            "diverging": metric != "cost", "name": METRICS[metric],
            "title": f"{METRICS[metric].capitalize()}, {say_source(zoo, source)}",
            "ticks": _ticks(metric)}


def _ticks(metric: str) -> tuple[list[float], list[str], str]:
    """Places on the colour bar, their names, and the name of the bar."""
    if metric == "cost":
        times = (1, 2, 5, 20, 100)
        return [math.log2(v) / 7 for v in times], list(map(str, times)), "times the source's"
    points = [-36, -16, -4, -1, 0, 1, 4, 16, 36]
    sign = -1 if metric == "auroc" else 1
    names = [f"{sign * p:+d}" if p else "BN-1" for p in points]
    return shade(points).tolist(), names, "points from BN-1"


def family(label: str) -> str:
    """The family of a method or form."""
    kind = METHODS.get(split(label)[0])
    return kind.family if kind is not None else "other"


def _hover(zoo: Zoo, source: str, stream: str, label: str, tuning: str, why: str) -> str:
    lines = [f"<b>{label}</b> on {LABELS[stream]}"]
    if why:
        return "<br>".join([*lines, why])
    for member in zoo.members(source):
        cell = zoo.cell(member, stream, label, tuning)
        errors = " ".join(f"{e:.1f}" for e in cell["errors"])
        lines.append(f"{member}: error {errors} %"
                     + (f", rate x {cell['rate']:g}" if has_rate(label) else ""))
    some = zoo.cell(zoo.members(source)[0], stream, label, tuning)
    lines.append(f"forwards {some['forwards']:.2f}, backwards {some['backwards']:.2f} an image")
    return "<br>".join(lines)


def say_source(zoo: Zoo, source: str) -> str:
    """A choice of source in words."""
    return (f"mean of {len(zoo.members(source))} sources" if source == MEAN and zoo.ground is None
            else zoo.members(source)[0])


def verdict(zoo: Zoo, stream: str, one: str, other: str, tuning: str = "default",
            source: str = MEAN) -> tuple[int, np.ndarray]:
    """-1 where ``one`` errs less than ``other`` on every source (mean over the seeds that both
    have), 1 where it errs more, else 0; and the differences, one for each source, NaN where one is
    missing. Both are tuned in the same way.

    Without the full number of independent sources (`SOURCES`) nothing is settled. Three equal signs
    arise by chance in one case of four.
    """
    def difference(member):
        seeds = set.intersection(*(set(zoo.cell(member, stream, label, tuning).get("seeds", ()))
                                   for label in (one, other)))
        a, b = (zoo.value(member, stream, label, tuning, seeds=seeds) for label in (one, other))
        return a - b if seeds else math.nan

    differences = np.array([difference(member) for member in zoo.members(source)])
    if len(differences) < len(SOURCES):
        return 0, differences
    return int((differences > 0).all()) - int((differences < 0).all()), differences


WORDS = {-1: "better", 1: "worse", 0: "not settled"}


def ranking(zoo: Zoo, stream: str, tuning: str = "default") -> list[dict]:
    """The methods that every source has, least error first: ``method``, ``error`` (mean), and -1, 0
    or 1 ``against`` "batch_norm", "source" and "next" (the following line), as `verdict` says."""
    labels = [label for label in zoo.methods() if not math.isnan(zoo.mean(stream, label, tuning))]
    labels.sort(key=lambda label: zoo.mean(stream, label, tuning))
    lines = []
    for label, following in zip(labels, [*labels[1:], None], strict=True):
        others = {"batch_norm": "batch_norm", "source": "source", "next": following}
        against = {name: verdict(zoo, stream, label, other, tuning)[0]
                   if other in labels and other != label else None
                   for name, other in others.items()}
        lines.append({"method": label, "error": zoo.mean(stream, label, tuning),
                      "against": against})
    return lines


def settled(zoo: Zoo, tuning: str = "default") -> dict:
    """stream -> {"better": methods that beat BN-1 on every source, "worse": ..., "open": ...,
    "neighbours": (settled, all)}."""
    result = {}
    for stream in zoo.streams(MEAN, tuning):
        lines = ranking(zoo, stream, tuning)
        kinds = {word: [x["method"] for x in lines if x["against"]["batch_norm"] == sign]
                 for word, sign in (("better", -1), ("worse", 1), ("open", 0))}
        neighbours = [x["against"]["next"] for x in lines if x["against"]["next"] is not None]
        result[stream] = kinds | {"neighbours": (sum(n != 0 for n in neighbours), len(neighbours))}
    return result


def oracle_is_least(zoo: Zoo) -> bool:
    """Whether the error of the oracle on its seed is nowhere above that of the other tunings, as it
    must be by its definition."""
    pairs = [(c["errors"][0], zoo.value(source, stream, label, tuning, seeds=c["seeds"]))
             for (source, stream, label, t), c in zoo.found.items() if t == "oracle" and c["seeds"]
             for tuning in ("default", "slice")]
    return all(least <= other for least, other in pairs if not math.isnan(other))


def forms(zoo: Zoo, least: float = FORMS_DIFFER) -> list[dict]:
    """Forms of public code whose error (first seed, mean over the sources that have both) is more
    than ``least`` points from the paper's."""
    found = []
    for label in [m for m in zoo.methods(forms=True) if split(m)[1] != "paper"]:
        for stream in zoo.streams():
            pairs = np.array([[zoo.value(m, stream, name, seeds={0})
                               for name in (split(label)[0], label)] for m in zoo.members(MEAN)])
            pairs = pairs[np.isfinite(pairs).all(1)]
            if len(pairs) and abs(np.diff(pairs.mean(0))[0]) > least:
                found.append({"method": split(label)[0], "form": split(label)[1], "stream": stream,
                              "paper": float(pairs[:, 0].mean()),
                              "other": float(pairs[:, 1].mean()), "sources": len(pairs)})
    return found


def costs(zoo: Zoo) -> list[dict]:
    """Per method: ``forwards`` and ``backwards`` of an image (least, most) over streams and
    sources, and ``time``, the median ratio to the source on the same stream and source model, with
    (least, most)."""
    lines = []
    for label in zoo.methods():
        here = [c for (s, _, m, t), c in zoo.found.items()
                if m == label and t == "default" and c["seeds"] and s in zoo.members(MEAN)]
        ratios = [zoo.value(c["source"], c["stream"], label, "default", "cost") for c in here]
        ratios = [r for r in ratios if math.isfinite(r)]
        if here:
            span = {k: (min(c[k] for c in here), max(c[k] for c in here))
                    for k in ("forwards", "backwards")}
            lines.append({"method": label, **span,
                          "time": float(np.median(ratios)) if ratios else math.nan,
                          "range": (min(ratios), max(ratios)) if ratios else (math.nan, math.nan)})
    return lines


def gains(rows, what: str = "error") -> dict:
    """What the filter changes against the share of unknown images: kind -> arm -> numbers, each
    (shares,).

    ``mean``, ``sd`` (ddof 1), ``low``, ``high`` and ``n`` of the paired differences to Tent over
    sources and seeds, in points; the filter alone ("tent + filter") and with its diversity term
    ("wisdom_of_crowds"). ``what``: "error" (below 0 is better) or "auroc" (above 0 is better).
    """
    scale = 100 if what == "auroc" else 1
    found = {(*r["stream"].split(" "), r["method"], r["source"], r["seed"]): scale
             * number_in(r.get(what)) for r in rows}
    result: dict = {}
    for kind in dict.fromkeys(key[0] for key in found):
        shares = sorted({key[1] for key in found if key[0] == kind}, key=float)
        result[kind] = {}
        for arm in ("tent + filter", "wisdom_of_crowds"):
            pairs = [[v - found[kind, share, "tent", *key[3:]] for key, v in found.items()
                      if key[:3] == (kind, share, arm) and (kind, share, "tent", *key[3:]) in found]
                     for share in shares]
            pairs = [[d for d in p if not math.isnan(d)] for p in pairs]
            result[kind][arm] = {"share": np.array([float(s) for s in shares]),
                                 "mean": np.array([mean_of(p) for p in pairs]),
                                 "sd": np.array([np.std(p, ddof=1) if len(p) > 1 else math.nan
                                                 for p in pairs]),
                                 "low": np.array([min(p, default=math.nan) for p in pairs]),
                                 "high": np.array([max(p, default=math.nan) for p in pairs]),
                                 "n": np.array([len(p) for p in pairs])}
    return result
