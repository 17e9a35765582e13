"""The study of normalisation: statistics, gradients and harm by hand, identities between streams
and arms, what is refused, the panel."""
import math
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tta_lab import Adapter, run
from tta_lab.components.norms.batch_norm import BatchStatistics
from tta_lab.experiments.runner import row
from tta_lab.methods import make
from tta_lab.studies.norms import figures as pictures
from tta_lab.studies.norms import study as S
from tta_lab.studies.norms import text as sentences

TINY = replace(S.FAST, per_shift=20, alone=2, batch=10, long=10, small=10, looked_at=6,
               sources=("fashion_resnet_bn", "fashion_resnet_gn"),
               shifts=("gaussian_noise", "contrast"),
               methods=("source", "batch_norm", "tent", "iabn"))


@pytest.fixture(scope="module")
def result():
    return S.study(TINY)


# --- plan

def test_plans_say_what_they_hold_and_refuse_what_does_not_exist():
    plan = S.Plan.of(True, per_shift=40, lr=0, first_seed=3)
    assert (plan.per_shift == 40 and plan.lr == S.FAST.lr and list(plan.all_seeds) == [3]
            and "40 of each shift" in plan.describe())
    assert len(S.Plan.of(False).sources) == 5 and S.Plan.of(False).kinds == ["BN", "GN", "LN"]
    for settings, word in (({"x": 1}, "no setting 'x'"), ({"sources": ("nobody",)}, "nobody"),
                           ({"methods": ("tent",)}, "batch_norm")):
        with pytest.raises(ValueError, match=word):
            S.Plan.of(True, **settings)
    with pytest.raises(ValueError, match="setting must be one of"):
        plan.stream("wild", 0)
    with pytest.raises(ValueError, match="method must be one of"):
        S.recipe_of("x", 0.1)


def test_settings_are_the_streams_they_are_called():
    streams = {name: TINY.stream(name, 0) for name in S.SETTINGS}
    assert ([streams[n].reset for n in S.SETTINGS] == ["domain", "never", "domain", "domain"]
            and TINY.long_stream(0).reset == "never")
    facts = {name: stream.statistics() for name, stream in streams.items()}
    assert facts["mixed"]["domains_per_batch"] == 2 and facts["mild"]["domains_per_batch"] == 1
    assert (facts["labels"]["classes_per_batch"] < 7 < facts["mild"]["classes_per_batch"]
            and streams["single"].batch == 1)
    recipes = TINY.recipes("fashion_resnet_bn", "single")
    assert recipes["tent"].update.lr == TINY.lr / S.SINGLE_RATE and TINY.recipes(
        "fashion_resnet_bn", "mild")["tent"].update.rule == "sgd"
    assert set(TINY.recipes("fashion_resnet_gn", "mild")) == {"source", "tent"}


# --- statistics

def test_moments_of_a_layer_by_hand():
    layer = nn.BatchNorm2d(1, eps=0.5)
    network = nn.Sequential(nn.Identity(), layer)
    BatchStatistics().apply_(network)
    (mean, var), = S.batch_norm_moments(network, torch.tensor([[[[0.0, 2.0]]], [[[4.0, 2.0]]]]))
    assert mean.tolist() == [2.0] and var.tolist() == [2.5]           # (4 + 0 + 4 + 0) / 4 + eps
    assert not network[1]._forward_pre_hooks


def test_a_batch_that_is_the_whole_shift_has_the_right_statistics():
    found = S.statistics(replace(TINY, batch=TINY.per_shift))
    assert np.abs(found["settings"]["mild"]).max() < 1e-9 and (found["settings"]["single"]
                                                               > 0.01).all()
    assert found["settings"]["single"].mean() > found["settings"]["mixed"].mean() > 0 and found[
        "source"].mean() > 0.01
    with pytest.raises(ValueError, match="has no batch norm"):
        S.statistics(TINY, "fashion_resnet_gn")


def test_what_a_method_normalises_with():
    found = S.in_use(TINY, methods=("source", "batch_norm", "iabn"))
    assert (np.nanmax(found["lines"]["source"]) < 1e-3 < np.nanmin(found["lines"]["batch_norm"])
            and found["marks"] == (2,))
    assert found["lines"]["iabn"].mean() < found["lines"]["batch_norm"].mean()


# --- gradients

def test_numbers_of_gradients_by_hand():
    entropy = np.linspace(0.0, 1.8, 10)  # 0.4 ln 10 = 0.92: the last five are unsure
    norm = np.arange(10.0)
    found = {"entropy": entropy, "norm": norm, "group": np.array(["correct"] * 6 + ["wrong"] * 4)}
    n = S.of_gradients(found)
    assert (n["correlation"] == pytest.approx(1) and n["unsure"] == 0.5
            and n["unsure_pull"] == pytest.approx(35 / 45))
    assert n["wrong_unsure"] == 0.8 and n["wrong_sure"] == 0 and n["longest_wrong"] == 1 and n[
        "longest_sure"] == 0
    turned = S.of_gradients({**found, "entropy": entropy[::-1]})
    assert turned["correlation"] == pytest.approx(-1) and turned["longest_sure"] == 1
    words = " ".join(sentences.say_gradients({"GN": {**found, "entropy": entropy[::-1]}}))
    assert "with none of the sources" in words
    words = " ".join(sentences.say_gradients({"GN": {**found, "entropy": entropy / 10}}))
    assert "would drop none of these images, although 40 % of them are wrong" in words


# --- the study

def test_networks_without_batch_norm_do_not_care_who_is_in_the_batch(result):
    for source in TINY.sources:  # the same images, mixed or not
        assert result.values(source, "mild", "source") == result.values(source, "mixed", "source")
    bn = "fashion_resnet_bn"
    assert result.values(bn, "mild", "batch_norm") != result.values(bn, "mixed", "batch_norm")
    assert (bn, "mild", "iabn", 0) in result.runs and ("fashion_resnet_gn", "mild", "iabn",
                                                       0) not in result.runs
    assert math.isnan(result.mean("GN", "mild", "batch_norm")) and math.isnan(
        result.against("fashion_resnet_gn", "mild", "batch_norm")[0])


def test_differences_are_against_the_own_source(result):
    table = S.differences(result)
    assert table["rows"] == ["BN: BN-1", "BN: Tent", "BN: IABN", "GN: Tent"]
    e = {m: result.values("fashion_resnet_bn", "labels", m)[0]
         for m in ("source", "batch_norm", "tent")}
    assert table["values"][0][2] == pytest.approx(e["batch_norm"] - e["source"])
    against = S.differences(result, "batch_norm")
    assert against["rows"] == ["BN: Tent", "BN: IABN"] and against["values"][0][2] == pytest.approx(
        e["tent"] - e["batch_norm"])


def test_standard_error_of_a_difference_by_hand():
    found = S.Study(replace(TINY, sources=("fashion_resnet_gn",)))
    found.runs = {("fashion_resnet_gn", "mild", m, 0): {"error": 0.0} for m in ("source", "tent")}
    found.wrong = {("fashion_resnet_gn, mild", "source", 0): np.array([1, 0, 0, 0], bool),
                   ("fashion_resnet_gn, mild", "tent", 0): np.array([1, 1, 1, 0], bool)}
    points, error = found.against("fashion_resnet_gn", "mild", "tent")
    # differences 0 1 1 0
    assert points == 50 and error == pytest.approx(100 * math.sqrt(1 / 3 / 4))


def test_harm_is_counted_against_the_own_start_and_beyond_chance():
    found = S.Study(replace(TINY, sources=("fashion_resnet_bn",)))
    wrong = {"source": np.zeros(100, bool), "batch_norm": np.arange(100) < 50,
             "tent": np.arange(100) < 60, "sar": np.arange(100) < 51}
    for method, w in wrong.items():
        found.runs["fashion_resnet_bn", "mild", method, 0] = {
            "error": 100.0 * w.mean(), "alarm": 4 if method == "tent" else -1}
        found.wrong["fashion_resnet_bn, mild", method, 0] = w
    tent, sar = S.harmed(found)
    assert tent["points"] == pytest.approx(10) and tent["harmed"] and tent["alarm"] and not sar[
        "harmed"] and not sar["alarm"]


def test_arms_are_what_their_names_say():
    plan = replace(TINY, shifts=("gaussian_noise",), per_shift=60, batch=30)
    trained = {}
    for name, recipe in {**S.arms(0.3), "published": make("sar", lr=0.3)}.items():
        adapter = Adapter(S.own.network("fashion_resnet_gn"), recipe, seed=0, device="cpu")
        trace = run(adapter, plan.stream("mixed", 0))
        trained[name] = torch.cat([p.detach().flatten() for p in adapter.tuned.values()])
        assert np.isfinite(row(trace)["error"])
    # nothing of this network is called its top
    assert torch.equal(trained["sar"], trained["published"])
    assert not torch.equal(trained["tent"], trained["filter"]) and not torch.equal(
        trained["filter"], trained["both"])
    assert torch.equal(trained["both"], trained["sar"])                  # too short for a reset


def test_sentences_follow_the_numbers(result):
    lines = " ".join([*sentences.say_sources(result), *sentences.say_methods(result),
                      *sentences.say_seeds(result), *sentences.say_parts(result),
                      *sentences.say_alarms(result)])
    assert "nan" not in lines.lower() and "batch of one" in lines and "Fast mode has one" in lines
    calm = S.Study(replace(TINY, sources=("fashion_resnet_gn",)))
    calm.parts_start["fashion_resnet_gn", 0] = 20.0
    calm.parts = {("fashion_resnet_gn", 0.3, arm, 0): {"error": e, "resets": 2}
                  for arm, e in zip(S.ARMS, (21, 21, 21, 21, 20), strict=True)}
    assert "at most 2 points of harm to prevent; SAR 20.0 %" in sentences.say_parts(calm)[0]
    calm.parts["fashion_resnet_gn", 0.3, "tent", 0]["error"] = 60
    line = sentences.say_parts(calm)[0]
    assert ("Tent 60.0 %; with the filter 21.0 (-39.0)" in line
            and "resets itself (2 times), 20.0 (-1.0 more)" in line)


def test_numbers_can_be_written(result, tmp_path):
    S.save(result, tmp_path / "numbers.json", more=1.0)
    text = (tmp_path / "numbers.json").read_text()
    assert '"setting": "labels"' in text and '"more": 1.0' in text and "NaN" not in text
    assert sentences.table(result).count("\n") == 6 and "GN: Tent" in sentences.table(result)


def test_every_figure_is_drawn_and_says_how_to_read_it(result):
    names = {name.removeprefix("plot_") for name in dir(pictures) if name.startswith("plot_")}
    assert set(pictures.HOW_TO_READ) == names and all(t.endswith(".") and ". " not in t
                                                      for t in pictures.HOW_TO_READ.values())
    over = {"Tent": S.over_time(result.traces["fashion_resnet_gn", "tent"])}
    assert pictures.plot_over_time(over).axes[1].get_ylabel() == "effective classes"
    figure = pictures.plot_differences(S.differences(result), S.differences(result, "batch_norm"))
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == S.differences(result)["rows"]
    assert len(pictures.plot_sources(S.source_errors(result), "plotly").data) == 3 and len(
        pictures.plot_parts(S.parts(result)).axes) == 1
    assert "Nothing has run yet" in str([t.get_text() for a in pictures.plot_live(None).axes
                                         for t in a.texts])


# --- single runs and the panel

def test_a_run_alone_and_what_it_refuses():
    with pytest.raises(ValueError, match="fashion_vit_ln has none"):
        S.one_run("fashion_vit_ln", "labels", "batch_norm")
    with pytest.raises(ValueError, match="source must be one of"):
        S.one_run("nobody")
    assert set(S.beside_run("fashion_resnet_gn", "mild", 64)) == {"source"}


@pytest.fixture(scope="module")
def headless():
    pytest.importorskip("ipywidgets")
    from tta_lab.panels.norm_panel import norm_panel
    return norm_panel(batch=64, interactive=False)


def test_headless_panel_has_run_and_its_code_gives_the_same_number(headless):
    assert (headless.error is None
            and "Done: IABN on fashion_resnet_bn under online label shift" in headless.message)
    assert set(headless.result["error"]) == {"this run", "source", "BN-1"} and headless.figure.axes
    scope = {}
    exec(headless.to_code(), scope)
    assert row(scope["trace"])["error"] == row(headless.trace)["error"]
    assert f"error {headless.result['error']['this run']:.1f} %" in headless.message


def test_panel_refuses_says_failures_and_stops(headless, monkeypatch):
    from tta_lab.panels import norm_panel as P

    panel = P.norm_panel(source="fashion_vit_ln", method="tent", batch=64)
    assert (panel.frame.src.startswith("data:image/png") and "Nothing has run yet" in panel.message
            and panel.widget.children)
    panel.controls["method"].value = "batch_norm"
    panel.run_button.click()
    assert ("fashion_vit_ln has none" in panel.message and panel.trace is None
            and panel.error is None)
    panel.controls["method"].value = "tent"
    panel._known["fashion_vit_ln", "labels", 64] = headless.beside
    began = threading.Event()
    whole = S.one_run

    def slow(*args):  # says when it has begun, then waits to be stopped
        def each(trace):
            args[7](trace)
            began.set()
            panel._stop.wait(20)
        return whole(*args[:7], each, *args[8:])

    monkeypatch.setattr(P.study, "one_run", slow)
    panel.run_button.click()
    assert began.wait(60)
    panel.stop_button.click()
    assert panel.wait(60) and panel.error is None and panel.message.startswith("Stopped") and len(
        panel.trace) == 64
    monkeypatch.setattr(P.study, "one_run", lambda *a: 1 / 0)
    panel.run_button.click()
    assert panel.wait(60) and isinstance(panel.error,
                                         ZeroDivisionError) and "ZeroDivisionError" in panel.message
    with pytest.raises(ValueError, match="method must be one of"):
        P.norm_panel(method="x")
