"""Threat models: l∞ and l2 balls around an image, inside [0, 1]."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import isfinite
from typing import Annotated, Any

import torch
from torch import Tensor

from unshaken.base.ranges import Positive, ranged
from unshaken.base.types import Float

PIXELS = (-3, -2, -1)  # the last three axes are one image; any number of axes may precede them


@dataclass(frozen=True)
@ranged
class Ball(ABC):
    """All valid images within distance eps of an image.

    eps is in units of a [0, 1] pixel: the usual l∞ budget is 8/255, not 8.
    """

    eps: Positive

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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eps > 1:
            spans = f"an l∞ eps of {self.eps:g} spans all pixels, which lie in [0, 1]"
            raise ValueError(f"{spans}: did you mean {self.eps:g}/255?")

    def sample(self, x: Tensor, rng: torch.Generator) -> Tensor:
        noise = torch.empty_like(x).uniform_(-self.eps, self.eps, generator=rng)
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

    def sample(self, x: Tensor, rng: torch.Generator) -> Tensor:
        direction = torch.empty_like(x).normal_(generator=rng)
        radius = torch.empty(x.shape[:-3], device=x.device).uniform_(generator=rng) ** (1 / x.shape[-3:].numel())
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


def _column(per_image: Tensor) -> Tensor:
    return per_image[..., None, None, None]


def _unit(direction: Tensor) -> Tensor:
    """Scale each image to length 1; a zero gradient stays zero."""
    largest = direction.abs().amax(PIXELS, keepdim=True)
    # divided by the largest value first, since squares of 1e-24 would vanish
    direction = torch.where(largest > 0, direction / largest, torch.zeros_like(direction))
    return direction / torch.linalg.vector_norm(direction, dim=PIXELS, keepdim=True).clamp_min(1)


AnyBall = Annotated[Ball, Linf | L2]
"""A ball around an image. On the command line it is one of these, by name."""
BALLS: dict[str, type[Ball]] = {"Linf": Linf, "L2": L2}


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


def in_words(ball: Ball) -> str:
    """Return a description such as "ε = 8/255 (l∞)"."""
    levels = round(ball.eps * 255)
    size = f"{levels}/255" if levels and abs(ball.eps * 255 - levels) < 1e-6 else f"{ball.eps:g}"
    return f"ε = {size} ({'l∞' if isinstance(ball, Linf) else 'l2'})"
