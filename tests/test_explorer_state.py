"""What the explorer knows, without its widgets: choices, refusals, knobs, settings of streams, code
and runs. A Python that cannot import ipywidgets runs them too: the last test sees to that."""
import json
import subprocess
import sys

import numpy as np
import pytest

from tta_lab.experiments.experiment import Experiment
from tta_lab.methods import make
from tta_lab.panels.explorer import settings_of
from tta_lab.panels.explorer_runs import RunState
from tta_lab.panels.explorer_state import FAST, ExplorerState, experiment_dict
from tta_lab.panels.inputs import AS_GIVEN, StreamNames
from tta_lab.panels.stream_settings import FIRST, ByHand, protocol_call, stream_label
from tta_lab.streams import protocols
from tta_lab.studies.explorer.stored import stored_run

SMALL = {"per_shift": 20, "batch": 10, "shifts": ("fog", "contrast")}
NAMES = tuple(protocols.PROTOCOLS)


def state(given=None, **settings) -> ExplorerState:
    return ExplorerState(given or {}, 0, SMALL | settings)


def test_first_values_make_an_experiment():
    s = state(method="tent", lr=0.01, selectors="entropy_threshold", severity=3.0)
    assert s.incompatibility == "" and s.choice.recipe.update.lr == 0.01
    assert s.changed() == {"update.lr": 0.01}
    assert (s.choice.stream.n_images, len(s.choice.stream)) == (40, 4)
    assert s.stream_name() == "continual, severity 3, 20 a shift, fog+contrast, batches of 10"
    head = "tent + entropy threshold lr 0.01 on fashion_resnet_bn"
    assert s.title(s.choice) == f"{head}, {s.stream_name()}"
    assert "Entropy threshold:" in s.describe() and "40 images in 4 batches" in s.describe()


def test_parameters_of_a_notebook_that_say_nothing_leave_the_mode_as_it_is():
    def chosen(fast, **values):
        return ExplorerState({}, 0, settings_of(fast, **values)).choice

    plain = chosen(True, lr=0.0, protocol="", per_shift=0, guard=False)
    assert plain == chosen(True)
    assert plain.stream.per_shift < chosen(False).stream.per_shift
    guarded = chosen(True, guard=True, lr=0.02).recipe
    assert guarded.controllers and guarded.update.lr == 0.02


@pytest.mark.parametrize("settings, said", [
    ({"method": "tend"}, "did you mean 'tent'"), ({"form": "papre"}, "did you mean 'paper'"),
    ({"selectors": ["entropy_treshold"]}, "did you mean 'entropy_threshold'"),
    ({"protocol": "continuel"}, "did you mean 'continual'"),
    ({"shifts": "fogg"}, "did you mean 'fog'"),
    ({"rate": 1}, "the explorer has no setting 'rate'; it has: model, protocol, .*update.lr"),
    ({"batch": "many"}, "batch")])
def test_a_setting_that_does_not_exist_names_the_nearest(settings, said):
    with pytest.raises(ValueError, match=said):
        state(**settings)


def test_what_cannot_run_is_refused_and_comes_back():
    s = state()
    s.set("model", "fashion_resnet_gn")
    s.set("method", "rotta")
    assert "batch-norm" in s.incompatibility and s.choice is not None          # it can be said, not run
    s.set("model", "fashion_resnet_bn")
    assert s.incompatibility == ""
    s.set("protocol", "natural")
    assert s.choice is None and "holds no domains" in s.incompatibility        # there is no such stream
    assert RunState(s).to_code() == f"# no run: {s.incompatibility}" and experiment_dict(s.choice) == {}
    s.set("protocol", "continual")
    assert s.incompatibility == "" and s.choice.stream.batch == 10


def test_a_selector_before_what_has_no_loss_is_refused():
    s = state(method="lame", selectors=["entropy_threshold"])
    assert s.choice is None and s.incompatibility and not s.rows
    s.set("first", "")
    assert s.incompatibility == "" and s.choice.recipe == make("lame")


def test_knobs_stay_with_their_part_and_follow_their_quantity():
    s = state()
    s.set_knob("update.lr", 0.0123456)
    assert s.knob_values["update.lr"] == 0.0123                         # as a slider says it
    s.set("first", "entropy_threshold")
    s.set_knob("select.0.fraction", 0.3)
    s.set("method", "sar")
    assert 0.0123 not in s.changed().values()                           # another method's rate
    s.set("method", "tent")
    assert s.changed() == {"update.lr": 0.0123, "select.0.fraction": 0.3}
    s.set("first", "")
    assert s.changed() == {"update.lr": 0.0123}
    s.set("second", "")
    s.paper_defaults()
    assert s.changed() == {} and s.choice.recipe == make("tent")


def test_forms_belong_to_their_method():
    s = state(method="tent")
    with_forms = next(name for _, name in s.options("method") if len(state(method=name).forms) > 1)
    assert not s.offers("form")
    s.set("method", with_forms)
    form = s.forms[-1]
    s.set("form", form)
    s.set("method", "tent")
    assert s.values["form"] == "paper"
    s.set("method", with_forms)
    assert s.values["form"] == form and s.offers("form")


def test_a_recipe_is_taken_apart_or_kept_whole():
    found = state({"recipe": make("tent", lr=0.01)})
    assert found.values["method"] == "tent" and found.choice.recipe == make("tent", lr=0.01)
    other = make("tent").where(*[type(make("eata").select[0])()] * 3)
    whole = state({"recipe": other})
    assert whole.values["method"] == AS_GIVEN and whole.choice.recipe == other
    assert whole.options("method")[0][1] == AS_GIVEN


def test_after_any_protocol_any_other_is_as_in_a_fresh_explorer(monkeypatch):
    # whether it can run is asked elsewhere
    monkeypatch.setattr("tta_lab.panels.explorer_state.incompatibilities", lambda choice: [])

    def made(s):
        return s.values, s.incompatibility or s.choice.stream.hash

    fresh = {name: made(state(protocol=name)) for name in NAMES}
    s = state()
    for first in NAMES:
        for name in NAMES:
            s.set("protocol", first)
            s.set("protocol", name)
            assert made(s) == fresh[name], (first, name)


def test_what_was_set_by_hand_stays_where_it_means_something():
    hand = ByHand({"batch": 7})
    hand.follow("straddle", True)
    assert hand.follow("protocol", "mixed_domains")["straddle"] is False
    assert hand.value("batch") == 7
    assert hand.follow("protocol", "open_set")["unknown_ratio"] == 1.0
    hand.follow("unknown_ratio", 0.5)
    assert hand.follow("protocol", "continual")["unknown_ratio"] == 0.0
    assert hand.value("straddle") is True
    assert hand.follow("protocol", "open_set")["unknown_ratio"] == 0.5


@pytest.mark.parametrize("name", [n for n in NAMES if n != "natural"])
def test_a_call_makes_the_stream_and_a_fresh_one_has_the_protocols_name(name):
    hand = ByHand({"protocol": name})
    values = {n: hand.value(n) for n in hand.defaults} | {"protocol": name}
    made, call = protocol_call(values | {"shifts": FIRST}, 0)
    stream = protocols.PROTOCOLS[made]("fashion_mnist", **call)
    assert stream.n_images > 0 and stream_label(made, call) == name
    assert stream_label(made, call | {"seed": 3}).endswith("seed 3")


def test_two_streams_never_share_a_name():
    names = StreamNames()
    one, two = (state(per_shift=n).choice.stream for n in (20, 30))
    assert names.of(one) == "your stream"
    assert names.add(one, "fog") == "fog" == names.add(one, "rain")
    assert names.add(two, "fog") == f"fog ({two.hash[:6]})"


def advanced(runs, choice):
    """A run of one batch."""
    runs.start(choice, "cpu", {})
    runs.session.advance()
    errors, _ = runs.look()
    runs.finish()
    return errors


def test_a_run_is_held_goes_on_and_is_written_down():
    s = state(shifts=("fog",))
    runs = RunState(s)
    assert runs.run_label(False) == "Run" and runs.finding() == ""
    assert runs.alarm_text(None) == "no run yet"
    errors = advanced(runs, s.choice)
    assert runs.held() and runs.run_label(False) == "Go on" and "Held, tent on" in runs.finding()
    assert errors["so_far"]["last"].keys() == {"tent", "source", "BN-1"}
    assert runs.rows[1]["images"] == 10 and runs.ticked == [1]
    assert json.loads(runs.rows[1]["choice"]) == json.loads(runs.ran.to_json())
    s.set_knob("update.lr", 0.01)
    assert not runs.held() and runs.run_label(False) == "Run anew"
    again = Experiment.from_json(runs.rows[1]["choice"])
    errors = advanced(runs, s.choice)
    assert runs.comparison["n"] == 10 and "tent" in runs.compared_words
    assert errors["so_far"]["last"].keys() == {"tent lr 0.01", "tent", "source", "BN-1"}
    assert len(runs.rows) == 2
    assert again.stream.n_images == 10 and "lr 0.01" in runs.rows[2]["method"]
    runs.reset()
    assert runs.trace is None and len(runs.rows) == 2
    runs.select(1)
    assert runs.ran == again and len(runs.seen) == 10
    runs.kept.delete([1])
    runs.tidy()
    assert runs.ticked == [2] and runs.number == 2 and runs.comparison == {}


def test_a_run_on_another_stream_shares_no_chart():
    s = state(shifts=("fog",))
    runs = RunState(s)
    advanced(runs, s.choice)
    s.set("severity", 1.0)
    errors = advanced(runs, s.choice)
    assert runs.ticked == [2] and set(errors["so_far"]["lines"]) == {"tent (2)", "source", "BN-1"}
    runs.tick([1, 2])
    assert runs.comparison == {} and "not shown the same images" in runs.compared_words


def test_the_stored_run_is_that_of_the_first_choice_and_leaves_when_it_is_made_anew():
    s = ExplorerState({}, 0, dict(FAST))
    found = stored_run(s.choice)
    runs = RunState(s)
    runs.add(found)
    assert runs.finding().startswith("Stored, tent") and "Made 20" in runs.finding()
    runs.start(s.choice, "cpu", {})
    assert [run.stored for run in runs.kept.values()] == [""]
    while runs.session.advance():
        pass
    runs.look()
    same = (runs.trace["prediction"] == found.trace["prediction"]).mean()
    assert same > 0.98 and np.abs(runs.trace["confidence"] - found.trace["confidence"]).max() < 0.1
    s.set("seed", 1)
    assert stored_run(s.choice) is None


def test_the_state_needs_no_widgets():
    """All tests above, where ipywidgets, anywidget and plotly cannot be imported."""
    code = ("import sys, pytest\n"
            "sys.modules |= dict.fromkeys(('ipywidgets', 'anywidget', 'plotly'))\n"
            f"raise SystemExit(pytest.main(['-q', '-x', '-p', 'no:cacheprovider', {__file__!r}, "
            "'-k', 'not needs_no_widgets and not protocol']))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
