"""Optimisers: LARS, SGD and AdamW, with their rules for weight decay."""

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
    """An optimiser's hyper-parameters. The learning rate is set at each step from a schedule."""

    @abstractmethod
    def build(self, net: nn.Module) -> torch.optim.Optimizer:
        """Build the PyTorch optimiser for the parameters that ask for a gradient."""


@dataclass(frozen=True)
@ranged
class SGD(Optimizer):
    """Stochastic gradient descent with momentum, and weight decay on all parameters, as in the papers' code."""

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
    """Adam with decoupled weight decay on matrices and convolutions only."""

    beta1: BelowOne = 0.9
    beta2: BelowOne = 0.999
    weight_decay: NonNegative = 0.05
    """Weight decay."""

    def build(self, net: nn.Module) -> torch.optim.Optimizer:
        decaying, other = by_dimension(learning(net))
        groups = [{"params": decaying, "weight_decay": self.weight_decay}, {"params": other, "weight_decay": 0.0}]
        # fused: one pass over memory instead of several; for SGD, PyTorch's default is as fast
        return torch.optim.AdamW([g for g in groups if g["params"]], 0.0, (self.beta1, self.beta2), fused=True)


@dataclass(frozen=True)
@ranged
class LARS(Optimizer):
    """Layer-wise adaptive rate scaling (You et al., arXiv:1708.03888).

    For each tensor, r = η ‖w‖ / (‖∇‖ + λ ‖w‖) (1 if either norm is 0), m ← μ m + (lr · r)(∇ + λ w), w ← w − m.
    """

    momentum: BelowOne = 0.9
    """Momentum of the updates."""
    weight_decay: NonNegative = 1e-6
    """Weight decay."""
    trust_coefficient: Positive = 0.001
    """The trust coefficient η."""
    exclude_bias_and_norm: bool = False
    """Exclude one-dimensional parameters (biases, batch norms) from scaling and decay, as LARS usually does. False, as
    in the released code of the ACL family: they are scaled and decay too. (A batch norm's bias starts at 0, so its
    first step then has the full learning rate.)"""

    def build(self, net: nn.Module) -> torch.optim.Optimizer:
        scaled, other = by_dimension(learning(net)) if self.exclude_bias_and_norm else (learning(net), [])
        groups = [
            {"params": scaled, "weight_decay": self.weight_decay, "scaled": True},
            {"params": other, "weight_decay": 0.0, "scaled": False},
        ]
        return LARSOptimizer([g for g in groups if g["params"]], momentum=self.momentum, trust=self.trust_coefficient)


AnyOptimizer = Annotated[Optimizer, SGD | AdamW | LARS]
"""Any of these optimisers; the command line selects one by its name."""


class LARSOptimizer(torch.optim.Optimizer):
    """The PyTorch optimiser of `LARS`, in a few fused operations over all tensors of a group."""

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
        zero = (w < 1e-15) | (g < 1e-15)
        return list((group["lr"] * torch.where(zero, torch.ones_like(ratio), ratio)).unbind())


def learning(net: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that ask for a gradient, in the network's order."""
    return [p for p in net.parameters() if p.requires_grad]


def by_dimension(parameters: list[nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Split parameters into matrices and convolutions, and one-dimensional ones (biases and batch norms)."""
    return [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
