"""Snow, fog, ice and brightness, against loops and colorsys."""

import colorsys

import numpy as np
import pytest
import torch
from scenes import scenes

from unshaken.base.rng import Key
from unshaken.base.sample_rng import SampleRandom
from unshaken.corruptions import weather
from unshaken.corruptions.blur import eight_bits, streaked, zoomed
from unshaken.corruptions.frost import _texture, ice
from unshaken.corruptions.plasma import diamond_square


def draws(count: int) -> SampleRandom:
    return SampleRandom(Key(1), torch.arange(count))


def test_brightness_is_in_hsv():
    x = scenes(1, 3, 8).double()
    x[0, :, 0, :2] = torch.tensor([0, 1])
    expected = np.zeros((3, 8, 8))
    for i, j in np.ndindex(8, 8):
        h, s, v = colorsys.rgb_to_hsv(*x[0, :, i, j].tolist())
        expected[:, i, j] = colorsys.hsv_to_rgb(h, s, min(v + 0.3, 1))
    assert np.abs(weather.brightness(x, draws(1), 0.3)[0].numpy() - expected).max() < 1e-12


def chance(d: SampleRandom, name: str, step: int, i: int, j: int, side: int, w: float) -> float:
    return w * w * float((d / name / step).uniform(side // step, side // step, low=-1, high=1)[0, i, j])


@pytest.mark.parametrize("decay", [3, 1.75])
def test_plasma_point_by_point(decay):
    side, d = 8, draws(1)
    plasma, step, w = np.zeros((side, side)), side, 100.0
    while step >= 2:
        half = step // 2
        cells = [(i, j) for i in range(side // step) for j in range(side // step)]

        def at(i, j):
            return plasma[i % side, j % side]

        for i, j in cells:
            a, b = i * step, j * step
            four = at(a, b) + at(a + step, b) + at(a, b + step) + at(a + step, b + step)
            plasma[a + half, b + half] = four / 4 + chance(d, "centre", step, i, j, side, w)
        for i, j in cells:
            a, b = i * step, j * step
            four = at(a, b) + at(a, b + step) + at(a + half, b + half) + at(a - half, b + half)
            plasma[a, b + half] = four / 4 + chance(d, "across", step, i, j, side, w)
            four = at(a, b) + at(a + step, b) + at(a + half, b + half) + at(a + half, b - half)
            plasma[a + half, b] = four / 4 + chance(d, "along", step, i, j, side, w)
        step, w = half, w / decay
    expected = (plasma - plasma.min()) / (plasma.max() - plasma.min())
    assert np.abs(diamond_square(side, decay, d)[0].numpy() - expected).max() < 1e-12


def test_fog_keeps_the_range():
    x = scenes(3, 3, 20).double()
    plasma = diamond_square(32, 2, draws(3))[:, None, :20, :20]
    brightest = x.amax((1, 2, 3))[:, None, None, None]
    assert torch.allclose(weather.fog(x, draws(3), 1.5, 2) * (brightest + 1.5) / brightest - x, 1.5 * plasma)


@pytest.mark.parametrize("size", [1, 1.75, 0.4])
def test_snow_is_the_literal_computation(size):
    x = scenes(2).double()
    noise = zoomed(0.3 + 0.3 * (draws(2) / "flakes").normal(1, 32, 32), max(1, size))
    angle = (draws(2) / "angle").uniform(low=-135, high=-45)
    flakes = eight_bits(streaked(eight_bits(noise * (noise >= 0.6)), angle, 10, 4))
    grey = (x * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    expected = 0.8 * x + 0.2 * torch.maximum(x, 1.5 * grey + 0.5) + flakes + flakes.rot90(2, (2, 3))
    result = weather.snow(x, draws(2), 0.3, 0.3, size, 0.6, 10, 4, 0.8)
    assert torch.allclose(result, expected, atol=1e-7)


def test_snowflakes_leave_a_streak_below_them():
    """A flake's streak lies below it: a pixel is a mean of those above."""
    point = torch.zeros(1, 1, 9, 9).double()
    point[0, 0, 2, 4] = 1
    streak = streaked(point, torch.tensor([-90.0]).double(), 4, 2)[0, 0]
    assert (streak[2:7, 4] > 0).all()
    assert streak.sum() - streak[2:, 4].sum() == 0


def test_frost_adds_ice():
    x = scenes(3).double()
    assert torch.allclose(weather.frost(x, draws(3), 0.75, 0.45), 0.75 * x + 0.45 * ice(3, 32, 32, draws(3)))


@pytest.mark.parametrize("side", [8, 32, 100])
def test_ice_is_as_bright_and_as_rough_as_the_photographs(side):
    """Means of the five: brightness 0.63, deviation within a window 0.09, between windows 0.15."""
    grey = ice(1, side, side, draws(200))[:, 0]
    assert grey.mean() == pytest.approx(0.63, abs=0.03)
    assert grey.std((1, 2)).mean() == pytest.approx(0.09, abs=0.02)
    assert grey.mean((1, 2)).std() == pytest.approx(0.14, abs=0.03)
    assert 0 <= grey.min() <= grey.max() <= 1
    apart = grey - grey.mean((1, 2), keepdim=True)
    assert apart.pow(3).mean() > 0  # needles are bright
    red, _, blue = ice(3, side, side, draws(200)).mean((0, 2, 3))
    assert red < blue


def test_the_texture_has_its_recorded_values():
    texture = _texture(32)
    assert texture.shape == (128, 128)
    expected = [-0.660057372, 0.0636298535, 0.4542228264, -0.8697886879]
    assert texture[0, ::40].tolist() == pytest.approx(expected, abs=1e-9)
