"""Random numbers per sample, which depend on a key and the sample's index but not on the batch."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, prod

import torch
from torch import Tensor

from unshaken.base.rng import Key
from unshaken.base.types import Float, Int


@dataclass(frozen=True, eq=False)
class SampleRandom:
    """A key, and the indices (N) int64 of the samples to draw numbers for.

        angle = (draws / "angle").uniform(low=-45, high=45)

    A sample gets the same numbers in any batch. They are computed from counters, not from a generator's state
    (SplitMix64: Steele, Lea and Flood, OOPSLA 2014), in integer arithmetic, hence with the same bits on every device.
    """

    key: Key
    index: Int[Tensor, "N"]

    def __truediv__(self, part: int | str) -> SampleRandom:
        return SampleRandom(self.key / part, self.index)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Float[Tensor, "N ..."]:
        """Draw float64 numbers from [low, high), on a grid of 2⁵³ numbers."""
        return low + (high - low) * (_shift_right(self._bits(prod(shape)), 11).double() * 2.0**-53).view(
            len(self.index), *shape
        )

    def integers(self, low: int, high: int, *shape: int) -> Int[Tensor, "N ..."]:
        """Draw int64 numbers from low, ..., high - 1."""
        return (low + (high - low) * self.uniform(*shape)).floor_().long()

    def normal(self, *shape: int) -> Float[Tensor, "N ..."]:
        """Draw float64 numbers with mean 0 and deviation 1, each two from two uniform ones (Box and Muller, 1958)."""
        count = prod(shape)
        u, turn = self.uniform(2, (count + 1) // 2).unbind(1)
        radius, angle = (1 - u).log_().mul_(-2).sqrt_(), turn.mul_(2 * pi)
        return torch.cat([radius * angle.cos(), radius * angle.sin()], 1)[:, :count].view(len(self.index), *shape)

    def _bits(self, count: int) -> Int[Tensor, "N count"]:
        start = _mix(_mix(self.index) ^ self.key.number)
        step = torch.arange(1, count + 1, device=self.index.device) * _signed(0x9E3779B97F4A7C15)
        return _mix(start[:, None] + step)


def _mix(x: Tensor) -> Tensor:
    """Permute the 64-bit numbers so that neighbours become unrelated (the output function of SplitMix64)."""
    x = (x ^ _shift_right(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift_right(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift to the right and fill with zeros, where torch's own shift repeats the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(bits: int) -> int:
    return bits - 2**64
