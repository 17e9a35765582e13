"""Embedded files: sums, sizes, damage, and what is in them."""
import gzip
import hashlib
import json
import shutil
import struct

import numpy as np
import pytest
import torch

from tta_lab.data.embedded import DIGIT_CLASSES, EMBEDDED, FASHION_CLASSES, NEAR_UNKNOWN, read_idx
from tta_lab.data.image_set import ImageSet
from tta_lab.data.load import load
from tta_lab.data.shipped import DataError, checked_bytes, data_root

MB = 1_000_000
INDEX = json.loads((data_root() / "index.json").read_text())
IMAGES = [name for name in INDEX if name.startswith(("fashion-mnist/", "digits/"))]
MODELS = [name for name in INDEX if name.startswith("checkpoints/")]


@pytest.mark.parametrize("name", INDEX)
def test_every_file_has_its_recorded_sum_and_size(name):
    content = (data_root() / name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == INDEX[name]["sha256"]
    assert len(content) == INDEX[name]["bytes"]
    assert checked_bytes(name) == content


def test_index_and_folder_agree():
    found = {p.relative_to(data_root()).as_posix() for p in data_root().rglob("*")
             if p.suffix in (".gz", ".xz", ".safetensors") or p.parent.name == "ccc"}
    assert found == set(INDEX)


def test_the_page_states_the_sums_of_the_index():
    page = (data_root() / "DATASETS.md").read_text()
    rows = {
        line.split("|")[1].strip(" `"): [cell.strip(" `") for cell in line.split("|")[2:-1]]
        for line in page.splitlines() if line.startswith("| `") and "/" in line.split("|")[1]
    }
    assert set(rows) == set(IMAGES)
    for name, cells in rows.items():
        facts = INDEX[name]
        assert cells[1:] == [
            facts["licence"],
            str(facts["bytes"]), facts["sha256"], facts["rebuild"]
        ]
    for name in MODELS:
        row = next(line for line in page.splitlines()
                   if line.startswith(f"| `{name.split('/')[1].removesuffix('.safetensors')}`"))
        assert f"`{INDEX[name]['rebuild']}`" in row
    for name in set(INDEX) - {*IMAGES, *MODELS}:
        line = next(line for line in page.splitlines() if f"`{name}`" in line)
        assert f"`{INDEX[name]['rebuild']}`" in line
    for words in ("Zalando SE", "MIT License", "Alpaydin", "Kaynak", "CC BY 4.0", "10.24432/C50P49",
                  "1708.07747"):
        assert words in page
    for name in EMBEDDED:
        assert f"| `{name}` |" in page


def test_sizes_stay_small():
    assert sum(INDEX[name]["bytes"] for name in IMAGES) < 7.5 * MB
    assert sum(INDEX[name]["bytes"] for name in INDEX if name not in IMAGES) < 4 * MB
    assert sum(p.stat().st_size for p in data_root().rglob("*")
               if p.is_file() and "__pycache__" not in p.parts) < 14 * MB


@pytest.mark.parametrize("part, published",
                         [("images-idx3-ubyte", "bef4ecab320f06d8554ea6380940ec79"),
                          ("labels-idx1-ubyte", "bb300cfdad3c16e7a12a480ee83cd310")])
def test_test_files_are_the_published_ones(part, published):
    """With file name and time back in the gzip header, the sum is the one on the project page."""
    stripped = checked_bytes(f"fashion-mnist/t10k-{part}.gz")
    original = (stripped[:3] + b"\x08" + struct.pack("<I", 1504176627) + stripped[8:10] +
                f"t10k-{part}".encode() + b"\0" + stripped[10:])
    assert hashlib.md5(original).hexdigest() == published
    assert gzip.decompress(original) == gzip.decompress(stripped)


def test_test_set():
    data = load("fashion_mnist")
    assert data.x.shape == (10000, 1, 28, 28) and data.classes == FASHION_CLASSES
    assert data.y.bincount().tolist() == [1000] * 10
    # ankle boot, pullover, trouser, trouser, shirt
    assert data.y[:5].tolist() == [9, 2, 1, 1, 6]
    x = data.images(slice(0, 4))
    assert x.dtype == torch.float32 and x.min() == 0 and x.max() == 1


def test_slice_is_balanced_and_apart_from_the_test_set():
    part = load("fashion_mnist_train_slice")
    test = load("fashion_mnist")
    assert part.y.bincount().tolist() == [500] * 10
    rows = {x.numpy().tobytes() for x in part.x}
    assert len(rows) == 5000
    # the original sets share a few doublets at most
    assert sum(x.numpy().tobytes() in rows for x in test.x) <= 5


def test_digits_are_the_enlarged_originals():
    digits = load("digits")
    assert len(digits) == 1797 and digits.classes == DIGIT_CLASSES
    assert digits.y.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert digits.x.shape[1:] == (1, 28, 28)
    originals = pytest.importorskip("sklearn.datasets").load_digits()
    assert digits.y.tolist() == originals.target.tolist()
    enlarged = torch.nn.functional.interpolate(
        torch.from_numpy(originals.images)[:, None] / 16 * 255, (28, 28), mode="bilinear")
    assert (digits.x - enlarged).abs().max() <= 0.5 + 1e-9


def test_near_unknowns():
    known = load("fashion_mnist_8")
    unknown = load("fashion_mnist_held_out")
    everything = load("fashion_mnist")
    assert NEAR_UNKNOWN == (4, 7) and unknown.classes == ("Coat", "Sneaker")
    assert len(known) == 8000 and len(unknown) == 2000
    assert known.classes == tuple(c for c in FASHION_CLASSES if c not in ("Coat", "Sneaker"))
    held = torch.isin(everything.y, torch.tensor([4, 7]))
    assert torch.equal(known.x, everything.x[~held]) and torch.equal(unknown.x, everything.x[held])
    assert [known.classes[k]
            for k in known.y[:50]] == [FASHION_CLASSES[k] for k in everything.y[~held][:50]]
    assert load("fashion_mnist_train_slice_8").y.bincount().tolist() == [500] * 8
    assert load("fashion_mnist_train_slice_held_out").y.bincount().tolist() == [500] * 2


def test_subsets_by_name():
    subset = load("fashion_mnist[9,0]")
    assert subset.classes == ("Ankle boot", "T-shirt/top") and subset.name == "fashion_mnist[9,0]"
    same = load("fashion_mnist").only([9, 0])
    assert torch.equal(subset.x, same.x) and torch.equal(subset.y, same.y)
    assert subset.y[0] == 0                             # the first test image is an ankle boot
    assert load("fashion_mnist[9,0][1]").classes == ("T-shirt/top",)
    for wrong, words in (([10], "classes 0 to 9"), ([1,
                                                     1], "each once"), ([], "at least one class")):
        with pytest.raises(ValueError, match=words):
            load("fashion_mnist").only(wrong)
    with pytest.raises(ValueError, match="no embedded image set 'fashion'; there are: "
                                         "fashion_mnist"):
        load("fashion")


@pytest.fixture
def copy(tmp_path):
    """A data folder of its own with the index and the test labels."""
    for name in ("index.json", "fashion-mnist/t10k-labels-idx1-ubyte.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(data_root() / name, tmp_path / name)
    return tmp_path


LABELS = "fashion-mnist/t10k-labels-idx1-ubyte.gz"


@pytest.mark.parametrize("where", [0, 100, -1])
def test_damage_is_noticed_and_the_remedy_named(copy, where):
    content = bytearray((copy / LABELS).read_bytes())
    content[where] ^= 1
    (copy / LABELS).write_bytes(content)
    with pytest.raises(DataError, match=f"{LABELS} is damaged.*git checkout -- "
                                        f"data/{LABELS}.*python data/build.py"):
        checked_bytes(LABELS, copy)


def test_truncated_missing_and_unknown_files(copy):
    assert len(checked_bytes(LABELS, copy)) == INDEX[LABELS]["bytes"]
    (copy / LABELS).write_bytes((copy / LABELS).read_bytes()[:-10])
    with pytest.raises(DataError, match=rf"damaged \({INDEX[LABELS]['bytes'] - 10} bytes"):
        checked_bytes(LABELS, copy)
    (copy / LABELS).unlink()
    with pytest.raises(DataError, match="is missing; restore it with: git checkout"):
        checked_bytes(LABELS, copy)
    with pytest.raises(DataError, match="no entry for 'other.gz'; it knows: .*digits"):
        checked_bytes("other.gz", copy)
    (copy / "index.json").write_text("{")
    with pytest.raises(DataError, match="index.json cannot be read"):
        checked_bytes(LABELS, copy)


def test_data_folder_of_the_environment(copy, monkeypatch):
    monkeypatch.setenv("TTA_LAB_DATA", str(copy))
    assert data_root() == copy
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte.gz is missing"):
        load("fashion_mnist")


def test_idx_format():
    values = np.arange(24, dtype=np.uint8)
    raw = b"\x00\x00\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (2, 3, 4)) + values.tobytes()
    for content in (raw, gzip.compress(raw)):
        assert (read_idx(content) == values.reshape(2, 3, 4)).all()
    with pytest.raises(DataError, match=r"here is truncated: 23 values for the shape "
                                        r"\(.*2.*3.*4.*\)"):
        read_idx(raw[:-1], "here")
    with pytest.raises(DataError, match="not a complete gzip file"):
        read_idx(gzip.compress(raw)[:-12])
    garbled = bytearray(gzip.compress(raw))
    garbled[12:16] = b"\xff" * 4
    with pytest.raises(DataError, match="not a complete gzip file"):
        read_idx(bytes(garbled))
    for wrong in (b"hello world", b"", b"\x00\x00\x0d\x01" + bytes(8)):
        with pytest.raises(DataError, match="not an IDX file"):
            read_idx(wrong)


def test_idx_header_cut_short():
    """The header announces three sizes, but the file ends after the first."""
    with pytest.raises(DataError, match="truncated"):
        read_idx(b"\x00\x00\x08\x03" + (2).to_bytes(4, "big"), "here")


def test_image_set_refuses_what_does_not_fit():
    x = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
    y = torch.tensor([0, 1, 1])
    assert repr(ImageSet("toy", x, y,
                         ("a", "b"))) == "ImageSet('toy', 3 images of 1x4x4, 2 classes)"
    for bad, words in (((x.float(), y), "uint8"), ((x[:, 0], y), "uint8"), ((x, y[:2]), "3 images "
                                                                            "but labels of shape"),
                       ((x, y + 1), "labels run from 1 to 2, but there are 2 classes"),
                       ((x, y - 2), "labels run from -2")):
        with pytest.raises(DataError, match=words):
            ImageSet("toy", *bad, ("a", "b"))


def test_plain_set_answers_as_every_set():
    x = torch.arange(48, dtype=torch.uint8).view(3, 1, 4, 4)
    y = torch.tensor([0, -1, 1])
    data = ImageSet("toy", x, y, ("a", "b"))
    assert data.shape == (1, 4, 4) and data.domains == () and data.rows("none") is None
    assert torch.equal(data.images([2, 0], "cpu", "none", 3.0), x[[2, 0]] / 255)
    with pytest.raises(ValueError, match="toy holds no images of 'fog'"):
        data.images([0], domain="fog")
    assert data.only([1, 0]).y.tolist() == [1, 0]       # rows without a label belong to no class


def test_fingerprint_changes_with_pixels_labels_and_names():
    x = torch.arange(48, dtype=torch.uint8).view(3, 1, 4, 4)
    y = torch.tensor([0, 1, 1])
    by_hand = hashlib.sha256(
        repr(((3, 1, 4, 4),
              ("a", "b"))).encode() + bytes(range(48)) + struct.pack("<3q", 0, 1, 1)).hexdigest()
    data = ImageSet("toy", x, y, ("a", "b"))
    assert data.fingerprint() == data.fingerprint() == by_hand
    # the name is not content
    assert ImageSet("other", x, y, ("a", "b")).fingerprint() == by_hand
    others = [
        ImageSet("toy", x + 1, y, ("a", "b")),
        ImageSet("toy", x, 1 - y, ("a", "b")),
        ImageSet("toy", x, y, ("a", "c")),
        ImageSet("toy", x.view(3, 1, 2, 8), y, ("a", "b")),
        data.take([0, 1])
    ]
    assert len({by_hand, *(other.fingerprint() for other in others)}) == 6
