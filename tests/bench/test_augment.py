"""torchvision's images for our draws are ours but for its rounding, and the comparison says how long each takes."""

import pytest
import torch
from bench.augment import noise, pictures
from bench.literal.augment import repeated, transform
from compared import compared

from unshaken.base.rng import Key
from unshaken.transforms.color import ColorJitter
from unshaken.transforms.crop import Boxes
from unshaken.transforms.views import SimCLRDraws, SimCLRViews


@pytest.mark.parametrize("filter", ["bicubic", "bilinear"])
def test_the_same_draws_make_the_same_images(filter):
    """PIL rounds to 8 bits after every operation."""
    images, simclr, key = noise(64), SimCLRViews(count=1, filter=filter), Key(3)
    ours = simclr(images.floats(), 1.0, key)[0]
    how = simclr.sample(images.floats(), 1.0, key / 0)
    theirs = torch.stack([repeated(picture, simclr, how, n) for n, picture in enumerate(pictures(images))])
    error = (255 * (ours - theirs)).abs()
    assert error.mean() < 1.5
    assert error.mean((1, 2, 3)).max() < 8


def test_the_timed_transform_is_these_functions():
    """By draws made as torchvision makes them, in its order, and handed in."""
    simclr, (picture,) = SimCLRViews(p_jitter=0.5, p_grey=0.5), pictures(noise(1))
    timed = transform(simclr, 32)
    crop, _, maybe, *_ = timed.transforms
    (jitter,) = maybe.transforms
    ranges = [getattr(jitter, name) for name in ("brightness", "contrast", "saturation", "hue")]
    for seed in range(16):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            expected = timed(picture)
            torch.manual_seed(seed)
            box = Boxes(*(torch.tensor([edge]) for edge in crop.get_params(picture, crop.scale, crop.ratio)))
            flipped, jittered = torch.rand(1) < 0.5, torch.rand(1) <= 0.5
            order, *factor, shift = jitter.get_params(*ranges) if jittered else (torch.arange(4), 1.0, 1.0, 1.0, 0.0)
            greyed = torch.rand(1) < 0.5
        blends = order[order < 3][None]  # 3 is the hue
        how = ColorJitter(torch.tensor([factor]), torch.tensor([shift]), blends, (order == 3).nonzero()[0])
        result = repeated(picture, simclr, SimCLRDraws(box, flipped, jittered, how, greyed), 0)
        assert torch.allclose(result, expected, atol=1e-6)


@pytest.mark.extra
def test_the_comparison_runs():
    result = compared("augment", "--quick", "--rounds", "2")
    assert (result["name"], result["n"], result["images"], result["views"]) == ("augment", 2, "noise", 64)
    assert result["ratio"] > 1
    assert result["views_per_second"]["batched"] > result["views_per_second"]["torchvision"]
