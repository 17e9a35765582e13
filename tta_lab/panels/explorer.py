"""The explorer: choose model, stream, method, selectors and guard, watch the run, step through it, compare it, take it away as code.

Whatever the panel does, `explore.Session` and the functions of `explorer_numbers` do without it; ``to_code()`` and ``to_parameters()`` say how.
"""
from __future__ import annotations

import base64
import html
import json
import time
from dataclasses import replace

import numpy as np

from .. import plots
from ..analysis import timelines as views
from ..components.controllers import collapse_detector as E_collapse_detector
from ..components.controllers.collapse_detector import CollapseDetector
from ..components.controllers.guard import Guard, actions, guarded
from ..components.selectors import FORMERLY, SELECTORS
from ..core.arguments import WrongKind, flag, nearest, whole
from ..core.knob_text import hint
from ..core.knobs import Knob, followers, knobs, with_knobs
from ..core.named import model_of, recipe_of
from ..core.parts import LossMethod
from ..core.trace import Trace
from ..data.embedded import EMBEDDED
from ..data.load import images_of, load
from ..experiments.experiment import REFERENCES, SOURCE_IMAGES, Experiment, Session, incompatibilities, model_key, needs
from ..experiments.runner import row
from ..methods import METHODS, make
from ..methods.serialise import to_json
from ..models.embedded import checkpoints
from ..models.names import parse, refuse_code
from ..plots import FONT
from ..streams import protocols
from ..streams.stream import AbstractStream
from ..studies.explorer import study as E
from ..studies.explorer.figures import FIGURES
from ..studies.report import write_numbers
from ..studies.streams.study import first_sentence, say_statistics
from .controls import control
from .run_panel import RunPanel, another, own_keys
from .run_panel import guarded as caught
from .stream_panel import FIRST, SHIFTS, ByHand, applies, protocol_call, some_shifts, stream_knobs, stream_label, three_digits

WIDTH = 820      # beside JupyterLab's file list on a screen of 1280 x 720
PAUSE = 1.0      # seconds between two drawings while a run goes on
GIVEN = "given"  # the option that stands for what was passed in
IMAGES = {"fashion8_resnet_bn": ("fashion_mnist_8", "fashion_mnist_held_out", "fashion_mnist_train_slice_8")}  # known, unknown, source
USUAL = ("fashion_mnist", "digits", SOURCE_IMAGES)
SIMPLE_STREAM = ("protocol", "severity", "per_shift", "batch")
PLUMBING = ("average", "when_empty", "answer")  # own knobs of every method that learns; shown among the expert ones
COLOURS = {"wait": "#777777", "unsure": "#777777", "calm": "#009E73", "watch": "#E69F00", "alarm": "#D55E00"}
HEIGHTS = {"errors": 300, "predictions": 300, "images": 0, "probabilities": 260, "threshold": 260}  # of plotly figures, pixels
INCHES = {"errors": (10.5, 4.0), "predictions": (10.5, 4.0), "probabilities": (8, 3.6), "threshold": (8, 3.6)}  # of pictures
FAST = {"per_shift": 100, "batch": 25}
FULL = {"per_shift": 200, "batch": 50, "shifts": SHIFTS[:15]}


def explorer(choice: Experiment | str | None = None, *, model=None, stream=None, images=None, unknown=None, source_images=None, interactive: bool = True,
             device="auto", seed: int = 0, trust: bool = False, **settings) -> ExplorerPanel:
    """The explorer with its first settings.

    ``choice`` (an `Experiment` or its JSON) sets everything at once. Else ``model``: the name of an embedded one, a text for `model_texts.open_model`
    ("checkpoint:PATH", "torchvision:resnet50"), or a network of your own; ``stream``: a stream of your own, or None to choose a protocol;
    ``images``, ``unknown``, ``source_images``: image sets (or names, "folder:PATH") for the protocols, for the unknown images and for methods that
    need something of the source domain. Labels of -1 are allowed: then agreement with source and BN-1 takes the place of the error.
    ``settings`` are first values by name: protocol, severity, per_shift, batch, shifts, rounds, ...; method, form, selectors (up to two names),
    guard; and knobs of the method (lr=1e-3). ``method`` may also be a recipe. A model's text that names a Python file ("python:FILE.py:NAME",
    ``architecture=FILE.py:NAME``) runs that file, and is refused unless ``trust`` says that you trust it. ``interactive`` False returns a panel
    that has run once, in the caller's thread and with every
    callback fired from Python, and that shows plain figures. Raises ValueError for a setting or a value that does not exist, naming the nearest,
    TypeError (a ValueError too) for an object of another kind.
    """
    trust, seed = flag("trust", trust), whole("seed", seed, 0, 10**6)
    if isinstance(choice, str):
        choice = Experiment.from_json(choice)
    if choice is not None:
        given = {"model": choice.model, "stream": choice.stream, "recipe": choice.recipe, "source_images": choice.source_images}
        seed = choice.seed
    else:
        given = {"model": model, "stream": stream, "images": images, "unknown": unknown, "source_images": source_images}
        if not isinstance(settings.get("method", ""), str):
            given["recipe"] = recipe_of(settings.pop("method"), "method")
        elif "method" in settings and settings["method"] not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, not {settings['method']!r}{nearest(settings['method'], METHODS)}")
    _check_given(given, trust)
    panel = ExplorerPanel(given, interactive, device, seed, settings)
    if not interactive:
        panel.fire()
    return panel


def _check_given(given: dict, trust: bool) -> None:
    """What was handed over for the explorer: texts that name something, or objects of the right kind."""
    model = given.get("model")
    if isinstance(model, str):
        try:
            parse(model)
        except ValueError as why:
            raise ValueError(f"there is no embedded model {model!r}{nearest(model, checkpoints())}; there are: {', '.join(checkpoints())}; a network "
                             f"of your own is passed as it is, or as a text: {why}") from why
        refuse_code(model, trust)
    elif model is not None:
        model_of(model)
    for name in ("images", "unknown", "source_images"):
        if given.get(name) is not None:
            try:
                images_of(given[name], name)
            except ValueError as why:
                near = nearest(given[name], EMBEDDED) if isinstance(given[name], str) and ":" not in given[name] else ""
                raise type(why)(f"{name}: {why}{near}") from why
    stream = given.get("stream")
    if stream is not None and not isinstance(stream, AbstractStream):
        said = f"a text; choose a protocol by its name, protocol={stream!r}" if isinstance(stream, str) else f"a {type(stream).__name__}"
        raise WrongKind(f"stream must be a stream, such as protocols.continual(images), not {said}")


class ExplorerPanel(RunPanel):
    """What ``explorer`` makes.

    ``choice`` is what the controls say (None while they make no run; then ``refusal`` says why), ``state`` the same as a dict. Of the run shown:
    ``trace``, ``references`` (name -> Trace), ``session``, ``ran`` (its Experiment). ``results`` is a pandas frame with one row for each run so far,
    ``comparison`` the last one with A and ``compared_words`` what it says. ``drawn`` holds the numbers of each figure,
    ``figures`` the plotly figures of a panel without a browser. ``error`` is the exception that ended the last run, or None.
    """

    def __init__(self, given: dict, interactive: bool, device, seed: int, settings: dict):
        import ipywidgets as W

        self._given, self.device, settings = given, device, dict(settings)
        self._busy, self._values, self._known, self._rows = True, {}, {}, {}
        self.choice = self.ran = self.session = self.trace = self.kept = None
        self._method, self._forms, self._begun = None, {}, None  # the forms are those set by hand for a method; begun: the choice run last
        self._named: dict = {}  # hash of a stream -> (its name, protocol)
        self.references, self.comparison, self.compared_words, self.refusal, self.number = {}, {}, "", "", 0
        self.light, self.lamp, self._pictures = E.Light(), "wait", {}
        self._drawn, self._cost, self._budget, self._obstacle = 0.0, 0.0, None, {}
        controls = self._pickers(W, settings, seed)
        super().__init__(controls, interactive, "Run the choice beside source and BN-1; a run that was stopped goes on", 130, 395)
        self.knobs, self._knob_of, self._simple, self._expert = {}, {}, W.VBox(), W.VBox()
        self.step_button = W.Button(description="Step", tooltip="Show one more batch, then hold")
        self.reset_button = W.Button(description="Reset", tooltip="Forget the run that is shown and begin anew; settings, A and results stay")
        self.keep_button = W.Button(description="Keep as A", disabled=True, tooltip="Compare the next runs on this stream with the run shown")
        self.paper_button = W.Button(description="Paper defaults", tooltip="Set every knob of the method to the value that it has in its paper")
        for button, on in ((self.step_button, self._on_step), (self.reset_button, self._on_reset), (self.keep_button, self._on_keep),
                           (self.paper_button, self._on_paper)):
            button.on_click(on)
        for button in (self.run_button, self.stop_button, self.step_button, self.reset_button, self.keep_button, self.paper_button):
            button.layout.width = "128px"
        self.lamp_box, self.compared, self.code, self.table, self.details, self.judged, self.sentence, self.chosen = (W.HTML() for _ in range(8))
        self.drawn, self.figures, self.frames = {}, {}, {name: W.HTML() for name in HEIGHTS}
        self.pick = W.Dropdown(options=[("no image yet", -1)], description="image", tooltip="an image of the grid, to see its numbers")
        self.score = W.Dropdown(options=[(name, key) for key, name in E.SCORES.items()], description="score", tooltip="higher means more known")
        self.rejected = W.FloatSlider(value=0.5, min=0, max=1, step=0.01, readout_format=".0%", description="reject", continuous_update=False,
                                      tooltip="share of all images, those with the lowest scores, that are taken for unknown")
        self.pick.observe(self._on_pick, "value")
        for widget in (self.score, self.rejected):
            widget.observe(self._on_threshold, "value")
        for widget in (self.pick, self.score, self.rejected):
            widget.style.description_width, widget.layout.width = "70px", "400px"
        self._folds(W)
        self._busy = False
        self._set_form()
        self._set_knobs(settings)
        if settings:
            raise ValueError(f"the explorer has no setting {next(iter(settings))!r}; it has: {', '.join(self.controls)}, selectors, and the knobs of "
                             f"{self.controls['method'].value}: {', '.join(self.knobs) or '(none)'}")
        self._settle()
        self._clear()
        self._say("Nothing has run yet: press Run, or Step for one batch.")

    # --- what can be chosen

    def _pickers(self, W, settings, seed) -> dict:
        """The controls whose number never changes, by name; ``settings`` loses what is used."""
        given, models = self._given, [(name, name) for name in checkpoints()]
        model = given.get("model")
        own = model is not None and model not in checkpoints()
        base, chosen = None, settings.pop("selectors", ())
        first = {"method": settings.pop("method", "tent"), "form": settings.pop("form", "paper"),
                 "guard": flag("guard", settings.pop("guard", False))}
        chosen = [name.strip() for name in (chosen.split(",") if isinstance(chosen, str) else chosen) if name.strip()]
        if given.get("recipe") is not None:
            found = decomposed(given["recipe"])
            if found is None:
                base, first["method"] = given["recipe"], GIVEN
            else:
                first |= {k: found[k] for k in ("method", "form", "guard")}
                chosen = found["selectors"]
                for name, value in found["values"].items():
                    key, short = _home(name, given["recipe"], found["method"], found["form"])
                    self._values.setdefault(key, {})[short] = value
        self._base = base
        chosen = [FORMERLY.get(name, name) for name in chosen]
        if len(chosen) > 2 or any(name not in SELECTORS for name in chosen):
            near = next((nearest(name, SELECTORS) for name in chosen if name not in SELECTORS), "")
            raise ValueError(f"selectors takes up to two of {', '.join(SELECTORS)}, got {chosen}{near}")
        chosen += [""] * (2 - len(chosen))

        def picker(options, value, label, tooltip):
            if value not in [v for _, v in options]:
                there = [str(v) for _, v in options]
                raise ValueError(f"{label} must be one of {', '.join(there)}, not {value!r}{nearest(value, there)}")
            return W.Dropdown(options=options, value=value, description=label, tooltip=tooltip)

        families = dict.fromkeys(kind.family for kind in METHODS.values())
        methods = [(f"{name}  ({family})", name) for family in families for name, kind in METHODS.items() if kind.family == family]
        if base is not None:
            methods = [(f"as given: {type(base).__name__}", GIVEN), *methods]
        ways = [("all images", ""), *((name.replace("_", " "), name) for name in SELECTORS)]
        forms = [("as in the paper", "paper"), *((f"as in public code: {f}" if f != "reference" else "as in the authors' code", f)
                                                 for f in dict.fromkeys(f for kind in METHODS.values() for f in kind.forms))]
        made = {"model": picker([("your model", GIVEN)] * own + models, GIVEN if own else model or "fashion_resnet_bn", "model",
                                "the source model that is adapted")}
        lr, usual = settings.pop("lr", None), {name: FAST[name] for name in ("per_shift", "batch")}
        by_hand = {name: value for name, value in settings.items() if name not in usual or value != usual[name]}
        fit = self._fit(settings)
        self._hand = ByHand(by_hand | ({"protocol": GIVEN} if given.get("stream") is not None else {}), usual | self._fitted)
        settings |= {name: self._hand.value(name) for name in self._hand.usual if name not in settings}
        made |= {k.name: control(k, label) for k, label in stream_knobs(settings) if k.name != "lr"}
        for name, (low, high) in fit.items():
            made[name].max = max(high, made[name].max)  # never below the value
            made[name].min, made[name].value = low, self._first_images
            made[name].max = high
        if lr is not None:
            settings["lr"] = lr
        if given.get("stream") is not None:
            made["protocol"].options = [("as given", GIVEN), *((name, name) for name in protocols.PROTOCOLS)]
            made["protocol"].value = GIVEN
        made["shifts"] = W.SelectMultiple(
            options=[(name.replace("_", " "), name) for name in SHIFTS], value=some_shifts(settings.pop("shifts", FIRST)), rows=6,
            description="shifts",
            tooltip="corruption types in the order of the list; with Ctrl or Shift several can be chosen")
        made["seed"] = W.BoundedIntText(value=seed, min=0, max=10**6, description="seed", tooltip="of the stream and of the method")
        made |= {"method": picker(methods, first["method"], "method", "what adapts the model; in brackets its family"),
                 "form": picker(forms, first["form"], "form", "where the authors' code differs from their paper"),
                 "first": picker(ways, chosen[0], "learn from", "which images the method may learn from"),
                 "second": picker(ways, chosen[1], "and of these", "a second selector, asked about what the first has left"),
                 "guard": W.Checkbox(value=bool(first["guard"]), description="guard: act on alarms, choose who answers", indent=False,
                                     tooltip=first_sentence(Guard))}
        return made

    def _fit(self, settings: dict) -> dict:
        """The range of ``per_shift`` for images of your own, so that all of them can be shown; a first value beyond it is moved into it."""
        images, self._fitted = self._given.get("images"), {}
        if images is None:
            return {}
        count = len(load(images) if isinstance(images, str) else images)
        low, high = min(10, count), max(count, min(10, count) + 1)
        self._first_images = min(max(whole("per_shift", settings.get("per_shift", FAST["per_shift"])), low), count)
        settings["per_shift"] = min(max(self._first_images, 10), 300)  # what the slider is made with
        self._fitted = {"per_shift": self._first_images}
        return {"per_shift": (low, high)}

    def _sets(self) -> tuple:
        """Known, unknown and source images for the chosen model."""
        usual = IMAGES.get(self.controls["model"].value, USUAL)
        own = self.controls["model"].value == GIVEN
        given = [self._given.get(name) for name in ("images", "unknown", "source_images")]
        known, unknown, source = (usual[i] if value is None else value for i, value in enumerate(given))
        return known, unknown, None if own and given[2] is None else source

    def base(self):
        """The method with selectors and guard, its knobs as in the paper (or as given). Raises ValueError or TypeError where they do not combine."""
        c = {name: self.controls[name].value for name in ("method", "form", "first", "second", "guard")}
        form = c["form"] if c["method"] != GIVEN and c["form"] in METHODS[c["method"]].forms else "paper"
        recipe = self._base if c["method"] == GIVEN else make(c["method"], form=form)
        parts = [SELECTORS[name]() for name in (c["first"], c["second"]) if name]
        recipe = recipe.where(*parts) if parts else recipe
        return guarded(recipe) if c["guard"] else recipe

    def _build(self) -> Experiment:
        """The choice that the controls stand for. Raises ValueError or TypeError when they make none."""
        c, (known, unknown, source) = self.controls, self._sets()
        seed = int(c["seed"].value)
        if c["protocol"].value == GIVEN:
            stream = self._given["stream"]
        else:
            name, arguments = protocol_call({k: w.value for k, w in c.items()}, seed, unknown)
            stream = protocols.PROTOCOLS[name](known, **arguments)
            self._name(stream, name, stream_label(name, arguments, getattr(known, "name", known), getattr(unknown, "name", unknown)))
        recipe = with_knobs(self.base(), **self._knob_values())
        model = self._given["model"] if c["model"].value == GIVEN else c["model"].value
        return Experiment(model, stream, recipe, seed, source)

    def _name(self, stream, protocol: str, label: str) -> None:
        """Remember what a stream is called: two streams never share a name."""
        if stream.hash not in self._named:
            taken = {name for name, _ in self._named.values()}
            self._named[stream.hash] = f"{label} ({stream.hash[:6]})" if label in taken else label, protocol

    def _settle(self) -> None:
        """Read the controls: what they make, or why they make nothing."""
        try:
            self.choice = self._build()
            key = model_key(self.choice), self.choice.stream.hash, to_json(self.base())
            if key not in self._obstacle:
                self._obstacle[key] = " ".join(incompatibilities(self.choice))
            self.refusal = self._obstacle[key]
        except (ValueError, TypeError) as why:
            self.choice, self.refusal = None, str(why)
        self.run_button.description = "Go on" if self._held() else "Run"
        if not self._held() and not self.running and self.session is not None and not self.session.finished:
            self.run_button.description = "Run anew"
        self._describe()

    def _held(self) -> bool:
        """Whether a run that is not finished stands for what the controls say."""
        return (self.session is not None and not self.session.finished and self.choice is not None
                and _signature(self.session.choice) == _signature(self.choice))

    # --- callbacks

    @caught
    def _on_change(self, change=None):
        if self._busy or change is None:
            return
        owner = next(name for name, widget in self.controls.items() if widget is change["owner"])
        self._quietly(lambda: self._hand.follow(self.controls, change))
        if owner == "form":
            self._forms[self.controls["method"].value] = change["new"]
        if owner == "method":
            self._set_form()
        if owner in ("method", "form", "first", "second", "guard"):
            self._set_knobs({})
        self._settle()

    @caught
    def _on_knob(self, change=None):
        if not self._busy:
            name = next(n for n, widget in self.knobs.items() if widget is change["owner"])
            value = self._knob_values()[name]
            for each in (name, *followers(list(self._knob_of.values()), name)):  # one quantity of a paper moves as one
                key, short = _home(each, self.base(), *self._method_key())
                self._values.setdefault(key, {})[short] = value
            if len(followers(list(self._knob_of.values()), name)):
                self._set_knobs({})
            self._settle()

    @caught
    def _on_step(self, button=None):
        if not self.running:
            self._budget = 1
        self._on_run()

    @caught
    def _on_reset(self, button=None):
        if self.running:
            self._say("A run is going on: press Stop first, then Reset.")
            return
        self.session = self.trace = self.ran = None
        self.references, self.light, self.lamp, self._begun = {}, E.Light(), "wait", None
        self.keep_button.disabled = True
        self._clear()
        self._settle()
        self._say("Nothing is shown: press Run, or Step for one batch.")

    @caught
    def _on_keep(self, button=None):
        if self.trace is None or not len(self.trace):
            self._say("There is no run to keep: press Run first.")
            return
        self.kept = {"label": f"run {self.number}, {self._label(self.ran.recipe)}", "trace": self.trace, "choice": self.ran, "number": self.number}
        self.comparison = {}
        text = f"A is {self.kept['label']}. Change something and press Run: the next run on this stream is compared with it."
        self.compared.value = self._text(text)

    @caught
    def _on_paper(self, button=None):
        recipe = self.base()
        for k in knobs(recipe):
            self._values.pop(_home(k.name, recipe, *self._method_key())[0], None)
        self._set_knobs({}, fresh=True)
        self._settle()

    @caught
    def _on_pick(self, change=None):
        if not self._busy:
            self._show_details()

    @caught
    def _on_threshold(self, change=None):
        if not self._busy:
            self._draw_threshold()

    def _quietly(self, work):
        before, self._busy = self._busy, True
        try:
            work()
        finally:
            self._busy = before

    def fire(self) -> None:
        """Every callback once, and one run in the caller's thread, first a step and then the rest."""
        for widget in (*self.controls.values(), *self.knobs.values()):
            before, widget.value = widget.value, another(widget)
            widget.value = before
        self.step_button.click()
        if self.error is None:
            self.run_button.click()
        self.score.value, self.rejected.value = "energy", 0.49
        self.score.value, self.rejected.value = "confidence", 0.5
        for fold in self.folds.values():
            fold.value = True

    # --- knobs

    def _method_key(self) -> tuple:
        return self.controls["method"].value, self.controls["form"].value

    def _set_form(self) -> None:
        """The forms of the method that is chosen, and the one that was chosen for it."""
        method, widget = self.controls["method"].value, self.controls["form"]
        forms = ("paper", *METHODS[method].forms) if method in METHODS else ("paper",)
        options = [("as in the paper" if f == "paper" else "as in the authors' code" if f == "reference" else f"as in public code: {f}", f)
                   for f in forms]

        def put():
            before = widget.value
            widget.options = options
            wanted = self._forms.get(method, before if self._method is None else "paper")
            widget.value = wanted if wanted in forms else "paper"

        self._quietly(put)
        self._method = method

    def _set_knobs(self, settings: dict, fresh: bool = False) -> None:
        """Sliders for the knobs of the present recipe; values of this method that were set before are kept. ``settings`` loses what is used."""
        for widget in self.knobs.values():
            widget.unobserve_all("value")
        try:
            recipe = self.base()
        except (ValueError, TypeError):
            self.knobs, self._knob_of, self._simple.children, self._expert.children = {}, {}, (), ()
            return
        paper, homes = {k.name: k for k in knobs(recipe)}, {k.name: _home(k.name, recipe, *self._method_key()) for k in knobs(recipe)}
        for name in list(settings):
            full = [n for n in paper if n == name or n.endswith("." + name)]
            led = {follower for n in full for follower in followers(list(paper.values()), n, whatever=True)}
            if len(full) - len(led) == 1:  # one knob, and those that are the same quantity
                value = settings.pop(name)
                for key, short in (homes[n] for n in full):
                    self._values.setdefault(key, {})[short] = value
        recipe = with_knobs(recipe, **{name: self._values[key][short] for name, (key, short) in homes.items() if short in self._values.get(key, {})})
        own = len(self._base.select if self.controls["method"].value == GIVEN else make(self.controls["method"].value).select) \
            if isinstance(recipe, LossMethod) else 0
        self.knobs, self._knob_of = {}, {}
        simple, expert = [], []
        for k in knobs(recipe):
            added = k.name.startswith("select.") and int(k.name.split(".")[1]) >= own
            shown = k.name == "update.lr" or added or "." not in k.name and k.name not in PLUMBING
            label = _knob_label(k, recipe) if shown else k.name.replace("_", " ")
            widget = knob_widget(replace(k, default=paper[k.name].value), label)
            widget.observe(self._on_knob, "value")
            widget.style.description_width, widget.layout.width = "190px", "395px"
            self.knobs[k.name], self._knob_of[k.name] = widget, k
            (simple if shown else expert).append(widget)
        self._simple.children, self._expert.children = simple, expert

    def _knob_values(self) -> dict:
        """What the sliders say; a slider that stands where it was put is read exactly, else with three digits."""
        found = {}
        for name, widget in self.knobs.items():
            k, value = self._knob_of[name], widget.value
            whole = isinstance(k.default, int) and not isinstance(k.default, bool)
            found[name] = value if value == k.value or isinstance(value, str | bool) else int(value) if whole else three_digits(value)
        return found

    def changed(self) -> dict:
        """The knobs that differ from the paper's (or the given) values: name -> value."""
        usual = {k.name: k.value for k in knobs(self.base())}
        return {name: value for name, value in self._knob_values().items() if value != usual[name]}

    # --- the work

    def _refused(self) -> str:
        if self.choice is None or self.refusal:
            self._budget = None
            return f"Nothing was run, because this choice is impossible: {self.refusal}"
        return ""

    def _begin(self):
        budget, self._budget = self._budget, None
        held = self._held()
        if not held and self._begun is not None:  # what is still shown belongs to another run
            self._age()
            self._pictures, self.details.value = {}, ""
            self._quietly(lambda: setattr(self.pick, "options", [("no image yet", -1)]))
        return self.choice, held, budget

    def _run(self, choice, held, budget):
        if not held:
            self.session = self.trace = None
            self.session, self.ran = Session(choice, device=self.device, known=self._known), choice
            self._begun = choice
            self.number, self.light, self.lamp, self.references = self.number + 1, E.Light(), "wait", {}
            self._drawn, self.comparison = 0.0, {}
        session = self.session
        self.trace = session.traces["choice"]
        self.progress.max, self.progress.value = session.total, session.done
        try:
            while budget != 0 and not self._stop.is_set() and session.advance():
                budget = None if budget is None else budget - 1
                self.progress.value = session.done
                if time.monotonic() - self._drawn > max(PAUSE, 4 * self._cost):
                    self._say(f"Running {self.title(choice)}: batch {session.done} of {session.total}.{self._stopping}")
                    self._draw()
        except Exception:
            self.session = None  # one of its runs is a batch ahead of the others
            raise
        finally:
            if len(self.trace):
                self.ran = session.shown()
                self._finish(session)
        self._say(self.finding())

    def _finish(self, session):
        self.references = {REFERENCES[name]: trace for name, trace in session.traces.items() if name != "choice"}
        self.keep_button.disabled = False
        self._draw()
        self._note_result()
        if self.folds["images"].value:
            self._draw_images()
        self._draw_threshold()
        self.code.value = self._code_text()

    def _ended(self):
        super()._ended()
        self._settle()

    def label_free(self) -> dict:
        """`explorer_numbers.label_free` of the run shown; {} before a run."""
        return {} if self.trace is None else E.label_free(self.trace, self.references)

    def _note_result(self):
        r, refs = row(self.trace), {name: row(self._cut(t)) for name, t in self.references.items()}
        labelled = bool(E.scored(self.trace).any())
        choice = self._begun
        try:
            text = self.ran.to_json()
        except ValueError:
            text = ""
        errors = {"error": r["error"], **{f"error of {name}": v["error"] for name, v in refs.items()},
                  **({"auroc": r["auroc"]} if "auroc" in r else {})}
        self._rows[self.number] = {
            "run": self.number, "method": self._label(choice.recipe), "model": self.model_name(choice.model), "stream": self.stream_name(choice),
            **(errors if labelled else {}), **self.label_free(), "labelled": labelled,
            "alarm": "cannot judge" if self.lamp == "unsure" and self.light.first < 0 else E_collapse_detector.ALARMS[self.light.alarm],
            "first alarm": self.light.first, "images": r["images"], "complete": r["complete"],
            "ms_per_image": r["ms_per_image"], "seed": choice.seed, "settings": repr(choice.recipe), "stream_hash": r["stream_hash"], "choice": text}
        missing = next((E.say_missing(self.trace) for line in self._rows.values() if not line["labelled"]), "")
        self.table.value = results_html(self._rows.values()) + (self._text(missing) if missing else "")
        if self.kept is not None and self.kept["number"] != self.number:
            try:
                self.comparison = E.paired(self.kept["trace"], self.trace)
                words = E.say_paired(self.comparison, self.kept["label"], f"run {self.number}, {self._label(choice.recipe)}")
            except ValueError as why:
                self.comparison, words = {}, str(why)
            self.compared_words, self.compared.value = words, self._text(words)

    def _cut(self, trace):
        """The part of a reference's trace that the choice has been shown too."""
        return trace.head(len(self.trace))

    # --- reading back

    @property
    def results(self):
        """One row for each run so far, as a pandas frame."""
        import pandas
        return pandas.DataFrame(list(self._rows.values()))

    @property
    def state(self) -> dict:
        """What the controls say: an `Experiment` as a dict; with your own model or images, what of it has a name."""
        return _state_of(self.choice)

    def to_code(self) -> str:
        """A cell that makes the run shown (as far as it went), or before any run the one that the controls say."""
        choice = self.ran or self.choice
        return f"# no run: {self.refusal}" if choice is None else choice.to_code()

    def to_parameters(self) -> str:
        """The same as YAML text, parameters for this notebook: ``papermill 00_explorer.ipynb out.ipynb -f FILE``."""
        choice = self.ran or self.choice
        if choice is None:
            return f"# no run: {self.refusal}\n"
        try:
            return "".join(f"{name}: {json.dumps(value)}\n" for name, value in choice.to_parameters().items())
        except ValueError as why:
            return f"# {why}\n"

    # --- words

    def _label(self, recipe) -> str:
        """Method, selectors, guard and changed knobs, short."""
        name = next((n for n, kind in METHODS.items() if kind is type(recipe)), type(recipe).__name__)
        found = decomposed(recipe)
        if found is None:
            return name
        more = [f"+ {s.replace('_', ' ')}" for s in found["selectors"]] + ["+ guard"] * found["guard"]
        usual = {k.name: k.value for k in knobs(composed(found))}
        changed = {n.split(".")[-1]: v for n, v in found["values"].items() if v != usual[n]}
        more += [f"{n} {v:.3g}" if isinstance(v, float) else f"{n} {v}" for n, v in changed.items()]
        return " ".join([name if found["form"] == "paper" else f"{name} [{found['form']}]", *more])

    def model_name(self, model) -> str:
        """An embedded model's name, or of your own what it is."""
        if model in checkpoints():
            return model
        if not isinstance(model, str):
            return "your model"
        kind, name, _ = parse(model)
        return f"your {name.replace(chr(92), '/').rpartition('/')[2]}" if kind in ("checkpoint", "python") else name

    def stream_name(self, choice: Experiment | None = None) -> str:
        """What the stream of a choice (that of the controls) is called: its protocol and what differs from a fresh panel's, or "your stream"."""
        choice = choice or self.choice
        return "" if choice is None else self._named.get(choice.stream.hash, ("your stream",))[0]

    def title(self, choice: Experiment) -> str:
        """Method, model and stream of a choice, short."""
        return f"{self._label(choice.recipe)} on {self.model_name(choice.model)}, {self.stream_name(choice)}"

    def in_words(self, choice: Experiment | None = None) -> str:
        """What a choice does and needs; without one, what the controls say would be run."""
        c, choice = self.controls, choice or self.choice
        if choice is not None:
            kind, found = type(choice.recipe), decomposed(choice.recipe)
            selectors = found["selectors"] if found is not None else ()
        else:
            kind = type(self._base) if c["method"].value == GIVEN else METHODS[c["method"].value]
            selectors = c["first"].value, c["second"].value
        text = first_sentence(kind) + (f" ({kind.paper.rstrip('.')})" if kind.paper else "")
        for name in selectors:
            text += f" {name.replace('_', ' ').capitalize()}: {first_sentence(SELECTORS[name])}" if name else ""
        if choice is None:
            return text
        text += f" {needs(choice.recipe)}"
        stream, protocol = choice.stream, self._named.get(choice.stream.hash, ("", ""))[1]
        what = first_sentence(protocols.PROTOCOLS[protocol]) if protocol else "Your stream."
        told = say_statistics(stream.statistics(), len(stream.classes)).capitalize() if choice.labelled else \
            f"{stream.n_images} images in {len(stream)} batches; without labels it is not known which classes come when"
        return f"{text} Stream: {what} {told}."

    def _describe(self):
        name = self.controls["protocol"].value
        for control_name, widget in self.controls.items():
            if control_name in self._stream_controls and control_name != "protocol":
                widget.layout.display = "none" if name == GIVEN or not applies(name, control_name) else None
        if "unknown_ratio" in self.controls and name == GIVEN:
            self.controls["unknown_ratio"].layout.display = "none"
        kind = METHODS.get(self.controls["method"].value)
        self.controls["form"].layout.display = None if kind is not None and kind.forms else "none"
        self.controls["second"].layout.display = None if self.controls["first"].value or self.controls["second"].value else "none"
        why = f"<br><b>Impossible:</b> {html.escape(self.refusal)}" if self.refusal else ""
        self.words.value = f'<div style="line-height: 1.4; max-width: {WIDTH}px">{html.escape(self.in_words())}{why}</div>'
        self.code.value = self._code_text()

    def finding(self) -> str:
        """What the run shown has found so far."""
        if self.trace is None or not len(self.trace):
            return "Stopped before the first batch: there is nothing to show."
        done = self.session is None or self.session.finished
        head = f"{'Done' if done else 'Held'}, {self.title(self._begun)}, {len(self.trace)} images"
        head += "" if done else f" (batch {self.session.done} of {self.session.total}; Run goes on, Step shows one batch)"
        r = row(self.trace)
        others = ", ".join(f"{name} {row(self._cut(t))['error']:.1f} %" for name, t in self.references.items())
        if np.isfinite(r["error"]):
            text = f"{head}: error {r['error']:.1f} %, mean over the domains seen{'; ' if others else ''}{others}."
        else:
            text = f"{head}, no labels: {E.say_agreement(self.label_free())}."
        return text + f" {self._lamp_words()}"

    def _said(self) -> str:
        return E.say_label_free(self.label_free())

    def _lamp_words(self) -> str:
        if self.lamp == "unsure" and self.light.first < 0:
            return f"The alarm light cannot judge: {self.light.why.partition(',')[0].partition(':')[0]}."
        if self.light.first < 0:
            return "No alarm."
        return f"First alarm in batch {self.light.first + 1}" + (f", now: {self.light.name}." if self.light.alarm else ", none now.")

    def _text(self, text: str) -> str:
        return f'<div style="line-height: 1.4; max-width: {WIDTH}px">{html.escape(text)}</div>'

    def _code_text(self) -> str:
        return (f'<div style="max-width: {WIDTH}px"><p>A cell that makes this run without the panel:</p><pre>{html.escape(self.to_code())}</pre>'
                f"<p>The same as parameters for papermill:</p><pre style=\"white-space: pre-wrap; overflow-wrap: anywhere\">"
                f"{html.escape(self.to_parameters())}</pre></div>")

    # --- figures

    def _show(self, name: str, numbers: dict) -> None:
        """Draw one figure: as a picture in a browser, which is some 50 kB where a plotly widget sends 5 MB, as a plotly figure without one."""
        self.drawn[name] = numbers
        plot = FIGURES[name]
        if not self.interactive:
            drawn = plot(numbers, "plotly")
            self.figures[name] = drawn if name == "images" else _sized(drawn, HEIGHTS[name])
            return
        figure = plot(numbers, "matplotlib")
        if name in INCHES:
            plots.fit(figure, *INCHES[name])
        inches = figure.get_size_inches()[0]
        content = base64.b64encode(plots.png(figure)).decode()
        self.frames[name].value = (f'<img alt="{html.escape(self._alt(name))}" style="width: {min(WIDTH, round(78 * inches))}px; max-width: 100%" '
                                   f'src="data:image/png;base64,{content}">')

    def _alt(self, name: str) -> str:
        """What a figure shows, for those who cannot see it."""
        numbers = self.drawn[name]
        if name == "errors":
            last = ", ".join(f"{run} {value:.1f}" for run, value in numbers["so_far"]["last"].items())
            return f"{numbers['so_far']['what']}: {last}" if last else "No run yet."
        if name == "predictions":
            return f"Entropy of the last {numbers['entropy']['n']} images, and how often each class is predicted."
        if name == "threshold":
            return E.say_threshold(numbers)
        if name == "probabilities":
            return "; ".join(f"{run}: " + ", ".join(f"{c} {v:.2f}" for c, v in zip(numbers["classes"], values, strict=True))
                             for run, values in numbers["values"].items()) or "No image is chosen."
        return "Pictures of images, listed in the list below them."

    def _traces(self) -> dict:
        """Runs by the name they are drawn with."""
        if self.session is not None:
            self.references = {REFERENCES[name]: trace for name, trace in self.session.traces.items() if name != "choice"}
        found = {"this run": self.trace} | {n: t for n, t in self.references.items() if len(t)}
        a = None if self.kept is None or self.kept["number"] == self.number else self.kept["trace"]
        return found | {"A": a} if a is not None and a.meta["stream"]["hash"] == self.trace.meta["stream"]["hash"] else found

    def numbers(self) -> tuple[dict, dict]:
        """What the two live figures draw."""
        trace, n = self.trace, len(self.trace)
        at = [int((trace["step"] <= step).sum()) for step in [t for t, _ in actions(trace)] + [self.light.first] * (self.light.first >= 0)]
        classes = views.class_shares(trace, names=[str(c) for c in self.ran.stream.classes])
        return ({"so_far": E.so_far(self._traces(), n), "fall": E.fall_over_time(trace), "marks": at},
                {"entropy": E.entropy_now(trace), "classes": classes})

    def _draw(self):
        started = time.monotonic()
        self.lamp = self.light.see(self.trace)
        errors, predictions = self.numbers()
        self._show("errors", errors)
        self._show("predictions", predictions)
        self._draw_lamp()
        self.sentence.value = self._text(" ".join(filter(None, (E.say_missing(self.trace), f"{self._label(self.ran.recipe)}: {self._said()}"))))
        self._drawn = time.monotonic()
        self._cost = self._drawn - started

    def _draw_lamp(self):
        (shape, word), text = E.LIGHTS[self.lamp], self.lamp_text()
        style, colour = f"padding-left: 8px; line-height: 1.4; max-width: {WIDTH}px", COLOURS[self.lamp]
        self.lamp_box.value = (f'<div role="group" aria-label="alarm light: {word}" style="border-left: 8px solid {colour}; {style}">'
                               f'<span style="font-size: 150%; color: {colour}">{shape}</span> <b>Alarm light:</b> {html.escape(text)}</div>')

    def lamp_text(self) -> str:
        """What the alarm light says: its word with the evidence, or why it cannot judge, and with labels the error beside the references'."""
        if self.lamp == "wait":
            return "no run yet"
        word = E.LIGHTS[self.lamp][1]
        text = f"{word}: {self.light.why}." if self.lamp == "unsure" else f"{word}. {self.light.words}"
        text = text.partition(";")[0].rstrip(".") + "." if self.lamp == "calm" else text  # the evidence matters when there is some
        so_far = self.drawn["errors"]["so_far"] if "errors" in self.drawn else {}
        beside = {name: value for name, value in so_far["last"].items() if name != "A"} if so_far.get("labelled") else {}
        return f"{text} {E.say_beside(beside)}".rstrip()

    def _clear(self):
        """Figures and lists with nothing in them."""
        self.progress.value = 0
        self._draw_lamp()
        for name, numbers in _nothing().items():
            self._show(name, numbers)
        self.judged.value = self.sentence.value = self.chosen.value = ""
        self._pictures, self.details.value = {}, ""

    def _draw_threshold(self):
        """The threshold on unknown images, and with it which unknown images are shown as accepted."""
        trace = self.trace if self.trace is not None and len(self.trace) else Trace()
        numbers = E.threshold_at(trace, self.score.value, self.rejected.value)
        if not len(trace):
            numbers["why"] = "Nothing has run yet."
        self._show("threshold", numbers)
        self.judged.value = self._text(E.say_threshold(numbers))
        if self.folds["images"].value and "unknown" in views.split(trace):
            self._draw_images()

    def _draw_images(self):
        """The grid of pictures and the list to choose one from."""
        if self.trace is None or not len(self.trace):
            return
        stream, trace = self.ran.stream, self.trace
        classes = [str(c) for c in stream.classes]
        accepted = E.threshold_at(trace, self.score.value, self.rejected.value)["accepted"]
        self._pictures = E.pictures(trace, stream, E.picked(trace, accepted=accepted), classes)
        self._show("images", self._pictures)
        self.chosen.value = self._text(E.say_picked(trace))
        options = [(f"{E.KINDS[kind]} {i}: {t['prediction']}".replace("\n", " ") + (f" (true: {t['true']})" if t["true"] else ""), (kind, i - 1))
                   for kind, found in self._pictures.items() for i, (_, t) in enumerate(found, 1)]
        self._busy = True
        try:
            self.pick.options = options or [("no image yet", -1)]
            self.pick.value = self.pick.options[0][1]
        finally:
            self._busy = False
        self._show_details()

    def _show_details(self):
        if self.pick.value == -1 or not self._pictures:
            return
        kind, i = self.pick.value
        t = self._pictures[kind][i][1]
        answers = {} if self.session is None else {REFERENCES.get(n, "this run"): p for n, p in self.session.probabilities.items()}
        order = [n for n in ("source", "BN-1", "this run") if n in answers]
        numbers = E.probabilities_of({n: answers[n] for n in order}, t["row"], [str(c) for c in self.ran.stream.classes])
        self._show("probabilities", numbers)
        true = f"true class {t['true']}, " if t["true"] and t["true"] != "unknown" else "unknown image, " if t["true"] else "no label, "
        self.details.value = self._text(
            f"Image {t['id']} ({t['shift']}), number {t['row'] + 1} of the stream: {true}answer {t['prediction']} with {t['confidence']:.3f}; the "
            f"source's class (as recorded) {t['source']} with {t['source_confidence']:.3f}; d {t['d']:+.3f}; entropy {t['entropy']:.3f} nats; energy "
            f"{t['energy']:.2f}; largest logit {t['max_logit']:.2f}; {'learned from' if t['kept'] else 'not learned from'}.")

    # --- layout

    def _of_run(self):
        return [*self.frames.values(), self.lamp_box, self.sentence, self.compared, self.judged, self.chosen]

    @property
    def _stream_controls(self) -> list[str]:
        return [name for name in self.controls if name not in ("model", "seed", "method", "form", "first", "second", "guard")]

    def _folds(self, W):
        """Parts of the panel that a toggle button opens: reached with Tab, opened with Space."""
        c, f, wrap = self.controls, self.frames, {"flex_flow": "row wrap", "align_items": "flex-start"}
        more = [c[name] for name in self._stream_controls if name not in SIMPLE_STREAM] + [c["seed"]]
        inside = {"stream": ("more about the stream", W.HBox([W.VBox(more[::2]), W.VBox(more[1::2])], layout=wrap)),
                  "expert": ("expert knobs", W.VBox([c["form"], self._expert])),
                  "images": ("images", W.VBox([self.chosen, f["images"], self.pick, self.details, f["probabilities"]])),
                  "unknown": ("threshold for unknown images",
                              W.VBox([W.HBox([self.score, self.rejected], layout=wrap), self.judged, f["threshold"]])),
                  "runs": ("all runs", self.table), "code": ("code", self.code)}
        self._fold(inside)

    @caught
    def _on_fold(self, name, label, opened):
        super()._on_fold(name, label, opened)
        if name == "images" and opened and not self.running:
            self._draw_images()

    @property
    def widget(self):
        """Everything in one box."""
        import ipywidgets as W

        c, wrap, fold, box = self.controls, {"flex_flow": "row wrap", "align_items": "flex-start"}, self.folds, self._fold_boxes
        left = W.VBox([c["model"], *(c[name] for name in SIMPLE_STREAM), fold["stream"]])
        right = W.VBox([c["method"], c["first"], c["second"], c["guard"], self._simple, fold["expert"]])
        buttons = W.HBox([self.run_button, self.stop_button, self.step_button, self.reset_button, self.keep_button, self.paper_button], layout=wrap)
        return W.VBox([W.HBox([left, right], layout=wrap), box["stream"], box["expert"], self.words, buttons, self.progress, self.status,
                       self.lamp_box, self.compared, self.frames["errors"], self.frames["predictions"], self.sentence,
                       W.HBox([fold[name] for name in ("images", "unknown", "runs", "code")], layout=wrap),
                       *(box[name] for name in ("images", "unknown", "runs", "code")), own_keys()])

    def told(self):
        missing = "" if self.trace is None else E.say_missing(self.trace)
        return ([self.in_words(self._begun), self.message, f"{E.LIGHTS[self.lamp][0]} {self.lamp_text()}", missing],
                [self.figures[name] for name in ("errors", "predictions", "images") if name in self.figures])


# --- without a panel

def settings_of(fast: bool, **given) -> dict:
    """Settings of `explorer` for the fast or the full mode; values in ``given`` that are 0, "" or None stay as the mode says."""
    return (FAST if fast else FULL) | {name: value for name, value in given.items() if value or value is False}


def save(panel: ExplorerPanel, path) -> None:
    """Write the runs of a panel as JSON (no number: null), with the comparison, the choice of the run shown (before any run: that of the controls)
    and the versions they were made with."""
    state = _state_of(panel.ran or panel.choice)
    write_numbers(path, {"runs": list(panel._rows.values()), "comparison": panel.comparison, "state": state, "message": panel.message})


def _state_of(choice: Experiment | None) -> dict:
    """A choice as a dict; with your own model or images, what of it has a name."""
    if choice is None:
        return {}
    try:
        return json.loads(choice.to_json())
    except ValueError:
        model = choice.model if isinstance(choice.model, str) else None
        source = choice.source_images if isinstance(choice.source_images, str) else None
        return {"model": model, "stream": choice.stream.to_dict(), "recipe": json.loads(to_json(choice.recipe)), "seed": choice.seed,
                "source_images": source}


def composed(found: dict):
    """The recipe of `decomposed` with its knobs as in the paper."""
    recipe = make(found["method"], form=found["form"])
    recipe = recipe.where(*(SELECTORS[name]() for name in found["selectors"])) if found["selectors"] else recipe
    return guarded(recipe) if found["guard"] else recipe


def decomposed(recipe) -> dict | None:
    """A recipe as ``method``, ``form``, ``selectors`` (up to two names, added to the method's own), ``guard`` and ``values`` of all knobs; None where
    it holds other parts than these."""
    name = next((n for n, kind in METHODS.items() if kind is type(recipe)), None)
    if name is None:
        return None
    last = recipe.controllers[-1] if isinstance(recipe, LossMethod) and recipe.controllers else None
    guard = isinstance(last, Guard) and last.detector == CollapseDetector()
    for form in ("paper", *METHODS[name].forms):
        beyond = recipe.select[len(make(name, form=form).select):] if isinstance(recipe, LossMethod) else ()
        added = [next((n for n, kind in SELECTORS.items() if kind is type(s)), None) for s in beyond]
        if len(added) > 2 or None in added:
            continue
        found = {"method": name, "form": form, "selectors": added, "guard": guard, "values": {k.name: k.value for k in knobs(recipe)}}
        base = composed(found)
        if [k.name for k in knobs(base)] == list(found["values"]) and with_knobs(base, **found["values"]) == recipe:
            return found
    return None


def knob_widget(knob: Knob, label: str = ""):
    """`controls.control`, and a field to type in where a slider would be too coarse: ranges of more than 1000, or unbounded."""
    import ipywidgets as W

    numeric = knob.choices is None and not isinstance(knob.default, bool)
    if not numeric or knob.log or knob.high - knob.low <= 1000:
        return control(knob, label)
    kind = W.BoundedIntText if isinstance(knob.default, int) else W.BoundedFloatText
    return kind(value=knob.value, min=knob.low, max=knob.high, description=label or knob.name, tooltip=hint(knob), continuous_update=False)


def _knob_label(knob: Knob, recipe) -> str:
    if knob.name == "update.lr":
        return "learning rate"
    if knob.name.startswith("select."):
        part = recipe.select[int(knob.name.split(".")[1])]
        name = next((n for n, kind in SELECTORS.items() if kind is type(part)), type(part).__name__)
        return f"{name}: {knob.name.split('.', 2)[2]}".replace("_", " ")
    return knob.name.replace("_", " ")


def results_html(rows) -> str:
    """A table of the runs so far, one line each. Columns that no run has are left out; a run without labels says so where others have an error."""
    shown = {"run": "run", "method": "method", "model": "model", "stream": "stream", "error": "error (%)", "error of source": "source (%)",
             "error of BN-1": "BN-1 (%)", "like source": "like source (%)", "like BN-1": "like BN-1 (%)", "falling": "falling (%)",
             "entropy last": "entropy at end (nats)", "classes in use": "classes in use", "alarm": "alarm", "images": "images"}
    lines = list(rows)
    shown = {k: title for k, title in shown.items() if any(k in line for line in lines)}
    digits = {"entropy last": 2}

    def cell(line, name):
        value = line.get(name)
        if isinstance(value, float) and np.isfinite(value):
            return f"{value:.{digits.get(name, 1)}f}"
        if value is None or isinstance(value, float):
            return "no labels" if name.startswith("error") and not line["labelled"] else "not run"
        return html.escape(str(value) if name == "model" and str(value).startswith("your") else str(value).replace("_", " "))

    style = 'style="padding: 1px 8px; text-align: right"'
    whole = '<span style="white-space: nowrap">BN-1</span>'
    head = "".join(f'<th scope="col" {style}>{title.replace("BN-1", whole)}</th>' for title in shown.values())
    body = "".join("<tr>" + "".join(f"<td {style}>{cell(line, k)}</td>" for k in shown) + "</tr>" for line in lines)
    return f'<div style="overflow-x: auto; max-width: {WIDTH}px"><table style="line-height: 1.4"><tr>{head}</tr>{body}</table></div>'


def _home(name: str, recipe, method: str, form: str) -> tuple[tuple, str]:
    """Where the value of a knob is kept, and its name there: with the method, or with the selector or the guard that was added to it, so that no part
    takes over a value of another one that stands in the same place."""
    head, _, rest = name.partition(".")
    at, _, short = rest.partition(".")
    if head == "select" and short and method in METHODS and int(at) >= len(getattr(make(method), "select", ())):
        return ("select", type(recipe.select[int(at)]).__name__, sum(type(s) is type(recipe.select[int(at)]) for s in recipe.select[:int(at)])), short
    if head == "controllers" and short and isinstance(recipe.controllers[int(at)], Guard):
        return ("guard",), short
    return (method, form), name


def _signature(choice: Experiment) -> tuple:
    return (model_key(choice), choice.stream.hash, to_json(choice.recipe), choice.seed)


def _nothing() -> dict:
    """Numbers of the five figures before a run: each shows a sentence."""
    return {"errors": {"so_far": E.so_far({}), "fall": E.fall_over_time(Trace())},
            "predictions": {"entropy": E.entropy_now(Trace()), "classes": None}, "images": {},
            "probabilities": {"classes": [], "values": {}, "why": "Choose an image."},
            "threshold": E.threshold_at(Trace()) | {"why": "Nothing has run yet."}}


def _sized(drawn, height: int):
    return plots.fit(drawn.update_layout(font_size=FONT - 1).update_annotations(font_size=FONT), WIDTH, height)
