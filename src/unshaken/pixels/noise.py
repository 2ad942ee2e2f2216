"""Four noises: Gaussian, shot, impulse and speckle."""

from __future__ import annotations

import torch
from torch import Tensor

from unshaken.base.draws import Draws
from unshaken.base.types import Float


def gaussian_noise(x: Float[Tensor, "N C H W"], draws: Draws, deviation: float) -> Float[Tensor, "N C H W"]:
    """x + σ n, with n normal in every value: what a sensor adds in poor light."""
    return x + deviation * draws.normal(*x.shape[1:])


def speckle_noise(x: Float[Tensor, "N C H W"], draws: Draws, deviation: float) -> Float[Tensor, "N C H W"]:
    """x + σ x n: noise that grows with the light."""
    return x + deviation * x * draws.normal(*x.shape[1:])


def shot_noise(x: Float[Tensor, "N C H W"], draws: Draws, photons: float) -> Float[Tensor, "N C H W"]:
    """Poisson(x photons) / photons: so many photons make white.

    By inversion of Poisson's distribution function, tabulated for each of the 256 levels of an 8-bit image. With
    level v's table raised by v all tables are one ascending list, in which one search finds each pixel's count.
    """
    most = int(photons + 10 * photons**0.5 + 20)  # beyond which lies less than 2⁻⁵³
    count = torch.arange(most, dtype=x.dtype, device=x.device)
    rate = photons * torch.arange(256, dtype=x.dtype, device=x.device)[:, None] / 255
    log_share = torch.xlogy(count, rate) - rate - torch.lgamma(count + 1)
    share = log_share.exp_().cumsum(1)
    level = (255 * x).round_()
    table = (share.clamp_(max=1) + torch.arange(256, device=x.device)[:, None]).flatten()
    found = torch.searchsorted(table, (level + draws.uniform(*x.shape[1:])).contiguous(), right=True)
    return (found - most * level) / photons


def impulse_noise(x: Float[Tensor, "N C H W"], draws: Draws, share: float) -> Float[Tensor, "N C H W"]:
    """Salt and pepper: the given share of values, each channel on its own, becomes 0 or 1, either equally likely."""
    u = draws.uniform(*x.shape[1:])
    return torch.where(u < share, (u < share / 2).to(x.dtype), x)
