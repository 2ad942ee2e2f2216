"""The high-frequency part: NumPy's transform with a mask made pixel by pixel, and waves in closed form."""

from math import pi, sqrt

import numpy as np
import pytest
import torch
from torch import Tensor

from unshaken.base.rng import Key
from unshaken.transforms.high_pass import high_pass


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=Key("x").on("cpu"))


def by_loop(image: np.ndarray, radius: float) -> np.ndarray:
    """One channel, in float64, as AdvCL's fr_util.py describes it: shift, remove a disc, shift back."""
    H, W = image.shape
    spectrum = np.fft.fftshift(np.fft.fft2(image.astype(np.float64)))
    for i in range(H):
        for j in range(W):
            if sqrt((i - H / 2) ** 2 + (j - W / 2) ** 2) < radius:
                spectrum[i, j] = 0
    return np.fft.ifft2(np.fft.ifftshift(spectrum)).real


@pytest.mark.parametrize("size", [(8, 8), (32, 32), (9, 9), (8, 12), (11, 6)])
@pytest.mark.parametrize("radius", [0.0, 1.0, 2.0, 3.5, 8.0])
def test_the_definition(size, radius):
    x = images(2, 3, *size)
    ours = high_pass(x, radius)
    assert ours.shape == x.shape
    assert ours.dtype == x.dtype
    for n in range(2):
        for c in range(3):
            assert np.allclose(ours[n, c].numpy(), by_loop(x[n, c].numpy(), radius), atol=1e-6)


def test_any_leading_axes_are_allowed():
    x = images(2, 3, 1, 8, 8)
    assert torch.allclose(high_pass(x, 2.0)[1, 2, 0], high_pass(x[1, 2, 0], 2.0), atol=1e-6)


def test_low_frequencies_are_removed_and_high_ones_remain():
    position = torch.arange(32) / 32
    slow, fast = ((2 * pi * cycles * position).cos().expand(32, 32) for cycles in (3, 9))
    assert torch.allclose(high_pass(0.5 + slow + fast, 8), fast, atol=1e-5)
    assert torch.allclose(high_pass((0.5 + slow + fast).T, 8), fast.T, atol=1e-5)


def test_a_frequency_at_the_radius_stays():
    wave = (2 * pi * 8 * torch.arange(32) / 32).cos().expand(32, 32)
    assert torch.allclose(high_pass(wave, 8), wave, atol=1e-5)
    assert high_pass(wave, 8.001).abs().max() < 1e-5


def test_radius_0_changes_nothing_and_a_radius_that_covers_all_leaves_nothing():
    x = images(4, 3, 8, 8)
    assert torch.allclose(high_pass(x, 0), x, atol=1e-6)
    assert torch.equal(high_pass(x, 6), torch.zeros_like(x))


def test_the_result_is_not_clamped():
    x = images(4, 3, 8, 8)
    ours = high_pass(x, 1.0)
    assert torch.allclose(ours, x - x.mean((-2, -1), keepdim=True), atol=1e-6)
    assert ours.min() < -0.2


@pytest.mark.parametrize("radius", [-1.0, float("nan")])
def test_a_radius_is_not_negative(radius):
    with pytest.raises(ValueError, match="the radius is a number of cycles"):
        high_pass(images(1, 1, 8, 8), radius)
