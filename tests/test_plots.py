"""plots: what is drawn equals the numbers in both backends, empty input is explained, and nothing
leaks into pyplot."""
import functools
import math
import subprocess
import sys
import warnings

import numpy as np
import pytest

from tta_lab import plots as P
from tta_lab.analysis import diagnose as D
from tta_lab.plots.looks import look_of
from tta_lab.plots.panel import named_rows

Figure = pytest.importorskip("matplotlib.figure").Figure
go = pytest.importorskip("plotly.graph_objects")
BACKENDS = ("matplotlib", "plotly")
ROUND = {
    "round": np.array([0, 1, 2]), "error": np.array([10.0, 20.0, 40.0]), "n": np.array([9, 9, 9])
}
GROUPS = {
    "correct": np.array([.1, .2, .3]), "wrong": np.array([.4, .5, math.nan]),
    "unknown": np.array([.5, .3, .7])
}
FALL = {
    "round": ROUND["round"], "n": ROUND["n"], "falling": np.array([3, 5, 8]),
    "falling_share": np.array([.1, .2, .3]), "counts": {g: v * 10 for g, v in GROUPS.items()},
    "among_falling": GROUPS, "within_group": {g: v / 2 for g, v in GROUPS.items()}
}
HALF = {"rounds": [0], "n": {g: 4 for g in GROUPS}, "counts": GROUPS, "share": GROUPS}
RISE = {
    "edges": np.linspace(-1, 1, 4), "early": HALF,
    "late": HALF | {"rounds": [2, 3, 4], "share": FALL["within_group"]}
}
ENTROPY = {
    "edges": np.array([0, .5, 1.0]), "first_step": np.array([0, 5]), "last_step": np.array([4, 8]),
    "counts": np.array([[1, 3], [2, 2]]), "share": np.array([[.25, .75], [.5, .5]]),
    "median": np.array([.6, .5]), "broken": np.array([0, 0])
}
SELECTION = {
    "round": ROUND["round"],
    "labels": {"none": "no filter", "rise": "d >= 0", "kept": "kept by the run"},
    "precision": {"none": GROUPS["correct"], "rise": GROUPS["wrong"], "kept": GROUPS["unknown"]},
    "recall": {"none": np.ones(3), "rise": GROUPS["unknown"], "kept": GROUPS["wrong"]}
}
MARGINAL = {
    "step": np.arange(200), "effective_classes": np.linspace(8, 2, 200), "threshold": 4.0,
    "classes": 8, "alarm_step": 134
}
DETECTION = {"scores": ["rise", "energy"], "labels": ["confidence difference d", "energy"], "n": {},
             "known_vs_unknown": {"auroc": np.array([.9, .7]), "fpr95": np.array([.2, math.nan])},
             "correct_vs_wrong": {"auroc": np.array([.8, .6]), "fpr95": np.array([.3, .4])}}
DOMAIN = {"domain": ["fog", "gaussian_noise"], "error": np.array([10.0, 30.0])}
FLIPS = {
    "round": ROUND["round"], "labels": {"right": "wrong to right", "none": "same class"},
    "lost": ROUND["n"], "count": {"right": np.array([3.0, 5, 8]), "none": np.array([90.0, 80, 70])},
    "dropped": {"right": GROUPS["wrong"], "none": GROUPS["correct"]}
}
NAMES = {g: P.GROUP_LABELS[g] for g in GROUPS}
CASES = {  # name: (numbers, one {label: heights} per panel)
    "error_per_round": (ROUND, [{"": ROUND["error"]}]),
    "error_per_domain": (DOMAIN, [{"mean 20.0 %": DOMAIN["error"]}]),
    "rise_and_fall": (FALL, [{"all falling images": FALL["falling"]} | {NAMES[g]: v for g, v in FALL["counts"].items()},
                      {NAMES[g]: v for g, v in GROUPS.items()},
                             {NAMES[g]: v / 2 for g, v in GROUPS.items()}]),
    "flips": (FLIPS, [{"wrong to right": FLIPS["count"]["right"]}, {"wrong to right": GROUPS["wrong"], "same class": GROUPS["correct"]}]),
    "rise_histogram": (RISE, [{NAMES[g]: v for g, v in GROUPS.items()}, {NAMES[g]: v / 2 for g, v in GROUPS.items()}]),
    "entropy_histogram": (ENTROPY, [{"median": ENTROPY["median"]}]),
    "selection_quality": (SELECTION, [{label: SELECTION[part][rule] for rule, label in SELECTION["labels"].items()}
                                      for part in ("precision", "recall")]),
    "marginal_entropy": (MARGINAL, [{"effective number of classes": MARGINAL["effective_classes"]}]),
    "detection": (DETECTION, [{"known against unknown": DETECTION["known_vs_unknown"][part],
                               "correct against wrong": DETECTION["correct_vs_wrong"][part]} for part in ("auroc", "fpr95")]),
}


def plot(name, numbers, layout=False, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = getattr(P, f"plot_{name}")(numbers, **kwargs)
        if layout:
            # places are worked out here, and complaints about them come here
            figure.draw_without_rendering()
        return figure


@functools.cache
def laid_out(name):
    return plot(name, CASES[name][0], layout=True)


def panels(figure):
    return [axis for axis in figure.axes if axis.get_label() != "<colorbar>"]


def drawn(figure):
    """One {label: heights} per panel, read back from the artists or the traces; reference lines
    and bands left out."""
    if isinstance(figure, Figure):
        found = []
        for axis in panels(figure):
            # neither reference lines nor error bars
            lines = [line for line in axis.lines if line.get_marker() in dict(P.MARKERS)]
            heights = {
                "" if line.get_label().startswith("_") else line.get_label(): line.get_ydata()
                for line in lines
            }
            boxes = [bars for bars in axis.containers if hasattr(bars, "patches")]
            heights |= {
                bars.get_label(): np.array([bar.get_height() for bar in bars]) for bars in boxes
            }
            heights |= {
                patch.get_label(): patch.get_data().values for patch in axis.patches
                if hasattr(patch, "get_data")
            }
            found.append(heights)
        return found
    found = {}
    for trace in figure.data:
        if trace.type == "bar" or trace.type == "scatter" and trace.fill is None:
            stairs = trace.type == "scatter" and trace.line.shape == "hv"
            found.setdefault(trace.xaxis, {})[trace.name
                                              or ""] = np.array(trace.y,
                                                                float)[:-1 if stairs else None]
    return list(found.values())


def same_heights(figure, expected):
    got = drawn(figure)
    assert [list(panel) for panel in got] == [list(panel) for panel in expected]
    for panel, wanted in zip(got, expected, strict=True):
        for label, heights in wanted.items():
            np.testing.assert_allclose(panel[label], heights, equal_nan=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_both_backends_draw_the_very_numbers(name, backend):
    numbers, expected = CASES[name]
    same_heights(plot(name, numbers, backend=backend), expected)


def test_every_plot_has_its_reading_sentence():
    assert {*CASES, "images", "stream"} <= set(P.HOW_TO_READ) == {
        name.removeprefix("plot_") for name in dir(P) if name.startswith("plot_")
    }
    assert all(text.endswith(".") and text.count(". ") == 0 for text in P.HOW_TO_READ.values())


@pytest.mark.parametrize("backend", BACKENDS)
def test_heat_map_carries_shares_and_places(backend):
    figure = plot("entropy_histogram", ENTROPY, backend=backend)
    if backend == "plotly":
        np.testing.assert_allclose(figure.data[0].z, ENTROPY["share"].T)
        np.testing.assert_allclose(figure.data[0].x, [0, 5, 9])
        np.testing.assert_allclose(figure.data[1].x, [2.5, 7])
    else:
        mesh = panels(figure)[0].collections[0]
        np.testing.assert_allclose(np.asarray(mesh.get_array()).reshape(2, 2), ENTROPY["share"].T)
        np.testing.assert_allclose(panels(figure)[0].lines[0].get_xdata(), [2.5, 7])


@pytest.mark.parametrize("backend", BACKENDS)
def test_seeds_become_mean_and_band(backend):
    # errors 10 20 40 and 14 20 46: mean 12 20 43, deviation |difference| / sqrt 2
    runs = {"Source": ROUND, "Tent": [ROUND, ROUND | {"error": np.array([14.0, 20.0, 46.0])}]}
    figure = plot("error_per_round", runs, backend=backend)
    same_heights(figure, [{"Source": [10, 20, 40], "Tent": [12, 20, 43]}])
    half = np.array([4, 0, 6]) / math.sqrt(2)
    if backend == "plotly":
        bands = [trace.y for trace in figure.data if trace.fill == "toself"]
        assert len(bands) == 1
        np.testing.assert_allclose(
            bands[0], np.concatenate([[12, 20, 43] + half, ([12, 20, 43] - half)[::-1]]))
    else:
        band, = panels(figure)[0].collections
        corners = band.get_paths()[0].vertices[:, 1]
        assert corners.max() == pytest.approx(43 +
                                              half[2]) and corners.min() == pytest.approx(12 -
                                                                                          half[0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_domains_of_several_runs_stand_side_by_side(backend):
    runs = {"Source": DOMAIN, "Tent": [DOMAIN, DOMAIN | {"error": np.array([20.0, 50.0])}]}
    figure = plot("error_per_domain", runs, backend=backend)
    same_heights(figure, [{"Source (mean 20.0 %)": [10, 30], "Tent (mean 27.5 %)": [15, 40]}])
    if backend == "plotly":
        np.testing.assert_allclose(figure.data[1].error_y.array, np.array([10, 20]) / math.sqrt(2))
        assert list(figure.data[0].x) == ["fog", "gaussian noise"]
    else:
        assert [tick.get_text()
                for tick in panels(figure)[0].get_xticklabels()] == ["fog", "gaussian noise"]
        left, right = [[bar.get_x() for bar in bars] for bars in panels(figure)[0].containers
                       if hasattr(bars, "patches")]
        np.testing.assert_allclose(np.subtract(right, left), 0.4)


def test_seeds_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="seeds of run 'Tent' cover different rounds"):
        P.plot_error_per_round({"Tent": [ROUND, {"round": [0], "error": [1.0]}]})
    with pytest.raises(ValueError, match="run 'Tent' has no numbers"):
        P.plot_error_per_round({"Tent": []})


def emptied(value):
    """The same numbers with every array lost but the rounds."""
    if isinstance(value, dict):
        return {k: v if k == "round" else emptied(v) for k, v in value.items()}
    return np.full(np.shape(value), math.nan) if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_numbers_without_a_finite_value_are_explained(name, backend):
    numbers = emptied(CASES[name][0])
    # the places stay, what stands there is lost
    if name in ("rise_histogram", "entropy_histogram"):
        numbers |= {
            k: v for k, v in CASES[name][0].items() if k in ("edges", "first_step", "last_step")
        }
    figure = plot(name, numbers, backend=backend)
    n = len(CASES[name][1])
    if backend == "plotly":
        texts = [
            a.text for a in figure.layout.annotations if a.text.startswith("Nothing to draw: ")
        ]
        assert len(texts) == n and not figure.data
    else:
        assert [
            axis.texts[0].get_text().startswith("Nothing to draw: ") for axis in panels(figure)
        ] == [True] * n
        assert not any(axis.lines for axis in panels(figure))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_trace_without_images_is_explained(backend):
    from tta_lab.core.trace import Trace

    columns = ("step", "round", "domain", "label", "known", "prediction", "confidence", "entropy",
               "max_logit", "energy", "rise_source", "source_prediction", "kept")
    trace = Trace.from_columns({k: np.zeros(0) for k in columns},
                               {"step": [], "marginal_entropy": []}, {"classes": 4, "domains": []})
    for name in CASES:
        figure = plot(name, getattr(D, name)(trace), backend=backend)
        if backend == "plotly":
            texts = [annotation.text for annotation in figure.layout.annotations]
        else:
            texts = [text.get_text() for axis in panels(figure) for text in axis.texts]
        assert any(text.startswith("Nothing to draw") for text in texts), name


@pytest.mark.parametrize("backend", BACKENDS)
def test_constant_numbers_are_a_flat_line_on_a_real_axis(backend):
    figure = plot("error_per_round", {"round": [0, 1], "error": [0.0, 0.0]}, backend=backend)
    same_heights(figure, [{"": [0, 0]}])
    low, high = figure.layout.yaxis.range if backend == "plotly" else panels(figure)[0].get_ylim()
    assert low == 0 and high > 0.5


@pytest.mark.parametrize("backend", BACKENDS)
def test_runs_differ_in_more_than_color(backend):
    runs = {f"run {i}": ROUND | {"error": ROUND["error"] + i} for i in range(9)}
    figure = plot("error_per_round", runs, backend=backend)
    if backend == "plotly":
        looks = [(t.line.dash, t.marker.symbol) for t in figure.data]
    else:
        looks = [(line.get_linestyle() + str(line._dash_pattern), line.get_marker())
                 for line in panels(figure)[0].lines]
    assert len(set(looks)) == 9
    assert len({look_of(i) for i in range(35)}) == 35


def test_text_is_large_enough_for_a_projector():
    for name, (numbers, _) in CASES.items():
        figure = laid_out(name)
        for axis in figure.axes:
            texts = [
                axis.title, axis.xaxis.label, axis.yaxis.label, *axis.get_xticklabels(),
                *axis.get_yticklabels()
            ]
            assert all(text.get_fontsize() >= 12 for text in texts if text.get_text()), name
        assert all(text.get_fontsize() >= 12 for legend in figure.legends
                   for text in legend.get_texts()), name
        layout = plot(name, numbers, backend="plotly").layout
        assert layout.font.size >= 12 and all(a.font.size >= 12 for a in layout.annotations)


def test_axes_name_their_units():
    units = {
        "error_per_round": ["(%)"], "error_per_domain": ["(%)"],
        "rise_and_fall": ["(images)", "%", "%"], "flips": ["(images)", "%"],
        "rise_histogram": ["%", "%"], "detection": ["%", "%"], "entropy_histogram": ["(nats)"],
        "selection_quality": ["%", "%"], "marginal_entropy": ["(classes)"]
    }
    for name, (numbers, _) in CASES.items():
        for axis, unit in zip(panels(laid_out(name)), units[name], strict=True):
            ticks = "".join(tick.get_text() for tick in axis.get_yticklabels())
            assert unit in axis.get_ylabel() + ticks, name
        layout = plot(name, numbers, backend="plotly").layout
        axes = [layout[f"yaxis{i or ''}"] for i in [0, 2, 3][:len(units[name])]]
        assert all(unit in axis.title.text + (axis.tickformat or "")
                   for axis, unit in zip(axes, units[name], strict=True)), name


def test_labels_and_legend_stay_inside_the_figure_and_off_the_axes():
    runs = {f"Tent(lr=0.001).where(ConfidenceRise(), EntropyThreshold({i}))": ROUND for i in range(7)}
    many = {
        "domain": [f"a_rather_long_domain_name_{i}" for i in range(15)], "error": np.arange(15.0)
    }
    extreme = [
        plot("error_per_round", runs, layout=True),
        plot("error_per_domain", many, layout=True)
    ]
    for figure in [laid_out(name) for name in CASES] + extreme:
        width, height = figure.bbox.width, figure.bbox.height
        for axis in figure.axes:
            box = axis.get_tightbbox()
            assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
        for legend in figure.legends:
            box = legend.get_window_extent()
            assert box.x0 >= -1 and box.x1 <= width + 1 and box.y0 >= -1
            assert all(not box.overlaps(axis.get_tightbbox()) for axis in panels(figure))


def test_given_axes_are_drawn_into():
    figure = Figure(figsize=(9, 4))
    left, right = figure.subplots(1, 2)
    assert P.plot_selection_quality(SELECTION, ax=(left, right)) is figure
    assert left.get_title().startswith("Precision") and len(right.lines) == 3 and len(
        left.get_legend().get_texts()) == 3
    assert P.plot_error_per_round(ROUND, ax=figure.add_subplot()) is figure
    with pytest.raises(ValueError, match="has 2 panels but ax holds 1 axes"):
        P.plot_selection_quality(SELECTION, ax=left)
    with pytest.raises(ValueError, match="backend must be 'matplotlib' or 'plotly', not 'bokeh'"):
        P.plot_error_per_round(ROUND, backend="bokeh")
    with pytest.raises(ValueError, match="ax is for backend='matplotlib'"):
        P.plot_error_per_round(ROUND, backend="plotly", ax=left)


@pytest.mark.parametrize("backend", BACKENDS)
def test_images_stand_row_by_row_with_a_gap_before_the_unknown(backend):
    x = np.linspace(0, 1, 2 * 3 * 4 * 4).reshape(2, 3, 1, 4, 4)
    figure = P.plot_images(
        {
            "x": x, "rows": ["clean", "noise"], "columns": ["bag", "coat", "9"],
            "known": [True, True, False]
        }, backend)
    if backend == "plotly":
        sheet = np.asarray(figure.data[0].z)
        across = figure.layout.xaxis
        names, places = across.ticktext, across.tickvals
    else:
        axis = figure.axes[0]
        sheet = axis.images[0].get_array()
        places = axis.get_xticks()
        names = [t.get_text() for t in axis.get_xticklabels()]
        assert [t.get_text() for t in axis.get_yticklabels()] == ["clean", "noise"]
    # gaps of 2, and half an image more before the unknown
    assert sheet.shape == (4 + 2 + 4, 3 * 4 + 2 * 2 + 2, 3)
    assert [name.replace("<br>", "\n") for name in names
            ] == ["bag", "coat", "unknown:\n9"] and list(places) == [1.5, 7.5, 15.5]
    np.testing.assert_array_equal(sheet[6:10, 14:18, 0], np.round(255 * x[1, 2, 0]))
    assert (sheet[4:6] == 255).all() and (sheet[:, 10:14] == 255).all()
    with pytest.raises(ValueError, match=r"\(rows, columns, 1 or 3 channels, height, width\) = "
                                         r"\(1, 3, ...\), got \(2, 3, 1, 4, 4\)"):
        P.plot_images(
            {
                "x": x, "rows": ["clean"], "columns": ["bag", "coat", "9"],
                "known": [True, True, False]
            }, backend)


# two rounds of fog and noise: batches of two, an unknown one (label 2) and one without a label
STREAM = {
    "position": np.arange(12), "batch": np.repeat(np.arange(6), 2),
    "label": np.array([0, 0, 1, 2, 0, 1, 1, 1, 0, -1, 0,
                       0]), "domain": np.array([0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1]),
    "severity": np.array([1, 1, 3, 3, 5, 5] * 2, float), "round": np.repeat([0, 1], 6),
    "known": np.array([1, 1, 1, 0] + [1] * 8,
                      bool), "domains": ["fog", "shot_noise"], "classes": ["bag",
                                                                           "coat"], "window": 4
}
SHARES = [  # windows start at the borders of severity and domain: 0 2 4 6 8 10
    [[1, 1, 0, 1, 1, 0], [0, 0, 1, 0, 0, 1]],
    [[1, 0, .5, 0, .5, 1], [0, .5, .5, 1, 0, 0], [0, .5, 0, 0, 0, 0], [0, 0, 0, 0, .5, 0]]]


def stream_maps(figure):
    """(title, row names, column edges, shares) of each heat map, from either backend."""
    if isinstance(figure, Figure):
        return [(axis.get_title(), [t.get_text() for t in axis.get_yticklabels()],
                 axis.collections[0].get_coordinates()[0, :, 0],
                 np.asarray(axis.collections[0].get_array()).reshape(
                     len(axis.collections[0].get_coordinates()) - 1, -1)) for axis in panels(figure)
                if axis.collections]
    titles = [a.text for a in figure.layout.annotations]
    axes = [figure.layout.yaxis, figure.layout.yaxis2]
    return [
        (title, list(axis.ticktext), np.asarray(trace.x), np.asarray(trace.z))
        for title, axis, trace in zip(titles, axes, [t for t in figure.data
                                                     if t.type == "heatmap"], strict=False)
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_stream_shows_shares_of_domains_and_classes(backend):
    figure = plot("stream", STREAM, backend=backend, layout=backend == "matplotlib")
    domains, classes = stream_maps(figure)
    assert domains[0] == "Domains: 1 in each batch, 6 segments, lines part rounds" and domains[
        1] == ["fog", "shot noise"]
    # labelled known images: 0 0 | 1 | 0 1 | 1 1 | 0 | 0 0: 7 classes in 6 batches; runs 00 1
    # 0 111 000
    assert classes[0] == "Classes: 1.2 in each batch, runs of 2 images" and classes[1] == [
        "bag", "coat", "unknown", "no label"
    ]
    for (_, _, edges, shares), expected in zip((domains, classes), SHARES, strict=True):
        np.testing.assert_allclose(edges, [0, 2, 4, 6, 8, 10, 12])
        np.testing.assert_allclose(shares, expected)
    if backend == "plotly":
        steps = figure.data[-1]
        np.testing.assert_allclose(steps.y[:-1], [1, 3, 5, 1, 3, 5])
        assert steps.line.shape == "hv" and [shape.x0 for shape in figure.layout.shapes] == [6] * 3
        assert list(figure.layout.yaxis2.range) == [
            3.5, -0.5
        ] and figure.layout.xaxis3.title.text == "position in the stream (images)"
    else:
        axes = panels(figure)
        np.testing.assert_allclose(axes[2].patches[0].get_data().values, [1, 3, 5, 1, 3, 5])
        assert axes[2].patches[0].get_data().baseline is None       # no drop to 0 at the ends
        assert [line.get_xdata()[0] for axis in axes for line in axis.lines] == [6] * 3
        assert axes[1].get_ylim() == (
            3.5, -0.5) and axes[2].get_xlabel() == "position in the stream (images)"
        assert all(
            text.get_fontsize() >= 12 for axis in figure.axes
            for text in [axis.title, axis.xaxis.label, axis.yaxis.label, *axis.get_yticklabels()]
            if text.get_text())
        box = figure.get_tightbbox()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.get_figwidth(
        ) and box.y1 <= figure.get_figheight()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_mixed_stream_keeps_equal_windows_and_leaves_out_what_does_not_vary(backend):
    n, rng = 4000, np.random.default_rng(0)
    numbers = STREAM | {
        "position": np.arange(n), "batch": np.arange(n) // 50, "label": np.arange(n) % 2,
        "domain": rng.integers(0, 40, n), "severity": np.full(n, 5.0), "round": np.zeros(
            n, int), "known": np.ones(n, bool), "window": 7,
        "domains": [f"gaussian_noise:{i}+a_long_name:{i}" for i in range(40)]
    }
    # two maps and no severity
    domains, classes = stream_maps(plot("stream", numbers, backend=backend))
    # 7 would be more than 300 columns
    assert len(domains[2]) == 4000 // 14 + 2 and set(np.diff(domains[2])) == {14, 4000 % 14}
    np.testing.assert_allclose(domains[3].sum(axis=0), 1)
    assert domains[3][:, 0] == pytest.approx(np.bincount(numbers["domain"][:14], minlength=40) / 14)
    assert "segments" not in domains[0] and classes[
        0] == "Classes: 2 in each batch, runs of 1 images"
    assert len(domains[1]) <= P.ROWS and all("..." in name and len(name) <= 28
                                             for name in domains[1])


@pytest.mark.parametrize("n", [1, 2, 24, 25, 26, 47, 49, 100, 1000])
def test_names_of_many_rows_keep_their_distance(n):
    places, names = named_rows([f"row {i}" for i in range(n)])
    assert names[0] == "row 0" and names[-1] == f"row {n - 1}" and len(places) <= P.ROWS
    assert (np.diff(places) >= math.ceil(n / P.ROWS)).all() and (n > P.ROWS or len(places) == n)


def test_a_stream_without_sense_is_refused():
    for change, text in (({"label": STREAM["label"][1:]}, "differ in length"),
                         ({"domain": STREAM["domain"] + 1}, "2 domain and 2 class names"),
                         ({"known": np.ones(12, bool)}, "labels of known images to 2"),
                         ({"position": np.arange(12)[::-1]}, "must rise")):
        with pytest.raises(ValueError, match=text):
            P.plot_stream(STREAM | change)
    with pytest.raises(ValueError, match="has 3 panels but ax holds 1"):
        P.plot_stream(STREAM, ax=Figure().subplots())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stream_without_images_is_explained(backend):
    empty = (
        STREAM
        | {name: values[:0] for name, values in STREAM.items() if isinstance(values, np.ndarray)})
    figure = plot("stream", empty, backend=backend)
    texts = ([a.text for a in figure.layout.annotations]
             if backend == "plotly" else [t.get_text() for a in panels(figure) for t in a.texts])
    assert sum(text.startswith("Nothing to draw") for text in texts) == 2


def test_stream_into_given_axes():
    figure = Figure(figsize=(9, 9))
    axes = figure.subplots(3, 1)
    assert P.plot_stream(STREAM, ax=axes) is figure and axes[1].get_title().startswith("Classes")


def test_caption_stands_above():
    figure = P.captioned(P.plot_error_per_round(ROUND), "Tent, open set")
    assert figure.get_suptitle() == "Tent, open set" and figure._repr_png_().startswith(b"\x89PNG")


def test_a_figure_shows_itself_in_a_notebook():
    assert P.plot_error_per_round(ROUND)._repr_png_().startswith(b"\x89PNG")


def test_importing_loads_no_plotting_library_and_drawing_no_pyplot():
    code = """if True:
        import sys
        from tta_lab import plots
        assert not {"matplotlib", "plotly"} & set(sys.modules)
        import matplotlib
        before = matplotlib.rcParams.copy()
        plots.plot_error_per_round({"round": [0, 1], "error": [1.0, 2.0]})._repr_png_()
        assert "matplotlib.pyplot" not in sys.modules and matplotlib.rcParams.copy() == before and "plotly" not in sys.modules
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
