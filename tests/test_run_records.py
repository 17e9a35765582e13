"""Two streams through one adapter, what run and compare refuse, what the name of a cached run
holds, and damaged files of it."""
import json
import shutil
from dataclasses import dataclass, replace

import numpy as np
import pandas
import pytest
import torch
from test_streams import toy
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tta_lab.analysis import diagnose
from tta_lab.core import run_keys
from tta_lab.core import trace as runner_trace
from tta_lab.core.adapter import Adapter
from tta_lab.core.parts import NeedsError
from tta_lab.experiments import runner
from tta_lab.experiments.runner import _key, compare, forgetting, row, run, runs, spread
from tta_lab.methods import make
from tta_lab.methods.tent import Tent
from tta_lab.streams.orders import Shuffled
from tta_lab.streams.stream import Stream

KNOWN = toy(60)


class Net(nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
                                      nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.scale * self.head(self.features(x))


def net(kind=Net, **settings):
    torch.manual_seed(0)
    return kind(**settings).eval()


def adapter(recipe="tent", **settings):
    return Adapter(net(), make(recipe, **settings), device="cpu")


def stream(*shifts, **settings):
    return Stream(KNOWN, shifts, **{"per_shift": 20, "batch": 10, **settings})


def same(a, b):
    return all(np.array_equal(a[name], b[name]) for name in ("id", "label", "domain", "segment", "entropy", "prediction")) \
        and np.array_equal(a.step("distance"), b.step("distance"))


def test_two_streams_in_one_trace_are_the_streams_joined():
    first = stream("fog", "none")
    second = stream("none", "snow", seed=1)
    a, b = adapter(), adapter()
    run(a, first)
    trace, joined = run(a, second), run(b, first + second)
    assert same(trace, joined)
    for name in ("domains", "segments", "stream"):
        assert trace.meta[name] == joined.meta[name]
    assert trace.meta["domains"] == ["fog", "none", "snow"] and trace.meta["segments"] == [
        "fog", "none", "none", "snow"
    ]
    assert trace.meta["complete"] and trace.meta["stream"]["hash"] == (
        first + second).hash == row(trace)["stream_hash"]
    assert diagnose.error_per_domain(trace)["error"].tolist() == diagnose.error_per_domain(
        joined)["error"].tolist()
    third = run(a, first)                                        # a stream may come again
    assert third.meta["stream"]["hash"] == (
        first + second + first).hash and third["segment"].tolist()[-20:] == [5] * 20
    assert len(diagnose.error_per_domain(third)["error"]) == 3


def test_a_stream_taken_up_where_it_stopped_is_that_stream():
    for rule in ("never", "domain", "batch"):
        whole = stream("fog", "none", "snow", reset=rule)
        plain = run(adapter(lr=1e-2), whole)
        for border in (1, 2, 3):                                 # within a domain and at its end
            a = adapter(lr=1e-2)
            asked = iter([False] * border + [True])
            part = run(a, whole, stop=lambda asked=asked: next(asked))
            assert part.meta["stream"][
                "hash"] == whole.hash and not part.meta["complete"] and part.meta["shown"] == border
            state = a.state_dict()
            b = adapter(lr=1e-2)
            b.load_state_dict(state)
            for goes_on in (a, b):
                trace = run(goes_on, whole.cut(border))
                assert same(
                    trace, plain
                ) and trace.meta["complete"] and trace.meta["segments"] == plain.meta["segments"]
                assert trace.meta["stream"] == plain.meta["stream"]
                assert np.array_equal(trace.step("reset"), plain.step("reset"))


def test_parts_that_were_shown_in_part_are_recorded_so():
    whole, other = stream("fog", "none", "snow"), stream("contrast")
    a, asked = adapter(), iter([False, False, False, True])
    run(a, whole, stop=lambda: next(asked))
    trace = run(a, other)
    assert trace.meta["stream"]["hash"] == (
        whole.cut(0, 3) + other).hash and trace["segment"].tolist()[-20:] == [3] * 20
    a = adapter()
    run(a, whole.cut(1, 3)), run(a, whole.cut(3, 4))
    assert a.trace.meta["stream"]["hash"] == whole.cut(1, 4).hash and a.trace.meta["complete"]
    assert run(a, other).meta["stream"]["hash"] == (whole.cut(1, 4) + other).hash
    named = Stream("digits", ("fog", "none"), per_shift=20, batch=10)
    a = Adapter(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), make("source"), device="cpu")
    run(a, named.cut(0, 3)), run(a, named)
    assert Stream.from_json(json.dumps(a.trace.meta["stream"])).hash == (named.cut(0, 3) +
                                                                           named).hash


def test_a_stream_that_breaks_off_before_its_first_row_leaves_nothing():
    a, calls = adapter(), []
    run(a, stream("fog"))

    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("no answer")

    real, a.model = a.model, Broken()
    with pytest.raises(RuntimeError, match="no answer"):
        run(a, stream("snow"))
    a.model = real
    assert a.trace.meta["domains"] == [
        "fog"
    ] and a.trace.meta["stream"]["hash"] == stream("fog").hash and len(a.trace) == 20
    run(a, stream("none"), stop=lambda: calls.append(1) or True)
    assert run(a, stream("contrast")).meta["domains"] == ["fog", "contrast"]


@pytest.mark.parametrize(
    ("other", "settings", "words"),
    [(Stream(toy(60, seed=3), ("snow",), per_shift=20, batch=10), {}, "another known set"),
     (stream("snow", reset="batch"), {}, "another reset rule"),
     (stream("snow"), {"reset": "domain"}, "another reset rule"),
     (Stream(KNOWN, ("snow",), per_shift=20, unknown=toy(60, seed=5)), {}, "another unknown set"),
     (Stream(toy(60, classes=3), ("snow",), per_shift=20), {}, "classes")])
def test_streams_that_cannot_be_joined_are_refused(other, settings, words):
    a = adapter()
    run(a, stream("fog", unknown=toy(60, seed=4)))
    with pytest.raises(ValueError, match=words):
        run(a, other, **settings)
    assert len(a.trace) == 40 and a.trace.meta["domains"] == ["fog"]
    if "classes" not in words:
        a.reset()
        assert len(run(a, other, **settings).meta["domains"]) == 1


def test_a_state_of_an_older_version_goes_on():
    whole = stream("fog", "none")
    plain, a = run(adapter(), whole), adapter()
    run(a, whole.cut(0, 1))
    for name in ("shown", "batches", "images", "parts"):
        a.trace.meta.pop(name, None)
    a.trace.meta["stream"] = whole.to_dict()
    trace = run(a, whole.cut(1))
    assert same(trace, plain) and trace.meta["stream"] == plain.meta["stream"]


# --- what is meant ------------------------------------------------------------------------------

def test_images_and_their_names_are_streams_too():
    trace = run(adapter(), KNOWN)
    assert trace["id"].tolist() == list(range(60)) and trace.meta["domains"] == ["none"]
    table = compare("source", KNOWN, net(), device="cpu")
    assert list(table.images) == [60]
    named = run(Adapter(_fashion(), make("source"), device="cpu"), "fashion_mnist_held_out[0,1]")
    assert len(named) == 2000 and named.meta["stream"]["known"] == "fashion_mnist_held_out[0,1]"


def _fashion():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 2))


DATA = TensorDataset(torch.rand(8, 1, 8, 8), torch.arange(8))


@pytest.mark.parametrize(
    ("what", "words"), [(DataLoader(DATA, 4), r"recorded\(wrap\(loader.dataset\)\)"),
                        (DATA, r"recorded\(wrap\(dataset\)\)"),
                        (torch.rand(8, 1, 8, 8), "a Tensor; wrap"), ([1, 2], "wrap"),
                        (np.zeros(3), "wrap"), (3, "must be a stream"), (None, "must be a stream"),
                        ("fashion_mnst", "no embedded image set"), (Stream, "must be a stream")])
def test_what_is_no_stream_is_refused(what, words):
    with pytest.raises(ValueError, match=words):
        run(adapter(), what)
    if what is not Stream:
        with pytest.raises(ValueError, match=words):
            compare("source", what, net(), device="cpu")


@pytest.mark.parametrize(("what", "words"), [("tent", "must be an Adapter"), (Net(), "a Net"),
                                             (Adapter, "must be an Adapter"), (None, "not None")])
def test_what_is_no_adapter_is_refused(what, words):
    for call in (lambda: run(what, stream("fog")), lambda: forgetting(what, stream("fog"))):
        with pytest.raises(TypeError, match=words):
            call()


@pytest.mark.parametrize(("settings", "words"),
                         [({"progress": "yes"}, "progress must be True or False"),
                          ({"stop": 3}, "stop must be a "
                           "function"), ({"each": "x"}, "each must be a function"),
                          ({"clean": 3}, "clean must be a stream"),
                          ({"trace_to": 3}, "trace_to must be a path"),
                          ({"reset": ""}, "reset must be one of")])
def test_other_arguments_of_run(settings, words):
    with pytest.raises(ValueError, match=words):
        run(adapter(), stream("fog"), **settings)


def test_clean_images_of_other_classes_are_refused():
    with pytest.raises(ValueError, match="the model has 4 outputs"):
        forgetting(adapter(), Stream(toy(60, classes=3), ("none",), per_shift=20))


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"recipes": ["tent", "tent"]}, r"recipes\[0\] and recipes\[1\] are the same method"),
     ({"recipes": ["tent", make("tent")]}, "are the same method"),
     ({"recipes": []}, "recipes is "
      "empty"), ({"recipes": {}}, "recipes is empty"),
     ({"recipes": {1: "tent"}}, "names in recipes must be texts, not 1"),
     ({"recipes": ["tnet"]}, "tnet"), ({"recipes": [Tent]}, "not the class"),
     ({"recipes": [lambda done: make("tent")]}, r"recipes\[0\] must be a method"),
     ({"recipes": 3}, "recipes must list methods"),
     ({"recipes": Tent}, "recipes must list methods"),
     ({"recipes": {"a": 3}}, r"recipes\['a'\] "
      r"must be a method"), ({"recipes": {"a": lambda done: 3}}, r"what recipes\['a'\] makes"),
     ({"streams": {}}, "streams is empty"),
     ({"streams": [stream("fog")] * 2}, "several streams need names"),
     ({"streams": {3: stream("fog")}}, "names in streams must be texts"),
     ({"streams": lambda seed: 3}, r"streams\(0\) must be a stream"),
     ({"streams": {"a": 3}}, r"streams\['a'\] must be a stream"), ({"seeds": 3}, "seeds must list"),
     ({"seeds": (0, 0)}, "more than once"), ({"seeds": ()}, "no seed"),
     ({"seeds": "01"}, "whole numbers"), ({"model": Net}, "not its class Net"),
     ({"model": "resnt"}, "resnt"), ({"model": 3}, "must be a network"),
     ({"clean": 3}, "clean must be"), ({"source_images": 3}, "source_images must be an image set"),
     ({"progress": 1}, "progress "
      "must be"), ({"cache": 3}, "cache must be a path"),
     ({"channels_last": "yes"}, "channels_last must be")])
def test_what_compare_refuses_before_anything_runs(settings, words, monkeypatch):
    ran = []
    monkeypatch.setattr(runner, "run", lambda *a, **k: ran.append(1))
    with pytest.raises(ValueError, match=words):
        compare(**{
            "recipes": "tent", "streams": stream("fog"), "model": net(), "device": "cpu", **settings
        })
    assert not ran
    if "each" not in settings and words != r"what recipes\['a'\] makes":
        # at the call, not when the first trace is asked for
        with pytest.raises(ValueError, match=words):
            runs(
                **{
                    "recipes": "tent", "streams": stream("fog"), "model": net(), "device": "cpu",
                    **settings
                })


def test_every_run_has_a_key_of_its_own():
    recipes = [
        "tent",
        make("tent", lr=1e-2),
        make("tent", lr=1e-2, rule="sgd"),
        make("tent", lr=2e-2), "batch_norm"
    ]
    table = compare(recipes, {"a": stream("fog"), "b": stream("fog")}, net(), np.arange(2),
                    device="cpu")
    assert len(table) == 20 and not table.duplicated(["stream", "recipe", "seed"
                                                      ]).any() and table.recipe.nunique() == 5
    assert table.settings.nunique() == 5


def test_needs_are_checked_before_the_first_run(monkeypatch):
    ran = []
    monkeypatch.setattr(runner, "run", lambda *a, **k: ran.append(1))
    for recipes, words in ((["source", "eata"], "recipe 'eata': .*source_images="),
                           (["source", "sar"], "recipe 'sar'.*norm")):
        model = net() if "eata" in recipes else nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
        for call in (compare, runs):
            with pytest.raises(NeedsError, match=words):
                call(recipes, stream("fog"), model, device="cpu")
    assert not ran


def test_spread_reads_what_it_is_given():
    table = compare(["source", "tent"], stream("fog"), net(), (0, 1), device="cpu")
    assert spread(table, "error").equals(spread(table, ["error"]))
    for given, what, words in ((table, ["eror"], "no column of numbers 'eror'; there are: error"),
                               (table, "answer", "no column of numbers"),
                               (table.loc[[0, 1, 2, 3, 0]], "error",
                                "more than once"), (table[["error"]], "error",
                                                    "that compare"), (3, "error", "that compare")):
        with pytest.raises(ValueError, match=words):
            spread(given, what)
    others = compare(["source", "tent"], stream("snow"), net(), (0, 1), device="cpu")
    with pytest.raises(ValueError, match="names several runs in the table, with another stream; "
                                         "give each a name") as why:
        spread(pandas.concat([table, others]))
    assert "drop" not in str(why.value), "none of the two is one too many"
    assert np.isnan(spread(table.assign(
        error=[1, np.nan, 3, 4]))["error"]).any(), "a seed without a number is not left out"
    with pytest.raises(ValueError, match="trace of a run"):
        row(3)
    with pytest.raises(ValueError, match="does not say its reset"):
        row(runner_trace.Trace.from_columns({"prediction": [1]}))


# --- the cache ----------------------------------------------------------------------------------

class Bent(Net):
    def forward(self, x):
        return self.head(self.features(x).square())


def key(model, recipe=None, shown=None, **settings):
    return _key(Adapter(model, recipe or make("tent"), device="cpu", **settings), shown
                or stream("fog"), False)


def test_the_name_of_a_run_changes_with_what_its_numbers_depend_on():
    other = net()
    other.features[2] = nn.GELU()
    dtyped = net()
    dtyped.register_buffer("more", torch.ones(2), persistent=False)
    hooked = net()
    hooked.head.register_forward_hook(lambda module, given, out: out * 2)
    assert key(net()) == key(net()), "the same network made anew"
    names = {
        key(net()),
        key(net(Bent)),
        key(net(scale=2.0)),
        key(other),
        key(dtyped),
        key(hooked),
        key(net(), amp=torch.bfloat16)
    }
    assert len(names) == 7
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high" if before != "high" else "medium")
        assert key(net()) not in names
    finally:
        torch.set_float32_matmul_precision(before)


FACTOR = 1.0


def make_method(power):
    @dataclass(frozen=True)
    class Mine(Tent):
        def losses(self, ctx, state):
            return FACTOR * super().losses(ctx, state) ** power

    Mine.__module__ = "a_notebook"
    return Mine


def test_the_code_of_a_method_or_order_of_ones_own_counts():
    global FACTOR
    a, b = make_method(1), make_method(2)
    assert key(net(), a()) == key(net(), make_method(1)()) != key(net(), b())
    one = key(net(), a())
    FACTOR = 2.0
    assert key(net(), a()) != one, "so does a number that it uses"
    FACTOR = 1.0

    @dataclass(frozen=True)
    class Turned(Shuffled):
        def arrange(self, labels, n, dice):
            return dice.permutation(n).flip(0)

    @dataclass(frozen=True)
    class Straight(Shuffled):
        def arrange(self, labels, n, dice):
            return dice.permutation(n)

    Straight.__qualname__ = Straight.__name__ = Turned.__qualname__ = Turned.__name__ = "Order"
    assert key(net(), shown=stream("fog",
                                   order=Turned())) != key(net(),
                                                           shown=stream("fog", order=Straight()))


@pytest.mark.parametrize(
    "damage", ["empty", "cut", "text", "folder", "foreign", "other", "label", "words", "steps"])
def test_damaged_runs_in_a_cache_are_named(tmp_path, damage):
    call = dict(recipes=["source", "tent"], streams=stream("fog"), model=net(), cache=tmp_path,
                device="cpu")
    first = compare(**call)
    files = sorted(tmp_path.iterdir(), key=lambda p: p.stat().st_mtime_ns)
    assert len(files) == 2
    path, content = files[1], files[1].read_bytes()
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(content[:len(content) // 2])
    elif damage == "text":
        path.write_text("<html>")
    elif damage == "folder":
        path.unlink(), path.mkdir()
    elif damage == "foreign":
        np.savez(path, a=np.arange(3))
    elif damage in ("label", "words", "steps"):
        columns = dict(np.load(path))
        gone = [
            name for name in columns
            if name.startswith("steps/" if damage == "steps" else "samples/label")
        ]
        kept = {name: value for name, value in columns.items() if name not in gone}
        np.savez(path, **kept,
                 **({gone[0]: columns[gone[0]].astype(str)} if damage == "words" else {}))
    else:
        shutil.copyfile(files[0], path)
    with pytest.raises(ValueError, match=f"delete .*{path.name}, and the run is made anew") as why:
        compare(**call)
    assert "pickle=" not in str(why.value)
    assert files[0].is_file() and len(list(tmp_path.iterdir())) == 2, "the other run stays"
    path.rmdir() if path.is_dir() else path.unlink()
    spent = ["ms_per_image", "peak_memory_bytes"]                # of the run that was made anew
    assert compare(**call).drop(columns=spent).equals(first.drop(columns=spent))


def test_a_file_in_the_place_of_the_cache_is_named(tmp_path):
    (tmp_path / "c").write_text("")
    with pytest.raises(ValueError, match="cache must be a folder, and .*c is a file"):
        compare("source", stream("fog"), net(), cache=tmp_path / "c", device="cpu")


def test_a_seeded_stream_keeps_its_settings():
    table = compare("source", replace(stream("fog"), seed=5), net(), range(2), device="cpu")
    assert table.stream_hash.tolist() == [replace(stream("fog"), seed=s).hash for s in (5, 6)]


HELPER = "def scale(z):\n    return z * {factor}\n"
METHOD = """from dataclasses import dataclass
import {helper} as helper
from {helper}_more import Rule
from tta_lab.methods.tent import Tent


@dataclass(frozen=True, kw_only=True)
class Scaled(Tent):
    def losses(self, view, state):
        return helper.scale(super().losses(view, state)) + Rule().shift()
"""


def test_modules_of_ones_own_that_a_method_uses_count_wherever_they_lie(tmp_path, monkeypatch):
    import importlib
    import sys

    def digest(place, factor, shift):
        folder = tmp_path / place
        folder.mkdir()
        (folder / "own_helper.py").write_text(HELPER.format(factor=factor))
        (folder / "own_helper_more.py").write_text(
            f"class Rule:\n    def shift(self):\n        return {shift}\n")
        (folder / "own_method.py").write_text(METHOD.format(helper="own_helper"))
        for name in ("own_helper", "own_helper_more", "own_method"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        with monkeypatch.context() as m:
            m.syspath_prepend(str(folder))
            found = run_keys.foreign(importlib.import_module("own_method").Scaled())
        for name in ("own_helper", "own_helper_more", "own_method"):
            sys.modules.pop(name)
        return found

    one = digest("one", 2, 0)
    assert one == digest("elsewhere", 2, 0)
    assert one != digest("helper", 3, 0) and one != digest("class", 2, 1)


def test_the_digest_covers_what_a_run_loads_and_does_not_depend_on_its_place(tmp_path):
    """Every module of the package that is loaded after a run, but those that only read it."""
    import shutil
    import subprocess
    import sys

    from tta_lab.core.run_keys import ROOT
    from tta_lab.experiments.runner import READS, code_digest, covered

    code = ("import sys, tta_lab\n"
            "for name in ('eata',):\n"
            "    tta_lab.compare(name, tta_lab.open_set(per_shift=4, batch=4, shifts=('fog',)),\n"
            "                    'fashion_resnet_bn', device='cpu',\n"
            "                    source_images='fashion_mnist_train_slice')\n"
            "print(*(m.removeprefix('tta_lab.') for m in sys.modules if m.startswith('tta_lab.')))")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True,
                          text=True, check=True, cwd=ROOT.parent)
    loaded = {m for m in done.stdout.split()
              if not any(f"{m}.".startswith(f"{r}.") for r in READS)}
    assert "core.adapter" in loaded and len(loaded) > 60 and loaded <= covered().keys()
    copy = shutil.copytree(ROOT, tmp_path / "somewhere" / "tta_lab",
                           ignore=shutil.ignore_patterns("__pycache__"))
    assert code_digest(copy) == code_digest()
    edited = copy / "core" / "scores.py"
    edited.write_text(edited.read_text() + "\nX = 1\n")
    code_digest.cache_clear()
    assert code_digest(copy) != code_digest()
