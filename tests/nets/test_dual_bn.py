"""Routes: one batch norm each, nothing leaks from one to another, and merging leaves a plain network."""

import copy

import pytest
import torch
from torch import Tensor, nn

from unshaken.base.rng import Key
from unshaken.nets.dual_bn import RoutedBatchNorm, merge_route, routes_of, set_route, with_routes

ROUTES = ("clean", "adv")


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=Key(seed).on("cpu"))


class Plain(nn.Module):
    """Norms at several depths, by attribute and by position, in two and in one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)
        self.layer1 = nn.Sequential(nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
        self.fc = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5, momentum=0.3, eps=1e-3))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer1(self.bn1(self.conv1(x))))


def plain() -> Plain:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Plain()


def network() -> nn.Module:
    """Routed, with routes that differ in statistics and in weights."""
    net = with_routes(plain(), ROUTES).train()
    for route, shift in (("clean", 0.0), ("adv", 1.0)):
        set_route(net, route)
        for seed in range(3):
            net(images(8, 1, 8, 8, seed=seed) + shift)
    with torch.no_grad():
        for norm in (m for m in net.modules() if isinstance(m, RoutedBatchNorm)):
            norm.routes["adv"].weight += 0.5
            norm.routes["clean"].bias -= 0.25
    return net


def through(net: nn.Module, route: str, x: Tensor) -> Tensor:
    set_route(net, route)
    return net(x)


def state(net: nn.Module, route: str) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items() if f"routes.{route}." in name}


def alike(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_every_norm_gets_one_a_route_and_nothing_else_changes():
    net, original = with_routes(plain(), ROUTES), plain()
    assert sum(isinstance(m, RoutedBatchNorm) for m in net.modules()) == 3
    expected = {}
    for name, value in original.state_dict().items():
        prefix, _, leaf = name.rpartition(".")
        isnorm = isinstance(original.get_submodule(prefix), nn.BatchNorm1d | nn.BatchNorm2d)
        names = [f"{prefix}.routes.{route}.{leaf}" for route in ROUTES] if isnorm else [name]
        expected |= dict.fromkeys(names, value)
    assert alike(net.state_dict(), expected)
    norm = net.fc[2].routes["adv"]
    assert isinstance(norm, nn.BatchNorm1d)
    assert (norm.momentum, norm.eps) == (0.3, 1e-3)


def test_routes_are_alike_at_first_but_not_shared():
    net, x = with_routes(plain(), ROUTES).eval(), images(4, 1, 8, 8)
    assert torch.equal(through(net, "adv", x), through(net, "clean", x))
    assert torch.equal(through(net, "adv", x), plain().eval()(x))
    assert net.bn1.routes["adv"].weight is not net.bn1.routes["clean"].weight


def test_the_network_is_changed_in_place():
    net = plain()
    weight = net.conv1.weight
    assert with_routes(net, ROUTES) is net
    assert net.conv1.weight is weight


def test_a_lone_norm_is_routed_too():
    norm = with_routes(nn.BatchNorm1d(3), ROUTES)
    assert routes_of(norm) == ROUTES
    assert isinstance(merge_route(norm, "adv"), nn.BatchNorm1d)


@pytest.mark.parametrize(("used", "other"), [("adv", "clean"), ("clean", "adv")])
def test_statistics_do_not_leak(used, other):
    net = network().train()
    before = {route: state(net, route) for route in ROUTES}
    through(net, used, images(8, 1, 8, 8, seed=9))
    assert alike(state(net, other), before[other])
    assert not alike(state(net, used), before[used])


@pytest.mark.parametrize(("used", "other"), [("adv", "clean"), ("clean", "adv")])
def test_gradients_reach_one_route_and_what_is_shared(used, other):
    net = network().train()
    through(net, used, images(8, 1, 8, 8)).square().sum().backward()
    with_grad = {name for name, p in net.named_parameters() if p.grad is not None}
    assert with_grad == {name for name, _ in net.named_parameters() if f"routes.{other}." not in name}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("training", [True, False])
def test_merged_is_the_network_through_that_route(route, training):
    net = network().train(training)
    lone, x = merge_route(net, route), images(8, 1, 8, 8, seed=9)
    assert torch.equal(lone(x), through(net, route, x))
    assert lone.training is training
    assert alike(lone.state_dict(), {k.replace(f"routes.{route}.", ""): v for k, v in kept(net, route).items()})
    assert list(lone.state_dict()) == list(plain().state_dict())


def kept(net: nn.Module, route: str) -> dict[str, Tensor]:
    return {name: v for name, v in net.state_dict().items() if ".routes." not in name or f"routes.{route}." in name}


def test_merged_does_not_depend_on_the_route_taken():
    net = network().eval()
    set_route(net, "clean")
    one = merge_route(net, "adv")
    set_route(net, "adv")
    assert alike(one.state_dict(), merge_route(net, "adv").state_dict())


def test_merged_is_a_copy():
    net = network()
    before = copy.deepcopy(net.state_dict())
    lone = merge_route(net, "adv")
    with torch.no_grad():
        for value in (*lone.parameters(), *lone.buffers()):
            value.zero_()
    assert alike(net.state_dict(), before)
    assert routes_of(net) == ROUTES
    assert routes_of(lone) == ()


def test_a_plain_network_has_only_one_way():
    net, x = plain().eval(), images(4, 1, 8, 8)
    expected = net(x)
    assert routes_of(net) == ()
    assert torch.equal(through(net, "anything", x), expected)
    assert torch.equal(merge_route(net, "anything")(x), expected)


def test_a_copy_has_a_switch_of_its_own():
    net, x = network().eval(), images(4, 1, 8, 8)
    set_route(net, "clean")
    twin = copy.deepcopy(net)
    set_route(twin, "adv")
    assert not torch.equal(net(x), twin(x))
    assert torch.equal(net(x), through(twin, "clean", x))


@pytest.mark.parametrize("act", [set_route, merge_route])
def test_an_unknown_route(act):
    with pytest.raises(ValueError, match="has no route 'pgd'; it has clean, adv"):
        act(network(), "pgd")


@pytest.mark.parametrize("routes", [(), ("adv", "adv")])
def test_routes_are_distinct(routes):
    with pytest.raises(ValueError, match="one or more distinct routes"):
        with_routes(plain(), routes)


def test_parts_routed_one_by_one_take_a_route_together():
    """Each part then has a switch of its own; sending an image through one route sets them all."""
    head = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    net = nn.Sequential(with_routes(body, ("clean", "adv")), with_routes(head, ("clean", "adv")))
    set_route(net, "adv")
    assert {m.switch.route for m in net.modules() if isinstance(m, RoutedBatchNorm)} == {"adv"}


def test_a_norm_used_twice_stays_one():
    norm = nn.BatchNorm2d(4)
    net = with_routes(nn.ModuleDict({"a": norm, "b": norm}), ("clean", "adv"))
    assert isinstance(net["a"], RoutedBatchNorm)
    assert net["a"] is net["b"]


def test_routing_twice_is_refused():
    net = with_routes(nn.Sequential(nn.BatchNorm2d(4)), ("clean", "adv"))
    with pytest.raises(ValueError, match="has routes already: clean, adv"):
        with_routes(net, ("clean", "adv"))
