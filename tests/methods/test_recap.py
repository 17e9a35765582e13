"""ReCAP, which no public run verifies: its region by hand, in two spaces, and what it must
equal."""
import math

import pytest
import torch
from tiny import given, stream, tiny

from tta_lab.components.selectors import PLPDFilter
from tta_lab.core import scores
from tta_lab.core.adapter import Adapter
from tta_lab.core.parts import NeedsError, NormAffine, Step
from tta_lab.methods import make
from tta_lab.methods.recap import StableRegion, regional

BATCHES = stream("s1")[0][:3, :32]
SGD = {"update": Step(rule="sgd", lr=0.01)}
Z = 2 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
NONE = torch.zeros(5)


def play(recipe, model="tinybn", **changes):
    adapter = Adapter(tiny(model), recipe, device="cpu",
                      source_info=given(make("recap"), model) | changes)
    return torch.stack([adapter(x) for x in BATCHES]), adapter


def test_point_regions_have_the_entropy():
    entropy, instability = regional(Z, torch.zeros(5, 5), NONE)
    torch.testing.assert_close(entropy, scores.entropy(Z))
    torch.testing.assert_close(instability, torch.zeros(6), atol=1e-6, rtol=0)


def test_region_by_hand_and_in_probabilities():
    log_a = torch.rand(5, 5, generator=torch.Generator().manual_seed(1)).fill_diagonal_(0)
    q, r = Z.softmax(1), Z.softmax(1) @ log_a.exp().T
    shift = torch.arange(5) / 10
    entropy, instability = regional(Z, log_a, shift)
    torch.testing.assert_close(entropy, ((Z + shift).softmax(1) * (-q.log() + r.log())).sum(1))
    torch.testing.assert_close(instability, (q * r.log()).sum(1))
    assert (instability > 0).all() and (regional(Z, 2 * log_a,
                                                 shift)[0] > entropy).all() and (regional(
                                                     Z, 2 * log_a, shift)[1] > instability).all()
    # e^1000: only its logarithm exists
    far = regional(Z, 1000 * log_a, NONE)
    torch.testing.assert_close(far[1],
                               (q * torch.logsumexp(q.log()[:, None] + 1000 * log_a, 2)).sum(1),
                               rtol=1e-5, atol=1e-3)


def test_regions_come_from_head_and_source_variance():
    _, adapter = play(make("recap", **SGD))
    w = tiny("tinybn").head.weight.detach()
    v = given(make("recap"), "tinybn")["moments"]["covariance"].diagonal()
    state = adapter.states["method"]
    expected = torch.stack(
        [torch.stack([0.5 * 1.2 / 0.1 * ((a - b)**2 * v).sum() for b in w]) for a in w])
    torch.testing.assert_close(state["log_a"], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(state["shift"], 0.05 * 0.01 * w.square().sum(1))


@pytest.mark.parametrize("model", ["tinybn", "tinyvit"])
def test_without_a_region_it_is_tent_below_the_top(model):
    """Not to the bit: the shift of the logits by the rows' lengths stays."""
    tent = play(make("tent", **SGD, train=NormAffine(drop_top=True)), model)[0]
    recap, region = (play(make("recap", **SGD, controllers=(), **changes), model)[0]
                     for changes in ({"tau": 0.0}, {}))
    torch.testing.assert_close(recap, tent, rtol=1e-2, atol=2e-2)
    assert (region - tent).abs().max() > 5 * (recap - tent).abs().max()
    nowhere = ({"moments": {"mean": torch.zeros(64), "covariance": torch.zeros(64, 64)}}
               if model == "tinybn" else {})
    if nowhere:
        assert torch.equal(play(make("recap", **SGD, controllers=()), model, **nowhere)[0], recap)


def test_deyo_form_selects_by_the_region_and_caps_the_weight():
    assert not play(make("recap", form="deyo", **
                         SGD))[1].trace["kept"].any(), "as the docstring warns"
    outputs, adapter = play(make("recap", form="deyo", **SGD, tau=0.02))
    kept = adapter.trace["kept"]
    weight = torch.from_numpy(adapter.trace["weight"])
    assert 0 < kept.sum() < 96 and weight.max() <= 3 and (weight[kept] > 0).all()

    class StepContext:
        logits, region_entropy = Z[:3], torch.tensor([0.1, 1.0, 1.5])

    part = StableRegion(fraction=0.8, unit=0.7, cap=2.0)
    expected = [2.0, math.exp(0.7 * math.log(5) - 1.0), 0.0]
    torch.testing.assert_close(part.weights(StepContext, torch.zeros(3), None, {}), torch.tensor(expected))
    wide = make(
        "recap", **SGD, select=(StableRegion(fraction=10.0, unit=10.0, cap=1.0),
                                PLPDFilter(threshold=-1.0, by_certainty=False, by_fall=False)))
    assert torch.equal(play(wide)[0],
                       play(make("recap",
                                 **SGD))[0]), "all selected at weight 1 is the default form"


def test_it_starts_again_when_the_loss_has_collapsed():
    _, adapter = play(make("recap", **SGD, threshold=1e6))
    assert adapter.trace.step("reset")[1:].all() and all(
        torch.equal(p, adapter.origin[k]) for k, p in adapter.tuned.items())


def test_what_it_needs_is_said():
    with pytest.raises(NeedsError, match="mean and covariance of source features"):
        Adapter(tiny("tinybn"), make("recap"), device="cpu")
    with pytest.raises(NeedsError, match="regional entropy of recap"):
        play(make("tent").where(StableRegion()))
    net = tiny("tinybn")
    net.head = torch.nn.Sequential(net.head)
    with pytest.raises(NeedsError, match="recap needs the rows of a linear head"):
        Adapter(net, make("recap"), device="cpu", source_info=given(make("recap"), "tinybn"))(BATCHES[0])
