"""Messages about the work of a run: images, epochs and steps, and the expected time."""

from __future__ import annotations

import sys
from time import monotonic

from unshaken.base.amounts import amount
from unshaken.base.progress import format_duration
from unshaken.train.batches import BatchStream, Position

SKIPPED = 1
"""Steps that are not measured: the first one allocates memory and selects kernels."""
MEASURED = 5.0
"""Seconds of measured steps, at least two, after which the expected time is printed."""
WORTH_SAYING = 60.0
"""The shortest remaining time that is printed, in seconds."""


def work(name: str, feed: BatchStream, position: Position, network: str = "") -> str:
    """Describe the work of a run on one line."""
    labels = "" if feed.label is None else ", labelled"
    count, steps = len(feed.images), len(feed)
    subset = f" ({feed.count:,} of them per epoch at first)" if feed.count != count else ""
    epochs = f"{amount(feed.epochs, 'epoch')} of {amount(steps, 'step')}"
    size = min(feed.batch_size, feed.count)
    pixels = feed.images.pixels.shape[-1]
    done = f", of which {position.step:,} are done" if position.step else ""
    images = f"{amount(count, 'image')} of {pixels} pixels ({feed.images.name}, {feed.images.split}{labels}){subset}"
    return (
        f"{name}: {images}; {epochs}, {amount(feed.epochs * steps, 'step')} of {amount(size, 'image')} in all"
        f"{done}{f'; {network}' if network else ''}"
    )


class Pace:
    """The expected time of a run, printed once on stderr after its first steps are measured."""

    def __init__(self, name: str, epochs: int, quiet: bool) -> None:
        self.name, self.epochs, self.silent = name, epochs, quiet
        self.steps, self.since, self.done = 0, 0.0, 0.0

    def step(self, done: float) -> None:
        """Count a step; `done` is the number of epochs elapsed after it."""
        if self.silent:
            return
        self.steps += 1
        if self.steps == SKIPPED:
            self.since, self.done = monotonic(), done
        took = monotonic() - self.since
        if self.steps < SKIPPED + 2 or took < MEASURED or done <= self.done:
            return
        self.silent = True
        left = took / (done - self.done) * (self.epochs - done)
        if left > WORTH_SAYING:
            advice = hourly(took / (done - self.done), self.epochs) + ADVICE if left > HOUR else ""
            print(f"{self.name}: about {format_duration(left)} at this pace{advice}", file=sys.stderr)


HOUR = 3600.0


def hourly(seconds: float, epochs: int) -> str:
    """Describe how far a run gets in an hour if an epoch takes this many seconds."""
    reached = HOUR / seconds
    if reached < 1:
        return f"; one of its {epochs:,} epochs takes about {format_duration(seconds)}"
    epochs_an_hour = int(reached)
    return f"; an hour is about {epochs_an_hour:,} of its {epochs:,} epochs (--epochs {epochs_an_hour})"


ADVICE = (
    "; fewer epochs, bf16 (the precision auto), a smaller network or a coreset take less. It can be stopped at any "
    "time: the same command resumes it"
)
