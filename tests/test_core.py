"""The core by hand-worked numbers and identities: knobs, scores, norms, adapter, trace, runner."""
import copy
import math
import warnings

import numpy as np
import pytest
import torch
from tiny import given, stream, tiny
from torch import nn

from tta_lab.components.norms.batch_norm import MixedStatistics, SourceStatistics
from tta_lab.components.penalties import Diversity
from tta_lab.components.selectors import ConfidenceRise, EntropyThreshold, RandomKeep
from tta_lab.core import scores
from tta_lab.core.adapter import AdaptationError, Adapter
from tta_lab.core.knobs import knobs, with_knobs
from tta_lab.core.parts import AllParameters, Controller, NeedsError, Selector, SlidingWindow, Step
from tta_lab.core.registry import find_parts
from tta_lab.core.source_model import InputError
from tta_lab.core.trace import Trace
from tta_lab.experiments.catalogue import catalogue
from tta_lab.methods import make
from tta_lab.models.wrapping import with_input_card


@pytest.fixture(scope="module")
def batches():
    return list(stream("s3")[0][:5])


def play(recipe, batches, model="tinybn", **options):
    adapter = Adapter(tiny(model), recipe, device="cpu", **options)
    return torch.stack([adapter(x) for x in batches]), adapter


# --- scores -------------------------------------------------------------------------------------

def test_scores_by_hand():
    z = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])     # p = (1/2, 1/2) and (3/4, 1/4)
    torch.testing.assert_close(
        scores.entropy(z), torch.tensor([math.log(2), 0.75 * math.log(4 / 3) + 0.25 * math.log(4)]))
    torch.testing.assert_close(scores.confidence(z), torch.tensor([0.5, 0.75]))
    torch.testing.assert_close(scores.margin(z), torch.tensor([0.0, 0.5]))
    torch.testing.assert_close(scores.energy(z), torch.tensor([math.log(2), math.log(4)]))
    torch.testing.assert_close(scores.probability_of(z, torch.tensor([1, 1])),
                               torch.tensor([0.5, 0.25]))
    torch.testing.assert_close(scores.mean_prediction(z), torch.tensor([0.625, 0.375]))
    sure = torch.tensor([[1000.0, 0.0]])
    # 0 ln 0 counts 0, not NaN
    assert scores.marginal_entropy(sure) == 0 and scores.entropy(sure) == 0
    sure = sure.clone().requires_grad_()
    scores.marginal_entropy(sure).backward()
    # and pulls at nothing
    assert torch.isfinite(sure.grad).all()
    assert scores.entropy(z.half()).dtype == torch.float32


def test_scores_take_pixels_as_they_take_images():
    z = torch.randn(4, 5, 3, 2, generator=torch.Generator().manual_seed(0))
    flat = z.permute(0, 2, 3, 1).reshape(-1, 5)
    for score in (scores.entropy, scores.confidence, scores.energy, scores.margin):
        torch.testing.assert_close(score(z), score(flat).view(4, 3, 2))
    torch.testing.assert_close(scores.marginal_entropy(z), scores.marginal_entropy(flat))


# --- knobs and recipes --------------------------------------------------------------------------

def test_a_short_name_reaches_the_inner_knob():
    assert make("tent", lr=0.02) == make("tent", update=Step(lr=0.02)) == make(
        "tent", **{"update.lr": 0.02})
    assert with_knobs(make("wisdom_of_crowds"),
                      tolerance=0.1).select == (ConfidenceRise(tolerance=0.1),)
    assert {k.name for k in knobs(make("wisdom_of_crowds"))
            } >= {"update.lr", "select.0.tolerance", "penalties.0.weight", "average"}


@pytest.mark.parametrize(("call", "message"), [
    (lambda: make("tnet"), "there is no method 'tnet'; there are: .*tent"),
    (lambda: make("tent", speed=1), "no knob 'speed'; its knobs are: .*update.lr"),
    (lambda: make("tent", lr=11.0), r"Step.lr = 11.0 must be a number from 0.0 to 10.0"),
    (lambda: make("tent", lr=float("nan")), "Step.lr = nan"),
    (lambda: make("batch_norm", lr=0.1), r"BatchNorm has no knob 'lr'"),
    (lambda: make("tent", repeats=1.5), "must be a whole number"),
    (lambda: make("tent", rule="lion"), "not one of 'adam', 'sgd'"),
    (lambda: make("tent", nesterov=True).update.build([nn.Parameter(torch.zeros(1))]),
     "needs rule='sgd'"),
    (lambda: make("tent", rule="sgd", nesterov=True, momentum=0).update.build(
        [nn.Parameter(torch.zeros(1))]), "a momentum above 0"),
    (lambda: make("tent", momentum=1).update.build([nn.Parameter(torch.zeros(1))]), "stay below 1"),
    (lambda: make("tent", preset=["cifar10_c"]), "tent has no preset"),
    (lambda: make("tent").where(EntropyThreshold(), EntropyThreshold(0.1)) and with_knobs(
        make("tent").where(EntropyThreshold(), EntropyThreshold(0.1)), fraction=0.2),
     "several knobs called 'fraction': select.0.fraction, select.1.fraction"),
])
def test_wrong_settings_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_wrong_part_is_named():
    with pytest.raises(TypeError, match="select takes Selector parts, got Diversity"):
        make("tent").where(Diversity())


def test_catalogue_lists_what_make_builds():
    rows = {row["name"]: row for row in catalogue()}
    assert {"source", "batch_norm", "bn_alpha", "bn_ema", "tent", "wisdom_of_crowds"} <= set(rows)
    assert all(
        type(make(name)).__name__ == row["class"] and row["sentence"] for name, row in rows.items())


# --- identities between methods -----------------------------------------------------------------

class _All(Selector):
    def weights(self, ctx, losses, keep, state):
        return torch.ones_like(losses)


class _Half(Selector):
    def weights(self, ctx, losses, keep, state):
        return torch.full_like(losses, 0.5)


@pytest.mark.parametrize("model", ["tinybn", "tinygn", "tinyvit"])
def test_everything_kept_without_diversity_is_tent(model, batches):
    tent, _ = play(make("tent"), batches, model)
    crowd, adapter = play(make("wisdom_of_crowds", select=(_All(),), penalties=()), batches, model)
    assert torch.equal(crowd, tent) and (adapter.trace["weight"] == 1).all()
    no_weight, _ = play(make("wisdom_of_crowds", select=(_All(),), weight=0.0), batches, model)
    assert torch.equal(no_weight, tent)


def test_the_named_method_is_its_composition(batches):
    named, _ = play(make("wisdom_of_crowds"), batches)
    composed, _ = play(
        make("tent", when_empty="step").where(ConfidenceRise()).plus(Diversity(0.5)), batches)
    assert torch.equal(named, composed)


def test_rate_zero_is_bn_1(batches):
    expected, _ = play(make("batch_norm"), batches)
    for name in ("tent", "wisdom_of_crowds"):
        found, adapter = play(make(name, lr=0.0), batches)
        assert torch.equal(found, expected) and (adapter.trace.step("distance") == 0).all()


def test_first_answer_of_tent_is_bn_1_and_later_ones_are_not(batches):
    expected, _ = play(make("batch_norm"), batches)
    found, _ = play(make("tent"), batches)
    assert torch.equal(found[0], expected[0]) and not torch.equal(found[1], expected[1])


def test_alpha_zero_is_the_source_and_alpha_one_is_bn_1_up_to_the_unbiased_variance(batches):
    source, _ = play(make("source"), batches)
    assert torch.equal(play(make("bn_alpha", alpha=0.0), batches)[0], source)
    layer = nn.BatchNorm2d(2, affine=False, eps=0.0)
    net = nn.Sequential(layer).eval()
    MixedStatistics(alpha=1.0).apply_(net)
    x = torch.randn(3, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    n = 12
    batch = ((x - x.mean((0, 2, 3), keepdim=True)) / x.var(
        (0, 2, 3), correction=0, keepdim=True).sqrt())
    torch.testing.assert_close(net(x), batch * math.sqrt((n - 1) / n))


def test_prior_form_weighs_by_counts(batches):
    """n = 64 images against N = 192 pseudo-images: a = 1/4."""
    assert torch.equal(
        play(make("bn_alpha", prior=192.0), batches)[0],
        play(make("bn_alpha", alpha=0.25), batches)[0])


def test_running_statistics_move_by_momentum_times_the_difference():
    net = nn.Sequential(nn.BatchNorm1d(1, affine=False), nn.Linear(1, 2)).eval()
    adapter = Adapter(net, make("bn_ema", momentum=0.25), device="cpu")
    adapter(torch.tensor([[2.0], [6.0]]))           # mean 4, unbiased variance 8; stored 0 and 1
    assert adapter.state.tensors["0.running_mean"].item() == 1.0
    assert adapter.state.tensors["0.running_var"].item() == pytest.approx(0.75 * 1 + 0.25 * 8)


def test_source_method_keeps_running_statistics_and_equals_the_model(batches):
    found, _ = play(make("source"), batches)
    with torch.no_grad():
        assert torch.equal(found, torch.stack([tiny("tinybn")(x) for x in batches]))


def test_one_small_step_lowers_the_entropy(batches):
    adapter = Adapter(tiny("tinybn"), make("tent", update=Step(rule="sgd", lr=1e-2, momentum=0.0)),
                      device="cpu")
    before, after = (scores.entropy(adapter(batches[0])).mean() for _ in range(2))
    assert after < before


@pytest.mark.parametrize("name", ["batch_norm", "tent", "wisdom_of_crowds"])
def test_permuting_the_batch_permutes_the_answers(name, batches):
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    straight, _ = play(make(name), batches)
    permuted, _ = play(make(name), [x[order] for x in batches])
    torch.testing.assert_close(permuted, straight[:, order], atol=2e-3, rtol=1e-3)


def test_twins_in_a_batch_get_the_same_answer_and_bn_1_ignores_brightness_of_its_input():
    net = nn.Sequential(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
                        nn.Linear(12, 4)).eval()
    x = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    x[5] = x[0]
    answer = Adapter(net, make("batch_norm"), device="cpu")(x)
    assert torch.equal(answer[5], answer[0])
    rescaled = Adapter(net, make("batch_norm"),
                       device="cpu")(x * torch.tensor([2.0, 5.0, 9.0]).view(3, 1, 1) + 1.5)
    torch.testing.assert_close(rescaled, answer, atol=1e-3, rtol=1e-3)


def test_independent_mask_selectors_commute(batches):
    one, _ = play(make("tent").where(ConfidenceRise(), EntropyThreshold(0.3)), batches)
    two, _ = play(make("tent").where(EntropyThreshold(0.3), ConfidenceRise()), batches)
    assert torch.equal(one, two)


def test_weights_scale_the_loss_but_not_the_count(batches):
    _, adapter = play(
        make("tent", update=Step(rule="sgd", lr=1.0, momentum=0.0)).where(_Half()), batches[:1])
    _, whole = play(make("tent", update=Step(rule="sgd", lr=1.0, momentum=0.0)), batches[:1])
    moved = [(a - o, b - o)
             for a, b, o in zip(adapter.tuned.values(), whole.tuned.values(), adapter.origin.values(), strict=True)]
    for half, full in moved:
        torch.testing.assert_close(2 * half, full, rtol=1e-4, atol=1e-6)
    assert adapter.trace.step("n_kept")[0] == 64


def test_average_kept_and_all_differ_by_the_share_kept(batches):
    rule = Step(rule="sgd", lr=1.0, momentum=0.0)
    kept, a = play(make("tent", update=rule).where(EntropyThreshold(0.2)), batches[:1])
    _, b = play(make("tent", update=rule, average="all").where(EntropyThreshold(0.2)), batches[:1])
    share = a.trace.step("n_kept")[0] / 64
    assert 0 < share < 1
    for p, q, o in zip(a.tuned.values(), b.tuned.values(), a.origin.values(), strict=True):
        torch.testing.assert_close((p - o) * share, q - o, rtol=1e-3, atol=1e-6)


def test_entropy_step_by_hand():
    """One weight per class on a constant feature: dH/dz_k = -p_k (ln p_k + H), averaged, one plain
    SGD step."""
    class Shift(nn.Module):
        def __init__(self):
            super().__init__()
            self.z = nn.Parameter(torch.tensor([0.3, -0.2, 0.5]))

        def forward(self, x):
            return self.z + x

    x = torch.tensor([[0.1, 0.0, 0.4], [0.0, 1.0, -0.5]])
    adapter = Adapter(
        Shift(), make("tent", train=AllParameters(), update=Step(rule="sgd", lr=0.5, momentum=0.0)),
        device="cpu")
    adapter(x)
    p = (torch.tensor([0.3, -0.2, 0.5]) + x).softmax(1)
    h = -(p * p.log()).sum(1, keepdim=True)
    gradient = (-p * (p.log() + h)).mean(0)
    torch.testing.assert_close(adapter.tuned["z"].detach(),
                               torch.tensor([0.3, -0.2, 0.5]) - 0.5 * gradient)
    assert adapter.trace.step("grad_norm")[0] == pytest.approx(gradient.norm().item(), rel=1e-5)
    assert adapter.trace.step("distance")[0] == pytest.approx(0.5 * gradient.norm().item(),
                                                              rel=1e-5)


# --- the wisdom-of-crowds filter ----------------------------------------------------------------

class _Line(nn.Module):
    """Binary logit m = w x + b as logits (m, 0)."""

    def __init__(self):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(0.05))

    def forward(self, x):
        m = self.w * x + self.b
        return torch.cat([m, torch.zeros_like(m)], 1)


def test_toy_vote_the_crowd_pulls_the_outvoted_sample_down():
    recipe = make("tent", train=AllParameters(), update=Step(rule="sgd", lr=0.5, momentum=0.0))
    crowd = torch.tensor([[1.0], [1.0], [-0.1]])

    def change(batch):
        adapter = Adapter(_Line(), recipe, device="cpu")
        adapter(batch)
        with torch.no_grad():
            return (adapter.model(crowd).softmax(1)[2, 1] - _Line()(crowd).softmax(1)[2, 1]).item()

    assert change(crowd) < 0 < change(crowd[2:])


def test_filter_drops_the_fallen_and_only_them():
    recipe = make("tent", train=AllParameters(), update=Step(rule="sgd", lr=0.5,
                                                             momentum=0.0)).where(ConfidenceRise())
    adapter = Adapter(_Line(), recipe, device="cpu")
    crowd = torch.tensor([[1.0], [1.0], [-0.1]])
    adapter(crowd)
    adapter(crowd)
    assert adapter.trace["kept"].tolist() == [True] * 3 + [True, True, False]
    assert (adapter.trace["rise_source"][:3] == 0).all()
    assert ((adapter.trace["rise_source"] >= 0) == adapter.trace["kept"]).all()
    # the class is the source's: sample 3 was class 1 (logit -0.05), whatever it is now
    assert adapter.trace["source_prediction"].tolist() == [0, 0, 1, 0, 0, 1]
    fall = adapter.trace["rise_source"][5]
    lenient = Adapter(
        _Line(),
        make("tent", train=AllParameters(),
             update=Step(rule="sgd", lr=0.5,
                         momentum=0.0)).where(ConfidenceRise(tolerance=min(1.0, -fall + 1e-4))),
        device="cpu")
    lenient(crowd)
    lenient(crowd)
    assert lenient.trace["kept"].all()


def test_filter_uses_the_statistics_it_is_told(batches):
    _, batch = play(make("tent").where(ConfidenceRise()), batches[:1])
    _, running = play(make("tent").where(ConfidenceRise(statistics="running")), batches[:1])
    assert batch.trace["kept"].all() and (batch.trace["rise_source"] == 0).all()
    assert not running.trace["kept"].all()
    with torch.no_grad():
        expected = tiny("tinybn")(batches[0]).softmax(1).amax(1).numpy()
    np.testing.assert_allclose(running.trace["source_confidence"], expected, rtol=1e-6)
    assert running.trace.meta["source_statistics"] == "running"


def test_selection_ignores_a_constant_added_to_the_logits(batches):
    class Raised(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = tiny("tinybn")

        def forward(self, x):
            return self.net(x) + 4.0

    _, plain = play(make("tent", lr=5e-3).where(ConfidenceRise()), batches)
    raised = Adapter(Raised(), make("tent", lr=5e-3).where(ConfidenceRise()), device="cpu")
    for x in batches:
        raised(x)
    assert (plain.trace["kept"] == raised.trace["kept"]).mean() > 0.99


def test_nothing_kept_goes_on_with_the_diversity_term_alone(batches):
    class Nobody(Selector):
        def weights(self, ctx, losses, keep, state):
            return torch.zeros_like(losses)

    _, named = play(make("wisdom_of_crowds", select=(Nobody(),)), batches[:2])
    assert not named.trace.step("skipped").any() and (named.trace.step("distance") > 0).all()
    mean_entropy = scores.marginal_entropy(tiny_bn1(batches[0]))
    assert named.trace.step("loss")[0] == pytest.approx(-0.5 * mean_entropy.item(), rel=1e-5)
    _, skipping = play(make("wisdom_of_crowds", select=(Nobody(),), when_empty="skip"), batches[:2])
    assert skipping.trace.step("skipped").all() and (skipping.trace.step("distance") == 0).all()


def tiny_bn1(x):
    return Adapter(tiny("tinybn"), make("batch_norm"), device="cpu")(x)


def test_low_entropy_is_strict_and_relative_to_the_classes():
    class Identity(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return self.scale * x

    adapter = Adapter(Identity(),
                      make("tent", train=AllParameters()).where(EntropyThreshold(1.0)), device="cpu")
    # entropy exactly ln 2, and a little less
    adapter(torch.tensor([[0.0, 0.0], [0.1, 0.0]]))
    assert adapter.trace["kept"].tolist() == [False, True]


def test_random_keep_keeps_the_stated_number_and_follows_a_trace(batches):
    _, adapter = play(make("tent").where(RandomKeep(share=0.25)), batches)
    assert adapter.trace.step("n_kept").tolist() == [16] * 5
    one = adapter.trace["kept"].reshape(5, 64)
    assert len({tuple(row) for row in one}) == 5, "every step draws anew"
    _, filtered = play(make("tent", lr=5e-3).where(ConfidenceRise()), batches)
    control = RandomKeep.like(filtered.trace)
    _, random = play(make("tent", lr=5e-3).where(control), batches)
    assert (random.trace.step("n_kept") == filtered.trace.step("n_kept")).all()
    assert (random.trace["kept"] != filtered.trace["kept"]).any()
    with pytest.raises(ValueError, match="counts for 5 steps, but this is step 6"):
        random(batches[0])


# --- the adapter --------------------------------------------------------------------------------

def test_a_failed_step_answers_with_the_source_and_leaves_the_state(batches):
    class Breaks(Selector):
        def weights(self, ctx, losses, keep, state):
            if len(losses) == 7:
                raise RuntimeError("broken")
            return torch.ones_like(losses)

    recipe = make("tent").where(Breaks(), RandomKeep())
    adapter = Adapter(tiny("tinybn"), recipe, device="cpu", on_error="source")
    undisturbed = Adapter(tiny("tinybn"), recipe, device="cpu", on_error="source")
    adapter(batches[0]), undisturbed(batches[0])
    with torch.no_grad():
        expected = tiny("tinybn")(batches[1][:7])
    assert torch.equal(adapter(batches[1][:7]), expected)
    assert len(adapter.errors) == 1 and "broken" in adapter.errors[0] and adapter.trace.step(
        "failed").tolist() == [False, True]
    poisoned = batches[1].clone()
    poisoned[3, 0, 0, 0] = float("nan")
    answer = adapter(poisoned)
    assert torch.isfinite(answer[[0, 1, 2, 4]]).all() and len(adapter.errors) == 2
    assert torch.equal(adapter(batches[2]), undisturbed(batches[2])), "the failed steps left a mark"
    with pytest.raises(RuntimeError, match="broken"):
        Adapter(tiny("tinybn"), recipe, device="cpu")(batches[1][:7])


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda x: (x * 255), r"in \[0, 255\].*divide by 255"),
    (lambda x: x * 4 - 2, "look normalised already"),
    (lambda x: (x * 255).byte(), "uint8 images.*float"),
    (lambda x: x[:, :1], r"shape \(64, 1, 16, 16\).*\(batch, 3, 16 x 16\)"),
    (lambda x: x[..., :8], "shape"),
    (lambda x: x[:0], "non-empty"),
    (lambda x: torch.where(torch.arange(64).view(-1, 1, 1, 1) == 5, torch.nan, x), "NaN or Inf"),
])
def test_images_the_card_does_not_allow_are_refused_before_anything_moves(spoil, message, batches):
    x = batches[0].clone()
    x[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    model = with_input_card(tiny("tinybn"), channels=3, size=(16, 16), mean=(0.5,), std=(0.5,))
    adapter = Adapter(model, make("tent"), device="cpu")
    before = {k: v.clone() for k, v in adapter.state.tensors.items()}
    with pytest.raises(InputError, match=message):
        adapter(spoil(x))
    if len(spoil(x)):
        with pytest.raises(InputError, match=message):
            model(spoil(x))
    assert all(torch.equal(v, before[k])
               for k, v in adapter.state.tensors.items()) and adapter.steps == 0 and len(
                   adapter.trace) == 0


def test_nan_images_are_named_by_id_with_any_model(batches):
    x = batches[0].clone()
    x[5] = float("inf")
    x[9, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match=r"2 of 64 images hold NaN or Inf \(ids \[105, 109\]\)"):
        Adapter(tiny("tinybn"), make("tent"), device="cpu")(x, torch.arange(100, 164))


def test_normalisation_in_model_and_in_data_agree(batches):
    inside = with_input_card(tiny("tinybn"), size=(16, 16), mean=(0.4, 0.5, 0.6),
                             std=(0.2, 0.25, 0.5))
    outside = with_input_card(tiny("tinybn"), size=(16, 16), mean=(0.4, 0.5, 0.6),
                              std=(0.2, 0.25, 0.5), normalisation="in_data")
    x = batches[0]
    normalised = ((x - torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)) /
                  torch.tensor([0.2, 0.25, 0.5]).view(1, 3, 1, 1))
    with torch.no_grad():
        torch.testing.assert_close(inside(x), tiny("tinybn")(normalised))
        assert torch.equal(outside(normalised), tiny("tinybn")(normalised))


def test_a_loss_that_is_not_finite_raises_before_weights_move(batches):
    class Bad(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = tiny("tinybn")

        def forward(self, x):
            return self.net(x) * float("inf")

    adapter = Adapter(Bad(), make("tent"), device="cpu")
    with pytest.raises(AdaptationError, match="answers with NaN or infinity for 64 of 64 "
                                              "images.*in step 0 of Tent; no weight was moved"):
        adapter(batches[0])
    assert all(torch.equal(v, adapter.state.start[k]) for k, v in adapter.state.tensors.items())


def test_a_state_of_another_recipe_is_refused(batches):
    state = Adapter(tiny("tinybn"), make("tent"), device="cpu").state_dict()
    with pytest.raises(ValueError, match="belongs to another recipe"):
        Adapter(tiny("tinybn"), make("tent", lr=1e-4), device="cpu").load_state_dict(state)
    with pytest.raises(ValueError, match="belongs to another source"):
        Adapter(tiny("tinygn"), make("tent"), device="cpu").load_state_dict(state)


def test_models_without_the_needed_layers_are_named():
    bare = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    with pytest.raises(NeedsError, match="no batch-norm layer"):
        Adapter(bare, make("batch_norm"), device="cpu")
    with pytest.raises(NeedsError, match="the model has none with affine parameters"):
        Adapter(bare, make("tent"), device="cpu")
    no_statistics = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False))
    with pytest.raises(NeedsError, match="stores none"):
        Adapter(no_statistics, make("bn_alpha"), device="cpu")
    listed = nn.Sequential(nn.BatchNorm1d(3))
    listed.forward = lambda x: [x]
    with pytest.raises(NeedsError, match="returned list; logits of shape"):
        Adapter(listed, make("source"), device="cpu")(torch.zeros(2, 3))


@pytest.mark.parametrize(
    "name",
    ["batch_norm", "tent", "bn_alpha", "bn_ema", "ada_mix_bn", "rotta", "iabn", "unmix_tns"])
def test_a_single_image_behind_pooling_uses_the_statistics_of_the_source(name):
    """One value per channel has no variance: a last batch of one does not end a run."""
    def net(**options):
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 6,
                           3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(
                               6, **options), nn.Linear(6, 4)
        return nn.Sequential(*layers).eval()

    x = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    adapter = Adapter(net(), make(name), device="cpu")
    adapter(x)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert torch.isfinite(adapter(x[:1])).all() and len(adapter.trace) == 6
    assert all("stored in the source model" in str(w.message) for w in said)
    if name == "batch_norm":
        assert said
        with torch.no_grad():
            torch.testing.assert_close(adapter(x[:1]), net()(x[:1]))
    if name in ("batch_norm", "tent"):
        with pytest.raises(ValueError, match="more than one value per channel.*batches of two or "
                                             "more"):
            Adapter(net(track_running_stats=False), make(name), device="cpu")(x[:1])


def test_single_vectors_need_no_batch_statistics_from_the_source():
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).eval()
    assert Adapter(net, make("tent", norm=SourceStatistics()),
                   device="cpu")(torch.zeros(1, 3)).shape == (1, 2)


def test_sliding_window_takes_single_images(batches):
    with pytest.raises(ValueError, match="one image at a time, got a batch of 64"):
        Adapter(tiny("tinybn"), make("tent", cadence=SlidingWindow(4)), device="cpu")(batches[0])
    adapter = Adapter(tiny("tinybn"), make("tent", cadence=SlidingWindow(4)), device="cpu")
    for x in batches[0][:9]:
        adapter(x[None])
    assert (~adapter.trace.step("skipped").astype(bool)).nonzero()[0].tolist() == [3, 7]
    assert adapter.trace.step("forwards").tolist() == [1, 2, 3] + [4] * 6


def test_shared_layers_and_tied_weights_stay_shared(batches):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)
            self.a = nn.Sequential(self.norm, nn.Conv2d(3, 3, 1))
            self.head = nn.Sequential(self.norm, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                                      nn.Linear(3, 4))

        def forward(self, x):
            return self.head(self.a(x))

    adapter = Adapter(Twice().eval(), make("tent"), device="cpu")
    assert adapter.model.a[0] is adapter.model.head[0] is adapter.model.norm
    adapter(batches[0])
    assert len(adapter.tuned) == 2 and not torch.equal(adapter.model.norm.weight,
                                                       adapter.source.norm.weight)


def test_torchvision_model_adapts():
    from torchvision.models import resnet18
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = resnet18(num_classes=6).eval()
    before = copy.deepcopy(net.state_dict())
    adapter = Adapter(net, make("wisdom_of_crowds"), device="cpu")
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    first = adapter(x)
    assert first.shape == (4, 6) and not torch.equal(adapter(x), first)
    assert all(torch.equal(v, before[k])
               for k, v in net.state_dict().items()) and len(adapter.tuned) == 40


def test_controller_can_reset(batches):
    class Every(Controller):
        def decide(self, loss_output, state):
            return "reset"

    adapter = Adapter(tiny("tinybn"), make("tent", controllers=(Every(),)), device="cpu")
    first = adapter(batches[0])
    assert torch.equal(adapter(batches[0]),
                       first) and adapter.trace.step("reset").tolist() == [True, True]


def test_cost_counts_images_and_not_the_record(batches):
    for recipe, record, forwards, backwards in ((make("source"), "light", 64,
                                                 0), (make("tent"), "light", 64,
                                                      64), (make("tent"), "source", 64, 64),
                                                (make("wisdom_of_crowds"), "light", 128,
                                                 64), (make("bn_ema"), "light", 128, 0),
                                                (make("tent", answer="after"), "light", 128,
                                                 64), (make("tent", repeats=3), "light", 192, 192)):
        _, adapter = play(recipe, batches[:2], record=record)
        assert adapter.trace.step("forwards").tolist() == [forwards] * 2, (recipe, record)
        assert adapter.trace.step("backwards").tolist() == [backwards] * 2


def test_answer_after_is_the_next_look(batches):
    adapter = Adapter(tiny("tinybn"), make("tent", answer="after"), device="cpu")
    answer = adapter(batches[0])
    with torch.no_grad():
        assert torch.equal(adapter.model(batches[0]), answer)


# --- trace --------------------------------------------------------------------------------------

def test_trace_columns_agree_with_the_logits(batches):
    answers, adapter = play(make("tent").where(EntropyThreshold(0.3)), batches[:2], record="source")
    z = answers.flatten(0, 1)
    trace = adapter.trace
    assert len(trace) == 128 and trace["step"].tolist(
    ) == [0] * 64 + [1] * 64 and trace["id"].tolist() == list(range(128))
    np.testing.assert_allclose(trace["entropy"], scores.entropy(z), rtol=1e-6)
    np.testing.assert_array_equal(trace["prediction"], z.argmax(1))
    np.testing.assert_array_equal(trace["kept"], scores.entropy(z) < 0.3 * math.log(10))
    np.testing.assert_allclose(trace.step("marginal_entropy"),
                               [scores.marginal_entropy(z) for z in answers], rtol=1e-6)
    np.testing.assert_allclose(trace["source_class_confidence"] - trace["source_confidence"],
                               trace["rise_source"], atol=1e-7)
    for i in (0, 1):
        rows = slice(64 * i, 64 * i + 64)
        assert trace.step("loss")[i] == pytest.approx(
            trace["loss"][rows][trace["kept"][rows]].mean(), rel=1e-5)
    assert set(trace.samples.columns) >= {"entropy", "kept", "rise_source"} and len(
        trace.steps) == 2


def test_trace_survives_a_file_and_long_streams(tmp_path, monkeypatch):
    from tta_lab.core import trace as module
    monkeypatch.setattr(module, "MOVE_EVERY", 3)
    trace = Trace({"classes": 2})
    for i in range(10):
        trace.add({"id": torch.arange(2) + 2 * i, "entropy": torch.full((2,), float(i))},
                  {"step": i, "loss": torch.tensor(float(i))})
        trace.annotate(label=np.array([i, i]), round=i // 5)
    late = {"id": torch.tensor([20]), "prediction": torch.tensor([1])}
    trace.add(late, {"step": 10})
    path = trace.save(tmp_path / "run.npz")
    for t in (trace, Trace.load(path)):
        assert t["id"].tolist() == list(range(21)) and t.meta == {"classes": 2}
        assert t["entropy"][:20].tolist() == [float(i // 2)
                                              for i in range(20)] and np.isnan(t["entropy"][20])
        assert np.isnan(t["prediction"][:20]).all() and t["prediction"][20] == 1
        assert t["round"][:20].tolist() == [
            i // 10 for i in range(20)
        ] and t.step("round")[:10].tolist() == [i // 5 for i in range(10)]
        assert t.step("loss")[:10].tolist() == [float(i) for i in range(10)]
    assert not list(tmp_path.glob("*.part"))


def test_missing_columns_say_how_to_get_them(batches):
    _, adapter = play(make("tent"), batches[:1])
    with pytest.raises(KeyError, match="record='source'"):
        adapter.trace["rise_source"]
    with pytest.raises(KeyError, match="written by run"):
        adapter.trace["correct"]
    assert "rise_source" not in adapter.trace and "entropy" in adapter.trace


def test_making_an_adapter_leaves_the_global_generator_to_other_threads(monkeypatch):
    def borrowed(*args, **kwargs):
        raise AssertionError("the global generator was borrowed")
    monkeypatch.setattr(torch.random, "fork_rng", borrowed)
    Adapter(tiny("tinybn"), make("tent"), device="cpu")
    # a method that draws weights of its own needs it
    with pytest.raises(AssertionError, match="borrowed"):
        Adapter(tiny("tinybn"), make("rmt"), device="cpu", source_info=given(make("rmt"), "tinybn"))


def test_a_base_class_without_defaults_is_named_with_its_file_and_the_remedy(tmp_path, monkeypatch):
    (tmp_path / "pair").mkdir()
    (tmp_path / "pair" / "__init__.py").touch()
    (tmp_path / "pair" / "both.py").write_text(
        "from dataclasses import dataclass\nfrom tta_lab.core.parts import LossMethod\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Base(LossMethod):\n    factor: float\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TypeError, match=r"Base in .*both.py.*: norm, factor; .*begin its name with _"):
        find_parts("pair", [str(tmp_path / "pair")], "Method")
