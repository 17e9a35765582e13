"""The widgets of the explorer and their layout. They show what the state holds and decide nothing.
"""
from __future__ import annotations

import html

from .. import plots
from ..components.controllers.guard import Guard
from ..studies.explorer import study as E
from ..studies.explorer.figures import FIGURES
from ..studies.streams.study import first_sentence
from . import explorer_words as words
from .controls import KnobFields, control, dropdown, seed_field, tick
from .explorer_state import METHOD, ExplorerState
from .layout import WIDTH, block, column, line, own_keys, picture
from .live import sized
from .stream_panel import shifts_list

SIMPLE_STREAM = ("protocol", "severity", "per_shift", "batch")
COLORS = {"wait": "#777777", "unsure": "#777777", "calm": "#009E73", "watch": "#E69F00",
          "alarm": "#D55E00"}
HEIGHTS = {  # of plotly figures, pixels
    "errors": 300, "predictions": 300, "images": 0, "probabilities": 260, "threshold": 260}
INCHES = {  # of pictures
    "errors": (10.5, 4.0), "predictions": (10.5, 4.0), "probabilities": (8, 3.6),
    "threshold": (8, 3.6)}
NO_IMAGE = [("no image yet", -1)]
LISTS = {  # label and sentence of the lists whose options the state knows
    "model": ("model", "the source model that is adapted"),
    "method": ("method", "what adapts the model; in brackets its family"),
    "form": ("form", "where the authors' code differs from their paper"),
    "first": ("learn from", "which images the method may learn from"),
    "second": ("and of these", "a second selector, asked about what the first has left")}
BUTTONS = {
    "step": ("Step", "Show one more batch, then hold"),
    "reset": ("Reset", "Forget the run that is shown and begin anew; settings, A and results stay"),
    "keep": ("Keep as A", "Compare the next runs on this stream with the run shown"),
    "paper": ("Paper defaults", "Set every knob of the method to the value that it has in its "
              "paper")}


class ExplorerView:
    """All widgets of the explorer beside those of a `RunPanel`: ``controls`` by name, ``knobs``
    (the fields of the method), ``buttons``, ``frames`` (of the figures) and boxes for sentences.
    ``moved(name, change)`` is called when a knob is set."""

    def __init__(self, state: ExplorerState, moved):
        import ipywidgets as W

        self.state = state
        self.controls = self._controls()
        self.knobs = KnobFields(moved, "190px", "190px")
        self._rows = None
        self.buttons = {name: W.Button(description=label, tooltip=tip)
                        for name, (label, tip) in BUTTONS.items()}
        self.buttons["keep"].disabled = True
        self.alarm_box, self.compared, self.code, self.table = (W.HTML() for _ in range(4))
        self.details, self.judged, self.sentence, self.picked = (W.HTML() for _ in range(4))
        self.frames = {name: W.HTML() for name in HEIGHTS}
        self.pick = W.Dropdown(options=NO_IMAGE, description="image",
                               tooltip="an image of the grid, to see its numbers")
        self.score = dropdown("score", E.SCORES, "confidence", "score", "higher means more known")
        self.rejected = W.FloatSlider(
            value=0.5, min=0, max=1, step=0.01, readout_format=".0%", description="reject",
            continuous_update=False, tooltip="share of all images, those with the lowest scores, "
            "that are taken for unknown")
        for widget in (self.pick, self.score, self.rejected):
            widget.style.description_width = "70px"
            widget.layout.width = "400px"

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
        guard = tick(first["guard"], "guard: act on alarms, choose who answers",
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

    def draw(self, name: str, numbers: dict, interactive: bool):
        """Draw one figure: in a browser as a picture, which is some 50 kB where a plotly widget
        sends 5 MB. Without one the plotly figure is returned."""
        plot = FIGURES[name]
        if not interactive:
            drawn = plot(numbers, "plotly")
            return drawn if name == "images" else sized(drawn, HEIGHTS[name])
        figure = plot(numbers, "matplotlib")
        if name in INCHES:
            plots.fit(figure, *INCHES[name])
        width = min(WIDTH, round(78 * figure.get_size_inches()[0]))
        self.frames[name].value = picture(figure, words.figure_text(name, numbers), width)
        return None

    def show_alarm(self, status: str, text: str) -> None:
        """The alarm light with what it says."""
        (shape, word) = E.LIGHTS[status]
        color = COLORS[status]
        self.alarm_box.value = (
            f'<div role="group" aria-label="alarm light: {word}" style="border-left: 8px solid '
            f'{color}; padding-left: 8px; line-height: 1.4; max-width: {WIDTH}px"><span '
            f'style="font-size: 150%; color: {color}">{shape}</span> <b>Alarm light:</b> '
            f"{html.escape(text)}</div>")

    def show_runs(self, rows, missing: str) -> None:
        """The table of all runs."""
        self.table.value = words.results_html(rows) + (block(missing) if missing else "")

    def clear(self) -> None:
        """Sentences of a run that is forgotten."""
        for box in (self.judged, self.sentence, self.picked, self.details):
            box.value = ""

    def of_run(self) -> list:
        """What shows something of the last run."""
        return [*self.frames.values(), self.alarm_box, self.sentence, self.compared, self.judged,
                self.picked]

    # --- layout

    def folds(self) -> dict:
        """Parts that a button opens: name -> (label, box)."""
        c = self.controls
        f = self.frames
        more = [c[name] for name in c
                if name not in ("model", "seed", *METHOD, *SIMPLE_STREAM)] + [c["seed"]]
        return {"stream": ("more about the stream", line(column(*more[::2]), column(*more[1::2]))),
                "expert": ("expert knobs", column(c["form"], self.knobs.expert)),
                "images": ("images", column(self.picked, f["images"], self.pick, self.details,
                                            f["probabilities"])),
                "unknown": ("threshold for unknown images",
                            column(line(self.score, self.rejected), self.judged, f["threshold"])),
                "runs": ("all runs", self.table), "code": ("code", self.code)}

    def widget(self, panel):
        """Everything in one box."""
        c = self.controls
        f = self.frames
        fold = panel.folds
        box = panel.fold_boxes
        left = column(c["model"], *(c[name] for name in SIMPLE_STREAM), fold["stream"])
        right = column(c["method"], c["first"], c["second"], c["guard"], self.knobs.simple,
                       fold["expert"])
        buttons = panel.run_buttons(*self.buttons.values())
        for button in buttons.children:
            button.layout.width = "128px"
        last = ("images", "unknown", "runs", "code")
        return column(line(left, right), box["stream"], box["expert"], panel.description, buttons,
                      panel.progress, panel.status, self.alarm_box, self.compared, f["errors"],
                      f["predictions"], self.sentence, line(*(fold[name] for name in last)),
                      *(box[name] for name in last), own_keys())
