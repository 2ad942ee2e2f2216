"""Images that look real to a corruption: a spectrum that falls as 1 / f, edges, and colours that go together."""

import torch

from unshaken.base.rng import Key


def scenes(count: int, channels: int = 3, side: int = 32) -> torch.Tensor:
    """(count channels side side) float32 in [0, 1], multiples of 1/255."""
    rng = Key(7).on("cpu")
    frequency = torch.hypot(torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)).clamp(min=1 / side)
    noise = torch.randn(count, channels + 1, side, side, generator=rng)
    clouds = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency**1.3, s=(side, side))
    clouds /= clouds.std((2, 3), keepdim=True)
    x = 0.5 + 0.17 * clouds[:, -1:] + 0.06 * clouds[:, :-1]
    corner = (side * torch.rand(count, 2, 2, generator=rng)).long().sort(-1).values
    position = torch.arange(side)
    row, column = ((position >= c[:, :1]) & (position < c[:, 1:]) for c in corner.unbind(1))
    inside = (row[:, :, None] & column[:, None])[:, None]
    x = torch.where(inside, 0.4 * x + 0.6 * torch.rand(count, channels, 1, 1, generator=rng), x)
    return (255 * x.clamp(0, 1)).round() / 255
