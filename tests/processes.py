"""Commands and functions in processes of their own, forked from the test's: Python and PyTorch are loaded already."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from functools import cache, partial
from importlib import import_module
from multiprocessing import forkserver
from pathlib import Path
from tempfile import TemporaryFile

import torch
from jaxtyping import config
from torch import distributed as dist

from unshaken.base.distributed import leave
from unshaken.base.launchers import workers

LIMIT = timedelta(seconds=60)
"""How long processes wait for one another."""


@cache
def loaded() -> None:
    """Import what commands import when they need it: before the forks, once for all of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("lightning_fabric", "torch._inductor", "sklearn.datasets", "unshaken.commands"):
            import_module(name)


class Forked:
    """A process that does some work, with the words of `subprocess.Popen`.

    It computes in one thread: those of OpenMP do not survive a fork.
    """

    def __init__(self, work: Callable[[], object]) -> None:
        loaded()
        self.files = TemporaryFile(), TemporaryFile()  # noqa: SIM115 (communicate() closes them)
        self.returncode: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pytest-xdist has a thread that only listens
            self.pid = os.fork()
        if not self.pid:
            self._work(work)

    def _work(self, work: Callable[[], object]) -> None:
        code = 1
        try:
            for number, file in enumerate(self.files, 1):
                os.dup2(file.fileno(), number)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            warnings.simplefilter("ignore")
            config.update("jaxtyping_disable", True)
            forkserver._forkserver.__init__()  # one that this process's parent started is not its child
            torch.set_num_threads(1)
            work()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            if isinstance(ended.code, str):
                print(ended.code, file=sys.stderr)
        except BaseException:  # whatever it is, the child must not go on with its parent's tests
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def poll(self, flags: int = os.WNOHANG) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, flags)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self) -> int:
        return self.poll(0) or 0

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def said(self) -> tuple[bytes, bytes]:
        """What it has printed so far, and written to stderr."""
        return tuple(os.pread(file.fileno(), 1 << 24, 0) for file in self.files)

    def communicate(self) -> tuple[bytes, bytes]:
        """Wait for its end, and return what it said."""
        self.wait()
        said = self.said()
        for file in self.files:
            file.close()
        return said


def command(*args: str) -> Forked:
    """`unshaken ...` in a process of its own."""
    from unshaken import cli

    return Forked(lambda: sys.exit(cli.run([*args])))


def until(done: Callable[[], bool], process: Forked) -> None:
    """Wait for something that a process does, which must not end before."""
    while not done():
        assert process.poll() is None, f"it ended too early: {process.communicate()[1].decode()}"
        time.sleep(0.005)


def ended(running: list[Forked], seconds: float = 600) -> list[int]:
    """Wait for processes, and return their codes; those that take longer are killed, and it is an error."""
    last = time.monotonic() + seconds
    while any(one.poll() is None for one in running) and time.monotonic() < last:
        time.sleep(0.005)
    late = [one for one in running if one.poll() is None]
    for one in late:
        one.send_signal(signal.SIGKILL)
        one.wait()
    assert not late, "it hangs: " + "\n".join(one.said()[1].decode() for one in running)
    return [one.wait() for one in running]


def together(count: int, work: Callable[[int], object], meeting: Path) -> list[str]:
    """Do the work in `count` processes that meet at a file; returns what each printed. None may fail or hang."""

    def one(rank: int) -> None:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count, timeout=LIMIT)
        work(rank)
        leave()

    return said_by([Forked(partial(one, rank)) for rank in range(count)])


def started(count: int, work: Callable[[int], object]) -> list[Forked]:
    """Start the work in `count` processes with the variables of torchrun, by which the work joins them."""

    def one(rank: int, variables: dict[str, str]) -> None:
        os.environ.update(variables)
        try:
            work(rank)
        finally:
            leave()

    return [Forked(partial(one, rank, variables)) for rank, variables in enumerate(workers(count))]


def said_by(running: list[Forked]) -> list[str]:
    """Wait for processes of which none may fail, and return what they printed."""
    codes = ended(running)
    said = [one.communicate() for one in running]
    assert codes == [0] * len(codes), "\n".join(err.decode() for _, err in said)
    return [out.decode() for out, _ in said]


def launched_together(count: int, work: Callable[[int], object]) -> list[str]:
    """Do the work in processes that join as those of torchrun do; returns what each printed. None may fail or hang."""
    return said_by(started(count, work))
