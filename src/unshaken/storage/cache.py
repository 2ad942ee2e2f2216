"""A cache of decoded images on disk; they are decoded again when a source file changes."""

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
"""Raise this when decoding changes: copies that were decoded by an older version are then not used."""

SHAPE = {"crc32": Whole(0), "about": {}}
"""The shape of the JSON file beside the pixels: the checksum of the pixel file, and the metadata."""

Decoded = tuple[np.ndarray, dict[str, Any]]
"""Pixels (N C H W) uint8, and metadata that JSON can hold."""


def stamp(files: Iterable[Path]) -> tuple[tuple[str, int, int], ...]:
    """Return the absolute path, size and time of change of each file, for use in a key. A missing file has size -1."""
    return tuple((str(file.absolute()), *_state(file)) for file in files)


def _state(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def cache_path(folder: Path, key: object) -> Path:
    """Return the path, without a suffix, of the files that belong to a key. The key counts by its repr."""
    return folder / blake2b(repr((FORMAT, key)).encode(), digest_size=16).hexdigest()


def cached(folder: Path, key: object, decode: Callable[[], Decoded]) -> Decoded:
    """Return what `decode` returned for an equal key before, from the disk; else call it and write the result.

    A damaged copy is decoded again. If the disk cannot be written, the result is returned all the same. A line on
    stderr tells the user of either.
    """
    stem = cache_path(folder, key)
    decoded = _read(stem)
    if decoded is None:
        decoded = decode()
        _write(stem, *decoded)
    return decoded


def _read(stem: Path) -> Decoded | None:
    """Read the copy. None if there is none or it is damaged; a line on stderr tells the user of damage."""
    file, metadata = stem.with_suffix(".npy"), stem.with_suffix(".json")
    if not (file.exists() and metadata.exists()):
        return None
    try:
        found = read_json(metadata, SHAPE)
        with naming(file):
            content = np.fromfile(file, np.uint8)
        if crc32(content) != found["crc32"]:
            raise ValueError(f"{file} was damaged: its checksum does not match its pixels")
        return array_from(content, str(file)), found["about"]
    except (ValueError, OSError) as error:
        reason = str(error).partition(". ")[0].partition(": an earlier version")[0]
        print(f"the images are decoded again, because {reason}", file=sys.stderr)
        return None


def _write(stem: Path, pixels: np.ndarray, metadata: dict[str, Any]) -> None:
    """Write a copy. It is not forced to the disk: images that are lost in a power failure are decoded again."""
    pixels = np.ascontiguousarray(pixels)
    header = header_of(pixels)
    try:
        with replacing(stem.with_suffix(".npy"), sync=False) as file:
            file.write(header)
            file.write(memoryview(pixels).cast("B") if pixels.size else b"")
        write_json(stem.with_suffix(".json"), {"crc32": crc32(pixels, crc32(header)), "about": metadata})
    except OSError as error:
        print(f"decoded images cannot be written to {stem.parent} ({error.strerror})", file=sys.stderr)
