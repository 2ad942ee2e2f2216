"""What an attack on a classifier is: what it may ask, what it gives back, and when an image has fallen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from itertools import product
from typing import TypeVar

import torch
from torch import Tensor

from unshaken.attacks.objective import likeliest
from unshaken.base.rng import Key
from unshaken.base.types import Bool, Float, Int

Logits = Callable[[Tensor], Tensor]
"""Images in [0, 1] (N C H W) to logits (N K): a network in eval mode, its parameters frozen."""


@dataclass(frozen=True)
class Model:
    """A classifier under attack.

    search  what the attack looks at and differentiates; may be of low precision
    exact   what decides whether an image has fallen, in float32; the same as search if not given
    """

    search: Logits
    exact: Logits | None = None

    def __post_init__(self) -> None:
        if self.exact is None:
            object.__setattr__(self, "exact", self.search)

    @torch.no_grad()
    def fooled(self, logits: Float[Tensor, "N K"], x: Float[Tensor, "N C H W"], y: Int[Tensor, "N"]) -> Tensor:
        """Whether x is misclassified (N), given search's logits of it: `exact` is asked about those that they claim."""
        claimed = wrong(logits, y)
        return claimed if self.search is self.exact else self.confirmed(claimed, x, y)

    @torch.no_grad()
    def confirmed(self, claimed: Tensor, x: Float[Tensor, "N C H W"], y: Int[Tensor, "N"]) -> Tensor:
        """Those of the claimed (N) that `exact` misclassifies."""
        at = claimed.nonzero().squeeze(1)
        fell = torch.zeros_like(claimed)
        if len(at):
            fell[at] = wrong(self.exact(x[at]), y[at])
        return fell


def wrong(logits: Float[Tensor, "N K"], y: Int[Tensor, "N"]) -> Bool[Tensor, "N"]:
    """Whether the highest logit is not the label's (N). One that is no finite number, or any NaN, is a wrong answer.

    Classes may be masked by logits of minus infinity.
    """
    top = logits.max(-1)
    return (top.indices != y) | ~top.values.isfinite() | logits.isnan().any(-1)


class Attack(ABC):
    """A search for misclassified images near given ones. Its fields are its hyper-parameters, `ball` among them."""

    @abstractmethod
    def __call__(
        self, model: Model, x: Float[Tensor, "N C H W"], y: Int[Tensor, "N"], key: Key
    ) -> Float[Tensor, "N C H W"]:
        """x_adv in the ball around x and in [0, 1]; it differs from x only where `exact` was seen to misclassify it.

        An image that withstood the attack comes back as it was. Of images that are misclassified already, either may
        come back. Only input gradients are computed; all draws depend on the key.
        """


def cascade(
    tries: Iterable[Callable[[Int[Tensor, "n"]], Float[Tensor, "n C H W"]]], x: Float[Tensor, "N C H W"]
) -> Float[Tensor, "N C H W"]:
    """x_adv after several tries, each on the images that have withstood all before it, which it is told by index."""
    x_adv, standing = x.clone(), torch.arange(len(x), device=x.device)
    for attempt in tries:
        if not len(standing):
            break
        found = attempt(standing)
        x_adv[standing] = found
        standing = standing[(found == x[standing]).flatten(1).all(1)]
    return x_adv


def over_targets(
    attempt: Callable[[Int[Tensor, "n"], Int[Tensor, "n"], Key], Float[Tensor, "n C H W"]],
    model: Model,
    x: Float[Tensor, "N C H W"],
    y: Int[Tensor, "N"],
    targets: int,
    restarts: int,
    key: Key,
) -> Float[Tensor, "N C H W"]:
    """in_turn over goals and restarts: `attempt` is told which images, the class each of them is about, and a key.

    targets  the so many likeliest wrong classes, or all there are; 0: the label, which is to be left
    """
    goals = y[:, None]
    if targets:
        with torch.no_grad():
            goals = likeliest(model.exact(x), y, targets)
    places = product(range(goals.shape[1]), range(restarts))
    return cascade((lambda at, t=t, r=r: attempt(at, goals[at, t], key / t / r) for t, r in places), x)


def choose(which: Tensor, these: Tensor, those: Tensor) -> Tensor:
    """Row by row."""
    return torch.where(which.view(-1, *[1] * (these.ndim - 1)), these, those)


State = TypeVar("State")


def rows(state: State, which: Tensor) -> State:
    """A dataclass of tensors with a row an image, of these images alone."""
    return type(state)(*(getattr(state, field.name)[which] for field in fields(state)))  # pyright: ignore[reportArgumentType]
