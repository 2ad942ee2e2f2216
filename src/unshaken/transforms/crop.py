"""Random crops, drawn for a batch at once and resampled by two matrix products.

A resampled image is R x Cᵀ. R holds the weights of each output row on the rows of the image, and C those of each output
column. The weights are those of PIL and of interpolate(..., antialias=True). Each row has few of them, and they are
computed for all samples before any pixel is read.
"""

from __future__ import annotations

from math import ceil, log
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from unshaken.base.types import Bool, Float, Int

Filter = Literal["bicubic", "bilinear"]

TRIES = 10
"""Boxes drawn for an image before the largest centred one is taken, as in torchvision."""


class Boxes(NamedTuple):
    """One box for each sample, in whole pixels."""

    top: Int[Tensor, "N"]
    left: Int[Tensor, "N"]
    height: Int[Tensor, "N"]
    width: Int[Tensor, "N"]


def random_boxes(
    count: int, size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], rng: Generator
) -> Boxes:
    """Draw the boxes of torchvision's RandomResizedCrop, for images of `size` (H, W).

    The area is uniform in `scale`, as a fraction of the image. Width / height is log-uniform in `ratio`.
    """
    height, width = size
    area = height * width * _uniform(rng, *scale, count, TRIES)
    shape = _uniform(rng, log(ratio[0]), log(ratio[1]), count, TRIES).exp()
    return fit_boxes(size, area, shape, _uniform(rng, 0, 1, count, 2), ratio)


def fit_boxes(
    size: tuple[int, int],
    area: Float[Tensor, "N tries"],
    shape: Float[Tensor, "N tries"],
    position: Float[Tensor, "N 2"],
    ratio: tuple[float, float],
) -> Boxes:
    """Return for each sample the first box of the given areas and shapes that fits into the image.

    Where none fits it is the largest centred box whose width / height lies in `ratio`. `position` is in [0, 1), from
    the top left to the bottom right of the positions that keep the box inside.
    """
    H, W = size
    w = (area * shape).sqrt().round().long()
    h = (area / shape).sqrt().round().long()
    fits = (w > 0) & (w <= W) & (h > 0) & (h <= H)

    first = fits.long().argmax(1, keepdim=True)
    any_fits = fits.any(1)
    h_all, w_all = _largest(size, ratio)
    h = torch.where(any_fits, h.gather(1, first).squeeze(1), h_all)
    w = torch.where(any_fits, w.gather(1, first).squeeze(1), w_all)
    top = torch.where(any_fits, (position[:, 0] * (H - h + 1)).long(), (H - h_all) // 2)
    left = torch.where(any_fits, (position[:, 1] * (W - w + 1)).long(), (W - w_all) // 2)
    return Boxes(top, left, h, w)


def _largest(size: tuple[int, int], ratio: tuple[float, float]) -> tuple[int, int]:
    height, width = size
    if width / height < ratio[0]:
        return round(width / ratio[0]), width
    if width / height > ratio[1]:
        return height, round(height * ratio[1])
    return height, width


def resized_crop(
    image: Float[Tensor, "N C H W"], boxes: Boxes, size: tuple[int, int], filter: Filter = "bicubic"
) -> Float[Tensor, "N C h w"]:
    """Resize the box of each sample to `size`, clipped to [0, 1] because the bicubic filter overshoots.

    It equals interpolate(box, size, mode=filter, antialias=True): pixels outside the box do not count, and a box larger
    than `size` is smoothed before it is sampled.
    """
    return resampled(image, *windows(boxes, (image.shape[2], image.shape[3]), size, filter))


class Taps(NamedTuple):
    """The few source pixels of a row or column that each target pixel is made of, and their weights, which sum to 1."""

    pixel: Int[Tensor, "N target taps"]
    weight: Float[Tensor, "N target taps"]

    def matrix(self, source: int) -> Float[Tensor, "N target source"]:
        """Return the weights as a matrix on a line of `source` pixels."""
        if self.weight.device.type != "cpu":
            return self.matrix_by_gather(source)
        N, target, taps = self.weight.shape
        padded = torch.zeros((N, target, source + taps), device=self.weight.device)  # some taps lie outside the image
        return padded.scatter_(2, self.pixel, self.weight)[:, :, :source]

    def matrix_by_gather(self, source: int) -> Float[Tensor, "N target source"]:
        """Return the same without a scatter. On a GPU a deterministic scatter would wait for the device."""
        tap = torch.arange(source, device=self.weight.device) - self.pixel[:, :, :1]
        last = self.weight.shape[2] - 1
        weight = self.weight.gather(2, tap.clamp(0, last))
        return torch.where((tap >= 0) & (tap <= last), weight, 0)


def windows(
    boxes: Boxes,
    source: tuple[int, int],
    target: tuple[int, int],
    filter: Filter,
    mirrored: Bool[Tensor, "N"] | None = None,
) -> tuple[Taps, Taps]:
    """Return the taps of rows and columns that resize the box of each sample, and flip those that are `mirrored`."""
    rows = resampling(boxes.top, boxes.height, source[0], target[0], filter)
    return rows, resampling(boxes.left, boxes.width, source[1], target[1], filter, mirrored)


def resampled(image: Float[Tensor, "N C H W"], rows: Taps, columns: Taps) -> Float[Tensor, "N C h w"]:
    """Resample by both, clipped to [0, 1]."""
    N, C, H, W = image.shape
    # columns are one flat product; the weights of rows, smaller than an image, are broadcast over channels
    x = (image.reshape(N, C * H, W) @ columns.matrix(W).mT).view(N, C, H, -1)
    return (rows.matrix(H)[:, None] @ x).clamp_(0, 1)


def resampling(
    start: Int[Tensor, "N"],
    length: Int[Tensor, "N"],
    source: int,
    target: int,
    filter: Filter,
    mirrored: Bool[Tensor, "N"] | None = None,
) -> Taps:
    """Return taps that resize pixels start .. start + length of `source` to `target`; `mirrored` reverses them."""
    table = _taps(source, target, filter, start.device)
    if mirrored is not None:
        table, length = Taps(*(torch.cat((taps, taps.flip(1))) for taps in table)), length + source * mirrored
    return Taps(table.pixel[length - 1] + start[:, None, None], table.weight[length - 1])


def _taps(source: int, target: int, filter: Filter, device: torch.device) -> Taps:
    """Return the taps of boxes that start at 0, indexed by length − 1: there are fewer lengths than samples.

    Some taps, of weight 0, lie beyond the end of their box and perhaps of the image, by fewer pixels than there are
    taps.
    """
    if filter not in REACH:
        raise ValueError(f"the filters are 'bicubic' and 'bilinear', not {filter!r}")
    length = torch.arange(1, source + 1, device=device)[:, None, None]
    scale = length / target
    wide = scale.clamp(min=1)  # antialias: the filter grows with the box
    centre = scale * (torch.arange(target, device=device)[:, None] + 0.5) - 0.5
    taps = min(source, ceil(2 * REACH[filter] * max(1, source / target)))
    first = (centre - REACH[filter] * wide).ceil_().clamp_(min=0)
    pixel = first + torch.arange(taps, device=device)
    weight = _height((pixel - centre).abs_().div_(wide), filter).mul_(pixel < length)
    return Taps(pixel.long(), weight.div_(weight.sum(-1, keepdim=True)))


REACH = {"bicubic": 2, "bilinear": 1}
"""Distance in target pixels beyond which a filter is 0."""


def _height(distance: Tensor, filter: Filter) -> Tensor:
    """Return the filter at a distance in target pixels: a triangle, or Keys' cubic with a = -1/2, as in PIL."""
    near = (1 - distance).clamp_(min=0)
    if filter == "bilinear":
        return near
    far = (2 - distance).clamp_(min=0)  # the cubic in powers of the distances to 1 and to 2, where its two pieces end
    return near.square().mul_(1 - 2 * near).add_(far.square().mul_(far - 1), alpha=0.5)


def padded_crop(
    image: Float[Tensor, "N C H W"], top: Int[Tensor, "N"], left: Int[Tensor, "N"], padding: int
) -> Float[Tensor, "N C H W"]:
    """Zero-pad all sides, then crop to the size of the image at (top, left), each in 0 .. 2 padding."""
    H, W = image.shape[2:]
    windows = F.pad(image, (padding,) * 4).unfold(2, H, 1).unfold(3, W, 1)
    return windows[torch.arange(len(image), device=image.device), :, top, left]


def flip(image: Float[Tensor, "N C H W"], flipped: Bool[Tensor, "N"]) -> Float[Tensor, "N C H W"]:
    """Mirror the `flipped` samples from left to right."""
    return torch.where(flipped[:, None, None, None], image.flip(-1), image)


def _uniform(rng: Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=rng, device=rng.device)
