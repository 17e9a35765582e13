"""The panel of the fourth notebook: one slider, the learning rate, provokes collapse; error,
predictions, detector and guard are watched live.

Runs are made by ``collapse.study.Bench``, numbers by ``collapse.study.numbers_of``: all of them
work without the panel, and ``to_code()`` says how.
"""
from __future__ import annotations

import html
from dataclasses import replace

from ..studies.collapse import figures as pictures
from ..studies.collapse.study import (
    FACTORS,
    GUARDS,
    METHODS,
    STATISTICS,
    STREAMS,
    Bench,
    Setting,
    numbers_of,
)
from ..studies.collapse.text import LIGHTS, light, say_run
from .controls import dropdown, steps, tick
from .layout import folded
from .run_panel import NOTHING_BESIDE, Pace, StudyPanel


def collapse_panel(setting: Setting | None = None, interactive: bool = True,
                   bench: Bench | None = None, at_once: bool = True) -> CollapsePanel:
    """Rate, method, stream and guard as controls; error, predictions and the detector's probability
    as they develop.

    ``setting`` holds the first values; ``bench`` may be shared with the rest of a notebook, so that
    no run is made twice. ``interactive`` shows the controls and runs in a thread. False returns a
    panel of which every callback has been called from Python and which has run once in the
    caller's thread; it shows plain figures.
    """
    return CollapsePanel(setting or Setting(), interactive, bench or Bench(), at_once).opened()


class CollapsePanel(StudyPanel):
    """What ``collapse_panel`` makes.

    ``trace`` is the last run and ``result`` its numbers (`collapse.study.numbers_of`), None before
    the first; ``state`` is the name of its alarm light ("calm", "doubtful", "alarm", "unsure",
    "none"), ``setting`` what the controls stand for, ``ran`` the setting of the last run. ``error``
    is the exception that ended the last run, or None.
    """

    plots = pictures.plot_signals, pictures.plot_predictions
    opens_stored = True

    def __init__(self, setting: Setting, interactive: bool, bench: Bench, at_once: bool):
        import ipywidgets as W

        self.bench = bench
        self._first = setting
        self.state = "none"
        streams = {name: label for name, (label, *_) in STREAMS.items()}
        controls = {
            "factor": steps(FACTORS, float(setting.factor), "learning rate",
                            "multiple of the method's default rate", "x {:g}"),
            "method": dropdown("method", METHODS, setting.method, "method", "what adapts"),
            "stream": dropdown("stream", streams, setting.stream, "stream",
                               "which images come when"),
            "statistics": dropdown("statistics", STATISTICS, setting.statistics, "batch norm",
                                   "whose mean and variance the batch-norm layers use"),
            "guard": dropdown("guard", GUARDS, setting.guard, "guard", "what is done at an alarm"),
            "choose": tick(setting.choose, "the guard may let source or BN-1 answer"),
            "at_once": tick(at_once, "run as soon as something is changed")}
        super().__init__(controls, interactive, "Run the stream with these settings")
        self.signals, self.predictions = self.figures
        self.pace = Pace(0.5)
        self.alarm_box = W.HTML()
        self._say("Nothing has run yet: move the slider, or press Run.")
        self._show_alarm("none", "nobody watches yet")
        self._refresh()
        self._show_stored()

    # --- callbacks

    @property
    def setting(self) -> Setting:
        """What the controls stand for."""
        return replace(self._first, **{k: v for k, v in self.values.items() if k != "at_once"})

    chosen = setting

    def _on_change(self, name, value):
        super()._on_change(name, value)
        if self.interactive and name != "at_once" and self.controls["at_once"].value:
            self._run_after("Ending the run in work; one with the new settings follows.")

    # --- the work

    def _of_run(self):
        return [self.alarm_box, *super()._of_run()]

    def _begin(self):
        self.state = "none"
        return super()._begin()

    def _run(self, setting: Setting):
        n = self.bench.n_images(setting)
        self.progress.value, self.progress.max = 0, n
        self._say("Running source and BN-1 on this stream, for comparison.")
        beside = self.bench.beside(setting, self._stop.is_set, self._count)
        if self._stop.is_set():
            self._say(NOTHING_BESIDE.format("source and BN-1 were"))
            return
        classes = self.bench.classes(setting)
        name = f"{setting.method} at x {setting.factor:g}"
        where = f"{setting.model}, {setting.shown}"
        self.result = self._watch(
            lambda each: self.bench.run(setting, self._stop.is_set, each),
            lambda trace: numbers_of(trace, beside, classes), f"Running {name} on {where}", n)
        if self.result is not None:
            self._refresh()
            done = "Done" if self.trace.meta["complete"] else "Stopped"
            self._say(f"{say_run(self.result, f'{done}, {name}')} {where}.")

    # --- words

    def describe(self) -> str:
        """What the controls stand for."""
        return self.setting.describe() + "."

    def evidence(self) -> str:
        """What the detector said at the first alarm of the last run, or last where there was none;
        "" before the first run."""
        return "" if self.result is None else _evidence(self.result)

    def to_code(self) -> str:
        """The lines that make the run shown without the panel; before the first run, the one that
        is chosen."""
        return self.shown.to_code()

    def _show_alarm(self, name: str, text: str, evidence: str = ""):
        self.state = name
        shape, title, color = LIGHTS[name]
        more = folded("why", html.escape(evidence)) if evidence else ""
        self.alarm_box.value = (
            f'<div class="tta-light" data-state="{name}" style="line-height: 1.4; min-height: '
            f'4.2em"><span style="display: inline-block; background: white; color: {color}; '
            f'border: 2px solid {color}; padding: 2px 8px; font-weight: bold"><span '
            f'aria-hidden="true">{shape}</span> {title}</span> {html.escape(text)}{more}</div>')

    # --- figures

    def _draw(self, numbers):
        super()._draw(numbers)
        if numbers is None:
            self._show_alarm("none", "nobody watches yet")
        else:
            self._show_alarm(*light(numbers), _evidence(numbers))

    @property
    def widget(self):
        """Everything in one box."""
        return super().bench(self.controls.values(), self._figure_widgets(), [self.code],
                             head=[self.alarm_box])

    def summary(self):
        shape, title, _ = LIGHTS[self.state]
        alarm = [f"{shape} {title}: {light(self.result)[1]}."] if self.result else []
        setting = self.setting if self.ran is None else self.ran
        return [setting.describe() + ".", self.message, *alarm, self.evidence()], self.figures


def _evidence(numbers: dict) -> str:
    found = numbers["evidence"]
    return f"At the first alarm. {found['first']}" if found["first"] else found["now"]

