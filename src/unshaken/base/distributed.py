"""Sharing work between the processes of torch.distributed, or doing all of it in one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """The rank of this process, and the number of processes."""

    rank: int = 0
    count: int = 1

    def each(self, pieces: int, make: Callable[[int], T]) -> list[T]:
        """Return [make(0), make(1), ...] in every process; each element is computed by one process.

        `make` must depend on the number alone; then the result is the same for any number of processes.
        """
        own = [make(piece) for piece in range(self.rank, pieces, self.count)]
        if self.count == 1:
            return own
        from torch import distributed

        by_rank: list[list[T]] = [[] for _ in range(self.count)]
        distributed.all_gather_object(by_rank, own)
        return [by_rank[piece % self.count][piece // self.count] for piece in range(pieces)]


def processes() -> Processes:
    """Return the processes of torch.distributed, or this process alone if it is not initialised."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return Processes()
    return Processes(distributed.get_rank(), distributed.get_world_size())
