"""Counted operations: a recipe without an attack by hand, and one with an attack by its number of passes."""

from dataclasses import replace

import pytest
from torch import nn

from unshaken.base.schedule import Constant, StepSchedule
from unshaken.commands.operations import flop_an_image, flop_of
from unshaken.recipes.catalog import recipe
from unshaken.train.approximations import Approximations


def forward_flop(name: str) -> tuple[float, float]:
    """Operations of one view through the network, layer by layer; and those of its first layer alone."""
    one = recipe(name)
    net = one.build_network().eval()
    found: list[float] = []

    def seen(layer, inputs, output):
        if isinstance(layer, nn.Conv2d):
            found.append(2 * output[0].numel() * layer.weight[0].numel())
        elif isinstance(layer, nn.Linear):
            found.append(2 * layer.weight.numel())

    for layer in net.modules():
        layer.register_forward_hook(seen)
    import torch

    net(torch.rand(1, one.backbone.channels, one.backbone.image_size, one.backbone.image_size), net_route(net))
    return sum(found), found[0]


def net_route(net) -> str:
    from unshaken.nets.dual_bn import routes_of

    return next(iter(routes_of(net)), "clean")


def test_simclr_is_two_views_forwards_and_backwards():
    forward, first = forward_flop("simclr/digits")
    found = flop_an_image(recipe("simclr/digits"), 0)
    similarities = 2 * 2 * 2 * 32 * recipe("simclr/digits").build_network().encoder.features  # small beside the network
    # backwards twice what forwards takes, but the first layer needs no gradient of the images
    assert found == pytest.approx(2 * (3 * forward - first), rel=0.02, abs=3 * similarities)


def with_steps(one, steps: int):
    return replace(one, method=replace(one.method, attack=replace(one.method.attack, steps=steps)))


def test_an_attack_step_is_a_pass_forwards_and_one_backwards():
    one = recipe("acl/digits")
    more = flop_an_image(with_steps(one, one.method.attack.steps + 1), 0)
    forward, _ = forward_flop("acl/digits")
    assert more - flop_an_image(one, 0) == pytest.approx(2 * 2 * forward, rel=0.03)  # two views; of the images alone


def test_a_run_is_as_many_epochs_of_as_many_images():
    one = recipe("acl/digits")
    assert flop_of("acl/digits", ("--epochs", "7"), 100) == pytest.approx(700 * flop_an_image(one, 3), rel=1e-9)


def test_fewer_steps_take_what_those_steps_take():
    one = recipe("acl/digits")
    saving = flop_of("acl/digits", ("--epochs", "4", "--approximations.steps.value", "0.4"), 100)
    assert saving == pytest.approx(400 * flop_an_image(with_steps(one, 2), 0), rel=1e-9)


def test_a_replay_takes_no_attack_of_its_own():
    one = recipe("acl/digits")
    once, bare = flop_an_image(one, 0), flop_an_image(with_steps(one, 0), 0)
    twice = flop_of("acl/digits", ("--epochs", "2", "--approximations.replays", "2"), 100) / 200
    assert twice == pytest.approx((once + bare) / 2, rel=0.02)  # and, in both, the gradient of the images


def test_an_epoch_has_its_own_size():
    one = recipe("simclr/digits")
    rising = replace(one, approximations=Approximations(side=StepSchedule(0.5, 1.5, every=one.epochs // 2)))
    half = replace(one, approximations=Approximations(side=Constant(0.5)))
    found = [flop_an_image(rising, epoch) for epoch in (0, one.epochs - 1)]
    assert found == [flop_an_image(half, 0), flop_an_image(one, 0)]
    assert found[0] < 0.5 * found[1]


def test_a_coreset_is_trained_on_alone_once_it_is_chosen():
    one = recipe("acl-rcs/digits")
    coreset = ("--coreset", "Random", "--coreset.fraction", "0.5", "--coreset.warmup", "2", "--coreset.every", "2")
    words = ("--epochs", "6", *coreset, "--coreset.validation", "0.1")
    found = flop_of("acl-rcs/digits", words, 200)
    images = 2 * 180 + 4 * 90  # a tenth of 200 is set aside
    assert found == pytest.approx(images * flop_an_image(one, 0), rel=1e-9)
    picky = tuple("Ranked" if word == "Random" else word for word in words)
    looks = (flop_of("acl-rcs/digits", picky, 200) - found) / 2  # two selections, before epochs 2 and 4
    forward, _ = forward_flop("acl/digits")
    assert looks == pytest.approx(180 * forward * (2 + 3 * 2), rel=0.1)  # h(x), three steps, and h(x̃)


def test_plusplus_is_a_probe_on_frozen_features_and_a_tuning():
    one, forward = recipe("dynacl++/digits"), forward_flop("dynacl/digits")[0]
    found = flop_of("dynacl++/digits", (), 1) / forward
    probe, tune, steps = one.probe.epochs, one.tune.epochs, one.tune.method.attack.steps
    tuning = tune * (2 * steps + 2 * 3 + 1)  # the attack; clean and attacked, forwards and back; the clean target
    assert found == pytest.approx(1 + probe + tuning, rel=0.1)


def test_what_no_batch_stands_for_is_not_counted():
    assert flop_of("dynacl++/digits", ("--teacher", "runs/mine"), 100) is None
    recalls = ("--coreset.recall", "--coreset.warmup", "1")
    assert flop_of("acl-rcs/digits", recalls, 100) is None
