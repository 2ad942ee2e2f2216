"""Sharing work between the processes of torch.distributed, or doing all of it in one"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from io import BytesIO
from typing import Any, TypeVar

import torch
from torch import Tensor

from unshaken.base.launchers import launched
from unshaken.base.shared_batch import Rows, sharing

T = TypeVar("T")

PATIENCE = timedelta(hours=12)
"""The longest time that processes wait for work which the first of them does alone, such as decoding images."""


@dataclass(frozen=True)
class Processes:
    """The rank of this process, and the number of processes."""

    rank: int = 0
    count: int = 1

    def rows(self, total: int) -> Rows | None:
        """Return this process's rows of a batch of `total` images; None if it is alone and has all."""
        if self.count == 1:
            return None
        sizes = tuple(total // self.count + (rank < total % self.count) for rank in range(self.count))
        return Rows(self.rank, sizes)

    def each(self, pieces: int, make: Callable[[int], T]) -> list[T]:
        """Return [make(0), make(1), ...] in every process; each element is computed by one process.

        `make` must depend on the number alone; then the result is the same for any number of processes.
        """
        own = [make(piece) for piece in range(self.rank, pieces, self.count)]
        if self.count == 1:
            return own
        from torch import distributed

        saved: list[bytes] = [b""] * self.count
        distributed.all_gather_object(saved, _packed(own), _host_group())
        by_rank = [own if rank == self.rank else _unpacked(saved[rank], self.count) for rank in range(self.count)]
        return [by_rank[piece % self.count][piece // self.count] for piece in range(pieces)]

    def sum(self, x: Tensor) -> Tensor:
        """Add up a tensor over processes, in place and without a gradient."""
        if self.count > 1:
            from torch import distributed

            distributed.all_reduce(x)
        return x

    def agree(self, code: int) -> int:
        """Return the largest code of all processes. It waits for no device."""
        if self.count == 1:
            return code
        from torch import distributed

        word = torch.tensor([code])
        distributed.all_reduce(word, distributed.ReduceOp.MAX, _host_group())
        return int(word)

    def first(self, make: Callable[[], T]) -> T:
        """Return what the first process makes, in all of them; if it raises an error there, all raise it.

        The others wait for it, up to PATIENCE, and `make` runs as in a process that is alone. What is made must fit in
        memory twice, and lie on the CPU.
        """
        if self.count == 1:
            return make()
        from torch import distributed

        told: list[Any] = [None, None]
        error: Exception | None = None
        if self.rank == 0:
            try:
                with _alone():
                    told[0] = make()
            except Exception as raised:
                error, told[1] = raised, _portable(raised)
        distributed.broadcast_object_list(told, 0, _host_group())
        if error is None and told[1] is not None:
            error = told[1]
            error.said_elsewhere = True  # pyright: ignore[reportAttributeAccessIssue]
        if error is not None:
            error.told = True  # pyright: ignore[reportAttributeAccessIssue]
            raise error
        return told[0]  # pyright: ignore[reportReturnType]

    def in_turn(self, make: Callable[[], T]) -> T:
        """Return make(), called by the first process alone and then by the others, which find the files it has left."""
        made: list[T] = []
        self.first(lambda: made.append(make()))
        if made:
            return made[0]
        with _alone():
            return make()

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.agree(0)


def processes() -> Processes:
    """Return the processes of torch.distributed, or this process alone if it is not initialised, or works by itself."""
    from torch import distributed

    if _Group.alone or not (distributed.is_available() and distributed.is_initialized()):
        return Processes()
    return Processes(distributed.get_rank(), distributed.get_world_size())


def leave() -> None:
    """End the group of processes, if there is one; a process that just ended would make the others report an error."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        with suppress(RuntimeError):  # another process has failed
            error = sys.exception()
            if error is None or hasattr(error, "told"):
                processes().wait()
            distributed.destroy_process_group()


class _Group:
    """The state of this process among the others, seen by all threads.

    alone  this process does something by itself, for which the others wait
    host  the default group, and the group of the same processes that talks without waiting for a device
    """

    alone: bool = False
    host: tuple[Any, Any] = (None, None)


@contextmanager
def _alone() -> Iterator[None]:
    before, _Group.alone = _Group.alone, True
    try:
        with sharing(None):
            yield
    finally:
        _Group.alone = before


def _host_group() -> Any:
    """Return the group for words between the hosts: it neither waits for a device nor gives up after minutes."""
    from torch import distributed

    if _Group.host[0] is not distributed.group.WORLD:
        _Group.host = distributed.group.WORLD, distributed.new_group(backend="gloo", timeout=PATIENCE)
    return _Group.host[1]


def _packed(values: Any) -> bytes:
    buffer = BytesIO()
    torch.save(values, buffer)
    return buffer.getvalue()


def _unpacked(saved: bytes, count: int) -> Any:
    """Read what another process has packed; what was on its GPU is now on this process's."""
    group = launched()
    here = f"cuda:{group.local[0] if group else 0}"
    return torch.load(BytesIO(saved), {f"cuda:{k}": here for k in range(count)}, weights_only=False)


def _portable(error: Exception) -> Exception:
    """Return the error, or one with the same words if other processes could not read it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
