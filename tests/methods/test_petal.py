"""PETAL against the authors' public code; the posterior, the penalty and the weights that fall
back by hand."""
import math

import pytest
import torch
from reference_runs import Roll, Runs, by_key, step
from tiny import around, source_images, stream, tiny

from tta_lab.components import teachers, updates
from tta_lab.components.augment import Unchanged
from tta_lab.components.penalties import PosteriorAnchor
from tta_lab.components.source import prepare as source
from tta_lab.components.updates import least_informative, restore_where_
from tta_lab.core.adapter import Adapter
from tta_lab.core.parts import AllParameters, NeedsError, NormAffine, Step
from tta_lab.methods import make
from tta_lab.methods.petal import Petal

RUNS = Runs("petal")
BARE = {"augment": Unchanged(), "views": 1}


def recipe(run, **changes):
    h = RUNS.settings(run)
    assert h["damp"] == 1e-6, "what PosteriorAnchor adds to the variance"
    restore = ({"restore": h["rst_m"], "chosen": "random"}
               if "sres" in run else {"restore": h["perc"]})
    settings = dict(update=step(h), weight=h["spw"], sure=h["ap"], follow=h["mt_alpha"],
                    augment=Roll(), views=1, **restore)
    kind = changes.pop("kind", None)
    made = make("petal", form="reference",
                **{k: v for k, v in {**settings, **changes}.items() if v is not None})
    return kind(**vars(made)) if kind else made


def deviations(run, batches=None, ramp=lambda i: i % 100 / 100, **changes):
    def watch(adapter):
        # student, teacher and the start's confidence; views come on top
        cost = adapter.trace.step("forwards")[-1]
        with torch.no_grad():
            return {
                "info/anchor_confidence": adapter.states["method"]["anchor_confidence"],
                "info/averaged": int(cost > 3 * 64), "info/n_at_initial": sum(
                    (p == adapter.origin[k]).sum().item() for k, p in adapter.tuned.items()),
                "info/param_loss": PosteriorAnchor(1.0)(adapter, None, None, {}).item()
            }

    uniform = updates.uniform
    if "fixedrestore" in run:
        updates.uniform = lambda shape, rng: ramp(torch.arange(math.prod(shape))).view(shape)
    try:
        outputs, adapter, seen = RUNS.play(run, recipe(run, **changes),
                                           given={"posterior": around(tiny("tinybn"))}, watch=watch,
                                           batches=batches)
    finally:
        updates.uniform = uniform
    return RUNS.deviations(run, outputs, adapter, adapter.states["method"]["teacher"], by_key(seen))


@pytest.mark.parametrize("run", RUNS.fixed)
def test_matches_the_reference(run):
    # fixed views are all the same: one is looked at
    assert deviations(run) == [] and RUNS.unused(run, "n_augmentations") == []


class _Early(Petal):
    """Restored before the teacher follows."""

    def after(self, ctx, loss_output, state):
        restore_where_(ctx, least_informative(loss_output.grads, self.restore), self.start(ctx))
        teachers.follow_(state["teacher"], ctx, self.follow)


class _Each(Petal):
    """The quantile of every tensor by itself."""

    def after(self, ctx, loss_output, state):
        teachers.follow_(state["teacher"], ctx, self.follow)
        for name, g in loss_output.grads.items():
            restore_where_(ctx, least_informative({name: g}, self.restore), self.start(ctx))


GRADIENT = "petal-official-fixaug__tinybn__s1"
RANDOM = "petal-official-sres-fixaug-fixedrestore__tinybn__s1"
MUTATIONS = {
    "itself": {},
    "penalty": {"weight": 1e-4},
    "share": {"restore": 0.051},
    "sure": {"sure": 0.0},
    "teacher": {"follow": 0.89},
    "drawn": {"chosen": "random"},
    "rate": {"lr": 9.9e-4},
    "no restore": {"restore": 0.0},
    "early": {"kind": _Early},
    "each": {"kind": _Each},
    "answer": {"answer": "after"},
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_comparison_can_fail(name):
    assert (deviations(GRADIENT, batches=6, **MUTATIONS[name]) == []) == (name == "itself")


@pytest.mark.parametrize(
    "changes", [{}, {"weight": 1.8e-4}, {"restore": 0.055}, {"ramp": lambda i:
                                                             (i + 1) % 100 / 100}],
    ids=["itself", "penalty", "share", "draw"])
def test_the_comparison_of_drawn_weights_can_fail(changes):
    assert (deviations(RANDOM, batches=4, **changes) == []) == (not changes)


# --- by hand ------------------------------------------------------------------------------------

def test_least_informative_by_hand():
    # squares in order: 0, 1/4, 1, 4, 9
    grads = {"a": torch.tensor([[3.0, -1.0], [0.0, 2.0]]), "b": torch.tensor([-0.5])}
    found = {
        share: {k: m.tolist() for k, m in least_informative(grads, share).items()}
        for share in (0.0, 0.25, 0.3, 1.0)
    }
    assert found[0.0] == {"a": [[False, False], [False, False]], "b": [False]}
    # the limit is 1/4, and strict
    assert found[0.25] == {"a": [[False, False], [True, False]], "b": [False]}
    # between 1/4 and 1
    assert found[0.3] == {"a": [[False, False], [True, False]], "b": [True]}
    # all but the largest
    assert found[1.0] == {"a": [[False, True], [True, True]], "b": [True]}
    values = torch.rand(997, generator=torch.Generator().manual_seed(0))
    for share in (0.03, 0.5, 0.997):
        assert least_informative({"x": values},
                                 share)["x"].equal(values**2 < torch.quantile(values**2, share))


def test_penalty_by_hand():
    class StepContext:
        source_info = {
            "posterior": {
                "mean/a": torch.tensor([1.0, 2.0]), "variance/a": torch.tensor([0.5, 0.0])
            }
        }
        tuned = {"a": torch.tensor([1.0, 2.0], requires_grad=True)}

    penalty, a = PosteriorAnchor(weight=1e-3), StepContext.tuned["a"]
    assert penalty(StepContext, None, None, {}).item() == 0
    with torch.no_grad():
        a += torch.tensor([0.1, 0.1])
    grad, = torch.autograd.grad(penalty(StepContext, None, None, {}), a)
    torch.testing.assert_close(grad, 1e-3 * 0.1 / torch.tensor([0.500001, 1e-6]), rtol=1e-5,
                               atol=0.0)


def test_without_its_parts_it_is_cotta():
    x = stream("s1")[0][:4, :32]
    adapters = [
        Adapter(tiny("tinybn"), recipe, device="cpu", source_info={"posterior": around(tiny("tinybn"))})
        for recipe in (make("petal", penalties=(), restore=0.0, **BARE),
                       make("petal", penalties=(), restore=0.0, chosen="random", **BARE),
                       make("cotta", restore=0.0, **BARE))
    ]
    one, two, three = ([adapter(b) for b in x] for adapter in adapters)
    assert all(
        torch.equal(a, b) and torch.equal(b, c) for a, b, c in zip(one, two, three, strict=True))
    assert adapters[0].trace.step("distance")[-1] > 0


def test_gradients_are_those_before_the_step():
    """Also where the optimiser writes into them: at rate 0 the same batch has the same gradients
    twice."""
    class Watch(Petal):
        def after(self, ctx, loss_output, state):
            found.append(loss_output.grads)

    found, update = [], Step(rule="sgd", lr=0.0, nesterov=True)
    recipe = Watch(**vars(make("petal", update=update, augment=Roll(), views=1, sure=1.1)))
    adapter = Adapter(tiny("tinybn"), recipe, device="cpu",
                      source_info={"posterior": around(tiny("tinybn"))})
    for _ in range(2):
        adapter(stream("s1")[0][0])
    assert found[0].keys() == adapter.tuned.keys() and found[0]["head.weight"].abs().sum() > 0
    assert all(torch.equal(g, found[1][k]) for k, g in found[0].items())


@pytest.fixture(scope="module")
def found():
    x, y = source_images()
    return source.prepare(tiny("tinybn"), make("petal"), x[:200], y[:200], batch=40, device="cpu")


def test_the_posterior_is_that_of_the_places_after_the_epochs(found):
    """The same five epochs by hand, the order drawn from the same seed."""
    x, y = (v[:200] for v in source_images())
    net = tiny("tinybn").train()
    rng = torch.Generator().manual_seed(0)
    places = []
    for m in net.modules():
        m.track_running_stats = False
    optimizer = torch.optim.SGD(net.parameters(), lr=8e-4, momentum=0.9, weight_decay=5e-4)
    for epoch, lr in enumerate((8e-4, 8e-4, 8e-4 + 9.2e-3 / 3, 8e-4 + 9.2e-3 * 2 / 3, 0.01)):
        optimizer.param_groups[0]["lr"] = lr
        for rows in torch.randperm(200, generator=rng).split(40):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
        places += [[p.detach().clone() for p in net.parameters()]] if epoch else []
    for i, (name, _) in enumerate(net.named_parameters()):
        values = torch.stack([place[i] for place in places])
        torch.testing.assert_close(found["posterior"][f"mean/{name}"], values.mean(0), atol=1e-5,
                                   rtol=1e-3)
        spread = (values ** 2).mean(0).double() - values.mean(0).double() ** 2
        torch.testing.assert_close(found["posterior"][f"variance/{name}"].double(), spread,
                                   atol=1e-6, rtol=1e-2)
        assert (found["posterior"][f"variance/{name}"] > 0).any()


def test_it_begins_at_the_posteriors_mean_again_and_again(found):
    x = stream("s1")[0][:3, :24]
    mean = {k[5:]: v for k, v in found["posterior"].items() if k.startswith("mean/")}
    adapter = Adapter(tiny("tinybn"), make("petal", restore=0.5, **BARE), device="cpu", source_info=found)

    def begins():
        return all(
            torch.equal(p, mean[k]) and torch.equal(adapter.states["method"]["teacher"][k], mean[k])
            for k, p in adapter.tuned.items())

    net = tiny("tinybn").train()
    net.load_state_dict(mean, strict=False)
    assert begins() and not torch.equal(mean["head.weight"], adapter.origin["head.weight"])
    first = [adapter(b) for b in x]
    torch.testing.assert_close(first[0], net(x[0]).detach(), atol=1e-5, rtol=1e-4)
    # student, teacher, the mean's confidence, a view
    assert adapter.trace.step("forwards")[0] in (72, 96)
    back = (sum((p == mean[k]).sum().item()
                for k, p in adapter.tuned.items()) / sum(p.numel() for p in adapter.tuned.values()))
    assert 0.49 < back < 0.55 and not begins()
    adapter.reset()
    assert begins() and all(torch.equal(adapter(b), z) for b, z in zip(x, first, strict=True))


def test_a_posterior_of_other_parameters_is_refused():
    x, y = (v[:40] for v in source_images())
    few = source.prepare(tiny("tinybn"), make("petal", train=NormAffine()), x, y, batch=40,
                         device="cpu")
    with pytest.raises(NeedsError, match=r"lacks features.0.weight: it was made for other"):
        Adapter(tiny("tinybn"), make("petal", train=AllParameters()), device="cpu", source_info=few)
    with pytest.raises(ValueError, match="need a label for every source image"):
        source.prepare(tiny("tinybn"), make("petal"), x, device="cpu")
