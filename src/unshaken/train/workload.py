"""The work of a run: its images, epochs and steps, said before it begins, and the time that it will take"""

from __future__ import annotations

import sys
from time import monotonic

from unshaken.base.progress import format_duration
from unshaken.train.batches import BatchStream, Position

SKIPPED = 1
"""Steps that are not measured: in the first one memory is fetched and kernels are chosen."""
MEASURED = 5.0
"""Seconds of measured steps after which the time is told; and at least two steps."""
WORTH_SAYING = 60.0
"""Seconds below which a run is over before its time has been read."""


def work(name: str, feed: BatchStream, place: Position, network: str = "") -> str:
    """What a run is about to do, on one line."""
    labels = "" if feed.label is None else ", labelled"
    count, steps = len(feed.images), len(feed)
    part = f" ({feed.count:,} of them an epoch at first)" if feed.count != count else ""
    epochs = f"{feed.epochs:,} epoch{'s' * (feed.epochs > 1)} of {steps:,} step{'s' * (steps > 1)}"
    size = min(feed.batch_size, feed.count)
    pixels = feed.images.pixels.shape[-1]
    begun = f", of which {place.step:,} steps are made" if place.step else ""
    images = f"{count:,} images of {pixels} pixels ({feed.images.name}, {feed.images.split}{labels}){part}"
    return (
        f"{name}: {images}; {epochs}, "
        f"{feed.epochs * steps:,} steps of {size:,} images in all{begun}{f'; {network}' if network else ''}"
    )


class Pace:
    """The time that a run will take, told once on stderr when its first steps have been measured."""

    def __init__(self, name: str, epochs: int, quiet: bool) -> None:
        self.name, self.epochs, self.told = name, epochs, quiet
        self.steps, self.since, self.done = 0, 0.0, 0.0

    def step(self, done: float) -> None:
        """After every step, with the epochs that have elapsed by then."""
        if self.told:
            return
        self.steps += 1
        if self.steps == SKIPPED:
            self.since, self.done = monotonic(), done
        took = monotonic() - self.since
        if self.steps < SKIPPED + 2 or took < MEASURED or done <= self.done:
            return
        self.told = True
        left = took / (done - self.done) * (self.epochs - done)
        if left > WORTH_SAYING:
            advice = hourly(took / (done - self.done), self.epochs) + ADVICE if left > HOUR else ""
            print(f"{self.name}: about {format_duration(left)} at this pace{advice}", file=sys.stderr)


HOUR = 3600.0


def hourly(seconds: float, epochs: int) -> str:
    """How far a run gets in an hour, an epoch of which takes so many seconds."""
    reached = HOUR / seconds
    if reached < 1:
        return f"; one of its {epochs:,} epochs takes about {format_duration(seconds)}"
    whole = int(reached)
    return f"; an hour is about {whole:,} of its {epochs:,} epochs (--epochs {whole})"


ADVICE = (
    "; fewer epochs, bf16 (the precision auto), a smaller network or a coreset take less. It can be stopped at any "
    "time: the same command goes on"
)
