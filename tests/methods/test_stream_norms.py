"""IABN and UnMix-TNS against the authors' code, alone and below other methods, and by their
defining properties."""
from dataclasses import replace

import pytest
import torch
from reference_runs import Runs, lame, step
from tiny import stream, tiny
from torch import nn

from tta_lab.components.norms.batch_norm import BatchStatistics, SourceStatistics
from tta_lab.components.norms.stream import InstanceAware, UnmixedStatistics
from tta_lab.core.adapter import Adapter
from tta_lab.core.parts import NeedsError
from tta_lab.methods import make

IABN, UNMIX = Runs("iabn"), Runs("unmix_tns")


def iabn(run, batches=None, **changes):
    outputs, adapter, _ = IABN.play(run, make("iabn", **(changes
                                                         or {"k": IABN.settings(run)["k"]})),
                                    batches=batches)
    assert (IABN.settings(run)["skip_thres"],
            IABN.settings(run)["retrained"]) == (1, False), "nothing is skipped or retrained here"
    return IABN.deviations(run, outputs, adapter)


def components_of(run):
    def put(adapter):
        for key in UNMIX.stored(run):
            if key.startswith("extra/features"):
                name = ".".join(key.split("/")[1:])
                value = UNMIX.stored(run)[key]
                assert adapter.state.tensors[name].shape == value.shape
                adapter.state.tensors[name].copy_(torch.from_numpy(value))
                adapter.state.start[name].copy_(torch.from_numpy(value))

    return put


def unmix(run, batches=None, norm=None, **changes):
    h = UNMIX.settings(run)
    assert h["batch_size"] == h["batch_size_max"] and h.get(
        "bn_momentum", 0.1) == 0.1, "the momentum is that of the layers"
    norm = (UnmixedStatistics(
        **{"components": h["K"], "batch": h["batch_size"], **changes}) if norm is None else norm)
    if "tent" in run:
        recipe = make("tent", update=step(h), norm=norm)
    elif "lame" in run:
        recipe = replace(lame(h), norm=norm)
    elif "roid" in run:  # whose share of the source is not stored
        assert not h["ROID.USE_CONSISTENCY"]
        recipe = make("roid", update=step(h), penalties=(), norm=norm)
    else:
        recipe = make("unmix_tns", norm=norm)
    drawn = norm.components > 1 and norm.seed == 0
    outputs, adapter, _ = UNMIX.play(run, recipe, batches=batches,
                                     prepare=components_of(run) if drawn else None)
    return UNMIX.deviations(run, outputs, adapter)


@pytest.mark.parametrize("run", IABN.fixed)
def test_iabn_matches_the_reference(run):
    assert iabn(run) == [] and IABN.unused(run) == []


@pytest.mark.parametrize("run", UNMIX.fixed)
def test_unmixing_matches_the_reference_alone_and_below_other_methods(run):
    # what was drawn with it is stored
    assert unmix(run) == [] and UNMIX.unused(run, "init_seed") == []


@pytest.mark.parametrize(
    "changes", [{}, {"k": 3.9}, {"norm": SourceStatistics()}, {"norm": BatchStatistics()}],
    ids=repr)
def test_the_comparison_with_iabn_can_fail(changes):
    assert (iabn("iabn-official-k4__tinybn__s2", batches=2, **changes) == []) == (not changes)


@pytest.mark.parametrize(
    "changes",
    [{}, {"batch": 60}, {"cross_term": True}, {"norm": UnmixedStatistics(components=16, seed=1)}],
    ids=repr)
def test_the_comparison_with_unmixing_can_fail(changes):
    assert (unmix("unmixtns-source__tinybn__s2", batches=3, **changes) == []) == (not changes)


def layer(kind, **settings):
    """One layer with source statistics that are not trivial, as part of a network, and images for
    it."""
    rng = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.BatchNorm2d(6)).eval()
    net[0].running_mean.copy_(torch.randn(6, generator=rng))
    net[0].running_var.copy_(torch.rand(6, generator=rng) + 0.5)
    nn.init.uniform_(net[0].weight, 0.5, 1.5, generator=rng)
    nn.init.normal_(net[0].bias, generator=rng)
    x = 2 * torch.randn(5, 6, 4, 3, generator=rng) + 1
    plain = net(x)
    kind(**settings).apply_(net)
    return net[0], x, plain.detach()


@pytest.mark.parametrize("kind", [InstanceAware, UnmixedStatistics])
def test_images_of_a_batch_do_not_see_each_other(kind):
    made, x, _ = layer(kind)
    torch.testing.assert_close(torch.cat([made(one) for one in x.split(1)]), made(x))
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(made(x[order]), made(x)[order])


def test_iabn_between_instance_and_source_statistics():
    made, x, plain = layer(InstanceAware, k=1e3)
    # nothing differs by more than chance
    torch.testing.assert_close(made(x), plain)
    made, x, _ = layer(InstanceAware, k=0.0)
    var, mean = torch.var_mean(x, (2, 3), correction=1, keepdim=True)
    expected = ((x - mean) / (var + 1e-5).sqrt() * made.weight[:, None, None] +
                made.bias[:, None, None])
    torch.testing.assert_close(made(x), expected)
    made, x, _ = layer(InstanceAware)
    source = nn.functional.batch_norm(x[:, :, :1, :1], made.running_mean, made.running_var,
                                      made.weight, made.bias)
    # one place: no statistics of its own
    torch.testing.assert_close(made(x[:, :, :1, :1]), source)


def test_iabn_by_hand():
    """One channel, four places, mean 0 and variance 1 at the source, k = 1: the mean 2 loses 1 /
    sqrt(4), the variance 4 loses sqrt(2 / 3)."""
    net = nn.Sequential(nn.BatchNorm2d(1, eps=0.0)).eval()
    InstanceAware(k=1.0).apply_(net)
    x = torch.tensor([-1.0, 1.0, -1.0, 1.0]).view(1, 1, 2, 2) * 3 ** 0.5 + 2  # unbiased variance 4
    torch.testing.assert_close(net(x), (x - 1.5) / (4 - (2 / 3) ** 0.5) ** 0.5)


def test_a_single_component_is_instance_norm_that_moves_by_the_momentum():
    made, x, _ = layer(UnmixedStatistics, components=1, batch=5)
    var, mean = torch.var_mean(x, (2, 3), correction=0)
    expected = ((x - mean[..., None, None]) /
                (var[..., None, None] + 1e-5).sqrt() * made.weight[:, None, None] +
                made.bias[:, None, None])
    before = made.means.clone(), made.vars.clone()
    torch.testing.assert_close(made(x), expected)
    assert torch.equal(made.means, before[0])                                # a look moves nothing
    made.commit = True
    torch.testing.assert_close(made(x), expected)
    torch.testing.assert_close(made.means, 0.9 * before[0] + 0.1 * mean.mean(0))
    torch.testing.assert_close(made.vars, 0.9 * before[1] + 0.1 * var.mean(0))


def test_momentum_compounds_to_the_same_per_image():
    """Two batches of five with one component move it about as far as one batch of ten: 1 - 0.9^2
    of the way."""
    made, x, _ = layer(UnmixedStatistics, components=1, batch=5)
    start, target = made.means.clone(), x.mean((0, 2, 3))
    made.commit = True
    made(torch.cat([x, x]))
    torch.testing.assert_close(made.means, start + 0.19 * (target - start))


def test_the_mixture_of_the_start_has_the_statistics_of_the_source():
    made, _, _ = layer(UnmixedStatistics, components=1024, seed=5)
    mean = made.means.mean(0)
    var = made.vars.mean(0) + made.means.var(0, correction=0)
    torch.testing.assert_close(mean, made.running_mean, atol=0.1, rtol=0.0)
    torch.testing.assert_close(var, made.running_var, rtol=0.1, atol=0.0)


def test_the_draw_is_that_of_the_seed_and_differs_between_layers():
    drawn = [
        Adapter(tiny("tinybn"), make("unmix_tns", seed=s), device="cpu", seed=a).state.start
        for s, a in ((0, 0), (0, 1), (1, 0))
    ]
    names = [n for n in drawn[0] if n.endswith("means")]
    assert len(names) == 4 and all(
        torch.equal(drawn[0][n], drawn[1][n]) and not torch.equal(drawn[0][n], drawn[2][n])
        for n in names)


def test_no_gradient_reaches_the_components():
    made, x, _ = layer(UnmixedStatistics)
    x.requires_grad_()
    made(x).square().sum().backward()
    assert x.grad.abs().sum() > 0 and made.weight.grad is not None and not made.means.requires_grad


@pytest.mark.parametrize("name", ["iabn", "unmix_tns", "rotta"])
def test_a_layer_without_source_statistics_is_refused(name):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False),
                        nn.Flatten(), nn.LazyLinear(3))
    net(stream("s1")[0][0][:4])
    with pytest.raises(NeedsError, match="stores none"):
        Adapter(net.eval(), make(name), device="cpu")
