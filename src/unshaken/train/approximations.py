"""Pre-training made cheaper, and no longer quite the same: fewer attack steps, attacks that go on, smaller images."""

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
from unshaken.train.attack_cache import RecordingMethod, attacking, replace_attacks, within
from unshaken.train.batches import all_through, pixels


@dataclass(frozen=True)
@ranged
class Approximations:
    """What is left out of a method's work. By default nothing; docs/speed.md has what each saves, and what it costs."""

    steps: AnySchedule = Constant(1.0)
    """Of the attack, over time, as a part of the method's own steps, rounded; strides grow as steps fall."""
    replays: Count = 1
    """Updates in succession on the same views, from one attack: between them it goes on by the gradient that the update
    took anyway (as in free adversarial training, Shafahi et al., NeurIPS 2019, arXiv:1904.12843). An epoch has as many
    updates as ever, and so many times fewer images, drawn anew each time."""
    side: AnySchedule = Constant(1.0)
    """Of views and images, epoch by epoch, as a part of the full side, rounded to whole pixels."""

    def __post_init__(self) -> None:
        if self.replays < 1:
            raise ValueError(f"replays are counted from 1, which is an attack for each update, not {self.replays}")

    def check(self, method: Method, epochs: int) -> None:
        """ValueError if a schedule leaves its range at any time, or if there is no attack to save at."""
        for epoch in range(epochs):
            clock = all_through(epoch, epochs)
            if not self.steps(clock) > 0:
                raise ValueError(f"savings.steps is a part of the attack's steps, > 0, not {self.steps(clock):g}")
            if not 0 < self.side(clock) < 1 + 1e-9:  # a schedule may come to 1 but for rounding
                raise ValueError(f"savings.side is a part of the images' side, in (0, 1], not {self.side(clock):g}")
        if not attacking(method) and (self.steps, self.replays) != (Approximations.steps, Approximations.replays):
            raise ValueError(f"{type(method).__name__} makes no attack, so there is nothing to save in it")

    def fit(self, encoder: Encoder, channels: int, side: int, epochs: int) -> None:
        """ValueError if the encoder cannot read images as small as these will be."""
        least = min(pixels(self.side(all_through(epoch, epochs)), side) for epoch in range(epochs))
        if least == side:
            return
        try:
            with evaluating(encoder), torch.no_grad():
                encoder(torch.zeros(2, channels, least, least))
        except (AssertionError, RuntimeError):
            raise ValueError(
                f"the network reads no images of {least} pixels, as savings.side has them: choose a larger part, or "
                "another backbone (a ViT reads one side only)"
            ) from None

    def at_work(self, method: Method) -> Method | CheaperMethod:
        """The method, made cheaper; itself if there is nothing to save in it."""
        changed = (self.steps, self.replays) != (Approximations.steps, Approximations.replays)
        return CheaperMethod(method, self, Carried()) if changed else method


class Carried:
    """An attack that goes on: the views it is of, and how far it has come."""

    views: Tensor | None = None
    x_adv: Tensor | None = None


@dataclass(frozen=True, eq=False)
class CheaperMethod:
    """A method at work with cheaper attacks; all else is its own. (No kind of method to choose.)"""

    method: Method
    approximations: Approximations
    carried: Carried

    def __getattr__(self, name: str) -> Any:
        return getattr(self.method, name)

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        if self.carried.views is not batch.views:  # the feed gives the very same ones as long as they are replayed
            self.carried.views, self.carried.x_adv = batch.views, None
        return replace_attacks(self.method, lambda attack: self.cheaper(attack, clock)).loss(h, batch, clock, key)

    def cheaper(self, attack: PGD, clock: Clock) -> PGD | ReplayedAttack:
        attack = within(attack, max(1, round(self.approximations.steps(clock) * attack.steps)))
        return attack if self.approximations.replays == 1 else ReplayedAttack(attack, self.carried)


@dataclass(frozen=True, eq=False)
class ReplayedAttack:
    """An attack that begins as ever, and then takes a step each time it is asked for the same images again.

    The step's gradient is that of the loss of the last update by x̃, which the update's backward pass leaves there.
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
    """The method itself, without what was laid around it for the time of its work."""
    return unwrapped(method.method) if isinstance(method, (RecordingMethod, CheaperMethod)) else method
