"""Zoom, turn and shift against quarter turns, slices and interpolation."""

from math import pi

import pytest
import torch
import torch.nn.functional as F

from unshaken.base.rng import Key
from unshaken.transforms.affine import zoom_rotate_shift
from unshaken.transforms.crop import Boxes, resized_crop


def images(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=Key(0).on("cpu"))


def turn(image, angle=0.0, zoom=1.0, down=0.0, right=0.0):
    return zoom_rotate_shift(image, *(torch.full((len(image),), float(v)) for v in (angle, zoom, down, right)))


def test_the_identity_changes_nothing():
    x = images(2, 3, 8, 10)
    assert torch.allclose(turn(x), x, atol=1e-6)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_go_counter_clockwise(quarters):
    x = images(1, 1, 8, 8)
    assert torch.allclose(turn(x, angle=quarters * pi / 2), x.rot90(quarters, (2, 3)), atol=1e-5)


def test_a_quarter_turn_of_a_wide_image_keeps_pixels_square():
    x = images(1, 1, 4, 8)
    result = turn(x, angle=pi / 2)
    assert torch.allclose(result[:, :, :, 2:6], x[:, :, :, 2:6].rot90(1, (2, 3)), atol=1e-5)
    assert result[:, :, :, :2].abs().max() < 1e-5


def test_shifts_move_down_and_right_and_leave_black():
    x = images(1, 1, 6, 7)
    expected = F.pad(x, (2, 0, 1, 0))[:, :, :6, :7]
    assert torch.allclose(turn(x, down=1, right=2), expected, atol=1e-6)


@pytest.mark.parametrize(("down", "right"), [(3, 0), (0, 3), (2, 1)])
def test_a_shift_moves_the_turned_image(down, right):
    x = images(1, 1, 8, 8)
    expected = F.pad(x.rot90(1, (2, 3)), (right, 0, down, 0))[:, :, :8, :8]
    assert torch.allclose(turn(x, angle=pi / 2, down=down, right=right), expected, atol=1e-5)


def test_zoom_is_the_resized_window():
    x = images(1, 1, 8, 8)
    window = resized_crop(x, Boxes(*torch.tensor([[2], [4], [4], [4]])), (8, 8), "bilinear")
    result = turn(x, zoom=2, down=0, right=-4)  # the window's centre lies 2 pixels right of the image's
    assert torch.allclose(result[:, :, 1:-1, 1:-1], window[:, :, 1:-1, 1:-1], atol=1e-5)


def test_each_sample_turns_by_its_own_angle():
    x = images(2, 1, 8, 8)
    one = torch.ones(2)
    result = zoom_rotate_shift(x, torch.tensor([0.0, pi]), one, 0 * one, 0 * one)
    assert torch.allclose(result[0], x[0], atol=1e-5)
    assert torch.allclose(result[1], x[1].flip((1, 2)), atol=1e-5)
