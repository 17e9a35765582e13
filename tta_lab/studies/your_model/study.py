"""What the bring-your-own notebook does: a model and images named by texts, the doctor's word, runs
with and without labels, the safety report.

`make_example` writes what a user would bring (a folder of pictures, a Python file with a network, a
file of weights), so that all of it can be tried with nothing at hand.
"""
from __future__ import annotations

import html
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from ...core import places
from ...core.arguments import flag
from ...core.files import write_text, written
from ...core.source_info import source_info_of
from ...core.source_model import SourceModel
from ...data.corruptions import EXTRA_4, STANDARD_15
from ...data.load import load
from ...experiments.experiment import REFERENCES, Experiment, explore, incompatibilities
from ...methods import METHODS, make
from ...models.doctor import NORMALISATIONS, Report, check_up
from ...models.embedded import checkpoints, load_model
from ...models.example import NETWORK
from ...models.names import model_text, open_model, parse, refuse_code
from ...streams.protocols import recorded
from ..explorer.study import label_free
from ..folders import brings_labels, images_text
from ..report import write_named

FAST = {"images": 200, "limit": 150, "doctor": 200}
FULL = {"images": 1000, "limit": 1000, "doctor": 512}
SHIFTS = ("none", "fog", "gaussian_noise")  # of the example's images, one after another
MARKS = {"ok": "●", "warning": "▲", "error": "■"}
NO_FIELDS = ("{!r}: a panel needs weights in a file of their own; write "
             "checkpoint:WEIGHTS?architecture={}")
PRESETS = {"as the weights say, else none": None, "none: images in 0 to 1": ((0.0,), (1.0,)),
           **{name: card for cards in NORMALISATIONS.values() for name, card in cards.items()}}

# from the embedded network to the one above
RENAMED = (("features.0.", "stem.0."), ("features.1.", "stem.1."), ("features.3.", "body.0."),
           ("features.4.", "body.1."), ("features.5.", "body.2."), ("norm1", "bn1"),
           ("norm2", "bn2"), ("shortcut", "short"), ("head.", "classifier."))


@dataclass(frozen=True)
class Case:
    """A model and images as texts: ``model`` for `tta_lab.models.names.open_model`, ``images`` and
    ``unlabelled`` for `tta_lab.load`, both of the same files in the same order, ``unlabelled``
    without their labels (the same text where there are none, "" for a set that brings its labels);
    ``named`` the images as they were named, before the text was completed for this model;
    ``folder`` a place for what is written; ``notes`` says what was decided."""

    model: str
    images: str
    unlabelled: str
    labelled: bool
    named: str
    folder: Path
    notes: tuple[str, ...] = ()

    @property
    def network(self) -> SourceModel:
        """The model, opened."""
        return open_model(self.model)

    @property
    def bare(self):
        """The images without their labels, in the same order: the text that names them, or the set
        itself."""
        if self.unlabelled:
            return self.unlabelled
        data = load(self.images)
        return replace(data, y=torch.full_like(data.y, -1))


def folder_name(name: str) -> str:
    """A class name that can be the name of a folder."""
    return name.replace("/", "-")


def make_example(folder, images: int = 200, seed: int = 0) -> dict[str, str]:
    """Write an example below ``folder``: ``photos/CLASS/NUMBER.png`` (Fashion-MNIST test images;
    the numbers run over all classes, as a camera would count), ``my_network.py``,
    ``my_weights.safetensors`` (its names with the prefix "module.", as training on several devices
    leaves them).

    Returns the texts ``model`` and ``images``. An example that is there already is written again.
    Raises ValueError for less than one image, and for a folder that holds files of these names that
    are not the example's.
    """
    from PIL import Image
    from safetensors.torch import save_file

    if images < 1:
        raise ValueError(f"the example needs at least one image, got {images}")
    root = Path(folder)
    source = load_model("fashion_resnet_bn")
    data = load("fashion_mnist")
    _refuse_strangers(root)
    names = [folder_name(name) for name in data.classes]
    write_text(root / "my_network.py", NETWORK)  # first: by it the folder is known as an example's
    for name in names:
        (root / "photos" / name).mkdir(parents=True, exist_ok=True)
    deck = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    first = torch.cat([deck[data.y[deck] == k][:-(-images // len(names))]
                       for k in range(len(names))])  # as many of each class
    chosen = first[torch.randperm(len(first), generator=torch.Generator().manual_seed(seed))][
        :images]
    for number, row in enumerate(chosen.tolist()):
        Image.fromarray(data.x[row, 0].numpy()).save(root / "photos" / names[data.y[row]]
                                                     / f"{number:05d}.png")
    with written(root / "my_weights.safetensors") as part:
        save_file({f"module.{_renamed(k)}": v.contiguous()
                   for k, v in source.net.state_dict().items()}, part)
    card = source.card
    model = model_text("checkpoint", (root / "my_weights.safetensors").absolute(),
                       architecture=f"{(root / 'my_network.py').absolute()}:MyNetwork",
                       mean=card.mean, std=card.std, size="x".join(map(str, card.size)),
                       classes=names)
    return {"model": model,
            "images": f"folder:{places.joined((root / 'photos').absolute(), 'order=file')}"}


def _refuse_strangers(root: Path) -> None:
    """Raise ValueError where files of somebody else would be written over."""
    code = root / "my_network.py"
    others = [root / "photos", root / "my_weights.safetensors"]
    if code.exists():
        foreign = [code] if not code.is_file() or code.read_bytes() != NETWORK.encode() else []
    else:
        foreign = [p for p in others if p.is_file() or p.is_dir() and any(p.iterdir())]
    if foreign:
        raise ValueError(f"{foreign[0]} is there already and is not the example's, so nothing was "
                         "written: name another folder for the example")


def _renamed(name: str) -> str:
    for old, new in RENAMED:
        name = name.replace(old, new)
    return name


def open_case(model: str = "", images: str = "", labelled: bool = True, folder=None, n: int = 200,
              seed: int = 0, trust: bool = False) -> Case:
    """A case from texts; what is "" is taken from the example, which then is written into
    ``folder`` ("" or None: a new temporary one).

    ``images``: the path of a folder of your own, or a text for `tta_lab.load`. Size and colour are
    those of the model's card where the text does not say them; ``labelled``: sub-folders are
    classes, else all images count as unlabelled. See `images_text` for the classes. A model's text
    that names a Python file runs it, and is refused unless ``trust`` says that you trust it; the
    example's own file needs no word. Raises DataError or ValueError naming what does not fit, and
    the remedy.
    """
    refuse_code(model, flag("trust", trust))
    notes = []
    folder = Path(folder or tempfile.mkdtemp(prefix="tta_lab_")).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    if not model or not images:
        example = make_example(folder, n, seed)
        lacking = " and no ".join([*["model"] * (not model), *["images"] * (not images)])
        notes.append(f"No {lacking} named: an example is used, written into {folder}.")
        model = model or example["model"]
        images = images or example["images"]
    network = open_model(model)
    text, more = images_text(images, network, labelled)
    data = load(text)
    try:
        data.check_domain("none")
    except ValueError as why:
        raise ValueError("doctor and safety report look at clean images, and these are "
                         f"none: {why}") from why
    if not (data.y >= 0).any():
        if labelled:
            more.append(f"{data.name.partition('?')[0]} has no sub-folders (or no labels), so its "
                        "images have no labels.")
        return Case(model, text, text, False, images, folder, (*notes, *more))
    unlabelled = "" if brings_labels(images) else images_text(images, network, False)[0]
    return Case(model, text, unlabelled, True, images, folder, (*notes, *more))


SOURCES = {"checkpoint": "a file of weights, network read from it",
           "python": "a file of weights and a Python file", "torchvision": "torchvision",
           "timm": "timm", "cifar": "a file of weights of a CIFAR network",
           "embedded": "one that comes with the package"}
# the fields that name a model
EMPTY = {"source": "checkpoint", "name": "", "weights": "DEFAULT", "checkpoint": "", "code": "",
         "preset": None, "mean": "", "std": "", "size": "", "classes": "", "more": ""}


def names_of(source: str) -> list[str]:
    """The architectures to choose from. Raises ImportError where timm is asked for and not
    installed."""
    if source == "torchvision":
        from torchvision import models as zoo
        return zoo.list_models(module=zoo)
    if source == "timm":
        import timm
        return timm.list_models()
    if source == "cifar":
        from ...models.cifar_networks import NETWORKS
        return ["", *NETWORKS]
    return list(checkpoints()) if source == "embedded" else []


def text_of(fields: dict) -> str:
    """The text for `open_model` that a panel's fields (`EMPTY`) stand for. Raises ValueError naming
    the field that is empty or wrong."""
    f = EMPTY | {k: v.strip() if isinstance(v, str) else v for k, v in fields.items()}
    more = dict(part.partition("=")[::2] for part in f["more"].split("&") if part.strip())
    if f["preset"] is not None:
        more |= {"mean": f["preset"][0], "std": f["preset"][1]}
    if f["mean"] or f["std"]:
        if not (f["mean"] and f["std"]):
            raise ValueError("give both mean and std, or neither")
        more |= {"mean": f["mean"].replace(" ", ""), "std": f["std"].replace(" ", "")}
    more |= {name: f[name] for name in ("size", "classes") if f[name]}
    file = (f["source"] in ("checkpoint", "python", "cifar")
            or f["source"] in ("torchvision", "timm") and f["weights"] == "file")
    if file and not f["checkpoint"]:
        raise ValueError("no file of weights is named: type its path into the field 'weights file'")
    if f["source"] == "embedded":
        return model_text("embedded", f["name"], **more) if more else f["name"]
    if f["source"] == "checkpoint":
        return model_text("checkpoint", f["checkpoint"], **more)
    if f["source"] == "python":
        if not f["code"]:
            raise ValueError("no Python file is named: type FILE.py:NAME into the field 'Python "
                             "file', where NAME() makes the network")
        return model_text("checkpoint", f["checkpoint"], architecture=f["code"], **more)
    if f["source"] == "cifar":
        return model_text("checkpoint", f["checkpoint"], architecture=f"cifar:{f['name']}", **more)
    if not f["name"]:
        raise ValueError(f"no network of {f['source']} is chosen")
    if f["weights"] == "file":
        return model_text("checkpoint", f["checkpoint"], architecture=f"{f['source']}:{f['name']}",
                          **more)
    return model_text(f["source"], f["name"], weights=f["weights"], **more)


def fields_of(text: str) -> dict:
    """The fields of a panel that stand for a text; `text_of` of them opens the same model. Raises
    ValueError as `names.parse` does, and for "python:" texts, which have no fields."""
    kind, name, options = parse(text)
    fields = dict(EMPTY)
    architecture = options.pop("architecture", "")
    if kind == "python":
        raise ValueError(NO_FIELDS.format(text, name))
    fields |= {"mean": options.pop("mean", ""), "std": options.pop("std", ""),
               "size": options.pop("size", ""), "classes": options.pop("classes", "")}
    if kind == "checkpoint":
        library, _, network = architecture.partition(":")
        fields["checkpoint"] = name
        if ".py:" in architecture:
            fields |= {"source": "python", "code": architecture}
        elif library in ("torchvision", "timm"):
            fields |= {"source": library, "name": network, "weights": "file"}
        elif library == "cifar":
            fields |= {"source": "cifar", "name": network}
    else:
        fields |= {"source": kind, "name": name}
        weights = options.pop("weights", "DEFAULT")
        own = Path(weights).expanduser().is_file()
        fields["weights"] = "file" if own else "none" if weights.lower() in ("none",
                                                                             "random") else weights
        fields["checkpoint"] = weights if own else ""
    fields["more"] = "&".join(f"{k}={v}" for k, v in options.items())
    return fields


def say_model(model: SourceModel) -> list[str]:
    """What a model is and how it wants its images, in sentences."""
    layers = [type(m).__name__ for m in model.net.modules()]
    norms = {kind: sum(kind in name for name in layers)
             for kind in ("BatchNorm", "LayerNorm", "GroupNorm")}
    listed = ", ".join(f"{n} {kind} layer{'s' * (n > 1)}" for kind, n in norms.items()
                       if n) or "no normalisation layer"
    card = model.card
    size = ("any size" if model.card.size is None
            else f"{model.card.size[0]} x {model.card.size[1]} pixels")
    plain = not any(card.mean) and set(card.std) == {1.0}
    taken = ("taken as they are" if plain or model.normalisation == "in_data"
            else f"normalised with mean {', '.join(f'{v:g}' for v in card.mean)} and std "
                 f"{', '.join(f'{v:g}' for v in card.std)}")
    names = model.info.get("classes")
    weights = model.info.get("trained_on")
    weights = (model.info.get("weights") or "random") if weights is None else weights
    lines = [
        f"{model.info.get('architecture') or type(model.net).__name__}: "
        f"{sum(p.numel() for p in model.parameters()):,} weights, {listed}.",
        f"Weights: {weights}.",
        f"Input: {'grey' if card.channels == 1 else 'colour'} images in 0 to 1, {size}, {taken}."]
    lines.append(f"Classes: {', '.join(names[:6])}{', ...' if len(names) > 6 else ''} "
                 f"({len(names)})." if names else "The names of its classes are not known.")
    return [*lines, *([model.info["read"]] if model.info.get("read") else [])]


def say_report(report: Report) -> list[str]:
    """The doctor's word in sentences: what is wrong and what to do, then what could not be looked
    at."""
    bad = [f for f in report.findings if f.severity != "ok"]
    fine = [f.check for f in report.findings if f.severity == "ok"]
    lines = [f"{MARKS[f.severity]} {f.severity}, {f.check}: {f.what}. "
             f"{f.remedy[:1].upper()}{f.remedy[1:]}."
             for f in sorted(bad, key=lambda f: f.severity)]
    head = (f"{MARKS['ok']} The doctor looked at {report.images} images and found nothing wrong"
            if not bad else f"The doctor looked at {report.images} images and found {len(bad)} "
                            f"thing{'s' * (len(bad) > 1)} to put right")
    return [head + f" (fine: {', '.join(fine)}).", *lines,
            *(f"Not looked at: {text}." for text in report.unchecked)]


def report_html(report: Report, width: int = 820) -> str:
    """The doctor's findings as a table, the worst first; a shape and a word say how bad, not a
    colour alone."""
    style = 'style="text-align: left; vertical-align: top; padding: 2px 8px"'
    rows = "".join(f"<tr><td {style}>{MARKS[r['severity']]} {r['severity']}</td>" + "".join(
                       f"<td {style}>{html.escape(r[k])}</td>" for k in ("check", "what", "remedy"))
                   + "</tr>" for r in report.rows())
    head = "".join(f'<th scope="col" {style}>{t}</th>'
                   for t in ("", "looked at", "found", "what to do"))
    rest = "".join(f"<br>Not looked at: {html.escape(text)}." for text in report.unchecked)
    return (
        f'<div style="max-width: {width}px; overflow-x: auto; line-height: 1.4">'
        f'<table style="line-height: 1.3"><tr>{head}</tr>{rows}</table>'
        f"{rest}</div>")


class Times255:
    """An image set whose images come as 0 to 255, which is what forgetting to divide leaves."""

    def __init__(self, data):
        self._data = data

    def __getattr__(self, name):
        return getattr(self._data, name)

    def __len__(self):
        return len(self._data)

    def images(self, *arguments, **named):
        return 255 * self._data.images(*arguments, **named)


def faults(model: SourceModel, data, n: int = 200, seed: int = 0) -> list[dict]:
    """Usual mistakes made on purpose: ``fault`` in words, ``report`` of the doctor, ``expected``
    checks, ``found`` (the checks that are not ok), ``caught``: whether an expected one is among
    them. ``data`` must have labels for the order of classes to be looked at."""
    card = model.card
    labelled = bool((data.y >= 0).any())
    wrong = (replace(card, mean=(0.0,), std=(1.0,)) if any(card.mean) or set(card.std) != {1.0}
             else replace(card, mean=(0.5,), std=(0.5,)))
    info = {k: v for k, v in model.info.items() if k != "classes"}
    made = [("a wrong mean and standard deviation", ("normalisation",),
             SourceModel(model.net, wrong, model.normalisation, model.info), data),
            ("images in 0 to 255", ("pixels",), model, Times255(data))]
    if labelled and len(data.classes) > 1:
        made.append(("classes in another order than the model's", ("class order",),
                     SourceModel(model.net, card, model.normalisation, info), reordered(data)))
    found = []
    for fault, expected, network, images in made:
        report = check_up(network.eval(), images, n=n, seed=seed)
        bad = {f.check: f for f in report.findings if f.severity != "ok"}
        found.append({"fault": fault, "expected": expected, "report": report, "found": list(bad),
                      "caught": any(e in bad for e in expected)})
    return found


def reordered(data):
    """The set with its classes in text order, as ImageFolder would number them; where they are so
    already, in reverse."""
    order = sorted(range(len(data.classes)), key=lambda k: data.classes[k])
    order = order if order != list(range(len(order))) else order[::-1]
    number = torch.empty(len(order), dtype=torch.int64)
    number[torch.tensor(order)] = torch.arange(len(order))
    return replace(data, y=torch.where(data.y < 0, data.y, number[data.y.clamp(min=0)]),
                   classes=tuple(data.classes[k] for k in order))


def say_fault(found: dict) -> str:
    """One mistake and what the doctor made of it."""
    finding = next((f for f in found["report"].findings
                 if f.severity != "ok" and f.check in found["expected"]), None)
    if finding is None:
        return (f"{found['fault'].capitalize()}: NOT noticed (it found: "
                f"{', '.join(found['found']) or 'nothing'}).")
    return (f"{found['fault'].capitalize()}: {MARKS[finding.severity]} {finding.severity}, "
            f"{finding.what}. What to do: {finding.remedy}.")


def possible(model, images) -> dict[str, list[str]]:
    """Which methods can adapt this model: ``run`` (at once), ``source`` (with images of the source
    domain), ``refused`` (not this network), each a list of names; ``why`` name -> the sentence of
    those that are refused."""
    stream = recorded(images, per_shift=1, batch=1)
    found: dict = {"run": [], "source": [], "refused": [], "why": {}}
    for name in METHODS:
        recipe = make(name)
        why = incompatibilities(Experiment(model, stream, recipe, source_images=None))
        if not why:
            found["run"].append(name)
        elif source_info_of(recipe) and not incompatibilities(Experiment(model, stream, recipe,
                                                                         source_images=images)):
            found["source"].append(name)
        else:
            found["refused"].append(name)
            found["why"][name] = why[0]
    return found


def say_possible(found: dict) -> list[str]:
    """`possible` in sentences."""
    lines = [f"{len(found['run'])} methods can adapt this model at once: "
             f"{', '.join(found['run'])}.", f"{len(found['source'])} need images of the source "
                                            f"domain besides: {', '.join(found['source'])}."
             if found["source"] else ""]
    if found["refused"]:
        first = found["refused"][0]
        lines.append(f"{len(found['refused'])} cannot: {', '.join(found['refused'])}. For "
                     f"instance: {found['why'][first]}")
    return [line for line in lines if line]


def without_batch_norm(model: SourceModel) -> SourceModel:
    """A copy in which batch norm in eval mode is folded into one multiplication and addition for
    each channel: the same answers, and no layer left whose statistics could be adapted."""
    import copy

    net = copy.deepcopy(model.net).eval()
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, Folded(child))
    return SourceModel(net, model.card, model.normalisation,
                       {k: v for k, v in model.info.items() if k != "from"}).eval()


class Folded(nn.Module):
    """What a batch-norm layer does in eval mode, as weights: x * scale + shift."""

    def __init__(self, layer: nn.BatchNorm2d):
        super().__init__()
        weight = (torch.ones_like(layer.running_var) if layer.weight is None
                  else layer.weight.detach())
        bias = torch.zeros_like(weight) if layer.bias is None else layer.bias.detach()
        scale = weight / (layer.running_var + layer.eps).sqrt()
        self.scale = nn.Parameter(scale.clone())
        self.shift = nn.Parameter((bias - layer.running_mean * scale).clone())

    def forward(self, x):
        return x * self.scale.view(1, -1, 1, 1) + self.shift.view(1, -1, 1, 1)


def first_settings(fast: bool, shifts: str = "", **given) -> dict:
    """First settings of the explorer for the notebook: the images in their own order under the
    shifts that a text names ("fog, none"; "": the usual ones), the fast or the full number of
    images; values in ``given`` that are 0 or "" are left out. Raises ValueError for an unknown
    shift."""
    chosen = tuple(name.strip() for name in shifts.split(",") if name.strip()) or SHIFTS
    known = (*STANDARD_15, *EXTRA_4, "none")
    wrong = [name for name in chosen if name not in known]
    if wrong:
        raise ValueError(f"there is no shift {wrong[0]!r}; there are: {', '.join(known)}")
    size = FAST if fast else FULL
    return {"protocol": "recorded", "shifts": chosen, "per_shift": size["images"], "batch": 25} | {
        k: v for k, v in given.items() if v}


def label_free_of(choice: Experiment, images: str, device="auto") -> dict:
    """The label-free numbers of a choice's run over another image set of the same files (with
    labels, for instance)."""
    found = explore(replace(choice, stream=replace(choice.stream, known=images)), device=device)
    return label_free(found.trace,
                      {REFERENCES[name]: trace for name, trace in found.references.items()})


def plot_images(data, n: int = 12, backend: str = "matplotlib"):
    """The first ``n`` images of a set in rows of six, with their class names (or "no label")
    below."""
    from ...plots.drawing import draw_pictures

    n = min(n, len(data))
    shown = [(image.numpy(), str(data.classes[y]) if y >= 0 else "no label")
             for image, y in zip(data.images(slice(0, n)), data.y[:n].tolist(), strict=True)]
    return draw_pictures([("" if i else "first\nimages", shown[i:i + 6]) for i in range(0, n, 6)],
                         backend, None, "There are no images.")


def beside(labelled: dict, unlabelled: dict) -> list[dict]:
    """The label-free numbers of two runs over the same images (`explorer.study.label_free`):
    ``number``, ``with labels``, ``without``, ``same``."""
    return [{"number": name, "with labels": labelled.get(name), "without": unlabelled.get(name),
             "same": labelled.get(name) == unlabelled.get(name)}
            for name in dict.fromkeys((*labelled, *unlabelled))]


def say_beside(rows: list[dict]) -> str:
    """Whether the two runs agree."""
    other = [row["number"] for row in rows if not row["same"]]
    if not rows:
        return "Neither run has numbers."
    return (f"All {len(rows)} label-free numbers are the same with labels and without." if not other
            else f"{len(rows) - len(other)} of {len(rows)} label-free numbers agree; not: "
                 f"{', '.join(other)}.")


save = write_named
