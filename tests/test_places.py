"""Paths in texts mean what they say, names rebuild their sets from everywhere, and what is kept
notices changes on disk."""
import json
import os
import pickle
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

from tta_lab import Adapter, compare, load_model, make, recorded, run
from tta_lab.components.source.prepare import prepare
from tta_lab.core.places import home, joined, options, quoted, split, unquoted, value
from tta_lab.core.run_keys import described
from tta_lab.data import contents
from tta_lab.data.folders import folder as image_folder
from tta_lab.data.folders import lists, part_of
from tta_lab.data.image_set import ImageSet
from tta_lab.data.kinds import canonical
from tta_lab.data.label_tables import as_classes
from tta_lab.data.load import load, load_kept
from tta_lab.data.published import cifar10, cifar10_c, imagenet_c
from tta_lab.data.shipped import DataError
from tta_lab.data.wrapped import wrap
from tta_lab.models.names import model_text, open_model, parse
from tta_lab.models.wrapping import with_input_card
from tta_lab.streams.stream import Stream

ODD = [
    "photos", "photos[1]", "photos[0,1]", "photos?size=4", "photos[1]?size=4[0]", "a?b=c", "a",
    "100%", "100%25", "%3F", "a%20b", "a b", "x*y", "k=v", "{x}", "m&n", "q'q", 'd"d',
    "back\\slash", "\u00fc\u2202", "e\u0301", "tab\t", "line\n", "~nobody", "#h", " lead", "trail ",
    "a+b", "c:d", "[0]", "file:", "a,b", "$HOME",
    os.fsdecode(b"bad\xff")
]


def picture(path, seed=0, side=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3),
                                                         dtype=np.uint8)).save(path)


def pets(root, seed=0):
    for k, name in enumerate(("ape/1.png", "ape/2.png", "dog/3.png")):
        picture(root / name, [seed, k])
    return root


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    root = tmp_path_factory.mktemp("odd")
    for k, name in enumerate(ODD):
        pets(root / name, k)
    return root


@pytest.mark.parametrize("k", range(len(ODD)))
def test_a_path_that_is_there_means_itself_and_names_rebuild_from_everywhere(odd, monkeypatch, k):
    monkeypatch.chdir(odd)
    right = image_folder(odd / ODD[k])
    for text in (f"folder:{ODD[k]}", f"folder:{odd}/{ODD[k]}", f"folder:{ODD[k]}/",
                 f"folder:./{ODD[k]}"):
        assert torch.equal(load(text).images(), right.images()), text
    sets = [
        image_folder(ODD[k], **more)
        for more in ({}, {"size": 4}, {"classes": ("dog", "ape"), "order": "file"}, {"flat": True})
    ]
    sets += [sets[0].only([1]), sets[1].only([1, 0]).only([1])]
    stream = recorded(sets[0], batch=2).to_json()
    monkeypatch.chdir("/")
    for data in sets:
        again = load(data.name)
        assert again.name == data.name == canonical(data.name) and torch.equal(
            again.images(), data.images()) and torch.equal(again.y, data.y)
    assert Stream.from_json(stream).known_set.source.root == odd / ODD[k]


def test_texts_of_paths():
    assert quoted("/a b/ü#[1]?%") == "/a b/ü%23%5B1%5D%3F%25" and unquoted(
        quoted("/a b/ü#[1]?% \n")) == "/a b/ü#[1]?% \n"
    assert split("/gone/x?size=4&order=time[0,1][0]") == ("/gone/x", "size=4&order=time",
                                                          ["0,1", "0"])
    assert split("file:///gone/a%5B1%5D%3F?size=4[2]") == ("/gone/a[1]?", "size=4", [
        "2"
    ]) and split("file://localhost/x") == ("/x", "", [])
    assert joined("/gone/a[1]", "size=4") == "/gone/a%5B1%5D?size=4"
    assert options("labels=a&b.csv&flat&size=4",
                   ("labels", "flat", "size")) == {"labels": "a&b.csv", "flat": "", "size": "4"}
    assert value("a%20b+c") == "a b c"


def test_home_is_a_tilde_unless_it_is_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(pets(tmp_path / "home", 7)))
    assert len(
        load("folder:~")) == 3 and home("~nobody-of-this-name").name == "~nobody-of-this-name"
    pets(tmp_path / "~", 8)
    assert load("folder:~").source.root == tmp_path / "~"


def test_options_that_name_files_mean_the_same_from_everywhere(tmp_path, monkeypatch):
    root = pets(tmp_path / "pets")
    (tmp_path / "50% a+b&c?.csv").write_text("ape/1.png,x\ndog/3.png,y\n")
    (tmp_path / "names.txt").write_text("y\nx\n")
    (root / "below.csv").write_text("ape/1.png,y\n")
    monkeypatch.chdir(tmp_path)
    sets = [
        image_folder("pets", labels="50% a+b&c?.csv", classes="names.txt"),
        load("folder:pets?labels=50% a+b&c?.csv&classes=names.txt"),
        load("folder:pets?labels=below.csv&classes=x,y")
    ]
    (root / "a_list.txt").write_text("ape/1.png 1\n")
    (tmp_path / "map.txt").write_text("x 3\ny 5\n")
    sets.append(
        lists("pets", images="pets", size=8, resize="cover", classes=("x", "y"), map="map.txt"))
    monkeypatch.chdir("/")
    assert sets[0].y.tolist() == sets[1].y.tolist() == [1, -1, 0] and sets[2].y.tolist() == [
        1, -1, -1
    ] and sets[3].y.tolist() == [1]
    for data in sets:
        again = load(data.name)
        assert again.fingerprint() == data.fingerprint() and again.name == data.name
    assert "below.csv" in sets[2].name and f"={tmp_path}" not in sets[2].name


def test_clean_sets_of_corrupted_ones_by_every_kind_of_name(tmp_path, monkeypatch):
    x = np.random.default_rng(0).integers(0, 256, (2, 3072), dtype=np.uint8)
    y = [3, 1]
    root, clean = tmp_path / "c[1]", tmp_path / "cifar:10?"
    root.mkdir()
    clean.mkdir()
    (clean / "test_batch.bin").write_bytes(b"".join(
        bytes([label]) + row.tobytes() for label, row in zip(y, x, strict=True)))
    np.save(root / "labels.npy", np.array(y * 5, np.uint8))
    np.save(root / "fog.npy", np.zeros((10, 32, 32, 3), np.uint8))
    monkeypatch.chdir(tmp_path)
    for given in ("cifar:10?", f"cifar10:{clean}", "cifar10:cifar:10?", cifar10("cifar:10?")):
        data = cifar10_c("c[1]", clean=given)
        with monkeypatch.context() as elsewhere:
            elsewhere.chdir("/")
            assert torch.equal(
                load(data.name).images(),
                torch.from_numpy(x).view(2, 3, 32, 32) / 255)
    for k, place in enumerate(("c/fog/5", "val")):
        for wnid in ("n00000001", "n00000002"):
            picture(tmp_path / place / wnid / "1.png", k)
    (tmp_path / "list.txt").write_text("n00000002\nn00000001\n")
    data = imagenet_c("c", size=8, clean="val", synsets="list.txt")
    monkeypatch.chdir("/")
    assert load(data.name).fingerprint() == data.fingerprint() and load(data.name).images(
        [0]).shape == (1, 3, 8, 8)


def test_load_says_what_it_takes(tmp_path, monkeypatch):
    pets(tmp_path / "pets")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="the folder of that name is 'folder:pets'"):
        load("pets")
    with pytest.raises(TypeError, match="not .*: write 'folder:pets'"):
        load(tmp_path.relative_to(tmp_path) / "pets")
    with pytest.raises(ValueError, match="folder: path must be a path"):
        image_folder(3)
    assert load("folder:pets?flat").classes == () and load("folder:pets?flat=0").classes == ("ape",
                                                                                             "dog")
    with pytest.raises(ValueError, match="flat must be 1 or 0, got 'maybe'"):
        load("folder:pets?flat=maybe")


@pytest.mark.parametrize("name", [
    "w[1]", "a?b=c", "100%", "%3F", "a b", "a+b", "x&y=1", "k=v#", "q'\"", "ü", "t ",
    os.fsdecode(b"bad\xff")
])
def test_texts_of_models_mean_the_paths_they_hold(tmp_path, monkeypatch, name):
    model = load_model("fashion_resnet_bn")
    root = tmp_path / name
    root.mkdir()
    (tmp_path / "decoy").mkdir()
    torch.save(model.net.state_dict(), root / "w.pt")
    (root / "names.txt").write_text("\n".join(map(str, range(10))))
    (root / "net.py").write_text("from tta_lab.models.small_networks import ARCHITECTURES\n\ndef "
                                 "build():\n    return ARCHITECTURES['resnet_bn']()\n")
    expected = model.net.head.bias
    own = model_text("checkpoint", root / "w.pt", architecture=f"{root}/net.py:build",
                     classes=root / "names.txt", channels=1)
    monkeypatch.chdir(tmp_path)
    for text in (own, f"checkpoint:{root}/w.pt", f"checkpoint:{name}/w.pt?channels=1",
                 f"{name}/w.pt",
                 f"checkpoint:{root}/w.pt?architecture={root}/net.py:build&channels=1"
                 if "&" not in name else own):
        assert torch.equal(open_model(text).net.head.bias, expected), text
    given = {
        "architecture": f"{root}/net.py:build", "classes": str(root / "names.txt"), "channels": "1"
    }
    assert parse(own) == ("checkpoint", str(root / "w.pt"), given)
    assert open_model(f"python:{name}/net.py:build?channels=1").card.channels == 1
    assert open_model(model_text("python", f"{root}/net.py:build")).net.head.bias.shape == (10,)


def test_a_python_file_that_changes_within_a_second_is_read_again(tmp_path, settled):
    code = ("from torch import nn\nclass Net(nn.Linear):\n    def __init__(self):\n        "
            "super().__init__({}, 2)\n")
    for width in (3, 5, 7):
        (tmp_path / "net.py").write_text(code.format(width))
        assert open_model(f"python:{tmp_path}/net.py:Net").net.weight.shape == (2, width)
        settled()


def test_texts_of_sets_and_streams_follow_the_disk(tmp_path, settled):
    def write(value):
        (tmp_path / "test_batch.bin").write_bytes(b"".join(
            bytes([k]) + bytes([value]) * 3072 for k in range(4)))

    write(1)
    text = f"cifar10:{tmp_path}"
    first = Stream(text, shifts=["none"], per_shift=None)
    settled()
    before = (tmp_path / "test_batch.bin").stat()
    write(2)
    os.utime(tmp_path / "test_batch.bin", ns=(before.st_atime_ns, before.st_mtime_ns))
    second = Stream(text, shifts=["none"], per_shift=None)
    assert (second.known_set.x == 2).all() and (first.known_set.x
                                                == 1).all() and first.hash != second.hash


def test_a_text_of_a_model_is_told_from_another_path_that_is_there(tmp_path, monkeypatch):
    states = [
        load_model(name).net.state_dict() for name in ("fashion_resnet_bn", "fashion_resnet_gn")
    ]
    for name, state in zip(("a?b", "a%3Fb"), states, strict=True):
        torch.save(state, tmp_path / name)
        assert parse(model_text("checkpoint", tmp_path / name,
                                channels=1))[1] == str(tmp_path / name)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert torch.equal(open_model("checkpoint:~/a?b").net.head.bias, states[0]["head.bias"])
    with pytest.raises(TypeError, match="a model is named by a text, not"):
        parse(tmp_path)


# --- tables of labels ---------------------------------------------------------------------------

def labelled(root, table, encoding="utf-8", **more):
    (root / "labels.csv").write_bytes(table.encode(encoding))
    data = image_folder(root, labels="labels.csv", **more)
    return data.y.tolist(), data.classes


@pytest.mark.parametrize(
    "table, y, classes",
    [("file,label\nape/1.png,-1\nape/2.png,0\ndog/3.png,2\n", [-1, 0, 2], ("0", "1", "2")),
     ("ape/1.png,01\nape/2.png,1.0\ndog/3.png,+1e0\n", [1, 1, 1], ("0", "1")),
     ("ape/1.png, 2 \nape/2.png,002\ndog/3.png,-1.0\n", [2, 2, -1], ("0", "1", "2")),
     ("ape/1.png,10\nape/2.png,9\ndog/3.png,2\n", [10, 9, 2], tuple(map(str, range(11)))),
     ("ape/1.png,dog\nape/2.png,-1\ndog/3.png,\n", [0, -1, -1], ("dog",)),
     ("ape/1.png,-1\nape/2.png,-1\n", [-1, -1, -1], ()),
     ("filename;label\nape/1.png;x\ndog/3.png;y\n", [0, -1, 1], ("x", "y")),
     ("ape/1.png\tx, y\ndog/3.png\tz\n", [0, -1, 1], ("x, y", "z")),
     ('ape/1.png, "x, ""y"""\r\n\r\ndog/3.png,"3"\r\n'.replace('"3"', "z"), [0, -1, 1],
      ('x, "y"', "z")),
     ("\ufefffile,label\n./ape/1.png,1\ndog\\3.png,0\n", [1, -1, 0], ("0", "1"))])
def test_labels_are_read_however_they_are_written(tmp_path, table, y, classes):
    assert labelled(pets(tmp_path), table) == (y, classes)


@pytest.mark.parametrize("table, given, y", [("ape/1.png,0\nape/2.png,1.0\n", "x,y", [0, 1, -1]),
                                             ("ape/1.png,20\nape/2.png,010\n", "10,20", [1, 0, -1]),
                                             ("ape/1.png,0\nape/2.png,1\n", "10,20", [0, 1, -1]),
                                             ("ape/1.png,7\nape/2.png,cat\n", "cat,7", [1, 0, -1]),
                                             ("ape/1.png,-1\nape/2.png,1\n", "-1,1", [0, 1, -1]),
                                             ("ape/1.png,-1\nape/2.png,y\n", "x,y", [-1, 1, -1])])
def test_labels_of_named_classes(tmp_path, table, given, y):
    assert labelled(pets(tmp_path), table, classes=given) == (y, tuple(given.split(",")))


@pytest.mark.parametrize(
    "table, more, words",
    [("file,label\nape/1.png,0\nape/2.png,dog\n", {}, r"labels.csv: row 2 has a number, '0', and "
      r"row 3 a name, 'dog'; use class indices"),
     ("ape/1.png,dog\n\nape/2.png,-1\ndog/3.png,1.0\n", {}, "row 1 has a name, 'dog', and row 4 a "
      "number, '1.0'"),
     ("ape/1.png,x\nape/2.png,1\n", {"classes": "x,y"}, "row 1 has a name, 'x', and row 2 a "
      "number, '1'"),
     ("ape/1.png,0\nape/2.png,1.5\n", {}, "labels.csv: row 2: 1.5 is no class index"),
     ("ape/1.png,-2\n", {}, "row 1: -2 is no class index: a whole number from 0, or -1"),
     ("ape/1.png,4000000000\n", {}, "row 1: 4000000000 is no"),
     ("ape/1.png,2\n", {"classes": "x,y"}, r"the labels 2 are none of the 2 classes x, y \(row 1 "
      r"has '2'\)"), ("ape/1.png,nan\nape/2.png,3\n", {}, "row 1 has a name, 'nan'"),
     ("ape/1.png,0\n./ape/1.png,0\n", {}, "row 2 names 'ape/1.png' a second time"),
     ('ape/1.png,"x\nape/2.png,y\n', {}, "labels.csv is not a CSV file"),
     ("", {}, "holds no labels"), ("ape/1.png,0,1\n", {}, "row 1 has 3 entries")])
def test_tables_that_would_be_misread_are_refused_by_row(tmp_path, table, more, words):
    with pytest.raises(DataError, match=words):
        labelled(pets(tmp_path), table, **more)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_text_files_of_another_encoding_are_named(tmp_path, encoding):
    with pytest.raises(DataError, match="labels.csv is no text.*save it as UTF-8"):
        labelled(pets(tmp_path), "ape/1.png,ü\n", encoding)
    (tmp_path / "names.txt").write_bytes("ü\na".encode(encoding))
    with pytest.raises(DataError, match="names.txt is no text"):
        as_classes("names.txt", tmp_path)
    (tmp_path / "x_list.txt").write_bytes("ape/ü.png 0".encode(encoding))
    with pytest.raises(DataError, match="x_list.txt is no text"):
        lists(tmp_path)


def test_lists_know_unknown_labels_and_numbers(tmp_path):
    pets(tmp_path)
    (tmp_path / "a_list.txt").write_text("ape/1.png -1\nape/2.png\t1.0\ndog/3.png  02\n")
    assert lists(tmp_path, size=8, resize=None).y.tolist() == [-1, 1, 2]
    (tmp_path / "a_list.txt").write_text("ape/1.png 0\nape/2.png 1.5\n")
    with pytest.raises(DataError, match="a_list.txt: line 2: 1.5 is no class index"):
        lists(tmp_path, size=8, resize=None)


@pytest.mark.parametrize("labels, words", [([0, 0.5, 1], r"labels\[1\] is 0.5"),
                                           (["0", "1", "2"], r"labels\[0\] is '0'"),
                                           (torch.tensor([0., float("nan"), 1]), r"labels\[1\] is"),
                                           ([0, 2**70, 1], "labels")])
def test_labels_of_wrapped_sets_are_not_cut_to_numbers(labels, words):
    with pytest.raises((DataError, RuntimeError), match=words):
        wrap(TensorDataset(torch.zeros(3, 1, 4, 4)), labels=labels)
    assert wrap(TensorDataset(torch.zeros(3, 1, 4, 4)),
                labels=torch.tensor([0., 2., -1.])).y.tolist() == [0, 2, -1]
    with pytest.raises(DataError, match="the label of item 1 is tensor.0.5000."):
        wrap(TensorDataset(torch.zeros(2, 1, 4, 4), torch.tensor([1, 0.5])))


# --- parts of a data set ------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [("train", "val", "test"), ("Train", "Test"),
                                   ("training", "validation", "extra"), ("val",),
                                   ("train2017", "val2017"), ("training_set", "test_set"),
                                   ("split-train", "split-dev"), ("TrainImages", "test")])
def test_the_parts_of_a_data_set_are_not_classes(tmp_path, parts):
    for part in parts:
        pets(tmp_path / part)
    with pytest.raises(DataError, match=rf"not classes: name one part, as in "
                                        rf"folder:{tmp_path}/[\w-]+, or say that these are the "
                                        rf"classes"):
        image_folder(tmp_path)
    assert image_folder(tmp_path / parts[-1]).classes == ("ape", "dog")
    assert image_folder(tmp_path, classes=sorted(parts)).classes == tuple(
        sorted(parts)) and not image_folder(tmp_path, flat=True).classes


def test_a_class_called_train_is_a_class(tmp_path):
    assert not any(
        map(part_of,
            ("train_station", "data", "2017", "contest", "testbed", "valley", "trainer2", "set")))
    for name in ("train/1.png", "plane/1.png"):
        picture(tmp_path / name)
    assert image_folder(tmp_path).classes == ("plane", "train")
    (tmp_path / "plane/1.png").unlink()
    (tmp_path / "plane").rmdir()
    assert image_folder(tmp_path).classes == ("train",)


def test_a_link_to_a_folder_around_it_is_named(tmp_path):
    pets(tmp_path / "pets")
    (tmp_path / "cats").mkdir()
    picture(tmp_path / "cats/1.png")
    # another folder is one more class
    (tmp_path / "pets/cat").symlink_to(tmp_path / "cats")
    assert load(f"folder:{tmp_path / 'pets'}").classes == ("ape", "cat", "dog")
    (tmp_path / "pets/ape/all").symlink_to(tmp_path / "pets")
    with pytest.raises(DataError, match="ape/all is a link to a folder that it lies in.*remove it"):
        load(f"folder:{tmp_path / 'pets'}")


def test_names_of_classes_are_composed_as_those_of_files_are(tmp_path):
    table = "ape/1.png,caf\u00e9\nape/2.png,cafe\u0301\ndog/3.png,bar\n"
    assert labelled(pets(tmp_path), table) == ([1, 1, 0], ("bar", "caf\u00e9"))
    assert labelled(tmp_path, table, classes="cafe\u0301,bar")[0] == [0, 0, 1]


def test_pictures_without_labels_run_with_a_model_of_any_number_of_classes(tmp_path):
    for k in range(4):
        picture(tmp_path / f"{k}.png", k, 28)
    model, table = load_model(), tmp_path / "labels.csv"
    assert len(
        run(Adapter(model, make("tent"), device="cpu"),
            recorded(load(f"folder:{tmp_path}?mode=grey"), batch=2))) == 4
    table.write_text("0.png,-1\n1.png,\n")
    assert len(
        run(Adapter(model, make("source"), device="cpu"),
            recorded(load(f"folder:{tmp_path}?mode=grey&labels=labels.csv")))) == 4
    table.write_text("0.png,1\n")
    with pytest.raises(ValueError, match="the model has 10 outputs, the images of .* have 2 "
                                         "classes"):
        run(Adapter(model, make("source"), device="cpu"),
            recorded(load(f"folder:{tmp_path}?mode=grey&labels=labels.csv")))


# --- content counts -----------------------------------------------------------------------------

def rewrite(path, content: bytes, keep_time=True):
    """Other content of the same size in place, with the old time of change."""
    before = path.stat()
    assert before.st_size == len(content)
    with path.open("r+b") as file:
        file.write(content)
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def settled(monkeypatch):
    """Files count as settled at once, so that digests are kept and a change has to be noticed."""
    monkeypatch.setattr(contents, "FRESH", -1)
    return lambda: time.sleep(0.02)


@pytest.mark.parametrize("ending", ["bmp", "pgm", "png"])
def test_a_picture_that_changes_in_place_is_another_set(tmp_path, settled, ending):
    def write(k, value):
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(tmp_path / f"{k}.{ending}")

    for k in range(3):
        write(k, 10)
    stream = recorded(load(f"folder:{tmp_path}"), batch=3)
    first, shown = stream.hash, stream.known_set.images()
    assert stream.hash == first == recorded(load(f"folder:{tmp_path}"), batch=3).hash
    settled()
    write(9, 99)
    content = (tmp_path / f"9.{ending}").read_bytes()
    (tmp_path / f"9.{ending}").unlink()
    settled()
    if len(content) == (tmp_path / f"1.{ending}").stat().st_size:
        rewrite(tmp_path / f"1.{ending}", content)
    else:
        (tmp_path / f"1.{ending}").write_bytes(content)
    assert stream.hash != first and stream.hash == recorded(load(f"folder:{tmp_path}"),
                                                            batch=3).hash
    assert not torch.equal(stream.known_set.images(), shown) and (stream.known_set.images()[1]
                                                                  == 99 / 255).all()


def test_arrays_that_change_in_place_are_another_set(tmp_path, settled):
    np.save(tmp_path / "labels.npy", np.array([3, 1] * 5, np.uint8))
    np.save(tmp_path / "fog.npy", np.zeros((10, 32, 32, 3), np.uint8))
    data = cifar10_c(tmp_path)
    first = data.fingerprint()
    settled()
    content = bytearray((tmp_path / "fog.npy").read_bytes())
    content[-1] = 1
    rewrite(tmp_path / "fog.npy", bytes(content))
    assert data.fingerprint() != first and data.fingerprint() == cifar10_c(tmp_path).fingerprint()


def test_results_in_a_cache_belong_to_the_pixels(tmp_path, settled):
    for c in range(10):
        for k in range(2):
            (tmp_path / f"x/{c}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(
                np.random.default_rng([c, k]).integers(0, 255, (28, 28), dtype=np.uint8)).save(
                    tmp_path / f"x/{c}/{k}.bmp")
    # opened once
    stream = Stream(load(f"folder:{tmp_path}/x?mode=grey"), per_shift=20, batch=10,
                    shifts=("none",))
    model = load_model()
    compare(["source"], stream, model, cache=tmp_path / "cache", device="cpu")
    settled()
    for path in (tmp_path / "x").rglob("*.bmp"):
        content = bytearray(path.read_bytes())
        content[-700:] = bytes([200]) * 700
        rewrite(path, bytes(content))
    kept, fresh = (compare(["source"], stream, model, cache=c, device="cpu").iloc[0]
                   for c in (tmp_path / "cache", None))
    assert kept["nll"] == fresh["nll"] and kept["stream_hash"] == fresh["stream_hash"] and len(
        list((tmp_path / "cache").iterdir())) == 2


def test_results_in_a_cache_belong_to_all_of_the_model(tmp_path):
    class Scaled(nn.Module):
        def __init__(self, net, scale):
            super().__init__()
            self.net, self.scale = net, scale

        def forward(self, x):
            return self.scale * self.net(x)

    net = load_model().net
    stream = Stream(per_shift=20, batch=20, shifts=("none",))
    # the same weights, other answers
    cards = [with_input_card(net, channels=1, mean=(m,)) for m in (0.0, 0.9)]
    models = [
        *cards,
        with_input_card(Scaled(net, 1.0), channels=1),
        with_input_card(Scaled(net, 30.0), channels=1)
    ]
    found = [
        compare(["source"], stream, model, cache=tmp_path, device="cpu").iloc[0]["nll"]
        for model in models
    ]
    assert found == [
        compare(["source"], stream, model, device="cpu").iloc[0]["nll"] for model in models
    ] and len(set(found)) == 3
    assert described(cards[0]) == described(with_input_card(net, channels=1)) != described(cards[1])
    before = described(models[2])
    # its code is edited
    Scaled.forward = lambda self, x: -self.net(x)
    assert described(models[2]) != before and described(models[2].train()) == described(
        models[2].eval())


def test_digests_are_read_once_and_kept_in_a_manifest(tmp_path, monkeypatch):
    read, real = [], contents._read
    monkeypatch.setattr(contents, "_read", lambda path: read.append(path) or real(path))
    monkeypatch.setattr(contents, "LARGE", 0)
    monkeypatch.setattr(contents, "_KNOWN", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "files"
    root.mkdir()
    (root / "a").write_bytes(b"a")
    (root / "b").write_bytes(b"b")
    first = contents.digests(root, ["a", "b"])
    # just written: not yet to be trusted
    assert contents.digests(root, ["b", "a"]) == first[::-1] and len(read) == 4
    monkeypatch.setattr(contents, "FRESH", -1)
    assert contents.digests(root, ["a", "b"]) == first == contents.digests(
        root, ["a", "b"]) and len(read) == 6
    # another process
    contents._KNOWN.clear()
    assert contents.digests(root, ["a", "b"]) == first and len(read) == 6
    manifest, = (tmp_path / "cache").rglob("*.json")
    for damage in ("{", "[]", '{"folder": 1}', json.dumps({"folder": str(root),
                                                           "files": {"a": 3}})):
        manifest.write_text(damage)
        contents._KNOWN.clear()
        assert contents.digests(root, ["a"]) == first[:1]
    (root / "a").unlink()
    with pytest.raises(OSError):
        contents.digests(root, ["a"])


def test_one_item_of_many_that_a_data_set_holds_or_names_is_not_overlooked(tmp_path, settled):
    class Held(torch.utils.data.Dataset):
        def __init__(self):
            self.parts, self.paths = {"a": torch.zeros(200, 1, 4, 4)}, [(tmp_path / f"{k}.png", 0)
                                                                        for k in range(200)]

        def __len__(self):
            return 200

        def __getitem__(self, k):
            return self.parts["a"][k], 0

    class Named(Held):
        def __getitem__(self, k):
            return Image.open(self.paths[k][0]).convert("L"), 0

    for k in range(200):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / f"{k}.png")
    sets = wrap(Held()), wrap(Named()), wrap(torch.utils.data.Subset(Held(), range(1, 190)))
    before = [one.fingerprint() for one in sets]
    settled()
    assert before == [one.fingerprint() for one in sets]
    # not among the 64
    sets[0].source.dataset.parts["a"][1] = sets[2].source.dataset.dataset.parts["a"][2] = 0.5
    Image.fromarray(np.ones((4, 4), np.uint8)).save(tmp_path / "1.png")
    assert all(one.fingerprint() != old for one, old in zip(sets, before, strict=True))


def test_sets_in_memory_and_wrapped_ones_are_what_they_now_are():
    x = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
    y = torch.tensor([0, 1, 1])
    data = ImageSet("toy", x, y, ("a", "b"))
    first = data.fingerprint()
    x.numpy()[1, 0, 2, 2] = 1
    assert data.fingerprint() != first
    pixels = torch.zeros(200, 1, 4, 4)
    listed = [(pixels[k].numpy(), 0) for k in range(200)]

    class Items:
        def __len__(self):
            return 200

        def __getitem__(self, k):
            return torch.from_numpy(listed[k][0]), 0

    sets = wrap(TensorDataset(pixels, torch.zeros(200, dtype=torch.int64))), wrap(Items())
    before = [one.fingerprint() for one in sets]
    assert before == [one.fingerprint() for one in sets]
    # not among the 64 that are looked at each time
    pixels[1, 0, 0, 0] = 0.5
    assert sets[0].fingerprint() != before[0] and wrap(Items()).fingerprint() != before[1]
    pixels[0, 0, 0, 0] = 0.5
    assert sets[1].fingerprint() not in (before[1], wrap(Items()).take(slice(1,
                                                                             None)).fingerprint())


def test_sets_kept_by_name_notice_the_disk_and_have_one_owner(tmp_path, settled, monkeypatch):
    root = pets(tmp_path / "pets")
    text = f"folder:{root}"
    first = Stream(text, shifts=["none"], per_shift=None)
    # not read again
    assert Stream(text, shifts=["none"], per_shift=None).known_set.source is first.known_set.source
    settled()
    picture(root / "dog/4.png")
    assert len(Stream(text, shifts=["none"], per_shift=None).known_set) == 4
    (root / "labels.csv").write_text("ape/1.png,0\n")
    assert load_kept(f"{text}?labels=labels.csv").y.tolist() == [0, -1, -1, -1]
    settled()
    (root / "labels.csv").write_text("ape/1.png,1\n")
    assert load_kept(f"{text}?labels=labels.csv").y.tolist() == [1, -1, -1, -1]
    mine, yours = load_kept("digits"), load_kept("digits")
    mine.x.zero_()
    mine.y.zero_()
    assert yours.x.any() and yours.y.any() and load_kept("digits").x.any()
    monkeypatch.chdir(tmp_path)
    assert len(load_kept("folder:pets")) == 4
    pets(tmp_path / "other/pets")
    monkeypatch.chdir(tmp_path / "other")
    assert len(load_kept("folder:pets")) == 3


def test_streams_written_down_by_earlier_versions_are_read(tmp_path):
    data = load(f"folder:{pets(tmp_path)}")
    stream = recorded(data, batch=2)
    for whole in (stream, stream.cut(0, 1), stream + stream):
        text = whole.to_json().replace(stream.hash,
                                       stream.old_hash).replace(whole.hash, whole.old_hash)
        assert whole.old_hash in text and Stream.from_json(text).hash == whole.hash
    with (tmp_path / "ape/1.png").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match="the image files differ"):
        Stream.from_json(text)


# --- arguments and damaged files ----------------------------------------------------------------

BYTES = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)


@pytest.mark.parametrize("make_set, error, words", [
    (lambda r: ImageSet("toy", BYTES.numpy(),
                        torch.zeros(1).long(),
                        ("a",)), DataError, "images must be a tensor, got ndarray"),
    (lambda r: ImageSet("toy", BYTES, torch.tensor([0.5]), ("a",)), DataError, "labels must be a "
     "tensor of int64"),
    (lambda r: ImageSet("toy", BYTES, [0], ("a",)), DataError, "1 images but labels of shape"),
    (lambda r: load("digits").only("12"), TypeError, "classes must list class indices, such as"),
    (lambda r: load("digits").only(3), TypeError, "classes must list"),
    (lambda r: load("digits").only([1.5]), ValueError, "a class index must be"),
    (lambda r: image_folder(r / "pets", cache_bytes="much"), ValueError, "cache_bytes must be a "
     "whole number"),
    (lambda r: image_folder(r / "pets", size=4.5), ValueError, "size must be a side in pixels"),
    (lambda r: image_folder(r / "pets", flat="x"), ValueError, "flat must"),
    (lambda r: imagenet_c(r / "corrupted", severities="5,x"), ValueError, "severities must be "
     "whole numbers from 1 "
     "to 5"),
    (lambda r: image_folder(r / "pets", classes="ape,,dog"), DataError, "class names must be there")
])
def test_wrong_arguments_of_sets_get_a_sentence(tmp_path, make_set, error, words):
    pets(tmp_path / "pets")
    (tmp_path / "corrupted/fog/5").mkdir(parents=True)
    with pytest.raises(error, match=words):
        make_set(tmp_path)


def test_numbers_of_numpy_are_options(tmp_path):
    pets(tmp_path)
    data = image_folder(tmp_path, size=(np.int64(4), np.int32(6)), cache_bytes=np.int64(0),
                        flat=np.bool_(True))
    assert data.shape == (3, 4, 6) and load(data.name).fingerprint() == data.fingerprint()
    assert image_folder(tmp_path, size=np.int64(4)).shape == (3, 4, 4) and load("digits").only(
        np.array([1, 2])).name == "digits[1,2]"


def test_damaged_files_are_named_and_no_unsafe_advice_is_given(tmp_path):
    np.save(tmp_path / "labels.npy", np.array([0] * 5, np.uint8))
    for content in (b"no array", pickle.dumps({"a": 1}), b""):
        (tmp_path / "fog.npy").write_bytes(content)
        with pytest.raises(DataError,
                           match="fog.npy is damaged, cut short or not an .npy file") as why:
            cifar10_c(tmp_path)
        assert "unsafely" not in str(why.value) and "allow_pickle" not in str(why.value)
    np.save(tmp_path / "fog.npy", np.array([{}] * 5))
    with pytest.raises(DataError, match="fog.npy .*holds Python objects, which could run code"):
        cifar10_c(tmp_path)
    for text in ("[]", '{"a": 1}', '{"a": {}}'):
        (tmp_path / "index.json").write_text(text)
        with pytest.raises(DataError, match="index.json cannot be read"):
            load("digits", tmp_path)
    images = load("fashion_mnist_train_slice").take(range(64))
    prepare(load_model(), make("eata"), images, cache=tmp_path / "kept", device="cpu")
    path, = (tmp_path / "kept").iterdir()
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=f"{path.name}, kept from an earlier run, is damaged .*; "
                                        f"delete it"):
        prepare(load_model(), make("eata"), images, cache=tmp_path / "kept", device="cpu")
