"""Checksums of what a file says: damage is found when the file is read. They are no signatures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

FIELD = "checksum"
"""The name under which a file keeps its checksum."""
DIGITS = 32
"""A checksum is the first 32 hexadecimal digits of SHA-256, which is the fastest of its kind on processors of today."""


def checksum(parts: Iterable[bytes | bytearray | memoryview]) -> str:
    """The checksum of the bytes of all parts, one after the other."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()[:DIGITS]


def checksum_of(value: Any, before: str = "") -> str:
    """The checksum of a JSON value, whatever the order of its fields and the spaces between them.

    before  a checksum that this one continues, so that a chain of them shows what is missing or moved
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return checksum([before.encode(), text.encode()])
