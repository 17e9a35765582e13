"""Continually changing corruptions: paths worked by hand, walks near their target, calibration and
its file."""
import itertools

import numpy as np
import pytest
import torch
from test_streams import toy

from tta_lab.data.shift import Shift
from tta_lab.streams import ccc
from tta_lab.streams.ccc import Calibration, calibrate, continually_changing, path, walk


def falling(side=6):
    """Accuracy that falls with both severities: 1 - 0.09 i - 0.07 j."""
    i, j = np.mgrid[:side, :side]
    return 1 - 0.09 * i - 0.07 * j


def invented(side=6):
    severities = tuple(np.linspace(0, 5, side).tolist())
    names = ("gaussian_noise", "contrast", "fog")
    return Calibration(names, severities,
                       {pair: falling(side) for pair in itertools.permutations(names, 2)}, "toy",
                       "0" * 12, 100, 0)


def test_a_path_by_hand():
    """Means along the best paths at target 0.5, from the end backwards: (1, 1) goes to (0, 1),
    mean (0.5 + 0.6) / 2 = 0.55; (2, 1) to (1, 1), 1.4 / 3; (2, 0) to (2, 1), 2.0 / 4 = 0.5; the
    other start, (1, 0), has 1.9 / 3."""
    accuracy = np.array([[1.0, 0.6, 0.2], [0.8, 0.5, 0.1], [0.6, 0.3, 0.0]])
    assert path(accuracy, 0.5) == [(2, 0), (2, 1), (1, 1), (0, 1)]
    assert path(accuracy, 1.0) == [(1, 0), (0, 0)]
    assert path(accuracy, 0.2) == [(2, 0), (2, 1), (1, 1), (1, 2), (0, 2)]


@pytest.mark.parametrize("target", [0.5, 0.6, 0.7])
def test_a_path_moves_one_notch_at_a_time_and_stays_near_the_target(target):
    accuracy = falling(11) ** 2
    cells = path(accuracy, target)
    for (i, j), (k, m) in itertools.pairwise(cells):
        assert (i - k, m - j) in ((1, 0), (0, 1))
    assert cells[0][1] == 0 and cells[0][0] >= 1 and cells[-1][0] == 0
    assert abs(np.mean([accuracy[c] for c in cells]) - target) < 0.05


def test_a_walk_hands_the_second_corruption_on():
    shifts = walk(invented(), 0.6, 200, seed=3)
    assert len(shifts) == 200 and shifts == walk(invented(), 0.6, 200, seed=3) != walk(
        invented(), 0.6, 200, seed=4)
    pairs = [Shift.parse(shift).names for shift in shifts]
    changes = [(a, b) for a, b in itertools.pairwise(pairs) if a != b]
    assert len(changes) > 10 and all(a[1] == b[0] and b[0] != b[1] for a, b in changes)


def test_the_stream_is_an_ordinary_stream():
    stream = continually_changing(toy(90), invented(), target=0.6, images=600, speed=30, seed=1,
                                  batch=15)
    assert stream.n_images == 600 and len(stream) == 40 and len(
        stream.shifts) == 20 and stream.reset == "never"
    assert all("+" in name for name in stream.domains)
    first = next(iter(stream))
    assert first.x.shape == (15, 1, 8, 8) and 0 < float(first.severity[0]) <= 5
    with pytest.raises(ValueError, match="cannot be reached"):
        continually_changing(toy(90), invented(), target=0.01)
    for settings in ({"target": "x"}, {"target": 60}, {"images": 0}, {"images": "fashion_mnist"},
                     {"speed": 0}, {"calibration": "x"}, {"seed": 0.5}):
        with pytest.raises(ValueError, match=f"{next(iter(settings))} must be"):
            continually_changing(**{"known": toy(90), "calibration": invented(), **settings})


class Brightest(torch.nn.Module):
    """A classifier whose accuracy is known: the class is written in the top left pixel."""

    def __init__(self, classes=4):
        super().__init__()
        self.level = torch.nn.Parameter(torch.arange(classes) / classes + 0.1)

    def forward(self, x):
        return -(x[:, 0, 0, 0][:, None] - self.level).abs()


def test_calibration_counts_what_the_model_gets_right(tmp_path):
    images = toy(40)
    images.x[:, 0, 0, 0] = ((images.y / 4 + 0.1) * 255).round().to(torch.uint8)
    seen = []
    found = calibrate(Brightest(), images, ("brightness", "contrast"), step=2.5, per_cell=40,
                      progress=lambda *a: seen.append(a))
    assert seen[-1] == (18, 18) and set(found.accuracy) == {("brightness", "contrast"),
                                                            ("contrast", "brightness")}
    for table in found.accuracy.values():
        assert table.shape == (3, 3) and table[0, 0] == 1.0 and table[2, 2] < 1.0
    again = Calibration.from_json(found.to_json())
    assert all(
        np.allclose(again.accuracy[k], found.accuracy[k], atol=1e-4)
        for k in found.accuracy) and again.names == found.names
    for settings, words in (({"names": ("fog",)}, "two different"), ({"names": ("fog", "fogg")},
                                                                      "no corruption"),
                            ({"step": 0.7}, "divide 5"), ({"names": "fog"}, "names must be a list"),
                            ({"names": (1, 2)}, "must list texts"),
                            ({"step": 0}, "step must be a number"), ({"step": "x"}, "step must be"),
                            ({"per_cell": 0}, "per_cell must be"), ({"progress": 3},
                                                                    "progress must be")):
        with pytest.raises(ValueError, match=words):
            calibrate(Brightest(), images, **settings)
    for text in ("{", "[]", '{"names": ["fog"]}',
                 found.to_json().replace("contrast+brightness", "contrast+fog")):
        with pytest.raises(ValueError, match="calibration"):
            Calibration.from_json(text)


def test_the_embedded_calibration_is_that_of_the_embedded_model():
    from tta_lab.core.adapter import Adapter
    from tta_lab.methods import make
    from tta_lab.models.embedded import load_model
    found = ccc.load_calibration()
    model = load_model("fashion_resnet_bn")
    assert found.weights == Adapter(
        model, make("source"),
        device="cpu").fingerprint and found.known == "fashion_mnist_train_slice"
    clean = [table[0, 0] for table in found.accuracy.values()]
    assert min(clean) > 0.85 and max(clean) - min(
        clean) == 0, "severity 0 of both is the clean image in every table"
    stream = continually_changing(images=6000, speed=100, target=0.6, seed=1)
    with torch.no_grad():
        hits = torch.cat([model(b.x).argmax(1) == b.label for b in stream])
    assert abs(
        float(hits.double().mean()) -
        0.6) < 0.06, "the walk keeps the source near its target on images it was not calibrated on"
