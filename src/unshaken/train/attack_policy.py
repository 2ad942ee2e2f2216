"""Policies for the attacks in a training step: in full, in fewer steps, replayed, or cached."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from torch import Tensor
from torch.profiler import record_function

from unshaken.attacks.base import Loss
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.base.schedule import AnySchedule, Clock
from unshaken.base.types import Batch, Float, Int
from unshaken.methods.base import Method
from unshaken.train.attack_cache import AttackCache


class Replay:
    """The state of an attack that successive updates continue: the attacked views, and x̃ so far.

    Each update's backward pass leaves ∂loss/∂x̃ in x̃.grad, and the next attack on the same views is one step along it.
    With P processes it is P times that (train/loop.py); a step goes by signs or unit vectors and does not see a factor.
    """

    def __init__(self) -> None:
        self.views: Tensor | None = None
        self.x_adv: Tensor | None = None

    def run(self, attack: PGD, loss: Loss, x: Float[Tensor, "... C H W"], key: Key) -> Float[Tensor, "... C H W"]:
        """Attack, or continue the last attack by one step."""
        before, ball = self.x_adv, attack.ball
        if before is None:
            x_adv = attack(loss, x, None, key)
        else:
            x_adv = ball.project(ball.ascend(before.detach(), before.grad, attack.rel_step_size * ball.eps), x)  # pyright: ignore[reportArgumentType]
        self.x_adv = x_adv.detach().requires_grad_()
        return self.x_adv


class Kept:
    """An attack that several updates on the same views share: the attacked views, and x̃."""

    def __init__(self) -> None:
        self.views: Tensor | None = None
        self.x_adv: Tensor | None = None

    def run(self, attack: PGD, loss: Loss, x: Float[Tensor, "... C H W"], key: Key) -> Float[Tensor, "... C H W"]:
        """Attack, or return the x̃ of the attack before."""
        if self.x_adv is None:
            self.x_adv = attack(loss, x, None, key)
        return self.x_adv


@dataclass(frozen=True, eq=False)
class AttackPolicy:
    """A policy for running the attacks of a method in training steps; by default as the method states them.

    steps   the number of steps over time, as a fraction of the attack's own; None: the attack's own
    replay  continue one attack over successive updates on the same views, or keep it; None: each update attacks anew
    record  write each attack to this cache
    reuse   read each attack from this cache instead of running it
    timed   record the attack as a span of a profile
    """

    steps: AnySchedule | None = None
    replay: Replay | Kept | None = None
    record: AttackCache | None = None
    reuse: AttackCache | None = None
    timed: bool = False

    def __call__(self, method: Method, batch: Batch, clock: Clock) -> Method:
        """Return the method with attacks that follow this policy on a batch."""
        if self.replay is not None and self.replay.views is not batch.views:  # replays have the identical tensor
            self.replay.views, self.replay.x_adv = batch.views, None
        return replace_attacks(method, lambda attack: PolicyAttack(self.cheaper(attack, clock), self, batch.index))

    def cheaper(self, attack: PGD, clock: Clock) -> PGD:
        """Return the attack in the number of steps that is due."""
        return attack if self.steps is None else in_steps(attack, max(1, round(self.steps(clock) * attack.steps)))


@dataclass(frozen=True, eq=False)
class PolicyAttack:
    """An attack that follows a policy, on the images with these indices."""

    attack: PGD
    policy: AttackPolicy
    index: Int[Tensor, "n"]

    def __call__(self, loss: Loss, x: Float[Tensor, "... n C H W"], y: None, key: Key) -> Tensor:
        with record_function("attack") if self.policy.timed else nullcontext():
            x_adv = self._find(loss, x, key)
            if self.policy.record is not None:
                self.policy.record.write(self.index, x, x_adv)
        return x_adv

    def _find(self, loss: Loss, x: Tensor, key: Key) -> Tensor:
        if self.policy.reuse is not None:
            return self.policy.reuse.read(self.attack, self.index, x)
        if self.policy.replay is not None:
            return self.policy.replay.run(self.attack, loss, x, key)
        return self.attack(loss, x, None, key)


def replace_attacks(method: Any, by: Callable[[PGD], Any]) -> Any:
    """Return a method with every attack in its fields replaced, also in fields of fields."""
    if isinstance(method, PGD):
        return by(method)
    if not is_dataclass(method):
        return method
    values = {each.name: getattr(method, each.name) for each in fields(method)}
    new = {name: replace_attacks(value, by) for name, value in values.items()}
    return replace(method, **{name: value for name, value in new.items() if value is not values[name]})  # pyright: ignore[reportArgumentType]


def with_attack_steps(method: Any, steps: int) -> Any:
    """Return a method whose attacks take this many steps; see `in_steps`."""
    return replace_attacks(method, lambda attack: in_steps(attack, steps))


def in_steps(attack: PGD, steps: int) -> PGD:
    """Return an attack with another number of steps whose total length stays; an attack without steps is unchanged."""
    if not attack.steps:
        return attack
    return replace(attack, steps=steps, rel_step_size=attack.rel_step_size * attack.steps / steps)


def attacking(method: Any) -> bool:
    """Return whether a method has an attack."""
    found: list[PGD] = []
    replace_attacks(method, lambda attack: found.append(attack) or attack)
    return bool(found)


def most_steps(method: Any) -> int:
    """Return the number of steps of a method's longest attack; 0 without attacks."""
    found = [0]
    replace_attacks(method, lambda attack: found.append(attack.steps) or attack)
    return max(found)
