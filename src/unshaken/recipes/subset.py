"""Training on a coreset: legs from one selection to the next, each on its own images."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from unshaken.base.clock import Schedule
from unshaken.base.keys import Key
from unshaken.base.types import Int
from unshaken.coreset.selector import Selector, split
from unshaken.methods.method import Step
from unshaken.nets.saved import read_tensors, write_tensors
from unshaken.train.feed import Feed, Place
from unshaken.train.fit import training
from unshaken.train.optim import Optimizer
from unshaken.train.problem import posed
from unshaken.train.run import Run

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def fit_on_coresets(
    coreset: Selector,
    step: Step,
    feed: Feed,
    optimizer: Optimizer,
    rate: Schedule,
    run: Run,
    fabric: Fabric,
    save_every: float = 60.0,
    quiet: bool = False,
) -> None:
    """As `fit`, but on all candidates until the first selection is due, and then on what the last one picked.

    Time stays in epochs: one on a coreset has fewer steps, and moves the schedules as far. Each leg ends with a
    checkpoint and each selection is a file, so a run that is killed anywhere goes on to the same bits.
    """
    key = feed.key / "coreset"
    candidates, held = split(len(feed.images), coreset.validation, key)
    due = [epoch for epoch in range(feed.epochs) if coreset.due(epoch)]
    with training(step, replace(feed, index=candidates), optimizer, run, fabric, save_every, quiet) as course:
        while course.place.epoch < feed.epochs:
            at = max((epoch for epoch in due if epoch <= course.place.epoch), default=None)
            if at is None:
                index = candidates
            else:
                file = run.path / f"coreset-{at:04d}.safetensors"
                index = selected(file, coreset, step, course.feed, course.place, candidates, held, key / at)
            course.feed = replace(feed, index=index)
            end = min((epoch for epoch in due if epoch > course.place.epoch), default=feed.epochs)
            course.go(rate, until=steps_until(course.feed, course.place, end))


def selected(
    file: Path, coreset: Selector, step: Step, feed: Feed, place: Place, candidates: Tensor, held: Tensor, key: Key
) -> Int[Tensor, "n"]:
    """The images picked at a place, in that order: made once, and kept in the file with the seconds taken."""
    if not file.exists():
        assert place.batch == 0, "a selection is made where an epoch begins"
        began, clock = time.monotonic(), feed.clock(place)
        strength = feed.strength(clock)
        problem = posed(
            step, feed.images, feed.label, feed.views, strength, feed.batch, candidates, held, clock, key / "problem"
        )
        index = coreset.select(problem, coreset.budget(len(candidates)), key / "select")
        about = {"kind": "coreset", "selector": type(coreset).__name__, "seconds": time.monotonic() - began}
        write_tensors(file, {"index": index, "held": held}, about | {"epoch": place.epoch})
    return read_tensors(file)[0]["index"]


def steps_until(feed: Feed, place: Place, epoch: int) -> int:
    """The updates made when an epoch begins."""
    return place.step + (epoch - place.epoch) * len(feed) - place.batch
