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
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unshaken.base.files import read_json, write_json
from unshaken.data.cache import place

Shard = tuple[np.ndarray, dict[str, str]]
"""Pixels (n C H W) uint8 of the readable ones of so many images, and by row in the set why others are not."""


def mapped(
    folder: Path, key: object, shape: tuple[int, ...], decode: Callable[[int], Iterator[tuple[int, Shard]]]
) -> tuple[Tensor, dict[str, Any]]:
    """What `decode` gave for an equal key, else what it gives now: (pixels of the readable images, what is known).

    shape   (N C H W) of all images
    decode  from the so-manieth image on: shards, each with how many images are then done. Memory holds one of them
    Known are `unreadable`, why by row, and `content`, a digest of all pixels. After each shard it can be stopped, even
    by kill -9, and goes on from there; meanwhile other processes wait. The pixels are mapped, read-only: the system
    fetches from the file what is looked at. ValueError if the disk has no room for them.
    """
    stem = place(folder, key)
    stem.parent.mkdir(parents=True, exist_ok=True)
    file = stem.with_suffix(".pixels")
    with _alone(stem.with_suffix(".lock")):
        known = _known(stem.with_suffix(".journal"), file, shape)
        if known["done"] < shape[0]:
            _check_room(folder, (shape[0] - known["done"]) * prod(shape[1:]))
            _append(file, stem.with_suffix(".journal"), known, prod(shape[1:]), decode)
    if not known["kept"]:
        return torch.empty((0, *shape[1:]), dtype=torch.uint8), known
    pixels = np.memmap(file, np.uint8, "r", shape=(known["kept"], *shape[1:]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it is read-only, which is meant
        return torch.from_numpy(pixels), known


def _known(journal: Path, file: Path, shape: tuple[int, ...]) -> dict[str, Any]:
    """What is done; nothing, if the file does not hold what the journal says."""
    known = read_json(journal) if journal.exists() else {}
    if known and file.exists() and file.stat().st_size >= known["kept"] * prod(shape[1:]):
        return known
    return {"done": 0, "kept": 0, "content": "", "unreadable": {}}


def _append(
    file: Path, journal: Path, known: dict[str, Any], each: int, decode: Callable[[int], Iterator[tuple[int, Shard]]]
) -> None:
    """The pixels reach the disk before the journal says so."""
    with open(file, "ab") as target:
        target.truncate(known["kept"] * each)
        for done, (pixels, unreadable) in decode(known["done"]):
            pixels = np.ascontiguousarray(pixels)
            target.write(pixels)
            target.flush()
            os.fsync(target.fileno())
            content = blake2b(known["content"].encode(), digest_size=16)
            content.update(pixels)
            known |= {"done": done, "kept": known["kept"] + len(pixels), "content": content.hexdigest()}
            known["unreadable"] |= unreadable
            write_json(journal, known)


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
