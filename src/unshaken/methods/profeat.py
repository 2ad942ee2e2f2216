"""ProFeAT: distillation of a robust student, through the teacher's frozen projector as well as on the features.

Addepalli, Dey, Babu, "ProFeAT: Projected Feature Adversarial Training for Self-Supervised Learning of Robust
Representations", TMLR 2024, arXiv:2406.05796. Checked against val-iisc/ProFeAT at 05c1cea.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unshaken.attacks.pgd import PGD
from unshaken.base.ranges import NonNegative, Unit, ranged
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.base.types import Batch, Float, LossTerms
from unshaken.methods.base import Method, run_attack
from unshaken.methods.deacl import constant_cosine, cosine
from unshaken.nets.network import Network


@dataclass(frozen=True)
@ranged
class ProFeAT(Method):
    """min_f D(f(x_s), T(x_w)) + β D(f(x̃), f(x_s)),   D(a, b) = −(1 − w) cos(a, b) − w cos(g(a), g(b)).

    x_w is a weak view and x_s a strong one of the same image; x̃ = argmax over B_ε[x_s] of
    −cos(f(x̃), f(x_s)) − cos(g(f(x̃)), g(T(x_w))). g is the teacher's projector, frozen: the network's head. Without a
    head g is the identity, and w has no effect. The images x_s and x̃ go through the student apart, x_s before the
    attack; both get gradients, as in the authors' code.
    """

    attack: PGD = PGD(steps=5)
    beta: NonNegative = 8.0
    """β, the weight of the robust term: 8 in the authors' script for CIFAR-100."""
    w: Unit = 0.5
    """w, the weight of the distances behind the projector."""

    routes: ClassVar = ("shared",)
    views: ClassVar = 2
    frozen: ClassVar = ("head",)
    teacher: ClassVar = "frozen"
    score: ClassVar = "distil"

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        x_w, x_s = batch.views
        with torch.no_grad():
            t = h.teacher(x_w, "clean")
        f = h.features(x_s, "shared")
        own, gt = f.detach(), h.head(t)

        def objective(x: Tensor) -> Tensor:
            z = h.features(x, "shared")
            return -cosine(z, own) - cosine(h.head(z), gt)

        x_adv = run_attack(self.attack, h, objective, x_s, key)
        f_adv = h.features(x_adv, "shared")
        distil, robust = self._distance(h, f, t), self._distance(h, f_adv, f)
        return {
            "loss": distil + self.beta * robust,
            "distil": distil.detach(),
            "robust": robust.detach(),
            "constant": (1 - self.w) * constant_cosine(t) + self.w * constant_cosine(gt),
        }

    def _distance(self, h: Network, a: Float[Tensor, "N D"], b: Float[Tensor, "N D"]) -> Float[Tensor, ""]:
        return -((1 - self.w) * cosine(a, b) + self.w * cosine(h.head(a), h.head(b))).mean()
