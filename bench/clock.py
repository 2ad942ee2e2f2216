"""Timing: sides in turn, medians, and the spread of the paired ratios."""

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

    With one thread others on the machine hardly change it; with several it counts their waiting too.
    """
    began = time.process_time()
    made = work()
    return time.process_time() - began, made


def paired(sides: dict[str, list[float]], ours: str, baseline: str) -> dict[str, Any]:
    """The last line's numbers, from the seconds of each side round by round. ratio: baseline / ours, of medians."""
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
    """Large tensors as glibc has them where nobody tells it otherwise: mapped anew each time, from 32 MiB on.

    (That threshold is where it arrives by itself.) Smaller ones stay with the process on either side, or the next side
    would have to fetch them again.
    """
    if sys.platform == "linux":
        for option, value in ((-4, 65536), (-3, 32 << 20)):  # M_MMAP_MAX, M_MMAP_THRESHOLD
            ctypes.CDLL(None).mallopt(option, value)


def tell(line: str) -> None:
    """Print a line about progress on standard error: standard output ends with the JSON object."""
    print(line, file=sys.stderr, flush=True)
