"""One contract for every method and every selector found, on classifiers in three normalisations and a segmenter."""
import copy
import io
import itertools

import pytest
import torch
from tiny import around, given, source_images, stream, tiny

from tta_lab.components.selectors import SELECTORS
from tta_lab.components.source import prepare as source
from tta_lab.core.adapter import Adapter
from tta_lab.core.knobs import knobs
from tta_lab.core.parts import AllParameters, NeedsError, NormAffine, Selector, needs_of
from tta_lab.core.source_info import source_info_of
from tta_lab.core.source_model import InputError
from tta_lab.methods import METHODS, make
from tta_lab.methods.serialise import PARTS, from_json, to_json

MODELS = ("tinybn", "tinygn", "tinyvit", "tinyseg")
ENDS_AT_THE_SOURCE = {"memo"}       # every image is an episode of its own
CHAINS = [(), *[(kind(),) for kind in SELECTORS.values()], tuple(kind() for kind in SELECTORS.values())]
ALL = [(name, chain, model, amp) for name, chain, model, amp in itertools.product(METHODS, CHAINS, MODELS, (None, torch.bfloat16))
       if METHODS[name]().learns or not chain]


SETTINGS = {name: {"views": 2} for name in ("memo", "cotta", "stamp", "petal")}        # dear ones at less than their published size
ROWS = {"memo": 5}


def pairs(case):
    return set(itertools.combinations(enumerate(case), 2))


def cover(cases):
    """A few of the cases in which every pair of values occurs that occurs in any."""
    missing, chosen = set().union(*map(pairs, cases)), []
    while missing:
        chosen.append(max(cases, key=lambda case: len(pairs(case) & missing)))
        missing -= pairs(chosen[-1])
    return chosen


COVER = cover(ALL)
CASES = [case if case in COVER else pytest.param(*case, marks=pytest.mark.slow) for case in ALL]


def ident(value):
    if isinstance(value, tuple):
        return "+".join(type(s).__name__ for s in value) or "all"
    return "float32" if value is None else str(value).removeprefix("torch.")


def obstacle(name, model):
    """What the refusal must say where a method cannot run on a model, or None."""
    needs = needs_of(make(name))
    if "batch_norm" in needs and model in ("tinygn", "tinyvit"):
        return "batch-norm"
    if "features" in needs and model == "tinyseg":
        return "'features' and 'head'"
    return "takes classifiers" if model == "tinyseg" and "segmentation" not in METHODS[name].tasks else None


@pytest.fixture(scope="module")
def batches():
    return [x[:24] for x in stream("s3")[0][:4]]


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize(("name", "chain", "model", "amp"), CASES, ids=ident)
def test_contract(name, chain, model, amp, batches):
    net = tiny(model)
    recipe = make(name, **SETTINGS.get(name, {}))
    recipe, rows = recipe.where(*chain) if chain else recipe, ROWS.get(name, 24)
    batches = [x[:rows] for x in batches]
    if obstacle(name, model):
        with pytest.raises(NeedsError, match=obstacle(name, model)):
            Adapter(net, recipe, device="cpu", source_info={**{name: {} for name in source_info_of(recipe)}, "posterior": around(net)})(batches[0])
        return
    options = {"seed": 1, "device": "cpu", "amp": amp, "source_info": given(make(name), model)}
    before, global_rng = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    adapter = Adapter(net, recipe, **options, record="source")
    with torch.no_grad():
        first = [adapter(x) for x in batches]
    assert all(z.shape[:2] == (rows, 5 if model == "tinyseg" else 10) and z.dtype == torch.float32 for z in first)
    assert all(torch.isfinite(z).all() and not z.requires_grad for z in first)

    # the caller's model, its gradients and the global generator are untouched
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), global_rng)

    # only declared parameters move, and they do
    frozen, tuned = dict(adapter.source.named_parameters()), {k for k in adapter.tuned if not k.startswith("extra.")}
    shared = {k for k, p in adapter.model.named_parameters() if p is frozen.get(k)}
    assert shared.isdisjoint(tuned) and shared | tuned == set(frozen)
    assert all(torch.equal(frozen[k], before[k]) for k in frozen)
    if name not in ENDS_AT_THE_SOURCE:
        moved = (adapter.trace.step("distance") > 0).any()
        assert moved == (recipe.learns and not adapter.trace.step("skipped").all())

    # reset, a fresh adapter without records, and inference mode give the same bits
    adapter.reset()
    assert same([adapter(x) for x in batches], first)
    with torch.inference_mode():
        plain = Adapter(net, recipe, **options, record="off")
        assert same([plain(x) for x in batches], first)

    # interrupted after any batch and gone on elsewhere: the same bits and the same trace
    stopped = Adapter(net, recipe, **options, record="source")
    answers = [stopped(x) for x in batches[:2]]
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    file.seek(0)
    resumed = Adapter(net, recipe, **options, record="source")
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert same(answers + [resumed(x) for x in batches[2:]], first)
    for column in ("id", "entropy", "kept", "rise_source") if model != "tinyseg" else ("id", "entropy", "kept"):
        assert (resumed.trace[column] == adapter.trace[column]).all()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"tent"', None, 3])
def test_what_is_no_json_of_a_recipe_is_refused(text):
    with pytest.raises(ValueError, match=r"JSON of a recipe.*write it with to_json\(recipe\)"):
        from_json(text)


@pytest.mark.parametrize("name", METHODS)
def test_a_recipe_prints_compares_and_saves(name):
    recipe = make(name)
    assert eval(repr(recipe), dict(PARTS)) == recipe and hash(recipe) == hash(make(name))
    assert from_json(to_json(recipe)) == recipe
    if recipe.learns:
        chained = recipe.where(*(kind() for kind in SELECTORS.values()))
        assert from_json(to_json(chained)) == chained != recipe
        assert len(chained.select) == len(recipe.select) + len(SELECTORS)
    else:
        with pytest.raises(TypeError, match="no loss"):
            recipe.where(SELECTORS["entropy_threshold"]())


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_every_knob_is_described_and_guarded(part):
    try:
        rows = knobs(part)
    except TypeError:  # an interface without defaults
        pytest.skip("an interface, not a part")
    for k in rows:
        assert k.why, f"{part.__name__}.{k.name} has no sentence"
        assert k.choices is not None or isinstance(k.default, bool) or k.low < k.high
        assert k.choices is None or k.default in k.choices
        if "." not in k.name:
            outside = "no such value" if k.choices or isinstance(k.default, bool) else k.high * 2 + 1
            with pytest.raises(ValueError, match=k.name):
                part(**{k.name: outside})
            with pytest.raises(ValueError, match=k.name):
                part(**{k.name: None})


class _Nobody(Selector):
    def weights(self, ctx, losses, keep, state):
        return losses * 0


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("rule", ["adam", "sgd"])
def test_nothing_kept_nothing_moves(model, rule, batches):
    """Also when the optimiser has momentum from earlier steps."""
    adapter = Adapter(tiny(model), make("tent", rule=rule).where(_Nobody()), device="cpu")
    warm = Adapter(tiny(model), make("tent", rule=rule), device="cpu")
    warm(batches[0])
    adapter.optimizer.load_state_dict(warm.optimizer.state_dict())
    for x in batches[:2]:
        adapter(x)
    assert all(torch.equal(v, adapter.state.start[k]) for k, v in adapter.state.tensors.items())
    assert adapter.trace.step("skipped").all() and not adapter.trace["kept"].any()


@pytest.mark.parametrize(("train", "model"), list(itertools.product((NormAffine(), AllParameters()), MODELS)))
def test_tuned_parameters_are_those_declared(train, model, batches):
    net = tiny(model)
    adapter = Adapter(net, make("tent", train=train), device="cpu")
    norms = {f"{path}.{name}" for path, m in net.named_modules() if isinstance(m, (torch.nn.BatchNorm2d, torch.nn.GroupNorm, torch.nn.LayerNorm))
             for name, _ in m.named_parameters()}
    assert set(adapter.tuned) == (norms if train == NormAffine() else set(dict(net.named_parameters())))
    adapter(batches[0])
    moved = {k for k, p in adapter.tuned.items() if not torch.equal(p.detach(), adapter.state.start[k])}
    assert moved, "nothing moved"


# --- edges: every method takes them or says why not -----------------------------------------------------------------

class _Wide(torch.nn.Module):
    """The tiny network with another number of classes."""

    def __init__(self, classes):
        super().__init__()
        self.features = tiny("tinybn").features
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.head = torch.nn.Linear(64, classes)

    def forward(self, x):
        return self.head(self.features(x))


def edge(name, net, images, **options):
    recipe = make(name, **SETTINGS.get(name, {}))
    x, y = source_images()
    if "posterior" in needs_of(recipe):
        taken = {"posterior": around(net)}
    elif needs_of(recipe) & {"fisher", "neighbours"}:
        taken = source.prepare(net, recipe, x[:64], torch.arange(64) % net.head.out_features, device="cpu")
    else:
        taken = given(recipe, "tinybn")
    adapter = Adapter(net, recipe, device="cpu", source_info=taken, **options)
    return [adapter(v[:ROWS.get(name, 24)]) for v in images], adapter


@pytest.mark.parametrize("name", METHODS)
def test_edges(name, batches):
    constant = torch.full_like(batches[0], 0.5)
    x, y = source_images()
    for images in ([constant] * 2, [x[y == 3][:24]] * 2, [batches[0][:2]] * 2, [batches[0]]):
        answers, adapter = edge(name, tiny("tinybn"), images)
        assert all(torch.isfinite(z).all() for z in answers) and len(adapter.trace.step("loss")) == len(images)
    answers, _ = edge(name, tiny("tinybn"), [v[None] for v in batches[0][:3]])                 # single images
    assert all(z.shape == (1, 10) and torch.isfinite(z).all() for z in answers)


@pytest.mark.parametrize("classes", [2, 1000])
@pytest.mark.parametrize("name", [name for name in METHODS if not needs_of(METHODS[name]()) & {"prototypes", "replay"}])
def test_few_and_many_classes(name, classes, batches):
    answers, _ = edge(name, _Wide(classes), batches[:2])
    assert all(z.shape[1] == classes and torch.isfinite(z).all() for z in answers)


@pytest.mark.parametrize("name", METHODS)
def test_bad_images_touch_nothing_and_are_named(name, batches):
    _, adapter = edge(name, tiny("tinybn"), batches[:1])
    bad = batches[1][:ROWS.get(name, 24)].clone()
    bad[2, 0, 0, 0] = torch.nan
    file = [io.BytesIO(), io.BytesIO()]
    torch.save(adapter.state_dict(), file[0])
    with pytest.raises(InputError, match=r"ids \[902\]"):
        adapter(bad, torch.arange(900, 900 + len(bad)))
    torch.save(adapter.state_dict(), file[1])
    assert file[0].getvalue() == file[1].getvalue()


@pytest.mark.parametrize("name", METHODS)
def test_predicting_changes_nothing(name, batches):
    """predict() answers as the next call would where that answers before it learns, and leaves no mark: memories, draws, statistics."""
    (_, expected), _ = edge(name, tiny("tinybn"), batches[:2])
    _, adapter = edge(name, tiny("tinybn"), batches[:1])
    x = batches[1][:ROWS.get(name, 24)]
    guess = adapter.predict(x, torch.arange(len(x), 2 * len(x)))
    assert torch.equal(adapter(x), expected)
    if adapter.recipe.answer == "before" and adapter.recipe.norm.passes == 1:
        torch.testing.assert_close(guess, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name]().learns])
def test_an_empty_selection_moves_nothing_unless_declared(name, batches):
    recipe = make(name, penalties=(), when_empty="skip", **SETTINGS.get(name, {})).where(_Nobody())
    adapter = Adapter(tiny("tinybn"), recipe, device="cpu", source_info=given(make(name), "tinybn"))
    for x in batches[:2]:
        assert torch.isfinite(adapter(x[:ROWS.get(name, 24)])).all()
    assert all(torch.equal(p, adapter.origin[k]) for k, p in adapter.tuned.items()) and adapter.trace.step("skipped").all()
