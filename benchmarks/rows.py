"""Finished runs as rows of a CSV file: written at once, found again by what identifies a run."""
from __future__ import annotations

import csv
from pathlib import Path


class Rows:
    """``rows`` of ``path`` with columns ``fields`` (all text), and ``done``, the keys of those
    that are there; a subclass states ``key``."""

    def __init__(self, path: Path, fields: tuple, digits: int = 5):
        self.path = path
        self.fields = fields
        self.digits = digits
        self.rows = []
        if path.is_file():
            with open(path, newline="") as f:
                self.rows = list(csv.DictReader(f))
        self.done = {self.key(r) for r in self.rows}

    @staticmethod
    def key(row: dict) -> tuple:
        raise NotImplementedError

    def add(self, row: dict) -> None:
        row = {k: f"{v:.{self.digits}g}" if isinstance(v, float) else v for k, v in row.items()}
        fresh = not self.path.is_file()
        with open(self.path, "a", newline="") as f:
            writer = csv.DictWriter(f, self.fields)
            if fresh:
                writer.writeheader()
            writer.writerow(row)
        self.rows.append({name: str(row.get(name, "")) for name in self.fields})
        self.done.add(self.key(row))
