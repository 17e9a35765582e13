"""Parts of one's own: of a notebook, of a file, of an installed package, in every list and in no cache that is not theirs."""
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import tta_lab
from tta_lab import check_part, compare, knob, make, part, use
from tta_lab.__main__ import main
from tta_lab.cli import headless
from tta_lab.components.norms.batch_norm import BatchStatistics
from tta_lab.components.selectors import SELECTORS
from tta_lab.core import own_parts, run_keys
from tta_lab.core.knobs import knobs
from tta_lab.core.own_parts import PartError
from tta_lab.core.parts import LossMethod, Norm, Selector
from tta_lab.experiments import compose
from tta_lab.experiments.catalogue import catalogue
from tta_lab.experiments.experiment import Experiment
from tta_lab.methods import METHODS
from tta_lab.methods.composed import EntropyLoss
from tta_lab.methods.serialise import PARTS, from_json, to_json
from tta_lab.streams.protocols import continual

ROOT = Path(__file__).resolve().parents[1]
FILE = '''
from dataclasses import dataclass
from tta_lab import knob
from tta_lab.core.parts import Selector
from tta_lab.methods.tent import Tent

@dataclass(frozen=True, kw_only=True)
class {name}(Tent):
    scale: float = knob({scale}, (0.0, 10.0), "factor of the entropy")

    def losses(self, ctx, state):
        return self.scale * super().losses(ctx, state)
'''


def notebook_method(scale=1.0, sign=-1.0, name="Mine"):
    """A method as a cell of a notebook defines it."""
    @part
    @dataclass(frozen=True, kw_only=True)
    class Mine(LossMethod):
        """Minimise the collision entropy."""
        norm: Norm = BatchStatistics()
        scale: float = knob(1.0, (0.1, 2.0), "factor of the loss")

        def losses(self, ctx, state):
            return sign * self.scale * ctx.logits.softmax(1).square().sum(1)

    return Mine


def test_a_class_of_a_notebook_is_in_every_list_once_and_the_newest_counts():
    before = len(METHODS)
    notebook_method()
    Mine = notebook_method()

    @part
    @dataclass(frozen=True)
    class Half(Selector):
        def weights(self, ctx, losses, keep, state):
            return (losses < losses.median()).to(losses.dtype)

    @part
    @dataclass(frozen=True)
    class Sharper(EntropyLoss):
        pass

    from tta_lab.panels.inputs import method_options
    assert len(METHODS) == before + 1 and METHODS["mine"] is Mine and list(METHODS).count("mine") == 1
    assert ("mine  (your own)", "mine") in method_options() and SELECTORS["half"] is Half
    recipe = make("mine", scale=0.5).where(Half())
    assert type(recipe) is Mine and from_json(to_json(recipe)) == recipe and "scale" in [k.name for k in knobs(recipe)]
    assert {"mine"} == {row["name"] for row in catalogue()} - {row["name"] for row in catalogue(own=False)}
    assert "half" in compose.OPTIONS["select"].values() and "Sharper" in compose.KINDS["objective"]
    slots = compose.decompose(make("mine"))
    assert compose.assemble(compose.swapped(slots, "select", "Half")) == make("mine").where(Half())
    assert compose.swapped(compose.decompose(make("tent")), "objective", "mine")["objective"] == make("mine")
    assert compose.recognise(make("mine")) == ("mine", [])
    found = compare(["mine", "tent"], continual("digits", shifts=("fog",), per_shift=20, batch=10), tta_lab.load_model("fashion_resnet_bn"), device="cpu")
    assert list(found["recipe"]) == ["mine", "tent"] and found["error"].between(0, 100).all()
    assert {"Half", "Mine", "Sharper"} <= {*PARTS}


def test_no_part_of_a_test_is_in_the_lists_of_the_next():
    assert "mine" not in METHODS and "half" not in SELECTORS and "Mine" not in PARTS
    assert "Half" not in compose.KINDS["select"] and "mine" not in compose.WHOLE and compose.recognise(make("tent"))[0] == "tent"


def test_a_changed_class_has_another_key():
    """So that no cache serves the run of a class of the same name."""
    first, same, other = (run_keys.foreign(kind()) for kind in (notebook_method(), notebook_method(), notebook_method(sign=1.0)))
    assert first == same != other and first and not run_keys.foreign(make("tent"))


def class_of(bases=(Selector,), frozen=True, dataclassed=True, name="Odd", **body):
    made = type(name, bases, {"__module__": __name__, **body})
    return dataclass(frozen=frozen)(made) if dataclassed else made


@pytest.mark.parametrize("made, words", [
    (lambda: class_of(dataclassed=False), "Odd is no dataclass; write @dataclass.frozen=True, kw_only=True. directly above"),
    (lambda: class_of(__annotations__={"share": float}), "these fields have no default: share; give them one"),
    (lambda: class_of((object,)), "the class Odd is no part; derive it from LossMethod"),
    (lambda: class_of(name="_Odd"), "begins with _, which keeps a class out of lists"),
    (lambda: class_of((LossMethod,), name="Tent", norm=BatchStatistics(), __annotations__={"norm": Norm}),
     "the name 'Tent' is that of a part of TTA Lab"),
    (lambda: class_of(name="EntropyTHreshold"), "the name 'entropy_threshold' is that of a part of TTA Lab"),
    (lambda: class_of(__post_init__=lambda self: 1 / 0), r"Odd\(\) cannot be made: ZeroDivisionError"),
    (lambda: 3, "3 is no part")])
def test_a_class_that_cannot_be_listed_is_named_with_the_remedy(made, words):
    kinds = dict(PARTS)
    with pytest.raises(PartError, match=words):
        part(made())
    assert dict(PARTS) == kinds


def test_code_of_a_run_says_where_the_class_comes_from(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "hot_one.py").write_text(FILE.format(name="HotOne", scale=2.0))
    assert use(tmp_path / "hot_one.py") == ("hot_one",)
    stream = continual("digits", shifts=("fog",), per_shift=10, batch=10)
    choice = Experiment("fashion_resnet_bn", stream, make("hot_one", scale=3.0))
    assert Experiment.from_json(choice.to_json()) == choice
    for code in (choice.to_code(), compose.to_code(choice)):
        assert f"tta_lab.use({str(tmp_path / 'hot_one.py')!r})" in code
    space = {}
    exec(choice.to_code(), space)
    assert space["recipe"] == choice.recipe and len(space["trace"]) == 10
    kind = notebook_method()
    kind.__module__ = "__main__"
    code = Experiment("fashion_resnet_bn", stream, kind()).to_code()
    assert code.startswith("# Mine: your own class, with @part, as defined above") and "make('mine')" in code


def test_a_file_that_has_changed_is_read_anew_and_its_key_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    file = tmp_path / "hot_two.py"
    keys = []
    for scale in (2.0, 2.0, 4.0):
        file.write_text(FILE.format(name="HotTwo", scale=scale))
        use(file)
        assert make("hot_two").scale == scale and list(METHODS).count("hot_two") == 1
        keys.append(run_keys.foreign(make("hot_two")))
    assert keys[0] == keys[1] != keys[2]
    file.write_text(FILE.format(name="Renamed", scale=1.0))
    assert use(file) == ("renamed",) and "hot_two" not in METHODS


@pytest.mark.parametrize("name, text, words", [
    ("gone.py", None, "there is no file .*gone.py"),
    ("my-method.py", "", "its name must be letters, digits and _"),
    ("json.py", "", "there is another module 'json'"),
    ("bad_syntax.py", "x = 1\nx = = 2\n", "bad_syntax.py, line 2: SyntaxError"),
    ("bad_run.py", "x = 1\n\ny = z\n", "bad_run.py, line 3: NameError: name 'z' is not defined"),
    ("no_part.py", "x = 1\n", "no_part.py holds no part"),
    ("clash.py", FILE.format(name="Eata", scale=1.0), "clash.py, line 8: the name 'Eata' is that of a part of TTA Lab")])
def test_a_file_that_cannot_be_used_is_named_with_its_line(name, text, words, tmp_path, monkeypatch, capsys):
    if text is not None:
        (tmp_path / name).write_text(text)
    kinds, modules = dict(PARTS), set(sys.modules)
    with pytest.raises(PartError, match=words):
        use(tmp_path / name)
    assert dict(PARTS) == kinds and set(sys.modules) == modules and own_parts.WITH not in os.environ
    monkeypatch.setattr("tta_lab.cli.bootstrap.ensure", lambda *a, **k: None)
    monkeypatch.setattr(headless, "execute", lambda *a, **k: pytest.fail("something ran"))
    assert main(["run", "--with", str(tmp_path / name)]) == 2 and name in capsys.readouterr().err


def test_kernels_of_a_run_know_the_file_and_the_record_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("tta_lab.cli.bootstrap.ensure", lambda *a, **k: None)
    import nbformat
    from nbformat import v4

    file = tmp_path / "hot_three.py"
    file.write_text(FILE.format(name="HotThree", scale=2.0))
    cells = [v4.new_code_cell('out_json: str = ""', metadata={"tags": ["parameters"]}),
             v4.new_code_cell("from tta_lab.methods.serialise import from_json, to_json\nfrom tta_lab import make\n"
                              "from tta_lab.studies.report import write_numbers\nrecipe = from_json(to_json(make('hot_three')))\n"
                              "write_numbers(out_json, {'scale': recipe.scale})")]
    nbformat.write(v4.new_notebook(cells=cells), tmp_path / "n.ipynb")
    assert main(["run", str(tmp_path / "n.ipynb"), "--with", str(file), "--out", str(tmp_path / "runs")]) == 0
    folder = tmp_path / "runs" / "n-fast"
    numbers = json.loads((folder / "n.json").read_text())
    assert numbers["scale"] == 2.0 and numbers["made"]["with"] == [str(file)]
    assert json.loads((folder / "n.ipynb").read_text())["metadata"]["tta_lab"]["with"] == [str(file)]
    assert str(file) in (folder / "n.html").read_text()


PLUGIN = """
import warnings
warnings.simplefilter("error")
from tta_lab import make
make("tent")
import sys
assert "good_plugin" not in sys.modules           # nothing is read before it is asked for
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    recipe = make("plugged")
assert [str(w.message) for w in told] == [
    "the parts 'bad' of fake-plugin (bad_plugin) are left out: RuntimeError: broken here"]
from tta_lab.methods import METHODS
from tta_lab.methods.serialise import from_json, to_json
import pickle
assert from_json(to_json(recipe)) == recipe == pickle.loads(pickle.dumps(recipe)) and "plugged" in list(METHODS)
"""


def test_an_installed_package_is_found_late_and_a_broken_one_is_named(tmp_path):
    info = tmp_path / "fake_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tta_lab.parts]\nbad = bad_plugin\ngood = good_plugin:Plugged\n")
    (tmp_path / "bad_plugin.py").write_text("raise RuntimeError('broken here')\n")
    (tmp_path / "good_plugin.py").write_text(FILE.format(name="Plugged", scale=1.0))
    done = subprocess.run([sys.executable, "-c", PLUGIN], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])})
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_check_says_what_holds():
    assert check_part(notebook_method()).holds and check_part(SELECTORS["random_keep"]).holds and check_part(METHODS["lame"]).holds

    @part
    @dataclass(frozen=True, kw_only=True)
    class Careless(LossMethod):
        norm: Norm = BatchStatistics()
        kept: float = knob(0.5, (0.0, 1.0), "")

        def losses(self, ctx, state):
            chance = torch.rand(len(ctx.logits))
            return chance * ctx.logits.logsumexp(1)

    found = check_part(Careless)
    broken = {row.what: row.found for row in found.rows if not row.holds}
    assert not found.holds and "DOES NOT" in str(found)
    assert "the knob kept has no sentence" in broken["every knob has a sentence and refuses what is out of range"]
    assert "global generator" in broken["model, gradients and random numbers of the caller are left alone"]
    assert "draw with ctx.draw" in broken["a reset, a run without record and inference mode give the same bits"]
    unlisted = dataclass(frozen=True)(type("Unlisted", (Selector,), {"weights": lambda self, ctx, losses, keep, state: losses * 0 + 1}))
    assert "write @tta_lab.part above it" in str(check_part(unlisted))
    with pytest.raises(TypeError, match="takes a class of your own"):
        check_part(3)
