"""Who is examined, what a check may say, and how surprising a count is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from math import comb
from typing import Literal

import torch
from torch import Tensor, nn

from unshaken.attacks.ball import Ball
from unshaken.attacks.base import wrong
from unshaken.base.rng import Key
from unshaken.base.types import Bool, Float, Int

CHUNK = 64
"""Images at a time."""
SURPRISING = 1e-4
"""A count that chance alone would bring about more rarely than this is a finding."""
HARMLESS = 0.02
"""Sound evaluations do have a few images on which an attack fails. Findings are of more than this share of them."""


@dataclass(frozen=True)
class Finding:
    """Something that makes the numbers of an evaluation doubtful."""

    check: str
    says: str
    """One sentence, with the numbers."""
    sure: Literal["certain", "likely", "possible"]
    do: str
    """What to do about it."""


@dataclass(frozen=True, eq=False)
class ModelUnderTest:
    """A classifier as it is evaluated, and some of the images that it is evaluated on.

    logits  images (N C H W) to logits (N K), in the mode, precision and route in which it is evaluated
    x, y    images and labels, drawn from the whole set: the first ones of a sorted set are of one class
    ball    what the evaluation's adversary may do
    net     the network behind `logits`, if there is one to look into: its mode, batch norms, normalisation and routes
    route   the one of its routes that `logits` takes
    """

    logits: Callable[[Tensor], Tensor]
    x: Float[Tensor, "N C H W"]
    y: Int[Tensor, "N"]
    ball: Ball
    key: Key
    net: nn.Module | None = None
    route: str = "adv"

    def __post_init__(self) -> None:
        if self.x.ndim != 4 or self.y.shape != self.x.shape[:1]:
            raise ValueError(
                f"the checks take images (N C H W) with a label each, not {tuple(self.x.shape)} and "
                f"{tuple(self.y.shape)}"
            )

    def first(self, n: int) -> ModelUnderTest:
        """The same with fewer images."""
        return replace(self, x=self.x[:n], y=self.y[:n])

    def chosen(self, which: Int[Tensor, "n"] | Bool[Tensor, "N"] | slice) -> ModelUnderTest:
        """The same with some of the images."""
        return replace(self, x=self.x[which], y=self.y[which])

    def over(self, route: str) -> ModelUnderTest:
        """The same through another route of the network."""
        return replace(self, logits=lambda x: self.net(x, route), route=route)

    @torch.no_grad()
    def answers(self, x: Float[Tensor, "n C H W"]) -> Float[Tensor, "n K"]:
        return torch.cat([self.logits(part) for part in x.split(CHUNK)])

    @cached_property
    def clean(self) -> Float[Tensor, "N K"]:
        """Logits of the images as they are."""
        return self.answers(self.x)

    @cached_property
    def right(self) -> Bool[Tensor, "N"]:
        """Which images are classified rightly as they are."""
        return ~wrong(self.clean, self.y)

    def correct(self, x: Float[Tensor, "N C H W"]) -> Bool[Tensor, "N"]:
        """The same of what was made of them."""
        return ~wrong(self.answers(x), self.y)


def binomial_tail(k: int, n: int, p: float) -> float:
    """P(X ≥ k) of a binomial X, exactly."""
    return sum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


def significantly_many(k: int, n: int, share: float = HARMLESS) -> bool:
    """Whether k of n is surprisingly many, if no more than `share` of all are like these."""
    return binomial_tail(k, n, share) < SURPRISING


def significantly_more(gained: int, lost: int, looks: int = 1) -> bool:
    """Whether one way is better than another on the same images: the sign test of those on which they differ
    (McNemar 1947), one-sided, for the best of so many looks (Bonferroni)."""
    return binomial_tail(gained, gained + lost, 0.5) * looks < SURPRISING
