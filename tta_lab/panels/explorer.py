"""The explorer: choose model, stream, method, selectors and guard, watch the run, step through it,
compare it, take it away as code.

What is chosen and what has run is in `explorer_state`, the widgets in `explorer_view`, sentences in
`explorer_words`; the panel joins them. Whatever it does, `experiment.Session` and the functions of
`studies.explorer.study` do without it; ``to_code()`` and ``to_parameters()`` say how.
"""
from __future__ import annotations

import functools
import html
from operator import attrgetter

from ..core.arguments import flag, nearest, whole
from ..core.named import recipe_of
from ..experiments.experiment import Experiment
from ..methods import METHODS
from ..studies.explorer import study as E
from ..studies.explorer.choosing import rates_around
from ..studies.explorer.figures import FIGURES
from ..studies.explorer.images import where_of_click
from ..studies.explorer.stored import stored_run
from ..studies.report import write_numbers
from . import explorer_words as words
from .controls import move
from .explorer_runs import RunState, nothing
from .explorer_state import FAST, FULL, ExplorerState, experiment_dict
from .explorer_view import ExplorerView
from .inputs import check_images, check_model, check_stream
from .layout import block, code_block, div, folded
from .run_panel import NOTHING, SessionPanel, report_errors

NOTHING_YET = "Nothing has run yet: press Run, or Step for one batch."
POINTED = ("errors", "predictions")  # figures behind whose numbers there are images


def explorer(choice: Experiment | str | None = None, *, model=None, stream=None, images=None,
             unknown=None, source_images=None, interactive: bool = True, device="auto",
             seed: int = 0, trust: bool = False, **settings) -> ExplorerPanel:
    """The explorer with its first settings.

    ``choice`` (an `Experiment` or its JSON) sets everything at once. Else ``model``: the name of an
    embedded one, a text for `names.open_model` ("checkpoint:PATH", "torchvision:resnet50"),
    or a network of your own; ``stream``: a stream of your own, or None to choose a protocol;
    ``images``, ``unknown``, ``source_images``: image sets (or names, "folder:PATH") for the
    protocols, for the unknown images and for methods that need something of the source domain.
    Labels of -1 are allowed: then agreement with source and BN-1 takes the place of the error.
    ``settings`` are first values by name: protocol, severity, per_shift, batch, shifts, rounds,
    ...; method, form, selectors (up to two names), guard; and knobs of the method (lr=1e-3).
    ``method`` may also be a recipe. A model's text that names a Python file
    ("python:FILE.py:NAME", ``architecture=FILE.py:NAME``) runs that file, and is refused unless
    ``trust`` says that you trust it. ``interactive`` False returns a panel that has run once, in
    the caller's thread and with every callback called from Python, and that shows plain figures.
    Raises ValueError for a setting or a value that does not exist, naming the nearest, TypeError (a
    ValueError too) for an object of another kind.
    """
    trust = flag("trust", trust)
    seed = whole("seed", seed, 0, 10**6)
    if isinstance(choice, str):
        choice = Experiment.from_json(choice)
    if choice is not None:
        given = {"model": choice.model, "stream": choice.stream, "recipe": choice.recipe,
                 "source_images": choice.source_images}
        seed = choice.seed
    else:
        given = {"model": model, "stream": stream, "images": images, "unknown": unknown,
                 "source_images": source_images}
        method = settings.get("method", "tent")
        if not isinstance(method, str):
            given["recipe"] = recipe_of(settings.pop("method"), "method")
        elif method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}"
                             f"{nearest(method, METHODS)}")
    check_model(given["model"], trust)
    for name in ("images", "unknown", "source_images"):
        if given.get(name) is not None:
            check_images(name, given[name])
    check_stream(given["stream"])
    return ExplorerPanel(ExplorerState(given, seed, settings), interactive, device).opened()


class ExplorerPanel(SessionPanel):
    """What ``explorer`` makes.

    ``choice`` is what the controls say (None while they make no run; then ``incompatibility`` says
    why), ``state`` the same as a dict. ``kept`` (a `KeptRuns`) holds all runs of the table and can
    be saved and loaded; ``ticked`` the numbers of those whose curves are drawn. Of the run shown:
    ``trace``, ``references`` (name -> Trace), ``session``, ``ran`` (its Experiment). ``results`` is
    a pandas frame with one row for each run so far, ``comparison`` the paired difference of two
    ticked runs and ``compared_words`` what it says; ``selected`` the rows of the trace whose images
    are shown. ``drawn`` holds the numbers of each figure, ``figures`` the plotly figures of a panel
    without a browser. ``error`` is the exception that ended the last run, or None.

    It joins ``chosen`` (an `ExplorerState`), ``runs`` (a `RunState`), ``view`` (an `ExplorerView`).
    """

    choice = property(attrgetter("chosen.choice"))
    incompatibility = property(attrgetter("chosen.incompatibility"))
    kept = property(attrgetter("runs.kept"))
    ticked = property(attrgetter("runs.ticked"))
    trace = property(attrgetter("runs.trace"))
    references = property(attrgetter("runs.references"))
    session = property(attrgetter("runs.session"))
    ran = property(attrgetter("runs.ran"))
    comparison = property(attrgetter("runs.comparison"))
    compared_words = property(attrgetter("runs.compared_words"))
    selected = property(attrgetter("view.images.rows"))
    knobs = property(attrgetter("view.knobs.fields"))

    def __init__(self, chosen: ExplorerState, interactive: bool, device):
        self.chosen = chosen
        self.runs = RunState(chosen)
        self.device = device
        self.view = view = ExplorerView(chosen, self._on_knob, self.runs.kept, self._on_table)
        super().__init__(view.controls, interactive, "Run the choice beside source and BN-1; a run "
                         "that was stopped goes on", 116, 300)
        self._known = {}
        self._budget = None
        self._rates = ()
        self._imagined = None  # what the preview shows
        self.drawn, self.figures = {}, {}
        for name, button in view.buttons.items():
            button.on_click(getattr(self, f"_on_{name}"))
        for widget in (view.score, view.rejected):
            widget.observe(functools.partial(self._unless_busy, self._draw_threshold), "value")
        view.table.on_open(self._on_open)
        view.preview.moved(self._on_preview)
        for name in POINTED:
            view.frames[name].on_point(functools.partial(self._on_point, name))
        self._fold(view.folds())
        self._settle()
        found = stored_run(self.choice) if interactive else None
        if found is None:
            self._clear()
            self._say(NOTHING_YET)
        else:
            self.runs.add(found)
            self._show_run(True)

    # --- callbacks

    def _on_change(self, name, value):
        self.chosen.set(name, value)
        self._settle()

    @report_errors
    def _on_knob(self, name, change):
        if not self._busy:
            self.chosen.set_knob(name, change["new"])
            self._settle()

    @report_errors
    def _unless_busy(self, work, change):
        if not self._busy:
            work()

    @report_errors
    def _on_step(self, button=None):
        if not self.running:
            self._budget = 1
        self._on_run()

    @report_errors
    def _on_reset(self, button=None):
        if self.running:
            self._say("A run is going on: press Stop first, then Reset.")
            return
        self.runs.reset()
        self._clear()
        self.chosen.settle()
        self._settle()
        self._say("Nothing is shown: press Run, or Step for one batch.")

    @report_errors
    def _on_paper(self, button=None):
        self.chosen.paper_defaults()
        self._settle()

    @report_errors
    def _on_fold(self, name, label, opened):
        super()._on_fold(name, label, opened)
        if opened and name == "images" and not self.running:
            self._show_images()
        if opened and name == "preview":
            self._draw_preview()
        if opened and name == "unknown":
            self._draw_threshold()
        if opened and name == "choose":
            self._rank(self.runs.ticked)

    @report_errors
    def _on_table(self):
        """Runs were ticked, renamed, deleted or loaded."""
        if self._busy:
            return
        before = self.runs.number
        self.runs.tick(self.view.table.ticked)
        self.runs.tidy()
        if self.running:
            return
        if self.runs.number is None and self.runs.ticked:
            self.runs.select(self.runs.ticked[-1])
        if self.runs.number is None:
            self._clear()
            self._settle()
            self._say("Nothing is shown: press Run, or Step for one batch.")
        else:
            self._show_run(before != self.runs.number)

    @report_errors
    def _on_open(self, number):
        """A row of the table was chosen: show that run."""
        if self.running:
            self._say("A run is going on, and it is shown: press Stop first.")
            return
        self.runs.select(number)
        self._show_run(True)

    @report_errors
    def _on_point(self, figure, panel, x, y):
        """A place of a figure was clicked: show the images behind it."""
        if self.trace is None or self.running:
            return
        where = where_of_click(figure, panel, x, y, self.drawn[figure], self.trace)
        if where is not None:
            self.folds["images"].value = True
            self.view.images.set(where)

    @report_errors
    def _on_preview(self, severity, shifts):
        """The preview's severity is the stream's, where that has one."""
        if not self._busy and self.chosen.offers("severity"):
            self._on_change("severity", severity)

    @report_errors
    def _on_report(self, button=None):
        """Write the ticked runs as one page."""
        self._say(self.view.table.report())

    @report_errors
    def _on_rates(self, button=None):
        """Run the method at some rates, and rank the runs without labels."""
        reason = self._refused()
        if self.running or reason:
            self._say("A run is going on: press Stop first." if self.running else reason)
            return
        self._rates = rates_around(self.choice)
        self._on_run()

    def run_headless(self) -> None:
        """Every callback once, and one run in the caller's thread, first a step and then the
        rest."""
        for widget in (*self.controls.values(), *self.knobs.values()):
            move(widget)
        self.view.buttons["step"].click()
        if self.error is None:
            self.run_button.click()
        for score, rejected in (("energy", 0.49), ("confidence", 0.5)):
            self.view.score.value = score
            self.view.rejected.value = rejected
        for fold in self.folds.values():
            fold.value = True
        if self.error is None and len(self.runs.seen):
            accepted = E.threshold_at(self.trace, "confidence", 0.5)["accepted"]
            self.figures["images"] = FIGURES["images"](self.runs.pictures(accepted), "plotly")

    # --- what is chosen

    def _settle(self) -> None:
        """Show what is chosen now."""
        with self._quietly():
            self.view.sync()
        self.run_button.description = self.runs.run_label(self.running)
        self._refresh()
        if self.folds["preview"].value:
            self._draw_preview()

    def _refresh(self) -> None:
        """The texts of what is chosen."""
        self.description.value = self.view.describe(
            self.chosen.chips(), self.describe(), self.incompatibility)
        self.view.code.value = div(
            code_block("A cell that makes this run without the panel:", self.to_code())
            + code_block("The same as parameters for papermill:", self.to_parameters()))

    def _draw_preview(self) -> None:
        """The images that will come, before any run."""
        if self.choice is None:
            return
        wanted = (self.choice.stream.hash, self.chosen.values["severity"])
        if wanted != self._imagined:
            self._imagined = wanted
            with self._quietly():
                self.view.preview.show(self.choice.stream.known_set, self.chosen.shifts(),
                                       self.chosen.values["severity"])

    # --- the work

    def _refused(self) -> str:
        if self.choice is None or self.incompatibility:
            self._budget = None
            return f"Nothing was run, because this choice is impossible: {self.incompatibility}"
        return ""

    def _of_run(self):
        return self.view.of_run()

    def _begin(self):
        budget, rates = self._budget, self._rates
        self._budget = None
        self._rates = ()
        held = not rates and self.runs.held()
        if held:
            self.runs.go_on()
        elif self.runs.stale(held):
            self._age()
            self.view.images.clear()
        return rates or (self.choice,), held, budget

    def _run(self, choices, held, budget):
        runs = self.runs
        began = []
        for choice in choices:
            if not held:
                runs.start(choice, self.device, self._known, rate=len(choices) > 1)
                self.pace.drawn = 0.0
            began.append(runs.number)
            self._run_one(choice, budget)
            if self._stop.is_set():
                break
        self._say(self.finding())
        if len(choices) > 1:
            self.runs.tick([n for n in began if n in self.kept])
            self._sync_table()
            self._draw()
            self.folds["choose"].value = True
            self._rank(self.runs.ticked)

    def _run_one(self, choice, budget):
        runs = self.runs
        try:
            self._advance(runs.session, self.chosen.title(choice), self._draw, budget)
        except Exception:
            runs.session = None  # one of its runs is a batch ahead of the others
            raise
        finally:
            if len(runs.seen):
                self._finish()
            else:
                runs.drop_empty()

    def _advance(self, session, title, draw, budget=None):
        with self.pace.drawing():
            self._sync_table()
        super()._advance(session, title, draw, budget)
        if session.done:
            self.runs.look()

    def _finish(self):
        self._draw()
        self.runs.finish()
        self._show_run(True, drawn=True)

    def _show_run(self, fresh: bool, drawn: bool = False) -> None:
        """Everything that is said and drawn of the run shown; ``fresh``: another one than
        before."""
        if not drawn:
            self._draw()
            if not self.running:
                self._say(self.finding())
        self._sync_table()
        self.view.say_compared(self.compared_words)
        if fresh and self.folds["images"].value:
            self._show_images()
        self._draw_threshold()
        if self.folds["choose"].value:
            self._rank(self.runs.ticked)
        self._refresh()

    def _sync_table(self) -> None:
        """The table of runs as it stands."""
        with self._quietly():
            self.view.table.running = self.runs.number if self.running else None
            self.view.table.refresh(looks=self.runs.looks())
            self.view.table.ticked = list(self.runs.ticked)
            self.view.table.current = self.runs.number

    def _rank(self, numbers) -> None:
        """Rank runs without labels."""
        found = [self.kept[n] for n in numbers if self.kept[n].facts]
        self.view.show_ranking(words.ranking_html(found))

    def _ended(self):
        super()._ended()
        self.view.table.running = None
        self.chosen.settle()
        self._settle()

    # --- reading back

    @property
    def results(self):
        """One row for each run so far, as a pandas frame."""
        import pandas
        return pandas.DataFrame(list(self.runs.rows.values()))

    @property
    def state(self) -> dict:
        """What the controls say: an `Experiment` as a dict; with your own model or images, what of
        it has a name."""
        return experiment_dict(self.choice)

    def label_free(self) -> dict:
        """`studies.explorer.study.label_free` of the run shown; {} before a run."""
        return self.runs.label_free()

    def describe(self, choice: Experiment | None = None) -> str:
        """What a choice does and needs; without one, what the controls say would be run."""
        return self.chosen.describe(choice)

    def finding(self) -> str:
        """What the run shown has found so far."""
        return self.runs.finding() or NOTHING

    def to_code(self) -> str:
        """A cell that makes the run shown (as far as it went), or before any run the one that the
        controls say."""
        return self.runs.to_code()

    def to_parameters(self) -> str:
        """The same as YAML text, parameters for this notebook: ``papermill 00_explorer.ipynb
        out.ipynb -f FILE``."""
        return self.runs.to_parameters()

    # --- figures

    def _show(self, name: str, numbers: dict) -> None:
        self.drawn[name] = numbers
        figure = self.view.draw(name, numbers, self.interactive)
        if figure is not None:
            self.figures[name] = figure

    def _draw(self):
        with self.pace.drawing():
            errors, predictions = self.runs.look()
            self._show("errors", errors)
            self._show("predictions", predictions)
            self._draw_alarm()
            self.view.sentence.value = folded("Without labels", html.escape(
                self.runs.without_labels()))

    def alarm_text(self) -> str:
        """What the alarm light says."""
        return self.runs.alarm_text(self.drawn.get("errors"))

    def _draw_alarm(self):
        self.view.show_alarm(self.runs.alarm_status, self.alarm_text())

    def _clear(self):
        """Figures and sentences with nothing in them."""
        self.progress.value = 0
        self._draw_alarm()
        for name, numbers in nothing().items():
            self._show(name, numbers)
        self._draw_threshold()
        self._sync_table()
        self.view.clear()

    def _draw_threshold(self):
        """The threshold on unknown images, where it is looked at."""
        if self.interactive and not self.folds["unknown"].value:
            return
        trace = self.runs.seen
        view = self.view
        numbers = E.threshold_at(trace, view.score.value, view.rejected.value)
        if not len(trace):
            numbers["why"] = "Nothing has run yet."
        self._show("threshold", numbers)
        view.judged.value = block(E.say_threshold(numbers))

    def _show_images(self):
        """The images of the run shown."""
        runs = self.runs
        if len(runs.seen):
            stream = None if runs.ran is None else runs.ran.stream
            self.view.images.show(runs.trace, stream, runs.classes, runs.references,
                                  runs.probabilities())

    # --- everything together

    @property
    def widget(self):
        """Everything in one box."""
        return self.view.widget(self)

    def summary(self):
        shape, _ = E.LIGHTS[self.runs.alarm_status]
        alarm = f"{shape} {self.alarm_text()}"
        lines = [self.describe(self.runs.begun), self.message, alarm, self.runs.missing()]
        return lines, [self.figures[name] for name in ("errors", "predictions", "images")
                       if name in self.figures]


# --- without a panel

def settings_of(fast: bool, **given) -> dict:
    """Settings of `explorer` for the fast or the full mode; values in ``given`` that are 0, "" or
    None stay as the mode says."""
    chosen = {name: value for name, value in given.items() if value or value is False}
    return (FAST if fast else FULL) | chosen


def save(panel: ExplorerPanel, path) -> None:
    """Write the runs of a panel as JSON (no number: null), with the comparison, the choice of the
    run shown (before any run: that of the controls) and the versions they were made with."""
    write_numbers(path, {
        "runs": list(panel.runs.rows.values()), "comparison": panel.comparison,
        "state": experiment_dict(panel.ran or panel.choice), "message": panel.message})
