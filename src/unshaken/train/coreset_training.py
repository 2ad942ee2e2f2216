"""Training on coresets: a new subset of the images is selected every few epochs."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from unshaken.base.distributed import processes
from unshaken.base.json_shapes import Number, Whole
from unshaken.base.schedule import Schedule
from unshaken.base.types import Int
from unshaken.coreset.class_balance import CLASS_BALANCE, ClassBalance, class_balance, describe
from unshaken.coreset.selector import Selector, split
from unshaken.methods.base import Step
from unshaken.nets.checkpoint import read_tensors, write_tensors
from unshaken.train.attack_cache import AttackCache
from unshaken.train.attack_policy import AttackPolicy, attacking
from unshaken.train.batches import BatchStream, Position
from unshaken.train.loop import Execution, Loop, training
from unshaken.train.optim import Optimizer
from unshaken.train.run_dir import Run
from unshaken.train.selection_objective import CachedObjective, objective_of

SELECTION = {
    "kind": ("coreset",),
    "selector?": str,
    "seconds": Number(0),
    "epoch": Whole(0),
    "classes?": CLASS_BALANCE,
}
"""The shape of the header of a selection's file."""


def read_selection(file: Path, images: int) -> Int[Tensor, "S"]:
    """Read the indices of the images of a selection, in the order in which they were selected."""
    index = read_tensors(file, SELECTION)[0].get("index")
    if index is None or index.ndim != 1 or index.dtype != torch.int64 or not len(index):
        raise ValueError(f"{file} is not a selection: it has no indices of images")
    if int(index.min()) < 0 or int(index.max()) >= images:
        raise ValueError(f"{file} is a selection of other images: it has an index that is not below {images}")
    return index


def fit_on_coresets(
    coreset: Selector,
    step: Step,
    feed: BatchStream,
    optimizer: Optimizer,
    lr: Schedule,
    execution: Execution,
) -> None:
    """Train like `fit`, but on all candidates until the first selection, and then on the latest selection.

    Schedules count in epochs; an epoch on a coreset has fewer steps, but moves them as far. There is a checkpoint
    before each selection, and each selection is a file, so a run that is killed at any moment resumes to the same bits.
    """
    coreset_training = CoresetTraining(
        coreset,
        step,
        feed,
        execution.run,
        *split(len(feed.images), coreset.validation, feed.key / "coreset"),
        quiet=execution.quiet,
    )
    first = replace(feed, index=coreset_training.candidates)
    with training(step, first, optimizer, execution) as loop:
        coreset_training.check(loop.position)
        while loop.position.epoch < feed.epochs:
            coreset_training.train_to_next_selection(loop, lr)


@dataclass(frozen=True, eq=False)
class CoresetTraining:
    """The selections of a run, and the training between them.

    full        the batches of all images
    candidates  the indices of the images to select from
    held        the indices of the validation images, which are never selected
    quiet       do not print a line on the classes of each selection
    """

    coreset: Selector
    step: Step
    full: BatchStream
    run: Run
    candidates: Int[Tensor, "X"]
    held: Int[Tensor, "U"]
    quiet: bool = True

    def check(self, position: Position) -> None:
        """Raise a ValueError before the warm-up, not after it, if the selector cannot select from these candidates."""
        self.coreset.budget(len(self.candidates))
        if self.coreset.needs_gradients and self.selection(position.epoch) is None:
            few = self.candidates[: self.full.batch_size]
            how = (self.coreset.batch_size, self.coreset.steps)
            problem = objective_of(self.step, self.full, position, few, self.held, self.full.key / "check", *how)
            problem.gradients([0], "batch")

    def train_to_next_selection(self, loop: Loop, lr: Schedule) -> None:
        """Select if it is due, and train to the next selection or to the end."""
        at, end = self.selection(loop.position.epoch), self.next_selection(loop.position.epoch)
        if at is not None:
            self.select(loop.position, at)
        loop.feed, account = self.feed(loop.position.epoch), "training" if at is not None else "warmup"
        if end is not None and self.reuses_attacks:
            # only the attacks of the epoch right before the selection are recorded
            last = steps_until(loop.feed, loop.position, end - 1)
            if loop.position.step < last:
                loop.go(lr, last, account)
            policy = self.step.policy
            self.step.policy = replace(policy or AttackPolicy(), record=self.attacks(end))  # pyright: ignore[reportArgumentType]
            loop.go(lr, steps_until(loop.feed, loop.position, end), account)
            self.step.policy = policy
        else:
            loop.go(lr, steps_until(loop.feed, loop.position, self.full.epochs if end is None else end), account)

    def select(self, position: Position, epoch: int) -> None:
        """Select images at the beginning of an epoch, unless the file of this selection exists.

        Several processes share the work of a selection; the first of them decides and writes.
        """
        file, key, us = self.file(epoch), self.full.key / "coreset" / epoch, processes()
        if not us.first(file.exists):
            if (position.epoch, position.batch) != (epoch, 0):
                raise ValueError(
                    f"{file} is missing, and the run is past the epoch that it was made for: put it back, or remove "
                    f"{self.run.checkpoint.name} beside it to start the run again"
                )
            start = time.monotonic()
            cached = CachedObjective(self.feed(epoch - 1), self.attacks(epoch)) if self.reuses_attacks else None
            how = (self.coreset.batch_size, self.coreset.steps, cached)
            objective = objective_of(self.step, self.full, position, self.candidates, self.held, key / "problem", *how)
            index = self.coreset.select(objective, self.coreset.budget(len(self.candidates)), key / "select")
            about = {"kind": "coreset", "selector": type(self.coreset).__name__, "seconds": time.monotonic() - start}
            about |= {"epoch": epoch} | us.first(lambda: self.classes(index, epoch))
            us.first(lambda: write_tensors(file, {"index": index, "held": self.held}, about))
        us.first(lambda: self.attacks(epoch).file.unlink(missing_ok=True))
        files = [self.file(e) for e in range(epoch + 1) if self.coreset.due(e)]
        self.run.spent["selection"] = us.first(
            lambda: sum(read_tensors(file, SELECTION)[1]["seconds"] for file in files)
        )

    def classes(self, index: Int[Tensor, "S"], epoch: int) -> dict[str, ClassBalance]:
        """Return the class balance of a finished selection under its name, and print it; {} without labels."""
        images = self.full.images
        if images.label is None:
            return {}
        selected, candidates = (images.label.cpu()[each].tolist() for each in (index, self.candidates))
        balance = class_balance(selected, candidates, len(images.names))
        if not self.quiet:
            print(f"{self.run.path.name}: selection before epoch {epoch}: {describe(balance)}", file=sys.stderr)
        return {"classes": balance}

    @property
    def reuses_attacks(self) -> bool:
        return self.coreset.recall and attacking(self.step.method)

    def attacks(self, epoch: int) -> AttackCache:
        """Return the cached attacks of the epoch before this one."""
        return AttackCache(self.run.path / f"attacks-{epoch:04d}.bits", len(self.full.images))

    def file(self, epoch: int) -> Path:
        return self.run.path / f"coreset-{epoch:04d}.safetensors"

    def feed(self, epoch: int) -> BatchStream:
        """Return the batches of the images that an epoch trains on."""
        at = self.selection(epoch)
        if at is None:
            return replace(self.full, index=self.candidates)
        return replace(self.full, index=processes().first(lambda: read_selection(self.file(at), len(self.full.images))))

    def selection(self, epoch: int) -> int | None:
        """Return the epoch whose selection an epoch trains on; None: it trains on all candidates."""
        return max((e for e in range(epoch + 1) if self.coreset.due(e)), default=None)

    def next_selection(self, epoch: int) -> int | None:
        return next((e for e in range(epoch + 1, self.full.epochs) if self.coreset.due(e)), None)


def steps_until(feed: BatchStream, position: Position, epoch: int) -> int:
    """Return the number of updates before the beginning of an epoch."""
    return position.step + (epoch - position.epoch) * len(feed) - position.batch
