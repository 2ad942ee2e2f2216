"""Progress on stderr: a bar in a terminal, elsewhere a line every ten seconds."""

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
"""Seconds between two lines where there is no terminal, so that short work says nothing there."""


@runtime_checkable
class Advance(Protocol):
    """To be told how many more units are done, and what else is worth a look."""

    def __call__(self, amount: float, note: str = "") -> None: ...


@contextmanager
def progress(caption: str, total: float | None, unit: str, done: float = 0.0, quiet: bool = False) -> Iterator[Advance]:
    """For as long as the work lasts. `done` units were done before; standard output is left for results."""
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
    before, begun = done, monotonic()
    last = begun

    def advance(amount: float, note: str = "") -> None:
        nonlocal done, last
        done += amount
        now = monotonic()
        if now - last < PAUSE:
            return
        last = now
        known = total is not None and done > before
        left = f"{format_duration((now - begun) / (done - before) * (total - done))} left" if known else ""
        parts = (f"{caption}: {_done(done, total)}{_of(total, unit)}", note, left)
        print("  ".join(part for part in parts if part), file=sys.stderr, flush=True)

    return advance


def format_duration(seconds: float) -> str:
    """A duration as people say it: 95 s, 12 min, 3 h 20 min, 18 days."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 60 * 48:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes / 1440:,.0f} days"


def _done(done: float, total: float | None) -> str:
    """Rounded down, so that nothing is said to be done before it is; of few units with a decimal place."""
    if total is not None and total < 100 and done != int(done):
        return f"{floor(done * 10) / 10:.1f}"
    return f"{floor(done + 1e-6):,}"


def _of(total: float | None, unit: str) -> str:
    return f"{'' if total is None else f' of {total:,.0f}'} {unit}"
