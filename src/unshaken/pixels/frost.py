"""Ice on a window: a texture drawn here, in place of the photographs of CIFAR-10-C's and ImageNet-C's frost."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from unshaken.base.draws import Draws
from unshaken.base.keys import Key
from unshaken.base.types import Float
from unshaken.pixels.blur import streaked
from unshaken.pixels.plasma import diamond_square

COLOUR = (0.78, 0.9, 1.0)
"""Of ice in full light; an image of one channel gets its middle."""
NEEDLES = 9
"""Directions in which crystals grow."""


def ice(channels: int, height: int, width: int, draws: Draws) -> Float[Tensor, "N C height width"]:
    """A window of the texture at a place of its own for each sample; beyond its edge the texture begins again."""
    device = draws.index.device
    texture = _texture(1 << (max(height, width) - 1).bit_length()).to(device)
    top, left = (draws / "place").integers(0, len(texture), 2).unbind(1)
    rows, columns = (
        (start[:, None] + torch.arange(n, device=device)) % len(texture)
        for start, n in ((top, height), (left, width))
    )
    colour = torch.tensor(COLOUR if channels == 3 else COLOUR[1:2], dtype=texture.dtype, device=device)
    return texture[rows[:, :, None], columns[:, None]][:, None] * colour[:, None, None]


@lru_cache(maxsize=4)
def _texture(view: int) -> Float[Tensor, "side side"]:
    """The same in every program: four views long and high, whose details are parts of a view."""
    side = 4 * view
    draws = Draws(Key(0) / "frost", torch.arange(NEEDLES))
    cloud = diamond_square(side, 1.3, draws)[0]
    grain = ((draws / "grain").uniform(1, side, side) > 0.985).double()
    angle = (torch.arange(NEEDLES) + 0.3) * (360 / NEEDLES)
    needles = streaked(grain, angle.double(), view / 3, view / 8)
    needles = needles.amax((0, 1))
    needles = (needles / needles.quantile(0.98)).clamp(max=1)
    return 0.15 + 0.45 * cloud + 0.4 * needles
