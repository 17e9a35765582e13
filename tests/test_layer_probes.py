"""The recorder of layers changes nothing and records what it says; gradients and features of images against independent computations."""
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tta_lab import Adapter, Trace, load_model, make, run
from tta_lab.analysis import layer_probes as L
from tta_lab.components.norms.adaptive import AdaptiveMixture
from tta_lab.components.norms.batch_norm import (
    BatchStatistics,
    MixedStatistics,
    RunningStatistics,
    SourceStatistics,
)
from tta_lab.components.norms.stream import InstanceAware, RobustStatistics
from tta_lab.streams import protocols

STREAM = protocols.continual(shifts=("fog", "contrast:3"), per_shift=30, batch=10)


def adapter(method="tent", model="fashion_resnet_bn", norm=None, **settings):
    recipe = make(method, **settings)
    return Adapter(load_model(model), recipe if norm is None else replace(recipe, norm=norm), device="cpu", record="source")


def same_bits(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(torch.nan_to_num(a, nan=-7), torch.nan_to_num(b, nan=-7)) if a.is_floating_point() else torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_bits(a[k], b[k]) for k in a if k != "seconds")
    return all(same_bits(x, y) for x, y in zip(a, b, strict=True)) if isinstance(a, list | tuple) else a == b


@pytest.mark.parametrize("method, norm", [("tent", None), ("sar", None), ("rotta", None), ("tent", RunningStatistics()), ("tent", AdaptiveMixture()),
                                          ("source", None), pytest.param("cotta", None, marks=pytest.mark.slow)])
def test_watching_changes_no_bit(method, norm):
    states = []
    for watched in (False, True):
        a = adapter(method, norm=norm)
        run(a, STREAM.cut(0, 3), each=L.LayerWatch(a) if watched else None)
        states.append({k: v for k, v in a.state_dict().items() if k != "meta"})
    assert same_bits(*states)


def test_distance_and_alignment_by_another_way():
    a, weights = adapter(lr=0.03), []
    watch = L.LayerWatch(a)

    def each(trace):
        watch(trace)
        weights.append({n: p.detach().double().clone() for n, p in a.tuned.items()})

    run(a, STREAM.cut(0, 4), each=each)
    columns, start = watch.columns, {n: p.double() for n, p in a.origin.items()}
    layers = list(watch.groups)
    assert list(columns["step"]) == [0, 1, 2, 3] and columns["layers"][0] == "features.1" and len(layers) == columns["distance"].shape[1] == 7

    def flat(values, layer, minus):
        return torch.cat([(values[n] - minus[n]).flatten() for n in values if n.rpartition(".")[0] == layer])

    for i, now in enumerate(weights):
        before = weights[i - 1] if i else start
        for j, layer in enumerate(layers):
            u, gone = flat(now, layer, before), flat(before, layer, start)
            assert columns["distance"][i, j] == pytest.approx(float((u + gone).norm()), rel=1e-5)
            assert columns["alignment"][i, j] == pytest.approx(float(u @ (u + gone) / u.norm() / (u + gone).norm()), abs=1e-5)
    np.testing.assert_allclose(columns["alignment"][0], 1, atol=1e-6)
    np.testing.assert_allclose(np.sqrt((columns["distance"] ** 2).sum(axis=1)), a.trace.step("distance"), rtol=1e-5)
    relative = L.layer_distance(watch)["relative"]
    np.testing.assert_allclose(relative[3], columns["distance"][3] / [float(torch.cat([start[n] for n in g]).norm()) for g in watch.groups.values()],
                               rtol=1e-5)


def moved(a, watch, *changes):
    """Steps that change all tuned parameters by the given amounts, without any learning."""
    for change in changes:
        watch._begin(None, None)
        with torch.no_grad():
            for p in a.tuned.values():
                p += change
        a.state.steps += 1
        a.state.was_reset = False
        watch(a.trace)
    return watch.columns["alignment"][:, 0]


def test_alignment_of_steps_back_and_on():
    a = adapter()
    assert moved(a, L.LayerWatch(a), 0.4, -0.2, 0.1, 0.0).tolist() == pytest.approx([1, -1, 1, math.nan], nan_ok=True)  # u = -TD/2: -1
    a = adapter()
    assert moved(a, L.LayerWatch(a, window=2), 0.4, -0.2, -0.1, 0.3).tolist() == pytest.approx([1, -1, 1, 1])           # a new anchor at step 2


def test_a_reset_before_a_step_starts_anew():
    a = adapter(lr=0.03)
    watch = L.LayerWatch(a)
    run(a, STREAM.cut(0, 3), reset="batch", each=watch)
    np.testing.assert_allclose(watch.columns["alignment"], 1, atol=1e-6)
    a = adapter(lr=0.03)
    watch = L.LayerWatch(a)
    run(a, STREAM.cut(0, 3), each=lambda trace: (a.reset(keep_trace=True), watch(trace)))   # a reset as a controller makes it, after the step
    assert np.isnan(watch.columns["alignment"]).all() and (watch.columns["distance"] == 0).all()
    a = adapter(lr=0.03)
    watch = L.LayerWatch(a, window=2)     # here the anchor is not where the reset leads
    run(a, STREAM.cut(0, 4), each=lambda trace: (a.reset(keep_trace=True) if a.steps == 3 else None, watch(trace)))
    assert np.isnan(watch.columns["alignment"]).all(axis=1).tolist() == [False, False, True, False]


def test_symmetric_kl_by_hand():
    one, two = torch.tensor([0.0]), torch.tensor([1.0])
    # means 0 and 2, variances 1 and 4: KL(a || b) = ln 2 + 5 / 8 - 1 / 2, KL(b || a) = -ln 2 + 8 / 2 - 1 / 2
    assert float(L.symmetric_kl(one, two, one + 2, two * 4)) == pytest.approx(5 / 8 - 1 / 2 + 4 - 1 / 2)
    rng = np.random.default_rng(0)
    m, v = torch.from_numpy(rng.normal(size=(2, 50))), torch.from_numpy(rng.uniform(.1, 3, (2, 50)))
    forth, back = L.symmetric_kl(m[0], v[0], m[1], v[1]), L.symmetric_kl(m[1], v[1], m[0], v[0])
    exact = [torch.distributions.kl_divergence(*(torch.distributions.Normal(m[i], v[i].sqrt()) for i in pair)) for pair in ((0, 1), (1, 0))]
    torch.testing.assert_close(forth, back)
    torch.testing.assert_close(forth, sum(exact))
    assert (L.symmetric_kl(m[0], v[0], m[0], v[0]).abs() < 1e-12).all()


def source_of(a, name):
    layer = dict(a.source.named_modules())[name]
    return layer.running_mean.double(), layer.running_var.double() + layer.eps


def test_statistics_in_use_are_those_of_the_norm():
    seen = {}
    for name, norm in (("batch", BatchStatistics()), ("source", SourceStatistics()), ("mixed", MixedStatistics(alpha=0.3))):
        a = adapter("tent", norm=norm, lr=1e-3)
        watch, inputs = L.LayerWatch(a), []
        first = dict(a.model.named_modules())[watch.norms[0]]
        first.register_forward_hook(lambda m, args, y, inputs=inputs: inputs.append(args[0].detach().double()))
        run(a, STREAM.cut(0, 1), each=watch)
        seen[name] = watch.columns
        mean, var = inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3), correction=0)
        m, v = source_of(a, watch.norms[0])
        expected = L.symmetric_kl(mean, var + 1e-5, m, v).mean()
        assert watch.columns["batch"][0, 0] == pytest.approx(float(expected), rel=1e-4)
        if name == "mixed":
            unbiased = inputs[0].var((0, 2, 3), correction=1)
            expected = L.symmetric_kl(m.lerp(mean, .3), (v - 1e-5).lerp(unbiased, .3) + 1e-5, m, v).mean()
            assert watch.columns["in_use"][0, 0] == pytest.approx(float(expected), rel=1e-3)
    np.testing.assert_allclose(seen["batch"]["in_use"], seen["batch"]["batch"], rtol=1e-3, atol=1e-5)
    assert np.abs(seen["source"]["in_use"]).max() < 1e-5 < seen["source"]["batch"].min()
    assert (seen["mixed"]["in_use"] < seen["mixed"]["batch"]).all()


@pytest.mark.parametrize("norm", [RunningStatistics(absorb="two_pass"), RunningStatistics(absorb="one_pass"), RobustStatistics()])
def test_running_statistics_are_those_stored_after_the_step(norm):
    a = adapter("tent", norm=norm, lr=1e-3)
    watch = L.LayerWatch(a)
    for i in range(3):
        run(a, STREAM.cut(i, i + 1), each=watch)
        for j, name in enumerate(watch.norms):
            layer = dict(a.model.named_modules())[name]
            expected = L.symmetric_kl(layer.running_mean.double(), layer.running_var.double() + layer.eps, *source_of(a, name)).mean()
            assert watch.columns["in_use"][-1, j] == pytest.approx(float(expected), rel=5e-3, abs=1e-5)


def test_statistics_of_single_images_are_finite_and_between():
    a = adapter("tent", norm=InstanceAware(), lr=1e-3)
    watch = L.LayerWatch(a)
    run(a, STREAM.cut(0, 2), each=watch)
    assert np.isfinite(watch.columns["in_use"]).all()


def test_layers_that_show_nothing_are_left_out():
    layer = torch.nn.BatchNorm2d(3).eval()
    with torch.no_grad():
        layer.weight[1] = 0
    x = torch.rand(4, 3, 2, 2)
    x[:, 2] = 0.5
    used_mean, used_var, mean, var = L._statistics(layer, x, layer(x))
    assert torch.isnan(used_mean).tolist() == [False, True, True] == torch.isnan(used_var).tolist()
    assert float(used_mean[0]) == pytest.approx(0, abs=1e-5) and float(used_var[0]) == pytest.approx(1 + 1e-5, rel=1e-5)
    assert float(mean[2]) == pytest.approx(.5) and float(var[2]) == pytest.approx(1e-5)


def test_every_and_limit_bound_the_record():
    a = adapter(lr=0.03)
    watch = L.LayerWatch(a, every=2)
    run(a, STREAM.cut(0, 5), each=watch)
    columns = watch.columns
    assert columns["step"].tolist() == [0, 2, 4] and np.isfinite(columns["alignment"]).all() and np.isfinite(columns["in_use"]).all()
    a = adapter(lr=0.03)
    watch = L.LayerWatch(a, limit=3)
    run(a, STREAM.cut(0, 6), each=watch)
    assert watch.columns["step"].tolist() == [0, 2, 4] and watch.every == 2     # 0 1 2 3 were too many, then 0 2 4
    for wrong in ({"every": 0}, {"limit": 1}, {"window": -1}):
        with pytest.raises(ValueError, match="every must be at least 1, limit 2 and window 0"):
            L.LayerWatch(a, **wrong)


def test_closing_removes_the_hooks():
    a = adapter()
    with L.LayerWatch(a):
        assert any(m._forward_hooks for m in a.model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in a.model.modules())


def test_saved_and_loaded(tmp_path):
    a = adapter(lr=0.03)
    watch = L.LayerWatch(a)
    run(a, STREAM.cut(0, 3), each=watch)
    loaded = L.LayerWatch.load(watch.save(tmp_path / "layers.npz"))
    for ctx in (L.layer_distance, L.norm_drift, L.layer_alignment):
        for name, value in ctx(watch).items():
            assert np.array_equal(value, ctx(loaded)[name], equal_nan=not isinstance(value, list | str)), name
    a.trace.save(tmp_path / "trace.npz")
    with pytest.raises(ValueError, match="holds no record of layers; write one with LayerWatch.save"):
        L.LayerWatch.load(tmp_path / "trace.npz")
    assert isinstance(Trace.load(tmp_path / "trace.npz"), Trace)


def test_what_is_missing_is_said():
    a = adapter("source", model="fashion_resnet_gn")
    watch = L.LayerWatch(a)
    assert L.norm_drift(watch)["step"].size == 0
    run(a, STREAM.cut(0, 2), each=watch)
    assert "tunes no parameter" in L.layer_distance(watch)["why"] and "no batch-norm layer" in L.norm_drift(watch)["why"]
    assert "No layer of this run moved" in L.layer_alignment(watch)["why"]
    assert "tunes no parameter" in L.sample_gradients(a, STREAM.cut(0, 1))["why"]


@pytest.mark.parametrize("names, short", [(["net.a.b.w", "net.a.c.v"], ["b.w", "c.v"]), (["net.f.1", "net.f.3.n"], ["f.1", "f.3.n"]),
                                          (["head"], ["head"]), ([], []), (["a.b.c"], ["a.b.c"])])
def test_short_names(names, short):
    assert L.short_names(names) == short


# --- images

def test_gradient_of_an_image_is_that_of_the_image_alone_with_group_norm():
    a = adapter("tent", model="fashion_resnet_gn")
    numbers = L.sample_gradients(a, STREAM.cut(0, 1), limit=5)
    batch = next(STREAM.batches())
    for i in range(5):
        p = a.model(batch.x[i:i + 1]).softmax(1)
        entropy = -(p * p.log()).sum()
        grads = torch.autograd.grad(entropy, list(a.tuned.values()))
        assert numbers["entropy"][i] == pytest.approx(entropy.item(), abs=1e-5)
        assert numbers["norm"][i] == pytest.approx(float(torch.cat([g.flatten() for g in grads]).norm()), rel=1e-3, abs=1e-6)
        guess = int(p.argmax())
        assert numbers["group"][i] == ("correct" if guess == int(batch.label[i]) else "wrong") and numbers["id"][i] == int(batch.ids[i])
    assert len(numbers["norm"]) == 5


def test_gradients_agree_with_the_probe_of_the_crowd_and_leave_no_trace():
    from tta_lab.analysis.probes import gradient_crowd

    a = adapter("tent", lr=0.03)
    run(a, STREAM.cut(0, 2))
    before, cost = a.state_dict(), dict(a.cost)
    numbers = L.sample_gradients(a, STREAM.cut(2, 3), loss="method", limit=6)
    assert same_bits(before, a.state_dict()) and a.cost == cost
    batch = next(STREAM.cut(2, 3).batches())
    np.testing.assert_allclose(numbers["norm"], gradient_crowd(a, batch.x, ids=batch.ids, rows=range(6))["norm"], rtol=1e-4)
    np.testing.assert_allclose(numbers["norm"], L.sample_gradients(a, STREAM.cut(2, 3), limit=6)["norm"], rtol=1e-5)   # Tent's loss is the entropy
    with pytest.raises(ValueError, match="loss must be 'entropy' or 'method'"):
        L.sample_gradients(a, STREAM, loss="mean")
    with pytest.raises(ValueError, match="has no loss of single images"):
        L.sample_gradients(adapter("source"), STREAM, loss="method")


def test_principal_components_against_numpy():
    rng = np.random.default_rng(1)
    source = torch.from_numpy(rng.normal(size=(40, 6)) * [5, 3, 1, 1, 1, .1])
    adapted = source + torch.from_numpy(rng.normal(size=(40, 6)))
    points, shares, axes = L.project(source, adapted)
    values, vectors = np.linalg.eigh(np.cov(source.numpy().T))
    np.testing.assert_allclose(shares["source"], values[::-1][:2] / values.sum(), rtol=1e-6)
    np.testing.assert_allclose(np.abs((axes * vectors[:, ::-1].T[:2]).sum(axis=1)), 1, rtol=1e-6)
    np.testing.assert_allclose(points["source"].mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(points["adapted"], (adapted.numpy() - source.numpy().mean(axis=0)) @ axes.T, atol=1e-9)
    assert (axes[np.arange(2), np.abs(axes).argmax(axis=1)] > 0).all()
    assert np.isnan(L.project(source * math.nan, adapted)[0]["source"]).all()


def test_feature_space_of_an_unadapted_model_is_the_source_s():
    a = adapter("source")
    numbers = L.feature_space(a, STREAM.cut(0, 2), limit=16)
    np.testing.assert_allclose(numbers["source"], numbers["adapted"], atol=1e-5)
    assert numbers["source"].shape == (16, 2) and numbers["group"].tolist() == numbers["source_group"].tolist()
    batch = next(STREAM.batches())
    f = a.source.features(batch.x).double().detach().numpy()
    spread = f @ numbers["axes"].T
    np.testing.assert_allclose(spread - spread.mean(axis=0), numbers["source"][:10] - numbers["source"][:10].mean(axis=0), atol=1e-4)
    assert (numbers["prediction"][:10] == a.predict_source(batch.x).argmax(1).numpy()).all()


def test_feature_space_leaves_the_adapter_as_it_was():
    a = adapter("tent", lr=0.03)
    run(a, STREAM.cut(0, 3))
    before, cost = a.state_dict(), dict(a.cost)
    numbers = L.feature_space(a, STREAM.cut(3, 5))
    assert same_bits(before, a.state_dict()) and a.cost == cost
    assert np.abs(numbers["source"] - numbers["adapted"]).max() > 0.1
    with pytest.raises(ValueError, match="at least 3 images, got 0"):
        L.feature_space(a, [])


def test_unknown_and_unlabelled_images_have_their_groups():
    groups = L._group_names([True, True, True, False], np.array([1, 1, -1, 2]), np.array([1, 0, 1, 1]))
    assert groups.tolist() == ["correct", "wrong", "unlabelled", "unknown"]
