"""Selections in numbers, against counts by hand and against what chance gives, all possibilities counted."""

from collections import Counter
from itertools import combinations
from statistics import mean

import pytest

from unshaken.report.selection_table import CLASS_COLUMNS, COLUMNS, Selection, rows, unevenness

CANDIDATES = list(range(2, 12))
"""Of 12 images; the first two are held."""
LABEL = [0, 1, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2]
"""Of the candidates 5, 3 and 2."""
SELECTIONS = [Selection(3, (2, 7, 10, 11), 1.25), Selection(5, (7, 3, 4, 11), 2.0), Selection(7, (2, 3, 4, 5, 6), 0.5)]


def table(**labels) -> list[dict]:
    columns = COLUMNS + (CLASS_COLUMNS if labels else ())
    return [dict(zip(columns, row, strict=True)) for row in rows(SELECTIONS, CANDIDATES, **labels)]


def test_overlaps_and_coverage_are_compared_with_random_selections():
    whole, first, second, third = table()
    assert (whole["before epoch"], whole["images"]) == ("candidates", "10")
    assert (first["before epoch"], first["images"], first["seconds"]) == ("3", "4", "1.2")
    assert first["shared with last"] == first["shared with first"] == "–"
    assert second["shared with last"] == "50.0 % (40.0 %)"  # 7 and 11 of four; 4 of 10 by chance
    assert third["shared with last"] == "40.0 % (40.0 %)"  # 3 and 4 of five
    assert third["shared with first"] == "20.0 % (40.0 %)"
    assert first["seen so far"] == "40.0 % (40.0 %)"
    assert second["seen so far"] == "60.0 % (64.0 %)"
    assert third["seen so far"] == f"80.0 % ({100 * (1 - 0.6 * 0.6 * 0.5):.1f} %)"


def test_classes_against_their_share_of_the_candidates():
    whole, first, _, third = table(label=LABEL, names=("cat", "dog", "elk"))
    assert whole["by class"] == "5, 3, 2"
    assert first["by class"] == "1, 1, 2"
    assert (first["fewest"], first["most"]) == ("cat (0.50×)", "elk (2.50×)")
    assert third["by class"] == "5, 0, 0"
    assert (third["fewest"], third["most"]) == ("dog (0.00×)", "cat (2.00×)")
    square = (1 - 2) ** 2 / 2 + (1 - 1.2) ** 2 / 1.2 + (2 - 0.8) ** 2 / 0.8
    assert first["χ²/df"] == f"{square / 2 * 9 / 6:.2f}"
    assert first["total variation"].startswith("0.300 (0.")  # of 4: 1, 1, 2 where 2, 1.2, 0.8 are in proportion


@pytest.mark.parametrize("count", [1, 3, 7])
def test_the_mean_unevenness_of_all_selections_is_1(count):
    """Over all selections of so many there are."""
    totals = Counter(LABEL[i] for i in CANDIDATES)
    every = [unevenness(Counter(LABEL[i] for i in index), totals) for index in combinations(CANDIDATES, count)]
    assert mean(every) == pytest.approx(1, abs=1e-12)


def test_shares_are_listed_only_for_a_few_classes():
    names = tuple(f"class {k}" for k in range(30))
    row = rows(SELECTIONS, CANDIDATES, LABEL, names)[1]
    assert row[-1] == "–"
    assert row[-5] == "class 0 (0.50×)"
    assert rows(SELECTIONS, CANDIDATES, [0] * 12, ("cat",))[1][-5:] == ("–", "–", "–", "–", "4")
