"""Noise: Gaussian, shot, impulse and speckle."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from unshaken.base.sample_rng import SampleRandom
from unshaken.base.types import Float


def gaussian_noise(x: Float[Tensor, "N C H W"], draws: SampleRandom, deviation: float) -> Float[Tensor, "N C H W"]:
    """Return x + σ n, with n normal for every value: sensor noise in poor light."""
    return x + deviation * draws.normal(*x.shape[1:])


def speckle_noise(x: Float[Tensor, "N C H W"], draws: SampleRandom, deviation: float) -> Float[Tensor, "N C H W"]:
    """Return x + σ x n, with n normal for every value: noise that grows with the light."""
    return x + deviation * x * draws.normal(*x.shape[1:])


def shot_noise(x: Float[Tensor, "N C H W"], draws: SampleRandom, photons: float) -> Float[Tensor, "N C H W"]:
    """Return Poisson(x photons) / photons, where `photons` is the mean number that makes white.

    The draw inverts the Poisson distribution function. The tables of the 256 levels, each with its level added, form
    one ascending list, in which a single search finds the count of every pixel.
    """
    table = _poisson(photons)
    level = (255 * x).round_()
    position = (level + draws.uniform(*x.shape[1:])).contiguous()
    index = torch.searchsorted(table.flatten().to(x.device), position, right=True)
    return (index - table.shape[1] * level) / photons


@lru_cache(maxsize=8)
def _poisson(photons: float) -> Float[Tensor, "256 K"]:
    """Return the probability of at most k photons at level v, plus v; the tail after the last k is below 2⁻⁵³."""
    count = torch.arange(int(photons + 10 * photons**0.5 + 20)).double()
    level = torch.arange(256).double()[:, None]
    mean = photons * level / 255
    share = torch.exp(torch.xlogy(count, mean) - mean - torch.lgamma(count + 1))
    return share.cumsum(1).clamp(max=1) + level


def impulse_noise(x: Float[Tensor, "N C H W"], draws: SampleRandom, share: float) -> Float[Tensor, "N C H W"]:
    """Replace a share of values by 0 or 1, equally likely, in each channel independently (salt and pepper)."""
    u = draws.uniform(*x.shape[1:])
    return torch.where(u < share, (u < share / 2).to(x.dtype), x)
