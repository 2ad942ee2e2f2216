"""One bit per test image and attack, their count, and the interval that the count allows."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy
import torch
from torch import Tensor

from unshaken.base.types import Int


@dataclass(frozen=True, eq=False)
class Verdicts:
    """Which images were classified correctly, in the order of the set. May be a beginning of it."""

    bits: Int[Tensor, "N"]  # bool

    @classmethod
    def none(cls) -> Verdicts:
        return cls(torch.zeros(0, dtype=torch.bool))

    def __len__(self) -> int:
        return len(self.bits)

    @property
    def correct(self) -> int:
        return int(self.bits.sum())

    def followed_by(self, bits: Int[Tensor, "n"]) -> Verdicts:
        return Verdicts(torch.cat([self.bits, bits.cpu()]))

    def summary(self) -> dict[str, Any]:
        """Counts first: a percentage alone is an anecdote."""
        low, high = wilson(self.correct, len(self))
        return {
            "correct": self.correct,
            "n": len(self),
            "percent": round(100 * self.correct / len(self), 2),
            "interval95": [round(100 * low, 2), round(100 * high, 2)],
            "bits": self.packed(),
        }

    def packed(self) -> str:
        """Eight verdicts a byte, first image in the highest bit, in base 64."""
        return base64.b64encode(numpy.packbits(self.bits.numpy()).tobytes()).decode()

    @classmethod
    def unpacked(cls, text: str, n: int) -> Verdicts:
        raw = numpy.frombuffer(base64.b64decode(text), dtype=numpy.uint8)
        return cls(torch.from_numpy(numpy.unpackbits(raw, count=n).astype(bool)))


def wilson(correct: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927): within [0, 1], and right at 0 and n too."""
    if n < 1:
        raise ValueError("no image was judged, so there is no accuracy")
    p, zz = correct / n, z * z
    middle, half = p + zz / (2 * n), z * sqrt(p * (1 - p) / n + zz / (4 * n * n))
    return max(0.0, (middle - half) / (1 + zz / n)), min(1.0, (middle + half) / (1 + zz / n))
