"""Stages of an evaluation: each perturbs images by an attack or a corruption."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from unshaken.attacks.apgd import APGD
from unshaken.attacks.apgd_l1 import APGDL1
from unshaken.attacks.ball import Ball
from unshaken.attacks.base import Attack, Model, wrong
from unshaken.attacks.fab import FAB
from unshaken.attacks.own import check_in_ball, within
from unshaken.attacks.pgd import PGD
from unshaken.attacks.square import Square
from unshaken.base.rng import Key
from unshaken.base.types import Bool, Float, Int
from unshaken.corruptions.corruption import Corruption
from unshaken.data.corrupted import corrupted
from unshaken.nets.network import Network

Perturb = Callable[[Model, Tensor, Tensor, Key, Tensor], Tensor]
"""From a model, images, labels, a key and the images' indices in the set to images that may be harder."""


@dataclass(frozen=True)
class EvaluationStage:
    """One stage: images are perturbed, and the network's answers to them are counted.

    after  the stage whose wrong answers stay wrong and are not attacked again
    ball   the ball that holds the perturbed images, if the stage is an attack
    calls  an upper bound on the network's calls for a block; 0 if they are not counted
    """

    name: str
    perturb: Perturb
    after: str | None = None
    ball: Ball | None = None
    calls: int = 0


CLEAN = EvaluationStage("clean", lambda model, x, y, key, index: x)


def attack_stage(name: str, attack: Attack, after: str) -> EvaluationStage:
    """Return the stage of an attack that looks at the model's answers."""

    def perturb(model: Model, x: Tensor, y: Tensor, key: Key, index: Tensor) -> Tensor:
        return attack(model, x, y, key)

    return EvaluationStage(name, perturb, after, attack.ball, most_calls(attack))  # pyright: ignore[reportAttributeAccessIssue]


def own_stage(name: str, attack: Attack) -> EvaluationStage:
    """Return the stage of an attack in the place of PGD. ValueError, when it is run, if it leaves its ball."""
    ball = attack.ball  # pyright: ignore[reportAttributeAccessIssue]

    def perturb(model: Model, x: Tensor, y: Tensor, key: Key, index: Tensor) -> Tensor:
        return check_in_ball(name, attack(model, x, y, key), x, ball)

    return EvaluationStage(name, perturb, "clean", ball, most_calls(attack))


def pgd_stages(attack: PGD) -> Iterator[EvaluationStage]:
    """Yield one stage for each restart of PGD on cross-entropy; the last one is called pgd."""
    once = replace(attack, restarts=1)

    def perturb(model: Model, x: Tensor, y: Tensor, key: Key, index: Tensor) -> Tensor:
        return once.maximise(lambda x: cross_entropy(model.search(x), y, reduction="sum"), x, key.on(x.device))

    names = [*(f"pgd/{start + 1}" for start in range(attack.restarts - 1)), "pgd"]
    for before, name in zip(("clean", *names), names, strict=False):
        yield EvaluationStage(name, perturb, before, attack.ball, attack.steps)


def corruption_stage(name: str, corruption: Corruption, seed: int, published: str | None) -> EvaluationStage:
    """Return the stage of a corruption, on the published images if their folder is given, else on images made here."""
    if published:
        return EvaluationStage(name, published_images(published, corruption))
    key = Key(seed) / "corruptions"  # one key for all blocks: an image is corrupted alike in whichever block it is

    def perturb(model: Model, x: Tensor, y: Tensor, _: Key, index: Tensor) -> Tensor:
        return corruption(x, key, index)

    return EvaluationStage(name, perturb)


def published_images(root: str, corruption: Corruption) -> Perturb:
    """Return a perturbation that reads the published corrupted images. It raises ValueError if their labels differ."""
    images = cache(lambda: corrupted(Path(root).expanduser(), corruption.name, corruption.severity))

    def perturb(model: Model, x: Tensor, y: Tensor, key: Key, index: Tensor) -> Tensor:
        at = index.cpu()
        if images().pixels.shape[1:] != x.shape[1:]:
            sizes = [" x ".join(map(str, each.shape[1:])) for each in (images().pixels, x)]
            raise ValueError(f"the images in {root} are {sizes[0]}, the test images {sizes[1]}: leave --published out")
        if int(at.max()) >= len(images()) or not torch.equal(images().label[at], y.cpu()):
            raise ValueError(f"the images in {root} have other labels than the test images: they are of another set")
        return images().floats(at).to(x.device)

    return perturb


def published_digest(root: str, corruption: Corruption) -> str:
    """Return 16 hexadecimal digits of the published images of a corruption, and of their labels."""
    folder = Path(root).expanduser()
    files = [folder / f"{name}.npy" for name in (corruption.name, "labels")]
    stamps = [(at.st_ino, at.st_size, at.st_mtime_ns) for at in (file.stat() for file in files if file.is_file())]
    return _digest(folder, corruption.name, corruption.severity, tuple(stamps))


@lru_cache(maxsize=1024)
def _digest(folder: Path, name: str, severity: int, stamps: tuple) -> str:
    """The stamps change when a file does, and then the cache reads it again."""
    return corrupted(folder, name, severity).digest[:16]


def logits_of(net: Network) -> Callable[[Tensor], Tensor]:
    """Return the function from images to a classifier's logits, through its adversarial route if it has routes."""
    return lambda x: net(x, "adv")


@torch.no_grad()
def correct(net: Network, x: Float[Tensor, "N C H W"], y: Int[Tensor, "N"]) -> Bool[Tensor, "N"]:
    """Return whether the highest logit is the label's. It is not where any logit is NaN or the highest is infinite."""
    return ~wrong(net(x, "adv"), y)


def in_ball(x_adv: Tensor, x: Tensor, ball: Ball) -> bool:
    """Return whether the images are valid and within the ball, up to rounding in float32."""
    return bool(within(x_adv, x, ball).all())


def most_calls(attack: Attack) -> int:
    """Return an upper bound on an attack's calls of the network for a block of images."""
    match attack:
        case APGD():
            return (attack.steps + 1) * attack.draws * max(attack.targets, 1) * attack.restarts
        case APGDL1():
            return (attack.steps + 3) * max(attack.targets, 1) * attack.restarts
        case FAB():
            return 2 * attack.steps * max(attack.targets, 1) * attack.restarts
        case Square():
            return (attack.queries + 1) * attack.restarts
    return 0
