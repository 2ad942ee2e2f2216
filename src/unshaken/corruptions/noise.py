"""Four noises: Gaussian, shot, impulse and speckle."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from unshaken.base.sample_rng import SampleRandom
from unshaken.base.types import Float


def gaussian_noise(x: Float[Tensor, "N C H W"], draws: SampleRandom, deviation: float) -> Float[Tensor, "N C H W"]:
    """x + σ n, with n normal in every value: what a sensor adds in poor light."""
    return x + deviation * draws.normal(*x.shape[1:])


def speckle_noise(x: Float[Tensor, "N C H W"], draws: SampleRandom, deviation: float) -> Float[Tensor, "N C H W"]:
    """x + σ x n: noise that grows with the light."""
    return x + deviation * x * draws.normal(*x.shape[1:])


def shot_noise(x: Float[Tensor, "N C H W"], draws: SampleRandom, photons: float) -> Float[Tensor, "N C H W"]:
    """Poisson(x photons) / photons: so many photons make white.

    By inversion of Poisson's distribution function. The tables of the 256 levels, each raised by its level, are one
    ascending list, in which one search finds every pixel's count.
    """
    table = _poisson(photons)
    level = (255 * x).round_()
    place = (level + draws.uniform(*x.shape[1:])).contiguous()
    found = torch.searchsorted(table.flatten().to(x.device), place, right=True)
    return (found - table.shape[1] * level) / photons


@lru_cache(maxsize=8)
def _poisson(photons: float) -> Float[Tensor, "256 K"]:
    """Level v's probability of at most k photons, plus v; beyond the last k lies less than 2⁻⁵³."""
    count = torch.arange(int(photons + 10 * photons**0.5 + 20)).double()
    level = torch.arange(256).double()[:, None]
    lr = photons * level / 255
    share = torch.exp(torch.xlogy(count, lr) - lr - torch.lgamma(count + 1))
    return share.cumsum(1).clamp(max=1) + level


def impulse_noise(x: Float[Tensor, "N C H W"], draws: SampleRandom, share: float) -> Float[Tensor, "N C H W"]:
    """Salt and pepper: the given share of values, each channel on its own, becomes 0 or 1, either equally likely."""
    u = draws.uniform(*x.shape[1:])
    return torch.where(u < share, (u < share / 2).to(x.dtype), x)
