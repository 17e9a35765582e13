"""Every reference run is compared by a test, or a method that is not built is named: ``golden/coverage.csv`` says which, and is true."""
import csv
import importlib
from collections import Counter

import pytest
from tiny import GOLDEN

from tta_lab.methods import METHODS

TABLE = list(csv.DictReader((GOLDEN / "coverage.csv").read_text().splitlines()))
INDICES = {path: list(csv.DictReader(path.read_text().splitlines())) for path in [GOLDEN / "index.csv", *sorted(GOLDEN.glob("expected/*/index.csv"))]}
STORED = {row["run"]: row["method"] for rows in INDICES.values() for row in rows}


def test_the_table_counts_what_is_stored():
    assert sum(int(row["runs"]) for row in TABLE) == 283 and len({row["method"] for row in TABLE}) == len(TABLE)
    assert sum(len(rows) for rows in INDICES.values()) == len(STORED), "a run is stored once"
    assert {row["method"]: int(row["compared"]) for row in TABLE if row["compared"] != "0"} == Counter(STORED.values())


@pytest.mark.parametrize("row", [row for row in TABLE if row["compared"] != row["runs"] or not row["test"]], ids=lambda row: row["method"])
def test_what_is_not_compared_belongs_to_a_method_that_is_not_built(row):
    assert row["compared"] == "0" and not row["test"] and row["not_built"]
    assert row["not_built"] not in METHODS, f"{row['not_built']} is built now: store its {row['runs']} runs and compare them"


def asked(module):
    """Runs that are parameters of the comparing tests of a module."""
    names = set()
    for name, test in vars(module).items():
        if name.startswith("test") and "can_fail" not in name:
            for mark in getattr(test, "pytestmark", []):
                for value in mark.args[1] if mark.name == "parametrize" else ():
                    value = getattr(value, "values", value)
                    names |= {v for v in (value if isinstance(value, (tuple, list)) else (value,)) if isinstance(v, str)}
    return names


@pytest.mark.parametrize("name", sorted({row["test"] for row in TABLE} - {""}))
def test_every_stored_run_is_asked_by_the_test_that_the_table_names(name, monkeypatch):
    monkeypatch.syspath_prepend(str(GOLDEN.parent / "methods"))
    monkeypatch.syspath_prepend(str(GOLDEN.parent))
    methods = {row["method"] for row in TABLE if row["test"] == name}
    runs = {run for run, method in STORED.items() if method in methods}
    assert runs and not runs - asked(importlib.import_module(name))
