"""Numbers printed in papers and readmes, as data, and beside our own: what is reproduced, what is
not, what was not tried.

``published.json`` holds one block per table with its source and a mark: B file of a benchmark, T
readme of the method's own repository, L table in a later paper, U recollected and not checked
(kept and flagged, never compared). None of these numbers was measured here. Errors and accuracies
are in per cent; ``samples`` counts the images of each shift.
"""
from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

FILTERS = ("data", "model", "protocol", "method")
NEED_NO_RATE = ("source", "batch_norm", "lame")      # recipes without a step size
RECIPES = {
    "bn1": "batch_norm", "bnstats": "batch_norm", "bn": "batch_norm", "testbn": "batch_norm",
    "batchnorm": "batch_norm"
}
PLACES = {  # data -> folder below the data folder
    "cifar10_c": "CIFAR-10-C", "cifar100_c": "CIFAR-100-C", "imagenet_c": "ImageNet-C",
    "imagenet_r": "imagenet-r", "imagenet_sketch": "sketch",
}
# the 5000 images of ImageNet-C that RobustBench and the benchmark take
IMAGE_LIST = "imagenet_test_image_ids.txt"
# protocol -> its name among protocols.PROTOCOLS, where it differs
OWN_NAMES = {"long": "long_term"}
NATURAL = ("imagenet_r", "imagenet_sketch")


@cache
def _file() -> dict:
    return json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))


@cache
def _cells() -> tuple[dict, ...]:
    found, order = [], _file()["order"]
    for table in _file()["tables"]:
        for row in table["rows"]:
            for method, value in zip(table["methods"], row["values"], strict=True):
                if value is None:
                    continue
                of_method = {
                    key: row.get(key, {}).get(method)
                    for key in ("spread", "per_type", "visits", "passes")
                }
                if of_method["per_type"]:
                    of_method["per_type"] = dict(zip(order, of_method["per_type"], strict=True))
                if of_method["visits"]:
                    of_method["visits"] = dict(
                        zip(table["visits"], of_method["visits"], strict=True))
                found.append({
                    "table": table["id"],
                    "source": table["source"],
                    "mark": table["mark"],
                    "data": row["data"],
                    "model": row["model"],
                    "protocol": table["protocol"],
                    "stream": {**table.get("stream", {}), **row.get("stream", {})},
                    "severity": row.get("severity", table["severity"]),
                    "batch": row["batch"],
                    "samples": row["samples"],
                    "method": method,
                    "metric": row.get("metric", table["metric"]),
                    "value": value,
                    **of_method,
                    "note": row.get("note", row.get("model_note", "")),
                })
    return tuple(found)


def recipe_name(method: str) -> str:
    """The name of a published method among our recipes: "BN-1" -> "batch_norm", "CoTTA" ->
    "cotta"."""
    plain = re.sub(r"[^a-z0-9*]", "", method.lower())
    return RECIPES.get(plain, plain)


def published(data: str | None = None, model: str | None = None, protocol: str | None = None,
              method: str | None = None, *, table: str | None = None, unverified: bool = True,
              frame: bool = False):
    """The published numbers, one row per table, data set, model and method; a list of dicts, or a
    pandas frame.

    Columns: table, source, mark (B, T, L, U), data, model (None: not verified which), protocol,
    stream (further settings of the stream), severity, batch, samples (images of each shift; None:
    not stated), method, metric ("error" or "accuracy"), value and spread in per cent, per_type
    {shift: value}, visits {number of the visit: value}, passes [forwards, backwards], note.
    ``unverified=False`` leaves out what is marked U.  Raises ValueError for a name that stands in
    no table.
    """
    asked = {"data": data, "model": model, "protocol": protocol, "method": method, "table": table}
    rows = [row for row in _cells() if unverified or row["mark"] != "U"]
    for column, value in asked.items():
        if value is None:
            continue
        same = recipe_name if column == "method" else str
        names = {row[column] for row in _cells()} - {None}
        if same(value) not in map(same, names):
            raise ValueError(f"no published table has the {column} {value!r}; there are: "
                             f"{', '.join(sorted(names))}")
        rows = [row for row in rows if row[column] is not None and same(row[column]) == same(value)]
    rows = [dict(row) for row in rows]
    return _frame(rows) if frame else rows


def beside(results: Mapping[str, float | Sequence[float]], *, data: str, model: str, protocol: str,
           samples: int, severity: float = 5, batch: int | None = None,
           stream: Mapping | None = None, tolerance: tuple[float, float] = (1.0, 3.0),
           frame: bool = False):
    """Published errors beside ours, only where data, model, protocol, sample count, severity and
    stream settings are the same.

    results     recipe -> error in per cent, or a list of them, one per seed; a method that is
                missing was not tried
    data        "cifar10_c", "imagenet_c", ...; what follows a colon, and the path with it, does
                not matter
    samples     images of each shift
    batch       None compares with every batch size
    stream      further settings of the protocol, such as {"delta": 0.1} or {"rounds": 20};
                published ones with others are left out
    tolerance   (points, spreads): reproduced means |ours - theirs| <= max(points, spreads x
                published spread)

    One row per published number: method, source, mark, batch, theirs, spread, ours, seeds,
    difference, allowed and ``cell``: "reproduced", "not reproduced" or "not tried"; accuracies are
    turned into errors.  Nothing marked U is compared, and nothing whose model or sample count is
    not stated.  An empty list means that nothing fits: `mismatch` says why.
    """
    ours = {}
    for name, value in results.items():
        seeds = [
            float(v)
            for v in ([value] if isinstance(value, int
                                            | float) or getattr(value, "ndim", 1) == 0 else value)
        ]
        if any(math.isnan(v) or not 0 <= v <= 100 for v in seeds):
            raise ValueError(f"the results of {name} must be errors in per cent, 0 to 100, got "
                             f"{seeds}; leave out what was not run")
        if recipe_name(name) in ours:
            raise ValueError(f"two results are for the method {recipe_name(name)!r}; compare one "
                             f"at a time")
        ours[recipe_name(name)] = seeds
    points, spreads = tolerance
    rows = []
    for row in _cells():
        if row["mark"] == "U" or _conditions(row, data, model, protocol, samples, severity, batch,
                                             stream):
            continue
        theirs = row["value"] if row["metric"] == "error" else 100 - row["value"]
        seeds = ours.get(recipe_name(row["method"]))
        allowed = max(points, spreads * (row["spread"] or 0.0))
        mean = sum(seeds) / len(seeds) if seeds else None
        cell = ("not tried" if mean is None else "reproduced" if abs(mean - theirs) <= allowed +
                1e-9 else "not reproduced")
        rows.append({
            "method": row["method"], "table": row["table"], "source": row["source"],
            "mark": row["mark"], "batch": row["batch"], "theirs": theirs, "spread": row["spread"],
            "ours": mean, "seeds": len(seeds or []),
            "difference": None if mean is None else mean - theirs, "allowed": allowed, "cell": cell
        })
    return _frame(rows) if frame else rows


def mismatch(*, data: str, model: str, protocol: str, samples: int, severity: float = 5,
                batch: int | None = None, stream: Mapping | None = None) -> str:
    """One sentence on why `beside` finds no number for these settings: the nearest published ones
    and what differs.

    Empty when there are some.
    """
    lacks = {}
    for row in _cells():
        if row["mark"] != "U":
            differs = tuple(
                _conditions(row, data, model, protocol, samples, severity, batch, stream))
            if not differs:
                return ""
            lacks.setdefault(differs, row)
    nearest = min(lacks, key=len)
    return (f"Nothing published fits. The nearest, {lacks[nearest]['table']}, differs: " +
            "; ".join(nearest) + ".")


def _conditions(row, data, model, protocol, samples, severity, batch, stream) -> list[str]:
    """What keeps a published row from standing beside ours, in words."""
    asked = {
        "data": data.split(":")[0], "model": model, "protocol": protocol, "samples": samples,
        "severity": severity, "stream": dict(stream or {}), "batch": batch
    }
    if row["severity"] is None:
        asked.pop("severity")       # natural sets have none
    if batch is None:
        asked.pop("batch")
    return [f"{name} is {'not stated' if row[name] is None else row[name]} there, {value} here"
            for name, value in asked.items() if row[name] is None or row[name] != value]


def cell(data: str, model: str, protocol: str, method: str, *, table: str | None = None,
         batch: int | None = None, folder: str | Path | None = None) -> dict:
    """The settings that run one published number with your own copies of the data and the model,
    as a plain dict.

    data, model, table, value, metric   of the published number
    stream      {"protocol": name, "known": text for ``tta_lab.load``, ...}: the arguments of the
                function in ``protocols.PROTOCOLS``
    method      name of the recipe; settings: its hyper-parameters (step sizes by their dotted
                names)
    settings_stated   False where the table's step size is not on record: the recipe's own is used
    files       what has to lie below the data folder (``data/...``) and the model folder
                (``models/...``)

    ``folder`` holds ``data`` and ``models``; given, the files are looked for, and
    FileNotFoundError names the first that is missing. A table marked U (not verified) is taken
    only where ``table`` names it. Raises ValueError when no number, or more than one, is published
    for these, and for tables that no preset can run.
    """
    rows = [
        row for row in published(data, model, protocol, method, table=table, unverified=table
                                 is not None)
        if row["severity"] in (5, None) and batch in (None, row["batch"])
    ]
    if len(rows) != 1:
        there = "; ".join(dict.fromkeys(f"table={r['table']!r}, batch={r['batch']}" for r in rows))
        raise ValueError(f"{len(rows)} numbers are published for {method} on {data} with {model}, "
                         f"{protocol}; "
                         + (f"choose one: {there}" if rows else "published() lists what there is"))
    row, = rows
    if data not in PLACES or protocol in ("ccc", "source_model"):
        raise ValueError(f"there is no preset for {data} under {protocol}; presets exist for "
                         f"{', '.join(PLACES)}, without ccc and source_model")
    recipe = recipe_name(method)
    settings, stated = _settings(row)
    place = f"{folder or '.'}/data/{PLACES[data]}"
    stream = {
        "protocol": OWN_NAMES.get(protocol, protocol), "known": f"{data}:{place}",
        "shifts": list(_file()["order"]), "severity": 5,
        "per_shift": row["samples"] if protocol == "label_shift" else None, "batch": row["batch"],
        **_own_settings(row)
    }
    if data in NATURAL:
        stream["shifts"] = ["none"]
    result = {
        "data": data, "model": model, "stream": stream, "method": recipe, "settings": settings,
        "settings_stated": stated, "image_list": None, "files": _files(row), "table": row["table"],
        "value": row["value"], "metric": row["metric"]
    }
    if data == "imagenet_c" and row["samples"] == 5000:
        result["image_list"] = f"{folder or '.'}/data/{IMAGE_LIST}"
    if folder is not None:
        for name in result["files"]:
            if not _there(Path(folder), name):
                raise FileNotFoundError(f"{Path(folder) / name} is missing; {method} on {data} "
                                        f"with {model} needs: {', '.join(result['files'])}")
    return result


def _own_settings(row) -> dict:
    """Settings of a published stream under the names that our protocols give them."""
    stream = dict(row["stream"])
    if stream.pop("order", None) == "sorted":
        stream["delta"] = 0
    if row["protocol"] == "recurring":
        stream["visits"] = stream.pop("rounds")
    if row["mark"] == "B" and row["protocol"] == "continual" and row["data"] not in NATURAL:
        stream["same_order"] = True     # its loaders are seeded alike
    return stream


def _settings(row) -> tuple[dict, bool]:
    """Hyper-parameters of a published number, and whether they are on record."""
    if recipe_name(row["method"]) in NEED_NO_RATE:
        return {}, True
    for block in _file()["settings"]:
        if row["table"] in block["tables"] and all(row[k] in block.get(k, [row[k]])
                                                   for k in ("data", "model")):
            return dict(block.get("methods", {}).get(row["method"], block["settings"])), True
    return {}, False


def _files(row) -> list[str]:
    place, order = f"data/{PLACES[row['data']]}", _file()["order"]
    if row["data"].startswith("cifar"):
        files = [f"{place}/{name}.npy" for name in order] + [f"{place}/labels.npy"]
    elif row["data"] == "imagenet_c":
        files = ([f"{place}/{name}/5"
                  for name in order] + ([f"data/{IMAGE_LIST}"] if row["samples"] == 5000 else []))
    else:
        files = [place]
    weights = _file()["models"][row["model"]]["file"]
    return files + ([f"models/{weights}"] if weights else [])


def _there(folder: Path, name: str) -> bool:
    path = folder / name
    # ImageNet-C is also given out in groups of types
    grouped = path.parent.parent.glob(f"*/{path.parent.name}/{path.name}")
    return (path.exists()
            or name.startswith(f"data/{PLACES['imagenet_c']}/") and any(True for _ in grouped))


def models() -> dict[str, dict]:
    """The source models of the tables: name -> architecture, origin and file (None: no single
    published file)."""
    return {name: dict(facts) for name, facts in _file()["models"].items()}


def marks() -> dict[str, str]:
    """What the marks of the tables mean."""
    return dict(_file()["marks"])


def _frame(rows):
    try:
        import pandas
    except ImportError as why:
        raise ImportError("frames need pandas: pip install 'tta-lab[notebooks]'; leave out "
                          "frame=True for a list of dicts") from why
    return pandas.DataFrame(rows)
