"""Attack and Model: one call for all attacks, on a classifier or on any loss of images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from itertools import product
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from unshaken.attacks.objective import likeliest
from unshaken.base.rng import Key
from unshaken.base.types import Bool, Float, Int

if TYPE_CHECKING:
    from unshaken.attacks.ball import Ball

Logits = Callable[[Tensor], Tensor]
"""A function of images in [0, 1] (N C H W) to logits (N K): a network in eval mode with frozen parameters."""


@dataclass(frozen=True)
class Model:
    """A classifier under attack, as two functions of images to logits.

    search  the one that the attack evaluates and differentiates; it may compute in low precision
    exact   the one that decides, in float32, whether an image is misclassified; None: search
    """

    search: Logits
    exact: Logits | None = None

    def __post_init__(self) -> None:
        if self.exact is None:
            object.__setattr__(self, "exact", self.search)

    def __call__(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N K"]:
        """Return the logits of `search`, through which gradients come."""
        return self.search(x)

    @torch.no_grad()
    def fooled(
        self, logits: Float[Tensor, "N K"], x: Float[Tensor, "N C H W"], y: Int[Tensor, "N"]
    ) -> Bool[Tensor, "N"]:
        """Return which x are misclassified. `logits` are those of `search`; where they are wrong, `exact` decides."""
        claimed = wrong(logits, y)
        return claimed if self.search is self.exact else self.confirmed(claimed, x, y)

    @torch.no_grad()
    def confirmed(
        self, claimed: Bool[Tensor, "N"], x: Float[Tensor, "N C H W"], y: Int[Tensor, "N"]
    ) -> Bool[Tensor, "N"]:
        """Return which of the `claimed` images `exact` misclassifies too."""
        at = claimed.nonzero().squeeze(1)
        fell = torch.zeros_like(claimed)
        if len(at):
            fell[at] = wrong(self.exact(x[at]), y[at])
        return fell


def wrong(logits: Float[Tensor, "N K"], y: Int[Tensor, "N"]) -> Bool[Tensor, "N"]:
    """Return where the highest logit is not that of the label, is not finite, or where any logit is NaN.

    Classes may be masked by logits of minus infinity.
    """
    top = logits.max(-1)
    return (top.indices != y) | ~top.values.isfinite() | logits.isnan().any(-1)


Loss = Callable[[Tensor], Tensor]
"""A function of images to a scalar, or to one value for each image."""


class Attack(ABC):
    """A search for harmful images in a ball around given images. Its fields are the hyper-parameters and `ball`.

    An attack of your own is a frozen dataclass below this class, with a field `ball`.
    """

    if TYPE_CHECKING:  # a field of each kind of attack, with a default of its own

        @property
        def ball(self) -> Ball: ...

    @abstractmethod
    def __call__(
        self, model: Model | Loss, x: Float[Tensor, "... C H W"], y: Int[Tensor, "N"] | None, key: Key
    ) -> Float[Tensor, "... C H W"]:
        """Return x_adv in the ball around x and in [0, 1]. All random draws depend on the key.

        model  the classifier under attack, `model(x)` are its logits; without labels, as in pre-training, the function
               of images whose value is to be raised. `loss_of(model, y)` is the loss in both cases
        y      labels of x; None without labels

        The network is in eval mode, its parameters ask for no gradient, and none may be left in `.grad`. An attack of
        the ensembles returns an image unchanged if `exact` still classifies it correctly after the attack.
        """


def loss_of(model: Model | Loss, y: Int[Tensor, "N"] | None) -> Loss:
    """Return the loss that an attack raises: cross-entropy on the labels, or without labels the function itself."""
    return model if y is None else lambda x: cross_entropy(model(x), y, reduction="none")


def cascade(
    tries: Iterable[Callable[[Int[Tensor, "n"]], Float[Tensor, "n C H W"]]], x: Float[Tensor, "N C H W"]
) -> Float[Tensor, "N C H W"]:
    """Return x_adv after several tries. Each gets the indices of the images that withstood all tries before it."""
    x_adv, survivors = x.clone(), torch.arange(len(x), device=x.device)
    for attempt in tries:
        if not len(survivors):
            break
        found = attempt(survivors)
        x_adv[survivors] = found
        survivors = survivors[(found == x[survivors]).flatten(1).all(1)]
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
    """Return x_adv after a cascade over targets and restarts.

    attempt  attacks images, from their indices, the class to reach (or the label to leave), and a key
    targets  number of wrong classes, the likeliest first; 0: the goal is the label, which the attack leaves
    """
    goals = y[:, None]
    if targets:
        with torch.no_grad():
            goals = likeliest(model.exact(x), y, targets)
    turns = product(range(goals.shape[1]), range(restarts))
    return cascade((lambda at, t=t, r=r: attempt(at, goals[at, t], key / t / r) for t, r in turns), x)


def choose(which: Tensor, these: Tensor, those: Tensor) -> Tensor:
    """Return rows of `these` where `which` is true, and of `those` elsewhere."""
    return torch.where(which.view(-1, *[1] * (these.ndim - 1)), these, those)


State = TypeVar("State")


def rows(state: State, which: Tensor) -> State:
    """Return a dataclass of tensors with a row for each image, reduced to the rows that `which` selects."""
    return type(state)(*(getattr(state, field.name)[which] for field in fields(state)))  # pyright: ignore[reportArgumentType]
