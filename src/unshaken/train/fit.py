"""The loop; there is one, for pre-training and for fine-tuning alike."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from unshaken.base.clock import Schedule
from unshaken.base.types import Terms
from unshaken.methods.method import Step
from unshaken.train.display import display
from unshaken.train.feed import Feed, Place
from unshaken.train.halt import Halt, Stopped
from unshaken.train.optim import Optimizer
from unshaken.train.run import Run

if TYPE_CHECKING:
    from lightning_fabric import Fabric

LOG_EVERY = 10
"""Steps between lines of the log, which is also when the device is waited for."""
SHOW_AFTER = 5.0
"""Seconds after which slow steps are shown though no line is due."""


def fit(
    step: Step,
    feed: Feed,
    optimizer: Optimizer,
    rate: Schedule,
    run: Run,
    fabric: Fabric,
    save_every: float = 60.0,
    quiet: bool = False,
) -> None:
    """Train in place, from the run's checkpoint if there is one, to the end.

    save_every  seconds between checkpoints; 0 saves after every step
    Raises Stopped after a signal, once a checkpoint is written; ValueError when the loss is no longer a number.
    """
    rule = optimizer.over(step)
    start = run.restore(step, rule)
    module, stepper = fabric.setup(step.train(), rule)
    meter, saved = Meter(run), time.monotonic()
    with Halt() as halt, display(run.path.name, feed.epochs, quiet) as show:
        for place, onward, batch in feed.after(start):
            clock = feed.clock(place)
            for group in rule.param_groups:
                group["lr"] = rate(clock)
            terms = module(batch, clock, feed.key / "step" / place.step)
            fabric.backward(terms["loss"])
            stepper.step()
            rule.zero_grad()

            meter.note(terms, len(batch.index))
            due = onward.step % LOG_EVERY == 0 or onward.batch == 0
            if due or meter.now - meter.since > SHOW_AFTER:
                values, speed = meter.read(place)
                show.show(clock.time, place.epoch + 1, onward.step, values, speed)
            if due:
                run.log(step=place.step, epoch=clock.time, rate=rate(clock), **values, images_per_s=round(speed, 1))
            ended = onward.epoch == feed.epochs
            if halt.code is not None or ended or time.monotonic() - saved >= save_every:
                meter.check(place)
                run.save(onward, step, rule)
                saved = time.monotonic()
            if halt.code is not None and not ended:
                raise Stopped(f"stopped after step {onward.step}; the same command goes on from there", halt.code)


class Meter:
    """The last step's terms and the pace, fetched from the device only when asked; whether every loss was finite."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.now = self.since = time.monotonic()
        self.images = 0
        self.finite: torch.Tensor | None = None

    def note(self, terms: Terms, images: int) -> None:
        """After every step."""
        self.terms = {name: value.detach() for name, value in terms.items()}
        self.images += images
        finite = torch.isfinite(self.terms["loss"])
        self.finite = finite if self.finite is None else self.finite & finite
        before, self.now = self.now, time.monotonic()
        self.run.seconds += self.now - before

    def read(self, place: Place) -> tuple[dict[str, float], float]:
        """The terms, and images a second since the last reading."""
        self.check(place)
        values = {name: float(value) for name, value in self.terms.items()}
        speed = self.images / max(time.monotonic() - self.since, 1e-9)
        self.since, self.images = time.monotonic(), 0
        return values, speed

    def check(self, place: Place) -> None:
        """A loss that is no number ends the run here: nothing after it is worth saving."""
        if self.finite is not None and not bool(self.finite):
            sound = self.run.checkpoint.exists()
            kept = f"{self.run.checkpoint} holds the last sound state" if sound else "there was no checkpoint yet"
            raise ValueError(
                f"the loss is no longer a finite number (seen at step {place.step}); {kept}; try a lower rate.peak"
            )
