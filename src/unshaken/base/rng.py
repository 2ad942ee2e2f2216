"""Randomness keyed by place: equal paths give equal draws, and there is no generator state to save."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from operator import index

import torch


@dataclass(frozen=True)
class Key:
    """A path from a seed to the place where something random happens.

        rng = (Key(seed) / "attack" / clock.step).on(x.device)

    The draw depends on the path alone, so a run that stops anywhere goes on with the same bits.
    """

    seed: int | str
    path: tuple[int | str, ...] = ()

    def __truediv__(self, part: int | str) -> Key:
        return Key(self.seed, (*self.path, part if isinstance(part, str) else index(part)))

    @property
    def number(self) -> int:
        """63 bits that depend on the seed and the path, and on nothing else (not on Python's own hash)."""
        text = repr((self.seed, self.path)).encode()
        return int.from_bytes(blake2b(text, digest_size=8).digest(), "big") >> 1

    def on(self, device: torch.device | str) -> torch.Generator:
        """A fresh generator on a device. Devices of different kinds draw different numbers from one key."""
        return torch.Generator(device=device).manual_seed(self.number)
