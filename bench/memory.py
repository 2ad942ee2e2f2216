"""How memory is measured: what the largest size of a fresh process grows by."""

from __future__ import annotations

import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any


def peak(prepare: Callable[..., Callable[[], Any]], *args: Any) -> float:
    """MB of memory that work takes at its largest, beside what was there before it: prepare(*args) gives the work.

    Measured in a process of its own, so that nothing freed before is used again: `prepare` is a module's function.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(_growth, prepare, args).result()


def _growth(prepare: Callable[..., Callable[[], Any]], args: tuple[Any, ...]) -> float:
    work = prepare(*args)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e6  # KiB on Linux
