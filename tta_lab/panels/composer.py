"""The composer: choose what stands in every slot of a method, see what cannot go together and why,
run it beside its nearest published relatives.

Whatever the panel does, the functions of `compose` and `compose.study` do without it; ``to_code()``
says how.
"""
from __future__ import annotations

import html
import threading
from dataclasses import replace
from pathlib import Path

from .. import plots
from ..components.controllers.guard import Guard
from ..core.arguments import flag, nearest, path_of
from ..core.files import write_text
from ..core.named import recipe_of
from ..core.parts import Method
from ..experiments import compose as C
from ..experiments.experiment import Experiment, Session, model_key, needs, signature
from ..experiments.kept_runs import KeptRun, KeptRuns
from ..methods import METHODS, make
from ..methods.composed import Nothing
from ..methods.serialise import from_json, to_json
from ..studies.compose import study as S
from ..studies.compose.figures import plot_composer_runs
from ..studies.report import signed, write_numbers
from .controls import KnobFields, dropdown, move, other, rounded, seed_field, slider, tick
from .frames import figure_frame
from .inputs import (
    AS_GIVEN,
    IMAGES,
    USUAL_IMAGES,
    StreamNames,
    check_model,
    method_options,
    model_options,
    own_model,
)
from .labels import slider_labels
from .layout import (
    WIDTH,
    block,
    chips,
    code_block,
    column,
    div,
    folded,
    heading,
    line,
    table_html,
)
from .run_panel import NOTHING, SessionPanel, report_errors
from .runs_table import RunsTable

HEIGHT = 320
INCHES = (8.2, 3.6)
SECOND = {"select 1": "learn from", "select 2": "and of these", "select 3": "and of these",
          "penalties 1": "extra term", "penalties 2": "extra term"}
TIPS = {"norm": "whose statistics the normalisation layers use",
        "train": "which parameters a step may move", "objective": "what is minimised",
        "select": "which images are learned from",
        "penalties": "a term that is added to the objective", "update": "how a step is taken",
        "settle": "what happens to the weights after a step",
        "teacher": "whom objective or output may ask", "reply": "what is returned",
        "controllers": "when everything goes back to the source",
        "cadence": "what a step looks at"}
FIRST = ("objective", "select", "penalties", "norm", "train")  # slots that are always in sight
IN_CHIPS = ("objective", "select", "penalties", "norm")
FEW = 4  # ways out of an impossible composition that are pointed at in one list
NO, YES = "✗ {} (not with these)", "→ {} (would make it possible)"
SINGLE = "one image at a time"
COLUMNS = {  # of the table of runs: title and format
    "run": ("run", "{}"), "error": ("error (%)", "{:.1f}"),
    "last third": ("last third (%)", "{:.1f}"), "minus BN-1": ("minus BN-1", "{:+.1f}"),
    "alarm": ("first alarm", "batch {}"), "now": ("alarm now", "{}"),
    "learned from": ("learned from (%)", "{:.0f}"), "forwards": ("forwards", "{:.1f}"),
    "backwards": ("backwards", "{:.1f}"), "ms": ("ms an image", "{:.1f}")}


def composer(recipe: Method | str | None = None, *, start: str = "tent", model=None, stream=None,
             source_images=None, per_shift: int = 100, batch: int = 25, relatives: int = 2,
             guard: bool = False, interactive: bool = True, device="auto", seed: int = 0,
             trust: bool = False, images=None, shifts=S.SHIFTS) -> ComposerPanel:
    """The composer with its first settings.

    ``recipe``: a composition or a method, its name or its JSON; else the slots of the method
    ``start``. ``model``: a network of your own, or a text for `names.open_model` (one that
    runs a Python file only with ``trust``); ``stream``: a name of `compose.study.STREAMS`, or a
    stream of your own; ``images`` (a set or its text) and ``shifts`` for the former; ``per_shift``
    images of each shift in batches of ``batch``; ``relatives``: how many of the nearest published
    methods are run beside it, 0 to 4; ``source_images`` for parts that need something of the source
    domain. ``interactive`` False returns a panel that has run once, in the caller's thread and with
    every callback called from Python, and that shows a plain figure. Raises ValueError or TypeError
    for what does not exist.
    """
    if recipe is None:
        if start not in METHODS:
            raise ValueError(f"there is no method {start!r} to start from; there are: "
                             f"{', '.join(METHODS)}{nearest(start, METHODS)}")
        recipe = make(start)
    written = isinstance(recipe, str) and recipe.lstrip().startswith("{")
    recipe = from_json(recipe) if written else recipe_of(recipe)
    check_model(model, flag("trust", trust))
    if isinstance(stream, str) and stream not in S.STREAMS:
        raise ValueError(f"there is no stream {stream!r}; there are: {', '.join(S.STREAMS)}"
                         f"{nearest(stream, S.STREAMS)}")
    given = {"model": model, "stream": stream, "images": images, "shifts": tuple(shifts),
             "source_images": source_images}
    first = {"per_shift": per_shift, "batch": batch, "relatives": relatives, "guard": guard,
             "seed": seed}
    return ComposerPanel(recipe, given, first, interactive, device).opened()


class ComposerPanel(SessionPanel):
    """What ``composer`` makes.

    ``recipe`` is what the slots say (None while they make none; then ``incompatibility`` says why),
    ``slots`` the slots themselves, ``marks`` what cannot be chosen next (place -> key -> reason).
    Of the last run: ``traces`` (name -> Trace, "composition" first), ``table`` (its rows) and
    ``verdict`` (sentences); ``results`` is a pandas frame of all runs so far. ``error`` is the
    exception that ended the last run, or None.
    """

    def __init__(self, recipe, given: dict, first: dict, interactive: bool, device):
        import ipywidgets as W

        self.device = device
        self._given = given
        self._fast = not interactive  # no marks while every callback is called
        self._made: dict = {}         # of source images, for rehearsals
        self._asked: dict = {}        # answers known so far, by model and stream
        self._images: dict = {}       # of the rehearsals
        self._remembered: dict = {}   # parts that were exchanged for others
        self._known: dict = {}        # finished references
        self._saved: dict[Path, bytes] = {}
        self._streams = StreamNames()
        self._guard = Guard()
        self._brought = False  # brought: it came with the recipe
        self.slots = {}
        self.marks = {}
        self.incompatibility = ""
        self.choice = None
        self._recognised = ""
        self._turn = 0
        self.number = 0
        self._rows = []
        self._ran = None
        self._forget()
        self._places = {place: (slot, seat, keys) for place, slot, seat, keys in C.places()}
        super().__init__(self._controls(first), interactive,
                         "Run the composition beside source, BN-1 and its nearest relatives", 116,
                         300)
        self.guard_box = self.controls["guard"]
        self._fields = KnobFields(self._on_knob, "116px", "116px")
        self._knob_of = {}
        self.reasons, self.table_box, self.judged = W.HTML(), W.HTML(), W.HTML()
        self.code, self.json_box = W.HTML(), W.HTML()
        self.frame = figure_frame()
        self.figure = None
        self.drawn = {}
        self.kept = KeptRuns()
        self.runs_table = RunsTable(self.kept, self._on_table)
        self.report_button = W.Button(description="Save report", tooltip="Write one HTML file of "
                                      "the ticked runs, for readers without Jupyter")
        self.report_button.on_click(self._on_report)
        self.path = W.Text(value="composition.json", description="file", continuous_update=False,
                           tooltip="where the recipe is saved, beside the notebook",
                           style={"description_width": "40px"})
        self.overwrite = tick(False, "overwrite",
                              "write over the file of this name, whatever is in it")
        self.overwrite.layout.width = "110px"
        self.save_button = W.Button(description="Save recipe", tooltip="Write the recipe as JSON; "
                                    "composer(recipe=text) opens it again")
        self.save_button.on_click(self._on_save)
        self._folds()
        with self._quietly():
            self._take(recipe)
            if first["guard"]:
                self.guard_box.value = True
        self._settle()
        self._draw()
        self._say("Nothing has run yet: choose, then press Run.")

    def _forget(self) -> None:
        """Nothing of a run."""
        self.session = None
        self.traces = {}
        self.table = []
        self.verdict = []
        self._lights = S.Lights()

    # --- what can be chosen

    def _controls(self, first) -> dict:
        model = self._given["model"]
        stream = self._given["stream"]
        streams = list(S.STREAMS)
        own = own_model(model)
        if stream is not None and not isinstance(stream, str):
            streams = [("as given", AS_GIVEN), *streams]
            stream = AS_GIVEN
        found = {
            "model": dropdown("model", model_options(own),
                              AS_GIVEN if own else model or "fashion_resnet_bn", "model",
                              "the source model that is adapted"),
            "stream": dropdown("stream", streams, stream or next(iter(S.STREAMS)), "stream",
                               "which images come when"),
            "per_shift": slider(first["per_shift"], min(20, first["per_shift"]), 1000,
                                "images a shift", "images of each of the four shifts", 10),
            "batch": slider(first["batch"], 1, 200, "batch", "images in a batch"),
            "relatives": slider(first["relatives"], 0, 4, "relatives", "how many of the nearest "
                                "published methods are run beside the composition"),
            "seed": seed_field(first["seed"]),
            "start": dropdown("start", [("a composition of your own", ""), *method_options()], "",
                              "start from", "put the parts of a published method into the slots")}
        for place, (slot, _, keys) in self._places.items():
            options = [(self._option(slot, key), key) for key in keys]
            found[place] = dropdown(place, options, keys[0], SECOND.get(place, C.SLOTS[slot]),
                                    TIPS[slot])
        found["guard"] = tick(False, "guard: act on alarms", "go back and slow "
                              "down at an alarm; let source or BN-1 answer where they seem better")
        return found

    def _option(self, slot: str, key: str) -> str:
        if not key:
            return ("its own" if slot in C.TOGETHER else
                    "all images" if slot == "select" else "none")
        part = C.KINDS[slot].get(key)
        if part is not None:
            return C.label(part)
        return f"{key}, whole" if key in C.WHOLE else key

    def _take(self, recipe: Method) -> None:
        """Put a recipe into the slots."""
        slots = C.decompose(recipe)
        guards = [c for c in slots["controllers"] if isinstance(c, Guard)]
        rest = tuple(c for c in slots["controllers"] if not isinstance(c, Guard))
        self.slots = slots | {"controllers": rest}
        if guards or self._brought:  # else the guard was set by hand: it stays
            self._guard = guards[0] if guards else Guard()
            self._brought = self.guard_box.value = bool(guards)
        self._remembered = {}

    def _key(self, place: str) -> str:
        """What the slots hold at this place, as a key."""
        slot, seat, _ = self._places[place]
        value = self.slots[slot]
        if slot in C.SEATS:
            return type(value[seat]).__name__ if seat < len(value) else ""
        if isinstance(value, Method):
            return C.name_of(value)
        return "" if value is None else type(value).__name__

    def _full(self) -> dict:
        guard = [self._guard] if self.guard_box.value else []
        return self.slots | {"controllers": (*self.slots["controllers"], *guard)}

    def _base(self) -> Experiment:
        """Model, stream and seed of the controls, with the source as recipe. Raises ValueError when
        they make no stream."""
        c = self.values
        given = self._given
        seed = int(c["seed"])
        own = c["model"] == AS_GIVEN
        stream = given["stream"]
        known, unknown, source = IMAGES.get(c["model"], USUAL_IMAGES)
        known = known if given["images"] is None else given["images"]
        if c["stream"] != AS_GIVEN:
            stream = S.stream_of(c["stream"], c["per_shift"], c["batch"], seed, given["shifts"],
                                 known, unknown)
        if given["source_images"] is not None or own:
            source = given["source_images"]
        model = given["model"] if own else c["model"]
        return Experiment(model, stream, make("source"), seed, source)

    @property
    def recipe(self) -> Method | None:
        """What the slots say, or None while they make no recipe."""
        return None if self.choice is None else self.choice.recipe

    @property
    def knobs(self) -> dict:
        """The fields of the knobs, by name."""
        return self._fields.fields

    def _asked_about(self, base: Experiment) -> tuple:
        """The images of a rehearsal, and the answers known so far, for this model and stream."""
        key = model_key(base), base.stream.hash
        if key not in self._images:
            self._images[key] = C.rehearsal(base)
            self._asked[key] = {"made": self._made}
        return self._images[key], self._asked[key]

    def _settle(self) -> None:
        """Read the controls: what they make, or why they make nothing; then look what cannot be
        chosen next."""
        try:
            base = self._base()
            self.choice = replace(base, recipe=C.assemble(self._full()))
            images, known = self._asked_about(base)
            text = repr(self.choice.recipe)
            if text not in known:
                known[text] = C.incompatibility(self._full(), base, images, self._made)
            self.incompatibility = known[text]
        except (ValueError, TypeError) as error:
            self.choice = None
            self.incompatibility = str(error)
        found = None if self.recipe is None else C.recognise(self.recipe)
        published = found is not None and not found[1]
        self._recognised = found[0].split(" ")[0] if published else ""
        self.marks = {}
        self._turn += 1
        self._sync()
        self._set_knobs()
        self._refresh()
        if self._fast:
            return
        if self.interactive:  # some seconds: whoever goes on choosing does not wait for it
            # no daemon: the end of the program waits for it, for a step must not be cut
            threading.Thread(target=self._mark, args=(self._turn,), name="composer marks").start()
        else:
            self._mark(self._turn)

    @report_errors
    def _mark(self, turn: int) -> None:
        """Find what cannot be chosen next, and write it into the lists; given up when something
        else was chosen meanwhile."""
        try:
            base = self._base()
        except ValueError:
            return  # no stream: nothing to try anything on

        def over():
            return turn != self._turn or not threading.main_thread().is_alive()

        found = C.marks(self.slots, base, *self._asked_about(base), over)
        with self._lock:
            if turn == self._turn:
                self.marks = found
                self._sync()
                self.reasons.value = self._reasons_html()

    def _sync(self) -> None:
        """The lists show what the slots hold, and which options are impossible; nothing is called
        back."""
        with self._quietly():
            for place, (slot, _, keys) in self._places.items():
                self._sync_list(place, slot, keys)
            self.controls["start"].value = self._recognised
        for place, (slot, seat, _) in self._places.items():  # a seat appears after the one before
            shown = slot not in C.SEATS or seat <= len(self.slots[slot])
            self.controls[place].layout.display = None if shown else "none"
        single = self.controls["stream"].value in (SINGLE, AS_GIVEN)
        self.controls["batch"].layout.display = "none" if single else None

    def _sync_list(self, place, slot, keys) -> None:
        widget = self.controls[place]
        now = self._key(place)
        marked = self.marks.get(place, {})
        keys = [key for key in keys if key or now == "" or slot not in C.TOGETHER]
        keys += [now] * (now not in keys)
        few = sum(key not in marked for key in keys) <= FEW
        options = [(self._marked(self._option(slot, key), marked.get(key), few, key == now), key)
                   for key in keys]
        if tuple(options) != tuple(widget.options) or widget.value != now:
            with widget.hold_sync():
                widget.options = options
                widget.value = now

    def _marked(self, text: str, reason: str | None, few: bool, now: bool) -> str:
        """An option as the list shows it: what is impossible says so; where nothing goes yet, what
        would make it go."""
        if now or not self.marks:
            return text
        if self.incompatibility and reason is None:
            return YES.format(text) if few else text
        impossible = reason is not None and reason not in self.incompatibility
        return NO.format(text) if impossible else text

    # --- callbacks

    def _on_change(self, name, value):
        if name in self._places:
            self._choose(name, value)
        if name == "guard":
            self._brought = False
        if name == "start" and value:
            with self._quietly():
                self._take(make(value))
        self._settle()

    def _choose(self, place: str, key: str) -> None:
        """Put another part into a slot; one that was there before comes back with its knobs."""
        slot, seat, _ = self._places[place]
        held = self.slots[slot]
        for part in held if slot in C.SEATS else (held,):
            self._remembered[slot, C.name_of(part) or type(part).__name__] = part
        self.slots = C.swapped(self.slots, slot, key, seat)
        part = self._remembered.get((slot, key))
        if part is not None and slot not in C.SEATS:
            self.slots[slot] = part

    @report_errors
    def _on_knob(self, name, change):
        with self._lock:
            if not self._busy:
                value = rounded(self._knob_of[name], change["new"])
                self.slots = C.set_knob(self.slots, name, value)
                self._settle()

    @report_errors
    def _on_save(self, button=None):
        try:
            self._say(f"Saved as {self.save(self.path.value, self.overwrite.value)}.")
        except (FileExistsError, ValueError) as error:
            self._say(f"Not saved: {error}.")
            return
        self.overwrite.value = False  # ticked for one file

    def run_headless(self) -> None:
        """Every callback once, and one run in the caller's thread."""
        start = self.slots
        guard = self.guard_box.value
        for name, widget in self.controls.items():
            before = widget.value
            widget.value = other(widget)
            if name in self._places or name == "start":
                self.slots = start
            else:
                widget.value = before
            self._settle()
        assert self.slots == start and self.guard_box.value == guard
        for widget in list(self.knobs.values())[:2]:
            move(widget)
        self.slots = start
        self._fast = False
        self._settle()
        for fold in self.folds.values():
            fold.value = True
        self.run_button.click()

    # --- knobs

    def _set_knobs(self) -> None:
        """Fields for the knobs of what is chosen; the step size is always in sight."""
        found = C.slot_knobs(self.slots)
        labels = {name: self._knob_label(name) for name in found}
        before = self._knob_of
        self._knob_of = found
        if _shown(before) == _shown(found):
            return
        if labels == {name: widget.description for name, widget in self.knobs.items()}:
            with self._quietly():
                for name, k in found.items():
                    if self.knobs[name].value != k.value:
                        self.knobs[name].value = k.value
            return
        learns = not isinstance(self.slots["objective"], Nothing)
        self._fields.show([(k, labels[name], name == "update.lr" and learns)
                           for name, k in found.items()])

    def _knob_label(self, name: str) -> str:
        slot, *rest = name.split(".")
        if name == "update.lr":
            return "step size"
        if slot in C.SEATS:
            part = self.slots[slot][int(rest[0])]
            return f"{C.label(part)}: {' '.join(rest[1:])}".replace("_", " ")
        where = C.SLOTS.get(slot, slot)
        return (f"{where}: {' '.join(rest)}" if rest else where).replace("_", " ")

    # --- the work

    def _refused(self) -> str:
        if self.choice is None or self.incompatibility:
            return ("Nothing was run, because this composition is impossible: "
                    f"{C.on_screen(self.incompatibility)}")
        return ""

    def _of_run(self):
        return [self.frame, self.table_box, self.judged]

    def _begin(self):
        if self._ran is not None:
            self._age()
        self._forget()
        self.pace.drawn = 0.0
        self.number += 1
        return self.choice, self.controls["relatives"].value, self.title()

    def title(self) -> tuple[str, str]:
        """What the controls say beside the slots: the model and the stream, which no other stream
        shares its name with."""
        c = self.values
        choice = self.choice
        parts = ["your stream"]
        if c["stream"] != AS_GIVEN:
            parts = [c["stream"], f"{c['per_shift']} a shift"]
            parts += [f"batches of {c['batch']}"] * (c["stream"] != SINGLE)
            parts += [f"seed {c['seed']}"] * bool(c["seed"])
        model = c["model"]
        if model == AS_GIVEN:
            model = choice.model if isinstance(choice.model, str) else "your model"
        return model, self._streams.add(choice.stream, ", ".join(parts))

    def _run(self, choice, n, title):
        self._ran = choice
        where = f"on {', '.join(title)}"
        self.session = session = Session(choice, S.beside(choice, n), device=self.device,
                                         known=self._known)
        beside = ", ".join(session.traces.keys() - {"choice"})
        try:
            self._advance(session, f"the composition {where}, beside {beside}", self._look)
        finally:
            if session.done:
                self._look()
        if not session.done:
            self._say(NOTHING)
            return
        self.verdict = S.verdict(self.traces)
        for found in self.table:
            recipe = to_json(choice.recipe) if found["run"] == "composition" else found["run"]
            self._rows.append({
                "number": self.number, **found, "recipe": recipe, "model": title[0],
                "stream": title[1], "seed": choice.seed, "stream_hash": choice.stream.hash,
                "complete": session.finished})
        self.judged.value = block(" ".join(self.verdict))
        self._keep(choice, title)
        self._refresh()
        head = "Done." if session.finished else (f"Stopped after batch {session.done} of "
                                                 f"{session.total}.")
        refused = "".join(f" {name} was not run: {reason}"
                          for name, reason in session.refused.items())
        self._say(f"{head} {S.say_rows(self.table)}{refused} This was {where}.")

    def _keep(self, choice, title) -> None:
        """Put the composition and its relatives into the table of runs."""
        beside = {name: self.traces[name] for name in ("source", "BN-1") if name in self.traces}
        shown = self.session.shown()
        for found in self.table:
            name = found["run"]
            if name in beside:
                continue
            own = name == "composition"
            run = replace(shown, recipe=choice.recipe if own else make(name))
            if any(old.choice is not None and signature(old.choice) == signature(run)
                   for old in self.kept.values()):
                continue
            label = (self._recognised or f"composition {self.number}") if own else name
            facts = {"method": label, "model": title[0], "stream": title[1],
                     "seed": run.seed, "images": len(self.traces[name]),
                     "error": found["error"], "ms_per_image": found["ms"],
                     "alarm": found["alarm"] or "none", "complete": self.session.finished,
                     "labelled": choice.labelled, "settings": repr(run.recipe),
                     "error of source": self._error("source"), "error of BN-1": self._error("BN-1")}
            number = self.kept.add(KeptRun(label, run, self.traces[name], beside, {}, facts))
            ticked = [n for n in self.runs_table.ticked
                      if self.kept[n].choice.stream.hash == run.stream.hash]
            self.runs_table.ticked = [*ticked, number]
        self.runs_table.refresh()

    def _error(self, name: str) -> float:
        return next((row["error"] for row in self.table if row["run"] == name), float("nan"))

    @report_errors
    def _on_table(self):
        """Runs were ticked, renamed, deleted or loaded."""
        if not self.running and self.session is not None:
            self._draw()

    @report_errors
    def _on_report(self, button=None):
        self._say(self.runs_table.report())

    def _others(self) -> dict:
        """Ticked runs of the stream shown that are no part of the last run, by name."""
        if self.session is None:
            return {}
        now = [id(trace) for trace in self.traces.values()]
        stream = self.session.shown().stream.hash
        return {self.kept[n].name: self.kept[n].trace for n in self.runs_table.ticked
                if id(self.kept[n].trace) not in now
                and self.kept[n].name not in self.traces
                and self.kept[n].trace.meta["stream"]["hash"] == stream}

    def _look(self):
        """Draw what the session has so far."""
        traces = S.named(self.session.traces)
        n = len(self.session.traces["choice"])
        self.traces = {name: trace.head(n) for name, trace in traces.items()}
        self._lights.see(self.traces)
        self.table = S.table(self.traces, self._lights)
        self._draw()

    def _draw(self):
        with self.pace.drawing():
            traces = self.traces | self._others()
            self.drawn = {"so_far": S.E.so_far(traces),
                          "collapse": S.collapse_of(self.traces, self._lights)}
            self.table_box.value = runs_html(self.table)
            if self.interactive:
                figure = plot_composer_runs(self.drawn, "matplotlib")
                plots.fit(figure, *INCHES)
                self.frame.show(figure, self._alt(), WIDTH)
            else:
                figure = plot_composer_runs(self.drawn, "plotly")
                self.figure = plots.fit(figure, WIDTH, HEIGHT)

    def _alt(self) -> str:
        found = self.drawn["so_far"]
        last = ", ".join(f"{run} {value:.1f}" for run, value in found["last"].items())
        return f"{found['what']}: {last}" if last else "No run yet."

    # --- reading back

    @property
    def results(self):
        """A row for each run and each of its references, as a pandas frame."""
        import pandas
        return pandas.DataFrame(self._rows)

    def to_json(self) -> str:
        """The recipe as JSON; ``composer(recipe=text)`` opens it again. Raises ValueError while the
        slots make none."""
        if self.recipe is None:
            raise ValueError(f"there is no recipe to write down: {self.incompatibility}")
        return to_json(self.recipe)

    def to_code(self) -> str:
        """A cell that makes the run without the panel: the last one as far as it went, if nothing
        was changed since, else what the slots say."""
        if self.choice is None or self.incompatibility:
            return f"# no run: {C.on_screen(self.incompatibility)}"
        if self._shown_run():
            beside = [name for name in self.session.traces if name != "choice"]
            return C.to_code(self.session.shown(), beside)
        return C.to_code(self.choice, [])

    def _shown_run(self) -> bool:
        """Whether the last run is what the slots say."""
        session = self.session
        now = self.choice
        if session is None or now is None or not session.done:
            return False
        ran = session.choice
        if (ran.recipe, ran.stream.hash, ran.seed) != (now.recipe, now.stream.hash, now.seed):
            return False
        return ran.model is now.model or isinstance(ran.model, str) and ran.model == now.model

    def save(self, path, overwrite: bool = False) -> Path:
        """Write the recipe as JSON (".json" is put behind a name without an ending). A file that is
        there is not written over, unless ``overwrite`` or this panel has saved it and nobody has
        changed it since. Raises ValueError while the slots make no recipe and for another ending,
        FileExistsError, OSError where the file cannot be written."""
        path = path_of("path", path)
        text = self.to_json() + "\n"
        path = (path if path.suffix else path.with_name(path.name + ".json")).resolve()
        if path.suffix.lower() != ".json":
            raise ValueError(f"a recipe is saved as .json, not as {path.suffix}: call it "
                             f"{path.with_suffix('.json').name}")
        if path.is_dir():
            raise ValueError(f"{path} is a folder: give the name of a file in it, such as "
                             f"{path / 'composition.json'}")
        if path.exists() and not overwrite and self._saved.get(path) != path.read_bytes():
            raise FileExistsError(f"{path} is there already and was not saved by this panel (or "
                                  "was changed since), so it is left as it is: choose another "
                                  "name, or tick 'overwrite'")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {path.parent}: make it, or choose "
                                    "another place")
        write_text(path, text)
        self._saved[path] = text.encode()
        return path

    # --- words

    def describe(self, choice: Experiment | None = None) -> str:
        """What is composed, whether it is known, and what its nearest relatives differ in."""
        return " ".join(self._sentences(choice))

    def _sentences(self, choice: Experiment | None = None) -> list[str]:
        choice = choice or self.choice
        if choice is None:
            return []
        recipe = choice.recipe
        return [C.say_recipe(recipe), C.say_known(recipe), C.say_relatives(C.relatives(recipe, 2)),
                " ".join([needs(recipe), *C.notes(recipe, choice)])]

    def _refresh(self):
        reason = html.escape(C.on_screen(self.incompatibility))
        if self.incompatibility:  # the way out may be a slot that is folded away
            self.folds["slots"].value = True
        text = f"<p><b>Impossible:</b> {reason}</p>" if self.incompatibility else ""
        said = self._sentences()
        text += f"<div><b>{html.escape(said[1])}</b></div>" if said else ""
        more = "".join(f"<div>{html.escape(part)}</div>" for part in said[:1] + said[2:])
        self.description.value = chips(self.words()) + text + folded("What this is and needs", more)
        what = "this run" if self._shown_run() else "the run that is chosen"
        self.code.value = div(code_block(f"A cell that makes {what} without the panel:",
                                         self.to_code()))
        self.json_box.value = div(code_block("The recipe as JSON:", "" if self.recipe is None else
                                             self.to_json()))
        self.reasons.value = self._reasons_html()

    def words(self) -> list[str]:
        """What will run, in a few words each: the slots that are in use, and the stream."""
        c = self.values
        said = [str(self.controls["model"].label), str(self.controls["stream"].label),
                f"{c['per_shift']} a shift", f"batch {c['batch']}"]
        for place, (slot, _, _) in self._places.items():
            label = self._option(slot, self._key(place))
            if self._key(place) and slot in IN_CHIPS:
                said.append(label.split(": ")[0])
        rate = self._knob_of.get("update.lr")
        said += [f"lr {rate.value:g}"] * (rate is not None)
        return said + ["guard"] * bool(self.guard_box.value)

    def reasons_rows(self) -> list[tuple[str, str]]:
        """(options, reason): what cannot be chosen beside the rest, options with the same reason
        together."""
        rows: dict[str, dict] = {}  # reason -> option -> where it stands
        for place, marked in self.marks.items():
            slot, _, _ = self._places[place]
            for key, reason in marked.items():
                if reason not in self.incompatibility and (key or slot not in C.TOGETHER):
                    where = SECOND.get(place, C.SLOTS[slot])
                    option = self._option(slot, key)
                    rows.setdefault(C.on_screen(reason), {}).setdefault(
                        option.split(": ")[0], f"{where}: {option}")
        return [("; ".join(names.values()), reason) for reason, names in rows.items()]

    def _reasons_html(self) -> str:
        rows = "".join(f"<li><b>{html.escape(names)}</b>: {html.escape(reason)}</li>"
                       for names, reason in self.reasons_rows())
        head = ("What cannot be chosen beside the rest, marked with ✗ in the lists:" if rows else
                "Everything in the lists can be chosen.")
        return div(f"{head}<ul>{rows}</ul>")

    # --- layout

    def _folds(self):
        """Parts of the panel that a toggle button opens: reached with Tab, opened with Space."""
        save = line(self.path, self.overwrite, self.save_button)
        self._fold({"reasons": ("what cannot be chosen, and why", self.reasons),
                    "knobs": ("knobs", self._fields.expert),
                    "slots": ("more slots", column(*self._more_slots())),
                    "stream": ("size, seed, relatives", column(*(
                        self.controls[n] for n in ("per_shift", "batch", "relatives", "seed")))),
                    "json": ("save the recipe", column(save, self.json_box)),
                    "code": ("code", self.code)})

    @property
    def widget(self):
        """Everything in one box."""
        c = self.controls
        fold = self.folds
        box = self.fold_boxes
        slots = [c[p] for p, (slot, _, _) in self._places.items() if slot in FIRST]
        left = [heading("Model and stream"), c["model"], c["stream"], fold["stream"],
                box["stream"], heading("Composition"), c["start"], *slots, self._fields.simple,
                c["guard"], fold["slots"], box["slots"], fold["knobs"], box["knobs"]]
        views = ("reasons", "json", "code")
        below = [self.judged, line(*(fold[name] for name in views)),
                 *(box[name] for name in views), self.table_box, slider_labels()]
        return self.bench(left, [self.frame], below, [self.report_button],
                          above=[self.runs_table.widget])

    def _more_slots(self) -> list:
        """The lists of slots that are seldom changed."""
        return [self.controls[p] for p, (slot, _, _) in self._places.items() if slot not in FIRST]

    def summary(self):
        return [self.describe(self._ran), self.message, *self.verdict], [self.figure]


def _shown(found: dict) -> dict:
    """What a field shows of each knob."""
    return {name: (k.value, k.default) for name, k in found.items()}


def runs_html(rows: list[dict]) -> str:
    """The runs as a table: error, error in the last third, alarm, cost."""
    if not rows:
        return ""

    def cell(name, value):
        missing = name in ("alarm", "now") and not value
        if missing or isinstance(value, float) and value != value:
            return "none" if name == "alarm" else "-"
        text = signed(value) if name == "minus BN-1" else COLUMNS[name][1].format(value)
        return html.escape(text)

    return table_html([title for title, _ in COLUMNS.values()],
                      [[cell(name, row[name]) for name in COLUMNS] for row in rows])


def save(panel: ComposerPanel, path, guided=(), refused=()) -> None:
    """Write the runs of a panel as JSON (no number: null), with the recipe of the last one (before
    any: that of the slots) and the versions they were made with; and those of the notebook's guided
    compositions (`compose.study.run_guided`) and of what was `compose.study.refused`."""
    recipe = panel.to_json() if panel._ran is None else to_json(panel._ran.recipe)
    guided = [{name: found[name] for name in ("words", "rows", "verdict")} for found in guided]
    write_numbers(path, {"runs": panel._rows, "verdict": panel.verdict, "recipe": recipe,
                         "message": panel.message, "guided": guided, "refused": refused})
