"""Activation checkpointing: recompute activations in the backward pass to save memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from unshaken.base.types import Float
from unshaken.nets.dual_bn import RoutedBatchNorm, RouteSwitch


class CheckpointedStage(nn.Sequential):
    """A sequence of blocks. With `recompute`, training stores only the input of each block."""

    recompute = False

    def forward(self, x: Float[Tensor, "N ..."]) -> Tensor:
        for block in self:
            x = checkpoint_block(block, x) if self.recompute and self.training else block(x)
        return x


def checkpoint_block(layers: nn.Module, x: Float[Tensor, "N ..."]) -> Tensor:
    """Compute layers(x) and store only x. Both passes use the batch's statistics; running statistics move once."""
    routes = {part.switch: part.switch.route for part in layers.modules() if isinstance(part, RoutedBatchNorm)}
    contexts = nullcontext(), _second_pass(layers, routes)
    return checkpoint(layers, x, use_reentrant=False, preserve_rng_state=False, context_fn=lambda: contexts)


def in_chunks(layers: Callable[[Tensor], Tensor], x: Float[Tensor, "N ..."], at_most: int) -> Tensor:
    """Compute layers(x) at most `at_most` samples at a time, and store only x.

    The result is the same only if the layers treat each sample independently, as in eval mode.
    """
    chunks = x.split(at_most)
    return torch.cat([checkpoint(layers, chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks])


def checkpoint_activations(net: nn.Module, recompute: bool) -> None:
    """Switch the recomputation of blocks on or off in every stage of a network."""
    for module in net.modules():
        if isinstance(module, CheckpointedStage):
            module.recompute = recompute


@contextmanager
def _second_pass(layers: nn.Module, routes: dict[RouteSwitch, str]) -> Iterator[None]:
    """Use the routes of the first pass, and do not update running statistics a second time."""
    now = {switch: switch.route for switch in routes}
    norms = [m for m in layers.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    try:
        for switch, route in routes.items():
            switch.route = route
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for switch, route in now.items():
            switch.route = route
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)
