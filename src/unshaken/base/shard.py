"""Splitting work between processes that do not communicate."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Shard:
    """The process with number `rank`, counted from 1, of `count` processes."""

    rank: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= self.count:
            raise ValueError(f"a shard is one of 1/{self.count} to {self.count}/{self.count}, not {self}")

    @classmethod
    def read(cls, text: str) -> Shard:
        """Parse "1/2", the first of two processes."""
        found = re.fullmatch(r"(\d+)/([1-9]\d*)", text)
        if not found:
            raise ValueError(f"a shard is written 1/2, for the first of two processes, not {text!r}")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.rank}/{self.count}"

    def of(self, pieces: int) -> range:
        """Return the numbers of the pieces that this process works on; each of all pieces has exactly one process."""
        return range(self.rank - 1, pieces, self.count)
