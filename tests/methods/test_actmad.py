"""ActMAD against the runs of torch-ttt, and what the paper's form does by hand."""

from dataclasses import replace

import pytest
import torch
from reference_runs import Runs, step
from tiny import source_images, stream, tiny

from tta_lab import Adapter, make, prepare
from tta_lab.components.augment import CropFlip
from tta_lab.components.selectors import EntropyThreshold
from tta_lab.core.parts import NORM_LAYERS, NeedsError, Step
from tta_lab.core.source_info import source_info_of
from tta_lab.methods.actmad import chosen

RUNS = Runs("actmad")


def recipe(run, **changes):
    h = RUNS.settings(run)
    settings = {"form": "torch_ttt", "layers": tuple(h["layers"]), "update": step(h)}
    return make("actmad", **(settings | changes))


def deviations(run, batches=None, limit=1216, **changes):
    """Statistics of whole batches of source images; episodic runs adapt a copy."""
    x, _ = source_images()
    net, made = tiny(RUNS.index[run]["model"]), recipe(run, **changes)
    adapter = Adapter(
        net, made, device="cpu", source_info=prepare(net, made, x, limit=limit, device="cpu")
    )
    episodic = RUNS.settings(run)["copy_model"]
    outputs, losses = [], []
    for images in stream(RUNS.index[run]["stream"])[0][:batches]:
        outputs.append(adapter(images))
        losses.append(adapter.trace.step("loss")[-1])
        if episodic:
            adapter.reset(keep_trace=True)
    return RUNS.deviations(run, torch.stack(outputs).numpy(), adapter, seen={"info/loss": losses})


@pytest.mark.parametrize("run", RUNS.fixed)
def test_matches_the_reference(run):
    assert deviations(run) == [] and RUNS.unused(run) == []


@pytest.mark.parametrize(
    ("run", "changes"),
    [
        ("actmad-torchttt-episodic__tinybn__s1", {"pooled": False}),
        ("actmad-torchttt-episodic__tinybn__s1", {"scale": 0.9}),
        (
            "actmad-torchttt-episodic__tinybn__s1",
            {"layers": ("features.2", "features.5", "features.8")},
        ),
        ("actmad-torchttt-episodic__tinybn__s1", {"layers": ()}),
        (
            "actmad-torchttt-episodic__tinygn__s1",
            {"layers": ("features.1", "features.4", "features.7", "features.10")},
        ),
        ("actmad-torchttt-episodic__tinygn__s1", {"update": Step(lr=1e-3)}),
        ("actmad-torchttt-episodic__tinygn__s1", {"answer": "before"}),
        ("actmad-torchttt-episodic__tinybn__s1", {"limit": 1258}),
        ("actmad-torchttt-episodic__tinybn__s1", {"norm": make("tent").norm}),
    ],
)
def test_the_comparison_can_fail(run, changes):
    assert deviations(run, batches=2, **changes) != []


# --- the paper's form -----------------------------------------------------------------------------

X = source_images()[0]
NET = "tinybn"
NAMES = ("features.1", "features.4", "features.7", "features.10")


@pytest.fixture(scope="module")
def maps():
    return prepare(tiny(NET), make("actmad"), X, batch=100, limit=250, device="cpu")


def adapt(made, given, x, net=NET):
    adapter = Adapter(tiny(net), made, device="cpu", source_info=given)
    answer = adapter(x)
    return answer, adapter


def by_hand(net, x, given):
    """The loss of a batch, from the outputs of the layers one after the other."""
    loss, out = 0, x
    for i, layer in enumerate(net.features[:11]):
        out = layer(out)
        if f"features.{i}" in NAMES:
            mean, var = (
                given["layer_maps"][f"{what}/features.{i}"] for what in ("mean", "variance")
            )
            loss = loss + (out.mean(0) - mean).abs().mean() + (out.var(0) - var).abs().mean()
    return loss


def test_source_maps_are_averages_over_batches_of_every_norm_layer(maps):
    net = tiny(NET)
    found = maps["layer_maps"]
    assert list(found) == [f"{what}/{name}" for name in NAMES for what in ("mean", "variance")]
    with torch.no_grad():
        outputs = [net.features[:5](x) for x in X[:250].split(100)]
    close = {"atol": 1e-5, "rtol": 1e-4}
    for what, values in (
        ("mean", [o.mean(0) for o in outputs]),
        ("variance", [o.var(0) for o in outputs]),
    ):
        assert found[f"{what}/features.4"].shape == (32, 8, 8)
        torch.testing.assert_close(
            found[f"{what}/features.4"], torch.stack(values).mean(0), **close
        )
    together = torch.cat(outputs)
    pooled = prepare(tiny(NET), make("actmad", pooled=True), X, batch=100, limit=250, device="cpu")[
        "layer_maps"
    ]
    torch.testing.assert_close(pooled["mean/features.4"], together.mean(0), **close)
    torch.testing.assert_close(pooled["variance/features.4"], together.var(0), **close)
    assert (pooled["variance/features.4"] - found["variance/features.4"]).abs().max() > 1e-3


def test_a_lone_last_image_does_not_count():
    found = prepare(tiny(NET), make("actmad"), X, batch=100, limit=201, device="cpu")["layer_maps"]
    same = prepare(tiny(NET), make("actmad"), X, batch=100, limit=200, device="cpu")["layer_maps"]
    assert all(torch.equal(v, same[k]) for k, v in found.items())
    with pytest.raises(ValueError, match="layer maps need batches of two or more source images"):
        prepare(tiny(NET), make("actmad"), X, batch=1, limit=3, device="cpu")


def test_one_step_by_hand(maps):
    x, net = stream("s1")[0][0], tiny(NET)
    answer, adapter = adapt(make("actmad"), maps, x)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    loss = by_hand(net, x, maps)
    loss.backward()
    optimizer.step()
    assert adapter.trace.step("loss")[-1] == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(answer, net(x).detach(), atol=1e-5, rtol=1e-4)
    for name, p in net.named_parameters():
        torch.testing.assert_close(adapter.tuned[name], p, atol=1e-6, rtol=1e-5)
    moved = {name for name, p in adapter.tuned.items() if not torch.equal(p, adapter.origin[name])}
    assert {
        "features.0.weight",
        "features.1.weight",
        "features.10.bias",
    } <= moved and "head.weight" not in moved
    before = dict(tiny(NET).named_buffers())
    assert all(torch.equal(v, before[k]) for k, v in adapter.model.named_buffers()), (
        "statistics stay the source's"
    )
    assert adapter.cost == {"forwards": 2 * len(x), "backwards": len(x)}


def test_the_loss_is_small_on_the_source_and_nothing_where_statistics_agree(maps):
    x = X[:100]
    losses = [
        adapt(make("actmad"), maps, v)[1].trace.step("loss")[-1]
        for v in (X[300:400], stream("s1")[0][0])
    ]
    assert losses[0] < 0.4 * losses[1]
    own = prepare(tiny(NET), make("actmad"), x, batch=100, device="cpu")
    assert adapt(make("actmad"), own, x)[1].trace.step("loss")[-1] < 1e-4


def test_a_single_image_is_pulled_by_its_mean_alone(maps):
    x = stream("s1")[0][0][:1]
    net = tiny(NET)
    _, adapter = adapt(
        make("actmad", **{"update.momentum": 0.0, "nesterov": False, "weight_decay": 0.0}), maps, x
    )
    loss, out = 0, x
    for i, layer in enumerate(net.features[:11]):
        out = layer(out)
        if f"features.{i}" in NAMES:
            loss = loss + (out[0] - maps["layer_maps"][f"mean/features.{i}"]).abs().mean()
    loss.backward()
    for name in ("features.0.weight", "features.10.weight"):
        step = adapter.origin[name] - adapter.tuned[name]
        torch.testing.assert_close(step, 1e-3 * net.get_parameter(name).grad, atol=1e-6, rtol=1e-3)


def test_selectors_choose_whose_statistics_are_matched(maps):
    x = stream("s3")[0][0]
    with torch.no_grad():
        z = tiny(NET)(x)
    sure = (
        EntropyThreshold(0.4).weights(type("Sure", (), {"logits": z}), torch.zeros(len(x)), None, {}) > 0
    )
    assert 2 < sure.sum() < len(x) - 2
    chosen_few, alone = (
        adapt(make("actmad").where(EntropyThreshold(0.4)), maps, x)[1],
        adapt(make("actmad"), maps, x[sure])[1],
    )
    assert chosen_few.trace.step("loss")[-1] == pytest.approx(
        alone.trace.step("loss")[-1], rel=1e-5
    )
    assert chosen_few.trace.step("loss")[-1] == pytest.approx(
        by_hand(tiny(NET), x[sure], maps).item(), rel=1e-5
    )
    for name, p in chosen_few.tuned.items():
        torch.testing.assert_close(p, alone.tuned[name], atol=1e-6, rtol=1e-4)


def test_a_reset_puts_weights_and_momentum_back(maps):
    x = stream("s1")[0]
    adapter = Adapter(tiny(NET), make("actmad"), device="cpu", source_info=maps)
    first = [adapter(v) for v in x[:3]]
    adapter.reset()
    assert all(torch.equal(adapter(v), z) for v, z in zip(x, first, strict=False))


def test_the_reference_form_halves_the_loss_and_crops_source_and_batch(maps):
    x = stream("s1")[0][0]
    made = make("actmad", form="reference")
    assert made.scale == 0.5 and made.augment == CropFlip(pad=4)
    half = adapt(replace(made, augment=make("actmad").augment), maps, x)[1]
    whole = adapt(make("actmad"), maps, x)[1]
    assert half.trace.step("loss")[-1] == pytest.approx(whole.trace.step("loss")[-1] / 2, rel=1e-6)
    cropped = prepare(tiny(NET), made, X, batch=100, limit=250, device="cpu")
    assert (
        cropped["layer_maps"]["mean/features.1"] - maps["layer_maps"]["mean/features.1"]
    ).abs().max() > 0.05
    answer, adapter = adapt(made, cropped, x)
    again = tiny(NET)
    crops = CropFlip(pad=4)(x, torch.Generator().manual_seed(0))
    assert adapter.trace.step("loss")[-1] == pytest.approx(
        by_hand(again, crops, cropped).item() / 2, rel=1e-5
    )
    with torch.no_grad():
        torch.testing.assert_close(
            answer, adapter.model(x), atol=1e-6, rtol=1e-5
        )  # of the images as they are
    assert adapter.trace["kept"].all() and adapter.cost["forwards"] == 2 * len(x)


def test_other_networks_and_their_layers():
    for name in ("tinygn", "tinyvit"):
        net = tiny(name)
        expected = tuple(n for n, m in net.named_modules() if isinstance(m, NORM_LAYERS))
        assert chosen(net, ()) == expected and len(expected) > 3
        given = prepare(net, make("actmad"), X[:64], device="cpu")
        _, adapter = adapt(make("actmad"), given, stream("s1")[0][0], name)
        assert adapter.trace.step("distance")[-1] > 0
    bare = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 10))
    with pytest.raises(
        NeedsError,
        match="Actmad matches norm layers, but the model has none; set layers=",
    ):
        prepare(bare, make("actmad"), X[:64], device="cpu")
    found = prepare(bare, make("actmad", layers=("1",)), X[:64], device="cpu")
    assert found["layer_maps"]["mean/1"].shape == (10,)


def test_maps_of_another_model_other_layers_or_another_size_are_refused(maps):
    with pytest.raises(
        NeedsError,
        match="Actmad needs mean and variance maps of its layers, from unlabelled source images",
    ):
        Adapter(tiny(NET), make("actmad"), device="cpu")
    with pytest.raises(NeedsError, match="'layer_maps' that was made for other weights"):
        Adapter(tiny("tinygn"), make("actmad"), device="cpu", source_info=maps)
    with pytest.raises(
        NeedsError,
        match=r"was made for other knobs \(layers=\(\), .* than .* \(layers=\('features.2',\)",
    ):
        Adapter(tiny(NET), make("actmad", layers=("features.2",)), device="cpu", source_info=maps)
    Adapter(
        tiny(NET), make("actmad", lr=0.1, scale=0.3), device="cpu", source_info=maps
    )  # which the maps do not depend on
    with pytest.raises(
        NeedsError, match="mean of features.1 was made for other layers or images of another size"
    ):
        adapt(make("actmad"), maps, torch.rand(4, 3, 20, 20))
    plain = {
        "layer_maps": {k: v for k, v in maps["layer_maps"].items() if k != "variance/features.4"}
    }
    with pytest.raises(NeedsError, match="variance of features.4 was made for other layers"):
        adapt(make("actmad"), plain, stream("s1")[0][0])
    info = source_info_of(make("actmad"))["layer_maps"]
    assert (info.batch, info.limit, [name for name, _ in info.knobs]) == (
        128,
        2000,
        ["layers", "pooled", "augment"],
    )


def test_layers_are_names_in_a_tuple():
    with pytest.raises(ValueError, match=r"not 'net.head'; write layers=\('net.head',\)"):
        make("actmad", layers="net.head")
    with pytest.raises(ValueError, match=r"not \(3,\); write layers=\('net.head',\)"):
        make("actmad", layers=(3,))
    assert make("actmad", layers=["net.head"]).layers == ("net.head",)
