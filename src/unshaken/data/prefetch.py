"""Decoding of a user's image set: in parallel, once, with unreadable images named."""

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

from unshaken.base.amounts import amount
from unshaken.base.progress import progress
from unshaken.data.decode import Encoded, Picture, common_side, picture
from unshaken.data.folder_index import Found, Listing, print_once
from unshaken.data.image_digests import EVERY, TEST, in_split
from unshaken.data.images import IN_MEMORY_LIMIT, Images
from unshaken.storage.cache import Decoded, cached
from unshaken.storage.memmap import Shard, mapped
from unshaken.storage.stored_pixels import StoredPixels

PROBE = 64
SHARD = 1024
"""Images that are decoded together: 150 MB at 224 pixels."""
LARGE = 1 << 30
"""Bytes of decoded images from which a user is told where they go."""
NEARLY_BLACK = 1 << 12
"""A 16-bit image with all values below this is nearly black. It may come from a camera with 12 bits."""
VERSION = 3
"""Raise this when decoding changes: copies that were decoded by an older version are then not used."""


@dataclass(frozen=True)
class SplitRequest:
    """A request for one split of a set; the fields are those of `DataSource`."""

    split: str
    size: int | None = None
    limit: int | None = None
    unreadable: str = "stop"
    bits: int | None = None


@dataclass(frozen=True, eq=False)
class Reading:
    """One pass over a listing, which decodes the images of a split.

    side     the side of the squares in pixels
    limit    the number of images after which the pass ends; None: no limit
    split    "train" or "test", if each image's content decides about its split; "" selects all images
    digests  the digests of all images, 0 for unreadable ones; None if they have not been computed before
    """

    listing: Listing
    side: int
    bits: int | None
    caption: str
    limit: int | None = None
    split: str = ""
    digests: np.ndarray | None = None

    def selects(self, digests: np.ndarray) -> np.ndarray:
        """Return which images belong to this split; unreadable images belong to none."""
        readable = digests != 0
        return readable & ((in_split(digests, EVERY, TEST) == (self.split == "test")) if self.split else readable)

    def selected_rows(self, digests: np.ndarray, count: int) -> np.ndarray:
        """Return the rows of the first `count` images of this split."""
        return np.flatnonzero(self.selects(digests))[:count]

    def expected(self) -> int:
        """Estimate how many images the split will have, on the high side."""
        total = len(self.listing)
        share = {"": total, "train": total * 0.85, "test": total * 0.25}[self.split]
        return min(total, int(share) + 8, total if self.limit is None else self.limit)

    def shards(self, done: int, kept: int) -> Iterator[tuple[int, Shard]]:
        """Decode shard by shard from the row `done` on; each shard comes with the number of rows that are then done.

        kept  the number of images of this split among the first `done` rows
        """
        total = len(self.listing)
        known = self.digests
        to_decode = np.ones(total, bool) if known is None else self.selects(known) | (known == 0)
        items = self.listing.at(np.flatnonzero(to_decode[done:]) + done).encoded()
        with warnings.catch_warnings(), progress(self.caption, total, "images", done) as advance:
            warnings.simplefilter("ignore")  # Pillow warns of damaged metadata around good pixels
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
                while done < total and (self.limit is None or kept < self.limit):
                    rows = np.arange(done, min(done + self._step(kept), total))
                    room = None if self.limit is None else self.limit - kept
                    shard = self._shard(rows, to_decode, items, pool, room)
                    done, kept = done + len(rows), kept + len(shard.pixels)
                    yield (total if kept == self.limit else done), shard
                    advance(len(rows))

    def _step(self, kept: int) -> int:
        """Return how many rows to decode next: not many more than are needed to reach the limit."""
        if self.limit is None:
            return SHARD
        needed = self.limit - kept
        return min(SHARD, needed + needed // 4 + 1 if self.split else needed)

    def _shard(
        self,
        rows: np.ndarray,
        to_decode: np.ndarray,
        items: Iterator[tuple[str, Encoded]],
        pool: ThreadPoolExecutor,
        room: int | None,
    ) -> Shard:
        digests = np.zeros(len(rows), np.uint64) if self.digests is None else self.digests[rows].copy()
        decoding = rows[to_decode[rows]].tolist()
        read = dict(zip(decoding, pool.map(self._read, islice(items, len(decoding))), strict=True))
        pictures = {row: one for row, one in read.items() if isinstance(one, Picture)}
        for row in decoding:
            digests[row - rows[0]] = pictures[row].digest if row in pictures else 0
        pixels = [pictures[row].pixels for row in rows[self.selects(digests)][:room].tolist()]
        tops = [one.top for one in pictures.values() if one.top >= 0]
        return Shard(
            np.stack(pixels) if pixels else np.empty((0, 3, self.side, self.side), np.uint8),
            {str(row): one for row, one in read.items() if isinstance(one, str)},
            digests,
            (len(tops), sum(top < NEARLY_BLACK for top in tops), max(tops, default=0)),
        )

    def _read(self, item: tuple[str, Encoded]) -> Picture | str:
        """Return the decoded image, or the reason why it cannot be read."""
        name, encoded = item
        try:
            return picture(encoded, self.side, self.bits)
        except Exception as error:  # Pillow's readers raise errors of any type for a damaged file
            return f"{name}: {reason_of(error)}"


def gather(found: Found, wanted: SplitRequest, cache: Path) -> Images:
    """Decode one split of a user's set to squares, up to a limit, or read the copy that was decoded before.

    If no size is asked for, it is the size of the first 64 training images if these are squares of the same size of at
    most 224 pixels, else 32. It does not depend on the split or the limit. A set larger than IN_MEMORY_LIMIT stays in a
    file, from which rows are read.
    """
    listing, by_content = found.split(wanted.split)
    probe = found.splits.get("train", listing)
    side = wanted.size or common_side(encoded for _, encoded in islice(probe.encoded(), PROBE))
    limit = None if wanted.limit is None else min(wanted.limit, len(listing))
    if limit is not None and not by_content:
        listing = listing.at(np.arange(limit))
    of_all = (VERSION, "digests", listing.stamp(), wanted.bits)
    reading = Reading(
        listing,
        side,
        wanted.bits,
        f"reading {found.location} at {side} x {side} pixels",
        limit,
        wanted.split if by_content else "",
        _cached_digests(cache, of_all) if by_content else None,
    )
    if where := where_decoded(reading.expected(), side, cache):
        print_once(f"{reading.caption}: {where}; `unshaken pack` keeps images encoded, and memory small")
    pixels, metadata = _pixels(reading, cache)
    digests = metadata["digests"]
    if by_content and len(digests) == len(listing) and reading.digests is None:
        cached(cache, of_all, lambda: (digests, {}))
    _report_reading(found, listing, wanted, metadata, by_content)
    rows = reading.selected_rows(digests, len(pixels))
    if not len(rows):
        raise ValueError(
            f"{found.location} has {amount(len(listing), 'image')}. About one in five, chosen by its content, is for "
            f"testing, and so none is in the {wanted.split} split: add images, or make train/ and test/ folders"
        )
    label = None if listing.label is None else torch.from_numpy(listing.label[rows])
    return Images(
        pixels,
        label,
        listing.names,
        Path(found.location).resolve().name,
        wanted.split,
        metadata.get("content", ""),
        digests=torch.from_numpy(digests[rows].view(np.int64)),
        files=listing.called(rows),
        reason=listing.reason,
    )


def _report_reading(
    found: Found, listing: Listing, wanted: SplitRequest, metadata: dict[str, Any], by_content: bool
) -> None:
    """Report the sizes of the splits, and images that could not be read or have more than 8 bits."""
    digests, broken = metadata["digests"], metadata["unreadable"]
    if by_content and len(digests) == len(listing):
        test = int(in_split(digests[digests != 0], EVERY, TEST).sum())
        found.report(int((digests != 0).sum()) - test, test)
    else:
        found.report()
    if broken:
        _report_unreadable(found.location, len(listing), list(broken.values()), wanted.unreadable)
    if wanted.bits is None:
        check_bits(found.location, *metadata["deep"])


def _cached_digests(cache: Path, key: object) -> np.ndarray | None:
    """Return the digests of all images, if they have been decoded before."""

    def never() -> Decoded:
        raise LookupError

    try:
        return cached(cache, key, never)[0]
    except LookupError:
        return None


def _pixels(reading: Reading, cache: Path) -> tuple[torch.Tensor | StoredPixels, dict[str, Any]]:
    """Return the pixels of the split, and its metadata: digests by row, unreadable images, counts of 16-bit images."""
    one = (3, reading.side, reading.side)
    key = (VERSION, reading.listing.stamp(), reading.side, reading.bits, reading.split, reading.limit)
    if (expected := reading.expected()) * prod(one) > IN_MEMORY_LIMIT:
        return mapped(cache, key, len(reading.listing), expected, one, reading.shards)
    array, metadata = cached(cache, key, lambda: _in_memory((len(reading.listing), *one), reading.shards(0, 0)))
    return torch.from_numpy(array), metadata | {"digests": np.frombuffer(bytes.fromhex(metadata["digests"]), np.uint64)}


def _report_unreadable(location: str, count: int, broken: list[str], unreadable: str) -> None:
    some = f"{len(broken)} of {count} images cannot be read"
    if len(broken) == count:
        raise ValueError(f"{location}: none of {count} images can be read (first: {broken[0]})")
    if unreadable == "stop":
        raise ValueError(f"{location}: {some} (first: {broken[0]}); remove them, or pass --data.unreadable skip")
    more = ", ..." if len(broken) > 3 else ""
    print(f"{location}: {some} and are skipped: {', '.join(broken[:3])}{more}", file=sys.stderr)


def where_decoded(count: int, side: int, cache: Path) -> str:
    """Say where the decoded images of a set go; empty if they are few."""
    size = count * 3 * side**2
    if size < LARGE:
        return ""
    if size > IN_MEMORY_LIMIT:
        return f"decoded once into a file of {size / 1e9:,.0f} GB in {cache}, from which batches are read"
    return f"decoded into {size / 1e9:,.1f} GB of memory"


def check_bits(location: str, deep: int, dark: int, top: int) -> None:
    """Refuse 16-bit images that use fewer bits: scaled as 16 bits they would be nearly black."""
    if 0 < top < 1 << 15:
        bits = max(9, top.bit_length())
        raise ValueError(
            f"{location}: {deep:,} images have 16 bits per value, but no value is above {top}: pass --data.bits {bits} "
            f"if they come from a camera with {bits} bits, or --data.bits 16 to read them as they are"
        )
    if dark:
        print_once(
            f"{location}: {dark:,} of {deep:,} images with 16 bits per value are nearly black; if these have 12 bits, "
            "convert them (--data.bits would change all images)"
        )


def _in_memory(shape: tuple[int, ...], shards: Iterator[tuple[int, Shard]]) -> Decoded:
    """Join all shards in memory."""
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


def reason_of(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a format that is read"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error) or type(error).__name__).splitlines()[0]
