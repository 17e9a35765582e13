"""Wrong arguments of models, doctor, safety report, choices, guard and selection: a sentence that
names the argument, before anything runs."""
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tta_lab import (
    Adapter,
    Experiment,
    check_up,
    continual,
    guarded,
    load,
    load_model,
    make,
    run,
    safety_report,
    with_classes,
    with_input_card,
)
from tta_lab.analysis.collapse import collapse, detect
from tta_lab.analysis.model_selection import ordered, rank, reference, regret, scores, threshold
from tta_lab.components.controllers.collapse_detector import CollapseDetector
from tta_lab.core.knobs import knobs
from tta_lab.core.source_model import InputCard, SourceModel
from tta_lab.core.trace import Trace
from tta_lab.data.image_set import ImageSet
from tta_lab.data.shipped import DataError
from tta_lab.experiments.compose import decompose, differences
from tta_lab.experiments.experiment import Session, explore, incompatibilities, needs
from tta_lab.models.checkpoint_files import read_state_dict
from tta_lab.models.cifar_networks import load_cifar
from tta_lab.models.libraries import from_timm, from_torchvision
from tta_lab.models.training import accuracy, train
from tta_lab.safety.judging import Rule
from tta_lab.safety.report import paired_numbers

NET = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
FEW = load("fashion_mnist").take(torch.arange(8))
carded = partial(with_input_card, NET, channels=3)
GREY = nn.Sequential(nn.Conv2d(1, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
COLOUR = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]), tuple("abcdefghij")
report = partial(safety_report, "fashion_resnet_bn", "tent", FEW, progress=False)
look = partial(check_up, "fashion_resnet_bn", FEW)

# what is called -> what the message must say; ValueError, of which DataError is none and is named
# beside it
WRONG = {
    "card: no mean": (lambda: InputCard(3, mean=()), "InputCard.mean needs 1 or 3 values, got 0"),
    "card: two means": (lambda: InputCard(3, mean=(0.5, 0.5)), "InputCard.mean needs 1 or 3 "
                        "values, got 2"),
    "card: mean text": (lambda: carded(mean="0.5"), "InputCard.mean must be a number, or one for "
                        "each channel, not '0.5'"),
    "card: mean of texts": (lambda: carded(mean=("0.5", )), r"InputCard.mean\[0\] must be a "
                            r"number, not '0.5'"),
    "card: mean None": (lambda: carded(mean=None), "InputCard.mean must be a number"),
    "card: mean nan": (lambda: carded(mean=float("nan")), "InputCard.mean must be a finite number"),
    "card: std zero": (lambda: carded(std=0), "InputCard.std must be positive"),
    "card: std one zero": (lambda: carded(std=(0.1, 0.0, 0.1)), "InputCard.std must be positive"),
    "card: std true": (lambda: carded(std=True), "InputCard.std must be a number"),
    "card: size text": (lambda: carded(size="64"), "InputCard.size must be one side in "
                        "pixels.*not the text '64'"),
    "card: size of three": (lambda: carded(size=(3, 64, 64)), "InputCard.size must be one side"),
    "card: size half": (lambda: carded(size=64.5), "InputCard.size must be a whole number"),
    "card: size zero": (lambda: carded(size=(0, 4)), r"InputCard.size\[0\] must be a whole number "
                        r"of at least 1"),
    "card: channels": (lambda: with_input_card(NET, channels="3"), "InputCard.channels must be a "
                       "whole number"),
    "card: no channels": (lambda: with_input_card(NET, channels=0), "InputCard.channels must be a "
                          "whole number of at least 1"),
    "card: normalisation": (lambda: carded(normalisation="both"), "normalisation must be "
                            "'in_model' or 'in_data'"),
    "card: net text": (lambda: with_input_card("resnet18"), "net must be a network.*open_model"),
    "card: net path": (lambda: with_input_card(Path("a.pt")), "net must be a network.*open_model"),
    "card: net class": (lambda: with_input_card(nn.Linear), "net must be a network"),
    "card: net carded": (lambda: with_input_card(carded()), "has an input card already"),
    "card: classes": (lambda: carded(size=2, num_classes=4), "num_classes says 4 classes, but the "
                      "network answers in 3; "
                      "models.with_classes"),
    "card: num_classes": (lambda: carded(num_classes="3"), "num_classes must be a whole number"),
    "card: names": (lambda: carded(size=2, classes=("a", "b")), "classes says 2 classes, but the "
                    "network answers in 3"),
    "card: names text": (lambda: carded(classes="abc"), "classes must list the names"),
    "source: card": (lambda: SourceModel(NET, (3, 64, 64)), "card must be an InputCard"),
    "source: info": (lambda: SourceModel(NET, InputCard(), info="mine"), "info must be a dict"),
    "torchvision: path": (lambda: from_torchvision(Path("w.pt")), "model must be a name such as "
                          "'resnet18' or a "
                          "network.*weights=PATH"),
    "torchvision: near": (lambda: from_torchvision("resnet81"), "no classifier 'resnet81'; did "
                          "you mean resnet18"),
    "torchvision: class": (lambda: from_torchvision(nn.Linear), "model must be a name"),
    "torchvision: weights": (lambda: from_torchvision("resnet18", 3), "weights must be a path"),
    "torchvision: size": (lambda: from_torchvision("resnet18", size="224"), "size must be "
                          "'weights'"),
    "torchvision: num_classes": (lambda: from_torchvision("resnet18", num_classes=0),
                                 "num_classes must be a whole number of at least 1"),
    "torchvision: other number": (lambda: from_torchvision(_resnet(), num_classes=4),
                                  "num_classes says 4 classes.*answers in 5; models.with"),
    "torchvision: names": (lambda: from_torchvision(_resnet(), classes=("a", )), "classes says 1 "
                           "classes"),
    "timm: net": (lambda: from_timm(NET), "name must be the name of a timm model.*with_input_card"),
    "timm: pretrained": (lambda: from_timm("resnet18", pretrained="yes"), "pretrained must be "
                         "True or False"),
    "timm: near": (lambda: from_timm("resnet8"), "no model 'resnet8'; did you mean .*resnet18"),
    "timm: num_classes": (lambda: from_timm("resnet18", num_classes=1.5), "num_classes must be a "
                          "whole number"),
    "load_model: near": (lambda: load_model("fashion_resnet"), "no checkpoint "
                         "'fashion_resnet'.*did you mean "
                         "fashion_resnet_"),
    "load_model: path": (lambda: load_model(Path("a.pt")), "name must be the name of an embedded "
                         "model.*checkpoint:PATH"),
    "load_model: other text": (lambda: load_model("timm:resnet18"), "no checkpoint "
                               "'timm:resnet18'.*open_model"),
    "load_model: normalisation": (lambda: load_model("fashion_resnet_bn", "x"), "normalisation "
                                  "must be"),
    "read: number": (lambda: read_state_dict(3), "path must be a path"),
    "cifar: mean": (lambda: load_cifar("x.pt", mean="0.5", std=0.5), "mean must be a number"),
    "cifar: architecture": (lambda: load_cifar("x.pt", 3), "architecture must be a name"),
    "cifar: classes": (lambda: load_cifar("x.pt", classes="abc"), "classes must list the names"),
    "classes: model": (lambda: with_classes(NET, [0]), "needs a model with an input card, not a "
                       "bare Sequential"),
    "classes: text": (lambda: with_classes("fashion_resnet_bn", "0,1"), "classes must be numbers "
                      "of outputs"),
    "classes: kind": (lambda: with_classes("fashion_resnet_bn", [0], kind="groop"), "kind must be "
                      "one of 'outputs', 'groups'"),
    "classes: outputs": (lambda: with_classes("fashion_resnet_bn", [0], outputs=0), "outputs must "
                         "be a whole "
                         "number of at "
                         "least 1"),
    "doctor: model": (lambda: check_up(3, FEW), "model must be a network"),
    "doctor: model path": (lambda: check_up(Path("a.pt"), FEW), "model must be a "
                           "network.*checkpoint:PATH"),
    "doctor: data": (lambda: check_up("fashion_resnet_bn", torch.rand(4, 1, 28, 28)), "data must "
                     "be an image set.*wrap"),
    "doctor: loader": (lambda: check_up("fashion_resnet_bn", torch.utils.data.DataLoader([1])),
                       r"wrap its data set, tta_lab.wrap\(loader.dataset\)"),
    "doctor: stream": (lambda: check_up("fashion_resnet_bn", continual(FEW, ["fog"], per_shift=2)),
                       "take its images, stream.known_set"),
    "doctor: items": (lambda: check_up("fashion_resnet_bn", iter([1])), "collect its items in a "
                      "list and make one of that"),
    "doctor: data path": (lambda: check_up("fashion_resnet_bn", Path("photos")), "data must be an "
                          "image set.*folder:PATH"),
    "doctor: n": (lambda: look(n="12"), "n must be a whole number"),
    "doctor: batch": (lambda: look(batch=0), "batch must be a whole number of at least 1"),
    "doctor: seed": (lambda: look(seed=None), "seed must be a whole number"),
    "doctor: device": (lambda: look(device="gpu"), "device must be 'auto' or a device"),
    "safety: model": (lambda: safety_report(3, "tent", FEW), "model must be a network"),
    "safety: recipe": (lambda: safety_report("fashion_resnet_bn", 3, FEW), "recipe must be a "
                       "method"),
    "safety: needs": (lambda: safety_report("fashion_resnet_bn", "eata", FEW), "Eata needs the "
                      "Fisher.*source_images=, an image set"),
    "safety: a network as recipe": (lambda: safety_report("fashion_resnet_bn", load_model(), FEW),
                                    "or its name, not a SourceModel$"),
    "run: other images": (lambda: run(Adapter(GREY, "source"), ImageSet("tall", *COLOUR)),
                          "cannot take the images of tall, 3 x 8 x 8"),
    "safety: recipe class": (lambda: safety_report("fashion_resnet_bn", type(make("tent")), FEW),
                             "not the class Tent itself"),
    "safety: recipe name": (lambda: safety_report("fashion_resnet_bn", "tnt", FEW), "no method "
                            "'tnt'"),
    "safety: images": (lambda: safety_report("fashion_resnet_bn", "tent", Path("photos")),
                       "images must be an image set.*folder:PATH"),
    "safety: tensor": (lambda: safety_report("fashion_resnet_bn", "tent", torch.rand(4, 1, 28, 28)),
                       r"images must be an image set.*\(x, None\)"),
    "safety: loader":
        (lambda: safety_report("fashion_resnet_bn", "tent", torch.utils.data.DataLoader([1])),
         "loader.dataset"),
    "safety: unknown": (lambda: report(unknown=3), "unknown must be an image set"),
    "safety: limit": (lambda: report(limit=0), "limit must be a whole number of at least 1"),
    "safety: batch": (lambda: report(batch=2.5), "batch must be a whole number"),
    "safety: singles": (lambda: report(singles=-1), "singles must be a whole number of at least 1"),
    "safety: situation": (lambda: report(situations=["singel"]), "no situation 'singel'; did you "
                          "mean 'single'"),
    "safety: situations": (lambda: report(situations="single"), "situations must list names"),
    "safety: none": (lambda: report(situations=[]), "no situation named"),
    "safety: shifts": (lambda: report(shifts="fog"), "shifts must list texts"),
    "safety: shift": (lambda: report(shifts=("fogg", )), "fogg"),
    "safety: rule": (lambda: report(rule=0.5), "rule must be a Rule"),
    "safety: source_info": (lambda: report(source_info=FEW), "source_info must be what "
                            "tta_lab.prepare.*source_images="),
    "safety: source": (lambda: report(source_images=3), "source_images must be an image set"),
    "safety: seed": (lambda: report(seed="a"), "seed must be a whole number"),
    "safety: device": (lambda: report(device="gpu"), "device must be 'auto' or a device"),
    "safety: progress": (lambda: report(progress="yes"), "progress must be True or False"),
    "rule: harm": (lambda: Rule(harm="a"), "Rule.harm must be a number"),
    "paired_numbers: trace": (lambda: paired_numbers([], []), "source must be the Trace of a run"),
    "choice: model":
        (lambda: Experiment(3), "Experiment.model must be a text such as 'fashion_resnet_bn'"),
    "choice: model path": (lambda: Experiment(Path("w.pt")), "Experiment.model must be a "
                           "text.*checkpoint:PATH"),
    "choice: stream":
        (lambda: Experiment(stream="continual"), r"Experiment.stream must be a stream.*make "
         r"one with tta_lab.continual\(\)"),
    "choice: images": (lambda: Experiment(stream=FEW), r"Experiment.stream must be a "
                       r"stream.*tta_lab.continual\(images\)"),
    "choice: recipe": (lambda: Experiment(recipe=3), "Experiment.recipe must be a method"),
    "choice: recipe name": (lambda: Experiment(recipe="tnt"), "no method 'tnt'"),
    "choice: seed": (lambda: Experiment(seed=1.5), "Experiment.seed must be a whole number"),
    "choice: source":
        (lambda: Experiment(source_images=3), "Experiment.source_images must be an image set"),
    "choice: json": (lambda: Experiment.from_json("[1]"), "not a choice written by to_json"),
    "choice: json lacks": (lambda: Experiment.from_json("{}"), "it lacks 'stream'"),
    "choice: json more":
        (lambda: Experiment.from_json(Experiment().to_json()[:-1] + ', "modell": 1}'),
         "entries modell, which a choice has not"),
    "explore: choice": (lambda: explore("tent"), "choice must be an Experiment"),
    "explore: references":
        (lambda: explore(Experiment(), references="source"), "references must list "
         "names of methods"),
    "explore: reference":
        (lambda: explore(Experiment(), references=("sorce", )), "no method 'sorce'"),
    "session": (lambda: Session(make("tent")), "choice must be an Experiment"),
    "obstacles": (lambda: incompatibilities(3), "choice must be an Experiment"),
    "needs": (lambda: needs(3), "recipe must be a method"),
    "decompose": (lambda: decompose(3), "recipe must be a method"),
    "differences": (lambda: differences("tent", 3), "b must be a method"),
    "knobs: near": (lambda: knobs("tnet"), "no method 'tnet'; there are: .*did you mean 'tent'"),
    "knobs: number": (lambda: knobs(3), "knobs are those of a recipe"),
    "guard: near": (lambda: guarded("tent", actoin="reset"), "no setting 'actoin'; did you mean "
                    "action"),
    "guard: recipe": (lambda: guarded(3), "recipe must be a method"),
    "guard: detector": (lambda: guarded("tent", detector=3), "detector must be a CollapseDetector"),
    "detect: trace": (lambda: detect([1]), "trace must be the Trace of a run"),
    "detect: detector": (lambda: detect(Trace(), CollapseDetector), "detector must be a "
                        "CollapseDetector"),
    "collapse: trace": (lambda: collapse(Trace(), None), "source_trace must be the Trace of a run"),
    "collapse: window": (lambda: collapse(Trace(), Trace(), window=0), "window must be a whole "
                         "number of at least 1"),
    "collapse: margin": (lambda: collapse(Trace(), Trace(), margin="a"), "margin must be a number"),
    "selection: images": (lambda: reference("fashion_resnet_bn", 3), "images must be an image set"),
    "selection: pair": (lambda: reference("fashion_resnet_bn", (FEW, 1)), r"images must be an "
                        r"image set, or \(x, y\)"),
    "selection: batch": (lambda: reference("fashion_resnet_bn", FEW, batch=0), "batch must be a "
                         "whole number of "
                         "at least 1"),
    "selection: share": (lambda: threshold([1.0], 2), "share must be a number from 0 to 1"),
    "selection: trace": (lambda: scores([1]), "trace must be the Trace of a run"),
    "selection: by": (lambda: rank({}, by="entorpy"), "no score 'entorpy'; there are: .*did you "
                      "mean 'entropy'"),
    "selection: traces": (lambda: rank([Trace()]), "traces must be a dict"),
    "selection: one": (lambda: rank({"a": 3}), r"traces\['a'\] must be the Trace"),
    "selection: good": (lambda: ordered({}, "best"), "good must be 'high' or 'low'"),
    "selection: chosen": (lambda: regret({"a": 1.0}, "b"), "'b' is none of the candidates a"),
    "train: name": (lambda: train("fashion_resnet"), "unknown source model 'fashion_resnet'; did "
                    "you mean fashion_"),
    "train: epochs": (lambda: train("fashion_resnet_bn", epochs=0), "epochs must be a whole "
                      "number of at least 1"),
    "train: progress": (lambda: train("fashion_resnet_bn", progress=1), "progress must be True or "
                        "False"),
    "accuracy": (lambda: accuracy("fashion_resnet_bn", 3), "data must be an image set"),
}


def _resnet():
    import torchvision

    return torchvision.models.resnet18(num_classes=5)


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_argument_is_named_in_a_sentence(case, capsys):
    call, said = WRONG[case]
    with pytest.raises((ValueError, DataError), match=said) as why:
        call()
    # one sentence, and nothing has run
    assert "\n" not in str(why.value) and capsys.readouterr() == ("", "")


def test_numbers_of_numpy_and_sides_and_single_numbers_make_cards():
    card = carded(size=64, mean=0.286, std=np.float32(0.5)).card
    assert card == InputCard(3, (64, 64), (0.286,),
                             (0.5,)) and card.size == (64, 64) and type(card.mean[0]) is float
    assert InputCard(np.int64(1), np.array([28, 30]), torch.tensor(0.5),
                     np.array([0.25])) == InputCard(1, (28, 30), (0.5,), (0.25,))
    assert carded(mean=[0.1, 0.2, 0.3], std=torch.tensor([1.0, 2.0,
                                                          3.0])).card.std == (1.0, 2.0, 3.0)


def test_texts_name_models_methods_and_images_everywhere(capsys):
    assert [k.name for k in knobs("eata")] == [k.name for k in knobs(make("eata"))]
    assert guarded("tent", action="reset") == guarded(make("tent"), action="reset")
    assert Experiment(recipe="tent") == Experiment() and needs("eata") == needs(
        make("eata")) and differences("tent", "eata")
    assert str(check_up("fashion_resnet_bn", "fashion_mnist",
                        n=100)) == str(check_up(load_model(), load("fashion_mnist"), n=100))
    assert with_classes("fashion_resnet_bn", [1, 2]).info["classes"] == ["Trouser", "Pullover"]
    assert reference("fashion_resnet_bn", "fashion_mnist",
                     limit=50) == reference(load_model(), load("fashion_mnist"), limit=50)
    found = [
        safety_report(m, r, i, limit=40, singles=5, situations=["shuffled"], progress=False,
                      source_images=s).to_dict()
        for m, r, i, s in (("fashion_resnet_bn", "eata", "fashion_mnist",
                            "fashion_mnist_train_slice"), (load_model(), make("eata"),
                                                           load("fashion_mnist"),
                                                           load("fashion_mnist_train_slice")))
    ]
    for one in found:
        one["facts"] = {k: v for k, v in one["facts"].items() if "seconds" not in k}
        one["situations"] = [{k: v for k, v in s.items() if k not in ("ms", "source_ms", "memory")}
                             for s in one["situations"]]
    assert found[0] == found[1]
    stream = continual(shifts=("fog",), per_shift=20, batch=10)
    assert explore(Experiment("fashion_resnet_bn", stream, "tent"), references=(), device="cpu").rows[0]["error"] == \
        explore(Experiment(load_model(), stream, make("tent")), references=(), device="cpu").rows[0]["error"]
    assert capsys.readouterr() == ("", "")
