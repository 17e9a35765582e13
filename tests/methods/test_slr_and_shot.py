"""SLR and SHOT-IM, which no public run verifies: their losses by hand and what they must equal."""
import math

import pytest
import torch
from tiny import stream, tiny

from tta_lab.components.penalties import Diversity
from tta_lab.core.adapter import Adapter
from tta_lab.core.parts import AllParameters, NeedsError, Step
from tta_lab.methods import make


def gradient(name, z):
    """Of the loss with respect to the first of two logits (z, 0)."""
    class StepContext:
        logits = torch.tensor([[z, 0.0]], requires_grad=True)
    return torch.autograd.grad(make(name).losses(StepContext, {}).sum(), StepContext.logits)[0][0, 0].item()


def test_soft_likelihood_ratio_by_hand():
    class StepContext:
        logits = torch.tensor([[0.8, 0.2], [0.5, 0.5]]).log()
    found = make("slr").losses(StepContext, {})
    torch.testing.assert_close(found,
                               torch.tensor([-(0.8 * math.log(4) + 0.2 * math.log(0.25)), 0.0]),
                               rtol=1e-4, atol=2e-5)


def test_it_pulls_where_the_entropy_no_longer_does():
    assert abs(gradient("slr", 3.0)) > 3 * abs(gradient("tent", 3.0)) > 0
    assert abs(gradient("slr", 4.0)) > 5 * abs(gradient("tent", 4.0)) > 0
    assert gradient("slr", 0.5) < 0 and gradient("tent", 0.5) < 0


def test_slr_and_roid_share_a_loss():
    x = stream("s1")[0][:3]
    step = Step(rule="adam", lr=5e-3)
    bare = make("roid", update=step, select=(), penalties=(), prior_correction=False,
                **{"anchor.momentum": 1.0})
    slr, roid = (Adapter(tiny("tinybn"), recipe, device="cpu")
                 for recipe in (make("slr", update=step), bare))
    assert all(torch.equal(slr(b), roid(b)) for b in x)


def test_shot_im_is_tent_with_diversity_on_all_but_the_head():
    x, step = stream("s2")[0][:4], Step(rule="sgd", lr=0.01)
    twin = make("tent", update=step, train=AllParameters(head=False)).plus(Diversity(1.0))
    shot, tent = (Adapter(tiny("tinybn"), recipe, device="cpu")
                  for recipe in (make("shot_im", update=step), twin))
    assert all(torch.equal(shot(b), tent(b)) for b in x)
    assert not any(name.startswith("head") for name in shot.tuned) and len(shot.tuned) == 12
    entropy_alone = Adapter(tiny("tinybn"), make("shot_im", update=step, penalties=()),
                            device="cpu")
    assert not torch.equal(torch.stack([entropy_alone(b) for b in x])[-1], shot.predict(x[-1]))


def test_shot_im_needs_a_head():
    with pytest.raises(NeedsError, match="head"):
        Adapter(tiny("tinyseg"), make("shot_im"), device="cpu")
