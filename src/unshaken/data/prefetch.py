"""Many encoded images into one array: in parallel, only once, and the unreadable ones named."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import UnidentifiedImageError

from unshaken.base.progress import progress
from unshaken.data.decode import Encoded, Picture, common_side, picture
from unshaken.data.folder_index import Found, Listing, say_once
from unshaken.data.image_digests import EVERY, TEST, falls
from unshaken.data.images import IN_MEMORY_LIMIT, Images
from unshaken.storage.cache import Decoded, cached
from unshaken.storage.memmap import Shard, mapped

PROBE = 64
SHARD = 1024
"""Images that are decoded together: 150 MB at 224 pixels."""
DIM = 1 << 12
"""16-bit values below this are nearly black: those of a camera with 12 bits, perhaps."""
VERSION = 3
"""Raise this when decoding changes, so that copies made by the old one are left alone."""


@dataclass(frozen=True)
class Wanted:
    """What is asked of a set: which split, at what size, from files of how many bits, how many images at most."""

    split: str
    size: int | None = None
    limit: int | None = None
    unreadable: str = "stop"
    bits: int | None = None


@dataclass(frozen=True, eq=False)
class Reading:
    """One pass over a listing.

    side   of the squares
    limit  images to keep, then it is over
    split  "train" or "test", of which each image's content decides; "" keeps all
    known  the digests of all images, 0 where an image could not be read; None before they have all been read
    """

    listing: Listing
    side: int
    bits: int | None
    caption: str
    limit: int | None = None
    split: str = ""
    known: np.ndarray | None = None

    def keeps(self, digests: np.ndarray) -> np.ndarray:
        """Which of the images are of this split; those that could not be read are of none."""
        readable = digests != 0
        return readable & ((falls(digests, EVERY, TEST) == (self.split == "test")) if self.split else readable)

    def kept(self, digests: np.ndarray, count: int) -> np.ndarray:
        """The rows of the images that were kept, once so many were."""
        return np.flatnonzero(self.keeps(digests))[:count]

    def expected(self) -> int:
        """About how many images will be kept, rather too many."""
        total = len(self.listing)
        share = {"": total, "train": total * 0.85, "test": total * 0.25}[self.split]
        return min(total, int(share) + 8, total if self.limit is None else self.limit)

    def shards(self, done: int, kept: int) -> Iterator[tuple[int, Shard]]:
        """Shard by shard from the row `done` on, each with how many rows are then done; in the end all are."""
        total = len(self.listing)
        look = np.ones(total, bool) if self.known is None else self.keeps(self.known) | (self.known == 0)
        items = self.listing.at(np.flatnonzero(look[done:]) + done).encoded()
        with warnings.catch_warnings(), progress(self.caption, total, "images", done) as advance:
            warnings.simplefilter("ignore")  # of damaged metadata around good pixels
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
                while done < total and (self.limit is None or kept < self.limit):
                    rows = np.arange(done, min(done + self._step(kept), total))
                    shard = self._shard(rows, look, items, pool, None if self.limit is None else self.limit - kept)
                    done, kept = done + len(rows), kept + len(shard.pixels)
                    yield (total if kept == self.limit else done), shard
                    advance(len(rows))

    def _step(self, kept: int) -> int:
        """How many rows to look at next: not many more than it takes to come to the limit."""
        if self.limit is None:
            return SHARD
        needed = self.limit - kept
        return min(SHARD, needed + needed // 4 + 1 if self.split else needed)

    def _shard(
        self,
        rows: np.ndarray,
        look: np.ndarray,
        items: Iterator[tuple[str, Encoded]],
        pool: ThreadPoolExecutor,
        most: int | None,
    ) -> Shard:
        digests = np.zeros(len(rows), np.uint64) if self.known is None else self.known[rows].copy()
        seen = rows[look[rows]].tolist()
        read = dict(zip(seen, pool.map(self._read, islice(items, len(seen))), strict=True))
        whole = {row: one for row, one in read.items() if isinstance(one, Picture)}
        for row in seen:
            digests[row - rows[0]] = whole[row].digest if row in whole else 0
        pixels = [whole[row].pixels for row in rows[self.keeps(digests)][:most].tolist()]
        tops = [one.top for one in whole.values() if one.top >= 0]
        return Shard(
            np.stack(pixels) if pixels else np.empty((0, 3, self.side, self.side), np.uint8),
            {str(row): one for row, one in read.items() if isinstance(one, str)},
            digests,
            (len(tops), sum(top < DIM for top in tops), max(tops, default=0)),
        )

    def _read(self, item: tuple[str, Encoded]) -> Picture | str:
        """The image, or why there is none."""
        name, encoded = item
        try:
            return picture(encoded, self.side, self.bits)
        except Exception as error:  # Pillow's readers raise whatever they stumble over
            return f"{name}: {_reason(error)}"


def gather(found: Found, wanted: Wanted, cache: Path) -> Images:
    """One split of a user's set, its first images up to a limit, as squares.

    Without a size: that of the first 64 training images if they are squares of one size and at most 224 pixels,
    else 32. It is the same for all splits and limits. A LARGE set is in a file instead of in memory.
    """
    listing, by_content = found.split(wanted.split)
    probe = found.parts.get("train", listing)
    side = wanted.size or common_side(encoded for _, encoded in islice(probe.encoded(), PROBE))
    limit = None if wanted.limit is None else min(wanted.limit, len(listing))
    if limit is not None and not by_content:
        listing = listing.at(np.arange(limit))
    of_all = (VERSION, "digests", listing.stamp(), wanted.bits)
    reading = Reading(
        listing,
        side,
        wanted.bits,
        f"reading {found.place} at {side} x {side} pixels",
        limit,
        wanted.split if by_content else "",
        _remembered(cache, of_all) if by_content else None,
    )
    pixels, about = _pixels(reading, cache)
    digests, broken = about["digests"], about["unreadable"]
    whole = len(digests) == len(listing)
    if by_content and whole and reading.known is None:
        cached(cache, of_all, lambda: (digests, {}))
    if by_content and whole:
        test = int(falls(digests[digests != 0], EVERY, TEST).sum())
        found.say(int((digests != 0).sum()) - test, test)
    else:
        found.say()
    if broken:
        _complain(found.place, len(listing), list(broken.values()), wanted.unreadable)
    if wanted.bits is None:
        _doubt(found.place, *about["deep"])
    rows = reading.kept(digests, len(pixels))
    if not len(rows):
        raise ValueError(
            f"{found.place} has {len(listing)} images, and by their content none of them falls to the {wanted.split} "
            "split, which takes about one in five for testing: add images, or make train/ and test/ parts"
        )
    label = None if listing.label is None else torch.from_numpy(listing.label[rows])
    return Images(
        pixels,
        label,
        listing.names,
        Path(found.place).resolve().name,
        wanted.split,
        about.get("content", ""),
        sums=about.get("sums"),
        digests=torch.from_numpy(digests[rows].view(np.int64)),
        files=listing.called(rows),
        reason=listing.reason,
    )


def _remembered(cache: Path, key: object) -> np.ndarray | None:
    """The digests of all images, if they have been decoded before."""

    def never() -> Decoded:
        raise LookupError

    try:
        return cached(cache, key, never)[0]
    except LookupError:
        return None


def _pixels(reading: Reading, cache: Path) -> tuple[torch.Tensor, dict[str, Any]]:
    """The images that are kept, and what is known: digests by row, unreadable ones, those of 16 bits."""
    one = (3, reading.side, reading.side)
    key = (VERSION, reading.listing.stamp(), reading.side, reading.bits, reading.split, reading.limit)
    if (room := reading.expected()) * prod(one) > IN_MEMORY_LIMIT:
        return mapped(cache, key, len(reading.listing), room, one, reading.shards)
    array, about = cached(cache, key, lambda: _whole((len(reading.listing), *one), reading.shards(0, 0)))
    return torch.from_numpy(array), about | {"digests": np.frombuffer(bytes.fromhex(about["digests"]), np.uint64)}


def _complain(place: str, count: int, broken: list[str], unreadable: str) -> None:
    some = f"{len(broken)} of {count} images cannot be read"
    if len(broken) == count:
        raise ValueError(f"{place}: none of {count} images can be read (first: {broken[0]})")
    if unreadable == "stop":
        raise ValueError(f"{place}: {some} (first: {broken[0]}); remove them, or pass --data.unreadable skip")
    more = ", ..." if len(broken) > 3 else ""
    print(f"{place}: {some} and are skipped: {', '.join(broken[:3])}{more}", file=sys.stderr)


def _doubt(place: str, deep: int, dim: int, top: int) -> None:
    """16 bits of which the whole set uses fewer would give images that are nearly black."""
    if 0 < top < 1 << 15:
        bits = max(9, top.bit_length())
        raise ValueError(
            f"{place}: {deep:,} images are of 16 bits a value, and none is above {top}: if these are a camera's {bits} "
            f"bits, say --data.bits {bits}; to take them as they are, --data.bits 16"
        )
    if dim:
        say_once(
            f"{place}: {dim:,} of {deep:,} images of 16 bits are nearly black; if they are of 12 bits, scale them "
            "(--data.bits is for all images alike)"
        )


def _whole(shape: tuple[int, ...], shards: Iterator[tuple[int, Shard]]) -> Decoded:
    """All shards in memory."""
    pixels, kept, read = np.empty(shape, np.uint8), 0, []
    for _, shard in shards:
        pixels[kept : kept + len(shard.pixels)] = shard.pixels
        kept += len(shard.pixels)
        read.append(shard)
    deep = [tuple(shard.deep) for shard in read]
    return pixels[:kept], {
        "unreadable": {row: reason for shard in read for row, reason in shard.unreadable.items()},
        "digests": b"".join(shard.digests.tobytes() for shard in read).hex(),
        "deep": [sum(n for n, _, _ in deep), sum(n for _, n, _ in deep), max((top for _, _, top in deep), default=0)],
    }


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error) or type(error).__name__).splitlines()[0]
