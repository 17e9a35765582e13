"""run, compare and the crowd study: scoring, reset rules, resuming, shared source outputs,
controls that follow a trace."""
import numpy as np
import pytest
import torch

from tta_lab.analysis import diagnose, metrics
from tta_lab.components.selectors import ConfidenceRise, RandomKeep
from tta_lab.core.adapter import Adapter
from tta_lab.experiments.runner import (
    code_digest,
    compare,
    forgetting,
    proper_scores,
    row,
    run,
    runs,
    spread,
)
from tta_lab.methods import make
from tta_lab.models.embedded import load_model
from tta_lab.streams.cached import CachedStream
from tta_lab.streams.stream import Stream
from tta_lab.studies.crowds import study as crowds

SMALL = Stream(shifts=("contrast", "brightness"), per_shift=40, batch=20, rounds=2,
               unknown="digits", unknown_ratio=0.5)


@pytest.fixture(scope="module")
def model():
    return load_model("fashion_resnet_bn")


def test_run_scores_what_the_adapter_said(model):
    trace = run(Adapter(model, make("source"), device="cpu"), SMALL)
    with torch.no_grad():
        predictions = torch.cat([model(b.x).argmax(1) for b in SMALL])
    labels = torch.cat([b.label for b in SMALL])
    assert (trace["prediction"] == predictions.numpy()).all() and (trace["label"]
                                                                   == labels.numpy()).all()
    assert trace["known"].sum() == 160 and len(trace) == 240
    assert (trace["correct"] == ((predictions == labels) & (labels < 10)).numpy()).all()
    assert trace.meta["domains"] == ["contrast", "brightness"] and trace.meta["classes"] == 10
    assert trace.step("domain").tolist() == [0, 0, 1, 1] * 2 and trace.step(
        "round").tolist() == [0] * 4 + [1] * 4


def test_reset_rules(model):
    once = run(Adapter(model, make("tent", lr=1e-2), device="cpu"), SMALL)
    assert once.step("reset").tolist() == [True] + [False] * 7
    domain = run(Adapter(model, make("tent", lr=1e-2), device="cpu"), SMALL, reset="domain")
    assert domain.step("reset").tolist() == [True, False] * 4 and (
        domain.step("distance")[::2] < domain.step("distance")[1::2]).all()
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
    recipes = {
        "tent": make("tent", lr=1e-2), "filter": make("tent", lr=1e-2).where(ConfidenceRise()),
        "random": lambda done: make("tent", lr=1e-2).where(RandomKeep.like(done["filter"]))
    }
    done = dict(
        runs(recipes, {"open": lambda seed: Stream(**{**_fields(SMALL), "seed": seed})}, model,
             seeds=(0, 1), cache=tmp_path, device="cpu"))
    assert set(done) == {("open", name, seed) for name in recipes
                         for seed in (0, 1)} and len(list(tmp_path.glob("*.npz"))) == 6
    alone = run(Adapter(model, recipes["filter"], seed=1, device="cpu", record="source"),
                Stream(**{**_fields(SMALL), "seed": 1}))
    for column in ("entropy", "rise_source", "kept"):
        assert np.array_equal(done["open", "filter", 1][column], alone[column])
    assert np.array_equal(done["open", "filter", 1].step("forwards"),
                          alone.step("forwards")), "a shared output still costs the method"
    assert np.array_equal(done["open", "random", 0].step("n_kept"), done["open", "filter",
                                                                         0].step("n_kept"))


def test_compare_goes_on_where_it_stopped(model, tmp_path):
    recipes = {"source": make("source"), "bn": make("batch_norm")}
    streams = {"open": lambda seed: SMALL}
    first = dict(runs(recipes, streams, model, cache=tmp_path, device="cpu"))
    next(tmp_path.glob("*.npz")).unlink()
    times = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*.npz")}
    again = dict(runs(recipes, streams, model, cache=tmp_path, device="cpu"))
    assert len(list(tmp_path.glob("*.npz"))) == 2 and all(p.stat().st_mtime_ns == t
                                                          for p, t in times.items())
    assert all(np.array_equal(first[k]["prediction"], again[k]["prediction"]) for k in first)
    changed = dict(
        runs({"source": make("source"), "bn": make("bn_alpha")}, streams, model, cache=tmp_path,
             device="cpu"))
    assert len(list(tmp_path.glob("*.npz"))) == 3 and not np.array_equal(
        changed["open", "bn", 0]["entropy"], first["open", "bn", 0]["entropy"])


def test_compare_is_a_table_of_runs(model, tmp_path):
    stream = Stream(shifts=("contrast", "brightness"), per_shift=60, batch=30, unknown="digits",
                    unknown_ratio=0.5)
    clean = Stream(shifts=("none",), per_shift=100, batch=50, seed=9)
    traces = {}
    table = compare(["source", "batch_norm", make("tent", lr=1e-2)], stream, model, (0, 1),
                    cache=tmp_path, device="cpu", clean=clean, each=traces.__setitem__)
    assert list(table.recipe) == ["source", "batch_norm", "Tent"] * 2 and list(
        table.seed) == [0] * 3 + [1] * 3 and table.complete.all()
    assert table.stream_hash.nunique() == 2 and table.weights.nunique() == 1 and (
        table.images == 180).all() and (table.scored == 120).all()
    for (_, name, seed), trace in traces.items():
        row = table[(table.recipe == name) & (table.seed == seed)].iloc[0]
        known = trace["known"].astype(bool)
        by_hand = [
            100 * (1 - trace["correct"][known & (trace["domain"] == d)].mean()) for d in (0, 1)
        ]
        assert row["error"] == pytest.approx(
            np.mean(by_hand)) and row["error:contrast"] == pytest.approx(by_hand[0])
        assert row["error_weighted"] == pytest.approx(100 * (1 - trace["correct"][known].mean()))
        assert row["auroc"] == pytest.approx(metrics.auroc(trace["energy"],
                                                           known)) and 0 < row["h_auc"] < 1
    source = table[table.recipe == "source"]
    assert (table[table.recipe == "batch_norm"].agreement == 100
            ).all(), "the recorded source has batch statistics"
    assert (source.forgotten == 0).all() and (source.forwards == 1).all() and (source.backwards
                                                                               == 0).all()
    tent = table[table.recipe == "Tent"]
    assert (tent.backwards == 1).all() and (tent.answer == "before").all() and (
        tent.forgotten != 0).all() and (tent.trainable_parameters > 0).all()
    mean = spread(table, ["error", "auroc"])
    assert mean.loc[2, "error"] == pytest.approx(
        tent.error.mean()) and mean.loc[2, "error_sd"] == pytest.approx(tent.error.std(ddof=1))
    again = compare(["source", "batch_norm", make("tent", lr=1e-2)], stream, model, (0, 1),
                    cache=tmp_path, device="cpu", clean=clean)
    assert again.equals(table), "read back from the cache, the table is the same"


def test_proper_scores_follow_the_metrics(model):
    trace = run(Adapter(model, make("source"), device="cpu"), SMALL)
    with torch.no_grad():
        logits = torch.cat([model(b.x) for b in SMALL]).numpy()
    known = trace["known"].astype(bool)
    assert np.mean(trace["nll"][known]) == pytest.approx(
        metrics.nll(logits[known], trace["label"][known]), rel=1e-5)
    assert np.mean(trace["brier"][known]) == pytest.approx(
        metrics.brier(logits[known], trace["label"][known]), rel=1e-5)
    assert np.isnan(trace["nll"][~known]).all()
    broken = proper_scores(torch.tensor([[float("nan"), 0.0], [0.0, 0.0]]), torch.tensor([0, 1]),
                           torch.tensor([True, True]))
    assert broken["nll"].tolist() == [float("inf"), pytest.approx(np.log(2))
                                      ] and broken["brier"].tolist() == [2.0, 0.5]


def test_forgetting_leaves_the_adapter_as_it_was(model):
    clean = Stream(shifts=("none",), per_shift=60, batch=30)
    a, b = (Adapter(model, make("tent", lr=5e-2), device="cpu") for _ in range(2))
    run(a, SMALL), run(b, SMALL)
    found = forgetting(a, clean)
    for x in (next(iter(SMALL)).x,):
        assert torch.equal(a(x), b(x)), "as if nothing had been asked"
    with torch.no_grad():
        source = (100 * (1 - np.mean(
            [float((model(batch.x).argmax(1) == batch.label).float().mean()) for batch in clean])))
    assert found["source_error"] == pytest.approx(source) and found["n"] == 60 and found[
        "forgotten"] == found["error"] - found["source_error"]


def test_an_interrupt_keeps_what_is_finished(model, tmp_path, monkeypatch):
    from tta_lab.experiments import runner
    real, seen = runner.run, []

    def interrupted(adapter, stream, **settings):
        seen.append(type(adapter.recipe).__name__)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(adapter, stream, **settings)

    monkeypatch.setattr(runner, "run", interrupted)
    with pytest.warns(UserWarning, match="1 of 3 runs are finished.*goes on from"):
        table = compare(["source", "batch_norm", "tent"], SMALL, model, cache=tmp_path,
                        device="cpu")
    assert list(table.recipe) == ["source"]
    table = compare(["source", "batch_norm", "tent"], SMALL, model, cache=tmp_path, device="cpu")
    assert list(table.recipe) == ["source", "batch_norm", "tent"
                                  ] and seen == ["Source", "BatchNorm", "BatchNorm", "Tent"]


def test_a_stream_without_labels(model):
    from dataclasses import replace

    from tta_lab.data.load import load
    from tta_lab.streams.protocols import recorded
    frames = load("fashion_mnist").take(slice(0, 80))
    frames = replace(frames, y=torch.full((80,), -1))
    table = compare(["source", "tent"], recorded(frames, batch=20), model, device="cpu")
    assert table.error.isna().all() and table.ece.isna().all() and (
        table.scored == 0).all() and table.agreement.notna().all()
    with pytest.raises(ValueError, match="no labelled image"):
        forgetting(Adapter(model, make("tent"), device="cpu"), recorded(frames, batch=20))


def test_what_a_recipe_needs_of_the_source_is_made_from_its_images(model):
    eata = make("eata")
    with pytest.raises(ValueError, match="given"):
        compare({"eata": eata}, SMALL, model, device="cpu")
    table = compare({"eata": eata, "source": make("source")}, SMALL, model, device="cpu",
                    source_images="fashion_mnist_train_slice[0,1,2]")
    assert len(table) == 2 and table.error.notna().all()


def test_a_cached_run_belongs_to_the_code_that_made_it(tmp_path):
    """A comment, a docstring or a plot changes nothing; a number in the code does."""
    digests = []
    for i, (inside, plots) in enumerate([("x = 1", "y = 1"), ('"""What."""\nx = 1  # why', "y = 1"),
                                         ("x = 1", "y = 2"), ("x = 2", "y = 1")]):
        for package in ("core", "experiments", "plots"):
            (tmp_path / str(i) / package).mkdir(parents=True)
        (tmp_path / str(i) / "experiments" / "runner.py").write_text("from ..core.adapter import x")
        (tmp_path / str(i) / "core" / "adapter.py").write_text(inside)
        (tmp_path / str(i) / "plots" / "shown.py").write_text(plots)
        digests.append(code_digest(tmp_path / str(i)))
    assert digests[0] == digests[1] == digests[2] != digests[3] and len(digests[0]) == 12


def test_log_probabilities_are_scored_by_confidence(model):
    """ln sum exp of log-probabilities is 0: it tells nothing apart, the largest probability
    does."""
    stream = Stream(shifts=("none",), per_shift=100, batch=50, unknown="digits")
    trace = run(Adapter(model, make("lame"), device="cpu"), stream)
    known = trace["known"].astype(bool)
    assert abs(trace["energy"]).max() < 1e-5
    assert row(trace)["auroc"] == metrics.auroc(
        trace["confidence"],
        known) < 0.3, "digits agree among themselves, which makes LAME sure of them"


def test_streams_are_seeded_anew(model):
    table = compare("source", Stream(per_shift=20, batch=20, seed=5), model, (0, 1), device="cpu")
    assert table.stream_hash.tolist() == [
        Stream(per_shift=20, batch=20, seed=s).hash for s in (5, 6)
    ]
    with pytest.raises(ValueError, match="give a function of the seed"):
        compare("source", Stream(per_shift=20).cut(0, 2), model, (0, 1), device="cpu")


def _fields(stream):
    from dataclasses import fields
    return {f.name: getattr(stream, f.name) for f in fields(stream)}


def test_study_numbers_come_from_its_traces():
    plan = crowds.Plan(rounds=2, per_shift=20, batch=20, seeds=2, lr=1e-2)
    result = crowds.study(plan, device="cpu")
    assert set(result.runs) == {(s, a, k) for s in ("closed", "open") for a in crowds.LABELS
                                for k in (0, 1)}
    trace = result.traces["open", "wisdom_of_crowds"]
    known = trace["known"].astype(bool)
    last = known & (trace["round"] == 1)
    assert result.runs["open", "wisdom_of_crowds",
                       0]["last"] == pytest.approx(100 * (1 - trace["correct"][last].mean()))
    assert result.runs["open", "wisdom_of_crowds", 0]["kept"] == pytest.approx(trace["kept"].mean())
    for setting in ("closed", "open"):
        np.testing.assert_array_equal(result.values(setting, "random", "kept"),
                                      result.values(setting, "filter", "kept"))
    contrast = result.contrast("open", "tent", "batch_norm")
    assert contrast["difference"] == pytest.approx(
        (result.values("open", "tent") - result.values("open", "batch_norm")).mean())
    assert diagnose.error_per_round(trace)["error"][-1] == result.runs["open", "wisdom_of_crowds",
                                                                       0]["last"]
    text = crowds.table(result)
    assert all(label in text for label in crowds.LABELS.values()) and "2 seeds" in text


def test_sentences_follow_the_number():
    assert crowds.sentence({"difference": -1.25, "low": -2.0, "high": -0.5, "n": 3}, "It") == \
        "It lowers the error in the last round by 1.2 points (95 % interval -2.0 to -0.5, 3 seeds)."
    assert "raises" in crowds.sentence({"difference": 1.0, "low": -1.0, "high": 3.0, "n": 3}, "It")
    assert "not settled" in crowds.sentence({"difference": 1.0, "low": -1.0, "high": 3.0, "n": 3},
                                            "It")
    assert "no interval" in crowds.sentence(
        {"difference": 1.0, "low": np.nan, "high": np.nan, "n": 1}, "It")


@pytest.mark.parametrize(("settings", "message"), [({"rounds": 1}, "at least 2 rounds"),
                                                   ({"unknown": "cats"}, "digits, held_out"),
                                                   ({"unknown_ratio": -1.0}, "above 0")])
def test_plans_refuse_nonsense(settings, message):
    with pytest.raises(ValueError, match=message):
        crowds.Plan(**settings)
    with pytest.raises(ValueError, match="no setting 'round'"):
        crowds.Plan.of(True, round=3)


def test_a_cached_stream_is_taken_wherever_a_stream_is(model):
    cached = CachedStream(SMALL)
    for made, plain in ((cached, SMALL), (cached.cut(1, 3), SMALL.cut(1, 3)),
                        ({"a": cached}, {"a": SMALL})):
        mine, its = (compare(["source", "tent"], s, model, device="cpu") for s in (made, plain))
        for column in ("error", "stream_hash", "images"):
            assert mine[column].tolist() == its[column].tolist()
    with pytest.raises(ValueError, match="joined, cut or cached"):
        compare("source", cached, model, (0, 1), device="cpu")
