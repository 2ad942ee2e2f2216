"""A plan fits into its time: what is shared out, what is shortened, and the commands that carry it out."""

import shlex
from dataclasses import replace

import pytest
import torch

import unshaken
from unshaken.base.schedule import StepSchedule
from unshaken.cli import run
from unshaken.commands.plan import PlanOptions, commands, table
from unshaken.compute.runtime import Runtime
from unshaken.data.images import Images
from unshaken.options import parse
from unshaken.runs import plan as planning
from unshaken.runs import speeds as measuring
from unshaken.runs.plan import Plan, Stage, make_plan, pretrain_stage, with_epochs
from unshaken.runs.speeds import speeds_by_steps
from unshaken.train.throughput import Speed

SPEEDS = {5: Speed(100.0, 1.0), 3: Speed(150.0, 1.0), 2: Speed(200.0, 1.0)}


@pytest.fixture
def measured(monkeypatch):
    """Speeds as they would be measured, so that what follows from them is known."""
    for module in (planning, measuring):
        monkeypatch.setattr(
            module, "pretrain_speed", lambda one, *_: Speed(4000.0 if one.teacher is None else 1000.0, 1.0)
        )
    monkeypatch.setattr(measuring, "finetune_speed", lambda *_: Speed(20_000.0, 1.0))
    monkeypatch.setattr(measuring, "gradient_speed", lambda *_: 10_000.0)
    return Images(torch.zeros(2000, 1, 8, 8, dtype=torch.uint8))


def test_a_plan_fills_its_time_and_no_more(measured):
    for seconds in (40, 100, 400):
        found = make_plan(unshaken.recipe("deacl/digits"), seconds, Runtime(device="cpu"), measured)
        assert [stage.name for stage in found.stages] == ["teacher", "pretrain", "slf", "evaluation", "autoattack"]
        assert 0.9 * seconds < found.seconds <= seconds
        for stage in found.stages[:3]:
            assert stage.seconds == pytest.approx(stage.epochs * 2000 / stage.images_s + 1)


def test_more_time_is_never_fewer_epochs(measured):
    wanted = unshaken.recipe("deacl/digits")
    epochs = [make_plan(wanted, s, Runtime(device="cpu"), measured).stage("pretrain").epochs for s in (30, 60, 120)]
    assert epochs == sorted(epochs)
    assert epochs[0] < epochs[-1] <= wanted.epochs


def test_a_recipe_without_a_teacher_has_one_stage_less(measured):
    found = make_plan(unshaken.recipe("simclr/digits"), 60, Runtime(device="cpu"), measured)
    assert [stage.name for stage in found.stages] == ["pretrain", "slf", "evaluation", "autoattack"]


def test_attack_steps_fall_only_where_epochs_are_few():
    acl = replace(unshaken.recipe("acl/digits"), epochs=1000)
    stage, said = pretrain_stage("pretrain", acl, SPEEDS, 100, 101.0)
    assert (stage.recipe.method.attack.steps, stage.epochs, said) == (5, 100, [])
    stage, said = pretrain_stage("pretrain", acl, SPEEDS, 1000, 101.0)  # 10 epochs with five steps, 20 with two
    assert (stage.recipe.method.attack.steps, stage.epochs) == (2, 20)
    assert stage.recipe.method.attack.rel_step_size * 2 == pytest.approx(acl.method.attack.rel_step_size * 5)
    assert "2 step(s) instead of 5" in said[0]
    level = {5: Speed(1000.0, 1.0), 3: Speed(1010.0, 1.0), 2: Speed(1060.0, 1.0)}  # alike, as on a busy machine
    stage, said = pretrain_stage("pretrain", acl, level, 10000, 181.0)  # 18 epochs with five steps, 19 with two
    assert (stage.recipe.method.attack.steps, stage.epochs, said) == (5, 18, [])


def test_what_does_not_fit_is_one_line():
    with pytest.raises(ValueError, match="an epoch of acl takes 16 s here, and 5 s are left for it: give"):
        pretrain_stage("pretrain", unshaken.recipe("acl/digits"), SPEEDS, 3000, 5.0)
    with pytest.raises(ValueError, match="more than 0 seconds"):
        make_plan(unshaken.recipe("acl/digits"), 0)


def test_time_is_a_line_in_the_steps(monkeypatch):
    """With 1 ms an image beside the attack and 1 ms a step."""
    monkeypatch.setattr(measuring, "pretrain_speed", lambda one, *_: Speed(1000 / (1 + one.method.attack.steps), 0.0))
    images = Images(torch.zeros(4, 1, 8, 8, dtype=torch.uint8))
    found = speeds_by_steps(unshaken.recipe("acl/digits"), images, Runtime(device="cpu"), 1.0)
    assert {steps: speed.images_s for steps, speed in found.items()} == pytest.approx(
        {steps: 1000 / (1 + steps) for steps in (5, 3, 2)}  # an attack of one step is too weak to be planned
    )


def test_schedules_shrink_with_the_epochs():
    dynacl = with_epochs(unshaken.recipe("dynacl/cifar10"), 100)
    assert dynacl.epochs == 100
    assert dynacl.strength == StepSchedule(1.0, 0.0, every=5)
    assert dynacl.method.acl.omega.every == 5
    assert dynacl.lr.warmup == 10
    assert with_epochs(unshaken.recipe("acl/cifar10"), 20).lr.warmup == 2
    rcs = with_epochs(unshaken.recipe("acl-rcs/cifar10"), 100).coreset
    assert (rcs.warmup, rcs.every) == (10, 2)


def test_the_commands_make_the_planned_recipes():
    wanted = replace(unshaken.recipe("deacl/digits"), batch_size=64)
    chosen = with_epochs(replace(wanted, method=planning.with_attack_steps(wanted.method, 2)), 7)
    teacher = with_epochs(planning.teacher_recipe(wanted), 5)
    slf = with_epochs(planning.slf_of(wanted), 3)
    stages = (
        Stage("teacher", teacher, 1.0, 1.0),
        Stage("pretrain", chosen, 1.0, 1.0),
        Stage("slf", slf, 1.0, 1.0),
        Stage("evaluation", None, 1.0, 1.0),
    )
    found = Plan(10.0, Runtime(device="cpu"), 100, stages, ("a note",))
    first, second, *_ = commands("deacl/digits", wanted, found)
    for line, name, recipe in ((first, "simclr/digits", teacher), (second, "deacl/digits", chosen)):
        words = shlex.split(line)
        assert words[:3] == ["unshaken", "pretrain", name]
        default = PlanOptions(unshaken.recipe(name))
        assert replace(parse(default, words[3:], "x").recipe, teacher=recipe.teacher) == recipe
    assert table(found)[-1] == "note: a note"


@pytest.mark.slow
def test_the_verb_measures_and_prints(capsys):
    assert run(["plan", "acl/digits", "--seconds", "60", "--runtime.threads", "1", "--batch-size", "32"]) == 0
    shown = capsys.readouterr()
    assert "unshaken pretrain acl/digits --batch-size 32" in shown.out
    assert "images/s" in shown.err
    assert run(["plan", "dynacl++/digits"]) == 2
    assert "made of several recipes: plan dynacl/digits first" in capsys.readouterr().err
