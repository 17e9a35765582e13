"""One experiment as a value: the same numbers from the function, from its code and from its
JSON."""
import contextlib
import io

import numpy as np
import pytest
import torch

from tta_lab import load, load_model, make
from tta_lab.components.controllers.guard import guarded
from tta_lab.components.penalties import Diversity
from tta_lab.components.selectors import ConfidenceRise, EntropyThreshold
from tta_lab.core.parts import Step
from tta_lab.core.run_keys import described
from tta_lab.experiments.compose import to_code as compose_code
from tta_lab.experiments.experiment import (
    Experiment,
    Session,
    explore,
    incompatibilities,
    needs,
    stream_code,
)
from tta_lab.streams.orders import Dirichlet
from tta_lab.streams.protocols import (
    PROTOCOLS,
    continual,
    correlated,
    cyclic,
    gradual,
    open_set,
    recurring,
    reset_each_shift,
)
from tta_lab.streams.stream import Stream

STREAM = correlated(shifts=("fog", "gaussian_noise"), per_shift=30, seed=1)
RECIPES = [
    make("tent"),
    make("tent", lr=1e-2, average="all"),
    make("eata"),
    make("tent").where(ConfidenceRise(), EntropyThreshold(0.3)),
    make("eata").where(ConfidenceRise(0.1)),
    make("rotta"),
    make("tent", update=Step(rule="sgd", lr=0.01)).plus(Diversity(0.3)),
    make("lame"),
    guarded(make("tent", lr=1e-2).where(ConfidenceRise(0.1)), action="reset")
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: repr(r)[:30])
def test_a_choice_survives_json(recipe):
    choice = Experiment("fashion_resnet_gn", STREAM + open_set(per_shift=10), recipe, 3)
    again = Experiment.from_json(choice.to_json())
    assert (again.model, again.stream.hash, again.recipe,
            again.seed) == (choice.model, choice.stream.hash, choice.recipe, 3)


@pytest.mark.parametrize("i", [1, 3, 4, 6, 8])
def test_its_code_makes_the_same_run(i):
    choice = Experiment(stream=STREAM, recipe=RECIPES[i], seed=2)
    found = explore(choice, references=(), device="cpu")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        space: dict = {}
        exec(choice.to_code(), space)
    assert printed.getvalue(
    ) == f"error {found.rows[0]['error']:.2f} %\n" and space["recipe"] == RECIPES[i]
    assert (space["trace"]["entropy"] == found.trace["entropy"]).all()


def test_simple_changes_are_written_simply():
    assert "recipe = make('tent', **{'average': 'all', 'update.lr': 0.01})" in Experiment(
        recipe=RECIPES[1]).to_code().replace("{'update.lr': 0.01, 'average': 'all'}",
                                             "{'average': 'all', 'update.lr': 0.01}")
    assert "recipe = make('tent').where(ConfidenceRise(" in Experiment(recipe=RECIPES[3]).to_code()


KNOWN = load("fashion_mnist")
STREAMS = {
    **{
        name: (function(KNOWN) if name == "recorded" else function()) for name, function in PROTOCOLS.items(
        ) if name != "natural"
    }, **{
        f"{name} with settings": PROTOCOLS[name](per_shift=20, severity=3, seed=3) for name in PROTOCOLS if name not in ("natural", "recorded")
    }, "sorted": correlated(delta=0, per_shift=20),
    "rotta": correlated(delta=0.5, rule="rotta", per_shift=20), "note": correlated(delta=1),
    "cotta": gradual(shifts=("fog", "contrast", "snow", "frost"), form="cotta",
                     per_shift=10), "day and night": cyclic(groups=(("none",), ("fog",))),
    "two groups": cyclic(groups=("blur", "noise"), repeats=2,
                         cycles=3), "visits": recurring(visits=3, delta=0.5, batch=10),
    "near": open_set("fashion_mnist_8", "fashion_mnist_held_out", unknown_ratio=0.25,
                     unknown_mode="burst"), "plain": Stream(),
    "ccc": Stream(shifts=("fog:2.5+contrast:1", "none"), severity=3, order=Dirichlet(0.2, least=3),
                  reset="batch"), "part": continual("fashion_mnist[0,2]"),
    "joined": continual(per_shift=10) + open_set(per_shift=10),
    "cut": (continual(per_shift=10) + open_set(per_shift=10)).cut(1, 5),
    "a set": continual(KNOWN, seed=5), "imbalance": PROTOCOLS["class_imbalance"](exponent=1.5,
                                                                                 grouped=True),
    "ratio": PROTOCOLS["label_shift"](ratio=7.0)
}


@pytest.mark.parametrize("name", STREAMS)
def test_code_makes_the_stream_by_a_call_of_its_protocol(name):
    stream, space = STREAMS[name], {}
    imports, line = stream_code(stream)
    exec("\n".join([*imports, line]), space)
    assert space["stream"].hash == stream.hash and "json" not in line
    first = name.split()[0]
    # which is continual with other shifts
    if first in PROTOCOLS and first != "closed_set":
        assert line.startswith(f"stream = {first}("), line
    if name in PROTOCOLS and name not in ("closed_set", "recorded"):
        # nothing but what differs
        assert line == f"stream = {name}()"
    for code in (Experiment(stream=stream).to_code(), compose_code(Experiment(stream=stream))):
        assert line in code and all(i in code for i in imports) and "from_json" not in code


def test_natural_domains_and_paths_with_quotes_are_written_as_code(tmp_path):
    from PIL import Image

    root = tmp_path / "it's a \"set\" {x}"
    rng = np.random.default_rng(0)
    for k in range(6):
        for c in "ab":
            (root / c).mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (8, 8, 3),
                                         dtype=np.uint8)).save(root / c / f"{k}.png")
    stream = continual(load(f"folder:{root}"), shifts=("none",), per_shift=None, batch=4)
    imports, line = stream_code(stream)
    space: dict = {}
    exec("\n".join([*imports, line]), space)
    assert space["stream"].hash == stream.hash and line.startswith("stream = continual(known=")
    model = "checkpoint:" + str(root / 'w"\\.pt')
    assert f"open_model({model!r})" in Experiment(model, stream).to_code() and compile(
        Experiment(model, stream).to_code(), "cell", "exec")
    assert repr(model) in compose_code(Experiment(model, stream)) and compile(
        compose_code(Experiment(model, stream)), "cell", "exec")


def test_references_run_once_for_a_stream_and_what_cannot_run_is_said():
    seen, known = [], {}
    choice = Experiment(stream=STREAM)
    for _ in range(2):
        found = explore(choice, device="cpu", known=known,
                        each=lambda name, trace: seen.append(name))
    n = len(STREAM)
    assert seen == ["source"] * n + ["batch_norm"] * n + ["choice"] * 2 * n
    assert list(found.references) == ["source", "batch_norm"] and [
        r["run"] for r in found.rows
    ] == ["choice", "source", "batch_norm"]
    found = explore(Experiment("fashion_resnet_gn", STREAM), device="cpu")
    assert "batch-norm" in found.refused["batch_norm"] and list(found.references) == ["source"]


def test_stop_ends_within_a_batch():
    found = explore(Experiment(stream=STREAM), device="cpu", references=(), stop=lambda: True)
    assert len(found.trace) == 0 and found.rows == []


def test_obstacles_and_needs_are_said_before_a_run():
    assert incompatibilities(Experiment()) == [] and incompatibilities(Experiment(recipe=make("eata"))) == []
    assert "batch-norm" in incompatibilities(Experiment("fashion_resnet_gn", recipe=make("rotta")))[0]
    assert "Fisher" in incompatibilities(Experiment(recipe=make("eata"), source_images=None))[0]
    assert needs(make("tent")) == "Needs nothing but a model and images." and "Fisher" in needs(
        make("eata"))


def test_a_model_of_ones_own_has_no_json_but_code():
    choice = Experiment(load_model("fashion_resnet_bn"), STREAM)
    with pytest.raises(ValueError, match="with a name"):
        choice.to_json()
    space = {"model": choice.model}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(choice.to_code(), space)
    assert len(space["trace"]) == 60


def test_a_model_that_a_text_names_has_code_and_json():
    choice = Experiment("torchvision:resnet18?weights=none&size=28&outputs=0,1,2,3,4,5,6,7,8,9", STREAM)
    again = Experiment.from_json(choice.to_json())
    assert described(again.network) == described(
        choice.network) and again.network is not choice.network
    assert "open_model('torchvision:resnet18?weights=none" in choice.to_code(
    ) and "import open_model" in choice.to_code()
    # grey images, and a network for colour
    assert "this model expects" in incompatibilities(choice)[0]
    few = Experiment("fashion8_resnet_bn", STREAM)
    assert "has 8 outputs" in incompatibilities(few)[0] and "has 8 outputs" in incompatibilities(
        Experiment(few.network, STREAM))[0]
    assert "no such file" in incompatibilities(Experiment("/nowhere/weights.pt", STREAM))[0]
    known = Experiment(load_model("fashion_resnet_bn"), STREAM)
    assert "# model: your own (SmallResNet), as made above" in known.to_code()


@pytest.mark.parametrize("make_stream", [correlated, reset_each_shift, open_set])
def test_a_session_goes_batch_by_batch_and_ends_where_explore_ends(make_stream):
    stream = make_stream(shifts=("fog", "gaussian_noise"), per_shift=30, batch=20, seed=1)
    choice = Experiment(stream=stream, recipe=guarded(make("tent", lr=1e-2)))
    found = explore(choice, device="cpu")
    session = Session(choice, device="cpu")
    assert (session.done, session.total, session.finished) == (0, len(stream), False)
    for i in range(session.total):
        assert session.advance() and session.done == i + 1
        assert {len(t.step("step")) for t in session.traces.values()} == {i + 1}
        assert session.traces["choice"].meta["complete"] is session.finished is (i + 1
                                                                                 == len(stream))
    assert not session.advance() and session.done == session.total
    for name, trace in {"choice": found.trace, **found.references}.items():
        ours = session.traces[name]
        for column in ("id", "prediction", "entropy", "rise_source", "label", "segment", "nll"):
            np.testing.assert_array_equal(ours[column], trace[column], err_msg=f"{name} {column}")
        for column in ("forwards", "backwards", "reset", "distance"):
            np.testing.assert_array_equal(ours.step(column), trace.step(column),
                                          err_msg=f"{name} {column}")
        p = session.probabilities[name]
        assert p.shape == (len(trace), 10) and (p.argmax(1) == trace["prediction"]).all()
        np.testing.assert_allclose(p.max(1), trace["confidence"], atol=1e-6)
    assert [r["error"] for r in session.exploration().rows] == [r["error"] for r in found.rows]


def test_a_session_that_stops_can_be_shown_as_a_choice_and_references_are_kept_when_finished():
    known: dict = {}
    session = Session(Experiment(stream=STREAM, recipe=make("tent", lr=1e-2)), device="cpu",
                      known=known)
    assert session.shown() is session.choice                       # nothing has been shown yet
    session.advance()
    # half a reference is no reference
    assert known == {}
    again = explore(Experiment.from_json(session.shown().to_json()), references=(), device="cpu")
    np.testing.assert_array_equal(again.trace["entropy"], session.traces["choice"]["entropy"])
    while session.advance():
        pass
    later = Session(Experiment(stream=STREAM), device="cpu", known=known)
    assert set(later.traces) == {"choice", "source", "batch_norm"} and len(
        later.traces["source"]) == len(session.traces["source"])
    assert len(
        later.traces["choice"]) == 0 and later.probabilities.keys() == {"source", "batch_norm"}
    later.advance()
    assert later.traces["source"] is session.traces["source"]
    found = explore(Experiment(stream=STREAM), device="cpu", known=known)
    assert found.references["batch_norm"] is session.traces["batch_norm"]


def test_a_session_says_what_is_refused_before_it_runs():
    session = Session(Experiment("fashion_resnet_gn", STREAM), device="cpu")
    assert "batch-norm" in session.refused["batch_norm"] and set(
        session.traces) == {"choice", "source"}
    with pytest.raises(ValueError, match="Fisher"):
        Session(Experiment(stream=STREAM, recipe=make("eata"), source_images=None), device="cpu")


def test_images_of_ones_own_without_labels_are_run_and_have_code():
    from dataclasses import replace
    images = load("fashion_mnist").take(torch.arange(40))
    choice = Experiment(stream=continual(replace(images, name="mine", y=torch.full((
        40,), -1)), shifts=("none",), per_shift=40, batch=20))
    session = Session(choice, device="cpu")
    while session.advance():
        pass
    found = session.exploration()
    assert not choice.labelled and "error" not in found.rows[0] and found.rows[0][
        "agreement"] > 0 and "no labels" in found.why
    with pytest.raises(ValueError):
        choice.to_json()
    space, printed = {"stream": choice.stream}, io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(choice.to_code(), space)
    same = 100 * (found.trace["prediction"] == found.references["source"]["prediction"]).mean()
    assert printed.getvalue() == f"no labels; like the source {same:.2f} %\n"
    np.testing.assert_array_equal(space["trace"]["entropy"], session.traces["choice"]["entropy"])
