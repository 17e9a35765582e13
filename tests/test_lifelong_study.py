"""The study of lifelong adaptation: streams that show what they claim, visits and their errors by
hand, identities, what is refused, the panel."""
import math
import threading
from dataclasses import replace

import numpy as np
import pytest

from tta_lab.components.controllers.guard import Guard
from tta_lab.core.trace import Trace
from tta_lab.experiments.runner import row
from tta_lab.studies.lifelong import figures as pictures
from tta_lab.studies.lifelong import study as S
from tta_lab.studies.lifelong import text as sentences

TINY = replace(S.FAST, rounds=2, per_shift=10, batch=5, clean=1,
               arms=("source", "batch_norm", "tent", "tent_large", "rdumb_large", "guard_large"))


@pytest.fixture(scope="module")
def result():
    return S.study(TINY)


def hand_made(round_, domain, ids, correct, **more):
    n = len(ids)
    columns = {"round": round_, "domain": domain, "segment": domain, "id": ids, "correct": correct,
               "known": np.ones(n, bool), "label": np.zeros(n, int)}
    return Trace.from_columns({**columns, **more}, meta={"domains": ["fog", "frost"]})


# --- plan and streams

def test_plans_say_what_they_hold_and_refuse_what_does_not_exist():
    plan = S.Plan.of(True, rounds=5, large=0, first_seed=2)
    assert (plan.rounds == 5 and plan.large == S.FAST.large and "5 rounds" in plan.describe()
            and list(plan.all_seeds) == [2])
    assert ("rmt" in S.Plan.of(False).arms and S.Plan.of(False).views == 32
            and S.Plan(per_shift=10, batch=5).every == 10)  # 0.8 x 12 batches
    for settings, word in (({"x": 1}, "no setting 'x'"), ({"arms": ("tent",)}, "batch_norm"),
                           ({"rounds": 1}, "2 rounds")):
        with pytest.raises(ValueError, match=word):
            S.Plan.of(True, **settings)
    for call, word in ((lambda: plan.stream("x", 0), "stream must be one of"),
                       (lambda: S.recipe_of("x"), "the arm must be one of"),
                       (lambda: S.anchored(1.0, "x"), "kind must be one of")):
        with pytest.raises(ValueError, match=word):
            call()


def test_arms_have_the_rates_and_anchors_that_they_are_called_by():
    plan = replace(S.FULL, large=7.0, anchor=5.0, reset_every=3)
    recipes = plan.recipes()
    assert recipes["tent"].update.lr == pytest.approx(1e-3)
    assert {recipes[a].update.lr for a in S.LARGE} == {7e-3}
    assert (recipes["eata_large"].penalties[0].weight == 5.0 and not recipes["eta_large"].penalties
            and recipes["cotta"].views == 32)
    assert (recipes["eata_large"].select == recipes["eta_large"].select
            == recipes["rdumb_large"].select)
    assert recipes["rdumb_large"].controllers[0].steps == 3 and isinstance(
        recipes["guard_large"].controllers[0], Guard)
    assert set(S.USUAL) | set(S.LARGE) == set(S.ARMS) and S.ABOUT.keys() == S.ARMS.keys() - {
        "source", "batch_norm"}
    assert (S.anchored(3.0, "reset", plan).controllers[0].steps == 3
            and S.anchored(3.0, "Fisher", plan).penalties[0].weight == 5.0)
    assert (S.anchored(3.0, "nothing").update.lr == pytest.approx(3e-3)
            and not S.anchored(3.0, "nothing").controllers)


def ids_of(stream, round_=None):
    return [int(i) for arrival in stream.plan() if round_ is None or arrival.round == round_
            for i in arrival.ids]


def test_streams_show_the_images_that_they_promise():
    plan = replace(TINY, rounds=3)
    same = plan.stream("same", 1)
    new = plan.stream("new", 1)
    clean = plan.unshifted(1)
    assert sorted(ids_of(same, 0)) == sorted(ids_of(same, 2)) and len(same) == 3 * 6 * 2
    assert not set(ids_of(new, 0)) & set(ids_of(new, 1)) and new.rounds == 2
    assert (not set(ids_of(same)) & set(ids_of(clean))
            and clean.n_images == plan.clean * plan.per_shift)
    assert {int(d) for batch in clean.batches("cpu") for d in batch.severity} == {0}
    facts = {n: replace(plan, per_shift=60).stream(n, 1).statistics()
             for n in ("new", "correlated")}
    assert facts["correlated"]["run_length"] > 1.5 * facts["new"]["run_length"]
    cyclic = plan.cyclic(1)
    assert len(set(ids_of(cyclic))) == cyclic.n_images == 2 * 8 * plan.per_shift and cyclic.shifts[
        :4] == ("gaussian_noise", "impulse_noise") * 2


# --- visits

def test_visits_and_their_changes_by_hand():
    round_ = np.repeat([0, 1], 4)
    domain = np.array([0, 0, 1, 1] * 2)
    found = S.visits(hand_made(round_, domain, [7, 3, 4, 9, 3, 7, 9, 4],
                               np.array([1, 0, 1, 0, 1, 1, 0, 1], bool)))
    assert found["paired"] and found["first"].tolist() == [True, False, False, True] and found[
        "second"].tolist() == [False, False, False, True]
    points, error = S.change(found)
    # differences -1 0 0 0: deviation 0.5
    assert points == -25 and error == pytest.approx(100 * 0.5 / 2)
    still = S.visits(hand_made(round_, domain, [7, 3, 4, 9, 3, 7, 9, 4],
                               np.array([1, 0, 1, 0, 0, 1, 0, 1], bool)))
    assert (S.change(still) == (0, 0) and S.change_against(found, still) == (points, error)
            and S.change_against(found, found) == (0, 0))
    others = S.visits(hand_made(round_, domain, [7, 3, 4, 9, 5, 6, 8, 2],
                                np.array([1, 0, 1, 0, 1, 1, 0, 1], bool)))
    assert not others["paired"] and S.change(others)[1] == pytest.approx(
        100 * math.sqrt((1 / 3 + 1 / 4) / 4))
    with pytest.raises(ValueError, match="two rounds"):
        S.visits(hand_made(np.zeros(2, int), [0, 1], [1, 2], np.ones(2, bool)))


def test_stretches_of_the_cyclic_stream_by_hand():
    segment = np.tile(np.arange(8), 2)
    correct = np.ones(16, bool)
    correct[[2, 3, 12]] = False  # noise again, visit 1; haze, visit 2
    names, errors = S.by_group(hand_made(np.repeat([0, 1], 8), segment, np.arange(16), correct,
                                         segment=segment))
    assert dict(zip(names, errors, strict=True)) == {
        "noise\nvisit 1": 0, "noise, again\nvisit 1": 100, "haze\nvisit 1": 0,
        "haze, again\nvisit 1": 0, "noise\nvisit 2": 0, "noise, again\nvisit 2": 0,
        "haze\nvisit 2": 50, "haze, again\nvisit 2": 0}


# --- the study

def test_what_does_not_learn_does_not_move_and_what_resets_comes_back(result):
    assert result.mean("source", "first") == result.mean("source", "last") and result.mean(
        "source", "forgotten") == 0
    assert result.mean("source", "most") == result.mean("batch_norm", "most") == 0
    tent, large, rdumb = (S.distance(result.traces[a])["distance"]
                          for a in ("tent", "tent_large", "rdumb_large"))
    assert large[-1] > 5 * tent[-1] > 0 and result.mean("rdumb_large", "resets") == 24 // TINY.every
    assert rdumb[TINY.every] < rdumb[TINY.every - 1]
    assert result.runs["source", 0]["n_clean"] == 10 and result.against("batch_norm") == (0, 0)
    points, error = result.against("tent_large")
    assert points == pytest.approx(result.mean("tent_large", "last")
                                   - result.mean("batch_norm", "last")) and error >= 0


def test_second_visits_are_counted_beyond_bn_1(result):
    found = S.second_visits(result)
    assert found["same"]["arms"] == ["tent", "tent_large", "rdumb_large", "guard_large"] and found[
        "new"]["arms"] == ["tent", "tent_large"]
    v = {a: result.visits["same", a, 0] for a in ("tent", "batch_norm")}
    assert v["tent"]["paired"] and not result.visits["new", "tent", 0]["paired"]
    expected = 100 * ((v["tent"]["second"].mean() - v["tent"]["first"].mean())
                      - (v["batch_norm"]["second"].mean() - v["batch_norm"]["first"].mean()))
    assert found["same"]["points"][0] == pytest.approx(expected)


def test_sentences_follow_the_numbers(result):
    lines = [*sentences.say_rounds(result), *sentences.say_forgetting(result),
             *sentences.say_distance(result), *sentences.say_visits(result),
             *sentences.say_cyclic(result), *sentences.say_guard(result),
             *sentences.say_seeds(result)]
    assert "nan" not in " ".join(lines).lower() and all(line.endswith(".") for line in lines)
    clearly = S.Study(replace(TINY, arms=("source", "batch_norm", "tent", "tent_large")))
    clearly.runs = {(a, 0): {} for a in clearly.plan.arms}
    still = {"first": np.zeros(50, bool), "second": np.zeros(50, bool), "paired": True}
    learned, lost = ({**still, name: np.arange(50) < 20} for name in ("first", "second"))
    clearly.visits = {(s, a, 0): v for s in S.STREAMS
                      for a, v in (("batch_norm", still), ("tent", learned), ("tent_large", lost))}
    line = sentences.say_visits(clearly)[-1]
    assert line.startswith("Beyond two standard errors over images the second visit is better for "
                           "Tent (the same images again)")
    assert "worse for Tent (large) (the same images again)" in line
    clearly.visits = {k: still for k in clearly.visits}
    assert "neither clearly better nor worse" in sentences.say_visits(clearly)[-1]


def test_anchor_is_praised_only_where_it_keeps_something():
    found = S.Study(replace(TINY, arms=("source", "batch_norm", "tent", "tent_large", "eta_large",
                                        "eata_large")))

    def say(eta, eata):
        for a in found.plan.arms:
            clean = {"eta_large": eta, "eata_large": eata}.get(a, 6.0)
            found.runs[a, 0] = {"clean": clean, "clean_source": 6.0, "n_clean": 400, "last": 15.0}
        return " ".join(sentences.say_forgetting(found))

    assert "keeps what ETA forgets" in say(18.0, 6.5) and "forgotten by ETA (large) (+12.0)" in say(
        18.0, 6.5)
    assert "makes no difference to forgetting" in say(7.0, 6.5) and "forgotten by nobody" in say(
        7.0, 6.5)
    assert "forgets more than ETA here" in say(6.5, 18.0)


def test_numbers_can_be_written_and_figures_drawn(result, tmp_path):
    S.save(result, tmp_path / "numbers.json")
    text = (tmp_path / "numbers.json").read_text()
    assert '"arm": "guard_large"' in text and "NaN" not in text and sentences.table(result).count(
        "\n") == 6
    names = {name.removeprefix("plot_") for name in dir(pictures) if name.startswith("plot_")}
    assert set(pictures.HOW_TO_READ) == names and all(t.endswith(".") and ". " not in t
                                                      for t in pictures.HOW_TO_READ.values())
    rounds = pictures.plot_rounds(result)
    assert ([len(a.lines) for a in rounds.axes] == [2, 4]
            and rounds.axes[0].get_ylim() == rounds.axes[1].get_ylim())
    assert len(pictures.plot_forgetting(S.forgetting_table(result)).axes[0].patches) == 5
    assert len(pictures.plot_second_visits(S.second_visits(result)).axes) == 3 and len(
        pictures.plot_cyclic(result, "plotly").data) == 4
    assert (len(pictures.plot_distances(result).axes[1].lines) == 3
            and list(S.guards_of(result)) == ["Tent alone", "with guard", "RDumb"])
    assert "No run" in str(pictures.plot_guards({}).axes[0].get_title())


# --- the panel

@pytest.fixture(scope="module")
def headless():
    pytest.importorskip("ipywidgets")
    from tta_lab.panels.lifelong_panel import lifelong_panel
    return lifelong_panel(rate=40.0, anchor="reset", rounds=2, interactive=False)


def test_headless_panel_has_run_and_its_code_gives_the_same_number(headless):
    assert (headless.error is None
            and "Done: Tent at 40 times its rate, held by reset now and then" in headless.message)
    assert ("clean images" in headless.message and len(headless.result["marks"]) == 2
            and headless.result["borders"] == (480,))
    scope = {}
    exec(headless.to_code(), scope)
    assert row(scope["trace"])["error"] == row(headless.trace)["error"] and scope["trace"].meta[
        "clean"] == headless.trace.meta["clean"]


def test_panel_stops_and_keeps_failures(headless, monkeypatch):
    from tta_lab.panels import lifelong_panel as P

    panel = P.lifelong_panel(rate=40.0, rounds=2)
    assert (panel.frame.src.startswith("data:image/png") and panel.widget.children
            and "held by nothing" in panel.describe())
    panel.controls["anchor"].value = "guard"
    assert "held by guard" in panel.description.value
    panel._known["same", 2] = headless.beside
    began = threading.Event()
    whole = S.one_run

    def slow(*args, each, **more):  # says when it has begun, then waits to be stopped
        def look(trace):
            each(trace)
            began.set()
            panel._stop.wait(20)
        return whole(*args, each=look, **more)

    monkeypatch.setattr(P.study, "one_run", slow)
    panel.run_button.click()
    assert began.wait(60)
    panel.stop_button.click()
    assert panel.wait(60) and panel.error is None and panel.message.startswith("Stopped") and len(
        panel.trace) == S.FAST.batch
    assert "clean images" not in panel.message
    monkeypatch.setattr(P.study, "one_run", lambda *a, **k: 1 / 0)
    panel.run_button.click()
    assert panel.wait(60) and isinstance(panel.error,
                                         ZeroDivisionError) and "ZeroDivisionError" in panel.message
    for settings, word in (({"anchor": "x"}, "anchor must be one of"),
                           ({"rate": 0}, "rate must be positive")):
        with pytest.raises(ValueError, match=word):
            P.lifelong_panel(**settings)
