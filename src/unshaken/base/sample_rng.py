"""Random numbers by sample: each depends on a key and the sample's own index, on nothing else in the batch."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, prod

import torch
from torch import Tensor

from unshaken.base.rng import Key
from unshaken.base.types import Float, Int


@dataclass(frozen=True, eq=False)
class SampleRandom:
    """A path of a key, at each of the samples `index` (N) int64.

        angle = (draws / "angle").uniform(low=-45, high=45)

    The same place gives the same numbers again, in any batch. They come from counters, not from a generator's state
    (SplitMix64: Steele, Lea and Flood, OOPSLA 2014): integer arithmetic, hence the same bits on every device.
    """

    key: Key
    index: Int[Tensor, "N"]

    def __truediv__(self, part: int | str) -> SampleRandom:
        return SampleRandom(self.key / part, self.index)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Float[Tensor, "N ..."]:
        """float64 in [low, high), on a grid of 2⁵³ numbers."""
        return low + (high - low) * (_shifted(self._bits(prod(shape)), 11).double() * 2.0**-53).view(
            len(self.index), *shape
        )

    def integers(self, low: int, high: int, *shape: int) -> Int[Tensor, "N ..."]:
        """int64 in low, ..., high - 1."""
        return (low + (high - low) * self.uniform(*shape)).floor_().long()

    def normal(self, *shape: int) -> Float[Tensor, "N ..."]:
        """float64 of mean 0 and deviation 1: two from two uniform ones (Box and Muller, 1958)."""
        count = prod(shape)
        u, turn = self.uniform(2, (count + 1) // 2).unbind(1)
        radius, angle = (1 - u).log_().mul_(-2).sqrt_(), turn.mul_(2 * pi)
        return torch.cat([radius * angle.cos(), radius * angle.sin()], 1)[:, :count].view(len(self.index), *shape)

    def _bits(self, count: int) -> Int[Tensor, "N count"]:
        start = _mixed(_mixed(self.index) ^ self.key.number)
        step = torch.arange(1, count + 1, device=self.index.device) * _signed(0x9E3779B97F4A7C15)
        return _mixed(start[:, None] + step)


def _mixed(x: Tensor) -> Tensor:
    """A permutation of the 64-bit numbers, in which neighbours have nothing in common."""
    x = (x ^ _shifted(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shifted(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """To the right with zeros following: torch's own shift repeats the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(bits: int) -> int:
    return bits - 2**64
