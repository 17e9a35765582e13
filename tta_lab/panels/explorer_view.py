"""The widgets of the explorer and their layout. They show what the state holds and decide nothing.
"""
from __future__ import annotations

import html

from .. import plots
from ..components.controllers.guard import Guard
from ..experiments.kept_runs import KeptRuns
from ..studies.explorer import study as E
from ..studies.explorer.figures import FIGURES
from ..studies.streams.study import first_sentence
from . import explorer_words as words
from .controls import KnobFields, control, dropdown, seed_field, tick
from .explorer_state import METHOD, ExplorerState
from .frames import figure_frame
from .images_view import ImagesView
from .labels import slider_labels
from .layout import WIDTH, block, chips, column, folded, heading, line
from .live import sized
from .preview import PreviewBox
from .runs_table import RunsTable
from .stream_panel import shifts_list

SIMPLE_STREAM = ("protocol", "severity", "per_shift", "batch", "unknown_ratio")
COLORS = {"wait": "#777777", "unsure": "#777777", "calm": "#009E73", "watch": "#E69F00",
          "alarm": "#D55E00"}
HEIGHTS = {"errors": 300, "predictions": 300, "threshold": 260}  # of plotly figures, pixels
INCHES = {"errors": (8.2, 3.5), "predictions": (8.2, 3.5), "threshold": (8, 3.4)}  # of pictures
LISTS = {  # label and sentence of the lists whose options the state knows
    "model": ("model", "the source model that is adapted"),
    "method": ("method", "what adapts the model; in brackets its family"),
    "form": ("form", "where the authors' code differs from their paper"),
    "first": ("learn from", "which images the method may learn from"),
    "second": ("and of these", "a second selector, asked about what the first has left")}
BUTTONS = {
    "step": ("Step", "Show one more batch, then hold"),
    "reset": ("Reset", "Show no run and begin anew; settings and the table of runs stay"),
    "report": ("Save report", "Write one HTML file of the ticked runs, for readers without "
               "Jupyter"),
    "paper": ("Paper defaults", "Set every knob of the method to the value that it has in its "
              "paper"),
    "rates": ("Try five rates", "Run the method at five learning rates and rank them")}
LABEL = "116px"


class ExplorerView:
    """All widgets of the explorer beside those of a `RunPanel`: ``controls`` by name, ``knobs``
    (the fields of the method), ``buttons``, ``table`` (of the runs), ``frames`` (of the figures),
    ``images`` and ``preview``, and boxes for sentences. ``moved(name, change)`` is called when a
    knob is set, ``ticked()`` when the table was used."""

    def __init__(self, state: ExplorerState, moved, kept: KeptRuns, ticked):
        import ipywidgets as W

        self.state = state
        self.controls = self._controls()
        self.knobs = KnobFields(moved, LABEL, LABEL)
        self._rows = None
        self.buttons = {name: W.Button(description=label, tooltip=tip)
                        for name, (label, tip) in BUTTONS.items()}
        self.alarm_box, self.compared, self.code, self.ranking = (W.HTML() for _ in range(4))
        self.judged, self.sentence, self.what = (W.HTML() for _ in range(3))
        self.frames = {name: figure_frame() for name in INCHES}
        self.table = RunsTable(kept, ticked)
        self.images = ImagesView()
        self.preview = PreviewBox()
        self.score = dropdown("score", E.SCORES, "confidence", "score", "higher means more known")
        self.rejected = W.FloatSlider(
            value=0.5, min=0, max=1, step=0.01, readout_format=".0%", description="reject",
            continuous_update=False, tooltip="share of all images, those with the lowest scores, "
            "that are taken for unknown")
        for widget in (self.score, self.rejected):
            widget.style.description_width = "50px"
            widget.layout.width = "250px"

    def _controls(self) -> dict:
        state = self.state
        first = self.state.values
        lists = {name: dropdown(name, state.options(name), first[name], *LISTS[name])
                 for name in LISTS}
        found = {"model": lists.pop("model")} | {k.name: control(k, label)
                                                 for k, label in state.knobs}
        found["protocol"].options = state.options("protocol")
        found["protocol"].value = first["protocol"]
        found["shifts"] = shifts_list(first["shifts"])
        found["seed"] = seed_field(first["seed"])
        guard = tick(first["guard"], "guard: act on alarms",
                     first_sentence(Guard))
        return found | lists | {"guard": guard}

    def sync(self) -> None:
        """Show what the state holds."""
        form = self.controls["form"]
        forms = self.state.options("form")
        if list(form.options) != forms:
            form.options = forms
        for name, value in self.state.values.items():
            widget = self.controls[name]
            if widget.value != value:
                widget.value = value
            widget.layout.display = None if self.state.offers(name) else "none"
        if self._rows is not self.state.rows:
            self._rows = self.state.rows
            self.knobs.show(self._rows)
            for widget in self.knobs.fields.values():
                widget.layout.width = "98%"

    def describe(self, named: list[str], description: str, why: str) -> str:
        """Chips of what will run, and what it is and needs behind a title; the HTML of both."""
        reason = f"<div><b>Impossible:</b> {html.escape(why)}</div>" if why else ""
        return chips(named) + reason + folded("What this is and needs", html.escape(description))

    def draw(self, name: str, numbers: dict, interactive: bool):
        """Draw one figure: in a browser as a picture with the values under the pointer. Without one
        the plotly figure is returned."""
        plot = FIGURES[name]
        if not interactive:
            return sized(plot(numbers, "plotly"), HEIGHTS[name])
        figure = plots.fit(plot(numbers, "matplotlib"), *INCHES[name])
        self.frames[name].show(figure, words.figure_text(name, numbers), WIDTH)
        return None

    def show_alarm(self, status: str, text: str) -> None:
        """The alarm light with what it says."""
        (shape, word) = E.LIGHTS[status]
        color = COLORS[status]
        self.alarm_box.value = (
            f'<div role="group" aria-label="alarm light: {word}" style="border-left: 8px solid '
            f'{color}; padding-left: 8px; line-height: 1.35"><span '
            f'style="font-size: 130%; color: {color}">{shape}</span> <b>Alarm light:</b> '
            f"{html.escape(text)}</div>")

    def clear(self) -> None:
        """Sentences of a run that is forgotten."""
        for box in (self.judged, self.sentence, self.compared):
            box.value = ""
        self.images.clear()

    def of_run(self) -> list:
        """What shows something of the last run."""
        return [*self.frames.values(), self.alarm_box, self.sentence, self.compared, self.judged]

    # --- layout

    def folds(self) -> dict:
        """Parts that a button opens: name -> (label, box)."""
        c = self.controls
        f = self.frames
        more = [c[name] for name in c
                if name not in ("model", "seed", *METHOD, *SIMPLE_STREAM)] + [c["seed"]]
        return {"stream": ("more about the stream", column(*more)),
                "expert": ("expert knobs", column(c["form"], self.knobs.expert,
                                                  self.buttons["paper"])),
                "preview": ("preview", self.preview.widget),
                "images": ("images", self.images.widget),
                "unknown": ("threshold", column(line(self.score, self.rejected), self.judged,
                                                f["threshold"])),
                "choose": ("choose without labels", column(self.buttons["rates"], self.ranking)),
                "code": ("code", self.code)}

    def widget(self, panel):
        """Everything in one box."""
        c = self.controls
        f = self.frames
        fold = panel.folds
        box = panel.fold_boxes
        left = [heading("Model and stream"), c["model"], *(c[name] for name in SIMPLE_STREAM),
                fold["stream"], box["stream"], heading("Method"), c["method"], c["first"],
                c["second"], c["guard"], self.knobs.simple, fold["expert"], box["expert"]]
        views = ("preview", "images", "unknown", "choose", "code")
        below = [self.sentence, slider_labels()]
        above = [self.table.widget, self.compared, line(*(fold[name] for name in views)),
                 *(box[name] for name in views)]
        buttons = [self.buttons[name] for name in ("step", "reset", "report")]
        return panel.bench(left, [f["errors"], f["predictions"]], below, buttons,
                           [self.alarm_box], above)

    def show_ranking(self, text: str) -> None:
        """What choosing without labels says."""
        self.ranking.value = text

    def say_compared(self, text: str) -> None:
        """What the ticked runs differ by."""
        self.compared.value = block(text) if text else ""
