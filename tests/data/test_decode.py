"""One image of any kind becomes a square of RGB bytes."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unshaken.data.decode import common_side, decode, resized


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def ramp(width: int, height: int) -> np.ndarray:
    return np.arange(width * height * 3, dtype=np.uint8).reshape(height, width, 3)


def test_an_image_of_the_right_size_is_kept_exactly() -> None:
    pixels = ramp(8, 8)
    assert (decode(encoded(Image.fromarray(pixels)), 8) == pixels.transpose(2, 0, 1)).all()


def test_the_shorter_side_is_resized_and_the_centre_kept() -> None:
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 200
    assert (decode(encoded(Image.fromarray(wide)), 8) == 200).all()
    tall = decode(encoded(Image.fromarray(wide.transpose(1, 0, 2))), 4)
    expected = Image.fromarray(wide.transpose(1, 0, 2)).resize((4, 12), Image.Resampling.BICUBIC).crop((0, 4, 4, 8))
    assert (tall == np.asarray(expected).transpose(2, 0, 1)).all()


def test_exif_orientation_is_respected() -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0] = 255  # white above
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: white at the right
    turned = decode(encoded(Image.fromarray(pixels), exif=exif), 8)
    assert (turned[:, :, 7] == 255).all()
    assert (turned[:, :, :7] == 0).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind: str) -> None:
    grey = np.array([[0, 257], [32896, 65535]], np.uint16)
    assert decode(encoded(Image.fromarray(grey), kind), 2).tolist() == [[[0, 1], [128, 255]]] * 3


def test_floats_are_scaled_and_unknown_ranges_refused() -> None:
    grey = np.array([[0, 0.2], [0.4, 1]], np.float32)
    assert decode(encoded(Image.fromarray(grey), "TIFF"), 2)[0].tolist() == [[0, 51], [102, 255]]
    with pytest.raises(ValueError, match="do not lie in 0 to 1"):
        decode(encoded(Image.fromarray(grey * 7), "TIFF"), 2)


def test_grey_and_bilevel_become_rgb() -> None:
    grey = np.array([[0, 50], [100, 255]], np.uint8)
    assert decode(encoded(Image.fromarray(grey)), 2).tolist() == [grey.tolist()] * 3
    assert decode(encoded(Image.fromarray(grey > 75)), 2).tolist() == [[[0, 0], [255, 255]]] * 3


def test_transparency_lies_on_white() -> None:
    rgba = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    rgba.putpixel((1, 0), (0, 0, 0, 0))
    pixels = decode(encoded(rgba.resize((2, 2), Image.Resampling.NEAREST)), 2)
    assert pixels[:, 0].T.tolist() == [[255, 0, 0], [255, 255, 255]]
    grey = Image.new("LA", (2, 2), (100, 255))
    assert (decode(encoded(grey), 2) == 100).all()


def test_a_palette_shows_its_colours() -> None:
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert decode(encoded(palette), 2)[:, 0, 0].tolist() == [10, 20, 30]
    assert decode(encoded(palette, transparency=1), 2)[:, 0, 0].tolist() == [255, 255, 255]


def test_side_of_a_set() -> None:
    square, other, wide, large = (
        encoded(Image.new("RGB", size)) for size in ((40, 40), (41, 41), (40, 20), (300, 300))
    )
    assert common_side([square, square]) == 40
    assert common_side([square, b"broken", None, Path("missing.png")]) == 40
    assert common_side([square, other]) == common_side([wide]) == common_side([large]) == common_side([]) == 32


def test_resized_is_pillows() -> None:
    pixels = np.stack([ramp(12, 12), ramp(12, 12)[::-1]]).transpose(0, 3, 1, 2)
    small = resized(pixels, 5)
    by_hand = Image.fromarray(ramp(12, 12)).resize((5, 5), Image.Resampling.BICUBIC)
    assert small.shape == (2, 3, 5, 5)
    assert (small[0] == np.asarray(by_hand).transpose(2, 0, 1)).all()
    assert resized(pixels, 12) is pixels
    assert resized(pixels, None) is pixels
