"""Running a published cell: the preset is run as stated, the verdict follows the numbers, and
other data are no comparison."""
import pytest
import torch

from tta_lab.data.corruptions import STANDARD_15
from tta_lab.data.image_set import ImageSet
from tta_lab.data.shipped import DataError
from tta_lab.experiments import reproduce


class Files(ImageSet):
    """Ten thousand tiny images that claim to be CIFAR-10-C: the first pixel holds the class, or
    another one in ``wrong`` of the rows."""

    domains = STANDARD_15

    def check_domain(self, domain="none", severity=5.0):
        assert severity == 5

    def rows(self, domain="none"):
        return None

    def images(self, index=slice(None), device="cpu", domain="none", severity=5.0):
        return self.x[index].to(device).float() / 255


def files(n=10_000, wrong=0.435):
    y = torch.arange(n) % 10
    shown = torch.where(torch.arange(n) < wrong * n, (y + 1) % 10, y)
    x = (shown * 25).to(torch.uint8)[:, None, None, None].expand(n, 3, 1, 1).contiguous()
    return Files("cifar10_c:here", x, y, tuple(map(str, range(10))))


class Reads(torch.nn.Module):
    """Predicts what the first pixel says."""

    def __init__(self):
        super().__init__()
        self.level = torch.nn.Parameter(torch.arange(10) * 25 / 255)

    def forward(self, x):
        return -(x[:, 0, 0, 0][:, None] - self.level).abs()


@pytest.fixture
def folder(tmp_path):
    for name in [f"data/CIFAR-10-C/{n}.npy"
                 for n in (*STANDARD_15, "labels")] + ["models/cifar10/corruptions/Standard.pt"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


CELL = ("cifar10_c", "Standard", "continual", "Source")


@pytest.mark.parametrize(("wrong", "verdict"), [(0.435, "reproduced"), (0.45, "not reproduced")])
def test_the_verdict_follows_the_numbers(folder, monkeypatch, wrong, verdict):
    monkeypatch.setattr(reproduce, "load", lambda name: files(wrong=wrong))
    found, = reproduce.reproduce(*CELL, folder, network=Reads(), progress=False, device="cpu")
    assert found["theirs"] == 43.5 and found["ours"] == pytest.approx(
        100 * wrong, abs=0.01) and found["cell"] == verdict
    assert found["table"] == "benchmark_continual" and len(
        found["stream_hash"]) == 12 and found["settings"].startswith("Source")


def test_other_data_are_no_comparison(folder, monkeypatch):
    monkeypatch.setattr(reproduce, "load", lambda name: files(n=500))
    with pytest.raises(ValueError, match="samples is 10000 there, 500 here"):
        reproduce.reproduce(*CELL, folder, network=Reads(), progress=False, device="cpu")


def test_what_is_missing_is_named(folder, monkeypatch):
    (folder / "data/CIFAR-10-C/fog.npy").unlink()
    with pytest.raises(FileNotFoundError, match="fog.npy is missing"):
        reproduce.reproduce(*CELL, folder)
    with pytest.raises(ValueError, match="no loader for the model 'resnet26_gn'; there are: "
                                         "Standard"):
        reproduce.load_published("resnet26_gn", folder)
    with pytest.raises(DataError, match="Standard.pt"):
        reproduce.load_published("Standard", folder)


def test_a_list_of_images_is_taken(tmp_path):
    class Source:
        names = [f"n01/img_{i}.JPEG" for i in range(6)]

    images = files(n=6)
    images.__dict__["source"] = Source
    (tmp_path / "list.txt").write_text("n01/img_4.JPEG\nimg_1.JPEG\n\n")
    assert torch.equal(reproduce.listed(images, tmp_path / "list.txt").y, torch.tensor([1, 4]))
    (tmp_path / "list.txt").write_text("n01/img_9.JPEG\n")
    with pytest.raises(DataError, match="names 1 images, 0 of them"):
        reproduce.listed(images, tmp_path / "list.txt")
