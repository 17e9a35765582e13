"""What an adapter checks of images and ids before a step."""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .source_model import InputError, SourceModel, check_finite


def whole_ids(x: Tensor, ids: Any) -> Tensor | None:
    """Ids as whole numbers (B,), whatever list or array they came in; a mistake in them is
    raised under any ``on_error``."""
    if ids is None or not isinstance(x, Tensor) or not x.ndim:
        return None
    try:
        found = torch.as_tensor(ids)
    except Exception as why:
        raise InputError(f"ids must be {len(x)} whole numbers, one an image, not "
                         f"{ids!r}") from why
    if found.ndim != 1 or len(found) != len(x):
        raise InputError(f"{len(x)} images but ids of shape {tuple(found.shape)}; give one "
                         f"whole number an image")
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise InputError(f"ids must be whole numbers, not {found.dtype}")
    return found


def check_images(x: Tensor, ids: Tensor | None, source: nn.Module, values: bool) -> None:
    """Raise InputError unless these are images that the model can mean; of their ``values`` only
    when asked."""
    if not isinstance(x, Tensor) or x.ndim < 2 or not len(x):
        found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"expected a non-empty batch of images (B, C, H, W), got {found}")
    if not values:
        return
    if isinstance(source, SourceModel):
        source.check(x, ids)
    elif not x.is_floating_point():
        raise InputError(f"got {x.dtype} images; convert them to float as the model expects "
                         f"(for example x.float() / 255)")
    else:
        check_finite(x, ids)
