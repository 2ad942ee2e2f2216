"""Every bit comes back."""

import numpy
import pytest

from unshaken.base.bits import packed, unpacked


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 445])
def test_packing_keeps_every_bit(n):
    bits = numpy.random.default_rng(n).random(n) < 0.5
    assert numpy.array_equal(unpacked(packed(bits), n), bits)


def test_the_first_is_the_highest_bit_of_a_byte():
    assert packed(numpy.array([True, False, True])) == "oA=="  # 0b10100000


def test_too_few_are_said():
    with pytest.raises(ValueError, match="8 bits, and not 9"):
        unpacked(packed(numpy.ones(8, bool)), 9)
