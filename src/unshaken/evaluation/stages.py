"""One row of verdicts: how images are tampered with, which answers are right, and the published corrupted images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import torch
from torch import Tensor

from unshaken.attacks.apgd import APGD
from unshaken.attacks.ball import Ball
from unshaken.attacks.base import Attack, Model, wrong
from unshaken.attacks.fab import FAB
from unshaken.attacks.square import Square
from unshaken.base.rng import Key
from unshaken.base.types import Bool, Float, Int
from unshaken.corruptions.corruption import Corruption
from unshaken.data.corrupted import corrupted
from unshaken.nets.network import Network

Perturb = Callable[[Model, Tensor, Tensor, Key, Tensor], Tensor]
"""A model, images, their labels, a key and their places in the set to images that may be harder."""


@dataclass(frozen=True)
class EvaluationStage:
    """One row of verdicts: images are tampered with, and the answers counted.

    after  the row whose wrong answers stay wrong and are not tried again: no attack makes a wrong answer right
    ball   what the tampered images have to lie in, if it is an attack
    calls  how often the attack asks the network about an image at most; 0 where that is not counted
    """

    name: str
    tamper: Perturb
    after: str | None = None
    ball: Ball | None = None
    calls: int = 0


def published(root: str, corruption: Corruption) -> Perturb:
    """The published images of the same places. ValueError if their labels are others."""
    images = cache(lambda: corrupted(Path(root).expanduser(), corruption.name, corruption.severity))

    def tamper(model: Model, x: Tensor, y: Tensor, key: Key, index: Tensor) -> Tensor:
        at = index.cpu()
        if images().pixels.shape[1:] != x.shape[1:]:
            sizes = [" x ".join(map(str, each.shape[1:])) for each in (images().pixels, x)]
            raise ValueError(f"the images in {root} are {sizes[0]}, the test images {sizes[1]}: leave --published out")
        if int(at.max()) >= len(images()) or not torch.equal(images().label[at], y.cpu()):
            raise ValueError(f"the images in {root} have other labels than the test images: they are of another set")
        return images().floats(at).to(x.device)

    return tamper


def published_digest(root: str, corruption: Corruption) -> str:
    """16 hexadecimal digits of the published images under a corruption, and of their labels."""
    folder = Path(root).expanduser()
    files = [folder / f"{name}.npy" for name in (corruption.name, "labels")]
    stamps = [(at.st_ino, at.st_size, at.st_mtime_ns) for at in (file.stat() for file in files if file.is_file())]
    return _digest(folder, corruption.name, corruption.severity, tuple(stamps))


@lru_cache(maxsize=1024)
def _digest(folder: Path, name: str, severity: int, stamps: tuple) -> str:
    """Read again whenever a file is another one."""
    return corrupted(folder, name, severity).digest[:16]


def through(net: Network) -> Callable[[Tensor], Tensor]:
    """A classifier's logits; of one with routes, by the adversarial one."""
    return lambda x: net(x, "adv")


@torch.no_grad()
def correct(net: Network, x: Float[Tensor, "N C H W"], y: Int[Tensor, "N"]) -> Bool[Tensor, "N"]:
    """Whether the highest logit is the label's. If it is no finite number, or any logit is NaN, the answer is wrong."""
    return ~wrong(net(x, "adv"), y)


def inside(x_adv: Tensor, x: Tensor, ball: Ball) -> bool:
    """Whether the images are valid ones of the ball, but for what float32 rounds."""
    near = ball.distance(x_adv, x) <= ball.eps * (1 + 1e-5) + 1e-6
    return bool(near.all() and (x_adv >= 0).all() and (x_adv <= 1).all())


def calls_of(attack: Attack) -> int:
    """How often an attack asks the network about an image at most."""
    match attack:
        case APGD():
            return (attack.steps + 1) * attack.draws * max(attack.targets, 1) * attack.restarts
        case FAB():
            return 2 * attack.steps * max(attack.targets, 1) * attack.restarts
        case Square():
            return (attack.queries + 1) * attack.restarts
    return 0
