"""The contact sheet: every pixel of every image is where its place in the order says."""

import numpy as np
import pytest

from unshaken.report.contact_sheet import GAP, PAPER, contact_sheet


@pytest.mark.parametrize(("side", "times", "columns"), [(8, 8, 19), (32, 2, 19), (62, 1, 19), (96, 1, 13), (224, 1, 5)])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_is_in_its_place(side, times, columns, channels):
    count = columns + 2
    pixels = np.random.default_rng(side).integers(0, 256, (count, channels, side, side), dtype=np.uint8)
    found = np.asarray(contact_sheet(pixels))
    pitch = side * times + GAP
    assert found.shape == (2 * pitch + GAP, columns * pitch + GAP, 3)
    seen = np.zeros(found.shape[:2], bool)
    for k in range(count):
        for down in (0, side // 2, side - 1):
            top, left = GAP + (k // columns) * pitch + down * times, GAP + (k % columns) * pitch
            for across in (0, 1, side - 1):
                block = found[top : top + times, left + across * times : left + (across + 1) * times]
                assert (block == pixels[k, :, down, across]).all()
        top, left = GAP + (k // columns) * pitch, GAP + (k % columns) * pitch
        seen[top : top + side * times, left : left + side * times] = True
    assert (found[~seen] == PAPER).all()


def test_rows_are_as_high_as_images_and_columns_as_wide():
    pixels = np.zeros((21, 1, 16, 32), np.uint8)
    pixels[20] = 255
    found = np.asarray(contact_sheet(pixels))
    assert found.shape == (2 * 34 + 2, 19 * 66 + 2, 3)
    assert (found[36:68, 68:132] == 255).all()


def test_few_images_make_a_narrow_sheet():
    assert contact_sheet(np.zeros((2, 1, 8, 8), np.uint8)).size == (2 * 66 + 2, 66 + 2)
