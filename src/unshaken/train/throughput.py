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
    """The speed of training steps that a run can expect.

    images_s  images per second: the measured speed without first steps, times MARGIN
    startup   seconds of the slowest first step
    batch     images in each measured step; 0 if it is unknown
    """

    images_s: float
    startup: float
    batch: int = 0


MARGIN = 0.9
"""The share of the measured speed that a run keeps when it also writes checkpoints and progress."""


def step_speed(step: Step, feed: BatchStream, optimizer: Optimizer, seconds: float) -> Speed:
    """Measure the speed of real training steps for about `seconds`, with learning rate 0.

    Without an accelerator, batches start at 16 images and grow while they are fast, because one full batch may take
    minutes. The speed may then be that of a smaller batch.
    """
    torch_optimizer, full_batch = optimizer.build(step), min(feed.batch_size, feed.count)
    batch = full_batch if torch.accelerator.is_available() else min(16, full_batch)
    startup = 0.0
    while True:
        resized_feed = replace(feed, batch_size=batch)
        one_step = partial(train_step, step, torch_optimizer, resized_feed, endless(resized_feed))
        startup = max(startup, seconds_of(one_step))
        step_seconds = seconds_of(one_step)
        if batch >= full_batch or 4 * step_seconds > seconds / 2:  # a step of the next size would take half the time
            break
        batch = min(4 * batch, full_batch)
    count = max(1, int(seconds / max(step_seconds, 1e-4)))  # a step of 0 s must not give endless steps
    elapsed = seconds_of(lambda: [one_step() for _ in range(count)])
    return Speed(MARGIN * batch * count / elapsed, startup, batch)


def endless(feed: BatchStream) -> Iterator[tuple[Position, Any]]:
    """Yield full batches forever: a smaller last one would be faster."""
    while True:
        for position, _, batch in feed.after(Position()):
            if len(batch.index) == feed.batch_size:
                yield position, batch


def train_step(
    step: Step, torch_optimizer: torch.optim.Optimizer, feed: BatchStream, batches: Iterator[tuple[Position, Any]]
) -> None:
    """Make one training step."""
    position, batch = next(batches)
    terms = step(batch, feed.clock(position), feed.key / "step" / position.step)
    terms["loss"].backward()
    torch_optimizer.step()
    torch_optimizer.zero_grad()
    if position.step % LOG_EVERY == 0:
        float(terms["loss"].detach())  # a run reads the loss for its log, and waits for the device


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
