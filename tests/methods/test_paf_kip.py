"""PAF-KIP, which no public run verifies: its filters, its loss and its answer by hand, and what it
must equal."""
import pytest
import torch
from tiny import stream, tiny

from tta_lab.components.augment import CropFlip, Unchanged
from tta_lab.components.selectors import EntropyThreshold, EntropyWeight
from tta_lab.components.unknowns import BothFail, TwoFilters
from tta_lab.core import scores
from tta_lab.core.adapter import Adapter
from tta_lab.core.parts import NeedsError, Step
from tta_lab.methods import make

BATCHES = stream("s3")[0][:4, :32]
PLAIN = {"augment": Unchanged(), "update": Step(rule="sgd", lr=0.02)}


def play(recipe):
    adapter = Adapter(tiny("tinybn"), recipe, device="cpu")
    return torch.stack([adapter(x) for x in BATCHES]), adapter


class StepContext:
    """ln 4 * 0.4 = 0.555: certain for both; the network alone; the teacher alone; for neither,
    twice."""

    doubts = (torch.tensor([0.1, 0.5, 0.6, 1.0, 1.2]), torch.tensor([0.2, 1.1, 0.3, 0.9, 1.3]))
    classes = 4


def test_filters_by_hand():
    losses = torch.tensor([1.0, 2.0, 3.0, 4.0, 6.0])
    limit = 0.4 * torch.tensor(4.0).log()
    known = TwoFilters().weights(StepContext, losses, None, {})
    torch.testing.assert_close(known,
                               torch.tensor([(limit - 0.2).exp(), (limit - 1.1).exp(), 0, 0, 0]))
    both = TwoFilters(both=True).weights(StepContext, losses, None, {})
    assert (both > 0).tolist() == [True, False, False, False, False]
    # the third is in neither part
    assert BothFail(weight=0.5)(StepContext, losses, None, {}).item() == -0.5 * (4 + 6) / 2
    assert BothFail(fraction=1.0)(StepContext, losses, None, {}) == 0
    with pytest.raises(NeedsError, match="parts of paf_kip"):
        play(make("tent").where(TwoFilters()))


def test_answer_by_hand():
    adapter = Adapter(tiny("tinybn"), make("paf_kip", **PLAIN, follow=0.5), device="cpu")
    for x in BATCHES[:2]:
        adapter(x)
    x = BATCHES[2]
    teacher = adapter.states["method"]["teacher"]
    plain = Adapter(tiny("tinybn"), make("batch_norm"), device="cpu")
    with torch.no_grad():
        voices = [
            adapter.model(x),
            torch.func.functional_call(adapter.model, teacher, (x,)),
            plain(x)
        ]
    c = [scores.confidence(z) for z in voices]
    share = [1 / 3 + 0.1 * (v - sum(c) / 3) for v in c]
    torch.testing.assert_close(sum(share), torch.ones(32))
    expected = sum(s[:, None] * z for s, z in zip(share, voices, strict=True))
    torch.testing.assert_close(adapter(x), expected, atol=1e-5, rtol=1e-4)
    assert (voices[0] - voices[1]).abs().max() > 0.05 < (voices[1] - voices[2]).abs().max()


def test_first_answer_is_bn_1_and_the_teacher_moves_after_the_step():
    outputs, adapter = play(make("paf_kip", **PLAIN))
    torch.testing.assert_close(outputs[0], play(make("batch_norm"))[0][0], atol=1e-5, rtol=1e-5)
    still = play(make("paf_kip", **PLAIN, follow=1.0))[1]
    assert all(
        torch.equal(still.states["method"]["teacher"][k], still.origin[k]) for k in still.tuned)
    assert adapter.trace.step("forwards")[0] == 4 * 32 and adapter.trace.step("backwards")[0] == 32
    teacher = adapter.states["method"]["teacher"]
    assert all(0 < (teacher[k] - adapter.origin[k]).norm() < (p - adapter.origin[k]).norm()
               for k, p in adapter.tuned.items())


def test_with_the_network_as_its_teacher_it_is_tent_with_two_selectors():
    bare = play(make("paf_kip", **PLAIN, follow=0.0, weight=0.0, when_empty="skip"))[1]
    tent = play(make("tent", update=PLAIN["update"]).where(EntropyThreshold(0.4), EntropyWeight(0.4)))[1]
    for k, p in bare.tuned.items():
        torch.testing.assert_close(p, tent.tuned[k], atol=1e-6, rtol=1e-5)
    assert 0 < bare.trace["kept"].sum() < 128 and bare.trace.step("distance")[-1] > 0


def test_entropy_of_the_unknown_rises():
    rise = {}
    for weight in (0.0, 5.0):
        _, adapter = play(
            make("paf_kip", augment=Unchanged(), lr=0.02, select=(TwoFilters(0.0),),
                 weight=weight))
        rise[weight] = scores.entropy(adapter.predict(BATCHES[0])).mean()
    assert rise[5.0] > rise[0.0] + 0.05


def test_crops():
    x = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(0)) + 1
    seen = {
        tuple(
            CropFlip(1, shared=True)(x, torch.Generator().manual_seed(s))[0, 0].flatten().tolist())
        for s in range(200)
    }
    assert len(seen) == 3 * 3 * 2 and tuple(x[0, 0].flatten().tolist()) in seen
    both = CropFlip(4, shared=True)(x, torch.Generator().manual_seed(1))
    assert both.shape == x.shape and torch.equal(
        both[:1],
        CropFlip(4, shared=True)(x[:1], torch.Generator().manual_seed(1))), "one draw for all"
