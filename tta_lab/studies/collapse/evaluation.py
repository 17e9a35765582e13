"""How good the collapse detector is on models and images that it was not fitted on: the evaluation
as numbers, table and sentences."""
from __future__ import annotations

import csv
import json
import math
from pathlib import Path

from ...core.files import write_text
from ...data.shipped import DataError, data_root
from ..report import nothing, points
from .study import Setting

NOT_MEASURED = ("The evaluation that comes with the package was made on embedded models and "
                "images, and says nothing about yours, so it is left out; evaluation=FILE shows "
                "one of your own.")
EVALUATION = "collapse/evaluation.json"   # in the data folder


def evaluation_of(results: str | Path) -> dict:
    """The files that ``benchmarks/collapse.py evaluate`` writes, as one value: curves, points in
    use, lead times, outcomes, and the ``table``."""
    results = Path(results)
    found = json.loads((results / "collapse_curves.json").read_text(encoding="utf-8"))
    with open(results / "collapse_detector.csv", newline="", encoding="utf-8") as f:
        rows = [{k: _value(v) for k, v in line.items()} for line in csv.DictReader(f)]
    return {**found, "table": [r for r in rows if r["part"] == "held_out"]}


def _value(text: str):
    try:
        number = float(text)
    except (TypeError, ValueError):
        return text or None
    return number if math.isfinite(number) else None


def save_evaluation(results: str | Path, path: str | Path | None = None) -> Path:
    """Write `evaluation_of` into the data folder, where the notebook finds it."""
    path = data_root() / EVALUATION if path is None else Path(path)
    return write_text(path, json.dumps(evaluation_of(results), allow_nan=False) + "\n")


def load_evaluation(path: str | Path | None = None) -> dict:
    """The evaluation of the detector that comes with the package. Raises DataError when it is
    missing or damaged."""
    path = data_root() / EVALUATION if path is None else Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return ({name: found[name] for name in ("curves", "chosen", "leads", "outcomes", "table")}
                | {"exchanged": found.get("exchanged", {})})
    except (OSError, ValueError, KeyError) as why:
        raise DataError("the evaluation of the collapse detector cannot be read "
                        f"({type(why).__name__}: {why}); restore it with: git checkout -- "
                        f"data/{EVALUATION}, or make it with benchmarks/collapse.py evaluate and "
                        "collapse_study.save_evaluation") from why


def evaluation_for(setting: Setting, path: str = "") -> dict | None:
    """The evaluation in a file; "": that of the package, which speaks of embedded models and
    images, so None for others."""
    return load_evaluation(path or None) if path or setting.embedded else None


def rows_of(evaluation: dict, group: str = "all") -> list[dict]:
    """The lines of the table on one group of runs, one for each detector, best recall in time
    first."""
    rows = [r for r in evaluation["table"] if r["group"] == group]
    return sorted(rows, key=lambda r: -(r["recall_in_time"] or 0))


def table_of(evaluation: dict, group: str = "all") -> str:
    """The table as Markdown: what each detector finds among the held-out runs, with 95 % intervals
    from drawing streams again."""
    lines = ["| detector | collapses found | found in time | false alarms in 1000 healthy batches "
             "| healthy runs with one | median lead (batches) |", "|---|---|---|---|---|---|"]
    for r in rows_of(evaluation, group):
        cells = (r["detector"], _interval(r, "recall", 100), _interval(r, "recall_in_time", 100),
                 _interval(r, "false_alarms", 1, 2), _number(r["healthy_runs_alarmed"], 100),
                 _interval(r, "lead_median", 1))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value, scale: float = 1, digits: int = 0) -> str:
    return "-" if value is None else f"{scale * value:.{digits}f}" + (" %" if scale == 100 else "")


def _interval(r: dict, name: str, scale: float, digits: int = 0) -> str:
    low = r.get(f"{name}_low_streams")
    high = r.get(f"{name}_high_streams")
    between = (f" ({_number(low, scale, digits).replace(' %', '')} to "
               f"{_number(high, scale, digits)})" if low is not None and high is not None else "")
    return _number(r[name], scale, digits) + between


def say_evaluation(evaluation: dict) -> list[str]:
    """The evaluation in sentences, with what the detector does not do."""
    rows = {r["detector"]: r for r in rows_of(evaluation)}
    ours = rows["detector"]
    counts = evaluation["outcomes"]["held_out"]
    lead = (f" Where it finds a collapse, half the alarms come {_batches(ours['lead_median'])}."
            if ours["lead_median"] is not None else "")
    lines = [f"{sum(counts.values())} runs on models (one of them with other images) that the "
             f"detector never saw: {counts['collapse']} collapse, {counts['healthy']} stay "
             "healthy; the others were bad from the start, recovered, or are not clear, and count "
             "in neither.", f"The detector finds {_number(ours['recall'], 100)} of the collapses, "
                            f"{_number(ours['recall_in_time'], 100)} no later than labels would "
                            f"show them, with {ours['false_alarms']:.2f} false alarms per 1000 "
                            f"healthy batches; {_number(ours['healthy_runs_alarmed'], 100)} of the "
                            f"healthy runs have one.{lead}"]
    rules = [r for name, r in rows.items() if not name.startswith("detector")]
    if rules:
        best = max(rules, key=lambda r: r["recall_in_time"] or 0)
        gap = 100 * (ours["recall_in_time"] - best["recall_in_time"])
        lines.append(f"The best simple rule by the same count is: {best['detector']}, "
                     f"{_number(best['recall_in_time'], 100)} in time with "
                     f"{best['false_alarms']:.2f} false alarms; the detector is "
                     + ("level with it" if nothing(gap, 0)
                        else f"{abs(gap):.0f} points {'ahead of' if gap > 0 else 'behind'} it")
                     + (", but the intervals overlap" if _overlap(ours, best, "recall_in_time")
                        else "") + f", and {points(100 * (ours['recall'] - best['recall']), 0)} in "
                                   "all collapses found.")
    source = next((r for name, r in rows.items() if name.startswith("detector ")), None)
    if source:
        lines.append("With a second forward pass, of the frozen source, it is "
                     f"{_number(source['recall_in_time'], 100)} in time and "
                     f"{source['false_alarms']:.2f} false alarms.")
    groups = {r["group"]: r for r in evaluation["table"] if r["detector"] == "detector"}
    models = {n: r for n, r in groups.items() if n != "all" and r["collapsing_runs"]
              and not n.startswith(("ends", "collapse", "streams", "other"))}
    if models:
        low, high = (f(models, key=lambda n: models[n]["recall_in_time"] or 0) for f in (min, max))
        loud = max(models, key=lambda n: models[n]["false_alarms"] or 0)
        lines.append(f"It depends on the model: {_number(models[low]['recall_in_time'], 100)} in "
                     f"time on {low}, {_number(models[high]['recall_in_time'], 100)} on {high}; "
                     f"most false alarms on {loud}, {models[loud]['false_alarms']:.1f} per 1000 "
                     "batches.")
    mild = groups.get("ends 2 to 5 points worse")
    if mild and mild["collapsing_runs"]:
        lines.append("Mild collapses, which end 2 to 5 points worse than the better reference, are "
                     f"found in {_number(mild['recall'], 100)} of {mild['collapsing_runs']:.0f} "
                     "runs.")
    missed = 1 - (ours["recall_in_time"] or 0)
    lines.append(f"So no alarm is no proof of health: {_number(missed, 100)} of the collapses were "
                 "there before the alarm, or never had one.")
    return lines


def _overlap(a: dict, b: dict, name: str) -> bool:
    low, high = (f"{name}_{end}_streams" for end in ("low", "high"))
    return None not in (a[low], b[low], a[high], b[high]) and a[low] <= b[high] and b[low] <= a[
        high]


def _batches(lead: float) -> str:
    return (f"{lead:.0f} batches or more before labels would show it" if lead > 0
            else "no earlier than labels would show it" if lead == 0
            else f"{-lead:.0f} batches or more after labels would show it")
