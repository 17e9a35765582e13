"""One experiment as a value: the same numbers from the function, from its code and from its JSON."""
import contextlib
import io

import pytest

from tta_lab import load_model, make
from tta_lab.explore import Choice, explore, needs, obstacles
from tta_lab.parts import Step
from tta_lab.penalties import Diversity
from tta_lab.protocols import correlated, open_set
from tta_lab.selectors import ConfidenceRise, LowEntropy

STREAM = correlated(shifts=("fog", "gaussian_noise"), per_shift=30, seed=1)
RECIPES = [make("tent"), make("tent", lr=1e-2, average="all"), make("eata"), make("tent").where(ConfidenceRise(), LowEntropy(0.3)),
           make("eata").where(ConfidenceRise(0.1)), make("rotta"), make("tent", update=Step(rule="sgd", lr=0.01)).plus(Diversity(0.3)), make("lame")]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: repr(r)[:30])
def test_a_choice_survives_json(recipe):
    choice = Choice("fashion_resnet_gn", STREAM + open_set(per_shift=10), recipe, 3)
    again = Choice.from_json(choice.to_json())
    assert (again.model, again.stream.hash, again.recipe, again.seed) == (choice.model, choice.stream.hash, choice.recipe, 3)


@pytest.mark.parametrize("i", [1, 3, 4, 6])
def test_its_code_makes_the_same_run(i):
    choice = Choice(stream=STREAM, recipe=RECIPES[i], seed=2)
    found, printed = explore(choice, references=(), device="cpu"), io.StringIO()
    with contextlib.redirect_stdout(printed):
        space: dict = {}
        exec(choice.to_code(), space)
    assert printed.getvalue() == f"error {found.rows[0]['error']:.2f} %\n" and space["recipe"] == RECIPES[i]
    assert (space["trace"]["entropy"] == found.trace["entropy"]).all()


def test_simple_changes_are_written_simply():
    assert "recipe = make('tent', **{'average': 'all', 'update.lr': 0.01})" in Choice(recipe=RECIPES[1]).to_code().replace(
        "{'update.lr': 0.01, 'average': 'all'}", "{'average': 'all', 'update.lr': 0.01}")
    assert "recipe = make('tent').where(ConfidenceRise(" in Choice(recipe=RECIPES[3]).to_code()


def test_references_run_once_for_a_stream_and_what_cannot_run_is_said():
    seen, known = [], {}
    choice = Choice(stream=STREAM)
    for _ in range(2):
        found = explore(choice, device="cpu", known=known, each=lambda name, trace: seen.append(name))
    n = len(STREAM)
    assert seen == ["source"] * n + ["batch_norm"] * n + ["choice"] * 2 * n
    assert list(found.references) == ["source", "batch_norm"] and [r["run"] for r in found.rows] == ["choice", "source", "batch_norm"]
    found = explore(Choice("fashion_resnet_gn", STREAM), device="cpu")
    assert "batch-norm" in found.refused["batch_norm"] and list(found.references) == ["source"]


def test_stop_ends_within_a_batch():
    found = explore(Choice(stream=STREAM), device="cpu", references=(), stop=lambda: True)
    assert len(found.trace) == 0 and found.rows == []


def test_obstacles_and_needs_are_said_before_a_run():
    assert obstacles(Choice()) == [] and obstacles(Choice(recipe=make("eata"))) == []
    assert "batch-norm" in obstacles(Choice("fashion_resnet_gn", recipe=make("rotta")))[0]
    assert "Fisher" in obstacles(Choice(recipe=make("eata"), source_images=None))[0]
    assert needs(make("tent")) == "Needs nothing but a model and images." and "Fisher" in needs(make("eata"))


def test_a_model_of_ones_own_has_no_json_but_code():
    choice = Choice(load_model("fashion_resnet_bn"), STREAM)
    with pytest.raises(ValueError, match="with a name"):
        choice.to_json()
    space = {"model": choice.model}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(choice.to_code(), space)
    assert len(space["trace"]) == 60
