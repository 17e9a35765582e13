"""Figures of views: both backends carry the stored numbers, and an empty view shows its
sentence."""
import functools
import math
import warnings

import numpy as np
import pytest
from test_timelines import ROWS, STEPS, trace, unlabelled

from tta_lab import Trace
from tta_lab import plots as P
from tta_lab.analysis import layer_probes as L
from tta_lab.analysis import timelines as V
from tta_lab.plots import drawing, fitting
from tta_lab.plots import timelines as PV
from tta_lab.plots.panel import COLUMNS

Figure = pytest.importorskip("matplotlib.figure").Figure
go = pytest.importorskip("plotly.graph_objects")
BACKENDS = ("matplotlib", "plotly")
RECORD = {
    "step": np.array([0, 1, 2]), "layers": np.array(["stem", "head"]), "size": np.array([2.0, 4.0]),
    "distance": np.array([[0.0, 1], [1, 2], [2, 3]]), "alignment": np.array([[1.0, math.nan],
                                                                             [-1, .5], [.25, 0]]),
    "norms": np.array(["bn"]), "in_use": np.array([[0.0], [.5], [2]]), "batch": np.array([[1.0],
                                                                                          [3], [4]])
}
GRADIENTS = {
    "entropy": np.linspace(0, 2, 40), "norm": 10.0**np.linspace(-4, 1, 40),
    "group": np.repeat(["correct", "wrong"], 20), "id": np.arange(40), "loss": "entropy", "why": ""
}
FEATURES = {
    "source": np.array([[0.0, 1], [2, -3], [1, 1], [0, 0]]), "adapted": np.array([[0.0, 2], [5, -3],
                                                                                  [1, 8], [2, 2]]),
    "explained": {"source": np.array([.5, .25]), "adapted": np.array([.3, math.nan])},
    "label": np.array([0, 1, 2, -1]), "known": np.array([True, True, False, True]),
    "prediction": np.array([0, 0, 1, 1]), "source_prediction": np.array([0, 1, 1, 1]),
    "group": np.array(["correct", "wrong", "unknown", "unlabelled"]),
    "source_group": np.array(["correct", "correct", "unknown", "unlabelled"]), "why": ""
}
IMAGES = {
    "kinds": {
        "rise": {
            "row": [0, 1], "id": [0, 1], "x": np.linspace(0, 1, 32).reshape(2, 1, 4, 4),
            "source": ["bag", "bag"], "adapted": ["coat", "bag"], "source_confidence": [.5, .25],
            "confidence": [.75, 1.0], "d": [.5, .25], "true": ["coat", ""],
            "shift": ["shot_noise:3", "fog"]
        }, "fall": {
            "row": [], "id": [], "x": np.zeros((0, 1, 1, 1)), "source": [], "adapted": [],
            "source_confidence": [], "confidence": [], "d": [], "true": [], "shift": []
        }
    }, "why": ""
}
RUNS = {
    "name": ["source", "tent"], "error": np.array([60.0, 20]), "error_sd": np.array([math.nan, 3]),
    "passes": np.array([1.0, 2]), "ms_per_image": np.array([4.0, 3]),
    "front": {"passes": np.array([True, True]), "ms_per_image": np.array([False, True])}, "why": ""
}
CASES = {
    "entropy_frames": V.entropy_frames(trace(), windows=2, bins=2),
    "calibration": V.calibration(trace(), share=0.5,
                                 bins=2), "class_shares": V.class_shares(trace(), windows=2),
    "confusion_over_time": V.confusion_over_time(trace(), share=0.5),
    "selection_anatomy": V.selection_anatomy(trace(),
                                             windows=2), "gradient_norm": V.gradient_norm(trace()),
    "cost_against_error": RUNS, "layer_distance": L.layer_distance(RECORD),
    "norm_drift": L.norm_drift(RECORD), "layer_alignment": L.layer_alignment(RECORD),
    "sample_gradients": GRADIENTS, "feature_space": FEATURES, "changed_images": IMAGES
}


def plot(name, backend, numbers=None, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return getattr(P, f"plot_{name}")(CASES[name] if numbers is None else numbers,
                                          backend=backend, **more)


@functools.cache
def usual(name, backend):
    return plot(name, backend)


def axes_of(figure):
    return [axis for axis in figure.axes if axis.get_label() != "<colorbar>"]


def lines(figure):
    """For each panel {label: (x, y)} of everything with a name or a marker, read back from artists
    or traces."""
    if isinstance(figure, Figure):
        found = []
        for axis in axes_of(figure):
            here = {
                p.get_label(): (p.get_data().edges, p.get_data().values) for p in axis.patches
                if hasattr(p, "get_data")
            }
            for line in axis.lines:
                label = line.get_label()
                # neither reference lines nor error bars
                if not label.startswith("_") or line.get_marker() in dict(P.MARKERS):
                    here["" if label.startswith("_") else label] = tuple(
                        np.asarray(v, float) for v in line.get_data())
            found.append(here)
        return found
    found = {}
    for t in figure.data:
        if t.type == "scatter" and t.fill is None:
            y = np.asarray(t.y, float)
            found.setdefault(t.xaxis or "x",
                             {})[t.name
                                 or ""] = (np.asarray(t.x,
                                                      float), y[:-1] if t.line.shape == "hv" else y)
    return list(found.values())


def maps(figure):
    """The values of each heat map, rows first."""
    if isinstance(figure, Figure):
        meshes = [
            axis.collections[0] for axis in axes_of(figure)
            if axis.collections and hasattr(axis.collections[0], "get_coordinates")
        ]
        return [
            np.ma.filled(mesh.get_array().astype(float),
                         math.nan).reshape(np.array(mesh.get_coordinates().shape[:2]) - 1)
            for mesh in meshes
        ]
    return [np.asarray(t.z, float) for t in figure.data if t.type == "heatmap"]


def texts(figure):
    if isinstance(figure, Figure):
        return [text.get_text().replace("\n", " ") for axis in figure.axes for text in axis.texts]
    return [a.text.replace("<br>", " ") for a in figure.layout.annotations]


def same(figure, expected):
    got = lines(figure)
    assert [set(panel) for panel in got] == [set(panel) for panel in expected]
    for panel, wanted in zip(got, expected, strict=True):
        for label, pair in wanted.items():
            for a, b in zip(panel[label], pair, strict=True):
                np.testing.assert_allclose(a, b, equal_nan=True, err_msg=label)


def test_every_view_has_a_figure_and_a_reading_sentence():
    assert set(CASES) == set(PV.HOW_TO_READ) and set(CASES) <= set(P.HOW_TO_READ)
    assert all(text.endswith(".") and text.count(". ") == 0 for text in PV.HOW_TO_READ.values())


@pytest.mark.parametrize("backend", BACKENDS)
def test_calibration_draws_accuracy_against_confidence(backend):
    numbers = CASES["calibration"]
    expected = [{
        who: (numbers[part][who]["confidence"], numbers[part][who]["accuracy"])
        for who in ("adapted", "source")
    }
                | {"as sure as right": ([0, 1], [0, 1])} for part in ("early", "late")]
    figure = usual("calibration", backend)
    same(figure, expected)
    title = (axes_of(figure)[0].get_title()
             if backend == "matplotlib" else figure.layout.annotations[0].text)
    # .85 - 2/3; (.9 + .8 + .7) / 3 - 2/3
    assert title.replace("<br>", " ") == "First 50 %: ECE adapted 18.3 %, source 13.3 %"
    sure = {
        part: {
            **numbers[part], "adapted": {
                **numbers[part]["adapted"], "accuracy": np.array([.5, 1]),
                "accuracy_sd": np.array([.1, .3])
            }
        } for part in ("early", "late")
    }
    # the band reaches further than the axis
    figure = plot("calibration", backend, {**numbers, **sure})
    assert (axes_of(figure)[0].get_ylim()[1]
            if backend == "matplotlib" else figure.layout.yaxis.range[1]) == pytest.approx(1.05)


@pytest.mark.parametrize("backend", BACKENDS)
def test_selection_gradient_and_cost_lines(backend):
    numbers, names = CASES["selection_anatomy"], P.GROUP_LABELS
    # stretches of steps 0 1 and 2 3
    x = [1, 3]
    same(usual("selection_anatomy", backend),
         [{names[g]: (x, v) for g, v in numbers["among_kept"].items()}, {
               names[g]: (x, v) for g, v in numbers["kept_of"].items()
           }, {"kept": (x, numbers["kept_share"]), "precision": (x, numbers["precision"])}])
    figure = usual("gradient_norm", backend)
    same(figure,
         [{"": (STEPS["step"], STEPS["grad_norm"])}, {"": (STEPS["step"], STEPS["distance"])}])
    assert (axes_of(figure)[0].get_yscale()
            if backend == "matplotlib" else figure.layout.yaxis.type) == "log"
    same(usual("cost_against_error", backend),
         [{"source": ([1], [60]), "tent": ([2], [20]), "front": ([1, 2], [60, 20])},
          {"source": ([4], [60]), "tent": ([3], [20]), "front": ([3], [20])}])


@pytest.mark.parametrize("backend", BACKENDS)
def test_points_of_gradients_and_features(backend):
    half = np.arange(40) < 20
    pieces = np.arange(40).reshape(10, 4)
    medians = [np.median(GRADIENTS[k][pieces], axis=1) for k in ("entropy", "norm")]
    figure = usual("sample_gradients", backend)
    same(figure, [{
        "known, correct": (GRADIENTS["entropy"][half], GRADIENTS["norm"][half]),
        "known, wrong": (GRADIENTS["entropy"][~half], GRADIENTS["norm"][~half]), "median": medians
    }])
    names = P.GROUP_LABELS
    figure = usual("feature_space", backend)
    got = [{k: v for k, v in panel.items() if k} for panel in lines(figure)]
    for panel, who, column in zip(got, ("source", "adapted"), ("source_group", "group"),
                                  strict=True):
        assert set(panel) == {names[g] for g in FEATURES[column]}
        for g in set(FEATURES[column]):
            np.testing.assert_allclose(np.stack(panel[names[g]], 1),
                                       FEATURES[who][FEATURES[column] == g])
    got = lines(plot("feature_space", backend, by="class", names=["bag", "coat"]))[1]
    assert set(got) - {""} == {"bag", "coat", "unknown", "no label"
                               } and got["coat"][0].tolist() == [5]
    axes = ([a.get_xlabel() for a in axes_of(figure)] if backend == "matplotlib" else
            [figure.layout[a].title.text for a in ("xaxis", "xaxis2")])
    assert axes == ["component 1 (50 % of the variance)", "component 1 (30 % of the variance)"]
    ranges = [a.get_xlim() + a.get_ylim() for a in axes_of(figure)] if backend == "matplotlib" else \
        [tuple(figure.layout["xaxis" + i].range) + tuple(figure.layout["yaxis" + i].range) for i in ("", "2")]
    # the same axes in both panels
    assert ranges[0] == pytest.approx(ranges[1])
    assert ranges[0][0] < 0 and ranges[0][1] > 5 and ranges[0][2] < -3 and ranges[0][3] > 8
    with pytest.raises(ValueError, match="by must be 'group' or 'class'"):
        P.plot_feature_space(FEATURES, by="colour")


@pytest.mark.parametrize("backend", BACKENDS)
def test_maps_carry_the_numbers(backend):
    shares = CASES["class_shares"]
    for name, expected in (("class_shares", [shares["predicted"].T,
                                             shares["true"].T]), ("confusion_over_time", [
                                                 CASES["confusion_over_time"][k]
                                                 for k in ("early", "late", "difference")
                                             ]), ("layer_distance", [[[0, .5, 1], [.25, .5, .75]]]),
                           ("norm_drift", [RECORD["in_use"].T, RECORD["batch"].T
                                           ]), ("layer_alignment", [RECORD["alignment"].T])):
        got = maps(usual(name, backend))
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, equal_nan=True, err_msg=name)
    same(usual("class_shares", backend),
         [*[{}] * (2 if backend == "matplotlib" else 0), {"": ([1, 3], shares["gap"])}])


@pytest.mark.parametrize("backend", BACKENDS)
def test_confusion_names_its_classes_and_writes_per_cent(backend):
    figure = usual("confusion_over_time", backend)
    if backend == "matplotlib":
        early, late, difference = axes_of(figure)
        assert [t.get_text() for t in early.get_yticklabels()] == ["0", "1", "unknown"] == list(
            CASES["confusion_over_time"]["rows"])
        written = [t.get_text() for t in difference.texts]
        assert early.get_ylim() == (
            2.5,
            -0.5) and early.get_ylabel() == "true class" and late.get_xlabel() == "predicted class"
    else:
        assert list(figure.layout.yaxis.ticktext) == ["0", "1", "unknown"] and list(
            figure.layout.yaxis.range) == [2.5, -0.5]
        written = [a.text for a in figure.layout.annotations if a.xref == "x3"]
    # zeros and cells without images hold no text
    assert written == ["-50", "50"]


def test_many_steps_are_averaged_into_fewer_columns():
    record = {
        **RECORD, "step": np.arange(900),
        "distance": np.stack([np.arange(900.0), np.full(900, math.nan)], axis=1)
    }
    numbers = L.layer_distance(record)
    values = maps(P.plot_layer_distance(numbers, backend="plotly"))[0]
    assert values.shape == (2, COLUMNS) and np.isnan(values[1]).all()
    np.testing.assert_allclose(values[0], np.arange(900.0).reshape(300, 3).mean(axis=1) / 2)


def test_frames_with_a_slider_hold_what_the_small_multiples_show():
    numbers = CASES["entropy_frames"]
    figure = usual("entropy_frames", "plotly")
    grid = usual("entropy_frames", "matplotlib")
    assert [f.name for f in figure.frames] == ["steps 0 to 1", "steps 2 to 3"
                                               ] == [a.get_title() for a in axes_of(grid)]
    assert [step.args[0] for step in figure.layout.sliders[0].steps] == [("steps 0 to 1",),
                                                                         ("steps 2 to 3",)]
    for i, (frame, panel) in enumerate(zip(figure.frames, lines(grid), strict=True)):
        assert [t.name for t in frame.data] == [t.name for t in figure.data]
        for trace_, (group, share) in zip(frame.data, ((g, numbers["share"][g][i])
                                                       for g in V.GROUPS if g in numbers["share"]),
                                          strict=True):
            assert trace_.name == P.GROUP_LABELS[group]
            np.testing.assert_allclose(np.asarray(trace_.y)[:-1], share)
            np.testing.assert_allclose(panel[trace_.name][1], share)
            np.testing.assert_allclose(trace_.x, numbers["edges"])
    for a, b in zip(figure.data, figure.frames[0].data, strict=True):
        np.testing.assert_array_equal(a.y, b.y)
    low, high = figure.layout.yaxis.range
    assert 10**low == pytest.approx(0.5 / 4) and 10**high >= max(v.max()
                                                                 for v in numbers["share"].values())
    assert all(axis.get_ylim()[0] == pytest.approx(0.5 / 4) for axis in axes_of(grid))


@pytest.mark.parametrize("backend", BACKENDS)
def test_pictures_stand_with_their_captions(backend):
    figure = usual("changed_images", backend)
    captions = ["bag 0.50 → coat 0.75 true: coat d +0.50, shot noise", "bag 0.25 → bag 1.00 d "
                                                                       "+0.25, fog"]
    assert texts(figure) == captions
    if backend == "matplotlib":
        pixels = [image.get_array() for image in figure.axes[0].images]
        assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["largest\nrise"]
    else:
        pixels = [np.asarray(t.z) for t in figure.data]
        assert list(figure.layout.yaxis.ticktext) == ["largest<br>rise"]
    for shown, x in zip(pixels, IMAGES["kinds"]["rise"]["x"], strict=True):
        np.testing.assert_array_equal(shown, np.repeat(np.round(255 * x[0])[..., None], 3, axis=2))


def test_pictures_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="must have one shape"):
        drawing.draw_pictures([("a", [(np.zeros((1, 4, 4)), ""), (np.zeros((3, 4, 4)), "")])],
                              "plotly", None, "")


BARE = unlabelled(
    **
    {k: [math.nan] * 8 for k in ("source_confidence", "source_prediction", "rise_source", "kept")})
NOTHING = {
    name: np.full_like(v, math.nan, dtype=float) if v.dtype.kind == "f" and name != "size" else v
    for name, v in RECORD.items()
}
EMPTY = {  # numbers with nothing to draw, and words of the sentence in each panel that is empty
    "calibration": (V.calibration(BARE), ["no labels"] * 2),
    "confusion_over_time": (V.confusion_over_time(BARE), ["no labels"] * 3),
    "class_shares": (V.class_shares(BARE), ["no labels"] * 2),
    "selection_anatomy": (V.selection_anatomy(BARE), ["No image of this run"] * 3),
    "gradient_norm": (V.gradient_norm(trace(steps={"step": [0, 1, 2, 3]})),
                      ["made no gradient", "Nothing to draw"]),
    "cost_against_error": (V.cost_against_error({"x": BARE}), ["no labels"] * 2),
    "changed_images": (V.changed_images(BARE), ["not recorded"]),
    "entropy_frames": (V.entropy_frames(trace(entropy=[math.nan] * 8)), ["no finite number"]),
    "layer_distance": (L.layer_distance(
        {**RECORD, "layers": np.array([], str), "distance": np.zeros((3, 0)),
         "size": np.zeros(0)}), ["tunes no parameter"]), "norm_drift": (L.norm_drift({
             **RECORD, "norms": np.array([], str), "in_use": np.zeros((3, 0)), "batch": np.zeros(
                 (3, 0))
         }), ["no batch-norm"] * 2),
    "layer_alignment": (L.layer_alignment(NOTHING), ["No layer of this run moved"]),
    "sample_gradients": ({
        **GRADIENTS,
        **{k: np.zeros(0) for k in ("entropy", "norm", "group")}, "why": "There are no images."
    }, ["no images"]), "feature_space": ({
        **FEATURES, "source": FEATURES["source"] * math.nan,
        "adapted": FEATURES["adapted"] * math.nan, "why": "The features are not finite."
    }, ["not finite"] * 2)
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_what_is_missing_is_said_in_the_figure(name, backend):
    numbers, words = EMPTY[name]
    found = [t for t in texts(plot(name, backend, numbers)) if t.endswith(".")]
    assert len(found) == len(words) and all(word in text
                                            for word, text in zip(words, found, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_without_images_is_explained(backend):
    empty = Trace.from_columns({k: np.zeros(0) for k in ROWS}, {k: [] for k in STEPS},
                               {"classes": 2, "domains": []})
    for view in (V.entropy_frames, V.calibration, V.class_shares, V.confusion_over_time,
                 V.selection_anatomy, V.gradient_norm, V.changed_images):
        assert any(t.endswith(".")
                   for t in texts(plot(view.__name__, backend, view(empty)))), view.__name__
    nothing = {
        k: v[:0] if k in ("step", "distance", "alignment", "in_use", "batch") else v
        for k, v in RECORD.items()
    }
    for view in (L.layer_distance, L.norm_drift, L.layer_alignment):
        assert any(t.endswith(".")
                   for t in texts(plot(view.__name__, backend, view(nothing)))), view.__name__


@pytest.mark.parametrize("backend", BACKENDS)
def test_constant_numbers_have_a_real_axis(backend):
    steady = {
        "step": np.arange(3), "grad_norm": np.ones(3), "distance": np.zeros(3),
        "skipped": np.zeros(3, bool), "why": ""
    }
    figure = plot("gradient_norm", backend, steady)
    same(figure, [{"": (range(3), [1] * 3)}, {"": (range(3), [0] * 3)}])
    still = L.layer_distance({**RECORD, "distance": np.zeros((3, 2))})
    np.testing.assert_array_equal(maps(plot("layer_distance", backend, still))[0], np.zeros((2, 3)))


def test_text_is_large_enough_and_inside_the_figure():
    for name in CASES:
        figure = usual(name, "matplotlib")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            figure.draw_without_rendering()
        width, height = figure.bbox.width, figure.bbox.height
        for axis in figure.axes:
            labels = [
                axis.title, axis.xaxis.label, axis.yaxis.label, *axis.get_xticklabels(),
                *axis.get_yticklabels()
            ]
            assert all(t.get_fontsize() >= 12 for t in labels if t.get_text()), name
            box = axis.get_tightbbox()
            assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, name
        assert all(t.get_fontsize() >= 12 for legend in figure.legends
                   for t in legend.get_texts()), name


def test_given_axes_are_drawn_into():
    figure = Figure(figsize=(9, 4))
    axes = figure.subplots(1, 2)
    assert P.plot_calibration(CASES["calibration"], ax=axes) is figure and len(axes[0].lines) == 3
    assert P.plot_entropy_frames(CASES["entropy_frames"], ax=axes) is figure
    assert P.plot_changed_images(IMAGES, ax=figure.add_subplot()) is figure
    for name in CASES:
        with pytest.raises(ValueError, match="backend must be 'matplotlib' or 'plotly', not "
                                             "'bokeh'"):
            getattr(P, f"plot_{name}")(CASES[name], backend="bokeh")
        with pytest.raises(ValueError, match="ax is for backend='matplotlib'"):
            getattr(P, f"plot_{name}")(CASES[name], backend="plotly", ax=axes[0])


@pytest.mark.parametrize("low, high, expected", [(.06, .4, [.1, .2]),
                                                 (1e-5, 2, [1e-5, 1e-4, 1e-3, .01, .1, 1]),
                                                 (.9, 30, [1, 2, 5, 10, 20])])
def test_ticks_of_logarithmic_heights(low, high, expected):
    ticks, names = fitting.log_ticks(low, high, False)
    np.testing.assert_allclose(ticks, expected)
    assert [float(name) for name in names] == pytest.approx(expected)
    assert fitting.log_ticks(.005, 1, True)[1] == ["1%", "10%", "100%"]
