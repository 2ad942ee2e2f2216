"""One image of any kind becomes a square of RGB bytes."""

import struct
import tracemalloc
import zlib
from io import BytesIO
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, TiffImagePlugin

from unshaken.data.decode import SUFFIXES, common_side, decode, picture, resized
from unshaken.data.image_digests import image_digests
from unshaken.data.source import DataSource


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
    with pytest.raises(ValueError, match="outside of 0 to 1"):
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


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"


def bare_png(width: int, height: int) -> bytes:
    """A PNG file whose header declares a size; its pixels are those of nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * (width + 1) * height) if width * height < 1 << 24 else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", ["1.png", "1.jpg", "1.tga", "1.bmp", "1.tif"])
def test_only_formats_that_are_promised_are_asked(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a file is called: Pillow's reader of EPS would start Ghostscript."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    for content in (EPS, b"GRIB\0\0\0\1", b"%PDF-1.4", b"\xd7\xcd\xc6\x9a" + bytes(40)):
        (tmp_path / name).write_bytes(content)
        for one in (tmp_path / name, content):
            with pytest.raises((OSError, ValueError)):
                decode(one, 8)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.JPE", "JPEG"),
        ("a.jfif", "JPEG"),
        ("a.tga", "TGA"),
        ("a.TIFF", "TIFF"),
        ("a.dib", "BMP"),
        ("a.j2k", "JPEG2000"),
    ],
)
def test_endings_of_formats_that_are_promised(name: str, kind: str, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (200, 100, 0)).save(tmp_path / name, kind)
    assert np.abs(decode(tmp_path / name, 4).astype(int) - np.array([200, 100, 0])[:, None, None]).max() <= 2
    assert Path(name).suffix.lower() in SUFFIXES


@pytest.mark.parametrize("size", [(1, 1_000_000), (1_000_000, 1), (3, 200_000)])
def test_a_long_image_takes_no_more_than_it_has(size: tuple[int, int]) -> None:
    tracemalloc.start()
    pixels = decode(bare_png(*size), 32)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pixels.shape == (3, 32, 32)
    assert peak < 1 << 25


@pytest.mark.parametrize("size", [(30_000, 30_000), (1, 200_000_000), (2**31 - 1, 2**31 - 1)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_declares_too_many_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises((ValueError, OSError, Image.DecompressionBombError)):
        decode(bare_png(*size), 32)


def test_the_bound_is_not_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(ValueError, match="declares 1 x 200000000 pixels, and at most 178,956,970 pixels are read"):
        decode(bare_png(1, 200_000_000), 32)


def test_a_set_of_twelve_bits_stops_until_it_is_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for k in range(3):
        grey = rng.integers(0, 4096, (8, 8)).astype(np.uint16)
        Image.fromarray(grey).save(tmp_path / f"{k}.png")
    for again in range(2):
        with pytest.raises(ValueError, match=r"3 images have 16 bits .* no value is above 40\d\d: .*--data.bits 12"):
            DataSource(str(tmp_path), str(tmp_path / "root"), size=8 + again).load()
    images = DataSource(str(tmp_path), str(tmp_path / "root"), bits=12).load()
    assert np.abs(images.pixels[2, 0].numpy() - grey * (255 / 4095)).max() <= 0.5
    assert DataSource(str(tmp_path), str(tmp_path / "root"), bits=16).load().pixels.max() <= 16
    with pytest.raises(ValueError, match="outside of 0 to 1023"):
        DataSource(str(tmp_path), str(tmp_path / "root"), bits=10).load()
    with pytest.raises(ValueError, match=r"bits is a whole number in \[8, 16\], not 17"):
        DataSource(bits=17)
    Image.fromarray(np.full((8, 8), 65535, np.uint16)).save(tmp_path / "bright.png")
    assert DataSource(str(tmp_path), str(tmp_path / "root")).load().pixels.max() == 255


def test_a_file_that_declares_twelve_bits_is_taken_at_its_word(tmp_path: Path) -> None:
    packed = np.array([[0x00, 0x0F, 0xFF]], np.uint8).repeat(2, 0)  # twice 0 and 4095
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    values = {256: 2, 257: 2, 258: 12, 259: 1, 262: 1, 273: 0, 277: 1, 278: 2, 279: packed.nbytes}
    for tag, value in values.items():
        tags[tag] = value
    file = b"II*\0\x08\0\0\0" + tags.tobytes(8) + packed.tobytes()  # which puts the right offset for 0
    assert decode(file, 2)[0].tolist() == [[0, 255], [0, 255]]


def test_the_digest_is_of_the_picture_and_not_of_its_file() -> None:
    pixels = ramp(20, 10)
    files = [encoded(Image.fromarray(pixels), kind) for kind in ("PNG", "BMP", "TIFF")]
    digests = {picture(file, side).digest for file in files for side in (4, 8)}
    assert digests == {int(image_digests(pixels.transpose(2, 0, 1)[None])[0])}
    changed = pixels.copy()
    changed[3, 3, 0] += 1
    others = {picture(encoded(Image.fromarray(other)), 4).digest for other in (changed, pixels[:, :19], pixels[::-1])}
    assert len(others | digests) == 4
    large = np.random.default_rng(0).integers(0, 256, (1100, 1000, 3), dtype=np.uint8)
    digest = picture(encoded(Image.fromarray(large), "BMP"), 4).digest
    assert digest == int(image_digests(large.transpose(2, 0, 1)[None])[0])
    large[500, 500] ^= 128
    assert picture(encoded(Image.fromarray(large), "BMP"), 4).digest != digest
