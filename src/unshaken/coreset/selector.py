"""What a selector is: which images to train on, chosen anew now and then; all, random, and by rank."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, log
from typing import Literal

import torch
from torch import Tensor

from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.ranges import Count, Inside, Natural, Several, Share, ranged
from unshaken.base.rng import Key
from unshaken.base.types import Int
from unshaken.coreset.objective import Granularity, SelectionObjective
from unshaken.losses.divergence import Distance


@dataclass(frozen=True)
@ranged
class Selector(ABC):
    """A subclass's fields are its choices, `select` its search. Pure in (problem, key)."""

    fraction: Share = 0.2
    """Of the candidates, that are trained on once the warm-up is over."""
    warmup: Natural = 100
    """Epochs of all candidates before the first selection."""
    every: Count | None = 20
    """Epochs from one selection to the next; None: there is only one."""
    validation: Inside = 0.01
    """Of all images, set aside once: not trained on, whether a selector looks at them or not, so that what two
    selectors are compared on is the same."""
    batch_size: Several | None = None
    """Images in a mini-batch of candidates; None: as many as the training's. Smaller ones are a finer choice."""
    steps: Count | None = None
    """Of the attack by which candidates are looked at; None: as many as the training's. One step reaches as far,
    costs a third, and picks much the same (docs/methods/rcs.md)."""
    recall: bool = False
    """Whether images that the epoch before has trained on are looked at as they were then, views, attacks and
    mini-batches, and not attacked again."""

    def __post_init__(self) -> None:
        if not (0 < self.fraction <= 1 and 0 < self.validation < 1):
            raise ValueError(
                f"a selection has a fraction in (0, 1] and a validation part in (0, 1), "
                f"not {self.fraction:g} and {self.validation:g}"
            )
        if self.warmup < 0 or (self.every is not None and self.every < 1):
            raise ValueError(f"a selection has warmup ≥ 0 and every ≥ 1 or None, not {self.warmup} and {self.every}")
        if self.batch_size is not None and self.batch_size < 2:
            raise ValueError(f"mini-batches of candidates have 2 images or more, not {self.batch_size}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"candidates are attacked by steps ≥ 1, or None for the training's, not {self.steps}")
        if self.recall and self.warmup < 1:
            raise ValueError("there is no epoch before a selection at epoch 0 to recall; set warmup to 1 or more")

    def due(self, epoch: int) -> bool:
        """Whether to select before the epoch that has `epoch` others before it."""
        since = epoch - self.warmup
        return since == 0 if self.every is None else since >= 0 and since % self.every == 0

    def budget(self, candidates: int) -> int:
        """How many images a selection has; at least 2, for one has no variance."""
        return min(candidates, max(2, round(self.fraction * candidates)))

    @abstractmethod
    def select(self, problem: SelectionObjective, count: int, key: Key) -> Int[Tensor, "count"]:
        """Distinct images, exactly `count` of them, in the order in which they were picked."""


@dataclass(frozen=True)
@ranged
class All(Selector):
    """Every candidate: what a fraction is compared with."""

    fraction: Share = 1.0
    every: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fraction != 1:
            raise ValueError(f"all images are a fraction of 1, not {self.fraction:g}")

    def select(self, problem: SelectionObjective, count: int, key: Key) -> Int[Tensor, "count"]:
        check_budget(problem, count)
        return problem.index[:count]


@dataclass(frozen=True)
class Random(Selector):
    """Images by chance: every=None is one subset for good, else there is another each period."""

    def select(self, problem: SelectionObjective, count: int, key: Key) -> Int[Tensor, "count"]:
        check_budget(problem, count)
        index = problem.index.sort().values  # the draw depends on the candidates, not on their mini-batches
        return index[torch.randperm(len(index), generator=(key / "random").on("cpu"))[:count]]


@dataclass(frozen=True)
class Ranked(Selector):
    """The images that are largest in one number.

    by   distance: d(h(x̃), h(x)) of an image. loss: the training loss, of a mini-batch, for that of a contrast
         belongs to no image alone; whole mini-batches are taken
    """

    by: Literal["loss", "distance"] = "distance"
    largest: bool = True
    """Or smallest first."""
    distance: Distance = "kl"
    attack: PGD = PGD(Linf(8 / 255), steps=3, rel_step_size=5 / 12)

    def select(self, problem: SelectionObjective, count: int, key: Key) -> Int[Tensor, "count"]:
        check_budget(problem, count)
        value = problem.losses() if self.by == "loss" else problem.distances(self.distance, self.attack)
        order = value.cpu().argsort(descending=self.largest, stable=True)
        if self.by == "distance":
            return problem.index[order][:count]
        return torch.cat([problem.batches[b] for b in order])[:count]


def check_budget(problem: SelectionObjective, count: int) -> None:
    """ValueError unless so many candidates can be picked."""
    candidates = sum(len(batch) for batch in problem.batches)
    if not 0 < count <= candidates:
        raise ValueError(f"{count} of {candidates} candidates cannot be picked; from 1 to {candidates} can")


def split(images: int, part: float, key: Key) -> tuple[Int[Tensor, "X"], Int[Tensor, "U"]]:
    """Candidates X and validation images U, by chance, each in ascending order; both have at least 2."""
    if images < 4:
        raise ValueError(f"{images} image(s) are too few to set some aside; at least 4 are needed")
    held = min(images - 2, max(2, round(part * images)))
    order = torch.randperm(images, generator=(key / "validation").on("cpu"))
    return order[held:].sort().values, order[:held].sort().values


HELD = 2**29
"""Bytes of gradients in memory at a time, unless a selector says how many mini-batches. As they are joined a layer is
there twice; of a classifier that is all of them."""


def chunks(
    problem: SelectionObjective, granularity: Granularity, count: int, chunk: int | None = None
) -> Iterator[tuple[range, int]]:
    """Mini-batches whose gradients are in memory together, by number, and how many images to pick of them.

    chunk  how many mini-batches; None: as many as HELD has room for
    The picks are `count` in all and in proportion: what rounding down leaves over goes to those that lost most by it.
    """
    batches = problem.batches
    chunk = chunk or max(1, HELD // bytes_of_one(problem, granularity))
    parts = [range(at, min(at + chunk, len(batches))) for at in range(0, len(batches), chunk)]
    sizes = [sum(len(batches[b]) for b in part) for part in parts]
    share = [divmod(count * size, sum(sizes)) for size in sizes]
    over = count - sum(whole for whole, _ in share)
    favoured = sorted(range(len(share)), key=lambda c: -share[c][1])[:over]
    for c, part in enumerate(parts):
        budget = share[c][0] + (c in favoured)
        if budget:
            yield part, budget


def bytes_of_one(problem: SelectionObjective, granularity: Granularity) -> int:
    """What the gradients of one mini-batch take: at most the head's size, or of single images what those of one do."""
    if granularity == "batch":
        return sum(value.numel() * value.element_size() for value in problem.theta.values())
    return problem.gradients(range(1), granularity).bytes


def glance(left: Tensor, picks: float, slack: float, rng: torch.Generator) -> Int[Tensor, "m"]:
    """The items that one pick looks at: all that are left, or with a slack a random part of them.

    Of n items for k picks, (n/k) log(1/slack) are enough to be slack short of greedy in the mean, for a submodular
    gain (Mirzasoleiman et al., AAAI 2015, arXiv:1409.7938).
    """
    pool = left.nonzero()[:, 0]
    if slack == 0:
        return pool
    seen = ceil(len(left) / picks * log(1 / slack))
    return pool[torch.randperm(len(pool), generator=rng)[:seen]]
