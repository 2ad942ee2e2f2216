"""Paired tests of rows: a sign test over images, Welch's t-test over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import exp, isfinite, lgamma, log, sqrt
from statistics import mean, variance

import numpy

LEVEL = 0.05
"""Level of the tests: between equal rows at most one comparison in twenty shows a difference."""
CHUNK = 512
"""Rows in one comparison, which bounds the memory with thousands of rows."""


@dataclass(frozen=True, eq=False)
class Verdicts:
    """One score of one row: for each seed, the images that are classified correctly.

    bits    (S, N) bool
    judged  (N) bool: the images with verdicts for all seeds
    """

    bits: numpy.ndarray
    judged: numpy.ndarray

    @property
    def share(self) -> numpy.ndarray:
        """For each image, the share of the seeds whose classifier gets it right."""
        return self.bits.mean(0)

    @property
    def accuracies(self) -> list[float]:
        """In percent, for each seed."""
        return [100 * float(row[self.judged].mean()) for row in self.bits]


@dataclass(frozen=True)
class Pair:
    """A and B on the images with verdicts of both: the numbers on which either is better, and the tests.

    images  p of the sign test: on an image where they differ, either is better with probability 1/2
    seeds   p of Welch's test of the seeds' accuracies; None if a row has a single seed
    """

    a_better: int
    b_better: int
    images: float
    seeds: float | None

    @property
    def told_apart(self) -> bool:
        return self.images < LEVEL and (self.seeds is None or self.seeds < LEVEL)


def pair(a: Verdicts, b: Verdicts) -> Pair:
    """Compare two rows on the same images."""
    both = a.judged & b.judged
    share_a, share_b = a.share[both], b.share[both]
    more, less = int((share_a > share_b).sum()), int((share_b > share_a).sum())
    return Pair(more, less, sign_test(more, less), welch(a.accuracies, b.accuracies))


def ranks(rows: Sequence[Verdicts]) -> list[int]:
    """Return each row's rank: one more than the number of rows that are better by both tests."""
    if not rows:
        return []
    beaten, accuracies = numpy.zeros(len(rows), int), [row.accuracies for row in rows]
    alone = numpy.array([len(each) < 2 for each in accuracies])  # with one seed only the test over images counts
    for start in range(0, len(rows), CHUNK):
        here = slice(start, start + CHUNK)
        by_images = fewer(*counts(rows[here], rows))
        decided = by_images & (alone[here, None] | alone)
        beaten[here] += decided.sum(1)
        for i, j in zip(*numpy.nonzero(by_images & ~decided), strict=True):
            p = welch(accuracies[start + i], accuracies[j])
            beaten[start + i] += p is None or p < LEVEL
    return [int(count) + 1 for count in beaten]


def fewer(more: numpy.ndarray, less: numpy.ndarray) -> numpy.ndarray:
    """Return where the sign test shows that a row, better on `more` images and worse on `less`, is worse."""
    largest = int(less.max(initial=0)) + 1
    codes, index = numpy.unique(more * largest + less, return_inverse=True)
    pairs = [divmod(int(code), largest) for code in codes]
    return numpy.array([b > a and sign_test(a, b) < LEVEL for a, b in pairs])[index].reshape(more.shape)


def counts(some: Sequence[Verdicts], rows: Sequence[Verdicts]) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return the numbers of images on which each of `some` is better, and worse, than each row: by 0-1 matrices."""
    mine, theirs = (numpy.stack([each.share for each in group]) for group in (some, rows))
    my_judged, their_judged = (numpy.stack([each.judged for each in group]) for group in (some, rows))
    more = numpy.zeros((len(some), len(rows)), numpy.float32)
    less = more.copy()
    for level in numpy.unique(numpy.concatenate([mine.ravel(), theirs.ravel()])):
        here = ((mine == level) & my_judged).astype(numpy.float32)
        more += here @ ((theirs < level) & their_judged).astype(numpy.float32).T
        less += here @ ((theirs > level) & their_judged).astype(numpy.float32).T
    return more.round().astype(int), less.round().astype(int)


@cache
def sign_test(more: int, less: int) -> float:
    """Return the exact two-sided p of the sign test; with one verdict for each image it is McNemar's test."""
    m, k = more + less, min(more, less)
    if m == 0:
        return 1.0
    terms = [lgamma(m + 1) - lgamma(i + 1) - lgamma(m - i + 1) - m * log(2) for i in range(k + 1)]
    top = max(terms)
    return min(1.0, 2 * exp(top) * sum(exp(term - top) for term in terms))


def welch(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return the two-sided p of Welch's t-test (Biometrika 1947) of the seeds' accuracies; None with one seed."""
    if min(len(a), len(b)) < 2:
        return None
    va, vb = variance(a) / len(a), variance(b) / len(b)
    if va + vb == 0:
        return 1.0 if mean(a) == mean(b) else 0.0
    t = (mean(a) - mean(b)) / sqrt(va + vb)
    degrees = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    return incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t))


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Return I_x(a, b), regularised, by Lentz's continued fraction (Numerical Recipes, section 6.4)."""
    if not 0 < x < 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(b, a, 1 - x)
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log(1 - x)) / a
    tiny = 1e-300
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1) or tiny)
    found = d
    for m in range(1, 300):
        for top in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = 1 / (1 + top * d or tiny), 1 + top / c or tiny
            found *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    assert isfinite(found)
    return front * found
