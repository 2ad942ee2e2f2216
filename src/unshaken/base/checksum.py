"""Checksums that detect damaged files. They are not signatures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

FIELD = "checksum"
"""The name of the field that holds a file's checksum."""
DIGITS = 32
"""A checksum is the first 32 hexadecimal digits of SHA-256, the fastest secure hash on today's processors."""


def checksum(chunks: Iterable[bytes | bytearray | memoryview]) -> str:
    """Return the checksum of the concatenated chunks."""
    total = hashlib.sha256()
    for chunk in chunks:
        total.update(chunk)
    return total.hexdigest()[:DIGITS]


def checksum_of(value: Any, before: str = "") -> str:
    """Return the checksum of a JSON value; the order of its fields and its spacing do not matter.

    before  the checksum of the previous value in a chain, so that a missing or moved value is detected
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return checksum([before.encode(), text.encode()])
