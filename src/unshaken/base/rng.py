"""Random numbers by key: equal keys give equal draws, so there is no generator state to save."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from operator import index

import torch


@dataclass(frozen=True)
class Key:
    """A seed and a path, such as seed/"attack"/step, that together name one use of random numbers.

        rng = (Key(seed) / "attack" / clock.step).on(x.device)

    The draws depend on seed and path alone, so a run that stops at any step resumes with the same bits.
    """

    seed: int | str
    path: tuple[int | str, ...] = ()

    def __truediv__(self, part: int | str) -> Key:
        return Key(self.seed, (*self.path, part if isinstance(part, str) else index(part)))

    @property
    def number(self) -> int:
        """63 bits that depend on the seed and the path alone (Python's own hash would differ between processes)."""
        text = repr((self.seed, self.path)).encode()
        return int.from_bytes(blake2b(text, digest_size=8).digest(), "big") >> 1

    def on(self, device: torch.device | str) -> torch.Generator:
        """Return a new generator on a device. A CPU and a GPU draw different numbers from the same key."""
        return torch.Generator(device=device).manual_seed(self.number)
