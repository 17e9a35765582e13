"""Choosing among kept runs without labels, and the rates to try."""
import copy
from dataclasses import replace

import numpy as np
import pytest

from tta_lab import continual
from tta_lab.experiments.experiment import REFERENCES, Experiment, Session
from tta_lab.experiments.kept_runs import KeptRun
from tta_lab.methods import make
from tta_lab.studies.explorer.choosing import ranked, ranking_table, rates_around, say_ranked

CHOICE = Experiment(stream=continual(shifts=("fog", "pixelate"), per_shift=100, batch=50))


@pytest.fixture(scope="module")
def runs():
    known, found = {}, []
    for lr in (0.1, 1e-3, 2e-3):
        session = Session(replace(CHOICE, recipe=make("tent", **{"update.lr": lr})), device="cpu", known=known)
        while session.advance():
            pass
        found.append(KeptRun(f"<b>{lr}", session.choice, session.traces["choice"],
                             {REFERENCES[n]: t for n, t in session.traces.items() if n != "choice"}))
    return found


def errors(trace):
    return 100 * np.mean([np.mean((trace["prediction"] != trace["label"])[trace["domain"] == d]) for d in np.unique(trace["domain"])])


def test_the_vote_leaves_out_what_has_collapsed_and_its_cost_is_known(runs):
    found = ranked(runs)
    assert found["score"] == "vote" and found["chosen"] != "<b>0.1" and "source" in found["references"] and found["images"] == 200
    own = {run.name: errors(run.trace) for run in runs} | {n: errors(runs[0].references[n]) for n in found["references"]}
    assert found["errors"] == pytest.approx(own)
    assert found["regret"]["regret"] == pytest.approx(own[found["chosen"]] - min(own.values()))
    assert f"{own[found['chosen']]:.1f} %" in say_ranked(found) and found["chosen"] in say_ranked(found)
    titles, rows = ranking_table(found)
    assert len({len(titles), *map(len, rows)}) == 1 and [r[0] for r in rows] == [str(i + 1) for i in range(len(own))]
    assert all("<" not in cell for row in rows for cell in row) and rows[0][1] == found["chosen"].replace("<", "&lt;").replace(">", "&gt;")
    worst = ranked(runs, "entropy")  # rewards what is sure
    assert worst["regret"]["regret"] > 5 and f"so the choice costs {worst['regret']['regret']:.1f} points" in say_ranked(worst)


def test_without_labels_there_is_an_order_and_no_cost(runs):
    bare = []
    for run in runs:
        trace = copy.deepcopy(run.trace)
        trace["label"][:] = -1
        bare.append(KeptRun(run.name, None, trace.head(150)))
    found = ranked(bare)
    assert found["images"] == 150 and not found["errors"] and not found["regret"] and len(found["order"]) == 3
    assert "cannot be said without labels" in say_ranked(found) and "error (%)" not in ranking_table(found)[0]
    two = ranked(bare[:2])  # two have no majority
    assert two["score"] == "effective_classes" and two["chosen"] == "<b>0.001"
    with pytest.raises(ValueError, match="no majority"):
        ranked(bare[:2], "vote")


def test_what_cannot_be_ranked_is_said(runs):
    with pytest.raises(ValueError, match="two runs or more, not 1"):
        ranked(runs[:1])
    other = copy.deepcopy(runs[1].trace)
    other.meta["stream"] = other.meta["stream"] | {"hash": "x"}
    with pytest.raises(ValueError, match="'other' was shown another stream"):
        ranked([runs[0], KeptRun("other", None, other)])
    with pytest.raises(ValueError, match="no images yet"):
        ranked([runs[0], KeptRun("empty", None, runs[0].trace.head(0))])
    with pytest.raises(ValueError, match="cannot be ranked by 'atc_error'; choose one of entropy"):
        ranked(runs, "atc_error")


def test_rates_around_the_papers():
    def rates(recipe, n=5):
        return [c.recipe.update.lr for c in rates_around(replace(CHOICE, recipe=recipe), n)]

    assert rates(make("tent")) == [1e-4, 3.2e-4, 1e-3, 3.2e-3, 1e-2]
    assert rates(make("tent", **{"update.lr": 0.5})) == [1e-4, 3.2e-4, 1e-3, 3.2e-3, 0.5]
    assert rates(make("tent", **{"update.lr": 0.0}), 2) == [0.0, 1e-2]
    assert rates(make("sar"))[2] == make("sar").update.lr and len(set(rates(make("tent"), 40))) == 40
    assert {(c.model, c.stream, c.seed) for c in rates_around(CHOICE)} == {(CHOICE.model, CHOICE.stream, 0)}
    with pytest.raises(ValueError, match="BatchNorm has no learning rate.*such as tent"):
        rates(make("batch_norm"))
    with pytest.raises(ValueError, match="n"):
        rates(make("tent"), 1)
