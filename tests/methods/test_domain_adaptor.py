"""AdaMixBN and GEM against the authors' code, and by their defining properties."""
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle

import pytest
import torch
from reference_runs import Runs, step
from tiny import stream, tiny
from torch import nn

from tta_lab.components.augment import Augmentation
from tta_lab.components.controllers.resets import ResetEvery
from tta_lab.components.norms.adaptive import AdaptiveMixture, _Adaptive
from tta_lab.components.norms.batch_norm import BatchStatistics
from tta_lab.core import scores
from tta_lab.core.adapter import Adapter
from tta_lab.core.parts import Step
from tta_lab.methods import make

RUNS = Runs("domain_adaptor")
TARGETS = {"gem-t": "itself", "gem-skd": "prediction", "gem-aug": "views"}


TURNS = cycle((3, 2))


@dataclass(frozen=True)
class Rolls(Augmentation):
    """By one pixel along the width and along the height, in turn."""

    def __call__(self, x, rng):
        return x.roll(1, next(TURNS))


@contextmanager
def weights_found():
    """(layer, weight of the source statistics) as often as a layer finds it."""
    calls, find = [], _Adaptive._weight

    def spy(self, *args):
        calls.append((self, find(self, *args)))
        return calls[-1][1]

    _Adaptive._weight = spy
    try:
        yield calls
    finally:
        _Adaptive._weight = find


def play(run, batches=None, norm=None, **changes):
    h = RUNS.settings(run)
    learns, alone = "loss" in h, not h.get("AdaMixBN", True)
    assert (h["steps"],
            h.get("online",
                  False)) == (int(learns),
                              alone), "AdaMixBN alone learns nothing, GEM alone is not reset"
    mix = ({"adaptive": h["mix_lambda"] == "adaptive", "fold": h["transform"]}
           if "mix_lambda" in h else {})
    mix |= {} if mix.get("adaptive", True) else {"source_weight": h["mix_lambda"]}
    if "loss" in h:
        settings = {"update": step(h), "target": TARGETS[h["loss"]], "augment": Rolls(), "views": 2,
                    **({"norm": norm or AdaptiveMixture(**mix)} if mix else {})}
        recipe = make("domain_adaptor" if mix else "gem", **{**settings, **changes})
    else:
        recipe = make("ada_mix_bn", norm=norm or AdaptiveMixture(**{**mix, **changes}))

    def keep_the_last(adapter):
        rewind = adapter.rewind
        adapter.rewind = lambda what: rewind(what) if adapter.steps < 11 else None

    def watch(adapter):
        """The weights found before the step, on the images themselves: views come first, and are
        not noted there."""
        found = {}
        for layer, share in calls:
            found.setdefault(id(layer), []).append(share.item())
        calls.clear()
        return [shares[h.get("loss") == "gem-aug"] for shares in found.values()]

    with weights_found() as calls:
        outputs, adapter, shares = RUNS.play(run, recipe, batches=batches, prepare=keep_the_last,
                                             watch=watch)
    shares = {f"info/lambda{i}": values for i, values in enumerate(zip(*shares, strict=True))}
    wrong = RUNS.deviations(run, outputs, adapter, seen=shares)
    return wrong if recipe.learns else [w for w in wrong if not w.startswith("param_names")]


@pytest.mark.parametrize("run", RUNS.fixed)
def test_matches_the_reference(run):
    assert play(run) == [] and RUNS.unused(run) == []


GEM, AUG, ALONE, MIX = (f"{name}__tinybn__s1"
                        for name in ("domainadaptor-official-gem", "domainadaptor-official-gem-aug",
                                     "gem-official-plainbn-online", "adamixbn-official"))


@pytest.mark.parametrize(("run", "changes"),
                         [(GEM, {}), (AUG, {}), (ALONE, {}), (MIX, {}), (GEM, {"scale": "image"}),
                          (GEM, {"target": "prediction"}), (GEM, {"answer": "before"}),
                          (GEM, {"controllers": ()}), (GEM, {"norm": AdaptiveMixture(fold=False)}),
                          (GEM, {"norm": BatchStatistics()}),
                          (GEM, {"update": Step(rule="sgd", lr=0.04, momentum=0.0)}),
                          (AUG, {"views": 4}), (AUG, {"target": "prediction"}),
                          (ALONE, {"controllers": (ResetEvery(1, scope="model"),)}),
                          (ALONE, {"scale": "image"}), (MIX, {"adaptive": False}),
                          ("adamixbn-official-fixed__tinybn__s1", {"source_weight": 0.69})],
                         ids=repr)
def test_the_comparison_can_fail(run, changes):
    assert (play(run, batches=2, **changes) == []) == (not changes)


def outputs(recipe, batches):
    adapter = Adapter(tiny("tinybn"), recipe, device="cpu")
    return torch.stack([adapter(x) for x in batches])


BATCHES = stream("s1")[0][:4, :32]


def test_ends_of_the_mixture():
    for weight, other in ((1.0, make("source")), (0.0, make("bn_alpha", alpha=1.0))):
        mixed = make("ada_mix_bn", adaptive=False, source_weight=weight)
        torch.testing.assert_close(outputs(mixed, BATCHES), outputs(other, BATCHES), rtol=1e-4,
                                   atol=1e-4)


def test_folded_and_direct_mixtures_are_equal_until_the_step():
    folded, direct = (outputs(make("domain_adaptor", lr=0.0, fold=fold), BATCHES)
                      for fold in (True, False))
    torch.testing.assert_close(folded, direct, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(folded, outputs(make("ada_mix_bn"), BATCHES), rtol=1e-3, atol=1e-3)
    # gone on with: mixed for the first batch, then on its statistics
    once = make("domain_adaptor", lr=0.0, controllers=())
    assert not torch.allclose(outputs(once, BATCHES)[1], direct[1], atol=1e-2)


def test_every_batch_is_an_episode_of_its_own():
    recipe = make("domain_adaptor", lr=0.05)
    torch.testing.assert_close(outputs(recipe, BATCHES).flip(0), outputs(recipe, BATCHES.flip(0)))
    adapter = Adapter(tiny("tinybn"), recipe, device="cpu")
    adapter(BATCHES[0])
    assert all(torch.equal(v, adapter.state.start[k])
               for k, v in adapter.state.tensors.items()) and adapter.trace.step("distance")[0] > 0


def test_weight_of_the_source_by_hand():
    # source: mean 0, variance 1
    bn = nn.BatchNorm1d(1).eval()
    layer = AdaptiveMixture().make(bn)
    # images: means 2 and 3, deviations sqrt 2
    x = torch.tensor([[[1.0, 3.0]], [[2.0, 4.0]]])
    mean, var = x.mean(), x.var()
    sd, own = var.sqrt(), 2 ** 0.5
    st = mean ** 2 + (1 - sd) ** 2
    parts = [(m ** 2 + (own - 1) ** 2, (m - mean) ** 2 + (own - sd) ** 2) for m in (2.0, 3.0)]
    a = sum(1 - st / (st + s + t) for s, t in parts) / 2
    expected = (x - (1 - a) * mean) / (a + (1 - a) * var + 1e-5).sqrt()
    torch.testing.assert_close(layer(x), expected)
    # one place: means alone; the batch's mean is the source's
    flat = torch.tensor([[1.0], [-1.0]])
    torch.testing.assert_close(layer(flat), flat / (1 + 1e-5) ** 0.5)
    # no spread at all: the source's statistics, mean 0 and variance 1
    with pytest.warns(UserWarning, match="one value per channel"):
        torch.testing.assert_close(layer(flat[:1]), flat[:1] / (1 + 1e-5) ** 0.5)


def test_loss_of_gem():
    class StepContext:
        logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    z, loss = StepContext.logits, make("gem").losses(StepContext, {})
    t = 2 * z.std(1, keepdim=True)
    torch.testing.assert_close(loss, t.square().mean() * scores.entropy(z / t))
    torch.testing.assert_close(
        make("gem", scale="image").losses(StepContext, {}), t[:, 0]**2 * scores.entropy(z / t))
    StepContext.logits = 3 * z + 7
    torch.testing.assert_close(make("gem").losses(StepContext, {}), 9 * loss, rtol=1e-4, atol=1e-4)
    StepContext.logits = torch.zeros(2, 5)
    assert torch.isfinite(make("gem").losses(StepContext, {})).all()
