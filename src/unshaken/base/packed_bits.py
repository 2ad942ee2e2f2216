"""Yes or no for each of many things, as text: eight to a byte, the first in the highest bit, in base 64."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy


def pack_bits(bits: numpy.ndarray) -> str:
    import numpy

    return base64.b64encode(numpy.packbits(bits).tobytes()).decode()


def unpack_bits(text: str, n: int) -> numpy.ndarray:
    """The first n of them, as booleans. ValueError unless these are n bits, filled up with zeros to whole bytes."""
    import numpy

    raw = numpy.frombuffer(bytes_of(text, n), dtype=numpy.uint8)
    return numpy.unpackbits(raw, count=n).astype(bool)


def count_bits(text: str, n: int) -> int:
    """How many of them are yes. ValueError unless these are n bits."""
    return int.from_bytes(bytes_of(text, n), "big").bit_count()


def bytes_of(text: str, n: int) -> bytes:
    """The bytes of n bits."""
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"these are no bits in base 64 ({error})") from None
    if len(raw) != -(-n // 8):
        raise ValueError(f"these are {8 * len(raw)} bits, and not {n}")
    if n % 8 and raw[-1] & (0xFF >> n % 8):
        raise ValueError(f"these are more than {n} bits")
    return raw
