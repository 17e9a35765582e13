"""AdaNPC against the authors' public code, and its vote by hand."""
import math

import numpy as np
import pytest
import torch
from reference_runs import Runs
from tiny import source_images, stream, tiny

from tta_lab.components.norms.batch_norm import BatchStatistics
from tta_lab.components.source import prepare as source
from tta_lab.core.adapter import Adapter
from tta_lab.core.parts import NeedsError
from tta_lab.methods import make
from tta_lab.methods.adanpc import Adanpc

RUNS = Runs("adanpc")


@pytest.fixture(scope="module")
def neighbours():
    return source.prepare(tiny("tinybn"), make("adanpc"), *source_images(),
                          device="cpu")["neighbours"]


def deviations(run, neighbours, batches=None, kind=None, **changes):
    h = RUNS.settings(run)
    recipe = make("adanpc",
                  **{"k": h["k"], "temperature": h["temperature"], "sure": h["beta"], **changes})
    recipe = kind(**vars(recipe)) if kind else recipe
    entry = torch.from_numpy(RUNS.stored(run)["extra/initial_random_entry"])
    neighbours = {
        "features": torch.cat([entry, neighbours["features"]]),
        "labels": torch.cat([torch.zeros(1).long(), neighbours["labels"]])
    }

    def watch(adapter):
        return len(neighbours["labels"]) + len(adapter.states["method"]["labels"])

    outputs, adapter, held = RUNS.play(run, recipe, given={"neighbours": neighbours}, watch=watch,
                                       batches=batches)
    joined = np.diff([len(neighbours["labels"]), *held])
    return RUNS.deviations(run, outputs, adapter,
                           seen={"info/memory": held, "info/n_selected": joined})


@pytest.mark.parametrize("run", RUNS.fixed)
def test_matches_the_reference(run, neighbours):
    assert deviations(run, neighbours) == [] and RUNS.unused(run) == []


class _Early(Adanpc):
    """The batch joins before it is answered."""

    def output(self, ctx, state):
        super().output(ctx, state)
        return super().output(ctx, dict(state))


class _Heads(Adanpc):
    """Images join under the class of the head."""

    def output(self, ctx, state):
        n = 0 if state["labels"] is None else len(state["labels"])
        answer = super().output(ctx, state)
        state["labels"][n:] = ctx.logits.argmax(1)[answer.exp().softmax(1).amax(1) >= self.sure]
        return answer


MUTATIONS = {
    "itself": {},
    "k": {"k": 9},
    "temperature": {"temperature": 0.11},
    "sure": {"sure": 0.19},
    "confidence": {"confidence": "vote"},
    "none": {"sure": 1.1},
    "statistics": {"norm": BatchStatistics()},
    "early": {"kind": _Early},
    "head": {"kind": _Heads},
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_comparison_can_fail(name, neighbours):
    assert (deviations("adanpc-official__tinybn__s1", neighbours, batches=5,
                       **MUTATIONS[name]) == []) == (name == "itself")


class StepContext:
    """Three images at angles of 0, 30 and 90 degrees."""

    features = torch.tensor([[2.0, 0.0], [3.0 ** 0.5, 1.0], [0.0, 5.0]])
    logits = torch.zeros(3, 3)
    source_info = {
        "neighbours": {
            "features": torch.tensor([[3.0, 0.0], [0.0, 0.1], [1.0, 1.0]]),
            "labels": torch.tensor([0, 1, 2])
        }
    }


def votes(**settings):
    state = {"features": None, "labels": None}
    return make("adanpc", **settings).output(StepContext, state).exp(), state


def test_vote_by_hand():
    near, _ = votes(k=1)
    # 45 degrees is nearer to 30 than 0 is
    torch.testing.assert_close(near, torch.eye(3)[[0, 2, 1]].add(1e-5).clamp_max(1))
    share, _ = votes(k=3, temperature=100.0)
    torch.testing.assert_close(share, torch.full((3, 3), 1 / 3 + 1e-5), atol=3e-3, rtol=0.0)
    # no more vote than there are
    torch.testing.assert_close(share, votes(k=50, temperature=100.0)[0])
    two, _ = votes(k=2, temperature=0.5)
    cosines = torch.tensor([1.0, math.cos(math.pi / 4)])
    torch.testing.assert_close(two[0], torch.tensor([1.0, 0.0, 0.0]) * (2 * cosines).softmax(0)[0]
                               + torch.tensor([0.0, 0.0, 1.0]) * (2 * cosines).softmax(0)[1] + 1e-5)


def test_who_joins():
    # of three classes
    unanimous = math.e / (math.e + 2)
    for sure, confidence, joined in ((0.0, "softmax", 3), (unanimous - 1e-4, "softmax", 3),
                                     (unanimous + 1e-4, "softmax", 0), (1.0, "vote",
                                                                        3), (1.1, "vote", 0)):
        state = votes(k=1, sure=sure, confidence=confidence)[1]
        assert len(state["labels"]) == joined
    state = votes(k=1)[1]
    assert state["labels"].tolist() == [0, 2, 1] and torch.allclose(state["features"].norm(dim=1),
                                                                    torch.ones(3))
    first = state["features"].clone()
    answer = make("adanpc", k=1).output(StepContext, state).exp()
    assert answer.argmax(1).tolist() == [0, 2, 1] and len(state["labels"]) == 6 and torch.equal(
        state["features"][:3], first)


def test_images_of_a_batch_do_not_see_each_other(neighbours):
    x, order = stream("s1")[0][0][:16], torch.arange(15, -1, -1)
    answers = [
        Adapter(tiny("tinybn"), make("adanpc"), device="cpu", source_info={"neighbours": neighbours})(v)
        for v in (x, x[order])
    ]
    torch.testing.assert_close(answers[0][order], answers[1], atol=1e-4, rtol=1e-4)
    alone = torch.cat([
        Adapter(tiny("tinybn"), make("adanpc"), device="cpu", source_info={"neighbours": neighbours})(v)
        for v in x.split(1)
    ])
    torch.testing.assert_close(alone, answers[0], atol=1e-4, rtol=1e-4)


def test_neighbours_are_the_features_of_the_source(neighbours):
    x, y = source_images()
    with torch.no_grad():
        torch.testing.assert_close(neighbours["features"], tiny("tinybn").features(x))
    assert torch.equal(neighbours["labels"], y)
    with pytest.raises(ValueError, match="need a label for every source image"):
        source.prepare(tiny("tinybn"), make("adanpc"), x, device="cpu")
    adapter = Adapter(tiny("tinybn"), make("adanpc"), device="cpu",
                      source_info={"neighbours": {"features": neighbours["features"], "labels": y + 3}})
    with pytest.raises(NeedsError, match="label 12, but the model answers in 10 classes"):
        adapter(stream("s1")[0][0])
