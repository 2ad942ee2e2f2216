"""The loop; there is one, for pre-training and for fine-tuning alike."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch.profiler import record_function

from unshaken.base.progress import Advance, progress
from unshaken.base.schedule import Clock, Schedule
from unshaken.base.types import Batch, LossTerms
from unshaken.methods.base import Step
from unshaken.train.batches import BatchStream, Position
from unshaken.train.optim import Optimizer
from unshaken.train.profiler import profiled
from unshaken.train.run_dir import Run
from unshaken.train.signals import Interrupted, SignalGuard
from unshaken.train.workload import Pace, work

if TYPE_CHECKING:
    from lightning_fabric import Fabric

LOG_EVERY = 10
"""Steps between lines of the log, which is also when the device is waited for."""
SHOW_AFTER = 5.0
"""Seconds after which slow steps are shown though no line is due."""


def fit(
    step: Step,
    feed: BatchStream,
    optimizer: Optimizer,
    lr: Schedule,
    run: Run,
    fabric: Fabric,
    save_every: float = 60.0,
    quiet: bool = False,
    profile: int = 0,
) -> None:
    """Train in place, from the run's checkpoint if there is one, to the end.

    save_every  seconds between checkpoints; 0 saves after every step
    profile     steps to look at from where it begins: see train/profiler.py
    Raises Stopped after a signal, once a checkpoint is written; ValueError when the loss is no longer a number.
    """
    with training(step, feed, optimizer, run, fabric, save_every, quiet, profile) as whole:
        whole.go(lr)


@contextmanager
def training(
    step: Step,
    feed: BatchStream,
    optimizer: Optimizer,
    run: Run,
    fabric: Fabric,
    save_every: float = 60.0,
    quiet: bool = False,
    profile: int = 0,
) -> Iterator[Loop]:
    """The same in legs, for what has to be done between them; signals are noted for as long as this is open."""
    rule = optimizer.build(step)
    place = run.restore(step, rule, fabric.device)
    if not quiet:
        print(work(run.path.name, feed, place, described(step, fabric)), file=sys.stderr)
    shown = progress(run.path.name, feed.epochs, "epochs", feed.began(place), quiet)
    with SignalGuard() as halt, shown as advance, profiled(step, run.path, profile) as looked:
        pace = Pace(run.path.name, feed.epochs, quiet)
        yield Loop(step, feed, rule, run, fabric, save_every, place, halt, advance, looked, pace)


def described(step: Step, fabric: Fabric) -> str:
    """How large the network is, in which precision it computes, and where."""
    net = step.net
    millions = sum(p.numel() for p in net.parameters()) / 1e6
    low = getattr(net, "precision", torch.float32) == torch.bfloat16
    return f"{millions:.1f} million weights, {'bf16' if low else 'float32'} on {fabric.device.type}"


class Loop:
    """A run at a place. What is done to the network between two legs is saved with the next step that is."""

    def __init__(
        self,
        step: Step,
        feed: BatchStream,
        rule: torch.optim.Optimizer,
        run: Run,
        fabric: Fabric,
        save_every: float,
        place: Position,
        halt: SignalGuard,
        advance: Advance,
        looked: Callable[[], None] = lambda: None,
        pace: Pace | None = None,
    ) -> None:
        self.step, self.feed, self.rule, self.run, self.fabric = step, feed, rule, run, fabric
        self.save_every, self.place, self.halt, self.advance, self.looked = save_every, place, halt, advance, looked
        self.pace = pace or Pace(run.path.name, feed.epochs, quiet=True)
        self.module, self.stepper = fabric.setup(step.train(), rule)
        self.meter, self.saved = Meter(run, feed.began(place)), time.monotonic()

    def go(self, lr: Schedule, until: int | None = None, part: str = "training") -> None:
        """Onward to where `until` updates have been made, or to the end; there is a checkpoint there.

        part  of the run, on whose account the time goes
        """
        assert until is None or until > self.place.step
        self.meter.go_on(part)
        for place, onward, batch in self.feed.after(self.place):
            clock = self.feed.clock(place)
            self._update(batch, clock, place, lr(clock))
            self._tell(clock, onward, lr(clock))
            self.pace.step(clock.time)
            self.place, there = onward, onward.epoch == self.feed.epochs or onward.step == until
            asked = self.halt.code  # once, for it changes with time
            due = asked is not None or self.meter.now - self.saved >= self.save_every
            if there or due and self.feed.rests(onward):
                self.meter.check(clock)
                self.meter.stop()
                self.run.save(onward, self.step, self.rule, self.fabric.device)
                self.saved = time.monotonic()
            if asked is not None and self.feed.rests(onward):
                raise Interrupted(f"stopped after step {onward.step}; the same command goes on from there", asked)
            if there:
                self.meter.stop()
                return

    def _update(self, batch: Batch, clock: Clock, place: Position, lr: float) -> None:
        for group in self.rule.param_groups:
            group["lr"] = lr
        with record_function("loss"):
            terms = self.module(batch, clock, self.feed.key / "step" / place.step)
        with record_function("backward"):
            self.fabric.backward(terms["loss"])
        with record_function("optimizer"):
            self.stepper.step()
            self.rule.zero_grad()
        self.meter.note(terms, len(batch.index))
        self.looked()

    def _tell(self, clock: Clock, onward: Position, lr: float) -> None:
        """A line of the log where one is due, and of progress there and where it is slow."""
        due = onward.step % LOG_EVERY == 0 or onward.batch == 0
        if due or self.meter.now - self.meter.since > SHOW_AFTER:
            line = self.meter.read(clock) | {"lr": lr}
            self.advance(*self.meter.spelled(line))
            if due:
                self.run.log(line)


class Meter:
    """The last step's terms and the pace, fetched from the device only when asked; whether every loss was finite."""

    def __init__(self, run: Run, done: float = 0.0) -> None:
        self.run = run
        self.done = done
        self.now = self.since = time.monotonic()
        self.images = 0
        self.finite: torch.Tensor | None = None
        self.part = "training"

    def go_on(self, part: str) -> None:
        """Time from here on is of this part of the run; what passed since the last step is of none."""
        self.part, self.now = part, time.monotonic()

    def stop(self) -> None:
        """What was waited for since the last step, and a leg's last checkpoint, belong to this part too."""
        before, self.now = self.now, time.monotonic()
        self.run.spend(self.part, self.now - before)

    def note(self, terms: LossTerms, images: int) -> None:
        """After every step."""
        self.terms = {name: value.detach() for name, value in terms.items()}
        self.images += images
        finite = torch.isfinite(self.terms["loss"])
        self.finite = finite if self.finite is None else self.finite & finite
        before, self.now = self.now, time.monotonic()
        self.run.spend(self.part, self.now - before)

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
                f"the loss is no longer a finite number (seen at step {clock.step}); {kept}; try a lower learning rate"
            )
