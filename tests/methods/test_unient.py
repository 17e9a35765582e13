"""UniEnt and UniEnt+ against the authors' code, alone and with the wisdom-of-crowds filter; the
mixture by its own properties."""
import pytest
import torch
from reference_runs import Runs, step
from tiny import stream, tiny

from tta_lab.components import unknowns
from tta_lab.components.penalties import Diversity
from tta_lab.components.selectors import ConfidenceRise
from tta_lab.components.unknowns import LikelyKnown, UnknownEntropy, best_split, two_gaussians
from tta_lab.core import scores
from tta_lab.core.adapter import Adapter
from tta_lab.core.parts import NeedsError
from tta_lab.core.step_context import StepContext
from tta_lab.methods import make

RUNS = Runs("unient")
# sizes of the lower part from which the runs' mixtures started, one for each batch: a random draw
# in the authors' code
STARTS = [39, 24, 18, 27, 29, 35, 42, 36, 34, 40, 39, 36]


def recipe(run, **changes):
    h, soft = RUNS.settings(run), "plus" in run
    penalties = (Diversity(h["lambda_max"]),
                 *([] if "inlier" in run else [UnknownEntropy(h["lambda_ood"], soft)]))
    found = make("unient_plus" if soft else "unient",
                 **{"update": step(h), "penalties": penalties, **changes})
    return found.where(ConfidenceRise()) if "ostta" in run else found


def play(run, monkeypatch, batches=None, **changes):
    starts = iter(STARTS)
    risen = []
    ask = ConfidenceRise.weights
    monkeypatch.setattr(unknowns, "best_split", lambda ordered: next(starts))
    # what passed this filter of the whole batch, whoever else drops images
    monkeypatch.setattr(ConfidenceRise, "weights",
                        lambda self, *args: risen.append(w := ask(self, *args)) or w)
    found = changes.pop("recipe", None) or recipe(run, **changes)
    outputs, adapter, seen = RUNS.play(
        run, found, batches=batches, watch=lambda adapter: int((risen[-1] > 0).sum())
        if risen else None)
    return RUNS.deviations(run, outputs, adapter, seen={"info/n_selected": seen} if risen else ())


@pytest.mark.parametrize("run", RUNS.fixed)
def test_matches_the_reference(run, monkeypatch):
    assert play(run, monkeypatch) == [] and RUNS.unused(run, *["lambda_ood"] *
                                                        ("inlier" in run)) == []


def test_the_best_split_differs_from_the_random_starts_in_few_batches():
    """And there the answers differ: the comparison above sees where a mixture starts."""
    outputs, adapter, _ = RUNS.play(HARD, recipe(HARD))
    assert RUNS.deviations(HARD, outputs, adapter) != [] and RUNS.deviations(
        HARD, outputs[:6], adapter) == []
    assert abs(RUNS.error(HARD, outputs) - float(RUNS.index[HARD]["mean_error"])) < 0.01


HARD, SOFT, INLIER, FILTER = (f"{name}-unient-repo__tinybn__s3"
                              for name in ("unient-tent", "unientplus-tent", "inlier-only-tent",
                                           "unient-ostta"))


@pytest.mark.parametrize(("run", "changes"),
                         [(HARD, {}), (SOFT, {}), (INLIER, {}), (FILTER, {}),
                          (HARD, {"average": "all"}), (HARD, {"select": ()}),
                          (HARD, {"penalties": (Diversity(0.5), UnknownEntropy(0.21))}),
                          (HARD, {"penalties": (Diversity(0.5),)}),
                          (HARD, {"penalties": (Diversity(0.4), UnknownEntropy(0.2))}),
                          (SOFT, {"select": (LikelyKnown(),)}),
                          (SOFT, {"penalties": (Diversity(0.5), UnknownEntropy(0.2))}),
                          (INLIER, {"select": (LikelyKnown(soft=True),)}),
                          (FILTER, {"recipe": recipe(HARD)}),
                          (FILTER, {"select": (ConfidenceRise(), LikelyKnown(soft=True))})],
                         ids=repr)
def test_the_comparison_can_fail(run, changes, monkeypatch):
    assert (play(run, monkeypatch, batches=3, **changes) == []) == (not changes)


def test_mixture_of_two_heaps():
    rng = torch.Generator().manual_seed(0)
    low = 0.2 + 0.05 * torch.randn(40, generator=rng)
    high = 0.7 + 0.1 * torch.randn(20, generator=rng)
    p = two_gaussians(torch.cat([high, low]))
    assert (p[20:] > 0.9).all() and (p[:20] < 0.1).all()
    torch.testing.assert_close(two_gaussians(torch.cat([high, low]).flip(0)), p.flip(0))
    assert two_gaussians(torch.full(
        (5,), 0.3)).tolist() == [1] * 5 and two_gaussians(torch.tensor([0.4])).tolist() == [1]
    assert best_split(torch.tensor([0.0, 0.1, 0.2, 1.0])) == 3


def test_mixture_is_that_of_scikit_learn_from_the_same_start():
    mixture = pytest.importorskip("sklearn.mixture")
    for seed in range(5):
        x = torch.rand(50, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        ordered = x.sort().values
        parts = [ordered[:best_split(ordered)], ordered[best_split(ordered):]]
        fit = mixture.GaussianMixture(
            2, weights_init=[len(v) / 50 for v in parts],
            means_init=[[v.mean().item()] for v in parts],
            precisions_init=[[[1 / (v.var(correction=0).item() + 1e-6)]]
                             for v in parts]).fit(x[:, None].numpy())
        expected = torch.from_numpy(fit.predict_proba(x[:, None].numpy())[:, fit.means_.argmin()])
        torch.testing.assert_close(two_gaussians(x), expected, atol=1e-6, rtol=0)


BATCHES = stream("s3")[0][:3]


def played(recipe):
    adapter = Adapter(tiny("tinybn"), recipe, device="cpu")
    return torch.stack([adapter(x) for x in BATCHES]), adapter


def test_everything_known_is_tent(monkeypatch):
    monkeypatch.setattr(unknowns, "two_gaussians",
                        lambda values: torch.ones(len(values), dtype=torch.float64))
    for name in ("unient", "unient_plus"):
        bare = make(name, lr=5e-3, penalties=(UnknownEntropy(0.5, soft=name != "unient"),))
        assert torch.equal(played(bare)[0], played(make("tent", lr=5e-3))[0])
    diverse = make("unient", lr=5e-3)
    assert torch.equal(played(diverse)[0], played(make("tent", lr=5e-3).plus(Diversity(0.5)))[0])


def test_everything_unknown_learns_from_the_penalties_alone(monkeypatch):
    monkeypatch.setattr(unknowns, "two_gaussians",
                        lambda values: torch.zeros(len(values), dtype=torch.float64))
    outputs, adapter = played(make("unient", lr=5e-3, form="inlier_only"))
    assert torch.isfinite(outputs).all(
    ) and not adapter.trace["kept"].any() and not adapter.trace.step("skipped").any()
    outputs, adapter = played(make("unient", lr=0.02, penalties=(UnknownEntropy(1.0),)))
    h = [scores.entropy(z).mean() for z in (adapter.predict(BATCHES[0]), outputs[0])]
    assert h[0] > h[1], "their entropy rises"


def test_split_finds_unknowns_and_costs_one_forward():
    known = stream("s3")[1][0] >= 0
    adapter = Adapter(tiny("tinybn"), make("unient").where(ConfidenceRise()), device="cpu")
    p = unknowns.probability_known(StepContext(adapter, BATCHES[0], torch.arange(64)))
    assert p[known].mean() > p[~known].mean() + 0.2
    adapter.state.cost = dict.fromkeys(adapter.cost, 0)
    adapter(BATCHES[0])
    assert adapter.trace.step("forwards")[0] == 2 * 64 and not torch.isnan(
        torch.from_numpy(adapter.trace["rise_source"])).any()


def test_needs_a_linear_head():
    net = tiny("tinybn")
    net.head = torch.nn.Sequential(net.head)
    with pytest.raises(NeedsError, match="linear head"):
        Adapter(net, make("unient"), device="cpu")(BATCHES[0])
