"""Optimisers: LARS, SGD and AdamW, with their rules for weight decay."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from unshaken.base.own_code import keywords
from unshaken.base.ranges import BelowOne, NonNegative, Positive, ranged
from unshaken.base.suggest import did_you_mean
from unshaken.methods.base import Step


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
    """Decay of the mean of the gradients."""
    beta2: BelowOne = 0.999
    """Decay of the mean of their squares."""
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


@dataclass(frozen=True)
class TorchOptimizer(Optimizer):
    """Any optimiser of torch.optim by its name, on all parameters: `--optimizer torch.optim.NAdam`."""

    prefix: ClassVar[str] = "torch.optim."
    name: str = "NAdam"
    """Name of the class in torch.optim."""
    args: str = ""
    """Its arguments as Python writes them, "betas=(0.9, 0.95), weight_decay=0.01"; the rate is that of --lr."""

    def __post_init__(self) -> None:
        known = [name for name, kind in vars(torch.optim).items() if _has_steps(kind)]
        if self.name not in known:
            hint = did_you_mean(self.name, known)
            raise ValueError(f"torch.optim has no optimizer {self.name!r} that takes steps by gradients{hint}")
        parameters = [*inspect.signature(getattr(torch.optim, self.name)).parameters][1:]
        for name in keywords(self.args):
            if name == "lr":
                raise ValueError("the learning rate is --lr, with its schedule; leave lr out of --optimizer.args")
            if name not in parameters:
                has = ", ".join(each for each in parameters if each != "lr")
                raise ValueError(f"torch.optim.{self.name} has no argument {name!r}; it has {has}")

    def build(self, net: nn.Module) -> torch.optim.Optimizer:
        try:
            return getattr(torch.optim, self.name)(learning(net), **{"lr": 0.0} | keywords(self.args))
        except TypeError as error:
            raise ValueError(f"torch.optim.{self.name}({self.args}): {error}") from None


def _has_steps(kind: Any) -> bool:
    """Return whether a class is an optimiser of dense gradients without a closure."""
    one = isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
    return one and kind.__name__ not in ("LBFGS", "SparseAdam")


AnyOptimizer = Annotated[Optimizer, SGD | AdamW | LARS | TorchOptimizer]
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


def with_rates(rule: torch.optim.Optimizer, step: Step) -> torch.optim.Optimizer:
    """Split an optimiser's groups, in place, so that submodules have the learning rates that the method gives them.

    A group's "rate" is the multiple of the schedule's rate.
    """
    for name, field in step.method.rates.items():
        own = {id(p) for p in step.net.get_submodule(name).parameters()}
        for group in list(rule.param_groups):
            inside = [p for p in group["params"] if id(p) in own]
            if inside:
                group["params"] = [p for p in group["params"] if id(p) not in own]
                others = {key: value for key, value in group.items() if key != "params"}
                rule.add_param_group(others | {"params": inside, "rate": getattr(step.method, field)})
    rule.param_groups[:] = [group for group in rule.param_groups if group["params"]]
    return rule


def flatten(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Split an optimiser's state into tensors by name and other values."""
    tensors, values = {}, {}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{name}"] = value
            else:
                values.setdefault(str(index), {})[name] = value
    return tensors, values


def unflatten(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], values: dict[str, dict[str, Any]]) -> None:
    """Restore what `flatten` returned into an optimiser of the same parameters."""
    state: dict[int, dict[str, Any]] = {int(index): dict(others) for index, others in values.items()}
    for path, tensor in tensors.items():
        if path.startswith("optimizer/"):
            _, index, name = path.split("/")
            state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    # give each tensor the weight's memory layout: another layout may round differently
    for weight, values_of in optimizer.state.items():
        for name, value in values_of.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                values_of[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
