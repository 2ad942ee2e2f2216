"""Corruption accuracy: the mean over the fifteen corruptions at each severity, and over all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from unshaken.corruptions.severity import FIFTEEN, SEVERITIES


@dataclass(frozen=True)
class CorruptionAccuracy:
    """Exact accuracies under corruptions, as RobustBench and AIR (Xu et al., NeurIPS 2023, arXiv:2305.00374) do it.

    by_severity  CS-s: the mean over the fifteen corruptions at severity s
    mean         the mean of the five
    """

    by_severity: tuple[Fraction, ...]

    @property
    def mean(self) -> Fraction:
        """The mean over the severities."""
        return sum(self.by_severity, Fraction()) / len(self.by_severity)

    def summary(self) -> dict[str, float]:
        """Return CS-1 to CS-5 and their mean, in percent."""
        exact = {f"CS-{s}": share for s, share in zip(SEVERITIES, self.by_severity, strict=True)} | {"mean": self.mean}
        return {name: round(float(100 * share), 2) for name, share in exact.items()}


def corruption_accuracy(correct: Mapping[str, Sequence[int]], n: int) -> CorruptionAccuracy:
    """Return the accuracies from counts.

    correct  by corruption, the numbers of images classified correctly at severities 1 to 5; the four extra corruptions
             are ignored. ValueError if one of the fifteen is missing
    n        the number of images
    """
    missing = [name for name in FIFTEEN if name not in correct]
    if missing:
        raise ValueError(f"a mean over the fifteen corruptions lacks {', '.join(missing)}")
    for name in FIFTEEN:
        if len(correct[name]) != len(SEVERITIES) or not all(0 <= count <= n for count in correct[name]) or n < 1:
            raise ValueError(
                f"{name} needs five counts, at severities 1 to 5, in 0 to n ≥ 1; not {[*correct[name]]}, {n}"
            )
    totals = (sum(int(correct[name][s]) for name in FIFTEEN) for s in range(len(SEVERITIES)))
    return CorruptionAccuracy(tuple(Fraction(total, len(FIFTEEN) * n) for total in totals))
