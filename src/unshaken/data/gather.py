"""Many encoded images into one array: in parallel, only once, and the unreadable ones named."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import UnidentifiedImageError

from unshaken.base.progress import progress
from unshaken.data.cache import Decoded, cached
from unshaken.data.decode import Encoded, common_side, decode
from unshaken.data.images import Images
from unshaken.data.listing import Listing, chosen

PROBE = 64
CHUNK = 256


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
    else 32. It is the same for all splits and limits.
    """
    listing = chosen(splits, split, path)
    side = size or common_side(encoded for _, encoded in islice(splits.get("train", listing).encoded(), PROBE))
    if limit is not None:
        listing = listing.at(np.arange(min(limit, len(listing))))
    pixels, about = cached(
        cache, (listing.stamp(), side), lambda: _decoded(listing, side, f"reading {path} at {side} x {side} pixels")
    )
    broken = {int(row): why for row, why in about["unreadable"].items()}
    kept = torch.tensor([row for row in range(len(listing)) if row not in broken], dtype=torch.int64)
    label = None if listing.label is None else torch.from_numpy(listing.label)
    images = Images(torch.from_numpy(pixels), label, listing.names, path.resolve().name, split)
    if not broken:
        return images
    _complain(path, len(listing), list(broken.values()), unreadable)
    return images[kept]


def _complain(path: Path, count: int, broken: list[str], unreadable: str) -> None:
    some = f"{len(broken)} of {count} images cannot be read"
    if len(broken) == count:
        raise ValueError(f"{path}: none of {count} images can be read (first: {broken[0]})")
    if unreadable == "stop":
        raise ValueError(f"{path}: {some} (first: {broken[0]}); remove them, or pass --data.unreadable skip")
    more = ", ..." if len(broken) > 3 else ""
    print(f"{path}: {some} and are skipped: {', '.join(broken[:3])}{more}", file=sys.stderr)


def _decoded(listing: Listing, side: int, caption: str) -> Decoded:
    """Pixels, black where an image is unreadable, and by row why it is."""
    pixels = np.zeros((len(listing), 3, side, side), np.uint8)
    unreadable: dict[str, str] = {}

    def place(row: int, name: str, encoded: Encoded) -> None:
        try:
            pixels[row] = decode(encoded, side)
        except Exception as error:  # Pillow's readers raise whatever they stumble over
            unreadable[str(row)] = f"{name}: {_reason(error)}"

    with warnings.catch_warnings(), progress(caption, len(listing), "images") as advance:
        warnings.simplefilter("ignore")  # of damaged metadata around good pixels
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for chunk in _chunks(listing):
                list(pool.map(lambda item: place(*item), chunk))
                advance(len(chunk))
    return pixels, {"unreadable": dict(sorted(unreadable.items(), key=lambda item: int(item[0])))}


def _chunks(listing: Listing) -> Iterator[list[tuple[int, str, Encoded]]]:
    items = ((row, name, encoded) for row, (name, encoded) in enumerate(listing.encoded()))
    while chunk := list(islice(items, CHUNK)):
        yield chunk


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error) or type(error).__name__).splitlines()[0]
