"""Work that processes share: each does its part, and all know the whole; one process does it all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This one's place among those at work."""

    rank: int = 0
    count: int = 1

    def each(self, pieces: int, make: Callable[[int], T]) -> list[T]:
        """[make(0), make(1), ...]: every piece is made by one process and known to all, in the same order.

        What a piece is may depend on its number alone; then the whole is the same for any number of processes.
        """
        mine = [make(piece) for piece in range(self.rank, pieces, self.count)]
        if self.count == 1:
            return mine
        from torch import distributed

        parts: list[list[T]] = [[] for _ in range(self.count)]
        distributed.all_gather_object(parts, mine)
        return [parts[piece % self.count][piece // self.count] for piece in range(pieces)]


def processes() -> Processes:
    """Those that torch.distributed has brought together, or this one alone."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return Processes()
    return Processes(distributed.get_rank(), distributed.get_world_size())
