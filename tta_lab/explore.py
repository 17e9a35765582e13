"""One experiment as a value, and what it does: the explorer, the composer and the bring-your-own notebook call nothing else.

A `Choice` is a model, a stream, a recipe and a seed. ``explore(choice)`` runs it beside source and BN-1 on the same images;
``choice.to_code()`` is a cell that makes the same run without any panel, ``choice.to_parameters()`` what papermill is given.
"""
from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

from . import source
from .adapter import Adapter
from .datasets import load
from .knobs import knobs
from .methods import METHODS, from_json, make, to_json
from .models import load_model
from .parts import LossMethod, Method, NeedsError, needs_of
from .runner import row, run
from .streams import Arrivals, Stream
from .trace import Trace

REFERENCES = {"source": "source", "batch_norm": "BN-1"}
SOURCE_IMAGES = "fashion_mnist_train_slice"  # of the embedded models


@dataclass(frozen=True)
class Choice:
    """What is run: ``model`` (an embedded one by name, or any network), ``stream``, ``recipe``, ``seed``; and ``source_images``, an image set of
    the source domain (or its name) for recipes that need something of it, or None."""

    model: object = "fashion_resnet_bn"
    stream: Arrivals = field(default_factory=lambda: Stream(per_shift=100, batch=50))
    recipe: Method = field(default_factory=lambda: make("tent"))
    seed: int = 0
    source_images: object = SOURCE_IMAGES

    @property
    def network(self):
        """The model itself."""
        return load_model(self.model) if isinstance(self.model, str) else self.model

    def to_json(self) -> str:
        """A text from which ``from_json`` rebuilds this choice. Raises ValueError where model or images have no name."""
        if not isinstance(self.model, str) or not (self.source_images is None or isinstance(self.source_images, str)):
            raise ValueError("only choices of models and image sets with a name can be written down; a model of your own is passed in code")
        return json.dumps({"model": self.model, "stream": json.loads(self.stream.to_json()), "recipe": json.loads(to_json(self.recipe)),
                           "seed": self.seed, "source_images": self.source_images})

    @staticmethod
    def from_json(text: str) -> Choice:
        """Rebuild a choice. Raises ValueError when the text is damaged or names what does not exist here."""
        try:
            values = json.loads(text)
            stream, recipe = json.dumps(values.pop("stream")), json.dumps(values.pop("recipe"))
        except (ValueError, KeyError, AttributeError) as why:
            raise ValueError(f"this is not a choice written by to_json(): {why}") from why
        return Choice(stream=Stream.from_json(stream), recipe=from_json(recipe), **values)

    def to_parameters(self) -> dict:
        """Parameters for a headless run of the explorer notebook: ``choice`` holds everything."""
        return {"choice": self.to_json(), "seed": self.seed}

    def to_code(self) -> str:
        """A cell that makes the same run, and prints its error, without a panel."""
        model = f"load_model({self.model!r})" if isinstance(self.model, str) else "model  # your own"
        parts, text = _recipe_code(self.recipe)
        imports = ["from tta_lab import Adapter, load_model, run"]
        needs = sorted(needs_of(self.recipe) & source.GIVEN.keys())
        if needs:
            imports.append("from tta_lab.source import prepare")
        if needs and isinstance(self.source_images, str):
            imports.append("from tta_lab.datasets import load")
        images = f"load({self.source_images!r})" if isinstance(self.source_images, str) else "source_images"
        given = f", given=prepare(model, recipe, {images})" if needs else ""
        lines = [*imports, "from tta_lab.runner import row", "from tta_lab.streams import Stream", *parts, "",
                 *([] if model.startswith("model") else [f"model = {model}"]),
                 f'stream = Stream.from_json("""{self.stream.to_json()}""")', f"recipe = {text}",
                 f'adapter = Adapter(model, recipe, seed={self.seed}, record="source"{given})', "trace = run(adapter, stream)",
                 """print(f"error {row(trace)['error']:.2f} %")"""]
        return "\n".join(lines)


def _recipe_code(recipe: Method) -> tuple[list[str], str]:
    """Imports and an expression that builds this recipe: ``make`` with what differs, where that is enough."""
    name = next((n for n, kind in METHODS.items() if kind is type(recipe)), None)
    if name is not None:
        select, base = recipe.select, make(name)
        default = {k.name: k for k in knobs(base)}
        own = {k.name: k.value for k in knobs(recipe)}
        if own.keys() == default.keys():
            changed = {n: v for n, v in own.items() if v != default[n].value}
            if make(name, **changed) == recipe:
                plain = all(n.isidentifier() for n in changed)
                arguments = ", ".join(f"{n}={v!r}" for n, v in changed.items()) if plain else f"**{changed!r}"
                return ["from tta_lab.methods import make"], f"make({', '.join([repr(name), *([arguments] if changed else [])])})"
        if select and isinstance(recipe, LossMethod):
            from dataclasses import replace
            added = select[len(base.select):]
            if added and select[:len(base.select)] == base.select:
                imports, inner = _recipe_code(replace(recipe, select=base.select))
                if inner.startswith("make("):
                    kinds = sorted({type(s).__name__ for s in added})
                    return [*imports, f"from tta_lab.selectors import {', '.join(kinds)}"], f"{inner}.where({', '.join(map(repr, added))})"
    return ["from tta_lab.methods import from_json"], f'from_json("""{to_json(recipe)}""")'


@dataclass
class Exploration:
    """What `explore` found: ``trace`` of the choice, ``references`` (name -> Trace), ``refused`` (name -> why a reference could not run)."""

    choice: Choice
    trace: Trace
    references: dict
    refused: dict

    @property
    def rows(self) -> list[dict]:
        """One dict of numbers for each run, the choice first."""
        return [{"run": name, **row(trace)} for name, trace in {"choice": self.trace, **self.references}.items() if len(trace)]

    @property
    def table(self):
        """The rows as a pandas frame."""
        import pandas
        return pandas.DataFrame(self.rows)


def obstacles(choice: Choice) -> list[str]:
    """Why this choice cannot run, before it runs: one sentence each; none when it can."""
    found = []
    try:
        _adapter(choice, choice.recipe, "cpu", probe=True)
    except (NeedsError, ValueError, TypeError) as why:
        found.append(str(why))
    return found


def needs(recipe: Method) -> str:
    """What a recipe needs, in words."""
    words = {"batch_norm": "batch-norm layers", "features": "a model with features and head",
             "source_logits": "a second forward pass, of the frozen source",
             **{name: text + " (made from source images before the run)" for name, text in source.GIVEN.items()}}
    wanted = [words.get(name, name) for name in sorted(needs_of(recipe))]
    return "Needs " + "; ".join(wanted) + "." if wanted else "Needs nothing but a model and images."


def _adapter(choice: Choice, recipe: Method, device, probe: bool = False) -> Adapter:
    model, given = choice.network, None
    wanted = needs_of(recipe) & source.GIVEN.keys()
    if wanted and choice.source_images is not None:
        if probe:
            given = dict.fromkeys(wanted, {})
        else:
            images = load(choice.source_images) if isinstance(choice.source_images, str) else choice.source_images
            given = source.prepare(model, recipe, images, device=device)
    return Adapter(model, recipe, seed=choice.seed, device=device, record="source", given=given)


def explore(choice: Choice, references=tuple(REFERENCES), *, device="auto", stop: Callable[[], bool] | None = None,
            each: Callable[[str, Trace], None] | None = None, known: dict | None = None) -> Exploration:
    """Run the references and then the choice on the same stream.

    ``stop()`` is asked before each batch; ``each(name, trace)`` is called after each, name "choice" or a reference's. ``known`` keeps the
    traces of references between calls (a dict that this function fills), so that they run once for each stream and model.
    """
    done, refused, known = {}, {}, {} if known is None else known
    key = choice.stream.hash, choice.model if isinstance(choice.model, str) else id(choice.model), choice.seed
    for name in references:
        if (key, name) not in known:
            try:
                adapter = _adapter(choice, make(name), device)
            except NeedsError as why:
                refused[name] = str(why)
                continue
            trace = run(adapter, choice.stream, stop=stop, each=None if each is None else lambda t, name=name: each(name, t))
            if not trace.meta["complete"]:
                done[name] = trace
                return Exploration(choice, Trace(), done, refused)
            known[key, name] = trace
        done[name] = known[key, name]
    trace = run(_adapter(choice, choice.recipe, device), choice.stream, stop=stop, each=None if each is None else lambda t: each("choice", t))
    return Exploration(choice, trace, done, refused)
