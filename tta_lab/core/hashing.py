"""Digests of tensors."""
from __future__ import annotations

import hashlib

import torch


def digest(tensors: dict) -> str:
    """First 12 hex digits of the sha256 of names and values; inner dicts are walked through."""
    sha = hashlib.sha256()

    def add(name, value):
        if isinstance(value, dict):
            for key in sorted(value):
                add(f"{name}/{key}", value[key])
        else:
            sha.update(name.encode())
            sha.update(value.detach().cpu().contiguous().view(-1).view(
                torch.uint8).numpy().tobytes())

    for key in sorted(tensors):
        add(key, tensors[key])
    return sha.hexdigest()[:12]
