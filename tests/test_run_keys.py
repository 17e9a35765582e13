"""What the names of cached runs and source statistics hold of one's own code: all of it that counts
for the numbers, wherever it lies, without comments."""
import importlib
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from test_run_records import key, stream
from test_run_records import net as small
from tiny import source_images, tiny

from tta_lab import Adapter, prepare, run
from tta_lab.components.norms.batch_norm import BatchStatistics
from tta_lab.components.source import prepare as source
from tta_lab.core import run_keys
from tta_lab.methods import make
from tta_lab.streams.base import StreamWrapper
from tta_lab.streams.cached import CachedStream
from tta_lab.streams.stream import Stream

METHOD = """from dataclasses import dataclass
import run_keys_helper as module
from run_keys_helper import table, array, bound, kept, thing, method
from tta_lab.methods.tent import Tent


@dataclass(frozen=True, kw_only=True)
class Mine(Tent):
    def losses(self, ctx, state):
        from run_keys_late import LATE
        return super().losses(ctx, state) * {use}
"""
HELPER = """from functools import lru_cache, partial
from types import SimpleNamespace
import numpy as np
import run_keys_far
table, array = SimpleNamespace(f={0}), np.array([{1}])
bound = partial(max, {2})
def far(): return run_keys_far.FACTOR
@lru_cache
def kept(): return {3}
class Thing:
    def __init__(self, at): self.at = at
    def __call__(self): return {4} * self.at
    def value(self): return self.at
thing, method = Thing({5}), Thing({6}).value
"""
USES = ("table.f", "array[0]", "bound(0)", "kept()", "thing()", "thing()", "method()", "LATE", "1")


def written(folder: Path, use: str, values=(1,) * 9, more="") -> None:
    folder.mkdir()
    texts = {"mine": METHOD.format(use=use), "helper": HELPER.format(*values[:7]),
             "late": f"LATE = {values[7]}\n", "far": f"FACTOR = {values[8]}\n"}
    for name, text in texts.items():
        (folder / f"run_keys_{name}.py").write_text(more + text)


def loaded(folder: Path, monkeypatch):
    """The key of a run of the method in a folder."""
    with monkeypatch.context() as m:
        m.syspath_prepend(str(folder))
        importlib.invalidate_caches()
        try:
            return run_keys.foreign(importlib.import_module("run_keys_mine").Mine())
        finally:
            for name in ("mine", "helper", "late", "far"):
                sys.modules.pop(f"run_keys_{name}", None)


@pytest.mark.parametrize("i", range(len(USES)))
def test_all_of_ones_own_that_a_method_uses_counts(tmp_path, monkeypatch, i):
    one = tuple(2 if k == i else 1 for k in range(9))
    for name, values in (("a", (1,) * 9), ("b", one), ("c", (1,) * 9)):
        written(tmp_path / name, USES[i], values)
    keys = [loaded(tmp_path / name, monkeypatch) for name in "abc"]
    assert keys[0] == keys[2] != keys[1]


def test_a_comment_in_ones_own_module_does_not_count(tmp_path, monkeypatch):
    written(tmp_path / "a", "module.kept()")
    written(tmp_path / "b", "module.kept()", more='"""What."""\n# why\n')
    assert loaded(tmp_path / "a", monkeypatch) == loaded(tmp_path / "b", monkeypatch)


@pytest.mark.parametrize(("before", "after"), [
    ("SimpleNamespace(f=1)", "SimpleNamespace(f=2)"), ("np.array([1])", "np.array([2])"),
    ("partial(max, 1)", "partial(max, 2)"), ("lru_cache(lambda: 1)", "lru_cache(lambda: 2)"),
    ("Thing(1)", "Thing(2)"), ("Thing(1).value", "Thing(2).value"), ("Path('a')", "Path('b')")])
def test_values_of_a_notebook_count_by_themselves(before, after):
    """A notebook has no file: what its functions use is read from memory."""
    def code(text):
        space = {"__name__": "a_notebook"}
        exec("from functools import lru_cache, partial\nfrom pathlib import Path\n"  # noqa: S102
             "from types import SimpleNamespace\nimport numpy as np\nclass Thing:\n"
             "    def __init__(self, at): self.at = at\n    def value(self): return self.at\n"
             f"used = {text}\ndef make(): return used\n", space)
        return run_keys.maker_code(space["make"])

    assert code(before) == code(before) != code(after)


# --- streams of one's own -----------------------------------------------------------------------

@dataclass(frozen=True)
class Dark(StreamWrapper):
    factor: float = 0.5

    def batches(self, device="cpu", start=0, stop=None):
        for batch in self.stream.batches(device, start, stop):
            yield replace(batch, x=batch.x * self.factor)


@dataclass(frozen=True)
class Kept(CachedStream):
    """Says nothing of its images: they may differ."""


def test_a_wrapper_of_ones_own_is_another_stream():
    inner = stream("fog")
    kinds = [inner, Dark(inner), Dark(inner, 0.25), Kept(inner), Dark(Dark(inner))]
    assert len({s.hash for s in kinds}) == len({s.old_hash for s in kinds}) == len(kinds)
    net = tiny("tinybn")
    assert len({key(net, shown=s) for s in kinds}) == len(kinds)
    assert key(net, shown=CachedStream(inner)) == key(net, shown=inner)
    assert Dark(inner).hash == Dark(stream("fog")).hash != Dark(stream("snow")).hash
    assert Dark(inner).cut(0, 1).hash != inner.cut(0, 1).hash
    assert (Dark(inner) + inner).hash != (inner + inner).hash
    assert Dark(inner).to_dict()["stream"] == inner.to_dict()
    adapter = Adapter(small(), make("tent"), device="cpu")
    assert run(adapter, Dark(inner)).meta["stream"]["hash"] == Dark(inner).hash
    with pytest.raises(ValueError, match="Dark is a class of yours"):
        Dark(Stream("digits", ("fog",), per_shift=20)).cut(0, 1).to_json()


class Backwards(Stream):
    def batches(self, device="cpu", start=0, stop=None):
        yield from reversed(list(super().batches(device, start, stop)))


def test_the_code_of_a_stream_of_ones_own_counts():
    a = stream("fog")
    other = Backwards(**{name: getattr(a, name) for name in a.__dataclass_fields__})
    assert a.hash == other.hash and key(tiny("tinybn"), shown=a) != key(tiny("tinybn"), shown=other)


# --- this package -------------------------------------------------------------------------------

def test_absolute_imports_of_this_package_are_followed(tmp_path):
    for name, text in (("a", "from tta_lab.core.b import x"), ("b", "import tta_lab.core.c as c"),
                       ("c", "def f():\n    from .d import y"), ("d", "y = 1"), ("e", "")):
        (tmp_path / "core").mkdir(exist_ok=True)
        (tmp_path / "core" / f"{name}.py").write_text(text)
    assert set(run_keys.own(["core.a"], root=tmp_path)) == {f"core.{n}" for n in "abcd"}
    assert set(run_keys.own(["core.a"], ["core.c"], tmp_path)) == {"core.a", "core.b"}


def test_source_statistics_belong_to_the_code_and_version_that_made_them(monkeypatch):
    x, y = source_images()
    recipe = replace(make("actmad"), norm=BatchStatistics())
    info, = source.source_info_of(recipe).values()
    net = tiny("tinybn")
    covered, read = [], run_keys._read

    def name():
        return source._key(info, net, recipe, source.Images(x, y, 50, 100))

    def edited(which):
        def other(code, full, is_package):
            covered.append(full)
            found, imported = read(code, full, is_package)
            return found + "edited" * (full == which), imported
        with monkeypatch.context() as m:
            m.setattr(run_keys, "_read", other)
            return name()

    first = name()
    assert first == name() == edited("tta_lab.panels.shown")
    for which in ("core.layer_outputs", "core.step_context", "components.norms.batch_norm",
                  "components.source.prepare", "methods.actmad"):
        assert edited(f"tta_lab.{which}") != first, which
    with monkeypatch.context() as m:
        m.setattr(torch, "__version__", "0.0")
        assert name() != first
    assert not any(full.startswith("tta_lab.plots") for full in covered)
    assert prepare(net, recipe, x, device="cpu", limit=20)


# --- a network in a file ------------------------------------------------------------------------

NETWORK = """from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)
    def forward(self, x):
        return self.head(x.flatten(1)) * {}
build = Net
"""


def test_a_network_of_a_file_is_the_same_in_every_process_and_place(tmp_path):
    code = ("import sys\nfrom tta_lab.core.run_keys import described\n"
            "from tta_lab.models.names import open_model\n"
            "print(described(open_model(f'python:{sys.argv[1]}:build')))")

    def found(folder, salt, text):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "net.py").write_text(text)
        return subprocess.run([sys.executable, "-c", code, str(tmp_path / folder / "net.py")],
                              env={**os.environ, "PYTHONHASHSEED": salt,
                                   "PYTHONPATH": str(run_keys.ROOT.parent)},
                              check=True, capture_output=True, text=True).stdout

    one = found("a", "1", NETWORK.format(1))
    assert one == found("b", "2", "# moved\n" + NETWORK.format(1))
    assert one != found("c", "1", NETWORK.format(2))
