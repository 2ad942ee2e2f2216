"""Batch-norm folding: merge batch norms into convolutions while a network does not change."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Tracer
from torch.nn.utils.fusion import fuse_conv_bn_weights

from unshaken.nets.dual_bn import RoutedBatchNorm, RouteSwitch, merge_route, routes_of
from unshaken.nets.network import Encoder, Network
from unshaken.nets.shared_bn import is_shared, kind_of


def frozen_copy(net: Network) -> Network:
    """Return a copy in eval mode, whose parameters ask for no gradient."""
    return copy.deepcopy(net).requires_grad_(False).eval()


def fold_batch_norms(net: Network) -> Network:
    """Return a frozen copy with folded batch norms: y = γ (w ∗ x − μ)/σ + β is one convolution with weights γ w/σ.

    Outputs are equal up to rounding. A batch norm stays if there is no convolution before it that feeds it alone, and
    all batch norms stay if the network cannot be traced. Convolution weights are stored in the network's precision.
    The teacher is folded too; the head is only copied.
    """
    return _fold_in_place(frozen_copy(net))


def _fold_in_place(net: Network) -> Network:
    routes, precision = routes_of(net.encoder), net.computation.precision
    if routes:
        by_route = {route: _fold_route(merge_route(net.encoder, route), route, precision) for route in routes}
        net.encoder = RoutedBatchNorm(by_route, RouteSwitch(routes[0]))  # pyright: ignore[reportAttributeAccessIssue]
    else:
        net.encoder = _fold_route(net.encoder, "", precision)
    net.computation = net.computation.without_folding()
    if net.teacher is not None:
        _fold_in_place(net.teacher)
    return net


def _fold_route(encoder: Encoder, route: str, precision: torch.dtype) -> Encoder:
    encoder = BatchNormFolder(precision)(encoder, route)
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            module.to(precision)
    return encoder.requires_grad_(False).eval()


class BatchNormFolder:
    """A function from an encoder to the same encoder with one route's batch norms folded.

    The encoder is traced once per route. Each call computes the folded weights again, in `precision`, because the
    encoder may have been trained since; all other parameters are shared with it. An encoder that cannot be traced is
    returned unchanged.

    finish  called on each traced network, to compile it for example
    """

    def __init__(self, precision: torch.dtype, finish: Callable[[nn.Module], None] = lambda _: None) -> None:
        self.precision, self.finish = precision, finish
        self.made: dict[str, tuple[Encoder, list[ConvNorm]]] = {}

    def __call__(self, encoder: Encoder, route: str) -> Encoder:
        if route not in self.made:
            self.made[route] = self._trace(encoder, route)
        made, pairs = self.made[route]
        for pair in pairs:
            pair.refold()
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> BatchNormFolder:
        """Copy without the traced networks: they share parameters with the original encoder."""
        return BatchNormFolder(self.precision, self.finish)

    def _trace(self, encoder: Encoder, route: str) -> tuple[Encoder, list[ConvNorm]]:
        if not any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules()):
            return encoder, []
        try:
            graph = LeafTracer().trace(encoder.backbone)
        except Exception:  # tracing runs the network's code, which may raise anything; unfolded is only slower
            return encoder, []
        backbone = GraphModule(encoder.backbone, graph)
        pairs = self._fold(backbone, graph, route)
        self.finish(backbone)
        return Encoder(encoder.normalize, backbone.eval(), encoder.features), pairs

    def _fold(self, net: GraphModule, graph: Graph, route: str) -> list[ConvNorm]:
        """Replace, in place, every convolution whose output goes to one batch norm alone, together with that norm."""
        calls, pairs = [node for node in graph.nodes if node.op == "call_module"], []
        used = [node.target for node in calls]
        for node in calls:
            norm, before = _select_route(net.get_submodule(node.target), route), node.args[0]
            if not isinstance(norm, nn.BatchNorm2d) or not _only_normalizes(norm) or before not in calls:
                continue
            if not norm.track_running_stats:
                continue
            conv = net.get_submodule(before.target)
            exclusive = len(before.users) == 1 and used.count(before.target) == used.count(node.target) == 1
            if exclusive and isinstance(conv, nn.Conv2d):
                pairs.append(ConvNorm(conv, norm, _with_bias(conv, self.precision)))
                net.set_submodule(before.target, pairs[-1].both)
                if isinstance(after := getattr(norm, "act", None), nn.Module):
                    net.set_submodule(node.target, nn.Sequential(norm.drop, after))  # pyright: ignore[reportArgumentType]
                else:
                    node.replace_all_uses_with(before)
                    graph.erase_node(node)
        net.delete_all_unused_submodules()
        net.recompile()
        return pairs


class LeafTracer(Tracer):
    """A tracer that does not look into PyTorch's layers, convolutions and batch norms, and modules with a switch."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        whole = isinstance(module, nn.Conv2d) or hasattr(module, "switch") or _only_normalizes(module)
        return whole or is_shared(module) or super().is_leaf_module(module, name)


@dataclass(frozen=True, eq=False)
class ConvNorm:
    """A convolution, the batch norm after it, and the convolution that replaces both."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d
    both: nn.Conv2d

    @torch.no_grad()
    def refold(self) -> None:
        conv, norm = self.conv, self.norm
        of_norm = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        weight, bias = fuse_conv_bn_weights(conv.weight, conv.bias, *of_norm)  # pyright: ignore[reportArgumentType]
        self.both.weight.copy_(weight)
        self.both.bias.copy_(bias)


def _only_normalizes(module: nn.Module) -> bool:
    """Return whether a module is a batch norm, or timm's, which then applies its `drop` and `act`.

    Another subclass may compute something else.
    """
    kind = kind_of(module)
    return kind is nn.BatchNorm2d or (kind.__name__ == "BatchNormAct2d" and kind.__module__.startswith("timm."))


def _select_route(module: nn.Module, route: str) -> nn.Module:
    return module.routes[route] if isinstance(module, RoutedBatchNorm) else module


def _with_bias(conv: nn.Conv2d, precision: torch.dtype) -> nn.Conv2d:
    """Return a copy with a bias, without gradients, in a precision."""
    both = copy.deepcopy(conv).requires_grad_(False).to(precision)
    both.bias = nn.Parameter(both.weight.new_empty(conv.out_channels), requires_grad=False)
    return both
