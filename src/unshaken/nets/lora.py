"""A low-rank branch beside the weights of any network: W + ΔW while it is on, W otherwise.

ΔW = (α / r) · reshape(B A), where A starts at N(0, 1) and B at 0, so that the branch is born as the network itself
(Hu et al., ICLR 2022, arXiv:2106.09685; for convolutions as in AutoLoRa, Xu et al., ICLR 2024, arXiv:2310.01818). Every
convolution and every linear layer of an encoder has one, shortcuts too; the stem, norms and heads have none.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from unshaken.base.rng import Key

Layer = nn.Conv2d | nn.Linear
M = TypeVar("M", bound=nn.Module)


class BranchSwitch:
    """Whether the branch is on, shared by all low-rank layers of one network."""

    on = False


class LowRank(nn.Module):
    """A layer with its branch. For a convolution (out, in / groups, k, k), A is (r k, in k) and B is
    (out / groups · k, r k); a linear layer is one with k = 1.

    The layer itself computes, whichever weights it is given, so that paddings, groups and weights that are standardised
    on the way stay what they are.
    """

    def __init__(self, layer: Layer, rank: int, alpha: float, switch: BranchSwitch, rng: torch.Generator) -> None:
        super().__init__()
        self.layer, self.switch, self.scale = layer, switch, alpha / rank
        weight = layer.weight
        if isinstance(layer, nn.Linear):
            inputs, outputs, high, wide = *weight.shape[::-1], 1, 1
        else:
            inputs, outputs, (high, wide) = layer.in_channels, layer.out_channels // layer.groups, layer.kernel_size
        drawn = torch.randn((rank * wide, inputs * wide), generator=rng)
        self.A = nn.Parameter(drawn.to(weight))
        self.B = nn.Parameter(weight.new_zeros((outputs * high, rank * wide)))

    @property
    def delta(self) -> Tensor:
        """ΔW, in the shape of W."""
        return self.scale * (self.B @ self.A).view(self.layer.weight.shape)

    @property
    def weight(self) -> Tensor:
        """The weights that are used now; some networks read them instead of calling the layer."""
        return self.layer.weight + self.delta if self.switch.on else self.layer.weight

    @property
    def bias(self) -> Tensor | None:
        return self.layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return functional_call(self.layer, {"weight": self.weight}, (x,)) if self.switch.on else self.layer(x)


def with_lora(encoder: M, key: Key, rank: int = 8, alpha: float = 1.0) -> M:
    """The same encoder (changed in place) with a branch, off at first; what is drawn depends on the key alone.

    Each layer draws by its own name, so that a layer more or less changes no other.
    """
    if rank < 1:
        raise ValueError(f"the rank of a branch is 1 or more, not {rank}")
    if _branched(encoder):
        raise ValueError("the network has a low-rank branch already")
    switch, made = BranchSwitch(), {}
    for name, layer in _adapted(encoder).items():
        made[layer] = LowRank(layer, rank, alpha, switch, (key / name).on("cpu"))
    if not made:
        raise ValueError("the network has no convolution or linear layer beyond its stem, so there is nothing to adapt")
    return _replace(encoder, made)


def without_lora(net: M) -> M:
    """A copy with W alone: the plain network."""
    net = copy.deepcopy(net)
    return _replace(net, {module: module.layer for module in _branched(net)})


@contextmanager
def branch(encoder: nn.Module) -> Iterator[None]:
    """Inside, the encoder computes with W + ΔW, and what it computes teaches A and B alone.

    All other parameters of the encoder are constants of what is recorded inside, norms too; what is recorded
    outside reaches them as ever.
    """
    layers = _branched(encoder)
    if not layers:
        raise ValueError("the network has no low-rank branch")
    own = {id(p) for layer in layers for p in (layer.A, layer.B)}
    others = [p for p in encoder.parameters() if p.requires_grad and id(p) not in own]
    _set(layers, others, True)
    try:
        yield
    finally:
        _set(layers, others, False)


def _set(layers: list[LowRank], others: list[nn.Parameter], on: bool) -> None:
    for layer in layers:
        layer.switch.on = on
    for parameter in others:
        parameter.requires_grad_(not on)


def _branched(net: nn.Module) -> list[LowRank]:
    return [module for module in net.modules() if isinstance(module, LowRank)]


def _adapted(net: nn.Module) -> dict[str, Layer]:
    """Every layer but the stem's: the stem is the first of the network's parts that has layers."""
    parts = [part for part in net.children() if _layers(part)]
    if len(parts) == 1 and not isinstance(parts[0], Layer):  # an encoder's backbone, a backbone's `features`
        return _adapted(parts[0])
    if not parts:
        return {}
    stem = set(_layers(parts[0]).values())
    return {name: layer for name, layer in _layers(net).items() if layer not in stem}


def _layers(net: nn.Module) -> dict[str, Layer]:
    return {name: module for name, module in net.named_modules() if isinstance(module, Layer)}


def _replace(net: M, by: dict[nn.Module, nn.Module]) -> M:
    """In place, each module by what stands for it: one that is used in two places stays one."""
    for module in list(net.modules()):
        for name, child in module._modules.items():
            if child in by:
                setattr(module, name, by[child])
    return net
