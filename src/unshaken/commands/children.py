"""One process for each device of this machine: they train together, or evaluate a share each"""

from __future__ import annotations

import os
import sys

import torch

from unshaken.base.launchers import launched, run_children, workers
from unshaken.base.terminal import OnlyErrors
from unshaken.compute.runtime import Runtime
from unshaken.options import flag_groups, take_option


def train_on_devices(runtime: Runtime, words: list[str]) -> int | None:
    """Run a command in as many processes as the runtime has devices, which share its batches; return their exit code.

    None if this process is to do the work: alone, or as one of those processes.
    """
    if runtime.devices == 1 or launched() is not None:
        return None
    if runtime.nodes > 1:
        raise ValueError(
            "this command starts processes on its own machine only: torchrun or srun starts them on several "
            "(docs/scale.md)"
        )
    runtime.check_count()
    return run_children([(command(words), variables) for variables in workers(runtime.devices)])


def command(words: list[str]) -> list[str]:
    """Return the command of a child, as quiet as this process."""
    quiet = ["--quiet"] if isinstance(sys.stderr, OnlyErrors) else []
    return [sys.executable, "-m", "unshaken", *words, *quiet]


def evaluate_on_devices(name: str, rest: list[str]) -> tuple[int, list[str]]:
    """Evaluate in as many processes as `rest` asks for, each a share of the images.

    Returns an exit code, and the words by which this process then finds all verdicts and writes the result: they have
    the bits of one process with as many threads as each of these.
    """
    typed, others = take_option(rest, "--runtime.devices")
    flags = {group[0] for group in flag_groups(rest)}
    if typed in (None, "1") or launched() is not None or flags & {"--dry-run", "--help", "-h"}:
        return 0, rest
    if not typed.isdecimal() or not int(typed):
        raise ValueError(f"--runtime.devices is a number of devices, such as 2, not {typed!r}")
    for flag, why in (("--until", "depends on all verdicts"), ("--shard", "is one share of the work")):
        if flag in flags:
            raise ValueError(f"{flag} {why}, and --runtime.devices {typed} makes {typed} shares: leave one of them out")
    device, _ = take_option(others, "--runtime.device")
    runtime = Runtime(device or "auto", devices=int(typed))  # pyright: ignore[reportArgumentType]
    runtime.check_count()
    if runtime.kind == "cpu" and "--runtime.threads" not in flags:
        threads = max(1, torch.get_num_threads() // runtime.devices)
        others = [*others, "--runtime.threads", str(threads)]
        print(f"{typed} processes of {threads} thread(s); --runtime.threads sets another number", file=sys.stderr)
    _, shared = take_option(others, "--examples")
    shares = []
    for rank in range(runtime.devices):
        words = ["evaluate", name, *shared, "--shard", f"{rank + 1}/{typed}", *(["--quiet"] if rank else [])]
        shares.append((command(words), {} if runtime.kind == "cpu" else {VISIBLE: visible(rank)}))
    return run_children(shares, together=False, results=False), others


VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible(rank: int) -> str:
    """Return the name of the GPU of a child, among those that this process may use."""
    given = os.environ.get(VISIBLE)
    return given.split(",")[rank] if given else str(rank)
