"""Training on a coreset: legs from one selection to the next, each on its own images."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unshaken.base.json_shapes import Number, Whole
from unshaken.base.schedule import Schedule
from unshaken.base.types import Int
from unshaken.coreset.selector import Selector, split
from unshaken.methods.base import Step
from unshaken.nets.checkpoint import read_tensors, write_tensors
from unshaken.train.attack_cache import AttackCache, RecordingMethod, attacking
from unshaken.train.batches import BatchStream, Position
from unshaken.train.loop import Loop, training
from unshaken.train.optim import Optimizer
from unshaken.train.run_dir import Run
from unshaken.train.selection_objective import CachedObjective, objective_of

if TYPE_CHECKING:
    from lightning_fabric import Fabric


SELECTION = {"kind": ("coreset",), "selector?": str, "seconds": Number(0), "epoch": Whole(0)}
"""What the header of a selection's file says."""


def picked(file: Path, images: int) -> Int[Tensor, "S"]:
    """The places of the images of a selection, in the order in which they were picked."""
    index = read_tensors(file, SELECTION)[0].get("index")
    if index is None or index.ndim != 1 or index.dtype != torch.int64 or not len(index):
        raise ValueError(f"{file} is no selection: it has no places of images")
    if int(index.min()) < 0 or int(index.max()) >= images:
        raise ValueError(f"{file} is a selection of other images: it has a place that is not one of {images}")
    return index


def fit_on_coresets(
    coreset: Selector,
    step: Step,
    feed: BatchStream,
    optimizer: Optimizer,
    lr: Schedule,
    run: Run,
    fabric: Fabric,
    save_every: float = 60.0,
    quiet: bool = False,
    profile: int = 0,
) -> None:
    """As `fit`, but on all candidates until the first selection is due, and then on what the last one picked.

    Time stays in epochs: one on a coreset has fewer steps, and moves the schedules as far. Each leg ends with a
    checkpoint and each selection is a file, so a run that is killed anywhere goes on to the same bits.
    """
    course = CoresetTraining(
        coreset, step, feed, run, *split(len(feed.images), coreset.validation, feed.key / "coreset")
    )
    first = replace(feed, index=course.candidates)
    with training(step, first, optimizer, run, fabric, save_every, quiet, profile) as legs:
        while legs.place.epoch < feed.epochs:
            course.leg(legs, lr)


@dataclass(frozen=True, eq=False)
class CoresetTraining:
    """What a run is trained on, epoch by epoch.

    candidates, held  the images to choose from, and those that are set aside
    """

    coreset: Selector
    step: Step
    whole: BatchStream
    run: Run
    candidates: Int[Tensor, "X"]
    held: Int[Tensor, "U"]

    def leg(self, legs: Loop, lr: Schedule) -> None:
        """From a place to the next selection, or to the end."""
        at, end = self.selection(legs.place.epoch), self.next_selection(legs.place.epoch)
        if at is not None:
            self.select(legs.place, at)
        legs.feed, part = self.feed(legs.place.epoch), "training" if at is not None else "warmup"
        if end is not None and self.recalls:
            last = steps_until(legs.feed, legs.place, end - 1)
            if legs.place.step < last:
                legs.go(lr, last, part)
            method = self.step.method
            self.step.method = RecordingMethod(method, self.attacks(end))  # pyright: ignore[reportAttributeAccessIssue]
            legs.go(lr, steps_until(legs.feed, legs.place, end), part)
            self.step.method = method
        else:
            legs.go(lr, steps_until(legs.feed, legs.place, self.whole.epochs if end is None else end), part)

    def select(self, place: Position, epoch: int) -> None:
        """The selection that is made when an epoch begins, once: which images, in that order, and the seconds taken."""
        file, key = self.file(epoch), self.whole.key / "coreset" / epoch
        if not file.exists():
            if (place.epoch, place.batch) != (epoch, 0):
                raise ValueError(
                    f"{file} is gone, and the run is past the epoch that it was made for: put it back, or remove "
                    f"{self.run.checkpoint.name} beside it to begin anew"
                )
            began = time.monotonic()
            recalled = CachedObjective(self.feed(epoch - 1), self.attacks(epoch)) if self.recalls else None
            how = (self.coreset.batch_size, self.coreset.steps, recalled)
            problem = objective_of(self.step, self.whole, place, self.candidates, self.held, key / "problem", *how)
            index = self.coreset.select(problem, self.coreset.budget(len(self.candidates)), key / "select")
            about = {"kind": "coreset", "selector": type(self.coreset).__name__, "seconds": time.monotonic() - began}
            write_tensors(file, {"index": index, "held": self.held}, about | {"epoch": epoch})
        self.attacks(epoch).file.unlink(missing_ok=True)
        made = [self.file(e) for e in range(epoch + 1) if self.coreset.due(e)]
        self.run.spent["selection"] = sum(read_tensors(one, SELECTION)[1]["seconds"] for one in made)

    @property
    def recalls(self) -> bool:
        return self.coreset.recall and attacking(self.step.method)

    def attacks(self, epoch: int) -> AttackCache:
        """Those of the epoch before this one."""
        return AttackCache(self.run.path / f"attacks-{epoch:04d}.bits", len(self.whole.images))

    def file(self, epoch: int) -> Path:
        return self.run.path / f"coreset-{epoch:04d}.safetensors"

    def feed(self, epoch: int) -> BatchStream:
        """Of the images that an epoch sees."""
        at = self.selection(epoch)
        return replace(
            self.whole, index=self.candidates if at is None else picked(self.file(at), len(self.whole.images))
        )

    def selection(self, epoch: int) -> int | None:
        """When the selection was made that an epoch sees; None: it sees all candidates."""
        return max((e for e in range(epoch + 1) if self.coreset.due(e)), default=None)

    def next_selection(self, epoch: int) -> int | None:
        return next((e for e in range(epoch + 1, self.whole.epochs) if self.coreset.due(e)), None)


def steps_until(feed: BatchStream, place: Position, epoch: int) -> int:
    """The updates made when an epoch begins."""
    return place.step + (epoch - place.epoch) * len(feed) - place.batch
