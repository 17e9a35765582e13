"""A trace in chunks on disk is the trace in memory: the same bits, the same diagnostics, bounded
memory, readable after a crash."""
import inspect
import os
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from tiny import stream, tiny

from tta_lab.analysis import diagnose
from tta_lab.core.adapter import Adapter
from tta_lab.core.trace import Trace
from tta_lab.core.trace_chunks import TABLES, Chunks
from tta_lab.experiments.runner import row, run
from tta_lab.methods import make
from tta_lab.models.embedded import load_model
from tta_lab.streams import protocols

pytest.importorskip("pyarrow")


def feed(trace, steps, batch=10, start=0, label=True):
    """Rows that a run could have made; every third step has a column that the others lack, and
    some steps are annotated."""
    for i in range(start, start + steps):
        rng = np.random.default_rng(i)
        samples = {
            "step": torch.full((batch,), i), "id": torch.arange(batch) + batch * i,
            "prediction": torch.from_numpy(rng.integers(0, 5, batch)),
            "entropy": torch.from_numpy(rng.random(batch, np.float32)),
            "kept": torch.from_numpy(rng.random(batch) < 0.5)
        }
        if i % 3 == 2:
            samples["rise_source"] = torch.from_numpy(rng.normal(size=batch))
        trace.add(samples,
                  {"step": i, "n": batch, "loss": torch.tensor(rng.random()), "reset": i == 0})
        if label:
            trace.annotate(label=rng.integers(0, 5, batch), known=rng.random(batch) < 0.9,
                           domain=i % 2, round=0)
    return trace


def assert_same(one, other):
    for table in TABLES:
        a, b = one.columns(table), other.columns(table)
        assert list(a) == list(b) and len(a) > 3
        for name in a:
            assert a[name].dtype == b[name].dtype and a[name].tobytes() == b[name].tobytes(), (
                table, name)


@pytest.mark.parametrize("every", [25, 1000])
def test_columns_are_those_in_memory_bit_for_bit(tmp_path, every):
    plain = feed(Trace({"seed": 3}), 20)
    spilled = feed(Trace({"seed": 3}).spill(tmp_path / "t", every), 20)
    assert len(list((tmp_path / "t" / "samples").glob("*"))) == {25: 6, 1000: 0}[every]
    assert_same(plain, spilled)                                # from disk and memory together
    assert len(spilled) == 200 and "correct" in spilled and repr(spilled) == repr(plain)
    feed(plain, 5, start=20), feed(spilled, 5, start=20)       # what was read before is not stale
    assert_same(plain, spilled)
    spilled.flush()
    loaded = Trace.load(tmp_path / "t")
    assert_same(plain, loaded)
    assert loaded.meta == plain.meta and not list((tmp_path / "t").rglob("*.part"))
    assert_same(plain, Trace.load(loaded.save(tmp_path / "t.npz")))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same run on embedded images with known and unknown classes, in memory and from disk."""
    folder = tmp_path_factory.mktemp("run") / "trace"
    model = load_model("fashion_resnet_bn")
    course = protocols.open_set(shifts=("gaussian_noise", "fog"), per_shift=60, rounds=2, batch=40)
    plain = run(Adapter(model, make("wisdom_of_crowds"), device="cpu", record="source"), course)
    adapter = Adapter(model, make("wisdom_of_crowds"), device="cpu", record="source")
    adapter.trace.spill(folder, every=100)
    run(adapter, course, trace_to=folder)
    assert len(list((folder / "steps").glob("*.parquet"))) > 2
    return plain, Trace.load(folder)


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (np.ndarray, float, np.floating)):
        return np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f")
    return a == b


PUBLIC = [
    f for name, f in inspect.getmembers(diagnose, inspect.isfunction)
    if not name.startswith("_") and f.__module__ == diagnose.__name__
]


@pytest.mark.parametrize("function", PUBLIC, ids=lambda f: f.__name__)
def test_every_diagnosis_is_the_same_from_disk(both, function):
    first = next(iter(inspect.signature(function).parameters))
    assert first in ("trace", "traces")
    plain, loaded = [function(t if first == "trace" else {"one": t}) for t in both]
    assert same(plain, loaded)


def test_the_row_of_a_run_is_the_same_from_disk(both):
    timed = {"ms_per_image", "peak_memory_bytes"}
    plain, loaded = ({k: v for k, v in row(t).items() if k not in timed} for t in both)
    assert same(plain, loaded) and loaded["complete"] and not same(
        plain, {**loaded, "error": loaded["error"] + 1e-9})


def test_only_columns_that_are_used_are_read(tmp_path, monkeypatch):
    feed(Trace().spill(tmp_path / "t", 50), 20).flush()
    asked, read = [], Chunks.column
    monkeypatch.setattr(
        Chunks, "column", lambda self, table, name: asked.append(
            (table, name)) or read(self, table, name))
    loaded = Trace.load(tmp_path / "t")
    assert len(loaded) == 200 and "loss" not in loaded and asked == []
    assert loaded["entropy"] is loaded["entropy"] and asked == [("samples", "entropy")]


def test_memory_does_not_grow_with_the_stream(tmp_path):
    """Peak memory of ten times the stream is that of the stream; without the folder it is several
    times as much."""
    def peak(steps, folder):
        trace = Trace() if folder is None else Trace().spill(folder, 2000)
        tracemalloc.start()
        feed(trace, steps, batch=100, label=False)
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(trace) == 100 * steps
        return result
    peak(60, tmp_path / "warm")
    short = peak(60, tmp_path / "short")
    long = peak(600, tmp_path / "long")
    plain = peak(600, None)
    assert long < 1.3 * short and plain > 3 * long


def test_an_interrupted_write_leaves_what_was_written(tmp_path, monkeypatch):
    folder, plain = tmp_path / "t", feed(Trace(), 10)
    trace = feed(Trace().spill(folder, 50), 10)
    assert len(Trace.load(folder)) == 50
    replace = os.replace

    def killed(source, target):
        if "steps" in str(target):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        trace.flush()                                           # between the two files of a chunk
    monkeypatch.undo()
    assert len(list((folder / "samples").glob("*.parquet"))) == 2 and len(Trace.load(folder)) == 50
    assert_same(feed(Trace(), 5), Trace.load(folder))
    assert_same(plain, trace)                                   # and nothing in memory was lost
    trace.flush()
    assert_same(plain, Trace.load(folder))


def test_a_run_that_breaks_off_is_on_disk(tmp_path):
    seen = []

    def each(trace):
        seen.append(len(trace))
        if len(seen) == 3:
            raise KeyboardInterrupt

    adapter = Adapter(load_model("fashion_resnet_bn"), make("tent"), device="cpu")
    with pytest.raises(KeyboardInterrupt):
        run(adapter, protocols.continual(shifts=("fog",), per_shift=100, batch=20), each=each,
            trace_to=tmp_path / "t")
    loaded = Trace.load(tmp_path / "t")
    assert len(
        loaded) == 60 and loaded.meta["complete"] is False and loaded["label"].dtype == np.int64


def test_a_state_in_mid_stream_refers_to_the_chunks_and_goes_on(tmp_path):
    batches = [x[:16] for x in stream("s1")[0]]

    def adapter():
        return Adapter(tiny("tinybn"), make("tent", lr=5e-3), device="cpu")

    plain, spilling = adapter(), adapter()
    spilling.trace.spill(tmp_path / "a", 32)
    for i, x in enumerate(batches):
        plain(x), spilling(x)
        if i == 6:
            torch.save(spilling.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert len(state["trace"]["samples"]["id"]) == 16 and state["trace"]["chunks"]["count"] == 3
    again = adapter()
    again.load_state_dict(state)
    assert len(again.trace) == 7 * 16
    with pytest.raises(ValueError, match="choose another folder"):
        again.trace.spill(tmp_path / "a")                       # the first run went on there
    again.trace.spill(tmp_path / "b", 32)
    for x in batches[7:]:
        again(x)
    again.trace.flush(), spilling.trace.flush()
    for trace in (again.trace, Trace.load(tmp_path / "b"), Trace.load(tmp_path / "a")):
        assert len(trace) == 12 * 16 and all(
            np.array_equal(trace[c], plain.trace[c])
            for c in ("id", "entropy", "prediction", "loss"))
    (tmp_path / "a" / "steps" / "00000000.parquet").unlink()
    assert len(Trace.load(tmp_path / "b")) == 12 * 16           # complete without the first folder
    with pytest.raises(ValueError, match="put the folder back"):
        adapter().load_state_dict(state)


def test_what_is_asked_wrongly_is_said(tmp_path, monkeypatch):
    feed(Trace().spill(tmp_path / "t", 50), 5).flush()
    with pytest.raises(ValueError, match="holds a trace already"):
        Trace().spill(tmp_path / "t")
    with pytest.raises(ValueError, match="at least 1"):
        Trace().spill(tmp_path / "u", 0)
    with pytest.raises(ValueError, match="no meta.json"):
        Trace.load(tmp_path)
    Trace().flush()                                             # without a folder nothing happens
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match="notebooks"):
        Trace().spill(tmp_path / "v")


def test_names_and_empty_traces_survive(tmp_path):
    trace = Trace.from_columns({"id": np.array(["a", "bcd"]),
                                "entropy": np.array([0.5, np.nan])}).spill(tmp_path / "t", 1)
    trace.flush()
    loaded = Trace.load(tmp_path / "t")
    assert loaded["id"].tolist() == ["a", "bcd"] and loaded["id"].dtype.kind == "U" and np.isnan(
        loaded["entropy"][1]) and len(loaded) == 2
    Trace({"seed": 1}).spill(tmp_path / "e").flush()
    empty = Trace.load(tmp_path / "e")
    assert len(empty) == 0 and empty.meta == {"seed": 1} and not list(
        (tmp_path / "e").rglob("*.parquet"))
