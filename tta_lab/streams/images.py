"""One batch of a stream, before and after its images are made."""
from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.arguments import WrongKind, shown
from ..data.corruptions import corrupt
from ..data.embedded import EMBEDDED
from ..data.image_set import BaseSet
from ..data.load import load_kept
from ..data.shipped import data_root
from .shifts import shift_of

UNKNOWN_ID = 1_000_000_000  # ids of unknown images start here; a known set is always smaller


@dataclass(frozen=True, eq=False)
class Batch:
    """Some images that arrive together. ``x`` is on the asked device, all other tensors are on the
    CPU."""

    x: Tensor          # float32 (B, C, H, W) in [0, 1]
    # int64 (B,): index in the known set, or UNKNOWN_ID + index in the unknown set
    ids: Tensor
    # int64 (B,): K, the number of known classes, for unknown images; -1 where no label is
    # known
    label: Tensor
    known: Tensor      # bool (B,)
    domain: Tensor     # int64 (B,): index into the stream's domains
    # float64 (B,): of the shift; the largest of a composition, 0 for clean images
    severity: Tensor
    segment: Tensor    # int64 (B,): position in the list of shifts
    round: int         # from 0
    new_domain: bool   # first batch of a domain

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """A batch before its images are made: what ``plan`` yields. ``segment_ids`` holds (known,
    unknown) ids of each segment and ``place`` the position of each image among those of its
    segment."""

    ids: Tensor
    segment: Tensor
    place: Tensor
    round: int
    new_domain: bool
    segment_ids: dict

    def __len__(self) -> int:
        return len(self.ids)


def image_set_of(value, role: str):
    if isinstance(value, str):
        return load_kept(value, data_root())
    if isinstance(value, BaseSet) or all(
            hasattr(value, name) for name in ("images", "y", "classes", "fingerprint")):
        return value
    hint = ("a path is written as a text, 'folder:PATH'"
            if isinstance(value, os.PathLike) else "a torch Dataset goes through tta_lab.wrap")
    raise WrongKind(f"Stream.{role} must be an image set or a text that tta_lab.load understands "
                    f"({', '.join(EMBEDDED)}, "
                    f"'folder:PATH', ...), got {shown(value)}; {hint}")


def make_images(known, unknown, ids: Tensor, shift: str, severity: float, seed: int,
                device="cpu") -> Tensor:
    """The images with these ids under a shift, float32 (B, C, H, W): from the set's own files
    where it holds the shift, else made here."""
    is_known = ids < UNKNOWN_ID
    parts = []
    for images, chosen, first in ((known, is_known, 0), (unknown, ~is_known, UNKNOWN_ID)):
        if not chosen.any():
            continue
        rows = ids[chosen] - first
        here = shift_of(images, shift)
        if here.held:
            x = images.images(rows, device, domain=here.domain, severity=here.severity(severity))
        else:
            x = corrupt(images.images(rows, device), shift, severity, ids[chosen], seed)
        parts.append((chosen, x))
    if len(parts) == 1:
        return parts[0][1]
    x = torch.empty(len(ids), *parts[0][1].shape[1:], device=device)
    for chosen, part in parts:
        x[chosen.to(device)] = part
    return x
