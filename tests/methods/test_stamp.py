"""STAMP against the authors' public code, and its memory and step size by hand."""
import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from reference_runs import Runs
from tiny import stream, tiny

from tta_lab.components.augment import Augmentation, CropFlip, Unchanged
from tta_lab.components.memories import ClassMemory
from tta_lab.components.updates import CosineSam, Sam
from tta_lab.core import scores
from tta_lab.core.adapter import Adapter
from tta_lab.core.parts import NormAffine, Step
from tta_lab.methods import make

RUNS = Runs("stamp")


@dataclass(frozen=True)
class First(ClassMemory):
    """Of equal classes the first gives its oldest image: in place of a draw."""

    def draw(self, n, rng):
        return 0


@dataclass(frozen=True)
class Views(Augmentation):
    """The mirror image, moved by one pixel along height, along width, and again: in place of
    draws."""

    turn = itertools.count()

    def __call__(self, x, rng):
        return (x.flip(3), x.roll(1, 2), x.roll(1, 3))[next(self.turn) % 3]


def recipe(run, **changes):
    h = RUNS.settings(run)
    rule = CosineSam(rule="sgd", lr=h["lr"], momentum=h["momentum"], rho=h["rho"],
                     period=h["cosine_T_max"])
    memory = First(h["memory"]) if h["tie_break"] == "first" else ClassMemory(h["memory"])
    settings = dict(update=rule, share=h["alpha"], views=h["views"] - 1, augment=Views(),
                    memory=memory)
    return make("stamp", **{**settings, **changes})


def deviations(run, batches=None, **changes):
    def watch(adapter):
        return len(adapter.states["method"]["memory"]["ids"])

    outputs, adapter, held = RUNS.play(run, recipe(run, **changes), watch=watch, batches=batches)
    p = np.exp(outputs)
    return RUNS.deviations(
        run, outputs, adapter,
        seen={"info/memory": held, "info/mean_score": (p * np.log(p + 1e-5)).sum(2).mean(1)})


@pytest.mark.parametrize("run", [
    pytest.param(run, marks=pytest.mark.slow) if run.endswith("1view__tinybn__s3") else run
    for run in RUNS.fixed
])
def test_matches_the_reference(run):
    assert deviations(run) == [] and RUNS.unused(run) == []


@dataclass(frozen=True)
class Refreshed(First):
    """The counts follow every image, not every step: a plausible mistake."""

    def offer_(self, state, *args):
        super().offer_(state, *args)
        self.read_(state)


MUTATIONS = {
    "itself": {},
    "rate": {"lr": 0.099},
    "radius": {"rho": 0.045},
    "schedule": {"period": 75},
    "share": {"share": 0.38},
    "no judge": {"agree": False},
    "detached": {"through_weights": False},
    "capacity": {"memory": First(63)},
    "counts": {"memory": First(momentum=0.5)},
    "refreshed": {"memory": Refreshed()},
    "answer": {"answer": "after"},
    "views": {"views": 2},
    "no second look": {"update": Step(rule="sgd", lr=0.1, momentum=0.0)},
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_comparison_can_fail(name):
    # seen in the size of the weights' change alone
    slowly = name in ("schedule", "no judge", "counts")
    stream = "s1" if slowly or name == "refreshed" else "s3" if name == "views" else "s2"
    run = f"stamp-official-{'4views' if name == 'views' else '1view'}__tinybn__{stream}"
    assert (deviations(run, batches=None if slowly else 3,
                       **MUTATIONS[name]) == []) == (name == "itself")


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS.random)
def test_random_runs_are_within_the_spread(run):
    assert RUNS.outside(
        run, lambda seed: RUNS.play(run, recipe(run), seed)) == [] and RUNS.unused(run) == []


def test_memory_by_hand():
    """Three places, three classes: full, the class that was largest when last read gives its
    oldest."""
    memory = ClassMemory(capacity=3)
    rng = torch.Generator().manual_seed(0)
    state = memory.init(None, None)

    def offer(ident, label):
        memory.offer_(state, torch.zeros(1), torch.tensor(ident), label, 3, rng)
        return {int(i): c for i, c in zip(state["ids"], state["classes"], strict=True)}

    offer(0, 0), offer(1, 1)
    assert offer(2, 1) == {0: 0, 1: 1, 2: 1}
    memory.read_(state)
    assert state["counts"] == pytest.approx([0.1, 0.2, 0.0])
    assert offer(3, 2) == {0: 0, 2: 1, 3: 2}                        # class 1 was largest
    # and still is: nobody has read since
    assert offer(4, 2) == {0: 0, 3: 2, 4: 2}
    # class 1 is empty, class 0 is next
    assert offer(5, 2) == {3: 2, 4: 2, 5: 2}
    memory.read_(state)
    assert state["counts"] == pytest.approx([0.09, 0.18, 0.3])
    assert offer(6, 1) == {4: 2, 5: 2, 6: 1}
    drawn = set()
    for seed in range(8):
        fresh = {
            "images": [torch.zeros(1)] * 3, "ids": [torch.tensor(i) for i in range(3)],
            "classes": [0, 1, 2], "counts": [0.1, 0.1, 0.1]
        }
        memory.offer_(fresh, torch.zeros(1), torch.tensor(9), 0, 3,
                      torch.Generator().manual_seed(seed))
        drawn |= {0, 1, 2} - {int(i) for i in fresh["ids"]}
    assert drawn == {0, 1, 2}, "equals are drawn among"


def test_weights_of_the_memory_sum_to_its_capacity():
    class StepContext:
        logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)

    entropy = scores.entropy(StepContext.logits)
    for through, extra in ((True, True), (False, False)):
        losses = make("stamp", through_weights=through).losses(StepContext, {})
        assert (losses / entropy).sum().item() == pytest.approx(64)
        found, = torch.autograd.grad(losses.sum(), StepContext.logits, retain_graph=True)
        fixed, = torch.autograd.grad((64 * (-entropy).softmax(0).detach() * entropy).sum(),
                                     StepContext.logits, retain_graph=True)
        assert torch.allclose(found, fixed) != extra


def test_step_size_follows_the_cosine_and_is_put_back():
    weight = torch.nn.Parameter(torch.ones(1))
    rule = CosineSam(lr=0.4, period=4, momentum=0.0)
    optimizer, used = rule.build([weight]), []

    class LossOutput:
        move = True
        kept = torch.ones(1)
        weights = torch.ones(1)

    def closure(keep=None):
        weight.grad = torch.ones(1)
        return LossOutput()

    for _ in range(9):
        before = weight.item()
        rule(optimizer, closure)
        used.append(before - weight.item())
    assert used == pytest.approx([0.2 * (1 + math.cos(math.pi * t / 4)) for t in range(9)],
                                 abs=1e-6)

    x = stream("s1")[0][:3]
    plain = make("stamp", views=0, rho=0.0, lr=0.1)
    adapter = Adapter(tiny("tinybn"), plain, device="cpu")
    first = [adapter(b) for b in x]
    assert adapter.optimizer.param_groups[0]["steps"] == 3
    adapter.reset()
    assert adapter.optimizer.param_groups[0]["steps"] == 0 and adapter.optimizer.param_groups[0][
        "lr"] == 0.1
    constant = Adapter(tiny("tinybn"), replace(plain, update=Sam(lr=0.1, rho=0.0, momentum=0.0)),
                       device="cpu")
    again = [constant(b) for b in x]
    assert torch.equal(
        again[1],
        first[1]) and not torch.equal(again[2], first[2]), "the first step is taken at full size"


def test_nothing_enters_nothing_moves_and_the_answer_is_the_mean_over_views():
    x = stream("s3")[0][0]
    adapter = Adapter(tiny("tinybn"), make("stamp", share=0.0, views=3, augment=Views()),
                      device="cpu")
    with torch.no_grad():
        z = [
            Adapter(tiny("tinybn"), make("batch_norm"), device="cpu")(v)
            for v in (x, x.flip(3), x.roll(1, 2), x.roll(1, 3))
        ]
    torch.testing.assert_close(adapter(x).exp(), sum(v.softmax(1) for v in z) / 4)
    assert adapter.trace.step("skipped").all() and adapter.trace.step(
        "distance")[0] == 0 and not adapter.states["method"]["memory"]["ids"]


def test_the_top_of_the_network_stays():
    adapter = Adapter(tiny("tinyvit"), make("stamp", augment=Unchanged(), views=1, share=1.0),
                      device="cpu")
    for x in stream("s1")[0][:2]:
        adapter(x[:16])
    assert set(adapter.tuned) == set(NormAffine(drop_top=True)(
        tiny("tinyvit"))) and adapter.trace.step("distance")[-1] > 0


def test_crops_are_parts_of_the_padded_images():
    x = torch.rand(6, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    out = CropFlip(2)(x, torch.Generator().manual_seed(1))
    padded = torch.nn.functional.pad(x, [2] * 4)
    found = set()
    for image, whole in zip(out, padded, strict=True):
        places = [(i, j, m) for i in range(5) for j in range(5) for m in (False, True)
                  if torch.equal(image.flip(2) if m else image, whole[:, i:i + 5, j:j + 4])]
        assert places
        found.add(places[0])
    assert len(found) > 3, "every image has a place of its own"
