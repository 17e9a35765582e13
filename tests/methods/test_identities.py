"""Methods that must agree: what one becomes when its difference from another is switched off."""
import math

import pytest
import torch
from tiny import around, given, stream, tiny

from tta_lab.components.augment import Unchanged
from tta_lab.components.selectors import (
    ConfidenceRise,
    DiverseCertain,
    EntropyThreshold,
    EntropyWeight,
    NonRedundant,
    PLPDFilter,
)
from tta_lab.components.updates import Sam, WeightEnsembling
from tta_lab.core import scores
from tta_lab.core.adapter import Adapter
from tta_lab.core.parts import AllParameters, NormAffine, Step
from tta_lab.methods import METHODS, make

SGD = {"update": Step(rule="sgd", lr=0.02)}
CERTAIN = EntropyThreshold(1.0)
ALL = {
    "select": (EntropyThreshold(1.0), PLPDFilter(threshold=-1.0, by_certainty=False, by_fall=False))
}
LOWER = NormAffine(drop_top=True)


@pytest.fixture(scope="module")
def batches():
    return [x[:32] for x in stream("s3")[0][:4]]


def play(recipe, batches, model="tinybn", seed=0):
    adapter = Adapter(tiny(model), recipe, device="cpu", source_info=given(recipe, model), seed=seed)
    return torch.stack([adapter(x) for x in batches])


PAIRS = {
    "eta that keeps all": (make("eta", **SGD,
                                select=(CERTAIN, NonRedundant(10.0))), make("tent", **SGD)),
    "eata without filters, weights and anchor": (make("eata", **SGD,
                                                      select=(CERTAIN, NonRedundant(10.0)),
                                                      weight=0.0), make("tent", **SGD)),
    "eata without its anchor": (make("eata", **SGD, weight=0.0), make("eta", **SGD)),
    "rdumb that never resets": (make("rdumb", **SGD, steps=10**6), make("eta", **SGD)),
    "sar without radius, filter and recovery": (make("sar", lr=0.02, rho=0.0, select=(),
                                                     controllers=()),
                                                make("tent", **SGD, train=LOWER)),
    "sar is tent with three parts": (make(
        "sar",
        lr=0.02), make("tent", train=LOWER, update=Sam(lr=0.02),
                       controllers=make("sar").controllers).where(EntropyThreshold(0.4))),
    "deyo that keeps all alike": (make("deyo", **SGD, **ALL), make("tent", **SGD, train=LOWER)),
    "eta as a chain on tent": (make("eta", **SGD), make("tent",
                                                        **SGD).where(EntropyThreshold(0.4),
                                                                     NonRedundant(0.4),
                                                                     EntropyWeight(0.4))),
    "the filter on eta, in its chain": (make("eta", **SGD).where(ConfidenceRise()),
                                        make("tent", **SGD).where(EntropyThreshold(0.4),
                                                                  NonRedundant(0.4),
                                                                  EntropyWeight(0.4),
                                                                  ConfidenceRise())),
}


@pytest.mark.parametrize("model", ["tinybn", "tinyvit"])
@pytest.mark.parametrize("name", PAIRS)
def test_they_agree(name, model, batches):
    one, two = (play(recipe, batches, model) for recipe in PAIRS[name])
    assert torch.equal(one, two)
    assert not torch.equal(one[1],
                           play(make("tent", lr=0.0), batches, model)[1]), "nothing was learned"


PLAIN = {"augment": Unchanged()}
# what else a method needs to be BN-1 for ever at rate zero: settings, and how often it counts the
# prediction
STILL = {
    "psmt": ({}, 2), "rmt": ({}, 2), "roid": ({"prior_correction": False}, 1),
    "cmf": ({"prior_correction": False}, 1), "cotta": ({**PLAIN, "views": 1}, 1),
    "petal": ({**PLAIN, "views": 1}, 1), "paf_kip": (PLAIN, 1), "stamp": ({"views": 0}, 1)
}
# do not normalise by the batch alone: below, and in test_domain_adaptor.py
OTHER = {"memo", "rotta", "domain_adaptor"}


@pytest.mark.parametrize("name",
                         [name for name in METHODS if METHODS[name]().learns and name not in OTHER])
def test_rate_zero_is_bn_1(name, batches):
    settings, times = STILL.get(name, ({}, 1))
    recipe = make(name, lr=0.0, **settings)
    source = {"posterior": around(tiny("tinybn"))} if name == "petal" else given(recipe, "tinybn")
    adapter = Adapter(tiny("tinybn"), recipe, device="cpu", source_info=source)
    found = torch.stack([adapter(x) for x in batches[:3]])
    expected = play(make("source" if name == "actmad" else "batch_norm"), batches[:3])
    if recipe.kind == "log_probabilities":
        torch.testing.assert_close(found, expected.log_softmax(2))
    elif name == "paf_kip":                                 # shares of a third, rounded
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    else:
        assert torch.equal(found, times * expected)
    assert (adapter.trace.step("distance") == 0).all() and adapter.trace.step("lessons").any()


def test_rate_zero_where_the_batch_is_not_all(batches):
    """MEMO is BN-alpha of single images; RoTTA, with no memory of statistics, is the source before
    and after its steps."""
    images = batches[0][:4].split(1)
    torch.testing.assert_close(play(make("memo", lr=0.0, views=2), images),
                               play(make("bn_alpha", alpha=0.1), images))
    source = play(make("source"), batches)
    torch.testing.assert_close(play(make("rotta", lr=0.0, alpha=0.0), batches), source, atol=1e-5,
                               rtol=1e-5)
    # 32 images each: the first step comes after the second answer
    moved = play(make("rotta", lr=0.0), batches)
    assert torch.equal(moved[:2], source[:2]) and not torch.allclose(moved[2], source[2], atol=1e-3)


def test_a_reset_after_every_batch_leaves_bn_1(batches):
    expected = play(make("batch_norm"), batches)
    fallen = make("sar", lr=0.02).controllers[0].__class__(threshold=1e9)
    for recipe in (make("rdumb", **SGD,
                        steps=1), make("sar", lr=0.02, select=(), controllers=(fallen,))):
        assert torch.equal(play(recipe, batches), expected)
    assert not torch.equal(play(make("rdumb", **SGD, steps=2), batches), expected)


def test_running_statistics_between_source_and_batch(batches):
    """A momentum of 0 never leaves the source, of 1 takes the batch, with its unbiased variance as
    BN-alpha does."""
    assert torch.equal(play(make("bn_ema", momentum=0.0), batches), play(make("source"), batches))
    whole = make("bn_ema", momentum=1.0, absorb="one_pass")
    torch.testing.assert_close(play(whole, batches), play(make("bn_alpha", alpha=1.0), batches),
                               atol=1e-4, rtol=1e-4)


MIRROR = {
    "rmt": {"contrast_weight": 0.0, "penalties": ()}, "psmt": {"penalties": (), "restore": 0.0},
    "santa": {"contrast_weight": 0.0}, "cotta": {"views": 1, "restore": 0.0}
}
# the share of Tent's gradient
CURVES = {"rmt": 0.5, "psmt": 0.5, "santa": 1.0, "cotta": 0.0}


@pytest.mark.parametrize("name", MIRROR)
def test_agreement_with_oneself_is_the_entropy(name, batches):
    """At the source, teacher, anchor and student are one: every loss is H. Its gradient is that of
    Tent where the student stands in front (reverse cross-entropy), none where the teacher does,
    and half of it for the symmetric one."""
    step = Step(rule="sgd", lr=0.1, momentum=0.0)
    recipe = make(name, **PLAIN, **MIRROR[name], train=AllParameters(), update=step)
    tuned = [
        Adapter(tiny("tinybn"), r, device="cpu", source_info=given(r, "tinybn"))
        for r in (recipe, make("tent", train=AllParameters(), update=step))
    ]
    for adapter in tuned:
        adapter(batches[0])
    one, tent = tuned
    torch.testing.assert_close(torch.from_numpy(one.trace["loss"]),
                               torch.from_numpy(tent.trace["loss"]), atol=1e-5, rtol=1e-4)
    for key, p in tent.tuned.items():
        torch.testing.assert_close(one.tuned[key] - one.origin[key],
                                   CURVES[name] * (p - tent.origin[key]), atol=2e-6, rtol=2e-2)
    assert tent.trace.step("distance")[0] > 0.01


def test_a_teacher_without_inertia_is_the_student(batches):
    """CoTTA with momentum 0 and no restore: the teacher has the student's weights after every
    step."""
    adapter = Adapter(tiny("tinybn"), make("cotta", **COTTA | {"follow": 0.0, "lr": 0.01}),
                      device="cpu")
    for x in batches[:2]:
        adapter(x)
        assert all(
            torch.equal(adapter.states["method"]["teacher"][k], p)
            for k, p in adapter.tuned.items())
    assert adapter.trace.step("distance")[-1] > 0


def test_forgiving_cross_entropy_ends_in_pseudo_labels_and_in_doubt(batches):
    """RPL: q -> 0 is the cross-entropy of the predicted class, q = 1 one minus its probability."""
    losses, hard = {}, make("pseudo_label", lr=0.0, select=())
    for key, recipe in {
            "pseudo": hard, "small": make("rpl", lr=0.0, q=1e-3), "one": make("rpl", lr=0.0, q=1.0)
    }.items():
        adapter = Adapter(tiny("tinybn"), recipe, device="cpu")
        adapter(batches[0])
        losses[key] = torch.from_numpy(adapter.trace["loss"])
    torch.testing.assert_close(losses["small"], losses["pseudo"], atol=1e-3, rtol=1e-2)
    torch.testing.assert_close(losses["one"], 1 - (-losses["pseudo"]).exp(), atol=1e-5, rtol=1e-4)
    assert losses["pseudo"].max() > 0.5


def test_one_image_makes_the_diversity_term_an_entropy(batches):
    """Batches of one: pbar = p, so that the wisdom of crowds with weight w is (1 - w) times Tent,
    and half of it nothing but a smaller rate."""
    images = batches[0][:4].split(1)
    crowd = make("wisdom_of_crowds", update=Step(rule="sgd", lr=0.04, momentum=0.0), select=(),
                 weight=0.5)
    tent = make("tent", update=Step(rule="sgd", lr=0.02, momentum=0.0))
    torch.testing.assert_close(play(crowd, images), play(tent, images), atol=1e-4, rtol=1e-4)
    still = play(
        make("wisdom_of_crowds", update=Step(rule="sgd", lr=0.04, momentum=0.0), select=(),
             weight=1.0), images)
    torch.testing.assert_close(still, play(make("batch_norm"), images), atol=1e-4, rtol=1e-4)


def test_generalised_cross_entropy_has_its_gradient():
    """d l / d z_y = -p_y^q (1 - p_y)."""
    z = torch.tensor([[0.3, 1.1, -0.4]], requires_grad=True)

    class StepContext:
        logits = z

    recipe = make("rpl", q=0.7)
    recipe.losses(StepContext, {}).sum().backward()
    p = z.detach().softmax(1)[0, 1]
    assert z.grad[0, 1].item() == pytest.approx((-p ** 0.7 * (1 - p)).item(), rel=1e-5)


def test_running_mean_prediction_follows_the_survivors(batches):
    recipe = make("eta", lr=0.0,
                  select=(EntropyThreshold(0.3), NonRedundant(0.4, momentum=0.9), EntropyWeight(0.4)))
    adapter = Adapter(tiny("tinybn"), recipe, device="cpu")
    mean = None
    for x in batches:
        p, kept = adapter(x).softmax(1), None
        kept = torch.from_numpy(adapter.trace["kept"][-32:])
        mean = p[kept].mean(0) if mean is None else 0.9 * mean + 0.1 * p[kept].mean(0)
    torch.testing.assert_close(adapter.states["select"][1]["mean"], mean)
    assert mean.sum().item() == pytest.approx(1, abs=1e-5) and not kept.all()
    assert (adapter.trace["weight"][adapter.trace["kept"]] > 1).all()


@pytest.mark.parametrize("name", ["eta", "eata", "rdumb"])
@pytest.mark.parametrize("fraction", [0.25, 0.4, 0.6])
def test_loss_of_eta_by_hand_at_any_margin(name, fraction, batches):
    """sum over S of exp(E0 - H_i) H_i / |S| with one E0, however the margin is set; at the source,
    where the Fisher anchor is 0."""
    x, limit = batches[0], fraction * math.log(10)
    found = []
    for setting in ({"fraction": fraction}, {"select.0.fraction": fraction}):
        recipe = make(name, lr=0.0, **setting)
        adapter = Adapter(tiny("tinybn"), recipe, device="cpu", source_info=given(recipe, "tinybn"))
        h = scores.entropy(adapter(x))
        found.append(adapter.trace.step("loss")[0])
        # of a first batch nothing is redundant
        kept = h < limit
        assert adapter.trace.step("n_kept")[0] == kept.sum() and 0 < kept.sum() < len(x)
        assert found[-1] == pytest.approx(((limit - h[kept]).exp() * h[kept]).mean().item(),
                                          rel=1e-5)
    assert found[0] == found[1]


def test_anchor_is_zero_at_the_source_and_by_hand_elsewhere(batches):
    from tta_lab.components.penalties import FisherAnchor
    from tta_lab.core.step_context import StepContext
    recipe = make("eata", rule="sgd", lr=0.05, weight=3.0)
    adapter = Adapter(tiny("tinybn"), recipe, device="cpu", source_info=given(recipe, "tinybn"))
    ctx = StepContext(adapter, batches[0], torch.arange(32))
    assert FisherAnchor(weight=3.0)(ctx, None, None, {}).item() == 0
    adapter(batches[0])
    expected = sum((adapter.source_info["fisher"][k] * (p - adapter.origin[k])**2).sum()
                   for k, p in adapter.tuned.items())
    assert FisherAnchor(weight=3.0)(ctx, None, None, {}).item() == pytest.approx(
        3 * expected.item(), rel=1e-5) and expected > 0


@pytest.mark.parametrize(("form", "scope", "when_empty"), [("paper", "everything", "skip"),
                                                           ("reference", "weights", "step"),
                                                           ("port", "weights and mean", "step")])
def test_forms_of_sar_are_named_switches(form, scope, when_empty):
    recipe = make("sar", form=form)
    assert recipe.controllers[0].scope == scope and recipe.when_empty == when_empty
    assert make("tent",
                form="reference") == make("tent"), "where code and paper agree there is one form"


def test_unknown_forms_and_presets_are_named():
    with pytest.raises(ValueError, match="sar has no form 'best'; it has: paper, reference, port"):
        make("sar", form="best")
    with pytest.raises(ValueError, match="eta has no preset 'mnist'; it has: cifar10_c"):
        make("eta", preset="mnist")
    recipe = make("eata", preset="imagenet_c", lr=1e-4)
    assert (recipe.update.rule, recipe.update.lr, recipe.select[1].margin,
            recipe.penalties[0].weight) == ("sgd", 1e-4, 0.05, 2000.0)


def test_destroyed_object_looks_at_the_survivors_only(batches):
    recipe = make("tent", lr=0.0).where(EntropyThreshold(0.2), PLPDFilter(threshold=0.0))
    adapter = Adapter(tiny("tinygn"), recipe, device="cpu")
    adapter(batches[0])
    z = tiny("tinygn")(batches[0])
    survivors = int((torch.special.entr(z.softmax(1)).sum(1)
                     < 0.2 * torch.tensor(10.0).log()).sum())
    assert 0 < survivors < 32 and adapter.trace.step("forwards")[0] == 32 + survivors


# --- output-only and single-image methods -------------------------------------------------------

def test_lame_without_pull_is_the_source(batches):
    answers = play(make("lame", strength=0.0), batches)
    torch.testing.assert_close(answers.exp(), play(make("source"), batches).softmax(-1))
    alone = play(make("lame", affinity="knn"), [batches[0][:1]])
    torch.testing.assert_close(alone.exp(), play(make("source"), [batches[0][:1]]).softmax(-1))


@pytest.mark.parametrize("affinity", ["knn", "rbf", "linear"])
def test_lame_lowers_its_objective_and_ignores_the_order(affinity, batches):
    recipe = make("lame", affinity=affinity, symmetric=True, k=3)
    x = batches[0]
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    answer = play(recipe, [x])[0]
    torch.testing.assert_close(
        play(recipe, [x[order]])[0].exp(), answer[order].exp(), atol=1e-3, rtol=1e-2)
    assert torch.allclose(answer.exp().sum(1), torch.ones(32), atol=1e-5)
    net = tiny("tinybn")
    with torch.no_grad():
        w = recipe.weights(net.features(x))
        log_p = net(x).log_softmax(1)

    def objective(log_y):
        y = log_y.exp()
        return ((y * (log_y - log_p)).sum() - 0.5 * (w * (y @ y.T)).sum()).item()

    # the bound needs W >= 0
    w = (w + (1.0 - torch.linalg.eigvalsh(w).min().clamp(max=0)) * torch.eye(32)
         if affinity == "knn" else w)
    values, y = [objective(log_p)], log_p
    for _ in range(10):
        y = (log_p + w @ y.exp()).log_softmax(1)
        values.append(objective(y))
    assert all(b <= a + 1e-3
               for a, b in zip(values, values[1:], strict=False)) and values[-1] < values[0]


def test_alike_images_are_pulled_to_one_label():
    lame = make("lame", affinity="linear", strength=5.0)

    class StepContext:
        features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
        logits = torch.tensor([[0.3, 0.0], [0.3, 0.0], [0.0, 0.2]])

    assert lame.output(StepContext, {}).argmax(1).tolist() == [0, 0, 0]


def test_t3a_by_hand():
    t3a = make("t3a", keep=1)
    state = {
        "supports": torch.eye(2), "classes": torch.tensor([0, 1]),
        "entropies": torch.tensor([0.5, 0.1])
    }

    class StepContext:
        features = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
        # class 0, surer than the row; class 1, less sure than the row
        logits = torch.tensor([[5.0, 0.0], [0.0, 0.5]])

    answer = t3a.output(StepContext, state)
    torch.testing.assert_close(answer, StepContext.features @ torch.tensor([[0.6, 0.0], [0.8, 1.0]]))
    assert state["classes"].tolist() == [0, 1] and torch.equal(
        state["supports"], torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    everything = make("t3a", keep=0)._kept(torch.tensor([1, 0, 1]), torch.tensor([3.0, 2.0, 1.0]),
                                           3)
    assert everything.tolist() == [1, 2, 0]
    assert make("t3a", keep=-1)._kept(torch.tensor([1, 0, 1]), torch.tensor([3.0, 2.0, 1.0]),
                                      3).tolist() == [2]


@pytest.mark.parametrize("model", ["tinygn", "tinyvit"])
def test_memo_without_augmentation_is_tent_of_one_image(model, batches):
    memo = make("memo", augment=Unchanged(), views=3, lr=0.01)
    tent = make("tent", norm=make("source").norm, train=AllParameters(),
                update=Step(rule="sgd", lr=0.01, momentum=0.0), answer="after")
    x = batches[0][:4]
    together = play(memo, [x], model)[0]
    alone = torch.cat([play(tent, [image], model)[0] for image in x.split(1)])
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-4)
    assert not torch.allclose(together, play(make("source"), [x], model)[0], atol=1e-2)


def test_memo_forgets_and_leaves_a_record(batches):
    adapter = Adapter(tiny("tinybn"), make("memo", views=2).where(EntropyThreshold(0.3)), device="cpu")
    answer = adapter(batches[0][:6])
    assert all(torch.equal(p, adapter.origin[k])
               for k, p in adapter.tuned.items()) and not adapter.optimizer.state
    assert adapter.trace["kept"].sum() == adapter.trace.step("n_kept")[0] and adapter.trace.step(
        "lessons")[0] == 6
    assert 0 < adapter.trace["kept"].sum() < 6 and len(answer) == 6


def test_mixed_statistics_carry_no_gradient_and_can_be_tuned_with(batches):
    adapter = Adapter(tiny("tinybn"), make("tent", norm=make("bn_alpha").norm), device="cpu")
    adapter(batches[0])
    assert adapter.trace.step("distance")[0] > 0


# --- teachers and weight ensembling -------------------------------------------------------------

COTTA = {"augment": Unchanged(), "views": 1, "restore": 0.0, "lr": 5e-3}


def test_first_answer_of_cotta_without_augmentation_is_bn_1(batches):
    answers, expected = (play(recipe, batches)
                         for recipe in (make("cotta", **COTTA), make("batch_norm")))
    assert torch.equal(answers[0], expected[0]) and not torch.equal(answers[1], expected[1])
    assert torch.equal(play(make("cotta", **COTTA | {"follow": 1.0}), batches),
                       expected), "a teacher that never moves is the source"


def test_cotta_restores_all_or_nothing_and_the_student_only(batches):
    everything = Adapter(tiny("tinybn"), make("cotta", **COTTA | {"restore": 1.0, "follow": 0.5}),
                         device="cpu")
    everything(batches[0])
    assert all(torch.equal(p, everything.origin[k]) for k, p in everything.tuned.items())
    teacher = everything.states["method"]["teacher"]
    assert any(not torch.equal(teacher[k], everything.origin[k]) for k in everything.tuned)
    some = Adapter(tiny("tinybn"), make("cotta", **COTTA | {"restore": 0.2, "lr": 0.01}),
                   device="cpu")
    some(batches[0])
    back = (sum((p == some.origin[k]).sum().item()
                for k, p in some.tuned.items()) / sum(p.numel() for p in some.tuned.values()))
    # 53 000 draws, and a few weights that never moved
    assert 0.19 < back < 0.24


@pytest.mark.parametrize(("sure", "augmented"), [(0.0, 0), (1.1, 3)])
def test_cotta_augments_where_the_source_is_unsure(sure, augmented, batches):
    adapter = Adapter(tiny("tinybn"), make("cotta", augment=Unchanged(), views=3, sure=sure),
                      device="cpu")
    adapter(batches[0])
    # student, teacher, source
    assert adapter.trace.step("forwards")[0] == 32 * (3 + augmented)


def test_roid_without_its_parts_is_its_loss_on_tents_parameters(batches):
    bare = make("roid", **SGD, penalties=(), select=(), anchor=WeightEnsembling(1.0),
                prior_correction=False)
    adapter = Adapter(tiny("tinybn"), bare, device="cpu")
    adapter(batches[0])
    p = play(make("batch_norm"), batches[:1])[0].softmax(1).clamp_max(0.99)
    by_hand = -(p * (p / (1 - p) + 1e-5).log()).sum(1)
    torch.testing.assert_close(torch.from_numpy(adapter.trace["loss"]), by_hand, atol=1e-5,
                               rtol=1e-5)
    held = Adapter(tiny("tinybn"), make("roid", **SGD, anchor=WeightEnsembling(0.0)), device="cpu")
    held(batches[0])
    assert all(torch.equal(p, held.origin[k]) for k, p in held.tuned.items())


def test_roid_answers_with_the_prior_by_hand():
    class StepContext:
        x = torch.zeros(2, 1)
        logits = torch.tensor([[2.0, 0.0], [1.0, 0.0]])

    prior = StepContext.logits.softmax(1).mean(0)
    smooth = 0.5 / prior.max()
    torch.testing.assert_close(
        make("roid").output(StepContext, {}),
        StepContext.logits * (prior + smooth) / (1 + 2 * smooth))


def test_diverse_certain_by_hand():
    class StepContext:
        logits = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 3.0]])

    part = DiverseCertain(temperature=0.5)
    state = {"mean": torch.tensor([0.8, 0.2])}
    p = StepContext.logits.softmax(1)
    h = torch.special.entr(StepContext.logits.softmax(1)).sum(1)
    d = 1 - (p @ state["mean"]) / (p.norm(dim=1) * state["mean"].norm())
    d = (d - d.min()) / (d.max() - d.min())
    c = (h.max() - h) / (h.max() - h.min())
    expected = torch.where(d < d.mean(), 0.0, (d * c / 0.5).exp())
    torch.testing.assert_close(
        part.weights(StepContext, torch.zeros(3), torch.ones(3, dtype=torch.bool), state), expected)
    assert expected[0] == 0 and expected[2] > 1
    StepContext.logits = torch.tensor([[2.0, 0.0]])
    assert torch.isfinite(part.weights(StepContext, torch.zeros(1), torch.ones(1, dtype=torch.bool),
                                       state)).all()


def test_symmetric_cross_entropy_is_symmetric_and_the_entropy_of_equals():
    a, b = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(scores.symmetric_cross_entropy(a, b),
                               scores.symmetric_cross_entropy(b, a))
    torch.testing.assert_close(scores.symmetric_cross_entropy(a, a), scores.entropy(a))
    assert (scores.symmetric_cross_entropy(a, b)
            > (scores.entropy(a) + scores.entropy(b)) / 2).all()
