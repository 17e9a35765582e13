"""PicturePanel: a StudyPanel with one figure, drawn by matplotlib and shown as a picture while the
run goes on.

A picture is some 50 kB where a plotly widget sends 5 MB, and it is never blank on a slow machine.
Its alternative text says what it shows.
"""
from __future__ import annotations

import functools

from .frames import figure_frame
from .layout import WIDTH
from .run_panel import NOTHING_BESIDE, StudyPanel


class PicturePanel(StudyPanel):
    """What a `StudyPanel` needs, and of a subclass also

    describe(c=None) -> str      what the values ``c`` (of the controls) stand for
    stream_of(c) -> tuple        the values ``c`` of the controls that make the stream
    _one(c, each)                the trace of the chosen run; ``each`` is called with it after
                                 every batch
    _say_live(c) -> str          the sentence of a finished run, from ``result``
    _figure(numbers)             the matplotlib figure; ``None``: before the first run
    _alt(numbers) -> str         what it shows beside the errors, in words
    study                        a module with ``Plan``, ``one_run``, ``beside_run`` and
                                 ``live_numbers``, and ``alias``, its name in code

    ``trace`` is the last run, ``beside`` source and BN-1 on the same stream, ``result`` the
    numbers of the ``figure``.
    """

    study = None
    alias = ""

    def __init__(self, controls: dict, seed: int, interactive: bool, device: str, run_tooltip: str,
                 plan=None):
        super().__init__(controls, interactive, run_tooltip, 100, 380)
        self.seed = seed
        self.device = device
        self.plan = plan  # None: the fast one of the study
        self.beside = {}
        self._known: dict = {}   # stream -> source and BN-1 on it
        self.frame = figure_frame()
        self._draw(None)
        self._refresh()
        self._say("Nothing has run yet: choose, and press Run.")

    def _code(self, arguments: str, result: str) -> str:
        """The lines that call the study's ``one_run`` with these arguments and read ``result``."""
        folder = self.study.__name__.rpartition(".")[0]
        name = self.alias
        made, more = "", ""
        if self.plan is not None:
            made = f"plan = {name}.Plan({self.plan.arguments()})\n"
            more = ", plan=plan"
        return (f"from {folder} import study as {name}\n"
                "from tta_lab.experiments.runner import row\n\n"
                f"{made}trace = {name}.one_run({arguments}, seed={self.seed}{more})\n{result}")

    def _of_run(self):
        return [self.frame]

    def _begin(self):
        self.beside = {}
        return super()._begin()

    def _running(self, c) -> str:
        return "Running"

    def _run(self, c):
        stream = self.stream_of(c)
        if stream not in self._known:
            self._say("Running source and BN-1 on this stream, for comparison.")
            found = self.study.beside_run(*stream, seed=self.seed, stop=self._stop.is_set,
                                          device=self.device, plan=self.plan)
            if self._stop.is_set():
                self._say(NOTHING_BESIDE.format("source and BN-1 were"))
                return
            self._known[stream] = found
        self.beside = self._known[stream]
        n = len(self.beside["source"])
        self.progress.value, self.progress.max = 0, n
        self.result = self._watch(
            functools.partial(self._one, c),
            lambda trace: self.study.live_numbers(trace, self.beside), self._running(c), n)
        if self.result is not None:
            self._refresh()
            done = "Done" if self.trace.meta["complete"] else "Stopped"
            self._say(f"{done}: {self._say_live(c)}")

    def _draw(self, numbers) -> None:
        with self.pace.drawing():
            self.figure = self._figure(numbers)
            if self.interactive:
                self.frame.show(self.figure, self._alternative(numbers), WIDTH)

    def _alternative(self, numbers) -> str:
        """What the figure shows, for those who cannot see it."""
        if numbers is None:
            return "Nothing has run yet."
        errors = ", ".join(f"{name} {v:.1f} per cent" for name, v in numbers["error"].items())
        return f"Error so far: {errors}. {self._alt(numbers)}"

    @property
    def widget(self):
        """Everything in one box."""
        return self.bench(self.controls.values(), [self.frame], [self.code])

    def summary(self):
        return [self.describe(self.ran), self.message], [self.figure]
