"""Random numbers that depend on nothing but their names: seed, purpose, image, element."""
from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

FACTORS = 0x21F0AAAD, 0x735A2D97
GOLDEN = 0x9E3779B9


def precise(device: torch.device) -> torch.dtype:
    """float64, so that devices agree and TF32 settings do not matter; float32 on Apple's mps,
    which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def _mix(h: int) -> int:
    """A bijective 32-bit hash (xorshift-multiply) of a number from 0 to 2^32 - 1."""
    h = ((h ^ (h >> 16)) * FACTORS[0]) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * FACTORS[1]) & 0xFFFFFFFF
    return h ^ (h >> 15)


def _mix_(h: Tensor) -> Tensor:
    """The same hash in place on int32, whose products wrap around and whose shifts are made
    logical by a mask."""
    t = torch.empty_like(h)
    for shift, factor in ((16, FACTORS[0]), (15, FACTORS[1]), (15, None)):
        torch.bitwise_right_shift(h, shift, out=t)
        h ^= t.bitwise_and_((1 << (32 - shift)) - 1)
        if factor is not None:
            h *= factor
    return h


def _signed(value: int) -> int:
    """The number from -2^31 to 2^31 - 1 with the same low 32 bits."""
    return (value + 2**31) % 2**32 - 2**31


@dataclass(frozen=True, eq=False)
class Draws:
    """Random numbers of a counter-based generator: a hash of (seed, name, id, element), never of
    the batch.

    ``ids`` is int64 (B,). The same id with the same seed and name gives the same numbers whatever
    the batch size, the order or the device. Nothing is stored and no global generator is touched.
    """

    ids: Tensor
    seed: int = 0
    name: str = ""

    def words(self, n: int, salt: int = 0) -> Tensor:
        """Random 32-bit words as int32 (B, n); another ``salt`` gives independent ones."""
        starts = []
        for key in (0, 1):  # two keys: 64 bits of identity for each image
            for word in (self.seed & 0xFFFFFFFF, (self.seed >> 32) & 0xFFFFFFFF,
                         zlib.crc32(self.name.encode()), salt):
                key = _mix((key + word + GOLDEN) & 0xFFFFFFFF)
            starts.append(key)
        low = self.ids.to(torch.int32)
        high = (self.ids >> 32).to(torch.int32)
        keys = _mix_(torch.stack([low + _signed(key + GOLDEN) for key in starts]))
        first, second = _mix_(keys + high + _signed(GOLDEN))[:, :, None]
        h = _mix_(torch.arange(n, dtype=torch.int32, device=self.ids.device) + first)
        return _mix_(h.bitwise_xor_(second))

    def bits(self, n: int, salt: int = 0) -> Tensor:
        """Integers in 0 .. 2^32 - 1, int64 (B, n)."""
        return self.words(n, salt).to(torch.int64) & 0xFFFFFFFF

    def uniform(self, n: int, salt: int = 0) -> Tensor:
        """Uniform in the open interval (0, 1), float64 (B, n): (bits + 1/2) / 2^32."""
        centred = (self.words(n, salt) ^ -2**31).to(precise(self.ids.device))          # bits - 2^31
        return centred.add_(2**31 + 0.5).div_(2**32)

    def normal(self, n: int, salt: int = 0) -> Tensor:
        """Standard normal by Box-Muller: sqrt(-2 ln u) (cos, sin)(2 pi v), float64 (B, n)."""
        return _box_muller(self.uniform, n, salt)

    def uniform32(self, n: int, salt: int = 0) -> Tensor:
        """Uniform in the open interval (0, 1) in steps of 2^-23, float32 (B, n); not the numbers
        of ``uniform``."""
        return (self.words(n, salt) >> 9).float().mul_(2**-23).add_(0.5 + 2**-24)

    def normal32(self, n: int, salt: int = 0) -> Tensor:
        """Standard normal as in ``normal``, from ``uniform32``: float32 (B, n), at most 5.8 in
        size."""
        return _box_muller(self.uniform32, n, salt)


def _box_muller(uniform, n: int, salt: int) -> Tensor:
    half = (n + 1) // 2
    draws = uniform(2 * half, salt)
    radius = draws[:, :half].log().mul_(-2).sqrt_()
    angle = draws[:, half:] * (2 * math.pi)
    out = torch.empty_like(draws)
    torch.mul(radius, angle.cos(), out=out[:, :half])
    torch.mul(radius, angle.sin_(), out=out[:, half:])
    return out[:, :n]
