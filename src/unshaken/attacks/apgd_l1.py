"""APGD for the l1 ball: sparse steps whose number of pixels follows the best point so far"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from unshaken.attacks.ball import L1, sparse_direction
from unshaken.attacks.base import Attack, Model, choose, over_targets, rows
from unshaken.attacks.objective import dlr, targeted_dlr
from unshaken.base.ranges import Count, Natural, ranged
from unshaken.base.rng import Key
from unshaken.base.types import Float, Int

CHECK = 0.04
"""Share of the steps between two checkpoints."""
SPARSER = 1.5
"""A step changes this factor fewer pixels than the best point has changed."""
SHRINK, SMALLEST = 1.5, 10
"""The step size is divided by SHRINK at a checkpoint, down to ε / SMALLEST."""
SETTLED = 0.95
"""The number of changed pixels has settled if it is at least this share of that at the last checkpoint."""


@dataclass(frozen=True)
@ranged
class APGDL1(Attack):
    """l1-APGD (Croce and Hein, ICML 2021, arXiv:2103.01208).

        x_{k+1} = Π(x_k + η s_k),   s_k = sign(∇f) on the k largest entries, divided by their number

    At each checkpoint k becomes the number of pixels that the best point changes, divided by 1.5. Where that number has
    not settled, the search goes on from the best point with η = ε; elsewhere η is divided by 1.5, down to ε / 10. The
    search begins in balls of 3 ε and 2 ε, with three tenths of the steps in each.
    """

    ball: L1 = L1()
    loss: Literal["ce", "dlr"] = "ce"
    """f. ce: cross-entropy. dlr: the difference of logits ratio."""
    targets: Natural = 0
    """Number of wrong classes to aim at, one after the other, the likeliest first. 0: no target."""
    steps: Count = 100
    """Number of gradient steps."""
    restarts: Count = 1
    """Number of random starts for each target."""

    def __call__(self, model: Model, x: Tensor, y: Tensor, key: Key) -> Tensor:
        x = x.detach()

        def attempt(at: Tensor, goal: Tensor, key: Key) -> Tensor:
            noise = torch.empty_like(x).normal_(generator=key.on(x.device))
            return self._in_phases(model, (x + noise)[at], x[at], y[at], goal)

        return over_targets(attempt, model, x, y, self.targets, self.restarts, key)

    def _in_phases(self, model: Model, start: Tensor, x: Tensor, y: Tensor, goal: Tensor) -> Tensor:
        large = ceil(0.3 * self.steps)
        point = start
        for factor, steps in ((3, large), (2, large), (1, max(self.steps - 2 * large, 1))):
            ball = replace(self.ball, eps=factor * self.ball.eps)
            point, x_adv = self.climb(model, ball, steps, ball.project(point, x), x, y, goal, stop=factor == 1)
        return x_adv

    def climb(
        self, model: Model, ball: L1, steps: int, start: Tensor, x: Tensor, y: Tensor, goal: Tensor, stop: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the points with the highest loss, and x with its misclassified images replaced.

        stop  finish an image once it is misclassified; its best point is then not looked for further
        """
        best, x_adv, at = start.clone(), x.clone(), torch.arange(len(x), device=x.device)
        logits, loss, grad = self._evaluate(model, start, y, goal)
        size = x.new_full((len(x), 1, 1, 1), ball.eps)
        now = APGDL1State(at, x, y, goal, start, grad, start, grad, loss, size, changed(start, x))
        share = now.changed / SPARSER
        every = max(int(CHECK * steps), 1)
        for step in range(steps + 1):
            if step:
                move = now.size * sparse_direction(now.grad, share)
                point = ball.project(now.point + move, now.x)
                logits, loss, grad = self._evaluate(model, point, now.y, now.goal)
                now = now.move(point, loss, grad)
            fell = model.fooled(logits, now.point, now.y) if stop else torch.zeros_like(now.at, dtype=torch.bool)
            if fell.any():
                x_adv[now.at[fell]] = now.point[fell]
                now, share = rows(now, ~fell), share[~fell]
                if not len(now.at):
                    return best, x_adv
            if step and step % every == 0:
                now = now.check(ball.eps)
                share = now.changed / SPARSER
            best[now.at] = now.best
        return best, x_adv

    def _evaluate(
        self, model: Model, point: Tensor, y: Tensor, goal: Tensor
    ) -> tuple[Float[Tensor, "N K"], Float[Tensor, "N"], Float[Tensor, "N C H W"]]:
        with torch.enable_grad():
            x = point.detach().requires_grad_()
            logits = model.search(x)
            if self.loss == "dlr":
                loss = targeted_dlr(logits, y, goal) if self.targets else dlr(logits, y)
            else:
                loss = (-1 if self.targets else 1) * cross_entropy(logits, goal, reduction="none")
            (grad,) = torch.autograd.grad(loss.sum(), x)
        return logits.detach(), loss.detach(), grad.nan_to_num(0, 0, 0)


def changed(point: Float[Tensor, "N C H W"], x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N 1"]:
    """Return the share of an image's entries that differ."""
    return (point != x).flatten(1).double().mean(1, keepdim=True)


@dataclass(frozen=True)
class APGDL1State:
    """The state of the search, with a row for each image that is not misclassified yet; `changed` is of the best point
    at the last checkpoint."""

    at: Int[Tensor, "N"]
    x: Float[Tensor, "N C H W"]
    y: Int[Tensor, "N"]
    goal: Int[Tensor, "N"]
    point: Float[Tensor, "N C H W"]
    grad: Float[Tensor, "N C H W"]
    best: Float[Tensor, "N C H W"]
    best_grad: Float[Tensor, "N C H W"]
    best_loss: Float[Tensor, "N"]
    size: Float[Tensor, "N 1 1 1"]
    changed: Float[Tensor, "N 1"]

    def move(self, point: Tensor, loss: Tensor, grad: Tensor) -> APGDL1State:
        better = loss > self.best_loss
        return replace(
            self,
            point=point,
            grad=grad,
            best=choose(better, point, self.best),
            best_grad=choose(better, grad, self.best_grad),
            best_loss=choose(better, loss, self.best_loss),
        )

    def check(self, eps: float) -> APGDL1State:
        """Apply a checkpoint: count the pixels that the best point changes, and adapt η."""
        count = changed(self.best, self.x)
        sparser = (count < SETTLED * self.changed)[:, 0]
        smaller = (self.size / SHRINK).clamp(eps / SMALLEST, eps)
        return replace(
            self,
            point=choose(sparser, self.best, self.point),
            grad=choose(sparser, self.best_grad, self.grad),
            size=choose(sparser, torch.full_like(self.size, eps), smaller),
            changed=count,
        )
