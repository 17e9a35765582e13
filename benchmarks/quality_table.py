"""The tables and figures of ``quality.py``: what each method does on each kind of stream, and what
of it holds on all sources.

    python benchmarks/quality.py table          # reads results/quality_<source>.csv, writes here
    and into data/quality python benchmarks/quality_table.py FOLDER   # of another folder; writes
    there only

Prints Markdown and writes it to ``quality_table.md``, with ``quality_table.csv`` (means over
sources and seeds), ``quality_heat_map.png`` and ``quality_unknowns.png``. Of the results of a
checkout it also writes ``data/quality/cells.csv`` and ``unknowns.csv``: the cells that notebook 03
shows, which travel with the package. Everything is computed in ``tta_lab.studies.zoo.study`` and
told in ``tta_lab.studies.zoo.text``.
"""
from __future__ import annotations

import csv
import math
import sys
from pathlib import Path

from tta_lab.studies.zoo import cells as zoo_cells
from tta_lab.studies.zoo import figures as P
from tta_lab.studies.zoo import table as zoo_table
from tta_lab.studies.zoo import text as W

HERE = Path(__file__).resolve().parent
UNKNOWN_COLUMNS = ("source", "stream", "method", "rate", "seed", "error", "auroc")


def table(folder, data=None) -> str:
    """Write tables and figures of the rows in ``folder``; cells for the package go to ``data``
    (default: that of the checkout, when ``folder`` is its ``benchmarks/results``). Returns and
    prints the text. Raises ValueError when the folder has no rows."""
    folder = Path(folder)
    rows, unknowns = zoo_cells.read_rows(folder)
    if data is None and folder.resolve() == HERE / "results":
        data = HERE.parent / "data"
    zoo = zoo_cells.Zoo.of(zoo_cells.cells(rows),
                           [{k: r[k] for k in UNKNOWN_COLUMNS} for r in unknowns])
    if data is not None:
        zoo_cells.save_cells(list(zoo.found.values()), Path(data) / zoo_cells.TABLE)
        write(Path(data) / zoo_cells.UNKNOWNS, zoo.unknowns, UNKNOWN_COLUMNS)
    write(folder / "quality_table.csv", summary(zoo))
    picture(P.plot_zoo(zoo_table.heat_map(zoo)), folder / "quality_heat_map.png")
    picture(P.plot_unknown_shares(zoo_table.gains(zoo.unknowns)), folder / "quality_unknowns.png")
    said = text(zoo)
    (folder / "quality_table.md").write_text(said + "\n", encoding="utf-8")
    print(said)
    return said


def text(zoo) -> str:
    """All tables, as Markdown."""
    seeds = {len(c["seeds"]) for (s, _, m, t), c in zoo.found.items() if s in zoo_cells.SOURCES
             and t == "default" and c["seeds"] and zoo_cells.split(m)[1] == "paper"}
    made = sorted({c["torch"] for c in zoo.found.values() if c["torch"]})
    parts = [
        "# Quality of the methods", "Written by `quality_table.py` from the rows of "
        "`quality.py`; do not edit.", f"Sources: {', '.join(zoo.sources)}. Seeds at default rates: "
        f"{' to '.join(map(str, sorted({min(seeds), max(seeds)})))}; the oracle "
        f"has one. torch {', '.join(made)}. {W.CHANCE}", "## Error",
        W.say_tables(zoo), "## Unknown images told from known ones",
        W.say_detection(zoo), "## What holds on all sources"
    ]
    for tuning in ("default", "slice"):
        parts += [f"Tuning *{tuning}*:", W.say_zoo(zoo, tuning)]
    parts += [W.say_ranking(zoo, stream) for stream in zoo.streams()]
    parts += ["## Other sources"] if set(zoo.sources) - set(zoo_cells.SOURCES) else []
    parts += [W.say_tables(zoo, source) for source in zoo.sources
              if source not in zoo_cells.SOURCES]
    parts += [
        "## Cost",
        W.say_costs(zoo), "## Forms of public code",
        W.say_forms(zoo), "## The filter against the share of unknown images",
        W.say_gains(zoo),
        W.say_gains(zoo, "auroc"),
        W.say_curves(zoo), "## Cells without a "
        "number",
        W.say_refused(zoo)
    ]
    return "\n\n".join(parts)


def summary(zoo) -> list[dict]:
    """One line for each method and tuning: mean error on each stream, and on top AUROC, forwards,
    backwards, time."""
    price = {c["method"]: c for c in zoo_table.costs(zoo)}
    lines = []
    for label in zoo.methods():
        for tuning in zoo_cells.TUNINGS:
            cost = price.get(label, {})
            lines.append({
                "method": label, "family": zoo_table.family(label), "tuning": tuning, **{
                    n: rounded(zoo.mean(n, label, tuning), 2) for n in zoo.streams()
                }, "auroc open_set": rounded(zoo.mean("open_set", label, tuning, "auroc"), 1), **{
                    k: rounded(max(cost.get(k, [math.nan])), 2) for k in ("forwards", "backwards")
                }, "time": rounded(cost.get("time", math.nan), 1)
            })
    return lines


def rounded(value, digits: int):
    """A number for a table, "" where there is none."""
    return "" if math.isnan(value) else round(value, digits)


def write(path, lines, columns=None):
    """Dicts as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, columns or list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def picture(figure, path):
    """A figure as a small PNG."""
    path.write_bytes(P.small_png(figure))


if __name__ == "__main__":
    table(sys.argv[1] if len(sys.argv) > 1 else HERE / "results")
