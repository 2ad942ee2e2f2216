"""Timing: both sides in turn, medians, and the spread of the paired ratios."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from unshaken.compute.runtime import Runtime


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the processor seconds of all threads of this process, and the result of the work.

    With one thread, other programs on the machine hardly change it; with several, it includes waiting threads.
    """
    began = time.process_time()
    made = work()
    return time.process_time() - began, made


def paired(sides: dict[str, list[float]], ours: str, baseline: str) -> dict[str, Any]:
    """Return the numbers of the last line, from the seconds of each side in each round. ratio: baseline / ours, of
    medians."""
    ratios = [b / a for a, b in zip(sides[ours], sides[baseline], strict=True)]
    return {
        "ratio": round(median(sides[baseline]) / median(sides[ours]), 3),
        "spread": [round(min(ratios), 3), round(max(ratios), 3)],
        "ours_s": round(median(sides[ours]), 4),
        "baseline_s": round(median(sides[baseline]), 4),
        "n": len(ratios),
        "world": Runtime().world(torch.device("cpu")),
    }


def as_it_was() -> None:
    """Use glibc's default for large tensors: from 32 MiB on, memory is mapped for each tensor and returned afterwards.

    (By default glibc raises its threshold up to this size.) The memory of smaller tensors stays with the process on
    both sides, because otherwise the next side would have to map it again.
    """
    if sys.platform == "linux":
        for option, value in ((-4, 65536), (-3, 32 << 20)):  # M_MMAP_MAX, M_MMAP_THRESHOLD
            ctypes.CDLL(None).mallopt(option, value)


def tell(line: str) -> None:
    """Print a line about progress on standard error: standard output ends with the JSON object."""
    print(line, file=sys.stderr, flush=True)
