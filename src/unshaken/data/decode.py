"""One encoded image of any kind to a square of RGB bytes, and the rule for the square's side."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

Encoded = Path | bytes | None
"""A file, its content, or nothing where there should have been one."""

LARGEST_KEPT = 224
MIXED = 32


def decode(encoded: Encoded, side: int) -> np.ndarray:
    """(3, side, side) uint8: turned as EXIF says, the shorter side resized (bicubic, antialiased), the centre cut out.

    Grey becomes RGB, 16 bits become 8 by scale, transparency lies on white. Raises whatever Pillow does.
    """
    with _opened(encoded) as image:
        upright = _rgb(ImageOps.exif_transpose(image))
    scale = side / min(upright.size)
    width, height = (max(side, round(length * scale)) for length in upright.size)
    fitted = upright.resize((width, height), Image.Resampling.BICUBIC)  # of equal size: an exact copy
    left, top = (width - side) // 2, (height - side) // 2
    return np.asarray(fitted.crop((left, top, left + side, top + side))).transpose(2, 0, 1)


def _opened(encoded: Encoded) -> Image.Image:
    if encoded is None:
        raise ValueError("no image data")
    return Image.open(BytesIO(encoded) if isinstance(encoded, bytes) else encoded)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bits(image).convert("RGB")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey, or floats in [0, 1], scaled to bytes; Pillow's own conversion would clip them at 255."""
    values = np.asarray(image).astype(np.float64)
    top = 1.0 if image.mode == "F" else 65535.0
    if not (values.min() >= 0 and values.max() <= top):
        raise ValueError(f"grey values {values.min():g} to {values.max():g} do not lie in 0 to {top:g}")
    return Image.fromarray(np.rint(values * (255 / top)).astype(np.uint8))


def common_side(probe: Iterable[Encoded]) -> int:
    """The side of a few images if they are squares of one size, at most 224 pixels; else 32."""
    sizes = set()
    for encoded in probe:
        try:
            with _opened(encoded) as image:
                sizes.add(image.size)
        except Exception:  # noqa: S112   it will be named when all are decoded
            continue
    if len(sizes) != 1:
        return MIXED
    width, height = sizes.pop()
    return width if width == height <= LARGEST_KEPT else MIXED


def resized(pixels: np.ndarray, size: int | None) -> np.ndarray:
    """(n 3 h w) to (n 3 size size), bicubic and antialiased; None leaves them as they are."""
    if size in (None, pixels.shape[-1]):
        return pixels
    images = (Image.fromarray(np.ascontiguousarray(image)) for image in pixels.transpose(0, 2, 3, 1))
    square = [np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)) for image in images]
    return np.ascontiguousarray(np.stack(square).transpose(0, 3, 1, 2))
