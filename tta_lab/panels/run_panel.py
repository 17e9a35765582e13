"""RunPanel: what all panels share - controls, Run, Stop, progress, a status line - around work
that a subclass states.

Work runs in a thread, so that "Stop" is heard. A panel never swallows an exception: it says it in
words and keeps it in ``error``.
"""
from __future__ import annotations

import contextlib
import functools
import html
import math
import threading
import time

from ..studies.report import paragraphs
from .controls import move
from .layout import block, classed, column, details, line, workbench
from .live import live_figure, show, sized

OLD = "of the previous run"
NOTHING = "Stopped before the first batch: there is nothing to show."
NOTHING_BESIDE = "Stopped while {} run for comparison: there is nothing to show."


def report_errors(callback):
    """Jupyter drops exceptions of callbacks: show and keep them."""
    @functools.wraps(callback)
    def reporting(self, *args):
        try:
            return callback(self, *args)
        except Exception as error:
            self._fail(error)

    return reporting


class Pace:
    """When to draw again while a run goes on: not before ``pause`` seconds, and so that drawing
    takes no more than a share of 1 / (1 + ``share``) of the time."""

    def __init__(self, pause: float = 1.0, share: float = 2.0):
        self.pause = pause
        self.share = share
        self.drawn = self.took = 0.0

    def due(self) -> bool:
        return time.monotonic() - self.drawn > max(self.pause, self.share * self.took)

    @contextlib.contextmanager
    def drawing(self):
        began = time.monotonic()
        yield
        self.drawn = time.monotonic()
        self.took = self.drawn - began


class RunPanel:
    """Controls and a button around work. A subclass has

    _on_change(name, value)  a control was moved by hand
    _refused() -> str        why nothing can be run now, or ""
    _begin() -> tuple        called when a run starts: forget the last one, read the controls;
                             what it returns goes to ``_run``
    _run(*work)              the work; asks ``self._stop.is_set()`` between batches
    widget                   everything in one box
    summary()                the same as sentences and figures, for runs without a browser

    ``error`` is the exception that ended the last run, or None; ``message`` is the status line as
    plain text.
    """

    def __init__(self, controls: dict, interactive: bool, run_tooltip: str, label_width: int = 140,
                 width: int = 370):
        import ipywidgets as W

        self.controls = controls
        self.interactive = interactive
        self.running = False
        self.error = None
        self.message = ""
        self._busy = False  # busy: the panel itself sets controls
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread = None
        self._starting = threading.Lock()
        self._again = False  # another run follows the one in work
        for name, widget in controls.items():
            widget.observe(functools.partial(self._changed, name), "value")
            if not isinstance(widget, W.Checkbox):
                widget.style.description_width = f"{label_width}px"
                widget.layout.width = f"{width}px"
        self.run_button = W.Button(description="Run", button_style="primary", tooltip=run_tooltip)
        self.stop_button = W.Button(description="Stop", disabled=True,
                                    tooltip="End the run after the batch in work")
        self.run_button.on_click(self._on_run)
        self.stop_button.on_click(self._on_stop)
        self.progress = W.IntProgress(tooltip="progress of the run")
        self.description, self.status = W.HTML(), W.HTML()

    # --- controls

    @report_errors
    def _changed(self, name, change):
        with self._lock:
            if not self._busy:
                self._on_change(name, change["new"])

    @contextlib.contextmanager
    def _quietly(self):
        """Set controls without being told that they were moved."""
        with self._lock:
            before = self._busy
            self._busy = True
            try:
                yield
            finally:
                self._busy = before

    def _set(self, values: dict) -> None:
        """Set controls, by name, without being told."""
        with self._quietly():
            for name, value in values.items():
                self.controls[name].value = value

    @property
    def values(self) -> dict:
        """The values of the controls."""
        return {name: widget.value for name, widget in self.controls.items()}

    def opened(self):
        """The panel, where nobody can press a button after one run."""
        if not self.interactive:
            self.run_headless()
        return self

    def run_headless(self) -> None:
        """Every callback once, and one run in the caller's thread."""
        for widget in self.controls.values():
            move(widget)
        self.run_button.click()

    # --- what is shown

    def _of_run(self) -> list:
        """The widgets that show something of the last run: HTML, or those of live figures."""
        return []

    def _age(self) -> None:
        """Show at once that what is still there is of the previous run: pale, and said in words,
        until something new is drawn in its place."""
        for widget in self._of_run():
            if hasattr(widget, "old"):
                widget.old = True
            elif widget.value and 'class="tta-old"' not in widget.value:
                widget.value = (f'<div class="tta-old"><div style="opacity: 0.4">{widget.value}'
                                f"</div><div><i>{OLD}</i></div></div>")

    def _fold(self, inside: dict) -> None:
        """Parts of the panel, name -> (label, box), that a toggle button opens: reached with Tab,
        opened with Space."""
        import ipywidgets as W

        self.folds, self.fold_boxes = {}, {}
        for name, (label, box) in inside.items():
            toggle = W.ToggleButton(value=False, description=f"▸ {label}",
                                    tooltip=f"show or hide: {label}", layout={"width": "auto"})
            box.layout.display = "none"
            toggle.observe(functools.partial(self._folded, name, label), "value")
            self.folds[name] = toggle
            self.fold_boxes[name] = box

    def _folded(self, name, label, change):
        self._on_fold(name, label, change["new"])

    @report_errors
    def _on_fold(self, name, label, opened):
        self.fold_boxes[name].layout.display = None if opened else "none"
        self.folds[name].description = f"{'▾' if opened else '▸'} {label}"

    def bench(self, left, figures, below=(), buttons=(), head=()):
        """The panel in its usual form: ``left`` the controls; at the right, always in sight, what
        will run, the buttons and the state, and under them ``figures`` and what stands ``below``
        them."""
        top = [self.description, self.run_buttons(*buttons), self.progress, self.status, *head]
        self.progress.layout.width = "98%"
        self.progress.layout.height = "14px"
        return workbench(list(left), [classed("charts", *figures), *below], top)

    def run_buttons(self, *more):
        """Run and Stop, and what stands beside them."""
        return line(self.run_button, self.stop_button, *more)

    def summary(self) -> tuple[list[str], list]:
        """The sentences and figures that stand for the panel where nobody can press a button."""
        return [self.message], []

    def _ipython_display_(self):
        from IPython.display import display

        if self.interactive:
            display(self.widget)
            return
        lines, figures = self.summary()
        print(paragraphs(filter(None, lines)))
        for figure in figures:
            display(figure)

    # --- runs

    def _refused(self) -> str:
        return ""

    @report_errors
    def _on_run(self, button=None):
        with self._starting:  # a second click may arrive before the first run has begun
            reason = ("A run is going on: this press of Run was ignored. Press Stop first."
                      if self.running else self._refused())
            if reason:
                self._say(reason)
                return
            self.running = True
        self._stop.clear()
        self.error = None
        self.run_button.disabled = True
        self.stop_button.disabled = False
        try:
            work = self._begin()
        except Exception:
            self._ended()
            raise
        if self.interactive:
            self._thread = threading.Thread(target=self._work, args=work, daemon=True)
            self._thread.start()
        else:
            self._work(*work)

    def _run_after(self, text: str):
        """Run now, or end the run in work first and say so."""
        if self.running:
            self._again = True
            self._stop.set()
            self._say(text)
        else:
            self._on_run()

    @report_errors
    def _on_stop(self, button=None):
        self._again = False
        if self.running:
            self._stop.set()
            self._say("Stopping after the batch in work.")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing runs and nothing follows; False when something still does after
        ``timeout`` seconds."""
        until = math.inf if timeout is None else time.monotonic() + timeout

        def busy():  # also while the thread still labels its buttons
            alive = self._thread is not None and self._thread.is_alive()
            return self.running or self._again or alive

        while busy() and time.monotonic() < until:
            if self._thread is not None:
                self._thread.join(min(0.2, max(0.0, until - time.monotonic())))
        return not busy()

    def _work(self, *work):
        try:
            self._say("Loading model and images.")
            self._run(*work)
        except Exception as error:
            self._fail(error)
        finally:
            self._ended()
        if self._again:
            self._again = False
            self._on_run()

    def _ended(self):
        self.running = False
        self.run_button.disabled = False
        self.stop_button.disabled = True

    @property
    def _stopping(self) -> str:
        return " Stopping after the batch in work." if self._stop.is_set() else ""

    def _fail(self, error: Exception):
        self.error = error
        self._say(f"Failed with {type(error).__name__}: {error} Change the settings and press Run "
                  "again; the exception is in panel.error.")

    def _say(self, text: str):
        self.message = text
        self.status.value = (f'<div role="status" style="line-height: 1.4"><b>{html.escape(text)}'
                             "</b></div>")


class StudyPanel(RunPanel):
    """A run panel of one study: what is chosen, the last run, live figures and code. A subclass has

    describe() -> str    what the controls stand for
    to_code() -> str     the lines that make the run shown without the panel; before the first
                         run, the one that is chosen
    plots                functions of numbers: each draws a live figure of the last run (plotly)

    ``ran`` is what was chosen when the last run began, ``trace`` and ``result`` belong to that run;
    all are None before the first.
    """

    plots: tuple = ()

    def __init__(self, controls: dict, interactive: bool, run_tooltip: str, label_width: int = 100,
                 width: int = 390):
        import ipywidgets as W

        super().__init__(controls, interactive, run_tooltip, label_width, width)
        self.trace = self.result = self.ran = None
        self.figures = [live_figure(drawn, interactive) for drawn in self._drawn(None)]
        self.pace = Pace()
        self.code = W.HTML()

    @property
    def chosen(self):
        """What the controls stand for."""
        return self.values

    @property
    def shown(self):
        """What the run shown was made from; before the first run, what is chosen."""
        return self.chosen if self.result is None else self.ran

    def _on_change(self, name, value):
        self._refresh()

    def _refresh(self) -> None:
        self.description.value = block(f"Chosen: {self.describe()}")
        which = "the run that is chosen" if self.result is None else "the run shown"
        self.code.value = details(f"The lines that make {which} without the panel", self.to_code())

    def _of_run(self):
        return self._figure_widgets() if self.interactive else []

    def _figure_widgets(self) -> list:
        return [figure.widget for figure in self.figures]

    def _begin(self):
        if self.ran is not None:
            self._age()
        self.trace = None
        self.result = None
        self.ran = self.chosen
        return (self.ran,)

    def _count(self, trace, done: int = 0) -> None:
        self.progress.value = done + len(trace)

    def _watch(self, run, numbers, title: str, n: int, done: int = 0):
        """What ``numbers`` says of the trace of ``run(each)``, drawn after a batch where it is time
        to; the trace is kept. None, and a sentence, where nothing was seen. ``n`` images are to
        come, ``done`` were counted before."""
        self.pace.took = 0.0

        def each(trace):
            self._count(trace, done)
            if self.interactive and self.pace.due():
                self._say(f"{title}: {len(trace)} of {n} images.{self._stopping}")
                self._draw(numbers(trace))

        trace = run(each)
        self._count(trace, done)
        if not len(trace):
            self._say(NOTHING)
            return None
        self.trace = trace
        found = numbers(trace)
        self._draw(found)
        return found

    def _drawn(self, numbers) -> list:
        return [sized(plot(numbers, "plotly"), 310) for plot in self.plots]

    def _draw(self, numbers) -> None:
        with self.pace.drawing():
            for figure, drawn in zip(self.figures, self._drawn(numbers), strict=True):
                show(figure, drawn)

    def _halves(self, left, right):
        """Controls in two columns, by name; what is no name is a widget."""
        named = (column(*(self.controls.get(w, w) if isinstance(w, str) else w for w in half))
                 for half in (left, right))
        return line(*named)


class SessionPanel(RunPanel):
    """A run panel whose work is a `Session`: one batch after another, drawn while it goes on."""

    def __init__(self, controls: dict, interactive: bool, run_tooltip: str, label_width: int,
                 width: int):
        super().__init__(controls, interactive, run_tooltip, label_width, width)
        self.pace = Pace(1.0, 4.0)

    def _advance(self, session, title: str, draw, budget: int | None = None) -> None:
        """Go on with a session until it is finished, stopped, or has made ``budget`` batches."""
        self.progress.max = session.total
        self.progress.value = session.done
        while budget != 0 and not self._stop.is_set() and session.advance():
            budget = None if budget is None else budget - 1
            self.progress.value = session.done
            if self.pace.due():
                self._say(f"Running {title}: batch {session.done} of {session.total}."
                          f"{self._stopping}")
                draw()
