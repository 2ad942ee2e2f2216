"""The training loop of pre-training and fine-tuning."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING

import torch
from torch.profiler import record_function

from unshaken.base.amounts import weights_in_words
from unshaken.base.distributed import processes
from unshaken.base.progress import Advance, progress
from unshaken.base.schedule import Clock, Schedule
from unshaken.base.serialize import to_json
from unshaken.base.shared_batch import averaging_gradients, sharing
from unshaken.base.types import Batch, LossTerms
from unshaken.methods.base import Step
from unshaken.train.averaging import AveragedWeights
from unshaken.train.batch_statistics import look
from unshaken.train.batches import BatchStream, Position
from unshaken.train.gauges import Gauges
from unshaken.train.guard import GuardState
from unshaken.train.observers import RunInfo
from unshaken.train.optim import Optimizer, with_rates
from unshaken.train.profiler import profiled
from unshaken.train.run_dir import Run
from unshaken.train.signals import Interrupted, SignalGuard
from unshaken.train.workload import Pace, work

if TYPE_CHECKING:
    from lightning_fabric import Fabric

LOG_EVERY = 10
"""Steps between two lines of the log. Reading the loss for a line waits for the device."""
SHOW_AFTER = 5.0
"""Seconds after which progress is shown even if no line of the log is due."""


@dataclass(frozen=True, eq=False)
class Execution:
    """Where a training loop computes and writes, and how often it saves. It does not change what is computed.

    run         the run's folder, with its log and checkpoint
    save_every  seconds between checkpoints; 0 saves after every step
    profile     the number of steps to profile: see train/profiler.py
    gauges      what to measure between epochs; None: nothing
    """

    run: Run
    fabric: Fabric
    save_every: float = 60.0
    quiet: bool = False
    profile: int = 0
    gauges: Gauges | None = None


def fit(step: Step, feed: BatchStream, optimizer: Optimizer, lr: Schedule, execution: Execution) -> None:
    """Train the network in place to the end, starting at the run's checkpoint if there is one.

    Raises Interrupted after a signal, once a checkpoint is written, and ValueError if the loss is not finite.
    """
    with training(step, feed, optimizer, execution) as loop:
        loop.go(lr)


@contextmanager
def training(step: Step, feed: BatchStream, optimizer: Optimizer, execution: Execution) -> Iterator[Loop]:
    """Open a training loop that can be run in several goes. While it is open, a signal stops it at a checkpoint.

    Several processes take the same steps; the first of them shows and profiles.
    """
    is_first = processes().rank == 0
    run, fabric, quiet = execution.run, execution.fabric, execution.quiet or not is_first
    rule = with_rates(optimizer.build(step), step)
    position = run.restore(step, rule, fabric.device)
    run.observers.start(RunInfo(run.path.name, run.path, to_json(run.recipe), position.step, feed.epochs))
    if not quiet:
        print(work(run.path.name, feed, position, describe(step, fabric)), file=sys.stderr)
    bar = progress(run.path.name, feed.epochs, "epochs", feed.elapsed(position), quiet)
    profile = execution.profile if is_first else 0
    with SignalGuard() as guard, bar as advance, profiled(step, run.path, profile) as after_step:
        pace = Pace(run.path.name, feed.epochs, quiet)
        yield Loop(step, feed, rule, execution, position, guard, advance, after_step, pace)


def describe(step: Step, fabric: Fabric) -> str:
    """Describe the network's size and precision, and the device."""
    net = step.net
    size = weights_in_words(sum(p.numel() for p in net.parameters()))
    low = net.computation.precision == torch.bfloat16
    many = f", {processes().count} processes" if processes().count > 1 else ""
    return f"{size}, {'bf16' if low else 'float32'} on {fabric.device.type}{many}"


class Loop:
    """A training run at a position. Changes to the network between two calls of `go` are in the next checkpoint."""

    def __init__(
        self,
        step: Step,
        feed: BatchStream,
        rule: torch.optim.Optimizer,
        execution: Execution,
        position: Position,
        guard: SignalGuard,
        advance: Advance,
        after_step: Callable[[], None] = lambda: None,
        pace: Pace | None = None,
    ) -> None:
        self.step, self.feed, self.rule, self.position = step, feed, rule, position
        self.run, self.fabric, self.save_every = execution.run, execution.fabric, execution.save_every
        self.gauges, self.processes = execution.gauges, processes()
        self.guard, self.advance, self.after_step = guard, advance, after_step
        self.pace = pace or Pace(self.run.path.name, feed.epochs, quiet=True)
        self.module, self.stepper = self.fabric.setup(step.train(), rule)
        self.meter = Meter(self.run, feed.elapsed(position), guarded=step.guard is not None)
        self.saved = time.monotonic()

    def go(self, lr: Schedule, until: int | None = None, account: str = "training") -> None:
        """Train until `until` updates have been made in total, or to the end, and save a checkpoint there.

        account  the name under which the run records the seconds
        """
        assert until is None or until > self.position.step
        self.meter.start(account)
        for position, onward, batch in self.feed.after(self.position):
            clock = self.feed.clock(position)
            guard = self.step.guard
            rate = lr(clock) * (guard.rate if isinstance(guard, GuardState) else 1.0)
            self._update(batch, clock, position, rate)
            self._watch(clock)
            self._report(clock, onward, rate)
            self._look(onward)
            self.pace.step(clock.time)
            self.position, finished = onward, onward.epoch == self.feed.epochs or onward.step == until
            code, due = self._agree()
            due = due and self.feed.has_own_views(onward) and (guard is None or self.meter.sound())
            if finished or due:
                self.meter.check(clock)
                self.meter.stop()
                self.run.save(onward, self.step, self.rule, self.fabric.device)
                self.saved = time.monotonic()
            if code is not None and due:
                raise Interrupted(f"stopped after step {onward.step}; the same command resumes from there", code)
            if finished:
                self.meter.stop()
                return

    def _agree(self) -> tuple[int | None, bool]:
        """Return the code with which all processes stop, if any, and whether to save, by the first one's clock."""
        code = self.guard.code or 0  # read once, because it may change at any time
        due = self.processes.rank == 0 and self.meter.now - self.saved >= self.save_every
        word = self.processes.agree(2 * code + due)
        return word // 2 or None, word > 0

    def _update(self, batch: Batch, clock: Clock, position: Position, lr: float) -> None:
        for group in self.rule.param_groups:
            group["lr"] = lr * group.get("rate", 1.0)
        for number in range(self.step.method.updates_per_batch):
            now = replace(clock, update=number) if number else clock
            with record_function("loss"):
                terms = self.module(batch, now, self.feed.key / "step" / position.step)
            with record_function("backward"), sharing(batch.rows, batch.count), averaging_gradients():
                self.fabric.backward(terms["loss"])  # of several processes' gradients Fabric takes the mean
            with record_function("optimizer"):
                if self.step.clip:
                    torch.nn.utils.clip_grad_norm_(self.step.parameters(), self.step.clip)
                self.stepper.step()
                self.rule.zero_grad()
            if isinstance(self.step.average, AveragedWeights):
                self.step.average.update(self.step.net)
        self.meter.note(terms, batch.count)
        self.after_step()

    def _watch(self, clock: Clock) -> None:
        """Let the guard look at the last update, if there is one, and roll back what it finds unsound."""
        guard, net = self.step.guard, self.step.net
        if not isinstance(guard, GuardState):
            return
        reason = guard.note(self.meter.terms, net)
        if reason is None:
            return
        guard.roll_back(net, self.rule)
        if isinstance(self.step.average, AveragedWeights):
            self.step.average.restart(net)
        if self.processes.rank:
            return
        print(
            f"step {clock.step + 1}: {reason}; the run goes back to its last sound weights, with {guard.rate:.3g} of "
            f"the learning rate (rollback {int(guard.rollbacks)})",
            file=sys.stderr,
        )

    def _report(self, clock: Clock, onward: Position, lr: float) -> None:
        """Write a line of the log if one is due; show progress then, and whenever the last time is long ago."""
        due = onward.step % LOG_EVERY == 0 or onward.batch == 0
        if due or self.meter.now - self.meter.since > SHOW_AFTER:
            line = self.meter.read(clock, due) | {"lr": lr}
            if isinstance(self.step.guard, GuardState):
                line |= {"rollbacks": int(self.step.guard.rollbacks)}
            self.advance(*self.meter.describe(line))
            if due:
                self.run.log(line | self._gauged(onward))
        if onward.batch == 0:
            self.run.observers.tell("epoch", onward.epoch)

    def _look(self, onward: Position) -> None:
        """Score the weights if that is due at the end of this epoch. The time has an account of its own."""
        if onward.batch or self.step.kept is None:
            return
        self.meter.stop()
        if score := look(self.step, self.feed, onward.epoch):
            self.run.log({"step": onward.step - 1, "epoch": float(onward.epoch), "keep/score": score[0]})
        self.meter.leave_out("keep")

    def _gauged(self, onward: Position) -> dict[str, float]:
        """Return the gauges if they are due at the end of this epoch. Their time has an account of its own."""
        if self.gauges is None or onward.batch or not self.gauges.due(onward.epoch):
            return {}
        self.meter.stop()
        gauges = self.gauges
        found = self.processes.first(lambda: gauges.measure(self.step.net))
        self.meter.leave_out("gauges")
        return found


class Meter:
    """The terms of the last step, the speed, and whether every loss was finite.

    Terms stay on the device until they are read, since reading them waits for it.
    """

    def __init__(self, run: Run, done: float = 0.0, guarded: bool = False) -> None:
        self.run, self.guarded = run, guarded
        self.done = done
        self.now = self.since = time.monotonic()
        self.images = 0
        self.finite: torch.Tensor | None = None
        self.account = "training"

    def start(self, account: str) -> None:
        """Record seconds from now on under this name; the time since the last step is not recorded."""
        self.account, self.now = account, time.monotonic()

    def stop(self) -> None:
        """Record the seconds since the last step: waiting for the device, or writing a checkpoint."""
        before, self.now = self.now, time.monotonic()
        self.run.spend(self.account, self.now - before)

    def leave_out(self, account: str) -> None:
        """Record the seconds since `stop` under another account, and do not count them in the speed."""
        before, self.now = self.now, time.monotonic()
        self.run.spend(account, self.now - before)
        self.since += self.now - before

    def note(self, terms: LossTerms, images: int) -> None:
        """Record the terms and the number of images of a step."""
        self.terms = {name: value.detach() for name, value in terms.items()}
        self.images += images
        finite = torch.isfinite(self.terms["loss"])
        self.finite = finite if self.finite is None else self.finite & finite
        before, self.now = self.now, time.monotonic()
        self.run.spend(self.account, self.now - before)

    def read(self, clock: Clock, checked: bool = True) -> dict[str, float]:
        """Return the step and epoch, the terms, and the images per second since the last reading.

        checked  raise a ValueError if any loss was not finite, which all processes have to do at the same step
        """
        if checked:
            self.check(clock)
        values = {name: number for name, value in self.terms.items() if isfinite(number := float(value))}
        speed = self.images / max(time.monotonic() - self.since, 1e-9)
        self.since, self.images = time.monotonic(), 0
        return {"step": clock.step, "epoch": clock.time} | values | {"images_per_s": round(speed, 1)}

    def describe(self, line: dict[str, float]) -> tuple[float, str]:
        """Return the epochs since the last call, and a line of the log as text."""
        passed, self.done = line["epoch"] - self.done, line["epoch"]
        terms = " ".join(f"{name} {line[name]:.4g}" for name in self.terms if name in line)
        return passed, f"step {line['step'] + 1}  {terms}  {line['images_per_s']:,.0f} images/s"

    def sound(self) -> bool:
        """Return whether the last loss was finite."""
        return all(bool(torch.isfinite(value)) for value in self.terms.values())

    def check(self, clock: Clock) -> None:
        """Raise a ValueError if any loss was not finite: nothing after it is worth saving. A guard repairs it."""
        if not self.guarded and self.finite is not None and not bool(self.finite):
            exists = self.run.checkpoint.exists()
            last = f"{self.run.checkpoint} holds the last valid state" if exists else "there was no checkpoint yet"
            raise ValueError(
                f"the loss is no longer a finite number (seen at step {clock.step}); {last}; try a lower learning rate"
            )
