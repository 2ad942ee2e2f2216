"""Activations computed again: the same loss, gradients, statistics and routes, in less memory."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import unshaken
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.base.types import Batch
from unshaken.compute.runtime import Runtime
from unshaken.methods.base import Step
from unshaken.nets.activation_checkpointing import (
    CheckpointedStage,
    checkpoint_activations,
    checkpoint_block,
    in_chunks,
)
from unshaken.nets.dual_bn import set_route, with_routes
from unshaken.nets.network import frozen


def drawn(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=Key("spared").on("cpu"))


@pytest.mark.parametrize("name", ["acl", "acl-air", "dynacl"])
@pytest.mark.parametrize("network", ["resnet-small", "wrn-10-1"])
def test_a_step_is_the_same(name, network):
    """But for rounding, though the attack sees five views at a time and every block is computed twice."""
    recipe, steps = unshaken.recipe(f"{name}/digits"), []
    for at_most in (0, 5):
        net = replace(recipe, backbone=replace(recipe.backbone, name=network)).build_network()
        if recipe.method.teacher:
            net.teacher = copy.deepcopy(net)
        Runtime("cpu", at_most=at_most).prepare(net)
        step = Step(recipe.method, net)
        views = drawn(recipe.method.views, 8, 1, 8, 8)
        loss = step(Batch(views, views[0], None, torch.arange(8)), Clock(0, 0, 0.0, 9), Key(1))["loss"]
        loss.backward()
        steps.append((loss.detach(), [p.grad for p in net.parameters() if p.grad is not None], net.state_dict()))
    (loss, grads, state), (loss_again, grads_again, state_again) = steps
    assert torch.allclose(loss, loss_again, rtol=1e-6)
    assert len(grads) == len(grads_again)
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-6) for a, b in zip(grads, grads_again, strict=True))
    assert list(state) == list(state_again)
    assert all(torch.allclose(state[n].float(), state_again[n].float(), atol=1e-6) for n in state)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x).relu() * 2


def test_it_is_computed_again_by_the_route_of_the_first_time():
    block = with_routes(Counting(), ("clean", "adv"))
    for norm, scale in zip(block.norm.routes.values(), (1.0, 3.0), strict=True):
        nn.init.constant_(norm.weight, scale)
    x = drawn(4, 2, 3, 3).requires_grad_()
    plain, take_adv = copy.deepcopy(block), lambda net: set_route(net, "adv")
    grads = []
    for net, through in ((plain, plain), (block, lambda x: checkpoint_block(block, x))):
        take_adv(net)
        y = through(x)
        set_route(net, "clean")
        grads.append(torch.autograd.grad(y.square().sum(), x)[0])
        assert {norm.num_batches_tracked.item() for norm in net.norm.routes.values()} == {0, 1}
        assert net.norm.switch.route == "clean"
    assert torch.equal(*grads)
    assert grads[0].abs().max() > 0
    for name, value in plain.state_dict().items():
        assert torch.equal(value, block.state_dict()[name])


def test_only_what_goes_in_is_kept():
    """Bytes that autograd holds on to between forward and backward."""

    def held(recompute: bool) -> int:
        stage, kept = CheckpointedStage(*[Counting() for _ in range(4)]), []
        checkpoint_activations(stage, recompute)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t):
            stage.train()(drawn(4, 2, 8, 8).requires_grad_())
        return sum(kept)

    assert held(True) == 4 * drawn(4, 2, 8, 8).nbytes < held(False)


def test_by_parts_and_all_at_once():
    layers = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    x = drawn(7, 3).requires_grad_()
    whole, parts = layers(x), in_chunks(layers, x, 3)
    assert torch.allclose(whole, parts)
    assert torch.allclose(*[torch.autograd.grad(y.square().sum(), x)[0] for y in (whole, parts)])


def test_views_go_through_by_parts_only_where_nothing_changes():
    net, sizes = unshaken.recipe("acl/digits").build_network(), []
    Runtime("cpu", at_most=3).prepare(net)
    net.head.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    with torch.no_grad():
        net(drawn(8, 1, 8, 8), "adv")
        with frozen(net):
            net(drawn(8, 1, 8, 8), "adv")
    assert sizes == [8, 3, 3, 2]
