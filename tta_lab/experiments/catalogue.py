"""docs/methods.md, made from the catalogue: ``python -m tta_lab.experiments.catalogue`` writes it.
Nothing in it is typed in twice."""
from __future__ import annotations

import inspect
import re
from dataclasses import fields, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..components.augment import Augmentation, Unchanged
from ..components.source.prepare import prepare
from ..core.adapter import Adapter
from ..core.knob_text import parameter_table
from ..core.knobs import knobs
from ..core.parts import Method, needs_of
from ..core.source_info import source_info_of
from ..methods import METHODS

PLACE = Path(__file__).resolve().parents[2] / "docs" / "methods.md"
BATCH, BATCHES = 16, 8
TAKEN = {
    name: info.what for kind in METHODS.builtin.values()
    for name, info in source_info_of(kind()).items()
}
INTRO = f"""# Methods

Written by `python -m tta_lab.experiments.catalogue` from the methods themselves; do not edit.
`catalogue(cost=True)` has the same facts as rows.

**Needs**: `batch_norm` layers; `features` and `head` of the model; `source_logits`, the answer of
the frozen source beside that of the adapted model; and what is taken from the source domain
before the stream with `tta_lab.prepare`:

{chr(10).join(f"- `{k}`: {v}" for k, v in sorted(TAKEN.items()))}

**Answer**: from before or after the step, as logits unless something else is said.

**Cost**: forwards and backwards per image, counted on two tiny networks, one unsure of every
image and one sure of it, over {BATCHES} batches of {BATCH}; "a - b" where the two differ. A
forward of one augmented view counts as one; a backward counts once for each image learned from,
however many views of it are in the loss.

**Presets**: `make(name, preset=...)` takes the settings published for a benchmark, by the authors
or in a port of their code; what a preset does not name stays at the default. A rate belongs to a
batch size: 200 on CIFAR and 64 on ImageNet, but 64 on CIFAR for rotta, stamp and unmix_tns (16 on
ImageNet), and for `_retuned`, the values of a later benchmark. `_batch1` is for single images,
`_vit` for a ViT-B/16, `_wild` for mixed, imbalanced or single images, `_random` for PETAL's drawn
restore, `_split` for the classes of one set in two parts, known and unknown, and `_polyloss` for
a source model trained with that loss.

**Verified**: *golden*, equal to stored numbers of public code, of its authors unless a
re-implementation is named; *statistics*, error and size of the change over random draws within
the spread of public code; *invariants only*, hand-worked cases and identities, with no public run
to compare with.
"""


def _sentence(kind: type) -> str:
    """The first paragraph of a class's docstring, on one line."""
    return " ".join((kind.__doc__ or "").strip().split("\n\n")[0].split())


def catalogue(cost: bool = False, own: bool = True) -> list[dict]:
    """One row per method: name, sentence, family, needs, tasks, answer, how each form was verified,
    forms, presets, knobs, paper, arXiv id.

    ``cost`` adds forwards and backwards per image, (least, most), measured on tiny networks in some
    seconds. ``own``: yours too. docs/methods.md is made of the others.
    """
    rows = []
    for name, kind in (METHODS if own else METHODS.builtin).items():
        recipe, found = kind(), re.search(r"\d{4}\.\d{5}", kind.paper)
        rows.append({
            "name": name, "class": kind.__name__, "sentence": _sentence(kind),
            "family": kind.family, "needs": sorted(needs_of(recipe)), "tasks": list(kind.tasks),
            "answer": recipe.answer, "kind": kind.kind, "verified": {
                form: kind.verified_forms.get(form, kind.verified)
                for form in ("paper", *kind.forms)
            }, "forms": list(kind.forms), "presets": list(kind.presets),
            "knobs": [k.name for k in knobs(kind)], "paper": kind.paper,
            "arxiv": found.group() if found else "", **(cost_of(recipe) if cost else {})
        })
    return rows


class TinyNetwork(nn.Module):
    """Two convolutions with batch normalisation, images (B, 3, 16, 16) to 10 logits; fixed weights,
    ``scale`` of those of the head."""

    def __init__(self, scale: float, x: Tensor):
        super().__init__()
        layers = [
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.BatchNorm2d(8, momentum=1.0),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, 2, 1),
            nn.BatchNorm2d(16, momentum=1.0)
        ]
        self.features = nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(16, 10)
        self.double()
        rng = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for m in (layers[0], layers[3], self.head):
                m.weight.copy_(
                    torch.randn(m.weight.shape, generator=rng) / m.weight[0].numel()**0.5)
            self.head.weight.mul_(scale)
            self.head.bias.copy_(-self.head.weight @ self.train().features(x).mean(0))
        self.eval()

    def forward(self, x):
        return self.head(self.features(x))


def soft_images(n: int, seed: int) -> Tensor:
    """Soft random patterns of colour."""
    return F.interpolate(torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed)), 16,
                         mode="bilinear")


def cost_of(recipe: Method) -> dict[str, tuple[float, float]]:
    """Forwards and backwards per image, each (least, most) of an unsure and a sure tiny network;
    augmentations are left out.

    In float64: single precision does not tell the entropies of the unsure network apart, and who is
    kept would depend on the machine."""
    recipe = replace(
        recipe, **{
            f.name: Unchanged() for f in fields(recipe)
            if isinstance(getattr(recipe, f.name), Augmentation)
        })
    x, found = soft_images(64, 1).double(), []
    for scale in (1e-3, 1e3):
        net = TinyNetwork(scale, x)
        source_info = prepare(net, recipe, x, torch.arange(64) % 10, device="cpu")
        adapter = Adapter(net, recipe, device="cpu", source_info=source_info, record="off")
        for batch in soft_images(BATCH * BATCHES, 2).double().split(BATCH):
            adapter(batch)
        found.append([adapter.cost[k] / (BATCH * BATCHES) for k in ("forwards", "backwards")])
    return {
        k: (min(values), max(values))
        for k, values in zip(("forwards", "backwards"), zip(*found, strict=True), strict=True)
    }


def _span(low: float, high: float) -> str:
    low, high = f"{low:.1f}".removesuffix(".0"), f"{high:.1f}".removesuffix(".0")
    return low if low == high else f"{low} - {high}"


def _line(*cells) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _settings(values: dict) -> str:
    return ", ".join(f"{k} = {v!r}" for k, v in values.items())


def document() -> str:
    """The text of docs/methods.md, of the methods of this package; costs are measured, which takes
    some seconds."""
    rows = catalogue(cost=True, own=False)
    out = [
        INTRO,
        _line("method", "family", "needs", "answer", "forwards", "backwards", "verified", "paper"),
        "|" + "---|" * 8
    ]
    for row in sorted(rows, key=lambda row: (row["family"], row["name"])):
        out.append(
            _line(f"[{row['name']}](#{row['name']})", row["family"],
                  ", ".join(row["needs"]), row["answer"], _span(*row["forwards"]),
                  _span(*row["backwards"]), row["verified"]["paper"], row["arxiv"]))
    for row in rows:
        kind = METHODS[row["name"]]
        out += [
            "", f"## {row['name']}", "", "```text",
            re.sub(r"(?m) +$", "", inspect.cleandoc(kind.__doc__)), "```", ""
        ]
        out += [
            f"Family {row['family']}; for {' and '.join(row['tasks'])}; answers {row['answer']} "
            "the step"
            + ("" if row["kind"] == "logits" else f" with {row['kind'].replace('_', '-')}") +
            f". Paper: {row['paper'] or 'none'}.", ""
        ]
        for form, how in row["verified"].items():
            what = "the default" if form == "paper" else _settings(kind.forms[form])
            out.append(
                f"- verified: {how}" if not kind.forms else f"- form `{form}` ({what}): {how}")
        out += [f"- preset `{name}`: {_settings(values)}" for name, values in kind.presets.items()]
        out += ["", _line("knob", "default", "range", "what it does", "paper"), "|" + "---|" * 5]
        out += [
            _line(f"`{k['name']}`", k["value"], k["range"],
                  k["sentence"] + (f" ({k['unit']})" if k["unit"] else ""), k["paper"])
            for k in parameter_table(kind())
        ]
        if not parameter_table(kind()):
            del out[-3:]
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    PLACE.write_text(document())
    print(f"wrote {PLACE}")
