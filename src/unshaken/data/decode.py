"""One encoded image of any kind to a square of RGB bytes, and the rule for the square's side."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from contextlib import nullcontext
from functools import cache
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from unshaken.data.image_digests import image_digest

Encoded = Path | bytes | None
"""A file, its content, or nothing where there should have been one."""

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif", ".tga"),
)
"""What the names of image files end with, in any case."""
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
"""What is read, whatever a file is called. No other reader of Pillow's is asked: some of them start programs."""
NAMELESS = {".tga": "TGA"}
"""Formats whose files do not begin with a sign of their own: they are told by the name."""

LARGEST_KEPT = 224
MIXED = 32
MOST = 178_956_970
"""Pixels that an image may declare, which is Pillow's own limit: more are refused before they are decoded."""
MANY = 1 << 25
"""Images of more pixels are decoded one at a time."""
LONGEST = 8
"""Of longer images, in units of the shorter side, only the centre is resized."""
_alone = Lock()


class Picture(NamedTuple):
    """What is known of a decoded image.

    pixels  (3, side, side) uint8
    digest  of the image in its own size
    top     the highest value of a file with 16 bits a channel, on the scale of 16 bits; -1 for other files
    """

    pixels: np.ndarray
    digest: int
    top: int


def decode(encoded: Encoded, side: int, bits: int | None = None) -> np.ndarray:
    """Return the pixels of `picture`."""
    return picture(encoded, side, bits).pixels


def picture(encoded: Encoded, side: int, bits: int | None = None) -> Picture:
    """Decode an image: turned as EXIF says, the shorter side resized (bicubic, antialiased), the centre cut out.

    Grey becomes RGB, 16 bits become 8 by scale, transparency lies on white.

    bits  how many of the 16 bits of a grey file are used; None: those that the file declares, else all
    Raises whatever Pillow does, and ValueError for an image that declares too many pixels.
    """
    with _opened(encoded) as image:
        if image.width * image.height > MOST:
            raise ValueError(f"it declares {image.width} x {image.height} pixels, more than the {MOST:,} that are read")
        with _alone if image.width * image.height > MANY else nullcontext():
            deep = _is_deep(image)
            upright, top = _rgb(ImageOps.exif_transpose(image), _declared_bits(image) or bits)
            if deep and top < 0:
                top = _highest_of_colour(upright, bits)
            return Picture(_fitted(upright, side), image_digest(upright), top)


def _fitted(image: Image.Image, side: int) -> np.ndarray:
    """The centre, (3, side, side). What is resized is never much larger than the image or the square."""
    short, long = sorted(image.size)
    if long > LONGEST * short:
        left, top = (image.width - short) // 2, (image.height - short) // 2
        image = image.crop((left, top, left + short, top + short))
    scale = side / min(image.size)
    width, height = (max(side, round(length * scale)) for length in image.size)
    fitted = image.resize((width, height), Image.Resampling.BICUBIC)  # of equal size: an exact copy
    left, top = (width - side) // 2, (height - side) // 2
    return np.asarray(fitted.crop((left, top, left + side, top + side))).transpose(2, 0, 1)


@cache
def _known_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in (*FORMATS, *NAMELESS.values()) if name in Image.OPEN)


def _opened(encoded: Encoded) -> Image.Image:
    if encoded is None:
        raise ValueError("no image data")
    named = NAMELESS.get(encoded.suffix.lower()) if isinstance(encoded, Path) else None
    formats = [name for name in _known_formats() if name in FORMATS or name == named]
    return Image.open(BytesIO(encoded) if isinstance(encoded, bytes) else encoded, formats=formats)


def _is_deep(image: Image.Image) -> bool:
    """Whether the file has more than 8 bits a channel. Pillow reads those of colour as their upper 8."""
    return image.mode.startswith("I") or any(";16" in str(tile[3]) for tile in image.tile)  # pyright: ignore[reportAttributeAccessIssue]


def _declared_bits(image: Image.Image) -> int | None:
    """How many bits a TIFF file says that its grey values have, if these are not as many as are stored."""
    declared = getattr(image, "tag_v2", {}).get(258)
    return declared[0] if isinstance(declared, tuple) and len(declared) == 1 and 8 < declared[0] < 16 else None


def _rgb(image: Image.Image, bits: int | None) -> tuple[Image.Image, int]:
    """The image as RGB, and the highest of its grey values of 16 bits, else -1."""
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
    """Grey values of so many bits (None: 16) as bytes; Pillow's own conversion would clip them at 255."""
    values, most = np.asarray(image), (1 << (bits or 16)) - 1
    low, top = int(values.min()), int(values.max())
    if not 0 <= low <= top <= most:
        raise ValueError(f"grey values {low} to {top} do not lie in 0 to {most}")
    levels = np.rint(np.arange(most + 1) * (255 / most)).astype(np.uint8)
    # a file that declares fewer bits uses all of them, so there is nothing to doubt
    return Image.fromarray(levels[values]), round(top * (65535 / most))


def _from_floats(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    low, top = float(values.min()), float(values.max())
    if not (low >= 0 and top <= 1):
        raise ValueError(f"grey values {low:g} to {top:g} do not lie in 0 to 1")
    return Image.fromarray(np.rint(values.astype(np.float64) * 255).astype(np.uint8))


def _highest_of_colour(image: Image.Image, bits: int | None) -> int:
    """The highest value of a 16-bit image in colour, as well as its upper 8 bits tell it."""
    if bits is not None and bits < 16:
        raise ValueError(f"only the upper 8 of its 16 bits of colour are read, so it cannot be of {bits} bits")
    return max(high for _, high in image.getextrema()) << 8 | 255  # pyright: ignore[reportGeneralTypeIssues]


def common_side(probe: Iterable[Encoded]) -> int:
    """Return the side of a few images if they are squares of one size, at most 224 pixels; else 32."""
    sizes = set()
    for encoded in probe:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of damaged metadata, and of many pixels
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
