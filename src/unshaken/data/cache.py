"""Decoded images kept on disk: written whole or not at all, rebuilt when what they came from changes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

FORMAT = 2
"""Raise this when decoding changes, so that copies made by the old one are left alone."""

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

    A copy that is cut short or altered is made again; where none can be written, a line on stderr says so.
    """
    stem = place(folder, key)
    decoded = _read(stem)
    if decoded is None:
        decoded = decode()
        _write(stem, *decoded)
    return decoded


def _read(stem: Path) -> Decoded | None:
    try:
        about = json.loads(stem.with_suffix(".json").read_text())
        pixels = np.load(stem.with_suffix(".npy"))
        return (pixels, about["about"]) if about["crc32"] == crc32(pixels) else None
    except (OSError, ValueError, EOFError, KeyError, TypeError):  # what a missing or broken copy can raise
        return None


def _write(stem: Path, pixels: np.ndarray, about: dict[str, Any]) -> None:
    part = stem.with_suffix(f".{os.getpid()}.part")  # several processes may decode the same images at once
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            np.save(file, pixels)
        part.replace(stem.with_suffix(".npy"))
        part.write_text(json.dumps({"crc32": crc32(pixels), "about": about}))
        part.replace(stem.with_suffix(".json"))
    except OSError as error:
        print(f"decoded images cannot be kept in {stem.parent} ({error.strerror})", file=sys.stderr)
    finally:
        _remove(part)


def _remove(part: Path) -> None:
    try:
        part.unlink(missing_ok=True)
    except OSError:  # as unwritable as the note above has said
        return
