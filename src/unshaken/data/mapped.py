"""Decoded images too many for memory: one file, written shard by shard, resumed where it broke off, and mapped."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from math import prod
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from unshaken.base.files import MOST, naming, read_bytes, read_json, write_json
from unshaken.base.shapes import Each, Whole
from unshaken.data.cache import place

JOURNAL = {"done": Whole(0), "kept": Whole(0), "content": str, "unreadable": Each(str), "sums": Whole(0)}
"""What a journal says: images done and kept, a digest of the kept ones, why others are not, and a checksum of sums."""
Shard = tuple[np.ndarray, dict[str, str]]
"""Pixels (n C H W) uint8 of the readable ones of so many images, and by row in the set why others are not."""


def mapped(
    folder: Path, key: object, shape: tuple[int, ...], decode: Callable[[int], Iterator[tuple[int, Shard]]]
) -> tuple[Tensor, dict[str, Any]]:
    """What `decode` gave for an equal key, else what it gives now: (pixels of the readable images, what is known).

    shape   (N C H W) of all images
    decode  from the so-manieth image on: shards, each with how many images are then done. Memory holds one of them
    Known are `unreadable`, why by row, `content`, a digest of all pixels, and `sums`, a checksum of each image, to be
    held against what is fetched: to read the whole file first would take minutes. After each shard it can be stopped,
    even by kill -9, and goes on from there; meanwhile other processes wait. The pixels are mapped, read-only: the
    system fetches from the file what is looked at. ValueError if the disk has no room for them.
    """
    stem = place(folder, key)
    stem.parent.mkdir(parents=True, exist_ok=True)
    file = stem.with_suffix(".pixels")
    with _alone(stem.with_suffix(".lock")):
        known = _known(stem, shape)
        if known["done"] < shape[0]:
            _check_room(folder, (shape[0] - known["done"]) * prod(shape[1:]))
            _append(stem, known, prod(shape[1:]), decode)
    if not known["kept"]:
        return torch.empty((0, *shape[1:]), dtype=torch.uint8), known
    with naming(file):
        pixels = np.memmap(file, np.uint8, "r", shape=(known["kept"], *shape[1:]))
    known = known | {"sums": Sums(file, _sums(stem, known))}
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


def _known(stem: Path, shape: tuple[int, ...]) -> dict[str, Any]:
    """What is done; nothing, if the files do not hold what the journal says."""
    journal, file = stem.with_suffix(".journal"), stem.with_suffix(".pixels")
    nothing = {"done": 0, "kept": 0, "content": "", "unreadable": {}, "sums": 0}
    if not journal.exists():
        return nothing
    try:
        known = read_json(journal, JOURNAL)
        if not known["kept"] <= known["done"] <= shape[0]:
            raise ValueError(f"{journal} is of another set: it says {known['done']} of {shape[0]} images")
        if file.exists():
            if file.stat().st_size < known["kept"] * prod(shape[1:]):
                print(f"{file} was cut short: the images are decoded again", file=sys.stderr)
                return nothing
            _sums(stem, known)
            return known
    except ValueError as error:
        raise ValueError(f"{error}; or remove {journal}, and the images are decoded again") from None
    return nothing


def _sums(stem: Path, known: dict[str, Any]) -> np.ndarray:
    """The checksums of the images that are there, which have a checksum of their own in the journal."""
    file = stem.with_suffix(".sums")
    content = read_bytes(file, MOST)[: 4 * known["kept"]]
    if len(content) < 4 * known["kept"] or crc32(content) != known["sums"]:
        raise ValueError(f"{file} was damaged: its checksum is not that in the journal")
    return np.frombuffer(content, "<u4")


def _append(stem: Path, known: dict[str, Any], each: int, decode: Callable[[int], Iterator[tuple[int, Shard]]]) -> None:
    """The pixels and their checksums reach the disk before the journal says so."""
    file, sums = stem.with_suffix(".pixels"), stem.with_suffix(".sums")
    with naming(file), open(file, "ab") as target, open(sums, "ab") as checks:
        target.truncate(known["kept"] * each)
        checks.truncate(known["kept"] * 4)
        for done, (pixels, unreadable) in decode(known["done"]):
            pixels = np.ascontiguousarray(pixels)
            values = np.array([crc32(image) for image in pixels], "<u4").tobytes()
            for opened, part in ((target, memoryview(pixels).cast("B") if pixels.size else b""), (checks, values)):
                opened.write(part)
                opened.flush()
                os.fsync(opened.fileno())
            content = blake2b(known["content"].encode(), digest_size=16)
            content.update(pixels)
            known |= {"done": done, "kept": known["kept"] + len(pixels), "content": content.hexdigest()}
            known |= {"sums": crc32(values, known["sums"]), "unreadable": known["unreadable"] | unreadable}
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
