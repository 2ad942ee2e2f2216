"""Which part of some work is one process's: every so many-th piece of it, in no need of talk between processes."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Shard:
    """The rank-th of count processes, counted from 1."""

    rank: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= self.count:
            raise ValueError(f"a shard is one of 1/{self.count} to {self.count}/{self.count}, not {self}")

    @classmethod
    def read(cls, text: str) -> Shard:
        """ "1/2": the first of two."""
        found = re.fullmatch(r"(\d+)/([1-9]\d*)", text)
        if not found:
            raise ValueError(f"a shard is written 1/2, for the first of two processes, not {text!r}")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.rank}/{self.count}"

    def of(self, pieces: int) -> range:
        """Which of so many pieces are this process's. Those of all ranks are all pieces, each once."""
        return range(self.rank - 1, pieces, self.count)
