"""Progress on stderr: a bar in a terminal, or a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from math import floor
from time import monotonic
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from unshaken.base.terminal import console, printable

if TYPE_CHECKING:
    from rich.console import Console

PAUSE = 10.0
"""Seconds between two lines without a terminal; shorter work prints nothing there."""


@runtime_checkable
class Advance(Protocol):
    """A function to call with the number of units that were completed, and a note to show beside the bar."""

    def __call__(self, amount: float, note: str = "") -> None: ...


@contextmanager
def progress(caption: str, total: float | None, unit: str, done: float = 0.0, quiet: bool = False) -> Iterator[Advance]:
    """Show progress while the block runs, of which `done` units were completed before. Nothing goes to stdout."""
    shown = console(stderr=True)
    if quiet:
        yield lambda amount, note="": None
    elif not shown.is_terminal:
        yield _lines(caption, total, unit, done)
    else:
        with _bar(shown, printable(caption), total, unit, done) as advance:
            yield advance


@contextmanager
def _bar(console: Console, caption: str, total: float | None, unit: str, done: float) -> Iterator[Advance]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[done]}" + _of(total, unit)),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(caption, total=total, completed=done, note="", done=_done(done, total))  # pyright: ignore[reportArgumentType]

        def advance(amount: float, note: str = "") -> None:
            nonlocal done
            done += amount
            bar.update(task, advance=amount, note=printable(note), done=_done(done, total))

        yield advance


def _lines(caption: str, total: float | None, unit: str, done: float) -> Advance:
    before, start = done, monotonic()
    last = start

    def advance(amount: float, note: str = "") -> None:
        nonlocal done, last
        done += amount
        now = monotonic()
        if now - last < PAUSE:
            return
        last = now
        measurable = total is not None and done > before
        left = f"{format_duration((now - start) / (done - before) * (total - done))} left" if measurable else ""
        phrases = (f"{caption}: {_done(done, total)}{_of(total, unit)}", note, left)
        print("  ".join(phrase for phrase in phrases if phrase), file=sys.stderr, flush=True)

    return advance


def format_duration(seconds: float) -> str:
    """Format a duration for reading: 95 s, 12 min, 3 h 20 min, 18 days."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 60 * 48:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes / 1440:,.0f} days"


def _done(done: float, total: float | None) -> str:
    """Format the completed units, rounded down so that nothing counts as done too early; below 100 with a decimal."""
    if total is not None and total < 100 and done != int(done):
        return f"{floor(done * 10) / 10:.1f}"
    return f"{floor(done + 1e-6):,}"


def _of(total: float | None, unit: str) -> str:
    return f"{'' if total is None else f' of {total:,.0f}'} {unit}"
