"""From a command to its first effect: the help, and the first training step of a run on digits.

It measures wall-clock time, because a user waits for it. The baseline is `import torch`, which all training needs: the
ratio is its fraction of the time to the first step, and 1 would be the best.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from bench.clock import paired, tell

MOST = {"help": 0.5, "first step": 10.0, "ten steps of the demo": 10.0}
"""Limits in seconds."""


def compare(data: Path | None, rounds: int, quick: bool) -> dict[str, Any]:
    sides: dict[str, Callable[[], None]] = {
        "python": lambda: python("-c", "pass"),
        "import torch": lambda: python("-c", "import torch"),
        "import unshaken": lambda: python("-c", "import unshaken"),
        "help": lambda: python("-m", "unshaken.cli", "--help"),
        "help of pretrain": lambda: python("-m", "unshaken.cli", "pretrain", "acl/digits", "--help"),
        "first step": lambda: begun(["pretrain", "acl/digits", "--save-every", "0"], "checkpoint.safetensors"),
        "ten steps of the demo": lambda: begun(["demo"], "log.jsonl"),
    }
    if quick:
        sides = {side: sides[side] for side in ("import torch", "help", "first step")}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for k in range(rounds + (not quick)):
        for side, work in sides.items():
            began = time.perf_counter()
            work()
            if k or quick:  # the first brings files into memory
                seconds[side].append(time.perf_counter() - began)
                tell(f"{side:<21} {seconds[side][-1]:6.3f} s")
    return paired(seconds, "first step", "import torch") | {
        "seconds": {side: round(median(times), 3) for side, times in seconds.items()},
        "most": MOST,
        "kept": all(median(seconds[side]) < most for side, most in MOST.items() if side in seconds),
    }


def python(*args: str) -> None:
    subprocess.run([sys.executable, *args], check=True, stdout=subprocess.DEVNULL)


def begun(command: list[str], file: str) -> None:
    """Run a training command until it has written a file: a checkpoint after one step, the log after ten."""
    command = [sys.executable, "-m", "unshaken.cli", *command, "--out"]
    piped = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with TemporaryDirectory() as out, subprocess.Popen([*command, out], **piped) as run:
        try:
            while not list(Path(out).glob(f"**/{file}")):
                if run.poll() is not None:
                    raise RuntimeError(f"no step was made: {run.stderr.read()}")
                time.sleep(0.005)
        finally:
            run.kill()
