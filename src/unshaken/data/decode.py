"""Decoding: one image file of any format becomes a square of RGB bytes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from unshaken.data.image_digests import image_digest

Encoded = Path | bytes | None
"""A file, its content, or None for a row of a table that has no image."""

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif", ".tga"),
)
"""Suffixes of image files, in upper or lower case."""
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Formats that are read, whatever a file is called. Others of Pillow's readers start programs, so they are not used."""
FORMATS_BY_SUFFIX = {".tga": "TGA"}
"""Formats without a signature at the start of the file: only the suffix tells them."""

LARGEST_OWN_SIDE = 224
DEFAULT_SIDE = 32
MOST_PIXELS = 178_956_970
"""An image that declares more pixels is refused before it is decoded. This is Pillow's own limit."""
MANY_PIXELS = 1 << 25
"""Images with more pixels are decoded one at a time, to bound the memory that is used."""
LONGEST = 8
"""Ratio of the sides from which only the centre of an image is resized."""
_one_at_a_time = Lock()


class Picture(NamedTuple):
    """A decoded image.

    pixels  (3, side, side) uint8
    digest  the digest of the image at its original size
    top     the highest value in a file with 16 bits per channel, on the scale of 16 bits; -1 for other files
    """

    pixels: np.ndarray
    digest: int
    top: int


def decode(encoded: Encoded, side: int, bits: int | None = None) -> np.ndarray:
    """Return the pixels of `picture`, without the digest."""
    with upright(encoded, bits) as (image, _):
        return fitted(image, side)


def picture(encoded: Encoded, side: int, bits: int | None = None) -> Picture:
    """Decode an image: rotate it as EXIF says, resize the shorter side (bicubic, antialiased), cut out the centre.

    Grey becomes RGB, 16 bits are scaled to 8, transparent pixels are laid on white.

    bits  how many of the 16 bits of a grey file are used; None: as many as the file declares, else all
    Raises whatever Pillow raises, and ValueError for an image that declares too many pixels.
    """
    with upright(encoded, bits) as (image, top):
        return Picture(fitted(image, side), image_digest(image), top)


@contextmanager
def upright(encoded: Encoded, bits: int | None = None) -> Iterator[tuple[Image.Image, int]]:
    """Decode an image as RGB at its own size, rotated as EXIF says; the second value is the `top` of a `Picture`."""
    with _opened(encoded) as image:
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(
                f"it declares {image.width} x {image.height} pixels, and at most {MOST_PIXELS:,} pixels are read"
            )
        with _one_at_a_time if image.width * image.height > MANY_PIXELS else nullcontext():
            deep = _is_deep(image)
            rgb, top = _rgb(ImageOps.exif_transpose(image), _declared_bits(image) or bits)
            if deep and top < 0:
                top = _highest_of_colour(rgb, bits)
            yield rgb, top


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return an image that Pillow has opened as RGB, rotated as EXIF says."""
    return _rgb(ImageOps.exif_transpose(image), _declared_bits(image))[0]


def fitted(image: Image.Image, side: int) -> np.ndarray:
    """Return the centre of an RGB image as (3, side, side).

    The resized image is never much larger than the original or the square.
    """
    short, long = sorted(image.size)
    if long > LONGEST * short:
        left, top = (image.width - short) // 2, (image.height - short) // 2
        image = image.crop((left, top, left + short, top + short))
    scale = side / min(image.size)
    width, height = (max(side, round(length * scale)) for length in image.size)
    fitted = image.resize((width, height), Image.Resampling.BICUBIC)  # an exact copy if the size is the same
    left, top = (width - side) // 2, (height - side) // 2
    return np.asarray(fitted.crop((left, top, left + side, top + side))).transpose(2, 0, 1)


@cache
def _available_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in (*FORMATS, *FORMATS_BY_SUFFIX.values()) if name in Image.OPEN)


def _opened(encoded: Encoded) -> Image.Image:
    if encoded is None:
        raise ValueError("no image data")
    named = FORMATS_BY_SUFFIX.get(encoded.suffix.lower()) if isinstance(encoded, Path) else None
    formats = [name for name in _available_formats() if name in FORMATS or name == named]
    return Image.open(BytesIO(encoded) if isinstance(encoded, bytes) else encoded, formats=formats)


def _is_deep(image: Image.Image) -> bool:
    """Return whether the file has more than 8 bits per channel. Pillow keeps only the upper 8 of colour images."""
    return image.mode.startswith("I") or any(";16" in str(tile[3]) for tile in image.tile)  # pyright: ignore[reportAttributeAccessIssue]


def _declared_bits(image: Image.Image) -> int | None:
    """Return how many bits a TIFF file declares for its grey values, if they are fewer than the 16 that are stored."""
    declared = getattr(image, "tag_v2", {}).get(258)
    return declared[0] if isinstance(declared, tuple) and len(declared) == 1 and 8 < declared[0] < 16 else None


def _rgb(image: Image.Image, bits: int | None) -> tuple[Image.Image, int]:
    """Return the image as RGB, and its highest grey value on the scale of 16 bits; -1 if it is not a 16-bit image."""
    if image.mode.startswith("I"):
        grey, top = _scaled(image, bits)
        return grey.convert("RGB"), top
    if image.mode == "F":
        return _from_floats(image).convert("RGB"), -1
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"), -1
    return image.convert("RGB"), -1


def _scaled(image: Image.Image, bits: int | None) -> tuple[Image.Image, int]:
    """Scale grey values of `bits` bits (None: 16) to 8 bits. Pillow's own conversion would clip them at 255."""
    values, most = np.asarray(image), (1 << (bits or 16)) - 1
    low, top = int(values.min()), int(values.max())
    if not 0 <= low <= top <= most:
        raise ValueError(f"its grey values go from {low} to {top}, outside of 0 to {most}")
    levels = np.rint(np.arange(most + 1) * (255 / most)).astype(np.uint8)
    # on the scale of 16 bits: a file that declares fewer bits and uses all of them is not suspicious
    return Image.fromarray(levels[values]), round(top * (65535 / most))


def _from_floats(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    low, top = float(values.min()), float(values.max())
    if not (low >= 0 and top <= 1):
        raise ValueError(f"its grey values go from {low:g} to {top:g}, outside of 0 to 1")
    return Image.fromarray(np.rint(values.astype(np.float64) * 255).astype(np.uint8))


def _highest_of_colour(image: Image.Image, bits: int | None) -> int:
    """Return the highest value of a 16-bit colour image, estimated from its upper 8 bits."""
    if bits is not None and bits < 16:
        raise ValueError(
            f"only the upper 8 of the 16 bits of a colour image are read, so --data.bits {bits} has no use"
        )
    return max(high for _, high in image.getextrema()) << 8 | 255  # pyright: ignore[reportGeneralTypeIssues]


def common_side(probe: Iterable[Encoded]) -> int:
    """Return the side of some images if all are squares of the same size, at most 224 pixels; else 32."""
    sizes = {*_sizes(probe)}
    if len(sizes) != 1:
        return DEFAULT_SIDE
    width, height = sizes.pop()
    return width if width == height <= LARGEST_OWN_SIDE else DEFAULT_SIDE


def usual_side(probe: Iterable[Encoded]) -> int | None:
    """Return the median of the shorter sides of some images in pixels; None if none can be read."""
    sides = sorted(min(size) for size in _sizes(probe))
    return sides[len(sides) // 2] if sides else None


def _sizes(probe: Iterable[Encoded]) -> Iterator[tuple[int, int]]:
    """Yield the width and height of each image that can be read; the others are reported when all are decoded."""
    for encoded in probe:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow warns of damaged metadata and of many pixels
                with _opened(encoded) as image:
                    size = image.size
        except Exception:  # noqa: S112   Pillow's readers raise errors of any type for a damaged file
            continue
        yield size


def resized(pixels: np.ndarray, size: int | None) -> np.ndarray:
    """Resize (n 3 h w) to (n 3 size size), bicubic and antialiased; `size` None changes nothing."""
    if size in (None, pixels.shape[-1]):
        return pixels
    images = (Image.fromarray(np.ascontiguousarray(image)) for image in pixels.transpose(0, 2, 3, 1))
    square = [np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)) for image in images]
    return np.ascontiguousarray(np.stack(square).transpose(0, 3, 1, 2))
