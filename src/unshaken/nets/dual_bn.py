"""Dual batch normalisation: one batch norm per route, for any network.

Adversarial and clean images have different feature statistics, so each kind gets batch norms of its
own while all other weights are shared (Xie et al., CVPR 2020, arXiv:1911.09665). A route is a name:
"clean" or "adv".
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

M = TypeVar("M", bound=nn.Module)


class RouteSwitch:
    """The active route, shared by all routed modules of a network."""

    def __init__(self, route: str) -> None:
        self.route = route


class RoutedBatchNorm(nn.Module):
    """One module per route, usually a batch norm. The switch selects the one that runs; the others do not change."""

    def __init__(self, routes: Mapping[str, nn.Module], switch: RouteSwitch) -> None:
        super().__init__()
        self.routes = nn.ModuleDict(routes)
        self.switch = switch

    def forward(self, x: Tensor) -> Tensor:
        return self.routes[self.switch.route](x)


def with_routes(net: M, routes: tuple[str, ...]) -> M:
    """Replace every batch norm of a network, in place, by one copy of it per route."""
    if not routes or len(set(routes)) != len(routes):
        raise ValueError(f"a network has one or more distinct routes, not {routes}")
    if routes_of(net):
        raise ValueError(f"the network has routes already: {', '.join(routes_of(net))}")
    switch = RouteSwitch(routes[0])
    return _replace(
        net, _BatchNorm, lambda norm: RoutedBatchNorm({route: copy.deepcopy(norm) for route in routes}, switch)
    )


def merge_route(net: M, route: str) -> M:
    """Return a copy with the batch norms of one route only, which is a network without routes."""
    routes = routes_of(net)
    if routes and route not in routes:
        raise ValueError(f"the network has no route {route!r}; it has {', '.join(routes)}")
    return _replace(copy.deepcopy(net), RoutedBatchNorm, lambda norm: norm.routes[route])


def single_route(net: M, route: str) -> M:
    """Return a copy with the batch norms of the named route, or of the first route if the network lacks that one."""
    routes = routes_of(net)
    return merge_route(net, route if route in routes else next(iter(routes), route))


def routes_of(net: nn.Module) -> tuple[str, ...]:
    """Return the names of the network's routes; empty if it has none."""
    return next((tuple(m.routes) for m in net.modules() if isinstance(m, RoutedBatchNorm)), ())


def set_route(net: nn.Module, route: str) -> None:
    """Select the route of the next forward passes. A network without routes ignores this."""
    for module in net.modules():  # encoder and head may have got their routes separately, with a switch each
        if isinstance(module, RoutedBatchNorm):
            if route not in module.routes:
                raise ValueError(f"the network has no route {route!r}; it has {', '.join(module.routes)}")
            module.switch.route = route


def _replace(net: M, kind: type, by: Callable[[Any], nn.Module]) -> M:
    """Replace modules of a kind in place; a module that is used twice gets one replacement."""
    made: dict[nn.Module, nn.Module] = {}

    def replaced(module: Any) -> Any:
        if isinstance(module, kind):
            return made.setdefault(module, made.get(module) or by(module))
        for name, child in module._modules.items():
            if child is not None:
                setattr(module, name, replaced(child))
        return module

    return replaced(net)
