"""The plan for a given time: epochs, attack steps and precision, from measured speeds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.base.schedule import Constant, MultiStep, StepSchedule, WarmupCosine
from unshaken.compute.runtime import Runtime
from unshaken.data.images import Images
from unshaken.methods.base import Step
from unshaken.nets.dual_bn import single_route
from unshaken.nets.heads import zero_classifier
from unshaken.nets.network import Network, frozen
from unshaken.recipes.catalog import RECIPES, recipe
from unshaken.recipes.datasets import defaults_for
from unshaken.recipes.finetune import Finetune, chosen
from unshaken.recipes.pretrain import Pretrain
from unshaken.runs.pretrain import first_network
from unshaken.train.attack_policy import replace_attacks, with_attack_steps
from unshaken.train.batches import BatchStream
from unshaken.train.image_sets import load_images
from unshaken.train.throughput import Speed, seconds_of, step_speed

MEASURING = 2.0
"""The most seconds of training steps that are timed for one speed."""
FEW_EPOCHS = 20
"""With fewer epochs than this, the plan prefers an attack of fewer steps."""
STEPS = (3, 2, 1)
"""Numbers of attack steps to fall back to."""
SHARES = {"teacher": 0.45, "slf": 0.06, "evaluation": 0.12, "autoattack": 0.15}
"""Shares of the time: the teacher's share of all pre-training, and the largest shares of the other stages."""
ATTACK_STEPS = 20
"""PGD steps of the evaluation."""


@dataclass(frozen=True)
class Stage:
    """One command of a plan.

    recipe    the recipe to train; None for an evaluation
    images_s  expected images a second
    seconds   expected seconds, with start-up
    """

    name: str
    recipe: Pretrain | Finetune | None
    images_s: float
    seconds: float

    @property
    def epochs(self) -> int | None:
        return None if self.recipe is None else self.recipe.epochs


@dataclass(frozen=True)
class Plan:
    """The stages that fit in `budget` seconds, the runtime, the number of training images, and notes for the user."""

    budget: float
    runtime: Runtime
    images: int
    stages: tuple[Stage, ...]
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """The expected seconds of all stages."""
        return sum(stage.seconds for stage in self.stages)

    def stage(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)


def make_plan(
    wanted: Pretrain,
    seconds: float,
    runtime: Runtime = Runtime(),
    images: Images | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Plan:
    """Measure the speed of each stage for a few seconds, and divide the time among them.

    The stages are: a teacher, if the recipe has another recipe as its teacher; the recipe; SLF; PGD-20 on the test
    images; and AutoAttack in the time that is left. ValueError if one epoch of each does not fit.

    images  the training images, if they are loaded already
    """
    if seconds <= 0:
        raise ValueError(f"a plan is for more than 0 seconds, not {seconds:g}")
    began = time.monotonic()
    images = load_images(wanted.data, wanted.split, wanted.backbone) if images is None else images
    loading, measuring = time.monotonic() - began, min(MEASURING, seconds / 200)
    runtime, notes = faster_precision(wanted, images, runtime, measuring, tell)
    slf, teacher = slf_of(wanted), teacher_recipe(wanted)
    slf_speed = finetune_speed(wanted, slf, images, runtime, measuring)
    gradients = gradient_speed(wanted, images, runtime, measuring)
    tell(f"measured: SLF {slf_speed.images_s:,.0f} images/s, attacks {gradients:,.0f} gradients/s")
    speeds = speeds_by_steps(wanted, images, runtime, measuring)
    said = ", ".join(f"{speed.images_s:,.0f} with {steps} attack steps" for steps, speed in speeds.items() if steps)
    tell(f"measured: {wanted.name} {said or f'{speeds[0].images_s:,.0f}'} images/s")

    count, reserve = len(images), {name: share * seconds for name, share in SHARES.items()}
    slf = with_epochs(slf, epochs_in(reserve["slf"], slf_speed, count, most=slf.epochs))
    slf_stage = Stage("slf", slf, slf_speed.images_s, time_of(slf, slf_speed, count))
    # in the usual sets there are five training images for a test image; elsewhere this one estimate is off
    attacked = min(reserve["evaluation"], count / 5 * (ATTACK_STEPS + 2) / gradients)
    stages, left = [], seconds - 4 * loading - slf_stage.seconds - attacked - reserve["autoattack"]
    if teacher is not None:
        speed = pretrain_speed(teacher, images, runtime, measuring)
        tell(f"measured: {teacher.name} {speed.images_s:,.0f} images/s")
        left -= time.monotonic() - began
        stages.append(pretrain_stage("teacher", teacher, {0: speed}, count, SHARES["teacher"] * left)[0])
        left -= stages[0].seconds
    else:
        left -= time.monotonic() - began
    stage, fewer = pretrain_stage("pretrain", wanted, speeds, count, left)
    last = Stage("autoattack", None, gradients, max(0.0, reserve["autoattack"] + left - stage.seconds))
    judged = Stage("evaluation", None, gradients, attacked)
    return Plan(seconds, runtime, count, (*stages, stage, slf_stage, judged, last), (*notes, *fewer))


def teacher_recipe(wanted: Pretrain) -> Pretrain | None:
    """Return the teacher's recipe with the same images, network and seed; None if no recipe is trained first."""
    name = wanted.teacher or ""
    if not name or Path(name).exists() or name.partition("/")[0] not in RECIPES:
        return None
    return replace(recipe(name), data=wanted.data, split=wanted.split, seed=wanted.seed, backbone=wanted.backbone)  # pyright: ignore[reportReturnType]


def pretrain_stage(
    name: str, one: Pretrain, speeds: dict[int, Speed], count: int, seconds: float
) -> tuple[Stage, list[str]]:
    """Return the stage with as many epochs as fit, and notes. It has fewer attack steps if there would be few epochs.

    speeds  by the number of attack steps, the recipe's own first; 0 for a recipe without an attack
    """
    enough = min(FEW_EPOCHS, one.epochs)
    epochs = {steps: epochs_in(seconds, speed, count, most=one.epochs) for steps, speed in speeds.items()}
    steps = next((steps for steps in speeds if epochs[steps] >= enough), min(speeds))
    if epochs[steps] < 1:
        need = count / speeds[steps].images_s + speeds[steps].startup
        raise ValueError(
            f"an epoch of {one.name} takes {need:,.0f} s here, and {max(seconds, 0):,.0f} s are left for it: give more "
            "--seconds, fewer images (--data.limit), or a smaller network (--backbone.name)"
        )
    said, own = [], next(iter(speeds))
    if steps != own:
        one = replace(one, method=with_attack_steps(one.method, steps))
        said = [f"{one.name} attacks in {steps} step(s) instead of {own}, with the same total length"]
    one = with_epochs(one, epochs[steps])
    return Stage(name, one, speeds[steps].images_s, time_of(one, speeds[steps], count)), said


def epochs_in(seconds: float, speed: Speed, count: int, most: int) -> int:
    return min(most, int((seconds - speed.startup) * speed.images_s / count))


def time_of(one: Pretrain | Finetune, speed: Speed, count: int) -> float:
    return one.epochs * count / speed.images_s + speed.startup


def with_epochs(one: Any, epochs: int) -> Any:
    """Return the recipe with this number of epochs. Schedules shrink alike; a warm-up is at most a tenth."""
    if epochs < 1:
        return replace(one, epochs=1)
    ratio = epochs / one.epochs

    def shrunk(value: Any) -> Any:
        if isinstance(value, WarmupCosine):
            return replace(value, warmup=min(value.warmup, round(epochs / 10, 2)))
        if isinstance(value, StepSchedule):
            return replace(value, every=max(1, round(value.every * ratio)))
        if isinstance(value, MultiStep):
            return replace(value, at=tuple(max(1, round(at * ratio)) for at in value.at))
        if isinstance(value, Constant) or not is_dataclass(value):
            return value
        values = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
        changed = {name: new for name, old in values.items() if (new := shrunk(old)) != old}
        return replace(value, **changed) if changed else value  # pyright: ignore[reportArgumentType]

    changes = {
        name: shrunk(getattr(one, name))
        for name in ("lr", "strength", "method", "approximations")
        if hasattr(one, name)
    }
    if getattr(one, "coreset", None) is not None and hasattr(one.coreset, "warmup"):
        every = max(1, round(one.coreset.every * ratio))
        changes["coreset"] = replace(one.coreset, warmup=max(1, round(one.coreset.warmup * ratio)), every=every)
    return replace(one, epochs=epochs, **changes)


# measurements


def faster_precision(
    one: Pretrain, images: Images, runtime: Runtime, seconds: float, tell: Callable[[str], None]
) -> tuple[Runtime, list[str]]:
    """Return the runtime with the faster precision, and notes: bf16 on a CPU is timed against float32."""
    if runtime.precision != "bf16" or runtime.kind != "cpu":
        return runtime, []
    plain = replace(runtime, precision="float32")
    speeds = {each.precision: pretrain_speed(one, images, each, seconds).images_s for each in (runtime, plain)}
    best = max(speeds, key=lambda name: speeds[name])
    said = ", ".join(f"{name} {speed:,.1f} images/s" for name, speed in speeds.items())
    tell(f"measured: {said}")
    return replace(runtime, precision=best), [f"{best} is the faster precision for {one.backbone.name} here ({said})"]


def speeds_by_steps(one: Pretrain, images: Images, runtime: Runtime, seconds: float) -> dict[int, Speed]:
    """Return the speed for each number of attack steps, the recipe's own first.

    An image takes a + b · steps seconds, so the speeds for two numbers of steps are measured and give all others.
    """
    own = most_steps(one.method)
    measured = pretrain_speed(one, images, runtime, seconds)
    if own < 2:
        return {own: measured}
    single = pretrain_speed(replace(one, method=with_attack_steps(one.method, 1)), images, runtime, seconds)
    each = max(0.0, 1 / measured.images_s - 1 / single.images_s) / (own - 1)
    between = {n: Speed(1 / (1 / single.images_s + each * (n - 1)), measured.startup) for n in STEPS if 1 < n < own}
    return {own: measured, **between, 1: single}


def most_steps(method: Any) -> int:
    """Return the number of steps of a method's longest attack; 0 without attacks."""
    found = [0]
    replace_attacks(method, lambda attack: found.append(attack.steps) or attack)
    return max(found)


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
                attack(lambda x: net(x, "adv").square().sum(), x, Key(1).on(x.device)).sum().item()

            seconds_of(climb)
            taken = seconds_of(climb)
            if batch >= min(256, len(images)) or 4 * taken > seconds / 2:
                return batch * attack.steps / taken
            batch = min(4 * batch, 256, len(images))


def slf_of(one: Pretrain) -> Finetune:
    """Return the usual SLF recipe for a pre-training recipe."""
    return chosen("slf", one.name, one.data, one.data, one.backbone.image_size)
