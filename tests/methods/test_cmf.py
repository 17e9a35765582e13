"""CMF against public code, and its filter by hand."""
import pytest
import torch
from reference_runs import Roll, Runs, step
from tiny import stream, tiny

from tta_lab.components.augment import ColorAffine
from tta_lab.components.penalties import AugmentedAgreement
from tta_lab.components.updates import WeightEnsembling
from tta_lab.core.adapter import Adapter
from tta_lab.methods import make

RUNS = Runs("cmf")


def recipe(run, augment=None, **changes):
    h = RUNS.settings(run)
    agree = ((AugmentedAgreement(augment=Roll() if augment is None else augment),) if h.get(
        "ROID.USE_CONSISTENCY", True) else ())
    settings = dict(update=step(h), penalties=agree,
                    prior_correction=h.get("ROID.USE_PRIOR_CORRECTION", True), alpha=h["CMF.ALPHA"],
                    anchor=WeightEnsembling(h["CMF.GAMMA"]), noise=h["CMF.Q"])
    return make("cmf", **{**settings, **changes})


def deviations(run, batches=None, **changes):
    outputs, adapter, _ = RUNS.play(run, recipe(run, **changes), batches=batches)
    return RUNS.deviations(run, outputs, adapter)


@pytest.mark.parametrize("run", RUNS.fixed)
def test_matches_the_reference(run):
    assert deviations(run) == [] and RUNS.unused(run) == []


RUN = "cmf-om-fixaug__tinygn__s1"


@pytest.mark.parametrize(
    "changes", [{}, {"alpha": 0.9}, {"anchor": WeightEnsembling(0.82)}, {"noise": 4.0}, {"penalties": ()},
                {"prior_correction": False}, {"average": "kept"}, {"temperature": 0.4}], ids=repr)
def test_the_comparison_can_fail(changes):
    assert (deviations(RUN, batches=5, **changes) == []) == (not changes)


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS.random)
def test_random_runs_are_within_the_spread(run):
    augment = ColorAffine(blur_and_noise=False, padding="reflect")
    assert RUNS.outside(
        run,
        lambda seed: RUNS.play(run, recipe(run, augment), seed)) == [] and RUNS.unused(run) == []


def test_filter_by_hand():
    """Two steps of the filter on one number, from its equations."""
    w = torch.tensor(1.0)
    source = torch.tensor(2.0)
    hidden = torch.tensor(2.0)
    v = 0.0
    recipe = make("cmf", alpha=0.9, anchor=WeightEnsembling(0.8), noise=0.1 * 38400)

    class StepContext:
        tuned, origin = {"w": w.clone()}, {"w": source}

    class LossOutput:
        move = True

    state = {"hidden": {"w": hidden.clone()}, "variance": v}
    for gain in (max(0.9 / 1.0, 0.89), max(0.9 / (0.81 * 0.09 + 0.1 + 0.9), 0.89)):
        recipe.after(StepContext, LossOutput, state)
        hidden = gain * (0.9 * hidden + 0.1 * source) + (1 - gain) * w
        w = 0.8 * w + 0.2 * hidden
        torch.testing.assert_close(StepContext.tuned["w"], w)
        torch.testing.assert_close(state["hidden"]["w"], hidden)
    assert state["variance"] == pytest.approx(0.89 * (0.81 * 0.09 + 0.1))


def test_frozen_hidden_model_is_weight_ensembling():
    """alpha = 0 and no noise: the hidden model is the source, so that g blends like ROID does."""
    x = stream("s1")[0][:4]
    settings = dict(penalties=(), lr=5e-3)
    cmf = Adapter(tiny("tinybn"), make("cmf", alpha=0.0, anchor=WeightEnsembling(0.9), noise=0.0,
                                       **settings), device="cpu")
    roid = Adapter(tiny("tinybn"), make("roid", anchor=WeightEnsembling(0.9), **settings), device="cpu")
    for batch in x:
        torch.testing.assert_close(cmf(batch), roid(batch), rtol=1e-4, atol=1e-5)
