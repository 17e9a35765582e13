"""The panel of the fourth notebook: one slider, the learning rate, provokes collapse; error, predictions, detector and guard are watched live.

Runs are made by ``collapse_study.Bench``, numbers by ``collapse_study.numbers_of``: all of them work without the panel, and ``to_code()`` says how.
"""
from __future__ import annotations

import html
import time
from dataclasses import replace

from ..plots import FONT, fit
from ..studies.collapse import figures as pictures
from ..studies.collapse.study import FACTORS, GUARDS, METHODS, STATISTICS, STREAMS, Bench, Setting, numbers_of
from ..studies.collapse.text import LIGHTS, light, say_run
from .live import live_figure
from .run_panel import RunPanel, guarded, own_keys

WIDTH = 820    # beside JupyterLab's file list on a screen of 1280 x 720
PAUSE = 0.5    # seconds between two drawings while a run goes on, or more where drawing takes long


def collapse_panel(setting: Setting | None = None, interactive: bool = True, bench: Bench | None = None, at_once: bool = True) -> CollapsePanel:
    """Rate, method, stream and guard as controls; error, predictions and the detector's probability as they develop.

    ``setting`` holds the first values; ``bench`` may be shared with the rest of a notebook, so that no run is made twice. ``interactive`` shows
    the controls and runs in a thread. False returns a panel of which every callback has been fired from Python and which has run once in the
    caller's thread; it shows plain figures.
    """
    panel = CollapsePanel(setting or Setting(), interactive, bench or Bench(), at_once)
    if not interactive:
        panel.fire()
    return panel


class CollapsePanel(RunPanel):
    """What ``collapse_panel`` makes.

    ``trace`` is the last run and ``result`` its numbers (`collapse_study.numbers_of`), None before the first; ``state`` is the name of its light
    ("calm", "doubtful", "alarm", "unsure", "none"), ``setting`` what the controls stand for, ``ran`` the setting of the last run. ``error`` is the
    exception that ended the last run, or None.
    """

    def __init__(self, setting: Setting, interactive: bool, bench: Bench, at_once: bool):
        import ipywidgets as W

        self.bench, self._first = bench, setting
        self.trace, self.result, self.state, self.ran, self._drawn = None, None, "none", None, 0.0
        factors = sorted({*FACTORS, float(setting.factor)})

        def choice(name, options, label, tooltip):
            return W.Dropdown(options=[(words, value) for value, words in options.items()], value=getattr(setting, name), description=label,
                              tooltip=tooltip)

        controls = {
            "factor": W.SelectionSlider(options=[(f"x {f:g}", f) for f in factors], value=float(setting.factor), description="learning rate",
                                        continuous_update=False, tooltip="multiple of the method's default rate"),
            "method": choice("method", {m: m for m in METHODS}, "method", "what adapts"),
            "stream": choice("stream", {name: words for name, (words, *_) in STREAMS.items()}, "stream", "which images come when"),
            "statistics": choice("statistics", STATISTICS, "batch norm", "whose mean and variance the batch-norm layers use"),
            "guard": choice("guard", GUARDS, "guard", "what is done at an alarm"),
            "choose": W.Checkbox(value=setting.choose, description="the guard may let source or BN-1 answer", indent=False),
            "at_once": W.Checkbox(value=at_once, description="run as soon as something is changed", indent=False),
        }
        super().__init__(controls, interactive, "Run the stream with these settings", 100, 390)
        self.signals, self.predictions = (live_figure(drawn, interactive) for drawn in _figures(None))
        self.lamp, self.code = W.HTML(), W.HTML()
        self._say("Nothing has run yet: move the slider, or press Run.")
        self._shine("none", "nobody watches yet")
        self._describe()

    # --- callbacks

    @property
    def setting(self) -> Setting:
        """What the controls stand for."""
        values = {name: widget.value for name, widget in self.controls.items() if name != "at_once"}
        return replace(self._first, **values)

    @guarded
    def _on_change(self, change=None):
        self._describe()
        if change is None or not (self.interactive and self.controls["at_once"].value) or change["owner"] is self.controls["at_once"]:
            return
        self._run_after("Ending the run in work; one with the new settings follows.")

    # --- the work

    def _of_run(self):
        return [self.lamp, *(figure.widget for figure in (self.signals, self.predictions) if self.interactive)]

    def _begin(self):
        if self.ran is not None:
            self._age()
        self.trace, self.result, self.state, self.ran = None, None, "none", self.setting
        return (self.ran,)

    def _run(self, setting: Setting):
        n = self.bench.n_images(setting)
        self.progress.value, self.progress.max = 0, n
        self._say("Running source and BN-1 on this stream, for comparison.")
        beside = self.bench.beside(setting, self._stop.is_set, self._count)
        if self._stop.is_set():
            self._say("Stopped while source and BN-1 were run for comparison: there is nothing to show.")
            return
        classes, took = self.bench.classes(setting), 0.0

        def each(trace):
            nonlocal took
            self._count(trace)
            began = time.monotonic()
            if began - self._drawn > max(PAUSE, 2 * took):    # at most a third of the time is spent on drawing
                self._say(f"Running {setting.method} at x {setting.factor:g} on {setting.model}, {setting.shown}: {len(trace)} of "
                          f"{n} images.{self._stopping}")
                self._draw(numbers_of(trace, beside, classes))
                self._drawn = time.monotonic()
                took = self._drawn - began

        trace = self.bench.run(setting, self._stop.is_set, each if self.interactive else self._count)
        self._count(trace)
        if not len(trace):
            self._say("Stopped before the first batch: there is nothing to show.")
            return
        self.trace, self.result = trace, numbers_of(trace, beside, classes)
        self._draw(self.result)
        self._describe()
        self._say(say_run(self.result, f"{'Done' if trace.meta['complete'] else 'Stopped'}, {setting.method} at x {setting.factor:g}")
                  + f" {setting.model}, {setting.shown}.")

    def _count(self, trace):
        self.progress.value = len(trace)

    # --- words

    def in_words(self) -> str:
        """What the controls stand for, and what has been seen of the last run."""
        return self.setting.describe() + "."

    def evidence(self) -> str:
        """What the detector said at the first alarm of the last run, or last where there was none; "" before the first run."""
        if self.result is None:
            return ""
        said = self.result["evidence"]
        return f"At the first alarm. {said['first']}" if said["first"] else said["now"]

    def to_code(self) -> str:
        """The lines that make the run shown without the panel; before the first run, the one that is chosen."""
        return (self.setting if self.result is None else self.ran).to_code()

    def _describe(self):
        self.words.value = f'<div style="line-height: 1.4">Chosen: {html.escape(self.in_words())}</div>'
        which = "the run that is chosen" if self.result is None else "the run shown"
        self.code.value = (f"<details><summary>The lines that make {which} without the panel</summary>"
                           f"<pre>{html.escape(self.to_code())}</pre></details>")

    def _shine(self, name: str, words: str, evidence: str = ""):
        self.state = name
        shape, title, colour = LIGHTS[name]
        more = f'<div style="line-height: 1.4">{html.escape(evidence)}</div>' if evidence else ""
        self.lamp.value = (f'<div class="tta-light" data-state="{name}" style="line-height: 1.4; min-height: 5.6em">'
                           f'<span style="display: inline-block; background: white; color: {colour}; border: 2px solid {colour}; padding: 2px 8px; '
                           f'font-weight: bold"><span aria-hidden="true">{shape}</span> {title}</span> {html.escape(words)}{more}</div>')

    # --- figures

    def _draw(self, numbers):
        for figure, drawn in zip((self.signals, self.predictions), _figures(numbers), strict=True):
            with figure.batch_update():
                figure.data = ()
                figure.add_traces(drawn.data)
                figure.layout = drawn.layout
        said = numbers["evidence"]
        self._shine(*light(numbers), f"At the first alarm. {said['first']}" if said["first"] else said["now"])

    @property
    def widget(self):
        """Everything in one box."""
        import ipywidgets as W

        c, wrap = self.controls, {"flex_flow": "row wrap", "align_items": "flex-start"}
        left = W.VBox([c["factor"], c["method"], c["stream"], c["statistics"]])
        right = W.VBox([c["guard"], c["choose"], c["at_once"], W.HBox([self.run_button, self.stop_button]), self.progress])
        figures = (self.signals.widget, self.predictions.widget)
        return W.VBox([W.HBox([left, right], layout=wrap), self.words, self.status, self.lamp, *figures, self.code, own_keys()])

    def told(self):
        shape, title, _ = LIGHTS[self.state]
        lamp = [f"{shape} {title}: {light(self.result)[1]}."] if self.result else []
        words = self.in_words() if self.ran is None else self.ran.describe() + "."
        return [words, self.message, *lamp, self.evidence()], [self.signals, self.predictions]


def _figures(numbers):
    """The two figures, four pictures in all."""
    for plot in (pictures.plot_signals, pictures.plot_predictions):
        drawn = plot(numbers, "plotly")
        yield fit(drawn.update_layout(font_size=FONT - 1).update_annotations(font_size=FONT), WIDTH, 310)
