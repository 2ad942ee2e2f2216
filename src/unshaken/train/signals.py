"""Stopping a run between steps, after a signal or a time limit."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LATER = 75
"""The exit code of a command that --stop-after stopped: EX_TEMPFAIL of sysexits.h, "try again later"."""


class Interrupted(Exception):
    """A run was stopped after it wrote a checkpoint. `code` is the exit code that shells expect."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Deadline:
    """The time at which runs of this process stop, in seconds of the monotonic clock; None: never."""

    at: float | None = None


class SignalGuard:
    """A context in which the first signal only sets `code`; a second Ctrl-C interrupts at once, without saving.

    Python allows signal handlers only in the main thread; in other threads nothing changes. A deadline that has passed
    sets `code` too. It is checked between steps, so a run makes at least one step.
    """

    def __init__(self) -> None:
        self._signal: int | None = None

    @property
    def code(self) -> int | None:
        """The exit code with which the run should stop; None if it should continue."""
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
    """Stop runs inside the block after this many seconds; 0: never.

    Nothing is killed: work without a checkpoint, such as decoding images, finishes first.
    """
    if after < 0:
        raise ValueError(f"a run stops after a number of seconds ≥ 0 (0: never), not after {after:g}")
    before, Deadline.at = Deadline.at, monotonic() + after if after else None
    try:
        yield
    finally:
        Deadline.at = before
