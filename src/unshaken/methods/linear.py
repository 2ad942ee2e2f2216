"""SLF and ALF: a linear classifier on a frozen encoder, by standard or by adversarial training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch.nn.functional import cross_entropy

from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.base.types import Batch, LossTerms
from unshaken.methods.base import Method
from unshaken.nets.network import Network, frozen


@dataclass(frozen=True)
class SLF(Method):
    """min_c CE(c(f(x)), y), f frozen, its batch norms in eval mode."""

    routes: ClassVar = ("adv",)
    views: ClassVar = 1
    labels: ClassVar = "true"
    frozen: ClassVar = ("encoder",)

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        (x,) = batch.views
        return {"loss": cross_entropy(h(x, "adv"), batch.label)}  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class ALF(Method):
    """min_c max_{x̃ ∈ B_ε[x]} CE(c(f(x̃)), y), f frozen, its batch norms in eval mode."""

    attack: PGD = PGD(steps=10)

    routes: ClassVar = ("adv",)
    views: ClassVar = 1
    labels: ClassVar = "true"
    frozen: ClassVar = ("encoder",)

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        (x,) = batch.views
        with frozen(h):
            x_adv = self.attack(
                lambda x: cross_entropy(h(x, "adv"), batch.label, reduction="none"),  # pyright: ignore[reportArgumentType]
                x,
                (key / "attack").on(x.device),
            )
        return {"loss": cross_entropy(h(x_adv, "adv"), batch.label)}  # pyright: ignore[reportArgumentType]
