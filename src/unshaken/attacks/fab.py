"""FAB: steps onto linearised decision boundaries, towards the nearest misclassified image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

import torch
from torch import Tensor

from unshaken.attacks.ball import AnyBall, Ball, Linf, refuse_l1
from unshaken.attacks.base import Attack, Model, choose, over_targets, rows, wrong
from unshaken.base.ranges import Count, Natural, Positive, Unit, ranged
from unshaken.base.rng import Key
from unshaken.base.types import Float, Int

NEWTON = 5
"""Newton steps for the length of a projection. Three are exact where few pixels reach 0 or 1. Where nearly all do, five
stay a little short, and the next step of the attack makes up for that."""


@dataclass(frozen=True)
@ranged
class FAB(Attack):
    """Fast adaptive boundary attack (Croce and Hein, ICML 2020, arXiv:1907.02044, Algorithm 1).

        x_k ← (1 − a)(x_k + η d_k) + a (x + η d),   a = min(‖d_k‖ / (‖d_k‖ + ‖d‖), α_max),
        then, if x_k is misclassified,   x_k ← x + β (x_k − x).

    d_k and d are the shortest ways from x_k and from x to the tangent of the decision boundary. FAB searches for the
    nearest misclassified image, but here an image is finished once one within eps is found. A point that is too far by
    the overshoot η at most is projected onto the ball and tried there.

    A boundary is where the logit of a class equals that of the label. With targets it is that of one class after the
    other. Without, it is that of the class with the nearest tangent, which takes one gradient for each class and step.
    """

    ball: AnyBall = Linf(8 / 255)
    targets: Natural = 9
    """Number of wrong classes to aim at, one after the other, the likeliest first. 0: no target; the attack takes the
    nearest boundary."""
    steps: Count = 100
    """Number of steps."""
    restarts: Count = 1
    """Number of starts. The first is at x, others are in the ball of half the size."""
    alpha_max: Unit = 0.1
    """α_max, the largest weight of the step from x."""
    eta: Positive = 1.05
    """η, the overshoot beyond the tangent."""
    beta: Unit = 0.9
    """β, the share of its distance from x that a misclassified point keeps."""

    def __post_init__(self) -> None:
        refuse_l1(self.ball, "FAB")
        if self.steps < 1 or self.restarts < 1 or self.targets < 0:
            values = f"{self.steps}, {self.restarts} and {self.targets}"
            raise ValueError(f"FAB has steps and restarts ≥ 1 and targets ≥ 0, not {values}")

    def __call__(self, model: Model, x: Tensor, y: Tensor, key: Key) -> Tensor:
        x = x.detach()

        def attempt(at: Tensor, goal: Tensor, key: Key) -> Tensor:
            half = replace(self.ball, eps=self.ball.eps / 2)
            start = half.sample(x, key.on(x.device)) if key.path[-1] else x
            return self._approach(model, start[at], x[at], y[at], goal)

        return over_targets(attempt, model, x, y, self.targets, self.restarts, key)

    @torch.no_grad()
    def _approach(self, model: Model, start: Tensor, x: Tensor, y: Tensor, goal: Tensor) -> Tensor:
        x_adv, now = x.clone(), FABState(torch.arange(len(x), device=x.device), x, y, goal, start)
        for _ in range(self.steps):
            point = self._move(model, now)
            misclassified = wrong(model.search(point), now.y)
            inside = self.ball.project(point, now.x)
            near = misclassified & (self.ball.distance(point, now.x) <= self.eta * self.ball.eps)
            now = replace(now, point=choose(misclassified, now.x + self.beta * (point - now.x), point))
            fell = model.confirmed(near, inside, now.y)
            if fell.any():
                x_adv[now.at[fell]] = inside[fell]
                now = rows(now, ~fell)
                if not len(now.at):
                    break
        return x_adv

    def _move(self, model: Model, now: FABState) -> Tensor:
        gap, w = (self._toward if self.targets else self._nearest)(model, now)
        gap_at_x = gap + (w * (now.x - now.point)).sum((1, 2, 3))
        d_point, d_x = tangent(self.ball, now.point, w, gap), tangent(self.ball, now.x, w, gap_at_x)
        # lengths are at least 1e-8, so that 0 / 0 is ½
        length, length_x = (self.ball.distance(d, torch.zeros_like(d)).clamp_min(1e-8) for d in (d_point, d_x))
        a = (length / (length + length_x)).clamp_max(self.alpha_max)[:, None, None, None]
        return ((1 - a) * (now.point + self.eta * d_point) + a * (now.x + self.eta * d_x)).clamp(0, 1)

    def _toward(self, model: Model, now: FABState) -> tuple[Float[Tensor, "N"], Float[Tensor, "N C H W"]]:
        """Return z_goal − z_y and its gradient."""
        with torch.enable_grad():
            point = now.point.detach().requires_grad_()
            logits = model.search(point)
            gap = (logits.gather(1, now.goal[:, None]) - logits.gather(1, now.y[:, None])).squeeze(1)
            (w,) = torch.autograd.grad(gap.sum(), point)
        return gap.detach().nan_to_num(0, 0, 0), w.nan_to_num(0, 0, 0)

    def _nearest(self, model: Model, now: FABState) -> tuple[Float[Tensor, "N"], Float[Tensor, "N C H W"]]:
        """Return z_i − z_y and its gradient, for the class i with the nearest tangent."""
        with torch.enable_grad():
            point = now.point.detach().requires_grad_()
            logits = model.search(point)
            gaps = logits - logits.gather(1, now.y[:, None])
            sums = gaps.sum(0).unbind()
        nearest = gaps.new_full((len(gaps),), inf)
        gap, w = torch.zeros_like(nearest), torch.zeros_like(now.point)
        for i in range(gaps.shape[1]):
            (grad,) = torch.autograd.grad(sums[i], point, retain_graph=i + 1 < gaps.shape[1])
            grad, value = grad.nan_to_num(0, 0, 0), gaps[:, i].detach().nan_to_num(0, 0, 0)
            # the steepest unit step gains the dual norm of the gradient
            rise = (grad * self.ball.ascend(torch.zeros_like(grad), grad, 1.0)).sum((1, 2, 3))
            away = torch.where(now.y == i, inf, value.abs() / rise)
            closer = away < nearest
            nearest, gap = torch.where(closer, away, nearest), torch.where(closer, value, gap)
            w = choose(closer, grad, w)
        return gap, w


@dataclass(frozen=True)
class FABState:
    """The state of the search, with a row for each image that is not misclassified yet."""

    at: Int[Tensor, "N"]
    x: Float[Tensor, "N C H W"]
    y: Int[Tensor, "N"]
    goal: Int[Tensor, "N"]
    point: Float[Tensor, "N C H W"]


def tangent(
    ball: Ball, x: Float[Tensor, "N C H W"], w: Float[Tensor, "N C H W"], gap: Float[Tensor, "N"], steps: int = NEWTON
) -> Float[Tensor, "N C H W"]:
    """Return the shortest d, in the ball's norm, with ⟨w, d⟩ = −gap and x + d in [0, 1].

    If there is none, d goes as far as pixels allow. Along the steepest direction u every pixel moves by λ|u| until it
    reaches 0 or 1. The gain, Σ |w| min(λ|u|, room), is concave and piecewise linear in λ, so that Newton's method from
    the left finds the root without sorting.
    """
    u = ball.ascend(torch.zeros_like(w), w, 1.0).flatten(1) * -gap.sign()[:, None]
    room = torch.where(u > 0, 1 - x.flatten(1), x.flatten(1))
    pace, weight, gap = u.abs(), w.abs().flatten(1), gap.abs()[:, None]
    full, rise, most = room / pace, weight * pace, weight * room  # full: the λ at which a pixel reaches 0 or 1
    tiny, huge = torch.finfo(w.dtype).tiny, torch.finfo(w.dtype).max
    length = (gap / rise.sum(1, keepdim=True).clamp_min(tiny)).clamp_max(huge)
    for _ in range(steps):
        free = full > length
        slope = torch.where(free, rise, 0).sum(1, keepdim=True)
        left = gap - torch.where(free, 0, most).sum(1, keepdim=True)
        length = torch.where(slope > 0, (left / slope.clamp_min(tiny)).clamp_max(huge), length)
    return (u.sign() * torch.minimum(length * pace, room)).view_as(w)
