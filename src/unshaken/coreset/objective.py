"""What a selector may know: candidates, their gradients, and how far attacks move a validation set's embeddings."""

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
"""What is picked: mini-batches as they are, or single images."""


class SelectionObjective(ABC):
    """A network, a method, images and a key, and only to look at: all answers are functions of these four.

    theta    the head's parameters as they are now
    batches  the candidates X, in fixed mini-batches: indices of images, on the CPU
    """

    theta: Theta
    batches: tuple[Int[Tensor, "b"], ...]

    @property
    def index(self) -> Int[Tensor, "N"]:
        """All candidates, one mini-batch after the other."""
        return torch.cat(self.batches)

    @abstractmethod
    def gradients(self, batches: Sequence[int], granularity: Granularity) -> Gradients:
        """∇_θ of the training loss of the mini-batches of these numbers, at `theta`.

        A sample's is its part of its mini-batch's: they sum to the mini-batch's, whatever the loss is a mean of.
        """

    @abstractmethod
    def losses(self) -> Float[Tensor, "B"]:
        """The training loss of each mini-batch."""

    @abstractmethod
    def features(self) -> Float[Tensor, "N D"]:
        """f(x) of each candidate of `index`, clean and un-augmented."""

    @abstractmethod
    def distances(self, distance: Distance, attack: PGD) -> Float[Tensor, "N"]:
        """d(h(x̃), h(x)) of each candidate of `index`, un-augmented, x̃ found by raising it."""

    @abstractmethod
    def validation(self, theta: Theta, distance: Distance, attack: PGD) -> Callable[[Theta], Float[Tensor, ""]]:
        """L_RD(U; ·) as a function of the head: the mean over U of d(h(x̃), h(x)), x̃ found against `theta`."""
