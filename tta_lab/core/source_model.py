"""The source model: a network with the card of its input; images in, logits out."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .arguments import WrongKind, number, plain, shown, whole


class InputError(ValueError):
    """Images that a model cannot mean: wrong range, shape or type, NaN or Inf. Raised before any
    state is touched."""


def check_finite(x: Tensor, ids=None) -> None:
    """Raise InputError when images (B, ...) hold NaN or Inf, naming the rows (their ids where
    given)."""
    bad = ~torch.isfinite(x.flatten(1)).all(1)
    if bad.any():
        rows = bad.nonzero().flatten().tolist()
        names = rows if ids is None else [int(ids[r]) for r in rows]
        what = "positions" if ids is None else "ids"
        raise InputError(f"{len(rows)} of {len(x)} images hold NaN or Inf ({what} {names[:10]}"
                         f"{', ...' if len(names) > 10 else ''}); remove or repair them before "
                         f"adapting")


def side_of(size, name: str = "size") -> tuple[int, int] | None:
    """(height, width) from a pair or from one side; None stays None."""
    size = plain(size)
    if size is None:
        return None
    if isinstance(size, (str, bytes)) or not isinstance(size, Iterable):
        if isinstance(size, (str, bytes)):
            raise WrongKind(f"{name} must be one side in pixels, (height, width), or None for any "
                            f"size, not the text {size!r}")
        side = whole(name, size, 1)
        return side, side
    pair = tuple(size)
    if len(pair) != 2:
        raise ValueError(f"{name} must be one side in pixels, (height, width), or None for any "
                         f"size, not {pair!r}")
    return whole(f"{name}[0]", pair[0], 1), whole(f"{name}[1]", pair[1], 1)


def per_channel(name: str, value) -> tuple[float, ...]:
    """One number, or one for each channel, as a tuple."""
    value = plain(value)
    if isinstance(value, (str, bytes, Mapping)) or value is None or isinstance(value, bool):
        raise WrongKind(f"{name} must be a number, or one for each channel, not {value!r}")
    if not isinstance(value, Iterable):
        return (number(name, value),)
    return tuple(number(f"{name}[{i}]", v) for i, v in enumerate(value))


def _numbers(values) -> str:
    return ", ".join(f"{v:.4g}" for v in values)


@dataclass(frozen=True)
class InputCard:
    """What a model expects to be fed: ``channels``, ``size`` (height, width) or None for any, and
    how it normalises: (x - mean) / std per channel, x in [0, 1]. One side stands for a square, one
    number for all channels. Raises ValueError for values that cannot be meant."""

    channels: int = 3
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        object.__setattr__(self, "channels", whole("InputCard.channels", self.channels, 1))
        object.__setattr__(self, "size", side_of(self.size, "InputCard.size"))
        for name in ("mean", "std"):
            value = per_channel(f"InputCard.{name}", getattr(self, name))
            if len(value) not in (1, self.channels):
                raise ValueError(f"InputCard.{name} needs "
                                 f"{' or '.join(map(str, dict.fromkeys((1, self.channels))))} "
                                 f"value{'s' * (self.channels > 1)}, got {len(value)}")
            object.__setattr__(self, name, value)
        if min(self.std) <= 0:
            raise ValueError(f"InputCard.std must be positive, got {self.std}")

    def __str__(self) -> str:
        size = "of any size" if self.size is None else " x ".join(map(str, self.size))
        kind = {1: "grey", 3: "colour"}.get(self.channels, f"{self.channels} channels")
        return f"{kind}, {size}, mean {_numbers(self.mean)}, std {_numbers(self.std)}"

    def check(self, x: Tensor, normalised: bool = False) -> None:
        """Raise InputError unless x is float (B, channels, height, width) and, where the model
        normalises itself, within [0, 1]."""
        size = "any size" if self.size is None else f"{self.size[0]} x {self.size[1]}"
        expected = f"this model expects float images (batch, {self.channels}, {size}) in [0, 1]"
        if not x.is_floating_point():
            raise InputError(f"got {x.dtype} images; {expected}: convert with x.float() / 255")
        if x.ndim != 4 or x.shape[1] != self.channels or (self.size
                                                          and tuple(x.shape[2:]) != self.size):
            raise InputError(f"got images of shape {tuple(x.shape)}; {expected}")
        if normalised or not x.numel():
            return
        low, high = (float(v) for v in x.detach().aminmax())
        if low < 0 or high > 1:
            guess = ("they look like 0..255: divide by 255" if high > 2 and low >= 0 else
                     "they look normalised already: undo it, or say normalisation='in_data' when "
                     "loading the model")
            raise InputError(f"got images in [{low:.4g}, {high:.4g}]; {expected}; {guess}")


def check_normalisation(value) -> str:
    if not isinstance(value, str) or value not in ("in_model", "in_data"):
        raise ValueError(f"normalisation must be 'in_model' or 'in_data', not {value!r}")
    return value


class SourceModel(nn.Module):
    """A classifier with its input card: images in [0, 1] -> normalise -> ``net.features`` ->
    ``net.head`` -> logits.

    ``normalisation="in_data"`` says that the loader has normalised already: the model then feeds
    images on as they are. ``card`` is the InputCard, ``info`` the JSON card of the checkpoint
    (architecture, accuracy, ...).
    """

    def __init__(self, net: nn.Module, card: InputCard, normalisation: str = "in_model",
                 info: dict | None = None):
        super().__init__()
        if isinstance(net, type) or not isinstance(net, nn.Module):
            raise WrongKind(f"net must be a network (nn.Module), not {shown(net)}")
        if not isinstance(card, InputCard):
            raise WrongKind(f"card must be an InputCard, such as InputCard(channels=3, size=(32, "
                            f"32)), not {shown(card)}")
        if not isinstance(info, Mapping | None):
            raise WrongKind(f"info must be a dict of what is known of the model, not {shown(info)}")
        check_normalisation(normalisation)
        self.net, self.card, self.normalisation, self.info = net, card, normalisation, dict(info
                                                                                            or {})
        self.check_input = True
        for name in ("mean", "std"):
            value = torch.tensor(getattr(card, name)).view(1, -1, 1, 1)
            self.register_buffer(f"input_{name}", value, persistent=False)

    def check(self, x: Tensor, ids=None) -> None:
        """Raise InputError when the batch is not what the card asks for (the adapter calls this
        first)."""
        if x.is_floating_point() and x.ndim > 1:
            # before the range, in which an infinite image would look like one of 0 ..
            # 255
            check_finite(x, ids)
        self.card.check(x, normalised=self.normalisation == "in_data")

    def normalise(self, x: Tensor) -> Tensor:
        """(x - mean) / std, or x itself when the data come normalised."""
        return x if self.normalisation == "in_data" else (x - self.input_mean) / self.input_std

    def _prepare(self, x: Tensor) -> Tensor:
        if self.check_input:
            self.check(x)
        return self.normalise(x)

    def features(self, x: Tensor) -> Tensor:
        """The input of the head, (B, D)."""
        self._has("features")
        net: Any = self.net
        return net.features(self._prepare(x))

    @property
    def head(self) -> nn.Module:
        """The last layer, features (B, D) -> logits (B, K)."""
        self._has("head")
        return self.net.get_submodule("head")

    def __getattr__(self, name: str):
        if name == "head":  # the property found none
            self._has(name)
        return super().__getattr__(name)

    def _has(self, name: str) -> None:
        if not hasattr(self.net, name):
            raise AttributeError(f"{type(self.net).__name__} has no {name!r}: methods that need "
                                 f"features and head do not work with this model. "
                                 "with_input_card, from_torchvision and from_timm find both where "
                                 "the last linear layer makes the logits of "
                                 "its input; elsewhere give the network 'features' and 'head' "
                                 "with logits = head(features(x))")

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self._prepare(x))

    def known_classes(self) -> int | None:
        """The number of classes that the model is known to answer in without being asked; None
        where it is not known."""
        net: Any = self.net
        if hasattr(net, "picks"):
            return net.picks
        if self.info.get("classes"):
            return len(self.info["classes"])
        head = getattr(self.net, "head", None)
        return self.info.get("num_classes",
                             head.out_features if isinstance(head, nn.Linear) else None)

    def __repr__(self) -> str:
        info, classes = self.info, self.info.get("classes")
        count = self.known_classes()
        net: Any = self.net
        while hasattr(net, "wraps"):
            net = net.wraps
        every = sum(p.numel() for p in self.parameters())
        trained = sum(p.numel() for p in self.parameters() if p.requires_grad)
        named = (f": {', '.join(map(str, classes[:4]))}{', ...' if len(classes) > 4 else ''}"
                 if classes else "")
        origin = ([info[k] for k in ("from", "name") if info.get(k)]
                  or ([f"weights {info['weights']}"] if info.get("weights") else []))
        lines = {
            "architecture": info.get("architecture") or type(net).__name__,
            "images": f"{self.card}; " +
            ("the data come normalised" if self.normalisation == "in_data" else "fed in [0, 1]"),
            "classes": f"{'not known before it is asked' if count is None else count}{named}",
            "from": origin[0] if origin else
            "a network of yours" if "weights" not in info else "drawn at random or as you built it",
            "parameters": f"{every:,}, of which {trained:,} trainable; "
            f"{'train' if self.training else 'eval'} mode"
        }
        if info.get("test_accuracy") is not None:
            lines["accuracy"] = f"{info['test_accuracy']} % on its own test set, as its card says"
        width = max(map(len, lines))
        return "\n".join([
            "SourceModel", *(f"  {k:<{width}}  {v}" for k, v in lines.items()),
            "  (the layers: print(model.net))"
        ])
