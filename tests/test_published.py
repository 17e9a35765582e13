"""published: the tables are whole and keep their marks, comparing is strict, presets name what
they need."""
import importlib
import math

import pytest

# tta_lab.experiments.published_numbers may be the function of that name
P = importlib.import_module("tta_lab.experiments.published_numbers")

CIFAR = {"data": "cifar10_c", "model": "Standard", "protocol": "continual", "samples": 10000}


def test_rows_say_where_they_come_from():
    rows = P.published()
    assert len(rows) > 300 and {row["mark"] for row in rows} == set(P.marks())
    for row in rows:
        assert row["source"] and row["metric"] in ("error",
                                                   "accuracy") and 0 < row["value"] <= 100, row
        assert row["model"] is None or row["model"] in P.models(), row
        assert row["samples"] is None or row["samples"] >= 5000, row
    assert len({(r["table"], r["data"], r["model"], r["batch"], r["severity"], r["method"],
                 str(r["stream"])) for r in rows}) == len(rows)


def test_means_are_those_of_their_types():
    rows = [row for row in P.published() if row["per_type"]]
    assert len(rows) == 6 + 5 + 2 + 6
    for row in rows:
        assert len(row["per_type"]) == 15
        # both are rounded to 0.1; a printed mean may be the mean of unrounded types
        assert sum(row["per_type"].values()) / 15 == pytest.approx(row["value"], abs=0.11), row


def test_direction_of_the_published_orderings():
    def value(protocol, method, data="cifar10_c", table="benchmark_" + "continual",
              model="Standard"):
        row, = P.published(data, model, protocol, method, table=table)
        return row["value"]

    assert value("continual", "BN-1") < value("continual", "Source") < value("continual", "LAME")
    cifar100 = {"data": "cifar100_c", "model": "Hendrycks2020AugMix_ResNeXt"}
    assert value("continual", "Tent", **cifar100) > value("continual", "Source", **cifar100)
    assert value("reset_each_shift", "Tent", table="tent_reset") < value("continual", "Tent")
    group = {"table": "benchmark_correlated", "model": "resnet26_gn"}
    assert value("correlated", "LAME", **group) < value("correlated", "Source", **group) < value(
        "correlated", "Tent", **group)


def test_filters_and_their_errors():
    row, = P.published("cifar10_c", "Standard", "continual", "tent", unverified=False)
    assert row["value"] == 20.0 and row["mark"] == "B" and row["batch"] == 200 and row[
        "severity"] == 5 and row["stream"] == {}
    assert {row["method"] for row in P.published(method="batch_norm")} == {"BN-1", "BN Stats"}
    assert {row["mark"] for row in P.published(table="cotta_paper_continual")} == {"U"}
    assert not P.published("cifar10_c", protocol="label_shift")
    row, = P.published("cifar10_c", protocol="recurring", method="PeTTA")
    assert row["visits"] == {
        1: 24.3, 5: 22.4, 10: 22.8, 20: 23.0
    } and row["value"] == 22.8 and row["stream"] == {"rounds": 20, "delta": 0.1}
    row, = P.published(method="EATA", table="eata_reset")
    assert row["passes"] == [50000, 25150] and row["per_type"]["fog"] == 40.1
    with pytest.raises(ValueError, match="no published table has the data 'cifar10c'; there are: "
                                         "ccc, .*cifar10_c"):
        P.published("cifar10c")
    P.published()[0]["value"] = -1                       # rows are copies
    assert P.published()[0]["value"] > 0


def test_frames():
    pandas = pytest.importorskip("pandas")
    frame = P.published("cifar10_c", "Standard", "continual", frame=True)
    assert isinstance(frame, pandas.DataFrame) and (frame["data"] == "cifar10_c").all()
    assert list(P.beside({"source": 43.6}, **CIFAR,
                         frame=True)["cell"])[:2] == ["reproduced", "not tried"]


def test_cells_are_judged_by_the_rule():
    # Tent is printed as 20.0 without a spread: one point; ROID as 16.2 +- 0.05: three spreads
    # are less than a point
    cells = {
        row["method"]: row
        for row in P.beside({"tent": [20.5, 21.5], "BN-1": 21.5, "roid": 17.3}, **CIFAR)
    }
    assert cells["Tent"]["cell"] == "reproduced" and cells["Tent"]["ours"] == 21 and cells["Tent"][
        "difference"] == 1 and cells["Tent"]["seeds"] == 2
    assert cells["BN-1"]["cell"] == "not reproduced" and cells["ROID"]["cell"] == "not reproduced"
    assert cells["EATA"]["cell"] == "not tried" and cells["EATA"]["ours"] is None
    wide = {
        row["method"]: row
        for row in P.beside({"roid": 17.3, "BN-1": 21.3}, **CIFAR, tolerance=(0.5, 30))
    }
    assert wide["ROID"]["allowed"] == 1.5 and wide["ROID"]["cell"] == "reproduced" and wide["BN-1"][
        "cell"] == "not reproduced"
    assert {row["cell"] for row in wide.values()} <= {"reproduced", "not reproduced", "not tried"}


def test_accuracies_become_errors():
    where = {
        "data": "imagenet_c:/somewhere/ImageNet-C", "model": "resnet50_gn",
        "protocol": "label_shift", "samples": 100000
    }
    rows = P.beside({"sar": 64.5}, **where, stream={"ratio": 500000})
    sar, = [row for row in rows if row["method"] == "SAR"]
    assert sar["theirs"] == pytest.approx(62.8) and sar["allowed"] == pytest.approx(
        1.8) and sar["cell"] == "reproduced"


@pytest.mark.parametrize("change, word", [
    ({"samples": 500}, "samples is 10000 there, 500 here"),
    ({"model": "bn_net_digits"}, "model is Standard there"),
    ({"data": "fashion_mnist"}, "data is cifar10_c there"),
    ({"severity": 3}, "severity is 5 there"),
    ({"batch": 64}, "batch is 200 there"),
    ({"stream": {"delta": 0.1}}, "stream is"),
    ({"protocol": "gradual"}, "protocol is"),
])
def test_nothing_stands_beside_other_settings(change, word):
    assert P.beside({"source": 43.5}, **CIFAR | change) == []
    text = P.mismatch(**CIFAR | change)
    # one thing differs from the nearest table
    assert word in text and text.count(" there, ") == 1
    assert P.mismatch(**CIFAR) == ""


def test_what_is_not_verified_is_never_compared():
    for row in P.published():
        found = [
            r for r in P.beside({}, data=row["data"], model=row["model"], protocol=row["protocol"],
                                samples=row["samples"], severity=row["severity"],
                                stream=row["stream"]) if r["table"] == row["table"]
        ]
        assert bool(found) == (row["mark"] != "U" and row["model"] is not None
                               and row["samples"] is not None), row


def test_results_must_be_errors_in_per_cent():
    for wrong in (math.nan, -1, 101, [20.0, math.nan]):
        with pytest.raises(ValueError, match="errors in per cent"):
            P.beside({"tent": wrong}, **CIFAR)
    with pytest.raises(ValueError, match="two results are for the method 'batch_norm'"):
        P.beside({"BN-1": 20, "batch_norm": 20}, **CIFAR)


def test_a_cell_is_settings_and_files():
    cell = P.cell("cifar10_c", "Standard", "continual", "Tent", table="benchmark_continual",
                  folder=None)
    assert cell["method"] == "tent" and cell["settings"] == {
        "update.rule": "adam", "update.lr": 0.001
    } and cell["settings_stated"]
    assert cell["stream"]["protocol"] == "continual" and cell["stream"]["batch"] == 200 and len(
        cell["stream"]["shifts"]) == 15
    assert cell["stream"]["known"] == "cifar10_c:./data/CIFAR-10-C" and cell["stream"][
        "same_order"] and cell["value"] == 20.0
    assert cell["files"][-2:] == [
        "data/CIFAR-10-C/labels.npy", "models/cifar10/corruptions/Standard.pt"
    ] and len(cell["files"]) == 17
    assert P.cell(
        "cifar10_c", "Standard", "continual",
        "Tent")["table"] == "benchmark_continual", "what is not verified is not chosen unasked"
    cell = P.cell("imagenet_c", "resnet50_v1", "continual", "CoTTA", table="benchmark_continual")
    assert cell["settings"] == {"update.rule": "sgd", "update.lr": 0.01
                                } and cell["image_list"].endswith("image_ids.txt")
    assert P.cell("imagenet_c", "swin_b", "mixed_correlated", "LAME")["settings"] == {}
    assert P.cell("imagenet_c", "swin_b", "mixed_correlated", "LAME")["stream"]["delta"] == 0.01
    # sorted by class
    assert P.cell("imagenet_c", "swin_b", "correlated", "LAME")["stream"]["delta"] == 0
    assert P.cell("cifar10_c", "Standard", "recurring", "ROID")["stream"]["visits"] == 20
    assert not P.cell("cifar10_c", "Standard", "recurring", "ROID")["settings_stated"]
    assert P.cell("imagenet_c", "resnet50_gn", "label_shift", "SAR",
                  table="sar_label_shift")["stream"]["per_shift"] == 100000
    for arguments, text in ((("cifar10_c", "Standard", "long", "Tent"), "2 numbers are published "
                                                                        ".*batch=64; .*batch=10"),
                            (("cifar10_c", "Standard", "label_shift", "Tent"), "0 numbers are "
                                                                               "published"),
                            (("ccc", "resnet50_v1", "ccc", "RDumb"), "no preset for ccc")):
        with pytest.raises(ValueError, match=text):
            P.cell(*arguments)


def test_a_missing_file_is_named(tmp_path):
    arguments = ("imagenet_c", "resnet50_v1", "continual", "Tent")
    cell = P.cell(*arguments, table="benchmark_continual")
    for name in cell["files"]:
        # in groups, as given out
        place = (tmp_path /
                 (name.replace("ImageNet-C/", "ImageNet-C/noise/") if "noise" in name else name))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    found = P.cell(*arguments, table="benchmark_continual", folder=tmp_path)
    assert found["stream"]["known"] == f"imagenet_c:{tmp_path}/data/ImageNet-C"
    (tmp_path / "data/ImageNet-C/fog/5").unlink()
    with pytest.raises(FileNotFoundError, match="fog/5 is missing; Tent on imagenet_c with "
                                                "resnet50_v1 needs: data/ImageNet-C/gaussian"):
        P.cell(*arguments, table="benchmark_continual", folder=tmp_path)


def test_streams_of_cells_fit_our_protocols():
    """Every preset is a set of arguments that the protocol of its name takes."""
    import inspect
    from dataclasses import fields

    from tta_lab.streams import protocols
    from tta_lab.streams.stream import Stream

    settings = {f.name for f in fields(Stream)}
    for row in P.published():
        if row["data"] in P.PLACES and row["model"] and row["severity"] in (
                5, None) and row["protocol"] != "source_model":
            cell = P.cell(row["data"], row["model"], row["protocol"], row["method"],
                          table=row["table"], batch=row["batch"])
            name, *_ = cell["stream"].values()
            assert set(cell["stream"]) - {"protocol"} <= settings | set(
                inspect.signature(protocols.PROTOCOLS[name]).parameters), row
