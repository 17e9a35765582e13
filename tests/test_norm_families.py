"""Batch-norm layers of other libraries keep their class and forward: only the statistics come from
elsewhere."""
import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tta_lab import Adapter, make
from tta_lab.components.source.prepare import prepare
from tta_lab.core.norm_layers import BATCH_NORM, TestTimeNorm
from tta_lab.core.parts import NORM_LAYERS, AllParameters, NeedsError

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")

TIMM = {  # module of timm with batch norm -> its smallest network of those looked at
    "byobnet": "mobileone_s1", "convmixer": "convmixer_768_32", "cpubone": "cpubone_nano", "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny", "densenet": "densenet121", "dla": "dla46_c", "dpn": "dpn48b", "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0", "efficientnet": "mnasnet_small", "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0", "efficientvit_msra": "efficientvit_m0", "fasternet": "fasternet_t0", "fastvit": "fastvit_t8",
    "ghostnet": "ghostnet_050", "hardcorenas": "hardcorenas_b", "hgnet": "hgnetv2_b0", "hrnet": "hrnet_w18_small", "iformer": "iformer_t",
    "inception_next": "inception_next_atto", "inception_v3": "inception_v3", "lcnetv2": "lcnetv2_small", "levit": "levit_128",
    "lowformer": "lowformer_b0", "mobilenetv3": "mobilenetv3_small_050", "mobilevit": "mobilevit_xxs",
    "regnet": "regnetx_002", "repghost": "repghostnet_050", "repvit": "repvit_m1", "res2net": "res2next50",
    "resnest": "resnest14d", "resnet": "test_resnet", "resnetv2": "resnetv2_18", "rexnet": "rexnet_100", "selecsls": "selecsls42",
    "senet": "legacy_seresnet18", "shvit": "shvit_s1", "sknet": "skresnet18", "starnet": "starnet_s050", "swiftformer": "swiftformer_xs",
    "tiny_vit": "tiny_vit_5m_224", "visformer": "visformer_tiny",
    "vovnet": "ese_vovnet19b_slim_dw", "xception": "xception", "xception_aligned": "xception41p", "xcit": "xcit_nano_12_p16_224",
}
LARGE = {
    "byoanet": "halonet_h1", "maxxvit": "maxvit_rmlp_pico_rw_256", "nextvit": "nextvit_small",
    "tresnet": "tresnet_m", "volo": "volo_d1_224", "inception_resnet_v2": "inception_resnet_v2",
    "inception_v4": "inception_v4", "nasnet": "nasnetalarge", "pnasnet": "pnasnet5large"
}
TORCHVISION = ("densenet121", "efficientnet_b0", "googlenet", "inception_v3", "mnasnet0_5",
               "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18",
               "resnext50_32x4d", "shufflenet_v2_x0_5")
TORCHVISION_LARGE = ("maxvit_t", "vgg11_bn")
WITHOUT = ("test_vit", "test_convnext", "deit_tiny_patch16_224", "pvt_v2_b0", "convnext_atto",
           "edgenext_xx_small", "pit_ti_224", "convit_tiny", "coat_tiny", "crossvit_tiny_240",
           "swin_tiny_patch4_window7_224")


def drawn(net: nn.Module) -> nn.Module:
    """Statistics, scale and shift of every batch-norm layer drawn anew, so that source and batch
    statistics differ."""
    rng = torch.Generator().manual_seed(1)
    for m in net.modules():
        if isinstance(m, BATCH_NORM):
            for tensor, low, high in ((m.running_mean, -0.2, 0.2), (m.running_var, 0.5, 1.5),
                                      (m.weight, 0.5, 1.5), (m.bias, -0.2, 0.2)):
                if tensor is not None:
                    tensor.data.copy_(torch.empty(tensor.shape).uniform_(low, high, generator=rng))
    return net.eval()


def in_train_mode(net: nn.Module) -> nn.Module:
    """A copy whose batch-norm layers are in train mode with momentum 0; dropout stays off."""
    net = copy.deepcopy(net).eval()
    for m in net.modules():
        if isinstance(m, BATCH_NORM):
            m.training, m.momentum = True, 0.0
    return net


def logits(output):
    return output["out"] if isinstance(output, dict) else output


def agrees(net: nn.Module, x: torch.Tensor) -> None:
    """BN-1 is the network in train mode, the source the network in eval mode, and Tent's first
    answer is BN-1's."""
    drawn(net)
    with torch.no_grad():
        source, batch = logits(net(x)), logits(in_train_mode(net)(x))
    tolerance = 1e-5 * max(1.0, float(batch.abs().max()), float(source.abs().max()))
    for name, expected in (("source", source), ("batch_norm", batch), ("tent", batch)):
        found = Adapter(net, make(name), device="cpu")(x)
        assert float((found - expected).abs().max()) <= tolerance, name
    assert float((source - batch).abs().max(
    )) > 10 * tolerance, "source and batch statistics must differ here, or nothing is tested"
    mixed = Adapter(net, make("bn_alpha", alpha=0.0), device="cpu")
    assert float((mixed(x) - source).abs().max()) <= tolerance
    assert [m.layer_class for m in mixed.model.modules() if isinstance(m, TestTimeNorm)] == [
        type(m) for m in net.modules() if isinstance(m, BATCH_NORM)]


def batch(net: nn.Module, n: int = 3) -> torch.Tensor:
    config = getattr(net, "default_cfg", {}) or {}
    fixed = config.get("fixed_input_size") or "halonet" in config.get("architecture", "")
    side = config.get("input_size", (3, 224, 224))[-1] if fixed else 96
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("module", TIMM)
def test_batch_norm_families_of_timm(module):
    if not timm.is_model(TIMM[module]):
        pytest.skip(f"timm {timm.__version__} has no {TIMM[module]} yet")
    torch.manual_seed(0)
    net = timm.create_model(TIMM[module], num_classes=5)
    agrees(net, batch(net))


@pytest.mark.slow
@pytest.mark.parametrize("module", LARGE)
def test_large_batch_norm_families_of_timm(module):
    torch.manual_seed(0)
    net = timm.create_model(LARGE[module], num_classes=5)
    agrees(net, batch(net))


@pytest.mark.parametrize("name", (*TORCHVISION, *(pytest.param(name, marks=pytest.mark.slow)
                                                  for name in TORCHVISION_LARGE)))
def test_batch_norm_families_of_torchvision(name):
    torch.manual_seed(0)
    more = ({"aux_logits": False, "init_weights": False} if name in ("googlenet",
                                                                     "inception_v3") else {})
    net = getattr(torchvision.models, name)(weights=None, num_classes=5, **more)
    side = 224 if name == "maxvit_t" else 96
    agrees(net, torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(0)))


def test_a_segmentation_network_of_torchvision():
    torch.manual_seed(0)
    net = torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights=None,
                                                                    weights_backbone=None,
                                                                    num_classes=4)
    agrees(net, torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("name", WITHOUT)
def test_networks_without_batch_norm_answer_as_their_own_forward(name):
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=5).eval()
    x = batch(net, 2)
    with torch.no_grad():
        expected = net(x)
    tent = (make("tent") if any(isinstance(m, NORM_LAYERS)
                                for m in net.modules()) else make("tent", train=AllParameters()))
    for method in (make("source"), tent):
        torch.testing.assert_close(
            Adapter(net, method, device="cpu")(x), expected, atol=1e-5, rtol=1e-5)


# --- layers of one's own ------------------------------------------------------------------------

class Activated(nn.BatchNorm2d):
    def __init__(self, n):
        super().__init__(n)
        self.act = nn.PReLU()

    def forward(self, x):
        return self.act(super().forward(x))


class Dropped(nn.BatchNorm2d):
    def __init__(self, n):
        super().__init__(n)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(super().forward(x))


class DroppedByFunction(nn.BatchNorm2d):
    def forward(self, x):
        return F.dropout(super().forward(x), 0.5, self.training)


class Scaled(nn.BatchNorm2d):
    def __init__(self, n):
        super().__init__(n)
        self.gain = nn.Parameter(torch.full((1,), 1.5))

    def forward(self, x, factor=2.0):
        return self.gain * super().forward(factor * x) + x


class ByFunction(nn.BatchNorm2d):
    """Calls torch's function itself, with a scale of its own."""

    def forward(self, x):
        return F.batch_norm(x, self.running_mean, self.running_var, 1 + self.weight, bias=None,
                            training=self.training, eps=0.1)


class ByTorch(nn.BatchNorm2d):
    def forward(self, x):
        return torch.batch_norm(x, self.weight, self.bias, self.running_mean, self.running_var,
                                self.training, self.momentum, self.eps, False)


class Renamed(nn.BatchNorm2d):
    """Only other defaults."""

    def __init__(self, n):
        super().__init__(n, eps=0.01, momentum=None)


class ByHand(nn.BatchNorm2d):
    def forward(self, x):
        shape = (1, -1, 1, 1)
        return ((x - self.running_mean.view(shape)) /
                (self.running_var + self.eps).sqrt().view(shape))


def conv_net(layer: nn.Module, again: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), layer, nn.ReLU(), nn.Conv2d(8, 8, 3), again
                         or nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


IMAGES = torch.rand(8, 3, 12, 12, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    "kind", [Activated, Dropped, Scaled, ByFunction, ByTorch, Renamed, nn.SyncBatchNorm])
def test_layers_with_a_forward_of_their_own(kind):
    net = conv_net(kind(8))
    agrees(net, IMAGES)
    for method in ("bn_ema", "iabn", "unmix_tns", "rotta", "wisdom_of_crowds", "cotta"):
        a, b = (Adapter(n, make(method), device="cpu") for n in (net, conv_net(kind(8))))
        b.source.load_state_dict(a.source.state_dict())
        assert torch.isfinite(a(IMAGES)).all() and torch.isfinite(a(IMAGES)).all()


def test_dropout_inside_a_layer_stays_off():
    plain = drawn(conv_net(nn.BatchNorm2d(8)))
    dropped = drawn(conv_net(DroppedByFunction(8)))
    for method in ("batch_norm", "tent", "bn_ema"):
        torch.testing.assert_close(*(Adapter(net, make(method), device="cpu")(IMAGES)
                                     for net in (plain, dropped)))


def test_layers_of_other_dimensions():
    one = nn.Sequential(nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.AdaptiveAvgPool1d(1),
                        nn.Flatten(), nn.BatchNorm1d(8), nn.Linear(8, 4))
    agrees(one, torch.rand(6, 3, 30, generator=torch.Generator().manual_seed(0)))
    three = nn.Sequential(nn.Conv3d(3, 8, 3), nn.BatchNorm3d(8), nn.ReLU(), nn.AdaptiveAvgPool3d(1),
                          nn.Flatten(), nn.Linear(8, 4))
    agrees(three, torch.rand(6, 3, 8, 8, 8, generator=torch.Generator().manual_seed(0)))


def test_a_forward_put_on_one_layer_and_hooks_stay():
    net = conv_net(nn.BatchNorm2d(8))
    layer, seen = net[1], []
    plain = type(layer).forward
    layer.forward = lambda x: plain(layer, x).tanh()
    # a closure over the original layer cannot be moved to a copy
    with pytest.raises(NeedsError, match="BatchNorm2d"):
        Adapter(drawn(net), make("batch_norm"), device="cpu")(IMAGES)
    del layer.forward
    layer.register_forward_hook(lambda module, args, output: seen.append(module) or output.tanh())
    agrees(net, IMAGES)
    assert seen


def test_a_layer_that_normalises_by_hand_is_refused_by_name():
    with pytest.raises(NeedsError, match="ByHand.*normalises by itself"):
        Adapter(drawn(conv_net(ByHand(8))), make("batch_norm"), device="cpu")(IMAGES)
    assert Adapter(drawn(conv_net(ByHand(8))), make("source"), device="cpu")(IMAGES).shape == (8, 5)


@pytest.mark.parametrize(
    "method", ["batch_norm", "tent", "cotta", "bn_ema", "rotta", "unmix_tns", "ada_mix_bn"])
def test_a_layer_in_two_places_is_one_layer(method):
    layer = nn.BatchNorm2d(8)
    shared, used_twice = drawn(conv_net(layer, layer)), nn.Module()

    class Twice(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.first = net[0]
            self.bn = net[1]
            self.second = net[3]
            self.rest = net[5:]

        def forward(self, x):
            return self.rest(self.bn(self.second(self.bn(self.first(x)).relu())))

    used_twice = Twice(copy.deepcopy(shared))
    a = Adapter(shared, make(method), device="cpu")
    b = Adapter(used_twice, make(method), device="cpu")
    for _ in range(3):
        torch.testing.assert_close(a(IMAGES), b(IMAGES), atol=1e-5, rtol=1e-5)
    assert len(a.tuned) == len(b.tuned)


@pytest.mark.parametrize("method", ["cotta", "psmt", "rotta", "paf_kip"])
def test_a_teacher_leaves_the_student_its_own_tensors(method):
    layer = nn.BatchNorm2d(8)
    shared = drawn(conv_net(layer, layer))
    recipe = make(method)
    given = prepare(shared, recipe, IMAGES, batch=4, device="cpu")
    a, b = (Adapter(shared, recipe, device="cpu", source_info=given) for _ in range(2))
    a(IMAGES)
    own = dict(a.model.named_parameters())
    assert all(own[name] is p for name, p in a.tuned.items())
    b.load_state_dict(a.state_dict())
    assert torch.equal(a(IMAGES), b(IMAGES))


def test_one_parameter_under_two_names_is_tuned_once():
    net = drawn(conv_net(nn.BatchNorm2d(8), nn.BatchNorm2d(8)))
    net[4].weight = net[1].weight
    adapter = Adapter(net, make("tent"), device="cpu")
    assert sorted(adapter.tuned) == ["1.bias", "1.weight", "4.bias"]
    before = adapter.model[1].weight.detach().clone()
    adapter(IMAGES)
    assert adapter.model[1].weight is adapter.model[4].weight and not torch.equal(
        adapter.model[1].weight, before)
