"""Training time in epochs, and schedules as pure functions of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import cos, floor, pi
from typing import Annotated

from unshaken.base.ranges import Count, Natural, NonNegative, Positive, ranged


@dataclass(frozen=True)
class Clock:
    """The training time of one update.

    step    updates before this one
    epoch   completed epochs before this update
    time    epochs elapsed after this update, in (0, epochs]; may be fractional
    epochs  the total number of epochs
    update  updates on the same batch before this one, for methods that make several
    """

    step: int
    epoch: int
    time: float
    epochs: int
    update: int = 0


class Schedule(ABC):
    """A number that depends on training time alone."""

    @abstractmethod
    def __call__(self, clock: Clock) -> float: ...


@dataclass(frozen=True)
@ranged
class Constant(Schedule):
    """A constant value."""

    value: NonNegative
    """The value in all epochs."""

    def __call__(self, clock: Clock) -> float:
        return self.value


@dataclass(frozen=True)
@ranged
class StepSchedule(Schedule):
    """Equal steps from `start` towards `stop`, one every `every` epochs.

    DynACL's strength is StepSchedule(1, 0, every=50), its ω is StepSchedule(0, 2/3, every=50)
    (Luo et al., ICLR 2023, arXiv:2303.01289). The value would reach `stop` one epoch after the last.
    """

    start: NonNegative
    """The value at the start."""
    stop: NonNegative
    """The value that the schedule approaches."""
    every: Count
    """Number of epochs between two steps of the value."""

    def __call__(self, clock: Clock) -> float:
        done = floor(clock.epoch / self.every) * self.every / clock.epochs
        return self.start + (self.stop - self.start) * done


@dataclass(frozen=True)
@ranged
class WarmupCosine(Schedule):
    """Linear warm-up from 0 to `peak` in `warmup` epochs, then half a cosine down to `floor` at the end."""

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
    """`peak`, multiplied by `gamma` at the beginning of each epoch in `at`."""

    peak: NonNegative
    """The value at the beginning."""
    at: tuple[Natural, ...] = ()
    """Epochs, counted from 0, at which the value falls (milestones)."""
    gamma: Positive = 0.1
    """Factor by which the value is multiplied at each of these epochs."""

    def __call__(self, clock: Clock) -> float:
        return self.peak * self.gamma ** sum(clock.epoch >= epoch for epoch in self.at)


AnySchedule = Annotated[Schedule, Constant | StepSchedule | WarmupCosine | MultiStep]
"""Any of these schedules; the command line selects one by its name."""
