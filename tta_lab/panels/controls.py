"""Widgets and documentation rows from knobs: a hyper-parameter is declared once, in the part that has it.

A range becomes a slider (a log range a log slider), choices a dropdown, a truth value a checkbox.
"""
from __future__ import annotations

import math
from dataclasses import replace

from ..core.knob_text import hint, scope
from ..core.knobs import Knob, knobs, resolve

DECADES = 4  # a log slider whose range begins at 0 begins this far below the default: it can never reach 0


def control(knob: Knob, label: str = ""):
    """The widget of one knob, showing its value. ``label`` replaces the knob's name beside it.

    Raises ValueError when the value cannot be shown: outside the range, or 0 on a log slider.
    """
    import ipywidgets as W

    common = {"value": knob.value, "description": label or knob.name.split(".")[-1].replace("_", " "), "tooltip": hint(knob),
              "style": {"description_width": "initial"}}
    if knob.choices is not None:
        return W.Dropdown(options=[(str(choice), choice) for choice in knob.choices], **common)
    if isinstance(knob.default, bool):
        return W.Checkbox(indent=False, **common)
    if not knob.low <= knob.value <= knob.high:
        raise ValueError(f"{knob.name} = {knob.value!r} lies outside {scope(knob)}; give a value inside or a wider range")
    common["continuous_update"] = False
    if isinstance(knob.default, int):
        return W.IntSlider(min=int(knob.low), max=int(knob.high), **common)
    if not knob.log:
        return W.FloatSlider(min=knob.low, max=knob.high, step=(knob.high - knob.low) / 100, readout_format=".3g", **common)
    if not knob.value > 0:
        raise ValueError(f"{knob.name} = {knob.value!r} has no place on a log slider; give a positive value")
    low = knob.low or min(knob.default or knob.high, knob.value) * 10.0**-DECADES
    return W.FloatLogSlider(min=math.log10(low), max=math.log10(knob.high), step=0.1, readout_format=".2g", **common)


def narrow(knob: Knob, low=None, high=None) -> Knob:
    """The same knob with a smaller range and its value moved into it: for a slider that need not offer everything."""
    low, high = knob.low if low is None else low, knob.high if high is None else high
    if not knob.low <= low < high <= knob.high:
        raise ValueError(f"{knob.name} goes from {knob.low:g} to {knob.high:g}; {low:g} to {high:g} is not a part of that")
    return replace(knob, low=low, high=high, value=min(max(knob.value, low), high))


def find(recipe, name: str) -> Knob:
    """One knob of a recipe by dotted or unique short name. Raises ValueError, listing what exists."""
    full = resolve(recipe, name)
    return next(k for k in knobs(recipe) if k.name == full)


def controls(recipe) -> dict:
    """One widget per knob of a recipe, by dotted name. ``with_knobs(recipe, **values(controls))`` is the recipe they describe."""
    return {k.name: control(k, k.name) for k in knobs(recipe)}


def values(widgets: dict) -> dict:
    """What the widgets say."""
    return {name: widget.value for name, widget in widgets.items()}
