"""RunPanel: what all panels share - controls, Run, Stop, progress, a status line - around work that a subclass states.

Work runs in a thread, so that "Stop" is heard. A panel never swallows an exception: it says it in words and keeps it in ``error``.
"""
from __future__ import annotations

import functools
import html
import math
import threading
import time

from ..studies.report import paragraphs

OLD = "of the previous run"
KEYS = """export default { render({ el }) {
  let tries = 0;
  const mark = () => {
    const output = el.closest(".jp-OutputArea-output");
    if (output) output.addEventListener("focusin", (e) => e.target.matches("select") && e.target.setAttribute("data-lm-suppress-shortcuts", "true"));
    else if (tries++ < 100) setTimeout(mark, 50);
  };
  mark();
} };"""


def guarded(callback):
    """Jupyter drops exceptions of callbacks: show and keep them."""
    @functools.wraps(callback)
    def with_guard(self, *args):
        try:
            return callback(self, *args)
        except Exception as why:
            self._fail(why)
    return with_guard


def another(widget):
    """A value that a control does not have now; the same where it has no other."""
    if isinstance(widget.value, bool):
        return not widget.value
    if isinstance(widget.value, tuple):
        return widget.value[:1]
    if hasattr(widget, "options"):
        return next((value for _, value in widget.options if value != widget.value), widget.value)
    ends = [widget.base**widget.min, widget.base**widget.max] if hasattr(widget, "base") else [widget.min, widget.max]
    return next(end for end in ends if end != widget.value)


def own_keys():
    """An invisible widget: JupyterLab (4.1 and later) takes the arrow keys from lists to move between cells; in the output that
    holds this widget it leaves them to the lists."""
    import anywidget

    return type("OwnKeys", (anywidget.AnyWidget,), {"_esm": KEYS})()


class RunPanel:
    """Controls and a button around work. A subclass has

    _on_change(change)   a control was moved
    _refused() -> str    why nothing can be run now, or ""
    _begin() -> tuple    called when a run starts: forget the last one, read the controls; what it returns goes to ``_run``
    _run(*work)          the work; asks ``self._stop.is_set()`` between batches
    widget               everything in one box
    told()               the same as sentences and figures, for runs without a browser

    ``error`` is the exception that ended the last run, or None; ``message`` is the status line as plain text.
    """

    def __init__(self, controls: dict, interactive: bool, run_tooltip: str, label_width: int = 140, width: int = 370):
        import ipywidgets as W

        self.controls, self.interactive = controls, interactive
        self.running, self.error, self.message = False, None, ""
        self._stop, self._thread, self._starting = threading.Event(), None, threading.Lock()
        self._again = False  # another run follows the one in work
        for widget in controls.values():
            widget.observe(self._on_change, "value")
            if not isinstance(widget, W.Checkbox):
                widget.style.description_width, widget.layout.width = f"{label_width}px", f"{width}px"
        self.run_button = W.Button(description="Run", button_style="primary", tooltip=run_tooltip)
        self.stop_button = W.Button(description="Stop", disabled=True, tooltip="End the run after the batch in work")
        self.run_button.on_click(self._on_run)
        self.stop_button.on_click(self._on_stop)
        self.progress = W.IntProgress(description="progress", style={"description_width": "initial"})
        self.words, self.status = W.HTML(), W.HTML()

    def fire(self) -> None:
        """Every callback once, and one run in the caller's thread: what a panel does where nobody can press a button."""
        for widget in self.controls.values():
            before, widget.value = widget.value, another(widget)
            widget.value = before
        self.run_button.click()

    def _of_run(self) -> list:
        """The widgets that show something of the last run: HTML, or the widgets of live figures."""
        return []

    def _age(self) -> None:
        """Show at once that what is still there is of the previous run: pale, and said in words, until something new is drawn in its place."""
        for widget in self._of_run():
            if hasattr(widget, "old"):
                widget.old = True
            elif widget.value and 'class="tta-old"' not in widget.value:
                widget.value = f'<div class="tta-old"><div style="opacity: 0.4">{widget.value}</div><div><i>{OLD}</i></div></div>'

    def _fold(self, inside: dict) -> None:
        """Parts of the panel, name -> (label, box), that a toggle button opens: reached with Tab, opened with Space."""
        import ipywidgets as W

        self.folds, self._fold_boxes = {}, {}
        for name, (label, box) in inside.items():
            toggle = W.ToggleButton(value=False, description=f"▸ {label}", tooltip=f"show or hide: {label}", layout={"width": "auto"})
            box.layout.display = "none"
            toggle.observe(lambda change, name=name, label=label: self._on_fold(name, label, change["new"]), "value")
            self.folds[name], self._fold_boxes[name] = toggle, box

    @guarded
    def _on_fold(self, name, label, opened):
        self._fold_boxes[name].layout.display = None if opened else "none"
        self.folds[name].description = f"{'▾' if opened else '▸'} {label}"

    def told(self) -> tuple[list[str], list]:
        """The sentences and figures that stand for the panel where nobody can press a button."""
        return [self.message], []

    def _ipython_display_(self):
        from IPython.display import display

        if self.interactive:
            display(self.widget)
            return
        lines, figures = self.told()
        print(paragraphs(filter(None, lines)))
        for figure in figures:
            display(figure)

    def _refused(self) -> str:
        return ""

    @guarded
    def _on_run(self, button=None):
        with self._starting:  # a second click may arrive before the first run has begun
            why = "A run is going on: this press of Run was ignored. Press Stop first." if self.running else self._refused()
            if why:
                self._say(why)
                return
            self.running = True
        self._stop.clear()
        self.error = None
        self.run_button.disabled, self.stop_button.disabled = True, False
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

    @guarded
    def _on_stop(self, button=None):
        self._again = False
        if self.running:
            self._stop.set()
            self._say("Stopping after the batch in work.")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing runs and nothing follows; False when something still does after ``timeout`` seconds."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        def busy():  # also while the thread still labels its buttons
            return self.running or self._again or (self._thread is not None and self._thread.is_alive())
        while busy() and time.monotonic() < until:
            if self._thread is not None:
                self._thread.join(min(0.2, max(0.0, until - time.monotonic())))
        return not busy()

    def _work(self, *work):
        try:
            self._say("Loading model and images.")
            self._run(*work)
        except Exception as why:
            self._fail(why)
        finally:
            self._ended()
        if self._again:
            self._again = False
            self._on_run()

    def _ended(self):
        self.running = False
        self.run_button.disabled, self.stop_button.disabled = False, True

    @property
    def _stopping(self) -> str:
        return " Stopping after the batch in work." if self._stop.is_set() else ""

    def _fail(self, why: Exception):
        self.error = why
        self._say(f"Failed with {type(why).__name__}: {why} Change the settings and press Run again; the exception is in panel.error.")

    def _say(self, text: str):
        self.message = text
        self.status.value = f'<div role="status" style="line-height: 1.4"><b>{html.escape(text)}</b></div>'
