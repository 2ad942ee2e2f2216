"""Decoded images kept on disk: written whole or not at all, rebuilt when what they came from changes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from unshaken.base.json_files import naming, read_json, replacing, write_json
from unshaken.base.json_shapes import Whole
from unshaken.storage.array_files import array_from, header_of

FORMAT = 2
"""Raise this when decoding changes, so that copies made by the old one are left alone."""

NOTES = {"crc32": Whole(0), "about": {}}
"""What is beside the pixels: the checksum of their file, and what is known of them."""

Decoded = tuple[np.ndarray, dict[str, Any]]
"""Pixels (N C H W) uint8, and what else is known of them, as JSON."""


def stamp(files: Iterable[Path]) -> tuple[tuple[str, int, int], ...]:
    """Absolute path, size and time of change of each file: what a key needs of it. A missing file has size -1."""
    return tuple((str(file.absolute()), *_state(file)) for file in files)


def _state(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def place(folder: Path, key: object) -> Path:
    """Where what belongs to a key (by its repr) lies, without a suffix."""
    return folder / blake2b(repr((FORMAT, key)).encode(), digest_size=16).hexdigest()


def cached(folder: Path, key: object, decode: Callable[[], Decoded]) -> Decoded:
    """What `decode` gave for an equal key, else what it gives now.

    A copy that is cut short or altered is made again, and where none can be written none is kept: a line on stderr says
    so.
    """
    stem = place(folder, key)
    decoded = _read(stem)
    if decoded is None:
        decoded = decode()
        _write(stem, *decoded)
    return decoded


def _read(stem: Path) -> Decoded | None:
    """A sound copy. None if there is none, which is said if there is a damaged one."""
    file, notes = stem.with_suffix(".npy"), stem.with_suffix(".json")
    if not (file.exists() and notes.exists()):
        return None
    try:
        about = read_json(notes, NOTES)
        with naming(file):
            content = np.fromfile(file, np.uint8)
        if crc32(content) != about["crc32"]:
            raise ValueError(f"{file} was damaged: its checksum is not that of its pixels")
        return array_from(content, str(file)), about["about"]
    except (ValueError, OSError) as error:
        reason = str(error).partition(". ")[0].partition(": an earlier version")[0]
        print(f"the images are decoded again, for {reason}", file=sys.stderr)
        return None


def _write(stem: Path, pixels: np.ndarray, about: dict[str, Any]) -> None:
    """Not forced to the disk: what a power failure takes is decoded again."""
    pixels = np.ascontiguousarray(pixels)
    header = header_of(pixels)
    try:
        with replacing(stem.with_suffix(".npy"), sync=False) as file:
            file.write(header)
            file.write(memoryview(pixels).cast("B") if pixels.size else b"")
        write_json(stem.with_suffix(".json"), {"crc32": crc32(pixels, crc32(header)), "about": about})
    except OSError as error:
        print(f"decoded images cannot be kept in {stem.parent} ({error.strerror})", file=sys.stderr)
