"""The model under test, the findings of checks, and the tests of significance that they use."""

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
"""The most images in one forward pass."""
SURPRISING = 1e-4
"""A count is a finding if chance alone gives one as high with a lower probability than this."""
HARMLESS = 0.02
"""Even in sound evaluations attacks fail on this share of images: a finding has to exceed it."""


@dataclass(frozen=True)
class Finding:
    """A reason to doubt the numbers of an evaluation."""

    check: str
    says: str
    """One sentence, with the numbers."""
    sure: Literal["certain", "likely", "possible"]
    do: str
    """The advice."""


@dataclass(frozen=True, eq=False)
class ModelUnderTest:
    """A classifier as it is evaluated, and some of the images of the evaluation.

    logits  function from images (N C H W) to logits (N K), in the mode, precision and route of the evaluation
    x, y    images and labels, drawn at random, because the first ones of a sorted set may all be of one class
    ball    the ball of the evaluation's attack
    key     seeds the random numbers of the checks
    net     the network behind `logits`, or None: checks inspect its mode, batch norms, normalisation and routes
    route   the route of the network that `logits` takes
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
        """Return the model with the first n images."""
        return replace(self, x=self.x[:n], y=self.y[:n])

    def subset(self, which: Int[Tensor, "n"] | Bool[Tensor, "N"] | slice) -> ModelUnderTest:
        """Return the model with some of the images."""
        return replace(self, x=self.x[which], y=self.y[which])

    def through_route(self, route: str) -> ModelUnderTest:
        """Return the model through another route of `net`, which is then called directly."""
        return replace(self, logits=lambda x: self.net(x, route), route=route)

    @torch.no_grad()
    def answers(self, x: Float[Tensor, "n C H W"]) -> Float[Tensor, "n K"]:
        """Return the logits of images, computed in chunks."""
        return torch.cat([self.logits(chunk) for chunk in x.split(CHUNK)])

    @cached_property
    def clean(self) -> Float[Tensor, "N K"]:
        """Logits of the clean images."""
        return self.answers(self.x)

    @cached_property
    def is_correct(self) -> Bool[Tensor, "N"]:
        """A mask of the clean images that are classified correctly."""
        return ~wrong(self.clean, self.y)

    def correct_on(self, x: Float[Tensor, "N C H W"]) -> Bool[Tensor, "N"]:
        """Return which of the perturbed images x are classified correctly."""
        return ~wrong(self.answers(x), self.y)


def binomial_tail(k: int, n: int, p: float) -> float:
    """Return P(X ≥ k) for X ~ B(n, p), as a sum over its terms, for n up to about 1,000."""
    return sum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


def exceeds_share(k: int, n: int, share: float = HARMLESS) -> bool:
    """Return whether k of n is significantly more than the fraction `share`."""
    return binomial_tail(k, n, share) < SURPRISING


def is_better(gained: int, lost: int, tried: int = 1) -> bool:
    """Return whether variant A is better than B on the same images: the one-sided sign test (McNemar 1947).

    gained, lost  the numbers of images that only A gets right, and that only B does
    tried         the number of variants that were tried (Bonferroni)
    """
    return binomial_tail(gained, gained + lost, 0.5) * tried < SURPRISING
