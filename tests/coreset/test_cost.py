"""The fraction by chance that costs what a selection did, by hand."""

import pytest

from unshaken.coreset.cost import matched


def test_the_matched_fraction_has_a_hand_computed_value():
    """10 epochs of warm-up took 50 s, so an epoch on all takes 5; 45 s of selections are 0.1 of the 90 epochs after."""
    assert matched(0.2, 10, 100, {"warmup": 50.0, "selection": 45.0, "training": 90.0}) == 0.3


def test_runs_with_the_matched_fraction_cost_the_same():
    """If an epoch's cost is in proportion to its images: 3 of warm-up, 27 on f, 4 s each on all."""
    spent = {"warmup": 12.0, "selection": 17.0, "training": 27 * 0.1 * 4.0}
    by_chance = 12.0 + 27 * matched(0.1, 3, 30, spent) * 4.0
    assert by_chance == pytest.approx(sum(spent.values()), abs=27 * 4 * 0.0005)


def test_without_a_warm_up_the_training_gives_the_time_of_an_epoch():
    assert matched(0.25, 0, 8, {"selection": 4.0, "training": 8.0}) == 0.25 + 4 / (4 * 8)


def test_the_matched_fraction_is_rounded_and_at_most_1():
    assert matched(0.2, 1, 4, {"warmup": 1.0, "selection": 1.0, "training": 0.6}) == 0.533
    assert matched(0.2, 1, 4, {"warmup": 1.0, "selection": 9.0, "training": 0.6}) == 1.0
    assert matched(0.2, 1, 4, {"warmup": 0.0, "selection": 0.02, "training": 0.0}) == 1.0
    with pytest.raises(ValueError, match="warmup is a number of epochs from 0 to 3, not 4"):
        matched(0.2, 4, 4, {"warmup": 1.0, "selection": 0.0, "training": 0.0})
