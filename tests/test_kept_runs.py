"""Runs that are kept: names and numbers, files that are whole, and damage that is named."""
import copy
import csv
import json

import numpy as np
import pytest

from tta_lab import continual, load_model
from tta_lab.core.trace import Trace
from tta_lab.experiments.experiment import REFERENCES, Experiment, Session
from tta_lab.experiments.kept_runs import ARRAYS, KeptRun, KeptRuns, NotAllLoaded
from tta_lab.experiments.runner import row
from tta_lab.methods import make


def kept(session, name):
    names = {"choice": "this run", **REFERENCES}
    trace = session.traces["choice"]
    return KeptRun(name, session.choice, trace, {REFERENCES[n]: t for n, t in session.traces.items() if n != "choice"},
                   {names[n]: p for n, p in session.probabilities.items()},
                   {"method": "tent", "seed": session.choice.seed, "error": row(trace)["error"], "complete": np.bool_(True), "alarm": None})


@pytest.fixture(scope="module")
def sessions():
    known, found = {}, []
    for lr in (1e-3, 1e-2):
        session = Session(Experiment(stream=continual(shifts=("fog", "contrast", "gaussian_noise", "pixelate"), per_shift=100, batch=50),
                                     recipe=make("tent", **{"update.lr": lr})), device="cpu", known=known)
        while session.advance():
            pass
        found.append(session)
    return found


@pytest.fixture
def runs(sessions):
    found = KeptRuns()
    for session in sessions:
        found.add(kept(session, "Tent"))
    return found


def test_names_differ_and_numbers_are_not_used_again(runs):
    assert [r.name for r in runs.values()] == ["Tent", "Tent (2)"] and list(runs) == [1, 2]
    runs.rename(1, "  slow\nand sure ")
    with pytest.raises(ValueError, match="run 1 is called 'slow and sure' already"):
        runs.rename(2, "slow and sure")
    for wrong in ("", " ", "x" * 81, 3):
        with pytest.raises(ValueError, match="name"):
            runs.rename(2, wrong)
    with pytest.raises(ValueError, match="no run 7; there are: 1, 2"):
        runs.delete([2, 7])
    runs.delete([2])
    assert runs.add(copy.copy(runs[1])) == 3 and [r["name"] for r in runs.rows()] == ["slow and sure", "slow and sure (2)"]


def test_saved_runs_are_read_as_they_were(runs, tmp_path):
    paths = runs.save(tmp_path)
    assert sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file()) < 120_000
    assert len(list((tmp_path / ARRAYS).iterdir())) == 2 + 2 + 2 + 2  # runs and references, and their probabilities
    new = KeptRuns()
    assert new.load(tmp_path) == [1, 2]
    for number in (1, 2):
        old, again = runs[number], new[number]
        assert again.name == old.name and again.facts == old.facts and again.choice == old.choice and again.facts["complete"] is True
        for a, b in zip((old.trace, *old.references.values()), (again.trace, *again.references.values()), strict=True):
            assert b.meta == json.loads(json.dumps(a.meta))
            for name, column in a.columns().items():
                np.testing.assert_array_equal(column, b[name])
                assert column.dtype == b[name].dtype
            assert list(a.columns("steps")) and set(a.columns("steps")) == set(b.columns("steps"))
        for name, p in old.probabilities.items():
            np.testing.assert_allclose(again.probabilities[name], p, atol=1e-3)
        assert "stored run" in again.stored and "torch 2" in again.stored and again.facts["made"] in again.stored
    # nothing is written twice, nothing is read twice, and another run of a taken name stands beside it
    assert runs.save(tmp_path) == new.save(tmp_path) == paths and new.load(tmp_path) == [1, 2]
    other = KeptRuns()
    other.add(copy.deepcopy(runs[2]))
    other.rename(1, "Tent")
    assert other.save(tmp_path)[0].name == "Tent-2.run.json" and paths[0].read_text().count('"update.lr": 0.01') == 0
    assert new.load(tmp_path) == [1, 3, 2] and new[3].name == "Tent (3)"


def test_one_run_is_small(runs, tmp_path):
    runs.save(tmp_path, [1])
    assert sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file()) < 80_000


def test_damage_is_named_and_the_others_load(runs, tmp_path):
    (first, second) = runs.save(tmp_path)
    content = json.loads(second.read_text())
    victim = tmp_path / ARRAYS / f"{content['trace']}.npz"
    victim.write_bytes(victim.read_bytes()[:-20])
    for wrong, words in ((None, "damaged; delete it"), ({"version": 2}, "version 2 .* update TTA Lab"), ({"facts": []}, "'facts' is missing or no dict"),
                         ({"trace": "../../x"}, "names no file"), ({"facts": {"a": []}}, "must be a text or a number")):
        if wrong:
            second.write_text(json.dumps(content | wrong))
        new = KeptRuns()
        with pytest.raises(NotAllLoaded, match=f"1 of 2 runs .*{second.name}.*{words}") as why:
            new.load(tmp_path)
        assert why.value.loaded == [1] and new[1].name == "Tent"
    second.write_text("{")
    with pytest.raises(NotAllLoaded, match="is damaged"):
        KeptRuns().load(tmp_path)
    second.write_text(json.dumps(content))  # saving writes the damaged arrays anew
    runs.save(tmp_path)
    assert len(KeptRuns().load(tmp_path)) == 2
    for place, words in ((tmp_path / "none", "no folder"), (tmp_path / ARRAYS, "no saved run"), (victim, "ends? in|end in")):
        with pytest.raises(ValueError, match=words):
            KeptRuns().load(place)


def test_own_models_are_saved_without_their_images(runs, sessions, tmp_path):
    run = runs[1]
    own = Experiment(load_model("fashion_resnet_bn"), run.choice.stream, run.choice.recipe)
    runs[1].choice = own
    runs.save(tmp_path / "kept", [1])
    new = KeptRuns()
    new.load(tmp_path)  # the folder of a notebook's run
    assert new[1].choice is None and "cannot be shown: its model or images have no name" in new[1].why_no_images
    assert len(new[1].trace) == 400
    with pytest.raises(ValueError, match="another stream"):
        new.hand_over(1, Experiment(own.model, continual(per_shift=100)))
    new.hand_over(1, own)
    assert new[1].why_no_images == ""
    # a choice that cannot be made here is not lost when the run is saved again
    path = next((tmp_path / "kept").glob("*.json"))
    content = json.loads(path.read_text())
    content["choice"] = json.loads(sessions[0].choice.to_json()) | {"more": 1}
    path.write_text(json.dumps(content))
    new = KeptRuns()
    new.load(tmp_path)
    assert "cannot be made here" in new[1].missing
    assert json.loads(new.save(tmp_path / "again")[0].read_text())["choice"]["more"] == 1


def test_a_table_for_elsewhere(runs, tmp_path):
    with open(runs.write_csv(tmp_path / "runs.csv", [2]), newline="") as f:
        (line,) = csv.DictReader(f)
    assert line["name"] == "Tent (2)" and float(line["error"]) == runs[2].facts["error"]
    frame = runs.frame()
    assert list(frame.index) == [1, 2] and frame.loc[2, "name"] == "Tent (2)"
    with pytest.raises(ValueError, match="is a folder"):
        runs.write_csv(tmp_path)
    with pytest.raises(ValueError, match="only a KeptRun"):
        runs.add(Trace())
