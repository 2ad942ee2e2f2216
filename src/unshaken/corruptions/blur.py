"""Blurs: Gaussian, defocus, frosted glass, motion and zoom."""

from __future__ import annotations

from math import ceil
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from unshaken.base.sample_rng import SampleRandom
from unshaken.base.types import Float, Int

Border = Literal["nearest", "reflect", "mirror"]


def gaussian_blur(x: Float[Tensor, "N C H W"], draws: SampleRandom, sigma: float) -> Float[Tensor, "N C H W"]:
    """Blur by a Gaussian, cut off at 4 σ, with the edge of the image continued."""
    return smoothed(x, sigma, int(4 * sigma + 0.5), "nearest")


def defocus_blur(
    x: Float[Tensor, "N C H W"], draws: SampleRandom, radius: float, alias: float
) -> Float[Tensor, "N C H W"]:
    """Spread each point over a disk, whose edge is smoothed by σ = `alias`; the image is mirrored at its edge."""
    kernel = disk(radius, alias).to(x.device)
    reach = len(kernel) // 2
    rows, columns = (_inside(torch.arange(-reach, n + reach, device=x.device), n, "mirror") for n in x.shape[2:])
    framed = x[:, :, rows[:, None], columns]
    size = framed.shape[2:]
    spread = torch.fft.irfft2(torch.fft.rfft2(framed) * torch.fft.rfft2(kernel, s=size), s=size)
    return spread[:, :, 2 * reach :, 2 * reach :]


def glass_blur(
    x: Float[Tensor, "N C H W"], draws: SampleRandom, sigma: float, delta: float, rounds: int
) -> Float[Tensor, "N C H W"]:
    """Blur, round down to 8 bits, replace pixels by near ones, and blur again.

    The published code means to swap pixels but copies them (it swaps views of NumPy arrays), and so does this.
    """
    x = eight_bits(gaussian_blur(x, draws, sigma))
    for r in range(int(rounds)):
        x = _copy_neighbours(x, draws / r, max(1, round(delta)))
    return gaussian_blur(x, draws, sigma)


def motion_blur(
    x: Float[Tensor, "N C H W"], draws: SampleRandom, radius: float, sigma: float
) -> Float[Tensor, "N C H W"]:
    """Blur along a line within 45° of the horizontal, rounded down to 8 bits as by ImageMagick."""
    return eight_bits(streaked(x, (draws / "angle").uniform(low=-45, high=45), radius, sigma))


def zoom_blur(x: Float[Tensor, "N C H W"], draws: SampleRandom, count: int, step: float) -> Float[Tensor, "N C H W"]:
    """Average the image and `count` enlargements of it, by 1, 1 + step, 1 + 2 step, ..."""
    step = (1 + step) - 1  # as numpy.arange computes it: 26 pixels times 1.25 are then just above 32.5, and give 33
    total = x.clone()
    for k in range(int(count)):
        total += zoomed(x, 1 + k * step)
    return total / (count + 1)


def smoothed(x: Float[Tensor, "N C H W"], sigma: float, radius: int, border: Border) -> Float[Tensor, "N C H W"]:
    """Blur along rows and columns by a Gaussian of deviation sigma, cut off at radius, both in pixels."""
    if radius == 0:
        return x
    rows, columns = (_smoothing(n, sigma, radius, border).to(x.device) for n in x.shape[2:])
    return rows @ (x @ columns.mT)


def _smoothing(side: int, sigma: float, radius: int, border: Border) -> Float[Tensor, "side side"]:
    """Return the matrix of a Gaussian along one axis: row i holds the weights for pixel i."""
    offset = torch.arange(-radius, radius + 1)
    weight = torch.exp(-0.5 * (offset.double() / sigma) ** 2)
    weight = (weight / weight.sum()).expand(side, -1)
    source = _inside(torch.arange(side)[:, None] + offset, side, border)
    return torch.zeros(side, side, dtype=torch.float64).scatter_add_(1, source, weight)


def _inside(position: Int[Tensor, "..."], side: int, border: Border) -> Int[Tensor, "..."]:
    """Return the pixel that continues the image at positions outside it.

    The borders have SciPy's names. nearest: a a|a b c|c c. reflect: b a|a b c|c b. mirror: c b|a b c|b a.
    """
    if border == "nearest":
        return position.clamp(0, side - 1)
    period = 2 * side if border == "reflect" else max(1, 2 * side - 2)
    position = position % period
    return torch.minimum(position, period - (border == "reflect") - position)


def disk(radius: float, alias: float) -> Float[Tensor, "k k"]:
    """Return a disk of sum 1, equal within radius of the centre, smoothed over 3 pixels (5 beyond radius 8)."""
    reach = max(8, ceil(radius))
    square = torch.arange(-reach, reach + 1).double() ** 2
    within = (square[:, None] + square <= radius**2).double()[None, None]
    kernel = smoothed(within / within.sum(), alias, 1 if radius <= 8 else 2, "mirror")[0, 0]
    empty = int((kernel.sum(0) > 1e-12).nonzero()[0])
    return kernel[empty : len(kernel) - empty, empty : len(kernel) - empty]


def streaked(
    x: Float[Tensor, "N C H W"], angle: Float[Tensor, "N"], radius: float, sigma: float
) -> Float[Tensor, "N C H W"]:
    """Blur as ImageMagick's motion blur: half a Gaussian of 2 ⌈radius⌉ + 1 pixels on a line from each pixel.

    `angle` is in degrees, from right to down. The line consists of whole pixels, and the edge of the image is
    continued.
    """
    N, C, H, W = x.shape
    distance = torch.arange(2 * ceil(radius) + 1, dtype=x.dtype, device=x.device)
    weight = torch.exp(-0.5 * (distance / sigma) ** 2)
    weight = weight / weight.sum()
    distance, weight = (
        distance[weight > 1e-7],
        weight[weight > 1e-7],
    )  # the rest is less than a thousandth of a grey level
    angle = torch.deg2rad(angle)[:, None]
    down, right = ((distance * f(angle) - 0.5).ceil().long() for f in (torch.sin, torch.cos))
    flat, total = x.flatten(2), torch.zeros_like(x).flatten(2)
    for k, share in enumerate(weight):
        rows, columns = (
            _inside(torch.arange(n, device=x.device) + to[:, k, None], n, "nearest")
            for n, to in ((H, down), (W, right))
        )
        source = (W * rows[:, :, None] + columns[:, None]).view(N, 1, -1).expand(N, C, -1)
        total += share * flat.gather(2, source)
    return total.view_as(x)


def zoomed(x: Float[Tensor, "N C H W"], factor: float) -> Float[Tensor, "N C H W"]:
    """Enlarge the centre of the image to its size, bilinearly, with corner pixels on corner pixels."""
    if factor == 1:
        return x
    rows, columns = (_zooming(n, factor).to(x.device) for n in x.shape[2:])
    return rows @ (x @ columns.mT)


def _zooming(side: int, factor: float) -> Float[Tensor, "side side"]:
    """Return the matrix of an enlargement along one axis, of ⌈side / factor⌉ pixels, cropped to `side`."""
    source = ceil(side / factor)
    target = round(source * factor)
    position = torch.arange(target).double() * (source - 1) / max(1, target - 1)
    weight = (1 - (position[:, None] - torch.arange(source)).abs()).clamp_(min=0)
    before, cut = (side - source) // 2, (target - side) // 2
    return F.pad(weight, (before, side - source - before))[cut : cut + side]


def _copy_neighbours(x: Float[Tensor, "N C H W"], draws: SampleRandom, delta: int) -> Float[Tensor, "N C H W"]:
    """Replace each inner pixel by one that is -delta ... delta - 1 away along each axis, from bottom right to top left.

    A pixel may be copied after it was replaced itself. Such chains are resolved by doubling, for all pixels at once.
    """
    N, C, H, W = x.shape
    across, down = (draws / "about").integers(-delta, delta, 2, H, W).unbind(1)
    row, column = torch.arange(H, device=x.device)[:, None], torch.arange(W, device=x.device)
    inner = (row > delta) & (row <= H - delta) & (column > delta) & (column <= W - delta)
    here = W * row + column
    source = torch.where(inner, here + W * down + across, here).view(N, -1)
    goes_on = inner.flatten()[source] & (source > here.flatten())
    while goes_on.any():
        beyond = source.gather(1, source), goes_on.gather(1, source)
        source, goes_on = torch.where(goes_on, beyond[0], source), goes_on & beyond[1]
    return x.flatten(2).gather(2, source[:, None].expand(N, C, -1)).view_as(x)


def eight_bits(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Round down to a multiple of 1/255 in [0, 1], as NumPy converts floats to bytes."""
    return (255 * x + 1e-6).floor_().clamp_(0, 255).div_(255)  # 1e-6, because 255 (v / 255) may be just below v
