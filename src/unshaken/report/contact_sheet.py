"""A contact sheet: many small images in the rows of one image, enlarged without smoothing."""

from __future__ import annotations

import numpy as np
from PIL import Image

ACROSS = 1280
"""The largest width of a sheet in pixels."""
TILE = 64
"""The largest size in pixels to which an image is enlarged; larger images are not scaled."""
GAP = 2
PAPER = (128, 128, 128)
"""The colour between images: grey, since images may be white or black at their edges."""


def contact_sheet(pixels: np.ndarray, columns: int | None = None) -> Image.Image:
    """Return the images in their order, row by row from the left.

    pixels   (N C H W) uint8, N > 0, one channel or three
    columns  images in a row; None: as many as fit
    """
    count, channels, height, width = pixels.shape
    assert channels in (1, 3)
    assert pixels.dtype == np.uint8
    times = max(1, TILE // max(height, width))
    tiles = pixels.repeat(times, axis=2).repeat(times, axis=3)
    tiles = np.broadcast_to(tiles, (count, 3, height * times, width * times)).transpose(0, 2, 3, 1)
    down, right = height * times + GAP, width * times + GAP
    columns = columns or max(1, min(count, (ACROSS - GAP) // right))
    canvas = np.full((-(-count // columns) * down + GAP, columns * right + GAP, 3), PAPER, np.uint8)
    for k, tile in enumerate(tiles):
        top, left = GAP + k // columns * down, GAP + k % columns * right
        canvas[top : top + height * times, left : left + width * times] = tile
    return Image.fromarray(canvas)
