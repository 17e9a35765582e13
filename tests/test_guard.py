"""The guard: scripted alarms and the exact state after each action, bounds, the choice of who
answers, and that it changes nothing else."""
import copy
import io
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from tiny import given, stream, tiny

from tta_lab import plots
from tta_lab.components.controllers.guard import (
    ACTIONS,
    ANSWERS,
    Guard,
    close,
    clumping,
    gather_,
    guarded,
    guarding,
    information,
    snapshot_bytes,
    unexplained,
)
from tta_lab.components.controllers.guard import actions as taken
from tta_lab.components.controllers.resets import ResetEvery
from tta_lab.core.adapter import Adapter
from tta_lab.core.knobs import knobs, with_knobs
from tta_lab.core.parts import Part, SlidingWindow, needs_of
from tta_lab.core.trace import Trace
from tta_lab.methods import METHODS, make
from tta_lab.methods.serialise import PARTS, from_json, to_json


@dataclass(frozen=True)
class Scripted(Part):
    """Alarms in these steps, and this probability otherwise."""

    at: tuple = ()
    probability: float = 0.0

    def init(self, model, source):
        return {"looks": 0}

    def look(self, samples, step, state):
        state["looks"] += 1
        alarm = step["step"] in self.at
        return int(alarm), 1.0 if alarm else self.probability


def guard(at=(), probability=0.0, **settings):
    return Guard(
        **{
            "detector": Scripted(tuple(at), probability), "choose": False, "every": 2, "rest": 0,
            **settings
        })


@pytest.fixture(scope="module")
def batches():
    x = stream("s3")[0]
    return [x[i % len(x)][:24] for i in range(12)]


def adapter_of(*controllers, name="tent", model="tinybn", record="light", **settings):
    recipe = make(name, **settings)
    recipe = replace(recipe, controllers=(*recipe.controllers, *controllers))
    return Adapter(tiny(model), recipe, seed=1, device="cpu", record=record,
                   source_info=given(make(name, **settings), model))


def weights(adapter):
    return {k: v.detach().clone() for k, v in adapter.state.tensors.items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def actions(adapter):
    return [ACTIONS[int(a)] for a in adapter.trace.step("action")]


def history(adapter, batches):
    """Weights and buffers at the start and after each step."""
    found = [weights(adapter)]
    for x in batches:
        adapter(x)
        found.append(weights(adapter))
    return found


# --- acting -------------------------------------------------------------------------------------

def test_roll_back_restores_the_oldest_state_bit_for_bit(batches):
    adapter = adapter_of(guard([6], action="roll back"))
    # remembered after steps 1, 3 and 5 (every second one); two are kept: those after 3 and 5
    after = history(adapter, batches[:7])
    assert not same(after[6], after[4]) and not same(after[4], after[0])
    assert same(after[7], after[4])
    assert actions(adapter) == [""] * 6 + ["rolled back"]
    # the optimiser went back too: going on is the same as a run that was at that state, with
    # its moments
    other = adapter_of()
    for x in batches[:4]:
        other(x)
    assert torch.equal(adapter(batches[7]), other(batches[7]))
    assert torch.equal(adapter(batches[8]), other(batches[8]))


def test_roll_back_puts_back_the_states_of_parts(batches):
    adapter = adapter_of(guard([4], action="roll back", snapshots=1), name="eata")
    for x in batches[:4]:
        adapter(x)
    remembered = copy.deepcopy(adapter.states["select"])
    adapter(batches[4])
    put_back = adapter.states["select"]
    fresh = adapter_of(guard(), name="eata").states["select"]
    assert repr(put_back) == repr(remembered) != repr(fresh)


def test_a_second_alarm_before_a_healthy_state_goes_back_to_the_source(batches):
    adapter = adapter_of(guard([4, 5], action="roll back", every=3))
    after = history(adapter, batches[:6])
    assert actions(adapter)[4:] == ["rolled back", "reset"]
    assert same(after[5], after[3]) and same(after[6], after[0])
    adapter(batches[6])
    assert adapter.trace.step("reset").tolist() == [True] + [False] * 5 + [True]


def test_an_alarm_before_anything_was_remembered_goes_back_to_the_source(batches):
    adapter = adapter_of(guard([0], action="roll back"))
    after = history(adapter, batches[:1])
    assert same(after[1], after[0]) and actions(adapter) == ["reset"]


def test_a_sign_of_trouble_keeps_a_state_from_being_remembered(batches):
    adapter = adapter_of(guard(probability=0.6, calm=0.5))
    history(adapter, batches[:4])
    assert adapter.states["controllers"][0]["memories"] == []


def test_reset_goes_back_to_the_source_and_the_guard_goes_on(batches):
    adapter = adapter_of(guard([3], action="reset"), name="eata")
    after = history(adapter, batches[:4])
    assert same(after[4], after[0]) and actions(adapter)[3] == "reset"
    assert repr(adapter.states["select"]) == repr(adapter_of(guard(), name="eata").states["select"])
    assert adapter.states["controllers"][0]["steps"] == 4          # its own state is not put back
    assert adapter.optimizer.state_dict()["state"] == {}


def test_smaller_steps_are_kept_through_the_roll_back_and_shrink_each_time(batches):
    adapter = adapter_of(guard([4, 8, 9], action="smaller step", factor=0.5, snapshots=1), lr=0.008)
    rates = []
    for x in batches[:11]:
        adapter(x)
        rates.append(adapter.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.008] * 4 + [0.004] * 4 + [0.002] + [0.001] * 2)
    assert actions(adapter)[4] == actions(adapter)[8] == "smaller step" and actions(
        adapter)[9] == "smaller step from the source"
    adapter.reset()
    assert adapter.optimizer.param_groups[0]["lr"] == 0.008 and adapter.rate_scale == 1.0


def test_smaller_steps_last_under_a_schedule(batches):
    plain = adapter_of(name="stamp", views=2)
    adapter = adapter_of(guard([0], factor=0.5), name="stamp", views=2)
    for x in batches[:3]:
        plain(x)
        adapter(x)
    steps = [a.optimizer.param_groups[0]["steps"] for a in (plain, adapter)]
    lr, period = plain.recipe.update.lr, plain.recipe.update.period
    assert [a.optimizer.param_groups[0]["lr"] for a in (plain, adapter)] == pytest.approx([
        factor * lr * (1 + math.cos(math.pi * n / period)) / 2
        for factor, n in zip((1.0, 0.5), steps, strict=True)
    ])


def test_a_factor_of_zero_ends_learning_without_breaking(batches):
    adapter = adapter_of(guard([1, 3], factor=0.0), train=make("tent").train)
    after = history(adapter, batches[:6])
    assert same(after[6], after[0]) and adapter.rate_scale == 0.0


def test_stop_leaves_the_weights_and_holds_learning_back(batches):
    adapter = adapter_of(guard([2], action="stop", stop=3))
    after = history(adapter, batches[:8])
    assert not same(after[3], after[2]) and same(after[6],
                                                 after[3]) and not same(after[7], after[6])
    assert adapter.trace.step("skipped").tolist() == [False] * 3 + [True] * 3 + [False] * 2
    assert adapter.trace.step("backwards").tolist() == [24] * 3 + [0] * 3 + [24] * 2


def test_a_pause_holds_statistics_and_memories_back_too(batches):
    adapter = adapter_of(guard([1], action="roll back", pause=2), name="rotta")
    after = history(adapter, batches[:5])
    # of the step after the pause
    assert same(after[4], after[2]) and adapter.states["method"]["offers"] == 24
    running = adapter_of(guard([1], action="stop", stop=2), norm=PARTS["RunningStatistics"]())
    after = history(running, batches[:5])
    assert same(after[4], after[2]) and not same(after[5], after[4])


def test_rest_and_pause_keep_it_from_acting_twice(batches):
    adapter = adapter_of(guard(range(12), action="reset", rest=3))
    history(adapter, batches)
    assert [i for i, a in enumerate(actions(adapter)) if a] == [0, 4, 8]
    assert (adapter.trace.step("alarm") == 1).all()               # alarms are recorded all the same
    adapter = adapter_of(guard(range(12), action="reset", rest=0, pause=2))
    history(adapter, batches)
    assert [i for i, a in enumerate(actions(adapter)) if a] == [0, 3, 6, 9]


def test_action_none_records_and_does_nothing(batches):
    plain = adapter_of()
    watched = adapter_of(guard(range(12), action="none"))
    for x in batches[:4]:
        assert torch.equal(plain(x), watched(x))
    assert same(weights(plain), weights(watched)) and not any(actions(watched))
    assert watched.trace.step("alarm_probability").tolist() == [1.0] * 4


@pytest.mark.parametrize("snapshots", [1, 2, 3])
def test_the_number_of_states_and_their_bytes_are_bounded(batches, snapshots):
    adapter = adapter_of(guard(every=1, snapshots=snapshots))
    sizes = []
    for x in batches[:6]:
        adapter(x)
        sizes.append(len(adapter.states["controllers"][0]["memories"]))
    assert sizes == [min(i + 1, snapshots) for i in range(6)]
    one = sum(v.numel() * v.element_size() for v in adapter.state.tensors.values())
    tuned = sum(p.numel() * 4 for p in adapter.tuned.values())
    # two moments and a step counter for each tensor
    adam = 2 * tuned + 4 * len(adapter.tuned)
    assert snapshot_bytes(adapter.states["controllers"][0]) == snapshots * (one + adam)


# --- choosing -----------------------------------------------------------------------------------

def test_information_by_hand():
    certain = torch.tensor([[30.0, 0.0], [0.0, 30.0]])
    flat = torch.zeros(2, 2)
    evidence = {}
    gather_(evidence, [certain, flat, certain], 100, 100)
    assert information(evidence, 0.0, (1.0, 1.0)) == pytest.approx([math.log(2), 0.0], abs=1e-6)
    # always the same class: nothing is said about the image
    one = torch.tensor([[30.0, 0.0]] * 2)
    evidence = {}
    gather_(evidence, [one, certain, certain], 100, 100)
    assert information(evidence, 0.0, (1.0, 1.0)) == pytest.approx([0.0, math.log(2)], abs=1e-6)
    # with 3 uniform images per class: mean prediction (2 + 3, 0 + 3) / 8
    p = 5 / 8
    assert information(evidence, 3.0,
                       (1.0, 1.0))[0] == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p),
                                                       abs=1e-6)
    half = {}
    gather_(half, [flat, flat, flat], 100, 100)
    assert information(half, 0.0, (1.5, 1.0)) == pytest.approx([-0.5 * math.log(2), 0.0], abs=1e-6)
    # of two images; the other two pairs agree on one
    assert evidence["agree"].tolist() == pytest.approx([1.0, 1.0, 2.0])


def test_what_two_models_cannot_explain_is_charged_to_the_source():
    # of 10 images they differ on 7 and admit to 1.5 and 2: at least 3.5 wrong answers are hidden
    evidence = {
        "agree": torch.tensor([3.0, 0.0, 0.0]), "confidence": torch.tensor([8.5, 8.0]), "n": 10.0
    }
    assert unexplained(evidence) == pytest.approx(0.35)
    # 3 < 1.5 + 2: nothing is hidden
    assert unexplained({**evidence, "agree": torch.tensor([7.0, 0.0, 0.0])}) == 0.0
    # both equally informative: the charge alone tells them apart, and only where it exceeds
    # the margin
    evidence |= {
        "classes": torch.full((2, 4), 10.0), "entropy": torch.tensor([4.0, 4.0]),
        "said": torch.full((4,), 10.0), "n_pairs": 40.0
    }
    # as many pairs of one class as chance makes
    evidence["pairs"] = torch.tensor(40 * 0.25)
    better = [
        Guard(prior=0.0, caution=1.0, margin=0.05,
              charge=c)._better({"evidence": evidence, "best": 0}) for c in (0.0, 0.1, 0.2, 1.0)
    ]
    assert better == [0, 0, 1, 1]


def test_clumps_are_charged_to_batch_statistics():
    one_hot = 30 * torch.eye(4)
    sorted_ = {}
    mixed = {}
    single = {}
    for c in range(4):
        gather_(sorted_, [one_hot[[c] * 5]] * 3, 1e9, 1e9)                       # one class a batch
        # each class once a batch
        gather_(mixed, [one_hot] * 3, 1e9, 1e9)
        gather_(single, [one_hot[[c]]] * 3, 1e9, 1e9)
    assert clumping(sorted_, 0.0) == pytest.approx(1.0) and clumping(mixed, 0.0) == 0.0
    # an image alone is a batch of one class
    assert clumping(single, 0.0) == pytest.approx(1.0)
    # 3 of one class and 1 of another: 6 of 12 pairs are of one class; shares 3/4 and 1/4 make
    # 5/8 by chance; with 4 images added to each of
    # 4 classes the shares are 7, 5, 4, 4 of 20, which make 106/400
    some = {}
    gather_(some, [one_hot[[0, 0, 0, 1]]] * 3, 1e9, 1e9)
    assert clumping(some, 0.0) == 0.0
    assert clumping(some, 4.0) == pytest.approx((0.5 - 106 / 400) / (1 - 106 / 400))
    # sure and even predictions of both, 0.4 of disagreement hidden: the source pays where
    # batches are mixed, BN-1 where they are not
    hidden = {
        "agree": torch.tensor([3.0, 0.0, 0.0]), "confidence": torch.tensor([8.5, 8.5]), "n": 10.0,
        "entropy": torch.tensor([4.0, 4.0]), "classes": torch.full((2, 4), 10.0)
    }
    assert [
        Guard(caution=1.0)._better({"evidence": {**e, **hidden}, "best": 1 - k})
        for k, e in ((1, mixed), (0, sorted_))
    ] == [1, 0]


def test_evidence_fades_with_images_not_with_batches():
    z = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    whole = {}
    halves = {}
    alone = {}
    gather_(whole, [z, z, z], 50, 80)
    for part in z.split(20):
        gather_(halves, [part] * 3, 50, 80)
    for row in z.split(1):
        gather_(alone, [row] * 3, 1e9, 1e9)
    assert halves["n"] == pytest.approx(
        20 +
        20 * math.exp(-20 / 50)) and halves["n_classes"] == pytest.approx(20 +
                                                                          20 * math.exp(-20 / 80))
    assert halves["n_pairs"] == pytest.approx(20 + 20 * math.exp(-20 / 160)) and float(
        halves["said"].sum()) == pytest.approx(halves["n_classes"])
    assert halves["classes"].sum(1).tolist() == pytest.approx([halves["n_classes"]] * 2, rel=1e-5)
    # an endless window: the same, however it is cut
    assert torch.allclose(alone["classes"], whole["classes"], rtol=1e-5)


@pytest.mark.parametrize(("agree", "best", "closest"), [
    ((0.6, 0.5, 0.9), 1, True),       # Tent where BN-1 is better: it keeps company with BN-1
    ((0.4, 0.4, 0.9), 0, False),      # the same where the source is better
    ((0.6, 0.8, 0.7), 1, False),      # close to the source where BN-1 is better
    ((0.6, 0.2, 0.3), 1, False),      # collapsed: like neither
    ((1.0, 1.0, 1.0), 0, True)])      # no difference: the method answers
def test_the_method_answers_while_it_keeps_company_with_the_better_reference(agree, best, closest):
    evidence = {"agree": torch.tensor(agree), "confidence": torch.zeros(3), "n": 1.0}
    assert close(evidence, best, 0.0, 2.0) is closest


def test_more_disagreement_than_two_errors_can_explain():
    evidence = {
        "agree": torch.tensor([0.2, 0.2, 0.75]) * 10,
        "confidence": torch.tensor([0.5, 0.9, 0.99]) * 10, "n": 10.0
    }
    assert not close(evidence, 1, 0.0, 2.0)          # 0.25 > 2 x 0.1
    # 0.8 and 0.5
    assert close(evidence, 1, 0.0, 2.6) and not close(evidence, 0, math.inf, 1.5) and close(
        evidence, 0, math.inf, 1.7)


def test_the_choice_on_batches_of_one_class(batches):
    """Batch statistics of one class mislead; the source is asked instead, and answers as it would
    alone."""
    x, y = stream("s3")
    x, y = x.flatten(0, 1), y.flatten()
    alike = [x[y == c][:16] for c in range(6)]
    adapter = adapter_of(Guard(detector=Scripted()))
    answers = [adapter(b) for b in alike]
    by = [ANSWERS[int(a)] for a in adapter.trace.step("answered_by")]
    assert by.count("source") >= 4
    for z, b, who in zip(answers, alike, by, strict=True):
        if who == "source":
            assert torch.equal(z, tiny("tinybn")(b).detach())


def test_a_stopped_model_does_not_answer(batches):
    adapter = adapter_of(Guard(detector=Scripted((1,)), action="stop", rest=0))
    for x in batches[:4]:
        adapter(x)
    assert 0 not in adapter.trace.step("answered_by")[1:]
    # no batch norm: one reference
    layer = adapter_of(Guard(detector=Scripted((1,)), action="stop", rest=0), model="tinyvit")
    logits = [layer(x) for x in batches[:4]]
    assert [ANSWERS[int(a)]
            for a in layer.trace.step("answered_by")] == ["method", "source", "source", "source"]
    assert torch.equal(logits[3], tiny("tinyvit")(batches[3]).detach())


def test_cost_is_counted_whatever_is_recorded(batches):
    for record in ("light", "source"):
        asked, not_asked = (adapter_of(Guard(detector=Scripted(), choose=c), record=record)
                            for c in (True, False))
        for x in batches[:3]:
            asked(x), not_asked(x)
        assert not_asked.trace.step("forwards").tolist() == [24] * 3
        assert asked.trace.step("forwards").tolist() == [72] * 3, record
    # asks for BN-1 itself: that one is not asked twice
    filtered = adapter_of(Guard(detector=Scripted()), name="wisdom_of_crowds")
    filtered(batches[0])
    assert filtered.trace.step("forwards").tolist() == [72]


def test_what_it_sees_does_not_depend_on_the_record(batches):
    @dataclass(frozen=True)
    class Curious(Scripted):
        def look(self, samples, step, state):
            state["seen"] = [*state.get("seen", []), "source_prediction" in samples]
            return super().look(samples, step, state)

    # the second asks for the source itself
    for name, there in (("tent", False), ("wisdom_of_crowds", True)):
        for record in ("off", "light", "source"):
            adapter = adapter_of(Guard(detector=Curious(), choose=False), name=name, record=record)
            adapter(batches[0])
            assert adapter.states["controllers"][0]["detector"]["seen"] == [there], (name, record)


def test_a_roll_back_leaves_the_window_of_images_alone(batches):
    adapter = adapter_of(guard([5], action="roll back", snapshots=1), cadence=SlidingWindow(4))
    for i in range(6):
        adapter(batches[0][i:i + 1])
    assert actions(adapter)[5] == "rolled back"
    assert adapter.states["cadence"]["ids"].tolist() == [4, 5, 2, 3]


def test_single_images_in_a_sliding_window(batches):
    adapter = adapter_of(Guard(detector=Scripted()), cadence=SlidingWindow(4))
    for i in range(6):
        z = adapter(batches[0][i:i + 1])
        assert z.shape == (1, 10)
    assert adapter.trace.step("forwards").tolist() == [
        1 + 1 + 1, 2 + 1 + 2, 3 + 1 + 3, 4 + 1 + 4, 4 + 1 + 4, 4 + 1 + 4
    ]


# --- beside every method ------------------------------------------------------------------------

SETTINGS = {
    "cotta": {"views": 2}, "stamp": {"views": 2}, "petal": {"views": 2}, "memo": {"views": 2}
}
FAST = ("tent", "sar", "rotta")
LEARNING = [
    m if m in FAST else pytest.param(m, marks=pytest.mark.slow) for m in METHODS
    if METHODS[m]().learns
]


@pytest.mark.parametrize("name", LEARNING)
def test_contract(name, batches):
    """A guard that never acts changes nothing; one that acts is reset, saved in mid-stream,
    unrecorded and in inference mode the same bits."""
    settings = SETTINGS.get(name, {})
    rows = 4 if name == "memo" else 16
    recipe = make(name, **settings)
    some = [x[:rows] for x in batches[:6]]
    options = {"seed": 1, "device": "cpu", "source_info": given(recipe, "tinybn")}

    def made(*more, **kind):
        return Adapter(tiny("tinybn"), replace(recipe, controllers=(*recipe.controllers, *more)),
                       **{**options, **kind})

    plain, silent = made(), made(guard())
    # asks the references, never lets them answer
    observing = made(Guard(detector=Scripted(), action="none", slack=1.0, doubt=1e9))
    for x in some[:4]:
        z = plain(x)
        assert torch.equal(z, silent(x)) and torch.equal(z, observing(x))
    assert same(weights(plain), weights(silent)) and same(weights(plain), weights(observing))
    assert not observing.trace.step("answered_by").any()

    acting = Guard(detector=Scripted((3, 5)), every=2, rest=0, pause=1)
    adapter = made(acting)
    first = [adapter(x) for x in some]
    assert actions(adapter)[3] == "smaller step" and all(torch.isfinite(z).all() for z in first)
    adapter.reset()
    assert all(torch.equal(adapter(x), z) for x, z in zip(some, first, strict=True))
    with torch.inference_mode():
        unrecorded = made(acting, record="off")
        assert all(torch.equal(unrecorded(x), z) for x, z in zip(some, first, strict=True))
    also_source = made(acting, record="source")
    assert all(torch.equal(also_source(x), z) for x, z in zip(some, first, strict=True))
    # before an alarm, and in the pause after it
    for stop in (3, 4):
        stopped = made(acting)
        for x in some[:stop]:
            stopped(x)
        file = io.BytesIO()
        torch.save(stopped.state_dict(), file)
        file.seek(0)
        resumed = made(acting)
        resumed.load_state_dict(torch.load(file, weights_only=True))
        assert all(
            torch.equal(resumed(x), z) for x, z in zip(some[stop:], first[stop:], strict=True))
        for column in ("alarm", "action", "answered_by"):
            assert (resumed.trace.step(column) == adapter.trace.step(column)).all()


@dataclass(frozen=True, kw_only=True)
class Breaks(type(make("tent"))):
    """Tent whose loss is NaN on images brighter than 1."""

    def losses(self, ctx, state):
        return super().losses(ctx, state) * (math.nan if ctx.x.max() > 1 else 1)


def test_a_step_that_fails_leaves_the_guard_untouched(batches):
    calm = adapter_of(guard([3], action="roll back"))
    recipe = Breaks(controllers=(guard([6], action="roll back"),))
    adapter = Adapter(tiny("tinybn"), recipe, seed=1, device="cpu", on_error="source")
    for x in batches[:5]:
        assert torch.isfinite(adapter(x)).all()
        # the loss is NaN: answered by the source
        adapter(x + 2)
        assert adapter.states["controllers"][0]["steps"] == adapter.steps // 2
        calm(x)
    assert len(adapter.errors) == 5
    assert same(weights(adapter), weights(calm))


def test_segmentation(batches):
    adapter = Adapter(tiny("tinyseg"), guarded(make("tent"), detector=Scripted((1,))), device="cpu")
    for x in batches[:3]:
        assert adapter(x).shape == (24, 5, 16, 16)


def test_other_controllers_go_on(batches):
    adapter = adapter_of(ResetEvery(3), guard([1], action="reset"))
    for x in batches[:3]:
        adapter(x)
    # the guard's own reset did not set back the count of the other
    assert adapter.was_reset


# --- as a part ----------------------------------------------------------------------------------

def test_prints_saves_and_is_found():
    recipe = guarded(make("tent"), action="reset", rest=7)
    assert recipe.controllers[0] == Guard(action="reset", rest=7)
    assert eval(repr(recipe), dict(PARTS)) == recipe and from_json(
        to_json(recipe)) == recipe and hash(recipe)
    names = [k.name for k in knobs(recipe)]
    assert "controllers.0.rest" in names and "controllers.0.choose" in names
    assert with_knobs(recipe, rest=2).controllers[0].rest == 2
    assert make("tent", controllers=(Guard(),)) == guarded(make("tent"))
    assert needs_of(guarded(make("tent"))) == needs_of(make("tent"))


def test_refuses_what_it_cannot_guard():
    with pytest.raises(TypeError, match="no loss"):
        guarded(make("lame"))
    with pytest.raises(ValueError, match="has a guard already"):
        guarded(guarded(make("tent")))
    with pytest.raises(ValueError, match="smaller step"):
        Guard(action="pray")


# --- what it did --------------------------------------------------------------------------------

def trace_of_a_guarded_run(labels=True):
    said = np.array([0, 0, 1, 1, 0, 1, 1, 1])
    samples = {"step": np.repeat([0, 1, 2, 3], 2), "id": np.arange(8), "prediction": said}
    samples |= {
        "label": np.array([0, 1, 1, 1, 1, 1, 0, -1]), "known": np.array([1, 1, 1, 1, 1, 0, 1, 1],
                                                                        bool)
    } if labels else {}
    return Trace.from_columns(
        samples, {
            "step": np.arange(4), "n": np.full(4, 2), "alarm": np.array([0, 2, 2, 0]),
            "action": np.array([0, 2, 0, 4]), "alarm_probability": np.array(
                [.1, .9, .95, .2]), "answered_by": np.array([0, 2, 2, 1])
        })


def test_what_it_did_by_hand():
    trace = trace_of_a_guarded_run()
    assert taken(trace) == [(1, "rolled back"), (3, "smaller step")]
    numbers = guarding(trace, windows=2, recent=3)
    assert numbers["edges"].tolist() == [0, 2, 4]
    assert numbers["answered"].tolist() == [[0.5, 0.0, 0.5], [0.0, 0.5, 0.5]]
    # scored (known with a label): right, wrong | right, right | wrong | wrong; the last three
    # of those seen so far
    assert numbers["error"] == pytest.approx([50.0, 100 / 3, 100 / 3, 200 / 3])
    assert np.isnan(guarding(trace_of_a_guarded_run(labels=False))["error"]).all()
    bare = Trace.from_columns({"step": [0], "id": [0]}, {"step": [0]})
    assert taken(bare) == []
    with pytest.raises(ValueError, match="no guard"):
        guarding(bare)


@pytest.mark.parametrize("backend", ["matplotlib", "plotly"])
def test_figures(backend):
    pytest.importorskip("plotly")
    numbers = guarding(trace_of_a_guarded_run(), windows=2, recent=3)
    figure = plots.plot_guarding(numbers, backend=backend)
    empty = plots.plot_guard_runs({"whole": {}, "last": {}}, backend=backend)
    runs = plots.plot_guard_runs(
        {"whole": {"a": ([1.0, 5.0], [0.5, 0.25])}, "last": {"a": ([2.0], [3.0])}}, backend=backend)
    if backend == "matplotlib":
        assert [axis.get_title() for axis in figure.axes[:3]
                ] == ["2 actions, 2 alarms", "Who answered", "Error over the last 3 images"]
        points = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].lines}
        assert points["rolled back"] == [[1.0, 0.9]] and points["smaller step"] == [[3.0, 0.2]]
        assert "Nothing to draw" in empty.axes[0].texts[0].get_text()
        assert {line.get_label(): line.get_xydata().tolist()
                for line in runs.axes[0].lines}["a"] == [[1.0, 0.5], [5.0, 0.25]]
    else:
        points = {t.name: (list(t.x), list(t.y)) for t in figure.data if t.name in ACTIONS}
        assert points == {"rolled back": ([1], [0.9]), "smaller step": ([3], [0.2])}
        assert "Nothing to draw" in empty.layout.annotations[-1].text
        assert {t.name: list(t.y) for t in runs.data
                }["a"] == [0.5, 0.25] or [list(t.y)
                                          for t in runs.data if t.name == "a"][0] == [0.5, 0.25]
    assert {"guarding", "guard_runs"} <= plots.HOW_TO_READ.keys()


@pytest.mark.slow
def test_the_real_detector_and_the_guard_together():
    """Tent with a step size that destroys the model: with the guard the run ends near the
    references."""
    from tta_lab import load_model, run
    from tta_lab.streams import protocols
    model = load_model("fashion_resnet_bn")
    stream_ = protocols.continual(per_shift=60, batch=30,
                                  shifts=("gaussian_noise", "fog", "pixelate") * 4)
    wrong = {}
    for name, recipe in (("source", make("source")), ("bn", make("batch_norm")),
                         ("tent", make("tent", lr=0.1)), ("guarded", guarded(make("tent",
                                                                                  lr=0.1)))):
        trace = run(Adapter(model, recipe, device="cpu"), stream_)
        wrong[name] = 100 * (1 - trace["correct"][-240:].mean())
    assert wrong["tent"] > min(wrong["source"], wrong["bn"]) + 20
    assert wrong["guarded"] < min(wrong["source"], wrong["bn"]) + 5
