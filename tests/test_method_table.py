"""docs/methods.md is what the methods say; every form and preset can be built and runs; what is said of the paper's forms holds."""
import re
from dataclasses import replace

import pytest
import torch
from golden_runs import INDEX, RECIPES, deviations, play, stored
from tiny import given, stream, tiny

from tta_lab.core.adapter import Adapter
from tta_lab.core.knobs import knobs, resolve
from tta_lab.experiments.catalogue import PLACE, _span, catalogue, cost_of, document
from tta_lab.methods import METHODS, make
from tta_lab.methods.serialise import from_json, to_json

ROWS = {row["name"]: row for row in catalogue()}
VARIANTS = [(name, {"form": form}) for name, kind in METHODS.items() for form in kind.forms] + [
    (name, {"preset": preset}) for name, kind in METHODS.items() for preset in kind.presets]


ROW = re.compile(r"^\| \[.*$", re.M)  # of the table of methods, not of one of knobs
COST = re.compile(r"(?<=\| )(\d{1,3}(?:\.\d)?)(?: - (\d{1,3}(?:\.\d)?))?(?= \|)")


def test_the_committed_file_is_up_to_date():
    """To the letter; but costs may differ by those of two of the 128 images, since the last bit of
    a sum decides whom STAMP keeps of images that are equally unsure."""
    pages = PLACE.read_text(), document()
    words = [ROW.sub(lambda row: COST.sub("#", row[0]), page) for page in pages]
    assert words[0] == words[1], "run: python -m tta_lab.experiments.catalogue"
    costs = [[float(n or 0) for row in ROW.findall(page) for pair in COST.findall(row) for n in pair]
             for page in pages]
    assert len(costs[0]) == 4 * len(METHODS) and costs[0] == pytest.approx(costs[1], abs=0.25)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_what_it_is(name):
    row = ROWS[name]
    assert row["family"] and (row["paper"] or row["family"] == "baseline") and row["answer"] in ("before", "after")
    assert list(row["verified"]) == ["paper", *row["forms"]] and set(METHODS[name].verified_forms) <= set(row["verified"])
    assert all(how.startswith(("golden", "statistics", "invariants only")) for how in row["verified"].values())


@pytest.mark.parametrize(("name", "variant"), VARIANTS, ids=lambda v: v if isinstance(v, str) else "-".join(v.values()))
def test_every_form_and_preset_is_built_and_runs(name, variant):
    settings = (METHODS[name].presets | METHODS[name].forms)[next(iter(variant.values()))]
    recipe, values = make(name, **variant), {k.name: k.value for k in knobs(make(name, **variant))}
    for key, value in settings.items():
        assert (values[resolve(recipe, key)] if key not in vars(recipe) else getattr(recipe, key)) == value
    assert from_json(to_json(recipe)) == recipe
    recipe = replace(recipe, views=2) if "views" in values else recipe
    adapter = Adapter(tiny("tinybn"), recipe, device="cpu", source_info=given(make(name), "tinybn"))
    assert all(torch.isfinite(adapter(x[:6])).all() for x in stream("s3")[0][:2])


def test_costs_are_counted():
    costs = {name: cost_of(make(name)) for name in ("source", "tent", "memo", "sar", "wisdom_of_crowds", "bn_ema")}
    assert costs["source"] == {"forwards": (1, 1), "backwards": (0, 0)} and costs["tent"] == {"forwards": (1, 1), "backwards": (1, 1)}
    assert costs["memo"]["forwards"] == (33, 33) and costs["wisdom_of_crowds"]["forwards"] == costs["bn_ema"]["forwards"] == (2, 2)
    assert costs["sar"] == {"forwards": (1, 2), "backwards": (0, 2)}, "nothing is certain, or everything"
    assert [_span(1.0, 1.0), _span(1.0, 2.25)] == ["1", "1 - 2.2"]


PAPER = {"sar": lambda r: replace(r, controllers=make("sar").controllers, when_empty="skip"), "lame": lambda r: replace(r, drop="self"),
         "cotta": lambda r: replace(r, train=make("cotta").train), "memo": lambda r: replace(r, train=make("memo").train)}


@pytest.mark.parametrize(("run", "same"), [
    ("sar-official__tinybn__s1", True), ("sar-official-recovery__tinybn__s2", False), ("sar-official__tinygn__s4", False),
    ("lame-official-knn__tinybn__s2", True), ("lame-official-knn-sym__tinybn__s2", False),
    ("cotta-official-fixaug-norestore__tinybn__s1", True), ("memo-om-fixedviews__tinygn__s4", True), ("memo-om-fixedviews__tinyvit__s4", False)])
def test_paper_forms_are_those_of_the_runs_where_it_is_said(run, same):
    recipe = RECIPES[INDEX[run]["method"]](stored(run)["hparams"])
    assert (deviations(run, *play(run, PAPER[run.split("-")[0]](recipe))) == []) == same
