"""Class balance of a selection against all candidates: for diagnosis, unseen by selectors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypedDict

from unshaken.base.json_shapes import Items, Number, Whole


class ClassBalance(TypedDict):
    """How evenly a selection takes the classes.

    selected         images of each class in the selection
    candidates       images of each class among all candidates
    total_variation  ½ Σ_k |n_k/n − N_k/N|: the share of the selection that would have to change class, 0 to 1
    random_mean      the mean of total_variation over random selections of this size
    """

    selected: list[int]
    candidates: list[int]
    total_variation: float
    random_mean: float


CLASS_BALANCE = {
    "selected": Items(Whole(0)),
    "candidates": Items(Whole(0)),
    "total_variation": Number(0, 1),
    "random_mean": Number(0, 1),
}
"""The shape of a ClassBalance in JSON."""


def class_balance(selected: Sequence[int], candidates: Sequence[int], classes: int) -> ClassBalance:
    """Return the class balance of a selection against all candidates, from the classes of their images."""
    counts = [[count[k] for k in range(classes)] for count in (Counter(selected), Counter(candidates))]
    return {
        "selected": counts[0],
        "candidates": counts[1],
        "total_variation": total_variation(*counts),
        "random_mean": random_total_variation(len(selected), counts[1]),
    }


def total_variation(selected: list[int], candidates: list[int]) -> float:
    """Return ½ Σ_k |n_k/n − N_k/N| for the counts n_k of a selection and N_k of the candidates."""
    n, size = sum(selected), sum(candidates)
    return sum(abs(s / n - c / size) for s, c in zip(selected, candidates, strict=True)) / 2


def random_total_variation(n: int, candidates: list[int]) -> float:
    """Return the mean of `total_variation` over all selections of n images: each n_k is hypergeometric."""
    import numpy  # imported here, because with SciPy it takes a second
    from scipy.stats import hypergeom

    size, total = sum(candidates), 0.0
    for count in set(candidates):
        possible = numpy.arange(min(n, count) + 1)
        deviation = abs(possible / n - count / size)
        total += candidates.count(count) * float((deviation * hypergeom.pmf(possible, size, count, n)).sum())
    return total / 2


def describe(balance: ClassBalance) -> str:
    """Return the line that a run prints after a selection."""
    selected, candidates = balance["selected"], balance["candidates"]
    share = sum(selected) / sum(candidates)
    times = [s / (share * c) for s, c in zip(selected, candidates, strict=True) if c]
    return (
        f"{sum(selected):,} of {sum(candidates):,} images; classes have {min(times):.2f} to {max(times):.2f} times "
        f"their share, total variation {balance['total_variation']:.3f} (random: {balance['random_mean']:.3f})"
    )
