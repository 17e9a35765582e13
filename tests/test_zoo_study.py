"""The method zoo: rows become cells, cells become what may be said; streams are those of the stored
rows; a cell can be repeated."""
import json
import math
from collections import Counter

import numpy as np
import pytest

from tta_lab.core.trace import Trace
from tta_lab.experiments.runner import row as numbers_of_run
from tta_lab.studies.zoo import cells as zoo_cells
from tta_lab.studies.zoo import figures as P
from tta_lab.studies.zoo import study as S
from tta_lab.studies.zoo import table as zoo_table
from tta_lab.studies.zoo import text as W

A, B, C = zoo_cells.SOURCES


def made(source, stream, method, error, seed=0, rate=1.0, **more):
    """A row as benchmarks/quality.py writes it."""
    return {"source": source, "stream": stream, "method": method, "rate": f"{rate:g}",
            "seed": str(seed), "error": str(error), "ece": "0.1", "auroc": more.pop("auroc", ""),
            "forwards": "1", "backwards": "0", "ms_per_image": "0.2", "stream_hash": "s",
            "weights": "w", "torch": "t", "refused": "", **more}


def table(errors, stream="continual", **more):
    """Rows of methods by name, one error for each source."""
    return [made(source, stream, name, e, **more) for name, three in errors.items()
            for source, e in zip(zoo_cells.SOURCES, three, strict=True)]


BASE = {"source": (30, 31, 32), "batch_norm": (20, 21, 22)}


# --- streams are the ones behind the stored rows

def test_streams_are_those_of_the_stored_rows():
    stored = {(c["stream"], c["seeds"][0]): c["stream_hash"]
              for c in zoo_cells.load_zoo().found.values()
              if c["seeds"] and c["source"] in zoo_cells.SOURCES}
    made_here = S.streams()
    assert {name for name, _ in stored} == set(zoo_cells.LABELS) == set(made_here) - {"slice"}
    for name in ("continual", "open_set", "long_term", "batch_of_one"):
        assert made_here[name]().hash == stored[name, 0]
    assert "open_set" not in S.streams(unknown=None)


def test_shares_of_unknown_images_are_what_they_say():
    for share in S.SHARES:
        stream = S.unknown_stream("fashion_mnist", "digits", share)
        assert stream.statistics()["unknown"] == pytest.approx(share, abs=0.005)


def test_rates_are_multiples_of_the_default_and_not_invented():
    assert zoo_cells.recipe_of("tent", factor=3.0).update.lr == pytest.approx(
        3 * zoo_cells.recipe_of("tent").update.lr)
    assert (zoo_cells.recipe_of("lame", factor=3.0) is None and not zoo_cells.has_rate("lame")
            and zoo_cells.has_rate("tent"))
    assert (zoo_cells.split("sar [reference]") == ("sar", "reference")
            and zoo_cells.split("tent") == ("tent", "paper"))


# --- rows to cells

def test_tunings_are_read_from_the_rows():
    slice_errors = {0.1: 9, 0.3: 7, 1.0: 8, 3.0: 8, 10.0: 8}      # least at 0.3
    here = {0.1: 25, 0.3: 24, 1.0: 23, 3.0: 19, 10.0: 50}         # least at 3
    rows = [made(A, "slice", "tent", e, rate=r) for r, e in slice_errors.items()]
    rows += [made(A, "continual", "tent", e, rate=r) for r, e in here.items()]
    rows += [made(A, "continual", "tent", 25, seed=1),
             made(A, "continual", "tent", 26, seed=1, rate=0.3)]
    rows += [made(A, "continual", "source", 30), made(A, "continual", "source", 34, seed=1)]
    found = {(c["method"], c["tuning"]): c for c in zoo_cells.cells(rows)}
    assert {t: (found["tent", t]["rate"], found["tent", t]["seeds"], found["tent", t]["errors"])
            for t in zoo_cells.TUNINGS} == {"default": (1.0, (0, 1), (23, 25)),
                                            "slice": (0.3, (0, 1), (24, 26)),
                                            "oracle": (3.0, (0,), (19,))}
    assert (found["source", "oracle"]["rate"] == 1.0
            and found["tent", "default"]["ece"] == pytest.approx(10))
    assert zoo_cells.chosen_rate(rows, "tent") == 0.3 and zoo_cells.chosen_rate(rows,
                                                                                "source") == 1.0


def test_a_cell_without_numbers_says_why():
    rows = [made(A, s, n, 20) for s in ("continual", "batch_of_one")
            for n in ("source", "batch_norm")]
    rows += [made(A, "continual", "tent", ""), made(A, "batch_of_one", "memo", 40),
             made(A, "continual", "sar [reference]", 20)]
    rows[4] |= {"error": "", "refused": "ValueError: no"}
    rows += [made(A, "slice", "tent", 5, rate=r) for r in (0.1, 0.3)]
    found = {(c["stream"], c["method"], c["tuning"]): c for c in zoo_cells.cells(rows)}
    assert found["continual", "tent", "default"]["refused"] == "ValueError: no" and found[
        "continual", "tent", "default"]["seeds"] == ()
    assert (found["continual", "memo", "default"]["refused"]
            == "too slow for a stream of this length")
    assert found["batch_of_one", "tent", "default"]["refused"] == "not run"
    assert found["continual", "tent", "slice"]["refused"] == "2 of 5 rates were run on the slice"
    assert found["continual", "tent", "oracle"]["refused"] == "1 of 5 rates were run on the stream"
    assert ("continual", "sar [reference]", "slice") not in found and ("batch_of_one", "tent",
                                                                       "slice") not in found
    zoo = zoo_cells.Zoo.of(list(found.values()))
    assert "ValueError: no" in W.say_refused(zoo) and zoo.reason("continual", "tent",
                                                                 source=A) == "ValueError: no"


def test_cells_survive_the_file(tmp_path):
    rows = table(BASE) + [made(A, "continual", "memo", 1)]
    before = zoo_cells.cells(rows)
    zoo_cells.save_cells(before, tmp_path / zoo_cells.TABLE)
    after = zoo_cells.load_cells(tmp_path / zoo_cells.TABLE)
    for one, other in zip(before, after, strict=True):
        assert {k: str(v) for k, v in one.items()} == {k: str(v) for k, v in other.items()}
    assert len(zoo_cells.load_zoo(tmp_path).found) == len(before)
    with pytest.raises(ValueError, match="quality.py table"):
        zoo_cells.load_zoo(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no cells"):
        zoo_cells.Zoo.of([])


# --- means and verdicts

def test_means_need_every_source_and_average_seeds_first():
    rows = table(BASE) + [made(A, "continual", "batch_norm", 26, seed=1)] + [
        made(A, "continual", "tent", 10), made(B, "continual", "tent", 11)]
    zoo = zoo_cells.Zoo.of(zoo_cells.cells(rows))
    assert zoo.mean("continual", "batch_norm") == pytest.approx((23 + 21 + 22) / 3)
    assert math.isnan(zoo.mean("continual", "tent")) and zoo.mean("continual", "tent",
                                                                  source=A) == 10
    assert zoo.value(A, "continual", "tent", what="difference") == 10 - 20  # paired: seed 0 only
    assert zoo.value(A, "continual", "source", what="cost") == 1


@pytest.mark.parametrize("errors, sign", [((19, 20, 21), -1), ((21, 22, 23), 1), ((19, 20, 23), 0),
                                          ((20, 20, 21), 0), ((19, 20, None), 0)])
def test_only_three_equal_signs_settle(errors, sign):
    rows = table(BASE) + [made(s, "continual", "tent", e)
                          for s, e in zip(zoo_cells.SOURCES, errors, strict=True) if e is not None]
    zoo = zoo_cells.Zoo.of(zoo_cells.cells(rows))
    assert zoo_table.verdict(zoo, "continual", "tent", "batch_norm")[0] == sign
    assert zoo_table.verdict(zoo, "continual", "batch_norm", "tent")[0] == -sign
    # one source settles nothing
    assert zoo_table.verdict(zoo, "continual", "tent", "batch_norm", source=A)[0] == 0


def test_ranking_names_neighbours():
    zoo = zoo_cells.Zoo.of(zoo_cells.cells(table(BASE | {"tent": (19, 20.5, 21),
                                                         "sar": (19.5, 20, 21.5)})))
    lines = zoo_table.ranking(zoo, "continual")
    assert [x["method"] for x in lines] == ["tent", "sar", "batch_norm", "source"]
    assert [x["against"]["next"] for x in lines] == [0, -1, -1, None] and lines[2]["against"][
        "batch_norm"] is None
    assert zoo_table.settled(zoo)["continual"] == {"better": ["tent", "sar"], "worse": ["source"],
                                                   "open": [], "neighbours": (2, 3)}
    assert ("of 3 methods 2 err less" in W.say_zoo(zoo).replace("\n    ", " ")
            and "not settled" in W.say_ranking(zoo, "continual"))


def test_forms_are_listed_when_they_differ():
    rows = table(BASE | {"sar": (20, 20, 20), "sar [reference]": (20.9, 20.8, 20.1),
                         "lame": (40, 40, 40), "lame [reference]": (40.2, 40.4, 40.6)})
    zoo = zoo_cells.Zoo.of(zoo_cells.cells(rows))
    assert [(f["method"], f["form"], round(f["other"] - f["paper"], 2))
            for f in zoo_table.forms(zoo)] == [("sar", "reference", 0.6)]
    assert zoo.methods() == [m for m in zoo.methods(forms=True)
                             if "[" not in m] and "lame [reference]" in W.say_forms(zoo)


def test_gains_are_paired():
    rows = []
    for seed, tent, kept, full in ((0, 10, 9, 11), (1, 20, 18, 21)):
        rows += [made(A, "far 0.5", arm, e, seed) for arm, e in (
                     ("tent", tent), ("tent + filter", kept), ("wisdom_of_crowds", full))]
    rows += [made(A, "far 0", "tent", 5), made(A, "far 0", "tent + filter", 5),
             made(B, "far 0", "tent + filter", 50)]  # no Tent beside it
    g = zoo_table.gains(rows)["far"]["tent + filter"]
    assert (g["share"].tolist() == [0, 0.5] and g["mean"].tolist() == [0, -1.5]
            and g["n"].tolist() == [1, 2])
    assert (math.isnan(g["sd"][0]) and g["sd"][1] == pytest.approx(math.sqrt(0.5))
            and (g["low"][1], g["high"][1]) == (-2, -1))
    assert zoo_table.gains(rows)["far"]["wisdom_of_crowds"]["mean"][1] == 1.0
    assert "-1.50" in W.say_gains(zoo_cells.Zoo.of(zoo_cells.cells(table(BASE)), rows))


# --- the heat map

def test_heat_map_centres_at_bn_and_explains_gaps():
    zoo = zoo_cells.Zoo.of(zoo_cells.cells(table(BASE | {"tent": (16, 17, 18)})
                                           + [made(A, "continual", "sar", 20)]))
    numbers = zoo_table.heat_map(zoo)
    at = {label: i for i, label in enumerate(numbers["rows"])}
    assert numbers["rows"][0] == "source" and numbers["shade"][at["batch_norm"], 0] == 0
    assert (numbers["shade"][at["tent"], 0] == pytest.approx(-2 / 6)
            and numbers["text"][at["tent"]] == ["17.0"])
    assert "not run" in numbers["reason"][at["sar"]][0] and numbers["text"][at["sar"]] == [""]
    assert zoo_table.heat_map(zoo, order="error")["rows"] == ["tent", "batch_norm", "source", "sar"]
    assert zoo_table.heat_map(zoo, metric="difference")["text"][at["tent"]] == ["-4.0"]
    assert zoo_table.shade([-36, -1, 0, 4, 100]).tolist() == pytest.approx([-1, -1 / 6, 0, 1 / 3,
                                                                            1])
    for wrong in ({"source": "x"}, {"tuning": "x"}, {"metric": "x"}, {"order": "x"}):
        with pytest.raises(ValueError, match="must be one of"):
            zoo_table.heat_map(zoo, **wrong)


@pytest.mark.parametrize("backend", ["matplotlib", "plotly"])
def test_both_backends_write_the_same_numbers(backend):
    pytest.importorskip(backend)
    numbers = zoo_table.heat_map(zoo_cells.Zoo.of(zoo_cells.cells(
                                                      table(BASE | {"tent": (16, 17, 18)})
                                                      + [made(A, "continual", "sar", 20)])))
    figure = P.plot_zoo(numbers, backend)
    if backend == "plotly":
        assert [list(line) for line in figure.data[1].text] == numbers["text"]
        assert [line[0] is None for line in figure.data[1].z] == [bool(line[0])
                                                                  for line in numbers["reason"]]
        # NaN would leave the widget empty
        json.dumps(figure.to_plotly_json(), allow_nan=False, default=lambda a: a.tolist())
        assert len(figure.data[2].x) == sum(bool(line[0]) for line in numbers["reason"])
    else:
        written = [t.get_text() for t in figure.axes[0].texts]
        assert Counter(line[0] for line in numbers["text"] if line[0]) <= Counter(written)
    empty = P.plot_zoo(numbers | {"value": np.full((4, 1), math.nan)}, backend)
    assert "Nothing to draw" in (str(empty.layout.annotations) if backend == "plotly"
                                 else empty.axes[0].texts[0].get_text())
    with pytest.raises(ValueError, match="backend"):
        P.plot_zoo(numbers, "svg")


def test_figures_have_reading_sentences():
    names = {name.removeprefix("plot_") for name in dir(P) if name.startswith("plot_")}
    assert set(P.HOW_TO_READ) == names and all(t.endswith(".") and t.count(". ") == 0
                                               for t in P.HOW_TO_READ.values())


# --- one run in numbers

def small_trace():
    """Four images of three classes, one unknown; what is right, learned from and said by the source
    is plain."""
    return Trace.from_columns({"step": [0, 0, 1, 1], "prediction": [0, 1, 1, 2],
                               "label": [0, 2, 1, 3], "known": [True, True, True, False],
                               "entropy": [0.0, 1.0, math.nan, 0.2], "kept": [1.0, 0.0, 1.0, 1.0]},
                              meta={"classes": 3})


def test_numbers_of_a_run_by_hand():
    t = S.over_time(small_trace(), windows=2)
    assert t["position"].tolist() == [1, 3] and t["error"].tolist() == [50, 0]
    assert t["kept"].tolist() == [0.5, 1.0] and math.isnan(t["kept_unknown"][0]) and t[
        "kept_unknown"][1] == 1.0
    e = S.entropies(small_trace(), bins=2)
    assert e["share"].tolist() == pytest.approx([2 / 3, 1 / 3]) and e["broken"] == 1
    shares = S.class_shares(small_trace())
    assert (shares["predicted"].tolist() == [0.25, 0.5, 0.25]
            and shares["true"].tolist() == pytest.approx([1 / 3] * 3))


def test_a_cell_is_repeated_as_it_is_stored():
    zoo = zoo_cells.load_zoo()
    line, = S.repeat(zoo, A, ["batch_of_one"], ["batch_norm"])
    assert (line["same"] is True and abs(line["difference"]) <= zoo_cells.AGREES
            and line["words"].startswith("reproduced"))
    assert "1 of 1 cells that have a stored number are reproduced" in W.say_repeat([line])
    trace = S.live(A, "batch_of_one", "batch_norm")
    assert line["error"] == float(f"{numbers_of_run(trace)['error']:.5g}")
    key = (A, "batch_of_one", "batch_norm", "default")
    other = zoo_cells.Zoo.of([zoo.found[key] | {"errors": (line["error"] - 1.5,), "seeds": (0,)}])
    wrong = S.compared(other, A, "batch_of_one", "batch_norm", "default", 0, trace)
    assert (wrong["same"] is False and wrong["words"].startswith("NOT reproduced")
            and "NOT reproduced" in W.say_repeat([wrong | {"seconds": 1}]))
    assert S.compared(other, A, "batch_of_one", "batch_norm", "default", 7, trace)["same"] is None
    cut = S.live(A, "batch_of_one", "batch_norm", stop=iter([False, True]).__next__)
    stopped = S.compared(zoo, A, "batch_of_one", "batch_norm", "default", 0, cut)
    assert stopped["same"] is None and "stopped after 1 images" in stopped["words"]


def test_what_cannot_be_repeated_says_so():
    with pytest.raises(ValueError, match="not among the embedded sources"):
        S.live("cifar10_resnet20", "continual", "tent")
    with pytest.raises(ValueError, match="no step size"):
        S.live(A, "continual", "lame", rate=3.0)
    assert (S.names_of("tent, sar", ["sar", "tent"], ()) == ["tent", "sar"]
            and S.names_of("", ["a"], ["a"]) == ["a"])
    with pytest.raises(ValueError, match="there is no 'x'"):
        S.names_of("x", ["a"], ())


def test_the_stored_table_is_whole():
    zoo = zoo_cells.load_zoo()
    assert (set(zoo_cells.SOURCES) <= set(zoo.sources) and zoo.streams() == list(zoo_cells.LABELS)
            and zoo_table.oracle_is_least(zoo))
    assert all(math.isfinite(zoo.mean(s, m)) for s in zoo_cells.LABELS
               for m in ("source", "batch_norm", "tent"))
    assert (W.say_streams(zoo) and W.say_tunings(zoo) and W.say_costs(zoo).count("\n") > 30
            and "AUROC" in W.say_detection(zoo))
