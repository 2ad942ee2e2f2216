"""DeACL: a robust student of an ordinary self-supervised teacher, without labels.

Zhang et al., "Decoupled Adversarial Contrastive Learning for Self-supervised Adversarial Robustness", ECCV 2022,
arXiv:2207.10899. Stage 1 is the teacher T, any encoder that was pre-trained without attacks. Stage 2 is this file; the
student starts from T's weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from unshaken.attacks.pgd import PGD
from unshaken.base.ranges import NonNegative, ranged
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.base.types import Batch, Float, LossTerms
from unshaken.methods.base import Method, run_attack
from unshaken.nets.network import Network


@dataclass(frozen=True)
@ranged
class DeACL(Method):
    """min_f −cos(f(x), T(x)) − γ cos(f(x̃), f(x)),   x̃ = argmax over B_ε[x] of −cos(f(x̃), T(x)); means over the batch.

    x is one weakly augmented view. The gradient of the second term goes through both f(x̃) and f(x). Clean and
    adversarial images share a forward pass and its batch statistics, as published. `constant` in the log is the
    `distil` of the best constant answer; its `robust` is −1.
    """

    attack: PGD = PGD(steps=5)
    gamma: NonNegative = 2.0
    """γ, the weight of the robust term: 2 in the authors' scripts, 3 in their constructor (pantheon5100/DeACL at
    3fb81e3, `trades_k`)."""

    routes: ClassVar = ("shared",)
    views: ClassVar = 1
    teacher: ClassVar = "frozen"
    score: ClassVar = "distil"

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        (x,) = batch.views
        with torch.no_grad():
            target = h.teacher(x, "clean")
        x_adv = run_attack(self.attack, h, lambda x: -cosine(h(x, "shared"), target), x, key)
        f, f_adv = h(torch.stack([x, x_adv]), "shared")
        distil, robust = -cosine(f, target).mean(), -cosine(f_adv, f).mean()
        loss, constant = distil + self.gamma * robust, constant_cosine(target)
        return {"loss": loss, "distil": distil, "robust": robust, "constant": constant}


def cosine(a: Float[Tensor, "N D"], b: Float[Tensor, "N D"]) -> Float[Tensor, "N"]:
    """Return the cosine of the two features of each image."""
    return cosine_similarity(a, b, dim=-1)


def constant_cosine(target: Float[Tensor, "N D"]) -> Float[Tensor, ""]:
    """Return −‖mean of t/‖t‖‖: the mean of −cos(c, t) at the best constant c."""
    return -normalize(target, dim=-1).mean(0).norm()
