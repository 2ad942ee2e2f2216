"""The plan for a given time: epochs, attack steps and precision, from measured speeds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from unshaken.base.schedule import Constant, MultiStep, StepSchedule, WarmupCosine
from unshaken.compute.runtime import Runtime
from unshaken.data.images import Images
from unshaken.recipes.catalog import RECIPES, recipe
from unshaken.recipes.finetune import Finetune, chosen
from unshaken.recipes.pretrain import Pretrain
from unshaken.runs.computation import with_computation
from unshaken.runs.speeds import MEASURING, measured_speeds, pretrain_speed
from unshaken.train.attack_policy import with_attack_steps
from unshaken.train.mixture import load_training
from unshaken.train.throughput import Speed

FEW_EPOCHS = 20
"""With fewer epochs than this, the plan prefers an attack of fewer steps."""
GAIN = 1.1
"""How many times as many epochs an attack of fewer steps has to allow. Speeds are measured within seconds, perhaps on
a busy machine, and a smaller ratio can be noise."""
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
    mixture = None
    if images is None:
        images, mixture = load_training(wanted.data, wanted.split, wanted.backbone, wanted.extra)
    loading, measuring = time.monotonic() - began, min(MEASURING, seconds / 200)
    runtime, notes = with_computation(wanted, images, runtime, None if mixture is None else len(mixture), measuring)
    slf, teacher = slf_of(wanted), teacher_recipe(wanted)
    slf_speed, gradients, speeds = measured_speeds(wanted, slf, images, runtime, measuring, tell)

    count, reserve = (
        len(images if mixture is None else mixture),
        {name: share * seconds for name, share in SHARES.items()},
    )
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
    wanted = next((steps for steps in speeds if epochs[steps] >= enough), min(speeds))
    steps = next((steps for steps in speeds if GAIN * epochs[steps] >= max(1, epochs[wanted])), wanted)
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


def slf_of(one: Pretrain) -> Finetune:
    """Return the usual SLF recipe for a pre-training recipe."""
    return chosen("slf", one.name, one.data, one.data, one.backbone.image_size)
