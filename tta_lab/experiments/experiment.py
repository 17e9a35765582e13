"""One experiment as a value, and what it does: the explorer, the composer and the bring-your-own
notebook call nothing else.

An `Experiment` is a model, a stream, a recipe and a seed. ``explore(choice)`` runs it beside source
and BN-1 on the same images;
``choice.to_code()`` is a cell that makes the same run without any panel, ``choice.to_parameters()``
what papermill is given.
"""
from __future__ import annotations

import contextlib
import inspect
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import torch

from ..components.controllers.guard import Guard
from ..components.source.prepare import prepare
from ..core import own_parts, run_keys
from ..core.adapter import Adapter
from ..core.arguments import WrongKind, shown, whole
from ..core.knobs import knobs
from ..core.named import recipe_of
from ..core.parts import LossMethod, Method, NeedsError, Part, needs_of
from ..core.run_keys import nested
from ..core.source_info import source_info_of
from ..core.trace import Trace
from ..data.load import images_of, load
from ..data.shift import Shift
from ..methods import METHODS, make
from ..methods.serialise import from_json, to_json
from ..models.embedded import checkpoints
from ..models.names import facts_of, open_model
from ..streams.base import AbstractStream, Joined, Slice, StreamWrapper
from ..streams.cached import CachedStream
from ..streams.images import Batch
from ..streams.orders import ClassImbalance, Dirichlet, LabelShift, Order, SortedByClass
from ..streams.protocols import GROUPS, PROTOCOLS
from ..streams.stream import Stream
from .runner import check_classes, row, run

REFERENCES = {"source": "source", "batch_norm": "BN-1"}
SOURCE_IMAGES = "fashion_mnist_train_slice"  # of the embedded models
# numbers of `runner.row` that need labels
WITH_LABELS = ("error", "error_weighted", "ece", "nll", "brier")
NO_LABELS = (
    "These images have no labels, so errors cannot be counted. What needs none is shown instead: "
    "agreement with the source and with BN-1, "
    "entropy, rise and fall, the predicted classes, and the alarm.")
# numbers for each run of a session; for longer streams or more classes they are not kept
KEPT_PROBABILITIES = 2e7


@dataclass(frozen=True)
class Experiment:
    """What is run: ``model`` (a text for `tta_lab.models.names.open_model`, such as the name of an
    embedded one or "checkpoint:PATH"; or any network),
    ``stream``, ``recipe`` (or the name of a method), ``seed``; and ``source_images``, an image set
    of the source domain (or its name) for recipes that need something of it, or None. With texts in
    place of networks and image sets a choice can be written down. Raises ValueError, or TypeError,
    which is one here, for what is none of these; whether a text names something is said by
    `incompatibilities`, or when it is run."""

    model: object = "fashion_resnet_bn"
    stream: AbstractStream = field(default_factory=lambda: Stream(per_shift=100, batch=50))
    recipe: Method = field(default_factory=lambda: make("tent"))
    seed: int = 0
    source_images: object = SOURCE_IMAGES

    def __post_init__(self):
        if isinstance(self.model, type) or not isinstance(self.model, str | torch.nn.Module):
            hint = "; a path is written as a text, 'checkpoint:PATH'" if isinstance(
                self.model, os.PathLike) else ""
            raise WrongKind(
                "Experiment.model must be a text such as 'fashion_resnet_bn' or "
                "'torchvision:resnet18', or a network, not "
                f"{shown(self.model)}{hint}")
        if not isinstance(self.stream, AbstractStream):
            hint = ""
            if isinstance(self.stream, str) and self.stream in PROTOCOLS:
                hint = f"; make one with tta_lab.{self.stream}()"
            elif isinstance(self.stream, str) or hasattr(self.stream, "images"):
                hint = "; images become one with tta_lab.continual(images)"
            raise WrongKind(
                "Experiment.stream must be a stream, such as tta_lab.continual(), not "
                f"{shown(self.stream)}{hint}"
            )
        object.__setattr__(self, "recipe", recipe_of(self.recipe, "Experiment.recipe"))
        object.__setattr__(self, "seed", whole("Experiment.seed", self.seed))
        if not (self.source_images is None or isinstance(self.source_images, str) or
                all(hasattr(self.source_images, n) for n in ("images", "y"))):
            images_of(self.source_images, "Experiment.source_images")

    @property
    def network(self):
        """The model itself."""
        return open_model(self.model) if isinstance(self.model, str) else self.model

    @property
    def labelled(self) -> bool:
        """Whether any known image of the stream has a label: without labels there is no error, only
        agreement with other models."""
        return bool((self.stream.known_set.y >= 0).any())

    def to_json(self) -> str:
        """A text from which ``from_json`` rebuilds this choice. Raises ValueError where model or
        images have no name."""
        if not isinstance(self.model, str) or not (self.source_images is None or
                                                   isinstance(self.source_images, str)):
            raise ValueError(
                "only choices of models and image sets with a name can be written down; a network "
                "that was passed in code has none, "
                "but a text such as 'checkpoint:/path/weights.pt?architecture=/path/net.py:build' "
                "(tta_lab.models.names.open_model) has"
            )
        return json.dumps({
            "model": self.model, "stream": json.loads(self.stream.to_json()),
            "recipe": json.loads(to_json(self.recipe)), "seed": self.seed,
            "source_images": self.source_images
        })

    @staticmethod
    def from_json(text: str) -> Experiment:
        """Rebuild a choice. Raises ValueError when the text is damaged or names what does not exist
        here."""
        try:
            values = json.loads(text)
            stream, recipe = json.dumps(values.pop("stream")), json.dumps(values.pop("recipe"))
            unknown = values.keys() - {f.name for f in fields(Experiment)}
            if unknown:
                raise ValueError(
                    f"it has the entries {', '.join(sorted(unknown))}, which a choice has not")
        except (ValueError, KeyError, AttributeError, TypeError) as why:
            raise ValueError("this is not a choice written by to_json(): " + (
                f"it lacks {why}" if isinstance(why, KeyError) else str(why))) from why
        return Experiment(stream=Stream.from_json(stream), recipe=from_json(recipe), **values)

    def to_parameters(self) -> dict:
        """Parameters for a headless run of the explorer notebook: ``choice`` holds everything."""
        return {"choice": self.to_json(), "seed": self.seed}

    def to_code(self) -> str:
        """A cell that makes the same run, and prints its error (without labels: how often it
        answers like the source), without a panel.

        A network that was passed in code cannot be written down: then the cell says that it takes
        ``model`` from the lines above it.
        """
        model, opened, own = _model_code(self.model)
        parts, text = _recipe_code(self.recipe)
        yours = own_code(self.recipe)
        imports = [
            f"from tta_lab import Adapter{', load_model' if opened == 'load_model' else ''}, run"
        ]
        if opened == "open_model":
            imports.append("from tta_lab.models.names import open_model")
        needs = source_info_of(self.recipe)
        if needs:
            imports.append("from tta_lab.components.source.prepare import prepare")
        if needs and isinstance(self.source_images, str):
            imports.append("from tta_lab.data.load import load")
        images = f"load({self.source_images!r})" if isinstance(self.source_images,
                                                               str) else "source_images"
        source_info = f", source_info=prepare(model, recipe, {images})" if needs else ""
        found, stream = stream_code(self.stream)
        if self.labelled:
            imports.append("from tta_lab.experiments.runner import row")
            last = ["""print(f"error {row(trace)['error']:.2f} %")"""]
        else:
            parts = list(dict.fromkeys((*parts, "from tta_lab.methods import make")))
            last = [
                f"""source = run(Adapter(model, make("source"), seed={self.seed}), stream)""",
                "same = 100 * (trace['prediction'] == source['prediction']).mean()",
                """print(f"no labels; like the source {same:.2f} %")"""
            ]
        lines = [
            *yours, *imports, *found, *parts, "", own or f"model = {model}", stream,
            f"recipe = {text}",
            f'adapter = Adapter(model, recipe, seed={self.seed}, record="source"{source_info})',
            "trace = run(adapter, stream)", *last
        ]
        return "\n".join(lines)


def _model_code(model) -> tuple[str, str, str]:
    """An expression that makes the model, the function it calls, and, for a network that has no
    name, a comment instead."""
    if not isinstance(model, str):
        kind = type(getattr(model, "net", model)).__name__
        return "model", "", (
            f"# model: your own ({kind}), as made above; a line for it would be\n"
            f"# open_model('checkpoint:WEIGHTS?architecture=FILE.py:{kind}')  of "
            "tta_lab.models.names"
        )
    function = "load_model" if model in checkpoints() else "open_model"
    return f"{function}({model!r})", function, ""


def _recipe_code(recipe: Method) -> tuple[list[str], str]:
    """Imports and an expression that builds this recipe: ``make`` with what differs, where that is
    enough."""
    guard = recipe.controllers[-1] if isinstance(recipe,
                                                 LossMethod) and recipe.controllers else None
    if isinstance(guard, Guard) and guard.detector == Guard().detector:
        imports, inner = _recipe_code(replace(recipe, controllers=recipe.controllers[:-1]))
        settings = "".join(f", {f.name}={getattr(guard, f.name)!r}" for f in fields(guard)
                           if getattr(guard, f.name) != f.default)
        return [*imports, "from tta_lab.components.controllers.guard import guarded"
                ], f"guarded({inner}{settings})"
    name = next((n for n, kind in METHODS.items() if kind is type(recipe)), None)
    if name is not None:
        select, base = recipe.select, make(name)
        default = {k.name: k for k in knobs(base)}
        own = {k.name: k.value for k in knobs(recipe)}
        if own.keys() == default.keys():
            changed = {n: v for n, v in own.items() if v != default[n].value}
            if make(name, **changed) == recipe:
                plain = all(n.isidentifier() for n in changed)
                arguments = ", ".join(f"{n}={v!r}"
                                      for n, v in changed.items()) if plain else f"**{changed!r}"
                return ["from tta_lab.methods import make"
                        ], f"make({', '.join([repr(name), *([arguments] if changed else [])])})"
        if select and isinstance(recipe, LossMethod):
            added = select[len(base.select):]
            if added and select[:len(base.select)] == base.select:
                imports, inner = _recipe_code(replace(recipe, select=base.select))
                if inner.startswith("make("):
                    return [
                        *imports, *sorted({_import(s) for s in added
                                           if type(s).__module__ != "__main__"})
                    ], f"{inner}.where({', '.join(map(repr, added))})"
    return ["from tta_lab.methods.serialise import from_json"], f"from_json({to_json(recipe)!r})"


def own_code(recipe: Method) -> list[str]:
    """Lines that make the classes known that are not of this package: the file they came from is
    named; of a class of a notebook a comment."""
    lines: dict[str, None] = {}
    for kind in dict.fromkeys(type(part) for part in nested(recipe)):
        if kind.__module__.split(".")[0] == __name__.split(".")[0]:
            continue
        file = own_parts.origin(kind)
        if file:
            lines |= dict.fromkeys(("import tta_lab", "", f"tta_lab.use({file!r})"))
        elif kind.__module__ in ("__main__", "builtins"):
            lines[f"# {kind.__name__}: your own class, with @part, as defined above"] = None
        else:
            lines[f"import {kind.__module__}  # {kind.__name__}, your own"] = None
            if not own_parts.is_listed(kind):
                lines[f"import tta_lab\n\ntta_lab.part({kind.__module__}.{kind.__name__})"] = None
    return list(lines)


def _import(part: Part) -> str:
    return f"from {type(part).__module__} import {type(part).__name__}"


def stream_code(stream: AbstractStream) -> tuple[list[str], str]:
    """Imports and a line that makes this stream anew: a call of a protocol with what differs from
    its defaults; joined and cut as it was.

    A stream of images that have no name cannot be written down: then the line is a comment.
    """
    try:
        stream.check_rebuildable()
    except ValueError:
        return [], "# stream: your own, as above: its images have no name that tta_lab.load finds"
    imports, text = _stream_expression(stream)
    return sorted(set(imports)), f"stream = {text}"


def _stream_expression(stream: AbstractStream) -> tuple[list[str], str]:
    if isinstance(stream, CachedStream):
        stream = stream.stream
    if isinstance(stream, Joined):
        parts = [_stream_expression(part) for part in stream.parts]
        return [line for imports, _ in parts for line in imports], " + ".join(text
                                                                              for _, text in parts)
    if isinstance(stream, Slice):
        imports, text = _stream_expression(stream.stream)
        text = f"({text})" if isinstance(stream.stream, Joined) else text
        return imports, f"{text}.cut({stream.start}, {stream.stop})"
    calls = list(_calls(stream)) if type(stream) is Stream else []
    if not calls:
        order = getattr(stream, "order", None)  # one of yours is found once it is imported
        own = isinstance(order, Order) and type(order).__module__ != Order.__module__
        return ["from tta_lab.streams.stream import Stream", *([_import(order)] if own else [])
                ], f"Stream.from_json({stream.to_json()!r})"
    name, given = min(calls, key=lambda call: (len(call[1]), call[0] != "continual"))
    imports = [f"from tta_lab.streams.protocols import {name}",
               *sorted({_import(v) for v in given.values() if isinstance(v, Order)})]
    return imports, f"{name}({', '.join(f'{k}={_short(v)}' for k, v in given.items())})"


def _short(value) -> str:
    """Code for an argument of a stream; an order with what differs from its defaults."""
    if not isinstance(value, Order):
        return repr(value)
    changed = [
        f"{f.name}={getattr(value, f.name)!r}" for f in fields(value)
        if getattr(value, f.name) != f.default
    ]
    return f"{type(value).__name__}({', '.join(changed)})"


def _calls(stream: Stream):
    """(name, arguments) of all calls of protocols that make this stream; what is a protocol's
    default is left out."""
    plain = {f.name: getattr(stream, f.name) for f in fields(stream)}
    plain |= {
        role: plain[role].name for role in ("known", "unknown")
        if plain[role] is not None and not isinstance(plain[role], str)
    }
    wanted, usual = stream.settings(), {f.name: f.default for f in fields(Stream)}
    for name, function in PROTOCOLS.items():
        if name == "closed_set":
            continue  # continual over other shifts
        defaults = {
            k: p.default for k, p in inspect.signature(function).parameters.items()
            if p.kind is not p.VAR_KEYWORD
        }
        for own in _own_arguments(name, plain):
            # small sets need these two from the start
            given = {
                "known": plain["known"],
                **({} if own.keys() & {"shifts", "groups"} else {"shifts": plain["shifts"]}),
                **own, "per_shift": plain["per_shift"]
            }
            try:
                made = function(**given)
                given |= {
                    k: v for k, v in plain.items()
                    if k not in given and k not in own and v != getattr(made, k)
                }
                if name == "cyclic":
                    given.pop("shifts", None)
                given = {k: v for k, v in given.items() if k not in defaults or defaults[k] != v}
                if any(usual[k] == v for k, v in given.items()
                       if k in ("order", "mixed", "straddle", "rounds", "unknown", "reset")):
                    continue  # what makes this protocol would be undone
                if function(**given).settings() != wanted:
                    continue
            except (ValueError, TypeError, RuntimeError):
                continue  # this protocol cannot make it
            for k in ("shifts", "per_shift"):
                with contextlib.suppress(ValueError, TypeError, RuntimeError):
                    less = {n: v for n, v in given.items() if n != k}
                    given = less if function(**less).settings() == wanted else given
            yield name, given


def _own_arguments(name: str, plain: dict) -> list[dict]:
    """What a protocol takes beside the fields of a stream, read off the stream's fields; each a
    guess that is tried."""
    order, shifts = plain["order"], plain["shifts"]
    found = [{}]
    if name == "gradual":
        names = tuple(dict.fromkeys(Shift.parse(s).domain for s in shifts))
        found = [{"shifts": names, "form": form} for form in ("rmt", "cotta")]
    elif name == "alternating":
        found = [{"shifts": shifts[::2]}]
    elif name == "cyclic":
        found = [{"groups": groups, "repeats": repeats, "cycles": plain["rounds"]}
                 for repeats in range(1, 11) if (groups := _groups(shifts, repeats))]
    elif name == "recurring" and isinstance(order, Dirichlet):
        found = [{"visits": plain["rounds"], "delta": order.delta}]
    elif name in ("correlated", "mixed_correlated") and isinstance(order, Dirichlet):
        found = [{"delta": order.delta} | ({"rule": order.rule} if name == "correlated" else {})]
    elif name == "correlated" and isinstance(order, SortedByClass):
        found = [{"delta": 0}]
    elif name == "label_shift" and isinstance(order, LabelShift):
        found = [{"ratio": order.ratio}]
    elif name == "class_imbalance" and isinstance(order, ClassImbalance):
        found = [{"exponent": order.exponent, "grouped": order.grouped}]
    elif name == "open_set" and plain["unknown"] is not None:
        found = [{"unknown": plain["unknown"], "unknown_ratio": plain["unknown_ratio"]}]
    return found


def _groups(shifts: tuple, repeats: int) -> tuple[str, ...]:
    """The names of GROUPS whose shifts, each group ``repeats`` times in a row, are these; () where
    there are none."""
    groups, at = [], 0
    while at < len(shifts):
        found = next((g for g, names in GROUPS.items()
                      if shifts[at:at + len(names) * repeats] == tuple(names) * repeats), None)
        if found is None:
            return ()
        groups.append(found)
        at += len(GROUPS[found]) * repeats
    return tuple(groups)


@dataclass
class Exploration:
    """What `explore` found: ``trace`` of the choice, ``references`` (name -> Trace), ``refused``
    (name -> why a reference could not run)."""

    choice: Experiment
    trace: Trace
    references: dict
    refused: dict

    @property
    def rows(self) -> list[dict]:
        """One dict of numbers for each run, the choice first. Without labels those that need them
        are absent; ``why`` says so."""
        found = [{"run": name, **row(trace)}
                 for name, trace in {"choice": self.trace, **self.references}.items() if len(trace)]
        return found if self.choice.labelled else [
            {k: v for k, v in line.items() if k not in WITH_LABELS} for line in found
        ]

    @property
    def why(self) -> str:
        """Why there is no error, or ""."""
        return "" if self.choice.labelled else NO_LABELS

    @property
    def table(self):
        """The rows as a pandas frame."""
        import pandas
        return pandas.DataFrame(self.rows)


def experiment_of(value) -> Experiment:
    if not isinstance(value, Experiment):
        raise WrongKind(
            "choice must be an Experiment, such as Experiment('fashion_resnet_bn', continual(), "
            f"'tent'), not {shown(value)}"
        )
    return value


def references_of(names) -> tuple[str, ...]:
    """Names of methods, checked before anything runs."""
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise WrongKind(
            "references must list names of methods, such as ('source', 'batch_norm'), not "
            f"{names!r}"
        )
    names = tuple(names)
    for name in names:
        if not isinstance(name, str):
            raise WrongKind(
                "references must list names of methods, such as ('source', 'batch_norm'), not "
                f"{shown(name)}"
            )
        recipe_of(name, "references")
    return names


def incompatibilities(choice: Experiment) -> list[str]:
    """Why this choice cannot run, before it runs: one sentence each; none when it can. One image is
    shown to the model, so that a wrong size or another number of classes is said at once."""
    found, choice = [], experiment_of(choice)
    try:
        adapter = _adapter(choice, choice.recipe, "cpu", probe=True)
        check_classes(adapter, choice.stream, SimpleNamespace(x=one_image(choice.stream.known_set)))
    # DataError is a RuntimeError, as is what a network says of a size
    except (NeedsError, ValueError, TypeError, RuntimeError, ImportError) as why:
        found.append(str(why))
    return found


def one_image(images) -> torch.Tensor:
    """The first image of a set, clean or, where it holds no clean ones, of its first domain.  (1,
                                                                                               C, H,
                                                                                               W)"""
    for domain in getattr(images, "domains", ()):
        for place in (("none", 5), *((domain, severity) for severity in (5, 4, 3, 2, 1))):
            with contextlib.suppress(ValueError):
                images.check_domain(*place)
                rows = images.rows(place[0])
                return images.images(
                    torch.arange(1) if rows is None else rows[:1], domain=place[0],
                    severity=place[1])
    return images.images(torch.arange(1))


def needs(recipe: Method) -> str:
    """What a recipe (or the method of this name) needs, in words."""
    recipe = recipe_of(recipe)
    words = {
        "batch_norm": "batch-norm layers", "features": "a model with features and head",
        "source_logits": "a second forward pass, of the frozen source", **{
            name: info.what + " (made from source images before the "
                              "run)" for name, info in source_info_of(recipe).items(
            )
        }
    }
    wanted = [words.get(name, name) for name in sorted(needs_of(recipe))]
    return "Needs " + "; ".join(wanted) + "." if wanted else "Needs nothing but a model and images."


def _adapter(choice: Experiment, recipe: Method, device, probe: bool = False) -> Adapter:
    model, source_info = choice.network, None
    wanted = source_info_of(recipe)
    if wanted and choice.source_images is not None:
        if probe:
            # names are enough; PETAL begins at such means
            source_info = dict.fromkeys(wanted,
                                        {f"mean/{n}": p for n, p in model.named_parameters()})
        else:
            images = load(choice.source_images) if isinstance(choice.source_images,
                                                              str) else choice.source_images
            source_info = prepare(model, recipe, images, device=device)
    return Adapter(model, recipe, seed=choice.seed, device=device, record="source",
                   source_info=source_info)


def model_key(choice: Experiment) -> tuple:
    """What tells one model from another in a session: of a text also the state of the files that it
    names, else weights, settings and code."""
    return (choice.model, facts_of(choice.model)) if isinstance(
        choice.model, str) else (run_keys.described(choice.model), )


def signature(choice: Experiment) -> tuple:
    """What tells one choice from another in a session."""
    return model_key(choice), choice.stream.hash, to_json(choice.recipe), choice.seed


def _key(choice: Experiment) -> tuple:
    """What the traces of references depend on."""
    return choice.stream.hash, run_keys.described(choice.network), choice.seed


def explore(choice: Experiment, references=tuple(REFERENCES), *, device="auto",
            stop: Callable[[], bool] | None = None,
            each: Callable[[str, Trace], None] | None = None,
            known: dict | None = None) -> Exploration:
    """Run the references and then the choice on the same stream.

    ``stop()`` is asked before each batch; ``each(name, trace)`` is called after each, name "choice"
    or a reference's. ``known`` keeps the traces of references between calls (a dict that this
    function fills), so that they run once for each stream and model.
    """
    done = {}
    refused = {}
    known = {} if known is None else known
    references = references_of(references)
    key = _key(experiment_of(choice))
    for name in references:
        if (key, name) not in known:
            try:
                adapter = _adapter(choice, make(name), device)
            except NeedsError as why:
                refused[name] = str(why)
                continue
            trace = run(adapter, choice.stream, stop=stop,
                        each=None if each is None else lambda t, name=name: each(name, t))
            if not trace.meta["complete"]:
                done[name] = trace
                return Exploration(choice, Trace(), done, refused)
            known[key, name] = trace
        done[name] = known[key, name]
    trace = run(_adapter(choice, choice.recipe, device), choice.stream, stop=stop,
                each=None if each is None else lambda t: each("choice", t))
    return Exploration(choice, trace, done, refused)


class Session:
    """A choice and its references, one batch at a time: ``advance()`` makes one batch and shows it
    to each of them.

    At the end the traces are those of `explore`, bit for bit. ``known`` keeps finished references
    between sessions, as in `explore`; those are not run again, so their traces may be longer than
    that of the choice. ``traces`` (name -> Trace, "choice" and the references), ``refused`` (name
    -> why a reference cannot run), ``done`` and ``total`` (batches), ``finished``;
    ``probabilities`` (name -> (N, K) float32) of every answer, and empty where there would be more
    than `KEPT_PROBABILITIES` numbers. Raises what `Adapter` raises when the choice cannot run; an
    error in ``advance`` leaves the rows seen so far in the traces.
    """

    def __init__(self, choice: Experiment, references=tuple(REFERENCES), *, device="auto",
                 known: dict | None = None):
        references = references_of(references)
        self.choice = experiment_of(choice)
        self.refused = {}
        self.done = 0
        self.total = len(choice.stream)
        self._known, self._key = {} if known is None else known, _key(choice)
        self._keep = choice.stream.n_images * len(choice.stream.classes) <= KEPT_PROBABILITIES
        self._adapters = {}
        self._finished = {}
        self._answers = {}
        shared = {}
        for name in ("choice", *references):
            if name != "choice" and (self._key, name) in self._known:
                self._finished[name] = self._known[self._key, name]
                continue
            try:
                adapter = _adapter(choice, choice.recipe if name == "choice" else make(name),
                                   device)
            except NeedsError as why:
                if name == "choice":
                    raise
                self.refused[name] = str(why)
                continue
            adapter.shared_source = shared
            self._adapters[name], self._answers[name] = adapter, []
        self._batches = choice.stream.batches(self._adapters["choice"].device)

    @property
    def finished(self) -> bool:
        """Whether the last batch has been shown."""
        return self.done >= self.total

    @property
    def traces(self) -> dict:
        """name -> Trace: the choice first, then the references."""
        return {name: adapter.trace for name, adapter in self._adapters.items()} | self._finished

    @property
    def probabilities(self) -> dict:
        """name -> (N, K): the probabilities that each run answered with, in the order of the
        images."""
        fresh = {name: np.concatenate(rows) for name, rows in self._answers.items() if rows}
        kept = {
            name: self._known[self._key, name, "probabilities"] for name in self._finished
            if (self._key, name, "probabilities") in self._known
        }
        return fresh | kept

    def advance(self) -> bool:
        """Show the next batch to every run; False when there was none left."""
        batch = next(self._batches, None)
        if batch is None:
            return False
        stream, one = self.choice.stream, _OneBatch(self.choice.stream, batch)
        for name, adapter in self._adapters.items():
            if self.done and (stream.reset == "batch" or
                              stream.reset == "domain" and batch.new_domain):
                adapter.reset(keep_trace=True)
            peak = adapter.trace.meta.get("peak_memory_bytes", 0)
            run(_Heard(adapter, self._answers[name]) if self._keep else adapter, one)
            adapter.trace.meta["peak_memory_bytes"] = max(peak,
                                                          adapter.trace.meta["peak_memory_bytes"])
            adapter.trace.meta["complete"] = self.done + 1 == self.total
        self.done += 1
        if self.finished:
            for name, adapter in self._adapters.items():
                if name != "choice":
                    self._known[self._key, name] = adapter.trace
                    if self._keep:
                        self._known[self._key, name,
                                    "probabilities"] = np.concatenate(self._answers[name])
        return True

    def shown(self) -> Experiment:
        """The choice of exactly what has been shown: its stream is cut where the session stands.
        Before the first batch: the choice."""
        return self.choice if self.finished or not self.done else replace(
            self.choice, stream=self.choice.stream.cut(0, self.done))

    def exploration(self) -> Exploration:
        """What was found so far, as `explore` hands it back."""
        traces = self.traces
        return Exploration(self.choice, traces.pop("choice"), traces, dict(self.refused))


@dataclass(frozen=True)
class _OneBatch(StreamWrapper):
    """A stream of which one batch, which has been made already, is sent."""

    batch: Batch
    same_images: ClassVar[bool] = True
    goes_on: ClassVar[bool] = True  # the rows of all its batches are those of one stream

    def batches(self, device="cpu", start=0, stop=None):
        yield self.batch


class _Heard:
    """An adapter of which every answer is written down as probabilities."""

    def __init__(self, adapter: Adapter, rows: list):
        self._adapter, self._rows = adapter, rows

    def __getattr__(self, name):
        return getattr(self._adapter, name)

    def __call__(self, x, ids=None):
        logits = self._adapter(x, ids)
        self._rows.append(logits.detach().float().softmax(1).cpu().numpy())
        return logits
