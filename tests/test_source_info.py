"""What a recipe takes from the source domain is declared by the part that uses it."""

from dataclasses import dataclass, replace

import pytest
import torch
from tiny import source_images, stream, tiny

from tta_lab import Adapter, make, prepare
from tta_lab.components.source.prepare import fisher, moments, seen
from tta_lab.core.knobs import knob
from tta_lab.core.parts import LossMethod, NeedsError, Part, Penalty, Step
from tta_lab.core.run_keys import maker_code
from tta_lab.core.source_info import Made, SourceInfo, source_info, source_info_of
from tta_lab.experiments.experiment import needs
from tta_lab.methods.composed import Composed, RegionEntropy
from tta_lab.methods.tent import Tent

CALLS = []


@source_info(
    "the mean image without its border, from unlabelled source images", batch=50, limit=120
)
def mean_image(probe, images, *, crop):
    batches = [x for x, _ in images]
    CALLS.append((crop, [len(x) for x in batches]))
    return {"mean": torch.cat(batches)[..., crop:-crop, crop:-crop].mean(0)}


@dataclass(frozen=True, kw_only=True)
class _Brightness(Tent):
    crop: int = knob(2, (1, 7), "pixels cut off at each side")
    source_info = (mean_image,)

    def losses(self, ctx, state):
        return super().losses(ctx, state) + ctx.source_info["mean_image"]["mean"].mean()


@dataclass(frozen=True)
class _Bright(Penalty):
    crop: int = knob(2, (1, 7), "pixels cut off at each side")
    source_info = (mean_image,)

    def __call__(self, ctx, losses, weights, state):
        return ctx.source_info["mean_image"]["mean"].mean() * ctx.logits.square().mean()


@pytest.fixture(autouse=True)
def nothing_made_yet():
    CALLS.clear()


def test_a_maker_sees_its_knobs_and_owns_batch_and_limit():
    x, _ = source_images()
    net, recipe = tiny("tinybn"), _Brightness(crop=3)
    given = prepare(net, recipe, x, device="cpu")
    assert CALLS == [(3, [50, 50, 20])]
    torch.testing.assert_close(given["mean_image"]["mean"], x[:120, :, 3:-3, 3:-3].mean(0))
    answer = Adapter(net, recipe, device="cpu", source_info=given)(stream("s1")[0][0])
    assert torch.isfinite(answer).all()
    prepare(net, recipe, x, batch=40, limit=100, device="cpu")
    assert CALLS[1] == (3, [40, 40, 20])
    assert prepare(net, make("tent"), x, device="cpu") == {}


def test_no_limit_takes_all_images():
    x, _ = source_images()
    everything = replace(mean_image, limit=None)

    class All(_Brightness):
        source_info = (everything,)

    prepare(tiny("tinybn"), All(), x[:230], device="cpu")
    assert CALLS == [(2, [50, 50, 50, 50, 30])]


def test_the_cache_holds_all_that_the_numbers_depend_on(tmp_path):
    x, _ = source_images()

    def made(recipe=_Brightness(), net="tinybn", x=x, **options):
        CALLS.clear()
        found = prepare(tiny(net), recipe, x, cache=tmp_path, device="cpu", **options)
        return len(CALLS), found["mean_image"]["mean"]

    first = made()
    assert first[0] == 1 and torch.equal(made()[1], first[1])
    for settings in (
        {},
        {"recipe": _Brightness(update=Step(lr=0.1))},
        {"batch": 50},
        {"limit": 120},
    ):
        assert made(**settings)[0] == 0, settings
    for settings in (
        {"recipe": _Brightness(crop=3)},
        {"recipe": _Brightness(norm=make("source").norm)},
        {"net": "tinygn"},
        {"batch": 40},
        {"limit": 119},
        {"x": x.flip(0)},
    ):
        assert made(**settings)[0] == 1, settings
        assert made(**settings)[0] == 0, settings

    def mean_image_(probe, images, *, crop):
        return {"mean": torch.cat([v for v, _ in images])[..., crop:-crop, crop:-crop].mean(0) + 1}

    class Other(_Brightness):
        source_info = (replace(mean_image, make=mean_image_),)

    assert made(recipe=Other()) != first and torch.equal(made(recipe=Other())[1], first[1] + 1), (
        "another maker of that name"
    )
    assert {p.suffix for p in tmp_path.iterdir()} == {".safetensors"}


def test_the_code_of_a_maker_counts_and_that_of_what_it_calls():
    def build(text):
        space = {"__name__": "elsewhere"}
        exec(text, space)  # noqa: S102
        return space["make"]

    plain = "def helper(x):\n    return x * {}\ndef make(probe, images):\n    return helper({})\n"
    one = maker_code(build(plain.format(2, 3)))
    assert one == maker_code(build("# said otherwise\n" + plain.format(2, 3)))
    assert (
        len({one, maker_code(build(plain.format(2, 4))), maker_code(build(plain.format(5, 3)))})
        == 3
    )
    assert maker_code(moments.make) != maker_code(fisher.make)


def test_what_is_missing_or_made_for_something_else_is_said_in_words():
    x, _ = source_images()
    net = tiny("tinybn")
    with pytest.raises(
        NeedsError,
        match=r"_Brightness needs the mean image without its border.*= tta_lab.prepare\(model",
    ):
        Adapter(net, _Brightness(), device="cpu")
    given = prepare(net, _Brightness(), x, device="cpu")
    with pytest.raises(
        NeedsError,
        match=r"'mean_image' that was made for other knobs \(crop=2\) than .* \(crop=3\)",
    ):
        Adapter(net, _Brightness(crop=3), device="cpu", source_info=given)
    with pytest.raises(
        NeedsError,
        match=r"'mean_image' that was made for other weights \(\w{12}\) than .* \(\w{12}\)",
    ):
        Adapter(tiny("tinygn"), _Brightness(), device="cpu", source_info=given)
    Adapter(
        net.half(), _Brightness(), device="cpu", source_info=prepare(net, _Brightness(), x, device="cpu")
    )
    by_hand = {"mean_image": dict(given["mean_image"])}  # says nothing of model and knobs
    Adapter(tiny("tinygn"), _Brightness(crop=3), device="cpu", source_info=by_hand)
    assert isinstance(given["mean_image"], Made)
    assert (
        needs(_Brightness()) == f"Needs {mean_image.what} (made from source images before the run)."
    )


def test_two_parts_take_the_same_once_or_say_that_they_disagree():
    x, _ = source_images()
    recipe = _Brightness(penalties=(_Bright(),))
    prepare(tiny("tinybn"), recipe, x, device="cpu")
    assert len(CALLS) == 1
    with pytest.raises(
        NeedsError,
        match=r"_Brightness: two parts take 'mean_image'.*crop=2.*crop=5.*make them equal",
    ):
        source_info_of(_Brightness(penalties=(_Bright(crop=5),)))


def test_a_declaration_that_cannot_be_met_is_refused():
    @dataclass(frozen=True, kw_only=True)
    class Cropless(Tent):
        source_info = (mean_image,)

    with pytest.raises(
        TypeError,
        match="maker of 'mean_image' asks for the knob 'crop', which Cropless does not have",
    ):
        source_info_of(Cropless())

    @dataclass(frozen=True, kw_only=True)
    class Old(Tent):
        needs = frozenset({"fisher"})

    with pytest.raises(
        NeedsError,
        match=r"Old declares that it needs 'fisher' of the model.*source_info = \(maker,\)",
    ):
        Adapter(tiny("tinybn"), Old(), device="cpu")


def test_a_borrowed_part_takes_what_its_lender_takes():
    recipe = Composed(objective=RegionEntropy())
    assert list(source_info_of(recipe)) == ["moments"] and isinstance(
        source_info_of(recipe)["moments"], SourceInfo
    )
    assert source_info_of(Composed()) == {}


def test_a_maker_may_look_at_layers():
    """In the recipe's normalisation, as a step does."""

    @source_info("the mean output of a layer")
    def level(probe, images):
        with torch.no_grad():
            found = [seen(probe, x).outputs(["features.1"])["features.1"] for x, _ in images]
        return {"mean": torch.cat(found).mean((0, 2, 3))}

    @dataclass(frozen=True, kw_only=True)
    class Level(LossMethod):
        norm: Part = make("tent").norm
        source_info = (level,)

    x, _ = source_images()
    net = tiny("tinybn")
    found = prepare(net, Level(), x[:64], device="cpu")["level"]["mean"]
    torch.testing.assert_close(
        found, net.features[1].bias.detach(), atol=1e-5, rtol=0
    )  # of batch statistics
    still = prepare(net, Level(norm=make("source").norm), x[:64], device="cpu")["level"]["mean"]
    torch.testing.assert_close(
        still, net.features[:2](x[:64]).mean((0, 2, 3)).detach(), atol=1e-5, rtol=1e-5
    )


def _plain(probe, images):
    return {}


@pytest.mark.parametrize("declared", [(_plain,), ("mean_image",), mean_image])
def test_a_declaration_is_a_tuple_of_declared_makers(declared):
    class Slip(_Brightness):
        source_info = declared

    with pytest.raises(
        TypeError, match=r"Slip.source_info must be a tuple of .*@source_info\(...\), such as \(m"
    ):
        prepare(tiny("tinybn"), Slip(), source_images()[0], device="cpu")


def _tensor(probe, images):
    return torch.zeros(3)


def _number(probe, images):
    return {"mean": 1.0}


def _asks(probe, images, *, family):
    return {}


def _behind(probe, images, crop):
    return {}


@pytest.mark.parametrize(
    ("make_it", "said"),
    [
        (_tensor, "must return a dict, name -> tensor, not tensor"),
        (_number, "must return a dict, name -> tensor, not {'mean': 1.0}"),
        (_asks, "asks for the knob 'family', which Slip does not have"),
        (_behind, "'crop'; write its knobs behind a"),
    ],
)
def test_slips_of_a_maker_are_named(make_it, said):
    class Slip(_Brightness):
        source_info = (source_info("something")(make_it),)

    with pytest.raises(TypeError, match=f"the maker of '{make_it.__name__}' .*{said}"):
        prepare(tiny("tinybn"), Slip(), source_images()[0], device="cpu")
