"""Supervised training by ST, SAT or TRADES, and its fine-tuning forms SLF, ALF and AFF.

Standard, adversarial (Madry et al., ICLR 2018, arXiv:1706.06083) and TRADES (Zhang et al., ICML 2019, arXiv:1901.08573)
training exist twice each. As pre-training (ST, SAT, TRADES) all of the network learns over one batch-norm route; robust
models transfer better (Salman et al., NeurIPS 2020, arXiv:2007.08489). As fine-tuning of a pre-trained encoder, SLF and
ALF train a linear classifier on the frozen encoder, and AFF trains both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from unshaken.attacks.pgd import PGD
from unshaken.base.ranges import NonNegative, ranged
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.base.types import Batch, LossTerms
from unshaken.losses.divergence import kl_rows
from unshaken.losses.trades import trades
from unshaken.methods.base import Method, run_attack
from unshaken.nets.network import Network, frozen


@dataclass(frozen=True)
class ST(Method):
    """min_{c,f} CE(c(f(x)), y): standard training."""

    routes: ClassVar = ("shared",)
    views: ClassVar = 1
    labels: ClassVar = "true"

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        return standard(h, batch, "shared")


@dataclass(frozen=True)
class SLF(Method):
    """min_c CE(c(f(x)), y): standard linear fine-tuning. f is frozen, with its batch norms in eval mode."""

    routes: ClassVar = ("adv",)
    views: ClassVar = 1
    labels: ClassVar = "true"
    frozen: ClassVar = ("encoder",)

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        return standard(h, batch, "adv")


@dataclass(frozen=True)
class SAT(Method):
    """min_{c,f} max_{x̃ ∈ B_ε[x]} CE(c(f(x̃)), y): standard adversarial training, on adversarial images only."""

    attack: PGD = PGD(steps=10)

    routes: ClassVar = ("shared",)
    views: ClassVar = 1
    labels: ClassVar = "true"

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        return adversarial(h, batch, "shared", self.attack, key)


@dataclass(frozen=True)
class ALF(Method):
    """min_c max_{x̃ ∈ B_ε[x]} CE(c(f(x̃)), y): adversarial linear fine-tuning. f is frozen as in SLF."""

    attack: PGD = PGD(steps=10)

    routes: ClassVar = ("adv",)
    views: ClassVar = 1
    labels: ClassVar = "true"
    frozen: ClassVar = ("encoder",)

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        return adversarial(h, batch, "adv", self.attack, key)


@dataclass(frozen=True)
@ranged
class TRADES(Method):
    """min_{c,f} CE(c(f(x)), y) + β KL(c(f(x)) ‖ c(f(x̃))),   x̃ = argmax over B_ε[x] of the same KL.

    Clean and adversarial images have a forward pass in train mode each, as in the authors' code. That has a third one,
    of the clean images again, which only moves the running statistics (docs/methods/supervised.md).
    """

    attack: PGD = PGD(steps=10, init="gaussian")
    beta: NonNegative = 6.0
    """β, the weight of the KL."""

    routes: ClassVar = ("shared",)
    views: ClassVar = 1
    labels: ClassVar = "true"

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        return clean_and_robust(h, batch, ("shared", "shared", "shared"), self.attack, self.beta, key)


@dataclass(frozen=True)
@ranged
class AFF(Method):
    """min_{c,f} CE(c(f(x)), y) + β KL(c(f(x)) ‖ c(f(x̃))): adversarial full fine-tuning, which is TRADES.

    Adversarial images go through the route "adv", which is the one that is evaluated.
    """

    attack: PGD = PGD(steps=10, init="gaussian")
    beta: NonNegative = 6.0
    """β, the weight of the KL."""
    natural: Literal["clean", "adv"] = "clean"
    """Route of clean images. clean: their own route (the dual form). adv: the route of the adversarial images (the
    single form). A network with one set of batch norms ignores it."""
    target: Literal["natural", "clean"] = "natural"
    """The route whose logits the attack moves away from. natural: that of `natural`. clean: always the clean route, as
    in the released post-processing of DynACL-AIR++."""

    views: ClassVar = 1
    labels: ClassVar = "true"

    @property
    def routes(self) -> tuple[str, ...]:
        return ("clean", "adv") if "clean" in (self.natural, self.target) else ("adv",)

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        target = self.natural if self.target == "natural" else "clean"
        return clean_and_robust(h, batch, (self.natural, "adv", target), self.attack, self.beta, key)


def standard(h: Network, batch: Batch, route: str) -> LossTerms:
    """Return the cross-entropy of the clean images."""
    (x,) = batch.views
    return {"loss": cross_entropy(h(x, route), batch.label)}  # pyright: ignore[reportArgumentType]


def adversarial(h: Network, batch: Batch, route: str, attack: PGD, key: Key) -> LossTerms:
    """Return the cross-entropy of images that were attacked, in eval mode, to raise it."""
    (x,), y = batch.views, batch.label

    def loss(x: Tensor) -> Tensor:
        return cross_entropy(h(x, route), y, reduction="none")  # pyright: ignore[reportArgumentType]

    x_adv = run_attack(attack, h, loss, x, key)
    return {"loss": cross_entropy(h(x_adv, route), y)}  # pyright: ignore[reportArgumentType]


def clean_and_robust(
    h: Network, batch: Batch, routes: tuple[str, str, str], attack: PGD, beta: float, key: Key
) -> LossTerms:
    """Return the loss of TRADES and its two terms.

    routes  of clean images, of adversarial images, and of the clean logits that the attack moves away from
    """
    (x,), (clean, adv, away_from) = batch.views, routes
    with frozen(h):
        with torch.no_grad():
            target = h(x, away_from)
        x_adv = run_attack(attack, h, lambda x_adv: kl_rows(target, h(x_adv, adv)), x, key)
    loss, natural, robust = trades(h(x, clean), h(x_adv, adv), batch.label, beta)  # pyright: ignore[reportArgumentType]
    return {"loss": loss, "natural": natural, "robust": robust}
