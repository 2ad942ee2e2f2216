"""Decoded images too many for memory: one file, written shard by shard, resumed where it broke off, and mapped."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unshaken.base.files import read_json, write_json
from unshaken.data.cache import place


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
    Known are `unreadable`, why by row; `digests` by row; `deep`; and `content`, a digest of all pixels. After each
    shard it can be stopped, even by kill -9, and goes on from there; meanwhile other processes wait. The pixels are
    mapped, read-only: the system fetches from the file what is looked at. ValueError if the disk has no room for them.
    """
    stem = place(folder, key)
    stem.parent.mkdir(parents=True, exist_ok=True)
    file, each = stem.with_suffix(".pixels"), prod(one)
    with _alone(stem.with_suffix(".lock")):
        known = _known(stem, each)
        if known["done"] < total:
            _check_room(folder, max(room - known["kept"], 0) * each)
            _append(stem, known, each, decode)
        digests = np.fromfile(stem.with_suffix(".digests"), np.uint64, known["rows"])
    known = known | {"digests": digests}
    if not known["kept"]:
        return torch.empty((0, *one), dtype=torch.uint8), known
    pixels = np.memmap(file, np.uint8, "r", shape=(known["kept"], *one))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it is read-only, which is meant
        return torch.from_numpy(pixels), known


def _known(stem: Path, each: int) -> dict[str, Any]:
    """What is done; nothing, if the files do not hold what the journal says."""
    journal = stem.with_suffix(".journal")
    known = read_json(journal) if journal.exists() else {}
    files = {".pixels": each * known.get("kept", 0), ".digests": 8 * known.get("rows", 0)} if known else {}
    sizes = [(stem.with_suffix(end), size) for end, size in files.items()]
    if known and all(file.exists() and file.stat().st_size >= size for file, size in sizes):
        return known
    return {"done": 0, "kept": 0, "rows": 0, "content": "", "unreadable": {}, "deep": [0, 0, 0]}


def _append(
    stem: Path, known: dict[str, Any], each: int, decode: Callable[[int, int], Iterator[tuple[int, Shard]]]
) -> None:
    """Pixels and digests reach the disk before the journal says so."""
    with open(stem.with_suffix(".pixels"), "ab") as target, open(stem.with_suffix(".digests"), "ab") as names:
        target.truncate(known["kept"] * each)
        names.truncate(known["rows"] * 8)
        for done, shard in decode(known["rows"], known["kept"]):
            pixels = np.ascontiguousarray(shard.pixels)
            for file, array in ((target, pixels), (names, shard.digests)):
                file.write(array)
                file.flush()
                os.fsync(file.fileno())
            content = blake2b(known["content"].encode(), digest_size=16)
            content.update(pixels)
            known |= {"done": done, "kept": known["kept"] + len(pixels), "content": content.hexdigest()}
            known["rows"] += len(shard.digests)
            known["unreadable"] |= shard.unreadable
            count, dim, top = known["deep"]
            known["deep"] = [count + shard.deep[0], dim + shard.deep[1], max(top, shard.deep[2])]
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
