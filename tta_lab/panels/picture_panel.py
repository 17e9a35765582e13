"""PicturePanel: a RunPanel with one figure, drawn by matplotlib and shown as a picture while the run goes on.

A picture is some 50 kB where a plotly widget sends 5 MB, and it is never blank on a slow machine. Its alternative text says what it shows.
"""
from __future__ import annotations

import base64
import html
import time

from ..plots import png
from .run_panel import RunPanel, guarded, own_keys

WIDTH = 820    # beside JupyterLab's file list on a screen of 1280 x 720
PAUSE = 1.0    # seconds between two drawings while a run goes on, or more where drawing takes long


class PicturePanel(RunPanel):
    """What a `RunPanel` needs, and of a subclass also

    in_words(c=None) -> str      what the values ``c`` (of the controls) stand for
    to_code() -> str             the lines that make the run without the panel, from ``shown``
    stream_of(c) -> tuple        the values ``c`` of the controls that make the stream
    _references(stream, stop)    traces of source and BN-1 on a stream, by name
    _one(c, each)                the trace of the chosen run; ``each`` is called with it after every batch
    _numbers(trace, beside)      what is drawn
    _say_live(c) -> str          the sentence of a finished run, from ``result``
    _figure(numbers)             the matplotlib figure; ``None``: before the first run
    _alt(numbers) -> str         what it shows, in words

    ``trace`` is the last run, ``beside`` source and BN-1 on the same stream, ``result`` the numbers of the ``figure``.
    """

    def __init__(self, controls: dict, interactive: bool, run_tooltip: str, label_width: int = 100, width: int = 380):
        import ipywidgets as W

        super().__init__(controls, interactive, run_tooltip, label_width, width)
        self.trace, self.result, self.figure, self.beside = None, None, None, {}
        self.ran: dict | None = None   # what the controls said when the last run began
        self._known: dict = {}   # stream -> source and BN-1 on it
        self.frame, self.code, self._drawn, self._took = W.HTML(), W.HTML(), 0.0, 0.0
        self._show(None)
        self._describe()

    @property
    def chosen(self) -> dict:
        """The values of the controls."""
        return {name: widget.value for name, widget in self.controls.items()}

    @property
    def shown(self) -> dict:
        """The values of the controls for the run shown; before the first run, what is chosen."""
        return self.chosen if self.result is None else self.ran

    @guarded
    def _on_change(self, change=None):
        self._describe()

    def _of_run(self):
        return [self.frame]

    def _begin(self):
        if self.ran is not None:
            self._age()
        self.trace, self.result, self.beside, self.ran = None, None, {}, self.chosen
        return (self.ran,)

    def _running(self, c) -> str:
        return "Running"

    def _run(self, c):
        stream = self.stream_of(c)
        if stream not in self._known:
            self._say("Running source and BN-1 on this stream, for comparison.")
            found = self._references(stream, self._stop.is_set)
            if self._stop.is_set():
                self._say("Stopped while source and BN-1 were run for comparison: there is nothing to show.")
                return
            self._known[stream] = found
        self.beside = self._known[stream]
        n = len(self.beside["source"])
        self.progress.value, self.progress.max = 0, n

        def each(trace):
            self.progress.value = len(trace)
            if self._due():
                self._say(f"{self._running(c)}: {len(trace)} of {n} images.{self._stopping}")
                self._show(self._numbers(trace, self.beside))

        trace = self._one(c, each)
        if not len(trace):
            self._say("Stopped before the first batch: there is nothing to show.")
            return
        self.trace, self.result = trace, self._numbers(trace, self.beside)
        self._describe()
        self._show(self.result)
        self._say(f"{'Done' if trace.meta['complete'] else 'Stopped'}: {self._say_live(c)}")

    def _show(self, numbers) -> None:
        began = time.monotonic()
        self.figure = self._figure(numbers)
        if self.interactive:
            content = base64.b64encode(png(self.figure)).decode()
            self.frame.value = (f'<img alt="{html.escape(self._alt(numbers))}" style="width: {WIDTH}px; max-width: 100%" '
                                f'src="data:image/png;base64,{content}">')
        self._drawn = time.monotonic()
        self._took = self._drawn - began

    def _due(self) -> bool:
        """Whether it is time to draw again: at most a third of the time is spent on that."""
        return self.interactive and time.monotonic() - self._drawn > max(PAUSE, 2 * self._took)

    def _describe(self) -> None:
        self.words.value = f'<div style="line-height: 1.4">Chosen: {html.escape(self.in_words())}</div>'
        which = "the run that is chosen" if self.result is None else "the run shown"
        self.code.value = (f"<details><summary>The lines that make {which} without the panel</summary>"
                           f"<pre>{html.escape(self.to_code())}</pre></details>")

    @property
    def widget(self):
        """Everything in one box."""
        import ipywidgets as W

        names, wrap = list(self.controls), {"flex_flow": "row wrap", "align_items": "flex-start"}
        half = (len(names) + 1) // 2
        left = W.VBox([self.controls[n] for n in names[:half]])
        right = W.VBox([self.controls[n] for n in names[half:]])
        buttons = W.HBox([self.run_button, self.stop_button, self.progress], layout=wrap)
        return W.VBox([W.HBox([left, right], layout=wrap), buttons, self.words, self.status, self.frame, self.code, own_keys()])

    def told(self):
        return [self.in_words(self.ran), self.message], [self.figure]
