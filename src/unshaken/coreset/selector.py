"""Selector, the base class of coreset selection, and the selectors All, Random and Ranked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, log
from typing import ClassVar, Literal

import torch
from torch import Tensor

from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.ranges import Count, Inside, Natural, Several, Share, ranged
from unshaken.base.rng import Key
from unshaken.base.types import Float, Int
from unshaken.coreset.objective import Granularity, SelectionObjective
from unshaken.losses.divergence import Distance


@dataclass(frozen=True)
@ranged
class Selector(ABC):
    """A rule that picks the images to train on, anew at some epochs. Its result depends on (problem, key) only."""

    fraction: Share = 0.2
    """Share of the candidates that training uses after the warm-up."""
    warmup: Natural = 100
    """Number of epochs on all candidates before the first selection."""
    every: Count | None = 20
    """Number of epochs between two selections; None: one selection only."""
    validation: Inside = 0.01
    """Share of all images that is held out as validation set U. No selector trains on it, even if it does not use it,
    so that selectors can be compared fairly."""
    batch_size: Several | None = None
    """Number of images in a mini-batch of candidates; None: as in training. A smaller number gives a finer
    selection."""
    steps: Count | None = None
    """Number of attack steps on candidates; None: as in training. One step covers the same distance, costs a third, and
    selects nearly the same images (docs/methods/rcs.md)."""
    recall: bool = False
    """Reuse the views, attacks and mini-batches of the last epoch, for images that it trained on. Otherwise a selection
    attacks all candidates again."""

    def __post_init__(self) -> None:
        if not (0 < self.fraction <= 1 and 0 < self.validation < 1):
            raise ValueError(
                f"a selection has a fraction in (0, 1] and a validation share in (0, 1), "
                f"not {self.fraction:g} and {self.validation:g}"
            )
        if self.warmup < 0 or (self.every is not None and self.every < 1):
            raise ValueError(f"a selection has warmup ≥ 0 and every ≥ 1 or None, not {self.warmup} and {self.every}")
        if self.batch_size is not None and self.batch_size < 2:
            raise ValueError(f"mini-batches of candidates have 2 images or more, not {self.batch_size}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"candidates are attacked by steps ≥ 1, or None for the training's, not {self.steps}")
        if self.recall and self.warmup < 1:
            raise ValueError(
                "recall reuses the last epoch, and there is none before a selection at epoch 0; set warmup to 1 or more"
            )

    def due(self, epoch: int) -> bool:
        """Return whether a selection is due before this epoch, counted from 0."""
        since = epoch - self.warmup
        return since == 0 if self.every is None else since >= 0 and since % self.every == 0

    needs_gradients: ClassVar[bool] = False
    """True for selectors that ask for gradients of the loss by the head, which not every method has."""

    def budget(self, candidates: int) -> int:
        """Return the number of images to pick: at least 2, since a single one has no variance."""
        return min(candidates, max(2, round(self.fraction * candidates)))

    @abstractmethod
    def select(self, problem: SelectionObjective, count: int, key: Key) -> Int[Tensor, "count"]:
        """Return exactly `count` distinct images, in the order in which they were picked."""


@dataclass(frozen=True)
@ranged
class All(Selector):
    """All candidates: the reference for other selectors."""

    fraction: Share = 1.0
    every: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fraction != 1:
            raise ValueError(f"All has a fraction of 1, not {self.fraction:g}")

    def select(self, problem: SelectionObjective, count: int, key: Key) -> Int[Tensor, "count"]:
        check_budget(problem, count)
        return problem.index[:count]


@dataclass(frozen=True)
class Random(Selector):
    """Random images: with every=None one subset for all of the training, otherwise a new one at each selection."""

    def select(self, problem: SelectionObjective, count: int, key: Key) -> Int[Tensor, "count"]:
        check_budget(problem, count)
        index = problem.index.sort().values  # the draw depends on the candidates, not on their mini-batches
        return index[torch.randperm(len(index), generator=(key / "random").on("cpu"))[:count]]


@dataclass(frozen=True)
class Ranked(Selector):
    """The images with the largest, or smallest, distance, input gradient or loss."""

    by: Literal["loss", "distance", "gradient"] = "distance"
    """distance: d(h(x̃), h(x)) of each image. gradient: the norm of the training loss's gradient by the pixels of all
    views of an image. loss: the training loss of each mini-batch, since a contrastive loss belongs to no single image;
    entire mini-batches are picked then."""
    largest: bool = True
    """True: the largest first. False: the smallest first."""
    distance: Distance = "kl"
    """d, the distance between adversarial and clean embeddings."""
    attack: PGD = PGD(Linf(8 / 255), steps=3, rel_step_size=5 / 12)
    """The attack that finds x̃."""

    def select(self, problem: SelectionObjective, count: int, key: Key) -> Int[Tensor, "count"]:
        check_budget(problem, count)
        order = self._values(problem).cpu().argsort(descending=self.largest, stable=True)
        if self.by == "loss":
            return torch.cat([problem.batches[b] for b in order])[:count]
        return problem.index[order][:count]

    def _values(self, problem: SelectionObjective) -> Float[Tensor, "_"]:
        if self.by == "loss":
            return problem.losses()
        return problem.input_gradients() if self.by == "gradient" else problem.distances(self.distance, self.attack)


def check_budget(problem: SelectionObjective, count: int) -> None:
    """Raise ValueError unless `count` candidates can be picked."""
    candidates = sum(len(batch) for batch in problem.batches)
    if not 0 < count <= candidates:
        raise ValueError(f"a selection picks from 1 to {candidates} candidates, not {count}")


def split(images: int, share: float, key: Key) -> tuple[Int[Tensor, "X"], Int[Tensor, "U"]]:
    """Split images at random into candidates X and a validation set U, both sorted and of at least 2 images.

    share  of the images that U gets. ValueError if there are fewer than 4 images
    """
    if images < 4:
        raise ValueError(f"a validation set needs 4 images or more to be taken from, not {images}")
    validation = min(images - 2, max(2, round(share * images)))
    order = torch.randperm(images, generator=(key / "validation").on("cpu"))
    return order[validation:].sort().values, order[:validation].sort().values


GRADIENT_BYTES = 2**29
"""Bytes of gradients in memory at a time, unless a selector sets the number of mini-batches. While gradients are
concatenated, one layer is in memory twice; a classifier has only one."""


def chunks(
    problem: SelectionObjective, granularity: Granularity, count: int, chunk: int | None = None
) -> Iterator[tuple[range, int]]:
    """Yield the numbers of mini-batches whose gradients are in memory together, and the number of images to pick there.

    chunk  number of mini-batches; None: as many as fit in GRADIENT_BYTES
    The picks are proportional to the images and sum to `count`. What rounding down leaves over goes to the chunks that
    lost most by it.
    """
    batches = problem.batches
    chunk = chunk or max(1, GRADIENT_BYTES // bytes_of_one(problem, granularity))
    ranges = [range(at, min(at + chunk, len(batches))) for at in range(0, len(batches), chunk)]
    sizes = [sum(len(batches[b]) for b in numbers) for numbers in ranges]
    share = [divmod(count * size, sum(sizes)) for size in sizes]
    over = count - sum(rounded for rounded, _ in share)
    favoured = sorted(range(len(share)), key=lambda c: -share[c][1])[:over]
    for c, numbers in enumerate(ranges):
        budget = share[c][0] + (c in favoured)
        if budget:
            yield numbers, budget


def bytes_of_one(problem: SelectionObjective, granularity: Granularity) -> int:
    """Return the bytes that the gradients of one mini-batch take, or an upper bound: the size of the head."""
    if granularity == "batch":
        return sum(value.numel() * value.element_size() for value in problem.theta.values())
    return problem.gradients(range(1), granularity).bytes


def random_subset(left: Tensor, picks: float, slack: float, rng: torch.Generator) -> Int[Tensor, "m"]:
    """Return the items that one pick compares: all that are left, or with a slack a random subset of them.

    For n items, k picks and a submodular gain, (n/k) log(1/slack) items lose at most `slack` against greedy search on
    average (Mirzasoleiman et al., AAAI 2015, arXiv:1409.7938).
    """
    pool = left.nonzero()[:, 0]
    if slack == 0:
        return pool
    seen = ceil(len(left) / picks * log(1 / slack))
    return pool[torch.randperm(len(pool), generator=rng)[:seen]]
