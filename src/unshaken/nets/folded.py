"""A network that stays as it is, made cheap: each route's batch norms inside the convolutions before them."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.fx import GraphModule, symbolic_trace
from torch.nn.utils.fusion import fuse_conv_bn_eval

from unshaken.nets.embed import Encoder, Network
from unshaken.nets.routed import Routed, Switch, merged, routes_of


def still(net: Network) -> Network:
    """A copy in eval mode without gradients."""
    return copy.deepcopy(net).requires_grad_(False).eval()


def folded(net: Network) -> Network:
    """The same, with equal outputs but for rounding: y = γ (w ∗ x − μ)/σ + β is one convolution, by γ w/σ.

    A batch norm stays where no convolution of its own comes before it, and so do all in a network that cannot be
    traced. Weights of convolutions are kept in the network's precision. The head is only copied; a teacher is folded
    too.
    """
    return _folded(still(net))


def _folded(net: Network) -> Network:
    routes = routes_of(net.encoder)
    ways = {route: _fused(merged(net.encoder, route), net.precision) for route in routes}
    net.encoder = Routed(ways, Switch(routes[0])) if ways else _fused(net.encoder, net.precision)
    if net.teacher is not None:
        _folded(net.teacher)
    return net


def _fused(encoder: Encoder, precision: torch.dtype) -> Encoder:
    if any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules()):
        try:
            encoder.backbone = _inside(symbolic_trace(encoder.backbone)).to(memory_format=torch.channels_last)
        except Exception:  # of all kinds: whatever a network's code does with what is no tensor; only slower without
            return encoder
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            module.to(precision)
    return encoder.requires_grad_(False).eval()


def _inside(net: GraphModule) -> GraphModule:
    """In place: every convolution whose output goes to one batch norm alone takes it in."""
    calls = [node for node in net.graph.nodes if node.op == "call_module"]
    used = [node.target for node in calls]
    for node in calls:
        if type(net.get_submodule(node.target)) is not nn.BatchNorm2d:  # a subclass may do more than normalise
            continue
        before = node.args[0]
        alone = before in calls and len(before.users) == 1 and used.count(before.target) == used.count(node.target) == 1
        if alone and type(net.get_submodule(before.target)) is nn.Conv2d:
            conv, norm = net.get_submodule(before.target), net.get_submodule(node.target)
            net.set_submodule(before.target, fuse_conv_bn_eval(conv, norm))
            node.replace_all_uses_with(before)
            net.graph.erase_node(node)
    net.delete_all_unused_submodules()
    net.recompile()
    return net
