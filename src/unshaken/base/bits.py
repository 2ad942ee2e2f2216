"""Yes or no for each of many things, as text: eight to a byte, the first in the highest bit, in base 64."""

from __future__ import annotations

import base64

import numpy


def packed(bits: numpy.ndarray) -> str:
    return base64.b64encode(numpy.packbits(bits).tobytes()).decode()


def unpacked(text: str, n: int) -> numpy.ndarray:
    """The first n of them, as booleans. ValueError if there are fewer."""
    raw = numpy.frombuffer(base64.b64decode(text), dtype=numpy.uint8)
    if 8 * len(raw) < n:
        raise ValueError(f"these are {8 * len(raw)} bits, and not {n}")
    return numpy.unpackbits(raw, count=n).astype(bool)
