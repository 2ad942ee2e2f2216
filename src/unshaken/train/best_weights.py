"""The best weights of a run, by a score on held-out training images, instead of the last ones"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isnan
from typing import Any

import torch
from torch import Tensor, nn

from unshaken.base.ranges import BelowOne, Count, Several, ranged
from unshaken.methods.base import Step
from unshaken.nets.network import Network

Score = tuple[float, float]
"""A score, the higher the better; where two are equal, the second number decides."""


@dataclass(frozen=True)
@ranged
class Best:
    """Keep the weights of the epoch with the best score on held-out training images (Rice et al., arXiv:2002.11569).

    Fine-tuning: the accuracy under PGD; of equal ones that with the higher clean accuracy, then the later one.
    Pre-training, without labels: the least displacement of features under PGD (losses/representation.py). Where weights
    are averaged, the average is scored and kept. Every draw depends on the recipe's seed alone.
    """

    every: Count = 1
    """Epochs between two looks. There is always one after the last epoch."""
    after: BelowOne = 0.5
    """Part of the run before the first look: weights that have barely trained are no candidates."""
    images: Several = 1000
    """Score at most this many of the held-out images, random ones, the same at each look."""
    steps: Count = 10
    """Steps of PGD, in the ball of the method's attack, or of the set's usual one if it has none."""

    def due(self, epoch: int, epochs: int) -> bool:
        """Return whether to look after this many epochs."""
        return epoch == epochs or (epoch > self.after * epochs and epoch % self.every == 0)


class KeptWeights(nn.Module):
    """The scores of a run so far, and the weights with the best one. It is part of a run's checkpoint."""

    epoch: Tensor
    scores: Tensor

    def __init__(self, rule: Best, step: Step, epochs: int, score: Callable[[Network], Score]) -> None:
        """Start without weights. epochs: those of the run; score: the score of a network's weights."""
        super().__init__()
        self.rule, self.epochs, self.score = rule, epochs, score
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))
        self.register_buffer("scores", torch.full((epochs + 1, 2), torch.nan, dtype=torch.float64))
        fixed = ("teacher.",) if step.method.teacher == "frozen" else ()
        self.names = [name for name in step.net.state_dict() if not name.startswith(fixed)]
        for number, tensor in enumerate(self._of(step.net)):
            self.register_buffer(f"w{number}", torch.zeros_like(tensor))

    def due(self, epoch: int) -> bool:
        return self.rule.due(epoch, self.epochs)

    @torch.no_grad()
    def note(self, net: Network, epoch: int, score: Score) -> None:
        """Record the score after an epoch, and keep the weights if none before had a better one."""
        self.scores[epoch] = torch.tensor(score, dtype=torch.float64)
        if int(self.epoch) == 0 or score >= self._at(int(self.epoch)):
            self.epoch.fill_(epoch)
            for number, tensor in enumerate(self._of(net)):
                self.get_buffer(f"w{number}").copy_(tensor)

    @torch.no_grad()
    def restore(self, net: Network) -> None:
        """Write the best weights into the network."""
        for number, tensor in enumerate(self._of(net)):
            tensor.copy_(self.get_buffer(f"w{number}"))

    def _of(self, net: Network) -> list[Tensor]:
        state = net.state_dict()
        return [state[name] for name in self.names]

    def _at(self, epoch: int) -> Score:
        first, second = self.scores[epoch].tolist()
        return first, second

    def to_json(self) -> dict[str, Any]:
        """Return the epoch whose weights were kept, and the scores by epoch."""
        found = {str(epoch): self._at(epoch) for epoch in range(1, self.epochs + 1)}
        return {
            "epoch": int(self.epoch),
            "scores": {epoch: list(score) for epoch, score in found.items() if not isnan(score[0])},
        }
