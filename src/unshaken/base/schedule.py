"""Training time in epochs, and schedules as pure functions of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import cos, floor, pi
from typing import Annotated

from unshaken.base.ranges import Count, Natural, NonNegative, Positive, ranged


@dataclass(frozen=True)
class Clock:
    """The instant of one update.

    step    updates made before this one
    epoch   epochs finished before this one
    time    epochs elapsed once this update is made, in (0, epochs]; may be fractional
    epochs  how many there will be
    """

    step: int
    epoch: int
    time: float
    epochs: int


class Schedule(ABC):
    """A value that depends on the clock alone."""

    @abstractmethod
    def __call__(self, clock: Clock) -> float: ...


@dataclass(frozen=True)
@ranged
class Constant(Schedule):
    """The same at all times."""

    value: NonNegative
    """The value in every epoch."""

    def __call__(self, clock: Clock) -> float:
        return self.value


@dataclass(frozen=True)
@ranged
class StepSchedule(Schedule):
    """From `start` towards `stop` in equal stairs, one every `every` epochs.

    DynACL's strength is StepSchedule(1, 0, every=50), its ω is StepSchedule(0, 2/3, every=50)
    (Luo et al., ICLR 2023, arXiv:2303.01289): `stop` would be reached at the epoch after the last.
    """

    start: NonNegative
    """The value of the first stair."""
    stop: NonNegative
    """The value that the stairs approach."""
    every: Count
    """Epochs of one stair."""

    def __call__(self, clock: Clock) -> float:
        done = floor(clock.epoch / self.every) * self.every / clock.epochs
        return self.start + (self.stop - self.start) * done


@dataclass(frozen=True)
@ranged
class WarmupCosine(Schedule):
    """Linear from 0 to `peak` in `warmup` epochs, then half a cosine down to `floor` at the end."""

    peak: NonNegative
    """The largest value, at the end of the warm-up."""
    warmup: NonNegative = 10.0
    """Epochs of the warm-up."""
    floor: NonNegative = 1e-6
    """The value at the end."""

    def __call__(self, clock: Clock) -> float:
        if clock.time < self.warmup:
            return self.peak * clock.time / self.warmup
        if clock.time == self.warmup:
            return self.peak
        angle = pi * (clock.time - self.warmup) / (clock.epochs - self.warmup)
        return self.floor + (self.peak - self.floor) * 0.5 * (1 + cos(angle))


@dataclass(frozen=True)
@ranged
class MultiStep(Schedule):
    """`peak`, multiplied by `gamma` when each of the epochs in `at` begins."""

    peak: NonNegative
    """The value at the beginning."""
    at: tuple[Natural, ...] = ()
    """Epochs, counted from 0, at which the value falls."""
    gamma: Positive = 0.1
    """Factor by which it falls."""

    def __call__(self, clock: Clock) -> float:
        return self.peak * self.gamma ** sum(clock.epoch >= epoch for epoch in self.at)


AnySchedule = Annotated[Schedule, Constant | StepSchedule | WarmupCosine | MultiStep]
"""A schedule; by name from a command line, one of these."""
