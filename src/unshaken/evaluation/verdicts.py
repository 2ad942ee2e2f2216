"""One bit per test image and attack, their count, and the interval that the count allows."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from unshaken.base import packed_bits as text
from unshaken.base.types import Bool


@dataclass(frozen=True, eq=False)
class Verdicts:
    """Which images were classified correctly, by their place in the set; some may not have been judged yet.

    bits    (N) bool, False where not judged
    judged  (N) bool
    """

    bits: Bool[Tensor, "N"]
    judged: Bool[Tensor, "N"]

    @classmethod
    def none(cls, total: int) -> Verdicts:
        return cls(torch.zeros(total, dtype=torch.bool), torch.zeros(total, dtype=torch.bool))

    @classmethod
    def of(cls, bits: Bool[Tensor, "N"]) -> Verdicts:
        """Of all images."""
        return cls(bits.cpu(), torch.ones(len(bits), dtype=torch.bool))

    @classmethod
    def read(cls, summary: dict[str, Any]) -> Verdicts:
        """The inverse of `summary`."""
        total = summary.get("of", summary["n"])
        bits = torch.from_numpy(text.unpack_bits(summary["bits"], total))
        whole = "judged" not in summary
        return cls.of(bits) if whole else cls(bits, torch.from_numpy(text.unpack_bits(summary["judged"], total)))

    def __len__(self) -> int:
        """How many were judged."""
        return int(self.judged.sum())

    @property
    def correct(self) -> int:
        return int(self.bits.sum())

    @property
    def whole(self) -> bool:
        return bool(self.judged.all())

    def forecast(self) -> tuple[float, float]:
        return forecast(self.correct, len(self), len(self.judged))

    def summary(self) -> dict[str, Any]:
        """Counts first: a percentage alone is an anecdote. Of a part of the set it says which, and what to expect."""
        low, high = wilson(self.correct, len(self))
        found = {
            "correct": self.correct,
            "n": len(self),
            "percent": round(100 * self.correct / len(self), 2),
            "interval95": [round(100 * low, 2), round(100 * high, 2)],
            "bits": text.pack_bits(self.bits.numpy()),
        }
        if self.whole:
            return found
        final = [round(100 * end, 2) for end in self.forecast()]
        return found | {"of": len(self.judged), "judged": text.pack_bits(self.judged.numpy()), "final95": final}


def wilson(correct: float, n: float, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927): within [0, 1], and right at 0 and n too."""
    if n <= 0:
        raise ValueError("no image was judged, so there is no accuracy")
    p, zz = correct / n, z * z
    middle, half = p + zz / (2 * n), z * sqrt(max(0.0, p * (1 - p)) / n + zz / (4 * n * n))
    return max(0.0, (middle - half) / (1 + zz / n)), min(1.0, (middle + half) / (1 + zz / n))


def forecast(correct: int, n: int, total: int) -> tuple[float, float]:
    """The 95 % interval of the accuracy on all `total` images, when n drawn at random from them have been judged.

    Wilson's, with n (total − 1) / (total − n) in the place of n: draws without replacement vary less by that factor. It
    never leaves what the images that are left can still make of it, and has no width once all are judged.
    """
    least, most = correct / total, (correct + total - n) / total
    if n in (0, total):
        return least, most
    size = n * (total - 1) / (total - n)
    low, high = wilson(correct / n * size, size)
    return max(low, least), min(high, most)
