"""Supervised pre-training: standard (ST), adversarial (SAT), and TRADES.

What transfers from labels, and what the coreset papers train on ImageNet: Madry et al., ICLR 2018, arXiv:1706.06083;
Zhang et al., ICML 2019, arXiv:1901.08573; Salman et al., NeurIPS 2020, arXiv:2007.08489 (robust models transfer
better). One batch-norm route for all images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn.functional import cross_entropy

from unshaken.attacks.pgd import PGD
from unshaken.base.ranges import NonNegative, ranged
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.base.types import Batch, LossTerms
from unshaken.losses.divergence import kl_rows
from unshaken.losses.trades import trades
from unshaken.methods.base import Method
from unshaken.nets.network import Network, frozen


@dataclass(frozen=True)
class ST(Method):
    """min_{c,f} CE(c(f(x)), y)."""

    routes: ClassVar = ("shared",)
    views: ClassVar = 1
    labels: ClassVar = "true"

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        (x,) = batch.views
        return {"loss": cross_entropy(h(x, "shared"), batch.label)}  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class SAT(Method):
    """min_{c,f} max_{x̃ ∈ B_ε[x]} CE(c(f(x̃)), y). The attack sees eval mode; clean images are not trained on."""

    attack: PGD = PGD(steps=10)

    routes: ClassVar = ("shared",)
    views: ClassVar = 1
    labels: ClassVar = "true"

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        (x,), y = batch.views, batch.label
        with frozen(h):
            x_adv = self.attack(
                lambda x: cross_entropy(h(x, "shared"), y, reduction="none"),  # pyright: ignore[reportArgumentType]
                x,
                (key / "attack").on(x.device),
            )
        return {"loss": cross_entropy(h(x_adv, "shared"), y)}  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
@ranged
class TRADES(Method):
    """min_{c,f} CE(c(f(x)), y) + β KL(c(f(x)) ‖ c(f(x̃))),   x̃ = argmax over B_ε[x] of the same KL.

    The train-mode forward passes of clean and of adversarial images are separate, as in the authors' code; that has a
    third one, of the clean images again, which moves the running statistics alone (docs/methods/supervised.md).
    """

    attack: PGD = PGD(steps=10, init="gaussian")
    beta: NonNegative = 6.0

    routes: ClassVar = ("shared",)
    views: ClassVar = 1
    labels: ClassVar = "true"

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        (x,) = batch.views
        with frozen(h):
            with torch.no_grad():
                target = h(x, "shared")
            x_adv = self.attack(lambda x_adv: kl_rows(target, h(x_adv, "shared")), x, (key / "attack").on(x.device))
        loss, natural, robust = trades(h(x, "shared"), h(x_adv, "shared"), batch.label, self.beta)  # pyright: ignore[reportArgumentType]
        return {"loss": loss, "natural": natural, "robust": robust}
