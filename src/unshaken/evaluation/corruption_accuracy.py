"""Corruption accuracy: the mean over the fifteen corruptions at each severity, and over the severities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from unshaken.corruptions.severity import FIFTEEN, SEVERITIES


@dataclass(frozen=True)
class CorruptionAccuracy:
    """Accuracies under corruptions, as exact fractions, defined as in RobustBench and AIR (arXiv:2305.00374).

    by_severity  CS-s, the accuracy at severity s: the mean over the fifteen corruptions at severity s
    mean         the mean over the five severities
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
    """Return the accuracies from counts. ValueError if a corruption is missing, or a count is impossible.

    correct  by corruption, the numbers of correct images at severities 1 to 5; the four extra corruptions are ignored
    n        the number of images
    """
    missing = [name for name in FIFTEEN if name not in correct]
    if missing:
        raise ValueError(f"the mean over the fifteen corruptions needs counts for {', '.join(missing)} too")
    for name in FIFTEEN:
        if len(correct[name]) != len(SEVERITIES) or not all(0 <= count <= n for count in correct[name]) or n < 1:
            raise ValueError(
                f"{name} needs a count from 0 to n for each of the five severities, and n ≥ 1; "
                f"not {[*correct[name]]} with n = {n}"
            )
    totals = (sum(int(correct[name][level]) for name in FIFTEEN) for level in range(len(SEVERITIES)))
    return CorruptionAccuracy(tuple(Fraction(total, len(FIFTEEN) * n) for total in totals))
