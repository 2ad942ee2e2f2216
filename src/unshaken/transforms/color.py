"""Colour jitter: brightness, contrast, saturation and hue, in a random order.

Images are floats in [0, 1]. The definitions are torchvision's, with PIL's luma y = 0.299 r + 0.587 g + 0.114 b:

    brightness  f x               contrast  f x + (1 - f) mean(y)
    saturation  f x + (1 - f) y   hue       h -> h + shift in HSV, hues counted in turns

Each is clipped to [0, 1]. An image of one channel is its own luma, so saturation, hue and grey do not change it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from unshaken.base.types import Bool, Float, Int

BRIGHTNESS, CONTRAST, SATURATION = 0, 1, 2
LUMA = 0.299, 0.587, 0.114


def luma(image: Float[Tensor, "N C H W"]) -> Float[Tensor, "N 1 H W"]:
    """Return the luma, as PIL defines it. ValueError unless there are 1 or 3 channels."""
    if image.shape[1] == 1:
        return image
    if image.shape[1] != 3:
        raise ValueError(f"colours need images of 1 or 3 channels, not {image.shape[1]}")
    r, g, b = image.split(1, dim=1)
    return (LUMA[0] * r).add_(g, alpha=LUMA[1]).add_(b, alpha=LUMA[2])


def grey(image: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
    """Return the luma in every channel."""
    return luma(image).expand_as(image)


def brightness(image: Float[Tensor, "N C H W"], factor: Float[Tensor, "N"]) -> Float[Tensor, "N C H W"]:
    """Multiply by `factor`: 0 is black, 1 leaves the image, > 1 is brighter."""
    return (image * _per_sample(factor)).clamp_(0, 1)


def contrast(image: Float[Tensor, "N C H W"], factor: Float[Tensor, "N"]) -> Float[Tensor, "N C H W"]:
    """Blend with the mean grey of the image: 0 is that grey, 1 leaves the image, > 1 is more contrast."""
    return _lerp(luma(image).mean((1, 2, 3), keepdim=True), image, factor)


def saturation(image: Float[Tensor, "N C H W"], factor: Float[Tensor, "N"]) -> Float[Tensor, "N C H W"]:
    """Blend with the grey of each pixel: 0 is grey, 1 leaves the image, > 1 is more colourful."""
    return image if image.shape[1] == 1 else _lerp(luma(image), image, factor)


def hue(image: Float[Tensor, "N C H W"], shift: Float[Tensor, "N"]) -> Float[Tensor, "N C H W"]:
    """Turn every hue by `shift` turns; value and saturation stay.

    Let m be the smallest channel and c the chroma. The hue h, in sixths of a turn, is  1 + (g + b - r - m) / c  away
    from red, towards green if g > b. The channels at hue h are m + c times the trapezia below, which are 1 within a
    sixth of their own hue and 0 beyond two. This is HSV with its six cases in one formula, without a branch per pixel.
    """
    if image.shape[1] == 1:
        return image
    r, g, b = image.unbind(1)
    m = image.amin(1)
    c = image.amax(1).sub_(m)
    safe = c.clamp(min=torch.finfo(c.dtype).tiny)  # a grey pixel has no hue; with a chroma of 0 any will do
    from_red = (g + b).sub_(r).sub_(m).div_(safe).add_(1)
    h = from_red.copysign_(g - b).add_(6 * shift[:, None, None])
    h.sub_((h / 6).floor_(), alpha=6)
    trapezia = torch.empty_like(image)
    r, g, b = trapezia.unbind(1)
    torch.sub(h, 3, out=r).abs_().sub_(1)
    torch.sub(2, torch.sub(h, 2, out=g).abs_(), out=g)
    torch.sub(2, torch.sub(h, 4, out=b).abs_(), out=b)
    return torch.addcmul(m[:, None], c[:, None], trapezia.clamp_(0, 1), out=trapezia)


class ColorJitter(NamedTuple):
    """The colour jitter of each sample: three blends in an order, and the hue after `before` of them."""

    factor: Float[Tensor, "N 3"]  # of BRIGHTNESS, CONTRAST, SATURATION
    shift: Float[Tensor, "N"]  # of the hue, in turns
    order: Int[Tensor, "N 3"]  # a permutation of the three
    before: Int[Tensor, "N"]  # 0 .. 3


def random_color_jitter(count: int, strength: float, turns: float, rng: Generator) -> ColorJitter:
    """Draw factors uniformly in 1 ± strength (not below 0), shifts in ± turns, and one of the 24 orders."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=rng, device=rng.device)

    low = max(0.0, 1 - strength)
    return ColorJitter(
        factor=low + (1 + strength - low) * uniform(count, 3),
        shift=turns * (2 * uniform(count) - 1),
        order=uniform(count, 3).argsort(1),
        before=(4 * uniform(count)).long(),
    )


class Passes(NamedTuple):
    """P blends one after the other for each sample, with the hue after three of them.

    A blend  f x + (1 - f) t  is an affine map of the colours of a pixel: `matrix` times these, plus `mean` times the
    mean colours of the image. t is 0 for brightness, mean(y) for contrast, and y for saturation.
    """

    matrix: Float[Tensor, "N P C C"]
    mean: Float[Tensor, "N P 1 C"]
    shift: Float[Tensor, "N"]


def passes(how: ColorJitter, jittered: Bool[Tensor, "N"], greyed: Bool[Tensor, "N"], channels: int) -> Passes:
    """Return the four operations for `jittered` samples, each in its own order, then grey for `greyed` ones.

    All three blends have one form, so that samples in different orders share a pass. The hue costs as much as several
    blends and is computed once. Each blend has a pass before it and one after it, and one of both is the identity.
    """
    before_hue = torch.arange(3, device=how.order.device) < how.before[:, None]
    active = torch.cat((before_hue, ~before_hue), 1) & jittered[:, None]
    factor = torch.where(active, how.factor.gather(1, how.order).repeat(1, 2), 1)
    factor = torch.cat((factor, (~greyed)[:, None]), 1)[:, :, None, None]
    kind = torch.cat((how.order, how.order, torch.full_like(how.order[:, :1], SATURATION)), 1)[:, :, None, None]
    pure = torch.eye(channels, device=kind.device)  # three pure colours, whose lumas are the weights of the luma
    of_luma = (1 - factor) * luma(pure[:, :, None, None]).flatten()
    matrix = factor * pure + of_luma * (kind == SATURATION)
    return Passes(matrix, of_luma * (kind == CONTRAST), how.shift * jittered)


def apply_color(image: Float[Tensor, "N C H W"], by: Passes) -> Float[Tensor, "N C H W"]:
    """Apply the passes; each blend is clipped to [0, 1]."""
    x = image.flatten(2)
    for done, (matrix, mean) in enumerate(zip(by.matrix.unbind(1), by.mean.unbind(1), strict=True)):
        if done == 3:
            x = hue(x.view_as(image), by.shift).flatten(2)
        x = torch.baddbmm(mean.bmm(x.mean(2, keepdim=True)), matrix, x).clamp_(0, 1)
    return x.view_as(image)


def _lerp(start: Tensor, image: Tensor, factor: Float[Tensor, "N"]) -> Tensor:
    return torch.lerp(start.expand_as(image), image, _per_sample(factor)).clamp_(0, 1)


def _per_sample(value: Tensor) -> Tensor:
    return value[:, None, None, None]
