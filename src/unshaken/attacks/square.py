"""Square: random search by squares of pixels, without gradients."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import cache
from math import sqrt

import torch
from torch import Tensor
from torch.nn.functional import normalize

from unshaken.attacks.ball import AnyBall, Linf, refuse_l1
from unshaken.attacks.base import Attack, Model, cascade, choose
from unshaken.attacks.objective import margin
from unshaken.base.ranges import Count, Natural, Share, ranged
from unshaken.base.rng import Key
from unshaken.base.types import Float

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries, out of 10,000, after which the share of the image that a square covers is halved."""
CHECK_EVERY = 10
"""Queries between two checks for misclassified images; between them the CPU does not wait for the device."""


@dataclass(frozen=True)
@ranged
class Square(Attack):
    """Square attack (Andriushchenko et al., ECCV 2020, arXiv:1912.00049).

    Each query changes a square of the image, and keeps the change if the margin of the label falls. All images of a
    call get the same squares, so that the result for one image depends on the key and not on the other images. Squares
    may touch every edge; the authors' code leaves out the last row and column.
    """

    ball: AnyBall = Linf(8 / 255)
    queries: Natural = 5000
    """Number of queries after that of the random start."""
    part: Share = 0.8
    """Share of the image that the first squares cover (the paper's p_init)."""
    schedule: Count = 10000
    """Number of queries over which squares shrink as in the paper. The default 5000 queries are the first half of it,
    as in AutoAttack."""
    restarts: Count = 1
    """Number of random starts."""

    def __post_init__(self) -> None:
        refuse_l1(self.ball, "Square")
        if self.queries < 0 or self.schedule < 1 or self.restarts < 1 or not 0 < self.part <= 1:
            values = f"{self.queries}, {self.schedule}, {self.restarts} and {self.part:g}"
            raise ValueError(f"Square has queries ≥ 0, schedule and restarts ≥ 1 and a part in (0, 1], not {values}")

    def __call__(self, model: Model, x: Tensor, y: Tensor, key: Key) -> Tensor:
        x = x.detach()
        return cascade([lambda at, r=r: self._search(model, x[at], y[at], key / r) for r in range(self.restarts)], x)

    def sides(self, height: int, width: int) -> list[int]:
        """Return the side of the square at each query, in pixels; its share of the image is halved as in the paper."""
        ages = (query * 10000 // self.schedule for query in range(self.queries))
        shares = (self.part / 2 ** bisect_left(HALVINGS, age) for age in ages)
        wanted = (round(sqrt(share * height * width)) for share in shares)
        if isinstance(self.ball, Linf):
            return [min(max(side, 1), height, width) for side in wanted]
        return [min(max(side, 3) // 2 * 2 + 1, height, width) for side in wanted]  # odd, so that a bump has a centre

    @torch.no_grad()
    def _search(self, model: Model, x: Tensor, y: Tensor, key: Key) -> Tensor:
        start, change = (_stripes, _square) if isinstance(self.ball, Linf) else (_tiles, _bump)
        x_adv, at = x.clone(), torch.arange(len(x), device=x.device)
        best = start(x, self.ball.eps, (key / "start").on("cpu"))
        lowest = margin(model.search(best), y)
        draws = SquareDraws.of(self.sides(*x.shape[-2:]), x, (key / "squares").on("cpu"))
        for query in range(self.queries + 1):
            if query % CHECK_EVERY == 0 or query == self.queries:
                fell = model.confirmed(lowest <= 0, best, y)
                if fell.any():
                    x_adv[at[fell]] = best[fell]
                    at, x, y, best, lowest = (rows[~fell] for rows in (at, x, y, best, lowest))
                if not len(at) or query == self.queries:
                    break
            tried = change(x, best, self.ball.eps, draws, query)
            found = margin(model.search(tried), y)
            better = found < lowest
            best, lowest = choose(better, tried, best), choose(better, found, lowest)
        return x_adv


@dataclass(frozen=True)
class SquareDraws:
    """The random draws of all Q queries, made in advance so that no query waits for the device.

    side, here, there  sides of the squares, and two positions for each as (rows, columns)
    sign               the sign of each channel
    turned             whether a bump is transposed
    """

    side: list[int]
    here: list[tuple[slice, slice]]
    there: list[tuple[slice, slice]]
    sign: Float[Tensor, "Q C 1 1"]
    turned: list[bool]

    @classmethod
    def of(cls, sides: list[int], x: Float[Tensor, "N C H W"], rng: torch.Generator) -> SquareDraws:
        """Draw on the CPU, so that the draws are equal on all devices."""
        _, channels, height, width = x.shape
        chance = torch.rand(len(sides), 4, generator=rng, dtype=torch.float64).tolist()
        here = [_window(s, height, width, u, v) for s, (u, v, _, _) in zip(sides, chance, strict=True)]
        there = [_window(s, height, width, u, v) for s, (_, _, u, v) in zip(sides, chance, strict=True)]
        turned = torch.randint(2, (len(sides),), generator=rng).bool().tolist()
        return cls(sides, here, there, _signs((len(sides), channels, 1, 1), x, rng), turned)


def _window(side: int, height: int, width: int, u: float, v: float) -> tuple[slice, slice]:
    top, left = int(u * (height - side + 1)), int(v * (width - side + 1))
    return slice(top, top + side), slice(left, left + side)


def _signs(shape: tuple[int, ...], x: Tensor, rng: torch.Generator) -> Tensor:
    """Return ±1 with equal probability."""
    return (2.0 * torch.randint(2, shape, generator=rng) - 1).to(x)


def _stripes(x: Tensor, eps: float, rng: torch.Generator) -> Tensor:
    """Return x with each column of each channel moved up or down by eps."""
    return (x + eps * _signs((x.shape[1], 1, x.shape[3]), x, rng)).clamp(0, 1)


def _square(x: Tensor, best: Tensor, eps: float, draws: SquareDraws, query: int) -> Tensor:
    """Return `best` with each channel of the square at one end of the ball."""
    rows, columns = draws.here[query]
    tried = best.clone()
    tried[..., rows, columns] = (x[..., rows, columns] + eps * draws.sign[query]).clamp(0, 1)
    return tried


def _tiles(x: Tensor, eps: float, rng: torch.Generator) -> Tensor:
    """Return x plus a tiling of bumps, a fifth of its height, where each channel of each bump has its own sign."""
    _, channels, height, width = x.shape
    side = max(min(height, width) // 5, 1)
    bump, delta = bump_of(side).to(x), torch.zeros_like(x[0])
    for top in range(height % side // 2, height - side + 1, side):
        for left in range(width % side // 2, width - side + 1, side):
            delta[:, top : top + side, left : left + side] = bump * _signs((channels, 1, 1), x, rng)
    return _at_length(x, delta, eps)


def _bump(x: Tensor, best: Tensor, eps: float, draws: SquareDraws, query: int) -> Tensor:
    """Return `best` with the change of one square moved, with the unused budget, to a bump in another (Alg. 3)."""
    here, there = (..., *draws.here[query]), (..., *draws.there[query])
    delta = best - x
    both = torch.zeros_like(x[0, 0])
    both[here] = both[there] = 1
    left = (eps**2 - delta.square().sum((1, 2, 3), keepdim=True)).clamp_min(0)
    budget = ((both * delta).square().sum((2, 3), keepdim=True) + left / x.shape[1]).sqrt()
    bump = bump_of(draws.side[query]).to(x)
    bump = (bump.T if draws.turned[query] else bump) * draws.sign[query]
    bump = budget * normalize(bump + normalize(delta[here], dim=(2, 3)), dim=(2, 3))  # pyright: ignore[reportArgumentType]
    delta[there] = 0
    delta[here] = bump
    return _at_length(x, delta, eps)


def _at_length(x: Tensor, delta: Tensor, eps: float) -> Tensor:
    """Return x + delta with delta scaled to length eps."""
    return (x + eps * normalize(delta, dim=(-3, -2, -1))).clamp(0, 1)  # pyright: ignore[reportArgumentType]


@cache
def bump_of(side: int) -> Float[Tensor, "S S"]:
    """Return η of eq. 2, of length 1: a hill above an equal hollow, with Σ_{k>m} 1/k² at m rings from the centre."""
    upper, lower = _hill(side // 2, side), _hill(side - side // 2, side)
    return normalize(torch.cat([upper, -lower]), dim=(0, 1))  # pyright: ignore[reportArgumentType]


def _hill(height: int, width: int) -> Float[Tensor, "h w"]:
    ring = torch.maximum(
        (torch.arange(height) - height // 2).abs()[:, None], (torch.arange(width) - width // 2).abs()[None]
    )
    levels = 1 / torch.arange(1.0, max(height, width) // 2 + 2).square()
    return normalize(levels.flip(0).cumsum(0).flip(0)[ring], dim=(0, 1))  # pyright: ignore[reportArgumentType]
