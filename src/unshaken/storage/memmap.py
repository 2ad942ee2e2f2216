"""Decoded images in a file, for sets that are too large for memory: decoded once, and read row by row."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from math import prod
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from unshaken.base.json_files import MOST, naming, read_bytes, read_json, write_json
from unshaken.base.json_shapes import Each, Items, Whole
from unshaken.base.locks import Busy, Lock
from unshaken.storage.cache import cache_path
from unshaken.storage.stored_pixels import MOST_THREADS, PixelSource, PositionedFile, StoredPixels

JOURNAL = {
    "done": Whole(0),
    "kept": Whole(0),
    "rows": Whole(0),
    "content": str,
    "unreadable": Each(str),
    "deep": Items(Whole(0), 3, 3),
    "sums": Whole(0),
    "digests": Whole(0),
}
"""The shape of the journal, which says how far decoding came.

done        rows of the set that are done
kept        images in the file of pixels
rows        rows in the file of digests
content     a digest of the pixels
unreadable  by row, why an image cannot be read
deep        as in `Shard`
sums        the checksum of the file with a checksum for each image
digests     the checksum of the file of digests
"""


class Shard(NamedTuple):
    """Some rows of a set, decoded.

    pixels      (n C H W) uint8, the images of the split
    unreadable  by row in the set, why an image cannot be read
    digests     (rows) uint64, the digests of all images; 0 for unreadable ones
    deep        for images with 16 bits per value: how many, how many of these are nearly black, and the highest value
    """

    pixels: np.ndarray
    unreadable: dict[str, str]
    digests: np.ndarray
    deep: tuple[int, int, int] = (0, 0, 0)


def mapped(
    folder: Path,
    key: object,
    total: int,
    expected: int,
    one: tuple[int, ...],
    decode: Callable[[int, int], Iterator[tuple[int, Shard]]],
) -> tuple[Tensor | StoredPixels, dict[str, Any]]:
    """Return the pixels that `decode` returned for an equal key before, in their file; else decode them into a file.

    total     the number of rows in the set
    expected  the estimated number of images in the split
    one       the shape (C H W) of one image
    decode    called with the rows and the images that are done; yields shards, each with the number of rows that are
              done after it. One shard is in memory at a time

    The second value is the metadata: `unreadable`, `digests` and `deep` as in `Shard`; `content`, a digest of all
    pixels. An image is compared with its checksum when it is read, because to check the whole file first would take
    minutes. Decoding can be stopped after any shard, even by kill -9, and continues
    from there; other processes wait meanwhile. ValueError if the disk has too little room.
    """
    stem = cache_path(folder, key)
    stem.parent.mkdir(parents=True, exist_ok=True)
    file, each = stem.with_suffix(".pixels"), prod(one)
    with _locked(stem.with_suffix(".lock")):
        journal = _read_journal(stem, total, each)
        if journal["done"] < total:
            _check_room(folder, max(expected - journal["kept"], 0) * each)
            _append(stem, journal, each, decode)
    sums, digests = _sums_and_digests(stem, journal)
    metadata = journal | {"digests": digests}
    if not journal["kept"]:
        return torch.empty((0, *one), dtype=torch.uint8), metadata
    return StoredPixels(DecodedFile(PositionedFile(file), sums, one)), metadata  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, eq=False)
class DecodedFile(PixelSource):
    """A file of decoded images, which are read by position: a page fault for each image would be ten times slower.

    sums  (N) uint32, CRC-32 of each image
    """

    file: PositionedFile
    sums: np.ndarray
    one: tuple[int, int, int]
    threads: int = MOST_THREADS
    streams: bool = False

    def __len__(self) -> int:
        return len(self.sums)

    def read(self, row: int, out: np.ndarray) -> None:
        content = self.file.read(out.nbytes, row * out.nbytes)
        if crc32(content) != self.sums[row] or len(content) < out.nbytes:
            raise ValueError(
                f"{self.file.path} was damaged: an image in it does not match its checksum. Remove the file, and the "
                "images are decoded again"
            )
        out[...] = np.frombuffer(content, np.uint8).reshape(self.one)


def _read_journal(stem: Path, total: int, each: int) -> dict[str, Any]:
    """Return the journal; one with nothing done if there is none, or if the file of pixels is shorter than it says."""
    journal, file = stem.with_suffix(".journal"), stem.with_suffix(".pixels")
    nothing = {"done": 0, "kept": 0, "rows": 0, "content": "", "unreadable": {}, "deep": [0, 0, 0], "sums": 0}
    nothing |= {"digests": 0}
    if not journal.exists():
        return nothing
    try:
        found = read_json(journal, JOURNAL)
        if not found["kept"] <= found["rows"] <= found["done"] <= total:
            raise ValueError(f"{journal} is of another set: it says {found['done']} of {total} images")
        if file.exists():
            if file.stat().st_size < found["kept"] * each:
                print(f"{file} was cut short: the images are decoded again", file=sys.stderr)
                return nothing
            _sums_and_digests(stem, found)
            return found
    except ValueError as error:
        raise ValueError(f"{error}; or remove {journal}, and the images are decoded again") from None
    return nothing


def _sums_and_digests(stem: Path, journal: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Read each image's checksum and the digests by row. ValueError if they do not match the journal."""
    found = []
    for name, kind, count in (("sums", "<u4", journal["kept"]), ("digests", "<u8", journal["rows"])):
        file, size = stem.with_suffix(f".{name}"), np.dtype(kind).itemsize * count
        content = read_bytes(file, MOST)[:size]
        if len(content) < size or crc32(content) != journal[name]:
            raise ValueError(f"{file} was damaged: its checksum is not the one in the journal")
        found.append(np.frombuffer(content, kind))
    return found[0], found[1].astype(np.uint64)


def _append(
    stem: Path, journal: dict[str, Any], each: int, decode: Callable[[int, int], Iterator[tuple[int, Shard]]]
) -> None:
    """Decode the rest. Pixels, checksums and digests reach the disk before the journal says so."""
    ends = {".pixels": journal["kept"] * each, ".sums": journal["kept"] * 4, ".digests": journal["rows"] * 8}
    with naming(stem.with_suffix(".pixels")), ExitStack() as stack:
        files = [stack.enter_context(open(stem.with_suffix(end), "ab")) for end in ends]
        for file, size in zip(files, ends.values(), strict=True):
            file.truncate(size)
        for done, shard in decode(journal["rows"], journal["kept"]):
            pixels = np.ascontiguousarray(shard.pixels)
            values = np.array([crc32(image) for image in pixels], "<u4").tobytes()
            digests = shard.digests.astype("<u8").tobytes()
            for file, added in zip(
                files, (memoryview(pixels).cast("B") if pixels.size else b"", values, digests), strict=True
            ):
                file.write(added)
                file.flush()
                os.fsync(file.fileno())
            content = blake2b(journal["content"].encode(), digest_size=16)
            content.update(pixels)
            journal |= {"done": done, "kept": journal["kept"] + len(pixels), "content": content.hexdigest()}
            journal |= {"sums": crc32(values, journal["sums"]), "digests": crc32(digests, journal["digests"])}
            journal["rows"] += len(shard.digests)
            journal["unreadable"] = journal["unreadable"] | shard.unreadable
            (count, dark, top), (more, more_dark, higher) = journal["deep"], shard.deep
            journal["deep"] = [count + more, dark + more_dark, max(top, higher)]
            write_json(stem.with_suffix(".journal"), journal)


def _check_room(folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise ValueError(
            f"decoded images need {wanted / 1e9:,.0f} GB more in {folder}, and {free / 1e9:,.0f} GB are free: "
            "choose another --data.root, or a smaller --data.size"
        )


@contextmanager
def _locked(lock: Path) -> Iterator[None]:
    """Hold a lock; wait while another process has it."""
    try:
        held = Lock(lock)
    except Busy:
        print(f"another process is decoding the same images into {lock.parent}; waiting for it", file=sys.stderr)
        held = Lock(lock, wait=-1)
    with held:
        yield
