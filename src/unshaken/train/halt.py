"""SIGTERM and Ctrl-C as a question that is asked between steps; and SIGTERM by the clock."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """A run was asked to stop, and has saved where it is. `code` is the exit code that shells expect."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Halt:
    """While open, the first signal only sets `code`; a second Ctrl-C interrupts at once, unsaved.

    Outside the main thread signals are not ours to take, and nothing changes.
    """

    code: int | None = None

    def __enter__(self) -> Halt:
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.code is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.code = 128 + number

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@contextmanager
def stopping(after: float) -> Iterator[None]:
    """As if somebody sent SIGTERM after so many seconds; 0: nobody does."""
    if after < 0:
        raise ValueError(f"a run is stopped after a number of seconds, or with 0 never; not after {after:g}")
    timer = threading.Timer(after, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    if after:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
