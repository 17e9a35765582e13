"""Source models: small networks with separable ``features`` and ``head``, and the input card they carry.

Users feed images in [0, 1]; the normalisation belongs to the model. A model of any other origin works too:
an ``nn.Module`` from images to logits (B, C, *S) is all that the adapter asks for, and ``with_input_card``
gives it a card.
"""
from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .datasets import DataError, checked_bytes, data_root


class InputError(ValueError):
    """Images that a model cannot mean: wrong range, shape or type, NaN or Inf. Raised before any state is touched."""


def check_finite(x: Tensor, ids=None) -> None:
    """Raise InputError when images (B, ...) hold NaN or Inf, naming the rows (their ids where given)."""
    bad = ~torch.isfinite(x.flatten(1)).all(1)
    if bad.any():
        rows = bad.nonzero().flatten().tolist()
        names = rows if ids is None else [int(ids[r]) for r in rows]
        what = "positions" if ids is None else "ids"
        raise InputError(f"{len(rows)} of {len(x)} images hold NaN or Inf ({what} {names[:10]}"
                         f"{', ...' if len(names) > 10 else ''}); remove or repair them before adapting")


@dataclass(frozen=True)
class InputCard:
    """What a model expects to be fed: ``channels``, ``size`` (height, width) or None for any, and how it
    normalises: (x - mean) / std per channel, x in [0, 1]."""

    channels: int = 3
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        for name in ("mean", "std"):
            value = tuple(float(v) for v in getattr(self, name))
            if len(value) not in (1, self.channels):
                raise ValueError(f"InputCard.{name} needs 1 or {self.channels} values, got {len(value)}")
            object.__setattr__(self, name, value)
        if self.size is not None:
            object.__setattr__(self, "size", tuple(int(s) for s in self.size))
        if min(self.std) <= 0:
            raise ValueError(f"InputCard.std must be positive, got {self.std}")

    def check(self, x: Tensor, normalised: bool = False) -> None:
        """Raise InputError unless x is float (B, channels, height, width) and, where the model normalises
        itself, within [0, 1]."""
        size = "any size" if self.size is None else f"{self.size[0]} x {self.size[1]}"
        expected = f"this model expects float images (batch, {self.channels}, {size}) in [0, 1]"
        if not x.is_floating_point():
            raise InputError(f"got {x.dtype} images; {expected}: convert with x.float() / 255")
        if x.ndim != 4 or x.shape[1] != self.channels or (self.size and tuple(x.shape[2:]) != self.size):
            raise InputError(f"got images of shape {tuple(x.shape)}; {expected}")
        if normalised or not x.numel():
            return
        low, high = (float(v) for v in x.detach().aminmax())
        if low < 0 or high > 1:
            guess = ("they look like 0..255: divide by 255" if high > 2 and low >= 0 else
                     "they look normalised already: undo it, or say normalisation='in_data' when loading the model")
            raise InputError(f"got images in [{low:.4g}, {high:.4g}]; {expected}; {guess}")


class SourceModel(nn.Module):
    """A classifier with its input card: images in [0, 1] -> normalise -> ``net.features`` -> ``net.head`` -> logits.

    ``normalisation="in_data"`` says that the loader has normalised already: the model then feeds images on as
    they are. ``card`` is the InputCard, ``info`` the JSON card of the checkpoint (architecture, accuracy, ...).
    """

    def __init__(self, net: nn.Module, card: InputCard, normalisation: str = "in_model", info: dict | None = None):
        super().__init__()
        if normalisation not in ("in_model", "in_data"):
            raise ValueError(f"normalisation must be 'in_model' or 'in_data', not {normalisation!r}")
        self.net, self.card, self.normalisation, self.info = net, card, normalisation, dict(info or {})
        self.check_input = True
        for name in ("mean", "std"):
            value = torch.tensor(getattr(card, name)).view(1, -1, 1, 1)
            self.register_buffer(f"input_{name}", value, persistent=False)

    def check(self, x: Tensor, ids=None) -> None:
        """Raise InputError when the batch is not what the card asks for (the adapter calls this first)."""
        self.card.check(x, normalised=self.normalisation == "in_data")
        check_finite(x, ids)

    def normalise(self, x: Tensor) -> Tensor:
        """(x - mean) / std, or x itself when the data come normalised."""
        return x if self.normalisation == "in_data" else (x - self.input_mean) / self.input_std

    def _prepare(self, x: Tensor) -> Tensor:
        if self.check_input:
            self.check(x)
        return self.normalise(x)

    def features(self, x: Tensor) -> Tensor:
        """The input of the head, (B, D)."""
        if not hasattr(self.net, "features"):
            raise AttributeError(f"{type(self.net).__name__} has no 'features'; methods that need features "
                                 "do not work with this model")
        return self.net.features(self._prepare(x))

    @property
    def head(self) -> nn.Module:
        """The last layer, features (B, D) -> logits (B, K)."""
        return self.net.head

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self._prepare(x))


def with_input_card(net: nn.Module, *, channels: int = 3, size=None, mean=(0.0,), std=(1.0,),
                    normalisation: str = "in_model") -> SourceModel:
    """Give any classifier an input card, so that it takes images in [0, 1] and refuses everything else."""
    return SourceModel(net, InputCard(channels, size, tuple(mean), tuple(std)), normalisation).eval()


# --- the embedded architectures ------------------------------------------------------------------------------

def _norm(kind: str, width: int) -> nn.Module:
    return nn.BatchNorm2d(width) if kind == "bn" else nn.GroupNorm(8, width)


class Residual(nn.Module):
    """Two 3x3 convolutions with normalisation, added to a (projected) shortcut."""

    def __init__(self, before: int, width: int, stride: int, norm: str):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(before, width, 3, stride, 1, bias=False), _norm(norm, width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), _norm(norm, width)
        self.shortcut = nn.Identity() if before == width and stride == 1 else nn.Conv2d(before, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class SmallResNet(nn.Module):
    """A residual network of three stages for small grey or colour images, (B, channels, H, W) -> (B, classes)."""

    def __init__(self, norm: str = "bn", classes: int = 10, channels: int = 1, widths=(24, 48, 96)):
        super().__init__()
        if norm not in ("bn", "gn"):
            raise ValueError(f"norm must be 'bn' or 'gn', not {norm!r}")
        stem = [nn.Conv2d(channels, widths[0], 3, 2, 1, bias=False), _norm(norm, widths[0]), nn.ReLU()]
        stages = [Residual(before, width, 1 if i == 0 else 2, norm)
                  for i, (before, width) in enumerate(zip((widths[0], *widths), widths, strict=False))]
        self.features = nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Attention(nn.Module):
    """Multi-head self-attention, (B, T, D) -> (B, T, D)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, d))


class TransformerBlock(nn.Module):
    """Pre-norm transformer block: attention, then a two-layer perceptron."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SmallViT(nn.Module):
    """A small vision transformer (LayerNorm); three strided convolutions make one token of 8 x 8 pixels.

    (B, channels, size, size) -> (B, classes). The convolutional stem trains better than a linear one on small data (2106.14881).
    """

    def __init__(self, classes: int = 10, channels: int = 1, size: int = 28, width: int = 64, depth: int = 4, heads: int = 4):
        super().__init__()
        self.patches = nn.Sequential(nn.Conv2d(channels, width // 2, 3, 2, 1), nn.GELU(), nn.Conv2d(width // 2, width, 3, 2, 1), nn.GELU(),
                                     nn.Conv2d(width, width, 3, 2, 1))
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, math.ceil(size / 8) ** 2 + 1, width) * 0.02)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads, 2 * width) for _ in range(depth)))
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


# --- checkpoints ---------------------------------------------------------------------------------------------

def checkpoints(root: str | Path | None = None) -> dict[str, dict]:
    """The embedded checkpoints: name -> JSON card."""
    folder = data_root(root) / "checkpoints"
    return {p.stem: json.loads(p.read_text()) for p in sorted(folder.glob("*.json"))}


def load_model(name: str = "fashion_resnet_bn", normalisation: str = "in_model", root: str | Path | None = None) -> SourceModel:
    """An embedded source model in eval mode, e.g. ``fashion_resnet_bn``, ``fashion_resnet_gn``, ``fashion_vit_ln``
    or ``fashion8_resnet_bn`` (trained without the classes Coat and Sneaker)."""
    from safetensors.torch import load as load_tensors

    known = checkpoints(root)
    if name not in known:
        raise DataError(f"there is no checkpoint {name!r} in {data_root(root) / 'checkpoints'}; there are: {', '.join(known)}")
    info = known[name]
    weights = load_tensors(checked_bytes(f"checkpoints/{name}.safetensors", root))
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced at once; the global generator stays where it is
        net = ARCHITECTURES[info["architecture"]](**info["arguments"])
    net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
    card = InputCard(**{k: tuple(v) if isinstance(v, list) else v for k, v in info["input"].items()})
    return SourceModel(net, card, normalisation, info).eval()


def save_model(model: SourceModel, name: str, info: dict, root: str | Path) -> Path:
    """Write ``<name>.safetensors`` (convolution and linear weights in float16, the rest in float32) and its card."""
    from safetensors.torch import save

    folder = Path(root) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: (v.half() if v.ndim > 1 else v).contiguous() for k, v in model.net.state_dict().items()}
    content = save(tensors)
    card = {**info, "input": asdict(model.card), "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / f"{name}.safetensors").write_bytes(content)
    (folder / f"{name}.json").write_text(json.dumps(card, indent=1) + "\n")
    return folder / f"{name}.safetensors"
