"""What panels keep and what they leave behind: settings of a protocol or a method leave with it,
what is written of a run is the run's, old figures are marked, files are not written over, Python
files are not run unasked."""
import json
import threading

import pytest

from tta_lab.components.controllers.guard import guarded
from tta_lab.components.selectors import SELECTORS
from tta_lab.experiments import compose
from tta_lab.experiments.experiment import Experiment, Session
from tta_lab.methods import METHODS, make
from tta_lab.methods.serialise import to_json
from tta_lab.panels import stream_panel as S
from tta_lab.streams import protocols

W = pytest.importorskip("ipywidgets")
pytest.importorskip("plotly.graph_objects")
pytest.importorskip("anywidget")
pytest.importorskip("pandas")
from tta_lab.panels import controls  # noqa: E402
from tta_lab.panels import explorer as P  # noqa: E402
from tta_lab.panels import explorer_state as state  # noqa: E402
from tta_lab.panels.collapse_panel import collapse_panel  # noqa: E402
from tta_lab.panels.composer import composer  # noqa: E402
from tta_lab.panels.composer import save as save_runs  # noqa: E402
from tta_lab.panels.norm_panel import norm_panel  # noqa: E402
from tta_lab.panels.your_model import your_model  # noqa: E402

SMALL = {"per_shift": 20, "batch": 10, "shifts": ("fog", "contrast"), "device": "cpu"}
NAMES = tuple(protocols.PROTOCOLS)


def said(panel) -> dict:
    """Values of all controls and knobs, and the choice."""
    values = {name: widget.value for name, widget in (panel.controls | panel.knobs).items()}
    choice = getattr(panel, "choice", None)
    made = (None if choice is None else
            (choice.stream.hash, to_json(choice.recipe), choice.model, choice.source_images))
    return values | {"made": made or getattr(panel, "incompatibility", "")}


@pytest.fixture
def light(monkeypatch):
    """Without what takes the most time after every choice: the look whether it can run, and the
    words."""
    monkeypatch.setattr(state, "incompatibilities", lambda choice: [])
    monkeypatch.setattr(P.ExplorerPanel, "_refresh", lambda self: None)


# --- settings leave with what brought them

def test_after_a_protocol_another_is_as_in_a_fresh_panel(light):
    panel = P.explorer(**SMALL)
    for a, b in (("open_set", "recurring"), ("recurring", "continual"), ("cyclic", "open_set")):
        panel.controls["protocol"].value = a
        panel.controls["protocol"].value = b
        assert said(panel) == said(P.explorer(protocol=b, **SMALL)), (a, b)
    assert panel.error is None and panel.controls["unknown_ratio"].value == 1


def test_the_stream_panel_leaves_nothing_behind_either(monkeypatch):
    # only what is built is looked at
    monkeypatch.setattr(S.StreamPanel, "_draw_stream", lambda self: None)
    monkeypatch.setattr(S.StreamPanel, "describe", lambda self: "")
    small = {"per_shift": 10, "batch": 5, "shifts": ("fog",)}
    fresh = {}
    for name in NAMES:
        made = S.StreamPanel("fashion_mnist", True, "cpu", 0, {"protocol": name, **small})
        fresh[name] = {n: w.value
                       for n, w in made.controls.items()}, made.incompatibility or made.stream.hash
    panel = S.StreamPanel("fashion_mnist", True, "cpu", 0, dict(small))
    for a in NAMES:
        for b in ("continual", "batch_of_one", "recurring", "open_set", "mixed_domains",
                  "closed_set"):
            panel.controls["protocol"].value = a
            panel.controls["protocol"].value = b
            assert ({n: w.value for n, w in panel.controls.items()}, panel.incompatibility
                    or panel.stream.hash) == fresh[b], (a, b)


def test_what_was_set_by_hand_stays_where_it_means_something(light):
    panel = P.explorer(**SMALL)
    c = panel.controls
    c["severity"].value = 2.0
    c["straddle"].value = True
    c["batch"].value = 7
    c["protocol"].value = "mixed_domains"
    assert panel.incompatibility == "" and not c["straddle"].value and c[
        "severity"].value == 2 and panel.choice.stream.batch == 7
    c["protocol"].value = "open_set"
    c["unknown_ratio"].value = 0.5
    c["protocol"].value = "batch_of_one"
    assert c[
        "unknown_ratio"].value == 0 and panel.choice.stream.unknown is None and not panel.choice.stream.straddle
    c["protocol"].value = "open_set"
    # it comes back with its protocol
    assert c["unknown_ratio"].value == 0.5 and c["batch"].value == 7
    c["protocol"].value = "recurring"
    assert c["rounds"].value == 3
    c["rounds"].value = 5
    c["protocol"].value = "continual"
    assert c["rounds"].value == 1 and panel.choice.stream.rounds == 1
    c["rounds"].value = 2
    c["protocol"].value = "cyclic"
    # set by hand where it is nobody's own
    assert c["rounds"].value == 2


def test_after_any_method_any_other_is_as_in_a_fresh_panel(light):
    fresh = {name: said(P.explorer(method=name, **SMALL)) for name in METHODS}
    panel, names = P.explorer(**SMALL), tuple(METHODS)
    for i, a in enumerate(names):
        panel.controls["method"].value = a
        for widget in panel.knobs.values():
            widget.value = controls.other(widget)
        panel.controls["form"].value = controls.other(panel.controls["form"])
        for b in names[i + 1:] if i < 3 else names[i + 1:i + 2]:
            panel.controls["method"].value = b
            assert said(panel) == fresh[b], (a, b)


@pytest.mark.parametrize("way", ["first", "second"])
def test_a_selector_does_not_take_over_the_knobs_of_another(light, way):
    for a in ("entropy_threshold", "entropy_weight", "confidence_rise"):
        panel = P.explorer(**SMALL, selectors=(a, "") if way == "first" else ("confidence_rise", a))
        for name, widget in panel.knobs.items():
            if name.startswith("select.0." if way == "first" else "select.1."):
                widget.value = controls.other(widget)
        panel.knobs["update.lr"].value = 0.01
        for b in SELECTORS:
            if b != a:
                panel.controls[way].value = b
                fresh = P.explorer(**SMALL, lr=0.01, selectors=(b, "") if way == "first" else
                                   ("confidence_rise", b))
                if way == "first" or "confidence_rise" not in (a, b):
                    assert panel.choice == fresh.choice or to_json(panel.choice.recipe) == to_json(
                        fresh.choice.recipe), (a, b)
    panel.controls["guard"].value = True
    assert to_json(
        panel.choice.recipe).count("Guard") == 1 and panel.choice.recipe.controllers == guarded(
            make("tent")).controllers


def test_the_composer_begins_anew_with_each_method(monkeypatch):
    panel = composer(interactive=True, device="cpu", per_shift=20, batch=10)
    monkeypatch.setattr(panel, "_fast", True)
    for a, b in (("cotta", "tent"), ("eata", "tent"), ("sar", "eta"), ("rotta", "cotta")):
        panel.controls["start"].value = a
        for widget in list(panel.knobs.values()):
            if widget in panel.knobs.values():
                widget.value = controls.other(widget)
        panel.controls["start"].value = b
        assert compose.recognise(panel.recipe) == (b, []), (a, b)
    panel.knobs["update.lr"].value = 0.5
    panel.controls["start"].value = "tent"
    panel.controls["update"].value = "Sam"
    panel.controls["update"].value = "Step"
    # not the step of the method before
    assert compose.recognise(panel.recipe) == ("tent", [])
    held = composer(guarded(make("tent")), device="cpu", per_shift=20, batch=10)
    held.controls["start"].value = "eta"
    assert not held.controls["guard"].value and compose.recognise(held.recipe) == ("eta", [])
    held.controls["guard"].value = True                               # by hand: it stays
    held.controls["start"].value = "tent"
    assert held.recipe.controllers == guarded(make("tent")).controllers
    for thread in threading.enumerate():
        if thread.name == "composer marks":
            thread.join(60)


# --- what is written of a run is the run's

def slowly(monkeypatch, kind=Session, name="advance"):
    """Runs stand still at the first batch until told."""
    begun = threading.Event()
    go_on = threading.Event()
    real = getattr(kind, name)

    def wait(*args, **kwargs):
        begun.set()
        assert go_on.wait(60)
        return real(*args, **kwargs)

    monkeypatch.setattr(kind, name, wait)
    return begun, go_on


def test_rows_and_sentences_come_from_the_run_not_from_the_controls(monkeypatch, tmp_path):
    panel = P.explorer(**SMALL)
    begun, go_on = slowly(monkeypatch)
    panel.run_button.click()
    assert begun.wait(60)
    panel.controls["protocol"].value = "open_set"
    panel.controls["method"].value = "eta"
    panel.controls["model"].value = "fashion_resnet_gn"
    panel.controls["seed"].value = 5
    go_on.set()
    assert panel.wait(120) and panel.error is None
    line = panel.results.iloc[0]
    assert line["stream"].startswith("continual") and line["method"] == "tent" and line[
        "model"] == "fashion_resnet_bn" and line["seed"] == 0
    assert "tent on fashion_resnet_bn, continual" in panel.message
    assert "open_set" not in panel.message
    ran = Experiment.from_json(line["choice"])
    assert ran.stream.hash == panel.trace.meta["stream"]["hash"] and ran.recipe == make("tent")
    assert "make('tent')" in panel.to_code() and json.loads(
        panel.to_parameters().split("choice: ")[1].split("\n")[0]) == line["choice"]
    P.save(panel, tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())["state"] == json.loads(line["choice"])
    words, figures = panel.summary()
    assert words[0] == panel.describe(panel.session.choice) != panel.describe()


def test_streams_never_share_a_name(light):
    panel, names = P.explorer(**SMALL), {}
    for name, value in (("severity", 3.0), ("per_shift", 30), ("batch", 5), ("rounds", 2),
                        ("seed", 1), ("straddle", True), ("straddle", False),
                        ("unknown_ratio", 0.5), ("unknown_mode", "burst"), ("shifts", ("fog",
                                                                                       "snow")),
                        ("shifts", ("fog", "snow", "frost",
                                    "pixelate")), ("shifts", ("fog", "snow", "frost", "contrast")),
                        ("protocol", "correlated"), ("delta", 1.0), ("protocol", "label_shift"),
                        ("ratio", 10.0), ("protocol", "class_imbalance"), ("exponent", 1.0),
                        ("protocol", "recurring"), ("protocol", "cyclic"), ("model",
                                                                            "fashion8_resnet_bn")):
        panel.controls[name].value = value
        assert panel.choice is not None, (name, panel.incompatibility)
        names.setdefault(panel.choice.stream.hash, panel.chosen.stream_name())
    assert len(names) == 20 and len(set(names.values())) == len(names), names
    assert P.explorer(device="cpu").chosen.stream_name() == "continual"


def test_old_figures_and_the_lamp_are_marked_at_once(monkeypatch):
    panel = P.explorer(**SMALL)
    panel.view.buttons["step"].click()
    assert panel.wait(120)
    panel.run_button.click()                                          # goes on: nothing is old
    assert panel.wait(120) and "previous run" not in panel.view.alarm_box.value
    begun, go_on = slowly(monkeypatch)
    panel.controls["severity"].value = 1.0
    panel.run_button.click()
    assert begun.wait(60)
    frames = panel.view.frames
    for widget in (panel.view.alarm_box, panel.view.sentence):
        assert "of the previous run" in widget.value and "opacity" in widget.value
    assert frames["errors"].old and frames["predictions"].old
    # no picture of the old run with numbers of the new one
    assert not len(panel.selected)
    go_on.set()
    assert panel.wait(120) and panel.error is None
    for widget in (panel.view.alarm_box, panel.view.sentence):
        assert "of the previous run" not in widget.value
    assert not frames["errors"].old and not frames["predictions"].old


def test_the_first_run_marks_nothing_and_live_figures_are_marked_too(monkeypatch):
    from tta_lab.studies.collapse.study import Bench, Setting
    panel = collapse_panel(Setting(per_shift=20, batch=20), bench=Bench(), at_once=False)
    begun, go_on = slowly(monkeypatch, Bench, "run")
    panel.run_button.click()
    assert begun.wait(
        120) and not panel.signals.widget.old and "previous run" not in panel.alarm_box.value
    panel.controls["factor"].value = 30.0
    go_on.set()
    assert panel.wait(120) and panel.ran.factor == 1.0 and "factor=" not in panel.to_code(
    ) and "30" not in panel.summary()[0][0]
    assert "tent at x 1" in panel.message and "fashion_resnet_bn" in panel.message
    begun.clear()
    go_on.clear()
    panel.run_button.click()
    assert begun.wait(
        120
    ) and panel.signals.widget.old and panel.predictions.widget.old and "of the previous run" in panel.alarm_box.value
    go_on.set()
    assert panel.wait(
        120
    ) and not panel.signals.widget.old and "previous run" not in panel.alarm_box.value and "factor=30.0" in panel.to_code(
    )


def test_code_of_picture_panels_is_that_of_the_run():
    panel = norm_panel(setting="mixed", interactive=False, batch=64)
    before, words = panel.to_code(), panel.summary()[0][0]
    panel.controls["method"].value = ("source"
                                      if panel.controls["method"].value != "source" else "tent")
    assert panel.to_code(
    ) == before and panel.summary()[0][0] == words != panel.describe() and panel.error is None


# --- the lamp


@pytest.mark.parametrize(("settings", "why"),
                         [({"method": "lame"}, "no weight of the network has "
                           "moved"), ({"method": "t3a"}, "no weight"),
                          ({"method": "eata", "protocol": "batch_of_one"}, "no weight"),
                          ({"method": "tent", "protocol": "batch_of_one"}, "single images"),
                          ({"method": "tent", "batch": 4}, "batches of 4.0 "
                           "images"), ({"method": "tent"}, "too short a history")])
def test_the_lamp_does_not_say_calm_where_it_cannot_judge(settings, why):
    panel = P.explorer(interactive=False, device="cpu",
                       **{"per_shift": 20, "shifts": ("gaussian_noise", "contrast"), **settings})
    assert panel.error is None and panel.runs.alarm_status == "unsure"
    assert "calm" not in panel.view.alarm_box.value
    assert "cannot judge" in panel.view.alarm_box.value and why in panel.view.alarm_box.value
    last = panel.drawn["errors"]["so_far"]["last"]
    assert f"error so far {last[panel.runs.shown.name]:.1f} % beside source {last['source']:.1f} %, BN-1 {last['BN-1']:.1f} %" in panel.view.alarm_box.value
    assert "cannot judge" in panel.message and panel.results["alarm"][
        0] == "cannot judge" and "cannot judge" in panel.summary()[0][2]


def test_where_it_can_judge_the_lamp_is_calm_and_says_the_errors():
    panel = P.explorer(interactive=False, device="cpu", per_shift=150, batch=25,
                       shifts=("fog", "contrast"))
    assert panel.runs.alarm_status == "calm"
    assert "calm. No alarm: probability of collapse" in panel.view.alarm_box.value
    assert "beside source" in panel.view.alarm_box.value


# --- files

def test_saving_writes_nothing_over(tmp_path, monkeypatch):
    panel = composer(device="cpu", per_shift=20, batch=10)
    monkeypatch.setattr(panel, "_fast", True)
    mine = tmp_path / "precious.json"
    mine.write_text("precious")
    panel.path.value = str(mine)
    panel.save_button.click()
    assert mine.read_text(
    ) == "precious" and "Not saved" in panel.message and "overwrite" in panel.message and panel.error is None
    panel.overwrite.value = True
    panel.save_button.click()
    assert composer(mine.read_text(),
                    device="cpu").recipe == panel.recipe and not panel.overwrite.value
    panel.knobs["update.lr"].value = 0.02
    panel.save_button.click()                                         # its own file, as it left it
    assert "0.02" in mine.read_text()
    # somebody else has written since
    mine.write_text(mine.read_text() + " ")
    panel.save_button.click()
    assert mine.read_text().endswith(" ") and "Not saved" in panel.message
    (tmp_path / "sub.json").mkdir()
    for name, why in (("notes.txt", "as .json"), ("notebook.ipynb", "as .json"), ("sub.json",
                                                                                  "folder")):
        panel.path.value = str(tmp_path / name)
        panel.save_button.click()
        assert "Not saved" in panel.message and why in panel.message, panel.message
    panel.path.value = str(tmp_path / "bare")
    panel.save_button.click()
    assert (tmp_path / "bare.json").exists() and sorted(
        p.name for p in tmp_path.iterdir()) == ["bare.json", "precious.json", "sub.json"]
    for thread in threading.enumerate():
        if thread.name == "composer marks":
            thread.join(60)


def test_runs_are_saved_with_the_recipe_that_ran(tmp_path, monkeypatch):
    panel = composer(device="cpu", per_shift=20, batch=10, relatives=0)
    panel.run_button.click()
    assert panel.wait(120) and panel.error is None
    panel.controls["start"].value = "eta"
    save_runs(panel, tmp_path / "runs.json")
    assert json.loads(
        (tmp_path /
         "runs.json").read_text())["recipe"] == panel.results["recipe"][0] != panel.to_json()
    assert panel.results["model"][0] == "fashion_resnet_bn" and panel.results["stream"][
        0] == "one shift after another, 20 a shift, batches of 10"
    assert "on fashion_resnet_bn, one shift after another" in panel.message and "tent" in panel.summary(
    )[0][0]
    for thread in threading.enumerate():
        if thread.name == "composer marks":
            thread.join(60)


def test_an_example_is_not_written_over_files_of_somebody_else(tmp_path):
    from tta_lab.studies.your_model.study import make_example
    (tmp_path / "my_network.py").write_text("# mine")
    with pytest.raises(ValueError,
                       match=r"my_network.py is there already and is not the example's"):
        make_example(tmp_path, 10)
    assert (tmp_path / "my_network.py").read_text() == "# mine" and len(list(
        tmp_path.iterdir())) == 1
    photos = tmp_path / "b" / "photos"
    photos.mkdir(parents=True)
    (photos / "holiday.png").write_bytes(b"1")
    with pytest.raises(ValueError, match="photos is there already"):
        make_example(tmp_path / "b", 10)
    assert make_example(tmp_path / "c", 10) == make_example(tmp_path / "c", 10)


# --- Python files

CODE = "from pathlib import Path\nPath(__file__).with_name('was_run').touch()\nfrom torch import nn\n\n\n" \
       "def build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))\n"


@pytest.fixture
def python_file(tmp_path):
    (tmp_path / "net.py").write_text(CODE)
    return tmp_path / "net.py"


def test_no_panel_runs_a_python_file_unasked(python_file, tmp_path):
    from tta_lab.models.names import code_of
    from tta_lab.studies.your_model.study import open_case
    text = f"python:{python_file}:build"
    weights = f"checkpoint:{tmp_path / 'w.pt'}?architecture={python_file}:build"
    assert code_of(text) == code_of(weights) == str(python_file) and code_of(
        "fashion_resnet_bn") == code_of("torchvision:resnet18") == ""
    written = json.loads(Experiment().to_json()) | {"model": text}
    for attempt in (lambda m: P.explorer(model=m, device="cpu"),
                    lambda m: composer(model=m, device="cpu"),
                    lambda m: open_case(m, str(tmp_path)),
                    lambda m: P.explorer(json.dumps(written | {"model": m}), device="cpu"),
                    lambda m: P.explorer(Experiment(m), device="cpu")):
        for model in (text, weights):
            with pytest.raises(ValueError, match=r"net\.py, which would be run.*trust=True"):
                attempt(model)
    assert not (tmp_path / "was_run").exists()
    P.explorer(model=text, device="cpu", trust=True, method="source")
    assert (tmp_path / "was_run").exists()


def test_the_tick_box_is_for_one_file(python_file, tmp_path):
    panel = your_model(f"checkpoint:{tmp_path / 'w.pt'}?architecture={python_file}:build",
                       str(tmp_path), device="cpu")
    box = panel.controls["trust"]
    assert not box.value and box.layout.display is None
    panel.run_button.click()
    assert panel.wait(60) and "tick 'I trust this Python file" in panel.message and not (
        tmp_path / "was_run").exists() and panel.error is None
    box.value = True
    panel.controls["mean"].value = "0.5"
    assert box.value
    panel.controls["code"].value = f"{tmp_path / 'other.py'}:build"
    # another file needs another word
    assert not box.value
    panel.controls["source"].value = "embedded"
    assert box.layout.display == "none"
    with pytest.raises(ValueError, match="trust must be True or False"):
        your_model(trust="yes")


# --- texts and objects


@pytest.mark.parametrize(("given", "why"),
                         [({"model": "fashion_resnet_bm"}, "did you mean 'fashion_resnet_bn'"),
                          ({"model": 3}, "model must be a network"),
                          ({"images": "fashion_mnits"}, "did you mean 'fashion_mnist'"),
                          ({"images": 7}, "images must be an image set"),
                          ({"unknown": "digitz"}, "did you mean 'digits'"),
                          ({"source_images": [1]}, "source_images must be"),
                          ({"method": "tnet"}, "did you mean 'tent'"),
                          ({"method": 3}, "method must be a method"),
                          ({"method": type(make("tent"))}, "not the class"),
                          ({"protocol": "continaul"}, "did you mean 'continual'"),
                          ({"stream": "continual"}, "protocol='continual'"),
                          ({"stream": 3}, "stream must be a stream"),
                          ({"per_shift": "many"}, "per_shift must be a whole number"),
                          ({"batch": 2.5}, "batch must be "
                           "a whole number"), ({"severity": "x"}, "severity must be"),
                          ({"shifts": ("fgo",)}, "did you mean 'fog'"),
                          ({"selectors": "entropy_threshol"}, "did you mean "
                           "'entropy_threshold'"), ({"guard": "yes"}, "guard must be True or False"),
                          ({"seed": -1}, "seed must be"),
                          ({"straddle": 1}, "straddle must be True or False")])
def test_wrong_texts_and_objects_get_a_sentence(given, why):
    with pytest.raises(ValueError, match=why):
        P.explorer(device="cpu", **given)


def test_texts_and_objects_are_taken_alike():
    from tta_lab import load, load_model
    by_text = P.explorer(model="fashion_resnet_bn", images="fashion_mnist", method="eta",
                         shifts="fog, contrast", device="cpu")
    by_object = P.explorer(model=load_model("fashion_resnet_bn"), images=load("fashion_mnist"),
                           method=make("eta"), shifts=("fog", "contrast"), device="cpu")
    assert by_text.choice.recipe == by_object.choice.recipe
    assert by_text.choice.stream.hash == by_object.choice.stream.hash
    assert P.explorer(method=make("tent", lr=0.02),
                      device="cpu").choice.recipe == make("tent", lr=0.02)
    assert composer("eta", device="cpu", per_shift=20,
                    batch=10).recipe == composer(make("eta"), device="cpu", per_shift=20,
                                                 batch=10).recipe
    for thread in threading.enumerate():
        if thread.name == "composer marks":
            thread.join(60)


# --- differences that are nothing

def test_no_sentence_calls_nothing_a_difference():
    from tta_lab.studies.crowds import study as crowds
    from tta_lab.studies.report import nothing, points, signed
    assert [signed(v) for v in (0.04, -0.04, -0.0, 0.06, -1.25)
            ] == ["0.0", "0.0", "0.0", "+0.1", "-1.2"] and signed(-0.004, 2) == "0.00"
    assert points(0.04) == points(-0.04) == "less than 0.05 points" and points(
        0.3) == "+0.3 points" and points(-0.4, 0) == "less than 0.5 points"
    assert nothing(0.049) and not nothing(0.051) and not nothing(float("nan")) and signed(
        float("nan")) == "+nan" or signed(float("nan")) == "nan"
    said = crowds.sentence({"difference": -0.01, "low": -0.04, "high": 0.02, "n": 3}, "The filter")
    assert "by less than 0.05 points" in said and "0.0 points" not in said and "lowers" not in said
    assert "-0.0" not in said


def test_one_quantity_of_a_paper_moves_as_one_slider():
    def fractions(panel):
        return [getattr(s, "fraction", None) for s in panel.choice.recipe.select]

    panel = P.explorer(method="eta", **SMALL)
    panel.knobs["select.0.fraction"].value = 0.5
    assert fractions(panel) == [0.5, None, 0.5] and panel.knobs["select.2.fraction"].value == 0.5
    panel.knobs["select.2.fraction"].value = 0.3
    assert fractions(panel) == [0.5, None, 0.3], "unless it is set"
    assert fractions(P.explorer(method="eata", fraction=0.6, **SMALL)) == [0.6, None, 0.6]
