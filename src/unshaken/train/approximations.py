"""Cheaper, approximate pre-training: fewer attack steps, reused attacks, smaller images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unshaken.attacks.pgd import PGD, Loss
from unshaken.base.ranges import Count, ranged
from unshaken.base.rng import Key
from unshaken.base.schedule import AnySchedule, Clock, Constant
from unshaken.base.types import Batch, Float, LossTerms
from unshaken.methods.base import Method
from unshaken.nets.network import Encoder, Network, evaluating
from unshaken.train.attack_cache import RecordingMethod, attacking, in_steps, replace_attacks
from unshaken.train.batches import end_of_epoch, pixels


@dataclass(frozen=True)
@ranged
class Approximations:
    """Ways to make pre-training cheaper; none by default. docs/speed.md says what each saves and what it costs."""

    steps: AnySchedule = Constant(1.0)
    """The attack's number of steps over time, as a fraction of the method's own, rounded. Fewer steps are larger, so
    that they reach as far."""
    replays: Count = 1
    """The number of successive updates on the same views. Only the first one attacks; each later one continues the
    attack by a step along the gradient that the update before it has computed anyway (free adversarial training,
    Shafahi et al., NeurIPS 2019, arXiv:1904.12843). The number of updates per epoch stays, so an epoch uses fewer
    images, drawn anew each time."""
    side: AnySchedule = Constant(1.0)
    """The side of views and images in each epoch, as a fraction of the full side, rounded to whole pixels."""

    def __post_init__(self) -> None:
        if self.replays < 1:
            raise ValueError(f"replays are counted from 1, which is an attack for each update, not {self.replays}")

    def check(self, method: Method, epochs: int) -> None:
        """Raise a ValueError if a schedule leaves its range in any epoch, or if there is no attack to make cheaper."""
        for epoch in range(epochs):
            clock = end_of_epoch(epoch, epochs)
            if not self.steps(clock) > 0:
                raise ValueError(
                    f"approximations.steps is a fraction of the attack's steps, > 0, not {self.steps(clock):g}"
                )
            if not 0 < self.side(clock) < 1 + 1e-9:  # a schedule that reaches 1 may exceed it by rounding
                raise ValueError(
                    f"approximations.side is a fraction of the images' side, in (0, 1], not {self.side(clock):g}"
                )
        if not attacking(method) and (self.steps, self.replays) != (Approximations.steps, Approximations.replays):
            raise ValueError(f"{type(method).__name__} makes no attack, so no attack can be made cheaper")

    def fit(self, encoder: Encoder, channels: int, side: int, epochs: int) -> None:
        """Raise a ValueError if the encoder cannot read the smallest of the images."""
        least = min(pixels(self.side(end_of_epoch(epoch, epochs)), side) for epoch in range(epochs))
        if least == side:
            return
        try:
            with evaluating(encoder), torch.no_grad():
                encoder(torch.zeros(2, channels, least, least))
        except (AssertionError, RuntimeError):
            raise ValueError(
                f"the network cannot read images of {least} pixels, which approximations.side asks for: choose a "
                "larger fraction, or another backbone (a ViT reads one size only)"
            ) from None

    def at_work(self, method: Method) -> Method | CheaperMethod:
        """Return the method with cheaper attacks, or the method itself if its attacks stay as they are."""
        changed = (self.steps, self.replays) != (Approximations.steps, Approximations.replays)
        return CheaperMethod(method, self, Carried()) if changed else method


class Carried:
    """The state of an attack that later updates continue: the attacked views, and the adversarial images so far."""

    views: Tensor | None = None
    x_adv: Tensor | None = None


@dataclass(frozen=True, eq=False)
class CheaperMethod:
    """A stand-in for a method during training, with cheaper attacks; everything else is the method's own."""

    method: Method
    approximations: Approximations
    carried: Carried

    def __getattr__(self, name: str) -> Any:
        return getattr(self.method, name)

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        if self.carried.views is not batch.views:  # replays of a batch have the identical tensor
            self.carried.views, self.carried.x_adv = batch.views, None
        return replace_attacks(self.method, lambda attack: self.cheaper(attack, clock)).loss(h, batch, clock, key)

    def cheaper(self, attack: PGD, clock: Clock) -> PGD | ReplayedAttack:
        attack = in_steps(attack, max(1, round(self.approximations.steps(clock) * attack.steps)))
        return attack if self.approximations.replays == 1 else ReplayedAttack(attack, self.carried)


@dataclass(frozen=True, eq=False)
class ReplayedAttack:
    """An attack that takes one more step on each later call with the same views.

    The step follows ∂loss/∂x̃, which the backward pass of the update before it has left in x̃.grad.
    """

    attack: PGD
    carried: Carried

    def __call__(self, loss: Loss, x: Float[Tensor, "... C H W"], rng: torch.Generator) -> Tensor:
        before, ball = self.carried.x_adv, self.attack.ball
        if before is None:
            x_adv = self.attack(loss, x, rng)
        else:
            x_adv = ball.project(ball.ascend(before.detach(), before.grad, self.attack.rel_step_size * ball.eps), x)  # pyright: ignore[reportArgumentType]
        self.carried.x_adv = x_adv.detach().requires_grad_()
        return self.carried.x_adv


def unwrapped(method: Method | RecordingMethod | CheaperMethod) -> Method:
    """Return the method itself, without the stand-ins of this module and attack_cache."""
    return unwrapped(method.method) if isinstance(method, (RecordingMethod, CheaperMethod)) else method
