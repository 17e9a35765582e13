"""The small networks of the embedded checkpoints."""
from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _norm(kind: str, width: int) -> nn.Module:
    return nn.BatchNorm2d(width) if kind == "bn" else nn.GroupNorm(8, width)


class Residual(nn.Module):
    """Two 3x3 convolutions with normalisation, added to a (projected) shortcut."""

    def __init__(self, before: int, width: int, stride: int, norm: str):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(before, width, 3, stride, 1,
                                           bias=False), _norm(norm, width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), _norm(norm, width)
        self.shortcut = (nn.Identity() if before == width and stride == 1 else nn.Conv2d(
            before, width, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class SmallResNet(nn.Module):
    """A residual network of three stages for small grey or colour images, (B, channels, H, W) ->
    (B, classes)."""

    def __init__(self, norm: str = "bn", classes: int = 10, channels: int = 1, widths=(24, 48, 96)):
        super().__init__()
        if norm not in ("bn", "gn"):
            raise ValueError(f"norm must be 'bn' or 'gn', not {norm!r}")
        stem = [
            nn.Conv2d(channels, widths[0], 3, 2, 1, bias=False),
            _norm(norm, widths[0]),
            nn.ReLU()
        ]
        stages = [
            Residual(before, width, 1 if i == 0 else 2, norm)
            for i, (before, width) in enumerate(zip((widths[0], *widths), widths, strict=False))
        ]
        self.features = nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Attention(nn.Module):
    """Multi-head self-attention, (B, T, D) -> (B, T, D)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width,
                                                           3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, d))


class TransformerBlock(nn.Module):
    """Pre-norm transformer block: attention, then a two-layer perceptron."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width), nn.Sequential(nn.Linear(width,
                                                                            hidden), nn.GELU(),
                                                                  nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SmallViT(nn.Module):
    """A small vision transformer (LayerNorm); three strided convolutions make one token of 8 x 8
    pixels.

    (B, channels, size, size) -> (B, classes). The convolutional stem trains better than a linear
    one on small data (2106.14881).
    """

    def __init__(self, classes: int = 10, channels: int = 1, size: int = 28, width: int = 64,
                 depth: int = 4, heads: int = 4):
        super().__init__()
        self.patches = nn.Sequential(nn.Conv2d(channels, width // 2, 3, 2, 1), nn.GELU(),
                                     nn.Conv2d(width // 2, width, 3, 2, 1), nn.GELU(),
                                     nn.Conv2d(width, width, 3, 2, 1))
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, math.ceil(size / 8) ** 2 + 1, width) * 0.02)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads, 2 * width)
                                      for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def features(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)                      # (B, T, D)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        return self.norm(self.blocks(x))[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


ARCHITECTURES = {
    "resnet_bn": lambda **k: SmallResNet("bn", **k),
    "resnet_gn": lambda **k: SmallResNet("gn", **k),
    "vit_ln": lambda **k: SmallViT(**k),
}
