"""Classes of a selection: counts by hand, and the mean over random selections by counting all of them."""

from itertools import combinations
from statistics import mean

import pytest

from unshaken.coreset.class_balance import class_balance, describe, random_total_variation, total_variation

CANDIDATES = [0] * 5 + [1] * 3 + [2] * 2
SELECTED = [2, 0, 1, 2]


def test_counts_and_distance_by_hand():
    found = class_balance(SELECTED, CANDIDATES, 4)
    assert found["selected"] == [1, 1, 2, 0]
    assert found["candidates"] == [5, 3, 2, 0]
    assert found["total_variation"] == pytest.approx((0.25 + 0.05 + 0.3) / 2)
    assert class_balance(CANDIDATES, CANDIDATES, 3)["total_variation"] == 0
    assert total_variation([0, 0, 2], [5, 3, 2]) == pytest.approx(0.8)


@pytest.mark.parametrize("count", [1, 3, 7, 10])
def test_the_random_mean_is_that_of_all_selections(count):
    every = [class_balance(classes, CANDIDATES, 3)["total_variation"] for classes in combinations(CANDIDATES, count)]
    assert random_total_variation(count, [5, 3, 2]) == pytest.approx(mean(every), abs=1e-9)


def test_the_line_says_how_even_the_classes_are():
    line = describe(class_balance(SELECTED, CANDIDATES, 4))
    assert line.startswith("4 of 10 images; classes have 0.50 to 2.50 times their share, total variation 0.300 (random")
