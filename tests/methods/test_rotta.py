"""RoTTA against the authors' public code, and its memory and statistics by hand."""
import math

import pytest
import torch
from reference_runs import Roll, Runs, by_key, first, step
from tiny import stream, tiny

from tta_lab.components.memories import BalancedMemory
from tta_lab.components.norms.batch_norm import BatchStatistics
from tta_lab.components.norms.stream import RobustStatistics
from tta_lab.core.adapter import Adapter
from tta_lab.core.step_context import StepContext
from tta_lab.methods import make

RUNS = Runs("rotta")


def recipe(run, **changes):
    """Ours for this run; a change of None takes a setting away."""
    h = RUNS.settings(run)
    capacity = first(h, "memory_size", "memory")
    assert h.get("num_class", 10) == 10
    weights = {
        ours: h[theirs]
        for ours, theirs in (("timeliness", "lambda_t"), ("uncertainty", "lambda_u")) if theirs in h
    }
    settings = dict(update=step(h), alpha=h["alpha"], nu=h["nu"], frequency=h["update_frequency"],
                    capacity=capacity, **weights)
    return make(
        "rotta",
        **{k: v for k, v in {**settings, "augment": Roll(), **changes}.items() if v is not None})


def play(run, batches=None, **changes):
    capacity = first(RUNS.settings(run), "memory_size", "memory")

    def watch(adapter):
        memory = adapter.states["method"]["memory"]
        return {
            "info/memory": len(memory["ids"]),
            "info/per_class": [memory["classes"].count(k) for k in range(10)],
            "info/mean_age": sum(memory["ages"]) / max(len(memory["ages"]), 1) / capacity,
            "info/updates": adapter.trace.step("lessons")[-1]
        }

    outputs, adapter, seen = RUNS.play(run, recipe(run, **changes), watch=watch, batches=batches)
    return RUNS.deviations(run, outputs, adapter, adapter.states["method"]["teacher"], by_key(seen))


SHORT = ("rotta-official-fixaug-midbatch__tinybn__s3", "rotta-official-fixaug__tinybn__s2",
         "rotta-stamprepo-fixaug__tinybn__s1")


@pytest.mark.parametrize(
    "run",
    [run if run in SHORT else pytest.param(run, marks=pytest.mark.slow) for run in RUNS.fixed])
def test_matches_the_reference(run):
    assert play(run) == [] and RUNS.unused(run) == []


class _Forgetful(BalancedMemory):
    """What was not taken in ages nobody."""

    def offer_(self, state, *args):
        before, first = state["ages"], state["ids"][:]
        super().offer_(state, *args)
        if len(first) == len(state["ids"]) and all(
                a is b for a, b in zip(first, state["ids"], strict=True)):
            state["ages"] = before


MUTATIONS = {
    "itself": {},
    "statistics": {"alpha": 0.11},
    "teacher": {"nu": 0.04},
    "batch statistics": {"norm": BatchStatistics(), "alpha": None},
    "uncertainty": {"uncertainty": 0.5},
    "timeliness": {"timeliness": 0.5},
    "capacity": {"capacity": 47},
    "frequency": {"frequency": 41},
    "aging": {"memory": _Forgetful(capacity=48), "capacity": None},
    "answer": {"answer": "after"},
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_comparison_can_fail(name):
    assert (play("rotta-official-fixaug-midbatch__tinybn__s3", batches=3,
                 **MUTATIONS[name]) == []) == (name == "itself")


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS.random)
def test_random_runs_are_within_the_spread(run):
    """With augmentations: mean error over five seeds within three standard errors, so the size of
    the change of the weights."""
    assert RUNS.outside(run, lambda seed: RUNS.play(run, recipe(run, augment=None), seed)
                        ) == [] and RUNS.unused(run) == []


def test_memory_by_hand():
    """Three places, two classes: room for 1.5 of each, so that two of a class may stay."""
    memory = BalancedMemory(capacity=3)
    state = memory.init(None, None)

    def offer(ident, label, doubt):
        memory.offer_(state, torch.zeros(1), torch.tensor(ident), label, doubt, 2)
        return {
            int(i): (c, a)
            for i, c, a in zip(state["ids"], state["classes"], state["ages"], strict=True)
        }

    assert offer(0, 0, 0.1) == {0: (0, 1)}
    assert offer(1, 0, 0.3) == {0: (0, 2), 1: (0, 1)}
    # its class is full, none of it is worse; all age
    assert offer(2, 0, 0.6) == {0: (0, 3), 1: (0, 2)}
    assert offer(3, 0, 0.2) == {0: (0, 4), 3: (0, 1)}                         # 1 was the worst
    assert offer(4, 1, 0.5) == {0: (0, 5), 3: (0, 2), 4: (1, 1)}              # room
    # class 1 may grow at the cost of the largest, whose oldest goes
    assert offer(5, 1, 0.1) == {3: (0, 3), 4: (1, 2), 5: (1, 1)}
    expected = 1 / (1 + math.exp(-2 / 3)) + 0.5 / math.log(2)
    assert memory.badness(2, 0.5, 2) == pytest.approx(expected)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_one_step_for_every_64_images_however_they_come(size):
    x = stream("s2")[0].flatten(0, 1)[:140]
    adapter = Adapter(tiny("tinybn"), make("rotta"), device="cpu")
    for batch in x.split(size):
        adapter(batch)
    assert adapter.trace.step("lessons").sum() == 2 and adapter.states["method"]["offers"] == 140
    assert len(adapter.states["method"]["memory"]["ids"]) <= 64


def test_robust_statistics_between_source_and_batch():
    x = stream("s1")[0][0][:16]
    source, batch = (Adapter(tiny("tinybn"), make(name), device="cpu")(x)
                     for name in ("source", "batch_norm"))
    for alpha, expected in ((0.0, source), (1.0, batch)):
        found = Adapter(tiny("tinybn"), make("tent", norm=RobustStatistics(alpha)), device="cpu")(x)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_student_and_teacher_have_statistics_of_their_own():
    adapter = Adapter(tiny("tinybn"), make("rotta", nu=0.0), device="cpu")
    for x in stream("s1")[0][:3]:
        adapter(x)
    teacher = adapter.states["method"]["teacher"]
    for name, start in adapter.state.start.items():
        mean = name.endswith("running_mean")
        # nu = 0: only statistics move
        assert torch.equal(teacher[name], start) == (not mean and not name.endswith("running_var"))
        assert not torch.equal(adapter.state.tensors[name].detach(), teacher[name])


def test_a_batch_of_the_stream_has_no_loss():
    adapter = Adapter(tiny("tinybn"), make("rotta"), device="cpu")
    x, ids = adapter.batch(stream("s1")[0][0])
    with pytest.raises(ValueError, match="Rotta learns from its memory alone"):
        adapter.loss_of(StepContext(adapter, x, ids))
