"""Bring your own: texts open models and images, mistakes get a sentence, the doctor looks, and labels change no number that needs none."""
import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import nn

from tta_lab import check_up, load, load_model, make
from tta_lab.data.shipped import DataError
from tta_lab.experiments.experiment import Experiment, explore, incompatibilities
from tta_lab.models import checkpoint_files as M_wrapping_checkpoint_files
from tta_lab.models import names as M
from tta_lab.streams.protocols import recorded
from tta_lab.studies.your_model import study as S

Image = pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    folder = tmp_path_factory.mktemp("example")
    return folder, S.open_case(folder=folder, n=120)


def file_of(folder, name, content):
    (folder / name).write_text(content)
    return folder / name


# --- models as texts

def test_the_example_is_the_embedded_network_under_other_names_and_reads_its_pictures_back(example):
    folder, case = example
    own, data = load_model("fashion_resnet_bn"), load(case.images)
    x = data.images()
    assert torch.equal(case.network(x), own(x)) and x.shape == (120, 1, 28, 28) and case.labelled
    assert case.network.info["read"] == "Its last layer, classifier, is taken as the head."
    assert torch.equal(case.network.head(case.network.features(x)), own(x))
    names = [p.name for p in sorted((folder / "photos").rglob("*.png"), key=lambda p: p.name)]
    assert names == [f"{i:05d}.png" for i in range(120)]
    assert (data.y.bincount(minlength=10) == 12).all()
    keys = M_wrapping_checkpoint_files.read_state_dict(folder / "my_weights.safetensors").keys()
    assert "stem.0.weight" in keys and "classifier.bias" in keys            # module. was dropped
    first, again = M.open_model(case.model), M.open_model(case.model)
    first.net.head.bias.data.zero_()                                        # each caller has a network of its own
    assert again.net.head.bias.any()
    assert torch.equal(M.open_model(case.model).net.head.bias, again.net.head.bias)
    assert "173,554 weights, 7 BatchNorm layers" in " ".join(S.say_model(case.network))


def test_networks_are_read_from_names_and_shapes(tmp_path):
    from torchvision import models as zoo
    embedded = load_model("fashion8_resnet_bn")
    torch.save({"state_dict": {f"module.{k}": v for k, v in embedded.net.state_dict().items()}}, tmp_path / "e.pt")
    model = M.open_model(f"checkpoint:{tmp_path}/e.pt?mean={embedded.card.mean[0]}&std={embedded.card.std[0]}&size=28")
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(x), embedded(x))
    assert "those of embedded:resnet_bn" in model.info["read"] and M.outputs_of(model) == 8
    torch.save(zoo.resnet18(num_classes=7).state_dict(), tmp_path / "r.pt")
    model = M.open_model(f"checkpoint:{tmp_path}/r.pt")
    assert model.info["architecture"] == "resnet18" and M.outputs_of(model) == 7
    assert model.card.size == (224, 224)
    torch.save({"a.weight": torch.zeros(2, 2)}, tmp_path / "x.pt")
    with pytest.raises(DataError, match="fits no network that is known here: its 1 entries start with a.weight; name the network"):
        M.open_model(f"checkpoint:{tmp_path}/x.pt")


OWN = """
from torch import nn
class Inner(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 2, 3), nn.Linear(2, classes)
    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))
class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Inner()
    def forward(self, x):
        return self.backbone(x)
def four():
    return Inner(4)
def argument(size):
    return Inner()
def number():
    return 3
def broken():
    return 1 / 0
def rescaled():
    class Rescaled(Inner):
        def forward(self, x):
            return 2 * super().forward(x)
    return Rescaled()
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    file_of(folder, "net.py", OWN)
    made = M.built(f"{folder}/net.py:Inner")
    torch.save(made.state_dict(), folder / "inner.pt")
    torch.save({f"lit.backbone.{k}": v for k, v in made.state_dict().items()} | {"loss.weight": torch.ones(3)}, folder / "outer.pt")
    return folder, made


def test_prefixes_are_put_right_and_said(own):
    folder, made = own
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    added = M.open_model(f"checkpoint:{folder}/inner.pt?architecture={folder}/net.py:Outer&size=8")
    assert torch.equal(added(x), made(x))
    assert "prefix 'backbone.' was put before" in added.info["read"]
    for name, prefix in (("Inner", "lit.backbone."), ("Outer", "lit.")):
        dropped = M.open_model(f"checkpoint:{folder}/outer.pt?architecture={folder}/net.py:{name}&size=8")
        assert torch.equal(dropped(x), made(x))
        assert f"'{prefix}' of the names was dropped; left out: loss.weight" in dropped.info["read"]
    rescaled = M.open_model(f"checkpoint:{folder}/inner.pt?architecture={folder}/net.py:rescaled&size=8")
    assert torch.equal(rescaled(x), 2 * made(x)) and not hasattr(rescaled.net, "head")   # cutting would have changed the answers


def test_the_card_follows_the_options_and_what_is_wrong_is_said(own):
    folder, made = own
    base = f"checkpoint:{folder}/inner.pt?architecture={folder}/net.py:Inner"
    model = M.open_model(f"{base}&mean=0.5&std=0.25&size=8x10&outputs=2,0&classes=cat,dog")
    assert (model.card.mean, model.card.std, model.card.size, model.card.channels) == ((0.5,), (0.25,), (8, 10), 1)
    x = torch.rand(2, 1, 8, 10, generator=torch.Generator().manual_seed(2))
    assert torch.equal(model(x), made((x - 0.5) / 0.25)[:, [2, 0]])
    assert model.info["classes"] == ["cat", "dog"] and model.info["from"].startswith(base)
    for more, said in (("mean=a", "mean must be one number"), ("std=1,2", "std has 2 numbers, the model takes images of 1 channel"),
                       ("size=x", "size must be"), ("channels=2", "channels must be 1"), ("outputs=9", "outputs run from 0 to 2"),
                       ("outputs=a", "outputs must be numbers"),
                       ("classes=a,b", "2 class names .a, b, .... for a model with 3 outputs; name all of them"),
                       ("x=1", "has no option 'x'"),
                       ("normalisation=x", "normalisation must be")):
        with pytest.raises(ValueError, match=said):
            M.open_model(f"{base}&{more}")


@pytest.mark.parametrize("text, said", [
    ("", "no model is named"), ("resnet18", "names no model; write one of"), ("/nowhere/x.pt", "there is no such file"),
    ("checkpoint:/nowhere/x.pt", "there is no checkpoint file /nowhere/x.pt; check the path"), ("torchvision:resnt", "torchvision has no classifier"),
    ("torchvision:resnet18?weights=/nowhere/w.pt", "there is no such file"), ("torchvision:", "a name or a path is missing"),
    ("checkpoint:{f}/inner.pt?architecture={f}/net.py:four", 
     "Only the last layer differs: the file was trained for 3 classes, the network is built for 4"),
    ("checkpoint:{f}/inner.pt?architecture=torchvision:resnet18", "of another shape|missing: conv1.weight"),
    ("checkpoint:{f}/inner.pt?architecture=x", "is no network; write embedded:NAME"),
    ("checkpoint:{f}/inner.pt?architecture={f}/no.py:x", "no Python file"),
    ("checkpoint:{f}/inner.pt?architecture={f}/net.py:x", "no function or class 'x'; it has: Inner, Outer"),
    ("checkpoint:{f}/inner.pt?architecture={f}/net.py:argument", "give it defaults, or write a function without arguments"),
    ("checkpoint:{f}/inner.pt?architecture={f}/net.py:number", "returned int, not a network"),
    ("checkpoint:{f}/inner.pt?architecture={f}/net.py:broken", "broken.. failed with ZeroDivisionError"),
    ("python:{f}/net.py", "does not name a function"), ("checkpoint:{f}/net.py?architecture=embedded:resnet_bn", "cannot be read")])
def test_what_is_named_wrongly_gets_a_sentence_with_the_culprit(own, text, said):
    with pytest.raises((ValueError, DataError), match=said):
        M.open_model(text.replace("{f}", str(own[0])))


def test_keys_that_do_not_fit_are_named_and_the_network_they_are_of(own, tmp_path):
    torch.save(load_model("fashion_resnet_gn").net.state_dict(), tmp_path / "gn.pt")
    with pytest.raises(DataError, match=r"missing: conv\.bias, conv\.weight|missing: conv\.weight, conv\.bias") as told:
        M.open_model(f"checkpoint:{tmp_path}/gn.pt?architecture={own[0]}/net.py:Inner")
    assert "unexpected: features.0.weight" in str(told.value)
    assert "those of embedded:resnet_gn: choose that" in str(told.value)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path, own):
    import pickle
    for content in (pickle.dumps(Path("/"), protocol=2), b""):
        (tmp_path / "evil.pt").write_bytes(content)
        with pytest.raises(DataError, match="evil.pt"):
            M.open_model(f"checkpoint:{tmp_path}/evil.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(DataError, match="save the weights alone"):
        M.open_model(f"checkpoint:{tmp_path}/whole.pt")


def test_torchvision_without_a_network_connection_names_the_remedy_and_random_weights_are_the_same_each_time(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda *a, **k: (_ for _ in ()).throw(URLError("no network")))
    with pytest.raises(DataError, match="could not be downloaded.*weights=PATH; weights=none gives random weights"):
        M.open_model("torchvision:resnet18")
    before = torch.random.get_rng_state()
    first = M.open_model("torchvision:resnet18?weights=none&outputs=0,1")
    M._OPENED.clear()
    again = M.open_model("torchvision:resnet18?weights=none&outputs=0,1")
    assert first is not again
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert torch.equal(before, torch.random.get_rng_state()) and M.outputs_of(again) == 2


def test_a_file_that_was_changed_is_read_again(own, tmp_path):
    folder, made = own
    torch.save(made.state_dict(), tmp_path / "w.pt")
    text = f"checkpoint:{tmp_path}/w.pt?architecture={folder}/net.py:Inner"
    first = M.open_model(text)
    torch.save({k: v + 1 for k, v in made.state_dict().items()} | {"extra": torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(DataError, match="unexpected: extra"):
        M.open_model(text)
    torch.save({k: v + 1 for k, v in made.state_dict().items()}, tmp_path / "w.pt")
    import os
    os.utime(tmp_path / "w.pt", (1, 1))
    assert torch.equal(M.open_model(text).net.head.bias, first.net.head.bias + 1)


# --- images

def test_labels_can_be_left_out_and_nothing_else_changes(example):
    _, case = example
    known, free = load(case.images), load(case.unlabelled)
    assert torch.equal(known.images(), free.images()) and known.classes == free.classes
    assert (free.y == -1).all() and (known.y >= 0).all()
    assert known.classes == tuple(S.folder_name(name) for name in load_model("fashion_resnet_bn").info["classes"])
    again = S.open_case(case.model, case.images, folder=case.folder)
    assert (again.images, again.unlabelled) == (case.images, case.unlabelled)
    flat = S.open_case(case.model, case.images, labelled=False, folder=case.folder)
    assert flat.images == flat.unlabelled == case.unlabelled and not flat.labelled


def picture(path, size=(28, 28), value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)


def test_classes_of_a_folder_follow_the_model_or_the_text_order_or_are_refused(example, tmp_path):
    model = example[1].network
    for name in ("Sandal", "Bag"):
        picture(tmp_path / "some" / name / "1.png")
    text, notes = S.images_text(str(tmp_path / "some"), model)
    assert load(text).y.tolist() == [8, 5] and "8 classes have no folder" in notes[0]         # Bag, Sandal in text order of files
    for k in range(10):
        picture(tmp_path / "ten" / f"class {k}" / "1.png")
    text, notes = S.images_text(str(tmp_path / "ten"), model)
    assert load(text).y.tolist() == list(range(10)) and "ImageFolder" in notes[0]
    picture(tmp_path / "eleven" / "x" / "1.png")
    with pytest.raises(ValueError, match="no kind of image set 'foldr'.*did you mean 'folder'"):
        S.images_text(f"foldr:{tmp_path}", model)
    with pytest.raises(DataError, match="has 1 class folders .x, ....*, but the model answers in 10 classes .T-shirt-top.*keep only some outputs"):
        S.images_text(str(tmp_path / "eleven"), model)
    picture(tmp_path / "flat" / "1.png", (40, 30))
    case = S.open_case(example[1].model, str(tmp_path / "flat"), folder=tmp_path)
    assert not case.labelled and "no sub-folders" in case.notes[-1]
    assert load(case.images).images().shape == (1, 1, 28, 28)


@pytest.mark.parametrize("make_folder, said", [
    (lambda f: f / "gone", "gone is not there; give the path of the folder"), (lambda f: file_of(f, "a.png", "x"), "is a file, not a folder"),
    (lambda f: (f / "empty").mkdir() or f / "empty", "holds no images; readable are .jpg"),
    (lambda f: (f / "docs").mkdir() or file_of(f / "docs", "a.doc", "x").parent, "cannot be read as images: 1 .doc"),
    (lambda f: (f / "bad" / "Bag").mkdir(parents=True) or file_of(f / "bad" / "Bag", "1.png", "no picture").parent.parent,
     "1.png cannot be read as an image"),
    (lambda f: picture(f / "mix" / "Bag" / "1.png") or picture(f / "mix" / "2.png") or f / "mix", "class folders and also images of its own")])
def test_folders_that_cannot_be_used_get_a_sentence(example, tmp_path, make_folder, said):
    with pytest.raises(DataError, match=said):
        load(S.images_text(str(make_folder(tmp_path)), example[1].network)[0])


def test_sets_with_their_own_labels_keep_them(example):
    assert S.images_text("fashion_mnist", example[1].network) == ("fashion_mnist", [])
    with pytest.raises(ValueError, match="fashion_mnist brings its labels"):
        S.images_text("fashion_mnist", example[1].network, labelled=False)
    with pytest.raises(ValueError, match="no images are named"):
        S.images_text(" ", example[1].network)


# --- the doctor, and what is left without batch norm

def test_the_doctor_is_content_with_the_example_and_catches_each_mistake(example):
    _, case = example
    data, report = load(case.images), check_up(case.network, load(case.images), n=120)
    assert report.ok
    assert S.say_report(report)[0].startswith("● The doctor looked at 120 images and found nothing wrong")
    found = {f["fault"]: f for f in S.faults(case.network, data, n=120)}
    assert len(found) == 3 and all(f["caught"] for f in found.values()), {k: f["found"] for k, f in found.items()}
    assert "mean=(0.286,), std=(0.353,)" in S.say_fault(found["a wrong mean and standard deviation"])
    assert "divide by 255" in S.say_fault(found["images in 0 to 255"])
    assert "NOT noticed" in S.say_fault(found["images in 0 to 255"] | {"expected": ("mode",)})
    table = S.report_html(found["images in 0 to 255"]["report"])
    assert "■ error" in table and "divide by 255" in table and "Not looked at" in table
    assert len(S.faults(case.network, load(case.unlabelled), n=60)) == 2            # the order of classes needs labels


def test_reordered_classes_are_the_text_order_or_its_reverse(example):
    data = load(example[1].images)
    other = S.reordered(data)
    assert list(other.classes) == sorted(data.classes)
    assert [other.classes[k] for k in other.y] == [data.classes[k] for k in data.y]
    assert list(S.reordered(other).classes) == sorted(data.classes)[::-1]


def test_without_batch_norm_the_answers_stay_and_fewer_methods_are_left(example):
    _, case = example
    data, plain = load(case.images), S.without_batch_norm(case.network)
    x = data.images(slice(0, 20))
    torch.testing.assert_close(plain(x), case.network(x), atol=1e-4, rtol=1e-4)
    before, after = S.possible(case.network, data), S.possible(plain, data)
    assert before["refused"] == [] and {"tent", "lame"} <= set(before["run"])
    assert "eata" in before["source"]
    assert {"batch_norm", "tent"} <= set(after["refused"]) and "lame" in after["run"]
    assert "BatchNorm" in after["why"]["batch_norm"]
    assert "cannot" in S.say_possible(after)[-1] and len(S.say_possible(before)) == 2
    assert any("batch-norm statistics" in text for text in check_up(plain, data, n=60).unchecked)


# --- runs with and without labels

def test_labels_change_no_number_that_needs_none(example):
    _, case = example
    choice = Experiment(case.model, recorded(case.unlabelled, shifts=("fog", "none"), per_shift=60, batch=20), make("tent", lr=0.01))
    known, free = (S.label_free_of(choice, images, "cpu") for images in (case.images, case.unlabelled))
    rows = S.beside(known, free)
    assert len(rows) == 9 and all(r["same"] for r in rows)
    assert S.say_beside(rows) == "All 9 label-free numbers are the same with labels and without."
    assert S.say_beside(S.beside(known, free | {"falling": -1.0})).endswith("8 of 9 label-free numbers agree; not: falling.")
    found = explore(replace(choice, stream=replace(choice.stream, known=case.images)), device="cpu")
    same = 100 * (found.trace["prediction"] == found.references["source"]["prediction"]).mean()
    assert known["like source"] == same and "error" in found.rows[0]
    assert "error" not in explore(choice, (), device="cpu").rows[0]


@pytest.mark.parametrize("labelled", [True, False])
def test_a_choice_of_texts_is_json_and_its_code_makes_the_same_run(example, labelled):
    _, case = example
    choice = Experiment(case.model, recorded(case.images if labelled else case.unlabelled, shifts=("fog",), per_shift=40, batch=20), seed=3)
    again, printed, space = Experiment.from_json(choice.to_json()), io.StringIO(), {}
    with contextlib.redirect_stdout(printed):
        exec(again.to_code(), space)
    trace = explore(choice, (), device="cpu").trace
    assert (space["trace"]["entropy"] == trace["entropy"]).all() and choice.labelled is labelled
    assert incompatibilities(choice) == []
    assert printed.getvalue().startswith("error " if labelled else "no labels; like the source ")
    assert "nan" not in printed.getvalue()


# --- fields

@pytest.mark.parametrize("text", [
    "fashion_resnet_bn", "embedded:fashion_resnet_bn?size=28", "torchvision:resnet18?weights=none&size=224&outputs=1,2",
    "torchvision:resnet50?weights=DEFAULT",
    "checkpoint:/a b/w.pt?mean=0.5&std=0.5", "checkpoint:/w.pt?architecture=/n.py:Net&classes=a,b", "checkpoint:/w.pt?architecture=cifar:wrn_40_2",
    "checkpoint:/w.pt?architecture=torchvision:resnet18&mean=0.1,0.2,0.3&std=1,1,1&channels=3", "timm:resnet18?weights=none"])
def test_fields_and_texts_say_the_same(text):
    def same(a):
        kind, name, options = M.parse(a)
        return kind, name, {"weights": "DEFAULT", **options} if kind == "torchvision" else options
    assert same(S.text_of(S.fields_of(text))) == same(text)


def test_fields_that_are_empty_are_named():
    for fields, said in (({}, "no file of weights is named"), ({"source": "python", "checkpoint": "x"}, "no Python file is named"),
                         ({"source": "torchvision"}, "no network of torchvision is chosen"),
                         ({"source": "embedded", "name": "fashion_resnet_bn", "mean": "1"}, "both mean and std")):
        with pytest.raises(ValueError, match=said):
            S.text_of(fields)
    random = {"source": "torchvision", "name": "resnet18", "weights": "none", "preset": ((0.5,), (0.25,))}
    assert S.text_of(random).endswith("weights=none&mean=0.5&std=0.25")
    with pytest.raises(ValueError, match="weights in a file of their own"):
        S.fields_of("python:/n.py:Net")
    assert S.first_settings(True, "fog, none", per_shift=30, method="eta", lr=0.0) == {
        "protocol": "recorded", "shifts": ("fog", "none"), "per_shift": 30, "batch": 25, "method": "eta"}
    with pytest.raises(ValueError, match="no shift 'x'"):
        S.first_settings(True, "x")


# --- the panel

@pytest.fixture
def panel(example):
    pytest.importorskip("ipywidgets")
    pytest.importorskip("anywidget")
    pytest.importorskip("plotly")
    from tta_lab.panels.your_model import your_model
    made = your_model(device="cpu", n=60, per_shift=20, batch=10)
    yield made
    assert made.error is None


def test_a_text_without_fields_has_a_sentence_in_place_of_the_panel():
    pytest.importorskip("anywidget")
    from tta_lab.panels.your_model import your_model
    panel = your_model("python:/n.py:Net", "/photos", trust=True)
    assert panel.widget.children == (panel.status,) and panel.error is None
    assert "write checkpoint:WEIGHTS?architecture=/n.py:Net" in panel.message
    assert panel.to_code() == "# Nothing was checked yet."


def check(panel):
    panel.run_button.click()
    assert panel.wait(120)
    return panel.message


def test_wrong_entries_give_sentences_and_right_ones_the_doctor_and_the_explorer(panel, example, tmp_path):
    _, case = example
    c = panel.controls
    assert "no file of weights is named" in check(panel) and panel.explorer is None and panel.to_code() == "# Nothing was checked yet."
    c["checkpoint"].value = "/nowhere/w.pt"
    assert "no folder of images is named" in check(panel)
    c["images"].value = "/nowhere/images"
    assert "there is no checkpoint file /nowhere/w.pt; check the path" in check(panel)
    fields = S.fields_of(case.model)
    c["checkpoint"].value = fields["checkpoint"]
    assert "fits no network that is known here" in check(panel) and panel.incompatibility
    c["source"].value = "python"
    assert c["code"].layout.display is None and c["name"].layout.display == "none"
    c["code"].value = fields["code"]
    assert "/nowhere/images is not there" in check(panel)
    c["images"].value = case.images
    told = check(panel)                                                    # no mean and std, no size, no class names yet
    assert "to put right" in told and "■ error" in panel.table.value
    assert "normalisation" in panel.table.value and panel.explorer is not None
    c["preset"].value = S.PRESETS["Fashion-MNIST mean and std"]
    c["classes"].value, c["size"].value = fields["classes"], "28"
    assert "press Check" in panel.message
    assert check(panel) == "Checked 60 images: nothing wrong. The explorer is below."
    assert panel.report.ok
    assert panel.place.children and panel.explorer.choice.labelled
    panel.explorer.run_button.click()
    assert panel.explorer.wait(120) and "error" in panel.explorer.message
    assert panel.explorer.results["model"][0] == "your my_weights.safetensors"
    with contextlib.redirect_stdout(io.StringIO()):
        exec(panel.to_code(), {})
    assert json.loads(panel.to_parameters().splitlines()[0].partition(": ")[2]) == panel.model_text
    assert Experiment.from_json(panel.explorer.ran.to_json()).stream.hash == panel.explorer.ran.stream.hash


def test_the_panel_without_labels_and_another_number_of_classes(panel, example, tmp_path):
    _, case = example
    panel.put(case.model, case.images, labelled=False)
    assert panel.model_text == case.model and "Checked 60 images" in check(panel)
    e = panel.explorer
    assert e.controls["protocol"].value == "recorded" and e.controls["per_shift"].max == 120
    assert not e.choice.labelled
    e.run_button.click()
    assert e.wait(120) and "no labels: it answers like the source for" in e.message
    assert "error" not in e.results
    assert "not known which classes come when" in e.describe()
    assert "no labels" in e.view.sentence.value
    picture(tmp_path / "one" / "x" / "1.png")
    panel.controls["images"].value, panel.controls["labelled"].value = str(tmp_path / "one"), True
    assert "has 1 class folders" in check(panel) and panel.explorer is None


@pytest.mark.slow
def test_headless_panel_fires_every_callback(example):
    pytest.importorskip("plotly")
    from tta_lab.panels.your_model import your_model
    _, case = example
    panel = your_model(case.model, case.images, interactive=False, device="cpu", n=60, **S.first_settings(True, "fog", per_shift=40))
    assert panel.error is None and panel.model_text == case.model
    assert panel.explorer.session.finished
    assert panel.explorer.choice.stream.hash == recorded(load(case.images), shifts=("fog",), per_shift=40, batch=25).hash
