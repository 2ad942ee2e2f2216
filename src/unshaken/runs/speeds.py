"""The speed of each stage of a plan, measured by a few real steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.base.schedule import Constant
from unshaken.compute.runtime import Runtime
from unshaken.data.images import Images
from unshaken.methods.base import Step
from unshaken.nets.dual_bn import single_route
from unshaken.nets.heads import zero_classifier
from unshaken.nets.network import Network, frozen
from unshaken.recipes.datasets import defaults_for
from unshaken.recipes.finetune import Finetune
from unshaken.recipes.pretrain import Pretrain
from unshaken.runs.first_network import first_network
from unshaken.train.attack_policy import most_steps, with_attack_steps
from unshaken.train.batches import BatchStream
from unshaken.train.throughput import Speed, seconds_of, step_speed

MEASURING = 2.0
"""The most seconds of training steps that are timed for one speed."""
STEPS = (3, 2)
"""Numbers of attack steps to fall back to. Not one: an encoder that was planned so is little robust (docs/log.md)."""


def measured_speeds(
    wanted: Pretrain, slf: Finetune, images: Images, runtime: Runtime, seconds: float, tell: Callable[[str], None]
) -> tuple[Speed, float, dict[int, Speed]]:
    """Measure SLF, the gradients of attacks a second, and pre-training by its number of attack steps."""
    slf_speed = finetune_speed(wanted, slf, images, runtime, seconds)
    gradients = gradient_speed(wanted, images, runtime, seconds)
    tell(f"measured: SLF {slf_speed.images_s:,.0f} images/s, attacks {gradients:,.0f} gradients/s")
    speeds = speeds_by_steps(wanted, images, runtime, seconds)
    said = ", ".join(f"{speed.images_s:,.0f} with {steps} attack steps" for steps, speed in speeds.items() if steps)
    tell(f"measured: {wanted.name} {said or f'{speeds[0].images_s:,.0f}'} images/s")
    return slf_speed, gradients, speeds


def speeds_by_steps(one: Pretrain, images: Images, runtime: Runtime, seconds: float) -> dict[int, Speed]:
    """Return the speed for each number of attack steps, the recipe's own first.

    An image takes a + b · steps seconds, so the speeds for two numbers of steps are measured and give all others.
    """
    own = most_steps(one.method)
    measured = pretrain_speed(one, images, runtime, seconds)
    if own <= min(STEPS):
        return {own: measured}
    single = pretrain_speed(replace(one, method=with_attack_steps(one.method, 1)), images, runtime, seconds)
    each = max(0.0, 1 / measured.images_s - 1 / single.images_s) / (own - 1)
    between = {n: Speed(1 / (1 / single.images_s + each * (n - 1)), measured.startup) for n in STEPS if n < own}
    return {own: measured, **between}


def pretrain_speed(one: Pretrain, images: Images, runtime: Runtime, seconds: float = MEASURING) -> Speed:
    """Measure the speed of training steps of a recipe, from new weights, which are discarded."""
    fabric = runtime.open()
    counts, label = (), None
    if one.method.labels == "clusters":
        counts, n = one.clusters, len(images)
        label = torch.stack([torch.arange(n) % count for count in counts], dim=-1)
    elif one.method.labels == "true":
        counts, label = (len(images.names),), images.label
    net = first_network(one, counts)
    if one.method.teacher == "frozen":
        net.teacher = Network(one.backbone.build(), nn.Identity())
    net = net.to(fabric.device)
    runtime.prepare(net)
    step = Step(one.method, net)
    step.policy = one.approximations.policy()
    feed = BatchStream(images, one.views, one.strength, one.batch_size, one.epochs, Key(one.seed) / "trial", label)
    return step_speed(step, feed.to(fabric.device), one.optimizer, seconds)


def finetune_speed(
    first: Pretrain, slf: Finetune, images: Images, runtime: Runtime, seconds: float = MEASURING
) -> Speed:
    """Measure the speed of training a linear classifier on a frozen encoder."""
    fabric = runtime.open()
    encoder = single_route(first.build_network().encoder, "adv")
    net = Network(encoder, zero_classifier(encoder.features, 10)).to(fabric.device)
    runtime.prepare(net)
    label = torch.arange(len(images)) % 10
    feed = BatchStream(images, slf.views, Constant(1.0), slf.batch_size, slf.epochs, Key(1) / "trial", label)
    return step_speed(Step(slf.method, net), feed.to(fabric.device), slf.optimizer, seconds)


def gradient_speed(one: Pretrain, images: Images, runtime: Runtime, seconds: float = MEASURING) -> float:
    """Measure the input gradients per second of a classifier on the encoder, which is the cost of attacks."""
    fabric = runtime.open()
    encoder = single_route(one.build_network().encoder, "adv")
    net = Network(encoder, zero_classifier(encoder.features, 10)).to(fabric.device)
    runtime.prepare(net)
    attack, batch = PGD(defaults_for(one.data).ball, steps=2), min(16, len(images))
    images = images.to(fabric.device)
    with frozen(net):
        while True:
            x = images.floats(slice(0, batch))

            def climb(x: torch.Tensor = x) -> None:
                attack.maximise(lambda x: net(x, "adv").square().sum(), x, Key(1).on(x.device)).sum().item()

            seconds_of(climb)
            taken = seconds_of(climb)
            if batch >= min(256, len(images)) or 4 * taken > seconds / 2:
                return batch * attack.steps / taken
            batch = min(4 * batch, 256, len(images))
