"""Image sets on disk: what is read, in which order, lazily, and how damaged files are refused. All
files are made here."""
import importlib.util
import io
import os
import pickle
import struct
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset, TensorDataset
from torchvision import transforms

from tta_lab.data import image_files
from tta_lab.data.folders import folder as image_folder
from tta_lab.data.folders import lists
from tta_lab.data.image_files import Cache, Decoder, FileSet, as_size, evenly_spaced, natural
from tta_lab.data.image_set import BaseSet, ImageSet, class_logits
from tta_lab.data.kinds import KINDS
from tta_lab.data.load import load
from tta_lab.data.published import (
    CIFAR10_CLASSES,
    CIFAR100_CLASSES,
    cifar10,
    cifar10_c,
    cifar100,
    imagenet,
    imagenet_c,
    imagenet_v2,
    tiny_imagenet_c,
    wnid_order,
)
from tta_lab.data.shipped import DataError, data_root
from tta_lab.data.wrapped import wrap

HTML = b"\n<!DOCTYPE html><html><body>404</body></html>"


def pixels(seed, height=8, width=8, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels),
                                                dtype=np.uint8).squeeze()


def picture(path, seed=0, height=8, width=8, channels=3, **how):
    """Write a random picture; png keeps every value. Returns uint8 (C, H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = pixels(seed, height, width, channels)
    Image.fromarray(array).save(path, **how)
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())


# --- one picture --------------------------------------------------------------------------------

@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("height, width", [(37, 50), (50, 37), (40, 40), (33, 81), (20, 24)])
def test_decoder_agrees_with_torchvision(tmp_path, height, width, interpolation):
    picture(tmp_path / "a.jpg", 1, height, width)
    reference = transforms.Compose([
        transforms.Resize(32, getattr(transforms.InterpolationMode, interpolation.upper())),
        transforms.CenterCrop(28),
        transforms.PILToTensor()
    ])
    with Image.open(tmp_path / "a.jpg") as image:
        expected = reference(image.convert("RGB"))
    assert np.array_equal(
        Decoder(28, 32, interpolation=interpolation)(tmp_path / "a.jpg"), expected)


@pytest.mark.parametrize("size, resize, shape", [(None, "cover", (30, 41)), (16, "cover", (16, 16)),
                                                 ("12x40", "cover", (12, 40)), (16, None, (16, 16)),
                                                 ((64, 30), "cover", (64, 30)),
                                                 ("20", "28", (20, 20))])
def test_sizes(tmp_path, size, resize, shape):
    picture(tmp_path / "a.png", 2, 30, 41)
    for mode, channels in (("colour", 3), ("grey", 1)):
        found = Decoder(size, resize, mode)(tmp_path / "a.png")
        assert found.shape == (channels, *shape) and found.dtype == np.uint8


def test_cover_keeps_the_proportions(tmp_path):
    picture(tmp_path / "a.png", 2, 30, 41)
    with Image.open(tmp_path / "a.png") as image:
        # by 40 / 41 on both sides
        scaled = np.asarray(image.resize((40, 29), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.array_equal(Decoder("12x40")(tmp_path / "a.png"), scaled[:, 8:20])


def test_cut_without_resizing_takes_the_centre_and_grey_is_luma(tmp_path):
    x = picture(tmp_path / "a.png", 3, 10, 8)
    assert np.array_equal(Decoder(4, None)(tmp_path / "a.png"), x[:, 3:7, 2:6])
    luma = (x.double() * torch.tensor([0.299, 0.587, 0.114]).double()[:, None, None]).sum(0)
    assert np.abs(Decoder(mode="grey")(tmp_path / "a.png")[0] - luma.numpy()).max() <= 0.51
    grey = picture(tmp_path / "b.png", 4, channels=1)
    assert np.array_equal(Decoder()(tmp_path / "b.png"), grey.expand(3, -1, -1))


@pytest.mark.parametrize("settings, words",
                         [({"size": "big"}, "size must be a side"),
                          ({"size": 0}, "size must be a side"),
                          ({"size": (1, 2, 3)}, "size must be a side"),
                          ({"size": 8, "resize": "x"}, "resize must be a number"),
                          ({"resize": 8}, "give size= too"),
                          ({"size": 9, "resize": 8}, "smaller than size=9x9"),
                          ({"mode": "color"}, "mode must be colour or grey"),
                          ({"interpolation": "nearest"}, "bilinear "
                           "or bicubic")])
def test_bad_settings_of_the_decoder(settings, words):
    with pytest.raises(ValueError, match=words):
        Decoder(**settings)


def test_as_size():
    assert as_size("180x240") == (
        180, 240) and as_size(7) == as_size("7") == (7, 7) and as_size("none") is None


# --- folders ------------------------------------------------------------------------------------

@pytest.fixture
def pets(tmp_path):
    """cat: 1 image, dog: 3; the files' time order is the reverse of their name order."""
    root = tmp_path / "pets"
    for k, name in enumerate(("cat/x_7.png", "dog/x_2.png", "dog/x_10.png", "dog/x_9.png")):
        picture(root / name, k)
        os.utime(root / name, (1000 - k, 1000 - k))
    return root


def test_class_folders(pets):
    (pets / "notes.txt").write_text("beside the images")
    (pets / ".hidden").mkdir()
    data = load(f"folder:{pets}")
    assert isinstance(data, FileSet) and data.classes == ("cat", "dog") and data.y.tolist() == [
        0, 1, 1, 1
    ] and data.y.dtype == torch.int64
    assert data.source.paths == ["cat/x_7.png", "dog/x_2.png", "dog/x_9.png", "dog/x_10.png"]
    assert data.shape == (3, 8, 8) and len(data) == 4 and data.domains == (
    ) and data.rows() is None and data.model_classes is None
    expected = (torch.stack([torch.from_numpy(pixels(k)).permute(2, 0, 1)
                             for k in (0, 1, 3, 2)]) / 255)
    assert torch.equal(data.images(), expected) and data.images().dtype == torch.float32
    mask = torch.tensor([False, True, False, True])
    for index, rows in ((slice(1, 3), [1, 2]), ([3, 0, 3], [3, 0, 3]), (torch.tensor([2]), [2]),
                        (mask, [1, 3]), ([], [])):
        assert torch.equal(data.images(index), expected[rows])
    assert torch.equal(data.take([3, 1]).take([0]).images(), expected[[3]])
    assert repr(data) == f"FileSet('folder:{pets}', 4 images of 3x8x8, 2 classes)"
    with pytest.raises(ValueError, match="holds no images of 'fog'"):
        data.images([0], domain="fog")
    only = load(f"folder:{pets}[1]")
    assert only.classes == ("dog",) and only.y.tolist() == [0, 0, 0] and torch.equal(
        only.images(), expected[1:])
    assert only.fingerprint() == data.only([1]).fingerprint() != data.only(
        [1], relabel=False).fingerprint()


@pytest.mark.parametrize("order, last", [("name", ["7", "2", "9", "10"]),
                                         ("file", ["2", "7", "9", "10"]),
                                         ("time", ["9", "10", "2", "7"])])
def test_recorded_order(pets, order, last):
    data = load(f"folder:{pets}?order={order}")
    assert [path.split("_")[1].removesuffix(".png") for path in data.source.paths] == last
    assert data.y.tolist() == [int(path.startswith("dog")) for path in data.source.paths]


def test_natural_order():
    names = ["frame_10.png", "frame_2.png", "a/frame_1.png", "frame_02.png", "9.png", "²"]
    assert sorted(names, key=natural) == [
        "9.png", "a/frame_1.png", "frame_02.png", "frame_2.png", "frame_10.png", "²"
    ]


@pytest.mark.parametrize(
    "options", [{}, {"size": 5}, {"size": (4, 6), "mode": "grey"}, {"order": "time", "flat": True},
                {"classes": ("dog", "cat")}, {"size": 4, "resize": None}])
def test_a_set_is_rebuilt_from_its_name(pets, options):
    data = image_folder(pets, **options)
    again = load(data.name)
    assert again.name == data.name and again.fingerprint() == data.fingerprint() and torch.equal(
        again.images(), data.images())
    assert pickle.loads(pickle.dumps(data)).fingerprint() == data.fingerprint()
    assert data.name == f"folder:{pets}" + {
        "": "", "size": "?size=5", "sizemode": "?size=4x6&mode=grey",
        "orderflat": "?order=time&flat=1", "classes": "?classes=dog,cat",
        "sizeresize": "?size=4&resize=none"
    }["".join(options)]


def test_fingerprint_follows_content_not_place_or_time(pets, tmp_path):
    first = image_folder(pets).fingerprint()
    os.utime(pets / "cat/x_7.png", (5, 5))
    assert image_folder(pets).fingerprint() == first
    pets.rename(tmp_path / "moved")
    moved = tmp_path / "moved"
    others = [
        image_folder(moved, size=4),
        image_folder(moved, mode="grey"),
        image_folder(moved, classes=("dog", "cat")),
        image_folder(moved).take([0, 1])
    ]
    found = [first, *(other.fingerprint() for other in others)]
    (moved / "cat/x_7.png").rename(moved / "cat/x_8.png")
    found.append(image_folder(moved).fingerprint())
    (moved / "cat/x_8.png").rename(moved / "cat/x_7.png")
    assert image_folder(moved).fingerprint() == first
    with (moved / "cat/x_7.png").open("ab") as file:
        file.write(b"one more byte")
    found.append(image_folder(moved).fingerprint())
    assert len(set(found)) == 7


def test_flat_folder_has_no_labels(pets):
    for data in (image_folder(pets / "dog"), image_folder(pets / "dog", classes="a,b"),
                 image_folder(pets, flat=True)):
        assert data.y.tolist() == [-1] * len(data)
    assert image_folder(pets / "dog").classes == () and image_folder(
        pets / "dog", classes="a,b").classes == ("a", "b")


@pytest.mark.parametrize("table, classes, y, names", [
    ("file,label\nx_2.png,dog\nx_10.png,ape\n", None, [1, -1, 0], ("ape", "dog")),
    ("x_10.png,2\nx_9.png,\n", None, [-1, -1, 2], ("0", "1", "2")),
    ("x_10.png,1\nx_2.png,0\n", ("ape", "dog"), [0, -1, 1], ("ape", "dog")),
    ("x_9.png, dog\n", ("ape", "dog"), [-1, 1, -1], ("ape", "dog"))])
def test_labels_of_some_files_from_a_table(pets, table, classes, y, names):
    (pets / "dog/labels.csv").write_text(table)
    data = image_folder(pets / "dog", labels="labels.csv", classes=classes)
    assert data.y.tolist() == y and data.classes == names
    assert load(data.name).fingerprint() == data.fingerprint()
    # same files, names, size
    (pets / "dog/labels.csv").write_text(
        table.replace("x_10", "x_?").replace("x_9", "x_10").replace("x_?", "x_9"))
    assert load(data.name).y.tolist() != y and load(data.name).fingerprint() != data.fingerprint()


@pytest.mark.parametrize("table, words",
                         [("gone.png,dog", "row 1 names 'gone.png', which is no image"),
                          ("x_2.png,dog\nx_2.png,ape", "row 2 names 'x_2.png' a second time"),
                          ("x_2.png", "row 1 has 1 entries"),
                          ("x_2.png,cow", "the labels cow are none of the 2 classes "
                           "ape, dog"), ("x_2.png,2", "the labels 2 are none of the 2 classes"),
                          ("file,label\n", "holds no labels"), (HTML.decode(), "is a web page")])
def test_bad_tables_of_labels(pets, table, words):
    (pets / "dog/labels.csv").write_text(table)
    with pytest.raises(DataError, match=words):
        image_folder(pets / "dog", labels="labels.csv", classes=("ape", "dog"))


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "spoil, words",
    [(lambda r: picture(r / "dog/big.png", 0, 9, 8), "x_7.png has 8 x 8 pixels but .*big.png has 9 "
      "x 8 pixels; give one size for all"),
     (lambda r: [write(r / name, b"x") for name in ("dog/y.heic", "cat/z.HEIC", "dog/raw")],
      "cannot be read as images: 2 .heic, 1 without"),
     (lambda r: write(r / "dog/page.jpg", HTML), "page.jpg is a web page"),
     (lambda r: write(r / "dog/none.jpg", b""), "none.jpg is empty"),
     (lambda r: write(r / "dog/text.png", b"hello"), "text.png cannot be read as an image"),
     (lambda r: Image.fromarray(np.zeros((8, 8), np.uint16)).save(r / "dog/deep.png"), "deep.png "
      "has more "
      "than 8 bits"), (lambda r: picture(r / "loose.png"), r"images of its own \(loose.png\)"),
     (lambda r: (r / "eel").mkdir(), "the class folders eel without any image")])
def test_bad_folders_are_refused_when_opened(pets, spoil, words):
    spoil(pets)
    with pytest.raises(DataError, match=words):
        image_folder(pets)


@pytest.mark.parametrize("path, options, error, words", [
    ("gone", {}, DataError, "gone is not there"),
    ("cat/x_7.png", {}, DataError, "is a file, not a folder"),
    ("empty", {}, DataError, "holds no images"),
    (".", {"order": "date"}, ValueError, "order must be one of name, file, time"),
    (".", {"classes": "cat"}, DataError, "folders dog, which are none"),
    (".", {"classes": "cat,cat,dog"}, DataError, "class names must be there and differ"),
    (".", {"classes": "gone.txt"}, DataError, "gone.txt is neither"),
    (".", {"labels": "gone.csv"}, DataError, "gone.csv is neither"),
    (".", {"size": 9, "resize": "none"}, DataError, "8 x 8 pixels, fewer than the 9 x 9"),
    (".", {"sise": 4}, ValueError, "folder has no option 'sise'; it has: size, resize"),
    (".", {"classes": ("a,b", "c")}, ValueError, "with a comma")])
def test_bad_arguments(pets, path, options, error, words):
    (pets / "empty").mkdir()
    (pets / "empty/readme.txt").write_text("nothing")
    if path == ".":
        (pets / "empty/readme.txt").unlink()
        (pets / "empty").rmdir()
    with pytest.raises(error, match=words):
        image_folder(pets / path, **options)


def test_differing_sizes_are_made_equal_and_noticed_when_they_change_later(pets):
    picture(pets / "dog/x_3.png", 0, 20, 11)
    assert image_folder(pets, size=6).images().shape == (5, 3, 6, 6)
    (pets / "dog/x_3.png").unlink()
    data = image_folder(pets, cache_bytes=0)
    picture(pets / "dog/x_2.png", 0, 9, 8)
    with pytest.raises(DataError, match="8 x 8 pixels but .*x_2.png has 9 x 8"):
        data.images()
    with pytest.raises(DataError, match=r"1 of 4 images cannot be used:\n.*x_2.png has 9 x 8 "
                                        r"pixels, not 8 x 8"):
        data.check()


def test_a_picture_cut_short_is_named_when_decoded(tmp_path):
    for k in range(3):
        picture(tmp_path / f"a/{k}.jpg", k, 40, 40)
    path = tmp_path / "a/1.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    data = image_folder(tmp_path)                   # the headers are whole
    assert data.images([0, 2]).shape == (2, 3, 40, 40) and data.take([0, 2]).check() == 2
    with pytest.raises(DataError, match="1.jpg is damaged or cut short"):
        data.images([0, 1])
    path.unlink()
    with pytest.raises(DataError, match=r"1 of 3 images cannot be used:\n.*1.jpg is missing"):
        data.check()
    with pytest.raises(DataError, match="a file of the image set is missing"):
        data.fingerprint()


def test_reading_is_lazy_and_the_cache_is_bounded(pets, monkeypatch):
    decoded, decode = [], Decoder.__call__
    monkeypatch.setattr(Decoder, "__call__",
                        lambda self, path: decoded.append(path.name) or decode(self, path))
    data = image_folder(pets, cache_bytes=2 * 192)       # two pictures of 192 bytes
    assert decoded == []
    data.images([1])
    data.images([1, 0])
    assert decoded == ["x_2.png", "x_7.png"]
    data.images([2])                                # the one used longest ago, row 1, goes
    data.images([0, 2])
    assert len(decoded) == 3 and data.source.cache.bytes == 2 * 192
    data.images([1])
    assert decoded[3:] == ["x_2.png"]


def test_cache_counts_bytes():
    cache = Cache(10)
    # too large to keep
    assert cache.get("a", lambda: np.zeros(11, np.uint8)).size == 11 and cache.bytes == 0
    for name in "abcabd":
        cache.get(name, lambda: np.zeros(4, np.uint8))
    assert list(cache.kept) == ["b", "d"] and cache.bytes == 8
    assert not pickle.loads(pickle.dumps(cache)).kept


def test_threads_change_nothing(tmp_path, monkeypatch):
    for k in range(20):
        picture(tmp_path / f"{k}.png", k)
    alone = image_folder(tmp_path).images()
    monkeypatch.setattr(image_files, "WORKERS", 3)
    monkeypatch.setattr(image_files, "LARGE_FILE", 0)
    assert torch.equal(image_folder(tmp_path).images(), alone)
    (tmp_path / "13.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match="13.png cannot be read"):
        image_folder(tmp_path)


def test_spread():
    assert list(evenly_spaced(5, 9)) == [0, 1, 2, 3, 4] and evenly_spaced(100, 3) == [0, 49, 99]


# --- torch data sets ----------------------------------------------------------------------------

class Items:
    """A map-style data set of given items."""

    def __init__(self, items, **more):
        self.items = items
        vars(self).update(more)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, k):
        return self.items[k]() if callable(self.items[k]) else self.items[k]


def test_wrap_reads_every_usual_form_of_image():
    array = pixels(0)
    expected = torch.from_numpy(array).permute(2, 0, 1)[None] / 255
    for image in (Image.fromarray(array), torch.from_numpy(array).permute(2, 0, 1), array,
                  expected[0], expected[0].double(), (array / 255)):
        data = wrap(Items([(image, 1)]))
        assert torch.allclose(data.images(), expected, atol=1e-7) and data.shape == (3, 8, 8)
        assert data.y.tolist() == [1] and data.classes == ("0", "1")
        assert torch.equal(wrap(Items([image])).images(), data.images()) and wrap(Items(
            [image])).y.tolist() == [-1]
    grey = pixels(1, channels=1)
    for image in (Image.fromarray(grey), grey, torch.from_numpy(grey),
                  torch.from_numpy(grey)[None]):
        assert torch.equal(wrap(Items([image])).images(), torch.from_numpy(grey)[None, None] / 255)


def test_wrap_of_torch_and_subset():
    x, y = torch.rand(6, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    data = wrap(Subset(TensorDataset(x, y), [5, 1, 0]), classes=("a", "b", "c"))
    assert data.y.tolist() == [2, 1, 0] and torch.equal(data.images([1, 0]), x[[1, 5]])
    assert torch.equal(data.only([2]).images(),
                       x[[5]]) and data.check() == 3 and data.name == "wrapped Subset"
    other = wrap(Subset(TensorDataset(x, y), [5, 1, 3]), classes=("a", "b", "c"))
    assert data.fingerprint() == wrap(Subset(TensorDataset(x, y), [5, 1, 0]),
                                      classes=("a", "b", "c")).fingerprint() != other.fingerprint()
    assert torch.equal(wrap(TensorDataset(x)).images(), x) and wrap(
        TensorDataset(x), labels=y).y.tolist() == y.tolist()
    with pytest.raises(ValueError, match="no embedded image set 'wrapped Subset'"):
        load(data.name)


def test_wrap_takes_stored_labels_without_decoding():
    read = []
    items = [lambda k=k: (read.append(k) or pixels(k), k % 2) for k in range(9)]
    data = wrap(Items(items, targets=[k % 2 for k in range(9)], classes=["even", "odd"]))
    assert set(read) == {0, 4, 8} and data.y.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0
                                                          ] and data.classes == ("even", "odd")
    # they contradict the items
    assert wrap(Items(items, targets=[1] * 9)).y.tolist() == data.y.tolist()
    assert wrap(Items(items, targets=[0] * 9, target_transform=abs)).y.tolist() == data.y.tolist()
    assert wrap(
        Subset(Items(items, targets=[k % 2 for k in range(9)], classes=["even", "odd"]),
               [1, 2])).classes == ("even", "odd")


@pytest.mark.parametrize(
    "items, settings, error, words",
    [([torch.randn(3, 4, 4) * 3], {}, DataError, r"values from -.* not in \[0, 1\]; leave the "
      r"normalisation out"), ([torch.full((3, 4, 4), torch.nan)], {}, DataError, "values from nan"),
     ([torch.zeros(3, 4, 4, dtype=torch.int64)], {}, DataError, "type int64"),
     ([torch.zeros(4)], {}, DataError, "item 0 is no image but ndarray"),
     (["text"], {}, DataError, "item 0 is no image but str"),
     ([(torch.zeros(3, 4, 4), "cat")], {}, DataError, "label of item 0 is 'cat'"),
     ([], {}, DataError, "is empty"),
     ([lambda: torch.rand(3, 4, 4)], {}, DataError, "another image each time"),
     ([torch.zeros(3, 4, 4), torch.zeros(3, 4, 5)], {}, DataError, "item 1 has the shape .3, 4, "
      "5., item 0"),
     ([(torch.zeros(3, 4, 4), 2)], {"classes": "ab"}, DataError, "labels run from 2 to 2, but "
      "there are 2 classes"),
     ([torch.zeros(3, 4, 4)], {"labels": [0, 1]}, DataError, "1 images, but labels of shape")])
def test_bad_torch_data_sets(items, settings, error, words):
    with pytest.raises(error, match=words):
        wrap(Items(items), **settings)


def test_wrap_refuses_iterables():
    with pytest.raises(ValueError, match="map-style"):
        wrap(iter([1]))


# --- lists and sub-domains ----------------------------------------------------------------------

@pytest.fixture
def sketches(tmp_path):
    for k, name in enumerate(("real/ape/1.png", "real/dog/2.png", "sketch/ape/a b.png",
                              "sketch/ape/4.png", "sketch/dog/5.png")):
        picture(tmp_path / name, k)
    (tmp_path / "real_list.txt").write_text("real/ape/1.png 0\nreal/dog/2.png 1\n")
    (tmp_path / "sketch_list.txt").write_text("sketch/dog/5.png 1\n\nsketch/ape/a b.png "
                                              "0\nsketch/ape/4.png 0\n")
    (tmp_path / "classes.txt").write_text("ape\ndog\n")
    return tmp_path


def test_lists_are_domains(sketches):
    data = load(f"lists:{sketches}?size=none&resize=none&classes=classes.txt")
    assert data.domains == ("real", "sketch") and data.classes == (
        "ape", "dog") and data.y.tolist() == [0, 1, 1, 0, 0]
    assert data.rows("real").tolist() == [0, 1] and data.rows("sketch").tolist() == [
        2, 3, 4
    ] and data.rows("none") is None
    expected = (torch.stack([torch.from_numpy(pixels(k)).permute(2, 0, 1)
                             for k in (0, 1, 4, 2, 3)]) / 255)
    assert torch.equal(data.images(), expected) and torch.equal(
        data.images([4, 2], domain="sketch"), expected[[4, 2]])
    with pytest.raises(ValueError, match="do not belong to 'sketch'"):
        data.images([0, 2], domain="sketch")
    with pytest.raises(ValueError, match="holds no images of 'quickdraw', only real, sketch"):
        data.rows("quickdraw")
    part = data.only([1])
    assert part.rows("sketch").tolist() == [1] and torch.equal(part.images([1], domain="sketch"),
                                                               expected[[2]])
    assert lists(sketches).shape == (3, 224, 224) and lists(sketches).classes == ("0", "1")
    chosen = lists(sketches, files=["sketch_list.txt"], images=sketches, size=8, resize="cover")
    assert chosen.domains == ("sketch",) and load(
        chosen.name).fingerprint() == chosen.fingerprint() != data.fingerprint()


@pytest.mark.parametrize(
    "text, options, words",
    [("real/ape/1.png cat\n", {}, "line 1 is not 'path label'"),
     ("real/ape/1.png 0\ngone.png 1\n", {}, "1 of 5 listed images are not below .* gone.png"),
     ("real/ape/1.png 7\n", {"classes": "ape,dog"}, "real/ape/1.png has the label 7, but there are "
      "2 classes"), ("", {}, "real_list.txt is empty"), (HTML.decode(), {}, "is a web page"),
     ("real/ape/1.png 0\n", {"files": "gone.txt"}, "gone.txt "
      "is missing"),
     ("real/ape/1.png 0\n", {"files": "real_list.txt,real_list.txt"}, "name a domain twice")])
def test_bad_lists(sketches, text, options, words):
    (sketches / "real_list.txt").write_text(text)
    with pytest.raises(DataError, match=words):
        lists(sketches, **options)


def test_map_of_classes_to_outputs_of_a_larger_model(sketches):
    (sketches / "map.txt").write_text("dog 3\nape 1, 4\n")
    data = lists(sketches, classes="classes.txt", map="map.txt", size=8, resize="cover")
    assert data.model_classes.tolist() == [[1, 4], [3, -1]] and data.only(
        [1]).model_classes.tolist() == [[3, -1]]
    logits = torch.tensor([[9.0, 1, 9, 2, 3, 9], [9, -5, 9, -4, -7, 9]])
    # the larger of outputs 1 and 4, and 3
    assert class_logits(logits, data.model_classes).tolist() == [[3, 2], [-5, -4]]
    assert torch.equal(
        class_logits(logits[..., None, None].expand(-1, -1, 2, 2), data.model_classes)[..., 0, 1],
        torch.tensor([[3.0, 2], [-5, -4]]))
    (sketches / "map.txt").write_text("0 2\n1 0\n")
    single = lists(sketches, map="map.txt", size=8, resize="cover")
    assert single.model_classes.tolist() == [2, 0] and class_logits(
        logits, single.model_classes).tolist() == [[9, 9], [9, 9]]
    assert class_logits(logits, None) is logits and load(
        single.name).model_classes.tolist() == [2, 0]
    with pytest.raises(ValueError, match="names model output 4, the model has 4"):
        class_logits(logits[:, :4], data.model_classes)


@pytest.mark.parametrize("text, words", [("ape 1\n", "no line for dog"),
                                         ("ape 1\ndog 1\n", "line 2 names 1 a second time"),
                                         ("ape 1 1\ndog 2", "second time"),
                                         ("ape 1\nape 2\n", "line 2 names ape a second time"),
                                         ("cow 1\n", "line 1 is not 'class output"),
                                         ("ape\n", "line 1 is not"), ("ape x\n", "line 1 is not")])
def test_bad_maps(sketches, text, words):
    (sketches / "map.txt").write_text(text)
    with pytest.raises(DataError, match=words):
        lists(sketches, classes="classes.txt", map="map.txt")


# --- CIFAR --------------------------------------------------------------------------------------

X = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)
Y = [3, 0, 9, 3]


def python2_pickle(x, labels, key=b"labels"):
    """The bytes Python 2 wrote: text as byte strings, numpy's old module name."""
    shape = b"".join(b"M" + struct.pack("<H", n) for n in x.shape)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01" +
        shape +
        b"\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<I", x.size) + x.tobytes() + b"tb")
    numbers = b"](" + b"".join(b"K" + bytes([n]) for n in labels) + b"e"
    return b"\x80\x02}(U\x04data" + array + b"U" + bytes([len(key)]) + key + numbers + b"u."


def binary(x, labels, front=b""):
    return b"".join(front + bytes([label]) + row.tobytes()
                    for row, label in zip(x, labels, strict=True))


def test_every_form_of_cifar_is_read_alike(tmp_path):
    # the hand-made file is a true one
    assert np.array_equal(pickle.loads(python2_pickle(X, Y), encoding="bytes")[b"data"], X)
    write(tmp_path / "bin/test_batch.bin", binary(X, Y))
    write(tmp_path / "py/cifar-10-batches-py/test_batch", python2_pickle(X, Y))
    write(tmp_path / "py3/test_batch", pickle.dumps({"data": X, "labels": Y}, protocol=2))
    with tarfile.open(tmp_path / "cifar.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "py/cifar-10-batches-py", "cifar-10-batches-py")
    with tarfile.open(tmp_path / "binary.tar", "w") as tar:
        tar.add(tmp_path / "bin/test_batch.bin", "cifar-10-batches-bin/test_batch.bin")
    for name in ("bin", "py", "py3", "cifar.tar.gz", "binary.tar"):
        data = load(f"cifar10:{tmp_path / name}")
        assert isinstance(data, ImageSet) and torch.equal(
            data.x,
            torch.from_numpy(X).view(4, 3, 32, 32)) and data.y.tolist() == Y
        assert data.name == f"cifar10:{tmp_path / name}" and data.classes == CIFAR10_CLASSES
    assert load(f"cifar10:{tmp_path / 'bin'}[3,9]").y.tolist() == [0, 1, 0]


def test_cifar_from_pictures(tmp_path):
    for k, label in enumerate(Y):
        picture(tmp_path / f"test/{CIFAR10_CLASSES[label]}/{k}.png", k, 32, 32)
    data = cifar10(tmp_path)
    assert data.y.tolist() == [0, 3, 3, 9
                               ] and data.classes == CIFAR10_CLASSES and data.shape == (3, 32, 32)
    assert torch.equal(data.images([1]),
                       torch.from_numpy(pixels(0, 32, 32)).permute(2, 0, 1)[None] / 255)


def test_cifar100_takes_the_fine_labels_and_cifar10_five_training_files(tmp_path):
    write(tmp_path / "a/test.bin", binary(X, [99, 0, 1, 55], front=b"\x05"))
    write(tmp_path / "b/test", python2_pickle(X, [99, 0, 1, 55], b"fine_labels"))
    for name in "ab":
        data = cifar100(tmp_path / name)
        assert data.y.tolist() == [99, 0, 1, 55] and torch.equal(
            data.x,
            torch.from_numpy(X).view(4, 3, 32, 32))
    assert len(CIFAR100_CLASSES) == 100 and tuple(sorted(CIFAR100_CLASSES)) == CIFAR100_CLASSES
    for k in range(1, 6):
        write(tmp_path / f"c/data_batch_{k}.bin", binary(X, [k] * 4))
    assert cifar10(tmp_path / "c",
                   split="train").y.tolist() == [k for k in range(1, 6) for _ in range(4)]
    (tmp_path / "c/data_batch_4.bin").unlink()
    with pytest.raises(DataError, match="data_batch_4.bin is missing"):
        cifar10(tmp_path / "c", split="train")
    with pytest.raises(ValueError, match="split must be test or train"):
        cifar10(tmp_path / "c", split="val")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("opened",)


class EvilArray:
    def __reduce__(self):
        return np.load, ("x.npy",)


@pytest.mark.parametrize(
    "name, content, words",
    [("test_batch.bin", binary(X, Y)[:-1], "12291 bytes, no multiple of 3073"),
     ("test_batch.bin", b"", "0 bytes"),
     ("test_batch.bin", binary(X, [1, 2, 3, 10]), "labels run from 1 to 10, but there are 10 "
      "classes"), ("test_batch.bin", HTML, "web page"),
     ("test_batch", python2_pickle(X, [1, 2, 3, 10]), "labels run from 1 to 10"),
     ("test_batch", python2_pickle(X, Y)[:-40], "is damaged or not a CIFAR"),
     ("test_batch", python2_pickle(X, Y)[:60], "is damaged or not a CIFAR"),
     ("test_batch", HTML, "web page"), ("test_batch", b"hello", "not a CIFAR file"),
     ("test_batch", pickle.dumps([1, 2]), "holds list, not a dictionary"),
     ("test_batch", python2_pickle(X, Y, b"names"), "'labels' of N labels"),
     ("test_batch", python2_pickle(X[:3], Y), r"expected 'data' of \(N, 3072\)"),
     ("test_batch", pickle.dumps({"data": X.astype(float), "labels": Y}, 2), "'f8'"),
     ("test_batch", pickle.dumps({"data": Evil(), "labels": Y}), r"asks for (posix|nt).mkdir, "
      r"which no CIFAR file needs"),
     ("test_batch", pickle.dumps({"data": X, "labels": [EvilArray()]}, 2), r"asks for numpy.*load"),
     ("test_batch", b"cbuiltins\neval\n(V1+1\ntR.", "asks for builtins.eval"),
     ("other", b"", "holds neither the binary nor the python version")])
def test_bad_cifar_files(tmp_path, monkeypatch, name, content, words):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "cifar" / name, content)
    with pytest.raises(DataError, match=words):
        cifar10("cifar")
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize("content, words", [(HTML, "web page"),
                                            (b"\x1f\x8b\x08broken", "damaged or not a tar"),
                                            (b"", "damaged or not a tar")])
def test_bad_archives(tmp_path, content, words):
    write(tmp_path / "cifar.tar.gz", content)
    with pytest.raises(DataError, match=words):
        cifar10(tmp_path / "cifar.tar.gz")


def test_archive_cut_short(tmp_path):
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as tar:
        member = tarfile.TarInfo("test_batch.bin")
        member.size = 4 * 3073
        tar.addfile(member, io.BytesIO(binary(X, Y)))
    write(tmp_path / "cifar.tar.gz", whole.getvalue()[:9000])
    with pytest.raises(DataError, match="damaged"):
        cifar10(tmp_path / "cifar.tar.gz")


# --- arrays of corrupted images -----------------------------------------------------------------

@pytest.fixture
def cifar_c(tmp_path):
    """Two corruptions of four images; the value of a pixel names corruption, severity and image. A
    clean test set beside it."""
    root = tmp_path / "c"
    root.mkdir()
    np.save(root / "labels.npy", np.array(Y * 5))
    for k, name in enumerate(("fog", "blur")):
        array = np.zeros((20, 32, 32, 3), np.uint8)
        array[:] = (100 * k + np.arange(20))[:, None, None, None]
        # row, column, red: shows whether axes are in place
        array[:, 1, 2, 0] = 255
        np.save(root / f"{name}.npy", array)
    write(tmp_path / "clean/test_batch.bin", binary(X, Y))
    return root


def test_arrays_of_corrupted_images(cifar_c, tmp_path):
    data = load(f"cifar10_c:{cifar_c}?clean={tmp_path / 'clean'}")
    assert data.domains == (
        "blur",
        "fog") and data.y.tolist() == Y and data.rows("fog") is None and data.shape == (3, 32, 32)
    x = data.images([2, 0], domain="fog", severity=3.0) * 255
    assert x[:, 0, 0, 0].tolist() == [10, 8] and x[0, :, 1, 2].tolist() == [255, 10, 10]
    assert (data.images([3], domain="blur") * 255)[0, 1, 0, 0] == 119
    assert torch.equal(
        data.images([1, 3]) * 255,
        torch.from_numpy(X[[1, 3]]).view(2, 3, 32, 32).float())
    taken = data.only([3])
    assert (taken.images([1], domain="fog", severity=1) * 255)[0, 2, 5, 5] == 3
    assert data.check() == 2 * 5 * 4 + 4 and pickle.loads(
        pickle.dumps(data)).fingerprint() == data.fingerprint()
    assert load(taken.name).fingerprint() == taken.fingerprint() != data.fingerprint()
    assert len({data.fingerprint(), cifar10_c(cifar_c).fingerprint()}) == 2
    for severity in (2.5, 0, 6, -1):
        with pytest.raises(ValueError, match=f"fog.npy has files for severity 1, 2, 3, 4, 5 only, "
                                             f"not {severity:g}"):
            data.check_domain("fog", severity)
    with pytest.raises(ValueError, match="holds no images of 'snow', only blur, fog"):
        data.check_domain("snow")
    with pytest.raises(ValueError, match="hold no clean ones; name the clean test set with clean="):
        cifar10_c(cifar_c).images([0])


@pytest.mark.parametrize("spoil, words", [
    (lambda r: write(r / "fog.npy", (r / "fog.npy").read_bytes()[:-7]), "fog.npy is damaged, cut "
     "short"),
    (lambda r: write(r / "fog.npy", (r / "fog.npy").read_bytes() + b"more"), "fog.npy is damaged, "
     ".*promises 61440 "
     "bytes of values, it "
     "has 61444"),
    (lambda r: write(r / "fog.npy", (r / "fog.npy").read_bytes()[:40]), "fog.npy is damaged, cut "
     "short"), (lambda r: write(r / "fog.npy", HTML), "fog.npy is a web page"),
    (lambda r: np.save(r / "fog.npy", np.array([{}])), "fog.npy is damaged, .*not an .npy"),
    (lambda r: np.save(r / "fog.npy", np.zeros((15, 32, 32, 3), np.uint8)), r"fog.npy has the "
     r"shape \(15, 32, 32, "
     r"3\).*expected \(20, "
     r"32, 32, 3\)"),
    (lambda r: np.save(r / "fog.npy", np.zeros((20, 3, 32, 32), np.uint8)), r"fog.npy has the "
     r"shape \(20, 3, 32, "
     r"32\)"), (lambda r: np.save(r / "fog.npy", np.zeros((20, 32, 32, 3))), "type float64"),
    (lambda r: (r / "labels.npy").unlink(), "labels.npy is missing"),
    (lambda r: np.save(r / "labels.npy",
                       np.array(Y * 5)[1:]), r"labels.npy has the shape \(19,\)"),
    (lambda r: np.save(r / "labels.npy", np.array(Y * 4 + Y[::-1])), "the five blocks, one a "
     "severity, differ"),
    (lambda r: np.save(r / "labels.npy", np.array([3, 0, 10, 3] * 5)), "labels run from 0 to 10, "
     "but there are 10 classes"),
    (lambda r: [(r / f"{name}.npy").unlink() for name in ("fog", "blur")], "holds no corruptions"),
    (lambda r: write(r.parent / "clean/test_batch.bin", binary(X, Y[::-1])), "or in another order"),
    (lambda r: write(r.parent / "clean/test_batch.bin", binary(X[:3], Y[:3])), r"\(3 images\) is "
     r"not the one of")
])
def test_bad_arrays_of_corrupted_images(cifar_c, spoil, words):
    spoil(cifar_c)
    with pytest.raises(DataError, match=words):
        cifar10_c(cifar_c, clean=cifar_c.parent / "clean")


# --- ImageNet and its relatives -----------------------------------------------------------------

WNIDS = [f"n0000000{k}" for k in (1, 4, 7, 9)]


def synsets(tmp_path):
    (tmp_path / "synsets.txt").write_text("".join(f"{wnid} some words\n"
                                                  for wnid in (WNIDS[2], WNIDS[0], WNIDS[3],
                                                               WNIDS[1])))
    return tmp_path / "synsets.txt"


@pytest.mark.parametrize("name", ["imagenet", "imagenet_r", "imagenet_a", "imagenet_sketch"])
def test_folders_by_wnid(tmp_path, name):
    root = tmp_path / "val"
    for k, file in enumerate((f"{WNIDS[1]}/b.JPEG", f"{WNIDS[3]}/a.JPEG", f"{WNIDS[1]}/a.JPEG")):
        picture(root / file, k, 30 + k, 40)
    data = KINDS[name](root, size=28, resize=32, synsets=synsets(tmp_path))
    assert data.classes == (WNIDS[1], WNIDS[3]) and data.y.tolist() == [
        0, 0, 1
    ] and data.source.paths[0] == f"{WNIDS[1]}/a.JPEG"
    # places in the sorted list, not in the file
    assert data.model_classes.tolist() == [1, 3]
    assert data.images().shape == (3, 3, 28, 28) and load(
        data.name).fingerprint() == data.fingerprint()
    assert data.only([1]).model_classes.tolist() == [3]
    assert class_logits(torch.tensor([[5.0, 6, 7, 8]]), data.model_classes).tolist() == [[6, 8]]
    (tmp_path / "full").mkdir()
    for wnid in WNIDS:
        (tmp_path / "full" / wnid).mkdir()
    assert KINDS[name](root, synsets=tmp_path / "full").model_classes.tolist() == [1, 3]


def test_order_of_the_full_list_agrees_with_the_published_indices():
    pytest.importorskip("timm")
    info = importlib.util.find_spec("timm").submodule_search_locations[0] + "/data/_info/"
    order = wnid_order()
    assert len(order) == 1000 and order[0] == "n01440764" and order[999] == "n15075141"
    for name in ("imagenet_a", "imagenet_r"):
        with open(f"{info}{name}_synsets.txt") as wnids, open(
                f"{info}{name}_indices.txt") as indices:
            assert [order.index(wnid)
                    for wnid in wnids.read().split()] == [int(k) for k in indices.read().split()]


def test_without_the_full_list(tmp_path, monkeypatch):
    picture(tmp_path / "val" / WNIDS[0] / "a.jpg")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="give synsets= a text file of the 1000 wnids .* or "
                                        "install timm"):
        imagenet(tmp_path / "val")
    for k in range(1000):
        picture(tmp_path / "full" / f"n{k:08}" / "a.bmp", k, 2, 2)
    # all are there: no list is needed
    assert torch.equal(
        imagenet(tmp_path / "full", size=2, resize=2).model_classes, torch.arange(1000))


@pytest.mark.parametrize(
    "spoil, words",
    [(lambda r: (r / "val").mkdir() or picture(r / "val" / WNIDS[0] / "a.jpg"), "holds the folders "
      "val; .*did you "
      "mean .*val"),
     (lambda r: picture(r / "n00000005/a.jpg"), "n00000005 are not in the list of 4 wnids"),
     (lambda r: (r / WNIDS[0]).mkdir(), f"{WNIDS[0]} holds no images"),
     (lambda r: picture(r / "a.jpg"), "lies outside the class folders"),
     (lambda r: write(r / WNIDS[1] / "b.jpg", HTML), "b.jpg is a web page")])
def test_bad_folders_by_wnid(tmp_path, spoil, words):
    root = tmp_path / "r"
    picture(root / WNIDS[1] / "a.jpg")
    spoil(root)
    with pytest.raises(DataError, match=words):
        imagenet(root, synsets=synsets(tmp_path))


@pytest.mark.parametrize("content, words", [
    ("tench\n", "holds no list of different wnids"), (f"{WNIDS[0]}\n{WNIDS[0]}\n", "holds no list "
                                                                                   "of different"),
    (HTML.decode(), "web page"), (None, "is not there")])
def test_bad_lists_of_wnids(tmp_path, content, words):
    if content:
        (tmp_path / "s.txt").write_text(content)
    with pytest.raises(DataError, match=words):
        wnid_order(tmp_path / "s.txt")


def test_numbered_folders_are_taken_as_numbers(tmp_path):
    for k in (10, 2, 900):
        picture(tmp_path / "v2" / str(k) / "a.jpeg", k)
    data = load(f"imagenet_v2:{tmp_path / 'v2'}?size=8&resize=8")
    assert data.classes == ("2", "10", "900") and data.model_classes.tolist() == [
        2, 10, 900
    ] and data.y.tolist() == [0, 1, 2]
    assert data.source.paths[1] == "10/a.jpeg"
    picture(tmp_path / "v2/cat/a.jpeg")
    with pytest.raises(DataError, match="holds the folders cat; expected one folder a class, "
                                        "named 0 to 999"):
        imagenet_v2(tmp_path / "v2")


FILES = [f"{WNIDS[1]}/v_1.png", f"{WNIDS[3]}/v_10.png", f"{WNIDS[3]}/v_2.png"]


def corrupted(root, corruptions=("noise/shot_noise", "fog"), severities=(3, 5), side=8):
    """Published layout, one corruption inside its group folder; picture k of a folder has the seed
    of its folder plus k."""
    for c, corruption in enumerate(corruptions):
        for s in severities:
            for k, name in enumerate(FILES):
                picture(root / corruption / str(s) / name, 100 * c + 10 * s + k, side, side)
    return root


def test_folders_of_corrupted_images(tmp_path):
    root = corrupted(tmp_path / "imagenet-c")
    for k, name in enumerate(FILES):
        picture(tmp_path / "val" / name, 500 + k, 8, 8)
    data = imagenet_c(root, size=6, clean=tmp_path / "val", synsets=synsets(tmp_path))
    assert data.domains == ("fog", "shot_noise") and data.y.tolist() == [
        0, 1, 1
    ] and data.model_classes.tolist() == [1, 3]
    # natural order within the class
    assert data.source.names == [FILES[0], FILES[2], FILES[1]]
    for domain, start in (("shot_noise", 0), ("fog", 100)):
        for s in (3, 5.0):
            expected = (
                torch.from_numpy(pixels(start + int(10 * s) + 2)).permute(2, 0, 1)[:, 1:7, 1:7] /
                255)
            assert torch.equal(data.images([1], domain=domain, severity=s)[0], expected)
    with Image.open(tmp_path / "val" / FILES[1]) as image:
        clean = transforms.Compose(
            [transforms.Resize(256),
             transforms.CenterCrop(6),
             transforms.PILToTensor()])(image)
    assert torch.equal(data.images([2])[0], clean / 255)
    assert data.check() == 15 and load(data.name).fingerprint() == data.fingerprint()
    for severity, words in ((4, "severity 3, 5 only, not 4"), (3.5, "only, not 3.5")):
        with pytest.raises(ValueError, match=words):
            data.images([0], domain="fog", severity=severity)
    (root / "fog/12").mkdir()                           # no severity
    part = load(f"imagenet_c:{root}?severities=5&synsets={synsets(tmp_path)}&size=8")
    with pytest.raises(ValueError, match="fog has files for severity 5 only"):
        part.check_domain("fog", 3)
    assert list(imagenet_c(root, size=6, synsets=synsets(tmp_path)).source.places["fog"]) == [3, 5]
    with pytest.raises(ValueError, match="hold no clean ones"):
        part.images([0])
    before = part.fingerprint()
    (root / "fog/3" / FILES[0]).write_bytes(b"other")
    again = load(part.name)
    assert again.fingerprint() == before                # severity 3 is no part of it
    with (root / "fog/5" / FILES[0]).open("ab") as file:
        file.write(b"more")
    assert load(part.name).fingerprint() != before


def test_tiny_imagenet_c(tmp_path):
    data = tiny_imagenet_c(corrupted(tmp_path / "t", ("fog",), (5,), 64))
    assert data.shape == (3, 64, 64) and data.classes == (WNIDS[1],
                                                          WNIDS[3]) and data.model_classes is None
    assert load(data.name).y.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    "spoil, options, words",
    [(lambda r: (r / "fog/5" / FILES[0]).unlink(), {}, "fog/3 has 3 images, .*fog/5 has 2; every "
      "corruption and severity needs the same"),
     (lambda r: (r / "fog/5" / FILES[0]).rename(r / "fog/5" / WNIDS[1] / "w.png"), {}, f"fog/5 has "
      f"other images than .*fog/3, {WNIDS[1]}/w.png"),
     (lambda r: picture(r / "fog/3" / FILES[0], 0, 5, 8), {}, "5 x 8 pixels, fewer than the 8 x 8"),
     (lambda r: write(r / "fog/3" / FILES[0], HTML), {}, "web page"),
     (lambda r: None, {"severities": "4"}, "has no folder fog/4"),
     (lambda r: (r / "val").mkdir(), {"clean": "imagenet-c/val"}, f"has no {FILES[0]}"),
     (lambda r: None, {"clean": "gone"}, "gone is not there")])
def test_bad_folders_of_corrupted_images(tmp_path, monkeypatch, spoil, options, words):
    monkeypatch.chdir(tmp_path)
    root = corrupted(tmp_path / "imagenet-c", ("fog",))
    spoil(root)
    with pytest.raises(DataError, match=words):
        imagenet_c(root, size=8, synsets=synsets(tmp_path), **options)


def test_a_corruption_found_twice_and_no_corruption(tmp_path):
    with pytest.raises(DataError, match="fog is there twice"):
        imagenet_c(corrupted(tmp_path / "twice", ("fog", "weather/fog")))
    picture(tmp_path / "none" / WNIDS[0] / "a.png")
    with pytest.raises(DataError, match="holds no folders corruption/severity/wnid"):
        imagenet_c(tmp_path / "none")


# --- names --------------------------------------------------------------------------------------

def test_kinds_and_their_errors(tmp_path):
    assert set(KINDS) == {
        "cifar10", "cifar100", "cifar10_c", "cifar100_c", "imagenet", "imagenet_r", "imagenet_a",
        "imagenet_v2", "imagenet_sketch", "imagenet_c", "tiny_imagenet_c", "folder", "lists"
    }
    assert all(f"| `{name}` |" in (data_root() / "DATASETS.md").read_text() for name in KINDS)
    with pytest.raises(ValueError, match="no kind of image set 'cifar11'; there are: folder, "
                                         "lists, cifar10"):
        load("cifar11:/data")
    with pytest.raises(ValueError, match="kind:path with one of the kinds folder, lists"):
        load("cifar10")
    for name in KINDS:
        with pytest.raises(ValueError, match=f"{name}: a path is missing"):
            load(f"{name}:")
        with pytest.raises(DataError, match="is not there"):
            load(f"{name}:{tmp_path / 'gone'}")
        with pytest.raises(ValueError, match=f"{name} has no option 'colour'; it has: "):
            load(f"{name}:{tmp_path}?colour=1")


@pytest.mark.parametrize("build", [
    lambda r: image_folder(r), lambda r: wrap(Items([(pixels(0), 0)])),
    lambda r: load("digits").take(slice(0, 3))
])
def test_every_set_answers_the_same_questions(pets, build):
    data = build(pets)
    assert isinstance(data, BaseSet) and isinstance(data.name, str) and isinstance(
        data.classes, tuple) and data.y.dtype == torch.int64
    x = data.images([0], "cpu", "none", 5.0)
    assert x.dtype == torch.float32 and x.shape == (1, *data.shape) and 0 <= x.min() <= x.max() <= 1
    assert data.rows("none") is None and len(
        data.fingerprint()) == 64 and data.check() == len(data) and data.check_domain() is None
    with pytest.raises(ValueError, match="holds no images of 'fog'"):
        data.check_domain("fog")
