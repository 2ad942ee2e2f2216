"""Decoded images too many for memory: one file, written shard by shard, resumed where it broke off, and mapped."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
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
from unshaken.storage.cache import place

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
"""What a journal says: rows done, images kept, rows that there are digests of, a digest of the kept images, why others
are not readable, those of 16 bits, and the checksums of two files: that of the kept images' checksums, and that of
digests."""


class Shard(NamedTuple):
    """So many rows of a set, decoded.

    pixels      (n C H W) uint8 of the images that are kept
    unreadable  why others are not, by row in the set
    digests     (rows) uint64 of all images that are known, 0 for those that cannot be read
    deep        of those with 16 bits a value: how many, how many of these are nearly black, and the highest value
    """

    pixels: np.ndarray
    unreadable: dict[str, str]
    digests: np.ndarray
    deep: tuple[int, int, int] = (0, 0, 0)


def mapped(
    folder: Path,
    key: object,
    total: int,
    room: int,
    one: tuple[int, ...],
    decode: Callable[[int, int], Iterator[tuple[int, Shard]]],
) -> tuple[Tensor, dict[str, Any]]:
    """What `decode` gave for an equal key, else what it gives now: (pixels of the images that are kept, what is known).

    total   rows of the set, and
    room    about how many images of it will be kept, each of
    one     shape (C H W)
    decode  from the so-manieth row on, so many images being kept: shards, each with how many rows are then done.
            Memory holds one of them
    Known are `unreadable`, why by row, `digests` by row, `deep`, `content`, a digest of all pixels, and `sums`, a
    checksum of each image, to be held against what is fetched: to read the whole file first would take minutes. After
    each shard it can be stopped, even by kill -9, and goes on from there; meanwhile other processes wait. The pixels
    are mapped, read-only: the system fetches from the file what is looked at. ValueError if the disk has no room.
    """
    stem = place(folder, key)
    stem.parent.mkdir(parents=True, exist_ok=True)
    file, each = stem.with_suffix(".pixels"), prod(one)
    with _alone(stem.with_suffix(".lock")):
        known = _known(stem, total, each)
        if known["done"] < total:
            _check_room(folder, max(room - known["kept"], 0) * each)
            _append(stem, known, each, decode)
    sums, digests = _noted(stem, known)
    known = known | {"digests": digests}
    if not known["kept"]:
        return torch.empty((0, *one), dtype=torch.uint8), known
    with naming(file):
        pixels = np.memmap(file, np.uint8, "r", shape=(known["kept"], *one))  # pyright: ignore[reportArgumentType, reportCallIssue]
    known = known | {"sums": Sums(file, sums)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it is read-only, which is meant
        return torch.from_numpy(pixels), known


@dataclass(frozen=True, eq=False)
class Sums:
    """The checksums of the images in a file, in their order, or in that of a subset.

    values  (N) uint32, CRC-32
    """

    file: Path
    values: np.ndarray

    def __getitem__(self, index: Any) -> Sums:
        return replace(self, values=np.atleast_1d(self.values[index]))

    def check(self, pixels: Tensor) -> None:
        """ValueError if one of these images, which are all that there are checksums of, was damaged in the file."""
        for image, value in zip(pixels.numpy(), self.values, strict=True):
            if crc32(np.ascontiguousarray(image)) != value:
                raise ValueError(
                    f"{self.file} was damaged: an image in it has not its checksum. Remove the file, and the images "
                    "are decoded again"
                )


def _known(stem: Path, total: int, each: int) -> dict[str, Any]:
    """What is done; nothing, if the files do not hold what the journal says."""
    journal, file = stem.with_suffix(".journal"), stem.with_suffix(".pixels")
    nothing = {"done": 0, "kept": 0, "rows": 0, "content": "", "unreadable": {}, "deep": [0, 0, 0], "sums": 0}
    nothing |= {"digests": 0}
    if not journal.exists():
        return nothing
    try:
        known = read_json(journal, JOURNAL)
        if not known["kept"] <= known["rows"] <= known["done"] <= total:
            raise ValueError(f"{journal} is of another set: it says {known['done']} of {total} images")
        if file.exists():
            if file.stat().st_size < known["kept"] * each:
                print(f"{file} was cut short: the images are decoded again", file=sys.stderr)
                return nothing
            _noted(stem, known)
            return known
    except ValueError as error:
        raise ValueError(f"{error}; or remove {journal}, and the images are decoded again") from None
    return nothing


def _noted(stem: Path, known: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The checksums of the images that are there, and the digests by row; both have a checksum in the journal."""
    found = []
    for name, kind, count in (("sums", "<u4", known["kept"]), ("digests", "<u8", known["rows"])):
        file, size = stem.with_suffix(f".{name}"), np.dtype(kind).itemsize * count
        content = read_bytes(file, MOST)[:size]
        if len(content) < size or crc32(content) != known[name]:
            raise ValueError(f"{file} was damaged: its checksum is not that in the journal")
        found.append(np.frombuffer(content, kind))
    return found[0], found[1].astype(np.uint64)


def _append(
    stem: Path, known: dict[str, Any], each: int, decode: Callable[[int, int], Iterator[tuple[int, Shard]]]
) -> None:
    """The pixels, their checksums and digests reach the disk before the journal says so."""
    ends = {".pixels": known["kept"] * each, ".sums": known["kept"] * 4, ".digests": known["rows"] * 8}
    with naming(stem.with_suffix(".pixels")), ExitStack() as stack:
        files = [stack.enter_context(open(stem.with_suffix(end), "ab")) for end in ends]
        for file, size in zip(files, ends.values(), strict=True):
            file.truncate(size)
        for done, shard in decode(known["rows"], known["kept"]):
            pixels = np.ascontiguousarray(shard.pixels)
            values = np.array([crc32(image) for image in pixels], "<u4").tobytes()
            digests = shard.digests.astype("<u8").tobytes()
            for file, part in zip(
                files, (memoryview(pixels).cast("B") if pixels.size else b"", values, digests), strict=True
            ):
                file.write(part)
                file.flush()
                os.fsync(file.fileno())
            content = blake2b(known["content"].encode(), digest_size=16)
            content.update(pixels)
            known |= {"done": done, "kept": known["kept"] + len(pixels), "content": content.hexdigest()}
            known |= {"sums": crc32(values, known["sums"]), "digests": crc32(digests, known["digests"])}
            known["rows"] += len(shard.digests)
            known["unreadable"] = known["unreadable"] | shard.unreadable
            (count, dim, top), (more, dimmer, higher) = known["deep"], shard.deep
            known["deep"] = [count + more, dim + dimmer, max(top, higher)]
            write_json(stem.with_suffix(".journal"), known)


def _check_room(folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise ValueError(
            f"decoded images need {wanted / 1e9:,.0f} GB more in {folder}, and there are {free / 1e9:,.0f}: "
            "choose another --data.root, or a smaller --data.size"
        )


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with open(lock, "w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another process is decoding the same images into {lock.parent}; waiting for it", file=sys.stderr)
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
