"""What older versions wrote keeps loading: recipes, streams, experiments, traces, states (`tests/kept`)."""
import json
from pathlib import Path

import pytest
import torch

from tta_lab import Adapter, Experiment, Stream, Trace, load_model, make
from tta_lab.components.controllers.guard import guarded
from tta_lab.experiments.runner import row
from tta_lab.methods import METHODS
from tta_lab.methods.serialise import from_json, to_json

KEPT = Path(__file__).parent / "kept"
RECIPES = json.loads((KEPT / "recipes.json").read_text())
STREAMS = json.loads((KEPT / "streams.json").read_text())
EXPERIMENTS = json.loads((KEPT / "experiments.json").read_text())


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_of_before_loads_and_is_what_it_was(name):
    recipe = from_json(json.dumps(RECIPES[name]))
    assert from_json(to_json(recipe)) == recipe
    method, slash, form = name.partition("/")
    if slash:
        assert recipe == make(method, form=form)


def test_all_methods_of_before_are_among_them():
    assert {name.partition("/")[0] for name in RECIPES if "/" in name} <= METHODS.keys()
    assert len([name for name in RECIPES if name.startswith(("part ", "tent + "))]) > 40


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_of_before_loads_under_its_hash(name):
    stream = Stream.from_json(json.dumps(STREAMS[name]["json"]))
    assert stream.hash == STREAMS[name]["hash"]
    assert Stream.from_json(stream.to_json()).hash == stream.hash


@pytest.mark.parametrize("values", EXPERIMENTS, ids=lambda v: v["recipe"]["part"])
def test_an_experiment_of_before_loads(values):
    experiment = Experiment.from_json(json.dumps(values))
    again = Experiment.from_json(experiment.to_json())
    assert (again.seed, again.recipe) == (3, experiment.recipe)
    assert again.stream.hash == experiment.stream.hash


def test_a_trace_of_before_gives_its_numbers():
    found = row(Trace.load(KEPT / "trace.npz"))
    for name, value in json.loads((KEPT / "row.json").read_text()).items():
        wanted = value if isinstance(value, str) else pytest.approx(value, nan_ok=True)
        assert found[name] == wanted, name


def test_the_state_of_an_adapter_of_before_goes_on():
    adapter = Adapter(load_model(), guarded(make("wisdom_of_crowds")), device="cpu",
                      record="source")
    adapter.load_state_dict(torch.load(KEPT / "state.pt", weights_only=True))
    assert adapter.seen == len(Trace.load(KEPT / "trace.npz"))
