"""APGD: projected gradient ascent that adapts its own step size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from unshaken.attacks.ball import AnyBall, Linf, refuse_l1
from unshaken.attacks.base import Attack, Model, choose, over_targets, rows
from unshaken.attacks.objective import dlr, targeted_dlr
from unshaken.base.ranges import Count, Inside, Natural, Unit, ranged
from unshaken.base.rng import Key
from unshaken.base.types import Bool, Float, Int


@dataclass(frozen=True)
@ranged
class APGD(Attack):
    """Auto-PGD (Croce and Hein, ICML 2020, arXiv:2003.01690, Algorithm 1).

        z = Π(x_k + η ∇f(x_k)),   x_{k+1} = Π(x_k + α (z − x_k) + (1 − α)(x_k − x_{k−1}))

    η is 2 ε at first. At a checkpoint w_j it is halved, and the search goes on from the best point, if f rose in fewer
    than ρ of the steps since the last checkpoint, or if neither η nor the best f has changed since then. A checkpoint
    is evaluated as soon as x_{w_j} is computed, as in the authors' code.

    An image that is misclassified is not attacked further.
    """

    ball: AnyBall = Linf(8 / 255)
    loss: Literal["ce", "dlr"] = "ce"
    """f. ce: cross-entropy. dlr: the difference of logits ratio."""
    targets: Natural = 0
    """Number of wrong classes to aim at, one after the other, the likeliest first. 0: no target; the attack moves away
    from the label."""
    steps: Count = 100
    """Number of gradient steps."""
    restarts: Count = 1
    """Number of random starts for each target."""
    rho: Inside = 0.75
    """ρ, the share of steps in which f has to rise."""
    alpha: Unit = 0.75
    """α, the weight of the new step against the momentum."""
    draws: Count = 1
    """Forward passes that each step averages logits, losses and gradients over; 20 for a network that is itself
    random."""

    def __post_init__(self) -> None:
        refuse_l1(self.ball, "APGD")
        if self.steps < 1 or self.restarts < 1 or self.draws < 1 or self.targets < 0:
            values = f"{self.steps}, {self.restarts}, {self.draws} and {self.targets}"
            raise ValueError(f"APGD has steps, restarts and draws ≥ 1 and targets ≥ 0, not {values}")

    def __call__(self, model: Model, x: Tensor, y: Tensor, key: Key) -> Tensor:
        x = x.detach()

        def attempt(at: Tensor, goal: Tensor, key: Key) -> Tensor:
            start = self.ball.sample(
                x, key.on(x.device)
            )  # for all images, so that it does not depend on which of them are left
            return self._climb(model, start[at], x[at], y[at], goal)

        return over_targets(attempt, model, x, y, self.targets, self.restarts, key)

    def _climb(self, model: Model, start: Tensor, x: Tensor, y: Tensor, goal: Tensor) -> Tensor:
        x_adv, at = x.clone(), torch.arange(len(x), device=x.device)
        size = x.new_full((len(x), 1, 1, 1), 2 * self.ball.eps)
        no_rises, all_true = torch.zeros_like(at), torch.ones_like(at, dtype=torch.bool)
        logits, loss, grad = self._evaluate(model, start, y, goal)
        now = APGDState(at, x, y, goal, start, start, grad, loss, start, grad, loss, size, no_rises, loss, all_true)
        checkpoints, last = checkpoints_of(self.steps), 0
        for step in range(self.steps + 1):
            if step:
                point = self._move(now, self.alpha if step > 1 else 1.0)
                logits, loss, grad = self._evaluate(model, point, now.y, now.goal, with_grad=step < self.steps)
                now = now.move(point, loss, grad)
            fell = model.fooled(logits, now.point, now.y)
            if fell.any():
                x_adv[now.at[fell]] = now.point[fell]
                now = rows(now, ~fell)
                if not len(now.at):
                    break
            if step in checkpoints:
                now, last = now.check(self.rho * (step - last)), step
        return x_adv

    def _move(self, now: APGDState, alpha: float) -> Tensor:
        z = self.ball.project(self.ball.ascend(now.point, now.grad, now.size), now.x)
        ahead = now.point + alpha * (z - now.point) + (1 - alpha) * (now.point - now.before)
        return self.ball.project(ahead, now.x)

    def _evaluate(
        self, model: Model, point: Tensor, y: Tensor, goal: Tensor, with_grad: bool = True
    ) -> tuple[Float[Tensor, "N K"], Float[Tensor, "N"], Float[Tensor, "N C H W"]]:
        """Return logits, loss and its gradient; without with_grad, as in the last step, a placeholder for that."""
        draws = []
        for _ in range(self.draws):
            with torch.set_grad_enabled(with_grad):
                x = point.detach().requires_grad_(with_grad)
                logits = model.search(x)
                loss = self._objective(logits, y, goal)
            (grad,) = torch.autograd.grad(loss.sum(), x) if with_grad else (point,)
            draws.append((logits.detach(), loss.detach(), grad))
        means = draws[0] if self.draws == 1 else (torch.stack(each).mean(0) for each in zip(*draws, strict=True))
        logits, loss, grad = means
        return logits, loss, grad.nan_to_num(0, 0, 0)

    def _objective(self, logits: Tensor, y: Tensor, goal: Tensor) -> Float[Tensor, "N"]:
        if self.loss == "dlr":
            return targeted_dlr(logits, y, goal) if self.targets else dlr(logits, y)
        sign = -1 if self.targets else 1
        return sign * cross_entropy(logits, goal, reduction="none")


@dataclass(frozen=True)
class APGDState:
    """The state of the search, with a row for each image that is not misclassified yet.

    goal is the class to reach, or the label to leave.
    """

    at: Int[Tensor, "N"]
    x: Float[Tensor, "N C H W"]
    y: Int[Tensor, "N"]
    goal: Int[Tensor, "N"]
    point: Float[Tensor, "N C H W"]
    before: Float[Tensor, "N C H W"]
    grad: Float[Tensor, "N C H W"]
    loss: Float[Tensor, "N"]
    best: Float[Tensor, "N C H W"]
    best_grad: Float[Tensor, "N C H W"]
    best_loss: Float[Tensor, "N"]
    size: Float[Tensor, "N 1 1 1"]
    rises: Int[Tensor, "N"]  # number since the last checkpoint
    checked_loss: Float[Tensor, "N"]  # best_loss at the last checkpoint
    halved: Bool[Tensor, "N"]  # whether η was halved there

    def move(self, point: Tensor, loss: Tensor, grad: Tensor) -> APGDState:
        better = loss > self.best_loss
        return replace(
            self,
            point=point,
            before=self.point,
            grad=grad,
            loss=loss,
            best=choose(better, point, self.best),
            best_grad=choose(better, grad, self.best_grad),
            best_loss=choose(better, loss, self.best_loss),
            rises=self.rises + (loss > self.loss),
        )

    def check(self, enough: float) -> APGDState:
        """Apply a checkpoint: halve η and return to the best point where f rose too rarely, or nothing changed.

        enough  number of rises since the last checkpoint below which η is halved
        """
        halve = (self.rises < enough) | (~self.halved & (self.best_loss <= self.checked_loss))
        return replace(
            self,
            point=choose(halve, self.best, self.point),
            grad=choose(halve, self.best_grad, self.grad),
            loss=choose(halve, self.best_loss, self.loss),
            size=choose(halve, self.size / 2, self.size),
            rises=torch.zeros_like(self.rises),
            checked_loss=self.best_loss,
            halved=halve,
        )


def checkpoints_of(steps: int) -> frozenset[int]:
    """Return w_j = ⌈p_j · steps⌉,   p_1 = 0.22,   p_{j+1} = p_j + max(p_j − p_{j−1} − 0.03, 0.06)."""
    before, p, found = 0, 22, set()  # p in hundredths, so that it is exact
    while p < 100:
        found.add(-(-p * steps // 100))
        before, p = p, p + max(p - before - 3, 6)
    return frozenset(found)
