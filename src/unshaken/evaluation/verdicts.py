"""Verdicts: one bit for each image and stage, their count and its confidence interval."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from unshaken.base.packed_bits import pack_bits, unpack_bits
from unshaken.base.types import Bool


@dataclass(frozen=True, eq=False)
class Verdicts:
    """Which images of a set are classified correctly. Some may not be judged yet.

    bits    (N) bool: correct; False where not judged
    judged  (N) bool
    """

    bits: Bool[Tensor, "N"]
    judged: Bool[Tensor, "N"]

    @classmethod
    def none(cls, total: int) -> Verdicts:
        """Return no verdicts yet, on a set of `total` images."""
        return cls(torch.zeros(total, dtype=torch.bool), torch.zeros(total, dtype=torch.bool))

    @classmethod
    def of(cls, bits: Bool[Tensor, "N"]) -> Verdicts:
        """Return verdicts on all images of a set."""
        return cls(bits.cpu(), torch.ones(len(bits), dtype=torch.bool))

    @classmethod
    def read(cls, summary: dict[str, Any]) -> Verdicts:
        """Read a summary: the inverse of `summary`."""
        total = summary.get("of", summary["n"])
        bits = torch.from_numpy(unpack_bits(summary["bits"], total))
        complete = "judged" not in summary
        return cls.of(bits) if complete else cls(bits, torch.from_numpy(unpack_bits(summary["judged"], total)))

    def __len__(self) -> int:
        """The number of images that are judged."""
        return int(self.judged.sum())

    @property
    def correct(self) -> int:
        """The number of images that are classified correctly."""
        return int(self.bits.sum())

    @property
    def complete(self) -> bool:
        """All images are judged."""
        return bool(self.judged.all())

    def forecast(self) -> tuple[float, float]:
        """Return the 95 % interval of the accuracy on all images of the set."""
        return forecast(self.correct, len(self), len(self.judged))

    def summary(self) -> dict[str, Any]:
        """Return the score for a result; if images are missing, with the judged ones and the forecast for all."""
        low, high = wilson(self.correct, len(self))
        found = {
            "correct": self.correct,
            "n": len(self),
            "percent": round(100 * self.correct / len(self), 2),
            "interval95": [round(100 * low, 2), round(100 * high, 2)],
            "bits": pack_bits(self.bits.numpy()),
        }
        if self.complete:
            return found
        final = [round(100 * end, 2) for end in self.forecast()]
        return found | {"of": len(self.judged), "judged": pack_bits(self.judged.numpy()), "final95": final}


def wilson(correct: float, n: float, z: float = 1.959964) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion (Wilson 1927). It lies in [0, 1], also for 0 and n correct."""
    if n <= 0:
        raise ValueError("no image was judged, so there is no accuracy")
    p, zz = correct / n, z * z
    middle, half = p + zz / (2 * n), z * sqrt(max(0.0, p * (1 - p)) / n + zz / (4 * n * n))
    return max(0.0, (middle - half) / (1 + zz / n)), min(1.0, (middle + half) / (1 + zz / n))


def forecast(correct: int, n: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of the accuracy on all `total` images, from n of them, drawn at random.

    It is Wilson's with n (total − 1) / (total − n) instead of n: draws without replacement vary less by that factor. It
    stays within the bounds that the images not yet judged allow, and has no width once all are judged.
    """
    least, most = correct / total, (correct + total - n) / total
    if n in (0, total):
        return least, most
    size = n * (total - 1) / (total - n)
    low, high = wilson(correct / n * size, size)
    return max(low, least), min(high, most)
