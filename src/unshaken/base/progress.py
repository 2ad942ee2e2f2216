"""Progress on stderr: a bar in a terminal, elsewhere a line every ten seconds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console

PAUSE = 10.0
"""Seconds between two lines where there is no terminal, so that short work says nothing there."""


class Advance(Protocol):
    """To be told how many more units are done, and what else is worth a look."""

    def __call__(self, amount: float, note: str = "") -> None: ...


@contextmanager
def progress(caption: str, total: float | None, unit: str, done: float = 0.0, quiet: bool = False) -> Iterator[Advance]:
    """For as long as the work lasts. `done` units were done before; standard output is left for results."""
    from rich.console import Console

    console = Console(stderr=True)
    if quiet:
        yield lambda amount, note="": None
    elif not console.is_terminal:
        yield _lines(caption, total, unit, done)
    else:
        with _bar(console, caption, total, unit, done) as advance:
            yield advance


@contextmanager
def _bar(console: Console, caption: str, total: float | None, unit: str, done: float) -> Iterator[Advance]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.completed:,.0f}" + _of(total, unit)),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(caption, total=total, completed=done, note="")
        yield lambda amount, note="": bar.update(task, advance=amount, note=note)


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
        left = f"{(now - begun) / (done - before) * (total - done):,.0f} s left" if known else ""
        parts = (f"{caption}: {done:,.0f}{_of(total, unit)}", note, left)
        print("  ".join(part for part in parts if part), file=sys.stderr, flush=True)

    return advance


def _of(total: float | None, unit: str) -> str:
    return f"{'' if total is None else f' of {total:,.0f}'} {unit}"
