"""Plasma clouds by the diamond-square algorithm, for fog and ice."""

from __future__ import annotations

import torch
from torch import Tensor

from unshaken.base.sample_rng import SampleRandom
from unshaken.base.types import Float


def diamond_square(side: int, decay: float, draws: SampleRandom) -> Float[Tensor, "N side side"]:
    """Return plasma in [0, 1] that is periodic: a point midway between four others is their mean plus noise.

    `side` is a power of two. The noise is w² times a uniform draw in ± 1, and w is divided by `decay` whenever the step
    is halved. The published files have w² too, so their plasma is smoother than `decay` says.
    """
    count, step, w = len(draws.index), side, 1.0
    plasma = torch.zeros(count, side, side, dtype=torch.float64, device=draws.index.device)

    def midway(four: Tensor, name: str) -> Tensor:
        return four / 4 + (draws / name / step).uniform(*four.shape[1:], low=-w * w, high=w * w)

    while step >= 2:
        half, n = step // 2, side // step
        corner = plasma[:, ::step, ::step]
        below = corner + corner.roll(-1, 1)
        plasma[:, half::step, half::step] = midway(below + below.roll(-1, 2), "centre")
        centre = plasma[:, half::step, half::step]
        across = corner + corner.roll(-1, 2) + centre + centre.roll(1, 1)
        along = corner + corner.roll(-1, 1) + centre + centre.roll(1, 2)
        assert across.shape == (count, n, n)
        plasma[:, ::step, half::step] = midway(across, "across")
        plasma[:, half::step, ::step] = midway(along, "along")
        step, w = half, w / decay
    plasma -= plasma.amin((1, 2), keepdim=True)
    return plasma / plasma.amax((1, 2), keepdim=True)
