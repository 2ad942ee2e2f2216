"""Arrays of booleans as text: eight to a byte, the first in the highest bit, in base 64."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy


def pack_bits(bits: numpy.ndarray) -> str:
    import numpy

    return base64.b64encode(numpy.packbits(bits).tobytes()).decode()


def unpack_bits(text: str, n: int) -> numpy.ndarray:
    """Return the n booleans. ValueError unless the text holds n bits, padded with zeros to full bytes."""
    import numpy

    raw = numpy.frombuffer(bytes_of(text, n), dtype=numpy.uint8)
    return numpy.unpackbits(raw, count=n).astype(bool)


def count_bits(text: str, n: int) -> int:
    """Return how many of the n booleans are true. ValueError unless the text holds n bits."""
    return int.from_bytes(bytes_of(text, n), "big").bit_count()


def bytes_of(text: str, n: int) -> bytes:
    """Return the bytes that hold n bits."""
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"the packed bits are not base 64 ({error})") from None
    if len(raw) != -(-n // 8):
        raise ValueError(f"there are {8 * len(raw)} packed bits, not {n}")
    if n % 8 and raw[-1] & (0xFF >> n % 8):
        raise ValueError(f"there are more than {n} packed bits")
    return raw
