"""Compositions: taken apart and put together they give the same bits, what cannot be is said, the panel obeys and can be read back."""
import contextlib
import io
import json
import re
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from tta_lab import Adapter, load_model, make
from tta_lab.components.controllers.guard import Guard, guarded
from tta_lab.components.norms.adaptive import AdaptiveMixture
from tta_lab.components.norms.batch_norm import BatchStatistics, RunningStatistics, SourceStatistics
from tta_lab.components.penalties import Diversity
from tta_lab.components.selectors import ConfidenceRise, EntropyThreshold
from tta_lab.components.updates import Sam, WeightEnsembling
from tta_lab.core.knobs import knobs, own_knobs, with_knobs
from tta_lab.core.parts import AllParameters, NoParameters, Step, needs_of
from tta_lab.core.trace import Trace
from tta_lab.experiments import compose
from tta_lab.experiments.experiment import Experiment, Session, explore
from tta_lab.methods import METHODS
from tta_lab.methods import composed as P
from tta_lab.methods.serialise import from_json, to_json
from tta_lab.streams.protocols import continual
from tta_lab.studies.compose import study

APART = [name for name in METHODS if name not in compose.WHOLE]
QUICK = ("tent", "eta", "sar", "wisdom_of_crowds", "slr", "roid", "lame", "source")
STREAM = continual(shifts=("fog", "contrast"), per_shift=40, batch=20)
SMALL = {"views": 2}  # cotta
DECLARED = {"wisdom_of_crowds": {"source_logits"}, "domain_adaptor": {"batch_norm"}, "shot_im": {"features"}}  # by the method, not by its parts


def answers(recipe, stream=STREAM, model="fashion_resnet_bn"):
    """Probabilities and trace of a run."""
    session = Session(Experiment(model, stream, recipe), (), device="cpu")
    while session.advance():
        pass
    return session.probabilities["choice"], session.traces["choice"]


def same_run(a, b, **where):
    (p, s), (q, t) = answers(a, **where), answers(b, **where)
    assert np.array_equal(p, q)
    for column in ("kept", "weight", "entropy"):
        assert np.array_equal(s[column], t[column], equal_nan=True), column
    for column in ("n_kept", "distance", "forwards", "backwards", "skipped"):
        assert np.array_equal(s.step(column), t.step(column), equal_nan=True), column
    assert (s.meta["kind"], s.meta["answer"], s.meta["source_statistics"]) == (t.meta["kind"], t.meta["answer"], t.meta["source_statistics"])


# --- identities

@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in APART])
def test_the_slots_of_a_method_put_together_give_its_bits(name):
    method = make(name, **SMALL if name == "cotta" else {})
    again = compose.assemble(compose.decompose(method))
    assert type(again) is P.Composed and from_json(to_json(again)) == again
    assert needs_of(again) == needs_of(method) - DECLARED.get(name, set())
    found, rows = compose.recognise(again)
    assert found == name
    assert [row["words"] for row in rows] == (["teacher (views 2, not 32)"] if name == "cotta" else [])
    same_run(method, again)


@pytest.mark.parametrize("method", [make("tent", train=AllParameters(), lr=1e-4), make("sar", form="reference", lr=0.01), make("rpl", q=0.3),
                                    make("conjugate", answer="before", temperature=2.0), make("roid", prior_correction=False),
                                    make("shot_im", norm=SourceStatistics()), make("tent", norm=RunningStatistics(0.3))],
                         ids=lambda m: type(m).__name__)
def test_also_with_other_settings(method):
    same_run(method, compose.assemble(compose.decompose(method)))


def test_composing_by_hand_gives_the_published_runs():
    same_run(P.Composed(), make("tent"))
    same_run(P.Composed(select=make("eta").select), make("eta"))
    crowd = P.Composed(select=(ConfidenceRise(),), penalties=(Diversity(0.5),), when_empty="step")
    same_run(crowd, make("wisdom_of_crowds"))
    sar = make("sar")
    same_run(P.Composed(train=sar.train, select=(EntropyThreshold(0.4),), update=Sam(rule="sgd", lr=2.5e-4), controllers=sar.controllers), sar)
    assert [compose.recognise(r)[0] for r in (P.Composed(), crowd)] == ["tent", "wisdom_of_crowds"]


def test_every_method_is_taken_apart_or_named_with_a_reason():
    assert set(compose.WHOLE) <= set(METHODS) and len(APART) + len(compose.WHOLE) == len(METHODS)
    for name, why in compose.WHOLE.items():
        slots = compose.decompose(make(name))
        assert slots["objective"] == make(name)
        assert all(slots[slot] is None for slot in compose.TOGETHER) and len(why) > 20
        assert compose.assemble(slots) == make(name) and compose.recognise(make(name)) == (name, [])
        other = compose.assemble(compose.swapped(slots, "norm", "AdaptiveMixture"))
        assert type(other) is METHODS[name] and other.norm == AdaptiveMixture()


@pytest.mark.parametrize("part", [p for p in vars(P).values() if isinstance(p, type) and issubclass(p, P._Borrowed) and getattr(p, "of", "")])
def test_borrowed_parts_have_the_defaults_of_their_lender(part):
    knobs = {k.name: k for k in own_knobs(METHODS[part.of])}
    for k in own_knobs(part):
        theirs = knobs[k.name]
        assert (k.default, k.low, k.high, k.log, k.choices) == (theirs.default, theirs.low, theirs.high, theirs.log, theirs.choices), k.name
    assert part().lender == METHODS[part.of]() and part().lender is part().lender


# --- new parts, worked by hand

class Fake:
    """A view with given logits and answers of a teacher."""

    def __init__(self, z):
        self.logits = z


def test_agreement_by_hand():
    z, q = torch.tensor([[0.0, 0.0]]).requires_grad_(), torch.log(torch.tensor([[0.8, 0.2]]))
    values = {loss: P.Agreement(loss).losses(Fake(z), {}, q) for loss in ("cross_entropy", "symmetric", "classes")}
    torch.testing.assert_close(values["cross_entropy"], torch.tensor([np.log(2.0)], dtype=torch.float32))
    torch.testing.assert_close(values["classes"], torch.tensor([np.log(2.0)], dtype=torch.float32))
    half = 0.5 * np.log(2.0) - 0.25 * (np.log(0.8) + np.log(0.2))
    torch.testing.assert_close(values["symmetric"], torch.tensor([half], dtype=torch.float32))
    # where both agree the gradient of the first is zero, that of the second is half that of the entropy
    start = torch.tensor([[1.0, 0.0, -1.0]])
    for loss, expected in (("cross_entropy", 0.0), ("symmetric", 0.5)):
        z, again = start.clone().requires_grad_(), start.clone().requires_grad_()
        P.Agreement(loss).losses(Fake(z), {}, start).sum().backward()
        (-(again.softmax(1) * again.log_softmax(1)).sum()).backward()
        torch.testing.assert_close(z.grad, expected * again.grad)


def test_a_teacher_follows_answers_and_is_saved():
    net, x = load_model("fashion_resnet_bn"), next(iter(STREAM.batches())).x
    recipe = P.Composed(objective=P.Agreement("classes"), teacher=P.MeanTeacher(0.75), reply=P.TeacherAnswer(), update=Step(rule="sgd", lr=0.1))
    adapter = Adapter(net, recipe, device="cpu")
    first = adapter(x)
    torch.testing.assert_close(first, Adapter(net, make("batch_norm"), device="cpu")(x), rtol=1e-5, atol=1e-5)  # nothing was learned yet
    teacher = adapter.states["method"]["teacher"]["teacher"]
    for name, p in adapter.tuned.items():
        torch.testing.assert_close(teacher[name], 0.75 * adapter.origin[name] + 0.25 * p.detach())
    second = adapter.predict(x)
    own = Adapter(net, replace(recipe, reply=P.OwnAnswer()), device="cpu")
    own(x)
    mean = Adapter(net, replace(recipe, reply=P.MeanAnswer()), device="cpu")
    mean(x)
    torch.testing.assert_close(mean.predict(x), (own.predict(x) + second) / 2, rtol=1e-5, atol=1e-5)
    file = io.BytesIO()
    torch.save(adapter.state_dict(), file)
    file.seek(0)
    other = Adapter(net, recipe, device="cpu")
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), adapter(x))
    adapter.reset()
    assert torch.equal(adapter(x), first)


def test_a_teacher_that_never_follows_is_the_frozen_source():
    a = P.Composed(objective=P.Agreement(), teacher=P.MeanTeacher(1.0), reply=P.MeanAnswer(), update=Step(lr=0.01))
    b = replace(a, teacher=P.FrozenTeacher())
    np.testing.assert_allclose(answers(a)[0], answers(b)[0], atol=1e-5)
    assert (answers(a)[1].step("distance")[-1] > 0.01) and "source_logits" in needs_of(b)


def test_standing_still_is_real_and_refused():
    # the rule of Composed, checked against what would happen: a penalty of no weight gets past it
    still = P.Composed(objective=P.Agreement("cross_entropy"), teacher=P.MeanTeacher(), penalties=(Diversity(0.0),), update=Step(rule="sgd", lr=1.0))
    assert answers(still)[1].step("grad_norm").max() < 1e-5
    moving = replace(still, objective=P.Agreement("symmetric"))
    assert answers(moving)[1].step("grad_norm").min() > 1e-3
    for teacher in (P.MeanTeacher(), P.FrozenTeacher("batch")):
        with pytest.raises(ValueError, match="gradient .* is zero.*loss='symmetric'"):
            P.Composed(objective=P.Agreement("cross_entropy"), teacher=teacher)
    P.Composed(objective=P.Agreement("cross_entropy"), teacher=P.FrozenTeacher("running"))
    P.Composed(objective=P.Agreement("cross_entropy"), teacher=P.FrozenTeacher("batch"), norm=SourceStatistics())


def test_what_happens_after_a_step():
    held = answers(P.Composed(settle=WeightEnsembling(0.0), update=Step(lr=0.01)))[1].step("distance")
    put_back = answers(P.Composed(settle=P.Restored(1.0), update=Step(lr=0.01)))[1].step("distance")
    free = answers(P.Composed(update=Step(lr=0.01)))[1].step("distance")
    some = answers(P.Composed(settle=P.Restored(0.5), update=Step(lr=0.01)))[1].step("distance")
    assert held.max() < 1e-6 and put_back.max() == 0 and 0.2 < some[-1] / free[-1] < 0.95


# --- what cannot be

def test_conflicts_name_culprit_and_remedy():
    for settings, culprit, remedy in (
            ({"objective": P.Agreement()}, "Agreement learns from a teacher", "MeanTeacher()"),
            ({"reply": P.TeacherAnswer()}, "TeacherAnswer returns", "reply=OwnAnswer()"),
            ({"teacher": P.MeanTeacher()}, "MeanTeacher is asked by nobody", "objective=Agreement()"),
            ({"train": NoParameters()}, "EntropyLoss has nothing to move", "NormAffine()"),
            ({"objective": P.Nothing()}, "NormAffine names parameters", "train=NoParameters()"),
            ({"objective": P.Nothing(), "train": NoParameters(), "select": (EntropyThreshold(),)},
             "EntropyThreshold has nothing to do", "leave it out"),
            ({"objective": P.Nothing(), "train": NoParameters(), "controllers": (Guard(),)}, "Guard has nothing to do", "an objective"),
            ({"objective": P.Nothing(), "train": NoParameters(), "settle": WeightEnsembling()}, "WeightEnsembling could act", "AsStepped()")):
        with pytest.raises(ValueError, match=re.escape(culprit)) as why:
            P.Composed(**settings)
        assert remedy in str(why.value)
    with pytest.raises(TypeError, match="Composed.reply takes a part"):
        P.Composed(reply=EntropyThreshold())
    with pytest.raises(ValueError, match=r"rotta cannot be taken apart \(it learns from a memory.*choose \"its own\""):
        compose.assemble(compose.decompose(make("rotta")) | {"teacher": P.NoTeacher()})
    with pytest.raises(ValueError, match="taken whole, and entropy is none"):
        compose.assemble(compose.decompose(make("tent")) | {"reply": None})


def test_marks_are_what_really_happens():
    choice, slots = Experiment(stream=STREAM), compose.decompose(make("tent"))
    images = compose.rehearsal(choice)
    found = compose.marks(slots, choice, images)
    assert {place: set(rows) for place, rows in found.items() if rows and place.split()[0] not in ("select", "penalties")} == {
        "train": {"NoParameters"}, "objective": {"Nothing", "Agreement"}, "settle": {""}, "cadence": {"SlidingWindow"},
        "teacher": {"MeanTeacher", "AugmentedTeacher", "FrozenTeacher", ""}, "reply": {"TeacherAnswer", "MeanAnswer", ""}}
    assert set(found["select 1"]) == {"StableRegion", "TwoFilters"}
    assert set(found["penalties 1"]) == {"BothFail"}
    for place, slot, seat, keys in compose.places():
        for key in keys:
            if place in ("reply", "norm", "objective") and key not in ("VotedAnswer", "RegionEntropy", *compose.WHOLE):
                try:
                    Adapter(choice.network, compose.assemble(compose.swapped(slots, slot, key, seat)), device="cpu")(images)
                    assert key not in found[place], key
                except ValueError as why:
                    assert found[place][key] in str(why), key
    region = compose.swapped(compose.decompose(make("recap")), "select", "StableRegion")
    assert compose.incompatibility(region, choice, images) == ""                      # there it belongs
    assert compose.marks(slots, choice, images, stop=lambda: True) == {"norm": {}}


def test_the_model_has_its_say():
    vit, segmenter = Experiment("fashion_vit_ln", STREAM), Experiment(torch.nn.Conv2d(1, 5, 1), STREAM)
    assert "needs batch-norm" in compose.incompatibility(compose.decompose(make("iabn")), vit)
    lame = compose.decompose(make("lame"))
    assert compose.incompatibility(lame, vit) == ""
    assert "'features' and 'head'" in compose.incompatibility(lame, segmenter)
    bound = compose.swapped(compose.decompose(make("tent")), "norm", "InstanceAware")
    assert compose.incompatibility(bound, vit, compose.rehearsal(vit)) == ""
    assert "no effect here" in compose.notes(compose.assemble(bound), vit)[0]
    assert not compose.notes(compose.assemble(bound), Experiment())
    anchored = compose.swapped(compose.decompose(make("tent")), "penalties", "FisherAnchor")
    assert "source domain" in compose.incompatibility(anchored, replace(vit, source_images=None))
    assert compose.incompatibility(anchored, vit) == ""
    for start, place, key, culprit in (("eata", "select", "TwoFilters", "paf_kip"), ("rmt", "cadence", "SlidingWindow", "batch of 2"),
                                       ("rotta", "penalties", "BothFail", "paf_kip"), ("stamp", "select", "StableRegion", "recap"),
                                       ("adanpc", "controllers", "ResetEvery", "Nothing")):   # rehearsed with a sample of source images
        slots = compose.decompose(make(start))
        assert compose.incompatibility(slots, Experiment(stream=STREAM), compose.rehearsal(Experiment(stream=STREAM))) == ""
        base = Experiment(stream=STREAM)
        swapped = compose.swapped(slots, place, key)
        assert culprit in compose.incompatibility(swapped, base, compose.rehearsal(base))
    moved = replace(make("cotta"), norm=RunningStatistics())
    assert "stay where they began" in compose.notes(compose.assemble(compose.decompose(moved)), Experiment())[0]


def test_sentences_speak_the_names_of_the_lists():
    assert compose.on_screen("choose teacher=MeanTeacher() or FrozenTeacher()") == 'choose teacher "mean teacher" or "frozen source"'
    assert compose.on_screen("Composed needs EntropyLoss") == 'This composition needs "entropy"'
    assert compose.on_screen("Tent and EntropyLosses") == "Tent and EntropyLosses"


# --- relatives

def test_differences_and_distance_by_hand():
    tent, crowd = make("tent"), make("wisdom_of_crowds")
    rows = compose.differences(crowd, tent)
    assert [(r["slot"], r["what"], r["cost"]) for r in rows] == [("select", "parts", 1), ("penalties", "parts", 1), ("when_empty", "knobs", 0.1)]
    assert rows[0]["words"] == "learn from (with confidence rise)"
    assert compose.distance(crowd, tent) == pytest.approx(2.1)
    assert compose.differences(tent, crowd)[0]["words"] == "learn from (without confidence rise)"
    assert compose.distance(tent, make("slr")) == 2
    assert compose.distance(tent, make("tent", lr=0.1)) == pytest.approx(0.1)
    assert compose.distance(tent, guarded(tent)) == 0 and compose.distance(tent, tent) == 0
    swapped = replace(make("eta"), select=make("eta").select[::-1])
    assert [r["what"] for r in compose.differences(swapped, make("eta"))] == ["order"]
    assert compose.recognise(swapped) is None
    for a, b in ((a, b) for a in ("tent", "cotta", "rotta", "lame", "roid") for b in ("eata", "source", "psmt")):
        there, back = compose.distance(make(a), make(b)), compose.distance(make(b), make(a))
        assert there > 0 and there == pytest.approx(back)


def test_recognised_and_relatives():
    assert compose.recognise(make("tent", lr=0.01))[1][0]["words"] == "update rule (lr 0.01, not 0.001)"
    assert compose.recognise(make("sar", form="reference"))[0] == "sar [reference]"
    crowd_slr = study.guided("filter")
    assert compose.recognise(crowd_slr) is None
    assert [name for name, _ in compose.relatives(crowd_slr, 2)] == ["wisdom_of_crowds", "slr"]
    assert "tent" not in [name for name, _ in compose.relatives(make("tent"), 30)]
    near = compose.relatives(make("lame"), 40, Experiment("fashion_vit_ln", STREAM))
    assert {"iabn", "bn_alpha"}.isdisjoint(name for name, _ in near)
    assert near[0][0] in ("t3a", "adanpc")
    assert compose.say_known(guarded(make("tent"))) == "This is tent, with a guard: every slot holds what it holds there."
    assert "objective (likelihood ratio, not entropy)" in compose.say_relatives(compose.relatives(crowd_slr, 1))


def test_swapping_keeps_the_rest():
    slots = compose.decompose(make("cotta"))
    whole = compose.swapped(slots, "objective", "rotta")
    assert whole["objective"] == make("rotta") and whole["teacher"] is None
    assert whole["train"] == slots["train"]
    back = compose.swapped(whole, "objective", "EntropyLoss")
    assert back["teacher"] == P.NoTeacher() and compose.assemble(back).norm == slots["norm"]
    three = compose.swapped(compose.swapped(compose.decompose(make("tent")), "select", "EntropyThreshold", 2), "select", "ConfidenceRise", 2)
    assert [type(s).__name__ for s in three["select"]] == ["EntropyThreshold", "ConfidenceRise"]  # empty seats close up
    assert [type(s).__name__ for s in compose.swapped(three, "select", "", 0)["select"]] == ["ConfidenceRise"]


# --- code

def error_of(printed):
    return {name: float(value) for name, value in re.findall(r"^(\S+): error ([\d.]+) %$", printed, re.M)}


@pytest.mark.parametrize("recipe", [make("tent"), study.guided("filter"), guarded(study.guided("held"), action="reset"),
                                    compose.assemble(compose.swapped(compose.decompose(make("rotta")), "norm", "BatchStatistics"))],
                         ids=["tent", "filter", "guarded", "whole"])
def test_the_code_makes_the_same_run(recipe):
    choice = Experiment(stream=STREAM, recipe=recipe, seed=3)
    text = compose.to_code(choice, ["batch_norm"])
    assert ("make('tent')" in text) == (recipe == make("tent"))
    out, scope = io.StringIO(), {}
    with contextlib.redirect_stdout(out):
        exec(text, scope)
    assert compose.decompose(scope["recipe"]) == compose.decompose(recipe)
    expected = {row["run"]: round(row["error"], 2) for row in explore(choice, ["batch_norm"], device="cpu").rows}
    assert error_of(out.getvalue()) == expected


@pytest.mark.slow
def test_a_recipe_as_json_is_read_in_another_process():
    recipe = study.guided("held")
    done = subprocess.run([sys.executable, "-c", "import sys; from tta_lab.methods.serialise import from_json; print(from_json(sys.stdin.read()))"],
                          input=to_json(recipe), capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == repr(recipe), done.stderr


# --- the study

def trace_of(prediction, label):
    n = len(label)
    return Trace.from_columns({"step": np.arange(n) // 2, "id": np.arange(n), "prediction": np.asarray(prediction), "label": np.asarray(label),
                               "known": np.ones(n, bool), "segment": np.zeros(n, int), "domain": np.zeros(n, int), "round": np.zeros(n, int),
                               "confidence": np.full(n, 0.5), "entropy": np.full(n, 0.5)},
                              {"step": np.arange(n // 2)}, {"classes": 4, "domains": ["fog"], "segments": ["fog"], "stream": {"hash": "h"}})


def test_last_third_and_verdict_by_hand():
    label = np.arange(24) % 4
    wrong = label.copy()
    wrong[20:] = (label[20:] + 1) % 4
    assert study.last_third(trace_of(wrong, label)) == 50
    assert study.last_third(trace_of(label, label)) == 0
    said = study.verdict({"composition": trace_of(wrong, label), "tent": trace_of(label, label), "slr": trace_of(wrong, label), "source": Trace()})
    assert said[0].startswith("Against tent (0.0 %): +16.7 points")
    assert said[1] == "Against slr (16.7 %): the same class for every image."
    assert "no labels" not in " ".join(said) and len(said) == 2
    blind = {"composition": trace_of(wrong, [-1] * 24), "tent": trace_of(label, [-1] * 24)}
    assert "without labels" in study.verdict(blind)[0] and np.isnan(study.last_third(blind["tent"]))


def test_a_run_beside_its_relatives_is_that_of_explore():
    choice = Experiment(stream=STREAM, recipe=study.guided("filter"))
    session = study.run_beside(choice, device="cpu")
    traces = study.named(session.traces)
    assert list(traces) == ["composition", "wisdom_of_crowds", "slr", "source", "BN-1"]
    alone = explore(choice, ("slr",), device="cpu")
    assert np.array_equal(alone.trace["prediction"], traces["composition"]["prediction"])
    assert np.array_equal(alone.references["slr"]["prediction"], traces["slr"]["prediction"])
    lights = study.Lights()
    lights.see(traces)
    rows = study.table(traces, lights)
    assert [r["run"] for r in rows] == list(traces) and rows[-1]["minus BN-1"] == 0
    assert rows[0]["backwards"] > 0 == rows[-1]["backwards"]
    assert set(lights.lights) == {"composition", "wisdom_of_crowds", "slr"}  # only what learns can collapse
    collapse = study.collapse_of(traces, lights)
    assert all(len(x) == len(y) == 4 for x, y in collapse["lines"].values())
    assert 0 < collapse["threshold"] < 1
    assert "of the 60 known of 80 images" in study.say_rows([rows[0] | {"scored": 60}])
    assert study.say_rows(rows).startswith(f"The composition errs on {rows[0]['error']:.1f} % of 80 images")


def test_what_the_notebook_says_is_refused_is_refused():
    rows = study.refused()
    assert len(rows) == len(study.REFUSED)
    assert [what for what, why in rows if why.startswith("It runs.")] == ["Tent on IABN in the same transformer"]
    assert "no effect" in rows[-1][1] and all("Error" not in why for _, why in rows)
    with pytest.raises(ValueError, match="no guided composition 'x'; there are: filter"):
        study.guided("x")
    with pytest.raises(ValueError, match="no stream 'x'"):
        study.stream_of("x", 10, 10, 0)


@pytest.mark.parametrize("backend", ["matplotlib", "plotly"])
def test_figure_of_nothing_and_of_a_run(backend):
    from tta_lab.studies.compose.figures import plot_composer_runs
    nothing = {"so_far": study.E.so_far({}), "collapse": study.collapse_of({}, study.Lights())}
    assert plot_composer_runs(nothing, backend) is not None
    traces = study.named(explore(Experiment(stream=STREAM), ("source",), device="cpu").references | {"choice": answers(make("tent"))[1]})
    lights = study.Lights()
    lights.see(traces)
    figure = plot_composer_runs({"so_far": study.E.so_far(traces), "collapse": study.collapse_of(traces, lights)}, backend)
    names = [t.name for t in figure.data if t.name] if backend == "plotly" else [line.get_label() for line in figure.axes[0].get_lines()]
    assert {"composition", "source"} <= set(names)


# --- the panel

W = pytest.importorskip("ipywidgets")
pytest.importorskip("anywidget")


@pytest.fixture(autouse=True)
def no_thread_outlives_its_test():
    """An adapter that is made in a thread borrows the global generator for a moment, which the next test would see."""
    yield
    for thread in threading.enumerate():
        if thread.name == "composer marks":
            thread.join(60)


@pytest.fixture(scope="module")
def fired():
    from tta_lab.panels.composer import composer
    return composer(interactive=False, device="cpu", per_shift=20, batch=10, start="wisdom_of_crowds")


def test_a_fired_panel_has_run_and_can_be_read_back(fired):
    assert fired.error is None and fired.message.startswith("Done. The composition errs on"), fired.message
    assert compose.recognise(fired.recipe) == ("wisdom_of_crowds", [])
    assert fired.controls["start"].value == "wisdom_of_crowds"
    rows = fired.results
    assert list(rows["run"]) == list(fired.traces) and (rows["images"] == 80).all()
    assert from_json(rows["recipe"][0]) == fired.recipe
    assert from_json(fired.to_json()) == fired.recipe
    alone = explore(fired.choice, ("batch_norm",), device="cpu")
    assert alone.rows[0]["error_weighted"] == rows["error"][0] and len(fired.verdict) == len(fired.traces) - 2  # of all but itself and the source
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(fired.to_code(), {})
    errors = error_of(out.getvalue())
    assert errors["choice"] == round(alone.rows[0]["error"], 2) and len(errors) == len(fired.traces)


def test_lists_say_what_cannot_be_chosen_and_what_would_help(fired):
    def text(place, key):
        return next(label for label, value in fired.controls[place].options if value == key)

    assert text("reply", "TeacherAnswer") == "✗ teacher's prediction (not with these)"
    assert text("reply", "OwnAnswer") == "own prediction"
    assert any("PAF-KIP" not in why and "paf_kip" in why for _, why in fired.reasons_rows())
    before = fired.slots
    fired.controls["objective"].value = "Agreement"
    assert "learns from a teacher" in fired.incompatibility
    assert "&quot;mean teacher&quot;" in fired.description.value and fired.recipe is None
    assert text("teacher", "MeanTeacher") == "→ mean teacher (would make it possible)"
    with pytest.raises(ValueError, match="no recipe to write down"):
        fired.to_json()
    assert fired.to_code().startswith("# no run: ")
    runs = len(fired.results)
    fired.run_button.click()
    assert fired.message.startswith("Nothing was run, because this composition is impossible: ")
    assert len(fired.results) == runs
    fired.controls["teacher"].value = "FrozenTeacher"
    assert not fired.incompatibility and fired.recipe.teacher == P.FrozenTeacher()
    assert text("teacher", "MeanTeacher") == "mean teacher"
    assert fired.controls["start"].value == ""
    fired.controls["start"].value = "wisdom_of_crowds"
    assert fired.slots == before and not fired.incompatibility


def test_whole_methods_guard_and_knobs_in_the_panel(fired, monkeypatch):
    monkeypatch.setattr(fired, "_fast", True)                                 # without looking what could be chosen next
    fired.controls["start"].value = "rotta"
    assert fired.slots["teacher"] is None and fired.controls["teacher"].value == ""
    assert "its own" in dict(fired.controls["teacher"].options)
    fired.controls["start"].value = "tent"
    assert "its own" not in dict(fired.controls["teacher"].options)
    fired.knobs["update.lr"].value = 0.01
    assert fired.recipe.update.lr == 0.01 and "lr 0.01, not 0.001" in fired.description.value
    fired.controls["guard"].value = True
    assert fired.recipe.controllers == (Guard(),) and fired.controls["controllers"].value == ""
    fired.controls["controllers"].value = "ResetEvery"
    assert [type(c).__name__ for c in fired.recipe.controllers] == ["ResetEvery", "Guard"]
    fired.controls["controllers"].value = ""
    fired.controls["guard"].value = False
    fired.controls["update"].value = "Sam"
    fired.controls["update"].value = "Step"
    assert fired.recipe.update.lr == 0.01                                     # a part that was there comes back with its knobs
    fired.controls["select 1"].value = "EntropyThreshold"
    fired.knobs["select.0.fraction"].value = 0.25
    assert fired.recipe.select == (EntropyThreshold(0.25),)
    assert fired.controls["select 2"].layout.display is None
    fired.controls["start"].value = "tent"
    assert fired.controls["select 2"].layout.display == "none"
    assert compose.recognise(fired.recipe) == ("tent", [])


def test_a_knob_that_makes_it_impossible_can_be_turned_back(fired, monkeypatch):
    monkeypatch.setattr(fired, "_fast", True)
    fired.controls["start"].value = "tent"
    fired.controls["objective"].value, fired.controls["teacher"].value = "Agreement", "MeanTeacher"
    fired.knobs["objective.loss"].value = "cross_entropy"
    assert "nothing would ever move" in fired.incompatibility and fired.recipe is None
    assert fired.error is None
    fired.knobs["objective.loss"].value = "classes"
    assert not fired.incompatibility and fired.recipe.objective == P.Agreement("classes")
    fired.controls["start"].value = "tent"


def test_knobs_of_slots_are_those_of_the_recipe():
    for name in ("tent", "eata", "cotta", "rotta", "sar", "unient"):
        slots = compose.decompose(make(name))
        recipe, rows = compose.assemble(slots), compose.slot_knobs(slots)
        assert {n: k.value for n, k in rows.items()} == {k.name: k.value for k in knobs(recipe)}
        assert compose.assemble(compose.set_knob(slots, "update.lr", 0.02)) == with_knobs(recipe, **{"update.lr": 0.02})
        assert compose.assemble(compose.set_knob(slots, "average", "all")).average == "all"
    assert compose.set_knob(compose.decompose(make("rotta")), "nu", 0.5)["objective"].nu == 0.5
    assert compose.set_knob(compose.decompose(make("eta")), "select.1.margin", 0.3)["select"] == make("eta", margin=0.3).select


def test_saved_and_opened_again(fired, tmp_path, monkeypatch):
    monkeypatch.setattr(fired, "_fast", True)
    from tta_lab.panels.composer import composer, save
    fired.controls["start"].value = "eta"
    fired.path.value = str(tmp_path / "mine.json")
    fired.save_button.click()
    assert fired.message == f"Saved as {tmp_path / 'mine.json'}."
    panel = composer((tmp_path / "mine.json").read_text(), device="cpu")
    assert panel.recipe == fired.recipe and panel.controls["start"].value == "eta"
    save(fired, tmp_path / "runs.json", refused=[("a", "b")])
    found = json.loads((tmp_path / "runs.json").read_text())
    assert found["refused"] == [["a", "b"]] and len(found["runs"]) == len(fired.results)
    assert "torch" in found["made"]
    fired.path.value = str(tmp_path / "nowhere" / "mine.json")
    fired.save_button.click()
    assert isinstance(fired.error, OSError) and "Failed with FileNotFoundError" in fired.message
    fired.error = None


def test_given_model_stream_and_mistakes():
    from tta_lab.panels.composer import composer
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    panel = composer(model=net, stream=STREAM, device="cpu", start="source", relatives=0)
    assert panel.choice.network is net and panel.choice.stream is STREAM and not panel.incompatibility
    panel.controls["start"].value = "tent"
    assert "normalisation layers" in panel.incompatibility
    assert "parameters &quot;all parameters&quot;" in panel.description.value
    panel.controls["train"].value = "AllParameters"
    assert not panel.incompatibility
    assert panel.to_code().count("# model: your own network") == 1
    with pytest.raises(ValueError, match="no method 'tant' to start from; there are: .*ada_mix_bn"):
        composer(start="tant")
    with pytest.raises(ValueError, match="no embedded model 'x'"):
        composer(model="x")
    with pytest.raises(ValueError, match="no stream 'x'"):
        composer(stream="x")


def test_run_and_stop_in_a_thread():
    from tta_lab.panels.composer import composer
    panel = composer(device="cpu", per_shift=400, batch=10, relatives=0)
    panel.run_button.click()
    while panel.progress.value < 3 and panel.running:
        time.sleep(0.01)
    panel.stop_button.click()
    assert panel.wait(60) and panel.error is None
    assert re.match(r"Stopped after batch \d+ of 160\. The composition errs on", panel.message), panel.message
    seen = len(panel.traces["composition"])
    assert all(len(t) == seen for t in panel.traces.values())
    assert not panel.results["complete"].any()
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(panel.to_code(), {})
    assert error_of(out.getvalue())["choice"] == pytest.approx(explore(panel.session.shown(), (), device="cpu").rows[0]["error"], abs=0.006)
    assert BatchStatistics() == panel.recipe.norm
