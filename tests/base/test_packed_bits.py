"""Every bit comes back."""

import numpy
import pytest

from unshaken.base.packed_bits import pack_bits, unpack_bits


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 445])
def test_packing_keeps_every_bit(n):
    bits = numpy.random.default_rng(n).random(n) < 0.5
    assert numpy.array_equal(unpack_bits(pack_bits(bits), n), bits)


def test_the_first_is_the_highest_bit_of_a_byte():
    assert pack_bits(numpy.array([True, False, True])) == "oA=="  # 0b10100000


def test_too_few_bits_are_refused():
    with pytest.raises(ValueError, match="8 packed bits, not 9"):
        unpack_bits(pack_bits(numpy.ones(8, bool)), 9)
