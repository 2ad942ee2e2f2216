"""Measuring the speed of training steps on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from unshaken.methods.base import Step
from unshaken.train.batches import BatchStream, Position
from unshaken.train.loop import LOG_EVERY
from unshaken.train.optim import Optimizer


@dataclass(frozen=True)
class Speed:
    """A measured speed of training steps.

    images_s  images per second, without the first step
    startup   seconds of the first step
    batch     images in each measured step; 0 if it is not known
    """

    images_s: float
    startup: float
    batch: int = 0


MARGIN = 0.9
"""The fraction of the measured speed that remains after checkpoints and progress output."""


def step_speed(step: Step, feed: BatchStream, optimizer: Optimizer, seconds: float) -> Speed:
    """Measure the speed of real training steps for some seconds, with learning rate 0.

    On a CPU, batches start small and grow while they are fast, because one step with a full batch may take minutes.
    """
    rule, full = optimizer.build(step), min(feed.batch_size, feed.count)
    batch, startup = full if torch.accelerator.is_available() else min(16, full), 0.0
    while True:
        sized = replace(feed, batch_size=batch)
        one = partial(train_step, step, rule, sized, endless(sized))
        startup, second = max(startup, seconds_of(one)), seconds_of(one)
        if batch >= full or 4 * second > seconds / 2:
            break
        batch = min(4 * batch, full)
    count = max(1, int(seconds / max(second, 1e-4)))
    return Speed(MARGIN * batch * count / seconds_of(lambda: [one() for _ in range(count)]), startup, batch)


def endless(feed: BatchStream) -> Iterator[tuple[Position, Any]]:
    """Yield full batches forever."""
    while True:
        for position, _, batch in feed.after(Position()):
            if len(batch.index) == feed.batch_size:
                yield position, batch


def train_step(
    step: Step, rule: torch.optim.Optimizer, feed: BatchStream, positions: Iterator[tuple[Position, Any]]
) -> None:
    position, batch = next(positions)
    terms = step(batch, feed.clock(position), feed.key / "step" / position.step)
    terms["loss"].backward()
    rule.step()
    rule.zero_grad()
    if position.step % LOG_EVERY == 0:
        float(terms["loss"].detach())  # like a run that writes a line of its log, which waits for the device


def seconds_of(work: Callable[[], Any]) -> float:
    """Return the seconds until the work is done, including work that the device does asynchronously."""
    _synchronize()
    start = time.monotonic()
    work()
    _synchronize()
    return time.monotonic() - start


def _synchronize() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
