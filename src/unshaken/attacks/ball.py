"""Threat models: l∞, l2 and l1 balls around an image, inside [0, 1]."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import inf, isfinite
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from unshaken.base.ranges import Positive, Share, ranged
from unshaken.base.shared_batch import drawn
from unshaken.base.types import Float

PIXELS = (-3, -2, -1)  # the last three axes are one image; any number of axes may precede them


@dataclass(frozen=True)
@ranged
class Ball(ABC):
    """All valid images within distance eps of an image.

    eps is in units of a [0, 1] pixel: the usual l∞ budget is 8/255, not 8.
    """

    eps: Positive
    norm: ClassVar[str]
    """The norm in words."""
    power: ClassVar[float]
    """The p of the lp norm."""

    def __post_init__(self) -> None:
        if not (isfinite(self.eps) and self.eps > 0):
            raise ValueError(f"eps is a positive number, such as 8/255, not {self.eps}")

    @abstractmethod
    def sample(self, x: Float[Tensor, "... C H W"], rng: torch.Generator) -> Float[Tensor, "... C H W"]:
        """Return a uniform draw from the ball, clipped to valid pixels."""

    @abstractmethod
    def ascend(self, x_adv: Tensor, grad: Tensor, step_size: float | Tensor) -> Tensor:
        """Return the point at distance step_size in the direction that raises the loss fastest, without projecting it.

        step_size  one for all images, or one for each, of shape (... 1 1 1)
        """

    @abstractmethod
    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Project onto B_ε[x] ∩ [0, 1]: the result is within eps of x, and a valid image."""

    @abstractmethod
    def distance(self, x_adv: Tensor, x: Tensor) -> Float[Tensor, "..."]:
        """Return the distance of each image, in the norm of the ball."""


@dataclass(frozen=True)
@ranged
class Linf(Ball):
    """The l∞ ball: every pixel changes by eps at most."""

    eps: Positive = 8 / 255
    """Largest change of a pixel, in units of a [0, 1] pixel."""
    norm: ClassVar[str] = "l∞"
    power: ClassVar[float] = inf

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eps > 1:
            spans = f"an l∞ eps of {self.eps:g} spans all pixels, which lie in [0, 1]"
            raise ValueError(f"{spans}: did you mean {self.eps:g}/255?")

    def sample(self, x: Tensor, rng: torch.Generator) -> Tensor:
        noise = drawn(x, -4, lambda to: to.uniform_(-self.eps, self.eps, generator=rng))
        return self.project(x + noise, x)

    def ascend(self, x_adv: Tensor, grad: Tensor, step_size: float | Tensor) -> Tensor:
        return x_adv + step_size * grad.sign()

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        return x_adv.clamp(x - self.eps, x + self.eps).clamp(0, 1)

    def distance(self, x_adv: Tensor, x: Tensor) -> Tensor:
        return (x_adv - x).abs().amax(PIXELS)


@dataclass(frozen=True)
@ranged
class L2(Ball):
    """The l2 ball: the Euclidean distance over all pixels of an image is eps at most."""

    eps: Positive = 0.5
    """Largest Euclidean distance over all pixels, in units of a [0, 1] pixel."""
    norm: ClassVar[str] = "l2"
    power: ClassVar[float] = 2

    def sample(self, x: Tensor, rng: torch.Generator) -> Tensor:
        direction = drawn(x, -4, lambda to: to.normal_(generator=rng))
        one_each = torch.empty(x.shape[:-3], device=x.device)
        radius = drawn(one_each, -1, lambda to: to.uniform_(generator=rng)) ** (1 / x.shape[-3:].numel())
        return self.project(x + self.eps * _column(radius) * _unit(direction), x)

    def ascend(self, x_adv: Tensor, grad: Tensor, step_size: float | Tensor) -> Tensor:
        return x_adv + step_size * _unit(grad)

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        delta = x_adv - x
        norm = _column(self.distance(x_adv, x))
        # clipping to valid pixels moves no pixel away from x, so the result stays in the ball
        return (x + delta * (self.eps / norm.clamp_min(self.eps))).clamp(0, 1)

    def distance(self, x_adv: Tensor, x: Tensor) -> Tensor:
        return torch.linalg.vector_norm(x_adv - x, dim=PIXELS)


@dataclass(frozen=True)
@ranged
class L1(Ball):
    """The l1 ball: the changes of all pixels add up to eps at most, so that few pixels may change by much."""

    eps: Positive = 12.0
    """Largest sum of the changes over all pixels, in units of a [0, 1] pixel."""
    share: Share = 0.01
    """Share of the pixels that a step changes: those with the largest gradient, all by the same amount."""
    norm: ClassVar[str] = "l1"
    power: ClassVar[float] = 1

    def sample(self, x: Tensor, rng: torch.Generator) -> Tensor:
        # n of n + 1 exponential numbers, divided by the sum of all, are uniform in a corner of the ball
        to_draw = torch.empty((*x.shape[:-3], x.shape[-3:].numel() + 1), device=x.device)
        draws = drawn(to_draw, -2, lambda to: to.exponential_(generator=rng))
        sizes = (draws[..., :-1] / draws.sum(-1, keepdim=True)).view(x.shape)
        even = torch.empty(x.shape, device=x.device)
        signs = drawn(even, -4, lambda to: to.uniform_(generator=rng)).sub(0.5).sign()
        return self.project(x + (self.eps * sizes * signs).to(x.dtype), x)

    def ascend(self, x_adv: Tensor, grad: Tensor, step_size: float | Tensor) -> Tensor:
        return x_adv + step_size * sparse_direction(grad, self.share)

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Project exactly onto the ball within the valid images (Croce and Hein, ICML 2021, arXiv:2103.01208).

        The nearest point has δ_i = sign(d_i) · clip(|d_i| − λ, 0, r_i), where d = x_adv − x and r_i is the room of a
        pixel up to 0 or 1; λ is 0, or such that Σ|δ_i| = eps. The sum is piecewise linear in λ, with a corner at each
        |d_i| and each |d_i| − r_i.
        """
        d = (x_adv - x).double().flatten(-3)
        room = torch.where(d > 0, 1 - x.flatten(-3).double(), x.flatten(-3).double())
        size = d.abs()
        corners, order = torch.cat([size, (size - room).clamp_min(0)], -1).sort(-1, descending=True)
        slope = torch.where(order < size.shape[-1], 1.0, -1.0).to(d).cumsum(-1)
        steps = (corners[..., :-1] - corners[..., 1:]) * slope[..., :-1]
        sums = torch.cat([torch.zeros_like(steps[..., :1]), steps.cumsum(-1)], -1)  # Σ|δ_i| for λ at each corner
        at = torch.searchsorted(sums, torch.full_like(sums[..., :1], self.eps)).clamp(1, sums.shape[-1] - 1)
        beyond = sums.gather(-1, at) - self.eps
        level = corners.gather(-1, at) + beyond / slope.gather(-1, at - 1).clamp_min(1)
        total = torch.minimum(size, room).sum(-1, keepdim=True)
        level = torch.where(total <= self.eps, 0.0, level).clamp_min(0)
        delta = d.sign() * torch.minimum((size - level).clamp_min(0), room)
        return (x + delta.view(x_adv.shape).to(x.dtype)).clamp(0, 1)

    def distance(self, x_adv: Tensor, x: Tensor) -> Tensor:
        return (x_adv - x).abs().sum(PIXELS)


def sparse_direction(grad: Tensor, share: float | Tensor) -> Tensor:
    """Return the signs of the largest entries of a gradient, divided by their number; the other entries are 0.

    share  of the entries of an image; one for all images, or one for each, of shape (... 1)
    """
    size = grad.abs().flatten(-3)
    n = size.shape[-1]
    first = ((1 - torch.as_tensor(share, device=grad.device)) * n).long().clamp(0, n - 1)
    least = size.sort(-1).values.gather(-1, first.expand(*size.shape[:-1], 1))
    signs = torch.where(size >= least, grad.flatten(-3).sign(), 0.0)
    return (signs / signs.abs().sum(-1, keepdim=True).clamp_min(1)).view(grad.shape).to(grad.dtype)


def _column(per_image: Tensor) -> Tensor:
    return per_image[..., None, None, None]


def _unit(direction: Tensor) -> Tensor:
    """Scale each image to length 1; a zero gradient stays zero."""
    largest = direction.abs().amax(PIXELS, keepdim=True)
    # divided by the largest value first, since squares of 1e-24 would vanish
    direction = torch.where(largest > 0, direction / largest, torch.zeros_like(direction))
    return direction / torch.linalg.vector_norm(direction, dim=PIXELS, keepdim=True).clamp_min(1)


AnyBall = Annotated[Ball, Linf | L2 | L1]
"""A ball around an image. On the command line it is one of these, by name."""
BALLS: dict[str, type[Ball]] = {"Linf": Linf, "L2": L2, "L1": L1}


def ball_of(method: dict[str, Any] | None) -> Ball | None:
    """Return the ball of a method's attack, from a recipe in JSON; None if the method has no attack."""
    for value in (method or {}).values():
        if isinstance(value, dict):
            ball = value.get("ball", {})
            if isinstance(ball, dict) and ball.get("type") in BALLS and isinstance(ball.get("eps"), (int, float)):
                return BALLS[ball["type"]](ball["eps"])
            if (inner := ball_of(value)) is not None:
                return inner
    return None


def refuse_l1(ball: Ball, attack: str) -> None:
    """Raise a ValueError if an attack that has no l1 form is given an l1 ball."""
    if isinstance(ball, L1):
        raise ValueError(f"{attack} has no form for an l1 ball here: use PGD, or --autoattack apgd (l1-APGD)")


def in_words(ball: Ball) -> str:
    """Return a description such as "ε = 8/255 (l∞)"."""
    levels = round(ball.eps * 255)
    size = f"{levels}/255" if levels and abs(ball.eps * 255 - levels) < 1e-6 else f"{ball.eps:g}"
    return f"ε = {size} ({ball.norm})"
