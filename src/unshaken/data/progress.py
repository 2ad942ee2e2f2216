"""Progress on stderr: a bar in a terminal, elsewhere a line every ten seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

PAUSE = 10.0
"""Seconds between two lines where there is no terminal, so that short work says nothing there."""


@contextmanager
def progress(caption: str, total: float | None, unit: str) -> Iterator[Callable[[float], None]]:
    """Yield a function to be told how many more units are done."""
    of = f"{'' if total is None else f' of {total:,.0f}'} {unit}"
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(caption, of)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:,.0f}" + of),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(caption, total=total)
        yield lambda amount: bar.advance(task, amount)


def _lines(caption: str, of: str) -> Callable[[float], None]:
    done, last = 0.0, monotonic()

    def advance(amount: float) -> None:
        nonlocal done, last
        done += amount
        if monotonic() - last >= PAUSE:
            last = monotonic()
            print(f"{caption}: {done:,.0f}{of}", file=sys.stderr, flush=True)

    return advance
