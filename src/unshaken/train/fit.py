"""The loop; there is one, for pre-training and for fine-tuning alike."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from unshaken.base.clock import Clock, Schedule
from unshaken.base.progress import progress
from unshaken.base.types import Terms
from unshaken.methods.method import Step
from unshaken.train.feed import Feed
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
    start = run.restore(step, rule, fabric.device)
    module, stepper = fabric.setup(step.train(), rule)
    meter, saved = Meter(run, feed.began(start)), time.monotonic()
    with Halt() as halt, progress(run.path.name, feed.epochs, "epochs", feed.began(start), quiet) as advance:
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
                line = meter.read(clock) | {"rate": rate(clock)}
                advance(*meter.spelled(line))
                if due:
                    run.log(line)
            if halt.code is not None or onward.epoch == feed.epochs or meter.now - saved >= save_every:
                meter.check(clock)
                run.save(onward, step, rule, fabric.device)
                saved = time.monotonic()
            if halt.code is not None:
                raise Stopped(f"stopped after step {onward.step}; the same command goes on from there", halt.code)


class Meter:
    """The last step's terms and the pace, fetched from the device only when asked; whether every loss was finite."""

    def __init__(self, run: Run, done: float = 0.0) -> None:
        self.run = run
        self.done = done
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

    def read(self, clock: Clock) -> dict[str, float]:
        """The place in time, the terms, and images a second since the last reading."""
        self.check(clock)
        values = {name: float(value) for name, value in self.terms.items()}
        speed = self.images / max(time.monotonic() - self.since, 1e-9)
        self.since, self.images = time.monotonic(), 0
        return {"step": clock.step, "epoch": clock.time} | values | {"images_per_s": round(speed, 1)}

    def spelled(self, line: dict[str, float]) -> tuple[float, str]:
        """Epochs since the last telling, and the line for people."""
        passed, self.done = line["epoch"] - self.done, line["epoch"]
        terms = " ".join(f"{name} {line[name]:.4g}" for name in self.terms)
        return passed, f"step {line['step'] + 1}  {terms}  {line['images_per_s']:,.0f} images/s"

    def check(self, clock: Clock) -> None:
        """A loss that is no number ends the run here: nothing after it is worth saving."""
        if self.finite is not None and not bool(self.finite):
            sound = self.run.checkpoint.exists()
            kept = f"{self.run.checkpoint} holds the last sound state" if sound else "there was no checkpoint yet"
            raise ValueError(
                f"the loss is no longer a finite number (seen at step {clock.step}); {kept}; try a lower rate.peak"
            )
