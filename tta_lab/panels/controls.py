"""Widgets from knobs: a hyper-parameter is declared once, in the part that has it.

A range becomes a slider (a log range a log slider), choices a dropdown, a truth value a checkbox.
"""
from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace

from ..core.arguments import nearest
from ..core.knob_text import hint, scope
from ..core.knobs import Knob, knobs, resolve

DECADES = 4  # a log slider from 0 begins this far below the default: it can never reach 0


def control(knob: Knob, label: str = ""):
    """The widget of one knob, showing its value. ``label`` replaces the knob's name beside it.

    Raises ValueError when the value cannot be shown: outside the range, or 0 on a log slider.
    """
    import ipywidgets as W

    common = {"value": knob.value, "tooltip": hint(knob),
              "description": label or knob.name.split(".")[-1].replace("_", " "),
              "style": {"description_width": "initial"}}
    if knob.choices is not None:
        return W.Dropdown(options=[(str(choice), choice) for choice in knob.choices], **common)
    if isinstance(knob.default, bool):
        return W.Checkbox(indent=False, **common)
    if not knob.low <= knob.value <= knob.high:
        raise ValueError(f"{knob.name} = {knob.value!r} lies outside {scope(knob)}; give a value "
                         "inside or a wider range")
    common["continuous_update"] = False
    if isinstance(knob.default, int):
        return W.IntSlider(min=int(knob.low), max=int(knob.high), **common)
    if not knob.log:
        return W.FloatSlider(min=knob.low, max=knob.high, step=(knob.high - knob.low) / 100,
                             readout_format=".3g", **common)
    if not knob.value > 0:
        raise ValueError(f"{knob.name} = {knob.value!r} has no place on a log slider; give a "
                         "positive value")
    low = knob.low or min(knob.default or knob.high, knob.value) * 10.0**-DECADES
    return W.FloatLogSlider(min=math.log10(low), max=math.log10(knob.high), step=0.1,
                            readout_format=".2g", **common)


def field(knob: Knob, label: str = ""):
    """`control`, and a field to type in where a slider would be too coarse: ranges of more than
    1000, or unbounded."""
    import ipywidgets as W

    numeric = knob.choices is None and not isinstance(knob.default, bool)
    if not numeric or knob.log or knob.high - knob.low <= 1000:
        return control(knob, label)
    kind = W.BoundedIntText if isinstance(knob.default, int) else W.BoundedFloatText
    return kind(value=knob.value, min=knob.low, max=knob.high, description=label or knob.name,
                tooltip=hint(knob), continuous_update=False)


def dropdown(name: str, options, value, label: str, tooltip: str):
    """A list to choose from: ``options`` are values, (label, value) pairs, or value -> label.
    Raises ValueError, naming the control, for a value that it does not have."""
    import ipywidgets as W

    if isinstance(options, dict):
        options = [(label, value) for value, label in options.items()]
    options = [o if isinstance(o, tuple) else (str(o), o) for o in options]
    check_option(name, value, [v for _, v in options])
    return W.Dropdown(options=options, value=value, description=label, tooltip=tooltip)


def check_option(name: str, value, values) -> None:
    """Raise ValueError, naming the nearest, for a value that a control does not have."""
    values = list(values)
    if value not in values:
        there = [str(v) for v in values]
        raise ValueError(f"{name} must be one of {', '.join(there)}, not {value!r}"
                         f"{nearest(value, there)}")


def steps(values, value, label: str, tooltip: str, text: str):
    """A slider over some numbers, of which ``value`` becomes one; ``text`` writes them."""
    import ipywidgets as W

    options = [(text.format(v), v) for v in sorted({*values, value})]
    return W.SelectionSlider(options=options, value=value, description=label, tooltip=tooltip,
                             continuous_update=False)


def slider(value: int, low: int, high: int, label: str, tooltip: str, step: int = 1):
    """A slider over whole numbers."""
    import ipywidgets as W

    return W.IntSlider(value=value, min=low, max=high, step=step, description=label,
                       tooltip=tooltip, continuous_update=False)


def tick(value: bool, label: str, tooltip: str | None = None):
    """A box to tick."""
    import ipywidgets as W

    return W.Checkbox(value=bool(value), description=label, indent=False, tooltip=tooltip)


def seed_field(seed: int):
    """A field for the seed."""
    import ipywidgets as W

    return W.BoundedIntText(value=seed, min=0, max=10**6, description="seed",
                            tooltip="of the stream and of the method")


class KnobFields:
    """Fields for the knobs of a recipe that changes: ``simple`` and ``expert`` are the boxes that
    hold them, ``fields`` the widgets by name. ``moved(name, value)`` is called when one is set."""

    def __init__(self, moved: Callable, simple_width: str, expert_width: str):
        import ipywidgets as W

        self.fields: dict = {}
        self.simple, self.expert = W.VBox(), W.VBox()
        self._moved = moved
        self._widths = (expert_width, simple_width)

    def show(self, rows) -> None:
        """Fields for these (knob, label, whether it is simple), in place of the present ones."""
        for widget in self.fields.values():
            widget.unobserve_all("value")
        self.fields = {}
        boxes = ([], [])
        for knob, label, simple in rows:
            widget = field(knob, label)
            widget.observe(functools.partial(self._moved, knob.name), "value")
            widget.style.description_width = self._widths[simple]
            widget.layout.width = "395px"
            self.fields[knob.name] = widget
            boxes[simple].append(widget)
        self.expert.children, self.simple.children = boxes


def rounded(knob: Knob, value):
    """What a field for this knob says: as it was put there, else with three digits."""
    if value == knob.value or isinstance(value, str | bool):
        return value
    whole = isinstance(knob.default, int) and not isinstance(knob.default, bool)
    return int(value) if whole else three_digits(value)


def three_digits(value):
    """A number of a slider as one would write it."""
    return float(f"{value:.3g}") if isinstance(value, float) else value


def narrow(knob: Knob, low=None, high=None) -> Knob:
    """The same knob with a smaller range and its value moved into it: for a slider that need not
    offer everything."""
    low = knob.low if low is None else low
    high = knob.high if high is None else high
    if not knob.low <= low < high <= knob.high:
        raise ValueError(f"{knob.name} goes from {knob.low:g} to {knob.high:g}; {low:g} to "
                         f"{high:g} is not a part of that")
    return replace(knob, low=low, high=high, value=min(max(knob.value, low), high))


def find(recipe, name: str) -> Knob:
    """One knob of a recipe by dotted or unique short name. Raises ValueError, listing what
    exists."""
    full = resolve(recipe, name)
    return next(k for k in knobs(recipe) if k.name == full)


def controls(recipe) -> dict:
    """One widget per knob of a recipe, by dotted name. ``with_knobs(recipe, **values(controls))``
    is the recipe they describe."""
    return {k.name: control(k, k.name) for k in knobs(recipe)}


def values(widgets: dict) -> dict:
    """What the widgets say."""
    return {name: widget.value for name, widget in widgets.items()}


def other(widget):
    """A value that a control does not have now; the same where it has no other."""
    if isinstance(widget.value, bool):
        return not widget.value
    if isinstance(widget.value, tuple):
        return widget.value[:1]
    if hasattr(widget, "options"):
        return next((v for _, v in widget.options if v != widget.value), widget.value)
    base = getattr(widget, "base", None)
    ends = (widget.min, widget.max) if base is None else (base**widget.min, base**widget.max)
    return next(end for end in ends if end != widget.value)


def move(widget) -> None:
    """Give a control another value and its own again, so that its callbacks are called."""
    before = widget.value
    widget.value = other(widget)
    widget.value = before
