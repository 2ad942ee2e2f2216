"""The speed of training steps on this machine, measured by a few seconds of real ones that change nothing."""

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

    images_s  images a second, once the first step is over
    startup   seconds of the first step
    """

    images_s: float
    startup: float


MARGIN = 0.9
"""The part of its measured speed that a run is expected to keep beside checkpoints and progress."""


def step_speed(step: Step, feed: BatchStream, optimizer: Optimizer, seconds: float) -> Speed:
    """On a CPU batches grow from small ones as long as they are quick, so that a slow one is not kept for minutes."""
    rule, full = optimizer.build(step), min(feed.batch_size, feed.count)
    batch, startup = full if torch.accelerator.is_available() else min(16, full), 0.0
    while True:
        sized = replace(feed, batch_size=batch)
        one = partial(train_step, step, rule, sized, endless(sized))
        startup, again = max(startup, spent(one)), spent(one)
        if batch >= full or 4 * again > seconds / 2:
            break
        batch = min(4 * batch, full)
    count = max(1, int(seconds / max(again, 1e-4)))
    return Speed(MARGIN * batch * count / spent(lambda: [one() for _ in range(count)]), startup)


def endless(feed: BatchStream) -> Iterator[tuple[Position, Any]]:
    """Full batches for as long as they are asked for. The learning rate of the trial stays 0: no loss can diverge."""
    while True:
        for place, _, batch in feed.after(Position()):
            if len(batch.index) == feed.batch_size:
                yield place, batch


def train_step(
    step: Step, rule: torch.optim.Optimizer, feed: BatchStream, places: Iterator[tuple[Position, Any]]
) -> None:
    place, batch = next(places)
    terms = step(batch, feed.clock(place), feed.key / "step" / place.step)
    terms["loss"].backward()
    rule.step()
    rule.zero_grad()
    if place.step % LOG_EVERY == 0:
        float(terms["loss"].detach())  # a run reads its log then, and a device has to come to an end for it


def spent(work: Callable[[], Any]) -> float:
    """Seconds until the work is done, on a device that computes behind the program too."""
    _settled()
    began = time.monotonic()
    work()
    _settled()
    return time.monotonic() - began


def _settled() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
