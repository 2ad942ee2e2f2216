"""STL-10 from its binary archive: 5,000 train, 8,000 test and 100,000 unlabelled images."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np
import torch

from unshaken.base.progress import progress
from unshaken.data.decode import resized
from unshaken.data.image_digests import image_digests, packed_digests, unpacked_digests
from unshaken.data.images import Images
from unshaken.storage.archive import Archive
from unshaken.storage.cache import Decoded, cached

SIDE = 96
CHUNK = 1000
STL10 = Archive(
    "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz", "91f7769df0f17e558f3565bffb0c7dfb", "stl10_binary"
)


def stl(
    root: Path,
    split: str,
    download: bool = False,
    *,
    size: int | None = None,
    limit: int | None = None,
    archive: Archive = STL10,
) -> Images:
    """Load STL-10 (Coates, Ng and Lee, 2011): "train", "test" or "unlabeled", at 96 pixels or resized to `size`.

    Only the first `limit` images are read. The 100,000 unlabelled images take 2.8 GB at 96 pixels, 0.3 GB at 32.
    """
    labelled = split != "unlabeled"
    wanted = (f"{split}_X.bin", *((f"{split}_y.bin", "class_names.txt") if labelled else ()))
    location = archive.find(root, download)

    def decode() -> Decoded:
        pixels, metadata = np.empty(0), {}
        for name, stream, length in archive.members(location, wanted):
            if name.endswith("_X.bin"):
                if length % (3 * SIDE * SIDE):
                    raise ValueError(f"{location}: {name} is cut short: remove it and unpack {archive.file_name} again")
                pixels, digests = _pixels(stream, length // (3 * SIDE * SIDE), size, limit)
                metadata["digests"] = packed_digests(digests)
            elif name.endswith("_y.bin"):  # classes are 1..10 in this file
                metadata["label"] = (np.frombuffer(stream.read(), np.uint8).astype(int) - 1)[:limit].tolist()
            else:
                metadata["names"] = _names(stream.read(), f"{location}: {name}")
        return pixels, metadata

    pixels, metadata = cached(root / "cache", ("digests", archive.stamp(location, wanted), split, size, limit), decode)
    label = torch.tensor(metadata["label"], dtype=torch.int64) if labelled else None
    digests = torch.from_numpy(unpacked_digests(metadata["digests"]))
    return Images(torch.from_numpy(pixels), label, tuple(metadata.get("names", ())), "stl10", split, digests=digests)


def _names(content: bytes, where: str) -> list[str]:
    try:
        return content.decode().split()
    except UnicodeDecodeError:
        raise ValueError(f"{where} is damaged, because it is not text: download the archive again") from None


def _pixels(stream: IO[bytes], count: int, size: int | None, limit: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return images (N 3 size size) and their digests. They are read in chunks, to save memory: the file has 2.8 GB."""
    count = count if limit is None else min(count, limit)
    pixels, digests = np.empty((count, 3, size or SIDE, size or SIDE), np.uint8), np.empty(count, np.uint64)
    with progress("reading STL-10", count, "images") as advance:
        for start in range(0, count, CHUNK):
            chunk = pixels[start : start + CHUNK]
            stored = np.frombuffer(stream.read(len(chunk) * 3 * SIDE * SIDE), np.uint8)
            # the file stores images column by column, as MATLAB does
            upright = stored.reshape(-1, 3, SIDE, SIDE).swapaxes(2, 3)
            chunk[:], digests[start : start + CHUNK] = resized(upright, size), image_digests(upright)
            advance(len(chunk))
    return pixels, digests
