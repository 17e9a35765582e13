"""Update rules, controllers, teachers, memories, episodes, augmentations and source statistics, by hand and by identities."""
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file
from tiny import stream, tiny
from torch import nn

from tta_lab.components import augment, teachers, updates
from tta_lab.components.controllers.resets import CollapseRecovery, ResetEvery
from tta_lab.components.selectors import ConfidenceRise, EntropyThreshold
from tta_lab.components.source import prepare as source
from tta_lab.components.updates import Sam
from tta_lab.core import hashing as source_hashing
from tta_lab.core import scores
from tta_lab.core.adapter import Adapter
from tta_lab.core.parts import (
    AllParameters,
    Controller,
    LossMethod,
    NeedsError,
    NormAffine,
    Selector,
    Step,
)
from tta_lab.methods import make
from tta_lab.methods.tent import Tent


@pytest.fixture(scope="module")
def batches():
    return [x[:24] for x in stream("s3")[0][:5]]


def play(recipe, batches, model="tinybn", **options):
    adapter = Adapter(tiny(model), recipe, device="cpu", **options)
    return torch.stack([adapter(x) for x in batches]), adapter


class Quadratic(nn.Module):
    """Logits (w x, 0) of a single weight pair; entropy falls with |w x|."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.3, -0.4]))

    def forward(self, x):
        return torch.cat([(x * self.w).sum(1, keepdim=True), torch.zeros(len(x), 1)], 1)


# --- sharpness-aware minimisation ---------------------------------------------------------------------------------

def test_sam_steps_with_the_gradient_of_the_neighbour():
    x = torch.tensor([[1.0, 0.5], [0.2, -1.0]])
    recipe = make("tent", train=AllParameters(), update=Sam(lr=0.5, momentum=0.0, rho=0.1))
    adapter = Adapter(Quadratic(), recipe, device="cpu")
    adapter(x)

    def gradient(w):
        w = w.clone().requires_grad_()
        z = torch.stack([x @ w, torch.zeros(2)], 1)
        return torch.autograd.grad(scores.entropy(z).mean(), w)[0]

    w = torch.tensor([0.3, -0.4])
    g = gradient(w)
    expected = w - 0.5 * gradient(w + 0.1 * g / g.norm())
    torch.testing.assert_close(adapter.tuned["w"].detach(), expected)
    assert not torch.allclose(expected, w - 0.5 * g, atol=1e-4)
    assert adapter.trace.step("forwards")[0] == adapter.trace.step("backwards")[0] == 4


def test_sam_without_a_radius_is_the_base_rule(batches):
    plain, _ = play(make("tent", update=Step(rule="sgd", lr=0.01)), batches)
    assert torch.equal(play(make("tent", update=Sam(lr=0.01, rho=0.0)), batches)[0], plain)


class _Once(Selector):
    """Keeps the first half at the first look and nobody of them at the second."""

    def weights(self, ctx, losses, keep, state):
        half = torch.arange(len(losses)) < len(losses) // 2
        return (half & (ctx.evaluation == 0)).to(losses.dtype)


def test_sam_asks_the_selectors_again_among_those_kept(batches):
    _, adapter = play(make("tent", update=Sam(lr=0.1)).where(_Once()), batches[:2])
    assert adapter.trace.step("n_kept").tolist() == [0, 0]
    assert all(torch.equal(p, adapter.origin[k]) for k, p in adapter.tuned.items()), "no step, and no perturbation left behind"
    assert adapter.trace.step("backwards").tolist() == [24, 24]


def test_the_source_is_asked_once_however_often_an_update_looks(batches):
    _, adapter = play(make("tent", update=Sam(lr=0.1)).where(ConfidenceRise()), batches[:2])
    assert adapter.trace.step("forwards").tolist() == [3 * 24] * 2
    _, adapter = play(make("tent", repeats=3).where(ConfidenceRise()), batches[:1])
    assert adapter.trace.step("forwards").tolist() == [4 * 24]


class _Breaks(Selector):
    def weights(self, ctx, losses, keep, state):
        if ctx.evaluation:
            raise RuntimeError("broken")
        return torch.ones_like(losses)


def test_a_failure_within_sam_leaves_no_perturbation(batches):
    adapter = Adapter(tiny("tinybn"), make("tent", update=Sam(lr=0.1)).where(_Breaks()), device="cpu")
    with pytest.raises(RuntimeError, match="broken"):
        adapter(batches[0])
    assert all(torch.equal(p, adapter.origin[k]) for k, p in adapter.tuned.items())


# --- controllers ---------------------------------------------------------------------------------------------------

def test_reset_every_makes_the_next_answers_those_of_a_fresh_model(batches):
    recipe = make("tent", lr=1e-2, controllers=(ResetEvery(2),))
    answers, adapter = play(recipe, batches)
    assert torch.equal(answers[2:4], play(recipe, batches[2:4])[0])
    assert adapter.trace.step("reset").tolist() == [True, False, True, False, True] and adapter.trace["id"].tolist() == list(range(120))


def test_every_batch_an_episode_is_a_reset_before_each(batches):
    answers, _ = play(make("tent", lr=1e-2, answer="after", controllers=(ResetEvery(1),)), batches)
    for x, z in zip(batches, answers, strict=True):
        assert torch.equal(play(make("tent", lr=1e-2, answer="after"), [x])[0][0], z)


@pytest.mark.parametrize("what", ["weights", "statistics", "optimizer", "states", "generator"])
def test_a_scope_puts_back_what_it_names_and_nothing_else(what, batches):
    from tta_lab.components.norms.batch_norm import BatchStatistics
    from tta_lab.components.selectors import NonRedundant, RandomKeep
    recipe = make("tent", norm=BatchStatistics(track=True)).where(RandomKeep(), NonRedundant(10.0))
    _, adapter = play(recipe, batches[:2])
    fresh, before = Adapter(tiny("tinybn"), recipe, device="cpu"), adapter.state_dict()

    def pieces(state):
        tuned = set(adapter.tuned)
        return {"weights": [v for k, v in state["tensors"].items() if k in tuned],
                "statistics": [v for k, v in state["tensors"].items() if k not in tuned],
                "optimizer": [v["exp_avg"] for v in state["optimizer"]["state"].values()],
                "states": [m for m in [state["states"]["select"][1]["mean"]] if m is not None], "generator": [state["rng"]]}

    adapter.rewind((what,))
    now, then, new = pieces(adapter.state_dict()), pieces(before), pieces(fresh.state_dict())
    for name in now:
        wanted = new if name == what else then
        assert len(now[name]) == len(wanted[name]) and all(torch.equal(a, b) for a, b in zip(now[name], wanted[name], strict=True)), name
        assert not all(torch.equal(a, b) for a, b in zip(then[name], new[name], strict=False)) or not new[name], name


def test_random_control_follows_its_counts_across_resets(batches):
    from tta_lab.components.selectors import RandomKeep
    counts = (3, 9, 5, 24, 1)
    _, adapter = play(make("tent", controllers=(ResetEvery(2),)).where(RandomKeep(counts=counts)), batches)
    assert tuple(adapter.trace.step("n_kept").astype(int)) == counts


def test_unknown_actions_and_scopes_are_named(batches):
    class Odd(Controller):
        def decide(self, loss_outputs, state):
            return "explode"

    with pytest.raises(ValueError, match="Odd asked for 'explode'"):
        play(make("tent", controllers=(Odd(),)), batches)
    with pytest.raises(ValueError, match="not head"):
        Adapter(tiny("tinybn"), make("tent"), device="cpu").reset(what=("head",))


def test_collapse_recovery_by_hand():
    @dataclass
    class L:
        loss: torch.Tensor
        n_kept: int = 1

    part, state = CollapseRecovery(threshold=0.2, scope="weights and mean"), {"mean": None}
    assert part.decide([L(torch.tensor(0.3))], state) is None and state["mean"] == pytest.approx(0.3)
    assert part.decide([L(torch.tensor(0.0), 0), L(torch.tensor(0.1))], state) is None and state["mean"] == pytest.approx(0.28)
    for expected in (0.252, 0.2268, 0.20412):
        assert part.decide([L(torch.tensor(0.0))], state) is None and state["mean"] == pytest.approx(expected)
    assert part.decide([L(torch.tensor(0.0))], state) == ("weights", "statistics") and state["mean"] is None
    low = {"mean": 0.1}
    assert CollapseRecovery(scope="weights").decide([], low) == ("weights", "statistics") and low["mean"] == 0.1
    assert CollapseRecovery().decide([], low) == "reset"


# --- which parameters -----------------------------------------------------------------------------------------------

def test_the_top_of_the_network_can_be_left_out():
    from torchvision.models import resnet18
    with torch.random.fork_rng(devices=[]):
        names = set(NormAffine(drop_top=True)(resnet18()))
    assert len(names) == 30 and not any("layer4" in n for n in names)
    assert set(NormAffine()(tiny("tinyvit"))) - set(NormAffine(drop_top=True)(tiny("tinyvit"))) == {"norm.weight", "norm.bias"}
    assert set(NormAffine(drop_top=True)(tiny("tinybn"))) == set(NormAffine()(tiny("tinybn")))
    deep = nn.Module()
    deep.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(2)) for _ in range(12))
    assert {n.split(".")[1] for n in NormAffine(drop_top=True)(deep)} == {str(i) for i in range(9)}


def test_all_parameters_but_the_head():
    names = set(AllParameters(head=False)(tiny("tinygn")))
    assert set(AllParameters()(tiny("tinygn"))) - names == {"head.weight", "head.bias"}
    with pytest.raises(NeedsError, match="has none"):
        AllParameters(head=False)(tiny("tinyseg"))


# --- teachers, restores, memories, episodes, extra modules ---------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class _Taught(LossMethod):
    """Cross-entropy to a teacher that follows with momentum m and answers."""

    norm: object = make("tent").norm
    momentum: float = 0.9

    def init(self, model, source):
        return {"teacher": teachers.start(model)}

    def output(self, ctx, state):
        return ctx.once(state, lambda: ctx.forward(tensors=state["teacher"]))

    def losses(self, ctx, state):
        return -(self.output(ctx, state).softmax(1) * ctx.logits.log_softmax(1)).sum(1)

    def after(self, ctx, loss_output, state):
        teachers.follow_(state["teacher"], ctx, self.momentum)


@pytest.mark.parametrize("model", ["tinybn", "tinyvit"])
def test_a_teacher_follows_and_answers_before_it_learns(model, batches):
    answers, adapter = play(_Taught(momentum=0.75), batches[:2], model)
    student, _ = play(make("tent", lr=0.0), batches[:1], model)
    assert torch.equal(answers[0], student[0])
    one = Adapter(tiny(model), _Taught(momentum=0.75), device="cpu")
    one(batches[0])
    for name, p in one.tuned.items():
        torch.testing.assert_close(one.states["method"]["teacher"][name], 0.75 * one.origin[name] + 0.25 * p.detach())
    frozen, _ = play(_Taught(momentum=1.0), batches, model)
    assert torch.equal(frozen, play(make("tent", lr=0.0), batches, model)[0])
    same, other = play(_Taught(momentum=0.0), batches[:3], model)
    assert all(torch.equal(other.states["method"]["teacher"][k], p) for k, p in other.tuned.items())
    assert not torch.equal(same[1], frozen[1])


def test_a_teacher_keeps_its_own_statistics(batches):
    from tta_lab.components.norms.batch_norm import RunningStatistics
    adapter = Adapter(tiny("tinybn"), make("bn_ema", norm=RunningStatistics(absorb="one_pass")), device="cpu")
    from tta_lab.core.step_context import StepContext
    teacher = teachers.start(adapter.model)
    ctx = StepContext(adapter, batches[0], torch.arange(24))
    before = {k: v.clone() for k, v in adapter.state.tensors.items()}
    with torch.no_grad():
        moved = ctx.forward(tensors=teacher, commit=True)
        assert not torch.equal(teacher["features.1.running_mean"], before["features.1.running_mean"])
        assert all(torch.equal(v, before[k]) for k, v in adapter.state.tensors.items()), "the student's did not move"
        assert torch.equal(ctx.forward(tensors=teacher), moved) and not torch.equal(ctx.forward(), moved)


def test_restored_entries_are_those_drawn(batches, monkeypatch):
    from tta_lab.core.step_context import StepContext
    adapter = Adapter(tiny("tinybn"), make("tent", lr=0.1, train=AllParameters()), device="cpu")
    adapter(batches[0])
    moved = {k: p.detach().clone() for k, p in adapter.tuned.items()}
    ctx = StepContext(adapter, batches[0], torch.arange(24))
    monkeypatch.setattr(updates, "uniform", lambda shape, rng: torch.linspace(0, 1, torch.Size(shape).numel()).view(shape))
    updates.restore_(ctx, 0.3)
    for k, p in adapter.tuned.items():
        drawn = (torch.linspace(0, 1, p.numel()) < 0.3).view(p.shape)
        assert torch.equal(p.detach(), torch.where(drawn, adapter.origin[k], moved[k]))
    monkeypatch.undo()
    updates.restore_(ctx, 1.0)
    assert all(torch.equal(p.detach(), adapter.origin[k]) for k, p in adapter.tuned.items())


@dataclass(frozen=True, kw_only=True)
class _Remembers(Tent):
    """Learns from pairs of images of earlier batches, in the middle of a batch."""

    def init(self, model, source):
        return {"images": None}

    def learning_batches(self, ctx, state):
        for i in range(0, len(ctx.x), 12):
            if state["images"] is not None:
                yield ctx.other(state["images"], torch.arange(2))
            state["images"] = ctx.x[i:i + 2].clone()


def test_lessons_from_a_memory(batches):
    answers, adapter = play(_Remembers(), batches[:2])
    assert adapter.trace.step("lessons").tolist() == [1, 2] and adapter.trace.step("n_kept").tolist() == [2, 4]
    assert not adapter.trace["kept"].any() and torch.isnan(torch.from_numpy(adapter.trace["loss"])).all(), "no image of the batch was learned from"
    assert torch.equal(answers[0], play(make("batch_norm"), batches[:1])[0][0])


@dataclass(frozen=True, kw_only=True)
class _Episodes(Tent):
    def learning_batches(self, ctx, state):
        for i in range(0, len(ctx.x), 8):
            yield ctx.part(slice(i, i + 8))
            ctx.restart("weights", "optimizer")


def test_parts_of_a_batch_as_episodes(batches):
    _, adapter = play(_Episodes(), batches[:1])
    expected = [play(make("tent"), [batches[0][i:i + 8]])[1].trace["loss"] for i in (0, 8, 16)]
    assert (adapter.trace["loss"] == torch.cat([torch.from_numpy(e) for e in expected]).numpy()).all() and adapter.trace["kept"].all()
    assert all(torch.equal(p, adapter.origin[k]) for k, p in adapter.tuned.items()) and not adapter.trace.step("reset")[1:].any()


@dataclass(frozen=True, kw_only=True)
class _Projects(Tent):
    needs = frozenset({"features"})

    def extra(self, model):
        return nn.Linear(model.head.in_features, 3)

    def losses(self, ctx, state):
        return scores.entropy(ctx.extra(ctx.features))


def test_an_extra_module_is_tuned_saved_and_seeded(batches):
    net, before = tiny("tinybn"), torch.get_rng_state()
    adapter = Adapter(net, _Projects(), device="cpu", seed=4)
    answers = torch.stack([adapter(x) for x in batches[:3]])
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(adapter.tuned["extra.weight"], adapter.origin["extra.weight"])
    adapter.reset()
    assert torch.equal(adapter.tuned["extra.weight"], adapter.origin["extra.weight"])
    one = Adapter(tiny("tinybn"), _Projects(), device="cpu", seed=5)
    assert not torch.equal(one.tuned["extra.weight"], adapter.tuned["extra.weight"])
    first = [adapter(x) for x in batches[:1]]
    two = Adapter(tiny("tinybn"), _Projects(), device="cpu", seed=4)
    two.load_state_dict(adapter.state_dict())
    assert torch.equal(torch.stack(first + [two(x) for x in batches[1:3]]), answers)


@pytest.mark.parametrize("model", ["tinybn", "tinyvit"])
def test_features_are_the_input_of_the_head(model, batches):
    from tta_lab.core.step_context import StepContext
    adapter = Adapter(tiny(model), make("source"), device="cpu")
    with torch.no_grad():
        features, logits = StepContext(adapter, batches[0], torch.arange(24)).forward_features()
        assert torch.equal(features, tiny(model).features(batches[0])) and torch.equal(tiny(model).head(features), logits)


# --- augmentations ---------------------------------------------------------------------------------------------------

PARTS = [augment.ColorAffine(), augment.ColorAffine(blur_and_noise=False, padding="reflect"), augment.AugMix(), augment.ShufflePatches(),
         augment.ShufflePatches(3), augment.ShufflePixels(), augment.Occlude(), augment.Unchanged()]


@pytest.mark.parametrize("part", PARTS, ids=repr)
def test_augmentations_keep_shape_and_range_and_depend_on_their_generator_alone(part, batches):
    x, before = batches[0].clone(), torch.get_rng_state()
    draws = [part(x, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(x, batches[0]) and torch.equal(torch.get_rng_state(), before)
    assert draws[0].shape == x.shape and draws[0].dtype == x.dtype and draws[0].min() >= 0 and draws[0].max() <= 1
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(draws[0], draws[2]) == isinstance(part, (augment.Occlude, augment.Unchanged))


def test_object_destroying_transforms_by_hand():
    x = torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    rng = torch.Generator().manual_seed(1)
    for part in (augment.ShufflePatches(4), augment.ShufflePixels()):
        y = part(x, rng)
        assert torch.equal(y.flatten(2).sort().values, x.flatten(2).sort().values) and not torch.equal(y, x)
    y = augment.ShufflePatches(4)(x, rng)
    tiles = {tuple(t.flatten().tolist()) for t in x[0].unfold(1, 2, 2).unfold(2, 2, 2).permute(1, 2, 0, 3, 4).reshape(16, 8)}
    assert {tuple(t.tolist()) for t in y[0].unfold(1, 2, 2).unfold(2, 2, 2).permute(1, 2, 0, 3, 4).reshape(16, 8)} == tiles
    z = augment.Occlude(0.5)(x, rng)
    torch.testing.assert_close(z[:, :, 2:6, 2:6], x.mean((2, 3), keepdim=True).expand(3, 2, 4, 4))
    z[:, :, 2:6, 2:6] = x[:, :, 2:6, 2:6]
    assert torch.equal(z, x)


def test_colour_affine_uses_one_draw_for_the_batch_but_noise():
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).expand(4, -1, -1, -1)
    quiet = augment.ColorAffine(blur_and_noise=False, padding="reflect")(x, torch.Generator().manual_seed(2))
    assert all(torch.equal(v, quiet[0]) for v in quiet) and not torch.allclose(quiet[0], x[0], atol=0.05)
    noisy = augment.ColorAffine()(x, torch.Generator().manual_seed(2))
    assert not torch.equal(noisy[0], noisy[1]) and (noisy[0] - noisy[1]).abs().max() < 0.06


# --- source statistics -------------------------------------------------------------------------------------------------

SHARED = (source.fisher, source.moments, source.neighbours, source.posterior, source.prototypes, source.replay)


@dataclass(frozen=True, kw_only=True)
class _Greedy(Tent):
    source_info = SHARED


def test_what_is_missing_from_the_source_is_named(batches):
    with pytest.raises(NeedsError, match=r"_Greedy needs the Fisher information.*tta_lab.prepare\(model, recipe, images, labels\)"):
        Adapter(tiny("tinybn"), _Greedy(), device="cpu")
    for labels, why in ((None, "need a label"), (torch.zeros(5).long(), "48 source images but 5 labels"),
                        (torch.full((48,), 3), "no source image of class 0")):
        with pytest.raises(ValueError, match=why):
            source.prepare(tiny("tinybn"), _Greedy(), torch.cat(batches[:2]), labels, device="cpu")


def test_source_statistics_by_hand_and_from_the_cache(batches, tmp_path, monkeypatch):
    x, y = torch.cat(batches[:2]), torch.arange(48) % 10
    options = dict(batch=24, cache=tmp_path / "kept", device="cpu")
    given = source.prepare(tiny("tinybn"), _Greedy(), x, y, **options)
    assert list(given) == [info.name for info in SHARED]

    expected = {}
    for at in (0, 24):
        adapter = Adapter(tiny("tinybn"), make("tent"), device="cpu")
        logits = adapter.model(x[at:at + 24])
        nn.functional.cross_entropy(logits, logits.argmax(1)).backward()
        for name, p in adapter.tuned.items():
            expected[name] = expected.get(name, 0) + p.grad ** 2 / 2
    for name, value in expected.items():
        torch.testing.assert_close(given["fisher"][name], value)

    net = Adapter(tiny("tinybn"), make("batch_norm"), device="cpu").model
    with torch.no_grad():
        features = torch.cat([net.features(x[:24]), net.features(x[24:])])
    torch.testing.assert_close(given["prototypes"]["mean"], torch.stack([features[y == k].mean(0) for k in range(10)]))
    torch.testing.assert_close(given["moments"]["mean"], features.mean(0))
    torch.testing.assert_close(given["moments"]["covariance"], (features - features.mean(0)).T @ (features - features.mean(0)) / 47)
    assert torch.equal(given["replay"]["images"], x) and torch.equal(given["replay"]["labels"], y)

    files = sorted((tmp_path / "kept").iterdir())
    assert [f.suffix for f in files] == [".safetensors"] * len(SHARED)
    monkeypatch.delattr(source, "save_file")                    # nothing may be computed now
    again = source.prepare(tiny("tinybn"), _Greedy(), x, y, **options)
    assert source_hashing.digest(again) == source_hashing.digest(given)
    for change in (dict(batch=12), dict(limit=40)):
        with pytest.raises(NameError, match="save_file"):
            source.prepare(tiny("tinybn"), _Greedy(), x, y, **{**options, **change})
    with pytest.raises(NameError, match="save_file"):
        source.prepare(tiny("tinybn"), _Greedy(), x + 1e-3, y, **options)
    with pytest.raises(NameError, match="save_file"):
        source.prepare(tiny("tinygn"), _Greedy(), x, y, **options)
    assert set(load_file(files[0])) == set(given["fisher"])


def test_a_state_remembers_which_source_statistics_it_was_made_with(batches):
    x, y = torch.cat(batches[:2]), torch.arange(48) % 10
    given = source.prepare(tiny("tinybn"), _Greedy(), x, y, device="cpu")
    state = Adapter(tiny("tinybn"), _Greedy(), device="cpu", source_info=given).state_dict()
    given["moments"]["mean"] = given["moments"]["mean"] + 1
    with pytest.raises(ValueError, match="belongs to another given"):
        Adapter(tiny("tinybn"), _Greedy(), device="cpu", source_info=given).load_state_dict(state)


def test_low_entropy_is_asked_with_the_chain(batches):
    """The selectors of an update that looks twice are pure: asked again at the same weights they keep the same."""
    _, once = play(make("tent", update=Step(rule="sgd", lr=0.01)).where(EntropyThreshold(0.3)), batches)
    _, twice = play(make("tent", update=Sam(lr=0.01, rho=0.0)).where(EntropyThreshold(0.3)), batches)
    assert (once.trace["kept"] == twice.trace["kept"]).all()
