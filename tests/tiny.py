"""The tiny networks of the golden runs, and helpers that several test files share."""
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

GOLDEN = Path(__file__).parent / "golden"


class TinyConv(nn.Module):
    """Four convolutions with batch or group normalisation, 3 x 16 x 16 -> 10 classes."""

    def __init__(self, norm="bn", classes=10):
        super().__init__()
        layers, before = [], 3
        for width, stride in ((16, 1), (32, 2), (48, 1), (64, 2)):
            layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False),
                       nn.BatchNorm2d(width) if norm == "bn" else nn.GroupNorm(8, width), nn.ReLU()]
            before = width
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(64, classes)

    def forward(self, x):
        return self.head(self.features(x))


class _Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(48, 144, bias=False), nn.Linear(48, 48)

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, 3, 16).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / 4).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, t, 48))


class _Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(48), _Attention()
        self.norm2, self.mlp = nn.LayerNorm(48), nn.Sequential(nn.Linear(48, 96), nn.GELU(), nn.Linear(96, 48))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _Patches(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Conv2d(3, 48, 4, 4)
        self.cls_token, self.pos_embed = nn.Parameter(torch.zeros(1, 1, 48)), nn.Parameter(torch.zeros(1, 17, 48))

    def forward(self, x):
        x = self.proj(x).flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed


class TinyViT(nn.Module):
    """Two transformer blocks with layer normalisation, 3 x 16 x 16 -> 10 classes."""

    def __init__(self):
        super().__init__()
        self.patch_embed, self.blocks = _Patches(), nn.Sequential(_Block(), _Block())
        self.norm, self.head = nn.LayerNorm(48), nn.Linear(48, 10)

    def features(self, x):
        return self.norm(self.blocks(self.patch_embed(x)))[:, 0]

    def forward(self, x):
        return self.head(self.features(x))


class TinySegmenter(nn.Module):
    """Three convolutions with batch normalisation, logits (B, 5, H, W)."""

    def __init__(self, classes=5):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
                                  nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, classes, 1))

    def forward(self, x):
        return self.body(x)


def tiny(name):
    """A tiny network with the stored weights: tinybn, tinygn or tinyvit; or the (seeded, untrained) segmenter."""
    if name == "tinyseg":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            net = TinySegmenter()
            for p in net.parameters():
                p.data.mul_(2)  # untrained networks are near-uniform; larger weights give the selectors something to select
        return net.eval()
    net = TinyViT() if name == "tinyvit" else TinyConv(name[-2:])
    net.load_state_dict(load_file(GOLDEN / "weights" / f"{name}.safetensors"))
    return net.eval()


def stream(name):
    """Images (batches, batch, 3, 16, 16) float32 in [0, 1] and labels (batches, batch) of a golden stream."""
    with np.load(GOLDEN / "streams" / f"{name}.npz") as f:
        return torch.from_numpy(f["x"]).float() / 255, torch.from_numpy(f["y"])


def source_images():
    """The images that the tiny networks were trained on, (1258, 3, 16, 16) in [0, 1], and their labels."""
    with np.load(GOLDEN / "streams" / "source_train.npz") as f:
        return torch.from_numpy(f["x"]).float().div(255).expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(f["y"])


def around(net):
    """A posterior around the stored weights: mean = weights, variance = 1e-4 + 1e-2 weight^2."""
    return {key: value for name, p in net.named_parameters()
            for key, value in ((f"mean/{name}", p.detach().clone()), (f"variance/{name}", 1e-4 + 1e-2 * p.detach() ** 2))}


@cache
def given(recipe, model):
    """What a recipe needs from the source domain, from the first 64 training images; a posterior is one around the weights."""
    from tta_lab.components.source import prepare as source
    from tta_lab.core.parts import needs_of
    if "posterior" in needs_of(recipe):
        return {"posterior": around(tiny(model))}
    x, y = source_images()
    # plain dicts, which do not say what they were made for: tests hand them to networks that differ a little too
    return {name: dict(v) for name, v in source.prepare(tiny(model), recipe, x[:64], y[:64], batch=32, device="cpu").items()}
