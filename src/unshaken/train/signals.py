"""Signals, and a limit on time, as a question that is asked between steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LATER = 75
"""The exit code of a command that --stop-after ended: EX_TEMPFAIL of sysexits.h, "try again later"."""


class Interrupted(Exception):
    """A run was asked to stop, and has saved where it is. `code` is the exit code that shells expect."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Deadline:
    """When runs of this process are to stop, in seconds of the monotonic clock; None: never."""

    at: float | None = None


class SignalGuard:
    """While open, the first signal only sets `code`; a second Ctrl-C interrupts at once, unsaved.

    Outside the main thread signals are not ours to take, and nothing changes. A deadline that has passed sets `code`
    too: it is asked for between steps, so a run goes on by one step at least, however little time it has.
    """

    def __init__(self) -> None:
        self._signal: int | None = None

    @property
    def code(self) -> int | None:
        """The exit code with which the run is asked to stop; None while it is not."""
        if self._signal is not None:
            return 128 + self._signal
        return LATER if Deadline.at is not None and monotonic() >= Deadline.at else None

    def __enter__(self) -> SignalGuard:
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@contextmanager
def guard_signals(after: float) -> Iterator[None]:
    """Runs within are asked to stop once so many seconds have passed; 0: they are not.

    Nothing is killed: what has no checkpoint yet, decoding for example, is done first.
    """
    if after < 0:
        raise ValueError(f"a run is stopped after a number of seconds, or with 0 never; not after {after:g}")
    before, Deadline.at = Deadline.at, monotonic() + after if after else None
    try:
        yield
    finally:
        Deadline.at = before
