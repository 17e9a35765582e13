"""The safety report: intervals that cover, a worst stretch that knows chance, verdicts that are
right where the truth is known, the page."""
import json
import math
import re

import numpy as np
import pytest
import torch

from tests.tiny import source_images, tiny
from tta_lab import make
from tta_lab.core import adapter as safety_adapter
from tta_lab.core.trace import Trace
from tta_lab.data.image_set import ImageSet
from tta_lab.experiments import runner as safety_runner
from tta_lab.safety import judging as safety_judging
from tta_lab.safety import report as safety
from tta_lab.safety.intervals import design_effect, paired_difference, tango, worst_window
from tta_lab.safety.judging import Rule, judge, labels_needed
from tta_lab.safety.report import paired_numbers, scrambled

CLASSES = 10


# --- the interval


@pytest.mark.parametrize("worse, better, n", [(12, 2, 44), (3, 9, 200), (1, 0, 200), (40, 40, 500),
                                              (0.7, 2.6, 90.5)])
def test_interval_ends_where_the_score_statistic_says(worse, better, n):
    """At each end d the statistic with the constrained maximum-likelihood fit, found on a fine
    grid here, is z."""
    for d in tango(worse, better, n):
        # share of better; that of worse is q + d, of no change 1 - 2 q - d
        q = np.linspace(max(0, -d) + 1e-9, (1 - d) / 2 - 1e-9, 400_001)
        likelihood = (worse * np.log(q + d) + better * np.log(q) +
                      (n - worse - better) * np.log1p(-2 * q - d))
        fit = q[likelihood.argmax()]
        statistic = (worse - better - n * d) / math.sqrt(n * (2 * fit + d - d * d))
        assert abs(statistic) == pytest.approx(1.95996, abs=2e-3)


def test_interval_turns_with_the_flips_and_holds_the_estimate():
    low, high = tango(9, 3, 200)
    assert tango(3, 9, 200) == pytest.approx((-high, -low))
    assert low < 0.03 < high
    assert tango(0, 0, 200) == pytest.approx((-0.01885, 0.01885), abs=1e-4)  # z^2 / (n + z^2)
    wide = tango(9, 3, 200, 0.99)
    assert wide[0] < low and high < wide[1]
    assert tango(200, 0, 200)[1] == 1.0
    with pytest.raises(ValueError, match="150 \\+ 60 of 200"):
        tango(150, 60, 200)


def test_interval_agrees_with_the_exact_test_of_mcnemar():
    """Where McNemar's exact test finds no difference at 5 %, nor does the interval when the counts
    are not on the edge."""
    from tta_lab.models.doctor import binomial_tail
    for worse, better in ((10, 10), (14, 8), (12, 9), (25, 3), (30, 8)):
        p = min(1.0, 2 * binomial_tail(max(worse, better), worse + better, 0.5))
        low, high = tango(worse, better, 400)
        assert (low > 0 or high < 0) == (p < 0.05)


@pytest.mark.parametrize("worse, better", [(0.03, 0.02), (0.005, 0.0), (0.1, 0.05), (0.02, 0.15)])
def test_interval_covers_the_truth_from_200_images_on(worse, better):
    dice = np.random.default_rng(0)
    harm = dice.choice([1, -1, 0], p=[worse, better, 1 - worse - better], size=(800, 200))
    truth = 100 * (worse - better)
    found = [paired_difference(h) for h in harm]
    assert np.mean([f["low"] <= truth <= f["high"] for f in found]) >= 0.945


def test_interval_covers_when_neighbours_go_wrong_together():
    """Blocks of 25 images share their fate: without the design effect about half of the intervals
    would miss."""
    dice = np.random.default_rng(1)
    harm = np.repeat(dice.choice([1, -1, 0], p=[0.1, 0.05, 0.85], size=(300, 40)), 25, axis=1)
    found = [paired_difference(h) for h in harm]
    assert np.mean([f["low"] <= 5 <= f["high"] for f in found]) >= 0.9
    naive = [tango((h > 0).sum(), (h < 0).sum(), 1000) for h in harm]
    assert np.mean([low <= 0.05 <= high for low, high in naive]) < 0.6


def test_design_effect():
    alternating = np.tile([1, -1], 100)
    assert design_effect(alternating) == 1.0
    halves = np.repeat([1, 0], 100)
    # 20 stretches of 10 with sums +5 or -5 around the mean: 20/19 * 20 * 25 / (200 / 4)
    assert design_effect(halves) == pytest.approx(20 / 19 * 20 * 25 / 50)
    # a planned difference is no chance
    assert design_effect(halves, strata=halves) == 1.0
    assert design_effect(np.zeros(200)) == 1.0


def test_labels_needed_settle_it():
    dice = np.random.default_rng(2)
    shares = [0.02, 0.03, 0.95]
    n = labels_needed(dice.choice([1, -1, 0], p=shares, size=2000), Rule(harm=1.0))
    assert 200 < n < 2000
    more = [
        paired_difference(dice.choice([1, -1, 0], p=shares, size=int(2 * n)))["high"] <= 1
        for _ in range(50)
    ]
    fewer = [
        paired_difference(dice.choice([1, -1, 0], p=shares, size=int(n / 5)))["high"] <= 1
        for _ in range(50)
    ]
    assert np.mean(more) > 0.6 and np.mean(fewer) < 0.5
    on_the_border = np.zeros(1000)
    on_the_border[::100] = 1
    # 0 has to be excluded
    assert labels_needed(on_the_border,
                         Rule(harm=1.0)) == pytest.approx(1.96**2 * 0.99 / 0.01, rel=0.05)


# --- the worst stretch

def test_worst_window_by_hand():
    harm = np.zeros(1000)
    harm[600:640] = 1
    w = worst_window(harm, size=100, block=20, permutations=100)
    assert w["size"] == 100 and w["worst"] == 40.0 and w["start"] == 540
    assert w["corrected"] == pytest.approx(4 + max(0, 40 - w["expected"]))
    assert worst_window(harm[:150]) == {}
    assert worst_window(np.zeros(400), permutations=50)["size"] == 100


def test_worst_of_many_windows_is_bad_by_chance_and_not_reported_as_harm():
    dice = np.random.default_rng(3)
    found = [
        worst_window(dice.choice([1, -1, 0], p=[0.06, 0.06, 0.88], size=3000), permutations=200,
                     seed=k) for k in range(60)
    ]
    # the truth is 0 in every window
    assert np.mean([w["worst"] for w in found]) > 1.0
    assert np.mean([w["p"] < 0.05 for w in found]) <= 0.12
    assert np.mean([w["corrected"] for w in found]) < 1.0


def test_a_bad_stretch_is_found():
    dice = np.random.default_rng(4)
    harm = dice.choice([1, -1, 0], p=[0.03, 0.03, 0.94], size=3000)
    harm[2000:2500] = dice.choice([1, -1, 0], p=[0.15, 0.03, 0.82], size=500)
    w = worst_window(harm, permutations=400)
    assert w["p"] < 0.01 and w["corrected"] > 5 and 1700 < w["start"] < 2300


# --- verdicts where the truth is known

def traces(right_before, right_after, label=None, batch=50, known=None, prediction=None):
    """Two traces with these answers: a wrong one is the next class."""
    n = len(right_before)
    true = np.arange(n) % CLASSES
    label = true if label is None else label
    known = np.ones(n, bool) if known is None else known
    steps = {
        "n": np.full(n // batch, batch), "seconds": np.full(n // batch, 0.1),
        "forwards": np.full(n // batch, batch), "backwards": np.full(n // batch, batch),
        "n_kept": np.full(n // batch, batch), "step": np.arange(n // batch)
    }
    out = []
    for right in (right_before, right_after):
        samples = {
            "id": np.arange(n), "prediction": np.where(right, true, (true + 1) % CLASSES),
            "label": label, "known": known, "entropy": np.full(n, 0.3),
            "confidence": np.full(n, 0.9), "energy": np.linspace(0, 1, n),
            "step": np.arange(n) // batch, "segment": np.zeros(n, int)
        }
        out.append(Trace.from_columns(samples, steps, {"classes": CLASSES}))
    if prediction is not None:
        out[1] = Trace.from_columns({**{k: out[1][k] for k in samples}, "prediction": prediction},
                                    steps, {"classes": CLASSES})
    return out


def drawn(error, worse, better, n, seed):
    """Right before and after: ``error`` at first, ``worse`` of all turn wrong and ``better`` of
    all turn right, by chance."""
    dice = np.random.default_rng(seed)
    state = dice.choice(4, p=[1 - error - worse, worse, better, error - better], size=n)
    return state < 2, (state == 0) | (state == 2)


def situation(name, *pair, **more):
    return {"name": name, "title": name.title(), "note": "",
            **paired_numbers(*traces(*pair, **more), family=2)}


def verdict(*situations):
    return judge(situations, Rule())["verdict"]


def test_a_clear_gain_without_harm_is_used():
    found = [
        verdict(situation("a", *drawn(0.3, 0.02, 0.10, 3000, k)),
                situation("b", *drawn(0.1, 0.002, 0.004, 6000, 100 + k))) for k in range(8)
    ]
    assert found.count("use") >= 7 and "do not use" not in found


def test_clear_harm_anywhere_is_not_used():
    found = [
        verdict(situation("a", *drawn(0.3, 0.02, 0.10, 2000, k)),
                situation("b", *drawn(0.1, 0.06, 0.02, 2000, 100 + k))) for k in range(8)
    ]
    assert found.count("do not use") >= 7


def test_few_labels_cannot_tell():
    found = [verdict(situation("a", *drawn(0.2, 0.03, 0.03, 200, k))) for k in range(12)]
    assert found.count("cannot tell") >= 11


def test_equal_models_are_rarely_refused_for_harm():
    """The truth is no harm in all of five situations; by the rule at most one report in 20 may
    speak of harm."""
    refused = 0
    for k in range(25):
        five = [{
            "name": str(i), "title": "", "note": "",
            **paired_numbers(*traces(*drawn(0.2, 0.04, 0.04, 400, 1000 * i + k)), family=5)
        } for i in range(5)]
        refused += any(what == "harm" for what, _ in judge(five, Rule())["findings"].values())
    assert refused <= 3


def test_no_gain_is_no_reason_to_pay():
    same = np.arange(4000) % 10 > 0
    found = judge([situation("a", same, same)], Rule())
    assert found["verdict"] == "do not use" and "nothing is gained" in found["why"][0]


def test_collapse_is_seen_without_labels():
    right = np.ones(1000, bool)
    s = situation("a", right, right, label=np.full(1000, -1), prediction=np.zeros(1000, int))
    assert s["basis"] == "answers" and s["classes_kept"] == pytest.approx(0.1)
    assert judge([s])["verdict"] == "do not use" and "collapsed" in judge([s])["why"][0]


def test_without_labels_only_the_answers_that_change_bound_the_harm():
    right = np.ones(2000, bool)
    one = right.copy()
    one[:200] = False
    open_ = situation("a", right, one, label=np.full(2000, -1))
    assert open_["changed"] == 10.0 and open_["high"] > 10 and judge([open_
                                                                      ])["verdict"] == "cannot tell"
    one[1:] = True
    # one answer in 2000: nothing to gain
    assert judge([situation("a", right, one, label=np.full(2000, -1))])["verdict"] == "do not use"


def test_what_the_verdict_would_be_without_the_harmful_situation():
    good = situation("good", *drawn(0.3, 0.02, 0.10, 3000, 0))
    bad = situation("bad", *drawn(0.1, 0.3, 0.0, 1000, 1))
    found = judge([good, bad])
    assert found["verdict"] == "do not use" and found["findings"]["bad"][0] == "harm"
    assert found["without"].startswith('If "Bad" can never happen in your use, the verdict would '
                                       'be: use.')
    assert judge([good])["without"] == ""


def test_flips_and_errors_by_hand():
    before = np.ones(400, bool)
    after = np.ones(400, bool)
    # 20 stay wrong, 20 turn right, 60 turn wrong
    before[:40], after[20:100] = False, False
    s = paired_numbers(*traces(before, after))
    assert (s["source_error"], s["adapted_error"], s["right_to_wrong"], s["wrong_to_right"],
            s["changed"]) == (10, 20, 15, 5, 20)
    assert s["difference"] == pytest.approx(
        10) and s["labelled"] == 400 and s["ms"] == pytest.approx(2.0)


def test_unknown_images_and_missing_labels_do_not_count_as_errors():
    before = np.ones(400, bool)
    after = np.ones(400, bool)
    after[200:] = False
    label = np.arange(400) % 10
    known = np.arange(400) < 300
    label[250:300], label[300:] = -1, CLASSES
    s = paired_numbers(*traces(before, after, label=label, known=known))
    assert s["labelled"] == 250 and s["unfamiliar"] == 100 and s["adapted_error"] == 20 and s[
        "adapted_auroc"] == 0.0


def test_other_images_are_refused():
    a, b = traces(np.ones(100, bool), np.ones(100, bool))
    other = Trace.from_columns({k: b[k] for k in ("prediction", "label", "known")}
                               | {"id": np.arange(100) + 1})
    with pytest.raises(ValueError, match="different images"):
        paired_numbers(a, other)
    with pytest.raises(ValueError, match="level in"):
        Rule(level=0.3)


# --- the whole report

@pytest.fixture(scope="module")
def images():
    x, y = source_images()
    return ImageSet("tiny images", (255 * x[:600]).round().to(torch.uint8), y[:600],
                    tuple(map(str, range(10))))


@pytest.fixture(scope="module")
def report(images):
    return safety.safety_report(tiny("tinybn"), make("tent", lr=1e-3), images, limit=400,
                                singles=60, batch=50, progress=False)


def test_report_tries_every_situation(report):
    assert [s["name"] for s in report.situations
            ] == ["shuffled", "recorded", "single", "unfamiliar", "corrupted"]
    by = {s["name"]: s for s in report.situations}
    assert by["single"]["batch"] == 1 and by["single"]["images"] == 60 and by["recorded"][
        "images"] == 400
    assert by["unfamiliar"]["unfamiliar"] == 200 and by["unfamiliar"]["images"] == 600
    assert "made from your images" in by["unfamiliar"][
        "note"] and report.verdict in safety_judging.VERDICTS
    assert by["shuffled"]["forwards"] == 1.0 and report.facts["seconds"] > 0


def test_frozen_numbers_are_those_of_the_model(images, report):
    recorded = next(s for s in report.situations if s["name"] == "recorded")
    with torch.no_grad():
        wrong = tiny("tinybn")(images.images(torch.arange(400))).argmax(1) != images.y[:400]
    assert recorded["source_error"] == pytest.approx(100 * float(wrong.float().mean()))


def test_report_is_the_same_twice_and_leaves_the_model_alone(images, report):
    net = tiny("tinybn")
    before = {k: v.clone() for k, v in net.state_dict().items()}
    again = safety.safety_report(net, make("tent", lr=1e-3), images, limit=400, batch=50,
                                 situations=("unfamiliar", "shuffled"), progress=False)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    for a, b in ((s, t) for s in again.situations for t in report.situations
                 if s["name"] == t["name"]):
        assert (a["difference"], a["low"], a["window"], a["changed"]) == (b["difference"], b["low"],
                                                                          b["window"], b["changed"])


def test_page_holds_everything_in_itself(report, tmp_path):
    page = report.html()
    assert report.verdict.upper() in page and page.count(
        "<tr>") == 6 and "data:image/png;base64," in page
    assert not re.search(r"(?:src|href)=['\"](?!data:)", page) and "nan" not in re.sub(
        r"base64,[^']*", "", page).lower()
    assert page.count("<div") == page.count("</div") and report._repr_html_().startswith("<style>")
    for ending in ("html", "png", "pdf", "json"):
        assert report.save(tmp_path / f"r.{ending}").stat().st_size > 2000
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["verdict"] == report.verdict and found["situations"][0][
        "source_auroc"] is None and len(found["situations"]) == 5
    with pytest.raises(ValueError, match="ending .html"):
        report.save(tmp_path / "r.doc")
    assert str(report).startswith(report.verdict.upper())


def test_names_from_outside_cannot_write_into_the_page(report):
    from dataclasses import replace
    evil = replace(report, facts={**report.facts, "data": "<script>alert(1)</script>"})
    assert "<script>" not in evil.html()


def test_stricter_rule_over_the_same_numbers(report):
    lenient = report.with_rule(Rule(harm=100, window=100, collapse=0.001))
    strict = report.with_rule(Rule(harm=0, window=0.1))
    assert "harm" not in {what for what, _ in lenient.findings.values()} and strict.verdict != "use"
    with pytest.raises(ValueError, match="level"):
        report.with_rule(Rule(level=0.9))


@pytest.mark.parametrize("kind", ["tensors", "tensors without labels", "torch Dataset", "stream"])
def test_other_kinds_of_images(images, kind):
    from tta_lab import recorded
    x = images.images()
    y = images.y
    given = {
        "tensors": (x, y), "tensors without labels": (x, None),
        "torch Dataset": torch.utils.data.TensorDataset(x, y), "stream": recorded(images, batch=50)
    }[kind]
    only = ("stream",) if kind == "stream" else ("shuffled",)
    found = safety.safety_report(tiny("tinybn"), "batch_norm", given, limit=200, batch=50,
                                 situations=only, progress=False)
    s, = found.situations
    assert s["images"] == 200 and s["basis"] == ("answers"
                                                 if kind.endswith("without labels") else "labels")
    if kind.endswith("without labels"):
        assert "none of the images has a label" in found.html() and "200 images" in found.html()


def test_labelled_images_come_first(images):
    y = torch.full_like(images.y, -1)
    y[::10] = images.y[::10]
    some = ImageSet("partly", images.x, y, images.classes)
    s, = safety.safety_report(tiny("tinybn"), "batch_norm", some, limit=100,
                              situations=("shuffled",), progress=False).situations
    assert s["labelled"] == 60 and s["images"] == 100


def test_a_wild_learning_rate_is_refused(images):
    found = safety.safety_report(tiny("tinybn"), make("tent", lr=1.0), images, limit=400, batch=50,
                                 situations=("shuffled",), progress=False)
    assert found.verdict == "do not use" and found.findings["shuffled"][0] == "harm"


def test_a_run_that_stops_with_an_error_is_refused(images, monkeypatch):
    run = safety_runner.run
    calls = []

    def breaking(adapter, stream, progress):
        calls.append(adapter)
        if len(calls) == 2:
            raise safety_adapter.AdaptationError("the loss became nan")
        return run(adapter, stream, progress=progress)

    monkeypatch.setattr(safety, "run", breaking)
    found = safety.safety_report(tiny("tinybn"), "tent", images, limit=100, batch=50,
                                 situations=("shuffled", "recorded"), progress=False)
    assert found.verdict == "do not use" and found.why == ("Your images, shuffled: the adapting "
                                                           "model stopped with an error after 0 "
                                                           "images.",)
    assert "stopped" in found.html() and found.to_dict()["situations"][0]["difference"] is None


def test_wrong_requests_say_what_to_do(images):
    with pytest.raises(ValueError, match="choose from stream, shuffled"):
        safety.safety_report(tiny("tinybn"), "tent", images, situations=("night",), progress=False)
    with pytest.raises(ValueError, match="torch Dataset"):
        safety.safety_report(tiny("tinybn"), "tent", 3, progress=False)
    with pytest.raises(TypeError, match="make\\('tent'\\)"):
        safety.safety_report(tiny("tinybn"), 3, images, progress=False)


def test_scrambled_copies_keep_the_spectrum_and_lose_the_object(images):
    made = scrambled(images, 50, seed=1)
    x = images.images(torch.linspace(0, 599, 50).long())
    y = made.images()
    assert y.shape == x.shape and torch.equal(
        made.x,
        scrambled(images, 50, seed=1).x) and not torch.equal(made.x,
                                                             scrambled(images, 50, seed=2).x)
    power = [torch.fft.rfft2(v - v.mean((2, 3), keepdim=True)).abs().mean((0, 1)) for v in (x, y)]
    like = torch.corrcoef(torch.stack([p.flatten() for p in power]))[0, 1]
    same = torch.stack([
        torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
        for a, b in zip(x, y, strict=True)
    ])
    assert like > 0.9 and same.abs().mean() < 0.4


def test_figure_of_nothing_has_a_sentence():
    from tta_lab import plots
    from tta_lab.safety.figures import HOW_TO_READ, plot_safety
    assert "regret" in plots.HOW_TO_READ
    assert all(HOW_TO_READ[name].endswith(".") and ". " not in HOW_TO_READ[name]
               for name in ("safety", "safety_page"))
    figure = plot_safety({"situations": []})
    assert len(figure.axes) == 2 and all("Nothing to draw" in a.texts[0].get_text()
                                         for a in figure.axes)
    assert plot_safety({"situations": []}, "plotly").layout.annotations


def test_a_stretch_that_is_really_worse_is_harm_though_the_rest_gains():
    """Segments differ for good: the gain elsewhere must not hide one of 500 images that loses 12
    points."""
    dice = np.random.default_rng(5)
    shares = {False: [0.02, 0.32, 0.66], True: [0.17, 0.05, 0.78]}
    harm = np.concatenate([dice.choice([1, -1, 0], p=shares[k == 1], size=500) for k in range(4)])
    w = worst_window(harm)
    assert w["worst"] > 8 and w["corrected"] > 6 and w["p"] < 0.01
    s = {
        **situation("a", np.ones(2000, bool), np.ones(2000, bool)), "difference": -19.0,
        "low": -22.0, "high": -16.0, "low_sure": -23.0, "window": w
    }
    assert judge([s])["verdict"] == "do not use" and "in one stretch of 500 images" in judge(
        [s])["why"][0]
