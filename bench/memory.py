"""Memory: how much a fresh process grows while it works (Linux)."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any


def peak(prepare: Callable[..., Callable[[], Any]], *args: Any) -> tuple[float, Any]:
    """Return the peak memory of work in MB, beyond the memory before it, and its return value.

    prepare(*args), a function of a module, returns the work. It runs in a fresh process, because reused memory of an
    old one would not be counted: in a fork of a server that has only imported the module.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload([prepare.__module__])
    with ProcessPoolExecutor(1, context) as process:
        return process.submit(_growth, prepare, args).result()


def _growth(prepare: Callable[..., Callable[[], Any]], args: tuple[Any, ...]) -> tuple[float, Any]:
    work = prepare(*args)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what there is now
    before = _resident("VmRSS")
    made = work()
    return (_resident("VmHWM") - before) / 1e6, made


def _resident(name: str) -> int:
    """The process's memory in bytes; getrusage's peak would include the parent's."""
    return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
