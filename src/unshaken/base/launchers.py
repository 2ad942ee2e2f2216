"""Processes that a launcher has started, by its environment variables; and starting some on this machine."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic, sleep
from types import FrameType

GRACE = 30.0
"""Seconds that processes have to end by themselves after one of them has failed."""
PASSED_ON = (signal.SIGINT, signal.SIGTERM)
PARENT_DIES = 1  # PR_SET_PDEATHSIG of Linux's prctl


@dataclass(frozen=True)
class Launched:
    """This process among those that a launcher has started.

    local  its number on its machine, and how many there are
    """

    launcher: str
    rank: int
    count: int
    local: tuple[int, int]


def launched() -> Launched | None:
    """Return what torchrun or srun says of this process; None if it was started alone.

    An allocation of SLURM is not a start: only srun sets the variables of a step.
    """
    word = os.environ.get
    if word("RANK") and int(word("WORLD_SIZE", "1")) > 1:
        count = int(word("WORLD_SIZE", "1"))
        local = int(word("LOCAL_RANK", "0")), int(word("LOCAL_WORLD_SIZE", str(count)))
        return Launched("torchrun", int(word("RANK", "0")), count, local)
    if word("SLURM_PROCID") and int(word("SLURM_STEP_NUM_TASKS", "1")) > 1:
        count = int(word("SLURM_STEP_NUM_TASKS", "1"))
        here = count // int(word("SLURM_STEP_NUM_NODES", word("SLURM_NNODES", "1")))
        return Launched("srun", int(word("SLURM_PROCID", "0")), count, (int(word("SLURM_LOCALID", "0")), here))
    return None


def workers(count: int) -> list[dict[str, str]]:
    """Return the variables by which `count` processes on this machine find one another, those of torchrun."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // count))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    shared |= {"LOCAL_WORLD_SIZE": str(count), "OMP_NUM_THREADS": threads, "TORCH_CPP_LOG_LEVEL": "ERROR"}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def run_children(
    commands: Sequence[tuple[Sequence[str], Mapping[str, str]]], together: bool = True, results: bool = True
) -> int:
    """Run commands, each with more environment variables, at the same time; return 0, or the code of a failure.

    Signals to this process are passed on, once each. Children have a session of their own, so that Ctrl-C reaches them
    through this process alone; if it is killed, so are they.
    together  they need one another: if one fails, the others are ended after GRACE seconds
    results   show what they print on stdout
    """
    running: list[subprocess.Popen] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        for child in running:
            with suppress(ProcessLookupError):
                child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in PASSED_ON}
    try:
        for words, variables in commands:
            environment = os.environ | dict(variables)
            how = {"env": environment, "start_new_session": True, "preexec_fn": _die_with_parent}
            running.append(subprocess.Popen(words, stdout=None if results else subprocess.DEVNULL, **how))
        return _code_of(running, together)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for child in running:
            if child.poll() is None:
                child.kill()
                child.wait()


def _code_of(running: list[subprocess.Popen], together: bool) -> int:
    """Wait for all; return the code of the first that failed, as a shell would state it."""
    failed, since = 0, 0.0
    while any(child.poll() is None for child in running):
        for child in running:
            if not failed and child.poll():
                failed, since = _shell_code(child.returncode), monotonic()
        if failed and together and monotonic() - since > GRACE:
            return failed
        sleep(0.02)
    return failed or next((_shell_code(child.returncode) for child in running if child.returncode), 0)


def _shell_code(code: int) -> int:
    return 128 - code if code < 0 else code


def _die_with_parent() -> None:
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).prctl(PARENT_DIES, signal.SIGTERM)
