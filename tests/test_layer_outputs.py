"""Outputs of named layers from the forward of the logits; losses of a whole batch."""

from dataclasses import dataclass

import pytest
import torch
from tiny import stream, tiny
from torch import nn

from tta_lab import Adapter, make
from tta_lab.analysis.layer_probes import sample_gradients
from tta_lab.analysis.probes import gradient_crowd
from tta_lab.components.norms.batch_norm import RunningStatistics
from tta_lab.components.penalties import Diversity
from tta_lab.components.updates import Sam
from tta_lab.core import scores
from tta_lab.core.layer_outputs import weighted_moments
from tta_lab.core.parts import AllParameters, LossMethod, NeedsError, Part, Selector, Step
from tta_lab.core.step_context import StepContext

X = stream("s1")[0][0][:12]


def ctx(net, recipe="source", **options):
    return StepContext(Adapter(net, make(recipe, **options), device="cpu"), X, torch.arange(len(X)))


class Inplace(nn.Module):
    """Layers whose output is overwritten, that run twice or never, that answer with two tensors."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.pair = Pair()
        self.spare = nn.Linear(2, 2)
        self.head = nn.Linear(4, 3)

    def features(self, x):
        return self.relu(self.pair(self.relu(self.norm(self.first(x))))[0]).mean((2, 3))

    def forward(self, x):
        return self.head(self.features(x))


class Pair(nn.Module):
    def forward(self, x):
        return x - 0.1, x


def inplace():
    torch.manual_seed(0)
    return Inplace().eval()


def test_they_are_those_of_the_forward_that_gives_the_logits():
    net = tiny("tinybn")
    seen = ctx(net)
    found = seen.outputs(["features.1", "features.2"])
    assert seen.adapter.cost["forwards"] == len(X) and torch.equal(seen.logits, net(X))
    assert seen.adapter.cost["forwards"] == len(X), "of one forward"
    assert list(found) == ["features.1", "features.2"]
    for name, depth in (("features.1", 2), ("features.2", 3)):
        assert torch.equal(found[name], net.features[:depth](X))
    assert torch.equal(found["features.2"], found["features.1"].relu())


def test_an_activation_in_place_leaves_them_and_their_gradient_alone():
    net = inplace()
    seen = ctx(net, "tent", norm=make("source").norm, train=AllParameters())
    found = seen.outputs(["norm"])["norm"]
    expected = net.norm(net.first(X))
    assert (
        torch.equal(found, expected) and (found < 0).any() and torch.equal(seen.logits, net(X))
    ), "not the rectified ones"
    ours = torch.autograd.grad(
        found.square().mean(), seen.tuned["first.weight"], retain_graph=True
    )[0]
    theirs = torch.autograd.grad(expected.square().mean(), net.first.weight)[0]
    torch.testing.assert_close(ours, theirs)
    assert torch.isfinite(
        torch.autograd.grad(seen.logits.sum(), seen.tuned["first.weight"])[0]
    ).all()


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (["nrm"], "Inplace has no layer 'nrm'; it has 6, such as .*named_modules"),
        ([""], "has no layer ''"),
        (["relu"], "layer 'relu' of Inplace runs 2 times in a forward, so it has no one output"),
        (["spare"], "layer 'spare' of Inplace does not run in a forward"),
        (["pair"], "layer 'pair' of Inplace answers with tuple, not a tensor"),
    ],
)
def test_layers_without_one_output_are_named(layers, said):
    seen = ctx(inplace())
    with pytest.raises(NeedsError, match=said):
        seen.outputs(layers)
    seen.logits  # noqa: B018
    assert not seen.adapter.model.norm._forward_hooks and not seen.adapter.model.relu._forward_hooks


def test_asking_too_late_says_how_to_be_in_time():
    seen = ctx(inplace())
    seen.logits  # noqa: B018
    with pytest.raises(
        NeedsError,
        match=r"'norm' was asked for after the logits; let observed_layers\(model\) of Source",
    ):
        seen.outputs(["norm"])
    with pytest.raises(NeedsError, match="has no layer 'nrm'"):
        seen.outputs(["nrm"])


@dataclass(frozen=True, kw_only=True)
class _Level(LossMethod):
    """A loss of the whole batch: the squared mean output of a layer, per channel."""

    norm: Part = make("source").norm
    train: Part = AllParameters()
    update: Part = Step(rule="sgd", lr=0.05)
    layer: str = "features.1"

    def observed_layers(self, model):
        return (self.layer,)

    def batch_loss(self, ctx, weights, state):
        mean, _ = weighted_moments(ctx.outputs([self.layer])[self.layer], weights)
        return mean.square().mean()


def test_a_declared_layer_is_kept_whoever_asks_first():
    adapter = Adapter(
        tiny("tinybn"), _Level(), device="cpu"
    )  # answers before: the logits come first
    expected = adapter.model.features[:2](X).mean(0).square().mean().item()
    adapter(X)
    assert adapter.trace.step("loss")[-1] == pytest.approx(expected, rel=1e-5)
    assert (
        adapter.cost == {"forwards": len(X), "backwards": len(X)}
        and adapter.trace.step("distance")[-1] > 0
    )
    with pytest.raises(NeedsError, match="TinyConv has no layer 'features.99'"):
        Adapter(tiny("tinybn"), _Level(layer="features.99"), device="cpu")


def test_of_two_passes_they_are_those_of_the_second():
    adapter = Adapter(tiny("tinybn"), _Level(norm=RunningStatistics(momentum=0.5)), device="cpu")
    seen = StepContext(adapter, X, torch.arange(len(X)), commit=True)
    found = seen.outputs(["features.1"])["features.1"]
    layer = adapter.model.features[1]
    mean, var = layer.running_mean[:, None, None], layer.running_var[:, None, None]
    expected = (adapter.model.features[0](X) - mean) / (var + layer.eps).sqrt() * layer.weight[
        :, None, None
    ] + layer.bias[:, None, None]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_features_and_outputs_come_of_one_forward():
    seen = ctx(tiny("tinybn"), "t3a")
    assert torch.equal(
        seen.outputs(["features.13"])["features.13"], seen.features
    ) and seen.adapter.cost["forwards"] == len(X)


def test_bfloat16_outputs_are_float32():
    adapter = Adapter(tiny("tinybn"), _Level(), device="cpu", amp=torch.bfloat16)
    assert (
        StepContext(adapter, X, torch.arange(len(X))).outputs(["features.0"])["features.0"].dtype
        == torch.float32
    )


# --- moments under weights ------------------------------------------------------------------------


def test_moments_of_those_kept():
    x = torch.randn(7, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for kept in ([0, 1, 2, 3, 4, 5, 6], [1, 4, 5], [2, 6]):
        w = torch.zeros(7).index_fill(0, torch.tensor(kept), 1.0)
        for scale in (1.0, 3.0):
            mean, var = weighted_moments(x, scale * w)
            torch.testing.assert_close(mean, x[kept].mean(0))
            torch.testing.assert_close(var, x[kept].var(0))
    w = torch.tensor([1.0, 2.0, 0, 0, 0, 0, 0], dtype=torch.float64)
    mean, var = weighted_moments(x, w)
    torch.testing.assert_close(mean, (x[0] + 2 * x[1]) / 3)
    torch.testing.assert_close(var, ((x[0] - mean) ** 2 + 2 * (x[1] - mean) ** 2) / (3 - 5 / 3))
    places = torch.stack([w, torch.zeros(7)], 1)  # of two places an image has half the weight
    torch.testing.assert_close(weighted_moments(x, places), (mean, var))
    with pytest.raises(NeedsError, match="a layer gives 7 rows for 5 images"):
        weighted_moments(x, torch.ones(5))


@pytest.mark.parametrize("kept", [0, 1])
def test_moments_of_one_sample_or_none_are_finite(kept):
    x = torch.randn(4, 3, requires_grad=True)
    mean, var = weighted_moments(x, (torch.arange(4) < kept).float())
    assert torch.equal(mean, kept * x[0]) and (var == 0).all()
    var.sum().backward(retain_graph=True)
    assert (x.grad == 0).all()
    mean.sum().backward()
    assert torch.isfinite(x.grad).all() and (x.grad[1:] == 0).all()


# --- losses of the whole batch --------------------------------------------------------------------


@dataclass(frozen=True)
class _First(Selector):
    """Keep the first ones."""

    n: int = 5
    weight: float = 1.0

    def weights(self, ctx, losses, keep, state):
        return self.weight * (torch.arange(len(losses)) < self.n).to(losses.dtype)


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_selectors_choose_of_whom_the_statistics_are(weight):
    """The step is the one that the kept images alone would make, divided by nothing."""
    chosen = Adapter(tiny("tinybn"), _Level().where(_First(5, weight)), device="cpu")
    alone = Adapter(tiny("tinybn"), _Level(), device="cpu")
    chosen(X)
    alone(X[:5])
    assert chosen.trace.step("loss")[-1] == pytest.approx(alone.trace.step("loss")[-1], rel=1e-5)
    assert chosen.trace.step("n_kept")[-1] == 5
    for name, p in chosen.tuned.items():
        torch.testing.assert_close(p, alone.tuned[name], atol=1e-6, rtol=1e-5)


def test_average_does_not_concern_them():
    one, other = (
        Adapter(tiny("tinybn"), _Level(average=how).where(_First()), device="cpu")
        for how in ("kept", "all")
    )
    one(X)
    other(X)
    assert one.trace.step("loss")[-1] == other.trace.step("loss")[-1]


def test_nobody_kept_teaches_nothing():
    adapter = Adapter(tiny("tinybn"), _Level().where(_First(0)), device="cpu")
    adapter(X)
    assert adapter.trace.step("skipped")[-1] and all(
        torch.equal(p, adapter.origin[k]) for k, p in adapter.tuned.items()
    )
    step = _Level(when_empty="step", penalties=(Diversity(1.0),)).where(
        _First(0)
    )  # on the penalties alone
    same = make(
        "tent",
        norm=step.norm,
        train=step.train,
        update=step.update,
        when_empty="step",
        penalties=step.penalties,
    ).where(_First(0))
    one, other = (Adapter(tiny("tinybn"), recipe, device="cpu") for recipe in (step, same))
    one(X)
    other(X)
    assert all(
        torch.equal(p, other.tuned[k]) and torch.isfinite(p).all() for k, p in one.tuned.items()
    )
    assert one.trace.step("distance")[-1] > 0


@dataclass(frozen=True, kw_only=True)
class _Both(_Level):
    """Beside a loss per sample."""

    def losses(self, ctx, state):
        return scores.entropy(ctx.logits)


def test_they_are_added_to_the_averaged_losses():
    kept = _First(5)
    found = {}
    for name, recipe in {
        "both": _Both(),
        "batch": _Level(),
        "sample": make("tent", norm=_Level().norm, train=AllParameters()),
    }.items():
        adapter = Adapter(tiny("tinybn"), recipe.where(kept), device="cpu")
        adapter(X)
        found[name] = adapter.trace.step("loss")[-1]
    assert (
        found["both"] == pytest.approx(found["batch"] + found["sample"], rel=1e-5)
        and found["batch"] > 0
    )


def test_a_second_look_keeps_those_of_the_first():
    recipe = _Level(update=Sam(lr=0.05, rho=0.1)).where(_First(5))
    chosen, alone = (
        Adapter(tiny("tinybn"), recipe, device="cpu"),
        Adapter(tiny("tinybn"), _Level(update=recipe.update), device="cpu"),
    )
    chosen(X)
    alone(X[:5])
    for name, p in chosen.tuned.items():
        torch.testing.assert_close(p, alone.tuned[name], atol=1e-6, rtol=1e-5)


def test_single_samples_have_no_loss_and_no_gradient_then():
    adapter = Adapter(tiny("tinybn"), _Level(), device="cpu")
    adapter(X)
    assert (adapter.trace["loss"] == 0).all() and adapter.trace["kept"].all()
    with pytest.raises(ValueError, match="_Level has a loss of the whole batch alone"):
        gradient_crowd(adapter, X)
    with pytest.raises(ValueError, match="_Level has no loss of single images"):
        sample_gradients(adapter, [], "method")
    with pytest.raises(NotImplementedError, match="does not say what its loss is"):
        LossMethod(norm=_Level().norm).losses(None, {})


def _stating(**functions):
    """A method with these functions of its own."""
    base = {"norm": make("source").norm, "__annotations__": {"norm": Part}}
    return dataclass(frozen=True, kw_only=True)(type("Own", (LossMethod,), base | functions))()


@pytest.mark.parametrize(
    ("name", "function", "said"),
    [
        ("batch_loss", lambda *_: None, r"Own.batch_loss must return one number.*not None"),
        (
            "batch_loss",
            lambda self, ctx, *_: ctx.logits.mean(1),
            r"Own.batch_loss must return one number.*not shape \(\d+,\)",
        ),
        (
            "losses",
            lambda self, ctx, state: ctx.logits.mean(),
            r"Own.losses must return one loss per sample.*\(B, \*S\) = .*not shape \(\)",
        ),
        (
            "losses",
            lambda self, ctx, state: ctx.logits,
            r"Own.losses must return one loss per sample.*not shape \(\d+, 10\)",
        ),
        ("losses", lambda self, ctx, state: ctx.forward(), r"Own.losses .*not shape \(\d+, 10\)"),
    ],
)
def test_what_a_method_returns_is_checked_before_the_step(name, function, said):
    adapter = Adapter(
        tiny("tinybn"), _stating(**{name: function, "tasks": ("classification",)}), device="cpu"
    )
    with pytest.raises(ValueError, match=said):
        adapter(X)
    assert all(torch.equal(p, adapter.origin[n]) for n, p in adapter.tuned.items())


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (lambda losses: -torch.ones_like(losses), "negative or NaN in step 0 of Tent"),
        (lambda losses: losses * float("nan"), "negative or NaN in step 0 of Tent"),
        (lambda losses: torch.ones(3), r"one weight >= 0 per sample.*not shape \(3,\)"),
        (lambda losses: 1.0, "one weight >= 0 per sample.*not 1.0"),
    ],
)
def test_weights_of_a_selector_are_checked_before_the_step(weights, said):
    class Odd(Selector):
        def weights(self, ctx, losses, keep, state):
            return weights(losses)

    adapter = Adapter(tiny("tinybn"), make("tent").where(_First(), Odd()), device="cpu")
    with pytest.raises(ValueError, match=f"Odd.weights must return .*{said}"):
        adapter(X)
    assert all(torch.equal(p, adapter.origin[n]) for n, p in adapter.tuned.items())


@pytest.mark.parametrize("names", [None, "features.1", (3,)])
def test_observed_layers_are_names_in_a_tuple(names):
    own = _stating(observed_layers=lambda self, model: names)
    with pytest.raises(TypeError, match=r"Own.observed_layers takes names of layers.*write return"):
        Adapter(tiny("tinybn"), own, device="cpu")
