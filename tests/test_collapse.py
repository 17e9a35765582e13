"""The collapse detector and the definition by labels: numbers worked by hand, identities, one real run."""
import io

import pytest
import torch

from tta_lab import Adapter, load_model, make
from tta_lab.collapse import ALARMS, SIGNALS, CollapseDetector, watch
from tta_lab.runner import run
from tta_lab.streams import Stream


@pytest.fixture(scope="module")
def traces():
    model, stream = load_model("fashion_resnet_bn"), Stream("fashion_mnist", ("gaussian_noise",), per_shift=1200, batch=40)
    return {name: run(Adapter(model, recipe, device="cpu", record="source"), stream)
            for name, recipe in (("wild", make("tent", lr=0.1)), ("calm", make("tent", lr=1e-4)))}


def test_wild_steps_raise_an_alarm_and_calm_ones_do_not(traces):
    for variant in ("light", "source"):
        wild, calm = (watch(traces[name], CollapseDetector(variant)) for name in ("wild", "calm"))
        assert wild["first_alarm"] >= 0 and wild["probability"][-1] > 0.9 and ALARMS[wild["alarm"][-1]] != "none"
        assert not calm["alarm"].any() and calm["probability"][-1] < 0.5


def test_step_by_step_with_a_saved_state_is_the_same_as_watching_the_trace(traces):
    trace, detector = traces["wild"], CollapseDetector()
    whole, state = watch(trace, detector), detector.init() | {"tuned": trace.meta["trainable_parameters"]}
    samples, steps = trace._columns("samples"), trace._columns("steps")
    for t in range(len(steps["step"])):
        rows = samples["step"] == t
        seen = {c: torch.from_numpy(samples[c][rows])
                for c in ("entropy", "confidence", "prediction", "source_prediction", "rise_source", "source_confidence")}
        said = detector.look(seen, {c: torch.tensor(steps[c][t]) for c in ("marginal_entropy", "grad_norm", "distance")}
                             | {"reset": False, "n_kept": steps["n_kept"][t]}, state)
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
        assert said[0] == whole["alarm"][t] and said[1] == pytest.approx(whole["probability"][t], abs=1e-4)
    assert "probability of collapse" in detector.evidence(state) and set(whole["signals"]) == set(SIGNALS)
