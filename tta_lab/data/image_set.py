"""Image sets: what every set answers, sets in memory, the embedded ones checked against their
recorded sums.

Everything here is *images with labels*, nothing else; how they are ordered, shifted and mixed is
the business of ``streams``. Sets of files on disk are in ``image_files``, the published benchmarks
in `data.published`.
"""
from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core import places
from ..core.arguments import WrongKind, whole
from .shift import CLEAN
from .shipped import DataError


class BaseSet:
    """What every set of images answers, in memory or on disk.

    name           text from which ``load`` rebuilds the set, where that is possible
    classes        names of the classes, K of them
    y              int64 (N,), 0 .. K-1, or -1 where the label is not known
    shape          (C, H, W) of one image
    domains        domains whose images the set holds itself (corruptions of a "-C" set,
                   sub-domains); () for plain sets
    model_classes  outputs of a larger model that stand for the classes, see ``class_logits``; None
                   where the model has just
                   these classes
    """

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.shape))
        more = f", domains {', '.join(self.domains)}" if self.domains else ""
        return (f"{type(self).__name__}({self.name!r}, {len(self)} images of {shape}, "
                f"{len(self.classes)} classes{more})")

    def rows(self, domain: str = "none") -> Tensor | None:
        """Rows that belong to a domain, int64; None stands for all of them."""
        return None

    def only(self, classes, relabel: bool = True):
        """Only the images of these class indices; with ``relabel`` they are renumbered 0 ..
        len(classes)-1 and the classes appear in the name, as in ``fashion_mnist[0,2]``, which
        ``load`` understands."""
        if isinstance(classes, str | bytes) or not isinstance(classes, Iterable):
            raise WrongKind(f"{self.name}: classes must list class indices, such as [0, 2], not "
                            f"{classes!r}")
        classes = tuple(whole(f"{self.name}: a class index", c) for c in classes)
        wrong = [c for c in classes if not 0 <= c < len(self.classes)]
        if wrong:
            raise ValueError(f"{self.name} has classes 0 to {len(self.classes) - 1}, not {wrong}")
        if len(set(classes)) < len(classes) or not classes:
            raise ValueError(f"{self.name}: choose at least one class, each once, got "
                             f"{list(classes)}")
        kept = self.take(torch.isin(self.y, torch.tensor(classes)))
        if not relabel:
            return kept
        lookup = torch.full((len(self.classes),), -1)
        lookup[torch.tensor(classes)] = torch.arange(len(classes))
        return replace(
            kept, name=places.with_subset(self.name, ",".join(map(str, classes))), y=lookup[kept.y],
            classes=tuple(self.classes[c] for c in classes),
            model_classes=None if self.model_classes is None else self.model_classes[list(classes)])


def check_labels(name: str, y: Tensor, classes: tuple[str, ...]) -> None:
    """Raise DataError unless every label is a class index or -1, in int64."""
    if not isinstance(y, Tensor) or y.dtype != torch.int64 or y.ndim != 1:
        found = f"{y.dtype} {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        raise DataError(f"{name}: labels must be a tensor of int64 (N,), got {found}; make one "
                        f"with torch.as_tensor(labels, dtype=torch.int64)")
    if len(y) and (int(y.min()) < -1 or int(y.max()) >= len(classes)):
        raise DataError(f"{name}: labels run from {int(y.min())} to {int(y.max())}, but there are "
                        f"{len(classes)} classes "
                        "(-1 stands for 'not known')")


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet(BaseSet):
    """Images held in memory with their labels.

    ``x`` is uint8 (N, C, H, W), ``y`` int64 (N,) with values 0 .. K-1 for the K names in
    ``classes``, or -1 where the label is not known.
    """

    name: str
    x: Tensor
    y: Tensor
    classes: tuple[str, ...]
    model_classes: Tensor | None = None

    domains = ()        # a plain set: every shift is made, none is read

    def __post_init__(self):
        if not isinstance(self.x, Tensor):
            raise DataError(f"{self.name}: images must be a tensor, got {type(self.x).__name__}; "
                            f"make one with torch.from_numpy(images)")
        if self.x.dtype != torch.uint8 or self.x.ndim != 4:
            raise DataError(f"{self.name}: images must be uint8 (N, C, H, W), got {self.x.dtype} "
                            f"{tuple(self.x.shape)}")
        if getattr(self.y, "shape", None) != self.x.shape[:1]:
            raise DataError(f"{self.name}: {len(self.x)} images but labels of shape "
                            f"{tuple(getattr(self.y, 'shape', ()))}")
        check_labels(self.name, self.y, self.classes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return tuple(self.x.shape[1:])

    def check_domain(self, domain: str = "none", severity: float = 5.0) -> None:
        """Raise ValueError where ``images`` could not give this domain: only "none", the images as
        they are."""
        if domain not in CLEAN:
            raise ValueError(f"{self.name} holds no images of {domain!r}, only clean ones; make "
                             f"the shift with corruptions.corrupt")

    def images(self, index=slice(None), device="cpu", domain: str = "none",
               severity: float = 5.0) -> Tensor:
        """The chosen images as float32 in [0, 1], shape (n, C, H, W); ``domain`` can only be
        "none"."""
        self.check_domain(domain, severity)
        return self.x[index].to(device).float() / 255

    def take(self, index) -> ImageSet:
        """The same set with only the chosen rows."""
        return replace(self, x=self.x[index], y=self.y[index])

    def fingerprint(self) -> str:
        """sha256 over shape, class names, pixels and labels as they now are, as hex text."""
        digest = hashlib.sha256(repr((tuple(self.x.shape), self.classes)).encode())
        for part in (self.x, self.y):
            digest.update(part.cpu().contiguous().numpy())
        return digest.hexdigest()

    def check(self) -> int:
        """The number of images; in memory there is nothing left to decode."""
        return len(self)


def class_logits(logits: Tensor, model_classes: Tensor | None) -> Tensor:
    """Logits of a set's own K classes from those of a model with L outputs, (B, L, *S) -> (B, K,
    *S).

    ``model_classes`` int64 (K,): one output a class. int64 (K, M), padded with -1: several outputs
    a class, and the class takes the largest of their logits, so that it wins exactly where one of
    its members does. None: unchanged. Raises ValueError when the model has too few outputs.
    """
    if model_classes is None:
        return logits
    if int(model_classes.max()) >= logits.shape[1]:
        raise ValueError(f"the image set names model output {int(model_classes.max())}, the model "
                         f"has {logits.shape[1]}; "
                         "choose a model trained on the full list of classes")
    chosen = model_classes.to(logits.device)
    if chosen.ndim == 1:
        return logits[:, chosen]
    members = logits[:, chosen.clamp(min=0)]                                   # (B, K, M, *S)
    absent = (chosen < 0).view(1, *chosen.shape, *[1] * (logits.ndim - 2))
    return members.masked_fill(absent, -torch.inf).amax(2)
