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

from ..analysis import timelines as views
from ..core.arguments import flag, nearest, whole
from ..core.named import recipe_of
from ..experiments.experiment import Experiment
from ..methods import METHODS
from ..studies.explorer import study as E
from ..studies.report import write_numbers
from . import explorer_words as words
from .controls import move
from .explorer_state import FAST, FULL, ExplorerState, RunState, experiment_dict, nothing
from .explorer_view import NO_IMAGE, ExplorerView
from .inputs import check_images, check_model, check_stream
from .layout import block, code_block, div
from .run_panel import NOTHING, SessionPanel, report_errors


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
    why), ``state`` the same as a dict. Of the run shown: ``trace``, ``references`` (name -> Trace),
    ``session``, ``ran`` (its Experiment). ``results`` is a pandas frame with one row for each run
    so far, ``comparison`` the last one with A and ``compared_words`` what it says. ``drawn`` holds
    the numbers of each figure, ``figures`` the plotly figures of a panel without a browser.
    ``error`` is the exception that ended the last run, or None.

    It joins ``chosen`` (an `ExplorerState`), ``runs`` (a `RunState`), ``view`` (an `ExplorerView`).
    """

    choice = property(attrgetter("chosen.choice"))
    incompatibility = property(attrgetter("chosen.incompatibility"))
    trace = property(attrgetter("runs.trace"))
    references = property(attrgetter("runs.references"))
    session = property(attrgetter("runs.session"))
    ran = property(attrgetter("runs.ran"))
    comparison = property(attrgetter("runs.comparison"))
    compared_words = property(attrgetter("runs.compared_words"))
    knobs = property(attrgetter("view.knobs.fields"))

    def __init__(self, chosen: ExplorerState, interactive: bool, device):
        self.chosen = chosen
        self.runs = RunState(chosen)
        self.device = device
        self.view = view = ExplorerView(chosen, self._on_knob)
        super().__init__(view.controls, interactive, "Run the choice beside source and BN-1; a run "
                         "that was stopped goes on", 130, 395)
        self._known = {}
        self._budget = None
        self._pictures = {}
        self.drawn, self.figures = {}, {}
        for name, button in view.buttons.items():
            button.on_click(getattr(self, f"_on_{name}"))
        view.pick.observe(functools.partial(self._unless_busy, self._show_details), "value")
        for widget in (view.score, view.rejected):
            widget.observe(functools.partial(self._unless_busy, self._draw_threshold), "value")
        self._fold(view.folds())
        self._settle()
        self._clear()
        self._say("Nothing has run yet: press Run, or Step for one batch.")

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
        self.view.buttons["keep"].disabled = True
        self._clear()
        self.chosen.settle()
        self._settle()
        self._say("Nothing is shown: press Run, or Step for one batch.")

    @report_errors
    def _on_keep(self, button=None):
        if not len(self.runs.seen):
            self._say("There is no run to keep: press Run first.")
            return
        self.runs.keep()
        self.view.compared.value = block(
            f"A is {self.runs.kept['label']}. Change something and press Run: the next run on this "
            "stream is compared with it.")

    @report_errors
    def _on_paper(self, button=None):
        self.chosen.paper_defaults()
        self._settle()

    @report_errors
    def _on_fold(self, name, label, opened):
        super()._on_fold(name, label, opened)
        if name == "images" and opened and not self.running:
            self._draw_images()

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

    # --- what is chosen

    def _settle(self) -> None:
        """Show what is chosen now."""
        with self._quietly():
            self.view.sync()
        self.run_button.description = self.runs.run_label(self.running)
        self._refresh()

    def _refresh(self) -> None:
        """The texts of what is chosen."""
        why = html.escape(self.incompatibility)
        reason = f"<br><b>Impossible:</b> {why}" if why else ""
        self.description.value = div(html.escape(self.describe()) + reason)
        self.view.code.value = div(
            code_block("A cell that makes this run without the panel:", self.to_code())
            + code_block("The same as parameters for papermill:", self.to_parameters()))

    # --- the work

    def _refused(self) -> str:
        if self.choice is None or self.incompatibility:
            self._budget = None
            return f"Nothing was run, because this choice is impossible: {self.incompatibility}"
        return ""

    def _of_run(self):
        return self.view.of_run()

    def _begin(self):
        budget = self._budget
        self._budget = None
        held = self.runs.held()
        if self.runs.stale(held):
            self._age()
            self._pictures = {}
            self.view.details.value = ""
            self._show_options(NO_IMAGE)
        return self.choice, held, budget

    def _run(self, choice, held, budget):
        runs = self.runs
        if not held:
            runs.start(choice, self.device, self._known)
            self.pace.drawn = 0.0
        session = runs.session
        runs.trace = session.traces["choice"]
        try:
            self._advance(session, self.chosen.title(choice), self._draw, budget)
        except Exception:
            runs.session = None  # one of its runs is a batch ahead of the others
            raise
        finally:
            if len(runs.trace):
                runs.ran = session.shown()
                self._finish()
        self._say(self.finding())

    def _finish(self):
        runs = self.runs
        view = self.view
        view.buttons["keep"].disabled = False
        self._draw()
        kept = runs.kept is not None and runs.kept["number"] != runs.number
        runs.finish()
        bare = any(not r["labelled"] for r in runs.rows.values())
        view.show_runs(runs.rows.values(), runs.missing() if bare else "")
        if kept:
            view.compared.value = block(runs.compared_words)
        if self.folds["images"].value:
            self._draw_images()
        self._draw_threshold()
        self._refresh()

    def _ended(self):
        super()._ended()
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
            self.view.sentence.value = block(self.runs.without_labels())

    def alarm_text(self) -> str:
        """What the alarm light says."""
        return self.runs.alarm_text(self.drawn.get("errors"))

    def _draw_alarm(self):
        self.view.show_alarm(self.runs.alarm_status, self.alarm_text())

    def _clear(self):
        """Figures and lists with nothing in them."""
        self.progress.value = 0
        self._draw_alarm()
        for name, numbers in nothing().items():
            self._show(name, numbers)
        self._pictures = {}
        self.view.clear()

    def _draw_threshold(self):
        """The threshold on unknown images, and with it which unknown images are shown as
        accepted."""
        trace = self.runs.seen
        view = self.view
        numbers = E.threshold_at(trace, view.score.value, view.rejected.value)
        if not len(trace):
            numbers["why"] = "Nothing has run yet."
        self._show("threshold", numbers)
        view.judged.value = block(E.say_threshold(numbers))
        if self.folds["images"].value and "unknown" in views.split(trace):
            self._draw_images()

    def _draw_images(self):
        """The grid of pictures and the list to choose one from."""
        trace = self.runs.seen
        view = self.view
        if not len(trace):
            return
        found = E.threshold_at(trace, view.score.value, view.rejected.value)
        self._pictures = self.runs.pictures(found["accepted"])
        self._show("images", self._pictures)
        view.picked.value = block(E.say_picked(trace))
        options = [(words.image_label(kind, i + 1, t), (kind, i))
                   for kind, images in self._pictures.items() for i, (_, t) in enumerate(images)]
        self._show_options(options or NO_IMAGE)
        self._show_details()

    def _show_options(self, options):
        """The list of pictures."""
        with self._quietly():
            self.view.pick.options = options
            self.view.pick.value = options[0][1]

    def _show_details(self):
        """What was recorded of the picture that is chosen in the list."""
        if self.view.pick.value == -1 or not self._pictures:
            return
        kind, i = self.view.pick.value
        _, t = self._pictures[kind][i]
        self._show("probabilities", self.runs.probabilities(t["row"]))
        self.view.details.value = block(words.image_text(t))

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
