"""Why UnMix-TNS is far from the source at its start: the components are drawn, and few of them
miss the source's statistics."""
import pytest
import torch
from tiny import tiny

from tta_lab.components.norms.stream import _Unmixed
from tta_lab.core.adapter import Adapter
from tta_lab.experiments.runner import run
from tta_lab.methods import make
from tta_lab.models.embedded import load_model
from tta_lab.streams import protocols


def layers(model, **settings):
    adapter = Adapter(model, make("unmix_tns", **settings), device="cpu")
    return [layer for layer in adapter.model.modules() if isinstance(layer, _Unmixed)]


def offset(layer):
    """Mean of the mixture minus that of the source, in its standard deviations."""
    return (layer.means.mean(0) - layer.running_mean) / layer.running_var.sqrt()


@pytest.mark.parametrize("components", [1, 2, 3, 16, 128])
def test_an_exact_start_has_the_statistics_of_the_source(components):
    made = layers(tiny("tinybn"), components=components, exact=True)
    assert len(made) == 4
    for layer in made:
        var = layer.vars.mean(0) + layer.means.var(0, correction=0)
        assert offset(layer).abs().max() < 1e-5
        torch.testing.assert_close(var, layer.running_var, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("components", [2, 4, 16, 64])
def test_a_drawn_start_misses_them_by_one_over_the_root_of_2k_minus_2(components):
    made = [
        layer for seed in range(8)
        for layer in layers(tiny("tinybn"), components=components, seed=seed)
    ]
    found = torch.cat([offset(layer) for layer in made])           # 8 x 160 channels
    assert found.square().mean().sqrt() == pytest.approx((2 * components - 2) ** -0.5, rel=0.08)


def test_on_clean_images_an_exact_start_is_near_the_source_and_a_drawn_one_is_not():
    model = load_model("fashion_resnet_bn")
    clean = protocols.correlated(shifts=("none",), per_shift=320)
    error = {
        name: 100 * (~run(Adapter(model, recipe, device="cpu"), clean)["correct"]).mean()
        for name, recipe in {
            "source": make("source"), "exact": make("unmix_tns", exact=True), "drawn": make(
                "unmix_tns")
        }.items()
    }
    assert abs(error["exact"] - error["source"]) < 1.5
    assert error["drawn"] > error["source"] + 5


def test_the_components_of_one_shift_are_reached_in_about_k_over_m_batches():
    """One layer, images of one mean: what a component still lacks shrinks by 1 - M p per batch,
    and p is 1 / K where all are equally like it."""
    layer = layers(tiny("tinybn"), components=4, exact=True)[0]
    layer.temperature = 1e6
    layer.commit = True
    layer.momentum_at = 64
    start = offset(layer)
    x = (layer.running_mean + 3 * layer.running_var.sqrt())[None, :, None,
                                                            None].expand(64, -1, 2, 2)
    for _ in range(40):                                            # K / M
        layer(x)
    torch.testing.assert_close(
        offset(layer) / 3, 1 - (1 - 0.1 / 4)**40 * (1 - start / 3), rtol=1e-3, atol=1e-3)
