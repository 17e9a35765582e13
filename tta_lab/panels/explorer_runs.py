"""What has run in the explorer: the runs of its table, of which one is shown and several may be
ticked, and what is said of them. Plain values, sentences and numbers; nothing here needs a widget.
"""
from __future__ import annotations

import json

from ..analysis import timelines as views
from ..components.controllers.guard import actions
from ..core.trace import Trace
from ..experiments.experiment import REFERENCES, Experiment, Session, signature
from ..experiments.kept_runs import KeptRun, KeptRuns
from ..experiments.runner import row
from ..studies.explorer import kept
from ..studies.explorer import study as E
from ..studies.explorer.figures import run_look
from ..studies.explorer.kept import chart_of
from . import explorer_words as words
from .explorer_state import ExplorerState

MOST = 4  # runs of which one sentence each says what they differ by


class RunState:
    """What has run.

    ``kept`` (a `KeptRuns`) are all runs, ``number`` the one that is shown, ``ticked`` the numbers
    of those whose curves share a chart. ``session`` is the run that was begun last, of the number
    ``running``. Of the run shown: ``trace`` and ``references`` (name -> Trace), ``ran`` (its
    Experiment as far as it has come), ``alarm_status`` and ``status``, the alarm light.
    ``comparison`` is the paired difference to the other ticked run, ``compared_words`` what it
    says. ``title(choice)`` and ``stream_name(choice)`` name choices.
    """

    def __init__(self, chosen: ExplorerState):
        self._chosen = chosen
        self.kept = KeptRuns()
        self.number: int | None = None
        self.running: int | None = None
        self.ticked: list[int] = []
        self.session: Session | None = None
        self._begun: dict[int, Experiment] = {}
        self._lights: dict[int, E.Light] = {}
        self._found: dict[int, str] = {}
        self.comparison: dict = {}
        self.compared_words = ""

    # --- which run

    @property
    def shown(self) -> KeptRun | None:
        """The run that is shown."""
        return self.kept.get(self.number) if self.number is not None else None

    @property
    def trace(self) -> Trace | None:
        return None if self.shown is None else self.shown.trace

    @property
    def references(self) -> dict:
        return {} if self.shown is None else self.shown.references

    @property
    def ran(self) -> Experiment | None:
        return None if self.shown is None else self.shown.choice

    @property
    def status(self) -> E.Light:
        """The alarm light of the run shown."""
        return self._lights.get(self.number, E.Light())

    @property
    def alarm_status(self) -> str:
        return self._found.get(self.number, "wait")

    @property
    def begun(self) -> Experiment | None:
        """The choice of the run shown, whole."""
        return self._begun.get(self.number, self.ran)

    def reset(self) -> None:
        """Show no run; all of them stay in the table."""
        self.session = self.number = self.running = None
        self.comparison = {}
        self.compared_words = ""

    def select(self, number: int) -> None:
        """Show this run."""
        self.number = number
        self._see()

    def tick(self, numbers) -> None:
        """These runs, and no others, share the chart."""
        self.ticked = [n for n in numbers if n in self.kept]
        self._compare()

    def tidy(self) -> None:
        """Forget what was known of runs that are no longer in the table."""
        for known in (self._begun, self._lights, self._found):
            for number in [n for n in known if n not in self.kept]:
                del known[number]
        self.ticked = [n for n in self.ticked if n in self.kept]
        if self.running is not None and self.running not in self.kept:
            self.session = self.running = None
        if self.number is not None and self.number not in self.kept:
            self.number = self.ticked[-1] if self.ticked else None
        self._compare()

    def add(self, run: KeptRun) -> int:
        """Put a finished run into the table, tick and show it."""
        number = self.kept.add(run)
        self._tick_new(number)
        self.select(number)
        return number

    # --- running

    def start(self, choice: Experiment, device, known: dict, rate: bool = False) -> None:
        """A run begins, with its learning rate in its name where ``rate`` says so. One that was
        stored and is now made anew leaves the table."""
        self.session = None
        self.session = Session(choice, device=device, known=known)
        stored = [n for n, run in self.kept.items() if run.stored and run.choice is not None
                  and signature(run.choice) == signature(choice)]
        self.kept.delete(stored)
        self.tidy()
        label = words.recipe_label(choice.recipe, rate)
        self.number = self.running = self.kept.add(KeptRun(label, choice, Trace(), {}, {}, {}))
        self._begun[self.number] = choice
        self._tick_new(self.number)
        self.comparison = {}
        self.compared_words = ""

    def _tick_new(self, number: int) -> None:
        """Tick a run, and no longer those of another stream: they would not share a chart."""
        stream = chart_of(self.kept[number])
        self.ticked = [n for n in self.ticked if chart_of(self.kept[n]) == stream] + [number]

    def drop_empty(self) -> None:
        """Forget the run that was begun last where it has seen nothing."""
        if self.running is not None and not len(self.kept[self.running].trace):
            self.kept.delete([self.running])
            self.session = self.running = None
            self.tidy()

    @property
    def finished(self) -> bool:
        return self.session is None or self.session.finished

    def held(self) -> bool:
        """Whether a run that is not finished stands for what is chosen."""
        choice = self._chosen.choice
        return (not self.finished and choice is not None
                and signature(self.session.choice) == signature(choice))

    def stale(self, held: bool) -> bool:
        """Whether what is shown will belong to another run than the one that begins."""
        return not held and self.number is not None

    def run_label(self, running: bool) -> str:
        """What the button says that runs the choice."""
        if self.held():
            return "Go on"
        return "Run" if running or self.finished else "Run anew"

    def go_on(self) -> None:
        """Show the run that goes on."""
        self.number = self.running

    # --- numbers

    def look(self) -> tuple[dict, dict]:
        """See what the run shown has so far: numbers of the two live figures."""
        self._see()
        trace = self.trace
        steps = [t for t, _ in actions(trace)] + [self.status.first] * (self.status.first >= 0)
        marks = [int((trace["step"] <= step).sum()) for step in steps]
        classes = views.class_shares(trace, names=self.classes)
        looks = {self.kept[n].name: look for n, look in self.looks().items()}
        return ({"so_far": kept.curves(self.kept, self._drawn), "fall": E.fall_over_time(trace),
                 "marks": marks, "looks": looks},
                {"entropy": E.entropy_now(trace), "classes": classes})

    def _see(self) -> None:
        """Take over what the session has, and let the alarm light look."""
        run = self.shown
        if self.session is not None and self.number == self.running:
            traces = self.session.traces
            run.trace = traces["choice"]
            run.references = {REFERENCES[name]: t for name, t in traces.items()
                              if name != "choice"}
            run.choice = self.session.shown()
        light = self._lights.setdefault(self.number, E.Light())
        self._found[self.number] = light.see(run.trace)

    @property
    def _drawn(self) -> list[int]:
        """Numbers of the runs whose curves are drawn, the one shown first."""
        return [n for n in dict.fromkeys([self.number, *self.ticked]) if n is not None]

    def looks(self) -> dict[int, int]:
        """The look of the curve of each run that is shown or ticked; it stays with the run."""
        return {n: run_look(n) for n in self._drawn}

    @property
    def classes(self) -> list[str]:
        run = self.shown
        if run.choice is not None:
            return [str(c) for c in run.choice.stream.classes]
        return [str(c) for c in range(int(run.trace.meta.get("classes", 0)))]

    @property
    def seen(self) -> Trace:
        """The trace of the run, or an empty one."""
        return Trace() if self.trace is None else self.trace

    def label_free(self) -> dict:
        """`studies.explorer.study.label_free` of the run shown; {} before a run."""
        return {} if self.trace is None else E.label_free(self.trace, self.references)

    def _cut_references(self) -> dict:
        """The part of each reference that the choice has been shown too."""
        return {name: t.head(len(self.trace)) for name, t in self.references.items()}

    def finish(self) -> None:
        """A run ended or was held: its row, its answers, and what it differs by."""
        run = self.shown
        r = row(run.trace)
        choice = self.begun
        labelled = bool(E.scored(run.trace).any())
        errors = {"error": r["error"]}
        errors |= {f"error of {name}": row(t)["error"]
                   for name, t in self._cut_references().items()}
        errors |= {"auroc": r["auroc"]} if "auroc" in r else {}
        run.probabilities = {REFERENCES.get(name, "this run"): p
                             for name, p in self.session.probabilities.items()}
        run.facts = {
            "method": words.recipe_label(choice.recipe),
            "model": words.model_name(choice.model), "stream": self._chosen.stream_name(choice),
            **(errors if labelled else {}), **self.label_free(), "labelled": labelled,
            "alarm": words.alarm_cell(self.alarm_status, self.status),
            "first alarm": self.status.first, "images": r["images"], "complete": r["complete"],
            "ms_per_image": r["ms_per_image"], "seed": choice.seed,
            "settings": repr(choice.recipe), "stream_hash": r["stream_hash"]}
        self._compare()

    @property
    def rows(self) -> dict[int, dict]:
        """number -> what the table and ``results`` say of a run; runs that have seen images."""
        found = {}
        for number, run in self.kept.items():
            if run.facts:
                try:
                    text = "" if run.choice is None else run.choice.to_json()
                except ValueError:
                    text = ""
                found[number] = {"run": number, "name": run.name, **run.facts, "choice": text}
        return found

    def _compare(self) -> None:
        """What the run shown and the other ticked ones of its stream differ by."""
        self.comparison = {}
        self.compared_words = ""
        run = self.shown
        others = [n for n in self.ticked if n != self.number and len(self.kept[n].trace)]
        if run is None or self.number not in self.ticked or not len(run.trace):
            return
        said = []
        for number in others[-MOST:]:
            found = kept.paired_of(self.kept, number, self.number)
            said.append(found.pop("words"))
            self.comparison = found if len(others) == 1 else {}
            if found and chart_of(self.kept[number]) != chart_of(run):
                said.append(f"{self.kept[number].name} is of another model and has no curve here.")
        self.compared_words = " ".join(said)

    def pictures(self, accepted) -> dict:
        """Images worth looking at, by kind, with what was recorded of them."""
        rows = E.picked(self.trace, accepted=accepted)
        return E.pictures(self.trace, self.ran.stream, rows, self.classes)

    def probabilities(self) -> dict:
        """The answers of source, BN-1 and the run shown, name -> (N, K), as far as they were
        kept."""
        found = self.shown.probabilities
        if not found and self.session is not None and self.number == self.running:
            found = {REFERENCES.get(name, "this run"): p for name, p
                     in self.session.probabilities.items()}
        return {name: found[name] for name in ("source", "BN-1", "this run") if name in found}

    # --- in words

    def finding(self) -> str:
        """What the run shown has found so far; "" where it has seen nothing."""
        if not len(self.seen):
            return ""
        run = self.shown
        live = self.session is not None and self.number == self.running
        done = not live or self.finished
        what = "Stored" if run.stored else "Done" if done else "Held"
        title = (self._chosen.title(self.begun) if self.begun is not None else
                 f"{run.facts.get('method', run.name)} on {run.facts.get('model', 'its model')}, "
                 f"{run.facts.get('stream', 'its stream')}")
        head = f"{what}, {title}, {len(self.trace)} images"
        if not done:
            s = self.session
            head += f" (batch {s.done} of {s.total}; Run goes on, Step shows one batch)"
        found = words.finding(self.trace, self._cut_references(), self.label_free(), head)
        alarm = words.alarm_sentence(self.alarm_status, self.status)
        made = f"Made {run.stored.partition('; made ')[2]}." if run.stored else ""
        return " ".join(filter(None, (found, alarm, made)))

    def missing(self) -> str:
        """What cannot be said because images have no labels."""
        return "" if self.trace is None else E.say_missing(self.trace)

    def without_labels(self) -> str:
        """The numbers that need no label, and which are missing, in words."""
        found = f"{self.shown.name}: {E.say_label_free(self.label_free())}"
        return " ".join(filter(None, (self.missing(), found)))

    def alarm_text(self, numbers: dict | None) -> str:
        """What the alarm light says, with the errors of the figure."""
        so_far = numbers["so_far"] if numbers else {}
        run = self.shown
        beside = () if run is None else (run.name, "source", "BN-1")
        errors = {name: so_far["last"][name] for name in beside
                  if so_far.get("labelled") and name in so_far["last"]}
        return words.alarm_text(self.alarm_status, self.status, errors)

    def to_code(self) -> str:
        """A cell that makes the run shown (as far as it went), or before any run the one that is
        chosen."""
        choice = self.ran or self._chosen.choice
        return f"# no run: {self._chosen.incompatibility}" if choice is None else choice.to_code()

    def to_parameters(self) -> str:
        """The same as YAML text, parameters of the explorer's notebook."""
        choice = self.ran or self._chosen.choice
        if choice is None:
            return f"# no run: {self._chosen.incompatibility}\n"
        try:
            return "".join(f"{name}: {json.dumps(value)}\n"
                           for name, value in choice.to_parameters().items())
        except ValueError as error:
            return f"# {error}\n"


def nothing() -> dict:
    """Numbers of the figures before a run: each shows a sentence."""
    return {"errors": {"so_far": E.so_far({}), "fall": E.fall_over_time(Trace())},
            "predictions": {"entropy": E.entropy_now(Trace()), "classes": None}}
