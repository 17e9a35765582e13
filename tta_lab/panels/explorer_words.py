"""What the explorer says: sentences and names, from a choice and from the numbers of a run."""
from __future__ import annotations

import numpy as np

from ..components.controllers.collapse_detector import ALARMS, CollapseDetector
from ..components.controllers.guard import Guard, guarded
from ..components.selectors import SELECTORS
from ..core.knobs import Knob, knobs, with_knobs
from ..core.parts import LossMethod
from ..experiments.experiment import needs
from ..experiments.runner import row
from ..methods import METHODS, make
from ..models.embedded import checkpoints
from ..models.names import parse
from ..studies.explorer import study as E
from ..studies.explorer.choosing import ranked, ranking_table, say_ranked
from ..studies.streams.study import first_sentence, say_statistics
from .layout import block, table_html

# --- recipes by their names

def join_recipe(found: dict):
    """The recipe of `split_recipe` with its knobs as in the paper."""
    recipe = make(found["method"], form=found["form"])
    if found["selectors"]:
        recipe = recipe.where(*(SELECTORS[name]() for name in found["selectors"]))
    return guarded(recipe) if found["guard"] else recipe


def split_recipe(recipe) -> dict | None:
    """A recipe as ``method``, ``form``, ``selectors`` (up to two names, added to the method's own),
    ``guard`` and ``values`` of all knobs; None where it holds other parts than these."""
    name = method_name(recipe)
    if name not in METHODS:
        return None
    learns = isinstance(recipe, LossMethod)
    last = recipe.controllers[-1] if learns and recipe.controllers else None
    guard = isinstance(last, Guard) and last.detector == CollapseDetector()
    values = {k.name: k.value for k in knobs(recipe)}
    for form in ("paper", *METHODS[name].forms):
        added = recipe.select[len(make(name, form=form).select):] if learns else ()
        selectors = [selector_name(s) for s in added]
        if len(selectors) > 2 or None in selectors:
            continue
        found = {"method": name, "form": form, "selectors": selectors, "guard": guard,
                 "values": values}
        base = join_recipe(found)
        if ([k.name for k in knobs(base)] == list(values)
                and with_knobs(base, **values) == recipe):
            return found
    return None


def method_name(recipe) -> str:
    """The name of a recipe's method in the catalogue, or of its class."""
    kind = type(recipe)
    return next((name for name, k in METHODS.items() if k is kind), kind.__name__)


def selector_name(part) -> str | None:
    return next((name for name, kind in SELECTORS.items() if kind is type(part)), None)


def recipe_label(recipe, rate: bool = False) -> str:
    """Method, selectors, guard and changed knobs, short; ``rate``: the learning rate too where it
    was not changed."""
    name = method_name(recipe)
    found = split_recipe(recipe)
    if found is None:
        return name
    paper = {k.name: k.value for k in knobs(join_recipe(found))}
    changed = {n.split(".")[-1]: v for n, v in found["values"].items()
               if v != paper[n] or rate and n == "update.lr"}
    parts = [name if found["form"] == "paper" else f"{name} [{found['form']}]"]
    parts += [f"+ {s.replace('_', ' ')}" for s in found["selectors"]] + ["+ guard"] * found["guard"]
    parts += [f"{n} {v:.3g}" if isinstance(v, float) else f"{n} {v}" for n, v in changed.items()]
    return " ".join(parts)


def knob_label(knob: Knob, recipe) -> str:
    """A knob in plain words, with the selector that it belongs to."""
    if knob.name == "update.lr":
        return "learning rate"
    if knob.name.startswith("select."):
        _, i, short = knob.name.split(".", 2)
        part = recipe.select[int(i)]
        return f"{selector_name(part) or type(part).__name__}: {short}".replace("_", " ")
    return knob.name.replace("_", " ")


def form_label(form: str) -> str:
    if form == "paper":
        return "as in the paper"
    return "as in the authors' code" if form == "reference" else f"as in public code: {form}"


def model_name(model) -> str:
    """An embedded model's name, or of your own what it is."""
    if model in checkpoints():
        return model
    if not isinstance(model, str):
        return "your model"
    kind, name, _ = parse(model)
    file = name.replace("\\", "/").rpartition("/")[2]
    return f"your {file}" if kind in ("checkpoint", "python") else name


# --- the choice

def describe_method(kind, selectors) -> str:
    """What a method and the selectors before it do."""
    text = first_sentence(kind) + (f" ({kind.paper.rstrip('.')})" if kind.paper else "")
    for name in filter(None, selectors):
        text += f" {name.replace('_', ' ').capitalize()}: {first_sentence(SELECTORS[name])}"
    return text


def describe_choice(choice, protocol) -> str:
    """What a choice does and needs; ``protocol`` is the function that made its stream, or None."""
    found = split_recipe(choice.recipe)
    stream = choice.stream
    text = describe_method(type(choice.recipe), found["selectors"] if found else ())
    if choice.labelled:
        shown = say_statistics(stream.statistics(), len(stream.classes)).capitalize()
    else:
        shown = (f"{stream.n_images} images in {len(stream)} batches; without labels it is not "
                 "known which classes come when")
    what = "Your stream." if protocol is None else first_sentence(protocol)
    return f"{text} {needs(choice.recipe)} Stream: {what} {shown}."


# --- the run

def alarm_text(state: str, status, errors: dict) -> str:
    """What the alarm light says: its word with the evidence, or why it cannot judge, and with
    labels the error beside the references'."""
    if state == "wait":
        return "no run yet"
    word = E.LIGHTS[state][1]
    text = f"{word}: {status.why}." if state == "unsure" else f"{word}. {status.words}"
    if state == "calm":  # the evidence matters when there is some
        text = text.partition(";")[0].rstrip(".") + "."
    return f"{text} {E.say_beside(errors)}".rstrip()


def alarm_sentence(state: str, status) -> str:
    """The alarm light in the sentence of a run."""
    if state == "unsure" and status.first < 0:
        return f"The alarm light cannot judge: {status.why.partition(',')[0].partition(':')[0]}."
    if status.first < 0:
        return "No alarm."
    now = f", now: {status.name}." if status.alarm else ", none now."
    return f"First alarm in batch {status.first + 1}{now}"


def alarm_cell(state: str, status) -> str:
    """The alarm light in the table of runs."""
    return "cannot judge" if state == "unsure" and status.first < 0 else ALARMS[status.alarm]


def finding(trace, references: dict, label_free: dict, head: str) -> str:
    """Error of a run beside its references; without labels how often it answers like them."""
    error = row(trace)["error"]
    if not np.isfinite(error):
        return f"{head}, no labels: {E.say_agreement(label_free)}."
    others = ", ".join(f"{name} {row(t)['error']:.1f} %" for name, t in references.items())
    return (f"{head}: error {error:.1f} %, mean over the domains seen{'; ' if others else ''}"
            f"{others}.")


def figure_text(name: str, numbers: dict) -> str:
    """What a figure shows, for those who cannot see it."""
    if name == "errors":
        found = numbers["so_far"]
        last = ", ".join(f"{run} {value:.1f}" for run, value in found["last"].items())
        return f"{found['what']}: {last}" if last else "No run yet."
    if name == "predictions":
        return (f"Entropy of the last {numbers['entropy']['n']} images, and how often each class "
                "is predicted.")
    if name == "threshold":
        return E.say_threshold(numbers)
    raise ValueError(f"there is no figure {name!r}")


def ranking_html(runs) -> str:
    """Runs ranked without labels, as a sentence and a table."""
    if len(runs) < 2:
        return block("Tick two runs or more of one stream, or try five rates: they are ranked by "
                     "what needs no label.")
    try:
        found = ranked(runs)
    except ValueError as error:
        return block(str(error))
    return block(say_ranked(found)) + table_html(*ranking_table(found))
