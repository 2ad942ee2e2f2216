"""`for_each` runs every value, and tells all that fail."""

import pytest

from variants import for_each


def test_all_failures_are_told_together():
    seen = []

    @for_each([1, 2, 3, 4])
    def test(value: int) -> None:
        seen.append(value)
        assert value != 2, "two"
        if value == 4:
            pytest.fail("four")

    with pytest.raises(AssertionError, match=r"(?s)2: two.*4: four"):
        test()
    assert seen == [1, 2, 3, 4]


def test_nothing_to_test_is_a_fault():
    with pytest.raises(AssertionError, match="nothing"):
        for_each([])
