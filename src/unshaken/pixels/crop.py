"""Random crops: boxes and shifts drawn for a batch, images resampled by two matrix products.

A resampled image is R x Cᵀ: R holds the weights of each output row on the image's rows, C those of
each output column. The weights are PIL's, and so are those of interpolate(..., antialias=True).
"""

from __future__ import annotations

from math import log
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from unshaken.base.types import Float, Int

Filter = Literal["bicubic", "bilinear"]

TRIES = 10
"""Boxes drawn for an image before the largest centred one is taken, as in torchvision."""


class Boxes(NamedTuple):
    """One box a sample, in whole pixels."""

    top: Int[Tensor, "N"]
    left: Int[Tensor, "N"]
    height: Int[Tensor, "N"]
    width: Int[Tensor, "N"]


def random_boxes(
    count: int, size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], rng: Generator
) -> Boxes:
    """The boxes of torchvision's RandomResizedCrop, for images of `size` (H, W).

    The area is uniform in `scale` (a fraction of the image), width / height log-uniform in `ratio`.
    """
    height, width = size
    area = height * width * _uniform(rng, *scale, count, TRIES)
    shape = _uniform(rng, log(ratio[0]), log(ratio[1]), count, TRIES).exp()
    return fit_boxes(size, area, shape, _uniform(rng, 0, 1, count, 2), ratio)


def fit_boxes(
    size: tuple[int, int],
    area: Float[Tensor, "N tries"],
    shape: Float[Tensor, "N tries"],
    place: Float[Tensor, "N 2"],
    ratio: tuple[float, float],
) -> Boxes:
    """The first tried (area, shape) of each sample that fits into the image, at `place`.

    Where none fits: the largest centred box whose width / height lies in `ratio`. `place` is in
    [0, 1), from the top left to the bottom right of the positions that keep the box inside.
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
    top = torch.where(any_fits, (place[:, 0] * (H - h + 1)).long(), (H - h_all) // 2)
    left = torch.where(any_fits, (place[:, 1] * (W - w + 1)).long(), (W - w_all) // 2)
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
    """Each sample's box at `size`, in [0, 1] (the bicubic filter overshoots).

    Equal to interpolate(box, size, mode=filter, antialias=True): what lies outside the box does not
    matter, and a box larger than `size` is smoothed before it is sampled.
    """
    N, C, H, W = image.shape
    rows = resampling(boxes.top, boxes.height, H, size[0], filter)
    columns = resampling(boxes.left, boxes.width, W, size[1], filter)
    # one flat product for the columns; the rows' weights, smaller than an image, are broadcast over its channels
    resampled = (image.reshape(N, C * H, W) @ columns.mT).view(N, C, H, size[1])
    return (rows[:, None] @ resampled).clamp_(0, 1)


def resampling(
    start: Int[Tensor, "N"], length: Int[Tensor, "N"], source: int, target: int, filter: Filter
) -> Float[Tensor, "N target source"]:
    """Weights that spread pixels start .. start + length of `source` over `target` pixels; each row sums to 1."""
    scale = length[:, None, None] / target
    pixel = torch.arange(source, device=start.device) - start[:, None, None] + 0.5
    centre = scale * (torch.arange(target, device=start.device)[:, None] + 0.5)
    distance = (pixel - centre).abs_() / scale.clamp(min=1)  # antialias: the filter grows with the box
    taps = _taps(distance, filter) * ((pixel > 0) & (pixel < length[:, None, None]))
    return taps / taps.sum(-1, keepdim=True)


def _taps(distance: Tensor, filter: Filter) -> Tensor:
    """The filter's height at a distance in target pixels: a triangle, or Keys' cubic with a = -1/2 (as in PIL)."""
    if filter == "bilinear":
        return (1 - distance).clamp_(min=0)
    if filter == "bicubic":  # the cubic in powers of what is left to 1 and to 2, where its two pieces end
        near, far = (1 - distance).clamp_(min=0), (2 - distance).clamp_(min=0)
        return near.square().mul_(1 - 2 * near).add_(far.square().mul_(far - 1), alpha=0.5)
    raise ValueError(f"the filters are 'bicubic' and 'bilinear', not {filter!r}")


def padded_crop(
    image: Float[Tensor, "N C H W"], top: Int[Tensor, "N"], left: Int[Tensor, "N"], padding: int
) -> Float[Tensor, "N C H W"]:
    """Zero-pad all sides, then cut the image's own size at (top, left), each in 0 .. 2 padding."""
    N, C, H, W = image.shape
    padded = F.pad(image, (padding,) * 4)
    rows = top[:, None] + torch.arange(H, device=image.device)
    columns = left[:, None] + torch.arange(W, device=image.device)
    band = padded.gather(2, rows[:, None, :, None].expand(N, C, H, W + 2 * padding))
    return band.gather(3, columns[:, None, None, :].expand(N, C, H, W))


def flip(image: Float[Tensor, "N C H W"], chosen: Tensor) -> Float[Tensor, "N C H W"]:
    """Left and right exchanged in the chosen (N) samples."""
    return torch.where(chosen[:, None, None, None], image.flip(-1), image)


def _uniform(rng: Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=rng, device=rng.device)
