"""The attacks of one epoch, kept a bit a pixel, so that a selection right after it need not attack again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unshaken.base.clock import Clock
from unshaken.base.keys import Key
from unshaken.base.types import Batch, Float, Int, Terms
from unshaken.methods.method import Method
from unshaken.nets.embed import Network
from unshaken.threat.pgd import PGD, Loss


class Attacks:
    """Which way every pixel of every image was moved: a file of one row an image, on the disk and not in memory.

    After some steps most pixels of x̃ − x are at ±ε, so their signs are nearly all there is to keep: an l∞ attack is
    given again as x + ε · sign, an l2 attack as the step of length ε that way. A row is written with the step that made
    it, and holds the same bits whenever that step is made again, so a run that was killed finds what it needs.
    """

    def __init__(self, file: Path, images: int) -> None:
        self.file, self.images = file, images

    def note(self, index: Int[Tensor, "n"], x: Float[Tensor, "... n C H W"], x_adv: Tensor) -> None:
        up = (x_adv > x) | (x_adv >= 1)  # pushed up, a white pixel stays where it is, as pushed down a black one does
        bits = np.packbits(_by_image(up).cpu().numpy(), axis=1)
        rows = self._rows(bits.shape[1], "r+" if self.file.exists() else "w+")
        rows[index.cpu().numpy()] = bits
        rows.flush()

    def again(
        self, attack: PGD, index: Int[Tensor, "n"], x: Float[Tensor, "... n C H W"]
    ) -> Float[Tensor, "... n C H W"]:
        """x̃ of these images, x being the views that were attacked then."""
        if not self.file.exists():
            raise ValueError(f"{self.file} is gone, and with it the attacks that the next selection was to use again")
        pixels = _by_image(x).shape[1]
        rows = self._rows(-(-pixels // 8), "r")
        bits = torch.from_numpy(np.unpackbits(rows[index.cpu().numpy()], axis=1, count=pixels))
        shape = (len(index), *x.shape[:-4], *x.shape[-3:])
        sign = bits.view(shape).movedim(0, -4).to(x) * 2 - 1
        return attack.ball.project(attack.ball.ascend(x, sign, attack.ball.eps), x)

    def _rows(self, width: int, mode: str) -> np.memmap:
        return np.memmap(self.file, np.uint8, mode, shape=(self.images, width))


def _by_image(x: Tensor) -> Tensor:
    """(... n C H W) -> (n, ...): all that belongs to an image in one row."""
    return x.movedim(-4, 0).flatten(1)


@dataclass(frozen=True)
class Noting:
    """A method at work whose attacks are noted as they are made; all else is its own. (No kind of method to choose.)"""

    method: Method
    attacks: Attacks

    def __getattr__(self, name: str) -> Any:
        return getattr(self.method, name)

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> Terms:
        noted = exchanged(self.method, lambda attack: Noted(attack, self.attacks, batch.index))
        return noted.loss(h, batch, clock, key)


@dataclass(frozen=True, eq=False)
class Noted:
    """An attack that leaves a note of what it found."""

    attack: PGD
    attacks: Attacks
    index: Int[Tensor, "n"]

    def __call__(self, loss: Loss, x: Float[Tensor, "... n C H W"], rng: torch.Generator) -> Tensor:
        x_adv = self.attack(loss, x, rng)
        self.attacks.note(self.index, x, x_adv)
        return x_adv


@dataclass(frozen=True, eq=False)
class Again:
    """What an attack found before, whatever the loss is now."""

    attack: PGD
    attacks: Attacks
    index: Int[Tensor, "n"]

    def __call__(self, loss: Loss, x: Float[Tensor, "... n C H W"], rng: torch.Generator) -> Tensor:
        return self.attacks.again(self.attack, self.index, x)


def exchanged(part: Any, by: Callable[[PGD], Any]) -> Any:
    """The same method with another attack in the place of each that it, or a part of it, holds."""
    if isinstance(part, PGD):
        return by(part)
    if not is_dataclass(part):
        return part
    held = {one.name: getattr(part, one.name) for one in fields(part)}
    new = {name: exchanged(value, by) for name, value in held.items()}
    return replace(part, **{name: value for name, value in new.items() if value is not held[name]})


def hurried(method: Any, steps: int) -> Any:
    """The same with attacks of so many steps, which reach as far: strides grow as steps fall."""

    return exchanged(method, lambda attack: within(attack, steps))


def within(attack: PGD, steps: int) -> PGD:
    """The same attack in so many steps; one that takes none stays as it is."""
    return replace(attack, steps=steps, stride=attack.stride * attack.steps / steps) if attack.steps else attack


def attacking(method: Any) -> bool:
    """Whether a method holds an attack."""
    found: list[PGD] = []
    exchanged(method, lambda attack: found.append(attack) or attack)
    return bool(found)
