"""A network that stays as it is, made cheap: each route's batch norms inside the convolutions before them."""

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


def frozen_copy(net: Network) -> Network:
    """A copy in eval mode without gradients."""
    return copy.deepcopy(net).requires_grad_(False).eval()


def fold_batch_norms(net: Network) -> Network:
    """The same, with equal outputs but for rounding: y = γ (w ∗ x − μ)/σ + β is one convolution, by γ w/σ.

    A batch norm stays where no convolution of its own comes before it, and so do all in a network that cannot be
    traced. Weights of convolutions are kept in the network's precision. The head is only copied; a teacher is folded
    too.
    """
    return _folded(frozen_copy(net))


def _folded(net: Network) -> Network:
    routes = routes_of(net.encoder)
    ways = {route: _alone(merge_route(net.encoder, route), route, net.precision) for route in routes}
    net.encoder = RoutedBatchNorm(ways, RouteSwitch(routes[0])) if ways else _alone(net.encoder, "", net.precision)  # pyright: ignore[reportAttributeAccessIssue]
    net.fold = None
    if net.teacher is not None:
        _folded(net.teacher)
    return net


def _alone(encoder: Encoder, route: str, precision: torch.dtype) -> Encoder:
    encoder = BatchNormFolder(precision)(encoder, route)
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            module.to(precision)
    return encoder.requires_grad_(False).eval()


class BatchNormFolder:
    """An encoder, whose weights may have moved since, to the same with a route's batch norms inside.

    Traced once a route. Weights that are folded are made anew at every call, in `precision`; all other parts are the
    encoder's own. What cannot be traced comes back as it is.

    finish  what is done to a network once it is traced
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
        """Of a copy of the network nothing has been traced."""
        return BatchNormFolder(self.precision, self.finish)

    def _trace(self, encoder: Encoder, route: str) -> tuple[Encoder, list[ConvNorm]]:
        if not any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules()):
            return encoder, []
        try:
            graph = Leaves().trace(encoder.backbone)
        except Exception:  # of all kinds: whatever a network's code does with what is no tensor; only slower without
            return encoder, []
        backbone = GraphModule(encoder.backbone, graph)
        pairs = self._inside(backbone, graph, route)
        self.finish(backbone)
        return Encoder(encoder.normalize, backbone.eval(), encoder.features), pairs

    def _inside(self, net: GraphModule, graph: Graph, route: str) -> list[ConvNorm]:
        """In place: every convolution whose output goes to one batch norm alone takes it in."""
        calls, pairs = [node for node in graph.nodes if node.op == "call_module"], []
        used = [node.target for node in calls]
        for node in calls:
            norm, before = _way(net.get_submodule(node.target), route), node.args[0]
            # a subclass may do more than normalise
            if type(norm) is not nn.BatchNorm2d or not norm.track_running_stats or before not in calls:
                continue
            conv = net.get_submodule(before.target)
            alone = len(before.users) == 1 and used.count(before.target) == used.count(node.target) == 1
            if alone and isinstance(conv, nn.Conv2d):
                pairs.append(ConvNorm(conv, norm, _like(conv, self.precision)))
                net.set_submodule(before.target, pairs[-1].both)
                node.replace_all_uses_with(before)
                graph.erase_node(node)
        net.delete_all_unused_submodules()
        net.recompile()
        return pairs


class Leaves(Tracer):
    """Parts that are not looked into: PyTorch's own and kinds of its convolution; what goes one way or another."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Conv2d) or hasattr(module, "switch") or super().is_leaf_module(module, name)


@dataclass(frozen=True, eq=False)
class ConvNorm:
    """A convolution, the batch norm after it, and the convolution that is both."""

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


def _way(module: nn.Module, route: str) -> nn.Module:
    return module.routes[route] if isinstance(module, RoutedBatchNorm) else module


def _like(conv: nn.Conv2d, precision: torch.dtype) -> nn.Conv2d:
    """The same with a bias, and weights of its own."""
    both = copy.deepcopy(conv).requires_grad_(False).to(precision)
    both.bias = nn.Parameter(both.weight.new_empty(conv.out_channels), requires_grad=False)
    return both
