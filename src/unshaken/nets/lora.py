"""Low-rank adaptation (LoRA) of any network: weights W + ΔW while the branch is on, else W.

ΔW = (α / r) · reshape(B A), where A starts at N(0, 1) and B at 0, so that at first W + ΔW = W
(Hu et al., ICLR 2022, arXiv:2106.09685; for convolutions as in AutoLoRa, Xu et al., ICLR 2024, arXiv:2310.01818). Every
convolution and linear layer of an encoder has a branch, shortcuts too; the stem, norms and heads have none.
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
    """The on/off state of the branch, shared by all low-rank layers of a network."""

    on = False


class LowRank(nn.Module):
    """A layer with a low-rank branch.

    For a convolution with weights (out, in / groups, k, k), A is (r k, in k) and B is (out / groups · k, r k); a linear
    layer counts as a convolution with k = 1. The layer's own forward runs with W + ΔW as its weights, so that its
    padding, groups and weight standardisation stay in effect.
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
        """The current weights, which some networks read instead of calling the layer."""
        return self.layer.weight + self.delta if self.switch.on else self.layer.weight

    @property
    def bias(self) -> Tensor | None:
        return self.layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return functional_call(self.layer, {"weight": self.weight}, (x,)) if self.switch.on else self.layer(x)


def with_lora(encoder: M, key: Key, rank: int = 8, alpha: float = 1.0) -> M:
    """Add a low-rank branch to an encoder, in place; it is off at first.

    Each layer's initial values depend on the key and the layer's name alone, so another layer does not change them.
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
    """Return a copy without the branch, with weights W."""
    net = copy.deepcopy(net)
    return _replace(net, {module: module.layer for module in _branched(net)})


def train_branch_only(net: nn.Module) -> None:
    """Switch the branch on for good, and leave gradients to A and B alone."""
    net.requires_grad_(False)
    for layer in _branched(net):
        layer.switch.on = True
        layer.A.requires_grad_(True)
        layer.B.requires_grad_(True)


@torch.no_grad()
def merge_lora(net: nn.Module) -> None:
    """Add ΔW to the weights, in place, and remove the branch: the network computes the same as with the branch on."""
    layers = _branched(net)
    for layer in layers:
        layer.layer.weight += layer.delta
    _replace(net, {module: module.layer for module in layers})


@contextmanager
def branch(encoder: nn.Module) -> Iterator[None]:
    """Compute with W + ΔW inside the block, with gradients for A and B alone.

    The encoder's other parameters, norms included, get no gradient from what is computed inside the block. What is
    computed outside is not affected.
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
    """Return every layer except those of the stem, which is the network's first child that has layers."""
    children = [child for child in net.children() if _layers(child)]
    if len(children) == 1 and not isinstance(children[0], Layer):  # an encoder's backbone, or a backbone's `features`
        return _adapted(children[0])
    if not children:
        return {}
    stem = set(_layers(children[0]).values())
    return {name: layer for name, layer in _layers(net).items() if layer not in stem}


def _layers(net: nn.Module) -> dict[str, Layer]:
    return {name: module for name, module in net.named_modules() if isinstance(module, Layer)}


def _replace(net: M, by: dict[nn.Module, nn.Module]) -> M:
    """Replace modules in place; a module that is used twice gets one replacement."""
    for module in list(net.modules()):
        for name, child in module._modules.items():
            if child in by:
                setattr(module, name, by[child])
    return net
