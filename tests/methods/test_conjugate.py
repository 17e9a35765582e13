"""Conjugate pseudo-labels, hard pseudo-labels and RPL in the authors' code of the former; the
closed form by hand."""
from dataclasses import dataclass

import pytest
import torch
from reference_runs import Runs, step
from tiny import stream, tiny

from tta_lab.components.selectors import ConfidenceThreshold
from tta_lab.core import scores
from tta_lab.core.adapter import Adapter
from tta_lab.core.parts import Controller, Step
from tta_lab.methods import make

RUNS = Runs("conjugate")


@dataclass(frozen=True)
class Before(Controller):
    """Remembers the logits that a batch was learned from."""

    def decide(self, loss_outputs, state):
        state["logits"] = loss_outputs[-1].ctx.logits.detach().numpy()


def play(run, batches=None, **changes):
    h = RUNS.settings(run)
    settings = {"update": step(h), "controllers": (Before(),)}
    if h["adapt"] == "conjugate":
        recipe = make(
            "conjugate",
            **{**settings, "eps": h["poly_epsilon"], "temperature": h["temperature"], **changes})
    elif h["adapt"] == "rpl":
        recipe = make("rpl", **{**settings, "q": h["q"], "answer": "after", **changes})
    else:
        recipe = make("pseudo_label",
                      **{**settings, "select": (ConfidenceThreshold(h["threshold"]),), **changes})
    assert h["adapt"] == "conjugate" or (h["poly_epsilon"],
                                         h["temperature"]) == (0, 1), "of conjugate alone"
    outputs, adapter, before = RUNS.play(
        run, recipe, batches=batches,
        watch=lambda adapter: adapter.states["controllers"][0]["logits"])
    return RUNS.deviations(run, outputs, adapter, seen={"extra/outputs_before": before})


@pytest.mark.parametrize("run", RUNS.fixed)
def test_matches_the_reference(run):
    assert play(run) == [] and RUNS.unused(run) == []


POLY = "conjugate-official-poly__tinybn__s1"
HARD = "conjugate-official-hardpl__tinybn__s1"
TEMPERED = "conjugate-official-ce-temp__tinybn__s1"


@pytest.mark.parametrize(("run", "changes"), [
    (POLY, {}),
    (HARD, {}),
    (TEMPERED, {}),
    (POLY, {"eps": 0.0}),
    (POLY, {"answer": "before"}),
    (TEMPERED, {"temperature": 1.45}),
    (POLY, {"update": Step(rule="sgd", lr=0.005)}),
    (HARD, {"select": (ConfidenceThreshold(0.7),)}),
    (HARD, {"select": ()}),
    (HARD, {"average": "all"}),
    ("conjugate-official-rpl__tinybn__s1", {"q": 0.7}),
], ids=repr)
def test_the_comparison_can_fail(run, changes):
    assert (play(run, batches=3, **changes) == []) == (not changes)


def losses(z, **settings):
    """Of a network that hands its input on."""
    class StepContext:
        logits = z
    return make("conjugate", **settings).losses(StepContext, {})


@pytest.mark.parametrize("eps", [0.5, 6.0])
def test_closed_form_solves_the_system(eps):
    z = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = z.softmax(1)
    system = torch.eye(5) + eps * torch.diag_embed(p) - eps * p[:, :, None] * p[:, None]
    y = torch.linalg.solve(system, p)
    torch.testing.assert_close(y.sum(1), torch.ones(7, dtype=torch.float64))
    torch.testing.assert_close(losses(z, eps=eps),
                               z.logsumexp(1) - (y * (z - eps * (1 - p))).sum(1))


def test_without_eps_it_is_the_entropy_and_tent_at_another_time():
    z = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(losses(z), scores.entropy(z))
    torch.testing.assert_close(losses(z, temperature=2.0), scores.entropy(z / 2))
    x = stream("s1")[0][:3]
    step = Step(rule="sgd", lr=0.01, nesterov=True)
    ours, tent = (Adapter(tiny("tinybn"), make(name, update=step, answer="after"), device="cpu")
                  for name in ("conjugate", "tent"))
    for batch in x:
        torch.testing.assert_close(ours(batch), tent(batch), rtol=1e-4, atol=1e-4)


def test_confident_by_hand():
    class StepContext:
        logits = torch.tensor([[0.76, 0.24], [0.5, 0.5], [0.2, 0.8]]).log()
    # strictly above
    assert ConfidenceThreshold(0.5).weights(StepContext, torch.zeros(3), None, {}).tolist() == [1, 0, 1]
    assert ConfidenceThreshold(0.79).weights(StepContext, torch.zeros(3), None, {}).tolist() == [0, 0, 1]
