"""Weather: snow, frost, fog and brightness."""

from __future__ import annotations

import torch
from torch import Tensor

from unshaken.base.sample_rng import SampleRandom
from unshaken.base.types import Float
from unshaken.corruptions.blur import eight_bits, streaked, zoomed
from unshaken.corruptions.frost import ice
from unshaken.corruptions.plasma import diamond_square
from unshaken.transforms.color import luma


def brightness(x: Float[Tensor, "N C H W"], draws: SampleRandom, more: float) -> Float[Tensor, "N C H W"]:
    """Raise the value v of HSV to v + more, at most 1, by multiplying every channel by (v + more) / v."""
    v = x.amax(1, keepdim=True)
    brighter = (v + more).clamp_(max=1)
    return torch.where(v > 0, x * (brighter / v), brighter)


def fog(x: Float[Tensor, "N C H W"], draws: SampleRandom, strength: float, decay: float) -> Float[Tensor, "N C H W"]:
    """Add plasma to the image, then scale it back to its former range."""
    H, W = x.shape[2:]
    brightest = x.amax((1, 2, 3), keepdim=True)
    plasma = diamond_square(1 << (max(H, W) - 1).bit_length(), decay, draws)[:, None, :H, :W]
    return (x + strength * plasma) * brightest / (brightest + strength)


def snow(
    x: Float[Tensor, "N C H W"],
    draws: SampleRandom,
    mean: float,
    deviation: float,
    size: float,
    least: float,
    radius: float,
    sigma: float,
    keep: float,
) -> Float[Tensor, "N C H W"]:
    """Whiten the image and add flakes: noise above `least`, enlarged by `size` and blurred downwards.

    The flakes are added twice, the second time rotated by 180°.
    """
    H, W = x.shape[2:]
    flakes = zoomed(mean + deviation * (draws / "flakes").normal(1, H, W), max(1.0, size))
    flakes = eight_bits(torch.where(flakes < least, 0, flakes))
    flakes = eight_bits(streaked(flakes, (draws / "angle").uniform(low=-135, high=-45), radius, sigma))
    whitened = torch.maximum(x, 1.5 * luma(x) + 0.5)
    return torch.lerp(whitened, x, keep) + flakes + flakes.flip(2, 3)


def frost(x: Float[Tensor, "N C H W"], draws: SampleRandom, keep: float, add: float) -> Float[Tensor, "N C H W"]:
    """Darken the image by `keep` and add ice: a drawn texture instead of the published photographs."""
    H, W = x.shape[2:]
    return keep * x + add * ice(x.shape[1], H, W, draws)
