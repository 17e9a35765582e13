"""What an adapter takes as a model, an argument and a state: every precision, what cannot be copied, answers that are not finite."""
import copy
import pickle
import threading

import numpy as np
import pytest
import torch
from tiny import tiny
from torch import nn

from tta_lab import Adapter, make, wrap
from tta_lab.components.norms.batch_norm import BatchStatistics
from tta_lab.components.source import prepare as source
from tta_lab.core.adapter import AdaptationError
from tta_lab.core.parts import AllParameters, LossMethod, NeedsError, Part, Step, needs_of
from tta_lab.core.source_info import source_info_of
from tta_lab.core.source_model import InputError
from tta_lab.methods import METHODS
from tta_lab.models.doctor import check_up
from tta_lab.models.wrapping import with_input_card

X = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
FREE = [name for name, kind in METHODS.items() if not source_info_of(kind()) and "features" not in needs_of(kind())]


def net(head: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head or nn.Linear(8, 5)).eval()


# --- precision ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", FREE)
def test_half_precision_is_adapted_in_float32(dtype, name):
    model = net().to(dtype)
    adapter, same = Adapter(model, make(name), device="cpu"), Adapter(copy.deepcopy(model).float(), make(name), device="cpu")
    assert model[0].weight.dtype == dtype, "the caller's model is never changed"
    x = X[:1].to(dtype) if name == "memo" else X.to(dtype)
    for _ in range(3):
        assert torch.equal(adapter(x), same(x.float()))
    assert adapter.trace.meta["precision"] == "torch.float32"


@pytest.mark.parametrize("name", FREE)
def test_float64_models_and_images_work(name):
    x = X[:1] if name == "memo" else X
    double, single = Adapter(net().double(), make(name), device="cpu"), Adapter(net(), make(name), device="cpu")
    first = double(x.double())
    assert first.dtype == torch.float64 and double.source[0].weight.dtype == torch.float64
    if name not in ("cotta", "stamp"):  # their augmentations draw other numbers in float64
        torch.testing.assert_close(first.float(), single(x), atol=1e-4, rtol=1e-4)
    assert torch.isfinite(double(x)).all(), "images of another type are brought to the model's"
    assert torch.isfinite(single(x.double())).all()


def test_a_forward_that_mixes_number_types_is_named():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, x):
            return self.net(x.half())

    with pytest.raises(NeedsError, match="Mixed mixes number types"):
        Adapter(Mixed(), make("tent"), device="cpu")(X)


# --- what cannot be copied -----------------------------------------------------------------------------------------------

def old_weight_norm():
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(nn.Linear(8, 5))


@pytest.mark.parametrize("head", [
    old_weight_norm, lambda: nn.utils.spectral_norm(nn.Linear(8, 5)), lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 5)),
    lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(8, 5)), lambda: nn.utils.parametrizations.orthogonal(nn.Linear(8, 5))])
@pytest.mark.parametrize("name", ["source", "tent", "cotta", "rotta", "sar"])
def test_reparametrised_layers_work(head, name):
    model = net(head())
    with torch.no_grad():
        expected = model(X)
    adapter = Adapter(model, make(name), device="cpu")
    assert adapter(X).shape == (8, 5) and torch.isfinite(adapter(X)).all()
    torch.testing.assert_close(adapter.predict_source(X), expected)
    torch.testing.assert_close(model(X).detach(), expected)


def test_weight_norm_learns_through_its_parts():
    model = net(nn.utils.parametrizations.weight_norm(nn.Linear(8, 5)))
    adapter = Adapter(model, make("cotta", lr=0.1), device="cpu")
    before = {k: v.detach().clone() for k, v in adapter.tuned.items()}
    adapter(X), adapter(X)
    moved = {k for k, v in adapter.tuned.items() if not torch.equal(v, before[k])}
    assert {"5.parametrizations.weight.original0", "5.parametrizations.weight.original1"} <= moved


class Remembers(nn.Module):
    """Keeps its last activation, with its graph, in an attribute and in a list."""

    def __init__(self):
        super().__init__()
        self.net, self.kept = net(), []

    def forward(self, x):
        self.last = self.net[0](x)
        self.kept.append({"first": self.last * 2})
        return self.net(x)


def test_activations_kept_in_attributes_do_not_hinder():
    model = Remembers()
    model(X)
    assert torch.isfinite(Adapter(model, make("tent"), device="cpu")(X)).all() and model.last.grad_fn is not None


class Locked(nn.Identity):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


def quantised():
    return torch.ao.quantization.quantize_dynamic(net(), {nn.Linear}, dtype=torch.qint8)


@pytest.mark.parametrize(("model", "message"), [
    (lambda: torch.jit.trace(net(), X), "TorchScript.*build the network in Python"),
    (lambda: nn.Sequential(torch.jit.script(net())), "at '0' is TorchScript"),
    (lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(5)), "'0.weight' has no shape yet.*send one batch"),
    (lambda: net().to("meta"), "meta device.*load the weights"),
    (lambda: nn.Sequential(net(), Locked()), "cannot be copied.*locks"),
])
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_copied_is_refused_at_construction(model, message):
    for name in ("source", "tent"):
        with pytest.raises(NeedsError, match=message):
            Adapter(model(), make(name), device="cpu")


@pytest.mark.filterwarnings("ignore")
def test_quantised_networks_are_refused():
    try:
        model = quantised()
    except RuntimeError as why:
        pytest.skip(f"this torch quantises nothing here: {why}")
    with pytest.raises(NeedsError, match="quantised.*float network"):
        Adapter(model, make("tent"), device="cpu")


def test_wrappings_are_taken_off():
    expected = Adapter(net(), make("tent"), device="cpu")(X)
    for wrapped in (torch.compile(net()), nn.DataParallel(net())):
        torch.testing.assert_close(Adapter(wrapped, make("tent"), device="cpu")(X), expected)
    inside = nn.Sequential(torch.compile(net()[:4]), net()[4:])
    torch.testing.assert_close(Adapter(inside, make("tent"), device="cpu")(X), expected)
    assert type(inside[0]).__name__ == "OptimizedModule", "the caller's model is never changed"


class Bypassing(nn.Module):
    """Uses the tensors of its layer, not the layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x):
        x = nn.functional.batch_norm(self.conv(x), self.bn.running_mean, self.bn.running_var, self.bn.weight, self.bn.bias)
        return self.head(x.relu().mean((2, 3)))


class Detaching(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        with torch.no_grad():
            return self.net(x)


def test_a_forward_that_passes_its_layers_by_is_named():
    with pytest.raises(NeedsError, match="Bypassing answered without calling one of its 1 batch-norm layers"):
        Adapter(Bypassing().eval(), make("batch_norm"), device="cpu")(X)
    closed = net()
    closed.forward = lambda x, own=nn.Sequential.forward: own(closed, x)  # on the copy this calls the original
    with pytest.raises(NeedsError, match="without calling one of its 1 batch-norm layers|does not depend on what it tunes"):
        Adapter(closed, make("tent"), device="cpu")(X)
    with pytest.raises(NeedsError, match="does not depend on what it tunes.*no_grad"):
        Adapter(Detaching(), make("tent"), device="cpu")(X)
    assert Adapter(Detaching(), make("batch_norm"), device="cpu")(X).shape == (8, 5)


# --- answers that are not finite --------------------------------------------------------------------------------------------

class Steep(LossMethod):
    """A finite loss whose gradient is not finite: the weights after one step are NaN."""

    def losses(self, ctx, state):
        z = ctx.logits
        return z.softmax(1).amax(1) + (z - z.detach()).square().sum(1).sqrt()


def steep(answer: str) -> LossMethod:
    return Steep(norm=BatchStatistics(), update=Step(rule="sgd", lr=1e-3), answer=answer)


def test_an_answer_after_the_step_that_is_not_finite_is_an_error():
    with pytest.raises(AdaptationError, match="NaN or infinity for 8 of 8 images.*spoiled the weights.*reset"):
        Adapter(tiny("tinybn"), steep("after"), device="cpu")(X)
    before = Adapter(tiny("tinybn"), steep("before"), device="cpu")
    before(X)
    with pytest.raises(AdaptationError, match="no weight was moved"):
        before(X)


def test_on_error_source_takes_such_a_step_back():
    adapter = Adapter(tiny("tinybn"), steep("after"), device="cpu", on_error="source")
    answers = [adapter(X) for _ in range(2)]
    assert all(torch.equal(y, adapter.predict_source(X)) for y in answers) and len(adapter.errors) == 2
    assert all(torch.isfinite(p).all() for p in adapter.tuned.values()) and len(adapter.trace) == 16
    assert adapter.trace.step("failed").tolist() == [True, True]


class Overflows(nn.Module):
    """Answers NaN for bright images."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        return self.net(x) + torch.where(x.mean((1, 2, 3), keepdim=True) > 0.9, torch.nan, 0.0).flatten(1)


@pytest.mark.parametrize("name", ["source", "batch_norm", "wisdom_of_crowds"])
def test_a_source_that_answers_nan_is_remarked(name):
    x = X.clone()
    x[2] = 1.0
    adapter = Adapter(Overflows(), make(name), device="cpu")
    with pytest.raises(AdaptationError, match=r"1 of 8 images \(ids \[2\]\)"):
        adapter(x)
    assert adapter.seen == 0 and len(adapter.trace) == 0
    deployed = Adapter(Overflows(), make(name), device="cpu", on_error="source")
    with pytest.raises(AdaptationError, match="the source model answers with NaN"):
        deployed(x)
    with pytest.raises(AdaptationError):
        deployed.predict_source(x)
    assert torch.isfinite(deployed(X)).all()


def test_minus_infinity_is_a_probability_of_zero():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, x):
            return torch.cat([self.net(x), torch.full((len(x), 1), -torch.inf)], 1)

    assert Adapter(Masked(), make("source"), device="cpu")(X).shape == (8, 6)


@pytest.mark.parametrize("spoil", [lambda m: m[0].weight.data.fill_(torch.nan), lambda m: m[5].bias.data.fill_(torch.inf),
                                   lambda m: m[1].running_mean.fill_(torch.nan)])
def test_weights_that_are_not_finite_are_refused(spoil):
    model = net()
    with torch.no_grad():
        spoil(model)
    with pytest.raises(NeedsError, match="of the model holds NaN or infinite"):
        Adapter(model, make("source"), device="cpu")


# --- arguments ----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("given", "message"), [
    ({"recipe": 3}, "recipe must be a method"), ({"recipe": "tnet"}, "did you mean 'tent'"), ({"recipe": type(make("tent"))}, "not the class Tent"),
    ({"recipe": BatchStatistics()}, "only a piece"), ({"model": 3}, "model must be a network"), ({"model": nn.Linear}, "not its class Linear"),
    ({"model": "no_such_model"}, "names no model"), ({"seed": "x"}, "seed must be a whole number"), ({"seed": -1}, "seed must be"),
    ({"seed": 1.5}, "seed must be"), ({"seed": True}, "seed must be"), ({"device": "gpu"}, "device must be 'auto' or a device"),
    ({"amp": "half"}, "amp must be None or torch.bfloat16"), ({"amp": torch.float16}, "losses scaled"), ({"amp": True}, "amp must be"),
    ({"record": "all"}, "record must be one of 'light', 'source', 'off'"), ({"record": True}, "record must be"),
    ({"on_error": "skip"}, "on_error must be"), ({"validate": "never"}, "validate must be"), ({"channels_last": "yes"}, "channels_last must be True"),
    ({"source_info": [1]}, "source_info must be what"),
])
def test_arguments_are_checked_with_a_sentence(given, message):
    arguments = {"model": net(), "recipe": make("tent"), "device": "cpu"} | given
    with pytest.raises(ValueError, match=message) if "source_info" not in given else pytest.raises(TypeError, match=message):
        Adapter(arguments.pop("model"), arguments.pop("recipe"), **arguments)


def test_texts_and_numbers_of_numpy_are_taken():
    adapter = Adapter("fashion_resnet_bn", "tent", seed=np.int64(3), amp="bf16", device="cpu")
    assert adapter.seed == 3 and adapter.amp == torch.bfloat16 and type(adapter.recipe).__name__ == "Tent"
    assert adapter(torch.rand(4, 1, 28, 28)).shape == (4, 10)


@pytest.mark.parametrize("settings", [{"update": "sgd"}, {"norm": "batch"}, {"train": "all"}, {"cadence": 3}, {"norm": BatchStatistics},
                                      {"select": "x"}, {"penalties": 3}, {"update": BatchStatistics()}])
def test_what_is_no_part_is_refused_when_the_recipe_is_made(settings):
    with pytest.raises(TypeError, match=f"Tent.{next(iter(settings))} takes"):
        make("tent", **settings)


def test_a_part_of_another_kind_is_refused():
    with pytest.raises(TypeError, match="Cotta.augment takes a part"):
        make("cotta", augment=BatchStatistics())
    assert make("tent", select=[]).select == ()


@pytest.mark.parametrize("ids", [torch.arange(5), torch.arange(8.0), "abcdefgh", torch.zeros(8, 2, dtype=torch.long), [None] * 8])
@pytest.mark.parametrize("on_error", ["raise", "source"])
def test_wrong_ids_are_refused_and_leave_no_rows(ids, on_error):
    adapter = Adapter(net(), make("tent"), device="cpu", on_error=on_error)
    with pytest.raises(InputError, match="ids"):
        adapter(X, ids)
    assert len(adapter.trace) == adapter.seen == adapter.steps == 0 and not adapter.errors
    adapter(X, list(range(8))), adapter(X, np.arange(8, 16))
    assert adapter.trace["id"].tolist() == list(range(16))


def test_rejected_images_keep_their_ids_under_on_error_source():
    adapter = Adapter(net(), make("tent"), device="cpu", on_error="source")
    x = X.clone()
    x[3] = torch.nan
    adapter(x, torch.arange(100, 108)), adapter(X, torch.arange(200, 208))
    assert adapter.trace["id"].tolist() == [*range(100, 108), *range(200, 208)] and len(adapter.errors) == 1


# --- modes around a call ---------------------------------------------------------------------------------------------------------

class Headed(nn.Module):
    """A network with features and head, 5 classes."""

    def __init__(self, head: nn.Module | None = None):
        super().__init__()
        self.body, self.head = net()[:5], head or nn.Linear(8, 5)

    def features(self, x):
        return self.body(x)

    def forward(self, x):
        return self.head(self.features(x))


def headed(kind=Headed, **settings) -> nn.Module:
    torch.manual_seed(0)
    model = kind(**settings)
    model.eval()
    return model


@pytest.mark.parametrize("name", ["t3a", "lame", "rotta", "adanpc", "santa"])
def test_autocast_around_the_caller_changes_nothing(name):
    model, labels, around = headed(), torch.arange(8) % 5, torch.autocast("cpu", dtype=torch.bfloat16)
    given = source.prepare(model, name, X, labels, batch=4, device="cpu")
    with around:
        same = source.prepare(model, name, X, labels, batch=4, device="cpu")
    a, b = (Adapter(model, make(name), device="cpu", source_info=g) for g in (given, same))
    for _ in range(2):
        expected = a(X)
        with around:
            answer = b(X)
        assert answer.dtype == torch.float32 and torch.equal(answer, expected)
    with around:
        assert torch.equal(b.predict_source(X), a.predict_source(X)) and torch.equal(b.predict(X), a.predict(X))


@pytest.mark.parametrize("name", ["tent", "sar"])
def test_weights_cast_by_autocast_are_those_after_the_step(name):
    recipe = make(name, lr=0.1, answer="after", train=AllParameters())
    a, b = (Adapter(net(), recipe, device="cpu", amp="bf16") for _ in range(2))
    for _ in range(2):
        expected = a(X)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(b(X), expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", ["eata", "petal"])
def test_prepare_takes_gradients_whatever_mode_surrounds_it(name, mode):
    expected = source.prepare(headed(), name, X, torch.arange(8) % 5, batch=4, device="cpu")
    with mode():
        given = source.prepare(headed(), name, X.clone(), torch.arange(8) % 5, batch=4, device="cpu")
    assert all(torch.equal(given[what][k], v) for what in expected for k, v in expected[what].items())


# --- networks as people write them -----------------------------------------------------------------------------------------------

class Forgets(Headed):
    def train(self, mode=True):  # a common slip: nothing is returned
        super().train(mode)
        self.body[1].eval()


class ByKeyword(Headed):
    def features(self, x):
        for layer in self.body:
            x = layer(input=x)
        return x

    def forward(self, x):
        return self.head(input=self.features(x))


class ExtraState(Headed):
    def get_extra_state(self):
        return "version 1"

    def set_extra_state(self, state):
        assert state == "version 1"


@pytest.mark.parametrize("kind", [Forgets, ByKeyword, ExtraState])
def test_networks_as_people_write_them_are_adapted_and_looked_at(kind):
    model, same = headed(kind), headed()
    for name in ("tent", "t3a", "cotta"):
        a, b = Adapter(model, make(name), device="cpu"), Adapter(same, make(name), device="cpu")
        assert all(torch.equal(a(X), b(X)) for _ in range(2))
        a.load_state_dict(a.state_dict())
    assert torch.equal(with_input_card(model, size=16)(X), with_input_card(same, size=16)(X))
    images = wrap([(x, i % 5) for i, x in enumerate(X)], classes=list("abcde"))
    assert {f.check for f in check_up(model, images, device="cpu").findings} == {f.check for f in check_up(same, images, device="cpu").findings}


class Whole(nn.Module):
    """No ``features``; a linear layer of K outputs after the classifier, and one that is never called."""

    def __init__(self):
        super().__init__()
        self.body, self.fc, self.rotation, self.unused = net()[:5], nn.Linear(8, 5), nn.Linear(8, 5), nn.Linear(8, 5)

    def forward(self, x):
        x = self.body(x)
        self.turned = self.rotation(x)
        return self.fc(x)


def test_the_classifier_is_found_before_other_linear_layers_and_in_compiled_networks():
    model = headed(Whole)
    for given in (model, torch.compile(model, backend="eager"), nn.DataParallel(model)):
        carded = with_input_card(given, size=16)
        assert carded.head is model.fc and torch.equal(carded(X), model(X))
        assert Adapter(carded, make("t3a"), device="cpu")(X).shape == (8, 5)


def test_the_remedy_for_missing_features_is_not_what_was_done_already():
    model = nn.Sequential(*net()[:4], nn.Conv2d(8, 5, 1), nn.Flatten())
    with pytest.raises(NeedsError, match="with_input_card"):
        Adapter(model, make("t3a"), device="cpu")
    with pytest.raises(NeedsError, match="looked for in front of its linear layers") as why:
        Adapter(with_input_card(model, size=16), make("t3a"), device="cpu")
    assert "with_input_card" not in str(why.value)


@pytest.mark.parametrize("wrapped", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_a_head_whose_weight_is_computed_is_read_as_it_will_be(wrapped):
    trained, loaded = (headed(head=wrapped(nn.Linear(8, 5))) for _ in range(2))
    nn.init.normal_(trained.head.weight_v if hasattr(trained.head, "weight_v") else trained.head.weight_orig)
    loaded.load_state_dict(trained.state_dict())  # the weight itself is that of before until a forward
    trained(X)
    a, b = (Adapter(model, make("t3a"), device="cpu") for model in (trained, loaded))
    assert all(torch.equal(a(X), b(X)) for _ in range(2))


@pytest.mark.parametrize("name", ["rmt", "santa"])
def test_what_a_method_brings_along_is_in_the_precision_of_the_model(name):
    model = headed().double()
    given = source.prepare(model, name, X, torch.arange(8) % 5, batch=4, device="cpu")
    adapter = Adapter(model, make(name), device="cpu", source_info=given)
    assert all(adapter(X).dtype == torch.float64 for _ in range(2))


def test_other_answers_than_logits_are_named():
    class Named(Headed):
        def __init__(self, *names):
            super().__init__()
            self.names = names

        def forward(self, x):
            z = super().forward(x)
            return {name: z if name == "logits" else z * 0 for name in self.names}

    with pytest.raises(NeedsError, match="a dict of pred, aux"):
        Adapter(Named("pred", "aux"), make("tent"), device="cpu")(X)
    assert Adapter(Named("out", "logits"), make("source"), device="cpu")(X).abs().max() > 0


def test_the_adapted_network_can_be_pickled_whole():
    adapter = Adapter(net(), make("tent"), device="cpu")
    adapter(X)
    found = pickle.loads(pickle.dumps(adapter.model))
    assert torch.equal(found(X), adapter.model(X)) and not torch.equal(found(X), net()(X))
    twin = copy.deepcopy(adapter)
    assert torch.equal(twin(X), adapter(X))


# --- states -------------------------------------------------------------------------------------------------------------------

def state_of(spoil) -> dict:
    adapter = Adapter(net(), make("tent"), device="cpu", seed=0)
    adapter(X), adapter(X)
    state = adapter.state_dict()
    spoil(state)
    return state


def _shape(state):
    state["tensors"]["1.weight"] = torch.ones(1)


def _average(state):
    state["optimizer"]["state"][0]["exp_avg"] = torch.ones(3)


@pytest.mark.parametrize(("spoil", "message"), [
    (_shape, r"'1.weight' of shape \(1,\), this adapter \(8,\)"), (_average, "exp_avg"), (lambda s: s.pop("rng"), "lacks rng"),
    (lambda s: s["tensors"].pop("1.bias"), "other tensors"), (lambda s: s.update(rng=torch.zeros(3, dtype=torch.uint8)), "damaged"),
    (lambda s: s.update(trace={"nonsense": 1}), "damaged"), (lambda s: s.update(states={}), "damaged"),
    (lambda s: s.update(errors=None), "errors must be of the type list, not NoneType"),
    (lambda s: s.update(seen="many"), "seen must be"), (lambda s: s.update(meta=None), "meta must be"),
    (lambda s: s.update(cost={"a": 1}), "it counts"), (lambda s: s.clear(), "belongs to another"),
])
def test_a_damaged_state_changes_nothing(spoil, message):
    adapter = Adapter(net(), make("tent"), device="cpu", seed=0)
    adapter(X)
    before, rows = adapter.state.take(), len(adapter.trace)
    with pytest.raises(ValueError, match=message):
        adapter.load_state_dict(state_of(spoil))
    assert all(before[k] == getattr(adapter, k) for k in ("steps", "was_reset", "cost")) and adapter.errors == []
    after = adapter.state.take()
    assert all(torch.equal(after["tensors"][k], v) for k, v in before["tensors"].items()) and torch.equal(after["rng"], before["rng"])
    assert len(adapter.trace) == rows and after["seen"] == before["seen"]
    with pytest.raises(ValueError, match="expected what state_dict"):
        adapter.load_state_dict([1])


def _replaced(path, value):
    def spoil(state):
        *way, last = path
        for key in way:
            state = state[key]
        state[last] = value
    return spoil


@pytest.mark.parametrize(("name", "path", "value", "message"), [
    ("cotta", ("states", "method", "teacher", "body.1.weight"), torch.ones(9), r"teacher body.1.weight should be of shape \(8,\), not \(9,\)"),
    ("cotta", ("states", "method", "teacher", "body.1.bias"), None, "teacher body.1.bias should be of shape"),
    ("cotta", ("states", "method", "teacher"), {}, "teacher should hold body.0.weight"),
    ("t3a", ("states", "method", "supports"), torch.ones(5, 3), "supports should be of shape"),
    ("tent", ("seen",), "x", "seen must be of the type int"), ("tent", ("steps",), -1, "steps must be"),
    ("tent", ("cost",), {}, "it counts"), ("tent", ("errors",), 3, "errors must be of the type list"), ("tent", ("was_reset",), 2, "was_reset"),
])
def test_what_parts_remember_is_compared_too(name, path, value, message):
    a, b = (Adapter(headed(), make(name), device="cpu") for _ in range(2))
    a(X), a(X), b(X)
    state, before = a.state_dict(), b.state_dict()
    _replaced(path, value)(state)
    with pytest.raises(ValueError, match="damaged.*" + message):
        b.load_state_dict(state)
    twin = Adapter(headed(), make(name), device="cpu")
    twin.load_state_dict(before)
    assert torch.equal(twin(X), b(X)), "the adapter was left as it was"
    b.load_state_dict(a.state_dict())
    assert torch.equal(a(X), b(X))


# --- one quantity, one knob -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "short", "value", "leader", "follower"), [
    ("eta", "fraction", 0.5, "select.0.fraction", "select.2.fraction"), ("eata", "fraction", 0.5, "select.0.fraction", "select.2.fraction"),
    ("rdumb", "fraction", 0.5, "select.0.fraction", "select.2.fraction"), ("paf_kip", "fraction", 0.5, "select.0.fraction", "penalties.0.fraction"),
    ("unient", "soft", True, "select.0.soft", "penalties.1.soft"),
])
def test_one_quantity_of_a_paper_moves_as_one(name, short, value, leader, follower):
    def values(recipe: Part) -> list:
        from tta_lab.core.knobs import knobs
        found = {k.name: k.value for k in knobs(recipe)}
        return [found[leader], found[follower]]

    start = values(make(name))[0]
    assert start != value
    assert values(make(name, **{short: value})) == values(make(name, **{leader: value})) == [value, value]
    assert values(make(name, **{follower: value})) == [start, value], "it follows unless it is set"
    assert values(make(name, **{leader: value, follower: start})) == [value, start]


# --- what is taken from the source beforehand ---------------------------------------------------------------------------------------

@pytest.mark.parametrize(("given", "message"), [
    ({"model": 3}, "model must be a network"), ({"recipe": 3}, "recipe must be a method"), ({"images": [1, 2]}, "images must be an image set"),
    ({"images": "no_such_set"}, "no embedded image set"), ({"images": (X * 255).byte()}, "float in"),
    ({"labels": torch.zeros(3).long()}, "8 source images but 3 labels"),
    ({"labels": torch.zeros(8)}, "labels must be 8 whole numbers"), ({"batch": 0}, "batch must be"), ({"limit": "all"}, "limit must be"),
    ({"cache": 3}, "cache must be a path"),
])
def test_arguments_of_prepare_are_checked(given, message):
    arguments = {"model": net(), "recipe": "eata", "images": X, "labels": None, "batch": 4} | given
    with pytest.raises(ValueError, match=message):
        source.prepare(arguments.pop("model"), arguments.pop("recipe"), arguments.pop("images"), arguments.pop("labels"), **arguments)


def test_prepare_takes_texts_and_precision():
    found = source.prepare("fashion_resnet_bn", "eata", "fashion_mnist_train_slice", limit=64)
    assert set(found) == {"fisher"}
    double = source.prepare(net().double(), "eata", X, batch=4)["fisher"]
    single = source.prepare(net(), make("eata"), X, batch=4)["fisher"]
    assert all(v.dtype == torch.float64 for v in double.values())
    torch.testing.assert_close({k: v.float() for k, v in double.items()}, single, atol=1e-5, rtol=1e-3)
