"""Targeted PGD: PGD towards the likeliest wrong classes, as an attack on a classifier."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from unshaken.attacks.ball import Ball, Linf
from unshaken.attacks.base import Attack, Model, choose, over_targets
from unshaken.attacks.pgd import PGD
from unshaken.base.ranges import Natural, ranged
from unshaken.base.rng import Key


@dataclass(frozen=True)
@ranged
class TargetedPGD(Attack):
    """min over the ball of CE(z(x̃), t), for one class t after the other. Only the last point of the steps counts.

    An image is attacked again, with the next restart and then the next class, until it is misclassified.
    """

    pgd: PGD = PGD(Linf(8 / 255), steps=20)
    targets: Natural = 9
    """Number of wrong classes, the likeliest first. 0: no target; the usual PGD, max over the ball of CE(z(x̃), y)."""

    def __post_init__(self) -> None:
        if self.targets < 0:
            raise ValueError(f"targeted PGD has targets ≥ 0, not {self.targets}")

    @property
    def ball(self) -> Ball:
        return self.pgd.ball

    def __call__(self, model: Model, x: Tensor, y: Tensor, key: Key) -> Tensor:
        x, once, sign = x.detach(), replace(self.pgd, restarts=1), -1 if self.targets else 1

        def attempt(at: Tensor, goal: Tensor, key: Key) -> Tensor:
            def loss(x: Tensor) -> Tensor:
                return sign * cross_entropy(model.search(x), goal, reduction="sum")

            x_adv = once.maximise(loss, x[at], key.on(x.device))
            return choose(model.confirmed(torch.ones_like(at, dtype=torch.bool), x_adv, y[at]), x_adv, x[at])

        return over_targets(attempt, model, x, y, self.targets, self.pgd.restarts, key)
