"""ImagesView: the images of a run, filtered by what happened to them; whatever it shows can be read
back as rows of the trace."""
from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np

from ..studies.explorer import images as I
from ..studies.explorer import study as E
from .controls import dropdown
from .image_grid import image_grid
from .layout import block, column, line

ANY = -1    # no class in particular
MOST = 300  # pictures sent to the page; the sentence says how many there are


class ImagesView:
    """``show`` a run, ``set`` which of its images (`studies.explorer.images.Where`); ``where`` and
    ``rows`` (of the trace) are what is shown now, ``widget`` shows it."""

    def __init__(self):
        import ipywidgets as W

        self.where = I.Where()
        self.rows = np.zeros(0, np.int64)
        self._run = None
        self._busy = False
        kinds = [(label, kind) for kind, label in I.KINDS.items()]
        orders = [(label, order) for order, label in I.ORDERS.items()]
        every = [("any", ANY)]
        self.controls = {
            "kind": dropdown("kind", kinds, "", "show", "which images"),
            "true": dropdown("true", every, ANY, "true class", "the class of the label"),
            "predicted": dropdown("predicted", every, ANY, "called", "the answer of the run"),
            "shift": dropdown("shift", [("any", "")], "", "shift", "under which shift"),
            "order": dropdown("order", orders, "confidence", "order", "which come first")}
        for widget in self.controls.values():
            widget.style.description_width = "66px"
            widget.layout.width = "225px"
            widget.observe(self._moved, "value")
        self.all = W.Button(description="All images", tooltip="Show images of every kind, class, "
                            "shift and place", layout={"width": "auto"})
        self.all.on_click(lambda _: self.set(I.Where()))
        self.sentence = W.HTML()
        self.grid = image_grid()
        self.grid.on_open(self.told)
        self.widget = column(line(*self.controls.values(), self.all), self.sentence, self.grid)
        self.clear()

    def clear(self) -> None:
        """Nothing of a run."""
        self._run = None
        self.where = I.Where()
        self.rows = np.zeros(0, np.int64)
        self.grid.show([])
        self.sentence.value = block("Nothing has run yet.")

    def show(self, trace, stream, classes, references: dict, probabilities: dict) -> None:
        """The images of this run; without ``stream`` what was recorded of them, without
        pictures."""
        fresh = self._run is None or self._run[0] is not trace
        self._run = (trace, stream, list(classes), references, probabilities)
        names = [(name, k) for k, name in enumerate(classes)]
        shifts = list(dict.fromkeys(trace.meta.get("segments", [])))
        with self._quietly():
            for name in ("true", "predicted"):
                self._options(name, [("any", ANY), *names])
            self._options("shift", [("any", ""), *((s.replace("_", " "), s) for s in shifts)])
        if fresh and self.where == I.Where() and E.scored(trace).any():
            self.where = I.Where(kind="wrong")
        self.set(self.where)

    def set(self, where: I.Where) -> None:
        """Show these images of the run."""
        self.where = where
        if self._run is None:
            return
        with self._quietly():
            for name in ("kind", "true", "predicted", "shift"):
                value = getattr(where, name)
                self.controls[name].value = ANY if value is None else value
        self._draw()

    def told(self, row: int) -> dict:
        """All that was recorded of one image."""
        trace, stream, classes, references, probabilities = self._run
        return I.told(trace, stream, row, classes, references, probabilities)

    def _options(self, name: str, options: list) -> None:
        widget = self.controls[name]
        if list(widget.options) != options:
            widget.options = options
            widget.value = options[0][1]

    def _moved(self, change) -> None:
        if not self._busy and self._run is not None:
            values = {name: self.controls[name].value
                      for name in ("kind", "true", "predicted", "shift")}
            self.where = replace(self.where, **{name: None if value == ANY else value
                                                for name, value in values.items()})
            self._draw()

    def _draw(self) -> None:
        trace, stream, classes, _, _ = self._run
        try:
            self.rows = I.rows_where(trace, self.where, self.controls["order"].value)
            said = I.say_where(self.where, len(self.rows), trace, classes)
            shown = self.rows[:MOST]
            if len(self.rows) > MOST:
                said += f" The first {MOST} are shown."
            if stream is None:
                said += " Their pictures are not at hand: this run was read from a file."
            self.grid.show(I.cards(trace, stream, shown, classes))
        except ValueError as why:  # a kind that needs labels, a shift of another run
            self.rows = np.zeros(0, np.int64)
            self.grid.show([])
            said = str(why)
        self.sentence.value = block(said)

    @contextlib.contextmanager
    def _quietly(self):
        before, self._busy = self._busy, True
        try:
            yield
        finally:
            self._busy = before
