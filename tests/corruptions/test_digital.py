"""What a file or a display does, against Pillow, colorsys and SciPy."""

import colorsys
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from scenes import scenes
from scipy import ndimage

from unshaken.base.rng import Key
from unshaken.base.sample_rng import SampleRandom
from unshaken.corruptions import digital


def draws(count: int) -> SampleRandom:
    return SampleRandom(Key(1), torch.arange(count))


def pillow(image: torch.Tensor) -> Image.Image:
    bytes_ = (255 * image).round().byte()
    return Image.fromarray(bytes_[0].numpy() if len(bytes_) == 1 else bytes_.permute(1, 2, 0).numpy())


def levels(image: torch.Tensor) -> np.ndarray:
    return (255 * image).round().permute(1, 2, 0).numpy().squeeze()


@pytest.mark.parametrize("share", [0.95, 0.85, 0.65, 0.4, 0.25])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixelate_is_pillows_box_filter(share, channels):
    x = scenes(2, channels, 64).double()[:, :, :32]
    for image, result in zip(x, digital.pixelate(x, draws(2), share), strict=True):
        small = pillow(image).resize((int(64 * share), int(32 * share)), Image.Resampling.BOX)
        assert np.array_equal(levels(result), np.asarray(small.resize((64, 32), Image.Resampling.BOX)))


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows(channels):
    x = scenes(2, channels).double()
    for image, result in zip(x, digital.jpeg_compression(x, draws(2), 40), strict=True):
        file = BytesIO()
        pillow(image).save(file, "JPEG", quality=40)
        assert np.array_equal(levels(result), np.asarray(Image.open(file)))


def test_contrast_is_towards_each_channels_mean():
    x = scenes(2).double()
    result = digital.contrast(x, draws(2), 0.3)
    assert torch.allclose(result.mean((2, 3)), x.mean((2, 3)))
    assert torch.allclose(result.std((2, 3)), 0.3 * x.std((2, 3)))


@pytest.mark.parametrize(("factor", "more"), [(0.1, 0), (2, 0.1), (20, 0.2)])
def test_saturate_is_in_hsv(factor, more):
    x = scenes(1, 3, 8).double()
    x[0, :, 0, :3] = torch.tensor([[0, 0.5, 1]] * 3)  # black, grey and white: hue 0
    expected = np.zeros((3, 8, 8))
    for i, j in np.ndindex(8, 8):
        h, s, v = colorsys.rgb_to_hsv(*x[0, :, i, j].tolist())
        expected[:, i, j] = colorsys.hsv_to_rgb(h, min(max(s * factor + more, 0), 1), v)
    assert np.abs(digital.saturate(x, draws(1), factor, more)[0].numpy() - expected).max() < 1e-12


@pytest.mark.parametrize("side", [32, 9])
def test_elastic_transform_against_scipy(side):
    alpha, sigma, shift = 0.1 / 32, 0.04, 0.05
    x = scenes(2, 3, side).double()
    noise = (draws(2) / "elastic").uniform(2, side, side, low=-1, high=1).numpy()
    moves = shift * side * (draws(2) / "affine").uniform(3, 2, low=-1, high=1).numpy()
    third, middle = side // 3, side // 2
    three = middle + np.array([[third, third], [third, -third], [-third, -third]])
    row, column = np.mgrid[:side, :side].astype(float)
    expected = np.zeros(x.shape)
    for n in range(2):
        # the affine map (x, y) -> a x + b y + c of each coordinate, through the three pairs of points
        system = np.concatenate([three + moves[n], np.ones((3, 1))], 1)
        from_column, from_row = (np.linalg.inv(system) @ three[:, k] for k in (0, 1))
        back = [f[0] * column + f[1] * row + f[2] for f in (from_row, from_column)]
        right, down = (
            alpha * side**2 * ndimage.gaussian_filter(f, sigma * side, mode="reflect", truncate=3) for f in noise[n]
        )
        for c in range(3):
            moved = ndimage.map_coordinates(x[n, c].numpy(), back, order=1, mode="mirror")
            expected[n, c] = ndimage.map_coordinates(moved, [row + down, column + right], order=1, mode="reflect")
    result = digital.elastic_transform(x, draws(2), alpha, sigma, shift)
    assert np.abs(result.numpy() - expected).max() < 1e-9
    affine_only = digital.elastic_transform(x, draws(2), 0, 0, shift)
    assert (affine_only - result).abs().max() > 1e-3
