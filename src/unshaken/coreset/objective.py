"""SelectionObjective: what a selector can ask about the images, the network and the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from unshaken.attacks.pgd import PGD
from unshaken.base.types import Float, Int
from unshaken.coreset.gradients import Gradients, Theta
from unshaken.losses.divergence import Distance

Granularity = Literal["batch", "sample"]
"""The items to pick: fixed mini-batches, or single images."""


class SelectionObjective(ABC):
    """A read-only view of a network, a method, images and a key; all answers are functions of these four.

    theta    the present parameters of the head
    batches  the candidates X in fixed mini-batches: indices of images, on the CPU
    """

    theta: Theta
    batches: tuple[Int[Tensor, "b"], ...]

    @property
    def index(self) -> Int[Tensor, "N"]:
        """Indices of all candidates, one mini-batch after the other."""
        return torch.cat(self.batches)

    @abstractmethod
    def gradients(self, batches: Sequence[int], granularity: Granularity) -> Gradients:
        """Return ∇_θ of the training loss at `theta`, for the mini-batches with these numbers.

        The gradient of a sample is its share of that of its mini-batch: the shares sum to it, whatever the loss
        averages.
        """

    @abstractmethod
    def losses(self) -> Float[Tensor, "B"]:
        """Return the training loss of each mini-batch."""

    @abstractmethod
    def input_gradients(self) -> Float[Tensor, "N"]:
        """Return ‖∇_x L(x; θ)‖ of each candidate in `index`, over all of its views, clean and attacked.

        L is the sum of the training loss over the images of a mini-batch, so that mini-batches of different sizes can
        be compared.
        """

    @abstractmethod
    def features(self) -> Float[Tensor, "N D"]:
        """Return f(x) of each candidate in `index`, clean and un-augmented."""

    @abstractmethod
    def distances(self, distance: Distance, attack: PGD) -> Float[Tensor, "N"]:
        """Return d(h(x̃), h(x)) of each candidate in `index`, un-augmented; x̃ is found by the attack on d."""

    @abstractmethod
    def validation(self, theta: Theta, distance: Distance, attack: PGD) -> Callable[[Theta], Float[Tensor, ""]]:
        """Return L_RD(U; ·), the mean over U of d(h(x̃), h(x)), as a function of the head.

        x̃ is found by attacking the head with the parameters `theta`.
        """
