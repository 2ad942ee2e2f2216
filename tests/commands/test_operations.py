"""Counted operations: a recipe without an attack by hand, and one with an attack by its number of passes."""

from dataclasses import replace

import pytest
from torch import nn

from unshaken.commands.operations import flop_an_image
from unshaken.recipes.papers import recipe


def forward_flop(name: str) -> tuple[float, float]:
    """Operations of one view through the network, layer by layer; and those of its first layer alone."""
    one = recipe(name)
    net = one.embedder().eval()
    found: list[float] = []

    def seen(layer, inputs, output):
        if isinstance(layer, nn.Conv2d):
            found.append(2 * output[0].numel() * layer.weight[0].numel())
        elif isinstance(layer, nn.Linear):
            found.append(2 * layer.weight.numel())

    for layer in net.modules():
        layer.register_forward_hook(seen)
    import torch

    net(torch.rand(1, one.backbone.channels, one.backbone.stem, one.backbone.stem), net_route(net))
    return sum(found), found[0]


def net_route(net) -> str:
    from unshaken.nets.routed import routes_of

    return next(iter(routes_of(net)), "clean")


def test_simclr_is_two_views_forwards_and_backwards():
    forward, first = forward_flop("simclr/digits")
    found, epochs = flop_an_image("simclr/digits", ())
    similarities = 2 * 2 * 2 * 32 * recipe("simclr/digits").embedder().encoder.features  # small beside the network
    assert epochs == recipe("simclr/digits").epochs
    # backwards twice what forwards takes, but the first layer needs no gradient of the images
    assert found == pytest.approx(2 * (3 * forward - first), rel=0.02, abs=3 * similarities)


def test_an_attack_step_is_a_pass_forwards_and_one_backwards():
    steps = recipe("acl/digits").method.attack.steps
    more = flop_an_image("acl/digits", ("--method.attack.steps", str(steps + 1)))[0]
    usual = flop_an_image("acl/digits", ())[0]
    forward, _ = forward_flop("acl/digits")
    assert more - usual == pytest.approx(2 * 2 * forward, rel=0.03)  # two views; gradients of the images alone


def test_the_epochs_are_the_recipe_s():
    assert flop_an_image("acl/digits", ("--epochs", "7"))[1] == 7
    assert replace(recipe("acl/digits"), epochs=7).epochs == 7
