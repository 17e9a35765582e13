"""The method zoo at its edges: what `test_contract.py` asks on one network, here on others, at extreme heads, streams, selections and settings."""
import io
import math
import re
from functools import cache

import pytest
import torch
from tiny import around, given, source_images, stream, tiny
from torch import nn

from tta_lab.components.source import prepare as source
from tta_lab.core import scores
from tta_lab.core.adapter import Adapter
from tta_lab.core.knobs import knobs
from tta_lab.core.parts import NeedsError, Selector, SlidingWindow, needs_of
from tta_lab.core.source_info import source_info_of
from tta_lab.core.source_model import InputError
from tta_lab.experiments.catalogue import PLACE
from tta_lab.experiments.runner import row, run
from tta_lab.methods import METHODS, make
from tta_lab.methods.serialise import PARTS
from tta_lab.models.wrapping import with_input_card
from tta_lab.streams.stream import Stream

LEARN = [name for name in METHODS if METHODS[name]().learns]
SHARED = ("fisher", "moments", "neighbours", "posterior", "prototypes", "replay")
NEED = {what: [name for name in METHODS if what in needs_of(METHODS[name]())] for what in ("batch_norm", "features", "source_logits", *SHARED)}
DRAWN = ("memo", "cotta", "petal", "stamp")     # answer by views that differ between the images of a batch
FEW_VIEWS = {name: {"views": 2} for name in DRAWN}


def small(name, **settings):
    """A recipe at little cost: two views; learning from a memory after every eighth image."""
    return make(name, **FEW_VIEWS.get(name, {}), **({"frequency": 8} if name == "rotta" else {}), **settings)


def taken(recipe, net, classes=10, side=16):
    """What the recipe needs from the source, made with this very network and images of this size."""
    if "posterior" in needs_of(recipe):
        return {"posterior": around(net)}
    n = classes if "prototypes" in needs_of(recipe) else 48
    x = nn.functional.interpolate(source_images()[0], side) if side != 16 else source_images()[0]
    return source.prepare(net, recipe, x[torch.arange(max(n, 48)) % len(x)], torch.arange(max(n, 48)) % classes, device="cpu")


def packed(state):
    """The bytes of a state."""
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def images(at, n=8):
    return stream("s3")[0][at, :n]


def whole(adapter):
    """No number of the network's or of the optimiser's is NaN or infinite."""
    values = [*adapter.state.tensors.values(), *(v for s in (adapter.optimizer.state.values() if adapter.optimizer else ()) for v in s.values())]
    return all(torch.isfinite(v).all() for v in values if isinstance(v, torch.Tensor) and v.is_floating_point())


class Headed(nn.Module):
    """The tiny batch-norm network with a drawn head of ``classes`` rows, ``scale`` times as large as usual."""

    def __init__(self, classes=10, scale=1.0, linear=True):
        super().__init__()
        self.features = tiny("tinybn").features
        self.head = nn.Linear(64, classes)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(classes, 64, generator=torch.Generator().manual_seed(0)) * scale / 8)
            self.head.bias.zero_()
        self.head = self.head if linear else nn.Sequential(nn.Linear(64, 64), nn.ReLU(), self.head)

    def forward(self, x):
        return self.head(self.features(x))


# --- batches ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("model", ["tinygn", pytest.param("tinyvit", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [name for name in METHODS if name not in NEED["batch_norm"]])
def test_odd_batches_on_networks_without_batch_norm(name, model):
    """One stream of a grey and a black batch, of one image, of several, of one class: sizes may change, answers stay finite, twins agree."""
    x, y = source_images()
    grey = torch.full_like(images(0, 5), 0.5)
    batches = [grey, grey[:3] * 0, images(0, 1), images(2, 11), x[y == 3][:8]]
    adapter = Adapter(tiny(model), small(name), device="cpu", source_info=given(small(name), model))
    answers = [adapter(batch) for batch in batches]
    assert [tuple(z.shape) for z in answers] == [(len(batch), 10) for batch in batches] and all(torch.isfinite(z).all() for z in answers)
    assert whole(adapter) and adapter.seen == sum(map(len, batches)) == len(adapter.trace)
    for z in answers[:2] if name not in DRAWN else ():
        torch.testing.assert_close(z, z[:1].expand_as(z), atol=2e-4, rtol=2e-3)


@pytest.mark.parametrize("scale", [0.0, 1e5], ids=["no opinion", "boundless certainty"])
@pytest.mark.parametrize("name", METHODS)
def test_flat_and_certain_heads(name, scale):
    """Logits of 0 (every entropy ln C, all alike) and of tens of thousands (every entropy 0, probabilities of 0): no NaN in weights or answers."""
    net = Headed(scale=scale)
    adapter = Adapter(net, small(name), device="cpu", source_info=taken(small(name), net))
    for at in range(2):
        z = adapter(images(at, 6))
        assert torch.isfinite(z).all() and z.shape == (6, 10)
    assert whole(adapter)
    if name == "source":
        top = scores.entropy(z)
        assert (top == pytest.approx(math.log(10), rel=1e-6)) if not scale else (top < 1e-3).all()


@pytest.mark.parametrize("classes", [2, 1000])
@pytest.mark.parametrize("name", METHODS)
def test_few_and_many_classes_image_by_image_and_without_contrast(name, classes):
    if classes == 1000 and name not in NEED["prototypes"]:
        return                                                           # in test_contract.py
    net = Headed(classes)
    adapter = Adapter(net, small(name), device="cpu", source_info=taken(small(name), net, classes))
    for batch in (images(0, 1), images(1, 1), torch.full_like(images(0, 4), 0.5)):
        z = adapter(batch)
        assert z.shape == (len(batch), classes) and torch.isfinite(z).all()
    assert whole(adapter)


@pytest.mark.parametrize("carded", [pytest.param(False, id="plain", marks=pytest.mark.slow), pytest.param(True, id="with an input card")])
@pytest.mark.parametrize("name", METHODS)
def test_the_first_batch_may_be_bad(name, carded):
    """The adapter is then as new, bit for bit: trace, counters, memories, generator; asking for a prediction is refused alike."""
    net = with_input_card(tiny("tinybn"), channels=3, size=(16, 16)) if carded else tiny("tinybn")
    recipe = small(name)
    adapter = Adapter(net, recipe, device="cpu", source_info=taken(recipe, net) if carded else given(recipe, "tinybn"))
    x = images(0).clone()
    x[1, 2, 3, 4], x[6, 0, 0, 0] = math.inf, -math.inf if carded else math.nan
    before = packed(adapter.state_dict())
    for ask in (adapter, adapter.predict):
        with pytest.raises(InputError, match=r"2 of 8 images hold NaN or Inf \(ids \[71, 76\]\)"):
            ask(x, torch.arange(70, 78))
    assert packed(adapter.state_dict()) == before and len(adapter.trace) == adapter.seen == adapter.steps == 0
    assert adapter.cost == {"forwards": 0, "backwards": 0} and not adapter.errors


def test_a_bad_image_does_not_enter_a_window():
    adapter = Adapter(tiny("tinybn"), make("tent", cadence=SlidingWindow(4)), device="cpu")
    undisturbed = Adapter(tiny("tinybn"), make("tent", cadence=SlidingWindow(4)), device="cpu")
    for i, image in enumerate(images(0, 6).split(1)):
        if i in (0, 3, 4):
            with pytest.raises(InputError):
                adapter(image * torch.inf)
        if i:                                                                                     # a window of one black image is no statistics
            assert torch.equal(adapter(image), undisturbed(image))


# --- selections ------------------------------------------------------------------------------------------------------

class Nobody(Selector):
    def weights(self, ctx, losses, keep, state):
        return losses * 0


@pytest.mark.parametrize("name", LEARN)
def test_an_empty_selection_does_what_the_recipe_says(name):
    """With its own penalties and momentum from ordinary steps: "skip" moves nothing, "step" moves by the penalties."""
    learning, declared = small(name), small(name).where(Nobody()).when_empty
    adapter = Adapter(tiny("tinybn"), learning, device="cpu", source_info=given(learning, "tinybn"))
    empty = Adapter(tiny("tinybn"), learning.where(Nobody()), device="cpu", source_info=given(learning, "tinybn"))
    easy = source_images()[0][:24]                                       # known to the network: selectors and memories take them
    for x in easy.split(12):
        adapter(x)
    assert adapter.trace.step("lessons").sum() > 0, "nothing was offered to be learned"
    grown = adapter.state.take()
    grown["states"]["select"].append({})
    empty.state.put(grown)
    before = {k: p.detach().clone() for k, p in empty.tuned.items()}
    momentum = packed(empty.optimizer.state_dict())
    z = empty(easy[:12])
    assert torch.isfinite(z).all() and not empty.trace["kept"].any() and empty.trace.step("n_kept")[0] == 0
    assert empty.trace.step("lessons")[0] > 0 and bool(empty.trace.step("skipped")[0]) == (declared == "skip")
    same = all(torch.equal(p, before[k]) for k, p in empty.tuned.items())
    if declared == "skip" and name != "memo" and not any(type(c).__name__ == "ResetEvery" and c.steps == 1 for c in learning.controllers):
        assert same and packed(empty.optimizer.state_dict()) == momentum
    elif declared == "step":
        assert not same, f"{name} says it steps on its penalties"


@pytest.mark.parametrize("name", [name for name in METHODS if name not in LEARN])
def test_methods_without_a_loss_refuse_what_only_learners_have(name):
    for call, what in ((lambda: make(name).where(Nobody()), "no loss, so there is nothing to select"), (lambda: make(name).plus(), "no loss"),
                       (lambda: make(name, lr=0.1), "has no knob 'lr'"), (lambda: make(name, select=(Nobody(),)), "select")):
        with pytest.raises((TypeError, ValueError), match=what) as why:
            call()
        assert METHODS[name].__name__ in str(why.value) or "select" in str(why.value)


# --- streams of one batch --------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("n", "unknown"), [pytest.param(1, None, id="an image", marks=pytest.mark.slow),
                                            pytest.param(8, "digits", id="half of it unknown")])
@pytest.mark.parametrize("name", METHODS)
def test_a_stream_of_one_batch_can_be_run_and_scored(name, n, unknown):
    arrivals = Stream(shifts=("contrast",), per_shift=n if unknown is None else n // 2, batch=n, unknown=unknown,
                      unknown_ratio=1.0 if unknown else 0.0)
    net, recipe = grey_network(), small(name)
    found = row(run(Adapter(net, recipe, device="cpu", source_info=taken_once(recipe), record="source"), arrivals))
    assert found["images"] == n and found["batches"] == 1 and found["complete"] and found["resets"] == 0
    assert 0 <= found["error"] <= 100 and math.isfinite(found["nll"]) and 0 <= found["ece"] <= 1
    assert ("auroc" in found) == bool(unknown) and (not unknown or 0 <= found["auroc"] <= 1)
    assert found["learned_from"] <= 1 and (name in LEARN or not found["learned_from"])


@cache
def taken_once(recipe):
    return taken(recipe, grey_network(), side=28)


@cache
def grey_network():
    """The tiny network on grey images."""
    class Grey(nn.Module):
        def __init__(self):
            super().__init__()
            net = tiny("tinybn")
            self.body, self.head = net.features, net.head

        def features(self, x):
            return self.body(x.expand(-1, 3, -1, -1))

        def forward(self, x):
            return self.head(self.features(x))

    return Grey().eval()


# --- impossible pairs ------------------------------------------------------------------------------------------------

class Whole(nn.Module):
    """A network that hides its features."""

    def __init__(self):
        super().__init__()
        self.net = tiny("tinybn")

    def forward(self, x):
        return self.net(x)


class Bypassed(Headed):
    """A network whose head is never called."""

    def forward(self, x):
        return nn.functional.linear(self.features(x), self.head.weight)


def refusal(name, net, **options):
    """The sentence with which a method refuses a network; needs are made first, as a user would."""
    recipe = small(name)
    with pytest.raises(NeedsError) as why:
        found = {"posterior": around(net)} if name in NEED["posterior"] else source.prepare(net, recipe, *source_images(), limit=32, device="cpu")
        Adapter(net, recipe, device="cpu", source_info=found, **options)(images(0))
    return str(why.value)


@pytest.mark.parametrize("name", NEED["batch_norm"])
@pytest.mark.parametrize("model", ["tinygn", "tinyvit"])
def test_batch_norm_methods_name_the_missing_layers(name, model):
    said, kind = refusal(name, tiny(model)), METHODS[name].__name__
    assert said.startswith(f"{kind} needs batch-norm layers") and type(tiny(model)).__name__ in said and "choose a model with BatchNorm" in said


@pytest.mark.parametrize("name", NEED["features"])
def test_feature_methods_say_how_to_wrap_the_model(name):
    kind = METHODS[name].__name__
    said = refusal(name, Whole())
    assert said.startswith(f"{kind} needs a model with 'features' and 'head'; Whole has not") and "logits = head(features(x))" in said
    if name == "t3a":                                                    # reads the rows of the head alone, before the first image
        return
    said = refusal(name, Bypassed())
    assert "needs features (batch, D)" in said and "Bypassed was called 0 times" in said and "logits = head(features(x))" in said


@pytest.mark.parametrize("name", [n for n in NEED["features"] if n in ("t3a", "recap", "unient", "unient_plus")])
def test_methods_that_read_the_rows_of_the_head_need_a_linear_one(name):
    assert "rows of a linear head, but this model's head is Sequential" in refusal(name, Headed(linear=False))


@pytest.mark.parametrize("name", METHODS)
def test_one_class_is_no_classifier(name):
    """A network of one score (a sigmoid) would be certain of everything, silently."""
    net, recipe = Headed(classes=1), small(name)
    found = {what: {} for what in source_info_of(recipe)} | {"posterior": around(net)}
    with pytest.raises(NeedsError, match=rf"{METHODS[name].__name__} needs at least 2 classes, but Headed returned \([128]+, 1\)") as why:
        Adapter(net, recipe, device="cpu", source_info=found)(images(0))
    assert "(0, z)" in str(why.value)


@pytest.mark.parametrize("name", sorted({name for what in ("fisher", "prototypes", "moments", "neighbours", "posterior") for name in NEED[what]}))
def test_what_was_taken_from_another_model_is_refused(name):
    other, recipe = tiny("tinyvit"), small(name)
    found = {"posterior": around(other)} if name in NEED["posterior"] else given(recipe, "tinyvit")
    adapter = Adapter.__new__(Adapter)
    with pytest.raises(NeedsError, match=r"(were|was) made (for other|of features of 48 numbers, but this model's have 64)"):
        adapter.__init__(tiny("tinybn"), recipe, device="cpu", source_info=found)
        adapter(images(0))


def test_networks_with_nothing_to_tune_are_named():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.features, self.head = nn.Flatten(), nn.Linear(768, 10)

        def forward(self, x):
            return self.head(self.features(x))

    for name in LEARN:
        if name in ("memo", "cotta", "petal", "psmt", "rmt"):            # tune whatever there is
            continue
        assert re.search("(tunes|matches) .*, but the model has none|needs batch-norm layers", refusal(name, Bare())), name


# --- published settings ----------------------------------------------------------------------------------------------

PRESETS = [(name, preset) for name, kind in METHODS.items() for preset in kind.presets]
STATED = {  # by hand from papers, authors' code and ports: the rate of one batch of 64 is divided by 64 for single images, doubled again where said
    ("tent", "imagenet_c"): {"rule": "sgd", "lr": 2.5e-4, "momentum": 0.9}, ("tent", "cifar10_c"): {"rule": "adam", "lr": 1e-3},
    ("tent", "imagenet_c_batch1"): {"lr": 7.8125e-6}, ("tent", "imagenet_c_vit_batch1"): {"lr": 1.5625e-5},
    ("tent", "cifar10_c_retuned"): {"lr": 2e-3}, ("tent", "cifar100_c_retuned"): {"lr": 5e-4}, ("tent", "imagenet_c_retuned"): {"lr": 5e-4},
    ("sar", "imagenet_c_batch1"): {"lr": 1.5625e-5}, ("sar", "imagenet_c_vit_batch1"): {"lr": 3.125e-5, "rule": "sgd"},
    ("sar", "cifar10_c_retuned"): {"lr": 0.01, "controllers.0.threshold": 0.05}, ("sar", "imagenet_c_retuned"): {"controllers.0.threshold": 0.5},
    ("deyo", "imagenet_c"): {"threshold": 0.3, "lr": 2.5e-4}, ("deyo", "imagenet_c_wild"): {"threshold": 0.2},
    ("deyo", "imagenet_c_wild_vit"): {"threshold": 0.2, "lr": 1e-3}, ("deyo", "imagenet_c_wild_batch1"): {"lr": 1.5625e-5},
    ("eata", "imagenet_c"): {"margin": 0.05, "weight": 2000.0}, ("eata", "imagenet_c_retuned"): {"weight": 10.0, "margin": 0.05},
    ("eta", "cifar100_c"): {"margin": 0.1}, ("rdumb", "cifar100_c"): {"margin": 0.4, "steps": 1000},
    ("cotta", "imagenet_c"): {"lr": 0.01, "restore": 0.001, "sure": 0.1}, ("cotta", "cifar100_c_retuned"): {"sure": 0.9, "restore": 0.005},
    ("bn_alpha", "batch1"): {"alpha": 0.1}, ("bn_alpha", "cifar10_c_batch1_retuned"): {"alpha": 0.3},
    ("rpl", "imagenet_c"): {"lr": 5e-4, "q": 0.8}, ("conjugate", "cifar_polyloss"): {"eps": 6.0, "lr": 1e-3, "rule": "sgd"},
    ("conjugate", "imagenet_polyloss"): {"eps": 8.0}, ("roid", "imagenet_c"): {"lr": 2.5e-4}, ("cmf", "cifar100_c"): {"lr": 1e-3, "rule": "adam"},
    ("memo", "imagenet_c"): {"views": 64, "lr": 2.5e-4}, ("rotta", "imagenet_c"): {"rule": "adam", "lr": 1e-3, "frequency": 64, "nu": 1e-3},
    ("stamp", "cifar100_split"): {"share": 0.6, "lr": 0.1}, ("stamp", "imagenet_c"): {"period": 750, "share": 0.8, "agree": False},
    ("petal", "imagenet_c_random"): {"restore": 0.001, "chosen": "random", "weight": 1e-11}, ("petal", "cifar10_c"): {"restore": 0.03},
    ("wisdom_of_crowds", "imagenet_c"): {"rule": "sgd", "lr": 1e-3, "weight": 0.5}, ("unmix_tns", "mixed"): {"components": 128},
    ("paf_kip", "imagenet_c"): {"weight": 0.7, "lr": 2.5e-4}, ("unient", "tiny_imagenet_c"): {"rule": "adam", "lr": 1e-3},
    ("t3a", "cifar10_c"): {"keep": 100}, ("lame", "correlated"): {"affinity": "knn", "k": 1}, ("rmt", "imagenet_c"): {"lr": 0.01, "nesterov": True},
}


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_a_preset_prints_back_with_every_form_and_is_documented(name, preset):
    for form in ("paper", *METHODS[name].forms):
        recipe = make(name, preset=preset, form=form)
        assert eval(repr(recipe), dict(PARTS)) == recipe
    section = PLACE.read_text().split(f"\n## {name}\n")[1].split("\n## ")[0]
    assert f"\n- preset `{preset}`: " in section
    changed = make(name, preset=preset, **({"lr": 0.123} if make(name).learns else {}))
    assert not make(name).learns or changed.update.lr == 0.123, "what the caller says comes last"


@pytest.mark.parametrize("which", STATED, ids="-".join)
def test_presets_hold_the_published_numbers(which):
    recipe = make(which[0], preset=which[1])
    values = {k.name: k.value for k in knobs(recipe)}
    for key, value in STATED[which].items():
        mine = [v for k, v in values.items() if k == key or k.endswith("." + key)]
        assert value in mine and (len(set(mine)) == 1 or "." not in key), (key, mine)


def test_benchmarks_are_named_alike():
    for name, preset in PRESETS:
        assert re.fullmatch(r"(cifar10|cifar100|tiny_imagenet|imagenet)_c(_wild)?(_vit)?(_batch1)?(_retuned|_random)?"
                            r"|batch1|correlated|mixed|(cifar|imagenet)_polyloss|cifar100?_split", preset), (name, preset)
    assert len(PRESETS) == len(set(PRESETS)) > 60
