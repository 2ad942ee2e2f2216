"""Ice on a window for frost: a drawn texture instead of the published photographs."""

from __future__ import annotations

from functools import lru_cache
from math import pi

import torch
from torch import Tensor

from unshaken.base.rng import Key
from unshaken.base.sample_rng import SampleRandom
from unshaken.base.types import Float
from unshaken.corruptions.blur import smoothed
from unshaken.corruptions.plasma import diamond_square

TINT = (0.89, 1.02, 1.09)
"""Colour of ice, as its channels divided by its luma: bluish."""
DARKEST, LIGHTEST, GRAIN = 0.42, 0.86, 0.25
"""Range of brightness, and standard deviation of its distance from white, as in those photographs."""
NEEDLES = 64
"""Number of needles, as a multiple of the side of an image in pixels."""


def ice(channels: int, height: int, width: int, draws: SampleRandom) -> Float[Tensor, "N C height width"]:
    """Return a random window of the texture for each sample, with a random brightness."""
    device = draws.index.device
    texture = _texture(1 << (max(height, width) - 1).bit_length()).to(device)
    top, left = (draws / "place").integers(0, len(texture) - max(height, width) + 1, 2).unbind(1)
    rows, columns = (start[:, None] + torch.arange(n, device=device) for start, n in ((top, height), (left, width)))
    dark = 1 - (draws / "brightness").uniform(1, 1, 1, low=DARKEST, high=LIGHTEST)
    light = 1 - dark * (1 - GRAIN * texture[rows[:, :, None], columns[:, None]][:, None])
    tint = torch.tensor(TINT if channels == 3 else (1.0,), dtype=light.dtype, device=device)
    return (light * tint[:, None, None]).clamp_(0, 1)


@lru_cache(maxsize=4)
def _texture(view: int) -> Float[Tensor, "side side"]:
    """Return clouds and needles, four images wide and high, of mean 0 and deviation 1; always the same."""
    side, draws = 4 * view, SampleRandom(Key(0) / "frost", torch.zeros(1, dtype=torch.int64))
    start = (draws / "start").uniform(2, NEEDLES * view, 1, high=side)[0]
    angle = (draws / "angle").uniform(NEEDLES * view, 1, high=2 * pi)[0]
    distance = torch.arange(view // 2).double()
    row, column = (start + distance * torch.stack((angle.sin(), angle.cos()))).floor().long() % side
    bright = torch.exp(-0.5 * (distance / (view / 12)) ** 2) * (draws / "bright").uniform(NEEDLES * view, 1)[0]
    needles = torch.zeros(side * side, dtype=torch.float64)
    needles.scatter_reduce_(0, (side * row + column).flatten(), bright.flatten(), "amax")
    needles = smoothed(needles.view(1, 1, side, side), view / 256, view // 64, "reflect")[0, 0]
    return _standard(_standard(diamond_square(side, 1.3, draws)[0]) / 3 + _standard(needles))


def _standard(layer: Float[Tensor, "H W"]) -> Float[Tensor, "H W"]:
    return (layer - layer.mean()) / layer.std()
