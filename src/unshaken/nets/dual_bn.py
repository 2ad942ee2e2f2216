"""A batch norm per route for any network, and merging a route away.

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
    """Which route is on, shared by all routed modules of one network."""

    def __init__(self, route: str) -> None:
        self.route = route


class RoutedBatchNorm(nn.Module):
    """One module a route, such as a batch norm; the switch says which is used, the others are left untouched."""

    def __init__(self, routes: Mapping[str, nn.Module], switch: RouteSwitch) -> None:
        super().__init__()
        self.routes = nn.ModuleDict(routes)
        self.switch = switch

    def forward(self, x: Tensor) -> Tensor:
        return self.routes[self.switch.route](x)


def with_routes(net: M, routes: tuple[str, ...]) -> M:
    """The same network (changed in place) with every batch norm replaced by one a route, all alike at first."""
    if not routes or len(set(routes)) != len(routes):
        raise ValueError(f"a network has one or more distinct routes, not {routes}")
    if routes_of(net):
        raise ValueError(f"the network has routes already: {', '.join(routes_of(net))}")
    switch = RouteSwitch(routes[0])
    return _replace(
        net, _BatchNorm, lambda norm: RoutedBatchNorm({route: copy.deepcopy(norm) for route in routes}, switch)
    )


def merge_route(net: M, route: str) -> M:
    """A copy with the batch norms of one route only: a plain network."""
    known = routes_of(net)
    if known and route not in known:
        raise ValueError(f"the network has no route {route!r}; it has {', '.join(known)}")
    return _replace(copy.deepcopy(net), RoutedBatchNorm, lambda norm: norm.routes[route])


def single_route(net: M, route: str) -> M:
    """A plain copy with one route: the one that is named if the network has it, else the only or first one."""
    known = routes_of(net)
    return merge_route(net, route if route in known else next(iter(known), route))


def routes_of(net: nn.Module) -> tuple[str, ...]:
    """The network's routes; none if it is plain."""
    return next((tuple(m.routes) for m in net.modules() if isinstance(m, RoutedBatchNorm)), ())


def set_route(net: nn.Module, route: str) -> None:
    """Send what follows through one route. A plain network has only one way and ignores this."""
    for module in net.modules():  # a network may hold several switches: its parts may have been routed one by one
        if isinstance(module, RoutedBatchNorm):
            if route not in module.routes:
                raise ValueError(f"the network has no route {route!r}; it has {', '.join(module.routes)}")
            module.switch.route = route


def _replace(net: M, kind: type, by: Callable[[Any], nn.Module]) -> M:
    """In place, once for each module of the kind: one that is used in two places stays one."""
    made: dict[nn.Module, nn.Module] = {}

    def replaced(module: Any) -> Any:
        if isinstance(module, kind):
            return made.setdefault(module, made.get(module) or by(module))
        for name, child in module._modules.items():
            if child is not None:
                setattr(module, name, replaced(child))
        return module

    return replaced(net)
