"""The same contract on a CUDA device; skipped where there is none."""
import copy

import pytest
import torch
from tiny import given, stream, tiny

from tta_lab.components.selectors import ConfidenceRise, RandomKeep
from tta_lab.core.adapter import Adapter
from tta_lab.core.parts import Step
from tta_lab.experiments.runner import run
from tta_lab.methods import METHODS, make
from tta_lab.models.embedded import load_model
from tta_lab.streams.stream import Stream

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
]


@pytest.mark.parametrize("amp", [None, torch.bfloat16])
@pytest.mark.parametrize("name", METHODS)
def test_device_agrees_with_the_cpu_and_resets(name, amp):
    batches = stream("s1")[0][:4]
    settings = {"update": Step(rule="sgd", lr=0.01)} if METHODS[name].learns else {}
    recipe = make(name, **settings)

    def adapter(device, seed=0, **more):
        return Adapter(tiny("tinybn"), recipe, seed, device=device, source_info=given(recipe, "tinybn"),
                       **more)

    device = adapter("cuda", amp=amp, record="source")
    first = [device(x.cuda()) for x in batches]
    assert all(z.is_cuda and torch.isfinite(z).all() for z in first)
    twice = [adapter("cpu", seed) for seed in (0, 1)] if amp is None else []
    here = [[one(x) for x in batches] for one in twice]
    # random draws differ between devices
    if here and torch.equal(torch.stack(here[0]), torch.stack(here[1])):
        for x, z in zip(here[0], first, strict=True):
            torch.testing.assert_close(z.cpu(), x, atol=2e-2, rtol=1e-2)
    rows = device.trace["entropy"].copy()
    device.reset()
    again = [device(x.cuda()) for x in batches]
    torch.testing.assert_close(torch.stack(again), torch.stack(first), atol=1e-3, rtol=1e-3)
    assert rows.shape == device.trace["entropy"].shape


def test_images_may_come_from_the_host_and_answers_go_back():
    x = stream("s1")[0][0]
    adapter = Adapter(tiny("tinybn"), make("tent"))
    assert adapter.device.type == "cuda" and adapter(x).device.type == "cpu"


def test_a_stream_made_on_the_device_goes_on_after_saving():
    small = Stream(shifts=("gaussian_noise", "contrast"), per_shift=40, batch=20, unknown="digits")
    recipe = make("tent", lr=1e-2).where(ConfidenceRise(), RandomKeep())
    adapter = Adapter(load_model(), recipe, device="cuda", record="source")
    batches = list(small.batches("cuda"))
    for b in batches[:2]:
        adapter(b.x, b.ids)
    other = Adapter(load_model(), recipe, device="cuda", record="source")
    other.load_state_dict(copy.deepcopy(adapter.state_dict()))
    for b in batches[2:]:
        torch.testing.assert_close(other(b.x, b.ids), adapter(b.x, b.ids), atol=1e-4, rtol=1e-4)
    trace = run(Adapter(load_model(), recipe, device="cuda", record="source"), small)
    assert len(trace) == small.n_images and trace["known"].sum() == 80
