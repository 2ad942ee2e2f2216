"""What holds for every method, and Step: frozen parts stay while the rest learns."""

import copy
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import nn

from unshaken.base.rng import Key
from unshaken.base.schedule import StepSchedule
from unshaken.methods.acl import ACL
from unshaken.methods.air import AIR
from unshaken.methods.base import Method, Step
from unshaken.methods.simclr import SimCLR
from unshaken.methods.supervised import SLF
from unshaken.nets.network import Encoder, Network, Normalize

METHODS = {
    "simclr": SimCLR(),
    "acl": ACL(),
    "dynacl": ACL(omega=StepSchedule(0, 2 / 3, every=50)),
    "air": AIR(),
    "air-normalized": AIR(divergence="normalized"),
    "air-released": AIR(divergence="released"),
}
each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@each_method
def test_a_loss_is_finite_scalars_by_name(method, net, batch, clock):
    terms = Step(method, net)(batch, clock, Key(0))
    assert "loss" in terms
    assert all(value.shape == () and value.isfinite() for value in terms.values())


@each_method
def test_a_loss_gives_gradients_to_all_parameters_of_its_routes(method, net, batch, clock):
    step = Step(method, net).train()
    step(batch, clock, Key(0))["loss"].backward()
    for name, p in net.named_parameters():
        foreign = ".routes." in name and not any(f".routes.{route}." in name for route in method.routes)
        assert (p.grad is None) == foreign, name


@each_method
def test_a_loss_depends_on_its_key_and_leaves_modes_and_generator(method, net, batch, clock):
    step, before = Step(method, net).train(), torch.get_rng_state()
    state = copy.deepcopy(net.state_dict())
    first = step(batch, clock, Key(0))
    net.load_state_dict(state)
    assert all(torch.equal(first[name], value) for name, value in step(batch, clock, Key(0)).items())
    assert {m.training for m in step.modules()} == {True}
    assert torch.equal(torch.get_rng_state(), before)


@each_method
def test_clean_images_go_through_the_first_route(method, net, batch, clock, calls):
    method.loss(net, batch, clock, Key(0))
    assert {call.route for call in calls} == set(method.routes)
    assert {call.route for call in calls if call.x is batch.views} == {method.routes[0]}


@dataclass(frozen=True)
class Frozen(Method):
    """The mean square of an embedding, of a network whose encoder does not learn."""

    routes: ClassVar = ("clean",)
    frozen: ClassVar = ("encoder",)

    def loss(self, h, batch, clock, key):
        return {"loss": h(batch.views, "clean").square().mean()}


def test_frozen_parts_are_in_eval_mode_and_the_rest_is_not(net):
    step = Step(Frozen(), net).train()
    assert not any(m.training for m in net.encoder.modules())
    assert all(m.training for m in net.head.modules())
    step.eval()
    assert not any(m.training for m in step.modules())
    assert step.train() is step
    assert not any(m.training for m in net.encoder.modules())


def test_frozen_parts_stay_bit_for_bit_while_the_rest_learns(net, batch, clock):
    step = Step(Frozen(), net).train()
    before = copy.deepcopy(net.state_dict())
    rule = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    for _ in range(3):
        rule.zero_grad()
        step(batch, clock, Key(0))["loss"].backward()
        rule.step()
    assert all(p.grad is None for p in net.encoder.parameters())
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("head.") for name in changed)
    assert {"head.0.weight", "head.3.weight"} <= changed


def test_methods_compare_and_hash_by_value():
    assert ACL() == ACL()
    assert replace(AIR(), lambda1=0.0) != AIR()
    assert hash(AIR()) == hash(AIR())


def test_frozen_parts_are_in_eval_mode_from_the_start():
    layers = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4))
    net = Network(Encoder(Normalize((0.0,), (1.0,)), layers, 4), nn.Linear(4, 2))
    assert not Step(SLF(), net).net.encoder.training
    assert net.head.training
