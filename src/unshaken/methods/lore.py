"""LORE: FARE under a constraint, so that clean images keep their embedding.

Khodabandeh, Afzali et al., "LORE: Lagrangian-Optimized Robust Embeddings for Visual Encoders", arXiv:2505.18884. This
is the paper's Algorithm 1; the authors' code was not read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.ranges import Count, Positive, ranged
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.base.types import Batch, Float, LossTerms
from unshaken.methods.base import Method, run_attack
from unshaken.methods.fare import spread, squared_distance, squared_norm
from unshaken.nets.network import Network


@dataclass(frozen=True)
@ranged
class LORE(Method):
    """min_φ E max_x̃ ‖φ(x̃) − φ₀(x)‖²  subject to  ‖φ(x) − φ₀(x)‖² ≤ ρ ‖φ₀(x)‖²  for every image x.

    Solved as max_ω min_φ E [ ‖φ(x̃) − φ₀(x)‖² + λ_ω(x) c(x) ], c(x) = ‖φ(x) − φ₀(x)‖² − ρ ‖φ₀(x)‖². The multiplier
    λ_ω(x) = softplus(F_ω(φ₀(x)/‖φ₀(x)‖)) ≥ 0 is a small network, the head `Multiplier`; the paper does not say whether
    its input is normalised. A batch has one x̃, then `updates` steps of φ, and in the last of them one step of ω, at
    `dual_rate` times the learning rate.
    """

    attack: PGD = PGD(Linf(4 / 255), steps=10)
    rho: Positive = 0.1
    """ρ, the squared drift of a clean image's embedding that is allowed, relative to the embedding: 0.05 to 0.2 in the
    paper."""
    updates: Count = 5
    """Updates of the encoder for each batch and its attack, K in the paper."""
    dual_rate: Positive = 50.0
    """Learning rate of the multiplier, as a multiple of the encoder's: 5e-4 to 1e-5 in the paper."""

    routes: ClassVar = ("shared",)
    views: ClassVar = 1
    teacher: ClassVar = "frozen"
    score: ClassVar = "drift"
    rates: ClassVar = {"head": "dual_rate"}

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        (x,) = batch.views
        with torch.no_grad():
            target = h.teacher(x, "clean")
        x_adv = run_attack(self.attack, h, lambda x: squared_distance(h(x, "shared"), target), x, key)
        z, z_adv = h(torch.stack([x, x_adv]), "shared")
        loss_adv, drift = squared_distance(z_adv, target).mean(), squared_distance(z, target)
        c = drift - self.rho * target.square().sum(-1)
        lam = h.head.multiplier(target)  # pyright: ignore[reportCallIssue]
        loss = loss_adv + (lam.detach() * c).mean()
        if clock.update == self.updates - 1:
            loss = loss - dual(lam, c)
        unit = squared_norm(target)
        return {
            "loss": loss,
            "robust": loss_adv.detach() / unit,
            "constant": spread(target) / unit,
            "drift": drift.detach().mean() / unit,
            "lambda": lam.detach().mean(),
        }


def dual(lam: Float[Tensor, "N"], c: Float[Tensor, "N"]) -> Float[Tensor, ""]:
    """Return E λ_ω(x) c(x), with a gradient for ω alone: a step of descent along −dual is one of ascent."""
    return (lam * c.detach()).mean()
