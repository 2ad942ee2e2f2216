"""Packed image sets in use: images are decoded in threads when a batch needs them, so that a set may exceed memory"""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import features

from unshaken.data.decode import common_side, decode
from unshaken.data.image_digests import EVERY, TEST, in_split
from unshaken.data.images import Images
from unshaken.data.packed_file import FileNames, PackedFile, PackedImages, read_packed
from unshaken.data.prefetch import PROBE, VERSION, SplitRequest, check_bits, reason_of
from unshaken.storage.stored_pixels import PixelSource, StoredPixels


@dataclass(frozen=True, eq=False)
class EncodedImages(PixelSource):
    """Images of a packed set that are decoded whenever they are read."""

    packed: PackedFile
    rows: np.ndarray
    side: int
    bits: int | None
    threads: int = min(32, os.cpu_count() or 1)
    streams: bool = True

    @property
    def one(self) -> tuple[int, int, int]:
        return 3, self.side, self.side

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, row: int, out: np.ndarray) -> None:
        content = self.packed.content(int(self.rows[row]))
        try:
            out[...] = decode(content, self.side, self.bits)
        except Exception as error:  # Pillow's readers raise errors of any type; another Pillow may read other formats
            name = self.packed.name(int(self.rows[row]))
            raise ValueError(f"{self.packed.path}: {name} cannot be decoded: {reason_of(error)}") from error


def decoder() -> str:
    """Return the name and version of the decoder: other versions may give other pixels for equal bytes."""
    return f"Pillow {PIL.__version__}, libjpeg {features.version_codec('jpg')}, decoding {VERSION}"


def load_packed(path: Path, wanted: SplitRequest) -> Images:
    """Load one split of a packed set, of which the images stay in the file.

    The split, the size and the limit are those of `prefetch.gather`, and so are the pixels. The digest is one of the
    encoded bytes, the decoder and the size, since the pixels are never there all at once.
    """
    packed = read_packed(path)
    bits = packed.about["bits"]
    if wanted.bits not in (None, bits):
        raise ValueError(f"{path} was packed without --bits {wanted.bits}: pack the images again with it")
    found = packed.found()
    listing, by_content = found.split(wanted.split)
    probe = found.splits.get("train", listing)
    side = wanted.size or common_side(encoded for _, encoded in islice(probe.encoded(), PROBE))
    assert isinstance(listing, PackedImages)
    rows = np.arange(len(listing))
    if by_content:
        test = in_split(packed.arrays["digests"][listing.rows], EVERY, TEST)
        found.report(int((~test).sum()), int(test.sum()))
        rows = np.flatnonzero(test == (wanted.split == "test"))
    else:
        found.report()
    check_bits(str(path), *((0, 0, 0) if bits else packed.about["deep"]))
    chosen = listing.at(rows[: wanted.limit])
    if not len(chosen):
        raise ValueError(f"{path} has {len(listing)} images, of which none is in the {wanted.split} split")
    used = EncodedImages(packed, chosen.rows, side, None if packed.about["short_side"] else bits)
    return Images(
        StoredPixels(used),
        None if chosen.label is None else torch.from_numpy(chosen.label),
        chosen.names,
        path.stem,
        wanted.split,
        _content(used),
        digests=torch.from_numpy(packed.arrays["digests"][chosen.rows].view(np.int64)),
        files=FileNames(packed, chosen.rows),
        reason=chosen.reason,
    )


def _content(used: EncodedImages) -> str:
    """Return a digest of everything that decides about the pixels."""
    digest = blake2b(f"{decoder()}; {used.side}; {used.bits}".encode(), digest_size=16)
    digest.update(used.packed.arrays["sums"][used.rows])
    return digest.hexdigest()
