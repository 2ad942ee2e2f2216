"""A digest of each image's pixels, and splits that depend on this digest alone."""

from __future__ import annotations

from hashlib import blake2b
from math import ceil, sqrt

import numpy as np
from PIL import Image

HASH_KEY = b"unshaken: one image"
"""It must never change, because stored digests depend on it."""
MOST_HASHED_PIXELS = 1 << 20
"""Images of more pixels are averaged over small squares first, so that hashing costs less than decoding."""

TEST, HOLDOUT, VALIDATION = 0, 1, 2
"""Independent draws, which may overlap: for testing, for choosing hyper-parameters, for validation in training."""
EVERY = 5
"""About one image in five is a test image."""


def image_digest(image: Image.Image) -> int:
    """Return a 64-bit digest of an RGB image's pixels and size, not of its file. It is never 0, which means unreadable.

    Take it before the image is resized for a network: copies of an image in other files then have the same digest.
    """
    factor = ceil(sqrt(image.width * image.height / MOST_HASHED_PIXELS))
    pixels = image.reduce(factor) if factor > 1 else image
    return _hashed(pixels.tobytes(), image.height, image.width)


def image_digests(pixels: np.ndarray) -> np.ndarray:
    """Return the digests (N) uint64 of images (N C H W) uint8; grey images are hashed as RGB."""
    rgb = pixels if pixels.shape[1] == 3 else np.broadcast_to(pixels[:, :1], (len(pixels), 3, *pixels.shape[2:]))
    if pixels.shape[2] * pixels.shape[3] > MOST_HASHED_PIXELS:
        found = (image_digest(Image.fromarray(np.ascontiguousarray(one.transpose(1, 2, 0)))) for one in rgb)
    else:
        found = (_hashed(one.transpose(1, 2, 0).tobytes(), *one.shape[1:]) for one in rgb)
    return np.fromiter(found, np.uint64, len(pixels))


def _hashed(pixels: bytes, height: int, width: int) -> int:
    digest = blake2b(f"{height}x{width} ".encode(), digest_size=8, key=HASH_KEY)
    digest.update(pixels)
    return int.from_bytes(digest.digest(), "little") or 1


def in_split(digests: np.ndarray, every: int, split: int) -> np.ndarray:
    """Return a mask of the images in a split that takes one image in `every`.

    Membership depends on the image's digest alone: other images may be added or removed without moving it, and copies
    of an image are on the same side of the split.
    """
    with np.errstate(over="ignore"):  # products wrap around, as in SplitMix64, whose increment the constant is
        return _mixed(digests.astype(np.uint64) + np.uint64(split) * np.uint64(0x9E3779B97F4A7C15)) % every == 0


def _mixed(x: np.ndarray) -> np.ndarray:
    """Apply SplitMix64's finaliser, a permutation of 64-bit numbers."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def packed_digests(digests: np.ndarray) -> str:
    """Write digests as text, for a JSON file."""
    return digests.astype("<u8").tobytes().hex()


def unpacked_digests(text: str) -> np.ndarray:
    """Read the text of `packed_digests` as (N) int64, which torch has, with the same 64 bits."""
    return np.frombuffer(bytes.fromhex(text), "<i8").astype(np.int64)
