"""Averages of the weights of a training run, which take the place of the last weights at its end.

Only parameters are averaged. The statistics of batch norms are re-estimated for the averaged parameters, or copied from
the last ones: statistics of the first updates would stay in an average for ten times its memory (docs/robustify.md).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from unshaken.base.ranges import BelowOne, Share, ranged


@dataclass(frozen=True)
class Averaging(ABC):
    """θ̄ ← d(t) θ̄ + (1 − d(t)) θ after update t = 0, 1, ..., with θ̄ = θ before the first."""

    statistics: Literal["reestimate", "copy"] = "reestimate"
    """Statistics of the averaged network's batch norms: re-estimated on training images as the method sees them, or
    copied from the last weights. Batch norms that are frozen keep their own."""

    @abstractmethod
    def decay(self, t: int, total: int) -> float:
        """Return d(t), given the number of updates of the run."""


@dataclass(frozen=True)
@ranged
class EMA(Averaging):
    """An exponential moving average: d(t) = min(1 − 1/(memory · total), (1 + t)/(10 + t)).

    The second term lets the average forget the first updates quickly (Gowal et al., arXiv:2010.03593; Rebuffi et al.,
    arXiv:2103.01946).
    """

    memory: Share = 0.1
    """Updates that the average remembers, as a fraction of those of the run."""

    def decay(self, t: int, total: int) -> float:
        return min(1 - 1 / max(1.0, self.memory * total), (1 + t) / (10 + t))


@dataclass(frozen=True)
@ranged
class SWA(Averaging):
    """The mean of the weights after each update of the last part of a run (Izmailov et al., arXiv:1803.05407)."""

    start: BelowOne = 0.75
    """Where that part begins, as a fraction of the run."""

    def decay(self, t: int, total: int) -> float:
        before = round(self.start * total)
        return (t - before) / (t - before + 1) if t > before else 0.0


AnyAveraging = Annotated[Averaging, EMA | SWA]
"""Any of these averages; the command line selects one by its name."""


class AveragedWeights(nn.Module):
    """The average of a network's weights so far; it is part of a run's checkpoint."""

    updates: Tensor

    def __init__(self, rule: Averaging, net: nn.Module, total: int) -> None:
        """Start at the network's weights. total: updates of the run."""
        super().__init__()
        self.rule, self.total = rule, total
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        names = [name for name, p in net.named_parameters() if p.requires_grad]
        self.names = names
        for number, name in enumerate(names):
            self.register_buffer(f"p{number}", net.get_parameter(name).detach().clone())

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Take in the network's weights after an update."""
        share = 1 - self.rule.decay(int(self.updates), self.total)
        own = [self.get_buffer(f"p{number}") for number in range(len(self.names))]
        torch._foreach_lerp_(own, [net.get_parameter(name).detach() for name in self.names], share)
        self.updates += 1

    @torch.no_grad()
    def restart(self, net: nn.Module) -> None:
        """Forget the average, and start again at the network's weights."""
        for number, name in enumerate(self.names):
            self.get_buffer(f"p{number}").copy_(net.get_parameter(name))

    @torch.no_grad()
    def copy_to(self, net: nn.Module) -> None:
        """Write the averaged parameters into the network."""
        for number, name in enumerate(self.names):
            net.get_parameter(name).copy_(self.get_buffer(f"p{number}"))
