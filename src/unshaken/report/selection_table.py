"""Selections in numbers: how their classes are shared out, and how far they are the same images, against chance."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod

from unshaken.report.table import Row

COLUMNS = ("before epoch", "images", "seconds", "shared with last", "shared with first", "seen so far")
CLASS_COLUMNS = ("fewest", "most", "χ²/df", "by class")
LEGEND = (
    "shared with last, with first: images that were in the selection before, and in the first one; seen so far: share "
    "of the candidates that have been in any selection; in brackets: what chance would give in the mean."
)
CLASS_LEGEND = (
    " fewest, most: classes that have least and most of what their share of the candidates would give them, and what "
    "multiple of it; χ²/df: unevenness of the classes, 1 by chance in the mean, whatever the numbers of images; by "
    "class: images of each class, in the order of the classes."
)
SPELLED = 20
"""So many classes have their counts spelled out; of more than that there is no reading a row."""


@dataclass(frozen=True)
class Selection:
    """Images in the order in which they were picked before an epoch, and the seconds that it took."""

    epoch: int
    index: tuple[int, ...]
    seconds: float


def rows(
    selections: list[Selection], candidates: list[int], label: list[int] | None = None, names: tuple[str, ...] = ()
) -> list[Row]:
    """One row a selection, under one of all candidates.

    label   of every image of the set, by its index; None where there are none, and then there are no columns of classes
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
    """The share of a selection that was in another one, and that of chance: the other's share of the candidates."""
    common = len(set(now.index) & set(then.index)) / len(now.index)
    return f"{_percent(common)} ({_percent(len(then.index) / candidates)})"


def classes(index: list[int], candidates: list[int], label: list[int] | None, names: tuple[str, ...]) -> Row:
    """The cells under CLASS_COLUMNS; none without labels."""
    if label is None:
        return ()
    picked, there = (Counter(label[i] for i in images) for images in (index, candidates))
    counts = ", ".join(str(picked[k]) for k in range(len(names))) if len(names) <= SPELLED else "–"
    if len(there) < 2 or len(index) == len(candidates):
        return "–", "–", "–", counts
    times = {k: picked[k] / (len(index) * there[k] / len(candidates)) for k in sorted(there)}
    fewest, most = min(times, key=times.__getitem__), max(times, key=times.__getitem__)
    ends = (f"{names[k]} ({times[k]:.2f}×)" for k in (fewest, most))
    return *ends, f"{unevenness(picked, there):.2f}", counts


def unevenness(picked: dict[int, int], there: dict[int, int]) -> float:
    """χ² of the classes of n images out of N without replacement, by its mean under chance, (K − 1)(N − n)/(N − 1)."""
    n, size = sum(picked.values()), sum(there.values())
    share = {k: n * count / size for k, count in there.items()}
    square = sum((picked.get(k, 0) - share[k]) ** 2 / share[k] for k in share)
    return square * (size - 1) / ((len(share) - 1) * (size - n))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
