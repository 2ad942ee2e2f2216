"""Blurs against SciPy and against loops over pixels."""

import math

import numpy as np
import pytest
import torch
from scenes import scenes
from scipy import ndimage

from unshaken.base.rng import Key
from unshaken.base.sample_rng import SampleRandom
from unshaken.corruptions import blur


def images(*shape: int) -> torch.Tensor:
    return scenes(shape[0], shape[1], max(shape[2:])).double()[:, :, : shape[2], : shape[3]]


def draws(count: int) -> SampleRandom:
    return SampleRandom(Key(1), torch.arange(count))


@pytest.mark.parametrize("border", ["nearest", "reflect", "mirror"])
@pytest.mark.parametrize("sigma", [0.4, 1.5, 4])
def test_smoothed_is_scipys_gaussian(border, sigma):
    x = images(2, 1, 9, 12)
    expected = ndimage.gaussian_filter(x.numpy(), (0, 0, sigma, sigma), mode=border, truncate=3)
    assert np.abs(blur.smoothed(x, sigma, int(3 * sigma + 0.5), border).numpy() - expected).max() < 1e-12


def test_gaussian_blur_is_cut_off_at_four_deviations():
    x = images(2, 3, 16, 16)
    expected = ndimage.gaussian_filter(x.numpy(), (0, 0, 1, 1), mode="nearest")
    assert np.abs(blur.gaussian_blur(x, draws(2), 1).numpy() - expected).max() < 1e-12
    assert torch.equal(blur.gaussian_blur(x, draws(2), 0.05), x)


@pytest.mark.parametrize(("radius", "alias"), [(0.3, 0.4), (1, 0.2), (1.5, 0.1), (8, 0.5), (10, 0.5)])
def test_defocus_blur_spreads_over_a_disk(radius, alias):
    reach = max(8, math.ceil(radius))
    i, j = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    kernel = (i**2 + j**2 <= radius**2).astype(float)
    soft = 1 if radius <= 8 else 2
    kernel = ndimage.gaussian_filter(kernel / kernel.sum(), alias, mode="mirror", radius=soft)
    x = images(2, 3, 12, 24)
    expected = np.stack([[ndimage.correlate(c, kernel, mode="mirror") for c in image] for image in x.numpy()])
    assert np.abs(blur.defocus_blur(x, draws(2), radius, alias).numpy() - expected).max() < 1e-12


@pytest.mark.parametrize("delta", [1, 2, 4])
def test_glass_copies_pixels_as_numpys_views_do(delta):
    x = images(2, 3, 13, 15)
    shifts = (draws(2) / 0 / "about").integers(-delta, delta, 2, 13, 15).numpy()
    expected = x.permute(0, 2, 3, 1).numpy().copy()
    for image, (across, down) in zip(expected, shifts, strict=True):
        for h in range(13 - delta, delta, -1):
            for w in range(15 - delta, delta, -1):
                source = h + down[h, w], w + across[h, w]
                image[h, w], image[source] = image[source], image[h, w]
    result = blur._copy_neighbours(x, draws(2) / 0, delta)
    assert np.array_equal(result.permute(0, 2, 3, 1).numpy(), expected)


def test_glass_blur_blurs_cuts_copies_in_rounds_and_blurs():
    x = images(2, 3, 12, 12)
    y = blur.eight_bits(blur.gaussian_blur(x, draws(2), 0.7))
    for r in range(3):
        y = blur._copy_neighbours(y, draws(2) / r, 2)
    assert torch.equal(blur.glass_blur(x, draws(2), 0.7, 2.2, 3), blur.gaussian_blur(y, draws(2), 0.7))


@pytest.mark.parametrize(("radius", "sigma"), [(6, 1), (9, 2.5), (10, 15)])
def test_streaks_are_half_a_gaussian_on_a_line(radius, sigma):
    x = images(3, 2, 9, 11)
    angles = [-120.0, 3.0, 44.0]
    weight = np.exp(-0.5 * (np.arange(2 * radius + 1) / sigma) ** 2)
    weight /= weight.sum()
    expected = np.zeros(x.shape)
    for n, angle in enumerate(np.deg2rad(angles)):
        for h, w in np.ndindex(9, 11):
            for k, share in enumerate(weight):
                row, column = h + math.ceil(k * math.sin(angle) - 0.5), w + math.ceil(k * math.cos(angle) - 0.5)
                expected[n, :, h, w] += share * x.numpy()[n, :, min(max(row, 0), 8), min(max(column, 0), 10)]
    result = blur.streaked(x, torch.tensor(angles).double(), radius, sigma)
    assert np.abs(result.numpy() - expected).max() < 1e-6


def test_motion_blur_is_near_the_horizontal():
    x = images(2, 1, 16, 16)
    x[:] = x[:, :, :1]  # rows that are equal
    angle = (draws(2) / "angle").uniform(low=-45, high=45)
    assert torch.equal(blur.motion_blur(x, draws(2), 6, 2), blur.eight_bits(blur.streaked(x, angle, 6, 2)))
    many = (SampleRandom(Key(1), torch.arange(999)) / "angle").uniform(low=-45, high=45)
    assert many.min() < -40
    assert many.max() > 40


@pytest.mark.parametrize("factor", [1.01, 1.06, 1.25, 1.75, 3])
def test_zoomed_is_scipys_zoom_of_the_middle(factor):
    x = images(1, 1, 32, 32)
    size = math.ceil(32 / factor)
    top = (32 - size) // 2
    large = ndimage.zoom(x[0, 0, top : top + size, top : top + size].numpy(), factor, order=1)
    cut = (len(large) - 32) // 2
    expected = large[cut : cut + 32, cut : cut + 32]
    assert np.abs(blur.zoomed(x, factor)[0, 0].numpy() - expected).max() < 1e-12


def test_zoom_blur_is_a_mean_of_enlargements_and_the_image():
    x = images(2, 3, 32, 32)
    expected = (x + sum(blur.zoomed(x, factor) for factor in np.arange(1, 1.26, 0.01))) / 27
    assert torch.allclose(blur.zoom_blur(x, draws(2), 26, 0.01), expected, atol=1e-12)


def test_eight_bits_truncates_to_256_levels():
    x = torch.tensor([-1, 0, 0.999 / 255, 7 / 255, 7.999 / 255, 1, 2], dtype=torch.float64)
    assert (255 * blur.eight_bits(x)).round().tolist() == [0, 0, 0, 7, 7, 255, 255]
    levels = torch.arange(256).double() / 255
    assert torch.equal(blur.eight_bits(levels), levels)
