"""Corruption accuracy from counts, against loops in exact fractions."""

from fractions import Fraction

import pytest

from unshaken.corruptions.severity import FIFTEEN
from unshaken.evaluation.corruption_accuracy import corruption_accuracy


def counts() -> dict[str, list[int]]:
    return {name: [90 - 7 * s - k for s in range(5)] for k, name in enumerate(FIFTEEN)}


def test_means_are_exact():
    found = corruption_accuracy(counts(), 97)
    by_severity = [sum(Fraction(counts()[name][s], 97) for name in FIFTEEN) / 15 for s in range(5)]
    assert list(found.by_severity) == by_severity
    assert found.mean == sum(by_severity) / 5
    assert found.summary() == {
        **{f"CS-{s + 1}": round(100 * float(v), 2) for s, v in enumerate(by_severity)},
        "mean": round(100 * float(sum(by_severity) / 5), 2),
    }
    assert list(found.summary()) == ["CS-1", "CS-2", "CS-3", "CS-4", "CS-5", "mean"]


def test_extra_corruptions_do_not_count():
    assert corruption_accuracy({**counts(), "saturate": [0] * 5}, 97) == corruption_accuracy(counts(), 97)


def test_what_is_missing_or_impossible_is_named():
    few = counts()
    del few["fog"], few["snow"]
    with pytest.raises(ValueError, match="needs counts for snow, fog too"):
        corruption_accuracy(few, 97)
    for wrong in ([1, 2, 3, 4], [1, 2, 3, 4, 98], [-1, 0, 0, 0, 0]):
        with pytest.raises(ValueError, match="fog needs a count"):
            corruption_accuracy({**counts(), "fog": wrong}, 97)
    with pytest.raises(ValueError, match="n ≥ 1"):
        corruption_accuracy({name: [0] * 5 for name in FIFTEEN}, 0)
