"""How far a run is: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Protocol


class Display(Protocol):
    """Told after every step, and closed at the end."""

    def __enter__(self) -> Display: ...
    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
    def show(self, done: float, epoch: int, step: int, terms: dict[str, float], speed: float) -> None: ...


def display(name: str, epochs: int, quiet: bool = False) -> Display:
    """On standard error, so that standard output holds results alone. `done` counts epochs, and may be fractional."""
    if quiet:
        return Silence()
    return Bar(name, epochs) if sys.stderr.isatty() else Lines(name, epochs)


class Silence:
    """Says nothing."""

    def __enter__(self) -> Silence:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, done: float, epoch: int, step: int, terms: dict[str, float], speed: float) -> None:
        pass


class Bar:
    """One live line: epoch, step, the loss's terms, images a second, time left."""

    def __init__(self, name: str, epochs: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.name, self.epochs = name, epochs
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
        )

    def __enter__(self) -> Bar:
        self.progress.start()
        self.task = self.progress.add_task(self.name, total=self.epochs, state="")
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, done: float, epoch: int, step: int, terms: dict[str, float], speed: float) -> None:
        state = f"epoch {epoch}/{self.epochs} step {step} {spell(terms)} {speed:,.0f} img/s"
        self.progress.update(self.task, completed=done, state=state)


class Lines:
    """A line now and then: at least 10 seconds apart."""

    def __init__(self, name: str, epochs: int) -> None:
        self.name, self.epochs = name, epochs
        self.begun = self.last = time.monotonic()
        self.first: float | None = None

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, done: float, epoch: int, step: int, terms: dict[str, float], speed: float) -> None:
        now = time.monotonic()
        self.first = done if self.first is None else self.first
        if now - self.last < 10 and done < self.epochs:
            return
        self.last = now
        pace = (now - self.begun) / max(done - self.first, 1e-9)
        left = f"{pace * (self.epochs - done):.0f} s left" if done > self.first else ""
        text = f"{self.name}  epoch {epoch}/{self.epochs}  step {step}  {spell(terms)}  {speed:,.0f} images/s  {left}"
        print(text.rstrip(), file=sys.stderr, flush=True)


def spell(terms: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in terms.items())
