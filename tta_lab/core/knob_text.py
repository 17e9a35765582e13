"""Knobs in words: a line of help, the range, the rows of a documentation table."""
from __future__ import annotations

from .knobs import Knob, knobs


def hint(knob: Knob) -> str:
    """What a knob does, its range, its unit and its place in the paper, in one line."""
    parts = [
        knob.why or knob.name,
        scope(knob), f"unit: {knob.unit}" if knob.unit else "",
        f"paper: {knob.paper}" if knob.paper else ""
    ]
    return "; ".join(part for part in parts if part)


def scope(knob: Knob) -> str:
    """The allowed values in words."""
    if knob.choices is not None:
        return "one of " + ", ".join(map(str, knob.choices))
    if isinstance(knob.default, bool):
        return "yes or no"
    return f"{knob.low:g} to {knob.high:g}" + (", log scale" if knob.log else "")


def parameter_table(recipe) -> list[dict]:
    """One row per knob for documentation: name, value, default, range, sentence, unit, paper."""
    return [{
        "name": k.name, "value": k.value, "default": k.default, "range": scope(k),
        "sentence": k.why, "unit": k.unit, "paper": k.paper
    } for k in knobs(recipe)]
