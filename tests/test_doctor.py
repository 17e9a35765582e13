"""The doctor: nothing to say where model and images belong together, and the right word for each
way in which they do not."""
import copy
import importlib
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from tta_lab.core.source_model import InputCard, SourceModel
from tta_lab.data.embedded import DIGIT_CLASSES, FASHION_8
from tta_lab.data.image_set import ImageSet
from tta_lab.data.load import load
from tta_lab.models.doctor import Report, better, binomial_tail, check_up, match, matched, wilson
from tta_lab.models.embedded import checkpoints, load_model
from tta_lab.models.wrapping import with_classes, with_input_card

# tta_lab.models.doctor itself may be the function of that name
module = importlib.import_module("tta_lab.models.doctor")
SETS = {"fashion8_resnet_bn": "fashion_mnist_8"}
check = partial(check_up, n=256)


@pytest.fixture(scope="module")
def data():
    return load("fashion_mnist").take(slice(0, 2000))


@pytest.fixture(scope="module")
def model():
    return load_model()


def finding(report, check):
    found = [f for f in report.findings if f.check == check]
    assert len(found) == 1, f"{check}: {found}"
    return found[0]


def worse(report):
    return {f.check: f.severity for f in report.findings if f.severity != "ok"}


@pytest.mark.parametrize("name", sorted(checkpoints()))
def test_nothing_to_say_where_model_and_images_belong_together(name):
    model = load_model(name)
    data = load(SETS.get(name, "fashion_mnist"))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    report = check_up(model, data)
    assert report.ok and not worse(report), str(report)
    assert report.images == 512 and "all well" in str(report)
    assert len(report.unchecked) == ("bn" not in name)
    unlabelled = check_up(model, replace(data, y=torch.full_like(data.y, -1)))
    assert unlabelled.ok and any("no image has a label" in u
                                 for u in unlabelled.unchecked), str(unlabelled)
    assert all(torch.equal(v, before[k])
               for k, v in model.state_dict().items()) and not model.training


def card(model, mean, std):
    return SourceModel(model.net, InputCard(1, (28, 28), (mean,), (std,)),
                       info={"classes": model.info["classes"]}).eval()


def with_pixels(data, x):
    return replace(data, x=x.contiguous())


class Given:
    """A set that hands out what it is given, which the package's own sets would refuse."""

    def __init__(self, x, y, classes, name="given"):
        self.x, self.y, self.classes, self.name = x, y, tuple(classes), name

    def __len__(self):
        return len(self.x)

    def images(self, index):
        return self.x[index]


READINGS = {  # what is wrong -> model and set made so, reading that the doctor must name
    "not normalised": (lambda m, d: (card(m, 0.0, 1.0), d), "Fashion-MNIST mean and std"),
    "0.5": (lambda m, d: (card(m, 0.5, 0.25), d), "Fashion-MNIST mean and std"),
    "in data": (lambda m, d: (SourceModel(m.net, m.card, "in_data").eval(), d), "normalised with "
                                                                                "the card's mean "
                                                                                "and std"),
    "normalised already": (lambda m, d: (m, Given(m.normalise(d.images()), d.y, d.classes)), "not normalised"),
    "inverted": (lambda m, d: (m, with_pixels(d, 255 - d.x)), "inverted"),
    "sideways": (lambda m, d: (m, with_pixels(d, d.x.transpose(2, 3))), "height and width swapped"),
}


@pytest.mark.parametrize("case", READINGS)
@pytest.mark.parametrize("name", ["fashion_resnet_bn", "fashion_vit_ln"])
def test_wrong_readings_are_named(case, name, data):
    make, expected = READINGS[case]
    report = check(*make(load_model(name), data))
    found = finding(report, "normalisation")
    assert found.severity == "error" and f"'{expected}'" in found.what + str(
        found.evidence.get("as good")), str(report)
    assert found.evidence["accuracy then"] > found.evidence["accuracy"] + 0.05 and found.remedy
    assert finding(report, "class order").severity == "ok"


@pytest.mark.parametrize("case", READINGS)
@pytest.mark.parametrize("name", ["fashion_resnet_bn", "fashion_vit_ln", "fashion_resnet_gn"])
def test_wrong_readings_are_named_without_labels(case, name, data):
    make, expected = READINGS[case]
    model, images = make(load_model(name), replace(data, y=torch.full_like(data.y, -1)))
    report = check(model, images)
    found = finding(report, "normalisation")
    # its groups are normalised anyway: 2.08 and 2.06 of 2.13 nats
    if name == "fashion_resnet_gn" and case in ("0.5", "normalised already"):
        assert found.severity == "ok" and 2 < found.evidence["information"] < 2.3
        assert finding(report, "pixels").severity == ("ok" if case == "0.5" else "error")
    else:
        assert found.severity in (
            "error", "warning") and f"'{expected}'" in found.what and found.remedy, str(report)
    if "bn" in name and case != "sideways":
        assert finding(report, "statistics").severity == "warning" and finding(
            report, "statistics").evidence["distance"] > 0.1
    assert not [f for f in report.findings if f.check in ("class order", "accuracy")
                ] and "no image has a label" in str(report)


def colour_net(seed=0):
    """Four classes that only the colour tells: red, green, blue, grey."""
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4, bias=False))
    net[2].weight.data = torch.tensor([[2.0, -1, -1], [-1, 2, -1], [-1, -1, 2], [0, 0, 0]])
    net[2].weight.data[3] = 0.05
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(400) % 4
    x = torch.randint(60, 100, (400, 3, 8, 8), generator=generator)
    x[torch.arange(400)[y < 3], y[y < 3]] += 100
    return net.eval(), ImageSet("colours", x.to(torch.uint8), y, ("red", "green", "blue", "grey"))


def test_swapped_channels_are_named():
    net, data = colour_net()
    model = with_input_card(net, size=(8, 8))
    assert check(model, data).ok
    report = check(model, with_pixels(data, data.x.flip(1)))
    assert finding(report, "normalisation").severity == "error" and "'channels as BGR'" in finding(
        report, "normalisation").what
    assert "OpenCV" in finding(report, "normalisation").remedy and finding(
        report, "class order").severity == "ok"
    assert finding(check(net, data), "shape").what == "the model has no card to compare with"


@pytest.mark.parametrize("order", [(3, 1, 4, 0, 5, 9, 2, 6, 8, 7), (0, 1, 2, 3, 4, 7, 6, 5, 8, 9)])
def test_shuffled_classes_are_found_and_the_map_is_shown(order, model, data):
    shuffled = replace(data, y=torch.tensor(order)[data.y])
    report = check(SourceModel(model.net, model.card).eval(), shuffled)
    found = finding(report, "class order")
    assert found.severity == "error" and found.evidence["accuracy renamed"] > 0.85
    for true, moved in enumerate(order):
        assert (f"{data.classes[moved]} {moved} -> output {true}"
                in found.evidence["order"]) == (true != moved)
    assert finding(report, "normalisation").severity == "ok"
    both = check(card(model, 0.0, 1.0), shuffled)  # two mistakes at once
    assert [finding(both, c).severity
            for c in ("class order", "normalisation")] == ["error", "error"], str(both)
    assert "'Fashion-MNIST mean and std'" in finding(both, "normalisation").what


def test_class_names_in_another_order_are_read_off(model, data):
    names = list(data.classes)
    names[0], names[6] = names[6], names[0]
    report = check(model, replace(data, classes=tuple(names)))
    assert worse(report) == {"class names": "error"} and finding(
        report, "class names").evidence["order"] == "shirt 0 -> 6, t-shirt/top 6 -> 0"
    other = check(model, replace(data, classes=tuple(f"c{i}" for i in range(10))))
    assert other.ok and any("different words" in u for u in other.unchecked)


def test_outputs_and_labels_that_do_not_fit_are_named(model, data):
    few = data.only(FASHION_8)
    assert worse(check(model, few))["outputs"] == "error"
    picked = with_classes(model, torch.tensor(FASHION_8))
    assert check(picked, few).ok
    assert check(model, replace(few,
                                model_classes=torch.tensor(FASHION_8))).findings[5].severity == "ok"
    one_based = check(model, Given(data.images(), data.y + 1, data.classes))
    assert finding(one_based, "labels").remedy == "subtract 1: they start at 1"
    one = check(model, data.only([3], relabel=False))
    assert finding(one, "labels").severity == "warning"


def test_pixels_are_judged_and_later_checks_go_on(model, data):
    x = data.images()
    for factor, word in ((255.0, "divide by 255"), (1 / 255, "divide once")):
        report = check(model, Given(x * factor, data.y, data.classes))
        assert worse(report) == {"pixels": "error"} and word in finding(
            report, "pixels").remedy, str(report)
    assert worse(check(model, Given(x * 1.5, data.y, data.classes)))["pixels"] == "error"
    holed = x.clone()
    holed[::4, 0, 0, 0] = torch.nan
    assert "NaN" in finding(check(model, Given(holed, data.y, data.classes)), "pixels").what
    same = check(model, Given(x[:1].expand(100, -1, -1, -1), data.y[:1].expand(100), data.classes))
    assert finding(same, "content").evidence["repeated"] == 99 and finding(
        same, "content").severity == "error"
    flat = torch.cat([x[:90], torch.zeros(10, 1, 28, 28)])
    assert finding(check(model, Given(flat, data.y[:100], data.classes)),
                   "content").severity == "warning"
    wide = check(model, Given(x[:20].expand(-1, 3, -1, -1), data.y[:20], data.classes))
    assert worse(wide) == {"shape": "error"} and "3x28x28, the model wants 1x28x28" in finding(
        wide, "shape").what and wide.unchecked
    last = check(with_input_card(nn.Flatten(), size=(8, 8)),
                 Given(torch.rand(4, 8, 8, 3),
                       torch.zeros(4).long(), ("a",)))
    assert "permute(0, 3, 1, 2)" in finding(last, "shape").remedy


def test_broken_and_collapsed_networks_are_named(model, data):
    training = copy.deepcopy(model)
    training.net.features[1].train()
    report = check(training, data)
    assert worse(report) == {"mode": "error"} and "BatchNorm2d" in finding(
        report, "mode").evidence["layers"] and training.net.features[1].training
    broken = copy.deepcopy(model)
    broken.net.head.weight.data[0, 0] = torch.nan
    report = check(broken, data)
    assert finding(report, "logits").severity == "error" and "head.weight" in finding(
        report, "logits").remedy
    constant = copy.deepcopy(model)
    constant.net.head.bias.data[4] = 1e3
    report = check(constant, data)
    assert worse(report)["collapse"] == worse(report)["accuracy"] == "error" and finding(
        report, "collapse").evidence["top class"] == 4
    lost = copy.deepcopy(model)
    for layer in lost.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
    assert finding(check(lost, data), "statistics").severity == "warning"
    with pytest.raises(ValueError, match="classifiers.*2, 3, 4, 4"):
        check(nn.Conv2d(3, 3, 1),
              Given(torch.rand(2, 3, 4, 4),
                    torch.zeros(2).long(), ("a", "b", "c")))
    with pytest.raises(ValueError, match="at least one image"):
        check(model, data, n=0)


class Ended(nn.Module):
    """A network with a last step of its own."""

    def __init__(self, inner, end):
        super().__init__()
        self.net = inner
        self.end = end
        self.features = inner.features

    def forward(self, x):
        return self.end(self.net(x))


ENDS = {
    "softmax": (lambda z: z.softmax(1), "error", "probabilities, each row sums to 1"),
    "softmax in half precision": (lambda z: z.softmax(1).bfloat16(), "error", "ends in softmax"),
    "log_softmax": (lambda z: z.log_softmax(1), "warning", "ends in log_softmax"),
    "sigmoid": (lambda z: z.sigmoid(), "warning", "sigmoid"),
    "normalised": (lambda z: z / z.norm(dim=1, keepdim=True), "ok", "logits"),
    "shifted": (lambda z: z - z.amin(1, keepdim=True), "ok", "logits"),
    "negative": (lambda z: z - z.amax(1, keepdim=True), "ok", "logits")
}


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("end", ENDS)
def test_probabilities_in_place_of_logits_are_noticed(end, labelled, model, data):
    last, severity, said = ENDS[end]
    images = data if labelled else replace(data, y=torch.full_like(data.y, -1))
    found = finding(check(SourceModel(Ended(model.net, last), model.card).eval(), images), "scores")
    assert found.severity == severity and said in found.what and bool(found.remedy) == (severity
                                                                                        != "ok")


@pytest.mark.parametrize("labelled", [True, False])
def test_a_model_at_chance_is_noticed(labelled, model, data):
    from tta_lab.models.small_networks import ARCHITECTURES

    with torch.random.fork_rng():
        torch.manual_seed(1)
        untrained = SourceModel(ARCHITECTURES["resnet_bn"](classes=10), model.card).eval()
    images = data if labelled else replace(data, y=torch.full_like(data.y, -1))
    found = finding(check(untrained, images), "accuracy" if labelled else "information")
    assert found.severity == "error" and "at chance" in found.what and "weights were not loaded" in found.remedy
    # always the class that nine in ten images have: 90 % are right, and nothing is recognised
    if labelled:
        many = data.take(
            torch.cat([(data.y == 3).nonzero()[:180, 0], (data.y == 8).nonzero()[:20, 0]]))
        constant = copy.deepcopy(model)
        constant.net.head.bias.data[3] = 1e3
        said = finding(check_up(SourceModel(constant.net, model.card).eval(), many), "accuracy")
        assert said.severity == "error" and "90.0% of 200" in said.what and finding(
            check_up(model, many), "accuracy").severity == "ok"


def test_images_of_other_channels_and_sizes_are_findings_and_no_crash(data):
    grey = data.take(torch.arange(40))
    colour = Given(torch.rand(40, 3, 28, 28), torch.arange(40) % 10, [str(k) for k in range(10)])
    net = load_model().net
    for model, images, channels, takes, remedy in ((net, colour, 3, 1, "mode=L"),
                                                   (nn.Sequential(nn.Conv2d(3, 10, 3),
                                                                  nn.AdaptiveAvgPool2d(1),
                                                                  nn.Flatten()).eval(), grey, 1, 3,
                                                    "mode=RGB"), (with_input_card(net, channels=3),
                                                                  colour, 3, 1, "mode=L")):
        report = check(model, images)
        found = finding(report, "shape")
        assert found.severity == "error" and f"have {channels} channel" in found.what and f"first convolution takes {takes}" in found.what
        assert remedy in found.remedy and any("does not take these images" in u
                                              for u in report.unchecked)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(100, 10)).eval()
    found = finding(check(flat, grey), "shape")
    assert found.severity == "error" and "fails on images of 1x28x28" in found.what and "with_input_card" in found.remedy


def test_batch_norm_that_cannot_adapt_is_named(model, data):
    from torchvision.ops import FrozenBatchNorm2d, misc

    def changed(make):
        net = copy.deepcopy(model.net)
        net.features[1] = make(net.features[1])
        return check(SourceModel(net.eval(), model.card).eval(), data)

    def frozen(layer):
        new = FrozenBatchNorm2d(layer.num_features)
        new.load_state_dict(
            {k: v for k, v in layer.state_dict().items() if k != "num_batches_tracked"})
        return new

    for make, key, said in ((frozen, "frozen", "net.features.1 (FrozenBatchNorm2d)"),
                            (lambda b: nn.BatchNorm2d(b.num_features, track_running_stats=False),
                             "without statistics", "net.features.1 (BatchNorm2d)"),
                            (lambda b: nn.BatchNorm2d(b.num_features, affine=False),
                             "without scale and shift", "net.features.1 (BatchNorm2d)")):
        found = finding(changed(make), "batch norm")
        assert found.severity == "warning" and found.evidence == {
            key: said
        } and found.what.startswith("1 batch-norm layer ") and found.remedy
    assert misc.FrozenBatchNorm2d is FrozenBatchNorm2d and not [
        f for f in check(model, data).findings if f.check == "batch norm"
    ]


def test_accuracy_is_compared_with_the_card(model, data):
    def stated(accuracy):
        other = SourceModel(model.net, model.card, info={"test_accuracy": accuracy}).eval()
        return finding(check(other, data), "accuracy")

    assert stated(92.6).severity == "ok" and stated(
        99.9).severity == "warning" and "training images" in stated(80.0).remedy
    digits = load("digits")
    strange = check(SourceModel(model.net, model.card, info={"test_accuracy": 92.6}).eval(), digits)
    assert finding(strange, "accuracy").severity == "error" and digits.classes == DIGIT_CLASSES


def test_report_is_readable(model, data):
    report = check(card(model, 0.0, 1.0), data, n=200)
    rows = report.rows()
    assert isinstance(report,
                      Report) and rows[0]["severity"] == "error" and rows[-1]["severity"] == "ok"
    assert set(rows[0]) == {"check", "severity", "what", "evidence", "remedy"} and all(
        isinstance(v, str) for row in rows for v in row.values())
    text = str(report)
    assert "1 error" in text.splitlines(
    )[0] and "[error] normalisation" in text and "-> give the model a card with mean=(0.286,)" in text
    assert "[not checked] accuracy" in text and module.doctor is check_up
    assert str(check(card(model, 0.0, 1.0), data, n=200)) == text


# --- the statistics behind it -------------------------------------------------------------------

def test_statistics_by_hand():
    assert binomial_tail(2, 3, 0.5) == pytest.approx(4 / 8) and binomial_tail(
        0, 3, 0.1) == 1 and binomial_tail(4, 3, 0.5) == 0
    assert binomial_tail(1, 2, 0.1) == pytest.approx(0.19) and binomial_tail(
        3, 3, 1.0) == 1 and binomial_tail(1, 3, 0.0) == 0
    # (0.8 + 0.19208 +- 1.96 sqrt(0.016 + 0.009604)) / 1.38416
    low, high = wilson(8, 10)
    assert (low, high) == (pytest.approx(0.49016, abs=1e-5), pytest.approx(
        0.94331, abs=1e-5)) and wilson(0, 0) == (0, 1)
    a = torch.tensor([1, 1, 0, 0, 0, 0]).bool()
    b = torch.tensor([1, 0, 1, 1, 1, 1]).bool()
    # 4 of 5 discordant pairs: (5 + 1) / 2^5
    assert better(a, b) == pytest.approx(6 / 32) and better(a, a) == 1
    y = torch.tensor([0, 0, 1, 1, 2, 2])
    p = torch.tensor([1, 1, 0, 0, 0, 2])
    assert match(y, p, 4).tolist() == [1, 0, 2, -1]
    assert matched(y.repeat(10), torch.tensor([1, 0, 2])[y].repeat(10), 3).all()
    guess = torch.randint(0, 50, (100,), generator=torch.Generator().manual_seed(0))
    assert matched(
        torch.arange(100) % 50, guess,
        50).float().mean() < 0.1, "a renaming must not be fitted to the images that judge it"


def test_statistics_agree_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    for k, n, p in ((3, 17, 0.2), (400, 512, 0.75), (30, 40, 0.5), (500, 512, 0.99)):
        assert binomial_tail(k, n, p) == pytest.approx(stats.binom.sf(k - 1, n, p), rel=1e-9)
        assert wilson(k, n) == pytest.approx(
            tuple(stats.binomtest(k, n).proportion_ci(0.95, "wilson")), abs=1e-4)


def test_distance_of_batch_norm_statistics_by_hand():
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(4, 2))
    net[0].running_mean.fill_(0.25), net[0].running_var.fill_(0.25)
    net.eval()
    watch = module.Watch(net)
    net(torch.tensor([0.0, 1.0, 0.0, 1.0]).view(1, 1, 2, 2))           # mean 0.5, variance 0.25
    assert watch.stop() == {"0": pytest.approx((1 + 0.25**2 / 0.25 - 1 - math.log(1)) / 2)}
    assert not net[0]._forward_pre_hooks


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_of_any_precision_are_looked_at(dtype, model, data):
    other = copy.deepcopy(model).to(dtype)
    report = check(other, data)
    assert report.ok, str(report)
    assert next(other.parameters()).dtype == dtype


def test_old_weight_norm_after_a_forward_is_copied_and_torchscript_refused_with_the_remedy(
        model, data):
    normed = copy.deepcopy(model.net)
    normed.head = nn.utils.weight_norm(normed.head)
    normed.eval()(data.x[:2].float() / 255 if data.x.dtype == torch.uint8 else data.x[:2])
    assert finding(check(SourceModel(normed, model.card).eval(), data), "accuracy").severity == "ok"
    with pytest.raises(ValueError, match="TorchScript.*build the network in Python"):
        check(torch.jit.trace(model.net, torch.rand(2, 1, 28, 28)), data)


class Decides(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return nn.functional.one_hot(self.net(x).argmax(1), 10).float()


def test_decisions_and_single_images_are_not_taken_for_logits(model, data):
    found = finding(check(SourceModel(Decides(model.net), model.card).eval(), data), "scores")
    assert found.severity == "error" and "decisions" in found.what and "argmax" in found.remedy
    one = check_up(model, data, n=1)
    assert not [f
                for f in one.findings if f.check == "scores"] and any("scores: too few images" in u
                                                                      for u in one.unchecked)
