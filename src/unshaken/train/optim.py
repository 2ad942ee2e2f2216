"""LARS, SGD, AdamW, and which parameters decay."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from unshaken.base.ranges import BelowOne, NonNegative, Positive, ranged


@dataclass(frozen=True)
class Optimizer(ABC):
    """A rule of update, before it has parameters. The learning rate comes from a schedule, at each step."""

    @abstractmethod
    def build(self, net: nn.Module) -> torch.optim.Optimizer:
        """For the parameters that learn."""


@dataclass(frozen=True)
@ranged
class SGD(Optimizer):
    """Stochastic gradient descent with momentum; weight decay on everything, as this field's code has it."""

    momentum: BelowOne = 0.9
    """Momentum of the updates."""
    weight_decay: NonNegative = 2e-4
    """Weight decay."""
    nesterov: bool = False
    """Nesterov momentum."""

    def build(self, net: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            learning(net), lr=0.0, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov
        )


@dataclass(frozen=True)
@ranged
class AdamW(Optimizer):
    """Adam with decoupled weight decay, on matrices and convolutions only."""

    beta1: BelowOne = 0.9
    beta2: BelowOne = 0.999
    weight_decay: NonNegative = 0.05
    """Weight decay."""

    def build(self, net: nn.Module) -> torch.optim.Optimizer:
        decaying, other = by_dimension(learning(net))
        groups = [{"params": decaying, "weight_decay": self.weight_decay}, {"params": other, "weight_decay": 0.0}]
        # one pass over memory instead of several; of SGD, the library's own choice is as fast
        return torch.optim.AdamW([g for g in groups if g["params"]], 0.0, (self.beta1, self.beta2), fused=True)


@dataclass(frozen=True)
@ranged
class LARS(Optimizer):
    """Layer-wise adaptive rate scaling (You et al., arXiv:1708.03888).

    For each tensor, r = η ‖w‖ / (‖∇‖ + λ ‖w‖) (1 if either norm is 0), m ← μ m + (rate · r)(∇ + λ w), w ← w − m.

    """

    momentum: BelowOne = 0.9
    """Momentum of the updates."""
    weight_decay: NonNegative = 1e-6
    """Weight decay."""
    trust_coefficient: Positive = 0.001
    """η."""
    exclude_bias_and_norm: bool = False
    """False, as the ACL family released it: biases and batch norms are scaled and decay like the rest (a batch norm's
    bias starts at 0, so its first step is taken at the full rate). True, the usual form: what has one dimension gets
    neither scaling nor decay."""

    def build(self, net: nn.Module) -> torch.optim.Optimizer:
        scaled, other = by_dimension(learning(net)) if self.exclude_bias_and_norm else (learning(net), [])
        groups = [
            {"params": scaled, "weight_decay": self.weight_decay, "scaled": True},
            {"params": other, "weight_decay": 0.0, "scaled": False},
        ]
        return LARSOptimizer([g for g in groups if g["params"]], momentum=self.momentum, trust=self.trust_coefficient)


AnyOptimizer = Annotated[Optimizer, SGD | AdamW | LARS]
"""An optimiser; by name from a command line, one of these."""


class LARSOptimizer(torch.optim.Optimizer):
    """The update of `LARS`, a few fused operations over all tensors of a group."""

    def __init__(self, groups: Iterable[dict], momentum: float, trust: float) -> None:
        super().__init__(groups, {"lr": 0.0, "momentum": momentum, "trust": trust})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            weights = [w for w in group["params"] if w.grad is not None]
            if weights:
                self._move(weights, group)

    def _move(self, weights: list[Tensor], group: dict) -> None:
        grads = [w.grad for w in weights]
        buffers = [self._momentum(w) for w in weights]
        steps = torch._foreach_add(grads, weights, alpha=group["weight_decay"])  # pyright: ignore[reportArgumentType, reportCallIssue]
        rates = self._rates(weights, grads, group) if group["scaled"] else group["lr"]  # pyright: ignore[reportArgumentType]
        torch._foreach_mul_(steps, rates)
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, steps)
        torch._foreach_sub_(weights, buffers)

    def _momentum(self, weight: Tensor) -> Tensor:
        if "momentum_buffer" not in self.state[weight]:
            self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        return self.state[weight]["momentum_buffer"]

    def _rates(self, weights: list[Tensor], grads: list[Tensor], group: dict) -> list[Tensor]:
        w, g = (torch.stack(torch._foreach_norm(tensors)) for tensors in (weights, grads))
        ratio = group["trust"] * w / (g + group["weight_decay"] * w)
        still = (w < 1e-15) | (g < 1e-15)
        return list((group["lr"] * torch.where(still, torch.ones_like(ratio), ratio)).unbind())


def learning(net: nn.Module) -> list[nn.Parameter]:
    """The parameters that learn, in the network's own order."""
    return [p for p in net.parameters() if p.requires_grad]


def by_dimension(parameters: list[nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Matrices and convolutions; then what has one dimension: biases and batch norms."""
    return [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
