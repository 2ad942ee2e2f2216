"""Blocks whose inner activations are computed again in the backward pass instead of being kept in memory."""

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
    """Blocks one after the other. `spares`: while it is trained, of each only what goes in is kept."""

    spares = False

    def forward(self, x: Float[Tensor, "N ..."]) -> Tensor:
        for block in self:
            x = recompute(block, x) if self.spares and self.training else block(x)
        return x


def recompute(layers: nn.Module, x: Float[Tensor, "N ..."]) -> Tensor:
    """layers(x), of which only x is kept. Batch norms are of the whole batch both times, and count it once."""
    routes = {part.switch: part.switch.route for part in layers.modules() if isinstance(part, RoutedBatchNorm)}
    contexts = nullcontext(), _as_then(layers, routes)
    return checkpoint(layers, x, use_reentrant=False, preserve_rng_state=False, context_fn=lambda: contexts)


def in_chunks(layers: Callable[[Tensor], Tensor], x: Float[Tensor, "N ..."], at_most: int) -> Tensor:
    """layers(x), so many samples at a time, of which only x is kept. For layers that see each sample alone."""
    parts = x.split(at_most)
    return torch.cat([checkpoint(layers, part, use_reentrant=False, preserve_rng_state=False) for part in parts])


def checkpoint_activations(net: nn.Module, spares: bool) -> None:
    """Whether the blocks of its stages are computed again."""
    for part in net.modules():
        if isinstance(part, CheckpointedStage):
            part.spares = spares


@contextmanager
def _as_then(layers: nn.Module, routes: dict[RouteSwitch, str]) -> Iterator[None]:
    """The routes of the first time, and statistics that do not move again."""
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
