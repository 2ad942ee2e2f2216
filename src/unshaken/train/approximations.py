"""Cheaper, approximate pre-training: fewer attack steps, reused attacks, smaller images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from unshaken.base.ranges import Count, ranged
from unshaken.base.schedule import AnySchedule, Clock, Constant
from unshaken.methods.base import Method
from unshaken.nets.network import Encoder, evaluating
from unshaken.train.attack_policy import AttackPolicy, Kept, Replay, attacking
from unshaken.train.batches import end_of_epoch, pixels


@dataclass(frozen=True)
@ranged
class Approximations:
    """Ways to make pre-training cheaper; none by default. docs/speed.md says what each saves and what it costs."""

    steps: AnySchedule = Constant(1.0)
    """Number of attack steps over the epochs, as a fraction of the method's own number, rounded. Fewer steps are
    larger, so that they cover the same distance."""
    replays: Count = 1
    """Number of successive updates on the same views. Only the first one attacks; each later one continues the attack
    by a step along the gradient that the update before it has computed anyway (free adversarial training, Shafahi et
    al., NeurIPS 2019, arXiv:1904.12843). The number of updates per epoch stays the same, so an epoch uses fewer images;
    each epoch draws others."""
    side: AnySchedule = Constant(1.0)
    """Image size of the views in each epoch, as a fraction of the full size, rounded to pixels."""

    def __post_init__(self) -> None:
        if self.replays < 1:
            raise ValueError(f"replays are counted from 1, which is an attack for each update, not {self.replays}")

    def check(self, method: Method, epochs: int) -> None:
        """Raise a ValueError if a schedule leaves its range in any epoch, or if there is no attack to make cheaper."""
        for clock in _clocks(self.steps, epochs):
            if not self.steps(clock) > 0:
                raise ValueError(
                    f"approximations.steps is a fraction of the attack's steps, > 0, not {self.steps(clock):g}"
                )
        for clock in _clocks(self.side, epochs):
            if not 0 < self.side(clock) < 1 + 1e-9:  # a schedule that reaches 1 may exceed it by rounding
                raise ValueError(
                    f"approximations.side is a fraction of the images' side, in (0, 1], not {self.side(clock):g}"
                )
        if method.updates_per_batch > 1 and self.replays > 1:
            raise ValueError(
                f"{type(method).__name__} makes {method.updates_per_batch} updates on each batch already: no replays"
            )
        if not attacking(method) and (self.steps, self.replays) != (Approximations.steps, Approximations.replays):
            raise ValueError(f"{type(method).__name__} makes no attack, so no attack can be made cheaper")

    def fit(self, encoder: Encoder, channels: int, side: int, epochs: int) -> None:
        """Raise a ValueError if the encoder cannot read the smallest of the images."""
        least = min(pixels(self.side(clock), side) for clock in _clocks(self.side, epochs))
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

    def policy(self, updates: int = 1) -> AttackPolicy | None:
        """Return the policy for the method's attacks; None if they stay as they are.

        updates  the method's updates on each batch, which share an attack
        """
        if (self.steps, self.replays) == (Approximations.steps, Approximations.replays) and updates == 1:
            return None
        return AttackPolicy(self.steps, Replay() if self.replays > 1 else Kept() if updates > 1 else None)


def _clocks(schedule: AnySchedule, epochs: int) -> Iterator[Clock]:
    """The clocks at which a schedule is checked: at the end of each epoch; of one that is constant, of the first."""
    return (end_of_epoch(epoch, epochs) for epoch in range(1 if isinstance(schedule, Constant) else epochs))
