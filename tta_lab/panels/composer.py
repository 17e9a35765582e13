"""The composer: choose what stands in every slot of a method, see what cannot go together and why, run it beside its nearest published relatives.

Whatever the panel does, the functions of `compose` and `compose_study` do without it; ``to_code()`` says how.
"""
from __future__ import annotations

import base64
import html
import threading
import time
from dataclasses import replace
from pathlib import Path

from .. import plots
from ..components.controllers.guard import Guard
from ..core.arguments import flag, nearest, path_of
from ..core.files import write_text
from ..core.named import model_of, recipe_of
from ..core.parts import Method
from ..experiments import compose as C
from ..experiments.experiment import Experiment, Session, model_key, needs
from ..methods import METHODS, make
from ..methods.composed import Nothing
from ..methods.serialise import from_json, to_json
from ..models.embedded import checkpoints
from ..models.names import parse, refuse_code
from ..studies.compose import study as S
from ..studies.compose.figures import plot_composer_runs
from ..studies.report import signed, write_numbers
from .explorer import GIVEN, IMAGES, USUAL, knob_widget
from .run_panel import RunPanel, another, guarded, own_keys

WIDTH, HEIGHT, INCHES = 820, 320, (10.5, 4.2)
PAUSE = 1.0      # seconds between two drawings while a run goes on
SECOND = {"select 1": "learn from", "select 2": "and of these", "select 3": "and of these", "penalties 1": "extra term", "penalties 2": "extra term"}
TIPS = {"norm": "whose statistics the normalisation layers use", "train": "which parameters a step may move", "objective": "what is minimised",
        "select": "which images are learned from", "penalties": "a term that is added to the objective", "update": "how a step is taken",
        "settle": "what happens to the weights after a step", "teacher": "whom objective or output may ask", "reply": "what is returned",
        "controllers": "when everything goes back to the source", "cadence": "what a step looks at"}
LEFT = ("norm", "train", "objective", "teacher", "reply", "cadence")
FEW = 4          # ways out of an impossible composition that are pointed at in one list
NO, YES = "✗ {} (not with these)", "→ {} (would make it possible)"


def composer(recipe: Method | str | None = None, *, start: str = "tent", model=None, stream=None, source_images=None, per_shift: int = 100,
             batch: int = 25, relatives: int = 2, guard: bool = False, interactive: bool = True, device="auto", seed: int = 0,
             trust: bool = False, images=None, shifts=S.SHIFTS) -> ComposerPanel:
    """The composer with its first settings.

    ``recipe``: a composition or a method, its name or its JSON; else the slots of the method ``start``. ``model``: a network of your own, or a text
    for `model_texts.open_model` (one that runs a Python file only with ``trust``); ``stream``: a name of `compose_study.STREAMS`, or a stream of
    your own; ``images`` (a set or its text) and ``shifts`` for the former; ``per_shift`` images of each shift in batches of ``batch``;
    ``relatives``: how many of the nearest published methods are run beside it, 0 to 4; ``source_images`` for parts that need something of the
    source domain. ``interactive`` False returns a panel that has run once, in the caller's thread and with every callback fired
    from Python, and that shows a plain figure. Raises ValueError or TypeError for what does not exist.
    """
    if recipe is None:
        if start not in METHODS:
            raise ValueError(f"there is no method {start!r} to start from; there are: {', '.join(METHODS)}{nearest(start, METHODS)}")
        recipe = make(start)
    recipe = from_json(recipe) if isinstance(recipe, str) and recipe.lstrip().startswith("{") else recipe_of(recipe)
    trust = flag("trust", trust)
    panel = ComposerPanel(recipe, model, stream, source_images, {"per_shift": per_shift, "batch": batch, "relatives": relatives, "guard": guard,
                          "trust": trust, "images": images, "shifts": shifts},
                          interactive, device, seed)
    if not interactive:
        panel.fire()
    return panel


class ComposerPanel(RunPanel):
    """What ``composer`` makes.

    ``recipe`` is what the slots say (None while they make none; then ``refusal`` says why), ``slots`` the slots themselves, ``marks`` what cannot be
    chosen next (place -> key -> reason). Of the last run: ``traces`` (name -> Trace, "composition" first), ``table`` (its rows) and ``verdict``
    (sentences); ``results`` is a pandas frame of all runs so far. ``error`` is the exception that ended the last run, or None.
    """

    def __init__(self, recipe, model, stream, source_images, first: dict, interactive: bool, device, seed: int):
        import ipywidgets as W

        self.device, self._source_images, self._known_set, self._shifts = device, source_images, first["images"], tuple(first["shifts"])
        self._busy, self._lock = True, threading.RLock()
        self._fast = not interactive  # no marks while every callback is fired
        self._made = {}                # of source images, for rehearsals
        self._known, self._remembered, self._asked, self._images = {}, {}, {}, {}
        self._brought, self._ran, self._streams = False, None, {}
        self.slots, self._guard, self.marks, self.refusal, self.choice = {}, Guard(), {}, "", None
        self.session, self.traces, self.table, self.verdict, self._rows, self.number = None, {}, [], [], [], 0
        self._lights, self._drawn, self._cost, self._turn = S.Lights(), 0.0, 0.0, 0
        self._places = {place: (slot, seat, keys) for place, slot, seat, keys in C.places()}
        controls = self._pickers(W, model, stream, first, seed)
        super().__init__(controls, interactive, "Run the composition beside source, BN-1 and its nearest relatives", 110, 395)
        self.guard_box = controls["guard"]
        self.knobs, self._knob_of, self._simple, self._expert = {}, {}, W.VBox(), W.VBox()
        self.reasons, self.table_box, self.judged, self.code, self.json_box = (W.HTML() for _ in range(5))
        self.frame, self.figure, self.drawn = W.HTML(), None, {}
        self.path = W.Text(value="composition.json", description="file", tooltip="where the recipe is saved, beside the notebook",
                           continuous_update=False, style={"description_width": "40px"})
        self.overwrite = W.Checkbox(value=False, description="overwrite", indent=False, layout={"width": "110px"},
                                    tooltip="write over the file of this name, whatever is in it")
        self._saved: dict[Path, bytes] = {}
        self.save_button = W.Button(description="Save recipe", tooltip="Write the recipe as JSON; composer(recipe=text) opens it again")
        self.save_button.on_click(self._on_save)
        self._folds(W)
        self._take(recipe)
        if first["guard"]:
            self.guard_box.value = True
        self._busy = False
        self._settle()
        self._draw()
        self._say("Nothing has run yet: choose, then press Run.")

    # --- what can be chosen

    def _pickers(self, W, model, stream, first, seed) -> dict:
        own = model is not None and model not in checkpoints()
        if own and isinstance(model, str):
            try:
                parse(model)
            except ValueError as why:
                near = nearest(model, checkpoints())
                raise ValueError(f"there is no embedded model {model!r}{near}; there are: {', '.join(checkpoints())}; a network of your own is "
                                 f"passed as it is, or as a text: {why}") from why
            refuse_code(model, first["trust"])
        elif own:
            model_of(model)
        self._model, self._stream = model if own else None, None if stream is None or isinstance(stream, str) else stream
        if isinstance(stream, str) and stream not in S.STREAMS:
            raise ValueError(f"there is no stream {stream!r}; there are: {', '.join(S.STREAMS)}{nearest(stream, S.STREAMS)}")
        families = dict.fromkeys(kind.family for kind in METHODS.values())
        methods = [(f"{name}  ({family})", name) for family in families for name, kind in METHODS.items() if kind.family == family]
        made = {
            "model": W.Dropdown(options=[("your model", GIVEN)] * own + [(n, n) for n in checkpoints()],
                                value=GIVEN if own else model or "fashion_resnet_bn", description="model",
                                tooltip="the source model that is adapted"),
            "stream": W.Dropdown(options=[("as given", GIVEN)] * (self._stream is not None) + [(n, n) for n in S.STREAMS],
                                 value=GIVEN if self._stream is not None else stream or next(iter(S.STREAMS)), description="stream",
                                 tooltip="which images come when"),
            "per_shift": W.IntSlider(value=first["per_shift"], min=min(20, first["per_shift"]), max=1000, step=10, description="images a shift", continuous_update=False,
                                     tooltip="images of each of the four shifts"),
            "batch": W.IntSlider(value=first["batch"], min=1, max=200, description="batch", continuous_update=False, tooltip="images in a batch"),
            "relatives": W.IntSlider(value=first["relatives"], min=0, max=4, description="relatives", continuous_update=False,
                                     tooltip="how many of the nearest published methods are run beside the composition"),
            "seed": W.BoundedIntText(value=seed, min=0, max=10**6, description="seed", tooltip="of the stream and of the method"),
            "start": W.Dropdown(options=[("a composition of your own", ""), *methods], value="", description="start from",
                                tooltip="put the parts of a published method into the slots")}
        for place, (slot, _, keys) in self._places.items():
            made[place] = W.Dropdown(options=[(self._option(slot, key), key) for key in keys], description=SECOND.get(place, C.SLOTS[slot]),
                                     tooltip=TIPS[slot])
        made["guard"] = W.Checkbox(value=False, description="guard: act on alarms, choose who answers", indent=False,
                                   tooltip="go back and slow down at an alarm; let source or BN-1 answer where they seem better")
        return made

    def _option(self, slot: str, key: str) -> str:
        if not key:
            return "its own" if slot in C.TOGETHER else "all images" if slot == "select" else "none"
        part = C.KINDS[slot].get(key)
        return C.label(part) if part is not None else f"{key}, whole" if key in C.WHOLE else key

    def _take(self, recipe: Method) -> None:
        """Put a recipe into the slots."""
        slots = C.decompose(recipe)
        guards = [c for c in slots["controllers"] if isinstance(c, Guard)]
        self.slots = slots | {"controllers": tuple(c for c in slots["controllers"] if not isinstance(c, Guard))}
        if guards:
            self._guard, self.guard_box.value, self._brought = guards[0], True, True
        elif self._brought:  # the guard came with the recipe that was here before
            self._guard, self.guard_box.value, self._brought = Guard(), False, False
        self._remembered = {}  # of parts that were exchanged for others in what was here before

    def _key(self, place: str) -> str:
        """What the slots hold at this place, as a key."""
        slot, seat, _ = self._places[place]
        value = self.slots[slot]
        if slot in C.SEATS:
            return type(value[seat]).__name__ if seat < len(value) else ""
        return C.name_of(value) if isinstance(value, Method) else "" if value is None else type(value).__name__

    def _full(self) -> dict:
        return self.slots | {"controllers": (*self.slots["controllers"], *([self._guard] if self.guard_box.value else []))}

    def _base(self) -> Experiment:
        """Model, stream and seed of the controls, with the source as recipe. Raises ValueError when they make no stream."""
        c, seed = {name: w.value for name, w in self.controls.items()}, int(self.controls["seed"].value)
        known, unknown, source = IMAGES.get(c["model"], USUAL)
        own = c["model"] == GIVEN
        known = known if self._known_set is None else self._known_set
        stream = self._stream if c["stream"] == GIVEN else S.stream_of(c["stream"], c["per_shift"], c["batch"], seed, self._shifts, known, unknown)
        source = self._source_images if self._source_images is not None else None if own else source
        return Experiment(self._model if own else c["model"], stream, make("source"), seed, source)

    @property
    def recipe(self) -> Method | None:
        """What the slots say, or None while they make no recipe."""
        return None if self.choice is None else self.choice.recipe

    def _asked_about(self, base: Experiment) -> tuple:
        """The images of a rehearsal, and the answers known so far, for this model and stream."""
        key = model_key(base), base.stream.hash
        if key not in self._images:
            self._images[key], self._asked[key] = C.rehearsal(base), {"made": self._made}
        return self._images[key], self._asked[key]

    def _settle(self) -> None:
        """Read the controls: what they make, or why they make nothing; then look what cannot be chosen next."""
        try:
            base = self._base()
            self.choice = replace(base, recipe=C.assemble(self._full()))
            images, known = self._asked_about(base)
            text = repr(self.choice.recipe)
            if text not in known:
                known[text] = C.incompatibility(self._full(), base, images, self._made)
            self.refusal = known[text]
        except (ValueError, TypeError) as why:
            self.choice, self.refusal = None, str(why)
        found = None if self.recipe is None else C.recognise(self.recipe)
        self._recognised = found[0].split(" ")[0] if found is not None and not found[1] else ""
        self.marks, self._turn = {}, self._turn + 1
        self._sync()
        self._set_knobs()
        self._describe()
        if self._fast:
            return
        if self.interactive:  # some seconds: whoever goes on choosing does not wait for it
            threading.Thread(target=self._mark, args=(self._turn,), name="composer marks").start()  # waited for at the end: a step must not be cut
        else:
            self._mark(self._turn)

    @guarded
    def _mark(self, turn: int) -> None:
        """Find what cannot be chosen next, and write it into the lists; given up when something else was chosen meanwhile."""
        try:
            base = self._base()
        except ValueError:
            return  # no stream: nothing to try anything on
        images, known = self._asked_about(base)
        found = C.marks(self.slots, base, images, known, lambda: turn != self._turn or not threading.main_thread().is_alive())
        with self._lock:
            if turn == self._turn:
                self.marks = found
                self._sync()
                self.reasons.value = self._reasons_html()

    def _sync(self) -> None:
        """The lists show what the slots hold, and which options are impossible; nothing is called back."""
        self._quietly_do(self._sync_lists)

    def _sync_lists(self):
        for place, (slot, _, keys) in self._places.items():
            widget, now, marked = self.controls[place], self._key(place), self.marks.get(place, {})
            keys = [key for key in keys if key or now == "" or slot not in C.TOGETHER] + [now] * (now not in keys)
            few = sum(key not in marked for key in keys) <= FEW
            options = [(self._marked(self._option(slot, key), marked.get(key), few, key == now), key) for key in keys]
            if tuple(options) != tuple(widget.options) or widget.value != now:
                with widget.hold_sync():
                    widget.options, widget.value = options, now
        self.controls["start"].value = self._recognised
        self._shown()

    def _marked(self, text: str, why: str | None, few: bool, now: bool) -> str:
        """An option as the list shows it: what is impossible says so; where nothing goes yet, what would make it go."""
        if now or not self.marks:
            return text
        if self.refusal and why is None:
            return YES.format(text) if few else text
        return NO.format(text) if why is not None and why not in self.refusal else text

    def _shown(self):
        """A further seat appears when the one before is taken."""
        for place, (slot, seat, _) in self._places.items():
            self.controls[place].layout.display = None if slot not in C.SEATS or seat <= len(self.slots[slot]) else "none"
        single = self.controls["stream"].value == "one image at a time" or self.controls["stream"].value == GIVEN
        self.controls["batch"].layout.display = "none" if single else None

    def _quietly_do(self, work):
        with self._lock:
            before, self._busy = self._busy, True
            try:
                work()
            finally:
                self._busy = before

    # --- callbacks

    @guarded
    def _on_change(self, change=None):
        with self._lock:
            if self._busy or change is None:
                return
            owner = next(name for name, widget in self.controls.items() if widget is change["owner"])
            if owner in self._places:
                self._choose(owner, change["new"])
            if owner == "guard":
                self._brought = False
            if owner == "start" and change["new"]:
                self._quietly_do(lambda: self._take(make(change["new"])))
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

    @guarded
    def _on_knob(self, change=None):
        with self._lock:
            if self._busy:
                return
            name = next(n for n, widget in self.knobs.items() if widget is change["owner"])
            k, value = self._knob_of[name], change["new"]
            if isinstance(value, float):
                value = int(value) if isinstance(k.default, int) else float(f"{value:.3g}")
            self.slots = C.set_knob(self.slots, name, value)
            self._settle()

    @guarded
    def _on_save(self, button=None):
        try:
            self._say(f"Saved as {self.save(self.path.value, self.overwrite.value)}.")
        except (FileExistsError, ValueError) as why:
            self._say(f"Not saved: {why}.")
            return
        self.overwrite.value = False  # ticked for one file

    def fire(self) -> None:
        """Every callback once, and one run in the caller's thread."""
        start, guard = self.slots, self.guard_box.value
        for name, widget in self.controls.items():
            before, widget.value = widget.value, another(widget)
            if name in self._places or name == "start":
                self.slots = start
            else:
                widget.value = before
            self._settle()
        assert self.slots == start and self.guard_box.value == guard
        for widget in list(self.knobs.values())[:2]:
            before, widget.value = widget.value, another(widget)
            widget.value = before
        self.slots, self._fast = start, False
        self._settle()
        for fold in self.folds.values():
            fold.value = True
        self.run_button.click()

    # --- knobs

    def _set_knobs(self) -> None:
        """Sliders for the knobs of what is chosen; the step size is always in sight."""
        found = C.slot_knobs(self.slots)
        if {n: (k.value, k.default) for n, k in found.items()} == {n: (k.value, k.default) for n, k in self._knob_of.items()}:
            return
        if list(found) == list(self.knobs) and [self._knob_label(n) for n in found] == [w.description for w in self.knobs.values()]:
            self._knob_of = found
            for name, k in found.items():
                if self.knobs[name].value != k.value:
                    self._quietly_do(lambda name=name, k=k: setattr(self.knobs[name], "value", k.value))
            return
        for widget in self.knobs.values():
            widget.unobserve_all("value")
        self.knobs, self._knob_of, simple, expert = {}, found, [], []
        for name, k in found.items():
            widget = knob_widget(k, self._knob_label(name))
            widget.observe(self._on_knob, "value")
            shown = name == "update.lr" and not isinstance(self.slots["objective"], Nothing)
            widget.style.description_width, widget.layout.width = "110px" if shown else "210px", "395px"
            self.knobs[name] = widget
            (simple if shown else expert).append(widget)
        self._simple.children, self._expert.children = simple, expert

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
        if self.choice is None or self.refusal:
            return f"Nothing was run, because this composition is impossible: {C.on_screen(self.refusal)}"
        return ""

    def _of_run(self):
        return [self.frame, self.table_box, self.judged]

    def _begin(self):
        if self._ran is not None:
            self._age()
        self.session, self.traces, self.table, self.verdict, self._lights, self._drawn = None, {}, [], [], S.Lights(), 0.0
        self.number += 1
        return self.choice, self.controls["relatives"].value, self.title()

    def title(self) -> tuple[str, str]:
        """What the controls say beside the slots: the model and the stream, which no other stream shares its name with."""
        c, choice = {name: widget.value for name, widget in self.controls.items()}, self.choice
        if choice.stream.hash not in self._streams:
            single = c["stream"] in ("one image at a time", GIVEN)
            usual = () if c["stream"] == GIVEN else (f"{c['per_shift']} a shift", *([] if single else [f"batches of {c['batch']}"]),
                                                     *([f"seed {c['seed']}"] if c["seed"] else []))
            label = ", ".join(["your stream" if c["stream"] == GIVEN else c["stream"], *usual])
            taken = label in self._streams.values()
            self._streams[choice.stream.hash] = f"{label} ({choice.stream.hash[:6]})" if taken else label
        model = c["model"] if c["model"] != GIVEN else choice.model if isinstance(choice.model, str) else "your model"
        return model, self._streams[choice.stream.hash]

    def _run(self, choice, n, title):
        self._ran, where = choice, f"on {', '.join(title)}"
        self.session = session = Session(choice, S.beside(choice, n), device=self.device, known=self._known)
        self.progress.max, self.progress.value = session.total, 0
        try:
            while not self._stop.is_set() and session.advance():
                self.progress.value = session.done
                if time.monotonic() - self._drawn > max(PAUSE, 4 * self._cost):
                    self._say(f"Running the composition {where}, beside {', '.join(session.traces.keys() - {'choice'})}: batch {session.done} of "
                              f"{session.total}.{self._stopping}")
                    self._look()
        finally:
            if session.done:
                self._look()
        if not session.done:
            self._say("Stopped before the first batch: there is nothing to show.")
            return
        self.verdict = S.verdict(self.traces)
        self._rows += [{"number": self.number, **row, "recipe": to_json(choice.recipe) if row["run"] == "composition" else row["run"],
                        "model": title[0], "stream": title[1], "seed": choice.seed, "stream_hash": choice.stream.hash,
                        "complete": session.finished} for row in self.table]
        self.judged.value = self._text(" ".join(self.verdict))
        self._describe()
        head = "Done." if session.finished else f"Stopped after batch {session.done} of {session.total}."
        refused = "".join(f" {name} was not run: {why}" for name, why in session.refused.items())
        self._say(f"{head} {S.say_rows(self.table)}{refused} This was {where}.")

    def _look(self):
        """Draw what the session has so far."""
        traces, n = S.named(self.session.traces), len(self.session.traces["choice"])
        self.traces = {name: trace.head(n) for name, trace in traces.items()}
        self._lights.see(self.traces)
        self.table = S.table(self.traces, self._lights)
        self._draw()

    def _draw(self):
        started = time.monotonic()
        self.drawn = {"so_far": S.E.so_far(self.traces), "collapse": S.collapse_of(self.traces, self._lights)}
        self.table_box.value = table_html(self.table)
        if self.interactive:
            figure = plot_composer_runs(self.drawn, "matplotlib")
            plots.fit(figure, *INCHES)
            content = base64.b64encode(plots.png(figure)).decode()
            self.frame.value = (f'<img alt="{html.escape(self._alt())}" style="width: {WIDTH}px; max-width: 100%" '
                                f'src="data:image/png;base64,{content}">')
        else:
            self.figure = plots.fit(plot_composer_runs(self.drawn, "plotly"), WIDTH, HEIGHT)
        self._drawn = time.monotonic()
        self._cost = self._drawn - started

    def _alt(self) -> str:
        last = ", ".join(f"{run} {value:.1f}" for run, value in self.drawn["so_far"]["last"].items())
        return f"{self.drawn['so_far']['what']}: {last}" if last else "No run yet."

    # --- reading back

    @property
    def results(self):
        """A row for each run and each of its references, as a pandas frame."""
        import pandas
        return pandas.DataFrame(self._rows)

    def to_json(self) -> str:
        """The recipe as JSON; ``composer(recipe=text)`` opens it again. Raises ValueError while the slots make none."""
        if self.recipe is None:
            raise ValueError(f"there is no recipe to write down: {self.refusal}")
        return to_json(self.recipe)

    def to_code(self) -> str:
        """A cell that makes the run without the panel: the last one as far as it went, if nothing was changed since, else what the slots say."""
        if self.choice is None or self.refusal:
            return f"# no run: {C.on_screen(self.refusal)}"
        if self._shown_run():
            return C.to_code(self.session.shown(), [name for name in self.session.traces if name != "choice"])
        return C.to_code(self.choice, [])

    def _shown_run(self) -> bool:
        """Whether the last run is what the slots say."""
        session, now = self.session, self.choice
        if session is None or now is None or not session.done:
            return False
        ran = session.choice
        same = (ran.recipe, ran.stream.hash, ran.seed) == (now.recipe, now.stream.hash, now.seed)
        return same and (ran.model is now.model or isinstance(ran.model, str) and ran.model == now.model)

    def save(self, path, overwrite: bool = False) -> Path:
        """Write the recipe as JSON (".json" is put behind a name without an ending). A file that is there is not written over, unless ``overwrite``
        or this panel has saved it and nobody has changed it since. Raises ValueError while the slots make no recipe and for another ending,
        FileExistsError, OSError where the file cannot be written."""
        path, text = path_of("path", path), self.to_json() + "\n"
        path = (path.with_name(path.name + ".json") if not path.suffix else path).resolve()
        if path.suffix.lower() != ".json":
            raise ValueError(f"a recipe is saved as .json, not as {path.suffix}: call it {path.with_suffix('.json').name}")
        if path.is_dir():
            raise ValueError(f"{path} is a folder: give the name of a file in it, such as {path / 'composition.json'}")
        if path.exists() and not overwrite and self._saved.get(path) != path.read_bytes():
            raise FileExistsError(f"{path} is there already and was not saved by this panel (or was changed since), so it is left as it is: choose "
                                  "another name, or tick 'overwrite'")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {path.parent}: make it, or choose another place")
        write_text(path, text)
        self._saved[path] = text.encode()
        return path

    # --- words

    def in_words(self) -> str:
        """What is composed, whether it is known, and what its nearest relatives differ in."""
        return " ".join(self._sentences())

    def _sentences(self, choice: Experiment | None = None) -> list[str]:
        choice = choice or self.choice
        if choice is None:
            return []
        recipe = choice.recipe
        return [C.say_recipe(recipe), C.say_known(recipe), C.say_relatives(C.relatives(recipe, 2)),
                " ".join([needs(recipe), *C.notes(recipe, choice)])]

    def _describe(self):
        why = f"<p><b>Impossible:</b> {html.escape(C.on_screen(self.refusal))}</p>" if self.refusal else ""
        said = "".join(f'<p style="margin: 2px 0; font-weight: {"bold" if i == 1 else "normal"}">{html.escape(part)}</p>'
                       for i, part in enumerate(self._sentences()))
        self.words.value = f'<div style="line-height: 1.4; max-width: {WIDTH}px">{why}{said}</div>'
        code = self.to_code()
        what = "this run" if self._shown_run() else "the run that is chosen"
        self.code.value = self._text_block(f"A cell that makes {what} without the panel:", code)
        self.json_box.value = self._text_block("The recipe as JSON:", "" if self.recipe is None else self.to_json())
        self.reasons.value = self._reasons_html()

    def reasons_rows(self) -> list[tuple[str, str]]:
        """(options, why): what cannot be chosen beside the rest, options with the same reason together."""
        rows: dict[str, list] = {}
        for place, marked in self.marks.items():
            slot, seat, _ = self._places[place]
            for key, why in marked.items():
                if why not in self.refusal and (key or slot not in C.TOGETHER):
                    rows.setdefault(why := C.on_screen(why), [])
                    name = f"{SECOND.get(place, C.SLOTS[slot])}: {self._option(slot, key)}"
                    if name not in rows[why] and not any(name.split(": ")[1] == n.split(": ")[1] for n in rows[why]):
                        rows[why].append(name)
        return [("; ".join(names), why) for why, names in rows.items()]

    def _reasons_html(self) -> str:
        rows = "".join(f"<li><b>{html.escape(names)}</b>: {html.escape(why)}</li>" for names, why in self.reasons_rows())
        head = "What cannot be chosen beside the rest, marked with ✗ in the lists:" if rows else "Everything in the lists can be chosen."
        return f'<div style="line-height: 1.4; max-width: {WIDTH}px">{head}<ul>{rows}</ul></div>'

    def _text(self, text: str) -> str:
        return f'<div style="line-height: 1.4; max-width: {WIDTH}px">{html.escape(text)}</div>'

    def _text_block(self, head: str, text: str) -> str:
        return (f'<div style="max-width: {WIDTH}px"><p>{html.escape(head)}</p>'
                f'<pre style="white-space: pre-wrap; overflow-wrap: anywhere">{html.escape(text)}</pre></div>')

    # --- layout

    def _folds(self, W):
        """Parts of the panel that a toggle button opens: reached with Tab, opened with Space."""
        save = W.HBox([self.path, self.overwrite, self.save_button], layout={"flex_flow": "row wrap"})
        inside = {"reasons": ("what cannot be chosen, and why", self.reasons), "knobs": ("knobs", self._expert),
                  "json": ("save the recipe", W.VBox([save, self.json_box])), "code": ("code", self.code)}
        self._fold(inside)

    @property
    def widget(self):
        """Everything in one box."""
        import ipywidgets as W

        c, wrap, fold, box = self.controls, {"flex_flow": "row wrap", "align_items": "flex-start"}, self.folds, self._fold_boxes
        top = W.HBox([W.VBox([c["model"], c["stream"], c["per_shift"]]), W.VBox([c["batch"], c["seed"], c["relatives"]])], layout=wrap)
        left = W.VBox([c[place] for place in self._places if self._places[place][0] in LEFT])
        right = W.VBox([*(c[place] for place in self._places if self._places[place][0] not in LEFT), c["guard"], self._simple])
        return W.VBox([top, c["start"], W.HBox([left, right], layout=wrap), self.words,
                       W.HBox([fold["reasons"], fold["knobs"]], layout=wrap), box["reasons"], box["knobs"],
                       W.HBox([self.run_button, self.stop_button], layout=wrap), self.progress, self.status, self.frame, self.table_box, self.judged,
                       W.HBox([fold["json"], fold["code"]], layout=wrap), box["json"], box["code"], own_keys()])

    def told(self):
        words = self.in_words() if self._ran is None else " ".join(self._sentences(self._ran))
        return [words, self.message, *self.verdict], [self.figure]


def table_html(rows: list[dict]) -> str:
    """The runs as a table: error, error in the last third, alarm, cost."""
    if not rows:
        return ""
    shown = {"run": ("run", "{}"), "error": ("error (%)", "{:.1f}"), "last third": ("last third (%)", "{:.1f}"),
             "minus BN-1": ("minus BN-1", "{:+.1f}"), "alarm": ("first alarm", "batch {}"), "now": ("alarm now", "{}"),
             "learned from": ("learned from (%)", "{:.0f}"),
             "forwards": ("forwards", "{:.1f}"), "backwards": ("backwards", "{:.1f}"), "ms": ("ms an image", "{:.1f}")}

    def cell(name, value):
        if name in ("alarm", "now") and not value or isinstance(value, float) and value != value:
            return "none" if name == "alarm" else "-"
        return html.escape(signed(value) if name == "minus BN-1" else shown[name][1].format(value))

    style = 'style="padding: 1px 8px; text-align: right"'
    head = "".join(f'<th scope="col" {style}>{title}</th>' for title, _ in shown.values())
    body = "".join("<tr>" + "".join(f"<td {style}>{cell(name, line[name])}</td>" for name in shown) + "</tr>" for line in rows)
    return f'<div style="overflow-x: auto; max-width: {WIDTH}px"><table style="line-height: 1.4"><tr>{head}</tr>{body}</table></div>'


def save(panel: ComposerPanel, path, guided=(), refused=()) -> None:
    """Write the runs of a panel as JSON (no number: null), with the recipe of the last one (before any: that of the slots) and the versions they
    were made with; and those of the notebook's guided
    compositions (`compose_study.run_guided`) and of what was `compose_study.refused`."""
    recipe = panel.to_json() if panel._ran is None else to_json(panel._ran.recipe)
    write_numbers(path, {"runs": panel._rows, "verdict": panel.verdict, "recipe": recipe, "message": panel.message,
                         "guided": [{"words": g["words"], "rows": g["rows"], "verdict": g["verdict"]} for g in guided], "refused": refused})
