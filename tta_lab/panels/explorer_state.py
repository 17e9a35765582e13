"""What is chosen in the explorer: plain values and sentences; nothing here needs a widget.
"""
from __future__ import annotations

import json
from dataclasses import replace

from ..components.controllers.guard import Guard, guarded
from ..components.selectors import FORMERLY, SELECTORS
from ..core.arguments import flag, nearest, whole
from ..core.knobs import Knob, followers, knobs, with_knobs
from ..core.parts import LossMethod
from ..data.load import load
from ..data.shift import Shift
from ..experiments.experiment import Experiment, incompatibilities, model_key
from ..methods import METHODS, make
from ..methods.serialise import to_json
from ..streams import protocols
from ..studies.explorer.stored import stored_run
from ..studies.report import several
from . import explorer_words as words
from .controls import check_option, rounded
from .inputs import (
    AS_GIVEN,
    IMAGES,
    USUAL_IMAGES,
    StreamNames,
    method_options,
    model_options,
    own_model,
)
from .stream_settings import (
    FIRST,
    SHIFTS,
    ByHand,
    applies,
    protocol_call,
    some_shifts,
    stream_knobs,
    stream_label,
)

# own knobs of all that learns; among the expert ones
PLUMBING = ("average", "when_empty", "answer")
METHOD = ("method", "form", "first", "second", "guard")  # the controls that make the recipe
FAST = {"per_shift": 100, "batch": 25}
FULL = {"per_shift": 200, "batch": 50, "shifts": SHIFTS[:15]}


class ExplorerState:
    """What is chosen.

    ``given`` holds what was passed in (model, stream, images, unknown, source_images, recipe),
    ``values`` what the controls say, by name, and ``rows`` the knobs of the recipe (knob, label,
    whether it is a simple one), with ``knob_values``. ``choice`` is what they make; where they make
    none it is None, and ``incompatibility`` says why. ``settings`` are first values of controls and
    knobs.
    Raises ValueError for a setting or a value that does not exist, naming the nearest.
    """

    def __init__(self, given: dict, seed: int = 0, settings: dict | None = None):
        settings = dict(settings or {})
        self.given = given
        self.choice = None
        self.incompatibility = ""
        self.streams = StreamNames()
        self._protocols = {}  # protocols: hash -> name
        self._kept: dict = {}      # home of a knob -> its name there -> the value set by hand
        self._forms: dict = {}     # method -> the form set by hand
        self._incompatibilities: dict = {}  # of choices that were looked at
        model = self._first_model()
        method = self._first_method(settings)
        stream = self._first_stream(settings)
        self.values = {"model": model, **stream, "seed": seed, **method}
        self.values["form"] = self._form(method["form"])
        self._read_knobs(settings)
        if settings:
            raise ValueError(
                f"the explorer has no setting {next(iter(settings))!r}; it has: "
                f"{', '.join(self.values)}, selectors, and the knobs of {method['method']}: "
                f"{', '.join(self.knob_values) or '(none)'}")
        self.settle()

    # --- first values

    def _first_model(self) -> str:
        model = self.given.get("model")
        return AS_GIVEN if own_model(model) else model or "fashion_resnet_bn"

    def _first_method(self, settings: dict) -> dict:
        """Method, form, selectors and guard; ``settings`` loses what is used."""
        first = {"method": settings.pop("method", "tent"), "form": settings.pop("form", "paper"),
                 "selectors": settings.pop("selectors", ()),
                 "guard": flag("guard", settings.pop("guard", False))}
        recipe = self.given.get("recipe")
        self._recipe = None
        if recipe is not None:
            found = words.split_recipe(recipe)
            if found is None:
                self._recipe = recipe
                first["method"] = AS_GIVEN
            else:
                first = found
                for name, value in found["values"].items():
                    self._keep(name, recipe, (found["method"], found["form"]), value)
        chosen = first["selectors"]
        chosen = chosen.split(",") if isinstance(chosen, str) else chosen
        chosen = [FORMERLY.get(name.strip(), name.strip()) for name in chosen if name.strip()]
        if len(chosen) > 2 or any(name not in SELECTORS for name in chosen):
            wrong = [name for name in chosen if name not in SELECTORS][:1]
            near = "".join(nearest(name, SELECTORS) for name in wrong)
            raise ValueError(f"selectors takes up to two of {', '.join(SELECTORS)}, got "
                             f"{chosen}{near}")
        own = [AS_GIVEN] * (self._recipe is not None)
        check_option("method", first["method"], own + [*METHODS])
        check_option("form", first["form"],
                     ["paper", *dict.fromkeys(f for kind in METHODS.values() for f in kind.forms)])
        one, two = [*chosen, "", ""][:2]
        return {"method": first["method"], "form": first["form"], "first": one, "second": two,
                "guard": first["guard"]}

    def _first_stream(self, settings: dict) -> dict:
        """The values of the controls of the stream; ``settings`` loses what is used, ``self.knobs``
        are the knobs of these controls with their labels."""
        rate = {"lr": settings.pop("lr")} if "lr" in settings else {}  # of the method
        defaults = dict(FAST)
        by_hand = {k: v for k, v in settings.items() if k not in FAST or v != FAST[k]}
        limits = self._limits()
        if limits:
            low, high, count = limits
            first = whole("per_shift", settings.get("per_shift", FAST["per_shift"]))
            defaults["per_shift"] = min(max(first, low), count)
            settings["per_shift"] = by_hand["per_shift"] = defaults["per_shift"]
        if self.given.get("stream") is not None:
            by_hand["protocol"] = AS_GIVEN
        self._hand = ByHand(by_hand, defaults)
        settings |= {name: self._hand.value(name) for name in self._hand.defaults
                     if name not in settings}
        self.knobs = [(k, label) for k, label in stream_knobs(settings) if k.name != "lr"]
        if limits:
            self.knobs = [(replace(k, low=low, high=high) if k.name == "per_shift" else k, label)
                          for k, label in self.knobs]
        found = {k.name: k.value for k, _ in self.knobs}
        if self.given.get("stream") is not None:
            found["protocol"] = AS_GIVEN
        found["shifts"] = some_shifts(settings.pop("shifts", FIRST))
        settings |= rate
        return found

    def _limits(self) -> tuple:
        """Range of ``per_shift`` and number of images for images of your own, so that all of them
        can be shown."""
        images = self.given.get("images")
        if images is None:
            return ()
        count = len(load(images) if isinstance(images, str) else images)
        low = min(10, count)
        return low, max(count, low + 1), count

    # --- what can be chosen

    def options(self, name: str) -> list[tuple[str, object]]:
        """(label, value) of a list that depends on what was given or chosen."""
        if name == "model":
            return model_options(own_model(self.given.get("model")))
        if name == "method":
            own = [] if self._recipe is None else [(f"as given: {type(self._recipe).__name__}",
                                                    AS_GIVEN)]
            return own + method_options()
        if name == "form":
            return [(words.form_label(form), form) for form in self.forms]
        if name == "protocol":
            own = [("as given", AS_GIVEN)] * (self.given.get("stream") is not None)
            return own + [(n, n) for n in protocols.PROTOCOLS]
        return [("all images", ""), *((n.replace("_", " "), n) for n in SELECTORS)]

    @property
    def forms(self) -> tuple[str, ...]:
        """The forms of the method that is chosen."""
        kind = METHODS.get(self.values["method"])
        return ("paper", *(kind.forms if kind else ()))

    def _form(self, wanted: str) -> str:
        return wanted if wanted in self.forms else "paper"

    def offers(self, name: str) -> bool:
        """Whether a control has a meaning now."""
        v = self.values
        if name == "form":
            return len(self.forms) > 1
        if name == "second":
            return bool(v["first"] or v["second"])
        if name in ("model", "seed", "protocol", *METHOD):
            return True
        return v["protocol"] != AS_GIVEN and applies(v["protocol"], name)

    # --- what is chosen

    def set(self, name: str, value) -> None:
        """A control was moved: what follows from it."""
        self.values[name] = value
        self.values |= self._hand.follow(name, value)
        if name == "form":
            self._forms[self.values["method"]] = value
        if name == "method":
            self.values["form"] = self._form(self._forms.get(value, "paper"))
        if name in METHOD:
            self._read_knobs()
        self.settle()

    def set_knob(self, name: str, value) -> None:
        """A knob was set; one quantity of a paper moves as one."""
        present = {k.name: k for k, _, _ in self.rows}
        value = rounded(present[name], value)
        led = followers(list(present.values()), name)
        recipe = self.base()
        for each in (name, *led):
            self._keep(each, recipe, self._method, value)
            self.knob_values[each] = value
        if led:
            self._read_knobs()
        self.settle()

    def paper_defaults(self) -> None:
        """Every knob as in the paper (or as given)."""
        recipe = self.base()
        for k in knobs(recipe):
            self._kept.pop(knob_home(k.name, recipe, *self._method)[0], None)
        self._read_knobs()
        self.settle()

    @property
    def _method(self) -> tuple[str, str]:
        return self.values["method"], self.values["form"]

    def _keep(self, name: str, recipe, method: tuple, value) -> None:
        home, short = knob_home(name, recipe, *method)
        self._kept.setdefault(home, {})[short] = value

    def base(self):
        """The method with selectors and guard, its knobs as in the paper (or as given). Raises
        ValueError or TypeError where they do not combine."""
        v = self.values
        method = v["method"]
        recipe = self._recipe if method == AS_GIVEN else make(method, form=self._form(v["form"]))
        parts = [SELECTORS[name]() for name in (v["first"], v["second"]) if name]
        recipe = recipe.where(*parts) if parts else recipe
        return guarded(recipe) if v["guard"] else recipe

    def _read_knobs(self, settings: dict | None = None) -> None:
        """The knobs of the present recipe, with the values that were set before. ``settings`` loses
        what is used."""
        self.rows: list[tuple[Knob, str, bool]] = []
        self.knob_values: dict = {}
        try:
            recipe = self.base()
        except (ValueError, TypeError):
            return
        paper = {k.name: k for k in knobs(recipe)}
        for name in list(settings or {}):
            full = [n for n in paper if n == name or n.endswith("." + name)]
            led = {f for n in full for f in followers(list(paper.values()), n, whatever=True)}
            if len(full) - len(led) == 1:  # one knob, and those that are the same quantity
                value = settings.pop(name)
                for n in full:
                    self._keep(n, recipe, self._method, value)
        homes = {name: knob_home(name, recipe, *self._method) for name in paper}
        recipe = with_knobs(recipe, **{name: self._kept[home][short] for name, (home, short)
                                       in homes.items() if short in self._kept.get(home, {})})
        own = self._own_selectors(recipe)
        for k in knobs(recipe):
            added = k.name.startswith("select.") and int(k.name.split(".")[1]) >= own
            plain = "." not in k.name and k.name not in PLUMBING
            simple = k.name == "update.lr" or added or plain
            label = words.knob_label(k, recipe) if simple else k.name.replace("_", " ")
            self.rows.append((replace(k, default=paper[k.name].value), label, simple))
            self.knob_values[k.name] = k.value

    def _own_selectors(self, recipe) -> int:
        """How many selectors the method brings itself."""
        if not isinstance(recipe, LossMethod):
            return 0
        method = self.values["method"]
        return len((self._recipe if method == AS_GIVEN else make(method)).select)

    def changed(self) -> dict:
        """The knobs that differ from the paper's (or the given) values: name -> value."""
        paper = {k.name: k.value for k in knobs(self.base())}
        return {name: value for name, value in self.knob_values.items() if value != paper[name]}

    # --- what it makes

    def settle(self) -> None:
        """What the values make, or why they make nothing."""
        try:
            self.choice = self._build()
            key = model_key(self.choice), self.choice.stream.hash, to_json(self.base())
            if key not in self._incompatibilities:
                # what has a stored run can run; the first optimiser of a process takes a second
                ran = stored_run(self.choice) is not None
                self._incompatibilities[key] = "" if ran else " ".join(
                    incompatibilities(self.choice))
            self.incompatibility = self._incompatibilities[key]
        except (ValueError, TypeError) as error:
            self.choice = None
            self.incompatibility = str(error)

    def _sets(self) -> tuple:
        """Known, unknown and source images for the chosen model."""
        model = self.values["model"]
        usual = IMAGES.get(model, USUAL_IMAGES)
        given = [self.given.get(name) for name in ("images", "unknown", "source_images")]
        known, unknown, source = (usual[i] if value is None else value
                                  for i, value in enumerate(given))
        return known, unknown, None if model == AS_GIVEN and given[2] is None else source

    def _build(self) -> Experiment:
        """The choice that the values stand for. Raises ValueError or TypeError where there is
        none."""
        v = self.values
        (known, unknown, source) = self._sets()
        seed = int(v["seed"])
        if v["protocol"] == AS_GIVEN:
            stream = self.given["stream"]
        else:
            name, call = protocol_call(v, seed, unknown)
            stream = protocols.PROTOCOLS[name](known, **call)
            self._protocols.setdefault(stream.hash, name)
            sets = getattr(known, "name", known), getattr(unknown, "name", unknown)
            self.streams.add(stream, stream_label(name, call, *sets))
        recipe = with_knobs(self.base(), **self.knob_values)
        model = self.given["model"] if v["model"] == AS_GIVEN else v["model"]
        return Experiment(model, stream, recipe, seed, source)

    # --- in words

    def stream_name(self, choice: Experiment | None = None) -> str:
        """What the stream of a choice (that of the controls) is called: its protocol and what
        differs from a fresh panel's, or "your stream"."""
        choice = choice or self.choice
        return "" if choice is None else self.streams.of(choice.stream)

    def shifts(self) -> tuple[str, ...]:
        """The shifts of the stream that is chosen, each once."""
        stream = None if self.choice is None else self.choice.stream
        shifts = getattr(stream, "shifts", None) or getattr(stream, "domains", ())
        return tuple(dict.fromkeys(Shift.parse(s).domain for s in shifts))

    def chips(self) -> list[str]:
        """What will run, in a few words each: model, stream, method."""
        v = self.values
        if v["protocol"] == AS_GIVEN:
            stream = self.given["stream"]
            said = ["your stream", f"{stream.n_images} images in {len(stream)} batches"]
        else:
            ratio = v["unknown_ratio"] if self.offers("unknown_ratio") else 0
            said = [v["protocol"].replace("_", " "), several(len(v["shifts"]), "shift"),
                    f"severity {v['severity']:g}", f"{100 * ratio / (1 + ratio):.0f} % unknown",
                    f"batch {v['batch'] if self.offers('batch') else 1}"]
            said += [f"{v['rounds']} rounds"] * (v["rounds"] > 1)
        recipe = None if self.choice is None else self.choice.recipe
        method = v["method"] if recipe is None else words.recipe_label(recipe, rate=True)
        seed = [f"seed {v['seed']}"] * bool(v["seed"])
        return [words.model_name(self.given.get("model") if v["model"] == AS_GIVEN
                                 else v["model"]), *said, method, *seed]

    def title(self, choice: Experiment) -> str:
        """Method, model and stream of a choice, short."""
        return (f"{words.recipe_label(choice.recipe)} on {words.model_name(choice.model)}, "
                f"{self.stream_name(choice)}")

    def describe(self, choice: Experiment | None = None) -> str:
        """What a choice does and needs; without one, what the controls say would be run."""
        choice = choice or self.choice
        if choice is not None:
            name = self._protocols.get(choice.stream.hash)
            return words.describe_choice(choice, name and protocols.PROTOCOLS[name])
        v = self.values
        kind = type(self._recipe) if v["method"] == AS_GIVEN else METHODS[v["method"]]
        return words.describe_method(kind, (v["first"], v["second"]))


def knob_home(name: str, recipe, method: str, form: str) -> tuple[tuple, str]:
    """Where the value of a knob is kept, and its name there: with the method, or with the selector
    or the guard that was added to it, so that no part takes over a value of another one that stands
    in the same place."""
    head, _, rest = name.partition(".")
    at, _, short = rest.partition(".")
    if head == "select" and short and method in METHODS:
        i = int(at)
        kind = type(recipe.select[int(at)])
        if i >= len(getattr(make(method), "select", ())):
            before = sum(type(s) is kind for s in recipe.select[:i])
            return ("select", kind.__name__, before), short
    if head == "controllers" and short and isinstance(recipe.controllers[int(at)], Guard):
        return ("guard",), short
    return (method, form), name


def experiment_dict(choice: Experiment | None) -> dict:
    """A choice as a dict; with your own model or images, what of it has a name."""
    if choice is None:
        return {}
    try:
        return json.loads(choice.to_json())
    except ValueError:
        model, source = (value if isinstance(value, str) else None
                         for value in (choice.model, choice.source_images))
        return {"model": model, "stream": choice.stream.to_dict(),
                "recipe": json.loads(to_json(choice.recipe)), "seed": choice.seed,
                "source_images": source}
