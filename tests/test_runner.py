"""run, compare and the crowd study: scoring, reset rules, resuming, shared source outputs, controls that follow a trace."""
import numpy as np
import pytest
import torch

from tta_lab import crowds, diagnose
from tta_lab.adapter import Adapter
from tta_lab.methods import make
from tta_lab.models import load_model
from tta_lab.runner import compare, run
from tta_lab.selectors import ConfidenceRise, RandomKeep
from tta_lab.streams import Stream

SMALL = Stream(shifts=("contrast", "brightness"), per_shift=40, batch=20, rounds=2, unknown="digits", unknown_ratio=0.5)


@pytest.fixture(scope="module")
def model():
    return load_model("fashion_resnet_bn")


def test_run_scores_what_the_adapter_said(model):
    trace = run(Adapter(model, make("source"), device="cpu"), SMALL)
    with torch.no_grad():
        predictions = torch.cat([model(b.x).argmax(1) for b in SMALL])
    labels = torch.cat([b.label for b in SMALL])
    assert (trace["prediction"] == predictions.numpy()).all() and (trace["label"] == labels.numpy()).all()
    assert trace["known"].sum() == 160 and len(trace) == 240
    assert (trace["correct"] == ((predictions == labels) & (labels < 10)).numpy()).all()
    assert trace.meta["domains"] == ["contrast", "brightness"] and trace.meta["classes"] == 10
    assert trace.step("domain").tolist() == [0, 0, 1, 1] * 2 and trace.step("round").tolist() == [0] * 4 + [1] * 4


def test_reset_rules(model):
    once = run(Adapter(model, make("tent", lr=1e-2), device="cpu"), SMALL)
    assert once.step("reset").tolist() == [True] + [False] * 7
    domain = run(Adapter(model, make("tent", lr=1e-2), device="cpu"), SMALL, reset="domain")
    assert domain.step("reset").tolist() == [True, False] * 4 and (domain.step("distance")[::2] < domain.step("distance")[1::2]).all()
    batch = run(Adapter(model, make("tent", lr=1e-2), device="cpu"), SMALL, reset="batch")
    bn = run(Adapter(model, make("batch_norm"), device="cpu"), SMALL)
    assert batch.step("reset").all() and np.array_equal(batch["prediction"], bn["prediction"])
    with pytest.raises(ValueError, match="reset must be"):
        run(Adapter(model, make("tent"), device="cpu"), SMALL, reset="episodic")
    with pytest.raises(ValueError, match="record='light'"):
        run(Adapter(model, make("tent"), device="cpu", record="off"), SMALL)


def test_stop_ends_within_a_batch_and_keeps_what_was_seen(model):
    calls = iter([False, False, True])
    trace = run(Adapter(model, make("source"), device="cpu"), SMALL, stop=lambda: next(calls))
    assert len(trace.step("step")) == 2 and "correct" in trace


def test_compare_shares_the_source_without_changing_a_number(model, tmp_path):
    recipes = {"tent": make("tent", lr=1e-2), "filter": make("tent", lr=1e-2).where(ConfidenceRise()),
               "random": lambda done: make("tent", lr=1e-2).where(RandomKeep.like(done["filter"]))}
    done = compare(recipes, {"open": lambda seed: Stream(**{**_fields(SMALL), "seed": seed})}, model, seeds=(0, 1), cache=tmp_path, device="cpu")
    assert set(done) == {("open", name, seed) for name in recipes for seed in (0, 1)} and len(list(tmp_path.glob("*.npz"))) == 6
    alone = run(Adapter(model, recipes["filter"], seed=1, device="cpu", record="source"), Stream(**{**_fields(SMALL), "seed": 1}))
    for column in ("entropy", "rise_source", "kept"):
        assert np.array_equal(done["open", "filter", 1][column], alone[column])
    assert np.array_equal(done["open", "filter", 1].step("forwards"), alone.step("forwards")), "a shared output still costs the method"
    assert np.array_equal(done["open", "random", 0].step("n_kept"), done["open", "filter", 0].step("n_kept"))


def test_compare_goes_on_where_it_stopped(model, tmp_path):
    recipes, streams = {"source": make("source"), "bn": make("batch_norm")}, {"open": lambda seed: SMALL}
    first = compare(recipes, streams, model, cache=tmp_path, device="cpu")
    next(tmp_path.glob("*.npz")).unlink()
    times = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*.npz")}
    again = compare(recipes, streams, model, cache=tmp_path, device="cpu")
    assert len(list(tmp_path.glob("*.npz"))) == 2 and all(p.stat().st_mtime_ns == t for p, t in times.items())
    assert all(np.array_equal(first[k]["prediction"], again[k]["prediction"]) for k in first)
    changed = compare({"source": make("source"), "bn": make("bn_alpha")}, streams, model, cache=tmp_path, device="cpu")
    assert len(list(tmp_path.glob("*.npz"))) == 3 and not np.array_equal(changed["open", "bn", 0]["entropy"], first["open", "bn", 0]["entropy"])


def _fields(stream):
    from dataclasses import fields
    return {f.name: getattr(stream, f.name) for f in fields(stream)}


def test_study_numbers_come_from_its_traces():
    plan = crowds.Plan(rounds=2, per_shift=20, batch=20, seeds=2, lr=1e-2)
    result = crowds.study(plan, device="cpu")
    assert set(result.runs) == {(s, a, k) for s in ("closed", "open") for a in crowds.LABELS for k in (0, 1)}
    trace = result.traces["open", "wisdom_of_crowds"]
    known = trace["known"].astype(bool)
    last = known & (trace["round"] == 1)
    assert result.runs["open", "wisdom_of_crowds", 0]["last"] == pytest.approx(100 * (1 - trace["correct"][last].mean()))
    assert result.runs["open", "wisdom_of_crowds", 0]["kept"] == pytest.approx(trace["kept"].mean())
    for setting in ("closed", "open"):
        np.testing.assert_array_equal(result.values(setting, "random", "kept"), result.values(setting, "filter", "kept"))
    contrast = result.contrast("open", "tent", "batch_norm")
    assert contrast["difference"] == pytest.approx((result.values("open", "tent") - result.values("open", "batch_norm")).mean())
    assert diagnose.error_per_round(trace)["error"][-1] == result.runs["open", "wisdom_of_crowds", 0]["last"]
    text = crowds.table(result)
    assert all(label in text for label in crowds.LABELS.values()) and "2 seeds" in text


def test_sentences_follow_the_number():
    assert crowds.sentence({"difference": -1.25, "low": -2.0, "high": -0.5, "n": 3}, "It") == \
        "It lowers the error in the last round by 1.2 points (95 % interval -2.0 to -0.5, 3 seeds)."
    assert "raises" in crowds.sentence({"difference": 1.0, "low": -1.0, "high": 3.0, "n": 3}, "It")
    assert "not settled" in crowds.sentence({"difference": 1.0, "low": -1.0, "high": 3.0, "n": 3}, "It")
    assert "no interval" in crowds.sentence({"difference": 1.0, "low": np.nan, "high": np.nan, "n": 1}, "It")


@pytest.mark.parametrize(("settings", "message"), [
    ({"rounds": 1}, "at least 2 rounds"), ({"unknown": "cats"}, "digits, held_out"), ({"unknown_ratio": -1.0}, "above 0")])
def test_plans_refuse_nonsense(settings, message):
    with pytest.raises(ValueError, match=message):
        crowds.Plan(**settings)
    with pytest.raises(ValueError, match="no setting 'round'"):
        crowds.Plan.of(True, round=3)
