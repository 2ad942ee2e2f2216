"""A table of selections: their overlap and their classes, beside random selections."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod

from unshaken.coreset.class_balance import random_total_variation, total_variation
from unshaken.report.table import Row

COLUMNS = ("before epoch", "images", "seconds", "shared with last", "shared with first", "seen so far")
CLASS_COLUMNS = ("fewest", "most", "χ²/df", "total variation", "by class")
LEGEND = (
    "shared with last, with first: images that were in the selection before, and in the first one; seen so far: share "
    "of the candidates that have been in any selection; in brackets: the mean for random selections."
)
CLASS_LEGEND = (
    " fewest, most: the classes with the fewest and the most images relative to their share of the candidates, and the "
    "ratio; χ²/df: unevenness of the classes, with mean 1 for random selections of any size; total variation: half the "
    "sum over classes of the differences between their shares of the selection and of the candidates; by class: images "
    "of each class, in the order of the classes."
)
SPELLED = 20
"""Counts by class are shown for up to this many classes: with more a row is unreadable."""


@dataclass(frozen=True)
class Selection:
    """One selection: the epoch before which it was made, the images in the order of selection, and its seconds."""

    epoch: int
    index: tuple[int, ...]
    seconds: float


def rows(
    selections: list[Selection], candidates: list[int], label: list[int] | None = None, names: tuple[str, ...] = ()
) -> list[Row]:
    """Return a row for all candidates, then one for each selection.

    label   the labels of all images of the set; without them there are no columns on classes
    """
    kinds = classes(candidates, candidates, label, names)
    lines: list[Row] = [("candidates", str(len(candidates)), "–", "–", "–", "–", *kinds)]
    size, seen = len(candidates), set[int]()
    for k, now in enumerate(selections):
        seen |= set(now.index)
        by_chance = 1 - prod(1 - len(each.index) / size for each in selections[: k + 1])
        lines.append(
            (
                str(now.epoch),
                str(len(now.index)),
                f"{now.seconds:.1f}",
                shared(now, selections[k - 1], size) if k else "–",
                shared(now, selections[0], size) if k else "–",
                f"{_percent(len(seen) / size)} ({_percent(by_chance)})",
                *classes(list(now.index), candidates, label, names),
            )
        )
    return lines


def shared(now: Selection, then: Selection, candidates: int) -> str:
    """Return the share of a selection that is in another one, and the mean of that share for random selections."""
    common = len(set(now.index) & set(then.index)) / len(now.index)
    return f"{_percent(common)} ({_percent(len(then.index) / candidates)})"


def classes(index: list[int], candidates: list[int], label: list[int] | None, names: tuple[str, ...]) -> Row:
    """Return the cells of CLASS_COLUMNS; () without labels."""
    if label is None:
        return ()
    picked, available = (Counter(label[i] for i in images) for images in (index, candidates))
    counts = ", ".join(str(picked[k]) for k in range(len(names))) if len(names) <= SPELLED else "–"
    if len(available) < 2 or len(index) == len(candidates):
        return "–", "–", "–", "–", counts
    times = {k: picked[k] / (len(index) * available[k] / len(candidates)) for k in sorted(available)}
    fewest, most = min(times, key=times.__getitem__), max(times, key=times.__getitem__)
    ends = (f"{names[k]} ({times[k]:.2f}×)" for k in (fewest, most))
    selected, totals = ([each[k] for k in sorted(available)] for each in (picked, available))
    distance = f"{total_variation(selected, totals):.3f} ({random_total_variation(len(index), totals):.3f})"
    return *ends, f"{unevenness(picked, available):.2f}", distance, counts


def unevenness(picked: dict[int, int], available: dict[int, int]) -> float:
    """Return χ² of the classes of n of N images, divided by its mean without replacement, (K − 1)(N − n)/(N − 1)."""
    n, size = sum(picked.values()), sum(available.values())
    share = {k: n * count / size for k, count in available.items()}
    square = sum((picked.get(k, 0) - share[k]) ** 2 / share[k] for k in share)
    return square * (size - 1) / ((len(share) - 1) * (size - n))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
