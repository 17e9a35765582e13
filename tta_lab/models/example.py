"""A network as a user might have it, for the example of notebook 06."""
from __future__ import annotations

NETWORK = '''"""A network as somebody might have it: plain PyTorch, nothing of this package."""
from torch import nn


class Block(nn.Module):
    """Two convolutions with batch norm beside a shortcut."""

    def __init__(self, before, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        same = before == width and stride == 1
        self.short = nn.Identity() if same else nn.Conv2d(before, width, 1, stride, bias=False)

    def forward(self, x):
        y = self.bn1(self.conv1(x)).relu()
        return (self.bn2(self.conv2(y)) + self.short(x)).relu()


class MyNetwork(nn.Module):
    """Grey images (B, 1, 28, 28), normalised, to logits (B, 10)."""

    def __init__(self, classes=10):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.body = nn.Sequential(Block(24, 24, 1), Block(24, 48, 2), Block(48, 96, 2))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(96, classes)

    def forward(self, x):
        return self.classifier(self.pool(self.body(self.stem(x))))
'''
