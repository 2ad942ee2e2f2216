"""Representative subsets: k-centre, facility location, and gradient matching (CRAIG)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from unshaken.base.ranges import BelowOne, ranged
from unshaken.base.rng import Key
from unshaken.base.types import Float, Int
from unshaken.coreset.gradients import Gradients
from unshaken.coreset.objective import Granularity, SelectionObjective
from unshaken.coreset.selector import Selector, check_budget, chunks, random_subset

Columns = Callable[[Tensor], Tensor]
"""A function of items (m) to the similarity of every item with them (n m), which is not negative."""

BLOCK = 64
"""Number of items whose gains are computed at once."""


@dataclass(frozen=True)
class KCenter(Selector):
    """min_S max_x min_{s ∈ S} ‖f(x) − f(s)‖ within a factor of 2, by picking the image farthest from those picked.

    Gonzalez, Theoretical Computer Science 1985; Sener and Savarese, ICLR 2018, arXiv:1708.00489. The first image is
    random.
    """

    def select(self, problem: SelectionObjective, count: int, key: Key) -> Int[Tensor, "count"]:
        check_budget(problem, count)
        f = problem.features()
        picks = [int(torch.randint(len(f), (), generator=(key / "first").on("cpu")))]
        nearest = f.new_full((len(f),), torch.inf)
        while len(picks) < count:
            nearest = torch.minimum(nearest, (f - f[picks[-1]]).square().sum(1))
            nearest[picks[-1]] = -1  # never picked again, even if images are copies of each other
            picks.append(int(nearest.argmax()))
        return problem.index[picks]


@dataclass(frozen=True)
@ranged
class FacilityLocation(Selector):
    """max_S Σ_x max_{s ∈ S} (1 + cos(f(x), f(s))), by greedy search, which reaches at least 1 − 1/e of the maximum."""

    slack: BelowOne = 0.0
    """0: exact greedy search. Otherwise each pick compares a random subset of the images (`random_subset`); 0.05 is
    suitable."""

    def select(self, problem: SelectionObjective, count: int, key: Key) -> Int[Tensor, "count"]:
        check_budget(problem, count)
        f = normalize(problem.features(), dim=-1)
        rng = (key / "glance").on("cpu")
        return problem.index[cover(lambda items: (1 + f @ f[items].T).clamp_min(0), len(f), count, self.slack, rng)]


@dataclass(frozen=True)
@ranged
class GradientMatching(Selector):
    """min_S Σ_k min_{s ∈ S} ‖q_k − q_s‖ by greedy search; q are the gradients of the training loss by the head.

    This is CRAIG (Mirzasoleiman et al., ICML 2020, arXiv:1906.01827) without its weights: each pick counts once.
    """

    granularity: Granularity = "batch"
    """The items to pick: mini-batches, or single samples."""
    slack: BelowOne = 0.0
    """0: exact greedy search. Otherwise each pick compares a random subset of the items (`random_subset`)."""

    needs_gradients: ClassVar = True

    def select(self, problem: SelectionObjective, count: int, key: Key) -> Int[Tensor, "count"]:
        check_budget(problem, count)
        rng, picked = (key / "glance").on("cpu"), []
        for batches, budget in chunks(problem, self.granularity, count):
            q = problem.gradients(batches, self.granularity)
            picks = cover(closeness(q), len(q), min(len(q), budget), self.slack, rng, budget, q.sizes)
            picked.append(torch.cat([q.images(int(item)) for item in picks])[:budget])
            del q  # frees the memory before the next chunk
        return torch.cat(picked)


def closeness(q: Gradients) -> Columns:
    """Return a function of items s to 2 max ‖q‖ − ‖q_k − q_s‖ of every item k with them."""
    norm = q.norms()
    farthest = 2 * norm.max()

    def columns(items: Tensor) -> Tensor:
        square = norm[:, None] ** 2 + norm[items] ** 2 - 2 * q.between(items)
        square[items, torch.arange(len(items))] = 0  # instead of the root of a rounding error
        return (farthest - square.clamp_min(0).sqrt()).clamp_min(0)

    return columns


def cover(
    columns: Columns,
    items: int,
    picks: int,
    slack: float,
    rng: torch.Generator,
    budget: int | None = None,
    sizes: tuple[int, ...] | None = None,
) -> Int[Tensor, "picks"]:
    """Return a greedy solution of max_S Σ_k max_{s ∈ S} columns[k, s]: `picks` items, or items of `budget` images.

    The search is lazy: gains can only fall, so an item whose earlier gain is too small is not evaluated again (Minoux
    1978).
    """
    budget, sizes = picks if budget is None else budget, sizes or (1,) * items
    expected = budget * items / sum(sizes)
    covered, bound, picked = None, torch.full((items,), torch.inf, dtype=torch.float64), []

    def gains(candidates: Tensor) -> Tensor:
        new = columns(candidates).double()
        return (new if covered is None else (new - covered[:, None]).clamp_min(0)).sum(0).cpu()

    while budget > 0:
        if slack:
            seen = random_subset(bound > -torch.inf, expected, slack, rng)
            best = int(seen[torch.cat([gains(part) for part in seen.split(BLOCK)]).argmax()])
        else:
            best = _laziest(gains, bound)
        bound[best] = -torch.inf
        column = columns(torch.tensor([best]))[:, 0].double()
        covered = column if covered is None else torch.maximum(covered, column)
        picked.append(best)
        budget -= sizes[best]
    return torch.tensor(picked)


def _laziest(gains: Callable[[Tensor], Float[Tensor, "m"]], bound: Float[Tensor, "n"]) -> int:
    """Return the item with the largest gain, and update the bounds that it evaluates on the way."""
    while True:
        top = bound.topk(min(BLOCK, len(bound))).indices
        top = top[bound[top] > -torch.inf].sort().values
        fresh = gains(top)
        bound[top] = fresh
        best = int(top[fresh.argmax()])
        if bound[best] >= bound.max():
            return best
