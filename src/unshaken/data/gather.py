"""Many encoded images into one array: in parallel, only once, and the unreadable ones named."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from math import prod
from pathlib import Path

import numpy as np
import torch
from PIL import UnidentifiedImageError

from unshaken.base.progress import progress
from unshaken.data.cache import Decoded, cached
from unshaken.data.decode import Encoded, common_side, decode
from unshaken.data.images import LARGE, Images
from unshaken.data.listing import Listing, chosen
from unshaken.data.mapped import Shard, mapped

PROBE = 64
SHARD = 1024
"""Images that are decoded together: 150 MB at 224 pixels."""


def gather(
    splits: dict[str, Listing],
    path: Path,
    split: str,
    size: int | None,
    limit: int | None,
    unreadable: str,
    cache: Path,
) -> Images:
    """One split of a user's set, its first `limit` images, as squares of `size` pixels.

    Without a size: that of the first 64 training images if they are squares of one size and at most 224 pixels,
    else 32. It is the same for all splits and limits. A LARGE set is in a file instead of in memory.
    """
    listing = chosen(splits, split, path)
    side = size or common_side(encoded for _, encoded in islice(splits.get("train", listing).encoded(), PROBE))
    if limit is not None:
        listing = listing.at(np.arange(min(limit, len(listing))))
    key, shape = (listing.stamp(), side), (len(listing), 3, side, side)
    decode = partial(_decoded, listing, side, f"reading {path} at {side} x {side} pixels")
    if prod(shape) > LARGE:
        pixels, about = mapped(cache, key, shape, decode)
    else:
        array, about = cached(cache, key, lambda: _whole(shape, decode(0)))
        pixels = torch.from_numpy(array)
    if broken := about["unreadable"]:
        _complain(path, len(listing), list(broken.values()), unreadable)
    kept = [row for row in range(len(listing)) if str(row) not in broken]
    label = None if listing.label is None else torch.from_numpy(listing.label[kept])
    return Images(
        pixels, label, listing.names, path.resolve().name, split, about.get("content", ""), sums=about.get("sums")
    )


def _complain(path: Path, count: int, broken: list[str], unreadable: str) -> None:
    some = f"{len(broken)} of {count} images cannot be read"
    if len(broken) == count:
        raise ValueError(f"{path}: none of {count} images can be read (first: {broken[0]})")
    if unreadable == "stop":
        raise ValueError(f"{path}: {some} (first: {broken[0]}); remove them, or pass --data.unreadable skip")
    more = ", ..." if len(broken) > 3 else ""
    print(f"{path}: {some} and are skipped: {', '.join(broken[:3])}{more}", file=sys.stderr)


def _whole(shape: tuple[int, ...], shards: Iterator[tuple[int, Shard]]) -> Decoded:
    """All shards in memory."""
    pixels, kept, unreadable = np.empty(shape, np.uint8), 0, {}
    for _, (part, reasons) in shards:
        pixels[kept : kept + len(part)] = part
        kept, unreadable = kept + len(part), unreadable | reasons
    return pixels[:kept], {"unreadable": unreadable}


def _decoded(listing: Listing, side: int, caption: str, done: int) -> Iterator[tuple[int, Shard]]:
    """Shard by shard from the image `done` on, each with how many images are then done."""
    left = listing.at(np.arange(done, len(listing)))
    with warnings.catch_warnings(), progress(caption, len(listing), "images", done) as advance:
        warnings.simplefilter("ignore")  # of damaged metadata around good pixels
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            items = left.encoded()
            while shard := list(islice(items, SHARD)):
                read = list(pool.map(lambda item: _read(*item, side), shard))
                whole = [pixels for pixels in read if isinstance(pixels, np.ndarray)]
                pixels = np.stack(whole) if whole else np.empty((0, 3, side, side), np.uint8)
                reasons = {str(done + k): reason for k, reason in enumerate(read) if isinstance(reason, str)}
                done += len(shard)
                yield done, (pixels, reasons)
                advance(len(shard))


def _read(name: str, encoded: Encoded, side: int) -> np.ndarray | str:
    """The pixels, or why there are none."""
    try:
        return decode(encoded, side)
    except Exception as error:  # Pillow's readers raise whatever they stumble over
        return f"{name}: {_reason(error)}"


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error) or type(error).__name__).splitlines()[0]
