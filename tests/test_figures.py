"""What figures must not do, and that the check of it (`figure_check`) sees it: figures made bad on
purpose, and hard numbers drawn well."""

import math
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from figure_check import faults, touch
from test_plots import CASES
from test_plots import plot as drawn
from test_timeline_plots import CASES as VIEWS

from tta_lab import plots as P
from tta_lab.components.controllers.collapse_detector import SIGNALS
from tta_lab.plots import Panel, Series, drawing, fitting
from tta_lab.plots.looks import look_of
from tta_lab.studies.zoo import figures as zoo
from tta_lab.workshop.study import plot_classes

Figure = pytest.importorskip("matplotlib.figure").Figure
go = pytest.importorskip("plotly.graph_objects")
BACKENDS = ("matplotlib", "plotly")
ROOT = Path(__file__).resolve().parents[1]
LONG = "a_method_with_a_name_of_forty_characters"
T = np.arange(8)


def lines(n, y=lambda i: 14 + 0.1 * i + 0.2 * np.sin(T), name="run {}", kind="line", **more):
    return tuple(Series(T, y(i), name.format(i), i, kind, **more) for i in range(n))


def figure_of(*panels, backend="matplotlib", **more):
    return drawing.draw(list(panels), backend, None, **more)


# --- the check sees what it should


def bad_text(figure, axis):
    figure.text(0.98, 0.5, "a sentence that goes on")


def long_title(figure, axis):
    axis.set_title("a title that is far too long for a figure of eight inches " * 3)


def long_legend(figure, axis):
    figure.legends[0].get_texts()[0].set_text(LONG * 4)


def touching_ticks(figure, axis):
    axis.set_xticks(range(8), [LONG[:12]] * 8)


def note_on_title(figure, axis):
    axis.text(0.5, 1.02, "a note on the title", transform=axis.transAxes, ha="center", fontsize=14)


def equal_styles(figure, axis):
    axis.plot(
        T,
        14.3 + 0 * T,
        color=axis.lines[0].get_color(),
        linestyle=axis.lines[0].get_linestyle(),
        marker=axis.lines[0].get_marker(),
        label="another",
    )


def cut_line(figure, axis):
    axis.set_ylim(14, 14.05)


def cut_band(figure, axis):
    axis.fill_between(T, 14 + 0 * T, 15 + 0 * T)
    axis.set_ylim(13.7, 14.9)


def cut_error_bar(figure, axis):
    axis.errorbar(T, 14 + 0 * T, 3, linestyle="none")
    axis.set_ylim(13, 15)


def cut_across(figure, axis):
    axis.set_xlim(0, 5)


def lost_reference(figure, axis):
    axis.axhline(40)
    axis.set_ylim(13, 15)


def only_nan(figure, axis):
    (handle,) = axis.plot(T, T * math.nan, color="#123456", label="nothing")
    axis.legend([handle], ["nothing"])


@pytest.mark.parametrize(
    "spoil, words",
    [
        (bad_text, "cut off"),
        (long_title, "cut off"),
        (long_legend, "cut off"),
        (touching_ticks, "overlap"),
        (note_on_title, "overlap"),
        (equal_styles, "look alike"),
        (cut_line, "upwards, but the axis"),
        (cut_band, "upwards, but the axis"),
        (cut_error_bar, "upwards, but the axis"),
        (cut_across, "across, but the axis"),
        (lost_reference, "upwards, but the axis"),
        (only_nan, "holds no number"),
    ],
    ids=lambda v: getattr(v, "__name__", None),
)
def test_the_check_sees_a_figure_made_bad(spoil, words):
    figure = figure_of(Panel("Error", "step", "error (%)", lines(2)))
    assert faults(figure) == []
    spoil(figure, figure.axes[0])
    assert any(words in fault for fault in faults(figure)), faults(figure)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda f: f.update_layout(yaxis_range=[14, 14.05]), "but the axis"),
        (lambda f: f.update_layout(xaxis_range=[0, 5]), "but the axis"),
        (lambda f: f.data[1].update(line=f.data[0].line, marker=f.data[0].marker), "look alike"),
        (lambda f: f.data[0].update(name=LONG * 4), "cut off"),
        (lambda f: f.data[0].update(y=[None] * 8), "holds no number"),
        (lambda f: f.update_annotations(text="a title that is far too long for it " * 5),
         "wider than its panel"),
        (lambda f: f.update_annotations(text="a title<br>of four<br>lines<br>in all"),
         "cut off at the top"),
        (lambda f: f.update_yaxes(title_text="far too long for a figure of so few pixels " * 3),
         "cut off"),
        (lambda f: f.data[0].update(error_y={"type": "data", "array": [9] * 8}), "but the axis"),
    ],
)
def test_the_check_sees_a_bad_figure_of_plotly(change, words):
    figure = figure_of(Panel("Error", "step", "error (%)", lines(2)), backend="plotly")
    assert faults(figure) == []
    change(figure)
    assert any(words in fault for fault in faults(figure)), faults(figure)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_check_sees_an_axis_that_is_mostly_empty(backend):
    panel = Panel("Error", "step", "error (%)", lines(2))
    figure = figure_of(panel, backend=backend)
    assert faults(figure, [panel]) == []
    figure.axes[0].set_ylim(0, 16) if backend == "matplotlib" else figure.update_yaxes(
        range=[0, 16])
    assert any("lines from 13.8" in fault
               for fault in faults(figure, [panel])) and faults(figure) == []


def test_texts_that_are_turned_touch_where_they_do():
    square = np.array([[0, 0], [10, 0], [10, 10], [0, 10]], float)
    turned = (square - 5) @ np.array([[0.7, -0.7], [0.7, 0.7]]) + [5, 5]
    assert (
        touch(square, turned)
        and not touch(square, square + [10, 0])
        and not touch(turned, turned + [8, 8])
        and touch(turned, turned + [9, 0])
    )


# --- what is drawn well


def well(panels, **more):
    for backend in BACKENDS:
        figure = figure_of(*panels, backend=backend, **more)
        assert faults(figure, drawing.distinct(list(panels))) == [], backend
    return figure


HARD = {
    "one curve": lines(1),
    "twenty curves": lines(20),
    "forty curves": lines(40),
    "twenty paths": lines(20, kind="path"),
    "forty paths": lines(40, kind="path"),
    "long names": lines(6, name=LONG + "{}"),
    "very long names": lines(3, name=2 * LONG + " {}" + LONG),
    "names of many words": lines(
        4, name="Tent(lr=0.001).where(ConfidenceRise(), EntropyThreshold({})) with a diversity term of "
        "weight 0.5, no reset"),
    "one value": lines(3, lambda i: 14 + 0.0 * T),
    "zero": lines(2, lambda i: 0.0 * T),
    "negative": lines(2, lambda i: -3 - 0.1 * T * i),
    "all but equal": lines(2, lambda i: 14 + 1e-6 * T * i),
    "huge": lines(2, lambda i: 1e9 * (1 + i + T)),
    "tiny": lines(2, lambda i: 1e-9 * (1 + i + T)),
    "huge and close": lines(2, lambda i: 1e9 + T * (1 + i)),
    "both signs": lines(2, lambda i: (-1.0)**T * (1 + i)),
    "a single point": tuple(
        Series([3], np.array([14.0 + i]), f"run {i}", i, "path") for i in range(3)),
    "gaps": lines(2, lambda i: np.where(i == T % 2, 14.0 + T, math.nan), kind="path"),
    "nothing in one": (*lines(2), Series(T, T * math.nan, "absent", 5)),
    "bands": lines(3, lambda i: 1.0 * T - 3, spread=np.full(8, 2.5)),
    "bands with gaps": lines(2, spread=np.where(T == 3, math.nan, 2.0)),
    "one look for all": tuple(Series(T, 14.0 + i + T, f"run {i}", 0) for i in range(12)),
    "points and lines": (*lines(3), Series(T, 14 + 0.1 * T, "alarm", 1, "points", np.full(8, 2.0))),
    "bars": tuple(
        Series([f"shift {j}" for j in range(4)], np.array([3, -1, 0, 9.0]), f"run {i}", i, "bar",
               np.full(4, 4.0)) for i in range(3)),
    "two classes": (Series(["Ankle boot or sandal", "T-shirt"], np.array([0.3, 0.7]), "share", 0,
                           "bar"),),
    "a hundred classes": tuple(
        Series([f"class {j}"
                for j in range(100)], np.full(100, 0.01 * (1 + i)), f"run {i}", i, "bar")
        for i in range(3)),
    "long bars": (Series([LONG + str(j) for j in range(12)], np.arange(12.0), "", 0, "bar"),),
    "outlines": tuple(
        Series(np.linspace(0, 1, 9), np.abs(np.sin(T + i)), f"group {i}", i, "steps")
        for i in range(4)),
}


@pytest.mark.parametrize("name", HARD)
def test_hard_numbers_and_names_are_drawn_well(name):
    well([Panel("Error", "step (batches)", "error (%)", HARD[name])])


@pytest.mark.parametrize(
    "name", ["twenty curves", "long names", "a hundred classes", "bands", "very long names"])
def test_hard_things_beside_each_other(name):
    long = "A title of so many words that two panels of ten inches have no room for it"
    well(
        [
            Panel(
                long, "position in the stream (images)", "an axis with a name of many words, in "
                                                         "per cent", HARD[name]
            ),
            Panel("Other", "step", "error (%)", lines(3, name="other {}")),
        ]
    )
    well([
        Panel(f"{long} {i}", "step", "error (%)", HARD[name] if i else lines(2)) for i in range(3)
    ])


def test_more_panels_than_fit_into_a_row():
    well([Panel(f"Part {i}", "step", "error (%)", lines(3)) for i in range(5)])
    well(
        [
            Panel(f"Part {i}", "step" if i == 3 else "", "error (%)", lines(3), height=2.6)
            for i in range(4)
        ],
        stacked=True,
    )


def test_shares_with_bands_and_whole_scales():
    share = tuple(
        Series(T, 0.5 + 0.06 * T, f"run {i}", i, spread=np.full(8, 0.4)) for i in range(2))
    figure = well([Panel("Shares", "step", "share", share, percent=True, top=1.0)])
    assert figure.layout.yaxis.range[1] <= 1.05 and figure.layout.yaxis.range[0] == 0
    calm = Panel("Collapse", "step", "probability", lines(1, lambda i: 0.02 + 0.001 * T),
                 percent=True, top=1.0, whole=True)
    assert well([calm]).layout.yaxis.range == (0, 1.05)
    assert (well([
        Panel("Kept", "step", "share", lines(1, lambda i: 0.02 + 0.001 * T), percent=True, top=1.0)
    ]).layout.yaxis.range[1] < 0.03)


def test_a_band_moves_the_axis():
    panel = Panel("Gain", "share", "points",
                  (Series(T, np.linspace(0.1, 0.2, 8), "filter", 0, spread=np.full(8, 0.7)),))
    figure = figure_of(panel)
    low, high = figure.axes[0].get_ylim()
    assert low < -0.6 and high > 0.9


def test_names_keep_their_looks_and_never_share_one():
    mixed = [
        Panel("a", "", "y", lines(4)),
        Panel("b", "", "y", (Series(T, 1.0 + T, "other", 1), Series(T, 2.0 + T, "run 0", 3))),
    ]
    looks = [{s.label: s.look for s in p.series} for p in drawing.distinct(mixed)]
    assert (looks[0] == {f"run {i}": i for i in range(4)} and looks[1]["run 0"] == 0
            and looks[1]["other"] not in range(4))
    assert (
        len({look_of(i)[:2] for i in range(35)}) == 35
        and len({look_of(i)[:3] for i in range(245)}) == 245
    )


def test_texts_are_broken_where_they_must_be():
    assert fitting.wrapped("as short as this", 3, 13) == "as short as this"
    for text in ("a title of many words " * 4, LONG * 3, "Tent(lr=0.001).where(ConfidenceRise())",
                 "x" * 200):
        broken = fitting.wrapped(text.strip(), 2, 13)
        assert fitting.inches(broken, 13) <= 2 and broken.replace("\n", "").replace(
            " ", "") == text.replace(" ", "")
    assert fitting.wrapped("an error of 13.3 %", fitting.inches("an error of 13.3", 13),
                           13) == "an error of\n13.3 %"
    assert fitting.shortened(LONG, 20) == "a_method_w...racters"


@pytest.mark.parametrize("label", ["a name", LONG, "WWWWWWWW mm", "0.123456789 %", "iiii,ll.."])
def test_widths_are_estimated_within_a_tenth(label):
    figure = Figure()
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    text = figure.text(0, 0, label, fontsize=13)
    width = text.get_window_extent(FigureCanvasAgg(figure).get_renderer()).width / figure.dpi
    assert 0.98 * width - 0.03 <= fitting.inches(label, 13) <= 1.12 * width + 0.05


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", [*CASES, *VIEWS])
def test_every_kind_of_figure(name, backend):
    assert faults(drawn(name, CASES[name][0] if name in CASES else VIEWS[name],
                        backend=backend)) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_figures_of_the_workshop(backend):
    solutions = sorted((ROOT / "notebooks" / "workshop" / "solutions").glob("*.ipynb"))
    named = {
        name
        for path in solutions
        for c in nbformat.read(path, as_version=4).cells
        if c.cell_type == "code"
        for name in re.findall(r"\bplot_\w+", c.source)
    }
    classes = {
        name: {"image": list(range(120, 1200, 30)), "classes": list(np.linspace(9, low, 36))}
        for name, low in (("source", 8), ("BN-1", 8.5), ("fast Tent", 2), ("your resets", 7))
    }
    step = np.arange(40)
    watched = {
        "step": step,
        "alarm": np.where(step > 30, 1, 0),
        "probability": step / 40,
        "threshold": 0.7,
        "first_alarm": 31,
        "evidence": {name: step / (10 + i) for i, name in enumerate(SIGNALS)},
    }
    guarded = {
        "step": step,
        "probability": step / 40,
        "actions": [(31, "reset")],
        "edges": np.arange(0, 44, 4),
        "alarm": step > 30,
        "recent": 120,
        "answered": np.full((10, len(P.guard.ANSWERS)), 1 / len(P.guard.ANSWERS)),
        "error": 20.0 + step,
    }
    domains = {
        name: {"domain": ["gaussian_noise", "fog"], "error": np.array([30.0, 20])}
        for name in ("source", "BN-1", "your Tent", "tta_lab's Tent")
    }
    made = {
        "plot_classes": plot_classes(classes, backend),
        "plot_collapse": P.plot_collapse(watched, backend),
        "plot_guarding": P.plot_guarding(guarded, backend),
        "plot_error_per_domain": P.plot_error_per_domain(domains, backend),
        "plot_rise_histogram": drawn("rise_histogram", CASES["rise_histogram"][0], backend=backend),
    }
    assert named <= set(made)
    assert {name: faults(figure) for name, figure in made.items() if faults(figure)} == {}


def test_another_size_is_fitted_anew():
    names = lines(6, name="composition of parts {}")
    for backend, size in (("matplotlib", (6, 3.6)), ("plotly", (640, 320))):
        figure = figure_of(
            Panel("A title of some length over a small panel", "step", "error so far, known (%)",
                  names),
            Panel("Collapse, without labels", "step", "probability of collapse", names[:3],
                  percent=True),
            backend=backend,
        )
        assert faults(P.fit(figure, *size)) == []


def test_a_map_of_many_methods_is_readable():
    from tta_lab.studies.zoo import cells as zoo_cells
    from tta_lab.studies.zoo import table as zoo_table

    numbers = zoo_table.heat_map(zoo_cells.load_zoo(None))
    for backend in BACKENDS:
        assert faults(zoo.plot_zoo(numbers, backend)) == []
        few = {
            **numbers,
            "rows": numbers["rows"][:3],
            "families": numbers["families"][:3],
            "columns": numbers["columns"][:2],
            **{
                key: [list(row[:2]) for row in numbers[key][:3]]
                for key in ("value", "shade", "text", "reason", "hover")
            },
            "title": "Error minus that of bn-1 (points), mean of 3 sources, and what else a title "
                     "may have to say",
        }
        assert faults(zoo.plot_zoo(few, backend)) == []
