"""Scores without labels: by hand on small traces; what the choice costs; NaN and ties; nothing
depends on a label."""
import math

import numpy as np
import pytest
import torch

from tests.tiny import source_images, tiny
from tta_lab import Adapter, make, recorded, run
from tta_lab.analysis.model_selection import (
    GOOD,
    NAMES,
    definitions,
    neighbourhood,
    nuclear_norm,
    ordered,
    rank,
    reference,
    regret,
    scores,
    threshold,
    votes,
)
from tta_lab.core.trace import Trace
from tta_lab.data.image_set import ImageSet

SHARP = torch.tensor([[9.0, 0, 0], [0, 9, 0], [0, 0, 9], [9, 0, 0]])


def trace(prediction, confidence=0.8, entropy=0.5, classes=4, per_step=2, marginal=1.0, ids=None,
          **more):
    n = len(prediction)
    samples = {
        "id": np.arange(n) if ids is None else ids, "step": np.arange(n) // per_step,
        "prediction": np.asarray(prediction), "confidence": np.broadcast_to(confidence, n),
        "entropy": np.broadcast_to(entropy, n), **more
    }
    steps = {"step": np.arange(-(-n // per_step)), "n": np.bincount(np.arange(n) // per_step),
             "marginal_entropy": np.broadcast_to(marginal, -(-n // per_step))}
    return Trace.from_columns(samples, steps, {"classes": classes})


def test_scores_by_hand():
    t = trace([0, 1, 2, 2], confidence=[0.9, 0.7, 0.6, 0.6], entropy=[0.1, 0.3, 0.5, 0.5],
              marginal=[0.6, 0.9])
    ours = {"error": 5.0, "confidence": 0.95, "atc_confidence": 0.65, "atc_entropy": 0.4}
    s = scores(t, ours, source=trace([0, 1, 2, 3], confidence=0.8))
    assert set(s) == set(NAMES)
    assert s["entropy"] == pytest.approx(0.35) and s["confidence"] == pytest.approx(0.7)
    assert s["information"] == pytest.approx(((0.6 - 0.2) * 2 + (0.9 - 0.5) * 2) / 4)
    spread = -(2 * 0.25 * math.log(0.25) + 0.5 * math.log(0.5))
    assert s["effective_classes"] == pytest.approx(
        math.exp(spread)) and s["window_information"] == pytest.approx(spread - 0.35)
    assert s["agreement"] == 75 and s["confidence_shift"] == pytest.approx(0.1)
    assert s["doc_error"] == pytest.approx(
        5 + 100 * 0.25) and s["atc_error"] == 50 and s["atc_entropy_error"] == 50
    assert math.isnan(s["neighbourhood"]) and math.isnan(s["vote"])


def test_without_a_run_of_the_source_the_recorded_one_counts():
    t = trace([0, 1], source_prediction=np.array([0, 2]), source_confidence=np.array([0.5, 0.7]))
    assert scores(t)["agreement"] == 50 and scores(t)["confidence_shift"] == pytest.approx(0.2)
    assert math.isnan(scores(trace([0, 1]))["agreement"])


def test_single_images_tell_no_information():
    assert math.isnan(scores(trace([0, 1, 2, 3], per_step=1))["information"])
    assert math.isfinite(scores(trace([0, 1, 2, 3], per_step=1))["window_information"])


def test_a_broken_run_never_looks_sure():
    broken = scores(
        trace([0, 1, 0, 0], confidence=[0.8, 0.8, np.nan, np.nan],
              entropy=[0.5, 0.5, np.nan, np.nan]))
    assert broken["confidence"] == pytest.approx(
        (0.8 + 0.25) / 2) and broken["entropy"] == pytest.approx((0.5 + math.log(4)) / 2)
    assert broken["effective_classes"] == pytest.approx(2)
    from tta_lab.analysis.model_selection import _information
    assert _information(trace([0, 1], entropy=np.nan), np.array([1.0, 1.0])) == pytest.approx(0.0)


@pytest.mark.parametrize("share, below", [(0.0, 0), (0.25, 1), (0.5, 2), (1.0, 4)])
def test_threshold_leaves_the_share_below(share, below):
    values = np.array([0.9, 0.2, 0.6, 0.4])
    assert (values < threshold(values, share)).sum() == below


def test_reference_estimates_its_own_error():
    """On the very images it was made from, ATC gives their error and DoC too: the definition of
    both."""
    x, y = source_images()
    images = ImageSet("tiny", (255 * x[:300]).round().to(torch.uint8),
                      torch.where(torch.arange(300) % 3 > 0, y[:300], (y[:300] + 1) % 10),
                      tuple(map(str, range(10))))
    net = tiny("tinybn")
    ours = reference(net, images)
    assert ours["images"] == 300 and 33 < ours["error"] < 60
    t = run(Adapter(net, make("source"), device="cpu"), recorded(images))
    s = scores(t, ours)
    assert s["atc_error"] == pytest.approx(
        ours["error"], abs=0.7) and s["atc_entropy_error"] == pytest.approx(ours["error"], abs=0.7)
    assert s["doc_error"] == pytest.approx(ours["error"], abs=1e-3)
    assert ours == reference(net, (images.images(), images.y))
    with pytest.raises(ValueError, match="labelled images"):
        reference(net, (images.images(), torch.full((300,), -1)))


def test_scores_see_no_label():
    x, y = source_images()
    net, found = tiny("tinybn"), []
    for labels in (y[:200], (y[:200] + 3) % 10):
        images = ImageSet("tiny", (255 * x[:200]).round().to(torch.uint8), labels,
                          tuple(map(str, range(10))))
        t = run(Adapter(net, make("tent"), device="cpu", record="source"),
                recorded(images, batch=50))
        found.append(scores(t))
    assert all(found[0][n] == found[1][n] or math.isnan(found[0][n]) for n in NAMES)


def test_neighbourhood_by_hand():
    """Two sure images of one class, two of others: the pair has one near neighbour (entropy 0),
    the others three equally far."""
    assert neighbourhood(SHARP) == pytest.approx(np.mean([0, 0, math.log(3),
                                                          math.log(3)]), abs=0.01)
    assert neighbourhood(torch.zeros(5, 3)) == pytest.approx(math.log(4))
    assert math.isnan(neighbourhood(torch.zeros(1, 3)))
    many = torch.randn(3000, 4, generator=torch.Generator().manual_seed(0))
    assert neighbourhood(many) == pytest.approx(
        neighbourhood(many, most=3000) - math.log(3), abs=0.2)


def test_nuclear_norm_ends():
    sure = torch.eye(3).repeat(4, 1) * 50
    assert nuclear_norm(sure) == pytest.approx(1.0)
    # rank one: sqrt(12 / 9) / sqrt(12 * 3)
    assert nuclear_norm(torch.zeros(12, 3)) == pytest.approx(1 / 3)
    assert nuclear_norm(torch.tensor([[50.0, 0, 0]]).repeat(12,
                                                            1)) == pytest.approx(math.sqrt(1 / 3))


def test_votes_by_hand():
    found = votes({"a": [0, 1, 2, 3], "b": [0, 1, 2, 0], "c": [0, 2, 1, 1]})
    # the tie in the last column goes to the first
    assert found == {"a": 100.0, "b": 75.0, "c": 25.0}
    assert votes({"a": [1, 2], "b": [1, 2], "c": [0, 0]}) == {"a": 100.0, "b": 100.0, "c": 0.0}
    with pytest.raises(ValueError, match="different numbers of images"):
        votes({"a": [0], "b": [0, 1]})


def test_rank_puts_the_best_first_and_broken_ones_last():
    runs = {
        "sure": trace([0, 0, 0, 0], entropy=0.1), "even": trace([0, 1, 2, 3], entropy=0.4),
        "unsure": trace([0, 1, 2, 3], entropy=1.0)
    }
    assert [n for n, _ in rank(runs, "entropy")] == ["sure", "even", "unsure"]
    assert rank(runs, "window_information")[0] == ("even", pytest.approx(math.log(4) - 0.4))
    assert rank(runs)[0] == ("even", 100.0)
    assert [n for n, _ in ordered({"a": 1.0, "b": math.nan, "c": 1.0, "d": 2.0}, "high")
            ] == ["d", "a", "c", "b"]
    assert ordered({"a": 1.0, "d": 0.5}, "low")[0] == ("d", 0.5)


def test_rank_refuses_what_cannot_be_compared():
    one = trace([0, 1])
    with pytest.raises(ValueError, match="no score 'error'; there are: entropy"):
        rank({"a": one}, "error")
    with pytest.raises(ValueError, match="'b' saw other images"):
        rank({"a": one, "b": trace([0, 1], ids=np.array([1, 0]))})
    with pytest.raises(ValueError, match="needs reference=...: model_selection.reference"):
        rank({"a": one}, "atc_error")
    with pytest.raises(ValueError, match="needs logits"):
        rank({"a": one}, "neighbourhood")
    with pytest.raises(ValueError, match="no candidate"):
        rank({})
    with pytest.raises(ValueError, match="logits of 3"):
        scores(one, logits=torch.zeros(3, 4))
    assert rank({"a": one}, "nuclear_norm", logits={"a": torch.zeros(2, 4)})[0][0] == "a"


def test_regret():
    found = regret({"a": 10.0, "b": 14.0, "c": 30.0}, "b")
    assert found == {
        "regret": 4.0, "error": 14.0, "oracle": 10.0, "random": pytest.approx(8.0), "worst": 20.0
    }
    with pytest.raises(ValueError, match="none of the candidates a"):
        regret({"a": 1.0}, "b")


def test_definitions_are_complete():
    rows = definitions()
    assert [r["name"] for r in rows] == list(NAMES) == list(scores(trace([0, 1])))
    assert all(r["good"] in ("low", "high") and r["formula"] and r["source"]
               for r in rows) and set(GOOD) == set(NAMES)
    assert {r["needs"] for r in rows} == {"trace", "source", "reference", "logits", "candidates"}


def test_regret_figure():
    from tta_lab.plots import plot_regret
    figure = plot_regret(
        {"rate": {"vote": 0.5, "entropy": 3.0, "gone": math.nan}, "method": {"vote": 1.0}})
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["vote", "entropy"]
    assert "Nothing to draw" in plot_regret({"rate": {}}).axes[0].texts[0].get_text()
    with pytest.raises(ValueError, match="one to three"):
        plot_regret({})
