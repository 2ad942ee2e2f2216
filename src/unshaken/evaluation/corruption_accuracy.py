"""Corruption accuracy from counts: the mean over fifteen corruptions at each severity, and over the severities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from unshaken.corruptions.severity import FIFTEEN, SEVERITIES


@dataclass(frozen=True)
class CorruptionAccuracy:
    """Exact accuracies; the protocol of RobustBench and of AIR (Xu et al., NeurIPS 2023, arXiv:2305.00374).

    by_severity   at severity s the mean over the fifteen corruptions: CS-s
    mean          of the five: the mean corruption accuracy
    """

    by_severity: tuple[Fraction, ...]

    @property
    def mean(self) -> Fraction:
        return sum(self.by_severity, Fraction()) / len(self.by_severity)

    def summary(self) -> dict[str, float]:
        """In percent: CS-1 ... CS-5 and mean."""
        exact = {f"CS-{s}": share for s, share in zip(SEVERITIES, self.by_severity, strict=True)} | {"mean": self.mean}
        return {name: round(float(100 * share), 2) for name, share in exact.items()}


def corruption_accuracy(correct: Mapping[str, Sequence[int]], n: int) -> CorruptionAccuracy:
    """From how many of n images were classified correctly: by corruption, at severities 1 to 5.

    The four extra corruptions may be there; they do not count. ValueError if one of the fifteen is not.
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
