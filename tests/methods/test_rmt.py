"""RMT and SANTA against public code; their shared losses by hand."""
import math

import pytest
import torch
from reference_runs import Roll, Runs, extra, step
from tiny import source_images, stream, tiny

from tta_lab.components.augment import Unchanged
from tta_lab.components.norms.batch_norm import SourceStatistics
from tta_lab.components.objectives import SourceReplay, contrast, cross_entropy, nearest_prototype
from tta_lab.components.source import prepare as source
from tta_lab.components.source.warm_up import warm_up
from tta_lab.core import scores
from tta_lab.core.adapter import Adapter
from tta_lab.core.parts import AllParameters, Step
from tta_lab.methods import make

RMT, SANTA = Runs("rmt"), Runs("santa")


def play(run, batches=None, **changes):
    """The runs it belongs to, outputs, adapter; a change of None takes a setting away."""
    runs, name = (RMT, "rmt") if run.startswith("rmt") else (SANTA, "santa")
    h, (x, y) = runs.settings(run), source_images()
    settings = dict(update=step(h), projection=h["CONTRAST.PROJECTION_DIM"], augment=Roll())
    if name == "rmt":
        assert h["RMT.NUM_SAMPLES_WARM_UP"] == 0
        replay = ((SourceReplay(h["RMT.LAMBDA_CE_SRC"], order="stored"),)
                  if h["RMT.LAMBDA_CE_SRC"] else ())
        settings |= dict(momentum=h["M_TEACHER.MOMENTUM"], penalties=replay)
    recipe = make(name, **{k: v for k, v in {**settings, **changes}.items() if v is not None})
    prototypes = torch.from_numpy(runs.stored(run)["extra/prototypes"])[:, 0]

    def put_projector(adapter):
        with torch.no_grad():
            for key, value in extra(runs, run, "projector").items():
                adapter.tuned[f"extra.{key}"].copy_(value)
                adapter.state.start[f"extra.{key}"].copy_(value)

    given = {"prototypes": {"mean": prototypes}, "replay": {"images": x, "labels": y}}
    return runs, *runs.play(run, recipe, given=given, prepare=put_projector, batches=batches)


def deviations(run, batches=None, **changes):
    runs, outputs, adapter, _ = play(run, batches, **changes)
    return runs.deviations(run, outputs, adapter, adapter.states["method"].get("teacher"))


@pytest.mark.parametrize("run", RMT.fixed + SANTA.fixed)
def test_matches_the_reference(run):
    assert deviations(run) == [] and (RMT if run in RMT.fixed else SANTA).unused(run) == []


SRC = "rmt-om-fixaug-src__tinybn__s1"
ANCHOR = "santa-om-fixaug__tinybn__s2"
MUTATIONS = [(SRC, {}), (ANCHOR, {}), (SRC, {"temperature": 0.12}), (SRC, {"contrast_weight": 0.9}),
             (SRC, {"penalties": ()}), (SRC, {"penalties": (SourceReplay(0.9, order="stored"),)}),
             (SRC, {"penalties": (SourceReplay(),)}), (SRC, {"augment": Unchanged()}),
             (SRC, {"train": AllParameters(head=False)}), (SRC, {"answer": "after"}),
             (SRC, {"momentum": 0.0}), (ANCHOR, {"temperature": 0.12}),
             (ANCHOR, {"contrast_weight": 0.8}), (ANCHOR, {"augment": Unchanged()}),
             (ANCHOR, {"norm": SourceStatistics()})]


@pytest.mark.parametrize(("run", "changes"), MUTATIONS, ids=repr)
def test_the_comparison_can_fail(run, changes):
    assert (deviations(run, batches=3, **changes) == []) == (not changes)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"momentum": 0.989}], ids=repr)
def test_the_size_of_the_teachers_change_tells_its_momentum(changes):
    assert (deviations(SRC, **changes) == []) == (not changes)


def outside(run, far=None):
    """With augmentations, for RMT also with random replay and its warm-up."""
    (x, y) = source_images()
    name = "rmt" if run in RMT.random else "santa"
    runs = RMT if run in RMT.random else SANTA
    h = runs.settings(run)
    replay = {"penalties": (SourceReplay(h["RMT.LAMBDA_CE_SRC"]),)} if name == "rmt" else {}
    # of whole batches of 64
    prototypes = source.prepare(tiny("tinybn"), make("santa"), x, y, limit=1216, device="cpu")

    def once(seed):
        # the teacher's momentum is not stored
        recipe = make(name, update=step(h), projection=h["CONTRAST.PROJECTION_DIM"], **replay)
        given = {"replay": {"images": x, "labels": y}, **prototypes}
        if name == "rmt":
            given["warm_up"] = warm_up(tiny("tinybn"), recipe, x, n=h["RMT.NUM_SAMPLES_WARM_UP"],
                                       batch=64, seed=seed, device="cpu")
        return runs.play(run, recipe, seed, given=given)

    return runs.outside(run, once, far)


@pytest.mark.slow
@pytest.mark.parametrize("run", RMT.random + SANTA.random)
def test_random_runs_are_within_the_spread(run):
    """The stored change is that from the end of RMT's warm-up, where the authors' method begins
    the stream; so is ours."""
    assert outside(run) == [] and (RMT if run in RMT.random else SANTA).unused(run) == []


@pytest.mark.slow
def test_a_change_from_the_source_is_another():
    def from_the_source(adapter):
        return (sum(((p.detach() - adapter.origin[k])**2).sum().item()
                    for k, p in adapter.tuned.items() if not k.startswith("extra."))**0.5)

    wrong, = outside("rmt-om__tinybn__s2", from_the_source)
    assert wrong.startswith("change")


# --- the warm-up --------------------------------------------------------------------------------

WARM = dict(penalties=(), momentum=0.9, train=AllParameters(), projection=8)


def test_one_step_of_the_warm_up_is_half_a_step_of_tent():
    """Student and teacher are still the same, so that the gradient is half that of the entropy;
    the teacher follows by a tenth."""
    x = source_images()[0][:32]
    step = Step(rule="sgd", lr=0.1)
    found = warm_up(tiny("tinybn"), make("rmt", update=step, **WARM), x, n=32, batch=32,
                    device="cpu")
    tent = Adapter(tiny("tinybn"),
                   make("tent", update=Step(rule="sgd", lr=0.05), train=AllParameters()),
                   device="cpu")
    tent(x)
    for name, p in tent.tuned.items():
        moved = p.detach() - tent.origin[name]
        start = tent.origin[name]
        torch.testing.assert_close(found[f"student/{name}"] - start, moved, atol=1e-6, rtol=1e-2)
        torch.testing.assert_close(found[f"teacher/{name}"] - start,
                                   0.1 * (found[f"student/{name}"] - start), atol=1e-6, rtol=1e-2)


def test_the_stream_begins_at_the_end_of_the_warm_up_again_and_again():
    recipe, x = make("rmt", lr=5e-3, **WARM), stream("s1")[0][:3, :24]
    prototypes = {"mean": torch.ones(10, 64)}
    found = warm_up(tiny("tinybn"), recipe, source_images()[0], n=96, batch=32, device="cpu")
    given = {"prototypes": prototypes, "warm_up": found}
    adapter = Adapter(tiny("tinybn"), recipe, device="cpu", source_info=given)

    def is_warm():
        steps = {s["step"].item() for s in adapter.optimizer.state.values() if s}
        teacher = adapter.states["method"]["teacher"]
        return (all(torch.equal(p, found[f"student/{k}"]) for k, p in adapter.tuned.items())
                and steps == {3.0}
                and all(torch.equal(v, found[f"teacher/{k}"]) for k, v in teacher.items()))

    assert is_warm() and not torch.equal(found["student/head.weight"],
                                         adapter.origin["head.weight"])
    first = [adapter(b) for b in x]
    assert not is_warm()
    adapter.reset()
    assert is_warm() and all(torch.equal(adapter(b), z) for b, z in zip(x, first, strict=True))

    half = Adapter(tiny("tinybn"), recipe, device="cpu", source_info=given)
    half(x[0])
    resumed = Adapter(tiny("tinybn"), recipe, device="cpu", source_info=given)
    resumed.load_state_dict(half.state_dict())
    assert torch.equal(resumed(x[1]), first[1])
    cold = Adapter(tiny("tinybn"), recipe, device="cpu", source_info={"prototypes": prototypes})
    assert not torch.equal(cold(x[0]), first[0])
    with pytest.raises(ValueError, match="belongs to another given"):
        cold.load_state_dict(half.state_dict())


# --- the shared losses --------------------------------------------------------------------------

def test_contrast_by_hand():
    # three views alike, nobody else
    assert contrast(torch.ones(1, 3, 4), 0.1).item() == pytest.approx(math.log(2))
    # two samples at right angles
    pairs = torch.tensor([[[1.0, 0.0], [2.0, 0.0]], [[0.0, 1.0], [0.0, 3.0]]])
    # cosine 1 at temperature 0.5, two negatives at 0
    expected = -math.log(math.exp(2) / (math.exp(2) + 2))
    torch.testing.assert_close(contrast(pairs, 0.5), torch.full((2,), expected))


def test_symmetric_cross_entropy():
    a, b = (torch.randn(5, 4, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    torch.testing.assert_close(scores.symmetric_cross_entropy(a, b),
                               scores.symmetric_cross_entropy(b, a))
    torch.testing.assert_close(scores.symmetric_cross_entropy(a, a), scores.entropy(a))
    torch.testing.assert_close(cross_entropy(a, b),
                               torch.nn.functional.cross_entropy(a, b.softmax(1), reduction="none"))
    # against a fixed twin the gradient is half that of the entropy
    z = a.clone().requires_grad_()
    half = torch.autograd.grad(scores.symmetric_cross_entropy(z, a).sum(), z)[0]
    torch.testing.assert_close(half, torch.autograd.grad(scores.entropy(z).sum(), z)[0] / 2)


def test_nearest_prototype_goes_by_angle():
    prototypes = torch.tensor([[10.0, 0.0], [0.0, 0.1]])
    assert torch.equal(nearest_prototype(torch.tensor([[1.0, 0.9], [1.0, 1.1]]), prototypes),
                       prototypes)


def test_replay_in_stored_order_goes_round():
    given = {"replay": {"images": source_images()[0][:20], "labels": source_images()[1][:20]}}
    recipe = make("tent", penalties=(SourceReplay(order="stored"),))
    adapter = Adapter(tiny("tinybn"), recipe, device="cpu", source_info=given)
    for x in stream("s1")[0][:3, :8]:
        adapter(x)
    assert adapter.states["penalties"] == [{
        "next": 4
    }] and adapter.trace.step("forwards").tolist() == [16, 16, 16]


@pytest.mark.parametrize("run", RMT.fixed + SANTA.fixed)
def test_prototypes_are_those_of_the_reference(run):
    """Of the 19 whole batches; what is left over was not used there."""
    found = source.prepare(tiny("tinybn"), make("santa"), *source_images(), limit=1216,
                           device="cpu")["prototypes"]["mean"]
    expected = torch.from_numpy(
        (RMT if run in RMT.fixed else SANTA).stored(run)["extra/prototypes"])[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_rate_zero_is_bn_1_once_or_twice():
    x = stream("s3")[0][:2, :32]
    given = {"prototypes": {"mean": torch.ones(10, 64)}}
    plain, rmt, santa = (Adapter(tiny("tinybn"), recipe, device="cpu", source_info=given)
                         for recipe in (make("batch_norm"), make("rmt", lr=0.0, penalties=()),
                                        make("santa", lr=0.0)))
    for batch in x:
        answer = plain(batch)
        assert torch.equal(santa(batch), answer) and torch.equal(rmt(batch), 2 * answer)
