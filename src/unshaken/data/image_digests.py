"""A digest of each image's own pixels, and splits that depend on it alone."""

from __future__ import annotations

from hashlib import blake2b
from math import ceil, sqrt

import numpy as np
from PIL import Image

KEY = b"unshaken: one image"
PLAIN = 1 << 20
"""Images of more pixels are averaged over small squares before they are hashed, which keeps hashing cheap beside
decoding."""

TEST, HOLD, ASIDE = 0, 1, 2
"""Splits that are independent of each other: for testing, for choices, and for validation while training."""
EVERY = 5
"""One image in five is for testing."""


def image_digest(image: Image.Image) -> int:
    """Return 64 bits, never 0, of an RGB image as it was stored: of its pixels and its size, not of its file.

    The same picture in another file, or brought to another size later, has the same digest.
    """
    factor = ceil(sqrt(image.width * image.height / PLAIN))
    pixels = image.reduce(factor) if factor > 1 else image
    return _hashed(pixels.tobytes(), image.height, image.width)


def image_digests(pixels: np.ndarray) -> np.ndarray:
    """Return the digest (N) uint64 of each of (N C H W) uint8; grey images count as RGB."""
    rgb = pixels if pixels.shape[1] == 3 else np.broadcast_to(pixels[:, :1], (len(pixels), 3, *pixels.shape[2:]))
    if pixels[0:1].size * 3 > 3 * PLAIN:
        each = (image_digest(Image.fromarray(np.ascontiguousarray(one.transpose(1, 2, 0)))) for one in rgb)
    else:
        each = (_hashed(one.transpose(1, 2, 0).tobytes(), *one.shape[1:]) for one in rgb)
    return np.fromiter(each, np.uint64, len(pixels))


def _hashed(pixels: bytes, height: int, width: int) -> int:
    digest = blake2b(f"{height}x{width} ".encode(), digest_size=8, key=KEY)
    digest.update(pixels)
    return int.from_bytes(digest.digest(), "little") or 1


def falls(digests: np.ndarray, every: int, split: int) -> np.ndarray:
    """Return which images belong to a split that takes one in `every`.

    Whether an image does depends on its digest alone: other images may come and go, and its copies share its side.
    """
    with np.errstate(over="ignore"):
        return _mixed(digests.astype(np.uint64) + np.uint64(split) * np.uint64(0x9E3779B97F4A7C15)) % every == 0


def _mixed(x: np.ndarray) -> np.ndarray:
    """The permutation of the 64-bit numbers with which SplitMix64 ends."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def packed_digests(digests: np.ndarray) -> str:
    """Digests as text for a JSON file."""
    return digests.astype("<u8").tobytes().hex()


def unpacked_digests(text: str) -> np.ndarray:
    """The inverse of `packed_digests`: (N) int64, the same 64 bits."""
    return np.frombuffer(bytes.fromhex(text), "<i8").astype(np.int64)
