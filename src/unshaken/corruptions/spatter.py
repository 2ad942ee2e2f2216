"""Spatter on the lens: drops of water with bright edges, or opaque mud."""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from unshaken.base.sample_rng import SampleRandom
from unshaken.base.types import Bool, Float
from unshaken.corruptions.blur import gaussian_blur
from unshaken.transforms.color import luma

WATER = (175 / 255, 238 / 255, 238 / 255)
MUD = (63 / 255, 42 / 255, 20 / 255)
MAX_DISTANCE = 20
"""Distance in pixels from an edge beyond which water is equally deep."""


def spatter(
    x: Float[Tensor, "N C H W"],
    draws: SampleRandom,
    mean: float,
    deviation: float,
    sigma: float,
    least: float,
    amount: float,
    mud: int,
) -> Float[Tensor, "N C H W"]:
    """Add liquid where smoothed noise exceeds `least`.

    For water, `amount` is the most light that it adds. For mud, it is the deviation by which the outline is smoothed;
    mud of less than 0.8 is left out.
    """
    colour = x.new_tensor(MUD if mud else WATER).view(1, 3, 1, 1)
    colour = luma(colour) if x.shape[1] == 1 else colour
    liquid = gaussian_blur(mean + deviation * draws.normal(1, *x.shape[2:]), draws, sigma)
    if mud:
        opaque = gaussian_blur((liquid > least).to(x.dtype), draws, amount)
        return torch.lerp(x, colour.expand_as(x), torch.where(opaque < 0.8, 0, opaque).expand_as(x))
    wet = (255 * torch.where(liquid < least, 0, liquid)).floor_().remainder_(256)
    light = wet * relief(wet)
    return x + amount * light / light.amax((1, 2, 3), keepdim=True).clamp(min=1) * colour


def relief(wet: Float[Tensor, "N 1 H W"]) -> Float[Tensor, "N 1 H W"]:
    """Return the brightness of each pixel, in 0 ... 255, from its distance to the edges of drops, lit from one side."""
    distance = _mean3(chamfer(edges(wet), MAX_DISTANCE))
    height = equalize((distance + 1e-6).floor_())
    lit = F.conv2d(_framed(height), height.new_tensor([[[[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]]]))
    return _mean3(lit.clamp_(0, 255)).round_()


def edges(layer: Float[Tensor, "N 1 H W"], low: float = 50, high: float = 150) -> Bool[Tensor, "N 1 H W"]:
    """Return the Canny edges of an 8-bit layer (IEEE TPAMI 1986), as OpenCV: 3 x 3 Sobel, |dx| + |dy|.

    An edge is a ridge of the gradient above `low` that is connected with one above `high`.
    """
    sobel = layer.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    gradient = F.conv2d(F.pad(layer, (1, 1, 1, 1), mode="replicate"), torch.stack((sobel, sobel.mT))[:, None])
    dx, dy = gradient.split(1, 1)
    steep = dx.abs() + dy.abs()
    near = {(i, j): _beside(steep, i, j) for i, j in product((-1, 0, 1), repeat=2)}
    across = (steep > near[0, -1]) & (steep >= near[0, 1])
    along = (steep > near[-1, 0]) & (steep >= near[1, 0])
    falling = (steep > near[-1, -1]) & (steep > near[1, 1])
    rising = (steep > near[-1, 1]) & (steep > near[1, -1])
    tangent = 13573 / 2**15  # tan 22.5°, and tan 67.5° − 2, in OpenCV's fixed point
    diagonal = torch.where((dx < 0) == (dy < 0), falling, rising)
    ridge = torch.where(dy.abs() > (2 + tangent) * dx.abs(), along, diagonal)
    ridge = torch.where(dy.abs() < tangent * dx.abs(), across, ridge) & (steep > low)
    edge, before = ridge & (steep > high), None
    while before is None or not torch.equal(edge, before):
        before, edge = edge, ridge & (F.max_pool2d(edge.to(layer.dtype), 3, stride=1, padding=1) > 0)
    return edge


def chamfer(edge: Bool[Tensor, "N 1 H W"], most: float) -> Float[Tensor, "N 1 H W"]:
    """Return the distance to the nearest edge, at most `most`, by steps of 1, 1.4 and 2.1969 (Borgefors 1986)."""
    length = {(0, 1): 65536, (1, 1): 91750, (1, 2): 143976}  # in 65,536ths, so that sums are exact
    ahead = {(i, j): length.get((min(abs(i), abs(j)), max(abs(i), abs(j)))) for i, j in product(range(-2, 3), repeat=2)}
    steps = [(i, j, cost) for (i, j), cost in ahead.items() if cost is not None]
    (H, W), far = edge.shape[2:], int(most * 65536)
    distance, before = torch.where(edge, 0, far).int(), None
    while before is None or not torch.equal(distance, before):
        before, framed = distance, F.pad(distance, (2, 2, 2, 2), value=far)
        for i, j, cost in steps:
            distance = torch.minimum(distance, framed[:, :, 2 + i : 2 + i + H, 2 + j : 2 + j + W] + cost)
    return distance.double() / 65536


def equalize(layer: Float[Tensor, "N 1 H W"]) -> Float[Tensor, "N 1 H W"]:
    """Equalise the histogram: each level 0 ... 255 becomes the share of pixels at or below it, without the lowest."""
    level = layer.long().flatten(1)
    count = torch.zeros(len(layer), 256, device=layer.device, dtype=layer.dtype)
    count.scatter_add_(1, level, torch.ones_like(layer).flatten(1))
    lowest = level.amin(1, keepdim=True)
    below = count.gather(1, lowest)
    rest = level.shape[1] - below
    up_to = count @ count.new_ones(256, 256).triu()
    spread = (255 * (up_to - below).gather(1, level) / rest.clamp(min=1)).round()
    return torch.where(rest > 0, spread, lowest.to(layer.dtype)).view_as(layer)


def _mean3(layer: Float[Tensor, "N 1 H W"]) -> Float[Tensor, "N 1 H W"]:
    return F.avg_pool2d(_framed(layer), 3, stride=1)


def _framed(layer: Float[Tensor, "N 1 H W"]) -> Float[Tensor, "N 1 H+2 W+2"]:
    return F.pad(layer, (1, 1, 1, 1), mode="reflect")


def _beside(layer: Tensor, down: int, right: int) -> Tensor:
    """Return for each pixel the value that is `down` and `right` pixels away; 0 outside."""
    H, W = layer.shape[2:]
    return F.pad(layer, (1, 1, 1, 1))[:, :, 1 + down : 1 + down + H, 1 + right : 1 + right + W]
