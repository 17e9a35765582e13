"""Our methods against what the authors' public code returned, number by number (see tests/golden/README.md)."""
import csv

import numpy as np
import pytest
import torch
from tiny import GOLDEN, stream, tiny

from tta_lab.adapter import Adapter
from tta_lab.methods import make
from tta_lab.norms import BatchStatistics
from tta_lab.parts import SlidingWindow, Step
from tta_lab.penalties import Diversity
from tta_lab.selectors import ConfidenceRise

INDEX = {row["run"]: row for row in csv.DictReader((GOLDEN / "index.csv").read_text().splitlines())}
CROWD = {"update": Step(lr=5e-3)}
RECIPES = {  # method of the index -> our recipe, with the step sizes those runs were made with
    "source": lambda m: make("source"),
    "norm-dw": lambda m: make("batch_norm", norm=BatchStatistics(track=True)),
    "bntest-om": lambda m: make("batch_norm"),
    "bnalpha0.1-om": lambda m: make("bn_alpha", alpha=0.1),
    "bnalpha0.5-om": lambda m: make("bn_alpha", alpha=0.5),
    "bnema-om": lambda m: make("bn_ema"),
    "tent-dw": lambda m: make("tent", lr=5e-3),
    "tent-dw-sgd": lambda m: make("tent", update=Step(rule="sgd", lr=0.05)),
    "tent-dw-steps2": lambda m: make("tent", lr=5e-3, repeats=2),
    "tent-dw-episodic": lambda m: make("tent", lr=1e-2, repeats=3),
    "tent-dw-collapse": lambda m: make("tent", lr=1.0),
    "tent-om": lambda m: make("tent", lr=5e-3),
    "tent-om-nesterov": lambda m: make("tent", update=Step(rule="sgd", lr=0.02, nesterov=True)),
    "tent-om-window16": lambda m: make("tent", lr=5e-3, cadence=SlidingWindow(16)),
    "tent-sarrepo": lambda m: make("tent", update=Step(rule="sgd", lr=5e-3)),
    "ostta-unient-repo": lambda m: make("wisdom_of_crowds", penalties=(), lr=5e-3),
    "ostta-unient-repo-diversity": lambda m: make("wisdom_of_crowds", lr=5e-3),
    "tent-unient-repo-diversity": lambda m: make("tent", lr=5e-3).plus(Diversity(0.5)),
}
SINGLE_IMAGE_RATES = {"tent-om__tinygn__s4": 1e-3, "tent-om__tinyvit__s4": 1e-3, "tent-sarrepo__tinygn__s4": 5e-4,
                      "tent-sarrepo__tinyvit__s4": 5e-4}


def play(run, recipe=None):
    """Run a recipe over the run's stream: outputs (batches, batch, 10), the adapter."""
    row = INDEX[run]
    if recipe is None:
        recipe = RECIPES[row["method"]](row["model"])
        if run in SINGLE_IMAGE_RATES:
            recipe = make("tent", update=Step(rule=recipe.update.rule, lr=SINGLE_IMAGE_RATES[run]))
    adapter = Adapter(tiny(row["model"]), recipe, device="cpu")
    outputs = []
    for i, x in enumerate(stream(row["stream"])[0]):
        if "episodic" in run and i:
            adapter.reset(keep_trace=True)
        outputs.append(adapter(x).numpy())
    return np.stack(outputs), adapter


def deviations(run, outputs, adapter):
    """What differs from the stored run by more than its tolerance; an empty list is agreement."""
    row, wrong = INDEX[run], []
    with np.load(GOLDEN / "expected" / f"{run}.npz") as f:
        expected = {k: f[k] for k in f.files}
    difference = np.abs(outputs - expected["outputs"])
    if difference[0].max() > float(row["tol_first"]):
        wrong.append(f"first batch {difference[0].max():.1e} > {row['tol_first']}")
    if np.quantile(difference, 0.99) > float(row["tol_p99"]):
        wrong.append(f"99th percentile {np.quantile(difference, 0.99):.1e} > {row['tol_p99']}")
    if difference.max() > float(row["tol_max"]):
        wrong.append(f"maximum {difference.max():.1e} > {row['tol_max']}")
    if row["rtol_param"]:
        norms = dict(zip(expected["param_names"].tolist(), expected["param_change_norms"].tolist(), strict=True))
        state = {k: v - adapter._start[k] for k, v in adapter._owned.items()}
        for name, size in norms.items():
            if size >= 1e-3 * max(norms.values()):
                relative = abs(state[name].norm().item() / size - 1)
                if relative > float(row["rtol_param"]):
                    wrong.append(f"change of {name} differs by {relative:.1e} > {row['rtol_param']}")
        if {k for k in norms if not k.endswith(("running_mean", "running_var"))} != set(adapter.tuned):
            wrong.append(f"tuned parameters differ: {set(norms) ^ set(adapter.tuned)}")
    if "info/n_selected" in expected and not np.array_equal(expected["info/n_selected"], adapter.trace.step("n_kept")):
        wrong.append(f"selected {adapter.trace.step('n_kept')} instead of {expected['info/n_selected']}")
    return wrong


@pytest.mark.parametrize("run", sorted(INDEX))
def test_matches_the_reference(run):
    outputs, adapter = play(run)
    assert deviations(run, outputs, adapter) == []
    y = stream(INDEX[run]["stream"])[1].numpy()
    error = (outputs.argmax(2) != y)[y >= 0].mean()
    assert error == pytest.approx(float(INDEX[run]["mean_error"]), abs=6e-5)


def test_every_stored_run_is_compared():
    assert {p.stem for p in (GOLDEN / "expected").glob("*.npz")} == set(INDEX)
    assert {row["method"] for row in INDEX.values()} == set(RECIPES)


def test_collapse_run_collapses():
    outputs, _ = play("tent-dw-collapse__tinybn__s2")
    assert set(np.unique(outputs[3:].argmax(2))) <= {8, 9}


class _Wrong(ConfidenceRise):
    """The class taken from the adapted model instead of the source: a plausible mistake."""

    def weights(self, view, losses, keep, state):
        classes = view.logits.detach().argmax(1, keepdim=True)
        now, then = (z.softmax(1).gather(1, classes)[:, 0] for z in (view.logits.detach(), view.source_logits("batch")))
        return (now >= then).to(losses.dtype)


@pytest.mark.parametrize(("run", "mutant"), [
    ("tent-dw__tinybn__s1", make("tent", lr=4.9e-3)),
    ("tent-dw__tinybn__s1", make("tent", lr=5e-3, answer="after")),
    ("tent-dw-sgd__tinybn__s1", make("tent", update=Step(rule="sgd", lr=0.05, momentum=0.89))),
    ("tent-om-nesterov__tinybn__s1", make("tent", update=Step(rule="sgd", lr=0.02))),
    ("tent-om-window16__tinybn__s4", make("tent", lr=5e-3, cadence=SlidingWindow(15))),
    ("bnalpha0.1-om__tinybn__s1", make("bn_alpha", alpha=0.11)),
    ("bnema-om__tinybn__s1", make("bn_ema", absorb="one_pass")),
    ("norm-dw__tinybn__s1", make("batch_norm")),
    ("ostta-unient-repo__tinybn__s2", make("wisdom_of_crowds", penalties=(), lr=5e-3, average="all")),
    ("ostta-unient-repo__tinybn__s2", make("wisdom_of_crowds", penalties=(), lr=5e-3, select=(_Wrong(),))),
    ("ostta-unient-repo__tinybn__s2", make("wisdom_of_crowds", penalties=(), lr=5e-3, select=(ConfidenceRise(statistics="running"),))),
    ("ostta-unient-repo-diversity__tinybn__s1", make("wisdom_of_crowds", lr=5e-3, weight=0.45)),
    ("tent-unient-repo-diversity__tinybn__s1", make("tent", lr=5e-3)),
], ids=lambda v: v if isinstance(v, str) else "")
def test_the_comparison_can_fail(run, mutant):
    outputs, adapter = play(run, mutant)
    assert deviations(run, outputs, adapter) != []


def test_norm_baseline_leaves_the_reference_running_statistics():
    with np.load(GOLDEN / "expected" / "norm-dw__tinybn__s1.npz") as f:
        expected = {k[6:]: f[k] for k in f.files if k.startswith("final/")}
    _, adapter = play("norm-dw__tinybn__s1")
    assert len(expected) == 8
    for name, value in expected.items():
        torch.testing.assert_close(adapter._owned[name], torch.from_numpy(value), rtol=1e-4, atol=1e-5)
