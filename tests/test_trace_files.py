"""Traces on disk that are damaged, foreign or hold code: the file is named with the remedy,
nothing is run and nothing is lost."""
import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch

from tta_lab.core.trace import Trace

RAN = []


class Code:
    def __reduce__(self):
        return (RAN.append, ("it ran",))


def made(**more):
    return Trace.from_columns({"id": np.arange(6), "entropy": np.linspace(0, 1, 6), **more},
                              {"step": np.arange(2)}, {"seed": 3})


def parts_of(path):
    with zipfile.ZipFile(path) as f:
        return {name: f.read(name) for name in f.namelist()}


def zipped(path, parts):
    with zipfile.ZipFile(path, "w") as f:
        for name, content in parts.items():
            f.writestr(name, content)


def array(value, **settings):
    held = io.BytesIO()
    np.save(held, value, **settings)
    return held.getvalue()


def test_a_trace_that_holds_code_is_refused_in_words_of_our_own(tmp_path):
    path = made().save(tmp_path / "t.npz")
    good = parts_of(path)
    evil = array(np.array([Code()], dtype=object), allow_pickle=True)
    RAN.clear()
    for name in ("meta.npy", "samples/entropy.npy", "steps/step.npy"):
        zipped(path, {**good, name: evil})
        with pytest.raises(ValueError, match=r"t.npz holds Python objects \(a pickle\), which is "
                                             r"code.*it was not read") as why:
            Trace.load(path)
        told = str(why.value)
        assert "allow_pickle" not in told and why.value.__cause__ is None
        assert why.value.__context__ is None or why.value.__suppress_context__, "numpy's advice does not stand above it either"
    for content in (pickle.dumps(Code()), evil):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="holds Python objects") as why:
            Trace.load(path)
        assert "allow_pickle" not in str(why.value) and (why.value.__context__ is None
                                                         or why.value.__suppress_context__)
    assert RAN == []


@pytest.mark.parametrize(
    ("damage", "words"),
    [(lambda p: p.write_bytes(b""), "is damaged or not a trace"),
     (lambda p: p.write_bytes(p.read_bytes()[:-40]), "is damaged"),
     (lambda p: p.write_bytes(p.read_bytes()[:60]), "is damaged"),
     (lambda p: p.write_text("<!doctype html>"), "t.npz"),
     (lambda p: np.savez(p, a=np.arange(3)), r"is not a trace file \(it holds: a\)"),
     (lambda p: p.write_bytes(array(np.arange(3))), "not a trace file"),
     (lambda p: torch.save({"a": torch.zeros(2)}, p), "t.npz"),
     (lambda p: zipped(p, {**parts_of(p), "meta.npy": array(np.array("{"))}), "meta is no JSON"),
     (lambda p: zipped(p, {**parts_of(p), "meta.npy": array(np.array("[1]"))}), "meta is a list"),
     (lambda p: zipped(p, {**parts_of(p), "samples/entropy.npy": array(np.zeros(3))}), "differ in "
      "length"),
     (lambda p: zipped(p, {**parts_of(p), "samples/entropy.npy": array(np.zeros(
                               (6, 2)))}), "one value a row"),
     (lambda p: zipped(
         p, {**parts_of(p), "samples/entropy.npy": parts_of(p)["samples/entropy.npy"][:-8]}),
      "damaged")])
def test_damaged_files_are_named(tmp_path, damage, words):
    path = made().save(tmp_path / "t.npz")
    damage(path)
    with pytest.raises(ValueError, match=words) as why:
        Trace.load(path)
    assert "t.npz" in str(why.value) and path.exists()


def test_one_wrong_byte_is_noticed(tmp_path):
    path = made(noise=np.random.default_rng(0).random(6)).save(tmp_path / "t.npz")
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as f:
        info = f.getinfo("samples/noise.npy")
    content[info.header_offset + 30 + len(info.filename) + info.compress_size // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match="t.npz is damaged"):
        Trace.load(path)


def test_what_is_not_there_and_what_is_in_its_place(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no trace .*none.npz"):
        Trace.load(tmp_path / "none.npz")
    with pytest.raises(ValueError, match="is a folder; name a file"):
        made().save(tmp_path)
    (tmp_path / "f").write_text("")
    with pytest.raises(ValueError, match="f is a file; name a folder"):
        Trace().spill(tmp_path / "f")
    for call in (lambda: Trace.load(3), lambda: made().save(None),
                 lambda: Trace().spill(tmp_path / "s", 1.5), lambda: Trace.from_columns([1])):
        with pytest.raises(ValueError, match="must be"):
            call()
    assert len(Trace.load(str(made().save(tmp_path / "deep" / "er" / "t.npz")))) == 6


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = made().save(tmp_path / "t.npz")
    before = path.read_bytes()
    monkeypatch.setattr(np, "savez_compressed", lambda f, **arrays: f.write(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made().save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def spilled(folder, chunks=3):
    trace = Trace({"seed": 3}).spill(folder, 5)
    for i in range(chunks):
        trace.add({"id": np.arange(5) + 5 * i}, {"step": i})
        trace.flush()
    return trace


def test_damaged_chunks_are_named(tmp_path):
    folder = tmp_path / "t"
    spilled(folder)
    assert len(Trace.load(folder)) == 15
    chunk = folder / "samples" / "00000001.parquet"
    content = chunk.read_bytes()
    for damaged in (b"", content[:20], b"x" * len(content)):
        chunk.write_bytes(damaged)
        with pytest.raises(ValueError, match="00000001.parquet is damaged .*the chunks after it "
                                             "to read those before"):
            Trace.load(folder)
    chunk.unlink()
    with pytest.raises(ValueError, match="samples.00000001.parquet is missing, though later "
                                         "chunks of the trace are there"):
        Trace.load(folder)
    with pytest.raises(ValueError, match="holds a trace already"):
        Trace().spill(folder)
    chunk.write_bytes(content)
    (folder / "steps" / "00000002.parquet").unlink()             # as a killed run leaves it
    assert len(Trace.load(folder)) == 10


def test_damaged_meta_of_chunks_is_named(tmp_path):
    spilled(tmp_path / "t")
    meta = tmp_path / "t" / "meta.json"
    for text in ("", "{", "[]"):
        meta.write_text(text)
        with pytest.raises(ValueError, match="meta.json is damaged .*the chunks beside it are "
                                             "whole"):
            Trace.load(tmp_path / "t")
    meta.write_text(json.dumps({}))
    assert Trace.load(tmp_path / "t")["id"].tolist() == list(
        range(15)), "the remedy that was named works"


def test_the_head_of_a_trace_is_that_of_a_shorter_run():
    trace = Trace.from_columns(
        {"step": np.array([0, 0, 1, 1]), "id": np.arange(4), "prediction": np.array([1, 2, 0, 0]),
         "label": np.array([1, 1, 0, 2]), "known": np.ones(4, bool)},
        {"step": np.array([0, 1]), "n": np.array([2, 2])}, {"complete": True})
    head = trace.head(3)
    assert head["id"].tolist() == [0, 1, 2] and head["correct"].tolist() == [True, False, True]
    assert head.step("step").tolist() == [0, 1] and head.meta == {"complete": False}
    assert trace.head(2).step("step").tolist() == [0] and not trace.head(0).step("n").size
    assert trace.head(4) is trace and list(trace.columns("steps")) == ["step", "n"]


def test_what_a_trace_does_not_have_is_refused():
    trace = made()
    for n, said in ((-1, "of at least 0, not -1"), (1.5, "a whole number of at least 0, not 1.5")):
        with pytest.raises(ValueError, match=said):
            trace.head(n)
    with pytest.raises(ValueError, match="must be one of 'samples', 'steps', not 'nope'"):
        trace.columns("nope")
