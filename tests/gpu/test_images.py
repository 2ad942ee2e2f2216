"""Draws, views and corruptions: from equal numbers the same images on every device."""

import pytest
import torch
from machine import KEY, classes_of, equal_draws

from unshaken.attacks.ball import L2, Linf
from unshaken.base.sample_rng import SampleRandom
from unshaken.corruptions.corruption import Corruption
from unshaken.corruptions.severity import EXTRA, FIFTEEN
from unshaken.transforms.views import Concat, CropFlip, DigitViews, ResizedCrop, SimCLRViews


def test_a_key_draws_where_it_is_asked(device):
    x = torch.zeros(1, device=device)
    rng = KEY.on(x.device)
    assert rng.device == x.device
    first, second = (torch.rand(1000, generator=KEY.on(x.device), device=x.device) for _ in range(2))
    assert first.device == x.device
    assert torch.equal(first, second)
    assert not torch.equal(first, torch.rand(1000, generator=(KEY / 1).on(x.device), device=x.device))
    assert 0.4 < float(first.mean()) < 0.6


@pytest.mark.parametrize("ball", [Linf(8 / 255), L2(0.5)], ids=["linf", "l2"])
def test_starts_of_attacks_lie_in_the_ball(device, ball):
    x = classes_of(16, 3, 32).to(device).floats()
    start, again = (ball.sample(x, (KEY / "start").on(x.device)) for _ in range(2))
    assert torch.equal(start, again)
    assert (ball.distance(start, x) <= ball.eps * (1 + 1e-5)).all()
    assert (start != x).any()


def test_draws_by_counter_are_the_same_bits(device):
    index = torch.arange(1000, 1064)
    here, there = SampleRandom(KEY, index), SampleRandom(KEY, index.to(device))
    assert torch.equal(here.uniform(5, 7), there.uniform(5, 7).cpu())
    assert torch.equal(here.integers(-3, 9, 11), there.integers(-3, 9, 11).cpu())
    assert torch.allclose(here.normal(33), there.normal(33).cpu(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "views",
    [SimCLRViews(), SimCLRViews(filter="bilinear"), DigitViews(noise=0.1), CropFlip(), ResizedCrop(), Concat()],
    ids=["bicubic", "bilinear", "digit", "crop and flip", "resized crop", "beside"],
)
def test_views_are_the_cpus(device, views):
    """From equal draws; all pixels but a few, where a hue or a place is rounded otherwise."""
    images = classes_of(8 if isinstance(views, DigitViews) else 32, 1 if isinstance(views, DigitViews) else 3, 24)
    with equal_draws():
        expected = views(images.floats(), 0.8, KEY / "views")
        found = views(images.to(device).floats(), 0.8, KEY / "views")
    assert found.device.type == device
    assert ((found.cpu() - expected).abs() <= 2 / 255).float().mean() > 0.9995
    assert (expected - images.floats()).abs().max() > 0.1


@pytest.mark.parametrize("name", [*FIFTEEN, *EXTRA])
def test_corruptions_are_the_cpus(device, name):
    """From counters, in float64: a level more or less where an image is cut to 8 bits, and at few pixels."""
    count, side = (24, 32) if device == "cuda" else (2, 32)
    x, index, corruption = classes_of(side, 3, count).floats(), torch.arange(count) + 7, Corruption(name, 3)
    expected = corruption(x, KEY, index)
    found = corruption(x.to(device), KEY, index.to(device))
    assert found.device.type == device
    apart = (found.cpu() - expected).abs()
    assert (apart <= 1.01 / 255).float().mean() > 0.999
    assert (apart > 1e-6).float().mean() < 0.01
    assert (expected - x).abs().max() > 2 / 255
