"""The attacks of one epoch, kept a bit a pixel, so that a selection right after it need not attack again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unshaken.attacks.pgd import PGD, Loss
from unshaken.base.json_files import naming
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.base.types import Batch, Float, Int, LossTerms
from unshaken.methods.base import Method
from unshaken.nets.network import Network


class AttackCache:
    """Which way every pixel of every image was moved: a file of one row an image, on the disk and not in memory.

    After some steps most pixels of x̃ − x are at ±ε, so their signs are nearly all there is to keep: an l∞ attack is
    given again as x + ε · sign, an l2 attack as the step of length ε that way. A row is written with the step that made
    it, and holds the same bits whenever that step is made again, so a run that was killed finds what it needs. A
    checksum ends each row.
    """

    def __init__(self, file: Path, images: int) -> None:
        self.file, self.images = file, images

    def note(self, index: Int[Tensor, "n"], x: Float[Tensor, "... n C H W"], x_adv: Tensor) -> None:
        up = (x_adv > x) | (x_adv >= 1)  # pushed up, a white pixel stays where it is, as pushed down a black one does
        rows = np.packbits(_by_image(up).cpu().numpy(), axis=1)
        with naming(self.file), open(self.file, "r+b" if self.file.exists() else "w+b", buffering=0) as file:
            for place, row in zip(index.tolist(), rows, strict=True):
                os.pwrite(file.fileno(), _with_sum(row.tobytes(), place), place * (len(row) + SUM))

    def again(
        self, attack: PGD, index: Int[Tensor, "n"], x: Float[Tensor, "... n C H W"]
    ) -> Float[Tensor, "... n C H W"]:
        """x̃ of these images, x being the views that were attacked then."""
        if not self.file.exists():
            raise ValueError(f"{self.file} is gone, and with it the attacks that the next selection was to use again")
        pixels = _by_image(x).shape[1]
        rows = np.stack([np.frombuffer(row, np.uint8) for row in self._rows(index.tolist(), -(-pixels // 8))])
        bits = torch.from_numpy(np.unpackbits(rows, axis=1, count=pixels))
        shape = (len(index), *x.shape[:-4], *x.shape[-3:])
        sign = bits.view(shape).movedim(0, -4).to(x) * 2 - 1
        return attack.ball.project(attack.ball.ascend(x, sign, attack.ball.eps), x)

    def _rows(self, index: list[int], width: int) -> Iterator[bytes]:
        """The rows of these images, each held against its checksum."""
        with naming(self.file), open(self.file, "rb", buffering=0) as file:
            for place in index:
                stored = os.pread(file.fileno(), width + SUM, place * (width + SUM))
                if stored != _with_sum(stored[:width], place):
                    raise ValueError(
                        f"{self.file} was damaged, or lacks the attack on image {place}: remove checkpoint.safetensors "
                        "beside it to begin anew"
                    )
                yield stored[:width]


SUM = 8
"""Bytes of the checksum at the end of a row."""


def _with_sum(row: bytes, place: int) -> bytes:
    """A row and its checksum, which depends on whose row it is too.

    It lies beside what it is of, so it must not be a CRC: that of a row of nothing but ones is nothing but ones, and a
    disk that fills a block with one byte would be believed.
    """
    return row + blake2b(row, digest_size=SUM, salt=place.to_bytes(16, "little")).digest()


def _by_image(x: Tensor) -> Tensor:
    """(... n C H W) -> (n, ...): all that belongs to an image in one row."""
    return x.movedim(-4, 0).flatten(1)


@dataclass(frozen=True)
class RecordingMethod:
    """A method at work whose attacks are noted as they are made; all else is its own. (No kind of method to choose.)"""

    method: Method
    attacks: AttackCache

    def __getattr__(self, name: str) -> Any:
        return getattr(self.method, name)

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        noted = replace_attacks(self.method, lambda attack: RecordedAttack(attack, self.attacks, batch.index))
        return noted.loss(h, batch, clock, key)


@dataclass(frozen=True, eq=False)
class RecordedAttack:
    """An attack that leaves a note of what it found."""

    attack: PGD
    attacks: AttackCache
    index: Int[Tensor, "n"]

    def __call__(self, loss: Loss, x: Float[Tensor, "... n C H W"], rng: torch.Generator) -> Tensor:
        x_adv = self.attack(loss, x, rng)
        self.attacks.note(self.index, x, x_adv)
        return x_adv


@dataclass(frozen=True, eq=False)
class CachedAttack:
    """What an attack found before, whatever the loss is now."""

    attack: PGD
    attacks: AttackCache
    index: Int[Tensor, "n"]

    def __call__(self, loss: Loss, x: Float[Tensor, "... n C H W"], rng: torch.Generator) -> Tensor:
        return self.attacks.again(self.attack, self.index, x)


def replace_attacks(part: Any, by: Callable[[PGD], Any]) -> Any:
    """The same method with another attack in the place of each that it, or a part of it, holds."""
    if isinstance(part, PGD):
        return by(part)
    if not is_dataclass(part):
        return part
    held = {one.name: getattr(part, one.name) for one in fields(part)}
    new = {name: replace_attacks(value, by) for name, value in held.items()}
    return replace(part, **{name: value for name, value in new.items() if value is not held[name]})  # pyright: ignore[reportArgumentType]


def with_attack_steps(method: Any, steps: int) -> Any:
    """The same with attacks of so many steps, which reach as far: strides grow as steps fall."""

    return replace_attacks(method, lambda attack: within(attack, steps))


def within(attack: PGD, steps: int) -> PGD:
    """The same attack in so many steps; one that takes none stays as it is."""
    return (
        replace(attack, steps=steps, rel_step_size=attack.rel_step_size * attack.steps / steps)
        if attack.steps
        else attack
    )


def attacking(method: Any) -> bool:
    """Whether a method holds an attack."""
    found: list[PGD] = []
    replace_attacks(method, lambda attack: found.append(attack) or attack)
    return bool(found)
