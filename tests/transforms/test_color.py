"""Colours against recorded values of torchvision, Python's colorsys and PIL."""

import colorsys
from itertools import permutations
from math import sqrt

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from unshaken.base.rng import Key
from unshaken.transforms import color as colour
from unshaken.transforms.color import BRIGHTNESS, CONTRAST, SATURATION, ColorJitter

BLENDS = {"brightness": colour.brightness, "contrast": colour.contrast, "saturation": colour.saturation}

X = torch.tensor([[[[0, 4, 20], [10, 13, 6]], [[2, 20, 20], [10, 7, 19]], [[17, 5, 20], [10, 1, 3]]]]) / 20

# torchvision 0.28.0, transforms.functional.adjust_<name>(X, factor). Its luma has 0.2989 for PIL's 0.299.
RECORDED = [
    ("brightness", 1.4, [0, 0.28, 1, 0.7, 0.91, 0.42, 0.14, 1, 1, 0.7, 0.49, 1, 1, 0.35, 1, 0.7, 0.07, 0.21]),
    ("brightness", 0.7, [0, 0.14, 0.7, 0.35, 0.455, 0.21, 0.07, 0.7, 0.7, 0.35, 0.245, 0.665, 0.595, 0.175, 0.7, 0.35,
                         0.035, 0.105]),
    ("contrast", 1.3, [0, 0.08997, 1, 0.47997, 0.67497, 0.21997, 0, 1, 1, 0.47997, 0.28497, 1, 0.93497, 0.15497, 1,
                       0.47997, 0, 0.02497]),
    ("contrast", 0.6, [0.22671, 0.34671, 0.82671, 0.52671, 0.61671, 0.40671, 0.28671, 0.82671, 0.82671, 0.52671,
                       0.43671, 0.79671, 0.73671, 0.37671, 0.82671, 0.52671, 0.25671, 0.31671]),
    ("saturation", 1.4, [0, 0.00989, 1, 0.50002, 0.74783, 0.15423, 0.07776, 1, 1, 0.50002, 0.32783, 1, 1, 0.07989, 1,
                         0.50002, 0, 0]),
    ("saturation", 0.3, [0.10892, 0.5327, 0.99993, 0.49997, 0.4788, 0.55509, 0.13892, 0.7727, 0.99993, 0.49997, 0.3888,
                         0.75009, 0.36392, 0.5477, 0.99993, 0.49997, 0.2988, 0.51009]),
    ("hue", 0.1, [0.41, 0.2, 1, 0.5, 0.59, 0.15, 0, 1, 1, 0.5, 0.65, 0.95, 0.85, 0.73, 1, 0.5, 0.05, 0.48]),
    ("hue", -0.37, [0.287, 1, 1, 0.5, 0.218, 0.95, 0.85, 0.2, 1, 0.5, 0.05, 0.15, 0, 0.326, 1, 0.5, 0.65, 0.476]),
    ("hue", 0.5, [0.85, 1, 1, 0.5, 0.05, 0.8, 0.75, 0.2, 1, 0.5, 0.35, 0.15, 0, 0.95, 1, 0.5, 0.65, 0.95]),
]  # fmt: skip


def images(n: int, channels: int = 3, side: int = 8) -> torch.Tensor:
    return torch.rand(n, channels, side, side, generator=Key(0).on("cpu"))


@pytest.mark.parametrize(("name", "factor", "recorded"), RECORDED)
def test_jitter_gives_torchvisions_values(name, factor, recorded):
    result = getattr(colour, name)(X, torch.tensor([factor]))
    assert torch.allclose(result.flatten(), torch.tensor(recorded), atol=1e-4)


@pytest.mark.parametrize("shift", [0.0, 0.1, -0.1, 0.35, 0.5, -0.5])
def test_hue_is_colorsys(shift):
    x = images(1)
    x[0, :, 0] = torch.tensor(
        [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 1]]
    ).T
    x[0, :, 1, 0] = 0.3
    result = colour.hue(x, torch.tensor([shift]))
    for pixel, ours in zip(x[0].flatten(1).T.tolist(), result[0].flatten(1).T.tolist(), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        assert ours == pytest.approx(colorsys.hsv_to_rgb((h + shift) % 1, s, v), abs=2e-6)


def test_a_full_turn_and_no_turn_change_nothing():
    x = images(2)
    assert torch.allclose(colour.hue(x, torch.tensor([0.0, 1.0])), x, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "enhance"), [("brightness", "Brightness"), ("contrast", "Contrast"), ("saturation", "Color")]
)
@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4])
def test_blends_agree_with_pil(name, enhance, factor):
    pixels = (images(1, side=32)[0] * 255).byte()
    theirs = getattr(ImageEnhance, enhance)(Image.fromarray(pixels.permute(1, 2, 0).numpy())).enhance(factor)
    ours = BLENDS[name](pixels[None] / 255, torch.tensor([factor]))[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(ours - np.asarray(theirs)).max() < 1.6  # PIL rounds the grey, its mean and the result


def test_grey_agrees_with_pil():
    pixels = (images(1, side=32)[0] * 255).byte()
    theirs = np.asarray(Image.fromarray(pixels.permute(1, 2, 0).numpy()).convert("L"))
    ours = colour.grey(pixels[None] / 255)[0] * 255
    assert np.abs(ours.numpy() - theirs).max() < 1.0
    assert torch.equal(ours[0], ours[2])


@pytest.mark.parametrize("name", BLENDS)
def test_factors_belong_to_their_sample(name):
    x, factor = images(3), torch.tensor([0.6, 1.0, 1.4])
    together = BLENDS[name](x, factor)
    alone = torch.cat([BLENDS[name](x[n : n + 1], factor[n : n + 1]) for n in range(3)])
    assert torch.allclose(together, alone, atol=1e-6)
    assert torch.allclose(together[1], x[1], atol=1e-6)


def test_one_channel_has_no_colour():
    x, f = images(2, channels=1), torch.tensor([0.3, 1.4])
    for same in (colour.saturation(x, f), colour.hue(x, f), colour.grey(x)):
        assert torch.equal(same, x)
    assert torch.allclose(colour.contrast(x, f)[0], 0.3 * x[0] + 0.7 * x[0].mean())


def test_two_channels_are_refused():
    with pytest.raises(ValueError, match="1 or 3 channels, not 2"):
        colour.contrast(images(1, channels=2), torch.ones(1))


ORDERS = [(list(order), before) for order in permutations((0, 1, 2)) for before in range(4)]


def coloured(x: torch.Tensor, factor: torch.Tensor, shift: torch.Tensor, jittered=True, greyed=False) -> torch.Tensor:
    """By one of the 24 orders a sample."""
    how = ColorJitter(factor, shift, torch.tensor([o for o, _ in ORDERS]), torch.tensor([b for _, b in ORDERS]))
    chosen = (torch.as_tensor(which).expand(24) for which in (jittered, greyed))
    return colour.apply_color(x, colour.passes(how, *chosen, x.shape[1]))


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_is_its_operations_in_each_of_the_24_orders(channels):
    x = images(24, channels)
    g = Key(1).on("cpu")
    factor = 0.4 + 1.2 * torch.rand(24, 3, generator=g)
    shift = torch.rand(24, generator=g) - 0.5
    result = coloured(x, factor, shift)
    HUE = 3
    operations = {
        BRIGHTNESS: colour.brightness,
        CONTRAST: colour.contrast,
        SATURATION: colour.saturation,
        HUE: colour.hue,
    }
    for n, (order, before) in enumerate(ORDERS):
        one = x[n : n + 1]
        for kind in [*order[:before], HUE, *order[before:]]:
            one = operations[kind](one, shift[n : n + 1] if kind == HUE else factor[n : n + 1, kind])
        assert torch.allclose(result[n], one[0], atol=3e-6)


def test_only_the_selected_images_are_jittered_and_made_grey():
    x, factor, shift = images(24), torch.full((24, 3), 0.6), torch.full((24,), 0.1)
    jittered, greyed = torch.arange(24) % 2 == 1, torch.arange(24) % 3 == 1
    expected = torch.where(jittered[:, None, None, None], coloured(x, factor, shift), x)
    expected = torch.where(greyed[:, None, None, None], colour.grey(expected), expected)
    assert torch.allclose(coloured(x, factor, shift, jittered, greyed), expected, atol=1e-6)


def test_the_orders_give_different_images():
    factor = torch.tensor([1.4, 0.5, 1.7]).expand(24, 3)
    result = coloured(X.expand(24, -1, -1, -1), factor, torch.full((24,), 0.2))
    assert len({tuple((image * 1e4).round().flatten().tolist()) for image in result}) > 12


def test_all_24_orders_are_equally_likely():
    n = 24_000
    how = colour.random_color_jitter(n, 0.4, 0.1, Key(0).on("cpu"))
    assert torch.equal(how.order.sort(1).values, torch.arange(3).expand(n, 3))
    code = 27 * how.before + (how.order * torch.tensor([9, 3, 1])).sum(1)
    _, counts = code.unique(return_counts=True)
    assert len(counts) == 24
    assert (counts - n / 24).abs().max() < 5 * sqrt(n / 24)


@pytest.mark.parametrize(("strength", "low", "high"), [(0.4, 0.6, 1.4), (1.5, 0.0, 2.5), (0.0, 1.0, 1.0)])
def test_factors_and_shifts_are_uniform(strength, low, high):
    n = 3000
    how = colour.random_color_jitter(n, strength, 0.1, Key(0).on("cpu"))
    assert how.factor.min() >= low
    assert how.factor.max() <= high
    assert (how.factor.mean(0) - (low + high) / 2).abs().max() <= 5 * (high - low) / sqrt(12 * n)
    assert how.factor.var(0) == pytest.approx([(high - low) ** 2 / 12] * 3, rel=0.1, abs=1e-9)
    assert how.shift.abs().max() <= 0.1
    assert abs(how.shift.mean()) < 5 * 0.2 / sqrt(12 * n)
    assert how.shift.var() == pytest.approx(0.2**2 / 12, rel=0.1)
